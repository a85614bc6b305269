/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The life of a slot in the kernel's eyes and in ours:
 *
 *   free --ACCEPT or INSTALL--> open --loop_close--> closing --all requests back, CLOSE--> free
 *
 * CLOSE is sent only when no request of the slot is left in the kernel. So the index that the
 * kernel may hand out from then on has no old completions under way except CLOSE's own; that one
 * carries the old generation. */
#include "io/loop.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "io/handover.h"
#include "io/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

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
	RENEW_STEP_MS = 250,      /* how often requests are renewed, where they must be */
	RING_RETRY_MS = 5000,     /* pause after a ring could not be made */
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
	OP_INSTALL,
	OP_BELL,
	OP_RING_BELL, /* MSG_RING to another loop, whose address it carries */
	OP_COMMIT,
	OP_EXPORT,
};

static uint64_t tag(enum op op, uint8_t gen, uint64_t low)
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

static _Thread_local struct loop *loop_self;

/* ---- slots ---- */

static struct loop_ring *ring_of(struct loop *l, uint32_t slot)
{
	return &l->rings[slot / l->ring_conns];
}

static struct slot *slot_of(struct loop *l, uint32_t slot)
{
	CHECK(slot < l->slots_max);
	CHECK(loop_self == l || !loop_self);
	return &l->slots[slot];
}

/* The slot as its owner may use it. */
static struct slot *slot_open(struct loop *l, uint32_t slot)
{
	struct slot *s = slot_of(l, slot);

	CHECK(s->flags & SLOT_OPEN);
	CHECK(!(s->flags & SLOT_CLOSING));
	return s;
}

static struct io_uring_sqe *slot_sqe(struct loop *l, uint32_t slot, uint8_t uring_op, enum op op)
{
	struct io_uring_sqe *sqe =
		ring_sqe(&ring_of(l, slot)->r, uring_op, tag(op, l->slots[slot].gen, slot));

	ring_use(sqe, slot % l->ring_conns);
	return sqe;
}

/* By user_data: cancelling by descriptor walks every request of the ring. The SQE runs before any
 * later one, so it cannot meet a newer request with the same tag. */
static void cancel(struct ring *r, uint64_t user_data)
{
	struct io_uring_sqe *sqe = ring_sqe(r, IORING_OP_ASYNC_CANCEL, tag(OP_QUIET, 0, 0));

	sqe->fd = -1;
	sqe->addr = user_data;
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
}

static void slot_cancel(struct loop *l, uint32_t slot, enum op op)
{
	cancel(&ring_of(l, slot)->r, tag(op, l->slots[slot].gen, slot));
}

static void room_take(struct loop *l, uint32_t ring)
{
	CHECK(l->room[ring] > 0);
	CHECK(l->total_room > 0);
	l->room[ring]--;
	l->total_room--;
}

static void room_give(struct loop *l, uint32_t ring)
{
	l->room[ring]++;
	l->total_room++;
	l->accepts_changed = true;
}

static void slot_start(struct slot *s)
{
	CHECK(!(s->flags & SLOT_OPEN));
	CHECK(s->has == READ_NOTHING);
	s->flags = (s->flags & SLOT_QUEUED) | SLOT_OPEN;
	s->want = READ_NOTHING;
}

/* ---- bytes taken back ---- */

static void held_add(struct loop *l, uint32_t slot, const uint8_t *p, int n)
{
	size_t bytes = n > 0 ? (size_t)n : 0;
	struct held *h = malloc(sizeof(*h) + bytes);
	struct held **bucket = &l->held[slot % HELD_BUCKETS];

	CHECK(h); /* losing bytes of a stream silently would be worse */
	h->slot = slot;
	h->n = n;
	if (bytes)
		memcpy(h->bytes, p, bytes);
	h->next = *bucket;
	*bucket = h;
	l->slots[slot].flags |= SLOT_HELD;
}

/* The caller frees it. */
static struct held *held_take(struct loop *l, uint32_t slot)
{
	struct held **at = &l->held[slot % HELD_BUCKETS];

	while ((*at)->slot != slot)
		at = &(*at)->next;
	struct held *h = *at;
	*at = h->next;
	l->slots[slot].flags &= (uint8_t)~SLOT_HELD;
	return h;
}

/* ---- receiving ---- */

static void hungry_add(struct loop *l, uint32_t slot)
{
	struct hungry *q = &ring_of(l, slot)->hungry;
	struct slot *s = &l->slots[slot];

	METRIC_INC(RING_NOBUFS);
	s->has = READ_HUNGRY;
	if (s->flags & SLOT_QUEUED)
		return;
	s->flags |= SLOT_QUEUED;
	CHECK(q->count < l->ring_conns);
	q->slots[(q->head + q->count++) % l->ring_conns] = slot;
}

static void reading_start(struct loop *l, uint32_t slot)
{
	struct slot *s = &l->slots[slot];
	struct io_uring_sqe *sqe;

	if (s->flags & SLOT_HELD) {
		sqe = ring_sqe(&ring_of(l, slot)->r, IORING_OP_NOP, tag(OP_HELD, s->gen, slot));
		sqe->fd = -1;
		s->has = READ_HELD;
	} else if (s->want == READ_RECV) {
		sqe = slot_sqe(l, slot, IORING_OP_RECV, OP_RECV);
		sqe->flags |= IOSQE_BUFFER_SELECT; /* group 0; length 0: the buffer's */
		s->has = READ_RECV;
	} else {
		sqe = slot_sqe(l, slot, IORING_OP_POLL_ADD, OP_WATCH);
		sqe->poll32_events = POLLIN | POLLRDHUP;
		s->has = READ_WATCH;
	}
}

/* Each turn every buffer is back; more receives than buffers would only fail again. */
static void hungry_retry(struct loop *l, struct loop_ring *r)
{
	struct hungry *q = &r->hungry;

	for (uint32_t n = r->r.buffers; n > 0 && q->count > 0; q->count--) {
		uint32_t slot = q->slots[q->head];
		struct slot *s = &l->slots[slot];

		q->head = (q->head + 1) % l->ring_conns;
		s->flags &= (uint8_t)~SLOT_QUEUED;
		if (s->has != READ_HUNGRY)
			continue; /* taken back or closed meanwhile */
		reading_start(l, slot);
		n--;
	}
}

static void reading_want(struct loop *l, uint32_t slot, enum reading want)
{
	struct slot *s = slot_open(l, slot);

	CHECK(!(s->flags & SLOT_CONNECTING));
	CHECK(s->want == READ_NOTHING);
	s->want = (uint8_t)want;
	if (s->has == READ_NOTHING)
		reading_start(l, slot);
}

void loop_recv(struct loop *l, uint32_t slot)
{
	reading_want(l, slot, READ_RECV);
}

void loop_watch(struct loop *l, uint32_t slot)
{
	reading_want(l, slot, READ_WATCH);
}

static void reading_cancel(struct loop *l, uint32_t slot)
{
	struct slot *s = &l->slots[slot];

	s->want = READ_NOTHING;
	if (s->has == READ_HUNGRY)
		s->has = READ_NOTHING;
	else if (s->has == READ_RECV)
		slot_cancel(l, slot, OP_RECV);
	else if (s->has == READ_WATCH)
		slot_cancel(l, slot, OP_WATCH);
}

