/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_foldersync.c - FolderSync: the folder tree, and what became of it since a key
 * (MS-ASCMD 2.2.1.5). */
#include <stdlib.h>

#include "core/eas/eas_priv.h"

enum entry_kind { ENTRY_UPDATE, ENTRY_DELETE, ENTRY_ADD, ENTRY_KINDS };

struct entry {
	uint32_t id, parent;
	uint8_t type, kind;
	bool sent;
	const char *name;
};

struct listing {
	struct entry *v;
	size_t n, cap;
};

static bool listing_add(struct eas_call *c, struct listing *l, const struct folder *f, int kind)
{
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 32;
		struct entry *v = arena_alloc(c->req->arena, cap * sizeof(*v));

		if (!v)
			return false;
		if (l->n)
			memcpy(v, l->v, l->n * sizeof(*v));
		l->v = v;
		l->cap = cap;
	}
	struct entry *e = &l->v[l->n++];
	*e = (struct entry){
		.id = f->id, .parent = f->parent, .type = f->type, .kind = (uint8_t)kind};
	if (kind == ENTRY_DELETE)
		return true;
	e->name = arena_strz(c->req->arena, bytes_str(f->name));
	return e->name != NULL;
}

/* What a phone that knows the tree of `base` has to be told; base 0: everything. */
static int listing_read(struct eas_call *c, struct db_txn *txn, uint64_t base, struct listing *l)
{
	struct folder f;
	uint32_t id = 0;
	int err;

	while ((err = folder_next(txn, c->req->mailbox, &id, &f)) == DB_OK) {
		int kind;

		if (base == 0 || f.created_seq > base) {
			if (f.deleted)
				continue;
			kind = ENTRY_ADD;
		} else if (f.hierarchy_seq > base) {
			kind = f.deleted ? ENTRY_DELETE : ENTRY_UPDATE;
		} else {
			continue;
		}
		/* The phone's own doing is no news to it. */
		if (base != 0 && f.hierarchy_origin == c->device)
			continue;
		if (!listing_add(c, l, &f, kind))
			return DB_IO;
	}
	return err == DB_NOT_FOUND ? DB_OK : err;
}

static void put_entry(struct wbxml_writer *w, struct entry *e)
{
	static const uint16_t tags[ENTRY_KINDS] = {
		FOLDERHIERARCHY_Update, FOLDERHIERARCHY_Delete, FOLDERHIERARCHY_Add};

	e->sent = true;
	wbxml_put_start(w, tags[e->kind]);
	wbxml_put_u64(w, FOLDERHIERARCHY_ServerId, e->id);
	if (e->kind != ENTRY_DELETE) {
		wbxml_put_u64(w, FOLDERHIERARCHY_ParentId, e->parent);
		wbxml_put_text(w, FOLDERHIERARCHY_DisplayName, e->name);
		wbxml_put_u64(w, FOLDERHIERARCHY_Type, e->type);
	}
	wbxml_put_end(w);
}

static int by_id(const void *key, const void *member)
{
	uint32_t a = *(const uint32_t *)key, b = ((const struct entry *)member)->id;

	return a < b ? -1 : a > b;
}

/* Parents before children. The list is in id order, so it takes more than one pass only where a
 * folder was moved below a younger one; a pass that sends nothing ends it, whatever the tree. */
static void put_adds(struct wbxml_writer *w, struct listing *l)
{
	bool again = true, all = false;

	while (again) {
		again = false;
		for (size_t i = 0; i < l->n; i++) {
			struct entry *e = &l->v[i];

			if (e->kind != ENTRY_ADD || e->sent)
				continue;
			struct entry *parent =
				bsearch(&e->parent, l->v, l->n, sizeof(*l->v), by_id);
			if (!all && parent && parent->kind == ENTRY_ADD && !parent->sent)
				continue;
			put_entry(w, e);
			again = true;
		}
		if (!again && !all)
			again = all = true;
	}
}

static void put_answer(struct eas_call *c, uint32_t key, struct listing *l)
{
	struct wbxml_writer w;

	call_begin(c, &w);
	wbxml_put_start(&w, FOLDERHIERARCHY_FolderSync);
	wbxml_put_u64(&w, FOLDERHIERARCHY_Status, 1);
	wbxml_put_u64(&w, FOLDERHIERARCHY_SyncKey, key);
	wbxml_put_start(&w, FOLDERHIERARCHY_Changes);
	wbxml_put_u64(&w, FOLDERHIERARCHY_Count, l->n);
	for (int kind = ENTRY_UPDATE; kind <= ENTRY_DELETE; kind++)
		for (size_t i = 0; i < l->n; i++)
			if (l->v[i].kind == kind)
				put_entry(&w, &l->v[i]);
	put_adds(&w, l);
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	if (call_end(c, &w))
		c->out->eas_status = 1;
}

