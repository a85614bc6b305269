/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/visit.h"

#include "bench/thread.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

struct visits {
	const struct visit_options *o;
	struct visit_result *r;
	struct client *client;
	uint64_t *start_ns; /* per phone */
	uint64_t *took_ns;
	uint32_t begun, failed_in_row;
	char *why;
	size_t why_bytes;
	bool ok;
};

static void visit_next(struct visits *v, uint32_t i)
{
	uint32_t over = v->r->done + v->r->failed;

	if (v->o->progress)
		v->o->progress(over);
	/* When more fail in a row than there are at a time the server is gone. */
	if (v->begun < v->o->count && !*v->o->stop && v->failed_in_row <= v->o->client.phones_max) {
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
	v->failed_in_row = 0;
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
	v->failed_in_row++;
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
	thread_start(&thread, visits_thread, &v);
	pthread_join(thread, NULL);
	free(v.start_ns);
	free(v.took_ns);
	return v.ok;
}
