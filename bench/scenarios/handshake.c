/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Connect, TLS, one request, close: what that costs, with full and with resumed handshakes. */
#include "bench/fleet/accounts.h"
#include "bench/fleet/eas_request.h"
#include "bench/scenarios/scenario.h"
#include "bench/fleet/visit.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

static uint32_t visits_goal;

static void visits_progress(uint32_t done)
{
	bench_progress("handshake: %u of %u", done, visits_goal);
}

static void visit_request(const struct bench *b, struct buf *out)
{
	char user[256], password[256], authorization[1024];
	struct phone_identity who = {
		.host = b->host_header,
		.user_agent = "roost-bench",
		.version = b->protocol_version,
	};

	if (b->get_path) {
		phone_request_get(&who, b->get_path, out);
		return;
	}
	accounts_user(0, user, sizeof(user));
	accounts_password(0, password, sizeof(password));
	CHECK(phone_basic(user, password, authorization, sizeof(authorization)));
	who.user = user;
	who.authorization = authorization;
	phone_request_options(&who, out);
}

static bool handshake_round(struct bench *b, bool resume)
{
	struct buf request = {0};
	struct visit_options o = {
		.count = b->visits, .stop = &bench_interrupted, .progress = visits_progress};
	struct visit_result r;
	uint64_t cpu0, cpu1, self0, self1;
	char why[WHY];
	const char *kind = !b->url.tls ? "visit_plain"
			   : resume    ? "handshake_resumed"
				       : "handshake_full";
	char name[64];
	double seconds;

	visit_request(b, &request);
	bench_client_settings(b, b->parallel, &o.client);
	o.client.tls_options.want_ticket = resume;
	o.request = buf_bytes(&request);
	visits_goal = b->visits;
	cpu0 = target_cpu_ns(b->pid);
	self0 = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
	if (!visits_run(&o, &r, why, sizeof(why))) {
		buf_free(&request);
		return bench_failed(b, "%s", why);
	}
	/* What the server does after the last answer (closing) is part of it. */
	bench_pause_ms(200);
	cpu1 = target_cpu_ns(b->pid);
	self1 = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
	buf_free(&request);
	if (bench_interrupted || r.failed || r.done == 0) {
		free(r.open_ns);
		return bench_failed(
			b, "%u of %u connections failed: %s", r.failed, r.done + r.failed, r.why);
	}
	if (!b->get_path && r.last_status != 200)
		bench_note("handshake: the request was answered with HTTP %d", r.last_status);
	/* (the first ones have nothing to resume yet) */
	if (resume && (r.resumed + b->parallel) * 10 < (uint64_t)r.done * 9)
		bench_note("handshake: only %llu of %u were resumed", (unsigned long long)r.resumed,
			r.done);
	seconds = (double)(r.last_ns - r.first_ns) / 1e9;
	snprintf(name, sizeof(name), "%s_cpu", kind);
	if (cpu1)
		figure(b, name, (double)(cpu1 - cpu0) / 1e3 / r.done, "us", r.done,
			"server CPU: connect, %s, one %s, close", r.tls,
			b->get_path ? "GET" : "OPTIONS");
	snprintf(name, sizeof(name), "%s_rate", kind);
	figure(b, name, r.done / seconds, "per second", r.done,
		"%u at a time; the client (%.0f us CPU each) shares the machine", b->parallel,
		(double)(self1 - self0) / 1e3 / r.done);
	quantile_sort(r.open_ns, r.done);
	snprintf(name, sizeof(name), "%s_time_p50", kind);
	figure(b, name, (double)quantile(r.open_ns, r.done, 0.5) / 1e3, "us", r.done,
		"in line, connect and handshake under that load");
	free(r.open_ns);
	return true;
}

bool bench_handshake(struct bench *b)
{
	for (uint32_t r = 0; r < b->rounds; r++) {
		if (!handshake_round(b, false) || (b->url.tls && !handshake_round(b, true)))
			return false;
		bench_note("handshake: round %u of %u done", r + 1, b->rounds);
	}
	return true;
}
