/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/message_priv.h"

#include <stdlib.h>
#include <strings.h>

static bool disposition_is(const struct mime_part *p, const char *what)
{
	const char *d =
		p->disposition ? g_mime_content_disposition_get_disposition(p->disposition) : NULL;

	return d && strcasecmp(d, what) == 0;
}

static const char *file_name(const struct mime_part *p)
{
	const char *n = NULL;

	if (p->disposition)
		n = g_mime_content_disposition_get_parameter(p->disposition, "filename");
	if (!n || !*n)
		n = mime_type_param(p, "name");
	return n && *n ? n : NULL;
}

/* Content-ID without its angle brackets. */
static void content_id(const struct mime_part *p, struct buf *out)
{
	struct buf raw = {0};

	if (mime_header(p, "Content-ID", 0, &raw)) {
		struct bytes id = buf_bytes(&raw);

		if (id.n && id.p[0] == '<')
			id.p++, id.n--;
		if (id.n && id.p[id.n - 1] == '>')
			id.n--;
		mime_decode_words(id, out);
	}
	out->failed |= raw.failed;
	buf_free(&raw);
}

/* multipart/related shows one part, its root: the one that start= names, else the first. */
static uint32_t related_root(const struct message *m, uint32_t index)
{
	const char *start = mime_type_param(&m->parts[index], "start");
	uint32_t first = 0;

	for (uint32_t i = index + 1; i < m->part_count; i++) {
		struct buf id = {0};
		struct bytes want = bytes_str(start);
		bool hit;

		if (m->parts[i].parent != index)
			continue;
		if (!first)
			first = i;
		if (!start)
			break;
		if (want.n && want.p[0] == '<')
			want.p++, want.n--;
		if (want.n && want.p[want.n - 1] == '>')
			want.n--;
		content_id(&m->parts[i], &id);
		hit = bytes_eq(buf_bytes(&id), want);
		buf_free(&id);
		if (hit)
			return i;
	}
	return first;
}

struct walk {
	uint32_t groups;
};

static void walk(struct message *m, struct walk *w, uint32_t index, uint32_t group, bool no_body)
{
	struct mime_part *p = &m->parts[index];
	bool related, first_only, alternative;
	uint32_t root = 0, nth = 0;

	if (p->leaf) {
		bool html = mime_is(p, "text/html");
		/* A lone text/x or broken multipart is still something to read. */
		bool text =
			mime_is(p, "text/plain") ||
			(index == 0 && !html && !mime_is(p, "text/calendar") &&
				(mime_is_prefix(p, "text/") || mime_is_prefix(p, "multipart/")));

		/* A named text is a file, but some mailers name the body too. */
		if ((text || html) && !no_body && !disposition_is(p, "attachment") &&
			(!file_name(p) || m->body_count == 0) && m->body_count < BODY_LEAVES_MAX) {
			p->html = html;
			p->group = group ? group : ++w->groups;
			m->bodies[m->body_count++] = index;
		} else {
			m->attachments[m->attachment_count++] = index;
		}
		return;
	}
	related = mime_is(p, "multipart/related");
	alternative = mime_is(p, "multipart/alternative");
	first_only = mime_is(p, "multipart/signed") || mime_is(p, "multipart/report");
	no_body |= mime_is(p, "multipart/encrypted");
	if (related)
		root = related_root(m, index);
	if (alternative && !group)
		group = ++w->groups;
	for (uint32_t i = index + 1; i < m->part_count; i++) {
		bool hidden = no_body;

		/* Children follow their parent; the first part outside ends the search. */
		if (m->parts[i].depth <= p->depth)
			break;
		if (m->parts[i].parent != index)
			continue;
		if (related && i != root) {
			hidden = true;
			m->parts[i].related = true;
		}
		if (first_only && nth > 0)
			hidden = true;
		nth++;
		walk(m, w, i, group, hidden);
	}
}

struct message *message_open(struct bytes mime)
{
	struct message *m = calloc(1, sizeof(*m));
	struct walk w = {0};

	if (!m)
		return NULL;
	m->mime = mime.n ? mime : bytes_str("");
	if (!mime_parse(m))
		goto fail;
	m->bodies = calloc(m->part_count, sizeof(*m->bodies));
	m->attachments = calloc(m->part_count, sizeof(*m->attachments));
	if (!m->bodies || !m->attachments)
		goto fail;
	walk(m, &w, 0, 0, false);
	return m;
fail:
	message_close(&m);
	return NULL;
}

