/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_moveitems.c - MoveItems, all moves of a request in one commit (MS-ASCMD
 * 2.2.1.12). */
#include "core/eas/eas_priv.h"

enum { MOVES_MAX = 1000 };
enum move_status {
	MOVE_SOURCE_INVALID = 1,
	MOVE_DESTINATION_INVALID = 2,
	MOVE_DONE = 3,
	MOVE_SAME_FOLDER = 4,
	MOVE_FAILED = 5,
};

struct move {
	const struct wbxml_node *node;
	uint32_t to;
	uint64_t item;
	enum move_status status;
};

struct moves {
	const struct eas_call *c;
	struct move *v;
	size_t n;
};

static int folder_live(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint8_t *class_out)
{
	struct folder f;
	int err = folder ? folder_get(txn, mailbox, folder, &f) : DB_NOT_FOUND;

	if (err < 0)
		return err;
	if (f.deleted)
		return DB_NOT_FOUND;
	*class_out = (uint8_t)folder_class((enum folder_type)f.type);
	return DB_OK;
}

static int move_one(struct db_txn *txn, const struct eas_call *c, struct move *m)
{
	const struct wbxml_node *dst = wbxml_child(m->node, MOVE_DstFldId);
	uint32_t from = eas_folder_id(wbxml_text(m->node, MOVE_SrcFldId)), in;
	uint8_t from_class, to_class;
	int err;

	m->to = dst ? eas_folder_id(dst->text) : 0;
	m->status = MOVE_SOURCE_INVALID;
	if (!eas_item_id_parse(wbxml_text(m->node, MOVE_SrcMsgId), &in, &m->item) || in != from)
		return DB_OK;
	err = folder_live(txn, c->req->mailbox, from, &from_class);
	if (err < 0)
		return err == DB_NOT_FOUND ? DB_OK : err;
	m->status = MOVE_FAILED;
	if (wbxml_next_of(dst, MOVE_DstFldId))
		return DB_OK;
	m->status = MOVE_DESTINATION_INVALID;
	err = folder_live(txn, c->req->mailbox, m->to, &to_class);
	if (err < 0)
		return err == DB_NOT_FOUND ? DB_OK : err;
	if (to_class != from_class)
		return DB_OK;
	m->status = MOVE_SAME_FOLDER;
	if (from == m->to)
		return DB_OK;
	err = item_move(txn, c->req->mailbox, from, m->to, m->item, c->device);
	m->status = err == DB_NOT_FOUND ? MOVE_SOURCE_INVALID : MOVE_DONE;
	return err == DB_NOT_FOUND ? DB_OK : err;
}

static int moves_write(struct db_txn *txn, void *arg)
{
	struct moves *ms = arg;

	for (size_t i = 0; i < ms->n; i++) {
		int err = move_one(txn, ms->c, &ms->v[i]);

		if (err < 0)
			return err;
	}
	return DB_OK;
}

void cmd_move_items(struct eas_call *c)
{
	const struct wbxml_node *n = wbxml_child(c->root, MOVE_Move);
	struct moves ms = {.c = c};
	struct wbxml_writer w;
	int err;

	if (!n || c->root->child_count > MOVES_MAX) {
		call_refuse(c, 103, n ? "too many moves" : "no move");
		return;
	}
	ms.v = arena_zalloc(c->req->arena, c->root->child_count * sizeof(*ms.v));
	if (!ms.v) {
		call_refuse(c, 111, "out of memory");
		return;
	}
	for (; n; n = wbxml_next_of(n, MOVE_Move))
		ms.v[ms.n++].node = n;
	err = writer_write(c->ctx->writer, moves_write, &ms);
	if (err < 0) {
		call_store_error(c, err);
		return;
	}
	call_begin(c, &w);
	wbxml_put_start(&w, MOVE_MoveItems);
	for (size_t i = 0; i < ms.n; i++) {
		const struct move *m = &ms.v[i];
		char id[EAS_SERVER_ID_MAX];

		wbxml_put_start(&w, MOVE_Response);
		wbxml_put_bytes_text(&w, MOVE_SrcMsgId, wbxml_text(m->node, MOVE_SrcMsgId));
		wbxml_put_u64(&w, MOVE_Status, m->status);
		if (m->status == MOVE_DONE) {
			eas_item_id_print(m->to, m->item, id);
			wbxml_put_text(&w, MOVE_DstMsgId, id);
		}
		wbxml_put_end(&w);
	}
	wbxml_put_end(&w);
	if (call_end(c, &w))
		c->out->eas_status = 1;
}
