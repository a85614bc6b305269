/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/db.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/metrics.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"

/* What a directory must have been written with. Raised when keys or the notify page change. */
enum { STORE_FORMAT = 1 };

enum {
	READERS_MAX = 1022, /* LMDB's table, all processes together; its file stays below 64 KiB */
	STRIPES = 64,       /* readers of different threads rarely share a cache line */
	CACHED_PER_STRIPE = 6,
	DB_OPEN_MAX = 64, /* stores open in one process: one for a server, many in a simulation */
	PATH_BYTES = 4096,
};

/* A transaction with its cursor. Reset read transactions keep their reader slot and wait in the
 * stripes, so that beginning one is a renew: no lock, no malloc. */
struct handle {
	MDB_txn *txn;
	MDB_cursor *cursor;
	bool cursor_bound; /* to this run of txn */
	uint64_t touched;  /* write only: puts and deletes so far */
	uint64_t bytes;    /* write only: of the values put */
	uint64_t base_seq; /* write only: the journal's head at the beginning */
};

struct stripe {
	_Alignas(64) _Atomic uint32_t readers; /* of this process, inside a read transaction */
	struct handle *_Atomic cached[CACHED_PER_STRIPE];
};

struct notify_file {
	struct db_notify page;
	/* CLOCK_MONOTONIC begins anew with the machine: times of an earlier boot must go. */
	char boot_id[40];
};

struct db {
	MDB_env *env;
	MDB_dbi dbi;
	uint32_t index; /* in opened[] */
	uint64_t map_max;
	bool no_sync;
	int lock_fd, notify_fd, dir_fd;
	struct notify_file *notify;

	/* One writer of this process at a time. LMDB has such a lock of its own, but the map may
	 * only be resized when no write transaction of this process exists, and that is decided
	 * here. */
	pthread_mutex_t write_mutex;
	struct handle write_handle;
	_Atomic uint32_t backups; /* copies running: the map must stay where it is */
	_Atomic uint64_t stale_cleared, commits;

	_Atomic uint32_t gate; /* 1: the map is about to move, readers stay out */
	struct stripe stripes[STRIPES];

	char dir[PATH_BYTES];
};

/* Stores open in this process: LMDB must not open one twice (closing the second would drop the
 * file locks of the first). */
static pthread_mutex_t opened_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
	struct db *db;
	dev_t dev;
	ino_t ino;
	pid_t pid; /* after a fork the child's entries are nobody's */
} opened[DB_OPEN_MAX];

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
	}
	return "unknown error";
}

static int from_mdb(int rc)
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

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static void futex_wait_private(_Atomic uint32_t *word, uint32_t value)
{
	futex(word, FUTEX_WAIT_PRIVATE, value);
}

static void futex_wake_private(_Atomic uint32_t *word)
{
	futex(word, FUTEX_WAKE_PRIVATE, INT_MAX);
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
	return from_mdb(rc);
}

static uint64_t map_size(struct db *db)
{
	MDB_envinfo info;

	mdb_env_info(db->env, &info);
	return info.me_mapsize;
}

static int map_grow(struct db *db)
{
	uint64_t now = map_size(db), next = now * 2;

	if (next > db->map_max)
		next = db->map_max;
	if (next <= now)
		return DB_MAP_FULL;
	return map_move(db, next);
}

static void write_lock(struct db *db)
{
	/* EDEADLK: db_write inside db_write. */
	CHECK(pthread_mutex_lock(&db->write_mutex) == 0);
}

static void write_unlock(struct db *db)
{
	CHECK(pthread_mutex_unlock(&db->write_mutex) == 0);
}

/* ---- read transactions ---- */

static void handle_free(struct handle *h)
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
	handle_free(h);
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
			handle_free(h);
		gate_leave(db, s);
		if (rc == MDB_MAP_RESIZED && my_reads[db->index] == 0) {
			write_lock(db);
			rc = map_move(db, 0);
			write_unlock(db);
			if (rc == 0)
				continue;
			return rc;
		}
		if (rc == MDB_READERS_FULL && !cleared) {
			cleared = true;
			db_clear_stale_readers(db);
			continue;
		}
		return from_mdb(rc);
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

