/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Memory of requests under way: a pool for each shard, which keeps a few and gives back what a burst left. */
#include "core/shard/shard_priv.h"

#include "core/base/metrics.h"

#include <sodium.h>
#include <stdlib.h>

/* Heads hold Basic credentials; and records are opened in place, so `in` has held the head too. */
static void wipe(struct buf *b)
{
	if (b->p)
		sodium_memzero(b->p, b->cap);
}

static void trim(struct buf *b)
{
	if (b->cap > BUFFER_KEEP_BYTES)
		buf_free(b);
	b->n = 0;
	b->failed = false;
}

struct active *active_take(struct shard *s, uint32_t slot, bool even_if_many)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	if (a)
		return a;
	if (s->active_used >= s->active_max && !even_if_many)
		return NULL;
	a = s->active_free;
	if (a) {
		s->active_free = a->next_free;
	} else {
		a = calloc(1, sizeof(*a));
		if (!a)
			return NULL;
		a->shard = s;
		list_add_tail(&s->active_all, &a->all);
		/* What a request may make a command allocate: its body several times over, as tree
		 * and copies; never without bound. */
		arena_init(&a->job.arena, 256u << 20);
		s->active_count++;
	}
	s->active_used++;
	if (s->active_count - s->active_used < s->active_idle_least)
		s->active_idle_least = s->active_count - s->active_used;
	a->slot = slot;
	a->busy = false;
	c->active = a;
	return a;
}

static void forget_request(struct active *a)
{
	sodium_memzero(a->cred.password, sizeof(a->cred.password));
	wipe(&a->head);
	trim(&a->head);
	trim(&a->body);
	a->scanned = 0;
	/* Its views pointed into the head. A Sync that runs again has no request of its own. */
	a->http.header_count = 0;
	a->http.method = HTTP1_OTHER;
	a->http.gzip_body = a->http.accepts_gzip = false;
	a->has_request = a->discard_body = false;
	a->mailbox = 0;
	a->address[0] = 0;
	a->head_extra[0] = 0;
	a->refuse_status = 0;
	a->order = a->resume_due_ms = 0;
	a->request_bytes = 0;
	arena_reset(&a->job.arena);
}

void active_forget_request(struct active *a)
{
	forget_request(a);
	a->has_request = true;
}

void active_release(struct shard *s, uint32_t slot)
{
	struct active *a = s->conns[slot].active;

	if (!a)
		return;
	s->conns[slot].active = NULL;
	active_free(s, a);
}

void active_destroy(struct active *a)
{
	if (a->busy)
		buf_free(&a->job.answer.body);
	buf_free(&a->in);
	buf_free(&a->head);
	buf_free(&a->more);
	buf_free(&a->body);
	buf_free(&a->out);
	buf_free(&a->sending);
	buf_free(&a->reply);
	arena_free(&a->job.arena);
	free(a);
}

void active_trim(struct shard *s, uint64_t now_ms)
{
	struct active *a;
	bool any = false;

	if (now_ms < s->active_trim_ms + ACTIVE_TRIM_MS)
		return;
	s->active_trim_ms = now_ms;
	/* Those that lay idle all the time: a steady load gives nothing back and asks for nothing. */
	while (s->active_idle_least > ACTIVE_KEEP && (a = s->active_free)) {
		s->active_free = a->next_free;
		list_del(&a->all);
		active_destroy(a);
		s->active_count--;
		s->active_idle_least--;
		any = true;
	}
	if (any)
		atomic_store_explicit(&s->server->memory_freed, true, memory_order_relaxed);
	s->active_idle_least = s->active_count - s->active_used;
}

void active_free(struct shard *s, struct active *a)
{
	if (a->handshake)
		tls_hs_free(&a->handshake);
	if (a->handshake_counted) {
		a->handshake_counted = false;
		s->handshakes_in_flight--;
		METRIC_ADD(TLS_HS_INFLIGHT, -1);
	}
	forget_request(a);
	wipe(&a->in);
	wipe(&a->more);
	trim(&a->in);
	trim(&a->more);
	trim(&a->out);
	trim(&a->sending);
	trim(&a->reply);
	a->reply_sent = 0;
	s->active_used--;
	a->next_free = s->active_free;
	s->active_free = a;
}

bool active_next_request(struct active *a)
{
	struct buf t;

	forget_request(a);
	a->reply.n = 0;
	a->reply_sent = 0;
	trim(&a->reply);
	/* What came behind the last request is the head of the next. */
	t = a->head;
	a->head = a->more;
	a->more = t;
	a->more.n = 0;
	return a->head.n || a->in.n;
}
