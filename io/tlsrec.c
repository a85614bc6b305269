/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <wolfssl/options.h>
#include <wolfssl/wolfcrypt/settings.h>
#include <wolfssl/wolfcrypt/aes.h>
#include <wolfssl/wolfcrypt/chacha20_poly1305.h>
#include <wolfssl/wolfcrypt/hash.h>
#include <wolfssl/wolfcrypt/hmac.h>
#include <wolfssl/wolfcrypt/kdf.h>

#include "io/tlsrec.h"

#include "core/base/bytes.h"
#include "core/base/check.h"

#include <string.h>

enum { TAG_BYTES = 16, EXPLICIT_BYTES = 8 };

enum { TYPE_CCS = 20, TYPE_ALERT = 21, TYPE_HANDSHAKE = 22, TYPE_DATA = 23 };

enum { HS_HELLO_REQUEST = 0, HS_CLIENT_HELLO = 1, HS_NEW_SESSION_TICKET = 4, HS_KEY_UPDATE = 24 };

enum { ALERT_WARNING = 1, ALERT_FATAL = 2 };

enum {
	AL_CLOSE_NOTIFY = 0,
	AL_UNEXPECTED_MESSAGE = 10,
	AL_BAD_RECORD_MAC = 20,
	AL_RECORD_OVERFLOW = 22,
	AL_ILLEGAL_PARAMETER = 47,
	AL_DECODE_ERROR = 50,
	AL_PROTOCOL_VERSION = 70,
	AL_INTERNAL_ERROR = 80,
	AL_USER_CANCELED = 90,
	AL_NO_RENEGOTIATION = 100,
};

/* The largest reply is our KeyUpdate or an alert. */
_Static_assert(TLSREC_REPLY_MAX >= TLSREC_HEADER_BYTES + EXPLICIT_BYTES + 5 + 1 + TAG_BYTES, "");

size_t tlsrec_key_bytes(enum tlsrec_aead aead)
{
	return aead == TLSREC_AES128_GCM ? 16 : 32;
}

size_t tlsrec_secret_bytes(enum tlsrec_aead aead)
{
	return aead == TLSREC_AES256_GCM ? 48 : 32; /* SHA-384, else SHA-256 */
}

static bool has_explicit_nonce(const struct tlsrec *r)
{
	return !r->tls13 && r->aead != TLSREC_CHACHA20_POLY1305;
}

/* RFC 8446 7.1 */
static bool expand_label(
	enum tlsrec_aead aead, const uint8_t *secret, const char *label, uint8_t *out, size_t n)
{
	size_t secret_bytes = tlsrec_secret_bytes(aead);

	return wc_Tls13_HKDF_Expand_Label(out, (word32)n, secret, (word32)secret_bytes,
		       (const byte *)"tls13 ", 6, (const byte *)label, (word32)strlen(label), NULL,
		       0, secret_bytes == 48 ? WC_SHA384 : WC_SHA256) == 0;
}

static bool derive_keys(enum tlsrec_aead aead, const uint8_t *secret, uint8_t *key, uint8_t *iv)
{
	return expand_label(aead, secret, "key", key, tlsrec_key_bytes(aead)) &&
	       expand_label(aead, secret, "iv", iv, 12);
}

/* The keys of the session that this thread read from last: a body comes in many records. */
static _Thread_local struct {
	uint8_t aead; /* 0: none */
	uint8_t secret[48], key[32], iv[12];
} last_rx;

static bool is_last_rx(const struct tlsrec *r)
{
	uint8_t differ = 0;

	for (size_t i = 0; i < tlsrec_secret_bytes(r->aead); i++)
		differ |= last_rx.secret[i] ^ r->rx.secret[i];
	return last_rx.aead == r->aead && differ == 0;
}

/* TLS 1.3. The keys live until the next call. */
static bool rx_keys(const struct tlsrec *r, const uint8_t **key, const uint8_t **iv)
{
	if (!is_last_rx(r)) {
		memcpy(last_rx.secret, r->rx.secret, sizeof(last_rx.secret));
		last_rx.aead = r->aead;
		if (!derive_keys(r->aead, last_rx.secret, last_rx.key, last_rx.iv)) {
			explicit_bzero(&last_rx, sizeof(last_rx));
			return false;
		}
	}
	*key = last_rx.key;
	*iv = last_rx.iv;
	return true;
}

