/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/client_priv.h"

#include <stdlib.h>

enum {
	BUFFER_KEEP_BYTES = 8192, /* larger buffers are not kept in the pool */
	WORK_KEEP = 1024,         /* structs kept in the pool */
};

struct client_work *client_work_take(struct client_work_pool *pool)
{
	struct client_work *w = pool->free;

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

void client_work_free(struct client_work **wp)
{
	struct client_work *w = *wp;

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

void client_work_give_back(struct client_work_pool *pool, struct client_work **wp)
{
	struct client_work *w = *wp;

	if (!w)
		return;
	if (pool->free_count >= WORK_KEEP) {
		client_work_free(wp);
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

void client_work_bury(struct client_work_pool *pool, struct client_work **wp, uint32_t slot)
{
	struct client_work *w = *wp;

	*wp = NULL;
	tls_hs_free(&w->handshake);
	w->grave_slot = slot;
	w->next_free = pool->graves;
	pool->graves = w;
}

void client_work_unbury(struct client_work_pool *pool, uint32_t slot)
{
	struct client_work **at = &pool->graves, *w;

	while (*at && (*at)->grave_slot != slot)
		at = &(*at)->next_free;
	w = *at;
	if (!w)
		return;
	*at = w->next_free;
	client_work_free(&w);
}

void client_work_pool_free(struct client_work_pool *pool)
{
	for (int i = 0; i < 2; i++) {
		struct client_work *w, *next;

		for (w = i ? pool->free : pool->graves; w; w = next) {
			next = w->next_free;
			client_work_free(&w);
		}
	}
	*pool = (struct client_work_pool){0};
}
