/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/loop_priv.h - the inside of a loop, for io/loop*.c only: loop.c (the turn, rings, beginning and
 * end), loop_slot.c (receive, send, close), loop_accept.c, loop_connect.c, loop_bell.c (messages and
 * the commit word), loop_move.c (hand-over).
 *
 * The life of a slot in the kernel's eyes and in ours:
 *
 *   free --ACCEPT or INSTALL--> open --loop_close--> closing --all requests back, CLOSE--> free
 *
 * CLOSE is sent only when no request of the slot is left in the kernel. So the index that the
 * kernel may hand out from then on has no old completions under way except CLOSE's own; that one
 * carries the old generation.
 * Thread: everything here belongs to the loop's thread, except what says otherwise. */
#ifndef ROOST_IO_LOOP_PRIV_H
#define ROOST_IO_LOOP_PRIV_H

#include "io/loop.h"

#include "core/base/check.h"
#include "io/ring.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
	LISTENERS_MAX = 16,
	ACCEPTS_MAX = 64, /* outstanding per listener */
	REFUSERS_MAX = 8, /* the same when every table is full: bounds refusals per turn */
	RINGS_MAX = 4096,
	RING_CONNS_MAX = 1 << 20,
	FDS_BESIDE_RINGS = 32, /* listeners, log, database: what a process needs besides rings */
	BUFFERS_DEFAULT = 256,
	BUFFERS_MAX = 32768,
	BUFFER_BYTES_DEFAULT = 2048,
	SEND_BYTES_MAX = 1 << 30, /* one SQE; results are int */
	RETRY_MS = 100,           /* pause after an accept error that would come again at once */
	LOOK_EVERY = 16,          /* completions between two looks at the commit word */
	RENEW_STEP_MS = 250,      /* how often requests are renewed, where they must be */
	RING_RETRY_MS = 5000,     /* pause after a ring could not be made */
	FULL_SAID_MS = 60000,     /* the log need not hear more often that all is full */
	HELD_BUCKETS = 64,
	SUBMIT_TRIES = 1000,
	CONNECTS_MAX = 64, /* per submission */
	INSTALL_TRIES = 64,
};
#define NO_SLOT UINT32_MAX
#define NEVER   UINT64_MAX

/* user_data: op 8 bits, generation 8, and 48 bits of slot, accept index or address. */
enum op {
	OP_QUIET = 1, /* nobody waits for the result */
	OP_ACCEPT,
	OP_REFUSE,
	OP_CONNECT,
	OP_RECV,
	OP_WATCH,
	OP_HELD, /* a NOP that brings the upcall for bytes we have already */
	OP_SEND,
	OP_CLOSE,
	OP_BELL,
	OP_RING_BELL, /* MSG_RING to another loop, whose address it carries */
	OP_COMMIT,
	OP_EXPORT,
	OP_DEAFEN,
};

static inline uint64_t tag(enum op op, uint8_t gen, uint64_t low)
{
	return (uint64_t)op << 56 | (uint64_t)gen << 48 | low;
}

enum slot_flag {
	SLOT_OPEN = 1,
	SLOT_CONNECTING = 2,
	SLOT_SENDING = 4,
	SLOT_CLOSING = 8,
	SLOT_RESET = 16,
	SLOT_CLOSE_SENT = 32,
	SLOT_HELD = 64,    /* received but not yet wanted: in l->held */
	SLOT_QUEUED = 128, /* in the ring's hungry queue; outlives its owner */
};

/* What the caller waits for, and what the kernel has. They differ after loop_unwatch, until the
 * cancelled request is back; a new one is sent only then, so that there is never more than one. */
enum reading {
	READ_NOTHING,
	READ_RECV,
	READ_WATCH,
	READ_HELD,
	READ_HUNGRY,
	READ_LET_GO, /* as `want` of a closing slot: no word to the peer, another process has it */
};

struct slot {
	uint32_t send; /* in l->sends, while SLOT_SENDING */
	uint8_t flags;
	uint8_t gen;
	uint8_t want; /* READ_NOTHING, READ_RECV, READ_WATCH, READ_LET_GO */
	uint8_t has;
};
_Static_assert(sizeof(struct slot) == 8, "loop's share of a parked connection, ARCHITECTURE.md");

/* Sends in flight; few at a time, so they are kept apart from the slots. */
struct send {
	const uint8_t *p;
	uint32_t n;
	uint32_t next_free;
};

/* What a taken-back receive had got already. Rare: only when bytes and loop_unwatch cross. */
struct held {
	struct held *next;
	uint32_t slot;
	int n; /* as in received() */
	uint8_t bytes[];
};

/* Slots whose receive found no buffer. Circular; a slot is in it once at most. */
struct hungry {
	uint32_t *slots;
	uint32_t head, count;
};

struct accept {
	struct sockaddr_in6 from; /* each its own: a multishot accept cannot tell the peer */
	socklen_t from_bytes;
	uint16_t ring;
	bool armed, cancelled;
};

struct listener {
	int fd;
	bool stopped;
	bool troubled;                  /* logged already */
	unsigned armed;                 /* accepts without cancelled ones, still in the kernel */
	uint8_t refusers, refusers_out; /* bits; the same without and with cancelled ones */
	uint64_t retry_ms;              /* not before */
	struct accept accepts[ACCEPTS_MAX];
};

struct loop_ring {
	struct ring r;
	uint32_t index;
	struct hungry hungry;
	uint32_t promised;   /* accepts outstanding: indexes that the kernel may have given away */
	uint32_t next_index; /* where to look for a free one */
	uint32_t to_count;   /* CONNECTs perhaps not submitted yet, which point at their address */
	struct sockaddr_in6 to[CONNECTS_MAX];
};

