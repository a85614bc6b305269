/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/store/mailbox_fixture.h - one operation on a mailbox, in a write of its own.
 * Memory and errors: see fixture.h. */
#ifndef ROOST_TESTS_STORE_MAILBOX_FIXTURE_H
#define ROOST_TESTS_STORE_MAILBOX_FIXTURE_H

#include "tests/store/fixture.h"

static inline struct db_txn begin(struct fixture *f)
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

static inline int op_fn(struct db_txn *txn, void *arg)
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

static inline int run(struct fixture *f, struct op *o)
{
	return db_write(f->db, op_fn, o);
}

static inline struct folder folder_of(struct fixture *f, uint32_t mailbox, uint32_t id)
{
	struct db_txn txn = begin(f);
	struct folder folder;

	assert_int_equal(folder_get(&txn, mailbox, id, &folder), DB_OK);
	db_read_end(&txn);
	return folder;
}

static inline int change_after(
	struct fixture *f, uint32_t mailbox, uint32_t folder, uint64_t after, struct change *out)
{
	struct db_txn txn = begin(f);
	int err = change_next(&txn, mailbox, folder, after, out);

	db_read_end(&txn);
	return err;
}

#endif