void loop_unwatch(struct loop *l, uint32_t slot)
{
	if (slot_open(l, slot)->want != READ_NOTHING)
		reading_cancel(l, slot);
}

static void deliver(struct loop *l, uint32_t slot, const uint8_t *p, int n)
{
	struct slot *s = &l->slots[slot];
	enum reading want = s->want;

	s->want = READ_NOTHING;
	if (want == READ_RECV) {
		l->ev.received(l->arg, slot, p, n);
		return;
	}
	held_add(l, slot, p, n);
	if (want == READ_WATCH)
		l->ev.readable(l->arg, slot);
}

static void close_when_idle(struct loop *l, uint32_t slot);

/* The request that the kernel had for this slot is back. */
static void on_read(struct loop *l, uint32_t slot, enum op op, const uint8_t *p, int res)
{
	struct slot *s = &l->slots[slot];

	s->has = READ_NOTHING;
	if (s->flags & SLOT_CLOSING) {
		close_when_idle(l, slot);
	} else if (op == OP_HELD) {
		if (s->want == READ_NOTHING)
			return;
		struct held *h = held_take(l, slot);
		deliver(l, slot, h->bytes, h->n);
		free(h);
	} else if (res == -ECANCELED || res == -EINTR || res == -EAGAIN) {
		if (s->want != READ_NOTHING)
			reading_start(l, slot);
	} else if (op == OP_WATCH) {
		/* An error is told by the receive that follows. */
		if (s->want == READ_RECV) {
			reading_start(l, slot);
		} else if (s->want == READ_WATCH) {
			s->want = READ_NOTHING;
			l->ev.readable(l->arg, slot);
		}
	} else if (res == -ENOBUFS) {
		if (s->want == READ_RECV)
			hungry_add(l, slot);
		else if (s->want == READ_WATCH)
			reading_start(l, slot);
	} else {
		deliver(l, slot, p, res);
	}
}

/* ---- sending ---- */

static void send_submit(struct loop *l, uint32_t slot)
{
	struct send *x = &l->sends[l->slots[slot].send];
	struct io_uring_sqe *sqe = slot_sqe(l, slot, IORING_OP_SEND, OP_SEND);

	sqe->addr = (uintptr_t)x->p;
	sqe->len = x->n < SEND_BYTES_MAX ? x->n : SEND_BYTES_MAX;
	sqe->msg_flags = MSG_WAITALL | MSG_NOSIGNAL;
}

void loop_send(struct loop *l, uint32_t slot, const void *p, uint32_t n)
{
	struct slot *s = slot_open(l, slot);
	uint32_t i = l->sends_free;

	CHECK(!(s->flags & (SLOT_SENDING | SLOT_CONNECTING)));
	if (i != UINT32_MAX)
		l->sends_free = l->sends[i].next_free;
	else
		i = l->sends_fresh++;
	CHECK(i < l->slots_max);
	l->sends[i] = (struct send){.p = p, .n = n};
	s->send = i;
	s->flags |= SLOT_SENDING;
	send_submit(l, slot);
}

static void on_sent(struct loop *l, uint32_t slot, int res)
{
	struct slot *s = &l->slots[slot];
	struct send *x = &l->sends[s->send];

	if (!(s->flags & SLOT_CLOSING)) {
		if (res > 0) {
			CHECK((uint32_t)res <= x->n);
			x->p += res;
			x->n -= (uint32_t)res;
		}
		if ((res > 0 && x->n > 0) || res == -EINTR || res == -EAGAIN) {
			send_submit(l, slot);
			return;
		}
		if (res == 0 && x->n > 0)
			res = -EPIPE;
	}
	x->next_free = l->sends_free;
	l->sends_free = s->send;
	s->flags &= (uint8_t)~SLOT_SENDING;
	if (s->flags & SLOT_CLOSING)
		close_when_idle(l, slot);
	else
		l->ev.sent(l->arg, slot, res < 0 ? res : 0);
}

/* ---- closing ---- */

static void close_when_idle(struct loop *l, uint32_t slot)
{
	struct slot *s = &l->slots[slot];
	struct ring *r = &ring_of(l, slot)->r;
	struct io_uring_sqe *sqe;

	if (s->has != READ_NOTHING || s->flags & (SLOT_SENDING | SLOT_CONNECTING))
		return;
	ring_reserve(r, 2);
	if (s->flags & SLOT_RESET) {
		/* SO_LINGER cannot be set on a direct descriptor before Linux 6.7; connecting to
		 * AF_UNSPEC dissolves the connection with RST and drops what was not sent. */
		static const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

		sqe = slot_sqe(l, slot, IORING_OP_CONNECT, OP_QUIET);
		sqe->addr = (uintptr_t)&nowhere;
		sqe->off = sizeof(nowhere);
		sqe->flags |= IOSQE_IO_HARDLINK | IOSQE_CQE_SKIP_SUCCESS;
	} else if (s->want != READ_LET_GO &&
		   (!ring_has(RING_PROMPT_CLOSE) ||
			   atomic_load_explicit(&l->shared, memory_order_relaxed))) {
		sqe = slot_sqe(l, slot, IORING_OP_SHUTDOWN, OP_QUIET);
		sqe->len = SHUT_RDWR;
		sqe->flags |= IOSQE_IO_HARDLINK | IOSQE_CQE_SKIP_SUCCESS;
	}
	sqe = ring_sqe(r, IORING_OP_CLOSE, tag(OP_CLOSE, s->gen, slot));
	sqe->file_index = slot % l->ring_conns + 1;
	s->flags |= SLOT_CLOSE_SENT;
	l->closes_new = true;
}

void loop_close(struct loop *l, uint32_t slot, bool reset)
{
	struct slot *s = slot_open(l, slot);

	s->flags |= SLOT_CLOSING | (reset ? SLOT_RESET : 0);
	reading_cancel(l, slot);
	if (s->flags & SLOT_HELD)
		free(held_take(l, slot));
	if (s->flags & SLOT_SENDING)
		slot_cancel(l, slot, OP_SEND);
	if (s->flags & SLOT_CONNECTING)
		slot_cancel(l, slot, OP_CONNECT);
	close_when_idle(l, slot);
}

static void slot_release(struct loop *l, uint32_t slot)
{
	struct slot *s = &l->slots[slot];

	s->flags &= SLOT_QUEUED;
	s->gen++;
	room_give(l, slot / l->ring_conns);
	l->ev.released(l->arg, slot);
}

/* Before Linux 6.13 a closed descriptor's socket, 4 KB, is kept until every request of the ring
 * that is older than the close has come back, and a parked connection's is up to an hour old. So
 * there, while sockets may be kept, each waiting request is cancelled and sent again once in
 * ring_renew_ms; on_read takes -ECANCELED of what is still wanted for exactly that. */
