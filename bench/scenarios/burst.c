/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One message for each account, many to a commit: what a wake costs when all are woken, and whether
 * each phone was woken once. */
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { BURST_BATCH = 256, MAIL_BATCH = 4096 }; /* changes per transaction; mails at a time */

struct burst {
	struct bench *b;
	bool list;           /* one mail to all */
	uint32_t per;        /* changes at a time */
	uint32_t *users;     /* all of them, in order */
	uint64_t *commit_ns; /* per user */
	uint64_t *took;      /* per phone */
	uint8_t *woken;      /* per phone: fleet_woken before */
	uint64_t first_ns, first_commit_ns, delivered_ns, first_seen_ns, last_ns;
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
	uint32_t per = u->list     ? b->list_max
		       : b->mailer ? MAIL_BATCH
				   : BURST_BATCH,
		 committed = 0; /* phones */
	struct fleet_status s;
	char why[WHY];

	/* Over its connections at once. */
	if (u->list && b->mailer)
		per = MAIL_BATCH > per ? MAIL_BATCH / per * per : per;
	if (per > b->unanswered_max)
		per = b->unanswered_max;
	u->per = per;
	u->first_ns = clock_mono_ns();
	for (uint32_t i = 0; i < b->users && !bench_interrupted; i += per) {
		uint32_t k = b->users - i < per ? b->users - i : per;

		for (uint32_t j = 0; j < k; j++)
			committed += bench_phones_of_user(b, i + j);
		if (!(u->list ? bench_change_list : bench_change)(
			    b, u->users + i, k, u->commit_ns + i, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		for (uint32_t j = 0; j < k; j++)
			if (!u->first_commit_ns || u->commit_ns[i + j] < u->first_commit_ns)
				u->first_commit_ns = u->commit_ns[i + j];
		bench_progress("burst: %u of %u changes committed", i + k, b->users);
		if (committed > b->unanswered_max &&
			!wait_answered(b, committed - b->unanswered_max, &s))
			return bench_failed(b, "only %u of %u phones were woken: %s", s.answered,
				committed, s.why);
	}
	u->delivered_ns = clock_mono_ns();
	return !bench_interrupted;
}

static const char *kind_of(const struct burst *u)
{
	return u->list ? "burst_list" : "burst";
}

/* Each phone must have been answered once: with status 2, its inbox, and after its change. */
static bool judge(struct burst *u, const struct fleet_status *s)
{
	struct bench *b = u->b;
	char name[64];

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
		if (came_ns && came_ns < u->first_seen_ns)
			u->first_seen_ns = came_ns;
		u->took[i] = bench_since(came_ns, u->commit_ns[i % b->users]);
	}
	u->doubled += s->surplus - u->surplus;
	snprintf(name, sizeof(name), "%s_missed", kind_of(u));
	figure(b, name, u->missed, "phones", b->phones, "not answered");
	snprintf(name, sizeof(name), "%s_doubled", kind_of(u));
	figure(b, name, u->doubled, "phones", b->phones,
		"woken again for the same change, or answered without having asked");
	if (u->missed || u->doubled || s->answered != b->phones)
		return bench_failed(b, "%u of %u phones were woken, %u missed, %u doubled: %s",
			s->answered, b->phones, u->missed, u->doubled, s->why);
	return true;
}

static void show(struct burst *u, uint64_t cpu_ns)
{
	struct bench *b = u->b;
	const char *kind = kind_of(u), *of = b->mailer ? "250" : "commit";
	uint64_t begin_ns = u->first_commit_ns;
	char name[64];

	/* By mail a phone may hear of its change before the 250 is read. */
	if (u->first_seen_ns < begin_ns)
		begin_ns = u->first_seen_ns;
	snprintf(name, sizeof(name), "%s_time_to_last", kind);
	figure(b, name, (double)(u->last_ns - u->first_ns) / 1e6, "ms", b->phones,
		"first write begun to last phone woken; %s %u%s, %u at a time",
		u->list ? "one mail to" : "one each for", b->users, b->mailer ? " by mail" : "",
		u->list && b->list_max < u->per ? b->list_max : u->per);
	snprintf(name, sizeof(name), "%s_commits", kind);
	figure(b, name, (double)(u->delivered_ns - u->first_ns) / 1e6, "ms", b->users,
		"of that: making the changes, by this program%s",
		b->phones > b->unanswered_max ? ", which waits for the phones" : "");
	snprintf(name, sizeof(name), "%s_wake_rate", kind);
	figure(b, name, b->phones / ((double)(u->last_ns - begin_ns) / 1e9), "wakes/s", b->phones,
		"from the first %s to the last phone; changes and 1 client on this machine", of);
	snprintf(name, sizeof(name), "%s_cpu_per_wake", kind);
	if (cpu_ns)
		figure(b, name, (double)cpu_ns / 1e3 / b->phones, "us", b->phones, "server CPU%s",
			b->mailer      ? ", with taking the mail"
			: b->publisher ? ", with taking the POST"
				       : "");
	snprintf(name, sizeof(name), "%s_%s_to_phone", kind, of);
	bench_show_latencies(b, name, u->took, b->phones,
		b->mailer      ? "own 250 to answer at the phone; 0 where the phone had it before"
		: b->publisher ? "publishing begun to answer at the phone"
			       : "own commit to answer at the phone");
	if (!bench_metrics(b, &b->after))
		return;
	snprintf(name, sizeof(name), "%s_syscalls_per_wake", kind);
	figure(b, name,
		(metrics_value(&b->after, "roost_ring_enter_total", NULL) -
			metrics_value(&b->before, "roost_ring_enter_total", NULL)) /
			b->phones,
		"calls", b->phones, "io_uring_enter and poll of all shards");
	bench_server_latency(b, kind);
}

static bool burst_round(struct burst *u)
{
	struct bench *b = u->b;
	struct fleet_status s;
	char why[WHY];
	uint64_t cpu;

	if (!bench_park(b, b->phones, "parking again"))
		return false;
	bench_pause_ms(b->rest_ms > 300 ? b->rest_ms : 300);
	u->missed = u->doubled = 0;
	u->first_commit_ns = u->last_ns = 0;
	u->first_seen_ns = UINT64_MAX;
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

static bool wake_all(struct bench *b, uint32_t rounds, bool list_too)
{
	struct burst u = {.b = b};
	bool ok = true;

	u.commit_ns = calloc(b->users, sizeof(*u.commit_ns));
	u.took = calloc(b->phones, sizeof(*u.took));
	u.woken = calloc(b->phones, sizeof(*u.woken));
	u.users = calloc(b->users, sizeof(*u.users));
	CHECK(u.commit_ns && u.took && u.woken && u.users);
	for (uint32_t i = 0; i < b->users; i++)
		u.users[i] = i;
	for (int list = 0; list < (list_too ? 2 : 1); list++) {
		u.list = list;
		for (uint32_t r = 0; r < rounds && ok; r++) {
			ok = burst_round(&u);
			if (ok)
				bench_note("burst%s: round %u of %u done",
					list ? ", one mail to all" : "", r + 1, rounds);
		}
	}
	free(u.users);
	free(u.woken);
	free(u.took);
	free(u.commit_ns);
	return ok;
}

bool bench_wake_all(struct bench *b, uint32_t rounds)
{
	return wake_all(b, rounds, false);
}

bool bench_burst(struct bench *b)
{
	return wake_all(b, b->rounds, !b->publisher); /* a POST is for one phone */
}
