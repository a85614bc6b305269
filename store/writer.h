/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/writer.h - group commit: many threads ask, one transaction and one fsync serve all who
 * wait at that moment.
 * Thread: writer_submit and writer_write from any thread; writer_step from the one thread that owns
 *         the writer (core starts it; the store has no threads of its own).
 * Memory: a struct write belongs to its submitter and is the writer's until done() or the
 *         return of writer_write.
 * Errors: a failure stays with the fn that caused it: if it had written something, the batch is
 *         undone and run again in parts, without it and it alone. fn therefore must not have side
 *         effects outside the transaction and must set its outputs anew at each run.
 * Order:  writes of one submitter commit in the order of submission. */
#ifndef ROOST_STORE_WRITER_H
#define ROOST_STORE_WRITER_H

#include "store/db.h"

struct writer;
struct write {
	struct write *next; /* this and err are the writer's */
	int err;
	db_write_fn *fn;
	void *arg;
	/* On the writer's thread, after the commit is durable (err 0) or failed; on the
	 * submitter's when the writer is inline or refuses (DB_CLOSED). May be NULL. */
	void (*done)(struct write *w, int err);
};

/* A batch is what waits, up to so many writes; a transaction of it begins no other once it holds so
 * many bytes, which LMDB keeps in memory until the commit. */
enum { WRITER_BATCH_MAX = 4096, WRITER_BATCH_BYTES = 32 << 20 };

/* `inline_writes`: no thread; submit and write commit at once on the caller's thread (tools and
 * the simulation). */
struct writer *writer_new(struct db *db, bool inline_writes);
void writer_free(struct writer **w);
void writer_submit(struct writer *w, struct write *op);
/* Waits until durable. Not from a shard, nor with a read open (checked). */
int writer_write(struct writer *w, db_write_fn *fn, void *arg);
/* Writes one batch; with `wait` sleeps until there is one. False after writer_stop when all
 * is written. */
bool writer_step(struct writer *w, bool wait);
/* From any thread: no new work is accepted (DB_CLOSED); what is queued is still written. */
void writer_stop(struct writer *w);

#endif
