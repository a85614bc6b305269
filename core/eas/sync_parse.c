/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/sync_parse.c - a Sync request from its document (MS-ASCMD 2.2.1.21). */
#include "core/eas/message.h"
#include "core/eas/sync_priv.h"

/* ---- Options ------------------------------------------------------------------------------- */

void sync_options_default(struct sync_options *o)
{
	*o = (struct sync_options){.conflict = 1, .mime_truncation = MIME_TRUNCATION_NONE};
}

void sync_options_load(struct sync_options *o, const struct collection *c)
{
	*o = (struct sync_options){.filter_type = c->filter_type,
		.conflict = c->conflict,
		.mime_support = c->mime_support,
		.mime_truncation = c->mime_truncation,
		.preference_count = c->preference_count};
	for (size_t i = 0; i < c->preference_count; i++)
		o->preferences[i] = (struct sync_preference){.type = c->preferences[i].type,
			.all_or_none = c->preferences[i].all_or_none,
			.has_truncation = c->preferences[i].has_truncation,
			.preview = c->preferences[i].preview,
			.truncation_bytes = c->preferences[i].truncation_bytes};
}

bool sync_options_store(const struct sync_options *o, struct collection *c)
{
	struct sync_options was;
	bool same;

	sync_options_load(&was, c);
	same = was.filter_type == o->filter_type && was.conflict == o->conflict &&
	       was.mime_support == o->mime_support && was.mime_truncation == o->mime_truncation &&
	       was.preference_count == o->preference_count;
	for (size_t i = 0; same && i < o->preference_count; i++) {
		const struct sync_preference *a = &o->preferences[i], *b = &was.preferences[i];

		same = a->type == b->type && a->all_or_none == b->all_or_none &&
		       a->has_truncation == b->has_truncation && a->preview == b->preview &&
		       a->truncation_bytes == b->truncation_bytes;
	}
	if (same)
		return false;
	c->filter_type = o->filter_type;
	c->conflict = o->conflict;
	c->mime_support = o->mime_support;
	c->mime_truncation = o->mime_truncation;
	c->preference_count = o->preference_count;
	memset(c->preferences, 0, sizeof(c->preferences));
	for (size_t i = 0; i < o->preference_count; i++) {
		c->preferences[i].type = o->preferences[i].type;
		c->preferences[i].all_or_none = o->preferences[i].all_or_none;
		c->preferences[i].has_truncation = o->preferences[i].has_truncation;
		c->preferences[i].preview = o->preferences[i].preview;
		c->preferences[i].truncation_bytes = o->preferences[i].truncation_bytes;
	}
	return true;
}

/* A preference's children have a fixed order (MS-ASAIRS 3.2.5.1: else 4). */
static int preference_parse(const struct wbxml_node *node, struct sync_options *o)
{
	static const uint16_t order[] = {AIRSYNCBASE_Type, AIRSYNCBASE_TruncationSize,
		AIRSYNCBASE_AllOrNone, AIRSYNCBASE_Preview};
	struct sync_preference p = {0};
	size_t at = 0;
	uint32_t v;

	for (const struct wbxml_node *n = node->first; n; n = n->next) {
		if (n->unknown)
			continue;
		while (at < ARRAY_LEN(order) && order[at] != n->tag)
			at++;
		if (at == ARRAY_LEN(order))
			return 4;
		at++;
		switch (n->tag) {
		case AIRSYNCBASE_Type:
			if (!wbxml_u32(n, MESSAGE_MIME, &v) || v == 0)
				return 4;
			p.type = (uint8_t)v;
			break;
		case AIRSYNCBASE_TruncationSize:
			if (!wbxml_u32(n, UINT32_MAX, &p.truncation_bytes))
				return 4;
			p.has_truncation = true;
			break;
		case AIRSYNCBASE_AllOrNone:
			if (!wbxml_bool(n, &p.all_or_none))
				return 4;
			break;
		case AIRSYNCBASE_Preview:
			if (!wbxml_u32(n, 255, &v))
				return 4;
			p.preview = (uint8_t)v;
			break;
		}
	}
	if (p.type == 0)
		return 4;
	for (size_t i = 0; i < o->preference_count; i++)
		if (o->preferences[i].type == p.type)
			return 4;
	/* One per type and four types, so there is room. */
	o->preferences[o->preference_count++] = p;
	return 0;
}

