/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Requests that hang: who waits, until when, and which of a device's stays. The order on every path:
 * register (a waiter cannot exist before it is compared, and journal rows are read on this same thread,
 * so registering and comparing are one step here), compare in a fresh snapshot, park. A commit after that
 * snapshot has a journal number above since_seq and comes through changes_read; so no change is missed,
 * whenever it happens. Who begins to hang is decided in hanging.c, who is woken in changes.c, and what he
 * is told in wake.c. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/metrics.h"
#include "core/push/ping.h"

#include <stdlib.h>

enum {
	EARLY_MS = 1000, /* rather a second early than late (the wheel adds up to one) */
};

/* ---- deadlines ------------------------------------------------------------------------------- */

/* A send to a parked client (of a KeyUpdate's answer) that does not end must not keep it for ever:
 * the one timer of a slot serves whatever comes first. */
void park_arm(struct shard *s, uint32_t slot, uint64_t at_ms)
{
	const struct conn *c = &s->conns[slot];

	if (c->flags & CONN_SENDING && c->active->send_due_ms < at_ms)
		at_ms = c->active->send_due_ms;
	wheel_arm(s->wheel, slot, at_ms);
}

uint64_t park_coalesced_ms(struct shard *s, const struct waiter *w)
{
	uint64_t at = loop_now_ms(s->loop) + (uint64_t)shard_config(s)->push_coalesce_ms;

	return at < w->due_ms ? at : w->due_ms;
}

void park_rearm(struct shard *s, uint32_t slot)
{
	const struct waiter *w = waiters_get(s->waiters, slot);

	park_arm(s, slot, w->why == WAKE_RECHECK ? park_coalesced_ms(s, w) : w->due_ms);
}

void park_due(struct shard *s, uint32_t slot, uint64_t due_ms)
{
	struct waiter *w = waiters_get(s->waiters, slot);

	deadlines_remove(&s->deadlines, w->due_ms);
	w->due_ms = due_ms;
	deadlines_add(&s->deadlines, due_ms);
	if (s->conns[slot].queue == QUEUE_NONE)
		park_rearm(s, slot);
}

/* When a heartbeat that begins now ends. */
uint64_t park_heartbeat_end_ms(struct shard *s, uint64_t heartbeat_s)
{
	uint64_t wanted = loop_now_ms(s->loop) + heartbeat_s * 1000 - EARLY_MS;
	uint64_t due = deadlines_choose(&s->deadlines, wanted, (uint32_t)heartbeat_s,
		(uint32_t)shard_config(s)->push_expiries_per_second_max);

	if (due != wanted)
		METRIC_INC(HEARTBEAT_MOVED);
	return due;
}

void park_timer(struct shard *s, uint32_t slot)
{
	struct waiter *w = waiters_get(s->waiters, slot);

	const struct conn *c = &s->conns[slot];
	uint64_t now = loop_now_ms(s->loop);

	CHECK(w);
	if (c->flags & CONN_SENDING && now >= c->active->send_due_ms) {
		METRIC_INC(HTTP_TIMEOUTS);
		conn_close(s, slot, true);
		return;
	}
	/* A change that waits for its delay is said now rather than forgotten. */
	if (w->why == WAKE_RECHECK)
		changes_recheck(s, slot);
	if (now >= w->due_ms && (w->why == WAKE_NONE || w->why == WAKE_RECHECK))
		wake(s, slot, WAKE_EXPIRED, 0);
	/* What is to be answered needs time no more, but for the send before it. */
	if (c->queue != QUEUE_WOKEN)
		park_rearm(s, slot);
	else if (c->flags & CONN_SENDING)
		park_arm(s, slot, c->active->send_due_ms);
}

/* ---- the newest stays ------------------------------------------------------------------------ */

/* Ends older hanging requests of the device on this shard. True when a newer one is here. */
bool park_supersede_here(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order,
	uint64_t *newer_order_out)
{
	uint32_t slot = waiters_first(s->waiters, mailbox), next;
	bool newer = false;

	for (; slot != WAITER_NONE; slot = next) {
		struct waiter *w = waiters_get(s->waiters, slot);

		next = waiters_next(s->waiters, slot);
		if (w->device != device || w->order == order)
			continue;
		if (w->order < order) {
			wake(s, slot, WAKE_SUPERSEDED, 0);
		} else {
			newer = true;
			*newer_order_out = w->order;
		}
	}
	return newer;
}

static void tell_shard(
	struct shard *s, unsigned to, uint32_t mailbox, uint32_t device, uint64_t order)
{
	struct supersede_msg *m = malloc(sizeof(*m));

