/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/store/fixture.h"

#include <time.h>

static struct db_txn begin(struct fixture *f)
{
	struct db_txn txn;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	return txn;
}

/* One operation, whatever it is; the tests read better than with a function for each. */
struct op {
	enum {
		OP_ADD,
		OP_STATE,
		OP_CONTENT,
		OP_DELETE,
		OP_MOVE,
		OP_FOLDER_CREATE,
		OP_FOLDER_UPDATE,
		OP_FOLDER_DELETE,
		OP_TOUCH,
		OP_PRUNE,
		OP_COLLECTION,
		OP_DEVICE,
	} what;
	uint32_t mailbox, folder, to, parent, origin, device;
	uint64_t item;
	struct item_new n;
	const char *name;
	struct collection c;
	struct device d;
	size_t max;
};

static int op_fn(struct db_txn *txn, void *arg)
{
	struct op *o = arg;

	switch (o->what) {
	case OP_ADD:
		return item_add(txn, o->mailbox, o->folder, &o->n, o->origin, &o->item);
	case OP_STATE:
		return item_set_state(
			txn, o->mailbox, o->folder, o->item, o->n.read, o->n.props, o->origin);
	case OP_CONTENT:
		return item_set_content(txn, o->mailbox, o->folder, o->item, &o->n, o->origin);
	case OP_DELETE:
		return item_delete(txn, o->mailbox, o->folder, o->item, o->origin);
	case OP_MOVE:
		return item_move(txn, o->mailbox, o->folder, o->to, o->item, o->origin);
	case OP_FOLDER_CREATE:
		return folder_create(txn, o->mailbox, o->parent, FOLDER_USER_MAIL,
			bytes_str(o->name), o->origin, &o->folder);
	case OP_FOLDER_UPDATE:
		return folder_update(
			txn, o->mailbox, o->folder, o->parent, bytes_str(o->name), o->origin);
	case OP_FOLDER_DELETE:
		return folder_delete(txn, o->mailbox, o->folder, o->origin);
	case OP_TOUCH:
		return folder_touch(txn, o->mailbox, o->folder);
	case OP_PRUNE:
		return mailbox_prune(txn, o->mailbox, o->max) < 0 ? DB_CORRUPT : DB_OK;
	case OP_COLLECTION:
		return collection_put(txn, o->mailbox, o->device, o->folder, &o->c);
	case OP_DEVICE:
		return device_put(txn, o->mailbox, &o->d);
	}
	return DB_INVALID;
}

static int run(struct fixture *f, struct op *o)
{
	return db_write(f->db, op_fn, o);
}

static struct folder folder_of(struct fixture *f, uint32_t mailbox, uint32_t id)
{
	struct db_txn txn = begin(f);
	struct folder folder;

	assert_int_equal(folder_get(&txn, mailbox, id, &folder), DB_OK);
	db_read_end(&txn);
	return folder;
}

static int change_after(
	struct fixture *f, uint32_t mailbox, uint32_t folder, uint64_t after, struct change *out)
{
	struct db_txn txn = begin(f);
	int err = change_next(&txn, mailbox, folder, after, out);

	db_read_end(&txn);
	return err;
}

/* ---- items ---- */

