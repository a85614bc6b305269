/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What happens to parked phones in a day: they change the network, send a newer Ping while the older
 * hangs, vanish without a word and come back. */
#include "bench/fleet/fleet_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdlib.h>

static void waiting_init(struct waiting *w, uint32_t max)
{
	w->max = max;
	w->phone = calloc(max, sizeof(*w->phone));
	w->due_ms = calloc(max, sizeof(*w->due_ms));
	CHECK(w->phone && w->due_ms);
}

static bool waiting_add(struct waiting *w, uint32_t phone, uint64_t due_ms)
{
	uint32_t at = (w->head + w->count) % w->max;

	if (w->count == w->max)
		return false;
	w->count++;
	w->phone[at] = phone;
	w->due_ms[at] = due_ms;
	return true;
}

/* False: nobody's time is over. */
static bool waiting_next(struct waiting *w, uint64_t now_ms, uint32_t *phone_out)
{
	if (w->count == 0 || w->due_ms[w->head] > now_ms)
		return false;
	*phone_out = w->phone[w->head];
	w->head = (w->head + 1) % w->max;
	w->count--;
	return true;
}

struct life *life_new(const struct fleet_options *o)
{
	struct life *l = calloc(1, sizeof(*l));
	uint32_t n = o->client.spares_max;

	CHECK(l && n > 0);
	l->spares = calloc(n, sizeof(*l->spares));
	l->free = calloc(n, sizeof(*l->free));
	l->back_ns = calloc(o->client.phones_max, sizeof(*l->back_ns));
	l->older = calloc(o->client.phones_max, sizeof(*l->older));
	CHECK(l->spares && l->free && l->back_ns && l->older);
	while (n > 0)
		l->free[l->free_count++] = --n;
	waiting_init(&l->away, o->client.spares_max + o->client.phones_max / 16);
	waiting_init(&l->dead, o->client.spares_max);
	return l;
}

void life_free(struct life **lp)
{
	struct life *l = *lp;

	if (!l)
		return;
	free(l->away.phone);
	free(l->away.due_ms);
	free(l->dead.phone);
	free(l->dead.due_ms);
	free(l->spares);
	free(l->free);
	free(l->back_ns);
	free(l->older);
	free(l);
	*lp = NULL;
}

/* The phone's connection becomes a spare's; the phone has none then. False: no spare is free. */
static bool set_aside(struct fleet *f, uint32_t i, int role, uint32_t *spare_out)
{
	struct life *l = f->life;

	if (l->free_count == 0) {
		f->seen.no_spare++;
		return false;
	}
	*spare_out = l->free[--l->free_count];
	l->spares[*spare_out] =
		(struct spare){.role = role, .owner = i, .since_ms = client_now_ms(f->client)};
	client_move(f->client, i, f->o.client.phones_max + *spare_out);
	return true;
}

static void give_back(struct fleet *f, uint32_t spare)
{
	struct life *l = f->life;

	if (l->spares[spare].role == SPARE_OLDER)
		f->seen.older--;
	else
		f->seen.dead--;
	l->spares[spare].role = SPARE_FREE;
	l->free[l->free_count++] = spare;
}

static void roam(struct fleet *f, uint32_t i)
{
	fleet_ended(f, i, LEDGER_DROPPED);
	client_close(f->client, i);
	f->seen.roamed++;
	fleet_go(f, i);
}

static void supersede(struct fleet *f, uint32_t i)
{
	struct fleet_phone *p = &f->phones[i];
	uint32_t spare;

	if (p->second != SECOND_NOT || !set_aside(f, i, SPARE_OLDER, &spare))
		return;
	/* Its Ping goes on hanging, in the ledger too, and ends in life_answered. */
	p->asked = false;
	p->second = SECOND_SENDING;
	f->life->older[i] = spare;
	f->seen.older++;
	f->seen.superseding++;
	fleet_go(f, i);
}

static void vanish(struct fleet *f, uint32_t i)
{
	struct life *l = f->life;
	uint64_t now_ms = client_now_ms(f->client);
	uint32_t spare;

	if (l->away.count == l->away.max || !set_aside(f, i, SPARE_DEAD, &spare))
		return;
	client_deafen(f->client, f->o.client.phones_max + spare);
	fleet_ended(f, i, LEDGER_VANISHED);
	CHECK(waiting_add(&l->dead, spare, now_ms + f->o.dead_ms));
	CHECK(waiting_add(&l->away, i, now_ms + f->o.away_ms));
	f->seen.dead++;
	f->seen.vanished++;
	atomic_store_explicit(&l->back_ns[i], UINT64_MAX, memory_order_release);
	fleet_move(f, i, STATE_AWAY);
}

