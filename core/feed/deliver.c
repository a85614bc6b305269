/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/feed/lmtp.h"

#include "core/eas/message.h"
#include "store/account.h"
#include "store/mailbox.h"
#include "store/writer.h"

enum {
	SUMMARY_ARENA_BYTES = 4 * 1024 * 1024,
	/* Message copies in one transaction: its pages are in memory until the commit. */
	GROUP_BYTES_MAX = 64 * 1024 * 1024,
};

struct delivery {
	const uint32_t *mailboxes;
	size_t n;
	const struct item_new *item;
};

static int write_group(struct db_txn *txn, void *arg)
{
	const struct delivery *d = arg;
	int err = DB_OK;
	uint64_t id;

	for (size_t i = 0; i < d->n && err == DB_OK; i++)
		err = item_add(txn, d->mailboxes[i], FOLDER_ID_INBOX, d->item, 0, &id);
	return err;
}

static int commit(struct db *db, struct writer *w, struct delivery *d)
{
	return w ? writer_write(w, write_group, d) : db_write(db, write_group, d);
}

/* Trouble of the store, not of one mailbox: trying the others alone would not help. */
static bool concerns_all(int err)
{
	switch (err) {
	case DB_MAP_FULL:
	case DB_DISK_FULL:
	case DB_IO:
	case DB_CLOSED:
	case DB_LOST:
	case DB_VERSION:
	case DB_LOCKED:
		return true;
	default:
		return false;
	}
}

int deliver_message(struct db *db, struct writer *w, struct bytes message,
	const uint32_t *mailboxes, size_t n, uint64_t now_ms, int *errors_out)
{
	struct arena a;
	struct message_summary s;
	struct buf summary = {0};
	struct item_new item = {.item_class = ITEM_EMAIL, .time_s = (int64_t)(now_ms / 1000)};
	size_t group = message.n ? GROUP_BYTES_MAX / message.n : n;
	int first = DB_OK;

	arena_init(&a, SUMMARY_ARENA_BYTES);
	message_summarize(message, &a, &s);
	message_summary_encode(&s, &summary);
	if (a.failed || summary.failed) {
		/* Without memory nothing is stored half. */
		for (size_t i = 0; i < n; i++)
			errors_out[i] = DB_IO;
		first = n ? DB_IO : DB_OK;
		goto out;
	}
	item.summary = buf_bytes(&summary);
	item.body = message;
	if (group == 0)
		group = 1;
	for (size_t i = 0; i < n; i += group) {
		struct delivery d = {
			.mailboxes = mailboxes + i,
			.n = n - i < group ? n - i : group,
			.item = &item,
		};
		int err = commit(db, w, &d);

		if (err == DB_OK || d.n == 1 || concerns_all(err)) {
			for (size_t k = 0; k < d.n; k++)
				errors_out[i + k] = err;
			continue;
		}
		/* Nothing of the group was stored; each alone, so that a mailbox that was deleted
		 * since RCPT does not cost the others their mail. */
		for (size_t k = 0; k < d.n; k++) {
			struct delivery one = {
				.mailboxes = mailboxes + i + k, .n = 1, .item = &item};

			errors_out[i + k] = commit(db, w, &one);
		}
	}
	for (size_t i = 0; i < n && first == DB_OK; i++)
		first = errors_out[i];
out:
	buf_free(&summary);
	arena_free(&a);
	return first;
}

int deliver_find(struct db *db, struct bytes address, uint32_t *mailbox_out, bool *disabled_out)
{
	char text[ACCOUNT_ADDRESS_MAX + 1], *at, *plus;
	struct account account;
	struct db_txn txn;
	int err;

	/* What cannot be an address of ours need not be looked for. */
	if (!bytes_to_strz(address, text, sizeof(text)))
		return DB_NOT_FOUND;
	for (char *c = text; *c; c++)
		if (*c >= 'A' && *c <= 'Z')
			*c |= 0x20;
	at = strrchr(text, '@');
	if (!at)
		return DB_NOT_FOUND;
	err = db_read(db, &txn);
	if (err)
		return err;
	err = account_find(&txn, bytes_str(text), &account);
	plus = memchr(text, '+', (size_t)(at - text));
	if ((err == DB_NOT_FOUND || err == DB_INVALID) && plus && plus > text) {
		memmove(plus, at, strlen(at) + 1);
		err = account_find(&txn, bytes_str(text), &account);
	}
	db_read_end(&txn);
	/* An address that no account could have. */
	if (err == DB_INVALID)
		err = DB_NOT_FOUND;
	if (err == DB_OK) {
		*mailbox_out = account.mailbox;
		*disabled_out = account.disabled;
	}
	return err;
}
