/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/arena.h - memory of one request, given back in one step.
 * Thread: one owner at a time.
 * Memory: everything lives until arena_reset or arena_free. The first 4 KiB chunk is kept by
 *         arena_reset.
 * Errors: beyond `limit_bytes`, or without memory, calls return NULL and `failed` stays set;
 *         what a peer makes us allocate is bounded by that limit.
 * Cost:   a pointer bump; a malloc per chunk. */
#ifndef ROOST_BASE_ARENA_H
#define ROOST_BASE_ARENA_H

#include "core/base/bytes.h"

struct arena_chunk;
struct arena {
	struct arena_chunk *chunks;
	size_t used_bytes, limit_bytes;
	bool failed;
};

void arena_init(struct arena *a, size_t limit_bytes);
/* 16-byte aligned, not zeroed. */
void *arena_alloc(struct arena *a, size_t n);
void *arena_zalloc(struct arena *a, size_t n);
struct bytes arena_dup(struct arena *a, struct bytes b);
/* NUL-terminated copy. */
char *arena_strz(struct arena *a, struct bytes b);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_reset(struct arena *a);
void arena_free(struct arena *a);

#endif
