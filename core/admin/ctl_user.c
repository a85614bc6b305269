/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/ctl.h"

#include "core/access/credentials.h"
#include "core/admin/admin_priv.h"
#include "core/admin/table.h"
#include "core/base/clock.h"
#include "core/config/config.h"
#include "store/device.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

/* --- passwords ----------------------------------------------------------------------- */

enum { PASSWORD_BYTES = 256 }; /* as long as the server takes them */

/* Reads one line without echo. The terminal's signals are off meanwhile, so that ^C comes as a byte
 * and never leaves a terminal without echo behind. */
static bool prompt(const char *text, char out[PASSWORD_BYTES])
{
	struct termios was, quiet;
	int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
	size_t n = 0;
	bool ok = false;
	char c;

	if (tty < 0 || tcgetattr(tty, &was) != 0) {
		if (tty >= 0)
			close(tty);
		return false;
	}
	quiet = was;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
	tcsetattr(tty, TCSAFLUSH, &quiet);
	dprintf(tty, "%s: ", text);
	while (read(tty, &c, 1) == 1) {
		if (c == 3)
			break;
		if (c == '\n' || c == '\r') {
			ok = true;
			break;
		}
		if (n < PASSWORD_BYTES)
			out[n++] = c;
	}
	tcsetattr(tty, TCSAFLUSH, &was);
	dprintf(tty, "\n");
	close(tty);
	if (n >= PASSWORD_BYTES)
		n = PASSWORD_BYTES - 1; /* is refused below for its length */
	out[n] = 0;
	return ok;
}

static enum ctl_exit read_password(char out[PASSWORD_BYTES])
{
	char line[PASSWORD_BYTES + 2];
	ssize_t got;
	size_t n = 0;

	if (!(ctl.given & OPT_PASSWORD)) {
		if (!prompt("Password", out))
			return ctl_complain(CTL_USAGE, "no password: there is no terminal to ask "
						       "on; use --password-stdin");
		if (!prompt("Again", line))
			return ctl_complain(CTL_FAILED, "cancelled");
		n = strlen(out);
		if (strcmp(out, line) != 0)
			n = SIZE_MAX;
		sodium_memzero(line, sizeof(line));
		if (n == SIZE_MAX)
			return ctl_complain(
				CTL_FAILED, "the two passwords differ; nothing was changed");
	} else {
		while (n < sizeof(line) &&
			(got = read(STDIN_FILENO, line + n, sizeof(line) - n)) > 0) {
			n += (size_t)got;
			if (memchr(line, '\n', n))
				break;
		}
		for (size_t i = 0; i < n; i++)
			if (line[i] == '\n')
				n = i;
		if (n > 0 && line[n - 1] == '\r')
			n--;
		if (n < PASSWORD_BYTES && memchr(line, 0, n))
			return ctl_complain(CTL_USAGE, "a password cannot hold a NUL byte");
		memcpy(out, line, n < PASSWORD_BYTES ? n : PASSWORD_BYTES - 1);
		out[n < PASSWORD_BYTES ? n : PASSWORD_BYTES - 1] = 0;
		sodium_memzero(line, sizeof(line));
	}
	if (n == 0)
		return ctl_complain(CTL_USAGE, "the password is empty");
	if (n >= PASSWORD_BYTES - 1)
		return ctl_complain(CTL_USAGE, "the password is too long: at most %d bytes",
			PASSWORD_BYTES - 2);
	return CTL_DONE;
}

/* Asked and hashed before the store is written: hashing takes its time. */
static enum ctl_exit new_hash(char out[ACCOUNT_HASH_MAX])
{
	char password[PASSWORD_BYTES];
	enum ctl_exit code = read_password(password);
	bool ok = code == CTL_DONE && cred_hash(ctl.config->auth_hash_cost, password, out);

	sodium_memzero(password, sizeof(password));
	if (code == CTL_DONE && !ok)
		return ctl_complain(CTL_FAILED, "cannot hash the password: not enough memory");
	return code;
}

/* --- user ---------------------------------------------------------------------------- */

struct user_write {
	struct bytes address;
	const char *hash, *name;
	bool disabled;
	struct account account;
};

static int write_user_add(struct db_txn *txn, void *arg)
{
	struct user_write *w = arg;

	return account_create(txn, w->address, w->hash, w->name, clock_wall_ms(), &w->account);
}

static int write_user_passwd(struct db_txn *txn, void *arg)
{
	struct user_write *w = arg;

	return account_set_password(txn, w->address, w->hash);
}

static int write_user_disabled(struct db_txn *txn, void *arg)
{
	struct user_write *w = arg;

	return account_set_disabled(txn, w->address, w->disabled);
}

static int write_user_del(struct db_txn *txn, void *arg)
{
	struct user_write *w = arg;

	return account_delete(txn, w->address);
}

enum ctl_exit ctl_user_add(char **args)
{
	char hash[ACCOUNT_HASH_MAX];
	struct user_write w = {
		.address = bytes_str(args[0]), .hash = hash, .name = ctl.name ? ctl.name : ""};
	struct account there;
	struct db_txn txn;
	enum ctl_exit code;
	int err;

