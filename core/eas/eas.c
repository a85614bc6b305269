/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/eas.c - the table of commands, and what happens before one runs: version, policy, the
 * device's record, the body. */
#include <stdio.h>

#include "core/eas/eas_priv.h"

enum body_rule {
	BODY_NONE,     /* whatever comes is not looked at */
	BODY_OPTIONAL, /* nothing means something */
	BODY_REQUIRED,
};

/* Exactly what is built, in the customary order of OPTIONS.
 * X(command, root element, body, lowest version, highest version, Status for a foreign root or 0
 * for the common one, function) */
#define COMMANDS(X)                                                                                \
	X(SYNC, AIRSYNC_Sync, BODY_OPTIONAL, 25, 161, 4, cmd_sync)                                 \
	X(GET_ATTACHMENT, 0, BODY_NONE, 25, 121, 0, cmd_get_attachment)                            \
	X(FOLDER_SYNC, FOLDERHIERARCHY_FolderSync, BODY_REQUIRED, 25, 161, 10, cmd_folder_sync)    \
	X(FOLDER_CREATE, FOLDERHIERARCHY_FolderCreate, BODY_REQUIRED, 25, 161, 10,                 \
		cmd_folder_change)                                                                 \
	X(FOLDER_DELETE, FOLDERHIERARCHY_FolderDelete, BODY_REQUIRED, 25, 161, 10,                 \
		cmd_folder_change)                                                                 \
	X(FOLDER_UPDATE, FOLDERHIERARCHY_FolderUpdate, BODY_REQUIRED, 25, 161, 10,                 \
		cmd_folder_change)                                                                 \
	X(MOVE_ITEMS, MOVE_MoveItems, BODY_REQUIRED, 25, 161, 0, cmd_move_items)                   \
	X(GET_ITEM_ESTIMATE, GETITEMESTIMATE_GetItemEstimate, BODY_REQUIRED, 25, 161, 0,           \
		cmd_get_item_estimate)                                                             \
	X(SETTINGS, SETTINGS_Settings, BODY_REQUIRED, 120, 161, 2, cmd_settings)                   \
	X(ITEM_OPERATIONS, ITEMOPERATIONS_ItemOperations, BODY_REQUIRED, 120, 161, 2,              \
		cmd_item_operations)                                                               \
	X(PROVISION, PROVISION_Provision, BODY_REQUIRED, 120, 161, 2, cmd_provision)

static const struct command {
	eas_command_fn *run;
	uint16_t root, version_min, version_max;
	uint8_t body, foreign_status;
} commands[EAS_COMMAND_COUNT] = {
#define X(id, root, body, lo, hi, foreign, fn) [EAS_##id] = {fn, root, lo, hi, body, foreign},
	COMMANDS(X)
#undef X
};

const char *eas_versions(void)
{
	return "12.1,14.0,14.1,16.0,16.1";
}

