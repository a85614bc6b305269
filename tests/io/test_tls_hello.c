/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The ClientHello: is it one, and which certificate fits (io/tls_hello.c). */
#include "tests/io/tls_fixture.h"

/* One feed of bytes; the alert that came back, 0 none, or -1 for something else. */
static int answer_to(struct tls_ctx *s, const void *p, size_t n, size_t cut, bool *not_tls)
{
	struct tls_hs *h = tls_hs_server(s);
	struct buf out = {0};
	enum tls_hs_status status = TLS_HS_WANT_MORE;
	int alert = 0;

	for (size_t used = 0, consumed; used < n && status == TLS_HS_WANT_MORE; used += consumed)
		status = tls_hs_feed(h, (const uint8_t *)p + used,
			cut && n - used > cut ? cut : n - used, &consumed, &out);
	if (status != TLS_HS_FAILED)
		alert = -2;
	else if (out.n == 7 && out.p[0] == 21 && out.p[5] == 2)
		alert = out.p[6];
	else if (out.n != 0)
		alert = -1;
	assert_true(alert == -2 || tls_hs_why(h, not_tls)[0] != 0);
	tls_hs_free(&h);
	buf_free(&out);
	return alert;
}

static void what_is_not_tls_is_told_apart(void **state)
{
	static const struct {
		const char *p;
		size_t n;
		int alert;
		bool not_tls;
	} cases[] = {
		{"GET / HTTP/1.1\r\n\r\n", 18, 0, true},
		{"G", 1, 0, true},
		{"\0\0\0\0", 4, 0, true},
		{"\x80\x2e\x01\x03\x01", 5, 70, true}, /* SSLv2 hello */
		{"\x80\x2e\x02", 3, 0, true},
		{"\xff\xff\xff", 3, 0, true},
		{"\x15\3\3\0\2\2\50", 7, 10, true},        /* an alert */
		{"\x17\3\3\0\1x", 6, 10, true},            /* data */
		{"\x16\2\0\0\1\1", 6, 0, true},            /* not 3.x */
		{"\x16\3\1\0\0", 5, 10, false},            /* empty */
		{"\x16\3\1\x40\1", 5, 22, false},          /* too long */
		{"\x16\3\1\0\5\2\0\0\1\0", 10, 10, true},  /* no ClientHello */
		{"\x16\3\1\0\4\1\0\x50\0", 9, 50, false},  /* 20 KB to come */
		{"\x16\3\1\0\5\1\0\0\1\0", 10, 50, false}, /* cut short */
		{"\x16\3\1\0\4\1\0\0\0", 9, 50, false},
	};
	/* TLS 1.0 and 1.1, and a TLS 1.3 draft only */
	static const uint8_t old_hello[] = {
		22, 3, 1, 0, 4 + 41, 1, 0, 0, 41, 3, 2, [43] = 0, 0, 2, 0xc0, 0x13, 1, 0};
	struct tls_ctx *s = server_with(EC, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (size_t cut = 0; cut < 3; cut++) {
			bool not_tls = false;
			int alert = answer_to(s, cases[i].p, cases[i].n, cut, &not_tls);
			if (alert != cases[i].alert || not_tls != cases[i].not_tls)
				fail_msg("case %zu cut %zu: alert %d, not_tls %d", i, cut, alert,
					not_tls);
		}
	}
	bool not_tls = false;
	assert_int_equal(answer_to(s, old_hello, sizeof(old_hello), 0, &not_tls), 70);
	assert_true(not_tls);
	tls_ctx_unref(&s);
}

/* RFC 8446 5.1: a message may be cut into records anywhere. */
static void a_hello_in_pieces_is_put_together(void **state)
{
	static const size_t cuts[] = {1, 2, 3, 5, 50, 100, 1000};
	struct tls_ctx *s = server_with(EC, NULL);

	(void)state;
	for (int tls12 = 0; tls12 < 2; tls12++) {
		struct tls_ctx *c = client_with(NULL, tls12, false);
		for (size_t k = 0; k < ARRAY_LEN(cuts); k++) {
			struct link *l = link_new(s, c, "mail.example.org", NULL);
			struct buf pieces = {0};
			turn(&l->client, &l->server, 0);
			size_t body = l->server.in.n - 5;
			unsigned records = 0;
			for (size_t at = 0; at < body; at += cuts[k], records++) {
				size_t n = body - at < cuts[k] ? body - at : cuts[k];
				const uint8_t header[5] = {22, 3, 1, (uint8_t)(n >> 8), (uint8_t)n};
				buf_add(&pieces, header, 5);
				buf_add(&pieces, l->server.in.p + 5 + at, n);
			}
			buf_free(&l->server.in);
			l->server.in = pieces;
			shake(l, k % 2 ? 3 : 0);
			if (records > 64) {
				assert_int_equal(l->server.status, TLS_HS_FAILED);
			} else {
				assert_shaken(l);
				detach(l);
				talk(l);
			}
			link_free(l);
		}
		tls_ctx_unref(&c);
	}
	tls_ctx_unref(&s);
}

static void the_certificate_follows_the_name(void **state)
{
	struct tls_ctx *s = server_with(EC | RSA | OTHER, NULL);
	const char *because;

	(void)state;
	assert_true(accepted(s, "ec.pem", "mail.example.org", &because));
	assert_true(accepted(s, "ec.pem", "MAIL.Example.ORG", &because));
	assert_true(accepted(s, "ec.pem", "a.wild.example.org", &because));
	assert_true(accepted(s, "other.pem", "other.example.org", &because));
	assert_true(accepted(s, "rsa.pem", "rsa.example.org", &because));
	/* all three are for localhost: ECDSA wins */
	assert_true(accepted(s, "ec.pem", "localhost", &because));
	assert_false(accepted(s, "rsa.pem", "localhost", &because));
	/* the server's log says what the phone thought of it */
	assert_non_null(strstr(because, "alert from the peer: "));
	/* wildcards stand for one label */
	assert_false(accepted(s, "ec.pem", "a.b.wild.example.org", &because));
	assert_false(accepted(s, "ec.pem", "wild.example.org", &because));
	/* addresses, in any spelling (they are no names: without SNI the first pair is shown) */
	assert_true(accepted(s, "ec.pem", "127.0.0.1", &because));
	assert_true(accepted(s, "ec.pem", "192.0.2.7", &because));
	assert_true(accepted(s, "ec.pem", "::1", &because));
	assert_true(accepted(s, "ec.pem", "0:0::0:1", &because));
	assert_false(accepted(s, "ec.pem", "127.0.0.2", &because));
	assert_false(accepted(s, "ec.pem", "::2", &because));
	assert_false(accepted(s, "other.pem", "127.0.0.1", &because));
	/* nobody's name: the first pair, whose name does not fit */
	assert_false(accepted(s, "other.pem", "unknown.example.org", &because));
	assert_false(accepted(s, "ec.pem", "unknown.example.org", &because));
	tls_ctx_unref(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_tls_is_told_apart),
		cmocka_unit_test(a_hello_in_pieces_is_put_together),
		cmocka_unit_test(the_certificate_follows_the_name),
	};

	return RUN_TLS_TESTS("tls_hello", tests);
}
