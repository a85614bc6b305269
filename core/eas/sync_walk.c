/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/sync_walk.c - from a position in a folder to the next: what a phone has to be told. */
#include "core/eas/sync_priv.h"

/* Days that a FilterType lets through; 1 month is 31 days. */
static const uint8_t filter_days[] = {0, 1, 3, 7, 14, 31};

int64_t sync_filter_start(uint8_t filter_type, uint64_t now_ms)
{
	int64_t now_s = (int64_t)(now_ms / 1000);

	if (filter_type == 0 || filter_type >= ARRAY_LEN(filter_days))
		return INT64_MIN;
	return (now_s / 86400 - filter_days[filter_type]) * 86400;
}

static bool below(int64_t time_s, uint64_t id, const struct sync_position *p)
{
	return time_s < p->floor_time_s || (time_s == p->floor_time_s && id < p->floor_id);
}

static bool listed(const uint64_t *v, size_t n, uint64_t item)
{
	for (size_t i = 0; i < n; i++)
		if (v[i] == item)
			return true;
	return false;
}

/* Is a removal nothing to the phone? Either it cannot know the item (created_seq of a tombstone is
 * the item's earliest time here), or it asks for the removal in this very request. Its other own
 * removals are told all the same: after MoveItems it expects a Delete here and an Add there
 * (MS-ASCMD 2.2.1.12), and one Delete too many is nothing to a phone. */
static bool removal_silent(const struct sync_walk *w, const struct change *ch)
{
	return ch->created_seq > w->from.seq || listed(w->gone, w->gone_count, ch->item);
}

static void say(struct sync_walk *w, uint64_t item, enum sync_op op)
{
	if (w->entries)
		w->entries[w->count] = (struct sync_entry){.item = item, .op = (uint8_t)op};
	w->count++;
}

/* Room for an item with its body? Nothing is too large for an answer of its own. */
static bool bytes_fit(struct sync_walk *w, uint64_t body_bytes)
{
	uint64_t n = body_bytes < w->body_bytes_max ? body_bytes : w->body_bytes_max;

	n += SYNC_ITEM_BYTES;
	if (w->bytes_left < n && w->count > 0)
		return false;
	w->bytes_left -= w->bytes_left < n ? w->bytes_left : n;
	return true;
}

/* ---- First: what the filter no longer lets through ---------------------------------------- */

/* Removals between floor and the filter's start must be told before floor passes them: below
 * floor nobody would ever tell them again. Keeps the `cap` oldest, sorted by (time, id). */
struct removal {
	int64_t time_s;
	uint64_t item;
};

static bool removal_before(const struct removal *a, const struct removal *b)
{
	return a->time_s < b->time_s || (a->time_s == b->time_s && a->item < b->item);
}

static int removals_read(
	struct db_txn *txn, const struct sync_walk *w, struct removal *v, size_t cap, size_t *n_out)
{
	struct change ch;
	uint64_t after = w->from.seq;
	size_t n = 0;
	int err;

	while ((err = change_next(txn, w->mailbox, w->folder, after, &ch)) == DB_OK) {
		after = ch.seq;
		if (ch.kind != JOURNAL_DELETE || ch.time_s >= w->start_s ||
			below(ch.time_s, ch.item, &w->from) || removal_silent(w, &ch))
			continue;
		struct removal r = {ch.time_s, ch.item};
		size_t i = n;

		if (n == cap) {
			if (!removal_before(&r, &v[n - 1]))
				continue;
			i = n - 1;
		} else {
			n++;
		}
		for (; i > 0 && removal_before(&r, &v[i - 1]); i--)
			v[i] = v[i - 1];
		v[i] = r;
	}
	*n_out = n;
	return err == DB_NOT_FOUND ? DB_OK : err;
}

/* Raises floor to the filter's start. One more removal than the window holds is kept, so that the
 * walk always stops before one that was left out. */
static int age_out(struct db_txn *txn, struct sync_walk *w)
{
	struct removal removals[SYNC_WINDOW_MAX + 1];
	size_t cap = w->window < SYNC_WINDOW_MAX ? w->window + 1 : SYNC_WINDOW_MAX + 1;
	size_t n, next = 0;
	struct item_pos pos = {w->from.floor_time_s, w->from.floor_id};
	struct item item;
	int err;

	if (w->start_s <= w->from.floor_time_s)
		return DB_OK;
	err = removals_read(txn, w, removals, cap, &n);
	if (err < 0)
		return err;
	for (;;) {
		struct item_pos live = pos;
		bool is_live = false, told;

		err = item_at_or_after(txn, w->mailbox, w->folder, &live);
		if (err < 0 && err != DB_NOT_FOUND)
			return err;
		if (err == DB_OK && live.time_s < w->start_s)
			is_live = true;
		if (!is_live && next == n)
			break;

		struct removal r = {live.time_s, live.id};
		if (!is_live || (next < n && removal_before(&removals[next], &r))) {
			r = removals[next];
			is_live = false;
		}
		told = true;
		if (is_live) {
			err = item_get(txn, w->mailbox, w->folder, r.item, &item);
			if (err < 0)
				return err;
			/* In the middle of the changes it may have been here before: better once
			 * too often than never. */
			told = item.created_seq <= w->from.seq || w->base < w->from.seq;
		}
		if (told && w->count == w->window) {
			w->to.floor_time_s = r.time_s;
			w->to.floor_id = r.item;
			w->more = true;
			return DB_OK;
		}
		if (told)
			say(w, r.item, is_live ? SYNC_SOFT_DELETE : SYNC_DELETE);
		next += !is_live;
		pos = (struct item_pos){r.time_s, r.item + 1};
	}
	w->to.floor_time_s = w->start_s;
	w->to.floor_id = 0;
	return DB_OK;
}