void message_close(struct message **m)
{
	if (!*m)
		return;
	mime_free(*m);
	free((*m)->bodies);
	free((*m)->attachments);
	free(*m);
	*m = NULL;
}

enum message_body_type message_native_type(const struct message *m)
{
	for (uint32_t i = 0; i < m->body_count; i++)
		if (m->parts[m->bodies[i]].html)
			return MESSAGE_HTML;
	return MESSAGE_TEXT;
}

bool message_is_smime(const struct message *m)
{
	return message_smime_kind(m) != 0;
}

/* One leaf as clean UTF-8 in its own format. */
static void leaf_text(const struct mime_part *p, struct buf *out)
{
	struct buf raw = {0}, utf8 = {0};
	const char *charset = mime_type_param(p, "charset");
	const char *format = mime_type_param(p, "format"), *delsp = mime_type_param(p, "delsp");
	char meta[64];

	mime_decode(p, &raw);
	/* What cannot leave again need not be converted; UTF-16 halves at most. */
	if (raw.n > 2 * (size_t)BODY_BYTES_MAX)
		raw.n = 2 * (size_t)BODY_BYTES_MAX;
	if (p->html && (!charset || !*charset) && html_meta_charset(buf_bytes(&raw), meta))
		charset = meta;
	text_to_utf8(buf_bytes(&raw), charset, &utf8);
	if (p->html)
		html_meta_to_utf8(buf_bytes(&utf8), out);
	else
		text_lines(buf_bytes(&utf8), format && strcasecmp(format, "flowed") == 0,
			delsp && strcasecmp(delsp, "yes") == 0, out);
	out->failed |= raw.failed || utf8.failed;
	buf_free(&raw);
	buf_free(&utf8);
}

static bool group_has(const struct message *m, uint32_t group, bool html)
{
	for (uint32_t i = 0; i < m->body_count; i++)
		if (m->parts[m->bodies[i]].group == group && m->parts[m->bodies[i]].html == html)
			return true;
	return false;
}

static void body_as_text(struct message *m, struct buf *out)
{
	for (uint32_t i = 0; i < m->body_count && out->n <= BODY_BYTES_MAX; i++) {
		const struct mime_part *p = &m->parts[m->bodies[i]];

		if (p->html && group_has(m, p->group, false))
			continue;
		/* The next text begins on its own line. */
		if (out->n && out->p[out->n - 1] != '\n')
			buf_add_str(out, "\r\n");
		if (p->html) {
			struct buf html = {0};

			leaf_text(p, &html);
			html_to_text_buf(buf_bytes(&html), out);
			out->failed |= html.failed;
			buf_free(&html);
		} else {
			leaf_text(p, out);
		}
	}
}

static void body_as_html(struct message *m, struct buf *out)
{
	bool any_html = message_native_type(m) == MESSAGE_HTML;
	bool first = true;

	if (!any_html)
		buf_add_str(out, "<html><head><meta http-equiv=\"Content-Type\" "
				 "content=\"text/html; charset=utf-8\"></head><body>\r\n");
	for (uint32_t i = 0; i < m->body_count && out->n <= BODY_BYTES_MAX; i++) {
		const struct mime_part *p = &m->parts[m->bodies[i]];

		if (!p->html && group_has(m, p->group, true))
			continue;
		if (!first)
			buf_add_str(out, "<br>\r\n");
		first = false;
		if (p->html) {
			leaf_text(p, out);
		} else {
			struct buf text = {0};

			leaf_text(p, &text);
			text_to_html(buf_bytes(&text), out);
			out->failed |= text.failed;
			buf_free(&text);
		}
	}
	if (!any_html)
		buf_add_str(out, "</body></html>\r\n");
}

bool message_body_buf(struct message *m, enum message_body_type type, struct buf *out)
{
	if (type == MESSAGE_HTML)
		body_as_html(m, out);
	else
		body_as_text(m, out);
	if (out->failed)
		return false;
	if (out->n > BODY_BYTES_MAX) {
		out->n = message_cut(buf_bytes(out), BODY_BYTES_MAX).n;
		return false;
	}
	return true;
}

static bool can_travel(struct bytes b)
{
	return bytes_is_utf8(b) && (b.n == 0 || !memchr(b.p, 0, b.n));
}

/* text_clean would drop form feeds and the like, which MIME may hold and a signature covers; here
 * only what WBXML text cannot carry is replaced. */
