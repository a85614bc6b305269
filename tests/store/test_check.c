/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The checker (store/check.c). */
#include "tests/store/db_fixture.h"

#include "store/key.h"
#include "store/rows.h"

struct damage {
	struct bytes key;
	uint8_t saved[512];
	size_t saved_n;
};

static int damage_fn(struct db_txn *txn, void *arg)
{
	struct damage *d = arg;
	struct bytes v;
	int err = rows_get(txn, d->key, &v);

	if (err)
		return err;
	assert_true(v.n <= sizeof(d->saved));
	d->saved_n = v.n;
	if (v.n)
		memcpy(d->saved, v.p, v.n);
	return rows_del(txn, d->key);
}

static int repair_fn(struct db_txn *txn, void *arg)
{
	struct damage *d = arg;

	return rows_put(txn, d->key, bytes_of(d->saved, d->saved_n));
}

/* Every row that can be lost is missed. (Item parts but the state may be absent by right.) */
static void checker_misses_every_row(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	uint64_t id = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 7);
	struct bytes keys[7];
	struct key k[7];

	keys[0] = key_item(&k[0], mailbox, id, KEY_PART_BODY);
	keys[1] = key_item(&k[1], mailbox, id, KEY_PART_STATE);
	keys[2] = key_change(&k[2], mailbox, FOLDER_ID_INBOX, 11);
	keys[3] = key_date(&k[3], mailbox, FOLDER_ID_INBOX, 7, id);
	keys[4] = key_folder_hot(&k[4], mailbox, FOLDER_ID_INBOX);
	keys[5] = key_address(&k[5], bytes_str("a@example.org"));
	keys[6] = key_journal(&k[6], 5);
	assert_int_equal(store_check(f->db, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		struct damage d = {.key = keys[i]};

		assert_int_equal(db_write(f->db, damage_fn, &d), DB_OK);
		if (store_check(f->db, NULL) <= 0)
			fail_msg("row %zu is not missed", i);
		assert_int_equal(db_write(f->db, repair_fn, &d), DB_OK);
		assert_int_equal(store_check(f->db, stderr), 0);
	}
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(checker_misses_every_row),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("check", tests, NULL, NULL);
}
