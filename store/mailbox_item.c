/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Items, and what changed. */
#include "store/mailbox_priv.h"

/* ---- records ---- */

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

/* ---- coming, changing, leaving ---- */

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
	return folder_hot_put(txn, mailbox, it->folder, hot);
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
	return folder_hot_put(txn, mailbox, it->folder, hot);
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
		err = folder_hot_get(txn, mailbox, folder, &hot);
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
	return folder_hot_put(txn, mailbox, it->folder, hot);
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
		err = folder_hot_get(txn, mailbox, folder, &hot);
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
		err = folder_hot_get(txn, mailbox, folder, &hot);
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
		err = folder_hot_get(txn, mailbox, folder, &hot);
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
		err = folder_hot_get(txn, mailbox, from, &hot_from);
	if (err == DB_OK)
		err = folder_hot_get(txn, mailbox, to, &hot_to);
	if (err)
		return err;
	err = item_leave(txn, mailbox, &it, &hot_from, origin);
	if (err)
		return err;
	it.folder = to;
	return item_enter(txn, mailbox, &it, &hot_to, origin);
}

/* ---- looking ---- */

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
