/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/work.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct work_pool {
	pthread_mutex_t mutex;
	pthread_cond_t more;
	struct work *first, **last;
	size_t queued, queue_max;
	bool stop;
	unsigned threads;
	pthread_t thread[];
};

static void *worker(void *arg)
{
	struct work_pool *p = arg;
	struct work *w;

	pthread_mutex_lock(&p->mutex);
	for (;;) {
		while (!p->first && !p->stop)
			pthread_cond_wait(&p->more, &p->mutex);
		w = p->first;
		if (!w)
			break;
		p->first = w->next;
		if (!p->first)
			p->last = &p->first;
		p->queued--;
		pthread_mutex_unlock(&p->mutex);
		w->run(w);
		pthread_mutex_lock(&p->mutex);
	}
	pthread_mutex_unlock(&p->mutex);
	return NULL;
}

struct work_pool *work_pool_new(unsigned threads, size_t queue_max)
{
	struct work_pool *p = calloc(1, sizeof(*p) + threads * sizeof(p->thread[0]));
	pthread_attr_t attr;
	int err = 0;

	if (!p)
		return NULL;
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->more, NULL);
	p->last = &p->first;
	p->queue_max = queue_max;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 1 << 20);
	while (p->threads < threads && err == 0) {
		err = pthread_create(&p->thread[p->threads], &attr, worker, p);
		p->threads += err == 0;
	}
	pthread_attr_destroy(&attr);
	if (err) {
		work_pool_free(&p);
		errno = err;
	}
	return p;
}

bool work_submit(struct work_pool *p, struct work *w)
{
	bool ok;

	w->next = NULL;
	pthread_mutex_lock(&p->mutex);
	ok = !p->stop && p->queued < p->queue_max;
	if (ok) {
		*p->last = w;
		p->last = &w->next;
		p->queued++;
		pthread_cond_signal(&p->more);
	}
	pthread_mutex_unlock(&p->mutex);
	return ok;
}

void work_pool_free(struct work_pool **pp)
{
	struct work_pool *p = *pp;

	if (!p)
		return;
	*pp = NULL;
	pthread_mutex_lock(&p->mutex);
	p->stop = true;
	pthread_cond_broadcast(&p->more);
	pthread_mutex_unlock(&p->mutex);
	for (unsigned i = 0; i < p->threads; i++)
		pthread_join(p->thread[i], NULL);
	pthread_mutex_destroy(&p->mutex);
	pthread_cond_destroy(&p->more);
	free(p);
}