int sync_options_parse(const struct wbxml_node *options, struct sync_options *o, bool *sms_out)
{
	uint32_t v, type;
	int status;

	sync_options_default(o);
	*sms_out = false;
	for (const struct wbxml_node *n = options ? options->first : NULL; n; n = n->next) {
		if (n->unknown)
			continue;
		switch (n->tag) {
		case AIRSYNC_FilterType:
			if (!wbxml_u32(n, 8, &v))
				return 4;
			o->filter_type = (uint8_t)v;
			break;
		case AIRSYNC_Class:
			*sms_out = bytes_eq_str(n->text, "SMS");
			break;
		case AIRSYNC_Conflict:
			if (!wbxml_u32(n, 1, &v))
				return 4;
			o->conflict = (uint8_t)v;
			break;
		case AIRSYNC_MIMESupport:
			if (!wbxml_u32(n, 2, &v))
				return 4;
			o->mime_support = (uint8_t)v;
			break;
		case AIRSYNC_MIMETruncation:
			if (!wbxml_u32(n, MIME_TRUNCATION_NONE, &v))
				return 4;
			o->mime_truncation = (uint8_t)v;
			break;
		case AIRSYNCBASE_BodyPreference:
			status = preference_parse(n, o);
			if (status != 0)
				return status;
			break;
		case AIRSYNCBASE_BodyPartPreference:
			/* BodyPart itself is optional in answers. */
			if (wbxml_u32(wbxml_child(n, AIRSYNCBASE_Type), UINT32_MAX, &type) &&
				type != MESSAGE_HTML)
				return 164;
			break;
		default:
			/* Truncation of 2.5, MaxItems, RightsManagementSupport, Range, Schema: not
			 * ours to judge here. */
			break;
		}
	}
	return 0;
}

/* ---- Client commands ----------------------------------------------------------------------- */

static int commands_parse(struct eas_call *c, struct sync_request *r, struct sync_collection *sc,
	const struct wbxml_node *node, const char **why)
{
	if (node->child_count == 0)
		return 0; /* undefined; ignored, as others do */
	r->command_count += node->child_count;
	if (r->command_count > SYNC_COMMANDS_MAX) {
		*why = "more than 200 commands";
		return 4;
	}
	sc->commands = arena_zalloc(c->req->arena, node->child_count * sizeof(*sc->commands));
	if (!sc->commands) {
		*why = "out of memory";
		return 16;
	}
	*why = "command of a collection is malformed";
	for (const struct wbxml_node *n = node->first; n; n = n->next) {
		struct sync_command *cmd = &sc->commands[sc->command_count];

		if (n->unknown)
			continue;
		cmd->data = wbxml_child(n, AIRSYNC_ApplicationData);
		cmd->id = wbxml_text(n, AIRSYNC_ServerId);
		switch (n->tag) {
		case AIRSYNC_Add:
			cmd->kind = SYNC_CLIENT_ADD;
			cmd->id = wbxml_text(n, AIRSYNC_ClientId);
			if (!cmd->data)
				return 4;
			break;
		case AIRSYNC_Change:
			cmd->kind = SYNC_CLIENT_CHANGE;
			if (!cmd->data)
				return 4;
			break;
		case AIRSYNC_Delete:
			cmd->kind = SYNC_CLIENT_DELETE;
			break;
		case AIRSYNC_Fetch:
			cmd->kind = SYNC_CLIENT_FETCH;
			break;
		default:
			return 4;
		}
		if (cmd->id.n == 0 || cmd->id.n > 64)
			return 4;
		sc->command_count++;
		sc->write_count += cmd->kind != SYNC_CLIENT_FETCH;
	}
	r->write_count += sc->write_count;
	sc->hash = sync_commands_hash(sc->commands, sc->command_count);
	return 0;
}

