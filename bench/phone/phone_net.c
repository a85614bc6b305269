/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The connection of the phone, its time, and the message that is delivered while it hangs. */
#include "bench/phone/phone_app.h"

#include "bench/mail/lmtp_send.h"
#include "core/base/check.h"

#include <stdio.h>
#include <stdlib.h>

void app_on_opened(void *arg, uint32_t phone)
{
	struct phone_app *a = arg;
	const char *tls = client_tls_text(a->client, phone);

	a->answers = 0;
	a->reconnect_until_ms = 0;
	tell(a, "connect", "connected", json_pack("{s:s}", "tls", tls), "connected to %s:%s%s%s",
		a->server.host, a->server.port, tls[0] ? ", " : "", tls);
	if (a->running && a->request.n) {
		a->request_ns = clock_mono_ns();
		client_request(a->client, 0, buf_bytes(&a->request),
			a->timeout_s + (a->hangs ? a->heartbeat_s : 0));
	}
}

void app_on_sent(void *arg, uint32_t phone)
{
	struct phone_app *a = arg;

	(void)phone;
	a->sent_ns = clock_mono_ns();
	if (a->hangs)
		a->parked_due_ms = client_now_ms(a->client) + PARKED_AFTER_MS;
}

void app_on_closed(void *arg, uint32_t phone, enum client_end how, const char *why)
{
	struct phone_app *a = arg;
	json_t *fields;
	bool asked = a->running && a->steps[a->at].verb != VERB_SLEEP;

	(void)phone;
	a->parked_due_ms = 0;
	if (a->over)
		return;
	/* Between two requests: the next one opens another connection. */
	if (!asked)
		return;
	/* The server may close an idle connection just as we send (RFC 9112 9.3.1): once more. */
	if ((how == CLIENT_END_PEER || how == CLIENT_END_CUT) && a->answers > 0 && !a->parked &&
		!a->repeated) {
		a->repeated = true;
		a->answers = 0;
		app_send_request(a);
		return;
	}
	if (a->reconnect && how != CLIENT_END_TIMEOUT && how != CLIENT_END_HTTP) {
		uint64_t now = clock_mono_ms();

		if (!a->reconnect_until_ms) {
			a->reconnect_until_ms = now + RECONNECT_S_MAX * 1000;
			tell(a, app_step_name(a), "lost",
				json_pack("{s:s, s:o}", "kind", client_end_name(how), "reason",
					app_json_bytes(bytes_str(why))),
				"connection lost (%s), trying again", why);
		}
		if (now < a->reconnect_until_ms) {
			a->wake_at_ms = now + 1000;
			return;
		}
	}
	fields = json_pack("{s:s}", "kind", client_end_name(how));
	if (how == CLIENT_END_TIMEOUT)
		app_step_failed(a, EXIT_TIMEOUT, fields, "%s", why);
	else
		app_step_failed(a, how == CLIENT_END_HTTP ? EXIT_STEP : EXIT_CONNECTION, fields,
			"%s: %s", client_end_name(how), why);
}

/* ---- a message for whoever waits ---- */

struct delivery {
	struct loop_msg msg;
	struct phone_app *app;
	uint64_t start_ns, done_ns, took_ns;
	bool ok;
	char why[256];
};

static void *deliver(void *arg)
{
	struct delivery *d = arg;
	struct phone_app *a = d->app;
	struct buf message = {0};

	lmtp_sample("Bob <bob@example.org>", a->user, "Lunch?",
		"Hello, this message came by LMTP while your phone was asleep.\r\nBob", &message);
	d->start_ns = clock_mono_ns();
	d->ok = lmtp_send(a->lmtp, "bob@example.org", a->user, buf_bytes(&message), &d->took_ns,
		d->why, sizeof(d->why));
	d->done_ns = clock_mono_ns();
	buf_free(&message);
	client_post(a->client, &d->msg);
	return NULL;
}

static void deliver_start(struct phone_app *a)
{
	struct delivery *d = calloc(1, sizeof(*d));

	CHECK(d);
	a->lmtp_started = true;
	d->app = a;
	tell(a, "lmtp", "delivering", json_pack("{s:s}", "server", a->lmtp),
		"delivering a message for %s to %s", a->user, a->lmtp);
	a->lmtp_running = pthread_create(&a->lmtp_thread, NULL, deliver, d) == 0;
	CHECK(a->lmtp_running);
}

void app_on_message(void *arg, struct loop_msg *m)
{
	struct phone_app *a = arg;
	struct delivery *d = (struct delivery *)m;

	pthread_join(a->lmtp_thread, NULL);
	a->lmtp_running = false;
	if (d->ok) {
		app_tell_at(a, d->done_ns, "lmtp", "delivered",
			json_pack("{s:I, s:I}", "took_us",
				(json_int_t)((d->done_ns - d->start_ns) / 1000), "commit_us",
				(json_int_t)(d->took_ns / 1000)),
			"250: message accepted and stored (%.1f ms after its last byte)",
			(double)d->took_ns / 1e6);
	} else {
		app_tell_at(a, d->done_ns, "lmtp", "failed",
			json_pack("{s:o}", "reason", app_json_bytes(bytes_str(d->why))),
			"FAILED: %s", d->why);
		a->over = false;
		app_finish(a, EXIT_STEP);
	}
	free(d);
	if (a->over)
		client_stop(a->client);
}

uint64_t app_on_tick(void *arg, uint64_t now_ms)
{
	struct phone_app *a = arg;
	uint64_t next = UINT64_MAX;

	if (a->over)
		return next;
	if (a->parked_due_ms && now_ms >= a->parked_due_ms) {
		json_t *fields;

		a->parked_due_ms = 0;
		a->parked = true;
		fields = json_pack("{s:i, s:o, s:I}", "heartbeat_s", (int)a->heartbeat_s, "folders",
			app_watched_json(a), "sent_us",
			(json_int_t)((a->sent_ns - a->start_ns) / 1000));
		tell(a, app_step_name(a), "parked", fields, "parked (heartbeat %u s)",
			a->heartbeat_s);
		if (a->lmtp && !a->lmtp_started)
			deliver_start(a);
	}
	if (a->parked_due_ms)
		next = a->parked_due_ms;
	if (a->wake_at_ms && now_ms >= a->wake_at_ms) {
		a->wake_at_ms = 0;
		if (a->steps[a->at].verb == VERB_SLEEP)
			app_step_next(a);
		else
			app_send_request(a); /* reconnecting */
	}
	if (a->wake_at_ms && a->wake_at_ms < next)
		next = a->wake_at_ms;
	return next;
}
