/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/fleet_priv.h"

#include "bench/fleet/eas_request.h"
#include "bench/thread.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- states and books ---- */

static uint32_t *counter(struct fleet *f, enum state s)
{
	switch (s) {
	case STATE_NEW:
		return NULL;
	case STATE_PARKED:
		return &f->status.parked;
	case STATE_ANSWERED:
		return &f->status.answered;
	case STATE_LATER:
		return &f->status.later;
	case STATE_FAILED:
		return &f->status.failed;
	case STATE_AWAY:
		return &f->status.away;
	default:
		return &f->status.busy;
	}
}

void fleet_move(struct fleet *f, uint32_t i, enum state to)
{
	struct fleet_phone *p = &f->phones[i];

	pthread_mutex_lock(&f->mutex);
	uint32_t *from_count = counter(f, (enum state)p->state), *to_count = counter(f, to);

	if (from_count)
		--*from_count;
	if (to_count)
		++*to_count;
	f->dirty = true;
	pthread_mutex_unlock(&f->mutex);
	p->state = (uint8_t)to;
}

void fleet_ended(struct fleet *f, uint32_t i, enum ledger_end how)
{
	struct fleet_phone *p = &f->phones[i];

	if (!p->asked)
		return;
	p->asked = false;
	f->book.hanging--;
	f->book.ends[how]++;
	if (p->second == SECOND_NOT)
		return;
	if (p->second == SECOND_SENDING)
		f->seen.second_not_hung++;
	else if (how == LEDGER_CHANGE)
		f->seen.second_woken++;
	else if (how == LEDGER_HEARTBEAT)
		f->seen.second_expired++;
	else
		f->seen.second_gone++;
	p->second = SECOND_NOT;
}

void fleet_begun(struct fleet *f, uint32_t i)
{
	CHECK(!f->phones[i].asked);
	f->phones[i].asked = true;
	f->book.asked++;
	f->book.hanging++;
}

void fleet_forget_key(struct fleet *f, uint32_t i)
{
	if (!f->priming)
		return;
	free(f->priming[i].sync_key);
	f->priming[i].sync_key = NULL;
}

void fleet_fail(struct fleet *f, uint32_t i, const char *why)
{
	fleet_forget_key(f, i);
	/* Without its key it must begin anew. */
	if (f->o.sync)
		f->phones[i].primed = false;
	fleet_move(f, i, STATE_FAILED);
	pthread_mutex_lock(&f->mutex);
	snprintf(f->status.why, sizeof(f->status.why), "phone %u: %s", i, why);
	pthread_mutex_unlock(&f->mutex);
}

uint32_t fleet_heartbeat_s(const struct fleet *f, uint32_t i)
{
	uint32_t least = f->o.heartbeat_min_s, most = f->o.heartbeat_s;

	return least ? least + (uint32_t)((uint64_t)i * 2654435761u >> 12) % (most - least + 1)
		     : most;
}

/* ---- one phone goes, and hears ---- */

/* Not ActiveSync: a GET that hangs, or does not. */
static void ask_page(struct fleet *f, uint32_t i)
{
	struct phone_identity who = {.host = f->o.host_header, .user_agent = "roost-bench"};
	char path[256];

	f->request.n = 0;
	snprintf(path, sizeof(path), "%s%u", f->o.get_path, i);
	phone_request_get(&who, path, &f->request);
	CHECK(!f->request.failed);
	atomic_store_explicit(&f->phones[i].came_ns, 0, memory_order_relaxed);
	fleet_begun(f, i);
	client_request(f->client, i, buf_bytes(&f->request), 0);
}

void fleet_ask(struct fleet *f, uint32_t i)
{
	if (f->o.get_path)
		ask_page(f, i);
	else
		fleet_eas_ask(f, i);
}

void fleet_later(struct fleet *f, uint32_t i, uint64_t after_ms)
{
	fleet_move(f, i, STATE_LATER);
	client_open_later(f->client, i, after_ms);
}

/* The first state on the way to a parked Ping; from the beginning where it never got to one. */
static enum state first_state(const struct fleet *f, uint32_t i)
{
	return f->o.prime && !f->phones[i].primed ? STATE_POLICY_ASK : STATE_PING;
}

void fleet_go(struct fleet *f, uint32_t i)
{
	if (f->o.imap) {
		fleet_imap_go(f, i);
		return;
	}
	if (f->o.sync && f->phones[i].state == STATE_ANSWERED)
		fleet_move(f, i, STATE_SYNC);
	else
		fleet_move(f, i, first_state(f, i));
	if (client_is_open(f->client, i))
		fleet_ask(f, i);
	else
		client_open(f->client, i);
}

