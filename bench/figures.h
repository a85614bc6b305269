/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/figures.h - measured values: quantiles, a table for people, JSON lines for scripts. Every
 * line says on which machine, with which commit and settings it came about.
 * Thread: one.    Memory: struct figures owns what it is given (copies).    Errors: none; more
 * figures than fit abort. */
#ifndef ROOST_BENCH_FIGURES_H
#define ROOST_BENCH_FIGURES_H

#include "core/base/bytes.h"

#include <jansson.h>
#include <stdio.h>

enum { FIGURES_MAX = 256, ROUNDS_MAX = 32 };

struct figure {
	char name[96], unit[24], note[160];
	double value, least, most; /* of the rounds; value is their median */
	uint64_t n;                /* samples or connections behind one value */
	unsigned runs;
};

struct figures {
	const char *prefix; /* and '_' in front of all names; NULL: none */
	struct figure v[FIGURES_MAX];
	size_t count;
	json_t *series; /* of figures_series; NULL: none */
};

/* The same name again is another round: the value becomes the median of all. */
__attribute__((format(printf, 6, 7))) void figure_add(struct figures *f, const char *name,
	double value, const char *unit, uint64_t n, const char *note_fmt, ...);
/* Rows of numbers for a plot, one JSON line of their own. columns: their names, by commas. Takes rows
 * over. */
void figures_series(struct figures *f, const char *name, const char *columns, json_t *rows);
void figures_table(const struct figures *f, FILE *to);
/* settings: an object; stays the caller's. */
void figures_json(const struct figures *f, json_t *settings, FILE *to);

/* Sorts v. q in 0..1; nearest rank. n > 0. */
void quantile_sort(uint64_t *v, size_t n);
uint64_t quantile(const uint64_t *sorted, size_t n, double q);
double median(double *v, size_t n);
/* Of the line through n points that fits best (least squares): y per x. 0 for fewer than two. */
double slope(const double *x, const double *y, size_t n);

/* What every line of figures carries: the machine, and the commit (ROOST_COMMIT, else that of this
 * program). The caller frees. */
json_t *figures_machine(void);
const char *figures_commit(void);

#endif
