/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/eas_request.h"

#include <stdio.h>

static void base64(struct bytes in, struct buf *out)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < in.n; i += 3) {
		size_t left = in.n - i;
		uint32_t v = (uint32_t)in.p[i] << 16;

		if (left > 1)
			v |= (uint32_t)in.p[i + 1] << 8;
		if (left > 2)
			v |= in.p[i + 2];
		buf_add_byte(out, (uint8_t)digits[v >> 18]);
		buf_add_byte(out, (uint8_t)digits[v >> 12 & 63]);
		buf_add_byte(out, left > 1 ? (uint8_t)digits[v >> 6 & 63] : '=');
		buf_add_byte(out, left > 2 ? (uint8_t)digits[v & 63] : '=');
	}
}

bool phone_basic(const char *user, const char *password, char *dst, size_t cap)
{
	struct buf plain = {0}, out = {0};
	bool ok;

	buf_printf(&plain, "%s:%s", user, password);
	buf_add_str(&out, "Basic ");
	base64(buf_bytes(&plain), &out);
	ok = !plain.failed && !out.failed && bytes_to_strz(buf_bytes(&out), dst, cap);
	if (plain.p)
		explicit_bzero(plain.p, plain.n);
	buf_free(&plain);
	buf_free(&out);
	return ok;
}

/* ---- requests ---- */

/* RFC 3986 2.3; everything else is escaped. */
static void percent(const char *s, struct buf *out)
{
	for (; *s; s++) {
		uint8_t c = (uint8_t)*s;
		bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
			     (c >= 'A' && c <= 'Z') || strchr("-._~", c) != NULL;

		if (plain)
			buf_add_byte(out, c);
		else
			buf_printf(out, "%%%02X", c);
	}
}

/* MS-ASHTTP 2.2.1.1.1.1: binary fields in base64, percent-encoded as phones do. */
static void query_base64(const struct phone_identity *w, enum eas_command command, struct buf *out)
{
	size_t device = strlen(w->device_id), type = strlen(w->device_type);
	struct buf raw = {0}, text = {0};

	buf_add_byte(&raw, (uint8_t)w->version);
	buf_add_byte(&raw, (uint8_t)command);
	buf_add(&raw, "\x09\x04", 2); /* en-US */
	buf_add_byte(&raw, (uint8_t)(device < 255 ? device : 255));
	buf_add(&raw, w->device_id, device < 255 ? device : 255);
	if (w->policy_key) {
		buf_add_byte(&raw, 4);
		buf_add(&raw, &w->policy_key, 4); /* little endian, as this machine is */
	} else {
		buf_add_byte(&raw, 0);
	}
	buf_add_byte(&raw, (uint8_t)(type < 255 ? type : 255));
	buf_add(&raw, w->device_type, type < 255 ? type : 255);
	base64(buf_bytes(&raw), &text);
	buf_add_byte(&text, 0);
	if (raw.failed || text.failed)
		out->failed = true;
	else
		percent((const char *)text.p, out);
	buf_free(&raw);
	buf_free(&text);
}

static void query_plain(const struct phone_identity *w, enum eas_command command, struct buf *out)
{
	buf_printf(out, "Cmd=%s&User=", eas_command_name(command));
	percent(w->user, out);
	buf_add_str(out, "&DeviceId=");
	percent(w->device_id, out);
	buf_add_str(out, "&DeviceType=");
	percent(w->device_type, out);
}

static void common_headers(const struct phone_identity *w, struct buf *out)
{
	buf_printf(out, " HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\n", w->host, w->user_agent);
	if (w->authorization)
		buf_printf(out, "Authorization: %s\r\n", w->authorization);
	if (w->close)
		buf_add_str(out, "Connection: close\r\n");
}

void phone_request(const struct phone_identity *w, enum eas_command command, struct bytes body,
	struct buf *out)
{
	/* The base64 form began with 12.1 (MS-ASHTTP 2.2.1.1.1). */
	bool short_query = w->base64_query && w->version >= 121;

	buf_add_str(out, "POST /Microsoft-Server-ActiveSync?");
	if (short_query)
		query_base64(w, command, out);
	else
		query_plain(w, command, out);
	common_headers(w, out);
	if (!short_query) {
		const char *version = eas_version_name(w->version);

		buf_printf(out, "MS-ASProtocolVersion: %s\r\n", version ? version : "14.1");
		/* Not with Ping (MS-ASPROV 3.1.5.1); before the first key it is 0. */
		if (command != EAS_PING)
			buf_printf(out, "X-MS-PolicyKey: %u\r\n", w->policy_key);
	}
	if (body.n)
		buf_add_str(out, "Content-Type: application/vnd.ms-sync.wbxml\r\n");
	buf_printf(out, "Content-Length: %zu\r\n\r\n", body.n);
	buf_add(out, body.p, body.n);
}