/* RFC 8446 7.2 */
static bool next_secret(enum tlsrec_aead aead, uint8_t *secret)
{
	uint8_t next[48];
	bool ok = expand_label(aead, secret, "traffic upd", next, tlsrec_secret_bytes(aead));

	if (ok)
		memcpy(secret, next, tlsrec_secret_bytes(aead));
	explicit_bzero(next, sizeof(next));
	return ok;
}

static bool next_rx(struct tlsrec *r)
{
	r->rx.seq = 0;
	return next_secret(r->aead, r->rx.secret);
}

static bool next_tx(struct tlsrec *r)
{
	r->tx.seq = 0;
	return next_secret(r->aead, r->tx.secret) &&
	       derive_keys(r->aead, r->tx.secret, r->tx.key, r->tx.iv);
}

bool tlsrec_init13(struct tlsrec *r, enum tlsrec_aead aead, bool client, const uint8_t *rx_secret,
	const uint8_t *tx_secret, uint32_t rx_seq, uint32_t tx_seq)
{
	memset(r, 0, sizeof(*r));
	r->aead = (uint8_t)aead;
	r->tls13 = 1;
	r->client = client;
	memcpy(r->rx.secret, rx_secret, tlsrec_secret_bytes(aead));
	memcpy(r->tx.secret, tx_secret, tlsrec_secret_bytes(aead));
	r->rx.seq = rx_seq;
	r->tx.seq = tx_seq;
	if (derive_keys(aead, r->tx.secret, r->tx.key, r->tx.iv))
		return true;
	tlsrec_wipe(r);
	return false;
}

void tlsrec_init12(struct tlsrec *r, enum tlsrec_aead aead, bool client, const uint8_t *rx_key,
	const uint8_t *rx_iv, const uint8_t *tx_key, const uint8_t *tx_iv, uint32_t rx_seq,
	uint32_t tx_seq, uint64_t tx_nonce)
{
	size_t iv_bytes = aead == TLSREC_CHACHA20_POLY1305 ? 12 : 4;

	memset(r, 0, sizeof(*r));
	r->aead = (uint8_t)aead;
	r->client = client;
	memcpy(r->rx.key, rx_key, tlsrec_key_bytes(aead));
	memcpy(r->tx.key, tx_key, tlsrec_key_bytes(aead));
	memcpy(r->rx.iv, rx_iv, iv_bytes);
	memcpy(r->tx.iv, tx_iv, iv_bytes);
	r->rx.seq = rx_seq;
	r->tx.seq = tx_seq;
	store_be64(r->tx.explicit_nonce, tx_nonce);
}

bool tlsrec_reads_with(const struct tlsrec *r, const uint8_t *key)
{
	const uint8_t *ours = r->rx.key, *iv;

	return (!r->tls13 || rx_keys(r, &ours, &iv)) &&
	       memcmp(ours, key, tlsrec_key_bytes(r->aead)) == 0;
}

void tlsrec_wipe(struct tlsrec *r)
{
	if (r->tls13 && last_rx.aead && is_last_rx(r))
		explicit_bzero(&last_rx, sizeof(last_rx));
	explicit_bzero(r, sizeof(*r));
	r->dead = 1;
}

static bool aead_run(const struct tlsrec *r, const uint8_t *key, bool seal, uint8_t *p, size_t n,
	uint8_t *tag, const uint8_t *aad, size_t aad_bytes, const uint8_t nonce[12])
{
	static _Thread_local Aes aes;
	static _Thread_local bool aes_ready;

	if (r->aead == TLSREC_CHACHA20_POLY1305) {
		/* In-place with a zero length is refused for a null pointer only; p is never null.
		 */
		if (seal)
			return wc_ChaCha20Poly1305_Encrypt(key, nonce, aad, (word32)aad_bytes, p,
				       (word32)n, p, tag) == 0;
		return wc_ChaCha20Poly1305_Decrypt(
			       key, nonce, aad, (word32)aad_bytes, p, (word32)n, tag, p) == 0;
	}
	if (!aes_ready) {
		if (wc_AesInit(&aes, NULL, INVALID_DEVID) != 0)
			return false;
		aes_ready = true;
	}
	if (wc_AesGcmSetKey(&aes, key, (word32)tlsrec_key_bytes(r->aead)) != 0)
		return false;
	if (seal)
		return wc_AesGcmEncrypt(&aes, p, p, (word32)n, nonce, 12, tag, TAG_BYTES, aad,
			       (word32)aad_bytes) == 0;
	return wc_AesGcmDecrypt(&aes, p, p, (word32)n, nonce, 12, tag, TAG_BYTES, aad,
		       (word32)aad_bytes) == 0;
}

