/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The page by which a commit wakes (store/notify.c). */
#include "tests/store/db_fixture.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>

#include "core/base/clock.h"

static void wait_for_commits(const struct fixture *f, int from, int to)
{
	const struct db_notify *n;
	struct db *db;
	uint32_t seen;

	(void)from;
	if (db_open(&f->options, &db, NULL, 0))
		_exit(1);
	n = db_notify(db);
	seen = atomic_load(&n->word);
	if (write(to, "x", 1) != 1)
		_exit(2);
	for (int i = 0; i < 300; i++) {
		struct db_txn txn;
		uint32_t word;

		while ((word = atomic_load(&n->word)) == seen)
			syscall(SYS_futex, &n->word, FUTEX_WAIT, seen, NULL, NULL, 0);
		/* The promise: whoever sees the word reads that commit. */
		if (db_read(db, &txn))
			_exit(3);
		if ((int32_t)((uint32_t)journal_head(&txn) - word) < 0 ||
			atomic_load(&n->seq) < word || db_commit_time_ns(db, word) == 0)
			_exit(4);
		db_read_end(&txn);
		seen = word;
		if (write(to, "x", 1) != 1)
			_exit(5);
	}
	db_close(&db);
}

/* To the user: a commit in one process wakes the one that holds his phone. */
static void commit_wakes_another_process(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct child c;

	db_close(&f->db);
	c = child_start(f, wait_for_commits);
	fixture_open(f);
	hear(c.from);
	for (int i = 0; i < 300; i++) {
		fixture_deliver(f, mailbox, FOLDER_ID_INBOX, i);
		hear(c.from);
	}
	assert_int_equal(child_end(&c, 0), 0);
}

static void commit_many(const struct fixture *f, int from, int to)
{
	struct fixture_item i = {
		.mailbox = 1, .folder = FOLDER_ID_INBOX, .item = {.item_class = ITEM_EMAIL}};
	struct db *db;
	char c;

	if (db_open(&f->options, &db, NULL, 0) || write(to, "x", 1) != 1 || read(from, &c, 1) != 1)
		_exit(1);
	for (int n = 0; n < 500; n++)
		if (db_write(db, fixture_item_fn, &i))
			_exit(2);
	if (write(to, "x", 1) != 1)
		_exit(3);
	db_close(&db);
}

/* The word never goes back, and ends at the newest number, whoever publishes last. */
static void two_processes_publish(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org"), last = 0;
	struct child c;

	db_close(&f->db);
	c = child_start(f, commit_many);
	fixture_open(f);
	hear(c.from);
	tell(c.to);
	for (int i = 0; i < 500; i++) {
		uint32_t word;
		fixture_deliver(f, mailbox, FOLDER_ID_INBOX, i);
		word = atomic_load(&db_notify(f->db)->word);
		assert_true((int32_t)(word - last) >= 0);
		last = word;
	}
	hear(c.from);
	assert_int_equal(child_end(&c, 0), 0);
	assert_int_equal(head(f->db), 1010);
	assert_int_equal(atomic_load(&db_notify(f->db)->seq), 1010);
	assert_int_equal(atomic_load(&db_notify(f->db)->word), 1010);
}

static void page_follows_the_journal_after_a_crash(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	static const uint64_t wrong[] = {0, 3, 11, 4000000000u, UINT64_MAX};
	char path[512];

	fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 1);
	snprintf(path, sizeof(path), "%s/notify", f->dir);
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		uint32_t word = (uint32_t)wrong[i];
		int fd;

		db_close(&f->db);
		fd = open(path, O_WRONLY);
		assert_int_equal(pwrite(fd, &wrong[i], 8, offsetof(struct db_notify, seq)), 8);
		assert_int_equal(pwrite(fd, &word, 4, offsetof(struct db_notify, word)), 4);
		close(fd);
		fixture_open(f);
		assert_int_equal(atomic_load(&db_notify(f->db)->seq), 11);
		assert_int_equal(atomic_load(&db_notify(f->db)->word), 11);
	}
	db_close(&f->db);
	assert_int_equal(unlink(path), 0);
	fixture_open(f);
	assert_int_equal(atomic_load(&db_notify(f->db)->word), 11);
	assert_int_equal(db_commit_time_ns(f->db, 11), 0);
}

/* To phones: mail of a tool that was killed between its commit and telling of it wakes them too, and
 * not only with the next commit. The page is put back to where such a tool leaves it. */
static void a_commit_nobody_told_of_is_told(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org"), told = 10;
	const uint64_t told_seq = told;
	char path[512];
	int fd;

	fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 1);
	assert_int_equal(db_publish_missed(f->db), 0); /* all is told */
	snprintf(path, sizeof(path), "%s/notify", f->dir);
	fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, &told_seq, 8, offsetof(struct db_notify, seq)), 8);
	assert_int_equal(pwrite(fd, &told, 4, offsetof(struct db_notify, word)), 4);
	close(fd);
	assert_int_equal(atomic_load(&db_notify(f->db)->word), 10);
	assert_int_equal(db_publish_missed(f->db), 1);
	assert_int_equal(atomic_load(&db_notify(f->db)->seq), 11);
	assert_int_equal(atomic_load(&db_notify(f->db)->word), 11);
	assert_int_equal(db_publish_missed(f->db), 0);
}

static void commit_times_are_known_for_a_while(void **state)
{
	struct fixture *f = *state;
	uint64_t before = clock_mono_ns(), first, t;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	uint64_t after = clock_mono_ns();

	/* Ten rows, one commit: each has its time. */
	for (uint64_t seq = 1; seq <= 10; seq++) {
		t = db_commit_time_ns(f->db, seq);
		assert_true(t >= before && t <= after);
	}
	assert_int_equal(db_commit_time_ns(f->db, 11), 0);
	fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 1);
	first = db_commit_time_ns(f->db, 10);
	assert_true(db_commit_time_ns(f->db, 11) > first);
	for (int i = 0; i < DB_NOTIFY_COMMITS; i++)
		fixture_deliver(f, mailbox, FOLDER_ID_INBOX, i);
	assert_int_equal(db_commit_time_ns(f->db, 10), 0);
	assert_int_equal(db_commit_time_ns(f->db, 11), 0);
	assert_true(db_commit_time_ns(f->db, 13) >= after);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(commit_wakes_another_process),
		TEST(two_processes_publish),
		TEST(page_follows_the_journal_after_a_crash),
		TEST(a_commit_nobody_told_of_is_told),
		TEST(commit_times_are_known_for_a_while),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
