/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/rows.h"

#include "core/base/check.h"
#include "store/db_priv.h"

static MDB_val val(struct bytes b)
{
	return (MDB_val){.mv_size = b.n, .mv_data = (void *)(uintptr_t)b.p};
}

static struct bytes unval(MDB_val v)
{
	return bytes_of(v.mv_data, v.mv_size);
}

int txn_fail(struct db_txn *txn, int err)
{
	CHECK(txn->write && err != DB_OK);
	if (txn->err == DB_OK)
		txn->err = err;
	return txn->err;
}

uint64_t txn_touched(const struct db_txn *txn)
{
	const struct handle *h = txn->mdb;

	return h->touched;
}

uint64_t txn_bytes(const struct db_txn *txn)
{
	const struct handle *h = txn->mdb;

	return h->bytes;
}

int rows_get(struct db_txn *txn, struct bytes key, struct bytes *value_out)
{
	struct handle *h = txn->mdb;
	MDB_val k = val(key), v;
	int rc = mdb_get(h->txn, txn->db->dbi, &k, &v);

	if (rc)
		return db_from_mdb(rc);
	*value_out = unval(v);
	return DB_OK;
}

static int put(struct db_txn *txn, struct bytes key, struct bytes value, unsigned flags)
{
	struct handle *h = txn->mdb;
	MDB_val k = val(key), v = val(value);
	int rc;

	CHECK(txn->write);
	if (txn->err)
		return txn->err;
	h->touched++;
	h->bytes += value.n;
	rc = mdb_put(h->txn, txn->db->dbi, &k, &v, flags);
	return rc ? txn_fail(txn, db_from_mdb(rc)) : DB_OK;
}

int rows_put(struct db_txn *txn, struct bytes key, struct bytes value)
{
	return put(txn, key, value, 0);
}

int rows_append(struct db_txn *txn, struct bytes key, struct bytes value)
{
	return put(txn, key, value, MDB_APPEND);
}

int rows_del(struct db_txn *txn, struct bytes key)
{
	struct handle *h = txn->mdb;
	MDB_val k = val(key);
	int rc;

	CHECK(txn->write);
	if (txn->err)
		return txn->err;
	rc = mdb_del(h->txn, txn->db->dbi, &k, NULL);
	if (rc == MDB_NOTFOUND)
		return DB_NOT_FOUND;
	h->touched++;
	return rc ? txn_fail(txn, db_from_mdb(rc)) : DB_OK;
}

int rows_del_known(struct db_txn *txn, struct bytes key)
{
	int err = rows_del(txn, key);

	return err == DB_NOT_FOUND ? txn_fail(txn, DB_CORRUPT) : err;
}

/* 0 or LMDB's error. */
static int cursor(struct db_txn *txn, MDB_cursor **out)
{
	struct handle *h = txn->mdb;
	int rc = 0;

	if (!h->cursor)
		rc = mdb_cursor_open(h->txn, txn->db->dbi, &h->cursor);
	else if (!h->cursor_bound)
		rc = mdb_cursor_renew(h->txn, h->cursor);
	if (rc)
		return rc;
	h->cursor_bound = true;
	*out = h->cursor;
	return 0;
}

static bool shares(MDB_val k, struct bytes key, size_t prefix_n)
{
	return k.mv_size >= prefix_n && memcmp(k.mv_data, key.p, prefix_n) == 0;
}

int rows_seek(struct db_txn *txn, struct bytes from, size_t prefix_n, struct bytes *key_out,
	struct bytes *value_out)
{
	MDB_cursor *c;
	MDB_val k = val(from), v;
	int rc = cursor(txn, &c);

	if (rc == 0)
		rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
	if (rc)
		return db_from_mdb(rc);
	if (!shares(k, from, prefix_n))
		return DB_NOT_FOUND;
	*key_out = unval(k);
	*value_out = unval(v);
	return DB_OK;
}

int rows_seek_before(struct db_txn *txn, struct bytes before, size_t prefix_n,
	struct bytes *key_out, struct bytes *value_out)
{
	MDB_cursor *c;
	MDB_val k = val(before), v;
	int rc = cursor(txn, &c);

	if (rc)
		return db_from_mdb(rc);
	rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
	if (rc && rc != MDB_NOTFOUND)
		return db_from_mdb(rc);
	rc = mdb_cursor_get(c, &k, &v, rc ? MDB_LAST : MDB_PREV);
	if (rc)
		return db_from_mdb(rc);
	if (!shares(k, before, prefix_n))
		return DB_NOT_FOUND;
	*key_out = unval(k);
	*value_out = unval(v);
	return DB_OK;
}

int rows_last(struct db_txn *txn, struct bytes *key_out, struct bytes *value_out)
{
	MDB_cursor *c;
	MDB_val k, v;
	int rc = cursor(txn, &c);

	if (rc == 0)
		rc = mdb_cursor_get(c, &k, &v, MDB_LAST);
	if (rc)
		return db_from_mdb(rc);
	*key_out = unval(k);
	*value_out = unval(v);
	return DB_OK;
}

int rows_del_prefix(struct db_txn *txn, struct bytes prefix, uint64_t *count_out)
{
	struct handle *h = txn->mdb;
	uint64_t count = 0;
	MDB_cursor *c;
	int rc;

	CHECK(txn->write);
	if (txn->err)
		return txn->err;
	rc = cursor(txn, &c);
	if (rc)
		return txn_fail(txn, db_from_mdb(rc));
	for (;;) {
		/* Sought anew each time: after a delete the cursor may rest beyond the end of a
		 * page, and SET_RANGE within its page costs next to nothing. */
		MDB_val k = val(prefix), v;
		rc = mdb_cursor_get(c, &k, &v, MDB_SET_RANGE);
		if (rc == MDB_NOTFOUND || (rc == 0 && !shares(k, prefix, prefix.n)))
			break;
		if (rc == 0) {
			h->touched++;
			rc = mdb_cursor_del(c, 0);
		}
		if (rc)
			return txn_fail(txn, db_from_mdb(rc));
		count++;
	}
	if (count_out)
		*count_out = count;
	return DB_OK;
}
