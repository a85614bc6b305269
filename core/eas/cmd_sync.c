/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_sync.c - Sync: keys, replays, the one write of a request, and when to wait (MS-ASCMD
 * 2.2.1.21, 3.1.5.4, 3.1.5.9).
 *
 * A request is run in a read snapshot first. When that shows that nothing has to be stored, that is
 * all: no write, no fsync. Otherwise it is run again in one write transaction, which applies the
 * phone's commands and stores the new states; plans whose collection has not moved are
 * kept. The answer's bytes are made afterwards, from a newer snapshot: what it tells beyond the
 * stored position is told once more next time, which phones take as a change. */
#include <stdio.h>

#include "core/eas/class_email.h"

enum { SILENT_ROWS_MAX = 200 };

struct run {
	struct eas_call *c;
	struct sync_request *req;
	struct db_txn *txn;
	bool write;     /* in the write transaction */
	bool cacheable; /* this request may replace the cached one */
	/* set anew by every run */
	struct sync_bases bases;
	uint32_t window_left;
	uint64_t bytes_left;
	bool needs_write, superseded;
	uint64_t head; /* of the snapshot that was looked at first */
};

/* ---- One collection ------------------------------------------------------------------------ */

static void fail(struct sync_collection *sc, int status)
{
	sc->status = status;
	sc->speaks = true;
}

static bool position_eq(const struct sync_position *a, const struct sync_position *b)
{
	return a->seq == b->seq && a->floor_time_s == b->floor_time_s && a->floor_id == b->floor_id;
}

/* Remembers the new state, or writes it. base_now and base_previous are set. */
static int store(struct run *r, struct sync_collection *sc)
{
	struct collection *c = &sc->after;
	uint32_t mailbox = r->c->req->mailbox, folder = sc->folder;
	struct arena *a = r->c->req->arena;

	sc->put = true;
	r->needs_write = true;
	if (!r->write)
		return DB_OK;
	c->deletes_as_moves = sc->deletes_as_moves;
	sync_bases_drop(&r->bases, folder);
	if (sc->base_now != c->now.seq &&
		!sync_bases_set(&r->bases, a, folder, c->key, sc->base_now))
		return DB_IO;
	if (c->key_previous && sc->base_previous != c->previous.seq &&
		!sync_bases_set(&r->bases, a, folder, c->key_previous, sc->base_previous))
		return DB_IO;
	return collection_put(r->txn, mailbox, r->c->device, folder, c);
}

/* Key 0: a new start, without items. */
static int prime(struct run *r, struct sync_collection *sc)
{
	struct sync_options options;
	struct collection *c = &sc->after;
	uint32_t key = eas_key_next(sc->before.key);

	if (sc->get_changes_asked || sc->command_count > 0) {
		fail(sc, 4);
		return DB_OK;
	}
	sync_options_default(&options);
	if (sc->has_options)
		options = sc->options;
	sc->effective = options;
	memset(c, 0, sizeof(*c));
	/* The number goes on, so that a key from before the new start never fits again. */
	c->key = key;
	c->now = sync_position_none(journal_head(r->txn));
	sc->base_now = c->now.seq;
	sc->base_previous = 0;
	sync_options_store(&options, c);
	sc->key_out = key;
	sc->speaks = true;
	return store(r, sc);
}

static int walk(struct run *r, struct sync_collection *sc, const struct sync_position *from,
	uint64_t base, struct sync_walk *w)
{
	uint32_t window = sc->window < r->window_left ? sc->window : r->window_left;
	int err;

	*w = (struct sync_walk){.mailbox = r->c->req->mailbox,
		.device = r->c->device,
		.folder = sc->folder,
		.from = *from,
		.base = base,
		.start_s = sync_filter_start(sc->effective.filter_type, r->c->req->now_ms),
		.window = window,
		.body_bytes_max = email_body_bytes_max(&sc->effective),
		.bytes_left = r->bytes_left,
		.gone = sc->gone,
		.gone_count = sc->gone_count,
		.to = *from,
		.to_base = base};
	if (!sc->get_changes)
		return DB_OK;
	if (!sc->entries)
		sc->entries = arena_alloc(r->c->req->arena, sc->window * sizeof(*sc->entries));
	if (!sc->entries)
		return DB_IO;
	w->entries = sc->entries;
	err = sync_walk(r->txn, w);
	sc->entry_count = w->count;
	sc->more = w->more;
	return err;
}

