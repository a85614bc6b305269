/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The turn, the rings, beginning and end (io/loop.c). */
#include "tests/io/loop_fixture.h"

#include "core/base/clock.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void both_ends_in_one_loop(void **state)
{
	struct fixture *f = fixture_listening(&plain);

	(void)state;
	for (unsigned i = 1; i <= 20; i++) {
		uint32_t a = do_connect(f, &f->addr, NULL);

		assert_int_not_equal(a, UINT32_MAX);
		assert_true(reached(f, &f->connected, i));
		assert_true(reached(f, &f->accepted, i));
		assert_int_equal(f->conns[a].connect_err, 0);
		uint32_t b = f->order[i - 1];
		assert_int_not_equal(a, b);
		do_send(f, a, "ping", 4);
		do_recv(f, b);
		assert_true(reached(f, &f->received, i));
		assert_int_equal(f->conns[b].n, 4);
		if (i % 2) {
			do_close(f, a, false);
			do_close(f, b, false);
		}
	}
	assert_true(reached(f, &f->released, 20));
	fixture_free(f);
}

static void many_rings_serve_as_one(void **state)
{
	enum { N = 200 };
	struct fixture *f = fixture_listening(&(struct loop_options){
		.conns_max = N, .ring_conns_max = 16, .buffers = 8, .cpu = -1});
	static int c[N];
	unsigned rings[16] = {0};

	(void)state;
	f->echo = true;
	f->reads = do_recv;
	assert_int_equal(loop_slots_max(f->loop), 208);
	for (unsigned i = 0; i < N; i++) {
		c[i] = client_to(&f->addr);
		if (i % 50 == 49)
			assert_true(reached(f, &f->accepted, i + 1));
	}
	for (unsigned i = 0; i < N; i++)
		rings[f->order[i] / 16]++;
	for (unsigned i = 0; i < 12; i++)
		assert_true(rings[i] > 0 && rings[i] <= 16);
	for (unsigned r = 1; r <= 3; r++) {
		for (unsigned i = 0; i < N; i++)
			client_send(c[i], "all of them");
		assert_true(reached(f, &f->sent, r * N));
		for (unsigned i = 0; i < N; i++)
			client_expect(c[i], "all of them");
	}
	/* One at a time: the loop sleeps between, so each wakes it alone. */
	for (unsigned i = 0; i < N; i++) {
		client_send(c[i], "one");
		assert_true(reached(f, &f->sent, 3 * N + i + 1));
		client_expect(c[i], "one");
	}
	for (unsigned i = 0; i < N; i++)
		close(c[i]);
	assert_true(reached(f, &f->released, N));
	/* And posts and refilling work as before. */
	c[0] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, N + 1));
	close(c[0]);
	assert_true(reached(f, &f->released, N + 1));
	fixture_free(f);
}

enum { CROWD = 100 };

/* A turn asks for 25 times as much as the queue takes, and as much comes back at once: answers,
 * closings, connects and what wakes the loop are all there in the end, each once (the fixture's account
 * of slots sees to that). */
static void crowd_through_tiny_queues(uint32_t ring_conns_max)
{
	static _Atomic uint32_t word;
	struct fixture *f = fixture_listening(&(struct loop_options){.conns_max = 4 * CROWD,
		.ring_conns_max = ring_conns_max,
		.sq_entries = 4,
		.cq_entries = 8,
		.commit_word = &word,
		.cpu = -1});
	int64_t full = metrics_sum(M_RING_SQ_FULL), overflow = metrics_sum(M_RING_CQ_OVERFLOW);
	static struct loop_msg posts[CROWD];
	static uint32_t mine[CROWD];
	unsigned resets = 0;
	static int c[CROWD];

	f->echo = true;
	f->reads = do_recv;
	for (unsigned i = 0; i < CROWD; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, CROWD));
	for (unsigned r = 1; r <= 3; r++) {
		for (unsigned i = 0; i < CROWD; i++)
			client_send(c[i], "all at once");
		assert_true(reached(f, &f->sent, r * CROWD));
		for (unsigned i = 0; i < CROWD; i++)
			client_expect(c[i], "all at once");
	}
	/* Reading taken back and begun anew, all of them before the kernel hears of any. */
	for (unsigned i = 0; i < CROWD; i++) {
		do_unwatch(f, f->order[i]);
		do_watch(f, f->order[i]);
		loop_post(f->loop, &posts[i]);
	}
	assert_true(reached(f, &f->messages, CROWD));
	atomic_fetch_add(&word, 1);
	unsigned commits = f->commits;
	for (unsigned i = 0; i < CROWD; i++)
		client_send(c[i], "and again");
	assert_true(reached(f, &f->sent, 4 * CROWD));
	for (unsigned i = 0; i < CROWD; i++)
		client_expect(c[i], "and again");
	assert_int_equal(f->commits, commits + 1);
	/* Those that are there close, half of them by a linked pair, while others connect. */
	f->echo = false;
	f->reads = NULL;
	for (unsigned i = 0; i < CROWD; i++) {
		do_close(f, f->order[i], i % 2);
		mine[i] = do_connect(f, &f->addr, NULL);
		assert_int_not_equal(mine[i], UINT32_MAX);
	}
	assert_true(reached(f, &f->released, CROWD));
	assert_true(reached(f, &f->connected, CROWD));
	assert_true(reached(f, &f->accepted, 2 * CROWD));
	for (unsigned i = 0; i < CROWD; i++) {
		char byte;
		int end = client_read(c[i], &byte, 1);

		/* (rings are reaped in their order, so order[i] need not be the peer of c[i]) */
		assert_true(end == 0 || end == -ECONNRESET);
		resets += end != 0;
		close(c[i]);
		assert_int_equal(f->conns[mine[i]].connect_err, 0);
		do_close(f, mine[i], i % 2);
		do_close(f, f->order[CROWD + i], i % 3);
	}
	assert_int_equal(resets, CROWD / 2);
	assert_true(reached(f, &f->released, 3 * CROWD));
	assert_true(metrics_sum(M_RING_SQ_FULL) > full);
	assert_true(metrics_sum(M_RING_CQ_OVERFLOW) > overflow);
	fixture_free(f);
}

