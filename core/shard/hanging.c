/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The two requests that hang, from when they are read until they are answered at once or parked: Ping, all
 * of it on the shard, and Sync, which a worker has found to have nothing to say. */
#include "core/shard/shard_priv.h"

#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/shard/device_notes.h"
#include "core/eas/gzip.h"
#include "core/push/ping.h"
#include "store/account.h"
#include "store/device.h"

#include <string.h>

enum {
	PING_BODY_MAX = 65536, /* read on the shard's thread, so it must be short work */
	GUARD_PATIENCE = 3,
};

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

/* The body as it is, or inflated into `plain`, the caller's to free. False: refused. */
static bool ping_body(struct shard *s, uint32_t slot, struct buf *plain, struct bytes *body_out)
{
	struct active *a = s->conns[slot].active;
	int err;

	*body_out = buf_bytes(&a->body);
	if (body_out->n > PING_BODY_MAX) {
		request_refuse(s, slot, 413, "a Ping of more than 64 KiB");
		return false;
	}
	if (!a->http.gzip_body || body_out->n == 0)
		return true;
	err = gzip_inflate(*body_out, PING_BODY_MAX, plain);
	*body_out = buf_bytes(plain);
	if (err < 0)
		request_refuse(s, slot, -err, "the body is not gzip, or inflates too far");
	return err >= 0;
}

/* The policy key that the phone sent, in its query or as a header; whether it did. */
static bool policy_key_of(const struct active *a, uint32_t *key_out)
{
	uint64_t key;

	*key_out = a->query.policy_key;
	if (!a->query.is_base64 &&
		bytes_to_u64(http1_header(&a->http, "X-MS-PolicyKey"), UINT32_MAX, &key)) {
		*key_out = (uint32_t)key;
		return true;
	}
	return a->query.has_policy_key;
}

void hanging_ping(struct shard *s, uint32_t slot)
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
	struct bytes body;
	uint64_t order = presence_order(s->server->presence), newer;
	uint32_t policy_key;
	bool has_key = policy_key_of(a, &policy_key);
	struct db_txn txn;
	char address[64];
	int err, status;

	METRIC_INC(PINGS);
	if (!ping_body(s, slot, &plain, &body)) {
		buf_free(&plain);
		return;
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
		park_supersede_here(s, a->mailbox, gate.id, order, &newer);
		park_tell_others(s, a->mailbox, gate.id, order);
		conn_address(&c->peer, address);
		device_note_seen(s->server->writer, a->mailbox, &gate, shard_wall_ms(s), address);
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
		device_note_ping(s->server->writer, a->mailbox, gate.id, &p);
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
			.due_ms = park_heartbeat_end_ms(s, p.heartbeat_s),
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
 * loop). */
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

void hanging_sync(struct shard *s, uint32_t slot, const struct eas_answer *ans)
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
		.due_ms =
			a->resume_due_ms ? a->resume_due_ms : park_heartbeat_end_ms(s, ans->wait_s),
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
		park_supersede_here(s, spec.mailbox, spec.device, spec.order, &newer);
	if (sync_needs_folders(s, &spec)) {
		request_answer(s, slot, SYNC_HIERARCHY,
			"the folder hierarchy changed since the last FolderSync", sync_12,
			SYNC_12_BYTES);
		return;
	}
	log_parked(s, slot, "Sync", ans->wait_s, ans->folder_count);
	if (!park(s, slot, &spec))
		request_refuse(s, slot, 503, "no memory for the folder list");
	else
		/* The worker's snapshot is older than what this shard has read of the journal, and
		 * the password was checked earlier still: rows in between would be missed, so look
		 * at everything again at once. */
		changes_recheck(s, slot);
}
