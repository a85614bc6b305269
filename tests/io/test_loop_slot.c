/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One connection: receive, watch, send, close (io/loop_slot.c). */
#include "tests/io/loop_fixture.h"

#include "core/base/metrics.h"

#include <netinet/in.h>
#include <pthread.h>

static void what_is_sent_comes_back(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);
	struct sockaddr_in me;
	socklen_t me_bytes = sizeof(me);
	char byte;

	(void)state;
	f->echo = true;
	f->reads = do_recv;
	client_send(c, "hello");
	assert_true(reached(f, &f->sent, 1));
	client_expect(c, "hello");
	client_send(c, "again");
	assert_true(reached(f, &f->sent, 2));
	client_expect(c, "again");

	/* The peer's address, in v4-mapped form. */
	uint32_t slot = f->order[0];
	getsockname(c, (struct sockaddr *)&me, &me_bytes);
	assert_int_equal(f->conns[slot].peer.port, ntohs(me.sin_port));
	assert_memory_equal(f->conns[slot].peer.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1", 16);

	shutdown(c, SHUT_WR);
	assert_true(reached(f, &f->released, 1));
	assert_int_equal(client_read(c, &byte, 1), 0);
	close(c);
	fixture_free(f);
}

/* To the parked phone: bytes, FIN and RST all wake it. */
static void a_parked_connection_wakes(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	struct linger rst = {.l_onoff = 1};
	int c[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		c[i] = client_to(&f->addr);
		assert_true(reached(f, &f->accepted, i + 1));
		do_watch(f, f->order[i]);
	}
	settle(f);
	assert_int_equal(f->readable, 0);
	client_send(c[0], "x");
	assert_true(reached(f, &f->readable, 1));
	close(c[1]);
	assert_true(reached(f, &f->readable, 2));
	setsockopt(c[2], SOL_SOCKET, SO_LINGER, &rst, sizeof(rst));
	close(c[2]);
	assert_true(reached(f, &f->readable, 3));
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(f->conns[f->order[i]].readables, 1);
		do_recv(f, f->order[i]);
	}
	assert_true(reached(f, &f->received, 3));
	assert_int_equal(f->conns[f->order[0]].last, 1);
	assert_int_equal(f->conns[f->order[1]].last, 0);
	assert_int_equal(f->conns[f->order[2]].last, -ECONNRESET);
	close(c[0]);
	fixture_free(f);
}

static void an_unwatched_connection_is_silent(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);

	(void)state;
	assert_true(reached(f, &f->accepted, 1));
	uint32_t slot = f->order[0];
	do_watch(f, slot);
	settle(f);
	do_unwatch(f, slot);
	client_send(c, "bytes");
	settle(f);
	assert_int_equal(f->readable, 0);
	do_recv(f, slot);
	settle(f);
	/* Bytes are there and so is the cancelled wait: only the new one speaks. */
	assert_int_equal(f->received, 1);
	assert_memory_equal(f->conns[slot].bytes, "bytes", 5);
	/* All pairs of old and new wait, without a turn in between. */
	for (int i = 0; i < 8; i++) {
		(i & 1 ? do_watch : do_recv)(f, slot);
		if (i & 4)
			settle(f);
		do_unwatch(f, slot);
		(i & 2 ? do_watch : do_recv)(f, slot);
		if (i & 4)
			settle(f);
		do_unwatch(f, slot);
	}
	do_unwatch(f, slot);
	do_recv(f, slot);
	client_send(c, "!");
	assert_true(reached(f, &f->received, 2));
	assert_int_equal(f->readable, 0);
	assert_int_equal(f->conns[slot].n, 6);
	close(c);
	fixture_free(f);
}

static uint32_t twin_of(struct fixture *f, uint32_t slot)
{
	return slot == f->order[0] ? f->order[1] : f->order[0];
}

static void unwatch_twin(struct fixture *f, uint32_t slot)
{
	f->on_received = NULL;
	do_unwatch(f, twin_of(f, slot));
}

/* To whoever stops reading: bytes that the kernel had already taken are not lost. Both receives
 * complete in one batch; the first upcall takes the other receive back. */