static void item_comes_back_whole(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org"), folder;
	static uint8_t big[70000];
	struct op o = {.mailbox = mailbox,
		.folder = FOLDER_ID_CONTACTS,
		.origin = 3,
		.n = {.item_class = ITEM_CONTACT,
			.read = true,
			.time_s = -7,
			.summary = bytes_str("summary"),
			.props = bytes_str("props"),
			.body = bytes_of(big, sizeof(big))}};
	struct bytes body;
	struct item it;
	struct db_txn txn;

	memset(big, 'b', sizeof(big));
	assert_int_equal(run(f, &o), DB_OK);
	txn = begin(f);
	assert_int_equal(item_get(&txn, mailbox, FOLDER_ID_CONTACTS, o.item, &it), DB_OK);
	assert_int_equal(it.id, o.item);
	assert_int_equal(it.folder, FOLDER_ID_CONTACTS);
	assert_int_equal(it.item_class, ITEM_CONTACT);
	assert_true(it.read);
	assert_int_equal(it.time_s, -7);
	assert_int_equal(it.created_seq, 11);
	assert_int_equal(it.changed_seq, 11);
	assert_int_equal(it.content_seq, 11);
	assert_int_equal(it.origin, 3);
	assert_int_equal(it.body_bytes, sizeof(big));
	assert_true(bytes_eq_str(it.summary, "summary"));
	assert_true(bytes_eq_str(it.props, "props"));
	assert_int_equal(item_body(&txn, mailbox, o.item, &body), DB_OK);
	assert_true(bytes_eq(body, o.n.body));
	assert_int_equal(item_folder(&txn, mailbox, o.item, &folder), DB_OK);
	assert_int_equal(folder, FOLDER_ID_CONTACTS);
	assert_int_equal(item_get(&txn, mailbox, FOLDER_ID_INBOX, o.item, &it), DB_NOT_FOUND);
	assert_int_equal(item_get(&txn, mailbox, FOLDER_ID_CONTACTS, 99, &it), DB_NOT_FOUND);
	assert_int_equal(
		item_get(&txn, mailbox + 1, FOLDER_ID_CONTACTS, o.item, &it), DB_NOT_FOUND);
	db_read_end(&txn);
}

static void state_and_content_move_their_own_numbers(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	uint64_t id = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 5), head;
	struct op o = {.what = OP_STATE,
		.mailbox = mailbox,
		.folder = FOLDER_ID_INBOX,
		.item = id,
		.origin = 4,
		.n = {.item_class = ITEM_EMAIL, .read = true}};
	struct journal_row row;
	struct bytes body;
	struct item it;
	struct db_txn txn;

	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).unread, 1);
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).unread, 0);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).items, 1);
	/* The same again is no change: no row, no number. */
	assert_int_equal(run(f, &o), DB_OK);
	o.n.props = bytes_of("", 0);
	assert_int_equal(run(f, &o), DB_OK);
	txn = begin(f);
	head = journal_head(&txn);
	assert_int_equal(head, 12);
	assert_int_equal(journal_read(&txn, 11, &row, 1), 1);
	assert_int_equal(row.kind, JOURNAL_CHANGE);
	assert_int_equal(row.item, id);
	assert_int_equal(row.origin, 4);
	assert_int_equal(row.item_time_s, 5);
	assert_int_equal(item_get(&txn, mailbox, FOLDER_ID_INBOX, id, &it), DB_OK);
	assert_true(it.read);
	assert_int_equal(it.created_seq, 11);
	assert_int_equal(it.content_seq, 11);
	assert_int_equal(it.changed_seq, 12);
	assert_int_equal(it.origin, 4);
	db_read_end(&txn);

	o.n.props = bytes_str("flag");
	assert_int_equal(run(f, &o), DB_OK);
	o.what = OP_CONTENT;
	o.n = (struct item_new){.item_class = ITEM_EMAIL, .time_s = 9, .body = bytes_str("new")};
	assert_int_equal(run(f, &o), DB_OK);
	txn = begin(f);
	assert_int_equal(item_get(&txn, mailbox, FOLDER_ID_INBOX, id, &it), DB_OK);
	assert_int_equal(it.content_seq, 14);
	assert_int_equal(it.changed_seq, 14);
	assert_int_equal(it.time_s, 9);
	assert_false(it.read);
	assert_true(bytes_eq_str(it.summary, "summary")); /* not given: kept */
	assert_true(bytes_eq_str(it.props, "flag"));
	assert_int_equal(item_body(&txn, mailbox, id, &body), DB_OK);
	assert_true(bytes_eq_str(body, "new"));
	db_read_end(&txn);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).unread, 1);
	o.n.item_class = ITEM_NOTE;
	assert_int_equal(run(f, &o), DB_INVALID);
}

