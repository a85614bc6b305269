/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/wbxml.h"

#include "core/base/check.h"

#include "wbxml_tags.inc"

enum {
	SWITCH_PAGE = 0x00,
	END = 0x01,
	STR_I = 0x03,
	OPAQUE = 0xc3,
	IDENTITY = 0x3f, /* bits of a tag byte that say which; 0 to 4 are reserved */
	FIRST_TAG = 0x05,
	HAS_CONTENT = 0x40,
	NOT_EAS = 0x80, /* attributes, and all global tokens from EXT_T_0 on but for OPAQUE */
	UTF_8 = 106,    /* IANA MIBenum */
};

_Static_assert(sizeof(struct wbxml_node) == 48, "wbxml_parse promises 48 bytes per element");

const struct wbxml_tag_info *wbxml_tag_info(uint16_t tag)
{
	unsigned page = tag >> 8, token = tag & 0xff;

	if (page >= WBXML_PAGES || token < FIRST_TAG || token > IDENTITY)
		return NULL;
	return tag_infos[page][token - FIRST_TAG].name ? &tag_infos[page][token - FIRST_TAG] : NULL;
}

const char *wbxml_page_name(uint8_t page)
{
	return page < WBXML_PAGES ? page_names[page] : NULL;
}

/* ---- Reading ----------------------------------------------------------------------------- */

void wbxml_reader_init(struct wbxml_reader *r, struct bytes in)
{
	*r = (struct wbxml_reader){
		.p = in.p,
		.end = in.n ? in.p + in.n : in.p,
		.elements_max = WBXML_ELEMENTS_MAX,
		.depth_max = WBXML_DEPTH_MAX,
	};
}

static int bad(struct wbxml_reader *r, struct wbxml_event *ev, const char *why)
{
	r->why = why;
	*ev = (struct wbxml_event){.kind = WBXML_BAD};
	return WBXML_BAD;
}

/* All four fields are variable-length integers in WBXML, but every one EAS allows fits in a
 * byte, and a padded form is no client's: so the header is compared, not parsed. */
static const char *read_header(struct wbxml_reader *r)
{
	const uint8_t *h = r->p;

	if (r->end - r->p < 4)
		return "truncated header";
	if (h[0] < 1 || h[0] > 3)
		return "unknown WBXML version";
	if (h[1] == 0 || h[1] > 0x7f)
		return "unknown public identifier";
	if (h[2] != UTF_8)
		return "charset is not UTF-8";
	if (h[3] != 0)
		return "string table";
	r->p += 4;
	r->header = true;
	return NULL;
}

/* mb_u_int32, WAP-192 5.1. */
static const char *read_length(struct wbxml_reader *r, uint32_t *out)
{
	uint64_t v = 0;

	for (int i = 0; i < 5; i++) {
		uint8_t c;

		if (r->p == r->end)
			return "truncated length";
		c = *r->p++;
		v = v << 7 | (c & 0x7f);
		if (c & 0x80)
			continue;
		if (v > UINT32_MAX)
			return "length over 32 bits";
		*out = (uint32_t)v;
		return NULL;
	}
	return "length over 5 bytes";
}

static const char *read_string(struct wbxml_reader *r, struct bytes *out)
{
	size_t left = (size_t)(r->end - r->p);
	const uint8_t *nul = left ? memchr(r->p, 0, left) : NULL;

	if (!nul)
		return "string without end";
	*out = bytes_of(r->p, (size_t)(nul - r->p));
	r->p = nul + 1;
	return NULL;
}

static const char *read_opaque(struct wbxml_reader *r, struct bytes *out)
{
	uint32_t n;
	const char *why = read_length(r, &n);

	if (why)
		return why;
	if (n > (size_t)(r->end - r->p))
		return "opaque data longer than the document";
	*out = bytes_of(r->p, n);
	r->p += n;
	return NULL;
}

static int start(struct wbxml_reader *r, struct wbxml_event *ev, uint8_t c)
{
	uint16_t tag = (uint16_t)(r->page << 8 | (c & IDENTITY));

	if (r->elements >= r->elements_max)
		return bad(r, ev, "too many elements");
	if (r->depth >= r->depth_max || r->depth >= WBXML_DEPTH_MAX)
		return bad(r, ev, "elements nested too deep");
	r->elements++;
	r->root = true;
	r->open[r->depth++] = tag;
	if (r->unknown_depth == 0 && !wbxml_tag_info(tag))
		r->unknown_depth = r->depth;
	r->pending_end = !(c & HAS_CONTENT);
	*ev = (struct wbxml_event){
		.kind = WBXML_START,
		.tag = tag,
		.depth = r->depth,
		.unknown = r->unknown_depth != 0,
		.empty = r->pending_end || (r->p < r->end && *r->p == END),
	};
	return WBXML_START;
}

