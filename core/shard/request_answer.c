/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a request is answered: head, body, log line, and the explanation that `roostctl why` shows. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/metrics.h"

#include <inttypes.h>
#include <stdio.h>

const char request_wbxml_type[] = "application/vnd.ms-sync.wbxml";
static const char text_type[] = "text/plain; charset=utf-8";

uint64_t request_new_id(struct shard *s)
{
	/* Unique in this process, and not a count that tells outsiders how busy we are. */
	uint64_t v = (s->id_counter++ << 6 | s->index) + s->server->id_seed;

	v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9u;
	v = (v ^ v >> 27) * 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

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

void request_why(struct shard *s, uint32_t slot, int status, int eas_status, const char *why,
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

void request_count_status(int status)
{
	METRIC_INC(HTTP_REQUESTS);
	if (status < 400)
		METRIC_INC(HTTP_2XX);
	else if (status < 500)
		METRIC_INC(HTTP_4XX);
	else
		METRIC_INC(HTTP_5XX);
}

void request_put_head(struct shard *s, uint32_t slot, int status, const char *type,
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

void request_text(struct shard *s, uint32_t slot, int status, const char *why, const char *extra)
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
	request_put_head(s, slot, status, text_type, (uint64_t)n, false, headers);
	if (!a->has_request || a->http.method != HTTP1_HEAD)
		buf_add(&a->reply, body, (size_t)n);
	request_count_status(status);
	if (status >= 400)
		request_why(s, slot, status, 0, why, NULL);
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
		request_text(s, slot, a->refuse_status, a->refuse_why,
			a->head_extra[0] ? a->head_extra : NULL);
		return;
	}
	if (!a->has_request) {
		c->request_id = request_new_id(s);
		a->query.device_id[0] = 0;
		a->query.command = EAS_COMMAND_NONE;
		a->cred.user[0] = 0;
	}
	request_text(s, slot, status, why, NULL);
}

void request_refuse_with(
	struct shard *s, uint32_t slot, int status, const char *why, const char *extra)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	if (c->state == CONN_HEAD || c->state == CONN_AUTH) {
		if (request_has_body(a) && a->http.expect_continue) {
			c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
		} else if (request_has_body(a)) {
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
	request_text(s, slot, status, why, extra);
}

void request_busy(struct shard *s, uint32_t slot, const char *why)
{
	int64_t base = shard_config(s)->core_retry_after_s;
	char extra[48];

	snprintf(extra, sizeof(extra), "Retry-After: %" PRId64 "\r\n",
		base + shard_random(s) % (uint32_t)(base + 1));
	request_refuse_with(s, slot, 503, why, extra);
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
	request_count_status(503);
	request_why(s, slot, 503, 0, why, NULL);
	request_log(s, slot, "", "", "-", 503, 0, why, n, loop_now_ms(s->loop));
	return true;
}

void request_refuse(struct shard *s, uint32_t slot, int status, const char *why)
{
	if (status == 503)
		request_busy(s, slot, why);
	else
		request_refuse_with(s, slot, status, why, NULL);
}

void request_answer(struct shard *s, uint32_t slot, int eas_status, const char *why,
	const uint8_t *doc, size_t n)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	if (s->draining)
		c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
	a->reply.n = 0;
	request_put_head(s, slot, 200, request_wbxml_type, n, false, NULL);
	buf_add(&a->reply, doc, n);
	request_count_status(200);
	if (why)
		request_why(s, slot, 200, eas_status, why, NULL);
	request_log(s, slot, a->address, a->query.device_id, eas_command_name(a->query.command),
		200, eas_status, why, n, a->started_ms);
	conn_reply(s, slot);
}

void request_status_only(struct shard *s, uint32_t slot, int eas_status, const char *why)
{
	struct buf doc = {0};

	eas_status_only(s->conns[slot].active->query.command, eas_status, &doc);
	request_answer(s, slot, eas_status, why, doc.p, doc.n);
	buf_free(&doc);
}
