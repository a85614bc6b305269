/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/eas/message.h"

enum { ARENA_BYTES = 256 * 1024 * 1024 };

struct fixture {
	struct arena arena;
	struct buf mime;
	struct message *m;
	struct message_summary s;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	arena_init(&f->arena, ARENA_BYTES);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	message_close(&f->m);
	arena_free(&f->arena);
	buf_free(&f->mime);
	free(f);
	return 0;
}

/* Processor time: a busy machine fails no test. */
static uint64_t cpu_ms(void)
{
	return clock_read_ns(CLOCK_THREAD_CPUTIME_ID) / 1000000u;
}

static void clean(struct bytes b)
{
	assert_true(bytes_is_utf8(b));
	assert_true(b.n == 0 || !memchr(b.p, 0, b.n));
}

/* Whatever the message: all that leaves is UTF-8 without NUL, and the codec keeps it. */
static void check_all(struct fixture *f)
{
	struct message_summary *s = &f->s, d;
	struct buf stored = {0};
	struct bytes texts[] = {s->from, s->to, s->cc, s->reply_to, s->subject, s->thread_topic,
		s->display_to, s->message_class, s->content_class, s->preview, s->message_id};
	struct bytes mime;

	assert_false(f->arena.failed);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		clean(texts[i]);
	assert_int_equal(s->conversation_id.n, 16);
	assert_int_equal(s->conversation_index.n % 5, 0);
	clean(message_body(f->m, MESSAGE_TEXT, &f->arena));
	clean(message_body(f->m, MESSAGE_HTML, &f->arena));
	mime = message_body(f->m, MESSAGE_MIME, &f->arena);
	clean(mime);
	assert_int_equal(message_attachment_count(f->m), s->attachment_count);
	for (uint32_t i = 0; i < message_attachment_count(f->m); i++) {
		struct message_attachment at;
		struct buf data = {0};

		assert_true(message_attachment(f->m, i, &f->arena, &at));
		assert_true(at.display_name.n > 0);
		clean(at.display_name);
		clean(at.content_type);
		clean(at.content_id);
		clean(at.content_location);
		assert_true(message_attachment_data(f->m, i, &data));
		/* An estimate, but a good one. */
		assert_true(
			at.estimated_bytes <= data.n * 3 + 64 && data.n <= at.estimated_bytes + 64);
		buf_free(&data);
	}
	message_summary_encode(s, &stored);
	assert_true(message_summary_decode(buf_bytes(&stored), &d));
	assert_true(bytes_eq(d.subject, s->subject) && bytes_eq(d.preview, s->preview));
	assert_true(bytes_eq(d.conversation_index, s->conversation_index));
	assert_int_equal(d.date_s, s->date_s);
	for (size_t n = 0; n < stored.n; n++)
		assert_false(message_summary_decode(bytes_of(stored.p, n), &d));
	buf_free(&stored);
}

static void open_mime(struct fixture *f)
{
	message_close(&f->m);
	arena_reset(&f->arena);
	message_summarize(buf_bytes(&f->mime), &f->arena, &f->s);
	f->m = message_open(buf_bytes(&f->mime));
	assert_non_null(f->m);
}

static void load(struct fixture *f, const char *name)
{
	char path[256];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "tests/data/%s", name);
	file = fopen(path, "rb");
	if (!file)
		fail_msg("%s: run me in the project's folder", path);
	f->mime.n = 0;
	do {
		uint8_t *p = buf_room(&f->mime, 65536);

		assert_non_null(p);
		n = fread(p, 1, 65536, file);
		f->mime.n += n;
	} while (n > 0);
	fclose(file);
	open_mime(f);
	check_all(f);
}

static void parse(struct fixture *f, const char *mime)
{
	f->mime.n = 0;
	buf_add_str(&f->mime, mime);
	open_mime(f);
	check_all(f);
}

