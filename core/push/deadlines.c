/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/push/deadlines.h"

#include "core/base/check.h"

static uint32_t second_of(uint64_t due_ms)
{
	return (uint32_t)((due_ms + 999) / 1000 % DEADLINE_SECONDS);
}

uint64_t deadlines_choose(
	const struct deadlines *d, uint64_t due_ms, uint32_t heartbeat_s, uint32_t most)
{
	uint32_t wanted = second_of(due_ms), back_s = heartbeat_s / DEADLINE_EARLY_PART;
	uint32_t least = d->at[wanted], best_s = 0;

	if (most == 0 || least < most)
		return due_ms;
	if (back_s > due_ms / 1000)
		back_s = (uint32_t)(due_ms / 1000);
	/* (a whole turn of the ring comes back to the wanted second) */
	for (uint32_t s = 1; s <= back_s && s < DEADLINE_SECONDS && least >= most; s++) {
		uint32_t n = d->at[(wanted - s) % DEADLINE_SECONDS];

		if (n < least) {
			least = n;
			best_s = s;
		}
	}
	return due_ms - best_s * 1000ull;
}

void deadlines_add(struct deadlines *d, uint64_t due_ms)
{
	d->at[second_of(due_ms)]++;
	d->count++;
}

void deadlines_remove(struct deadlines *d, uint64_t due_ms)
{
	uint32_t *n = &d->at[second_of(due_ms)];

	CHECK(*n > 0 && d->count > 0);
	--*n;
	d->count--;
}

uint32_t deadlines_in(const struct deadlines *d, uint64_t due_ms)
{
	return d->at[second_of(due_ms)];
}
