/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "io/http1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static void assert_view(struct bytes b, const char *expected)
{
	if (!bytes_eq_str(b, expected))
		fail_msg("\"%.*s\" is not \"%s\"", (int)b.n, (const char *)b.p, expected);
}

static void response_heads_are_written_exactly(void **state)
{
	const struct http1_head full = {.content_type = "application/vnd.ms-sync.wbxml",
		.content_length = UINT64_MAX,
		.keep_alive = true,
		.say_keep_alive = true,
		.gzip = true,
		.request_id = "0a1b",
		.extra = "MS-Server-ActiveSync: 14.3\r\nX-MS-RP: 2.5\r\n"};
	static const char full_text[] = "HTTP/1.1 200 OK\r\n"
					"Content-Length: 18446744073709551615\r\n"
					"Content-Type: application/vnd.ms-sync.wbxml\r\n"
					"Content-Encoding: gzip\r\n"
					"Cache-Control: private\r\n"
					"X-Request-Id: 0a1b\r\n"
					"Connection: keep-alive\r\n"
					"MS-Server-ActiveSync: 14.3\r\n"
					"X-MS-RP: 2.5\r\n"
					"\r\n";
	const struct http1_head least = {.keep_alive = true}, closing = {.say_keep_alive = true};
	char dst[1024];

	(void)state;
	assert_view(bytes_of(dst, http1_head(dst, sizeof(dst), 200, &full)), full_text);
	assert_view(bytes_of(dst, http1_head(dst, sizeof(dst), 503, &least)),
		"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
		"Cache-Control: private\r\n\r\n");
	assert_view(bytes_of(dst, http1_head(dst, sizeof(dst), 400, &closing)),
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nCache-Control: private\r\n"
		"Connection: close\r\n\r\n");
	for (size_t cap = 0; cap < sizeof(full_text) - 1; cap++) {
		char *tight = malloc(cap ? cap : 1);

		assert_non_null(tight);
		assert_int_equal(http1_head(tight, cap, 200, &full), 0);
		free(tight);
	}
	assert_int_equal(http1_head(dst, sizeof(full_text) - 1, 200, &full), sizeof(full_text) - 1);
}

static void statuses_have_their_reasons(void **state)
{
	(void)state;
	assert_string_equal(http1_reason(200), "OK");
	assert_string_equal(http1_reason(449), "Retry after sending a PROVISION command");
	assert_string_equal(http1_reason(777), "Unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(response_heads_are_written_exactly),
		cmocka_unit_test(statuses_have_their_reasons),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("http1_answer", tests, NULL, NULL);
}
