/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Mail for one random phone of N at a time: how long until the phone has heard of it. */
#include "bench/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

bool bench_wake(struct bench *b)
{
	uint64_t *took = calloc((size_t)b->wakes + 1, sizeof(*took));
	uint64_t *all = calloc((size_t)b->wakes + 1, sizeof(*all));
	uint64_t commit_ns, begun_ns, cpu0, cpu1, immediate, wakes = 0;
	struct fleet_status s;
	char why[WHY];
	size_t n = 0;
	bool ok = false;

	CHECK(took && all);
	if (!bench_park(b, b->phones, "parking"))
		goto done;
	bench_metrics(b, &b->before);
	cpu0 = target_cpu_ns(b->pid);
	for (uint32_t k = 0; k < b->wakes; k++) {
		uint32_t user = bench_random_below(b->users), phone = user,
			 count = bench_phones_of_user(b, user);

		bench_progress("wake: %u of %u", k, b->wakes);
		begun_ns = clock_mono_ns();
		if (!bench_change(b, &user, 1, &commit_ns, why, sizeof(why))) {
			bench_failed(b, "%s", why);
			goto done;
		}
		fleet_wait_answered(b->fleet, count, WAKE_PATIENCE_MS);
		fleet_status(b->fleet, &s);
		if (bench_interrupted || s.failed || s.answered < count) {
			bench_failed(b, "phone %u was not woken within %d s: %s", phone,
				WAKE_PATIENCE_MS / 1000, s.why);
			goto done;
		}
		all[n] = fleet_came_ns(b->fleet, phone) - begun_ns;
		took[n++] = fleet_came_ns(b->fleet, phone) - commit_ns;
		wakes += count;
		for (uint32_t i = user; i < b->phones; i += b->users) {
			if (!bench_caught_up(b, i, 1, why, sizeof(why))) {
				bench_failed(b, "%s", why);
				goto done;
			}
			fleet_ping(b->fleet, i);
		}
		/* Hanging again before the next one, and the server asleep as it usually is. */
		uint64_t until_ms = clock_mono_ms() + WAKE_PATIENCE_MS;
		do {
			bench_pause_ms(2);
			fleet_status(b->fleet, &s);
		} while (s.parked < b->phones && !s.failed && !bench_interrupted &&
			 clock_mono_ms() < until_ms);
		if (s.parked < b->phones && !bench_interrupted) {
			bench_failed(b,
				"phone %u does not hang again: %u parked, %u answered, %u busy, %s",
				phone, s.parked, s.answered, s.busy, s.why);
			goto done;
		}
	}
	cpu1 = target_cpu_ns(b->pid);
	bench_show_latencies(b, "wake_write_to_phone", all, n,
		b->publisher ? "publishing begun to answer read and decrypted by the phone"
			     : "writing begun, so with the fsync, to answer read and decrypted");
	if (!b->publisher)
		bench_show_latencies(b, "wake_commit_to_phone", took, n,
			"durable commit to answer read and decrypted by the phone; one of all at a "
			"time");
	if (bench_metrics(b, &b->after)) {
		bench_server_latency(b, "wake");
		immediate = (uint64_t)(metrics_value(&b->after,
					       "roost_pings_answered_at_once_total", NULL) -
				       metrics_value(&b->before,
					       "roost_pings_answered_at_once_total", NULL));
		if (immediate)
			bench_note("wake: %llu Pings were answered at once instead of hanging",
				(unsigned long long)immediate);
	}
	if (cpu1)
		figure(b, "wake_cpu_single", (double)(cpu1 - cpu0) / 1e3 / (double)wakes, "us",
			wakes,
			"server CPU per single wake and the Ping after it, metrics included");
	ok = true;
done:
	free(all);
	free(took);
	return ok;
}
