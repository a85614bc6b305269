/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The session machine, with hooks that remember what they were asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/log.h"
#include "core/feed/lmtp.h"

struct fake {
	struct lmtp_session *s;
	struct buf out;
	bool more;
	unsigned lookups, deliveries;
	struct buf message; /* of the last delivery, without our trace lines */
	struct buf trace;
	uint32_t mailboxes[2000];
	size_t mailbox_count;
	bool leave_verdicts;
};

/* The local part says what happens: verdicts at RCPT, and mailboxes 1000.. fail at delivery. */
static enum lmtp_verdict recipient(void *arg, struct bytes address, uint32_t *mailbox_out)
{
	static const struct {
		const char *local;
		enum lmtp_verdict verdict;
		uint32_t mailbox;
	} users[] = {
		{"unknown", LMTP_UNKNOWN_USER, 0},
		{"disabled", LMTP_DISABLED, 0},
		{"quota", LMTP_QUOTA, 0},
		{"down", LMTP_STORE_DOWN, 0},
		{"full", LMTP_STORE_FULL, 0},
		{"late-gone", LMTP_OK, 1000 + LMTP_UNKNOWN_USER},
		{"late-quota", LMTP_OK, 1000 + LMTP_QUOTA},
		{"late-down", LMTP_OK, 1000 + LMTP_STORE_DOWN},
		{"late-full", LMTP_OK, 1000 + LMTP_STORE_FULL},
		{"anna", LMTP_OK, 1},
		{"anna+tag", LMTP_OK, 1},
		{"bob", LMTP_OK, 2},
		{"\"q > \\\" x\"", LMTP_OK, 3},
		{"j\xc3\xb6rg", LMTP_OK, 4},
	};
	struct fake *f = arg;
	char text[400];
	char *at;

	f->lookups++;
	if (!bytes_to_strz(address, text, sizeof(text)))
		return LMTP_UNKNOWN_USER;
	at = strrchr(text, '@');
	if (at)
		*at = 0;
	for (size_t i = 0; i < sizeof(users) / sizeof(users[0]); i++)
		if (strcmp(text, users[i].local) == 0) {
			*mailbox_out = users[i].mailbox;
			return users[i].verdict;
		}
	if (text[0] == 'u') {
		*mailbox_out = 100 + (uint32_t)atoi(text + 1);
		return LMTP_OK;
	}
	return LMTP_UNKNOWN_USER;
}

static void deliver(void *arg, struct bytes message, const uint32_t *mailboxes, size_t n,
	enum lmtp_verdict *verdicts_out)
{
	struct fake *f = arg;
	struct bytes rest = message;

	f->deliveries++;
	/* Return-Path, then Received of three lines. */
	for (int i = 0; i < 4; i++) {
		const uint8_t *nl = memchr(rest.p, '\n', rest.n);

		assert_non_null(nl);
		rest.n -= (size_t)(nl + 1 - rest.p);
		rest.p = nl + 1;
	}
	f->trace.n = f->message.n = 0;
	buf_add(&f->trace, message.p, message.n - rest.n);
	buf_add(&f->message, rest.p, rest.n);
	f->mailbox_count = n;
	for (size_t i = 0; i < n; i++) {
		assert_true(i < sizeof(f->mailboxes) / sizeof(f->mailboxes[0]));
		f->mailboxes[i] = mailboxes[i];
		for (size_t k = 0; k < i; k++)
			assert_int_not_equal(mailboxes[k], mailboxes[i]);
		if (!f->leave_verdicts)
			verdicts_out[i] = mailboxes[i] >= 1000
						  ? (enum lmtp_verdict)(mailboxes[i] - 1000)
						  : LMTP_OK;
	}
}

static uint64_t now_ms(void *arg)
{
	(void)arg;
	return 1748851200000;
}

static const struct lmtp_limits limits = {
	.message_bytes_max = 1000, .recipients_max = 5, .line_bytes_max = 600, .errors_max = 4};

static void fake_open(struct fake *f, const struct lmtp_limits *lim)
{
	struct lmtp_hooks hooks = {.arg = f,
		.peer = "192.0.2.1",
		.now_ms = now_ms,
		.recipient = recipient,
		.deliver = deliver};

	f->s = lmtp_session_new("mx.example.test", lim, &hooks, &f->out);
	assert_non_null(f->s);
	f->more = true;
}

