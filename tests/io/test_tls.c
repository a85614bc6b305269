/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Handshakes in memory: server and client by io/tls, records by io/tlsrec afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/tls.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* localhost and rsa.example.org, until 2126. A test key: it guards nothing. */
static const char rsa_certificate[] =
	"-----BEGIN CERTIFICATE-----\n"
	"MIIDPjCCAiagAwIBAgIUGKtTEIRqFzubtFcLvnQtgnLHPAcwDQYJKoZIhvcNAQEL\n"
	"BQAwGjEYMBYGA1UEAwwPcnNhLmV4YW1wbGUub3JnMCAXDTI2MTEyMDExMTUxNVoY\n"
	"DzIxMjYxMDI3MTExNTE1WjAaMRgwFgYDVQQDDA9yc2EuZXhhbXBsZS5vcmcwggEi\n"
	"MA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCvBV4jHbsc11n2eEysTzUpvNy6\n"
	"lEaKxSEU0FJwZcCxYOhFytQhF1wqzubCBONlpRkQzwS2HuTLHLlHpFghLW7quFXo\n"
	"5AuF6hLCB5SBGeeXH3v3+TQ2GQ3PnPzurWrLTlTWu15ohDNCDgU4P2RhCVZbeCEV\n"
	"6w0/71YzZMe1NT8lqyjyXKEMCaM6dPHkL16ycYZPsF9kCinDdUyUTL/Xvt/EHKO/\n"
	"T5gw7BUWecMDEhYP2RewIFElaKoHUV4h3j96sznCPRPg1X4TcUkiLbnWEb6CrcJ6\n"
	"ln7Dn5rL1DUV3ZO5AwPyWD7dolmyOvK+cQQZsL4jTb2C/8/uovDDmYXfNHELAgMB\n"
	"AAGjejB4MB0GA1UdDgQWBBSNo6z6L1xcAYci0NJbOYZiTW4QnjAfBgNVHSMEGDAW\n"
	"gBSNo6z6L1xcAYci0NJbOYZiTW4QnjAPBgNVHRMBAf8EBTADAQH/MCUGA1UdEQQe\n"
	"MByCCWxvY2FsaG9zdIIPcnNhLmV4YW1wbGUub3JnMA0GCSqGSIb3DQEBCwUAA4IB\n"
	"AQAmsKIN1K+oi4ZFNujQ3tB4DzQseg2tqdbSrIhxpksFnzDL9QjAK3oT2Q4F1Wh8\n"
	"jSu13oJdC2PZ7xGVmrjuCsvpdAX7NexORo42RO8Mtl9fprn/ISnPFmqyTRUeRb4m\n"
	"BqSGyvdlIAmDQD+/Zpcv0BbKDBVfrsvWePNI+zfo/wFqh9jzvbFBklAlL6cLqyIB\n"
	"sF6aALstI2dGKrWDYUBCPao87uHVDWYcCBYZm/ggMrhzyX+rzYPHgePxZy14w7YG\n"
	"9HezNGsl2Rf6yYvcd9Nf6bsdtOGvNiJuTABs2sacw8nL3MrJR/vKjh37Y9K2DygV\n"
	"FiP/jkfE+R1gn+6vsozISXWf\n"
	"-----END CERTIFICATE-----\n";
