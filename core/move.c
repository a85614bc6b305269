/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A shard's part in an upgrade. What is handed over is what waits: slots that are GREETED, IDLE or
 * PARKED, with nothing of theirs in flight. First nothing new is begun, so that nearly everything
 * comes to be so; then wakes stop too, and the slots are copied. Until LEAVE this shard can go on
 * with each of them as if nothing had happened, since a copied slot is not touched. */
#include "core/shard_priv.h"

#include "core/base/check.h"
#include "core/base/metrics.h"
#include "io/handover.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	QUIET_MS = 250, /* requests under way may take this long, or they stay */
	SETTLE_MS = 30, /* answers that are with the kernel */
	LOOK_MS = 2,
};

struct step_msg {
	struct loop_msg msg;
	enum shard_step step;
	struct shard_move *move;
};

void shard_step(struct shard *s, enum shard_step step, struct shard_move *m)
{
	struct step_msg *msg = calloc(1, sizeof(*msg));

	CHECK(msg);
	msg->msg.kind = MSG_STEP;
	msg->step = step;
	msg->move = m;
	loop_post(s->loop, &msg->msg);
}

static void step_done(struct shard *s)
{
	struct shard_move *m = s->move;

	s->move = NULL;
	if (m && m->done)
		m->done(m);
}

/* ---- copying out ----------------------------------------------------------------------------- */

static bool may_move(struct shard *s, uint32_t slot, const struct shard_move *m)
{
	const struct conn *c = &s->conns[slot];
	const struct waiter *w;

	if (c->state != CONN_GREETED && c->state != CONN_IDLE && c->state != CONN_PARKED)
		return false;
	if (c->active || c->flags & (CONN_SENDING | CONN_CLOSE) || c->queue == QUEUE_WOKEN ||
		(c->flags & CONN_TLS && c->tls.dead))
		return false;
	if (c->state == CONN_PARKED) {
		w = waiters_get(s->waiters, slot);
		if (w->why != WAKE_NONE && w->why != WAKE_RECHECK)
			return false;
		if (!w->folders && !w->more)
			return false;
	}
	return slot / loop_ring_conns(s->loop) < m->escrow_count && loop_may_export(s->loop, slot);
}

static uint32_t more_folders(struct shard *s, uint32_t slot, uint32_t out[PING_FOLDERS_MAX])
{
	size_t n = waiters_folders(s->waiters, slot, false, out, PING_FOLDERS_MAX), kept = 0;

	for (size_t i = 0; i < n; i++)
		if (out[i] >= 64)
			out[kept++] = out[i];
	return (uint32_t)kept;
}

static void add_slot(struct shard *s, uint32_t slot, struct buf *b)
{
	const struct conn *c = &s->conns[slot];
	struct waiter *w = waiters_get(s->waiters, slot);
	struct handover_slot h = {
		.kind = c->state == CONN_GREETED ? HANDOVER_GREETED : HANDOVER_IDLE,
		.slot = slot,
		.flags = (c->flags & CONN_TLS_PORT ? HANDOVER_TLS_PORT : 0) |
			 (c->flags & CONN_TLS ? HANDOVER_TLS : 0) |
			 (c->flags & CONN_KEEP_ALIVE ? HANDOVER_KEEP_ALIVE : 0) |
			 (c->flags & CONN_HTTP10 ? HANDOVER_HTTP10 : 0),
		.version = c->version,
		.request_id = c->request_id,
		.peer = c->peer,
	};
	uint32_t more[PING_FOLDERS_MAX];

	if (c->flags & CONN_TLS)
		h.tls = c->tls;
	if (w) {
		h.kind = w->kind == WAITER_PING ? HANDOVER_PING : HANDOVER_SYNC;
		if (w->why == WAKE_RECHECK)
			h.flags |= HANDOVER_RECHECK;
		h.heartbeat_s = w->heartbeat_s;
		h.mailbox = w->mailbox;
		h.device = w->device;
		h.folders = w->folders;
		h.since_seq = w->since_seq;
		h.order = w->order;
		h.due_ms = w->due_ms;
		h.since_wall_ms = w->since_wall_ms;
		if (w->more)
			h.more = bytes_of(more, 4 * (size_t)more_folders(s, slot, more));
	}
	handover_add(b, &h);
	sodium_memzero(&h.tls, sizeof(h.tls));
}