static void equal(struct bytes b, const char *want)
{
	if (!bytes_eq_str(b, want))
		fail_msg("\"%.*s\" is not \"%s\"", (int)b.n, b.p ? (const char *)b.p : "", want);
}

static bool has(struct bytes b, const char *what)
{
	return b.n && memmem(b.p, b.n, what, strlen(what)) != NULL;
}

static struct bytes text(struct fixture *f)
{
	return message_body(f->m, MESSAGE_TEXT, &f->arena);
}

static struct bytes html(struct fixture *f)
{
	return message_body(f->m, MESSAGE_HTML, &f->arena);
}

static struct message_attachment attachment(struct fixture *f, uint32_t i)
{
	struct message_attachment at;

	assert_true(message_attachment(f->m, i, &f->arena, &at));
	return at;
}

static void umlauts_in_latin1(void **state)
{
	struct fixture *f = *state;

	load(f, "plain-latin1.eml");
	equal(f->s.from, "\"Anna Müller\" <anna@example.test>");
	equal(f->s.to, "\"Bob \\\"the Builder\\\" Smith\" <bob@example.test>");
	equal(f->s.display_to, "Bob \"the Builder\" Smith");
	equal(f->s.subject, "Grüße aus Köln");
	equal(f->s.thread_topic, "Grüße aus Köln");
	equal(f->s.message_id, "latin1@example.test");
	equal(f->s.message_class, "IPM.Note");
	equal(f->s.content_class, "urn:content-classes:message");
	equal(f->s.preview, "Schöne Grüße aus Köln, Anna");
	equal(text(f), "Schöne Grüße aus Köln,\r\nAnna\r\n");
	assert_true(has(html(f), "Schöne Grüße aus Köln,<br>\r\nAnna<br>\r\n"));
	assert_int_equal(f->s.date_s, 1748851200);
	assert_int_equal(f->s.importance, 1);
	assert_int_equal(f->s.native_body_type, MESSAGE_TEXT);
	assert_int_equal(f->s.text_bytes, text(f).n);
	assert_int_equal(f->s.html_bytes, html(f).n);
	assert_int_equal(f->s.conversation_index.n, 5);
}

static void unlabelled_8bit_is_guessed(void **state)
{
	struct fixture *f = *state;

	load(f, "plain-cp1252-unlabelled.eml");
	equal(f->s.subject, "Angebot für 20 €");
	equal(text(f), "Das kostet 20 € – für „alles“.\r\n");
	load(f, "plain-utf8-unlabelled.eml");
	equal(f->s.from, "\"Jörg\" <joerg@example.test>");
	equal(f->s.subject, "Überraschung – ohne Zeichensatz");
	equal(text(f), "Straße, naïve café, 日本語.\r\n");
	load(f, "charset-lies.eml");
	equal(text(f), "Käse\r\n");
}

static void charsets_of_the_world(void **state)
{
	struct fixture *f = *state;

	load(f, "iso-2022-jp.eml");
	equal(f->s.subject, "日本語");
	equal(text(f), "日本語のメールです。\r\n");
	load(f, "koi8-r.eml");
	equal(f->s.from, "\"Иван\" <ivan@example.test>");
	equal(f->s.subject, "Привет");
	equal(text(f), "Привет, мир!\r\n");
	load(f, "gb2312.eml");
	equal(f->s.from, "li@example.test");
	equal(f->s.subject, "你好");
	equal(text(f), "你好，联通。\r\n");
}

static void utf16_and_utf7_are_read(void **state)
{
	struct fixture *f = *state;

	parse(f, "Content-Type: text/plain; charset=utf-16le\r\n"
		 "Content-Transfer-Encoding: base64\r\n\r\naADkAA==\r\n");
	equal(text(f), "hä");
	parse(f, "Content-Type: text/plain; charset=utf-7\r\n\r\nh+AOQ-\r\n");
	equal(text(f), "hä\r\n");
	/* NUL characters inside do not survive. */
	parse(f, "Content-Type: text/plain; charset=utf-16le\r\n"
		 "Content-Transfer-Encoding: base64\r\n\r\naAAAAOQA\r\n");
	equal(text(f), "hä");
}

