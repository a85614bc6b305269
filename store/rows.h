/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/rows.h - bytes by key, for the store's own modules (and for the checker and tests).
 * Thread, memory, errors: see db.h. A view that a write transaction returned dies with its
 *         next put or delete.
 * Errors: a put or delete that fails makes the transaction fail (it sticks). DB_NOT_FOUND never
 *         does. */
#ifndef ROOST_STORE_ROWS_H
#define ROOST_STORE_ROWS_H

#include "store/db.h"

int rows_get(struct db_txn *txn, struct bytes key, struct bytes *value_out);
int rows_put(struct db_txn *txn, struct bytes key, struct bytes value);
/* As rows_put, for a key above all others of the tree. */
int rows_append(struct db_txn *txn, struct bytes key, struct bytes value);
int rows_del(struct db_txn *txn, struct bytes key);
/* Deletes a row that must be there: DB_CORRUPT, and it sticks, when it is not. */
int rows_del_known(struct db_txn *txn, struct bytes key);
/* Deletes every row whose key begins so; *count_out (may be NULL) is how many. */
int rows_del_prefix(struct db_txn *txn, struct bytes prefix, uint64_t *count_out);
/* The first row at or above `from`, the last below `before`, the last of all; only rows that share
 * the first prefix_n bytes of the given key. DB_NOT_FOUND when there is none. */
int rows_seek(struct db_txn *txn, struct bytes from, size_t prefix_n, struct bytes *key_out,
	struct bytes *value_out);
int rows_seek_before(struct db_txn *txn, struct bytes before, size_t prefix_n,
	struct bytes *key_out, struct bytes *value_out);
int rows_last(struct db_txn *txn, struct bytes *key_out, struct bytes *value_out);

/* Makes a write transaction fail; returns the failure that sticks. */
int txn_fail(struct db_txn *txn, int err);
/* Grows with every put and delete: a write that failed without moving it left no trace. */
uint64_t txn_touched(const struct db_txn *txn);
/* Bytes of the values put so far. */
uint64_t txn_bytes(const struct db_txn *txn);

#endif
