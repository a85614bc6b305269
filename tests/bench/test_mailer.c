/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A mailer takes nothing but the expected answers for success, in whatever pieces they come, and says
 * when each recipient's 250 had come. */
#include "bench/mail/mailer.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

/* What the server does, in turn: reads until `until` has come, then says `say` a byte at a time. */
struct step {
	const char *until, *say;
};

struct server {
	int fd;
	unsigned accepts;
	const struct step *steps; /* of each connection; NULL until: the end */
	char got[4096];           /* of the last connection */
	size_t got_n;
	bool ahead; /* more had come than was waited for */
	_Atomic unsigned closed;
};

static bool wait_for(struct server *s, int fd, const char *until, size_t from)
{
	for (;;) {
		char *hit = memmem(s->got + from, s->got_n - from, until, strlen(until));
		ssize_t n;

		if (hit) {
			if (hit + strlen(until) < s->got + s->got_n)
				s->ahead = true;
			return true;
		}
		n = recv(fd, s->got + s->got_n, sizeof(s->got) - 1 - s->got_n, 0);
		if (n <= 0)
			return false;
		s->got_n += (size_t)n;
		s->got[s->got_n] = 0;
	}
}

static void *serve(void *arg)
{
	struct server *s = arg;

	for (unsigned k = 0; k < s->accepts; k++) {
		int fd = accept(s->fd, NULL, NULL);
		size_t from = 0;

		s->got_n = 0;
		for (const struct step *t = s->steps; t->until; t++) {
			if (!wait_for(s, fd, t->until, from))
				break;
			from = s->got_n;
			for (const char *p = t->say; *p; p++)
				if (send(fd, p, 1, MSG_NOSIGNAL) != 1)
					break;
		}
		close(fd);
		s->closed++;
	}
	return NULL;
}

static void address(uint32_t user, char *out, size_t cap)
{
	snprintf(out, cap, "user%u@example.test", user);
}

struct fixture {
	struct server server;
	pthread_t thread;
	struct mailer *mailer;
	char why[256];
};

static void begin(struct fixture *f, const char *scheme, const struct step *steps, unsigned accepts)
{
	struct sockaddr_storage at;
	char to[64];

	*f = (struct fixture){.server = {.steps = steps, .accepts = accepts}};
	f->server.fd = loopback_listen(&at);
	snprintf(to, sizeof(to), "%s://127.0.0.1:%u", scheme, loopback_port(&at));
	assert_int_equal(pthread_create(&f->thread, NULL, serve, &f->server), 0);
	f->mailer = mailer_open(to, 4, address, f->why, sizeof(f->why));
}

static void end(struct fixture *f)
{
	mailer_close(&f->mailer);
	loopback_end(f->server.fd, f->thread);
}

#define HELLO_LMTP                                                                                 \
	{"", "220-wait\r\n220 here\r\n"},                                                          \
	{                                                                                          \
		"LHLO roost-bench.localhost\r\n", "250-here\r\n250-PIPELINING\r\n250 8BITMIME\r\n" \
	}

/* To the list: one transaction, and each recipient has a 250 of its own. */
static void lmtp_list_has_an_answer_for_each(void **state)
{
	static const struct step steps[] = {HELLO_LMTP,
		{"RCPT TO:<user9@example.test>\r\nDATA\r\n",
			"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"},
		{"\r\n.\r\n", "250 one\r\n250-two\r\n250 two\r\n"}, {NULL, NULL}};
	const uint32_t users[] = {7, 9};
	uint64_t done_ns[2] = {0};
	struct fixture f;

	(void)state;
	begin(&f, "lmtp", steps, 1);
	assert_non_null(f.mailer);
	assert_true(mailer_send_list(f.mailer, users, 2, 0, done_ns, f.why, sizeof(f.why)));
	assert_true(done_ns[0] > 0 && done_ns[1] >= done_ns[0]);
	end(&f);
	assert_non_null(strstr(f.server.got, "MAIL FROM:<>\r\nRCPT TO:<user7@example.test>\r\n"));
}

static void smtp_has_one_answer_for_all(void **state)
{
	static const struct step steps[] = {{"", "220 here\r\n"},
		{"EHLO roost-bench.localhost\r\n", "250-here\r\n250 PIPELINING\r\n"},
		{"DATA\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"},
		{"\r\n.\r\n", "250 queued\r\n"}, {NULL, NULL}};
	const uint32_t users[] = {7, 9};
	uint64_t done_ns[2] = {0};
	struct fixture f;

	(void)state;
	begin(&f, "smtp", steps, 1);
	assert_non_null(f.mailer);
	assert_true(mailer_send_list(f.mailer, users, 2, 0, done_ns, f.why, sizeof(f.why)));
	assert_true(done_ns[0] > 0);
	assert_true(done_ns[0] == done_ns[1]);
	end(&f);
}

