/* SPDX-License-Identifier: GPL-3.0-or-later */
/* N Pings hang: memory of the server and of the kernel for each, and what the idle server does. */
#include "bench/scenarios/scenario.h"
#include "core/base/clock.h"

#include <stdio.h>

/* A server gives a burst's memory back within seconds: who parked 10,000 phones at once should not
 * see that as their cost. */
enum { TIDY_MS = 5000 };

static void hold_memory(struct bench *b, const struct kernel_memory *k0,
	const struct kernel_memory *k1, uint64_t client_bytes, uint64_t server_bytes)
{
	double n = b->phones;

	figure(b, "hold_slab_both_ends", ((double)k1->slab - (double)k0->slab) / n, "bytes",
		b->phones, "all slab growth per connection, whoever caused it");
	figure(b, "hold_memory_both_ends", ((double)k0->available - (double)k1->available) / n,
		"bytes", b->phones,
		"fall of MemAvailable per connection, whoever caused it; of that user memory: "
		"server "
		"%.0f, client %.0f",
		(double)server_bytes / n, (double)client_bytes / n);
}

static void hold_kernel(
	struct bench *b, const struct kernel_memory *k0, const struct kernel_memory *k1)
{
	struct kernel_share share;
	char name[64], how[120] = "";

	if (!k1->has_caches) {
		bench_note("hold: /proc/slabinfo cannot be read (root can): no kernel memory per "
			   "Ping");
		return;
	}
	kernel_share(k0, k1, b->phones, target_epoll_entries(b->pid), &share);
	if (share.foreign >= 16 || share.foreign <= -16)
		snprintf(how, sizeof(how),
			"; %.0f sockets of others that %s meanwhile are taken out%s",
			share.foreign < 0 ? -share.foreign : share.foreign,
			share.foreign < 0 ? "went" : "came", share.sound ? "" : "; DISTURBED");
	if (!share.sound)
		bench_note(
			"hold: others opened or closed %.0f sockets meanwhile: kernel memory is a "
			"guess",
			share.foreign);
	for (int i = 0; i < KERNEL_CACHES; i++) {
		if (share.cache[i] < 1 && share.cache[i] > -1)
			continue;
		snprintf(name, sizeof(name), "hold_kernel_%s", kernel_cache_names[i]);
		figure(b, name, share.cache[i], "bytes", b->phones,
			"per parked Ping, the server's end%s", how);
	}
	if (share.unix_sockets >= 1)
		figure(b, "hold_kernel_UNIX", share.unix_sockets, "bytes", b->phones,
			"AF_UNIX sockets%s", how);
	/* What cannot be right is no figure. */
	if (share.sound)
		figure(b, "hold_kernel_per_ping", share.per_phone, "bytes", b->phones,
			"the server's end: objects in use of these slabs%s%s",
			share.poll_entries >= 1 ? ", with epoll's entries" : "", how);
	bench_note("hold: %.0f bytes of kernel memory per parked Ping%s", share.per_phone, how);
}

bool bench_hold(struct bench *b)
{
	struct kernel_memory k0, k1;
	struct target_memory m0, half = {0}, m1, c0, c1;
	struct fleet_status s;
	uint64_t start_ns, cpu0, cpu1, parked_ns, paused_ns = b->paused_ns;
	double seconds, enters, hanging = b->phones;
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
	seconds = (double)(parked_ns - (b->paused_ns - paused_ns)) / 1e9;
	bench_note("hold: %u phones hang after %.1f s; watching the idle server for %u s",
		b->phones, seconds, b->idle_s);
	bench_pause_ms(TIDY_MS); /* the kernel frees some things later, too */
	/* Dovecot hibernates some time after all hang. */
	cpu1 = target_cpu_ns(b->pid);
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
		hold_kernel(b, &k0, &k1);
		hold_memory(b, &k0, &k1, c1.pss > c0.pss ? c1.pss - c0.pss : 0,
			m1.pss > m0.pss ? m1.pss - m0.pss : 0);
	}
	bench_metrics(b, &b->before);
	cpu0 = target_cpu_ns(b->pid);
	start_ns = clock_mono_ns();
	for (uint32_t i = 0; i < b->idle_s * 10 && !bench_interrupted; i++) {
		bench_progress("hold: idle, %u s", i / 10);
		bench_pause_ms(100);
	}
	seconds = (double)(clock_mono_ns() - start_ns) / 1e9;
	cpu1 = target_cpu_ns(b->pid);
	if (bench_metrics(b, &b->after)) {
		enters = metrics_value(&b->after, "roost_ring_enter_total", NULL) -
			 metrics_value(&b->before, "roost_ring_enter_total", NULL);
		figure(b, "hold_idle_syscalls", enters / seconds, "per second", b->phones,
			"io_uring_enter and poll of all shards");
		hanging = metrics_value(&b->after, "roost_parked_requests", NULL);
	}
	/* Either end may be the one that noticed. */
	fleet_status(b->fleet, &s);
	if (s.parked + s.answered < hanging)
		hanging =
			s.parked + s.answered; /* (idle connections of --poll-idle are answered) */
	if (hanging < b->phones && !bench_interrupted)
		return bench_failed(b, "only %.0f of %u Pings still hang: %s", hanging, b->phones,
			s.why[0] ? s.why : "the others were lost while nothing happened");
	if (cpu1) {
		figure(b, "hold_idle_cpu", (double)(cpu1 - cpu0) / 1e7 / seconds, "% of a core",
			b->phones, "over %.0f s", seconds);
		figure(b, "hold_idle_cpu_per_ping_minute",
			(double)(cpu1 - cpu0) / 1e3 / seconds * 60 / b->phones, "us/minute",
			b->phones, "server CPU per hanging Ping");
	}
	return !bench_interrupted;
}
