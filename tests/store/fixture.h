/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/store/fixture.h - a store in a directory of its own, removed afterwards.
 * Memory: struct fixture belongs to the test. Errors: a failed assertion. */
#ifndef ROOST_TESTS_STORE_FIXTURE_H
#define ROOST_TESTS_STORE_FIXTURE_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "store/account.h"
#include "store/check.h"
#include "store/db.h"
#include "store/device.h"
#include "store/journal.h"
#include "store/mailbox.h"

struct fixture {
	char dir[256];
	struct db_options options;
	struct db *db;
};

static inline void fixture_dir(char *dir, size_t cap)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, cap, "%s/roost-store-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
}

static inline int fixture_remove_one(
	const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static inline void fixture_remove(const char *dir)
{
	nftw(dir, fixture_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static inline void fixture_open(struct fixture *f)
{
	char why[512] = "";

	if (db_open(&f->options, &f->db, why, sizeof(why)) != DB_OK)
		fail_msg("db_open: %s", why);
}

/* Commits are not durable unless a test asks for it: most do not look at the disk. */
static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	fixture_dir(f->dir, sizeof(f->dir));
	f->options = (struct db_options){.dir = f->dir, .create = true, .no_sync = true};
	fixture_open(f);
	*state = f;
	return 0;
}

/* Whatever a test did: records and indexes agree. */
static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;
	int found = 0;

	if (f->db) {
		found = store_check(f->db, stderr);
		db_close(&f->db);
	}
	fixture_remove(f->dir);
	free(f);
	return found;
}

struct fixture_account {
	const char *address;
	struct account account;
};

static inline int fixture_account_fn(struct db_txn *txn, void *arg)
{
	struct fixture_account *a = arg;

	return account_create(txn, bytes_str(a->address), "", "", 1000, &a->account);
}

static inline uint32_t fixture_account(struct fixture *f, const char *address)
{
	struct fixture_account a = {.address = address};

	assert_int_equal(db_write(f->db, fixture_account_fn, &a), DB_OK);
	return a.account.mailbox;
}

struct fixture_item {
	uint32_t mailbox, folder, origin;
	struct item_new item;
	uint64_t id;
};

static inline int fixture_item_fn(struct db_txn *txn, void *arg)
{
	struct fixture_item *i = arg;

	return item_add(txn, i->mailbox, i->folder, &i->item, i->origin, &i->id);
}

static inline uint64_t fixture_deliver(
	struct fixture *f, uint32_t mailbox, uint32_t folder, int64_t time_s)
{
	struct fixture_item i = {.mailbox = mailbox,
		.folder = folder,
		.item = {.item_class = ITEM_EMAIL,
			.time_s = time_s,
			.summary = bytes_str("summary"),
			.body = bytes_str("body")}};

	assert_int_equal(db_write(f->db, fixture_item_fn, &i), DB_OK);
	return i.id;
}

#endif