/* RFC 8446 5.3 and RFC 7905: the sequence number, padded, xored into the IV. */
static void nonce_xor(const uint8_t *iv, uint32_t number, uint8_t nonce[12])
{
	uint8_t seq[4];

	memcpy(nonce, iv, 12);
	store_be32(seq, number);
	for (int i = 0; i < 4; i++)
		nonce[8 + i] ^= seq[i];
}

/* RFC 5246 6.2.3.3 */
static void aad12(uint32_t seq, uint8_t type, size_t n, uint8_t aad[13])
{
	store_be64(aad, seq);
	aad[8] = type;
	aad[9] = 3;
	aad[10] = 3;
	store_be16(aad + 11, (uint16_t)n);
}

/* One record of `type`. Returns its length, or 0 and a dead session when keys or sequence
 * numbers are used up. */
static size_t seal_record(
	struct tlsrec *r, uint8_t type, const uint8_t *plain, size_t n, uint8_t *out)
{
	struct tlsrec_tx *d = &r->tx;
	uint8_t nonce[12], aad[13];
	uint8_t *body = out + TLSREC_HEADER_BYTES;
	size_t body_bytes;
	bool ok;

	if (d->seq == UINT32_MAX) {
		r->dead = 1;
		return 0;
	}
	if (r->tls13) {
		memmove(body, plain, n);
		body[n] = type;
		body_bytes = n + 1 + TAG_BYTES;
		out[0] = TYPE_DATA;
		store_be16(out + 1, 0x0303);
		store_be16(out + 3, (uint16_t)body_bytes);
		nonce_xor(d->iv, d->seq, nonce);
		ok = aead_run(r, d->key, true, body, n + 1, body + n + 1, out, TLSREC_HEADER_BYTES,
			nonce);
	} else {
		size_t explicit_bytes = has_explicit_nonce(r) ? EXPLICIT_BYTES : 0;

		memmove(body + explicit_bytes, plain, n);
		body_bytes = explicit_bytes + n + TAG_BYTES;
		if (explicit_bytes) {
			memcpy(nonce, d->iv, 4);
			memcpy(nonce + 4, d->explicit_nonce, EXPLICIT_BYTES);
			memcpy(body, d->explicit_nonce, EXPLICIT_BYTES);
			store_be64(d->explicit_nonce, load_be64(d->explicit_nonce) + 1);
		} else {
			nonce_xor(d->iv, d->seq, nonce);
		}
		out[0] = type;
		store_be16(out + 1, 0x0303);
		store_be16(out + 3, (uint16_t)body_bytes);
		aad12(d->seq, type, n, aad);
		ok = aead_run(r, d->key, true, body + explicit_bytes, n, body + explicit_bytes + n,
			aad, sizeof(aad), nonce);
	}
	if (!ok) {
		/* Nothing of the plain text may leave by accident. */
		explicit_bzero(body, body_bytes);
		r->dead = 1;
		return 0;
	}
	d->seq++;
	return TLSREC_HEADER_BYTES + body_bytes;
}

static size_t seal_key_update(struct tlsrec *r, bool ask_peer, uint8_t *out)
{
	const uint8_t message[5] = {HS_KEY_UPDATE, 0, 0, 1, ask_peer};
	size_t n = seal_record(r, TYPE_HANDSHAKE, message, sizeof(message), out);

	if (n != 0 && !next_tx(r)) {
		r->dead = 1;
		return 0;
	}
	return n;
}