/* ---- rows ---- */

static MDB_val val(struct bytes b)
{
	return (MDB_val){.mv_size = b.n, .mv_data = (void *)(uintptr_t)b.p};
}

static struct bytes unval(MDB_val v)
{
	return bytes_of(v.mv_data, v.mv_size);
}

int txn_fail(struct db_txn *txn, int err)
{
	CHECK(txn->write && err != DB_OK);
	if (txn->err == DB_OK)
		txn->err = err;
	return txn->err;
}

uint64_t txn_touched(const struct db_txn *txn)
{
	const struct handle *h = txn->mdb;

	return h->touched;
}

uint64_t txn_bytes(const struct db_txn *txn)
{
	const struct handle *h = txn->mdb;

	return h->bytes;
}

int rows_get(struct db_txn *txn, struct bytes key, struct bytes *value_out)
{
	struct handle *h = txn->mdb;
	MDB_val k = val(key), v;
	int rc = mdb_get(h->txn, txn->db->dbi, &k, &v);

	if (rc)
		return from_mdb(rc);
	*value_out = unval(v);
	return DB_OK;
}

static int put(struct db_txn *txn, struct bytes key, struct bytes value, unsigned flags)
{
	struct handle *h = txn->mdb;
	MDB_val k = val(key), v = val(value);
	int rc;

	CHECK(txn->write);
	if (txn->err)
		return txn->err;
	h->touched++;
	h->bytes += value.n;
	rc = mdb_put(h->txn, txn->db->dbi, &k, &v, flags);
	return rc ? txn_fail(txn, from_mdb(rc)) : DB_OK;
}

int rows_put(struct db_txn *txn, struct bytes key, struct bytes value)
{
	return put(txn, key, value, 0);
}

int rows_append(struct db_txn *txn, struct bytes key, struct bytes value)
{
	return put(txn, key, value, MDB_APPEND);
}

int rows_del(struct db_txn *txn, struct bytes key)
{
	struct handle *h = txn->mdb;
	MDB_val k = val(key);
	int rc;

	CHECK(txn->write);
	if (txn->err)
		return txn->err;
	rc = mdb_del(h->txn, txn->db->dbi, &k, NULL);
	if (rc == MDB_NOTFOUND)
		return DB_NOT_FOUND;
	h->touched++;
	return rc ? txn_fail(txn, from_mdb(rc)) : DB_OK;
}

int rows_del_known(struct db_txn *txn, struct bytes key)
{
	int err = rows_del(txn, key);

	return err == DB_NOT_FOUND ? txn_fail(txn, DB_CORRUPT) : err;
}

/* 0 or LMDB's error. */
static int cursor(struct db_txn *txn, MDB_cursor **out)
{
	struct handle *h = txn->mdb;
	int rc = 0;

	if (!h->cursor)
		rc = mdb_cursor_open(h->txn, txn->db->dbi, &h->cursor);
	else if (!h->cursor_bound)
		rc = mdb_cursor_renew(h->txn, h->cursor);
	if (rc)
		return rc;
	h->cursor_bound = true;
	*out = h->cursor;
	return 0;
}

static bool shares(MDB_val k, struct bytes key, size_t prefix_n)
{
	return k.mv_size >= prefix_n && memcmp(k.mv_data, key.p, prefix_n) == 0;
}

int rows_seek(struct db_txn *txn, struct bytes from, size_t prefix_n, struct bytes *key_out,
	struct bytes *value_out)
{
	MDB_cursor *c;
	MDB_val k = val(from), v;
	int rc = cursor(txn, &c);

	if (rc == 0)
		rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
	if (rc)
		return from_mdb(rc);
	if (!shares(k, from, prefix_n))
		return DB_NOT_FOUND;
	*key_out = unval(k);
	*value_out = unval(v);
	return DB_OK;
}