static void encode(struct shard *s, struct shard_move *m)
{
	struct handover_head head = {
		.shard = s->index,
		.ring_conns = loop_ring_conns(s->loop),
		.journal_seen = s->journal_seen,
		.order = presence_order(s->server->presence),
		.policy_generation = atomic_load(&s->server->policy_generation),
	};
	uint32_t more[PING_FOLDERS_MAX];
	struct buf *b = &m->state;

	m->moved = m->parked = 0;
	for (uint32_t i = 0; i < s->slots_end; i++) {
		struct waiter *w;

		if (!(s->conns[i].flags & CONN_MOVED))
			continue;
		head.count++;
		w = waiters_get(s->waiters, i);
		m->parked += w != NULL;
		if (w && w->more)
			head.more_count += more_folders(s, i, more);
	}
	if (!buf_room(b, handover_bytes(head.count, head.more_count)))
		return; /* b->failed says it */
	handover_begin(b, &head);
	for (uint32_t i = 0; i < s->slots_end; i++)
		if (s->conns[i].flags & CONN_MOVED)
			add_slot(s, i, b);
	for (uint32_t i = 0; head.more_count && i < s->slots_end; i++) {
		struct waiter *w;

		if (!(s->conns[i].flags & CONN_MOVED) || !(w = waiters_get(s->waiters, i)) ||
			!w->more)
			continue;
		for (uint32_t k = 0, n = more_folders(s, i, more); k < n; k++)
			handover_add_more(b, more[k]);
	}
	handover_end(b);
	m->moved = head.count;
	m->left = s->open_conns - head.count;
}

static void begin_export(struct shard *s)
{
	struct shard_move *m = s->move;
	uint32_t ring_conns = loop_ring_conns(s->loop);

	s->phase = MOVE_EXPORTED;
	for (uint32_t i = 0, seen = 0; i < s->slots_end && seen < s->open_conns; i++) {
		seen += s->conns[i].state != CONN_FREE;
		if (!may_move(s, i, m))
			continue;
		s->conns[i].flags |= CONN_MOVED;
		s->exports_out++;
		loop_export(s->loop, i, m->escrows[i / ring_conns]);
	}
	if (s->exports_out == 0) {
		encode(s, m);
		step_done(s);
	}
}

void move_exported(struct shard *s, uint32_t slot, int err)
{
	s->exports_out--;
	if (err) {
		s->conns[slot].flags &= (uint8_t)~CONN_MOVED;
		if (s->move) {
			s->move->failed++;
			s->move->failed_err = err;
		}
	}
	if (s->exports_out == 0 && s->phase == MOVE_EXPORTED && s->move) {
		encode(s, s->move);
		step_done(s);
	}
}

/* ---- the end of it --------------------------------------------------------------------------- */

static void resume(struct shard *s)
{
	s->phase = MOVE_NONE;
	loop_listen_again(s->loop);
	for (uint32_t i = 0; i < s->slots_end && s->open_conns; i++) {
		struct conn *c = &s->conns[i];

		c->flags &= (uint8_t)~CONN_MOVED;
		/* What became readable meanwhile was left alone. */
		if ((c->state == CONN_GREETED || c->state == CONN_IDLE ||
			    c->state == CONN_PARKED) &&
			!c->active && c->queue == QUEUE_NONE)
			conn_watch(s, i);
	}
	park_journal(s);
}

/* Requests that hang here still, which is when nothing could be handed over. */
static void end_slowly(struct shard *s, uint64_t pace_ms)
{
	uint64_t now = loop_now_ms(s->loop);

	for (uint32_t i = waiters_next_used(s->waiters, 0); i != WAITER_NONE;
		i = waiters_next_used(s->waiters, i + 1)) {
		const struct waiter *w = waiters_get(s->waiters, i);
		uint64_t due = now + (uint64_t)shard_random(s) * pace_ms / (1ull << 31);

		park_due(s, i, due < w->due_ms ? due : w->due_ms);
	}
}

static void leave(struct shard *s, const struct shard_move *m)
{
	s->phase = MOVE_LEFT;
	s->draining = true;
	s->drain_until_ms = loop_now_ms(s->loop) + m->grace_ms + m->pace_ms;
	for (uint32_t i = 0; i < s->slots_end && s->open_conns; i++) {
		struct conn *c = &s->conns[i];

		if (c->flags & CONN_MOVED) {
			c->flags &= (uint8_t)~CONN_MOVED;
			if (c->state == CONN_PARKED)
				park_release(s, i);
			wheel_cancel(s->wheel, i);
			queue_remove(s, i);
			c->state = CONN_CLOSING;
			c->ended = CONN_END_MOVED;
			loop_let_go(s->loop, i);
			continue;
		}
		if (c->state == CONN_GREETED || c->state == CONN_IDLE)
			conn_close(s, i, false);
		/* Not that of an answer whose head is on its way already. */
		else if (c->state != CONN_RESPOND)
			c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	}
	if (m->pace_ms)
		end_slowly(s, m->pace_ms);
	else
		park_end_all(s, WAKE_DRAIN);
}

