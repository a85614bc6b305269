/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/server/certificates.h - the TLS context that a configuration asks for: tls.certificate and tls.key, tls.pairs,
 * or a certificate that we make and sign ourselves and keep in the data directory.
 * Thread: any.    Memory: the caller has the one reference (tls_ctx_unref).
 * Errors: NULL with one line that names the file, or what is missing.
 * Cost:   reads files; a key is made where tls.self_signed finds none. */
#ifndef ROOST_CORE_CERTIFICATES_H
#define ROOST_CORE_CERTIFICATES_H

#include <stddef.h>
#include <stdint.h>

struct config;
struct tls_ctx;

/* ticket_seed (TLS_TICKET_SEED_BYTES, or NULL): of the context that this one follows, here or in another
 * process. Its tickets stay good: neither a new certificate nor a new version must cost every phone a full
 * handshake. */
struct tls_ctx *certificates_load(
	const struct config *c, const uint8_t *ticket_seed, char *why, size_t why_bytes);

#endif