/* To the user: what other servers get wrong. One mail came, another went: the phone is told. */
static void arrival_and_removal_do_not_cancel(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	uint64_t old = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 5), added, seen = 11;
	struct op o = {.what = OP_DELETE,
		.mailbox = mailbox,
		.folder = FOLDER_ID_INBOX,
		.item = old,
		.origin = 2};
	struct change c;

	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).changed_seq, seen);
	added = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 6);
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).items, 1);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).changed_seq, seen + 2);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, seen, &c), DB_OK);
	assert_int_equal(c.seq, seen + 1);
	assert_int_equal(c.kind, JOURNAL_ADD);
	assert_int_equal(c.item, added);
	assert_int_equal(c.time_s, 6);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, c.seq, &c), DB_OK);
	assert_int_equal(c.seq, seen + 2);
	assert_int_equal(c.kind, JOURNAL_DELETE);
	assert_int_equal(c.item, old);
	assert_int_equal(c.created_seq, seen);
	assert_int_equal(c.origin, 2);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, c.seq, &c), DB_NOT_FOUND);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, UINT64_MAX, &c), DB_NOT_FOUND);
	/* Other folders, numbered below and above, are not touched by any of it. */
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_DRAFTS, 0, &c), DB_NOT_FOUND);
}

static void moved_item_leaves_and_arrives(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	uint64_t id = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 5);
	struct op o = {.what = OP_MOVE,
		.mailbox = mailbox,
		.folder = FOLDER_ID_INBOX,
		.to = FOLDER_ID_TRASH,
		.item = id};
	struct journal_row rows[2];
	struct change c;
	struct item it;
	struct db_txn txn;

	assert_int_equal(run(f, &o), DB_OK);
	txn = begin(f);
	assert_int_equal(journal_read(&txn, 11, rows, 2), 2);
	assert_int_equal(rows[0].kind, JOURNAL_DELETE);
	assert_int_equal(rows[0].folder, FOLDER_ID_INBOX);
	assert_int_equal(rows[1].kind, JOURNAL_ADD);
	assert_int_equal(rows[1].folder, FOLDER_ID_TRASH);
	assert_int_equal(item_get(&txn, mailbox, FOLDER_ID_TRASH, id, &it), DB_OK);
	assert_true(bytes_eq_str(it.summary, "summary"));
	db_read_end(&txn);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).items, 0);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).unread, 0);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_TRASH).items, 1);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_TRASH).unread, 1);
	assert_int_equal(run(f, &o), DB_NOT_FOUND);
	o.to = o.folder;
	assert_int_equal(run(f, &o), DB_INVALID);

	/* Back again: who knew it before hears delete, then add. */
	o.folder = FOLDER_ID_TRASH;
	o.to = FOLDER_ID_INBOX;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, 11, &c), DB_OK);
	assert_int_equal(c.kind, JOURNAL_DELETE);
	assert_int_equal(c.created_seq, 11);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, c.seq, &c), DB_OK);
	assert_int_equal(c.kind, JOURNAL_ADD);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, c.seq, &c), DB_NOT_FOUND);
	/* And away for good: one row, which says that it was known since the first time. */
	o.what = OP_DELETE;
	o.folder = FOLDER_ID_INBOX;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, 0, &c), DB_OK);
	assert_int_equal(c.kind, JOURNAL_DELETE);
	assert_int_equal(c.created_seq, 11);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, c.seq, &c), DB_NOT_FOUND);
}

