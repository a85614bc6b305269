/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/sync_commands.c - what a phone changed: its Add, Change and Delete, inside the one write
 * transaction of the Sync (MS-ASCMD 2.2.3). */
#include "core/eas/class_email.h"

static uint32_t mix(uint32_t hash, const void *p, size_t n)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < n; i++)
		hash = (hash ^ b[i]) * 16777619u; /* FNV-1a */
	return hash;
}

/* Every element with its depth and text, so that two lists hash alike only if they are alike. */
static uint32_t mix_tree(uint32_t hash, const struct wbxml_node *root)
{
	const struct wbxml_node *n = root;
	uint32_t depth = 0;

	while (n) {
		uint8_t head[12];

		store_be32(head, n->tag);
		store_be32(head + 4, depth);
		store_be32(head + 8, (uint32_t)n->text.n);
		hash = mix(hash, head, sizeof(head));
		hash = mix(hash, n->text.p, n->text.n);
		if (n->first) {
			n = n->first;
			depth++;
			continue;
		}
		while (n != root && !n->next) {
			n = n->parent;
			depth--;
		}
		n = n == root ? NULL : n->next;
	}
	return hash;
}

uint32_t sync_commands_hash(const struct sync_command *v, uint32_t n)
{
	uint32_t hash = 2166136261u;
	bool any = false;

	for (uint32_t i = 0; i < n; i++) {
		if (v[i].kind == SYNC_CLIENT_FETCH)
			continue;
		any = true;
		hash = mix(hash, &v[i].kind, sizeof(v[i].kind));
		hash = mix(hash, v[i].id.p, v[i].id.n);
		if (v[i].data)
			hash = mix_tree(hash, v[i].data);
	}
	if (!any)
		return 0;
	return hash ? hash : 1;
}

struct run {
	struct db_txn *txn;
	const struct eas_call *c;
	struct sync_collection *sc;
	uint64_t known_seq;
	bool replay, apply;
};

static int run_change(struct run *r, struct sync_command *cmd, uint64_t id)
{
	const struct eas_request *req = r->c->req;
	struct sync_collection *sc = r->sc;
	struct buf props = {0};
	struct item item;
	bool read, conflict, same;
	int err = item_get(r->txn, req->mailbox, sc->folder, id, &item);

	if (err == DB_NOT_FOUND) {
		cmd->status = 8;
		return DB_OK;
	}
	if (err < 0)
		return err;
	if (item.item_class != ITEM_EMAIL) {
		cmd->status = 6;
		return DB_OK;
	}
	cmd->status = email_change(cmd->data, &item, req->version, req->arena, &read, &props);
	if (cmd->status != 1)
		goto out;
	same = read == item.read && props.n == 0;
	/* Somebody else was here since the phone last looked. */
	conflict = item.changed_seq > r->known_seq && item.origin != r->c->device;
	if (same)
		goto out;
	if (conflict && sc->effective.conflict == 1) {
		cmd->status = 7; /* the server's version follows as a Change */
		goto out;
	}
	if (r->apply)
		/* Where the phone wins over a change that it has not seen, it must still be told of
		 * the rest of that change: so this one is nobody's own, and comes back to it. */
		err = item_set_state(r->txn, req->mailbox, sc->folder, id, read,
			props.n ? buf_bytes(&props) : bytes_of(NULL, 0),
			conflict ? 0 : r->c->device);
out:
	buf_free(&props);
	return err;
}

static int run_delete(struct run *r, struct sync_command *cmd, uint64_t id)
{
	uint32_t mailbox = r->c->req->mailbox, folder = r->sc->folder, device = r->c->device;
	int err = DB_NOT_FOUND;

	if (r->apply) {
		/* What is in the trash already goes for good. Delete beats any other change. */
		if (r->sc->deletes_as_moves && folder != FOLDER_ID_TRASH)
			err = item_move(r->txn, mailbox, folder, FOLDER_ID_TRASH, id, device);
		else
			err = item_delete(r->txn, mailbox, folder, id, device);
	}
	if (err < 0 && err != DB_NOT_FOUND)
		return err;
	/* Sent again after a lost answer it is gone already, as wished. */
	cmd->status = err == DB_OK || r->replay ? 1 : 8;
	if (cmd->status == 1 && r->sc->gone)
		r->sc->gone[r->sc->gone_count++] = id;
	return DB_OK;
}

int sync_commands_run(struct db_txn *txn, const struct eas_call *c, struct sync_collection *sc,
	uint64_t known_seq, bool replay, bool apply)
{
	struct run r = {txn, c, sc, known_seq, replay, apply};

	if (!sc->gone && sc->write_count > 0) {
		sc->gone = arena_alloc(c->req->arena, sc->write_count * sizeof(*sc->gone));
		if (!sc->gone)
			return DB_IO;
	}
	sc->gone_count = 0;
	for (uint32_t i = 0; i < sc->command_count; i++) {
		struct sync_command *cmd = &sc->commands[i];
		uint32_t folder;
		uint64_t id;
		int err = DB_OK;

		cmd->status = 1;
		if (cmd->kind == SYNC_CLIENT_FETCH)
			continue;
		if (cmd->kind == SYNC_CLIENT_ADD) {
			cmd->status = 6; /* no mail comes into being this way (drafts: 16.0) */
			continue;
		}
		if (!eas_item_id_parse(cmd->id, &folder, &id) || folder != sc->folder)
			cmd->status = cmd->kind == SYNC_CLIENT_DELETE && replay ? 1 : 8;
		else if (cmd->kind == SYNC_CLIENT_CHANGE)
			err = run_change(&r, cmd, id);
		else
			err = run_delete(&r, cmd, id);
		if (err < 0)
			return err;
	}
	return DB_OK;
}
