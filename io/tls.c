/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <wolfssl/options.h>
#include <wolfssl/wolfcrypt/settings.h>
#include <wolfssl/ssl.h>
#include <wolfssl/error-ssl.h>
#include <wolfssl/wolfcrypt/asn_public.h>
#include <wolfssl/wolfcrypt/chacha20_poly1305.h>
#include <wolfssl/wolfcrypt/ecc.h>
#include <wolfssl/wolfcrypt/hmac.h>
#include <wolfssl/wolfcrypt/kdf.h>
#include <wolfssl/wolfcrypt/random.h>

#include "io/tls.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	PEM_FILE_MAX = 1 << 20,
	LEAF_DER_MAX = 1 << 16,
	HANDSHAKE_BYTES_MAX = 64 * 1024,
	HELLO_BYTES_MAX = TLSREC_PLAIN_MAX,
	/* A ClientHello in more pieces than this is somebody playing. */
	HELLO_RECORDS_MAX = 64,
	TICKET_TAG_BYTES = 16,
	EXPIRY_WARNING_S = 14 * 86400,
};

enum { TYPE_CCS = 20, TYPE_ALERT = 21, TYPE_HANDSHAKE = 22, TYPE_DATA = 23 };

enum { AL_RECORD_OVERFLOW = 22, AL_HANDSHAKE_FAILURE = 40, AL_DECODE_ERROR = 50 };
enum { AL_PROTOCOL_VERSION = 70, AL_UNEXPECTED_MESSAGE = 10, AL_INTERNAL_ERROR = 80 };

/* A key type that decides which signature the client must understand. */
enum key_kind { KEY_RSA, KEY_P256, KEY_P384, KEY_P521 };

struct pair {
	WOLFSSL_CTX *wolf;
	char **names; /* lower case */
	size_t name_count;
	enum key_kind kind;
	int64_t expires_s; /* Unix time */
};

struct tls_ctx {
	_Atomic unsigned refs;
	bool client, want_ticket, verify;
	struct pair *pairs; /* client: one, without names */
	size_t pair_count;
	uint8_t ticket_seed[32];
	uint32_t ticket_rotate_s;
	uint64_t (*wall_ms)(void);
};

struct suite {
	uint16_t id;
	bool tls13;
	enum tlsrec_aead aead;
	const char *name;
};

struct tls_hs {
	struct tls_ctx *ctx;
	WOLFSSL *ssl;
	bool begun, finished, done, failed, not_tls, got_ticket, resumed;
	const struct suite *suite; /* once finished */
	const char *why;
	struct buf in;    /* a record that has not come whole */
	struct buf hello; /* a ClientHello in several records, put together into one */
	unsigned hello_records;
	size_t total_in;
	/* The one record wolfSSL may read now. */
	const uint8_t *rec;
	size_t rec_n, rec_used;
	struct buf *out; /* during a call only */
	bool sent_any;
	bool owes_ccs; /* server: a change_cipher_spec goes out behind the next record */
	/* TLS 1.3 application traffic secrets: of the client, of the server. */
	uint8_t secret[2][48];
	uint8_t got_secrets;
	uint8_t last_nonce[8]; /* first bytes of the last record sent: TLS 1.2 GCM goes on from it
				*/
};

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

struct tls_session {
	WOLFSSL_SESSION *wolf;
};

#define CIPHERS_AES                                                                                \
	"TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384:TLS13-CHACHA20-POLY1305-SHA256:"          \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                               \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"                               \
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
/* Without AES in hardware ChaCha20 is twice as fast, and free of cache timing. */
#define CIPHERS_CHACHA                                                                             \
	"TLS13-CHACHA20-POLY1305-SHA256:TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384:"          \
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"                               \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                               \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"

static bool fast_aes(void)
{
#if defined(WOLFSSL_AESNI) && (defined(__x86_64__) || defined(__i386__))
	return __builtin_cpu_supports("aes");
#elif defined(WOLFSSL_ARMASM)
	return true;
#else
	return false;
#endif
}

const char *tls_library(void)
{
	static char text[64];
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&mutex);
	if (text[0] == 0)
		snprintf(text, sizeof(text), "wolfSSL %s (%s%s)", wolfSSL_lib_version(),
#ifdef HAVE_SECRET_CALLBACK
			"own build",
#else
			"distribution's",
#endif
			fast_aes() ? ", AES-NI" : "");
	pthread_mutex_unlock(&mutex);
	return text;
}

static void library_init(void)
{
	CHECK(wolfSSL_Init() == WOLFSSL_SUCCESS);
}

static void library_ready(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, library_init);
}

static const char *wolf_reason(int err)
{
	const char *s = wolfSSL_ERR_reason_error_string((unsigned long)(long)err);

	return s ? s : "unknown error";
}

/* --- tickets (RFC 5077, RFC 8446 4.6.1) ---
 * Stateless: the key of a period follows from the seed, so threads, contexts and nodes agree
 * without telling each other. */

struct ticket_key {
	uint8_t name[WOLFSSL_TICKET_NAME_SZ];
	uint8_t key[CHACHA20_POLY1305_AEAD_KEYSIZE];
};

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
_Static_assert(WOLFSSL_TICKET_NAME_SZ <= 32 && WOLFSSL_TICKET_IV_SZ >= 12 &&
		       WOLFSSL_TICKET_MAC_SZ >= TICKET_TAG_BYTES,
	"ticket layout");

/* wolfSSL 5.5.4 believes the length inside a ticket up to 32 bytes beyond what the client sent, so
 * a decryption in place would write behind its buffer. All our tickets have one length; another
 * one is refused. It is learned from the first ticket made: until then nothing is resumed. */
static _Atomic int ticket_plain_bytes;