static void dates_are_found_in_both_directions(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	static const int64_t times[] = {INT64_MIN, -5, 0, 0, 7, INT64_MAX};
	uint64_t ids[ARRAY_LEN(times)];
	struct item_pos pos = {.time_s = INT64_MIN};
	struct db_txn txn;

	/* Delivered in the opposite order, so ids do not follow times; neighbours have items. */
	for (size_t i = ARRAY_LEN(times); i-- > 0;)
		ids[i] = fixture_deliver(f, mailbox, FOLDER_ID_DRAFTS, times[i]);
	fixture_deliver(f, mailbox, FOLDER_ID_INBOX, INT64_MAX);
	fixture_deliver(f, mailbox, FOLDER_ID_TRASH, INT64_MIN);
	/* Equal times: by id. */
	uint64_t swap = ids[2];
	ids[2] = ids[3];
	ids[3] = swap;
	txn = begin(f);
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		assert_int_equal(item_at_or_after(&txn, mailbox, FOLDER_ID_DRAFTS, &pos), DB_OK);
		assert_int_equal(pos.time_s, times[i]);
		assert_int_equal(pos.id, ids[i]);
		pos.id++;
	}
	assert_int_equal(item_at_or_after(&txn, mailbox, FOLDER_ID_DRAFTS, &pos), DB_NOT_FOUND);
	pos = (struct item_pos){.time_s = INT64_MAX, .id = UINT64_MAX};
	for (size_t i = ARRAY_LEN(times); i-- > 0;) {
		assert_int_equal(item_before(&txn, mailbox, FOLDER_ID_DRAFTS, &pos), DB_OK);
		assert_int_equal(pos.time_s, times[i]);
		assert_int_equal(pos.id, ids[i]);
	}
	assert_int_equal(item_before(&txn, mailbox, FOLDER_ID_DRAFTS, &pos), DB_NOT_FOUND);
	assert_int_equal(pos.time_s, INT64_MIN); /* untouched */
	pos = (struct item_pos){.time_s = 1, .id = 0};
	assert_int_equal(item_at_or_after(&txn, mailbox, FOLDER_ID_DRAFTS, &pos), DB_OK);
	assert_int_equal(pos.time_s, 7);
	db_read_end(&txn);
}

/* ---- folders ---- */

static void folders_are_made_renamed_and_removed(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org"), top, child, grandchild;
	struct op o = {.what = OP_FOLDER_CREATE, .mailbox = mailbox, .name = "Work", .origin = 6};
	struct folder folder;
	struct db_txn txn;
	uint64_t hierarchy, id;

	assert_int_equal(run(f, &o), DB_OK);
	top = o.folder;
	assert_int_equal(top, FOLDER_ID_FIRST_FREE);
	assert_int_equal(run(f, &o), DB_EXISTS);
	o.parent = top;
	assert_int_equal(run(f, &o), DB_OK); /* the same name elsewhere */
	child = o.folder;
	o.parent = child;
	o.name = "Deep";
	assert_int_equal(run(f, &o), DB_OK);
	grandchild = o.folder;
	o.parent = 999;
	assert_int_equal(run(f, &o), DB_NOT_FOUND);
	o.parent = 0;
	o.name = "";
	assert_int_equal(run(f, &o), DB_INVALID);
	o.name = "not \xff utf-8";
	assert_int_equal(run(f, &o), DB_INVALID);

	txn = begin(f);
	assert_int_equal(folder_by_name(&txn, mailbox, top, bytes_str("Work"), &folder), DB_OK);
	assert_int_equal(folder.id, child);
	assert_int_equal(folder.hierarchy_origin, 6);
	assert_int_equal(folder.created_seq, folder.hierarchy_seq);
	hierarchy = mailbox_hierarchy_seq(&txn, mailbox);
	assert_int_equal(hierarchy, journal_head(&txn));
	db_read_end(&txn);

	/* No knots. */
	o = (struct op){.what = OP_FOLDER_UPDATE,
		.mailbox = mailbox,
		.folder = top,
		.parent = grandchild,
		.name = "Knot",
		.origin = 7};
	assert_int_equal(run(f, &o), DB_INVALID);
	o.parent = top;
	assert_int_equal(run(f, &o), DB_INVALID);
	o.parent = 0;
	o.name = "Inbox";
	assert_int_equal(run(f, &o), DB_EXISTS);
	o.name = "Work";
	assert_int_equal(run(f, &o), DB_OK); /* nothing new: no change */
	txn = begin(f);
	assert_int_equal(mailbox_hierarchy_seq(&txn, mailbox), hierarchy);
	db_read_end(&txn);
	o.name = "Play";
	assert_int_equal(run(f, &o), DB_OK);
	txn = begin(f);
	assert_int_equal(mailbox_hierarchy_seq(&txn, mailbox), hierarchy + 1);
	assert_int_equal(
		folder_by_name(&txn, mailbox, 0, bytes_str("Work"), &folder), DB_NOT_FOUND);
	assert_int_equal(folder_by_name(&txn, mailbox, 0, bytes_str("Play"), &folder), DB_OK);
	assert_int_equal(folder.hierarchy_seq, hierarchy + 1);
	assert_int_equal(folder.hierarchy_origin, 7);
	db_read_end(&txn);

	/* Removal takes items and children along; the number stays taken. */
	id = fixture_deliver(f, mailbox, grandchild, 5);
	fixture_deliver(f, mailbox, top, 6);
	o.what = OP_FOLDER_DELETE;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(run(f, &o), DB_NOT_FOUND);
	txn = begin(f);
	for (uint32_t i = top; i <= grandchild; i++) {
		assert_int_equal(folder_get(&txn, mailbox, i, &folder), DB_OK);
		assert_true(folder.deleted);
		assert_int_equal(folder.items, 0);
		assert_true(folder.hierarchy_seq > hierarchy + 1);
	}
	uint32_t in;
	assert_int_equal(item_folder(&txn, mailbox, id, &in), DB_NOT_FOUND);
	db_read_end(&txn);
	o = (struct op){.what = OP_FOLDER_CREATE, .mailbox = mailbox, .name = "Play"};
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(o.folder, grandchild + 1);
	o = (struct op){.mailbox = mailbox, .folder = top, .n = {.item_class = ITEM_EMAIL}};
	assert_int_equal(run(f, &o), DB_NOT_FOUND); /* no mail into a removed folder */
}

