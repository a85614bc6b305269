/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/key.h - where each record lies in the one tree.
 *
 * One tree with prefixed keys instead of named databases: everything of a mailbox lies together
 * (a delivery to a small mailbox dirties one or two leaves, not one per kind; removing a mailbox
 * is one range), and a commit rewrites no table of databases. Within a mailbox the parts of an item
 * are neighbours for the same reason. The journal is the last range of the tree, so its rows are
 * appended without a search and fill their pages.
 *
 * Numbers are big-endian: byte order is the order of numbers. Only key.c knows the layouts.
 * Memory: a key_* function writes into `k` and returns a view of it. */
#ifndef ROOST_STORE_KEY_H
#define ROOST_STORE_KEY_H

#include "core/base/bytes.h"

/* Area, mailbox, kind, folder and a name of 256 bytes; LMDB takes 511. */
enum { KEY_BYTES_MAX = 10 + 256 };

struct key {
	uint8_t b[KEY_BYTES_MAX];
};

/* In the order of the tree. The numbers are stored: never change one. */
enum key_kind {
	KEY_META,         /* what: store-wide records */
	KEY_ADDRESS,      /* text -> mailbox */
	KEY_ACCOUNT,      /* mailbox */
	KEY_ACCOUNT_GATE, /* mailbox */
	KEY_COUNTERS,     /* mailbox */
	KEY_FOLDER,       /* mailbox, folder */
	KEY_FOLDER_HOT,   /* mailbox, folder; only while the folder lives */
	KEY_FOLDER_NAME,  /* mailbox, folder (the parent), text -> folder; only while it lives */
	KEY_ITEM,         /* mailbox, item, part */
	KEY_CHANGE,       /* mailbox, folder, seq */
	KEY_DATE,         /* mailbox, folder, time, item */
	KEY_TOMBSTONE,    /* mailbox, folder, item -> seq of its change row */
	KEY_DEVICE,       /* mailbox, device */
	KEY_DEVICE_GATE,  /* mailbox, text (the client's DeviceId) */
	KEY_COLLECTION,   /* mailbox, device, folder */
	KEY_BLOB,         /* mailbox, device, part */
	KEY_JOURNAL,      /* seq */
	KEY_KINDS
};

enum key_meta { KEY_META_FORMAT = 1, KEY_META_IDS = 2 };
enum key_part { KEY_PART_STATE = 1, KEY_PART_SUMMARY = 2, KEY_PART_PROPS = 3, KEY_PART_BODY = 4 };

/* A key taken apart; fields its kind does not have are 0. */
struct key_parts {
	enum key_kind kind;
	uint32_t mailbox, folder, device;
	uint64_t item, seq;
	int64_t time_s;
	uint8_t part;      /* enum key_part, enum key_meta or the kind of a blob */
	struct bytes text; /* view of the key */
};
/* False: not a key of ours. */
bool key_parse(struct bytes key, struct key_parts *out);
/* The inverse; empty when a text is too long. */
struct bytes key_build(struct key *k, const struct key_parts *parts);

struct bytes key_meta(struct key *k, enum key_meta what);
struct bytes key_address(struct key *k, struct bytes address);
struct bytes key_account(struct key *k, uint32_t mailbox);
struct bytes key_account_gate(struct key *k, uint32_t mailbox);
struct bytes key_counters(struct key *k, uint32_t mailbox);
struct bytes key_folder(struct key *k, uint32_t mailbox, uint32_t folder);
struct bytes key_folder_hot(struct key *k, uint32_t mailbox, uint32_t folder);
struct bytes key_folder_name(struct key *k, uint32_t mailbox, uint32_t parent, struct bytes name);
struct bytes key_item(struct key *k, uint32_t mailbox, uint64_t item, enum key_part part);
struct bytes key_change(struct key *k, uint32_t mailbox, uint32_t folder, uint64_t seq);
struct bytes key_date(
	struct key *k, uint32_t mailbox, uint32_t folder, int64_t time_s, uint64_t item);
struct bytes key_tombstone(struct key *k, uint32_t mailbox, uint32_t folder, uint64_t item);
struct bytes key_device(struct key *k, uint32_t mailbox, uint32_t device);
struct bytes key_device_gate(struct key *k, uint32_t mailbox, struct bytes device_id);
struct bytes key_collection(struct key *k, uint32_t mailbox, uint32_t device, uint32_t folder);
struct bytes key_blob(struct key *k, uint32_t mailbox, uint32_t device, uint8_t kind);
struct bytes key_journal(struct key *k, uint64_t seq);

/* What all keys of a range begin with. `id` is a folder or a device, whichever the kind has first.
 */
struct bytes key_prefix_kind(struct key *k, enum key_kind kind);
struct bytes key_prefix_mailbox(struct key *k, uint32_t mailbox);
struct bytes key_prefix(struct key *k, uint32_t mailbox, enum key_kind kind);
struct bytes key_prefix_id(struct key *k, uint32_t mailbox, enum key_kind kind, uint32_t id);
struct bytes key_prefix_item(struct key *k, uint32_t mailbox, uint64_t item);
/* The least key above `key`. */
struct bytes key_after(struct key *k, struct bytes key);

#endif