static int end(struct wbxml_reader *r, struct wbxml_event *ev)
{
	*ev = (struct wbxml_event){
		.kind = WBXML_END,
		.tag = r->open[r->depth - 1],
		.depth = r->depth,
		.unknown = r->unknown_depth != 0,
	};
	if (r->unknown_depth == r->depth)
		r->unknown_depth = 0;
	r->depth--;
	return WBXML_END;
}

int wbxml_next(struct wbxml_reader *r, struct wbxml_event *ev)
{
	const char *why;
	struct bytes text;
	uint8_t c;

	if (r->why)
		return bad(r, ev, r->why);
	if (!r->header && (why = read_header(r)))
		return bad(r, ev, why);
	if (r->pending_end) {
		r->pending_end = false;
		return end(r, ev);
	}
	for (;;) {
		if (r->root && r->depth == 0) {
			if (r->p != r->end)
				return bad(r, ev, "bytes after the root element");
			*ev = (struct wbxml_event){.kind = WBXML_DONE};
			return WBXML_DONE;
		}
		if (r->p == r->end)
			return bad(r, ev, r->root ? "ends inside an element" : "no element");
		c = *r->p++;
		if (c == SWITCH_PAGE) {
			if (r->p == r->end)
				return bad(r, ev, "truncated page switch");
			r->page = *r->p++;
			continue;
		}
		if (c == END) {
			if (r->depth == 0)
				return bad(r, ev, "END without an element");
			return end(r, ev);
		}
		if (c != STR_I && c != OPAQUE) {
			if (c & NOT_EAS)
				return bad(r, ev, "attribute, or a token EAS does not use");
			if ((c & IDENTITY) < FIRST_TAG)
				return bad(r, ev, "a token EAS does not use");
			return start(r, ev, c);
		}
		if (r->depth == 0)
			return bad(r, ev, "text outside the root element");
		why = c == STR_I ? read_string(r, &text) : read_opaque(r, &text);
		if (why)
			return bad(r, ev, why);
		if (text.n == 0)
			continue;
		*ev = (struct wbxml_event){
			.kind = WBXML_TEXT,
			.tag = r->open[r->depth - 1],
			.depth = r->depth,
			.unknown = r->unknown_depth != 0,
			.opaque = c == OPAQUE,
			.text = text,
		};
		return WBXML_TEXT;
	}
}

int wbxml_skip(struct wbxml_reader *r)
{
	struct wbxml_event ev;
	uint8_t depth = r->depth;
	int k;

	if (r->why)
		return WBXML_BAD;
	CHECK(depth > 0);
	while ((k = wbxml_next(r, &ev)) > 0)
		if (k == WBXML_END && ev.depth == depth)
			return 1;
	return k;
}

/* ---- The tree ---------------------------------------------------------------------------- */

/* An element that is still open while the tree grows. */
struct growing {
	struct wbxml_node *node, *last_child;
	size_t text_cap; /* of node->text in the arena; 0 while it is a view into the input */
};

/* Doubles, since a peer may send a long text as a million pieces of one byte. */
static bool grow_text(struct growing *g, struct arena *a, struct bytes piece)
{
	struct bytes *text = &g->node->text;
	uint8_t *p;
	size_t cap;

	if (text->n == 0) {
		*text = piece;
		return true;
	}
	if (piece.n > g->text_cap - (g->text_cap ? text->n : 0)) {
		cap = 2 * (text->n + piece.n);
		cap = cap < 64 ? 64 : cap;
		p = arena_alloc(a, cap);
		if (!p)
			return false;
		memcpy(p, text->p, text->n);
		text->p = p;
		g->text_cap = cap;
	}
	memcpy((uint8_t *)text->p + text->n, piece.p, piece.n);
	text->n += piece.n;
	return true;
}

static struct wbxml_node *grow_child(
	struct growing *parent, struct arena *a, const struct wbxml_event *ev)
{
	struct wbxml_node *n = arena_alloc(a, sizeof(*n));

