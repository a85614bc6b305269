/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_itemoperations.c - ItemOperations: a message or an attachment on demand, inline or
 * multipart, and emptying a folder; GetAttachment of 12.1 (MS-ASCMD 2.2.1.10, 2.2.1.7). */
#include <stdlib.h>

#include "core/eas/class_email.h"

enum {
	OPERATIONS_MAX = 100,
	ANSWER_BYTES_MAX = 96 << 20, /* contents of one answer */
	EMPTY_BATCH = 500,           /* removals per commit, so that others get their turn */
};

struct operations {
	struct eas_call *c;
	struct eas_parts parts;
	bool multipart;
	size_t bytes;
};

/* ---- Attachments --------------------------------------------------------------------------- */

/* Content and type of an attachment: 1, or the Status (15, 12). type_out in the arena. */
static int attachment_read(
	struct eas_call *c, struct bytes reference, struct buf *out, const char **type_out)
{
	struct message_attachment att;
	struct message *m = NULL;
	struct bytes mime;
	struct db_txn txn;
	uint64_t item;
	uint32_t index;
	int status = 15;

	if (!eas_file_reference_parse(reference, &item, &index))
		return 15;
	int err = db_read(c->ctx->db, &txn);
	if (err < 0)
		return 12;
	err = item_body(&txn, c->req->mailbox, item, &mime);
	if (err == DB_OK)
		m = message_open(mime);
	else if (err != DB_NOT_FOUND)
		status = 12;
	if (m && index < message_attachment_count(m) &&
		message_attachment(m, index, c->req->arena, &att)) {
		*type_out = arena_strz(c->req->arena, att.content_type);
		status = message_attachment_data(m, index, out) && !out->failed && *type_out ? 1
											     : 12;
	}
	if (m)
		message_close(&m);
	db_read_end(&txn);
	return status;
}

/* What may stand in a header. */
static bool type_ok(const char *type)
{
	if (!type[0])
		return false;
	for (const char *s = type; *s; s++)
		if (*s < 0x20 || *s > 0x7e)
			return false;
	return true;
}

void cmd_get_attachment(struct eas_call *c)
{
	const char *type = "", *name = c->req->query ? c->req->query->attachment_name : "";
	struct buf data = {0};

	if (attachment_read(c, bytes_str(name), &data, &type) != 1) {
		buf_free(&data);
		call_http(c, 500, "attachment not found");
		return;
	}
	buf_free(&c->out->body);
	c->out->body = data;
	c->out->content_type = type_ok(type) ? type : "application/octet-stream";
}

/* "m-n", both included; n beyond the end is cut. 1, or the Status (8). */
static int range_apply(struct bytes range, size_t total, size_t *from, size_t *n)
{
	const uint8_t *dash = range.n ? memchr(range.p, '-', range.n) : NULL;
	uint64_t a, b;

	if (!dash)
		return 8;
	size_t left = (size_t)(dash - range.p);
	if (!bytes_to_u64(bytes_of(range.p, left), INT64_MAX, &a) ||
		!bytes_to_u64(bytes_of(dash + 1, range.n - left - 1), INT64_MAX, &b) || b < a ||
		a >= total)
		return 8;
	if (b >= total)
		b = total - 1;
	*from = (size_t)a;
	*n = (size_t)(b - a + 1);
	return 1;
}

static void base64(struct bytes in, struct buf *out)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint8_t *p = buf_room(out, (in.n + 2) / 3 * 4);

	if (!p)
		return;
	for (size_t i = 0; i < in.n; i += 3) {
		size_t n = in.n - i < 3 ? in.n - i : 3;
		uint32_t v = (uint32_t)in.p[i] << 16 | (n > 1 ? (uint32_t)in.p[i + 1] << 8 : 0) |
			     (n > 2 ? in.p[i + 2] : 0);

		*p++ = (uint8_t)digits[v >> 18];
		*p++ = (uint8_t)digits[v >> 12 & 63];
		*p++ = n > 1 ? (uint8_t)digits[v >> 6 & 63] : '=';
		*p++ = n > 2 ? (uint8_t)digits[v & 63] : '=';
	}
	out->n += (in.n + 2) / 3 * 4;
}

