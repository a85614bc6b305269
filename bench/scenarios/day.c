/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Steady life, compressed in time: heartbeats of 8 to 59 minutes that run out and are asked again, 50
 * mails a day for every phone, networks that change, newer Pings beside older ones, and phones that
 * vanish without a word and come back. With --compress 60 a minute is a second. What a server must
 * never do is counted: mail that no phone hears of, answers that come late, twice or never, and
 * connections of the dead that stay. */
#include "bench/scenarios/day.h"

#include "bench/fleet/ledger.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/loop.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	DAY_S = 86400,
	MAILS_A_DAY = 50,
	ROAMS_A_DAY = 20,
	SUPERSEDES_A_DAY = 5,
	BATCH = 64,
	LATE_MS = 1000,
	TURN_MS = 5,
	QUIET_S = 60, /* after the last phone has left */
};

/* Mail that is on its way to the phone of a user. */
struct pending {
	uint64_t commit_ns; /* 0: none */
};

struct latencies {
	uint64_t *ns;
	size_t n, cap;
};

struct day {
	struct bench *b;
	const struct day_plan *plan;
	struct pending *pending; /* per user */
	uint32_t *open;          /* users that have some */
	uint32_t open_count;
	struct latencies took, took_back;
	uint64_t mails, heard, late, late_back, missed;
	double roams_due, supersedes_due, vanishes_due;
	struct fleet_status s0, s;
	struct ledger_server before, after;
};

__attribute__((format(printf, 6, 7))) static void day_figure(struct day *d, const char *name,
	double value, const char *unit, uint64_t n, const char *fmt, ...)
{
	char full[96], note[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(note, sizeof(note), fmt, ap);
	va_end(ap);
	snprintf(full, sizeof(full), "%s_%s", d->plan->name, name);
	figure(d->b, full, value, unit, n, "%s", note);
}

static void latencies_add(struct latencies *l, uint64_t ns)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 4096;
		l->ns = realloc(l->ns, l->cap * sizeof(*l->ns));
		CHECK(l->ns);
	}
	l->ns[l->n++] = ns;
}

/* ---- mail ---- */

