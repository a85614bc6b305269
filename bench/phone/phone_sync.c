/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Answers to Sync and Ping. */
#include "bench/phone/phone_app.h"

#include "core/base/check.h"

#include <stdio.h>

void app_tell_item(struct phone_app *a, const char *folder, const char *event, char sign,
	const struct wbxml_node *node)
{
	struct phone_item i;
	char subject[80], from[80], line[80];
	json_t *fields;

	phone_read_item(node, &i);
	fields = json_pack("{s:s, s:o}", "folder", folder, "item", app_json_bytes(i.id));
	if (i.subject.p)
		json_object_set_new(fields, "subject", app_json_bytes(i.subject));
	if (i.from.p)
		json_object_set_new(fields, "from", app_json_bytes(i.from));
	if (i.to.p)
		json_object_set_new(fields, "to", app_json_bytes(i.to));
	if (i.date.p)
		json_object_set_new(fields, "date", app_json_bytes(i.date));
	if (i.body.p) {
		json_object_set_new(fields, "body", app_json_bytes(i.body));
		json_object_set_new(fields, "body_type", json_integer(i.body_type));
		json_object_set_new(fields, "truncated", json_boolean(i.truncated));
	}
	if (i.has_read)
		json_object_set_new(fields, "read", json_boolean(i.read));
	if (i.attachments)
		json_object_set_new(fields, "attachments", json_integer(i.attachments));
	app_first_line(i.subject, subject);
	app_first_line(i.from, from);
	app_first_line(i.body, line);
	if (i.subject.p || i.from.p)
		tell(a, app_step_name(a), event, fields, "  %c1 '%s' from %s%s%s%s", sign, subject,
			from[0] ? from : "?", line[0] ? ", body '" : "", line, line[0] ? "'" : "");
	else
		tell(a, app_step_name(a), event, fields, "  %c1 item %.*s%s", sign, (int)i.id.n,
			(const char *)i.id.p, i.has_read ? (i.read ? " (read)" : " (unread)") : "");
}

static void read_collection(
	struct phone_app *a, struct folder *f, const struct wbxml_node *commands)
{
	static const struct {
		uint16_t tag;
		char sign;
		const char *event;
	} kinds[] = {
		{AIRSYNC_Add, '+', "add"},
		{AIRSYNC_Change, '~', "change"},
		{AIRSYNC_Delete, '-', "delete"},
		{AIRSYNC_SoftDelete, '-', "soft-delete"},
	};

	for (const struct wbxml_node *n = commands ? commands->first : NULL; n; n = n->next) {
		for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
			if (n->tag != kinds[k].tag)
				continue;
			a->sync_items++;
			app_tell_item(a, f->id, kinds[k].event, kinds[k].sign, n);
			if (k > 1)
				continue;
			bytes_to_strz(wbxml_text(n, AIRSYNC_ServerId), a->item, sizeof(a->item));
			memcpy(a->item_folder, f->id, sizeof(a->item_folder));
		}
	}
}

/* Responses hold failures of our own commands (and successes of Add and Fetch). */
static uint32_t first_failure(const struct wbxml_node *responses)
{
	for (const struct wbxml_node *n = responses ? responses->first : NULL; n; n = n->next) {
		uint32_t status = 1;

		wbxml_u32(wbxml_child(n, AIRSYNC_Status), UINT32_MAX, &status);
		if (status != 1)
			return status;
	}
	return 0;
}

void app_answer_sync(struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	const struct wbxml_node *at = NULL;
	struct phone_collection c;
	uint32_t status = 1, bad = 0, before = a->sync_items;
	bool again = false, primed = false, client_command;
	enum verb v = a->steps[a->at].verb;

	client_command = v == VERB_MARK_READ || v == VERB_MARK_UNREAD || v == VERB_DELETE;
	if (root && root->tag != AIRSYNC_Sync) {
		app_step_failed(a, EXIT_STEP, fields, "not a Sync answer");
		return;
	}
	if (root)
		status = phone_sync_status(root);
	json_object_set_new(fields, "status", json_integer(status));
	if (status != 1) {
		uint32_t limit = 0;

		if (wbxml_u32(wbxml_child(root, AIRSYNC_Limit), UINT32_MAX, &limit))
			json_object_set_new(fields, "limit", json_integer(limit));
		app_step_failed(a, EXIT_STEP, fields, "status %u", status);
		return;
	}
	while (phone_next_collection(root, &at, &c)) {
		struct folder *f = app_folder_by_id(a, c.folder);

		if (!f) {
			app_step_failed(
				a, EXIT_STEP, fields, "an answer for a folder not asked for");
			return;
		}
		if (c.status == 3 && strcmp(f->key, "0") != 0) {
			tell(a, app_step_name(a), "key-lost", json_pack("{s:s}", "folder", f->id),
				"  folder %s: status 3, the key is void, from 0", f->id);
			strcpy(f->key, "0");
			again = true;
			continue;
		}
		if (c.status != 1) {
			bad = c.status;
			json_object_set_new(fields, "folder", json_string(f->id));
			continue;
		}
		primed |= strcmp(f->key, "0") == 0;
		if (!bytes_to_strz(c.key, f->key, sizeof(f->key)) || f->key[0] == 0) {
			app_step_failed(
				a, EXIT_STEP, fields, "folder %s: no proper SyncKey", f->id);
			return;
		}
		read_collection(a, f, c.commands);
		again |= c.more;
		if (!bad)
			bad = first_failure(c.responses);
	}
	if (bad) {
		json_object_set_new(fields, "collection_status", json_integer(bad));
		app_step_failed(a, EXIT_STEP, fields, "collection or item status %u", bad);
		return;
	}
	json_object_set_new(fields, "items", json_integer(a->sync_items - before));
	json_object_set_new(fields, "primed", json_boolean(primed));
	if (primed)
		tell(a, app_step_name(a), "answered", fields, "primed in %.1f ms", ms);
	else
		tell(a, app_step_name(a), "answered", fields, "%u item%s in %.1f ms%s",
			a->sync_items - before, a->sync_items - before == 1 ? "" : "s", ms,
			again ? ", more to come" : "");
	if ((again || primed) && !client_command && ++a->sync_rounds < SYNC_ROUNDS_MAX)
		app_step_send(a);
	else
		app_step_next(a);
}

