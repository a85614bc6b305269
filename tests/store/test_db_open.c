/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Opening and closing (store/db_open.c). */
#include "tests/store/db_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"

/* To the operator: nobody else on the machine can read the mail. */
static void files_are_private(void **state)
{
	struct fixture *f = *state;
	static const char *const names[] = {"data.mdb", "lock.mdb", "notify", "lock"};
	struct stat st;

	db_close(&f->db);
	fixture_remove(f->dir);
	f->options.server = true;
	fixture_open(f);
	assert_int_equal(stat(f->dir, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char path[512];
		snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
}

static void missing_store_is_named(void **state)
{
	struct fixture *f = *state;
	char why[256] = "";
	char dir[512];
	struct db_options o = {.dir = dir};

	snprintf(dir, sizeof(dir), "%s/absent", f->dir);
	assert_int_equal(open_quietly(&o, why, sizeof(why)), DB_NOT_FOUND);
	assert_non_null(strstr(why, "absent"));
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(open_quietly(&o, why, sizeof(why)), DB_NOT_FOUND);
	o.create = true;
	assert_int_equal(open_quietly(&o, why, sizeof(why)), DB_OK);
}

static int other_format_fn(struct db_txn *txn, void *arg)
{
	struct record_meta meta = {.format = 99};
	struct record_buf buf;
	struct key key;

	(void)arg;
	return rows_put(txn, key_meta(&key, KEY_META_FORMAT), record_encode_meta(&buf, &meta));
}

/* To the operator: a downgrade says so and touches nothing. */
static void other_format_is_refused(void **state)
{
	struct fixture *f = *state;
	char why[256] = "";

	assert_int_equal(db_write(f->db, other_format_fn, NULL), DB_OK);
	db_close(&f->db);
	assert_int_equal(open_quietly(&f->options, why, sizeof(why)), DB_VERSION);
	assert_non_null(strstr(why, "99"));
}

static int forget_format_fn(struct db_txn *txn, void *arg)
{
	struct key key;

	(void)arg;
	return rows_del(txn, key_meta(&key, KEY_META_FORMAT));
}

static void foreign_files_are_refused(void **state)
{
	struct fixture *f = *state;
	char why[256] = "", path[512];
	int fd;

	assert_int_equal(db_write(f->db, forget_format_fn, NULL), DB_OK);
	db_close(&f->db);
	assert_int_equal(open_quietly(&f->options, why, sizeof(why)), DB_VERSION);
	assert_non_null(strstr(why, "not written by Roost"));

	snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
	fd = open(path, O_WRONLY);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(pwrite(fd, "junk", 4, i * 4), 4);
	close(fd);
	assert_int_equal(open_quietly(&f->options, why, sizeof(why)), DB_CORRUPT);
}

static void hold_server_lock(const struct fixture *f, int from, int to)
{
	struct db_options o = f->options;
	struct db *db;
	char c;

	o.server = true;
	if (db_open(&o, &db, NULL, 0) == DB_OK && write(to, "x", 1) == 1)
		while (read(from, &c, 1) == 1)
			;
}

/* To the operator: a second server names the first. */
static void second_server_is_refused(void **state)
{
	struct fixture *f = *state;
	char why[512] = "", pid[32];
	struct child c;

	db_close(&f->db);
	c = child_start(f, hold_server_lock);
	hear(c.from);
	f->options.server = true;
	assert_int_equal(open_quietly(&f->options, why, sizeof(why)), DB_LOCKED);
	snprintf(pid, sizeof(pid), "%d", (int)c.pid);
	assert_non_null(strstr(why, pid));
	f->options.server = false;
	assert_int_equal(open_quietly(&f->options, why, sizeof(why)), DB_OK);
	child_end(&c, SIGKILL);
	f->options.server = true;
	assert_int_equal(open_quietly(&f->options, why, sizeof(why)), DB_OK);
}

static bool left_open(const struct db_options *o)
{
	struct db *db;
	bool left;

	assert_int_equal(db_open(o, &db, NULL, 0), DB_OK);
	left = db_left_open(db);
	db_close(&db);
	return left;
}

/* Who was killed is told from who closed, so that the next one is patient with what is left of him. */
static void a_killed_server_is_told_from_one_that_closed(void **state)
{
	struct fixture *f = *state;
	struct child c;

	db_close(&f->db);
	f->options.server = true;
	assert_false(left_open(&f->options));
	assert_false(left_open(&f->options));
	c = child_start(f, hold_server_lock);
	hear(c.from);
	child_end(&c, SIGKILL);
	assert_true(left_open(&f->options));
	assert_false(left_open(&f->options));
	f->options.server = false;
	assert_false(left_open(&f->options)); /* (to a tool it is nothing) */
	f->options.server = true;
	assert_false(left_open(&f->options));
}

/* To the next server: a lock that was handed over to an opening that fails is not kept by anybody. */
static void a_lock_handed_over_is_not_leaked(void **state)
{
	struct fixture *f = *state;
	struct db_options o;
	char nowhere[300], why[256] = "";
	int fd;

	db_close(&f->db);
	f->options.server = true;
	fixture_open(f);
	snprintf(nowhere, sizeof(nowhere), "%s/nowhere", f->dir);
	const char *const dirs[] = {"", nowhere, f->dir};
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		fd = dup(db_lock_fd(f->db));
		assert_true(fd > 0);
		o = (struct db_options){.dir = dirs[i], .server = true, .lock_fd = fd};
		assert_true(open_quietly(&o, why, sizeof(why)) < 0);
		assert_int_equal(fcntl(fd, F_GETFD), -1);
		assert_int_equal(errno, EBADF);
	}
	/* ... and the one that holds it still has not been called closed. */
	memset(why, 0, sizeof(why));
	assert_true(pread(db_lock_fd(f->db), why, sizeof(why) - 1, 0) > 0);
	assert_null(strstr(why, "closed"));
}

/* LMDB would lose its locks. */
static void one_process_opens_it_once(void **state)
{
	struct fixture *f = *state;
	char why[256] = "";

	assert_int_equal(open_quietly(&f->options, why, sizeof(why)), DB_LOCKED);
	db_close(&f->db);
	fixture_open(f);
}

/* A tool that was told nothing, or more, stays below what the server was told; also when that has
 * ended. */
static void server_limit_holds_for_tools(void **state)
{
	struct fixture *f = *state;
	static uint8_t body[3000];
	struct body_write w = {.bytes = sizeof(body), .count = 1, .body = body};
	struct db_stats stats;
	int err = DB_OK;

	db_close(&f->db);
	fixture_remove(f->dir);
	f->options.server = true;
	f->options.map_bytes = 128 << 10;
	f->options.map_bytes_max = 512 << 10;
	fixture_open(f);
	w.mailbox = fixture_account(f, "a@example.org");
	db_close(&f->db);
	f->options.server = f->options.create = false;
	f->options.map_bytes = f->options.map_bytes_max = 0;
	fixture_open(f);
	for (int n = 0; n < 1000 && err == DB_OK; n++)
		err = db_write(f->db, body_fn, &w);
	assert_int_equal(err, DB_MAP_FULL);
	assert_int_equal(db_stats(f->db, &stats), DB_OK);
	assert_true(stats.map_bytes <= 512 << 10);
	/* The next server may be told more, and then its tools may. */
	db_close(&f->db);
	f->options.server = true;
	f->options.map_bytes_max = 1024 << 10;
	fixture_open(f);
	db_close(&f->db);
	f->options.server = false;
	f->options.map_bytes_max = 0;
	fixture_open(f);
	assert_int_equal(db_write(f->db, body_fn, &w), DB_OK);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(files_are_private),
		TEST(missing_store_is_named),
		TEST(other_format_is_refused),
		TEST(foreign_files_are_refused),
		TEST(second_server_is_refused),
		TEST(a_killed_server_is_told_from_one_that_closed),
		TEST(a_lock_handed_over_is_not_leaked),
		TEST(one_process_opens_it_once),
		TEST(server_limit_holds_for_tools),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("db_open", tests, NULL, NULL);
}
