/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/mail/smtp_reply.h"

/* Digits of a code: 2 to 5, 0 to 5, 0 to 9 (RFC 5321 4.2). Behind them nothing, or a text. */
static bool fits(uint8_t c, size_t column)
{
	switch (column) {
	case 0:
		return c >= '2' && c <= '5';
	case 1:
		return c >= '0' && c <= '5';
	case 2:
		return c >= '0' && c <= '9';
	case 3:
		return c == ' ' || c == '-';
	default:
		return (c >= 0x20 && c != 0x7f) || c == '\t';
	}
}

static bool is_reply_line(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!fits(p[i], i))
			return false;
	return n >= 3;
}

static int refused(struct smtp_reply *out, const uint8_t *line, size_t n, const char *why,
	const char **why_out)
{
	size_t shown = 0;

	while (shown < n && fits(line[shown], SIZE_MAX))
		shown++;
	out->last = bytes_of(line, shown);
	*why_out = why;
	return -1;
}

int smtp_reply_parse(const uint8_t *p, size_t n, struct smtp_reply *out, const char **why_out)
{
	bool too_long = n > SMTP_REPLY_BYTES_MAX;
	const uint8_t *line = p, *lf;

	/* What lies behind is not looked at: however the reply comes, it is too long. */
	if (too_long)
		n = SMTP_REPLY_BYTES_MAX;
	while (n && (lf = memchr(line, '\n', (size_t)(p + n - line)))) {
		size_t k = (size_t)(lf - line);

		if (k == 0 || lf[-1] != '\r' || !is_reply_line(line, --k))
			return refused(out, line, k, "not an answer", why_out);
		if (memcmp(line, p, 3) != 0)
			return refused(out, line, k, "an answer of several codes", why_out);
		if (k == 3 || line[3] == ' ') {
			out->code = (p[0] - '0') * 100 + (p[1] - '0') * 10 + (p[2] - '0');
			out->lines = bytes_of(p, (size_t)(lf + 1 - p));
			out->last = bytes_of(line, k);
			return 1;
		}
		line = lf + 1;
	}
	if (too_long)
		return refused(out, line, (size_t)(p + n - line), "an answer without end", why_out);
	return 0;
}

bool smtp_reply_offers(const struct smtp_reply *r, const char *keyword)
{
	const uint8_t *p = r->lines.p, *end = p + r->lines.n, *cr;
	const size_t n = strlen(keyword);

	if (r->code != 250)
		return false;
	/* The first line is the server's name. */
	for (bool first = true; p < end; p = cr + 2, first = false) {
		size_t k;

		cr = memchr(p, '\r', (size_t)(end - p));
		k = (size_t)(cr - p);
		if (!first && k >= n + 4 && (k == n + 4 || p[n + 4] == ' ') &&
			bytes_eq_nocase(bytes_of(p + 4, n), keyword))
			return true;
	}
	return false;
}