static void touch_is_a_row_and_no_item(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {.what = OP_TOUCH, .mailbox = mailbox, .folder = FOLDER_ID_CALENDAR};
	struct journal_row row;
	struct change c;
	struct db_txn txn;

	assert_int_equal(run(f, &o), DB_OK);
	txn = begin(f);
	assert_int_equal(journal_read(&txn, 10, &row, 1), 1);
	db_read_end(&txn);
	assert_int_equal(row.kind, JOURNAL_TOUCH);
	assert_int_equal(row.folder, FOLDER_ID_CALENDAR);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_CALENDAR).touched_seq, 11);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_CALENDAR).changed_seq, 0);
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_CALENDAR, 0, &c), DB_NOT_FOUND);
	o.folder = 77;
	assert_int_equal(run(f, &o), DB_NOT_FOUND);
}

static int deep_fn(struct db_txn *txn, void *arg)
{
	uint32_t parent = 0, mailbox = *(uint32_t *)arg;
	int err = DB_OK;

	for (int i = 0; i < 2000 && err == DB_OK; i++)
		err = folder_create(
			txn, mailbox, parent, FOLDER_USER_MAIL, bytes_str("x"), 0, &parent);
	return err;
}

/* A phone decides how deep the tree is; our stack does not depend on it. */
static void deep_trees_are_removed(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {
		.what = OP_FOLDER_DELETE, .mailbox = mailbox, .folder = FOLDER_ID_FIRST_FREE};

	assert_int_equal(db_write(f->db, deep_fn, &mailbox), DB_OK);
	assert_int_equal(run(f, &o), DB_OK);
}

/* ---- random operations against a model ---- */

enum { MODEL_ITEMS = 400, MODEL_FOLDERS = 4, MODEL_DEVICES = 3, MODEL_STEPS = 6000 };

struct model_item {
	bool alive, read;
	uint32_t folder;
	int64_t time_s;
	uint32_t version; /* of the content, stored in the summary */
	uint32_t flag;    /* in props */
};

/* What one device would hold of one folder if it believed all it was told. `base` is where the
 * walk through the changes began, seq how far it came. */
struct model_view {
	uint64_t base, seq;
	bool has[MODEL_ITEMS];
	uint32_t version[MODEL_ITEMS], flag[MODEL_ITEMS];
	bool read[MODEL_ITEMS];
};

static struct model {
	struct model_item items[MODEL_ITEMS]; /* by id */
	struct model_view views[MODEL_DEVICES][MODEL_FOLDERS + 1];
	uint64_t next_id;
} model;

static unsigned rnd_state;
static unsigned rnd(unsigned n)
{
	return (unsigned)rand_r(&rnd_state) % n;
}