static void clean_raw(struct bytes in, struct buf *out)
{
	size_t i = 0, from = 0;

	if (in.n == 0)
		return;
	while (i < in.n) {
		uint32_t c;
		size_t n = utf8_next(in.p + i, in.n - i, &c);

		if (n && c) {
			i += n;
			continue;
		}
		buf_add(out, in.p + from, i - from);
		/* Unlabelled 8-bit is Latin-1 more often than not; a NUL just goes. */
		if (!n)
			utf8_put(out, in.p[i]);
		i++;
		from = i;
	}
	buf_add(out, in.p + from, i - from);
}

static void add_base64(struct bytes data, struct buf *out)
{
	GMimeEncoding state;
	uint8_t *to;

	g_mime_encoding_init_encode(&state, GMIME_CONTENT_ENCODING_BASE64);
	to = buf_room(out, g_mime_encoding_outlen(&state, data.n) + 16);
	if (to)
		out->n += g_mime_encoding_flush(&state, (const char *)data.p, data.n, (char *)to);
}

/* The header block of a leaf with base64 in place of its transfer encoding. */
static void header_as_base64(struct bytes header, struct buf *out)
{
	size_t i = 0;
	bool drop = false;

	while (i < header.n) {
		const uint8_t *nl = memchr(header.p + i, '\n', header.n - i);
		size_t end = nl ? (size_t)(nl - header.p) + 1 : header.n;
		struct bytes line = bytes_of(header.p + i, end - i);

		if (line.p[0] != ' ' && line.p[0] != '\t')
			drop = line.n >= 26 && strncasecmp((const char *)line.p,
						       "Content-Transfer-Encoding:", 26) == 0;
		if (!drop) {
			clean_raw(line, out);
			if (!nl)
				buf_add_str(out, "\r\n");
		}
		i = end;
	}
	buf_add_str(out, "Content-Transfer-Encoding: base64\r\n\r\n");
}

/* The message so that it is UTF-8 without NUL: leaves that are not become base64 of the same
 * content, so that their charset labels stay true; bytes elsewhere are replaced. */
static void reencode(struct message *m, struct buf *out)
{
	const uint8_t *at = m->mime.p, *end = m->mime.p + m->mime.n;

	for (uint32_t i = 0; i < m->part_count; i++) {
		const struct mime_part *p = &m->parts[i];
		struct buf data = {0};

		/* RFC 2046 5.2.1 allows no encoding of message/rfc822. */
		if (!p->leaf || can_travel(p->body) || mime_is_prefix(p, "message/") ||
			mime_is_prefix(p, "multipart/"))
			continue;
		clean_raw(bytes_of(at, (size_t)(p->header.p - at)), out);
		header_as_base64(p->header, out);
		mime_decode(p, &data);
		add_base64(buf_bytes(&data), out);
		out->failed |= data.failed;
		buf_free(&data);
		at = p->body.p + p->body.n;
	}
	clean_raw(bytes_of(at, (size_t)(end - at)), out);
}

static struct bytes to_arena(struct arena *a, struct buf *b)
{
	struct bytes r = {0};

	if (!b->failed)
		r = arena_dup(a, buf_bytes(b));
	else
		a->failed = true;
	buf_free(b);
	return r;
}

struct bytes message_body(struct message *m, enum message_body_type type, struct arena *a)
{
	struct buf b = {0};

	if (type == MESSAGE_MIME) {
		if (can_travel(m->mime))
			return m->mime;
		reencode(m, &b);
	} else {
		message_body_buf(m, type, &b);
	}
	return to_arena(a, &b);
}

/* -- attachments -- */

uint32_t message_attachment_count(const struct message *m)
{
	return m->attachment_count;
}

static const struct {
	const char *media, *extension;
} extensions[] = {
	{"application/pdf", "pdf"},
	{"application/zip", "zip"},
	{"application/pkcs7-mime", "p7m"},
	{"application/x-pkcs7-mime", "p7m"},
	{"application/pkcs7-signature", "p7s"},
	{"application/x-pkcs7-signature", "p7s"},
	{"application/pgp-signature", "asc"},
	{"application/pgp-encrypted", "asc"},
	{"application/json", "json"},
	{"application/xml", "xml"},
	{"application/ics", "ics"},
	{"application/ms-tnef", "dat"},
	{"text/calendar", "ics"},
	{"text/html", "html"},
	{"text/csv", "csv"},
	{"text/vcard", "vcf"},
	{"text/x-vcard", "vcf"},
	{"text/xml", "xml"},
	{"image/jpeg", "jpg"},
	{"image/png", "png"},
	{"image/gif", "gif"},
	{"image/svg+xml", "svg"},
	{"image/tiff", "tif"},
	{"image/webp", "webp"},
	{"image/heic", "heic"},
	{"audio/mpeg", "mp3"},
	{"audio/wav", "wav"},
	{"video/mp4", "mp4"},
};

