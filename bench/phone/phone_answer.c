/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the server answered, but for Sync and Ping: those are in phone_sync.c. */
#include "bench/phone/phone_app.h"

#include "core/base/arena.h"
#include "core/base/check.h"

#include <stdio.h>

static json_t *answer_fields(struct phone_app *a, int http, uint64_t came_ns)
{
	return json_pack("{s:i, s:I}", "http", http, "took_us",
		(json_int_t)((came_ns - a->request_ns) / 1000));
}

/* The newest version both know. */
static void answer_options(
	struct phone_app *a, const struct http_answer *h, json_t *fields, double ms)
{
	static const int ours[] = {161, 160, 141, 140, 121};
	struct bytes versions = http_answer_field(h, "MS-ASProtocolVersions");
	struct bytes commands = http_answer_field(h, "MS-ASProtocolCommands");
	int best = 0;

	json_object_set_new(fields, "versions", app_json_bytes(versions));
	json_object_set_new(fields, "commands", app_json_bytes(commands));
	for (size_t k = 0; k < ARRAY_LEN(ours); k++) {
		struct bytes left = versions;

		while (left.n) {
			const uint8_t *comma = memchr(left.p, ',', left.n);
			size_t n = comma ? (size_t)(comma - left.p) : left.n;

			if (eas_version_parse(bytes_of(left.p, n)) == ours[k] &&
				(a->version_given ? ours[k] == a->who.version : best == 0))
				best = ours[k];
			left = bytes_of(left.p + n + (comma != NULL), left.n - n - (comma != NULL));
		}
	}
	if (versions.n == 0 || commands.n == 0) {
		app_step_failed(a, EXIT_STEP, fields,
			"the answer lacks MS-ASProtocolVersions or MS-ASProtocolCommands");
		return;
	}
	if (best == 0) {
		app_step_failed(a, EXIT_STEP, fields,
			"no common protocol version: the server has %.*s", (int)versions.n,
			(const char *)versions.p);
		return;
	}
	a->who.version = best;
	json_object_set_new(fields, "protocol", json_string(eas_version_name(best)));
	tell(a, "options", "answered", fields, "200 in %.1f ms: versions %.*s; using %s", ms,
		(int)versions.n, (const char *)versions.p, eas_version_name(best));
	app_step_next(a);
}

static void answer_provision(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	struct phone_provision p;

	if (!phone_read_provision(root, &p)) {
		app_step_failed(a, EXIT_STEP, fields, "not a Provision answer");
		return;
	}
	json_object_set_new(fields, "phase", json_integer(a->phase + 1));
	json_object_set_new(fields, "status", json_integer(p.status));
	json_object_set_new(fields, "policy_status", json_integer(p.policy_status));
	json_object_set_new(fields, "wipe", json_boolean(p.wipe || p.account_wipe));
	if (p.wipe || p.account_wipe) {
		app_step_failed(a, EXIT_STEP, fields, "the server orders a remote wipe");
		return;
	}
	if (p.status != 1 || p.policy_status != 1 || p.policy_key == 0) {
		app_step_failed(a, EXIT_STEP, fields, "status %u, policy status %u", p.status,
			p.policy_status);
		return;
	}
	a->who.policy_key = p.policy_key;
	json_object_set_new(fields, "policy_key", json_integer(p.policy_key));
	tell(a, "provision", "answered", fields, "phase %u in %.1f ms: %s policy key %u",
		a->phase + 1, ms, a->phase == 0 ? "policy received, temporary" : "accepted, final",
		p.policy_key);
	if (a->phase == 0) {
		a->phase = 1;
		app_step_send(a);
	} else {
		app_step_next(a);
	}
}

static void read_folder(struct phone_app *a, const struct wbxml_node *n)
{
	struct folder *f = app_folder_add(a, wbxml_text(n, FOLDERHIERARCHY_ServerId));
	struct bytes name = wbxml_text(n, FOLDERHIERARCHY_DisplayName);

	if (!f)
		return;
	bytes_to_strz(name, f->name, sizeof(f->name));
	wbxml_u32(wbxml_child(n, FOLDERHIERARCHY_Type), 255, &f->type);
	tell(a, "foldersync", "folder",
		json_pack("{s:s, s:i, s:o}", "folder", f->id, "type", (int)f->type, "name",
			app_json_bytes(name)),
		"  folder %s: %.*s (type %u)", f->id, (int)name.n, (const char *)name.p, f->type);
}

