/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/mailbox_priv.h - the inside of a mailbox, for store/mailbox*.c only:
 *   mailbox.c         making one, the numbers it gives out, dropping what nobody asks for any more
 *   mailbox_folder.c  folders and their hierarchy
 *   mailbox_item.c    items, the index of their changes and the one by date
 * What the store's other modules ask of a mailbox is in store_priv.h.
 *
 * Every function that writes first looks at all it needs and refuses before its first put: a
 * refusal (DB_NOT_FOUND, DB_EXISTS, DB_INVALID) leaves no trace, and the caller may go on. */
#ifndef ROOST_STORE_MAILBOX_PRIV_H
#define ROOST_STORE_MAILBOX_PRIV_H

#include "store/journal.h"
#include "store/key.h"
#include "store/mailbox.h"
#include "store/record.h"
#include "store/rows.h"
#include "store/store_priv.h"

/* mailbox_folder.c: what every change of an item rewrites. DB_NOT_FOUND: no folder that lives. */
int folder_hot_get(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct record_folder_hot *out);
int folder_hot_put(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, const struct record_folder_hot *h);

#endif
