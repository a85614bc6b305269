/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Hanging requests. The order on every path: register (a waiter cannot exist before it is compared,
 * and journal rows are read on this same thread, so registering and comparing are one step here),
 * compare in a fresh snapshot, park. A commit after that snapshot has a journal number above
 * since_seq and comes through park_journal; so no change is missed, whenever it happens. */
#include "core/shard_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/eas/gzip.h"
#include "core/push/ping.h"
#include "store/account.h"
#include "store/device.h"
#include "store/journal.h"
#include "store/mailbox.h"
#include "store/writer.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	EARLY_MS = 1000, /* ping.md 8: rather a second early than late (the wheel adds up to one) */
	JOURNAL_ROWS = 256,
	JOURNAL_READS_PER_TURN = 32,
	SEEN_EVERY_MS = 15 * 60 * 1000,
	OLD_ITEM_S = 24 * 3600, /* younger items are inside every FilterType */
	PING_BODY_MAX = 65536,  /* read on the shard's thread, so it must be short work */
	STARVED_MS = 1000,
	GUARD_PATIENCE = 3,
};

/* ---- writes that nobody waits for -------------------------------------------------------------
 */

struct device_note {
	struct write write;
	uint32_t mailbox, device;
	bool ping, seen;
	uint16_t heartbeat_s, folder_count;
	uint64_t seen_ms;
	char address[64];
	uint32_t folders[];
};

static int note_write(struct db_txn *txn, void *arg)
{
	const struct device_note *n = arg;
	struct device d;
	int err = device_get(txn, n->mailbox, n->device, &d);

	if (err == DB_NOT_FOUND)
		return DB_OK; /* removed meanwhile: nothing to remember */
	if (err)
		return err;
	if (n->ping) {
		d.ping_heartbeat_s = n->heartbeat_s;
		d.ping_folder_count = n->folder_count;
		memcpy(d.ping_folders, n->folders, n->folder_count * sizeof(n->folders[0]));
	}
	if (n->seen) {
		d.last_seen_ms = n->seen_ms;
		snprintf(d.last_address, sizeof(d.last_address), "%.47s", n->address);
	}
	return device_put(txn, n->mailbox, &d);
}

static void note_done(struct write *w, int err)
{
	struct device_note *n = container_of(w, struct device_note, write);

	if (err && err != DB_CLOSED)
		log_msg(LOG_WARNING, "store: a device record was not written: %s",
			db_strerror(err));
	free(n);
}

static struct device_note *note_new(uint32_t mailbox, uint32_t device, size_t folders)
{
	struct device_note *n = calloc(1, sizeof(*n) + folders * sizeof(n->folders[0]));

	if (n) {
		n->write.fn = note_write;
		n->write.arg = n;
		n->write.done = note_done;
		n->mailbox = mailbox;
		n->device = device;
	}
	return n;
}

static void remember_ping(struct shard *s, uint32_t mailbox, uint32_t device, const struct ping *p)
{
	struct device_note *n = note_new(mailbox, device, p->folder_count);

	if (!n)
		return;
	n->ping = true;
	n->heartbeat_s = p->heartbeat_s;
	n->folder_count = p->folder_count;
	memcpy(n->folders, p->folders, p->folder_count * sizeof(n->folders[0]));
	writer_submit(s->server->writer, &n->write);
}

void park_seen(struct server *server, uint32_t mailbox, const struct device_gate *gate,
	uint64_t now_ms, const char *address)
{
	struct device_note *n;

	if (gate->last_seen_ms + SEEN_EVERY_MS > now_ms)
		return;
	n = note_new(mailbox, gate->id, 0);
	if (!n)
		return;
	n->seen = true;
	n->seen_ms = now_ms;
	snprintf(n->address, sizeof(n->address), "%s", address);
	writer_submit(server->writer, &n->write);
}

/* ---- ends of hanging requests
 * -------------------------------------------------------------------- */