static void unwatch_keeps_bytes(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c[2];

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		unsigned before = f->accepted, got = f->received, woken = f->readable;

		for (unsigned i = 0; i < 2; i++) {
			c[i] = client_to(&f->addr);
			assert_true(reached(f, &f->accepted, before + i + 1));
			f->order[i] = f->order[before + i];
			do_recv(f, f->order[i]);
		}
		settle(f);
		client_send(c[0], "first");
		client_send(c[1], "first");
		f->on_received = unwatch_twin;
		assert_true(reached(f, &f->received, got + 1));
		settle(f);
		assert_int_equal(f->received, got + 1);
		uint32_t silent = f->conns[f->order[0]].n ? f->order[1] : f->order[0];
		int peer = silent == f->order[0] ? c[0] : c[1];
		assert_int_equal(f->conns[silent].n, 0);
		client_send(peer, "second");
		if (round & 1) {
			do_watch(f, silent);
			assert_true(reached(f, &f->readable, woken + 1));
		}
		if (round & 2) {
			do_recv(f, silent);
			do_unwatch(f, silent);
			settle(f);
			assert_int_equal(f->received, got + 1);
		}
		if (round == 3) { /* closing with bytes kept */
			do_recv(f, silent);
			do_close(f, silent, false);
			do_close(f, twin_of(f, silent), false);
		} else {
			while (f->conns[silent].n < 11) {
				do_recv(f, silent);
				assert_true(reached(f, &f->received, f->received + 1));
			}
			assert_memory_equal(f->conns[silent].bytes, "firstsecond", 11);
			do_close(f, silent, false);
			do_close(f, twin_of(f, silent), true);
		}
		assert_true(reached(f, &f->released, 2 * round + 2));
		close(c[0]);
		close(c[1]);
	}
	fixture_free(f);
}