static size_t seal_alert(struct tlsrec *r, uint8_t level, uint8_t what, uint8_t *out)
{
	const uint8_t alert[2] = {level, what};

	return seal_record(r, TYPE_ALERT, alert, sizeof(alert), out);
}

/* RFC 8446 5.5 allows AES-GCM 2^24.5 records; replies sealed in between fit into the rest. */
static bool must_rekey(const struct tlsrec *r)
{
	return r->tls13 && r->tx.seq >= TLSREC_REKEY_RECORDS - 1;
}

enum { KEY_UPDATE_RECORD_BYTES = TLSREC_HEADER_BYTES + 5 + 1 + TAG_BYTES };

size_t tlsrec_plain_offset(const struct tlsrec *r)
{
	return TLSREC_HEADER_BYTES + (has_explicit_nonce(r) ? EXPLICIT_BYTES : 0) +
	       (must_rekey(r) ? KEY_UPDATE_RECORD_BYTES : 0);
}

size_t tlsrec_sealed_bytes(const struct tlsrec *r, size_t n)
{
	return tlsrec_plain_offset(r) + n + (r->tls13 ? 1 : 0) + TAG_BYTES;
}

size_t tlsrec_seal(struct tlsrec *r, const uint8_t *plain, size_t n, uint8_t *out)
{
	size_t update_bytes = 0;

	CHECK(n <= TLSREC_PLAIN_MAX);
	if (r->dead)
		return 0;
	if (must_rekey(r)) {
		/* The plain text may lie inside out: it moves before anything is written there. */
		uint8_t *moved = out + tlsrec_plain_offset(r);

		memmove(moved, plain, n);
		plain = moved;
		update_bytes = seal_key_update(r, false, out);
		if (update_bytes == 0)
			return 0;
	}
	size_t record_bytes = seal_record(r, TYPE_DATA, plain, n, out + update_bytes);
	return record_bytes ? update_bytes + record_bytes : 0;
}

size_t tlsrec_close_notify(struct tlsrec *r, uint8_t *out)
{
	if (r->dead)
		return 0;
	size_t n = seal_alert(r, ALERT_WARNING, AL_CLOSE_NOTIFY, out);
	r->dead = 1;
	return n;
}

size_t tlsrec_key_update(struct tlsrec *r, bool ask_peer, uint8_t *out)
{
	if (r->dead || !r->tls13)
		return 0;
	return seal_key_update(r, ask_peer, out);
}

/* --- reading --- */

static void refuse(struct tlsrec *r, struct tlsrec_in *in, uint8_t alert, const char *why)
{
	in->result = TLSREC_ERROR;
	in->why = why;
	in->data = NULL;
	in->data_bytes = 0;
	in->reply_bytes = seal_alert(r, ALERT_FATAL, alert, in->reply);
	r->dead = 1;
}

static void got_alert(struct tlsrec *r, const uint8_t *p, size_t n, struct tlsrec_in *in)
{
	if (n != 2) { /* RFC 8446 5.1: one whole alert per record */
		refuse(r, in, AL_DECODE_ERROR, "malformed alert");
		return;
	}
	if (p[1] == AL_CLOSE_NOTIFY) {
		in->result = TLSREC_CLOSED;
		in->reply_bytes = seal_alert(r, ALERT_WARNING, AL_CLOSE_NOTIFY, in->reply);
		r->dead = 1;
		return;
	}
	/* RFC 8446 6: the level is ignored in TLS 1.3; all but these two are fatal. */
	if (r->tls13 ? p[1] == AL_USER_CANCELED : p[0] == ALERT_WARNING) {
		in->result = TLSREC_HANDLED;
		return;
	}
	in->result = TLSREC_ERROR;
	in->why = "the peer sent a fatal alert";
	r->dead = 1;
}

static void got_key_update(struct tlsrec *r, const uint8_t *body, size_t n, struct tlsrec_in *in)
{
	if (n != 1) {
		refuse(r, in, AL_DECODE_ERROR, "malformed KeyUpdate");
		return;
	}
	if (body[0] > 1) {
		refuse(r, in, AL_ILLEGAL_PARAMETER, "KeyUpdate with an unknown request");
		return;
	}
	if (!next_rx(r)) {
		refuse(r, in, AL_INTERNAL_ERROR, "key derivation failed");
		return;
	}
	in->result = TLSREC_HANDLED;
	if (body[0] == 1) {
		in->reply_bytes = seal_key_update(r, false, in->reply);
		if (in->reply_bytes == 0) {
			in->result = TLSREC_ERROR;
			in->why = "key derivation failed";
		}
	}
}