static const char rsa_key[] = "-----BEGIN PRIVATE KEY-----\n"
			      "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCvBV4jHbsc11n2\n"
			      "eEysTzUpvNy6lEaKxSEU0FJwZcCxYOhFytQhF1wqzubCBONlpRkQzwS2HuTLHLlH\n"
			      "pFghLW7quFXo5AuF6hLCB5SBGeeXH3v3+TQ2GQ3PnPzurWrLTlTWu15ohDNCDgU4\n"
			      "P2RhCVZbeCEV6w0/71YzZMe1NT8lqyjyXKEMCaM6dPHkL16ycYZPsF9kCinDdUyU\n"
			      "TL/Xvt/EHKO/T5gw7BUWecMDEhYP2RewIFElaKoHUV4h3j96sznCPRPg1X4TcUki\n"
			      "LbnWEb6CrcJ6ln7Dn5rL1DUV3ZO5AwPyWD7dolmyOvK+cQQZsL4jTb2C/8/uovDD\n"
			      "mYXfNHELAgMBAAECggEAChcXocbYuKVyHzafr2SgboF5m9u18Df3aJR7PdXUuzhl\n"
			      "VU/uIeHcY1Vq67wBAvIQbpRYzUnqEj51Y68SxTrlOAZpLlRZyITBqkqdYg7RxLf0\n"
			      "DpkUTJtUkGflelP1VVCoE62MS4WpOA4uq9r8jDTP5zvj2gUjZ7bowKBdr4TcP21O\n"
			      "YcxuePgQIy+TU5O4BYRSGPAXQgdYNxRwTKkTXdxJsMrI8dcnLvQvd06Dp0xZMrWx\n"
			      "GvXGuhUgHKrkmhZC0vhJc+gUJp3arGSpYL5E2s8HO+GHNy3vf3s1aeZ0kA45Nbtw\n"
			      "aKDT6p7BFOnel0dfduG6T7603t0JTp84PFm4eFaW9QKBgQDy4Qtk/T/9g5bCUZKq\n"
			      "UcbOsJnrLlvuvEU1f1Wd5AOSbEkBbxa3CFwZJGA1FbewwqmoKeY6Gw8Ag6UhB9o7\n"
			      "uX0cd5Jv5HhngfqXnrZtolsXBD3IeU1J1pvirLm8k5REukmTS4lc53PIUtE2RKbn\n"
			      "rOkSlakvG6boHBVWZ32TMZ04RQKBgQC4edzmkGT7l0XRGQ5UlSrozs7/2+CjOHgt\n"
			      "LU4FLkME9h5OAPEazCVxvuREfH4vMCqXEdFVmE7EeYQVCFBQLj/SfX6WxF0OEYhM\n"
			      "V0eSKTE2yf5z5zQWxEzF+8/OjrawOFxLRDOJdpETxSFyoDx/2+R5L5HvoLxPuKl5\n"
			      "PjYx6rxhDwKBgEJSgbIKFbc8f6aAb/RicE9wmhdGiYQflSaOpup+oRsSxrzFgQZq\n"
			      "GfwjmsHkNEzoWzu4dU3YpbgWOrlSU52LgUaMwEgds2NQcwWEKXy2oPkgB17/AMPw\n"
			      "/pBfaji8c/hwhjbaoZ/k9BD3zHltNcZ9yQdyJsjeXC11vb3idMAFBFGhAoGAKNw1\n"
			      "JYyOEXvsJuhZ2DpCCtbj2qAlHYIAfGEwis04YvzwsW5b+QeGs68IeHLqsCEHDfcQ\n"
			      "WtkleTdBHjd9MoVL9Z9+Tn6n7dnMSrx6SdF96RjMl3d6fiB0sNWZrbLGnDmfl7w/\n"
			      "fg8ZCzv6sJz1SYy3CnCS7nS3wSCxyP0Sm/PWTdkCgYEAnxgkZjEIC1nF+wGhCP62\n"
			      "WbUDhIpc8w2Zr8A6rvh2+e5Ldu8+W4W0WzvJsPtaup9CUd8I8kZ3zSnXf5HvcM9r\n"
			      "sW4Ljc9Zbp8532dQSQv4Pd21PaxI2xXoxRKhtMwwpTmEZsmdidf7aqIDjJoonYLs\n"
			      "fXtTUm/VqZSNMTYD05uPLZk=\n"
			      "-----END PRIVATE KEY-----\n";

static char dir[] = "/tmp/roost-test-tls-XXXXXX";
static char why[512];
static uint64_t clock_offset_ms;

static uint64_t test_wall_ms(void)
{
	return clock_wall_ms() + clock_offset_ms;
}

static const char *path(const char *name)
{
	static char ring[8][128];
	static unsigned next;
	char *p = ring[next++ % ARRAY_LEN(ring)];

	snprintf(p, sizeof(ring[0]), "%s/%s", dir, name);
	return p;
}

