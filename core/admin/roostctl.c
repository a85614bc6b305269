/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roostctl - the administrator's program.
 * Verbs on accounts, devices and folders open the store themselves, so they work with the server
 * running or not: a commit of any process wakes the server's phones. Verbs about requests under way
 * ask the server over its control socket. */
#include "core/access/credentials.h"
#include "core/admin/admin_priv.h"
#include "core/admin/table.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/config.h"
#include "core/eas/message.h"
#include "core/feed/lmtp.h"
#include "core/version.h"
#include "store/account.h"
#include "store/check.h"
#include "store/device.h"
#include "store/mailbox.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

enum exit_code { DONE, FAILED, USAGE, NOT_FOUND, EXISTS, NOT_RUNNING };

/* Options, as bits: which were given, and which a verb takes. */
enum {
	O_PASSWORD = 1 << 0,
	O_NAME = 1 << 1,
	O_FOLDER = 1 << 2,
	O_USER = 1 << 3,
	O_JSON = 1 << 4,
	O_ONCE = 1 << 5,
	O_LIMIT = 1 << 6,
	O_DEVICE = 1 << 7,
	O_YES = 1 << 8,
};

static struct {
	unsigned given;
	const char *data, *config_path, *socket, *name, *folder, *user, *device;
	uint64_t limit;
	struct config *config;
	struct db *db;
} ctl;

/* --- saying what happened -----------------------------------------------------------------------
 */

