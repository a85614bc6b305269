/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/message_priv.h"

#include <errno.h>
#include <iconv.h>
#include <stdlib.h>
#include <strings.h>

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

size_t utf8_next(const uint8_t *p, size_t n, uint32_t *out)
{
	uint32_t v, min;
	size_t more;

	if (n == 0)
		return 0;
	if (p[0] < 0x80) {
		*out = p[0];
		return 1;
	}
	if ((p[0] & 0xe0) == 0xc0)
		more = 1, v = p[0] & 0x1f, min = 0x80;
	else if ((p[0] & 0xf0) == 0xe0)
		more = 2, v = p[0] & 0x0f, min = 0x800;
	else if ((p[0] & 0xf8) == 0xf0)
		more = 3, v = p[0] & 0x07, min = 0x10000;
	else
		return 0;
	if (n <= more)
		return 0;
	for (size_t k = 1; k <= more; k++) {
		if ((p[k] & 0xc0) != 0x80)
			return 0;
		v = v << 6 | (p[k] & 0x3f);
	}
	if (v < min || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff))
		return 0;
	*out = v;
	return more + 1;
}

void utf8_put(struct buf *out, uint32_t c)
{
	uint8_t b[4];
	size_t n;

	if (c < 0x80) {
		b[0] = (uint8_t)c;
		n = 1;
	} else if (c < 0x800) {
		b[0] = (uint8_t)(0xc0 | c >> 6);
		b[1] = (uint8_t)(0x80 | (c & 0x3f));
		n = 2;
	} else if (c < 0x10000) {
		b[0] = (uint8_t)(0xe0 | c >> 12);
		b[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
		b[2] = (uint8_t)(0x80 | (c & 0x3f));
		n = 3;
	} else {
		b[0] = (uint8_t)(0xf0 | c >> 18);
		b[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
		b[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
		b[3] = (uint8_t)(0x80 | (c & 0x3f));
		n = 4;
	}
	buf_add(out, b, n);
}

/* Controls other than tab, LF and CR have no place in XML, which is what phones make of WBXML. */
static bool control(uint32_t c)
{
	return (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f;
}

void text_clean(struct bytes in, struct buf *out)
{
	size_t i = 0, from = 0;

	if (in.n == 0)
		return;
	/* Runs that need no change are copied whole: most text is one run. */
	while (i < in.n) {
		uint32_t c;
		size_t n = utf8_next(in.p + i, in.n - i, &c);

		if (n && !control(c)) {
			i += n;
			continue;
		}
		buf_add(out, in.p + from, i - from);
		if (!n)
			buf_add(out, replacement, 3);
		i += n ? n : 1;
		from = i;
	}
	buf_add(out, in.p + from, i - from);
}

/* 0x80..0x9f of Windows-1252; holes are U+FFFD. */
static const uint16_t cp1252[32] = {0x20ac, 0xfffd, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
	0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0xfffd, 0x017d, 0xfffd, 0xfffd, 0x2018, 0x2019,
	0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0xfffd,
	0x017e, 0x0178};

static void from_cp1252(struct bytes raw, struct buf *out)
{
	size_t from = 0, i;

	if (raw.n == 0)
		return;
	for (i = 0; i < raw.n; i++) {
		uint8_t c = raw.p[i];

		if (c < 0x80 && !control(c))
			continue;
		buf_add(out, raw.p + from, i - from);
		from = i + 1;
		if (c >= 0x80)
			utf8_put(out, c < 0xa0 ? cp1252[c - 0x80] : c);
	}
	buf_add(out, raw.p + from, i - from);
}

/* What mail calls a charset, and the converter that reads it best: labels are often those of a
 * subset of what was really used. */
static const struct {
	const char *label, *converter;
} charset_alias[] = {
	{"iso-8859-1", "WINDOWS-1252"},
	{"iso8859-1", "WINDOWS-1252"},
	{"iso_8859-1", "WINDOWS-1252"},
	{"latin1", "WINDOWS-1252"},
	{"iso-8859-9", "WINDOWS-1254"},
	{"iso-8859-11", "CP874"},
	{"tis-620", "CP874"},
	{"windows-874", "CP874"},
	{"shift_jis", "CP932"},
	{"shift-jis", "CP932"},
	{"sjis", "CP932"},
	{"x-sjis", "CP932"},
	{"windows-31j", "CP932"},
	{"euc-kr", "CP949"},
	{"ks_c_5601-1987", "CP949"},
	{"ksc5601", "CP949"},
	{"gb2312", "GB18030"},
	{"x-gbk", "GB18030"},
	{"gbk", "GB18030"},
	{"cp936", "GB18030"},
	{"big5", "BIG5-HKSCS"},
	{"x-x-big5", "BIG5-HKSCS"},
	{"unicode-1-1-utf-7", "UTF-7"},
	{"x-mac-roman", "MACINTOSH"},
	{"utf8", "UTF-8"},
	{"cp65001", "UTF-8"},
};

/* Families of charsets that mail really uses. glibc has some 250 more converters, less tried ones
 * among them (ISO-2022-CN-EXT had a buffer overflow), which a sender could choose by name. */
static const char *const charset_family[] = {"utf-8", "utf-7", "utf-16", "utf-32", "iso-8859-",
	"iso8859-", "windows-125", "cp125", "koi8-", "gb18030", "big5", "euc-jp", "euc-tw",
	"iso-2022-jp", "iso-2022-kr", "macintosh", "mac", "ibm", "cp8", "cp4", "cp9", "latin",
	"viscii", "tcvn", "georgian-ps", "armscii-8"};

static bool charset_converter(const char *charset, char name[64])
{
	size_t n = charset ? strlen(charset) : 0;

	if (n == 0 || n > 40)
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = charset[i];

		/* No slash: glibc would read "//IGNORE" and worse after it. */
		if (!g_ascii_isalnum(c) && !strchr("-_.:", c))
			return false;
		name[i] = c;
	}
	name[n] = 0;
	for (size_t i = 0; i < G_N_ELEMENTS(charset_alias); i++)
		if (strcasecmp(name, charset_alias[i].label) == 0) {
			strcpy(name, charset_alias[i].converter);
			return true;
		}
	for (size_t i = 0; i < G_N_ELEMENTS(charset_family); i++)
		if (strncasecmp(name, charset_family[i], strlen(charset_family[i])) == 0)
			return true;
	return false;
}

/* Those whose bytes are often well-formed UTF-8 by accident (escape sequences are ASCII), so that
 * the label must be believed first. */
static bool charset_believed(const char *name)
{
	static const char *const family[] = {"utf-7", "utf-16", "utf-32", "iso-2022-", "gb18030",
		"big5", "euc-", "cp932", "cp949"};

	for (size_t i = 0; i < G_N_ELEMENTS(family); i++)
		if (strncasecmp(name, family[i], strlen(family[i])) == 0)
			return true;
	return false;
}

/* False: so many errors that the label must be wrong; out is unchanged. */
static bool from_iconv(struct bytes raw, const char *name, struct buf *out)
{
	iconv_t cd = iconv_open("UTF-8", name);
	struct buf tmp = {0};
	char *in = (char *)(uintptr_t)raw.p; /* iconv does not write there */
	size_t left = raw.n, errors = 0;
	bool ok;

	if (cd == (iconv_t)-1)
		return false;
	while (left && !tmp.failed) {
		size_t room = left < 65536 ? left * 2 + 16 : 131072, before = room;
		char *to = (char *)buf_room(&tmp, room);

		if (!to)
			break;
		size_t r = iconv(cd, &in, &left, &to, &room);
		tmp.n += before - room;
		if (r != (size_t)-1 || errno == E2BIG)
			continue;
		buf_add(&tmp, replacement, 3);
		if (errno != EILSEQ)
			break; /* an incomplete character ends the text */
		in++;
		left--;
		errors++;
		if (errors > 32 && errors > raw.n / 16)
			break;
	}
	iconv_close(cd);
	ok = !tmp.failed && (errors <= 32 || errors <= raw.n / 16) &&
	     (errors * 2 < raw.n || errors == 0);
	if (ok)
		text_clean(buf_bytes(&tmp), out);
	else if (tmp.failed)
		out->failed = true;
	buf_free(&tmp);
	return ok;
}

/* Mostly UTF-8: more good multi-byte characters than bad bytes (a cut or patched text). */
static bool mostly_utf8(struct bytes raw)
{
	size_t good = 0, bad = 0;

	for (size_t i = 0; i < raw.n;) {
		uint32_t c;
		size_t n = utf8_next(raw.p + i, raw.n - i, &c);

		good += n > 1;
		bad += n == 0;
		i += n ? n : 1;
	}
	return good > bad;
}

void text_to_utf8(struct bytes raw, const char *charset, struct buf *out)
{
	char name[64];
	bool known = charset_converter(charset, name);

	if (raw.n == 0)
		return;
	if (raw.n >= 3 && memcmp(raw.p, "\xef\xbb\xbf", 3) == 0) {
		raw.p += 3; /* byte order mark */
		raw.n -= 3;
	}
	if (known && charset_believed(name) && from_iconv(raw, name, out))
		return;
	if (bytes_is_utf8(raw)) {
		text_clean(raw, out);
		return;
	}
	if (known && strncasecmp(name, "utf-8", 5) != 0 && !charset_believed(name) &&
		from_iconv(raw, name, out))
		return;
	if (mostly_utf8(raw)) {
		text_clean(raw, out);
		return;
	}
	from_cp1252(raw, out);
}

void text_lines(struct bytes in, bool flowed, bool delete_space, struct buf *out)
{
	size_t i = 0;
	unsigned open_depth = 0;
	bool open = false; /* the last line written waits for its continuation */

	while (i < in.n) {
		const uint8_t *nl = memchr(in.p + i, '\n', in.n - i);
		size_t end = nl ? (size_t)(nl - in.p) : in.n, next = nl ? end + 1 : in.n;
		struct bytes line = bytes_of(in.p + i, end - i);
		unsigned depth = 0;
		bool soft = false;

		if (line.n && line.p[line.n - 1] == '\r')
			line.n--;
		if (flowed) {
			while (depth < line.n && line.p[depth] == '>')
				depth++;
			line.p += depth;
			line.n -= depth;
			if (line.n && line.p[0] == ' ') { /* space-stuffing */
				line.p++;
				line.n--;
			}
			soft = line.n && line.p[line.n - 1] == ' ' && !bytes_eq_str(line, "-- ");
			if (soft && delete_space)
				line.n--;
		}
		if (open && (depth != open_depth || bytes_eq_str(line, "-- "))) {
			buf_add(out, "\r\n", 2);
			open = false;
		}
		if (!open && depth) {
			for (unsigned k = 0; k < depth; k++)
				buf_add_byte(out, '>');
			buf_add_byte(out, ' ');
		}
		/* A lone CR is a line end of old systems. */
		for (size_t k = 0; k < line.n;) {
			const uint8_t *cr = memchr(line.p + k, '\r', line.n - k);
			size_t stop = cr ? (size_t)(cr - line.p) : line.n;

			buf_add(out, line.p + k, stop - k);
			if (cr)
				buf_add(out, "\r\n", 2);
			k = stop + (cr != NULL);
		}
		open = soft;
		open_depth = depth;
		if (!soft && nl)
			buf_add(out, "\r\n", 2);
		i = next;
	}
}

void text_one_line(struct bytes in, struct buf *out)
{
	bool space = false, any = false;

	for (size_t i = 0; i < in.n;) {
		uint32_t c;
		size_t n = utf8_next(in.p + i, in.n - i, &c);

		if (!n) {
			n = 1;
			c = 0xfffd;
		}
		if (c <= 0x20 || c == 0x7f || c == 0xa0) {
			space = true;
		} else {
			if (space && any)
				buf_add_byte(out, ' ');
			utf8_put(out, c);
			space = false;
			any = true;
		}
		i += n;
	}
}

void text_to_html(struct bytes text, struct buf *out)
{
	bool blank_before = true; /* a space here would be swallowed */

	for (size_t i = 0; i < text.n && out->n <= BODY_BYTES_MAX; i++) {
		uint8_t c = text.p[i];

		switch (c) {
		case '&':
			buf_add_str(out, "&amp;");
			break;
		case '<':
			buf_add_str(out, "&lt;");
			break;
		case '>':
			buf_add_str(out, "&gt;");
			break;
		case '"':
			buf_add_str(out, "&quot;");
			break;
		case '\r':
			continue;
		case '\n':
			buf_add_str(out, "<br>\r\n");
			blank_before = true;
			continue;
		case '\t':
			buf_add_str(out, "&nbsp; &nbsp; ");
			blank_before = true;
			continue;
		case ' ':
			if (blank_before) {
				buf_add_str(out, "&nbsp;");
				blank_before = false;
			} else {
				buf_add_byte(out, ' ');
				blank_before = true;
			}
			continue;
		default:
			buf_add_byte(out, c);
		}
		blank_before = false;
	}
}

/* Where the value of the first charset= inside a meta element is, in the first 4 KiB. */
static bool meta_charset_at(struct bytes html, size_t *at, size_t *n)
{
	size_t top = html.n < 4096 ? html.n : 4096;

	for (size_t i = 0; i + 5 < top; i++) {
		if (html.p[i] != '<' || strncasecmp((const char *)html.p + i + 1, "meta", 4) != 0)
			continue;
		for (i += 5; i < top && html.p[i] != '>'; i++) {
			size_t from, to;

			if (top - i < 8 ||
				strncasecmp((const char *)html.p + i, "charset=", 8) != 0)
				continue;
			from = i + 8;
			while (from < top && (html.p[from] == '"' || html.p[from] == '\'' ||
						     html.p[from] == ' '))
				from++;
			for (to = from;
				to < top && (g_ascii_isalnum((char)html.p[to]) ||
						    strchr("-_.:", html.p[to] ? html.p[to] : '"'));
				to++)
				;
			if (to == from || to - from > 40)
				return false;
			*at = from;
			*n = to - from;
			return true;
		}
	}
	return false;
}

bool html_meta_charset(struct bytes html, char charset[64])
{
	size_t at, n;

	if (!meta_charset_at(html, &at, &n))
		return false;
	memcpy(charset, html.p + at, n);
	charset[n] = 0;
	return true;
}

void html_meta_to_utf8(struct bytes html, struct buf *out)
{
	size_t at, n;

	if (!meta_charset_at(html, &at, &n)) {
		buf_add(out, html.p, html.n);
		return;
	}
	buf_add(out, html.p, at);
	buf_add_str(out, "utf-8");
	buf_add(out, html.p + at + n, html.n - at - n);
}

struct bytes message_cut(struct bytes text, size_t max_bytes)
{
	size_t n = max_bytes;

	if (text.n <= max_bytes)
		return text;
	/* At most three steps back in well-formed text. */
	while (n > 0 && (text.p[n] & 0xc0) == 0x80)
		n--;
	return bytes_of(text.p, n);
}

struct bytes message_cut_characters(struct bytes text, size_t max_characters)
{
	size_t i, count = 0;

	for (i = 0; i < text.n; i++) {
		if ((text.p[i] & 0xc0) == 0x80)
			continue;
		if (count == max_characters)
			break;
		count++;
	}
	return bytes_of(text.p, i);
}