int rows_seek_before(struct db_txn *txn, struct bytes before, size_t prefix_n,
	struct bytes *key_out, struct bytes *value_out)
{
	MDB_cursor *c;
	MDB_val k = val(before), v;
	int rc = cursor(txn, &c);

	if (rc)
		return from_mdb(rc);
	rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
	if (rc && rc != MDB_NOTFOUND)
		return from_mdb(rc);
	rc = mdb_cursor_get(c, &k, &v, rc ? MDB_LAST : MDB_PREV);
	if (rc)
		return from_mdb(rc);
	if (!shares(k, before, prefix_n))
		return DB_NOT_FOUND;
	*key_out = unval(k);
	*value_out = unval(v);
	return DB_OK;
}

int rows_last(struct db_txn *txn, struct bytes *key_out, struct bytes *value_out)
{
	MDB_cursor *c;
	MDB_val k, v;
	int rc = cursor(txn, &c);

	if (rc == 0)
		rc = mdb_cursor_get(c, &k, &v, MDB_LAST);
	if (rc)
		return from_mdb(rc);
	*key_out = unval(k);
	*value_out = unval(v);
	return DB_OK;
}

int rows_del_prefix(struct db_txn *txn, struct bytes prefix, uint64_t *count_out)
{
	struct handle *h = txn->mdb;
	uint64_t count = 0;
	MDB_cursor *c;
	int rc;

	CHECK(txn->write);
	if (txn->err)
		return txn->err;
	rc = cursor(txn, &c);
	if (rc)
		return txn_fail(txn, from_mdb(rc));
	for (;;) {
		/* Sought anew each time: after a delete the cursor may rest beyond the end of a
		 * page, and SET_RANGE within its page costs next to nothing. */
		MDB_val k = val(prefix), v;
		rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
		if (rc == MDB_NOTFOUND || (rc == 0 && !shares(k, prefix, prefix.n)))
			break;
		if (rc == 0) {
			h->touched++;
			rc = mdb_cursor_del(c, 0);
		}
		if (rc)
			return txn_fail(txn, from_mdb(rc));
		count++;
	}
	if (count_out)
		*count_out = count;
	return DB_OK;
}

/* ---- the commit notification ---- */

static void commit_note(struct db_notify *n, uint64_t seq, uint64_t mono_ns)
{
	uint64_t at = atomic_fetch_add_explicit(&n->count, 1, memory_order_acq_rel);
	size_t i = at % DB_NOTIFY_COMMITS;

	/* seq 0 while mono_ns changes: a reader that sees the new time and the old seq, or the
	 * other way round, sees seq change when it looks again. */
	atomic_store_explicit(&n->commits[i].seq, 0, memory_order_relaxed);
	atomic_store_explicit(&n->commits[i].mono_ns, mono_ns, memory_order_release);
	atomic_store_explicit(&n->commits[i].seq, seq, memory_order_release);
}

/* Commits of several processes may get here in another order than they were made: both numbers only
 * go forward, and whoever moved seq last leaves word equal to it. */
static void publish(struct db *db, uint64_t seq, uint64_t mono_ns)
{
	struct db_notify *n = &db->notify->page;
	uint64_t s = atomic_load(&n->seq);
	uint32_t w = atomic_load(&n->word);

	commit_note(n, seq, mono_ns);
	while (s < seq && !atomic_compare_exchange_weak(&n->seq, &s, seq))
		;
	while ((int32_t)((uint32_t)seq - w) > 0 &&
		!atomic_compare_exchange_weak(&n->word, &w, (uint32_t)seq))
		;
	futex(&n->word, FUTEX_WAKE, INT_MAX);
}

const struct db_notify *db_notify(const struct db *db)
{
	return &db->notify->page;
}

