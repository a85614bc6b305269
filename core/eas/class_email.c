/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/class_email.c - messages as a phone sees them, and the little it may change of them. */
#include <stdlib.h>

#include "core/eas/class_email.h"

enum {
	HEADER_BYTES_MAX = 32768, /* To, From (MS-ASEMAIL 2.2.2) */
	FLAG_TEXT_MAX = 1024,
	ARENA_BYTES = 64 << 20, /* for a message beside its own size */
};

uint32_t eas_parts_add(struct eas_parts *parts, struct buf *data)
{
	if (data->failed) {
		parts->failed = true;
		buf_free(data);
		return 0;
	}
	if (parts->n == parts->cap) {
		size_t cap = parts->cap ? parts->cap * 2 : 8;
		struct eas_part *v = realloc(parts->v, cap * sizeof(*v));

		if (!v) {
			parts->failed = true;
			buf_free(data);
			return 0;
		}
		parts->v = v;
		parts->cap = cap;
	}
	parts->v[parts->n++] = (struct eas_part){data->p, data->n};
	parts->bytes += data->n;
	*data = (struct buf){0};
	return (uint32_t)parts->n;
}

void eas_parts_free(struct eas_parts *parts)
{
	for (size_t i = 0; i < parts->n; i++) {
		struct buf b = {.p = parts->v[i].p, .n = parts->v[i].n, .cap = parts->v[i].n};

		buf_free(&b);
	}
	free(parts->v);
	*parts = (struct eas_parts){0};
}

/* ---- To the phone -------------------------------------------------------------------------- */

/* ItemOperations' Schema lists what is wanted. */
static bool wanted(const struct email_view *v, uint16_t tag)
{
	return !v->schema || wbxml_child(v->schema, tag);
}

static void put_string(
	struct wbxml_writer *w, const struct email_view *v, uint16_t tag, struct bytes text)
{
	if (text.n > 0 && wanted(v, tag))
		wbxml_put_bytes_text(w, tag, message_cut(text, HEADER_BYTES_MAX));
}

static void put_if(struct wbxml_writer *w, uint16_t tag, struct bytes text)
{
	if (text.n > 0)
		wbxml_put_bytes_text(w, tag, text);
}

static void put_flag(struct wbxml_writer *w, const struct message_flag *f)
{
	wbxml_put_start(w, EMAIL_Flag); /* empty when there is none */
	if (f->status != 0) {
		wbxml_put_u64(w, EMAIL_Status, f->status);
		put_if(w, EMAIL_FlagType, f->flag_type);
		put_if(w, EMAIL_CompleteTime, f->complete_time);
		put_if(w, TASKS_Subject, f->subject);
		put_if(w, TASKS_DateCompleted, f->date_completed);
		put_if(w, TASKS_StartDate, f->start_date);
		put_if(w, TASKS_DueDate, f->due_date);
		put_if(w, TASKS_UtcStartDate, f->utc_start_date);
		put_if(w, TASKS_UtcDueDate, f->utc_due_date);
		if (f->reminder_set >= 0)
			wbxml_put_u64(w, TASKS_ReminderSet, (uint64_t)f->reminder_set);
		put_if(w, TASKS_ReminderTime, f->reminder_time);
		put_if(w, TASKS_OrdinalDate, f->ordinal_date);
		put_if(w, TASKS_SubOrdinalDate, f->sub_ordinal_date);
	}
	wbxml_put_end(w);
}

static void put_state(struct wbxml_writer *w, const struct item *item,
	const struct message_props *p, const struct email_view *v)
{
	char time[EAS_TIME_MAX];

	if (wanted(v, EMAIL_Read))
		wbxml_put_text(w, EMAIL_Read, item->read ? "1" : "0");
	if (v->version >= 140 && wanted(v, EMAIL_Categories)) {
		wbxml_put_start(w, EMAIL_Categories);
		for (uint32_t i = 0; i < p->category_count; i++)
			wbxml_put_bytes_text(w, EMAIL_Category, p->categories[i]);
		wbxml_put_end(w);
	}
	if (wanted(v, EMAIL_Flag))
		put_flag(w, &p->flag);
	if (v->version >= 140 && p->last_verb != 0) {
		if (wanted(v, EMAIL2_LastVerbExecuted))
			wbxml_put_u64(w, EMAIL2_LastVerbExecuted, p->last_verb);
		if (wanted(v, EMAIL2_LastVerbExecutionTime)) {
			eas_time_print(p->last_verb_time_s, time);
			wbxml_put_text(w, EMAIL2_LastVerbExecutionTime, time);
		}
	}
}

static void put_attachments(
	struct wbxml_writer *w, const struct item *item, struct message *m, struct arena *a)
{
	uint32_t n = message_attachment_count(m);
	bool open = false;

