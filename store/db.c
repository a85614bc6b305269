/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/db_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/metrics.h"
#include "store/journal.h"

static _Atomic uint32_t next_stripe;
static _Thread_local uint32_t my_stripe; /* + 1; 0: none yet */
/* Reads that this thread has open, per store: it may enter a closing gate again (else it would
 * wait for itself), and it must not write. */
static _Thread_local uint8_t my_reads[DB_OPEN_MAX];

const char *db_strerror(int err)
{
	switch (err) {
	case DB_OK:
		return "no error";
	case DB_NOT_FOUND:
		return "not found";
	case DB_EXISTS:
		return "exists already";
	case DB_MAP_FULL:
		return "the store has reached its greatest size (store.map_max_mib)";
	case DB_DISK_FULL:
		return "no space left on the store's disk";
	case DB_VERSION:
		return "the store was written by another version of Roost";
	case DB_LOCKED:
		return "the store is in use by another server";
	case DB_IO:
		return "input/output error in the store";
	case DB_CORRUPT:
		return "a stored record is damaged";
	case DB_INVALID:
		return "invalid argument";
	case DB_GONE:
		return "journal rows are no longer there";
	case DB_READERS_FULL:
		return "too many readers of the store";
	case DB_CLOSED:
		return "the store is closing";
	case DB_LOST:
		return "a root page of the store could not be written: it must be opened anew";
	}
	return "unknown error";
}

int db_from_mdb(int rc)
{
	switch (rc) {
	case MDB_SUCCESS:
		return DB_OK;
	case MDB_NOTFOUND:
		return DB_NOT_FOUND;
	case MDB_KEYEXIST:
		return DB_EXISTS;
	case MDB_MAP_FULL:
		return DB_MAP_FULL;
	case MDB_READERS_FULL:
		return DB_READERS_FULL;
	case MDB_PANIC:
		return DB_LOST;
	case MDB_VERSION_MISMATCH:
		return DB_VERSION;
	case MDB_INVALID:
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
		return DB_CORRUPT;
	case MDB_BAD_VALSIZE:
	case MDB_TXN_FULL:
		return DB_INVALID;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return DB_DISK_FULL;
	}
	return DB_IO;
}

int db_fail(int err, char *why, size_t why_bytes, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (why && why_bytes)
		vsnprintf(why, why_bytes, fmt, ap);
	va_end(ap);
	return err;
}

int db_errno(void)
{
	return errno == ENOENT ? DB_NOT_FOUND : db_from_mdb(errno);
}

/* ---- the gate: readers of this process are out while the map moves ---- */

static struct stripe *stripe_mine(struct db *db, uint32_t *index_out)
{
	if (my_stripe == 0)
		my_stripe =
			atomic_fetch_add_explicit(&next_stripe, 1, memory_order_relaxed) % STRIPES +
			1;
	*index_out = my_stripe - 1;
	return &db->stripes[my_stripe - 1];
}

static void gate_enter(struct db *db, struct stripe *s)
{
	bool inside = my_reads[db->index] > 0;

	for (;;) {
		/* Count first, then look: map_move closes the gate first and then counts, so one of
		 * the two sees the other (both sequentially consistent). */
		atomic_fetch_add(&s->readers, 1);
		if (inside || atomic_load(&db->gate) == 0)
			break;
		atomic_fetch_sub(&s->readers, 1);
		futex_wake_private(&s->readers);
		futex_wait_private(&db->gate, 1);
	}
	my_reads[db->index]++;
}

static void gate_leave(struct db *db, struct stripe *s)
{
	my_reads[db->index]--;
	atomic_fetch_sub(&s->readers, 1);
	if (__builtin_expect(atomic_load(&db->gate) != 0, 0))
		futex_wake_private(&s->readers);
}

/* Resizes the map (0: to what another process made of it). The caller holds write_mutex and
 * has no transaction open. */
static int map_move(struct db *db, uint64_t bytes)
{
	uint32_t n;
	int rc;

	CHECK(my_reads[db->index] == 0);
	/* Before the gate closes: a copy takes seconds, and readers go on meanwhile. */
	while ((n = atomic_load(&db->backups)) != 0)
		futex_wait_private(&db->backups, n);
	atomic_store(&db->gate, 1);
	for (size_t i = 0; i < STRIPES; i++)
		while ((n = atomic_load(&db->stripes[i].readers)) != 0)
			futex_wait_private(&db->stripes[i].readers, n);
	rc = mdb_env_set_mapsize(db->env, bytes);
	atomic_store(&db->gate, 0);
	futex_wake_private(&db->gate);
	return db_from_mdb(rc);
}

uint64_t db_map_size(struct db *db)
{
	MDB_envinfo info;

	mdb_env_info(db->env, &info);
	return info.me_mapsize;
}

int db_map_grow(struct db *db)
{
	uint64_t now = db_map_size(db), next = now * 2;

	if (next > db->map_max)
		next = db->map_max;
	if (next <= now)
		return DB_MAP_FULL;
	return map_move(db, next);
}

void db_write_lock(struct db *db)
{
	/* EDEADLK: db_write inside db_write. */
	CHECK(pthread_mutex_lock(&db->write_mutex) == 0);
}

void db_write_unlock(struct db *db)
{
	CHECK(pthread_mutex_unlock(&db->write_mutex) == 0);
}

/* ---- read transactions ---- */

void db_handle_free(struct handle *h)
{
	if (h->cursor)
		mdb_cursor_close(h->cursor);
	if (h->txn)
		mdb_txn_abort(h->txn);
	free(h);
}

