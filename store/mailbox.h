/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/mailbox.h - folders and items of a mailbox, and what changed since when.
 *
 * Every change takes the next journal number; an item's `changed_seq` is its latest. Per folder
 * there is an index of items by changed_seq (tombstones included), and one by date. A device
 * that has seen everything up to seq N asks change_next(N); nothing is counted, so one arrival and
 * one removal never cancel out.
 *
 * `origin` is the device that caused a change (0: none): its own changes never wake it.
 * Thread, memory, errors: see db.h. Costs: a get 0.3 us, a change about five puts. */
#ifndef ROOST_STORE_MAILBOX_H
#define ROOST_STORE_MAILBOX_H

#include "store/db.h"

enum { FOLDER_NAME_MAX = 256 };

/* MS-ASCMD FolderSync Type. */
enum folder_type {
	FOLDER_USER = 1,
	FOLDER_INBOX = 2,
	FOLDER_DRAFTS = 3,
	FOLDER_TRASH = 4,
	FOLDER_SENT = 5,
	FOLDER_OUTBOX = 6,
	FOLDER_TASKS = 7,
	FOLDER_CALENDAR = 8,
	FOLDER_CONTACTS = 9,
	FOLDER_NOTES = 10,
	FOLDER_USER_MAIL = 12,
	FOLDER_USER_CALENDAR = 13,
	FOLDER_USER_CONTACTS = 14,
	FOLDER_USER_TASKS = 15,
	FOLDER_USER_NOTES = 17,
};

/* Folder ids are small numbers, 1.. per mailbox, never used again; ServerId is their decimal
 * text. The standard tree, made with the mailbox, has these ids. */
enum folder_id {
	FOLDER_ID_INBOX = 1,
	FOLDER_ID_DRAFTS,
	FOLDER_ID_TRASH,
	FOLDER_ID_SENT,
	FOLDER_ID_OUTBOX,
	FOLDER_ID_CONTACTS,
	FOLDER_ID_CALENDAR,
	FOLDER_ID_TASKS,
	FOLDER_ID_NOTES,
	FOLDER_ID_FIRST_FREE
};

enum item_class { ITEM_EMAIL = 1, ITEM_CONTACT, ITEM_CALENDAR, ITEM_TASK, ITEM_NOTE };
enum item_class folder_class(enum folder_type type);

struct folder {
	uint32_t id, parent; /* parent 0: root */
	uint8_t type;        /* enum folder_type */
	bool deleted;        /* tombstone: the id stays taken */
	uint64_t created_seq,
		hierarchy_seq;     /* journal numbers of creation and last rename/move/delete */
	uint32_t hierarchy_origin; /* device that did the last hierarchy change */
	uint64_t changed_seq;      /* newest change of any item; 0: none ever */
	uint64_t touched_seq;      /* newest folder_touch; 0: never */
	uint64_t items, unread;    /* live items */
	char name[FOLDER_NAME_MAX + 1];
};

int folder_get(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct folder *out);
/* Folders (tombstones too) in id order after *id; DB_NOT_FOUND at the end. */
int folder_next(struct db_txn *txn, uint32_t mailbox, uint32_t *id, struct folder *out);
int folder_by_name(struct db_txn *txn, uint32_t mailbox, uint32_t parent, struct bytes name,
	struct folder *out);
int folder_create(struct db_txn *txn, uint32_t mailbox, uint32_t parent, enum folder_type type,
	struct bytes name, uint32_t origin, uint32_t *id_out); /* DB_EXISTS: name taken in parent */
int folder_update(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t parent,
	struct bytes name, uint32_t origin);
/* With its items and subfolders. One JOURNAL_HIERARCHY row per folder, none per item. */
int folder_delete(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint32_t origin);
/* Newest hierarchy change of the mailbox. */
uint64_t mailbox_hierarchy_seq(struct db_txn *txn, uint32_t mailbox);
/* Only a touch (roostctl change): a JOURNAL_TOUCH row and folder.touched for waiting devices. */
int folder_touch(struct db_txn *txn, uint32_t mailbox, uint32_t folder);

