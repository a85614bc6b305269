/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One HTTP request: where it goes, who asks, which command, and the answer's head, log line and
 * explanation. Ping is hanging.c; every other command runs on a worker through eas_run. */
#include "core/shard_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/device_notes.h"
#include "core/eas/gzip.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

static const char wbxml_type[] = "application/vnd.ms-sync.wbxml";
static const char text_type[] = "text/plain; charset=utf-8";

enum { GZIP_WORTHWHILE_BYTES = 1024 };

uint64_t request_new_id(struct shard *s)
{
	/* Unique in this process, and not a count that tells outsiders how busy we are. */
	uint64_t v = (s->id_counter++ << 6 | s->index) + s->server->id_seed;

	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

/* ---- answering ------------------------------------------------------------------------------- */

void request_log(struct shard *s, uint32_t slot, const char *user, const char *device,
	const char *command, int status, int eas_status, const char *why, uint64_t out_bytes,
	uint64_t started_ms)
{
	const struct conn *c = &s->conns[slot];
	struct log_line l;
	int64_t elapsed_ms;
	char peer[64];

	/* Our own failures are told in any case. */
	if (!shard_config(s)->log_requests && status < 500)
		return;
	log_begin(&l, LOG_INFO, "request");
	if (l.skip)
		return;
	conn_address(&c->peer, peer);
	log_hex(&l, "id", c->request_id);
	log_str(&l, "rip", peer);
	if (user && user[0])
		log_str(&l, "user", user);
	if (device && device[0])
		log_str(&l, "dev", device);
	log_str(&l, "cmd", command);
	if (c->version) {
		char as[] = {(char)('0' + c->version / 100), (char)('0' + c->version / 10 % 10),
			'.', (char)('0' + c->version % 10), 0};

		log_str(&l, "as", as);
	}
	log_i64(&l, "status", status);
	if (eas_status)
		log_i64(&l, "eas", eas_status);
	if (c->active && c->active->request_bytes)
		log_u64(&l, "in", c->active->request_bytes);
	log_u64(&l, "out", out_bytes);
	/* (of a hanging request from the wall clock, which may have been set back) */
	elapsed_ms = (int64_t)(loop_now_ms(s->loop) - started_ms);
	log_i64(&l, "ms", elapsed_ms > 0 ? elapsed_ms : 0);
	log_str(&l, "why", why);
	log_end(&l);
}

static void record_why(struct shard *s, uint32_t slot, int status, int eas_status, const char *why,
	const char *detail)
{
	const struct conn *c = &s->conns[slot];
	const struct active *a = c->active;
	struct why_entry e = {
		.request_id = c->request_id,
		.wall_ms = shard_wall_ms(s),
		.http_status = status,
		.eas_status = eas_status,
	};
	struct bytes agent = {0};

	snprintf(e.reason, sizeof(e.reason), "%s", why ? why : http1_reason(status));
	if (detail)
		snprintf(e.detail, sizeof(e.detail), "%s", detail);
	conn_address(&c->peer, e.peer);
	if (a && a->has_request) {
		snprintf(
			e.user, sizeof(e.user), "%.95s", a->address[0] ? a->address : a->cred.user);
		snprintf(e.device_id, sizeof(e.device_id), "%.64s", a->query.device_id);
		snprintf(e.command, sizeof(e.command), "%.23s", eas_command_name(a->query.command));
		agent = http1_header(&a->http, "User-Agent");
		bytes_to_strz(agent, e.user_agent, sizeof(e.user_agent));
	}
	why_record(&e);
}

static void count_status(int status)
{
	METRIC_INC(HTTP_REQUESTS);
	if (status < 400)
		METRIC_INC(HTTP_2XX);
	else if (status < 500)
		METRIC_INC(HTTP_4XX);
	else
		METRIC_INC(HTTP_5XX);
}

/* Writes the head into a->reply, in front of a body that follows. */
static void put_head(struct shard *s, uint32_t slot, int status, const char *type,
	uint64_t content_length, bool gzip, const char *extra)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	char id[20];
	struct http1_head h = {
		.content_type = type,
		.content_length = content_length,
		.keep_alive = c->flags & CONN_KEEP_ALIVE,
		.say_keep_alive = c->flags & CONN_HTTP10,
		.gzip = gzip,
		.request_id = id,
		.extra = extra,
	};
	uint8_t *d = buf_room(&a->reply, 1024);

	snprintf(id, sizeof(id), "%016llx", (unsigned long long)c->request_id);
	if (d)
		a->reply.n += http1_head((char *)d, 1024, status, &h);
}