static void renew_some(struct loop *l)
{
	uint64_t passed = l->now_ms - l->renewed_ms;
	uint32_t slots = l->rings_open * l->ring_conns;

	if (passed < RENEW_STEP_MS && passed < ring_renew_ms)
		return;
	l->renewed_ms = l->now_ms;
	/* Not all at once after a time without. */
	if (passed > 2 * RENEW_STEP_MS)
		passed = 2 * RENEW_STEP_MS;
	if (passed > ring_renew_ms)
		passed = ring_renew_ms;
	for (uint64_t n = slots * passed / ring_renew_ms + 1; n > 0; n--) {
		if (l->renew_next >= slots) {
			l->renew_next = 0;
			l->closes_linger = l->closes_new;
			l->closes_new = false;
		}
		if (!l->closes_linger && !l->closes_new)
			return;
		uint32_t slot = l->renew_next++;
		struct slot *s = &l->slots[slot];

		if (s->want == READ_NOTHING || s->flags & SLOT_CLOSING)
			continue;
		if (s->has == READ_RECV)
			slot_cancel(l, slot, OP_RECV);
		else if (s->has == READ_WATCH)
			slot_cancel(l, slot, OP_WATCH);
	}
}

static bool must_renew(const struct loop *l)
{
	return (l->closes_linger || l->closes_new) && !ring_has(RING_PROMPT_CLOSE);
}

/* ---- hand-over ---- */

bool loop_may_export(const struct loop *l, uint32_t slot)
{
	const struct slot *s = &l->slots[slot];

	CHECK(slot < l->slots_max);
	return (s->flags & SLOT_OPEN) &&
	       !(s->flags & (SLOT_CONNECTING | SLOT_SENDING | SLOT_CLOSING | SLOT_HELD)) &&
	       (s->has == READ_NOTHING || s->has == READ_WATCH);
}

void loop_export(struct loop *l, uint32_t slot, const struct handover_escrow *e)
{
	struct ring *r = &ring_of(l, slot)->r;
	struct io_uring_sqe *sqe;

	CHECK(loop_may_export(l, slot));
	CHECK(slot % l->ring_conns < handover_escrow_places(e));
	sqe = ring_sqe(r, IORING_OP_NOP, tag(OP_EXPORT, slot_open(l, slot)->gen, slot));
	ring_prep_send_fd(sqe, handover_escrow_fd(e), slot % l->ring_conns, slot % l->ring_conns);
}

void loop_let_go(struct loop *l, uint32_t slot)
{
	struct slot *s = slot_open(l, slot);

	CHECK(loop_may_export(l, slot));
	s->flags |= SLOT_CLOSING;
	reading_cancel(l, slot);
	s->want = READ_LET_GO;
	close_when_idle(l, slot);
}

static uint32_t ring_with_room(struct loop *l);
static uint32_t first_free_index(struct loop *l, struct loop_ring *r);

/* The completions of what was sent on: those that failed give their slot back. */
static uint32_t import_reap(
	struct loop *l, struct io_uring *from, uint32_t *slots_out, uint32_t *came)
{
	struct io_uring_cqe *cqe;
	unsigned head;
	uint32_t n = 0;

	io_uring_for_each_cqe(from, head, cqe)
	{
		uint32_t *slot = &slots_out[cqe->user_data];

		n++;
		if (cqe->res >= 0) {
			(*came)++;
			continue;
		}
		l->slots[*slot].flags &= SLOT_QUEUED;
		room_give(l, *slot / l->ring_conns);
		*slot = NO_SLOT;
	}
	io_uring_cq_advance(from, n);
	return n;
}

/* The kernel puts a descriptor into a ring of ours by a task that this thread runs when it leaves
 * the kernel, so both rings are entered until everything is there. */
static bool import_settle(
	struct loop *l, struct io_uring *from, uint32_t sent, uint32_t *slots_out, uint32_t *came)
{
	struct __kernel_timespec moment = {.tv_nsec = 1000000};
	struct io_uring_cqe *cqe;
	uint32_t done = 0;

	for (unsigned tries = 0; io_uring_sq_ready(from) > 0; tries++)
		if (io_uring_submit(from) < 0 && tries == SUBMIT_TRIES)
			return false;
	for (unsigned idle = 0; done < sent;) {
		uint32_t n;

		for (uint32_t i = 0; i < l->rings_open; i++)
			io_uring_get_events(&l->rings[i].r.uring);
		n = import_reap(l, from, slots_out, came);
		done += n;
		if (n == 0 && done < sent) {
			if (++idle > SUBMIT_TRIES)
				return false;
			io_uring_wait_cqe_timeout(from, &cqe, &moment);
		}
	}
	return true;
}

uint32_t loop_import(struct loop *l, struct handover_escrow *e, const uint32_t *places,
	uint32_t *slots_out, uint32_t n)
{
	struct io_uring *from = handover_escrow_ring(e);
	uint32_t came = 0, sent = 0;

	CHECK(!l->started && !loop_self);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t ring = ring_with_room(l), index;
		struct io_uring_sqe *sqe;

		slots_out[i] = NO_SLOT;
		if (ring == UINT32_MAX || places[i] >= handover_escrow_places(e))
			continue;
		index = first_free_index(l, &l->rings[ring]);
		slots_out[i] = ring * l->ring_conns + index;
		room_take(l, ring);
		slot_start(&l->slots[slots_out[i]]);
		sqe = io_uring_get_sqe(from);
		if (!sqe) {
			if (!import_settle(l, from, sent, slots_out, &came))
				return 0;
			sent = 0;
			sqe = io_uring_get_sqe(from);
			CHECK(sqe);
		}
		memset(sqe, 0, sizeof(*sqe));
		sqe->user_data = i;
		ring_prep_send_fd(sqe, l->rings[ring].r.uring.ring_fd, places[i], index);
		sent++;
	}
	return import_settle(l, from, sent, slots_out, &came) ? came : 0;
}

void loop_set_shared(struct loop *l, bool shared)
{
	atomic_store(&l->shared, shared);
}

uint32_t loop_ring_conns(const struct loop *l)
{
	return l->ring_conns;
}

uint32_t loop_rings_open(const struct loop *l)
{
	return atomic_load(&l->rings_shown);
}

/* ---- rings ---- */

static int loop_add_ring(struct loop *l)
{
	struct loop_ring *r = &l->rings[l->rings_open];
	size_t bytes = l->ring_conns * sizeof(*r->hungry.slots);
	int err;

	/* Two or more rings cannot be waited for in one of them (polling a ring's descriptor from
	 * another ring or from epoll hangs with DEFER_TASKRUN): they share an eventfd. */
	if (l->rings_open > 0 && l->events_fd < 0) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd < 0)
			return -errno;
		err = io_uring_register_eventfd(&l->rings[0].r.uring, fd);
		if (err != 0) {
			close(fd);
			return err;
		}
		l->events_fd = fd;
	}
	err = ring_open(&r->r, &l->ring_options);
	if (err != 0)
		return err;
	if (l->events_fd >= 0)
		err = io_uring_register_eventfd(&r->r.uring, l->events_fd);
	if (err == 0) {
		r->hungry.slots = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (r->hungry.slots == MAP_FAILED)
			err = -ENOMEM;
	}
	if (err != 0) {
		ring_close(&r->r);
		return err;
	}
	r->index = l->rings_open++;
	atomic_store(&l->rings_shown, l->rings_open);
	l->room[r->index] = l->ring_conns;
	return 0;
}

