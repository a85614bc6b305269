/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/ctl.h"

#include "core/base/arena.h"
#include "core/base/clock.h"
#include "core/config/config.h"
#include "core/eas/message.h"
#include "core/feed/lmtp.h"
#include "store/account.h"
#include "store/mailbox.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

/* --- folders and mail ---------------------------------------------------------------- */

/* Letters of any script, as far as the C library knows them. */
static bool same_name(const char *a, const char *b)
{
	mbstate_t sa = {0}, sb = {0};

	if (!bytes_is_utf8(bytes_str(a)) || !bytes_is_utf8(bytes_str(b)))
		return strcmp(a, b) == 0;
	while (*a && *b) {
		wchar_t ca, cb;
		size_t na = mbrtowc(&ca, a, MB_CUR_MAX, &sa), nb = mbrtowc(&cb, b, MB_CUR_MAX, &sb);

		if (na == 0 || na > 4 || nb == 0 || nb > 4 ||
			towlower((wint_t)ca) != towlower((wint_t)cb))
			return false;
		a += na;
		b += nb;
	}
	return *a == *b;
}

/* By name (any case), else by id. A name that fits to the letter wins over one that does not. */
static enum ctl_exit find_folder(uint32_t mailbox, const char *wanted, struct folder *out)
{
	struct folder f, exact = {0}, loose = {0};
	unsigned exact_n = 0, loose_n = 0, matches;
	struct buf names = {0};
	struct db_txn txn;
	uint32_t id = 0;
	uint64_t number;
	enum ctl_exit code = CTL_DONE;
	int err = db_read(ctl.db, &txn);

	if (err != 0)
		return ctl_store_failed(err);
	while ((err = folder_next(&txn, mailbox, &id, &f)) == 0) {
		if (f.deleted)
			continue;
		buf_printf(&names, "%s%s", names.n ? ", " : "", f.name);
		if (strcmp(f.name, wanted) == 0) {
			exact = f;
			exact_n++;
		} else if (same_name(f.name, wanted)) {
			loose = f;
			loose_n++;
		}
	}
	matches = exact_n ? exact_n : loose_n;
	*out = exact_n ? exact : loose;
	if (err == DB_NOT_FOUND && matches == 0 &&
		bytes_to_u64(bytes_str(wanted), UINT32_MAX, &number) &&
		folder_get(&txn, mailbox, (uint32_t)number, out) == 0 && !out->deleted)
		matches = 1;
	db_read_end(&txn);
	if (err != DB_NOT_FOUND)
		code = ctl_store_failed(err);
	else if (matches == 0)
		code = ctl_complain(CTL_NOT_FOUND, "no folder %s; there are: %.*s", wanted,
			(int)names.n, names.p ? (const char *)names.p : "");
	else if (matches > 1)
		code = ctl_complain(
			CTL_USAGE, "%u folders are named %s: give the id instead", matches, wanted);
	buf_free(&names);
	return code;
}

struct folder_write {
	uint32_t mailbox, folder;
	struct item_new item;
};

static int write_touch(struct db_txn *txn, void *arg)
{
	struct folder_write *w = arg;

	return folder_touch(txn, w->mailbox, w->folder);
}

static int write_item(struct db_txn *txn, void *arg)
{
	struct folder_write *w = arg;
	uint64_t id;

	return item_add(txn, w->mailbox, w->folder, &w->item, 0, &id);
}

enum ctl_exit ctl_change(char **args)
{
	struct folder_write w;
	struct account a;
	struct folder f;
	enum ctl_exit code;
	int err;

	if ((code = ctl_open_store()) != CTL_DONE ||
		(code = ctl_find_account(args[0], &a)) != CTL_DONE ||
		(code = find_folder(a.mailbox, args[1], &f)) != CTL_DONE)
		return code;
	w.mailbox = a.mailbox;
	w.folder = f.id;
	err = db_write(ctl.db, write_touch, &w);
	if (err != 0)
		return ctl_store_failed(err);
	ctl_say("folder %s of %s touched: phones that wait for it are woken", f.name, a.address);
	return CTL_DONE;
}

