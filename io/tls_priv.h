/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/tls_priv.h - the inside of io/tls.h, for io/tls*.c only: one file for each job.
 *   tls.c            the library, contexts
 *   tls_leaf.c       reads a certificate's names, key type and expiry
 *   tls_pair.c       loads a certificate with its key
 *   tls_selfsigned.c makes such a pair
 *   tls_hello.c      reads a ClientHello and chooses the pair for it
 *   tls_handshake.c  records in, records out: the machine of tls_hs_feed
 *   tls_wolf.c       the WOLFSSL object: its callbacks, its steps, what went wrong
 *   tls_ticket.c     keys of session tickets
 *   tls_hash.c       SHA-256 by the processor, for wolfSSL
 *   tls_detach.c     keys and counters out of a finished handshake, and sessions of clients
 * Thread, memory and errors as in io/tls.h. */
#ifndef ROOST_IO_TLS_PRIV_H
#define ROOST_IO_TLS_PRIV_H

#include "io/tls.h"

#include <wolfssl/options.h>
#include <wolfssl/wolfcrypt/settings.h>
#include <wolfssl/ssl.h>

#include <pthread.h>
#include <stdatomic.h>

enum { TYPE_CCS = 20, TYPE_ALERT = 21, TYPE_HANDSHAKE = 22, TYPE_DATA = 23 };
enum { AL_RECORD_OVERFLOW = 22, AL_HANDSHAKE_FAILURE = 40, AL_DECODE_ERROR = 50 };
enum { AL_PROTOCOL_VERSION = 70, AL_UNEXPECTED_MESSAGE = 10, AL_INTERNAL_ERROR = 80 };
enum { DER_INTEGER = 2, DER_BIT_STRING = 3, DER_OCTETS = 4, DER_OID = 6, DER_UTC = 0x17 };
enum { DER_GENERALIZED = 0x18, DER_SEQUENCE = 0x30, DER_SET = 0x31, DER_EXTENSIONS = 0xa3 };
enum { DER_VERSION = 0xa0, SAN_DNS = 0x82, SAN_IP = 0x87 };
enum { EXPIRY_WARNING_S = 14 * 86400 };

/* A key type that decides which signature the client must understand. */
enum key_kind { KEY_RSA, KEY_P256, KEY_P384, KEY_P521 };

struct pair {
	WOLFSSL_CTX *wolf;
	char **names; /* lower case */
	size_t name_count;
	enum key_kind kind;
	int64_t expires_s; /* Unix time */
};

struct ticket_key {
	uint8_t name[WOLFSSL_TICKET_NAME_SZ];
	uint8_t key[32]; /* ChaCha20-Poly1305 */
};
enum { TICKET_NOW, TICKET_BEFORE, TICKET_NEXT, TICKET_PERIODS };

struct tls_ctx {
	_Atomic unsigned refs;
	bool client, want_ticket, verify;
	struct pair *pairs; /* client: one, without names */
	size_t pair_count;
	uint8_t ticket_seed[TLS_TICKET_SEED_BYTES];
	uint32_t ticket_rotate_s;
	/* Of the period of the last handshake and its neighbours: deriving costs a microsecond each. */
	pthread_mutex_t ticket_mutex;
	bool ticket_keys_known;
	uint64_t ticket_period;
	struct ticket_key ticket_keys[TICKET_PERIODS];
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

struct tls_session {
	WOLFSSL_SESSION *wolf;
};

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

/* tls.c */
void tls_library_ready(void); /* before anything else of wolfSSL */
const char *tls_wolf_reason(int err);
/* What servers and clients have in common. */
bool tls_wolf_settings(WOLFSSL_CTX *w, const char *ciphers, char *why, size_t why_bytes);

/* tls_leaf.c: fills in names, kind and expiry. NULL, or why not (static). public_key_out is the
 * BIT STRING, a view into der. */
const char *tls_leaf_read(struct pair *p, struct bytes der, struct bytes *public_key_out);
/* Does it name itself as its issuer? */
bool tls_leaf_self_issued(struct bytes der);

/* tls_pair.c */
bool tls_pair_load(struct tls_ctx *c, struct pair *p, const struct tls_pair *files, char *why,
	size_t why_bytes);
void tls_pair_free(struct pair *p);
/* A PEM file, NUL behind it; NULL with the cause in why. The caller's to free, and to wipe. */
uint8_t *tls_pem_read(const char *path, size_t *n_out, char *why, size_t why_bytes);

/* tls_hello.c: the body of a ClientHello. False: malformed. */
bool tls_hello_read(struct bytes b, struct hello *hello);
WOLFSSL_CTX *tls_hello_choose(const struct tls_ctx *c, const struct hello *hello);

/* tls_ticket.c: what wolfSSL calls; arg is the tls_ctx. */
/* Shakes hands with this server once, in memory, so that the first client with a ticket of before can
 * resume. A millisecond or two, once in a process. */
void tls_ticket_learn(struct tls_ctx *server);
int tls_ticket_cb(WOLFSSL *ssl, unsigned char *name, unsigned char *iv, unsigned char *mac, int enc,
	unsigned char *p, int n, int *n_out, void *arg);

/* tls_wolf.c */
bool tls_wolf_start(struct tls_hs *h, WOLFSSL_CTX *w); /* makes h->ssl */
/* Lets wolfSSL work on the record in h->rec (or begin, for a client). */
enum tls_hs_status tls_wolf_step(struct tls_hs *h);
enum tls_hs_status tls_hs_failed(struct tls_hs *h, const char *why);
void tls_plain_alert(struct tls_hs *h, uint8_t what);
/* What a peer's alert means, for the log: "unknown_ca" from a phone is a certificate to install. */
const char *tls_alert_reason(int code);
/* What wolfSSL calls; arg is the tls_hs. */
int tls_receive_cb(WOLFSSL *ssl, char *p, int n, void *arg);
int tls_send_cb(WOLFSSL *ssl, char *data, int n, void *arg);
int tls_new_ticket_cb(WOLFSSL *ssl, const unsigned char *ticket, int n, void *arg);
#ifndef HAVE_SECRET_CALLBACK
int tls_hkdf_cb(byte *okm, word32 okm_n, const byte *prk, word32 prk_n, const byte *protocol,
	word32 protocol_n, const byte *label, word32 label_n, const byte *info, word32 info_n,
	int digest, int side);
#endif

#endif
