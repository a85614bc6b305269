/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Connections go to another process, or come from one: io/handover.h. */
#include "io/loop_priv.h"

#include "io/handover.h"

#include <string.h>

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

	CHECK(!(slot_open(l, slot)->flags & SLOT_CONNECTING));
	CHECK(slot % l->ring_conns < handover_escrow_places(e));
	sqe = ring_sqe(r, IORING_OP_NOP, tag(OP_EXPORT, l->slots[slot].gen, slot));
	ring_prep_send_fd(sqe, handover_escrow_fd(e), slot % l->ring_conns, slot % l->ring_conns);
}

void loop_let_go(struct loop *l, uint32_t slot)
{
	struct slot *s = slot_open(l, slot);

	CHECK(loop_may_export(l, slot));
	s->flags |= SLOT_CLOSING;
	slot_reading_cancel(l, slot);
	s->want = READ_LET_GO;
	slot_close_when_idle(l, slot);
}

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
		uint32_t ring = loop_ring_with_room(l), index;
		struct io_uring_sqe *sqe;

		slots_out[i] = NO_SLOT;
		if (ring == UINT32_MAX || places[i] >= handover_escrow_places(e))
			continue;
		index = loop_first_free_index(l, &l->rings[ring]);
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

void loop_import_drop(struct loop *l, uint32_t slot)
{
	struct slot *s = slot_open(l, slot);
	const int none = -1;

	CHECK(!l->started && !loop_self && s->has == READ_NOTHING);
	/* (cannot fail: the index is there, and it takes nothing) */
	CHECK(io_uring_register_files_update(
		      &ring_of(l, slot)->r.uring, slot % l->ring_conns, &none, 1) == 1);
	s->flags &= SLOT_QUEUED;
	s->gen++;
	room_give(l, slot / l->ring_conns);
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
