/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The phones of a run: one fleet, or two where some are watched while the others come and go. */
#include "bench/fleet/accounts.h"
#include "bench/scenarios/scenario.h"
#include "core/base/clock.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/random.h>

enum { BLIND_PAUSE_MS = 1000 };

void bench_pause_ms(uint64_t ms)
{
	struct timespec ts = {
		.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

uint32_t bench_random_below(uint32_t n)
{
	uint64_t v = 0;

	if (getrandom(&v, sizeof(v), 0) != sizeof(v))
		v = clock_mono_ns() * 0x9e3779b97f4a7c15u >> 13;
	return (uint32_t)(v % n);
}

void bench_client_settings(const struct bench *b, uint32_t phones, struct client_options *o)
{
	*o = (struct client_options){
		.server_name = b->url.host,
		.tls = b->url.tls,
		.tls_options = {.ca_file = b->ca_file,
			.tls12_only = b->tls12,
			.want_ticket = b->resume || b->storm},
		.to[0] = b->url.to,
		.to_count = 1,
		.phones_max = phones,
		.handshakes_max = b->parallel,
		.open_timeout_s = 60,
		.reset_on_close = true,
	};
	/* Source addresses only where they are ours to choose. */
	const struct sockaddr_in *sa = (const struct sockaddr_in *)&b->url.to;

	if (sa->sin_family == AF_INET && ntohl(sa->sin_addr.s_addr) >> 24 == 127)
		o->phones_per_source = PHONES_PER_SOURCE;
}

bool bench_fleet_begin(struct bench *b)
{
	struct fleet_options o = {
		.host_header = b->host_header,
		.user = accounts_user,
		.device = mailroom_device,
		.password = accounts_password,
		.users = b->users,
		.heartbeat_s = b->heartbeat_s,
		.prime = b->prime,
		.sync = b->prime && !b->data,
		.version = b->protocol_version,
		.imap = b->imap,
		.get_path = b->poll_path,
		.get_idle = b->poll_idle,
		.retry = b->load || b->storm || b->day || b->soak || b->crash,
	};
	char why[WHY];

	bench_client_settings(b, b->phones, &o.client);
	if (b->day || b->soak) {
		const struct bench_times *t = &b->times;
		uint64_t dead =
			(uint64_t)b->phones * BENCH_AWAY_PERCENT * t->dead_s / t->away_s / 100;

		o.heartbeat_min_s = t->heartbeat_min_s;
		o.heartbeat_s = t->heartbeat_max_s;
		o.away_ms = t->away_s * 1000;
		o.dead_ms = t->dead_s * 1000;
		/* Kept connections of the dead, and older ones that are just being superseded. */
		o.client.spares_max = (uint32_t)(dead + dead / 2) + b->phones / 50 + 16;
	}
	if (b->watched) {
		o.user_end = b->watched;
		b->watch = fleet_start(&o, why, sizeof(why));
		if (!b->watch)
			return bench_failed(b, "%s", why);
		o.user_first = b->watched;
		o.user_end = b->users;
	}
	b->fleet = fleet_start(&o, why, sizeof(why));
	return b->fleet || bench_failed(b, "%s", why);
}

struct fleet *bench_fleet_of(const struct bench *b, uint32_t user)
{
	return user < b->watched ? b->watch : b->fleet;
}

void bench_status(const struct bench *b, struct fleet_status *out)
{
	struct fleet_status w;

	fleet_status(b->fleet, out);
	if (!b->watch)
		return;
	fleet_status(b->watch, &w);
	out->orders += w.orders;
	out->parked += w.parked;
	out->answered += w.answered;
	out->failed += w.failed;
	out->busy += w.busy;
	out->later += w.later;
	out->surplus += w.surplus;
	out->refused += w.refused;
	out->refused_again += w.refused_again;
	if (w.told_most_s > out->told_most_s)
		out->told_most_s = w.told_most_s;
	out->full += w.full;
	out->resumed += w.resumed;
	out->retried += w.retried;
	if (!out->why[0])
		memcpy(out->why, w.why, sizeof(w.why));
}

/* A change for a phone whose request the server has not seen yet would be lost. */
static bool wait_subscribed(struct bench *b, uint32_t phones)
{
	uint64_t until_ms = clock_mono_ms() + PARK_PATIENCE_S * 1000, hanging;

	do {
		if (!bench_subscribers(b, &hanging))
			return false;
		if (hanging >= phones)
			return true;
		bench_pause_ms(100);
	} while (!bench_interrupted && clock_mono_ms() < until_ms);
	return bench_failed(
		b, "the server says that only %llu requests hang", (unsigned long long)hanging);
}

/* Until so many phones hang, as they see it and, with metrics, as the server does too. */
static bool wait_parked(struct bench *b, uint32_t phones, const char *doing)
{
	struct fleet_status s;
	uint32_t best = 0;
	uint64_t moved_ms = clock_mono_ms(), start_ms = moved_ms;

	for (;;) {
		bench_status(b, &s);
		if (s.parked > best) {
			best = s.parked;
			moved_ms = clock_mono_ms();
		}
		bench_progress("%s: %u of %u phones after %.1f s%s%s", doing, s.parked, phones,
			(double)(clock_mono_ms() - start_ms) / 1000,
			s.failed ? "; newest failure: " : "", s.failed ? s.why : "");
		if (bench_interrupted)
			return false;
		if (s.parked == phones && !s.orders)
			break;
		if (!s.orders && s.parked + s.failed + s.answered == phones && !s.busy &&
			!s.later && s.failed + s.answered)
			return bench_failed(b, "%u phones do not hang: %s", s.failed + s.answered,
				s.why[0] ? s.why : "answered at once");
		if (s.failed > phones / 100)
			return bench_failed(b, "%u phones were lost: %s", s.failed, s.why);
		if (clock_mono_ms() - moved_ms > PARK_PATIENCE_S * 1000)
			return bench_failed(b,
				"no phone parked for %d s; %u of %u hang, last error: %s",
				PARK_PATIENCE_S, s.parked, phones, s.why[0] ? s.why : "none");
		bench_pause_ms(20);
	}
	/* Sent is not yet hanging: the server counts too. */
	for (int i = 0; i < 500 && bench_metrics(b, &b->after); i++) {
		double hanging = metrics_value(&b->after, "roost_parked_requests", "Ping");

		if (hanging >= phones)
			return true;
		if (bench_interrupted)
			return false;
		bench_pause_ms(20);
	}
	if (b->has_metrics)
		return bench_failed(b, "the server says that only %.0f requests hang",
			metrics_value(&b->after, "roost_parked_requests", "Ping"));
	if (b->subscribers_url.host[0])
		return wait_subscribed(b, phones);
	/* Nobody tells: it will have read them by then. Not part of how long parking took. */
	bench_pause_ms(BLIND_PAUSE_MS);
	b->paused_ns += BLIND_PAUSE_MS * 1000000ull;
	return true;
}

bool bench_park(struct bench *b, uint32_t phones, const char *doing)
{
	if (!b->fleet && !bench_fleet_begin(b))
		return false;
	if (b->watch)
		fleet_park(b->watch, phones);
	fleet_park(b->fleet, phones);
	if (!wait_parked(b, phones, doing))
		return false;
	b->hanging = phones;
	return true;
}