static enum exit_code complain(enum exit_code code, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static enum exit_code complain(enum exit_code code, const char *fmt, ...)
{
	char text[1024];
	struct buf safe = {0};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text_safe(&safe, text, false);
	fprintf(stderr, "roostctl: %.*s\n", (int)safe.n, (const char *)safe.p);
	buf_free(&safe);
	return code;
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	char text[1024];
	struct buf safe = {0};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text_safe(&safe, text, true);
	printf("%.*s\n", (int)safe.n, (const char *)safe.p);
	buf_free(&safe);
}

static bool want_json(void)
{
	return ctl.given & O_JSON;
}

/* Takes the reference. */
static void print_json(json_t *j)
{
	CHECK(j);
	json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
	putchar('\n');
	json_decref(j);
}

static size_t terminal_width(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
		return 0; /* a file or a pipe takes lines of any length */
	return size.ws_col;
}

/* --- store --------------------------------------------------------------------------------------
 */

/* --set and command line come last in roostd; here --data does. The file is read when it is named,
 * or when the usual one can be read. */
static enum exit_code load_config(void)
{
	char why[600];
	const char *path = ctl.config_path;

	ctl.config = config_new();
	if (!path && access(CONFIG_PATH_DEFAULT, R_OK) == 0)
		path = CONFIG_PATH_DEFAULT;
	if (path && !config_read_file(ctl.config, path, why, sizeof(why))) {
		/* With --data the file is not needed to get a server going again. */
		if (!ctl.data || ctl.config_path)
			return complain(FAILED, "%s", why);
		complain(FAILED, "%s (going on without the file)", why);
		config_free(&ctl.config);
		ctl.config = config_new();
	}
	if (!config_read_environment(ctl.config, environ, why, sizeof(why)))
		return complain(FAILED, "%s", why);
	if (ctl.data) {
		free(ctl.config->store_dir);
		ctl.config->store_dir = strdup(ctl.data);
		CHECK(ctl.config->store_dir);
	}
	return DONE;
}

/* What root makes in the server's directory the server could not open afterwards. */
static void become_owner(const char *dir)
{
	struct stat st;

	if (geteuid() != 0 || stat(dir, &st) != 0 || st.st_uid == 0)
		return;
	if (setegid(st.st_gid) != 0 || seteuid(st.st_uid) != 0)
		complain(FAILED, "cannot work as the owner of %s: %s", dir, strerror(errno));
}

static enum exit_code open_store_as(bool create, bool as_owner)
{
	struct db_options o = {.dir = ctl.config->store_dir,
		.map_bytes = (uint64_t)ctl.config->store_map_mib << 20,
		.map_bytes_max = (uint64_t)ctl.config->store_map_max_mib << 20,
		.create = create};
	char why[600] = "";

	if (as_owner)
		become_owner(o.dir);
	if (db_open(&o, &ctl.db, why, sizeof(why)) != 0) {
		ctl.db = NULL;
		return complain(
			FAILED, "cannot open the store: %s (--data DIR names another)", why);
	}
	return DONE;
}

static enum exit_code open_store(void)
{
	return open_store_as(false, true);
}

static enum exit_code store_failed(int err)
{
	return complain(err == DB_NOT_FOUND ? NOT_FOUND
			: err == DB_EXISTS  ? EXISTS
					    : FAILED,
		"the store says: %s", db_strerror(err));
}

static enum exit_code no_account(const char *address)
{
	return complain(NOT_FOUND, "no account %s (roostctl user list shows them)", address);
}

/* DB_NOT_FOUND is told; others too. */
static enum exit_code find_account(const char *address, struct account *out)
{
	struct db_txn txn;
	int err = db_read(ctl.db, &txn);

	if (err != 0)
		return store_failed(err);
	err = account_find(&txn, bytes_str(address), out);
	db_read_end(&txn);
	if (err == DB_NOT_FOUND)
		return no_account(address);
	return err != 0 ? store_failed(err) : DONE;
}

/* --- passwords ----------------------------------------------------------------------------------
 */

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

static enum exit_code read_password(char out[PASSWORD_BYTES])
{
	char line[PASSWORD_BYTES + 2];
	ssize_t got;
	size_t n = 0;

	if (!(ctl.given & O_PASSWORD)) {
		if (!prompt("Password", out))
			return complain(USAGE, "no password: there is no terminal to ask on; use "
					       "--password-stdin");
		if (!prompt("Again", line))
			return complain(FAILED, "cancelled");
		n = strlen(out);
		if (strcmp(out, line) != 0)
			n = SIZE_MAX;
		sodium_memzero(line, sizeof(line));
		if (n == SIZE_MAX)
			return complain(FAILED, "the two passwords differ; nothing was changed");
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
			return complain(USAGE, "a password cannot hold a NUL byte");
		memcpy(out, line, n < PASSWORD_BYTES ? n : PASSWORD_BYTES - 1);
		out[n < PASSWORD_BYTES ? n : PASSWORD_BYTES - 1] = 0;
		sodium_memzero(line, sizeof(line));
	}
	if (n == 0)
		return complain(USAGE, "the password is empty");
	if (n >= PASSWORD_BYTES - 1)
		return complain(
			USAGE, "the password is too long: at most %d bytes", PASSWORD_BYTES - 2);
	return DONE;
}

/* Asked and hashed before the store is written: hashing takes its time. */
static enum exit_code new_hash(char out[ACCOUNT_HASH_MAX])
{
	char password[PASSWORD_BYTES];
	enum exit_code code = read_password(password);
	bool ok = code == DONE && cred_hash(ctl.config->auth_hash_cost, password, out);

	sodium_memzero(password, sizeof(password));
	if (code == DONE && !ok)
		return complain(FAILED, "cannot hash the password: not enough memory");
	return code;
}

/* --- user ---------------------------------------------------------------------------------------
 */

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

static enum exit_code user_add(char **args)
{
	char hash[ACCOUNT_HASH_MAX];
	struct user_write w = {
		.address = bytes_str(args[0]), .hash = hash, .name = ctl.name ? ctl.name : ""};
	struct account there;
	struct db_txn txn;
	enum exit_code code;
	int err;

	if (!account_address_ok(w.address))
		return complain(USAGE, "%s is no address; allowed: user@domain", args[0]);
	if (strlen(w.name) >= ACCOUNT_NAME_MAX || !bytes_is_utf8(bytes_str(w.name)))
		return complain(
			USAGE, "--name: allowed: UTF-8 of at most %d bytes", ACCOUNT_NAME_MAX - 1);
	if ((code = open_store_as(true, true)) != DONE)
		return code;
	/* Before asking for a password that will not be used. */
	if (db_read(ctl.db, &txn) == 0) {
		err = account_find(&txn, w.address, &there);
		db_read_end(&txn);
		if (err == 0)
			return complain(EXISTS, "account %s already exists", there.address);
	}
	if ((code = new_hash(hash)) != DONE)
		return code;
	err = db_write(ctl.db, write_user_add, &w);
	if (err == DB_EXISTS)
		return complain(EXISTS, "account %s already exists", args[0]);
	if (err != 0)
		return store_failed(err);
	say("account %s added", w.account.address);
	return DONE;
}

static enum exit_code user_write(char **args, db_write_fn *fn, bool disabled, const char *done)
{
	char hash[ACCOUNT_HASH_MAX];
	struct user_write w = {.address = bytes_str(args[0]), .hash = hash, .disabled = disabled};
	enum exit_code code;
	int err;

	if ((code = open_store()) != DONE || (code = find_account(args[0], &w.account)) != DONE)
		return code;
	if (fn == write_user_passwd && (code = new_hash(hash)) != DONE)
		return code;
	err = db_write(ctl.db, fn, &w);
	if (err == DB_NOT_FOUND)
		return no_account(args[0]);
	if (err != 0)
		return store_failed(err);
	say("account %s %s", w.account.address, done);
	return DONE;
}

static enum exit_code user_passwd(char **args)
{
	return user_write(args, write_user_passwd, false, "has a new password");
}

static enum exit_code user_disable(char **args)
{
	return user_write(args, write_user_disabled, true, "is disabled; its phones get 403");
}

static enum exit_code user_enable(char **args)
{
	return user_write(args, write_user_disabled, false, "is enabled");
}

static enum exit_code user_del(char **args)
{
	char typed[ACCOUNT_ADDRESS_MAX + 2];

	/* Mail is gone with it, so a person is asked. A script has no terminal. */
	if (!(ctl.given & O_YES) && isatty(STDIN_FILENO)) {
		fprintf(stderr, "This deletes the account with all its mail and devices.\n"
				"Type the address to go on: ");
		if (!fgets(typed, sizeof(typed), stdin))
			typed[0] = 0;
		typed[strcspn(typed, "\n")] = 0;
		if (strcasecmp(typed, args[0]) != 0)
			return complain(FAILED, "nothing was deleted");
	}
	return user_write(args, write_user_del, false, "deleted, with its mail and devices");
}

static enum exit_code user_list(char **args)
{
	static const char *const titles[] = {
		"ADDRESS", "NAME", "STATE", ">DEVICES", "LAST SEEN", "CREATED", NULL};
	char cursor[ACCOUNT_ADDRESS_MAX + 1] = "", text[TIME_TEXT_BYTES];
	uint64_t now = clock_wall_ms();
	json_t *list = json_array();
	struct account a;
	struct table t;
	struct db_txn txn;
	enum exit_code code;
	int err;

	(void)args;
	table_init(&t, titles);
	if ((code = open_store()) != DONE)
		goto out;
	if ((err = db_read(ctl.db, &txn)) != 0) {
		code = store_failed(err);
		goto out;
	}
	while ((err = account_next(&txn, cursor, &a)) == 0) {
		struct device d;
		uint32_t id = 0;
		uint64_t devices = 0, seen = 0;

		for (; device_next(&txn, a.mailbox, &id, &d) == 0; devices++)
			seen = d.last_seen_ms > seen ? d.last_seen_ms : seen;
		if (want_json()) {
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
		code = store_failed(err);
		goto out;
	}
	if (want_json())
		print_json(json_incref(list));
	else
		table_print(&t, stdout, terminal_width(), SIZE_MAX);
out:
	json_decref(list);
	table_free(&t);
	return code;
}

/* --- folders and mail ---------------------------------------------------------------------------
 */

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
static enum exit_code find_folder(uint32_t mailbox, const char *wanted, struct folder *out)
{
	struct folder f, exact = {0}, loose = {0};
	unsigned exact_n = 0, loose_n = 0, matches;
	struct buf names = {0};
	struct db_txn txn;
	uint32_t id = 0;
	uint64_t number;
	enum exit_code code = DONE;
	int err = db_read(ctl.db, &txn);

	if (err != 0)
		return store_failed(err);
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
		code = store_failed(err);
	else if (matches == 0)
		code = complain(NOT_FOUND, "no folder %s; there are: %.*s", wanted, (int)names.n,
			names.p ? (const char *)names.p : "");
	else if (matches > 1)
		code = complain(
			USAGE, "%u folders are named %s: give the id instead", matches, wanted);
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

static enum exit_code change(char **args)
{
	struct folder_write w;
	struct account a;
	struct folder f;
	enum exit_code code;
	int err;

	if ((code = open_store()) != DONE || (code = find_account(args[0], &a)) != DONE ||
		(code = find_folder(a.mailbox, args[1], &f)) != DONE)
		return code;
	w.mailbox = a.mailbox;
	w.folder = f.id;
	err = db_write(ctl.db, write_touch, &w);
	if (err != 0)
		return store_failed(err);
	say("folder %s of %s touched: phones that wait for it are woken", f.name, a.address);
	return DONE;
}

/* Files carry bare newlines and mailboxes a "From " line; mail has CRLF. */
static enum exit_code read_message(struct buf *out)
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
		complain(FAILED, "cannot read the message: %s", strerror(errno));
	else if (out->n > max)
		complain(FAILED, "the message is larger than lmtp.message_bytes_max (%" PRIu64 ")",
			max);
	else if (raw.failed || out->failed)
		complain(FAILED, "no memory for the message");
	else if (out->n == 0)
		complain(
			USAGE, "no message on standard input: roostctl deliver ADDRESS < mail.eml");
	n = n < 0 || raw.failed || out->failed || out->n > max ? FAILED
	    : out->n == 0                                      ? USAGE
							       : DONE;
	buf_free(&raw);
	return (enum exit_code)n;
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

static enum exit_code deliver(char **args)
{
	struct folder_write w = {0};
	struct buf message = {0};
	struct folder f = {0};
	uint32_t mailbox;
	bool disabled;
	enum exit_code code;
	int err, each = 0;

	if ((code = open_store()) != DONE)
		return code;
	err = deliver_find(ctl.db, bytes_str(args[0]), &mailbox, &disabled);
	if (err == DB_NOT_FOUND)
		return no_account(args[0]);
	if (err != 0)
		return store_failed(err);
	if (ctl.folder) {
		if ((code = find_folder(mailbox, ctl.folder, &f)) != DONE)
			return code;
		if (folder_class((enum folder_type)f.type) != ITEM_EMAIL)
			return complain(USAGE, "folder %s does not hold mail", f.name);
	}
	if ((code = read_message(&message)) != DONE)
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
		code = store_failed(err);
		goto out;
	}
	say("delivered %zu bytes to %s of %s", message.n, ctl.folder ? f.name : "the inbox",
		args[0]);
out:
	buf_free(&message);
	return code;
}

/* --- devices ------------------------------------------------------------------------------------
 */

struct found_device {
	char address[ACCOUNT_ADDRESS_MAX + 1];
	uint32_t mailbox;
	struct device device;
};

/* Calls one for every device (of --user, or of all accounts) whose DeviceId is `wanted` (NULL:
 * any). The store is read in one go, and one must not print: a slow pipe would hold the snapshot.
 */
static enum exit_code each_device(const char *wanted,
	void (*one)(void *ctx, struct db_txn *txn, const struct found_device *d), void *ctx)
{
	char cursor[ACCOUNT_ADDRESS_MAX + 1] = "";
	struct found_device d;
	struct account a;
	struct db_txn txn;
	int err = db_read(ctl.db, &txn);

	if (err != 0)
		return store_failed(err);
	for (;;) {
		uint32_t id = 0;

		if (ctl.user)
			err = account_find(&txn, bytes_str(ctl.user), &a);
		else
			err = account_next(&txn, cursor, &a);
		if (err != 0)
			break;
		strcpy(d.address, a.address);
		d.mailbox = a.mailbox;
		while ((err = device_next(&txn, a.mailbox, &id, &d.device)) == 0)
			if (!wanted || bytes_eq_nocase(bytes_str(d.device.device_id), wanted))
				one(ctx, &txn, &d);
		if (err != DB_NOT_FOUND)
			break;
		if (ctl.user) {
			db_read_end(&txn);
			return DONE;
		}
	}
	db_read_end(&txn);
	if (err == DB_NOT_FOUND)
		return ctl.user ? no_account(ctl.user) : DONE;
	return store_failed(err);
}

static const char *device_state(const struct device *d)
{
	if (d->blocked)
		return "blocked";
	return d->policy_key ? "allowed" : "not provisioned";
}

static const char *device_version(const struct device *d, char out[16])
{
	if (d->version)
		snprintf(out, 16, "%u.%u", d->version / 10u, d->version % 10u);
	else
		snprintf(out, 16, "-");
	return out;
}

struct device_rows {
	struct table table;
	json_t *json;
	uint64_t now_ms;
	struct buf text;
	size_t n;
};

static json_t *device_json(const struct found_device *f)
{
	const struct device *d = &f->device;
	char version[16];
	json_t *j = json_object();
	const struct {
		const char *key, *value;
	} texts[] = {{"user", f->address}, {"device", d->device_id}, {"type", d->device_type},
		{"state", device_state(d)}, {"model", d->model}, {"os", d->os},
		{"agent", d->user_agent}, {"friendly_name", d->friendly_name},
		{"phone_number", d->phone_number}, {"imei", d->imei},
		{"os_language", d->os_language}, {"mobile_operator", d->mobile_operator},
		{"last_address", d->last_address}, {"version", device_version(d, version)}};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		json_object_set_new(j, texts[i].key, admin_text_json(texts[i].value));
	json_object_set_new(j, "first_seen", admin_time_json(d->first_seen_ms));
	json_object_set_new(j, "last_seen", admin_time_json(d->last_seen_ms));
	json_object_set_new(j, "blocked", json_boolean(d->blocked));
	json_object_set_new(j, "id", json_integer(d->id));
	return j;
}

static void device_list_one(void *ctx, struct db_txn *txn, const struct found_device *f)
{
	struct device_rows *r = ctx;
	const struct device *d = &f->device;
	char text[TIME_TEXT_BYTES], version[16];

	(void)txn;
	r->n++;
	if (want_json()) {
		json_array_append_new(r->json, device_json(f));
		return;
	}
	table_add(&r->table, f->address);
	table_add(&r->table, d->device_id);
	table_add(&r->table, d->device_type);
	table_add(&r->table, d->model);
	table_add(&r->table, device_version(d, version));
	table_add(&r->table, device_state(d));
	table_add(&r->table, time_short(d->last_seen_ms, r->now_ms, text));
	table_add(&r->table, d->last_address);
}

static enum exit_code device_list(char **args)
{
	static const char *const titles[] = {
		"USER", "DEVICE", "TYPE", "MODEL", "VERSION", "STATE", "LAST SEEN", "FROM", NULL};
	struct device_rows r = {.now_ms = clock_wall_ms(), .json = json_array()};
	enum exit_code code;

	(void)args;
	table_init(&r.table, titles);
	if ((code = open_store()) == DONE &&
		(code = each_device(NULL, device_list_one, &r)) == DONE) {
		if (want_json())
			print_json(json_incref(r.json));
		else
			table_print(&r.table, stdout, terminal_width(), SIZE_MAX);
	}
	json_decref(r.json);
	table_free(&r.table);
	return code;
}

static const char *folder_name(
	struct db_txn *txn, uint32_t mailbox, uint32_t id, char out[FOLDER_NAME_MAX + 1])
{
	struct folder f;

	if (folder_get(txn, mailbox, id, &f) == 0)
		strcpy(out, f.name);
	else
		snprintf(out, FOLDER_NAME_MAX + 1, "%" PRIu32, id);
	return out;
}

static void device_show_text(
	struct device_rows *r, struct db_txn *txn, const struct found_device *f)
{
	static const char *const spans[] = {
		"all", "1 day", "3 days", "1 week", "2 weeks", "1 month"};
	const struct device *d = &f->device;
	char a[TIME_TEXT_BYTES], name[FOLDER_NAME_MAX + 1], version[16];
	const struct {
		const char *title, *value;
	} texts[] = {{"Device", d->device_id}, {"User", f->address}, {"State", device_state(d)},
		{"Type", d->device_type}, {"Model", d->model}, {"OS", d->os},
		{"User agent", d->user_agent}, {"Name", d->friendly_name},
		{"Phone number", d->phone_number}, {"IMEI", d->imei}, {"Language", d->os_language},
		{"Operator", d->mobile_operator}, {"Protocol", device_version(d, version)},
		{"Last address", d->last_address}};
	struct collection c;
	uint32_t folder = 0;

	if (r->text.n)
		buf_add_byte(&r->text, '\n');
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		if (!texts[i].value[0])
			continue;
		buf_printf(&r->text, "%-15s", texts[i].title);
		text_safe(&r->text, texts[i].value, false);
		buf_add_byte(&r->text, '\n');
	}
	buf_printf(&r->text, "%-15s%s\n", "First seen", time_long(d->first_seen_ms, r->now_ms, a));
	buf_printf(&r->text, "%-15s%s\n", "Last seen", time_long(d->last_seen_ms, r->now_ms, a));
	if (d->ping_folder_count) {
		buf_printf(&r->text, "%-15sheartbeat %u s:", "Last Ping", d->ping_heartbeat_s);
		for (uint32_t i = 0; i < d->ping_folder_count && i < PING_FOLDERS_MAX; i++) {
			buf_add_str(&r->text, i ? ", " : " ");
			text_safe(&r->text, folder_name(txn, f->mailbox, d->ping_folders[i], name),
				false);
		}
		buf_add_byte(&r->text, '\n');
	}
	while (collection_next(txn, f->mailbox, d->id, &folder, &c) == 0) {
		buf_printf(&r->text, "%-15s", "Synchronizes");
		text_safe(&r->text, folder_name(txn, f->mailbox, folder, name), false);
		buf_printf(&r->text, " (SyncKey %" PRIu32 ", %s)\n", c.key,
			c.filter_type < ARRAY_LEN(spans) ? spans[c.filter_type] : "?");
	}
}

static void device_show_one(void *ctx, struct db_txn *txn, const struct found_device *f)
{
	struct device_rows *r = ctx;
	char name[FOLDER_NAME_MAX + 1];
	struct collection c;
	uint32_t folder = 0;
	json_t *j, *list;

	r->n++;
	if (!want_json()) {
		device_show_text(r, txn, f);
		return;
	}
	j = device_json(f);
	list = json_array();
	while (collection_next(txn, f->mailbox, f->device.id, &folder, &c) == 0)
		json_array_append_new(list,
			json_pack("{s:I, s:o, s:I, s:i}", "id", (json_int_t)folder, "name",
				admin_text_json(folder_name(txn, f->mailbox, folder, name)),
				"sync_key", (json_int_t)c.key, "filter_type", (int)c.filter_type));
	json_object_set_new(j, "folders", list);
	list = json_array();
	for (uint32_t i = 0; i < f->device.ping_folder_count && i < PING_FOLDERS_MAX; i++)
		json_array_append_new(list, admin_text_json(folder_name(txn, f->mailbox,
						    f->device.ping_folders[i], name)));
	json_object_set_new(j, "ping_heartbeat_s", json_integer(f->device.ping_heartbeat_s));
	json_object_set_new(j, "ping_folders", list);
	json_array_append_new(r->json, j);
}

static enum exit_code no_device(const char *id)
{
	return complain(NOT_FOUND, "no device %s%s%s (roostctl device list shows them)", id,
		ctl.user ? " of " : "", ctl.user ? ctl.user : "");
}

static enum exit_code device_show(char **args)
{
	struct device_rows r = {.now_ms = clock_wall_ms(), .json = json_array()};
	enum exit_code code;

	if ((code = open_store()) == DONE &&
		(code = each_device(args[0], device_show_one, &r)) == DONE) {
		if (r.n == 0)
			code = no_device(args[0]);
		else if (want_json())
			print_json(json_incref(r.json));
		else
			printf("%.*s", (int)r.text.n, (const char *)r.text.p);
	}
	json_decref(r.json);
	buf_free(&r.text);
	return code;
}

struct device_write {
	struct found_device found;
	size_t matches;
	struct buf users;
	enum { DEVICE_REMOVE, DEVICE_BLOCK, DEVICE_UNBLOCK } what;
};

static void device_find_one(void *ctx, struct db_txn *txn, const struct found_device *f)
{
	struct device_write *w = ctx;

	(void)txn;
	buf_printf(&w->users, "%s%s", w->matches ? ", " : "", f->address);
	if (w->matches++ == 0)
		w->found = *f;
}

static int write_device(struct db_txn *txn, void *arg)
{
	struct device_write *w = arg;
	uint32_t mailbox = w->found.mailbox, id = w->found.device.id;
	struct device d;
	int err = device_get(txn, mailbox, id, &d); /* as it is now, not as it was found */

	if (err != 0)
		return err;
	if (w->what == DEVICE_REMOVE)
		return device_delete(txn, mailbox, id);
	d.blocked = w->what == DEVICE_BLOCK;
	err = device_put(txn, mailbox, &d);
	return err != 0 ? err : device_touch(txn, mailbox, id);
}

static enum exit_code device_write(char **args, struct device_write *w, const char *done)
{
	enum exit_code code;
	int err;

	if ((code = open_store()) != DONE ||
		(code = each_device(args[0], device_find_one, w)) != DONE)
		goto out;
	if (w->matches == 0) {
		code = no_device(args[0]);
	} else if (w->matches > 1) {
		code = complain(USAGE,
			"device %s is known to several accounts (%.*s): say which with -u", args[0],
			(int)w->users.n, (const char *)w->users.p);
	} else {
		err = db_write(ctl.db, write_device, w);
		if (err == DB_NOT_FOUND)
			code = no_device(args[0]);
		else if (err != 0)
			code = store_failed(err);
		else
			say("device %s of %s %s", w->found.device.device_id, w->found.address,
				done);
	}
out:
	buf_free(&w->users);
	return code;
}

static enum exit_code device_remove(char **args)
{
	struct device_write w = {.what = DEVICE_REMOVE};

	return device_write(args, &w, "removed; should it come again, it begins anew");
}

static enum exit_code device_block(char **args)
{
	struct device_write w = {.what = DEVICE_BLOCK};

	return device_write(args, &w, "is blocked");
}

static enum exit_code device_unblock(char **args)
{
	struct device_write w = {.what = DEVICE_UNBLOCK};

	return device_write(args, &w, "is no longer blocked");
}

/* --- the running server -------------------------------------------------------------------------
 */

struct control {
	FILE *in;
	int fd;
};

static enum exit_code not_running(const char *where, int err)
{
	if (err == EACCES || err == EPERM)
		return complain(FAILED, "may not connect to %s: %s", where, strerror(err));
	return complain(NOT_RUNNING, "the server is not running (%s: %s)", where, strerror(err));
}

static enum exit_code control_open(struct control *c)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 15};
	char where[4200], dir[4200], *name;
	int dir_fd, err;

	if (ctl.socket)
		snprintf(where, sizeof(where), "%s", ctl.socket);
	else
		snprintf(where, sizeof(where), "%s/" CONTROL_SOCKET, ctl.config->store_dir);
	/* The path may be longer than a socket address holds. */
	snprintf(dir, sizeof(dir), "%s", where);
	name = strrchr(dir, '/');
	if (name)
		*name++ = 0;
	dir_fd = open(!name ? "." : dir[0] ? dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return not_running(where, errno);
	snprintf(un.sun_path, sizeof(un.sun_path), "/proc/self/fd/%d/%.60s", dir_fd,
		name ? name : dir);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	err = c->fd < 0 || connect(c->fd, (struct sockaddr *)&un, sizeof(un)) != 0 ? errno : 0;
	close(dir_fd);
	if (err) {
		if (c->fd >= 0)
			close(c->fd);
		return not_running(where, err);
	}
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	c->in = fdopen(c->fd, "r");
	CHECK(c->in);
	return DONE;
}

