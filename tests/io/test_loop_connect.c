/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The client side (io/loop_connect.c). */
#include "tests/io/loop_fixture.h"

#include "io/loop_priv.h"

#include <netinet/tcp.h>

/* Connecting while slots close: an index must not come back before released() for it. */
static void connects_cross_closes(void **state)
{
	struct fixture *f = fixture_listening(&(struct loop_options){.conns_max = 300, .cpu = -1});

	(void)state;
	unsigned made = 0, gone = 0;
	for (unsigned r = 0; r < 60; r++) {
		uint32_t mine[20];

		for (unsigned i = 0; i < 20; i++) {
			mine[i] = do_connect(f, &f->addr, NULL);
			assert_int_not_equal(mine[i], UINT32_MAX);
		}
		made += 20;
		assert_true(reached(f, &f->connected, made));
		assert_true(reached(f, &f->accepted, made));
		for (unsigned i = 0; i < 20; i++) {
			do_close(f, mine[i], true);
			do_close(f, f->order[(made - 20 + i) % ARRAY_LEN(f->order)], true);
		}
		gone += 40;
		if (r % 4 == 3)
			assert_true(reached(f, &f->released, gone));
	}
	assert_true(reached(f, &f->released, gone));
	fixture_free(f);
}

static void connecting_may_fail(void **state)
{
	struct fixture *f = fixture_new(&(struct loop_options){.conns_max = 3, .cpu = -1});
	struct sockaddr_in gone, nowhere = {.sin_family = AF_INET};
	int fd = listen_any(&gone, 1);

	(void)state;
	close(fd);
	inet_pton(AF_INET, "192.0.2.1", &nowhere.sin_addr);
	uint32_t a = do_connect(f, &gone, NULL), b = do_connect(f, &f->addr, &nowhere);
	uint32_t ok = do_connect(f, &f->addr, NULL);
	assert_int_equal(do_connect(f, &f->addr, NULL), UINT32_MAX);
	assert_true(reached(f, &f->connected, 3));
	assert_int_equal(f->conns[a].connect_err, -ECONNREFUSED);
	assert_int_equal(f->conns[b].connect_err, -EADDRNOTAVAIL);
	assert_int_equal(f->conns[ok].connect_err, 0);
	do_close(f, a, false);
	do_close(f, b, true);
	assert_true(reached(f, &f->released, 2));
	assert_int_not_equal(do_connect(f, &f->addr, NULL), UINT32_MAX);
	assert_true(reached(f, &f->connected, 4));
	fixture_free(f);
}

/* Closing before the answer: no connected(), released() once. */
static void a_connect_can_be_given_up(void **state)
{
	struct fixture *f = fixture_new(&plain);
	struct sockaddr_in full;
	int fd = listen_any(&full, 0);
	uint32_t slots[8];

	(void)state;
	/* The backlog fills, then the SYNs are not answered. */
	for (unsigned i = 0; i < 8; i++)
		slots[i] = do_connect(f, &full, NULL);
	settle(f);
	assert_true(f->connected < 8);
	for (unsigned i = 0; i < 8; i++)
		do_close(f, slots[i], i & 1);
	unsigned before = f->connected;
	/* And one in the same turn. */
	uint32_t hasty = do_connect(f, &f->addr, NULL);
	do_close(f, hasty, false);
	assert_true(reached(f, &f->released, 9));
	assert_int_equal(f->connected, before);
	close(fd);
	fixture_free(f);
}

/* Says `fd`, or with -1 nothing, is at every index of the ring; the loop does not know. */
static void fill_indexes(struct fixture *f, int fd)
{
	struct io_uring *u = &f->loop->rings[0].r.uring;

	for (uint32_t i = 0; i < f->loop->ring_conns; i++)
		assert_int_equal(io_uring_register_files_update(u, i, &fd, 1), 1);
}

/* The kernel has no index for it, and no place in the completion queue to say so. */
static void a_failure_that_nobody_hears_is_one(void **state)
{
	struct fixture *f = fixture_listening(&(struct loop_options){
		.conns_max = 300, .sq_entries = 4, .cq_entries = 8, .cpu = -1});
	struct loop_ring *r = &f->loop->rings[0];

	(void)state;
	settle(f);
	assert_true(r->promised > 0); /* or the loop chooses the index itself */
	assert_true((uint32_t)f->listen_fd < f->loop->ring_conns);
	fill_indexes(f, f->listen_fd);
	for (unsigned i = 0; i < 20; i++)
		ring_sqe(&r->r, IORING_OP_NOP, tag(OP_QUIET, 0, 0));
	ring_submit(&r->r);
	assert_true(io_uring_cq_has_overflow(&r->r.uring));
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(do_connect(f, &f->addr, NULL), UINT32_MAX);
	fill_indexes(f, -1);
	settle(f);
	/* Nothing of that is left: there is room for as many as ever. */
	for (unsigned i = 0; i < 100; i++)
		assert_int_not_equal(do_connect(f, &f->addr, NULL), UINT32_MAX);
	assert_true(reached(f, &f->connected, 100));
	assert_true(reached(f, &f->accepted, 100));
	fixture_free(f);
}

static void source_address_is_kept(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000007)};

	(void)state;
	do_connect(f, &f->addr, &from);
	assert_true(reached(f, &f->accepted, 1));
	assert_true(reached(f, &f->connected, 1));
	assert_memory_equal(f->conns[f->order[0]].peer.ip + 12, "\x7f\0\0\7", 4);
	fixture_free(f);
}

/* A phone that vanished: its peer hears nothing, neither ACK nor RST, until it gives up by itself. */
static void a_deaf_connection_is_given_up(void **state)
{
	struct fixture *f = fixture_new(&plain);
	const int limit_ms = 300;
	uint32_t slot;
	char byte;
	int peer;

	(void)state;
	if (!loop_can_deafen()) {
		fixture_free(f);
		return;
	}
	slot = do_connect(f, &f->addr, NULL);
	assert_true(reached(f, &f->connected, 1));
	peer = accept(f->listen_fd, NULL, NULL);
	assert_true(peer >= 0);
	do_watch(f, slot);
	loop_deafen(f->loop, slot);
	settle(f);
	setsockopt(peer, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof(limit_ms));
	client_send(peer, "is anybody there?");
	assert_int_equal(client_read(peer, &byte, 1), -ETIMEDOUT);
	settle(f);
	assert_int_equal(f->readable, 0);
	do_close(f, slot, true);
	assert_true(reached(f, &f->released, 1));
	close(peer);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(connects_cross_closes),
		cmocka_unit_test(connecting_may_fail),
		cmocka_unit_test(a_connect_can_be_given_up),
		cmocka_unit_test(a_failure_that_nobody_hears_is_one),
		cmocka_unit_test(source_address_is_kept),
		cmocka_unit_test(a_deaf_connection_is_given_up),
	};

	return run_on_both_kernels("loop_connect", tests, ARRAY_LEN(tests));
}
