/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/store/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/base/clock.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"

/* ---- helpers ---- */

static int open_quietly(const struct db_options *o, char *why, size_t why_bytes)
{
	struct db *db;
	int err = db_open(o, &db, why, why_bytes);

	if (err == DB_OK)
		db_close(&db);
	return err;
}

static uint64_t head(struct db *db)
{
	struct db_txn txn;
	uint64_t seq;

	assert_int_equal(db_read(db, &txn), DB_OK);
	seq = journal_head(&txn);
	db_read_end(&txn);
	return seq;
}

static void tell(int fd)
{
	assert_int_equal(write(fd, "x", 1), 1);
}

static void hear(int fd)
{
	char c;

	assert_int_equal(read(fd, &c, 1), 1);
}

/* A child that runs fn with two pipes to us; in the child nothing of cmocka is used. */
struct child {
	pid_t pid;
	int from, to;
};
typedef void child_fn(const struct fixture *f, int from_parent, int to_parent);

static struct child child_start(struct fixture *f, child_fn *fn)
{
	int up[2], down[2];
	struct child c;

	assert_int_equal(pipe(up), 0);
	assert_int_equal(pipe(down), 0);
	fflush(NULL);
	c.pid = fork();
	assert_true(c.pid >= 0);
	if (c.pid == 0) {
		close(up[0]);
		close(down[1]);
		fn(f, down[0], up[1]);
		_exit(0);
	}
	close(up[1]);
	close(down[0]);
	c.from = up[0];
	c.to = down[1];
	return c;
}

static int child_end(struct child *c, int signal)
{
	int status;

	if (signal)
		kill(c->pid, signal);
	close(c->to);
	assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
	close(c->from);
	return status;
}

struct body_write {
	uint32_t mailbox;
	size_t bytes, count;
	const uint8_t *body;
};

static int body_fn(struct db_txn *txn, void *arg)
{
	struct body_write *w = arg;
	struct item_new n = {.item_class = ITEM_EMAIL, .body = bytes_of(w->body, w->bytes)};
	uint64_t id;
	int err = DB_OK;

	for (size_t i = 0; err == DB_OK && i < w->count; i++)
		err = item_add(txn, w->mailbox, FOLDER_ID_INBOX, &n, 0, &id);
	return err;
}

static int delete_oldest_fn(struct db_txn *txn, void *arg)
{
	struct item_pos pos = {.time_s = INT64_MIN};
	uint32_t mailbox = *(uint32_t *)arg;
	int err = item_at_or_after(txn, mailbox, FOLDER_ID_INBOX, &pos);

	return err ? err : item_delete(txn, mailbox, FOLDER_ID_INBOX, pos.id, 0);
}

/* ---- opening ---- */

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

/* ---- transactions ---- */

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

/* ---- the map ---- */

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

/* ---- other processes ---- */

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

/* ---- the notify page ---- */

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

/* ---- backup ---- */

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

/* ---- the checker ---- */

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
		TEST(files_are_private),
		TEST(missing_store_is_named),
		TEST(other_format_is_refused),
		TEST(foreign_files_are_refused),
		TEST(second_server_is_refused),
		TEST(a_killed_server_is_told_from_one_that_closed),
		TEST(a_lock_handed_over_is_not_leaked),
		TEST(one_process_opens_it_once),
		TEST(failed_write_leaves_nothing),
		TEST(first_failure_sticks),
		TEST(reads_are_snapshots),
		TEST(map_grows_under_readers),
		TEST(full_map_is_an_error_and_no_more),
		TEST(server_limit_holds_for_tools),
		TEST(map_grown_by_another_process_is_followed),
		TEST(full_disk_is_an_error_and_no_more),
		TEST(a_root_that_cannot_be_written_loses_the_store),
		TEST(dead_readers_are_cleared),
		TEST(commit_wakes_another_process),
		TEST(two_processes_publish),
		TEST(page_follows_the_journal_after_a_crash),
		TEST(a_commit_nobody_told_of_is_told),
		TEST(commit_times_are_known_for_a_while),
		TEST(backup_while_writing),
		TEST(checker_misses_every_row),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
