/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A shard's part in an upgrade. What is handed over is what waits: slots that are GREETED, IDLE or
 * PARKED, with nothing of theirs in flight. Their sockets are copied while everything goes on, those
 * of all connections, since a copy is harmless and most of them will wait when it counts. Then
 * nothing new is begun, so that nearly everything comes to wait; then wakes stop too, and what is
 * left to do is to copy the few sockets that came since and to write down who waits for what. Until
 * LEAVE this shard can go on with each connection as if nothing had happened, since a moved slot is
 * not touched. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/metrics.h"
#include "io/handover.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	QUIET_MS = 250, /* requests under way may take this long, or they stay */
	SETTLE_MS = 30, /* answers that are with the kernel */
	LOOK_MS = 2,
	/* Of each turn, so that wakes are not late: about a millisecond each. */
	COPY_SLICE = 1024,
	LEAVE_SLICE = 512,
	WATCH_SLICE = 512,
	LOOKS_PER_SLOT = 64, /* slots looked at for each that is worked on */
	/* The new process: sockets at a time while another one serves, and the rest after them. */
	PULL_SLICE = 512,
	PULL_REST_US = 1000,
};

/* Of a slot's connection as it is now. */
enum copy {
	COPY_NONE,
	COPY_ASKED, /* on its way to the escrow */
	COPY_THERE,
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

static void begin_copying(struct shard *s)
{
	if (!s->copies) {
		s->copies = mmap(NULL, s->slots_max, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		CHECK(s->copies != MAP_FAILED);
	}
	s->move->copied.n = 0;
	s->move->failed = 0;
	s->copy_next = 0;
}

static void copy(struct shard *s, uint32_t slot)
{
	s->copies[slot] = COPY_ASKED;
	s->exports_out++;
	loop_export(s->loop, slot, s->move->escrows[slot / loop_ring_conns(s->loop)]);
}

/* Whatever the connection does just now. True when this was the last slice. */
static bool copy_some(struct shard *s)
{
	uint32_t n = COPY_SLICE, looks = n * LOOKS_PER_SLOT;
	uint32_t end = s->move->escrow_count * loop_ring_conns(s->loop);

	if (end > s->slots_end)
		end = s->slots_end;
	for (; n && looks-- && s->copy_next < end; s->copy_next++) {
		uint8_t state = s->conns[s->copy_next].state;

		if (state == CONN_FREE || state == CONN_CLOSING ||
			s->copies[s->copy_next] != COPY_NONE)
			continue;
		copy(s, s->copy_next);
		n--;
	}
	s->move->open = s->open_conns;
	return s->copy_next >= end;
}

/* ---- writing down ---------------------------------------------------------------------------- */

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

/* The memory was made for as many as there were; should it be too small, then there is a longer pause
 * for once. */
static bool room_for_state(struct shard_move *m)
{
	if (m->memory && m->memory_used <= m->memory_room)
		return true;
	if (m->memory)
		handover_memory_wipe(&m->memory, m->memory_room);
	if (m->memory_fd >= 0)
		close(m->memory_fd);
	m->memory_room = m->memory_used;
	m->memory_fd = handover_memory_make(m->memory_room, &m->memory);
	return m->memory_fd >= 0;
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
	struct buf b; /* (never grows) */

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
	m->moved = head.count;
	m->left = s->open_conns - head.count;
	m->memory_used = handover_bytes(head.count, head.more_count);
	if (!room_for_state(m))
		return;
	b = (struct buf){.p = m->memory, .cap = m->memory_room};
	handover_begin(&b, &head);
	for (uint32_t i = 0; i < s->slots_end; i++)
		if (s->conns[i].flags & CONN_MOVED)
			add_slot(s, i, &b);
	for (uint32_t i = 0; head.more_count && i < s->slots_end; i++) {
		struct waiter *w;

		if (!(s->conns[i].flags & CONN_MOVED) || !(w = waiters_get(s->waiters, i)) ||
			!w->more)
			continue;
		for (uint32_t k = 0, n = more_folders(s, i, more); k < n; k++)
			handover_add_more(&b, more[k]);
	}
	handover_end(&b);
}

static void begin_export(struct shard *s)
{
	s->phase = MOVE_EXPORTED;
	begin_copying(s);
	for (uint32_t i = 0, seen = 0; i < s->slots_end && seen < s->open_conns; i++) {
		seen += s->conns[i].state != CONN_FREE;
		if (!may_move(s, i, s->move))
			continue;
		s->conns[i].flags |= CONN_MOVED;
		if (s->copies[i] == COPY_NONE)
			copy(s, i);
	}
	if (s->exports_out == 0) {
		encode(s, s->move);
		step_done(s);
	}
}

void move_exported(struct shard *s, uint32_t slot, int err)
{
	if (!s->copies || s->copies[slot] != COPY_ASKED)
		return;
	s->exports_out--;
	s->copies[slot] = err ? COPY_NONE : COPY_THERE;
	if (err)
		s->conns[slot].flags &= (uint8_t)~CONN_MOVED;
	if (!s->move)
		return;
	if (err) {
		s->move->failed++;
		s->move->failed_err = err;
	} else {
		buf_add(&s->move->copied, &slot, sizeof(slot));
	}
	if (s->exports_out == 0 && s->phase == MOVE_EXPORTED) {
		encode(s, s->move);
		step_done(s);
	}
}

void move_released(struct shard *s, uint32_t slot)
{
	if (!s->copies)
		return;
	/* (then it was closed before the kernel came to it, and nobody tells) */
	if (s->copies[slot] == COPY_ASKED)
		s->exports_out--;
	s->copies[slot] = COPY_NONE;
}

void move_end(struct shard *s)
{
	if (s->copies)
		munmap(s->copies, s->slots_max);
	s->copies = NULL;
	s->exports_out = 0;
	while (s->supersedes_held) {
		struct supersede_msg *m =
			container_of(s->supersedes_held, struct supersede_msg, msg);

		s->supersedes_held = m->msg.next;
		if (s->phase == MOVE_NONE) /* else another process decides who stays */
			park_supersede(s, m);
		free(m);
	}
}

/* ---- the end of it --------------------------------------------------------------------------- */

static void begin_watching(struct shard *s)
{
	s->watching = true;
	s->watch_next = 0;
}

/* A wake needs no watch, and one that comes late tells what happened before. */
static void watch_some(struct shard *s)
{
	uint32_t n = WATCH_SLICE, looks = n * LOOKS_PER_SLOT;

	for (; n && looks-- && s->watch_next < s->slots_end; s->watch_next++) {
		const struct conn *c = &s->conns[s->watch_next];

		if ((c->state != CONN_GREETED && c->state != CONN_IDLE &&
			    c->state != CONN_PARKED) ||
			c->queue != QUEUE_NONE || c->flags & (CONN_RECEIVING | CONN_MOVED))
			continue;
		/* (as where it was parked: no more than so much is kept behind it) */
		if (c->active && c->active->more.n + c->active->in.n >= STASH_BYTES_MAX)
			continue;
		conn_watch(s, s->watch_next);
		n--;
	}
	s->watching = s->watch_next < s->slots_end;
}

static void resume(struct shard *s)
{
	if (s->phase != MOVE_COPY) {
		loop_listen_again(s->loop);
		for (uint32_t i = 0; i < s->slots_end; i++)
			s->conns[i].flags &= (uint8_t)~CONN_MOVED;
		begin_watching(s); /* what became readable meanwhile was left alone */
	}
	s->phase = MOVE_NONE;
	move_end(s);
	changes_read(s);
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

static void let_go_some(struct shard *s)
{
	uint32_t n = LEAVE_SLICE, looks = n * LOOKS_PER_SLOT;

	for (; n && looks-- && s->leave_next < s->slots_end; s->leave_next++) {
		struct conn *c = &s->conns[s->leave_next];

		if (!(c->flags & CONN_MOVED))
			continue;
		c->flags &= (uint8_t)~CONN_MOVED;
		if (c->state == CONN_PARKED)
			park_release(s, s->leave_next);
		wheel_cancel(s->wheel, s->leave_next);
		c->state = CONN_CLOSING;
		c->ended = CONN_END_MOVED;
		loop_let_go(s->loop, s->leave_next);
		n--;
	}
	s->leaving = s->leave_next < s->slots_end;
}

static void leave(struct shard *s, const struct shard_move *m)
{
	s->phase = MOVE_LEFT;
	move_end(s);
	s->leaving = true;
	s->leave_next = 0;
	s->draining = true;
	s->drain_until_ms = loop_now_ms(s->loop) + m->grace_ms + m->pace_ms;
	for (uint32_t i = 0; i < s->slots_end && s->open_conns; i++) {
		struct conn *c = &s->conns[i];

		if (c->flags & CONN_MOVED) {
			queue_remove(s, i);
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
		wake_all(s, WAKE_DRAIN);
}

void move_step(struct shard *s, struct loop_msg *lm)
{
	struct step_msg *msg = container_of(lm, struct step_msg, msg);
	struct shard_move *m = msg->move;
	enum shard_step step = msg->step;

	free(msg);
	s->move = m;
	switch (step) {
	case SHARD_COPY:
		s->phase = MOVE_COPY;
		begin_copying(s);
		return;
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

static bool step_goes_on(struct shard *s, uint64_t now_ms)
{
	switch (s->phase) {
	case MOVE_COPY:
		return !copy_some(s) || s->exports_out;
	case MOVE_QUIET:
		return now_ms < s->move_until_ms && s->active_used;
	case MOVE_FROZEN:
		return now_ms < s->move_until_ms && (s->active_used || s->wakes_out);
	default:
		return true; /* move_exported ends it */
	}
}

uint64_t move_tick(struct shard *s, uint64_t now_ms)
{
	uint64_t next = now_ms + 1000;

	if (s->leaving)
		let_go_some(s);
	if (s->watching && !move_frozen(s))
		watch_some(s);
	if (s->move && s->phase != MOVE_EXPORTED) {
		if (!step_goes_on(s, now_ms))
			step_done(s);
		else if (s->phase == MOVE_COPY && s->copy_next < s->slots_end)
			next = now_ms;
		else
			next = now_ms + LOOK_MS;
	}
	return s->leaving || (s->watching && !move_frozen(s)) ? now_ms : next;
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
		return park_adopt(s, slot, h);
	}
	return true;
}

/* Memory that is touched for the first time while nobody is served would be most of the pause. */
static void prepare(struct shard *s, uint32_t slot, uint32_t count)
{
	memset(&s->conns[slot], 0, sizeof(s->conns[slot]));
	waiters_prepare(s->waiters, slot, count);
	wheel_arm(s->wheel, slot, loop_now_ms(s->loop));
	wheel_cancel(s->wheel, slot);
}

/* One slice, all of one escrow. */
static bool pull(struct shard *s, struct shard_copies *c, const uint32_t *theirs, uint32_t n)
{
	uint32_t places[PULL_SLICE] = {0}, slots[PULL_SLICE];
	struct handover_escrow *e = c->escrows[theirs[0] / c->ring_conns];

	for (uint32_t i = 0; i < n; i++) {
		uint32_t *ours = &c->ours[theirs[i]];

		places[i] = theirs[i] % c->ring_conns;
		if (!*ours)
			continue;
		/* That connection is gone, and another one has come in its place. */
		loop_import_drop(s->loop, *ours - 1);
		*ours = 0;
		c->held--;
	}
	if (loop_import(s->loop, e, places, slots, n) != n)
		return false;
	c->held += n;
	for (uint32_t i = 0; i < n; i++) {
		c->ours[theirs[i]] = slots[i] + 1;
		prepare(s, slots[i], c->held);
	}
	return true;
}

bool shard_pull(struct shard *s, struct shard_copies *c, const uint32_t *theirs, size_t n,
	bool hurry, char *why, size_t why_bytes)
{
	for (size_t i = 0, k; i < n; i += k) {
		for (k = 0; k < PULL_SLICE && i + k < n; k++) {
			if (theirs[i + k] >= c->theirs_max) {
				snprintf(why, why_bytes, "a connection is in no escrow");
				return false;
			}
			if (theirs[i + k] / c->ring_conns != theirs[i] / c->ring_conns)
				break;
		}
		if (!pull(s, c, theirs + i, (uint32_t)k)) {
			snprintf(why, why_bytes,
				"not all connections of one shard could be taken: no room "
				"(core.connections_max), or no memory");
			return false;
		}
		if (!hurry)
			usleep(PULL_REST_US);
	}
	return true;
}

bool shard_import(struct shard *s, struct handover_reader *r, struct shard_copies *c,
	uint32_t *moved, uint32_t *parked, char *why, size_t why_bytes)
{
	struct handover_slot h;
	bool ok = true, first = s->open_conns == 0;

	while (ok && handover_next(r, &h)) {
		uint32_t ours = h.slot < c->theirs_max ? c->ours[h.slot] : 0;

		if (!ours) {
			snprintf(why, why_bytes, "a connection is in no escrow");
			ok = false;
			break;
		}
		c->ours[h.slot] = 0;
		c->held--;
		ok = adopt(s, ours - 1, &h);
		if (!ok)
			snprintf(why, why_bytes, "no memory");
		*parked += h.kind >= HANDOVER_PING;
		++*moved;
	}
	sodium_memzero(&h, sizeof(h));
	/* Those that ended after they were copied, or that are not handed over. */
	for (uint32_t i = 0; ok && c->held && i < c->theirs_max; i++)
		if (c->ours[i]) {
			loop_import_drop(s->loop, c->ours[i] - 1);
			c->ours[i] = 0;
			c->held--;
		}
	begin_watching(s);
	/* The rows that these waiters have not been shown. Where the waiters of several shards come
	 * together some see a few rows again, which are below their own numbers. */
	if (ok && r->head.count && (first || r->head.journal_seen < s->journal_seen))
		s->journal_seen = r->head.journal_seen;
	return ok;
}
