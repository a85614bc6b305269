/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/push/presence.h - which shards may hold a hanging request of a device, and who came first.
 *
 * The newest Ping or hanging Sync of a device ends its older one, on whatever shard that is. A
 * shard that parks a device first sets its bit in the device's bucket, then reads the bucket and
 * sends a message to the others named there. Of two shards that do so at once at least one sees
 * the other; order numbers decide who stays, whichever message comes first.
 * A bucket is shared by devices: a bit may be set for another device, which costs a message.
 *
 * Thread: any shard. Memory: 128 KiB shared, 32 KiB per shard. Cost: an atomic or two per park. */
#ifndef ROOST_PUSH_PRESENCE_H
#define ROOST_PUSH_PRESENCE_H

#include <stdint.h>

enum { PRESENCE_SHARDS_MAX = 64 };

struct presence;       /* one per server */
struct presence_shard; /* one per shard */

struct presence *presence_new(void);
void presence_free(struct presence **p);
struct presence_shard *presence_shard_new(struct presence *p, unsigned shard);
void presence_shard_free(struct presence_shard **s);

/* Order of arrival, 1, 2, 3, ... over all shards. */
uint64_t presence_order(struct presence *p);
/* Goes on above `order`: requests of before a change of process keep their numbers. At start. */
void presence_continue(struct presence *p, uint64_t order);
/* This shard holds one more (less) hanging request of the device. */
void presence_add(struct presence_shard *s, uint32_t mailbox, uint32_t device);
void presence_remove(struct presence_shard *s, uint32_t mailbox, uint32_t device);
/* Bits of the other shards that may hold one. */
uint64_t presence_others(const struct presence_shard *s, uint32_t mailbox, uint32_t device);

#endif