const char *eas_commands(void)
{
	static _Thread_local char list[EAS_COMMAND_COUNT * 20];

	if (!list[0]) {
		size_t n = 0;
#define X(id, root, body, lo, hi, foreign, fn)                                                     \
	n += (size_t)snprintf(list + n, sizeof(list) - n, "%s,", eas_command_name(EAS_##id));
		COMMANDS(X)
#undef X
		snprintf(list + n, sizeof(list) - n, "%s", eas_command_name(EAS_PING));
	}
	return list;
}

/* ---- The device's record ----------------------------------------------------------------- */

/* Cut to fit, at a character boundary. */
static void text_copy(char *dst, size_t cap, struct bytes b)
{
	size_t n = b.n < cap ? b.n : cap - 1;

	if (n > 0 && memchr(b.p, 0, n))
		n = strnlen((const char *)b.p, n);
	if (n < b.n)
		while (n > 0 && (b.p[n] & 0xc0) == 0x80)
			n--;
	if (n > 0)
		memcpy(dst, b.p, n);
	dst[n] = 0;
}

void device_information_read(const struct wbxml_node *set, struct device *d)
{
	const struct {
		uint16_t tag;
		char *dst;
		size_t cap;
	} fields[] = {
		{SETTINGS_Model, d->model, sizeof(d->model)},
		{SETTINGS_IMEI, d->imei, sizeof(d->imei)},
		{SETTINGS_FriendlyName, d->friendly_name, sizeof(d->friendly_name)},
		{SETTINGS_OS, d->os, sizeof(d->os)},
		{SETTINGS_OSLanguage, d->os_language, sizeof(d->os_language)},
		{SETTINGS_PhoneNumber, d->phone_number, sizeof(d->phone_number)},
		{SETTINGS_UserAgent, d->user_agent, sizeof(d->user_agent)},
		{SETTINGS_MobileOperator, d->mobile_operator, sizeof(d->mobile_operator)},
	};

	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		struct bytes text = wbxml_text(set, fields[i].tag);

		if (text.p) /* empty deletes, absent keeps */
			text_copy(fields[i].dst, fields[i].cap, text);
	}
}

/* Brings the record up to what the request says of the phone; true when that changed it. */
static bool device_update(const struct eas_request *req, struct device *d)
{
	struct device before = *d;

	d->version = req->version;
	if (req->device_type.n > 0)
		text_copy(d->device_type, sizeof(d->device_type), req->device_type);
	if (req->user_agent.n > 0)
		text_copy(d->user_agent, sizeof(d->user_agent), req->user_agent);
	return d->version != before.version || strcmp(d->device_type, before.device_type) != 0 ||
	       strcmp(d->user_agent, before.user_agent) != 0;
}

struct device_write {
	const struct eas_request *req;
	uint32_t device;
};

static int device_write(struct db_txn *txn, void *arg)
{
	struct device_write *dw = arg;
	const struct eas_request *req = dw->req;
	struct device d;
	int err = device_find(txn, req->mailbox, req->device_id, &d);

	if (err == DB_NOT_FOUND) {
		memset(&d, 0, sizeof(d));
		text_copy(d.device_id, sizeof(d.device_id), req->device_id);
		d.first_seen_ms = d.last_seen_ms = req->now_ms;
		text_copy(d.last_address, sizeof(d.last_address), bytes_str(req->peer));
	} else if (err < 0) {
		return err;
	}
	device_update(req, &d);
	err = device_put(txn, req->mailbox, &d);
	dw->device = d.id;
	return err;
}

/* The store id of the phone's record, made or refreshed when needed. Negative: DB error. */
static int device_ensure(struct eas_call *c, const struct device *found)
{
	struct device_write dw = {.req = c->req};

	if (found) {
		struct device copy = *found;

		if (!device_update(c->req, &copy)) {
			c->device = found->id;
			return DB_OK;
		}
	}
	int err = writer_write(c->ctx->writer, device_write, &dw);
	if (err == DB_OK)
		c->device = dw.device;
	return err;
}

/* ---- The body ---------------------------------------------------------------------------- */

static bool content_type_ok(struct bytes type)
{
	size_t n = 0;

	while (n < type.n && type.p[n] != ';' && type.p[n] != ' ' && type.p[n] != '\t')
		n++;
	type.n = n;
	return n == 0 || bytes_eq_nocase(type, EAS_WBXML_TYPE) ||
	       bytes_eq_nocase(type, "application/vnd.ms-sync");
}

/* False: refused. */
static bool body_parse(struct eas_call *c, const struct command *cmd)
{
	const struct eas_request *req = c->req;
	struct wbxml_node *root;
	const char *why;

	if (cmd->body == BODY_NONE)
		return true;
	if (req->resumed || req->body_is_empty || req->body.n == 0) {
		if (cmd->body == BODY_OPTIONAL)
			return true;
		call_refuse(c, 101, "body missing");
		return false;
	}
	if (!content_type_ok(req->content_type)) {
		call_refuse(c, 101, "content type is not WBXML");
		return false;
	}
	if (wbxml_parse(req->body, req->arena, NULL, &root, &why) < 0) {
		if (req->arena->failed)
			call_refuse(c, 111, "out of memory");
		else
			call_refuse(c, 102, why);
		return false;
	}
	if (root->tag != cmd->root) {
		if (cmd->foreign_status)
			call_status(c, cmd->foreign_status, "document of another command");
		else
			call_refuse(c, 103, "document of another command");
		return false;
	}
	c->root = root;
	return true;
}

void eas_run(const struct eas_context *ctx, const struct eas_request *req, struct eas_answer *out)
{
	struct eas_call c = {.ctx = ctx, .req = req, .out = out};
	const struct command *cmd;
	struct device_gate gate;
	struct device device;
	struct db_txn txn;

	memset(out, 0, sizeof(*out));
	out->http_status = 200;
	if (req->command < 0 || req->command >= EAS_COMMAND_COUNT || !commands[req->command].run) {
		call_http(&c, 501, "command is not built");
		return;
	}
	cmd = &commands[req->command];
	if (req->version < cmd->version_min || req->version > cmd->version_max) {
		call_http(&c, 501, "command is not part of this version");
		return;
	}
	if (req->device_id.n == 0 || req->device_id.n > EAS_DEVICE_ID_MAX) {
		call_refuse(&c, 108, "device id is missing or too long");
		return;
	}
	if (req->device_type.n == 0) {
		call_refuse(&c, 109, "device type is missing");
		return;
	}

	int err = db_read(ctx->db, &txn);
	if (err < 0) {
		call_store_error(&c, err);
		return;
	}
	err = device_gate(&txn, req->mailbox, req->device_id, &gate);
	bool known = err == DB_OK;
	if (known)
		err = device_get(&txn, req->mailbox, gate.id, &device);
	db_read_end(&txn);
	if (err < 0 && err != DB_NOT_FOUND) {
		call_store_error(&c, err);
		return;
	}
	int status = eas_policy_status(
		ctx, req->command, req->has_policy_key, req->policy_key, known ? &gate : NULL);
	if (status != 0) {
		out->device = known ? gate.id : 0;
		call_refuse(&c, status, status == 129 ? "device is blocked" : "policy");
		return;
	}
	/* A body that is refused leaves no record behind. */
	if (!body_parse(&c, cmd))
		return;
	err = device_ensure(&c, known && err == DB_OK ? &device : NULL);
	if (err < 0) {
		call_store_error(&c, err);
		return;
	}
	out->device = c.device;
	cmd->run(&c);
}