/* Files carry bare newlines and mailboxes a "From " line; mail has CRLF. */
static enum ctl_exit read_message(struct buf *out)
{
	static uint8_t chunk[65536];
	uint64_t max = (uint64_t)ctl.config->lmtp_message_bytes_max;
	struct bytes in;
	struct buf raw = {0};
	ssize_t n;
	size_t from = 0;

	if (isatty(STDIN_FILENO))
		fprintf(stderr, "Type the message, headers first; end with Ctrl-D.\n");
	while ((n = read(STDIN_FILENO, chunk, sizeof(chunk))) > 0 && raw.n <= max)
		buf_add(&raw, chunk, (size_t)n);
	in = buf_bytes(&raw);
	if (in.n >= 5 && memcmp(in.p, "From ", 5) == 0) {
		const uint8_t *end = memchr(in.p, '\n', in.n);

		from = end ? (size_t)(end - in.p) + 1 : in.n;
	}
	for (size_t i = from; i < in.n; i++) {
		if (in.p[i] == '\n' && (i == from || in.p[i - 1] != '\r'))
			buf_add_byte(out, '\r');
		buf_add_byte(out, in.p[i]);
	}
	if (n < 0)
		ctl_complain(CTL_FAILED, "cannot read the message: %s", strerror(errno));
	else if (out->n > max)
		ctl_complain(CTL_FAILED,
			"the message is larger than lmtp.message_bytes_max (%" PRIu64 ")", max);
	else if (raw.failed || out->failed)
		ctl_complain(CTL_FAILED, "no memory for the message");
	else if (out->n == 0)
		ctl_complain(CTL_USAGE,
			"no message on standard input: roostctl deliver ADDRESS < mail.eml");
	n = n < 0 || raw.failed || out->failed || out->n > max ? CTL_FAILED
	    : out->n == 0                                      ? CTL_USAGE
							       : CTL_DONE;
	buf_free(&raw);
	return (enum ctl_exit)n;
}

static int deliver_to_folder(struct folder_write *w, struct bytes message)
{
	struct message_summary summary;
	struct arena arena;
	struct buf stored = {0};
	int err = DB_IO;

	message_init();
	arena_init(&arena, 64u << 20);
	message_summarize(message, &arena, &summary);
	message_summary_encode(&summary, &stored);
	w->item = (struct item_new){.item_class = ITEM_EMAIL,
		.time_s = (int64_t)(clock_wall_ms() / 1000),
		.summary = buf_bytes(&stored),
		.body = message};
	if (!stored.failed)
		err = db_write(ctl.db, write_item, w);
	buf_free(&stored);
	arena_free(&arena);
	return err;
}

enum ctl_exit ctl_deliver(char **args)
{
	struct folder_write w = {0};
	struct buf message = {0};
	struct folder f = {0};
	uint32_t mailbox;
	bool disabled;
	enum ctl_exit code;
	int err, each = 0;

	if ((code = ctl_open_store()) != CTL_DONE)
		return code;
	err = deliver_find(ctl.db, bytes_str(args[0]), &mailbox, &disabled);
	if (err == DB_NOT_FOUND)
		return ctl_no_account(args[0]);
	if (err != 0)
		return ctl_store_failed(err);
	if (ctl.folder) {
		if ((code = find_folder(mailbox, ctl.folder, &f)) != CTL_DONE)
			return code;
		if (folder_class((enum folder_type)f.type) != ITEM_EMAIL)
			return ctl_complain(CTL_USAGE, "folder %s does not hold mail", f.name);
	}
	if ((code = read_message(&message)) != CTL_DONE)
		goto out;
	if (ctl.folder) {
		w.mailbox = mailbox;
		w.folder = f.id;
		err = deliver_to_folder(&w, buf_bytes(&message));
	} else {
		err = deliver_message(
			ctl.db, NULL, buf_bytes(&message), &mailbox, 1, clock_wall_ms(), &each);
		err = err != 0 ? err : each;
	}
	if (err != 0) {
		code = ctl_store_failed(err);
		goto out;
	}
	ctl_say("delivered %zu bytes to %s of %s", message.n, ctl.folder ? f.name : "the inbox",
		args[0]);
out:
	buf_free(&message);
	return code;
}
