/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The pool of workers: what is submitted runs, what is too much is refused, and a system that gives no
 * more threads is an error, not a crash. */
#include "core/work.h"

#include "core/base/check.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

/* Threads that the system still gives; in the place of libc's function. */
static int threads_left = 1000;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	if (threads_left == 0)
		return EAGAIN;
	threads_left--;
	return real(thread, attr, fn, arg);
}

static atomic_uint done;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void count(struct work *w)
{
	(void)w;
	atomic_fetch_add(&done, 1);
}

static void wait_at_gate(struct work *w)
{
	pthread_mutex_lock(&gate);
	pthread_mutex_unlock(&gate);
	count(w);
}

/* To the commands: everything that was accepted runs, once, also what is queued at the end. */
static void what_is_accepted_runs(void **state)
{
	static struct work w[500];
	struct work_pool *p = work_pool_new(4, 1000);

	(void)state;
	assert_non_null(p);
	atomic_store(&done, 0);
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		w[i].run = count;
		assert_true(work_submit(p, &w[i]));
	}
	work_pool_free(&p);
	assert_null(p);
	assert_int_equal(atomic_load(&done), ARRAY_LEN(w));
}

/* To the memory: a queue that is full refuses, and the refused one is not run. */
static void a_full_queue_refuses(void **state)
{
	static struct work w[20];
	struct work_pool *p = work_pool_new(1, 5);
	unsigned accepted = 0;

	(void)state;
	atomic_store(&done, 0);
	pthread_mutex_lock(&gate);
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		w[i].run = wait_at_gate;
		accepted += work_submit(p, &w[i]);
	}
	/* five wait, and one may have begun */
	assert_in_range(accepted, 5, 6);
	pthread_mutex_unlock(&gate);
	work_pool_free(&p);
	assert_int_equal(atomic_load(&done), accepted);
}

/* To the operator of a small container: told, with those that had started gone again. */
static void no_more_threads_is_an_error(void **state)
{
	struct work_pool *p;

	(void)state;
	threads_left = 3;
	errno = 0;
	p = work_pool_new(8, 10);
	assert_null(p);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(threads_left, 0);
	threads_left = 1000;
	p = work_pool_new(8, 10);
	assert_non_null(p);
	work_pool_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_accepted_runs),
		cmocka_unit_test(a_full_queue_refuses),
		cmocka_unit_test(no_more_threads_is_an_error),
	};

	return cmocka_run_group_tests_name("work", tests, NULL, NULL);
}
