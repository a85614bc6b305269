/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A mailbox as a whole; its folders and items are in mailbox_*.c (mailbox_priv.h). */
#include "store/mailbox_priv.h"

#include "core/base/check.h"

/* ---- the numbers it gives out ---- */

int counters_get(struct db_txn *txn, uint32_t mailbox, struct record_counters *out)
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_counters(&key, mailbox), &v);

	return err ? err : record_decode_counters(v, out);
}

int counters_put(struct db_txn *txn, uint32_t mailbox, const struct record_counters *c)
{
	struct record_buf buf;
	struct key key;

	return rows_put(txn, key_counters(&key, mailbox), record_encode_counters(&buf, c));
}

uint64_t mailbox_hierarchy_seq(struct db_txn *txn, uint32_t mailbox)
{
	struct record_counters counters;

	return counters_get(txn, mailbox, &counters) == DB_OK ? counters.hierarchy_seq : 0;
}

/* ---- beginning ---- */

int mailbox_create(struct db_txn *txn, uint32_t mailbox)
{
	static const struct {
		enum folder_id id;
		enum folder_type type;
		const char *name;
	} tree[] = {
		{FOLDER_ID_INBOX, FOLDER_INBOX, "Inbox"},
		{FOLDER_ID_DRAFTS, FOLDER_DRAFTS, "Drafts"},
		{FOLDER_ID_TRASH, FOLDER_TRASH, "Deleted Items"},
		{FOLDER_ID_SENT, FOLDER_SENT, "Sent Items"},
		{FOLDER_ID_OUTBOX, FOLDER_OUTBOX, "Outbox"},
		{FOLDER_ID_CONTACTS, FOLDER_CONTACTS, "Contacts"},
		{FOLDER_ID_CALENDAR, FOLDER_CALENDAR, "Calendar"},
		{FOLDER_ID_TASKS, FOLDER_TASKS, "Tasks"},
		{FOLDER_ID_NOTES, FOLDER_NOTES, "Notes"},
	};
	struct record_counters counters = {.next_folder = 1, .next_device = 1, .next_item = 1};
	int err = counters_put(txn, mailbox, &counters);

	for (size_t i = 0; err == DB_OK && i < ARRAY_LEN(tree); i++) {
		uint32_t id;
		err = folder_create(txn, mailbox, 0, tree[i].type, bytes_str(tree[i].name), 0, &id);
		CHECK(err || id == (uint32_t)tree[i].id);
	}
	return err;
}

/* ---- housekeeping ---- */

/* The least journal number that some device may still ask changes of this folder from. A
 * position of 0 knows no item, so no tombstone is news to it. */
static int folder_oldest_position(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t *oldest_out)
{
	uint64_t oldest = UINT64_MAX;
	uint32_t device = 0;
	int err;

	for (;;) {
		struct collection c;
		struct bytes k, v;
		struct key_parts parts;
		struct key key;

		if (device == UINT32_MAX)
			break;
		err = rows_seek(txn, key_device(&key, mailbox, device + 1),
			key_prefix(&(struct key){}, mailbox, KEY_DEVICE).n, &k, &v);
		if (err == DB_NOT_FOUND)
			break;
		if (err == DB_OK && !key_parse(k, &parts))
			err = DB_CORRUPT;
		if (err)
			return err;
		device = parts.device;
		err = collection_get(txn, mailbox, device, folder, &c);
		if (err == DB_NOT_FOUND)
			continue;
		if (err)
			return err;
		if (c.key && c.now.seq && c.now.seq < oldest)
			oldest = c.now.seq;
		if (c.key_previous && c.previous.seq && c.previous.seq < oldest)
			oldest = c.previous.seq;
	}
	*oldest_out = oldest;
	return DB_OK;
}

/* Tombstones of the mailbox, counted to a little above `enough`: all, or those that pruning would
 * drop. A lost phone holds back any number of the others, so of a folder only the first are looked
 * at, twice as many as are enough. */
