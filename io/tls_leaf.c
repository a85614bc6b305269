/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Reads a certificate. Our own reader, because what wolfSSL offers differs between its builds. */
#include "io/tls_priv.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool der_take(struct bytes *in, uint8_t *tag_out, struct bytes *body_out)
{
	size_t at = 2, n;

	if (in->n < 2)
		return false;
	n = in->p[1];
	if (n & 0x80) {
		size_t count = n & 0x7f;
		if (count == 0 || count > 3 || in->n < 2 + count)
			return false;
		n = 0;
		for (size_t i = 0; i < count; i++)
			n = n << 8 | in->p[at++];
	}
	if (n > in->n - at)
		return false;
	*tag_out = in->p[0];
	*body_out = bytes_of(in->p + at, n);
	in->p += at + n;
	in->n -= at + n;
	return true;
}

static bool der_expect(struct bytes *in, uint8_t tag, struct bytes *body_out)
{
	struct bytes rest = *in, body;
	uint8_t found;

	if (!der_take(&rest, &found, &body) || found != tag)
		return false;
	*in = rest;
	*body_out = body;
	return true;
}

/* YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ (RFC 5280 4.1.2.5) */
static bool der_time(uint8_t tag, struct bytes b, int64_t *unix_s_out)
{
	struct tm tm = {0};
	int part[7], count = 0;
	size_t at = 0;

	for (size_t i = 0; i + 1 < b.n; i++)
		if (!isdigit(b.p[i]))
			return false;
	if (b.n != (tag == DER_UTC ? 13u : 15u))
		return false;
	while (at + 2 < b.n && count < 7) {
		part[count++] = (b.p[at] - '0') * 10 + b.p[at + 1] - '0';
		at += 2;
	}
	int *rest = part + 1;
	if (tag == DER_UTC) {
		tm.tm_year = part[0] < 50 ? part[0] + 100 : part[0];
	} else {
		tm.tm_year = part[0] * 100 + part[1] - 1900;
		rest++;
	}
	tm.tm_mon = rest[0] - 1;
	tm.tm_mday = rest[1];
	tm.tm_hour = rest[2];
	tm.tm_min = rest[3];
	tm.tm_sec = rest[4];
	*unix_s_out = timegm(&tm);
	return true;
}

static bool pair_add_name(struct pair *p, struct bytes name)
{
	char **more = realloc(p->names, (p->name_count + 1) * sizeof(*more));

	if (!more)
		return false;
	p->names = more;
	char *copy = malloc(name.n + 1);
	if (!copy)
		return false;
	for (size_t i = 0; i < name.n; i++)
		copy[i] = (char)tolower(name.p[i]);
	copy[name.n] = 0;
	p->names[p->name_count++] = copy;
	return true;
}

/* subjectAltName, or else the last CN of the subject (RFC 6125 6.4.4). */
static bool read_names(struct pair *p, struct bytes subject, struct bytes extensions)
{
	static const uint8_t san_oid[] = {0x55, 0x1d, 0x11}, cn_oid[] = {0x55, 0x04, 0x03};
	struct bytes ext, oid, value, names, name, set, attribute, cn = {0};
	uint8_t tag;

	while (der_expect(&extensions, DER_SEQUENCE, &ext)) {
		if (!der_expect(&ext, DER_OID, &oid) ||
			!bytes_eq(oid, bytes_of(san_oid, sizeof(san_oid))))
			continue;
		/* `critical` may stand in between */
		while (der_take(&ext, &tag, &value))
			if (tag == DER_OCTETS && der_expect(&value, DER_SEQUENCE, &names))
				while (der_take(&names, &tag, &name))
					if (tag == SAN_DNS && !pair_add_name(p, name))
						return false;
		if (p->name_count > 0)
			return true;
	}
	while (der_expect(&subject, DER_SET, &set))
		while (der_expect(&set, DER_SEQUENCE, &attribute))
			if (der_expect(&attribute, DER_OID, &oid) &&
				bytes_eq(oid, bytes_of(cn_oid, sizeof(cn_oid))) &&
				der_take(&attribute, &tag, &value))
				cn = value;
	return cn.n == 0 || pair_add_name(p, cn);
}

