/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What wakes a loop from outside: messages, and the commit word (io/loop_bell.c). */
#include "tests/io/loop_fixture.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct numbered {
	struct loop_msg m;
	unsigned sender, number;
};

enum { SENDERS = 4, POSTS = 5000 };

struct sender {
	struct loop *to;
	struct numbered *posts;
	pthread_t thread;
};

static unsigned next_of[SENDERS];

static void number_in_order(struct fixture *f, struct loop_msg *m)
{
	struct numbered *n = (struct numbered *)m;

	(void)f;
	assert_int_equal(n->number, next_of[n->sender]++);
}

static void *send_posts(void *arg)
{
	struct sender *s = arg;

	for (unsigned i = 0; i < POSTS; i++) {
		loop_post(s->to, &s->posts[i].m);
		if (i % 64 == 0)
			sched_yield(); /* so that the loop falls asleep now and then */
	}
	return NULL;
}

static void posts_arrive_in_order(void **state)
{
	struct fixture *f = fixture_new(&plain);
	struct sender s[SENDERS];

	(void)state;
	memset(next_of, 0, sizeof(next_of));
	f->on_message = number_in_order;
	for (unsigned k = 0; k < SENDERS; k++) {
		s[k].to = f->loop;
		s[k].posts = calloc(POSTS, sizeof(*s[k].posts));
		for (unsigned i = 0; i < POSTS; i++) {
			s[k].posts[i].sender = k;
			s[k].posts[i].number = i;
		}
		pthread_create(&s[k].thread, NULL, send_posts, &s[k]);
	}
	assert_true(reached(f, &f->messages, SENDERS * POSTS));
	for (unsigned k = 0; k < SENDERS; k++) {
		pthread_join(s[k].thread, NULL);
		free(s[k].posts);
	}
	fixture_free(f);
}

/* Two loops throw one message to and fro; each sleeps meanwhile, so one lost wake-up ends it. */
struct player {
	struct fixture *f;
	struct player *other;
	struct loop_options options;
	pthread_barrier_t *ready;
	unsigned rounds, crowd;
};

static _Thread_local struct player *player_self;

static void bounce(struct fixture *f, struct loop_msg *m)
{
	(void)f;
	if (m->kind == 0)
		return;
	m->kind--;
	loop_post(player_self->other->f->loop, m);
}

static void *play(void *arg)
{
	struct player *p = arg;

	player_self = p;
	p->f = fixture_new(&p->options);
	p->f->on_message = bounce;
	/* Connections to itself, to make it open all its rings. */
	if (p->crowd)
		loop_listen(p->f->loop, p->f->listen_fd);
	for (unsigned i = 0; i < p->crowd; i++)
		do_connect(p->f, &p->f->addr, NULL);
	reached(p->f, &p->f->accepted, p->crowd);
	pthread_barrier_wait(p->ready);
	bool ok = reached(p->f, &p->f->messages, p->rounds);
	/* Freed only when nobody can post to it any more. */
	pthread_barrier_wait(p->ready);
	fixture_free(p->f);
	return ok ? p : NULL;
}

static void play_to_and_fro(const struct loop_options *first, unsigned crowd_a, unsigned crowd_b)
{
	enum { ROUNDS = 4000 };
	struct loop_msg ball = {.kind = 2 * ROUNDS - 1};
	struct player a, b;
	pthread_barrier_t ready;
	pthread_t ta, tb;
	void *ra, *rb;

	pthread_barrier_init(&ready, NULL, 3);
	a = (struct player){.other = &b,
		.options = *first,
		.ready = &ready,
		.rounds = ROUNDS,
		.crowd = crowd_a};
	b = (struct player){.other = &a,
		.options = *first,
		.ready = &ready,
		.rounds = ROUNDS,
		.crowd = crowd_b};
	pthread_create(&ta, NULL, play, &a);
	pthread_create(&tb, NULL, play, &b);
	pthread_barrier_wait(&ready);
	loop_post(a.f->loop, &ball);
	pthread_barrier_wait(&ready);
	pthread_join(ta, &ra);
	pthread_join(tb, &rb);
	assert_non_null(ra);
	assert_non_null(rb);
	pthread_barrier_destroy(&ready);
}

static void loops_wake_each_other(void **state)
{
	(void)state;
	play_to_and_fro(&plain, 0, 0);
}

