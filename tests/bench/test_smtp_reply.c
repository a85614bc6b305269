/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What an SMTP or LMTP server may answer, and what is refused though it looks much like it. */
#include "bench/mail/smtp_reply.h"
#include "core/base/check.h"

#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static int parse(const char *text, struct smtp_reply *r, const char **why)
{
	return smtp_reply_parse((const uint8_t *)text, strlen(text), r, why);
}

static void a_reply_may_have_several_lines(void **state)
{
	static const char text[] = "250-mx.example.test\r\n250-SIZE 1000\r\n250 8BITMIME\r\n220 b";
	const size_t whole = sizeof(text) - 1 - 5;
	struct smtp_reply r;
	const char *why;

	(void)state;
	for (size_t n = 0; n < whole; n++)
		assert_int_equal(smtp_reply_parse((const uint8_t *)text, n, &r, &why), 0);
	for (size_t n = whole; n < sizeof(text); n++) {
		assert_int_equal(smtp_reply_parse((const uint8_t *)text, n, &r, &why), 1);
		assert_int_equal(r.code, 250);
		assert_int_equal(r.lines.n, whole);
		assert_true(bytes_eq_str(r.last, "250 8BITMIME"));
	}
	/* RFC 5321 4.2: the text may be missing. */
	assert_int_equal(parse("354\r\n", &r, &why), 1);
	assert_int_equal(r.code, 354);
	assert_true(bytes_eq_str(r.last, "354"));
}

/* To whoever measures a server without PIPELINING: it is not taken for one with it. */
static void an_extension_is_a_word_behind_the_first_line(void **state)
{
	static const struct {
		const char *text;
		bool offers;
	} cases[] = {
		{"250-mx\r\n250-PIPELINING\r\n250 SIZE\r\n", true},
		{"250-mx\r\n250 pipelining\r\n", true},
		{"250-mx\r\n250 Pipelining now\r\n", true},
		{"250 PIPELINING\r\n", false},
		{"250-PIPELINING hello\r\n250 SIZE\r\n", false},
		{"250-mx\r\n250 PIPELININGS\r\n", false},
		{"250-mx\r\n250 X PIPELINING\r\n", false},
		{"550-mx\r\n550 PIPELINING\r\n", false},
	};
	struct smtp_reply r;
	const char *why;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(parse(cases[i].text, &r, &why), 1);
		if (smtp_reply_offers(&r, "PIPELINING") != cases[i].offers)
			fail_msg("%s", cases[i].text);
	}
}

static void a_sloppy_reply_is_refused(void **state)
{
	static const struct {
		const char *text, *shown;
	} cases[] = {{"ok\r\n", "ok"}, {"+OK POP3 ready\r\n", "+OK POP3 ready"},
		{"25 short\r\n", "25 short"}, {"150 interim\r\n", "150 interim"},
		{"600 what\r\n", "600 what"}, {"260 what\r\n", "260 what"}, {"250ok\r\n", "250ok"},
		{"25\r\n", "25"}, {"\r\n", ""}, {"250 ok\n", "250 ok"}, {"250 ok\r\r\n", "250 ok"},
		{"250 a\x1b[2J\r\n", "250 a"}, {"250-a\r\n550 b\r\n", "550 b"}};
	struct smtp_reply r;
	const char *why;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		why = NULL;
		if (parse(cases[i].text, &r, &why) != -1)
			fail_msg("accepted: %s", cases[i].text);
		assert_non_null(why);
		if (!bytes_eq_str(r.last, cases[i].shown))
			fail_msg("shown: '%.*s'", (int)r.last.n, (const char *)r.last.p);
	}
}

/* However it comes: also when its end is there at once. */
static void an_endless_reply_is_refused(void **state)
{
	struct smtp_reply r;
	const char *why = "";
	struct buf line = {0}, lines = {0};

	(void)state;
	buf_add_str(&line, "250 ");
	while (line.n < SMTP_REPLY_BYTES_MAX - 1)
		buf_add_byte(&line, 'x');
	assert_int_equal(smtp_reply_parse(line.p, line.n, &r, &why), 0);
	buf_add_str(&line, "\r\n");
	assert_int_equal(smtp_reply_parse(line.p, SMTP_REPLY_BYTES_MAX, &r, &why), 0);
	assert_int_equal(smtp_reply_parse(line.p, line.n, &r, &why), -1);
	assert_string_equal(why, "an answer without end");
	while (lines.n <= SMTP_REPLY_BYTES_MAX)
		buf_add_str(&lines, "250-and\r\n");
	buf_add_str(&lines, "250 so on\r\n");
	assert_int_equal(smtp_reply_parse(lines.p, lines.n, &r, &why), -1);
	buf_free(&line);
	buf_free(&lines);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reply_may_have_several_lines),
		cmocka_unit_test(an_extension_is_a_word_behind_the_first_line),
		cmocka_unit_test(a_sloppy_reply_is_refused),
		cmocka_unit_test(an_endless_reply_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
