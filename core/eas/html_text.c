/* SPDX-License-Identifier: GPL-3.0-or-later */
/* HTML to text: gumbo builds the tree, one iterative walk writes lines.
 *
 * gumbo has no limits of its own: some documents of a few megabytes make it build trees of
 * gigabytes or search for minutes, and its destructor recurses. So all its memory comes from us:
 * beyond a budget of bytes or of processor time the parse is abandoned (longjmp out of the
 * allocator; every block is on our list) and the tags are merely stripped. */
#include "core/eas/message_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/list.h"

#include <gumbo.h>
#include <setjmp.h>
#include <stdlib.h>
#include <strings.h>

enum {
	TREE_BYTES_MAX = 96 * 1024 * 1024,
	TREE_CPU_MS_MAX = 700,
	QUOTE_DEPTH_MAX = 10,
	LIST_DEPTH_MAX = 10,
	HREF_BYTES_MAX = 2000,
};

/* -- writing lines -- */

struct lines {
	struct buf *out;
	unsigned breaks; /* line ends due before the next character */
	bool space;      /* a blank due, unless a line begins */
	bool empty;      /* nothing on this line yet */
	bool any;
	bool marked; /* a list mark was just written: its text follows on the same line */
	unsigned quote, quote_before, lists, pre;
	unsigned number[LIST_DEPTH_MAX + 1]; /* 0: bullets */
};

static bool full(const struct lines *l)
{
	return l->out->failed || l->out->n > BODY_BYTES_MAX;
}

static void quote_marks(struct lines *l, unsigned depth)
{
	for (unsigned i = 0; i < depth && i < QUOTE_DEPTH_MAX; i++)
		buf_add_byte(l->out, '>');
}

/* Everything due before a visible character. */
static void flush(struct lines *l)
{
	if (!l->any) {
		l->breaks = 0;
		l->empty = true;
	}
	if (l->breaks || !l->any) {
		for (unsigned i = 0; i < l->breaks; i++) {
			buf_add_str(l->out, "\r\n");
			/* Blank lines inside one quotation belong to it. */
			if (i + 1 < l->breaks)
				quote_marks(
					l, l->quote < l->quote_before ? l->quote : l->quote_before);
		}
		if (l->quote) {
			quote_marks(l, l->quote);
			buf_add_byte(l->out, ' ');
		}
		l->empty = true;
	}
	if (l->space && !l->empty)
		buf_add_byte(l->out, ' ');
	l->breaks = 0;
	l->space = false;
	l->any = true;
	l->quote_before = l->quote;
}

static void put(struct lines *l, const void *p, size_t n)
{
	if (n == 0 || full(l))
		return;
	flush(l);
	buf_add(l->out, p, n);
	l->empty = l->marked = false;
}

static void break_at_least(struct lines *l, unsigned n)
{
	l->space = false;
	if (!l->marked && l->breaks < n && (l->breaks || !l->empty || n > 1))
		l->breaks = n;
}

/* Padding that mail makers put behind the preview text, and soft hyphens. */
static bool invisible(uint32_t c)
{
	return c == 0xad || c == 0x34f || c == 0x200b || c == 0xfeff || c == 0x2060;
}

static void put_text(struct lines *l, struct bytes text)
{
	for (size_t i = 0, n; i < text.n && !full(l); i += n) {
		uint32_t c;

		n = utf8_next(text.p + i, text.n - i, &c);
		if (!n) {
			n = 1;
			put(l, "\xef\xbf\xbd", 3);
		} else if (c == '\n' && l->pre) {
			l->space = false;
			if (l->breaks < 3)
				l->breaks++;
		} else if (c == ' ' && l->pre) {
			put(l, " ", 1);
		} else if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' ||
			   c == 0xa0) {
			l->space = true;
		} else if (c < 0x20 || c == 0x7f || invisible(c)) {
			continue;
		} else {
			put(l, text.p + i, n);
		}
	}
}

