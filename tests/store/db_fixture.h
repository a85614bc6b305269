/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/store/db_fixture.h - children, and what tests of the store itself write.
 * Memory: a struct child belongs to the test. Errors: a failed assertion; in a child its exit. */
#ifndef ROOST_TESTS_STORE_DB_FIXTURE_H
#define ROOST_TESTS_STORE_DB_FIXTURE_H

#include "tests/store/fixture.h"

#include <signal.h>
#include <sys/wait.h>

static inline int open_quietly(const struct db_options *o, char *why, size_t why_bytes)
{
	struct db *db;
	int err = db_open(o, &db, why, why_bytes);

	if (err == DB_OK)
		db_close(&db);
	return err;
}

static inline uint64_t head(struct db *db)
{
	struct db_txn txn;
	uint64_t seq;

	assert_int_equal(db_read(db, &txn), DB_OK);
	seq = journal_head(&txn);
	db_read_end(&txn);
	return seq;
}

static inline void tell(int fd)
{
	assert_int_equal(write(fd, "x", 1), 1);
}

static inline void hear(int fd)
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

static inline struct child child_start(struct fixture *f, child_fn *fn)
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

static inline int child_end(struct child *c, int signal)
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

static inline int body_fn(struct db_txn *txn, void *arg)
{
	struct body_write *w = arg;
	struct item_new n = {.item_class = ITEM_EMAIL, .body = bytes_of(w->body, w->bytes)};
	uint64_t id;
	int err = DB_OK;

	for (size_t i = 0; err == DB_OK && i < w->count; i++)
		err = item_add(txn, w->mailbox, FOLDER_ID_INBOX, &n, 0, &id);
	return err;
}

static inline int delete_oldest_fn(struct db_txn *txn, void *arg)
{
	struct item_pos pos = {.time_s = INT64_MIN};
	uint32_t mailbox = *(uint32_t *)arg;
	int err = item_at_or_after(txn, mailbox, FOLDER_ID_INBOX, &pos);

	return err ? err : item_delete(txn, mailbox, FOLDER_ID_INBOX, pos.id, 0);
}

#endif
