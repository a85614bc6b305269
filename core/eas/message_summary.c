/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/message_priv.h"

#include <sodium.h>
#include <stdlib.h>
#include <strings.h>

enum {
	ADDRESSES_BYTES_MAX = 32768, /* MS-ASEMAIL: To and From */
	SUBJECT_BYTES_MAX = 4096,
	ID_BYTES_MAX = 998,
	REFERENCES_MAX = 50,
	PREVIEW_CHARACTERS = 512,
	HEADER_REPEAT_MAX = 20, /* To and Cc lines that are joined */
	COLONS_MAX = 200,       /* in an address list */
};

static struct bytes keep(struct arena *a, struct buf *b)
{
	struct bytes r = {0};

	if (b->failed)
		a->failed = true;
	else
		r = arena_dup(a, buf_bytes(b));
	buf_free(b);
	return r;
}

/* -- addresses -- */

static void add_clean(const char *text, struct buf *out)
{
	struct buf clean = {0};

	text_clean(bytes_str(text), &clean);
	text_one_line(buf_bytes(&clean), out);
	out->failed |= clean.failed;
	buf_free(&clean);
}

enum address_form { ADDRESS_FULL, ADDRESS_DISPLAY };

static void add_mailbox(InternetAddress *ia, enum address_form form, struct buf *out)
{
	struct buf name = {0}, addr = {0};
	const char *n = internet_address_get_name(ia);
	const char *a = internet_address_mailbox_get_addr(INTERNET_ADDRESS_MAILBOX(ia));

	if (n)
		add_clean(n, &name);
	if (a)
		add_clean(a, &addr);
	if (form == ADDRESS_DISPLAY) {
		const struct buf *show = name.n ? &name : &addr;

		/* The separator must not be inside. */
		for (size_t i = 0; i < show->n; i++)
			buf_add_byte(out, show->p[i] == ';' ? ',' : show->p[i]);
	} else if (name.n) {
		buf_add_byte(out, '"');
		for (size_t i = 0; i < name.n; i++) {
			if (name.p[i] == '"' || name.p[i] == '\\')
				buf_add_byte(out, '\\');
			buf_add_byte(out, name.p[i]);
		}
		buf_add_str(out, "\" <");
		buf_add(out, addr.p, addr.n);
		buf_add_byte(out, '>');
	} else {
		buf_add(out, addr.p, addr.n);
	}
	out->failed |= name.failed || addr.failed;
	buf_free(&name);
	buf_free(&addr);
}

/* False: no more room. Groups become their members. */
static bool add_list(InternetAddressList *list, enum address_form form, const char *separator,
	size_t max, struct buf *out)
{
	int n = internet_address_list_length(list);

	for (int i = 0; i < n; i++) {
		InternetAddress *ia = internet_address_list_get_address(list, i);
		struct buf one = {0};

		if (INTERNET_ADDRESS_IS_GROUP(ia)) {
			InternetAddressList *members =
				internet_address_group_get_members(INTERNET_ADDRESS_GROUP(ia));

			/* As deep as limit_groups allows. */
			if (members && !add_list(members, form, separator, max, out))
				return false;
			continue;
		}
		if (!INTERNET_ADDRESS_IS_MAILBOX(ia))
			continue;
		add_mailbox(ia, form, &one);
		/* Cut between addresses: half of one would go astray. */
		if (out->n + one.n + 2 > max) {
			buf_free(&one);
			return false;
		}
		if (one.n && out->n)
			buf_add_str(out, separator);
		buf_add(out, one.p, one.n);
		out->failed |= one.failed;
		buf_free(&one);
	}
	return true;
}

/* GMime recurses for a group inside a group, "a:b:c:...", as deep as the sender likes. Real lists
 * have a group or two; a colon in a quoted name is harmless, but becomes a blank beyond the limit
 * too. */
static void limit_groups(struct buf *list)
{
	unsigned colons = 0;

	for (size_t i = 0; i < list->n; i++)
		if (list->p[i] == ':' && ++colons > COLONS_MAX)
			list->p[i] = ' ';
}

static void addresses(const struct mime_part *p, const char *header, enum address_form form,
	const char *separator, struct buf *out)
{
	struct buf raw = {0}, utf8 = {0};
	InternetAddressList *list;

	for (unsigned nth = 0; nth < HEADER_REPEAT_MAX && raw.n < MIME_HEADER_VALUE_MAX; nth++) {
		if (nth)
			buf_add_str(&raw, ", ");
		if (!mime_header(p, header, nth, &raw))
			break;
	}
	limit_groups(&raw);
	text_to_utf8(buf_bytes(&raw), NULL, &utf8);
	buf_add_byte(&utf8, 0);
	list = utf8.failed ? NULL
			   : internet_address_list_parse(mime_options(), (const char *)utf8.p);
	if (list) {
		add_list(list, form, separator, ADDRESSES_BYTES_MAX, out);
		g_object_unref(list);
	}
	out->failed |= raw.failed || utf8.failed;
	buf_free(&raw);
	buf_free(&utf8);
}

