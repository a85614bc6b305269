/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/sync_cache.c - what Sync remembers of a device beside its collections: the cached
 * request and the bases of unfinished positions. Both are blobs with a version byte, decoded
 * strictly. */
#include "core/eas/sync_priv.h"

enum { CACHE_VERSION = 1, BASES_VERSION = 1, BASES_MAX = 4096 };
enum { FLAG_GET_CHANGES = 1, FLAG_DELETES_AS_MOVES = 2 };
enum { CACHE_HEAD = 8, CACHE_ROW = 11, BASES_HEAD = 3, BASES_ROW = 16 };

void sync_cached_encode(const struct sync_cached *c, struct buf *out)
{
	uint8_t head[CACHE_HEAD] = {CACHE_VERSION, c->repeatable}, row[CACHE_ROW];

	store_be16(head + 2, c->wait_s);
	store_be16(head + 4, c->window);
	store_be16(head + 6, (uint16_t)c->collection_count);
	buf_add(out, head, sizeof(head));
	for (size_t i = 0; i < c->collection_count; i++) {
		const struct sync_cached_collection *v = &c->collections[i];

		store_be32(row, v->folder);
		store_be32(row + 4, v->key);
		store_be16(row + 8, v->window);
		row[10] = (uint8_t)((v->get_changes ? FLAG_GET_CHANGES : 0) |
				    (v->deletes_as_moves ? FLAG_DELETES_AS_MOVES : 0));
		buf_add(out, row, sizeof(row));
	}
}

bool sync_cached_decode(struct bytes in, struct arena *a, struct sync_cached *out)
{
	struct sync_cached_collection *v;
	size_t n;

	if (in.n < CACHE_HEAD || in.p[0] != CACHE_VERSION || in.p[1] > 1)
		return false;
	n = load_be16(in.p + 6);
	if (n == 0 || n > SYNC_COLLECTIONS_BOUND || in.n != CACHE_HEAD + n * CACHE_ROW ||
		load_be16(in.p + 2) > 3600 || load_be16(in.p + 4) > SYNC_WINDOW_MAX)
		return false;
	v = arena_alloc(a, n * sizeof(*v));
	if (!v)
		return false;
	for (size_t i = 0; i < n; i++) {
		const uint8_t *row = in.p + CACHE_HEAD + i * CACHE_ROW;

		v[i] = (struct sync_cached_collection){.folder = load_be32(row),
			.key = load_be32(row + 4),
			.window = load_be16(row + 8),
			.get_changes = row[10] & FLAG_GET_CHANGES,
			.deletes_as_moves = row[10] & FLAG_DELETES_AS_MOVES};
		if (v[i].folder == 0 || v[i].key == 0 || v[i].window == 0 ||
			v[i].window > SYNC_WINDOW_MAX ||
			row[10] > (FLAG_GET_CHANGES | FLAG_DELETES_AS_MOVES))
			return false;
		for (size_t j = 0; j < i; j++)
			if (v[j].folder == v[i].folder)
				return false;
	}
	*out = (struct sync_cached){.repeatable = in.p[1],
		.wait_s = load_be16(in.p + 2),
		.window = load_be16(in.p + 4),
		.collection_count = n,
		.collections = v};
	return true;
}

bool sync_bases_decode(struct bytes in, struct arena *a, struct sync_bases *out)
{
	struct sync_bases b = {0};

	if (in.n == 0) {
		*out = b;
		return true;
	}
	if (in.n < BASES_HEAD || in.p[0] != BASES_VERSION)
		return false;
	b.n = b.cap = load_be16(in.p + 1);
	if (b.n == 0 || b.n > BASES_MAX || in.n != BASES_HEAD + b.n * BASES_ROW)
		return false;
	b.v = arena_alloc(a, b.n * sizeof(*b.v));
	if (!b.v)
		return false;
	for (size_t i = 0; i < b.n; i++) {
		const uint8_t *row = in.p + BASES_HEAD + i * BASES_ROW;

		b.v[i] = (struct sync_base){.folder = load_be32(row),
			.key = load_be32(row + 4),
			.base = load_be64(row + 8)};
		if (b.v[i].folder == 0 || b.v[i].key == 0)
			return false;
	}
	*out = b;
	return true;
}

void sync_bases_encode(const struct sync_bases *b, struct buf *out)
{
	uint8_t head[BASES_HEAD] = {BASES_VERSION}, row[BASES_ROW];

	if (b->n == 0)
		return;
	store_be16(head + 1, (uint16_t)b->n);
	buf_add(out, head, sizeof(head));
	for (size_t i = 0; i < b->n; i++) {
		store_be32(row, b->v[i].folder);
		store_be32(row + 4, b->v[i].key);
		store_be64(row + 8, b->v[i].base);
		buf_add(out, row, sizeof(row));
	}
}

uint64_t sync_bases_get(
	const struct sync_bases *b, uint32_t folder, uint32_t key, uint64_t otherwise)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->v[i].folder == folder && b->v[i].key == key)
			return b->v[i].base;
	return otherwise;
}

void sync_bases_drop(struct sync_bases *b, uint32_t folder)
{
	size_t n = 0;

	for (size_t i = 0; i < b->n; i++)
		if (b->v[i].folder != folder)
			b->v[n++] = b->v[i];
	b->n = n;
}

bool sync_bases_set(
	struct sync_bases *b, struct arena *a, uint32_t folder, uint32_t key, uint64_t base)
{
	/* Left behind by folders that are gone: the oldest makes room. */
	if (b->n == BASES_MAX)
		memmove(b->v, b->v + 1, --b->n * sizeof(*b->v));
	if (b->n == b->cap) {
		size_t cap = b->cap ? b->cap * 2 : 8;
		struct sync_base *v = arena_alloc(a, cap * sizeof(*v));

		if (!v)
			return false;
		if (b->n)
			memcpy(v, b->v, b->n * sizeof(*v));
		b->v = v;
		b->cap = cap;
	}
	b->v[b->n++] = (struct sync_base){folder, key, base};
	return true;
}
