/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/sync_answer.c - the document that answers a Sync (MS-ASCMD 2.2.1.21). */
#include "core/eas/class_email.h"

void sync_answer_limit(struct eas_call *c, int status, uint32_t limit, const char *reason)
{
	struct wbxml_writer w;

	call_begin(c, &w);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_u64(&w, AIRSYNC_Status, (uint64_t)status);
	wbxml_put_u64(&w, AIRSYNC_Limit, limit);
	wbxml_put_end(&w);
	if (call_end(c, &w)) {
		c->out->eas_status = status;
		c->out->reason = reason;
	}
}

static const char *class_name(uint8_t item_class)
{
	static const char *const names[] = {[ITEM_EMAIL] = "Email",
		[ITEM_CONTACT] = "Contacts",
		[ITEM_CALENDAR] = "Calendar",
		[ITEM_TASK] = "Tasks",
		[ITEM_NOTE] = "Notes"};

	return item_class < ARRAY_LEN(names) ? names[item_class] : NULL;
}

/* A server change. Items that have gone since are left out: their removal is told next time. */
static void put_entry(struct eas_call *c, struct db_txn *txn, struct wbxml_writer *w,
	const struct sync_collection *sc, const struct sync_entry *e, bool *open)
{
	static const uint16_t tags[] = {[SYNC_ADD] = AIRSYNC_Add,
		[SYNC_CHANGE] = AIRSYNC_Change,
		[SYNC_CHANGE_WHOLE] = AIRSYNC_Change,
		[SYNC_DELETE] = AIRSYNC_Delete,
		[SYNC_SOFT_DELETE] = AIRSYNC_SoftDelete};
	struct email_view view = {.version = c->req->version, .options = &sc->effective};
	bool has_data = e->op <= SYNC_CHANGE_WHOLE;
	char server_id[EAS_SERVER_ID_MAX];
	struct item item;
	bool ok = true;

	if (has_data && (item_get(txn, c->req->mailbox, sc->folder, e->item, &item) != DB_OK ||
				item.item_class != ITEM_EMAIL))
		return;
	struct put_mark m = put_mark_set(w);
	bool was_open = *open;
	if (!was_open)
		wbxml_put_start(w, AIRSYNC_Commands);
	*open = true;
	eas_item_id_print(sc->folder, e->item, server_id);
	wbxml_put_start(w, tags[e->op]);
	wbxml_put_text(w, AIRSYNC_ServerId, server_id);
	if (has_data) {
		wbxml_put_start(w, AIRSYNC_ApplicationData);
		ok = e->op == SYNC_CHANGE ? email_put_state(w, &item, &view)
					  : email_put(w, txn, c->req->mailbox, &item, &view);
		wbxml_put_end(w);
	}
	wbxml_put_end(w);
	if (!ok) {
		put_mark_back(w, &m);
		*open = was_open;
	}
}

static void put_fetch(struct eas_call *c, struct db_txn *txn, struct wbxml_writer *w,
	const struct sync_collection *sc, const struct sync_command *cmd)
{
	struct email_view view = {
		.version = c->req->version, .options = &sc->effective, .whole = true};
	uint32_t folder;
	uint64_t id;
	struct item item;
	bool found = eas_item_id_parse(cmd->id, &folder, &id) && folder == sc->folder &&
		     item_get(txn, c->req->mailbox, folder, id, &item) == DB_OK &&
		     item.item_class == ITEM_EMAIL;

	wbxml_put_start(w, AIRSYNC_Fetch);
	wbxml_put_bytes_text(w, AIRSYNC_ServerId, cmd->id);
	struct put_mark m = put_mark_set(w);
	wbxml_put_u64(w, AIRSYNC_Status, found ? 1 : 8);
	if (found) {
		wbxml_put_start(w, AIRSYNC_ApplicationData);
		bool ok = email_put(w, txn, c->req->mailbox, &item, &view);
		wbxml_put_end(w);
		if (!ok) {
			put_mark_back(w, &m);
			wbxml_put_u64(w, AIRSYNC_Status, 5);
		}
	}
	wbxml_put_end(w);
}

/* Only Fetches, Adds and what failed. */
static void put_responses(struct eas_call *c, struct db_txn *txn, struct wbxml_writer *w,
	const struct sync_collection *sc)
{
	static const uint16_t tags[] = {[SYNC_CLIENT_ADD] = AIRSYNC_Add,
		[SYNC_CLIENT_CHANGE] = AIRSYNC_Change,
		[SYNC_CLIENT_DELETE] = AIRSYNC_Delete};
	bool open = false;

	for (uint32_t i = 0; i < sc->command_count; i++) {
		const struct sync_command *cmd = &sc->commands[i];

		if (cmd->kind != SYNC_CLIENT_FETCH && cmd->kind != SYNC_CLIENT_ADD &&
			cmd->status == 1)
			continue;
		if (!open)
			wbxml_put_start(w, AIRSYNC_Responses);
		open = true;
		if (cmd->kind == SYNC_CLIENT_FETCH) {
			put_fetch(c, txn, w, sc, cmd);
			continue;
		}
		wbxml_put_start(w, tags[cmd->kind]);
		wbxml_put_bytes_text(w,
			cmd->kind == SYNC_CLIENT_ADD ? AIRSYNC_ClientId : AIRSYNC_ServerId,
			cmd->id);
		wbxml_put_u64(w, AIRSYNC_Status, (uint64_t)cmd->status);
		wbxml_put_end(w);
	}
	if (open)
		wbxml_put_end(w);
}

static void put_collection(struct eas_call *c, struct db_txn *txn, struct wbxml_writer *w,
	const struct sync_collection *sc)
{
	const char *name = class_name(sc->item_class);
	bool open = false;

	wbxml_put_start(w, AIRSYNC_Collection);
	if (c->req->version <= 121 && name)
		wbxml_put_text(w, AIRSYNC_Class, name);
	/* Errors echo the key; clients go by the Status. */
	if (sc->status == 1)
		wbxml_put_u64(w, AIRSYNC_SyncKey, sc->key_out);
	else
		wbxml_put_bytes_text(w, AIRSYNC_SyncKey, sc->key_text);
	wbxml_put_bytes_text(w, AIRSYNC_CollectionId, sc->collection_id);
	wbxml_put_u64(w, AIRSYNC_Status, (uint64_t)sc->status);
	if (sc->status == 1) {
		if (sc->more)
			wbxml_put_empty(w, AIRSYNC_MoreAvailable);
		put_responses(c, txn, w, sc);
		for (size_t i = 0; i < sc->entry_count; i++)
			put_entry(c, txn, w, sc, &sc->entries[i], &open);
		if (open)
			wbxml_put_end(w);
	}
	wbxml_put_end(w);
}

bool sync_answer_put(struct eas_call *c, struct db_txn *txn, const struct sync_request *r)
{
	struct wbxml_writer w;
	int status = 1;

	call_begin(c, &w);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_start(&w, AIRSYNC_Collections);
	for (size_t i = 0; i < r->collection_count; i++) {
		if (!r->collections[i].speaks)
			continue;
		put_collection(c, txn, &w, &r->collections[i]);
		if (status == 1)
			status = r->collections[i].status;
	}
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	if (!call_end(c, &w))
		return false;
	c->out->eas_status = status;
	if (status != 1)
		c->out->reason = "collection refused";
	return true;
}
