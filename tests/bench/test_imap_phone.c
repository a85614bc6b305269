/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The way to IDLE, in whatever pieces the server's lines come, and what ends it. */
#include "bench/fleet/imap_phone.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

static const char dialogue[] = "* OK [CAPABILITY IMAP4rev1 IDLE] ready.\r\n"
			       "1 OK [CAPABILITY IMAP4rev1] Logged in\r\n"
			       "* FLAGS (\\Seen)\r\n* 12 EXISTS\r\n* 0 RECENT\r\n"
			       "2 OK [READ-WRITE] Select completed.\r\n"
			       "+ idling\r\n"
			       "* OK Still here\r\n* 13 EXISTS\r\n* 1 RECENT\r\n";

static void says_what_the_step_asks(void **state)
{
	struct buf out = {0};

	(void)state;
	imap_say(IMAP_GREETING, "u", "p", &out);
	imap_say(IMAP_LOGIN, "u@x", "p w", &out);
	imap_say(IMAP_SELECT, "u", "p", &out);
	imap_say(IMAP_IDLE, "u", "p", &out);
	imap_say(IMAP_HANGS, "u", "p", &out);
	buf_add_byte(&out, 0);
	assert_string_equal(
		(char *)out.p, "1 LOGIN \"u@x\" \"p w\"\r\n2 SELECT INBOX\r\n3 IDLE\r\n");
	buf_free(&out);
}

/* Each byte alone gives the same as all at once: nothing before its line is whole. */
static void the_way_to_idle(void **state)
{
	static const enum imap_result want[] = {IMAP_NEXT, IMAP_NEXT, IMAP_READ, IMAP_EXISTS,
		IMAP_READ, IMAP_NEXT, IMAP_PARKED, IMAP_READ, IMAP_EXISTS, IMAP_READ};
	enum imap_step step = IMAP_GREETING;
	struct imap_in in;
	size_t at = 0, n, got = 0;

	(void)state;
	for (n = 0; n <= sizeof(dialogue) - 1; n++) {
		enum imap_result r = imap_read(&step, (const uint8_t *)dialogue + at, n - at, &in);

		if (r == IMAP_NEED_MORE)
			continue;
		assert_true(got < sizeof(want) / sizeof(*want));
		assert_int_equal(r, want[got]);
		if (r == IMAP_EXISTS)
			assert_int_equal(in.exists, got == 3 ? 12 : 13);
		assert_int_equal(dialogue[n - 1], '\n');
		at += in.used;
		assert_int_equal(at, n);
		got++;
	}
	assert_int_equal(got, sizeof(want) / sizeof(*want));
	assert_int_equal(step, IMAP_HANGS);
}

static void refused(enum imap_step step, const char *line)
{
	struct imap_in in;

	assert_int_equal(imap_read(&step, (const uint8_t *)line, strlen(line), &in), IMAP_FAILED);
	assert_true(in.why[0] != 0);
}

static void other_answers_are_failures(void **state)
{
	struct imap_in in;
	enum imap_step step = IMAP_HANGS;
	static uint8_t endless[IMAP_LINE_BYTES_MAX + 1];

	(void)state;
	refused(IMAP_GREETING, "* BYE busy\r\n");
	refused(IMAP_GREETING, "* PREAUTH hello\r\n");
	refused(IMAP_LOGIN, "1 NO [AUTHENTICATIONFAILED] no\r\n");
	refused(IMAP_SELECT, "2 NO no such mailbox\r\n");
	refused(IMAP_SELECT, "1 OK again\r\n");
	refused(IMAP_IDLE, "3 BAD unknown command\r\n");
	refused(IMAP_IDLE, "3 OK already over\r\n");
	refused(IMAP_HANGS, "* BYE shutting down\r\n");
	refused(IMAP_HANGS, "3 OK Idle completed\r\n");
	refused(IMAP_HANGS, "+\n");
	refused(IMAP_HANGS, "\n");
	memset(endless, 'x', sizeof(endless));
	assert_int_equal(imap_read(&step, endless, sizeof(endless), &in), IMAP_FAILED);
	/* Also when its end is there at once. */
	memcpy(endless, "* ", 2);
	memcpy(endless + sizeof(endless) - 2, "\r\n", 2);
	assert_int_equal(imap_read(&step, endless, sizeof(endless), &in), IMAP_FAILED);
	/* Not a number, too large, more behind it: no message. */
	assert_int_equal(imap_read(&step, (const uint8_t *)"* x EXISTS\r\n", 12, &in), IMAP_READ);
	assert_int_equal(
		imap_read(&step, (const uint8_t *)"* 4294967296 EXISTS\r\n", 21, &in), IMAP_READ);
	assert_int_equal(imap_read(&step, (const uint8_t *)"* 5 EXISTSX\r\n", 13, &in), IMAP_READ);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_what_the_step_asks),
		cmocka_unit_test(the_way_to_idle),
		cmocka_unit_test(other_answers_are_failures),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
