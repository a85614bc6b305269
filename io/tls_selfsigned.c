/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A certificate to begin with. */
#include "io/tls_priv.h"

#include "core/base/log.h"

#include <wolfssl/wolfcrypt/asn_public.h>
#include <wolfssl/wolfcrypt/ecc.h>
#include <wolfssl/wolfcrypt/random.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	SELF_SIGNED_DAYS =
		824, /* iOS takes 825 at most, whoever signed (and counts the last second) */
	RENEW_DAYS = 30,
	PEM_MAX = 16384,
};

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
static bool write_file(const char *path, mode_t mode, bool replace, const uint8_t *p, size_t n,
	char *why, size_t why_bytes)
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
	ok = ok && (replace ? rename(tmp, path) : link(tmp, path)) == 0;
	if (!ok)
		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		unlink(tmp);
	return ok;
}

static bool read_key(ecc_key *key, const uint8_t *pem, int n)
{
	uint8_t der[2048];
	word32 at = 0;
	int der_n = wc_KeyPemToDer(pem, n, der, sizeof(der), NULL);
	bool ok = der_n > 0 && wc_EccPrivateKeyDecode(der, &at, key, (word32)der_n) == 0 &&
		  wc_ecc_make_pub(key, NULL) == 0;

	explicit_bzero(der, sizeof(der));
	return ok;
}

/* Is the certificate one of ours, and about to end? */
static bool wants_renewal(const char *certificate_file, uint64_t wall_ms)
{
	char why[256];
	size_t n = 0;
	uint8_t *pem = tls_pem_read(certificate_file, &n, why, sizeof(why));
	uint8_t *der = malloc(PEM_MAX);
	struct pair p = {0};
	struct bytes key;
	bool wants = false;
	int der_n = pem && der ? wc_CertPemToDer(pem, (int)n, der, PEM_MAX, CERT_TYPE) : 0;

	if (der_n > 0) {
		struct bytes leaf = bytes_of(der, (size_t)der_n);

		wants = tls_leaf_self_issued(leaf) && !tls_leaf_read(&p, leaf, &key) &&
			p.expires_s < (int64_t)(wall_ms / 1000) + RENEW_DAYS * 86400;
	}
	tls_pair_free(&p);
	free(pem);
	free(der);
	return wants;
}

/* The key is made, unless there is one in key_pem (*key_n bytes of it): a renewed certificate keeps it,
 * so that phones which trust the former one trust this one too. */
static const char *make_pair(const struct san *san, const char *common_name, uint8_t *cert_pem,
	int *cert_n, uint8_t *key_pem, int *key_n, bool have_key)
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
	if (!(have_key ? read_key(&key, key_pem, *key_n)
		       : wc_ecc_make_key_ex(&rng, 32, &key, ECC_SECP256R1) == 0) ||
		wc_InitCert(cert) != 0)
		goto out_key;
	snprintf(cert->subject.commonName, sizeof(cert->subject.commonName), "%s", common_name);
	cert->sigType = CTC_SHA256wECDSA;
	cert->daysValid = SELF_SIGNED_DAYS;
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
	if (!have_key)
		n = wc_EccKeyToDer(&key, key_der, sizeof(key_der));
	if (n > 0 && !have_key)
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
	size_t name_count, uint64_t wall_ms, char *why, size_t why_bytes)
{
	bool have_cert = access(certificate_file, F_OK) == 0,
	     have_key = access(key_file, F_OK) == 0;
	struct san san = {.n = 0};
	char host[256] = "";
	int cert_n = PEM_MAX, key_n = PEM_MAX;
	uint8_t *cert_pem = NULL, *key_pem = NULL;
	bool ok = false;

	tls_library_ready();
	if (have_cert && have_key && !wants_renewal(certificate_file, wall_ms))
		return true;
	if (have_cert != have_key) {
		snprintf(why, why_bytes, "%s is there, but %s is not",
			have_cert ? certificate_file : key_file,
			have_cert ? key_file : certificate_file);
		return false;
	}
	san_add_name(&san, "localhost");
	san_add_name(&san, "127.0.0.1");
	san_add_name(&san, "::1");
	if (gethostname(host, sizeof(host) - 1) == 0 && host[0] && strcmp(host, "localhost") != 0)
		san_add_name(&san, host);
	for (size_t i = 0; i < name_count; i++)
		san_add_name(&san, names[i]);
	if (san.full) {
		snprintf(why, why_bytes, "too many or too long names for one certificate");
		goto out;
	}
	cert_pem = malloc(PEM_MAX);
	if (have_key) {
		size_t n = 0;

		key_pem = tls_pem_read(key_file, &n, why, why_bytes);
		key_n = (int)n;
		if (!key_pem)
			goto out;
	} else {
		key_pem = malloc(PEM_MAX);
	}
	if (!cert_pem || !key_pem) {
		snprintf(why, why_bytes, "out of memory");
		goto out;
	}
	const char *common_name = name_count ? names[0] : host[0] ? host : "localhost";
	const char *bad =
		make_pair(&san, common_name, cert_pem, &cert_n, key_pem, &key_n, have_key);

	if (bad)
		snprintf(why, why_bytes, "%s: %s", certificate_file, bad);
	else
		ok = (have_key || write_file(key_file, 0600, false, key_pem, (size_t)key_n, why,
					  why_bytes)) &&
		     write_file(certificate_file, 0644, have_cert, cert_pem, (size_t)cert_n, why,
			     why_bytes);
out:
	if (key_pem)
		explicit_bzero(key_pem, (size_t)key_n);
	free(key_pem);
	free(cert_pem);
	/* The former one serves on, until its end is reached (of which the log warns). */
	if (have_cert)
		log_msg(ok ? LOG_INFO : LOG_WARNING, "tls: %s",
			ok ? "the self-signed certificate was about to end: renewed, with the same "
			     "key"
			   : why);
	return ok || have_cert;
}
