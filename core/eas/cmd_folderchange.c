/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_folderchange.c - FolderCreate, FolderDelete, FolderUpdate
 * (MS-ASCMD 2.2.1.3, 2.2.1.4, 2.2.1.6). They share the hierarchy key with
 * FolderSync. */
#include "core/eas/eas_priv.h"

enum {
	FOLDER_OK = 1,
	FOLDER_EXISTS = 2,
	FOLDER_SPECIAL = 3,
	FOLDER_UNKNOWN = 4,
	FOLDER_NO_PARENT = 5,
	FOLDER_WRONG_KEY = 9,
	FOLDER_MALFORMED = 10,
};

struct folder_op {
	const struct eas_call *c;
	struct bytes name;
	uint32_t folder, parent, type;
	bool parent_ok;
	uint32_t key_sent;
	/* outcome */
	int status;
	uint32_t key, id;
};

static bool special(const struct folder *f)
{
	return f->type >= FOLDER_INBOX && f->type < FOLDER_USER_MAIL;
}

static int live(struct db_txn *txn, const struct folder_op *op, uint32_t folder, struct folder *out)
{
	int err = folder ? folder_get(txn, op->c->req->mailbox, folder, out) : DB_NOT_FOUND;

	return err == DB_OK && out->deleted ? DB_NOT_FOUND : err;
}

/* Refusals of the store as a Status; other errors pass. */
static int outcome(struct folder_op *op, int err, int not_found)
{
	op->status = err == DB_OK          ? FOLDER_OK
		     : err == DB_EXISTS    ? FOLDER_EXISTS
		     : err == DB_NOT_FOUND ? not_found
					   : FOLDER_MALFORMED;
	return err == DB_EXISTS || err == DB_NOT_FOUND || err == DB_INVALID ? DB_OK : err;
}

static int create(struct db_txn *txn, struct folder_op *op, bool replay, uint64_t known_seq)
{
	uint32_t mailbox = op->c->req->mailbox, device = op->c->device;
	struct folder f;
	int err;

	if (op->type != FOLDER_USER &&
		(op->type < FOLDER_USER_MAIL || op->type > FOLDER_USER_NOTES)) {
		op->status = FOLDER_MALFORMED; /* default folders are not made */
		return DB_OK;
	}
	/* The answer was lost: it is there already, and this phone made it. */
	if (replay && folder_by_name(txn, mailbox, op->parent, op->name, &f) == DB_OK &&
		f.hierarchy_origin == device && f.created_seq > known_seq) {
		op->id = f.id;
		op->status = FOLDER_OK;
		return DB_OK;
	}
	err = folder_create(
		txn, mailbox, op->parent, (enum folder_type)op->type, op->name, device, &op->id);
	return outcome(op, err, FOLDER_NO_PARENT);
}

static int folder_op_apply(
	struct db_txn *txn, struct folder_op *op, bool replay, uint64_t known_seq)
{
	uint32_t mailbox = op->c->req->mailbox, device = op->c->device;
	struct folder f;
	int err;

	if (op->c->req->command != EAS_FOLDER_DELETE) {
		err = op->parent_ok && op->parent ? live(txn, op, op->parent, &f) : DB_OK;
		if (err == DB_NOT_FOUND || !op->parent_ok) {
			op->status = FOLDER_NO_PARENT;
			return DB_OK;
		}
		if (err < 0)
			return err;
	}
	if (op->c->req->command == EAS_FOLDER_CREATE)
		return create(txn, op, replay, known_seq);

	err = op->folder ? folder_get(txn, mailbox, op->folder, &f) : DB_NOT_FOUND;
	if (err < 0 && err != DB_NOT_FOUND)
		return err;
	if (err == DB_NOT_FOUND || f.deleted) {
		bool done = err == DB_OK && replay && op->c->req->command == EAS_FOLDER_DELETE &&
			    f.hierarchy_origin == device;

		op->status = done ? FOLDER_OK : FOLDER_UNKNOWN;
		return DB_OK;
	}
	if (special(&f)) {
		op->status =
			op->c->req->command == EAS_FOLDER_DELETE ? FOLDER_SPECIAL : FOLDER_EXISTS;
		return DB_OK;
	}
	if (op->c->req->command == EAS_FOLDER_UPDATE)
		return outcome(op,
			folder_update(txn, mailbox, op->folder, op->parent, op->name, device),
			FOLDER_UNKNOWN);
	err = folder_delete(txn, mailbox, op->folder, device);
	if (err == DB_OK) {
		err = collection_delete(txn, mailbox, device, op->folder);
		if (err == DB_NOT_FOUND)
			err = DB_OK;
	}
	return outcome(op, err, FOLDER_UNKNOWN);
}