static void put_file(const char *name, const void *p, size_t n)
{
	FILE *f = fopen(path(name), "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	fclose(f);
}

static int make_files(void **state)
{
	const char *const ec_names[] = {"mail.example.org", "*.wild.example.org", "192.0.2.7"};
	const char *const other_names[] = {"other.example.org"};

	(void)state;
	if (!mkdtemp(dir))
		return -1;
	put_file("rsa.pem", rsa_certificate, strlen(rsa_certificate));
	put_file("rsa.key", rsa_key, strlen(rsa_key));
	if (!tls_self_signed(path("ec.pem"), path("ec.key"), ec_names, ARRAY_LEN(ec_names),
		    clock_wall_ms(), why, sizeof(why)) ||
		!tls_self_signed(path("other.pem"), path("other.key"), other_names, 1,
			clock_wall_ms(), why, sizeof(why))) {
		print_error("%s\n", why);
		return -1;
	}
	return 0;
}

static int remove_files(void **state)
{
	static const char *const names[] = {"rsa.pem", "rsa.key", "ec.pem", "ec.key", "other.pem",
		"other.key", "junk", "chain.pem", "old.pem", "own.pem", "own.key"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unlink(path(names[i]));
	return rmdir(dir);
}

enum { EC = 1, RSA = 2, OTHER = 4 };

static struct tls_ctx *server_with(unsigned which, const uint8_t *seed)
{
	struct tls_pair pairs[3];
	size_t n = 0;

	if (which & EC)
		pairs[n++] = (struct tls_pair){path("ec.pem"), path("ec.key")};
	if (which & RSA)
		pairs[n++] = (struct tls_pair){path("rsa.pem"), path("rsa.key")};
	if (which & OTHER)
		pairs[n++] = (struct tls_pair){path("other.pem"), path("other.key")};
	struct tls_options o = {
		.pairs = pairs, .pair_count = n, .ticket_seed = seed, .wall_ms = test_wall_ms};
	struct tls_ctx *c = tls_server_new(&o, why, sizeof(why));
	if (!c)
		print_error("%s\n", why);
	assert_non_null(c);
	return c;
}

static struct tls_ctx *client_with(const char *ciphers, bool tls12_only, bool want_ticket)
{
	struct tls_client_options o = {
		.ciphers = ciphers, .tls12_only = tls12_only, .want_ticket = want_ticket};
	struct tls_ctx *c = tls_client_new(&o, why, sizeof(why));

	assert_non_null(c);
	return c;
}

/* One end: its handshake and the bytes on their way to it. */
struct end {
	struct tls_hs *hs;
	struct buf in;
	enum tls_hs_status status;
	struct tlsrec rec;
};

struct link {
	struct end server, client;
};

/* Gives an end its input, in pieces of `cut` bytes, and the answer to the other end. */
static void turn(struct end *to, struct end *from, size_t cut)
{
	size_t used = 0;

	do {
		size_t n = to->in.n - used, consumed;
		if (cut && n > cut)
			n = cut;
		if (to->status != TLS_HS_WANT_MORE)
			break;
		to->status = tls_hs_feed(to->hs, to->in.p + used, n, &consumed, &from->in);
		used += consumed;
		assert_true(to->status == TLS_HS_DONE || consumed == n);
	} while (used < to->in.n);
	memmove(to->in.p, to->in.p + used, to->in.n - used);
	to->in.n -= used;
}

static void shake(struct link *l, size_t cut)
{
	for (int i = 0; i < 10; i++) {
		turn(&l->client, &l->server, cut);
		turn(&l->server, &l->client, cut);
	}
}

static struct link *link_new(
	struct tls_ctx *s, struct tls_ctx *c, const char *name, const struct tls_session *session)
{
	struct link *l = calloc(1, sizeof(*l));

	l->server.hs = tls_hs_server(s);
	l->client.hs = tls_hs_client(c, name, session);
	assert_non_null(l->server.hs);
	assert_non_null(l->client.hs);
	l->client.in.p = malloc(1);
	l->server.in.p = malloc(1);
	return l;
}

static void assert_shaken(struct link *l)
{
	bool not_tls;

	if (l->server.status != TLS_HS_DONE || l->client.status != TLS_HS_DONE)
		print_error("server %d %s, client %d %s\n", l->server.status,
			tls_hs_why(l->server.hs, &not_tls), l->client.status,
			tls_hs_why(l->client.hs, &not_tls));
	assert_int_equal(l->server.status, TLS_HS_DONE);
	assert_int_equal(l->client.status, TLS_HS_DONE);
}

static void detach(struct link *l)
{
	const char *because = "";

	if (!tls_hs_detach(l->server.hs, &l->server.rec, &because) ||
		!tls_hs_detach(l->client.hs, &l->client.rec, &because))
		fail_msg("detach: %s", because);
}

/* Sends text from one end to the other through the record layer. */
static void pass(struct end *from, struct end *to, const char *text, size_t n)
{
	struct tlsrec_in in;
	uint8_t *p = buf_room(&to->in, tlsrec_sealed_bytes(&from->rec, n));

	to->in.n += tlsrec_seal(&from->rec, (const uint8_t *)text, n, p);
	for (;;) {
		tlsrec_open(&to->rec, to->in.p, to->in.n, &in);
		if (in.result == TLSREC_ERROR)
			fail_msg("open: %s", in.why);
		assert_int_equal(in.reply_bytes, 0);
		if (in.result == TLSREC_DATA) {
			assert_int_equal(in.data_bytes, n);
			assert_memory_equal(in.data, text, n);
		}
		memmove(to->in.p, to->in.p + in.consumed, to->in.n - in.consumed);
		to->in.n -= in.consumed;
		if (in.result == TLSREC_DATA)
			break;
		assert_int_equal(in.result, TLSREC_HANDLED); /* a ticket */
	}
	assert_int_equal(to->in.n, 0);
}

static void talk(struct link *l)
{
	static char big[TLSREC_PLAIN_MAX];

	for (int i = 0; i < 3; i++) {
		pass(&l->client, &l->server, "OPTIONS / HTTP/1.1\r\n\r\n", 22);
		pass(&l->server, &l->client, "HTTP/1.1 200 OK\r\n\r\n", 19);
	}
	pass(&l->client, &l->server, big, sizeof(big));
	pass(&l->server, &l->client, big, sizeof(big));
	pass(&l->server, &l->client, big, 1);
}

static void link_free(struct link *l)
{
	tls_hs_free(&l->server.hs);
	tls_hs_free(&l->client.hs);
	buf_free(&l->server.in);
	buf_free(&l->client.in);
	tlsrec_wipe(&l->server.rec);
	tlsrec_wipe(&l->client.rec);
	free(l);
}

static const struct {
	const char *wolf, *name, *version;
	unsigned key;
} suites[] = {
	{"TLS13-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256", "TLSv1.3", EC},
	{"TLS13-AES256-GCM-SHA384", "TLS_AES_256_GCM_SHA384", "TLSv1.3", EC},
	{"TLS13-CHACHA20-POLY1305-SHA256", "TLS_CHACHA20_POLY1305_SHA256", "TLSv1.3", RSA},
	{"ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLSv1.2", EC},
	{"ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLSv1.2", EC},
	{"ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
		"TLSv1.2", EC},
	{"ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLSv1.2", RSA},
	{"ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLSv1.2", RSA},
	{"ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "TLSv1.2",
		RSA},
};

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

/* Connects and disconnects once; the session for next time when there is one. */
static bool connect_once(struct tls_ctx *s, struct tls_ctx *c, struct tls_session **session)
{
	struct link *l = link_new(s, c, "localhost", *session);

	shake(l, 0);
	assert_shaken(l);
	bool resumed = tls_hs_resumed(l->server.hs);
	assert_int_equal(tls_hs_resumed(l->client.hs), resumed);
	tls_session_free(session);
	*session = tls_hs_session(l->client.hs);
	detach(l);
	talk(l);
	link_free(l);
	return resumed;
}

/* To a phone that comes back: half the handshake, in both versions, on any thread's context. */
static void sessions_resume(void **state)
{
	struct tls_ctx *s = server_with(EC | RSA, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(suites); i++) {
		bool tls12 = strcmp(suites[i].version, "TLSv1.2") == 0;
		struct tls_ctx *c = client_with(suites[i].wolf, tls12, true);
		struct tls_session *session = NULL;
		assert_false(connect_once(s, c, &session));
		for (int k = 0; k < 3; k++) {
			/* Only TLS 1.3 gives a new ticket each time. */
			if (!session)
				break;
			assert_true(connect_once(s, c, &session));
		}
		assert_true(tls12 || session != NULL);
		tls_session_free(&session);
		tls_ctx_unref(&c);
	}
	tls_ctx_unref(&s);
}

static void tickets_live_for_two_periods(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL);

	(void)state;
	for (int tls12 = 0; tls12 < 2; tls12++) {
		struct tls_ctx *c = client_with(NULL, tls12, true);
		struct tls_session *session = NULL;
		clock_offset_ms = 0;
		assert_false(connect_once(s, c, &session));
		assert_non_null(session);
		clock_offset_ms += 3600 * 1000;
		assert_true(connect_once(s, c, &session));
		/* wolfSSL 5.5.4 renews no TLS 1.2 ticket, and as a client cannot have one
		 * declined; tests/e2e/tls_clients.sh does that with OpenSSL. */
		if (tls12) {
			tls_session_free(&session);
			tls_ctx_unref(&c);
			break;
		}
		assert_non_null(session);
		clock_offset_ms += 3600 * 1000;
		assert_true(connect_once(s, c, &session));
		assert_non_null(session);
		clock_offset_ms += 2 * 3600 * 1000;
		assert_false(connect_once(s, c, &session));
		assert_non_null(session);
		/* Another node may be a period ahead, not more. */
		clock_offset_ms -= 3600 * 1000;
		assert_true(connect_once(s, c, &session));
		tls_session_free(&session);
		tls_ctx_unref(&c);
	}
	clock_offset_ms = 0;
	tls_ctx_unref(&s);
}

/* To whoever runs several nodes, or reloads certificates: one seed, one set of tickets. */
static void tickets_travel_with_the_seed(void **state)
{
	static const uint8_t seed[32] = "the same on every node of these";
	static const uint8_t other_seed[32] = "somebody else";

	(void)state;
	for (int tls12 = 0; tls12 < 2; tls12++) {
		struct tls_ctx *one = server_with(EC, seed), *two = server_with(EC | RSA, seed);
		struct tls_ctx *stranger = server_with(EC, other_seed);
		struct tls_ctx *unseeded = server_with(EC, NULL);
		struct tls_ctx *c = client_with(NULL, tls12, true);
		struct tls_session *session = NULL;
		assert_false(connect_once(one, c, &session));
		struct tls_session *kept = session;
		session = NULL;
		struct link *l = link_new(two, c, NULL, kept);
		shake(l, 0);
		assert_shaken(l);
		assert_true(tls_hs_resumed(l->server.hs));
		link_free(l);
		/* what a reload and an upgrade do */
		uint8_t copied[TLS_TICKET_SEED_BYTES];
		tls_ctx_ticket_seed(unseeded, copied);
		struct tls_ctx *heir = server_with(RSA | EC, copied);
		struct tls_session *of_unseeded = NULL;
		assert_false(connect_once(unseeded, c, &of_unseeded));
		assert_true(connect_once(heir, c, &of_unseeded));
		tls_session_free(&of_unseeded);
		tls_ctx_unref(&heir);
		/* a foreign ticket costs a full handshake, nothing else */
		struct tls_ctx *const others[] = {stranger, unseeded};
		for (size_t i = 0; !tls12 && i < ARRAY_LEN(others); i++) {
			l = link_new(others[i], c, NULL, kept);
			shake(l, 0);
			assert_shaken(l);
			assert_false(tls_hs_resumed(l->server.hs));
			detach(l);
			talk(l);
			link_free(l);
		}
		tls_session_free(&kept);
		tls_ctx_unref(&one);
		tls_ctx_unref(&two);
		tls_ctx_unref(&stranger);
		tls_ctx_unref(&unseeded);
		tls_ctx_unref(&c);
	}
}

/* To the test phones: DONE waits for the ticket, and the wait can be given up. */
static void a_client_can_wait_for_its_ticket(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, true);
	struct link *l = link_new(s, c, NULL, NULL);
	const char *because;

	(void)state;
	turn(&l->client, &l->server, 0);
	turn(&l->server, &l->client, 0);
	turn(&l->client, &l->server, 0); /* the server's flight: finished, but no ticket yet */
	assert_true(tls_hs_finished(l->client.hs));
	assert_int_equal(l->client.status, TLS_HS_WANT_MORE);
	assert_null(tls_hs_session(l->client.hs));
	turn(&l->server, &l->client, 0);
	assert_int_equal(l->server.status, TLS_HS_DONE);
	/* gives up: the ticket is then left to the record layer, which skips it */
	assert_true(tls_hs_detach(l->client.hs, &l->client.rec, &because));
	assert_true(tls_hs_detach(l->server.hs, &l->server.rec, &because));
	talk(l);
	link_free(l);
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
}