/* A ring that has room; makes one when there is none. The first with room, so that connections
 * gather in few rings. UINT32_MAX: full. */
static uint32_t ring_with_room(struct loop *l)
{
	int err;

	if (l->total_room == 0)
		return UINT32_MAX;
	for (uint32_t i = 0; i < l->rings_open; i++)
		if (l->room[i] > 0)
			return i;
	if (l->rings_open == l->rings_max || l->now_ms < l->ring_retry_ms)
		return UINT32_MAX;
	err = loop_add_ring(l);
	if (err == 0)
		return l->rings_open - 1;
	l->ring_retry_ms = l->now_ms + RING_RETRY_MS;
	l->accepts_changed = true;
	log_msg(LOG_WARNING, "no ring for more than %u connections: %s",
		l->rings_open * l->ring_conns, strerror(-err));
	return UINT32_MAX;
}

/* ---- accepting ---- */

/* The ring waits for a connection only on a blocking socket; else it answers -EAGAIN. */
static void make_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0 && flags & O_NONBLOCK)
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

void loop_listen(struct loop *l, int fd)
{
	CHECK(l->listener_count < LISTENERS_MAX);
	struct listener *ln = calloc(1, sizeof(*ln));

	CHECK(ln);
	make_blocking(fd);
	ln->fd = fd;
	l->listeners[l->listener_count++] = ln;
	l->accepts_changed = true;
}

static uint64_t accept_tag(enum op op, unsigned listener, unsigned i)
{
	return tag(op, 0, (uint64_t)listener << 16 | i);
}

static void accept_cancel(struct loop *l, unsigned listener, unsigned i)
{
	struct listener *ln = l->listeners[listener];
	struct accept *a = &ln->accepts[i];

	a->cancelled = true;
	ln->armed--;
	cancel(&l->rings[a->ring].r, accept_tag(OP_ACCEPT, listener, i));
}

static void refusers_cancel(struct loop *l, unsigned listener)
{
	struct listener *ln = l->listeners[listener];

	for (unsigned i = 0; i < REFUSERS_MAX; i++)
		if (ln->refusers >> i & 1)
			cancel(&l->rings[0].r, accept_tag(OP_REFUSE, listener, i));
	ln->refusers = 0;
}

void loop_listen_stop(struct loop *l)
{
	for (unsigned k = 0; k < l->listener_count; k++) {
		struct listener *ln = l->listeners[k];

		ln->stopped = true;
		refusers_cancel(l, k);
		for (unsigned i = 0; i < ACCEPTS_MAX; i++)
			if (ln->accepts[i].armed && !ln->accepts[i].cancelled)
				accept_cancel(l, k, i);
	}
	/* The caller may close the descriptors now, and their numbers may name something else by
	 * the next turn. */
	for (uint32_t i = 0; i < l->rings_open; i++)
		ring_enter(&l->rings[i].r);
}

void loop_listen_again(struct loop *l)
{
	for (unsigned k = 0; k < l->listener_count; k++)
		l->listeners[k]->stopped = false;
	l->accepts_changed = true;
}

static void accept_arm(struct loop *l, unsigned listener, uint32_t ring)
{
	struct listener *ln = l->listeners[listener];
	unsigned i = 0;

	while (ln->accepts[i].armed)
		i++;
	CHECK(i < ACCEPTS_MAX);
	struct accept *a = &ln->accepts[i];
	struct io_uring_sqe *sqe =
		ring_sqe(&l->rings[ring].r, IORING_OP_ACCEPT, accept_tag(OP_ACCEPT, listener, i));

	*a = (struct accept){.from_bytes = sizeof(a->from), .ring = (uint16_t)ring, .armed = true};
	ln->armed++;
	room_take(l, ring);
	l->rings[ring].promised++;
	sqe->fd = ln->fd;
	sqe->addr = (uintptr_t)&a->from;
	sqe->addr2 = (uintptr_t)&a->from_bytes;
	sqe->file_index = IORING_FILE_INDEX_ALLOC;
}

/* A connection that cannot be kept is accepted with an ordinary descriptor and reset, so that the
 * peer learns it at once instead of hanging in the backlog. */
static void refusers_arm(struct loop *l, unsigned listener)
{
	struct listener *ln = l->listeners[listener];

	for (unsigned i = 0; i < REFUSERS_MAX; i++) {
		if (ln->refusers_out >> i & 1)
			continue;
		struct io_uring_sqe *sqe = ring_sqe(
			&l->rings[0].r, IORING_OP_ACCEPT, accept_tag(OP_REFUSE, listener, i));

		sqe->fd = ln->fd;
		sqe->accept_flags = SOCK_CLOEXEC;
		ln->refusers |= (uint8_t)(1u << i);
		ln->refusers_out |= (uint8_t)(1u << i);
	}
}

/* A cancelled accept keeps its entry until it is back. */
static bool accept_entry_free(const struct listener *ln)
{
	for (unsigned i = 0; i < ACCEPTS_MAX; i++)
		if (!ln->accepts[i].armed)
			return true;
	return false;
}

static bool accept_may(struct loop *l, const struct listener *ln)
{
	return !ln->stopped && ln->retry_ms <= l->now_ms;
}

/* Keeps accepts outstanding: the listener with the fewest first, so that the last free slots are
 * shared between listeners (the very last one stays with the listener that has it). No accept is
 * outstanding without a slot for its connection. */
static void accepts_refill(struct loop *l)
{
	if (!l->accepts_changed)
		return;
	l->accepts_changed = false;
	for (;;) {
		unsigned poorest = 0;
		struct listener *min = NULL;

		for (unsigned k = 0; k < l->listener_count; k++) {
			struct listener *ln = l->listeners[k];

			if (!accept_may(l, ln) || ln->armed >= ACCEPTS_MAX ||
				!accept_entry_free(ln) || (min && min->armed <= ln->armed))
				continue;
			min = ln;
			poorest = k;
		}
		uint32_t ring = min ? ring_with_room(l) : UINT32_MAX;
		if (ring == UINT32_MAX)
			break;
		accept_arm(l, poorest, ring);
	}
	for (unsigned k = 0; k < l->listener_count; k++) {
		struct listener *ln = l->listeners[k], *rich = NULL;
		unsigned richest = 0;

		if (!accept_may(l, ln))
			continue;
		if (ln->armed > 0) {
			refusers_cancel(l, k);
			continue;
		}
		for (unsigned j = 0; j < l->listener_count; j++) {
			if (l->listeners[j]->armed < 2 ||
				(rich && rich->armed >= l->listeners[j]->armed))
				continue;
			rich = l->listeners[j];
			richest = j;
		}
		if (rich) {
			/* Its slot comes here when the cancelled accept is back. */
			unsigned i = 0;

			while (!rich->accepts[i].armed || rich->accepts[i].cancelled)
				i++;
			accept_cancel(l, richest, i);
			continue;
		}
		if (l->total_room == 0)
			refusers_arm(l, k);
	}
}

