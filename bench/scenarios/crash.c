/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The server is killed with all phones hanging, and started again on the same data. Mail committed
 * just before and meanwhile must reach every phone it is for, once; the others must hang again. */
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	ONE_IN = 100, /* accounts that get mail before the kill, and as many while it is down */
	BATCH = 256,
	PATIENCE_S = 900,
	SAMPLE_MS = 200,
};

struct crash {
	struct bench *b;
	uint64_t *commit_ns;    /* per user; 0: no mail */
	uint32_t users, phones; /* that mail is for */
	struct fleet_status s0, s;
};

/* One mail for each account whose number leaves `rest`. */
static bool mail(struct crash *c, uint32_t rest)
{
	struct bench *b = c->b;
	uint32_t some[BATCH];
	uint64_t at;
	char why[WHY];
	size_t n = 0;

	for (uint32_t u = rest; u < b->users + ONE_IN; u += ONE_IN) {
		if (u < b->users)
			some[n++] = u;
		if (n == 0 || (n < BATCH && u < b->users))
			continue;
		if (!mailroom_deliver(b->mailroom, some, n, &at, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		for (size_t i = 0; i < n; i++) {
			c->commit_ns[some[i]] = at;
			c->users++;
			c->phones += bench_phones_of_user(b, some[i]);
		}
		n = 0;
	}
	return true;
}

/* Until every phone either hangs or was told. */
static bool wait_back(struct crash *c, uint64_t from_ns, json_t *rows, double *seconds_out)
{
	struct bench *b = c->b;
	uint64_t now_ns, sample_ns = 0;
	double seconds = 0;

	for (;;) {
		fleet_status(b->fleet, &c->s);
		now_ns = clock_mono_ns();
		seconds = (double)(now_ns - from_ns) / 1e9;
		bool back = c->s.parked + c->s.answered == b->phones && c->s.busy == 0 &&
			    c->s.answered >= c->phones;

		if (back || now_ns >= sample_ns) {
			json_array_append_new(rows,
				json_pack("[f, f, f]", seconds, (double)c->s.parked + c->s.answered,
					(double)target_anon_now(b->pid) / 1e6));
			sample_ns = now_ns + SAMPLE_MS * 1000000ull;
		}
		*seconds_out = seconds;
		if (back)
			return true;
		bench_progress("crash: %u of %u phones hang, %u were told, %.1f s after the kill",
			c->s.parked, b->phones, c->s.answered, seconds);
		if (bench_interrupted)
			return false;
		if (seconds > PATIENCE_S)
			return bench_failed(b,
				"after %d s %u of %u phones hang, %u were told of %u; newest "
				"failure: %s",
				PATIENCE_S, c->s.parked, b->phones, c->s.answered, c->phones,
				c->s.why);
		bench_pause_ms(20);
	}
}

/* Phones that should have been told and were not. */
static uint32_t count_lost(const struct crash *c)
{
	const struct bench *b = c->b;
	uint32_t lost = 0;

	for (uint32_t i = 0; i < b->phones; i++) {
		uint64_t at = c->commit_ns[i % b->users];

		lost += at && fleet_came_ns(b->fleet, i) <= at;
	}
	return lost;
}

/* Those who were told sync and ask again. */
static bool sync_all(struct crash *c)
{
	struct bench *b = c->b;
	uint32_t some[BATCH];
	char why[WHY];
	size_t n = 0;

	for (uint32_t i = 0; i < b->phones; i++) {
		if (c->commit_ns[i % b->users])
			some[n++] = i;
		if (n < BATCH && (n == 0 || i + 1 < b->phones))
			continue;
		if (!mailroom_catch_up_each(b->mailroom, some, n, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		n = 0;
	}
	return true;
}

static double told(const struct crash *c)
{
	return (double)c->s.book.ends[LEDGER_CHANGE] - (double)c->s0.book.ends[LEDGER_CHANGE];
}

static bool round_of(struct crash *c)
{
	struct bench *b = c->b;
	uint64_t killed_ns, started_ns, ready_ns, cpu;
	struct ledger_report r = {.rules = 0};
	uint32_t before_users, phones;
	double seconds;
	json_t *rows;
	bool ok;

	if (!bench_park(b, b->phones, "before the crash"))
		return false;
	bench_pause_ms(1000);
	fleet_status(b->fleet, &c->s0);
	/* Straight before: some phones hear of it, others do not any more. */
	if (!mail(c, 0))
		return false;
	before_users = c->users;
	killed_ns = clock_mono_ns();
	target_kill(&b->server);
	b->pid = 0;
	if (!mail(c, ONE_IN / 2))
		return false;
	started_ns = clock_mono_ns();
	if (!bench_server_start(b))
		return false;
	ready_ns = clock_mono_ns();
	cpu = target_cpu_ns(b->pid);
	rows = json_array();
	ok = wait_back(c, killed_ns, rows, &seconds);
	figures_series(&b->figures, "crash_recovery", "seconds,back,server_anon_MB", rows);
	if (!ok)
		return false;
	/* Whoever would be told twice has time for it. */
	bench_pause_ms(2000);
	fleet_status(b->fleet, &c->s);
	phones = c->phones;
	figure(b, "crash_ready", (double)(ready_ns - started_ns) / 1e9, "s", 1,
		"from starting roostd on the store of the killed one to its being ready");
	figure(b, "crash_recovery", seconds, "s", b->phones,
		"kill -9 to all phones hanging or told; of that down: %.2f s",
		(double)(ready_ns - killed_ns) / 1e9);
	figure(b, "crash_rate", b->phones / (seconds - (double)(ready_ns - killed_ns) / 1e9),
		"phones/s", b->phones,
		"from when it was ready; full handshakes, and all credentials anew");
	figure(b, "crash_cpu", (double)(target_cpu_ns(b->pid) - cpu) / 1e3 / b->phones, "us",
		b->phones, "server CPU for each");
	figure(b, "crash_told", told(c), "phones", phones,
		"of mail for %u accounts just before the kill and %u while it was down",
		before_users, c->users - before_users);
	figure(b, "crash_lost", count_lost(c), "phones", phones, "that did not hear of their mail");
	figure(b, "crash_doubled", told(c) - ((double)phones - count_lost(c)), "answers", phones,
		"with a change beyond one for each phone that has mail");
	figure(b, "crash_unasked", (double)c->s.answered - phones, "phones", b->phones - phones,
		"told though they have no mail");
	if (count_lost(c) || told(c) != phones || c->s.answered != phones)
		bench_failed(b, "%u phones have mail, %.0f were told, %u heard nothing", phones,
			told(c), count_lost(c));
	/* The killed one's Pings are the phones' losses; everything else must add up. */
	c->s.book.ends[LEDGER_DROPPED] += c->s.book.ends[LEDGER_LOST];
	c->s.book.ends[LEDGER_LOST] = 0;
	ledger_check_phones(&c->s.book, false, &r);
	for (size_t i = 0; i < r.broken && i < LEDGER_BROKEN_MAX; i++)
		bench_failed(b, "%s", r.text[i]);
	return !b->failed;
}

/* Whether it serves as before: those accounts get mail once more. */
static bool wake_again(struct crash *c)
{
	struct bench *b = c->b;

	if (!sync_all(c) || !bench_park(b, b->phones, "after the crash"))
		return false;
	fleet_status(b->fleet, &c->s0);
	c->users = c->phones = 0;
	if (!mail(c, 0) || !mail(c, ONE_IN / 2))
		return false;
	fleet_wait_answered(b->fleet, c->phones, WAKE_PATIENCE_MS);
	bench_pause_ms(500);
	fleet_status(b->fleet, &c->s);
	figure(b, "crash_woken_after", told(c), "phones", c->phones,
		"by mail for the same accounts when all hung again");
	return told(c) == c->phones ||
	       bench_failed(b, "%u phones got mail after the crash, %.0f were woken", c->phones,
		       told(c));
}

bool bench_crash(struct bench *b)
{
	struct crash c = {.b = b};
	bool ok;

	c.commit_ns = calloc(b->users, sizeof(*c.commit_ns));
	CHECK(c.commit_ns);
	ok = round_of(&c) && wake_again(&c);
	free(c.commit_ns);
	return ok && !bench_interrupted;
}
