/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Requests up to their empty line. */
#include "io/http1_priv.h"

#include "core/base/check.h"

#include <limits.h>

/* What a request line may hold besides its target: a method, blanks, the version, CR LF. */
enum { REQUEST_LINE_SLACK_BYTES = 64 };

/* clang-format off */
#define T8(a, b, c, d, e, f, g, h) a, b, c, d, e, f, g, h
#define X16(v) T8(v, v, v, v, v, v, v, v), T8(v, v, v, v, v, v, v, v)
enum {
	CN = 0,                                       /* controls and DEL */
	CV = C_VALUE,                                 /* blank, tab, 0x80 and up */
	CD = C_VALUE | C_TARGET,                      /* delimiters */
	CT = C_VALUE | C_TARGET | C_TOKEN,            /* token characters */
	CH = C_VALUE | C_TARGET | C_TOKEN | C_HOST,   /* letters, digits, - . _ ~ */
	CS = C_VALUE | C_TOKEN,                       /* '#': a fragment is never sent */
};
const uint8_t http1_class[256] = {
	T8(CN, CN, CN, CN, CN, CN, CN, CN), T8(CN, CV, CN, CN, CN, CN, CN, CN),
	X16(CN),
	/*  sp   !   "   #   $   %   &   '        (   )   *   +   ,   -   .   / */
	T8(CV, CT, CD, CS, CT, CT, CT, CT), T8(CD, CD, CT, CT, CD, CH, CH, CD),
	/*  0-7                                   8   9   :   ;   <   =   >   ? */
	T8(CH, CH, CH, CH, CH, CH, CH, CH), T8(CH, CH, CD, CD, CD, CD, CD, CD),
	T8(CD, CH, CH, CH, CH, CH, CH, CH), T8(CH, CH, CH, CH, CH, CH, CH, CH),
	/*  P-W                                   X   Y   Z   [   \   ]   ^   _ */
	T8(CH, CH, CH, CH, CH, CH, CH, CH), T8(CH, CH, CH, CD, CD, CD, CT, CH),
	T8(CT, CH, CH, CH, CH, CH, CH, CH), T8(CH, CH, CH, CH, CH, CH, CH, CH),
	/*  p-w                                   x   y   z   {   |   }   ~ DEL */
	T8(CH, CH, CH, CH, CH, CH, CH, CH), T8(CH, CH, CH, CD, CT, CD, CH, CN),
	X16(CV), X16(CV), X16(CV), X16(CV), X16(CV), X16(CV), X16(CV), X16(CV),
};
#undef T8
#undef X16
/* clang-format on */

static bool all_in_class(struct bytes b, uint8_t cls)
{
	for (size_t i = 0; i < b.n; i++)
		if (!(http1_class[b.p[i]] & cls))
			return false;
	return true;
}

static struct bytes bytes_trim(struct bytes b)
{
	while (b.n && (b.p[0] == ' ' || b.p[0] == '\t'))
		b.p++, b.n--;
	while (b.n && (b.p[b.n - 1] == ' ' || b.p[b.n - 1] == '\t'))
		b.n--;
	return b;
}

/* Takes the next element, trimmed, off a list separated by `sep`; false when there is none. */
static bool list_take(struct bytes *rest, char sep, struct bytes *item_out)
{
	const uint8_t *cut;
	size_t n;

	if (rest->n == 0)
		return false;
	cut = memchr(rest->p, sep, rest->n);
	n = cut ? (size_t)(cut - rest->p) : rest->n;
	*item_out = bytes_trim(bytes_of(rest->p, n));
	n += cut != NULL;
	rest->p += n;
	rest->n -= n;
	return true;
}

static enum http1_method method_of(struct bytes name)
{
	static const struct {
		const char *name;
		enum http1_method method;
	} known[] = {
		{"POST", HTTP1_POST},
		{"OPTIONS", HTTP1_OPTIONS},
		{"GET", HTTP1_GET},
		{"HEAD", HTTP1_HEAD},
		{"PUT", HTTP1_PUT},
	};

	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (bytes_eq_str(name, known[i].name))
			return known[i].method;
	return HTTP1_OTHER;
}