	for (uint32_t i = 0; i < n; i++) {
		struct message_attachment att;
		char reference[EAS_SERVER_ID_MAX];

		if (!message_attachment(m, i, a, &att))
			continue;
		if (!open)
			wbxml_put_start(w, AIRSYNCBASE_Attachments);
		open = true;
		eas_file_reference_print(item->id, i, reference);
		wbxml_put_start(w, AIRSYNCBASE_Attachment);
		put_if(w, AIRSYNCBASE_DisplayName, att.display_name);
		wbxml_put_text(w, AIRSYNCBASE_FileReference, reference);
		wbxml_put_u64(w, AIRSYNCBASE_Method, att.method);
		wbxml_put_u64(w, AIRSYNCBASE_EstimatedDataSize, att.estimated_bytes);
		put_if(w, AIRSYNCBASE_ContentId, att.content_id);
		put_if(w, AIRSYNCBASE_ContentLocation, att.content_location);
		if (att.is_inline)
			wbxml_put_text(w, AIRSYNCBASE_IsInline, "1");
		wbxml_put_end(w);
	}
	if (open)
		wbxml_put_end(w);
}

static void put_message(struct wbxml_writer *w, const struct item *item, struct message *m,
	const struct message_summary *s, const struct message_props *p, struct arena *a,
	const struct email_view *v)
{
	struct body_source src = {m, s, item->body_bytes, a};
	char time[EAS_TIME_MAX];

	put_string(w, v, EMAIL_To, s->to);
	put_string(w, v, EMAIL_Cc, s->cc);
	put_string(w, v, EMAIL_From, s->from);
	put_string(w, v, EMAIL_Subject, s->subject);
	put_string(w, v, EMAIL_ReplyTo, s->reply_to);
	if (wanted(v, EMAIL_DateReceived)) {
		eas_time_print(item->time_s, time);
		wbxml_put_text(w, EMAIL_DateReceived, time);
	}
	put_string(w, v, EMAIL_DisplayTo, s->display_to);
	put_string(w, v, EMAIL_ThreadTopic, s->thread_topic);
	if (wanted(v, EMAIL_Importance))
		wbxml_put_u64(w, EMAIL_Importance, s->importance);
	put_state(w, item, p, v);
	if (m && wanted(v, AIRSYNCBASE_Attachments))
		put_attachments(w, item, m, a);
	if (wanted(v, AIRSYNCBASE_Body))
		body_put(w, &src, v);
	if (wanted(v, AIRSYNCBASE_NativeBodyType))
		wbxml_put_u64(w, AIRSYNCBASE_NativeBodyType, s->native_body_type);
	put_string(w, v, EMAIL_MessageClass, s->message_class);
	if (wanted(v, EMAIL_InternetCPID))
		wbxml_put_text(
			w, EMAIL_InternetCPID, "65001"); /* whatever it was, it leaves as UTF-8 */
	put_string(w, v, EMAIL_ContentClass, s->content_class);
	if (v->version < 140)
		return;
	if (s->conversation_id.n > 0 && wanted(v, EMAIL2_ConversationId))
		wbxml_put_opaque(w, EMAIL2_ConversationId, s->conversation_id);
	if (s->conversation_index.n > 0 && wanted(v, EMAIL2_ConversationIndex))
		wbxml_put_opaque(w, EMAIL2_ConversationIndex, s->conversation_index);
	if (v->version >= 160 && wanted(v, EMAIL2_IsDraft))
		wbxml_put_text(w, EMAIL2_IsDraft, item->folder == FOLDER_ID_DRAFTS ? "1" : "0");
}

bool email_put(struct wbxml_writer *w, struct db_txn *txn, uint32_t mailbox,
	const struct item *item, const struct email_view *view)
{
	struct message_summary summary;
	struct message_props props;
	struct message *m = NULL;
	struct bytes mime;
	struct arena a;
	bool ok;

	if (!message_summary_decode(item->summary, &summary))
		return false;
	arena_init(&a, ARENA_BYTES + 8 * (size_t)item->body_bytes);
	ok = message_props_decode(item->props, &a, &props);
	/* Reading MIME is what costs; without a wish for bodies the summary has it all. */
	if (ok && (summary.attachment_count > 0 || view->options->preference_count > 0)) {
		ok = item_body(txn, mailbox, item->id, &mime) == DB_OK;
		if (ok) {
			m = message_open(mime);
			ok = m != NULL;
		}
	}
	if (ok)
		put_message(w, item, m, &summary, &props, &a, view);
	if (m)
		message_close(&m);
	arena_free(&a);
	return ok;
}

bool email_put_state(struct wbxml_writer *w, const struct item *item, const struct email_view *view)
{
	struct message_props props;
	struct arena a;
	bool ok;

	arena_init(&a, ARENA_BYTES);
	ok = message_props_decode(item->props, &a, &props);
	if (ok)
		put_state(w, item, &props, view);
	arena_free(&a);
	return ok;
}