/* When the change was committed, by the page that the server shares (same clock). */
static uint64_t commit_time(struct phone_app *a, uint64_t came_ns)
{
	const struct db_notify *n = a->db ? db_notify(a->db) : NULL;
	uint64_t at;

	if (!n)
		return 0;
	at = db_commit_time_ns(a->db, atomic_load(&n->seq));
	return at > a->request_ns && at < came_ns ? at : 0;
}

void app_answer_ping(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, uint64_t came_ns)
{
	struct phone_ping p;
	struct buf names = {0};
	json_t *changed;
	uint64_t commit_ns;
	double hung_ms = (double)(came_ns - a->request_ns) / 1e6;

	if (!phone_read_ping(root, &p)) {
		json_object_set_new(fields, "status", json_integer(p.status));
		app_step_failed(
			a, EXIT_STEP, fields, "not a proper Ping answer (status %u)", p.status);
		return;
	}
	json_object_set_new(fields, "status", json_integer(p.status));
	json_object_set_new(fields, "was_parked", json_boolean(a->parked));
	switch (p.status) {
	case 1:
		tell(a, app_step_name(a), "expired", fields,
			"heartbeat over after %.1f s, no change", hung_ms / 1000);
		break;
	case 2:
		changed = json_array();
		for (const struct wbxml_node *n = wbxml_child(p.folders, PING_Folder); n;
			n = wbxml_next_of(n, PING_Folder)) {
			json_array_append_new(changed, app_json_bytes(n->text));
			buf_printf(&names, "%s%.*s", names.n ? ", " : "", (int)n->text.n,
				(const char *)n->text.p);
		}
		buf_add_byte(&names, 0);
		json_object_set_new(fields, "folders", changed);
		commit_ns = commit_time(a, came_ns);
		if (commit_ns) {
			json_object_set_new(fields, "commit_to_phone_us",
				json_real((double)(came_ns - commit_ns) / 1000));
			app_tell_at(a, commit_ns, app_step_name(a), "committed",
				json_pack("{s:I}", "seq",
					(json_int_t)atomic_load(&db_notify(a->db)->seq)),
				"change committed by the server");
			app_tell_at(a, came_ns, app_step_name(a), a->parked ? "woken" : "answered",
				fields, "woken: folder %s changed; %.0f us after the commit",
				names.p, (double)(came_ns - commit_ns) / 1000);
		} else {
			app_tell_at(a, came_ns, app_step_name(a), a->parked ? "woken" : "answered",
				fields, "%s: folder %s changed%s",
				a->parked ? "woken" : "answered at once", names.p,
				a->parked ? "" : " before");
		}
		buf_free(&names);
		break;
	case 7:
		tell(a, app_step_name(a), "answered", fields,
			"status 7: the folder tree changed, FolderSync first");
		break;
	default:
		if (p.heartbeat_s)
			json_object_set_new(fields, "heartbeat_s", json_integer(p.heartbeat_s));
		if (p.folders_max)
			json_object_set_new(fields, "folders_max", json_integer(p.folders_max));
		if (p.heartbeat_s)
			app_step_failed(a, EXIT_STEP, fields, "status %u, the server allows %u s",
				p.status, p.heartbeat_s);
		else
			app_step_failed(a, EXIT_STEP, fields, "status %u", p.status);
		return;
	}
	if (a->steps[a->at].verb == VERB_WAIT_FOR_CHANGE && p.status == 1)
		app_step_send(a);
	else
		app_step_next(a);
}