/* host[:port], host a name, an IPv4 address or [IPv6]. Nothing that a URL or a log line built from
 * it could read as something else. */
static bool host_is_valid(struct bytes h)
{
	size_t i = 0;
	uint64_t port;

	if (h.n && h.p[0] == '[') {
		for (i = 1; i < h.n && h.p[i] != ']'; i++)
			if (!strchr("0123456789abcdefABCDEF:.", h.p[i]) || h.p[i] == 0)
				return false;
		if (i == h.n || i == 1)
			return false;
		i++;
	} else {
		while (i < h.n && http1_class[h.p[i]] & C_HOST)
			i++;
		if (i == 0)
			return false;
	}
	if (i == h.n)
		return true;
	/* "host:" with no digits is an empty port, RFC 3986 3.2.3. */
	return h.p[i] == ':' &&
	       (i + 1 == h.n || bytes_to_u64(bytes_of(h.p + i + 1, h.n - i - 1), 65535, &port));
}

static int parse_target(struct http1_request *req, const char **why_out)
{
	struct bytes t = req->target;
	const uint8_t *q;
	size_t skip = 0;

	if (t.n == 1 && t.p[0] == '*') {
		if (req->method != HTTP1_OPTIONS)
			return refuse(400, "target * is for OPTIONS only", why_out);
		req->path = t;
		return 1;
	}
	if (t.n > 7 && bytes_eq_nocase(bytes_of(t.p, 7), "http://"))
		skip = 7;
	else if (t.n > 8 && bytes_eq_nocase(bytes_of(t.p, 8), "https://"))
		skip = 8;
	if (skip) {
		size_t end = skip;

		while (end < t.n && t.p[end] != '/' && t.p[end] != '?')
			end++;
		req->host = bytes_of(t.p + skip, end - skip);
		if (!host_is_valid(req->host))
			return refuse(400, "bad host in the target", why_out);
		t.p += end;
		t.n -= end;
	} else if (t.n == 0 || t.p[0] != '/') {
		return refuse(400, "target is neither a path nor an http URL", why_out);
	}
	q = t.n ? memchr(t.p, '?', t.n) : NULL;
	req->path = bytes_of(t.p, q ? (size_t)(q - t.p) : t.n);
	if (q)
		req->query = bytes_of(q + 1, t.n - req->path.n - 1);
	if (!all_in_class(req->path, C_TARGET))
		return refuse(400, "bad character in the path", why_out);
	if (req->path.n == 0)
		req->path = bytes_str("/");
	/* Phones send their user name unescaped: let bytes above ASCII through, here only. */
	for (size_t i = 0; i < req->query.n; i++)
		if (!(http1_class[req->query.p[i]] & C_TARGET) && req->query.p[i] < 0x80)
			return refuse(400, "bad character in the query", why_out);
	return 1;
}

static int parse_request_line(struct bytes line, const struct http1_limits *lim,
	struct http1_request *req, const char **why_out)
{
	const uint8_t *end = line.p + line.n, *sp, *v;

	if (line.n == 0)
		return refuse(400, "empty request line", why_out);
	sp = memchr(line.p, ' ', line.n);
	if (!sp)
		return refuse(400, "request line without a target", why_out);
	req->method_name = bytes_of(line.p, (size_t)(sp - line.p));
	if (req->method_name.n == 0 || !all_in_class(req->method_name, C_TOKEN))
		return refuse(400, "bad method", why_out);
	req->method = method_of(req->method_name);
	v = memchr(sp + 1, ' ', (size_t)(end - sp - 1));
	if (!v)
		return refuse(400, "request line without a version", why_out);
	req->target = bytes_of(sp + 1, (size_t)(v - sp - 1));
	v++;
	if (end - v != 8 || memcmp(v, "HTTP/", 5) != 0 || v[5] < '0' || v[5] > '9' || v[6] != '.' ||
		v[7] < '0' || v[7] > '9')
		return refuse(400, "bad HTTP version", why_out);
	if (v[5] != '1' || v[7] > '1')
		return refuse(505, "HTTP version is neither 1.0 nor 1.1", why_out);
	req->minor = (uint8_t)(v[7] - '0');
	if (req->target.n > lim->target_bytes_max)
		return refuse(414, "target too long", why_out);
	return parse_target(req, why_out);
}