static void answer_folder_sync(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	struct phone_folder_sync s;
	struct folder *gone;

	if (!phone_read_folder_sync(root, &s)) {
		uint32_t status = s.status;

		json_object_set_new(fields, "status", json_integer(status));
		app_step_failed(a, EXIT_STEP, fields, "not a proper FolderSync answer");
		return;
	}
	json_object_set_new(fields, "status", json_integer(s.status));
	if (s.status == 9 && strcmp(a->hierarchy_key, "0") != 0) {
		tell(a, "foldersync", "key-lost", fields, "status 9: the key is void, from 0");
		strcpy(a->hierarchy_key, "0");
		a->folder_count = 0;
		app_step_send(a);
		return;
	}
	if (s.status != 1 || !bytes_to_strz(s.key, a->hierarchy_key, sizeof(a->hierarchy_key))) {
		app_step_failed(a, EXIT_STEP, fields, "status %u", s.status);
		return;
	}
	json_object_set_new(fields, "count", json_integer(s.count));
	json_object_set_new(fields, "key", json_string(a->hierarchy_key));
	tell(a, "foldersync", "answered", fields, "%u change%s in %.1f ms, key %s", s.count,
		s.count == 1 ? "" : "s", ms, a->hierarchy_key);
	for (const struct wbxml_node *n = s.changes ? s.changes->first : NULL; n; n = n->next) {
		if (n->tag == FOLDERHIERARCHY_Add || n->tag == FOLDERHIERARCHY_Update) {
			read_folder(a, n);
		} else if (n->tag == FOLDERHIERARCHY_Delete) {
			gone = app_folder_by_id(a, wbxml_text(n, FOLDERHIERARCHY_ServerId));
			if (!gone)
				continue;
			tell(a, "foldersync", "folder-gone", json_pack("{s:s}", "folder", gone->id),
				"  folder %s is gone", gone->id);
			*gone = a->folders[--a->folder_count];
		}
	}
	app_step_next(a);
}

static void answer_fetch(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	const struct wbxml_node *fetch =
		wbxml_child(wbxml_child(root, ITEMOPERATIONS_Response), ITEMOPERATIONS_Fetch);
	uint32_t status = 0, item_status = 0;

	wbxml_u32(wbxml_child(root, ITEMOPERATIONS_Status), UINT32_MAX, &status);
	wbxml_u32(wbxml_child(fetch, ITEMOPERATIONS_Status), UINT32_MAX, &item_status);
	json_object_set_new(fields, "status", json_integer(status));
	json_object_set_new(fields, "item_status", json_integer(item_status));
	if (status != 1 || item_status != 1) {
		app_step_failed(
			a, EXIT_STEP, fields, "status %u, item status %u", status, item_status);
		return;
	}
	tell(a, "fetch", "answered", fields, "item %s in %.1f ms", a->item, ms);
	app_tell_item(a, a->item_folder, "fetched", '=', fetch);
	app_step_next(a);
}

static void answer_estimate(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	const struct wbxml_node *r = wbxml_child(root, GETITEMESTIMATE_Response);
	uint32_t total = 0;

	for (; r; r = wbxml_next_of(r, GETITEMESTIMATE_Response)) {
		const struct wbxml_node *c = wbxml_child(r, GETITEMESTIMATE_Collection);
		uint32_t status = 0, n = 0;

		wbxml_u32(wbxml_child(r, GETITEMESTIMATE_Status), UINT32_MAX, &status);
		if (status != 1) {
			json_object_set_new(fields, "status", json_integer(status));
			app_step_failed(a, EXIT_STEP, fields, "status %u", status);
			return;
		}
		wbxml_u32(wbxml_child(c, GETITEMESTIMATE_Estimate), UINT32_MAX, &n);
		total += n;
	}
	json_object_set_new(fields, "estimate", json_integer(total));
	tell(a, "estimate", "answered", fields, "%u item%s to come, in %.1f ms", total,
		total == 1 ? "" : "s", ms);
	app_step_next(a);
}

