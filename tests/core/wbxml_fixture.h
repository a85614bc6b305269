/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/core/wbxml_fixture.h - documents as hexadecimal, their structure as one line, and the worked
 * examples of the specification.
 * Memory: what from_hex returns is the caller's. Errors: a failed assertion. */
#ifndef ROOST_TESTS_CORE_WBXML_FIXTURE_H
#define ROOST_TESTS_CORE_WBXML_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/eas/wbxml.h"

enum { ARENA_BYTES = 16 << 20 };

/* U+FFFD, which stands for what a string cannot carry. */
#define FFFD "\xef\xbf\xbd"

/* ---- Hexadecimal in, one line of structure out ------------------------------------------- */

static inline int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static inline struct buf from_hex(const char *s)
{
	struct buf b = {0};

	for (; *s; s++) {
		if (*s == ' ')
			continue;
		assert_true(hex_digit(s[0]) >= 0 && hex_digit(s[1]) >= 0);
		buf_add_byte(&b, (uint8_t)(hex_digit(s[0]) << 4 | hex_digit(s[1])));
		s++;
	}
	/* A block of just this size, so that a sanitizer sees a read past the end. */
	b.p = realloc(b.p, b.n ? b.n : 1);
	b.cap = b.n;
	return b;
}

static inline void assert_bytes(struct bytes got, struct bytes want)
{
	for (size_t i = 0; i < got.n && i < want.n; i++)
		if (got.p[i] != want.p[i])
			fail_msg("byte %zu is %02X, not %02X", i, got.p[i], want.p[i]);
	assert_int_equal(got.n, want.n);
}

/* Name, then =text or #length of OPAQUE, then (children); ! marks unknown. Written from the
 * parent pointers, so those are tried too. */
static inline void outline(const struct wbxml_node *root, struct buf *out)
{
	const struct wbxml_node *n = root;

	for (;;) {
		const struct wbxml_tag_info *info = wbxml_tag_info(n->tag);

		if (info)
			buf_add_str(out, info->name);
		else
			buf_printf(out, "%04X", n->tag);
		if (n->unknown)
			buf_add_str(out, "!");
		if (n->opaque)
			buf_printf(out, "#%zu", n->text.n);
		else if (n->text.n)
			buf_printf(out, "=%.*s", (int)n->text.n, (const char *)n->text.p);
		if (n->first) {
			buf_add_str(out, "(");
			n = n->first;
			continue;
		}
		while (n != root && !n->next) {
			buf_add_str(out, ")");
			n = n->parent;
		}
		if (n == root)
			break;
		buf_add_str(out, ",");
		n = n->next;
	}
	buf_add_byte(out, 0);
}

static inline void assert_outline(struct bytes in, const char *want)
{
	struct arena a;
	struct wbxml_node *root;
	const char *why = "";
	struct buf got = {0};

	arena_init(&a, ARENA_BYTES);
	if (wbxml_parse(in, &a, NULL, &root, &why) != 1)
		fail_msg("refused: %s", why);
	outline(root, &got);
	assert_string_equal((char *)got.p, want);
	buf_free(&got);
	arena_free(&a);
}

/* Both readers refuse it, with this reason, and neither touches its outputs or moves on. */
static inline void assert_refused(const char *hex, const char *want)
{
	struct buf in = from_hex(hex);
	struct arena a;
	struct wbxml_node *root = NULL;
	const char *why = "accepted";
	struct wbxml_reader r;
	struct wbxml_event ev;

	arena_init(&a, ARENA_BYTES);
	assert_true(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why) < 0);
	assert_string_equal(why, want);
	assert_null(root);
	wbxml_reader_init(&r, buf_bytes(&in));
	while (wbxml_next(&r, &ev) > 0)
		;
	assert_int_equal(ev.kind, WBXML_BAD);
	assert_string_equal(r.why, want);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_BAD);
	assert_int_equal(wbxml_skip(&r), WBXML_BAD);
	arena_free(&a);
	buf_free(&in);
}

static inline void assert_accepted(const char *hex, const char *want)
{
	struct buf in = from_hex(hex);

	assert_outline(buf_bytes(&in), want);
	buf_free(&in);
}

/* ---- Worked examples --------------------------------------------------------------------- */

static inline void put_ping_request(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_HeartbeatInterval, 480);
	wbxml_put_start(w, PING_Folders);
	wbxml_put_start(w, PING_Folder);
	wbxml_put_text(w, PING_Id, "5");
	wbxml_put_text(w, PING_Class, "Email");
	wbxml_put_end(w);
	wbxml_put_start(w, PING_Folder);
	wbxml_put_text(w, PING_Id, "1");
	wbxml_put_text(w, PING_Class, "Calendar");
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static inline void put_ping_expired(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 1);
	wbxml_put_end(w);
}

