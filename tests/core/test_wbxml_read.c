/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Every kind of document that must be refused or survived, and text in all its forms. */
#include "tests/core/wbxml_fixture.h"

/* ---- What must be refused or survived ---------------------------------------------------- */

static void bad_headers_are_refused(void **state)
{
	(void)state;
	assert_refused("", "truncated header");
	assert_refused("03", "truncated header");
	assert_refused("03 01 6A", "truncated header");
	assert_refused("00 01 6A 00 05", "unknown WBXML version");
	assert_refused("04 01 6A 00 05", "unknown WBXML version");
	assert_refused("03 00 00 6A 00 05", "unknown public identifier");
	assert_refused("03 81 01 6A 00 05", "unknown public identifier");
	assert_refused("03 01 04 00 05", "charset is not UTF-8");
	assert_refused("03 01 00 00 05", "charset is not UTF-8");
	assert_refused("03 01 6A 01 00 05", "string table");
	assert_refused("03 01 6A FF FF FF FF 7F 05", "string table");
	assert_refused("03 01 6A 00", "no element");
	assert_refused("03 01 6A 00 00 0D", "no element");
	assert_accepted("01 01 6A 00 05", "Sync");
	assert_accepted("02 01 6A 00 05", "Sync");
	assert_accepted("03 7F 6A 00 05", "Sync");
}

static void truncation_is_refused(void **state)
{
	(void)state;
	assert_refused("03 01 6A 00 45", "ends inside an element");
	assert_refused("03 01 6A 00 45 5C 01", "ends inside an element");
	assert_refused("03 01 6A 00 45 00", "truncated page switch");
	assert_refused("03 01 6A 00 00", "truncated page switch");
	assert_refused("03 01 6A 00 45 03", "string without end");
	assert_refused("03 01 6A 00 45 03 35 01 01", "string without end");
	assert_refused("03 01 6A 00 45 C3", "truncated length");
	assert_refused("03 01 6A 00 45 C3 81", "truncated length");
	assert_refused("03 01 6A 00 45 C3 03 41 41", "opaque data longer than the document");
	assert_refused(
		"03 01 6A 00 45 C3 8F FF FF FF 7F 41 01", "opaque data longer than the document");
}

static void lengths_over_32_bits_are_refused(void **state)
{
	(void)state;
	assert_refused("03 01 6A 00 45 C3 90 80 80 80 00 41 01", "length over 32 bits");
	assert_refused("03 01 6A 00 45 C3 FF FF FF FF 7F 41 01", "length over 32 bits");
	assert_refused("03 01 6A 00 45 C3 80 80 80 80 80 01 41 01", "length over 5 bytes");
	assert_refused("03 01 6A 00 45 C3 8F FF FF FF FF 7F 41 01", "length over 5 bytes");
	/* Padding is allowed by WAP-192 and harmless. */
	assert_accepted("03 01 6A 00 45 C3 80 80 80 80 01 41 01", "Sync#1");
}

static void unbalanced_documents_are_refused(void **state)
{
	(void)state;
	assert_refused("03 01 6A 00 01", "END without an element");
	assert_refused("03 01 6A 00 45 01 01", "bytes after the root element");
	assert_refused("03 01 6A 00 05 01", "bytes after the root element");
	assert_refused("03 01 6A 00 05 05", "bytes after the root element");
	assert_refused("03 01 6A 00 05 00 00", "bytes after the root element");
	assert_refused("03 01 6A 00 05 03 00", "bytes after the root element");
	assert_refused("03 01 6A 00 03 35 00 05", "text outside the root element");
	assert_refused("03 01 6A 00 C3 01 35 05", "text outside the root element");
}

/* ENTITY, LITERAL*, EXT_*, PI, STR_T and attributes: none of them as root, none inside. */
static void tokens_of_other_languages_are_refused(void **state)
{
	(void)state;
	for (unsigned c = 0; c < 256; c++) {
		uint8_t in[] = {3, 1, 106, 0, 0x45, (uint8_t)c, 0x35, 0, 1, 1};
		bool eas = c == 0 || c == 1 || c == 3 || c == 0xc3;
		bool tag = c < 0x80 && (c & 0x3f) >= 5;
		struct wbxml_reader r;
		struct wbxml_event ev;
		int first, second;

		wbxml_reader_init(&r, bytes_of(in, sizeof(in)));
		first = wbxml_next(&r, &ev);
		assert_int_equal(first, WBXML_START);
		second = wbxml_next(&r, &ev);
		if (!eas && !tag) {
			assert_int_equal(second, WBXML_BAD);
			assert_non_null(strstr(r.why, "token EAS does not use"));
		} else if (tag) {
			assert_int_equal(second, WBXML_START);
			assert_int_equal(ev.tag, c & 0x3f);
		}

		in[4] = (uint8_t)c;
		wbxml_reader_init(&r, bytes_of(in, sizeof(in)));
		assert_int_equal(wbxml_next(&r, &ev) == WBXML_START, tag || c == 0);
	}
}