static void view_apply(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct model_view *v,
	const struct change *c)
{
	struct item it;

	assert_true(c->item < MODEL_ITEMS);
	if (c->kind == JOURNAL_DELETE) {
		/* created_seq promises: what the device may have, it is told about. */
		assert_true(!v->has[c->item] || c->created_seq <= v->seq);
		v->has[c->item] = false;
		return;
	}
	if (item_get(txn, mailbox, folder, c->item, &it) != DB_OK)
		fail_msg("a live row without its item");
	assert_int_equal(it.changed_seq, c->seq);
	assert_int_equal(c->kind == JOURNAL_ADD, it.created_seq == c->seq);
	/* Never a Change of what it lacks; an Add of what it has only in the middle of a walk,
	 * where both may be. */
	if (c->created_seq > v->base)
		assert_true(!v->has[c->item] || c->created_seq <= v->seq);
	else
		assert_true(v->has[c->item]);
	if (c->created_seq > v->base || it.content_seq > v->base)
		memcpy(&v->version[c->item], it.summary.p, 4);
	v->has[c->item] = true;
	memcpy(&v->flag[c->item], it.props.p, 4);
	v->read[c->item] = it.read;
}

/* A device catches up with up to `window` changes; at the end of them it has exactly what is there.
 */
static bool view_sync(
	struct fixture *f, uint32_t mailbox, uint32_t folder, struct model_view *v, unsigned window)
{
	struct db_txn txn = begin(f);
	struct change c;
	int err = DB_OK;

	while (window-- > 0 && (err = change_next(&txn, mailbox, folder, v->seq, &c)) == DB_OK) {
		view_apply(&txn, mailbox, folder, v, &c);
		v->seq = c.seq;
	}
	if (err == DB_NOT_FOUND) {
		v->base = v->seq = journal_head(&txn);
		for (size_t i = 0; i < MODEL_ITEMS; i++) {
			struct model_item *m = &model.items[i];
			bool here = m->alive && m->folder == folder;

			assert_int_equal(v->has[i], here);
			if (!here)
				continue;
			assert_int_equal(v->version[i], m->version);
			assert_int_equal(v->flag[i], m->flag);
			assert_int_equal(v->read[i], m->read);
		}
	}
	db_read_end(&txn);
	return err == DB_NOT_FOUND;
}

static uint64_t pick_alive(void)
{
	for (int tries = 0; tries < 20 && model.next_id > 1; tries++) {
		uint64_t id = 1 + rnd((unsigned)model.next_id - 1);
		if (model.items[id].alive)
			return id;
	}
	return 0;
}

static void model_step(struct fixture *f, uint32_t mailbox)
{
	uint64_t id = pick_alive();
	struct model_item *m = &model.items[id];
	struct op o = {.mailbox = mailbox, .folder = m->folder, .item = id, .origin = rnd(4)};
	uint32_t version, flag = rnd(3);
	unsigned what = rnd(100);

	o.n = (struct item_new){.item_class = ITEM_EMAIL,
		.read = rnd(2),
		.time_s = (int64_t)rnd(50) - 25,
		.props = bytes_of(&flag, 4)};
	if (id == 0 || (what < 25 && model.next_id < MODEL_ITEMS)) {
		if (model.next_id == MODEL_ITEMS)
			return;
		version = 1;
		o.what = OP_ADD;
		o.folder = 1 + rnd(MODEL_FOLDERS);
		o.n.summary = bytes_of(&version, 4);
		assert_int_equal(run(f, &o), DB_OK);
		assert_int_equal(o.item, model.next_id);
		model.next_id++;
		model.items[o.item] =
			(struct model_item){true, o.n.read, o.folder, o.n.time_s, 1, flag};
	} else if (what < 50) {
		o.what = OP_STATE;
		assert_int_equal(run(f, &o), DB_OK);
		m->read = o.n.read;
		m->flag = flag;
	} else if (what < 60) {
		o.what = OP_CONTENT;
		version = m->version + 1;
		o.n.summary = bytes_of(&version, 4);
		assert_int_equal(run(f, &o), DB_OK);
		m->read = o.n.read;
		m->flag = flag;
		m->version = version;
		m->time_s = o.n.time_s;
	} else if (what < 85) {
		o.what = OP_MOVE;
		o.to = 1 + rnd(MODEL_FOLDERS);
		assert_int_equal(run(f, &o), o.to == o.folder ? DB_INVALID : DB_OK);
		m->folder = o.to;
	} else if (what < 90) {
		o.what = OP_DELETE;
		assert_int_equal(run(f, &o), DB_OK);
		assert_int_equal(run(f, &o), DB_NOT_FOUND);
		m->alive = false;
	} else {
		/* A device catches up and says where it stands; then what nobody needs may go. */
		uint32_t device = rnd(MODEL_DEVICES), folder = 1 + rnd(MODEL_FOLDERS);
		struct model_view *v = &model.views[device][folder];

		view_sync(f, mailbox, folder, v, 1 + rnd(60));
		o = (struct op){.what = OP_COLLECTION,
			.mailbox = mailbox,
			.device = device + 1,
			.folder = folder,
			.c = {.key = 1, .now = {.seq = v->seq}}};
		assert_int_equal(run(f, &o), DB_OK);
		if (rnd(3) == 0) {
			o = (struct op){.what = OP_PRUNE, .mailbox = mailbox, .max = 1 + rnd(40)};
			assert_int_equal(run(f, &o), DB_OK);
		}
	}
}

