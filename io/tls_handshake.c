/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Handshakes: whole records for wolfSSL out of whatever pieces come. */
#include "io/tls_priv.h"

#include "core/base/check.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	HANDSHAKE_BYTES_MAX = 64 * 1024,
	HELLO_BYTES_MAX = TLSREC_PLAIN_MAX,
	/* A ClientHello in more pieces than this is somebody playing. */
	HELLO_RECORDS_MAX = 64,
};

static struct tls_hs *hs_new(struct tls_ctx *c)
{
	struct tls_hs *h = calloc(1, sizeof(*h));

	if (h)
		h->ctx = tls_ctx_ref(c);
	return h;
}

struct tls_hs *tls_hs_server(struct tls_ctx *c)
{
	CHECK(!c->client);
	return hs_new(c);
}

static bool is_address(const char *s)
{
	uint8_t ip[16];

	return inet_pton(AF_INET, s, ip) == 1 || inet_pton(AF_INET6, s, ip) == 1;
}

/* The name to verify, in wolfSSL's words: it compares addresses of a certificate as text, those of IPv6 in
 * full, which is also what makes other spellings of one address the same. */
static const char *verified_name(const char *name, char text[INET6_ADDRSTRLEN])
{
	uint8_t ip[16];

	if (inet_pton(AF_INET6, name, ip) != 1)
		return name;
	for (size_t i = 0; i < 8; i++)
		snprintf(text + 5 * i, 6, "%02X%02X%s", ip[2 * i], ip[2 * i + 1], i < 7 ? ":" : "");
	return text;
}

struct tls_hs *tls_hs_client(
	struct tls_ctx *c, const char *server_name, const struct tls_session *session)
{
	CHECK(c->client);
	struct tls_hs *h = hs_new(c);
	bool ok = h && tls_wolf_start(h, c->pairs[0].wolf);
	char text[INET6_ADDRSTRLEN];

	if (ok && server_name && !is_address(server_name)) /* RFC 6066 3: no addresses */
		ok = wolfSSL_UseSNI(h->ssl, WOLFSSL_SNI_HOST_NAME, server_name,
			     (unsigned short)strlen(server_name)) == WOLFSSL_SUCCESS;
	if (ok && server_name && c->verify)
		ok = wolfSSL_check_domain_name(h->ssl, verified_name(server_name, text)) ==
		     WOLFSSL_SUCCESS;
	if (ok && c->want_ticket)
		ok = wolfSSL_set_SessionTicket_cb(h->ssl, tls_new_ticket_cb, h) == WOLFSSL_SUCCESS;
	/* A session that has timed out is no failure: the handshake is a full one then. */
	if (ok && session)
		wolfSSL_set_session(h->ssl, session->wolf);
	if (!ok)
		tls_hs_free(&h);
	return h;
}

void tls_hs_free(struct tls_hs **hp)
{
	struct tls_hs *h = *hp;

	*hp = NULL;
	if (!h)
		return;
	if (h->ssl)
		wolfSSL_free(h->ssl);
	tls_ctx_unref(&h->ctx);
	buf_free(&h->in);
	buf_free(&h->hello);
	explicit_bzero(h, sizeof(*h));
	free(h);
}

/* Did not look like TLS 1.2 or later at all. */
static enum tls_hs_status not_tls(struct tls_hs *h, const char *why)
{
	h->not_tls = true;
	return tls_hs_failed(h, why);
}

/* The header of a record that a handshake may bring (RFC 8446 5.1), as far as it is there. */
static enum tls_hs_status check_header(struct tls_hs *h, const uint8_t *p, size_t n)
{
	bool first = !h->ctx->client && !h->ssl;

	if (first && n >= 1 && p[0] != TYPE_HANDSHAKE) {
		/* An SSLv2 hello: two bytes of length, then its type 1. */
		if (p[0] & 0x80) {
			if (n < 3)
				return TLS_HS_WANT_MORE;
			if (p[2] == 1)
				tls_plain_alert(h, AL_PROTOCOL_VERSION);
		} else if (p[0] == TYPE_ALERT || p[0] == TYPE_DATA || p[0] == TYPE_CCS) {
			tls_plain_alert(h, AL_UNEXPECTED_MESSAGE);
		}
		return not_tls(h, p[0] & 0x80 ? "SSLv2 hello or garbage" : "not a TLS handshake");
	}
	if (n >= 1 && (p[0] < TYPE_CCS || p[0] > TYPE_DATA)) {
		if (!h->sent_any || h->ctx->client)
			return not_tls(h, "not a TLS record");
		return tls_hs_failed(h, "not a TLS record");
	}
	if (n >= 2 && p[1] != 3) {
		if (first)
			return not_tls(h, "not a TLS handshake");
		return tls_hs_failed(h, "not a TLS record");
	}
	if (n < TLSREC_HEADER_BYTES)
		return TLS_HS_WANT_MORE;
	size_t body = load_be16(p + 3);
	/* Nothing is encrypted before the hellos. */
	if (body > (first ? TLSREC_PLAIN_MAX : TLSREC_RECORD_MAX - TLSREC_HEADER_BYTES)) {
		if (!h->sent_any)
			tls_plain_alert(h, AL_RECORD_OVERFLOW);
		return tls_hs_failed(h, "record too long");
	}
	if (body == 0) {
		if (!h->sent_any)
			tls_plain_alert(h, AL_UNEXPECTED_MESSAGE);
		return tls_hs_failed(h, "empty record");
	}
	return TLS_HS_WANT_MORE;
}

