/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/push/presence.h"

#include "core/base/check.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { BUCKETS = 1 << 14 };

struct presence {
	_Atomic uint64_t order;
	_Atomic uint64_t shards[BUCKETS];
};

struct presence_shard {
	struct presence *all;
	unsigned shard;
	uint16_t count[BUCKETS];
};

struct presence *presence_new(void)
{
	struct presence *p = calloc(1, sizeof(*p));

	CHECK(p);
	return p;
}

void presence_free(struct presence **p)
{
	free(*p);
	*p = NULL;
}

struct presence_shard *presence_shard_new(struct presence *p, unsigned shard)
{
	struct presence_shard *s = calloc(1, sizeof(*s));

	CHECK(s && shard < PRESENCE_SHARDS_MAX);
	s->all = p;
	s->shard = shard;
	return s;
}

void presence_shard_free(struct presence_shard **s)
{
	free(*s);
	*s = NULL;
}

uint64_t presence_order(struct presence *p)
{
	return atomic_fetch_add_explicit(&p->order, 1, memory_order_relaxed) + 1;
}

void presence_continue(struct presence *p, uint64_t order)
{
	atomic_store(&p->order, order);
}

static uint32_t bucket(uint32_t mailbox, uint32_t device)
{
	uint64_t v = ((uint64_t)mailbox << 32 | device) * 0x9e3779b97f4a7c15u;

	return (uint32_t)(v >> 50) & (BUCKETS - 1);
}

void presence_add(struct presence_shard *s, uint32_t mailbox, uint32_t device)
{
	uint32_t b = bucket(mailbox, device);

	/* A count that is full stays: the bit is then never cleared, which only costs messages. */
	if (s->count[b] < UINT16_MAX)
		s->count[b]++;
	if (s->count[b] == 1)
		atomic_fetch_or(&s->all->shards[b], 1ull << s->shard);
}

void presence_remove(struct presence_shard *s, uint32_t mailbox, uint32_t device)
{
	uint32_t b = bucket(mailbox, device);

	if (s->count[b] == UINT16_MAX)
		return;
	CHECK(s->count[b] > 0);
	if (--s->count[b] == 0)
		atomic_fetch_and(&s->all->shards[b], ~(1ull << s->shard));
}

uint64_t presence_others(const struct presence_shard *s, uint32_t mailbox, uint32_t device)
{
	return atomic_load(&s->all->shards[bucket(mailbox, device)]) & ~(1ull << s->shard);
}
