/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/message_priv.h"

#include <pthread.h>
#include <stdlib.h>
#include <strings.h>

static GMimeParserOptions *options;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_once(void)
{
	static const char *fallback[] = {"utf-8", "windows-1252", NULL};

	g_mime_init();
	/* Filled once, then only read, so that all threads may share it. */
	options = g_mime_parser_options_new();
	g_mime_parser_options_set_fallback_charsets(options, fallback);
}

void message_init(void)
{
	pthread_once(&once, init_once);
}

GMimeParserOptions *mime_options(void)
{
	message_init();
	return options;
}

/* One line of b from *i, without its end; *i moves behind it. */
static bool line_next(struct bytes b, size_t *i, struct bytes *line)
{
	const uint8_t *nl;
	size_t end;

	if (*i >= b.n)
		return false;
	nl = memchr(b.p + *i, '\n', b.n - *i);
	end = nl ? (size_t)(nl - b.p) : b.n;
	*line = bytes_of(b.p + *i, end - *i);
	if (line->n && line->p[line->n - 1] == '\r')
		line->n--;
	*i = nl ? end + 1 : b.n;
	return true;
}

/* Length of the field name when the line opens a header field; 0: it does not. */
static size_t field_name(struct bytes line)
{
	size_t n = 0;

	while (n < line.n && line.p[n] > 0x20 && line.p[n] < 0x7f && line.p[n] != ':')
		n++;
	if (n == 0 || n > 200)
		return 0;
	for (size_t k = n; k < line.n; k++) {
		if (line.p[k] == ':')
			return n;
		if (line.p[k] != ' ' && line.p[k] != '\t')
			return 0;
	}
	return 0;
}

/* Headers end at an empty line, or where a line cannot be one (mail without the empty line, or
 * without headers at all): what follows is body. */
void mime_split(struct bytes raw, struct bytes *header, struct bytes *body)
{
	size_t i = 0, before = 0;
	bool any = false;
	struct bytes line;

	while (before = i, line_next(raw, &i, &line)) {
		if (line.n == 0) {
			*header = bytes_of(raw.p, before);
			*body = bytes_of(raw.p + i, raw.n - i);
			return;
		}
		if (before == 0 && line.n > 5 && memcmp(line.p, "From ", 5) == 0)
			continue; /* an mbox line that somebody left */
		if (any && (line.p[0] == ' ' || line.p[0] == '\t'))
			continue;
		if (!field_name(line))
			break;
		any = true;
	}
	*header = bytes_of(raw.p, before);
	*body = bytes_of(raw.p + before, raw.n - before);
}

bool mime_header(const struct mime_part *p, const char *name, unsigned nth, struct buf *out)
{
	size_t i = 0, want = strlen(name), from = out->n;
	unsigned lines = 0;
	bool in = false;
	struct bytes line;

	while (lines++ < MIME_HEADER_LINES_MAX && line_next(p->header, &i, &line)) {
		if (line.n && (line.p[0] == ' ' || line.p[0] == '\t')) {
			if (!in)
				continue;
		} else {
			size_t n = field_name(line);

			if (in)
				break;
			if (n != want || strncasecmp((const char *)line.p, name, n) != 0 ||
				nth-- > 0)
				continue;
			in = true;
			while (n < line.n && line.p[n] != ':')
				n++;
			line.p += n + 1;
			line.n -= n + 1;
			while (line.n && (line.p[0] == ' ' || line.p[0] == '\t')) {
				line.p++;
				line.n--;
			}
		}
		for (size_t k = 0; k < line.n && out->n - from < MIME_HEADER_VALUE_MAX; k++)
			if (line.p[k] != 0 && line.p[k] != '\r')
				buf_add_byte(out, line.p[k]);
	}
	while (out->n > from && (out->p[out->n - 1] == ' ' || out->p[out->n - 1] == '\t'))
		out->n--;
	return in;
}

void mime_decode_words(struct bytes raw, struct buf *out)
{
	struct buf utf8 = {0};
	char *text = NULL;

	text_to_utf8(raw, NULL, &utf8);
	buf_add_byte(&utf8, 0);
	if (!utf8.failed)
		text = g_mime_utils_header_decode_text(mime_options(), (char *)utf8.p);
	if (text)
		text_one_line(bytes_str(text), out);
	g_free(text);
	out->failed |= utf8.failed;
	buf_free(&utf8);
}

