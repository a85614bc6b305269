/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/push/deadlines.h - how many hanging requests of a shard end in which second, so that those that
 * began together (after a storm, or a mail to everybody) are not all answered in the same one, and do
 * not all come back in the same one after it.
 * A request whose second is full ends in the nearest earlier one with room, never later: the phone, and
 * the boxes on its way, count on the heartbeat at most.
 * Thread: the owning shard only.   Memory: as it stands, 16 KB; embed it zeroed.
 * Units:  *_ms is monotonic milliseconds; a request due at due_ms counts for the second in which
 *         the wheel fires it, that is rounded up (io/wheel.h).
 * Errors: none; taking out what was not put in aborts.
 * Cost:   add and remove O(1); choose O(1) while its second has room, else it looks at up to a tenth
 *         of the heartbeat's seconds, 4 bytes each. */
#ifndef ROOST_PUSH_DEADLINES_H
#define ROOST_PUSH_DEADLINES_H

#include <stdbool.h>
#include <stdint.h>

enum {
	DEADLINE_SECONDS = 4096, /* a ring; more than the longest heartbeat (3540 s) */
	/* A heartbeat is shortened by one part in this many at most. */
	DEADLINE_EARLY_PART = 10,
};

struct deadlines {
	uint32_t count;
	uint32_t at[DEADLINE_SECONDS];
};

/* When a request that is due at due_ms had better end: at due_ms while fewer than `most` end in that
 * second, else whole seconds earlier: the nearest with fewer, or the one with the fewest where all
 * are full. most 0: always due_ms. Nothing is noted: see deadlines_add. */
uint64_t deadlines_choose(
	const struct deadlines *d, uint64_t due_ms, uint32_t heartbeat_s, uint32_t most);
void deadlines_add(struct deadlines *d, uint64_t due_ms);
void deadlines_remove(struct deadlines *d, uint64_t due_ms);
/* Of the second in which due_ms lies. */
uint32_t deadlines_in(const struct deadlines *d, uint64_t due_ms);

#endif