struct loop {
	struct loop_events ev;
	void *arg;
	uint32_t ring_conns, rings_max, slots_max;
	struct ring_options ring_options;
	struct loop_ring *rings;
	uint32_t *room; /* per ring: indexes neither used nor promised to an accept */
	uint32_t rings_open;
	uint32_t total_room; /* the same over all, bounded by conns_max */
	uint64_t ring_retry_ms;
	uint64_t full_said_ms; /* not again before then */
	struct slot *slots;
	struct send *sends;
	uint32_t sends_fresh, sends_free;
	struct held *held[HELD_BUCKETS];
	struct listener *listeners[LISTENERS_MAX];
	unsigned listener_count;
	bool accepts_changed;
	bool started;
	int events_fd; /* registered on all rings when there are several, else -1 */
	int bell_fd;
	bool bell_armed; /* in ring 0 */
	int cpu;
	uint64_t now_ms;
	uint64_t renewed_ms; /* last step of renewing */
	uint32_t renew_next; /* slot */
	bool closes_linger;  /* something was closed in this round or the one before */
	bool closes_new;     /* in this round */

	const _Atomic uint32_t *commit_word;
	uint32_t commit_seen;
	uint32_t commit_thread_seen; /* where it begins */
	bool commit_thread_runs;
	pthread_t commit_thread;

	/* Written by other threads: on a cache line of their own. */
	_Alignas(64) _Atomic(struct loop_msg *) inbox; /* newest first */
	atomic_bool asleep;       /* whoever turns it false must ring the bell */
	atomic_bool commit_moved; /* set by the helper thread */
	atomic_bool stop;
	atomic_bool commit_thread_stop;
	atomic_bool shared;           /* see loop_set_shared */
	_Atomic uint32_t rings_shown; /* rings_open, for other threads */
};

extern _Thread_local struct loop *loop_self; /* whose thread this is */
/* ---- slots ---- */

static inline struct loop_ring *ring_of(struct loop *l, uint32_t slot)
{
	return &l->rings[slot / l->ring_conns];
}

static inline struct slot *slot_of(struct loop *l, uint32_t slot)
{
	CHECK(slot < l->slots_max);
	CHECK(loop_self == l || !loop_self);
	return &l->slots[slot];
}

/* The slot as its owner may use it. */
static inline struct slot *slot_open(struct loop *l, uint32_t slot)
{
	struct slot *s = slot_of(l, slot);

	CHECK(s->flags & SLOT_OPEN);
	CHECK(!(s->flags & SLOT_CLOSING));
	return s;
}

static inline struct io_uring_sqe *slot_sqe(
	struct loop *l, uint32_t slot, uint8_t uring_op, enum op op)
{
	struct io_uring_sqe *sqe =
		ring_sqe(&ring_of(l, slot)->r, uring_op, tag(op, l->slots[slot].gen, slot));

	ring_use(sqe, slot % l->ring_conns);
	return sqe;
}

/* By user_data: cancelling by descriptor walks every request of the ring. The SQE runs before any
 * later one, so it cannot meet a newer request with the same tag. */
static inline void cancel(struct ring *r, uint64_t user_data)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_ASYNC_CANCEL, tag(OP_QUIET, 0, 0));

	sqe->fd = -1;
	sqe->addr = user_data;
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
}

static inline void slot_cancel(struct loop *l, uint32_t slot, enum op op)
{
	cancel(&ring_of(l, slot)->r, tag(op, l->slots[slot].gen, slot));
}

static inline void room_take(struct loop *l, uint32_t ring)
{
	CHECK(l->room[ring] > 0);
	CHECK(l->total_room > 0);
	l->room[ring]--;
	l->total_room--;
}

static inline void room_give(struct loop *l, uint32_t ring)
{
	l->room[ring]++;
	l->total_room++;
	l->accepts_changed = true;
}

static inline void slot_start(struct slot *s)
{
	CHECK(!(s->flags & SLOT_OPEN));
	CHECK(s->has == READ_NOTHING);
	s->flags = (s->flags & SLOT_QUEUED) | SLOT_OPEN;
	s->want = READ_NOTHING;
}
/* loop_slot.c: the operations of a slot have come back, or shall go out again */
void slot_read(struct loop *l, uint32_t slot, enum op op, const uint8_t *p, int res);
void slot_sent(struct loop *l, uint32_t slot, int res);
void slot_close_when_idle(struct loop *l, uint32_t slot);
void slot_release(struct loop *l, uint32_t slot);
void slot_reading_cancel(struct loop *l, uint32_t slot);
void slot_hungry_retry(struct loop *l, struct loop_ring *r);
bool slot_must_renew(const struct loop *l);
void slot_renew_some(struct loop *l);

/* loop_accept.c */
void accept_came(struct loop *l, uint32_t ring, unsigned listener, unsigned i, int res);
void accept_refused(struct loop *l, unsigned listener, unsigned i, int res);
void accept_refill(struct loop *l);

/* loop_connect.c */
void connect_done(struct loop *l, uint32_t slot, int bind_err, int res);
uint32_t loop_first_free_index(struct loop *l, struct loop_ring *r);

/* loop_bell.c */
void bell_arm(struct loop *l);
void bell_clear(struct loop *l);
void bell_write(struct loop *l);
void inbox_drain(struct loop *l);
bool commit_begin(struct loop *l, char *why, size_t why_bytes); /* with the loop */
void commit_start(struct loop *l);                              /* on the loop's thread */
void commit_came(struct loop *l, int res);
void commit_end(struct loop *l);

/* loop.c */
uint32_t loop_ring_with_room(struct loop *l);

#endif