/* Whether a client that trusts only `ca` accepts what the server shows for `name`. */
static bool accepted(struct tls_ctx *s, const char *ca, const char *name, const char **why_out)
{
	struct tls_client_options o = {.ca_file = path(ca)};
	struct tls_ctx *c = tls_client_new(&o, why, sizeof(why));
	bool not_tls;

	assert_non_null(c);
	struct link *l = link_new(s, c, name, NULL);
	shake(l, 0);
	bool yes = l->client.status == TLS_HS_DONE;
	if (yes)
		assert_shaken(l);
	else
		assert_int_equal(l->server.status, TLS_HS_FAILED);
	*why_out = tls_hs_why(l->server.hs, &not_tls);
	assert_false(not_tls);
	link_free(l);
	tls_ctx_unref(&c);
	return yes;
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

/* The whole chain goes out, not only the leaf. */
static void the_chain_is_sent(void **state)
{
	struct tls_pair pair = {path("chain.pem"), path("ec.key")};
	struct tls_options o = {.pairs = &pair, .pair_count = 1};
	size_t bytes[2];

	(void)state;
	for (int chain = 0; chain < 2; chain++) {
		FILE *out = fopen(path("chain.pem"), "wb");
		const char *const parts[] = {"ec.pem", "other.pem"};
		assert_non_null(out);
		for (int i = 0; i <= chain; i++) {
			char text[8192];
			FILE *in = fopen(path(parts[i]), "rb");
			assert_non_null(in);
			size_t n = fread(text, 1, sizeof(text), in);
			fwrite(text, 1, n, out);
			fclose(in);
		}
		fclose(out);
		struct tls_ctx *s = tls_server_new(&o, why, sizeof(why));
		struct tls_ctx *c = client_with(NULL, true, false);
		assert_non_null(s);
		struct link *l = link_new(s, c, NULL, NULL);
		turn(&l->client, &l->server, 0);
		turn(&l->server, &l->client, 0);
		bytes[chain] = l->client.in.n;
		shake(l, 0);
		assert_shaken(l);
		link_free(l);
		tls_ctx_unref(&s);
		tls_ctx_unref(&c);
	}
	assert_true(bytes[1] > bytes[0] + 300);
}

/* To the operator: what is wrong, and in which file. */
static void bad_files_are_named(void **state)
{
	static const char encrypted[] = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n"
					"-----END ENCRYPTED PRIVATE KEY-----\n";
	static const struct {
		const char *certificate, *key, *words[2];
	} cases[] = {
		{"ec.pem", "other.key", {"ec.pem", "other.key"}},
		{"ec.pem", "rsa.key", {"ec.pem", "rsa.key"}},
		{"rsa.pem", "ec.key", {"rsa.pem", "ec.key"}},
		{"missing.pem", "ec.key", {"missing.pem", "No such file"}},
		{"ec.pem", "missing.key", {"missing.key", "No such file"}},
		{"ec.key", "ec.key", {"ec.key", "no PEM certificate"}},
		{"ec.pem", "ec.pem", {"ec.pem", "private key"}},
		{"ec.pem", "junk", {"junk", "passphrase"}},
		{"junk", "ec.key", {"junk", "no PEM certificate"}},
	};

	(void)state;
	put_file("junk", encrypted, strlen(encrypted));
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct tls_pair pair = {path(cases[i].certificate), path(cases[i].key)};
		struct tls_options o = {.pairs = &pair, .pair_count = 1};
		why[0] = 0;
		assert_null(tls_server_new(&o, why, sizeof(why)));
		for (size_t k = 0; k < 2; k++)
			if (!strstr(why, cases[i].words[k]))
				fail_msg("%s: no \"%s\" in it", why, cases[i].words[k]);
		assert_null(strchr(why, '\n'));
	}
	struct tls_options none = {0};
	assert_null(tls_server_new(&none, why, sizeof(why)));
	struct tls_client_options missing = {.ca_file = "/nonexistent/ca.pem"};
	assert_null(tls_client_new(&missing, why, sizeof(why)));
	assert_non_null(strstr(why, "/nonexistent/ca.pem"));
}

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