static int setup(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	fake_open(f, &limits);
	*state = f;
	return 0;
}

static void fake_close(struct fake *f)
{
	lmtp_session_free(&f->s);
	buf_free(&f->out);
	buf_free(&f->message);
	buf_free(&f->trace);
}

static int teardown(void **state)
{
	struct fake *f = *state;

	fake_close(f);
	free(f);
	return 0;
}

static void feed(struct fake *f, const char *text)
{
	f->more = lmtp_session_feed(f->s, (const uint8_t *)text, strlen(text), &f->out);
}

static void expect_out(struct fake *f, const char *want)
{
	if (!bytes_eq_str(buf_bytes(&f->out), want))
		fail_msg("replies \"%.*s\", not \"%s\"", (int)f->out.n,
			f->out.p ? (const char *)f->out.p : "", want);
	f->out.n = 0;
}

/* One command, one reply that begins so. */
static void says(struct fake *f, const char *command, const char *want)
{
	f->out.n = 0;
	feed(f, command);
	if (f->out.n < strlen(want) || memcmp(f->out.p, want, strlen(want)) != 0)
		fail_msg("%s gave \"%.*s\", not \"%s\"", command, (int)f->out.n,
			f->out.p ? (const char *)f->out.p : "", want);
	/* Whole lines only. */
	assert_true(
		f->out.n >= 2 && f->out.p[f->out.n - 2] == '\r' && f->out.p[f->out.n - 1] == '\n');
	f->out.n = 0;
}

static void begin(struct fake *f)
{
	says(f, "LHLO client.example.test\r\n", "250-mx.example.test\r\n");
	says(f, "MAIL FROM:<sender@example.com>\r\n", "250 2.1.0");
}

static void greeting_and_extensions(void **state)
{
	struct fake *f = *state;

	expect_out(f, "220 mx.example.test LMTP Roost ready\r\n");
	feed(f, "LHLO [192.0.2.1]\r\n");
	expect_out(f, "250-mx.example.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
		      "250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SIZE 1000\r\n");
}

static void one_message(void **state)
{
	struct fake *f = *state;

	begin(f);
	assert_true(lmtp_session_busy(f->s));
	says(f, "RCPT TO:<anna@example.test>\r\n", "250 2.1.5 <anna@example.test>");
	says(f, "DATA\r\n", "354 ");
	feed(f, "Subject: x\r\n\r\nHello\r\n..dot\r\n.\r\n");
	expect_out(f, "250 2.0.0 <anna@example.test> Stored\r\n");
	assert_int_equal(f->deliveries, 1);
	assert_true(bytes_eq_str(buf_bytes(&f->message), "Subject: x\r\n\r\nHello\r\n.dot\r\n"));
	buf_add_byte(&f->trace, 0);
	assert_non_null(strstr((char *)f->trace.p, "Return-Path: <sender@example.com>\r\n"
						   "Received: from client.example.test "
						   "([192.0.2.1])\r\n\tby mx.example.test with "
						   "LMTP id "));
	assert_non_null(strstr((char *)f->trace.p, ";\r\n\tMon, 02 Jun 2025 08:00:00 +0000\r\n"));
	assert_false(lmtp_session_busy(f->s));
	/* The next one needs no LHLO. */
	says(f, "MAIL FROM:<>\r\n", "250 ");
	says(f, "QUIT\r\n", "221 2.0.0");
	assert_false(f->more);
}

static void reply_per_recipient(void **state)
{
	struct fake *f = *state;

	begin(f);
	says(f, "RCPT TO:<late-gone@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<anna@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<late-quota@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<late-down@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<late-full@example.test>\r\n", "250 ");
	says(f, "DATA\r\n", "354 ");
	feed(f, "x\r\n.\r\n");
	expect_out(f,
		"550 5.1.1 <late-gone@example.test> No such user here\r\n"
		"250 2.0.0 <anna@example.test> Stored\r\n"
		"452 4.2.2 <late-quota@example.test> Mailbox is full\r\n"
		"451 4.3.0 <late-down@example.test> Store is not available, try again later\r\n"
		"452 4.3.1 <late-full@example.test> Store is full, try again later\r\n");
	assert_int_equal(f->deliveries, 1);
	assert_int_equal(f->mailbox_count, 5);
}