static void got_handshake13(struct tlsrec *r, const uint8_t *p, size_t n, struct tlsrec_in *in)
{
	if (n == 0) { /* RFC 8446 5.1 */
		refuse(r, in, AL_UNEXPECTED_MESSAGE, "empty handshake record");
		return;
	}
	in->result = TLSREC_HANDLED;
	while (n > 0) {
		if (n < 4) {
			refuse(r, in, AL_UNEXPECTED_MESSAGE, "fragmented handshake message");
			return;
		}
		size_t body_bytes = (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
		if (body_bytes > n - 4) {
			refuse(r, in, AL_UNEXPECTED_MESSAGE, "fragmented handshake message");
			return;
		}
		if (p[0] == HS_KEY_UPDATE) {
			/* RFC 8446 5.1: no message may follow under the old key. */
			if (body_bytes != n - 4) {
				refuse(r, in, AL_UNEXPECTED_MESSAGE, "bytes behind a KeyUpdate");
				return;
			}
			got_key_update(r, p + 4, body_bytes, in);
			return;
		}
		if (p[0] != HS_NEW_SESSION_TICKET || !r->client) {
			refuse(r, in, AL_UNEXPECTED_MESSAGE, "unexpected handshake message");
			return;
		}
		p += 4 + body_bytes;
		n -= 4 + body_bytes;
	}
}

/* TLS 1.2: the only handshake message now is a wish to renegotiate, which is refused. */
static void got_handshake12(struct tlsrec *r, const uint8_t *p, size_t n, struct tlsrec_in *in)
{
	if (n < 4 || p[0] != (r->client ? HS_HELLO_REQUEST : HS_CLIENT_HELLO)) {
		refuse(r, in, AL_UNEXPECTED_MESSAGE, "unexpected handshake message");
		return;
	}
	in->result = TLSREC_HANDLED;
	in->reply_bytes = seal_alert(r, ALERT_WARNING, AL_NO_RENEGOTIATION, in->reply);
}

static void got_plain(struct tlsrec *r, uint8_t type, uint8_t *p, size_t n, struct tlsrec_in *in)
{
	if (n > TLSREC_PLAIN_MAX) {
		refuse(r, in, AL_RECORD_OVERFLOW, "record too long");
		return;
	}
	if (type == TYPE_DATA && n > 0) {
		r->run = 0;
		in->result = TLSREC_DATA;
		in->data = p;
		in->data_bytes = n;
		return;
	}
	/* Everything else costs us work and brings nothing: bounded. close_notify is welcome
	 * always. */
	if (++r->run > TLSREC_RUN_MAX && !(type == TYPE_ALERT && n == 2 && p[1] == 0)) {
		refuse(r, in, AL_UNEXPECTED_MESSAGE, "too many records without data");
		return;
	}
	switch (type) {
	case TYPE_DATA:
		in->result = TLSREC_DATA;
		in->data = p;
		break;
	case TYPE_ALERT:
		got_alert(r, p, n, in);
		break;
	case TYPE_HANDSHAKE:
		if (r->tls13)
			got_handshake13(r, p, n, in);
		else
			got_handshake12(r, p, n, in);
		break;
	default:
		refuse(r, in, AL_UNEXPECTED_MESSAGE, "unexpected record type");
	}
}

static void open13(struct tlsrec *r, uint8_t *p, size_t body_bytes, struct tlsrec_in *in)
{
	uint8_t *body = p + TLSREC_HEADER_BYTES;
	const uint8_t *key, *iv;
	uint8_t nonce[12];

	/* RFC 8446 5: change_cipher_spec is dropped during a handshake only. */
	if (p[0] != TYPE_DATA) {
		refuse(r, in, AL_UNEXPECTED_MESSAGE,
			p[0] == TYPE_CCS ? "change_cipher_spec after the handshake"
					 : "record in the clear");
		return;
	}
	if (body_bytes < 1 + TAG_BYTES) {
		refuse(r, in, AL_BAD_RECORD_MAC, "record too short");
		return;
	}
	size_t n = body_bytes - TAG_BYTES;
	if (!rx_keys(r, &key, &iv)) {
		refuse(r, in, AL_INTERNAL_ERROR, "key derivation failed");
		return;
	}
	nonce_xor(iv, r->rx.seq, nonce);
	if (!aead_run(r, key, false, body, n, body + n, p, TLSREC_HEADER_BYTES, nonce)) {
		refuse(r, in, AL_BAD_RECORD_MAC, "record does not authenticate");
		return;
	}
	r->rx.seq++;
	/* RFC 8446 5.4: the type is the last byte that is not padding; 5.2: with it the plain
	 * text has at most 2^14 + 1 bytes, padding included. */
	if (n > TLSREC_PLAIN_MAX + 1) {
		refuse(r, in, AL_RECORD_OVERFLOW, "record too long");
		return;
	}
	while (n > 0 && body[n - 1] == 0)
		n--;
	if (n == 0) {
		refuse(r, in, AL_UNEXPECTED_MESSAGE, "record of padding only");
		return;
	}
	/* The inner type may not be change_cipher_spec: got_plain refuses it. */
	got_plain(r, body[n - 1], body, n - 1, in);
}

static void open12(struct tlsrec *r, uint8_t *p, size_t body_bytes, struct tlsrec_in *in)
{
	uint8_t *body = p + TLSREC_HEADER_BYTES;
	size_t explicit_bytes = has_explicit_nonce(r) ? EXPLICIT_BYTES : 0;
	uint8_t nonce[12], aad[13];

	if (load_be16(p + 1) != 0x0303) {
		refuse(r, in, AL_PROTOCOL_VERSION, "record of another version");
		return;
	}
	if (body_bytes < explicit_bytes + TAG_BYTES) {
		refuse(r, in, AL_BAD_RECORD_MAC, "record too short");
		return;
	}
	size_t n = body_bytes - explicit_bytes - TAG_BYTES;
	if (explicit_bytes) {
		memcpy(nonce, r->rx.iv, 4);
		memcpy(nonce + 4, body, EXPLICIT_BYTES);
	} else {
		nonce_xor(r->rx.iv, r->rx.seq, nonce);
	}
	aad12(r->rx.seq, p[0], n, aad);
	body += explicit_bytes;
	if (!aead_run(r, r->rx.key, false, body, n, body + n, aad, sizeof(aad), nonce)) {
		refuse(r, in, AL_BAD_RECORD_MAC, "record does not authenticate");
		return;
	}
	r->rx.seq++;
	got_plain(r, p[0], body, n, in);
}

void tlsrec_open(struct tlsrec *r, uint8_t *p, size_t n, struct tlsrec_in *in)
{
	in->result = TLSREC_NEED_MORE;
	in->consumed = 0;
	in->data = NULL;
	in->data_bytes = 0;
	in->reply_bytes = 0;
	in->why = NULL;

	if (r->dead) {
		in->result = TLSREC_ERROR;
		in->why = "session already closed";
		return;
	}
	if (n < TLSREC_HEADER_BYTES)
		return;
	size_t body_bytes = load_be16(p + 3);
	/* Before the body is there: nobody makes us wait for bytes we would refuse. */
	if (body_bytes > TLSREC_RECORD_MAX - TLSREC_HEADER_BYTES) {
		refuse(r, in, AL_RECORD_OVERFLOW, "record too long");
		return;
	}
	if (p[0] < TYPE_CCS || p[0] > TYPE_DATA) {
		refuse(r, in, AL_UNEXPECTED_MESSAGE, "not a TLS record");
		return;
	}
	if (n - TLSREC_HEADER_BYTES < body_bytes)
		return;
	if (r->rx.seq == UINT32_MAX) {
		refuse(r, in, AL_INTERNAL_ERROR, "too many records under one key");
		return;
	}
	in->consumed = TLSREC_HEADER_BYTES + body_bytes;
	if (r->tls13)
		open13(r, p, body_bytes, in);
	else
		open12(r, p, body_bytes, in);
}