bool mime_header_text(const struct mime_part *p, const char *name, struct buf *out)
{
	struct buf raw = {0};
	bool found = mime_header(p, name, 0, &raw);

	if (found)
		mime_decode_words(buf_bytes(&raw), out);
	out->failed |= raw.failed;
	buf_free(&raw);
	return found;
}

bool mime_is(const struct mime_part *p, const char *media)
{
	return strcmp(p->media, media) == 0;
}

bool mime_is_prefix(const struct mime_part *p, const char *prefix)
{
	return strncmp(p->media, prefix, strlen(prefix)) == 0;
}

const char *mime_type_param(const struct mime_part *p, const char *name)
{
	return g_mime_content_type_get_parameter(p->type, name);
}

void mime_decode(const struct mime_part *p, struct buf *out)
{
	GMimeEncoding state;
	uint8_t *to;

	switch (p->encoding) {
	case GMIME_CONTENT_ENCODING_BASE64:
	case GMIME_CONTENT_ENCODING_QUOTEDPRINTABLE:
	case GMIME_CONTENT_ENCODING_UUENCODE:
		break;
	default:
		buf_add(out, p->body.p, p->body.n);
		return;
	}
	g_mime_encoding_init_decode(&state, p->encoding);
	to = buf_room(out, g_mime_encoding_outlen(&state, p->body.n) + 16);
	if (to)
		out->n += g_mime_encoding_flush(
			&state, (const char *)p->body.p, p->body.n, (char *)to);
}

/* RFC 2046 5.1.1: the delimiter at the start of a line, then only white space. */
static bool delimiter(struct bytes line, struct bytes boundary, bool *close)
{
	size_t i = 2 + boundary.n;

	if (line.n < i || line.p[0] != '-' || line.p[1] != '-' ||
		memcmp(line.p + 2, boundary.p, boundary.n) != 0)
		return false;
	*close = line.n >= i + 2 && line.p[i] == '-' && line.p[i + 1] == '-';
	if (*close)
		i += 2;
	while (i < line.n && (line.p[i] == ' ' || line.p[i] == '\t'))
		i++;
	return i == line.n;
}

/* Next delimiter line at or behind *i, which is the start of a line: its start, and *i behind it.
 * Searches for the boundary text itself, which is far faster than looking at each line of a base64
 * attachment, and from a false hit goes on at the next line, so that no text makes it slow. */
static bool delimiter_next(
	struct bytes b, struct bytes boundary, size_t *i, size_t *start, bool *close)
{
	size_t at = *i;

	while (at < b.n) {
		const uint8_t *hit = memmem(b.p + at, b.n - at, boundary.p, boundary.n), *nl;
		size_t pos, next;
		struct bytes line;

		if (!hit)
			return false;
		pos = (size_t)(hit - b.p);
		if (pos >= *i + 2 && (pos == 2 || b.p[pos - 3] == '\n')) {
			next = pos - 2;
			if (line_next(b, &next, &line) && delimiter(line, boundary, close)) {
				*start = pos - 2;
				*i = next;
				return true;
			}
		}
		/* A boundary holds no line end, so this line has no better hit. */
		nl = memchr(hit, '\n', b.n - pos);
		if (!nl)
			return false;
		at = (size_t)(nl - b.p) + 1;
	}
	return false;
}

static void media_of(struct mime_part *p)
{
	const char *t = g_mime_content_type_get_media_type(p->type);
	const char *s = g_mime_content_type_get_media_subtype(p->type);

	snprintf(p->media, sizeof(p->media), "%s/%s", t && *t ? t : "application",
		s && *s ? s : "octet-stream");
	for (char *c = p->media; *c; c++) {
		*c = (char)g_ascii_tolower(*c);
		/* It leaves us as text. */
		if (*c <= 0x20 || *c >= 0x7f)
			*c = '_';
	}
}