	if (!n)
		return NULL;
	*n = (struct wbxml_node){
		.tag = ev->tag,
		.unknown = ev->unknown,
		.parent = parent ? parent->node : NULL,
		.text = bytes_of("", 0),
	};
	if (!parent)
		return n;
	if (parent->last_child)
		parent->last_child->next = n;
	else
		parent->node->first = n;
	parent->last_child = n;
	parent->node->child_count++;
	return n;
}

int wbxml_parse(struct bytes in, struct arena *a, const struct wbxml_limits *lim,
	struct wbxml_node **root_out, const char **why_out)
{
	struct growing open[WBXML_DEPTH_MAX + 1]; /* by depth; [0] stays unused */
	struct wbxml_node *root = NULL, *n;
	struct wbxml_reader r;
	struct wbxml_event ev;
	int k;

	wbxml_reader_init(&r, in);
	if (lim && lim->elements_max)
		r.elements_max = lim->elements_max;
	if (lim && lim->depth_max && lim->depth_max < WBXML_DEPTH_MAX)
		r.depth_max = lim->depth_max;
	while ((k = wbxml_next(&r, &ev)) > 0) {
		struct growing *g = &open[ev.depth];

		if (k == WBXML_START) {
			n = grow_child(ev.depth > 1 ? g - 1 : NULL, a, &ev);
			if (!n)
				goto full;
			*g = (struct growing){.node = n};
			if (!root)
				root = n;
		} else if (k == WBXML_TEXT) {
			if (!grow_text(g, a, ev.text))
				goto full;
			g->node->opaque |= ev.opaque;
		}
	}
	if (k < 0) {
		*why_out = r.why;
		return k;
	}
	*root_out = root;
	return 1;
full:
	*why_out = "more content than a request may have";
	return WBXML_BAD;
}

static const struct wbxml_node *find(const struct wbxml_node *n, uint16_t tag)
{
	while (n && (n->tag != tag || n->unknown))
		n = n->next;
	return n;
}

const struct wbxml_node *wbxml_child(const struct wbxml_node *node, uint16_t tag)
{
	return node ? find(node->first, tag) : NULL;
}

const struct wbxml_node *wbxml_next_of(const struct wbxml_node *node, uint16_t tag)
{
	return node ? find(node->next, tag) : NULL;
}

struct bytes wbxml_text(const struct wbxml_node *node, uint16_t tag)
{
	const struct wbxml_node *n = wbxml_child(node, tag);

	return n ? n->text : (struct bytes){0};
}

bool wbxml_u32(const struct wbxml_node *node, uint32_t max, uint32_t *out)
{
	uint64_t v;

	if (!node || node->unknown || !bytes_to_u64(node->text, max, &v))
		return false;
	*out = (uint32_t)v;
	return true;
}

bool wbxml_bool(const struct wbxml_node *node, bool *out)
{
	if (!node || node->unknown)
		return false;
	if (node->text.n > 1 || (node->text.n == 1 && (node->text.p[0] | 1) != '1'))
		return false;
	*out = node->text.n == 0 || node->text.p[0] == '1';
	return true;
}

/* ---- Text that XML can carry ------------------------------------------------------------- */

/* Length of the well-formed UTF-8 sequence at p[0..n) (n > 0) that is a character of XML 1.0
 * other than a C0 control; 0 when there is none, with *skip_out set to the bytes to give up:
 * the longest start of a sequence, as Unicode 3.9 (table 3-7, "maximal subpart") advises. */
static size_t clean_char(const uint8_t *p, size_t n, size_t *skip_out)
{
	uint8_t c = p[0], lo = 0x80, hi = 0xbf;
	size_t want, i;

	*skip_out = 1;
	if (c < 0x80)
		return c >= 0x20 || c == '\t' || c == '\r' || c == '\n';
	if (c < 0xc2 || c > 0xf4)
		return 0;
	want = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	/* The second byte keeps out overlong forms, surrogates and values over U+10FFFF. */
	if (c == 0xe0)
		lo = 0xa0;
	else if (c == 0xed)
		hi = 0x9f;
	else if (c == 0xf0)
		lo = 0x90;
	else if (c == 0xf4)
		hi = 0x8f;
	for (i = 1; i < want && i < n; i++) {
		if (p[i] < lo || p[i] > hi)
			break;
		lo = 0x80;
		hi = 0xbf;
	}
	*skip_out = i;
	if (i < want || (c == 0xef && p[1] == 0xbf && p[2] >= 0xbe))
		return 0;
	return want;
}