static void control_close(struct control *c)
{
	if (c->in)
		fclose(c->in);
	c->in = NULL;
}

/* Takes request. Lines before the last go to one; *last_out is the caller's on DONE. */
static enum exit_code control_ask(struct control *c, json_t *request,
	void (*one)(void *ctx, json_t *line), void *ctx, json_t **last_out)
{
	char *text = json_dumps(request, JSON_COMPACT), *line = NULL, *whole;
	size_t room = 0, n;
	ssize_t got;
	enum exit_code code = FAILED;

	json_decref(request);
	CHECK(text && asprintf(&whole, "%s\n", text) > 0);
	free(text);
	n = strlen(whole);
	got = send(c->fd, whole, n, MSG_NOSIGNAL);
	free(whole);
	if (got != (ssize_t)n)
		return complain(NOT_RUNNING, "the server went away");
	for (;;) {
		json_t *j, *ok;

		got = getline(&line, &room, c->in);
		if (got <= 0) {
			code = feof(c->in) ? complain(NOT_RUNNING, "the server went away")
					   : complain(FAILED, "the server does not answer: %s",
						     strerror(errno));
			break;
		}
		j = json_loadb(line, (size_t)got, 0, NULL);
		if (!j) {
			code = complain(FAILED, "the server's answer is not understood");
			break;
		}
		ok = json_object_get(j, "ok");
		if (!ok) {
			if (one)
				one(ctx, j);
			json_decref(j);
			continue;
		}
		if (json_is_true(ok)) {
			*last_out = j;
			code = DONE;
		} else {
			const char *word = json_string_value(json_object_get(j, "code"));
			const char *error = json_string_value(json_object_get(j, "error"));

			code = word && strcmp(word, "not-found") == 0 ? NOT_FOUND
			       : word && strcmp(word, "usage") == 0   ? USAGE
								      : FAILED;
			complain(code, "%s", error ? error : "the server refused");
			json_decref(j);
		}
		break;
	}
	free(line);
	return code;
}

