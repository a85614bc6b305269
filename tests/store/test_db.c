/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Transactions and the map (store/db.c). */
#include "tests/store/db_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "store/key.h"
#include "store/rows.h"

static int half_way_fn(struct db_txn *txn, void *arg)
{
	struct account out;
	int err = account_create(txn, bytes_str("a@example.org"), "", "", 0, &out);

	return err ? err : *(int *)arg;
}

static void failed_write_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	int err = DB_INVALID;

	assert_int_equal(db_write(f->db, half_way_fn, &err), DB_INVALID);
	assert_int_equal(head(f->db), 0);
	assert_int_equal(atomic_load(&db_notify(f->db)->word), 0);
	err = DB_OK;
	assert_int_equal(db_write(f->db, half_way_fn, &err), DB_OK);
	assert_int_equal(head(f->db), 10);
}

static int sticky_fn(struct db_txn *txn, void *arg)
{
	struct key key;
	uint8_t long_key[600] = {1};

	(void)arg;
	assert_int_equal(
		rows_put(txn, bytes_of(long_key, sizeof(long_key)), bytes_str("x")), DB_INVALID);
	assert_int_equal(rows_put(txn, key_meta(&key, 9), bytes_str("x")), DB_INVALID);
	return DB_OK;
}

static void first_failure_sticks(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(db_write(f->db, sticky_fn, NULL), DB_INVALID);
}

static void *deliver_thread(void *arg)
{
	struct fixture *f = arg;

	fixture_deliver(f, 1, FOLDER_ID_INBOX, 1);
	return NULL;
}

/* What is committed after its beginning a read does not see; one begun later does. */
static void reads_are_snapshots(void **state)
{
	struct fixture *f = *state;
	struct db_txn one, two;
	pthread_t thread;

	assert_int_equal(fixture_account(f, "a@example.org"), 1);
	assert_int_equal(db_read(f->db, &one), DB_OK);
	assert_int_equal(pthread_create(&thread, NULL, deliver_thread, f), 0);
	pthread_join(thread, NULL);
	assert_int_equal(db_read(f->db, &two), DB_OK);
	assert_int_equal(journal_head(&one), 10);
	assert_int_equal(journal_head(&two), 11);
	db_read_end(&one);
	assert_int_equal(journal_head(&two), 11);
	db_read_end(&two);
}

struct growth {
	struct db *db;
	uint32_t mailbox;
	_Atomic bool stop;
	_Atomic uint64_t reads;
};

static void *growth_reader(void *arg)
{
	struct growth *g = arg;
	uint64_t last = 0;

	while (!atomic_load(&g->stop)) {
		struct item_pos pos = {.time_s = INT64_MIN};
		struct db_txn txn;
		struct bytes body;
		uint64_t seq;

		CHECK(db_read(g->db, &txn) == DB_OK);
		seq = journal_head(&txn);
		CHECK(seq >= last);
		last = seq;
		if (item_at_or_after(&txn, g->mailbox, FOLDER_ID_INBOX, &pos) == DB_OK) {
			CHECK(item_body(&txn, g->mailbox, pos.id, &body) == DB_OK);
			CHECK(body.p[0] == 'b' && body.p[body.n - 1] == 'b');
		}
		db_read_end(&txn);
		atomic_fetch_add(&g->reads, 1);
	}
	return NULL;
}

static void map_grows_under_readers(void **state)
{
	struct fixture *f = *state;
	static uint8_t body[20000];
	struct body_write w = {.bytes = sizeof(body), .count = 3, .body = body};
	struct growth g = {};
	struct db_stats stats;
	pthread_t threads[3];

	db_close(&f->db);
	fixture_remove(f->dir);
	f->options.map_bytes = 256 << 10;
	f->options.map_bytes_max = 64 << 20;
	fixture_open(f);
	memset(body, 'b', sizeof(body));
	g.db = f->db;
	g.mailbox = w.mailbox = fixture_account(f, "a@example.org");
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, growth_reader, &g), 0);
	for (int i = 0; i < 200; i++)
		assert_int_equal(db_write(f->db, body_fn, &w), DB_OK);
	/* Every reader had its turns. */
	while (atomic_load(&g.reads) < 100)
		sched_yield();
	atomic_store(&g.stop, true);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(db_stats(f->db, &stats), DB_OK);
	assert_true(stats.map_bytes >= 16 << 20);
	assert_true(stats.used_bytes <= stats.map_bytes);
}

static void full_map_is_an_error_and_no_more(void **state)
{
	struct fixture *f = *state;
	static uint8_t body[3000];
	struct body_write w = {.bytes = sizeof(body), .count = 1, .body = body};
	int err = DB_OK, n = 0;

	db_close(&f->db);
	fixture_remove(f->dir);
	f->options.map_bytes = 128 << 10;
	f->options.map_bytes_max = 512 << 10;
	fixture_open(f);
	w.mailbox = fixture_account(f, "a@example.org");
	for (; n < 1000 && err == DB_OK; n++)
		err = db_write(f->db, body_fn, &w);
	assert_int_equal(err, DB_MAP_FULL);
	assert_true(n > 50);
	/* Reading goes on, and room can be made. */
	assert_true(head(f->db) > 50);
	for (int i = 0; i < 20; i++)
		assert_int_equal(db_write(f->db, delete_oldest_fn, &w.mailbox), DB_OK);
	assert_int_equal(db_write(f->db, body_fn, &w), DB_OK);
}

