/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bytes as a message: all text that leaves is UTF-8 without NUL, the summary survives its
 * codec, and what is re-encoded to travel reads the same. */
#include <stdlib.h>

#include "core/eas/message.h"

static void text(struct bytes b)
{
	if (!bytes_is_utf8(b) || (b.n && memchr(b.p, 0, b.n)))
		abort();
}

static void same(struct bytes a, struct bytes b)
{
	if (!bytes_eq(a, b))
		abort();
}

static void codec(const struct message_summary *s)
{
	struct message_summary d;
	struct buf stored = {0}, again = {0};

	message_summary_encode(s, &stored);
	if (!message_summary_decode(buf_bytes(&stored), &d))
		abort();
	message_summary_encode(&d, &again);
	same(buf_bytes(&stored), buf_bytes(&again));
	same(s->from, d.from);
	same(s->subject, d.subject);
	same(s->preview, d.preview);
	same(s->conversation_id, d.conversation_id);
	buf_free(&stored);
	buf_free(&again);
}

static void attachments(struct message *m, struct arena *a)
{
	for (uint32_t i = 0; i < message_attachment_count(m); i++) {
		struct message_attachment at;
		struct buf data = {0};

		if (!message_attachment(m, i, a, &at))
			abort();
		text(at.display_name);
		text(at.content_type);
		text(at.content_id);
		text(at.content_location);
		if (at.display_name.n == 0 || (at.method != 1 && at.method != 5))
			abort();
		if (!message_attachment_data(m, i, &data))
			abort();
		buf_free(&data);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct arena a;
	struct message_summary s;
	struct message *m;
	struct bytes mime, body;

	message_init();
	arena_init(&a, 512 * 1024 * 1024);
	message_summarize(bytes_of(p, n), &a, &s);
	if (a.failed || s.conversation_id.n != 16 || s.conversation_index.n % 5)
		abort();
	text(s.from);
	text(s.to);
	text(s.cc);
	text(s.reply_to);
	text(s.subject);
	text(s.thread_topic);
	text(s.display_to);
	text(s.message_class);
	text(s.content_class);
	text(s.preview);
	text(s.message_id);
	codec(&s);
	m = message_open(bytes_of(p, n));
	if (!m || message_attachment_count(m) != s.attachment_count ||
		message_native_type(m) != (enum message_body_type)s.native_body_type)
		abort();
	(void)message_is_smime(m);
	body = message_body(m, MESSAGE_TEXT, &a);
	text(body);
	if (body.n != s.text_bytes)
		abort();
	text(message_cut(body, n / 3));
	text(message_cut_characters(body, n / 3));
	body = message_body(m, MESSAGE_HTML, &a);
	text(body);
	if (body.n != s.html_bytes)
		abort();
	mime = message_body(m, MESSAGE_MIME, &a);
	text(mime);
	attachments(m, &a);
	message_close(&m);
	text(html_to_text(bytes_of(p, n), &a));
	if (a.failed)
		abort();
	arena_free(&a);
	return 0;
}
