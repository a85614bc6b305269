/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What wakes a loop from outside: messages, and the commit word. */
#include "io/loop_priv.h"

#include "core/base/log.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- messages ---- */

void bell_write(struct loop *l)
{
	const uint64_t one = 1;

	/* Cannot fail short of a counter overflow, which nobody can reach. */
	if (write(l->bell_fd, &one, sizeof(one)) < 0)
		return;
}

/* After having published something for `l`. Both sides order their two steps with seq_cst: the
 * loop says "asleep", then looks; we publish, then ask. So either it sees what we published or
 * we see it asleep; and of several who do, one rings. */
static void bell_ring(struct loop *l)
{
	if (!atomic_load(&l->asleep) || !atomic_exchange(&l->asleep, false))
		return;
	struct loop *from = loop_self;
	_Static_assert(sizeof(uintptr_t) == 8, "an address is in the tag");
	if (!from || from == l || (uintptr_t)l >> 48) {
		bell_write(l);
		return;
	}
	/* Goes out with what this turn submits; no system call of its own. */
	struct io_uring_sqe *sqe =
		ring_sqe(&from->rings[0].r, IORING_OP_MSG_RING, tag(OP_RING_BELL, 0, (uintptr_t)l));

	sqe->fd = l->rings[0].r.uring.ring_fd;
	sqe->addr = IORING_MSG_DATA;
	sqe->off = tag(OP_QUIET, 0, 0);
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
}

void loop_post(struct loop *l, struct loop_msg *m)
{
	struct loop_msg *newest = atomic_load_explicit(&l->inbox, memory_order_relaxed);

	do
		m->next = newest;
	while (!atomic_compare_exchange_weak(&l->inbox, &newest, m));
	bell_ring(l);
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stop, true);
	/* Always: from a signal handler nothing but write(2) is safe, and it is rare. */
	bell_write(l);
}

/* With one ring the bell is heard through it; with several, by the poll(2) that waits for all. Not
 * through a ring then: an eventfd whose wake-up makes a ring signal another eventfd is a recursion
 * that the kernel defers, and 6.18 was seen to lose that signal. */
void bell_arm(struct loop *l)
{
	if (l->bell_armed || l->events_fd >= 0)
		return;
	struct io_uring_sqe *sqe = ring_sqe(&l->rings[0].r, IORING_OP_POLL_ADD, tag(OP_BELL, 0, 0));

	sqe->fd = l->bell_fd;
	sqe->poll32_events = POLLIN;
	l->bell_armed = true;
}

void bell_clear(struct loop *l)
{
	uint64_t count;

	/* Nothing to read is fine: heard twice. */
	if (read(l->bell_fd, &count, sizeof(count)) < 0)
		return;
}

void inbox_drain(struct loop *l)
{
	struct loop_msg *m, *oldest = NULL;

	if (!atomic_load_explicit(&l->inbox, memory_order_relaxed))
		return;
	m = atomic_exchange(&l->inbox, NULL);
	while (m) {
		struct loop_msg *next = m->next;

		m->next = oldest;
		oldest = m;
		m = next;
	}
	while (oldest) {
		m = oldest;
		oldest = m->next;
		m->next = NULL;
		l->ev.message(l->arg, m);
	}
}

/* ---- the commit word ---- */

static long futex(const _Atomic uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* For kernels whose rings cannot wait on a futex. */
static void *commit_thread(void *arg)
{
	struct loop *l = arg;
	uint32_t seen = l->commit_thread_seen;

	while (!atomic_load(&l->commit_thread_stop)) {
		futex(l->commit_word, FUTEX_WAIT, seen);
		uint32_t now = atomic_load(l->commit_word);

		if (now == seen)
			continue;
		seen = now;
		atomic_store(&l->commit_moved, true);
		bell_ring(l);
	}
	return NULL;
}

bool commit_begin(struct loop *l, char *why, size_t why_bytes)
{
	sigset_t all, before;
	int err;

	if (!l->commit_word || ring_has(RING_FUTEX))
		return true;
	l->commit_thread_seen = atomic_load(l->commit_word);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&l->commit_thread, NULL, commit_thread, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	l->commit_thread_runs = err == 0;
	if (err)
		snprintf(why, why_bytes,
			"cannot start the thread that waits for commits (before Linux 6.7): %s; "
			"raise TasksMax= of the unit, ulimit -u or the container's pids limit",
			strerror(err));
	return err == 0;
}

void commit_end(struct loop *l)
{
	struct timespec soon;

	if (!l->commit_thread_runs)
		return;
	atomic_store(&l->commit_thread_stop, true);
	/* Again and again: it may have looked at the flag just before, and wait just after. */
	do {
		futex(l->commit_word, FUTEX_WAKE, INT32_MAX);
		clock_gettime(CLOCK_REALTIME, &soon);
		soon.tv_nsec += 5000000;
		if (soon.tv_nsec >= 1000000000) {
			soon.tv_nsec -= 1000000000;
			soon.tv_sec++;
		}
	} while (pthread_timedjoin_np(l->commit_thread, NULL, &soon) == ETIMEDOUT);
	l->commit_thread_runs = false;
}

static void commit_arm(struct loop *l)
{
	struct io_uring_sqe *sqe = ring_sqe(&l->rings[0].r, IORING_OP_NOP, tag(OP_COMMIT, 0, 0));

	ring_prep_futex_wait(sqe, l->commit_word, l->commit_seen);
}

bool loop_commit_moved(struct loop *l)
{
	uint32_t now;

	if (!l->commit_word)
		return false;
	now = atomic_load(l->commit_word);
	if (now == l->commit_seen)
		return false;
	l->commit_seen = now;
	return true;
}

/* The word is read before the upcall: what changes later is met by the next wait's -EAGAIN. */
void commit_came(struct loop *l, int res)
{
	if (res == -EFAULT || res == -EINVAL)
		log_msg(LOG_ERROR, "waiting on the commit word: %s", strerror(-res));
	CHECK(res != -EFAULT && res != -EINVAL);
	if (loop_commit_moved(l))
		l->ev.committed(l->arg);
	commit_arm(l);
}

void commit_start(struct loop *l)
{
	if (!l->commit_word)
		return;
	l->commit_seen = atomic_load(l->commit_word);
	/* Whatever moved before anyone waited. */
	l->ev.committed(l->arg);
	if (!l->commit_thread_runs)
		commit_arm(l);
}