static int ticket_cb(WOLFSSL *ssl, unsigned char *name, unsigned char *iv, unsigned char *mac,
	int enc, unsigned char *p, int n, int *n_out, void *arg)
{
	const struct tls_ctx *c = arg;
	uint64_t now = c->wall_ms() / 1000 / c->ticket_rotate_s;
	struct ticket_key k;
	int result = WOLFSSL_TICKET_RET_REJECT;

	*n_out = n;
	if (enc) {
		result = WOLFSSL_TICKET_RET_FATAL;
		atomic_store_explicit(&ticket_plain_bytes, n, memory_order_relaxed);
		memset(iv, 0, WOLFSSL_TICKET_IV_SZ);
		memset(mac, 0, WOLFSSL_TICKET_MAC_SZ);
		/* 96 random bits per ticket: far below the birthday bound in one period. */
		if (ticket_key_of(c, now, &k) && getrandom(iv, 12, 0) == 12) {
			memcpy(name, k.name, sizeof(k.name));
			if (wc_ChaCha20Poly1305_Encrypt(
				    k.key, iv, name, sizeof(k.name), p, (word32)n, p, mac) == 0)
				result = WOLFSSL_TICKET_RET_OK;
		}
		explicit_bzero(&k, sizeof(k));
		return result;
	}
	if (n != atomic_load_explicit(&ticket_plain_bytes, memory_order_relaxed))
		return result;
	/* The next period too: another node's clock may be a little ahead. */
	const uint64_t periods[] = {now, now - 1, now + 1};
	for (size_t i = 0; i < ARRAY_LEN(periods) && result == WOLFSSL_TICKET_RET_REJECT; i++) {
		if (!ticket_key_of(c, periods[i], &k) || memcmp(name, k.name, sizeof(k.name)) != 0)
			continue;
		if (wc_ChaCha20Poly1305_Decrypt(
			    k.key, iv, name, sizeof(k.name), p, (word32)n, mac, p) != 0)
			break;
		/* TLS 1.3 clients get a new ticket anyway, and wolfSSL takes CREATE for a refusal
		 * there. A TLS 1.2 client would go on with a ticket about to die (5.5.4 forgets
		 * to send the new one; later versions do). */
		result = i == 0 || wolfSSL_version(ssl) == TLS1_3_VERSION
				 ? WOLFSSL_TICKET_RET_OK
				 : WOLFSSL_TICKET_RET_CREATE;
	}
	explicit_bzero(&k, sizeof(k));
	return result;
}

/* --- what wolfSSL calls --- */

static int receive_cb(WOLFSSL *ssl, char *p, int n, void *arg)
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

static int send_cb(WOLFSSL *ssl, char *data, int n, void *arg)
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