static int parse_length(struct bytes v, const struct http1_limits *lim, struct http1_request *req,
	const char **why_out)
{
	if (req->has_length)
		return refuse(400, "repeated Content-Length", why_out);
	if (v.n == 0)
		return refuse(400, "bad Content-Length", why_out);
	for (size_t i = 0; i < v.n; i++)
		if (v.p[i] < '0' || v.p[i] > '9')
			return refuse(400, "bad Content-Length", why_out);
	if (!bytes_to_u64(v, lim->body_bytes_max, &req->content_length))
		return refuse(413, "Content-Length over the limit", why_out);
	req->has_length = true;
	return 1;
}

/* q in thousandths: "0.5" is 500. -1 when it is not a weight (RFC 9110 12.4.2). */
static int parse_weight(struct bytes q)
{
	int v;

	if (q.n == 0 || q.n > 5 || (q.p[0] != '0' && q.p[0] != '1') || (q.n > 1 && q.p[1] != '.'))
		return -1;
	v = (q.p[0] - '0') * 1000;
	for (size_t i = 2, unit = 100; i < q.n; i++, unit /= 10) {
		if (q.p[i] < '0' || q.p[i] > '9')
			return -1;
		v += (q.p[i] - '0') * (int)unit;
	}
	return v > 1000 ? -1 : v;
}

/* A refusal of gzip (q=0, or a weight we cannot read) wins over a mention elsewhere. */
static void parse_accept_encoding(struct bytes list, bool *named, bool *refused)
{
	struct bytes item, part;

	while (list_take(&list, ',', &item)) {
		if (!list_take(&item, ';', &part) ||
			(!bytes_eq_nocase(part, "gzip") && !bytes_eq_nocase(part, "x-gzip")))
			continue;
		*named = true;
		while (list_take(&item, ';', &part))
			if (part.n >= 2 && (part.p[0] | 0x20) == 'q' && part.p[1] == '=' &&
				parse_weight(bytes_of(part.p + 2, part.n - 2)) <= 0)
				*refused = true;
	}
}

/* What only the whole head can tell. */
struct head_facts {
	struct bytes host;
	bool has_host, has_te, has_authorization, has_coding;
	bool says_close, says_keep_alive, expects;
	bool gzip_named, gzip_refused;
};

static int parse_known_header(const struct http1_header *h, const struct http1_limits *lim,
	struct http1_request *req, struct head_facts *f, const char **why_out)
{
	struct bytes list = h->value, item;

	switch (h->name.n) {
	case 4:
		if (!bytes_eq_nocase(h->name, "Host"))
			break;
		if (f->has_host)
			return refuse(400, "repeated Host", why_out);
		f->has_host = true;
		f->host = h->value;
		if (!host_is_valid(f->host))
			return refuse(400, "bad Host", why_out);
		break;
	case 6:
		if (!bytes_eq_nocase(h->name, "Expect"))
			break;
		if (!bytes_eq_nocase(h->value, "100-continue"))
			return refuse(417, "unknown expectation", why_out);
		f->expects = true;
		break;
	case 10:
		if (!bytes_eq_nocase(h->name, "Connection"))
			break;
		while (list_take(&list, ',', &item)) {
			f->says_close |= bytes_eq_nocase(item, "close");
			f->says_keep_alive |= bytes_eq_nocase(item, "keep-alive");
		}
		break;
	case 13:
		if (!bytes_eq_nocase(h->name, "Authorization"))
			break;
		if (f->has_authorization)
			return refuse(400, "repeated Authorization", why_out);
		f->has_authorization = true;
		break;
	case 14:
		if (bytes_eq_nocase(h->name, "Content-Length"))
			return parse_length(h->value, lim, req, why_out);
		break;
	case 15:
		if (bytes_eq_nocase(h->name, "Accept-Encoding"))
			parse_accept_encoding(h->value, &f->gzip_named, &f->gzip_refused);
		break;
	case 16:
		if (!bytes_eq_nocase(h->name, "Content-Encoding"))
			break;
		if (f->has_coding)
			return refuse(415, "repeated Content-Encoding", why_out);
		f->has_coding = true;
		req->gzip_body =
			bytes_eq_nocase(h->value, "gzip") || bytes_eq_nocase(h->value, "x-gzip");
		if (!req->gzip_body && !bytes_eq_nocase(h->value, "identity"))
			return refuse(415, "unknown Content-Encoding", why_out);
		break;
	case 17:
		if (!bytes_eq_nocase(h->name, "Transfer-Encoding"))
			break;
		if (f->has_te)
			return refuse(400, "repeated Transfer-Encoding", why_out);
		f->has_te = true;
		if (!bytes_eq_nocase(h->value, "chunked"))
			return refuse(501, "transfer coding is not chunked alone", why_out);
		req->chunked = true;
		break;
	}
	return 1;
}

