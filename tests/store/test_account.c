/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/store/fixture.h"

static struct db_txn begin(struct fixture *f)
{
	struct db_txn txn;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	return txn;
}

static void addresses(void **state)
{
	static const char *const good[] = {"a@b", "joe@example.org",
		"Joe.User+tag@Mail.Example.ORG", "x_y-z!#$%&'*/=?^`{|}~@a-b.c1", "1@1"};
	static const char *const bad[] = {"", "@", "a@", "@b", "a", "a@b@c", "a b@c", "a@b c",
		".a@b", "a.@b", "a..b@c", "a@.b", "a@b.", "a@b..c", "a@-b", "a@b-", "a@b_c",
		"a\"@b", "a<@b", "a,@b", "a@b\n", "\xc3\xa4@b", "a@\xc3\xa4", "a/../@b@c"};
	char longest[400];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		if (!account_address_ok(bytes_str(good[i])))
			fail_msg("refused: %s", good[i]);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (account_address_ok(bytes_str(bad[i])))
			fail_msg("accepted: %s", bad[i]);
	assert_false(account_address_ok(bytes_of("a\0b@c", 5)));
	/* 64 @ 63 . 63 . 61: 254 in all. */
	memset(longest, 'a', sizeof(longest));
	longest[64] = '@';
	longest[128] = longest[192] = '.';
	assert_true(account_address_ok(bytes_of(longest, 254)));
	assert_false(account_address_ok(bytes_of(longest, 255)));
	longest[64] = 'a';
	longest[65] = '@';
	assert_false(account_address_ok(bytes_of(longest, 100)));
	assert_false(account_address_ok(bytes_str("a@"
						  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
						  "aaaaaaaaaaaaaaaaaaaaaaaa.org")));
}

struct create {
	const char *address, *hash, *name;
	struct account out;
};

static int create_fn(struct db_txn *txn, void *arg)
{
	struct create *c = arg;

	return account_create(txn, bytes_str(c->address), c->hash, c->name, 1234, &c->out);
}

static void account_has_a_mailbox_with_the_standard_folders(void **state)
{
	struct fixture *f = *state;
	struct create c = {.address = "Joe@Example.ORG",
			      .hash = "$argon2id$x",
			      .name = "Joe \xc3\x84"},
		      again = c;
	static const struct {
		enum folder_id id;
		enum folder_type type;
		enum item_class class;
		const char *name;
	} want[] = {
		{FOLDER_ID_INBOX, FOLDER_INBOX, ITEM_EMAIL, "Inbox"},
		{FOLDER_ID_DRAFTS, FOLDER_DRAFTS, ITEM_EMAIL, "Drafts"},
		{FOLDER_ID_TRASH, FOLDER_TRASH, ITEM_EMAIL, "Deleted Items"},
		{FOLDER_ID_SENT, FOLDER_SENT, ITEM_EMAIL, "Sent Items"},
		{FOLDER_ID_OUTBOX, FOLDER_OUTBOX, ITEM_EMAIL, "Outbox"},
		{FOLDER_ID_CONTACTS, FOLDER_CONTACTS, ITEM_CONTACT, "Contacts"},
		{FOLDER_ID_CALENDAR, FOLDER_CALENDAR, ITEM_CALENDAR, "Calendar"},
		{FOLDER_ID_TASKS, FOLDER_TASKS, ITEM_TASK, "Tasks"},
		{FOLDER_ID_NOTES, FOLDER_NOTES, ITEM_NOTE, "Notes"},
	};
	struct account a;
	struct folder folder;
	struct db_txn txn;
	uint32_t id = 0;

	assert_int_equal(db_write(f->db, create_fn, &c), DB_OK);
	assert_int_equal(db_write(f->db, create_fn, &again), DB_EXISTS);
	txn = begin(f);
	assert_int_equal(account_find(&txn, bytes_str("jOE@eXAMPLE.oRG"), &a), DB_OK);
	assert_string_equal(a.address, "joe@example.org");
	assert_string_equal(a.password_hash, "$argon2id$x");
	assert_string_equal(a.display_name, "Joe \xc3\x84");
	assert_int_equal(a.created_ms, 1234);
	assert_int_equal(a.mailbox, c.out.mailbox);
	assert_memory_equal(&a, &c.out, sizeof(a));
	assert_false(a.disabled);
	assert_int_equal(account_find(&txn, bytes_str("no@example.org"), &a), DB_NOT_FOUND);
	assert_int_equal(account_find(&txn, bytes_str("not an address"), &a), DB_NOT_FOUND);
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		assert_int_equal(folder_next(&txn, c.out.mailbox, &id, &folder), DB_OK);
		assert_int_equal(id, want[i].id);
		assert_int_equal(folder.id, want[i].id);
		assert_int_equal(folder.type, want[i].type);
		assert_int_equal(folder_class(folder.type), want[i].class);
		assert_string_equal(folder.name, want[i].name);
		assert_int_equal(folder.parent, 0);
	}
	assert_int_equal(folder_next(&txn, c.out.mailbox, &id, &folder), DB_NOT_FOUND);
	assert_int_equal(mailbox_hierarchy_seq(&txn, c.out.mailbox), journal_head(&txn));
	db_read_end(&txn);
}

static void what_does_not_fit_is_refused(void **state)
{
	struct fixture *f = *state;
	char long_text[ACCOUNT_HASH_MAX + 1];
	struct create c = {.address = "a@b", .hash = long_text, .name = ""};
	struct create d = {.address = "a@b", .hash = "", .name = long_text};
	struct create e = {.address = "not an address", .hash = "", .name = ""};

	memset(long_text, 'x', sizeof(long_text));
	long_text[ACCOUNT_HASH_MAX] = 0;
	assert_int_equal(db_write(f->db, create_fn, &c), DB_INVALID);
	assert_int_equal(db_write(f->db, create_fn, &d), DB_INVALID);
	assert_int_equal(db_write(f->db, create_fn, &e), DB_INVALID);
	long_text[ACCOUNT_HASH_MAX - 1] = 0;
	assert_int_equal(db_write(f->db, create_fn, &c), DB_OK);
}