/* What never changes of an item (summary, body) and what does (read, props) are kept apart, so
 * that marking mail read writes a hundred bytes. summary and props are opaque here; core/eas gives
 * them meaning and a version. */
struct item {
	uint64_t id; /* per mailbox, grows, never used again; survives moves */
	uint32_t folder;
	uint8_t item_class; /* enum item_class */
	bool read;
	int64_t time_s;       /* received; what FilterType looks at */
	uint64_t created_seq; /* when it appeared in this folder */
	uint64_t changed_seq;
	uint64_t
		content_seq; /* newest change beyond read/props: the whole item must be sent again */
	uint32_t origin;     /* of the last change */
	uint64_t body_bytes;
	struct bytes summary, props; /* views */
};

struct item_new {
	enum item_class item_class;
	bool read;
	int64_t time_s;
	struct bytes summary, props, body;
};

int item_add(struct db_txn *txn, uint32_t mailbox, uint32_t folder, const struct item_new *n,
	uint32_t origin, uint64_t *id_out);
int item_get(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id, struct item *out);
/* The folder an item is in now. */
int item_folder(struct db_txn *txn, uint32_t mailbox, uint64_t id, uint32_t *folder_out);
int item_body(struct db_txn *txn, uint32_t mailbox, uint64_t id, struct bytes *body_out);
/* New read state and props (props.p NULL: keep). No change, no journal row. */
int item_set_state(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id, bool read,
	struct bytes props, uint32_t origin);
/* New content: time, read, and each of summary, props and body whose p is not NULL (n 0: none from
 * now on). The class must be the item's own. Always a change. */
int item_set_content(struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id,
	const struct item_new *n, uint32_t origin);
int item_delete(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t id, uint32_t origin);
/* DELETE in the old folder, ADD in the new one. */
int item_move(struct db_txn *txn, uint32_t mailbox, uint32_t from, uint32_t to, uint64_t id,
	uint32_t origin);

/* Next change of a folder with changed_seq > after, oldest first; DB_NOT_FOUND at the end.
 * An item has one row in each folder where it ever was. Only one that left and came back has two,
 * in the order in which a device must hear of them: DELETE, then the live row. created_seq of
 * a DELETE is when the item first came to the folder, so one with created_seq > after is no news.
 * Who stops in the middle of the changes must keep where he began (base): an item may have been
 * created before the stop and have its only row behind it. What has created_seq > base is to be told
 * as new, what has content_seq > base is to be told whole, until the end has been reached. */
struct change {
	uint64_t seq, created_seq, item;
	int64_t time_s;
	uint32_t origin;
	uint8_t kind; /* JOURNAL_ADD: item lives and has created_seq == seq; JOURNAL_CHANGE; JOURNAL_DELETE */
};
int change_next(
	struct db_txn *txn, uint32_t mailbox, uint32_t folder, uint64_t after, struct change *out);
/* Live items by (time_s, id): the greatest below *pos, or the least at or above it. pos is the
 * item found afterwards. */
struct item_pos {
	int64_t time_s;
	uint64_t id;
};
int item_before(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct item_pos *pos);
int item_at_or_after(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct item_pos *pos);

/* Tombstones of changes below the oldest position any device holds may be dropped, and what devices
 * hold of deleted folders; housekeeping, at most max rows per call. Returns rows removed. */
int mailbox_prune(struct db_txn *txn, uint32_t mailbox, size_t max);
/* 1: the mailbox has so many tombstones that may be dropped that pruning it is worth a write. Reads
 * only: at most some hundred rows, and as many again for each folder that has more. */
int mailbox_wants_pruning(struct db_txn *txn, uint32_t mailbox);
enum { MAILBOX_TOMBSTONES_FEW = 256 };

#endif
