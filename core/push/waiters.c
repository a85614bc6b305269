/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/push/waiters.h"

#include "core/base/check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Folders from 64 on of one waiter, sorted as they came; the top bit marks a changed one. */
struct more {
	uint32_t n;
	uint32_t folder[];
};
#define MORE_CHANGED 0x80000000u

enum { FIRST_BUCKETS = 1024 };

struct waiters {
	uint32_t slots_max, bucket_mask, count, used_end;
	uint32_t *buckets; /* slot + 1; 0: empty */
	struct waiter *slot;
	struct more **more; /* grows; entries are reused through more_free */
	uint32_t more_cap, more_free_head;
	uint32_t *more_next;
	size_t slot_bytes, bucket_bytes;
};

static void *map_lazily(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static uint32_t bucket(const struct waiters *w, uint32_t mailbox)
{
	return (uint32_t)((mailbox * 0x9e3779b97f4a7c15u) >> 32) & w->bucket_mask;
}

static void link_in(struct waiters *w, uint32_t slot)
{
	struct waiter *t = &w->slot[slot];
	uint32_t *head = &w->buckets[bucket(w, t->mailbox)];

	t->next = *head ? *head - 1 : WAITER_NONE;
	t->prev = WAITER_NONE;
	if (*head)
		w->slot[*head - 1].prev = slot;
	*head = slot + 1;
}

/* One bucket per waiter or so: a table made for the most that may ever come would have its pages
 * touched all over by a few. Growing relinks every waiter: a microsecond for a hundred of them, and
 * each doubling pays for all before it. */
static void buckets_grow(struct waiters *w)
{
	size_t bytes = w->bucket_bytes * 2;

	munmap(w->buckets, w->bucket_bytes);
	w->buckets = map_lazily(bytes);
	w->bucket_bytes = bytes;
	w->bucket_mask = w->bucket_mask * 2 + 1;
	for (uint32_t slot = 0; slot < w->used_end; slot++)
		if (w->slot[slot].kind != WAITER_FREE)
			link_in(w, slot);
}

struct waiters *waiters_new(uint32_t slots_max)
{
	struct waiters *w = calloc(1, sizeof(*w));

	CHECK(w && slots_max > 0);
	w->slots_max = slots_max;
	w->bucket_mask = FIRST_BUCKETS - 1;
	w->bucket_bytes = FIRST_BUCKETS * sizeof(uint32_t);
	w->slot_bytes = slots_max * sizeof(struct waiter);
	w->buckets = map_lazily(w->bucket_bytes);
	w->slot = map_lazily(w->slot_bytes);
	return w;
}

void waiters_free(struct waiters **ww)
{
	struct waiters *w = *ww;

	if (!w)
		return;
	*ww = NULL;
	for (uint32_t i = 0; i < w->more_cap; i++)
		free(w->more[i]);
	free(w->more);
	free(w->more_next);
	munmap(w->buckets, w->bucket_bytes);
	munmap(w->slot, w->slot_bytes);
	free(w);
}

/* A long folder list: one allocation for the few devices that name folders from 64 on. */
static bool add_more(struct waiters *w, struct waiter *t, const struct waiter_spec *spec)
{
	struct more *m;
	uint32_t n = 0, i, cap;

	for (size_t k = 0; k < spec->folder_count; k++)
		n += spec->folders[k] >= 64;
	if (!n)
		return true;
	if (!w->more_free_head) {
		struct more **lists;
		uint32_t *next;

		cap = w->more_cap ? w->more_cap * 2 : 64;
		lists = realloc(w->more, cap * sizeof(struct more *));
		if (!lists)
			return false;
		w->more = lists;
		next = realloc(w->more_next, cap * sizeof(*next));
		if (!next)
			return false;
		w->more_next = next;
		for (i = w->more_cap; i < cap; i++) {
			w->more[i] = NULL;
			w->more_next[i] = w->more_free_head;
			w->more_free_head = i + 1;
		}
		w->more_cap = cap;
	}
	m = malloc(sizeof(*m) + n * sizeof(m->folder[0]));
	if (!m)
		return false;
	m->n = 0;
	for (size_t k = 0; k < spec->folder_count; k++)
		if (spec->folders[k] >= 64)
			m->folder[m->n++] = spec->folders[k];
	i = w->more_free_head - 1;
	w->more_free_head = w->more_next[i];
	w->more[i] = m;
	t->more = i + 1;
	return true;
}

void waiters_prepare(struct waiters *w, uint32_t slot, uint32_t count)
{
	CHECK(slot < w->slots_max && w->slot[slot].kind == WAITER_FREE);
	w->slot[slot] = (struct waiter){0};
	while (count > w->bucket_mask)
		buckets_grow(w);
}

bool waiters_add(struct waiters *w, uint32_t slot, const struct waiter_spec *spec)
{
	struct waiter *t = &w->slot[slot];

	CHECK(slot < w->slots_max);
	CHECK(t->kind == WAITER_FREE);
	CHECK(spec->kind != WAITER_FREE);
	*t = (struct waiter){
		.mailbox = spec->mailbox,
		.device = spec->device,
		.since_seq = spec->since_seq,
		.order = spec->order,
		.due_ms = spec->due_ms,
		.since_wall_ms = spec->since_wall_ms,
		.heartbeat_s = spec->heartbeat_s,
	};
	if (!add_more(w, t, spec))
		return false;
	for (size_t k = 0; k < spec->folder_count; k++)
		if (spec->folders[k] < 64)
			t->folders |= 1ull << spec->folders[k];
	link_in(w, slot);
	t->kind = (uint8_t)spec->kind;
	w->count++;
	if (slot >= w->used_end)
		w->used_end = slot + 1;
	if (w->count > w->bucket_mask)
		buckets_grow(w);
	return true;
}

void waiters_remove(struct waiters *w, uint32_t slot)
{
	struct waiter *t = &w->slot[slot];

	CHECK(slot < w->slots_max && t->kind != WAITER_FREE);
	if (t->next != WAITER_NONE)
		w->slot[t->next].prev = t->prev;
	if (t->prev != WAITER_NONE)
		w->slot[t->prev].next = t->next;
	else
		w->buckets[bucket(w, t->mailbox)] = t->next == WAITER_NONE ? 0 : t->next + 1;
	if (t->more) {
		free(w->more[t->more - 1]);
		w->more[t->more - 1] = NULL;
		w->more_next[t->more - 1] = w->more_free_head;
		w->more_free_head = t->more;
	}
	t->kind = WAITER_FREE;
	t->more = 0;
	w->count--;
}

struct waiter *waiters_get(struct waiters *w, uint32_t slot)
{
	CHECK(slot < w->slots_max);
	return w->slot[slot].kind == WAITER_FREE ? NULL : &w->slot[slot];
}

static uint32_t same_mailbox(const struct waiters *w, uint32_t slot, uint32_t mailbox)
{
	while (slot != WAITER_NONE && w->slot[slot].mailbox != mailbox)
		slot = w->slot[slot].next;
	return slot;
}

uint32_t waiters_first(const struct waiters *w, uint32_t mailbox)
{
	uint32_t first = w->buckets[bucket(w, mailbox)];

	return first ? same_mailbox(w, first - 1, mailbox) : WAITER_NONE;
}

uint32_t waiters_next(const struct waiters *w, uint32_t slot)
{
	return same_mailbox(w, w->slot[slot].next, w->slot[slot].mailbox);
}

static uint32_t *find_more(const struct waiters *w, const struct waiter *t, uint32_t folder)
{
	struct more *m = t->more ? w->more[t->more - 1] : NULL;

	for (uint32_t i = 0; m && i < m->n; i++)
		if ((m->folder[i] & ~MORE_CHANGED) == folder)
			return &m->folder[i];
	return NULL;
}

bool waiters_waits_for(const struct waiters *w, uint32_t slot, uint32_t folder)
{
	const struct waiter *t = &w->slot[slot];

	if (folder < 64)
		return t->folders >> folder & 1;
	return find_more(w, t, folder) != NULL;
}

void waiters_mark(struct waiters *w, uint32_t slot, uint32_t folder)
{
	struct waiter *t = &w->slot[slot];
	uint32_t *f;

	if (folder < 64) {
		t->news |= 1ull << folder & t->folders;
		return;
	}
	f = find_more(w, t, folder);
	if (f)
		*f |= MORE_CHANGED;
}

size_t waiters_folders(
	const struct waiters *w, uint32_t slot, bool changed, uint32_t *out, size_t max)
{
	const struct waiter *t = &w->slot[slot];
	struct more *m = t->more ? w->more[t->more - 1] : NULL;
	uint64_t bits = changed ? t->news : t->folders;
	size_t n = 0;

	for (; bits && n < max; bits &= bits - 1)
		out[n++] = (uint32_t)__builtin_ctzll(bits);
	for (uint32_t i = 0; m && i < m->n && n < max; i++)
		if (!changed || m->folder[i] & MORE_CHANGED)
			out[n++] = m->folder[i] & ~MORE_CHANGED;
	return n;
}

size_t waiters_folder_count(const struct waiters *w, uint32_t slot)
{
	const struct waiter *t = &w->slot[slot];

	return (size_t)__builtin_popcountll(t->folders) + (t->more ? w->more[t->more - 1]->n : 0);
}

uint32_t waiters_count(const struct waiters *w)
{
	return w->count;
}

uint32_t waiters_next_used(const struct waiters *w, uint32_t from)
{
	for (; from < w->used_end; from++)
		if (w->slot[from].kind != WAITER_FREE)
			return from;
	return WAITER_NONE;
}

bool waiters_check(const struct waiters *w)
{
	uint32_t chained = 0, used = 0;

	for (uint32_t b = 0; b <= w->bucket_mask; b++) {
		uint32_t prev = WAITER_NONE, s = w->buckets[b] ? w->buckets[b] - 1 : WAITER_NONE;

		for (; s != WAITER_NONE; prev = s, s = w->slot[s].next) {
			const struct waiter *t = &w->slot[s];

			if (t->kind == WAITER_FREE || t->prev != prev ||
				bucket(w, t->mailbox) != b || ++chained > w->count)
				return false;
			if (t->news & ~t->folders || (t->more && !w->more[t->more - 1]))
				return false;
		}
	}
	for (uint32_t s = 0; s < w->used_end; s++)
		used += w->slot[s].kind != WAITER_FREE;
	return chained == w->count && used == w->count;
}