static void tiny_queues_lose_nothing(void **state)
{
	(void)state;
	crowd_through_tiny_queues(0);
}

static void tiny_queues_of_many_rings_lose_nothing(void **state)
{
	(void)state;
	crowd_through_tiny_queues(64);
}

static void the_tick_is_on_time(void **state)
{
	struct fixture *f = fixture_new(&plain);
	uint64_t start = clock_mono_ms();

	(void)state;
	f->tick_every_ms = 2;
	assert_true(reached(f, &f->ticks, 20));
	uint64_t took = clock_mono_ms() - start;
	assert_true(took >= 20); /* it slept between them */
	assert_true(took < BOUND_MS / 4);
	assert_true(loop_now_ms(f->loop) >= start);
	assert_true(loop_now_ns(f->loop) / 1000000 >= loop_now_ms(f->loop));
	fixture_free(f);
}

static void *stop_it(void *arg)
{
	loop_stop(arg);
	return NULL;
}

static void stopping_works_from_anywhere(void **state)
{
	struct fixture *f = fixture_new(&plain);
	pthread_t t;

	(void)state;
	f->deadline_ms = UINT64_MAX;
	loop_stop(f->loop); /* before it runs */
	loop_run(f->loop);
	for (int i = 0; i < 200; i++) {
		pthread_create(&t, NULL, stop_it, f->loop);
		loop_run(f->loop);
		pthread_join(t, NULL);
	}
	fixture_free(f);
}

static void too_many_connections_are_explained(void **state)
{
	char why[200] = "";

	(void)state;
	assert_null(loop_new(&(struct loop_options){.conns_max = 1000000, .ring_conns_max = 16},
		&events, NULL, why, sizeof(why)));
	assert_non_null(strstr(why, "RLIMIT_NOFILE"));
}

/* In a child with so many descriptors. */
static bool begins_with(uint32_t descriptors, uint32_t conns_max)
{
	pid_t child = fork();
	char why[200] = "";
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		struct rlimit few = {.rlim_cur = descriptors, .rlim_max = descriptors};
		struct loop_options o = {.conns_max = conns_max, .cpu = -1};

		if (setrlimit(RLIMIT_NOFILE, &few) != 0)
			_exit(3);
		if (loop_new(&o, &events, NULL, why, sizeof(why)))
			_exit(0);
		_exit(strstr(why, "RLIMIT_NOFILE") ? 1 : 2);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
	return WEXITSTATUS(status) == 0;
}

/* To who plans a machine: the least number is the least. */
static void a_loop_begins_with_the_descriptors_it_names(void **state)
{
	const uint32_t conns[] = {1000, 100000, 500000};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(conns); i++) {
		uint32_t least = loop_descriptors_least(conns[i]);

		assert_true(begins_with(least, conns[i]));
		assert_false(begins_with(least - 1, conns[i]));
	}
}

/* In a child that may not use io_uring: the kernel answers `err` to io_uring_setup. */
static void explain_in_child(int err, const char *needle)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(code), .filter = code};
	pid_t child = fork();
	char why[200] = "";
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		struct rlimit few = {.rlim_cur = 64, .rlim_max = 64};
		struct loop_options o = {.conns_max = err ? 100 : 100000, .cpu = -1};
		bool forbidden =
			err ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
					prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0
			    : setrlimit(RLIMIT_NOFILE, &few) == 0;
		struct loop *l = forbidden ? loop_new(&o, &events, NULL, why, sizeof(why)) : NULL;

		_exit(!forbidden ? 3 : l ? 2 : !strstr(why, needle) || strchr(why, '\n'));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* To the operator: one line that says what is wrong and what helps. */
static void refusals_are_explained(void **state)
{
	(void)state;
	explain_in_child(EPERM, "seccomp");
	explain_in_child(ENOSYS, "Podman");
	explain_in_child(ENOMEM, "LimitMEMLOCK");
	explain_in_child(EINVAL, "6.1");
	explain_in_child(EMFILE, "LimitNOFILE");
	explain_in_child(0, "LimitNOFILE");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ends_in_one_loop),
		cmocka_unit_test(many_rings_serve_as_one),
		cmocka_unit_test(tiny_queues_lose_nothing),
		cmocka_unit_test(tiny_queues_of_many_rings_lose_nothing),
		cmocka_unit_test(the_tick_is_on_time),
		cmocka_unit_test(stopping_works_from_anywhere),
		cmocka_unit_test(too_many_connections_are_explained),
		cmocka_unit_test(a_loop_begins_with_the_descriptors_it_names),
		cmocka_unit_test(refusals_are_explained),
	};

	return run_on_both_kernels("loop", tests, ARRAY_LEN(tests));
}