static void cut_utf8_stays_utf8(void **state)
{
	struct fixture *f = *state;

	parse(f, "Content-Type: text/plain; charset=utf-8\r\n\r\ngrüße grüße \xc3\xbc\xc3");
	equal(text(f), "grüße grüße ü\xef\xbf\xbd");
}

static void alternative_has_two_forms(void **state)
{
	struct fixture *f = *state;

	load(f, "alternative.eml");
	equal(f->s.subject, "Re: AW: Fwd: [3] Offers");
	equal(f->s.thread_topic, "[3] Offers");
	equal(f->s.reply_to, "\"Support, Team\" <support@example.test>; help@example.test");
	assert_int_equal(f->s.importance, 2);
	assert_int_equal(f->s.native_body_type, MESSAGE_HTML);
	assert_int_equal(f->s.attachment_count, 0);
	assert_int_equal(f->s.conversation_index.n, 15);
	equal(text(f),
		"This paragraph is flowed over lines.\r\n> quoted too\r\n\r\n-- \r\nSignature");
	assert_true(has(html(f), "<p>Grüße</p>"));
	assert_true(has(html(f), "charset=utf-8\""));
}

static void related_and_mixed(void **state)
{
	struct fixture *f = *state;
	struct message_attachment at;
	struct buf data = {0};

	load(f, "related-mixed.eml");
	equal(f->s.to, "bob@example.test, a@example.com, \"B, B\" <b@example.com>");
	equal(f->s.display_to, "bob@example.test; a@example.com; B, B");
	equal(f->s.cc, "\"Cécile\" <cecile@example.com>");
	assert_int_equal(f->s.importance, 0);
	equal(text(f), "Look: [logo]\r\nMailing list footer");
	assert_true(has(html(f), "cid:img1@example.test"));
	assert_true(has(html(f), "Mailing list footer"));
	assert_int_equal(f->s.attachment_count, 3);
	at = attachment(f, 0);
	equal(at.display_name, "logo.png");
	equal(at.content_type, "image/png");
	equal(at.content_id, "img1@example.test");
	assert_true(at.is_inline);
	assert_int_equal(at.method, 1);
	at = attachment(f, 1);
	equal(at.display_name, "Rechnung März.pdf");
	assert_false(at.is_inline);
	assert_true(message_attachment_data(f->m, 1, &data));
	equal(buf_bytes(&data), "Hello World! This is a PDF.");
	buf_free(&data);
	equal(attachment(f, 2).display_name, ".._.._etc_notes.txt");
	assert_false(message_attachment(f->m, 3, &f->arena, &at));
	assert_false(message_attachment_data(f->m, 3, &data));
}

static void forwards_are_embedded_messages(void **state)
{
	struct fixture *f = *state;
	struct message_attachment at;
	struct buf data = {0};
	struct message *inner;

	load(f, "nested-forwards.eml");
	equal(f->s.thread_topic, "third level");
	equal(text(f), "see below");
	assert_int_equal(f->s.attachment_count, 1);
	at = attachment(f, 0);
	assert_int_equal(at.method, 5);
	equal(at.content_type, "message/rfc822");
	equal(at.display_name, "zweite Ebene_ ä_ö.eml");
	assert_true(message_attachment_data(f->m, 0, &data));
	/* Byte for byte what was forwarded, so it opens again. */
	inner = message_open(buf_bytes(&data));
	assert_non_null(inner);
	assert_int_equal(message_attachment_count(inner), 1);
	assert_true(message_attachment(inner, 0, &f->arena, &at));
	equal(at.display_name, "third level.eml");
	message_close(&inner);
	buf_free(&data);
}