/* The new state after a walk, and whether there is anything to say. */
static int advance(struct run *r, struct sync_collection *sc, const struct sync_walk *w,
	bool replay, bool options_changed)
{
	struct collection *c = &sc->after;
	bool visible = sc->entry_count > 0 || sc->write_count > 0;

	if (replay) {
		/* Always said with a key, so that the phone comes away from the old one. The key
		 * stays when it stands for the same; a new one otherwise. */
		bool same = position_eq(&w->to, &c->now) && c->pending_ops_hash == sc->hash &&
			    w->to_base == sc->base_now;

		sc->speaks = true;
		sc->key_out = c->key;
		if (same && !options_changed)
			return DB_OK;
		if (!same) {
			c->now = w->to;
			sc->base_now = w->to_base;
			c->pending_ops_hash = sc->hash;
			c->key = sc->key_out = eas_key_next(c->key);
		}
		return store(r, sc);
	}
	sc->key_out = c->key;
	sc->speaks = visible || sc->more;
	if (!sc->speaks)
		/* A Fetch is answered under the old key: it changes nothing. */
		sc->speaks = sc->command_count > 0;
	if (visible) {
		c->previous = c->now;
		sc->base_previous = sc->base_now;
		c->key_previous = c->key;
		c->key = sc->key_out = eas_key_next(c->key);
		c->now = w->to;
		sc->base_now = w->to_base;
		c->pending_ops_hash = sc->hash;
		return store(r, sc);
	}
	if (w->passed > SILENT_ROWS_MAX) {
		/* Nothing to tell, but much to look through again each time. The key stands for the
		 * same knowledge as before. */
		c->now = w->to;
		sc->base_now = w->to_base;
		return store(r, sc);
	}
	return options_changed ? store(r, sc) : DB_OK;
}

static int collection_check(struct run *r, struct sync_collection *sc)
{
	struct device_gate gate;
	struct folder f;
	int err =
		sc->folder ? folder_get(r->txn, r->c->req->mailbox, sc->folder, &f) : DB_NOT_FOUND;

	if (err < 0 && err != DB_NOT_FOUND)
		return err;
	if (err == DB_NOT_FOUND || f.deleted) {
		err = device_gate(r->txn, r->c->req->mailbox, r->c->req->device_id, &gate);
		if (err < 0)
			return err;
		/* 12 sends the phone to FolderSync, which helps only if there is news. */
		fail(sc, mailbox_hierarchy_seq(r->txn, r->c->req->mailbox) > gate.hierarchy_seq
				 ? 12
				 : 8);
		return DB_OK;
	}
	sc->item_class = (uint8_t)folder_class((enum folder_type)f.type);
	if (sc->parse_status != 0)
		fail(sc, sc->parse_status);
	else if (sc->conversation_mode && sc->item_class != ITEM_EMAIL)
		fail(sc, 4);
	else if (sc->supported && sc->item_class == ITEM_NOTE)
		fail(sc, 4);
	else if (sc->has_options && sc->item_class == ITEM_EMAIL && sc->options.filter_type > 5)
		fail(sc, 4);
	return DB_OK;
}