static int hkdf_cb(byte *okm, word32 okm_n, const byte *prk, word32 prk_n, const byte *protocol,
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

static int new_ticket_cb(WOLFSSL *ssl, const unsigned char *ticket, int n, void *arg)
{
	struct tls_hs *h = arg;

	(void)ssl;
	(void)ticket;
	h->got_ticket = n > 0;
	return 0;
}

/* --- certificates --- */

static bool der_take(struct bytes *in, uint8_t *tag_out, struct bytes *body_out)
{
	size_t at = 2, n;

	if (in->n < 2)
		return false;
	n = in->p[1];
	if (n & 0x80) {
		size_t count = n & 0x7f;
		if (count == 0 || count > 3 || in->n < 2 + count)
			return false;
		n = 0;
		for (size_t i = 0; i < count; i++)
			n = n << 8 | in->p[at++];
	}
	if (n > in->n - at)
		return false;
	*tag_out = in->p[0];
	*body_out = bytes_of(in->p + at, n);
	in->p += at + n;
	in->n -= at + n;
	return true;
}

static bool der_expect(struct bytes *in, uint8_t tag, struct bytes *body_out)
{
	struct bytes rest = *in, body;
	uint8_t found;

	if (!der_take(&rest, &found, &body) || found != tag)
		return false;
	*in = rest;
	*body_out = body;
	return true;
}

enum { DER_INTEGER = 2, DER_BIT_STRING = 3, DER_OCTETS = 4, DER_OID = 6, DER_UTC = 0x17 };
enum { DER_GENERALIZED = 0x18, DER_SEQUENCE = 0x30, DER_SET = 0x31, DER_EXTENSIONS = 0xa3 };
enum { DER_VERSION = 0xa0, SAN_DNS = 0x82, SAN_IP = 0x87 };

/* YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ (RFC 5280 4.1.2.5) */
static bool der_time(uint8_t tag, struct bytes b, int64_t *unix_s_out)
{
	struct tm tm = {0};
	int part[7], count = 0;
	size_t at = 0;

	for (size_t i = 0; i + 1 < b.n; i++)
		if (!isdigit(b.p[i]))
			return false;
	if (b.n != (tag == DER_UTC ? 13u : 15u))
		return false;
	while (at + 2 < b.n && count < 7) {
		part[count++] = (b.p[at] - '0') * 10 + b.p[at + 1] - '0';
		at += 2;
	}
	int *rest = part + 1;
	if (tag == DER_UTC) {
		tm.tm_year = part[0] < 50 ? part[0] + 100 : part[0];
	} else {
		tm.tm_year = part[0] * 100 + part[1] - 1900;
		rest++;
	}
	tm.tm_mon = rest[0] - 1;
	tm.tm_mday = rest[1];
	tm.tm_hour = rest[2];
	tm.tm_min = rest[3];
	tm.tm_sec = rest[4];
	*unix_s_out = timegm(&tm);
	return true;
}

static bool pair_add_name(struct pair *p, struct bytes name)
{
	char **more = realloc(p->names, (p->name_count + 1) * sizeof(*more));

	if (!more)
		return false;
	p->names = more;
	char *copy = malloc(name.n + 1);
	if (!copy)
		return false;
	for (size_t i = 0; i < name.n; i++)
		copy[i] = (char)tolower(name.p[i]);
	copy[name.n] = 0;
	p->names[p->name_count++] = copy;
	return true;
}

/* subjectAltName, or else the last CN of the subject (RFC 6125 6.4.4). */
static bool read_names(struct pair *p, struct bytes subject, struct bytes extensions)
{
	static const uint8_t san_oid[] = {0x55, 0x1d, 0x11}, cn_oid[] = {0x55, 0x04, 0x03};
	struct bytes ext, oid, value, names, name, set, attribute, cn = {0};
	uint8_t tag;

	while (der_expect(&extensions, DER_SEQUENCE, &ext)) {
		if (!der_expect(&ext, DER_OID, &oid) ||
			!bytes_eq(oid, bytes_of(san_oid, sizeof(san_oid))))
			continue;
		/* `critical` may stand in between */
		while (der_take(&ext, &tag, &value))
			if (tag == DER_OCTETS && der_expect(&value, DER_SEQUENCE, &names))
				while (der_take(&names, &tag, &name))
					if (tag == SAN_DNS && !pair_add_name(p, name))
						return false;
		if (p->name_count > 0)
			return true;
	}
	while (der_expect(&subject, DER_SET, &set))
		while (der_expect(&set, DER_SEQUENCE, &attribute))
			if (der_expect(&attribute, DER_OID, &oid) &&
				bytes_eq(oid, bytes_of(cn_oid, sizeof(cn_oid))) &&
				der_take(&attribute, &tag, &value))
				cn = value;
	return cn.n == 0 || pair_add_name(p, cn);
}

/* Reads what we need of a leaf certificate (RFC 5280 4.1): names, key type, public key, expiry.
 * Our own reader, because what wolfSSL offers differs between its builds. */
static const char *read_leaf(struct pair *p, struct bytes der, struct bytes *public_key_out)
{
	static const uint8_t ec_oid[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01};
	static const uint8_t rsa_oid[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01};
	static const uint8_t p256_oid[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
	static const uint8_t p384_oid[] = {0x2b, 0x81, 0x04, 0x00, 0x22};
	static const uint8_t p521_oid[] = {0x2b, 0x81, 0x04, 0x00, 0x23};
	struct bytes cert, tbs, skip, validity, subject, spki, algorithm, oid, curve, t;
	struct bytes extensions = {0}, wrapped;
	uint8_t tag;

	if (!der_expect(&der, DER_SEQUENCE, &cert) || !der_expect(&cert, DER_SEQUENCE, &tbs))
		return "not a certificate";
	der_expect(&tbs, DER_VERSION, &skip);
	if (!der_expect(&tbs, DER_INTEGER, &skip) || !der_expect(&tbs, DER_SEQUENCE, &skip) ||
		!der_expect(&tbs, DER_SEQUENCE, &skip) ||
		!der_expect(&tbs, DER_SEQUENCE, &validity) ||
		!der_expect(&tbs, DER_SEQUENCE, &subject) ||
		!der_expect(&tbs, DER_SEQUENCE, &spki) ||
		!der_expect(&spki, DER_SEQUENCE, &algorithm) ||
		!der_expect(&algorithm, DER_OID, &oid) ||
		!der_expect(&spki, DER_BIT_STRING, public_key_out))
		return "not a certificate";
	if (!der_take(&validity, &tag, &skip) || !der_take(&validity, &tag, &t) ||
		!der_time(tag, t, &p->expires_s))
		return "cannot read when it expires";
	while (der_take(&tbs, &tag, &wrapped))
		if (tag == DER_EXTENSIONS)
			der_expect(&wrapped, DER_SEQUENCE, &extensions);
	if (!read_names(p, subject, extensions))
		return "out of memory";
	if (bytes_eq(oid, bytes_of(rsa_oid, sizeof(rsa_oid)))) {
		p->kind = KEY_RSA;
		return NULL;
	}
	if (bytes_eq(oid, bytes_of(ec_oid, sizeof(ec_oid))) &&
		der_expect(&algorithm, DER_OID, &curve)) {
		if (bytes_eq(curve, bytes_of(p256_oid, sizeof(p256_oid)))) {
			p->kind = KEY_P256;
			return NULL;
		}
		if (bytes_eq(curve, bytes_of(p384_oid, sizeof(p384_oid)))) {
			p->kind = KEY_P384;
			return NULL;
		}
		if (bytes_eq(curve, bytes_of(p521_oid, sizeof(p521_oid)))) {
			p->kind = KEY_P521;
			return NULL;
		}
	}
	return "its key is neither RSA nor ECDSA on P-256, P-384 or P-521";
}

/* Whether a private key (PEM) belongs to the point in a certificate's BIT STRING. wolfSSL has a
 * check of its own, but the distribution's build lets any key on the same curve pass. */
static bool ec_key_fits(const uint8_t *pem, size_t n, struct bytes public_key)
{
	uint8_t der[2048], point[1 + 2 * 66];
	word32 at = 0, point_n = sizeof(point);
	ecc_key key;
	bool fits = false;
	int der_n = wc_KeyPemToDer(pem, (int)n, der, sizeof(der), NULL);

	if (der_n > 0 && wc_ecc_init(&key) == 0) {
		fits = wc_EccPrivateKeyDecode(der, &at, &key, (word32)der_n) == 0 &&
		       wc_ecc_make_pub(&key, NULL) == 0 &&
		       wc_ecc_export_x963(&key, point, &point_n) == 0 && public_key.n > 1 &&
		       /* the first byte counts unused bits */
		       bytes_eq(bytes_of(point, point_n),
			       bytes_of(public_key.p + 1, public_key.n - 1));
		wc_ecc_free(&key);
	}
	explicit_bzero(der, sizeof(der));
	return fits;
}

/* The whole file, NUL behind it; NULL with the cause in why. */
static uint8_t *read_file(const char *path, size_t *n_out, char *why, size_t why_bytes)
{
	FILE *f = fopen(path, "rbe");
	uint8_t *p = NULL;
	size_t n = 0;

	if (!f) {
		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
		return NULL;
	}
	p = malloc(PEM_FILE_MAX + 1);
	if (p)
		n = fread(p, 1, PEM_FILE_MAX + 1, f);
	if (!p || ferror(f) || n > PEM_FILE_MAX) {
		snprintf(why, why_bytes, "%s: %s", path,
			!p          ? "out of memory"
			: ferror(f) ? strerror(errno)
				    : "larger than 1 MB");
		if (p)
			explicit_bzero(p, n);
		free(p);
		p = NULL;
	} else {
		p[n] = 0;
		*n_out = n;
	}
	fclose(f);
	return p;
}

static bool wolf_common(WOLFSSL_CTX *w, const char *ciphers, char *why, size_t why_bytes)
{
	wolfSSL_CTX_SetIORecv(w, receive_cb);
	wolfSSL_CTX_SetIOSend(w, send_cb);
#ifndef HAVE_SECRET_CALLBACK
	wolfSSL_CTX_SetHKDFExpandLabelCb(w, hkdf_cb);
#endif
	if (!ciphers)
		ciphers = fast_aes() ? CIPHERS_AES : CIPHERS_CHACHA;
	if (wolfSSL_CTX_SetMinVersion(w, WOLFSSL_TLSV1_2) != WOLFSSL_SUCCESS ||
		wolfSSL_CTX_set_cipher_list(w, ciphers) != WOLFSSL_SUCCESS) {
		snprintf(why, why_bytes, "TLS library refuses the cipher list");
		return false;
	}
	return true;
}

static bool pair_load(struct tls_ctx *c, struct pair *p, const struct tls_pair *files, char *why,
	size_t why_bytes)
{
	int groups[] = {WOLFSSL_ECC_X25519, WOLFSSL_ECC_SECP256R1};
	size_t cert_n = 0, key_n = 0;
	uint8_t *key = NULL, *der = NULL;
	uint8_t *cert = read_file(files->certificate_file, &cert_n, why, why_bytes);
	bool ok = false;
	int err;

	if (!cert)
		return false;
	key = read_file(files->key_file, &key_n, why, why_bytes);
	if (!key)
		goto out;
	der = malloc(LEAF_DER_MAX);
	p->wolf = wolfSSL_CTX_new(wolfSSLv23_server_method());
	if (!der || !p->wolf) {
		snprintf(why, why_bytes, "%s: out of memory", files->certificate_file);
		goto out;
	}
	if (!wolf_common(p->wolf, NULL, why, why_bytes))
		goto out;
	err = wc_CertPemToDer(cert, (int)cert_n, der, LEAF_DER_MAX, CERT_TYPE);
	if (err <= 0) {
		snprintf(why, why_bytes, "%s: no PEM certificate in it (%s)",
			files->certificate_file, wolf_reason(err));
		goto out;
	}
	struct bytes public_key;
	const char *bad = read_leaf(p, bytes_of(der, (size_t)err), &public_key);
	if (bad) {
		snprintf(why, why_bytes, "%s: %s", files->certificate_file, bad);
		goto out;
	}
	err = wolfSSL_CTX_use_certificate_chain_buffer(p->wolf, cert, (long)cert_n);
	if (err != WOLFSSL_SUCCESS) {
		snprintf(why, why_bytes, "%s: cannot use this certificate chain (%s)",
			files->certificate_file, wolf_reason(err));
		goto out;
	}
	if (strstr((char *)key, "ENCRYPTED")) {
		snprintf(why, why_bytes, "%s: the key is encrypted; store it without a passphrase",
			files->key_file);
		goto out;
	}
	err = wolfSSL_CTX_use_PrivateKey_buffer(p->wolf, key, (long)key_n, WOLFSSL_FILETYPE_PEM);
	/* A key of another type may fail here already, one of the same type in the next step. */
	if (err != WOLFSSL_SUCCESS && !strstr((char *)key, "PRIVATE KEY")) {
		snprintf(why, why_bytes, "%s: no PEM private key in it", files->key_file);
		goto out;
	}
	if (err != WOLFSSL_SUCCESS) {
		snprintf(why, why_bytes, "%s: cannot use this private key with %s (%s)",
			files->key_file, files->certificate_file, wolf_reason(err));
		goto out;
	}
	if (wolfSSL_CTX_check_private_key(p->wolf) != WOLFSSL_SUCCESS ||
		(p->kind != KEY_RSA && !ec_key_fits(key, key_n, public_key))) {
		snprintf(why, why_bytes, "%s: this key does not belong to the certificate in %s",
			files->key_file, files->certificate_file);
		goto out;
	}
	wolfSSL_CTX_set_session_cache_mode(p->wolf, WOLFSSL_SESS_CACHE_OFF);
	/* wolfSSL refuses a TLS 1.3 ticket older than the session timeout (500 s unless set). */
	if (wolfSSL_CTX_set_groups(p->wolf, groups, ARRAY_LEN(groups)) != WOLFSSL_SUCCESS ||
		wolfSSL_CTX_set_TicketEncCb(p->wolf, ticket_cb) != WOLFSSL_SUCCESS ||
		wolfSSL_CTX_set_TicketEncCtx(p->wolf, c) != WOLFSSL_SUCCESS ||
		wolfSSL_CTX_set_TicketHint(p->wolf, (int)(2 * c->ticket_rotate_s)) !=
			WOLFSSL_SUCCESS ||
		wolfSSL_CTX_set_timeout(p->wolf, 2 * c->ticket_rotate_s) <= 0) {
		snprintf(why, why_bytes, "TLS library refuses its settings");
		goto out;
	}
	ok = true;
out:
	if (key)
		explicit_bzero(key, key_n);
	free(key);
	free(cert);
	free(der);
	return ok;
}

static void pair_free(struct pair *p)
{
	for (size_t i = 0; i < p->name_count; i++)
		free(p->names[i]);
	free(p->names);
	if (p->wolf)
		wolfSSL_CTX_free(p->wolf);
}

static struct tls_ctx *ctx_new(size_t pair_count, char *why, size_t why_bytes)
{
	struct tls_ctx *c = calloc(1, sizeof(*c));
	struct pair *pairs = calloc(pair_count ? pair_count : 1, sizeof(*pairs));

	library_ready();
	if (!c || !pairs) {
		snprintf(why, why_bytes, "out of memory");
		free(c);
		free(pairs);
		return NULL;
	}
	c->pairs = pairs;
	c->pair_count = pair_count;
	atomic_init(&c->refs, 1);
	return c;
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void tls_ctx_unref(struct tls_ctx **cp)
{
	struct tls_ctx *c = *cp;

	*cp = NULL;
	if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < c->pair_count; i++)
		pair_free(&c->pairs[i]);
	free(c->pairs);
	explicit_bzero(c, sizeof(*c));
	free(c);
}

static void warn_expiry(const struct tls_ctx *c, const struct tls_options *o)
{
	int64_t now_s = (int64_t)(c->wall_ms() / 1000);

	for (size_t i = 0; i < c->pair_count; i++) {
		int64_t left_s = c->pairs[i].expires_s - now_s;
		if (left_s >= EXPIRY_WARNING_S)
			continue;
		struct log_line l;
		log_begin(&l, LOG_WARNING,
			left_s < 0 ? "tls: certificate has expired"
				   : "tls: certificate expires soon");
		log_str(&l, "file", o->pairs[i].certificate_file);
		log_i64(&l, "days_left", left_s / 86400);
		log_end(&l);
	}
}

struct tls_ctx *tls_server_new(const struct tls_options *o, char *why, size_t why_bytes)
{
	if (o->pair_count == 0) {
		snprintf(why, why_bytes, "no certificate given");
		return NULL;
	}
	/* RFC 8446 4.6.1: a ticket lives for at most seven days. */
	if (o->ticket_rotate_s > 7 * 86400 / 2) {
		snprintf(why, why_bytes, "ticket rotation above 302400 s");
		return NULL;
	}
	struct tls_ctx *c = ctx_new(o->pair_count, why, why_bytes);
	if (!c)
		return NULL;
	c->ticket_rotate_s = o->ticket_rotate_s ? o->ticket_rotate_s : 3600;
	c->wall_ms = o->wall_ms ? o->wall_ms : clock_wall_ms;
	if (o->ticket_seed) {
		memcpy(c->ticket_seed, o->ticket_seed, sizeof(c->ticket_seed));
	} else if (getrandom(c->ticket_seed, sizeof(c->ticket_seed), 0) !=
		   (ssize_t)sizeof(c->ticket_seed)) {
		snprintf(why, why_bytes, "no random numbers: %s", strerror(errno));
		tls_ctx_unref(&c);
		return NULL;
	}
	for (size_t i = 0; i < o->pair_count; i++) {
		if (!pair_load(c, &c->pairs[i], &o->pairs[i], why, why_bytes)) {
			tls_ctx_unref(&c);
			return NULL;
		}
	}
	warn_expiry(c, o);
	return c;
}

int64_t tls_ctx_expiry_s(const struct tls_ctx *c, uint64_t wall_ms)
{
	int64_t first = INT64_MAX;

	CHECK(!c->client);
	for (size_t i = 0; i < c->pair_count; i++)
		if (c->pairs[i].expires_s < first)
			first = c->pairs[i].expires_s;
	return first - (int64_t)(wall_ms / 1000);
}

struct tls_ctx *tls_client_new(const struct tls_client_options *o, char *why, size_t why_bytes)
{
	int groups[] = {WOLFSSL_ECC_X25519, WOLFSSL_ECC_SECP256R1};
	struct tls_ctx *c = ctx_new(1, why, why_bytes);
	WOLFSSL_CTX *w;
	bool ok = true;

	if (!c)
		return NULL;
	c->client = true;
	c->want_ticket = o->want_ticket;
	c->verify = o->ca_file != NULL;
	w = c->pairs[0].wolf = wolfSSL_CTX_new(
		o->tls12_only ? wolfTLSv1_2_client_method() : wolfSSLv23_client_method());
	if (!w) {
		snprintf(why, why_bytes, "out of memory");
		tls_ctx_unref(&c);
		return NULL;
	}
	if (!wolf_common(w, o->ciphers, why, why_bytes)) {
		tls_ctx_unref(&c);
		return NULL;
	}
	if (o->ca_file) {
		int err = wolfSSL_CTX_load_verify_locations(w, o->ca_file, NULL);
		if (err != WOLFSSL_SUCCESS) {
			snprintf(why, why_bytes, "%s: cannot use these CA certificates (%s)",
				o->ca_file,
				access(o->ca_file, R_OK) != 0 ? strerror(errno) : wolf_reason(err));
			tls_ctx_unref(&c);
			return NULL;
		}
		wolfSSL_CTX_set_verify(w, WOLFSSL_VERIFY_PEER, NULL);
	} else {
		wolfSSL_CTX_set_verify(w, WOLFSSL_VERIFY_NONE, NULL);
	}
	/* The session cache stays on for clients: only then wolfSSL fills in the session object
	 * that tls_hs_session hands out; nothing is put into a cache. */
	if (o->tls12_only)
		ok = wolfSSL_CTX_UseSupportedCurve(w, WOLFSSL_ECC_X25519) == WOLFSSL_SUCCESS &&
		     wolfSSL_CTX_UseSupportedCurve(w, WOLFSSL_ECC_SECP256R1) == WOLFSSL_SUCCESS;
	else
		ok = wolfSSL_CTX_set_groups(w, groups, ARRAY_LEN(groups)) == WOLFSSL_SUCCESS;
	if (o->want_ticket)
		ok = ok && wolfSSL_CTX_UseSessionTicket(w) == WOLFSSL_SUCCESS;
	if (!ok) {
		snprintf(why, why_bytes, "TLS library refuses its settings");
		tls_ctx_unref(&c);
	}
	return c;
}

/* --- the ClientHello: is it one, and which certificate fits --- */

struct hello {
	bool tls12, tls13;  /* offered */
	bool ecdsa_suite12; /* an ECDHE_ECDSA suite among the TLS 1.2 ones */
	bool signature_algorithms;
	bool kind[4];    /* enum key_kind: signature understood */
	bool session_id; /* not empty: RFC 8446 D.4 */
	bool groups;     /* supported_groups was there */
	bool curve[4];   /* enum key_kind: its curve is among them */
	bool our_group;  /* X25519 or P-256 is */
	struct bytes server_name;
};

static bool take(struct bytes *in, size_t n, struct bytes *out)
{
	if (in->n < n)
		return false;
	*out = bytes_of(in->p, n);
	in->p += n;
	in->n -= n;
	return true;
}

/* A vector with a length of `size` bytes in front (RFC 8446 3.4). */
static bool take_vector(struct bytes *in, size_t size, struct bytes *out)
{
	struct bytes length;
	size_t n = 0;

	if (!take(in, size, &length))
		return false;
	for (size_t i = 0; i < size; i++)
		n = n << 8 | length.p[i];
	return take(in, n, out);
}

static void hello_signature(struct hello *hello, uint16_t scheme)
{
	switch (scheme) {
	case 0x0401: /* rsa_pkcs1_sha256; enough for TLS 1.2 */
	case 0x0501:
	case 0x0601:
	case 0x0804: /* rsa_pss_rsae_* */
	case 0x0805:
	case 0x0806:
	case 0x0201: /* rsa_pkcs1_sha1: such a client has at least an RSA stack */
		hello->kind[KEY_RSA] = true;
		break;
	case 0x0403:
		hello->kind[KEY_P256] = true;
		break;
	case 0x0503:
		hello->kind[KEY_P384] = true;
		break;
	case 0x0603:
		hello->kind[KEY_P521] = true;
		break;
	}
}

static void hello_group(struct hello *hello, uint16_t group)
{
	switch (group) {
	case 23:
		hello->curve[KEY_P256] = hello->our_group = true;
		break;
	case 24:
		hello->curve[KEY_P384] = true;
		break;
	case 25:
		hello->curve[KEY_P521] = true;
		break;
	case 29: /* X25519 */
		hello->our_group = true;
		break;
	}
}

/* Reads the body of a ClientHello (RFC 8446 4.1.2). False: malformed. */
static bool hello_read(struct bytes b, struct hello *hello)
{
	struct bytes version, session_id, field, suites, extensions = {0}, ext, list, item;

	memset(hello, 0, sizeof(*hello));
	if (!take(&b, 2, &version) || !take(&b, 32, &field) || !take_vector(&b, 1, &session_id) ||
		session_id.n > 32 || !take_vector(&b, 2, &suites) || suites.n % 2 != 0 ||
		suites.n == 0 || !take_vector(&b, 1, &field) || field.n == 0)
		return false;
	while (take(&suites, 2, &item)) {
		uint16_t suite = load_be16(item.p);
		if (suite == 0xc02b || suite == 0xc02c || suite == 0xcca9)
			hello->ecdsa_suite12 = true;
	}
	hello->session_id = session_id.n > 0;
	hello->tls12 = load_be16(version.p) >= 0x0303;
	if (b.n > 0 && (!take_vector(&b, 2, &extensions) || b.n > 0))
		return false;
	while (take(&extensions, 2, &item)) {
		if (!take_vector(&extensions, 2, &ext))
			return false;
		switch (load_be16(item.p)) {
		case 0: /* server_name, RFC 6066 3 */
			if (!take_vector(&ext, 2, &list))
				return false;
			while (take(&list, 1, &item)) {
				if (!take_vector(&list, 2, &field))
					return false;
				if (item.p[0] == 0)
					hello->server_name = field;
			}
			break;
		case 10: /* supported_groups, RFC 8422 5.1.1 */
			if (!take_vector(&ext, 2, &list))
				return false;
			hello->groups = true;
			while (take(&list, 2, &item))
				hello_group(hello, load_be16(item.p));
			break;
		case 13: /* signature_algorithms */
			if (!take_vector(&ext, 2, &list))
				return false;
			hello->signature_algorithms = true;
			while (take(&list, 2, &item))
				hello_signature(hello, load_be16(item.p));
			break;
		case 43: /* supported_versions */
			if (!take_vector(&ext, 1, &list))
				return false;
			/* The list alone counts (4.2.1). */
			hello->tls12 = hello->tls13 = false;
			while (take(&list, 2, &item)) {
				if (load_be16(item.p) == 0x0304)
					hello->tls13 = true;
				else if (load_be16(item.p) == 0x0303)
					hello->tls12 = true;
			}
			break;
		}
	}
	return extensions.n == 0;
}

/* "*.example.org" stands for one label (RFC 6125 6.4.3). */
static bool name_matches(const char *pattern, struct bytes name)
{
	if (pattern[0] == '*' && pattern[1] == '.') {
		const uint8_t *dot = memchr(name.p, '.', name.n);
		if (!dot || dot == name.p)
			return false;
		size_t skip = (size_t)(dot - name.p);
		return bytes_eq_nocase(bytes_of(dot, name.n - skip), pattern + 1);
	}
	return bytes_eq_nocase(name, pattern);
}

static bool pair_named(const struct pair *p, struct bytes name, bool wildcards)
{
	for (size_t i = 0; i < p->name_count; i++)
		if ((p->names[i][0] == '*') == wildcards && name_matches(p->names[i], name))
			return true;
	return false;
}

/* Whether the client can check this pair's signature. */
static bool pair_suits(const struct pair *p, const struct hello *hello)
{
	if (p->kind == KEY_RSA) /* RFC 5246 7.4.1.4.1: without the extension SHA-1 is meant */
		return hello->kind[KEY_RSA] || !hello->signature_algorithms;
	if (!hello->kind[p->kind])
		return false;
	/* Before TLS 1.3 the groups limit the curves of certificates too (RFC 8422 5.1.1). */
	return hello->tls13 || (hello->ecdsa_suite12 && (!hello->groups || hello->curve[p->kind]));
}

static WOLFSSL_CTX *choose_pair(const struct tls_ctx *c, const struct hello *hello)
{
	struct bytes name = hello->server_name;
	const struct pair *best = NULL;
	int best_score = -1;

	/* A final dot is no part of the name (RFC 6066 3 forbids it; some send it). */
	if (name.n > 0 && name.p[name.n - 1] == '.')
		name.n--;
	for (size_t i = 0; i < c->pair_count; i++) {
		const struct pair *p = &c->pairs[i];
		/* The name decides first, then whether the signature is understood, then speed. */
		int score = 0;
		if (name.n > 0 && pair_named(p, name, false))
			score = 32;
		else if (name.n > 0 && pair_named(p, name, true))
			score = 16;
		else if (i == 0 || (p->name_count > 0 && c->pairs[0].name_count > 0 &&
					   strcmp(p->names[0], c->pairs[0].names[0]) == 0))
			score = 8;
		if (pair_suits(p, hello))
			score += 4;
		if (p->kind == KEY_P256)
			score += 2;
		else if (p->kind != KEY_RSA)
			score += 1;
		if (score > best_score) {
			best_score = score;
			best = p;
		}
	}
	CHECK(best); /* a server's context has at least one */
	return best->wolf;
}

/* --- handshakes --- */

static struct tls_hs *hs_new(struct tls_ctx *c)
{
	struct tls_hs *h = calloc(1, sizeof(*h));

	if (h)
		h->ctx = tls_ctx_ref(c);
	return h;
}

static bool hs_start(struct tls_hs *h, WOLFSSL_CTX *w)
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

struct tls_hs *tls_hs_client(
	struct tls_ctx *c, const char *server_name, const struct tls_session *session)
{
	CHECK(c->client);
	struct tls_hs *h = hs_new(c);
	bool ok = h && hs_start(h, c->pairs[0].wolf);

	if (ok && server_name && !is_address(server_name)) /* RFC 6066 3: no addresses */
		ok = wolfSSL_UseSNI(h->ssl, WOLFSSL_SNI_HOST_NAME, server_name,
			     (unsigned short)strlen(server_name)) == WOLFSSL_SUCCESS;
	if (ok && server_name && c->verify)
		ok = wolfSSL_check_domain_name(h->ssl, server_name) == WOLFSSL_SUCCESS;
	if (ok && c->want_ticket)
		ok = wolfSSL_set_SessionTicket_cb(h->ssl, new_ticket_cb, h) == WOLFSSL_SUCCESS;
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

static void plain_alert(struct tls_hs *h, uint8_t what)
{
	const uint8_t record[7] = {TYPE_ALERT, 3, 3, 0, 2, 2 /* fatal */, what};

	buf_add(h->out, record, sizeof(record));
}

static enum tls_hs_status failed(struct tls_hs *h, const char *why)
{
	h->failed = true;
	h->why = why;
	return TLS_HS_FAILED;
}

/* Did not look like TLS 1.2 or later at all. */
static enum tls_hs_status not_tls(struct tls_hs *h, const char *why)
{
	h->not_tls = true;
	return failed(h, why);
}

/* What a peer's alert means, for the log: "unknown_ca" from a phone is a certificate to install. */
static const char *alert_reason(int code)
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
		return failed(h, alert_reason(history.last_rx.code));
	/* Until keys are there an alert in the clear is understood; wolfSSL leaves some out. */
	if (!h->sent_any)
		plain_alert(h, err == VERSION_ERROR ? AL_PROTOCOL_VERSION : AL_HANDSHAKE_FAILURE);
	return failed(h, wolf_reason(err));
}

static enum tls_hs_status wolf_finished(struct tls_hs *h)
{
	int id = wolfSSL_get_current_cipher_suite(h->ssl);

	for (size_t i = 0; i < ARRAY_LEN(suites); i++)
		if (suites[i].id == id)
			h->suite = &suites[i];
	if (!h->suite)
		return failed(h, "cipher suite without a record layer of ours");
	h->finished = true;
	h->resumed = wolfSSL_session_reused(h->ssl) != 0;
	/* TLS 1.2 tickets come before the Finished: what did not come will not come. */
	if (h->ctx->want_ticket && h->suite->tls13 && !h->got_ticket)
		return TLS_HS_WANT_MORE;
	return TLS_HS_DONE;
}

/* Lets wolfSSL work on the record in h->rec (or begin, for a client). */
static enum tls_hs_status wolf_step(struct tls_hs *h)
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
			return failed(h, "application data where a session ticket was awaited");
	} else if (result == WOLFSSL_SUCCESS) {
		return wolf_finished(h);
	}
	if (wolfSSL_get_error(h->ssl, result) != WOLFSSL_ERROR_WANT_READ)
		return wolf_failed(h, result);
	/* wolfSSL reads what it is given before it wants more. */
	return h->rec_used == h->rec_n ? TLS_HS_WANT_MORE : failed(h, "record only partly read");
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
				plain_alert(h, AL_PROTOCOL_VERSION);
		} else if (p[0] == TYPE_ALERT || p[0] == TYPE_DATA || p[0] == TYPE_CCS) {
			plain_alert(h, AL_UNEXPECTED_MESSAGE);
		}
		return not_tls(h, p[0] & 0x80 ? "SSLv2 hello or garbage" : "not a TLS handshake");
	}
	if (n >= 1 && (p[0] < TYPE_CCS || p[0] > TYPE_DATA)) {
		if (!h->sent_any || h->ctx->client)
			return not_tls(h, "not a TLS record");
		return failed(h, "not a TLS record");
	}
	if (n >= 2 && p[1] != 3) {
		if (first)
			return not_tls(h, "not a TLS handshake");
		return failed(h, "not a TLS record");
	}
	if (n < TLSREC_HEADER_BYTES)
		return TLS_HS_WANT_MORE;
	size_t body = load_be16(p + 3);
	/* Nothing is encrypted before the hellos. */
	if (body > (first ? TLSREC_PLAIN_MAX : TLSREC_RECORD_MAX - TLSREC_HEADER_BYTES)) {
		if (!h->sent_any)
			plain_alert(h, AL_RECORD_OVERFLOW);
		return failed(h, "record too long");
	}
	if (body == 0) {
		if (!h->sent_any)
			plain_alert(h, AL_UNEXPECTED_MESSAGE);
		return failed(h, "empty record");
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
		plain_alert(h, AL_UNEXPECTED_MESSAGE);
		return failed(h, "something else inside a ClientHello");
	}
	if (++h->hello_records > HELLO_RECORDS_MAX ||
		h->hello.n + h->rec_n - skip > TLSREC_HEADER_BYTES + HELLO_BYTES_MAX) {
		plain_alert(h, AL_DECODE_ERROR);
		return failed(h, "ClientHello too long");
	}
	buf_add(&h->hello, h->rec + skip, h->rec_n - skip);
	if (h->hello.failed) {
		plain_alert(h, AL_INTERNAL_ERROR);
		return failed(h, "out of memory");
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
			plain_alert(h, AL_UNEXPECTED_MESSAGE);
			return not_tls(h, "no ClientHello");
		}
		bool gathered = h->rec == h->hello.p;
		size_t body_bytes =
			n < 4 ? 0 : (size_t)body[1] << 16 | (size_t)body[2] << 8 | body[3];
		if ((h->hello.n == 0 || gathered) && body_bytes + 4 > HELLO_BYTES_MAX) {
			plain_alert(h, AL_DECODE_ERROR);
			return failed(h, "ClientHello too long");
		}
		if ((h->hello.n == 0 || gathered) && n >= 4 && body_bytes <= n - 4) {
			if (!hello_read(bytes_of(body + 4, body_bytes), &hello)) {
				plain_alert(h, AL_DECODE_ERROR);
				return failed(h, "malformed ClientHello");
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
		plain_alert(h, AL_PROTOCOL_VERSION);
		return not_tls(h, "TLS 1.1 or older");
	}
	/* wolfSSL would ask for a group that was not offered. */
	if (hello.groups && !hello.our_group) {
		plain_alert(h, AL_HANDSHAKE_FAILURE);
		return failed(h, "neither X25519 nor P-256 offered");
	}
	if (!hs_start(h, choose_pair(h->ctx, &hello))) {
		plain_alert(h, AL_INTERNAL_ERROR);
		return failed(h, "out of memory");
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
		return failed(h, alert_reason(rec[6]));
	if (!h->ssl)
		status = server_hello_record(h);
	if (status == TLS_HS_WANT_MORE && h->ssl)
		status = wolf_step(h);
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
			return failed(h, "out of memory");
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
		return failed(h, "out of memory");
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
		status = wolf_step(h);
	}
	while (status == TLS_HS_WANT_MORE && used < n) {
		size_t took = 0;
		status = feed_record(h, p + used, n - used, &took);
		used += took;
		h->total_in += took;
		if (status == TLS_HS_WANT_MORE && h->total_in > HANDSHAKE_BYTES_MAX)
			status = failed(h, "handshake too long");
	}
	if (out->failed && status != TLS_HS_FAILED)
		status = failed(h, "out of memory");
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

/* --- a certificate to begin with --- */

struct san {
	uint8_t p[2048];
	size_t n;
	bool full;
};

static void san_add(struct san *san, uint8_t tag, const void *p, size_t n)
{
	if (n > 255 || san->n + 3 + n > sizeof(san->p)) {
		san->full = true;
		return;
	}
	san->p[san->n++] = tag;
	if (n > 127)
		san->p[san->n++] = 0x81;
	san->p[san->n++] = (uint8_t)n;
	memcpy(san->p + san->n, p, n);
	san->n += n;
}

static void san_add_name(struct san *san, const char *name)
{
	uint8_t ip[16];

	if (inet_pton(AF_INET, name, ip) == 1)
		san_add(san, SAN_IP, ip, 4);
	else if (inet_pton(AF_INET6, name, ip) == 1)
		san_add(san, SAN_IP, ip, 16);
	else
		san_add(san, SAN_DNS, name, strlen(name));
}

/* All or nothing under the final name: a crash leaves no half-written key. */
static bool write_file(
	const char *path, mode_t mode, const uint8_t *p, size_t n, char *why, size_t why_bytes)
{
	char tmp[4096];
	int fd = -1;

	if ((size_t)snprintf(tmp, sizeof(tmp), "%s.new", path) >= sizeof(tmp)) {
		snprintf(why, why_bytes, "%s: name too long", path);
		return false;
	}
	unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	bool ok = fd >= 0 && write(fd, p, n) == (ssize_t)n && fsync(fd) == 0;
	if (fd >= 0 && close(fd) != 0)
		ok = false;
	/* link, unlike rename, never overwrites what came meanwhile */
	ok = ok && link(tmp, path) == 0;
	if (!ok)
		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		unlink(tmp);
	return ok;
}

static const char *make_pair(const struct san *san, const char *common_name, uint8_t *cert_pem,
	int *cert_n, uint8_t *key_pem, int *key_n)
{
	enum { DER_MAX = 8192 };
	const char *bad = "the TLS library cannot make a certificate";
	uint8_t *der = malloc(DER_MAX), key_der[512];
	Cert *cert = calloc(1, sizeof(*cert));
	WC_RNG rng;
	ecc_key key;
	int n;

	if (!der || !cert) {
		free(der);
		free(cert);
		return "out of memory";
	}
	if (wc_InitRng(&rng) != 0)
		goto out_memory;
	if (wc_ecc_init(&key) != 0)
		goto out_rng;
	if (wc_ecc_make_key_ex(&rng, 32, &key, ECC_SECP256R1) != 0 || wc_InitCert(cert) != 0)
		goto out_key;
	snprintf(cert->subject.commonName, sizeof(cert->subject.commonName), "%s", common_name);
	cert->sigType = CTC_SHA256wECDSA;
	cert->daysValid = 3650;
	/* So that it can be installed on a phone as its own authority. */
	cert->isCA = 1;
	cert->selfSigned = 1;
	if (wc_SetExtKeyUsage(cert, "serverAuth") != 0)
		goto out_key;
	/* GeneralNames: a SEQUENCE around what was gathered, its length in the shortest form. */
	size_t at = 0;
	cert->altNames[at++] = DER_SEQUENCE;
	if (san->n > 255) {
		cert->altNames[at++] = 0x82;
		cert->altNames[at++] = (uint8_t)(san->n >> 8);
	} else if (san->n > 127) {
		cert->altNames[at++] = 0x81;
	}
	cert->altNames[at++] = (uint8_t)san->n;
	memcpy(cert->altNames + at, san->p, san->n);
	cert->altNamesSz = (int)(at + san->n);
	n = wc_MakeCert_ex(cert, der, DER_MAX, ECC_TYPE, &key, &rng);
	if (n > 0)
		n = wc_SignCert_ex(cert->bodySz, cert->sigType, der, DER_MAX, ECC_TYPE, &key, &rng);
	if (n <= 0)
		goto out_key;
	*cert_n = wc_DerToPem(der, (word32)n, cert_pem, (word32)*cert_n, CERT_TYPE);
	n = wc_EccKeyToDer(&key, key_der, sizeof(key_der));
	if (n > 0)
		*key_n = wc_DerToPem(
			key_der, (word32)n, key_pem, (word32)*key_n, ECC_PRIVATEKEY_TYPE);
	if (*cert_n > 0 && n > 0 && *key_n > 0)
		bad = NULL;
out_key:
	wc_ecc_free(&key);
	explicit_bzero(key_der, sizeof(key_der));
out_rng:
	wc_FreeRng(&rng);
out_memory:
	free(der);
	free(cert);
	return bad;
}

bool tls_self_signed(const char *certificate_file, const char *key_file, const char *const *names,
	size_t name_count, char *why, size_t why_bytes)
{
	enum { PEM_MAX = 16384 };
	bool have_cert = access(certificate_file, F_OK) == 0,
	     have_key = access(key_file, F_OK) == 0;
	struct san san = {.n = 0};
	char host[256] = "";
	int cert_n = PEM_MAX, key_n = PEM_MAX;
	bool ok = false;

	if (have_cert && have_key)
		return true;
	if (have_cert || have_key) {
		snprintf(why, why_bytes, "%s is there, but %s is not",
			have_cert ? certificate_file : key_file,
			have_cert ? key_file : certificate_file);
		return false;
	}
	library_ready();
	san_add_name(&san, "localhost");
	san_add_name(&san, "127.0.0.1");
	san_add_name(&san, "::1");
	if (gethostname(host, sizeof(host) - 1) == 0 && host[0] && strcmp(host, "localhost") != 0)
		san_add_name(&san, host);
	for (size_t i = 0; i < name_count; i++)
		san_add_name(&san, names[i]);
	if (san.full) {
		snprintf(why, why_bytes, "too many or too long names for one certificate");
		return false;
	}
	uint8_t *cert_pem = malloc(PEM_MAX), *key_pem = malloc(PEM_MAX);
	if (!cert_pem || !key_pem) {
		snprintf(why, why_bytes, "out of memory");
	} else {
		const char *bad = make_pair(&san,
			name_count ? names[0]
			: host[0]  ? host
				   : "localhost",
			cert_pem, &cert_n, key_pem, &key_n);
		if (bad)
			snprintf(why, why_bytes, "%s: %s", certificate_file, bad);
		else
			ok = write_file(key_file, 0600, key_pem, (size_t)key_n, why, why_bytes) &&
			     write_file(certificate_file, 0644, cert_pem, (size_t)cert_n, why,
				     why_bytes);
	}
	if (key_pem)
		explicit_bzero(key_pem, PEM_MAX);
	free(key_pem);
	free(cert_pem);
	return ok;
}
