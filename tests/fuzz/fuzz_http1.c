/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Input: one byte that chooses where the network cuts, then what the peer sends. Whatever the cuts,
 * heads and bodies come out the same, request after request. */
#include "io/http1.h"

#include <stdlib.h>

enum { REQUESTS_MAX = 8 };

static const struct http1_limits limits = {
	.head_bytes_max = 2048, .target_bytes_max = 256, .body_bytes_max = 4096};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static bool same_view(struct bytes a, struct bytes b)
{
	return a.p == b.p && a.n == b.n;
}

static bool same_request(const struct http1_request *a, const struct http1_request *b)
{
	if (a->method != b->method || !same_view(a->method_name, b->method_name) ||
		!same_view(a->target, b->target) || !same_view(a->path, b->path) ||
		!same_view(a->query, b->query) || !same_view(a->host, b->host) ||
		a->minor != b->minor || a->keep_alive != b->keep_alive ||
		a->expect_continue != b->expect_continue || a->chunked != b->chunked ||
		a->has_length != b->has_length || a->gzip_body != b->gzip_body ||
		a->accepts_gzip != b->accepts_gzip || a->content_length != b->content_length ||
		a->head_bytes != b->head_bytes || a->header_count != b->header_count)
		return false;
	for (uint32_t i = 0; i < a->header_count; i++)
		if (!same_view(a->headers[i].name, b->headers[i].name) ||
			!same_view(a->headers[i].value, b->headers[i].value))
			return false;
	return true;
}

/* No view leaves the head, and nothing in it could end a line. */
static void check_view(struct bytes v, const uint8_t *p, size_t n)
{
	if (v.n == 0)
		return;
	must(v.n <= n && v.p >= p && v.p + v.n <= p + n);
	must(!memchr(v.p, '\r', v.n) && !memchr(v.p, '\n', v.n) && !memchr(v.p, 0, v.n));
}

static void check_request(const struct http1_request *r, const uint8_t *p, size_t n)
{
	must(r->head_bytes <= n && r->head_bytes <= limits.head_bytes_max);
	must(memcmp(p + r->head_bytes - 4, "\r\n\r\n", 4) == 0);
	must(r->target.n <= limits.target_bytes_max);
	must(r->content_length <= limits.body_bytes_max);
	must(!(r->chunked && (r->has_length || r->minor == 0)));
	must(r->minor == 0 || r->host.n);
	must(r->header_count <= HTTP1_HEADERS_MAX);
	check_view(r->method_name, p, r->head_bytes);
	check_view(r->target, p, r->head_bytes);
	check_view(r->query, p, r->head_bytes);
	check_view(r->host, p, r->head_bytes);
	for (uint32_t i = 0; i < r->header_count; i++) {
		check_view(r->headers[i].name, p, r->head_bytes);
		check_view(r->headers[i].value, p, r->head_bytes);
	}
}

static int parse_in_steps(
	struct http1_request *req, const uint8_t *p, size_t n, size_t step, const char **why)
{
	size_t scanned = 0, k = 0;
	int rc;

	do {
		k = n - k < step ? n : k + step;
		rc = http1_parse(p, k, &limits, &scanned, req, why);
	} while (rc == 0 && k < n);
	return rc;
}

struct body_result {
	int rc;
	size_t used;
	struct buf out;
	const char *why;
};

static struct body_result feed_in_steps(
	const struct http1_request *req, const uint8_t *p, size_t n, size_t step)
{
	struct body_result r = {0};
	struct http1_body b;
	size_t used;

	http1_body_start(&b, req, limits.body_bytes_max);
	do {
		size_t k = n - r.used < step ? n - r.used : step;

		r.rc = http1_body_feed(&b, p + r.used, k, &used, &r.out, &r.why);
		must(used <= k);
		r.used += used;
	} while (r.rc == 0 && r.used < n);
	must(b.total == r.out.n && r.out.n <= limits.body_bytes_max);
	return r;
}

/* The decoders on every header value: they share the peer with the parser. */
static void decode_header(struct bytes value)
{
	char text[64], *user, *pass;
	uint8_t raw[64];

	if (http1_basic(value, text, sizeof(text), &user, &pass))
		must(user == text && pass == user + strlen(user) + 1 &&
			pass + strlen(pass) < text + sizeof(text));
	must(base64_decode(value, raw, sizeof(raw)) <= (int)sizeof(raw));
	must(percent_decode(value, true, text, sizeof(text)) <= (int)sizeof(text));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct http1_request whole, split, bytewise;
	size_t step;

	if (n < 1)
		return 0;
	step = 1 + p[0] % 61;
	p++, n--;
	for (int i = 0; i < REQUESTS_MAX; i++) {
		const char *why_a = NULL, *why_b = NULL, *why_c = NULL;
		struct body_result x, y, z;
		int a, b, c;

		a = parse_in_steps(&whole, p, n, n + 1, &why_a);
		b = parse_in_steps(&split, p, n, step, &why_b);
		c = parse_in_steps(&bytewise, p, n, 1, &why_c);
		must(a == b && a == c && why_a == why_b && why_a == why_c);
		must(a >= 0 || why_a);
		if (a != 1)
			return 0;
		must(same_request(&whole, &split) && same_request(&whole, &bytewise));
		check_request(&whole, p, n);
		for (uint32_t k = 0; k < whole.header_count; k++)
			decode_header(whole.headers[k].value);
		p += whole.head_bytes;
		n -= whole.head_bytes;

		x = feed_in_steps(&whole, p, n, n + 1);
		y = feed_in_steps(&whole, p, n, step);
		z = feed_in_steps(&whole, p, n, 1);
		must(x.rc == y.rc && x.rc == z.rc && x.used == y.used && x.used == z.used);
		must(x.why == y.why && x.why == z.why);
		must(bytes_eq(buf_bytes(&x.out), buf_bytes(&y.out)));
		must(bytes_eq(buf_bytes(&x.out), buf_bytes(&z.out)));
		p += x.used;
		n -= x.used;
		buf_free(&x.out);
		buf_free(&y.out);
		buf_free(&z.out);
		if (x.rc != 1)
			return 0;
	}
	return 0;
}
