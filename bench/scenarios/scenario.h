/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/scenarios/scenario.h - what the scenarios of roost-bench share: its settings, its server and its phones,
 * and how they tell people what happens. Private to roost-bench.
 * Thread: the main thread.    Errors: false, said by bench_failed. */
#ifndef ROOST_BENCH_SCENARIOS_SCENARIO_H
#define ROOST_BENCH_SCENARIOS_SCENARIO_H

#include "bench/figures.h"
#include "bench/fleet/fleet.h"
#include "bench/mail/mailer.h"
#include "bench/mail/mailroom.h"
#include "bench/mail/publish.h"
#include "bench/kernel_memory.h"
#include "bench/machine.h"
#include "bench/metrics_page.h"
#include "bench/target.h"

enum {
	PARK_PATIENCE_S = 60, /* without any progress */
	WAKE_PATIENCE_MS = 10000,
	SETS_MAX = 64,
	WHY = 512,
	BENCH_AWAY_PERCENT = 2, /* of the phones of a day, at any time */
	/* Phones per 127.0.0.x: the kernel gives every second port of its range quickly and then
	 * searches long, so less than half of 28,000. */
	PHONES_PER_SOURCE = 10000,
	/* Phones that are being woken at a time, where all are: what is committed faster than it is
	 * read would pile up in sockets, a page each. */
	BENCH_UNANSWERED_MAX = 50000,
};

struct bench {
	/* the command line */
	char command[1024];  /* as typed, for the figures */
	double load_average; /* of the machine, when we began */
	bool spawn, keep, prime, force, tls12, resume, tune;
	bool hold, grow, wake, load, burst, expire, handshake, storm, day, soak, crash, upgrade;
	const char *roostd, *ca_file, *get_path, *poll_path, *json_file;
	bool poll_idle, imap;
	uint32_t rest_ms;           /* before each round of burst */
	struct url publish_url;     /* host "": changes go another way */
	struct url subscribers_url; /* host "": nobody tells how many hang */
	const char *mail;           /* to where changes go by mail; NULL: another way */
	bool mail_own;              /* to the LMTP listener of the spawned server */
	char mail_own_set[300], mail_own_to[300];
	uint32_t unanswered_max; /* of burst: phones that wait for their answer at a time */
	uint32_t list_max;       /* recipients of one mail to a list */
	int protocol_version;    /* of ActiveSync, times ten */
	const char *sets[SETS_MAX + 1];
	size_t set_count;
	uint32_t compress, day_s;
	uint32_t stay_percent, changes_per_s, reconnects_per_s;
	char connections_set[64];
	uint32_t expiries_per_s, upgrades;
	/* Of day and soak, in seconds of this run. */
	struct bench_times {
		uint32_t heartbeat_min_s, heartbeat_max_s;
		uint32_t keepalive_s, idle_s; /* the server's; 0: off, unknown */
		uint32_t away_s;              /* phones that vanish come back */
		uint32_t
			dead_s; /* their connections are kept so long, twice what the server needs */
	} times;
	char keepalive_set[64], idle_set[64];
	uint32_t phones, users, wakes, visits, parallel, rounds, idle_s, heartbeat_s;

	/* the server */
	struct target_server server;
	struct url url, metrics_url;
	const char *data;
	pid_t pid;
	bool has_metrics;
	char host_header[300];

	struct mailroom *mailroom;
	struct publisher *publisher;
	struct mailer *mailer;
	/* Storms and load: the phones of the first `watched` users, whose wakes are measured, have a
	 * fleet and so a thread of their own: how busy the others' is must not count. */
	uint32_t watched;
	struct fleet *fleet, *watch;
	uint64_t paused_ns; /* by bench_park so far, only to be sure that all hang */
	uint32_t hanging;   /* phones [0, hanging) do, since the last bench_park */
	struct figures figures;
	struct metrics_page before, after;
	bool failed;
};

extern volatile int bench_interrupted;

/* ---- scenarios, each in a file of its name ---- */

bool bench_handshake(struct bench *b);
bool bench_hold(struct bench *b);
bool bench_grow(struct bench *b);
bool bench_wake(struct bench *b);
/* The same, while others are measured: `wakes` random phones of those that hang, and figures with
 * `name` in front; p50_us_out and so on for a picture. */