/* The server has read its Ping for certain. Newest is what it read last: a Ping that still lies in a
 * socket when its phone has come back on another connection would end the newer one. In life, where a
 * new connection takes many round trips, that hardly happens; sixty times faster on loopback it does. */
static bool hangs(const struct fleet *f, uint32_t i)
{
	const struct fleet_phone *p = &f->phones[i];
	uint32_t asked_ms = p->due_ms - fleet_heartbeat_s(f, i) * 1000;

	return p->state == STATE_PARKED && client_is_open(f->client, i) &&
	       (uint32_t)client_now_ms(f->client) - asked_ms >= SETTLED_MS;
}

void life_message(struct fleet *f, uint32_t kind, uint32_t i)
{
	/* Only who hangs: whoever is just being answered has other things to do. */
	if (!hangs(f, i))
		return;
	if (kind == MESSAGE_ROAM)
		roam(f, i);
	else if (kind == MESSAGE_SUPERSEDE)
		supersede(f, i);
	else
		vanish(f, i);
}

void life_answered(struct fleet *f, uint32_t number, uint32_t status)
{
	uint32_t k = number - f->o.client.phones_max;
	const struct spare *s = &f->life->spares[k];
	uint64_t took_ms = client_now_ms(f->client) - s->since_ms;

	if (s->role == SPARE_DEAD) {
		/* What the kernel had taken before the phone vanished may still be read. */
		f->book.dead += took_ms > LATE_MS;
		return;
	}
	f->book.hanging--;
	f->book.ends[status == 1   ? LEDGER_SUPERSEDED
		     : status == 2 ? LEDGER_SUPERSEDED_CHANGE
				   : LEDGER_ODD]++;
	if (!s->newer_sent)
		took_ms = 0; /* it ended before that */
	f->seen.superseded_late += took_ms > LATE_MS;
	if (took_ms > f->seen.superseded_ms_most)
		f->seen.superseded_ms_most = took_ms;
	client_close(f->client, number);
	give_back(f, k);
}

void life_newer_sent(struct fleet *f, uint32_t i)
{
	struct spare *s = &f->life->spares[f->life->older[i]];

	/* Unless that one has ended, and its place is another's. */
	if (s->role != SPARE_OLDER || s->owner != i)
		return;
	s->newer_sent = true;
	s->since_ms = client_now_ms(f->client);
}

void life_closed(struct fleet *f, uint32_t number)
{
	uint32_t k = number - f->o.client.phones_max;

	/* A dead one's entry in the queue stays; it finds another role. */
	if (f->life->spares[k].role == SPARE_DEAD)
		return;
	f->book.hanging--;
	f->book.ends[LEDGER_LOST]++;
	give_back(f, k);
}

uint64_t life_tick(struct fleet *f, uint64_t now_ms)
{
	struct life *l = f->life;
	uint64_t next = UINT64_MAX;
	uint32_t i;

	if (!l)
		return next;
	while (waiting_next(&l->dead, now_ms, &i)) {
		client_close(f->client, f->o.client.phones_max + i);
		give_back(f, i);
	}
	while (waiting_next(&l->away, now_ms, &i)) {
		atomic_store_explicit(&l->back_ns[i], clock_mono_ns(), memory_order_release);
		fleet_go(f, i);
	}
	if (l->dead.count)
		next = l->dead.due_ms[l->dead.head];
	if (l->away.count && l->away.due_ms[l->away.head] < next)
		next = l->away.due_ms[l->away.head];
	return next;
}

void life_leave(struct fleet *f)
{
	struct life *l = f->life;
	uint32_t i;

	if (!l)
		return;
	while (waiting_next(&l->dead, UINT64_MAX, &i)) {
		client_close(f->client, f->o.client.phones_max + i);
		give_back(f, i);
	}
	while (waiting_next(&l->away, UINT64_MAX, &i))
		fleet_move(f, i, STATE_NEW);
	for (i = 0; i < f->o.client.spares_max; i++) {
		if (l->spares[i].role != SPARE_OLDER)
			continue;
		f->book.hanging--;
		f->book.ends[LEDGER_DROPPED]++;
		client_close(f->client, f->o.client.phones_max + i);
		give_back(f, i);
	}
}

/* ---- from the other thread ---- */

uint64_t fleet_back_ns(const struct fleet *f, uint32_t phone)
{
	return f->life ? atomic_load_explicit(&f->life->back_ns[phone], memory_order_acquire) : 0;
}
