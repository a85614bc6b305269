/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roost-bench: what parked phones, wakes, bursts and handshakes cost a server. */
#include "bench/client.h"
#include "bench/eas_request.h"
#include "bench/figures.h"
#include "bench/fleet.h"
#include "bench/mailroom.h"
#include "bench/scenario.h"
#include "bench/target.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/version.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_MACHINE = 3,
	EXIT_STOPPED = 130
};

enum {
	/* Phones per 127.0.0.x: the kernel gives every second port of its range quickly and then
	 * searches long, so less than half of 28,000. */
	PER_SOURCE = 10000,
	BURST_BATCH = 256, /* changes per transaction */
};

static const char usage[] =
	"roost-bench - measures a push server\n"
	"\n"
	"  roost-bench --spawn [options] [SCENARIO...]\n"
	"  roost-bench --url https://HOST:PORT [--pid PID] [--metrics URL] [--data DIR] [options] "
	"...\n"
	"\n"
	"Scenarios (all: hold, wake, burst, handshake; the default):\n"
	"  hold        parks the phones: user and kernel memory per parked Ping, CPU while idle\n"
	"  grow        the same at 10,000, 30,000, 100,000, 300,000 and 1,000,000 phones of one "
	"run,\n"
	"              up to --phones: must stay flat\n"
	"  wake        one random phone of all gets mail: commit to wire, commit to phone\n"
	"  load        the same while changes are committed elsewhere, while phones reconnect, "
	"and\n"
	"              both\n"
	"  burst       every account gets one message: wakes per second, CPU and system calls per "
	"wake\n"
	"  handshake   connect, TLS, one request, close: CPU of the server each, full and resumed\n"
	"  day         steady life, compressed in time: CPU, and mail that is missed or late\n"
	"  storm       all phones but --stay drop at once and come back, with full and with "
	"resumed\n"
	"              handshakes: time, memory on the way, service to those that stayed\n"
	"\n"
	"The server:\n"
	"      --spawn              start roostd on a temporary store, and end it afterwards\n"
	"      --roostd FILE        which (default: beside this program)\n"
	"  -s, --set SECTION.KEY=V  further settings for it\n"
	"  -u, --url URL            a server that runs; any HTTPS server for `handshake`\n"
	"      --pid PID            its process (with its children), for memory and CPU\n"
	"      --metrics URL        its metrics, like http://127.0.0.1:9100/metrics\n"
	"      --data DIR           its data directory: accounts bench*@" MAILROOM_DOMAIN
	" are made\n"
	"                           there, and changes committed; removed at the end\n"
	"      --keep               do not remove them\n"
	"      --prime              Provision, FolderSync and Sync over the network\n"
	"      --ca FILE            verify the certificate (default: do not)\n"
	"\n"
	"How much:\n"
	"  -n, --phones N           (default 20000)\n"
	"      --users N            accounts; phones are spread over them (default: as many)\n"
	"      --wakes N            of scenario wake (default 1000)\n"
	"      --visits N           of scenario handshake (default 2000)\n"
	"      --parallel N         connections shaking hands at a time (default 64)\n"
	"      --rounds N           of burst and handshake; medians are shown (default 3)\n"
	"      --idle S             seconds to watch the idle server (default 10)\n"
	"      --heartbeat S        (default 3540)\n"
	"      --poll PATH          not ActiveSync: each phone's GET of PATH and its number hangs\n"
	"      --poll-idle PATH     the same, answered at once: connections that only idle\n"
	"      --publish URL        changes are POSTs to this http:// URL and the phone's number\n"
	"      --resume             handshakes of the phones resume a session\n"
	"      --stay PERCENT       phones that storm and load spare, and watch (default 1)\n"
	"      --changes N          per second, of scenario load (default 1000)\n"
	"      --reconnects N       per second, of scenario load (default 500)\n"
	"      --compress N         day: so many times faster than life (default 60)\n"
	"      --seconds S          day: for so long (default 90)\n"
	"      --tls12              TLS 1.2 only\n"
	"      --get PATH           handshake: GET this without credentials instead of OPTIONS\n"
	"      --name NAME          put in front of the figures' names\n"
	"      --json FILE          JSON lines go there, appended; - standard output (default),\n"
	"                           none\n"
	"      --tune               set the sysctls that do not suffice, say which, and put them "
	"back\n"
	"      --force              start although memory, ports, files or tcp_mem do not suffice\n"
	"  -V, --version\n"
	"  -h, --help\n"
	"\n"
	"Exit codes: 0 all measured, 1 something failed, 2 wrong usage, 3 the machine is too "
	"small,\n"
	"130 interrupted. See roost-bench(1).\n";

volatile int bench_interrupted;
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

/* ---- telling ---- */

static bool progress_open;
static uint64_t progress_ms;

