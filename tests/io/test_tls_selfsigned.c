/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Pairs that we make (io/tls_selfsigned.c). */
#include "tests/io/tls_fixture.h"

#include <sys/stat.h>

static void self_signed_pairs_are_made_once(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL);
	struct stat before, after;
	const char *because;

	(void)state;
	assert_int_equal(stat(path("ec.key"), &before), 0);
	assert_int_equal(before.st_mode & 0777, 0600);
	assert_true(tls_self_signed(
		path("ec.pem"), path("ec.key"), NULL, 0, clock_wall_ms(), why, sizeof(why)));
	assert_int_equal(stat(path("ec.key"), &after), 0);
	assert_int_equal(before.st_ino, after.st_ino);
	/* the operator's other half is not touched */
	assert_false(tls_self_signed(
		path("ec.pem"), path("no.key"), NULL, 0, clock_wall_ms(), why, sizeof(why)));
	assert_non_null(strstr(why, "no.key"));
	assert_int_not_equal(access(path("no.key"), F_OK), 0);
	assert_false(tls_self_signed(
		"/nonexistent/c", "/nonexistent/k", NULL, 0, clock_wall_ms(), why, sizeof(why)));
	assert_non_null(strstr(why, "/nonexistent/k"));
	int64_t days = tls_ctx_expiry_s(s, clock_wall_ms()) / 86400;
	assert_in_range(days, 820, 825);
	assert_true(tls_ctx_expiry_s(s, clock_wall_ms() + 4000ull * 86400 * 1000) < 0);
	assert_true(accepted(s, "ec.pem", "localhost", &because));
	tls_ctx_unref(&s);
	/* the first to expire counts, and a date past 2050 is read */
	s = server_with(RSA | EC, NULL);
	assert_in_range(tls_ctx_expiry_s(s, clock_wall_ms()) / 86400, 820, 825);
	tls_ctx_unref(&s);
	s = server_with(RSA, NULL);
	assert_true(tls_ctx_expiry_s(s, 1800000000000) / 86400 > 36000);
	tls_ctx_unref(&s);
}

static void copy_file(const char *from, const char *to)
{
	static char text[20000];
	FILE *f = fopen(path(from), "r");
	size_t n;

	assert_non_null(f);
	n = fread(text, 1, sizeof(text), f);
	fclose(f);
	put_file(to, text, n);
}

/* To who installed our certificate on phones: a new one comes before the old one ends, with the same key, so
 * that those who trust the old one trust it too. */
static void self_signed_pairs_are_renewed_before_their_end(void **state)
{
	const char *const names[] = {"other.example.org"};
	const uint64_t day = 86400000, now = clock_wall_ms();
	struct stat key, cert, then;
	struct tls_ctx *s;
	const char *because;

	(void)state;
	copy_file("other.pem", "old.pem");
	copy_file("other.pem", "own.pem");
	copy_file("other.key", "own.key");
	assert_int_equal(stat(path("own.pem"), &cert), 0);
	assert_int_equal(stat(path("own.key"), &key), 0);
	assert_true(tls_self_signed(
		path("own.pem"), path("own.key"), names, 1, now + 790 * day, why, sizeof(why)));
	assert_int_equal(stat(path("own.pem"), &then), 0);
	assert_int_equal(cert.st_ino, then.st_ino);
	assert_true(tls_self_signed(
		path("own.pem"), path("own.key"), names, 1, now + 800 * day, why, sizeof(why)));
	assert_int_equal(stat(path("own.pem"), &then), 0);
	assert_int_not_equal(cert.st_ino, then.st_ino);
	assert_int_equal(stat(path("own.key"), &then), 0);
	assert_int_equal(key.st_ino, then.st_ino);
	struct tls_pair pair = {path("own.pem"), path("own.key")};
	s = tls_server_new(
		&(struct tls_options){.pairs = &pair, .pair_count = 1}, why, sizeof(why));
	assert_non_null(s);
	assert_true(accepted(s, "own.pem", "other.example.org", &because));
	assert_true(accepted(s, "old.pem", "other.example.org", &because));
	tls_ctx_unref(&s);
	/* What cannot be renewed (here: no key of ours) serves on. */
	copy_file("rsa.key", "own.key");
	assert_true(tls_self_signed(
		path("own.pem"), path("own.key"), names, 1, now + 800 * day, why, sizeof(why)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(self_signed_pairs_are_made_once),
		cmocka_unit_test(self_signed_pairs_are_renewed_before_their_end),
	};

	return RUN_TLS_TESTS("tls_selfsigned", tests);
}
