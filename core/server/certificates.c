/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/server/certificates.h"

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/config/config.h"
#include "io/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAIRS_MAX = 64 };

/* "certificate:key" -> two strings in place. */
static bool split_pair(char *text, struct tls_pair *out)
{
	char *colon = strchr(text, ':');

	if (!colon)
		return false;
	*colon = 0;
	out->certificate_file = text;
	out->key_file = colon + 1;
	return true;
}

struct tls_ctx *certificates_load(
	const struct config *c, const uint8_t *ticket_seed, char *why, size_t why_bytes)
{
	struct tls_ctx *made = NULL;
	struct tls_pair pairs[1 + PAIRS_MAX];
	char *copies[PAIRS_MAX], cert[4096], key[4096], host[256] = "localhost";
	const char *names[] = {host};
	size_t n = 0, copied = 0;
	struct tls_options o = {
		.ticket_rotate_s = (uint32_t)c->tls_ticket_rotate_s,
		.ticket_seed = ticket_seed,
	};

	if (c->tls_pairs.n > PAIRS_MAX) {
		snprintf(why, why_bytes, "tls.pairs: more than %d", PAIRS_MAX);
		return NULL;
	}
	if (c->tls_certificate[0])
		pairs[n++] = (struct tls_pair){c->tls_certificate, c->tls_key};
	for (size_t i = 0; i < c->tls_pairs.n; i++) {
		copies[copied] = strdup(c->tls_pairs.v[i]);
		CHECK(copies[copied]);
		if (split_pair(copies[copied++], &pairs[n]))
			n++;
	}
	if (n == 0 && c->tls_self_signed) {
		gethostname(host, sizeof(host) - 1);
		snprintf(cert, sizeof(cert), "%s/self-signed.pem", c->store_dir);
		snprintf(key, sizeof(key), "%s/self-signed.key", c->store_dir);
		if (!tls_self_signed(cert, key, names, 1, clock_wall_ms(), why, why_bytes))
			goto out;
		pairs[n++] = (struct tls_pair){cert, key};
	}
	if (n == 0) {
		snprintf(why, why_bytes,
			"listen.https needs a certificate: set tls.certificate and tls.key, or "
			"tls.self_signed (--self-signed)");
		goto out;
	}
	o.pairs = pairs;
	o.pair_count = n;
	made = tls_server_new(&o, why, why_bytes);
out:
	for (size_t i = 0; i < copied; i++)
		free(copies[i]);
	return made;
}