/* ---- Collection ---------------------------------------------------------------------------- */

static bool window_parse(const struct wbxml_node *n, uint32_t *out)
{
	uint32_t v;

	if (!wbxml_u32(n, UINT32_MAX, &v))
		return false;
	*out = v == 0 || v > SYNC_WINDOW_MAX ? SYNC_WINDOW_MAX : v;
	return true;
}

/* Options come at most twice: one for SMS, which lives in mail folders and is not kept here, and
 * one for the folder's own class. */
static void options_take(
	struct sync_collection *sc, const struct wbxml_node *node, bool *own_seen, bool *sms_seen)
{
	struct sync_options o;
	bool sms;
	int status = sync_options_parse(node, &o, &sms);
	bool *seen = sms ? sms_seen : own_seen;

	if (*seen)
		status = 4;
	*seen = true;
	if (status != 0) {
		sc->parse_status = status;
	} else if (!sms) {
		sc->has_options = true;
		sc->options = o;
	}
}

static int collection_parse(struct eas_call *c, struct sync_request *r, struct sync_collection *sc,
	const struct wbxml_node *node, const char **why)
{
	/* Children have this order (else 4). */
	static const uint16_t order[] = {AIRSYNC_Class, AIRSYNC_SyncKey, AIRSYNC_CollectionId,
		AIRSYNC_Supported, AIRSYNC_DeletesAsMoves, AIRSYNC_GetChanges, AIRSYNC_WindowSize,
		AIRSYNC_ConversationMode, AIRSYNC_Options, AIRSYNC_Commands};
	bool own_seen = false, sms_seen = false, has_get_changes = false;
	bool key_seen = false, id_seen = false;
	size_t at = 0, options = 0;

	sc->window = SYNC_WINDOW_DEFAULT;
	sc->get_changes = sc->deletes_as_moves = true;
	for (const struct wbxml_node *n = node->first; n; n = n->next) {
		if (n->unknown)
			continue;
		*why = "children of a collection are out of order";
		while (at < ARRAY_LEN(order) && order[at] != n->tag)
			at++;
		if (at == ARRAY_LEN(order))
			return 4;
		/* A second Options is fine, a third is not. */
		if (n->tag != AIRSYNC_Options || ++options == 2)
			at++;
		*why = "value in a collection is out of range";
		switch (n->tag) {
		case AIRSYNC_SyncKey:
			key_seen = true;
			sc->key_text = n->text;
			sc->key_ok = eas_key_parse(n->text, &sc->key);
			break;
		case AIRSYNC_CollectionId:
			id_seen = n->text.n > 0;
			sc->collection_id = n->text;
			sc->folder = eas_folder_id(n->text);
			break;
		case AIRSYNC_Supported:
			sc->supported = true;
			break;
		case AIRSYNC_DeletesAsMoves:
			if (!wbxml_bool(n, &sc->deletes_as_moves))
				return 4;
			break;
		case AIRSYNC_GetChanges:
			if (!wbxml_bool(n, &sc->get_changes))
				return 4;
			has_get_changes = true;
			break;
		case AIRSYNC_WindowSize:
			if (!window_parse(n, &sc->window))
				return 4;
			break;
		case AIRSYNC_ConversationMode:
			if (!wbxml_bool(n, &sc->conversation_mode))
				return 4;
			break;
		case AIRSYNC_Options:
			options_take(sc, n, &own_seen, &sms_seen);
			break;
		case AIRSYNC_Commands: {
			int status = commands_parse(c, r, sc, n, why);

			if (status != 0)
				return status;
			break;
		}
		}
	}
	if (!key_seen || !id_seen || sc->collection_id.n > 64 || sc->key_text.n > 64) {
		*why = "SyncKey or CollectionId missing or too long";
		return 4;
	}
	sc->get_changes_asked = has_get_changes && sc->get_changes;
	return 0;
}

