/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/http_answer.h"

/* RFC 9110 5.6.2. */
static bool is_token(uint8_t c)
{
	if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
		return true;
	return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static struct bytes trim(struct bytes b)
{
	while (b.n > 0 && (b.p[0] == ' ' || b.p[0] == '\t'))
		b.p++, b.n--;
	while (b.n > 0 && (b.p[b.n - 1] == ' ' || b.p[b.n - 1] == '\t'))
		b.n--;
	return b;
}

/* The next line without its CRLF. 1, 0 (not whole yet) or -1. */
static int next_line(const uint8_t *p, size_t n, size_t *at, struct bytes *line, const char **why)
{
	size_t start = *at;

	for (size_t i = start; i < n; i++) {
		uint8_t c = p[i];

		if (c == '\n') {
			*why = "a line ends in a bare LF";
			return -1;
		}
		if (c == '\r') {
			if (i + 1 == n)
				return 0;
			if (p[i + 1] != '\n') {
				*why = "a bare CR";
				return -1;
			}
			*line = bytes_of(p + start, i - start);
			*at = i + 2;
			return 1;
		}
		if ((c < 0x20 && c != '\t') || c == 0x7f) {
			*why = "a control character in the head";
			return -1;
		}
	}
	return 0;
}

/* "HTTP/1.1 200 OK"; the blank before an empty reason is required (RFC 9112 4). */
static bool status_line(struct bytes line, struct http_answer *out)
{
	static const char start[] = "HTTP/1.1 ";
	const size_t k = sizeof(start) - 1;

	if (line.n < k + 4 || memcmp(line.p, start, k) != 0 || line.p[k + 3] != ' ')
		return false;
	out->status = 0;
	for (size_t i = k; i < k + 3; i++) {
		if (line.p[i] < '0' || line.p[i] > '9')
			return false;
		out->status = out->status * 10 + line.p[i] - '0';
	}
	out->reason = bytes_of(line.p + k + 4, line.n - k - 4);
	return out->status >= 200 && out->status <= 599;
}

static const char *field_line(struct bytes line, struct http_answer *out, bool *has_length)
{
	const uint8_t *colon = memchr(line.p, ':', line.n);
	struct http_answer_field *f;

	if (line.p[0] == ' ' || line.p[0] == '\t')
		return "a folded header line";
	if (!colon || colon == line.p)
		return "a header line without a name";
	for (const uint8_t *c = line.p; c < colon; c++)
		if (!is_token(*c))
			return "a header name with an illegal character";
	if (out->field_count == HTTP_ANSWER_HEADERS_MAX)
		return "too many headers";
	f = &out->fields[out->field_count++];
	f->name = bytes_of(line.p, (size_t)(colon - line.p));
	f->value = trim(bytes_of(colon + 1, line.n - f->name.n - 1));
	if (bytes_eq_nocase(f->name, "transfer-encoding"))
		return "Transfer-Encoding instead of Content-Length";
	if (bytes_eq_nocase(f->name, "content-length")) {
		if (*has_length)
			return "two Content-Length headers";
		*has_length = true;
		if (!bytes_to_u64(f->value, (uint64_t)1 << 40, &out->content_length))
			return "Content-Length is not a number";
	}
	if (bytes_eq_nocase(f->name, "connection") && bytes_eq_nocase(f->value, "close"))
		out->keep_alive = false;
	return NULL;
}

int http_answer_parse(const uint8_t *p, size_t n, struct http_answer *out, const char **why_out)
{
	struct bytes line;
	bool has_length = false, too_long = n > HTTP_ANSWER_HEAD_BYTES_MAX;
	size_t at = 0;
	int k;

	/* What lies behind is not looked at: however the head comes, it is too long. */
	if (too_long)
		n = HTTP_ANSWER_HEAD_BYTES_MAX;
	out->status = 0;
	out->content_length = 0;
	out->field_count = 0;
	out->keep_alive = true;
	k = next_line(p, n, &at, &line, why_out);
	if (k == 1 && !status_line(line, out)) {
		*why_out = "not a final HTTP/1.1 status line";
		return -1;
	}
	while (k == 1) {
		k = next_line(p, n, &at, &line, why_out);
		if (k != 1)
			break;
		if (line.n == 0) {
			out->head_bytes = at;
			/* No body, whatever they say (RFC 9112 6.3). */
			if (out->status == 204 || out->status == 304) {
				out->content_length = 0;
			} else if (!has_length) {
				*why_out = "no Content-Length";
				return -1;
			}
			return 1;
		}
		const char *why = field_line(line, out, &has_length);

		if (why) {
			*why_out = why;
			return -1;
		}
	}
	if (k == 0 && too_long) {
		*why_out = "the head is too long";
		return -1;
	}
	return k;
}

struct bytes http_answer_field(const struct http_answer *a, const char *name)
{
	for (uint32_t i = 0; i < a->field_count; i++)
		if (bytes_eq_nocase(a->fields[i].name, name))
			return a->fields[i].value;
	return (struct bytes){0};
}
