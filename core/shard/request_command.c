/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Commands other than Ping: on a worker through eas_run, then back on the shard, answered or parked. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/metrics.h"
#include "core/shard/device_notes.h"
#include "core/eas/gzip.h"

#include <stdio.h>

enum { GZIP_WORTHWHILE_BYTES = 1024 };

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

void request_command(struct shard *s, uint32_t slot)
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
		request_busy(s, slot, "too many commands at once");
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
		request_text(s, slot, ans->http_status,
			ans->reason ? ans->reason : http1_reason(ans->http_status),
			ans->headers[0] ? ans->headers : NULL);
		return;
	}
	a->reply.n = 0;
	request_put_head(s, slot, ans->http_status,
		ans->content_type ? ans->content_type : request_wbxml_type, ans->body.n, j->gzip,
		ans->headers[0] ? ans->headers : NULL);
	buf_add(&a->reply, ans->body.p, ans->body.n);
	request_count_status(ans->http_status);
	if (ans->reason)
		request_why(s, slot, ans->http_status, ans->eas_status, ans->reason, NULL);
	request_log(s, slot, a->address, a->query.device_id, eas_command_name(j->req.command),
		ans->http_status, ans->eas_status, ans->reason, ans->body.n, a->started_ms);
	buf_free(&ans->body);
	conn_reply(s, slot);
}