/* -- gumbo's memory -- */

struct block {
	struct list_link link;
	size_t n;
	_Alignas(16) uint8_t data[];
};

struct tree_memory {
	struct list_link blocks;
	size_t used_bytes;
	unsigned calls;
	uint64_t cpu_until_ns;
	jmp_buf abandon;
};

static void *tree_alloc(void *arg, size_t n)
{
	struct tree_memory *t = arg;
	struct block *b;

	if (n > TREE_BYTES_MAX || t->used_bytes + n > TREE_BYTES_MAX)
		longjmp(t->abandon, 1);
	if (++t->calls % 1024 == 0 && clock_read_ns(CLOCK_THREAD_CPUTIME_ID) > t->cpu_until_ns)
		longjmp(t->abandon, 1);
	b = malloc(sizeof(*b) + n);
	if (!b)
		longjmp(t->abandon, 1);
	b->n = sizeof(*b) + n;
	t->used_bytes += b->n;
	list_add_tail(&t->blocks, &b->link);
	return b->data;
}

static void tree_dealloc(void *arg, void *p)
{
	struct tree_memory *t = arg;
	struct block *b;

	if (!p)
		return;
	b = container_of(p, struct block, data);
	t->used_bytes -= b->n;
	list_del(&b->link);
	free(b);
}

static void tree_free(struct tree_memory *t)
{
	struct list_link *l, *tmp;

	list_each_safe (l, tmp, &t->blocks)
		free(list_entry(l, struct block, link));
	list_init(&t->blocks);
}

/* In a function of its own: no local of the callers lives across the jump. NULL: abandoned. */
static GumboOutput *__attribute__((noinline)) tree_parse(struct tree_memory *t, struct bytes html)
{
	GumboOptions o = kGumboDefaultOptions;

	o.allocator = tree_alloc;
	o.deallocator = tree_dealloc;
	o.userdata = t;
	o.max_errors = 0;
	if (setjmp(t->abandon))
		return NULL;
	return gumbo_parse_with_options(&o, (const char *)html.p, html.n);
}

/* -- the walk -- */

static const char *attribute(const GumboElement *e, const char *name)
{
	GumboAttribute *a = gumbo_get_attribute(&e->attributes, name);

	return a ? a->value : NULL;
}

/* Preheaders that are only meant for a list view, tracking blocks. */
static bool hidden(const GumboElement *e)
{
	const char *style = attribute(e, "style");

	for (; style && (style = strcasestr(style, "display")); style += 7) {
		const char *v = style + 7;

		while (*v == ' ' || *v == ':')
			v++;
		if (strncasecmp(v, "none", 4) == 0)
			return true;
	}
	return attribute(e, "hidden") != NULL;
}

static unsigned blank_lines_around(GumboTag tag)
{
	switch (tag) {
	case GUMBO_TAG_P:
	case GUMBO_TAG_H1:
	case GUMBO_TAG_H2:
	case GUMBO_TAG_H3:
	case GUMBO_TAG_H4:
	case GUMBO_TAG_H5:
	case GUMBO_TAG_H6:
	case GUMBO_TAG_BLOCKQUOTE:
	case GUMBO_TAG_PRE:
	case GUMBO_TAG_DL:
	case GUMBO_TAG_FIGURE:
		return 2;
	case GUMBO_TAG_DIV:
	case GUMBO_TAG_TABLE:
	case GUMBO_TAG_TR:
	case GUMBO_TAG_CAPTION:
	case GUMBO_TAG_LI:
	case GUMBO_TAG_DT:
	case GUMBO_TAG_DD:
	case GUMBO_TAG_SECTION:
	case GUMBO_TAG_ARTICLE:
	case GUMBO_TAG_HEADER:
	case GUMBO_TAG_FOOTER:
	case GUMBO_TAG_NAV:
	case GUMBO_TAG_ASIDE:
	case GUMBO_TAG_MAIN:
	case GUMBO_TAG_CENTER:
	case GUMBO_TAG_FORM:
	case GUMBO_TAG_FIELDSET:
	case GUMBO_TAG_ADDRESS:
	case GUMBO_TAG_FIGCAPTION:
	case GUMBO_TAG_OPTION:
		return 1;
	default:
		return 0;
	}
}