static int collection_run(struct run *r, struct sync_collection *sc)
{
	struct collection *c = &sc->after;
	struct sync_walk w;
	bool replay;
	int err;

	sc->status = 1;
	sc->speaks = sc->planned = sc->put = sc->more = false;
	sc->entry_count = sc->gone_count = 0;
	sc->key_out = sc->key;
	memset(&sc->before, 0, sizeof(sc->before));
	err = collection_check(r, sc);
	if (err < 0 || sc->status != 1)
		return err;
	err = collection_get(r->txn, r->c->req->mailbox, r->c->device, sc->folder, &sc->before);
	if (err < 0 && err != DB_NOT_FOUND)
		return err;
	*c = sc->before;
	/* A plan made inside a write may rest on what is undone when that runs again. */
	sc->planned = !r->write;
	if (sc->key_ok && sc->key == 0)
		return prime(r, sc);
	if (!sc->key_ok || (sc->key != c->key && sc->key != c->key_previous)) {
		fail(sc, 3);
		return DB_OK;
	}
	replay = sc->key != c->key;
	if (replay && r->c->req->resumed) {
		r->superseded = true;
		return DB_OK;
	}
	sc->base_now = sync_bases_get(&r->bases, sc->folder, c->key, c->now.seq);
	sc->base_previous = sync_bases_get(&r->bases, sc->folder, c->key_previous, c->previous.seq);

	bool options_changed = sc->has_options && sync_options_store(&sc->options, c);
	sync_options_load(&sc->effective, c);

	struct sync_position known = replay ? c->previous : c->now;
	if (sc->write_count > 0) {
		if (!r->write) {
			/* Only the write transaction can tell how these end. */
			sc->planned = false;
			sc->speaks = r->needs_write = true;
			return DB_OK;
		}
		err = sync_commands_run(r->txn, r->c, sc, known.seq, replay,
			!(replay && sc->hash == c->pending_ops_hash));
		if (err < 0)
			return err;
	}
	for (uint32_t i = 0; i < sc->command_count; i++)
		if (sc->commands[i].kind == SYNC_CLIENT_FETCH)
			sc->commands[i].status = 1;
	err = walk(r, sc, &known, replay ? sc->base_previous : sc->base_now, &w);
	if (err < 0)
		return err;
	r->window_left -= (uint32_t)sc->entry_count;
	r->bytes_left = w.bytes_left;
	return advance(r, sc, &w, replay, options_changed);
}

/* In the write transaction: is what the read snapshot showed still how things are? */
static bool plan_holds(struct run *r, const struct sync_collection *sc)
{
	struct collection now;

	if (!sc->planned || sc->write_count > 0)
		return false;
	memset(&now, 0, sizeof(now));
	int err = collection_get(r->txn, r->c->req->mailbox, r->c->device, sc->folder, &now);
	return (err == DB_OK || err == DB_NOT_FOUND) && memcmp(&now, &sc->before, sizeof(now)) == 0;
}

/* ---- The cached request -------------------------------------------------------------------- */

/* What the cache holds after this answer: nothing when it was an error. */
static int cache_run(struct run *r)
{
	const struct sync_request *req = r->req;
	struct sync_cached_collection *v;
	struct sync_cached cached = {.repeatable = req->command_count == 0,
		.wait_s = (uint16_t)req->wait_s,
		.window = (uint16_t)(req->window == UINT32_MAX ? 0 : req->window),
		.collection_count = req->collection_count};
	struct buf image = {0};
	struct bytes stored;
	bool ok = true;
	int err;

	if (!r->cacheable)
		return DB_OK;
	v = arena_alloc(r->c->req->arena, req->collection_count * sizeof(*v));
	if (!v)
		return DB_IO;
	cached.collections = v;
	for (size_t i = 0; i < req->collection_count; i++) {
		const struct sync_collection *sc = &req->collections[i];

		ok &= sc->status == 1 && sc->key_out != 0;
		cached.repeatable &= !sc->speaks;
		v[i] = (struct sync_cached_collection){.folder = sc->folder,
			.key = sc->key_out,
			.window = (uint16_t)sc->window,
			.get_changes = sc->get_changes,
			.deletes_as_moves = sc->deletes_as_moves};
	}
	if (ok)
		sync_cached_encode(&cached, &image);
	err = image.failed ? DB_IO
			   : device_blob_get(r->txn, r->c->req->mailbox, r->c->device,
				     DEVICE_BLOB_SYNC_REQUEST, &stored);
	if (err == DB_NOT_FOUND) {
		stored = bytes_of(NULL, 0);
		err = DB_OK;
	}
	if (err == DB_OK && !bytes_eq(stored, buf_bytes(&image))) {
		r->needs_write = true;
		if (r->write)
			err = device_blob_put(r->txn, r->c->req->mailbox, r->c->device,
				DEVICE_BLOB_SYNC_REQUEST, buf_bytes(&image));
	}
	buf_free(&image);
	return err;
}

