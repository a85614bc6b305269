/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/record.h - stored records, byte for byte. The first byte is the record's version, numbers
 * are big-endian, texts carry their length.
 *
 * Decoding is strict: a record that encoding could not have produced is DB_CORRUPT, so
 * encode(decode(x)) is x. Summaries, props, bodies and blobs are not here: they are
 * opaque to the store.
 * Thread: plain functions.    Memory: encode returns a view of `b`. */
#ifndef ROOST_STORE_RECORD_H
#define ROOST_STORE_RECORD_H

#include "store/account.h"
#include "store/device.h"
#include "store/journal.h"
#include "store/mailbox.h"

struct record_meta {
	uint32_t format;
	uint64_t created_ms;
};
struct record_ids {
	uint32_t next_mailbox;
};
/* address -> mailbox; folder name -> folder */
struct record_ref {
	uint32_t id;
};
struct record_counters {
	uint32_t next_folder, next_device;
	uint64_t next_item, hierarchy_seq;
};
/* Apart from the names, because every change of an item rewrites it. */
struct record_folder_hot {
	uint64_t changed_seq, touched_seq, items, unread;
};
struct record_tombstone {
	uint64_t seq;
};

/* Where the type is a public struct, fields that the key holds, or another record, are left 0:
 *   account    without mailbox, disabled, password_generation
 *   folder     without id and what record_folder_hot holds
 *   item       without id, summary, props
 *   change     without seq; kind is JOURNAL_CHANGE (the item lives) or JOURNAL_DELETE
 *   device     without id and what device_gate holds
 *   journal    without seq */
#define RECORDS(X)                                                                                 \
	X(meta, struct record_meta)                                                                \
	X(ids, struct record_ids)                                                                  \
	X(ref, struct record_ref)                                                                  \
	X(account, struct account)                                                                 \
	X(account_gate, struct account_gate)                                                       \
	X(counters, struct record_counters)                                                        \
	X(folder, struct folder)                                                                   \
	X(folder_hot, struct record_folder_hot)                                                    \
	X(item, struct item)                                                                       \
	X(change, struct change)                                                                   \
	X(tombstone, struct record_tombstone)                                                      \
	X(device, struct device)                                                                   \
	X(device_gate, struct device_gate)                                                         \
	X(collection, struct collection)                                                           \
	X(journal, struct journal_row)

/* The largest is a device with every text and 256 ping folders. */
enum { RECORD_BYTES_MAX = 2560 };
struct record_buf {
	uint8_t b[RECORD_BYTES_MAX];
};

/* decode: DB_OK or DB_CORRUPT (then *out is meaningless).
 * encode: empty when a field is out of its range or a text is not terminated (DB_INVALID). */
#define RECORD_FUNCTIONS(name, type)                                                               \
	int record_decode_##name(struct bytes in, type *out);                                      \
	struct bytes record_encode_##name(struct record_buf *b, const type *r);
RECORDS(RECORD_FUNCTIONS)
#undef RECORD_FUNCTIONS

/* Only the text that such a record begins with, for a log line: the cost of one copy. */
int record_account_address(struct bytes in, char out[ACCOUNT_ADDRESS_MAX + 1]);
int record_device_id(struct bytes in, char out[DEVICE_ID_MAX + 1]);

#endif
