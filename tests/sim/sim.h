/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/sim/sim.h - the real core and store under virtual time, with everything around them made
 * up: loop and network (simloop.c), workers (simwork.c), password checks (simcred.c), server life
 * and commits (world.c), phones (phone.c), and what must hold (oracle.c).
 *
 * One thread, one seed: the same seed gives the same run, byte for byte. Whatever could happen in
 * another order on a real machine is decided by sim_random.
 * Memory: what a run makes lives until its end (requests, wires), so that an event may name it at
 *         any time; only the server comes and goes. Errors: sim_fail, which does not return.
 * Units:  *_us is virtual microseconds; the loops' monotonic clock is the same in ms. */
#ifndef ROOST_TESTS_SIM_H
#define ROOST_TESTS_SIM_H

#include "core/shard/shard_priv.h"

#include "core/base/bytes.h"
#include "store/journal.h"
#include "store/mailbox.h"

/* ---- sim.c: chance, time, what happened ------------------------------------------------------ */

enum { MS = 1000, SECOND = 1000000 };

void sim_seed(uint64_t seed);
uint64_t sim_random(void);
uint32_t sim_below(uint32_t n);
uint64_t sim_between(uint64_t lo, uint64_t hi);
bool sim_permille(unsigned p);

extern uint64_t sim_now_us;
typedef void sim_fn(void *arg, uint64_t n);
/* Runs fn(arg, n) at that time; what falls on the same microsecond runs in an order of chance. */
void sim_at(uint64_t at_us, sim_fn *fn, void *arg, uint64_t n);
/* Goes on to the next event; false when there is none up to until_us (time is then until_us). */
bool sim_step(uint64_t until_us);
void sim_clear(void); /* forgets all events */

struct phone;
struct box;
/* Notes for the case of a failure; what is a literal with at most three numbers. */
void sim_note(const struct phone *p, const struct box *b, const char *what, uint64_t x, uint64_t y,
	uint64_t z);
void sim_fail(const struct phone *p, const struct box *b, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 3, 4)));
extern bool sim_verbose;
/* Of all notes since sim_clear, and of the chance that is left: once, at the end of a run. */
uint64_t sim_digest(void);

/* ---- the network: simloop.c -------------------------------------------------------------------
 */

enum { WIRE_QUIET, WIRE_RECV, WIRE_WATCH };

/* A process' descriptor of the server's end. */
struct hold {
	struct loop *loop; /* NULL: none */
	uint32_t slot;
	uint8_t op;
	bool ready;
};

/* One TCP connection, both ends. */
struct wire {
	struct wire *next; /* all of the run */
	struct phone *phone;
	unsigned shard;
	uint64_t number;
	/* the server's end */
	struct hold own;   /* of the process that may use it: from accept to released */
	struct hold other; /* in an upgrade: of the one that will, or did */
	struct wire *queue_next;
	struct buf in;          /* arrived, not read */
	uint64_t arrived, read; /* bytes of the client's stream */
	bool fin_arrived, rst_arrived;
	bool server_closed;
	bool sending, stuck;
	const uint8_t *send_p;
	uint32_t send_n;
	uint64_t send_hash, send_number, sent_us;
	/* the client's end */
	uint64_t put; /* bytes the client has written */
	uint64_t last_put_us, last_got_us;
	bool client_closed; /* it sent FIN or RST */
	bool vanished;      /* it is gone and nobody tells */
	uint64_t left_us;   /* when it closed it or vanished; 0: not yet */
	struct buf got;     /* answers as they reach the phone */
	bool dead;          /* the phone knows that it is over */
	/* TLS: records that wait for the end of the handshake, raw bytes both ways, and how many
	 * records there were: sealed by the phone, got by it, said by the server */
	bool tls, shaken;
	struct buf pending, got_raw, said_raw;
	uint32_t put_records, got_records, said_records;
	/* requests on it, oldest first; the first is the one being answered */
	struct request *first, *last; /* not answered by the server yet */
	struct request *read_first;   /* not read by the phone yet */
	struct buf said;              /* answer bytes that the oracle has not parsed yet */
	bool close_announced;
};