static void classes(void **state)
{
	static const struct {
		const char *file, *message_class, *content_class;
		bool smime;
	} cases[] = {
		{"smime-signed.eml", "IPM.Note.SMIME.MultipartSigned",
			"urn:content-classes:message", true},
		{"smime-encrypted.eml", "IPM.Note.SMIME", "urn:content-classes:message", true},
		{"invite.eml", "IPM.Schedule.Meeting.Request",
			"urn:content-classes:calendarmessage", false},
		{"invite-cancel.eml", "IPM.Schedule.Meeting.Canceled",
			"urn:content-classes:calendarmessage", false},
		{"invite-reply.eml", "IPM.Schedule.Meeting.Resp.Neg",
			"urn:content-classes:calendarmessage", false},
		{"bounce.eml", "REPORT.IPM.Note.NDR", "urn:content-classes:dsn", false},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		load(f, cases[i].file);
		equal(f->s.message_class, cases[i].message_class);
		equal(f->s.content_class, cases[i].content_class);
		assert_int_equal(message_is_smime(f->m), cases[i].smime);
	}
	/* The bounce: its text is the body, the rest can be looked at. */
	equal(text(f), "It did not work.");
	assert_int_equal(f->s.attachment_count, 2);
	equal(attachment(f, 1).display_name, "original.eml");
	load(f, "smime-signed.eml");
	equal(text(f), "Signed text");
	load(f, "invite.eml");
	equal(attachment(f, 0).display_name, "invite.ics");
	load(f, "smime-encrypted.eml");
	equal(text(f), "");
	equal(attachment(f, 0).display_name, "smime.p7m");
}

