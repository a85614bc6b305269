/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/ctl.h"

#include "core/admin/table.h"
#include "core/base/check.h"
#include "core/config/config.h"
#include "store/account.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct ctl ctl;

/* --- saying what happened ------------------------------------------------------------ */

enum ctl_exit ctl_complain(enum ctl_exit code, const char *fmt, ...)
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

void ctl_say(const char *fmt, ...)
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

bool ctl_want_json(void)
{
	return ctl.given & OPT_JSON;
}

void ctl_print_json(json_t *j)
{
	CHECK(j);
	json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
	putchar('\n');
	json_decref(j);
}

size_t ctl_terminal_width(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
		return 0; /* a file or a pipe takes lines of any length */
	return size.ws_col;
}

/* --- store --------------------------------------------------------------------------- */

/* --set and command line come last in roostd; here --data does. The file is read when it is named,
 * or when the usual one can be read. */
enum ctl_exit ctl_load_config(void)
{
	char why[600];
	const char *path = ctl.config_path;

	ctl.config = config_new();
	if (!path && access(CONFIG_PATH_DEFAULT, R_OK) == 0)
		path = CONFIG_PATH_DEFAULT;
	if (path && !config_read_file(ctl.config, path, why, sizeof(why))) {
		/* With --data the file is not needed to get a server going again. */
		if (!ctl.data || ctl.config_path)
			return ctl_complain(CTL_FAILED, "%s", why);
		ctl_complain(CTL_FAILED, "%s (going on without the file)", why);
		config_free(&ctl.config);
		ctl.config = config_new();
	}
	if (!config_read_environment(ctl.config, environ, why, sizeof(why)))
		return ctl_complain(CTL_FAILED, "%s", why);
	if (ctl.data) {
		free(ctl.config->store_dir);
		ctl.config->store_dir = strdup(ctl.data);
		CHECK(ctl.config->store_dir);
	}
	return CTL_DONE;
}

/* What root makes in the server's directory the server could not open afterwards. */
static void become_owner(const char *dir)
{
	struct stat st;

	if (geteuid() != 0 || stat(dir, &st) != 0 || st.st_uid == 0)
		return;
	if (setegid(st.st_gid) != 0 || seteuid(st.st_uid) != 0)
		ctl_complain(
			CTL_FAILED, "cannot work as the owner of %s: %s", dir, strerror(errno));
}

enum ctl_exit ctl_open_store_as(bool create, bool as_owner)
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
		return ctl_complain(
			CTL_FAILED, "cannot open the store: %s (--data DIR names another)", why);
	}
	return CTL_DONE;
}

enum ctl_exit ctl_open_store(void)
{
	return ctl_open_store_as(false, true);
}

enum ctl_exit ctl_store_failed(int err)
{
	return ctl_complain(err == DB_NOT_FOUND ? CTL_NOT_FOUND
			    : err == DB_EXISTS  ? CTL_EXISTS
						: CTL_FAILED,
		"the store says: %s", db_strerror(err));
}

enum ctl_exit ctl_no_account(const char *address)
{
	return ctl_complain(
		CTL_NOT_FOUND, "no account %s (roostctl user list shows them)", address);
}

enum ctl_exit ctl_find_account(const char *address, struct account *out)
{
	struct db_txn txn;
	int err = db_read(ctl.db, &txn);

	if (err != 0)
		return ctl_store_failed(err);
	err = account_find(&txn, bytes_str(address), out);
	db_read_end(&txn);
	if (err == DB_NOT_FOUND)
		return ctl_no_account(address);
	return err != 0 ? ctl_store_failed(err) : CTL_DONE;
}