struct wire *wire_open(struct phone *p, unsigned shard);
void wire_put(struct wire *w, const void *p, size_t n);
void wire_close(struct wire *w, bool reset); /* by the phone */
void wire_vanish(struct wire *w);
void wires_cut(void); /* all */
void wires_free(void);
void wire_cut(struct wire *w); /* by the server's kernel: nobody has it open any more */
void wire_reset(void *wire, uint64_t unused);
void wire_to_phone(struct wire *w, const uint8_t *data, size_t n, bool fin, bool rst);
extern unsigned net_next_loop; /* index of the next loop_new */
extern uint64_t net_sender;    /* who posts now */
void net_run(struct loop *l);  /* what loop_run is elsewhere; returns at once */
bool net_stopped(const struct loop *l);
void net_pump(struct wire *w);
/* Gives what is on its way to this loop to `discard`; connections not accepted yet are cut. */
void net_discard(struct loop *l, void (*discard)(struct loop_msg *m));

enum greeting { GREET_COME_IN, GREET_LATER, GREET_FULL, GREET_GONE };
enum greeting net_accept(struct loop *l, struct wire *w);
void net_accept_waiting(void);

/* What a kernel may have none of for a while: receive buffers, descriptors for newcomers (they stay
 * in the queue), slots (they are refused). */
enum scarce { SCARCE_BUFFERS, SCARCE_ACCEPTS, SCARCE_SLOTS, SCARCE_MEMORY };
void net_starve(struct loop *l, enum scarce what, uint64_t until_us);

/* An upgrade: place for a loop's sockets (free() it), how often (per mille) the kernel refuses, and
 * the moment when the importing loop's holds count. */
struct handover_escrow *net_escrow_new(const struct loop *l);
extern unsigned net_export_refusals, net_import_refusals;
void net_take_over(struct loop *l);
/* Looks at the commit word and tells the loops some time later. */
void net_look_at_commits(void);
/* The worst that the network and the scheduling add, for the bounds of the oracle. */
enum {
	NOTIFY_MAX_US = 640 * MS,
	POST_MAX_US = 150 * MS,
	CRED_MAX_US = 400 * MS,
	WORK_MAX_US = 400 * MS,
	READ_MAX_US = 250 * MS, /* a request that is there, in short reads */
};

/* What the server does now takes this long: its turn ends later. */
void net_takes_time(uint64_t us);

/* ---- simtls.c ----------------------------------------------------------------------------------
 */

void simtls_hello(struct wire *w, struct buf *out);
void simtls_seal(struct wire *w, const void *p, size_t n, struct buf *out);
/* Takes whole records off `in`; what they say goes to `plain`. True: the server's flight was there,
 * the handshake is over for the phone. */
bool simtls_open(struct wire *w, struct buf *in, uint32_t *records, struct buf *plain);

/* ---- simwork.c, simcred.c ----------------------------------------------------------------------
 */

/* Forgets what was to be run, after giving it to `discard`. */
bool simwork_full(const struct work_pool *pool);
unsigned simcred_waiting(void);
void simwork_crash(struct work_pool *pool, void (*discard)(struct work *w));
void simcred_crash(const struct server *s,
	bool (*is_of)(const struct server *s, const struct cred_job *j),
	void (*discard)(struct cred_job *j));

/* ---- world.c: server, mailboxes, what really happened -------------------------------------------
 */

/* An item in a folder, as the journal told. Newest change last. */
struct row {
	uint64_t item, add_seq, seq;
	uint64_t add_us, us;
	uint32_t add_origin, origin; /* of its coming, of its newest change */
	bool live;
};

struct box_folder {
	uint32_t id;
	uint8_t type;
	bool deleted;
	struct row *rows;
	size_t n, cap;
	uint64_t touch_us;
	/* the two newest changes with different origins: enough to say whether somebody else than
	 * a given device changed something after a given number */
	uint64_t last_seq[2];
	uint32_t last_origin[2];
};

struct box {
	unsigned index;
	uint32_t mailbox;
	char address[64];
	struct box_folder *folders;
	size_t folder_count;
	uint64_t hierarchy_seq[2], hierarchy_us;
	uint32_t hierarchy_origin[2];
	uint64_t access_us; /* last change of the account */
	bool disabled;
	struct phone *phones; /* chain by box_next */
};

/* A time in which something stands still; until_us is UINT64_MAX while it lasts. */
struct span {
	uint64_t from_us, until_us;
};