static struct mime_part *part_new(struct message *m)
{
	if (m->part_count == m->part_cap) {
		uint32_t cap = m->part_cap ? m->part_cap * 2 : 8;
		struct mime_part *p = realloc(m->parts, cap * sizeof(*p));

		if (!p)
			return NULL;
		m->parts = p;
		m->part_cap = cap;
	}
	memset(&m->parts[m->part_count], 0, sizeof(m->parts[0]));
	return &m->parts[m->part_count++];
}

/* A value that GMime can take: a C string of UTF-8, of sane length. */
static char *header_strz(const struct mime_part *p, const char *name, struct buf *raw)
{
	struct buf utf8 = {0};

	raw->n = 0;
	if (!mime_header(p, name, 0, raw))
		return NULL;
	if (raw->n > 8192)
		raw->n = 8192;
	text_to_utf8(buf_bytes(raw), NULL, &utf8);
	buf_add_byte(&utf8, 0);
	buf_free(raw);
	*raw = utf8;
	return utf8.failed ? NULL : (char *)raw->p;
}

static bool read_headers(struct mime_part *p, bool digest)
{
	struct buf raw = {0};
	const char *v = header_strz(p, "Content-Type", &raw);

	if (v && strchr(v, '/'))
		p->type = g_mime_content_type_parse(mime_options(), v);
	else if (digest && !v)
		p->type = g_mime_content_type_new("message", "rfc822");
	else /* RFC 2045 5.2, for what is malformed too */
		p->type = g_mime_content_type_new("text", "plain");
	media_of(p);
	v = header_strz(p, "Content-Disposition", &raw);
	if (v && *v)
		p->disposition = g_mime_content_disposition_parse(mime_options(), v);
	v = header_strz(p, "Content-Transfer-Encoding", &raw);
	p->encoding = v ? g_mime_content_encoding_from_string(v) : GMIME_CONTENT_ENCODING_DEFAULT;
	buf_free(&raw);
	return p->type != NULL;
}

static bool parse(struct message *m, struct bytes raw, uint32_t parent, uint8_t depth, bool digest)
{
	struct mime_part *p;
	uint32_t index = m->part_count;
	struct bytes body, boundary;
	size_t i = 0, start, from = 0;
	bool close, open = false;
	const char *b;

	if (m->part_count == MIME_PARTS_MAX)
		return true;
	p = part_new(m);
	if (!p)
		return false;
	p->parent = parent;
	p->depth = depth;
	mime_split(raw, &p->header, &p->body);
	if (!read_headers(p, digest))
		return false;
	p->leaf = true;
	if (!mime_is_prefix(p, "multipart/"))
		return true;
	b = mime_type_param(p, "boundary");
	if (!b || !*b || strlen(b) > 256 || strchr(b, '\n') || depth == MIME_DEPTH_MAX)
		return true;
	boundary = bytes_str(b);
	body = p->body;
	digest = mime_is(p, "multipart/digest");
	while (delimiter_next(body, boundary, &i, &start, &close)) {
		if (open) {
			size_t end = start;

			/* The line end before a delimiter belongs to it. */
			if (end > from && body.p[end - 1] == '\n')
				end--;
			if (end > from && body.p[end - 1] == '\r')
				end--;
			if (!parse(m, bytes_of(body.p + from, end - from), index,
				    (uint8_t)(depth + 1), digest))
				return false;
		}
		open = !close;
		from = i;
		if (close || m->part_count == MIME_PARTS_MAX)
			break;
	}
	/* Cut short: the last part has no delimiter behind it. */
	if (open && from < body.n &&
		!parse(m, bytes_of(body.p + from, body.n - from), index, (uint8_t)(depth + 1),
			digest))
		return false;
	/* p may have moved. */
	m->parts[index].leaf = m->part_count == index + 1;
	return true;
}

bool mime_parse(struct message *m)
{
	message_init();
	return parse(m, m->mime, 0, 0, false);
}

void mime_free(struct message *m)
{
	for (uint32_t i = 0; i < m->part_count; i++) {
		if (m->parts[i].type)
			g_object_unref(m->parts[i].type);
		if (m->parts[i].disposition)
			g_object_unref(m->parts[i].disposition);
	}
	free(m->parts);
	m->parts = NULL;
	m->part_count = m->part_cap = 0;
}
