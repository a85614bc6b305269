/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/journal.h - the one global order of changes. Every write that somebody may wait for appends
 * a row in the same transaction; shards read the tail after a commit.
 * Rows are numbered 1, 2, 3, ... without gaps, and pruned from the front (the newest
 * JOURNAL_KEEP stay). Thread, memory, errors: see db.h. */
#ifndef ROOST_STORE_JOURNAL_H
#define ROOST_STORE_JOURNAL_H

#include "store/db.h"

enum { JOURNAL_KEEP = 200000 };

enum journal_kind {
	JOURNAL_ADD = 1,   /* item appeared in folder (delivery, create, move in) */
	JOURNAL_CHANGE,    /* item's content or state changed */
	JOURNAL_DELETE,    /* item left the folder */
	JOURNAL_HIERARCHY, /* folder created, renamed, moved, removed */
	JOURNAL_ACCOUNT,   /* account of mailbox enabled, disabled, deleted, password changed */
	JOURNAL_DEVICE,    /* device (in `device`) removed or its policy or access changed */
	JOURNAL_TOUCH,     /* "change" command: wake whoever waits for the folder */
};

struct journal_row {
	uint64_t seq;
	uint32_t mailbox, folder; /* folder 0: none */
	uint64_t item;            /* 0: none */
	int64_t item_time_s;      /* the item's date, for FilterType */
	uint32_t origin;          /* device that caused it; 0: none (delivery, tool) */
	uint32_t device;          /* JOURNAL_DEVICE: whom it is about */
	uint8_t kind;             /* enum journal_kind */
};

uint64_t journal_head(struct db_txn *txn); /* newest seq in this snapshot; 0: none yet */
/* Up to max rows with seq > after, in order; returns how many, or DB_GONE. */
/* DB_GONE also when `after` is beyond the head: an older copy of the store was put back. */
int journal_read(struct db_txn *txn, uint64_t after, struct journal_row *rows, size_t max);
/* Appends (row->seq is set). Also used by the other store modules. */
int journal_append(struct db_txn *txn, struct journal_row *row);

#endif
