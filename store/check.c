/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/check.h"
#include "core/base/check.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"

struct checker {
	struct db_txn *txn;
	FILE *out;
	int found;
	uint64_t head;
	uint64_t journal_last, journal_rows;
	/* The largest hierarchy number of the mailbox at hand, and the mailbox. */
	uint32_t mailbox;
	uint64_t hierarchy_seq, hierarchy_seq_want;
};

static void wrong(struct checker *c, const struct key_parts *at, const char *what)
{
	static const char *const kinds[KEY_KINDS] = {[KEY_META] = "meta",
		[KEY_ADDRESS] = "address",
		[KEY_ACCOUNT] = "account",
		[KEY_ACCOUNT_GATE] = "account gate",
		[KEY_COUNTERS] = "counters",
		[KEY_FOLDER] = "folder",
		[KEY_FOLDER_HOT] = "folder numbers",
		[KEY_FOLDER_NAME] = "folder name",
		[KEY_ITEM] = "item",
		[KEY_CHANGE] = "change",
		[KEY_DATE] = "date",
		[KEY_TOMBSTONE] = "tombstone",
		[KEY_DEVICE] = "device",
		[KEY_DEVICE_GATE] = "device gate",
		[KEY_COLLECTION] = "collection",
		[KEY_BLOB] = "blob",
		[KEY_JOURNAL] = "journal"};

	c->found++;
	if (c->out)
		fprintf(c->out,
			"%s: mailbox %u folder %u device %u item %llu seq %llu part %u: %s\n",
			kinds[at->kind], at->mailbox, at->folder, at->device,
			(unsigned long long)at->item, (unsigned long long)at->seq, at->part, what);
}

/* ---- fetching what another row refers to ---- */

#define GETTER(name, type)                                                                         \
	static bool get_##name(struct checker *c, struct bytes key, type *out)                     \
	{                                                                                          \
		struct bytes v;                                                                    \
                                                                                                   \
		return rows_get(c->txn, key, &v) == DB_OK &&                                       \
		       record_decode_##name(v, out) == DB_OK;                                      \
	}
GETTER(ref, struct record_ref)
GETTER(account, struct account)
GETTER(account_gate, struct account_gate)
GETTER(counters, struct record_counters)
GETTER(folder, struct folder)
GETTER(folder_hot, struct record_folder_hot)
GETTER(item, struct item)
GETTER(change, struct change)
GETTER(tombstone, struct record_tombstone)
GETTER(device, struct device)
GETTER(device_gate, struct device_gate)

static bool exists(struct checker *c, struct bytes key)
{
	struct bytes v;

	return rows_get(c->txn, key, &v) == DB_OK;
}

/* ---- one function per kind of row ---- */

static void check_meta(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_meta meta;
	struct record_ids ids;

	if (at->part == KEY_META_FORMAT    ? record_decode_meta(v, &meta)
		: at->part == KEY_META_IDS ? record_decode_ids(v, &ids)
					   : DB_CORRUPT)
		wrong(c, at, "does not decode");
}

static void check_address(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_ref ref;
	struct account a;
	struct key key;

	if (record_decode_ref(v, &ref))
		wrong(c, at, "does not decode");
	else if (!get_account(c, key_account(&key, ref.id), &a) ||
		 !bytes_eq_str(at->text, a.address))
		wrong(c, at, "no account has this address");
}

static void check_account(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct account_gate gate;
	struct record_ref ref;
	struct account a;
	struct key key;

	if (record_decode_account(v, &a)) {
		wrong(c, at, "does not decode");
		return;
	}
	if (!get_ref(c, key_address(&key, bytes_str(a.address)), &ref) || ref.id != at->mailbox)
		wrong(c, at, "its address leads elsewhere");
	if (!get_account_gate(c, key_account_gate(&key, at->mailbox), &gate))
		wrong(c, at, "no gate");
	if (!exists(c, key_counters(&key, at->mailbox)))
		wrong(c, at, "no counters");
}

