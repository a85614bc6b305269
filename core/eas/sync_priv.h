/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/sync_priv.h - the parts of Sync: request, cache, walk, client commands, answer.
 *
 * What a device knows of a folder is a position (struct sync_position): every change up to seq of
 * items whose (time, id) is at or above floor. A Sync first takes away what the filter no longer
 * lets through (raising floor), then tells changes after seq in order, then fills older items in
 * from new to old (lowering floor), all within the window. So a position is all the state there
 * is, and the previous one is enough to answer a lost Sync again.
 *
 * A walk that stops in the middle of the changes leaves one question open: an item created up to
 * seq, but changed after it, may or may not have been told. So with such a position goes the
 * base: the seq of the last position that was complete. Items created after the base are told
 * whole (an Add of an item the phone has is a change).
 *
 * Thread, memory, errors: see eas.h. */
#ifndef ROOST_EAS_SYNC_PRIV_H
#define ROOST_EAS_SYNC_PRIV_H

#include "core/eas/eas_priv.h"

enum {
	SYNC_WINDOW_DEFAULT = 100,
	SYNC_WINDOW_MAX = 512,
	SYNC_COMMANDS_MAX = 200,       /* MS-ASCMD 3.1.5.10 */
	SYNC_COLLECTIONS_BOUND = 1000, /* above any sync.collections_max */
	SYNC_ANSWER_BYTES =
		8 << 20,        /* estimated bodies of one answer; the first item always fits */
	SYNC_ITEM_BYTES = 1024, /* estimate of an item without its body */
	MIME_TRUNCATION_NONE = 8,
};

/* ---- sync_walk.c ------------------------------------------------------------------------- */

enum sync_op { SYNC_ADD, SYNC_CHANGE, SYNC_CHANGE_WHOLE, SYNC_DELETE, SYNC_SOFT_DELETE };

struct sync_entry {
	uint64_t item;
	uint8_t op; /* enum sync_op */
};

struct sync_walk {
	/* in */
	uint32_t mailbox, device, folder;
	struct sync_position from;
	uint64_t base;   /* <= from.seq */
	int64_t start_s; /* filter: older items do not count */
	uint32_t window;
	uint64_t body_bytes_max; /* of one item, by its truncation */
	uint64_t bytes_left;
	const uint64_t *gone; /* items that this request itself deleted */
	size_t gone_count;
	struct sync_entry *entries; /* room for `window`; NULL: count only */
	/* out */
	struct sync_position to;
	uint64_t to_base;
	size_t count;
	size_t passed; /* changes that were nothing to this device */
	bool more;
};
int sync_walk(struct db_txn *txn, struct sync_walk *w);

/* Oldest time that a FilterType lets through, at midnight UTC, so that items age out once a day. */
int64_t sync_filter_start(uint8_t filter_type, uint64_t now_ms);

static inline struct sync_position sync_position_none(uint64_t seq)
{
	return (struct sync_position){
		.seq = seq, .floor_time_s = INT64_MAX, .floor_id = UINT64_MAX};
}

/* ---- The request ------------------------------------------------------------------------- */

struct sync_preference {
	uint8_t type; /* enum message_body_type */
	bool all_or_none, has_truncation;
	uint8_t preview;
	uint32_t truncation_bytes;
};

/* Options of one class; sticky in struct collection. */
struct sync_options {
	uint8_t filter_type, conflict, mime_support, mime_truncation;
	uint8_t preference_count;
	struct sync_preference preferences[4];
};
void sync_options_default(struct sync_options *o);
void sync_options_load(struct sync_options *o, const struct collection *c);
/* True when that changed something. */
bool sync_options_store(const struct sync_options *o, struct collection *c);
/* Reads an Options, or the BodyPreference and MIMESupport children of another element. 0, or the
 * Status (4, 164). *sms_out: the options are for SMS. */
int sync_options_parse(const struct wbxml_node *options, struct sync_options *o, bool *sms_out);

enum sync_command_kind {
	SYNC_CLIENT_ADD,
	SYNC_CLIENT_CHANGE,
	SYNC_CLIENT_DELETE,
	SYNC_CLIENT_FETCH
};