static void reports_by_action(void **state)
{
	static const struct {
		const char *part, *message_class;
	} cases[] = {
		{"message/delivery-status\r\n\r\nAction: delayed\r\n", "REPORT.IPM.Note.DELAYED"},
		{"message/delivery-status\r\n\r\nAction: delivered\r\n", "REPORT.IPM.Note.DR"},
		{"message/disposition-notification\r\n\r\n"
		 "Disposition: manual-action/MDN-sent-manually; displayed\r\n",
			"REPORT.IPM.Note.IPNRN"},
		{"message/disposition-notification\r\n\r\n"
		 "Disposition: manual-action/MDN-sent-manually; deleted\r\n",
			"REPORT.IPM.Note.IPNNRN"},
		{"text/plain\r\n\r\nnothing\r\n", "IPM.Note"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char mime[512];

		snprintf(mime, sizeof(mime),
			"Content-Type: multipart/report; "
			"boundary=r\r\n\r\n--r\r\n\r\ntext\r\n--r\r\n"
			"Content-Type: %s--r--\r\n",
			cases[i].part);
		parse(f, mime);
		equal(f->s.message_class, cases[i].message_class);
	}
}

static void broken_mail_is_readable(void **state)
{
	struct fixture *f = *state;

	load(f, "broken-boundary.eml");
	equal(text(f), "first part");
	assert_int_equal(f->s.attachment_count, 1);
	equal(attachment(f, 0).display_name, "a.zip");
	load(f, "broken-headers.eml");
	assert_true(has(text(f), "body  with NUL"));
	load(f, "broken-no-boundary.eml");
	equal(text(f), "Text of a multipart without boundary\r\n");
	equal(f->s.message_id, "no-brackets@example.test");
	assert_int_equal(f->s.date_s, 0);
	parse(f, "");
	assert_int_equal(text(f).n, 0);
	parse(f, "\r\n\r\n");
	parse(f, "no header at all, only text\r\n");
	equal(text(f), "no header at all, only text\r\n");
}

static void mime_travels_as_text(void **state)
{
	struct fixture *f = *state;
	struct bytes mime;
	struct message *again;
	struct buf data = {0};

	load(f, "eightbit-nul.eml");
	equal(f->s.subject, "café");
	equal(text(f), "café");
	mime = message_body(f->m, MESSAGE_MIME, &f->arena);
	assert_false(bytes_eq(mime, buf_bytes(&f->mime)));
	/* The same message to whoever reads it. */
	again = message_open(mime);
	assert_non_null(again);
	equal(message_body(again, MESSAGE_TEXT, &f->arena), "café");
	assert_int_equal(message_attachment_count(again), 1);
	assert_true(message_attachment_data(again, 0, &data));
	assert_int_equal(data.n, 4);
	assert_memory_equal(data.p, "a\0b\xff", 4);
	buf_free(&data);
	message_close(&again);
	/* What can travel is not touched. */
	load(f, "smime-signed.eml");
	mime = message_body(f->m, MESSAGE_MIME, &f->arena);
	assert_true(bytes_eq(mime, buf_bytes(&f->mime)));
}

static void html_only_gives_text(void **state)
{
	struct fixture *f = *state;

	load(f, "html-only.eml");
	assert_int_equal(f->s.native_body_type, MESSAGE_HTML);
	equal(text(f), "Ihre Bestellung für 5 €\r\n\r\nApfel\t1\r\nBirne\t2\r\n\r\n"
		       "See your order <https://shop.example.com/order/1>.\r\n");
	assert_true(has(html(f), "<meta charset=\"utf-8\">"));
	assert_true(has(html(f), "für 5&nbsp;€"));
	assert_int_equal(f->s.html_bytes, html(f).n);
	assert_int_equal(f->s.text_bytes, text(f).n);
	assert_true(f->s.preview.n > 0 && !has(f->s.preview, "preheader"));
}

static void conversations(void **state)
{
	struct fixture *f = *state;
	uint8_t root[16], index[5];

	parse(f, "Message-ID: <root@example.test>\r\nSubject: x\r\n\r\n");
	memcpy(root, f->s.conversation_id.p, 16);
	parse(f, "Message-ID: <a@example.test>\r\nIn-Reply-To: <root@example.test>\r\n\r\n");
	assert_memory_equal(f->s.conversation_id.p, root, 16);
	assert_int_equal(f->s.conversation_index.n, 10);
	memcpy(index, f->s.conversation_index.p + 5, 5);
	parse(f, "Message-ID: <b@example.test>\r\nIn-Reply-To: <a@example.test>\r\n"
		 "References: <root@example.test>\r\n <a@example.test>\r\n\r\n");
	assert_memory_equal(f->s.conversation_id.p, root, 16);
	assert_int_equal(f->s.conversation_index.n, 15);
	assert_memory_equal(f->s.conversation_index.p + 5, index, 5);
	parse(f, "Message-ID: <c@example.test>\r\nSubject: x\r\n\r\n");
	assert_memory_not_equal(f->s.conversation_id.p, root, 16);
	/* Nothing but a subject. */
	parse(f, "Subject: Re: Lunch\r\n\r\n");
	memcpy(root, f->s.conversation_id.p, 16);
	parse(f, "Subject: lunch\r\n\r\n");
	assert_memory_equal(f->s.conversation_id.p, root, 16);
	/* 2025-06-02T08:00:00Z as FILETIME is 0x01dbd3968ea64000 (bits 55 to 16 are stored). */
	parse(f, "Date: Mon, 2 Jun 2025 08:00:00 +0000\r\n\r\n");
	uint64_t filetime = (1748851200ull + 11644473600ull) * 10000000ull;
	for (int i = 0; i < 5; i++)
		assert_int_equal(f->s.conversation_index.p[i], (filetime >> (48 - 8 * i)) & 0xff);
}

static void topics(void **state)
{
	static const struct {
		const char *subject, *topic;
	} cases[] = {
		{"Re: Hello", "Hello"},
		{"RE: AW: WG: Fwd: FW: Hello", "Hello"},
		{"Re[2]: Hello", "Hello"},
		{"Re (3): Hello", "Hello"},
		{"Reply: Hello", "Reply: Hello"},
		{"Regarding", "Regarding"},
		{"Re:", ""},
		{"", ""},
		{"Antwort: SV: Hello", "Hello"},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char mime[256];

		snprintf(mime, sizeof(mime), "Subject: %s\r\n\r\n", cases[i].subject);
		parse(f, mime);
		equal(f->s.thread_topic, cases[i].topic);
	}
}

static void importance_headers(void **state)
{
	static const struct {
		const char *header;
		int importance;
	} cases[] = {{"Importance: high", 2}, {"Importance: LOW", 0}, {"Importance: normal", 1},
		{"X-Priority: 1 (Highest)", 2}, {"X-Priority: 2", 2}, {"X-Priority: 3", 1},
		{"X-Priority: 4", 0}, {"Priority: urgent", 2}, {"X-MSMail-Priority: High", 2},
		{"X-Other: 1", 1}};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char mime[256];

		snprintf(mime, sizeof(mime), "%s\r\n\r\n", cases[i].header);
		parse(f, mime);
		assert_int_equal(f->s.importance, cases[i].importance);
	}
}

