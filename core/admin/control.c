/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The control socket: DIR/control, mode 0600, JSON lines.
 *
 *   {"verb": "ping-list", "user": "a@example.test", "device": "ID", "limit": 100}
 *   -> {"parked": {...}} for each, then {"ok": true, "count": 2, "shown": 2, "silent_shards": 0}
 *   {"verb": "top", "limit": 20}  -> the same, and "stats" in the last line
 *   {"verb": "why", "id": "00000000000004d2"} -> {"ok": true, "why": {..., "text": "..."}}
 *   {"verb": "stats" | "health" | "reload" | "stop"}
 *   {"verb": "upgrade", "drain": false} -> {"ok": true, "pid": 4711, "version": "0.2.0",
 *       "connections": 5, "parked": 4, "left": 0, "pause_ms": 1.5, "export_ms": 0.6,
 *       "restore_ms": 0.9, "quiet_ms": 2, "copy_ms": 10, "start_ms": 80}
 *
 * Whoever may connect may do all of it: the file's mode is the only gate. */
#include "core/address.h"
#include "core/admin/admin_priv.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/metrics.h"
#include "core/version.h"
#include "store/account.h"
#include "store/device.h"
#include "store/mailbox.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

json_t *admin_text_json(const char *text)
{
	struct buf b = {0};
	json_t *j;

	if (bytes_is_utf8(bytes_str(text)))
		return json_string(text);
	for (; *text; text++) {
		if ((uint8_t)*text >= 0x80)
			buf_printf(&b, "\\x%02x", (uint8_t)*text);
		else
			buf_add_byte(&b, (uint8_t)*text);
	}
	j = json_stringn((const char *)b.p, b.n);
	buf_free(&b);
	return j;
}

