/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Memory, idle CPU and latency of single wakes as the number of parked Pings grows: one server, one
 * fleet, which is made larger step by step. All must stay flat. */
#include "bench/scenarios/scenario.h"
#include "core/base/clock.h"

#include <math.h>
#include <stdio.h>

struct state_of_things {
	struct kernel_memory kernel;
	struct target_memory server, client;
};

static void look(const struct bench *b, struct state_of_things *s)
{
	kernel_memory(&s->kernel);
	target_memory(b->pid, &s->server);
	target_memory_own(&s->client);
}

static double caches(const struct kernel_memory *k)
{
	double sum = 0;

	for (int i = 0; i < KERNEL_CACHES; i++)
		sum += (double)k->cache[i];
	return sum;
}

/* The server's end where it is here, else ours. */
static double kernel_of_an_end(const struct bench *b, const struct kernel_memory *zero,
	const struct kernel_memory *now, uint32_t phones, char *how, size_t how_bytes)
{
	struct kernel_share share;

	how[0] = 0;
	if (!now->has_caches) {
		snprintf(how, how_bytes, " UNKNOWN: /proc/slabinfo cannot be read");
		return 0;
	}
	if (!b->spawn && b->pid <= 0)
		return (caches(now) - caches(zero)) / phones;
	kernel_share(zero, now, phones, target_epoll_entries(b->pid), &share);
	if (fabs(share.foreign) >= 16)
		snprintf(how, how_bytes, "; %.0f sockets of others taken out%s", share.foreign,
			share.sound ? "" : "; DISTURBED");
	return share.per_phone;
}

__attribute__((format(printf, 5, 6))) static void step_figure(
	struct bench *b, uint32_t phones, const char *name, double value, const char *fmt, ...)
{
	char full[64], unit[32], note[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(note, sizeof(note), fmt, ap);
	va_end(ap);
	/* "unit: note", so that one row of the caller is one figure. */
	snprintf(unit, sizeof(unit), "%.*s", (int)strcspn(note, ":"), note);
	snprintf(full, sizeof(full), "grow_%u_%s", phones, name);
	figure(b, full, value, unit, phones, "%s", note + strcspn(note, ":") + 2);
}

static bool step(struct bench *b, uint32_t phones, uint32_t before,
	const struct state_of_things *zero, json_t *rows)
{
	const double n = phones;
	struct state_of_things now;
	struct fleet_status s0 = {.full = 0}, s1;
	uint64_t start_ns = clock_mono_ns(), cpu = target_cpu_ns(b->pid);
	double seconds, kernel, idle, user, client;
	struct wake_quantiles wakes = {0};
	char name[64], how[64];

	if (b->fleet)
		bench_status(b, &s0);
	if (!bench_park(b, phones, "growing"))
		return false;
	seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
	bench_status(b, &s1);
	step_figure(b, phones, "park_rate", (phones - before) / seconds,
		"phones/s: connect, handshake (%u full, %u resumed), credentials, Ping; in %.0f s",
		(unsigned)(s1.full - s0.full), (unsigned)(s1.resumed - s0.resumed), seconds);
	step_figure(b, phones, "park_cpu",
		(double)(target_cpu_ns(b->pid) - cpu) / 1e3 / (phones - before),
		"us: server CPU for each of these");
	bench_pause_ms(2000); /* the kernel and the allocators free some things later */
	look(b, &now);
	user = ((double)now.server.anon - (double)zero->server.anon) / n;
	client = ((double)now.client.anon - (double)zero->client.anon) / n;
	kernel = kernel_of_an_end(b, &zero->kernel, &now.kernel, phones, how, sizeof(how));
	step_figure(b, phones, "user_per_ping", user,
		"bytes: growth of the server's anonymous memory, all of it");
	step_figure(b, phones, "pss_per_ping",
		((double)now.server.pss - (double)zero->server.pss) / n,
		"bytes: growth of its PSS, which counts pages of the store's file");
	step_figure(b, phones, "client_per_ping", client,
		"bytes: the same of this program, beside the kernel's");
	step_figure(b, phones, "kernel_per_ping", kernel,
		"bytes: sockets, files, armed polls, of one end%s", how);
	step_figure(b, phones, "memory_both_ends",
		((double)zero->kernel.available - (double)now.kernel.available) / n,
		"bytes: fall of MemAvailable, client and server, kernel and user");
	cpu = target_cpu_ns(b->pid);
	start_ns = clock_mono_ns();
	for (uint32_t i = 0; i < b->idle_s * 10 && !bench_interrupted; i++) {
		bench_progress("grow: %u phones idle, %u s", phones, i / 10);
		bench_pause_ms(100);
	}
	seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
	idle = (double)(target_cpu_ns(b->pid) - cpu) / 1e7 / seconds;
	step_figure(b, phones, "idle_cpu", idle, "%% of a core: over %.0f s, metrics not asked",
		seconds);
	bench_note("grow: %u phones: %.0f B user, %.0f B kernel per Ping; idle %.3f %% of a core",
		phones, user, kernel, idle);
	snprintf(name, sizeof(name), "grow_%u_wake", phones);
	if ((b->mailroom || b->publisher || b->mailer) && !bench_interrupted &&
		!bench_wake_some(b, name, b->wakes, &wakes))
		return false;
	json_array_append_new(rows, json_pack("[f, f, f, f, f, f, f, f]", n, user, kernel, client,
					    idle, wakes.p50_us, wakes.p99_us, wakes.p999_us));
	return !bench_interrupted;
}

bool bench_grow(struct bench *b)
{
	static const uint32_t steps[] = {
		10000, 20000, 30000, 100000, 200000, 300000, 1000000, UINT32_MAX};
	struct state_of_things zero;
	json_t *rows;
	uint32_t before = 0;
	bool ok = true;

	if (!b->fleet && !bench_fleet_begin(b))
		return false;
	bench_progress("grow: waiting until the kernel is quiet");
	if (!kernel_settle(20000, &bench_interrupted) && !bench_interrupted)
		bench_note("grow: connections come and go on this machine");
	look(b, &zero);
	rows = json_array();
	for (size_t i = 0; ok && before < b->phones; i++) {
		uint32_t phones = steps[i] < b->phones ? steps[i] : b->phones;

		ok = step(b, phones, before, &zero, rows);
		before = phones;
	}
	figures_series(&b->figures, "grow",
		"phones,user_bytes,kernel_bytes,client_bytes,idle_cpu_percent,wake_p50_us,"
		"wake_p99_us,wake_p999_us",
		rows);
	return ok;
}