static int parse_header_line(struct bytes line, struct http1_header *h_out, const char **why_out)
{
	size_t i = 0;

	if (line.p[0] == ' ' || line.p[0] == '\t')
		return refuse(400, "folded header line", why_out);
	while (i < line.n && http1_class[line.p[i]] & C_TOKEN)
		i++;
	if (i == line.n || line.p[i] != ':' || i == 0)
		return refuse(400, "bad header name", why_out);
	h_out->name = bytes_of(line.p, i);
	h_out->value = bytes_of(line.p + i + 1, line.n - i - 1);
	if (!all_in_class(h_out->value, C_VALUE))
		return refuse(400, "control character in a header", why_out);
	h_out->value = bytes_trim(h_out->value);
	return 1;
}

/* Whether both say the same once letter case is set aside. */
static bool hosts_agree(struct bytes a, struct bytes b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++) {
		uint8_t x = a.p[i], y = b.p[i];

		if (x >= 'A' && x <= 'Z')
			x |= 0x20;
		if (y >= 'A' && y <= 'Z')
			y |= 0x20;
		if (x != y)
			return false;
	}
	return true;
}

static int check_head(struct http1_request *req, const struct head_facts *f, const char **why_out)
{
	if (f->has_te && req->has_length)
		return refuse(400, "Transfer-Encoding together with Content-Length", why_out);
	if (f->has_te && req->minor == 0)
		return refuse(400, "Transfer-Encoding in HTTP/1.0", why_out);
	if (!f->has_host && req->minor == 1)
		return refuse(400, "missing Host", why_out);
	/* RFC 9112 3.2.2 lets the target win; whoever routed by Host would disagree with us. */
	if (req->host.n && f->has_host && !hosts_agree(req->host, f->host))
		return refuse(400, "target and Host differ", why_out);
	if (f->has_host)
		req->host = f->host;
	req->keep_alive = !f->says_close && (req->minor == 1 || f->says_keep_alive);
	req->expect_continue = f->expects && req->minor == 1;
	req->accepts_gzip = f->gzip_named && !f->gzip_refused;
	return 1;
}

/* `head` runs from the request line to before the empty line; every line ends in CR LF, and no LF
 * stands elsewhere. */
static int parse_head(struct bytes head, const struct http1_limits *lim, struct http1_request *req,
	const char **why_out)
{
	struct head_facts f = {0};
	const uint8_t *lf, *end = head.p + head.n, *p = head.p;
	int rc;

	memset(req, 0, offsetof(struct http1_request, headers));
	lf = memchr(p, '\n', head.n);
	CHECK(lf);
	rc = parse_request_line(bytes_of(p, (size_t)(lf - p) - 1), lim, req, why_out);
	for (p = lf + 1; rc == 1 && p < end; p = lf + 1) {
		struct http1_header *h = &req->headers[req->header_count];

		if (req->header_count == HTTP1_HEADERS_MAX)
			return refuse(431, "too many headers", why_out);
		lf = memchr(p, '\n', (size_t)(end - p));
		CHECK(lf);
		rc = parse_header_line(bytes_of(p, (size_t)(lf - p) - 1), h, why_out);
		if (rc == 1)
			rc = parse_known_header(h, lim, req, &f, why_out);
		req->header_count++;
	}
	return rc == 1 ? check_head(req, &f, why_out) : rc;
}