static void put_alternative(struct lines *l, const char *alt)
{
	struct buf line = {0};

	if (!alt || strlen(alt) > HREF_BYTES_MAX)
		return;
	text_one_line(bytes_str(alt), &line);
	if (line.n) {
		put(l, "[", 1);
		put_text(l, buf_bytes(&line));
		put(l, "]", 1);
	}
	buf_free(&line);
}

/* False: its children are not shown. */
static bool enter(struct lines *l, const GumboElement *e)
{
	switch (e->tag) {
	case GUMBO_TAG_HEAD:
	case GUMBO_TAG_STYLE:
	case GUMBO_TAG_SCRIPT:
	case GUMBO_TAG_TEMPLATE:
	case GUMBO_TAG_TITLE:
	case GUMBO_TAG_SVG:
		return false;
	default:
		break;
	}
	if (hidden(e))
		return false;
	if (blank_lines_around(e->tag))
		break_at_least(l, blank_lines_around(e->tag));
	switch (e->tag) {
	case GUMBO_TAG_BR:
		l->space = false;
		if (l->breaks < 3)
			l->breaks++;
		break;
	case GUMBO_TAG_HR:
		break_at_least(l, 1);
		put(l, "----------------------------------------", 40);
		break_at_least(l, 1);
		break;
	case GUMBO_TAG_IMG:
		put_alternative(l, attribute(e, "alt"));
		break;
	case GUMBO_TAG_TD:
	case GUMBO_TAG_TH:
		if (!l->empty && !l->breaks && l->any)
			put(l, "\t", 1);
		l->space = false;
		break;
	case GUMBO_TAG_UL:
	case GUMBO_TAG_OL:
		break_at_least(l, l->lists ? 1 : 2);
		l->lists++;
		if (l->lists <= LIST_DEPTH_MAX)
			l->number[l->lists] = e->tag == GUMBO_TAG_OL;
		break;
	case GUMBO_TAG_LI: {
		unsigned depth = l->lists < LIST_DEPTH_MAX ? l->lists : LIST_DEPTH_MAX;

		for (unsigned i = 1; i < depth; i++)
			put(l, "  ", 2);
		if (depth && l->number[depth]) {
			char mark[16];

			snprintf(mark, sizeof(mark), "%u. ", l->number[depth]++);
			put(l, mark, strlen(mark));
		} else {
			put(l, "* ", 2);
		}
		l->empty = l->marked = true; /* no blank or line end before what follows */
		break;
	}
	case GUMBO_TAG_BLOCKQUOTE:
		l->quote++;
		break;
	case GUMBO_TAG_PRE:
	case GUMBO_TAG_TEXTAREA:
		l->pre++;
		break;
	default:
		break;
	}
	return true;
}

/* The link's target behind its text, unless the text shows it already. */
static void put_target(struct lines *l, const GumboElement *e, size_t text_from)
{
	const char *href = attribute(e, "href");
	struct bytes shown;
	const char *bare;

	if (!href || strlen(href) > HREF_BYTES_MAX || text_from >= l->out->n || full(l))
		return;
	shown = bytes_of(l->out->p + text_from, l->out->n - text_from);
	if (strncasecmp(href, "http://", 7) != 0 && strncasecmp(href, "https://", 8) != 0 &&
		strncasecmp(href, "mailto:", 7) != 0 && strncasecmp(href, "tel:", 4) != 0)
		return;
	bare = strchr(href, ':') + 1;
	while (*bare == '/')
		bare++;
	if (*bare && memmem(shown.p, shown.n, bare, strlen(bare)))
		return;
	l->space = true;
	put(l, "<", 1);
	put_text(l, bytes_str(href));
	l->space = false;
	buf_add_byte(l->out, '>');
}

