/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/shard/shard_priv.h - the inside of a shard, for the files that core/shard/shard.h names only.
 *
 * The way of a request: accepted -> (HANDSHAKE) -> HEAD -> (AUTH) -> (BODY) -> Ping: compare,
 * PARKED -> RESPOND -> IDLE; others: COMMAND on a worker -> RESPOND -> IDLE. A slot that is IDLE
 * or PARKED has no struct active: only its struct conn (and its waiter) remain.
 * Thread: everything here belongs to the shard's thread, except struct job while it is COMMAND. */
#ifndef ROOST_CORE_SHARD_PRIV_H
#define ROOST_CORE_SHARD_PRIV_H

#include "core/base/arena.h"
#include "core/base/list.h"
#include "core/upgrade/handover_state.h"
#include "core/push/deadlines.h"
#include "core/push/presence.h"
#include "core/push/waiters.h"
#include "core/shard/shard.h"
#include "core/work.h"

#include "core/access/credentials.h"
#include "io/http1.h"
#include "io/loop.h"
#include "io/tls.h"
#include "io/tlsrec.h"
#include "io/wheel.h"
#include "store/account.h"
#include "store/device.h"

#define CONN_STATES(X)                                                                             \
	X(FREE, "nobody")                                                                          \
	X(GREETED, "accepted on the TLS port; no byte yet, or waiting for a handshake place")      \
	X(HANDSHAKE, "wolfSSL has the bytes")                                                      \
	X(IDLE, "between requests")                                                                \
	X(HEAD, "reading a request head")                                                          \
	X(AUTH, "a password is being checked")                                                     \
	X(BODY, "reading a request body")                                                          \
	X(COMMAND, "a command runs on a worker")                                                   \
	X(PARKED, "hanging; a change, a deadline or bytes move it")                                \
	X(RESPOND, "an answer is on its way")                                                      \
	X(CLOSING, "waiting for the loop to hand back the slot")

enum conn_state {
#define X(name, meaning) CONN_##name,
	CONN_STATES(X)
#undef X
};

/* Who ended a connection, for its counter. */
enum conn_end {
	CONN_END_SERVER,
	CONN_END_PEER,
	CONN_END_LOST, /* the kernel: no sign of life */
	CONN_END_MOVED /* another process has it */
};

/* What stays of a connection. No request belongs to it while it is IDLE or PARKED. */
struct conn {
	struct tlsrec tls;
	uint32_t queue_prev;   /* in one of the shard's slot queues: previous slot */
	struct active *active; /* memory of a request being read or answered; NULL when not */
	uint64_t request_id;
	uint32_t queue_next; /* in one of the shard's slot queues: next slot */
	struct loop_addr peer;
	uint16_t version; /* protocol version of the hanging request, for its answer */
	uint8_t state;    /* enum conn_state */
	uint8_t flags;
	uint8_t queue; /* enum queue_id */
	uint8_t ended; /* enum conn_end */
};
_Static_assert(sizeof(struct conn) <= 208, "parked Ping budget, ARCHITECTURE.md");

enum {
	CONN_TLS_PORT = 1 << 0,
	CONN_TLS = 1 << 1, /* handshake done: the record layer is on */
	CONN_KEEP_ALIVE = 1 << 2,
	CONN_HTTP10 = 1 << 3,
	CONN_RECEIVING = 1 << 4, /* a loop_recv or loop_watch is outstanding */
	CONN_SENDING = 1 << 5,
	CONN_CLOSE = 1 << 6, /* close when everything is sent */
	CONN_MOVED = 1 << 7, /* a copy is with the process that takes over: not to be touched */
};

/* One command on a worker. */
struct job {
	struct loop_msg msg; /* back to the shard */
	struct work work;
	struct shard *shard;
	struct active *active;
	struct eas_context context;
	struct eas_request req;
	struct eas_answer answer;
	struct arena arena;
	bool gzip; /* the client takes it; set to whether it was used */
	bool gzip_body;
	uint64_t body_max;
	uint32_t mailbox, device; /* a resumed Sync: whose */
	char address[ACCOUNT_ADDRESS_MAX + 1];
	char device_id[EAS_DEVICE_ID_MAX + 1];
	char device_type[EAS_DEVICE_TYPE_MAX + 1];
	char user_agent[DEVICE_TEXT_MAX];
	char peer[64];
};

