/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/writer.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/metrics.h"
#include "store/rows.h"

/* Submitters push onto a stack that the writer takes whole and turns round: one compare-and-swap
 * each, and the order of pushing is kept. */
struct writer {
	struct db *db;
	bool inline_writes;
	/* The writer's own: taken from the stack, in order, not yet written. */
	_Alignas(64) struct write *queue, **queue_end;
	_Alignas(64) struct write *_Atomic pushed;
	_Atomic uint32_t sleeping; /* futex: 1 while the writer waits */
	_Atomic bool stopping;
};

/* On top of the stack once the writer has gone: who pushes late sees it and is refused. */
static struct write closed_mark;

struct batch {
	struct write **ops;
	size_t n, ran; /* ran: those that succeeded or wrote nothing; ops[ran] failed if any did */
	bool alone;    /* it failed after it had written: the batch cannot be kept */
};

static long futex(_Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

struct writer *writer_new(struct db *db, bool inline_writes)
{
	struct writer *w = aligned_alloc(_Alignof(struct writer), sizeof(*w));

	CHECK(w);
	memset(w, 0, sizeof(*w));
	w->db = db;
	w->inline_writes = inline_writes;
	w->queue_end = &w->queue;
	return w;
}

void writer_free(struct writer **wp)
{
	struct writer *w = *wp;
	struct write *top;

	if (!w)
		return;
	top = atomic_load(&w->pushed);
	CHECK(!w->queue && (!top || top == &closed_mark));
	*wp = NULL;
	free(w);
}

static void finish(struct write *op, int err)
{
	METRIC_INC(STORE_WRITES);
	if (err)
		METRIC_INC(STORE_ERRORS);
	if (op->done)
		op->done(op, err);
}

static void refuse(struct write *op)
{
	METRIC_INC(STORE_ERRORS);
	if (op->done)
		op->done(op, DB_CLOSED);
}

void writer_submit(struct writer *w, struct write *op)
{
	struct write *top;

	if (atomic_load(&w->stopping)) {
		refuse(op);
		return;
	}
	if (w->inline_writes) {
		finish(op, db_write(w->db, op->fn, op->arg));
		return;
	}
	top = atomic_load(&w->pushed);
	do {
		if (top == &closed_mark) {
			refuse(op);
			return;
		}
		op->next = top;
	} while (!atomic_compare_exchange_weak(&w->pushed, &top, op));
	/* Push, then look whether it sleeps; the writer says that it sleeps, then looks for a push.
	 * One of the two sees the other. */
	if (atomic_load(&w->sleeping) && atomic_exchange(&w->sleeping, 0))
		futex(&w->sleeping, FUTEX_WAKE_PRIVATE, 1);
}

struct waiting {
	struct write op;
	_Atomic uint32_t state; /* futex: 1 when done */
	int err;
};

static void waiting_done(struct write *op, int err)
{
	struct waiting *wait = container_of(op, struct waiting, op);
	_Atomic uint32_t *state = &wait->state;

	wait->err = err;
	atomic_store(state, 1);
	/* `wait` may be gone from here on; waking at its old address harms nobody, since
	 * every futex wait here looks again. */
	futex(state, FUTEX_WAKE_PRIVATE, 1);
}

int writer_write(struct writer *w, db_write_fn *fn, void *arg)
{
	struct waiting wait = {.op = {.fn = fn, .arg = arg, .done = waiting_done}};

	/* The writer may have to wait for every read to end, so that the map can grow. */
	CHECK(!db_is_reading(w->db));
	writer_submit(w, &wait.op);
	while (atomic_load(&wait.state) == 0)
		futex(&wait.state, FUTEX_WAIT_PRIVATE, 0);
	return wait.err;
}

/* Moves what was pushed to the end of the queue. False: nothing there. */
static bool queue_fill(struct writer *w)
{
	struct write *top = atomic_load(&w->pushed), *head = NULL, *last;

	if (!top || top == &closed_mark)
		return w->queue != NULL;
	top = atomic_exchange(&w->pushed, NULL);
	last = top;
	while (top) {
		struct write *next = top->next;
		top->next = head;
		head = top;
		top = next;
	}
	*w->queue_end = head;
	w->queue_end = &last->next;
	return true;
}

/* Sleeps until something is pushed. False: stopped, and nothing will come any more. */
static bool queue_wait(struct writer *w, bool wait)
{
	while (!queue_fill(w)) {
		if (atomic_load(&w->stopping)) {
			struct write *none = NULL;
			/* Shut the door only while the stack is empty: what was pushed before
			 * is still written. */
			if (atomic_load(&w->pushed) == &closed_mark ||
				atomic_compare_exchange_strong(&w->pushed, &none, &closed_mark))
				return false;
			continue;
		}
		if (!wait)
			return true;
		atomic_store(&w->sleeping, 1);
		if (!atomic_load(&w->pushed) && !atomic_load(&w->stopping))
			futex(&w->sleeping, FUTEX_WAIT_PRIVATE, 1);
		atomic_store(&w->sleeping, 0);
	}
	return true;
}

static int batch_run(struct db_txn *txn, void *arg)
{
	struct batch *b = arg;

	b->alone = false;
	for (b->ran = 0; b->ran < b->n; b->ran++) {
		struct write *op = b->ops[b->ran];
		uint64_t before = txn_touched(txn);

		if (b->ran && txn_bytes(txn) >= WRITER_BATCH_BYTES)
			break;
		op->err = op->fn(txn, op->arg);
		if (txn->err)
			return txn->err; /* map or disk full, damage: not this op's alone */
		/* A refusal that wrote nothing (most are: not found, exists) leaves the batch as
		 * it was, so it costs nobody else a commit of his own. */
		if (op->err && txn_touched(txn) != before) {
			b->alone = true;
			return op->err;
		}
	}
	return DB_OK;
}

/* Whether others of a batch that failed so may yet succeed: a huge write does not fit where small
 * ones do, one mailbox is damaged and others are not. */
static bool may_be_one(const struct batch *b, int err)
{
	return b->n > 1 && (b->alone || err == DB_MAP_FULL || err == DB_DISK_FULL ||
				   err == DB_INVALID || err == DB_CORRUPT);
}

/* Only who caused a failure bears it: those before it are tried again without it, it alone, and
 * then those behind it. A commit that fails names nobody: halves. */
static void write_ops(struct writer *w, struct write **ops, size_t n)
{
	while (n) {
		struct batch b = {.ops = ops, .n = n};
		int err = db_write(w->db, batch_run, &b);
		size_t done = err ? n : b.ran;

		if (err && may_be_one(&b, err)) {
			done = b.ran == n ? n / 2 : b.ran ? b.ran : 1;
			write_ops(w, ops, done);
		} else {
			for (size_t i = 0; i < done; i++)
				finish(ops[i], err ? err : ops[i]->err);
		}
		ops += done;
		n -= done;
	}
}

bool writer_step(struct writer *w, bool wait)
{
	struct write *ops[WRITER_BATCH_MAX];
	size_t n = 0;

	if (!queue_wait(w, wait))
		return false;
	for (; w->queue && n < WRITER_BATCH_MAX; w->queue = w->queue->next)
		ops[n++] = w->queue;
	if (!w->queue)
		w->queue_end = &w->queue;
	write_ops(w, ops, n);
	return true;
}

void writer_stop(struct writer *w)
{
	atomic_store(&w->stopping, true);
	atomic_store(&w->sleeping, 0);
	futex(&w->sleeping, FUTEX_WAKE_PRIVATE, 1);
}