/* One line that is written over on a terminal; every two seconds one on anything else. */
void bench_progress(const char *fmt, ...)
{
	uint64_t now_ms = clock_mono_ms();
	bool tty = isatty(2);
	va_list ap;

	if (progress_ms && now_ms - progress_ms < (tty ? 100 : 2000))
		return;
	progress_ms = now_ms;
	fputs(tty ? "\r" : "", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(tty ? "\033[K" : "\n", stderr);
	fflush(stderr);
	progress_open = tty;
}

void bench_note(const char *fmt, ...)
{
	va_list ap;

	if (progress_open)
		fputs("\r\033[K", stderr);
	progress_open = false;
	progress_ms = 0;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

bool bench_failed(struct bench *b, const char *fmt, ...)
{
	char text[WHY];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!bench_interrupted)
		bench_note("roost-bench: %s", text);
	b->failed = true;
	return false;
}

void bench_pause_ms(uint64_t ms)
{
	struct timespec ts = {
		.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

/* False: no metrics, or they cannot be had (said once). */
bool bench_metrics(struct bench *b, struct metrics_page *page)
{
	char why[WHY];

	if (!b->has_metrics)
		return false;
	if (metrics_fetch(&b->metrics_url, page, why, sizeof(why)))
		return true;
	b->has_metrics = false;
	return bench_failed(b, "%s", why);
}

/* ---- the server and its phones ---- */

static void client_settings(const struct bench *b, uint32_t phones, struct client_options *o)
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
		o->phones_per_source = PER_SOURCE;
}

static bool fill_store(struct bench *b)
{
	char why[WHY];
	uint64_t start_ms = clock_mono_ms();
	int64_t done;

	b->mailroom = mailroom_open(b->data, b->spawn, b->users, b->phones, why, sizeof(why));
	if (!b->mailroom)
		return bench_failed(b, "%s", why);
	do {
		done = mailroom_fill(b->mailroom, why, sizeof(why));
		if (done < 0)
			return bench_failed(b, "%s", why);
		bench_progress("store: %u accounts, %lld of %u phones", b->users, (long long)done,
			b->phones);
	} while (done < b->phones && !bench_interrupted);
	bench_note(
		"store: %u accounts and %u synced phones in %.1f s (one shared Argon2 hash of the "
		"least cost: for benchmarks only)",
		b->users, b->phones, (double)(clock_mono_ms() - start_ms) / 1000);
	return !bench_interrupted;
}

static bool server_start(struct bench *b)
{
	char why[WHY], url[64];
	char program[4096];

	if (b->spawn) {
		if (!target_prepare(&b->server, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		b->data = b->server.data;
	}
	if (b->data && !fill_store(b))
		return false;
	if (b->publish_url.host[0]) {
		b->publisher = publisher_open(&b->publish_url, why, sizeof(why));
		if (!b->publisher)
			return bench_failed(b, "%s", why);
	}
	if (!b->spawn)
		return true;
	if (b->day && b->compress > 8 && b->set_count < SETS_MAX)
		b->sets[b->set_count++] = "push.heartbeat_min_s=8";
	/* Above the default, and with room: listeners are shared by address, not evenly. */
	if (b->phones > 900000 && b->set_count < SETS_MAX) {
		snprintf(b->connections_set, sizeof(b->connections_set), "core.connections_max=%u",
			b->phones + b->phones / 10);
		b->sets[b->set_count++] = b->connections_set;
	}
	if (b->roostd)
		snprintf(program, sizeof(program), "%s", b->roostd);
	else
		target_default_program(program, sizeof(program));
	if (!target_start(&b->server, program, b->sets, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	b->pid = b->server.pid;
	snprintf(url, sizeof(url), "https://127.0.0.1:%u", b->server.https_port);
	CHECK(client_parse_url(url, &b->url, why, sizeof(why)));
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/metrics", b->server.admin_port);
	CHECK(client_parse_url(url, &b->metrics_url, why, sizeof(why)));
	b->has_metrics = true;
	bench_note("server: %s, pid %d, %s:%s", program, (int)b->pid, b->url.host, b->url.port);
	return true;
}

static bool needs_fleet(const struct bench *b)
{
	return b->hold || b->grow || b->wake || b->load || b->burst || b->storm || b->day;
}

static bool machine_check(struct bench *b)
{
	struct machine_need need = {
		.phones = needs_fleet(b) ? b->phones : b->parallel,
		.per_source = PER_SOURCE,
		.addresses = 1,
		.both_ends = b->spawn || b->pid > 0,
		.all_at_once = b->burst || b->storm,
	};

	if (b->tune && !machine_tune(&need, stderr) && !b->force)
		return bench_failed(b, "not everything could be tuned (are you root?)");

	if (machine_suffices(&need, stderr) || b->force)
		return true;
	bench_failed(b, "this machine does not suffice (--force starts all the same)");
	return false;
}

bool bench_fleet_begin(struct bench *b)
{
	struct fleet_options o = {
		.host_header = b->host_header,
		.user = mailroom_user,
		.device = mailroom_device,
		.password = MAILROOM_PASSWORD,
		.users = b->users,
		.heartbeat_s = b->heartbeat_s,
		.prime = b->prime,
		.get_path = b->poll_path,
		.get_idle = b->poll_idle,
		.retry = b->load || b->storm || b->day,
	};
	char why[WHY];

	client_settings(b, b->phones, &o.client);
	if (b->day) {
		o.heartbeat_min_s = 8 * 60 / b->compress;
		o.heartbeat_s = 59 * 60 / b->compress;
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

void bench_status(const struct bench *b, struct fleet_status *out)
{
	struct fleet_status w;

	fleet_status(b->fleet, out);
	if (!b->watch)
		return;
	fleet_status(b->watch, &w);
	out->parked += w.parked;
	out->answered += w.answered;
	out->failed += w.failed;
	out->busy += w.busy;
	out->refused += w.refused;
	out->retried += w.retried;
	if (!out->why[0])
		memcpy(out->why, w.why, sizeof(w.why));
}

/* Until so many phones hang, as they see it and, with metrics, as the server does too. */
static bool bench_wait_parked(struct bench *b, uint32_t phones, const char *doing)
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
		if (s.parked == phones)
			break;
		if (s.parked + s.failed + s.answered == phones && !s.busy && s.failed + s.answered)
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
	bench_pause_ms(1000);
	return true;
}

/* Parks what is not parked of the first `phones`. */
bool bench_park(struct bench *b, uint32_t phones, const char *doing)
{
	if (!b->fleet && !bench_fleet_begin(b))
		return false;
	if (b->watch)
		fleet_park(b->watch, phones);
	fleet_park(b->fleet, phones);
	bench_pause_ms(
		50); /* the message must be there before "all parked" of before is believed */
	return bench_wait_parked(b, phones, doing);
}

/* ---- hold ---- */

/* A server gives a burst's memory back within seconds: who parked 10,000 phones at once should not
 * see that as their cost. */
enum { TIDY_MS = 5000 };

/* Says so when others' connections are in the figures. */
static void hold_kernel(struct bench *b, const struct kernel_memory *k0,
	const struct kernel_memory *k1, uint64_t client_bytes, uint64_t server_bytes)
{
	double n = b->phones, both = 0, ends = b->spawn || b->pid > 0 ? 2 : 1;
	double sockets = (double)k1->tcp_sockets - (double)k0->tcp_sockets;
	double available = (double)k0->available - (double)k1->available;
	bool quiet = sockets > n * ends * 0.98 && sockets < n * ends * 1.02 + 16;
	const char *half =
		ends == 2 ? "; both ends are on this machine and hold the same: half" : "";
	char name[64];

	if (!quiet)
		bench_note(
			"hold: %.0f TCP sockets were added where %.0f are ours: others are at work "
			"here, the kernel's figures are not what one Ping costs",
			sockets, n * ends);
	for (int i = 0; i < KERNEL_CACHES && k1->has_caches; i++) {
		double d = (double)k1->cache[i] - (double)k0->cache[i];

		both += d;
		if (d < n * 16 && d > n * -16)
			continue;
		snprintf(name, sizeof(name), "hold_kernel_%s", kernel_cache_names[i]);
		figure(b, name, d / n / ends, "bytes", b->phones, "per parked Ping%s%s", half,
			quiet ? "" : "; DISTURBED");
	}
	if (k1->has_caches)
		figure(b, "hold_kernel_per_ping", both / n / ends, "bytes", b->phones,
			"sum of these slabs%s%s", half, quiet ? "" : "; DISTURBED");
	else
		bench_note("hold: /proc/slabinfo cannot be read (root can): no kernel memory per "
			   "Ping");
	figure(b, "hold_slab_both_ends", ((double)k1->slab - (double)k0->slab) / n, "bytes",
		b->phones, "all slab growth per connection%s", quiet ? "" : "; DISTURBED");
	figure(b, "hold_memory_both_ends", available / n, "bytes", b->phones,
		"fall of MemAvailable per connection; of that user memory: server %.0f, client "
		"%.0f%s",
		(double)server_bytes / n, (double)client_bytes / n, quiet ? "" : "; DISTURBED");
	if (k1->has_caches)
		bench_note("hold: %.0f bytes of kernel memory per parked Ping", both / n / ends);
}

static bool hold(struct bench *b)
{
	struct kernel_memory k0, k1;
	struct target_memory m0, half = {0}, m1, c0, c1;
	struct fleet_status s;
	uint64_t start_ns, cpu0, cpu1, parked_ns;
	double seconds, enters;
	uint32_t first = b->phones / 2;
	bool memory;

	if (!b->fleet && !bench_fleet_begin(b))
		return false;
	bench_progress("hold: waiting until the kernel is quiet");
	if (!kernel_settle(20000, &bench_interrupted) && !bench_interrupted)
		bench_note("hold: connections come and go on this machine");
	kernel_memory(&k0);
	memory = target_memory(b->pid, &m0);
	target_memory_own(&c0);
	cpu0 = target_cpu_ns(b->pid);
	start_ns = clock_mono_ns();
	/* In two halves: the second shows what a further phone costs, without what the first ones
	 * warmed up. */
	if (first && !bench_park(b, first, "parking"))
		return false;
	parked_ns = clock_mono_ns() - start_ns;
	if (first && memory) {
		bench_pause_ms(TIDY_MS);
		target_memory(b->pid, &half);
	}
	start_ns = clock_mono_ns();
	if (!bench_park(b, b->phones, "parking"))
		return false;
	parked_ns += clock_mono_ns() - start_ns;
	seconds = (double)parked_ns / 1e9;
	cpu1 = target_cpu_ns(b->pid);
	bench_note("hold: %u phones hang after %.1f s; watching the idle server for %u s",
		b->phones, seconds, b->idle_s);
	bench_pause_ms(TIDY_MS); /* the kernel frees some things later, too */
	kernel_memory(&k1);
	figure(b, "hold_phones", b->phones, "phones", b->phones, "parked Pings over %s",
		b->url.tls ? "TLS" : "plain HTTP");
	figure(b, "hold_park_rate", b->phones / seconds, "phones/s", b->phones,
		"connect, TLS handshake, credentials%s, Ping",
		b->prime ? ", Provision, FolderSync, Sync" : "");
	fleet_status(b->fleet, &s);
	if (s.refused)
		bench_note(
			"hold: the server said 503 %u times (those phones tried again)", s.refused);
	if (cpu1)
		figure(b, "hold_park_cpu", (double)(cpu1 - cpu0) / 1e3 / b->phones, "us", b->phones,
			"server CPU for each of these");
	if (memory && target_memory(b->pid, &m1)) {
		double all = ((double)m1.pss - (double)m0.pss) / b->phones;
		double further = ((double)m1.pss - (double)half.pss) / (b->phones - first);

		target_memory_own(&c1);
		figure(b, "hold_user_per_ping", all, "bytes", b->phones,
			"PSS growth of the server, all of it");
		if (first)
			figure(b, "hold_user_per_further_ping", further, "bytes", b->phones - first,
				"the same for the second half of the phones");
		figure(b, "hold_user_anon_per_ping",
			((double)m1.anon - (double)m0.anon) / b->phones, "bytes", b->phones,
			"of the first: anonymous memory (without the store's mapped file)");
		bench_note("hold: %.0f bytes of user memory per parked Ping, %.0f for each of the "
			   "second "
			   "half",
			all, further);
		hold_kernel(b, &k0, &k1, c1.pss > c0.pss ? c1.pss - c0.pss : 0,
			m1.pss > m0.pss ? m1.pss - m0.pss : 0);
	}
	if (!cpu1)
		return true;
	bench_metrics(b, &b->before);
	cpu0 = target_cpu_ns(b->pid);
	start_ns = clock_mono_ns();
	for (uint32_t i = 0; i < b->idle_s * 10 && !bench_interrupted; i++) {
		bench_progress("hold: idle, %u s", i / 10);
		bench_pause_ms(100);
	}
	seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
	cpu1 = target_cpu_ns(b->pid);
	figure(b, "hold_idle_cpu", (double)(cpu1 - cpu0) / 1e7 / seconds, "% of a core", b->phones,
		"over %.0f s", seconds);
	figure(b, "hold_idle_cpu_per_ping_minute",
		(double)(cpu1 - cpu0) / 1e3 / seconds * 60 / b->phones, "us/minute", b->phones,
		"server CPU per hanging Ping");
	if (bench_metrics(b, &b->after)) {
		enters = metrics_value(&b->after, "roost_ring_enter_total", NULL) -
			 metrics_value(&b->before, "roost_ring_enter_total", NULL);
		figure(b, "hold_idle_syscalls", enters / seconds, "per second", b->phones,
			"io_uring_enter and poll of all shards");
	}
	return !bench_interrupted;
}

/* ---- changes ---- */

/* at_ns_out: when it was durable; with a publisher, when sending it began. */
static bool change(struct bench *b, const uint32_t *users, size_t n, uint64_t *at_ns_out, char *why,
	size_t why_bytes)
{
	if (b->publisher)
		return publisher_send(b->publisher, users, n, at_ns_out, why, why_bytes);
	return mailroom_deliver(b->mailroom, users, n, at_ns_out, why, why_bytes);
}

static bool caught_up(struct bench *b, uint32_t first, uint32_t n, char *why, size_t why_bytes)
{
	return b->publisher || mailroom_catch_up(b->mailroom, first, n, why, why_bytes);
}

/* ---- wake ---- */

uint32_t bench_random_below(uint32_t n)
{
	uint64_t v = 0;

	if (getrandom(&v, sizeof(v), 0) != sizeof(v))
		v = clock_mono_ns() * 0x9e3779b97f4a7c15u >> 13;
	return (uint32_t)(v % n);
}

void bench_show_latencies(
	struct bench *b, const char *name, uint64_t *ns, size_t n, const char *what)
{
	static const struct {
		const char *suffix;
		double q;
	} points[] = {{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}};
	char full[64];

	quantile_sort(ns, n);
	for (size_t i = 0; i < ARRAY_LEN(points); i++) {
		snprintf(full, sizeof(full), "%s_%s", name, points[i].suffix);
		figure(b, full, (double)quantile(ns, n, points[i].q) / 1e3, "us", n, "%s", what);
	}
}

void bench_server_latency(struct bench *b, const char *scenario)
{
	static const char name[] = "roost_wake_latency_seconds";
	uint64_t n;
	double mean = metrics_hist_mean(&b->before, &b->after, name, &n);
	char full[64];

	if (n == 0)
		return;
	snprintf(full, sizeof(full), "%s_commit_to_wire_mean", scenario);
	figure(b, full, mean * 1e6, "us", n, "commit to answer with the kernel, by the server");
	snprintf(full, sizeof(full), "%s_commit_to_wire_p50_at_most", scenario);
	figure(b, full, metrics_hist_quantile(&b->before, &b->after, name, 0.5) * 1e6, "us", n,
		"upper bound of the histogram's bucket");
	snprintf(full, sizeof(full), "%s_commit_to_wire_p99_at_most", scenario);
	figure(b, full, metrics_hist_quantile(&b->before, &b->after, name, 0.99) * 1e6, "us", n,
		"upper bound of the histogram's bucket");
}

/* Phones of one account. */
uint32_t bench_phones_of_user(const struct bench *b, uint32_t user)
{
	return (b->phones - user - 1) / b->users + 1;
}

static bool wake(struct bench *b)
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
		if (!change(b, &user, 1, &commit_ns, why, sizeof(why))) {
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
			if (!caught_up(b, i, 1, why, sizeof(why))) {
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

/* ---- burst ---- */

static bool burst_round(struct bench *b, uint32_t *users, uint64_t *commit_ns, uint64_t *took)
{
	struct fleet_status s;
	uint64_t first_ns = 0, last_ns = 0, cpu0, cpu1, delivered_ns, first_commit_ns = 0;
	char why[WHY];
	double enters, seconds;
	size_t n = 0;

	const uint32_t users_count = b->users;

	CHECK(users_count > 0);
	if (!bench_park(b, b->phones, "parking again"))
		return false;
	bench_pause_ms(300);
	bench_metrics(b, &b->before);
	cpu0 = target_cpu_ns(b->pid);
	first_ns = clock_mono_ns();
	for (uint32_t i = 0; i < b->users && !bench_interrupted; i += BURST_BATCH) {
		uint32_t k = b->users - i < BURST_BATCH ? b->users - i : BURST_BATCH;
		uint64_t at;

		for (uint32_t j = 0; j < k; j++)
			users[j] = i + j;
		if (!change(b, users, k, &at, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		if (!first_commit_ns)
			first_commit_ns = at;
		for (uint32_t j = 0; j < k; j++)
			commit_ns[i + j] = at;
		bench_progress("burst: %u of %u changes committed", i + k, b->users);
	}
	delivered_ns = clock_mono_ns();
	for (;;) {
		fleet_wait_answered(b->fleet, b->phones, 500);
		fleet_status(b->fleet, &s);
		bench_progress("burst: %u of %u phones woken", s.answered, b->phones);
		if (s.answered == b->phones || s.failed || bench_interrupted)
			break;
		if (clock_mono_ns() - delivered_ns > (uint64_t)PARK_PATIENCE_S * 1000000000u)
			break;
	}
	/* The phones have it; what the server still does is part of the cost. */
	bench_pause_ms(300);
	cpu1 = target_cpu_ns(b->pid);
	if (s.answered != b->phones)
		return bench_failed(
			b, "only %u of %u phones were woken: %s", s.answered, b->phones, s.why);
	for (uint32_t i = 0; i < b->phones; i++) {
		uint64_t came_ns = fleet_came_ns(b->fleet, i);

		if (came_ns > last_ns)
			last_ns = came_ns;
		took[n++] = came_ns - commit_ns[i % users_count];
	}
	seconds = (double)(last_ns - first_commit_ns) / 1e9;
	figure(b, "burst_time_to_last", (double)(last_ns - first_ns) / 1e6, "ms", b->phones,
		"first write begun to last phone woken; %u changes, %u per commit", b->users,
		BURST_BATCH);
	figure(b, "burst_commits", (double)(delivered_ns - first_ns) / 1e6, "ms", b->users,
		"of that: committing, by this program");
	figure(b, "burst_wake_rate", b->phones / seconds, "wakes/s", b->phones,
		"from the first commit to the last phone; committing and 1 client on this machine");
	if (cpu1)
		figure(b, "burst_cpu_per_wake", (double)(cpu1 - cpu0) / 1e3 / b->phones, "us",
			b->phones, "server CPU");
	bench_show_latencies(
		b, "burst_commit_to_phone", took, n, "own commit to answer at the phone");
	if (bench_metrics(b, &b->after)) {
		enters = metrics_value(&b->after, "roost_ring_enter_total", NULL) -
			 metrics_value(&b->before, "roost_ring_enter_total", NULL);
		figure(b, "burst_syscalls_per_wake", enters / b->phones, "calls", b->phones,
			"io_uring_enter and poll of all shards");
		bench_server_latency(b, "burst");
	}
	if (!caught_up(b, 0, b->phones, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	return true;
}

static bool burst(struct bench *b)
{
	uint32_t *users = calloc(BURST_BATCH, sizeof(*users));
	uint64_t *commit_ns = calloc(b->users, sizeof(*commit_ns));
	uint64_t *took = calloc(b->phones, sizeof(*took));
	bool ok = true;

	CHECK(users && commit_ns && took);
	for (uint32_t r = 0; r < b->rounds && ok; r++) {
		ok = burst_round(b, users, commit_ns, took);
		if (ok)
			bench_note("burst: round %u of %u done", r + 1, b->rounds);
	}
	free(users);
	free(commit_ns);
	free(took);
	return ok;
}

/* ---- handshake ---- */

static uint32_t visits_goal;

static void visits_progress(uint32_t done)
{
	bench_progress("handshake: %u of %u", done, visits_goal);
}

static void visit_request(const struct bench *b, struct buf *out)
{
	char user[128], authorization[512];
	struct phone_identity who = {
		.host = b->host_header,
		.user_agent = "roost-bench",
		.version = 141,
	};

	if (b->get_path) {
		phone_request_get(&who, b->get_path, out);
		return;
	}
	mailroom_user(0, user, sizeof(user));
	CHECK(phone_basic(user, MAILROOM_PASSWORD, authorization, sizeof(authorization)));
	who.user = user;
	who.authorization = authorization;
	phone_request_options(&who, out);
}

static bool handshake_round(struct bench *b, bool resume)
{
	struct buf request = {0};
	struct visit_options o = {
		.count = b->visits, .stop = &bench_interrupted, .progress = visits_progress};
	struct visit_result r;
	uint64_t cpu0, cpu1, self0, self1;
	char why[WHY];
	const char *kind = !b->url.tls ? "visit_plain"
			   : resume    ? "handshake_resumed"
				       : "handshake_full";
	char name[64];
	double seconds;

	visit_request(b, &request);
	client_settings(b, b->parallel, &o.client);
	o.client.tls_options.want_ticket = resume;
	o.request = buf_bytes(&request);
	visits_goal = b->visits;
	cpu0 = target_cpu_ns(b->pid);
	self0 = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
	if (!visits_run(&o, &r, why, sizeof(why))) {
		buf_free(&request);
		return bench_failed(b, "%s", why);
	}
	/* What the server does after the last answer (closing) is part of it. */
	bench_pause_ms(200);
	cpu1 = target_cpu_ns(b->pid);
	self1 = clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
	buf_free(&request);
	if (bench_interrupted || r.failed || r.done == 0) {
		free(r.open_ns);
		return bench_failed(
			b, "%u of %u connections failed: %s", r.failed, b->visits, r.why);
	}
	if (!b->get_path && r.last_status != 200)
		bench_note("handshake: the request was answered with HTTP %d", r.last_status);
	if (resume && r.resumed * 10 < (uint64_t)r.done * 9)
		bench_note("handshake: only %llu of %u were resumed", (unsigned long long)r.resumed,
			r.done);
	seconds = (double)(r.last_ns - r.first_ns) / 1e9;
	snprintf(name, sizeof(name), "%s_cpu", kind);
	if (cpu1)
		figure(b, name, (double)(cpu1 - cpu0) / 1e3 / r.done, "us", r.done,
			"server CPU: connect, %s, one %s, close", r.tls,
			b->get_path ? "GET" : "OPTIONS");
	snprintf(name, sizeof(name), "%s_rate", kind);
	figure(b, name, r.done / seconds, "per second", r.done,
		"%u at a time; the client (%.0f us CPU each) shares the machine", b->parallel,
		(double)(self1 - self0) / 1e3 / r.done);
	quantile_sort(r.open_ns, r.done);
	snprintf(name, sizeof(name), "%s_time_p50", kind);
	figure(b, name, (double)quantile(r.open_ns, r.done, 0.5) / 1e3, "us", r.done,
		"in line, connect and handshake under that load");
	free(r.open_ns);
	return true;
}

static bool handshake(struct bench *b)
{
	for (uint32_t r = 0; r < b->rounds; r++) {
		if (!handshake_round(b, false) || (b->url.tls && !handshake_round(b, true)))
			return false;
		bench_note("handshake: round %u of %u done", r + 1, b->rounds);
	}
	return true;
}

/* ---- the command line ---- */

enum {
	OPT_SPAWN = 256,
	OPT_ROOSTD,
	OPT_PID,
	OPT_METRICS,
	OPT_DATA,
	OPT_KEEP,
	OPT_PRIME,
	OPT_CA,
	OPT_USERS,
	OPT_WAKES,
	OPT_VISITS,
	OPT_PARALLEL,
	OPT_ROUNDS,
	OPT_IDLE,
	OPT_HEARTBEAT,
	OPT_TLS12,
	OPT_GET,
	OPT_NAME,
	OPT_JSON,
	OPT_FORCE,
	OPT_RESUME,
	OPT_TUNE,
	OPT_COMPRESS,
	OPT_SECONDS,
	OPT_POLL,
	OPT_IDLE_AFTER,
	OPT_PUBLISH,
	OPT_STAY,
	OPT_CHANGES,
	OPT_RECONNECTS,
};

static const struct option options[] = {{"spawn", no_argument, NULL, OPT_SPAWN},
	{"roostd", required_argument, NULL, OPT_ROOSTD}, {"set", required_argument, NULL, 's'},
	{"url", required_argument, NULL, 'u'}, {"pid", required_argument, NULL, OPT_PID},
	{"metrics", required_argument, NULL, OPT_METRICS},
	{"data", required_argument, NULL, OPT_DATA}, {"keep", no_argument, NULL, OPT_KEEP},
	{"prime", no_argument, NULL, OPT_PRIME}, {"ca", required_argument, NULL, OPT_CA},
	{"phones", required_argument, NULL, 'n'}, {"users", required_argument, NULL, OPT_USERS},
	{"wakes", required_argument, NULL, OPT_WAKES},
	{"visits", required_argument, NULL, OPT_VISITS},
	{"parallel", required_argument, NULL, OPT_PARALLEL},
	{"rounds", required_argument, NULL, OPT_ROUNDS},
	{"idle", required_argument, NULL, OPT_IDLE},
	{"heartbeat", required_argument, NULL, OPT_HEARTBEAT},
	{"tls12", no_argument, NULL, OPT_TLS12}, {"get", required_argument, NULL, OPT_GET},
	{"name", required_argument, NULL, OPT_NAME}, {"json", required_argument, NULL, OPT_JSON},
	{"force", no_argument, NULL, OPT_FORCE}, {"resume", no_argument, NULL, OPT_RESUME},
	{"tune", no_argument, NULL, OPT_TUNE}, {"compress", required_argument, NULL, OPT_COMPRESS},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"poll", required_argument, NULL, OPT_POLL},
	{"poll-idle", required_argument, NULL, OPT_IDLE_AFTER},
	{"publish", required_argument, NULL, OPT_PUBLISH},
	{"stay", required_argument, NULL, OPT_STAY},
	{"changes", required_argument, NULL, OPT_CHANGES},
	{"reconnects", required_argument, NULL, OPT_RECONNECTS},
	{"version", no_argument, NULL, 'V'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};

__attribute__((format(printf, 1, 2))) static _Noreturn void die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "roost-bench: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (roost-bench --help)\n");
	exit(EXIT_USAGE);
}

static uint32_t number(const char *option, const char *text, uint32_t min, uint32_t max)
{
	uint64_t v;

	if (!bytes_to_u64(bytes_str(text), max, &v) || v < min)
		die("--%s: '%s' is not a number from %u to %u", option, text, min, max);
	return (uint32_t)v;
}

static void choose(struct bench *b, const char *name)
{
	bool all = strcmp(name, "all") == 0, hit = all;
	struct {
		const char *name;
		bool *on, in_all;
	} scenarios[] = {{"hold", &b->hold, true}, {"wake", &b->wake, true},
		{"burst", &b->burst, true}, {"handshake", &b->handshake, true},
		{"grow", &b->grow, false}, {"load", &b->load, false}, {"storm", &b->storm, false},
		{"day", &b->day, false}};

	for (size_t i = 0; i < ARRAY_LEN(scenarios); i++) {
		if ((all && scenarios[i].in_all) || strcmp(scenarios[i].name, name) == 0) {
			*scenarios[i].on = true;
			hit = true;
		}
	}
	if (!hit)
		die("'%s' is not a scenario", name);
}

static void read_arguments(struct bench *b, int argc, char **argv)
{
	const char *url = NULL, *metrics_url = NULL;
	char why[WHY];
	int o;

	while ((o = getopt_long(argc, argv, "s:u:n:Vh", options, NULL)) != -1) {
		switch (o) {
		case OPT_SPAWN:
			b->spawn = true;
			break;
		case OPT_ROOSTD:
			b->roostd = optarg;
			break;
		case 's':
			if (b->set_count == SETS_MAX)
				die("too many --set");
			b->sets[b->set_count++] = optarg;
			break;
		case 'u':
			url = optarg;
			break;
		case OPT_PID:
			b->pid = (pid_t)number("pid", optarg, 1, INT32_MAX);
			break;
		case OPT_METRICS:
			metrics_url = optarg;
			break;
		case OPT_DATA:
			b->data = optarg;
			break;
		case OPT_KEEP:
			b->keep = true;
			break;
		case OPT_PRIME:
			b->prime = true;
			break;
		case OPT_CA:
			b->ca_file = optarg;
			break;
		case 'n':
			b->phones = number("phones", optarg, 1, 4000000);
			break;
		case OPT_USERS:
			b->users = number("users", optarg, 1, 4000000);
			break;
		case OPT_WAKES:
			b->wakes = number("wakes", optarg, 1, 1000000);
			break;
		case OPT_VISITS:
			b->visits = number("visits", optarg, 1, 10000000);
			break;
		case OPT_PARALLEL:
			b->parallel = number("parallel", optarg, 1, 4096);
			break;
		case OPT_ROUNDS:
			b->rounds = number("rounds", optarg, 1, ROUNDS_MAX);
			break;
		case OPT_IDLE:
			b->idle_s = number("idle", optarg, 1, 3600);
			break;
		case OPT_HEARTBEAT:
			b->heartbeat_s = number("heartbeat", optarg, 1, 3540);
			break;
		case OPT_TLS12:
			b->tls12 = true;
			break;
		case OPT_GET:
			b->get_path = optarg;
			break;
		case OPT_NAME:
			b->figures.prefix = optarg;
			break;
		case OPT_JSON:
			b->json_file = optarg;
			break;
		case OPT_RESUME:
			b->resume = true;
			break;
		case OPT_POLL:
		case OPT_IDLE_AFTER:
			b->poll_path = optarg;
			b->poll_idle = o == OPT_IDLE_AFTER;
			break;
		case OPT_PUBLISH:
			if (!client_parse_url(optarg, &b->publish_url, why, sizeof(why)))
				die("--publish: %s", why);
			if (b->publish_url.tls)
				die("--publish: http:// only");
			break;
		case OPT_COMPRESS:
			b->compress = number("compress", optarg, 1, 60);
			break;
		case OPT_SECONDS:
			b->day_s = number("seconds", optarg, 1, 86400);
			break;
		case OPT_TUNE:
			b->tune = true;
			break;
		case OPT_STAY:
			b->stay_percent = number("stay", optarg, 0, 99);
			break;
		case OPT_CHANGES:
			b->changes_per_s = number("changes", optarg, 1, 1000000);
			break;
		case OPT_RECONNECTS:
			b->reconnects_per_s = number("reconnects", optarg, 1, 100000);
			break;
		case OPT_FORCE:
			b->force = true;
			break;
		case 'V':
			printf("roost-bench %s (%s), %s\n", roost_version, roost_commit,
				tls_library());
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fprintf(stderr, "roost-bench --help tells more\n");
			exit(EXIT_USAGE);
		}
	}
	if (optind == argc)
		choose(b, "all");
	while (optind < argc)
		choose(b, argv[optind++]);
	if (b->spawn == (url != NULL))
		die("one of --spawn and --url is needed");
	if (b->spawn && (b->pid || metrics_url || b->data))
		die("--pid, --metrics and --data belong to --url");
	if (url && !client_parse_url(url, &b->url, why, sizeof(why)))
		die("--url: %s", why);
	if (metrics_url) {
		if (!client_parse_url(metrics_url, &b->metrics_url, why, sizeof(why)))
			die("--metrics: %s", why);
		if (b->metrics_url.tls)
			die("--metrics: http:// only");
		b->has_metrics = true;
	}
	if (b->users == 0)
		b->users = b->phones;
	if (b->users > b->phones)
		die("--users: more accounts (%u) than phones (%u)", b->users, b->phones);
	if ((b->wake || b->load || b->burst || b->storm || b->day) && !b->spawn && !b->data &&
		!b->publish_url.host[0])
		die("wake, load, burst, storm and day make changes: they need --data or --spawn");
	if (b->day && (b->hold || b->grow || b->wake || b->load || b->burst || b->storm))
		die("day goes alone");
	if (b->day && b->users < b->phones)
		die("--users: in a day every phone is a user");
	if ((b->load || b->storm) && (b->wake || b->burst))
		die("load and storm go with grow and hold only");
	if (b->load || b->storm) {
		b->watched = (uint32_t)((uint64_t)b->users * b->stay_percent / 100);
		b->watched += b->watched == 0;
		if (b->watched == b->users)
			die("load and storm need more than one account");
	}
	if (b->publish_url.host[0] && (b->load || b->storm || b->data || b->spawn))
		die("--publish goes with --url, wake and burst only");
	if (b->poll_path && b->users < b->phones)
		die("--poll: every phone is a user");
	/* A server that only shakes hands knows no accounts. */
	if (!needs_fleet(b) && b->get_path)
		b->data = NULL;
}

static json_t *settings(const struct bench *b)
{
	json_t *sets = json_array();

	for (size_t i = 0; i < b->set_count; i++)
		json_array_append_new(sets, json_string(b->sets[i]));
	return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:b, s:b, s:b, s:o}", "phones",
		(int)b->phones, "users", (int)b->users, "parallel", (int)b->parallel, "rounds",
		(int)b->rounds, "heartbeat_s", (int)b->heartbeat_s, "client_bytes_per_phone",
		(int)fleet_phone_bytes(), "spawned", b->spawn, "tls", b->url.tls, "tls12_only",
		b->tls12, "resume", b->resume, "set", sets);
}

static void show_all(struct bench *b)
{
	json_t *s = settings(b);
	FILE *f;

	figures_table(&b->figures, stdout);
	if (strcmp(b->json_file, "-") == 0) {
		putchar('\n');
		figures_json(&b->figures, s, stdout);
	} else if (strcmp(b->json_file, "none") != 0) {
		f = fopen(b->json_file, "ae");
		if (f) {
			figures_json(&b->figures, s, f);
			fclose(f);
		} else {
			bench_failed(b, "%s: %s", b->json_file, strerror(errno));
		}
	}
	json_decref(s);
}

static void clean_up(struct bench *b)
{
	char why[WHY];
	int64_t left;

	if (b->fleet)
		bench_note("closing %u connections", b->phones);
	fleet_stop(&b->watch);
	fleet_stop(&b->fleet);
	if (b->mailroom && !b->spawn && !b->keep) {
		do {
			left = mailroom_clear(b->mailroom, why, sizeof(why));
			bench_progress(
				"removing the benchmark's accounts: %lld left", (long long)left);
		} while (left > 0);
		if (left < 0)
			bench_failed(b, "%s", why);
	}
	mailroom_close(&b->mailroom);
	publisher_close(&b->publisher);
	if (b->spawn)
		target_stop(&b->server);
	metrics_free(&b->before);
	metrics_free(&b->after);
	machine_untune(stderr);
	if (progress_open)
		fputs("\r\033[K", stderr);
}

int main(int argc, char **argv)
{
	static struct bench bench = {
		.phones = 20000,
		.wakes = 1000,
		.visits = 2000,
		.parallel = 64,
		.rounds = 3,
		.idle_s = 10,
		.heartbeat_s = 3540,
		.json_file = "-",
		.stay_percent = 1,
		.compress = 60,
		.day_s = 90,
		.changes_per_s = 1000,
		.reconnects_per_s = 500,
	};
	struct bench *b = &bench;
	struct sigaction sa = {.sa_handler = on_signal};
	int result = EXIT_OK;

	read_arguments(b, argc, argv);
	log_set_level(LOG_WARNING);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	if (!machine_check(b)) {
		machine_untune(stderr);
		return EXIT_MACHINE;
	}
	if (server_start(b)) {
		client_host_header(&b->url, b->host_header, sizeof(b->host_header));
		/* The cheap one first: it leaves nothing behind that the others would measure. */
		(void)((!b->handshake || handshake(b)) && (!b->hold || hold(b)) &&
			(!b->grow || bench_grow(b)) && (!b->wake || wake(b)) &&
			(!b->load || bench_load(b)) && (!b->burst || burst(b)) &&
			(!b->storm || bench_storm(b)) && (!b->day || bench_day(b)));
	}
	clean_up(b);
	if (b->figures.count)
		show_all(b);
	if (b->failed)
		result = EXIT_FAILED;
	return bench_interrupted ? EXIT_STOPPED : result;
}
