/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/push/waiters.h - who waits for which folders: one table per shard, found by mailbox.
 * A waiter is named by its connection slot; it holds no pointer, so that a parked Ping is data.
 * Thread: the owning shard only.
 * Memory: mapped for slots_max at waiters_new, touched only where used. Folder ids below 64 are a
 *         bit mask; others go into a list that only such waiters have.
 * Errors: waiters_add is false when a long folder list finds no memory; misuse aborts.
 * Cost:   add and remove O(1), but for an add that doubles the hash table; a wake O(waiters of that
 *         mailbox). */
#ifndef ROOST_PUSH_WAITERS_H
#define ROOST_PUSH_WAITERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WAITER_NONE = UINT32_MAX };
enum waiter_kind { WAITER_FREE, WAITER_PING, WAITER_SYNC };

struct waiter {
	uint32_t mailbox, device;
	uint32_t next, prev;    /* chain of the mailbox's bucket */
	uint64_t folders;       /* bit n: folder n, below 64 */
	uint64_t news;          /* of those, the ones that changed; cleared when parked */
	uint64_t since_seq;     /* changes up to here were compared before parking */
	uint64_t order;         /* of arrival over all shards: the newest of a device stays */
	uint64_t due_ms;        /* end of the heartbeat, monotonic */
	uint64_t woken_seq;     /* journal number that woke it, for the latency histogram */
	uint64_t since_wall_ms; /* when it was parked */
	uint32_t more;          /* index + 1 of the list of folders from 64 on; 0: none */
	uint16_t heartbeat_s;
	uint8_t kind; /* enum waiter_kind */
	uint8_t why;  /* enum wake_reason, 0 while it waits */
};
_Static_assert(sizeof(struct waiter) <= 80, "parked Ping budget, ARCHITECTURE.md");

struct waiters;
struct waiters *waiters_new(uint32_t slots_max);
void waiters_free(struct waiters **w);

struct waiter_spec {
	enum waiter_kind kind;
	uint32_t mailbox, device;
	const uint32_t *folders;
	size_t folder_count;
	uint64_t since_seq, order, due_ms, since_wall_ms;
	uint16_t heartbeat_s;
};
/* So many will be added, one of them in this slot: the memory is there from now on, and adding does
 * not have to wait for it. */
void waiters_prepare(struct waiters *w, uint32_t slot, uint32_t count);
bool waiters_add(struct waiters *w, uint32_t slot, const struct waiter_spec *spec);
void waiters_remove(struct waiters *w, uint32_t slot);
/* NULL when nobody waits in that slot. */
struct waiter *waiters_get(struct waiters *w, uint32_t slot);
/* First waiter of a mailbox, then the next: WAITER_NONE at the end. Fetch the next one before the
 * current is removed. */
uint32_t waiters_first(const struct waiters *w, uint32_t mailbox);
uint32_t waiters_next(const struct waiters *w, uint32_t slot);
bool waiters_waits_for(const struct waiters *w, uint32_t slot, uint32_t folder);
/* Marks a folder that the waiter waits for as changed. */
void waiters_mark(struct waiters *w, uint32_t slot, uint32_t folder);
/* Folders it waits for, or (`changed`) the marked ones; at most max; returns how many. */
size_t waiters_folders(
	const struct waiters *w, uint32_t slot, bool changed, uint32_t *out, size_t max);
/* How many it waits for. */
size_t waiters_folder_count(const struct waiters *w, uint32_t slot);
uint32_t waiters_count(const struct waiters *w);
/* Slots in use below slot `after` upwards: for lists and the drain. WAITER_NONE at the end. */
uint32_t waiters_next_used(const struct waiters *w, uint32_t from);
/* True when chains, counts and lists agree. For tests. */
bool waiters_check(const struct waiters *w);

#endif
