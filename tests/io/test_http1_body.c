/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "io/http1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static const struct http1_limits limits = {
	.head_bytes_max = 4096, .target_bytes_max = 1024, .body_bytes_max = 1 << 20};
static const char *why;

static void assert_view(struct bytes b, const char *expected)
{
	if (!bytes_eq_str(b, expected))
		fail_msg("\"%.*s\" is not \"%s\"", (int)b.n, (const char *)b.p, expected);
}

struct body_run {
	int rc;
	size_t consumed;
	struct buf out;
};

static struct body_run run_body(
	const struct http1_request *req, uint64_t max, const char *p, size_t n, size_t step)
{
	struct body_run r = {0};
	struct http1_body b;
	size_t used;

	http1_body_start(&b, req, max);
	r.rc = http1_body_feed(&b, NULL, 0, &used, &r.out, &why);
	assert_int_equal(used, 0);
	while (r.rc == 0 && r.consumed < n) {
		size_t k = n - r.consumed < step ? n - r.consumed : step;

		r.rc = http1_body_feed(&b, (const uint8_t *)p + r.consumed, k, &used, &r.out, &why);
		assert_true(used <= k);
		r.consumed += used;
		if (r.rc == 0)
			assert_int_equal(used, k);
	}
	if (r.rc < 0) {
		/* A refusal is for good. */
		assert_int_equal(
			http1_body_feed(&b, (const uint8_t *)"0\r\n\r\n", 5, &used, NULL, &why),
			r.rc);
		assert_int_equal(used, 0);
	}
	return r;
}

/* Feeds whole, by one, by two and by three bytes; all must agree. */
static void assert_body(const struct http1_request *req, uint64_t max, const char *wire, int rc,
	const char *body, size_t left)
{
	size_t n = strlen(wire);

	for (size_t step = 0; step <= 3; step++) {
		struct body_run r = run_body(req, max, wire, n, step ? step : n + 1);

		if (r.rc != rc)
			fail_msg("\"%s\" by %zu: %d (%s)", wire, step, r.rc, why);
		if (rc == 1) {
			assert_view(buf_bytes(&r.out), body);
			assert_int_equal(r.consumed, n - left);
		}
		buf_free(&r.out);
	}
}

static void assert_chunked(const char *wire, int rc, const char *body, size_t left)
{
	const struct http1_request req = {.chunked = true};

	assert_body(&req, 1000, wire, rc, body, left);
}

static void counted_bodies_end_where_they_say(void **state)
{
	struct http1_request req = {.has_length = true, .content_length = 5};

	(void)state;
	assert_body(&req, 5, "hello", 1, "hello", 0);
	assert_body(&req, 5, "helloGET / HTTP/1.1\r\n", 1, "hello", 16);
	assert_body(&req, 5, "hell", 0, NULL, 0);
	assert_body(&req, 4, "hello", -413, NULL, 0);
	req.content_length = 0;
	assert_body(&req, 0, "GET", 1, "", 3);
	req.has_length = false;
	assert_body(&req, 0, "GET", 1, "", 3);
}

/* To the machine: a promise of 2 GB costs nothing before the bytes come. */
static void a_2_gb_body_is_counted_without_memory(void **state)
{
	static uint8_t piece[1 << 20];
	const struct http1_request req = {.has_length = true, .content_length = 2147483648u};
	struct http1_body b;
	struct buf out = {0};
	uint64_t sum = 0;
	size_t used;
	int rc;

	(void)state;
	http1_body_start(&b, &req, 4294967296u);
	assert_int_equal(http1_body_feed(&b, piece, 10, &used, &out, &why), 0);
	assert_true(out.cap < 4096);
	buf_free(&out);
	sum = used;
	do {
		rc = http1_body_feed(&b, piece, sizeof(piece), &used, NULL, &why);
		sum += used;
	} while (rc == 0);
	assert_int_equal(rc, 1);
	assert_int_equal(sum, 2147483648u);
	assert_int_equal(b.total, 2147483648u);
	http1_body_start(&b, &req, 2147483647u);
	assert_int_equal(http1_body_feed(&b, piece, 10, &used, NULL, &why), -413);
	assert_int_equal(used, 0);
}

static void chunked_bodies_are_put_together(void **state)
{
	(void)state;
	assert_chunked("0\r\n\r\n", 1, "", 0);
	assert_chunked("5\r\nhello\r\n0\r\n\r\n", 1, "hello", 0);
	assert_chunked("1\r\nh\r\n004\r\nello\r\n000\r\n\r\nGET", 1, "hello", 3);
	assert_chunked("a\r\n0\r\n\r\n56789\r\n0\r\n\r\n", 1, "0\r\n\r\n56789", 0);
	assert_chunked("A\r\n0123456789\r\n0\r\n\r\n", 1, "0123456789", 0);
	assert_chunked("5\r\nhello\r\n0\r\n", 0, NULL, 0);
	assert_chunked("5\r\nhello\r\n", 0, NULL, 0);
	assert_chunked("5", 0, NULL, 0);
}

static void chunk_extensions_are_skipped(void **state)
{
	(void)state;
	assert_chunked("5;a=b;c=\"d; \te\"\r\nhello\r\n0;x\r\n\r\n", 1, "hello", 0);
	assert_chunked("5;\r\nhello\r\n0;\r\n\r\n", 1, "hello", 0);
	assert_chunked("5;a\nhello\r\n0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5;a\rb\r\nhello\r\n0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5;\x01\r\nhello\r\n0\r\n\r\n", -400, NULL, 0);
}

