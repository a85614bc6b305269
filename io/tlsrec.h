/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/tlsrec.h - TLS records of a detached session, without TLS library state.
 * RFC 8446 section 5 (records), 4.6.3 and 7.2 (KeyUpdate), 6 (alerts); RFC 5246 6.2,
 * RFC 5288 (GCM in TLS 1.2), RFC 7905 (ChaCha20-Poly1305).
 * Both roles: `rx` is what we read, `tx` what we write.
 * Thread: one owner; no hidden state except thread-local scratch for key schedules.
 * Memory: struct tlsrec only; holds no pointer, may be moved by memcpy. It holds secrets: wipe
 *         it with tlsrec_wipe.
 * Errors: a peer's bytes never abort; every refusal is TLSREC_ERROR with the alert to send.
 * Limits: a peer may send TLSREC_RUN_MAX records in a row that carry no data (empty records,
 *         KeyUpdates, tickets, warnings); the next one is refused.
 *         A post-handshake message must lie in one record (ours and every peer seen do so).
 * Cost:   open and seal one AEAD pass plus a key schedule, no allocation. */
#ifndef ROOST_IO_TLSREC_H
#define ROOST_IO_TLSREC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What we write under. */
struct tlsrec_tx {
	/* 32 bits are enough: TLS 1.3 is given new keys long before, and a TLS 1.2 session that
	 * gets here is closed, as the AEAD limits of RFC 8446 5.5 ask anyway. */
	uint32_t seq;
	union {
		uint8_t secret[48];        /* TLS 1.3 traffic secret (32 or 48 bytes by suite) */
		uint8_t explicit_nonce[8]; /* TLS 1.2 GCM, tx: the next one, big endian */
	};
	uint8_t key[32];
	uint8_t iv[12]; /* TLS 1.2 GCM: 4 bytes */
};

/* What we read under. A parked phone is silent, so the keys of TLS 1.3 are derived from the secret
 * when it speaks: that costs 2 us a request and saves 44 bytes a phone. */
struct tlsrec_rx {
	uint32_t seq;
	union {
		uint8_t secret[48]; /* TLS 1.3 */
		struct {            /* TLS 1.2, which has no secret to derive from */
			uint8_t key[32];
			uint8_t iv[12];
		};
	};
};

enum tlsrec_aead { TLSREC_AES128_GCM = 1, TLSREC_AES256_GCM, TLSREC_CHACHA20_POLY1305 };

struct tlsrec {
	struct tlsrec_rx rx;
	struct tlsrec_tx tx;
	uint8_t aead; /* enum tlsrec_aead */
	uint8_t run;  /* records in a row without data */
	uint8_t tls13 : 1;
	uint8_t client : 1; /* our role */
	uint8_t dead : 1;   /* a fatal error or close_notify happened: only closing is left */
};
_Static_assert(sizeof(struct tlsrec) <= 152, "parked TLS budget, ARCHITECTURE.md");

enum {
	TLSREC_HEADER_BYTES = 5,
	TLSREC_PLAIN_MAX = 16384,
	TLSREC_RECORD_MAX = 5 + 16384 + 256, /* largest record accepted (RFC 8446 5.2) */
	/* What seal adds to the plain text at most: our KeyUpdate's record, then header, type
	 * and tag of TLS 1.3 (TLS 1.2: header, nonce and tag, 29). */
	TLSREC_OVERHEAD_MAX = 5 + 5 + 1 + 16 + 5 + 1 + 16,
	TLSREC_REPLY_MAX = 64,
	TLSREC_RUN_MAX = 32,
	TLSREC_REKEY_RECORDS = 1 << 24, /* TLS 1.3: our KeyUpdate at the latest */
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
	size_t consumed; /* bytes of the input that are done with */
	uint8_t *data;   /* TLSREC_DATA: plain text, in place inside the input */
	size_t data_bytes;
	size_t reply_bytes; /* whole sealed record(s) in reply[] that must be sent, in order */
	uint8_t reply[TLSREC_REPLY_MAX];
	const char *why; /* TLSREC_ERROR: static reason */
};

/* Fill a struct tlsrec. rx and tx secrets are the current application traffic secrets, of
 * tlsrec_secret_bytes(aead); keys are derived from them. False: the library failed. */
bool tlsrec_init13(struct tlsrec *r, enum tlsrec_aead aead, bool client, const uint8_t *rx_secret,
	const uint8_t *tx_secret, uint32_t rx_seq, uint32_t tx_seq);
/* TLS 1.2: keys of tlsrec_key_bytes(aead), IVs of 4 bytes (GCM) or 12. tx_nonce is the next
 * explicit nonce (GCM only): it must never have been used under this key. */
void tlsrec_init12(struct tlsrec *r, enum tlsrec_aead aead, bool client, const uint8_t *rx_key,
	const uint8_t *rx_iv, const uint8_t *tx_key, const uint8_t *tx_iv, uint32_t rx_seq,
	uint32_t tx_seq, uint64_t tx_nonce);
size_t tlsrec_secret_bytes(enum tlsrec_aead aead);
/* Is this the key that records are opened with? To check what was taken over. */
bool tlsrec_reads_with(const struct tlsrec *r, const uint8_t *key);
size_t tlsrec_key_bytes(enum tlsrec_aead aead);

/* Looks at the first record of p[0,n) and decrypts it in place. After TLSREC_CLOSED or
 * TLSREC_ERROR every further call is TLSREC_ERROR without a reply. */
void tlsrec_open(struct tlsrec *r, uint8_t *p, size_t n, struct tlsrec_in *in);
/* Bytes that n (<= TLSREC_PLAIN_MAX) bytes of application data need, sealed now as one record
 * (and, every 2^24 records of TLS 1.3, a KeyUpdate before it). */
size_t tlsrec_sealed_bytes(const struct tlsrec *r, size_t n);
/* Seals application data, one record, out of tlsrec_sealed_bytes. plain may be anywhere, also
 * inside out: at out + tlsrec_plain_offset it need not be moved. Returns the bytes written;
 * 0 when the session is dead, or has used up its sequence numbers (and then is dead). */
size_t tlsrec_seal(struct tlsrec *r, const uint8_t *plain, size_t n, uint8_t *out);
/* Where the plain text of the next record lies inside its sealed bytes. */
size_t tlsrec_plain_offset(const struct tlsrec *r);
/* Our close_notify, at most TLSREC_REPLY_MAX bytes; we write nothing after it. 0: dead already. */
size_t tlsrec_close_notify(struct tlsrec *r, uint8_t *out);
/* TLS 1.3: our own KeyUpdate, at most TLSREC_REPLY_MAX bytes; 0 for TLS 1.2 or when dead. */
size_t tlsrec_key_update(struct tlsrec *r, bool ask_peer, uint8_t *out);
void tlsrec_wipe(struct tlsrec *r);

#endif