/* Puts the pieces of a ClientHello (RFC 8446 5.1 allows any cuts) into one record in h->hello,
 * so that wolfSSL is made for whole ones only, and sees one. The transcript covers messages, not
 * records, so this changes nothing. */
static enum tls_hs_status gather_hello(struct tls_hs *h)
{
	size_t skip = h->hello.n == 0 ? 0 : TLSREC_HEADER_BYTES;

	if (h->rec[0] != TYPE_HANDSHAKE) {
		tls_plain_alert(h, AL_UNEXPECTED_MESSAGE);
		return tls_hs_failed(h, "something else inside a ClientHello");
	}
	if (++h->hello_records > HELLO_RECORDS_MAX ||
		h->hello.n + h->rec_n - skip > TLSREC_HEADER_BYTES + HELLO_BYTES_MAX) {
		tls_plain_alert(h, AL_DECODE_ERROR);
		return tls_hs_failed(h, "ClientHello too long");
	}
	buf_add(&h->hello, h->rec + skip, h->rec_n - skip);
	if (h->hello.failed) {
		tls_plain_alert(h, AL_INTERNAL_ERROR);
		return tls_hs_failed(h, "out of memory");
	}
	store_be16(h->hello.p + 3, (uint16_t)(h->hello.n - TLSREC_HEADER_BYTES));
	h->rec = h->hello.p;
	h->rec_n = h->hello.n;
	return TLS_HS_WANT_MORE;
}

/* The server's first records. When the ClientHello is whole it chooses the certificate and makes
 * the wolfSSL object; until then h->ssl stays NULL. */
static enum tls_hs_status server_hello_record(struct tls_hs *h)
{
	struct hello hello;

	for (;;) {
		const uint8_t *body = h->rec + TLSREC_HEADER_BYTES;
		size_t n = h->rec_n - TLSREC_HEADER_BYTES;

		if (h->hello.n == 0 && body[0] != 1) {
			tls_plain_alert(h, AL_UNEXPECTED_MESSAGE);
			return not_tls(h, "no ClientHello");
		}
		bool gathered = h->rec == h->hello.p;
		size_t body_bytes =
			n < 4 ? 0 : (size_t)body[1] << 16 | (size_t)body[2] << 8 | body[3];
		if ((h->hello.n == 0 || gathered) && body_bytes + 4 > HELLO_BYTES_MAX) {
			tls_plain_alert(h, AL_DECODE_ERROR);
			return tls_hs_failed(h, "ClientHello too long");
		}
		if ((h->hello.n == 0 || gathered) && n >= 4 && body_bytes <= n - 4) {
			if (!tls_hello_read(bytes_of(body + 4, body_bytes), &hello)) {
				tls_plain_alert(h, AL_DECODE_ERROR);
				return tls_hs_failed(h, "malformed ClientHello");
			}
			break;
		}
		if (gathered)
			return TLS_HS_WANT_MORE;
		enum tls_hs_status status = gather_hello(h);
		if (status == TLS_HS_FAILED)
			return status;
	}
	if (!hello.tls12 && !hello.tls13) {
		tls_plain_alert(h, AL_PROTOCOL_VERSION);
		return not_tls(h, "TLS 1.1 or older");
	}
	/* wolfSSL would ask for a group that was not offered. */
	if (hello.groups && !hello.our_group) {
		tls_plain_alert(h, AL_HANDSHAKE_FAILURE);
		return tls_hs_failed(h, "neither X25519 nor P-256 offered");
	}
	if (!tls_wolf_start(h, tls_hello_choose(h->ctx, &hello))) {
		tls_plain_alert(h, AL_INTERNAL_ERROR);
		return tls_hs_failed(h, "out of memory");
	}
	h->owes_ccs = hello.tls13 && hello.session_id;
	return TLS_HS_WANT_MORE;
}