static struct handle *cache_take(struct stripe *s)
{
	for (size_t i = 0; i < CACHED_PER_STRIPE; i++) {
		if (!atomic_load_explicit(&s->cached[i], memory_order_relaxed))
			continue;
		struct handle *h =
			atomic_exchange_explicit(&s->cached[i], NULL, memory_order_acq_rel);
		if (h)
			return h;
	}
	return NULL;
}

static void cache_give(struct stripe *s, struct handle *h)
{
	for (size_t i = 0; i < CACHED_PER_STRIPE; i++) {
		struct handle *none = NULL;
		if (!atomic_load_explicit(&s->cached[i], memory_order_relaxed) &&
			atomic_compare_exchange_strong_explicit(&s->cached[i], &none, h,
				memory_order_acq_rel, memory_order_relaxed))
			return;
	}
	db_handle_free(h);
}

int db_read(struct db *db, struct db_txn *txn)
{
	bool cleared = false;
	uint32_t index;
	struct stripe *s = stripe_mine(db, &index);

	for (;;) {
		struct handle *h;
		int rc;

		gate_enter(db, s);
		h = cache_take(s);
		if (h) {
			rc = mdb_txn_renew(h->txn);
		} else if ((h = calloc(1, sizeof(*h))) == NULL) {
			rc = ENOMEM;
		} else {
			rc = mdb_txn_begin(db->env, NULL, MDB_RDONLY, &h->txn);
			if (rc)
				h->txn = NULL;
		}
		if (rc == 0) {
			h->cursor_bound = false;
			*txn = (struct db_txn){.db = db, .mdb = h, .slot = index};
			return DB_OK;
		}
		if (h)
			db_handle_free(h);
		gate_leave(db, s);
		if (rc == MDB_MAP_RESIZED && my_reads[db->index] == 0) {
			db_write_lock(db);
			rc = map_move(db, 0);
			db_write_unlock(db);
			if (rc == 0)
				continue;
			return rc;
		}
		if (rc == MDB_READERS_FULL && !cleared) {
			cleared = true;
			db_clear_stale_readers(db);
			continue;
		}
		return db_from_mdb(rc);
	}
}

void db_read_end(struct db_txn *txn)
{
	struct db *db = txn->db;
	struct stripe *s = &db->stripes[txn->slot];
	struct handle *h = txn->mdb;

	CHECK(h && !txn->write);
	CHECK(my_stripe == txn->slot + 1); /* a transaction belongs to one thread */
	txn->mdb = NULL;
	mdb_txn_reset(h->txn);
	cache_give(s, h);
	gate_leave(db, s);
}

bool db_is_reading(const struct db *db)
{
	return my_reads[db->index] > 0;
}

/* ---- write transactions ---- */

static int write_begin(struct db *db, struct db_txn *txn)
{
	struct handle *h = &db->write_handle;
	int rc;

	memset(h, 0, sizeof(*h));
	while ((rc = mdb_txn_begin(db->env, NULL, 0, &h->txn)) == MDB_MAP_RESIZED) {
		rc = map_move(db, 0);
		if (rc)
			return rc;
	}
	if (rc)
		return db_from_mdb(rc);
	*txn = (struct db_txn){.db = db, .mdb = h, .write = true};
	txn->seq = h->base_seq = journal_head(txn);
	return DB_OK;
}

static void write_abort(struct db_txn *txn)
{
	struct handle *h = txn->mdb;

	if (h->cursor)
		mdb_cursor_close(h->cursor);
	mdb_txn_abort(h->txn);
	memset(h, 0, sizeof(*h));
	txn->mdb = NULL;
}

/* LMDB calls a short write EIO, and a disk that fills up gives one before it gives ENOSPC. */
static bool disk_is_full(struct db *db)
{
	const uint64_t margin = 4u << 20;
	struct statvfs fs;
	struct rlimit limit;
	struct stat st;

	if (fstatvfs(db->dir_fd, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < margin)
		return true;
	return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
	       fstatat(db->dir_fd, "data.mdb", &st, 0) == 0 &&
	       (uint64_t)st.st_size + margin > limit.rlim_cur;
}

static int write_commit(struct db_txn *txn)
{
	struct db *db = txn->db;
	struct handle *h = txn->mdb;
	uint64_t base_seq = h->base_seq, t0, t1;
	int rc;

	if (h->touched == 0) {
		write_abort(txn);
		return DB_OK;
	}
	if (h->cursor)
		mdb_cursor_close(h->cursor);
	t0 = clock_mono_ns();
	rc = mdb_txn_commit(h->txn); /* durable when it returns, unless no_sync */
	t1 = clock_mono_ns();
	memset(h, 0, sizeof(*h));
	txn->mdb = NULL;
	if (rc)
		return rc == EIO && disk_is_full(db) ? DB_DISK_FULL : db_from_mdb(rc);
	atomic_fetch_add_explicit(&db->commits, 1, memory_order_relaxed);
	METRIC_INC(STORE_COMMITS);
	METRIC_ADD(STORE_CHANGES, (int64_t)(txn->seq - base_seq));
	metric_observe_ns(H_COMMIT, t1 - t0);
	if (txn->seq != base_seq)
		notify_publish(db, txn->seq, t1);
	return DB_OK;
}

int db_write(struct db *db, db_write_fn *fn, void *arg)
{
	struct db_txn txn;
	int err;

	CHECK(!db_is_reading(db)); /* the map could not grow */
	db_write_lock(db);
	for (;;) {
		err = write_begin(db, &txn);
		if (err)
			break;
		err = fn(&txn, arg);
		if (txn.err)
			err = txn.err;
		if (err == DB_OK)
			err = write_commit(&txn);
		else
			write_abort(&txn);
		if (err != DB_MAP_FULL || db_map_grow(db) != DB_OK)
			break;
	}
	db_write_unlock(db);
	return err;
}
