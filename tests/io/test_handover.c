/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Connections that change loops (io/loop_move.c, io/handover.c): within one process, and into a
 * child. */
#include "tests/io/loop_fixture.h"

#include "io/handover.h"

#include <sys/mman.h>
#include <sys/wait.h>

enum { PHONES = 300, RING_CONNS = 128, RINGS = 3 };

static void run_until(struct fixture *f, const unsigned *what, unsigned count)
{
	assert_true(reached(f, what, count));
}

static const struct loop_options few_rings = {
	.conns_max = RING_CONNS * RINGS, .ring_conns_max = RING_CONNS, .cpu = -1};

struct world {
	struct fixture *old, *new;
	int peers[PHONES];
	struct handover_escrow *escrows[RINGS];
	unsigned escrow_count;
};

static void world_open(struct world *w)
{
	int err;

	memset(w, 0, sizeof(*w));
	w->old = fixture_listening(&few_rings);
	w->old->reads = do_watch;
	for (unsigned i = 0; i < PHONES; i++)
		w->peers[i] = client_to(&w->old->addr);
	run_until(w->old, &w->old->accepted, PHONES);
	w->escrow_count = loop_rings_open(w->old->loop);
	assert_in_range(w->escrow_count, 2, RINGS);
	for (unsigned i = 0; i < w->escrow_count; i++) {
		w->escrows[i] = handover_escrow_new(loop_ring_conns(w->old->loop), &err);
		assert_non_null(w->escrows[i]);
	}
}

static void world_new(struct world *w)
{
	w->new = fixture_new(&few_rings);
	w->new->reads = do_watch;
}

static void world_close(struct world *w)
{
	for (unsigned i = 0; i < w->escrow_count; i++)
		handover_escrow_free(&w->escrows[i]);
	fixture_free(w->old);
	if (w->new)
		fixture_free(w->new);
	for (unsigned i = 0; i < PHONES; i++)
		close(w->peers[i]);
}

/* What loop_import and loop_let_go mean to the fixture's account of slots. */
static uint32_t do_import(struct fixture *f, struct handover_escrow *e, const uint32_t *places,
	uint32_t *slots_out, uint32_t n)
{
	uint32_t came = loop_import(f->loop, e, places, slots_out, n);

	for (uint32_t i = 0; i < n; i++) {
		if (slots_out[i] == UINT32_MAX)
			continue;
		conn_at(f, slots_out[i], CONN_FREE);
		f->conns[slots_out[i]] = (struct conn){.state = CONN_OPEN};
	}
	return came;
}

static void do_import_drop(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->state = CONN_FREE;
	loop_import_drop(f->loop, slot);
}

static void do_let_go(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->state = CONN_CLOSING;
	loop_let_go(f->loop, slot);
}

static void export_all(struct world *w)
{
	uint32_t per = loop_ring_conns(w->old->loop);

	loop_listen_stop(w->old->loop);
	for (unsigned i = 0; i < PHONES; i++) {
		assert_true(loop_may_export(w->old->loop, w->old->order[i]));
		loop_export(w->old->loop, w->old->order[i], w->escrows[w->old->order[i] / per]);
	}
	run_until(w->old, &w->old->exported, PHONES);
	assert_int_equal(w->old->export_failed, 0);
}

/* Order: by escrow, as the slots came. */
static unsigned import_all_quietly(struct world *w)
{
	uint32_t per = loop_ring_conns(w->old->loop), places[PHONES], slots[PHONES];
	unsigned all = 0;

	for (unsigned e = 0; e < w->escrow_count; e++) {
		uint32_t n = 0;

		for (unsigned i = 0; i < PHONES; i++)
			if (w->old->order[i] / per == e)
				places[n++] = w->old->order[i] % per;
		assert_int_equal(do_import(w->new, w->escrows[e], places, slots, n), n);
		for (uint32_t i = 0; i < n; i++, all++) {
			assert_true(slots[i] < loop_slots_max(w->new->loop));
			w->new->order[all] = slots[i];
		}
	}
	return all;
}

static unsigned import_all(struct world *w)
{
	unsigned all = import_all_quietly(w);

	for (unsigned i = 0; i < all; i++)
		do_watch(w->new, w->new->order[i]);
	return all;
}

static void let_all_go(struct world *w)
{
	for (unsigned i = 0; i < PHONES; i++)
		do_let_go(w->old, w->old->order[i]);
	run_until(w->old, &w->old->released, PHONES);
}

static void say_hello(struct world *w)
{
	char text[16];

	for (unsigned i = 0; i < PHONES; i++) {
		snprintf(text, sizeof(text), "hello %u", i);
		client_send(w->peers[i], text);
	}
}

static void hear_hello(struct world *w)
{
	char text[16];

	for (unsigned i = 0; i < PHONES; i++) {
		snprintf(text, sizeof(text), "hello %u", i);
		client_expect(w->peers[i], text);
	}
}

