/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/tls_hash.c by way of wolfSSL, against the standard's examples and another library. */
#include <wolfssl/options.h>
#include <wolfssl/wolfcrypt/settings.h>
#include <wolfssl/wolfcrypt/sha256.h>

#include <sodium.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void hash(const uint8_t *p, size_t n, size_t piece, uint8_t out[32])
{
	wc_Sha256 s;

	assert_int_equal(wc_InitSha256(&s), 0);
	for (size_t at = 0; at < n; at += piece)
		assert_int_equal(
			wc_Sha256Update(&s, p + at, (word32)(n - at < piece ? n - at : piece)), 0);
	assert_int_equal(wc_Sha256Final(&s, out), 0);
	wc_Sha256Free(&s);
}

/* To everybody: FIPS 180-2, appendix B. */
static void the_examples_of_the_standard(void **state)
{
	static const struct {
		const char *text, *digest;
	} examples[] = {
		{"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
			"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
		{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
		uint8_t out[32];
		char hex[65];

		hash((const uint8_t *)examples[i].text, strlen(examples[i].text), 64, out);
		sodium_bin2hex(hex, sizeof(hex), out, sizeof(out));
		assert_string_equal(hex, examples[i].digest);
	}
}

/* To every handshake: any length, any pieces, at any address. */
static void another_library_agrees(void **state)
{
	static uint8_t text[5000 + 16];
	uint8_t ours[32], theirs[32];

	(void)state;
	randombytes_buf_deterministic(text, sizeof(text), (const uint8_t[32]){1});
	for (size_t n = 0; n < 5000; n += n < 300 ? 1 : 97)
		for (size_t piece = 1; piece <= 1000; piece = piece * 3 + n % 5) {
			const uint8_t *p = text + (n + piece) % 16;

			hash(p, n, piece, ours);
			crypto_hash_sha256(theirs, p, n);
			assert_memory_equal(ours, theirs, 32);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_examples_of_the_standard),
		cmocka_unit_test(another_library_agrees),
	};

	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests_name("tls_hash", tests, NULL, NULL);
}