static void check_account_gate(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct account_gate gate;
	struct key key;

	if (record_decode_account_gate(v, &gate))
		wrong(c, at, "does not decode");
	else if (!exists(c, key_account(&key, at->mailbox)))
		wrong(c, at, "no account");
}

static void mailbox_end(struct checker *c)
{
	if (c->mailbox && c->hierarchy_seq != c->hierarchy_seq_want)
		wrong(c, &(struct key_parts){.kind = KEY_COUNTERS, .mailbox = c->mailbox},
			"hierarchy number is not that of its newest folder change");
	c->mailbox = 0;
}

static void check_counters(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_counters counters;
	struct key key;

	if (record_decode_counters(v, &counters)) {
		wrong(c, at, "does not decode");
		return;
	}
	if (!exists(c, key_account(&key, at->mailbox)))
		wrong(c, at, "no account");
	if (counters.hierarchy_seq > c->head)
		wrong(c, at, "hierarchy number from the future");
	c->mailbox = at->mailbox;
	c->hierarchy_seq = 0;
	c->hierarchy_seq_want = counters.hierarchy_seq;
}

static void check_folder(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_counters counters;
	struct record_folder_hot hot;
	struct record_ref ref;
	struct folder f;
	struct key key;
	bool has_hot, has_name;

	if (record_decode_folder(v, &f)) {
		wrong(c, at, "does not decode");
		return;
	}
	if (f.hierarchy_seq > c->hierarchy_seq)
		c->hierarchy_seq = f.hierarchy_seq;
	if (!get_counters(c, key_counters(&key, at->mailbox), &counters) ||
		at->folder >= counters.next_folder || at->folder == 0)
		wrong(c, at, "number was never given out");
	if (f.created_seq > f.hierarchy_seq || f.created_seq == 0)
		wrong(c, at, "changed before it was created");
	has_hot = get_folder_hot(c, key_folder_hot(&key, at->mailbox, at->folder), &hot);
	has_name =
		get_ref(c, key_folder_name(&key, at->mailbox, f.parent, bytes_str(f.name)), &ref) &&
		ref.id == at->folder;
	if (has_hot == f.deleted)
		wrong(c, at, f.deleted ? "deleted, but has numbers" : "has no numbers");
	if (has_name == f.deleted)
		wrong(c, at, f.deleted ? "deleted, but has its name" : "not found by its name");
	if (!f.deleted && f.parent && !exists(c, key_folder_hot(&key, at->mailbox, f.parent)))
		wrong(c, at, "its parent is gone");
}

/* Counts its items anew. */
static void check_folder_hot(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_folder_hot hot;
	uint64_t items = 0, unread = 0;
	struct bytes k, dv, prefix;
	struct key_parts date;
	struct item it;
	struct key key, item_key;

	if (record_decode_folder_hot(v, &hot)) {
		wrong(c, at, "does not decode");
		return;
	}
	if (!exists(c, key_folder(&key, at->mailbox, at->folder)))
		wrong(c, at, "no folder");
	if (hot.changed_seq > c->head || hot.touched_seq > c->head)
		wrong(c, at, "numbers from the future");
	prefix = key_prefix_id(&key, at->mailbox, KEY_DATE, at->folder);
	for (struct bytes from = prefix;
		rows_seek(c->txn, from, prefix.n, &k, &dv) == DB_OK && key_parse(k, &date);
		from = key_after(&key, k)) {
		items++;
		unread += get_item(c, key_item(&item_key, at->mailbox, date.item, KEY_PART_STATE),
				  &it) &&
			  !it.read;
	}
	if (items != hot.items)
		wrong(c, at, "count of items is wrong");
	if (unread != hot.unread)
		wrong(c, at, "count of unread is wrong");
	/* Tombstones may be pruned, so the newest row can only be older. */
	if (rows_seek_before(c->txn, key_change(&key, at->mailbox, at->folder, UINT64_MAX),
		    prefix.n, &k, &dv) == DB_OK &&
		key_parse(k, &date) && date.seq > hot.changed_seq)
		wrong(c, at, "there are newer changes");
}