static bool silent(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 0;
}

/* To the phone: its connection does not notice whose it is. */
static void connections_change_loops(void **state)
{
	static struct world w;

	(void)state;
	world_open(&w);
	export_all(&w);
	world_new(&w);
	assert_int_equal(import_all(&w), PHONES);
	let_all_go(&w);
	for (unsigned i = 0; i < w.escrow_count; i++)
		handover_escrow_free(&w.escrows[i]);
	w.new->echo = true;
	for (unsigned i = 0; i < PHONES; i++)
		assert_true(silent(w.peers[i]));
	say_hello(&w);
	run_until(w.new, &w.new->sent, PHONES);
	hear_hello(&w);
	world_close(&w);
}

/* To the phone: bytes that arrive while two loops hold its connection are read once. */
static void bytes_in_between_are_kept(void **state)
{
	static struct world w;

	(void)state;
	world_open(&w);
	export_all(&w);
	world_new(&w);
	import_all(&w);
	say_hello(&w);
	run_until(w.old, &w.old->readable, PHONES); /* ... and leaves them there */
	let_all_go(&w);
	w.new->echo = true;
	run_until(w.new, &w.new->sent, PHONES);
	hear_hello(&w);
	assert_int_equal(w.new->received, PHONES);
	world_close(&w);
}

/* To the phone: a hand-over that comes to nothing has not happened. */
static void without_an_heir_all_goes_on(void **state)
{
	static struct world w;

	(void)state;
	world_open(&w);
	export_all(&w);
	for (unsigned i = 0; i < w.escrow_count; i++)
		handover_escrow_free(&w.escrows[i]);
	loop_listen_again(w.old->loop);
	w.old->echo = true;
	say_hello(&w);
	run_until(w.old, &w.old->sent, PHONES);
	hear_hello(&w);
	world_close(&w);
}

/* To the phone: the end of its connection reaches it although another loop holds it still. */
static void a_shared_connection_ends_for_the_peer(void **state)
{
	static struct world w;

	(void)state;
	world_open(&w);
	export_all(&w);
	world_new(&w);
	import_all(&w);
	loop_set_shared(w.new->loop, true);
	for (unsigned i = 0; i < PHONES; i++)
		do_close(w.new, w.new->order[i], i % 2);
	run_until(w.new, &w.new->released, PHONES);
	for (unsigned i = 0; i < PHONES; i++) {
		struct pollfd p = {.fd = w.peers[i], .events = POLLIN};

		assert_int_equal(poll(&p, 1, BOUND_MS), 1);
	}
	world_close(&w);
}

/* To the phone: its connection ends at once although copies of it are with somebody who never asked
 * for them; and whoever comes in its place is the one whose copy counts. */
static void a_copied_connection_may_end_before_it_moves(void **state)
{
	static struct world w;
	uint32_t per, slot, place, ours[2], closed = PHONES / 3;
	int fresh;

	(void)state;
	world_open(&w);
	per = loop_ring_conns(w.old->loop);
	/* In the middle of something, too. */
	loop_set_shared(w.old->loop, true);
	say_hello(&w);
	run_until(w.old, &w.old->readable, PHONES);
	w.old->echo = true;
	for (unsigned i = 0; i < PHONES; i++) {
		do_recv(w.old, w.old->order[i]);
		loop_export(w.old->loop, w.old->order[i], w.escrows[w.old->order[i] / per]);
	}
	run_until(w.old, &w.old->sent, PHONES);
	run_until(w.old, &w.old->exported, PHONES);
	assert_int_equal(w.old->export_failed, 0);
	hear_hello(&w);
	w.old->echo = false;
	world_new(&w);
	slot = w.old->order[0];
	place = slot % per;
	assert_int_equal(do_import(w.new, w.escrows[slot / per], &place, &ours[0], 1), 1);
	for (unsigned i = 0; i < closed; i++)
		do_close(w.old, w.old->order[i], i % 2);
	run_until(w.old, &w.old->released, closed);
	for (unsigned i = 0; i < closed; i++) {
		struct pollfd p = {.fd = w.peers[i], .events = POLLIN};
		char c;

		assert_int_equal(poll(&p, 1, BOUND_MS), 1);
		assert_true(recv(w.peers[i], &c, 1, 0) <= 0);
	}
	/* Until somebody sits where the first one sat. */
	do {
		fresh = client_to(&w.old->addr);
		w.old->accepted = PHONES - 1;
		run_until(w.old, &w.old->accepted, PHONES);
		if (w.old->order[PHONES - 1] != slot) {
			assert_true(closed < PHONES - 1);
			close(w.peers[closed]);
			w.peers[closed++] = fresh;
		}
	} while (w.old->order[PHONES - 1] != slot);
	w.old->exported = 0;
	loop_export(w.old->loop, slot, w.escrows[slot / per]);
	run_until(w.old, &w.old->exported, 1);
	do_import_drop(w.new, ours[0]);
	assert_int_equal(do_import(w.new, w.escrows[slot / per], &place, &ours[1], 1), 1);
	w.old->released = 0;
	do_let_go(w.old, slot);
	run_until(w.old, &w.old->released, 1);
	w.new->echo = true;
	do_watch(w.new, ours[1]);
	client_send(fresh, "me");
	run_until(w.new, &w.new->sent, 1);
	client_expect(fresh, "me");
	close(fresh);
	world_close(&w);
}