static void addr_of(const struct sockaddr_in6 *sa, struct loop_addr *out)
{
	struct sockaddr_in v4;

	*out = (struct loop_addr){0};
	if (sa->sin6_family == AF_INET6) {
		memcpy(out->ip, &sa->sin6_addr, 16);
		out->port = ntohs(sa->sin6_port);
	} else if (sa->sin6_family == AF_INET) {
		memcpy(&v4, sa, sizeof(v4));
		out->ip[10] = out->ip[11] = 0xff;
		memcpy(out->ip + 12, &v4.sin_addr, 4);
		out->port = ntohs(v4.sin_port);
	}
}

/* Errors of one connection pass; errors of ours (descriptors, memory) come again at once, so they
 * wait; a descriptor that is no listening socket ends its listener. */
static void accept_failed(struct loop *l, struct listener *ln, int err)
{
	switch (err) {
	case -ECANCELED:
	case -EINTR:
	case -ECONNABORTED:
	case -EPROTO:
		break;
	case -EBADF:
	case -EINVAL:
	case -ENOTSOCK:
	case -EOPNOTSUPP:
		if (!ln->stopped)
			log_msg(LOG_ERROR, "accept: %s; this listener is given up", strerror(-err));
		ln->stopped = true;
		break;
	case -EAGAIN: /* somebody made the socket non-blocking: see loop_listen */
		make_blocking(ln->fd);
		/* fallthrough */
	default:
		if (!ln->troubled)
			log_msg(LOG_WARNING, "accept: %s; trying again", strerror(-err));
		ln->troubled = true;
		ln->retry_ms = l->now_ms + RETRY_MS;
	}
}

static void on_accept(struct loop *l, uint32_t ring, unsigned listener, unsigned i, int res)
{
	struct listener *ln = l->listeners[listener];
	struct accept *a = &ln->accepts[i];
	struct loop_addr peer;

	CHECK(a->armed && a->ring == ring);
	addr_of(&a->from, &peer);
	a->armed = false;
	l->rings[ring].promised--;
	if (!a->cancelled)
		ln->armed--;
	l->accepts_changed = true;
	if (res < 0) {
		room_give(l, ring);
		accept_failed(l, ln, res);
		return;
	}
	ln->troubled = false;
	CHECK((uint32_t)res < l->ring_conns);
	uint32_t slot = ring * l->ring_conns + (uint32_t)res;

	/* CLOSE's completion should have come first; if the kernel sees it otherwise, this is the
	 * proof that the index is free, and that completion will be stale. */
	if (l->slots[slot].flags & SLOT_CLOSE_SENT)
		slot_release(l, slot);
	slot_start(&l->slots[slot]);
	l->ev.accepted(l->arg, slot, listener, &peer);
}