struct sync_command {
	uint8_t kind;
	struct bytes id;               /* ServerId; ClientId of an Add */
	const struct wbxml_node *data; /* ApplicationData */
	int status;                    /* outcome; 1: success */
};

struct sync_collection {
	/* request */
	uint32_t folder; /* 0: no id of ours */
	struct bytes collection_id, key_text;
	bool key_ok; /* key_text is a number: */
	uint32_t key;
	bool get_changes, get_changes_asked;
	bool deletes_as_moves, conversation_mode, supported;
	uint32_t window;
	bool has_options;
	struct sync_options options;
	struct sync_command *commands;
	uint32_t command_count, write_count; /* write_count: without Fetch */
	uint32_t hash;                       /* of the Add, Change and Delete commands; 0: none */
	int parse_status;                    /* 0, or what is wrong with this collection alone */
	/* outcome, set anew by every run */
	int status;
	bool speaks; /* has something to say in the answer */
	bool planned, put;
	uint32_t key_out;
	uint8_t item_class;
	struct collection before, after;
	uint64_t base_now, base_previous; /* of after.now and after.previous */
	struct sync_options effective;
	struct sync_entry *entries;
	size_t entry_count;
	bool more;
	uint64_t *gone;
	size_t gone_count;
};

struct sync_request {
	bool partial, has_collections;
	bool has_wait, has_heartbeat, has_window;
	uint32_t wait_s; /* 0: do not wait */
	uint32_t limit;  /* Status 14: nearest allowed value, in the unit asked in */
	uint32_t window; /* of the whole answer */
	struct sync_collection *collections;
	size_t collection_count;
	uint32_t command_count, write_count;
};

/* 0, or the Status of the Sync (4, 14, 15). With 14 all the rest is there. */
int sync_parse(struct eas_call *c, struct sync_request *r, const char **why_out);

/* ---- sync_cache.c ------------------------------------------------------------------------ */

/* The cached request, a blob of the device. */
struct sync_cached_collection {
	uint32_t folder, key;
	uint16_t window;
	bool get_changes, deletes_as_moves;
};
struct sync_cached {
	bool repeatable; /* it was answered with an empty body: an empty request may repeat it */
	uint16_t wait_s, window; /* 0: none; 0: no limit */
	size_t collection_count;
	const struct sync_cached_collection *collections;
};
void sync_cached_encode(const struct sync_cached *c, struct buf *out);
/* Strict: only what encode makes. False also without memory. */
bool sync_cached_decode(struct bytes in, struct arena *a, struct sync_cached *out);

/* Bases of positions that are in the middle of the changes, by folder and key; a blob as well. */
struct sync_bases {
	size_t n, cap;
	struct sync_base {
		uint32_t folder, key;
		uint64_t base;
	} * v;
};
bool sync_bases_decode(struct bytes in, struct arena *a, struct sync_bases *out);
void sync_bases_encode(const struct sync_bases *b, struct buf *out);
/* `otherwise` when there is none. */
uint64_t sync_bases_get(
	const struct sync_bases *b, uint32_t folder, uint32_t key, uint64_t otherwise);
/* Takes all of the folder's away, then sets the given ones (key 0: none). False: no memory. */
void sync_bases_drop(struct sync_bases *b, uint32_t folder);
bool sync_bases_set(
	struct sync_bases *b, struct arena *a, uint32_t folder, uint32_t key, uint64_t base);

/* ---- sync_commands.c --------------------------------------------------------------------- */

/* Applies the collection's Add, Change and Delete commands; `apply` false: they were applied by the
 * request whose answer was lost, only their outcome is told. known_seq: what the phone has seen.
 * Sets the commands' statuses and gone. */
int sync_commands_run(struct db_txn *txn, const struct eas_call *c, struct sync_collection *sc,
	uint64_t known_seq, bool replay, bool apply);
uint32_t sync_commands_hash(const struct sync_command *v, uint32_t n);

/* ---- sync_answer.c ----------------------------------------------------------------------- */

/* The document, from a snapshot at or after the one that was planned on. False: refused. */
bool sync_answer_put(struct eas_call *c, struct db_txn *txn, const struct sync_request *r);
void sync_answer_limit(struct eas_call *c, int status, uint32_t limit, const char *reason);

#endif
