/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Stored forms of the summary and the props: a version byte, the numbers, then each text with a
 * length in front (base 128, low groups first, no needless bytes). Decoders take exactly what
 * encoders make. */
#include "core/eas/message.h"

#include "core/base/check.h"

#include <stdlib.h>

enum { SUMMARY_VERSION = 1, PROPS_VERSION = 1, TEXT_BYTES_MAX = 64 * 1024 };

static void put_number(struct buf *out, uint64_t v)
{
	while (v >= 0x80) {
		buf_add_byte(out, (uint8_t)(v | 0x80));
		v >>= 7;
	}
	buf_add_byte(out, (uint8_t)v);
}

/* The decoder refuses what is too long or no text, so that is not stored in the first place: a
 * phone's odd category must not make a record unreadable. */
static void put_text(struct buf *out, struct bytes b)
{
	if (!bytes_is_utf8(b) || (b.n && memchr(b.p, 0, b.n)))
		b.n = 0;
	b = message_cut(b, TEXT_BYTES_MAX);
	put_number(out, b.n);
	buf_add(out, b.p, b.n);
}

/* Reads on; the first failure sticks. */
struct reader {
	struct bytes in;
	bool bad;
};

static uint8_t get_byte(struct reader *r, uint8_t max)
{
	uint8_t v;

	if (r->bad || r->in.n == 0) {
		r->bad = true;
		return 0;
	}
	v = r->in.p[0];
	r->in.p++;
	r->in.n--;
	if (v > max) {
		r->bad = true;
		return 0;
	}
	return v;
}

static uint64_t get_number(struct reader *r, uint64_t max)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t b = get_byte(r, 0xff);

		if (r->bad || (shift == 63 && b > 1) || (shift && b == 0))
			break;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			if (v > max)
				break;
			return v;
		}
	}
	r->bad = true;
	return 0;
}

static struct bytes get_bytes(struct reader *r)
{
	size_t n = get_number(r, TEXT_BYTES_MAX);
	struct bytes b;

	if (r->bad || n > r->in.n) {
		r->bad = true;
		return (struct bytes){0};
	}
	b = bytes_of(r->in.p, n);
	r->in.p += n;
	r->in.n -= n;
	return b;
}

static struct bytes get_text(struct reader *r)
{
	struct bytes b = get_bytes(r);

	if (!r->bad && (!bytes_is_utf8(b) || (b.n && memchr(b.p, 0, b.n))))
		r->bad = true;
	return b;
}

/* The texts of a summary, in stored order. A new one goes to the end, with a new version. */
#define SUMMARY_TEXTS(X)                                                                           \
	X(from)                                                                                    \
	X(to)                                                                                      \
	X(cc)                                                                                      \
	X(reply_to)                                                                                \
	X(subject)                                                                                 \
	X(thread_topic)                                                                            \
	X(display_to)                                                                              \
	X(message_class)                                                                           \
	X(content_class)                                                                           \
	X(preview)                                                                                 \
	X(message_id)

void message_summary_encode(const struct message_summary *s, struct buf *out)
{
	CHECK(s->importance <= 2 && s->native_body_type >= 1 && s->native_body_type <= 2);
	CHECK(s->conversation_id.n == 0 || s->conversation_id.n == 16);
	buf_add_byte(out, SUMMARY_VERSION);
	put_number(out, (uint64_t)s->date_s);
	buf_add_byte(out, s->importance);
	buf_add_byte(out, s->native_body_type);
	put_number(out, s->text_bytes);
	put_number(out, s->html_bytes);
	put_number(out, s->attachment_count);
#define X(field) put_text(out, s->field);
	SUMMARY_TEXTS(X)
#undef X
	put_number(out, s->conversation_id.n);
	buf_add(out, s->conversation_id.p, s->conversation_id.n);
	put_number(out, s->conversation_index.n);
	buf_add(out, s->conversation_index.p, s->conversation_index.n);
}

bool message_summary_decode(struct bytes in, struct message_summary *out)
{
	struct reader r = {.in = in};
	struct message_summary s = {0};

	if (get_byte(&r, 0xff) != SUMMARY_VERSION)
		return false;
	s.date_s = (int64_t)get_number(&r, UINT64_MAX);
	s.importance = get_byte(&r, 2);
	s.native_body_type = get_byte(&r, 2);
	s.text_bytes = (uint32_t)get_number(&r, UINT32_MAX);
	s.html_bytes = (uint32_t)get_number(&r, UINT32_MAX);
	s.attachment_count = (uint16_t)get_number(&r, UINT16_MAX);
#define X(field) s.field = get_text(&r);
	SUMMARY_TEXTS(X)
#undef X
	s.conversation_id = get_bytes(&r);
	s.conversation_index = get_bytes(&r);
	if (r.bad || r.in.n || s.native_body_type == 0 ||
		(s.conversation_id.n != 0 && s.conversation_id.n != 16))
		return false;
	*out = s;
	return true;
}

#define FLAG_TEXTS(X)                                                                              \
	X(flag_type)                                                                               \
	X(subject)                                                                                 \
	X(date_completed)                                                                          \
	X(complete_time)                                                                           \
	X(start_date)                                                                              \
	X(due_date)                                                                                \
	X(utc_start_date)                                                                          \
	X(utc_due_date)                                                                            \
	X(reminder_time)                                                                           \
	X(ordinal_date)                                                                            \
	X(sub_ordinal_date)

/* Never empty, not even for defaults: empty props mean "keep" to item_set_state. */
void message_props_encode(const struct message_props *p, struct buf *out)
{
	CHECK(p->flag.status <= 2 && p->flag.reminder_set >= -1 && p->flag.reminder_set <= 1);
	CHECK(p->category_count <= MESSAGE_CATEGORIES_MAX);
	buf_add_byte(out, PROPS_VERSION);
	buf_add_byte(out, p->flag.status);
	buf_add_byte(out, (uint8_t)(p->flag.reminder_set + 1));
#define X(field) put_text(out, p->flag.field);
	FLAG_TEXTS(X)
#undef X
	buf_add_byte(out, p->last_verb);
	put_number(out, (uint64_t)p->last_verb_time_s);
	put_number(out, p->category_count);
	for (uint32_t i = 0; i < p->category_count; i++)
		put_text(out, p->categories[i]);
}

bool message_props_decode(struct bytes in, struct arena *a, struct message_props *out)
{
	struct reader r;
	struct message_props p = {.flag.reminder_set = -1};

	if (in.n == 0) {
		*out = p;
		return true;
	}
	/* Texts stay views, of a copy: the record dies with its transaction. */
	r = (struct reader){.in = arena_dup(a, in)};
	if (!r.in.p || get_byte(&r, 0xff) != PROPS_VERSION)
		return false;
	p.flag.status = get_byte(&r, 2);
	p.flag.reminder_set = (int8_t)(get_byte(&r, 2) - 1);
#define X(field) p.flag.field = get_text(&r);
	FLAG_TEXTS(X)
#undef X
	p.last_verb = get_byte(&r, 0xff);
	p.last_verb_time_s = (int64_t)get_number(&r, UINT64_MAX);
	p.category_count = (uint32_t)get_number(&r, MESSAGE_CATEGORIES_MAX);
	if (r.bad)
		return false;
	p.categories = arena_alloc(a, (p.category_count + 1) * sizeof(*p.categories));
	if (!p.categories)
		return false;
	for (uint32_t i = 0; i < p.category_count; i++)
		p.categories[i] = get_text(&r);
	if (r.bad || r.in.n)
		return false;
	*out = p;
	return true;
}
