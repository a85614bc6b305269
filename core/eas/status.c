/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/status.c - refusals: Status documents, their HTTP codes below 14.0, ids and dates. */
#include <stdio.h>
#include <time.h>

#include "core/eas/eas_priv.h"

/* Root element and its Status, by command. */
static const struct {
	uint16_t root, status;
} roots[EAS_COMMAND_COUNT] = {
	[EAS_SYNC] = {AIRSYNC_Sync, AIRSYNC_Status},
	[EAS_SEND_MAIL] = {COMPOSEMAIL_SendMail, COMPOSEMAIL_Status},
	[EAS_SMART_FORWARD] = {COMPOSEMAIL_SmartForward, COMPOSEMAIL_Status},
	[EAS_SMART_REPLY] = {COMPOSEMAIL_SmartReply, COMPOSEMAIL_Status},
	[EAS_FOLDER_SYNC] = {FOLDERHIERARCHY_FolderSync, FOLDERHIERARCHY_Status},
	[EAS_FOLDER_CREATE] = {FOLDERHIERARCHY_FolderCreate, FOLDERHIERARCHY_Status},
	[EAS_FOLDER_DELETE] = {FOLDERHIERARCHY_FolderDelete, FOLDERHIERARCHY_Status},
	[EAS_FOLDER_UPDATE] = {FOLDERHIERARCHY_FolderUpdate, FOLDERHIERARCHY_Status},
	[EAS_MOVE_ITEMS] = {MOVE_MoveItems, MOVE_Status},
	[EAS_GET_ITEM_ESTIMATE] = {GETITEMESTIMATE_GetItemEstimate, GETITEMESTIMATE_Status},
	[EAS_MEETING_RESPONSE] = {MEETINGRESPONSE_MeetingResponse, MEETINGRESPONSE_Status},
	[EAS_SEARCH] = {SEARCH_Search, SEARCH_Status},
	[EAS_SETTINGS] = {SETTINGS_Settings, SETTINGS_Status},
	[EAS_PING] = {PING_Ping, PING_Status},
	[EAS_ITEM_OPERATIONS] = {ITEMOPERATIONS_ItemOperations, ITEMOPERATIONS_Status},
	[EAS_PROVISION] = {PROVISION_Provision, PROVISION_Status},
	[EAS_RESOLVE_RECIPIENTS] = {RESOLVERECIPIENTS_ResolveRecipients, RESOLVERECIPIENTS_Status},
	[EAS_VALIDATE_CERT] = {VALIDATECERT_ValidateCert, VALIDATECERT_Status},
	[EAS_FIND] = {FIND_Find, FIND_Status},
};

void eas_status_only(enum eas_command command, int status, struct buf *out)
{
	struct wbxml_writer w;

	if (command < 0 || command >= EAS_COMMAND_COUNT || roots[command].root == 0)
		return; /* its answers are no documents */
	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, roots[command].root);
	wbxml_put_u64(&w, roots[command].status, (uint64_t)status);
	wbxml_put_end(&w);
	if (!wbxml_done(&w))
		out->failed = true;
}

int eas_status_http(int status)
{
	switch (status) {
	case 110:
		return 500;
	case 111:
	case 114:
		return 503;
	case 113:
		return 507;
	case 124:
		return 401;
	case 112:
	case 123:
	case 125:
	case 126:
	case 127:
	case 128:
	case 129:
	case 130:
	case 131:
	case 132:
	case 139:
	case 177:
		return 403;
	case 137:
		return 501;
	case 140:
	case 141:
	case 142:
	case 143:
	case 144:
		return 449;
	default:
		return 400;
	}
}

static void drop_body(struct eas_answer *out)
{
	out->body.n = 0;
	out->body.failed = false;
	out->content_type = NULL;
	out->disposition = EAS_ANSWER;
}

void call_http(struct eas_call *c, int http_status, const char *reason)
{
	drop_body(c->out);
	c->out->http_status = http_status;
	c->out->reason = reason;
}

void call_status(struct eas_call *c, int status, const char *reason)
{
	drop_body(c->out);
	c->out->http_status = 200;
	c->out->eas_status = status;
	c->out->reason = reason;
	eas_status_only(c->req->command, status, &c->out->body);
	if (c->out->body.failed)
		call_http(c, 503, "out of memory");
	else if (c->out->body.n > 0)
		c->out->content_type = EAS_WBXML_TYPE;
}

void call_refuse(struct eas_call *c, int status, const char *reason)
{
	if (c->req->version >= 140 && roots[c->req->command].root != 0) {
		call_status(c, status, reason);
		return;
	}
	call_http(c, eas_status_http(status), reason);
	c->out->eas_status = status;
}

void call_store_error(struct eas_call *c, int err)
{
	if (err == DB_MAP_FULL || err == DB_DISK_FULL)
		call_refuse(c, 113, "store is full");
	else
		call_refuse(c, 111, db_strerror(err));
}