static void grow_elsewhere(const struct fixture *f, int from, int to)
{
	static uint8_t body[20000];
	struct body_write w = {.mailbox = 1, .bytes = sizeof(body), .count = 100, .body = body};
	struct db *db;
	char c;

	while (read(from, &c, 1) != 1)
		;
	memset(body, 'b', sizeof(body));
	if (db_open(&f->options, &db, NULL, 0) == DB_OK && db_write(db, body_fn, &w) == DB_OK &&
		write(to, "x", 1) == 1)
		db_close(&db);
}

/* The tool that imports a mailbox grows the file; the server takes it as it comes. */
static void map_grown_by_another_process_is_followed(void **state)
{
	struct fixture *f = *state;
	struct db_stats stats;
	struct child c;

	db_close(&f->db);
	fixture_remove(f->dir);
	f->options.map_bytes = 256 << 10;
	c = child_start(f, grow_elsewhere);
	fixture_open(f);
	fixture_account(f, "a@example.org");
	tell(c.to);
	hear(c.from);
	assert_int_equal(head(f->db), 110);
	assert_int_equal(db_stats(f->db, &stats), DB_OK);
	assert_true(stats.map_bytes >= 2 << 20);
	assert_int_equal(child_end(&c, 0), 0);
	fixture_deliver(f, 1, FOLDER_ID_INBOX, 5);
}

static void fill_disk(const struct fixture *f, int from, int to)
{
	static uint8_t body[100000];
	struct body_write w = {.bytes = sizeof(body), .count = 1, .body = body};
	struct rlimit limit;
	struct fixture_account a = {.address = "a@example.org"};
	struct db_options o = f->options;
	struct db *db;
	int err = DB_OK;

	(void)from;
	o.no_sync = false;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &limit);
	limit.rlim_cur = 2000000; /* no multiple of a page: the last write is a short one */
	if (setrlimit(RLIMIT_FSIZE, &limit) || db_open(&o, &db, NULL, 0) ||
		db_write(db, fixture_account_fn, &a))
		_exit(1);
	w.mailbox = a.account.mailbox;
	for (int i = 0; i < 100 && err == DB_OK; i++)
		err = db_write(db, body_fn, &w);
	if (err != DB_DISK_FULL)
		_exit(2);
	if (db_write(db, body_fn, &w) != DB_DISK_FULL)
		_exit(3);
	/* What was acknowledged is there, and with room again writing goes on. */
	if (store_check(db, stderr) != 0)
		_exit(4);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_FSIZE, &limit);
	if (db_write(db, body_fn, &w) != DB_OK || store_check(db, stderr) != 0)
		_exit(5);
	db_close(&db);
	if (write(to, "x", 1) != 1)
		_exit(6);
}

static void full_disk_is_an_error_and_no_more(void **state)
{
	struct fixture *f = *state;
	struct child c;

	db_close(&f->db);
	c = child_start(f, fill_disk);
	assert_int_equal(child_end(&c, 0), 0);
	fixture_open(f);
}

/* In the place of libc's, LMDB's calls included: a disk that refuses the two root pages. */
static atomic_bool roots_fail;

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	if (atomic_load(&roots_fail) && at < 2 * sysconf(_SC_PAGESIZE)) {
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, p, n, at);
}

static int touch_fn(struct db_txn *txn, void *arg)
{
	return folder_touch(txn, *(uint32_t *)arg, FOLDER_ID_INBOX);
}

/* To the operator: a store that only opening anew can help says just that, to readers as to writers, and
 * opening anew does help. */
static void a_root_that_cannot_be_written_loses_the_store(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct db_txn txn;
	uint64_t seq = head(f->db);

	atomic_store(&roots_fail, true);
	assert_int_equal(db_write(f->db, touch_fn, &mailbox), DB_IO);
	atomic_store(&roots_fail, false);
	assert_int_equal(db_read(f->db, &txn), DB_LOST);
	assert_int_equal(db_write(f->db, touch_fn, &mailbox), DB_LOST);
	assert_int_equal(db_publish_missed(f->db), DB_LOST);
	db_close(&f->db);
	fixture_open(f);
	assert_int_equal(head(f->db), seq);
	assert_int_equal(db_write(f->db, touch_fn, &mailbox), DB_OK);
	assert_int_equal(head(f->db), seq + 1);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(failed_write_leaves_nothing),
		TEST(first_failure_sticks),
		TEST(reads_are_snapshots),
		TEST(map_grows_under_readers),
		TEST(full_map_is_an_error_and_no_more),
		TEST(map_grown_by_another_process_is_followed),
		TEST(full_disk_is_an_error_and_no_more),
		TEST(a_root_that_cannot_be_written_loses_the_store),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("db", tests, NULL, NULL);
}