/* A refusal or other small text answer, with its reason in header, body and log. */
static void answer_text(
	struct shard *s, uint32_t slot, int status, const char *why, const char *extra)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	char body[256], headers[512];
	int n;

	if (s->draining)
		c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	n = snprintf(body, sizeof(body), "%d %s: %s\r\nrequest %016llx\r\n", status,
		http1_reason(status), why, (unsigned long long)c->request_id);
	snprintf(headers, sizeof(headers), "X-Roost-Reason: %s\r\n%s", why, extra ? extra : "");
	a->reply.n = 0;
	put_head(s, slot, status, text_type, (uint64_t)n, false, headers);
	if (!a->has_request || a->http.method != HTTP1_HEAD)
		buf_add(&a->reply, body, (size_t)n);
	count_status(status);
	if (status >= 400)
		record_why(s, slot, status, 0, why, NULL);
	request_log(s, slot, a->address[0] ? a->address : a->cred.user, a->query.device_id,
		a->has_request ? eas_command_name(a->query.command) : "-", status, 0, why,
		(uint64_t)n, a->has_request ? a->started_ms : loop_now_ms(s->loop));
	conn_reply(s, slot);
}

void request_bad(struct shard *s, uint32_t slot, int status, const char *why)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	if (a->has_request && a->discard_body) {
		/* It was refused before its body became wrong, or late. */
		answer_text(s, slot, a->refuse_status, a->refuse_why,
			a->head_extra[0] ? a->head_extra : NULL);
		return;
	}
	if (!a->has_request) {
		c->request_id = request_new_id(s);
		a->query.device_id[0] = 0;
		a->query.command = EAS_COMMAND_NONE;
		a->cred.user[0] = 0;
	}
	answer_text(s, slot, status, why, NULL);
}

static bool has_body(const struct active *a)
{
	return a->http.chunked || a->http.content_length > 0;
}

/* Refuses; a body that is still on its way is read away first: the phone can then use the
 * connection again (each new one costs it a handshake), and closing before the body's end would
 * send a reset that may overtake the answer, so that a phone with an old password never learns why.
 */
static void refuse(struct shard *s, uint32_t slot, int status, const char *why, const char *extra)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	if (c->state == CONN_HEAD || c->state == CONN_AUTH) {
		if (has_body(a) && a->http.expect_continue) {
			c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
		} else if (has_body(a)) {
			a->discard_body = true;
			a->refuse_status = status;
			a->refuse_why = why;
			snprintf(a->head_extra, sizeof(a->head_extra), "%s", extra ? extra : "");
			http1_body_start(&a->body_state, &a->http,
				(uint64_t)shard_config(s)->http_body_bytes_max);
			conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
			c->state = CONN_BODY;
			request_body(s, slot);
			return;
		}
	}
	answer_text(s, slot, status, why, extra);
}

static void refuse_busy(struct shard *s, uint32_t slot, const char *why)
{
	int64_t base = shard_config(s)->core_retry_after_s;
	char extra[48];

	/* Spread, so that those refused together do not come back together. */
	snprintf(extra, sizeof(extra), "Retry-After: %" PRId64 "\r\n",
		base + shard_random(s) % (uint32_t)(base + 1));
	refuse(s, slot, 503, why, extra);
}

bool request_no_room(struct shard *s, uint32_t slot)
{
	static const char why[] = "too many requests under way";
	struct conn *c = &s->conns[slot];
	int64_t base = shard_config(s)->core_retry_after_s;
	char text[512], extra[128], id[20];
	struct http1_head h = {.request_id = id, .extra = extra};
	size_t n;

	if (c->flags & CONN_SENDING || !conn_can_send_small(s))
		return false;
	queue_remove(s, slot);
	c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	c->request_id = request_new_id(s);
	snprintf(id, sizeof(id), "%016llx", (unsigned long long)c->request_id);
	snprintf(extra, sizeof(extra), "X-Roost-Reason: %s\r\nRetry-After: %" PRId64 "\r\n", why,
		base + shard_random(s) % (uint32_t)(base + 1));
	n = http1_head(text, sizeof(text), 503, &h);
	CHECK(n > 0);
	if (!conn_send_small(s, slot, text, n))
		return false;
	count_status(503);
	record_why(s, slot, 503, 0, why, NULL);
	request_log(s, slot, "", "", "-", 503, 0, why, n, loop_now_ms(s->loop));
	return true;
}

