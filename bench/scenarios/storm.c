/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Single wakes while much else happens: a storm of reconnects of nearly all phones, or a steady load
 * of commits and reconnects. The phones whose wakes are measured belong to the first users and are
 * never dropped. */
#include "bench/fleet/accounts.h"
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { WAKES_MAX = 1000000, STORM_PATIENCE_S = 900, WAKE_EVERY_MS = 20 };

struct wakes {
	struct bench *b;
	uint32_t next; /* user, in turn */
	uint64_t *took;
	size_t n, cap;
};

static void wakes_begin(struct wakes *w, struct bench *b, size_t cap)
{
	*w = (struct wakes){.b = b, .cap = cap};
	w->took = calloc(cap, sizeof(*w->took));
	CHECK(w->took);
}

/* False: it cannot be seen whether a phone was woken, or it was not within the patience. */
static bool wake_next(struct wakes *w)
{
	struct bench *b = w->b;
	uint32_t user = w->next++ % b->watched, count = bench_phones_of_user(b, user);
	uint64_t commit_ns, begun_ns, until_ms;
	char why[WHY];

	if (w->n == w->cap)
		return true;
	begun_ns = clock_mono_ns();
	if (!bench_change(b, &user, 1, &commit_ns, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	fleet_wait_answered(b->watch, count, WAKE_PATIENCE_MS);
	if (fleet_came_ns(b->watch, user) == 0)
		return bench_failed(b, "phone %u, which stayed, was not woken within %d s", user,
			WAKE_PATIENCE_MS / 1000);
	/* By mail the phone may hear of it before the 250 is here. */
	w->took[w->n++] =
		bench_since(fleet_came_ns(b->watch, user), b->mailer ? begun_ns : commit_ns);
	if (!bench_caught_up_user(b, user, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	for (uint32_t i = user; i < b->phones; i += b->users)
		fleet_ping(b->watch, i);
	/* The fleet's thread is busy too: until it has sent them, their answers are the old ones. */
	until_ms = clock_mono_ms() + WAKE_PATIENCE_MS;
	for (uint32_t i = user; i < b->phones; i += b->users)
		while (fleet_came_ns(b->watch, i) != 0 && clock_mono_ms() < until_ms)
			bench_pause_ms(1);
	return true;
}

/* ---- storm ---- */

static bool storm_round(struct bench *b, bool resume)
{
	const char *kind = resume ? "storm_resumed" : "storm_full";
	struct fleet_drop drop = {.end = b->phones, .resume = resume};
	struct fleet_status s, s0;
	struct kernel_memory k;
	struct wakes w;
	uint64_t start_ns, cpu, anon, anon0, anon_most = 0, sample_ns = 0, least = UINT64_MAX,
					     available0;
	uint32_t gone = 0;
	double seconds;
	json_t *rows;
	char name[64];
	bool ok = true, back = false;

	if (!bench_park(b, b->phones, "before the storm"))
		return false;
	bench_pause_ms(2000);
	for (uint32_t i = 0; i < b->phones; i++)
		gone += i % b->users >= b->watched;
	wakes_begin(&w, b, WAKES_MAX);
	rows = json_array();
	kernel_memory(&k);
	available0 = k.available;
	anon0 = target_anon_now(b->pid);
	cpu = target_cpu_ns(b->pid);
	bench_status(b, &s0);
	start_ns = clock_mono_ns();
	bench_metrics(b, &b->before);
	fleet_drop(b->fleet, &drop);
	for (bool dropped = false; ok && !back && !bench_interrupted;) {
		uint64_t now_ns;

		ok = wake_next(&w);
		bench_pause_ms(WAKE_EVERY_MS);
		bench_status(b, &s);
		now_ns = clock_mono_ns();
		seconds = (double)(now_ns - start_ns) / 1e9;
		dropped = dropped || s.parked + s.busy + s.answered < b->phones || seconds > 2;
		/* But for those whose wake is just being measured. */
		back = dropped && s.parked + s.answered >= b->phones && s.busy == 0;
		if (now_ns < sample_ns && !back)
			continue;
		sample_ns = now_ns + 200000000;
		anon = target_anon_now(b->pid);
		kernel_memory(&k);
		if (anon > anon_most)
			anon_most = anon;
		if (k.available < least)
			least = k.available;
		json_array_append_new(
			rows, json_pack("[f, i, f, f]", seconds, (int)s.parked, (double)anon / 1e6,
				      ((double)available0 - (double)k.available) / 1e6));
		bench_progress("storm: %u of %u phones hang after %.1f s, %u wait after a refusal",
			s.parked, b->phones, seconds, s.later);
		if (seconds > STORM_PATIENCE_S)
			ok = bench_failed(
				b, "the storm is not over after %d s: %s", STORM_PATIENCE_S, s.why);
	}
	seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
	ok = ok && !bench_interrupted && bench_park(b, b->phones, "after the storm");
	if (ok) {
		cpu = target_cpu_ns(b->pid) - cpu;
		if (bench_metrics(b, &b->after))
			bench_server_latency(b, kind);
		snprintf(name, sizeof(name), "%s_time", kind);
		figure(b, name, seconds, "s", gone,
			"connections reset at once to all of them hanging again");
		snprintf(name, sizeof(name), "%s_rate", kind);
		figure(b, name, gone / seconds, "phones/s", gone,
			"both ends on this machine, %u handshakes at a time by the client; %u "
			"full, "
			"%u resumed",
			b->parallel, (unsigned)(s.full - s0.full),
			(unsigned)(s.resumed - s0.resumed));
		snprintf(name, sizeof(name), "%s_cpu", kind);
		figure(b, name, (double)cpu / 1e3 / gone, "us", gone,
			"server CPU for each: close, accept, handshake, Ping");
		snprintf(name, sizeof(name), "%s_memory_rise", kind);
		figure(b, name, ((double)anon_most - (double)anon0) / 1e6, "MB", gone,
			"server's anonymous memory, most on the way, above %.0f MB before",
			(double)anon0 / 1e6);
		snprintf(name, sizeof(name), "%s_available_fall", kind);
		figure(b, name, ((double)available0 - (double)least) / 1e6, "MB", gone,
			"MemAvailable at its least, all processes and the kernel");
		snprintf(name, sizeof(name), "%s_stayed", kind);
		if (w.n)
			bench_show_latencies(b, name, w.took, w.n,
				b->mailer ? "mail begun to phone, of phones that stayed, meanwhile"
					  : "commit to phone, of phones that stayed, meanwhile");
		snprintf(name, sizeof(name), "%s_stayed_worst", kind);
		if (w.n)
			figure(b, name, (double)w.took[w.n - 1] / 1e3, "us", w.n,
				"the same, the worst");
		snprintf(name, sizeof(name), "%s_lost", kind);
		figure(b, name, s.retried - s0.retried, "connections", gone,
			"lost on the way; those phones tried again");
		snprintf(name, sizeof(name), "%s_refused", kind);
		figure(b, name, s.refused - s0.refused, "phones", gone,
			"with 503; they waited as Retry-After told them, at most %u s",
			s.told_most_s);
		snprintf(name, sizeof(name), "%s_refused_again", kind);
		figure(b, name, s.refused_again - s0.refused_again, "phones", gone,
			"of these, who had waited as told: must be none");
		snprintf(name, sizeof(name), "%s_recovery", kind);
		figures_series(&b->figures, name, "seconds,parked,server_anon_MB,available_fall_MB",
			json_incref(rows));
	}
	json_decref(rows);
	free(w.took);
	return ok;
}

bool bench_storm(struct bench *b)
{
	return storm_round(b, false) && (!b->url.tls || storm_round(b, true));
}

/* ---- load ---- */

enum { GROUP = 10 }; /* changes at a time */

struct committer {
	struct bench *b;
	pthread_t thread;
	_Atomic bool stop;
	_Atomic uint64_t done;
	char why[WHY];
};

/* In a folder that no phone watches. Where that cannot be had, mail for the phones that are not timed:
 * it wakes them once, and they stay so until the next round. */
static bool change_elsewhere(struct committer *c, struct mailer *m, const uint32_t *users, size_t n)
{
	uint64_t at[GROUP];

	return m ? mailer_send(m, users, n, at, c->why, sizeof(c->why))
		 : mailroom_file(c->b->mailroom, users, n, at, c->why, sizeof(c->why));
}

/* Ten at a time, as group commit would make of such a stream, and paced by the clock. */
static void *commit_steadily(void *arg)
{
	struct committer *c = arg;
	const struct bench *b = c->b;
	struct mailer *m = NULL;
	uint64_t start_ns = clock_mono_ns(), done = 0;
	uint32_t users[GROUP];

	if (!b->mailroom) {
		m = mailer_open(b->mail, GROUP, accounts_user, c->why, sizeof(c->why));
		if (!m)
			return NULL;
	}

	while (!atomic_load(&c->stop)) {
		uint64_t due = (clock_mono_ns() - start_ns) * b->changes_per_s / 1000000000u;

		if (done + GROUP > due) {
			bench_pause_ms(1);
			continue;
		}
		for (int i = 0; i < GROUP; i++)
			users[i] = m ? b->watched + bench_random_below(b->users - b->watched)
				     : bench_random_below(b->users);
		if (!change_elsewhere(c, m, users, GROUP))
			break;
		done += GROUP;
		atomic_store(&c->done, done);
	}
	mailer_close(&m);
	return NULL;
}

static bool load_round(struct bench *b, const char *kind, bool commits, bool reconnects)
{
	struct committer c = {.b = b};
	struct fleet_status s;
	struct wakes w;
	uint64_t start_ns, dropped = 0, cpu;
	char name[64], what[128];
	double seconds;
	uint32_t first = 0;
	bool ok = true;

	if (!bench_park(b, b->phones, "parking"))
		return false;
	bench_pause_ms(1000);
	wakes_begin(&w, b, b->wakes);
	bench_metrics(b, &b->before);
	cpu = target_cpu_ns(b->pid);
	start_ns = clock_mono_ns();
	if (commits)
		CHECK(pthread_create(&c.thread, NULL, commit_steadily, &c) == 0);
	while (ok && w.n < b->wakes && !bench_interrupted) {
		uint64_t due = (clock_mono_ns() - start_ns) * b->reconnects_per_s / 1000000000u;

		ok = wake_next(&w);
		if (reconnects && due > dropped) {
			struct fleet_drop d = {.first = first >= b->phones ? 0 : first};

			for (d.end = d.first; d.end < b->phones && dropped < due; d.end++)
				dropped += d.end % b->users >= b->watched;
			first = d.end;
			fleet_drop(b->fleet, &d);
		}
		bench_pause_ms(2);
		bench_status(b, &s);
		bench_progress(
			"load, %s: %zu of %u wakes, %u parked", kind, w.n, b->wakes, s.parked);
	}
	seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
	cpu = target_cpu_ns(b->pid) - cpu;
	if (commits) {
		atomic_store(&c.stop, true);
		pthread_join(c.thread, NULL);
		if (c.why[0])
			ok = bench_failed(b, "%s", c.why);
	}
	if (ok && w.n && !bench_interrupted) {
		snprintf(what, sizeof(what),
			"%s to phone; meanwhile %.0f changes/s, %.0f reconnects/s",
			b->mailer ? "mail begun" : "durable commit",
			(double)atomic_load(&c.done) / seconds, (double)dropped / seconds);
		snprintf(name, sizeof(name), "load_%s_%s_to_phone", kind,
			b->mailer ? "mail" : "commit");
		bench_show_latencies(b, name, w.took, w.n, what);
		json_t *rows = json_array();

		/* Sorted by now. */
		double late = 0.5;

		while (late * (double)w.n >= 1) {
			json_array_append_new(
				rows, json_pack("[f, f]", 1 - late,
					      (double)quantile(w.took, w.n, 1 - late) / 1e3));
			late *= 0.9;
		}
		snprintf(name, sizeof(name), "load_%s_distribution", kind);
		figures_series(&b->figures, name, "quantile,us", rows);
		snprintf(name, sizeof(name), "load_%s", kind);
		if (bench_metrics(b, &b->after))
			bench_server_latency(b, name);
		snprintf(name, sizeof(name), "load_%s_cpu", kind);
		figure(b, name, (double)cpu / 1e7 / seconds, "% of a core", b->phones,
			"server, meanwhile");
	}
	free(w.took);
	return ok && !bench_interrupted;
}

bool bench_load(struct bench *b)
{
	return load_round(b, "none", false, false) && load_round(b, "commits", true, false) &&
	       load_round(b, "reconnects", false, true) && load_round(b, "both", true, true);
}