/* A subject cannot smuggle a line into whatever is made of it. */
static void headers_are_one_line(void **state)
{
	struct fixture *f = *state;

	parse(f, "Subject: =?utf-8?Q?a=0D=0ABcc:_evil@example.com=00?=\r\n"
		 "From: =?utf-8?Q?x=0Ay=22?= <a@example.test>\r\n\r\n");
	equal(f->s.subject, "a Bcc: evil@example.com?");
	assert_false(has(f->s.from, "\n"));
	parse(f, "Subject: folded\r\n over\r\n\tlines \r\n\r\n");
	equal(f->s.subject, "folded over lines");
}

static void many_addresses_are_cut_between(void **state)
{
	struct fixture *f = *state;

	f->mime.n = 0;
	buf_add_str(&f->mime, "To: ");
	for (int i = 0; i < 5000; i++)
		buf_printf(&f->mime, "%sUser %d <u%d@example.com>", i ? ",\r\n " : "", i, i);
	buf_add_str(&f->mime, "\r\n\r\nx\r\n");
	open_mime(f);
	check_all(f);
	assert_true(f->s.to.n <= 32768 && f->s.to.n > 32000);
	assert_int_equal(f->s.to.p[f->s.to.n - 1], '>');
}

static void deep_nesting_is_bounded(void **state)
{
	struct fixture *f = *state;
	uint64_t before;

	f->mime.n = 0;
	buf_add_str(&f->mime, "Content-Type: multipart/mixed; boundary=b0\r\n\r\n");
	for (int i = 1; i < 10000; i++)
		buf_printf(&f->mime, "--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n",
			i - 1, i);
	buf_add_str(&f->mime, "--b9999\r\n\r\ndeep\r\n");
	before = cpu_ms();
	open_mime(f);
	check_all(f);
	assert_true(cpu_ms() - before < 5000);
	/* The same with embedded messages: one attachment, never looked into. */
	f->mime.n = 0;
	for (int i = 0; i < 10000; i++)
		buf_add_str(&f->mime, "Content-Type: message/rfc822\r\n\r\n");
	open_mime(f);
	check_all(f);
	assert_int_equal(f->s.attachment_count, 1);
}