void request_refuse(struct shard *s, uint32_t slot, int status, const char *why)
{
	if (status == 503)
		refuse_busy(s, slot, why);
	else
		refuse(s, slot, status, why, NULL);
}

void request_answer(struct shard *s, uint32_t slot, int eas_status, const char *why,
	const uint8_t *doc, size_t n)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	if (s->draining)
		c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	a->reply.n = 0;
	put_head(s, slot, 200, wbxml_type, n, false, NULL);
	buf_add(&a->reply, doc, n);
	count_status(200);
	if (why)
		record_why(s, slot, 200, eas_status, why, NULL);
	request_log(s, slot, a->address, a->query.device_id, eas_command_name(a->query.command),
		200, eas_status, why, n, a->started_ms);
	conn_reply(s, slot);
}

static void answer_wbxml(struct shard *s, uint32_t slot, int eas_status, const char *why)
{
	struct buf doc = {0};

	eas_status_only(s->conns[slot].active->query.command, eas_status, &doc);
	request_answer(s, slot, eas_status, why, doc.p, doc.n);
	buf_free(&doc);
}

/* ---- who asks
 * ------------------------------------------------------------------------------------ */

static void answer_options(struct shard *s, uint32_t slot)
{
	struct active *a = s->conns[slot].active;
	char extra[1024];

	snprintf(extra, sizeof(extra),
		"MS-Server-ActiveSync: 14.3\r\nMS-ASProtocolVersions: %s\r\n"
		"MS-ASProtocolCommands: %s\r\nPublic: OPTIONS,POST\r\nAllow: OPTIONS,POST\r\n",
		eas_versions(), eas_commands());
	a->reply.n = 0;
	{
		struct conn *c = &s->conns[slot];
		char id[20];
		struct http1_head h = {
			.keep_alive = c->flags & CONN_KEEP_ALIVE,
			.say_keep_alive = c->flags & CONN_HTTP10,
			.request_id = id,
			.extra = extra,
		};
		uint8_t *d = buf_room(&a->reply, 2048);

		snprintf(id, sizeof(id), "%016llx", (unsigned long long)c->request_id);
		if (d)
			a->reply.n += http1_head((char *)d, 2048, 200, &h);
	}
	count_status(200);
	request_log(s, slot, a->address, "", "OPTIONS", 200, 0, NULL, 0, a->started_ms);
	conn_reply(s, slot);
}

/* Known and allowed: which command, which version, and is the body to come? */
static void identified(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	const char *why = NULL;
	struct bytes v;
	int r, version;

	if (a->http.method == HTTP1_OPTIONS) {
		if (has_body(a))
			c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
		answer_options(s, slot);
		return;
	}
	r = eas_query_parse(a->http.query, &a->query, &why);
	if (r == EAS_QUERY_UNKNOWN_COMMAND) {
		refuse(s, slot, 501, why, NULL);
		return;
	}
	if (r < 0) {
		a->query.command = EAS_COMMAND_NONE;
		a->query.device_id[0] = 0;
		refuse(s, slot, 400, why, NULL);
		return;
	}
	version = a->query.version;
	if (!a->query.is_base64) {
		v = http1_header(&a->http, "MS-ASProtocolVersion");
		version = v.n ? eas_version_parse(v) : 0;
		if (version == 0) {
			refuse(s, slot, 400, "MS-ASProtocolVersion is missing", NULL);
			return;
		}
	}
	if (version != 121 && version != 140 && version != 141 && version != 160 &&
		version != 161) {
		refuse(s, slot, 400, "protocol version not supported", NULL);
		return;
	}
	c->version = (uint16_t)version;
	if (!a->query.device_id[0] || !a->query.device_type[0]) {
		why = a->query.device_id[0] ? "DeviceType is missing" : "DeviceId is missing";
		if (version < 140 || has_body(a))
			refuse(s, slot, 400, why, NULL);
		else
			answer_wbxml(s, slot, a->query.device_id[0] ? 109 : 108, why);
		return;
	}
	if (!has_body(a)) {
		request_body(s, slot);
		return;
	}
	/* (seconds + a second per 4 KiB: slow networks yes, slow attackers no) */
	conn_deadline(s, slot,
		shard_config(s)->http_request_timeout_s +
			(int64_t)(a->http.content_length / 4096 > 3600
					  ? 3600
					  : a->http.content_length / 4096));
	http1_body_start(&a->body_state, &a->http, (uint64_t)shard_config(s)->http_body_bytes_max);
	c->state = CONN_BODY;
	if (a->http.expect_continue && a->more.n == 0) {
		static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

		conn_say(s, slot, go_on, sizeof(go_on) - 1);
		if (c->state == CONN_CLOSING)
			return;
	}
	request_body(s, slot);
}