/* Memory of a request under way. Pooled: buffers keep their capacity up to a bound. */
struct active {
	struct active *next_free;
	struct shard *shard;
	struct list_link all; /* of this shard, used or free */
	uint32_t slot;        /* WAITER_NONE: its connection is gone, only the job is left */
	bool busy;            /* a password check or a command works on it */
	struct tls_hs *handshake;
	bool handshake_counted;
	struct buf in;   /* TLS records not opened yet */
	struct buf head; /* the request head; views point into it */
	struct buf more; /* plain bytes behind the head */
	size_t scanned;
	struct http1_request http;
	struct http1_body body_state;
	struct buf body;
	struct eas_query query;
	bool has_request;
	bool discard_body; /* refused already: the body is only read away */
	/* who */
	struct cred_job cred;
	struct loop_msg cred_msg;
	uint32_t mailbox;
	char address[ACCOUNT_ADDRESS_MAX + 1];
	/* answer */
	struct buf out;     /* ready to be sent */
	struct buf sending; /* with the kernel */
	struct buf reply;   /* head and body, not sealed yet */
	size_t reply_sent;
	int refuse_status; /* with discard_body */
	const char *refuse_why;
	char head_extra[320];
	uint64_t started_ms, request_bytes;
	uint64_t send_due_ms;   /* what is with the kernel must be gone by then */
	uint64_t order;         /* of a Sync: when it arrived */
	uint64_t resume_due_ms; /* of a parked Sync that runs again; else 0 */
	struct job job;
};

/* An answer to a parked request: small, so that a burst costs little memory. */
struct wake_buffer {
	struct wake_buffer *next_free;
	uint64_t committed_ns; /* the change that it tells of, for the latency histogram; 0: none */
	uint32_t n;
	uint8_t data[1012];
};

/* A slot waits in one queue at most, and is taken out when it is closed: whoever is popped is in
 * the state that the queue is for. */
enum queue_id {
	QUEUE_NONE,
	QUEUE_WANT_HANDSHAKE, /* GREETED, with bytes in the socket */
	QUEUE_HANDSHAKES,     /* HANDSHAKE, with bytes to work on */
	QUEUE_WANT_ACTIVE,    /* IDLE, with bytes in the socket */
	QUEUE_WOKEN,          /* PARKED, to be answered */
};

struct slot_queue {
	uint32_t first, last; /* WAITER_NONE: empty */
	uint32_t count;
	enum queue_id id;
};

enum {
	WAKE_BUFFERS = 1024, /* answers to parked requests in flight per shard */
	/* Of each turn for handshakes: what the rings have waits that long. Wakes do not, since the
	 * commit word is looked at between any two steps. */
	HANDSHAKE_SLICE_US = 1000,
	BUFFER_KEEP_BYTES = 16384,
	ACTIVE_KEEP = 8, /* and what was in use lately: the rest goes back */
	ACTIVE_TRIM_MS = 2000,
	HEAD_ROOM_BYTES = 4096, /* more than phones' heads need */
	SEND_CHUNK_BYTES = 65536,
	STASH_BYTES_MAX = 65536, /* pipelined bytes kept behind a hanging request */
	GUARD_SLOTS = 1024,
	NO_MEMORY_SAID_MS = 60000,
};

/* Why a parked request ended. */
enum wake_reason {
	WAKE_NONE,
	WAKE_CHANGE,
	WAKE_EXPIRED,
	WAKE_HIERARCHY,
	WAKE_SUPERSEDED,
	WAKE_ACCESS,
	WAKE_DRAIN,
	WAKE_RECHECK /* not an end: look again when the delay is over */
};

/* Loop guard for devices that ask for the same unknown folder again and again. */
struct guard {
	uint32_t mailbox, device;
	uint64_t hierarchy_seq;
	uint32_t count;
};

/* An upgrade as a shard goes through it (move.c). */
enum move_phase {
	MOVE_NONE,
	MOVE_COPY,     /* sockets are copied; nothing else is different */
	MOVE_QUIET,    /* nothing new is begun; what is under way ends */
	MOVE_FROZEN,   /* no wakes and no deadlines either */
	MOVE_EXPORTED, /* copies of the slots are outside; what happens next decides who has them */
	MOVE_LEFT,     /* the other process has them: only the rest is finished here */
};