static void floods_are_bounded(void **state)
{
	struct fixture *f = *state;
	uint64_t before = cpu_ms();

	/* Parts. */
	f->mime.n = 0;
	buf_add_str(&f->mime, "Content-Type: multipart/mixed; boundary=b\r\n\r\n");
	for (int i = 0; i < 200000; i++)
		buf_add_str(&f->mime, "--b\r\n\r\n");
	open_mime(f);
	check_all(f);
	assert_true(f->s.attachment_count < 1000);
	/* A body that is the boundary at every byte, but never at the start of a line. */
	f->mime.n = 0;
	buf_printf(&f->mime, "Content-Type: multipart/mixed; boundary=%070d\r\n\r\n--x", 0);
	memset(buf_room(&f->mime, 20000000), '0', 20000000);
	f->mime.n += 20000000;
	open_mime(f);
	/* Header lines, of one name and of many. */
	f->mime.n = 0;
	for (int i = 0; i < 300000; i++)
		buf_printf(&f->mime, "To: a%d@example.com\r\nX%d: y\r\n", i, i);
	buf_add_str(&f->mime, "\r\nbody\r\n");
	open_mime(f);
	check_all(f);
	equal(text(f), "body\r\n");
	/* Nested groups, comments and encoded words. */
	f->mime.n = 0;
	buf_add_str(&f->mime, "To: ");
	for (int i = 0; i < 100000; i++)
		buf_add_str(&f->mime, "a:");
	buf_add_str(&f->mime, "\r\nFrom: ");
	for (int i = 0; i < 100000; i++)
		buf_add_str(&f->mime, "(");
	buf_add_str(&f->mime, "\r\nSubject: ");
	for (int i = 0; i < 50000; i++)
		buf_add_str(&f->mime, "=?utf-8?Q?=41?= ");
	buf_add_str(&f->mime, "\r\nContent-Type: text/plain");
	for (int i = 0; i < 50000; i++)
		buf_printf(&f->mime, "; a*%d=b", i);
	buf_add_str(&f->mime, "\r\n\r\nbody\r\n");
	open_mime(f);
	check_all(f);
	assert_true(f->s.subject.n <= 4096);
	assert_true(cpu_ms() - before < 20000);
}

static void big_attachments(void **state)
{
	enum { BYTES = 20 * 1024 * 1024 };
	struct fixture *f = *state;
	struct buf data = {0};
	struct message_attachment at;

	f->mime.n = 0;
	buf_add_str(&f->mime, "Content-Type: multipart/mixed; boundary=big\r\n\r\n--big\r\n\r\n"
			      "text\r\n--big\r\nContent-Type: application/octet-stream\r\n"
			      "Content-Transfer-Encoding: base64\r\n\r\n");
	for (int i = 0; i < BYTES / 57; i++)
		buf_add_str(&f->mime, "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB"
				      "QUFBQUFBQUFBQUFB\r\n");
	buf_add_str(&f->mime, "--big--\r\n");
	open_mime(f);
	equal(text(f), "text");
	at = attachment(f, 0);
	assert_true(message_attachment_data(f->m, 0, &data));
	assert_int_equal(data.n, BYTES / 57 * 57);
	assert_int_equal(at.estimated_bytes, data.n);
	equal(at.display_name, "attachment-1");
	buf_free(&data);
}

/* A text of 60 MB does not become a body of 60 MB. */
static void huge_text_is_cut(void **state)
{
	struct fixture *f = *state;

	f->mime.n = 0;
	buf_add_str(&f->mime, "Subject: huge\r\n\r\n");
	for (int i = 0; i < 60 * 1024; i++) {
		uint8_t *p = buf_room(&f->mime, 1024);

		memset(p, i % 2 ? '<' : 'x', 1022);
		memcpy(p + 1022, "\r\n", 2);
		f->mime.n += 1024;
	}
	open_mime(f);
	assert_true(text(f).n <= 16 * 1024 * 1024);
	assert_true(html(f).n <= 16 * 1024 * 1024);
}

static void cuts(void **state)
{
	struct bytes b = bytes_str("aäö€😀z");

	(void)state;
	equal(message_cut(b, 100), "aäö€😀z");
	equal(message_cut(b, 0), "");
	equal(message_cut(b, 2), "a");
	equal(message_cut(b, 3), "aä");
	equal(message_cut(b, 7), "aäö");
	equal(message_cut(b, 8), "aäö€");
	equal(message_cut(b, 11), "aäö€");
	equal(message_cut_characters(b, 0), "");
	equal(message_cut_characters(b, 4), "aäö€");
	equal(message_cut_characters(b, 5), "aäö€😀");
	equal(message_cut_characters(b, 50), "aäö€😀z");
	assert_int_equal(message_cut((struct bytes){0}, 5).n, 0);
	assert_int_equal(message_cut_characters((struct bytes){0}, 5).n, 0);
}

