/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The ClientHello: is it one, and which certificate fits. */
#include "io/tls_priv.h"

#include "core/base/check.h"

#include <string.h>

static bool take(struct bytes *in, size_t n, struct bytes *out)
{
	if (in->n < n)
		return false;
	*out = bytes_of(in->p, n);
	in->p += n;
	in->n -= n;
	return true;
}

/* A vector with a length of `size` bytes in front (RFC 8446 3.4). */
static bool take_vector(struct bytes *in, size_t size, struct bytes *out)
{
	struct bytes length;
	size_t n = 0;

	if (!take(in, size, &length))
		return false;
	for (size_t i = 0; i < size; i++)
		n = n << 8 | length.p[i];
	return take(in, n, out);
}

static void hello_signature(struct hello *hello, uint16_t scheme)
{
	switch (scheme) {
	case 0x0401: /* rsa_pkcs1_sha256; enough for TLS 1.2 */
	case 0x0501:
	case 0x0601:
	case 0x0804: /* rsa_pss_rsae_* */
	case 0x0805:
	case 0x0806:
	case 0x0201: /* rsa_pkcs1_sha1: such a client has at least an RSA stack */
		hello->kind[KEY_RSA] = true;
		break;
	case 0x0403:
		hello->kind[KEY_P256] = true;
		break;
	case 0x0503:
		hello->kind[KEY_P384] = true;
		break;
	case 0x0603:
		hello->kind[KEY_P521] = true;
		break;
	}
}

static void hello_group(struct hello *hello, uint16_t group)
{
	switch (group) {
	case 23:
		hello->curve[KEY_P256] = hello->our_group = true;
		break;
	case 24:
		hello->curve[KEY_P384] = true;
		break;
	case 25:
		hello->curve[KEY_P521] = true;
		break;
	case 29: /* X25519 */
		hello->our_group = true;
		break;
	}
}

/* Reads the body of a ClientHello (RFC 8446 4.1.2). False: malformed. */
bool tls_hello_read(struct bytes b, struct hello *hello)
{
	struct bytes version, session_id, field, suites, extensions = {0}, ext, list, item;

	memset(hello, 0, sizeof(*hello));
	if (!take(&b, 2, &version) || !take(&b, 32, &field) || !take_vector(&b, 1, &session_id) ||
		session_id.n > 32 || !take_vector(&b, 2, &suites) || suites.n % 2 != 0 ||
		suites.n == 0 || !take_vector(&b, 1, &field) || field.n == 0)
		return false;
	while (take(&suites, 2, &item)) {
		uint16_t suite = load_be16(item.p);
		if (suite == 0xc02b || suite == 0xc02c || suite == 0xcca9)
			hello->ecdsa_suite12 = true;
	}
	hello->session_id = session_id.n > 0;
	hello->tls12 = load_be16(version.p) >= 0x0303;
	if (b.n > 0 && (!take_vector(&b, 2, &extensions) || b.n > 0))
		return false;
	while (take(&extensions, 2, &item)) {
		if (!take_vector(&extensions, 2, &ext))
			return false;
		switch (load_be16(item.p)) {
		case 0: /* server_name, RFC 6066 3 */
			if (!take_vector(&ext, 2, &list))
				return false;
			while (take(&list, 1, &item)) {
				if (!take_vector(&list, 2, &field))
					return false;
				if (item.p[0] == 0)
					hello->server_name = field;
			}
			break;
		case 10: /* supported_groups, RFC 8422 5.1.1 */
			if (!take_vector(&ext, 2, &list))
				return false;
			hello->groups = true;
			while (take(&list, 2, &item))
				hello_group(hello, load_be16(item.p));
			break;
		case 13: /* signature_algorithms */
			if (!take_vector(&ext, 2, &list))
				return false;
			hello->signature_algorithms = true;
			while (take(&list, 2, &item))
				hello_signature(hello, load_be16(item.p));
			break;
		case 43: /* supported_versions */
			if (!take_vector(&ext, 1, &list))
				return false;
			/* The list alone counts (4.2.1). */
			hello->tls12 = hello->tls13 = false;
			while (take(&list, 2, &item)) {
				if (load_be16(item.p) == 0x0304)
					hello->tls13 = true;
				else if (load_be16(item.p) == 0x0303)
					hello->tls12 = true;
			}
			break;
		}
	}
	return extensions.n == 0;
}

/* "*.example.org" stands for one label (RFC 6125 6.4.3). */
static bool name_matches(const char *pattern, struct bytes name)
{
	if (pattern[0] == '*' && pattern[1] == '.') {
		const uint8_t *dot = memchr(name.p, '.', name.n);
		if (!dot || dot == name.p)
			return false;
		size_t skip = (size_t)(dot - name.p);
		return bytes_eq_nocase(bytes_of(dot, name.n - skip), pattern + 1);
	}
	return bytes_eq_nocase(name, pattern);
}

static bool pair_named(const struct pair *p, struct bytes name, bool wildcards)
{
	for (size_t i = 0; i < p->name_count; i++)
		if ((p->names[i][0] == '*') == wildcards && name_matches(p->names[i], name))
			return true;
	return false;
}

/* Whether the client can check this pair's signature. */
static bool pair_suits(const struct pair *p, const struct hello *hello)
{
	if (p->kind == KEY_RSA) /* RFC 5246 7.4.1.4.1: without the extension SHA-1 is meant */
		return hello->kind[KEY_RSA] || !hello->signature_algorithms;
	if (!hello->kind[p->kind])
		return false;
	/* Before TLS 1.3 the groups limit the curves of certificates too (RFC 8422 5.1.1). */
	return hello->tls13 || (hello->ecdsa_suite12 && (!hello->groups || hello->curve[p->kind]));
}

WOLFSSL_CTX *tls_hello_choose(const struct tls_ctx *c, const struct hello *hello)
{
	struct bytes name = hello->server_name;
	const struct pair *best = NULL;
	int best_score = -1;

	/* A final dot is no part of the name (RFC 6066 3 forbids it; some send it). */
	if (name.n > 0 && name.p[name.n - 1] == '.')
		name.n--;
	for (size_t i = 0; i < c->pair_count; i++) {
		const struct pair *p = &c->pairs[i];
		/* The name decides first, then whether the signature is understood, then speed. */
		int score = 0;
		if (name.n > 0 && pair_named(p, name, false))
			score = 32;
		else if (name.n > 0 && pair_named(p, name, true))
			score = 16;
		else if (i == 0 || (p->name_count > 0 && c->pairs[0].name_count > 0 &&
					   strcmp(p->names[0], c->pairs[0].names[0]) == 0))
			score = 8;
		if (pair_suits(p, hello))
			score += 4;
		if (p->kind == KEY_P256)
			score += 2;
		else if (p->kind != KEY_RSA)
			score += 1;
		if (score > best_score) {
			best_score = score;
			best = p;
		}
	}
	CHECK(best); /* a server's context has at least one */
	return best->wolf;
}
