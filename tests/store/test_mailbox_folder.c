/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Folders and their hierarchy (store/mailbox_folder.c). */
#include "tests/store/mailbox_fixture.h"

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

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(folders_are_made_renamed_and_removed),
		TEST(touch_is_a_row_and_no_item),
		TEST(deep_trees_are_removed),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("mailbox_folder", tests, NULL, NULL);
}
