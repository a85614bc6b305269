/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/journal.h"
#include "core/base/check.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"

/* No record of its own: the journal is the last range of the tree, so its newest row is the last
 * row of all, a few pages down, and a change saves one put. */
uint64_t journal_head(struct db_txn *txn)
{
	struct key_parts parts;
	struct bytes k, v;

	if (txn->write && txn->seq)
		return txn->seq;
	if (rows_last(txn, &k, &v) || !key_parse(k, &parts) || parts.kind != KEY_JOURNAL)
		return 0;
	return parts.seq;
}

int journal_read(struct db_txn *txn, uint64_t after, struct journal_row *rows, size_t max)
{
	uint64_t head = journal_head(txn);
	size_t n = 0;

	/* Beyond the head: numbers of another life of this store (an older copy was put back). */
	if (after > head)
		return DB_GONE;
	if (max > INT32_MAX)
		max = INT32_MAX;
	for (; n < max && after + n < head; n++) {
		uint64_t seq = after + n + 1;
		struct journal_row row;
		struct key key;
		struct bytes v;
		int err = rows_get(txn, key_journal(&key, seq), &v);

		if (err == DB_NOT_FOUND)
			return n == 0 ? DB_GONE : DB_CORRUPT;
		if (err == DB_OK)
			err = record_decode_journal(v, &row);
		if (err)
			return err;
		row.seq = seq;
		rows[n] = row;
	}
	return (int)n;
}

int journal_append(struct db_txn *txn, struct journal_row *row)
{
	uint64_t seq = txn->seq + 1;
	struct record_buf buf;
	struct bytes value = record_encode_journal(&buf, row);
	struct key key;
	int err;

	CHECK(txn->write);
	if (value.n == 0)
		return DB_INVALID;
	err = rows_append(txn, key_journal(&key, seq), value);
	if (err)
		return err;
	txn->seq = row->seq = seq;
	/* Two may go for one that came: so a journal that was kept longer, by another version,
	 * shrinks to its size. */
	for (int i = 0; i < 2 && seq > JOURNAL_KEEP; i++) {
		struct bytes first = key_prefix_kind(&key, KEY_JOURNAL), k, v;
		struct key_parts parts;

		if (rows_seek(txn, first, first.n, &k, &v) || !key_parse(k, &parts))
			return txn_fail(txn, DB_CORRUPT);
		if (parts.seq > seq - JOURNAL_KEEP)
			break;
		rows_del(txn, key_journal(&key, parts.seq));
	}
	return txn->err;
}