uint64_t db_commit_time_ns(const struct db *db, uint64_t seq)
{
	const struct db_notify *n = &db->notify->page;
	uint64_t count = atomic_load_explicit(&n->count, memory_order_acquire);
	uint64_t best_seq = UINT64_MAX, best_ns = 0;
	unsigned below = 0;

	/* From the newest back to the first commit at or above seq. They are almost in order; a few
	 * more are looked at for the case that two processes published in each other's turn. */
	for (uint64_t i = 0; i < count && i < DB_NOTIFY_COMMITS && below < 4; i++) {
		size_t at = (count - 1 - i) % DB_NOTIFY_COMMITS;
		uint64_t s = atomic_load_explicit(&n->commits[at].seq, memory_order_acquire);
		uint64_t ns = atomic_load_explicit(&n->commits[at].mono_ns, memory_order_acquire);
		if (s == 0 || s != atomic_load_explicit(&n->commits[at].seq, memory_order_acquire))
			continue; /* being written */
		if (s < seq) {
			below++;
		} else if (s < best_seq) {
			best_seq = s;
			best_ns = ns;
		}
	}
	/* Without one below, the commit that brought seq may have been overwritten. */
	return below || count <= DB_NOTIFY_COMMITS ? best_ns : 0;
}

/* The page says what was published; the journal says what is durable. They differ after a crash
 * between the two, and when the data file was put back from a backup. */
static int notify_derive(struct db *db)
{
	struct db_notify *n = &db->notify->page;

	for (;;) {
		/* In this order: what was published before the snapshot is in the snapshot. */
		uint64_t published = atomic_load(&n->seq), head;
		struct db_txn txn;
		int err = db_read(db, &txn);

		if (err)
			return err;
		head = journal_head(&txn);
		db_read_end(&txn);
		if (published != head && !atomic_compare_exchange_strong(&n->seq, &published, head))
			continue; /* another process is at work */
		if (published != head || (atomic_load(&n->count) == 0 && head))
			commit_note(n, head, 0); /* when these were committed is not known */
		break;
	}
	for (;;) {
		uint32_t w = atomic_load(&n->word), s = (uint32_t)atomic_load(&n->seq);

		if (w == s || atomic_compare_exchange_strong(&n->word, &w, s))
			break;
	}
	futex(&n->word, FUTEX_WAKE, INT_MAX);
	return DB_OK;
}

static void boot_id_read(char id[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, id, 39);

	memset(id + (n > 0 ? n : 0), 0, (size_t)(40 - (n > 0 ? n : 0)));
	if (fd >= 0)
		close(fd);
}

/* The file of zeros is a valid page, so making it is one step; the caller holds its flock. */
static int notify_map(struct db *db)
{
	struct stat st;
	char boot_id[40];
	int rc;

	if (fstat(db->notify_fd, &st))
		return DB_IO;
	if (st.st_size != 0 && st.st_size != sizeof(struct notify_file))
		return DB_VERSION;
	/* Blocks of its own: a store into a hole would be SIGBUS when the disk is full. */
	rc = posix_fallocate(db->notify_fd, 0, sizeof(struct notify_file));
	if (rc)
		return from_mdb(rc);
	void *p = mmap(NULL, sizeof(struct notify_file), PROT_READ | PROT_WRITE, MAP_SHARED,
		db->notify_fd, 0);
	if (p == MAP_FAILED)
		return DB_IO;
	db->notify = p;
	boot_id_read(boot_id);
	if (memcmp(boot_id, db->notify->boot_id, sizeof(boot_id)) != 0) {
		/* First open since the machine started, so nobody else has the page. */
		struct db_notify *n = &db->notify->page;
		atomic_store(&n->count, 0);
		for (size_t i = 0; i < DB_NOTIFY_COMMITS; i++)
			atomic_store(&n->commits[i].seq, 0);
		memcpy(db->notify->boot_id, boot_id, sizeof(boot_id));
	}
	return DB_OK;
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
		return from_mdb(rc);
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
		return rc == EIO && disk_is_full(db) ? DB_DISK_FULL : from_mdb(rc);
	atomic_fetch_add_explicit(&db->commits, 1, memory_order_relaxed);
	METRIC_INC(STORE_COMMITS);
	METRIC_ADD(STORE_CHANGES, (int64_t)(txn->seq - base_seq));
	metric_observe_ns(H_COMMIT, t1 - t0);
	if (txn->seq != base_seq)
		publish(db, txn->seq, t1);
	return DB_OK;
}

