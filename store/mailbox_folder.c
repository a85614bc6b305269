/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Folders and their hierarchy. */
#include "store/mailbox_priv.h"

enum item_class folder_class(enum folder_type type)
{
	switch (type) {
	case FOLDER_TASKS:
	case FOLDER_USER_TASKS:
		return ITEM_TASK;
	case FOLDER_CALENDAR:
	case FOLDER_USER_CALENDAR:
		return ITEM_CALENDAR;
	case FOLDER_CONTACTS:
	case FOLDER_USER_CONTACTS:
		return ITEM_CONTACT;
	case FOLDER_NOTES:
	case FOLDER_USER_NOTES:
		return ITEM_NOTE;
	default:
		return ITEM_EMAIL;
	}
}

/* ---- records ---- */

int folder_hot_get(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct record_folder_hot *out)
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_folder_hot(&key, mailbox, folder), &v);

	return err ? err : record_decode_folder_hot(v, out);
}

int folder_hot_put(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, const struct record_folder_hot *h)
{
	struct record_buf buf;
	struct bytes value = record_encode_folder_hot(&buf, h);
	struct key key;

	/* Counts below zero: the records disagree. */
	if (value.n == 0)
		return txn_fail(txn, DB_CORRUPT);
	return rows_put(txn, key_folder_hot(&key, mailbox, folder), value);
}

static int cold_get(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct folder *out)
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_folder(&key, mailbox, folder), &v);

	if (err == DB_OK)
		err = record_decode_folder(v, out);
	out->id = folder;
	return err;
}

static int cold_put(struct db_txn *txn, uint32_t mailbox, const struct folder *f)
{
	struct record_buf buf;
	struct key key;

	return rows_put(txn, key_folder(&key, mailbox, f->id), record_encode_folder(&buf, f));
}

/* ---- looking ---- */

int folder_get(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct folder *out)
{
	struct folder f;
	int err = cold_get(txn, mailbox, folder, &f);

	if (err)
		return err;
	if (!f.deleted) {
		struct record_folder_hot hot;
		err = folder_hot_get(txn, mailbox, folder, &hot);
		if (err)
			return err == DB_NOT_FOUND ? DB_CORRUPT : err;
		f.changed_seq = hot.changed_seq;
		f.touched_seq = hot.touched_seq;
		f.items = hot.items;
		f.unread = hot.unread;
	}
	*out = f;
	return DB_OK;
}

int folder_next(struct db_txn *txn, uint32_t mailbox, uint32_t *id, struct folder *out)
{
	struct key_parts parts;
	struct bytes k, v;
	struct key key;
	int err;

	if (*id == UINT32_MAX)
		return DB_NOT_FOUND;
	err = rows_seek(txn, key_folder(&key, mailbox, *id + 1),
		key_prefix(&(struct key){}, mailbox, KEY_FOLDER).n, &k, &v);
	if (err)
		return err;
	if (!key_parse(k, &parts))
		return DB_CORRUPT;
	err = folder_get(txn, mailbox, parts.folder, out);
	if (err == DB_OK)
		*id = parts.folder;
	return err;
}

int folder_by_name(struct db_txn *txn, uint32_t mailbox, uint32_t parent, struct bytes name,
	struct folder *out)
{
	struct record_ref ref;
	struct key key;
	struct bytes v;
	int err;

	if (name.n == 0 || name.n > FOLDER_NAME_MAX)
		return DB_NOT_FOUND;
	err = rows_get(txn, key_folder_name(&key, mailbox, parent, name), &v);
	if (err == DB_OK)
		err = record_decode_ref(v, &ref);
	return err ? err : folder_get(txn, mailbox, ref.id, out);
}

/* ---- changing the hierarchy ---- */

static bool folder_name_ok(struct bytes name)
{
	return name.n > 0 && name.n <= FOLDER_NAME_MAX && bytes_is_utf8(name) &&
	       !memchr(name.p, 0, name.n);
}

/* DB_OK when a folder may be made or moved below `parent` under this name; self: the folder that
 * has the name now, if it is this one. */