void phone_request_options(const struct phone_identity *w, struct buf *out)
{
	buf_add_str(out, "OPTIONS /Microsoft-Server-ActiveSync");
	common_headers(w, out);
	buf_add_str(out, "Content-Length: 0\r\n\r\n");
}

void phone_request_get(const struct phone_identity *w, const char *target, struct buf *out)
{
	buf_printf(out, "GET %s", target);
	common_headers(w, out);
	buf_add_str(out, "\r\n");
}

/* ---- bodies ---- */

static void finish(struct wbxml_writer *w)
{
	if (!wbxml_done(w))
		w->out->failed = true;
}

static void put_device_information(
	struct wbxml_writer *w, const char *model, const char *user_agent)
{
	wbxml_put_start(w, SETTINGS_DeviceInformation);
	wbxml_put_start(w, SETTINGS_Set);
	wbxml_put_text(w, SETTINGS_Model, model);
	wbxml_put_text(w, SETTINGS_FriendlyName, model);
	wbxml_put_text(w, SETTINGS_OS, "Roost test phone");
	wbxml_put_text(w, SETTINGS_OSLanguage, "en-us");
	wbxml_put_text(w, SETTINGS_UserAgent, user_agent);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static void put_policy_start(struct wbxml_writer *w)
{
	wbxml_put_start(w, PROVISION_Policies);
	wbxml_put_start(w, PROVISION_Policy);
	wbxml_put_text(w, PROVISION_PolicyType, "MS-EAS-Provisioning-WBXML");
}

void phone_body_provision_ask(
	int version, const char *model, const char *user_agent, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, PROVISION_Provision);
	if (version >= 141)
		put_device_information(&w, model, user_agent);
	put_policy_start(&w);
	for (int i = 0; i < 3; i++)
		wbxml_put_end(&w);
	finish(&w);
}

void phone_body_provision_acknowledge(uint32_t temporary_key, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, PROVISION_Provision);
	put_policy_start(&w);
	wbxml_put_u64(&w, PROVISION_PolicyKey, temporary_key);
	wbxml_put_text(&w, PROVISION_Status, "1");
	for (int i = 0; i < 3; i++)
		wbxml_put_end(&w);
	finish(&w);
}

void phone_body_folder_sync(struct bytes key, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, FOLDERHIERARCHY_FolderSync);
	wbxml_put_bytes_text(&w, FOLDERHIERARCHY_SyncKey, key);
	wbxml_put_end(&w);
	finish(&w);
}

void phone_body_settings(const char *model, const char *user_agent, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, SETTINGS_Settings);
	put_device_information(&w, model, user_agent);
	wbxml_put_end(&w);
	finish(&w);
}

static void put_body_preference(struct wbxml_writer *w, uint8_t type, uint32_t truncation_bytes)
{
	wbxml_put_start(w, AIRSYNCBASE_BodyPreference);
	wbxml_put_u64(w, AIRSYNCBASE_Type, type);
	if (truncation_bytes)
		wbxml_put_u64(w, AIRSYNCBASE_TruncationSize, truncation_bytes);
	wbxml_put_end(w);
}

static void put_command(struct wbxml_writer *w, const struct phone_sync *s)
{
	wbxml_put_start(w, AIRSYNC_Commands);
	switch (s->command) {
	case PHONE_SYNC_NOTHING:
		break;
	case PHONE_SYNC_MARK_READ:
	case PHONE_SYNC_MARK_UNREAD:
		wbxml_put_start(w, AIRSYNC_Change);
		wbxml_put_bytes_text(w, AIRSYNC_ServerId, s->item);
		wbxml_put_start(w, AIRSYNC_ApplicationData);
		wbxml_put_text(w, EMAIL_Read, s->command == PHONE_SYNC_MARK_READ ? "1" : "0");
		wbxml_put_end(w);
		wbxml_put_end(w);
		break;
	case PHONE_SYNC_DELETE:
	case PHONE_SYNC_FETCH:
		wbxml_put_start(
			w, s->command == PHONE_SYNC_DELETE ? AIRSYNC_Delete : AIRSYNC_Fetch);
		wbxml_put_bytes_text(w, AIRSYNC_ServerId, s->item);
		wbxml_put_end(w);
		break;
	}
	wbxml_put_end(w);
}