/* One question, one answer. */
static enum exit_code ask_server(
	json_t *request, void (*one)(void *ctx, json_t *line), void *ctx, json_t **last_out)
{
	struct control c = {0};
	enum exit_code code = control_open(&c);

	if (code == DONE)
		code = control_ask(&c, request, one, ctx, last_out);
	else
		json_decref(request);
	control_close(&c);
	return code;
}

static const char *text_of(json_t *j, const char *key)
{
	const char *text = json_string_value(json_object_get(j, key));

	return text ? text : "";
}

static int64_t number_of(json_t *j, const char *key)
{
	return (int64_t)json_number_value(json_object_get(j, key));
}

static const char *const parked_titles[] = {
	"USER", "DEVICE", "TYPE", "COMMAND", ">AGE", ">LEFT", "FROM", "FOLDERS", NULL};

struct parked_rows {
	struct table table;
	json_t *json;
	uint64_t now_ms;
};

static void parked_one(void *ctx, json_t *line)
{
	struct parked_rows *r = ctx;
	json_t *p = json_object_get(line, "parked"), *folder;
	uint64_t since = (uint64_t)number_of(p, "since_ms"), due = (uint64_t)number_of(p, "due_ms");
	char text[TIME_TEXT_BYTES];
	struct buf folders = {0};
	size_t i;

	if (!p)
		return;
	if (r->json) {
		json_array_append(r->json, p);
		return;
	}
	table_add(&r->table, text_of(p, "user"));
	table_add(&r->table, text_of(p, "device"));
	table_add(&r->table, text_of(p, "device_type"));
	table_add(&r->table, text_of(p, "command"));
	table_add(
		&r->table, duration_text(r->now_ms > since ? (r->now_ms - since) / 1000 : 0, text));
	table_add(&r->table, duration_text(due > r->now_ms ? (due - r->now_ms) / 1000 : 0, text));
	table_add(&r->table, text_of(p, "address"));
	json_array_foreach(json_object_get(p, "folders"), i, folder)
	{
		buf_printf(&folders, "%s%s", i ? ", " : "", json_string_value(folder));
	}
	if (number_of(p, "folder_count") > (int64_t)i)
		buf_printf(
			&folders, ", %" PRId64 " more", number_of(p, "folder_count") - (int64_t)i);
	buf_add_byte(&folders, 0);
	table_add(&r->table, folders.failed ? "" : (const char *)folders.p);
	buf_free(&folders);
}

