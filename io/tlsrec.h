/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/tlsrec.h - TLS records of a detached session, without TLS library state.
 * RFC 8446 section 5 (records), 4.6.3 and 7.2 (KeyUpdate), 6 (alerts); RFC 5246 6.2,
 * RFC 5288 (GCM in TLS 1.2), RFC 7905 (ChaCha20-Poly1305).
 * Both roles: `rx` is what we read, `tx` what we write.
 * Thread: one owner; no hidden state except thread-local scratch for key schedules.
 * Memory: struct tlsrec only; holds no pointer, may be moved by memcpy. It holds secrets: wipe
 *         it with tlsrec_wipe.
 * Cost:   open and seal one AEAD pass plus a key schedule, no allocation. */
#ifndef ROOST_IO_TLSREC_H
#define ROOST_IO_TLSREC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tlsrec_dir {
	uint64_t seq;
	uint8_t secret[48]; /* TLS 1.3 traffic secret; TLS 1.2: key in [0,32), unused after */
	uint8_t key[32];
	uint8_t iv[12];
};

struct tlsrec {
	struct tlsrec_dir rx, tx;
	uint64_t tx_nonce; /* TLS 1.2 GCM: next explicit nonce */
	uint8_t aead;      /* enum tlsrec_aead */
	uint8_t tls13;
	uint8_t client;    /* our role */
	uint8_t dead;      /* a fatal error or close_notify happened: only closing is left */
};
_Static_assert(sizeof(struct tlsrec) <= 224, "parked TLS budget, ARCHITECTURE.md");

enum tlsrec_aead { TLSREC_AES128_GCM = 1, TLSREC_AES256_GCM, TLSREC_CHACHA20_POLY1305 };

enum {
	TLSREC_HEADER_BYTES = 5,
	TLSREC_PLAIN_MAX = 16384,
	TLSREC_OVERHEAD_MAX = 5 + 8 + 1 + 16, /* what seal adds to the plain text at most */
	TLSREC_RECORD_MAX = 5 + 16384 + 256,  /* largest record accepted (RFC 8446 5.2) */
	TLSREC_REPLY_MAX = 64,
};

enum tlsrec_result {
	TLSREC_NEED_MORE, /* not a whole record yet; nothing consumed */
	TLSREC_DATA,      /* application data (may be empty) */
	TLSREC_HANDLED,   /* KeyUpdate, ticket, warning: nothing for the application */
	TLSREC_CLOSED,    /* close_notify: send the reply, then close */
	TLSREC_ERROR,     /* send the reply (an alert), then close */
};

struct tlsrec_in {
	enum tlsrec_result result;
	size_t consumed;      /* bytes of the input that are done with */
	uint8_t *data;        /* TLSREC_DATA: plain text, in place inside the input */
	size_t data_bytes;
	size_t reply_bytes;   /* whole sealed record(s) in reply[] that must be sent, in order */
	uint8_t reply[TLSREC_REPLY_MAX];
	const char *why;      /* TLSREC_ERROR: static reason */
};

/* Looks at the first record of p[0,n) and decrypts it in place. */
void tlsrec_open(struct tlsrec *r, uint8_t *p, size_t n, struct tlsrec_in *in);
/* Bytes that n (<= TLSREC_PLAIN_MAX) bytes of application data need as one record. */
size_t tlsrec_sealed_bytes(const struct tlsrec *r, size_t n);
/* Seals application data, one record, out of tlsrec_sealed_bytes. plain may be out + 5 + nonce
 * bytes already in place or elsewhere (not otherwise overlapping). Returns the record's length. */
size_t tlsrec_seal(struct tlsrec *r, const uint8_t *plain, size_t n, uint8_t *out);
/* Our close_notify, at most TLSREC_REPLY_MAX bytes. */
size_t tlsrec_close_notify(struct tlsrec *r, uint8_t *out);
/* TLS 1.3: our own KeyUpdate (also done by itself before 2^24 records). */
size_t tlsrec_key_update(struct tlsrec *r, bool ask_peer, uint8_t *out);
void tlsrec_wipe(struct tlsrec *r);

#endif
