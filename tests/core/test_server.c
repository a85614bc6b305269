/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A server's start, and what it says when the system does not give what it needs. */
#include "core/server/server.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "io/ring.h"
#include "store/db.h"

#include <dlfcn.h>
#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* Threads that the system still gives; in the place of libc's function. */
static atomic_int threads_left = 1000;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	if (atomic_fetch_sub(&threads_left, 1) <= 0)
		return EAGAIN;
	return real(thread, attr, fn, arg);
}

static char dir[64];

static int begin(void **state)
{
	(void)state;
	log_set_level(LOG_ERROR);
	snprintf(dir, sizeof(dir), "/tmp/test_server.XXXXXX");
	assert_non_null(mkdtemp(dir));
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

static int end(void **state)
{
	(void)state;
	threads_left = 1000;
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static struct config *configure(void *arg, char *why, size_t why_bytes)
{
	static const char *const settings[] = {"listen.https=", "listen.http=127.0.0.1:0",
		"listen.lmtp=127.0.0.1:0", "listen.admin=127.0.0.1:0", "core.shards=2",
		"core.workers=2", "core.connections_max=1000", "log.level=error"};
	struct config *c = config_new();
	char store[128];

	(void)arg;
	snprintf(store, sizeof(store), "store.dir=%s", dir);
	assert_true(config_set(c, store, why, why_bytes));
	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		if (!config_set(c, settings[i], why, why_bytes))
			fail_msg("%s", why);
	return c;
}

static struct server *start(char why[256])
{
	why[0] = 0;
	return server_start(configure, NULL, NULL, why, 256);
}

/* To the operator of a small container: whichever thread the system refuses, the start says so and undoes
 * what it began; nothing hangs, nothing aborts. */
static void a_thread_that_is_refused_is_an_error(void **state)
{
	struct server *s = NULL;
	char why[256];
	int given;

	(void)state;
	for (given = 0; given < 100; given++) {
		threads_left = given;
		s = start(why);
		if (s)
			break;
		if (!strstr(why, "thread"))
			fail_msg("with %d threads: \"%s\"", given, why);
	}
	assert_non_null(s);
	/* writer, 2 workers, 2 shards, and then some */
	assert_true(given >= 5);
	server_stop(&s);
	assert_null(s);
}

/* There each shard has one thread more, that waits for commits. */
static void the_same_on_linux_6_1(void **state)
{
	ring_features_hidden = RING_FUTEX;
	a_thread_that_is_refused_is_an_error(state);
	ring_features_hidden = 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_thread_that_is_refused_is_an_error, begin, end),
		cmocka_unit_test_setup_teardown(the_same_on_linux_6_1, begin, end),
	};

	return cmocka_run_group_tests_name("server", tests, NULL, NULL);
}