static void unauthorized(struct shard *s, uint32_t slot, const char *why)
{
	refuse(s, slot, 401, why, "WWW-Authenticate: Basic realm=\"Roost\", charset=\"UTF-8\"\r\n");
}

static void verdict(struct shard *s, uint32_t slot, enum cred_result r)
{
	struct active *a = s->conns[slot].active;
	char peer[64];

	switch (r) {
	case CRED_OK:
		identified(s, slot);
		return;
	case CRED_DISABLED:
		refuse(s, slot, 403, "the account is disabled", NULL);
		return;
	case CRED_BAD:
		conn_address(&s->conns[slot].peer, peer);
		cred_log_failure(peer, a->cred.user, "basic", "", "password");
		unauthorized(s, slot, "wrong user name or password");
		return;
	case CRED_BUSY:
		refuse_busy(s, slot, "too many password checks at once");
		return;
	default:
		refuse_busy(s, slot, "the store cannot be read");
		return;
	}
}

/* On a pool thread: only carries the job home. */
static void cred_done(struct cred_job *j)
{
	struct active *a = container_of(j, struct active, cred);

	a->cred_msg.kind = MSG_CRED_DONE;
	loop_post(a->shard->loop, &a->cred_msg);
}

void request_cred_done(struct shard *s, struct active *a)
{
	enum cred_result r = a->cred.result;

	a->busy = false;
	if (a->slot == WAITER_NONE) {
		active_free(s, a);
		return;
	}
	if (s->conns[a->slot].state == CONN_CLOSING)
		return; /* conn_released frees it */
	CHECK(s->conns[a->slot].state == CONN_AUTH && s->conns[a->slot].active == a);
	if (r == CRED_OK || r == CRED_DISABLED) {
		a->mailbox = a->cred.identity.mailbox;
		snprintf(a->address, sizeof(a->address), "%s", a->cred.identity.address);
	}
	verdict(s, a->slot, r);
}

static void authenticate(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	struct bytes auth = http1_header(&a->http, "Authorization");
	char plain[512], *user, *password;
	enum cred_result r = CRED_ERROR;
	struct account account;
	struct db_txn txn;

	if (auth.n == 0) {
		unauthorized(s, slot, "credentials are needed");
		return;
	}
	if (!http1_basic(auth, plain, sizeof(plain), &user, &password)) {
		unauthorized(s, slot, "the Authorization header is not Basic credentials");
		return;
	}
	snprintf(a->cred.user, sizeof(a->cred.user), "%s", user);
	if (strlen(user) >= sizeof(a->cred.user) || strlen(password) >= sizeof(a->cred.password)) {
		sodium_memzero(plain, sizeof(plain));
		unauthorized(s, slot, "wrong user name or password");
		return;
	}
	if (db_read(s->server->db, &txn) == DB_OK) {
		r = cred_check(s->server->credentials, &txn, user, password, &a->mailbox);
		if ((r == CRED_OK || r == CRED_DISABLED) &&
			account_by_mailbox(&txn, a->mailbox, &account) == DB_OK)
			snprintf(a->address, sizeof(a->address), "%s", account.address);
		db_read_end(&txn);
	}
	if (r != CRED_UNKNOWN) {
		sodium_memzero(plain, sizeof(plain));
		verdict(s, slot, r);
		return;
	}
	snprintf(a->cred.password, sizeof(a->cred.password), "%s", password);
	sodium_memzero(plain, sizeof(plain));
	a->cred.done = cred_done;
	c->state = CONN_AUTH;
	wheel_cancel(s->wheel, slot);
	a->busy = true;
	if (!cred_submit(s->server->credentials, &a->cred)) {
		a->busy = false;
		sodium_memzero(a->cred.password, sizeof(a->cred.password));
		verdict(s, slot, CRED_BUSY);
	}
}