int db_write(struct db *db, db_write_fn *fn, void *arg)
{
	struct db_txn txn;
	int err;

	CHECK(my_reads[db->index] == 0); /* the map could not grow */
	write_lock(db);
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
		if (err != DB_MAP_FULL || map_grow(db) != DB_OK)
			break;
	}
	write_unlock(db);
	return err;
}

/* ---- opening and closing ---- */

static int fail(int err, char *why, size_t why_bytes, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static int fail(int err, char *why, size_t why_bytes, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (why && why_bytes)
		vsnprintf(why, why_bytes, fmt, ap);
	va_end(ap);
	return err;
}

static int errno_err(void)
{
	return errno == ENOENT ? DB_NOT_FOUND : from_mdb(errno);
}

/* For people; the lock itself does not depend on it. */
int db_note_owner(struct db *db)
{
	char pid[32];
	ssize_t n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());

	/* In this order there is a number to be read at any time. */
	if (pwrite(db->lock_fd, pid, (size_t)n, 0) != n || ftruncate(db->lock_fd, n))
		return errno_err();
	return DB_OK;
}

/* A lock belongs to the open file, whichever process holds it. */
static int lock_inherited(struct db *db, int fd, char *why, size_t why_bytes)
{
	struct stat ours, theirs;

	db->lock_fd = fd;
	if (fstatat(db->dir_fd, "lock", &ours, 0) || fstat(fd, &theirs) ||
		ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino)
		return fail(DB_INVALID, why, why_bytes,
			"%s is not the directory that was handed over: store.dir needs a restart",
			db->dir);
	return DB_OK;
}

