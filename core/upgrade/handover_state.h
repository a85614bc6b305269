/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/upgrade/handover_state.h - the connections of one shard as bytes, for the process that takes over.
 *
 * A head, then records of one size, then the folder ids from 64 on of those that have some. All
 * numbers little endian at fixed places, no padding that is not zero. A process reads exactly the
 * format that it writes: the reader checks everything before it gives out anything, so that whoever
 * cannot read it can say so while the old process still owns every connection.
 * The checksum is against accidents; the other end is a process of ours.
 *
 * Thread: any. Memory: the encoder appends to a buf that has room already (else growing would leave
 * copies of TLS keys behind); views given out point into the bytes read. Errors: false with one
 * line. Cost: one pass to write, two to read, about a nanosecond for 4 bytes. */
#ifndef ROOST_CORE_HANDOVER_STATE_H
#define ROOST_CORE_HANDOVER_STATE_H

#include "core/base/bytes.h"
#include "io/loop.h"
#include "io/tlsrec.h"

enum {
	HANDOVER_FORMAT = 2,
	HANDOVER_HEAD_BYTES = 80,
	HANDOVER_RECORD_BYTES = 288,
};

enum handover_kind {
	HANDOVER_GREETED = 1, /* on the TLS port, nothing said yet */
	HANDOVER_IDLE,        /* between requests */
	HANDOVER_PING,        /* parked */
	HANDOVER_SYNC,
};

enum {
	HANDOVER_TLS_PORT = 1,
	HANDOVER_TLS = 2,
	HANDOVER_KEEP_ALIVE = 4,
	HANDOVER_HTTP10 = 8,
	HANDOVER_RECHECK = 16, /* parked, and about to look again */
	HANDOVER_FLAGS = 31,
};

struct handover_head {
	uint32_t count;        /* records */
	uint32_t more_count;   /* folder ids behind them */
	uint32_t shard;        /* of the old process */
	uint32_t ring_conns;   /* its slots per ring: place = slot % this, escrow = slot / this */
	uint64_t journal_seen; /* every row up to here has been shown to these waiters */
	uint64_t order;        /* presence_order so far */
	uint32_t policy_generation;
};

struct handover_slot {
	enum handover_kind kind;
	uint32_t slot; /* in the old shard */
	uint8_t flags;
	uint16_t version;
	uint64_t request_id;
	struct loop_addr peer;
	struct tlsrec tls; /* with HANDOVER_TLS */
	/* of parked ones */
	uint16_t heartbeat_s;
	uint32_t mailbox, device;
	uint64_t folders; /* bit n: folder n */
	uint64_t since_seq, order, due_ms, since_wall_ms;
	struct bytes more; /* folder ids from 64 on, 4 bytes each: handover_folder */
};

/* How long it will be. */
size_t handover_bytes(uint32_t count, uint32_t more_count);
/* Write head, then `count` slots, then the end. `more` of all slots is `more_count` ids. */
void handover_begin(struct buf *b, const struct handover_head *h);
void handover_add(struct buf *b, const struct handover_slot *s);
/* After all records, the more of each slot in the same order. */
void handover_add_more(struct buf *b, uint32_t folder);
void handover_end(struct buf *b);

struct handover_reader {
	struct bytes in;
	struct handover_head head;
	uint32_t at, more_at;
};
/* False: nothing of it can be used; why says it. */
bool handover_open(struct handover_reader *r, struct bytes in, char *why, size_t why_bytes);
/* False at the end. */
bool handover_next(struct handover_reader *r, struct handover_slot *out);
static inline uint32_t handover_folder(struct bytes more, size_t i)
{
	uint32_t v;

	memcpy(&v, more.p + 4 * i, 4);
	return v;
}

#endif