static void on_opened(void *arg, uint32_t i)
{
	struct fleet *f = arg;

	/* An IMAP server speaks first, and may have done so already. */
	if (f->o.imap)
		return;
	if (f->phones[i].state == STATE_LATER)
		fleet_move(f, i, first_state(f, i));
	fleet_ask(f, i);
}

static void on_sent(void *arg, uint32_t i)
{
	struct fleet *f = arg;

	if (i >= f->o.client.phones_max || f->phones[i].state != STATE_PING)
		return;
	if (f->phones[i].second == SECOND_SENDING) {
		f->phones[i].second = SECOND_HANGS;
		f->seen.second_hung++;
		life_newer_sent(f, i);
	}
	fleet_move(f, i, STATE_PARKED);
}

/* 503: the phone waits as long as it is told. */
static void turned_away(struct fleet *f, uint32_t i, const struct http_answer *h)
{
	struct fleet_phone *p = &f->phones[i];
	uint64_t after_s;

	if (!bytes_to_u64(http_answer_field(h, "Retry-After"), 3600, &after_s))
		after_s = LATER_MS / 1000;
	pthread_mutex_lock(&f->mutex);
	f->status.refused++;
	f->status.refused_again += p->refused;
	if (after_s > f->status.told_most_s)
		f->status.told_most_s = (uint32_t)after_s;
	pthread_mutex_unlock(&f->mutex);
	p->refused = true;
	client_close(f->client, i);
	fleet_later(f, i, after_s * 1000);
}

static void on_answered(
	void *arg, uint32_t i, const struct http_answer *h, struct bytes body, uint64_t came_ns)
{
	struct fleet *f = arg;
	char text[CLIENT_WHY_BYTES];
	struct bytes reason = http_answer_field(h, "X-Roost-Reason");

	if (i >= f->o.client.phones_max) {
		life_answered(f, i, fleet_eas_ping_status(h, body));
		return;
	}
	if (h->status == 503) {
		fleet_ended(f, i, LEDGER_REFUSED);
		turned_away(f, i, h);
		return;
	}
	f->phones[i].refused = false;
	if (h->status != 200) {
		fleet_ended(f, i, LEDGER_ODD);
		snprintf(text, sizeof(text), "HTTP %d %.*s", h->status,
			(int)(reason.n < 200 ? reason.n : 200), (const char *)reason.p);
		fleet_fail(f, i, text);
		client_close(f->client, i);
		return;
	}
	if (f->o.get_path && f->o.get_idle)
		return;
	if (f->o.get_path) {
		fleet_ended(f, i, LEDGER_CHANGE);
		atomic_store_explicit(&f->phones[i].came_ns, came_ns, memory_order_release);
		fleet_move(f, i, STATE_ANSWERED);
		return;
	}
	fleet_eas_answered(f, i, body, came_ns);
}

static void on_closed(void *arg, uint32_t i, enum client_end how, const char *why)
{
	struct fleet *f = arg;
	char text[CLIENT_WHY_BYTES - 32];

	if (i >= f->o.client.phones_max) {
		life_closed(f, i);
		return;
	}
	fleet_ended(f, i, LEDGER_LOST);
	/* Bytes that nobody asked for: a second answer. */
	if (f->phones[i].state == STATE_ANSWERED && how == CLIENT_END_HTTP) {
		f->book.twice++;
		pthread_mutex_lock(&f->mutex);
		f->status.surplus++;
		snprintf(f->status.why, sizeof(f->status.why), "phone %u: %s", i, why);
		pthread_mutex_unlock(&f->mutex);
	}
	/* Answered phones connect again at their next Ping. */
	if (f->phones[i].state == STATE_ANSWERED || f->phones[i].state == STATE_FAILED)
		return;
	snprintf(text, sizeof(text), "%s: %s", client_end_name(how), why);
	if (!f->o.retry) {
		fleet_fail(f, i, text);
		return;
	}
	fleet_later(f, i, LATER_MS);
	pthread_mutex_lock(&f->mutex);
	f->status.retried++;
	snprintf(f->status.why, sizeof(f->status.why), "phone %u: %s", i, text);
	pthread_mutex_unlock(&f->mutex);
}

/* ---- all of them ---- */