/* Later versions may bring elements we do not know: their neighbours still count. */
static void unknown_elements_keep_the_structure(void **state)
{
	/* Sync(Page30:05(SyncKey "x"), SyncKey "7", Find:1A, 003F(Sync)) */
	struct buf in = from_hex("03 01 6A 00 45 00 1E 45 00 00 4B 03 78 00 01 01 4B 03 37 00 01 "
				 "00 19 1A 00 00 7F 05 01 01");
	struct arena a;
	struct wbxml_node *root;
	const char *why = "";
	struct bytes t;
	uint32_t v;
	bool flag;

	(void)state;
	assert_outline(buf_bytes(&in), "Sync(1E05!(SyncKey!=x),SyncKey=7,191A!,003F!(Sync!))");
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_int_equal(root->child_count, 4);
	t = wbxml_text(root, AIRSYNC_SyncKey);
	assert_true(bytes_eq_str(t, "7"));
	assert_null(wbxml_child(root->first, AIRSYNC_SyncKey));
	assert_null(wbxml_child(wbxml_next_of(root->first, 0x003f), AIRSYNC_Sync));
	assert_false(wbxml_u32(root->first->first, 9, &v));
	assert_false(wbxml_bool(root->first, &flag));
	arena_free(&a);
	buf_free(&in);
}

static void depth_is_capped(void **state)
{
	(void)state;
	for (unsigned depth = 1; depth <= 40; depth++) {
		for (unsigned cap = 0; cap <= 40; cap += 8) {
			struct buf in = from_hex("03 01 6A 00");
			struct wbxml_limits lim = {.depth_max = (uint8_t)cap};
			unsigned want = cap == 0 || cap > 32 ? 32 : cap;
			struct arena a;
			struct wbxml_node *root;
			const char *why = "";
			int k;

			for (unsigned i = 1; i < depth; i++)
				buf_add_byte(&in, 0x45);
			buf_add_byte(&in, 0x05);
			for (unsigned i = 1; i < depth; i++)
				buf_add_byte(&in, 0x01);
			arena_init(&a, ARENA_BYTES);
			k = wbxml_parse(buf_bytes(&in), &a, &lim, &root, &why);
			assert_int_equal(k, depth <= want ? 1 : WBXML_BAD);
			if (depth > want)
				assert_string_equal(why, "elements nested too deep");
			arena_free(&a);
			buf_free(&in);
		}
	}
}

static void elements_are_capped(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45");
	struct wbxml_limits lim = {.elements_max = 1000};
	struct arena a;
	struct wbxml_node *root = NULL;
	const char *why = "";

	(void)state;
	for (unsigned i = 0; i < WBXML_ELEMENTS_MAX - 1; i++)
		buf_add_byte(&in, 0x05);
	buf_add_byte(&in, 0x01);
	arena_init(&a, 48u * WBXML_ELEMENTS_MAX);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_int_equal(root->child_count, WBXML_ELEMENTS_MAX - 1);
	arena_reset(&a);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, &lim, &root, &why), WBXML_BAD);
	assert_string_equal(why, "too many elements");
	in.p[in.n - 1] = 0x05;
	buf_add_byte(&in, 0x01);
	arena_reset(&a);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), WBXML_BAD);
	assert_string_equal(why, "too many elements");
	arena_free(&a);
	buf_free(&in);
}

static void a_full_arena_refuses_the_request(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45 4B 03 31 00 03 32 00 01 01");
	const char *why;
	struct wbxml_node *root;

	(void)state;
	for (size_t limit = 0; limit <= 48 + 48 + 64; limit += 16) {
		struct arena a;
		int k;

		arena_init(&a, limit);
		root = NULL;
		why = "";
		k = wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why);
		assert_int_equal(k, limit == 160 ? 1 : WBXML_BAD);
		assert_int_equal(a.failed, k < 0);
		if (k < 0) {
			assert_null(root);
			assert_string_equal(why, "more content than a request may have");
		}
		arena_free(&a);
	}
	buf_free(&in);
}

/* ---- Text -------------------------------------------------------------------------------- */

