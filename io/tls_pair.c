/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A certificate chain and its key, out of files. */
#include "io/tls_priv.h"

#include "core/base/check.h"

#include <wolfssl/wolfcrypt/asn_public.h>
#include <wolfssl/wolfcrypt/ecc.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PEM_FILE_MAX = 1 << 20, LEAF_DER_MAX = 1 << 16 };

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

uint8_t *tls_pem_read(const char *path, size_t *n_out, char *why, size_t why_bytes)
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

bool tls_pair_load(struct tls_ctx *c, struct pair *p, const struct tls_pair *files, char *why,
	size_t why_bytes)
{
	int groups[] = {WOLFSSL_ECC_X25519, WOLFSSL_ECC_SECP256R1};
	size_t cert_n = 0, key_n = 0;
	uint8_t *key = NULL, *der = NULL;
	uint8_t *cert = tls_pem_read(files->certificate_file, &cert_n, why, why_bytes);
	bool ok = false;
	int err;

	if (!cert)
		return false;
	key = tls_pem_read(files->key_file, &key_n, why, why_bytes);
	if (!key)
		goto out;
	der = malloc(LEAF_DER_MAX);
	p->wolf = wolfSSL_CTX_new(wolfSSLv23_server_method());
	if (!der || !p->wolf) {
		snprintf(why, why_bytes, "%s: out of memory", files->certificate_file);
		goto out;
	}
	if (!tls_wolf_settings(p->wolf, NULL, why, why_bytes))
		goto out;
	err = wc_CertPemToDer(cert, (int)cert_n, der, LEAF_DER_MAX, CERT_TYPE);
	if (err <= 0) {
		snprintf(why, why_bytes, "%s: no PEM certificate in it (%s)",
			files->certificate_file, tls_wolf_reason(err));
		goto out;
	}
	struct bytes public_key;
	const char *bad = tls_leaf_read(p, bytes_of(der, (size_t)err), &public_key);
	if (bad) {
		snprintf(why, why_bytes, "%s: %s", files->certificate_file, bad);
		goto out;
	}
	err = wolfSSL_CTX_use_certificate_chain_buffer(p->wolf, cert, (long)cert_n);
	if (err != WOLFSSL_SUCCESS) {
		snprintf(why, why_bytes, "%s: cannot use this certificate chain (%s)",
			files->certificate_file, tls_wolf_reason(err));
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
			files->key_file, files->certificate_file, tls_wolf_reason(err));
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
		wolfSSL_CTX_set_TicketEncCb(p->wolf, tls_ticket_cb) != WOLFSSL_SUCCESS ||
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

void tls_pair_free(struct pair *p)
{
	for (size_t i = 0; i < p->name_count; i++)
		free(p->names[i]);
	free(p->names);
	if (p->wolf)
		wolfSSL_CTX_free(p->wolf);
}
