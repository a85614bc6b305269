/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The promises of core/eas/gzip.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <zlib.h>

#include "core/base/check.h"
#include "core/eas/gzip.h"

/* `printf hello | gzip -n` */
static const uint8_t hello_gz[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xcb,
	0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x86, 0xa6, 0x10, 0x36, 0x05, 0x00, 0x00, 0x00};

static struct bytes hello(void)
{
	return bytes_of(hello_gz, sizeof(hello_gz));
}

/* A copy of just this size, so that a sanitizer sees a read past the end. */
static int inflate_copy(struct bytes in, uint64_t max, struct buf *out)
{
	uint8_t *p = malloc(in.n ? in.n : 1);
	int k;

	if (in.n)
		memcpy(p, in.p, in.n);
	k = gzip_inflate(bytes_of(p, in.n), max, out);
	free(p);
	return k;
}

static void other_programs_output_is_unpacked(void **state)
{
	struct buf out = {0};

	(void)state;
	buf_add_str(&out, "> ");
	assert_int_equal(inflate_copy(hello(), 5, &out), 1);
	assert_true(bytes_eq_str(buf_bytes(&out), "> hello"));
	buf_free(&out);
}

static void a_name_and_a_comment_in_the_header_are_passed_over(void **state)
{
	/* FEXTRA, FNAME, FCOMMENT */
	static const uint8_t head[] = {
		0x1f, 0x8b, 8, 0x1c, 0, 0, 0, 0, 0, 3, 2, 0, 'x', 'y', 'n', 0, 'c', 0};
	struct buf in = {0}, out = {0};

	(void)state;
	buf_add(&in, head, sizeof(head));
	buf_add(&in, hello_gz + 10, sizeof(hello_gz) - 10);
	assert_int_equal(inflate_copy(buf_bytes(&in), 100, &out), 1);
	assert_true(bytes_eq_str(buf_bytes(&out), "hello"));
	buf_free(&in);
	buf_free(&out);
}

static void several_members_are_one_text(void **state)
{
	struct buf in = {0}, out = {0};

	(void)state;
	for (int i = 0; i < 3; i++)
		buf_add(&in, hello_gz, sizeof(hello_gz));
	assert_int_equal(inflate_copy(buf_bytes(&in), 15, &out), 1);
	assert_true(bytes_eq_str(buf_bytes(&out), "hellohellohello"));
	assert_int_equal(inflate_copy(buf_bytes(&in), 14, &out), -413);
	assert_int_equal(out.n, 15);
	buf_free(&in);
	buf_free(&out);
}

static void max_is_exact(void **state)
{
	(void)state;
	for (size_t n = 0; n < 70000; n += n < 3 ? 1 : n * 3 / 2) {
		uint8_t *data = calloc(n + 1, 1);
		struct buf packed = {0}, out = {0};

		assert_true(gzip_deflate(bytes_of(data, n), &packed));
		assert_int_equal(gzip_inflate(buf_bytes(&packed), n, &out), 1);
		assert_int_equal(out.n, n);
		assert_int_equal(gzip_inflate(buf_bytes(&packed), UINT64_MAX, &out), 1);
		assert_int_equal(out.n, 2 * n);
		if (n > 0)
			assert_int_equal(gzip_inflate(buf_bytes(&packed), n - 1, &out), -413);
		assert_int_equal(out.n, 2 * n);
		buf_free(&packed);
		buf_free(&out);
		free(data);
	}
}

static void every_truncation_is_refused(void **state)
{
	struct buf out = {0};

	(void)state;
	for (size_t n = 0; n < sizeof(hello_gz); n++) {
		assert_int_equal(inflate_copy(bytes_of(hello_gz, n), 100, &out), -400);
		assert_int_equal(out.n, 0);
	}
	buf_free(&out);
}

/* Magic, method, flags, data, CRC and length: none may be off by a bit. Time, extra flags and
 * system (bytes 4 to 9) mean nothing to us, FTEXT (bit 0 of byte 3) neither; the deflate block is
 * 50 bits long, and what fills up its last byte (16) may be anything. */
static void damage_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(hello_gz); i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			uint8_t bad[sizeof(hello_gz)];
			struct buf out = {0};
			int k;

			if ((i >= 4 && i <= 9) || (i == 3 && bit == 0) || (i == 16 && bit >= 2))
				continue;
			memcpy(bad, hello_gz, sizeof(bad));
			bad[i] ^= (uint8_t)(1u << bit);
			k = inflate_copy(bytes_of(bad, sizeof(bad)), 1 << 20, &out);
			assert_int_equal(k, -400);
			assert_int_equal(out.n, 0);
			buf_free(&out);
		}
	}
}