/* To a server that does not offer PIPELINING: no command before the answer to the one before. */
static void without_pipelining_one_line_at_a_time(void **state)
{
	static const struct step steps[] = {{"", "220 here\r\n"},
		{"EHLO roost-bench.localhost\r\n", "250 here\r\n"},
		{"MAIL FROM:<>\r\n", "250 ok\r\n"},
		{"RCPT TO:<user7@example.test>\r\n", "250 ok\r\n"}, {"DATA\r\n", "354 go\r\n"},
		{"\r\n.\r\n", "250 queued\r\n"}, {NULL, NULL}};
	const uint32_t users[] = {7};
	uint64_t done_ns = 0;
	struct fixture f;

	(void)state;
	begin(&f, "smtp", steps, 1);
	assert_non_null(f.mailer);
	assert_true(mailer_send(f.mailer, users, 1, &done_ns, f.why, sizeof(f.why)));
	end(&f);
	assert_false(f.server.ahead);
}

static void refused(const struct step *steps, const char *want)
{
	const uint32_t users[] = {7, 9};
	uint64_t done_ns[2] = {0};
	struct fixture f;

	begin(&f, "lmtp", steps, 1);
	assert_non_null(f.mailer);
	assert_false(mailer_send_list(f.mailer, users, 2, 0, done_ns, f.why, sizeof(f.why)));
	if (!strstr(f.why, want))
		fail_msg("'%s' does not say '%s'", f.why, want);
	end(&f);
}

static void other_answers_are_failures(void **state)
{
	static const struct step unknown[] = {HELLO_LMTP,
		{"DATA\r\n", "250 ok\r\n250 ok\r\n550 5.1.1 nobody\r\n354 go\r\n"}, {NULL, NULL}};
	static const struct step second_fails[] = {HELLO_LMTP,
		{"DATA\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"},
		{"\r\n.\r\n", "250 one\r\n452 full\r\n"}, {NULL, NULL}};
	static const struct step hangs_up[] = {HELLO_LMTP,
		{"DATA\r\n", "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"},
		{"\r\n.\r\n", "250 one\r\n"}, {NULL, NULL}};
	static const struct step nonsense[] = {HELLO_LMTP, {"DATA\r\n", "ok\r\n"}, {NULL, NULL}};

	(void)state;
	refused(unknown, "RCPT TO: 550 5.1.1 nobody");
	refused(second_fails, "the message: 452 full");
	refused(hangs_up, "hung up");
	refused(nonsense, "not an answer: ok");
}

static void what_is_no_target_is_refused(void **state)
{
	static const char *const bad[] = {"http://127.0.0.1:24", "smtp", "lmtp:relative", "smtp://",
		"smtp://127.0.0.1:24/path", "lmtp:/nowhere/socket"};
	char why[256];

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		why[0] = 0;
		assert_null(mailer_open(bad[i], 1, address, why, sizeof(why)));
		assert_true(why[0] != 0);
	}
}

/* To a benchmark that watches an idle server for long: a session that the server ended meanwhile is
 * begun anew, before anything is sent. */
static void idle_session_that_ended_is_begun_anew(void **state)
{
	static const struct step steps[] = {HELLO_LMTP,
		{"DATA\r\n", "250 ok\r\n250 ok\r\n354 go\r\n"}, {"\r\n.\r\n", "250 one\r\n"},
		{NULL, NULL}};
	const uint32_t users[] = {7};
	uint64_t done_ns = 0;
	struct fixture f;

	(void)state;
	begin(&f, "lmtp", steps, 2);
	assert_non_null(f.mailer);
	assert_true(mailer_send(f.mailer, users, 1, &done_ns, f.why, sizeof(f.why)));
	while (f.server.closed == 0)
		sched_yield();
	assert_true(mailer_send(f.mailer, users, 1, &done_ns, f.why, sizeof(f.why)));
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lmtp_list_has_an_answer_for_each),
		cmocka_unit_test(smtp_has_one_answer_for_all),
		cmocka_unit_test(without_pipelining_one_line_at_a_time),
		cmocka_unit_test(other_answers_are_failures),
		cmocka_unit_test(what_is_no_target_is_refused),
		cmocka_unit_test(idle_session_that_ended_is_begun_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