static void recipient_verdicts(void **state)
{
	struct fake *f = *state;

	begin(f);
	says(f, "RCPT TO:<unknown@example.test>\r\n", "550 5.1.1");
	says(f, "RCPT TO:<disabled@example.test>\r\n", "550 5.2.1");
	says(f, "RCPT TO:<quota@example.test>\r\n", "452 4.2.2");
	says(f, "RCPT TO:<down@example.test>\r\n", "451 4.3.0");
	says(f, "RCPT TO:<full@example.test>\r\n", "452 4.3.1");
	/* RFC 2033 4.2: nobody to reply for. */
	says(f, "DATA\r\n", "503 5.5.1 No valid recipients");
	/* Many unknown users are no reason to hang up. */
	for (int i = 0; i < 20; i++)
		says(f, "RCPT TO:<unknown@example.test>\r\n", "550 5.1.1");
	assert_true(f->more);
}

/* user and user+tag are one mailbox: one copy, and both hear of it. */
static void shared_mailbox_gets_one_copy(void **state)
{
	struct fake *f = *state;

	begin(f);
	says(f, "RCPT TO:<bob@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<anna@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<anna+tag@example.test>\r\n", "250 ");
	says(f, "DATA\r\n", "354 ");
	feed(f, ".\r\n");
	expect_out(f, "250 2.0.0 <bob@example.test> Stored\r\n"
		      "250 2.0.0 <anna@example.test> Stored\r\n"
		      "250 2.0.0 <anna+tag@example.test> Stored\r\n");
	assert_int_equal(f->mailbox_count, 2);
	assert_int_equal(f->message.n, 0);
}

static void forgotten_verdict_is_not_stored(void **state)
{
	struct fake *f = *state;

	f->leave_verdicts = true;
	begin(f);
	says(f, "RCPT TO:<bob@example.test>\r\n", "250 ");
	says(f, "DATA\r\n", "354 ");
	says(f, ".\r\n", "451 4.3.0");
}

static void order_of_commands(void **state)
{
	struct fake *f = *state;
	struct lmtp_limits lim = limits;

	fake_close(f);
	memset(f, 0, sizeof(*f));
	lim.errors_max = 100;
	fake_open(f, &lim);
	says(f, "HELO x\r\n", "500 5.5.1");
	says(f, "EHLO x\r\n", "500 5.5.1");
	says(f, "MAIL FROM:<a@example.com>\r\n", "503 5.5.1");
	says(f, "RCPT TO:<anna@example.test>\r\n", "503 5.5.1");
	says(f, "DATA\r\n", "503 5.5.1");
	says(f, "LHLO\r\n", "501 5.5.4");
	says(f, "LHLO a b\r\n", "501 5.5.4");
	says(f, "lhlo x\r\n", "250-");
	says(f, "RCPT TO:<anna@example.test>\r\n", "503 5.5.1");
	says(f, "Mail From:<a@example.com> Body=8bitMIME\r\n", "250 2.1.0");
	says(f, "MAIL FROM:<a@example.com>\r\n", "503 5.5.1");
	says(f, "DATA x\r\n", "501 5.5.4");
	says(f, "RSET x\r\n", "501 5.5.4");
	says(f, "RSET\r\n", "250 2.0.0");
	says(f, "RCPT TO:<anna@example.test>\r\n", "503 5.5.1");
	says(f, "NOOP whatever\r\n", "250 2.0.0");
	says(f, "VRFY anna\r\n", "252 2");
	says(f, "EXPN list\r\n", "502 5.5.1");
	says(f, "STARTTLS\r\n", "502 5.5.1");
	says(f, "HELP\r\n", "502 5.5.1");
	says(f, "XYZZY\r\n", "500 5.5.2");
	says(f, "\r\n", "500 5.5.2");
	/* LHLO again begins anew. */
	says(f, "MAIL FROM:<a@example.com>\r\n", "250 ");
	says(f, "LHLO x\r\n", "250-");
	says(f, "MAIL FROM:<a@example.com>\r\n", "250 ");
	assert_int_equal(f->lookups, 0);
}

