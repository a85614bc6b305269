/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The promises of core/eas/wbxml.h: the worked examples of the specification byte for byte, the
 * table, and random trees through writer and reader. What the reader refuses is in
 * test_wbxml_read.c, what the writer makes of odd input in test_wbxml_write.c. */
#include "tests/core/wbxml_fixture.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* ---- Worked examples --------------------------------------------------------------------- */

/* To phones: what we send is what the specification shows, to the byte. */
static void examples_are_written_byte_for_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		struct buf want = from_hex(examples[i].hex), got = {0};
		struct wbxml_writer w;

		wbxml_writer_init(&w, &got);
		assert_false(wbxml_done(&w));
		examples[i].put(&w);
		assert_true(wbxml_done(&w));
		assert_bytes(buf_bytes(&got), buf_bytes(&want));
		buf_free(&got);
		buf_free(&want);
	}
}

static void examples_are_read_and_written_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		struct buf in = from_hex(examples[i].hex), again = {0};
		struct arena a;
		struct wbxml_node *root;
		struct wbxml_writer w;
		const char *why = "";

		assert_outline(buf_bytes(&in), examples[i].outline);
		arena_init(&a, ARENA_BYTES);
		assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
		wbxml_writer_init(&w, &again);
		wbxml_put_node(&w, root);
		assert_true(wbxml_done(&w));
		assert_bytes(buf_bytes(&again), buf_bytes(&in));
		buf_free(&again);
		arena_free(&a);
		buf_free(&in);
	}
}

/* A document cut short anywhere is refused: no phone's request is acted on by half. */
static void every_truncation_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		struct buf in = from_hex(examples[i].hex);

		for (size_t n = 0; n < in.n; n++) {
			struct arena a;
			struct wbxml_node *root = NULL;
			const char *why = NULL;
			uint8_t *cut = malloc(n ? n : 1);

			memcpy(cut, in.p, n);
			arena_init(&a, ARENA_BYTES);
			assert_int_equal(
				wbxml_parse(bytes_of(cut, n), &a, NULL, &root, &why), WBXML_BAD);
			assert_null(root);
			assert_non_null(why);
			arena_free(&a);
			free(cut);
		}
		buf_free(&in);
	}
}

/* ---- The table --------------------------------------------------------------------------- */

static void the_table_names_what_the_specification_names(void **state)
{
	unsigned tags = 0;

	(void)state;
	for (unsigned tag = 0; tag <= UINT16_MAX; tag++)
		tags += wbxml_tag_info((uint16_t)tag) != NULL;
	assert_int_equal(tags, 655); /* rows of codepages.tsv without the three unassigned */
	assert_int_equal(AIRSYNC_SyncKey, 0x000b);
	assert_int_equal(FIND_Picture, 0x1922);
	assert_string_equal(wbxml_tag_info(PING_HeartbeatInterval)->name, "HeartbeatInterval");
	assert_int_equal(wbxml_tag_info(AIRSYNC_Wait)->min_version, 121);
	assert_int_equal(wbxml_tag_info(FIND_Find)->min_version, 161);
	assert_string_equal(wbxml_page_name(25), "Find");
	assert_null(wbxml_page_name(26));
	assert_null(wbxml_tag_info(0x0004));
	assert_null(wbxml_tag_info(0x0045));
	assert_null(wbxml_tag_info(0x191a));
	assert_null(wbxml_tag_info(0xffff));
}

/* ---- XML --------------------------------------------------------------------------------- */

static void assert_xml(const char *hex, int want_k, const char *want)
{
	struct buf in = from_hex(hex), out = {0};

	assert_int_equal(wbxml_to_xml(buf_bytes(&in), &out), want_k);
	buf_add_byte(&out, 0);
	assert_string_equal((char *)out.p, want);
	buf_free(&in);
	buf_free(&out);
}

static void documents_are_shown_as_xml(void **state)
{
	(void)state;
	assert_xml(examples[2].hex, 1,
		"<Ping:Ping>\n"
		"  <Ping:Status>2</Ping:Status>\n"
		"  <Ping:Folders>\n"
		"    <Ping:Folder>5</Ping:Folder>\n"
		"  </Ping:Folders>\n"
		"</Ping:Ping>\n");
	assert_xml("03 01 6A 00 45 54 01 4B 03 3C 26 3E 0D 01 FF 00 01 00 15 50 C3 02 61 3C 01 50 "
		   "C3 02 00 FF 01 00 1E 05 00 0D 3F 01",
		1,
		"<AirSync:Sync>\n"
		"  <AirSync:MoreAvailable/>\n"
		"  <AirSync:SyncKey>&lt;&amp;&gt;&#13;" FFFD FFFD "</AirSync:SyncKey>\n"
		"  <ComposeMail:Mime><?opaque 2?>a&lt;</ComposeMail:Mime>\n"
		"  <ComposeMail:Mime><?opaque-hex 2?>00ff</ComposeMail:Mime>\n"
		"  <Page30:x05/>\n"
		"  <Ping:x3F/>\n"
		"</AirSync:Sync>\n");
	assert_xml("03 01 6A 00 45 4B 03 61 00 14 02", WBXML_BAD,
		"<AirSync:Sync>\n"
		"  <AirSync:SyncKey>a\n"
		"    <AirSync:MoreAvailable/>\n"
		"<!-- malformed: a token EAS does not use -->\n");
	assert_xml("03 01 6A 00 45", WBXML_BAD,
		"<AirSync:Sync>\n<!-- malformed: ends inside an element -->\n");
	assert_xml("03 01 6A 00 45 03 61 00", WBXML_BAD,
		"<AirSync:Sync>a\n<!-- malformed: ends inside an element -->\n");
	assert_xml("", WBXML_BAD, "<!-- malformed: truncated header -->\n");
}

