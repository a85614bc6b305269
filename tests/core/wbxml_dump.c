/* SPDX-License-Identifier: GPL-3.0-or-later */
/* wbxml_dump                         WBXML on standard input, XML on standard output
 * wbxml_dump -g SEED N DIR [SKIP]    N random documents as DIR/0001.wbxml and on
 * Random documents together use every tag of the table at least once when N is 50 or more, but
 * for those that SKIP lists (one per line: page and token, as in codepages.tsv). Text is such that
 * XML keeps it: no blanks at the ends, no line breaks. Byte arrays are OPAQUE. Exit 1: malformed
 * input, 2: usage or I/O. */
#include <stdio.h>
#include <stdlib.h>

#include "core/eas/wbxml.h"

enum { TAGS_MAX = WBXML_PAGES * WBXML_TOKENS };

static int dump(void)
{
	struct buf in = {0}, out = {0};
	size_t got;
	uint8_t *p;
	int k;

	while ((p = buf_room(&in, 65536)) && (got = fread(p, 1, 65536, stdin)) > 0)
		in.n += got;
	k = wbxml_to_xml(buf_bytes(&in), &out);
	if (in.failed || out.failed || fwrite(out.p, 1, out.n, stdout) != out.n)
		return 2;
	buf_free(&in);
	buf_free(&out);
	return k < 0;
}

static uint64_t rnd_state;

static uint32_t rnd(uint32_t below)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)((rnd_state >> 16) % below);
}

struct generator {
	uint16_t tags[TAGS_MAX];
	size_t count, next;
};

static bool load_tags(struct generator *g, const char *skip_path)
{
	static bool skip[UINT16_MAX + 1];
	unsigned page, token;
	FILE *f;

	if (skip_path) {
		f = fopen(skip_path, "r");
		if (!f)
			return false;
		while (fscanf(f, "%u 0x%x", &page, &token) == 2)
			skip[(page << 8 | token) & UINT16_MAX] = true;
		fclose(f);
	}
	for (unsigned tag = 0; tag <= UINT16_MAX; tag++)
		if (wbxml_tag_info((uint16_t)tag) && !skip[tag])
			g->tags[g->count++] = (uint16_t)tag;
	return g->count > 0;
}

/* In turn half of the time, so that all are used; neighbours on one page else, as in reality. */
static uint16_t pick(struct generator *g)
{
	size_t i = rnd(2) ? g->next++ : g->next + rnd(8);

	return g->tags[i % g->count];
}

/* Elements that are byte arrays: sent as OPAQUE. */
static bool is_byte_array(uint16_t tag)
{
	return tag == COMPOSEMAIL_Mime || tag == EMAIL2_ConversationId ||
	       tag == EMAIL2_ConversationIndex || tag == ITEMOPERATIONS_ConversationId ||
	       tag == SEARCH_ConversationId || tag == GAL_Data || tag == RESOLVERECIPIENTS_Data ||
	       tag == AIRSYNCBASE_Content;
}

static void put_byte_array(struct wbxml_writer *w, uint16_t tag)
{
	uint8_t data[300];
	uint32_t n = 1 + rnd(sizeof(data) - 1);

	/* The first byte makes sure that no reader takes it for text. */
	data[0] = 0xff;
	for (uint32_t i = 1; i < n; i++)
		data[i] = (uint8_t)rnd(256);
	wbxml_put_opaque(w, tag, bytes_of(data, n));
}

static void put_text(struct wbxml_writer *w, uint16_t tag)
{
	static const char *const bits[] = {"a", "Z", "0", "9", "-", ".", "<", ">", "&", "\"", "'",
		"]]>", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x99\x82", "x y"};
	uint32_t n = rnd(20) ? 1 + rnd(20) : 1 + rnd(3000);
	struct buf s = {0};

	while (n--)
		buf_add_str(&s, bits[rnd(sizeof(bits) / sizeof(bits[0]))]);
	wbxml_put_bytes_text(w, tag, buf_bytes(&s));
	buf_free(&s);
}

static void put_document(struct generator *g, struct wbxml_writer *w)
{
	uint32_t left = 5 + rnd(60), depth = 1;
	uint16_t root;

	do
		root = pick(g);
	while (is_byte_array(root));
	wbxml_put_start(w, root);
	for (; left; left--) {
		uint32_t dice = rnd(10);
		uint16_t tag = pick(g);

		if (is_byte_array(tag)) {
			put_byte_array(w, tag);
		} else if (dice < 3 && depth < 20) {
			wbxml_put_start(w, tag);
			depth++;
		} else if (dice < 4) {
			wbxml_put_empty(w, tag);
		} else {
			put_text(w, tag);
		}
		while (depth > 1 && !rnd(4)) {
			wbxml_put_end(w);
			depth--;
		}
	}
	for (; depth; depth--)
		wbxml_put_end(w);
}

static int generate(const char *seed, const char *count, const char *dir, const char *skip_path)
{
	static struct generator g;
	unsigned long n = strtoul(count, NULL, 10);

	rnd_state = strtoull(seed, NULL, 0) * 0x9e3779b97f4a7c15u | 1;
	if (!load_tags(&g, skip_path))
		return 2;
	for (unsigned long i = 1; i <= n; i++) {
		struct buf doc = {0};
		struct wbxml_writer w;
		char path[4096];
		FILE *f;
		bool ok;

		wbxml_writer_init(&w, &doc);
		put_document(&g, &w);
		snprintf(path, sizeof(path), "%s/%04lu.wbxml", dir, i);
		f = fopen(path, "wb");
		if (!f)
			return 2;
		ok = wbxml_done(&w) && fwrite(doc.p, 1, doc.n, f) == doc.n;
		if (fclose(f) != 0 || !ok)
			return 2;
		buf_free(&doc);
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 1)
		return dump();
	if ((argc == 5 || argc == 6) && strcmp(argv[1], "-g") == 0)
		return generate(argv[2], argv[3], argv[4], argc == 6 ? argv[5] : NULL);
	fprintf(stderr, "usage: wbxml_dump [-g SEED N DIR [SKIP]]\n");
	return 2;
}