/* Reads what we need of a leaf certificate (RFC 5280 4.1): names, key type, public key, expiry. */
const char *tls_leaf_read(struct pair *p, struct bytes der, struct bytes *public_key_out)
{
	static const uint8_t ec_oid[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01};
	static const uint8_t rsa_oid[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01};
	static const uint8_t p256_oid[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
	static const uint8_t p384_oid[] = {0x2b, 0x81, 0x04, 0x00, 0x22};
	static const uint8_t p521_oid[] = {0x2b, 0x81, 0x04, 0x00, 0x23};
	struct bytes cert, tbs, skip, validity, subject, spki, algorithm, oid, curve, t;
	struct bytes extensions = {0}, wrapped;
	uint8_t tag;

	if (!der_expect(&der, DER_SEQUENCE, &cert) || !der_expect(&cert, DER_SEQUENCE, &tbs))
		return "not a certificate";
	der_expect(&tbs, DER_VERSION, &skip);
	if (!der_expect(&tbs, DER_INTEGER, &skip) || !der_expect(&tbs, DER_SEQUENCE, &skip) ||
		!der_expect(&tbs, DER_SEQUENCE, &skip) ||
		!der_expect(&tbs, DER_SEQUENCE, &validity) ||
		!der_expect(&tbs, DER_SEQUENCE, &subject) ||
		!der_expect(&tbs, DER_SEQUENCE, &spki) ||
		!der_expect(&spki, DER_SEQUENCE, &algorithm) ||
		!der_expect(&algorithm, DER_OID, &oid) ||
		!der_expect(&spki, DER_BIT_STRING, public_key_out))
		return "not a certificate";
	if (!der_take(&validity, &tag, &skip) || !der_take(&validity, &tag, &t) ||
		!der_time(tag, t, &p->expires_s))
		return "cannot read when it expires";
	while (der_take(&tbs, &tag, &wrapped))
		if (tag == DER_EXTENSIONS)
			der_expect(&wrapped, DER_SEQUENCE, &extensions);
	if (!read_names(p, subject, extensions))
		return "out of memory";
	if (bytes_eq(oid, bytes_of(rsa_oid, sizeof(rsa_oid)))) {
		p->kind = KEY_RSA;
		return NULL;
	}
	if (bytes_eq(oid, bytes_of(ec_oid, sizeof(ec_oid))) &&
		der_expect(&algorithm, DER_OID, &curve)) {
		if (bytes_eq(curve, bytes_of(p256_oid, sizeof(p256_oid)))) {
			p->kind = KEY_P256;
			return NULL;
		}
		if (bytes_eq(curve, bytes_of(p384_oid, sizeof(p384_oid)))) {
			p->kind = KEY_P384;
			return NULL;
		}
		if (bytes_eq(curve, bytes_of(p521_oid, sizeof(p521_oid)))) {
			p->kind = KEY_P521;
			return NULL;
		}
	}
	return "its key is neither RSA nor ECDSA on P-256, P-384 or P-521";
}

bool tls_leaf_self_issued(struct bytes der)
{
	struct bytes cert, tbs, skip, issuer, subject;

	if (!der_expect(&der, DER_SEQUENCE, &cert) || !der_expect(&cert, DER_SEQUENCE, &tbs))
		return false;
	der_expect(&tbs, DER_VERSION, &skip);
	return der_expect(&tbs, DER_INTEGER, &skip) && der_expect(&tbs, DER_SEQUENCE, &skip) &&
	       der_expect(&tbs, DER_SEQUENCE, &issuer) && der_expect(&tbs, DER_SEQUENCE, &skip) &&
	       der_expect(&tbs, DER_SEQUENCE, &subject) && bytes_eq(issuer, subject);
}
