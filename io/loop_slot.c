/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One connection: receive, send, close. */
#include "io/loop_priv.h"

#include "core/base/metrics.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

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
void slot_hungry_retry(struct loop *l, struct loop_ring *r)
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

void slot_reading_cancel(struct loop *l, uint32_t slot)
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
		slot_reading_cancel(l, slot);
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

/* The request that the kernel had for this slot is back. */
void slot_read(struct loop *l, uint32_t slot, enum op op, const uint8_t *p, int res)
{
	struct slot *s = &l->slots[slot];

	s->has = READ_NOTHING;
	if (s->flags & SLOT_CLOSING) {
		slot_close_when_idle(l, slot);
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

void slot_sent(struct loop *l, uint32_t slot, int res)
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
		slot_close_when_idle(l, slot);
	else
		l->ev.sent(l->arg, slot, res < 0 ? res : 0);
}

/* ---- closing ---- */

void slot_close_when_idle(struct loop *l, uint32_t slot)
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
	slot_reading_cancel(l, slot);
	if (s->flags & SLOT_HELD)
		free(held_take(l, slot));
	if (s->flags & SLOT_SENDING)
		slot_cancel(l, slot, OP_SEND);
	if (s->flags & SLOT_CONNECTING)
		slot_cancel(l, slot, OP_CONNECT);
	slot_close_when_idle(l, slot);
}

void slot_release(struct loop *l, uint32_t slot)
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
 * ring_renew_ms; slot_read takes -ECANCELED of what is still wanted for exactly that. */
void slot_renew_some(struct loop *l)
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

bool slot_must_renew(const struct loop *l)
{
	return (l->closes_linger || l->closes_new) && !ring_has(RING_PROMPT_CLOSE);
}