enum shard_msg {
	MSG_JOB_DONE = 1,
	MSG_CRED_DONE,
	MSG_SUPERSEDE,
	MSG_DRAIN,
	MSG_POLICY,
	MSG_PARKED_ASK,
	MSG_STEP
};

struct supersede_msg {
	struct loop_msg msg;
	uint32_t mailbox, device;
	uint64_t order;
	unsigned from;
};

struct shard {
	struct server *server;
	unsigned index;
	struct loop *loop;
	struct wheel *wheel;
	struct waiters *waiters;
	struct presence_shard *presence;
	struct deadlines deadlines; /* of all waiters */
	struct conn *conns;
	uint32_t slots_max;
	uint32_t slots_end; /* no slot from here on was ever used: its memory is not mapped */
	struct listeners listeners;
	bool newcomers; /* since the listeners' keepalive was varied, see core/shard/keepalive.h */
	uint64_t vary_at_ms;
	struct active *active_free;
	struct list_link active_all;
	uint32_t active_count, active_used, active_max;
	uint32_t active_idle_least; /* free ones that nobody needed since active_trim_ms */
	uint64_t active_trim_ms;
	struct wake_buffer *wake_free; /* used before; the others begin at wake_made */
	uint32_t wake_made;
	struct wake_buffer **wake_of; /* by slot, mapped lazily: NULL or the answer being sent */
	struct wake_buffer *wake_pool;
	uint64_t no_memory_said_ms; /* not again before then */
	uint64_t wake_moved_ms;     /* when a wake buffer was last taken or given back */
	struct slot_queue want_handshake, handshakes, want_active, woken;
	uint32_t handshakes_in_flight;
	uint64_t journal_seen;
	uint64_t id_counter;
	uint64_t rng;
	uint32_t open_conns;
	struct guard guards[GUARD_SLOTS];
	bool draining, committed_pending;
	bool wakes_unsent;  /* answers were begun that the kernel has not been handed yet */
	bool journal_stuck; /* the store refused the last read of the journal */
	uint64_t drain_until_ms;
	enum move_phase phase;
	struct shard_move *move; /* whom the step is for that is not done yet */
	uint64_t move_until_ms;  /* it waits no longer than this */
	uint32_t exports_out;    /* sockets on their way to the escrow */
	uint8_t *copies;         /* by slot, enum copy of move.c; NULL: no upgrade is under way */
	uint32_t copy_next;      /* COPY looks at this slot next */
	uint32_t leave_next;     /* slots before this one are let go */
	uint32_t watch_next;     /* slots before this one are watched */
	bool leaving, watching;  /* there are others */
	/* MSG_SUPERSEDE that came while copies were outside: shards resume one after the other, and what
	 * the first ones begin anew must not be missed by the last ones. */
	struct loop_msg *supersedes_held;
	uint32_t wakes_out; /* wake buffers with the kernel */
	_Atomic uint64_t last_tick_ms;
};

/* shard.c: upcalls and messages, and small things that everybody here uses */
uint64_t shard_wall_ms(const struct shard *s);
const struct config *shard_config(const struct shard *s);
uint32_t shard_random(struct shard *s);
void queue_push(struct shard *s, struct slot_queue *q, uint32_t slot);
uint32_t queue_pop(struct shard *s, struct slot_queue *q);
void queue_remove(struct shard *s, uint32_t slot); /* from whichever it is in, if any */

/* active.c: memory of requests under way. NULL: there are as many as there may be, or no memory. */
struct active *active_take(struct shard *s, uint32_t slot, bool even_if_many);
void active_release(struct shard *s, uint32_t slot);
void active_free(struct shard *s, struct active *a); /* of a connection that is gone */
void active_destroy(struct active *a);               /* in no list */
/* Gives back what a burst left behind. */
void active_trim(struct shard *s, uint64_t now_ms);
/* The request hangs and needs nothing of this any more; what comes now is behind it. */
void active_forget_request(struct active *a);
/* The request is answered; what came behind it is the head of the next. False: nothing did. */
bool active_next_request(struct active *a);