static void lengths_are_read_and_written_at_every_edge(void **state)
{
	static const struct {
		uint32_t n;
		const char *hex;
	} edges[] = {{1, "01"}, {127, "7F"}, {128, "81 00"}, {139, "81 0B"}, {16383, "FF 7F"},
		{16384, "81 80 00"}, {2097151, "FF FF 7F"}, {2097152, "81 80 80 00"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
		struct buf doc = {0}, len = from_hex(edges[i].hex);
		uint8_t *data = malloc(edges[i].n);
		struct wbxml_writer w;
		struct wbxml_reader r;
		struct wbxml_event ev;

		memset(data, 0xff, edges[i].n);
		wbxml_writer_init(&w, &doc);
		wbxml_put_opaque(&w, AIRSYNC_Sync, bytes_of(data, edges[i].n));
		assert_true(wbxml_done(&w));
		assert_int_equal(doc.n, 6 + len.n + edges[i].n + 1);
		assert_bytes(bytes_of(doc.p + 6, len.n), buf_bytes(&len));
		wbxml_reader_init(&r, buf_bytes(&doc));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_TEXT);
		assert_true(ev.opaque);
		assert_true(bytes_eq(ev.text, bytes_of(data, edges[i].n)));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		free(data);
		buf_free(&doc);
		buf_free(&len);
	}
}

static void text_in_pieces_is_joined(void **state)
{
	(void)state;
	assert_accepted("03 01 6A 00 45 03 61 62 00 03 63 00 01", "Sync=abc");
	assert_accepted("03 01 6A 00 45 03 61 62 00 C3 01 63 03 64 00 01", "Sync#4");
	assert_accepted("03 01 6A 00 45 03 00 03 61 00 03 00 C3 00 01", "Sync=a");
	assert_accepted("03 01 6A 00 45 03 61 00 0B 03 62 00 01", "Sync=ab(SyncKey)");
	/* A page switch between two pieces changes nothing. */
	assert_accepted("03 01 6A 00 45 03 61 00 00 0D 03 62 00 01", "Sync=ab");
}

/* To memory: a mail sent as a million pieces costs four times its length, not its square. */
static void a_million_pieces_take_linear_memory(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45");
	struct arena a;
	struct wbxml_node *root;
	const char *why = "";

	(void)state;
	for (unsigned i = 0; i < 1000000; i++)
		buf_add(&in, (uint8_t[]){3, (uint8_t)('a' + i % 26), 0}, 3);
	buf_add_byte(&in, 1);
	arena_init(&a, 48 + 4000000);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_int_equal(root->text.n, 1000000);
	for (unsigned i = 0; i < 1000000; i++)
		assert_true(root->text.p[i] == 'a' + i % 26);
	arena_free(&a);
	buf_free(&in);
}

static void one_piece_is_a_view_into_the_request(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45 03 61 62 00 01");
	struct arena a;
	struct wbxml_node *root;
	const char *why = "";

	(void)state;
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_ptr_equal(root->text.p, in.p + 6);
	arena_free(&a);
	buf_free(&in);
}

static void all_empty_forms_are_equal(void **state)
{
	static const char *const forms[] = {"03 01 6A 00 45 14 01", "03 01 6A 00 45 54 01 01",
		"03 01 6A 00 45 54 03 00 01 01", "03 01 6A 00 45 54 C3 00 01 01",
		"03 01 6A 00 45 54 00 00 01 01"};
	struct wbxml_reader r;
	struct wbxml_event ev;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct buf in = from_hex(forms[i]);
		struct arena a;
		struct wbxml_node *root;
		const char *why = "";
		bool flag = false;
		struct bytes t;

		arena_init(&a, ARENA_BYTES);
		assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
		assert_true(wbxml_bool(wbxml_child(root, AIRSYNC_MoreAvailable), &flag));
		assert_true(flag);
		t = wbxml_text(root, AIRSYNC_MoreAvailable);
		assert_int_equal(t.n, 0);
		assert_non_null(t.p);
		assert_false(root->first->opaque);
		arena_free(&a);

		wbxml_reader_init(&r, buf_bytes(&in));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_false(ev.empty);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_int_equal(ev.empty, i < 2);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(ev.tag, AIRSYNC_MoreAvailable);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		buf_free(&in);
	}
}