static int folder_op_write(struct db_txn *txn, void *arg)
{
	struct folder_op *op = arg;
	uint32_t mailbox = op->c->req->mailbox;
	struct device d;
	int err = device_get(txn, mailbox, op->c->device, &d);

	if (err < 0)
		return err;
	bool replay = op->key_sent != d.hierarchy_key;
	if (op->key_sent == 0 || (replay && op->key_sent != d.hierarchy_key_previous)) {
		op->status = FOLDER_WRONG_KEY;
		return DB_OK;
	}
	uint64_t known = replay ? d.hierarchy_seq_previous : d.hierarchy_seq;
	uint64_t before = mailbox_hierarchy_seq(txn, mailbox);
	err = folder_op_apply(txn, op, replay, known);
	if (err < 0 || op->status != FOLDER_OK)
		return err;
	if (!replay) {
		d.hierarchy_key_previous = d.hierarchy_key;
		d.hierarchy_seq_previous = d.hierarchy_seq;
	}
	d.hierarchy_key = op->key = eas_key_next(d.hierarchy_key);
	/* What others did in between stays to be told; the phone's own changes never are. */
	d.hierarchy_seq = before <= known ? mailbox_hierarchy_seq(txn, mailbox) : known;
	return device_put(txn, mailbox, &d);
}

void cmd_folder_change(struct eas_call *c)
{
	static const uint16_t roots[] = {[EAS_FOLDER_CREATE] = FOLDERHIERARCHY_FolderCreate,
		[EAS_FOLDER_DELETE] = FOLDERHIERARCHY_FolderDelete,
		[EAS_FOLDER_UPDATE] = FOLDERHIERARCHY_FolderUpdate};
	struct bytes key = wbxml_text(c->root, FOLDERHIERARCHY_SyncKey);
	struct bytes parent = wbxml_text(c->root, FOLDERHIERARCHY_ParentId);
	struct folder_op op = {.c = c,
		.name = wbxml_text(c->root, FOLDERHIERARCHY_DisplayName),
		.folder = eas_folder_id(wbxml_text(c->root, FOLDERHIERARCHY_ServerId)),
		.parent = eas_folder_id(parent)};
	const struct wbxml_node *type = wbxml_child(c->root, FOLDERHIERARCHY_Type);
	bool create = c->req->command == EAS_FOLDER_CREATE;
	bool remove = c->req->command == EAS_FOLDER_DELETE;
	struct wbxml_writer w;

	op.parent_ok = op.parent != 0 || bytes_eq_str(parent, "0");
	if (!key.p || wbxml_child(c->root, FOLDERHIERARCHY_Status) ||
		(create && !wbxml_u32(type, UINT8_MAX, &op.type)) ||
		(!create && !wbxml_child(c->root, FOLDERHIERARCHY_ServerId)) ||
		(!remove && (!parent.p || op.name.n == 0 || op.name.n > FOLDER_NAME_MAX))) {
		call_status(c, FOLDER_MALFORMED, "element missing or out of range");
		return;
	}
	if (!eas_key_parse(key, &op.key_sent)) {
		call_status(c, FOLDER_WRONG_KEY, "hierarchy key is not ours");
		return;
	}
	int err = writer_write(c->ctx->writer, folder_op_write, &op);
	if (err < 0) {
		call_store_error(c, err);
		return;
	}
	if (op.status != FOLDER_OK) {
		call_status(c, op.status, "folder change refused");
		return;
	}
	call_begin(c, &w);
	wbxml_put_start(&w, roots[c->req->command]);
	wbxml_put_u64(&w, FOLDERHIERARCHY_Status, FOLDER_OK);
	wbxml_put_u64(&w, FOLDERHIERARCHY_SyncKey, op.key);
	if (create)
		wbxml_put_u64(&w, FOLDERHIERARCHY_ServerId, op.id);
	wbxml_put_end(&w);
	if (call_end(c, &w))
		c->out->eas_status = FOLDER_OK;
}
