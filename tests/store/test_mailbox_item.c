/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Items and what changed (store/mailbox_item.c). */
#include "tests/store/mailbox_fixture.h"

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

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(item_comes_back_whole),
		TEST(state_and_content_move_their_own_numbers),
		TEST(arrival_and_removal_do_not_cancel),
		TEST(moved_item_leaves_and_arrives),
		TEST(dates_are_found_in_both_directions),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("mailbox_item", tests, NULL, NULL);
}