/* Data or Part; false: no memory. */
static bool put_content(struct operations *o, struct wbxml_writer *w, struct bytes content)
{
	struct buf copy = {0};
	bool ok;

	if (o->multipart) {
		buf_add(&copy, content.p, content.n);
		uint32_t part = eas_parts_add(&o->parts, &copy);

		if (part)
			wbxml_put_u64(w, ITEMOPERATIONS_Part, part);
		return part != 0;
	}
	base64(content, &copy);
	ok = !copy.failed;
	if (ok)
		wbxml_put_bytes_text(w, ITEMOPERATIONS_Data, buf_bytes(&copy));
	buf_free(&copy);
	return ok;
}

static void fetch_attachment(
	struct operations *o, struct wbxml_writer *w, const struct wbxml_node *node)
{
	struct bytes reference = wbxml_text(node, AIRSYNCBASE_FileReference);
	struct bytes range =
		wbxml_text(wbxml_child(node, ITEMOPERATIONS_Options), ITEMOPERATIONS_Range);
	struct buf data = {0};
	const char *type = "";
	size_t from = 0, n = 0;
	int status = attachment_read(o->c, reference, &data, &type);

	if (status == 1) {
		n = data.n;
		if (range.p)
			status = range_apply(range, data.n, &from, &n);
	}
	if (status == 1 && o->bytes + n > ANSWER_BYTES_MAX)
		status = 11;
	wbxml_put_u64(w, ITEMOPERATIONS_Status, (uint64_t)status);
	wbxml_put_bytes_text(w, AIRSYNCBASE_FileReference, reference);
	if (status == 1) {
		o->bytes += n;
		wbxml_put_start(w, ITEMOPERATIONS_Properties);
		if (range.p) {
			wbxml_put_text(w, ITEMOPERATIONS_Range,
				arena_printf(o->c->req->arena, "%zu-%zu", from, from + n - 1));
			wbxml_put_u64(w, ITEMOPERATIONS_Total, data.n);
		}
		wbxml_put_text(w, AIRSYNCBASE_ContentType,
			type_ok(type) ? type : "application/octet-stream");
		if (!put_content(o, w, n ? bytes_of(data.p + from, n) : bytes_of(NULL, 0)))
			w->out->failed = true; /* seen by call_end */
		wbxml_put_end(w);
	}
	buf_free(&data);
}

/* ---- Messages ------------------------------------------------------------------------------ */

/* Whoever fetches a message without a word on bodies wants the whole. */
static void options_all(struct sync_options *o)
{
	o->preference_count = 2;
	o->preferences[0] = (struct sync_preference){.type = MESSAGE_TEXT};
	o->preferences[1] = (struct sync_preference){.type = MESSAGE_HTML};
}

static void put_ids(struct wbxml_writer *w, const struct wbxml_node *node)
{
	static const uint16_t tags[] = {AIRSYNC_CollectionId, AIRSYNC_ServerId, SEARCH_LongId};

	for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
		struct bytes text = wbxml_text(node, tags[i]);

		if (text.n > 0)
			wbxml_put_bytes_text(w, tags[i], text);
	}
}

static void put_failed(struct wbxml_writer *w, const struct wbxml_node *node, int status)
{
	wbxml_put_u64(w, ITEMOPERATIONS_Status, (uint64_t)status);
	put_ids(w, node);
}

static void fetch_message(
	struct operations *o, struct wbxml_writer *w, const struct wbxml_node *node)
{
	const struct wbxml_node *options = wbxml_child(node, ITEMOPERATIONS_Options);
	struct bytes server_id = wbxml_text(node, AIRSYNC_ServerId);
	struct eas_call *c = o->c;
	struct sync_options so;
	struct email_view view = {.version = c->req->version,
		.options = &so,
		.schema = wbxml_child(options, ITEMOPERATIONS_Schema),
		.parts = o->multipart ? &o->parts : NULL};
	struct db_txn txn;
	struct item item;
	uint32_t folder;
	uint64_t id;
	bool sms;
	int status = sync_options_parse(options, &so, &sms), err;