/* ---- the request's stages
 * ------------------------------------------------------------------------- */

void request_start(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	c->request_id = request_new_id(s);
	c->version = 0;
	c->flags &= (uint8_t) ~(CONN_KEEP_ALIVE | CONN_HTTP10);
	if (a->http.keep_alive && !s->draining)
		c->flags |= CONN_KEEP_ALIVE;
	if (a->http.minor == 0)
		c->flags |= CONN_HTTP10;
	a->query.command = EAS_COMMAND_NONE;
	a->query.device_id[0] = 0;
	a->cred.user[0] = 0;
	if (!bytes_eq_nocase(a->http.path, "/Microsoft-Server-ActiveSync") &&
		!bytes_eq_nocase(a->http.path, "/Microsoft-Server-ActiveSync/")) {
		refuse(s, slot, 404, "nothing here; ActiveSync is at /Microsoft-Server-ActiveSync",
			NULL);
		return;
	}
	if (a->http.method != HTTP1_POST && a->http.method != HTTP1_OPTIONS) {
		/* MS-ASHTTP 2.2.2.1.1 wants 501 for methods that are not implemented. */
		bool known = a->http.method != HTTP1_OTHER;

		refuse(s, slot, known ? 405 : 501,
			"ActiveSync knows the methods OPTIONS and POST; this is a server for "
			"phones",
			"Allow: OPTIONS,POST\r\n");
		return;
	}
	authenticate(s, slot);
}

static bool content_type_ok(const struct active *a, struct bytes type)
{
	size_t n = 0;

	while (n < type.n && type.p[n] != ';' && type.p[n] != ' ')
		n++;
	type.n = n;
	/* Absent is accepted: the body says what it is. */
	return type.n == 0 || bytes_eq_nocase(type, "application/vnd.ms-sync.wbxml") ||
	       bytes_eq_nocase(type, "application/vnd.ms-sync") ||
	       (bytes_eq_nocase(type, "message/rfc822") && a->query.command <= EAS_SMART_REPLY &&
		       a->query.command >= EAS_SEND_MAIL);
}

/* ---- commands on workers
 * ---------------------------------------------------------------------------- */

static bool load_resumed(struct job *j)
{
	struct db_txn txn;
	struct account acc;
	struct device d;
	int err = db_read(j->context.db, &txn);

	if (err)
		return false;
	err = account_by_mailbox(&txn, j->mailbox, &acc);
	if (!err)
		err = device_get(&txn, j->mailbox, j->device, &d);
	db_read_end(&txn);
	if (err || acc.disabled)
		return false;
	snprintf(j->address, sizeof(j->address), "%s", acc.address);
	snprintf(j->device_id, sizeof(j->device_id), "%s", d.device_id);
	snprintf(j->device_type, sizeof(j->device_type), "%s", d.device_type);
	snprintf(j->user_agent, sizeof(j->user_agent), "%s", d.user_agent);
	j->req.address = j->address;
	j->req.device_id = bytes_str(j->device_id);
	j->req.device_type = bytes_str(j->device_type);
	j->req.user_agent = bytes_str(j->user_agent);
	j->req.has_policy_key = true;
	j->req.policy_key = d.policy_key;
	return true;
}