static void on_message(void *arg, struct loop_msg *m)
{
	struct fleet *f = arg;
	const struct message *mine = (struct message *)m;
	uint32_t i = mine->phone;

	if (m->kind == MESSAGE_PARK) {
		f->orders_heard++;
		f->park_next = 0;
		f->park_end = f->wanted = i;
	}
	if (m->kind == MESSAGE_DROP) {
		f->drop = mine->drop;
		client_set_resume(f->client, f->drop.resume);
	}
	if (m->kind == MESSAGE_HEARTBEATS) {
		f->o.heartbeat_min_s = mine->least_s;
		f->o.heartbeat_s = mine->most_s;
	}
	if (m->kind == MESSAGE_LEAVE) {
		f->leaving = true;
		f->wanted = f->park_end = 0;
		f->drop = (struct fleet_drop){.end = f->o.client.phones_max};
		life_leave(f);
	}
	if (m->kind >= MESSAGE_ROAM && m->kind <= MESSAGE_VANISH)
		life_message(f, m->kind, i);
	if (m->kind == MESSAGE_PING && f->phones[i].state == STATE_ANSWERED)
		fleet_go(f, i);
	else if (m->kind == MESSAGE_STOP)
		client_stop(f->client);
	free(m);
}

/* As in a storm: first all go, then they come back. False: not all are gone yet. */
static bool drop_some(struct fleet *f)
{
	uint32_t i = f->drop.first, end = f->drop.end, slice = 8192;

	if (i >= end)
		return true;
	for (; i < end && slice > 0; i++, slice--) {
		enum state s = (enum state)f->phones[i].state;

		if (s == STATE_NEW || s == STATE_AWAY || (s == STATE_LATER && !f->leaving))
			continue;
		fleet_ended(f, i, LEDGER_DROPPED);
		client_close(f->client, i);
		f->phones[i].refused = false;
		fleet_move(f, i, STATE_NEW);
	}
	f->drop.first = i;
	if (i < end)
		return false;
	f->park_next = 0;
	f->park_end = f->wanted;
	return true;
}

static bool is_here(const struct fleet *f, uint32_t i)
{
	uint32_t user = i % f->o.users;

	return f->o.user_end == 0 || (user >= f->o.user_first && user < f->o.user_end);
}

/* fleet_park goes on as fast as phones get through: what a real network would spread over minutes
 * must not pile up in the server's queues. */
static uint64_t on_tick(void *arg, uint64_t now_ms)
{
	struct fleet *f = arg;
	struct client_stats stats;
	uint32_t slice = 256;

	bool dropped = drop_some(f);
	uint64_t next = life_tick(f, now_ms);

	while (dropped && f->park_next < f->park_end && slice > 0 &&
		f->status.busy < f->o.client.handshakes_max * 2) {
		uint32_t i = f->park_next++;
		enum state s = (enum state)f->phones[i].state;

		if ((s != STATE_NEW && s != STATE_ANSWERED && s != STATE_FAILED) || !is_here(f, i))
			continue;
		fleet_go(f, i);
		slice--;
	}
	client_stats(f->client, &stats);
	f->book.connected = stats.connected;
	f->seen.open = stats.open;
	pthread_mutex_lock(&f->mutex);
	f->status.full = stats.full_handshakes;
	f->status.resumed = stats.resumed_handshakes;
	f->status.book = f->book;
	f->status.life = f->seen;
	if (dropped && f->park_next >= f->park_end) {
		f->status.orders -= f->orders_heard;
		f->orders_heard = 0;
	}
	if (f->dirty)
		pthread_cond_broadcast(&f->changed);
	f->dirty = false;
	pthread_mutex_unlock(&f->mutex);
	/* Busy phones bring the next turn by themselves. */
	if (!dropped || (f->park_next < f->park_end && slice == 0))
		return now_ms;
	return next;
}

/* ---- the thread ---- */

static void *fleet_thread(void *arg)
{
	struct client_events events = {
		.opened = on_opened,
		.sent = on_sent,
		.answered = on_answered,
		.closed = on_closed,
		.message = on_message,
		.tick = on_tick,
	};
	struct fleet *f = arg;

	if (f->o.imap)
		events.bytes = fleet_imap_bytes;
	struct client *c = client_new(&f->o.client, &events, f, f->why, sizeof(f->why));

	pthread_mutex_lock(&f->mutex);
	f->client = c;
	f->started = c != NULL;
	f->failed_to_start = c == NULL;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
	if (c)
		client_run(c);
	return NULL;
}

static void post(struct fleet *f, uint32_t kind, uint32_t phone)
{
	struct message *m = calloc(1, sizeof(*m));

	CHECK(m);
	m->msg.kind = kind;
	m->phone = phone;
	client_post(f->client, &m->msg);
}

struct fleet *fleet_start(const struct fleet_options *o, char *why, size_t why_bytes)
{
	struct fleet *f = calloc(1, sizeof(*f));
	pthread_condattr_t mono;