static void answer_settings(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	uint32_t status = 0;

	wbxml_u32(wbxml_child(root, SETTINGS_Status), UINT32_MAX, &status);
	json_object_set_new(fields, "status", json_integer(status));
	if (status != 1) {
		app_step_failed(a, EXIT_STEP, fields, "status %u", status);
		return;
	}
	tell(a, "settings", "answered", fields, "device information told in %.1f ms", ms);
	app_step_next(a);
}

static void answer_refused(struct phone_app *a, const struct http_answer *h, json_t *fields)
{
	struct bytes id = http_answer_field(h, "X-Request-Id");
	struct bytes reason = http_answer_field(h, "X-Roost-Reason");
	struct bytes retry = http_answer_field(h, "Retry-After");
	char reason_line[80], id_line[80];
	bool account = h->status == 401 || h->status == 403;

	if (id.p)
		json_object_set_new(fields, "request_id", app_json_bytes(id));
	if (reason.p)
		json_object_set_new(fields, "server_reason", app_json_bytes(reason));
	if (retry.p)
		json_object_set_new(fields, "retry_after", app_json_bytes(retry));
	app_first_line(reason, reason_line);
	app_first_line(id, id_line);
	app_step_failed(a, account ? EXIT_AUTH : EXIT_STEP, fields, "HTTP %d %.*s%s%s%s%s%s",
		h->status, (int)(h->reason.n < 60 ? h->reason.n : 60), (const char *)h->reason.p,
		reason_line[0] ? ": " : "", reason_line, id_line[0] ? " (request " : "", id_line,
		id_line[0] ? ")" : "");
}

void app_on_answered(
	void *arg, uint32_t phone, const struct http_answer *h, struct bytes body, uint64_t came_ns)
{
	struct phone_app *a = arg;
	struct arena arena;
	struct wbxml_node *root = NULL;
	struct bytes type = http_answer_field(h, "Content-Type");
	const char *why = NULL;
	enum verb v = a->steps[a->at].verb;
	json_t *fields = answer_fields(a, h->status, came_ns);
	double ms = (double)(came_ns - a->request_ns) / 1e6;

	(void)phone;
	a->parked_due_ms = 0;
	a->answers++;
	a->running = false;
	if (h->status != 200) {
		answer_refused(a, h, fields);
		return;
	}
	if (v == VERB_OPTIONS) {
		answer_options(a, h, fields, ms);
		return;
	}
	app_show_document(a, "<", body);
	arena_init(&arena, 256u << 20);
	if (body.n && !bytes_eq_nocase(type, "application/vnd.ms-sync.wbxml") &&
		!bytes_eq_nocase(type, "application/vnd.ms-sync")) {
		app_step_failed(a, EXIT_STEP, fields, "Content-Type is '%.*s'", (int)type.n,
			(const char *)type.p);
		goto done;
	}
	if (body.n && wbxml_parse(body, &arena, NULL, &root, &why) < 0) {
		app_step_failed(a, EXIT_STEP, fields, "the answer is not WBXML: %s", why);
		goto done;
	}
	switch (v) {
	case VERB_PROVISION:
		answer_provision(a, root, fields, ms);
		break;
	case VERB_FOLDERSYNC:
		answer_folder_sync(a, root, fields, ms);
		break;
	case VERB_SYNC:
	case VERB_SYNC_WAIT:
	case VERB_MARK_READ:
	case VERB_MARK_UNREAD:
	case VERB_DELETE:
		app_answer_sync(a, root, fields, ms);
		break;
	case VERB_PING:
	case VERB_PING_CACHED:
	case VERB_WAIT_FOR_CHANGE:
		app_answer_ping(a, root, fields, came_ns);
		break;
	case VERB_FETCH:
		answer_fetch(a, root, fields, ms);
		break;
	case VERB_ESTIMATE:
		answer_estimate(a, root, fields, ms);
		break;
	case VERB_SETTINGS:
		answer_settings(a, root, fields, ms);
		break;
	default:
		CHECK(!"a verb that asks");
	}
done:
	arena_free(&arena);
}