static void run_command(struct job *j)
{
	struct buf plain = {0}, packed = {0};
	int r;

	if (j->gzip_body) {
		r = gzip_inflate(j->req.body, j->body_max, &plain);
		if (r < 0) {
			j->answer.http_status = -r;
			j->answer.reason = r == -413
						   ? "the body inflates beyond http.body_bytes_max"
						   : "the body is not gzip";
			buf_free(&plain);
			return;
		}
		j->req.body = buf_bytes(&plain);
		j->req.body_is_empty = plain.n == 0;
	}
	eas_run(&j->context, &j->req, &j->answer);
	buf_free(&plain);
	if (j->gzip && j->answer.disposition == EAS_ANSWER &&
		j->answer.body.n >= GZIP_WORTHWHILE_BYTES &&
		gzip_deflate(buf_bytes(&j->answer.body), &packed) && packed.n < j->answer.body.n) {
		buf_free(&j->answer.body);
		j->answer.body = packed;
	} else {
		j->gzip = false;
		buf_free(&packed);
	}
}

static void note_seen(const struct job *j)
{
	struct device_gate gate;
	struct db_txn txn;
	int err;

	if (j->req.resumed || db_read(j->context.db, &txn))
		return;
	err = device_gate(&txn, j->req.mailbox, j->req.device_id, &gate);
	db_read_end(&txn);
	if (err == DB_OK)
		device_note_seen(
			j->shard->server->writer, j->req.mailbox, &gate, j->req.now_ms, j->peer);
}

static void run_job(struct work *w)
{
	struct job *j = container_of(w, struct job, work);
	uint64_t start = clock_mono_ns();

	j->answer = (struct eas_answer){.http_status = 200};
	if (!j->req.resumed || load_resumed(j)) {
		run_command(j);
	} else {
		/* The account or device is gone: an empty answer, and the next request meets it. */
		j->answer.disposition = EAS_ANSWER;
		j->gzip = false;
	}
	note_seen(j);
	metric_observe_ns(H_COMMAND, clock_mono_ns() - start);
	loop_post(j->shard->loop, &j->msg);
}

static void prepare_job(struct shard *s, uint32_t slot, struct active *a)
{
	struct job *j = &a->job;

	j->msg.kind = MSG_JOB_DONE;
	j->work.run = run_job;
	j->shard = s;
	j->active = a;
	j->context = server_eas(s->server);
	j->body_max = (uint64_t)shard_config(s)->http_body_bytes_max;
	conn_address(&s->conns[slot].peer, j->peer);
}

static void submit_command(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	struct job *j = &a->job;
	struct bytes v;
	uint64_t key;

	prepare_job(s, slot, a);
	j->gzip = a->http.accepts_gzip;
	j->gzip_body = a->http.gzip_body;
	j->req = (struct eas_request){
		.version = c->version,
		.command = a->query.command,
		.query = &a->query,
		.mailbox = a->mailbox,
		.address = a->address,
		.device_id = bytes_str(a->query.device_id),
		.device_type = bytes_str(a->query.device_type),
		.user_agent = http1_header(&a->http, "User-Agent"),
		.peer = j->peer,
		.has_policy_key = a->query.has_policy_key,
		.policy_key = a->query.policy_key,
		.accept_multipart = a->query.accept_multipart,
		.body_is_empty = a->body.n == 0,
		.content_type = http1_header(&a->http, "Content-Type"),
		.body = buf_bytes(&a->body),
		.now_ms = shard_wall_ms(s),
		.arena = &j->arena,
	};
	if (!a->query.is_base64) {
		v = http1_header(&a->http, "X-MS-PolicyKey");
		if (bytes_to_u64(v, UINT32_MAX, &key)) {
			j->req.has_policy_key = true;
			j->req.policy_key = (uint32_t)key;
		}
		v = http1_header(&a->http, "MS-ASAcceptMultiPart");
		j->req.accept_multipart = bytes_eq_nocase(v, "T");
	}
	a->order = presence_order(s->server->presence);
	c->state = CONN_COMMAND;
	wheel_cancel(s->wheel, slot);
	a->busy = work_submit(s->server->workers, &j->work);
	if (!a->busy) {
		METRIC_INC(WORK_QUEUE_FULL);
		refuse_busy(s, slot, "too many commands at once");
	}
}

