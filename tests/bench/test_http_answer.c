/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is called an answer, and what is refused although a browser would take it. */
#include "bench/fleet/http_answer.h"
#include "core/base/check.h"

#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define GOOD                                                                                       \
	"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ms-sync.wbxml\r\nContent-Length: 4\r\n"  \
	"X-Empty:\r\n\r\n"

/* In memory of exactly its size, so that a sanitizer sees a read beyond it. */
static int parse(const char *text, size_t n, struct http_answer *a)
{
	uint8_t *exact = malloc(n ? n : 1);
	const char *before = "none", *why = before;
	int k;

	memcpy(exact, text, n);
	k = http_answer_parse(exact, n, a, &why);
	/* A reason where there is one; else the caller's own stays. */
	assert_non_null(why);
	assert_int_equal(k < 0, why != before);
	free(exact);
	return k;
}

static void a_whole_answer_is_read(void **state)
{
	struct http_answer a;
	const char *why;
	const uint8_t *p = (const uint8_t *)GOOD "body";

	(void)state;
	assert_int_equal(http_answer_parse(p, sizeof(GOOD) - 1 + 4, &a, &why), 1);
	assert_int_equal(a.status, 200);
	assert_true(bytes_eq_str(a.reason, "OK"));
	assert_int_equal(a.content_length, 4);
	assert_int_equal(a.head_bytes, sizeof(GOOD) - 1);
	assert_true(a.keep_alive);
	assert_true(bytes_eq_str(
		http_answer_field(&a, "content-type"), "application/vnd.ms-sync.wbxml"));
	assert_int_equal(http_answer_field(&a, "X-Empty").n, 0);
	assert_non_null(http_answer_field(&a, "X-Empty").p);
	assert_null(http_answer_field(&a, "X-Absent").p);
}

static void every_prefix_of_a_head_needs_more(void **state)
{
	struct http_answer a;

	(void)state;
	for (size_t n = 0; n < sizeof(GOOD) - 1; n++)
		assert_int_equal(parse(GOOD, n, &a), 0);
	assert_int_equal(parse(GOOD, sizeof(GOOD) - 1, &a), 1);
}

/* Their Content-Length, if any, is that of another answer (RFC 9110 8.6). */
static void answers_without_a_body_have_none(void **state)
{
	static const char *const texts[] = {"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n"};
	struct http_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		assert_int_equal(parse(texts[i], strlen(texts[i]), &a), 1);
		assert_int_equal(a.content_length, 0);
	}
}

static void a_sloppy_answer_is_refused(void **state)
{
	static const char *const bad[] = {
		"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 20x OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n",
		"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n Content-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n folded\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\n: 0\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: a\x01\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n",
	};
	struct http_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (parse(bad[i], strlen(bad[i]), &a) >= 0)
			fail_msg("accepted: %s", bad[i]);
	assert_int_equal(parse("HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n", 39, &a), -1);
}

static void an_endless_head_is_refused(void **state)
{
	struct buf b = {0};
	struct http_answer a;

	(void)state;
	buf_add_str(&b, "HTTP/1.1 200 OK\r\nX: ");
	while (b.n <= HTTP_ANSWER_HEAD_BYTES_MAX)
		buf_add_str(&b, "aaaaaaaaaaaaaaaa");
	assert_int_equal(parse((const char *)b.p, b.n, &a), -1);
	/* Also when its end is there at once. */
	buf_add_str(&b, "\r\nContent-Length: 0\r\n\r\n");
	assert_int_equal(parse((const char *)b.p, b.n, &a), -1);
	b.n = 0;
	buf_add_str(&b, "HTTP/1.1 200 OK\r\n");
	for (int i = 0; i <= HTTP_ANSWER_HEADERS_MAX; i++)
		buf_add_str(&b, "X: 1\r\n");
	assert_int_equal(parse((const char *)b.p, b.n, &a), -1);
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_answer_is_read),
		cmocka_unit_test(every_prefix_of_a_head_needs_more),
		cmocka_unit_test(answers_without_a_body_have_none),
		cmocka_unit_test(a_sloppy_answer_is_refused),
		cmocka_unit_test(an_endless_head_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