static void *slow_reader(void *arg)
{
	int fd = *(int *)arg;
	static _Thread_local uint8_t chunk[100000];
	uint64_t sum = 0, total = 0;
	ssize_t n;

	while ((n = recv(fd, chunk, sizeof(chunk), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			sum += chunk[i] * (total + (uint64_t)i) % 251;
		total += (uint64_t)n;
	}
	uint64_t *out = malloc(2 * sizeof(*out));
	out[0] = total;
	out[1] = sum;
	return out;
}

static void a_big_send_reaches_a_slow_reader_whole(void **state)
{
	enum { BIG = 24 << 20 };
	struct fixture *f = fixture_listening(&plain);
	int small = 4096, c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint8_t *big = malloc(BIG);
	uint64_t sum = 0, *got;
	pthread_t reader;

	(void)state;
	assert_non_null(big);
	for (uint64_t i = 0; i < BIG; i++) {
		big[i] = (uint8_t)(i * 7 + i / 1000);
		sum += big[i] * i % 251;
	}
	setsockopt(c, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	assert_int_equal(connect(c, (struct sockaddr *)&f->addr, sizeof(f->addr)), 0);
	assert_true(reached(f, &f->accepted, 1));
	do_send(f, f->order[0], big, BIG);
	settle(f);
	assert_int_equal(f->sent, 0); /* nobody reads yet */
	assert_int_equal(pthread_create(&reader, NULL, slow_reader, &c), 0);
	assert_true(reached(f, &f->sent, 1));
	assert_int_equal(f->conns[f->order[0]].sent_err, 0);
	do_close(f, f->order[0], false);
	assert_true(reached(f, &f->released, 1));
	pthread_join(reader, (void **)&got);
	assert_int_equal(got[0], BIG);
	assert_int_equal(got[1], sum);
	free(got);
	free(big);
	close(c);
	fixture_free(f);
}

static void closing_ends_a_send(void **state)
{
	enum { BIG = 8 << 20 };
	struct fixture *f = fixture_listening(&plain);
	uint8_t *big = calloc(1, BIG);
	char chunk[65536];

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		bool reset = i & 1;
		int c = client_to(&f->addr), n;

		assert_true(reached(f, &f->accepted, i + 1));
		uint32_t slot = f->order[i];
		do_send(f, slot, big, BIG);
		(i & 2 ? do_recv : do_watch)(f, slot);
		settle(f);
		do_close(f, slot, reset);
		assert_true(reached(f, &f->released, i + 1));
		/* The buffer is ours again. */
		memset(big, 1, BIG);
		while ((n = client_read(c, chunk, sizeof(chunk))) > 0)
			;
		assert_int_equal(n, reset ? -ECONNRESET : 0);
		close(c);
	}
	assert_int_equal(f->sent, 0);
	free(big);
	fixture_free(f);
}

/* A send to a peer that has gone is an error, once. */
static void sending_to_a_dead_peer_fails(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);
	struct linger rst = {.l_onoff = 1};

	(void)state;
	assert_true(reached(f, &f->accepted, 1));
	setsockopt(c, SOL_SOCKET, SO_LINGER, &rst, sizeof(rst));
	close(c);
	do_send(f, f->order[0], "x", 1);
	assert_true(reached(f, &f->sent, 1));
	assert_true(f->conns[f->order[0]].sent_err < 0);
	/* Closing what is reset already, both ways. */
	do_close(f, f->order[0], true);
	assert_true(reached(f, &f->released, 1));
	fixture_free(f);
}

/* To the next owner of a slot: nothing of the previous one reaches it. The fixture's account of
 * slots fails on any upcall out of order. */
static void slots_are_used_again_and_again(void **state)
{
	struct fixture *f = fixture_listening(
		&(struct loop_options){.conns_max = 96, .ring_conns_max = 96, .cpu = -1});
	unsigned rounds = 300, opened = 0;
	struct {
		int fd;
	} c[16];

	(void)state;
	for (unsigned r = 0; r < rounds; r++) {
		for (unsigned i = 0; i < 16; i++)
			c[i].fd = client_to(&f->addr);
		assert_true(reached(f, &f->accepted, opened + 16));
		for (unsigned i = 0; i < 16; i++) {
			uint32_t slot = f->order[(opened + i) % ARRAY_LEN(f->order)];

			if (i & 1)
				do_recv(f, slot);
			else
				do_watch(f, slot);
			if (i & 2)
				client_send(c[i].fd, "cross");
			if (i & 4)
				do_send(f, slot, "answer", 6);
			if (i & 8)
				do_close(f, slot, r & 1);
		}
		for (unsigned i = 0; i < 16; i++) {
			uint32_t slot = f->order[(opened + i) % ARRAY_LEN(f->order)];

			close(c[i].fd);
			if (!(i & 8))
				do_close(f, slot, r & 1);
		}
		opened += 16;
		/* New clients come while the old slots are still closing, on odd rounds. */
		if (r % 2 == 0)
			assert_true(reached(f, &f->released, opened));
	}
	assert_true(reached(f, &f->released, opened));
	for (unsigned i = 0; i < CONNS; i++)
		assert_int_equal(f->conns[i].state, CONN_FREE);
	fixture_free(f);
}

/* More receives than buffers: all are served in the end, and the idle ones are armed too. */
static void few_buffers_serve_many(void **state)
{
	enum { N = 120 };
	struct fixture *f = fixture_listening(&(struct loop_options){
		.conns_max = 256, .buffers = 2, .buffer_bytes = 64, .cpu = -1});
	static int c[N];
	int64_t starved = metrics_sum(M_RING_NOBUFS);

	(void)state;
	f->echo = true;
	f->reads = do_recv;
	for (unsigned i = 0; i < N; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, N));
	settle(f);
	for (unsigned r = 1; r <= 5; r++) {
		for (unsigned i = 0; i < N; i++)
			client_send(c[i], "hungry");
		assert_true(reached(f, &f->sent, r * N));
	}
	assert_true(metrics_sum(M_RING_NOBUFS) > starved);
	/* Closing and taking back while hungry. */
	for (unsigned i = 0; i < N; i++)
		client_send(c[i], "late");
	f->echo = false;
	assert_true(reached(f, &f->received, 5 * N + 1));
	for (unsigned i = 0; i < N; i++) {
		struct conn *k = &f->conns[f->order[i]];

		if (k->reading && i % 3 == 0)
			do_unwatch(f, f->order[i]);
		else if (k->state == CONN_OPEN && !k->sending)
			do_close(f, f->order[i], false);
	}
	settle(f);
	for (unsigned i = 0; i < N; i++)
		if (f->conns[f->order[i]].state == CONN_OPEN)
			do_close(f, f->order[i], false);
	assert_true(reached(f, &f->released, N));
	for (unsigned i = 0; i < N; i++)
		close(c[i]);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_sent_comes_back),
		cmocka_unit_test(a_parked_connection_wakes),
		cmocka_unit_test(an_unwatched_connection_is_silent),
		cmocka_unit_test(unwatch_keeps_bytes),
		cmocka_unit_test(a_big_send_reaches_a_slow_reader_whole),
		cmocka_unit_test(closing_ends_a_send),
		cmocka_unit_test(sending_to_a_dead_peer_fails),
		cmocka_unit_test(slots_are_used_again_and_again),
		cmocka_unit_test(few_buffers_serve_many),
	};

	return run_on_both_kernels("loop_slot", tests, ARRAY_LEN(tests));
}