bool request_resume_sync(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct waiter *w = waiters_get(s->waiters, slot);
	bool had_one = c->active != NULL;
	/* Also beyond core.requests_in_flight_max: requests that come in slowly must not keep those
	 * that wait from being answered. The workers' queue bounds how many there can be. */
	struct active *a = active_take(s, slot, true);
	struct job *j;

	if (!a)
		return false;
	j = &a->job;
	prepare_job(s, slot, a);
	a->query = (struct eas_query){.command = EAS_SYNC};
	a->has_request = true;
	a->mailbox = w->mailbox;
	a->started_ms = w->since_wall_ms - (uint64_t)s->server->wall_offset_ms;
	j->gzip = j->gzip_body = false;
	j->mailbox = w->mailbox;
	j->device = w->device;
	j->req = (struct eas_request){
		.version = c->version,
		.command = EAS_SYNC,
		.query = &a->query,
		.mailbox = w->mailbox,
		.device = w->device,
		.peer = j->peer,
		.body_is_empty = true,
		.now_ms = shard_wall_ms(s),
		.resumed = true,
		.arena = &j->arena,
	};
	a->busy = work_submit(s->server->workers, &j->work);
	if (!a->busy && !had_one)
		active_release(s, slot);
	return c->active && c->active->busy;
}

/* The command has spoken: send, or hang. */
void request_job_done(struct shard *s, struct job *j)
{
	struct active *a = j->active;
	struct eas_answer *ans = &j->answer;
	uint32_t slot = a->slot;
	struct conn *c;

	a->busy = false;
	if (slot == WAITER_NONE) {
		buf_free(&ans->body);
		active_free(s, a);
		return;
	}
	c = &s->conns[slot];
	if (c->state == CONN_CLOSING) {
		buf_free(&ans->body); /* the rest goes with conn_released */
		return;
	}
	CHECK(c->state == CONN_COMMAND && c->active == a);
	if (j->req.resumed) {
		snprintf(a->address, sizeof(a->address), "%s", j->address);
		snprintf(a->query.device_id, sizeof(a->query.device_id), "%s", j->device_id);
	}
	if (ans->disposition == EAS_PARK_SYNC && !s->draining) {
		hanging_sync(s, slot, ans);
		buf_free(&ans->body);
		return;
	}
	if (s->draining)
		c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	if (ans->http_status >= 400 && ans->body.n == 0) {
		answer_text(s, slot, ans->http_status,
			ans->reason ? ans->reason : http1_reason(ans->http_status),
			ans->headers[0] ? ans->headers : NULL);
		return;
	}
	a->reply.n = 0;
	put_head(s, slot, ans->http_status, ans->content_type ? ans->content_type : wbxml_type,
		ans->body.n, j->gzip, ans->headers[0] ? ans->headers : NULL);
	buf_add(&a->reply, ans->body.p, ans->body.n);
	count_status(ans->http_status);
	if (ans->reason)
		record_why(s, slot, ans->http_status, ans->eas_status, ans->reason, NULL);
	request_log(s, slot, a->address, a->query.device_id, eas_command_name(j->req.command),
		ans->http_status, ans->eas_status, ans->reason, ans->body.n, a->started_ms);
	buf_free(&ans->body);
	conn_reply(s, slot);
}

void request_body(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	const char *why = NULL;
	size_t used = 0;
	int r = 1;

	if (c->state == CONN_BODY) {
		r = http1_body_feed(&a->body_state, a->more.p, a->more.n, &used,
			a->discard_body ? NULL : &a->body, &why);
		a->request_bytes += used;
		if (used) {
			memmove(a->more.p, a->more.p + used, a->more.n - used);
			a->more.n -= used;
		}
	}
	if (r == 0) {
		conn_receive(s, slot);
		return;
	}
	if (r < 0) {
		if (r == -503)
			METRIC_INC(NO_MEMORY);
		request_bad(s, slot, -r, why);
		return;
	}
	if (a->discard_body) {
		answer_text(s, slot, a->refuse_status, a->refuse_why,
			a->head_extra[0] ? a->head_extra : NULL);
		return;
	}
	if (a->body.failed) {
		METRIC_INC(NO_MEMORY);
		refuse_busy(s, slot, "no memory for the body");
		return;
	}
	if (a->body.n && !content_type_ok(a, http1_header(&a->http, "Content-Type"))) {
		if (c->version >= 140)
			answer_wbxml(s, slot, 101, "Content-Type is not ActiveSync's");
		else
			answer_text(s, slot, 400, "Content-Type is not ActiveSync's", NULL);
		return;
	}
	if (a->query.command == EAS_PING)
		hanging_ping(s, slot);
	else
		submit_command(s, slot);
}
