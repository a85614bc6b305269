/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Tickets (RFC 5077, RFC 8446 4.6.1).
 * Stateless: the key of a period follows from the seed, so threads, contexts and nodes agree
 * without telling each other. */
#include "io/tls_priv.h"

#include "core/base/check.h"

#include <wolfssl/wolfcrypt/chacha20_poly1305.h>
#include <wolfssl/wolfcrypt/hmac.h>

#include <string.h>
#include <sys/random.h>

enum { TICKET_TAG_BYTES = 16 };

_Static_assert(sizeof(((struct ticket_key *)0)->key) == CHACHA20_POLY1305_AEAD_KEYSIZE, "key size");

void tls_ctx_ticket_seed(const struct tls_ctx *c, uint8_t seed_out[TLS_TICKET_SEED_BYTES])
{
	CHECK(!c->client);
	memcpy(seed_out, c->ticket_seed, TLS_TICKET_SEED_BYTES);
}

static bool ticket_key_of(const struct tls_ctx *c, uint64_t period, struct ticket_key *out)
{
	uint8_t info[24] = "roost ticket v1\0", mac[64];
	Hmac hmac;
	bool ok = false;

	store_be64(info + 16, period);
	if (wc_HmacInit(&hmac, NULL, INVALID_DEVID) != 0)
		return false;
	if (wc_HmacSetKey(&hmac, WC_SHA512, c->ticket_seed, sizeof(c->ticket_seed)) == 0 &&
		wc_HmacUpdate(&hmac, info, sizeof(info)) == 0 && wc_HmacFinal(&hmac, mac) == 0) {
		memcpy(out->name, mac, sizeof(out->name));
		memcpy(out->key, mac + 32, sizeof(out->key));
		ok = true;
	}
	wc_HmacFree(&hmac);
	explicit_bzero(mac, sizeof(mac));
	return ok;
}
/* Several threads may share a context. */
static bool ticket_keys(struct tls_ctx *c, struct ticket_key out[TICKET_PERIODS])
{
	uint64_t now = c->wall_ms() / 1000 / c->ticket_rotate_s;
	bool ok = true;

	pthread_mutex_lock(&c->ticket_mutex);
	if (!c->ticket_keys_known || c->ticket_period != now) {
		/* The next period too: another node's clock may be a little ahead. */
		ok = ticket_key_of(c, now, &c->ticket_keys[TICKET_NOW]) &&
		     ticket_key_of(c, now - 1, &c->ticket_keys[TICKET_BEFORE]) &&
		     ticket_key_of(c, now + 1, &c->ticket_keys[TICKET_NEXT]);
		c->ticket_keys_known = ok;
		c->ticket_period = now;
	}
	memcpy(out, c->ticket_keys, sizeof(c->ticket_keys));
	pthread_mutex_unlock(&c->ticket_mutex);
	return ok;
}
_Static_assert(WOLFSSL_TICKET_NAME_SZ <= 32 && WOLFSSL_TICKET_IV_SZ >= 12 &&
		       WOLFSSL_TICKET_MAC_SZ >= TICKET_TAG_BYTES,
	"ticket layout");

/* wolfSSL 5.5.4 believes the length inside a ticket up to 32 bytes beyond what the client sent, so
 * a decryption in place would write behind its buffer. All our tickets have one length; another
 * one is refused. It is learned from the first ticket made: until then nothing is resumed. */
static _Atomic int ticket_plain_bytes;

void tls_ticket_learn(struct tls_ctx *server)
{
	const struct tls_client_options o = {.want_ticket = true};
	struct tls_ctx *c;
	struct tls_hs *ours, *theirs;
	struct buf up = {0}, down = {0};
	char why[256];
	size_t used;

	if (atomic_load_explicit(&ticket_plain_bytes, memory_order_relaxed))
		return;
	c = tls_client_new(&o, why, sizeof(why));
	ours = tls_hs_server(server);
	theirs = c ? tls_hs_client(c, NULL, NULL) : NULL;
	if (ours && theirs)
		tls_hs_feed(theirs, NULL, 0, &used, &up);
	for (int turns = 0; ours && theirs && turns < 8 &&
			    !atomic_load_explicit(&ticket_plain_bytes, memory_order_relaxed);
		turns++) {
		if (tls_hs_feed(ours, up.p, up.n, &used, &down) == TLS_HS_FAILED)
			break;
		up.n = 0;
		if (tls_hs_feed(theirs, down.p, down.n, &used, &up) == TLS_HS_FAILED)
			break;
		down.n = 0;
	}
	tls_hs_free(&ours);
	tls_hs_free(&theirs);
	tls_ctx_unref(&c);
	buf_free(&up);
	buf_free(&down);
}

int tls_ticket_cb(WOLFSSL *ssl, unsigned char *name, unsigned char *iv, unsigned char *mac, int enc,
	unsigned char *p, int n, int *n_out, void *arg)
{
	struct tls_ctx *c = arg;
	struct ticket_key keys[TICKET_PERIODS];
	int result = WOLFSSL_TICKET_RET_REJECT;

	*n_out = n;
	if (enc) {
		const struct ticket_key *k = &keys[TICKET_NOW];

		result = WOLFSSL_TICKET_RET_FATAL;
		atomic_store_explicit(&ticket_plain_bytes, n, memory_order_relaxed);
		memset(iv, 0, WOLFSSL_TICKET_IV_SZ);
		memset(mac, 0, WOLFSSL_TICKET_MAC_SZ);
		/* 96 random bits per ticket: far below the birthday bound in one period. */
		if (ticket_keys(c, keys) && getrandom(iv, 12, 0) == 12) {
			memcpy(name, k->name, sizeof(k->name));
			if (wc_ChaCha20Poly1305_Encrypt(
				    k->key, iv, name, sizeof(k->name), p, (word32)n, p, mac) == 0)
				result = WOLFSSL_TICKET_RET_OK;
		}
		explicit_bzero(keys, sizeof(keys));
		return result;
	}
	if (n != atomic_load_explicit(&ticket_plain_bytes, memory_order_relaxed))
		return result;
	if (!ticket_keys(c, keys))
		return result;
	for (int i = 0; i < TICKET_PERIODS && result == WOLFSSL_TICKET_RET_REJECT; i++) {
		const struct ticket_key *k = &keys[i];

		if (memcmp(name, k->name, sizeof(k->name)) != 0)
			continue;
		if (wc_ChaCha20Poly1305_Decrypt(
			    k->key, iv, name, sizeof(k->name), p, (word32)n, mac, p) != 0)
			break;
		/* TLS 1.3 clients get a new ticket anyway, and wolfSSL takes CREATE for a refusal
		 * there. A TLS 1.2 client would go on with a ticket about to die (5.5.4 forgets
		 * to send the new one; later versions do). */
		result = i == TICKET_NOW || wolfSSL_version(ssl) == TLS1_3_VERSION
				 ? WOLFSSL_TICKET_RET_OK
				 : WOLFSSL_TICKET_RET_CREATE;
	}
	explicit_bzero(keys, sizeof(keys));
	return result;
}
