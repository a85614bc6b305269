/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The listening sockets of the shards: who gets which, what comes from a predecessor, and an address that
 * somebody has. */
#include "core/server/listeners.h"

#include "core/base/bytes.h"
#include "core/base/log.h"
#include "core/base/sockets.h"
#include "core/config/config.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "tests/core/ipv6.h"

enum { SHARDS = 3, LONG_MS = 600 * 1000 };

struct fixture {
	struct config *config;
	struct listeners of[SHARDS];
	struct socket_list inherited;
	unsigned descriptors; /* of the process, at first */
	char why[256];
};

static unsigned descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static int begin(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	log_set_level(LOG_ERROR);
	f->config = config_new();
	f->descriptors = descriptors();
	*state = f;
	return 0;
}

static int end(void **state)
{
	struct fixture *f = *state;

	bind_v6_only = no_v6 = false;
	listeners_close(f->of, SHARDS);
	sockets_free(&f->inherited, true);
	/* Whatever went wrong: no descriptor stays. */
	assert_int_equal(descriptors(), f->descriptors);
	config_free(&f->config);
	free(f);
	return 0;
}

static void set(struct fixture *f, const char *assignment)
{
	if (!config_set(f->config, assignment, f->why, sizeof(f->why)))
		fail_msg("%s", f->why);
}

static bool open_all(struct fixture *f, unsigned shards, uint64_t patience_ms)
{
	return listeners_open(
		f->of, shards, f->config, &f->inherited, patience_ms, f->why, sizeof(f->why));
}

static uint16_t port_of(int fd)
{
	struct sockaddr_in a;
	socklen_t n = sizeof(a);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	return ntohs(a.sin_port);
}

static int value_of(int fd, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, name, &v, &n), 0);
	return v;
}

/* A socket that listens on 127.0.0.1, as `text` names it. */
static int somebody(bool shares, char text[32])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = shares;

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 5), 0);
	snprintf(text, 32, "127.0.0.1:%u", port_of(fd));
	return fd;
}

static void listen_at(struct fixture *f, const char *text)
{
	char assignment[64];

	snprintf(assignment, sizeof(assignment), "listen.https=%s", text);
	set(f, assignment);
}

/* To the phones: each shard has a socket of every address, so no shard is without them. */
static void every_shard_listens_on_every_address(void **state)
{
	struct fixture *f = *state;

	set(f, "listen.https=127.0.0.1:0, 127.0.0.2:0");
	set(f, "listen.http=127.0.0.1:0");
	assert_true(open_all(f, SHARDS, 0));
	for (unsigned i = 0; i < SHARDS; i++) {
		assert_int_equal(f->of[i].count, 3);
		for (unsigned k = 0; k < 3; k++) {
			assert_int_equal(f->of[i].kind[k], k < 2 ? LISTENER_HTTPS : LISTENER_HTTP);
			assert_int_equal(port_of(f->of[i].fd[k]), port_of(f->of[0].fd[k]));
			assert_int_equal(value_of(f->of[i].fd[k], SO_ACCEPTCONN), 1);
			assert_int_equal(value_of(f->of[i].fd[k], SO_KEEPALIVE), 1);
		}
		assert_string_equal(f->of[i].address[1], "127.0.0.2:0");
	}
	assert_true(port_of(f->of[0].fd[0]) != port_of(f->of[0].fd[2]));
}

/* To phones with IPv4: ":443" is every address of the machine, also where net.ipv6.bindv6only is set, and
 * where there is no IPv6. */
static void every_address_is_every_address(void **state)
{
	struct fixture *f = *state;
	char text[32];
	int fd;

	set(f, "listen.https=:0");
	bind_v6_only = true;
	assert_true(open_all(f, SHARDS, 0));
	assert_true(v4_reaches(f->of[0].fd[0]));
	listeners_close(f->of, SHARDS);
	/* And in use when somebody has it with IPv4 alone. */
	fd = somebody(false, text);
	listen_at(f, strchr(text, ':'));
	assert_false(open_all(f, SHARDS, 0));
	close(fd);
	bind_v6_only = false;
	no_v6 = true;
	set(f, "listen.https=:0");
	if (!open_all(f, SHARDS, 0))
		fail_msg("%s", f->why);
	assert_true(v4_reaches(f->of[0].fd[0]));
	listeners_close(f->of, SHARDS);
	/* What was asked for by its address is not replaced. */
	set(f, "listen.https=[::1]:0");
	assert_false(open_all(f, SHARDS, 0));
	assert_non_null(strstr(f->why, "[::1]:0"));
}

/* To the operator: a second server says that the address is taken, also one of the same user, which the
 * kernel would let share it. */
static void an_address_of_another_server_is_an_error(void **state)
{
	struct fixture *f = *state;
	char text[32];
	int fd = somebody(true, text);

	listen_at(f, text);
	assert_false(open_all(f, SHARDS, 0));
	assert_non_null(strstr(f->why, text));
	assert_non_null(strstr(f->why, "Address already in use"));
	assert_int_equal(f->of[0].count, 0);
	close(fd);
}

static void *gone_after_a_while(void *fd)
{
	nanosleep(&(struct timespec){.tv_nsec = 200 * 1000000}, NULL);
	close(*(int *)fd);
	return NULL;
}

/* To the phones after kill -9: what was killed holds the address for a while, and the start waits. */
static void an_address_held_by_what_was_killed_is_waited_for(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;
	char text[32];
	int fd = somebody(false, text);

	listen_at(f, text);
	assert_false(open_all(f, SHARDS, 0));
	assert_int_equal(pthread_create(&thread, NULL, gone_after_a_while, &fd), 0);
	assert_true(open_all(f, SHARDS, LONG_MS));
	pthread_join(thread, NULL);
	for (unsigned i = 0; i < SHARDS; i++)
		assert_int_equal(f->of[i].count, 1);
}

