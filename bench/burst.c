/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One message for each account, many to a commit: what a wake costs when all are woken. */
#include "bench/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { BURST_BATCH = 256 }; /* changes per transaction */

static bool burst_round(struct bench *b, uint32_t *users, uint64_t *commit_ns, uint64_t *took)
{
	struct fleet_status s;
	uint64_t first_ns = 0, last_ns = 0, cpu0, cpu1, delivered_ns, first_commit_ns = 0;
	char why[WHY];
	double enters, seconds;
	size_t n = 0;

	const uint32_t users_count = b->users;

	CHECK(users_count > 0);
	if (!bench_park(b, b->phones, "parking again"))
		return false;
	bench_pause_ms(300);
	bench_metrics(b, &b->before);
	cpu0 = target_cpu_ns(b->pid);
	first_ns = clock_mono_ns();
	for (uint32_t i = 0; i < b->users && !bench_interrupted; i += BURST_BATCH) {
		uint32_t k = b->users - i < BURST_BATCH ? b->users - i : BURST_BATCH;
		uint64_t at;

		for (uint32_t j = 0; j < k; j++)
			users[j] = i + j;
		if (!bench_change(b, users, k, &at, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		if (!first_commit_ns)
			first_commit_ns = at;
		for (uint32_t j = 0; j < k; j++)
			commit_ns[i + j] = at;
		bench_progress("burst: %u of %u changes committed", i + k, b->users);
	}
	delivered_ns = clock_mono_ns();
	for (;;) {
		fleet_wait_answered(b->fleet, b->phones, 500);
		fleet_status(b->fleet, &s);
		bench_progress("burst: %u of %u phones woken", s.answered, b->phones);
		if (s.answered == b->phones || s.failed || bench_interrupted)
			break;
		if (clock_mono_ns() - delivered_ns > (uint64_t)PARK_PATIENCE_S * 1000000000u)
			break;
	}
	/* The phones have it; what the server still does is part of the cost. */
	bench_pause_ms(300);
	cpu1 = target_cpu_ns(b->pid);
	if (s.answered != b->phones)
		return bench_failed(
			b, "only %u of %u phones were woken: %s", s.answered, b->phones, s.why);
	for (uint32_t i = 0; i < b->phones; i++) {
		uint64_t came_ns = fleet_came_ns(b->fleet, i);

		if (came_ns > last_ns)
			last_ns = came_ns;
		took[n++] = came_ns - commit_ns[i % users_count];
	}
	seconds = (double)(last_ns - first_commit_ns) / 1e9;
	figure(b, "burst_time_to_last", (double)(last_ns - first_ns) / 1e6, "ms", b->phones,
		"first write begun to last phone woken; %u changes, %u per commit", b->users,
		BURST_BATCH);
	figure(b, "burst_commits", (double)(delivered_ns - first_ns) / 1e6, "ms", b->users,
		"of that: committing, by this program");
	figure(b, "burst_wake_rate", b->phones / seconds, "wakes/s", b->phones,
		"from the first commit to the last phone; committing and 1 client on this machine");
	if (cpu1)
		figure(b, "burst_cpu_per_wake", (double)(cpu1 - cpu0) / 1e3 / b->phones, "us",
			b->phones, "server CPU");
	bench_show_latencies(
		b, "burst_commit_to_phone", took, n, "own commit to answer at the phone");
	if (bench_metrics(b, &b->after)) {
		enters = metrics_value(&b->after, "roost_ring_enter_total", NULL) -
			 metrics_value(&b->before, "roost_ring_enter_total", NULL);
		figure(b, "burst_syscalls_per_wake", enters / b->phones, "calls", b->phones,
			"io_uring_enter and poll of all shards");
		bench_server_latency(b, "burst");
	}
	if (!bench_caught_up(b, 0, b->phones, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	return true;
}

bool bench_burst(struct bench *b)
{
	uint32_t *users = calloc(BURST_BATCH, sizeof(*users));
	uint64_t *commit_ns = calloc(b->users, sizeof(*commit_ns));
	uint64_t *took = calloc(b->phones, sizeof(*took));
	bool ok = true;

	CHECK(users && commit_ns && took);
	for (uint32_t r = 0; r < b->rounds && ok; r++) {
		ok = burst_round(b, users, commit_ns, took);
		if (ok)
			bench_note("burst: round %u of %u done", r + 1, b->rounds);
	}
	free(users);
	free(commit_ns);
	free(took);
	return ok;
}
