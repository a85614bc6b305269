/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The script: which verb is next, and the request that it sends. */
#include "bench/phone/phone_app.h"

#include "core/base/check.h"

#include <stdio.h>

void app_finish(struct phone_app *a, int result)
{
	if (a->over)
		return;
	a->over = true;
	if (a->result == EXIT_OK || result != EXIT_OK)
		a->result = result != EXIT_OK ? result : a->result;
	client_close(a->client, 0);
	if (!a->lmtp_running)
		client_stop(a->client);
}

static bool verb_waits(enum verb v)
{
	return v == VERB_PING || v == VERB_PING_CACHED || v == VERB_WAIT_FOR_CHANGE ||
	       v == VERB_SYNC_WAIT;
}

void app_step_next(struct phone_app *a)
{
	a->running = false;
	a->phase = 0;
	a->at++;
	if (a->at == a->step_count) {
		size_t back = 0;

		while (back < a->step_count && !verb_waits(a->steps[back].verb))
			back++;
		a->rounds_done++;
		if (back == a->step_count || (a->count && a->rounds_done >= a->count)) {
			app_finish(a, EXIT_OK);
			return;
		}
		a->at = back;
	}
	app_step_start(a);
}

/* `fields` as for tell. */
void app_step_failed(struct phone_app *a, int result, json_t *fields, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!fields)
		fields = json_object();
	json_object_set_new(fields, "reason", app_json_bytes(bytes_str(text)));
	json_object_set_new(fields, "exit_code", json_integer(result));
	tell(a, app_step_name(a), "failed", fields, "FAILED: %s", text);
	if (!a->keep_going || result == EXIT_CONNECTION) {
		app_finish(a, result);
		return;
	}
	a->result = a->result ? a->result : result;
	app_step_next(a);
}

struct folder *app_folder_by_id(struct phone_app *a, struct bytes id)
{
	for (size_t i = 0; i < a->folder_count; i++)
		if (bytes_eq_str(id, a->folders[i].id))
			return &a->folders[i];
	return NULL;
}

struct folder *app_folder_add(struct phone_app *a, struct bytes id)
{
	struct folder *f = app_folder_by_id(a, id);

	if (f || a->folder_count == FOLDERS_MAX)
		return f;
	f = &a->folders[a->folder_count];
	*f = (struct folder){.key = "0"};
	if (!bytes_to_strz(id, f->id, sizeof(f->id)))
		return NULL;
	a->folder_count++;
	return f;
}

/* Which folders --folders means, as far as they are known by now. */
void app_folders_choose(struct phone_app *a)
{
	const char *list = a->folder_list;

	for (size_t i = 0; i < a->folder_count; i++) {
		struct folder *f = &a->folders[i];

		/* Before a FolderSync there are no types, but the inbox is 1 here as good as ever.
		 */
		f->watched = list ? strcmp(list, "all") == 0
				  : f->type == 2 || (f->type == 0 && strcmp(f->id, "1") == 0);
	}
	if (!list && a->folder_count == 0)
		list = "1";
	while (list && *list && strcmp(list, "all") != 0) {
		size_t n = strcspn(list, ",");
		struct folder *f = app_folder_add(a, bytes_of(list, n));

		if (f)
			f->watched = true;
		list += n + (list[n] == ',');
	}
}

json_t *app_watched_json(const struct phone_app *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched)
			json_array_append_new(list, json_string(a->folders[i].id));
	return list;
}

static void sync_folder(const struct phone_app *a, const struct folder *f, struct phone_sync *out)
{
	*out = (struct phone_sync){
		.folder = bytes_str(f->id),
		.key = bytes_str(f->key),
		.window = a->window,
		.prime = strcmp(f->key, "0") == 0,
		.filter_type = f->type <= 6 || f->type == 12 ? a->filter_type : 0,
		.body_type = a->body_type,
		.truncation_bytes = a->truncation_bytes,
	};
}

/* Folders that still need key 0 go first and alone: a priming request carries nothing else. */
static size_t sync_folders(const struct phone_app *a, struct phone_sync out[FOLDERS_MAX])
{
	size_t n = 0;
	bool prime = false;

	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched && strcmp(a->folders[i].key, "0") == 0)
			prime = true;
	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched && (strcmp(a->folders[i].key, "0") == 0) == prime)
			sync_folder(a, &a->folders[i], &out[n++]);
	return n;
}

static size_t ping_folders(const struct phone_app *a, struct bytes out[FOLDERS_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched)
			out[n++] = bytes_str(a->folders[i].id);
	return n;
}