/* To the operator: who stops the server while it waits need not wait, too. */
static void a_pending_end_ends_the_waiting(void **state)
{
	struct fixture *f = *state;
	sigset_t set, before;
	char text[32];
	int fd = somebody(false, text), sig = 0;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, &before);
	raise(SIGTERM);
	listen_at(f, text);
	assert_false(open_all(f, SHARDS, LONG_MS)); /* (in vain for ten minutes, else) */
	assert_int_equal(sigwait(&set, &sig), 0);
	assert_int_equal(sig, SIGTERM);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(fd);
}

/* To the operator: what is wrong is said with the address, not tried for long. */
static void an_address_that_is_not_ours_is_an_error_at_once(void **state)
{
	struct fixture *f = *state;

	set(f, "listen.http=192.0.2.1:8080");
	assert_false(open_all(f, SHARDS, LONG_MS));
	assert_non_null(strstr(f->why, "192.0.2.1:8080"));
}

/* As a predecessor with so many shards hands them over. */
static void hand_over(struct fixture *f, const char *text, unsigned shards)
{
	struct listeners old[2 * SHARDS] = {0};

	assert_true(shards <= 2 * SHARDS);
	listen_at(f, text);
	assert_true(listeners_open(old, shards, f->config, NULL, 0, f->why, sizeof(f->why)));
	listeners_sockets(old, shards, &f->inherited);
}

static bool has(const struct listeners *l, int fd)
{
	for (unsigned k = 0; k < l->count; k++)
		if (l->fd[k] == fd)
			return true;
	return false;
}

/* To phones in the backlog of a predecessor's socket: whatever shards there are now, one has it. */
static void no_inherited_socket_is_forgotten(void **state)
{
	struct fixture *f = *state;
	int fds[2 * SHARDS];

	hand_over(f, "127.0.0.1:0", 2 * SHARDS);
	assert_int_equal(f->inherited.n, 2 * SHARDS);
	for (unsigned i = 0; i < 2 * SHARDS; i++)
		fds[i] = f->inherited.v[i].fd;
	assert_true(open_all(f, SHARDS, 0));
	for (unsigned i = 0; i < 2 * SHARDS; i++) {
		assert_int_equal(f->inherited.v[i].fd, -1);
		assert_true(has(&f->of[i % SHARDS], fds[i]));
	}
	for (unsigned i = 0; i < SHARDS; i++)
		assert_int_equal(f->of[i].count, 2);
}

/* To the other shards: fewer inherited sockets than shards are joined by new ones at the same address. */
static void shards_without_an_inherited_socket_get_one(void **state)
{
	struct fixture *f = *state;

	hand_over(f, "127.0.0.1:0", 1);
	assert_true(open_all(f, SHARDS, 0));
	for (unsigned i = 0; i < SHARDS; i++) {
		assert_int_equal(f->of[i].count, 1);
		assert_int_equal(port_of(f->of[i].fd[0]), port_of(f->of[0].fd[0]));
	}
}

/* To the operator: an address that the new configuration does not have stays in the list, to be closed; one
 * that changed its kind is not taken for the other. */
static void only_what_is_configured_is_inherited(void **state)
{
	struct fixture *f = *state;

	hand_over(f, "127.0.0.1:0", 1);
	set(f, "listen.https=");
	set(f, "listen.http=127.0.0.1:0");
	assert_true(open_all(f, SHARDS, 0));
	assert_true(f->inherited.v[0].fd >= 0);
	assert_int_equal(f->of[0].count, 1);
	assert_int_equal(f->of[0].kind[0], LISTENER_HTTP);
	assert_true(port_of(f->of[0].fd[0]) != port_of(f->inherited.v[0].fd));
}

/* To the operator: more addresses than a shard can have are refused with the number. */
static void too_many_addresses_are_refused(void **state)
{
	struct fixture *f = *state;
	char text[512] = "listen.https=127.0.0.1:0";

	for (int i = 1; i < LISTENERS_MAX; i++)
		strcat(text, ",127.0.0.1:0");
	set(f, text);
	assert_true(open_all(f, SHARDS, 0));
	listeners_close(f->of, SHARDS);
	strcat(text, ",127.0.0.1:0");
	set(f, text);
	assert_false(open_all(f, SHARDS, 0));
	assert_non_null(strstr(f->why, "more than 16 addresses"));
	listeners_close(f->of, SHARDS);
	/* From a predecessor with more shards, likewise. */
	hand_over(f, "127.0.0.1:0", 2 * SHARDS);
	hand_over(f, "127.0.0.1:0", 2 * SHARDS);
	hand_over(f, "127.0.0.1:0", 2 * SHARDS);
	assert_false(open_all(f, 1, 0));
	assert_non_null(strstr(f->why, "more than 16 addresses"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
		T(every_shard_listens_on_every_address),
		T(every_address_is_every_address),
		T(an_address_of_another_server_is_an_error),
		T(an_address_held_by_what_was_killed_is_waited_for),
		T(a_pending_end_ends_the_waiting),
		T(an_address_that_is_not_ours_is_an_error_at_once),
		T(no_inherited_socket_is_forgotten),
		T(shards_without_an_inherited_socket_get_one),
		T(only_what_is_configured_is_inherited),
		T(too_many_addresses_are_refused),
	};

	return cmocka_run_group_tests_name("listeners", tests, NULL, NULL);
}