/* Length of the longest clean start of p[0..n). */
static size_t clean_run(const uint8_t *p, size_t n, size_t *skip_out)
{
	size_t at = 0, len;

	*skip_out = 0;
	while (at < n && (len = clean_char(p + at, n - at, skip_out)) > 0)
		at += len;
	return at;
}

static void add_clean(struct buf *out, struct bytes text)
{
	size_t at = 0, run, skip;

	while (at < text.n) {
		run = clean_run(text.p + at, text.n - at, &skip);
		buf_add(out, text.p + at, run);
		at += run;
		if (at == text.n)
			break;
		buf_add_str(out, "\xef\xbf\xbd"); /* U+FFFD */
		at += skip;
	}
}

/* ---- Writing ----------------------------------------------------------------------------- */

void wbxml_writer_init(struct wbxml_writer *w, struct buf *out)
{
	*w = (struct wbxml_writer){.out = out};
	buf_add(out, (const uint8_t[]){3, 1, UTF_8, 0}, 4);
}

/* The tag went out in its short form; now that it has content, its flag is set in place. */
static void open_content(struct wbxml_writer *w)
{
	CHECK(w->depth > 0);
	if (w->fresh && !w->out->failed)
		w->out->p[w->out->n - 1] |= HAS_CONTENT;
	w->fresh = false;
}

void wbxml_put_start(struct wbxml_writer *w, uint16_t tag)
{
	uint8_t page = (uint8_t)(tag >> 8), token = (uint8_t)tag;

	CHECK(token >= FIRST_TAG && token <= IDENTITY);
	CHECK(w->depth < WBXML_WRITE_DEPTH_MAX);
	if (w->depth > 0)
		open_content(w);
	else
		CHECK(!w->root);
	if (page != w->page) {
		buf_add(w->out, (const uint8_t[]){SWITCH_PAGE, page}, 2);
		w->page = page;
	}
	buf_add_byte(w->out, token);
	w->open[w->depth++] = tag;
	w->root = true;
	w->fresh = true;
}

void wbxml_put_end(struct wbxml_writer *w)
{
	CHECK(w->depth > 0);
	if (!w->fresh)
		buf_add_byte(w->out, END);
	w->fresh = false;
	w->depth--;
}

void wbxml_put_empty(struct wbxml_writer *w, uint16_t tag)
{
	wbxml_put_start(w, tag);
	wbxml_put_end(w);
}

void wbxml_put_piece(struct wbxml_writer *w, struct bytes text)
{
	CHECK(w->depth > 0);
	if (text.n == 0)
		return;
	open_content(w);
	buf_add_byte(w->out, STR_I);
	add_clean(w->out, text);
	buf_add_byte(w->out, 0);
}

static void add_length(struct buf *out, uint32_t v)
{
	uint8_t b[5];
	size_t at = sizeof(b);

	b[--at] = v & 0x7f;
	while (v >>= 7)
		b[--at] = 0x80 | (v & 0x7f);
	buf_add(out, b + at, sizeof(b) - at);
}

void wbxml_put_opaque_piece(struct wbxml_writer *w, struct bytes data)
{
	CHECK(w->depth > 0);
	if (data.n == 0)
		return;
	if (data.n > UINT32_MAX) {
		w->out->failed = true;
		return;
	}
	open_content(w);
	buf_add_byte(w->out, OPAQUE);
	add_length(w->out, (uint32_t)data.n);
	buf_add(w->out, data.p, data.n);
}

void wbxml_put_bytes_text(struct wbxml_writer *w, uint16_t tag, struct bytes text)
{
	wbxml_put_start(w, tag);
	wbxml_put_piece(w, text);
	wbxml_put_end(w);
}

void wbxml_put_text(struct wbxml_writer *w, uint16_t tag, const char *s)
{
	wbxml_put_bytes_text(w, tag, bytes_str(s));
}

void wbxml_put_u64(struct wbxml_writer *w, uint16_t tag, uint64_t v)
{
	uint8_t digits[20];
	size_t at = sizeof(digits);

	do
		digits[--at] = (uint8_t)('0' + v % 10);
	while (v /= 10);
	wbxml_put_bytes_text(w, tag, bytes_of(digits + at, sizeof(digits) - at));
}

void wbxml_put_opaque(struct wbxml_writer *w, uint16_t tag, struct bytes data)
{
	wbxml_put_start(w, tag);
	wbxml_put_opaque_piece(w, data);
	wbxml_put_end(w);
}

