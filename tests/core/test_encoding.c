/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/encoding.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static int b64(const char *text, size_t cap)
{
	uint8_t dst[64];

	return base64_decode(bytes_str(text), dst, cap);
}

static void base64_takes_padding_whole_or_not_at_all(void **state)
{
	uint8_t dst[8];
	char in_place[] = "Zm9vYmFy";

	(void)state;
	assert_int_equal(b64("", 0), 0);
	assert_int_equal(b64("Zg==", 64), 1);
	assert_int_equal(b64("Zg", 64), 1);
	assert_int_equal(b64("Zm8=", 64), 2);
	assert_int_equal(b64("Zm8", 64), 2);
	assert_int_equal(b64("Zm9v", 3), 3);
	assert_int_equal(b64("Zm9v", 2), -1);
	assert_int_equal(b64("Zg=", 64), -1);
	assert_int_equal(b64("Z", 64), -1);
	assert_int_equal(b64("Z===", 64), -1);
	assert_int_equal(b64("====", 64), -1);
	assert_int_equal(b64("=", 64), -1);
	assert_int_equal(b64("Zg==Zg==", 64), -1);
	assert_int_equal(b64("Zm9v=", 64), -1);
	assert_int_equal(b64("Zh==", 64), -1); /* bits behind the byte */
	assert_int_equal(b64("-_-_", 64), -1);
	assert_int_equal(b64("Zm9\n", 64), -1);
	assert_int_equal(b64("Zm 9", 64), -1);
	assert_int_equal(base64_decode(bytes_str("+/+/"), dst, sizeof(dst)), 3);
	assert_memory_equal(dst, "\xfb\xff\xbf", 3);
	assert_int_equal(base64_decode(bytes_str(in_place), (uint8_t *)in_place, 8), 6);
	assert_memory_equal(in_place, "foobar", 6);
}

static void percent_decoding_refuses_what_is_no_escape(void **state)
{
	char dst[16], in_place[] = "a%2Bb%25";

	(void)state;
	assert_int_equal(percent_decode(bytes_str("a%20b+c"), false, dst, sizeof(dst)), 7 - 2);
	assert_memory_equal(dst, "a b+c", 5);
	assert_int_equal(percent_decode(bytes_str("a+%2b"), true, dst, sizeof(dst)), 3);
	assert_memory_equal(dst, "a +", 3);
	assert_int_equal(percent_decode(bytes_str("%c3%BC"), false, dst, 2), 2);
	assert_memory_equal(dst, "\xc3\xbc", 2);
	assert_int_equal(percent_decode(bytes_str(""), false, dst, 0), 0);
	assert_int_equal(percent_decode(bytes_str("ab"), false, dst, 1), -1);
	assert_int_equal(percent_decode(bytes_str("%"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("%2"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("%2g"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("%+1"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("a%00"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_of("a\0", 2), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str(in_place), false, in_place, 8), 4);
	assert_memory_equal(in_place, "a+b%", 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base64_takes_padding_whole_or_not_at_all),
		cmocka_unit_test(percent_decoding_refuses_what_is_no_escape),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("encoding", tests, NULL, NULL);
}
