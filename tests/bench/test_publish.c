/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A publisher counts answers, whatever pieces they come in, and takes nothing but 2xx for success. */
#include "bench/mail/publish.h"

#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

#define GOOD "HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nbody"
#define BAD  "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"

struct server {
	int fd;
	pthread_t client;
	const char *answers;
	size_t expect; /* bytes of requests before the answers */
	char got[1024];
	size_t got_n;
};

/* One connection: reads what must come, then answers one byte at a time. */
static void *serve(void *arg)
{
	struct server *s = arg;
	int fd = accept(s->fd, NULL, NULL);

	while (s->got_n < s->expect) {
		ssize_t n = recv(fd, s->got + s->got_n, sizeof(s->got) - 1 - s->got_n, 0);

		if (n <= 0)
			break;
		s->got_n += (size_t)n;
	}
	for (const char *p = s->answers; *p; p++) {
		if (p - s->answers < 3)
			loopback_disturb(s->client);
		if (send(fd, p, 1, MSG_NOSIGNAL) != 1)
			break;
	}
	close(fd);
	return NULL;
}

static bool publish_to(struct server *s, char *why, size_t why_bytes)
{
	struct sockaddr_storage at;
	struct url to;
	struct publisher *p;
	const uint32_t phones[] = {7, 12};
	uint64_t sent_ns = 0;
	pthread_t thread;
	char url[64];
	bool ok;

	s->client = pthread_self();
	s->fd = loopback_listen(&at);
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/pub/", loopback_port(&at));
	assert_true(url_parse(url, URL_HTTP, &to, why, why_bytes));
	assert_int_equal(pthread_create(&thread, NULL, serve, s), 0);
	p = publisher_open(&to, why, why_bytes);
	assert_non_null(p);
	ok = publisher_send(p, phones, 2, &sent_ns, why, why_bytes);
	assert_true(sent_ns > 0);
	publisher_close(&p);
	assert_null(p);
	loopback_end(s->fd, thread);
	return ok;
}

static void answers_in_pieces_are_counted(void **state)
{
	struct server s = {.answers = GOOD GOOD, .expect = 100};
	char why[256];

	(void)state;
	assert_true(publish_to(&s, why, sizeof(why)));
	assert_non_null(strstr(s.got, "POST /pub/7 HTTP/1.1\r\n"));
	assert_non_null(strstr(s.got, "POST /pub/12 HTTP/1.1\r\n"));
}

static void a_refusal_is_a_failure(void **state)
{
	struct server s = {.answers = GOOD BAD, .expect = 100};
	char why[256];

	(void)state;
	assert_false(publish_to(&s, why, sizeof(why)));
	assert_non_null(strstr(why, "HTTP 403"));
}

static void a_missing_answer_is_a_failure(void **state)
{
	struct server s = {.answers = GOOD, .expect = 100};
	char why[256];

	(void)state;
	assert_false(publish_to(&s, why, sizeof(why)));
}

/* To the engineer: a server that announces a body without end is told by its length, before it is read. */
static void an_answer_without_end_is_a_failure(void **state)
{
	const char *const answers[] = {
		"HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\nbody",
		"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\nbody",
	};
	char why[256];

	(void)state;
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct server s = {.answers = answers[i], .expect = 100};

		assert_false(publish_to(&s, why, sizeof(why)));
		assert_non_null(strstr(why, "body of"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_in_pieces_are_counted),
		cmocka_unit_test(a_refusal_is_a_failure),
		cmocka_unit_test(a_missing_answer_is_a_failure),
		cmocka_unit_test(an_answer_without_end_is_a_failure),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