struct world {
	struct server *server; /* the one that serves; never NULL, its shards may be */
	struct server *old;    /* in an upgrade: the one that has been relieved, and finishes */
	struct server *next;   /* in an upgrade: the one that takes over */
	struct db *db;
	struct writer *writer;
	struct config *config;
	char dir[128];
	uint64_t seed;
	bool up, sync_built;
	unsigned shards;
	unsigned box_count, phone_count, minutes;
	struct box *boxes;
	struct phone *phones;
	uint64_t journal_seen;
	uint64_t drain_us;       /* begin of the last drain or crash; 0: none */
	uint64_t start_slack_us; /* memory for requests is short: they may have to wait for it */
	uint64_t policy_us;      /* last time the policy changed */
	uint64_t end_us;
	struct span held;                     /* nothing new is begun */
	struct span frozen;                   /* nor is anybody woken */
	uint64_t pace_until_us, pace_from_us; /* what hangs is ended within this time */
	unsigned commits, crashes, drains, upgrades, failed_upgrades, moved, storms, stretches;
	unsigned refused, told_later;
	bool tls;
	bool low_limits;                                /* so that a storm meets them */
	uint64_t handshakes_lost_us;                    /* by places, to phones that were gone */
	unsigned hashing_max;                           /* password checks at once; 0: any */
	struct span no_memory;                          /* for requests that begin */
	uint64_t lost_conns, lost_parked, given_parked; /* with processes; to another process */
};
extern struct world world;

struct sim_options {
	unsigned devices, minutes;
};
void world_make(uint64_t seed, const struct sim_options *o);
void world_free(void);
void world_remove_store(void); /* the files; also when a run has failed */
void world_start(void);
enum greeting world_greet(struct wire *w);
void world_live(void); /* starts the actors */
void world_crash(void);
void world_look(void); /* after every event: reads the journal, tells the oracle */
/* Everybody goes home; nothing may be left. */
void world_rest(void);
void world_items_check(void);
bool world_write(db_write_fn *fn, void *arg); /* false: refused */
struct bytes world_summary(unsigned i);
struct bytes world_message(unsigned i);
struct box_folder *box_folder(struct box *b, uint32_t id);
struct box *world_box(uint32_t mailbox);
int64_t world_wall_ms(void);

/* ---- life.c ------------------------------------------------------------------------------------
 */

void life_open_store(void);
void life_tear_down(void);
void life_upgrade(void *arg, uint64_t unused);
bool life_upgrades(void); /* one is under way, or the old process has not ended yet */
void life_stretch(void *arg, uint64_t unused);
void life_blow(void *arg, uint64_t orderly); /* drain or crash */

/* ---- phone.c
 * ------------------------------------------------------------------------------------- */

enum ask { ASK_PING, ASK_FOLDER_SYNC, ASK_SYNC };
enum { REQUEST_FOLDERS_MAX = 40, PHONE_FOLDERS_MAX = 64, PHONE_PING_MAX = 32 };

struct request {
	struct request *next; /* all of the run */
	struct request *wire_next, *read_next, *phone_next, *phone_older;
	struct wire *wire;
	struct phone *phone;
	uint64_t number;
	uint8_t kind;                      /* enum ask */
	uint64_t begin_offset, end_offset; /* in the wire's stream */
	uint32_t asked_key;                /* FolderSync */
	/* Ping, hanging Sync */
	bool hangs, empty;
	bool partial;      /* Ping without folders: the server's memory has the rest */
	bool params_known; /* heartbeat and folders are what the server must go by */
	unsigned heartbeat_s;
	unsigned folder_count;
	uint32_t folders[REQUEST_FOLDERS_MAX];
	uint64_t pos[REQUEST_FOLDERS_MAX]; /* what the device knew when it was complete */
	bool known[REQUEST_FOLDERS_MAX];
	int expect; /* the only Status that is right; 0: any that has its cause */
	unsigned expect_limit;
	uint64_t hierarchy_pos; /* 0: no FolderSync was ever done */
	uint32_t device;        /* in the store, when it was complete; 0: unknown there */
	uint64_t cache_stamp;
	bool overlapped; /* another FolderSync was under way at the same time */
	uint32_t told_key;
	bool expects_continue;
	/* what became of it */
	uint64_t sent_us, complete_us, parked_us, answered_us;
	uint64_t turn_us; /* complete, and nothing before it on its wire is unanswered */
	uint64_t order;
	uint64_t end_more_us; /* it ends because all do, over this time */
	bool over;            /* answered, or nobody can answer it any more */
	bool accepted;        /* its parameters are in force */
	/* oracle: since when there is a cause to end, by cause */
	uint64_t cause_us[8];
	/* the answer for the phone */
	int http, status;
	unsigned retry_s; /* Retry-After */
	uint32_t changed[PHONE_PING_MAX];
	unsigned changed_count, limit;
	struct buf body;
};

struct phone_folder {
	uint32_t id;
	uint8_t type;
	uint32_t key; /* of Sync; 0: not primed */
	bool dirty;
};