	if (status == 4 || (!server_id.p && !wbxml_child(node, SEARCH_LongId)))
		status = 2;
	else if (status == 0 &&
		 (!eas_item_id_parse(server_id, &folder, &id) ||
			 folder != eas_folder_id(wbxml_text(node, AIRSYNC_CollectionId))))
		status = 6;
	if (status != 0) {
		put_failed(w, node, status);
		return;
	}
	if (so.preference_count == 0)
		options_all(&so);
	err = db_read(c->ctx->db, &txn);
	if (err < 0) {
		put_failed(w, node, 3);
		return;
	}
	err = item_get(&txn, c->req->mailbox, folder, id, &item);
	if (err < 0 || item.item_class != ITEM_EMAIL) {
		status = err < 0 && err != DB_NOT_FOUND ? 3 : 6;
	} else if (o->bytes + item.body_bytes > ANSWER_BYTES_MAX) {
		status = 11;
	} else {
		struct put_mark m = put_mark_set(w);

		o->bytes += item.body_bytes;
		wbxml_put_u64(w, ITEMOPERATIONS_Status, 1);
		put_ids(w, node);
		wbxml_put_text(w, AIRSYNC_Class, "Email");
		wbxml_put_start(w, ITEMOPERATIONS_Properties);
		if (!email_put(w, &txn, c->req->mailbox, &item, &view)) {
			put_mark_back(w, &m);
			status = 14;
		} else {
			wbxml_put_end(w);
		}
	}
	db_read_end(&txn);
	if (status != 0)
		put_failed(w, node, status);
}

static void fetch(struct operations *o, struct wbxml_writer *w, const struct wbxml_node *node)
{
	const struct wbxml_node *reference = wbxml_child(node, AIRSYNCBASE_FileReference);
	struct bytes store = wbxml_text(node, ITEMOPERATIONS_Store);

	wbxml_put_start(w, ITEMOPERATIONS_Fetch);
	if (!store.p)
		put_failed(w, node, 2);
	else if (!bytes_eq_nocase(store, "Mailbox"))
		put_failed(w, node, 9); /* there is no document library here */
	else if (wbxml_next_of(reference, AIRSYNCBASE_FileReference))
		put_failed(w, node, 2);
	else if (reference)
		fetch_attachment(o, w, node);
	else
		fetch_message(o, w, node);
	wbxml_put_end(w);
}

/* ---- EmptyFolderContents ------------------------------------------------------------------- */

struct emptying {
	const struct eas_call *c;
	uint32_t folder;
	bool subfolders, more;
	int status;
};

static int empty_write(struct db_txn *txn, void *arg)
{
	struct emptying *e = arg;
	uint32_t mailbox = e->c->req->mailbox, id = 0;
	struct folder f;
	int err = e->folder ? folder_get(txn, mailbox, e->folder, &f) : DB_NOT_FOUND;

	e->more = false;
	e->status = 6;
	if (err < 0 || f.deleted)
		return err == DB_NOT_FOUND ? DB_OK : err;
	e->status = 2;
	if (folder_class((enum folder_type)f.type) != ITEM_EMAIL)
		return DB_OK;
	e->status = 1;
	/* No device's own doing: the phone learns by the next Sync (and FolderSync) what is gone.
	 */
	for (int i = 0; i < EMPTY_BATCH; i++) {
		struct item_pos pos = {INT64_MIN, 0};

		err = item_at_or_after(txn, mailbox, e->folder, &pos);
		if (err == DB_OK)
			err = item_delete(txn, mailbox, e->folder, pos.id, 0);
		if (err < 0)
			break;
	}
	if (err == DB_OK) {
		e->more = true;
		return DB_OK;
	}
	if (err != DB_NOT_FOUND)
		return err;
	while (e->subfolders && (err = folder_next(txn, mailbox, &id, &f)) == DB_OK) {
		if (f.deleted || f.parent != e->folder)
			continue;
		err = folder_delete(txn, mailbox, id, 0);
		if (err < 0)
			return err;
	}
	return err == DB_NOT_FOUND ? DB_OK : err;
}