static int lock_server(struct db *db, char *why, size_t why_bytes)
{
	char pid[32];
	ssize_t n;

	db->lock_fd = openat(db->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (db->lock_fd < 0)
		return fail(errno_err(), why, why_bytes, "%s/lock: %s", db->dir, strerror(errno));
	if (flock(db->lock_fd, LOCK_EX | LOCK_NB)) {
		n = pread(db->lock_fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? n : 0] = 0;
		pid[strcspn(pid, "\n")] = 0;
		return fail(DB_LOCKED, why, why_bytes,
			"%s is in use by another server (process %s)", db->dir,
			pid[0] ? pid : "unknown");
	}
	if (db_note_owner(db))
		return fail(errno_err(), why, why_bytes, "%s/lock: %s", db->dir, strerror(errno));
	return DB_OK;
}

static int register_open(struct db *db, char *why, size_t why_bytes)
{
	struct stat st;
	int free_at = -1;

	if (fstat(db->dir_fd, &st))
		return fail(DB_IO, why, why_bytes, "%s: %s", db->dir, strerror(errno));
	pthread_mutex_lock(&opened_mutex);
	for (int i = 0; i < DB_OPEN_MAX; i++) {
		if (!opened[i].db || opened[i].pid != getpid()) {
			if (free_at < 0)
				free_at = i;
		} else if (opened[i].dev == st.st_dev && opened[i].ino == st.st_ino) {
			pthread_mutex_unlock(&opened_mutex);
			return fail(DB_LOCKED, why, why_bytes, "%s is open in this process already",
				db->dir);
		}
	}
	if (free_at >= 0) {
		opened[free_at].db = db;
		opened[free_at].dev = st.st_dev;
		opened[free_at].ino = st.st_ino;
		opened[free_at].pid = getpid();
		db->index = (uint32_t)free_at;
	}
	pthread_mutex_unlock(&opened_mutex);
	return free_at < 0 ? fail(DB_INVALID, why, why_bytes, "too many stores open") : DB_OK;
}

static void unregister_open(struct db *db)
{
	pthread_mutex_lock(&opened_mutex);
	for (int i = 0; i < DB_OPEN_MAX; i++)
		if (opened[i].db == db)
			opened[i].db = NULL;
	pthread_mutex_unlock(&opened_mutex);
}

static int make_format(struct db_txn *txn, void *arg)
{
	struct record_meta meta = {.format = STORE_FORMAT, .created_ms = clock_wall_ms()};
	struct record_ids ids = {.next_mailbox = 1};
	struct record_buf buf;
	struct bytes k, v;
	struct key key;

	(void)arg;
	if (rows_get(txn, key_meta(&key, KEY_META_FORMAT), &v) == DB_OK)
		return DB_OK; /* another process was faster */
	if (rows_last(txn, &k, &v) == DB_OK)
		return DB_VERSION; /* has something in it that is not ours */
	rows_put(txn, key_meta(&key, KEY_META_FORMAT), record_encode_meta(&buf, &meta));
	return rows_put(txn, key_meta(&key, KEY_META_IDS), record_encode_ids(&buf, &ids));
}

/* The main database, once; the handle then serves every transaction. */
static int tree_open(struct db *db)
{
	struct db_txn txn;
	struct handle *h;
	int err = db_read(db, &txn);

	if (err)
		return err;
	h = txn.mdb;
	err = from_mdb(mdb_dbi_open(h->txn, NULL, 0, &db->dbi));
	db_read_end(&txn);
	return err;
}

static int check_format(struct db *db, bool create, char *why, size_t why_bytes)
{
	struct record_meta meta;
	struct db_txn txn;
	struct bytes k, v = {0};
	struct key key;
	int err = db_read(db, &txn), found;
	bool empty;

	if (err)
		return fail(err, why, why_bytes, "%s: %s", db->dir, db_strerror(err));
	empty = rows_last(&txn, &k, &v) == DB_NOT_FOUND;
	found = rows_get(&txn, key_meta(&key, KEY_META_FORMAT), &v);
	if (found == DB_OK)
		found = record_decode_meta(v, &meta);
	db_read_end(&txn);
	if (found == DB_OK && meta.format == STORE_FORMAT)
		return DB_OK;
	if (found == DB_OK)
		return fail(DB_VERSION, why, why_bytes,
			"%s has format %u, this version of Roost reads format %d", db->dir,
			meta.format, STORE_FORMAT);
	if (empty && !create)
		return fail(DB_NOT_FOUND, why, why_bytes, "%s holds no store yet", db->dir);
	err = empty ? db_write(db, make_format, NULL) : DB_VERSION;
	if (err == DB_VERSION)
		return fail(err, why, why_bytes, "%s/data.mdb was not written by Roost", db->dir);
	if (err)
		return fail(err, why, why_bytes, "%s: %s", db->dir, db_strerror(err));
	return DB_OK;
}

/* Everything that db_open may have done so far; also after a failure half way. */
static void db_free(struct db *db)
{
	/* LMDB tears down its shared locks when the last process closes, and another that opens at
	 * that very moment would find them gone: opening and closing take turns. */
	if (db->notify_fd >= 0)
		flock(db->notify_fd, LOCK_EX);
	if (db->env) {
		for (size_t i = 0; i < STRIPES; i++) {
			CHECK(atomic_load(&db->stripes[i].readers) == 0);
			for (size_t j = 0; j < CACHED_PER_STRIPE; j++) {
				struct handle *h = atomic_load(&db->stripes[i].cached[j]);
				if (h)
					handle_free(h);
			}
		}
		mdb_env_close(db->env);
	}
	if (db->notify)
		munmap(db->notify, sizeof(*db->notify));
	if (db->notify_fd >= 0) {
		flock(db->notify_fd, LOCK_UN); /* a forked child may share the descriptor */
		close(db->notify_fd);
	}
	if (db->lock_fd >= 0)
		close(db->lock_fd);
	unregister_open(db);
	if (db->dir_fd >= 0)
		close(db->dir_fd);
	pthread_mutex_destroy(&db->write_mutex);
	free(db);
}

int db_open(const struct db_options *o, struct db **db_out, char *why, size_t why_bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), first;
	pthread_mutexattr_t attr;
	struct stat st;
	struct db *db;
	int rc, err;

	if (!o->dir || !o->dir[0] || strlen(o->dir) >= sizeof(db->dir))
		return fail(DB_INVALID, why, why_bytes, "no usable directory name");
	db = aligned_alloc(_Alignof(struct db), sizeof(*db));
	if (!db)
		return fail(DB_IO, why, why_bytes, "no memory");
	memset(db, 0, sizeof(*db));
	db->lock_fd = db->notify_fd = db->dir_fd = -1;
	strcpy(db->dir, o->dir);
	db->no_sync = o->no_sync;
	db->map_max = (o->map_bytes_max ? o->map_bytes_max : UINT64_C(256) << 30) / page * page;
	first = (o->map_bytes ? o->map_bytes : UINT64_C(1) << 30) / page * page;
	if (first > db->map_max)
		first = db->map_max;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&db->write_mutex, &attr);
	pthread_mutexattr_destroy(&attr);

	if (o->create && mkdir(o->dir, 0700) && errno != EEXIST) {
		err = fail(
			errno_err(), why, why_bytes, "cannot make %s: %s", o->dir, strerror(errno));
		goto out;
	}
	db->dir_fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (db->dir_fd < 0) {
		err = fail(errno_err(), why, why_bytes, "%s: %s", o->dir, strerror(errno));
		goto out;
	}
	if (!o->create && fstatat(db->dir_fd, "data.mdb", &st, 0)) {
		err = fail(DB_NOT_FOUND, why, why_bytes, "%s holds no store", o->dir);
		goto out;
	}
	err = register_open(db, why, why_bytes);
	if (err)
		goto out;
	if (o->lock_fd > 0)
		err = lock_inherited(db, o->lock_fd, why, why_bytes);
	else if (o->server)
		err = lock_server(db, why, why_bytes);
	if (err)
		goto out;
	db->notify_fd = openat(db->dir_fd, "notify", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (db->notify_fd < 0 || flock(db->notify_fd, LOCK_EX)) {
		err = fail(errno_err(), why, why_bytes, "%s/notify: %s", o->dir, strerror(errno));
		goto out;
	}
	err = notify_map(db);
	if (err) {
		fail(err, why, why_bytes, "%s/notify: %s", o->dir, db_strerror(err));
		goto out;
	}
	rc = mdb_env_create(&db->env);
	if (rc == 0)
		rc = mdb_env_set_maxreaders(db->env, READERS_MAX);
	if (rc == 0)
		rc = mdb_env_set_mapsize(db->env, first);
	if (rc == 0) /* no thread-local reader slots: our cache hands transactions on */
		rc = mdb_env_open(db->env, o->dir, MDB_NOTLS | (o->no_sync ? MDB_NOSYNC : 0), 0600);
	if (rc) {
		err = from_mdb(rc);
		fail(err, why, why_bytes, "%s: %s", o->dir, mdb_strerror(rc));
		goto out;
	}
	db_clear_stale_readers(db);
	err = tree_open(db);
	if (err) {
		fail(err, why, why_bytes, "%s: %s", o->dir, db_strerror(err));
		goto out;
	}
	err = check_format(db, o->create, why, why_bytes);
	if (err == DB_OK && (err = notify_derive(db)) != DB_OK)
		fail(err, why, why_bytes, "%s: %s", o->dir, db_strerror(err));
	if (err == DB_OK)
		flock(db->notify_fd, LOCK_UN);
out:
	if (err)
		db_free(db);
	else
		*db_out = db;
	return err;
}

