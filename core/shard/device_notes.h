/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/shard/device_notes.h - what is written to a device's record without anybody waiting for it: the folders and
 * the heartbeat of its last Ping (a later one may leave them out), and when and from where it was here.
 * Thread: any.
 * Memory: a copy of what is noted, freed when it is written; the arguments are the caller's again at once.
 * Units:  *_ms is wall clock.
 * Errors: none for the caller. Without memory nothing is noted; a write that fails is logged; a device that
 *         was removed meanwhile has nothing to remember.
 * Cost:   one allocation, and its part in the writer's next commit. */
#ifndef ROOST_CORE_DEVICE_NOTES_H
#define ROOST_CORE_DEVICE_NOTES_H

#include <stdint.h>

struct device_gate;
struct ping;
struct writer;

void device_note_ping(
	struct writer *writer, uint32_t mailbox, uint32_t device, const struct ping *p);
/* That it is here now, at most every 15 minutes: `gate` says when that was noted last. */
void device_note_seen(struct writer *writer, uint32_t mailbox, const struct device_gate *gate,
	uint64_t now_ms, const char *address);

#endif