void app_send_request(struct phone_app *a)
{
	uint32_t timeout_s = a->timeout_s + (a->hangs ? a->heartbeat_s : 0);

	a->request_ns = clock_mono_ns();
	a->sent_ns = 0;
	a->parked = false;
	a->parked_due_ms = 0;
	if (client_is_open(a->client, 0))
		client_request(a->client, 0, buf_bytes(&a->request), timeout_s);
	else
		client_open(a->client, 0); /* app_on_opened sends it */
}

static void post(struct phone_app *a, enum eas_command command)
{
	a->request.n = 0;
	phone_request(&a->who, command, buf_bytes(&a->document), &a->request);
	CHECK(!a->request.failed && !a->document.failed);
	app_show_document(a, ">", buf_bytes(&a->document));
	a->repeated = false;
	app_send_request(a);
}

static bool need_item(struct phone_app *a)
{
	if (a->item[0])
		return true;
	app_step_failed(a, EXIT_STEP, NULL, "no item seen yet: sync first");
	return false;
}

/* Builds and sends the request of the step's phase. */
void app_step_send(struct phone_app *a)
{
	struct phone_sync sync[FOLDERS_MAX];
	struct bytes ids[FOLDERS_MAX];
	struct folder *f;
	size_t n;
	enum verb v = a->steps[a->at].verb;

	a->document.n = 0;
	a->hangs = verb_waits(v);
	switch (v) {
	case VERB_OPTIONS:
		a->request.n = 0;
		phone_request_options(&a->who, &a->request);
		a->repeated = false;
		app_send_request(a);
		return;
	case VERB_PROVISION:
		if (a->phase == 0)
			phone_body_provision_ask(
				a->who.version, "Roost phone", a->who.user_agent, &a->document);
		else
			phone_body_provision_acknowledge(a->who.policy_key, &a->document);
		post(a, EAS_PROVISION);
		return;
	case VERB_FOLDERSYNC:
		phone_body_folder_sync(bytes_str(a->hierarchy_key), &a->document);
		post(a, EAS_FOLDER_SYNC);
		return;
	case VERB_SYNC:
	case VERB_SYNC_WAIT:
		n = sync_folders(a, sync);
		if (n == 0) {
			app_step_failed(a, EXIT_STEP, NULL, "no folder to sync: see --folders");
			return;
		}
		if (sync[0].prime)
			a->hangs = false;
		phone_body_sync(
			sync, n, a->who.version, a->hangs ? a->heartbeat_s : 0, &a->document);
		post(a, EAS_SYNC);
		return;
	case VERB_MARK_READ:
	case VERB_MARK_UNREAD:
	case VERB_DELETE:
		f = app_folder_by_id(a, bytes_str(a->item_folder));
		if (!f || !need_item(a))
			return;
		sync_folder(a, f, &sync[0]);
		sync[0].command = v == VERB_DELETE      ? PHONE_SYNC_DELETE
				  : v == VERB_MARK_READ ? PHONE_SYNC_MARK_READ
							: PHONE_SYNC_MARK_UNREAD;
		sync[0].item = bytes_str(a->item);
		phone_body_sync(sync, 1, a->who.version, 0, &a->document);
		post(a, EAS_SYNC);
		return;
	case VERB_PING:
	case VERB_WAIT_FOR_CHANGE:
		n = ping_folders(a, ids);
		phone_body_ping(a->heartbeat_s, ids, n, &a->document);
		post(a, EAS_PING);
		return;
	case VERB_PING_CACHED:
		post(a, EAS_PING);
		return;
	case VERB_FETCH:
		if (!need_item(a))
			return;
		phone_body_fetch(bytes_str(a->item_folder), bytes_str(a->item),
			a->body_type ? a->body_type : 1, 0, &a->document);
		post(a, EAS_ITEM_OPERATIONS);
		return;
	case VERB_ESTIMATE:
		n = sync_folders(a, sync);
		phone_body_estimate(sync, n, a->who.version, &a->document);
		post(a, EAS_GET_ITEM_ESTIMATE);
		return;
	case VERB_SETTINGS:
		phone_body_settings("Roost phone", a->who.user_agent, &a->document);
		post(a, EAS_SETTINGS);
		return;
	case VERB_SLEEP:
		a->wake_at_ms = clock_mono_ms() + (uint64_t)(a->steps[a->at].seconds * 1000);
		return;
	case VERB_DISCONNECT:
		client_close(a->client, 0);
		tell(a, "disconnect", "closed", NULL, "connection closed");
		app_step_next(a);
		return;
	case VERB_COUNT:
		break;
	}
	CHECK(!"known verb");
}

void app_step_start(struct phone_app *a)
{
	a->running = true;
	a->phase = 0;
	a->sync_rounds = a->sync_items = 0;
	app_folders_choose(a);
	app_step_send(a);
}
