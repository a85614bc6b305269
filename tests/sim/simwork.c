/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/work.h a second time: a job runs some time later, in one piece, in any order. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <stdlib.h>

struct work_pool {
	size_t queued, queue_max;
};

static struct entry {
	struct entry *next;
	struct work *work;
	struct work_pool *pool;
	uint64_t number;
} * entries;

static void run(void *arg, uint64_t number)
{
	static uint64_t sender = 1 << 20;
	struct entry *e, **p;

	(void)arg;
	for (p = &entries; *p && (*p)->number != number; p = &(*p)->next)
		;
	e = *p;
	if (!e)
		return; /* its process has gone */
	*p = e->next;
	e->pool->queued--;
	net_sender = sender++;
	e->work->run(e->work);
	net_sender = 0;
	free(e);
}

struct work_pool *work_pool_new(unsigned threads, size_t queue_max)
{
	struct work_pool *p = calloc(1, sizeof(*p));

	(void)threads;
	CHECK(p);
	p->queue_max = queue_max;
	return p;
}

bool work_submit(struct work_pool *p, struct work *w)
{
	static uint64_t count;
	uint64_t delay = sim_permille(100) ? sim_between(0, WORK_MAX_US) : sim_between(0, 5 * MS);
	struct entry *e;

	if (p->queued == p->queue_max)
		return false;
	e = malloc(sizeof(*e));
	CHECK(e);
	*e = (struct entry){entries, w, p, ++count};
	entries = e;
	p->queued++;
	sim_at(sim_now_us + delay, run, NULL, e->number);
	return true;
}

bool simwork_full(const struct work_pool *pool)
{
	return pool->queued + 1 >= pool->queue_max; /* (or was, a moment ago) */
}

void work_pool_free(struct work_pool **pp)
{
	CHECK((*pp)->queued == 0);
	free(*pp);
	*pp = NULL;
}

void simwork_crash(struct work_pool *pool, void (*discard)(struct work *w))
{
	struct entry *e, **p = &entries;

	while ((e = *p)) {
		if (e->pool != pool) {
			p = &e->next;
			continue;
		}
		*p = e->next;
		discard(e->work);
		free(e);
	}
	pool->queued = 0;
}