void db_close(struct db **db)
{
	if (!*db)
		return;
	db_free(*db);
	*db = NULL;
}

int db_lock_fd(const struct db *db)
{
	return db->lock_fd;
}

const char *db_dir(const struct db *db)
{
	return db->dir;
}

/* ---- housekeeping ---- */

int db_stats(struct db *db, struct db_stats *out)
{
	struct db_txn txn = {0};
	MDB_envinfo info;
	MDB_stat stat;
	int err = db_read(db, &txn);

	if (err)
		return err;
	/* Inside a read: the map stays where it is. */
	mdb_env_info(db->env, &info);
	mdb_env_stat(db->env, &stat);
	*out = (struct db_stats){
		.map_bytes = info.me_mapsize,
		.used_bytes = (info.me_last_pgno + 1) * stat.ms_psize,
		.readers = info.me_numreaders,
		.stale_cleared = atomic_load(&db->stale_cleared),
		.commits = atomic_load(&db->commits),
		.entries = stat.ms_entries,
	};
	db_read_end(&txn);
	return DB_OK;
}

void db_release_pages(struct db *db)
{
	struct db_txn txn;
	struct bytes any = {0};
	struct key k;
	char line[512], *end;
	FILE *f;

	/* The snapshot keeps the map where it is: growing it waits for readers. LMDB does not tell
	 * where that is, but a value's address does. */
	if (db_read(db, &txn))
		return;
	f = fopen("/proc/self/maps", "re");
	if (f && rows_get(&txn, key_meta(&k, KEY_META_FORMAT), &any) == DB_OK)
		while (fgets(line, sizeof(line), f)) {
			/* "from-to ..." */
			uintptr_t from = strtoull(line, &end, 16);
			uintptr_t to = *end == '-' ? strtoull(end + 1, NULL, 16) : 0;

			if ((uintptr_t)any.p >= from && (uintptr_t)any.p < to) {
				madvise((void *)from, to - from, MADV_DONTNEED);
				break;
			}
		}
	if (f)
		fclose(f);
	db_read_end(&txn);
}