static int folder_place_ok(
	struct db_txn *txn, uint32_t mailbox, uint32_t parent, struct bytes name, uint32_t self)
{
	struct record_folder_hot hot;
	struct record_ref ref;
	struct key key;
	struct bytes v;
	int err;

	if (!folder_name_ok(name))
		return DB_INVALID;
	if (parent != 0 && (err = folder_hot_get(txn, mailbox, parent, &hot)) != DB_OK)
		return err;
	err = rows_get(txn, key_folder_name(&key, mailbox, parent, name), &v);
	if (err == DB_NOT_FOUND)
		return DB_OK;
	if (err == DB_OK)
		err = record_decode_ref(v, &ref);
	if (err)
		return err;
	return ref.id == self ? DB_OK : DB_EXISTS;
}

static int hierarchy_append(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t origin, uint64_t *seq_out)
{
	struct journal_row row = {
		.mailbox = mailbox, .folder = folder, .origin = origin, .kind = JOURNAL_HIERARCHY};
	int err = journal_append(txn, &row);

	if (err == DB_OK)
		*seq_out = row.seq;
	return err;
}

int folder_create(struct db_txn *txn, uint32_t mailbox, uint32_t parent, enum folder_type type,
	struct bytes name, uint32_t origin, uint32_t *id_out)
{
	struct record_counters counters;
	struct record_folder_hot hot = {};
	struct folder f = {.parent = parent, .type = (uint8_t)type, .hierarchy_origin = origin};
	struct record_buf buf;
	struct key key;
	int err;

	if (txn->err)
		return txn->err;
	err = counters_get(txn, mailbox, &counters);
	if (err == DB_OK)
		err = folder_place_ok(txn, mailbox, parent, name, 0);
	if (err == DB_OK && (counters.next_folder == UINT32_MAX || type < FOLDER_USER ||
				    type > FOLDER_USER_NOTES))
		err = DB_INVALID;
	if (err)
		return err;
	f.id = counters.next_folder;
	bytes_to_strz(name, f.name, sizeof(f.name));
	err = hierarchy_append(txn, mailbox, f.id, origin, &f.hierarchy_seq);
	if (err)
		return err;
	f.created_seq = f.hierarchy_seq;
	counters.next_folder++;
	counters.hierarchy_seq = f.hierarchy_seq;
	counters_put(txn, mailbox, &counters);
	cold_put(txn, mailbox, &f);
	folder_hot_put(txn, mailbox, f.id, &hot);
	err = rows_put(txn, key_folder_name(&key, mailbox, parent, name),
		record_encode_ref(&buf, &(struct record_ref){.id = f.id}));
	if (err == DB_OK)
		*id_out = f.id;
	return err;
}

/* True when `folder` is `below` or one of its parents: moving it there would tie a knot. */
static int folder_is_above(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t below, bool *out)
{
	struct folder f;

	*out = false;
	while (below != 0 && !*out) {
		int err = cold_get(txn, mailbox, below, &f);
		if (err)
			return err;
		*out = below == folder;
		below = f.parent;
	}
	return DB_OK;
}

int folder_update(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t parent,
	struct bytes name, uint32_t origin)
{
	struct record_counters counters;
	struct record_buf buf;
	struct folder f;
	struct key key;
	bool knot;
	int err;

	if (txn->err)
		return txn->err;
	err = counters_get(txn, mailbox, &counters);
	if (err == DB_OK)
		err = cold_get(txn, mailbox, folder, &f);
	if (err == DB_OK && f.deleted)
		err = DB_NOT_FOUND;
	if (err == DB_OK)
		err = folder_place_ok(txn, mailbox, parent, name, folder);
	if (err == DB_OK)
		err = folder_is_above(txn, mailbox, folder, parent, &knot);
	if (err)
		return err;
	if (knot)
		return DB_INVALID;
	if (parent == f.parent && bytes_eq_str(name, f.name))
		return DB_OK;
	rows_del_known(txn, key_folder_name(&key, mailbox, f.parent, bytes_str(f.name)));
	f.parent = parent;
	bytes_to_strz(name, f.name, sizeof(f.name));
	f.hierarchy_origin = origin;
	err = hierarchy_append(txn, mailbox, folder, origin, &f.hierarchy_seq);
	if (err)
		return err;
	counters.hierarchy_seq = f.hierarchy_seq;
	counters_put(txn, mailbox, &counters);
	cold_put(txn, mailbox, &f);
	return rows_put(txn, key_folder_name(&key, mailbox, parent, bytes_str(f.name)),
		record_encode_ref(&buf, &(struct record_ref){.id = folder}));
}