static void props_round_trip(void **state)
{
	struct fixture *f = *state;
	struct bytes categories[] = {bytes_str("Red"), bytes_str("Größe"), bytes_str("")};
	struct message_props p =
				     {
					     .flag = {.status = 2,
						     .flag_type = bytes_str("Flag for follow up"),
						     .due_date =
							     bytes_str("2025-06-10T00:00:00.000Z"),
						     .sub_ordinal_date = bytes_str("5555555"),
						     .reminder_set = 1},
					     .category_count = 3,
					     .categories = categories,
					     .last_verb = 2,
					     .last_verb_time_s = 1748851200,
				     },
			     d;
	struct buf b = {0};

	message_props_encode(&p, &b);
	assert_true(message_props_decode(buf_bytes(&b), &f->arena, &d));
	assert_int_equal(d.flag.status, 2);
	assert_int_equal(d.flag.reminder_set, 1);
	equal(d.flag.flag_type, "Flag for follow up");
	equal(d.flag.due_date, "2025-06-10T00:00:00.000Z");
	equal(d.flag.sub_ordinal_date, "5555555");
	assert_int_equal(d.category_count, 3);
	equal(d.categories[1], "Größe");
	assert_int_equal(d.last_verb, 2);
	assert_int_equal(d.last_verb_time_s, 1748851200);
	for (size_t n = 1; n < b.n; n++)
		assert_false(message_props_decode(bytes_of(b.p, n), &f->arena, &d));
	buf_add_byte(&b, 0);
	assert_false(message_props_decode(buf_bytes(&b), &f->arena, &d));
	b.n = 0;
	/* Nothing stored: nothing set. */
	assert_true(message_props_decode((struct bytes){0}, &f->arena, &d));
	assert_int_equal(d.flag.status, 0);
	assert_int_equal(d.flag.reminder_set, -1);
	assert_int_equal(d.category_count, 0);
	/* What is not text does not make a record that cannot be read. */
	categories[0] = bytes_of("\xff\x00", 2);
	message_props_encode(&p, &b);
	assert_true(message_props_decode(buf_bytes(&b), &f->arena, &d));
	equal(d.categories[0], "");
	b.n = 0;
	p = (struct message_props){.flag.reminder_set = -1};
	message_props_encode(&p, &b);
	assert_true(b.n > 0);
	buf_free(&b);
}

static void summary_decoder_is_strict(void **state)
{
	struct fixture *f = *state;
	struct message_summary d;
	struct buf b = {0};

	load(f, "alternative.eml");
	message_summary_encode(&f->s, &b);
	buf_add_byte(&b, 0);
	assert_false(message_summary_decode(buf_bytes(&b), &d)); /* something behind it */
	b.n--;
	b.p[0]++;
	assert_false(message_summary_decode(buf_bytes(&b), &d)); /* another version */
	b.p[0]--;
	assert_true(message_summary_decode(buf_bytes(&b), &d));
	buf_free(&b);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(umlauts_in_latin1),
		T(unlabelled_8bit_is_guessed),
		T(charsets_of_the_world),
		T(utf16_and_utf7_are_read),
		T(cut_utf8_stays_utf8),
		T(alternative_has_two_forms),
		T(related_and_mixed),
		T(forwards_are_embedded_messages),
		T(classes),
		T(reports_by_action),
		T(broken_mail_is_readable),
		T(mime_travels_as_text),
		T(html_only_gives_text),
		T(conversations),
		T(topics),
		T(importance_headers),
		T(headers_are_one_line),
		T(many_addresses_are_cut_between),
		T(deep_nesting_is_bounded),
		T(floods_are_bounded),
		T(big_attachments),
		T(huge_text_is_cut),
		T(cuts),
		T(props_round_trip),
		T(summary_decoder_is_strict),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	message_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
