/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/client_priv.h"

#include <stdlib.h>

enum {
	BUFFER_KEEP_BYTES = 8192, /* larger buffers are not kept in the pool */
	WORK_KEEP = 1024,         /* structs kept in the pool */
};

struct work *work_take(struct work_pool *pool)
{
	struct work *w = pool->free;

	if (w) {
		pool->free = w->next_free;
		pool->free_count--;
		return w;
	}
	w = calloc(1, sizeof(*w));
	CHECK(w);
	return w;
}

static void trim(struct buf *b)
{
	if (b->cap > BUFFER_KEEP_BYTES)
		buf_free(b);
	b->n = 0;
	b->failed = false;
}

void work_free(struct work **wp)
{
	struct work *w = *wp;

	if (!w)
		return;
	tls_hs_free(&w->handshake);
	buf_free(&w->in);
	buf_free(&w->plain);
	buf_free(&w->out);
	buf_free(&w->sending);
	free(w);
	*wp = NULL;
}

void work_give_back(struct work_pool *pool, struct work **wp)
{
	struct work *w = *wp;

	if (!w)
		return;
	if (pool->free_count >= WORK_KEEP) {
		work_free(wp);
		return;
	}
	*wp = NULL;
	tls_hs_free(&w->handshake);
	trim(&w->in);
	trim(&w->plain);
	trim(&w->out);
	trim(&w->sending);
	w->next_free = pool->free;
	pool->free = w;
	pool->free_count++;
}

void work_bury(struct work_pool *pool, struct work **wp, uint32_t slot)
{
	struct work *w = *wp;

	*wp = NULL;
	tls_hs_free(&w->handshake);
	w->grave_slot = slot;
	w->next_free = pool->graves;
	pool->graves = w;
}

void work_unbury(struct work_pool *pool, uint32_t slot)
{
	struct work **at = &pool->graves, *w;

	while (*at && (*at)->grave_slot != slot)
		at = &(*at)->next_free;
	w = *at;
	if (!w)
		return;
	*at = w->next_free;
	work_free(&w);
}

void work_pool_free(struct work_pool *pool)
{
	for (int i = 0; i < 2; i++) {
		struct work *w, *next;

		for (w = i ? pool->free : pool->graves; w; w = next) {
			next = w->next_free;
			work_free(&w);
		}
	}
	*pool = (struct work_pool){0};
}