static void empty_folder(
	struct operations *o, struct wbxml_writer *w, const struct wbxml_node *node)
{
	struct bytes id = wbxml_text(node, AIRSYNC_CollectionId);
	struct emptying e = {.c = o->c,
		.folder = eas_folder_id(id),
		.subfolders = wbxml_child(wbxml_child(node, ITEMOPERATIONS_Options),
			ITEMOPERATIONS_DeleteSubFolders)};
	int err;

	do
		err = writer_write(o->c->ctx->writer, empty_write, &e);
	while (err == DB_OK && e.more);
	wbxml_put_start(w, ITEMOPERATIONS_EmptyFolderContents);
	wbxml_put_u64(w, ITEMOPERATIONS_Status, err < 0 ? 3 : (uint64_t)e.status);
	wbxml_put_bytes_text(w, AIRSYNC_CollectionId, id);
	wbxml_put_end(w);
}

/* ---- The command --------------------------------------------------------------------------- */

/* Counts and places in little-endian, then the document, then the contents. */
static void assemble(struct eas_call *c, struct eas_parts *parts)
{
	struct buf doc = c->out->body, all = {0};
	uint32_t head = (uint32_t)(4 + 8 * (parts->n + 1)), at = head;
	uint32_t v[2] = {(uint32_t)parts->n + 1};

	buf_add(&all, v, 4);
	v[0] = at;
	v[1] = (uint32_t)doc.n;
	buf_add(&all, v, 8);
	at += (uint32_t)doc.n;
	for (size_t i = 0; i < parts->n; i++) {
		v[0] = at;
		v[1] = (uint32_t)parts->v[i].n;
		buf_add(&all, v, 8);
		at += v[1];
	}
	buf_add(&all, doc.p, doc.n);
	for (size_t i = 0; i < parts->n; i++)
		buf_add(&all, parts->v[i].p, parts->v[i].n);
	buf_free(&doc);
	c->out->body = all;
	c->out->content_type = EAS_MULTIPART_TYPE;
	if (all.failed)
		call_http(c, 503, "out of memory");
}

void cmd_item_operations(struct eas_call *c)
{
	struct operations o = {.c = c, .multipart = c->req->accept_multipart};
	struct wbxml_writer w;
	uint32_t count = 0;

	for (const struct wbxml_node *n = c->root->first; n; n = n->next) {
		if (n->unknown)
			continue;
		count++;
		if (n->tag != ITEMOPERATIONS_Fetch && n->tag != ITEMOPERATIONS_Move &&
			n->tag != ITEMOPERATIONS_EmptyFolderContents) {
			call_status(c, 2, "operation is not one of ItemOperations");
			return;
		}
	}
	if (count == 0 || count > OPERATIONS_MAX) {
		call_status(c, count ? 11 : 2, count ? "too many operations" : "no operation");
		return;
	}
	call_begin(c, &w);
	wbxml_put_start(&w, ITEMOPERATIONS_ItemOperations);
	wbxml_put_u64(&w, ITEMOPERATIONS_Status, 1);
	wbxml_put_start(&w, ITEMOPERATIONS_Response);
	for (const struct wbxml_node *n = c->root->first; n; n = n->next) {
		if (n->unknown)
			continue;
		if (n->tag == ITEMOPERATIONS_Fetch) {
			fetch(&o, &w, n);
		} else if (n->tag == ITEMOPERATIONS_EmptyFolderContents) {
			empty_folder(&o, &w, n);
		} else {
			/* Conversations are not moved here; the phone has MoveItems. */
			struct wbxml_node const *id = wbxml_child(n, ITEMOPERATIONS_ConversationId);

			wbxml_put_start(&w, ITEMOPERATIONS_Move);
			wbxml_put_u64(&w, ITEMOPERATIONS_Status, 3);
			if (id)
				wbxml_put_opaque(&w, ITEMOPERATIONS_ConversationId, id->text);
			wbxml_put_end(&w);
		}
	}
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	if (o.parts.failed)
		c->out->body.failed = true;
	if (call_end(c, &w)) {
		c->out->eas_status = 1;
		if (o.multipart)
			assemble(c, &o.parts);
	}
	eas_parts_free(&o.parts);
}
