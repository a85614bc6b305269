/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet_priv.h"

#include "bench/eas_request.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/eas/wbxml.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

uint32_t fleet_phone_bytes(void)
{
	return client_phone_bytes() + (uint32_t)sizeof(struct fleet_phone);
}

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

static void begun(struct fleet *f, uint32_t i)
{
	CHECK(!f->phones[i].asked);
	f->phones[i].asked = true;
	f->book.asked++;
	f->book.hanging++;
}

static void forget_key(struct fleet *f, uint32_t i)
{
	if (!f->priming)
		return;
	free(f->priming[i].sync_key);
	f->priming[i].sync_key = NULL;
}

static void fail(struct fleet *f, uint32_t i, const char *why)
{
	forget_key(f, i);
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

static void ask(struct fleet *f, uint32_t i)
{
	struct fleet_phone *p = &f->phones[i];
	char user[256], password[256], device[64], authorization[1024];
	struct phone_identity who = {
		.host = f->o.host_header,
		.user = user,
		.authorization = authorization,
		.device_id = device,
		.device_type = "RoostBench",
		.user_agent = "roost-bench",
		.version = f->o.version,
		.policy_key = f->priming ? f->priming[i].policy_key : 0,
	};
	const char *folder = f->priming ? f->priming[i].inbox : NULL;
	const struct bytes inbox = bytes_str(folder ? folder : "1");
	struct phone_sync sync = {
		.folder = inbox,
		.key = bytes_str(f->priming ? f->priming[i].sync_key : NULL),
		.prime = p->state == STATE_SYNC_PRIME,
		.body_type = 1,
		.truncation_bytes = 512,
	};
	enum eas_command command = EAS_PING;
	uint32_t timeout_s = REQUEST_TIMEOUT_S, heartbeat_s;

	if (f->o.get_path) {
		char path[256];

		f->request.n = 0;
		who.authorization = NULL;
		snprintf(path, sizeof(path), "%s%u", f->o.get_path, i);
		phone_request_get(&who, path, &f->request);
		CHECK(!f->request.failed);
		atomic_store_explicit(&p->came_ns, 0, memory_order_relaxed);
		begun(f, i);
		client_request(f->client, i, buf_bytes(&f->request), 0);
		return;
	}
	f->o.user(i % f->o.users, user, sizeof(user));
	f->o.device(i, device, sizeof(device));
	f->o.password(i % f->o.users, password, sizeof(password));
	CHECK(phone_basic(user, password, authorization, sizeof(authorization)));
	f->document.n = f->request.n = 0;
	switch ((enum state)p->state) {
	case STATE_POLICY_ASK:
		phone_body_provision_ask(who.version, "Benchmark", who.user_agent, &f->document);
		command = EAS_PROVISION;
		break;
	case STATE_POLICY_ACKNOWLEDGE:
		phone_body_provision_acknowledge(who.policy_key, &f->document);
		command = EAS_PROVISION;
		break;
	case STATE_FOLDERS:
		phone_body_folder_sync(bytes_str("0"), &f->document);
		command = EAS_FOLDER_SYNC;
		break;
	case STATE_SYNC_PRIME:
	case STATE_SYNC:
		phone_body_sync(&sync, 1, who.version, 0, &f->document);
		command = EAS_SYNC;
		break;
	case STATE_PING:
		heartbeat_s = fleet_heartbeat_s(f, i);
		phone_body_ping(heartbeat_s, &inbox, 1, &f->document);
		timeout_s = 0;
		p->due_ms = (uint32_t)client_now_ms(f->client) + heartbeat_s * 1000;
		begun(f, i);
		break;
	default:
		CHECK(!"a state that asks");
	}
	phone_request(&who, command, buf_bytes(&f->document), &f->request);
	CHECK(!f->request.failed);
	/* With `sync` not before the Ping: mail that comes while it syncs would wake nobody. */
	if (p->state == STATE_PING || !f->o.sync)
		atomic_store_explicit(&p->came_ns, 0, memory_order_relaxed);
	client_request(f->client, i, buf_bytes(&f->request), timeout_s);
}

/* Connects again after a while, with what it did when it was sent away or lost. */
static void later(struct fleet *f, uint32_t i, uint64_t after_ms)
{
	fleet_move(f, i, STATE_LATER);
	client_open_later(f->client, i, after_ms);
}

/* The first state on the way to a parked Ping; from the beginning where it never got to one. */
static enum state first_state(const struct fleet *f, uint32_t i)
{
	return f->o.prime && !f->phones[i].primed ? STATE_POLICY_ASK : STATE_PING;
}

/* ---- IMAP ---- */

static void imap_go(struct fleet *f, uint32_t i)
{
	struct fleet_phone *p = &f->phones[i];

	if (p->state == STATE_ANSWERED && client_is_open(f->client, i)) {
		/* It never left IDLE. */
		atomic_store_explicit(&p->came_ns, 0, memory_order_relaxed);
		fleet_move(f, i, STATE_PARKED);
		return;
	}
	client_close(f->client, i);
	f->priming[i].imap_step = IMAP_GREETING;
	atomic_store_explicit(&p->came_ns, 0, memory_order_relaxed);
	fleet_move(f, i, STATE_IMAP);
	client_open(f->client, i);
}

static void imap_ask(struct fleet *f, uint32_t i)
{
	char user[256], password[256];

	f->o.user(i % f->o.users, user, sizeof(user));
	f->o.password(i % f->o.users, password, sizeof(password));
	f->request.n = 0;
	imap_say(f->priming[i].imap_step, user, password, &f->request);
	CHECK(!f->request.failed);
	client_say(f->client, i, buf_bytes(&f->request), REQUEST_TIMEOUT_S);
}

static void imap_exists(struct fleet *f, uint32_t i, uint32_t exists, uint64_t came_ns)
{
	struct fleet_phone *p = &f->phones[i];
	bool more = exists > f->priming[i].exists;

	f->priming[i].exists = exists;
	if (!more || p->state != STATE_PARKED)
		return;
	atomic_fetch_add_explicit(&p->woken, 1, memory_order_relaxed);
	atomic_store_explicit(&p->came_ns, came_ns, memory_order_release);
	fleet_move(f, i, STATE_ANSWERED);
}

static size_t on_bytes(void *arg, uint32_t i, const uint8_t *p, size_t n, uint64_t came_ns)
{
	struct fleet *f = arg;
	size_t at = 0;

	for (;;) {
		struct imap_in in;
		enum imap_result r = imap_read(&f->priming[i].imap_step, p + at, n - at, &in);

		at += in.used;
		switch (r) {
		case IMAP_NEED_MORE:
			return at;
		case IMAP_READ:
			break;
		case IMAP_NEXT:
			imap_ask(f, i);
			break;
		case IMAP_PARKED:
			fleet_move(f, i, STATE_PARKED);
			break;
		case IMAP_EXISTS:
			imap_exists(f, i, in.exists, came_ns);
			break;
		case IMAP_FAILED:
			fail(f, i, in.why);
			client_close(f->client, i);
			return at;
		}
	}
}

void fleet_go(struct fleet *f, uint32_t i)
{
	if (f->o.imap) {
		imap_go(f, i);
		return;
	}
	if (f->o.sync && f->phones[i].state == STATE_ANSWERED)
		fleet_move(f, i, STATE_SYNC);
	else
		fleet_move(f, i, first_state(f, i));
	if (client_is_open(f->client, i))
		ask(f, i);
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
	ask(f, i);
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

static bool keep_key(struct priming *p, struct bytes key)
{
	free(p->sync_key);
	p->sync_key = strndup((const char *)key.p, key.n);
	return p->sync_key && key.n > 0;
}

/* Type 2 is the inbox (MS-ASCMD 2.2.3.186.3). */
static bool keep_inbox(struct priming *k, const struct wbxml_node *changes)
{
	const struct wbxml_node *add = wbxml_child(changes, FOLDERHIERARCHY_Add);

	free(k->inbox);
	k->inbox = NULL;
	for (; add && !k->inbox; add = wbxml_next_of(add, FOLDERHIERARCHY_Add)) {
		struct bytes id = wbxml_text(add, FOLDERHIERARCHY_ServerId);

		if (bytes_eq_str(wbxml_text(add, FOLDERHIERARCHY_Type), "2") && id.n)
			k->inbox = strndup((const char *)id.p, id.n);
	}
	return k->inbox != NULL;
}

static void answer_priming(struct fleet *f, uint32_t i, const struct wbxml_node *root)
{
	struct fleet_phone *p = &f->phones[i];
	struct priming *k = &f->priming[i];
	const struct wbxml_node *at = NULL;
	struct phone_provision policy;
	struct phone_folder_sync folders;
	struct phone_collection c = {.status = 0};
	char why[64];

	switch ((enum state)p->state) {
	case STATE_POLICY_ASK:
	case STATE_POLICY_ACKNOWLEDGE:
		if (!phone_read_provision(root, &policy) || policy.status != 1 ||
			(policy.policy_status != 1 && policy.policy_status != NO_POLICY)) {
			fail(f, i, "Provision failed");
			return;
		}
		k->policy_key = policy.policy_key;
		fleet_move(f, i,
			p->state == STATE_POLICY_ASK && policy.policy_status != NO_POLICY
				? STATE_POLICY_ACKNOWLEDGE
				: STATE_FOLDERS);
		break;
	case STATE_FOLDERS:
		if (!phone_read_folder_sync(root, &folders) || folders.status != 1) {
			fail(f, i, "FolderSync failed");
			return;
		}
		if (!keep_inbox(k, folders.changes)) {
			fail(f, i, "FolderSync names no inbox");
			return;
		}
		fleet_move(f, i, STATE_SYNC_PRIME);
		CHECK(keep_key(k, bytes_str("0")));
		break;
	default:
		/* An empty answer to Sync means that nothing is left. */
		if (root && (!phone_next_collection(root, &at, &c) || c.status != 1 ||
				    !keep_key(k, c.key))) {
			snprintf(why, sizeof(why), "Sync failed: status %u, %u",
				phone_sync_status(root), c.status);
			fail(f, i, why);
			return;
		}
		if (p->state == STATE_SYNC_PRIME || c.more) {
			fleet_move(f, i, STATE_SYNC);
			break;
		}
		if (!f->o.sync)
			forget_key(f, i);
		p->primed = true;
		fleet_move(f, i, STATE_PING);
	}
	ask(f, i);
}

/* Status 2 must name the inbox and nothing else. */
static bool names_the_inbox(const struct fleet *f, uint32_t i, const struct phone_ping *ping)
{
	const char *inbox = f->priming && f->priming[i].inbox ? f->priming[i].inbox : "1";
	const struct wbxml_node *folder = wbxml_child(ping->folders, PING_Folder);

	return folder && bytes_eq_str(wbxml_text(ping->folders, PING_Folder), inbox) &&
	       !wbxml_next_of(folder, PING_Folder);
}

static void count_expiry(struct fleet *f, uint32_t i, uint64_t came_ns)
{
	struct fleet_phone *p = &f->phones[i];
	int32_t late_ms = (int32_t)((uint32_t)(came_ns / 1000000) - p->due_ms);
	struct fleet_status *s = &f->status;

	atomic_fetch_add_explicit(&p->expired, 1, memory_order_release);
	pthread_mutex_lock(&f->mutex);
	s->heartbeats++;
	s->heartbeats_early += late_ms < -LATE_MS;
	s->heartbeats_late += late_ms > LATE_MS;
	if (-late_ms > s->early_most_ms)
		s->early_most_ms = -late_ms;
	if (late_ms > s->late_most_ms)
		s->late_most_ms = late_ms;
	f->dirty = true;
	pthread_mutex_unlock(&f->mutex);
}

static void answer_ping(
	struct fleet *f, uint32_t i, const struct wbxml_node *root, uint64_t came_ns)
{
	struct phone_ping ping = {.status = 0};
	char why[64];

	if (phone_read_ping(root, &ping) && ping.status == 2) {
		if (!names_the_inbox(f, i, &ping)) {
			fleet_ended(f, i, LEDGER_ODD);
			fail(f, i, "Ping answered with other folders than were watched");
			return;
		}
		fleet_ended(f, i, LEDGER_CHANGE);
		atomic_fetch_add_explicit(&f->phones[i].woken, 1, memory_order_relaxed);
		atomic_store_explicit(&f->phones[i].came_ns, came_ns, memory_order_release);
		fleet_move(f, i, STATE_ANSWERED);
		return;
	}
	if (ping.status == 1 && f->o.heartbeat_min_s) {
		fleet_ended(f, i, LEDGER_HEARTBEAT);
		count_expiry(f, i, came_ns);
		fleet_move(f, i, STATE_PING);
		ask(f, i);
		return;
	}
	fleet_ended(f, i, LEDGER_ODD);
	snprintf(why, sizeof(why), "Ping answered with status %u", ping.status);
	fail(f, i, why);
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
	later(f, i, after_s * 1000);
}

/* The Status of a Ping's answer; 0: none. */
static uint32_t ping_status(const struct http_answer *h, struct bytes body)
{
	struct phone_ping ping = {.status = 0};
	struct wbxml_node *root = NULL;
	struct arena arena;
	const char *why = NULL;

	arena_init(&arena, 4 << 20);
	if (h->status == 200 && body.n && wbxml_parse(body, &arena, NULL, &root, &why) >= 0)
		phone_read_ping(root, &ping);
	arena_free(&arena);
	return ping.status;
}

static void on_answered(
	void *arg, uint32_t i, const struct http_answer *h, struct bytes body, uint64_t came_ns)
{
	struct fleet *f = arg;
	struct arena arena;
	struct wbxml_node *root = NULL;
	const char *why = NULL;
	char text[CLIENT_WHY_BYTES];
	struct bytes reason = http_answer_field(h, "X-Roost-Reason");

	if (i >= f->o.client.phones_max) {
		life_answered(f, i, ping_status(h, body));
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
		fail(f, i, text);
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
	arena_init(&arena, 4 << 20);
	if (body.n && wbxml_parse(body, &arena, NULL, &root, &why) < 0) {
		fleet_ended(f, i, LEDGER_ODD);
		fail(f, i, why);
	} else if (f->phones[i].state >= STATE_PING)
		answer_ping(f, i, root, came_ns);
	else
		answer_priming(f, i, root);
	arena_free(&arena);
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
		fail(f, i, text);
		return;
	}
	later(f, i, LATER_MS);
	pthread_mutex_lock(&f->mutex);
	f->status.retried++;
	snprintf(f->status.why, sizeof(f->status.why), "phone %u: %s", i, text);
	pthread_mutex_unlock(&f->mutex);
}

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

static void block_signals(void)
{
	sigset_t all;

	/* They are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
}

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

	block_signals();
	if (f->o.imap)
		events.bytes = on_bytes;
	struct client *c = client_new(&f->o.client, &events, f, f->why, sizeof(f->why));

	pthread_mutex_lock(&f->mutex);
	f->client = c;
	f->started = c != NULL;
	f->failed_to_start = c == NULL;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
	if (c) {
		client_run(c);
		client_free(&f->client);
	}
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
	CHECK(pthread_create(&f->thread, NULL, fleet_thread, f) == 0);
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
	for (uint32_t i = 0; i < f->o.client.phones_max; i++) {
		forget_key(f, i);
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

/* ---- visits ---- */

struct visits {
	const struct visit_options *o;
	struct visit_result *r;
	struct client *client;
	uint64_t *start_ns; /* per phone */
	uint64_t *took_ns;
	uint32_t begun;
	char *why;
	size_t why_bytes;
	bool ok;
};

static void visit_next(struct visits *v, uint32_t i)
{
	uint32_t over = v->r->done + v->r->failed;

	if (v->o->progress)
		v->o->progress(over);
	if (v->begun < v->o->count && !*v->o->stop) {
		v->begun++;
		v->start_ns[i] = clock_mono_ns();
		client_open(v->client, i);
	} else if (over >= v->begun) {
		client_stop(v->client);
	}
}

static void visit_opened(void *arg, uint32_t i)
{
	struct visits *v = arg;

	v->took_ns[i] = clock_mono_ns() - v->start_ns[i];
	if (!v->r->tls[0])
		snprintf(v->r->tls, sizeof(v->r->tls), "%s", client_tls_text(v->client, i));
	client_request(v->client, i, v->o->request, 30);
}

static void visit_sent(void *arg, uint32_t i)
{
	(void)arg;
	(void)i;
}

static void visit_answered(
	void *arg, uint32_t i, const struct http_answer *h, struct bytes body, uint64_t came_ns)
{
	struct visits *v = arg;

	(void)body;
	v->r->last_status = h->status;
	v->r->last_ns = came_ns;
	v->r->open_ns[v->r->done++] = v->took_ns[i];
	client_close(v->client, i);
	visit_next(v, i);
}

static void visit_closed(void *arg, uint32_t i, enum client_end how, const char *why)
{
	struct visits *v = arg;

	v->r->failed++;
	snprintf(v->r->why, sizeof(v->r->why), "%s: %s", client_end_name(how), why);
	visit_next(v, i);
}

static void *visits_thread(void *arg)
{
	static const struct client_events events = {
		.opened = visit_opened,
		.sent = visit_sent,
		.answered = visit_answered,
		.closed = visit_closed,
	};
	struct visits *v = arg;
	struct client_stats s;
	uint32_t n = v->o->client.phones_max;

	block_signals();
	v->client = client_new(&v->o->client, &events, v, v->why, v->why_bytes);
	if (!v->client)
		return NULL;
	v->r->first_ns = clock_mono_ns();
	for (uint32_t i = 0; i < n && v->begun < v->o->count; i++) {
		v->begun++;
		v->start_ns[i] = clock_mono_ns();
		client_open(v->client, i);
	}
	client_run(v->client);
	client_stats(v->client, &s);
	v->r->full = s.full_handshakes;
	v->r->resumed = s.resumed_handshakes;
	client_free(&v->client);
	v->ok = true;
	return NULL;
}

bool visits_run(
	const struct visit_options *o, struct visit_result *out, char *why, size_t why_bytes)
{
	struct visits v = {.o = o, .r = out, .why = why, .why_bytes = why_bytes};
	pthread_t thread;

	*out = (struct visit_result){0};
	out->open_ns = calloc(o->count, sizeof(*out->open_ns));
	v.start_ns = calloc(o->client.phones_max, sizeof(*v.start_ns));
	v.took_ns = calloc(o->client.phones_max, sizeof(*v.took_ns));
	CHECK(out->open_ns && v.start_ns && v.took_ns);
	CHECK(pthread_create(&thread, NULL, visits_thread, &v) == 0);
	pthread_join(thread, NULL);
	free(v.start_ns);
	free(v.took_ns);
	return v.ok;
}
