/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/tls.h - TLS handshakes by wolfSSL, as a machine that never touches a socket. TLS 1.2
 * (RFC 5246, AEAD suites with ECDHE only) and 1.3 (RFC 8446). Only io/tls*.c include wolfSSL;
 * tls_priv.h says which file does what.
 * Thread: a tls_ctx may be used by all threads (handshakes take a reference); reload makes a new
 *         one, the old goes with its last handshake. A tls_hs belongs to one thread.
 * Memory: before the ClientHello is whole: what came of it (at most 18 KB). Then per handshake in
 *         flight about 11 KB (own wolfSSL build) to 74 KB (distribution's), given back by
 *         tls_hs_free: the caller bounds how many there are.
 * Errors: setting up returns NULL with one line in why that names the file and the cause. A
 *         peer's nonsense is TLS_HS_FAILED with a static reason.
 * Limits: 64 KB from the peer per handshake; records of RFC 8446 5.1 size.
 * Cost:   a server handshake is one signature and one key exchange: 80 us of CPU in TLS 1.3 with
 *         X25519 and an ECDSA P-256 certificate, 67 us resumed, 510 us with RSA 2048. */
#ifndef ROOST_IO_TLS_H
#define ROOST_IO_TLS_H

#include "core/base/bytes.h"
#include "io/tlsrec.h"

struct tls_ctx;
struct tls_hs;
struct tls_session;

struct tls_pair {
	const char *certificate_file; /* PEM chain, leaf first */
	const char *key_file;         /* PEM, not encrypted */
};

struct tls_options {
	const struct tls_pair *pairs; /* names come from each certificate's SAN (CN without one);
				       * the first pair is the default; an ECDSA and an RSA pair
				       * may share a name: ECDSA where the client can */
	size_t pair_count;
	uint32_t ticket_rotate_s;   /* 0: 3600; at most 302400. Tickets live for two periods. */
	const uint8_t *ticket_seed; /* TLS_TICKET_SEED_BYTES, copied, or NULL for random: contexts
				     * and nodes with one seed (and one clock) accept each other's
				     * tickets; see tls_ctx_ticket_seed */
	uint64_t (*wall_ms)(void);  /* NULL: clock_wall_ms. Which ticket period it is. */
};
enum { TLS_TICKET_SEED_BYTES = 32 };

/* Server. Checks that key and certificate match (the error names both files), and expiry (a
 * warning in the log). */
struct tls_ctx *tls_server_new(const struct tls_options *o, char *why, size_t why_bytes);
/* Seconds until the first certificate expires; negative when it has. */
int64_t tls_ctx_expiry_s(const struct tls_ctx *c, uint64_t wall_ms);

/* The seed of a server's ticket keys, for the context that follows it here or in another process
 * (tls_options.ticket_seed): phones then go on resuming. A secret: wipe it. */
void tls_ctx_ticket_seed(const struct tls_ctx *c, uint8_t seed_out[TLS_TICKET_SEED_BYTES]);

struct tls_client_options {
	const char *ca_file; /* NULL: do not verify (test phones) */
	const char *ciphers; /* wolfSSL names with colons; NULL: default */
	bool tls12_only;
	bool want_ticket; /* keep a session for resumption; see tls_hs_session */
};
struct tls_ctx *tls_client_new(const struct tls_client_options *o, char *why, size_t why_bytes);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *c);
void tls_ctx_unref(struct tls_ctx **c);

/* Writes a self-signed ECDSA P-256 pair (824 days: iOS takes no more than 825; SAN: localhost,
 * 127.0.0.1, ::1, host and the extra names, which may be addresses) unless both files are there already. Key file mode 0600.
 * One file without the other is an error: nothing of the operator's is overwritten. But a certificate
 * that names itself as issuer and ends within 30 days of wall_ms is replaced by a new one with the
 * same key; where that fails it stays, and the log says why. */
bool tls_self_signed(const char *certificate_file, const char *key_file, const char *const *names,
	size_t name_count, uint64_t wall_ms, char *why, size_t why_bytes);

enum tls_hs_status {
	TLS_HS_WANT_MORE, /* send out, feed more */
	TLS_HS_DONE,      /* send out, then tls_hs_detach */
	TLS_HS_FAILED,    /* send out (an alert, maybe), then close */
};

/* wolfSSL objects are made only when the first whole record has come (server), so a silent or
 * nonsensical peer costs nothing. Takes a reference to c. NULL: no memory. */
struct tls_hs *tls_hs_server(struct tls_ctx *c);
/* server_name: for SNI and, with a CA, for verification; may be NULL (an address is not sent as
 * SNI). session: from tls_hs_session, or NULL; only read. NULL: no memory. */
struct tls_hs *tls_hs_client(
	struct tls_ctx *c, const char *server_name, const struct tls_session *session);
/* Takes bytes from the peer (client: first call with n == 0) and appends what must be sent to
 * `out`. The record that ends the handshake is the last one looked at: bytes behind it are not
 * consumed and belong to the record layer. Anything but DONE consumes all n bytes. */
enum tls_hs_status tls_hs_feed(
	struct tls_hs *h, const uint8_t *p, size_t n, size_t *consumed_out, struct buf *out);
/* What to say in the log after TLS_HS_FAILED; `not_tls` when it did not look like TLS 1.2+. */
const char *tls_hs_why(const struct tls_hs *h, bool *not_tls_out);
/* After TLS_HS_DONE: moves keys and counters into rec. False: why is static; close. */
bool tls_hs_detach(struct tls_hs *h, struct tlsrec *rec, const char **why_out);
bool tls_hs_resumed(const struct tls_hs *h);
const char *tls_hs_version(const struct tls_hs *h); /* "TLSv1.3", static; "" before a hello */
const char *tls_hs_cipher(const struct tls_hs *h);  /* "TLS_AES_128_GCM_SHA256", static */
void tls_hs_free(struct tls_hs **h);

/* Client with want_ticket. A TLS 1.3 ticket comes behind the handshake, so tls_hs_feed then goes
 * on wanting more until the server's ticket has come, before it is DONE. Servers that send no
 * ticket would keep it waiting: tls_hs_finished is true from the end of the handshake itself, and
 * tls_hs_detach works from there on.
 * A TLS 1.2 session whose ticket the server declines fails (a limit of wolfSSL 5.5.4's client): go
 * on without the session then.
 * tls_hs_session: a session to resume, or NULL when the server gave no ticket. Call it before
 * tls_hs_detach. The caller's; may be used by other threads later, one at a time. */
bool tls_hs_finished(const struct tls_hs *h);
struct tls_session *tls_hs_session(struct tls_hs *h);
void tls_session_free(struct tls_session **s);

/* "wolfSSL 5.5.4 (own build, AES-NI)" for --version and the log. */
const char *tls_library(void);

#endif