/* conn.c: a connection, and which bytes are whose */
void conn_accepted(
	struct shard *s, uint32_t slot, enum listener_kind kind, const struct loop_addr *peer);
void conn_received(struct shard *s, uint32_t slot, const uint8_t *p, int n);
void conn_readable(struct shard *s, uint32_t slot);
void conn_released(struct shard *s, uint32_t slot);
void conn_timer(struct shard *s, uint32_t slot);
/* Handshake steps and slots that wait for memory; true when work is left. */
bool conn_background(struct shard *s);
void conn_receive(struct shard *s, uint32_t slot);
void conn_watch(struct shard *s, uint32_t slot);
void conn_deadline(struct shard *s, uint32_t slot, int64_t seconds);
/* TLS stands: what comes now is the first request. */
void conn_secured(struct shard *s, uint32_t slot);
/* After an answer: next request, or idle, or close. */
void conn_next(struct shard *s, uint32_t slot);
void conn_close(struct shard *s, uint32_t slot, bool reset);
/* The same. err: what a receive or send said; 0 is the peer's FIN. */
void conn_gone(struct shard *s, uint32_t slot, int err);
/* The same, for want of memory: counted, and said in the log once a minute. */
void conn_no_memory(struct shard *s, uint32_t slot);
void conn_address(const struct loop_addr *a, char out[64]);

/* conn_send.c: bytes out */
void conn_sent(struct shard *s, uint32_t slot, int err);
/* Hands what is ready to the loop, unless it sends already. */
void conn_flush(struct shard *s, uint32_t slot);
/* Starts sending a->reply (an HTTP head and body in plain), then goes on or closes. */
void conn_reply(struct shard *s, uint32_t slot);
/* Bytes that go out now, in plain (100 Continue). */
void conn_say(struct shard *s, uint32_t slot, const char *text, size_t n);
/* Sends one small answer to a parked slot, without a struct active. False: no buffer free. */
bool conn_send_small(struct shard *s, uint32_t slot, const void *plain, size_t n);
void conn_return_wake_buffer(struct shard *s, uint32_t slot); /* that of the slot, if any */
/* A buffer of the pool is free. */
static inline bool conn_can_send_small(const struct shard *s)
{
	return s->wake_free || s->wake_made < WAKE_BUFFERS;
}

/* handshake.c */
/* False: no place or no memory now. */
bool handshake_begin(struct shard *s, uint32_t slot);
/* Steps of those that have bytes, for a slice of time; wakes go first. */
void handshakes_work(struct shard *s);

/* request.c: one request */
void request_start(struct shard *s, uint32_t slot); /* the head is complete */
void request_body(struct shard *s, uint32_t slot);  /* some of the body is there, or none is due */
void request_cred_done(struct shard *s, struct active *a);
static inline bool request_has_body(const struct active *a)
{
	return a->http.chunked || a->http.content_length > 0;
}

/* request_command.c: on a worker */
void request_command(struct shard *s, uint32_t slot);
void request_job_done(struct shard *s, struct job *j);
/* Runs the Sync of a parked slot again. False: no memory for it now. */
bool request_resume_sync(struct shard *s, uint32_t slot);

/* request_answer.c: answers, counted, logged and remembered for `roostctl why` */
/* A refusal or other small text with its reason in header, body and log. */
void request_text(struct shard *s, uint32_t slot, int status, const char *why, const char *extra);
void request_bad(struct shard *s, uint32_t slot, int status, const char *why); /* then close */
/* Refuses; a body that is still on its way is read away first: the phone can then use the connection
 * again (each new one costs it a handshake), and closing before the body's end would send a reset that
 * may overtake the answer, so that a phone with an old password never learns why. */
void request_refuse(struct shard *s, uint32_t slot, int status, const char *why);
void request_refuse_with(
	struct shard *s, uint32_t slot, int status, const char *why, const char *extra);
/* The same with 503 and when to come again, spread, so that those refused together do not come back
 * together. */
void request_busy(struct shard *s, uint32_t slot, const char *why);
/* Says 503 to a request that nobody has read, because no memory for it came free in time; without any
 * but a wake buffer. False: not even that. */
bool request_no_room(struct shard *s, uint32_t slot);
/* A WBXML answer, with its Status; the connection goes on. */
void request_answer(struct shard *s, uint32_t slot, int eas_status, const char *why,
	const uint8_t *doc, size_t n);
