/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/eas/message.h"

static struct arena arena;

/* Processor time: a busy machine fails no test. */
static uint64_t cpu_ms(void)
{
	return clock_read_ns(CLOCK_THREAD_CPUTIME_ID) / 1000000u;
}

static int setup(void **state)
{
	(void)state;
	arena_init(&arena, 64 * 1024 * 1024);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	arena_free(&arena);
	return 0;
}

static void becomes(const char *html, const char *want)
{
	struct bytes b = html_to_text(bytes_str(html), &arena);

	if (!bytes_eq_str(b, want))
		fail_msg("%s\n gave \"%.*s\"\n not \"%s\"", html, (int)b.n,
			b.p ? (const char *)b.p : "", want);
}

static void paragraphs_and_lines(void **state)
{
	(void)state;
	becomes("", "");
	becomes("<p></p>  <div> </div>", "");
	becomes("plain", "plain\r\n");
	becomes("<p>one<p>two", "one\r\n\r\ntwo\r\n");
	becomes("a<br>b<br/><br>c", "a\r\nb\r\n\r\nc\r\n");
	becomes("<div>a</div><div>b</div>", "a\r\nb\r\n");
	becomes("<h1>T</h1>text<hr>more",
		"T\r\n\r\ntext\r\n----------------------------------------\r\nmore\r\n");
	becomes("  many \n\t  blanks&nbsp;&nbsp;here ", "many blanks here\r\n");
	becomes("<b>a</b> <i>b</i>c", "a bc\r\n");
}

static void entities_and_characters(void **state)
{
	(void)state;
	becomes("&lt;x&gt; &amp; &uuml;&#8364;&#x1F600;", "<x> & ü€😀\r\n");
	becomes("so\xc2\xad"
		"ft\xe2\x80\x8b",
		"soft\r\n");
	becomes("bad \xff byte", "bad \xef\xbf\xbd byte\r\n");
}

static void lists(void **state)
{
	(void)state;
	becomes("<ul><li>a<li>b</ul>", "* a\r\n* b\r\n");
	becomes("x<ol><li><p>a</p><li>b<ul><li>c</ul></ol>y",
		"x\r\n\r\n1. a\r\n\r\n2. b\r\n  * c\r\n\r\ny\r\n");
}

static void links_and_images(void **state)
{
	(void)state;
	becomes("<a href='https://example.com/a?b=1&amp;c'>here</a>.",
		"here <https://example.com/a?b=1&c>.\r\n");
	becomes("<a href='https://example.com/'>https://example.com/</a>",
		"https://example.com/\r\n");
	becomes("<a href='http://example.com'>example.com</a>", "example.com\r\n");
	becomes("<a href='mailto:a@example.test'>a@example.test</a>", "a@example.test\r\n");
	becomes("<a href='javascript:x()'>x</a>", "x\r\n");
	becomes("<a href='https://example.com/'></a>", "");
	becomes("<img src=x alt=' logo '>", "[logo]\r\n");
	becomes("<img src=x>", "");
}

static void tables(void **state)
{
	(void)state;
	becomes("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a\tb\r\n1\t2\r\n");
	becomes("<table><tr><td></td><td>x</td></tr></table>", "x\r\n");
}

static void quotations(void **state)
{
	(void)state;
	becomes("a<blockquote>b<p>c</p><blockquote>d</blockquote></blockquote>e",
		"a\r\n\r\n> b\r\n>\r\n> c\r\n>\r\n>> d\r\n\r\ne\r\n");
}

static void preformatted(void **state)
{
	(void)state;
	becomes("<pre>a  b\n  c</pre>", "a  b\r\n  c\r\n");
}

static void what_is_not_text_is_left_out(void **state)
{
	(void)state;
	becomes("<head><title>t</title><style>s</style></head>a<script>b()</script><!-- c -->d",
		"ad\r\n");
	becomes("<p style='DISPLAY : none;'>x</p><p style='display:block'>y</p><p hidden>z</p>",
		"y\r\n");
}

/* To the administrator: no mail makes the server spend minutes or gigabytes. */
static void hostile_documents_are_bounded(void **state)
{
	static const struct {
		const char *open, *text;
		size_t times;
	} cases[] = {
		{"<div>", "x", 400000},
		{"<b><p>", "x", 400000},
		{"<b id=x><i><p>", "x", 200000},
		{"<svg><p>", "x", 200000},
		{"<table><td>", "x", 200000},
		{"<a a b c d", "x", 200000},
		{" a=1", "x", 500000},
		{"<blockquote>q<br>", "x", 100000},
		{"<ul><li>q", "x", 100000},
		{"</p>", "x", 500000},
		{"<!--", "x", 500000},
		{"&", "x", 500000},
		{"<select><option>", "x", 200000},
		{"<template>", "x", 200000},
		{"<a><table>", "x", 200000},
		{"<font color=", "x", 200000},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct buf b = {0};
		uint64_t before;
		struct bytes out;

		buf_add_str(&b, i == 6 ? "<a" : "");
		for (size_t k = 0; k < cases[i].times; k++)
			buf_add_str(&b, cases[i].open);
		buf_add_str(&b, cases[i].text);
		before = cpu_ms();
		out = html_to_text(buf_bytes(&b), &arena);
		assert_true(bytes_is_utf8(out));
		if (cpu_ms() - before > 15000)
			fail_msg("%s: %d ms", cases[i].open, (int)(cpu_ms() - before));
		buf_free(&b);
		arena_reset(&arena);
	}
}

/* When the tree is given up, the words are still there. */
static void stripped_text_is_readable(void **state)
{
	struct buf b = {0};
	struct bytes out;

	(void)state;
	buf_add_str(&b, "<style>no</style><p>Fish &amp; chips &#8364;5</p><!-- no -->"
			"<script>no</script>1 < 2 &unknown; &#xD800;<br>end");
	for (int i = 0; i < 600000; i++)
		buf_add_str(&b, "<b id=");
	for (int i = 0; i < 300000; i++)
		buf_add_str(&b, "<b>");
	out = html_to_text(buf_bytes(&b), &arena);
	assert_true(out.n > 40);
	assert_memory_equal(out.p, "Fish & chips €5", 17);
	assert_null(memmem(out.p, out.n, "no", 2) == out.p ? out.p : NULL);
	buf_free(&b);
}

static void input_is_capped(void **state)
{
	struct buf b = {0};
	struct bytes out;

	(void)state;
	for (int i = 0; i < 1200000; i++)
		buf_add_str(&b, "text\xc3\xbc");
	out = html_to_text(buf_bytes(&b), &arena);
	assert_true(out.n > 0 && out.n <= 4 * 1024 * 1024 + 2);
	assert_true(bytes_is_utf8(out));
	buf_free(&b);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(paragraphs_and_lines),
		T(entities_and_characters),
		T(lists),
		T(links_and_images),
		T(tables),
		T(quotations),
		T(preformatted),
		T(what_is_not_text_is_left_out),
		T(hostile_documents_are_bounded),
		T(stripped_text_is_readable),
		T(input_is_capped),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
