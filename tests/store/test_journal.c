/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/store/fixture.h"

static int append_fn(struct db_txn *txn, void *arg)
{
	uint64_t n = *(uint64_t *)arg;

	for (uint64_t i = 0; i < n; i++) {
		struct journal_row row = {.mailbox = 7,
			.folder = 3,
			.item = txn->seq + 1,
			.item_time_s = -5,
			.origin = 2,
			.device = 4,
			.kind = JOURNAL_ADD};
		uint64_t want = txn->seq + 1;
		int err = journal_append(txn, &row);

		if (err)
			return err;
		assert_int_equal(row.seq, want);
		assert_int_equal(journal_head(txn), want);
	}
	return DB_OK;
}

static void append(struct fixture *f, uint64_t n)
{
	assert_int_equal(db_write(f->db, append_fn, &n), DB_OK);
}

static void rows_come_back_in_order(void **state)
{
	struct fixture *f = *state;
	struct journal_row rows[8];
	struct db_txn txn;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(journal_head(&txn), 0);
	assert_int_equal(journal_read(&txn, 0, rows, 8), 0);
	db_read_end(&txn);
	append(f, 5);
	append(f, 6);
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(journal_head(&txn), 11);
	assert_int_equal(journal_read(&txn, 0, rows, 8), 8);
	for (uint64_t i = 0; i < 8; i++) {
		assert_int_equal(rows[i].seq, i + 1);
		assert_int_equal(rows[i].mailbox, 7);
		assert_int_equal(rows[i].folder, 3);
		assert_int_equal(rows[i].item, i + 1);
		assert_int_equal(rows[i].item_time_s, -5);
		assert_int_equal(rows[i].origin, 2);
		assert_int_equal(rows[i].device, 4);
		assert_int_equal(rows[i].kind, JOURNAL_ADD);
	}
	assert_int_equal(journal_read(&txn, 8, rows, 8), 3);
	assert_int_equal(rows[2].seq, 11);
	assert_int_equal(journal_read(&txn, 11, rows, 8), 0);
	assert_int_equal(journal_read(&txn, 8, rows, 0), 0);
	/* A reader from before an older copy of the store was put back. */
	assert_int_equal(journal_read(&txn, 12, rows, 8), DB_GONE);
	db_read_end(&txn);
}

/* The newest JOURNAL_KEEP stay; who is further behind is told to look at everything. */
static void old_rows_are_pruned(void **state)
{
	struct fixture *f = *state;
	struct journal_row row;
	struct db_stats stats;
	struct db_txn txn;
	uint64_t extra = 1000, before;

	assert_int_equal(db_stats(f->db, &stats), DB_OK);
	before = stats.entries;
	append(f, JOURNAL_KEEP);
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(journal_read(&txn, 0, &row, 1), 1);
	db_read_end(&txn);
	append(f, extra);
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(journal_head(&txn), JOURNAL_KEEP + extra);
	assert_int_equal(journal_read(&txn, extra, &row, 1), 1);
	assert_int_equal(row.seq, extra + 1);
	assert_int_equal(journal_read(&txn, extra - 1, &row, 1), DB_GONE);
	assert_int_equal(journal_read(&txn, 0, &row, 1), DB_GONE);
	db_read_end(&txn);
	assert_int_equal(db_stats(f->db, &stats), DB_OK);
	assert_int_equal(stats.entries - before, JOURNAL_KEEP);
}

static int bad_kind_fn(struct db_txn *txn, void *arg)
{
	struct journal_row row = {.kind = *(uint8_t *)arg};

	return journal_append(txn, &row);
}

static void unknown_kinds_are_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t kinds[] = {0, JOURNAL_TOUCH + 1, 255};

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		assert_int_equal(db_write(f->db, bad_kind_fn, &kinds[i]), DB_INVALID);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(rows_come_back_in_order),
		TEST(old_rows_are_pruned),
		TEST(unknown_kinds_are_refused),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