static void addresses(void **state)
{
	static const struct {
		const char *command, *reply;
	} cases[] = {
		{"MAIL FROM:a@example.com\r\n", "501 5.1.7"},
		{"MAIL FROM:<a@example.com\r\n", "501 5.1.7"},
		{"MAIL FROM:<a@example.com>x\r\n", "501 5.1.7"},
		{"MAIL FROM:<a b@example.com>\r\n", "501 5.1.7"},
		{"MAIL FROM:<a\t@example.com>\r\n", "501 5.1.7"},
		{"MAIL FROM:<<a@example.com>>\r\n", "501 5.1.7"},
		{"MAIL FROM:<@route.example.com>\r\n", "501 5.1.7"},
		{"MAIL FROM:<\xff@example.com> SMTPUTF8\r\n", "501 5.1.7"},
		{"MAIL FROM:<j\xc3\xb6rg@example.com>\r\n", "553 5.6.7"},
		{"MAIL FROM\r\n", "501 5.5.4"},
		{"MAIL TO:<a@example.com>\r\n", "501 5.5.4"},
		{"MAIL FROM:<a@example.com> X=1\r\n", "555 5.5.4"},
		{"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n", "555 5.5.4"},
		{"MAIL FROM:<a@example.com> SIZE=x\r\n", "501 5.5.4"},
		{"MAIL FROM:<a@example.com> SIZE=1001\r\n", "552 5.3.4"},
		{"MAIL FROM:<a@example.com> SIZE=99999999999999999999\r\n", "501 5.5.4"},
		{"MAIL FROM: <@r.example.com,@s.example.com:a@example.com> SIZE=1000 SMTPUTF8\r\n",
			"250 2.1.0"},
		{"RCPT TO:<>\r\n", "501 5.1.3"},
		{"RCPT TO:anna@example.test\r\n", "501 5.1.3"},
		{"RCPT TO:<anna@example.test> NOTIFY=NEVER\r\n", "555 5.5.4"},
		{"RCPT FROM:<anna@example.test>\r\n", "501 5.5.4"},
		{"RCPT TO:<\"q > \\\" x\"@example.test>\r\n", "250 2.1.5"},
		{"RCPT TO:<j\xc3\xb6rg@example.test>\r\n", "250 2.1.5"},
	};
	struct fake *f = *state;
	struct lmtp_limits lim = limits;
	char longest[600];

	fake_close(f);
	memset(f, 0, sizeof(*f));
	lim.errors_max = 100;
	fake_open(f, &lim);
	says(f, "LHLO x\r\n", "250-");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		says(f, cases[i].command, cases[i].reply);
	snprintf(longest, sizeof(longest), "RCPT TO:<%0400d@example.test>\r\n", 1);
	says(f, longest, "501 5.1.3");
	says(f, "DATA\r\n", "354 ");
	says(f, "x\r\n.\r\n", "250 ");
	buf_add_byte(&f->trace, 0);
	assert_non_null(strstr((char *)f->trace.p, "Return-Path: <a@example.com>"));
	assert_non_null(strstr((char *)f->trace.p, "with UTF8LMTP id"));
}

static void too_many_recipients(void **state)
{
	struct fake *f = *state;

	begin(f);
	for (int i = 0; i < 5; i++) {
		char command[64];

		snprintf(command, sizeof(command), "RCPT TO:<u%d@example.test>\r\n", i);
		says(f, command, "250 ");
	}
	for (int i = 0; i < 10; i++)
		says(f, "RCPT TO:<u9@example.test>\r\n", "452 4.5.3");
	says(f, "DATA\r\n", "354 ");
	feed(f, "x\r\n.\r\n");
	assert_int_equal(f->mailbox_count, 5);
}

static void too_many_errors(void **state)
{
	struct fake *f = *state;

	for (int i = 0; i < 3; i++)
		says(f, "BAD\r\n", "500 5.5.2");
	says(f, "BAD\r\nNOOP\r\n", "421 4.7.0");
	assert_false(f->more);
	feed(f, "NOOP\r\n");
	expect_out(f, "");
}

static void long_lines(void **state)
{
	struct fake *f = *state;
	char line[2000];

	memset(line, 'x', sizeof(line));
	memcpy(line + sizeof(line) - 3, "\r\n", 3);
	says(f, line, "500 5.5.2 Line is too long");
	says(f, "NOOP\r\n", "250 ");
	memcpy(line + sizeof(line) - 3, "x\n", 3);
	says(f, line, "554 5.5.2");
	assert_false(f->more);
}