/* -- subject and thread -- */

/* Reply and forward marks of the languages that mail programs put there. */
static const char *const prefixes[] = {"re", "fwd", "fw", "aw", "wg", "antw", "antwort", "sv", "vs",
	"vb", "vl", "tr", "rv", "rif", "ref", "res", "enc", "odp", "pd", "ynt", "ilt", "doorst"};

static struct bytes skip_blanks(struct bytes s)
{
	while (s.n && s.p[0] == ' ')
		s.p++, s.n--;
	return s;
}

/* Length of one prefix with its colon, "Re:", "RE[2]:", "AW (3) :"; 0: none. */
static size_t prefix_bytes(struct bytes s)
{
	for (size_t i = 0; i < G_N_ELEMENTS(prefixes); i++) {
		size_t n = strlen(prefixes[i]), k = n;

		if (s.n <= n || strncasecmp((const char *)s.p, prefixes[i], n) != 0)
			continue;
		while (k < s.n && k < n + 8 && (s.p[k] == ' ' || strchr("[]()^0123456789", s.p[k])))
			k++;
		if (k < s.n && s.p[k] == ':')
			return k + 1;
		/* A full-width colon. */
		if (s.n - k >= 3 && memcmp(s.p + k, "\xef\xbc\x9a", 3) == 0)
			return k + 3;
	}
	return 0;
}

static struct bytes topic_of(struct bytes subject)
{
	size_t n;

	while ((n = prefix_bytes(subject = skip_blanks(subject))) > 0) {
		subject.p += n;
		subject.n -= n;
	}
	return subject;
}

/* Next "<id>" of a References or Message-ID value, without the brackets. */
static bool id_next(struct bytes *in, struct bytes *id)
{
	while (in->n) {
		const uint8_t *open = memchr(in->p, '<', in->n), *close;

		if (!open)
			break;
		in->n -= (size_t)(open + 1 - in->p);
		in->p = open + 1;
		close = memchr(in->p, '>', in->n);
		if (!close)
			break;
		*id = bytes_of(in->p, (size_t)(close - in->p));
		in->n -= id->n + 1;
		in->p = close + 1;
		if (id->n && id->n <= ID_BYTES_MAX)
			return true;
	}
	in->n = 0;
	return false;
}

/* First id in the header; a value without brackets is taken whole when it is one word. */
static void header_id(const struct mime_part *p, const char *header, struct buf *out)
{
	struct buf raw = {0};
	struct bytes in, id;

	if (mime_header(p, header, 0, &raw)) {
		in = buf_bytes(&raw);
		if (id_next(&in, &id))
			mime_decode_words(id, out);
		else if (raw.n <= ID_BYTES_MAX && (!raw.n || !memchr(raw.p, ' ', raw.n)))
			mime_decode_words(buf_bytes(&raw), out);
	}
	out->failed |= raw.failed;
	buf_free(&raw);
}

static void hash16(char kind, struct bytes text, uint8_t out[16])
{
	crypto_generichash_state st;

	crypto_generichash_init(&st, NULL, 0, 16);
	crypto_generichash_update(&st, (const uint8_t *)&kind, 1);
	if (text.n)
		crypto_generichash_update(&st, text.p, text.n);
	crypto_generichash_final(&st, out, 16);
}

/* All mails of a thread get the same 16 bytes on every device and in every folder, with nothing
 * looked up: from the id that opened the thread, else from the topic. */
static void conversation(const struct mime_part *p, struct message_summary *s, struct arena *a)
{
	struct buf refs = {0}, reply = {0}, index = {0};
	struct bytes in, id, root = {0};
	uint8_t hash[16];
	uint64_t filetime, head;
	unsigned n = 0;

	mime_header(p, "References", 0, &refs);
	mime_header(p, "In-Reply-To", 0, &reply);
	in = buf_bytes(&refs);
	if (!id_next(&in, &root)) {
		in = buf_bytes(&reply);
		if (!id_next(&in, &root))
			root = s->message_id;
	}
	if (root.n) {
		hash16('m', root, hash);
	} else {
		struct buf lower = {0};

		for (size_t i = 0; i < s->thread_topic.n; i++)
			buf_add_byte(&lower, (uint8_t)g_ascii_tolower((char)s->thread_topic.p[i]));
		hash16('t', buf_bytes(&lower), hash);
		a->failed |= lower.failed;
		buf_free(&lower);
	}
	s->conversation_id = arena_dup(a, bytes_of(hash, 16));

	/* The header of PidTagConversationIndex without its constant first byte: the date as
	 * FILETIME, bits 55 to 16. */
	filetime = ((uint64_t)s->date_s + 11644473600u) * 10000000u;
	head = s->date_s ? filetime >> 16 : 0;
	for (int i = 4; i >= 0; i--)
		buf_add_byte(&index, (uint8_t)(head >> (8 * i)));
	/* A level would hold the time since the parent, which only the parent tells. Five bytes
	 * that depend on the parent's id keep answers to one mail together. */
	in = buf_bytes(refs.n ? &refs : &reply);
	while (n < REFERENCES_MAX && id_next(&in, &id)) {
		hash16('r', id, hash);
		hash[0] &= 0x7f;
		buf_add(&index, hash, 5);
		n++;
	}
	s->conversation_index = keep(a, &index);
	a->failed |= refs.failed || reply.failed;
	buf_free(&refs);
	buf_free(&reply);
}