/* ---- From the phone ------------------------------------------------------------------------ */

static bool date_ok(struct bytes text, int64_t *out)
{
	return text.n == 0 || eas_time_parse(text, out);
}

/* What each action must contain, else 6. */
static bool flag_parse(const struct wbxml_node *node, struct message_flag *out)
{
	struct message_flag f = {.reminder_set = -1};
	struct {
		uint16_t tag;
		struct bytes *text;
		bool date;
	} fields[] = {
		{EMAIL_FlagType, &f.flag_type, false},
		{EMAIL_CompleteTime, &f.complete_time, true},
		{TASKS_Subject, &f.subject, false},
		{TASKS_DateCompleted, &f.date_completed, true},
		{TASKS_StartDate, &f.start_date, true},
		{TASKS_DueDate, &f.due_date, true},
		{TASKS_UtcStartDate, &f.utc_start_date, true},
		{TASKS_UtcDueDate, &f.utc_due_date, true},
		{TASKS_ReminderTime, &f.reminder_time, true},
		{TASKS_OrdinalDate, &f.ordinal_date, true},
		{TASKS_SubOrdinalDate, &f.sub_ordinal_date, false},
	};
	const struct wbxml_node *status = wbxml_child(node, EMAIL_Status);
	const struct wbxml_node *reminder = wbxml_child(node, TASKS_ReminderSet);
	int64_t start = 0, due = 0, utc_start = 0, utc_due = 0, other;
	uint32_t v = 0;
	bool set = false;

	*out = f;
	if (!status && !node->first)
		return true; /* an empty Flag clears it */
	if (!wbxml_u32(status, 2, &v))
		return false;
	if (v == 0)
		return true;
	f.status = (uint8_t)v;
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		*fields[i].text = wbxml_text(node, fields[i].tag);
		if (fields[i].text->n > FLAG_TEXT_MAX || !bytes_is_utf8(*fields[i].text) ||
			(fields[i].date && !date_ok(*fields[i].text, &other)))
			return false;
	}
	if (reminder) {
		if (!wbxml_bool(reminder, &set))
			return false;
		f.reminder_set = set;
	}
	if (v == 1) {
		if (f.complete_time.n == 0 || f.date_completed.n == 0)
			return false;
	} else {
		size_t dates = (f.start_date.n > 0) + (f.due_date.n > 0) +
			       (f.utc_start_date.n > 0) + (f.utc_due_date.n > 0);

		if (f.flag_type.n == 0 || (dates != 0 && dates != 4) ||
			(set && f.reminder_time.n == 0))
			return false;
		date_ok(f.start_date, &start);
		date_ok(f.due_date, &due);
		date_ok(f.utc_start_date, &utc_start);
		date_ok(f.utc_due_date, &utc_due);
		if (start > due || utc_start > utc_due)
			return false;
	}
	*out = f;
	return true;
}

static bool categories_parse(
	const struct wbxml_node *node, struct arena *a, struct message_props *props)
{
	props->category_count = 0;
	props->categories = NULL;
	if (node->child_count == 0)
		return true; /* all removed */
	if (node->child_count > MESSAGE_CATEGORIES_MAX)
		return false;
	props->categories = arena_alloc(a, node->child_count * sizeof(*props->categories));
	if (!props->categories)
		return false;
	for (const struct wbxml_node *n = node->first; n; n = n->next) {
		if (n->unknown)
			continue;
		if (n->tag != EMAIL_Category || n->text.n > FLAG_TEXT_MAX ||
			!bytes_is_utf8(n->text))
			return false;
		props->categories[props->category_count++] = n->text;
	}
	return true;
}

int email_change(const struct wbxml_node *data, const struct item *item, uint16_t version,
	struct arena *a, bool *read_out, struct buf *props_out)
{
	struct message_props props;
	struct buf before = {0};
	bool read = item->read;

	if (!message_props_decode(item->props, a, &props))
		return 5;
	/* Not item->props: an item without any has none stored. */
	message_props_encode(&props, &before);
	for (const struct wbxml_node *n = data->first; n; n = n->next) {
		bool ok = false;

		if (n->unknown)
			continue;
		if (n->tag == EMAIL_Read)
			ok = wbxml_bool(n, &read);
		else if (n->tag == EMAIL_Flag)
			ok = flag_parse(n, &props.flag);
		else if (n->tag == EMAIL_Categories && version >= 140)
			ok = categories_parse(n, a, &props);
		if (!ok) {
			buf_free(&before);
			return 6;
		}
	}
	message_props_encode(&props, props_out);
	if (bytes_eq(buf_bytes(&before), buf_bytes(props_out)))
		props_out->n = 0;
	*read_out = read;
	bool failed = before.failed || props_out->failed;
	buf_free(&before);
	return failed ? 5 : 1;
}