static enum tls_hs_status whole_record(struct tls_hs *h, const uint8_t *rec, size_t n)
{
	enum tls_hs_status status = TLS_HS_WANT_MORE;

	h->rec = rec;
	h->rec_n = n;
	h->rec_used = 0;
	/* OpenSSL sends an alert about our certificate in the clear, because it has not sent
	 * anything under its handshake key yet; wolfSSL takes offence. What it says is of use. */
	if (h->ssl && !h->finished && rec[0] == TYPE_ALERT && n == TLSREC_HEADER_BYTES + 2 &&
		(rec[5] == 2 /* fatal */ || rec[6] == 0 /* close_notify */))
		return tls_hs_failed(h, tls_alert_reason(rec[6]));
	if (!h->ssl)
		status = server_hello_record(h);
	if (status == TLS_HS_WANT_MORE && h->ssl)
		status = tls_wolf_step(h);
	h->rec = NULL;
	h->rec_n = h->rec_used = 0;
	if (h->ssl)
		buf_free(&h->hello);
	return status;
}

/* Takes bytes up to the end of one record. */
static enum tls_hs_status feed_record(
	struct tls_hs *h, const uint8_t *p, size_t n, size_t *took_out)
{
	enum tls_hs_status status;
	size_t took = 0;

	if (h->in.n == 0) {
		status = check_header(h, p, n);
		if (status == TLS_HS_FAILED)
			return status;
		if (n >= TLSREC_HEADER_BYTES) {
			size_t record = TLSREC_HEADER_BYTES + load_be16(p + 3);
			if (n >= record) {
				*took_out = record;
				return whole_record(h, p, record);
			}
		}
	}
	if (h->in.n < TLSREC_HEADER_BYTES) {
		size_t missing = TLSREC_HEADER_BYTES - h->in.n;
		took = n < missing ? n : missing;
		buf_add(&h->in, p, took);
		if (h->in.failed)
			return tls_hs_failed(h, "out of memory");
		status = check_header(h, h->in.p, h->in.n);
		*took_out = took;
		if (status == TLS_HS_FAILED || h->in.n < TLSREC_HEADER_BYTES)
			return status;
	}
	size_t missing = TLSREC_HEADER_BYTES + load_be16(h->in.p + 3) - h->in.n;
	size_t more = n - took < missing ? n - took : missing;
	buf_add(&h->in, p + took, more);
	*took_out = took + more;
	if (h->in.failed)
		return tls_hs_failed(h, "out of memory");
	if (more < missing)
		return TLS_HS_WANT_MORE;
	status = whole_record(h, h->in.p, h->in.n);
	h->in.n = 0;
	return status;
}

enum tls_hs_status tls_hs_feed(
	struct tls_hs *h, const uint8_t *p, size_t n, size_t *consumed_out, struct buf *out)
{
	enum tls_hs_status status = TLS_HS_WANT_MORE;
	size_t used = 0;

	*consumed_out = h->failed ? n : 0;
	if (h->failed)
		return TLS_HS_FAILED;
	if (h->done)
		return TLS_HS_DONE;
	h->out = out;
	if (h->ctx->client && !h->begun) {
		h->begun = true;
		status = tls_wolf_step(h);
	}
	while (status == TLS_HS_WANT_MORE && used < n) {
		size_t took = 0;
		status = feed_record(h, p + used, n - used, &took);
		used += took;
		h->total_in += took;
		if (status == TLS_HS_WANT_MORE && h->total_in > HANDSHAKE_BYTES_MAX)
			status = tls_hs_failed(h, "handshake too long");
	}
	if (out->failed && status != TLS_HS_FAILED)
		status = tls_hs_failed(h, "out of memory");
	h->done = status == TLS_HS_DONE;
	h->out = NULL;
	*consumed_out = h->done ? used : n;
	return status;
}

const char *tls_hs_why(const struct tls_hs *h, bool *not_tls_out)
{
	*not_tls_out = h->not_tls;
	return h->why ? h->why : "";
}

bool tls_hs_finished(const struct tls_hs *h)
{
	return h->finished && !h->failed;
}

bool tls_hs_resumed(const struct tls_hs *h)
{
	return h->resumed;
}

const char *tls_hs_version(const struct tls_hs *h)
{
	return !h->suite ? "" : h->suite->tls13 ? "TLSv1.3" : "TLSv1.2";
}

const char *tls_hs_cipher(const struct tls_hs *h)
{
	return h->suite ? h->suite->name : "";
}