/* Dropped places are free again: as many as there are come once more. */
static void dropped_copies_leave_room(void **state)
{
	static struct world w;

	(void)state;
	world_open(&w);
	export_all(&w);
	world_new(&w);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(import_all_quietly(&w), PHONES);
		for (unsigned i = 0; i < PHONES; i++)
			do_import_drop(w.new, w.new->order[i]);
	}
	assert_int_equal(import_all(&w), PHONES);
	let_all_go(&w);
	w.new->echo = true;
	say_hello(&w);
	run_until(w.new, &w.new->sent, PHONES);
	hear_hello(&w);
	world_close(&w);
}

/* To the operator: who does not fit is told, and the others are taken. */
static void empty_places_fail(void **state)
{
	static struct world w;
	uint32_t places[2], slots[2];

	(void)state;
	world_open(&w);
	world_new(&w);
	loop_listen_stop(w.old->loop);
	loop_export(w.old->loop, w.old->order[0],
		w.escrows[w.old->order[0] / loop_ring_conns(w.old->loop)]);
	run_until(w.old, &w.old->exported, 1);
	places[0] = w.old->order[0] % loop_ring_conns(w.old->loop);
	places[1] = places[0] + 1;
	assert_int_equal(do_import(w.new, w.escrows[w.old->order[0] / loop_ring_conns(w.old->loop)],
				 places, slots, 2),
		1);
	assert_true(slots[0] != UINT32_MAX);
	assert_int_equal(slots[1], UINT32_MAX);
	world_close(&w);
}

/* The same across processes, by the key alone, as over exec. */
static void connections_change_processes(void **state)
{
	static struct world w;
	struct handover_key keys[RINGS];
	int status, go[2];
	pid_t child;
	char c;

	(void)state;
	world_open(&w);
	export_all(&w);
	for (unsigned i = 0; i < w.escrow_count; i++)
		handover_escrow_key(w.escrows[i], &keys[i]);
	assert_return_code(pipe(go), errno);
	child = fork();
	if (child == 0) {
		int err;

		close(go[0]);
		world_new(&w);
		for (unsigned i = 0; i < w.escrow_count; i++) {
			w.escrows[i] = handover_escrow_adopt(&keys[i], &err);
			if (!w.escrows[i])
				_exit(2);
		}
		if (import_all(&w) != PHONES)
			_exit(3);
		/* (The parent holds its copies of the escrows and lets go of the rest.) */
		if (write(go[1], "", 1) != 1)
			_exit(4);
		w.new->echo = true;
		_exit(reached(w.new, &w.new->sent, PHONES) ? 0 : 5);
	}
	assert_true(child > 0);
	close(go[1]);
	assert_int_equal(read(go[0], &c, 1), 1);
	close(go[0]);
	let_all_go(&w);
	say_hello(&w);
	hear_hello(&w);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	world_close(&w);
}

static void memory_is_passed_and_wiped(void **state)
{
	uint8_t secret[10000], *p, *q;
	size_t n = 0;
	int err = 0, fd;

	(void)state;
	memset(secret, 0x5a, sizeof(secret));
	fd = handover_memory_new(secret, sizeof(secret));
	assert_true(fd >= 0);
	p = handover_memory_map(fd, &n, &err);
	assert_non_null(p);
	assert_int_equal(n, sizeof(secret));
	assert_memory_equal(p, secret, n);
	/* It can neither shrink under a reader nor grow. */
	assert_int_equal(ftruncate(fd, 1), -1);
	q = handover_memory_map(fd, &n, &err);
	handover_memory_wipe(&p, n);
	assert_null(p);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(q[i], 0);
	munmap(q, n);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(connections_change_loops),
		cmocka_unit_test(bytes_in_between_are_kept),
		cmocka_unit_test(without_an_heir_all_goes_on),
		cmocka_unit_test(a_shared_connection_ends_for_the_peer),
		cmocka_unit_test(a_copied_connection_may_end_before_it_moves),
		cmocka_unit_test(dropped_copies_leave_room),
		cmocka_unit_test(empty_places_fail),
		cmocka_unit_test(connections_change_processes),
		cmocka_unit_test(memory_is_passed_and_wiped),
	};

	return run_on_both_kernels("handover", tests, ARRAY_LEN(tests));
}
