/* SPDX-License-Identifier: GPL-3.0-or-later */
/* To handshake: each visit is a connection of its own, those that fail are not counted among the others,
 * and who is interrupted begins none. */
#include "bench/fleet/visit.h"
#include "core/base/check.h"

#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

struct server {
	int fd;
	pthread_t thread;
	struct sockaddr_storage at;
	unsigned cut_each; /* every so many connections are cut before the answer; 0: none */
	unsigned conns;    /* read when the thread has ended */
};

static void *serve(void *arg)
{
	static const char answer[] = "HTTP/1.1 401 Who\r\nContent-Length: 2\r\n\r\nno";
	struct server *s = arg;
	int fd;

	while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
		char in[1024];
		size_t n = 0;
		ssize_t k;

		while (!memmem(in, n, "\r\n\r\n", 4) &&
			(k = recv(fd, in + n, sizeof(in) - n, 0)) > 0)
			n += (size_t)k;
		s->conns++;
		if (!s->cut_each || s->conns % s->cut_each)
			(void)!send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL);
		/* The client's end first, so that what it read is not reset. */
		if (!s->cut_each || s->conns % s->cut_each)
			(void)!recv(fd, in, sizeof(in), 0);
		close(fd);
	}
	return NULL;
}

static int stop;
static uint32_t stop_at, progress;

static void on_progress(uint32_t done)
{
	progress = done;
	if (stop_at && done >= stop_at)
		stop = 1;
}

static struct visit_result visit(struct server *s, uint32_t count, uint32_t parallel)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	struct visit_options o = {
		.client = {.to_count = 1,
			.phones_max = parallel,
			.handshakes_max = parallel,
			.open_timeout_s = 10},
		.request = bytes_of(request, sizeof(request) - 1),
		.count = count,
		.stop = &stop,
		.progress = on_progress,
	};
	struct visit_result r;
	char why[CLIENT_WHY_BYTES];

	stop = 0;
	progress = 0;
	s->fd = loopback_listen(&s->at);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	o.client.to[0] = s->at;
	if (!visits_run(&o, &r, why, sizeof(why)))
		fail_msg("%s", why);
	loopback_end(s->fd, s->thread);
	return r;
}

static void each_visit_has_a_connection(void **state)
{
	struct server s = {.cut_each = 0};
	struct visit_result r = visit(&s, 20, 3);

	(void)state;
	assert_int_equal(r.done, 20);
	assert_int_equal(r.failed, 0);
	assert_int_equal(s.conns, 20);
	assert_int_equal(progress, 20);
	assert_int_equal(r.last_status, 401);
	assert_true(r.first_ns < r.last_ns);
	for (uint32_t i = 0; i < r.done; i++)
		assert_true(r.open_ns[i] > 0 && r.open_ns[i] < r.last_ns - r.first_ns);
	free(r.open_ns);
}

static void failed_visits_are_told_apart(void **state)
{
	struct server s = {.cut_each = 4};
	struct visit_result r = visit(&s, 20, 1);

	(void)state;
	assert_int_equal(r.done, 15);
	assert_int_equal(r.failed, 5);
	assert_int_equal(s.conns, 20);
	assert_non_null(strstr(r.why, "cut: "));
	free(r.open_ns);
}

static void a_server_that_is_gone_ends_it(void **state)
{
	struct server s = {.cut_each = 1};
	struct visit_result r = visit(&s, 1000, 3);

	(void)state;
	assert_int_equal(r.done, 0);
	/* More than there are at a time, and those that were under way then. */
	assert_in_range(r.failed, 4, 7);
	free(r.open_ns);
}

static void an_interrupted_visitor_goes_home(void **state)
{
	struct server s = {.cut_each = 0};

	(void)state;
	stop_at = 5;
	struct visit_result r = visit(&s, 1000, 2);

	stop_at = 0;
	/* Those under way may end. */
	assert_in_range(r.done + r.failed, 5, 7);
	free(r.open_ns);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_visit_has_a_connection),
		cmocka_unit_test(failed_visits_are_told_apart),
		cmocka_unit_test(a_server_that_is_gone_ends_it),
		cmocka_unit_test(an_interrupted_visitor_goes_home),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
