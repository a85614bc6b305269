/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Input: one byte that chooses where the network cuts, then what an SMTP or LMTP server says. Whatever
 * the cuts, it comes apart into the same replies. */
#include "bench/mail/smtp_reply.h"

#include <stdlib.h>

static void must(bool ok)
{
	if (!ok)
		abort();
}

static int parse_in_steps(
	struct smtp_reply *r, const uint8_t *p, size_t n, size_t step, const char **why)
{
	size_t k = 0;
	int rc;

	do {
		k = n - k < step ? n : k + step;
		rc = smtp_reply_parse(p, k, r, why);
	} while (rc == 0 && k < n);
	return rc;
}

/* The refused line as it is shown holds nothing that could end a line. */
static void check_shown(struct bytes line, const uint8_t *p, size_t n)
{
	must(line.p >= p && line.n <= n && line.p + line.n <= p + n);
	for (size_t i = 0; i < line.n; i++)
		must(line.p[i] == '\t' || (line.p[i] >= 0x20 && line.p[i] != 0x7f));
}

/* Read again, line by line, by simpler means. */
static void check_reply(const struct smtp_reply *r, const uint8_t *p, size_t n)
{
	static const char *const words[] = {"PIPELINING", "8BITMIME", "SIZE", ""};
	bool offers[4] = {false}, first = true, over = false;
	const uint8_t *end;

	must(r->lines.p == p && r->lines.n <= n && r->lines.n <= SMTP_REPLY_BYTES_MAX);
	must(r->code >= 200 && r->code <= 559);
	check_shown(r->last, p, r->lines.n);
	for (end = p + r->lines.n; p < end; first = false) {
		const uint8_t *lf = memchr(p, '\n', (size_t)(end - p));
		struct bytes line;

		must(!over && lf && lf[-1] == '\r');
		line = bytes_of(p, (size_t)(lf - 1 - p));
		must(line.n >= 3 && (p[0] - '0') * 100 + (p[1] - '0') * 10 + p[2] - '0' == r->code);
		check_shown(line, p, line.n);
		over = line.n == 3 || p[3] == ' ';
		must(!over || (line.p == r->last.p && line.n == r->last.n));
		for (size_t i = 0; i < 4 && !first && r->code == 250 && line.n > 3; i++) {
			const uint8_t *blank = memchr(p + 4, ' ', line.n - 4);
			const uint8_t *stop = blank ? blank : p + line.n;

			offers[i] |=
				bytes_eq_nocase(bytes_of(p + 4, (size_t)(stop - p - 4)), words[i]);
		}
		p = lf + 1;
	}
	must(over);
	for (size_t i = 0; i < 4; i++)
		must(smtp_reply_offers(r, words[i]) == offers[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char none[] = "";
	size_t step, least;

	if (n < 1)
		return 0;
	step = 1 + p[0];
	p++, n--;
	/* Bytewise where that is affordable: each step begins anew. */
	least = 1 + n / 64;
	while (n) {
		struct smtp_reply whole, split, small;
		const char *why_a = none, *why_b = none, *why_c = none;
		int a, b, c;

		a = parse_in_steps(&whole, p, n, n + 1, &why_a);
		b = parse_in_steps(&split, p, n, step, &why_b);
		c = parse_in_steps(&small, p, n, least, &why_c);
		must(a == b && a == c && why_a == why_b && why_a == why_c);
		must(why_a && (a < 0) == (why_a != none));
		if (a == 0)
			return 0;
		check_shown(whole.last, p, n);
		must(whole.last.p == split.last.p && whole.last.p == small.last.p);
		must(whole.last.n == split.last.n && whole.last.n == small.last.n);
		if (a < 0)
			return 0;
		must(whole.code == split.code && whole.code == small.code);
		must(whole.lines.n == split.lines.n && whole.lines.n == small.lines.n);
		check_reply(&whole, p, n);
		p += whole.lines.n;
		n -= whole.lines.n;
	}
	return 0;
}
