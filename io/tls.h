/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/tls.h - TLS handshakes by wolfSSL, as a machine that never touches a socket. Only tls.c and
 * tlsrec.c include wolfSSL.
 * Thread: a tls_ctx may be used by all threads (handshakes take a reference); reload makes a new
 *         one. A tls_hs belongs to one thread.
 * Memory: 5 KB (own wolfSSL build) to 74 KB (distribution's) per handshake in flight, given back by
 *         tls_hs_free: the caller bounds how many there are.
 * Errors: setting up returns NULL with one line in why that names the file and the cause. A
 *         peer's nonsense is TLS_HS_FAILED with a static reason. */
#ifndef ROOST_IO_TLS_H
#define ROOST_IO_TLS_H

#include "core/base/bytes.h"
#include "io/tlsrec.h"

struct tls_ctx;
struct tls_hs;

struct tls_pair {
	const char *certificate_file; /* PEM chain, leaf first */
	const char *key_file;         /* PEM */
};

struct tls_options {
	const struct tls_pair *pairs; /* names come from each certificate's SAN; the first pair is
	                               * the default; an ECDSA and an RSA pair may share a name:
	                               * ECDSA is preferred where the client can */
	size_t pair_count;
	uint32_t ticket_rotate_s;     /* 0: 3600. Tickets live for two periods. */
	const uint8_t *ticket_seed;   /* 32 bytes, or NULL for random: nodes with one seed (and
	                               * one clock) accept each other's tickets */
	uint16_t port_443;            /* unused, reserved */
};

/* Server. Checks that key and certificate match, and expiry (a warning in the log). */
struct tls_ctx *tls_server_new(const struct tls_options *o, char *why, size_t why_bytes);
/* Seconds until the first certificate expires; negative when it has. */
int64_t tls_ctx_expiry_s(const struct tls_ctx *c, uint64_t wall_ms);

struct tls_client_options {
	const char *ca_file;   /* NULL: do not verify (test phones) */
	const char *ciphers;   /* NULL: default */
	bool tls12_only;
	bool want_ticket;      /* keep a session for resumption */
};
struct tls_ctx *tls_client_new(const struct tls_client_options *o, char *why, size_t why_bytes);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *c);
void tls_ctx_unref(struct tls_ctx **c);

/* Writes a self-signed ECDSA P-256 pair (10 years, SAN: localhost, 127.0.0.1, ::1, host and the
 * extra names) unless both files are there already. Key file mode 0600. */
bool tls_self_signed(const char *certificate_file, const char *key_file,
	const char *const *names, size_t name_count, char *why, size_t why_bytes);

enum tls_hs_status {
	TLS_HS_WANT_MORE, /* send out, feed more */
	TLS_HS_DONE,      /* send out, then tls_hs_detach */
	TLS_HS_FAILED,    /* send out (an alert, maybe), then close */
};

/* wolfSSL objects are made only when the first whole record has come (server), so a silent or
 * nonsensical peer costs nothing. server_name may be NULL; session: from tls_hs_session. */
struct tls_hs *tls_hs_server(struct tls_ctx *c);
struct tls_session;
struct tls_hs *tls_hs_client(
	struct tls_ctx *c, const char *server_name, const struct tls_session *session);
/* Takes bytes from the peer (client: first call with n == 0) and appends what must be sent to
 * `out`. At most one record is looked at after the handshake is done: bytes behind it are not
 * consumed and belong to the record layer. */
enum tls_hs_status tls_hs_feed(
	struct tls_hs *h, const uint8_t *p, size_t n, size_t *consumed_out, struct buf *out);
/* What to say in the log after TLS_HS_FAILED; `not_tls` when it did not look like TLS 1.2+. */
const char *tls_hs_why(const struct tls_hs *h, bool *not_tls_out);
/* After TLS_HS_DONE: moves keys and counters into rec. False: why is static; close. */
bool tls_hs_detach(struct tls_hs *h, struct tlsrec *rec, const char **why_out);
bool tls_hs_resumed(const struct tls_hs *h);
const char *tls_hs_version(const struct tls_hs *h);    /* "TLSv1.3" */
const char *tls_hs_cipher(const struct tls_hs *h);     /* "TLS_AES_128_GCM_SHA256" */
void tls_hs_free(struct tls_hs **h);

/* Client: the session of a finished handshake. TLS 1.3 tickets come after the handshake, so feed
 * records through tls_client_ticket until it returns a session (records that hold no ticket are
 * left alone and return NULL). */
struct tls_session *tls_hs_session(struct tls_hs *h);
void tls_session_free(struct tls_session **s);

/* "wolfSSL 5.5.4 (own build, AES-NI)" for --version and the log. */
const char *tls_library(void);

#endif