int db_clear_stale_readers(struct db *db)
{
	int dead = 0, rc = mdb_reader_check(db->env, &dead);

	if (rc)
		return from_mdb(rc);
	if (dead) {
		atomic_fetch_add(&db->stale_cleared, (uint64_t)dead);
		METRIC_ADD(STORE_STALE_READERS, dead);
	}
	return dead;
}

static int dir_empty(int fd)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *e;
	int n = 0;

	if (!d) {
		if (copy >= 0)
			close(copy);
		return -1;
	}
	while ((e = readdir(d)) != NULL)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n == 0;
}

int db_backup(struct db *db, const char *to_dir, char *why, size_t why_bytes)
{
	int dir = open(to_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, err, rc;
	struct db_stats stats;

	if (dir < 0)
		return fail(errno_err(), why, why_bytes, "%s: %s", to_dir, strerror(errno));
	if (dir_empty(dir) != 1) {
		err = fail(DB_EXISTS, why, why_bytes, "%s is not an empty directory", to_dir);
		goto out;
	}
	fd = openat(dir, "data.mdb", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		err = fail(errno_err(), why, why_bytes, "%s/data.mdb: %s", to_dir, strerror(errno));
		goto out;
	}
	for (int tries = 0;; tries++) {
		err = db_stats(db, &stats); /* also takes over a map that another process grew */
		if (err)
			break;
		write_lock(db);
		/* A write that needs a larger map waits for us; make that unlikely. */
		if (stats.used_bytes > stats.map_bytes / 2)
			map_grow(db);
		atomic_fetch_add(&db->backups, 1);
		write_unlock(db);
		rc = mdb_env_copyfd2(db->env, fd, MDB_CP_COMPACT);
		atomic_fetch_sub(&db->backups, 1);
		futex_wake_private(&db->backups);
		if (rc == MDB_MAP_RESIZED && tries < 8 && lseek(fd, 0, SEEK_SET) == 0 &&
			ftruncate(fd, 0) == 0)
			continue;
		err = from_mdb(rc);
		break;
	}
	if (err == DB_OK && (fsync(fd) || fsync(dir)))
		err = from_mdb(errno);
	if (err) {
		fail(err, why, why_bytes, "%s: %s", to_dir, db_strerror(err));
		unlinkat(dir, "data.mdb", 0);
	}
out:
	if (fd >= 0)
		close(fd);
	close(dir);
	return err;
}
