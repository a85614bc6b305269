/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The WOLFSSL object of a handshake. */
#include "io/tls_priv.h"

#include "core/base/check.h"

#include <wolfssl/error-ssl.h>
#include <wolfssl/wolfcrypt/kdf.h>

#include <string.h>

/* What we offer and can detach (RFC 8446 B.4, RFC 5289, RFC 7905). */
static const struct suite suites[] = {
	{0x1301, true, TLSREC_AES128_GCM, "TLS_AES_128_GCM_SHA256"},
	{0x1302, true, TLSREC_AES256_GCM, "TLS_AES_256_GCM_SHA384"},
	{0x1303, true, TLSREC_CHACHA20_POLY1305, "TLS_CHACHA20_POLY1305_SHA256"},
	{0xc02b, false, TLSREC_AES128_GCM, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
	{0xc02c, false, TLSREC_AES256_GCM, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
	{0xcca9, false, TLSREC_CHACHA20_POLY1305, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
	{0xc02f, false, TLSREC_AES128_GCM, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
	{0xc030, false, TLSREC_AES256_GCM, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
	{0xcca8, false, TLSREC_CHACHA20_POLY1305, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
};

/* --- what wolfSSL calls --- */

int tls_receive_cb(WOLFSSL *ssl, char *p, int n, void *arg)
{
	struct tls_hs *h = arg;
	size_t left = h->rec_n - h->rec_used;

	(void)ssl;
	if (left == 0)
		return WOLFSSL_CBIO_ERR_WANT_READ;
	size_t take = (size_t)n < left ? (size_t)n : left;
	memcpy(p, h->rec + h->rec_used, take);
	h->rec_used += take;
	return (int)take;
}

/* Nobody listens when wolfSSL is freed outside of a call. */
static void say(struct tls_hs *h, const uint8_t *p, size_t n)
{
	if (h->out && n > 0)
		buf_add(h->out, p, n);
}

int tls_send_cb(WOLFSSL *ssl, char *data, int n, void *arg)
{
	struct tls_hs *h = arg;
	const uint8_t *p = (const uint8_t *)data;
	size_t left = (size_t)n;

	(void)ssl;
	h->sent_any = true;
	/* Whole records, one after the other: wolfSSL sends what it has built. */
	while (left >= TLSREC_HEADER_BYTES) {
		size_t record = TLSREC_HEADER_BYTES + load_be16(p + 3);
		if (record > left)
			break;
		if (record >= TLSREC_HEADER_BYTES + sizeof(h->last_nonce))
			memcpy(h->last_nonce, p + TLSREC_HEADER_BYTES, sizeof(h->last_nonce));
		say(h, p, record);
		/* RFC 8446 D.4: so that TLS 1.3 looks like a resumption of 1.2 to boxes on the
		 * way. wolfSSL does it as a client only. No part of the transcript. */
		if (h->owes_ccs && p[0] == TYPE_HANDSHAKE)
			say(h, (const uint8_t[]){TYPE_CCS, 3, 3, 0, 1, 1}, 6);
		h->owes_ccs = false;
		p += record;
		left -= record;
	}
	say(h, p, left);
	return n;
}

static void keep_secret(struct tls_hs *h, int side, const uint8_t *secret, size_t n)
{
	if (n > sizeof(h->secret[0]))
		return;
	memcpy(h->secret[side], secret, n);
	h->got_secrets |= (uint8_t)(1 << side);
}

#ifdef HAVE_SECRET_CALLBACK
static int secret_cb(WOLFSSL *ssl, int id, const unsigned char *secret, int n, void *arg)
{
	(void)ssl;
	if (id == CLIENT_TRAFFIC_SECRET)
		keep_secret(arg, 0, secret, (size_t)n);
	else if (id == SERVER_TRAFFIC_SECRET)
		keep_secret(arg, 1, secret, (size_t)n);
	return 0;
}
#else
/* The distribution's build has no secret callback, but lets us do its HKDF; the callback is told
 * no session, so the thread remembers whose turn it is. */
static _Thread_local struct tls_hs *hkdf_for;

int tls_hkdf_cb(byte *okm, word32 okm_n, const byte *prk, word32 prk_n, const byte *protocol,
	word32 protocol_n, const byte *label, word32 label_n, const byte *info, word32 info_n,
	int digest, int side)
{
	int err = wc_Tls13_HKDF_Expand_Label(
		okm, okm_n, prk, prk_n, protocol, protocol_n, label, label_n, info, info_n, digest);

	(void)side;
	if (err == 0 && hkdf_for && label_n == 12) {
		if (memcmp(label, "c ap traffic", 12) == 0)
			keep_secret(hkdf_for, 0, okm, okm_n);
		else if (memcmp(label, "s ap traffic", 12) == 0)
			keep_secret(hkdf_for, 1, okm, okm_n);
	}
	return err;
}
#endif

int tls_new_ticket_cb(WOLFSSL *ssl, const unsigned char *ticket, int n, void *arg)
{
	struct tls_hs *h = arg;

	(void)ssl;
	(void)ticket;
	h->got_ticket = n > 0;
	return 0;
}

bool tls_wolf_start(struct tls_hs *h, WOLFSSL_CTX *w)
{
	h->ssl = wolfSSL_new(w);
	if (!h->ssl)
		return false;
	wolfSSL_SetIOReadCtx(h->ssl, h);
	wolfSSL_SetIOWriteCtx(h->ssl, h);
#ifdef HAVE_SECRET_CALLBACK
	if (wolfSSL_set_tls13_secret_cb(h->ssl, secret_cb, h) != WOLFSSL_SUCCESS)
		return false;
#endif
	return true;
}

void tls_plain_alert(struct tls_hs *h, uint8_t what)
{
	const uint8_t record[7] = {TYPE_ALERT, 3, 3, 0, 2, 2 /* fatal */, what};

	buf_add(h->out, record, sizeof(record));
}

enum tls_hs_status tls_hs_failed(struct tls_hs *h, const char *why)
{
	h->failed = true;
	h->why = why;
	return TLS_HS_FAILED;
}

const char *tls_alert_reason(int code)
{
	switch (code) {
	case 0:
		return "the peer closed (close_notify)";
	case 10:
		return "alert from the peer: unexpected_message";
	case 20:
		return "alert from the peer: bad_record_mac";
	case 40:
		return "alert from the peer: handshake_failure";
	case 42:
		return "alert from the peer: bad_certificate";
	case 43:
		return "alert from the peer: unsupported_certificate";
	case 44:
		return "alert from the peer: certificate_revoked";
	case 45:
		return "alert from the peer: certificate_expired";
	case 46:
		return "alert from the peer: certificate_unknown";
	case 47:
		return "alert from the peer: illegal_parameter";
	case 48:
		return "alert from the peer: unknown_ca";
	case 50:
		return "alert from the peer: decode_error";
	case 51:
		return "alert from the peer: decrypt_error";
	case 70:
		return "alert from the peer: protocol_version";
	case 71:
		return "alert from the peer: insufficient_security";
	case 80:
		return "alert from the peer: internal_error";
	case 90:
		return "alert from the peer: user_canceled";
	case 112:
		return "alert from the peer: unrecognized_name";
	default:
		return "alert from the peer";
	}
}

static enum tls_hs_status wolf_failed(struct tls_hs *h, int result)
{
	int err = wolfSSL_get_error(h->ssl, result);
	WOLFSSL_ALERT_HISTORY history;

	if ((err == FATAL_ERROR || err == WOLFSSL_ERROR_ZERO_RETURN) &&
		wolfSSL_get_alert_history(h->ssl, &history) == WOLFSSL_SUCCESS &&
		history.last_rx.code >= 0)
		return tls_hs_failed(h, tls_alert_reason(history.last_rx.code));
	/* Until keys are there an alert in the clear is understood; wolfSSL leaves some out. */
	if (!h->sent_any)
		tls_plain_alert(
			h, err == VERSION_ERROR ? AL_PROTOCOL_VERSION : AL_HANDSHAKE_FAILURE);
	return tls_hs_failed(h, tls_wolf_reason(err));
}

static enum tls_hs_status wolf_finished(struct tls_hs *h)
{
	int id = wolfSSL_get_current_cipher_suite(h->ssl);

	for (size_t i = 0; i < ARRAY_LEN(suites); i++)
		if (suites[i].id == id)
			h->suite = &suites[i];
	if (!h->suite)
		return tls_hs_failed(h, "cipher suite without a record layer of ours");
	h->finished = true;
	h->resumed = wolfSSL_session_reused(h->ssl) != 0;
	/* TLS 1.2 tickets come before the Finished: what did not come will not come. */
	if (h->ctx->want_ticket && h->suite->tls13 && !h->got_ticket)
		return TLS_HS_WANT_MORE;
	return TLS_HS_DONE;
}

enum tls_hs_status tls_wolf_step(struct tls_hs *h)
{
	uint8_t byte;
	int result;

#ifndef HAVE_SECRET_CALLBACK
	hkdf_for = h;
#endif
	if (h->finished) /* client waiting for its ticket */
		result = wolfSSL_peek(h->ssl, &byte, 1);
	else
		result = h->ctx->client ? wolfSSL_connect(h->ssl) : wolfSSL_accept(h->ssl);
#ifndef HAVE_SECRET_CALLBACK
	hkdf_for = NULL;
#endif
	if (h->finished) {
		if (h->got_ticket)
			return TLS_HS_DONE;
		if (result > 0)
			return tls_hs_failed(
				h, "application data where a session ticket was awaited");
	} else if (result == WOLFSSL_SUCCESS) {
		return wolf_finished(h);
	}
	if (wolfSSL_get_error(h->ssl, result) != WOLFSSL_ERROR_WANT_READ)
		return wolf_failed(h, result);
	/* wolfSSL reads what it is given before it wants more. */
	return h->rec_used == h->rec_n ? TLS_HS_WANT_MORE
				       : tls_hs_failed(h, "record only partly read");
}
