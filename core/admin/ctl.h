/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/admin/ctl.h - what the files of the program roostctl share.
 * Verbs on accounts, devices and folders open the store themselves, so they work with the server
 * running or not: a commit of any process wakes the server's phones. Verbs about requests under way
 * ask the server over its control socket.
 * Thread: one.    Errors: a verb says what is wrong on standard error and returns the exit code. */
#ifndef ROOST_ADMIN_CTL_H
#define ROOST_ADMIN_CTL_H

#include "core/base/bytes.h"

struct account;
struct config;
struct db;
struct json_t;

/* The program's exit codes. */
enum ctl_exit {
	CTL_DONE,
	CTL_FAILED,
	CTL_USAGE,
	CTL_NOT_FOUND,
	CTL_EXISTS,
	CTL_NOT_RUNNING,
};

/* Options, as bits: which were given, and which a verb takes. */
enum {
	OPT_PASSWORD = 1 << 0,
	OPT_NAME = 1 << 1,
	OPT_FOLDER = 1 << 2,
	OPT_USER = 1 << 3,
	OPT_JSON = 1 << 4,
	OPT_ONCE = 1 << 5,
	OPT_LIMIT = 1 << 6,
	OPT_DEVICE = 1 << 7,
	OPT_YES = 1 << 8,
	OPT_DRAIN = 1 << 9,
};

extern struct ctl {
	unsigned given; /* OPT_* */
	const char *data, *config_path, *socket, *name, *folder, *user, *device;
	uint64_t limit;
	struct config *config; /* ctl_load_config */
	struct db *db;         /* ctl_open_store */
} ctl;

/* One line on standard error, fit for a terminal; returns code. */
enum ctl_exit ctl_complain(enum ctl_exit code, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* One line on standard output, likewise. */
void ctl_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
bool ctl_want_json(void);
/* Takes the reference. */
void ctl_print_json(struct json_t *j);
/* 0: not a terminal. */
size_t ctl_terminal_width(void);

enum ctl_exit ctl_load_config(void);
/* `as_owner`: root works as the owner of the directory, so that the server can open what is made.
 */
enum ctl_exit ctl_open_store_as(bool create, bool as_owner);
enum ctl_exit ctl_open_store(void);
enum ctl_exit ctl_store_failed(int err);
enum ctl_exit ctl_no_account(const char *address);
/* Complains when there is none. */
enum ctl_exit ctl_find_account(const char *address, struct account *out);

/* The verbs; args are theirs, NULL after the last. */
enum ctl_exit ctl_user_add(char **args);
enum ctl_exit ctl_user_list(char **args);
enum ctl_exit ctl_user_passwd(char **args);
enum ctl_exit ctl_user_disable(char **args);
enum ctl_exit ctl_user_enable(char **args);
enum ctl_exit ctl_user_del(char **args);
enum ctl_exit ctl_change(char **args);
enum ctl_exit ctl_deliver(char **args);
enum ctl_exit ctl_device_list(char **args);
enum ctl_exit ctl_device_show(char **args);
enum ctl_exit ctl_device_remove(char **args);
enum ctl_exit ctl_device_block(char **args);
enum ctl_exit ctl_device_unblock(char **args);
enum ctl_exit ctl_ping_list(char **args);
enum ctl_exit ctl_why(char **args);
enum ctl_exit ctl_stats(char **args);
enum ctl_exit ctl_health(char **args);
enum ctl_exit ctl_reload(char **args);
enum ctl_exit ctl_stop(char **args);
enum ctl_exit ctl_upgrade(char **args);
enum ctl_exit ctl_top(char **args);

#endif