struct phone {
	unsigned index;
	struct box *box;
	struct phone *box_next;
	char id[33];
	uint16_t version;
	bool hangs_in_sync, syncs_by_request, wants_many_folders;
	uint32_t device; /* in the store; 0: not known */
	uint32_t hierarchy_key;
	bool hierarchy_ok;
	struct phone_folder folders[PHONE_FOLDERS_MAX];
	unsigned folder_count;
	struct wire *wire;
	struct request *waits_for; /* the answer it wants now */
	struct request *open;      /* requests not over, newest first */
	struct request *newest;    /* all of them, newest first */
	uint64_t generation;       /* of its next step */
	uint64_t resting_us;       /* it does nothing before then */
	bool home;                 /* the run ends */
	unsigned heartbeat_s;
	uint64_t access_us; /* last change of this device by a tool */
	uint64_t removed_us;
	/* What the server is known to remember for an empty Ping. */
	bool cache_known, cache_any;
	unsigned cache_heartbeat_s, cache_count;
	uint32_t cache_folders[REQUEST_FOLDERS_MAX];
	uint64_t cache_touched; /* requests that may have changed it */
	/* FolderSync keys that the server must know. */
	bool keys_known;
	uint64_t stray_us;     /* a Sync that nobody waits for was there */
	uint64_t sync_dark_us; /* a Sync that nobody waits for runs until then, or ran */
	/* A 503 told it to come back not before then; since when it was told so without an end. */
	uint64_t not_before_us, refused_us;
	/* Order numbers that its requests have got, the last ones, in the order in which they got them. */
	uint64_t orders[16];
	unsigned order_count;
	uint64_t settled_us;    /* it was answered with 200, or hung, last */
	uint64_t reset_us;      /* a FolderSync from nothing dropped what was remembered */
	uint64_t cache_dark_us; /* a Ping that nobody waits for may run until then */
	uint64_t keys_dark_us;  /* one without an answer may run until then */
	uint32_t keys[2];
};

void phone_make(struct phone *p, unsigned index, struct box *b);
void phone_begin(struct phone *p);
void phone_go_home(struct phone *p);
void phone_drops(struct phone *p);           /* a storm: its network is gone, and comes back soon */
void phone_heard(struct wire *w);            /* bytes came */
void phone_lost(struct wire *w, bool reset); /* the connection is over */
void phone_forget(struct phone *p);          /* at the end of a run */
uint32_t phone_device(const struct phone *p, struct db_txn *txn);
void requests_free(void);

/* ---- oracle.c
 * -------------------------------------------------------------------------------------- */

void oracle_begin(void);
void oracle_arrived(struct wire *w);          /* bytes reached the server's socket */
void oracle_closed_by_client(struct wire *w); /* FIN or RST reached it */
void oracle_said(struct wire *w, const uint8_t *p, size_t n);
void oracle_closed_by_server(struct wire *w);
void oracle_turn(const struct shard *s); /* its loop has finished a turn */
void oracle_asked(struct request *r);
void oracle_change(struct box *b, const struct journal_row *row);
/* Drain, policy: all hanging requests end, within this much longer than usual. */
void oracle_everybody(const char *why, uint64_t more_us);
/* This shard's connections that wait are another process' now: none may have stayed. */
void oracle_left_behind(const struct shard *s);
/* The storm of that time must be over by now: everybody is served. */
void oracle_after_storm(uint64_t began_us);
void oracle_crashed(void);
void oracle_shard(const struct shard *s, bool at_rest);
/* What the store says that the device knows. False: never synced. */
bool oracle_position(
	struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder, uint64_t *pos_out);

/* Judged so far, over all runs. */
#define PROMISES(X)                                                                                \
	X(WAKE, "an addition or touch wakes at once, a change after its delay: none is missed")    \
	X(CAUSE, "Status 2 names folders with news of others, all of them, and no other")          \
	X(ONE, "one answer per request, in order, on its connection")                              \
	X(HEARTBEAT, "Status 1 comes with the heartbeat, earlier only for a reason")               \
	X(NEWEST, "of a device's hanging requests the newest stays")                               \
	X(DURABLE, "what was acknowledged survives a crash")                                       \
	X(HIERARCHY, "Status 7 comes when others changed the folders, and only then")              \
	X(UPGRADE, "an upgrade moves every connection that waits, and no two processes use one")   \
	X(STORM, "who is refused is told when to come again, and all are served in the end")       \
	X(LEAK, "slots, memory, waiters and queues agree, and are empty at rest")
enum promise {
#define X(id, text) PROMISE_##id,
	PROMISES(X)
#undef X
		PROMISE_COUNT
};
extern uint64_t promises_kept[PROMISE_COUNT];
#define KEPT(id) (promises_kept[PROMISE_##id]++)

#endif