	CHECK(f);
	CHECK(!(o->imap && o->retry));
	f->o = *o;
	f->phones = calloc(o->client.phones_max, sizeof(*f->phones));
	if (o->prime || o->imap)
		f->priming = calloc(o->client.phones_max, sizeof(*f->priming));
	CHECK(f->phones && (f->priming || !(o->prime || o->imap)));
	if (o->client.spares_max)
		f->life = life_new(o);
	pthread_mutex_init(&f->mutex, NULL);
	pthread_condattr_init(&mono);
	pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &mono);
	pthread_condattr_destroy(&mono);
	thread_start(&f->thread, fleet_thread, f);
	pthread_mutex_lock(&f->mutex);
	while (!f->started && !f->failed_to_start)
		pthread_cond_wait(&f->changed, &f->mutex);
	pthread_mutex_unlock(&f->mutex);
	if (f->started)
		return f;
	snprintf(why, why_bytes, "%s", f->why);
	fleet_stop(&f);
	return NULL;
}

void fleet_stop(struct fleet **fp)
{
	struct fleet *f = *fp;

	if (!f)
		return;
	if (f->started)
		post(f, MESSAGE_STOP, 0);
	pthread_join(f->thread, NULL);
	/* Not by its thread, which may have ended while the message to do so was still being rung. */
	client_free(&f->client);
	for (uint32_t i = 0; i < f->o.client.phones_max; i++) {
		fleet_forget_key(f, i);
		if (f->priming)
			free(f->priming[i].inbox);
	}
	free(f->priming);
	life_free(&f->life);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->mutex);
	buf_free(&f->request);
	buf_free(&f->document);
	free(f->phones);
	free(f);
	*fp = NULL;
}

/* ---- from the other thread ---- */

uint32_t fleet_phone_bytes(void)
{
	return client_phone_bytes() + (uint32_t)sizeof(struct fleet_phone);
}

void fleet_park(struct fleet *f, uint32_t phones)
{
	CHECK(phones <= f->o.client.phones_max);
	pthread_mutex_lock(&f->mutex);
	f->status.orders++;
	pthread_mutex_unlock(&f->mutex);
	post(f, MESSAGE_PARK, phones);
}

void fleet_ping(struct fleet *f, uint32_t phone)
{
	post(f, MESSAGE_PING, phone);
}

void fleet_roam(struct fleet *f, uint32_t phone)
{
	post(f, MESSAGE_ROAM, phone);
}

void fleet_supersede(struct fleet *f, uint32_t phone)
{
	CHECK(f->life);
	post(f, MESSAGE_SUPERSEDE, phone);
}

void fleet_vanish(struct fleet *f, uint32_t phone)
{
	CHECK(f->life);
	post(f, MESSAGE_VANISH, phone);
}

void fleet_leave(struct fleet *f)
{
	post(f, MESSAGE_LEAVE, 0);
}

void fleet_drop(struct fleet *f, const struct fleet_drop *d)
{
	struct message *m = calloc(1, sizeof(*m));

	CHECK(m);
	CHECK(d->end <= f->o.client.phones_max);
	m->msg.kind = MESSAGE_DROP;
	m->drop = *d;
	client_post(f->client, &m->msg);
}

void fleet_heartbeats(struct fleet *f, uint32_t least_s, uint32_t most_s)
{
	struct message *m = calloc(1, sizeof(*m));

	CHECK(m);
	CHECK(least_s > 0 && least_s <= most_s);
	m->msg.kind = MESSAGE_HEARTBEATS;
	m->least_s = least_s;
	m->most_s = most_s;
	client_post(f->client, &m->msg);
}

void fleet_status(struct fleet *f, struct fleet_status *out)
{
	pthread_mutex_lock(&f->mutex);
	*out = f->status;
	pthread_mutex_unlock(&f->mutex);
}

void fleet_wait_answered(struct fleet *f, uint32_t answered, uint64_t timeout_ms)
{
	uint64_t until_ms = clock_mono_ms() + timeout_ms;
	struct timespec until = {
		.tv_sec = (time_t)(until_ms / 1000), .tv_nsec = (long)(until_ms % 1000) * 1000000};

	pthread_mutex_lock(&f->mutex);
	while (f->status.answered < answered &&
		(f->status.parked || f->status.busy || f->status.later) &&
		pthread_cond_timedwait(&f->changed, &f->mutex, &until) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&f->mutex);
}

uint64_t fleet_came_ns(const struct fleet *f, uint32_t phone)
{
	return atomic_load_explicit(&f->phones[phone].came_ns, memory_order_acquire);
}

uint8_t fleet_woken(const struct fleet *f, uint32_t phone)
{
	return atomic_load_explicit(&f->phones[phone].woken, memory_order_acquire);
}

uint8_t fleet_expired(const struct fleet *f, uint32_t phone)
{
	return atomic_load_explicit(&f->phones[phone].expired, memory_order_acquire);
}