static int collections_parse(
	struct eas_call *c, struct sync_request *r, const struct wbxml_node *node, const char **why)
{
	uint64_t max = (uint64_t)c->ctx->config->sync_collections_max;

	if (max > SYNC_COLLECTIONS_BOUND)
		max = SYNC_COLLECTIONS_BOUND;
	if (node->child_count > max) {
		r->limit = (uint32_t)max;
		*why = "too many collections";
		return 15;
	}
	*why = "Collections is empty";
	if (node->child_count == 0)
		return 4;
	r->collections = arena_zalloc(c->req->arena, node->child_count * sizeof(*r->collections));
	if (!r->collections) {
		*why = "out of memory";
		return 16;
	}
	for (const struct wbxml_node *n = node->first; n; n = n->next) {
		if (n->unknown)
			continue;
		struct sync_collection *sc = &r->collections[r->collection_count];

		*why = "not a collection";
		if (n->tag != AIRSYNC_Collection)
			return 4;
		int status = collection_parse(c, r, sc, n, why);
		if (status != 0)
			return status;
		*why = "collection is there twice";
		for (size_t i = 0; i < r->collection_count; i++)
			if (bytes_eq(r->collections[i].collection_id, sc->collection_id))
				return 4;
		r->collection_count++;
	}
	*why = "Collections is empty";
	return r->collection_count ? 0 : 4;
}

/* ---- The wait ------------------------------------------------------------------------------ */

/* Status 14 with the nearest allowed value, in the unit asked in. */
static int wait_check(struct eas_call *c, struct sync_request *r, uint32_t asked, const char **why)
{
	uint32_t unit = r->has_wait ? 60 : 1;
	uint32_t min = (uint32_t)c->ctx->config->push_heartbeat_min_s;
	uint32_t max = (uint32_t)c->ctx->config->push_heartbeat_max_s;

	if (r->has_wait) {
		min = (min + 59) / 60;
		max = max / 60 < 59 ? max / 60 : 59;
		if (max < min)
			max = min;
	}
	if (asked < min || asked > max) {
		r->limit = asked < min ? min : max;
		*why = "wait out of range";
		return 14;
	}
	r->wait_s = asked * unit;
	return 0;
}

int sync_parse(struct eas_call *c, struct sync_request *r, const char **why)
{
	uint32_t asked = 0;
	int status;

	for (const struct wbxml_node *n = c->root->first; n; n = n->next) {
		bool again = false;

		if (n->unknown)
			continue;
		*why = "value in Sync is out of range";
		switch (n->tag) {
		case AIRSYNC_Collections:
			again = r->has_collections;
			r->has_collections = true;
			status = again ? 4 : collections_parse(c, r, n, why);
			if (status != 0)
				return status;
			break;
		case AIRSYNC_Wait:
			again = r->has_wait;
			r->has_wait = true;
			if (!wbxml_u32(n, UINT32_MAX, &asked))
				return 4;
			break;
		case AIRSYNC_HeartbeatInterval:
			again = r->has_heartbeat;
			r->has_heartbeat = true;
			if (!wbxml_u32(n, UINT32_MAX, &asked))
				return 4;
			break;
		case AIRSYNC_WindowSize:
			again = r->has_window;
			r->has_window = true;
			if (!window_parse(n, &r->window))
				return 4;
			break;
		case AIRSYNC_Partial:
			again = r->partial;
			r->partial = true;
			break;
		default:
			*why = "element is not one of Sync";
			return 4;
		}
		if (again) {
			*why = "element is there twice";
			return 4;
		}
	}
	if (r->has_wait && r->has_heartbeat) {
		*why = "both Wait and HeartbeatInterval";
		return 4;
	}
	if (!r->partial && !r->has_collections) {
		*why = "neither Collections nor Partial";
		return 4;
	}
	if (r->has_wait || r->has_heartbeat)
		return wait_check(c, r, asked, why);
	return 0;
}