/* In the one order that servers may insist on (MS-ASCMD 2.2.3.29.2). */
static void put_collection(struct wbxml_writer *w, const struct phone_sync *s)
{
	wbxml_put_start(w, AIRSYNC_Collection);
	wbxml_put_bytes_text(w, AIRSYNC_SyncKey, s->key);
	wbxml_put_bytes_text(w, AIRSYNC_CollectionId, s->folder);
	if (!s->prime) {
		wbxml_put_text(w, AIRSYNC_DeletesAsMoves, "1");
		wbxml_put_text(w, AIRSYNC_GetChanges, "1");
		if (s->window)
			wbxml_put_u64(w, AIRSYNC_WindowSize, s->window);
		if (!s->keep_options) {
			wbxml_put_start(w, AIRSYNC_Options);
			wbxml_put_u64(w, AIRSYNC_FilterType, s->filter_type);
			if (s->body_type)
				put_body_preference(w, s->body_type, s->truncation_bytes);
			wbxml_put_end(w);
		}
		if (s->command != PHONE_SYNC_NOTHING)
			put_command(w, s);
	}
	wbxml_put_end(w);
}

void phone_body_sync(const struct phone_sync *folders, size_t count, int version,
	uint32_t heartbeat_s, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_start(&w, AIRSYNC_Collections);
	for (size_t i = 0; i < count; i++)
		put_collection(&w, &folders[i]);
	wbxml_put_end(&w);
	if (heartbeat_s && version >= 140)
		wbxml_put_u64(&w, AIRSYNC_HeartbeatInterval, heartbeat_s);
	else if (heartbeat_s)
		wbxml_put_u64(&w, AIRSYNC_Wait, (heartbeat_s + 59) / 60);
	wbxml_put_end(&w);
	finish(&w);
}

void phone_body_ping(
	uint32_t heartbeat_s, const struct bytes *folders, size_t count, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, PING_Ping);
	if (heartbeat_s)
		wbxml_put_u64(&w, PING_HeartbeatInterval, heartbeat_s);
	if (count) {
		wbxml_put_start(&w, PING_Folders);
		for (size_t i = 0; i < count; i++) {
			wbxml_put_start(&w, PING_Folder);
			wbxml_put_bytes_text(&w, PING_Id, folders[i]);
			wbxml_put_text(&w, PING_Class, "Email");
			wbxml_put_end(&w);
		}
		wbxml_put_end(&w);
	}
	wbxml_put_end(&w);
	finish(&w);
}

void phone_body_fetch(struct bytes folder, struct bytes item, uint8_t body_type,
	uint32_t truncation_bytes, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, ITEMOPERATIONS_ItemOperations);
	wbxml_put_start(&w, ITEMOPERATIONS_Fetch);
	wbxml_put_text(&w, ITEMOPERATIONS_Store, "Mailbox");
	wbxml_put_bytes_text(&w, AIRSYNC_CollectionId, folder);
	wbxml_put_bytes_text(&w, AIRSYNC_ServerId, item);
	wbxml_put_start(&w, ITEMOPERATIONS_Options);
	if (body_type == 4)
		wbxml_put_text(&w, AIRSYNC_MIMESupport, "2");
	put_body_preference(&w, body_type, truncation_bytes);
	for (int i = 0; i < 3; i++)
		wbxml_put_end(&w);
	finish(&w);
}

void phone_body_estimate(
	const struct phone_sync *folders, size_t count, int version, struct buf *out)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, GETITEMESTIMATE_GetItemEstimate);
	wbxml_put_start(&w, GETITEMESTIMATE_Collections);
	for (size_t i = 0; i < count; i++) {
		wbxml_put_start(&w, GETITEMESTIMATE_Collection);
		if (version >= 140) {
			wbxml_put_bytes_text(&w, AIRSYNC_SyncKey, folders[i].key);
			wbxml_put_bytes_text(&w, GETITEMESTIMATE_CollectionId, folders[i].folder);
			wbxml_put_start(&w, AIRSYNC_Options);
			wbxml_put_u64(&w, AIRSYNC_FilterType, folders[i].filter_type);
			wbxml_put_end(&w);
		} else {
			wbxml_put_bytes_text(&w, GETITEMESTIMATE_CollectionId, folders[i].folder);
			wbxml_put_u64(&w, AIRSYNC_FilterType, folders[i].filter_type);
			wbxml_put_bytes_text(&w, AIRSYNC_SyncKey, folders[i].key);
		}
		wbxml_put_end(&w);
	}
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	finish(&w);
}

/* ---- answers ---- */

static uint32_t number(const struct wbxml_node *node, uint16_t tag)
{
	uint32_t v = 0;

	wbxml_u32(wbxml_child(node, tag), UINT32_MAX, &v);
	return v;
}

