/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/db_priv.h - the parts of an open store; for store/db*.c, rows.c and notify.c only.
 *   db.c       transactions, and the gate that keeps readers out while the map moves
 *   rows.c     bytes by key
 *   notify.c   the page by which a commit wakes
 *   db_open.c  opening and closing
 *   db_care.c  statistics, copies, tidying */
#ifndef ROOST_STORE_DB_PRIV_H
#define ROOST_STORE_DB_PRIV_H

#include "store/db.h"

#include <limits.h>
#include <linux/futex.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

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
	bool left_open;
	bool owner_noted; /* by us, in the lock file */
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

/* ---- db.c ---- */

/* Our error for LMDB's, or for errno. */
int db_from_mdb(int rc);
int db_errno(void);
__attribute__((format(printf, 4, 5))) int db_fail(
	int err, char *why, size_t why_bytes, const char *fmt, ...);
void db_handle_free(struct handle *h);
uint64_t db_map_size(struct db *db);
/* Doubles the map; DB_MAP_FULL at its limit. Only with the write lock, outside transactions. */
int db_map_grow(struct db *db);
void db_write_lock(struct db *db);
void db_write_unlock(struct db *db);

/* ---- notify.c ---- */

/* What was committed up to seq is known to all who wait; mono_ns is when. */
void notify_publish(struct db *db, uint64_t seq, uint64_t mono_ns);
int notify_map(struct db *db);
int notify_derive(struct db *db);

static inline long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

static inline void futex_wait_private(_Atomic uint32_t *word, uint32_t value)
{
	futex(word, FUTEX_WAIT_PRIVATE, value);
}

static inline void futex_wake_private(_Atomic uint32_t *word)
{
	futex(word, FUTEX_WAKE_PRIVATE, INT_MAX);
}

#endif