/* One folder without children: items, indexes, name. The record stays as a tombstone. Items
 * get no rows of their own in the journal: the hierarchy change tells everyone. */
static int folder_remove(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t origin)
{
	struct record_counters counters;
	struct key key, item_key;
	struct key_parts parts;
	struct folder f;
	struct bytes k, v;
	int err = counters_get(txn, mailbox, &counters);

	if (err == DB_OK)
		err = cold_get(txn, mailbox, folder, &f);
	if (err)
		return txn_fail(txn, err == DB_NOT_FOUND ? DB_CORRUPT : err);
	for (;;) {
		struct bytes prefix = key_prefix_id(&key, mailbox, KEY_DATE, folder);
		err = rows_seek(txn, prefix, prefix.n, &k, &v);
		if (err == DB_NOT_FOUND)
			break;
		if (err == DB_OK && !key_parse(k, &parts))
			err = DB_CORRUPT;
		if (err)
			return txn_fail(txn, err);
		err = rows_del_prefix(txn, key_prefix_item(&item_key, mailbox, parts.item), NULL);
		if (err == DB_OK)
			err = rows_del_known(
				txn, key_date(&key, mailbox, folder, parts.time_s, parts.item));
		if (err)
			return err;
	}
	rows_del_prefix(txn, key_prefix_id(&key, mailbox, KEY_CHANGE, folder), NULL);
	rows_del_prefix(txn, key_prefix_id(&key, mailbox, KEY_TOMBSTONE, folder), NULL);
	rows_del_known(txn, key_folder_hot(&key, mailbox, folder));
	rows_del_known(txn, key_folder_name(&key, mailbox, f.parent, bytes_str(f.name)));
	f.deleted = true;
	f.hierarchy_origin = origin;
	err = hierarchy_append(txn, mailbox, folder, origin, &f.hierarchy_seq);
	if (err)
		return err;
	counters.hierarchy_seq = f.hierarchy_seq;
	counters_put(txn, mailbox, &counters);
	return cold_put(txn, mailbox, &f);
}

static int folder_first_child(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t *child_out)
{
	struct record_ref ref;
	struct key key;
	struct bytes prefix = key_prefix_id(&key, mailbox, KEY_FOLDER_NAME, folder), k, v;
	int err = rows_seek(txn, prefix, prefix.n, &k, &v);

	if (err == DB_OK)
		err = record_decode_ref(v, &ref);
	if (err == DB_OK)
		*child_out = ref.id;
	return err;
}

int folder_delete(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t origin)
{
	struct record_folder_hot hot;
	uint32_t leaf;
	int err;

	if (txn->err)
		return txn->err;
	err = folder_hot_get(txn, mailbox, folder, &hot);
	if (err)
		return err;
	/* Leaf by leaf and not by recursion: a phone decides how deep the tree is. */
	do {
		leaf = folder;
		while ((err = folder_first_child(txn, mailbox, leaf, &leaf)) == DB_OK)
			;
		if (err != DB_NOT_FOUND)
			return txn_fail(txn, err);
		err = folder_remove(txn, mailbox, leaf, origin);
	} while (err == DB_OK && leaf != folder);
	return err;
}

int folder_touch(struct db_txn *txn, uint32_t mailbox, uint32_t folder)
{
	struct journal_row row = {.mailbox = mailbox, .folder = folder, .kind = JOURNAL_TOUCH};
	struct record_folder_hot hot;
	int err;

	if (txn->err)
		return txn->err;
	err = folder_hot_get(txn, mailbox, folder, &hot);
	if (err == DB_OK)
		err = journal_append(txn, &row);
	if (err)
		return err;
	hot.touched_seq = row.seq;
	return folder_hot_put(txn, mailbox, folder, &hot);
}