static void on_refuse(struct loop *l, unsigned listener, unsigned i, int res)
{
	struct listener *ln = l->listeners[listener];

	ln->refusers &= (uint8_t) ~(1u << i);
	ln->refusers_out &= (uint8_t) ~(1u << i);
	l->accepts_changed = true;
	if (res < 0) {
		accept_failed(l, ln, res);
		return;
	}
	setsockopt(
		res, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	close(res);
	METRIC_INC(CONNS_REFUSED_FULL);
}

/* ---- connecting ---- */

/* Puts `fd` at an index that the kernel chooses: it alone knows what accepts have taken whose
 * completions are not reaped yet. FILES_UPDATE runs while it is submitted and writes the index over
 * the descriptor. */
static int install_anywhere(struct loop_ring *r, int fd)
{
	int at = fd;
	struct io_uring *u = &r->r.uring;
	struct io_uring_sqe *sqe = ring_sqe(&r->r, IORING_OP_FILES_UPDATE, tag(OP_INSTALL, 0, 0));

	sqe->fd = -1;
	sqe->addr = (uintptr_t)&at;
	sqe->len = 1;
	sqe->off = IORING_FILE_INDEX_ALLOC;
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
	ring_submit(&r->r);
	if (at != fd)
		return at;
	/* Unchanged: failed, or the index happens to equal fd. Only a failure has a completion. */
	unsigned tail = io_uring_smp_load_acquire(u->cq.ktail);
	for (unsigned i = *u->cq.khead; i != tail; i++) {
		struct io_uring_cqe *cqe = &u->cq.cqes[i & u->cq.ring_mask];

		if (cqe->user_data == tag(OP_INSTALL, 0, 0)) {
			cqe->user_data = tag(OP_QUIET, 0, 0);
			return cqe->res;
		}
	}
	return at;
}

/* As above, but not at an index whose CLOSE has run while its completion is not reaped: that slot
 * still belongs to its previous owner. Holding on to the wrong ones makes the kernel choose
 * others. */
static int install_beside_accepts(struct loop *l, struct loop_ring *r, int fd)
{
	uint32_t wrong[INSTALL_TRIES], n = 0;
	int index;

	for (;;) {
		index = install_anywhere(r, fd);
		if (index < 0 ||
			!(l->slots[r->index * l->ring_conns + (uint32_t)index].flags & SLOT_OPEN))
			break;
		if (n == INSTALL_TRIES)
			index = -ENFILE;
		else
			wrong[n++] = (uint32_t)index;
		if (index < 0)
			break;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct io_uring_sqe *sqe = ring_sqe(&r->r, IORING_OP_CLOSE, tag(OP_QUIET, 0, 0));

		sqe->file_index = wrong[i] + 1;
	}
	if (n > 0)
		ring_submit(&r->r); /* before anyone takes them for free */
	return index;
}

/* The ring has room, and no accept of it is outstanding: what is free to us is free to the kernel.
 */
static uint32_t first_free_index(struct loop *l, struct loop_ring *r)
{
	const struct slot *slots = l->slots + r->index * l->ring_conns;
	uint32_t i = r->next_index;

	CHECK(r->promised == 0);
	while (slots[i].flags & SLOT_OPEN)
		i = (i + 1) % l->ring_conns;
	r->next_index = (i + 1) % l->ring_conns;
	return i;
}

static int install_first_free(struct loop *l, struct loop_ring *r, int fd)
{
	uint32_t i = first_free_index(l, r);
	int err;

	err = io_uring_register_files_update(&r->r.uring, i, &fd, 1);
	return err < 0 ? err : (int)i;
}

/* Rather a ring where nothing is accepted. */
static uint32_t ring_for_connect(struct loop *l)
{
	for (uint32_t i = 0; i < l->rings_open && l->total_room > 0; i++)
		if (l->room[i] > 0 && l->rings[i].promised == 0)
			return i;
	return ring_with_room(l);
}

static socklen_t addr_bytes(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

uint32_t loop_connect(
	struct loop *l, const struct sockaddr_storage *to, const struct sockaddr_storage *from)
{
	const int one = 1;
	uint32_t ring = ring_for_connect(l);
	struct io_uring_sqe *sqe;
	int bind_err = 0;

	CHECK(to->ss_family == AF_INET || to->ss_family == AF_INET6);
	if (ring == UINT32_MAX)
		return NO_SLOT;
	/* An ordinary socket first: bind(2) has no operation for rings before Linux 6.11. */
	int fd = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return NO_SLOT;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (from) {
		/* The port is chosen when the whole 4-tuple is known: 64 k connections for each
		 * destination and not in all. */
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		if (bind(fd, (const struct sockaddr *)from, addr_bytes(from)) != 0)
			bind_err = errno;
	}
	struct loop_ring *r = &l->rings[ring];
	int index = r->promised ? install_beside_accepts(l, r, fd) : install_first_free(l, r, fd);

	close(fd);
	if (index < 0)
		return NO_SLOT;
	CHECK((uint32_t)index < l->ring_conns);
	uint32_t slot = ring * l->ring_conns + (uint32_t)index;

	room_take(l, ring);
	slot_start(&l->slots[slot]);
	l->slots[slot].flags |= SLOT_CONNECTING;
	if (bind_err) {
		/* Comes back in the next turn; its tag carries the error. */
		sqe = ring_sqe(&r->r, IORING_OP_NOP,
			tag(OP_CONNECT, l->slots[slot].gen, (uint64_t)bind_err << 32 | slot));
		sqe->fd = -1;
		return slot;
	}
	if (r->to_count == CONNECTS_MAX) {
		ring_submit(&r->r);
		r->to_count = 0;
	}
	memcpy(&r->to[r->to_count], to, addr_bytes(to));
	sqe = slot_sqe(l, slot, IORING_OP_CONNECT, OP_CONNECT);
	sqe->addr = (uintptr_t)&r->to[r->to_count++];
	sqe->off = addr_bytes(to);
	return slot;
}

static void on_connect(struct loop *l, uint32_t slot, int bind_err, int res)
{
	struct slot *s = &l->slots[slot];

	s->flags &= (uint8_t)~SLOT_CONNECTING;
	if (s->flags & SLOT_CLOSING)
		close_when_idle(l, slot);
	else
		l->ev.connected(l->arg, slot, bind_err ? -bind_err : res < 0 ? res : 0);
}

/* ---- messages ---- */

static void bell_write(struct loop *l)
{
	const uint64_t one = 1;

	/* Cannot fail short of a counter overflow, which nobody can reach. */
	if (write(l->bell_fd, &one, sizeof(one)) < 0)
		return;
}

/* After having published something for `l`. Both sides order their two steps with seq_cst: the
 * loop says "asleep", then looks; we publish, then ask. So either it sees what we published or
 * we see it asleep; and of several who do, one rings. */
static void bell_ring(struct loop *l)
{
	if (!atomic_load(&l->asleep) || !atomic_exchange(&l->asleep, false))
		return;
	struct loop *from = loop_self;
	_Static_assert(sizeof(uintptr_t) == 8, "an address is in the tag");
	if (!from || from == l || (uintptr_t)l >> 48) {
		bell_write(l);
		return;
	}
	/* Goes out with what this turn submits; no system call of its own. */
	struct io_uring_sqe *sqe =
		ring_sqe(&from->rings[0].r, IORING_OP_MSG_RING, tag(OP_RING_BELL, 0, (uintptr_t)l));

	sqe->fd = l->rings[0].r.uring.ring_fd;
	sqe->addr = IORING_MSG_DATA;
	sqe->off = tag(OP_QUIET, 0, 0);
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
}

void loop_post(struct loop *l, struct loop_msg *m)
{
	struct loop_msg *newest = atomic_load_explicit(&l->inbox, memory_order_relaxed);

	do
		m->next = newest;
	while (!atomic_compare_exchange_weak(&l->inbox, &newest, m));
	bell_ring(l);
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stop, true);
	/* Always: from a signal handler nothing but write(2) is safe, and it is rare. */
	bell_write(l);
}

/* With one ring the bell is heard through it; with several, by the poll(2) that waits for all. Not
 * through a ring then: an eventfd whose wake-up makes a ring signal another eventfd is a recursion
 * that the kernel defers, and 6.18 was seen to lose that signal. */
static void bell_arm(struct loop *l)
{
	if (l->bell_armed || l->events_fd >= 0)
		return;
	struct io_uring_sqe *sqe = ring_sqe(&l->rings[0].r, IORING_OP_POLL_ADD, tag(OP_BELL, 0, 0));

	sqe->fd = l->bell_fd;
	sqe->poll32_events = POLLIN;
	l->bell_armed = true;
}

static void bell_clear(struct loop *l)
{
	uint64_t count;

	/* Nothing to read is fine: heard twice. */
	if (read(l->bell_fd, &count, sizeof(count)) < 0)
		return;
}

static void inbox_drain(struct loop *l)
{
	struct loop_msg *m, *oldest = NULL;

	if (!atomic_load_explicit(&l->inbox, memory_order_relaxed))
		return;
	m = atomic_exchange(&l->inbox, NULL);
	while (m) {
		struct loop_msg *next = m->next;

		m->next = oldest;
		oldest = m;
		m = next;
	}
	while (oldest) {
		m = oldest;
		oldest = m->next;
		m->next = NULL;
		l->ev.message(l->arg, m);
	}
}

/* ---- the commit word ---- */

static long futex(const _Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* For kernels whose rings cannot wait on a futex. */
static void *commit_thread(void *arg)
{
	struct loop *l = arg;
	uint32_t seen = l->commit_seen;

	while (!atomic_load(&l->commit_thread_stop)) {
		futex(l->commit_word, FUTEX_WAIT, seen);
		uint32_t now = atomic_load(l->commit_word);

		if (now == seen)
			continue;
		seen = now;
		atomic_store(&l->commit_moved, true);
		bell_ring(l);
	}
	return NULL;
}

static void commit_thread_start(struct loop *l)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	CHECK(pthread_create(&l->commit_thread, NULL, commit_thread, l) == 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	l->commit_thread_runs = true;
}

static void commit_thread_end(struct loop *l)
{
	struct timespec soon;

	if (!l->commit_thread_runs)
		return;
	atomic_store(&l->commit_thread_stop, true);
	/* Again and again: it may have looked at the flag just before, and wait just after. */
	do {
		futex(l->commit_word, FUTEX_WAKE, INT32_MAX);
		clock_gettime(CLOCK_REALTIME, &soon);
		soon.tv_nsec += 5000000;
		if (soon.tv_nsec >= 1000000000) {
			soon.tv_nsec -= 1000000000;
			soon.tv_sec++;
		}
	} while (pthread_timedjoin_np(l->commit_thread, NULL, &soon) == ETIMEDOUT);
	l->commit_thread_runs = false;
}

static void commit_arm(struct loop *l)
{
	struct io_uring_sqe *sqe = ring_sqe(&l->rings[0].r, IORING_OP_NOP, tag(OP_COMMIT, 0, 0));

	ring_prep_futex_wait(sqe, l->commit_word, l->commit_seen);
}

/* The word is read before the upcall: what changes later is met by the next wait's -EAGAIN. */
static void on_commit(struct loop *l, int res)
{
	if (res == -EFAULT || res == -EINVAL)
		log_msg(LOG_ERROR, "waiting on the commit word: %s", strerror(-res));
	CHECK(res != -EFAULT && res != -EINVAL);
	l->commit_seen = atomic_load(l->commit_word);
	l->ev.committed(l->arg);
	commit_arm(l);
}

static void commit_start(struct loop *l)
{
	if (!l->commit_word)
		return;
	l->commit_seen = atomic_load(l->commit_word);
	/* Whatever moved before anyone waited. */
	l->ev.committed(l->arg);
	if (ring_has(RING_FUTEX))
		commit_arm(l);
	else
		commit_thread_start(l);
}

/* ---- the turn ---- */

static void complete(
	struct loop *l, struct loop_ring *r, uint64_t user_data, int res, uint32_t flags)
{
	enum op op = user_data >> 56;
	uint8_t gen = (uint8_t)(user_data >> 48);
	uint32_t slot = (uint32_t)user_data;
	const uint8_t *p = NULL;
	uint16_t buffer = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);

	switch (op) {
	case OP_QUIET:
	case OP_INSTALL:
		return;
	case OP_ACCEPT:
		on_accept(l, r->index, slot >> 16, slot & 0xffff, res);
		return;
	case OP_REFUSE:
		on_refuse(l, slot >> 16, slot & 0xffff, res);
		return;
	case OP_BELL:
		l->bell_armed = false;
		bell_clear(l);
		bell_arm(l);
		return;
	case OP_RING_BELL: /* only when it failed */
		bell_write((struct loop *)(uintptr_t)(user_data & 0xffffffffffffu));
		return;
	case OP_COMMIT:
		on_commit(l, res);
		return;
	default:
		break;
	}
	CHECK(slot < l->slots_max);
	bool stale = l->slots[slot].gen != gen;
	if (stale)
		METRIC_INC(RING_STALE);
	/* A buffer comes with errors and FIN too, and must go back in any case. */
	if (flags & IORING_CQE_F_BUFFER)
		p = ring_buffer(&r->r, buffer);
	if (!stale) {
		switch (op) {
		case OP_CONNECT:
			on_connect(l, slot, (int)(user_data >> 32 & 0xffff), res);
			break;
		case OP_RECV:
		case OP_WATCH:
		case OP_HELD:
			on_read(l, slot, op, p, res);
			break;
		case OP_SEND:
			on_sent(l, slot, res);
			break;
		case OP_CLOSE:
			CHECK(res == 0);
			slot_release(l, slot);
			break;
		case OP_EXPORT:
			if (!(l->slots[slot].flags & SLOT_CLOSING))
				l->ev.exported(l->arg, slot, res < 0 ? res : 0);
			break;
		default:
			CHECK(!"known operation");
		}
	}
	if (p)
		ring_buffer_return(&r->r, buffer);
}

/* Only what is there now: upcalls submit more, and the other rings and the tick have a turn too. */
static void reap(struct loop *l, struct loop_ring *r)
{
	struct io_uring *u = &r->r.uring;
	unsigned head = *u->cq.khead;

	for (unsigned n = io_uring_cq_ready(u); n > 0; n--) {
		struct io_uring_cqe cqe = u->cq.cqes[head++ & u->cq.ring_mask];

		/* Before the upcall, so that what it submits finds the room. */
		io_uring_smp_store_release(u->cq.khead, head);
		complete(l, r, cqe.user_data, cqe.res, cqe.flags);
	}
}

/* True when there is something to reap. */
static bool enter_all(struct loop *l)
{
	bool ready = false;

	for (uint32_t i = 0; i < l->rings_open; i++) {
		struct ring *r = &l->rings[i].r;

		if (ring_wants_enter(r))
			ring_enter(r);
		ready |= io_uring_cq_ready(&r->uring) > 0;
	}
	return ready;
}

static bool others_wait(struct loop *l)
{
	return atomic_load(&l->inbox) || atomic_load(&l->commit_moved) || atomic_load(&l->stop);
}

static bool rings_wait(struct loop *l)
{
	for (uint32_t i = 0; i < l->rings_open; i++)
		if (ring_wants_enter(&l->rings[i].r) || io_uring_cq_ready(&l->rings[i].r.uring))
			return true;
	return false;
}

static uint64_t time_left_ns(uint64_t until_ms)
{
	if (until_ms == NEVER || until_ms > UINT64_MAX / 1000000u)
		return UINT64_MAX;
	uint64_t now_ns = clock_mono_ns(), until_ns = until_ms * 1000000u;

	return until_ns > now_ns ? until_ns - now_ns : 0;
}

/* Several rings: any of them signals events_fd. It is cleared before the last look at the rings, so
 * whatever they get after that look leaves it readable. */
static void wait_for_rings(struct loop *l, uint64_t left_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(left_ns / 1000000000u),
		.tv_nsec = (long)(left_ns % 1000000000u),
	};
	uint64_t count;

	if (read(l->events_fd, &count, sizeof(count)) > 0 && rings_wait(l))
		return;
	struct pollfd fds[] = {
		{.fd = l->events_fd, .events = POLLIN},
		{.fd = l->bell_fd, .events = POLLIN},
	};

	METRIC_INC(RING_ENTERS);
	if (ppoll(fds, ARRAY_LEN(fds), left_ns == UINT64_MAX ? NULL : &ts, NULL) > 0 &&
		fds[1].revents)
		bell_clear(l);
}

