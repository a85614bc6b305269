/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the writer makes of odd input, of too little memory and of misuse. */
#include "tests/core/wbxml_fixture.h"

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The writer -------------------------------------------------------------------------- */

/* To the answer: no byte of a stored mail can end the string it is in. */
static void text_that_a_string_cannot_carry_is_replaced(void **state)
{
	static const struct {
		const char *in;
		size_t n;
		const char *want;
	} cases[] = {
#define CASE(in, want) {in, sizeof(in) - 1, want}
		CASE("plain", "plain"), CASE("a\0b", "a" FFFD "b"), CASE("\0", FFFD),
		CASE("\x01\x08\x0b\x1f", FFFD FFFD FFFD FFFD), CASE("\t\r\n", "\t\r\n"),
		CASE("\x7f", "\x7f"), CASE("gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"),
		CASE("\xe2\x82\xac\xf0\x9f\x99\x82", "\xe2\x82\xac\xf0\x9f\x99\x82"),
		CASE("\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbd",
			"\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbd"),
		CASE("\xc0\x80", FFFD FFFD),                   /* overlong NUL */
		CASE("\xe0\x80\x80", FFFD FFFD FFFD),          /* overlong */
		CASE("\xed\xa0\x80", FFFD FFFD FFFD),          /* surrogate */
		CASE("\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD), /* over U+10FFFF */
		CASE("\xf5\xff", FFFD FFFD), CASE("a\x80z", "a" FFFD "z"),
		CASE("\xe2\x82", FFFD), /* cut at the end */
		CASE("\xe2\x82z", FFFD "z"), CASE("\xf0\x9f\x99\0", FFFD FFFD),
		CASE("\xc3\xc3\xbc", FFFD "\xc3\xbc"),
		CASE("\xef\xbf\xbe\xef\xbf\xbf", FFFD FFFD), /* not characters of XML */
#undef CASE
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint8_t *exact = malloc(cases[i].n);
		struct buf doc = {0};
		struct wbxml_writer w;
		struct wbxml_reader r;
		struct wbxml_event ev;

		memcpy(exact, cases[i].in, cases[i].n);
		wbxml_writer_init(&w, &doc);
		wbxml_put_bytes_text(&w, AIRSYNC_Sync, bytes_of(exact, cases[i].n));
		assert_true(wbxml_done(&w));
		wbxml_reader_init(&r, buf_bytes(&doc));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_TEXT);
		assert_bytes(ev.text, bytes_str(cases[i].want));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		buf_free(&doc);
		free(exact);
	}
}

static void text_may_be_written_in_pieces(void **state)
{
	struct buf doc = {0}, want;
	struct wbxml_writer w;

	(void)state;
	wbxml_writer_init(&w, &doc);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_piece(&w, bytes_str(""));
	wbxml_put_piece(&w, bytes_str("ab"));
	wbxml_put_opaque_piece(&w, bytes_str("c"));
	wbxml_put_opaque_piece(&w, bytes_str(""));
	wbxml_put_end(&w);
	assert_true(wbxml_done(&w));
	want = from_hex("03 01 6A 00 45 03 61 62 00 C3 01 63 01");
	assert_bytes(buf_bytes(&doc), buf_bytes(&want));
	buf_free(&want);
	buf_free(&doc);
}

static void containers_left_empty_are_written_short(void **state)
{
	struct buf doc = {0}, want;
	struct wbxml_writer w;

	(void)state;
	buf_add_str(&doc, "before"); /* the writer appends */
	wbxml_writer_init(&w, &doc);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_text(&w, AIRSYNC_SyncKey, "");
	wbxml_put_text(&w, AIRSYNC_Class, NULL);
	wbxml_put_opaque(&w, AIRSYNC_Version, bytes_str(""));
	wbxml_put_start(&w, PING_Folders);
	wbxml_put_end(&w);
	wbxml_put_start(
		&w, PING_Folders); /* the flag goes to the tag, not to the switch after it */
	wbxml_put_empty(&w, AIRSYNC_Add);
	wbxml_put_end(&w);
	assert_false(wbxml_done(&w));
	wbxml_put_end(&w);
	assert_true(wbxml_done(&w));
	want = from_hex("62 65 66 6F 72 65 03 01 6A 00 45 0B 10 11 00 0D 09 49 00 00 07 01 01");
	assert_bytes(buf_bytes(&doc), buf_bytes(&want));
	buf_free(&want);
	buf_free(&doc);
}

static void numbers_are_written_in_full(void **state)
{
	static const uint64_t numbers[] = {0, 9, 10, UINT32_MAX, UINT64_MAX};
	static const char *const texts[] = {"0", "9", "10", "4294967295", "18446744073709551615"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
		struct buf doc = {0};
		struct wbxml_writer w;

		wbxml_writer_init(&w, &doc);
		wbxml_put_u64(&w, AIRSYNC_Sync, numbers[i]);
		assert_int_equal(doc.n, 6 + strlen(texts[i]) + 2);
		assert_memory_equal(doc.p + 6, texts[i], strlen(texts[i]) + 1);
		buf_free(&doc);
	}
}

static void memory_running_out_is_seen_at_the_end(void **state)
{
	struct buf doc = {.failed = true};
	struct wbxml_writer w;

	(void)state;
	wbxml_writer_init(&w, &doc);
	put_provision_response(&w);
	assert_false(wbxml_done(&w));
	assert_null(doc.p);
}

static void misuse_end_missing(struct wbxml_writer *w)
{
	wbxml_put_end(w);
}

static void misuse_text_first(struct wbxml_writer *w)
{
	wbxml_put_piece(w, bytes_str("a"));
}

static void misuse_two_roots(struct wbxml_writer *w)
{
	wbxml_put_empty(w, PING_Ping);
	wbxml_put_empty(w, PING_Ping);
}

static void misuse_no_tag(struct wbxml_writer *w)
{
	wbxml_put_start(w, 0x0d04);
}

static void misuse_too_deep(struct wbxml_writer *w)
{
	for (unsigned i = 0; i < WBXML_WRITE_DEPTH_MAX + 1; i++)
		wbxml_put_start(w, PING_Ping);
}

/* To ourselves: a handler that would send a broken document is caught where it happens. */
static void misuse_aborts(void **state)
{
	static void (*const misuses[])(struct wbxml_writer *) = {misuse_end_missing,
		misuse_text_first, misuse_two_roots, misuse_no_tag, misuse_too_deep};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(misuses); i++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			struct buf doc = {0};
			struct wbxml_writer w;

			signal(SIGABRT, SIG_DFL);
			if (!freopen("/dev/null", "w", stderr))
				_exit(1);
			wbxml_writer_init(&w, &doc);
			misuses[i](&w);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_that_a_string_cannot_carry_is_replaced),
		cmocka_unit_test(text_may_be_written_in_pieces),
		cmocka_unit_test(containers_left_empty_are_written_short),
		cmocka_unit_test(numbers_are_written_in_full),
		cmocka_unit_test(memory_running_out_is_seen_at_the_end),
		cmocka_unit_test(misuse_aborts),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("wbxml_write", tests, NULL, NULL);
}