static void count_parked(enum waiter_kind kind)
{
	METRIC_ADD(PARKED_PING, kind == WAITER_PING);
	METRIC_ADD(PARKED_SYNC, kind == WAITER_SYNC);
	METRIC_ADD(PARKED_PING_TOTAL, kind == WAITER_PING);
	METRIC_ADD(PARKED_SYNC_TOTAL, kind == WAITER_SYNC);
}

static void unpark(struct shard *s, uint32_t slot)
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
	unpark(s, slot);
}

/* A send to a parked client (of a KeyUpdate's answer) that does not end must not keep it for ever:
 * the one timer of a slot serves whatever comes first. */
static void arm(struct shard *s, uint32_t slot, uint64_t at_ms)
{
	const struct conn *c = &s->conns[slot];

	if (c->flags & CONN_SENDING && c->active->send_due_ms < at_ms)
		at_ms = c->active->send_due_ms;
	wheel_arm(s->wheel, slot, at_ms);
}

static uint64_t coalesced_ms(struct shard *s, const struct waiter *w)
{
	uint64_t at = loop_now_ms(s->loop) + (uint64_t)shard_config(s)->push_coalesce_ms;

	return at < w->due_ms ? at : w->due_ms;
}

void park_rearm(struct shard *s, uint32_t slot)
{
	const struct waiter *w = waiters_get(s->waiters, slot);

	arm(s, slot, w->why == WAKE_RECHECK ? coalesced_ms(s, w) : w->due_ms);
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
static uint64_t heartbeat_end_ms(struct shard *s, uint64_t heartbeat_s)
{
	uint64_t wanted = loop_now_ms(s->loop) + heartbeat_s * 1000 - EARLY_MS;
	uint64_t due = deadlines_choose(&s->deadlines, wanted, (uint32_t)heartbeat_s,
		(uint32_t)shard_config(s)->push_expiries_per_second_max);

	if (due != wanted)
		METRIC_INC(HEARTBEAT_MOVED);
	return due;
}

/* The request in this slot is to end; it is answered in park_woken. */
static void wake(struct shard *s, uint32_t slot, enum wake_reason why, uint64_t seq)
{
	struct waiter *w = waiters_get(s->waiters, slot);

	if (w->why != WAKE_NONE && w->why != WAKE_RECHECK)
		return;
	/* Another process may be about to answer it: both must not. */
	if (s->conns[slot].flags & CONN_MOVED)
		return;
	w->why = (uint8_t)why;
	w->woken_seq = seq;
	if (s->conns[slot].queue == QUEUE_NONE)
		queue_push(s, &s->woken, slot);
}

static void count_wake(enum wake_reason why)
{
	switch (why) {
	case WAKE_CHANGE:
		METRIC_INC(WAKE_CHANGE);
		return;
	case WAKE_EXPIRED:
		METRIC_INC(WAKE_EXPIRED);
		return;
	case WAKE_HIERARCHY:
		METRIC_INC(WAKE_HIERARCHY);
		return;
	case WAKE_SUPERSEDED:
		METRIC_INC(WAKE_SUPERSEDED);
		return;
	case WAKE_ACCESS:
		METRIC_INC(WAKE_ACCESS);
		return;
	case WAKE_DRAIN:
		METRIC_INC(WAKE_DRAIN);
		return;
	default:
		return;
	}
}

static const char *const wake_words[] = {
	[WAKE_NONE] = "none",
	[WAKE_CHANGE] = "change",
	[WAKE_EXPIRED] = "heartbeat",
	[WAKE_HIERARCHY] = "hierarchy",
	[WAKE_SUPERSEDED] = "superseded",
	[WAKE_ACCESS] = "access",
	[WAKE_DRAIN] = "drain",
	[WAKE_RECHECK] = "recheck",
};

/* The Status with which access ends a Ping: from 14.0 on the one that the next command would meet;
 * before that, and when the account itself changed, 1: the client comes back and meets it. */
static enum ping_status access_status(struct shard *s, const struct conn *c, const struct waiter *w)
{
	struct eas_context ctx = server_eas(s->server);
	struct account_gate account;
	struct device_gate gate;
	struct device d;
	struct db_txn txn;
	int status = PING_EXPIRED;

	if (c->version < 140 || db_read(s->server->db, &txn))
		return PING_EXPIRED;
	if (account_gate(&txn, w->mailbox, &account) == DB_OK && !account.disabled &&
		device_get(&txn, w->mailbox, w->device, &d) == DB_OK &&
		device_gate(&txn, w->mailbox, bytes_str(d.device_id), &gate) == DB_OK) {
		status = eas_policy_status(&ctx, EAS_FOLDER_SYNC, true, gate.policy_key, &gate);
		if (status == 0)
			status = PING_EXPIRED;
	}
	db_read_end(&txn);
	return (enum ping_status)status;
}

static void log_wake(
	struct shard *s, uint32_t slot, const struct waiter *w, int eas_status, size_t bytes)
{
	char address[ACCOUNT_ADDRESS_MAX + 1] = "", device[DEVICE_ID_MAX + 1] = "";
	struct db_txn txn;

	if (!shard_config(s)->log_requests)
		return;
	if (db_read(s->server->db, &txn) == DB_OK) {
		if (account_address(&txn, w->mailbox, address))
			address[0] = 0;
		if (device_name(&txn, w->mailbox, w->device, device))
			device[0] = 0;
		db_read_end(&txn);
	}
	request_log(s, slot, address, device, w->kind == WAITER_PING ? "Ping" : "Sync", 200,
		eas_status, wake_words[w->why], bytes,
		w->since_wall_ms - (uint64_t)s->server->wall_offset_ms);
}

/* Head and document of an answer to a parked request, in one piece. */
static size_t compose(
	struct shard *s, uint32_t slot, const uint8_t *doc, size_t n, char *out, size_t cap)
{
	struct conn *c = &s->conns[slot];
	char id[20];
	struct http1_head h = {
		.content_type = "application/vnd.ms-sync.wbxml",
		.content_length = n,
		.keep_alive = c->flags & CONN_KEEP_ALIVE,
		.say_keep_alive = c->flags & CONN_HTTP10,
		.request_id = id,
	};
	size_t head;

	for (int i = 0; i < 16; i++)
		id[i] = "0123456789abcdef"[c->request_id >> (60 - 4 * i) & 15];
	id[16] = 0;
	head = http1_head(out, cap, 200, &h);
	CHECK(head && head + n <= cap);
	if (n)
		memcpy(out + head, doc, n);
	return head + n;
}

/* No wake buffer has come or gone for a while. */
static bool starved(const struct shard *s)
{
	return loop_now_ms(s->loop) >= s->wake_moved_ms + STARVED_MS &&
	       s->active_used < s->active_max;
}

/* Sync with only Status 12: FolderSync first (MS-ASCMD 2.2.3.177.17). */
enum { SYNC_HIERARCHY = 12 };
static const uint8_t sync_12[] = {
	0x03, 0x01, 0x6a, 0x00, 0x45, 0x4e, 0x03, '1', '2', 0x00, 0x01, 0x01};

/* False: no memory for the answer now; the slot stays as it is. */
static bool finish(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct waiter *w = waiters_get(s->waiters, slot), copy;
	enum wake_reason why = (enum wake_reason)w->why;
	uint32_t changed[PING_FOLDERS_MAX];
	uint8_t doc[PING_ANSWER_MAX];
	char text[PING_ANSWER_MAX + 512];
	enum ping_status status = PING_EXPIRED;
	size_t n = 0, folders = 0;
	uint64_t committed_ns;
	bool small;

	if (w->kind == WAITER_SYNC && why == WAKE_CHANGE) {
		uint64_t due_ms = w->due_ms, order = w->order;

		if (!request_resume_sync(s, slot))
			return false;
		c->active->resume_due_ms = due_ms;
		c->active->order = order;
		count_wake(why);
		unpark(s, slot);
		wheel_cancel(s->wheel, slot);
		c->state = CONN_COMMAND; /* (the watch stays: see conn_readable) */
		return true;
	}
	if (c->flags & CONN_SENDING)
		return false; /* a KeyUpdate's answer is on its way: after it */
	if (c->flags & CONN_TLS && c->tls.dead) {
		conn_close(s, slot, true);
		return true;
	}
	if (s->draining)
		c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	if (w->kind == WAITER_PING) {
		if (why == WAKE_HIERARCHY)
			status = PING_HIERARCHY;
		else if (why == WAKE_ACCESS)
			status = access_status(s, c, w);
		else if (why == WAKE_CHANGE)
			status = PING_CHANGES;
		if (status == PING_CHANGES)
			folders =
				waiters_folders(s->waiters, slot, true, changed, PING_FOLDERS_MAX);
		n = ping_encode(status, 0, changed, folders, doc);
	} else if (why == WAKE_HIERARCHY) {
		memcpy(doc, sync_12, sizeof(sync_12));
		n = sizeof(sync_12);
	}
	n = compose(s, slot, doc, n, text, sizeof(text));
	copy = *w;
	small = n + TLSREC_OVERHEAD_MAX + TLSREC_REPLY_MAX <= sizeof(s->wake_free->data);
	if (small && !conn_send_small(s, slot, text, n)) {
		/* They come back with the next completions; unless peers who take nothing have got
		 * them all, whom the others need not wait for. */
		if (conn_can_send_small(s) || !starved(s))
			return false;
		small = false;
	}
	if (!small && !conn_active(s, slot, false))
		return false;
	unpark(s, slot);
	count_wake(why);
	if (!small) {
		struct active *a = c->active;

		a->reply.n = 0;
		buf_add(&a->reply, text, n);
		c->state = CONN_RESPOND;
		conn_reply(s, slot);
	}
	if (why == WAKE_CHANGE && copy.woken_seq) {
		committed_ns = db_commit_time_ns(s->server->db, copy.woken_seq);
		if (committed_ns && small)
			s->wake_of[slot]->committed_ns = committed_ns; /* seen when it is sent */
		else if (committed_ns)
			metric_observe_ns(H_WAKE, loop_now_ns(s->loop) - committed_ns);
	}
	METRIC_INC(HTTP_REQUESTS);
	METRIC_INC(HTTP_2XX);
	log_wake(s, slot, &copy,
		copy.kind == WAITER_PING ? (int)status
		: why == WAKE_HIERARCHY  ? SYNC_HIERARCHY
					 : 0,
		n);
	return true;
}

void park_woken(struct shard *s)
{
	uint32_t most = s->woken.count;

	log_hold();
	while (most-- && s->woken.count) {
		uint32_t slot = queue_pop(s, &s->woken);

		CHECK(s->conns[slot].state == CONN_PARKED);
		if (!finish(s, slot)) {
			/* Memory comes back with the next completed send. */
			queue_push(s, &s->woken, slot);
			if (!conn_can_send_small(s) && !starved(s))
				break;
		}
	}
	log_release();
}

/* ---- the newest stays
 * -------------------------------------------------------------------------------- */

/* Ends older hanging requests of the device on this shard. True when a newer one is here. */
static bool supersede_here(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order,
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

static void tell_others(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order)
{
	uint64_t bits = presence_others(s->presence, mailbox, device);

	for (; bits; bits &= bits - 1)
		tell_shard(s, (unsigned)__builtin_ctzll(bits), mailbox, device, order);
}

void park_supersede(struct shard *s, const struct supersede_msg *m)
{
	uint64_t newer;

	if (supersede_here(s, m->mailbox, m->device, m->order, &newer))
		tell_shard(s, m->from, m->mailbox, m->device, newer);
	park_woken(s);
}

/* ---- parking
 * ------------------------------------------------------------------------------------------ */

static bool park(struct shard *s, uint32_t slot, const struct waiter_spec *spec)
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
	arm(s, slot, spec->due_ms);
	if (supersede_here(s, spec->mailbox, spec->device, spec->order, &newer))
		wake(s, slot, WAKE_SUPERSEDED, 0);
	tell_others(s, spec->mailbox, spec->device, spec->order);
	if (a) {
		buf_free(&a->body); /* (usually tiny; large ones must not hang about) */
		conn_forget_request(a);
		if (a->more.n < STASH_BYTES_MAX)
			conn_watch(s, slot);
		if (!(c->flags & CONN_SENDING) && a->in.n == 0 && a->more.n == 0)
			conn_active_release(s, slot);
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
	unpark(s, slot);
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

static bool guard_is_tired(
	struct shard *s, uint32_t mailbox, uint32_t device, uint64_t hierarchy_seq)
{
	struct guard *g = &s->guards[(mailbox * 31u + device) % GUARD_SLOTS];

	if (g->mailbox != mailbox || g->device != device || g->hierarchy_seq != hierarchy_seq)
		*g = (struct guard){mailbox, device, hierarchy_seq, 0};
	return ++g->count > GUARD_PATIENCE;
}

static const char *gate_reason(int status)
{
	switch (status) {
	case 126:
		return "the account is disabled";
	case 129:
		return "the device is blocked";
	case 140:
		return "a remote wipe is requested";
	case 141:
		return "the device sends no policy key";
	case 142:
		return "the device has not accepted the policy";
	case 143:
		return "the policy must be accepted again";
	case 144:
		return "the policy changed";
	default:
		return "access denied";
	}
}

static void log_parked(
	struct shard *s, uint32_t slot, const char *command, uint64_t wait_s, size_t folders)
{
	const struct conn *c = &s->conns[slot];
	struct log_line l;

	log_begin(&l, LOG_DEBUG, "parked");
	log_hex(&l, "id", c->request_id);
	log_str(&l, "cmd", command);
	log_u64(&l, "heartbeat", wait_s);
	log_u64(&l, "folders", folders);
	log_end(&l);
}

void park_ping(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	const struct config *cfg = shard_config(s);
	struct eas_context ctx = server_eas(s->server);
	struct ping p;
	struct device_gate gate = {.id = 0};
	struct account_gate account;
	uint8_t doc[PING_ANSWER_MAX];
	struct buf plain = {0};
	struct bytes body = buf_bytes(&a->body), v;
	uint64_t order = presence_order(s->server->presence), newer, key;
	bool has_key = a->query.has_policy_key;
	uint32_t policy_key = a->query.policy_key;
	struct db_txn txn;
	char address[64];
	int err, status;

	METRIC_INC(PINGS);
	if (body.n > PING_BODY_MAX) {
		request_refuse(s, slot, 413, "a Ping of more than 64 KiB");
		return;
	}
	if (a->http.gzip_body && body.n) {
		err = gzip_inflate(body, PING_BODY_MAX, &plain);
		body = buf_bytes(&plain);
		if (err < 0) {
			buf_free(&plain);
			request_refuse(s, slot, -err, "the body is not gzip, or inflates too far");
			return;
		}
	}
	if (!a->query.is_base64) {
		v = http1_header(&a->http, "X-MS-PolicyKey");
		if (bytes_to_u64(v, UINT32_MAX, &key)) {
			has_key = true;
			policy_key = (uint32_t)key;
		}
	}
	err = db_read(s->server->db, &txn);
	if (err) {
		buf_free(&plain);
		request_refuse(s, slot, 503, "the store cannot be read");
		return;
	}
	/* The password was checked with the head; since then the body may have taken its time. */
	if (account_gate(&txn, a->mailbox, &account) || account.disabled) {
		db_read_end(&txn);
		buf_free(&plain);
		request_refuse(s, slot, 403, "the account is disabled");
		return;
	}
	err = device_gate(&txn, a->mailbox, bytes_str(a->query.device_id), &gate);
	status = err == DB_OK ? eas_policy_status(&ctx, EAS_PING, has_key, policy_key, &gate) : 0;
	ping_parse(&p, body, c->version);
	buf_free(&plain);
	if (err != DB_OK && err != DB_NOT_FOUND) {
		p.status = PING_ERROR;
		p.why = db_strerror(err);
	} else if (status == 0 && p.status == PING_PARK) {
		ping_decide(&p, &txn, cfg, a->mailbox, gate.id, shard_wall_ms(s));
		if (p.status == PING_HIERARCHY && p.changed_count &&
			guard_is_tired(s, a->mailbox, gate.id, gate.hierarchy_seq)) {
			p.status = PING_CHANGES;
			p.why = "an unknown folder again and again: let Sync explain";
		}
	}
	db_read_end(&txn);
	if (gate.id) {
		/* Newest wins, whatever becomes of it: the client has given the older one up. */
		supersede_here(s, a->mailbox, gate.id, order, &newer);
		tell_others(s, a->mailbox, gate.id, order);
		conn_address(&c->peer, address);
		park_seen(s->server, a->mailbox, &gate, shard_wall_ms(s), address);
	}
	if (status) {
		if (c->version >= 140)
			request_answer(s, slot, status, gate_reason(status), doc,
				ping_encode((enum ping_status)status, 0, NULL, 0, doc));
		else
			request_refuse(s, slot, eas_status_http(status), gate_reason(status));
		return;
	}
	if (p.remember && (p.status == PING_PARK || p.status == PING_CHANGES))
		remember_ping(s, a->mailbox, gate.id, &p);
	if (p.status == PING_BAD_REQUEST) {
		request_refuse(s, slot, 400, p.why);
		return;
	}
	if (p.status == PING_PARK) {
		struct waiter_spec spec = {
			.kind = WAITER_PING,
			.mailbox = a->mailbox,
			.device = gate.id,
			.folders = p.folders,
			.folder_count = p.folder_count,
			.since_seq = p.since_seq,
			.order = order,
			.due_ms = heartbeat_end_ms(s, p.heartbeat_s),
			.since_wall_ms = shard_wall_ms(s),
			.heartbeat_s = p.heartbeat_s,
		};

		log_parked(s, slot, "Ping", p.heartbeat_s, p.folder_count);
		if (park(s, slot, &spec))
			return;
		p.status = PING_ERROR;
		p.why = "no memory for the folder list";
	}
	if (p.status == PING_CHANGES)
		METRIC_INC(PING_IMMEDIATE);
	request_answer(s, slot, (int)p.status, p.why, doc,
		ping_encode(p.status, p.limit, p.changed,
			p.status == PING_CHANGES ? p.changed_count : 0, doc));
}

/* Others changed the folders since the device's last FolderSync: a phone that only ever hangs in Sync
 * would not hear of it. Said a few times, then no more (a device that does not understand must not
 * loop; ping.md 5). */
static bool sync_needs_folders(struct shard *s, const struct waiter_spec *spec)
{
	struct device d;
	struct db_txn txn;
	bool moved;

	if (db_read(s->server->db, &txn))
		return false;
	moved = device_get(&txn, spec->mailbox, spec->device, &d) == DB_OK &&
		ping_hierarchy_moved(&txn, spec->mailbox, spec->device, d.hierarchy_seq) > 0;
	db_read_end(&txn);
	return moved && !guard_is_tired(s, spec->mailbox, spec->device, d.hierarchy_seq);
}

void park_sync(struct shard *s, uint32_t slot, const struct eas_answer *ans)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	struct job *j = &a->job;
	struct waiter_spec spec = {
		.kind = WAITER_SYNC,
		.mailbox = a->mailbox,
		.device = ans->device ? ans->device : j->req.device,
		.folders = ans->folders,
		.folder_count = ans->folder_count,
		.since_seq = ans->since_seq,
		.order = a->order,
		.due_ms = a->resume_due_ms ? a->resume_due_ms : heartbeat_end_ms(s, ans->wait_s),
		.since_wall_ms = a->resume_due_ms
					 ? a->started_ms + (uint64_t)s->server->wall_offset_ms
					 : shard_wall_ms(s),
		.heartbeat_s = (uint16_t)ans->wait_s,
	};
	uint64_t newer;

	if (!spec.device) {
		request_refuse(s, slot, 503, "a hanging Sync of no device");
		return;
	}
	if (!j->req.resumed)
		supersede_here(s, spec.mailbox, spec.device, spec.order, &newer);
	if (sync_needs_folders(s, &spec)) {
		request_answer(s, slot, SYNC_HIERARCHY,
			"the folder hierarchy changed since the last FolderSync", sync_12,
			sizeof(sync_12));
		return;
	}
	log_parked(s, slot, "Sync", ans->wait_s, ans->folder_count);
	if (!park(s, slot, &spec))
		request_refuse(s, slot, 503, "no memory for the folder list");
	else
		/* The worker's snapshot is older than what this shard has read of the journal, and
		 * the password was checked earlier still: rows in between would be missed, so look
		 * at everything again at once. */
		park_recheck(s, slot);
}

/* ---- changes
 * ------------------------------------------------------------------------------------------- */

/* Is there a reason other than items: access taken away, or folders moved? */
static enum wake_reason other_news(struct shard *s, const struct waiter *w, struct db_txn *txn)
{
	struct eas_context ctx = server_eas(s->server);
	struct account_gate account;
	struct device_gate gate;
	struct device d;

	if (account_gate(txn, w->mailbox, &account) || account.disabled ||
		device_get(txn, w->mailbox, w->device, &d) ||
		device_gate(txn, w->mailbox, bytes_str(d.device_id), &gate) ||
		eas_policy_status(&ctx, EAS_PING, true, gate.policy_key, &gate))
		return WAKE_ACCESS;
	return ping_hierarchy_moved(txn, w->mailbox, w->device, w->since_seq) > 0 ? WAKE_HIERARCHY
										  : WAKE_NONE;
}

/* Looks again what the journal's rows would have told: for waiters that missed some. */
void park_recheck(struct shard *s, uint32_t slot)
{
	struct waiter *w = waiters_get(s->waiters, slot);
	uint32_t folders[PING_FOLDERS_MAX], changed[PING_FOLDERS_MAX];
	enum wake_reason other;
	struct db_txn txn;
	uint64_t head;
	size_t n;

	/* Who is to be answered already (a newer request came, we drain) stays so. */
	if (!w || (w->why != WAKE_NONE && w->why != WAKE_RECHECK))
		return;
	if (db_read(s->server->db, &txn)) {
		w->why = WAKE_RECHECK; /* reader slots are full */
		arm(s, slot, coalesced_ms(s, w));
		return;
	}
	n = waiters_folders(s->waiters, slot, false, folders, PING_FOLDERS_MAX);
	head = journal_head(&txn);
	n = ping_compare(&txn, w->mailbox, w->device, folders, n, shard_wall_ms(s), changed);
	other = other_news(s, w, &txn);
	db_read_end(&txn);
	for (size_t i = 0; i < n; i++)
		waiters_mark(s->waiters, slot, changed[i]);
	if (other != WAKE_NONE) {
		wake(s, slot, other, 0);
	} else if (n) {
		wake(s, slot, WAKE_CHANGE, 0);
	} else {
		w->why = WAKE_NONE;
		w->since_seq = head;
		arm(s, slot, w->due_ms);
	}
}

static void row_for_waiter(
	struct shard *s, uint32_t slot, const struct journal_row *r, struct db_txn *txn)
{
	struct waiter *w = waiters_get(s->waiters, slot);

	if (w->why != WAKE_NONE && w->why != WAKE_RECHECK && w->why != WAKE_CHANGE)
		return;
	switch ((enum journal_kind)r->kind) {
	case JOURNAL_ACCOUNT:
		wake(s, slot, WAKE_ACCESS, r->seq);
		return;
	case JOURNAL_DEVICE:
		if (r->device == w->device)
			wake(s, slot, WAKE_ACCESS, r->seq);
		return;
	case JOURNAL_HIERARCHY:
		if (r->seq > w->since_seq && r->origin != w->device && w->why != WAKE_CHANGE)
			wake(s, slot, WAKE_HIERARCHY, r->seq);
		return;
	case JOURNAL_ADD:
	case JOURNAL_TOUCH:
	case JOURNAL_CHANGE:
	case JOURNAL_DELETE:
		break;
	default:
		return;
	}
	if (r->seq <= w->since_seq || (r->origin && r->origin == w->device) ||
		!waiters_waits_for(s->waiters, slot, r->folder))
		return;
	if (r->kind == JOURNAL_TOUCH ||
		(r->kind == JOURNAL_ADD &&
			(r->item_time_s + OLD_ITEM_S > (int64_t)(shard_wall_ms(s) / 1000) ||
				eas_folder_has_news(txn, w->mailbox, w->device, r->folder,
					shard_wall_ms(s)) != 0))) {
		waiters_mark(s->waiters, slot, r->folder);
		wake(s, slot, WAKE_CHANGE, r->seq);
		return;
	}
	if (r->kind == JOURNAL_ADD || w->why != WAKE_NONE)
		return;
	/* Changes and removals wait a little, so that a series of them wakes once; what is left of
	 * them then is compared, not counted. */
	w->why = WAKE_RECHECK;
	arm(s, slot, coalesced_ms(s, w));
}

static void everybody_looks_again(struct shard *s)
{
	for (uint32_t slot = waiters_next_used(s->waiters, 0); slot != WAITER_NONE;
		slot = waiters_next_used(s->waiters, slot + 1)) {
		struct waiter *w = waiters_get(s->waiters, slot);

		uint64_t at = loop_now_ms(s->loop) + shard_random(s) % 5000;

		if (w->why == WAKE_NONE) {
			w->why = WAKE_RECHECK;
			arm(s, slot, at < w->due_ms ? at : w->due_ms);
		}
	}
}

void park_journal(struct shard *s)
{
	struct journal_row rows[JOURNAL_ROWS];
	struct db_txn txn;
	int n, reads = 0;

	if (move_frozen(s)) {
		s->committed_pending = true;
		return;
	}
	s->committed_pending = s->journal_stuck = false;
	for (;;) {
		if (db_read(s->server->db, &txn)) {
			/* Reader slots are full: again in a moment. */
			s->committed_pending = s->journal_stuck = true;
			return;
		}
		n = journal_read(&txn, s->journal_seen, rows, JOURNAL_ROWS);
		if (n == DB_GONE) {
			/* Further behind than the journal reaches back. */
			s->journal_seen = journal_head(&txn);
			db_read_end(&txn);
			everybody_looks_again(s);
			return;
		}
		for (int i = 0; i < n; i++) {
			uint32_t slot = waiters_first(s->waiters, rows[i].mailbox), next;

			for (; slot != WAITER_NONE; slot = next) {
				next = waiters_next(s->waiters, slot);
				row_for_waiter(s, slot, &rows[i], &txn);
			}
		}
		db_read_end(&txn);
		if (n <= 0)
			break;
		METRIC_ADD(JOURNAL_SEEN, (int64_t)(rows[n - 1].seq - s->journal_seen));
		s->journal_seen = rows[n - 1].seq;
		if (n < JOURNAL_ROWS)
			break;
		if (++reads == JOURNAL_READS_PER_TURN) {
			s->committed_pending = true;
			break;
		}
	}
	park_woken(s);
}

/* ---- time, and the end ---- */

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
		park_recheck(s, slot);
	if (now >= w->due_ms && (w->why == WAKE_NONE || w->why == WAKE_RECHECK))
		wake(s, slot, WAKE_EXPIRED, 0);
	/* What is to be answered needs time no more, but for the send before it. */
	if (c->queue != QUEUE_WOKEN)
		park_rearm(s, slot);
	else if (c->flags & CONN_SENDING)
		arm(s, slot, c->active->send_due_ms);
}

void park_end_all(struct shard *s, enum wake_reason why)
{
	for (uint32_t slot = waiters_next_used(s->waiters, 0); slot != WAITER_NONE;
		slot = waiters_next_used(s->waiters, slot + 1))
		wake(s, slot, why, 0);
	park_woken(s);
}