static bool deliver(struct day *d, uint64_t due)
{
	struct bench *b = d->b;
	uint32_t users[BATCH];
	uint64_t at[BATCH], begun_ns;
	char why[WHY];
	size_t n = 0;

	for (int tries = 0; d->mails + n < due && n < BATCH && tries < 4 * BATCH; tries++) {
		uint32_t user = bench_random_below(b->users);

		/* One at a time, so that it is clear which mail an answer is for; and none that the
		 * phone's own Sync would bring. */
		if (d->pending[user].commit_ns ||
			(!b->mailroom && fleet_came_ns(b->fleet, user) != 0))
			continue;
		d->pending[user].commit_ns = 1;
		users[n++] = user;
	}
	if (n == 0)
		return true;
	begun_ns = clock_mono_ns();
	if (!bench_change(b, users, n, at, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	d->mails += n;
	for (size_t i = 0; i < n; i++) {
		/* By mail phones may hear of it before the 250 is here. */
		d->pending[users[i]].commit_ns = b->mailer ? begun_ns : at[i];
		d->open[d->open_count++] = users[i];
	}
	return true;
}

/* True when it is settled what became of the user's mail. */
static bool settled(struct day *d, uint32_t user)
{
	uint64_t commit_ns = d->pending[user].commit_ns;
	uint64_t came_ns = fleet_came_ns(d->b->fleet, user);
	uint64_t back_ns = fleet_back_ns(d->b->fleet, user);
	/* Whoever vanished hears of it when he is back: the first answer may have gone nowhere. */
	bool was_away = back_ns > commit_ns;
	uint64_t from_ns = was_away ? back_ns : commit_ns;

	if (came_ns > commit_ns && back_ns != UINT64_MAX) {
		uint64_t took_ns = came_ns > from_ns ? came_ns - from_ns : 0;

		d->heard++;
		*(was_away ? &d->late_back : &d->late) += took_ns > LATE_MS * 1000000ull;
		latencies_add(was_away ? &d->took_back : &d->took, took_ns);
		return true;
	}
	if (back_ns == UINT64_MAX || clock_mono_ns() < from_ns + WAKE_PATIENCE_MS * 1000000ull)
		return false;
	d->missed++;
	return true;
}

/* Phones that have heard of their mail sync it and ask again. */
static bool look_at_answers(struct day *d)
{
	struct bench *b = d->b;
	uint32_t some[BATCH * 4];
	char why[WHY];

	for (uint32_t k = 0; k < d->open_count;) {
		size_t n = 0;

		while (k < d->open_count && n < ARRAY_LEN(some)) {
			if (!settled(d, d->open[k])) {
				k++;
				continue;
			}
			some[n++] = d->open[k];
			d->open[k] = d->open[--d->open_count];
		}
		if (b->mailroom && !mailroom_catch_up_each(b->mailroom, some, n, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		for (size_t i = 0; i < n; i++) {
			d->pending[some[i]].commit_ns = 0;
			fleet_ping(b->fleet, some[i]);
		}
	}
	return true;
}

/* ---- what else happens ---- */

static void happen(struct day *d, double *due, double more, void (*what)(struct fleet *, uint32_t))
{
	uint32_t now;

	*due += more;
	now = (uint32_t)*due;
	*due -= now;
	while (now-- > 0)
		what(d->b->fleet, bench_random_below(d->b->phones));
}

static uint32_t connections_of_living(const struct fleet_status *s)
{
	return s->life.open - s->life.dead;
}

static bool live(struct day *d)
{
	struct bench *b = d->b;
	const double day_per_s = (double)b->phones * b->compress / DAY_S;
	const double away_per_s = (double)b->phones * BENCH_AWAY_PERCENT / 100 / b->times.away_s;
	uint64_t start_ns = clock_mono_ns(), cpu = target_cpu_ns(b->pid);
	double seconds = 0, sample_s = 0, before;
	const bool can_vanish = loop_can_deafen();
	bool ok = true;

	if (!can_vanish)
		fprintf(stderr, "%s: no phone vanishes without FIN: that takes Linux 6.7\n",
			d->plan->name);

	while (ok && seconds < d->plan->seconds && !bench_interrupted) {
		ok = deliver(d, (uint64_t)(seconds * day_per_s * MAILS_A_DAY)) &&
		     look_at_answers(d);
		bench_pause_ms(TURN_MS);
		before = seconds;
		seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
		happen(d, &d->roams_due, (seconds - before) * day_per_s * ROAMS_A_DAY, fleet_roam);
		happen(d, &d->supersedes_due, (seconds - before) * day_per_s * SUPERSEDES_A_DAY,
			fleet_supersede);
		if (can_vanish)
			happen(d, &d->vanishes_due, (seconds - before) * away_per_s, fleet_vanish);
		fleet_status(b->fleet, &d->s);
		bench_progress("%s: %.0f of %u s, %u parked, %u away, %llu mails, %llu late, "
			       "%llu missed",
			d->plan->name, seconds, d->plan->seconds, d->s.parked, d->s.away,
			(unsigned long long)d->mails, (unsigned long long)d->late,
			(unsigned long long)d->missed);
		if (d->plan->sample && seconds >= sample_s) {
			struct day_now now = {
				.seconds = seconds, .phones = &d->s, .mails = d->mails};

			ok = ok && d->plan->sample(d->plan->arg, &now);
			sample_s += d->plan->sample_ms / 1e3;
		}
	}
	cpu = target_cpu_ns(b->pid) - cpu;
	if (!ok || bench_interrupted)
		return false;
	const struct fleet_life *l = &d->s.life, *l0 = &d->s0.life;

	day_figure(d, "cpu", (double)cpu / 1e7 / seconds, "% of a core", b->phones,
		"%u times faster than life: %.0f mails/s, %.0f reconnects/s, %.0f heartbeats/s",
		b->compress, (double)d->mails / seconds, (double)(l->roamed - l0->roamed) / seconds,
		(double)(d->s.heartbeats - d->s0.heartbeats) / seconds);
	day_figure(d, "cpu_per_100000_phones",
		(double)cpu / 1e7 / seconds / b->compress * 100000 / b->phones, "% of a core",
		b->phones, "the same at the pace of life");
	return true;
}

/* ---- the end ---- */

/* Until all mail is heard of, all who vanished are back, and no older Ping hangs beside a newer. */
static bool come_to_rest(struct day *d)
{
	struct bench *b = d->b;
	uint64_t until_ms = clock_mono_ms() + b->times.away_s * 1000ull + 2 * WAKE_PATIENCE_MS;

	do {
		if (!look_at_answers(d))
			return false;
		bench_pause_ms(TURN_MS);
		fleet_status(b->fleet, &d->s);
		bench_progress("%s: ends; %u mails to be heard of, %u phones away", d->plan->name,
			d->open_count, d->s.away);
	} while ((d->open_count || d->s.away || d->s.life.older || d->s.busy || d->s.later) &&
		 clock_mono_ms() < until_ms && !bench_interrupted);
	return !bench_interrupted;
}

/* The server must find out by itself that phones are gone. */
static bool dead_are_freed(struct day *d)
{
	struct bench *b = d->b;
	uint64_t start_ms = clock_mono_ms(), until_ms = start_ms + b->times.dead_s * 500ull;
	double open = 0;

	while (bench_metrics(b, &b->after) && !bench_interrupted) {
		fleet_status(b->fleet, &d->s);
		open = metrics_value(&b->after, "roost_connections", NULL);
		if (open == connections_of_living(&d->s) || clock_mono_ms() > until_ms)
			break;
		bench_progress("%s: ends; the server has %.0f connections, %u phones live",
			d->plan->name, open, connections_of_living(&d->s));
		bench_pause_ms(50);
		if (!look_at_answers(d))
			return false;
	}
	if (!b->has_metrics || bench_interrupted)
		return !bench_interrupted;
	day_figure(d, "dead_left", open - connections_of_living(&d->s), "connections",
		d->s.life.vanished,
		"of vanished phones still open at the server %.1f s after the last mail",
		(double)(clock_mono_ms() - start_ms) / 1e3);
	return open == connections_of_living(&d->s) ||
	       bench_failed(b, "the server has %.0f connections, but only %u phones are connected",
		       open, connections_of_living(&d->s));
}

static void show_report(struct day *d, const struct ledger_report *r)
{
	for (size_t i = 0; i < r->broken && i < LEDGER_BROKEN_MAX; i++)
		bench_note("%s: %s", d->plan->name, r->text[i]);
	day_figure(d, "books_broken", (double)r->broken, "rules", r->rules,
		"of what the counters of phones and server must agree in");
	if (r->broken)
		bench_failed(
			d->b, "the books do not agree in %zu of %zu rules", r->broken, r->rules);
}

/* All leave; then nothing may be left of them, and every Ping must have ended once. */
static bool leave(struct day *d)
{
	struct bench *b = d->b;
	uint64_t until_ms = clock_mono_ms() + QUIET_S * 1000;
	struct ledger_report r = {.rules = 0};
	bool quiet = false;

	fleet_leave(b->fleet);
	while (!quiet && clock_mono_ms() < until_ms && !bench_interrupted) {
		bench_pause_ms(50);
		fleet_status(b->fleet, &d->s);
		quiet = d->s.life.open == 0 && d->s.book.hanging == 0;
		if (quiet && bench_metrics(b, &b->after)) {
			ledger_read(&b->after, &d->after);
			quiet = d->after.open == 0 && d->after.parked == 0;
		}
		bench_progress("%s: all leave; %u phones and %llu connections at the server left",
			d->plan->name, d->s.life.open, (unsigned long long)d->after.open);
	}
	if (bench_interrupted)
		return false;
	ledger_check_phones(&d->s.book, true, &r);
	if (b->has_metrics) {
		day_figure(d, "connections_leaked", (double)d->after.open, "connections",
			d->after.accepted,
			"at the server after all have left; accepted in all: the other number");
		ledger_check_server(&d->after, &r);
		ledger_check_both(&d->s.book, &d->before, &d->after, &r);
	}
	show_report(d, &r);
	if (b->has_metrics)
		day_figure(d, "pings", (double)d->s.book.asked, "Pings", d->s.book.asked,
			"sent; %llu given up by phones, of which the server had answered %llu and "
			"not read %llu",
			(unsigned long long)ledger_gone(&d->s.book),
			(unsigned long long)r.into_the_void, (unsigned long long)r.never_read);
	return true;
}

static void show(struct day *d)
{
	struct bench *b = d->b;
	const struct fleet_life *l = &d->s.life, *l0 = &d->s0.life;
	uint64_t heartbeats = d->s.heartbeats - d->s0.heartbeats;
	char name[64];

	snprintf(
		name, sizeof(name), "%s_%s_to_phone", d->plan->name, b->mailer ? "mail" : "commit");
	if (d->took.n)
		bench_show_latencies(b, name, d->took.ns, d->took.n,
			b->mailer ? "mail begun to phone, also while it was just reconnecting"
				  : "of all mails, also while the phone was just reconnecting");
	snprintf(name, sizeof(name), "%s_back_to_phone", d->plan->name);
	if (d->took_back.n)
		bench_show_latencies(b, name, d->took_back.ns, d->took_back.n,
			"mail for a phone that had vanished: from its return");
	day_figure(d, "missed", (double)d->missed, "mails", d->mails,
		"that no phone heard of within %d s", WAKE_PATIENCE_MS / 1000);
	day_figure(d, "late", (double)(d->late + d->late_back), "mails", d->heard,
		"later than %d ms, for vanished phones counted from their return", LATE_MS);
	/* Every mail is told once, by the one Ping that hung or the one that comes next. */
	day_figure(d, "told_too_often",
		(double)d->s.book.ends[LEDGER_CHANGE] - (double)d->s0.book.ends[LEDGER_CHANGE] -
			(double)d->heard,
		"answers", d->heard, "with a change beyond one for each mail");
	day_figure(d, "heartbeats_late", d->s.heartbeats_late - d->s0.heartbeats_late, "answers",
		heartbeats, "later than the end of the heartbeat by more than %d ms, at most %d",
		LATE_MS, d->s.late_most_ms);
	day_figure(d, "heartbeats_early", d->s.heartbeats_early - d->s0.heartbeats_early, "answers",
		heartbeats, "the same, too early, by at most %d ms", d->s.early_most_ms);
	day_figure(d, "superseded", (double)(l->superseding - l0->superseding), "Pings",
		l->superseding,
		"older ones ended by a newer one; %llu with a change; the slowest after %llu ms",
		(unsigned long long)d->s.book.ends[LEDGER_SUPERSEDED_CHANGE],
		(unsigned long long)l->superseded_ms_most);
	day_figure(d, "superseded_late", (double)l->superseded_late + l->older, "Pings",
		l->superseding, "ended later than %d ms after the newer one was sent", LATE_MS);
	day_figure(d, "newer_hung", (double)l->second_hung, "Pings", l->superseding,
		"%llu woken, %llu to the end of the heartbeat, %llu given up by the phone; not "
		"hung: %llu",
		(unsigned long long)l->second_woken, (unsigned long long)l->second_expired,
		(unsigned long long)l->second_gone, (unsigned long long)l->second_not_hung);
	day_figure(d, "vanished", (double)l->vanished, "phones", l->vanished,
		"without a word, back after %u s; %zu mails were told on return; no place for %llu",
		b->times.away_s, d->took_back.n, (unsigned long long)l->no_spare);
	if (b->has_metrics)
		day_figure(d, "dead_found", (double)(d->after.closed_lost - d->before.closed_lost),
			"connections", l->vanished,
			"closed for want of a sign of life (TCP keepalive, %s); the others ended "
			"with "
			"their heartbeat",
			b->times.keepalive_s ? "on" : "off");
	day_figure(d, "lost", d->s.retried - d->s0.retried, "connections", l->roamed,
		"lost though nobody roamed; those phones tried again");
	if (d->s.retried > d->s0.retried)
		bench_note("%s: %s", d->plan->name, d->s.why);
}

bool day_run(struct bench *b, const struct day_plan *plan)
{
	struct day d = {.b = b, .plan = plan};
	bool ok;

	if (!b->fleet && !bench_fleet_begin(b))
		return false;
	/* Before the first phone: its connection counts too. */
	if (bench_metrics(b, &b->before))
		ledger_read(&b->before, &d.before);
	if (!bench_park(b, b->phones, "parking"))
		return false;
	bench_pause_ms(1000);
	d.pending = calloc(b->users, sizeof(*d.pending));
	d.open = calloc(b->users, sizeof(*d.open));
	CHECK(d.pending && d.open);
	fleet_status(b->fleet, &d.s0);
	ok = live(&d) && come_to_rest(&d);
	if (ok) {
		ok = dead_are_freed(&d);
		ok = leave(&d) && ok;
		show(&d);
	}
	free(d.pending);
	free(d.open);
	free(d.took.ns);
	free(d.took_back.ns);
	return ok && !bench_interrupted;
}

bool bench_day(struct bench *b)
{
	const struct day_plan plan = {.name = "day", .seconds = b->day_s};

	return day_run(b, &plan);
}