static void submit_and_wait(struct loop *l, uint64_t until_ms)
{
	bool several = l->rings_open > 1;
	uint64_t left_ns;

	/* With one ring submitting and waiting are one call, unless there is no need to wait. */
	if (several ? enter_all(l) : io_uring_cq_ready(&l->rings[0].r.uring) > 0) {
		if (!several)
			enter_all(l);
		return;
	}
	left_ns = time_left_ns(until_ms);
	atomic_store(&l->asleep, left_ns > 0);
	if (left_ns == 0 || others_wait(l)) {
		atomic_store(&l->asleep, false);
		enter_all(l);
		return;
	}
	if (several)
		wait_for_rings(l, left_ns);
	else
		ring_wait(&l->rings[0].r, left_ns);
	atomic_store(&l->asleep, false);
	if (several)
		enter_all(l);
}

static uint64_t own_deadline(struct loop *l)
{
	uint64_t at = NEVER;

	for (unsigned k = 0; k < l->listener_count; k++) {
		struct listener *ln = l->listeners[k];

		if (!ln->stopped && ln->retry_ms > l->now_ms && ln->retry_ms < at)
			at = ln->retry_ms;
	}
	if (l->ring_retry_ms > l->now_ms && l->ring_retry_ms < at)
		at = l->ring_retry_ms;
	if (at != NEVER)
		l->accepts_changed = true; /* look again then */
	if (must_renew(l)) {
		uint64_t step = ring_renew_ms < RENEW_STEP_MS ? ring_renew_ms : RENEW_STEP_MS;

		at = l->renewed_ms + step < at ? l->renewed_ms + step : at;
	}
	return at;
}

static void turn(struct loop *l)
{
	uint64_t until = NEVER, own;
	bool hungry = false;

	METRIC_INC(LOOP_ITERATIONS);
	l->now_ms = clock_mono_ms();
	inbox_drain(l);
	if (atomic_load_explicit(&l->commit_moved, memory_order_relaxed) &&
		atomic_exchange(&l->commit_moved, false))
		l->ev.committed(l->arg);
	for (uint32_t i = 0; i < l->rings_open; i++) {
		struct loop_ring *r = &l->rings[i];

		reap(l, r);
		if (r->hungry.count)
			hungry_retry(l, r);
		hungry |= r->hungry.count > 0;
	}
	if (l->ev.tick)
		until = l->ev.tick(l->arg, l->now_ms);
	accepts_refill(l);
	if (must_renew(l))
		renew_some(l);
	own = own_deadline(l);
	if (own < until)
		until = own;
	/* Those retried may find nothing to read and give no completion, so do not wait for one. */
	submit_and_wait(l, hungry ? 0 : until);
}

