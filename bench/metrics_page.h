/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/metrics_page.h - a page of metrics (Prometheus text) of the server under test, fetched and read.
 * Thread: one, blocking at most 10 s for each piece.    Memory: the page's, until metrics_free.
 * Errors: false with one line in why; what is not on the page is 0. */
#ifndef ROOST_BENCH_METRICS_PAGE_H
#define ROOST_BENCH_METRICS_PAGE_H

#include "bench/fleet/url.h"
#include "core/base/bytes.h"

struct metrics_page {
	struct buf text;
};
/* GET of an http:// URL; the page is replaced. */
bool metrics_fetch(const struct url *from, struct metrics_page *page, char *why, size_t why_bytes);
/* Sum over all lines of that name whose labels contain `labels` (NULL: any). 0 when absent. */
double metrics_value(const struct metrics_page *page, const char *name, const char *labels);
/* Difference of two histograms (name without _bucket): the upper bound in seconds of the bucket
 * that holds quantile q; mean by _sum and _count. 0 without observations. */
double metrics_hist_quantile(const struct metrics_page *before, const struct metrics_page *after,
	const char *name, double q);
double metrics_hist_mean(const struct metrics_page *before, const struct metrics_page *after,
	const char *name, uint64_t *count_out);
void metrics_free(struct metrics_page *page);

#endif
