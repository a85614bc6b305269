/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Queues that are too small: more operations than entries, more completions than places. */
#include "io/ring.h"

#include "core/base/check.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { OPS = 1000, SQ = 4, CQ = 8, TURNS_MAX = 2 * OPS };

static void open_tiny(struct ring *r)
{
	const struct ring_options o = {
		.conns = 16, .buffers = 4, .buffer_bytes = 64, .sq_entries = SQ, .cq_entries = CQ};

	assert_int_equal(ring_open(r, &o), 0);
	assert_int_equal(r->uring.sq.ring_entries, SQ);
	assert_int_equal(r->uring.cq.ring_entries, CQ);
}

/* One look: what is there now, as the loop does it. */
static unsigned reap(struct ring *r, void (*see)(uint64_t user_data, int res))
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&r->uring, head, cqe)
	{
		see(cqe->user_data, cqe->res);
		n++;
	}
	io_uring_cq_advance(&r->uring, n);
	return n;
}

static unsigned times_seen[OPS];

static void count_one(uint64_t user_data, int res)
{
	assert_true(user_data < OPS);
	assert_int_equal(res, 0);
	times_seen[user_data]++;
}

/* To every connection of a full server: nothing that was asked for is forgotten, and nothing is answered
 * twice, when a turn asks for 250 times as much as fits. */
static void more_operations_than_entries_lose_none(void **state)
{
	int64_t full = metrics_sum(M_RING_SQ_FULL), overflow = metrics_sum(M_RING_CQ_OVERFLOW);
	struct ring r;
	unsigned n = 0;

	(void)state;
	open_tiny(&r);
	memset(times_seen, 0, sizeof(times_seen));
	for (unsigned i = 0; i < OPS; i++)
		ring_sqe(&r, IORING_OP_NOP, i)->fd = -1;
	assert_true(metrics_sum(M_RING_SQ_FULL) - full >= OPS / SQ - 1);
	/* All done, and most of it nowhere but on the kernel's list. */
	assert_true(io_uring_cq_has_overflow(&r.uring));
	for (unsigned turns = 0; n < OPS && turns < TURNS_MAX; turns++) {
		assert_true(io_uring_cq_ready(&r.uring) > 0 || ring_wants_enter(&r));
		n += reap(&r, count_one);
		if (ring_wants_enter(&r))
			ring_enter(&r);
	}
	assert_int_equal(n, OPS);
	for (unsigned i = 0; i < OPS; i++)
		assert_int_equal(times_seen[i], 1);
	assert_false(io_uring_cq_has_overflow(&r.uring));
	assert_false(ring_wants_enter(&r));
	assert_true(metrics_sum(M_RING_CQ_OVERFLOW) > overflow);
	ring_close(&r);
}

/* The same when it is waited for: with completions on the kernel's list nobody sleeps. */
static void waiting_brings_what_overflowed(void **state)
{
	struct ring r;
	unsigned n = 0;

	(void)state;
	open_tiny(&r);
	memset(times_seen, 0, sizeof(times_seen));
	for (unsigned i = 0; i < OPS; i++)
		ring_sqe(&r, IORING_OP_NOP, i)->fd = -1;
	for (unsigned turns = 0; n < OPS && turns < TURNS_MAX; turns++) {
		ring_wait(&r, UINT64_MAX);
		assert_true(io_uring_cq_ready(&r.uring) > 0);
		n += reap(&r, count_one);
	}
	assert_int_equal(n, OPS);
	ring_close(&r);
}

static int second_res;

static void see_second(uint64_t user_data, int res)
{
	if (user_data == 2)
		second_res = res;
	else if (user_data == 1)
		assert_int_equal(res, -EBADF);
}

/* To the peer of a closed connection: a link is one submission wherever the queue's end falls, so its
 * second half waits for the first. Here the first fails, and the second must not run. */
static void reserved_links_are_not_cut(void **state)
{
	struct ring r;

	(void)state;
	open_tiny(&r);
	for (unsigned before = 0; before < 3 * SQ; before++) {
		struct io_uring_sqe *sqe;

		for (unsigned i = 0; i < before; i++)
			ring_sqe(&r, IORING_OP_NOP, 0)->fd = -1;
		ring_reserve(&r, 2);
		sqe = ring_sqe(&r, IORING_OP_READ, 1);
		sqe->fd = -1;
		sqe->flags |= IOSQE_IO_LINK;
		ring_sqe(&r, IORING_OP_NOP, 2)->fd = -1;
		second_res = 1;
		for (unsigned turns = 0; second_res == 1 && turns < TURNS_MAX; turns++) {
			ring_enter(&r);
			reap(&r, see_second);
		}
		assert_int_equal(second_res, -ECANCELED);
	}
	ring_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(more_operations_than_entries_lose_none),
		cmocka_unit_test(waiting_brings_what_overflowed),
		cmocka_unit_test(reserved_links_are_not_cut),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