static void silent_shards(json_t *last)
{
	if (number_of(last, "silent_shards") > 0)
		complain(FAILED,
			"%" PRId64 " shard(s) did not answer within 2 s: the list is not whole",
			number_of(last, "silent_shards"));
}

static json_t *parked_request(const char *verb)
{
	json_t *request = json_pack("{s:s}", "verb", verb);

	if (ctl.user)
		json_object_set_new(request, "user", admin_text_json(ctl.user));
	if (ctl.device)
		json_object_set_new(request, "device", admin_text_json(ctl.device));
	if (ctl.given & O_LIMIT)
		json_object_set_new(request, "limit", json_integer((json_int_t)ctl.limit));
	return request;
}

static enum exit_code ping_list(char **args)
{
	struct parked_rows r = {
		.now_ms = clock_wall_ms(), .json = want_json() ? json_array() : NULL};
	json_t *last = NULL;
	enum exit_code code;

	(void)args;
	table_init(&r.table, parked_titles);
	code = ask_server(parked_request("ping-list"), parked_one, &r, &last);
	if (code == DONE) {
		if (r.json) {
			print_json(json_incref(r.json));
		} else {
			table_print(&r.table, stdout, terminal_width(), SIZE_MAX);
			printf("%" PRId64 " parked", number_of(last, "count"));
			if (number_of(last, "shown") < number_of(last, "count"))
				printf(", the newest %" PRId64 " shown (--limit N)",
					number_of(last, "shown"));
			putchar('\n');
		}
		silent_shards(last);
	}
	json_decref(last);
	json_decref(r.json);
	table_free(&r.table);
	return code;
}

static enum exit_code why(char **args)
{
	json_t *last = NULL, *j;
	struct buf prose = {0};
	enum exit_code code =
		ask_server(json_pack("{s:s, s:o}", "verb", "why", "id", admin_text_json(args[0])),
			NULL, NULL, &last);

	if (code != DONE)
		return code;
	j = json_object_get(last, "why");
	if (want_json()) {
		print_json(json_incref(j));
	} else {
		text_safe(&prose, text_of(j, "text"), true);
		printf("%.*s", (int)prose.n, (const char *)prose.p);
		buf_free(&prose);
	}
	json_decref(last);
	return DONE;
}

