/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Mail for one random phone of N at a time: how long until the phone has heard of it. */
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

struct latencies {
	uint64_t *from_commit, *from_begin;
	size_t n;
	uint64_t woken;    /* phones: all of an account are */
	uint32_t at, mask; /* of choose */
};

static bool hangs_again(struct bench *b, uint32_t phone)
{
	uint64_t until_ms = clock_mono_ms() + WAKE_PATIENCE_MS;
	struct fleet_status s;

	/* Hanging before the next one, and the server asleep as it usually is. */
	do {
		bench_pause_ms(2);
		bench_status(b, &s);
	} while (s.parked < b->hanging && !s.failed && !bench_interrupted &&
		 clock_mono_ms() < until_ms);
	return s.parked >= b->hanging ||
	       bench_failed(b, "phone %u does not hang again: %u parked, %u answered, %u busy, %s",
		       phone, s.parked, s.answered, s.busy, s.why);
}

/* At random; with IMAP in a random order, each once before any comes again: Dovecot 2.3 misses mail that
 * comes in the second between a wake and hibernation. */
static uint32_t choose(const struct bench *b, struct latencies *l)
{
	if (!b->imap)
		return bench_random_below(b->hanging);
	/* A generator of full period modulo a power of two (a = 1 mod 4, c odd). */
	do
		l->at = l->at * 5 + 12345;
	while ((l->at & l->mask) >= b->hanging);
	return l->at & l->mask;
}

static bool wake_one(struct bench *b, struct latencies *l)
{
	uint32_t phone = choose(b, l), user = phone % b->users,
		 count = bench_phones_of_user(b, user);
	struct fleet *fleet = bench_fleet_of(b, user);
	uint64_t commit_ns, begun_ns = clock_mono_ns();
	struct fleet_status s;
	char why[WHY];

	if (!bench_change(b, &user, 1, &commit_ns, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	fleet_wait_answered(fleet, count, WAKE_PATIENCE_MS);
	fleet_status(fleet, &s);
	if (bench_interrupted || s.failed || s.answered < count)
		return bench_failed(b, "phone %u was not woken within %d s: %s", phone,
			WAKE_PATIENCE_MS / 1000, s.why);
	l->from_begin[l->n] = fleet_came_ns(fleet, phone) - begun_ns;
	l->from_commit[l->n++] = bench_since(fleet_came_ns(fleet, phone), commit_ns);
	l->woken += count;
	if (!bench_caught_up_user(b, user, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	for (uint32_t i = user; i < b->hanging; i += b->users)
		fleet_ping(fleet, i);
	return hangs_again(b, phone);
}

static void show(struct bench *b, const char *name, struct latencies *l, uint64_t cpu_ns,
	struct wake_quantiles *out)
{
	uint64_t immediate;
	char full[64];

	snprintf(full, sizeof(full), "%s_write_to_phone", name);
	bench_show_latencies(b, full, l->from_begin, l->n,
		b->publisher ? "publishing begun to answer read and decrypted by the phone"
		: b->mailer  ? "mail begun to answer read and decrypted by the phone"
			     : "writing begun, so with the fsync, to answer read and decrypted");
	snprintf(full, sizeof(full), "%s_%s_to_phone", name, b->mailer ? "250" : "commit");
	if (b->mailer)
		bench_show_latencies(b, full, l->from_commit, l->n,
			"250 for the mail read to answer read and decrypted by the phone; 0 where "
			"the phone had it before");
	else if (!b->publisher)
		bench_show_latencies(b, full, l->from_commit, l->n,
			"durable commit to answer read and decrypted by the phone; one of all at a "
			"time");
	if (out && !b->publisher)
		*out = (struct wake_quantiles){
			(double)quantile(l->from_commit, l->n, 0.5) / 1e3,
			(double)quantile(l->from_commit, l->n, 0.99) / 1e3,
			(double)quantile(l->from_commit, l->n, 0.999) / 1e3,
		};
	if (bench_metrics(b, &b->after)) {
		bench_server_latency(b, name);
		immediate = (uint64_t)(metrics_value(&b->after,
					       "roost_pings_answered_at_once_total", NULL) -
				       metrics_value(&b->before,
					       "roost_pings_answered_at_once_total", NULL));
		if (immediate)
			bench_note("wake: %llu Pings were answered at once instead of hanging",
				(unsigned long long)immediate);
	}
	snprintf(full, sizeof(full), "%s_cpu_single", name);
	if (cpu_ns)
		figure(b, full, (double)cpu_ns / 1e3 / (double)l->woken, "us", l->woken,
			"server CPU per single wake and the Ping after it, metrics included%s%s",
			b->mailer ? ", and taking the mail" : "",
			b->mailer && !b->mailroom && !b->imap ? ", and the phone's Sync" : "");
}

bool bench_wake_some(struct bench *b, const char *name, uint32_t wakes, struct wake_quantiles *out)
{
	struct latencies l = {.n = 0};
	uint64_t cpu;
	bool ok = true;

	CHECK(wakes > 0 && b->hanging > 0);
	l.at = bench_random_below(UINT32_MAX);
	while (l.mask < b->hanging)
		l.mask = l.mask * 2 + 1;
	l.from_commit = calloc(wakes, sizeof(*l.from_commit));
	l.from_begin = calloc(wakes, sizeof(*l.from_begin));
	CHECK(l.from_commit && l.from_begin);
	bench_metrics(b, &b->before);
	cpu = target_cpu_ns(b->pid);
	for (uint32_t k = 0; ok && k < wakes; k++) {
		bench_progress("wake: %u of %u, %u phones hang", k, wakes, b->hanging);
		ok = wake_one(b, &l);
	}
	if (ok)
		show(b, name, &l, target_cpu_ns(b->pid) - cpu, out);
	free(l.from_begin);
	free(l.from_commit);
	return ok;
}

bool bench_wake(struct bench *b)
{
	return bench_park(b, b->phones, "parking") && bench_wake_some(b, "wake", b->wakes, NULL);
}
