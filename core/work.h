/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/work.h - threads beside the shards for what reads MIME or waits for a disk.
 * The simulation (tests/sim) implements this header a second time, on virtual time.
 * Thread: work_submit from any thread; run() on a worker.
 * Memory: a struct work is its submitter's, and the pool's between submit and run().
 * Errors: a full queue is a refusal (false), counted by the caller: admission, not growth. */
#ifndef ROOST_CORE_WORK_H
#define ROOST_CORE_WORK_H

#include <stdbool.h>
#include <stddef.h>

struct work_pool;
struct work {
	struct work *next;
	void (*run)(struct work *w); /* last thing the pool does with w */
};

/* NULL when memory or a thread is refused (limits of the process or its container); errno says why. */
struct work_pool *work_pool_new(unsigned threads, size_t queue_max);
bool work_submit(struct work_pool *p, struct work *w);
/* Runs what is queued, then joins the threads. */
void work_pool_free(struct work_pool **p);

#endif