bool phone_read_provision(const struct wbxml_node *root, struct phone_provision *out)
{
	const struct wbxml_node *policy;

	*out = (struct phone_provision){0};
	if (!root || root->tag != PROVISION_Provision)
		return false;
	out->status = number(root, PROVISION_Status);
	out->wipe = wbxml_child(root, PROVISION_RemoteWipe) != NULL;
	out->account_wipe = wbxml_child(root, PROVISION_AccountOnlyRemoteWipe) != NULL;
	policy = wbxml_child(wbxml_child(root, PROVISION_Policies), PROVISION_Policy);
	out->policy_status = number(policy, PROVISION_Status);
	out->policy_key = number(policy, PROVISION_PolicyKey);
	out->has_document =
		wbxml_child(wbxml_child(policy, PROVISION_Data), PROVISION_EASProvisionDoc) != NULL;
	return out->status != 0;
}

bool phone_read_folder_sync(const struct wbxml_node *root, struct phone_folder_sync *out)
{
	*out = (struct phone_folder_sync){0};
	if (!root || root->tag != FOLDERHIERARCHY_FolderSync)
		return false;
	out->status = number(root, FOLDERHIERARCHY_Status);
	out->key = wbxml_text(root, FOLDERHIERARCHY_SyncKey);
	out->changes = wbxml_child(root, FOLDERHIERARCHY_Changes);
	out->count = number(out->changes, FOLDERHIERARCHY_Count);
	/* Success has a key, failure must not (MS-ASCMD 2.2.3.181.2). */
	return out->status != 0 && (out->status == 1) == (out->key.p != NULL);
}

bool phone_read_ping(const struct wbxml_node *root, struct phone_ping *out)
{
	*out = (struct phone_ping){0};
	if (!root || root->tag != PING_Ping)
		return false;
	out->status = number(root, PING_Status);
	out->heartbeat_s = number(root, PING_HeartbeatInterval);
	out->folders_max = number(root, PING_MaxFolders);
	out->folders = wbxml_child(root, PING_Folders);
	/* Status 2 names at least one folder, others none (MS-ASCMD 2.2.3.72). */
	return out->status != 0 &&
	       (out->status == 2) == (wbxml_child(out->folders, PING_Folder) != NULL);
}

uint32_t phone_sync_status(const struct wbxml_node *root)
{
	const struct wbxml_node *status = wbxml_child(root, AIRSYNC_Status);

	return status ? number(root, AIRSYNC_Status) : 1;
}

bool phone_next_collection(
	const struct wbxml_node *root, const struct wbxml_node **at, struct phone_collection *out)
{
	if (!root || root->tag != AIRSYNC_Sync)
		return false;
	*at = *at ? wbxml_next_of(*at, AIRSYNC_Collection)
		  : wbxml_child(wbxml_child(root, AIRSYNC_Collections), AIRSYNC_Collection);
	if (!*at)
		return false;
	*out = (struct phone_collection){
		.folder = wbxml_text(*at, AIRSYNC_CollectionId),
		.key = wbxml_text(*at, AIRSYNC_SyncKey),
		.status = number(*at, AIRSYNC_Status),
		.more = wbxml_child(*at, AIRSYNC_MoreAvailable) != NULL,
		.commands = wbxml_child(*at, AIRSYNC_Commands),
		.responses = wbxml_child(*at, AIRSYNC_Responses),
	};
	return true;
}

void phone_read_item(const struct wbxml_node *node, struct phone_item *out)
{
	const struct wbxml_node *data = wbxml_child(node, AIRSYNC_ApplicationData);
	const struct wbxml_node *body, *file;

	*out = (struct phone_item){.id = wbxml_text(node, AIRSYNC_ServerId)};
	if (!data)
		data = wbxml_child(node, ITEMOPERATIONS_Properties);
	out->subject = wbxml_text(data, EMAIL_Subject);
	out->from = wbxml_text(data, EMAIL_From);
	out->to = wbxml_text(data, EMAIL_To);
	out->date = wbxml_text(data, EMAIL_DateReceived);
	out->has_read = wbxml_bool(wbxml_child(data, EMAIL_Read), &out->read);
	body = wbxml_child(data, AIRSYNCBASE_Body);
	out->body = wbxml_text(body, AIRSYNCBASE_Data);
	out->body_type = number(body, AIRSYNCBASE_Type);
	out->preview = wbxml_text(body, AIRSYNCBASE_Preview);
	wbxml_bool(wbxml_child(body, AIRSYNCBASE_Truncated), &out->truncated);
	file = wbxml_child(wbxml_child(data, AIRSYNCBASE_Attachments), AIRSYNCBASE_Attachment);
	for (; file; file = wbxml_next_of(file, AIRSYNCBASE_Attachment))
		out->attachments++;
}
