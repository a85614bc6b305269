/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/metrics.h - counters and gauges that cost an add in thread-local memory.
 * Thread: any; each thread adds to its own block, metrics_sum adds the blocks up (a scrape).
 * Memory: one block per thread that ever counted; a block outlives its thread.
 * Cost:   METRIC_ADD is one relaxed add to a line no other thread writes. */
#ifndef ROOST_BASE_METRICS_H
#define ROOST_BASE_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

enum metric_id {
#define METRIC(id, kind, name, labels, help) M_##id,
#include "core/base/metrics.def"
#undef METRIC
	METRIC_COUNT
};

enum { METRIC_HIST_BUCKETS = 24 }; /* 1 us * 2^i, the last is +Inf */

enum metric_hist {
#define HISTOGRAM(id, name, help) H_##id,
#include "core/base/metrics.def"
#undef HISTOGRAM
	METRIC_HIST_COUNT
};

struct metric_block {
	_Atomic int64_t v[METRIC_COUNT];
	_Atomic uint64_t hist[METRIC_HIST_COUNT][METRIC_HIST_BUCKETS];
	_Atomic uint64_t hist_sum_ns[METRIC_HIST_COUNT];
	struct metric_block *next;
};

extern _Thread_local struct metric_block *metric_mine;
struct metric_block *metric_block_get(void); /* makes this thread's block */

static inline void metric_add(enum metric_id id, int64_t n)
{
	struct metric_block *b = metric_mine ? metric_mine : metric_block_get();

	atomic_store_explicit(&b->v[id], atomic_load_explicit(&b->v[id], memory_order_relaxed) + n,
		memory_order_relaxed);
}

#define METRIC_ADD(id, n) metric_add(M_##id, (n))
#define METRIC_INC(id)    metric_add(M_##id, 1)

void metric_observe_ns(enum metric_hist h, uint64_t ns);

int64_t metrics_sum(enum metric_id id);
void metrics_hist_sum(
	enum metric_hist h, uint64_t buckets_out[METRIC_HIST_BUCKETS], uint64_t *sum_ns_out);

/* kind is "counter" or "gauge"; name without the roost_ prefix; labels like `reason="x"` or "". */
struct metric_info {
	const char *kind, *name, *labels, *help;
};
extern const struct metric_info metric_infos[METRIC_COUNT];
extern const struct metric_info metric_hist_infos[METRIC_HIST_COUNT];

#endif
