/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/db.h - one LMDB environment: transactions, group commit, the commit notification.
 *
 * A commit is the notification. db_commit makes a transaction durable, then publishes the newest
 * journal number in a page shared by every process that has the store open and wakes the futex
 * word in it. Nothing else tells anyone that something changed.
 *
 * Thread: any. A struct db is shared; a struct db_txn belongs to one thread.
 * Memory: views (struct bytes) returned by store functions point into the map and die with
 *         the transaction; in a write transaction already with its next write. Copy what must
 *         live longer.
 * Rule:   read transactions are short and never live across a wait. A thread that has one open must
 *         not write (checked): the map could not grow, and the write would wait for the disk.
 * Errors: enum db_error, negative; db_strerror gives one line for people. Inside a write
 *         transaction the first failure of the store itself (full, input/output, corrupt) sticks:
 *         later writes return it and the commit aborts, so the happy path reads straight down. A
 *         refusal (not found, exists, invalid) comes before anything is written and does not
 *         stick: a fn that goes on and returns 0 commits the rest.
 * Cost:   read begin + end below 0.1 us; a durable commit one fsync, shared by all writes that
 *         wait at that moment. */
#ifndef ROOST_STORE_DB_H
#define ROOST_STORE_DB_H

#include <stdatomic.h>

#include "core/base/bytes.h"

struct db;

enum db_error {
	DB_OK = 0,
	DB_NOT_FOUND = -1,
	DB_EXISTS = -2,
	DB_MAP_FULL = -3, /* the map cannot grow beyond store.map_max_mib */
	DB_DISK_FULL = -4,
	DB_VERSION = -5, /* written by another version of Roost, or not by Roost */
	DB_LOCKED = -6, /* another server has this directory, or this process has it open already */
	DB_IO = -7,
	DB_CORRUPT = -8, /* a stored record does not decode */
	DB_INVALID = -9, /* an argument that the caller should have refused */
	DB_GONE = -10,   /* journal rows asked for are pruned: look at everything */
	DB_READERS_FULL = -11,
	DB_CLOSED = -12,
	/* LMDB could not write a root page and refuses everything from then on, reading too: only
	 * opening the store anew helps. A server should end and be started again. */
	DB_LOST = -13,
};
const char *db_strerror(int err);

struct db_txn {
	struct db *db;
	void *mdb; /* MDB_txn */
	int err;   /* first failure of a write */
	bool write;
	uint64_t seq;  /* last journal number given out in this transaction */
	uint32_t slot; /* private to db.c */
};

struct db_options {
	const char *dir;
	uint64_t map_bytes;     /* first size; 0: 1 GiB */
	uint64_t map_bytes_max; /* it grows by doubling up to this; 0: 256 GiB. Without the server
				 * lock never beyond what the last server had */
	int lock_fd;  /* > 0: the server lock is held by this descriptor already (taken over with
				 * it from another process); the store's from now on, also when it fails */
	bool server;  /* takes the server lock (DB_LOCKED when another has it) */
	bool create;  /* makes the directory (0700) and an empty store when absent */
	bool no_sync; /* tests and the simulation only: commits are not durable */
};

int db_open(const struct db_options *o, struct db **db_out, char *why, size_t why_bytes);
void db_close(struct db **db);
const char *db_dir(const struct db *db);
/* The descriptor that holds the server lock, to be given to a successor; the store's. */
int db_lock_fd(const struct db *db);
/* To a server: the one before it did not close the store (it was killed, or still is being). */
bool db_left_open(const struct db *db);
/* Writes this process' number into the lock file, for people. */
int db_note_owner(struct db *db);

/* A consistent snapshot. db_read cannot fail for lack of anything but reader slots. */
int db_read(struct db *db, struct db_txn *txn);
void db_read_end(struct db_txn *txn);
/* This thread has a read open, so it must neither write nor wait for a write. */
bool db_is_reading(const struct db *db);

/* A write on the calling thread, committed alone (tools, tests); grows the map and runs fn again
 * when it was full, so fn must not have side effects outside the transaction. Returns fn's error
 * or the commit's. */
typedef int db_write_fn(struct db_txn *txn, void *arg);
int db_write(struct db *db, db_write_fn *fn, void *arg);

/* The page shared between processes. word is the low half of seq and moves with every commit that
 * appended to the journal (others tell nobody anything); commits[] holds when recent ones of those
 * finished. Wait with FUTEX_WAIT without FUTEX_PRIVATE_FLAG. */
enum { DB_NOTIFY_COMMITS = 1024 };
struct db_notify {
	_Atomic uint32_t word;
	_Atomic uint64_t seq;   /* newest durable journal number */
	_Atomic uint64_t count; /* commits published */
	struct {
		_Atomic uint64_t seq;     /* newest journal number of that commit */
		_Atomic uint64_t mono_ns; /* when it was durable */
	} commits[DB_NOTIFY_COMMITS];
};
const struct db_notify *db_notify(const struct db *db);
/* CLOCK_MONOTONIC ns at which journal number seq became durable; 0 when too long ago to know. */
uint64_t db_commit_time_ns(const struct db *db, uint64_t seq);

/* Tells of commits of which nobody told, because the process that made them was killed just then;
 * returns whether there were any. Called by a housekeeper: until then their readers wait. One read. */
int db_publish_missed(struct db *db);

struct db_stats {
	uint64_t map_bytes;
	uint64_t used_bytes; /* high-water mark of the file; free pages inside count as used */
	uint64_t readers;    /* slots of LMDB's table ever taken at once, all processes */
	uint64_t stale_cleared, commits; /* by this process since it opened */
	uint64_t entries;
};
int db_stats(struct db *db, struct db_stats *out);
/* Clears reader slots of dead processes; returns how many. Called by a housekeeper. */
int db_clear_stale_readers(struct db *db);
/* Lets go of the map's pages: they stay in the page cache, and come back by a minor fault each
 * when somebody reads them. Without it a process's memory seems to grow to the size of what was
 * ever read, and the kernel hesitates to reclaim what it thinks is in use. Any time, any thread. */
void db_release_pages(struct db *db);
/* A consistent, compacted copy into an existing empty directory, while others read and write. Only a
 * write of this process that needs a larger map waits for the end of the copy (a map more than
 * half full is grown beforehand). */
int db_backup(struct db *db, const char *to_dir, char *why, size_t why_bytes);

#endif
