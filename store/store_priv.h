/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/store_priv.h - what the store's modules ask of each other. */
#ifndef ROOST_STORE_PRIV_H
#define ROOST_STORE_PRIV_H

#include "store/record.h"

/* An empty mailbox with the standard folder tree. */
int mailbox_create(struct db_txn *txn, uint32_t mailbox);

/* Where the mailbox's next numbers are. DB_NOT_FOUND: there is no such mailbox. */
int counters_get(struct db_txn *txn, uint32_t mailbox, struct record_counters *out);
int counters_put(struct db_txn *txn, uint32_t mailbox, const struct record_counters *c);

#endif