/* Reload: the old context lives as long as its last handshake. */
static void contexts_outlive_their_owner(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, false);
	struct link *l = link_new(s, c, NULL, NULL);

	(void)state;
	turn(&l->client, &l->server, 0);
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
	assert_null(s);
	shake(l, 0);
	assert_shaken(l);
	detach(l);
	talk(l);
	link_free(l);
}

struct worker {
	struct tls_ctx *s, *c;
	unsigned done;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct tls_session *session = NULL;

	for (int i = 0; i < 20; i++) {
		struct link *l = link_new(w->s, w->c, "localhost", session);
		for (int k = 0; k < 6; k++) {
			turn(&l->client, &l->server, 0);
			turn(&l->server, &l->client, 0);
		}
		tls_session_free(&session);
		if (l->server.status == TLS_HS_DONE && l->client.status == TLS_HS_DONE) {
			session = tls_hs_session(l->client.hs);
			w->done += tls_hs_resumed(l->server.hs) == (i > 0);
		}
		link_free(l);
	}
	tls_session_free(&session);
	return NULL;
}

static void contexts_are_shared_by_threads(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, true);
	struct worker w[4];
	pthread_t t[4];

	(void)state;
	for (int i = 0; i < 4; i++) {
		w[i] = (struct worker){.s = s, .c = c};
		assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].done, 20);
	}
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
}