static void start_node(struct wbxml_writer *w, const struct wbxml_node *n)
{
	wbxml_put_start(w, n->tag);
	if (n->opaque)
		wbxml_put_opaque_piece(w, n->text);
	else
		wbxml_put_piece(w, n->text);
}

void wbxml_put_node(struct wbxml_writer *w, const struct wbxml_node *node)
{
	const struct wbxml_node *n = node;

	start_node(w, n);
	for (;;) {
		if (n->first) {
			n = n->first;
			start_node(w, n);
			continue;
		}
		while (n != node && !n->next) {
			wbxml_put_end(w);
			n = n->parent;
		}
		wbxml_put_end(w);
		if (n == node)
			return;
		n = n->next;
		start_node(w, n);
	}
}

bool wbxml_done(const struct wbxml_writer *w)
{
	return w->root && w->depth == 0 && !w->out->failed;
}

/* ---- For people -------------------------------------------------------------------------- */

static void add_indent(struct buf *out, unsigned depth)
{
	for (unsigned i = 1; i < depth; i++)
		buf_add_str(out, "  ");
}

static void add_name(struct buf *out, uint16_t tag)
{
	const char *page = wbxml_page_name((uint8_t)(tag >> 8));
	const struct wbxml_tag_info *info = wbxml_tag_info(tag);

	if (page)
		buf_add_str(out, page);
	else
		buf_printf(out, "Page%u", tag >> 8);
	if (info)
		buf_printf(out, ":%s", info->name);
	else
		buf_printf(out, ":x%02X", tag & 0xff);
}

static void add_escaped(struct buf *out, struct bytes text)
{
	static const uint8_t special[256] = {['&'] = 1, ['<'] = 1, ['>'] = 1, ['\r'] = 1};

	while (text.n) {
		size_t run = 0;

		while (run < text.n && !special[text.p[run]])
			run++;
		add_clean(out, bytes_of(text.p, run));
		if (run == text.n)
			return;
		/* A bare CR would reach an XML reader as LF. */
		buf_add_str(out, text.p[run] == '&'   ? "&amp;"
				 : text.p[run] == '<' ? "&lt;"
				 : text.p[run] == '>' ? "&gt;"
						      : "&#13;");
		text = bytes_of(text.p + run + 1, text.n - run - 1);
	}
}

static void add_opaque(struct buf *out, struct bytes data)
{
	static const char digits[] = "0123456789abcdef";
	size_t skip;
	uint8_t *d;

	if (clean_run(data.p, data.n, &skip) == data.n) {
		buf_printf(out, "<?opaque %zu?>", data.n);
		add_escaped(out, data);
		return;
	}
	buf_printf(out, "<?opaque-hex %zu?>", data.n);
	d = buf_room(out, 2 * data.n);
	if (!d)
		return;
	for (size_t i = 0; i < data.n; i++) {
		*d++ = (uint8_t)digits[data.p[i] >> 4];
		*d++ = (uint8_t)digits[data.p[i] & 15];
	}
	out->n += 2 * data.n;
}

int wbxml_to_xml(struct bytes in, struct buf *out)
{
	enum wbxml_kind last = WBXML_END; /* START: its ">" is not written yet */
	struct wbxml_reader r;
	struct wbxml_event ev;
	int k;

	wbxml_reader_init(&r, in);
	while ((k = wbxml_next(&r, &ev)) > 0) {
		if (k == WBXML_END && last == WBXML_START) {
			buf_add_str(out, "/>\n");
			last = k;
			continue;
		}
		if (last == WBXML_START)
			buf_add_str(out, ">");
		if (last != WBXML_END && k == WBXML_START)
			buf_add_str(out, "\n");
		if (k == WBXML_TEXT) {
			if (ev.opaque)
				add_opaque(out, ev.text);
			else
				add_escaped(out, ev.text);
		} else {
			if (k == WBXML_START || last == WBXML_END)
				add_indent(out, ev.depth);
			buf_add_str(out, k == WBXML_START ? "<" : "</");
			add_name(out, ev.tag);
			if (k == WBXML_END)
				buf_add_str(out, ">\n");
		}
		last = k;
	}
	if (k < 0)
		buf_printf(out, "%s<!-- malformed: %s -->\n",
			last == WBXML_START  ? ">\n"
			: last == WBXML_TEXT ? "\n"
					     : "",
			r.why);
	return k < 0 ? k : 1;
}
