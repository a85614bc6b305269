/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A day for long, looked at every few seconds: memory must stay flat, and nothing may be left of what
 * came and went. */
#include "bench/scenarios/day.h"
#include "core/base/check.h"

#include <stdlib.h>

enum { SAMPLE_MS = 5000 };

struct soak {
	struct bench *b;
	json_t *rows;
	double *at_s, *anon;
	size_t n, cap;
	uint64_t descriptors_first, descriptors_most; /* first: when all hung */
	struct metrics_page page;
};

static double of(struct soak *s, const char *name, const char *labels)
{
	return s->page.text.n ? metrics_value(&s->page, name, labels) : 0;
}

static bool sample(void *arg, const struct day_now *now)
{
	struct soak *s = arg;
	struct bench *b = s->b;
	struct kernel_memory k;
	double anon = (double)target_anon_now(b->pid), rss = (double)target_rss_now(b->pid);
	uint64_t descriptors = target_descriptors(b->pid);

	bench_metrics(b, &s->page);
	kernel_memory(&k);
	if (s->n == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 256;
		s->at_s = realloc(s->at_s, s->cap * sizeof(*s->at_s));
		s->anon = realloc(s->anon, s->cap * sizeof(*s->anon));
		CHECK(s->at_s && s->anon);
	}
	s->at_s[s->n] = now->seconds;
	s->anon[s->n++] = anon;
	if (s->n == 1)
		s->descriptors_first = descriptors;
	if (descriptors > s->descriptors_most)
		s->descriptors_most = descriptors;
	json_array_append_new(s->rows,
		json_pack("[f, f, f, f, f, f, f, f, f, f]", now->seconds, anon / 1e6, rss / 1e6,
			of(s, "roost_parked_requests", NULL), of(s, "roost_connections", NULL),
			(double)now->phones->life.open - now->phones->life.dead,
			(double)descriptors, (double)k.slab / 1e6, (double)now->mails,
			of(s, "roost_store_used_bytes", NULL) / 1e6));
	return true;
}

bool bench_soak(struct bench *b)
{
	struct soak s = {.b = b, .rows = json_array()};
	const struct day_plan plan = {.name = "soak",
		.seconds = b->day_s,
		.sample = sample,
		.sample_ms = SAMPLE_MS,
		.arg = &s};
	bool ok = day_run(b, &plan);
	size_t half = s.n / 2;
	uint64_t left;

	if (s.n >= 4) {
		double per_s = slope(s.at_s + half, s.anon + half, s.n - half);

		figure(b, "soak_memory", s.anon[s.n - 1] / 1e6, "MB", s.n,
			"server's anonymous memory at the end; %.1f MB at half time",
			s.anon[half] / 1e6);
		figure(b, "soak_memory_slope", per_s * 3600 / 1e6, "MB/hour", s.n - half,
			"of the second half: %.3f %% of it an hour",
			per_s * 3600 * 100 / s.anon[half]);
	}
	/* Sockets are direct descriptors, which are counted as connections. */
	bench_pause_ms(1000);
	left = target_descriptors(b->pid);
	if (b->pid > 0 && ok)
		figure(b, "soak_descriptors_leaked", (double)left - (double)s.descriptors_first,
			"descriptors", s.descriptors_most,
			"of the server after all have left, beyond those when all hung; most: the "
			"other number (it makes rings as needed and keeps them)");
	figures_series(&b->figures, "soak",
		"seconds,server_anon_MB,server_rss_MB,parked,connections,living,descriptors,"
		"kernel_slab_MB,mails,store_used_MB",
		s.rows);
	metrics_free(&s.page);
	free(s.at_s);
	free(s.anon);
	return ok;
}
