/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/io/tls_fixture.h - handshakes in memory: server and client by io/tls, records by io/tlsrec
 * afterwards. Certificates and keys are files in a directory of the test program's own.
 * Memory: a struct link belongs to the test. Errors: a failed assertion. */
#ifndef ROOST_TESTS_IO_TLS_FIXTURE_H
#define ROOST_TESTS_IO_TLS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static inline uint64_t test_wall_ms(void)
{
	return clock_wall_ms() + clock_offset_ms;
}

static inline const char *path(const char *name)
{
	static char ring[8][128];
	static unsigned next;
	char *p = ring[next++ % ARRAY_LEN(ring)];

	snprintf(p, sizeof(ring[0]), "%s/%s", dir, name);
	return p;
}

static inline void put_file(const char *name, const void *p, size_t n)
{
	FILE *f = fopen(path(name), "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	fclose(f);
}

static inline int make_files(void **state)
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

static inline int remove_files(void **state)
{
	static const char *const names[] = {"rsa.pem", "rsa.key", "ec.pem", "ec.key", "other.pem",
		"other.key", "junk", "chain.pem", "old.pem", "own.pem", "own.key"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unlink(path(names[i]));
	return rmdir(dir);
}

enum { EC = 1, RSA = 2, OTHER = 4 };

static inline struct tls_ctx *server_with(unsigned which, const uint8_t *seed)
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

static inline struct tls_ctx *client_with(const char *ciphers, bool tls12_only, bool want_ticket)
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
static inline void turn(struct end *to, struct end *from, size_t cut)
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

static inline void shake(struct link *l, size_t cut)
{
	for (int i = 0; i < 10; i++) {
		turn(&l->client, &l->server, cut);
		turn(&l->server, &l->client, cut);
	}
}

static inline struct link *link_new(
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

static inline void assert_shaken(struct link *l)
{
	bool not_tls;

	if (l->server.status != TLS_HS_DONE || l->client.status != TLS_HS_DONE)
		print_error("server %d %s, client %d %s\n", l->server.status,
			tls_hs_why(l->server.hs, &not_tls), l->client.status,
			tls_hs_why(l->client.hs, &not_tls));
	assert_int_equal(l->server.status, TLS_HS_DONE);
	assert_int_equal(l->client.status, TLS_HS_DONE);
}

static inline void detach(struct link *l)
{
	const char *because = "";

	if (!tls_hs_detach(l->server.hs, &l->server.rec, &because) ||
		!tls_hs_detach(l->client.hs, &l->client.rec, &because))
		fail_msg("detach: %s", because);
}

/* Sends text from one end to the other through the record layer. */
static inline void pass(struct end *from, struct end *to, const char *text, size_t n)
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

static inline void talk(struct link *l)
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

static inline void link_free(struct link *l)
{
	tls_hs_free(&l->server.hs);
	tls_hs_free(&l->client.hs);
	buf_free(&l->server.in);
	buf_free(&l->client.in);
	tlsrec_wipe(&l->server.rec);
	tlsrec_wipe(&l->client.rec);
	free(l);
}

/* Whether a client that trusts only `ca` accepts what the server shows for `name`. */
static inline bool accepted(
	struct tls_ctx *s, const char *ca, const char *name, const char **why_out)
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

#define RUN_TLS_TESTS(group, tests)                                                                \
	(cmocka_set_message_output(CM_OUTPUT_TAP),                                                 \
		cmocka_run_group_tests_name(group, tests, make_files, remove_files))

#endif
