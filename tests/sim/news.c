/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a device could know by the store, and what is news for it by the journal. */
#include "tests/sim/oracle_priv.h"

#include "core/base/check.h"

/* ---- what a device could know, and what is news
 * ---------------------------------------------------- */

bool position(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder,
	uint64_t *pos_out, bool *filled_out)
{
	struct collection c;

	if (collection_get(txn, mailbox, device, folder, &c) || c.key == 0)
		return false;
	*pos_out = c.now.seq;
	/* Until the older items are filled in, what happens to them is no news. */
	*filled_out = c.now.floor_time_s == INT64_MIN;
	return true;
}

bool oracle_position(
	struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder, uint64_t *pos_out)
{
	bool filled;

	return position(txn, mailbox, device, folder, pos_out, &filled);
}

bool row_is_news(const struct row *r, uint32_t device, uint64_t pos, bool filled)
{
	return r->seq > pos && r->origin != device && (r->live || r->add_seq <= pos) &&
	       (filled || r->add_seq > pos);
}

bool any_news(const struct box *b, uint32_t device, uint32_t folder, uint64_t pos, bool filled)
{
	const struct box_folder *f = box_folder((struct box *)b, folder);

	for (size_t i = f ? f->n : 0; i-- > 0 && f->rows[i].seq > pos;)
		if (row_is_news(&f->rows[i], device, pos, filled))
			return true;
	return false;
}

bool old_news(
	struct request *r, bool added, uint64_t cut_us, uint32_t *folder_out, uint64_t *first_us)
{
	struct box *b = r->phone->box;
	struct db_txn txn;
	uint32_t device;
	bool found = false;

	*first_us = UINT64_MAX;
	CHECK(db_read(world.db, &txn) == DB_OK);
	device = phone_device(r->phone, &txn);
	for (unsigned i = 0; i < r->folder_count && device; i++) {
		struct box_folder *f = box_folder(b, r->folders[i]);
		uint64_t pos;
		bool filled;

		if (!f || f->deleted)
			continue;
		if (!position(&txn, b->mailbox, device, f->id, &pos, &filled)) {
			/* Never synced: told at once. */
			if (added && r->turn_us < *first_us) {
				*first_us = r->turn_us;
				*folder_out = f->id;
			}
			continue;
		}
		for (size_t k = f->n; k-- > 0 && f->rows[k].seq > pos;) {
			const struct row *row = &f->rows[k];
			bool is_add = row->live && row->add_seq > pos && row->add_origin != device;
			uint64_t us = is_add && row->add_seq == row->seq ? row->add_us : row->us;

			if (!row_is_news(row, device, pos, filled) || is_add != added ||
				us >= *first_us)
				continue;
			*first_us = us;
			*folder_out = f->id;
		}
	}
	db_read_end(&txn);
	found = *first_us <= cut_us;
	return found;
}
