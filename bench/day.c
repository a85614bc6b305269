/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Steady life, compressed in time: heartbeats of 8 to 59 minutes that run out and are asked again, 50
 * mails a day for every phone, networks that change. With --compress 60 a minute is a second. What a
 * server must never do is counted: mail that no phone hears of, and answers that come late. */
#include "bench/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	MAILS_A_DAY = 50,
	ROAMS_A_DAY = 20,
	DAY_S = 86400,
	BATCH = 64,
	LATE_MS = 1000,
	TURN_MS = 5,
};

/* Mail that is on its way to the phones of a user. */
struct pending {
	uint64_t commit_ns; /* 0: none */
};

struct day {
	struct bench *b;
	struct pending *pending; /* per user */
	uint32_t *open;          /* users that have some */
	uint32_t open_count;
	uint64_t *took;
	size_t n, cap;
	uint64_t mails, late, missed;
};

static bool deliver_due(struct day *d, uint64_t due)
{
	struct bench *b = d->b;
	uint32_t users[BATCH];
	uint64_t at[BATCH], begun_ns;
	char why[WHY];
	size_t n = 0;

	while (d->mails < due && n < BATCH) {
		uint32_t user = bench_random_below(b->users);

		d->mails++;
		/* One at a time, so that it is clear which mail an answer is for. */
		if (d->pending[user].commit_ns)
			continue;
		d->pending[user].commit_ns = 1;
		users[n++] = user;
	}
	if (n == 0)
		return true;
	begun_ns = clock_mono_ns();
	if (!bench_change(b, users, n, at, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	for (size_t i = 0; i < n; i++) {
		/* By mail phones may hear of it before the 250 is here. */
		d->pending[users[i]].commit_ns = b->mailer ? begun_ns : at[i];
		d->open[d->open_count++] = users[i];
	}
	return true;
}

/* Phones that have heard of their mail sync it and ask again. */
static bool look_at_answers(struct day *d)
{
	struct bench *b = d->b;
	uint64_t now_ns = clock_mono_ns();
	char why[WHY];

	for (uint32_t k = 0; k < d->open_count;) {
		uint32_t user = d->open[k];
		struct pending *p = &d->pending[user];
		uint64_t came_ns = fleet_came_ns(b->fleet, user);
		bool came = came_ns > p->commit_ns;

		if (!came && now_ns - p->commit_ns < (uint64_t)WAKE_PATIENCE_MS * 1000000) {
			k++;
			continue;
		}
		if (!came)
			d->missed++;
		else if (came_ns - p->commit_ns > (uint64_t)LATE_MS * 1000000)
			d->late++;
		if (came && d->n < d->cap)
			d->took[d->n++] = came_ns - p->commit_ns;
		if (!bench_caught_up(b, user, 1, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		fleet_ping(b->fleet, user);
		p->commit_ns = 0;
		d->open[k] = d->open[--d->open_count];
	}
	return true;
}

bool bench_day(struct bench *b)
{
	const double per_s = (double)b->phones * b->compress / DAY_S;
	struct day d = {.b = b, .cap = (size_t)(per_s * MAILS_A_DAY * b->day_s) + 1000};
	struct fleet_status s0, s;
	uint64_t start_ns, cpu, roams = 0;
	uint32_t at = 0;
	double seconds = 0;
	bool ok = true;

	if (!bench_park(b, b->phones, "parking"))
		return false;
	bench_pause_ms(1000);
	d.pending = calloc(b->users, sizeof(*d.pending));
	d.open = calloc(b->users, sizeof(*d.open));
	d.took = calloc(d.cap, sizeof(*d.took));
	CHECK(d.pending && d.open && d.took);
	fleet_status(b->fleet, &s0);
	cpu = target_cpu_ns(b->pid);
	start_ns = clock_mono_ns();
	while (ok && seconds < b->day_s && !bench_interrupted) {
		uint64_t due = (uint64_t)(seconds * per_s * ROAMS_A_DAY);

		ok = deliver_due(&d, (uint64_t)(seconds * per_s * MAILS_A_DAY)) &&
		     look_at_answers(&d);
		if (roams < due) {
			/* A new network: the old connection is gone, and the phone comes back. */
			struct fleet_drop r = {.first = at, .resume = b->resume};

			r.end = (uint32_t)(due - roams) < b->phones - at
					? at + (uint32_t)(due - roams)
					: b->phones;
			roams += r.end - r.first;
			at = r.end == b->phones ? 0 : r.end;
			fleet_drop(b->fleet, &r);
		}
		bench_pause_ms(TURN_MS);
		seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
		fleet_status(b->fleet, &s);
		bench_progress("day: %.0f of %u s, %u parked, %llu mails, %llu late, %llu missed",
			seconds, b->day_s, s.parked, (unsigned long long)d.mails,
			(unsigned long long)d.late, (unsigned long long)d.missed);
	}
	cpu = target_cpu_ns(b->pid) - cpu;
	for (int i = 0; ok && d.open_count && i < 4000 && !bench_interrupted; i++) {
		ok = look_at_answers(&d);
		bench_pause_ms(TURN_MS);
	}
	fleet_status(b->fleet, &s);
	if (ok && !bench_interrupted && d.n) {
		figure(b, "day_cpu", (double)cpu / 1e7 / seconds, "% of a core", b->phones,
			"%u times faster than life: %.0f mails/s, %.0f reconnects/s, %.0f "
			"heartbeats/s",
			b->compress, (double)d.mails / seconds, (double)roams / seconds,
			(s.heartbeats - s0.heartbeats) / seconds);
		figure(b, "day_cpu_per_100000_phones",
			(double)cpu / 1e7 / seconds / b->compress * 100000 / b->phones,
			"% of a core", b->phones, "the same at the pace of life");
		bench_show_latencies(b, b->mailer ? "day_mail_to_phone" : "day_commit_to_phone",
			d.took, d.n,
			b->mailer ? "mail begun to phone, also while it was just reconnecting"
				  : "of all mails, also while the phone was just reconnecting");
		figure(b, "day_missed", (double)d.missed, "mails", d.n,
			"that no phone heard of within %d s", WAKE_PATIENCE_MS / 1000);
		figure(b, "day_late", (double)d.late, "mails", d.n, "later than %d ms", LATE_MS);
		figure(b, "day_heartbeats_late", s.heartbeats_late - s0.heartbeats_late, "answers",
			s.heartbeats - s0.heartbeats,
			"later than the end of the heartbeat by more than %d ms, at most %d",
			LATE_MS, s.late_most_ms);
		figure(b, "day_heartbeats_early", s.heartbeats_early - s0.heartbeats_early,
			"answers", s.heartbeats - s0.heartbeats,
			"the same, too early, by at most %d ms", s.early_most_ms);
		figure(b, "day_lost", s.retried - s0.retried, "connections", roams,
			"lost though nobody roamed; those phones tried again");
	}
	free(d.pending);
	free(d.open);
	free(d.took);
	return ok && !bench_interrupted;
}