/* New hierarchy state of the device, if it still is as it was when the answer was made. */
struct advance {
	const struct eas_call *c;
	const struct device *before;
	uint32_t key, key_previous;
	uint64_t seq, seq_previous;
	bool reset; /* key 0: the cached Ping and Sync go too */
	bool moved; /* outcome: somebody was faster */
};

static int advance_write(struct db_txn *txn, void *arg)
{
	struct advance *a = arg;
	uint32_t mailbox = a->c->req->mailbox;
	struct device d;
	int err = device_get(txn, mailbox, a->c->device, &d);

	if (err < 0)
		return err;
	a->moved = d.hierarchy_key != a->before->hierarchy_key ||
		   d.hierarchy_key_previous != a->before->hierarchy_key_previous;
	if (a->moved)
		return DB_OK;
	d.hierarchy_key = a->key;
	d.hierarchy_seq = a->seq;
	d.hierarchy_key_previous = a->key_previous;
	d.hierarchy_seq_previous = a->seq_previous;
	if (a->reset) {
		d.ping_heartbeat_s = 0;
		d.ping_folder_count = 0;
		err = device_blob_put(
			txn, mailbox, d.id, DEVICE_BLOB_SYNC_REQUEST, bytes_of(NULL, 0));
		if (err < 0 && err != DB_NOT_FOUND)
			return err;
	}
	return device_put(txn, mailbox, &d);
}

enum key_match { KEY_ZERO, KEY_CURRENT, KEY_PREVIOUS, KEY_WRONG };

static enum key_match key_match(const struct device *d, struct bytes text)
{
	uint32_t key;

	if (!eas_key_parse(text, &key))
		return KEY_WRONG;
	if (key == 0)
		return KEY_ZERO;
	if (key == d->hierarchy_key)
		return KEY_CURRENT;
	return key == d->hierarchy_key_previous ? KEY_PREVIOUS : KEY_WRONG;
}

/* One attempt; true: answered. */
static bool folder_sync(struct eas_call *c, struct bytes key_text)
{
	struct listing l = {0};
	struct device d;
	struct db_txn txn;
	uint64_t seq = 0;
	enum key_match match = KEY_WRONG;
	int err = db_read(c->ctx->db, &txn);

	if (err < 0) {
		call_store_error(c, err);
		return true;
	}
	err = device_get(&txn, c->req->mailbox, c->device, &d);
	if (err == DB_OK) {
		match = key_match(&d, key_text);
		/* A mailbox without any hierarchy change is told apart from a phone that never did
		 * a FolderSync (hierarchy_seq 0). */
		seq = mailbox_hierarchy_seq(&txn, c->req->mailbox);
		if (seq == 0)
			seq = 1;
		uint64_t base = match == KEY_CURRENT    ? d.hierarchy_seq
				: match == KEY_PREVIOUS ? d.hierarchy_seq_previous
							: 0;
		if (match != KEY_WRONG)
			err = listing_read(c, &txn, base, &l);
	}
	db_read_end(&txn);
	if (err < 0) {
		call_store_error(c, err);
		return true;
	}

	struct advance a = {.c = c, .before = &d, .key = eas_key_next(d.hierarchy_key), .seq = seq};
	switch (match) {
	case KEY_WRONG:
		call_status(c, 9, "hierarchy key is not ours");
		return true;
	case KEY_ZERO:
		a.reset = true;
		break;
	case KEY_CURRENT:
		if (l.n == 0 && d.hierarchy_seq == seq) {
			put_answer(c, d.hierarchy_key, &l);
			return true;
		}
		/* Nothing to tell (own changes): the key stays, what it stands for moves on. */
		a.key = l.n == 0 ? d.hierarchy_key : a.key;
		a.key_previous = l.n == 0 ? d.hierarchy_key_previous : d.hierarchy_key;
		a.seq_previous = l.n == 0 ? d.hierarchy_seq_previous : d.hierarchy_seq;
		break;
	case KEY_PREVIOUS:
		/* The answer was lost: the same again, under the same key if nothing came in
		 * between. */
		if (d.hierarchy_seq == seq) {
			put_answer(c, d.hierarchy_key, &l);
			return true;
		}
		a.key_previous = d.hierarchy_key_previous;
		a.seq_previous = d.hierarchy_seq_previous;
		break;
	}
	err = writer_write(c->ctx->writer, advance_write, &a);
	if (err < 0) {
		call_store_error(c, err);
		return true;
	}
	if (a.moved)
		return false;
	put_answer(c, a.key, &l);
	return true;
}

void cmd_folder_sync(struct eas_call *c)
{
	const struct wbxml_node *key = wbxml_child(c->root, FOLDERHIERARCHY_SyncKey);

	if (!key || wbxml_child(c->root, FOLDERHIERARCHY_Status)) {
		call_status(c, 10, "SyncKey missing, or Status in a request");
		return;
	}
	/* Two requests of one phone at once: the later one looks again. */
	for (int attempt = 0; attempt < 3; attempt++)
		if (folder_sync(c, key->text))
			return;
	call_status(c, 6, "hierarchy state keeps moving");
}