json_t *admin_time_json(uint64_t wall_ms)
{
	time_t t = (time_t)(wall_ms / 1000);
	struct tm tm;
	char text[40];

	if (wall_ms == 0 || !gmtime_r(&t, &tm))
		return json_null();
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

static json_t *id_json(uint64_t id)
{
	char text[20];

	snprintf(text, sizeof(text), "%016" PRIx64, id);
	return json_string(text);
}

/* Takes the reference. */
static void put_line(struct buf *out, json_t *j)
{
	char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;

	if (text) {
		buf_add_str(out, text);
		buf_add_byte(out, '\n');
	} else {
		out->failed = true; /* no memory: the connection is closed without an answer */
	}
	free(text);
	json_decref(j);
}

static void put_error(struct buf *out, const char *code, const char *error)
{
	put_line(out, json_pack("{s:b, s:s, s:o}", "ok", 0, "code", code, "error",
			      admin_text_json(error)));
}

/* --- parked requests ----------------------------------------------------------------- */

/* The newest `limit` of any number: twice the limit is kept at most, and cut back when it is full.
 */
struct rows {
	struct admin_parked *row;
	size_t n, room, limit;
	uint64_t count;
};

static int newest_first(const void *a, const void *b)
{
	const struct admin_parked *x = a, *y = b;

	if (x->since_ms != y->since_ms)
		return x->since_ms < y->since_ms ? 1 : -1;
	return x->request_id < y->request_id ? 1 : x->request_id > y->request_id ? -1 : 0;
}

static void rows_cut(struct rows *r)
{
	if (r->n)
		qsort(r->row, r->n, sizeof(*r->row), newest_first);
	if (r->n > r->limit)
		r->n = r->limit;
}

static void rows_add(void *ctx, const struct admin_parked *p)
{
	struct rows *r = ctx;

	r->count++;
	if (r->limit == 0)
		return;
	if (r->n == 2 * r->limit)
		rows_cut(r);
	if (r->n == r->room) {
		size_t room = r->room ? 2 * r->room : 64;
		struct admin_parked *row = realloc(r->row, room * sizeof(*row));

		if (!row)
			return; /* counted all the same */
		r->row = row;
		r->room = room;
	}
	r->row[r->n++] = *p;
}

static json_t *folders_json(struct db_txn *txn, const struct admin_parked *p)
{
	json_t *list = json_array();
	uint32_t n = p->folder_count < ARRAY_LEN(p->folders) ? p->folder_count
							     : (uint32_t)ARRAY_LEN(p->folders);

	for (uint32_t i = 0; i < n; i++) {
		struct folder f;
		char id[16];

		snprintf(id, sizeof(id), "%" PRIu32, p->folders[i]);
		if (txn && folder_get(txn, p->mailbox, p->folders[i], &f) == 0)
			json_array_append_new(list, admin_text_json(f.name));
		else
			json_array_append_new(list, json_string(id));
	}
	return list;
}

static json_t *parked_json(const struct admin_source *src, const struct admin_parked *p)
{
	char address[ADDRESS_TEXT_BYTES];
	struct account account = {0};
	struct device device = {0};
	struct db_txn txn;
	bool reading = src->db && db_read(src->db, &txn) == 0;
	json_t *j = json_object();

	if (reading && account_by_mailbox(&txn, p->mailbox, &account) != 0)
		account.address[0] = 0;
	if (reading && device_get(&txn, p->mailbox, p->device, &device) != 0)
		device = (struct device){0};
	address_format_ip(p->ip, address);
	json_object_set_new(j, "user", admin_text_json(account.address));
	json_object_set_new(j, "device", admin_text_json(device.device_id));
	json_object_set_new(j, "device_type", admin_text_json(device.device_type));
	json_object_set_new(j, "model", admin_text_json(device.model));
	json_object_set_new(j, "agent", admin_text_json(device.user_agent));
	json_object_set_new(j, "command", json_string(p->sync ? "Sync" : "Ping"));
	json_object_set_new(j, "since", admin_time_json(p->since_ms));
	json_object_set_new(j, "due", admin_time_json(p->due_ms));
	json_object_set_new(j, "since_ms", json_integer((json_int_t)p->since_ms));
	json_object_set_new(j, "due_ms", json_integer((json_int_t)p->due_ms));
	json_object_set_new(j, "heartbeat_s", json_integer(p->heartbeat_s));
	json_object_set_new(j, "folders", folders_json(reading ? &txn : NULL, p));
	json_object_set_new(j, "folder_count", json_integer(p->folder_count));
	json_object_set_new(j, "address", admin_text_json(address));
	json_object_set_new(j, "port", json_integer(p->port));
	json_object_set_new(j, "shard", json_integer(p->shard));
	json_object_set_new(j, "slot", json_integer(p->slot));
	json_object_set_new(j, "request_id", id_json(p->request_id));
	if (reading)
		db_read_end(&txn);
	return j;
}

/* A DeviceId is a text that the shards do not keep: rows are held against the store. */
static void rows_keep_device(const struct admin_source *src, struct rows *r, const char *device_id)
{
	struct device device;
	struct db_txn txn;
	size_t kept = 0;

	for (size_t i = 0; i < r->n; i++) {
		bool same = false;

		if (src->db && db_read(src->db, &txn) == 0) {
			same = device_get(&txn, r->row[i].mailbox, r->row[i].device, &device) ==
				       0 &&
			       bytes_eq_nocase(bytes_str(device.device_id), device_id);
			db_read_end(&txn);
		}
		if (same)
			r->row[kept++] = r->row[i];
	}
	r->n = kept;
	r->count = kept;
}

static json_t *stats_json(const struct admin_source *src);

static void answer_parked(
	const struct admin_source *src, json_t *request, bool top, struct buf *out)
{
	const struct admin_server *s = &src->server;
	const char *user = json_string_value(json_object_get(request, "user"));
	const char *device = json_string_value(json_object_get(request, "device"));
	json_t *limit = json_object_get(request, "limit");
	struct rows rows = {.limit = CONTROL_ROWS_DEFAULT};
	struct account account;
	struct db_txn txn;
	unsigned silent = 0;
	uint32_t mailbox = 0;
	json_t *last;
	int err;

	if (limit) {
		json_int_t n = json_integer_value(limit);

		if (!json_is_integer(limit) || n < 0 || n > CONTROL_ROWS_MAX) {
			put_error(out, "usage", "limit: allowed: 0 to 100000");
			return;
		}
		rows.limit = (size_t)n;
	}
	if (user) {
		err = src->db ? db_read(src->db, &txn) : DB_NOT_FOUND;
		if (err == 0) {
			err = account_find(&txn, bytes_str(user), &account);
			db_read_end(&txn);
		}
		if (err != 0) {
			put_error(out, err == DB_NOT_FOUND ? "not-found" : "failed",
				err == DB_NOT_FOUND ? "no such account" : db_strerror(err));
			return;
		}
		mailbox = account.mailbox;
	}
	/* Looking for one device means looking at all rows; then the limit is for what is shown. */
	size_t shown = rows.limit;
	if (device)
		rows.limit = CONTROL_ROWS_MAX;
	if (s->parked)
		silent = s->parked(s->arg, mailbox, 0, rows_add, &rows);
	rows_cut(&rows);
	if (device)
		rows_keep_device(src, &rows, device);
	if (rows.n > shown)
		rows.n = shown;
	for (size_t i = 0; i < rows.n; i++)
		put_line(out, json_pack("{s:o}", "parked", parked_json(src, &rows.row[i])));
	last = json_pack("{s:b, s:I, s:I, s:i}", "ok", 1, "count", (json_int_t)rows.count, "shown",
		(json_int_t)rows.n, "silent_shards", (int)silent);
	if (top && last)
		json_object_set_new(last, "stats", stats_json(src));
	put_line(out, last);
	free(rows.row);
}

/* --- numbers ------------------------------------------------------------------------- */

static json_t *metrics_json(void)
{
	json_t *j = json_object();
	char name[160];

	for (int i = 0; i < METRIC_COUNT; i++) {
		const struct metric_info *m = &metric_infos[i];

		snprintf(name, sizeof(name), m->labels[0] ? "%s{%s}" : "%s", m->name, m->labels);
		json_object_set_new(j, name, json_integer(metrics_sum((enum metric_id)i)));
	}
	return j;
}

static json_t *latencies_json(void)
{
	uint64_t bucket[METRIC_HIST_BUCKETS], sum_ns, total;
	json_t *j = json_object();

	for (int h = 0; h < METRIC_HIST_COUNT; h++) {
		total = 0;
		metrics_hist_sum((enum metric_hist)h, bucket, &sum_ns);
		for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
			total += bucket[i];
		json_object_set_new(j, metric_hist_infos[h].name,
			json_pack("{s:I, s:f, s:f, s:f}", "count", (json_int_t)total, "mean_s",
				total ? (double)sum_ns / 1e9 / (double)total : 0.0, "p50_s",
				metrics_quantile_s(bucket, 0.5), "p99_s",
				metrics_quantile_s(bucket, 0.99)));
	}
	return j;
}

static json_t *stats_json(const struct admin_source *src)
{
	const struct admin_server *s = &src->server;
	json_t *j = json_object();
	struct db_stats db;
	const char *why = NULL;
	bool ready = !s->ready || s->ready(s->arg, &why);
	uint64_t now = clock_wall_ms();

	json_object_set_new(j, "version", admin_text_json(roost_version));
	json_object_set_new(j, "commit", admin_text_json(roost_commit));
	json_object_set_new(j, "started", admin_time_json(src->started_ms));
	json_object_set_new(j, "uptime_s",
		json_integer(
			(json_int_t)(now > src->started_ms ? (now - src->started_ms) / 1000 : 0)));
	json_object_set_new(j, "ready", json_boolean(ready));
	if (!ready)
		json_object_set_new(
			j, "not_ready_why", admin_text_json(why ? why : "no reason given"));
	if (s->shards)
		json_object_set_new(j, "shards", json_integer(s->shards(s->arg)));
	if (s->certificate_expiry_s)
		json_object_set_new(
			j, "certificate_expiry_s", json_integer(s->certificate_expiry_s(s->arg)));
	json_object_set_new(j, "resident_bytes", json_integer(admin_resident_bytes()));
	if (admin_store_stats(src, &db))
		json_object_set_new(j, "store",
			json_pack("{s:I, s:I, s:I, s:I, s:I}", "map_bytes",
				(json_int_t)db.map_bytes, "used_bytes", (json_int_t)db.used_bytes,
				"readers", (json_int_t)db.readers, "commits",
				(json_int_t)db.commits, "entries", (json_int_t)db.entries));
	json_object_set_new(j, "latency", latencies_json());
	json_object_set_new(j, "metrics", metrics_json());
	return j;
}

/* --- the other verbs ----------------------------------------------------------------- */

static void answer_why(json_t *request, struct buf *out)
{
	const char *text = json_string_value(json_object_get(request, "id"));
	struct why_entry e;
	struct buf prose = {0};
	uint64_t id = 0;
	char *end = NULL;
	json_t *j;

	if (text && *text && strlen(text) <= 16 &&
		strspn(text, "0123456789abcdefABCDEF") == strlen(text))
		id = strtoull(text, &end, 16);
	if (!end) {
		put_error(out, "usage", "a request id is 1 to 16 hexadecimal digits");
		return;
	}
	if (!why_find(id, &e)) {
		put_error(out, "not-found",
			"no refusal with this request id is remembered: it was answered without "
			"one, or 8192 others came after it, or the server has been started since");
		return;
	}
	why_explain(&e, &prose);
	buf_add_byte(&prose, 0);
	j = json_object();
	json_object_set_new(j, "request_id", id_json(e.request_id));
	json_object_set_new(j, "time", admin_time_json(e.wall_ms));
	json_object_set_new(j, "http_status", json_integer(e.http_status));
	json_object_set_new(j, "eas_status", json_integer(e.eas_status));
	json_object_set_new(j, "reason", admin_text_json(e.reason));
	json_object_set_new(j, "detail", admin_text_json(e.detail));
	json_object_set_new(j, "user", admin_text_json(e.user));
	json_object_set_new(j, "device", admin_text_json(e.device_id));
	json_object_set_new(j, "command", admin_text_json(e.command));
	json_object_set_new(j, "address", admin_text_json(e.peer));
	json_object_set_new(j, "agent", admin_text_json(e.user_agent));
	json_object_set_new(j, "text", admin_text_json(prose.failed ? "" : (const char *)prose.p));
	buf_free(&prose);
	put_line(out, json_pack("{s:b, s:o}", "ok", 1, "why", j));
}

static void answer_health(const struct admin_source *src, struct buf *out)
{
	const struct admin_server *s = &src->server;
	const char *live_why = NULL, *ready_why = NULL;
	bool live = !s->live || s->live(s->arg, &live_why);
	bool ready = !s->ready || s->ready(s->arg, &ready_why);
	json_t *j = json_pack("{s:b, s:b, s:b}", "ok", 1, "live", live, "ready", ready);

	if (j && !live)
		json_object_set_new(j, "not_live_why", admin_text_json(live_why ? live_why : ""));
	if (j && !ready)
		json_object_set_new(
			j, "not_ready_why", admin_text_json(ready_why ? ready_why : ""));
	put_line(out, j);
}

static void answer_reload(const struct admin_source *src, struct buf *out)
{
	const struct admin_server *s = &src->server;
	char why[600] = "this server cannot reload";

	if (s->reload && s->reload(s->arg, why, sizeof(why)))
		put_line(out, json_pack("{s:b}", "ok", 1));
	else
		put_error(out, "failed", why);
}

static void answer_upgrade(const struct admin_source *src, json_t *request, struct buf *out)
{
	const struct admin_server *s = &src->server;
	struct admin_upgrade u;
	char why[600] = "this server cannot be upgraded in place";

	if (s->upgrade && s->upgrade(s->arg, json_is_true(json_object_get(request, "drain")), &u,
				  why, sizeof(why)))
		put_line(out,
			json_pack("{s:b, s:i, s:o, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:I}",
				"ok", 1, "pid", u.pid, "version", admin_text_json(u.version),
				"connections", (json_int_t)u.connections, "parked",
				(json_int_t)u.parked, "left", (json_int_t)u.left, "pause_ms",
				(double)u.pause_us / 1000, "export_ms", (double)u.export_us / 1000,
				"restore_ms", (double)u.restore_us / 1000, "quiet_ms",
				(double)u.quiet_us / 1000, "copy_ms", (json_int_t)u.copy_ms,
				"start_ms", (json_int_t)u.start_ms));
	else
		put_error(out, "failed", why);
}

static void answer_stop(const struct admin_source *src, struct buf *out)
{
	put_line(out, json_pack("{s:b}", "ok", 1));
	if (src->server.stop)
		src->server.stop(src->server.arg);
}

void control_answer(const struct admin_source *src, struct bytes line, struct buf *out)
{
	json_error_t error;
	json_t *request = json_loadb((const char *)line.p, line.n, JSON_REJECT_DUPLICATES, &error);
	const char *verb = json_string_value(json_object_get(request, "verb"));
	char text[200];

	if (!json_is_object(request)) {
		snprintf(text, sizeof(text), "a request is one JSON object: %s",
			request ? "this is another value" : error.text);
		put_error(out, "usage", text);
	} else if (!verb) {
		put_error(out, "usage", "the request has no verb");
	} else if (strcmp(verb, "ping-list") == 0 || strcmp(verb, "top") == 0) {
		answer_parked(src, request, verb[0] == 't', out);
	} else if (strcmp(verb, "why") == 0) {
		answer_why(request, out);
	} else if (strcmp(verb, "stats") == 0) {
		put_line(out, json_pack("{s:b, s:o}", "ok", 1, "stats", stats_json(src)));
	} else if (strcmp(verb, "health") == 0) {
		answer_health(src, out);
	} else if (strcmp(verb, "reload") == 0) {
		answer_reload(src, out);
	} else if (strcmp(verb, "stop") == 0) {
		answer_stop(src, out);
	} else if (strcmp(verb, "upgrade") == 0) {
		answer_upgrade(src, request, out);
	} else {
		put_error(out, "usage",
			"unknown verb; allowed: ping-list, top, why, stats, health, reload, stop, "
			"upgrade");
	}
	json_decref(request);
}

enum serve_next control_input(void *arg, struct bytes in, size_t *used_out, struct buf *out)
{
	const uint8_t *end = in.n ? memchr(in.p, '\n', in.n) : NULL;

	if (!end) {
		if (in.n < CONTROL_LINE_BYTES)
			return SERVE_MORE;
		*used_out = in.n;
		put_error(out, "usage", "the request is longer than 4096 bytes");
		return SERVE_CLOSE;
	}
	*used_out = (size_t)(end - in.p) + 1;
	control_answer(arg, bytes_of(in.p, (size_t)(end - in.p)), out);
	return SERVE_AGAIN;
}
