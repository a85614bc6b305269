/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roost-bench: what parked phones, wakes, bursts and handshakes cost a server. The command line is in
 * options.c, the server in server.c, the phones in phones.c, and each scenario in a file of its name in
 * scenarios/. */
#include "bench/options.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile uint64_t interrupted_ms;

static void on_signal(int number)
{
	uint64_t now_ms = clock_mono_ms();

	(void)number;
	/* Another one a while later means that patience is over; roostd ends with us in any case.
	 * (Terminals and timeout(1) may send two at once.) */
	if (bench_interrupted && now_ms - interrupted_ms > 1000)
		_exit(EXIT_STOPPED);
	if (!bench_interrupted)
		interrupted_ms = now_ms;
	bench_interrupted = 1;
}

static void show_all(struct bench *b)
{
	json_t *s = bench_settings(b);
	FILE *f;

	figures_table(&b->figures, stdout);
	if (strcmp(b->json_file, "-") == 0) {
		putchar('\n');
		figures_json(&b->figures, s, stdout);
	} else if (strcmp(b->json_file, "none") != 0) {
		f = fopen(b->json_file, "ae");
		if (f)
			figures_json(&b->figures, s, f);
		/* (figures_json has flushed: what went wrong is remembered in f) */
		bool bad = !f || ferror(f);

		if (!f || fclose(f) != 0 || bad)
			bench_failed(b, "%s: %s", b->json_file, strerror(errno));
	}
	json_decref(s);
}

/* Better now than after all. */
static bool server_is_right(struct bench *b)
{
	url_host_header(&b->url, b->host_header, sizeof(b->host_header));
	if (b->spawn)
		return true;
	if (!bench_first_phone(b) || (b->has_metrics && !bench_metrics(b, &b->before)))
		return false;
	if (b->has_metrics && !strstr((const char *)b->before.text.p, "roost_parked_requests"))
		return bench_failed(b, "--metrics: that page of %s:%s is not roostd's /metrics",
			b->metrics_url.host, b->metrics_url.port);
	return true;
}

int main(int argc, char **argv)
{
	static struct bench bench = {
		.phones = 20000,
		.wakes = 1000,
		.visits = 2000,
		.parallel = 64,
		.expiries_per_s = 3000,
		.upgrades = 10,
		.rounds = 3,
		.idle_s = 10,
		.heartbeat_s = 3540,
		.json_file = "-",
		.stay_percent = 1,
		.changes_per_s = 1000,
		.reconnects_per_s = 500,
		.protocol_version = 141,
		.list_max = 1000,
		.unanswered_max = BENCH_UNANSWERED_MAX,
	};
	struct bench *b = &bench;
	struct sigaction sa = {.sa_handler = on_signal};
	int result = EXIT_OK;

	bench_options(b, argc, argv);
	log_set_level(LOG_WARNING);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	if (!bench_machine_check(b)) {
		machine_untune(stderr);
		return EXIT_MACHINE;
	}
	if (bench_server_begin(b) && server_is_right(b)) {
		/* The cheap one first: it leaves nothing behind that the others would measure. */
		(void)((!b->handshake || bench_handshake(b)) && (!b->hold || bench_hold(b)) &&
			(!b->grow || bench_grow(b)) && (!b->wake || bench_wake(b)) &&
			(!b->load || bench_load(b)) && (!b->burst || bench_burst(b)) &&
			(!b->expire || bench_expire(b)) && (!b->storm || bench_storm(b)) &&
			(!b->day || bench_day(b)) && (!b->soak || bench_soak(b)) &&
			(!b->crash || bench_crash(b)) && (!b->upgrade || bench_upgrade(b)));
	}
	bench_server_end(b);
	if (b->figures.count)
		show_all(b);
	if (b->failed)
		result = EXIT_FAILED;
	return bench_interrupted ? EXIT_STOPPED : result;
}