static int password_fn(struct db_txn *txn, void *arg)
{
	return account_set_password(txn, bytes_str("A@example.org"), arg);
}

static int disable_fn(struct db_txn *txn, void *arg)
{
	return account_set_disabled(txn, bytes_str("a@example.org"), *(bool *)arg);
}

/* Cached credentials hang on these two numbers. */
static void gate_moves_with_password_and_switch(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct account_gate before, gate;
	struct journal_row row;
	bool disabled = true;
	uint64_t head;
	struct db_txn txn = begin(f);

	head = journal_head(&txn);
	assert_int_equal(account_gate(&txn, mailbox, &before), DB_OK);
	assert_false(before.disabled);
	assert_int_equal(account_gate(&txn, mailbox + 1, &gate), DB_NOT_FOUND);
	db_read_end(&txn);

	assert_int_equal(db_write(f->db, password_fn, "new"), DB_OK);
	assert_int_equal(db_write(f->db, disable_fn, &disabled), DB_OK);
	assert_int_equal(db_write(f->db, disable_fn, &disabled), DB_OK);
	txn = begin(f);
	assert_int_equal(account_gate(&txn, mailbox, &gate), DB_OK);
	assert_int_equal(gate.password_generation, before.password_generation + 1);
	assert_true(gate.disabled);
	/* Disabling the disabled is no change. */
	assert_int_equal(journal_head(&txn), head + 2);
	for (uint64_t i = 0; i < 2; i++) {
		assert_int_equal(journal_read(&txn, head + i, &row, 1), 1);
		assert_int_equal(row.kind, JOURNAL_ACCOUNT);
		assert_int_equal(row.mailbox, mailbox);
	}
	db_read_end(&txn);
}

static int delete_fn(struct db_txn *txn, void *arg)
{
	return account_delete(txn, bytes_str(arg));
}

static int device_fn(struct db_txn *txn, void *arg)
{
	struct device d = {.device_id = "phone"};
	struct collection c = {.key = 1};
	uint32_t mailbox = *(uint32_t *)arg;
	int err = device_put(txn, mailbox, &d);

	if (err == DB_OK)
		err = collection_put(txn, mailbox, d.id, FOLDER_ID_INBOX, &c);
	return err ? err
		   : device_blob_put(txn, mailbox, d.id, DEVICE_BLOB_SYNC_REQUEST, bytes_str("x"));
}

/* To the user: deleted is deleted; and the number of the mailbox is never used again. */
static void deleted_account_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	uint32_t keep = fixture_account(f, "keep@example.org"), gone;
	struct db_stats before, after;
	uint64_t head_before, head_after;
	struct account a;
	char address[ACCOUNT_ADDRESS_MAX + 1];
	struct db_txn txn;

	fixture_deliver(f, keep, FOLDER_ID_INBOX, 1);
	txn = begin(f);
	head_before = journal_head(&txn);
	db_read_end(&txn);
	assert_int_equal(db_stats(f->db, &before), DB_OK);
	gone = fixture_account(f, "gone@example.org");
	for (int i = 0; i < 300; i++)
		fixture_deliver(f, gone, FOLDER_ID_INBOX, i);
	assert_int_equal(db_write(f->db, device_fn, &gone), DB_OK);
	assert_int_equal(db_write(f->db, delete_fn, "Gone@example.org"), DB_OK);
	assert_int_equal(db_write(f->db, delete_fn, "gone@example.org"), DB_NOT_FOUND);
	txn = begin(f);
	head_after = journal_head(&txn);
	assert_int_equal(account_by_mailbox(&txn, gone, &a), DB_NOT_FOUND);
	assert_int_equal(account_by_mailbox(&txn, keep, &a), DB_OK);
	assert_int_equal(account_address(&txn, gone, address), DB_NOT_FOUND);
	assert_int_equal(account_address(&txn, keep, address), DB_OK);
	assert_string_equal(address, a.address);
	db_read_end(&txn);
	assert_int_equal(db_stats(f->db, &after), DB_OK);
	/* Only the journal grew. */
	assert_int_equal(after.entries - before.entries, head_after - head_before);
	assert_true(fixture_account(f, "gone@example.org") > gone);
}

static void accounts_in_order(void **state)
{
	struct fixture *f = *state;
	static const char *const addresses[] = {"c@x", "a@x", "b@x", "aa@x"};
	static const char *const sorted[] = {"a@x", "aa@x", "b@x", "c@x"};
	char cursor[ACCOUNT_ADDRESS_MAX + 1] = "";
	struct account a;
	struct db_txn txn;

	for (size_t i = 0; i < ARRAY_LEN(addresses); i++)
		fixture_account(f, addresses[i]);
	txn = begin(f);
	for (size_t i = 0; i < ARRAY_LEN(sorted); i++) {
		assert_int_equal(account_next(&txn, cursor, &a), DB_OK);
		assert_string_equal(cursor, sorted[i]);
		assert_string_equal(a.address, sorted[i]);
	}
	assert_int_equal(account_next(&txn, cursor, &a), DB_NOT_FOUND);
	db_read_end(&txn);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses),
		TEST(account_has_a_mailbox_with_the_standard_folders),
		TEST(what_does_not_fit_is_refused),
		TEST(gate_moves_with_password_and_switch),
		TEST(deleted_account_leaves_nothing),
		TEST(accounts_in_order),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