void call_begin(struct eas_call *c, struct wbxml_writer *w)
{
	drop_body(c->out);
	c->out->http_status = 200;
	c->out->content_type = EAS_WBXML_TYPE;
	wbxml_writer_init(w, &c->out->body);
}

bool call_end(struct eas_call *c, struct wbxml_writer *w)
{
	if (wbxml_done(w))
		return true;
	call_http(c, 503, "out of memory");
	return false;
}

bool eas_key_parse(struct bytes text, uint32_t *key_out)
{
	uint64_t v;

	if (text.n > 10 || !bytes_to_u64(text, UINT32_MAX, &v))
		return false;
	*key_out = (uint32_t)v;
	return true;
}

uint32_t eas_folder_id(struct bytes server_id)
{
	uint64_t v;

	/* One spelling per folder: a phone may hold "07" for another id than "7". */
	if (server_id.n == 0 || server_id.n > 10 || server_id.p[0] == '0' ||
		!bytes_to_u64(server_id, UINT32_MAX, &v))
		return 0;
	return (uint32_t)v;
}

/* "<a>:<b>", each a decimal number. */
static bool pair_parse(struct bytes text, uint64_t a_max, uint64_t b_max, uint64_t *a, uint64_t *b)
{
	const uint8_t *colon = text.n ? memchr(text.p, ':', text.n) : NULL;

	if (!colon)
		return false;
	size_t left = (size_t)(colon - text.p);
	return bytes_to_u64(bytes_of(text.p, left), a_max, a) &&
	       bytes_to_u64(bytes_of(colon + 1, text.n - left - 1), b_max, b);
}

void eas_item_id_print(uint32_t folder, uint64_t item, char out[EAS_SERVER_ID_MAX])
{
	snprintf(out, EAS_SERVER_ID_MAX, "%u:%llu", folder, (unsigned long long)item);
}

bool eas_item_id_parse(struct bytes text, uint32_t *folder_out, uint64_t *item_out)
{
	uint64_t folder, item;

	if (!pair_parse(text, UINT32_MAX, UINT64_MAX, &folder, &item) || folder == 0 || item == 0)
		return false;
	*folder_out = (uint32_t)folder;
	*item_out = item;
	return true;
}

void eas_file_reference_print(uint64_t item, uint32_t index, char out[EAS_SERVER_ID_MAX])
{
	snprintf(out, EAS_SERVER_ID_MAX, "%llu:%u", (unsigned long long)item, index);
}

bool eas_file_reference_parse(struct bytes text, uint64_t *item_out, uint32_t *index_out)
{
	uint64_t item, index;

	if (!pair_parse(text, UINT64_MAX, UINT32_MAX, &item, &index) || item == 0)
		return false;
	*item_out = item;
	*index_out = (uint32_t)index;
	return true;
}

void eas_time_print(int64_t time_s, char out[EAS_TIME_MAX])
{
	time_t t = (time_t)time_s;
	struct tm tm;

	/* Years that the form cannot hold come from broken Date headers. */
	if (!gmtime_r(&t, &tm) || tm.tm_year + 1900 < 1 || tm.tm_year + 1900 > 9999) {
		t = 0;
		gmtime_r(&t, &tm);
	}
	strftime(out, EAS_TIME_MAX, "%Y-%m-%dT%H:%M:%S.000Z", &tm);
}

static bool digits(const char **s, int n, int *out)
{
	int v = 0;

	for (int i = 0; i < n; i++) {
		if ((*s)[i] < '0' || (*s)[i] > '9')
			return false;
		v = v * 10 + ((*s)[i] - '0');
	}
	*s += n;
	*out = v;
	return true;
}

static bool skip(const char **s, char c)
{
	if (**s != c)
		return false;
	(*s)++;
	return true;
}

/* dateTime and Compact DateTime differ in punctuation only; both are UTC (MS-ASDTYPE 2.3, 2.7.2).
 */
bool eas_time_parse(struct bytes text, int64_t *time_s_out)
{
	char copy[40];
	const char *s = copy;
	struct tm tm = {0};
	int fraction;

	if (!bytes_to_strz(text, copy, sizeof(copy)) || !digits(&s, 4, &tm.tm_year))
		return false;
	bool extended = skip(&s, '-');
	if (!digits(&s, 2, &tm.tm_mon) || (extended && !skip(&s, '-')) ||
		!digits(&s, 2, &tm.tm_mday) || !skip(&s, 'T') || !digits(&s, 2, &tm.tm_hour) ||
		(extended && !skip(&s, ':')) || !digits(&s, 2, &tm.tm_min) ||
		(extended && !skip(&s, ':')) || !digits(&s, 2, &tm.tm_sec))
		return false;
	if (skip(&s, '.'))
		for (int i = 0; i < 9 && *s != 'Z'; i++)
			if (!digits(&s, 1, &fraction))
				return false;
	if (!skip(&s, 'Z') || *s != 0 || tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 ||
		tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	*time_s_out = (int64_t)timegm(&tm);
	return true;
}
