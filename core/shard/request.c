/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One HTTP request: where it goes, who asks, which command, and its body. Ping is hanging.c, every other
 * command request_command.c, what is answered request_answer.c. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/metrics.h"

#include <sodium.h>
#include <stdio.h>
#include <string.h>

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
	request_count_status(200);
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
		if (request_has_body(a))
			c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
		answer_options(s, slot);
		return;
	}
	r = eas_query_parse(a->http.query, &a->query, &why);
	if (r == EAS_QUERY_UNKNOWN_COMMAND) {
		request_refuse_with(s, slot, 501, why, NULL);
		return;
	}
	if (r < 0) {
		a->query.command = EAS_COMMAND_NONE;
		a->query.device_id[0] = 0;
		request_refuse_with(s, slot, 400, why, NULL);
		return;
	}
	version = a->query.version;
	if (!a->query.is_base64) {
		v = http1_header(&a->http, "MS-ASProtocolVersion");
		version = v.n ? eas_version_parse(v) : 0;
		if (version == 0) {
			request_refuse_with(s, slot, 400, "MS-ASProtocolVersion is missing", NULL);
			return;
		}
	}
	if (version != 121 && version != 140 && version != 141 && version != 160 &&
		version != 161) {
		request_refuse_with(s, slot, 400, "protocol version not supported", NULL);
		return;
	}
	c->version = (uint16_t)version;
	if (!a->query.device_id[0] || !a->query.device_type[0]) {
		why = a->query.device_id[0] ? "DeviceType is missing" : "DeviceId is missing";
		if (version < 140 || request_has_body(a))
			request_refuse_with(s, slot, 400, why, NULL);
		else
			request_status_only(s, slot, a->query.device_id[0] ? 109 : 108, why);
		return;
	}
	if (!request_has_body(a)) {
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
	request_refuse_with(s, slot, 401, why,
		"WWW-Authenticate: Basic realm=\"Roost\", charset=\"UTF-8\"\r\n");
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
		request_refuse_with(s, slot, 403, "the account is disabled", NULL);
		return;
	case CRED_BAD:
		conn_address(&s->conns[slot].peer, peer);
		cred_log_failure(peer, a->cred.user, "basic", "", "password");
		unauthorized(s, slot, "wrong user name or password");
		return;
	case CRED_BUSY:
		request_busy(s, slot, "too many password checks at once");
		return;
	default:
		request_busy(s, slot, "the store cannot be read");
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
		request_refuse_with(s, slot, 404,
			"nothing here; ActiveSync is at /Microsoft-Server-ActiveSync", NULL);
		return;
	}
	if (a->http.method != HTTP1_POST && a->http.method != HTTP1_OPTIONS) {
		/* MS-ASHTTP 2.2.2.1.1 wants 501 for methods that are not implemented. */
		bool known = a->http.method != HTTP1_OTHER;

		request_refuse_with(s, slot, known ? 405 : 501,
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
		request_text(s, slot, a->refuse_status, a->refuse_why,
			a->head_extra[0] ? a->head_extra : NULL);
		return;
	}
	if (a->body.failed) {
		METRIC_INC(NO_MEMORY);
		request_busy(s, slot, "no memory for the body");
		return;
	}
	if (a->body.n && !content_type_ok(a, http1_header(&a->http, "Content-Type"))) {
		if (c->version >= 140)
			request_status_only(s, slot, 101, "Content-Type is not ActiveSync's");
		else
			request_text(s, slot, 400, "Content-Type is not ActiveSync's", NULL);
		return;
	}
	if (a->query.command == EAS_PING)
		hanging_ping(s, slot);
	else
		request_command(s, slot);
}
