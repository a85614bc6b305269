/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/figures.h"

#include "core/base/check.h"
#include "core/version.h"

#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Values of each round, beside the figures so that these stay plain to copy and print. */
static double rounds[FIGURES_MAX][ROUNDS_MAX];

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void quantile_sort(uint64_t *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_value);
}

uint64_t quantile(const uint64_t *sorted, size_t n, double q)
{
	size_t i = (size_t)(q * (double)n);

	CHECK(n > 0);
	return sorted[i < n ? i : n - 1];
}

static int by_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double median(double *v, size_t n)
{
	CHECK(n > 0);
	qsort(v, n, sizeof(*v), by_double);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double slope(const double *x, const double *y, size_t n)
{
	double mx = 0, my = 0, xy = 0, xx = 0;

	for (size_t i = 0; i < n; i++) {
		mx += x[i] / (double)n;
		my += y[i] / (double)n;
	}
	for (size_t i = 0; i < n; i++) {
		xy += (x[i] - mx) * (y[i] - my);
		xx += (x[i] - mx) * (x[i] - mx);
	}
	return xx > 0 ? xy / xx : 0;
}

void figure_add(struct figures *f, const char *name, double value, const char *unit, uint64_t n,
	const char *note_fmt, ...)
{
	size_t i = 0;
	struct figure *g;
	double sorted[ROUNDS_MAX];
	char full[sizeof(g->name)];
	va_list ap;

	snprintf(full, sizeof(full), "%s%s%s", f->prefix ? f->prefix : "", f->prefix ? "_" : "",
		name);
	while (i < f->count && strcmp(f->v[i].name, full) != 0)
		i++;
	CHECK(i < FIGURES_MAX);
	g = &f->v[i];
	if (i == f->count) {
		f->count++;
		*g = (struct figure){0};
		memcpy(g->name, full, sizeof(full));
		snprintf(g->unit, sizeof(g->unit), "%s", unit);
	}
	va_start(ap, note_fmt);
	vsnprintf(g->note, sizeof(g->note), note_fmt, ap);
	va_end(ap);
	if (g->runs == ROUNDS_MAX)
		return;
	rounds[i][g->runs++] = value;
	memcpy(sorted, rounds[i], g->runs * sizeof(sorted[0]));
	g->value = median(sorted, g->runs);
	g->least = sorted[0];
	g->most = sorted[g->runs - 1];
	g->n = n;
}

void figures_series(struct figures *f, const char *name, const char *columns, json_t *rows)
{
	char full[96];

	if (!f->series)
		f->series = json_array();
	snprintf(full, sizeof(full), "%s%s%s", f->prefix ? f->prefix : "", f->prefix ? "_" : "",
		name);
	CHECK(json_array_append_new(f->series, json_pack("{s:s, s:s, s:o}", "name", full, "columns",
						       columns, "rows", rows)) == 0);
}

static const char *number_text(double v, char out[32])
{
	double a = v < 0 ? -v : v;

	snprintf(out, 32, a >= 1000 ? "%.0f" : a >= 10 ? "%.1f" : a == 0 ? "%.0f" : "%.3f", v);
	return out;
}

void figures_table(const struct figures *f, FILE *to)
{
	char value[32], least[32], most[32], range[128];

	fprintf(to, "%-34s %12s %-12s %9s  %s\n", "figure", "value", "unit", "n", "note");
	for (size_t i = 0; i < f->count; i++) {
		const struct figure *g = &f->v[i];

		range[0] = 0;
		if (g->runs > 1)
			snprintf(range, sizeof(range), "median of %u, %s to %s%s", g->runs,
				number_text(g->least, least), number_text(g->most, most),
				g->note[0] ? "; " : "");
		fprintf(to, "%-34s %12s %-12s %9llu  %s%s\n", g->name, number_text(g->value, value),
			g->unit, (unsigned long long)g->n, range, g->note);
	}
	fflush(to);
}

json_t *figures_machine(void)
{
	char line[512], cpu[256] = "unknown";
	struct utsname u;
	FILE *f = fopen("/proc/cpuinfo", "re");

	while (f && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) != 0 || !colon)
			continue;
		colon[strcspn(colon, "\n")] = 0;
		snprintf(cpu, sizeof(cpu), "%s", colon + 2);
		break;
	}
	if (f)
		fclose(f);
	if (uname(&u) != 0)
		snprintf(u.release, sizeof(u.release), "unknown");
	return json_pack("{s:s, s:I, s:s, s:I}", "cpu", cpu, "cores",
		(json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "kernel", u.release, "mem_bytes",
		(json_int_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
}

const char *figures_commit(void)
{
	const char *commit = getenv("ROOST_COMMIT");

	return commit && commit[0] ? commit : roost_commit;
}

void figures_json(const struct figures *f, json_t *settings, FILE *to)
{
	json_t *m = figures_machine();

	for (size_t i = 0; i < f->count; i++) {
		const struct figure *g = &f->v[i];
		json_t *o = json_pack("{s:s, s:f, s:s, s:I, s:i, s:f, s:f, s:s, s:O, s:s, s:O}",
			"name", g->name, "value", g->value, "unit", g->unit, "n", (json_int_t)g->n,
			"runs", (int)g->runs, "least", g->least, "most", g->most, "note", g->note,
			"machine", m, "commit", figures_commit(), "settings", settings);

		CHECK(o);
		json_dumpf(o, to, JSON_COMPACT | JSON_REAL_PRECISION(10));
		fputc('\n', to);
		json_decref(o);
	}
	for (size_t i = 0; i < json_array_size(f->series); i++) {
		json_t *o = json_copy(json_array_get(f->series, i));

		json_object_set(o, "machine", m);
		json_object_set_new(o, "commit", json_string(figures_commit()));
		json_object_set(o, "settings", settings);
		json_dumpf(o, to, JSON_COMPACT | JSON_REAL_PRECISION(8));
		fputc('\n', to);
		json_decref(o);
	}
	json_decref(m);
	fflush(to);
}