static void the_library_is_named(void **state)
{
	(void)state;
	print_message("# %s\n", tls_library());
	assert_memory_equal(tls_library(), "wolfSSL ", 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_library_is_named),
		cmocka_unit_test(every_suite_detaches_in_both_roles),
		cmocka_unit_test(sessions_resume),
		cmocka_unit_test(tickets_live_for_two_periods),
		cmocka_unit_test(tickets_travel_with_the_seed),
		cmocka_unit_test(a_client_can_wait_for_its_ticket),
		cmocka_unit_test(the_certificate_follows_the_name),
		cmocka_unit_test(the_chain_is_sent),
		cmocka_unit_test(bad_files_are_named),
		cmocka_unit_test(self_signed_pairs_are_made_once),
		cmocka_unit_test(self_signed_pairs_are_renewed_before_their_end),
		cmocka_unit_test(what_is_not_tls_is_told_apart),
		cmocka_unit_test(nothing_is_made_before_a_whole_hello),
		cmocka_unit_test(memory_comes_back),
		cmocka_unit_test(a_hello_in_pieces_is_put_together),
		cmocka_unit_test(early_bytes_stay_with_the_caller),
		cmocka_unit_test(changed_handshakes_are_refused),
		cmocka_unit_test(a_handshake_has_an_end),
		cmocka_unit_test(key_updates_work_after_the_detach),
		cmocka_unit_test(contexts_outlive_their_owner),
		cmocka_unit_test(contexts_are_shared_by_threads),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("tls", tests, make_files, remove_files);
}