static bool is_message(const struct mime_part *p)
{
	return mime_is(p, "message/rfc822") || mime_is(p, "message/global");
}

static bool ends_nocase(struct bytes b, const char *end)
{
	size_t n = strlen(end);

	return b.n >= n && strncasecmp((const char *)b.p + b.n - n, end, n) == 0;
}

/* A name for the user and for a file system: one line, no path, never empty. */
static void display_name(const struct mime_part *p, uint32_t index, struct buf *out)
{
	const char *name = file_name(p), *extension = NULL;
	struct buf text = {0}, line = {0};
	struct bytes n;

	if (name) {
		text_clean(bytes_str(name), &text);
	} else if (is_message(p)) {
		/* The subject of the embedded message names it. */
		struct buf inner = {0};
		struct mime_part embedded = {0};
		struct bytes raw = p->body, body;

		if (p->encoding == GMIME_CONTENT_ENCODING_BASE64 ||
			p->encoding == GMIME_CONTENT_ENCODING_QUOTEDPRINTABLE) {
			mime_decode(p, &inner);
			raw = buf_bytes(&inner);
		}
		mime_split(raw, &embedded.header, &body);
		mime_header_text(&embedded, "Subject", &text);
		buf_free(&inner);
	}
	text_one_line(buf_bytes(&text), &line);
	n = message_cut(buf_bytes(&line), 200);
	for (size_t i = 0; i < n.n; i++)
		buf_add_byte(out, strchr("/\\:*?\"<>|", n.p[i]) && n.p[i] ? '_' : n.p[i]);
	if (out->n == 0) {
		for (size_t i = 0; i < G_N_ELEMENTS(extensions); i++)
			if (mime_is(p, extensions[i].media))
				extension = extensions[i].extension;
		if (mime_is(p, "text/calendar"))
			buf_add_str(out, "invite");
		else
			buf_printf(out, "%s-%u",
				mime_is_prefix(p, "image/") ? "image"
				: is_message(p)             ? "message"
							    : "attachment",
				index + 1);
		if (!extension && mime_is_prefix(p, "text/"))
			extension = "txt";
		if (!extension && mime_is_prefix(p, "message/") && !is_message(p))
			extension = "txt";
		if (extension)
			buf_printf(out, ".%s", extension);
	}
	if (is_message(p) && !ends_nocase(buf_bytes(out), ".eml"))
		buf_add_str(out, ".eml");
	out->failed |= text.failed || line.failed;
	buf_free(&text);
	buf_free(&line);
}

bool message_attachment(
	struct message *m, uint32_t index, struct arena *a, struct message_attachment *out)
{
	const struct mime_part *p;
	struct buf b = {0};
	struct message_attachment r = {0};

	if (index >= m->attachment_count)
		return false;
	p = &m->parts[m->attachments[index]];
	display_name(p, index, &b);
	r.display_name = to_arena(a, &b);
	r.content_type = arena_dup(a, bytes_str(p->media));
	content_id(p, &b);
	r.content_id = to_arena(a, &b);
	mime_header_text(p, "Content-Location", &b);
	r.content_location = to_arena(a, &b);
	r.method = is_message(p) ? 5 : 1;
	r.is_inline = r.content_id.n && !disposition_is(p, "attachment") &&
		      (p->related || disposition_is(p, "inline"));
	r.estimated_bytes = p->body.n;
	if (p->encoding == GMIME_CONTENT_ENCODING_BASE64) {
		/* Lines of 76 characters and CRLF, 4 characters for 3 bytes. */
		const uint8_t *nl = p->body.n ? memchr(p->body.p, '\n', p->body.n) : NULL;
		uint64_t line = nl ? (uint64_t)(nl - p->body.p) + 1 : 0;
		uint64_t ends = line > 4 ? p->body.n / line * (nl[-1] == '\r' ? 2 : 1) : 0;

		r.estimated_bytes = (p->body.n - ends) / 4 * 3;
	}
	*out = r;
	return !a->failed;
}

bool message_attachment_data(struct message *m, uint32_t index, struct buf *out)
{
	if (index >= m->attachment_count)
		return false;
	mime_decode(&m->parts[m->attachments[index]], out);
	return !out->failed;
}
