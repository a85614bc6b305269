/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/account.h - who may log in, and which mailbox is theirs.
 * Addresses are stored lower-cased (ASCII); user@domain. Every change appends JOURNAL_ACCOUNT.
 * Thread, memory, errors: see db.h. */
#ifndef ROOST_STORE_ACCOUNT_H
#define ROOST_STORE_ACCOUNT_H

#include "store/db.h"

enum { ACCOUNT_ADDRESS_MAX = 254, ACCOUNT_HASH_MAX = 128, ACCOUNT_NAME_MAX = 128 };

struct account {
	uint32_t mailbox;
	bool disabled;
	uint32_t password_generation; /* grows with every password change */
	char address[ACCOUNT_ADDRESS_MAX + 1];
	char password_hash
		[ACCOUNT_HASH_MAX]; /* libsodium's Argon2id string; empty: cannot log in */
	char display_name[ACCOUNT_NAME_MAX];
	uint64_t created_ms;
};

/* True when it has one '@', a local part and a domain of acceptable characters and lengths. */
bool account_address_ok(struct bytes address);
/* Creates the account, its mailbox and the standard folder tree. DB_EXISTS. */
int account_create(struct db_txn *txn, struct bytes address, const char *password_hash,
	const char *display_name, uint64_t now_ms, struct account *out);
int account_find(struct db_txn *txn, struct bytes address, struct account *out);
/* By mailbox: what the hot path asks at every request (one small record). */
struct account_gate {
	bool disabled;
	uint32_t password_generation;
};
int account_gate(struct db_txn *txn, uint32_t mailbox, struct account_gate *out);
int account_by_mailbox(struct db_txn *txn, uint32_t mailbox, struct account *out);
/* Its address only, for a log line. */
int account_address(struct db_txn *txn, uint32_t mailbox, char out[ACCOUNT_ADDRESS_MAX + 1]);
int account_set_password(struct db_txn *txn, struct bytes address, const char *password_hash);
int account_set_disabled(struct db_txn *txn, struct bytes address, bool disabled);
/* With mailbox, items, devices and states. */
int account_delete(struct db_txn *txn, struct bytes address);
/* Accounts in address order, beginning after *cursor ("" first); DB_NOT_FOUND at the end. The
 * cursor is set to the address found. */
int account_next(struct db_txn *txn, char cursor[ACCOUNT_ADDRESS_MAX + 1], struct account *out);

#endif