static void malformed_chunks_are_refused(void **state)
{
	(void)state;
	assert_chunked("\r\n", -400, NULL, 0);
	assert_chunked(";a\r\n", -400, NULL, 0);
	assert_chunked("g\r\n", -400, NULL, 0);
	assert_chunked("0x5\r\nhello\r\n", -400, NULL, 0);
	assert_chunked("+5\r\nhello\r\n", -400, NULL, 0);
	assert_chunked("-1\r\nhello\r\n", -400, NULL, 0);
	assert_chunked(" 5\r\nhello\r\n", -400, NULL, 0);
	assert_chunked("5 \r\nhello\r\n", -400, NULL, 0);
	assert_chunked("5\nhello\r\n", -400, NULL, 0);
	assert_chunked("5\r\rhello\r\n", -400, NULL, 0);
	assert_chunked("5\r\nhello0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5\r\nhello\n0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5\r\nhello\r0\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\n\n", -400, NULL, 0);
	assert_chunked("0\r\n\rx", -400, NULL, 0);
}

static void chunks_beyond_the_limit_are_413(void **state)
{
	const struct http1_request req = {.chunked = true};

	(void)state;
	assert_body(&req, 5, "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 1, "hello", 0);
	assert_body(&req, 5, "3\r\nhel\r\n3\r\nlo!\r\n0\r\n\r\n", -413, NULL, 0);
	assert_body(&req, 5, "6\r\n", -413, NULL, 0);
	assert_body(&req, UINT64_MAX, "1\r\nx\r\nffffffffffffffff\r\n", -413, NULL, 0);
	assert_body(&req, UINT64_MAX, "10000000000000000\r\n", -413, NULL, 0);
	assert_body(&req, UINT64_MAX, "ffffffffffffffff\r\nxyz", 0, NULL, 0);
}

static void trailers_are_checked_and_dropped(void **state)
{
	(void)state;
	assert_chunked("1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\nGET", 1, "x", 3);
	assert_chunked("0\r\nContent-Length: 5\r\nHost: evil\r\n\r\nhello", 1, "", 5);
	assert_chunked("0\r\n folded\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA : b\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\n: b\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA: \x01\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA: b\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA: b\rC: d\r\n\r\n", -400, NULL, 0);
}

/* To the machine: framing cannot cost much more than the body it frames. */
static void endless_framing_is_refused(void **state)
{
	const struct http1_request req = {.chunked = true};
	struct buf wire = {0};
	struct body_run r;

	(void)state;
	buf_add_str(&wire, "1;");
	for (int i = 0; i < HTTP1_CHUNK_EXCESS_BYTES_MAX; i++)
		buf_add_byte(&wire, 'x');
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, -400);
	wire.n = 0;
	for (int i = 0; i < 1000; i++)
		buf_add_str(&wire, "1;0123456789012345678901234567890123456789\r\nx\r\n");
	buf_free(&r.out);
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, -400);
	/* Small chunks with none of it are ordinary, in any number. */
	wire.n = 0;
	for (int i = 0; i < 10000; i++)
		buf_add_str(&wire, "1\r\nx\r\n");
	buf_add_str(&wire, "0\r\n\r\n");
	buf_free(&r.out);
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, 1);
	assert_int_equal(r.out.n, 10000);
	wire.n = 0;
	buf_add_str(&wire, "0\r\n");
	for (int i = 0; i < 1000; i++)
		buf_add_str(&wire, "Abc: defgh\r\n");
	buf_free(&r.out);
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, -431);
	buf_free(&r.out);
	buf_free(&wire);
}

static void a_body_without_memory_is_503(void **state)
{
	const struct http1_request req = {.has_length = true, .content_length = 5};
	struct buf out = {.failed = true};
	struct http1_body b;
	size_t used;

	(void)state;
	http1_body_start(&b, &req, 5);
	assert_int_equal(http1_body_feed(&b, (const uint8_t *)"hello", 5, &used, &out, &why), -503);
}

/* To clients that do not wait: what follows a body is the next request, byte for byte. */
static void pipelined_requests_come_apart_in_order(void **state)
{
	static const char wire[] =
		"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET"
		"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		"3\r\nabc\r\n0\r\nT: u\r\n\r\n"
		"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
		"\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
	static const char *const paths[] = {"/1", "/2", "/3", "/4"};
	static const char *const bodies[] = {"GET", "abc", "", ""};
	const uint8_t *p = (const uint8_t *)wire;
	size_t n = sizeof(wire) - 1, scanned = 0;

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct http1_request req;
		struct http1_body b;
		struct buf out = {0};
		size_t used;

		assert_int_equal(http1_parse(p, n, &limits, &scanned, &req, &why), 1);
		assert_view(req.path, paths[i]);
		assert_int_equal(req.keep_alive, i < 3);
		p += req.head_bytes;
		n -= req.head_bytes;
		http1_body_start(&b, &req, 100);
		assert_int_equal(http1_body_feed(&b, p, n, &used, &out, &why), 1);
		assert_view(buf_bytes(&out), bodies[i]);
		p += used;
		n -= used;
		buf_free(&out);
	}
	assert_int_equal(n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counted_bodies_end_where_they_say),
		cmocka_unit_test(a_2_gb_body_is_counted_without_memory),
		cmocka_unit_test(chunked_bodies_are_put_together),
		cmocka_unit_test(chunk_extensions_are_skipped),
		cmocka_unit_test(malformed_chunks_are_refused),
		cmocka_unit_test(chunks_beyond_the_limit_are_413),
		cmocka_unit_test(trailers_are_checked_and_dropped),
		cmocka_unit_test(endless_framing_is_refused),
		cmocka_unit_test(a_body_without_memory_is_503),
		cmocka_unit_test(pipelined_requests_come_apart_in_order),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("http1_body", tests, NULL, NULL);
}