static void leave(struct lines *l, const GumboElement *e, size_t text_from)
{
	switch (e->tag) {
	case GUMBO_TAG_UL:
	case GUMBO_TAG_OL:
		l->lists--;
		break_at_least(l, l->lists ? 1 : 2);
		break;
	case GUMBO_TAG_BLOCKQUOTE:
		l->quote--;
		break;
	case GUMBO_TAG_PRE:
	case GUMBO_TAG_TEXTAREA:
		l->pre--;
		break;
	case GUMBO_TAG_A:
		put_target(l, e, text_from);
		break;
	default:
		break;
	}
	if (blank_lines_around(e->tag))
		break_at_least(l, blank_lines_around(e->tag));
}

struct step {
	const GumboNode *node;
	unsigned child;
	size_t text_from;
};

static bool push(struct step **stack, size_t *n, size_t *cap, struct step s)
{
	if (*n == *cap) {
		size_t more = *cap ? *cap * 2 : 64;
		struct step *p = realloc(*stack, more * sizeof(*p));

		if (!p)
			return false;
		*stack = p;
		*cap = more;
	}
	(*stack)[(*n)++] = s;
	return true;
}

/* With its own stack: the depth is the sender's choice. */
static void walk(struct lines *l, const GumboNode *root)
{
	struct step *stack = NULL;
	size_t n = 0, cap = 0;

	if (root->type == GUMBO_NODE_ELEMENT && enter(l, &root->v.element))
		push(&stack, &n, &cap, (struct step){.node = root});
	while (n > 0 && !full(l)) {
		struct step *s = &stack[n - 1];
		const GumboElement *e = &s->node->v.element;
		const GumboNode *c;

		if (s->child == e->children.length) {
			leave(l, e, s->text_from);
			n--;
			continue;
		}
		c = e->children.data[s->child++];
		switch (c->type) {
		case GUMBO_NODE_TEXT:
		case GUMBO_NODE_WHITESPACE:
		case GUMBO_NODE_CDATA:
			put_text(l, bytes_str(c->v.text.text));
			break;
		case GUMBO_NODE_ELEMENT:
			if (enter(l, &c->v.element) &&
				!push(&stack, &n, &cap,
					(struct step){.node = c, .text_from = l->out->n}))
				goto out;
			break;
		default:
			break;
		}
	}
out:
	free(stack);
}

/* -- without a tree -- */

static size_t strip_entity(struct bytes html, size_t i, struct lines *l)
{
	static const struct {
		const char *name, *text;
	} named[] = {{"amp;", "&"}, {"lt;", "<"}, {"gt;", ">"}, {"quot;", "\""}, {"nbsp;", " "},
		{"apos;", "'"}};
	struct bytes rest = bytes_of(html.p + i + 1, html.n - i - 1);

	for (size_t k = 0; k < G_N_ELEMENTS(named); k++) {
		size_t n = strlen(named[k].name);

		if (rest.n >= n && memcmp(rest.p, named[k].name, n) == 0) {
			put_text(l, bytes_str(named[k].text));
			return n + 1;
		}
	}
	if (rest.n > 2 && rest.p[0] == '#') {
		char digits[12] = "";
		size_t n = 1, d = 0;
		bool hex = rest.p[1] == 'x' || rest.p[1] == 'X';
		unsigned long c;
		struct buf one = {0};

		n += hex;
		while (n < rest.n && d < 8 &&
			(hex ? g_ascii_isxdigit((char)rest.p[n])
			     : g_ascii_isdigit((char)rest.p[n])))
			digits[d++] = (char)rest.p[n++];
		if (d) {
			c = strtoul(digits, NULL, hex ? 16 : 10);
			if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
				c = 0xfffd;
			utf8_put(&one, (uint32_t)c);
			put_text(l, buf_bytes(&one));
			buf_free(&one);
			return 1 + n + (n < rest.n && rest.p[n] == ';');
		}
	}
	put(l, "&", 1);
	return 1;
}

