/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What stays of a finished handshake. */
#include "io/tls_priv.h"

#include "core/base/check.h"

#include <stdlib.h>
#include <string.h>

struct tls_session *tls_hs_session(struct tls_hs *h)
{
	if (!h->finished || !h->got_ticket || !h->ssl)
		return NULL;
	struct tls_session *s = malloc(sizeof(*s));
	if (!s)
		return NULL;
	s->wolf = wolfSSL_get1_session(h->ssl);
	if (!s->wolf) {
		free(s);
		return NULL;
	}
	return s;
}

void tls_session_free(struct tls_session **sp)
{
	struct tls_session *s = *sp;

	*sp = NULL;
	if (!s)
		return;
	wolfSSL_SESSION_free(s->wolf);
	free(s);
}

/* wolfSSL's accessors return pointers into the session; sizes are checked against the suite. */
static const char *take_keys(struct tls_hs *h, struct tlsrec *rec)
{
	const struct suite *suite = h->suite;
	bool client = h->ctx->client;
	size_t key_bytes = tlsrec_key_bytes(suite->aead);
	const uint8_t *client_key = wolfSSL_GetClientWriteKey(h->ssl);
	const uint8_t *server_key = wolfSSL_GetServerWriteKey(h->ssl);
	const uint8_t *client_iv = wolfSSL_GetClientWriteIV(h->ssl);
	const uint8_t *server_iv = wolfSSL_GetServerWriteIV(h->ssl);
	const uint8_t *rx_key = client ? server_key : client_key;
	const uint8_t *tx_key = client ? client_key : server_key;
	word64 rx_seq = 0, tx_seq = 0;

	if (!client_key || !server_key || !client_iv || !server_iv ||
		wolfSSL_GetKeySize(h->ssl) != (int)key_bytes)
		return "TLS library gives no keys";
	/* These return whether the number is not zero; there is no error to see. */
	wolfSSL_GetPeerSequenceNumber(h->ssl, &rx_seq);
	wolfSSL_GetSequenceNumber(h->ssl, &tx_seq);
	if (rx_seq > 1024 || tx_seq > 1024)
		return "implausible sequence numbers";
	if (!suite->tls13) {
		tlsrec_init12(rec, suite->aead, client, rx_key, client ? server_iv : client_iv,
			tx_key, client ? client_iv : server_iv, (uint32_t)rx_seq, (uint32_t)tx_seq,
			load_be64(h->last_nonce) + 1);
		return NULL;
	}
	if (h->got_secrets != 3)
		return "traffic secrets were not seen";
	if (!tlsrec_init13(rec, suite->aead, client, h->secret[client], h->secret[!client],
		    (uint32_t)rx_seq, (uint32_t)tx_seq))
		return "key derivation failed";
	/* What we derived is what wolfSSL used: else we would have taken the wrong secrets. */
	if (!tlsrec_reads_with(rec, rx_key) || memcmp(rec->tx.key, tx_key, key_bytes) != 0) {
		tlsrec_wipe(rec);
		return "keys do not follow from the secrets";
	}
	return NULL;
}

bool tls_hs_detach(struct tls_hs *h, struct tlsrec *rec, const char **why_out)
{
	CHECK(tls_hs_finished(h));
	CHECK(h->ssl);
	const char *why = take_keys(h, rec);

	if (!why && h->in.n > 0) {
		/* Only a client that stopped waiting for its ticket: these bytes were taken. */
		tlsrec_wipe(rec);
		why = "part of a record is still here";
	}
	if (why) {
		*why_out = why;
		return false;
	}
	wolfSSL_free(h->ssl);
	h->ssl = NULL;
	explicit_bzero(h->secret, sizeof(h->secret));
	return true;
}