/* ---- Then: changes, oldest first ----------------------------------------------------------- */

/* What a change means to the phone; negative: nothing. */
static int change_op(struct db_txn *txn, const struct sync_walk *w, const struct change *ch)
{
	if (below(ch->time_s, ch->item, &w->to))
		return -1; /* filled in later, or outside the filter */
	if (ch->kind == JOURNAL_DELETE) {
		uint32_t folder;

		/* It is back here: its live row follows and is told as an Add. Phones that carry
		 * out all Adds before all Deletes would lose it. */
		if (removal_silent(w, ch) ||
			(item_folder(txn, w->mailbox, ch->item, &folder) == DB_OK &&
				folder == w->folder))
			return -1;
		return SYNC_DELETE;
	}
	/* What is new in the folder is told even if the phone caused it: a message it moved here,
	 * or deleted into the trash. */
	if (ch->created_seq > w->base)
		return SYNC_ADD;
	return ch->origin == w->device ? -1 : SYNC_CHANGE;
}

static int tell_changes(struct db_txn *txn, struct sync_walk *w)
{
	struct change ch;
	struct item item;
	int err;

	while ((err = change_next(txn, w->mailbox, w->folder, w->to.seq, &ch)) == DB_OK) {
		int op = change_op(txn, w, &ch);

		if (op < 0) {
			w->passed++;
			w->to.seq = ch.seq;
			continue;
		}
		if (w->count == w->window) {
			w->more = true;
			return DB_OK;
		}
		if (w->entries && op != SYNC_DELETE) {
			err = item_get(txn, w->mailbox, w->folder, ch.item, &item);
			if (err < 0)
				return err;
			if (op == SYNC_CHANGE && item.content_seq > w->base)
				op = SYNC_CHANGE_WHOLE;
			if (op != SYNC_CHANGE && !bytes_fit(w, item.body_bytes)) {
				w->more = true;
				return DB_OK;
			}
		}
		say(w, ch.item, (enum sync_op)op);
		w->to.seq = ch.seq;
	}
	if (err != DB_NOT_FOUND)
		return err;
	w->to.seq = journal_head(txn);
	w->to_base = w->to.seq;
	return DB_OK;
}

/* ---- Last: older items, newest first ------------------------------------------------------- */

static int fill_in(struct db_txn *txn, struct sync_walk *w)
{
	struct item_pos pos = {w->to.floor_time_s, w->to.floor_id};
	struct item item;
	int err;

	while ((err = item_before(txn, w->mailbox, w->folder, &pos)) == DB_OK) {
		if (pos.time_s < w->start_s)
			break;
		if (w->count == w->window) {
			w->more = true;
			return DB_OK;
		}
		if (w->entries) {
			err = item_get(txn, w->mailbox, w->folder, pos.id, &item);
			if (err < 0)
				return err;
			if (!bytes_fit(w, item.body_bytes)) {
				w->more = true;
				return DB_OK;
			}
		}
		say(w, pos.id, SYNC_ADD);
		w->to.floor_time_s = pos.time_s;
		w->to.floor_id = pos.id;
	}
	if (err < 0 && err != DB_NOT_FOUND)
		return err;
	/* All that the filter lets through is known, whatever may still be delivered below. */
	w->to.floor_time_s = w->start_s;
	w->to.floor_id = 0;
	return DB_OK;
}

int sync_walk(struct db_txn *txn, struct sync_walk *w)
{
	int err;

	w->to = w->from;
	w->to_base = w->base;
	w->count = w->passed = 0;
	w->more = false;
	err = age_out(txn, w);
	if (err == DB_OK && !w->more)
		err = tell_changes(txn, w);
	if (err == DB_OK && !w->more)
		err = fill_in(txn, w);
	return err;
}

int eas_folder_has_news(
	struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder, uint64_t now_ms)
{
	struct folder f;
	struct collection c;
	struct change ch;
	int err = folder_get(txn, mailbox, folder, &f);

	if (err < 0)
		return err == DB_NOT_FOUND ? 0 : err;
	err = collection_get(txn, mailbox, device, folder, &c);
	if (err == DB_NOT_FOUND || (err == DB_OK && c.key == 0))
		return 1; /* never synced: so that it gets synced */
	if (err < 0)
		return err;
	if (f.changed_seq <= c.now.seq)
		return 0;

	int64_t start_s = sync_filter_start(c.filter_type, now_ms);
	uint64_t after = c.now.seq;
	while ((err = change_next(txn, mailbox, folder, after, &ch)) == DB_OK) {
		after = ch.seq;
		bool fresh = ch.created_seq > c.now.seq;

		if (ch.origin == device)
			continue;
		if (ch.kind == JOURNAL_DELETE ? fresh : ch.time_s < start_s)
			continue;
		/* Below floor only what is new counts; the rest comes when the phone fills in. */
		if (!below(ch.time_s, ch.item, &c.now) || (ch.kind != JOURNAL_DELETE && fresh))
			return 1;
	}
	return err == DB_NOT_FOUND ? 0 : err;
}
