/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/mailbox.h"
#include "core/base/check.h"
#include "store/journal.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"
#include "store/store_priv.h"

/* Every function that writes first looks at all it needs and refuses before its first put: a
 * refusal (DB_NOT_FOUND, DB_EXISTS, DB_INVALID) leaves no trace, and the caller may go on. */

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

/* ---- small records ---- */

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

static int hot_get(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct record_folder_hot *out)
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_folder_hot(&key, mailbox, folder), &v);

	return err ? err : record_decode_folder_hot(v, out);
}

static int hot_put(
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

/* ---- folders ---- */

int folder_get(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct folder *out)
{
	struct folder f;
	int err = cold_get(txn, mailbox, folder, &f);

	if (err)
		return err;
	if (!f.deleted) {
		struct record_folder_hot hot;
		err = hot_get(txn, mailbox, folder, &hot);
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
	if (parent != 0 && (err = hot_get(txn, mailbox, parent, &hot)) != DB_OK)
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
	hot_put(txn, mailbox, f.id, &hot);
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
	err = hot_get(txn, mailbox, folder, &hot);
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

uint64_t mailbox_hierarchy_seq(struct db_txn *txn, uint32_t mailbox)
{
	struct record_counters counters;

	return counters_get(txn, mailbox, &counters) == DB_OK ? counters.hierarchy_seq : 0;
}

int folder_touch(struct db_txn *txn, uint32_t mailbox, uint32_t folder)
{
	struct journal_row row = {.mailbox = mailbox, .folder = folder, .kind = JOURNAL_TOUCH};
	struct record_folder_hot hot;
	int err;

	if (txn->err)
		return txn->err;
	err = hot_get(txn, mailbox, folder, &hot);
	if (err == DB_OK)
		err = journal_append(txn, &row);
	if (err)
		return err;
	hot.touched_seq = row.seq;
	return hot_put(txn, mailbox, folder, &hot);
}

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

/* ---- items ---- */

static int state_get(struct db_txn *txn, uint32_t mailbox, uint64_t id, struct item *out)
{
	struct key key;
	struct bytes v;
	int err = rows_get(txn, key_item(&key, mailbox, id, KEY_PART_STATE), &v);

	if (err == DB_OK)
		err = record_decode_item(v, out);
	out->id = id;
	return err;
}

static int state_in_folder(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id, struct item *out)
{
	int err = state_get(txn, mailbox, id, out);

	return err == DB_OK && out->folder != folder ? DB_NOT_FOUND : err;
}

static int state_put(struct db_txn *txn, uint32_t mailbox, const struct item *it)
{
	struct record_buf buf;
	struct key key;

	return rows_put(
		txn, key_item(&key, mailbox, it->id, KEY_PART_STATE), record_encode_item(&buf, it));
}

/* An absent part is an empty one. */
static int part_get(
	struct db_txn *txn, uint32_t mailbox, uint64_t id, enum key_part part, struct bytes *out)
{
	struct key key;
	int err = rows_get(txn, key_item(&key, mailbox, id, part), out);

	if (err == DB_NOT_FOUND) {
		*out = bytes_of(NULL, 0);
		err = DB_OK;
	}
	return err;
}

static int part_put(
	struct db_txn *txn, uint32_t mailbox, uint64_t id, enum key_part part, struct bytes value)
{
	struct key key;
	struct bytes k = key_item(&key, mailbox, id, part);
	int err;

	if (value.n)
		return rows_put(txn, k, value);
	err = rows_del(txn, k);
	return err == DB_NOT_FOUND ? DB_OK : err;
}

static int change_put(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t seq, const struct change *c)
{
	struct record_buf buf;
	struct key key;

	return rows_put(txn, key_change(&key, mailbox, folder, seq), record_encode_change(&buf, c));
}

static int item_journal(struct db_txn *txn, uint32_t mailbox, const struct item *it,
	enum journal_kind kind, uint32_t origin, uint64_t *seq_out)
{
	struct journal_row row = {.mailbox = mailbox,
		.folder = it->folder,
		.item = it->id,
		.item_time_s = it->time_s,
		.origin = origin,
		.kind = (uint8_t)kind};
	int err = journal_append(txn, &row);

	if (err == DB_OK)
		*seq_out = row.seq;
	return err;
}

static struct change live_row(const struct item *it)
{
	return (struct change){.item = it->id,
		.created_seq = it->created_seq,
		.time_s = it->time_s,
		.origin = it->origin,
		.kind = JOURNAL_CHANGE};
}

/* The item comes into it->folder, new or by a move: index rows, state and the folder's numbers. */
static int item_enter(struct db_txn *txn, uint32_t mailbox, struct item *it,
	struct record_folder_hot *hot, uint32_t origin)
{
	struct change row;
	struct key key;
	uint64_t seq;
	int err = item_journal(txn, mailbox, it, JOURNAL_ADD, origin, &seq);

	if (err)
		return err;
	it->origin = origin;
	it->created_seq = it->changed_seq = it->content_seq = seq;
	hot->changed_seq = seq;
	hot->items++;
	hot->unread += !it->read;
	row = live_row(it);
	state_put(txn, mailbox, it);
	change_put(txn, mailbox, it->folder, seq, &row);
	rows_put(txn, key_date(&key, mailbox, it->folder, it->time_s, it->id), bytes_of("", 0));
	return hot_put(txn, mailbox, it->folder, hot);
}

/* The item leaves its folder: its row in the index of changes becomes a tombstone.
 *
 * An item can come back and leave again. While it is back both its tombstone and its live row
 * stand in the index: a device that has it from before is told to delete it and then to
 * add it, and one that had deleted it already only the latter. When it leaves again the
 * older tombstone goes, and the new one takes its created_seq, the earliest: whoever asks "did I
 * ever know this item?" by comparing created_seq must not hear no. */
static int item_leave(struct db_txn *txn, uint32_t mailbox, const struct item *it,
	struct record_folder_hot *hot, uint32_t origin)
{
	struct record_tombstone tomb;
	struct change row = live_row(it);
	struct record_buf buf;
	struct key key;
	struct bytes v;
	uint64_t seq;
	int err;

	row.kind = JOURNAL_DELETE;
	row.origin = origin;
	err = rows_get(txn, key_tombstone(&key, mailbox, it->folder, it->id), &v);
	if (err == DB_OK) {
		struct change older;
		err = record_decode_tombstone(v, &tomb);
		if (err == DB_OK)
			err = rows_get(txn, key_change(&key, mailbox, it->folder, tomb.seq), &v);
		if (err == DB_OK)
			err = record_decode_change(v, &older);
		if (err)
			return txn_fail(txn, DB_CORRUPT);
		row.created_seq = older.created_seq;
		rows_del_known(txn, key_change(&key, mailbox, it->folder, tomb.seq));
	} else if (err != DB_NOT_FOUND) {
		return txn_fail(txn, err);
	}
	err = item_journal(txn, mailbox, it, JOURNAL_DELETE, origin, &seq);
	if (err)
		return err;
	rows_del_known(txn, key_change(&key, mailbox, it->folder, it->changed_seq));
	rows_del_known(txn, key_date(&key, mailbox, it->folder, it->time_s, it->id));
	change_put(txn, mailbox, it->folder, seq, &row);
	tomb.seq = seq;
	rows_put(txn, key_tombstone(&key, mailbox, it->folder, it->id),
		record_encode_tombstone(&buf, &tomb));
	hot->changed_seq = seq;
	hot->items--;
	hot->unread -= !it->read;
	return hot_put(txn, mailbox, it->folder, hot);
}

int item_add(struct db_txn *txn, uint32_t mailbox, uint32_t folder, const struct item_new *n,
	uint32_t origin, uint64_t *id_out)
{
	struct record_counters counters;
	struct record_folder_hot hot;
	struct item it = {.folder = folder,
		.item_class = (uint8_t)n->item_class,
		.read = n->read,
		.time_s = n->time_s,
		.body_bytes = n->body.n};
	int err;

	if (txn->err)
		return txn->err;
	if (n->item_class < ITEM_EMAIL || n->item_class > ITEM_NOTE || n->body.n > UINT32_MAX)
		return DB_INVALID;
	err = counters_get(txn, mailbox, &counters);
	if (err == DB_OK)
		err = hot_get(txn, mailbox, folder, &hot);
	if (err)
		return err;
	it.id = counters.next_item++;
	counters_put(txn, mailbox, &counters);
	err = item_enter(txn, mailbox, &it, &hot, origin);
	if (err == DB_OK && n->summary.n)
		err = part_put(txn, mailbox, it.id, KEY_PART_SUMMARY, n->summary);
	if (err == DB_OK && n->props.n)
		err = part_put(txn, mailbox, it.id, KEY_PART_PROPS, n->props);
	if (err == DB_OK && n->body.n)
		err = part_put(txn, mailbox, it.id, KEY_PART_BODY, n->body);
	if (err == DB_OK)
		*id_out = it.id;
	return err;
}

int item_get(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id, struct item *out)
{
	struct item it;
	int err = state_in_folder(txn, mailbox, folder, id, &it);

	if (err == DB_OK)
		err = part_get(txn, mailbox, id, KEY_PART_SUMMARY, &it.summary);
	if (err == DB_OK)
		err = part_get(txn, mailbox, id, KEY_PART_PROPS, &it.props);
	if (err == DB_OK)
		*out = it;
	return err;
}

int item_folder(struct db_txn *txn, uint32_t mailbox, uint64_t id, uint32_t *folder_out)
{
	struct item it;
	int err = state_get(txn, mailbox, id, &it);

	if (err == DB_OK)
		*folder_out = it.folder;
	return err;
}

int item_body(struct db_txn *txn, uint32_t mailbox, uint64_t id, struct bytes *body_out)
{
	struct item it;
	struct bytes body;
	int err = state_get(txn, mailbox, id, &it);

	if (err == DB_OK)
		err = part_get(txn, mailbox, id, KEY_PART_BODY, &body);
	if (err == DB_OK && body.n != it.body_bytes)
		err = DB_CORRUPT;
	if (err == DB_OK)
		*body_out = body;
	return err;
}

/* A change of an item that stays: `was` is its stored state, `it` the new one. */
static int item_change(struct db_txn *txn, uint32_t mailbox, const struct item *was,
	struct item *it, struct record_folder_hot *hot, uint32_t origin, bool content)
{
	struct change row;
	struct key key;
	uint64_t seq;
	int err = item_journal(txn, mailbox, it, JOURNAL_CHANGE, origin, &seq);

	if (err)
		return err;
	it->changed_seq = seq;
	it->origin = origin;
	if (content)
		it->content_seq = seq;
	row = live_row(it);
	rows_del_known(txn, key_change(&key, mailbox, it->folder, was->changed_seq));
	change_put(txn, mailbox, it->folder, seq, &row);
	if (it->time_s != was->time_s) {
		rows_del_known(txn, key_date(&key, mailbox, it->folder, was->time_s, it->id));
		rows_put(txn, key_date(&key, mailbox, it->folder, it->time_s, it->id),
			bytes_of("", 0));
	}
	state_put(txn, mailbox, it);
	hot->changed_seq = seq;
	hot->unread += (uint64_t)was->read - (uint64_t)it->read;
	return hot_put(txn, mailbox, it->folder, hot);
}

int item_set_state(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id, bool read,
	struct bytes props, uint32_t origin)
{
	struct record_folder_hot hot;
	struct item was, it;
	struct bytes old;
	bool same_props;
	int err;

	if (txn->err)
		return txn->err;
	err = state_in_folder(txn, mailbox, folder, id, &was);
	if (err == DB_OK)
		err = hot_get(txn, mailbox, folder, &hot);
	if (err == DB_OK)
		err = part_get(txn, mailbox, id, KEY_PART_PROPS, &old);
	if (err)
		return err;
	same_props = !props.p || bytes_eq(props, old);
	if (read == was.read && same_props)
		return DB_OK;
	it = was;
	it.read = read;
	err = item_change(txn, mailbox, &was, &it, &hot, origin, false);
	if (err == DB_OK && !same_props)
		err = part_put(txn, mailbox, id, KEY_PART_PROPS, props);
	return err;
}

int item_set_content(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id,
	const struct item_new *n, uint32_t origin)
{
	struct record_folder_hot hot;
	struct item was, it;
	int err;

	if (txn->err)
		return txn->err;
	err = state_in_folder(txn, mailbox, folder, id, &was);
	if (err == DB_OK)
		err = hot_get(txn, mailbox, folder, &hot);
	if (err == DB_OK && (n->item_class != was.item_class || n->body.n > UINT32_MAX))
		err = DB_INVALID;
	if (err)
		return err;
	it = was;
	it.read = n->read;
	it.time_s = n->time_s;
	if (n->body.p)
		it.body_bytes = n->body.n;
	err = item_change(txn, mailbox, &was, &it, &hot, origin, true);
	if (err == DB_OK && n->summary.p)
		err = part_put(txn, mailbox, id, KEY_PART_SUMMARY, n->summary);
	if (err == DB_OK && n->props.p)
		err = part_put(txn, mailbox, id, KEY_PART_PROPS, n->props);
	if (err == DB_OK && n->body.p)
		err = part_put(txn, mailbox, id, KEY_PART_BODY, n->body);
	return err;
}

int item_delete(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id, uint32_t origin)
{
	struct record_folder_hot hot;
	struct item it;
	struct key key;
	int err;

	if (txn->err)
		return txn->err;
	err = state_in_folder(txn, mailbox, folder, id, &it);
	if (err == DB_OK)
		err = hot_get(txn, mailbox, folder, &hot);
	if (err)
		return err;
	err = item_leave(txn, mailbox, &it, &hot, origin);
	if (err == DB_OK)
		err = rows_del_prefix(txn, key_prefix_item(&key, mailbox, id), NULL);
	return err;
}

int item_move(struct db_txn *txn, uint32_t mailbox, uint32_t from, uint32_t to, uint64_t id,
	uint32_t origin)
{
	struct record_folder_hot hot_from, hot_to;
	struct item it;
	int err;

	if (txn->err)
		return txn->err;
	if (from == to)
		return DB_INVALID;
	err = state_in_folder(txn, mailbox, from, id, &it);
	if (err == DB_OK)
		err = hot_get(txn, mailbox, from, &hot_from);
	if (err == DB_OK)
		err = hot_get(txn, mailbox, to, &hot_to);
	if (err)
		return err;
	err = item_leave(txn, mailbox, &it, &hot_from, origin);
	if (err)
		return err;
	it.folder = to;
	return item_enter(txn, mailbox, &it, &hot_to, origin);
}

/* ---- what changed, what is there ---- */

int change_next(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t after, struct change *out)
{
	struct key_parts parts;
	struct bytes k, v;
	struct change c;
	struct key key;
	int err;

	if (after == UINT64_MAX)
		return DB_NOT_FOUND;
	err = rows_seek(txn, key_change(&key, mailbox, folder, after + 1),
		key_prefix_id(&(struct key){}, mailbox, KEY_CHANGE, folder).n, &k, &v);
	if (err)
		return err;
	if (!key_parse(k, &parts) || record_decode_change(v, &c))
		return DB_CORRUPT;
	c.seq = parts.seq;
	if (c.kind == JOURNAL_CHANGE && c.created_seq == c.seq)
		c.kind = JOURNAL_ADD;
	*out = c;
	return DB_OK;
}

static int pos_found(int err, struct bytes k, struct item_pos *pos)
{
	struct key_parts parts;

	if (err)
		return err;
	if (!key_parse(k, &parts))
		return DB_CORRUPT;
	pos->time_s = parts.time_s;
	pos->id = parts.item;
	return DB_OK;
}

int item_before(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct item_pos *pos)
{
	struct bytes k, v;
	struct key key;
	int err = rows_seek_before(txn, key_date(&key, mailbox, folder, pos->time_s, pos->id),
		key_prefix_id(&(struct key){}, mailbox, KEY_DATE, folder).n, &k, &v);

	return pos_found(err, k, pos);
}

int item_at_or_after(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct item_pos *pos)
{
	struct bytes k, v;
	struct key key;
	int err = rows_seek(txn, key_date(&key, mailbox, folder, pos->time_s, pos->id),
		key_prefix_id(&(struct key){}, mailbox, KEY_DATE, folder).n, &k, &v);

	return pos_found(err, k, pos);
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

int mailbox_wants_pruning(struct db_txn *txn, uint32_t mailbox)
{
	struct bytes prefix, from, k, v;
	struct key_parts parts;
	struct key key;
	int n = 0, err;

	from = prefix = key_prefix(&key, mailbox, KEY_TOMBSTONE);
	while ((err = rows_seek(txn, from, prefix.n, &k, &v)) == DB_OK) {
		if (!key_parse(k, &parts))
			return DB_CORRUPT;
		if (++n > MAILBOX_TOMBSTONES_FEW)
			return 1;
		from = key_tombstone(&key, mailbox, parts.folder, parts.item + 1);
	}
	return err == DB_NOT_FOUND ? 0 : err;
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
			err = hot_get(txn, mailbox, parts.folder, &hot);
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
