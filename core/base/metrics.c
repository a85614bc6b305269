/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/metrics.h"

#include "core/base/check.h"

#include <stdlib.h>

_Thread_local struct metric_block *metric_mine;
static _Atomic(struct metric_block *) blocks;

const struct metric_info metric_infos[METRIC_COUNT] = {
#define METRIC(id, kind, name, labels, help) [M_##id] = {kind, name, labels, help},
#include "core/base/metrics.def"
#undef METRIC
};

const struct metric_info metric_hist_infos[METRIC_HIST_COUNT] = {
#define HISTOGRAM(id, name, help) [H_##id] = {"histogram", name, "", help},
#include "core/base/metrics.def"
#undef HISTOGRAM
};

struct metric_block *metric_block_get(void)
{
	struct metric_block *b = aligned_alloc(64, (sizeof(*b) + 63) & ~(size_t)63);

	CHECK(b);
	*b = (struct metric_block){0};
	b->next = atomic_load(&blocks);
	while (!atomic_compare_exchange_weak(&blocks, &b->next, b))
		;
	metric_mine = b;
	return b;
}

void metric_observe_ns(enum metric_hist h, uint64_t ns)
{
	struct metric_block *b = metric_mine ? metric_mine : metric_block_get();
	uint64_t us = (ns + 999) / 1000;
	unsigned i = us <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(us - 1);

	if (i >= METRIC_HIST_BUCKETS)
		i = METRIC_HIST_BUCKETS - 1;
	atomic_fetch_add_explicit(&b->hist[h][i], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&b->hist_sum_ns[h], ns, memory_order_relaxed);
}

int64_t metrics_sum(enum metric_id id)
{
	int64_t sum = 0;

	for (struct metric_block *b = atomic_load(&blocks); b; b = b->next)
		sum += atomic_load_explicit(&b->v[id], memory_order_relaxed);
	return sum;
}

void metrics_hist_sum(
	enum metric_hist h, uint64_t buckets_out[METRIC_HIST_BUCKETS], uint64_t *sum_ns_out)
{
	*sum_ns_out = 0;
	for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
		buckets_out[i] = 0;
	for (struct metric_block *b = atomic_load(&blocks); b; b = b->next) {
		for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
			buckets_out[i] +=
				atomic_load_explicit(&b->hist[h][i], memory_order_relaxed);
		*sum_ns_out += atomic_load_explicit(&b->hist_sum_ns[h], memory_order_relaxed);
	}
}