static void print_stats(json_t *stats)
{
	json_t *store = json_object_get(stats, "store"), *value;
	char a[TIME_TEXT_BYTES], b[TIME_TEXT_BYTES];
	const char *key;

	printf("Roost %s (%s), up %s, %s\n", text_of(stats, "version"), text_of(stats, "commit"),
		duration_text((uint64_t)number_of(stats, "uptime_s"), a),
		json_is_true(json_object_get(stats, "ready")) ? "ready"
							      : text_of(stats, "not_ready_why"));
	printf("shards %" PRId64 ", memory %s\n", number_of(stats, "shards"),
		size_text((uint64_t)number_of(stats, "resident_bytes"), a));
	if (json_object_get(stats, "certificate_expiry_s"))
		printf("certificate expires in %s\n",
			number_of(stats, "certificate_expiry_s") > 0
				? duration_text(
					  (uint64_t)number_of(stats, "certificate_expiry_s"), a)
				: "no time: it has expired");
	if (store)
		printf("store %s of %s used, %" PRId64 " records, %" PRId64 " readers\n",
			size_text((uint64_t)number_of(store, "used_bytes"), a),
			size_text((uint64_t)number_of(store, "map_bytes"), b),
			number_of(store, "entries"), number_of(store, "readers"));
	putchar('\n');
	json_object_foreach(json_object_get(stats, "metrics"), key, value)
		printf("%-48s %12" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
	json_object_foreach(json_object_get(stats, "latency"), key, value) printf(
		"%-48s %12" PRId64 "  p50 <= %.6g s, p99 <= %.6g s\n", key,
		number_of(value, "count"), json_number_value(json_object_get(value, "p50_s")),
		json_number_value(json_object_get(value, "p99_s")));
}

static enum exit_code stats(char **args)
{
	json_t *last = NULL;
	enum exit_code code = ask_server(json_pack("{s:s}", "verb", "stats"), NULL, NULL, &last);

	(void)args;
	if (code != DONE)
		return code;
	if (want_json())
		print_json(json_incref(json_object_get(last, "stats")));
	else
		print_stats(json_object_get(last, "stats"));
	json_decref(last);
	return DONE;
}

static enum exit_code health(char **args)
{
	json_t *last = NULL;
	enum exit_code code = ask_server(json_pack("{s:s}", "verb", "health"), NULL, NULL, &last);
	bool live, ready;

	(void)args;
	if (code != DONE)
		return code;
	live = json_is_true(json_object_get(last, "live"));
	ready = json_is_true(json_object_get(last, "ready"));
	if (want_json()) {
		print_json(json_incref(last));
	} else {
		say("%s%s%s",
			live ? "live" : "not live: ", live ? "" : text_of(last, "not_live_why"),
			"");
		say("%s%s%s", ready ? "ready" : "not ready: ",
			ready ? "" : text_of(last, "not_ready_why"), "");
	}
	json_decref(last);
	return live && ready ? DONE : FAILED;
}

static enum exit_code order(const char *verb, const char *done)
{
	json_t *last = NULL;
	enum exit_code code = ask_server(json_pack("{s:s}", "verb", verb), NULL, NULL, &last);

	if (code == DONE)
		say("%s", done);
	json_decref(last);
	return code;
}

static enum exit_code reload(char **args)
{
	(void)args;
	return order("reload", "the server has read its configuration and certificates again");
}

static enum exit_code stop(char **args)
{
	(void)args;
	return order("stop", "the server answers what is under way and stops");
}

/* --- top ----------------------------------------------------------------------------------------
 */

static volatile sig_atomic_t top_ended;

static void top_end(int signal_number)
{
	(void)signal_number;
	top_ended = 1;
}

static double rate(json_t *now, json_t *before, const char *key, double seconds)
{
	if (!before || seconds <= 0)
		return 0;
	return (double)(number_of(json_object_get(now, "metrics"), key) -
			number_of(json_object_get(before, "metrics"), key)) /
	       seconds;
}

static void top_print(json_t *now, json_t *before, double seconds, const struct table *t,
	int64_t parked, size_t width, size_t rows)
{
	json_t *m = json_object_get(now, "metrics");
	json_t *wake = json_object_get(json_object_get(now, "latency"), "wake_latency_seconds");
	char a[TIME_TEXT_BYTES], b[TIME_TEXT_BYTES];
	time_t wall = time(NULL);
	struct tm tm;
	double wakes = 0, out = 0;
	const char *key;
	json_t *value;

	json_object_foreach(m, key, value)
	{
		if (strncmp(key, "wakes_total", 11) == 0)
			wakes += rate(now, before, key, seconds);
		if (strncmp(key, "http_responses_total", 20) == 0)
			out += rate(now, before, key, seconds);
	}
	strftime(b, sizeof(b), "%H:%M:%S", localtime_r(&wall, &tm));
	printf("roost %s  %s  up %s  %s  memory %s\n", text_of(now, "version"), b,
		duration_text((uint64_t)number_of(now, "uptime_s"), a),
		json_is_true(json_object_get(now, "ready")) ? "ready" : "NOT READY",
		size_text((uint64_t)number_of(now, "resident_bytes"), b));
	printf("parked %" PRId64 " (Ping %" PRId64 ", Sync %" PRId64 ")  connections %" PRId64
	       "  handshakes in flight %" PRId64 "\n",
		parked, number_of(m, "parked_requests{cmd=\"Ping\"}"),
		number_of(m, "parked_requests{cmd=\"Sync\"}"), number_of(m, "connections"),
		number_of(m, "tls_handshakes_in_flight"));
	printf("per second: requests %.1f  answers %.1f  wakes %.1f  handshakes %.1f  commits "
	       "%.1f\n",
		rate(now, before, "http_requests_total", seconds), out, wakes,
		rate(now, before, "tls_handshakes_total{resumed=\"no\"}", seconds) +
			rate(now, before, "tls_handshakes_total{resumed=\"yes\"}", seconds),
		rate(now, before, "store_commits_total", seconds));
	printf("since start: commit to wire p50 <= %.3g ms, p99 <= %.3g ms (%" PRId64 " wakes)\n\n",
		json_number_value(json_object_get(wake, "p50_s")) * 1e3,
		json_number_value(json_object_get(wake, "p99_s")) * 1e3, number_of(wake, "count"));
	table_print(t, stdout, width, rows);
}

static enum exit_code top(char **args)
{
	struct winsize size = {.ws_row = 24, .ws_col = 80};
	struct termios was, raw;
	struct sigaction end = {.sa_handler = top_end};
	bool live = !(ctl.given & O_ONCE) && isatty(STDOUT_FILENO) && !want_json();
	bool keys = live && tcgetattr(STDIN_FILENO, &was) == 0;
	json_t *before = NULL;
	uint64_t before_ms = 0;
	enum exit_code code;

	(void)args;
	if (live) {
		sigaction(SIGINT, &end, NULL);
		sigaction(SIGTERM, &end, NULL);
		sigaction(SIGHUP, &end, NULL);
		/* The alternate screen: what was on the terminal is there again afterwards. */
		printf("\033[?1049h\033[?25l");
	}
	if (keys) {
		raw = was;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	do {
		struct parked_rows r = {
			.now_ms = clock_wall_ms(), .json = want_json() ? json_array() : NULL};
		uint64_t now_ms = clock_mono_ms();
		json_t *last = NULL;

		if (live)
			ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
		if (!(ctl.given & O_LIMIT)) {
			ctl.limit = live && size.ws_row > 7 ? size.ws_row - 7u : 20;
		}
		ctl.given |= O_LIMIT;
		table_init(&r.table, parked_titles);
		code = ask_server(parked_request("top"), parked_one, &r, &last);
		if (code == DONE && r.json) {
			json_object_set(last, "parked", r.json);
			json_object_del(last, "ok");
			print_json(json_incref(last));
		} else if (code == DONE) {
			if (live)
				printf("\033[H\033[J");
			top_print(json_object_get(last, "stats"), before,
				(double)(now_ms - before_ms) / 1000, &r.table,
				number_of(last, "count"), live ? size.ws_col : terminal_width(),
				(size_t)ctl.limit);
			fflush(stdout);
			json_decref(before);
			before = json_incref(json_object_get(last, "stats"));
			before_ms = now_ms;
		}
		if (live)
			ctl.given &= ~(unsigned)O_LIMIT;
		json_decref(last);
		json_decref(r.json);
		table_free(&r.table);
		if (live && code == DONE && !top_ended) {
			struct pollfd key = {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN};
			char c = 0;

			if (poll(&key, 1, 1000) > 0 &&
				(read(STDIN_FILENO, &c, 1) != 1 || c == 'q' || c == 'Q'))
				top_ended = 1;
		}
	} while (live && code == DONE && !top_ended);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &was);
	if (live)
		printf("\033[?25h\033[?1049l");
	json_decref(before);
	return code;
}

/* --- the rest -----------------------------------------------------------------------------------
 */

static enum exit_code backup(char **args)
{
	char reason[600] = "";
	bool made;
	enum exit_code code;
	int err;

	/* As whoever runs this: the copy goes to a directory of his. */
	if ((code = open_store_as(false, false)) != DONE)
		return code;
	made = mkdir(args[0], 0700) == 0;
	if (!made && errno != EEXIST)
		return complain(FAILED, "cannot make %s: %s", args[0], strerror(errno));
	err = db_backup(ctl.db, args[0], reason, sizeof(reason));
	if (err != 0) {
		if (made)
			rmdir(args[0]);
		return complain(err == DB_EXISTS ? EXISTS : FAILED, "%s",
			reason[0] ? reason : db_strerror(err));
	}
	say("backup written to %s; to restore it, stop the server and put its files into the data "
	    "directory",
		args[0]);
	return DONE;
}

static enum exit_code check(char **args)
{
	enum exit_code code = open_store();
	int wrong;

	(void)args;
	if (code != DONE)
		return code;
	wrong = store_check(ctl.db, stdout);
	if (wrong < 0)
		return store_failed(wrong);
	if (wrong > 0)
		return complain(FAILED, "%d contradiction(s) in the store", wrong);
	say("the store is sound");
	return DONE;
}

static enum exit_code config_example(char **args)
{
	(void)args;
	config_print_example(stdout);
	return DONE;
}

static enum exit_code config_man(char **args)
{
	(void)args;
	config_print_manual(stdout);
	return DONE;
}

static enum exit_code config_check_file(char **args)
{
	const char *path = args[0]           ? args[0]
			   : ctl.config_path ? ctl.config_path
					     : CONFIG_PATH_DEFAULT;
	struct config *c = config_new();
	char reason[600];
	bool ok = config_read_file(c, path, reason, sizeof(reason)) &&
		  config_read_environment(c, environ, reason, sizeof(reason)) &&
		  config_check(c, reason, sizeof(reason));

	config_free(&c);
	if (!ok)
		return complain(FAILED, "%s", reason);
	say("%s is good", path);
	return DONE;
}

static enum exit_code config_show(char **args)
{
	(void)args;
	config_print(ctl.config, stdout);
	return DONE;
}

/* --- verbs --------------------------------------------------------------------------------------
 */

static const struct verb {
	const char *words[2]; /* "user", "add"; the second may be NULL */
	const char *usage;
	unsigned options;
	int args_min, args_max;
	bool config; /* needs to know the configuration */
	enum exit_code (*run)(char **args);
	const char *help;
} verbs[] = {
	{{"user", "add"}, "ADDRESS [--password-stdin] [--name NAME]", O_PASSWORD | O_NAME, 1, 1,
		true, user_add,
		"Adds an account with the standard folders. Without --password-stdin the password "
		"is "
		"asked for twice. Makes an empty store when there is none."},
	{{"user", "list"}, "[--json]", O_JSON, 0, 0, true, user_list, "Lists the accounts."},
	{{"user", "passwd"}, "ADDRESS [--password-stdin]", O_PASSWORD, 1, 1, true, user_passwd,
		"Sets a new password. The old one stops to work at once, in a running server too."},
	{{"user", "disable"}, "ADDRESS", 0, 1, 1, true, user_disable,
		"Lets the account's phones in no more (403). Mail is still delivered to nobody: "
		"LMTP "
		"refuses it."},
	{{"user", "enable"}, "ADDRESS", 0, 1, 1, true, user_enable, "Undoes disable."},
	{{"user", "del"}, "ADDRESS [--yes]", O_YES, 1, 1, true, user_del,
		"Deletes the account with all its mail and devices. On a terminal it asks first, "
		"without --yes."},
	{{"deliver", NULL}, "ADDRESS [--folder FOLDER] < mail.eml", O_FOLDER, 1, 1, true, deliver,
		"Puts the message on standard input into the inbox, or another mail folder, and "
		"wakes "
		"the phones that wait for it."},
	{{"change", NULL}, "ADDRESS FOLDER", 0, 2, 2, true, change,
		"Wakes the phones that wait for this folder (a name in any case, or an id), as if "
		"it had "
		"changed."},
	{{"device", "list"}, "[-u ADDRESS] [--json]", O_USER | O_JSON, 0, 0, true, device_list,
		"Lists the devices, of one account or of all."},
	{{"device", "show"}, "ID [-u ADDRESS] [--json]", O_USER | O_JSON, 1, 1, true, device_show,
		"Shows all that is known of a device."},
	{{"device", "remove"}, "ID [-u ADDRESS]", O_USER, 1, 1, true, device_remove,
		"Forgets a device. Should it come again, it begins anew."},
	{{"device", "block"}, "ID [-u ADDRESS]", O_USER, 1, 1, true, device_block,
		"Lets this device in no more; its hanging requests end at once."},
	{{"device", "unblock"}, "ID [-u ADDRESS]", O_USER, 1, 1, true, device_unblock,
		"Undoes block."},
	{{"ping", "list"}, "[-u ADDRESS] [--device ID] [--limit N] [--json]",
		O_USER | O_DEVICE | O_LIMIT | O_JSON, 0, 0, true, ping_list,
		"Lists the requests that hang now, newest first. Asks the running server."},
	{{"top", NULL}, "[--once] [-u ADDRESS] [--limit N] [--json]",
		O_ONCE | O_USER | O_LIMIT | O_JSON, 0, 0, true, top,
		"Shows what the server is doing, every second; q ends it. Asks the running "
		"server."},
	{{"why", NULL}, "REQUEST-ID [--json]", O_JSON, 1, 1, true, why,
		"Explains a refusal. The id is in the response's X-Request-Id header, in its body "
		"and in "
		"the log. Asks the running server, which remembers the last 8192."},
	{{"stats", NULL}, "[--json]", O_JSON, 0, 0, true, stats,
		"Shows the counters of the running server."},
	{{"health", NULL}, "[--json]", O_JSON, 0, 0, true, health,
		"Succeeds when the running server is live and ready."},
	{{"reload", NULL}, "", 0, 0, 0, true, reload,
		"Has the running server read its configuration and certificates again."},
	{{"stop", NULL}, "", 0, 0, 0, true, stop,
		"Has the running server answer what is under way and stop."},
	{{"backup", NULL}, "DIR", 0, 1, 1, true, backup,
		"Writes a consistent copy of the store into an empty directory, which is made when "
		"it is "
		"not there. The server may go on meanwhile."},
	{{"check", NULL}, "", 0, 0, 0, true, check,
		"Reads the whole store and tells every contradiction. The server may go on "
		"meanwhile."},
	{{"config", "check"}, "[FILE]", 0, 0, 1, false, config_check_file,
		"Says whether the configuration file is good, or the first thing that is not."},
	{{"config", "show"}, "", 0, 0, 0, true, config_show,
		"Prints the values in force: file, environment, --data."},
	{{"config", "example"}, "", 0, 0, 0, false, config_example,
		"Prints an example file, which explains every setting."},
	{{"config", "man"}, "", 0, 0, 0, false, config_man,
		"Prints the list of settings for roost.conf(5), as scdoc source."},
};

static const char global_help[] =
	"Options of every verb:\n"
	"  --data DIR       the data directory; else ROOST_STORE_DIR, else store.dir of the\n"
	"                   configuration\n"
	"  --config FILE    the configuration, else " CONFIG_PATH_DEFAULT " when it is there\n"
	"  --socket PATH    the control socket, else DIR/control\n"
	"  --json           for all that lists or shows\n"
	"  -h, --help       help, also for one verb: roostctl user add --help\n"
	"  --version\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 already exists,\n"
	"5 the server is not running.\n";

static void print_verb(FILE *f, const struct verb *v)
{
	fprintf(f, "  roostctl %s%s%s%s%s\n", v->words[0], v->words[1] ? " " : "",
		v->words[1] ? v->words[1] : "", v->usage[0] ? " " : "", v->usage);
}

static void print_help(FILE *f)
{
	fprintf(f,
		"roostctl looks after Roost: accounts, devices, mail, and the running server.\n\n");
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		print_verb(f, &verbs[i]);
	fprintf(f, "\n%s", global_help);
}

static void print_verb_help(const struct verb *v)
{
	const char *text = v->help;
	size_t at = 0;

	print_verb(stdout, v);
	putchar('\n');
	while (*text) {
		size_t n = strcspn(text, " ");

		if (at && at + 1 + n > 78) {
			putchar('\n');
			at = 0;
		}
		at += (size_t)printf("%s%.*s", at ? " " : "", (int)n, text);
		text += n;
		text += *text == ' ';
	}
	printf("\n\n%s", global_help);
}

/* `words_out`: how many of the words the verb took. NULL after saying what is wrong. */
static const struct verb *find_verb(char **words, int n, int *words_out)
{
	bool group = false;

	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		const struct verb *v = &verbs[i];

		if (strcmp(words[0], v->words[0]) != 0)
			continue;
		group = true;
		if (v->words[1] && (n < 2 || strcmp(words[1], v->words[1]) != 0))
			continue;
		*words_out = v->words[1] ? 2 : 1;
		return v;
	}
	if (!group) {
		complain(USAGE, "there is no verb %s (roostctl --help lists them)", words[0]);
		return NULL;
	}
	complain(USAGE,
		n < 2 ? "%s needs a second word:" : "%s has no such second word; there are:",
		words[0]);
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (strcmp(words[0], verbs[i].words[0]) == 0)
			print_verb(stderr, &verbs[i]);
	return NULL;
}