struct wake_quantiles {
	double p50_us, p99_us, p999_us;
};
bool bench_wake_some(struct bench *b, const char *name, uint32_t wakes, struct wake_quantiles *out);
bool bench_load(struct bench *b); /* storm.c */
bool bench_burst(struct bench *b);
/* So many rounds of it; all phones are answered then, and have synced. */
bool bench_wake_all(struct bench *b, uint32_t rounds);
bool bench_expire(struct bench *b);
bool bench_storm(struct bench *b);
bool bench_day(struct bench *b);
bool bench_soak(struct bench *b);
bool bench_crash(struct bench *b);
bool bench_upgrade(struct bench *b);

/* ---- telling: bench/tell.c ---- */

/* One line that is written over on a terminal; every two seconds one on anything else. */
__attribute__((format(printf, 1, 2))) void bench_progress(const char *fmt, ...);
void bench_progress_end(void);
__attribute__((format(printf, 1, 2))) void bench_note(const char *fmt, ...);
__attribute__((format(printf, 2, 3))) bool bench_failed(struct bench *b, const char *fmt, ...);
#define figure(b, ...) figure_add(&(b)->figures, __VA_ARGS__)
/* p50, p99 and p99.9 of n latencies, which are sorted. */
void bench_show_latencies(
	struct bench *b, const char *name, uint64_t *ns, size_t n, const char *what);
void bench_server_latency(struct bench *b, const char *scenario); /* of b->before and b->after */

/* ---- the server and its accounts: bench/server.c ---- */

bool bench_needs_fleet(const struct bench *b);
/* Before anything is started; what was tuned is put back by bench_server_end. */
bool bench_machine_check(struct bench *b);
/* Fills the store and starts the server, as far as they are ours. */
bool bench_server_begin(struct bench *b);
/* Starts it again after target_kill, as it was. */
bool bench_server_start(struct bench *b);
/* Also the phones, and after any failure. */
void bench_server_end(struct bench *b);
/* False: no metrics, or they cannot be had (said once). */
bool bench_metrics(struct bench *b, struct metrics_page *page);
/* How many requests hang, as that URL tells ("subscribers: N"). False: said. */
bool bench_subscribers(struct bench *b, uint64_t *out);
/* One change for each of these users. at_ns_out[i]: when it was durable; by mail, when its 250 had been
 * read (a phone may hear of it before: see bench_since); with a publisher, when sending began. */
bool bench_change(struct bench *b, const uint32_t *users, size_t n, uint64_t *at_ns_out, char *why,
	size_t why_bytes);
/* The same as one mail to a list of them, or where the server takes no more, a few. */
bool bench_change_list(struct bench *b, const uint32_t *users, size_t n, uint64_t *at_ns_out,
	char *why, size_t why_bytes);
static inline uint64_t bench_since(uint64_t came_ns, uint64_t at_ns)
{
	return came_ns > at_ns ? came_ns - at_ns : 0;
}
/* Phones [first, first + n) have synced their changes; or they do it themselves before their next
 * Ping. */
bool bench_caught_up(struct bench *b, uint32_t first, uint32_t n, char *why, size_t why_bytes);
/* The same for all phones of one account, also those that do not hang yet. */
bool bench_caught_up_user(struct bench *b, uint32_t user, char *why, size_t why_bytes);
/* Phones of one account that hang. */
uint32_t bench_phones_of_user(const struct bench *b, uint32_t user);

/* A server that was named by URL: one phone asks it first. False: said what is wrong. first.c. */
bool bench_first_phone(struct bench *b);

/* ---- the phones: bench/phones.c ---- */

void bench_client_settings(const struct bench *b, uint32_t phones, struct client_options *o);
bool bench_fleet_begin(struct bench *b);
/* Parks what is not parked of the first `phones`. */
bool bench_park(struct bench *b, uint32_t phones, const char *doing);
void bench_status(const struct bench *b, struct fleet_status *out); /* of both fleets */
struct fleet *bench_fleet_of(const struct bench *b, uint32_t user);
void bench_pause_ms(uint64_t ms);
uint32_t bench_random_below(uint32_t n);

#endif