	if (!account_address_ok(w.address))
		return ctl_complain(CTL_USAGE, "%s is no address; allowed: user@domain", args[0]);
	if (strlen(w.name) >= ACCOUNT_NAME_MAX || !bytes_is_utf8(bytes_str(w.name)))
		return ctl_complain(CTL_USAGE, "--name: allowed: UTF-8 of at most %d bytes",
			ACCOUNT_NAME_MAX - 1);
	if ((code = ctl_open_store_as(true, true)) != CTL_DONE)
		return code;
	/* Before asking for a password that will not be used. */
	if (db_read(ctl.db, &txn) == 0) {
		err = account_find(&txn, w.address, &there);
		db_read_end(&txn);
		if (err == 0)
			return ctl_complain(CTL_EXISTS, "account %s already exists", there.address);
	}
	if ((code = new_hash(hash)) != CTL_DONE)
		return code;
	err = db_write(ctl.db, write_user_add, &w);
	if (err == DB_EXISTS)
		return ctl_complain(CTL_EXISTS, "account %s already exists", args[0]);
	if (err != 0)
		return ctl_store_failed(err);
	ctl_say("account %s added", w.account.address);
	return CTL_DONE;
}

static enum ctl_exit user_write(char **args, db_write_fn *fn, bool disabled, const char *done)
{
	char hash[ACCOUNT_HASH_MAX];
	struct user_write w = {.address = bytes_str(args[0]), .hash = hash, .disabled = disabled};
	enum ctl_exit code;
	int err;

	if ((code = ctl_open_store()) != CTL_DONE ||
		(code = ctl_find_account(args[0], &w.account)) != CTL_DONE)
		return code;
	if (fn == write_user_passwd && (code = new_hash(hash)) != CTL_DONE)
		return code;
	err = db_write(ctl.db, fn, &w);
	if (err == DB_NOT_FOUND)
		return ctl_no_account(args[0]);
	if (err != 0)
		return ctl_store_failed(err);
	ctl_say("account %s %s", w.account.address, done);
	return CTL_DONE;
}

enum ctl_exit ctl_user_passwd(char **args)
{
	return user_write(args, write_user_passwd, false, "has a new password");
}

enum ctl_exit ctl_user_disable(char **args)
{
	return user_write(args, write_user_disabled, true, "is disabled; its phones get 403");
}

enum ctl_exit ctl_user_enable(char **args)
{
	return user_write(args, write_user_disabled, false, "is enabled");
}

enum ctl_exit ctl_user_del(char **args)
{
	char typed[ACCOUNT_ADDRESS_MAX + 2];

	/* Mail is gone with it, so a person is asked. A script has no terminal. */
	if (!(ctl.given & OPT_YES) && isatty(STDIN_FILENO)) {
		fprintf(stderr, "This deletes the account with all its mail and devices.\n"
				"Type the address to go on: ");
		if (!fgets(typed, sizeof(typed), stdin))
			typed[0] = 0;
		typed[strcspn(typed, "\n")] = 0;
		if (strcasecmp(typed, args[0]) != 0)
			return ctl_complain(CTL_FAILED, "nothing was deleted");
	}
	return user_write(args, write_user_del, false, "deleted, with its mail and devices");
}

enum ctl_exit ctl_user_list(char **args)
{
	static const char *const titles[] = {
		"ADDRESS", "NAME", "STATE", ">DEVICES", "LAST SEEN", "CREATED", NULL};
	char cursor[ACCOUNT_ADDRESS_MAX + 1] = "", text[TIME_TEXT_BYTES];
	uint64_t now = clock_wall_ms();
	json_t *list = json_array();
	struct account a;
	struct table t;
	struct db_txn txn;
	enum ctl_exit code;
	int err;

	(void)args;
	table_init(&t, titles);
	if ((code = ctl_open_store()) != CTL_DONE)
		goto out;
	if ((err = db_read(ctl.db, &txn)) != 0) {
		code = ctl_store_failed(err);
		goto out;
	}
	while ((err = account_next(&txn, cursor, &a)) == 0) {
		struct device d;
		uint32_t id = 0;
		uint64_t devices = 0, seen = 0;

		for (; device_next(&txn, a.mailbox, &id, &d) == 0; devices++)
			seen = d.last_seen_ms > seen ? d.last_seen_ms : seen;
		if (ctl_want_json()) {
			json_array_append_new(list,
				json_pack("{s:o, s:o, s:b, s:b, s:I, s:o, s:o, s:I}", "address",
					admin_text_json(a.address), "name",
					admin_text_json(a.display_name), "disabled", a.disabled,
					"has_password", a.password_hash[0] != 0, "devices",
					(json_int_t)devices, "last_seen", admin_time_json(seen),
					"created", admin_time_json(a.created_ms), "mailbox",
					(json_int_t)a.mailbox));
			continue;
		}
		table_add(&t, a.address);
		table_add(&t, a.display_name);
		table_add(&t, a.disabled           ? "disabled"
			      : a.password_hash[0] ? "enabled"
						   : "no password");
		table_addf(&t, "%" PRIu64, devices);
		table_add(&t, time_short(seen, now, text));
		table_add(&t, time_short(a.created_ms, now, text));
	}
	db_read_end(&txn);
	if (err != DB_NOT_FOUND) {
		code = ctl_store_failed(err);
		goto out;
	}
	if (ctl_want_json())
		ctl_print_json(json_incref(list));
	else
		table_print(&t, stdout, ctl_terminal_width(), SIZE_MAX);
out:
	json_decref(list);
	table_free(&t);
	return code;
}
