/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/scenarios/day.h - steady life of all phones, compressed in time: for the scenarios day and soak.
 * Thread: the main thread.    Errors: false, said by bench_failed. */
#ifndef ROOST_BENCH_SCENARIOS_DAY_H
#define ROOST_BENCH_SCENARIOS_DAY_H

#include "bench/scenarios/scenario.h"

struct day;

/* What a moment in it looked like. */
struct day_now {
	double seconds;
	const struct fleet_status *phones;
	uint64_t mails;
};

struct day_plan {
	const char *name; /* of the scenario, in front of its figures */
	uint32_t seconds;
	/* Every sample_ms, on the main thread; NULL: never. False ends the day. */
	bool (*sample)(void *arg, const struct day_now *now);
	uint32_t sample_ms;
	void *arg;
};

/* Parks the phones, lets them live, waits until everything has come to its end, lets them leave, and
 * checks the books. Figures are added on the way. */
bool day_run(struct bench *b, const struct day_plan *plan);

#endif