void move_step(struct shard *s, struct loop_msg *lm)
{
	struct step_msg *msg = container_of(lm, struct step_msg, msg);
	struct shard_move *m = msg->move;
	enum shard_step step = msg->step;

	free(msg);
	s->move = m;
	switch (step) {
	case SHARD_QUIET:
		s->phase = MOVE_QUIET;
		s->move_until_ms = loop_now_ms(s->loop) + QUIET_MS;
		loop_listen_stop(s->loop);
		return;
	case SHARD_FREEZE:
		s->phase = MOVE_FROZEN;
		s->move_until_ms = loop_now_ms(s->loop) + SETTLE_MS;
		return;
	case SHARD_EXPORT:
		begin_export(s);
		return;
	case SHARD_RESUME:
		if (s->phase != MOVE_NONE)
			resume(s);
		break;
	case SHARD_LEAVE:
		leave(s, m);
		break;
	}
	step_done(s);
}

uint64_t move_tick(struct shard *s, uint64_t now_ms)
{
	if (s->move && s->phase != MOVE_EXPORTED) {
		if (now_ms < s->move_until_ms &&
			(s->active_used || (s->phase == MOVE_FROZEN && s->wakes_out)))
			return now_ms + LOOK_MS;
		step_done(s);
	}
	return now_ms + 1000;
}

/* ---- taking over ----------------------------------------------------------------------------- */

static bool adopt(struct shard *s, uint32_t slot, const struct handover_slot *h)
{
	struct conn *c = &s->conns[slot];
	const struct config *cfg = shard_config(s);

	CHECK(c->state == CONN_FREE && !c->active && c->queue == QUEUE_NONE);
	memset(c, 0, sizeof(*c));
	c->peer = h->peer;
	c->request_id = h->request_id;
	c->version = h->version;
	if (h->flags & HANDOVER_TLS_PORT)
		c->flags |= CONN_TLS_PORT;
	if (h->flags & HANDOVER_TLS) {
		c->flags |= CONN_TLS;
		c->tls = h->tls;
	}
	if (h->flags & HANDOVER_KEEP_ALIVE)
		c->flags |= CONN_KEEP_ALIVE;
	if (h->flags & HANDOVER_HTTP10)
		c->flags |= CONN_HTTP10;
	if (slot >= s->slots_end)
		s->slots_end = slot + 1;
	s->open_conns++;
	METRIC_INC(CONNS_ADOPTED);
	METRIC_ADD(CONNS, 1);
	switch (h->kind) {
	case HANDOVER_GREETED:
		c->state = CONN_GREETED;
		conn_deadline(s, slot, cfg->tls_handshake_timeout_s);
		break;
	case HANDOVER_IDLE:
		c->state = CONN_IDLE;
		conn_deadline(s, slot, cfg->http_keepalive_timeout_s);
		break;
	case HANDOVER_PING:
	case HANDOVER_SYNC:
		if (!park_adopt(s, slot, h))
			return false;
		break;
	}
	conn_watch(s, slot);
	return true;
}

bool shard_import(struct shard *s, struct handover_reader *r,
	struct handover_escrow *const *escrows, unsigned escrow_count, uint32_t *moved,
	uint32_t *parked, char *why, size_t why_bytes)
{
	uint32_t n = r->head.count, ring_conns = r->head.ring_conns, got = 0;
	uint32_t *places = calloc(n + 1, sizeof(*places)), *slots = calloc(n + 1, sizeof(*slots));
	struct handover_reader begin = *r;
	struct handover_slot h = {0};
	bool ok = places && slots;

	snprintf(why, why_bytes, "no memory");
	for (unsigned e = 0; ok && e < escrow_count; e++) {
		uint32_t k = 0;

		for (*r = begin; handover_next(r, &h);)
			if (h.slot / ring_conns == e)
				places[k++] = h.slot % ring_conns;
		if (loop_import(s->loop, escrows[e], places, slots, k) != k) {
			snprintf(why, why_bytes,
				"not all of %u connections of one shard could be taken: no room "
				"(core.connections_max), or no memory",
				n);
			ok = false;
			break;
		}
		k = 0;
		for (*r = begin; ok && handover_next(r, &h);) {
			if (h.slot / ring_conns != e)
				continue;
			*parked += h.kind >= HANDOVER_PING;
			ok = adopt(s, slots[k++], &h);
		}
		got += k;
	}
	sodium_memzero(&h, sizeof(h));
	if (ok && got != n) {
		snprintf(why, why_bytes, "%u connections are in no escrow", n - got);
		ok = false;
	}
	/* The rows that these waiters have not been shown. Where the waiters of several shards come
	 * together some see a few rows again, which are below their own numbers. */
	if (ok && n && begin.head.journal_seen < s->journal_seen)
		s->journal_seen = begin.head.journal_seen;
	*moved += got;
	free(places);
	free(slots);
	return ok;
}