	if (!m)
		return; /* the older one ends with its heartbeat */
	*m = (struct supersede_msg){
		.msg.kind = MSG_SUPERSEDE,
		.mailbox = mailbox,
		.device = device,
		.order = order,
		.from = s->index,
	};
	loop_post(s->server->shards[to]->loop, &m->msg);
}

void park_tell_others(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order)
{
	uint64_t bits = presence_others(s->presence, mailbox, device);

	for (; bits; bits &= bits - 1)
		tell_shard(s, (unsigned)__builtin_ctzll(bits), mailbox, device, order);
}

void park_supersede(struct shard *s, const struct supersede_msg *m)
{
	uint64_t newer;

	if (park_supersede_here(s, m->mailbox, m->device, m->order, &newer))
		tell_shard(s, m->from, m->mailbox, m->device, newer);
	wake_answer(s);
}

/* ---- in and out ------------------------------------------------------------------------------ */

static void count_parked(enum waiter_kind kind)
{
	METRIC_ADD(PARKED_PING, kind == WAITER_PING);
	METRIC_ADD(PARKED_SYNC, kind == WAITER_SYNC);
	METRIC_ADD(PARKED_PING_TOTAL, kind == WAITER_PING);
	METRIC_ADD(PARKED_SYNC_TOTAL, kind == WAITER_SYNC);
}

bool park(struct shard *s, uint32_t slot, const struct waiter_spec *spec)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	uint64_t newer;

	if (!waiters_add(s->waiters, slot, spec))
		return false;
	deadlines_add(&s->deadlines, spec->due_ms);
	presence_add(s->presence, spec->mailbox, spec->device);
	count_parked(spec->kind);
	c->state = CONN_PARKED;
	park_arm(s, slot, spec->due_ms);
	if (park_supersede_here(s, spec->mailbox, spec->device, spec->order, &newer))
		wake(s, slot, WAKE_SUPERSEDED, 0);
	park_tell_others(s, spec->mailbox, spec->device, spec->order);
	if (a) {
		buf_free(&a->body); /* (usually tiny; large ones must not hang about) */
		active_forget_request(a);
		if (a->more.n < STASH_BYTES_MAX)
			conn_watch(s, slot);
		if (!(c->flags & CONN_SENDING) && a->in.n == 0 && a->more.n == 0)
			active_release(s, slot);
	} else {
		conn_watch(s, slot);
	}
	/* In an upgrade it is too late to be moved, and too early to know whether all are: the
	 * phone asks again and finds whoever serves then. */
	if (s->draining || move_frozen(s))
		wake(s, slot, WAKE_DRAIN, 0);
	return true;
}

void park_release(struct shard *s, uint32_t slot)
{
	struct waiter *w = waiters_get(s->waiters, slot);

	presence_remove(s->presence, w->mailbox, w->device);
	METRIC_ADD(PARKED_PING, w->kind == WAITER_PING ? -1 : 0);
	METRIC_ADD(PARKED_SYNC, w->kind == WAITER_SYNC ? -1 : 0);
	deadlines_remove(&s->deadlines, w->due_ms);
	waiters_remove(s->waiters, slot);
}

void park_hangup(struct shard *s, uint32_t slot)
{
	METRIC_INC(WAKE_HANGUP);
	park_release(s, slot);
}

bool park_adopt(struct shard *s, uint32_t slot, const struct handover_slot *h)
{
	uint32_t folders[PING_FOLDERS_MAX];
	size_t n = 0;
	struct waiter_spec spec = {
		.kind = h->kind == HANDOVER_PING ? WAITER_PING : WAITER_SYNC,
		.mailbox = h->mailbox,
		.device = h->device,
		.folders = folders,
		.since_seq = h->since_seq,
		.order = h->order,
		.due_ms = h->due_ms,
		.since_wall_ms = h->since_wall_ms,
		.heartbeat_s = h->heartbeat_s,
	};

	for (uint64_t bits = h->folders; bits; bits &= bits - 1)
		folders[n++] = (uint32_t)__builtin_ctzll(bits);
	for (size_t i = 0; i < h->more.n / 4 && n < PING_FOLDERS_MAX; i++)
		folders[n++] = handover_folder(h->more, i);
	spec.folder_count = n;
	if (!waiters_add(s->waiters, slot, &spec))
		return false;
	deadlines_add(&s->deadlines, spec.due_ms);
	presence_add(s->presence, spec.mailbox, spec.device);
	count_parked(spec.kind);
	s->conns[slot].state = CONN_PARKED;
	if (h->flags & HANDOVER_RECHECK)
		waiters_get(s->waiters, slot)->why = WAKE_RECHECK;
	park_rearm(s, slot);
	return true;
}
