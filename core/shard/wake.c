/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Ends of hanging requests: each is queued with its reason, then answered from a small buffer when its turn
 * comes, or, a Sync with changes, run again on a worker. Nothing here allocates while such buffers last. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/push/ping.h"
#include "store/account.h"
#include "store/device.h"

#include <string.h>

enum { STARVED_MS = 1000 };

/* Sync with only Status 12: FolderSync first (MS-ASCMD 2.2.3.177.17). */
const uint8_t sync_12[SYNC_12_BYTES] = {
	0x03, 0x01, 0x6a, 0x00, 0x45, 0x4e, 0x03, '1', '2', 0x00, 0x01, 0x01};

/* The request in this slot is to end; it is answered in wake_answer. */
void wake(struct shard *s, uint32_t slot, enum wake_reason why, uint64_t seq)
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
		park_release(s, slot);
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
	if (!small && !active_take(s, slot, false))
		return false;
	park_release(s, slot);
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

void wake_answer(struct shard *s)
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

void wake_all(struct shard *s, enum wake_reason why)
{
	for (uint32_t slot = waiters_next_used(s->waiters, 0); slot != WAITER_NONE;
		slot = waiters_next_used(s->waiters, slot + 1))
		wake(s, slot, why, 0);
	wake_answer(s);
}