static bool tag_is(struct bytes html, size_t i, const char *name)
{
	size_t n = strlen(name);

	return html.n - i > n + 1 && strncasecmp((const char *)html.p + i + 1, name, n) == 0 &&
	       !g_ascii_isalnum((char)html.p[i + 1 + n]);
}

/* Index behind the first `end` at or after i, without regard to case. */
static size_t behind(struct bytes html, size_t i, const char *end)
{
	size_t n = strlen(end);

	while (i < html.n) {
		const uint8_t *p = memchr(html.p + i, end[0], html.n - i);

		if (!p || (size_t)(html.p + html.n - p) < n)
			return html.n;
		if (strncasecmp((const char *)p, end, n) == 0)
			return (size_t)(p - html.p) + n;
		i = (size_t)(p - html.p) + 1;
	}
	return html.n;
}

static void strip(struct lines *l, struct bytes html)
{
	static const char *const breaking[] = {"br", "p", "/p", "div", "/div", "tr", "/tr", "li",
		"h1", "h2", "h3", "/h1", "/h2", "/h3", "table", "/table", "hr", "blockquote"};

	for (size_t i = 0, next; i < html.n && !full(l); i = next) {
		uint8_t c = html.p[i];

		if (c == '&') {
			next = i + strip_entity(html, i, l);
		} else if (c != '<') {
			for (next = i + 1;
				next < html.n && html.p[next] != '<' && html.p[next] != '&'; next++)
				;
			put_text(l, bytes_of(html.p + i, next - i));
		} else if (html.n - i > 3 && memcmp(html.p + i, "<!--", 4) == 0) {
			next = behind(html, i + 4, "-->");
		} else if (tag_is(html, i, "script")) {
			next = behind(html, i + 1, "</script");
			next = behind(html, next, ">");
		} else if (tag_is(html, i, "style")) {
			next = behind(html, i + 1, "</style");
			next = behind(html, next, ">");
		} else if (html.n - i > 1 &&
			   (g_ascii_isalpha((char)html.p[i + 1]) ||
				   strchr("/!?", html.p[i + 1] ? html.p[i + 1] : 'x'))) {
			for (size_t k = 0; k < G_N_ELEMENTS(breaking); k++)
				if (tag_is(html, i, breaking[k]))
					break_at_least(l, 1);
			next = behind(html, i, ">");
		} else {
			put(l, "<", 1);
			next = i + 1;
		}
	}
}

void html_to_text_buf(struct bytes html, struct buf *out)
{
	struct tree_memory t = {
		.cpu_until_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) +
				(uint64_t)TREE_CPU_MS_MAX * 1000000u,
	};
	struct lines l = {.out = out, .empty = true};
	struct buf clean = {0};
	GumboOutput *tree;

	list_init(&t.blocks);
	html = message_cut(html, HTML_INPUT_MAX);
	/* Callers outside this folder may hand in anything; gumbo needs clean UTF-8. */
	text_clean(html, &clean);
	if (clean.failed || clean.n == 0) {
		out->failed |= clean.failed;
		buf_free(&clean);
		return;
	}
	tree = tree_parse(&t, buf_bytes(&clean));
	if (tree && tree->root)
		walk(&l, tree->root);
	else
		strip(&l, buf_bytes(&clean));
	tree_free(&t);
	if (l.any)
		buf_add_str(out, "\r\n");
	buf_free(&clean);
}

struct bytes html_to_text(struct bytes html, struct arena *a)
{
	struct buf b = {0};
	struct bytes r = {0};

	html_to_text_buf(html, &b);
	if (b.failed)
		a->failed = true;
	else
		r = arena_dup(a, buf_bytes(&b));
	buf_free(&b);
	return r;
}
