/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/ctl.h"

#include "core/admin/admin_priv.h"
#include "core/admin/table.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "store/account.h"
#include "store/device.h"
#include "store/mailbox.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

/* --- devices ------------------------------------------------------------------------- */

struct found_device {
	char address[ACCOUNT_ADDRESS_MAX + 1];
	uint32_t mailbox;
	struct device device;
};

/* Calls one for every device (of --user, or of all accounts) whose DeviceId is `wanted` (NULL:
 * any). The store is read in one go, and one must not print: a slow pipe would hold the snapshot.
 */
static enum ctl_exit each_device(const char *wanted,
	void (*one)(void *ctx, struct db_txn *txn, const struct found_device *d), void *ctx)
{
	char cursor[ACCOUNT_ADDRESS_MAX + 1] = "";
	struct found_device d;
	struct account a;
	struct db_txn txn;
	int err = db_read(ctl.db, &txn);

	if (err != 0)
		return ctl_store_failed(err);
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
			return CTL_DONE;
		}
	}
	db_read_end(&txn);
	if (err == DB_NOT_FOUND)
		return ctl.user ? ctl_no_account(ctl.user) : CTL_DONE;
	return ctl_store_failed(err);
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
	if (ctl_want_json()) {
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

enum ctl_exit ctl_device_list(char **args)
{
	static const char *const titles[] = {
		"USER", "DEVICE", "TYPE", "MODEL", "VERSION", "STATE", "LAST SEEN", "FROM", NULL};
	struct device_rows r = {.now_ms = clock_wall_ms(), .json = json_array()};
	enum ctl_exit code;

	(void)args;
	table_init(&r.table, titles);
	if ((code = ctl_open_store()) == CTL_DONE &&
		(code = each_device(NULL, device_list_one, &r)) == CTL_DONE) {
		if (ctl_want_json())
			ctl_print_json(json_incref(r.json));
		else
			table_print(&r.table, stdout, ctl_terminal_width(), SIZE_MAX);
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
	if (!ctl_want_json()) {
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

static enum ctl_exit no_device(const char *id)
{
	return ctl_complain(CTL_NOT_FOUND, "no device %s%s%s (roostctl device list shows them)", id,
		ctl.user ? " of " : "", ctl.user ? ctl.user : "");
}

enum ctl_exit ctl_device_show(char **args)
{
	struct device_rows r = {.now_ms = clock_wall_ms(), .json = json_array()};
	enum ctl_exit code;

	if ((code = ctl_open_store()) == CTL_DONE &&
		(code = each_device(args[0], device_show_one, &r)) == CTL_DONE) {
		if (r.n == 0)
			code = no_device(args[0]);
		else if (ctl_want_json())
			ctl_print_json(json_incref(r.json));
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

static enum ctl_exit device_write(char **args, struct device_write *w, const char *done)
{
	enum ctl_exit code;
	int err;

	if ((code = ctl_open_store()) != CTL_DONE ||
		(code = each_device(args[0], device_find_one, w)) != CTL_DONE)
		goto out;
	if (w->matches == 0) {
		code = no_device(args[0]);
	} else if (w->matches > 1) {
		code = ctl_complain(CTL_USAGE,
			"device %s is known to several accounts (%.*s): say which with -u", args[0],
			(int)w->users.n, (const char *)w->users.p);
	} else {
		err = db_write(ctl.db, write_device, w);
		if (err == DB_NOT_FOUND)
			code = no_device(args[0]);
		else if (err != 0)
			code = ctl_store_failed(err);
		else
			ctl_say("device %s of %s %s", w->found.device.device_id, w->found.address,
				done);
	}
out:
	buf_free(&w->users);
	return code;
}

enum ctl_exit ctl_device_remove(char **args)
{
	struct device_write w = {.what = DEVICE_REMOVE};

	return device_write(args, &w, "removed; should it come again, it begins anew");
}

enum ctl_exit ctl_device_block(char **args)
{
	struct device_write w = {.what = DEVICE_BLOCK};

	return device_write(args, &w, "is blocked");
}

enum ctl_exit ctl_device_unblock(char **args)
{
	struct device_write w = {.what = DEVICE_UNBLOCK};

	return device_write(args, &w, "is no longer blocked");
}