void loop_run(struct loop *l)
{
	CHECK(!loop_self);
	loop_self = l;
	if (l->cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(l->cpu, &set);
		if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
			log_msg(LOG_WARNING, "cannot pin a loop to cpu %d", l->cpu);
	}
	l->now_ms = clock_mono_ms();
	if (!l->started) {
		l->started = true;
		bell_arm(l);
		commit_start(l);
	}
	while (!atomic_load(&l->stop))
		turn(l);
	/* Bells of other loops may still be in the queue. */
	enter_all(l);
	atomic_store(&l->stop, false);
	loop_self = NULL;
}

uint32_t loop_slots_max(const struct loop *l)
{
	return l->slots_max;
}

uint64_t loop_now_ms(const struct loop *l)
{
	return l->now_ms;
}

uint64_t loop_now_ns(const struct loop *l)
{
	(void)l;
	return clock_mono_ns();
}

/* ---- beginning and end ---- */

static uint32_t descriptor_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) != 0)
		return 1024;
	if (lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		/* Refused (some containers): the soft limit stays. */
		if (setrlimit(RLIMIT_NOFILE, &lim) != 0)
			getrlimit(RLIMIT_NOFILE, &lim);
	}
	return lim.rlim_cur > RING_CONNS_MAX ? RING_CONNS_MAX : (uint32_t)lim.rlim_cur;
}

static int uring_disabled(void)
{
	FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	char line[16];
	int v = 0;

	if (f) {
		if (fgets(line, sizeof(line), f))
			v = (int)strtol(line, NULL, 10);
		fclose(f);
	}
	return v;
}

static void explain(int err, const struct loop *l, char *why, size_t why_bytes)
{
	switch (-err) {
	case EPERM:
	case EACCES:
		if (uring_disabled())
			snprintf(why, why_bytes,
				"io_uring is switched off: set sysctl kernel.io_uring_disabled=0 "
				"(it is %d)",
				uring_disabled());
		else
			snprintf(why, why_bytes,
				"io_uring is forbidden here (EPERM): the container's seccomp "
				"profile or "
				"a security module blocks it; allow io_uring_setup, io_uring_enter "
				"and "
				"io_uring_register");
		break;
	case ENOSYS:
		snprintf(why, why_bytes,
			"io_uring is missing (ENOSYS): the kernel is built without it, or a "
			"container "
			"runtime such as Podman hides it; allow it in the seccomp profile");
		break;
	case EINVAL:
		snprintf(why, why_bytes,
			"io_uring is too old here: Linux 6.1 or newer is needed (DEFER_TASKRUN)");
		break;
	case ENOMEM:
		snprintf(why, why_bytes,
			"no memory for an io_uring of %u connections: raise the memory limit of "
			"the "
			"service or container, and RLIMIT_MEMLOCK (LimitMEMLOCK=, ulimit -l)",
			l->ring_conns);
		break;
	case EMFILE:
	case ENFILE:
		snprintf(why, why_bytes,
			"no descriptors left (%s) for %u rings: raise RLIMIT_NOFILE (LimitNOFILE=, "
			"ulimit -n)",
			strerror(-err), l->rings_max);
		break;
	default:
		snprintf(why, why_bytes, "io_uring cannot be set up: %s", strerror(-err));
	}
}

static void *map_zero(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static bool is_pow2(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

struct loop *loop_new(const struct loop_options *o, const struct loop_events *ev, void *arg,
	char *why, size_t why_bytes)
{
	uint32_t limit = descriptor_limit(), ring_conns = limit;
	struct loop *l = aligned_alloc(64, (sizeof(*l) + 63) & ~(size_t)63);
	int err = -ENOMEM;

	CHECK(o->conns_max > 0);
	CHECK(o->buffers == 0 || (is_pow2(o->buffers) && o->buffers <= BUFFERS_MAX));
	if (!l) {
		snprintf(why, why_bytes, "no memory");
		return NULL;
	}
	memset(l, 0, sizeof(*l));
	l->ev = *ev;
	l->arg = arg;
	l->total_room = o->conns_max;
	l->cpu = o->cpu;
	l->commit_word = o->commit_word;
	l->events_fd = l->bell_fd = -1;
	l->sends_free = UINT32_MAX;
	if (o->ring_conns_max && o->ring_conns_max < ring_conns)
		ring_conns = o->ring_conns_max;
	l->rings_max = (o->conns_max - 1) / ring_conns + 1;
	/* As many rings as needed, then all of one size. */
	l->ring_conns = (o->conns_max - 1) / l->rings_max + 1;
	if (l->rings_max > RINGS_MAX || l->rings_max + FDS_BESIDE_RINGS > limit) {
		snprintf(why, why_bytes,
			"RLIMIT_NOFILE is %u, too small for %u connections (%u rings): raise it "
			"(LimitNOFILE= in the unit, ulimit -n)",
			limit, o->conns_max, l->rings_max);
		loop_free(&l);
		return NULL;
	}
	l->slots_max = l->rings_max * l->ring_conns;
	l->ring_options = (struct ring_options){
		.conns = l->ring_conns,
		.buffers = o->buffers ? o->buffers : BUFFERS_DEFAULT,
		.buffer_bytes = o->buffer_bytes ? o->buffer_bytes : BUFFER_BYTES_DEFAULT,
	};
	l->rings = calloc(l->rings_max, sizeof(*l->rings));
	l->room = calloc(l->rings_max, sizeof(*l->room));
	l->slots = map_zero(l->slots_max * sizeof(*l->slots));
	l->sends = map_zero(l->slots_max * sizeof(*l->sends));
	if (!l->rings || !l->room || !l->slots || !l->sends)
		goto fail;
	l->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = l->bell_fd < 0 ? -errno : loop_add_ring(l);
	if (err != 0)
		goto fail;
	l->now_ms = clock_mono_ms();
	return l;
fail:
	explain(err, l, why, why_bytes);
	loop_free(&l);
	return NULL;
}

void loop_free(struct loop **lp)
{
	struct loop *l = *lp;

	if (!l)
		return;
	CHECK(loop_self != l);
	commit_thread_end(l);
	for (uint32_t i = 0; i < l->rings_open; i++) {
		ring_close(&l->rings[i].r);
		munmap(l->rings[i].hungry.slots, l->ring_conns * sizeof(uint32_t));
	}
	if (l->events_fd >= 0)
		close(l->events_fd);
	if (l->bell_fd >= 0)
		close(l->bell_fd);
	for (unsigned k = 0; k < l->listener_count; k++)
		free(l->listeners[k]);
	for (unsigned b = 0; b < HELD_BUCKETS; b++) {
		while (l->held[b]) {
			struct held *h = l->held[b];

			l->held[b] = h->next;
			free(h);
		}
	}
	if (l->slots)
		munmap(l->slots, l->slots_max * sizeof(*l->slots));
	if (l->sends)
		munmap(l->sends, l->slots_max * sizeof(*l->sends));
	free(l->rings);
	free(l->room);
	free(l);
	*lp = NULL;
}