static void numbers_and_booleans_are_strict(void **state)
{
	static const struct {
		const char *text;
		int number; /* -1: refused */
		int flag;
	} cases[] = {{"0", 0, 0}, {"1", 1, 1}, {"2", 2, -1}, {"100", 100, -1}, {"101", -1, -1},
		{"-1", -1, -1}, {" 1", -1, -1}, {"1 ", -1, -1}, {"0x1", -1, -1}, {"true", -1, -1},
		{"4294967297", -1, -1}, {"18446744073709551617", -1, -1}, {"", -1, 1},
		{"/", -1, -1}};
	uint32_t v = 77;
	bool flag;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct wbxml_node n = {.tag = PING_Status, .text = bytes_str(cases[i].text)};

		v = 77;
		flag = cases[i].flag == 0;
		assert_int_equal(wbxml_u32(&n, 100, &v), cases[i].number >= 0);
		assert_int_equal(v, cases[i].number >= 0 ? cases[i].number : 77);
		assert_int_equal(wbxml_bool(&n, &flag), cases[i].flag >= 0);
		if (cases[i].flag >= 0)
			assert_int_equal(flag, cases[i].flag);
	}
	v = 77;
	assert_false(wbxml_u32(NULL, 100, &v));
	assert_false(wbxml_bool(NULL, &flag));
	assert_int_equal(v, 77);
}

static void lookups_chain_over_what_is_missing(void **state)
{
	struct buf in = from_hex(examples[0].hex);
	struct arena a;
	struct wbxml_node *root;
	const struct wbxml_node *n;
	const char *why = "";
	struct bytes t;
	uint32_t v = 0;
	int folders = 0;

	(void)state;
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_true(wbxml_u32(wbxml_child(root, PING_HeartbeatInterval), 3540, &v));
	assert_int_equal(v, 480);
	assert_false(wbxml_u32(wbxml_child(root, PING_HeartbeatInterval), 479, &v));
	for (n = wbxml_child(wbxml_child(root, PING_Folders), PING_Folder); n;
		n = wbxml_next_of(n, PING_Folder)) {
		t = wbxml_text(n, PING_Class);
		assert_true(bytes_eq_str(t, folders++ ? "Calendar" : "Email"));
		assert_int_equal(n->child_count, 2);
		assert_ptr_equal(n->parent->parent, root);
	}
	assert_int_equal(folders, 2);
	assert_null(wbxml_child(wbxml_child(root, PING_Status), PING_Id));
	assert_null(wbxml_next_of(NULL, PING_Id));
	t = wbxml_text(wbxml_child(root, PING_Status), PING_Id);
	assert_null(t.p);
	assert_int_equal(t.n, 0);
	arena_free(&a);
	buf_free(&in);
}

static void skip_leaves_the_reader_behind_the_element(void **state)
{
	struct buf in = from_hex(examples[0].hex);
	struct wbxml_reader r;
	struct wbxml_event ev;

	(void)state;
	wbxml_reader_init(&r, buf_bytes(&in));
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, PING_HeartbeatInterval);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, PING_Folders);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, PING_Folder);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_skip(&r), 1); /* the rest of Folders */
	assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
	assert_int_equal(ev.tag, PING_Ping);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
	buf_free(&in);

	/* An element in short form is over at once. */
	in = from_hex("03 01 6A 00 45 14 0B 01");
	wbxml_reader_init(&r, buf_bytes(&in));
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, AIRSYNC_SyncKey);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
	buf_free(&in);

	in = from_hex("03 01 6A 00 45 5C");
	wbxml_reader_init(&r, buf_bytes(&in));
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_skip(&r), WBXML_BAD);
	assert_string_equal(r.why, "ends inside an element");
	buf_free(&in);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_headers_are_refused),
		cmocka_unit_test(truncation_is_refused),
		cmocka_unit_test(lengths_over_32_bits_are_refused),
		cmocka_unit_test(unbalanced_documents_are_refused),
		cmocka_unit_test(tokens_of_other_languages_are_refused),
		cmocka_unit_test(unknown_elements_keep_the_structure),
		cmocka_unit_test(depth_is_capped),
		cmocka_unit_test(elements_are_capped),
		cmocka_unit_test(a_full_arena_refuses_the_request),
		cmocka_unit_test(lengths_are_read_and_written_at_every_edge),
		cmocka_unit_test(text_in_pieces_is_joined),
		cmocka_unit_test(a_million_pieces_take_linear_memory),
		cmocka_unit_test(one_piece_is_a_view_into_the_request),
		cmocka_unit_test(all_empty_forms_are_equal),
		cmocka_unit_test(numbers_and_booleans_are_strict),
		cmocka_unit_test(lookups_chain_over_what_is_missing),
		cmocka_unit_test(skip_leaves_the_reader_behind_the_element),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("wbxml_read", tests, NULL, NULL);
}
