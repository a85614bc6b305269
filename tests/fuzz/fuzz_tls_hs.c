/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Handshakes. The first byte chooses:
 *   even: the rest is what a stranger sends to the server;
 *   odd:  a client of ours shakes hands with it, and the rest is changes to the bytes between
 *         them, four bytes each: whose, where (two bytes), what to xor.
 * Holds: cuts do not matter, all bytes are consumed until it is done, an end that failed stays
 * so, and both ends are never done with keys that differ. */
#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct tls_ctx *server, *client, *client12;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char dir[] = "/tmp/roost-fuzz-tls-XXXXXX", certificate[64], key[64], why[512] = "";
	struct tls_client_options plain = {.want_ticket = true}, old = {.tls12_only = true};

	(void)argc;
	(void)argv;
	CHECK(mkdtemp(dir));
	snprintf(certificate, sizeof(certificate), "%s/c.pem", dir);
	snprintf(key, sizeof(key), "%s/k.pem", dir);
	struct tls_pair pair = {certificate, key};
	struct tls_options o = {.pairs = &pair, .pair_count = 1};
	if (tls_self_signed(certificate, key, NULL, 0, clock_wall_ms(), why, sizeof(why)))
		server = tls_server_new(&o, why, sizeof(why));
	client = tls_client_new(&plain, why, sizeof(why));
	client12 = tls_client_new(&old, why, sizeof(why));
	unlink(certificate);
	unlink(key);
	rmdir(dir);
	if (!server || !client || !client12) {
		fprintf(stderr, "%s\n", why);
		exit(1);
	}
	return 0;
}

struct end {
	struct tls_hs *hs;
	struct buf in;
	enum tls_hs_status status;
};

static void turn(struct end *to, struct buf *answer, size_t step)
{
	size_t used = 0, consumed;

	do {
		size_t n = to->in.n - used;
		if (n > step)
			n = step;
		if (to->status != TLS_HS_WANT_MORE)
			break;
		to->status = tls_hs_feed(
			to->hs, n ? to->in.p + used : (const uint8_t *)"", n, &consumed, answer);
		if (consumed > n || (consumed < n && to->status != TLS_HS_DONE))
			abort();
		used += consumed;
	} while (used < to->in.n);
	if (to->status == TLS_HS_FAILED) {
		bool not_tls;
		if (!tls_hs_why(to->hs, &not_tls)[0] || tls_hs_finished(to->hs))
			abort();
		size_t before = answer->n;
		if (tls_hs_feed(to->hs, (const uint8_t *)"x", 1, &consumed, answer) !=
				TLS_HS_FAILED ||
			answer->n != before)
			abort();
	}
	if (to->in.n)
		memmove(to->in.p, to->in.p + used, to->in.n - used);
	to->in.n -= used;
}

static enum tls_hs_status stranger(const uint8_t *p, size_t n, size_t step, bool *not_tls_out)
{
	struct end e = {.hs = tls_hs_server(server)};
	struct buf out = {0};

	CHECK(e.hs);
	buf_add(&e.in, p, n);
	turn(&e, &out, step);
	tls_hs_why(e.hs, not_tls_out);
	tls_hs_free(&e.hs);
	buf_free(&e.in);
	buf_free(&out);
	return e.status;
}

static void changed_handshake(const uint8_t *p, size_t n, bool tls12)
{
	struct end s = {.hs = tls_hs_server(server)};
	struct end c = {.hs = tls_hs_client(tls12 ? client12 : client, "localhost", NULL)};
	size_t sent[2] = {0, 0};

	CHECK(s.hs && c.hs);
	for (int i = 0; i < 6; i++) {
		for (int who = 0; who < 2; who++) {
			struct end *to = who ? &s : &c, *from = who ? &c : &s;
			size_t before = from->in.n;
			turn(to, &from->in, SIZE_MAX);
			size_t fresh = from->in.n - before;
			for (size_t k = 0; k + 4 <= n; k += 4) {
				size_t at = load_be16(p + k + 1);
				if ((p[k] & 1) == who && at >= sent[who] && at < sent[who] + fresh)
					from->in.p[before + at - sent[who]] ^= p[k + 3];
			}
			sent[who] += fresh;
		}
	}
	struct tlsrec a, b;
	const char *why;
	if (s.status == TLS_HS_DONE && c.status == TLS_HS_DONE && tls_hs_detach(s.hs, &a, &why) &&
		tls_hs_detach(c.hs, &b, &why)) {
		uint8_t record[128];
		struct tlsrec_in in;
		size_t sealed = tlsrec_seal(&b, (const uint8_t *)"hello", 5, record);
		tlsrec_open(&a, record, sealed, &in);
		if (in.result != TLSREC_DATA || in.data_bytes != 5)
			abort();
	}
	tls_hs_free(&s.hs);
	tls_hs_free(&c.hs);
	buf_free(&s.in);
	buf_free(&c.in);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n < 2)
		return 0;
	uint8_t how = *p++;
	n--;
	if (how & 1) {
		changed_handshake(p, n, how & 2);
		return 0;
	}
	bool not_tls = false, not_tls_cut = false;
	enum tls_hs_status whole = stranger(p, n, SIZE_MAX, &not_tls);
	enum tls_hs_status cut = stranger(p, n, 1 + how / 2, &not_tls_cut);
	if (whole != cut || not_tls != not_tls_cut || whole == TLS_HS_DONE)
		abort();
	return 0;
}