static int bases_load(struct run *r, struct bytes *stored)
{
	int err = device_blob_get(
		r->txn, r->c->req->mailbox, r->c->device, DEVICE_BLOB_SYNC_REPLAY, stored);

	memset(&r->bases, 0, sizeof(r->bases));
	if (err == DB_NOT_FOUND) {
		*stored = bytes_of(NULL, 0);
		return DB_OK;
	}
	/* A damaged record means unknown bases: then what was changed is told as a change, which
	 * at worst a phone that misses the item ignores. */
	if (err == DB_OK)
		sync_bases_decode(*stored, r->c->req->arena, &r->bases);
	return err;
}

static int bases_store(struct run *r, struct bytes before)
{
	struct buf image = {0};
	int err = DB_OK;

	sync_bases_encode(&r->bases, &image);
	if (image.failed)
		err = DB_IO;
	else if (!bytes_eq(before, buf_bytes(&image)))
		err = device_blob_put(r->txn, r->c->req->mailbox, r->c->device,
			DEVICE_BLOB_SYNC_REPLAY, buf_bytes(&image));
	buf_free(&image);
	return err;
}

/* ---- The whole request --------------------------------------------------------------------- */

static int request_run(struct run *r)
{
	struct sync_request *req = r->req;
	struct bytes bases;
	int err = bases_load(r, &bases);

	if (err < 0)
		return err;
	/* The view dies with the first put. */
	bases = arena_dup(r->c->req->arena, bases);
	r->window_left = req->window;
	r->bytes_left = SYNC_ANSWER_BYTES;
	r->needs_write = r->superseded = false;
	if (!r->write)
		r->head = journal_head(r->txn);
	for (size_t i = 0; i < req->collection_count; i++) {
		struct sync_collection *sc = &req->collections[i];

		if (r->write && plan_holds(r, sc)) {
			r->window_left -= (uint32_t)sc->entry_count < r->window_left
						  ? (uint32_t)sc->entry_count
						  : r->window_left;
			err = sc->put ? store(r, sc) : DB_OK;
		} else {
			err = collection_run(r, sc);
		}
		if (err < 0)
			return err;
	}
	if (!r->superseded)
		err = cache_run(r);
	if (err == DB_OK && r->write)
		err = bases_store(r, bases);
	return err;
}

static int request_write(struct db_txn *txn, void *arg)
{
	struct run *r = arg;

	r->txn = txn;
	r->write = true;
	return request_run(r);
}

/* False: refused. */
static bool request_execute(struct eas_call *c, struct run *r)
{
	struct db_txn txn;
	int err = db_read(c->ctx->db, &txn);

	if (err == DB_OK) {
		r->txn = &txn;
		err = request_run(r);
		r->txn = NULL;
		db_read_end(&txn);
	}
	if (err == DB_OK && r->needs_write && !r->superseded)
		err = writer_write(c->ctx->writer, request_write, r);
	if (err < 0) {
		call_store_error(c, err);
		return false;
	}
	return true;
}

/* ---- Empty, partial and resumed requests --------------------------------------------------- */

static bool from_cached(
	struct eas_call *c, const struct sync_cached_collection *v, struct sync_collection *sc)
{
	char *key = arena_printf(c->req->arena, "%u", v->key);
	char *id = arena_printf(c->req->arena, "%u", v->folder);

	if (!key || !id)
		return false;
	*sc = (struct sync_collection){.folder = v->folder,
		.collection_id = bytes_str(id),
		.key_text = bytes_str(key),
		.key_ok = true,
		.key = v->key,
		.get_changes = v->get_changes,
		.deletes_as_moves = v->deletes_as_moves,
		.window = v->window};
	return true;
}

/* Listed collections replace or extend the cached ones. */
static bool merge(struct eas_call *c, struct sync_request *req, const struct sync_cached *cached)
{
	size_t max = cached->collection_count + req->collection_count, n = 0;
	struct sync_collection *v = arena_zalloc(c->req->arena, max * sizeof(*v));

	if (!v)
		return false;
	for (size_t i = 0; i < cached->collection_count; i++) {
		struct sync_collection *listed = NULL;

		for (size_t j = 0; j < req->collection_count; j++)
			if (req->collections[j].folder == cached->collections[i].folder)
				listed = &req->collections[j];
		if (!listed && !from_cached(c, &cached->collections[i], &v[n++]))
			return false;
	}
	for (size_t j = 0; j < req->collection_count; j++)
		v[n++] = req->collections[j];
	req->collections = v;
	req->collection_count = n;
	if (!req->has_wait && !req->has_heartbeat)
		req->wait_s = cached->wait_s;
	if (!req->has_window && cached->window)
		req->window = cached->window;
	return true;
}

