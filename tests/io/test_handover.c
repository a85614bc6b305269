/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Connections that change loops: within one process, and into a child. The peers are plain
 * blocking sockets of the test's thread; what does not happen within BOUND_MS fails. All tests run
 * twice: as this kernel is, and without what Linux 6.1 lacks. */
#include "io/handover.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/loop.h"
#include "io/ring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { BOUND_MS = 20000, CONNS = 300, RING_CONNS = 128, RINGS = 3 };

struct side {
	struct loop *loop;
	uint32_t slots[CONNS]; /* as accepted */
	unsigned accepted, readable, received, sent, released, exported, failed, fins;
	const unsigned *until;
	unsigned until_count;
	uint64_t deadline_ms;
	bool echo;
	uint8_t copy[RING_CONNS * RINGS][16]; /* by slot */
};

static void on_accepted(void *arg, uint32_t slot, unsigned listener, const struct loop_addr *peer)
{
	struct side *s = arg;

	(void)listener;
	(void)peer;
	s->slots[s->accepted++ % CONNS] = slot;
	loop_watch(s->loop, slot);
}

static void on_readable(void *arg, uint32_t slot)
{
	struct side *s = arg;

	s->readable++;
	if (s->echo)
		loop_recv(s->loop, slot);
}

static void on_received(void *arg, uint32_t slot, const uint8_t *p, int n)
{
	struct side *s = arg;

	s->received++;
	if (n <= 0) {
		s->fins++;
		return;
	}
	assert_true(n <= 16);
	memcpy(s->copy[slot], p, (size_t)n);
	loop_send(s->loop, slot, s->copy[slot], (uint32_t)n);
}

static void on_sent(void *arg, uint32_t slot, int err)
{
	struct side *s = arg;

	assert_int_equal(err, 0);
	s->sent++;
	loop_watch(s->loop, slot);
}

static void on_released(void *arg, uint32_t slot)
{
	(void)slot;
	((struct side *)arg)->released++;
}

static void on_exported(void *arg, uint32_t slot, int err)
{
	struct side *s = arg;

	(void)slot;
	s->exported++;
	s->failed += err != 0;
}

static uint64_t on_tick(void *arg, uint64_t now_ms)
{
	struct side *s = arg;

	if (*s->until >= s->until_count || now_ms > s->deadline_ms)
		loop_stop(s->loop);
	return now_ms + 5;
}

static const struct loop_events events = {
	.accepted = on_accepted,
	.readable = on_readable,
	.received = on_received,
	.sent = on_sent,
	.released = on_released,
	.exported = on_exported,
	.tick = on_tick,
};

static void run_until(struct side *s, const unsigned *what, unsigned count)
{
	s->until = what;
	s->until_count = count;
	s->deadline_ms = clock_mono_ms() + BOUND_MS;
	loop_run(s->loop);
	assert_true(*what >= count);
}

static void side_open(struct side *s)
{
	struct loop_options o = {
		.conns_max = RING_CONNS * RINGS, .ring_conns_max = RING_CONNS, .cpu = -1};
	char why[200] = "";

	memset(s, 0, sizeof(*s));
	s->loop = loop_new(&o, &events, s, why, sizeof(why));
	if (!s->loop)
		fail_msg("%s", why);
}

struct world {
	struct side old, new;
	int listener, peers[CONNS];
	struct handover_escrow *escrows[RINGS];
	unsigned escrow_count;
};

static void world_open(struct world *w)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	int err;

	memset(w, 0, sizeof(*w));
	side_open(&w->old);
	w->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(bind(w->listener, (struct sockaddr *)&a, sizeof(a)), errno);
	assert_return_code(listen(w->listener, CONNS), errno);
	getsockname(w->listener, (struct sockaddr *)&a, &n);
	loop_listen(w->old.loop, w->listener);
	for (unsigned i = 0; i < CONNS; i++) {
		w->peers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_return_code(connect(w->peers[i], (struct sockaddr *)&a, sizeof(a)), errno);
	}
	run_until(&w->old, &w->old.accepted, CONNS);
	w->escrow_count = loop_rings_open(w->old.loop);
	assert_in_range(w->escrow_count, 2, RINGS);
	for (unsigned i = 0; i < w->escrow_count; i++) {
		w->escrows[i] = handover_escrow_new(loop_ring_conns(w->old.loop), &err);
		assert_non_null(w->escrows[i]);
	}
}

static void world_close(struct world *w)
{
	for (unsigned i = 0; i < w->escrow_count; i++)
		handover_escrow_free(&w->escrows[i]);
	loop_free(&w->old.loop);
	loop_free(&w->new.loop);
	for (unsigned i = 0; i < CONNS; i++)
		if (w->peers[i] >= 0)
			close(w->peers[i]);
	close(w->listener);
}