static void model_compare(struct fixture *f, uint32_t mailbox)
{
	for (uint32_t folder = 1; folder <= MODEL_FOLDERS; folder++) {
		uint64_t items = 0, unread = 0, walked = 0;
		struct item_pos pos = {.time_s = INT64_MIN}, last = pos;
		struct folder have = folder_of(f, mailbox, folder);
		struct db_txn txn;

		for (size_t i = 0; i < MODEL_ITEMS; i++) {
			const struct model_item *m = &model.items[i];
			items += m->alive && m->folder == folder;
			unread += m->alive && m->folder == folder && !m->read;
		}
		assert_int_equal(have.items, items);
		assert_int_equal(have.unread, unread);
		txn = begin(f);
		for (; item_at_or_after(&txn, mailbox, folder, &pos) == DB_OK; pos.id++, walked++) {
			const struct model_item *m = &model.items[pos.id];
			assert_true(m->alive && m->folder == folder && m->time_s == pos.time_s);
			assert_true(pos.time_s > last.time_s ||
				    (pos.time_s == last.time_s && pos.id > last.id));
			last = pos;
		}
		db_read_end(&txn);
		assert_int_equal(walked, items);
	}
	if (store_check(f->db, stderr) != 0)
		fail_msg("store_check finds contradictions");
}

static void random_operations(void **state)
{
	struct fixture *f = *state;
	const char *given = getenv("ROOST_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
	uint32_t mailbox = fixture_account(f, "a@example.org");

	printf("# ROOST_TEST_SEED=%u\n", seed);
	rnd_state = seed;
	memset(&model, 0, sizeof(model));
	model.next_id = 1;
	for (uint32_t d = 0; d < MODEL_DEVICES; d++) {
		struct op o = {.what = OP_DEVICE, .mailbox = mailbox};
		snprintf(o.d.device_id, sizeof(o.d.device_id), "device%u", d);
		assert_int_equal(run(f, &o), DB_OK);
		for (uint32_t folder = 1; folder <= MODEL_FOLDERS; folder++) {
			struct op c = {.what = OP_COLLECTION,
				.mailbox = mailbox,
				.device = d + 1,
				.folder = folder,
				.c = {.key = 1, .now = {.seq = 1}}};
			model.views[d][folder].base = model.views[d][folder].seq = 1;
			assert_int_equal(run(f, &c), DB_OK);
		}
	}
	for (int i = 0; i < MODEL_STEPS; i++) {
		model_step(f, mailbox);
		if (i % 500 == 0)
			model_compare(f, mailbox);
	}
	model_compare(f, mailbox);
	for (uint32_t d = 0; d < MODEL_DEVICES; d++)
		for (uint32_t folder = 1; folder <= MODEL_FOLDERS; folder++)
			assert_true(
				view_sync(f, mailbox, folder, &model.views[d][folder], UINT32_MAX));
}

static int wants_pruning(struct fixture *f, uint32_t mailbox)
{
	struct db_txn txn = begin(f);
	int wants = mailbox_wants_pruning(&txn, mailbox);

	db_read_end(&txn);
	return wants;
}

/* To the operator: old deletions are tidied away, and not looked for with a write each time. */
static void a_mailbox_asks_for_pruning_when_it_is_worth_it(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {.what = OP_DELETE, .mailbox = mailbox, .folder = FOLDER_ID_INBOX};

	for (int i = 0; i <= MAILBOX_TOMBSTONES_FEW; i++) {
		assert_int_equal(wants_pruning(f, mailbox), 0);
		o.item = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 1);
		assert_int_equal(run(f, &o), DB_OK);
	}
	assert_int_equal(wants_pruning(f, mailbox), 1);
	o.what = OP_PRUNE;
	o.max = 1000;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(wants_pruning(f, mailbox), 0);
}

