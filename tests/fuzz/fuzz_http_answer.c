/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Input: one byte that chooses where the network cuts, then what the server sends. Whatever the cuts,
 * the heads come out the same, answer after answer. */
#include "bench/fleet/http_answer.h"

#include <stdlib.h>

enum { ANSWERS_MAX = 8 };

static void must(bool ok)
{
	if (!ok)
		abort();
}

static bool same_view(struct bytes a, struct bytes b)
{
	return a.p == b.p && a.n == b.n;
}

static bool same_answer(const struct http_answer *a, const struct http_answer *b)
{
	if (a->status != b->status || !same_view(a->reason, b->reason) ||
		a->head_bytes != b->head_bytes || a->content_length != b->content_length ||
		a->keep_alive != b->keep_alive || a->field_count != b->field_count)
		return false;
	for (uint32_t i = 0; i < a->field_count; i++)
		if (!same_view(a->fields[i].name, b->fields[i].name) ||
			!same_view(a->fields[i].value, b->fields[i].value))
			return false;
	return true;
}

/* No view leaves the head, and nothing in it could end a line. */
static void check_view(struct bytes v, const uint8_t *p, size_t n)
{
	must(v.p >= p && v.n <= n && v.p + v.n <= p + n);
	must(!memchr(v.p, '\r', v.n) && !memchr(v.p, '\n', v.n) && !memchr(v.p, 0, v.n));
}

static void check_answer(const struct http_answer *a, const uint8_t *p, size_t n)
{
	uint64_t length = 0;
	char name[64];

	must(a->head_bytes <= n && a->head_bytes <= HTTP_ANSWER_HEAD_BYTES_MAX);
	must(memcmp(p + a->head_bytes - 4, "\r\n\r\n", 4) == 0);
	must(a->status >= 200 && a->status <= 599);
	must(a->field_count <= HTTP_ANSWER_HEADERS_MAX);
	check_view(a->reason, p, a->head_bytes);
	for (uint32_t i = 0; i < a->field_count; i++) {
		check_view(a->fields[i].name, p, a->head_bytes);
		check_view(a->fields[i].value, p, a->head_bytes);
		must(a->fields[i].name.n > 0);
		/* Found by its name: this one, or an earlier one of the same. */
		if (bytes_to_strz(a->fields[i].name, name, sizeof(name)))
			must(http_answer_field(a, name).p &&
				http_answer_field(a, name).p <= a->fields[i].value.p);
	}
	if (a->status == 204 || a->status == 304)
		must(a->content_length == 0);
	else
		must(bytes_to_u64(http_answer_field(a, "Content-Length"), UINT64_MAX, &length) &&
			length == a->content_length);
	must(!http_answer_field(a, "Transfer-Encoding").p);
}

static int parse_in_steps(
	struct http_answer *a, const uint8_t *p, size_t n, size_t step, const char **why)
{
	size_t k = 0;
	int rc;

	do {
		k = n - k < step ? n : k + step;
		rc = http_answer_parse(p, k, a, why);
	} while (rc == 0 && k < n);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char none[] = "";
	static struct http_answer whole, split, small;
	size_t step, least;

	if (n < 1)
		return 0;
	step = 1 + p[0];
	p++, n--;
	/* Bytewise where that is affordable: each step begins anew. */
	least = 1 + n / 64;
	for (int i = 0; i < ANSWERS_MAX; i++) {
		const char *why_a = none, *why_b = none, *why_c = none;
		int a, b, c;

		a = parse_in_steps(&whole, p, n, n + 1, &why_a);
		b = parse_in_steps(&split, p, n, step, &why_b);
		c = parse_in_steps(&small, p, n, least, &why_c);
		must(a == b && a == c && why_a == why_b && why_a == why_c);
		must(why_a && (a < 0) == (why_a != none));
		if (a != 1)
			return 0;
		must(same_answer(&whole, &split) && same_answer(&whole, &small));
		check_answer(&whole, p, n);
		p += whole.head_bytes;
		n -= whole.head_bytes;
		if (whole.content_length > n)
			return 0;
		p += whole.content_length;
		n -= (size_t)whole.content_length;
	}
	return 0;
}
