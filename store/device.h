/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/device.h - partnerships: one phone of one account, and what it has been told.
 * Thread, memory, errors: see db.h. */
#ifndef ROOST_STORE_DEVICE_H
#define ROOST_STORE_DEVICE_H

#include "store/db.h"

enum { DEVICE_ID_MAX = 64, DEVICE_TEXT_MAX = 128, PING_FOLDERS_MAX = 256 };

struct device {
	uint32_t id; /* 1.. per mailbox, never used again */
	char device_id[DEVICE_ID_MAX + 1], device_type[65];
	char user_agent[DEVICE_TEXT_MAX], model[DEVICE_TEXT_MAX], os[DEVICE_TEXT_MAX],
		friendly_name[DEVICE_TEXT_MAX], phone_number[DEVICE_TEXT_MAX],
		imei[DEVICE_TEXT_MAX], os_language[DEVICE_TEXT_MAX],
		mobile_operator[DEVICE_TEXT_MAX];
	uint16_t version; /* 121, 140, 141, 160, 161: last one used */
	uint64_t first_seen_ms, last_seen_ms;
	char last_address[48];
	/* Provision (MS-ASPROV 3.1.5.1): temporary key of phase one, final key of phase two. */
	uint32_t policy_key_temporary, policy_key;
	uint32_t policy_generation; /* of the policy that the final key stands for */
	bool blocked;
	/* FolderSync: key n stands for hierarchy_seq; the previous pair is kept for a lost answer. */
	uint32_t hierarchy_key, hierarchy_key_previous; /* 0: never */
	uint64_t hierarchy_seq, hierarchy_seq_previous;
	/* Cached Ping; 0 folders: nothing cached. */
	uint16_t ping_heartbeat_s;
	uint16_t ping_folder_count;
	uint32_t ping_folders[PING_FOLDERS_MAX];
};

/* Small and separate because every request needs it: who a device is, nothing more. */
struct device_gate {
	uint32_t id;
	bool blocked;
	uint32_t policy_key, policy_generation;
	uint64_t hierarchy_seq; /* 0: never did a FolderSync */
	uint64_t last_seen_ms;
};
int device_gate(
	struct db_txn *txn, uint32_t mailbox, struct bytes device_id, struct device_gate *out);

int device_find(struct db_txn *txn, uint32_t mailbox, struct bytes device_id, struct device *out);
int device_get(struct db_txn *txn, uint32_t mailbox, uint32_t device, struct device *out);
/* Its DeviceId only, for a log line. */
int device_name(
	struct db_txn *txn, uint32_t mailbox, uint32_t device, char out[DEVICE_ID_MAX + 1]);
/* d->id 0: a new one, id is set. */
int device_put(struct db_txn *txn, uint32_t mailbox, struct device *d);
/* With all its collections and blobs; appends JOURNAL_DEVICE. */
int device_delete(struct db_txn *txn, uint32_t mailbox, uint32_t device);
/* A device's policy or access changed: appends JOURNAL_DEVICE so that a parked Ping ends. */
int device_touch(struct db_txn *txn, uint32_t mailbox, uint32_t device);
int device_next(struct db_txn *txn, uint32_t mailbox, uint32_t *id, struct device *out);

/* Position of a device in a folder: it knows every change up to seq, of items whose (time, id) is
 * at or above floor; older items are still to be told (filled from new to old). */
struct sync_position {
	uint64_t seq;
	int64_t floor_time_s;
	uint64_t floor_id;
};

/* One folder as one device syncs it. Two generations: `key` was issued last; the client may
 * still come with key_previous when the answer was lost. */
struct collection {
	uint32_t key, key_previous; /* 0: not primed */
	struct sync_position now, previous;
	uint8_t filter_type; /* 0..5 */
	uint8_t conflict, mime_support, mime_truncation;
	bool deletes_as_moves;
	uint8_t preference_count;
	struct {
		uint8_t type;
		bool all_or_none, has_truncation;
		uint8_t preview;
		uint32_t truncation_bytes;
	} preferences[4];
	uint32_t pending_ops_hash; /* of the client commands behind `key`, to know a replay */
};
int collection_get(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder,
	struct collection *out);
int collection_put(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder,
	const struct collection *c);
int collection_delete(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder);
/* folder 0: the first. */
int collection_next(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t *folder,
	struct collection *out);

/* Opaque per-device records (the cached Sync request, ...). */
enum device_blob { DEVICE_BLOB_SYNC_REQUEST = 1, DEVICE_BLOB_SYNC_REPLAY = 2 };
int device_blob_get(struct db_txn *txn, uint32_t mailbox, uint32_t device, enum device_blob kind,
	struct bytes *out);
int device_blob_put(struct db_txn *txn, uint32_t mailbox, uint32_t device, enum device_blob kind,
	struct bytes value); /* empty: removed */

#endif
