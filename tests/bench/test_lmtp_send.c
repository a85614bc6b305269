/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A message counts as delivered when the server has said 250 behind its last byte, and only then; its dots arrive
 * as they were. */
#include "bench/mail/lmtp_send.h"
#include "core/base/check.h"

#include <stdio.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

/* Says the next answer whenever what it waits for has come; NULL: hangs up. */
struct server {
	int fd;
	const char *greeting, *hello, *sender, *recipient, *data, *message;
	char got[2048];
	size_t got_n;
	pthread_t client;
};

static bool wait_for(struct server *s, int fd, const char *until)
{
	while (!memmem(s->got, s->got_n, until, strlen(until))) {
		ssize_t n = recv(fd, s->got + s->got_n, sizeof(s->got) - 1 - s->got_n, 0);

		if (n <= 0)
			return false;
		s->got_n += (size_t)n;
		s->got[s->got_n] = 0;
	}
	return true;
}

static void *serve(void *arg)
{
	struct server *s = arg;
	const char *const steps[][2] = {{"", s->greeting}, {"LHLO ", s->hello},
		{"MAIL FROM:<", s->sender}, {"RCPT TO:<", s->recipient}, {"DATA\r\n", s->data},
		{"\r\n.\r\n", s->message}};
	int fd = accept(s->fd, NULL, NULL);

	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		if (!wait_for(s, fd, steps[i][0]) || !steps[i][1])
			break;
		loopback_disturb(s->client);
		for (const char *p = steps[i][1]; *p; p++)
			(void)!send(fd, p, 1, MSG_NOSIGNAL);
	}
	close(fd);
	return NULL;
}

static struct server good(void)
{
	return (struct server){
		.greeting = "220-wait\r\n220 here\r\n",
		.hello = "250-here\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
		.sender = "250 2.1.0 ok\r\n",
		.recipient = "250 2.1.5 ok\r\n",
		.data = "354 go\r\n",
		.message = "250 2.0.0 stored\r\n",
	};
}

static bool deliver(struct server *s, const char *text, char *why, size_t why_bytes)
{
	struct sockaddr_storage at;
	pthread_t thread;
	char to[64];
	uint64_t took_ns = 0;
	bool ok;

	s->client = pthread_self();
	s->fd = loopback_listen(&at);
	snprintf(to, sizeof(to), "127.0.0.1:%u", loopback_port(&at));
	assert_int_equal(pthread_create(&thread, NULL, serve, s), 0);
	ok = lmtp_send(to, "bob@example.org", "alice@example.test", bytes_str(text), &took_ns, why,
		why_bytes);
	loopback_end(s->fd, thread);
	assert_true(!ok || took_ns > 0);
	return ok;
}

static void a_stored_message_arrived_as_it_was(void **state)
{
	struct server s = good();
	char why[256] = "";

	(void)state;
	if (!deliver(&s, "Subject: x\n\n.\n..two\r\nthree.\nno end", why, sizeof(why)))
		fail_msg("%s", why);
	assert_non_null(strstr(s.got, "MAIL FROM:<bob@example.org>\r\n"));
	assert_non_null(strstr(s.got, "RCPT TO:<alice@example.test>\r\n"));
	assert_non_null(strstr(s.got, "DATA\r\nSubject: x\r\n\r\n..\r\n...two\r\nthree.\r\n"
				      "no end\r\n.\r\n"));
}

static void refused(struct server s, const char *want)
{
	char why[256] = "";

	assert_false(deliver(&s, "Subject: x\n\ny\n", why, sizeof(why)));
	if (!strstr(why, want))
		fail_msg("'%s' does not say '%s'", why, want);
}

static void anything_but_250_is_a_failure(void **state)
{
	struct server s;

	(void)state;
	s = good(), s.greeting = "421 busy\r\n";
	refused(s, "greeting: 421 busy");
	s = good(), s.hello = "250-here\r\n502 what\r\n";
	refused(s, "LHLO roost-phone.localhost: an answer of several codes: 502 what");
	s = good(), s.recipient = "550-5.1.1 no\r\n550 5.1.1 such user\r\n";
	refused(s, "550 5.1.1 such user");
	s = good(), s.data = "250 ok\r\n";
	refused(s, "DATA: 250 ok");
	s = good(), s.message = "452 4.2.2 full\r\n";
	refused(s, "the message: 452 4.2.2 full");
	s = good(), s.message = "250 ok\n";
	refused(s, "not an answer");
	s = good(), s.message = NULL;
	refused(s, "hung up");
	s = good(), s.message = "250-not whole\r\n";
	refused(s, "hung up");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stored_message_arrived_as_it_was),
		cmocka_unit_test(anything_but_250_is_a_failure),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