/* A bare LF is what one server takes for a line end and another does not. */
static void bare_lf_in_commands_ends_the_session(void **state)
{
	struct fake *f = *state;

	begin(f);
	f->out.n = 0;
	feed(f, "NOOP\nRCPT TO:<anna@example.test>\r\n");
	expect_out(f, "554 5.5.2 Bare LF: lines end with CRLF\r\n");
	assert_false(f->more);
	assert_int_equal(f->lookups, 0);
}

static void only_crlf_dot_crlf_ends_data(void **state)
{
	static const char body[] =
		"a\n.\nb\n.\r\nc\r\n.\nd\r.\r\ne\r\n.\rf\r\n.\r\rg\r\n.x\r\n..\r\n";
	struct fake *f = *state;

	begin(f);
	says(f, "RCPT TO:<anna@example.test>\r\n", "250 ");
	says(f, "DATA\r\n", "354 ");
	f->out.n = 0;
	feed(f, body);
	expect_out(f, "");
	feed(f, ".\r\n");
	expect_out(f, "250 2.0.0 <anna@example.test> Stored\r\n");
	/* Dots at the start of a line are stuffing; nothing else is touched. */
	assert_true(bytes_eq_str(buf_bytes(&f->message),
		"a\n.\nb\n.\r\nc\r\n\nd\r.\r\ne\r\n\rf\r\n\r\rg\r\nx\r\n.\r\n"));
}

static void nul_in_command(void **state)
{
	struct fake *f = *state;

	f->out.n = 0;
	f->more = lmtp_session_feed(f->s, (const uint8_t *)"NO\0OP\r\n", 7, &f->out);
	expect_out(f, "500 5.5.2 NUL in command\r\n");
}

static void big_messages_are_swallowed(void **state)
{
	struct fake *f = *state;

	begin(f);
	says(f, "RCPT TO:<anna@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<bob@example.test>\r\n", "250 ");
	says(f, "DATA\r\n", "354 ");
	f->out.n = 0;
	for (int i = 0; i < 200; i++)
		feed(f, "0123456789\r\n");
	expect_out(f, "");
	feed(f, ".\r\nNOOP\r\n");
	expect_out(f, "552 5.3.4 Message is too big\r\n552 5.3.4 Message is too big\r\n"
		      "250 2.0.0 Ok\r\n");
	assert_int_equal(f->deliveries, 0);
	/* Exactly the limit is fine. */
	says(f, "MAIL FROM:<>\r\n", "250 ");
	says(f, "RCPT TO:<bob@example.test>\r\n", "250 ");
	says(f, "DATA\r\n", "354 ");
	for (int i = 0; i < 100; i++)
		feed(f, "12345678\r\n");
	says(f, ".\r\n", "250 ");
	assert_int_equal(f->message.n, 1000);
}

static void chunks(void **state)
{
	struct fake *f = *state;

	begin(f);
	says(f, "RCPT TO:<anna@example.test>\r\n", "250 ");
	says(f, "RCPT TO:<late-down@example.test>\r\n", "250 ");
	says(f, "BDAT 5\r\na\r\n.\r", "250 2.0.0");
	says(f, "RCPT TO:<bob@example.test>\r\n", "503 5.5.1");
	says(f, "DATA\r\n", "503 5.5.1");
	says(f, "BDAT 3\r\n\nb\n", "250 2.0.0");
	f->out.n = 0;
	feed(f, "BDAT 0 LAST\r\nNOOP\r\n");
	expect_out(f,
		"250 2.0.0 <anna@example.test> Stored\r\n"
		"451 4.3.0 <late-down@example.test> Store is not available, try again later\r\n"
		"250 2.0.0 Ok\r\n");
	assert_int_equal(f->message.n, 8);
	assert_memory_equal(f->message.p, "a\r\n.\r\nb\n", 8);
	/* All at once. */
	says(f, "MAIL FROM:<>\r\n", "250 ");
	says(f, "RCPT TO:<bob@example.test>\r\n", "250 ");
	says(f, "bdat 4 last\r\nQUIT", "250 2.0.0 <bob@");
	assert_memory_equal(f->message.p, "QUIT", 4);
	/* RSET between chunks forgets them. */
	says(f, "MAIL FROM:<>\r\n", "250 ");
	says(f, "RCPT TO:<bob@example.test>\r\n", "250 ");
	says(f, "BDAT 2\r\nxy", "250 ");
	says(f, "RSET\r\n", "250 ");
	assert_int_equal(f->deliveries, 2);
}

