/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/push/ping.h - the Ping command (MS-ASCMD 2.2.1.13, 3.1.5.4, 3.1.5.8; spec names as there).
 * Runs on the shard: reads a snapshot, allocates nothing, never waits.
 *
 * Order of checks: document (4/102), parameters (3), interval (5), folder count (6), folders and
 * hierarchy (7), changes (2), else park.
 * Choices where the specification leaves one:
 *   - a class that does not match the folder is ignored, as the other servers do; an unknown
 *     class word is status 4;
 *   - a folder that this device has never synced counts as changed (2), so that it gets synced;
 *   - a folder of no pingable type (journal, recipient cache) is watched like any other;
 *   - a folder that is unknown although the hierarchy matches gets status 7, and is left in
 *     `changed`: a caller that sees the device come back with the same answer again and again
 *     may say 2 with those Ids, so that Sync can explain (a loop guard, core/shard/hanging.c).
 * Thread: any. Errors: as a status in the outcome, reason static. */
#ifndef ROOST_PUSH_PING_H
#define ROOST_PUSH_PING_H

#include "core/base/bytes.h"
#include "store/device.h"

struct config;
struct db_txn;

enum ping_status {
	PING_PARK = 0, /* not on the wire: wait */
	PING_EXPIRED = 1,
	PING_CHANGES = 2,
	PING_MISSING = 3,
	PING_SYNTAX = 4,
	PING_INTERVAL = 5,
	PING_FOLDERS = 6,
	PING_HIERARCHY = 7,
	PING_ERROR = 8,
	PING_WBXML = 102,
	PING_BAD_REQUEST = 400, /* HTTP: undecodable below 14.0 */
};

/* What one Ping asks and gets; fits on a stack. */
struct ping {
	/* request */
	bool has_heartbeat, has_folders;
	int64_t heartbeat_asked_s;
	uint32_t asked_count;   /* folders named; may exceed the array */
	uint32_t unknown_count; /* of those, Ids that can never be ours */
	uint16_t heartbeat_s;
	uint16_t folder_count;
	uint32_t folders[PING_FOLDERS_MAX];
	/* outcome */
	enum ping_status status;
	uint32_t limit; /* statuses 5 and 6 */
	uint16_t changed_count;
	uint32_t changed[PING_FOLDERS_MAX];
	bool remember;      /* the parameters differ from the cached ones */
	uint64_t since_seq; /* journal number of the snapshot that was compared */
	const char *why;
};

/* Decodes the body; false: p->status says what to answer. */
bool ping_parse(struct ping *p, struct bytes body, uint16_t version);
/* Everything after decoding, in one snapshot. The device's cached parameters are filled in. */
void ping_decide(struct ping *p, struct db_txn *txn, const struct config *c, uint32_t mailbox,
	uint32_t device, uint64_t now_ms);
/* The comparison alone, for a parked waiter that must look again: folders with news. */
size_t ping_compare(struct db_txn *txn, uint32_t mailbox, uint32_t device, const uint32_t *folders,
	size_t folder_count, uint64_t now_ms, uint32_t *changed_out);
/* The hierarchy was changed by others since the device's last FolderSync. Negative: DB error. */
int ping_hierarchy_moved(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint64_t seen_seq);

enum { PING_ANSWER_MAX = 64 + 16 * PING_FOLDERS_MAX };
/* WBXML of the answer; returns its length. Folders only with status 2, limit with 5 and 6. */
size_t ping_encode(enum ping_status status, uint32_t limit, const uint32_t *folders,
	size_t folder_count, uint8_t out[PING_ANSWER_MAX]);

#endif