enum {
	L_DATA = 256,
	L_CONFIG,
	L_SOCKET,
	L_VERSION,
	L_PASSWORD,
	L_NAME,
	L_FOLDER,
	L_JSON,
	L_ONCE,
	L_LIMIT,
	L_DEVICE,
	L_YES
};

static const struct option long_options[] = {{"data", required_argument, NULL, L_DATA},
	{"config", required_argument, NULL, L_CONFIG},
	{"socket", required_argument, NULL, L_SOCKET}, {"version", no_argument, NULL, L_VERSION},
	{"help", no_argument, NULL, 'h'}, {"password-stdin", no_argument, NULL, L_PASSWORD},
	{"name", required_argument, NULL, L_NAME}, {"folder", required_argument, NULL, L_FOLDER},
	{"user", required_argument, NULL, 'u'}, {"json", no_argument, NULL, L_JSON},
	{"once", no_argument, NULL, L_ONCE}, {"limit", required_argument, NULL, L_LIMIT},
	{"device", required_argument, NULL, L_DEVICE}, {"yes", no_argument, NULL, L_YES}, {0}};

static const struct {
	unsigned bit;
	const char *name;
} option_names[] = {{O_PASSWORD, "--password-stdin"}, {O_NAME, "--name"}, {O_FOLDER, "--folder"},
	{O_USER, "-u"}, {O_JSON, "--json"}, {O_ONCE, "--once"}, {O_LIMIT, "--limit"},
	{O_DEVICE, "--device"}, {O_YES, "--yes"}};

