/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Records in, records out (io/tls_handshake.c, io/tls_wolf.c). */
#include "tests/io/tls_fixture.h"

#include <malloc.h>

static size_t heap_bytes(void)
{
	return mallinfo2().uordblks;
}

/* To the machine: silence and nonsense cost next to nothing. */
static void nothing_is_made_before_a_whole_hello(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, false);
	struct tls_hs *many[200];
	struct buf out = {0};
	size_t consumed;

	(void)state;
	struct link *l = link_new(s, c, NULL, NULL);
	turn(&l->client, &l->server, 0);
	size_t before = heap_bytes();
	for (size_t i = 0; i < ARRAY_LEN(many); i++) {
		many[i] = tls_hs_server(s);
		assert_int_equal(
			tls_hs_feed(many[i], l->server.in.p, l->server.in.n - 1, &consumed, &out),
			TLS_HS_WANT_MORE);
	}
	size_t each = (heap_bytes() - before) / ARRAY_LEN(many);
	print_message("# %zu bytes per unfinished hello of %zu\n", each, l->server.in.n);
	if (before) /* a sanitizer's allocator does not count */
		assert_true(each < 2048);
	assert_int_equal(out.n, 0);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		tls_hs_free(&many[i]);
	link_free(l);
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
}

static void memory_comes_back(void **state)
{
	enum { ROUNDS = 5, FLIGHT = 50 };
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, false);
	struct link *l[FLIGHT];
	size_t before = 0, during = 0, after;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		/* the first rounds fill caches that stay */
		if (round == 2)
			before = heap_bytes();
		for (int i = 0; i < FLIGHT; i++)
			l[i] = link_new(s, c, NULL, NULL);
		for (int i = 0; i < FLIGHT; i++)
			turn(&l[i]->client, &l[i]->server, 0);
		size_t without = heap_bytes();
		for (int i = 0; i < FLIGHT; i++)
			turn(&l[i]->server, &l[i]->client, 0);
		during = (heap_bytes() - without) / FLIGHT;
		for (int i = 0; i < FLIGHT; i++) {
			shake(l[i], 0);
			assert_shaken(l[i]);
			link_free(l[i]);
		}
	}
	after = heap_bytes();
	print_message("# %zu bytes per server handshake in flight\n", during);
	if (before) {
		assert_true(during < 80000);
		assert_true(after < before + 65536); /* freed chunks in caches count */
	}
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
}

/* A phone need not wait for anything before it sends its request. */
static void early_bytes_stay_with_the_caller(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL);

	(void)state;
	for (int tls12 = 0; tls12 < 2; tls12++) {
		struct tls_ctx *c = client_with(NULL, tls12, false);
		struct link *l = link_new(s, c, NULL, NULL);
		const char *because;
		for (int i = 0; i < 4 && l->client.status != TLS_HS_DONE; i++) {
			turn(&l->client, &l->server, 0);
			if (l->client.status != TLS_HS_DONE)
				turn(&l->server, &l->client, 0);
		}
		assert_true(tls_hs_detach(l->client.hs, &l->client.rec, &because));
		/* TLS 1.3: the Finished and the request arrive together */
		uint8_t *p = buf_room(&l->server.in, 200);
		size_t sealed = tlsrec_seal(&l->client.rec, (const uint8_t *)"early", 5, p);
		l->server.in.n += sealed;
		if (l->server.status != TLS_HS_DONE)
			turn(&l->server, &l->client, 0);
		assert_int_equal(l->server.status, TLS_HS_DONE);
		assert_int_equal(l->server.in.n, sealed);
		assert_true(tls_hs_detach(l->server.hs, &l->server.rec, &because));
		struct tlsrec_in in;
		tlsrec_open(&l->server.rec, l->server.in.p, l->server.in.n, &in);
		assert_int_equal(in.result, TLSREC_DATA);
		assert_int_equal(in.data_bytes, 5);
		l->server.in.n = 0;
		talk(l);
		link_free(l);
		tls_ctx_unref(&c);
	}
	tls_ctx_unref(&s);
}

/* Every byte of the client's messages, changed: refused or, at worst, ignored; never believed. */
static void changed_handshakes_are_refused(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL);
	unsigned done = 0, tried = 0;

	(void)state;
	for (int tls12 = 0; tls12 < 2; tls12++) {
		struct tls_ctx *c = client_with(NULL, tls12, false);
		size_t hello_bytes = 1, at;
		for (at = 0; at < hello_bytes; at += 3) {
			struct link *l = link_new(s, c, "localhost", NULL);
			turn(&l->client, &l->server, 0);
			hello_bytes = l->server.in.n;
			l->server.in.p[at] ^= 0x41;
			shake(l, 0);
			tried++;
			if (l->server.status == TLS_HS_DONE)
				done++;
			link_free(l);
		}
		/* the second flight */
		size_t flight_bytes = 1;
		for (at = 0; at < flight_bytes; at++) {
			struct link *l = link_new(s, c, "localhost", NULL);
			turn(&l->client, &l->server, 0);
			turn(&l->server, &l->client, 0);
			turn(&l->client, &l->server, 0);
			flight_bytes = l->server.in.n;
			l->server.in.p[at] ^= 0x41;
			shake(l, 0);
			tried++;
			if (l->server.status == TLS_HS_DONE)
				done++;
			link_free(l);
		}
		tls_ctx_unref(&c);
	}
	/* The record version is to be ignored (RFC 8446 5.1), change_cipher_spec carries nothing.
	 */
	print_message("# %u of %u changed handshakes done\n", done, tried);
	assert_true(tried > 200);
	assert_true(done <= 8);
	tls_ctx_unref(&s);
}

static void a_handshake_has_an_end(void **state)
{
	static const uint8_t ccs[6] = {20, 3, 3, 0, 1, 1};
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, false);
	struct link *l = link_new(s, c, NULL, NULL);
	size_t consumed, fed = 0;
	enum tls_hs_status status = TLS_HS_WANT_MORE;

	(void)state;
	turn(&l->client, &l->server, 0);
	turn(&l->server, &l->client, 0);
	while (status == TLS_HS_WANT_MORE && fed < 100000) {
		status = tls_hs_feed(l->server.hs, ccs, sizeof(ccs), &consumed, &l->client.in);
		fed += sizeof(ccs);
	}
	assert_int_equal(status, TLS_HS_FAILED);
	assert_true(fed <= 66000);
	/* and stays at it */
	status = tls_hs_feed(l->server.hs, ccs, sizeof(ccs), &consumed, &l->client.in);
	assert_int_equal(status, TLS_HS_FAILED);
	assert_int_equal(consumed, sizeof(ccs));
	assert_false(tls_hs_finished(l->server.hs));
	link_free(l);
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_made_before_a_whole_hello),
		cmocka_unit_test(memory_comes_back),
		cmocka_unit_test(early_bytes_stay_with_the_caller),
		cmocka_unit_test(changed_handshakes_are_refused),
		cmocka_unit_test(a_handshake_has_an_end),
	};

	return RUN_TLS_TESTS("tls_handshake", tests);
}
