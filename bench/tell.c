/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What roost-bench tells: progress, failures, and the figures that several scenarios have. */
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <unistd.h>

volatile int bench_interrupted;
static bool progress_open;
static uint64_t progress_ms;

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

void bench_progress_end(void)
{
	if (progress_open)
		fputs("\r\033[K", stderr);
	progress_open = false;
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
