/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/work.h a second time: a job runs some time later, in one piece, in any order. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <stdlib.h>

struct work_pool {
	struct work *first;
	size_t queued, queue_max;
};

static struct work_pool *the_pool;

static void run(void *arg, uint64_t epoch)
{
	static uint64_t sender = 1 << 20;
	struct work *w = arg, **p;

	if (epoch != sim_epoch)
		return;
	for (p = &the_pool->first; *p != w; p = &(*p)->next)
		CHECK(*p);
	*p = w->next;
	the_pool->queued--;
	net_sender = sender++;
	w->run(w);
	net_sender = 0;
}

struct work_pool *work_pool_new(unsigned threads, size_t queue_max)
{
	struct work_pool *p = calloc(1, sizeof(*p));

	(void)threads;
	CHECK(p && !the_pool);
	p->queue_max = queue_max;
	the_pool = p;
	return p;
}

bool work_submit(struct work_pool *p, struct work *w)
{
	uint64_t delay = sim_permille(100) ? sim_between(0, WORK_MAX_US) : sim_between(0, 5 * MS);

	if (p->queued == p->queue_max)
		return false;
	p->queued++;
	w->next = p->first;
	p->first = w;
	sim_at(sim_now_us + delay, run, w, sim_epoch);
	return true;
}

void work_pool_free(struct work_pool **pp)
{
	CHECK(*pp == the_pool && !the_pool->first);
	free(*pp);
	*pp = the_pool = NULL;
}

void simwork_crash(void (*discard)(struct work *w))
{
	struct work *w;

	while ((w = the_pool->first)) {
		the_pool->first = w->next;
		discard(w);
	}
	the_pool->queued = 0;
}
