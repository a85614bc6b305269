/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What stays of a finished handshake (io/tls_detach.c). */
#include "tests/io/tls_fixture.h"

/* To every phone: whichever suite it speaks, data flows both ways after the detach, however the
 * network cuts the handshake. */
static void every_suite_detaches_in_both_roles(void **state)
{
	static const size_t cuts[] = {0, 1, 7, 1400};
	struct tls_ctx *s = server_with(EC | RSA, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(suites); i++) {
		bool tls12 = strcmp(suites[i].version, "TLSv1.2") == 0;
		struct tls_ctx *c = client_with(suites[i].wolf, tls12, false);
		for (size_t k = 0; k < ARRAY_LEN(cuts); k++) {
			struct link *l = link_new(s, c, NULL, NULL);
			shake(l, cuts[k]);
			assert_shaken(l);
			assert_string_equal(tls_hs_version(l->server.hs), suites[i].version);
			assert_string_equal(tls_hs_cipher(l->server.hs), suites[i].name);
			assert_string_equal(tls_hs_cipher(l->client.hs), suites[i].name);
			assert_false(tls_hs_resumed(l->server.hs));
			detach(l);
			/* still there after the library's session is gone */
			assert_string_equal(tls_hs_cipher(l->server.hs), suites[i].name);
			talk(l);
			link_free(l);
		}
		tls_ctx_unref(&c);
	}
	tls_ctx_unref(&s);
}

/* The secrets taken along are the right ones: both sides can renew their keys. */
static void key_updates_work_after_the_detach(void **state)
{
	struct tls_ctx *s = server_with(EC | RSA, NULL);

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct tls_ctx *c = client_with(suites[i].wolf, false, true);
		struct link *l = link_new(s, c, NULL, NULL);
		uint8_t update[TLSREC_REPLY_MAX];
		struct tlsrec_in in, back;
		shake(l, 0);
		assert_shaken(l);
		detach(l);
		for (int k = 0; k < 6; k++) {
			struct end *from = k % 2 ? &l->server : &l->client;
			struct end *to = k % 2 ? &l->client : &l->server;
			size_t n = tlsrec_key_update(&from->rec, true, update);
			tlsrec_open(&to->rec, update, n, &in);
			assert_int_equal(in.result, TLSREC_HANDLED);
			tlsrec_open(&from->rec, in.reply, in.reply_bytes, &back);
			assert_int_equal(back.result, TLSREC_HANDLED);
			talk(l);
		}
		link_free(l);
		tls_ctx_unref(&c);
	}
	tls_ctx_unref(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_suite_detaches_in_both_roles),
		cmocka_unit_test(key_updates_work_after_the_detach),
	};

	return RUN_TLS_TESTS("tls_detach", tests);
}