/* To everybody's mail: deletions that a lost phone has not heard of cannot go, so no write is spent on
 * looking at all of them, again and again, while others wait. Those of another folder can. */
static void a_lost_phone_costs_no_writes(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {.what = OP_DEVICE, .mailbox = mailbox, .d = {.device_id = "lost"}};

	assert_int_equal(run(f, &o), DB_OK);
	o = (struct op){.what = OP_COLLECTION,
		.mailbox = mailbox,
		.folder = FOLDER_ID_INBOX,
		.device = o.d.id,
		.c = {.key = 1, .now = {.seq = 10}}};
	assert_int_equal(run(f, &o), DB_OK);
	for (uint32_t folder = FOLDER_ID_INBOX; folder <= FOLDER_ID_DRAFTS; folder++) {
		for (int i = 0; i <= 2 * MAILBOX_TOMBSTONES_FEW; i++) {
			o = (struct op){.what = OP_DELETE, .mailbox = mailbox, .folder = folder};
			o.item = fixture_deliver(f, mailbox, folder, 1);
			assert_int_equal(run(f, &o), DB_OK);
		}
		assert_int_equal(wants_pruning(f, mailbox), folder != FOLDER_ID_INBOX);
	}
	o.what = OP_PRUNE;
	o.max = 1000;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(wants_pruning(f, mailbox), 0);
}

static void pruning_waits_for_the_slowest_device(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {.mailbox = mailbox, .folder = FOLDER_ID_INBOX};
	struct db_stats before, after;
	uint64_t ids[10];
	struct change c;

	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		ids[i] = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 1);
	for (int d = 0; d < 2; d++) {
		struct op put = {.what = OP_DEVICE, .mailbox = mailbox};
		snprintf(put.d.device_id, sizeof(put.d.device_id), "device%d", d);
		assert_int_equal(run(f, &put), DB_OK);
	}
	o.what = OP_DELETE;
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		o.item = ids[i];
		assert_int_equal(run(f, &o), DB_OK); /* changes 21..30 */
	}
	o.what = OP_COLLECTION;
	o.device = 1;
	o.c = (struct collection){
		.key = 2, .now = {.seq = 30}, .key_previous = 1, .previous = {.seq = 25}};
	assert_int_equal(run(f, &o), DB_OK);
	o.device = 2; /* primed, knows no item: holds nothing back */
	o.c = (struct collection){.key = 1};
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(db_stats(f->db, &before), DB_OK);
	o.what = OP_PRUNE;
	o.max = 3;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(db_stats(f->db, &after), DB_OK);
	assert_int_equal(before.entries - after.entries, 6); /* two rows each */
	o.max = 100;
	assert_int_equal(run(f, &o), DB_OK);
	/* The lost answer may be asked for again: 26 is still there. */
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, 0, &c), DB_OK);
	assert_int_equal(c.seq, 26);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).changed_seq, 30);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(item_comes_back_whole),
		TEST(state_and_content_move_their_own_numbers),
		TEST(arrival_and_removal_do_not_cancel),
		TEST(moved_item_leaves_and_arrives),
		TEST(dates_are_found_in_both_directions),
		TEST(folders_are_made_renamed_and_removed),
		TEST(touch_is_a_row_and_no_item),
		TEST(deep_trees_are_removed),
		TEST(random_operations),
		TEST(pruning_waits_for_the_slowest_device),
		TEST(a_mailbox_asks_for_pruning_when_it_is_worth_it),
		TEST(a_lost_phone_costs_no_writes),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