static void garbage_behind_is_refused(void **state)
{
	static const char *const tails[] = {"x", "\x1f", "\x1f\x8b", "\x1f\x8b\x08", "hello"};
	struct buf in = {0}, out = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(tails); i++) {
		in.n = 0;
		buf_add(&in, hello_gz, sizeof(hello_gz));
		buf_add_str(&in, tails[i]);
		assert_int_equal(inflate_copy(buf_bytes(&in), 100, &out), -400);
	}
	in.n = sizeof(hello_gz);
	buf_add_byte(&in, 0); /* padding is garbage too */
	assert_int_equal(inflate_copy(buf_bytes(&in), 100, &out), -400);
	assert_int_equal(out.n, 0);
	buf_free(&in);
	buf_free(&out);
}

static void other_formats_are_refused(void **state)
{
	uint8_t packed[64];
	uLongf n = sizeof(packed);
	struct buf out = {0};

	(void)state;
	assert_int_equal(
		compress(packed, &n, (const Bytef *)"hello", 5), Z_OK); /* zlib, RFC 1950 */
	assert_int_equal(inflate_copy(bytes_of(packed, n), 100, &out), -400);
	assert_int_equal(inflate_copy(bytes_of(packed + 2, n - 6), 100, &out), -400); /* raw */
	assert_int_equal(inflate_copy(bytes_str("\x03\x01\x6a"), 100, &out), -400);
	buf_free(&out);
}

/* To memory: 1 MB that unpacks to 1 GB costs what `max` allows, not what it claims. */
static void a_bomb_stops_at_max(void **state)
{
	enum { ZEROS = 16 << 20 };
	uint8_t *zeros = calloc(1, ZEROS);
	struct buf bomb = {0}, out = {0};

	(void)state;
	for (int i = 0; i < 64; i++)
		assert_true(gzip_deflate(bytes_of(zeros, i ? 0 : ZEROS), &bomb));
	assert_true(bomb.n < ZEROS / 100);
	assert_int_equal(gzip_inflate(buf_bytes(&bomb), 100000, &out), -413);
	assert_int_equal(out.n, 0);
	assert_true(out.cap <= 262144);
	assert_int_equal(gzip_inflate(buf_bytes(&bomb), 0, &out), -413);
	buf_free(&bomb);
	buf_free(&out);
	free(zeros);
}

static void what_is_packed_is_unpacked_again(void **state)
{
	uint32_t x = 1;

	(void)state;
	for (size_t n = 0; n < 300000; n = n * 2 + 1) {
		uint8_t *data = malloc(n + 1);
		struct buf packed = {0}, again = {0}, out = {0};

		for (size_t i = 0; i < n; i++) {
			x = x * 1664525 + 1013904223;
			data[i] = (uint8_t)(n % 2 ? x >> 24 : 'a' + (x >> 30));
		}
		buf_add_str(&packed, "head");
		assert_true(gzip_deflate(bytes_of(data, n), &packed));
		assert_true(gzip_deflate(bytes_of(data, n), &again));
		assert_memory_equal(packed.p, "head", 4);
		assert_true(bytes_eq(bytes_of(packed.p + 4, packed.n - 4), buf_bytes(&again)));
		assert_int_equal(inflate_copy(buf_bytes(&again), n, &out), 1);
		assert_true(bytes_eq(buf_bytes(&out), bytes_of(data, n)));
		buf_free(&packed);
		buf_free(&again);
		buf_free(&out);
		free(data);
	}
}

static void no_memory_is_told(void **state)
{
	struct buf out = {.failed = true};

	(void)state;
	assert_int_equal(gzip_inflate(hello(), 100, &out), -503);
	assert_false(gzip_deflate(bytes_str("hello"), &out));
	assert_int_equal(out.n, 0);
	assert_false(gzip_deflate(bytes_of(hello_gz, (size_t)1 << 31), &out)); /* never read */
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_programs_output_is_unpacked),
		cmocka_unit_test(a_name_and_a_comment_in_the_header_are_passed_over),
		cmocka_unit_test(several_members_are_one_text),
		cmocka_unit_test(max_is_exact),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(damage_is_refused),
		cmocka_unit_test(garbage_behind_is_refused),
		cmocka_unit_test(other_formats_are_refused),
		cmocka_unit_test(a_bomb_stops_at_max),
		cmocka_unit_test(what_is_packed_is_unpacked_again),
		cmocka_unit_test(no_memory_is_told),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("gzip", tests, NULL, NULL);
}