static inline void put_ping_changes(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 2);
	wbxml_put_start(w, PING_Folders);
	wbxml_put_text(w, PING_Folder, "5");
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static inline void put_ping_interval(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 5);
	wbxml_put_u64(w, PING_HeartbeatInterval, 60);
	wbxml_put_end(w);
}

static inline void put_ping_folders(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 6);
	wbxml_put_u64(w, PING_MaxFolders, 200);
	wbxml_put_end(w);
}

static inline void put_foldersync_request(struct wbxml_writer *w)
{
	wbxml_put_start(w, FOLDERHIERARCHY_FolderSync);
	wbxml_put_text(w, FOLDERHIERARCHY_SyncKey, "0");
	wbxml_put_end(w);
}

static inline void put_foldersync_142(struct wbxml_writer *w)
{
	wbxml_put_start(w, FOLDERHIERARCHY_FolderSync);
	wbxml_put_u64(w, FOLDERHIERARCHY_Status, 142);
	wbxml_put_end(w);
}

static inline void put_foldersync_response(struct wbxml_writer *w)
{
	wbxml_put_start(w, FOLDERHIERARCHY_FolderSync);
	wbxml_put_u64(w, FOLDERHIERARCHY_Status, 1);
	wbxml_put_text(w, FOLDERHIERARCHY_SyncKey, "1");
	wbxml_put_start(w, FOLDERHIERARCHY_Changes);
	wbxml_put_u64(w, FOLDERHIERARCHY_Count, 1);
	wbxml_put_start(w, FOLDERHIERARCHY_Add);
	wbxml_put_text(w, FOLDERHIERARCHY_ServerId, "5");
	wbxml_put_text(w, FOLDERHIERARCHY_ParentId, "0");
	wbxml_put_text(w, FOLDERHIERARCHY_DisplayName, "Inbox");
	wbxml_put_u64(w, FOLDERHIERARCHY_Type, 2);
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static inline void put_provision_request(struct wbxml_writer *w)
{
	wbxml_put_start(w, PROVISION_Provision);
	wbxml_put_start(w, SETTINGS_DeviceInformation);
	wbxml_put_start(w, SETTINGS_Set);
	wbxml_put_text(w, SETTINGS_Model, "X1");
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_start(w, PROVISION_Policies);
	wbxml_put_start(w, PROVISION_Policy);
	wbxml_put_text(w, PROVISION_PolicyType, "MS-EAS-Provisioning-WBXML");
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static inline void put_provision_response(struct wbxml_writer *w)
{
	wbxml_put_start(w, PROVISION_Provision);
	wbxml_put_start(w, SETTINGS_DeviceInformation);
	wbxml_put_u64(w, SETTINGS_Status, 1);
	wbxml_put_end(w);
	wbxml_put_u64(w, PROVISION_Status, 1);
	wbxml_put_start(w, PROVISION_Policies);
	wbxml_put_start(w, PROVISION_Policy);
	wbxml_put_text(w, PROVISION_PolicyType, "MS-EAS-Provisioning-WBXML");
	wbxml_put_u64(w, PROVISION_Status, 1);
	wbxml_put_text(w, PROVISION_PolicyKey, "1307199584");
	wbxml_put_start(w, PROVISION_Data);
	wbxml_put_start(w, PROVISION_EASProvisionDoc);
	wbxml_put_u64(w, PROVISION_DevicePasswordEnabled, 1);
	wbxml_put_u64(w, PROVISION_MinDevicePasswordLength, 4);
	wbxml_put_empty(w, PROVISION_MaxAttachmentSize);
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static inline void put_remote_wipe(struct wbxml_writer *w)
{
	wbxml_put_start(w, PROVISION_Provision);
	wbxml_put_u64(w, PROVISION_Status, 1);
	wbxml_put_start(w, PROVISION_RemoteWipe); /* closes itself into the short form */
	wbxml_put_end(w);
	wbxml_put_end(w);
}

#define TEN_AT   "40404040404040404040"
#define FIFTY_AT TEN_AT TEN_AT TEN_AT TEN_AT TEN_AT

static inline void put_sendmail(struct wbxml_writer *w)
{
	uint8_t mime[139];

	memset(mime, '@', sizeof(mime));
	wbxml_put_start(w, COMPOSEMAIL_SendMail);
	wbxml_put_text(w, COMPOSEMAIL_ClientId, "m1");
	wbxml_put_empty(w, COMPOSEMAIL_SaveInSentItems);
	wbxml_put_opaque(w, COMPOSEMAIL_Mime, bytes_of(mime, sizeof(mime)));
	wbxml_put_end(w);
}

static inline void put_first_sync(struct wbxml_writer *w)
{
	wbxml_put_start(w, AIRSYNC_Sync);
	wbxml_put_start(w, AIRSYNC_Collections);
	wbxml_put_start(w, AIRSYNC_Collection);
	wbxml_put_text(w, AIRSYNC_SyncKey, "0");
	wbxml_put_text(w, AIRSYNC_CollectionId, "5");
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static const struct example {
	const char *section;
	void (*put)(struct wbxml_writer *w);
	const char *hex, *outline;
} examples[] = {
	{"5.1 Ping request", put_ping_request,
		"03 01 6A 00 00 0D 45 48 03 34 38 30 00 01 49 4A 4B 03 35 00 01 4C 03 45 6D 61 69 "
		"6C 00 01 01 4A 4B 03 31 00 01 4C 03 43 61 6C 65 6E 64 61 72 00 01 01 01 01",
		"Ping(HeartbeatInterval=480,Folders(Folder(Id=5,Class=Email),"
		"Folder(Id=1,Class=Calendar)))"},
	{"5.2 Ping, nothing new", put_ping_expired, "03 01 6A 00 00 0D 45 47 03 31 00 01 01",
		"Ping(Status=1)"},
	{"5.2 Ping, changes", put_ping_changes,
		"03 01 6A 00 00 0D 45 47 03 32 00 01 49 4A 03 35 00 01 01 01",
		"Ping(Status=2,Folders(Folder=5))"},
	{"5.2 Ping, heartbeat", put_ping_interval,
		"03 01 6A 00 00 0D 45 47 03 35 00 01 48 03 36 30 00 01 01",
		"Ping(Status=5,HeartbeatInterval=60)"},
	{"5.2 Ping, folders", put_ping_folders,
		"03 01 6A 00 00 0D 45 47 03 36 00 01 4D 03 32 30 30 00 01 01",
		"Ping(Status=6,MaxFolders=200)"},
	{"5.3 FolderSync request", put_foldersync_request, "03 01 6A 00 00 07 56 52 03 30 00 01 01",
		"FolderSync(SyncKey=0)"},
	{"5.3 FolderSync, provision first", put_foldersync_142,
		"03 01 6A 00 00 07 56 4C 03 31 34 32 00 01 01", "FolderSync(Status=142)"},
	{"5.3 FolderSync response", put_foldersync_response,
		"03 01 6A 00 00 07 56 4C 03 31 00 01 52 03 31 00 01 4E 57 03 31 00 01 4F 48 03 35 "
		"00 01 49 03 30 00 01 47 03 49 6E 62 6F 78 00 01 4A 03 32 00 01 01 01 01",
		"FolderSync(Status=1,SyncKey=1,Changes(Count=1,Add(ServerId=5,ParentId=0,"
		"DisplayName=Inbox,Type=2)))"},
	{"5.4 Provision request", put_provision_request,
		"03 01 6A 00 00 0E 45 00 12 56 48 57 03 58 31 00 01 01 01 00 0E 46 47 48 03 4D 53 "
		"2D 45 41 53 2D 50 72 6F 76 69 73 69 6F 6E 69 6E 67 2D 57 42 58 4D 4C 00 01 01 01 "
		"01",
		"Provision(DeviceInformation(Set(Model=X1)),"
		"Policies(Policy(PolicyType=MS-EAS-Provisioning-WBXML)))"},
	{"5.4 Provision response", put_provision_response,
		"03 01 6A 00 00 0E 45 00 12 56 46 03 31 00 01 01 00 0E 4B 03 31 00 01 46 47 48 03 "
		"4D 53 2D 45 41 53 2D 50 72 6F 76 69 73 69 6F 6E 69 6E 67 2D 57 42 58 4D 4C 00 01 "
		"4B 03 31 00 01 49 03 31 33 30 37 31 39 39 35 38 34 00 01 4A 4D 4E 03 31 00 01 54 "
		"03 34 00 01 17 01 01 01 01 01",
		"Provision(DeviceInformation(Status=1),Status=1,Policies(Policy("
		"PolicyType=MS-EAS-Provisioning-WBXML,Status=1,PolicyKey=1307199584,"
		"Data(EASProvisionDoc(DevicePasswordEnabled=1,MinDevicePasswordLength=4,"
		"MaxAttachmentSize)))))"},
	{"5.4 remote wipe", put_remote_wipe, "03 01 6A 00 00 0E 45 4B 03 31 00 01 0C 01",
		"Provision(Status=1,RemoteWipe)"},
	{"5.5 SendMail", put_sendmail,
		"03 01 6A 00 00 15 45 51 03 6D 31 00 01 08 50 C3 81 0B" FIFTY_AT FIFTY_AT TEN_AT
			TEN_AT TEN_AT "404040404040404040 01 01",
		"SendMail(ClientId=m1,SaveInSentItems,Mime#139)"},
	{"5.6 first Sync", put_first_sync,
		"03 01 6A 00 45 5C 4F 4B 03 30 00 01 52 03 35 00 01 01 01 01",
		"Sync(Collections(Collection(SyncKey=0,CollectionId=5)))"},
};

#endif
