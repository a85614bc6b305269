/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Heartbeats that run out: every phone's Ping must be answered with status 1 at its time, and asked
 * again. Phones have heartbeats of their own, spread so that not more than --expiries end in a
 * second at first, and half as many again when the short ones end a second time. Over when each phone has seen one. */
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	LEAST_S = 8, /* the server must permit that: bench_server_begin sets it */
	MOST_S = 3540,
	PATIENCE_S = 30,
	LONGEST_S = 3600,
	LIFE_S = 30 * 60,
	LOOK_MS = 200,
	/* A Ping's time begins for the phone when it is sent, for the server when it is read: asking all
	 * at once would measure the queue in between. */
	ASK_PER_LOOK = 2000,
};

struct expire {
	struct bench *b;
	uint32_t least_s, most_s;
	uint8_t *before;            /* per phone: fleet_expired */
	struct fleet_status s0, s1; /* before, and after */
	struct fleet_status all; /* when all had asked: what comes then is the cost of heartbeats */
	uint64_t all_ns, all_cpu_ns; /* all_ns 0: not yet */
};

static void spread(struct expire *e)
{
	const struct bench *b = e->b;
	uint32_t width = b->phones / b->expiries_per_s + 1;

	e->least_s = width / 2 > LEAST_S ? width / 2 : LEAST_S;
	e->most_s = e->least_s + width < MOST_S ? e->least_s + width : MOST_S;
}

/* Phones that have seen the end of a heartbeat. */
static uint32_t count_expired(const struct expire *e)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < e->b->phones; i++)
		n += fleet_expired(e->b->fleet, i) != e->before[i];
	return n;
}

static bool wait_expired(struct expire *e)
{
	struct bench *b = e->b;
	struct fleet_status *s = &e->s1;
	uint64_t start_ns = clock_mono_ns();
	uint32_t asked = 0;

	while (!bench_interrupted) {
		uint64_t now_ns = clock_mono_ns();
		uint32_t n = count_expired(e);

		bench_status(b, s);
		bench_progress("expire: %u of %u phones have seen the end of a heartbeat after "
			       "%.0f s, %u early, %u late",
			n, b->phones, (double)(now_ns - start_ns) / 1e9,
			s->heartbeats_early - e->s0.heartbeats_early,
			s->heartbeats_late - e->s0.heartbeats_late);
		if (n == b->phones)
			return true;
		if (s->failed || s->surplus != e->s0.surplus)
			return bench_failed(b, "%u phones failed, %u surplus answers: %s",
				s->failed, s->surplus - e->s0.surplus, s->why);
		/* Asking takes its time, too; the patience begins when all have. */
		if (asked < b->phones) {
			asked = b->phones - asked > ASK_PER_LOOK ? asked + ASK_PER_LOOK : b->phones;
			fleet_park(b->fleet, asked);
		} else if (!e->all_ns && s->answered == 0 &&
			   s->parked + s->busy + s->later == b->phones) {
			e->all = *s;
			e->all_ns = now_ns;
			e->all_cpu_ns = target_cpu_ns(b->pid);
		}
		if (e->all_ns && now_ns - e->all_ns > (e->most_s + PATIENCE_S) * 1000000000ull)
			return true; /* the caller judges */
		if (now_ns - start_ns > LONGEST_S * 1000000000ull)
			return bench_failed(b, "not all phones have asked after %d s", LONGEST_S);
		bench_pause_ms(LOOK_MS);
	}
	return false;
}

static void show(struct expire *e)
{
	struct bench *b = e->b;
	uint32_t n = e->s1.heartbeats - e->s0.heartbeats;
	uint32_t alone = e->s1.heartbeats - e->all.heartbeats;
	double seconds = (double)(clock_mono_ns() - e->all_ns) / 1e9, each_us;
	uint64_t cpu = target_cpu_ns(b->pid);

	figure(b, "expire_heartbeats", n, "answers", b->phones,
		"with status 1, and asked again; heartbeats of %u to %u s", e->least_s, e->most_s);
	figure(b, "expire_early", e->s1.heartbeats_early - e->s0.heartbeats_early, "answers", n,
		"by more than a second, at most %d ms", e->s1.early_most_ms);
	figure(b, "expire_late", e->s1.heartbeats_late - e->s0.heartbeats_late, "answers", n,
		"by more than a second, at most %d ms", e->s1.late_most_ms);
	figure(b, "expire_doubled", e->s1.surplus - e->s0.surplus, "answers", n,
		"that nobody had asked for");
	if (bench_metrics(b, &b->after))
		figure(b, "expire_moved",
			metrics_value(&b->after, "roost_heartbeats_shortened_total", NULL) -
				metrics_value(&b->before, "roost_heartbeats_shortened_total", NULL),
			"Pings", n, "that the server ends earlier so as to spread them");
	if (!e->all_ns || alone < 1000 || !cpu)
		return;
	each_us = (double)(cpu - e->all_cpu_ns) / 1e3 / alone;
	figure(b, "expire_cpu", each_us, "us", alone,
		"server CPU for the end of a heartbeat and the next Ping, at %.0f a second",
		alone / seconds);
	figure(b, "expire_cpu_at_30_min", each_us * b->phones / LIFE_S / 1e4, "% of a core",
		b->phones, "computed: that cost at the pace of heartbeats of 30 minutes");
}

bool bench_expire(struct bench *b)
{
	struct expire e = {.b = b};
	uint32_t missed;
	bool ok = false;

	spread(&e);
	if (!b->fleet && !bench_fleet_begin(b))
		return false;
	/* Those that hang have another heartbeat. */
	bench_status(b, &e.s0);
	if (e.s0.parked && !bench_wake_all(b, 1))
		return false;
	e.before = calloc(b->phones, sizeof(*e.before));
	CHECK(e.before);
	for (uint32_t i = 0; i < b->phones; i++)
		e.before[i] = fleet_expired(b->fleet, i);
	bench_metrics(b, &b->before);
	bench_status(b, &e.s0);
	fleet_heartbeats(b->fleet, e.least_s, e.most_s);
	if (wait_expired(&e)) {
		missed = b->phones - count_expired(&e);
		figure(b, "expire_missed", missed, "phones", b->phones,
			"not answered %d s after the end of the longest heartbeat", PATIENCE_S);
		show(&e);
		ok = missed == 0 || bench_failed(b, "%u of %u heartbeats did not end: %s", missed,
					    b->phones, e.s1.why);
	}
	free(e.before);
	return ok && !bench_interrupted;
}
