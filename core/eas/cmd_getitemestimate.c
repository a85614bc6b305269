/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_getitemestimate.c - GetItemEstimate: how much a Sync would bring (MS-ASCMD
 * 2.2.1.9). It never moves a key. */
#include "core/eas/class_email.h"

enum { ESTIMATE_COLLECTIONS_MAX = 1000 };

struct estimate {
	int status; /* of the Response; 1: counted */
	uint64_t count;
	uint8_t item_class;
};

/* Status of the whole answer (103, 110), or 0. */
static int count_collection(struct eas_call *c, struct db_txn *txn, const struct wbxml_node *node,
	struct estimate *e, int *err_out)
{
	const struct wbxml_node *options = wbxml_child(node, AIRSYNC_Options);
	const struct wbxml_node *filter = wbxml_child(options ? options : node, AIRSYNC_FilterType);
	struct bytes id = wbxml_text(node, GETITEMESTIMATE_CollectionId);
	struct bytes key_text = wbxml_text(node, AIRSYNC_SyncKey);
	uint32_t folder, key, filter_type;
	struct sync_bases bases = {0};
	struct collection col;
	struct folder f;
	struct bytes blob;
	int err;

	/* Some clients name the collection on the Sync page. */
	if (!id.p)
		id = wbxml_text(node, AIRSYNC_CollectionId);
	folder = eas_folder_id(id);
	*e = (struct estimate){.status = 2};
	err = folder ? folder_get(txn, c->req->mailbox, folder, &f) : DB_NOT_FOUND;
	if (err == DB_NOT_FOUND || (err == DB_OK && f.deleted))
		return 0;
	if (err < 0) {
		*err_out = err;
		return 0;
	}
	e->item_class = (uint8_t)folder_class((enum folder_type)f.type);
	if (filter) {
		if (!wbxml_u32(filter, UINT8_MAX, &filter_type) || filter_type > 8)
			return 103;
		if (e->item_class == ITEM_EMAIL && filter_type > 5)
			return 110;
	}
	err = collection_get(txn, c->req->mailbox, c->device, folder, &col);
	if (err < 0 && err != DB_NOT_FOUND) {
		*err_out = err;
		return 0;
	}
	bool key_ok = eas_key_parse(key_text, &key);
	if (err == DB_NOT_FOUND || col.key == 0 || (key_ok && key == 0)) {
		e->status = 3;
		return 0;
	}
	if (!key_ok || (key != col.key && key != col.key_previous)) {
		e->status = 4;
		return 0;
	}
	struct sync_walk w = {.mailbox = c->req->mailbox,
		.device = c->device,
		.folder = folder,
		.from = key == col.key ? col.now : col.previous,
		.window = UINT32_MAX,
		.bytes_left = UINT64_MAX,
		.start_s = sync_filter_start(
			filter ? (uint8_t)filter_type : col.filter_type, c->req->now_ms)};

	if (device_blob_get(txn, c->req->mailbox, c->device, DEVICE_BLOB_SYNC_REPLAY, &blob) ==
		DB_OK)
		sync_bases_decode(blob, c->req->arena, &bases);
	w.base = sync_bases_get(&bases, folder, key, w.from.seq);
	*err_out = sync_walk(txn, &w);
	e->status = 1;
	e->count = w.count;
	return 0;
}

static void put_response(struct eas_call *c, struct wbxml_writer *w, const struct wbxml_node *node,
	const struct estimate *e)
{
	struct bytes id = wbxml_text(node, GETITEMESTIMATE_CollectionId);

	if (!id.p)
		id = wbxml_text(node, AIRSYNC_CollectionId);
	wbxml_put_start(w, GETITEMESTIMATE_Response);
	wbxml_put_u64(w, GETITEMESTIMATE_Status, (uint64_t)e->status);
	if (id.n > 0) {
		wbxml_put_start(w, GETITEMESTIMATE_Collection);
		if (c->req->version <= 121 && e->item_class == ITEM_EMAIL)
			wbxml_put_text(w, GETITEMESTIMATE_Class, "Email");
		wbxml_put_bytes_text(w, GETITEMESTIMATE_CollectionId, id);
		wbxml_put_u64(w, GETITEMESTIMATE_Estimate, e->count);
		wbxml_put_end(w);
	}
	wbxml_put_end(w);
}

void cmd_get_item_estimate(struct eas_call *c)
{
	const struct wbxml_node *list = wbxml_child(c->root, GETITEMESTIMATE_Collections);
	const struct wbxml_node *n = wbxml_child(list, GETITEMESTIMATE_Collection);
	struct wbxml_writer w;
	struct db_txn txn;
	int status = 0, err;

	if (!n || list->child_count > ESTIMATE_COLLECTIONS_MAX) {
		call_refuse(c, 103, n ? "too many collections" : "no collection");
		return;
	}
	err = db_read(c->ctx->db, &txn);
	if (err < 0) {
		call_store_error(c, err);
		return;
	}
	call_begin(c, &w);
	wbxml_put_start(&w, GETITEMESTIMATE_GetItemEstimate);
	for (; n && status == 0 && err == DB_OK; n = wbxml_next_of(n, GETITEMESTIMATE_Collection)) {
		struct estimate e;

		status = count_collection(c, &txn, n, &e, &err);
		put_response(c, &w, n, &e);
	}
	db_read_end(&txn);
	wbxml_put_end(&w);
	if (err < 0)
		call_store_error(c, err);
	else if (status != 0)
		call_refuse(c, status, "filter type is not one of this class");
	else if (call_end(c, &w))
		c->out->eas_status = 1;
}