static void check_folder_name(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_ref ref;
	struct folder f;
	struct key key;

	if (record_decode_ref(v, &ref))
		wrong(c, at, "does not decode");
	else if (!get_folder(c, key_folder(&key, at->mailbox, ref.id), &f) || f.deleted ||
		 f.parent != at->folder || !bytes_eq_str(at->text, f.name))
		wrong(c, at, "leads to no such folder");
}

static void check_item(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_counters counters;
	struct change ch;
	struct bytes body;
	struct item it;
	struct key key;

	if (at->part != KEY_PART_STATE) {
		if (at->part < KEY_PART_STATE || at->part > KEY_PART_BODY || v.n == 0)
			wrong(c, at, "no part that we write");
		if (!exists(c, key_item(&key, at->mailbox, at->item, KEY_PART_STATE)))
			wrong(c, at, "part of no item");
		return;
	}
	if (record_decode_item(v, &it)) {
		wrong(c, at, "does not decode");
		return;
	}
	if (!get_counters(c, key_counters(&key, at->mailbox), &counters) ||
		at->item >= counters.next_item || at->item == 0)
		wrong(c, at, "number was never given out");
	if (it.created_seq > it.content_seq || it.content_seq > it.changed_seq ||
		it.changed_seq > c->head || it.created_seq == 0)
		wrong(c, at, "created, content and changed are out of order");
	if (!exists(c, key_folder_hot(&key, at->mailbox, it.folder)))
		wrong(c, at, "in no folder");
	if (!get_change(c, key_change(&key, at->mailbox, it.folder, it.changed_seq), &ch) ||
		ch.item != at->item || ch.kind == JOURNAL_DELETE ||
		ch.created_seq != it.created_seq || ch.time_s != it.time_s ||
		ch.origin != it.origin)
		wrong(c, at, "the index of changes says otherwise");
	if (!exists(c, key_date(&key, at->mailbox, it.folder, it.time_s, at->item)))
		wrong(c, at, "not in the index of dates");
	if (rows_get(c->txn, key_item(&key, at->mailbox, at->item, KEY_PART_BODY), &body))
		body.n = 0;
	if (body.n != it.body_bytes)
		wrong(c, at, "body has another length");
}

static void check_change(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_tombstone tomb;
	struct change ch;
	struct item it;
	struct key key;

	if (record_decode_change(v, &ch)) {
		wrong(c, at, "does not decode");
		return;
	}
	if (at->seq > c->head || ch.created_seq > at->seq)
		wrong(c, at, "numbers out of order");
	if (ch.kind == JOURNAL_DELETE) {
		if (!get_tombstone(
			    c, key_tombstone(&key, at->mailbox, at->folder, ch.item), &tomb) ||
			tomb.seq != at->seq)
			wrong(c, at, "a second tombstone, or one without a way to it");
	} else if (!get_item(c, key_item(&key, at->mailbox, ch.item, KEY_PART_STATE), &it) ||
		   it.folder != at->folder || it.changed_seq != at->seq) {
		wrong(c, at, "no item with this change");
	}
}

static void check_date(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct item it;
	struct key key;

	if (v.n)
		wrong(c, at, "has a value");
	if (!get_item(c, key_item(&key, at->mailbox, at->item, KEY_PART_STATE), &it) ||
		it.folder != at->folder || it.time_s != at->time_s)
		wrong(c, at, "no item with this date");
}

static void check_tombstone(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_tombstone tomb;
	struct change ch;
	struct key key;

	if (record_decode_tombstone(v, &tomb))
		wrong(c, at, "does not decode");
	else if (!get_change(c, key_change(&key, at->mailbox, at->folder, tomb.seq), &ch) ||
		 ch.item != at->item || ch.kind != JOURNAL_DELETE)
		wrong(c, at, "leads to no deletion");
}

static void check_device(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct record_counters counters;
	struct device_gate gate;
	struct device d;
	struct key key;

	if (record_decode_device(v, &d)) {
		wrong(c, at, "does not decode");
		return;
	}
	if (!get_counters(c, key_counters(&key, at->mailbox), &counters) ||
		at->device >= counters.next_device || at->device == 0)
		wrong(c, at, "number was never given out");
	if (!get_device_gate(
		    c, key_device_gate(&key, at->mailbox, bytes_str(d.device_id)), &gate) ||
		gate.id != at->device)
		wrong(c, at, "no gate");
}