static int tombstones_count(struct db_txn *txn, uint32_t mailbox, bool droppable, uint32_t enough)
{
	struct bytes prefix, from, k, v;
	uint32_t folder = 0, looks = 0;
	uint64_t oldest = UINT64_MAX;
	struct record_tombstone tomb;
	struct key_parts parts;
	struct key key;
	int n = 0, err;

	from = prefix = key_prefix(&key, mailbox, KEY_TOMBSTONE);
	while ((err = rows_seek(txn, from, prefix.n, &k, &v)) == DB_OK) {
		if (!key_parse(k, &parts) || record_decode_tombstone(v, &tomb))
			return DB_CORRUPT;
		if (parts.folder != folder) {
			folder = parts.folder;
			looks = 0;
			if (droppable)
				err = folder_oldest_position(txn, mailbox, folder, &oldest);
			if (err)
				return err;
		}
		if (tomb.seq <= oldest && (uint32_t)++n > enough)
			return n;
		from = !droppable || ++looks < 2 * enough
			       ? key_tombstone(&key, mailbox, folder, parts.item + 1)
			       : key_tombstone(&key, mailbox, folder + 1, 0);
	}
	return err == DB_NOT_FOUND ? n : err;
}

int mailbox_wants_pruning(struct db_txn *txn, uint32_t mailbox)
{
	int n = tombstones_count(txn, mailbox, false, MAILBOX_TOMBSTONES_FEW);

	/* (most mailboxes are done with here) */
	if (n > MAILBOX_TOMBSTONES_FEW)
		n = tombstones_count(txn, mailbox, true, MAILBOX_TOMBSTONES_FEW);
	return n < 0 ? n : n > MAILBOX_TOMBSTONES_FEW;
}

int mailbox_prune(struct db_txn *txn, uint32_t mailbox, size_t max)
{
	struct bytes prefix, k, v;
	uint32_t folder = 0; /* whose oldest position we have */
	uint64_t oldest = 0, item = 0;
	struct key_parts parts;
	struct key key;
	size_t n = 0;
	int err;

	if (txn->err)
		return txn->err;
	if (max > INT32_MAX)
		max = INT32_MAX;
	prefix = key_prefix(&key, mailbox, KEY_TOMBSTONE);
	for (struct bytes from = prefix; n < max;
		from = key_tombstone(&key, mailbox, folder, item)) {
		struct record_tombstone tomb;

		err = rows_seek(txn, from, prefix.n, &k, &v);
		if (err == DB_NOT_FOUND)
			break;
		if (err == DB_OK && (!key_parse(k, &parts) || record_decode_tombstone(v, &tomb)))
			err = DB_CORRUPT;
		if (err == DB_OK && parts.folder != folder) {
			folder = parts.folder;
			err = folder_oldest_position(txn, mailbox, folder, &oldest);
		}
		if (err)
			return txn_fail(txn, err);
		item = parts.item + 1; /* item numbers stay far below the end */
		if (tomb.seq > oldest)
			continue;
		rows_del_known(txn, key_change(&key, mailbox, folder, tomb.seq));
		rows_del_known(txn, key_tombstone(&key, mailbox, folder, parts.item));
		n++;
	}
	/* What devices knew of folders that are gone. */
	prefix = key_prefix(&key, mailbox, KEY_COLLECTION);
	for (struct bytes from = prefix; n < max;) {
		struct record_folder_hot hot;

		err = rows_seek(txn, from, prefix.n, &k, &v);
		if (err == DB_NOT_FOUND)
			break;
		if (err == DB_OK && !key_parse(k, &parts))
			err = DB_CORRUPT;
		if (err == DB_OK) {
			from = key_after(&key, k);
			err = folder_hot_get(txn, mailbox, parts.folder, &hot);
		}
		if (err == DB_NOT_FOUND) {
			struct key gone;
			err = rows_del_known(
				txn, key_collection(&gone, mailbox, parts.device, parts.folder));
			n++;
		}
		if (err)
			return txn_fail(txn, err);
	}
	return txn->err ? txn->err : (int)n;
}
