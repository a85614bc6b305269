/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One message for each account, many to a commit: what a wake costs when all are woken, and whether
 * each phone was woken once. */
#include "bench/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { BURST_BATCH = 256 }; /* changes per transaction */

struct burst {
	struct bench *b;
	uint64_t *commit_ns; /* per user */
	uint64_t *took;      /* per phone */
	uint8_t *woken;      /* per phone: fleet_woken before */
	uint64_t first_ns, first_commit_ns, delivered_ns, last_ns;
	uint32_t surplus; /* before */
	uint32_t missed, doubled;
};

/* Until few enough are on their way. False: interrupted, or nothing moves any more. */
static bool wait_answered(struct bench *b, uint32_t least, struct fleet_status *s)
{
	uint64_t moved_ns = clock_mono_ns();
	uint32_t best = 0;

	for (;;) {
		fleet_wait_answered(b->fleet, least, 500);
		fleet_status(b->fleet, s);
		bench_progress("burst: %u of %u phones woken", s->answered, b->phones);
		if (s->answered >= least)
			return true;
		if (s->answered > best) {
			best = s->answered;
			moved_ns = clock_mono_ns();
		}
		if (s->failed || bench_interrupted ||
			clock_mono_ns() - moved_ns > (uint64_t)PARK_PATIENCE_S * 1000000000u)
			return false;
	}
}

/* As fast as the phones are woken: never more than so many of them wait for their answer. */
static bool commit_all(struct burst *u)
{
	struct bench *b = u->b;
	uint32_t users[BURST_BATCH], committed = 0; /* phones */
	struct fleet_status s;
	char why[WHY];
	uint64_t at;

	u->first_ns = clock_mono_ns();
	for (uint32_t i = 0; i < b->users && !bench_interrupted; i += BURST_BATCH) {
		uint32_t k = b->users - i < BURST_BATCH ? b->users - i : BURST_BATCH;

		for (uint32_t j = 0; j < k; j++) {
			users[j] = i + j;
			committed += bench_phones_of_user(b, i + j);
		}
		if (!bench_change(b, users, k, &at, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		if (!u->first_commit_ns)
			u->first_commit_ns = at;
		for (uint32_t j = 0; j < k; j++)
			u->commit_ns[i + j] = at;
		bench_progress("burst: %u of %u changes committed", i + k, b->users);
		if (committed > BENCH_UNANSWERED_MAX &&
			!wait_answered(b, committed - BENCH_UNANSWERED_MAX, &s))
			return bench_failed(b, "only %u of %u phones were woken: %s", s.answered,
				committed, s.why);
	}
	u->delivered_ns = clock_mono_ns();
	return !bench_interrupted;
}

/* Each phone must have been answered once: with status 2, its inbox, and after its change. */
static bool judge(struct burst *u, const struct fleet_status *s)
{
	struct bench *b = u->b;

	for (uint32_t i = 0; i < b->phones; i++) {
		uint64_t came_ns = fleet_came_ns(b->fleet, i);
		uint8_t times = (uint8_t)(fleet_woken(b->fleet, i) - u->woken[i]);

		/* Any answer will do where it is not ActiveSync. */
		if (b->poll_path)
			times = came_ns > 0;
		u->missed += times == 0;
		u->doubled += times > 1;
		if (came_ns > u->last_ns)
			u->last_ns = came_ns;
		u->took[i] = came_ns - u->commit_ns[i % b->users];
	}
	u->doubled += s->surplus - u->surplus;
	figure(b, "burst_missed", u->missed, "phones", b->phones, "not answered");
	figure(b, "burst_doubled", u->doubled, "phones", b->phones,
		"woken again for the same change, or answered without having asked");
	if (u->missed || u->doubled || s->answered != b->phones)
		return bench_failed(b, "%u of %u phones were woken, %u missed, %u doubled: %s",
			s->answered, b->phones, u->missed, u->doubled, s->why);
	return true;
}

static void show(struct burst *u, uint64_t cpu_ns)
{
	struct bench *b = u->b;

	figure(b, "burst_time_to_last", (double)(u->last_ns - u->first_ns) / 1e6, "ms", b->phones,
		"first write begun to last phone woken; %u changes, %u per commit", b->users,
		BURST_BATCH);
	figure(b, "burst_commits", (double)(u->delivered_ns - u->first_ns) / 1e6, "ms", b->users,
		"of that: committing, by this program%s",
		b->phones > BENCH_UNANSWERED_MAX ? ", which waits for the phones" : "");
	figure(b, "burst_wake_rate", b->phones / ((double)(u->last_ns - u->first_commit_ns) / 1e9),
		"wakes/s", b->phones,
		"from the first commit to the last phone; committing and 1 client on this machine");
	if (cpu_ns)
		figure(b, "burst_cpu_per_wake", (double)cpu_ns / 1e3 / b->phones, "us", b->phones,
			"server CPU");
	bench_show_latencies(b, "burst_commit_to_phone", u->took, b->phones,
		"own commit to answer at the phone");
	if (!bench_metrics(b, &b->after))
		return;
	figure(b, "burst_syscalls_per_wake",
		(metrics_value(&b->after, "roost_ring_enter_total", NULL) -
			metrics_value(&b->before, "roost_ring_enter_total", NULL)) /
			b->phones,
		"calls", b->phones, "io_uring_enter and poll of all shards");
	bench_server_latency(b, "burst");
}

static bool burst_round(struct burst *u)
{
	struct bench *b = u->b;
	struct fleet_status s;
	char why[WHY];
	uint64_t cpu;

	if (!bench_park(b, b->phones, "parking again"))
		return false;
	bench_pause_ms(300);
	u->missed = u->doubled = 0;
	u->first_commit_ns = u->last_ns = 0;
	for (uint32_t i = 0; i < b->phones; i++)
		u->woken[i] = fleet_woken(b->fleet, i);
	fleet_status(b->fleet, &s);
	u->surplus = s.surplus;
	bench_metrics(b, &b->before);
	cpu = target_cpu_ns(b->pid);
	if (!commit_all(u))
		return false;
	(void)wait_answered(b, b->phones, &s);
	if (bench_interrupted)
		return false;
	/* The phones have it; what the server still does is part of the cost, and a second answer
	 * would come now. */
	bench_pause_ms(300);
	cpu = target_cpu_ns(b->pid) - cpu;
	fleet_status(b->fleet, &s);
	if (!judge(u, &s))
		return false;
	show(u, cpu);
	if (!bench_caught_up(b, 0, b->phones, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	return true;
}

bool bench_wake_all(struct bench *b, uint32_t rounds)
{
	struct burst u = {.b = b};
	bool ok = true;

	u.commit_ns = calloc(b->users, sizeof(*u.commit_ns));
	u.took = calloc(b->phones, sizeof(*u.took));
	u.woken = calloc(b->phones, sizeof(*u.woken));
	CHECK(u.commit_ns && u.took && u.woken);
	for (uint32_t r = 0; r < rounds && ok; r++) {
		ok = burst_round(&u);
		if (ok)
			bench_note("burst: round %u of %u done", r + 1, rounds);
	}
	free(u.woken);
	free(u.took);
	free(u.commit_ns);
	return ok;
}

bool bench_burst(struct bench *b)
{
	return bench_wake_all(b, b->rounds);
}