static void check_device_gate(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct device_gate gate;
	struct device d;
	struct key key;

	if (record_decode_device_gate(v, &gate))
		wrong(c, at, "does not decode");
	else if (!get_device(c, key_device(&key, at->mailbox, gate.id), &d) ||
		 !bytes_eq_str(at->text, d.device_id))
		wrong(c, at, "no device");
}

static void check_collection(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct collection col;
	struct key key;

	if (record_decode_collection(v, &col))
		wrong(c, at, "does not decode");
	else if (col.now.seq > c->head || col.previous.seq > c->head)
		wrong(c, at, "position in the future");
	if (!exists(c, key_device(&key, at->mailbox, at->device)))
		wrong(c, at, "no device");
}

static void check_blob(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct key key;

	if (v.n == 0)
		wrong(c, at, "is empty");
	if (!exists(c, key_device(&key, at->mailbox, at->device)))
		wrong(c, at, "no device");
}

static void check_journal(struct checker *c, const struct key_parts *at, struct bytes v)
{
	struct journal_row row;

	if (record_decode_journal(v, &row))
		wrong(c, at, "does not decode");
	if (c->journal_rows++ && at->seq != c->journal_last + 1)
		wrong(c, at, "a gap before it");
	c->journal_last = at->seq;
}

int store_check(struct db *db, FILE *out)
{
	typedef void check_fn(struct checker * c, const struct key_parts *at, struct bytes v);
	static check_fn *const checks[KEY_KINDS] = {[KEY_META] = check_meta,
		[KEY_ADDRESS] = check_address,
		[KEY_ACCOUNT] = check_account,
		[KEY_ACCOUNT_GATE] = check_account_gate,
		[KEY_COUNTERS] = check_counters,
		[KEY_FOLDER] = check_folder,
		[KEY_FOLDER_HOT] = check_folder_hot,
		[KEY_FOLDER_NAME] = check_folder_name,
		[KEY_ITEM] = check_item,
		[KEY_CHANGE] = check_change,
		[KEY_DATE] = check_date,
		[KEY_TOMBSTONE] = check_tombstone,
		[KEY_DEVICE] = check_device,
		[KEY_DEVICE_GATE] = check_device_gate,
		[KEY_COLLECTION] = check_collection,
		[KEY_BLOB] = check_blob,
		[KEY_JOURNAL] = check_journal};
	struct key from_key;
	struct bytes from = bytes_of(from_key.b, 1), k, v;
	struct checker c = {.out = out};
	struct db_txn txn;
	int err = db_read(db, &txn);

	if (err)
		return err;
	c.txn = &txn;
	c.head = journal_head(&txn);
	from_key.b[0] = 0;
	while ((err = rows_seek(&txn, from, 0, &k, &v)) == DB_OK) {
		struct key_parts at;

		if (k.n > KEY_BYTES_MAX || !key_parse(k, &at)) {
			c.found++;
			if (out)
				fprintf(out, "a key of %zu bytes is not ours\n", k.n);
			if (k.n > KEY_BYTES_MAX)
				break; /* we could not name the next one */
		} else {
			if (at.mailbox != c.mailbox)
				mailbox_end(&c);
			checks[at.kind](&c, &at, v);
		}
		from = key_after(&from_key, k);
	}
	mailbox_end(&c);
	if (!exists(&c, key_meta(&from_key, KEY_META_FORMAT)) ||
		!exists(&c, key_meta(&from_key, KEY_META_IDS)))
		wrong(&c, &(struct key_parts){.kind = KEY_META}, "missing");
	if (c.journal_rows > JOURNAL_KEEP)
		wrong(&c, &(struct key_parts){.kind = KEY_JOURNAL}, "longer than it may be");
	db_read_end(&txn);
	return err == DB_OK || err == DB_NOT_FOUND ? c.found : err;
}
