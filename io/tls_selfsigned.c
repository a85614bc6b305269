/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A certificate to begin with. */
#include "io/tls_priv.h"

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
	tls_library_ready();
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