/* ---- Random trees ------------------------------------------------------------------------ */

struct rnd {
	uint64_t s;
};

static uint32_t rnd(struct rnd *r, uint32_t below)
{
	r->s ^= r->s << 13;
	r->s ^= r->s >> 7;
	r->s ^= r->s << 17;
	return (uint32_t)((r->s >> 16) % below);
}

static struct bytes rnd_text(struct rnd *r, struct arena *a, bool opaque)
{
	static const char *const bits[] = {"a", "7", " ", "\n", "<", "&", "\xc3\xbc",
		"\xe2\x82\xac", "\xf0\x9f\x99\x82", "\x7f"};
	size_t n = rnd(r, 10) ? rnd(r, 40) : rnd(r, 20000);
	uint8_t *p = arena_alloc(a, n * 4 + 1);
	size_t at = 0;

	assert_non_null(p);
	for (size_t i = 0; i < n; i++) {
		const char *s = bits[rnd(r, ARRAY_LEN(bits))];

		if (opaque) {
			p[at++] = (uint8_t)rnd(r, 256);
			continue;
		}
		memcpy(p + at, s, strlen(s));
		at += strlen(s);
	}
	return bytes_of(p, at);
}

/* A tree of up to `want` elements, made without any code of the module. */
static struct wbxml_node *rnd_tree(struct rnd *r, struct arena *a, uint32_t want)
{
	struct wbxml_node *root = NULL, *at = NULL, *n, *last;
	unsigned depth = 0;

	for (uint32_t i = 0; i < want; i++) {
		n = arena_zalloc(a, sizeof(*n));
		assert_non_null(n);
		n->tag = (uint16_t)(rnd(r, rnd(r, 9) ? 26 : 256) << 8 | (5 + rnd(r, 59)));
		n->text = bytes_of("", 0);
		n->parent = at;
		n->unknown = !wbxml_tag_info(n->tag) || (at && at->unknown);
		if (!rnd(r, 2)) {
			n->opaque = !rnd(r, 4);
			n->text = rnd_text(r, a, n->opaque);
			n->opaque &= n->text.n > 0;
		}
		if (!root) {
			root = n;
		} else {
			for (last = at->first; last && last->next; last = last->next)
				;
			if (last)
				last->next = n;
			else
				at->first = n;
			at->child_count++;
		}
		if (!at || (depth < WBXML_DEPTH_MAX - 1 && rnd(r, 3))) {
			at = n;
			depth++;
		}
		while (at != root && !rnd(r, 3)) {
			at = at->parent;
			depth--;
		}
	}
	return root;
}

static bool same_tree(const struct wbxml_node *a, const struct wbxml_node *b)
{
	const struct wbxml_node *root = a;

	for (;;) {
		if (a->tag != b->tag || a->opaque != b->opaque || a->unknown != b->unknown ||
			a->child_count != b->child_count || !bytes_eq(a->text, b->text) ||
			!a->first != !b->first || (a != root && !a->next != !b->next))
			return false;
		if (a->first) {
			a = a->first;
			b = b->first;
			continue;
		}
		while (a != root && !a->next) {
			a = a->parent;
			b = b->parent;
		}
		if (a == root)
			return true;
		a = a->next;
		b = b->next;
	}
}

static void random_trees_survive_the_round_trip(void **state)
{
	const char *given = getenv("SEED");
	uint64_t seed =
		given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) ^ (uint64_t)getpid();
	struct rnd r = {.s = seed * 0x9e3779b97f4a7c15u | 1};

	(void)state;
	printf("# SEED=%llu repeats these trees\n", (unsigned long long)seed);
	for (int i = 0; i < 500; i++) {
		struct arena a;
		struct wbxml_node *tree, *got = NULL;
		struct buf doc = {0}, again = {0};
		struct wbxml_writer w;
		const char *why = "";

		arena_init(&a, 256u << 20);
		tree = rnd_tree(&r, &a, 1 + rnd(&r, rnd(&r, 10) ? 30 : 600));
		wbxml_writer_init(&w, &doc);
		wbxml_put_node(&w, tree);
		assert_true(wbxml_done(&w));
		if (wbxml_parse(buf_bytes(&doc), &a, NULL, &got, &why) != 1)
			fail_msg("tree %d refused: %s", i, why);
		assert_true(same_tree(tree, got));
		wbxml_writer_init(&w, &again);
		wbxml_put_node(&w, got);
		assert_bytes(buf_bytes(&again), buf_bytes(&doc));
		buf_free(&doc);
		buf_free(&again);
		arena_free(&a);
	}
}

/* A part of a request may be sent back inside an element of ours. */
static void a_subtree_can_be_sent_alone(void **state)
{
	struct buf in = from_hex(examples[0].hex), doc = {0};
	struct arena a;
	struct wbxml_node *root;
	struct wbxml_writer w;
	const char *why = "";

	(void)state;
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	wbxml_writer_init(&w, &doc);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_node(&w, root->first->next->first);
	wbxml_put_end(&w);
	assert_true(wbxml_done(&w));
	assert_outline(buf_bytes(&doc), "Sync(Folder(Id=5,Class=Email))");
	arena_free(&a);
	buf_free(&in);
	buf_free(&doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(examples_are_written_byte_for_byte),
		cmocka_unit_test(examples_are_read_and_written_back),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(the_table_names_what_the_specification_names),
		cmocka_unit_test(documents_are_shown_as_xml),
		cmocka_unit_test(random_trees_survive_the_round_trip),
		cmocka_unit_test(a_subtree_can_be_sent_alone),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("wbxml", tests, NULL, NULL);
}
