/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Dead readers, copies (store/db_care.c). */
#include "tests/store/db_fixture.h"

#include <pthread.h>

static void read_for_ever(const struct fixture *f, int from, int to)
{
	struct db_txn txn;
	struct db *db;
	char c;

	if (db_open(&f->options, &db, NULL, 0) == DB_OK && db_read(db, &txn) == DB_OK &&
		write(to, "x", 1) == 1)
		while (read(from, &c, 1) == 1)
			;
}

/* A dead reader would keep every page written since from being used again. */
static void dead_readers_are_cleared(void **state)
{
	struct fixture *f = *state;
	struct db_stats stats;
	struct child c;

	db_close(&f->db);
	c = child_start(f, read_for_ever);
	hear(c.from);
	fixture_open(f);
	assert_int_equal(db_clear_stale_readers(f->db), 0);
	child_end(&c, SIGKILL);
	assert_int_equal(db_clear_stale_readers(f->db), 1);
	assert_int_equal(db_stats(f->db, &stats), DB_OK);
	assert_int_equal(stats.stale_cleared, 1);
}

struct backup_writer {
	struct fixture *f;
	uint32_t mailbox;
	_Atomic bool stop;
	_Atomic uint64_t written;
};

static void *backup_writer(void *arg)
{
	struct backup_writer *w = arg;
	struct fixture_item i = {.mailbox = w->mailbox,
		.folder = FOLDER_ID_INBOX,
		.item = {.item_class = ITEM_EMAIL, .body = bytes_str("body")}};

	while (!atomic_load(&w->stop)) {
		CHECK(db_write(w->f->db, fixture_item_fn, &i) == DB_OK);
		atomic_fetch_add(&w->written, 1);
	}
	return NULL;
}

static void backup_while_writing(void **state)
{
	struct fixture *f = *state;
	struct backup_writer w = {.f = f, .mailbox = fixture_account(f, "a@example.org")};
	char why[256] = "", path[512];
	struct fixture copy = {};
	pthread_t thread;
	uint64_t least;
	struct stat st;

	for (int i = 0; i < 500; i++)
		fixture_deliver(f, w.mailbox, FOLDER_ID_INBOX, i);
	assert_int_equal(pthread_create(&thread, NULL, backup_writer, &w), 0);
	while (atomic_load(&w.written) < 10)
		sched_yield();
	least = head(f->db);
	fixture_dir(copy.dir, sizeof(copy.dir));
	assert_int_equal(db_backup(f->db, copy.dir, why, sizeof(why)), DB_OK);
	assert_int_equal(db_backup(f->db, copy.dir, why, sizeof(why)), DB_EXISTS);
	assert_int_equal(db_backup(f->db, "/no/such/place", why, sizeof(why)), DB_NOT_FOUND);
	atomic_store(&w.stop, true);
	pthread_join(thread, NULL);
	snprintf(path, sizeof(path), "%s/data.mdb", copy.dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	copy.options = (struct db_options){.dir = copy.dir};
	fixture_open(&copy);
	assert_true(head(copy.db) >= least && head(copy.db) <= head(f->db));
	assert_int_equal(atomic_load(&db_notify(copy.db)->seq), head(copy.db));
	assert_int_equal(store_check(copy.db, stderr), 0);
	db_close(&copy.db);
	fixture_remove(copy.dir);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(dead_readers_are_cleared),
		TEST(backup_while_writing),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("db_care", tests, NULL, NULL);
}