static uint8_t importance(const struct mime_part *p)
{
	struct buf v = {0};
	uint8_t r = 1;

	if (mime_header(p, "Importance", 0, &v) || mime_header(p, "X-MSMail-Priority", 0, &v)) {
		if (bytes_eq_nocase(buf_bytes(&v), "high"))
			r = 2;
		else if (bytes_eq_nocase(buf_bytes(&v), "low"))
			r = 0;
	} else if (mime_header(p, "X-Priority", 0, &v)) {
		if (v.n && (v.p[0] == '1' || v.p[0] == '2'))
			r = 2;
		else if (v.n && (v.p[0] == '4' || v.p[0] == '5'))
			r = 0;
	} else if (mime_header(p, "Priority", 0, &v)) {
		if (bytes_eq_nocase(buf_bytes(&v), "urgent"))
			r = 2;
		else if (bytes_eq_nocase(buf_bytes(&v), "non-urgent"))
			r = 0;
	}
	buf_free(&v);
	return r;
}

static int64_t date_of(const struct mime_part *p)
{
	struct buf v = {0};
	GDateTime *d;
	int64_t s = 0;

	if (mime_header(p, "Date", 0, &v) && v.n < 200) {
		buf_add_byte(&v, 0);
		d = v.failed ? NULL : g_mime_utils_header_decode_date((const char *)v.p);
		if (d) {
			s = g_date_time_to_unix(d);
			g_date_time_unref(d);
		}
	}
	buf_free(&v);
	/* 1970 to 9999: what the dates of the protocol can say. */
	return s > 0 && s < 253402300800 ? s : 0;
}

static struct bytes cut_text(struct arena *a, struct buf *b, size_t max)
{
	b->n = message_cut(buf_bytes(b), max).n;
	return keep(a, b);
}

void message_summarize(struct bytes mime, struct arena *a, struct message_summary *out)
{
	struct message *m = message_open(mime);
	struct message_summary s = {.importance = 1, .native_body_type = MESSAGE_TEXT};
	struct message_kind kind;
	const struct mime_part *root;
	struct buf b = {0}, text = {0};

	if (!m) {
		a->failed = true;
		*out = s;
		return;
	}
	root = &m->parts[0];
	addresses(root, "From", ADDRESS_FULL, ", ", &b);
	if (b.n == 0)
		addresses(root, "Sender", ADDRESS_FULL, ", ", &b);
	s.from = keep(a, &b);
	addresses(root, "To", ADDRESS_FULL, ", ", &b);
	s.to = keep(a, &b);
	addresses(root, "Cc", ADDRESS_FULL, ", ", &b);
	s.cc = keep(a, &b);
	addresses(root, "Reply-To", ADDRESS_FULL, "; ", &b);
	s.reply_to = keep(a, &b);
	addresses(root, "To", ADDRESS_DISPLAY, "; ", &b);
	s.display_to = keep(a, &b);
	mime_header_text(root, "Subject", &b);
	s.subject = cut_text(a, &b, SUBJECT_BYTES_MAX);
	s.thread_topic = topic_of(s.subject);
	header_id(root, "Message-ID", &b);
	s.message_id = cut_text(a, &b, ID_BYTES_MAX);
	s.date_s = date_of(root);
	s.importance = importance(root);
	conversation(root, &s, a);
	kind = message_kind(m);
	s.message_class = bytes_str(kind.message_class);
	s.content_class = bytes_str(kind.content_class);
	s.native_body_type = (uint8_t)message_native_type(m);
	s.attachment_count = (uint16_t)m->attachment_count;

	message_body_buf(m, MESSAGE_TEXT, &text);
	s.text_bytes = (uint32_t)text.n;
	/* One line of it. White space may shrink it, so four times as much is looked at. */
	text_one_line(message_cut_characters(buf_bytes(&text), 4 * PREVIEW_CHARACTERS), &b);
	b.n = message_cut_characters(buf_bytes(&b), PREVIEW_CHARACTERS).n;
	s.preview = keep(a, &b);
	a->failed |= text.failed;
	buf_free(&text);
	message_body_buf(m, MESSAGE_HTML, &text);
	s.html_bytes = (uint32_t)text.n;
	a->failed |= text.failed;
	buf_free(&text);
	message_close(&m);
	*out = s;
}