static enum exit_code run(int argc, char **argv)
{
	const struct verb *v;
	bool help = false;
	char **words;
	int c, n, taken;
	enum exit_code code;

	while ((c = getopt_long(argc, argv, "hu:", long_options, NULL)) != -1) {
		switch (c) {
		case L_DATA:
			ctl.data = optarg;
			break;
		case L_CONFIG:
			ctl.config_path = optarg;
			break;
		case L_SOCKET:
			ctl.socket = optarg;
			break;
		case L_VERSION:
			printf("roostctl %s (%s)\n", roost_version, roost_commit);
			return DONE;
		case 'h':
			help = true;
			break;
		case L_PASSWORD:
			ctl.given |= O_PASSWORD;
			break;
		case L_NAME:
			ctl.given |= O_NAME;
			ctl.name = optarg;
			break;
		case L_FOLDER:
			ctl.given |= O_FOLDER;
			ctl.folder = optarg;
			break;
		case 'u':
			ctl.given |= O_USER;
			ctl.user = optarg;
			break;
		case L_JSON:
			ctl.given |= O_JSON;
			break;
		case L_ONCE:
			ctl.given |= O_ONCE;
			break;
		case L_LIMIT:
			ctl.given |= O_LIMIT;
			if (!bytes_to_u64(bytes_str(optarg), CONTROL_ROWS_MAX, &ctl.limit))
				return complain(USAGE, "--limit %s: allowed: 0 to %d", optarg,
					CONTROL_ROWS_MAX);
			break;
		case L_DEVICE:
			ctl.given |= O_DEVICE;
			ctl.device = optarg;
			break;
		case L_YES:
			ctl.given |= O_YES;
			break;
		default: /* getopt_long has said what is wrong */
			return USAGE;
		}
	}
	words = argv + optind;
	n = argc - optind;
	if (n == 0) {
		print_help(help ? stdout : stderr);
		return help ? DONE : USAGE;
	}
	v = find_verb(words, n, &taken);
	if (!v)
		return USAGE;
	if (help) {
		print_verb_help(v);
		return DONE;
	}
	for (size_t i = 0; i < ARRAY_LEN(option_names); i++)
		if (ctl.given & ~v->options & option_names[i].bit) {
			complain(USAGE, "%s is no option of this verb:", option_names[i].name);
			print_verb(stderr, v);
			return USAGE;
		}
	if (n - taken < v->args_min || n - taken > v->args_max) {
		complain(USAGE, n - taken < v->args_min ? "an argument is missing:"
							: "there are too many arguments:");
		print_verb(stderr, v);
		return USAGE;
	}
	code = v->config ? load_config() : DONE;
	return code == DONE ? v->run(words + taken) : code;
}

int main(int argc, char **argv)
{
	enum exit_code code;

	/* UTF-8 whatever the locale: names are, and the log and JSON are. */
	setlocale(LC_CTYPE, "C.UTF-8");
	log_set_level(LOG_WARNING);
	code = run(argc, argv);
	if (ctl.db)
		db_close(&ctl.db);
	config_free(&ctl.config);
	if (fflush(stdout) != 0 || ferror(stdout))
		code = complain(FAILED, "cannot write: %s", strerror(errno));
	return (int)code;
}