void request_status_only(struct shard *s, uint32_t slot, int eas_status, const char *why);
/* What they consist of. The head goes into a->reply, in front of a body that follows. */
extern const char request_wbxml_type[];
void request_put_head(struct shard *s, uint32_t slot, int status, const char *type,
	uint64_t content_length, bool gzip, const char *extra);
void request_count_status(int status);
void request_why(struct shard *s, uint32_t slot, int status, int eas_status, const char *why,
	const char *detail);
void request_log(struct shard *s, uint32_t slot, const char *user, const char *device,
	const char *command, int status, int eas_status, const char *why, uint64_t out_bytes,
	uint64_t started_ms);
uint64_t request_new_id(struct shard *s);

/* hanging.c: requests that hang */
void hanging_ping(struct shard *s, uint32_t slot); /* runs the whole Ping command */
void hanging_sync(struct shard *s, uint32_t slot, const struct eas_answer *answer);

/* park.c: who waits, and how long */
/* The connection is PARKED from here on. False: no memory. */
bool park(struct shard *s, uint32_t slot, const struct waiter_spec *spec);
/* Parks what another process had parked. False: no memory. */
bool park_adopt(struct shard *s, uint32_t slot, const struct handover_slot *h);
/* Forgets the request: it is answered, or another process has it. */
void park_release(struct shard *s, uint32_t slot);
void park_hangup(struct shard *s, uint32_t slot); /* the client went away: forget, and count */
void park_timer(struct shard *s, uint32_t slot);  /* heartbeat or delay is over */
/* When a heartbeat that begins now ends. */
uint64_t park_heartbeat_end_ms(struct shard *s, uint64_t heartbeat_s);
/* When changes that may wait for more of their kind are looked at. */
uint64_t park_coalesced_ms(struct shard *s, const struct waiter *w);
/* Moves the end of a hanging request. */
void park_due(struct shard *s, uint32_t slot, uint64_t due_ms);
/* Looks at the request again at this time, or earlier for a send that is out. */
void park_arm(struct shard *s, uint32_t slot, uint64_t at_ms);
void park_rearm(struct shard *s, uint32_t slot); /* a send of a parked slot began or ended */
/* Ends older hanging requests of the device: on this shard (true: a newer one is here), on others. */
bool park_supersede_here(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order,
	uint64_t *newer_order_out);
void park_tell_others(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order);
void park_supersede(struct shard *s, const struct supersede_msg *m); /* another shard tells */

/* changes.c: what was committed */
void changes_read(struct shard *s); /* after a commit */
/* Looks again what the journal's rows would have told: for waiters that missed some. */
void changes_recheck(struct shard *s, uint32_t slot);

/* wake.c: ends of hanging requests */
/* The request in this slot is to end; it is answered in wake_answer. */
void wake(struct shard *s, uint32_t slot, enum wake_reason why, uint64_t seq);
void wake_answer(struct shard *s); /* those in the woken queue */
void wake_all(struct shard *s, enum wake_reason why);
enum { SYNC_HIERARCHY = 12, SYNC_12_BYTES = 12 };
extern const uint8_t sync_12[SYNC_12_BYTES]; /* a Sync's answer with that Status alone */

/* move.c: handing over to another process */
void move_step(struct shard *s, struct loop_msg *m);
void move_exported(struct shard *s, uint32_t slot, int err);
void move_end(struct shard *s);                     /* no upgrade is under way any more */
void move_released(struct shard *s, uint32_t slot); /* the slot is nobody's any more */
/* Does a slice of what is done in slices, and ends steps that are done; returns when to come again. */
uint64_t move_tick(struct shard *s, uint64_t now_ms);
static inline bool move_ticks(const struct shard *s)
{
	return s->move || s->leaving || s->watching;
}
/* Nothing may be begun on connections that wait. */
static inline bool move_holds(const struct shard *s)
{
	return s->phase == MOVE_QUIET || s->phase == MOVE_FROZEN || s->phase == MOVE_EXPORTED;
}
static inline bool move_frozen(const struct shard *s)
{
	return s->phase == MOVE_FROZEN || s->phase == MOVE_EXPORTED;
}

#endif
