/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/wbxml.c under hostile input. What must hold for every document:
 * - the tree says what the events say, or both refuse with the same reason;
 * - skipping an element ends where reading it ends;
 * - a tree written and read again is the same tree, but for text that a string cannot carry;
 *   from then on writing gives the same bytes for ever;
 * - XML is shown for everything, and only malformed documents are called so. */
#include <stdlib.h>

#include "core/eas/wbxml.h"

enum { ARENA_BYTES = 64 << 20 };

static void require(bool ok)
{
	if (!ok)
		abort();
}

/* Whether the writer would change this text; not by the writer's own code. */
static bool plain(struct bytes t)
{
	for (size_t i = 0; i < t.n; i++) {
		if (t.p[i] < 0x20 && t.p[i] != '\t' && t.p[i] != '\r' && t.p[i] != '\n')
			return false;
		if (t.n - i >= 3 && t.p[i] == 0xef && t.p[i + 1] == 0xbf && t.p[i + 2] >= 0xbe)
			return false;
	}
	return bytes_is_utf8(t);
}

/* Walks the events along the tree. Text comes in pieces that must fill node->text exactly;
 * `at` remembers how far it is filled. */
static void compare_with_events(struct bytes in, const struct wbxml_node *root)
{
	const struct wbxml_node *open[WBXML_DEPTH_MAX + 1], *last[WBXML_DEPTH_MAX + 1] = {0};
	size_t at[WBXML_DEPTH_MAX + 1];
	uint32_t children[WBXML_DEPTH_MAX + 1];
	bool opaque[WBXML_DEPTH_MAX + 1];
	struct wbxml_reader r;
	struct wbxml_event ev;
	int k;

	wbxml_reader_init(&r, in);
	while ((k = wbxml_next(&r, &ev)) > 0) {
		unsigned d = ev.depth;
		const struct wbxml_node *n;

		require(ev.kind == k && d >= 1 && d <= WBXML_DEPTH_MAX);
		if (k == WBXML_START) {
			if (d == 1)
				n = root;
			else
				n = last[d] ? last[d]->next : open[d - 1]->first;
			require(n && n->tag == ev.tag && n->unknown == ev.unknown);
			require(n->parent == (d == 1 ? NULL : open[d - 1]));
			require(!ev.empty || (!n->first && n->text.n == 0));
			open[d] = last[d] = n;
			if (d > 1)
				children[d - 1]++;
			if (d < WBXML_DEPTH_MAX)
				last[d + 1] = NULL;
			at[d] = children[d] = 0;
			opaque[d] = false;
			continue;
		}
		n = open[d];
		require(n->tag == ev.tag && n->unknown == ev.unknown);
		if (k == WBXML_TEXT) {
			require(ev.text.n > 0 && ev.text.n <= n->text.n - at[d]);
			require(ev.text.p >= in.p && ev.text.p + ev.text.n <= in.p + in.n);
			require(memcmp(n->text.p + at[d], ev.text.p, ev.text.n) == 0);
			at[d] += ev.text.n;
			opaque[d] |= ev.opaque;
		} else {
			require(n->text.p && at[d] == n->text.n && opaque[d] == n->opaque);
			require(children[d] == n->child_count);
			/* The tree has no child that the events did not name. */
			require(d == WBXML_DEPTH_MAX ||
				!(last[d + 1] ? last[d + 1]->next : n->first));
		}
	}
	require(k == WBXML_DONE);
	require(!root->next && !root->parent);
}

/* `again` is `a` written and read back. */
static void compare_trees(const struct wbxml_node *a, const struct wbxml_node *again)
{
	for (;;) {
		require(a->tag == again->tag && a->unknown == again->unknown &&
			a->child_count == again->child_count && a->opaque == again->opaque);
		if (a->opaque || plain(a->text))
			require(bytes_eq(a->text, again->text));
		else
			require(!bytes_eq(a->text, again->text) && plain(again->text));
		require(!a->first == !again->first && !a->next == !again->next);
		if (a->first) {
			a = a->first;
			again = again->first;
			continue;
		}
		while (a && !a->next) {
			a = a->parent;
			again = again->parent;
		}
		require(!a == !again);
		if (!a)
			return;
		a = a->next;
		again = again->next;
	}
}

/* Skips the (choice)th element; the reader must then say what a reader that walked says. */
static void compare_skip(struct bytes in, unsigned choice)
{
	struct wbxml_reader walk, skip;
	struct wbxml_event a, b;
	int k;

	wbxml_reader_init(&walk, in);
	do {
		k = wbxml_next(&walk, &a);
		if (k <= 0)
			return;
	} while (k != WBXML_START || choice--);
	skip = walk;
	do
		k = wbxml_next(&walk, &b);
	while (k > 0 && !(k == WBXML_END && b.depth == a.depth));
	require(wbxml_skip(&skip) == (k > 0 ? 1 : k));
	if (k < 0) {
		require(skip.why == walk.why);
		return;
	}
	require(skip.p == walk.p && skip.depth == walk.depth && skip.page == walk.page &&
		skip.elements == walk.elements && skip.unknown_depth == walk.unknown_depth);
}

static void write_tree(const struct wbxml_node *root, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_node(&w, root);
	require(wbxml_done(&w));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct bytes in = bytes_of(p, n);
	struct wbxml_node *root = NULL, *second = NULL;
	struct buf xml = {0}, doc = {0}, doc2 = {0};
	struct wbxml_reader r;
	struct wbxml_event ev;
	struct arena a;
	const char *why = NULL;
	int k;

	arena_init(&a, ARENA_BYTES);
	k = wbxml_parse(in, &a, NULL, &root, &why);
	require(wbxml_to_xml(in, &xml) == k && !xml.failed);
	require(xml.n == 0 || plain(buf_bytes(&xml)));
	buf_free(&xml);
	compare_skip(in, n > 4 ? p[n / 2] % 8 : 0);
	if (k != 1) {
		require(k == WBXML_BAD && !root && why && !a.failed);
		wbxml_reader_init(&r, in);
		while (wbxml_next(&r, &ev) > 0)
			;
		require(ev.kind == WBXML_BAD && r.why == why);
		arena_free(&a);
		return 0;
	}
	compare_with_events(in, root);
	write_tree(root, &doc);
	require(wbxml_parse(buf_bytes(&doc), &a, NULL, &second, &why) == 1);
	compare_trees(root, second);
	write_tree(second, &doc2);
	require(bytes_eq(buf_bytes(&doc), buf_bytes(&doc2)));
	buf_free(&doc);
	buf_free(&doc2);
	arena_free(&a);
	return 0;
}