static void export_all(struct world *w)
{
	uint32_t per = loop_ring_conns(w->old.loop);

	loop_listen_stop(w->old.loop);
	for (unsigned i = 0; i < CONNS; i++) {
		assert_true(loop_may_export(w->old.loop, w->old.slots[i]));
		loop_export(w->old.loop, w->old.slots[i], w->escrows[w->old.slots[i] / per]);
	}
	run_until(&w->old, &w->old.exported, CONNS);
	assert_int_equal(w->old.failed, 0);
}

/* Order: by escrow, as the slots came. */
static unsigned import_all_quietly(struct world *w)
{
	uint32_t per = loop_ring_conns(w->old.loop), places[CONNS], slots[CONNS];
	unsigned all = 0;

	for (unsigned e = 0; e < w->escrow_count; e++) {
		uint32_t n = 0;

		for (unsigned i = 0; i < CONNS; i++)
			if (w->old.slots[i] / per == e)
				places[n++] = w->old.slots[i] % per;
		assert_int_equal(loop_import(w->new.loop, w->escrows[e], places, slots, n), n);
		for (uint32_t i = 0; i < n; i++, all++) {
			assert_true(slots[i] < loop_slots_max(w->new.loop));
			w->new.slots[all] = slots[i];
		}
	}
	return all;
}

static unsigned import_all(struct world *w)
{
	unsigned all = import_all_quietly(w);

	for (unsigned i = 0; i < all; i++)
		loop_watch(w->new.loop, w->new.slots[i]);
	return all;
}

static void let_all_go(struct world *w)
{
	for (unsigned i = 0; i < CONNS; i++)
		loop_let_go(w->old.loop, w->old.slots[i]);
	run_until(&w->old, &w->old.released, CONNS);
}

static void say_hello(struct world *w)
{
	for (unsigned i = 0; i < CONNS; i++) {
		char text[16];
		int n = snprintf(text, sizeof(text), "hello %u", i);

		assert_int_equal(send(w->peers[i], text, (size_t)n, 0), n);
	}
}