/* Refusals come in the order of the bytes: each LF is judged when it arrives, and what needs the
 * whole head waits for its end. So one call with everything and a call per byte agree. */
int http1_parse(const uint8_t *p, size_t n, const struct http1_limits *lim, size_t *scanned,
	struct http1_request *req, const char **why_out)
{
	/* The empty line some clients send behind a body belongs to the next request. */
	size_t lead = n >= 2 && p[0] == '\r' && p[1] == '\n' ? 2 : 0;
	size_t line_end_max = (size_t)lim->target_bytes_max + REQUEST_LINE_SLACK_BYTES + lead;
	size_t at = *scanned > lead ? *scanned : lead;
	bool in_first;

	CHECK(*scanned <= n);
	in_first = !memchr(p + lead, '\n', at - lead);
	if (line_end_max > lim->head_bytes_max)
		line_end_max = lim->head_bytes_max;
	while (at < n) {
		const uint8_t *lf = memchr(p + at, '\n', n - at);
		size_t e;

		if (!lf)
			break;
		e = (size_t)(lf - p);
		if (in_first && e >= line_end_max)
			return refuse(414, "request line too long", why_out);
		if (e >= lim->head_bytes_max)
			return refuse(431, "head too long", why_out);
		if (e == lead || p[e - 1] != '\r')
			return refuse(400, "bare LF", why_out);
		at = e + 1;
		if (in_first) {
			/* Judged at once: what does not speak HTTP need not be waited for. */
			int rc;

			memset(req, 0, offsetof(struct http1_request, headers));
			rc = parse_request_line(
				bytes_of(p + lead, e - 1 - lead), lim, req, why_out);
			if (rc != 1)
				return rc;
			in_first = false;
		} else if (p[e - 2] == '\n') {
			int rc = parse_head(bytes_of(p + lead, e - 1 - lead), lim, req, why_out);

			if (rc == 1) {
				req->head_bytes = at;
				*scanned = 0;
			}
			return rc;
		}
	}
	if (in_first && n > line_end_max)
		return refuse(414, "request line too long", why_out);
	if (n > lim->head_bytes_max)
		return refuse(431, "head too long", why_out);
	*scanned = n;
	return 0;
}

struct bytes http1_header(const struct http1_request *req, const char *name)
{
	for (uint32_t i = 0; i < req->header_count; i++)
		if (bytes_eq_nocase(req->headers[i].name, name))
			return req->headers[i].value;
	return (struct bytes){0};
}

/* Credentials */

bool http1_basic(
	struct bytes authorization, char *dst, size_t cap, char **user_out, char **pass_out)
{
	struct bytes a = authorization;
	char *colon;
	int n;

	if (a.n < 6 || !bytes_eq_nocase(bytes_of(a.p, 5), "Basic") || a.p[5] != ' ' || cap == 0)
		goto bad;
	a.p += 5;
	a.n -= 5;
	/* The last byte is kept for the NUL behind the password. */
	n = base64_decode(bytes_trim(a), (uint8_t *)dst, cap - 1);
	if (n < 0)
		goto bad;
	for (int i = 0; i < n; i++)
		if ((uint8_t)dst[i] < 0x20 || dst[i] == 0x7f)
			goto bad;
	colon = memchr(dst, ':', (size_t)n);
	if (!colon)
		goto bad;
	*colon = 0;
	dst[n] = 0;
	*user_out = dst;
	*pass_out = colon + 1;
	return true;
bad:
	/* Half a password is as secret as a whole one. */
	if (cap)
		explicit_bzero(dst, cap);
	return false;
}