/* False: answered. */
static bool complete(struct eas_call *c, struct sync_request *req)
{
	struct sync_cached cached;
	struct db_txn txn;
	struct bytes blob;
	bool have = false;
	int err = db_read(c->ctx->db, &txn);

	if (err == DB_OK) {
		err = device_blob_get(
			&txn, c->req->mailbox, c->device, DEVICE_BLOB_SYNC_REQUEST, &blob);
		if (err == DB_OK)
			have = sync_cached_decode(blob, c->req->arena, &cached);
		db_read_end(&txn);
	}
	if (err < 0 && err != DB_NOT_FOUND) {
		call_store_error(c, err);
		return false;
	}
	/* Another Sync of the phone took over (what hangs is always repeatable): the empty answer.
	 */
	if (c->req->resumed && (!have || !cached.repeatable))
		return false;
	if (!have || (!c->root && !cached.repeatable)) {
		call_status(c, 13, have ? "last answer was not empty" : "no request is cached");
		return false;
	}
	if (!merge(c, req, &cached)) {
		call_refuse(c, 111, "out of memory");
		return false;
	}
	uint64_t max = (uint64_t)c->ctx->config->sync_collections_max;
	if (req->collection_count > max) {
		sync_answer_limit(c, 15, (uint32_t)max, "too many collections");
		return false;
	}
	return true;
}

static void park(struct eas_call *c, const struct sync_request *req, const struct run *r)
{
	struct eas_answer *out = c->out;

	out->folders = arena_alloc(c->req->arena, req->collection_count * sizeof(*out->folders));
	if (!out->folders) {
		call_refuse(c, 111, "out of memory");
		return;
	}
	for (size_t i = 0; i < req->collection_count; i++)
		if (req->collections[i].get_changes)
			out->folders[out->folder_count++] = req->collections[i].folder;
	out->disposition = EAS_PARK_SYNC;
	out->wait_s = req->wait_s;
	out->since_seq = r->head;
}

void cmd_sync(struct eas_call *c)
{
	struct sync_request req = {.window = UINT32_MAX};
	struct run r = {.c = c, .req = &req, .cacheable = true};
	const char *why = NULL;
	bool speaks = false;
	struct db_txn txn;
	int status = c->root ? sync_parse(c, &req, &why) : 0;

	if (status == 15) {
		sync_answer_limit(c, 15, req.limit, why);
		return;
	}
	if (status != 0 && status != 14) {
		call_status(c, status, why);
		return;
	}
	if (!c->root || req.partial) {
		if (c->root && !req.has_collections && !req.has_wait && !req.has_heartbeat &&
			!req.has_window) {
			call_status(c, 13, "Partial alone");
			return;
		}
		if (!complete(c, &req))
			return;
	}
	if (status == 14) {
		/* The rest is processed, but the answer has no place for server
		 * changes: only what the phone changed is taken over. It comes again with its old
		 * keys. */
		r.cacheable = false;
		for (size_t i = 0; i < req.collection_count; i++)
			req.collections[i].get_changes = false;
		if (req.write_count == 0 || request_execute(c, &r))
			sync_answer_limit(c, 14, req.limit, why);
		return;
	}
	if (!request_execute(c, &r) || r.superseded)
		return;
	for (size_t i = 0; i < req.collection_count; i++)
		speaks |= req.collections[i].speaks;
	if (!speaks) {
		c->out->eas_status = 1;
		if (req.wait_s > 0 && !c->req->final)
			park(c, &req, &r);
		return; /* the empty answer */
	}
	int err = db_read(c->ctx->db, &txn);
	if (err < 0) {
		call_store_error(c, err);
		return;
	}
	sync_answer_put(c, &txn, &req);
	db_read_end(&txn);
}
