/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/arena.h"

#include <stdio.h>
#include <stdlib.h>

enum { CHUNK_BYTES = 4096 };

struct arena_chunk {
	struct arena_chunk *next;
	size_t n, cap;
	_Alignas(16) uint8_t data[];
};

void arena_init(struct arena *a, size_t limit_bytes)
{
	*a = (struct arena){.limit_bytes = limit_bytes};
}

void *arena_alloc(struct arena *a, size_t n)
{
	struct arena_chunk *c = a->chunks;
	size_t want = (n + 15) & ~(size_t)15, cap;

	if (a->failed || want < n || want > a->limit_bytes - a->used_bytes) {
		a->failed = true;
		return NULL;
	}
	if (!c || c->cap - c->n < want) {
		cap = want > CHUNK_BYTES ? want : CHUNK_BYTES;
		c = malloc(sizeof(*c) + cap);
		if (!c) {
			a->failed = true;
			return NULL;
		}
		c->n = 0;
		c->cap = cap;
		c->next = a->chunks;
		a->chunks = c;
	}
	c->n += want;
	a->used_bytes += want;
	return c->data + c->n - want;
}

void *arena_zalloc(struct arena *a, size_t n)
{
	void *p = arena_alloc(a, n);

	if (p)
		memset(p, 0, n);
	return p;
}

struct bytes arena_dup(struct arena *a, struct bytes b)
{
	uint8_t *p = arena_alloc(a, b.n ? b.n : 1);

	if (!p)
		return (struct bytes){0};
	if (b.n)
		memcpy(p, b.p, b.n);
	return bytes_of(p, b.n);
}

char *arena_strz(struct arena *a, struct bytes b)
{
	char *p = arena_alloc(a, b.n + 1);

	if (!p)
		return NULL;
	if (b.n)
		memcpy(p, b.p, b.n);
	p[b.n] = 0;
	return p;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	int n;
	char *p;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
	if (!p)
		return NULL;
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return p;
}

void arena_reset(struct arena *a)
{
	struct arena_chunk *c = a->chunks, *next, *keep = NULL;

	for (; c; c = next) {
		next = c->next;
		if (!keep && c->cap == CHUNK_BYTES)
			keep = c;
		else
			free(c);
	}
	if (keep) {
		keep->next = NULL;
		keep->n = 0;
	}
	a->chunks = keep;
	a->used_bytes = 0;
	a->failed = false;
}

void arena_free(struct arena *a)
{
	struct arena_chunk *c = a->chunks, *next;

	for (; c; c = next) {
		next = c->next;
		free(c);
	}
	a->chunks = NULL;
	a->used_bytes = 0;
}