static void loops_of_many_rings_wake_each_other(void **state)
{
	const struct loop_options many = {.conns_max = 256, .ring_conns_max = 8, .cpu = -1};

	(void)state;
	play_to_and_fro(&many, 60, 60);
	play_to_and_fro(&many, 60, 0);
}

static void posts_wake_a_loop_of_many_rings(void **state)
{
	struct fixture *f = fixture_listening(
		&(struct loop_options){.conns_max = 48, .ring_conns_max = 8, .cpu = -1});
	struct sender s = {.to = f->loop};
	int c[48];

	(void)state;
	for (unsigned i = 0; i < 48; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 48));
	memset(next_of, 0, sizeof(next_of));
	f->on_message = number_in_order;
	s.posts = calloc(POSTS, sizeof(*s.posts));
	for (unsigned i = 0; i < POSTS; i++)
		s.posts[i].number = i;
	pthread_create(&s.thread, NULL, send_posts, &s);
	assert_true(reached(f, &f->messages, POSTS));
	pthread_join(s.thread, NULL);
	free(s.posts);
	for (unsigned i = 0; i < 48; i++)
		close(c[i]);
	fixture_free(f);
}

/* Another process moves the word: every move is followed by an upcall that can see it. */
static void commits_of_another_process_are_seen(void **state)
{
	struct {
		_Atomic uint32_t word, seen;
	} *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	enum { COMMITS = 500 };
	struct fixture *f = fixture_new(
		&(struct loop_options){.conns_max = 16, .cpu = -1, .commit_word = &shared->word});
	pid_t child;
	int status;

	(void)state;
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		uint64_t until = clock_mono_ms() + BOUND_MS;

		for (uint32_t i = 1; i <= COMMITS; i++) {
			atomic_store(&shared->word, i);
			syscall(SYS_futex, &shared->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
			while (atomic_load(&shared->seen) < i)
				if (clock_mono_ms() > until)
					_exit(1);
		}
		_exit(0);
	}
	while (atomic_load(&shared->seen) < COMMITS) {
		assert_true(reached(f, &f->commits, f->commits + 1));
		atomic_store(&shared->seen, atomic_load(&shared->word));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	fixture_free(f);
	munmap(shared, 4096);
}

static void move_word_once(struct fixture *f, uint32_t slot)
{
	(void)slot;
	if (f->received == 1)
		atomic_fetch_add(f->word, 1);
}

/* To a phone that hangs while thousands shake hands: their bytes, which are all there, do not come before
 * its mail. Nobody wakes the futex here, so it is the looking that finds it. */
static void a_commit_overtakes_completions(void **state)
{
	static _Atomic uint32_t word;
	struct fixture *f = fixture_listening(
		&(struct loop_options){.conns_max = 256, .cpu = -1, .commit_word = &word});
	enum { CLIENTS = 120 };
	unsigned before;
	int c[CLIENTS];

	(void)state;
	f->word = &word;
	f->on_received = move_word_once;
	for (unsigned i = 0; i < CLIENTS; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, CLIENTS));
	for (unsigned i = 0; i < CLIENTS; i++)
		do_recv(f, f->order[i]);
	settle(f);
	before = f->commits;
	for (unsigned i = 0; i < CLIENTS; i++)
		client_send(c[i], "x");
	assert_true(reached(f, &f->received, CLIENTS));
	assert_int_equal(f->commits, before + 1);
	assert_in_range(f->received_at_commit, 1, 1 + 16);
	/* Seen is seen, until it moves again. */
	assert_false(loop_commit_moved(f->loop));
	atomic_fetch_add(&word, 1);
	assert_true(loop_commit_moved(f->loop));
	assert_false(loop_commit_moved(f->loop));
	/* and when the futex is woken at last, there is nothing new to tell */
	syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	settle(f);
	assert_int_equal(f->commits, before + 1);
	for (unsigned i = 0; i < CLIENTS; i++)
		close(c[i]);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(posts_arrive_in_order),
		cmocka_unit_test(loops_wake_each_other),
		cmocka_unit_test(loops_of_many_rings_wake_each_other),
		cmocka_unit_test(posts_wake_a_loop_of_many_rings),
		cmocka_unit_test(commits_of_another_process_are_seen),
		cmocka_unit_test(a_commit_overtakes_completions),
	};

	return run_on_both_kernels("loop_bell", tests, ARRAY_LEN(tests));
}
