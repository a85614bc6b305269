/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/body.c - which body a phone gets, and how much of it (MS-ASAIRS 2.2.2.3).
 */
#include "core/eas/class_email.h"

/* MIMETruncation in bytes; the last is no limit. */
static const uint32_t mime_limits[] = {0, 4096, 5120, 7168, 10240, 20480, 51200, 102400};

struct choice {
	uint8_t type;
	const struct sync_preference *preference;
};

static const struct sync_preference *preference_of(const struct sync_options *o, uint8_t type)
{
	for (size_t i = 0; i < o->preference_count; i++)
		if (o->preferences[i].type == type)
			return &o->preferences[i];
	return NULL;
}

/* Candidates, best first: MIME where it is asked for and allowed, then the native type, then the
 * other of text and HTML. Always at least one. */
static size_t choose(
	const struct body_source *src, const struct sync_options *o, struct choice v[4])
{
	uint8_t native = (uint8_t)message_native_type(src->message);
	uint8_t order[3] = {
		MESSAGE_MIME, native, native == MESSAGE_HTML ? MESSAGE_TEXT : MESSAGE_HTML};
	bool mime =
		o->mime_support == 2 || (o->mime_support == 1 && message_is_smime(src->message));
	size_t n = 0;

	for (size_t i = mime ? 0 : 1; i < ARRAY_LEN(order); i++) {
		const struct sync_preference *p = preference_of(o, order[i]);

		if (p)
			v[n++] = (struct choice){order[i], p};
	}
	/* Only RTF, or MIME without leave: text is what every phone can show. */
	if (n == 0)
		v[n++] = (struct choice){MESSAGE_TEXT, &o->preferences[0]};
	return n;
}

static uint64_t limit_of(const struct choice *ch, const struct email_view *view)
{
	uint64_t limit = UINT64_MAX;

	if (view->whole)
		return limit;
	if (ch->preference->has_truncation)
		limit = ch->preference->truncation_bytes;
	if (ch->type == MESSAGE_MIME && view->options->mime_truncation < ARRAY_LEN(mime_limits) &&
		mime_limits[view->options->mime_truncation] < limit)
		limit = mime_limits[view->options->mime_truncation];
	return limit;
}

uint64_t email_body_bytes_max(const struct sync_options *o)
{
	uint64_t max = 0;

	for (size_t i = 0; i < o->preference_count; i++) {
		const struct sync_preference *p = &o->preferences[i];
		uint64_t n = p->has_truncation ? p->truncation_bytes : UINT64_MAX;

		if (p->type == MESSAGE_MIME && o->mime_support == 0)
			continue;
		max = n > max ? n : max;
	}
	return max;
}

static void put_preview(struct wbxml_writer *w, const struct body_source *src,
	const struct email_view *view, const struct sync_preference *p)
{
	if (view->version >= 140 && p->preview > 0 && src->summary->preview.n > 0)
		wbxml_put_bytes_text(w, AIRSYNCBASE_Preview,
			message_cut_characters(src->summary->preview, p->preview));
}

/* The element for a body that is not sent. */
static void put_absent(struct wbxml_writer *w, const struct body_source *src,
	const struct email_view *view, uint8_t type, uint64_t size, const struct sync_preference *p)
{
	wbxml_put_start(w, AIRSYNCBASE_Body);
	wbxml_put_u64(w, AIRSYNCBASE_Type, type);
	wbxml_put_u64(w, AIRSYNCBASE_EstimatedDataSize, size);
	wbxml_put_text(w, AIRSYNCBASE_Truncated, "1");
	if (p)
		put_preview(w, src, view, p);
	wbxml_put_end(w);
}

static void put_data(struct wbxml_writer *w, const struct email_view *view, struct bytes text)
{
	struct buf copy = {0};
	uint32_t part;

	if (!view->parts) {
		wbxml_put_bytes_text(w, AIRSYNCBASE_Data, text);
		return;
	}
	buf_add(&copy, text.p, text.n);
	part = eas_parts_add(view->parts, &copy);
	if (part)
		wbxml_put_u64(w, ITEMOPERATIONS_Part, part);
}

void body_put(struct wbxml_writer *w, const struct body_source *src, const struct email_view *view)
{
	const struct sync_options *o = view->options;
	const struct message_summary *s = src->summary;
	struct choice choices[4];
	uint64_t first_size = 0;
	size_t n;

	if (!src->message || o->preference_count == 0) {
		bool html = s->native_body_type == MESSAGE_HTML;

		put_absent(w, src, view, html ? MESSAGE_HTML : MESSAGE_TEXT,
			html ? s->html_bytes : s->text_bytes, NULL);
		return;
	}
	n = choose(src, o, choices);
	for (size_t i = 0; i < n; i++) {
		const struct choice *ch = &choices[i];
		uint64_t limit = limit_of(ch, view);
		struct bytes text =
			message_body(src->message, (enum message_body_type)ch->type, src->arena);
		size_t size = text.n;

		if (i == 0)
			first_size = size;
		if (size > limit && ch->preference->all_or_none && ch->preference->has_truncation)
			continue;
		if (size > limit)
			text = message_cut(text, (size_t)limit);
		wbxml_put_start(w, AIRSYNCBASE_Body);
		wbxml_put_u64(w, AIRSYNCBASE_Type, ch->type);
		wbxml_put_u64(w, AIRSYNCBASE_EstimatedDataSize, size);
		if (size > limit)
			wbxml_put_text(w, AIRSYNCBASE_Truncated, "1");
		if (text.n > 0)
			put_data(w, view, text);
		/* Beside plain text a preview would say the same twice. */
		if (ch->type != MESSAGE_TEXT || text.n == 0)
			put_preview(w, src, view, ch->preference);
		wbxml_put_end(w);
		return;
	}
	/* All or none, and none fitted. */
	put_absent(w, src, view, choices[0].type, first_size, choices[0].preference);
}