static void hear_hello(struct world *w)
{
	for (unsigned i = 0; i < CONNS; i++) {
		struct pollfd p = {.fd = w->peers[i], .events = POLLIN};
		char text[16], got[16] = "";

		snprintf(text, sizeof(text), "hello %u", i);
		assert_int_equal(poll(&p, 1, BOUND_MS), 1);
		assert_true(recv(w->peers[i], got, sizeof(got) - 1, 0) > 0);
		assert_string_equal(got, text);
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
	side_open(&w.new);
	assert_int_equal(import_all(&w), CONNS);
	let_all_go(&w);
	for (unsigned i = 0; i < w.escrow_count; i++)
		handover_escrow_free(&w.escrows[i]);
	w.new.echo = true;
	for (unsigned i = 0; i < CONNS; i++)
		assert_true(silent(w.peers[i]));
	say_hello(&w);
	run_until(&w.new, &w.new.sent, CONNS);
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
	side_open(&w.new);
	import_all(&w);
	say_hello(&w);
	run_until(&w.old, &w.old.readable, CONNS); /* ... and leaves them there */
	let_all_go(&w);
	w.new.echo = true;
	run_until(&w.new, &w.new.sent, CONNS);
	hear_hello(&w);
	assert_int_equal(w.new.received, CONNS);
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
	loop_listen_again(w.old.loop);
	w.old.echo = true;
	say_hello(&w);
	run_until(&w.old, &w.old.sent, CONNS);
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
	side_open(&w.new);
	import_all(&w);
	loop_set_shared(w.new.loop, true);
	for (unsigned i = 0; i < CONNS; i++)
		loop_close(w.new.loop, w.new.slots[i], i % 2);
	run_until(&w.new, &w.new.released, CONNS);
	for (unsigned i = 0; i < CONNS; i++) {
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
	struct sockaddr_in a;
	socklen_t n = sizeof(a);
	uint32_t per, slot, place, ours[2], closed = CONNS / 3;
	int fresh;

	(void)state;
	world_open(&w);
	per = loop_ring_conns(w.old.loop);
	/* In the middle of something, too. */
	loop_set_shared(w.old.loop, true);
	say_hello(&w);
	run_until(&w.old, &w.old.readable, CONNS);
	for (unsigned i = 0; i < CONNS; i++) {
		loop_recv(w.old.loop, w.old.slots[i]);
		loop_export(w.old.loop, w.old.slots[i], w.escrows[w.old.slots[i] / per]);
	}
	run_until(&w.old, &w.old.sent, CONNS);
	run_until(&w.old, &w.old.exported, CONNS);
	assert_int_equal(w.old.failed, 0);
	hear_hello(&w);
	side_open(&w.new);
	slot = w.old.slots[0];
	place = slot % per;
	assert_int_equal(loop_import(w.new.loop, w.escrows[slot / per], &place, &ours[0], 1), 1);
	for (unsigned i = 0; i < closed; i++)
		loop_close(w.old.loop, w.old.slots[i], i % 2);
	run_until(&w.old, &w.old.released, closed);
	for (unsigned i = 0; i < closed; i++) {
		struct pollfd p = {.fd = w.peers[i], .events = POLLIN};
		char c;

		assert_int_equal(poll(&p, 1, BOUND_MS), 1);
		assert_true(recv(w.peers[i], &c, 1, 0) <= 0);
	}
	/* Until somebody sits where the first one sat. */
	getsockname(w.listener, (struct sockaddr *)&a, &n);
	do {
		fresh = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_return_code(connect(fresh, (struct sockaddr *)&a, sizeof(a)), errno);
		w.old.accepted = CONNS - 1;
		run_until(&w.old, &w.old.accepted, CONNS);
		if (w.old.slots[CONNS - 1] != slot) {
			assert_true(closed < CONNS - 1);
			close(w.peers[closed]);
			w.peers[closed++] = fresh;
		}
	} while (w.old.slots[CONNS - 1] != slot);
	w.old.exported = 0;
	loop_export(w.old.loop, slot, w.escrows[slot / per]);
	run_until(&w.old, &w.old.exported, 1);
	loop_import_drop(w.new.loop, ours[0]);
	assert_int_equal(loop_import(w.new.loop, w.escrows[slot / per], &place, &ours[1], 1), 1);
	w.old.released = 0;
	loop_let_go(w.old.loop, slot);
	run_until(&w.old, &w.old.released, 1);
	w.new.echo = true;
	loop_watch(w.new.loop, ours[1]);
	assert_int_equal(send(fresh, "me", 2, 0), 2);
	run_until(&w.new, &w.new.sent, 1);
	{
		struct pollfd p = {.fd = fresh, .events = POLLIN};
		char got[3] = "";

		assert_int_equal(poll(&p, 1, BOUND_MS), 1);
		assert_int_equal(recv(fresh, got, 2, 0), 2);
		assert_string_equal(got, "me");
	}
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
	side_open(&w.new);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(import_all_quietly(&w), CONNS);
		for (unsigned i = 0; i < CONNS; i++)
			loop_import_drop(w.new.loop, w.new.slots[i]);
	}
	assert_int_equal(import_all(&w), CONNS);
	let_all_go(&w);
	w.new.echo = true;
	say_hello(&w);
	run_until(&w.new, &w.new.sent, CONNS);
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
	side_open(&w.new);
	loop_listen_stop(w.old.loop);
	loop_export(w.old.loop, w.old.slots[0],
		w.escrows[w.old.slots[0] / loop_ring_conns(w.old.loop)]);
	run_until(&w.old, &w.old.exported, 1);
	places[0] = w.old.slots[0] % loop_ring_conns(w.old.loop);
	places[1] = places[0] + 1;
	assert_int_equal(
		loop_import(w.new.loop, w.escrows[w.old.slots[0] / loop_ring_conns(w.old.loop)],
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
		side_open(&w.new);
		for (unsigned i = 0; i < w.escrow_count; i++) {
			w.escrows[i] = handover_escrow_adopt(&keys[i], &err);
			if (!w.escrows[i])
				_exit(2);
		}
		if (import_all(&w) != CONNS)
			_exit(3);
		/* (The parent holds its copies of the escrows and lets go of the rest.) */
		if (write(go[1], "", 1) != 1)
			_exit(4);
		w.new.echo = true;
		w.new.until = &w.new.sent;
		w.new.until_count = CONNS;
		w.new.deadline_ms = clock_mono_ms() + BOUND_MS;
		loop_run(w.new.loop);
		_exit(w.new.sent == CONNS ? 0 : 5);
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

static int as_on_linux_6_1(void **state)
{
	(void)state;
	ring_features_hidden = RING_FUTEX | RING_PROMPT_CLOSE;
	ring_renew_ms = 5;
	return 0;
}

int main(void)
{
	const struct CMUnitTest once[] = {
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
	struct CMUnitTest tests[2 * ARRAY_LEN(once)];
	static char names[ARRAY_LEN(once)][80];

	for (size_t i = 0; i < ARRAY_LEN(once); i++) {
		tests[i] = tests[ARRAY_LEN(once) + i] = once[i];
		snprintf(names[i], sizeof(names[i]), "%s (as on Linux 6.1)", once[i].name);
		tests[ARRAY_LEN(once) + i].name = names[i];
		tests[ARRAY_LEN(once) + i].setup_func = as_on_linux_6_1;
	}
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