static void chunks_refused_are_swallowed(void **state)
{
	struct fake *f = *state;

	says(f, "LHLO x\r\n", "250-");
	says(f, "BDAT 6 LAST\r\nQUIT\r\n", "503 5.5.1");
	says(f, "MAIL FROM:<>\r\n", "250 ");
	says(f, "BDAT 6\r\nQUIT\r\n", "503 5.5.1 No valid");
	says(f, "RCPT TO:<anna@example.test>\r\n", "250 ");
	f->out.n = 0;
	feed(f, "BDAT 1001\r\n");
	for (int i = 0; i < 1001; i++)
		feed(f, "x");
	expect_out(f, "552 5.3.4 Message is too big\r\n");
	says(f, "BDAT 1 LAST\r\nx", "552 5.3.4");
	assert_int_equal(f->deliveries, 0);
	/* How many bytes follow is unknown: nothing after this is a command. */
	says(f, "BDAT x LAST\r\nRSET\r\n", "501 5.5.4");
	assert_false(f->more);
}

static void goodbye(void **state)
{
	struct fake *f = *state;

	f->out.n = 0;
	lmtp_session_goodbye(f->s, "Timeout", &f->out);
	expect_out(f, "421 4.3.2 mx.example.test Timeout\r\n");
	feed(f, "NOOP\r\n");
	assert_false(f->more);
	expect_out(f, "");
}

static const char pipeline[] =
	"LHLO client.example.test\r\nMAIL FROM:<a@example.com> SIZE=100\r\n"
	"RCPT TO:<anna@example.test>\r\nRCPT TO:<unknown@example.test>\r\n"
	"RCPT TO:<late-quota@example.test>\r\nDATA\r\n"
	"Subject: x\r\n\r\n..\r\n.\r\r\nline\n.\nline\r\n.\r\n"
	"NOOP\r\nMAIL FROM:<b@example.com>\r\nRCPT TO:<bob@example.test>\r\n"
	"BDAT 9\r\n0123456\r\nBDAT 7 LAST\r\n.\r\n.\r\nx"
	"VRFY x\r\nBAD\r\nMAIL FROM:<c@example.com>\r\nRCPT TO:<u1@example.test>\r\nDATA\r\n"
	".\r\nQUIT\r\nNOOP\r\n";

/* Where the network cuts does not matter: every cut into pieces of one size, and every cut in two.
 */
static void splits_do_not_matter(void **state)
{
	struct fake *f = *state, *g;
	size_t n = sizeof(pipeline) - 1;

	feed(f, pipeline);
	assert_false(f->more);
	assert_int_equal(f->deliveries, 3);
	for (size_t step = 1; step < n; step++)
		for (int mode = 0; mode < 2; mode++) {
			g = calloc(1, sizeof(*g));
			fake_open(g, &limits);
			for (size_t i = 0; i < n;) {
				size_t k = mode == 0 ? step : i ? n - i : step;

				if (k > n - i)
					k = n - i;
				g->more = lmtp_session_feed(
					g->s, (const uint8_t *)pipeline + i, k, &g->out);
				i += k;
			}
			assert_true(bytes_eq(buf_bytes(&f->out), buf_bytes(&g->out)));
			assert_int_equal(g->deliveries, 3);
			assert_true(bytes_eq(buf_bytes(&f->message), buf_bytes(&g->message)));
			assert_false(g->more);
			fake_close(g);
			free(g);
		}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(greeting_and_extensions),
		T(one_message),
		T(reply_per_recipient),
		T(recipient_verdicts),
		T(shared_mailbox_gets_one_copy),
		T(forgotten_verdict_is_not_stored),
		T(order_of_commands),
		T(addresses),
		T(too_many_recipients),
		T(too_many_errors),
		T(long_lines),
		T(bare_lf_in_commands_ends_the_session),
		T(only_crlf_dot_crlf_ends_data),
		T(nul_in_command),
		T(big_messages_are_swallowed),
		T(chunks),
		T(chunks_refused_are_swallowed),
		T(goodbye),
		T(splits_do_not_matter),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
