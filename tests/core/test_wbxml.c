/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The promises of core/eas/wbxml.h: the worked examples of the specification byte for byte, every
 * kind of document that must be refused, and random trees through writer and reader. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/check.h"
#include "core/eas/wbxml.h"

enum { ARENA_BYTES = 16 << 20 };

/* ---- Hexadecimal in, one line of structure out ------------------------------------------- */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static struct buf from_hex(const char *s)
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

static void assert_bytes(struct bytes got, struct bytes want)
{
	for (size_t i = 0; i < got.n && i < want.n; i++)
		if (got.p[i] != want.p[i])
			fail_msg("byte %zu is %02X, not %02X", i, got.p[i], want.p[i]);
	assert_int_equal(got.n, want.n);
}

/* Name, then =text or #length of OPAQUE, then (children); ! marks unknown. Written from the
 * parent pointers, so those are tried too. */
static void outline(const struct wbxml_node *root, struct buf *out)
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

static void assert_outline(struct bytes in, const char *want)
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
static void assert_refused(const char *hex, const char *want)
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

static void assert_accepted(const char *hex, const char *want)
{
	struct buf in = from_hex(hex);

	assert_outline(buf_bytes(&in), want);
	buf_free(&in);
}

/* ---- Worked examples, wbxml.md section 5 ------------------------------------------------- */

static void put_ping_request(struct wbxml_writer *w)
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

static void put_ping_expired(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 1);
	wbxml_put_end(w);
}

static void put_ping_changes(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 2);
	wbxml_put_start(w, PING_Folders);
	wbxml_put_text(w, PING_Folder, "5");
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static void put_ping_interval(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 5);
	wbxml_put_u64(w, PING_HeartbeatInterval, 60);
	wbxml_put_end(w);
}

static void put_ping_folders(struct wbxml_writer *w)
{
	wbxml_put_start(w, PING_Ping);
	wbxml_put_u64(w, PING_Status, 6);
	wbxml_put_u64(w, PING_MaxFolders, 200);
	wbxml_put_end(w);
}

static void put_foldersync_request(struct wbxml_writer *w)
{
	wbxml_put_start(w, FOLDERHIERARCHY_FolderSync);
	wbxml_put_text(w, FOLDERHIERARCHY_SyncKey, "0");
	wbxml_put_end(w);
}

static void put_foldersync_142(struct wbxml_writer *w)
{
	wbxml_put_start(w, FOLDERHIERARCHY_FolderSync);
	wbxml_put_u64(w, FOLDERHIERARCHY_Status, 142);
	wbxml_put_end(w);
}

static void put_foldersync_response(struct wbxml_writer *w)
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

static void put_provision_request(struct wbxml_writer *w)
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

static void put_provision_response(struct wbxml_writer *w)
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

static void put_remote_wipe(struct wbxml_writer *w)
{
	wbxml_put_start(w, PROVISION_Provision);
	wbxml_put_u64(w, PROVISION_Status, 1);
	wbxml_put_start(w, PROVISION_RemoteWipe); /* closes itself into the short form */
	wbxml_put_end(w);
	wbxml_put_end(w);
}

#define TEN_AT   "40404040404040404040"
#define FIFTY_AT TEN_AT TEN_AT TEN_AT TEN_AT TEN_AT

static void put_sendmail(struct wbxml_writer *w)
{
	uint8_t mime[139];

	memset(mime, '@', sizeof(mime));
	wbxml_put_start(w, COMPOSEMAIL_SendMail);
	wbxml_put_text(w, COMPOSEMAIL_ClientId, "m1");
	wbxml_put_empty(w, COMPOSEMAIL_SaveInSentItems);
	wbxml_put_opaque(w, COMPOSEMAIL_Mime, bytes_of(mime, sizeof(mime)));
	wbxml_put_end(w);
}

static void put_first_sync(struct wbxml_writer *w)
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

/* To phones: what we send is what the specification shows, to the byte. */
static void examples_are_written_byte_for_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		struct buf want = from_hex(examples[i].hex), got = {0};
		struct wbxml_writer w;

		wbxml_writer_init(&w, &got);
		assert_false(wbxml_done(&w));
		examples[i].put(&w);
		assert_true(wbxml_done(&w));
		assert_bytes(buf_bytes(&got), buf_bytes(&want));
		buf_free(&got);
		buf_free(&want);
	}
}

static void examples_are_read_and_written_back(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		struct buf in = from_hex(examples[i].hex), again = {0};
		struct arena a;
		struct wbxml_node *root;
		struct wbxml_writer w;
		const char *why = "";

		assert_outline(buf_bytes(&in), examples[i].outline);
		arena_init(&a, ARENA_BYTES);
		assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
		wbxml_writer_init(&w, &again);
		wbxml_put_node(&w, root);
		assert_true(wbxml_done(&w));
		assert_bytes(buf_bytes(&again), buf_bytes(&in));
		buf_free(&again);
		arena_free(&a);
		buf_free(&in);
	}
}

/* A document cut short anywhere is refused: no phone's request is acted on by half. */
static void every_truncation_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		struct buf in = from_hex(examples[i].hex);

		for (size_t n = 0; n < in.n; n++) {
			struct arena a;
			struct wbxml_node *root = NULL;
			const char *why = NULL;
			uint8_t *cut = malloc(n ? n : 1);

			memcpy(cut, in.p, n);
			arena_init(&a, ARENA_BYTES);
			assert_int_equal(
				wbxml_parse(bytes_of(cut, n), &a, NULL, &root, &why), WBXML_BAD);
			assert_null(root);
			assert_non_null(why);
			arena_free(&a);
			free(cut);
		}
		buf_free(&in);
	}
}

/* ---- What must be refused or survived, wbxml.md section 4 -------------------------------- */

static void bad_headers_are_refused(void **state)
{
	(void)state;
	assert_refused("", "truncated header");
	assert_refused("03", "truncated header");
	assert_refused("03 01 6A", "truncated header");
	assert_refused("00 01 6A 00 05", "unknown WBXML version");
	assert_refused("04 01 6A 00 05", "unknown WBXML version");
	assert_refused("03 00 00 6A 00 05", "unknown public identifier");
	assert_refused("03 81 01 6A 00 05", "unknown public identifier");
	assert_refused("03 01 04 00 05", "charset is not UTF-8");
	assert_refused("03 01 00 00 05", "charset is not UTF-8");
	assert_refused("03 01 6A 01 00 05", "string table");
	assert_refused("03 01 6A FF FF FF FF 7F 05", "string table");
	assert_refused("03 01 6A 00", "no element");
	assert_refused("03 01 6A 00 00 0D", "no element");
	assert_accepted("01 01 6A 00 05", "Sync");
	assert_accepted("02 01 6A 00 05", "Sync");
	assert_accepted("03 7F 6A 00 05", "Sync");
}

static void truncation_is_refused(void **state)
{
	(void)state;
	assert_refused("03 01 6A 00 45", "ends inside an element");
	assert_refused("03 01 6A 00 45 5C 01", "ends inside an element");
	assert_refused("03 01 6A 00 45 00", "truncated page switch");
	assert_refused("03 01 6A 00 00", "truncated page switch");
	assert_refused("03 01 6A 00 45 03", "string without end");
	assert_refused("03 01 6A 00 45 03 35 01 01", "string without end");
	assert_refused("03 01 6A 00 45 C3", "truncated length");
	assert_refused("03 01 6A 00 45 C3 81", "truncated length");
	assert_refused("03 01 6A 00 45 C3 03 41 41", "opaque data longer than the document");
	assert_refused(
		"03 01 6A 00 45 C3 8F FF FF FF 7F 41 01", "opaque data longer than the document");
}

static void lengths_over_32_bits_are_refused(void **state)
{
	(void)state;
	assert_refused("03 01 6A 00 45 C3 90 80 80 80 00 41 01", "length over 32 bits");
	assert_refused("03 01 6A 00 45 C3 FF FF FF FF 7F 41 01", "length over 32 bits");
	assert_refused("03 01 6A 00 45 C3 80 80 80 80 80 01 41 01", "length over 5 bytes");
	assert_refused("03 01 6A 00 45 C3 8F FF FF FF FF 7F 41 01", "length over 5 bytes");
	/* Padding is allowed by WAP-192 and harmless. */
	assert_accepted("03 01 6A 00 45 C3 80 80 80 80 01 41 01", "Sync#1");
}

static void unbalanced_documents_are_refused(void **state)
{
	(void)state;
	assert_refused("03 01 6A 00 01", "END without an element");
	assert_refused("03 01 6A 00 45 01 01", "bytes after the root element");
	assert_refused("03 01 6A 00 05 01", "bytes after the root element");
	assert_refused("03 01 6A 00 05 05", "bytes after the root element");
	assert_refused("03 01 6A 00 05 00 00", "bytes after the root element");
	assert_refused("03 01 6A 00 05 03 00", "bytes after the root element");
	assert_refused("03 01 6A 00 03 35 00 05", "text outside the root element");
	assert_refused("03 01 6A 00 C3 01 35 05", "text outside the root element");
}

/* ENTITY, LITERAL*, EXT_*, PI, STR_T and attributes: none of them as root, none inside. */
static void tokens_of_other_languages_are_refused(void **state)
{
	(void)state;
	for (unsigned c = 0; c < 256; c++) {
		uint8_t in[] = {3, 1, 106, 0, 0x45, (uint8_t)c, 0x35, 0, 1, 1};
		bool eas = c == 0 || c == 1 || c == 3 || c == 0xc3;
		bool tag = c < 0x80 && (c & 0x3f) >= 5;
		struct wbxml_reader r;
		struct wbxml_event ev;
		int first, second;

		wbxml_reader_init(&r, bytes_of(in, sizeof(in)));
		first = wbxml_next(&r, &ev);
		assert_int_equal(first, WBXML_START);
		second = wbxml_next(&r, &ev);
		if (!eas && !tag) {
			assert_int_equal(second, WBXML_BAD);
			assert_non_null(strstr(r.why, "token EAS does not use"));
		} else if (tag) {
			assert_int_equal(second, WBXML_START);
			assert_int_equal(ev.tag, c & 0x3f);
		}

		in[4] = (uint8_t)c;
		wbxml_reader_init(&r, bytes_of(in, sizeof(in)));
		assert_int_equal(wbxml_next(&r, &ev) == WBXML_START, tag || c == 0);
	}
}

/* Later versions may bring elements we do not know: their neighbours still count. */
static void unknown_elements_keep_the_structure(void **state)
{
	/* Sync(Page30:05(SyncKey "x"), SyncKey "7", Find:1A, 003F(Sync)) */
	struct buf in = from_hex("03 01 6A 00 45 00 1E 45 00 00 4B 03 78 00 01 01 4B 03 37 00 01 "
				 "00 19 1A 00 00 7F 05 01 01");
	struct arena a;
	struct wbxml_node *root;
	const char *why = "";
	struct bytes t;
	uint32_t v;
	bool flag;

	(void)state;
	assert_outline(buf_bytes(&in), "Sync(1E05!(SyncKey!=x),SyncKey=7,191A!,003F!(Sync!))");
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_int_equal(root->child_count, 4);
	t = wbxml_text(root, AIRSYNC_SyncKey);
	assert_true(bytes_eq_str(t, "7"));
	assert_null(wbxml_child(root->first, AIRSYNC_SyncKey));
	assert_null(wbxml_child(wbxml_next_of(root->first, 0x003f), AIRSYNC_Sync));
	assert_false(wbxml_u32(root->first->first, 9, &v));
	assert_false(wbxml_bool(root->first, &flag));
	arena_free(&a);
	buf_free(&in);
}

static void depth_is_capped(void **state)
{
	(void)state;
	for (unsigned depth = 1; depth <= 40; depth++) {
		for (unsigned cap = 0; cap <= 40; cap += 8) {
			struct buf in = from_hex("03 01 6A 00");
			struct wbxml_limits lim = {.depth_max = (uint8_t)cap};
			unsigned want = cap == 0 || cap > 32 ? 32 : cap;
			struct arena a;
			struct wbxml_node *root;
			const char *why = "";
			int k;

			for (unsigned i = 1; i < depth; i++)
				buf_add_byte(&in, 0x45);
			buf_add_byte(&in, 0x05);
			for (unsigned i = 1; i < depth; i++)
				buf_add_byte(&in, 0x01);
			arena_init(&a, ARENA_BYTES);
			k = wbxml_parse(buf_bytes(&in), &a, &lim, &root, &why);
			assert_int_equal(k, depth <= want ? 1 : WBXML_BAD);
			if (depth > want)
				assert_string_equal(why, "elements nested too deep");
			arena_free(&a);
			buf_free(&in);
		}
	}
}

static void elements_are_capped(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45");
	struct wbxml_limits lim = {.elements_max = 1000};
	struct arena a;
	struct wbxml_node *root = NULL;
	const char *why = "";

	(void)state;
	for (unsigned i = 0; i < WBXML_ELEMENTS_MAX - 1; i++)
		buf_add_byte(&in, 0x05);
	buf_add_byte(&in, 0x01);
	arena_init(&a, 48u * WBXML_ELEMENTS_MAX);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_int_equal(root->child_count, WBXML_ELEMENTS_MAX - 1);
	arena_reset(&a);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, &lim, &root, &why), WBXML_BAD);
	assert_string_equal(why, "too many elements");
	in.p[in.n - 1] = 0x05;
	buf_add_byte(&in, 0x01);
	arena_reset(&a);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), WBXML_BAD);
	assert_string_equal(why, "too many elements");
	arena_free(&a);
	buf_free(&in);
}

static void a_full_arena_refuses_the_request(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45 4B 03 31 00 03 32 00 01 01");
	const char *why;
	struct wbxml_node *root;

	(void)state;
	for (size_t limit = 0; limit <= 48 + 48 + 64; limit += 16) {
		struct arena a;
		int k;

		arena_init(&a, limit);
		root = NULL;
		why = "";
		k = wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why);
		assert_int_equal(k, limit == 160 ? 1 : WBXML_BAD);
		assert_int_equal(a.failed, k < 0);
		if (k < 0) {
			assert_null(root);
			assert_string_equal(why, "more content than a request may have");
		}
		arena_free(&a);
	}
	buf_free(&in);
}

/* ---- Text -------------------------------------------------------------------------------- */

static void lengths_are_read_and_written_at_every_edge(void **state)
{
	static const struct {
		uint32_t n;
		const char *hex;
	} edges[] = {{1, "01"}, {127, "7F"}, {128, "81 00"}, {139, "81 0B"}, {16383, "FF 7F"},
		{16384, "81 80 00"}, {2097151, "FF FF 7F"}, {2097152, "81 80 80 00"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
		struct buf doc = {0}, len = from_hex(edges[i].hex);
		uint8_t *data = malloc(edges[i].n);
		struct wbxml_writer w;
		struct wbxml_reader r;
		struct wbxml_event ev;

		memset(data, 0xff, edges[i].n);
		wbxml_writer_init(&w, &doc);
		wbxml_put_opaque(&w, AIRSYNC_Sync, bytes_of(data, edges[i].n));
		assert_true(wbxml_done(&w));
		assert_int_equal(doc.n, 6 + len.n + edges[i].n + 1);
		assert_bytes(bytes_of(doc.p + 6, len.n), buf_bytes(&len));
		wbxml_reader_init(&r, buf_bytes(&doc));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_TEXT);
		assert_true(ev.opaque);
		assert_true(bytes_eq(ev.text, bytes_of(data, edges[i].n)));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		free(data);
		buf_free(&doc);
		buf_free(&len);
	}
}

static void text_in_pieces_is_joined(void **state)
{
	(void)state;
	assert_accepted("03 01 6A 00 45 03 61 62 00 03 63 00 01", "Sync=abc");
	assert_accepted("03 01 6A 00 45 03 61 62 00 C3 01 63 03 64 00 01", "Sync#4");
	assert_accepted("03 01 6A 00 45 03 00 03 61 00 03 00 C3 00 01", "Sync=a");
	assert_accepted("03 01 6A 00 45 03 61 00 0B 03 62 00 01", "Sync=ab(SyncKey)");
	/* A page switch between two pieces changes nothing. */
	assert_accepted("03 01 6A 00 45 03 61 00 00 0D 03 62 00 01", "Sync=ab");
}

/* To memory: a mail sent as a million pieces costs four times its length, not its square. */
static void a_million_pieces_take_linear_memory(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45");
	struct arena a;
	struct wbxml_node *root;
	const char *why = "";

	(void)state;
	for (unsigned i = 0; i < 1000000; i++)
		buf_add(&in, (uint8_t[]){3, (uint8_t)('a' + i % 26), 0}, 3);
	buf_add_byte(&in, 1);
	arena_init(&a, 48 + 4000000);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_int_equal(root->text.n, 1000000);
	for (unsigned i = 0; i < 1000000; i++)
		assert_true(root->text.p[i] == 'a' + i % 26);
	arena_free(&a);
	buf_free(&in);
}

static void one_piece_is_a_view_into_the_request(void **state)
{
	struct buf in = from_hex("03 01 6A 00 45 03 61 62 00 01");
	struct arena a;
	struct wbxml_node *root;
	const char *why = "";

	(void)state;
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_ptr_equal(root->text.p, in.p + 6);
	arena_free(&a);
	buf_free(&in);
}

static void all_empty_forms_are_equal(void **state)
{
	static const char *const forms[] = {"03 01 6A 00 45 14 01", "03 01 6A 00 45 54 01 01",
		"03 01 6A 00 45 54 03 00 01 01", "03 01 6A 00 45 54 C3 00 01 01",
		"03 01 6A 00 45 54 00 00 01 01"};
	struct wbxml_reader r;
	struct wbxml_event ev;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct buf in = from_hex(forms[i]);
		struct arena a;
		struct wbxml_node *root;
		const char *why = "";
		bool flag = false;
		struct bytes t;

		arena_init(&a, ARENA_BYTES);
		assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
		assert_true(wbxml_bool(wbxml_child(root, AIRSYNC_MoreAvailable), &flag));
		assert_true(flag);
		t = wbxml_text(root, AIRSYNC_MoreAvailable);
		assert_int_equal(t.n, 0);
		assert_non_null(t.p);
		assert_false(root->first->opaque);
		arena_free(&a);

		wbxml_reader_init(&r, buf_bytes(&in));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_false(ev.empty);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_int_equal(ev.empty, i < 2);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(ev.tag, AIRSYNC_MoreAvailable);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		buf_free(&in);
	}
}

static void numbers_and_booleans_are_strict(void **state)
{
	static const struct {
		const char *text;
		int number; /* -1: refused */
		int flag;
	} cases[] = {{"0", 0, 0}, {"1", 1, 1}, {"2", 2, -1}, {"100", 100, -1}, {"101", -1, -1},
		{"-1", -1, -1}, {" 1", -1, -1}, {"1 ", -1, -1}, {"0x1", -1, -1}, {"true", -1, -1},
		{"4294967297", -1, -1}, {"18446744073709551617", -1, -1}, {"", -1, 1},
		{"/", -1, -1}};
	uint32_t v = 77;
	bool flag;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct wbxml_node n = {.tag = PING_Status, .text = bytes_str(cases[i].text)};

		v = 77;
		flag = cases[i].flag == 0;
		assert_int_equal(wbxml_u32(&n, 100, &v), cases[i].number >= 0);
		assert_int_equal(v, cases[i].number >= 0 ? cases[i].number : 77);
		assert_int_equal(wbxml_bool(&n, &flag), cases[i].flag >= 0);
		if (cases[i].flag >= 0)
			assert_int_equal(flag, cases[i].flag);
	}
	v = 77;
	assert_false(wbxml_u32(NULL, 100, &v));
	assert_false(wbxml_bool(NULL, &flag));
	assert_int_equal(v, 77);
}

static void lookups_chain_over_what_is_missing(void **state)
{
	struct buf in = from_hex(examples[0].hex);
	struct arena a;
	struct wbxml_node *root;
	const struct wbxml_node *n;
	const char *why = "";
	struct bytes t;
	uint32_t v = 0;
	int folders = 0;

	(void)state;
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	assert_true(wbxml_u32(wbxml_child(root, PING_HeartbeatInterval), 3540, &v));
	assert_int_equal(v, 480);
	assert_false(wbxml_u32(wbxml_child(root, PING_HeartbeatInterval), 479, &v));
	for (n = wbxml_child(wbxml_child(root, PING_Folders), PING_Folder); n;
		n = wbxml_next_of(n, PING_Folder)) {
		t = wbxml_text(n, PING_Class);
		assert_true(bytes_eq_str(t, folders++ ? "Calendar" : "Email"));
		assert_int_equal(n->child_count, 2);
		assert_ptr_equal(n->parent->parent, root);
	}
	assert_int_equal(folders, 2);
	assert_null(wbxml_child(wbxml_child(root, PING_Status), PING_Id));
	assert_null(wbxml_next_of(NULL, PING_Id));
	t = wbxml_text(wbxml_child(root, PING_Status), PING_Id);
	assert_null(t.p);
	assert_int_equal(t.n, 0);
	arena_free(&a);
	buf_free(&in);
}

static void skip_leaves_the_reader_behind_the_element(void **state)
{
	struct buf in = from_hex(examples[0].hex);
	struct wbxml_reader r;
	struct wbxml_event ev;

	(void)state;
	wbxml_reader_init(&r, buf_bytes(&in));
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, PING_HeartbeatInterval);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, PING_Folders);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, PING_Folder);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_skip(&r), 1); /* the rest of Folders */
	assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
	assert_int_equal(ev.tag, PING_Ping);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
	buf_free(&in);

	/* An element in short form is over at once. */
	in = from_hex("03 01 6A 00 45 14 0B 01");
	wbxml_reader_init(&r, buf_bytes(&in));
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(ev.tag, AIRSYNC_SyncKey);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_skip(&r), 1);
	assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
	buf_free(&in);

	in = from_hex("03 01 6A 00 45 5C");
	wbxml_reader_init(&r, buf_bytes(&in));
	assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
	assert_int_equal(wbxml_skip(&r), WBXML_BAD);
	assert_string_equal(r.why, "ends inside an element");
	buf_free(&in);
}

/* ---- The writer -------------------------------------------------------------------------- */

#define FFFD "\xef\xbf\xbd"

/* To the answer: no byte of a stored mail can end the string it is in. */
static void text_that_a_string_cannot_carry_is_replaced(void **state)
{
	static const struct {
		const char *in;
		size_t n;
		const char *want;
	} cases[] = {
#define CASE(in, want) {in, sizeof(in) - 1, want}
		CASE("plain", "plain"), CASE("a\0b", "a" FFFD "b"), CASE("\0", FFFD),
		CASE("\x01\x08\x0b\x1f", FFFD FFFD FFFD FFFD), CASE("\t\r\n", "\t\r\n"),
		CASE("\x7f", "\x7f"), CASE("gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f"),
		CASE("\xe2\x82\xac\xf0\x9f\x99\x82", "\xe2\x82\xac\xf0\x9f\x99\x82"),
		CASE("\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbd",
			"\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbd"),
		CASE("\xc0\x80", FFFD FFFD),                   /* overlong NUL */
		CASE("\xe0\x80\x80", FFFD FFFD FFFD),          /* overlong */
		CASE("\xed\xa0\x80", FFFD FFFD FFFD),          /* surrogate */
		CASE("\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD), /* over U+10FFFF */
		CASE("\xf5\xff", FFFD FFFD), CASE("a\x80z", "a" FFFD "z"),
		CASE("\xe2\x82", FFFD), /* cut at the end */
		CASE("\xe2\x82z", FFFD "z"), CASE("\xf0\x9f\x99\0", FFFD FFFD),
		CASE("\xc3\xc3\xbc", FFFD "\xc3\xbc"),
		CASE("\xef\xbf\xbe\xef\xbf\xbf", FFFD FFFD), /* not characters of XML */
#undef CASE
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint8_t *exact = malloc(cases[i].n);
		struct buf doc = {0};
		struct wbxml_writer w;
		struct wbxml_reader r;
		struct wbxml_event ev;

		memcpy(exact, cases[i].in, cases[i].n);
		wbxml_writer_init(&w, &doc);
		wbxml_put_bytes_text(&w, AIRSYNC_Sync, bytes_of(exact, cases[i].n));
		assert_true(wbxml_done(&w));
		wbxml_reader_init(&r, buf_bytes(&doc));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_START);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_TEXT);
		assert_bytes(ev.text, bytes_str(cases[i].want));
		assert_int_equal(wbxml_next(&r, &ev), WBXML_END);
		assert_int_equal(wbxml_next(&r, &ev), WBXML_DONE);
		buf_free(&doc);
		free(exact);
	}
}

static void text_may_be_written_in_pieces(void **state)
{
	struct buf doc = {0}, want;
	struct wbxml_writer w;

	(void)state;
	wbxml_writer_init(&w, &doc);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_piece(&w, bytes_str(""));
	wbxml_put_piece(&w, bytes_str("ab"));
	wbxml_put_opaque_piece(&w, bytes_str("c"));
	wbxml_put_opaque_piece(&w, bytes_str(""));
	wbxml_put_end(&w);
	assert_true(wbxml_done(&w));
	want = from_hex("03 01 6A 00 45 03 61 62 00 C3 01 63 01");
	assert_bytes(buf_bytes(&doc), buf_bytes(&want));
	buf_free(&want);
	buf_free(&doc);
}

static void containers_left_empty_are_written_short(void **state)
{
	struct buf doc = {0}, want;
	struct wbxml_writer w;

	(void)state;
	buf_add_str(&doc, "before"); /* the writer appends */
	wbxml_writer_init(&w, &doc);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_text(&w, AIRSYNC_SyncKey, "");
	wbxml_put_text(&w, AIRSYNC_Class, NULL);
	wbxml_put_opaque(&w, AIRSYNC_Version, bytes_str(""));
	wbxml_put_start(&w, PING_Folders);
	wbxml_put_end(&w);
	wbxml_put_start(
		&w, PING_Folders); /* the flag goes to the tag, not to the switch after it */
	wbxml_put_empty(&w, AIRSYNC_Add);
	wbxml_put_end(&w);
	assert_false(wbxml_done(&w));
	wbxml_put_end(&w);
	assert_true(wbxml_done(&w));
	want = from_hex("62 65 66 6F 72 65 03 01 6A 00 45 0B 10 11 00 0D 09 49 00 00 07 01 01");
	assert_bytes(buf_bytes(&doc), buf_bytes(&want));
	buf_free(&want);
	buf_free(&doc);
}

static void numbers_are_written_in_full(void **state)
{
	static const uint64_t numbers[] = {0, 9, 10, UINT32_MAX, UINT64_MAX};
	static const char *const texts[] = {"0", "9", "10", "4294967295", "18446744073709551615"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
		struct buf doc = {0};
		struct wbxml_writer w;

		wbxml_writer_init(&w, &doc);
		wbxml_put_u64(&w, AIRSYNC_Sync, numbers[i]);
		assert_int_equal(doc.n, 6 + strlen(texts[i]) + 2);
		assert_memory_equal(doc.p + 6, texts[i], strlen(texts[i]) + 1);
		buf_free(&doc);
	}
}

static void memory_running_out_is_seen_at_the_end(void **state)
{
	struct buf doc = {.failed = true};
	struct wbxml_writer w;

	(void)state;
	wbxml_writer_init(&w, &doc);
	put_provision_response(&w);
	assert_false(wbxml_done(&w));
	assert_null(doc.p);
}

static void misuse_end_missing(struct wbxml_writer *w)
{
	wbxml_put_end(w);
}

static void misuse_text_first(struct wbxml_writer *w)
{
	wbxml_put_piece(w, bytes_str("a"));
}

static void misuse_two_roots(struct wbxml_writer *w)
{
	wbxml_put_empty(w, PING_Ping);
	wbxml_put_empty(w, PING_Ping);
}

static void misuse_no_tag(struct wbxml_writer *w)
{
	wbxml_put_start(w, 0x0d04);
}

static void misuse_too_deep(struct wbxml_writer *w)
{
	for (unsigned i = 0; i < WBXML_WRITE_DEPTH_MAX + 1; i++)
		wbxml_put_start(w, PING_Ping);
}

/* To ourselves: a handler that would send a broken document is caught where it happens. */
static void misuse_aborts(void **state)
{
	static void (*const misuses[])(struct wbxml_writer *) = {misuse_end_missing,
		misuse_text_first, misuse_two_roots, misuse_no_tag, misuse_too_deep};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(misuses); i++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			struct buf doc = {0};
			struct wbxml_writer w;

			signal(SIGABRT, SIG_DFL);
			if (!freopen("/dev/null", "w", stderr))
				_exit(1);
			wbxml_writer_init(&w, &doc);
			misuses[i](&w);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	}
}

/* ---- The table --------------------------------------------------------------------------- */

static void the_table_names_what_the_specification_names(void **state)
{
	unsigned tags = 0;

	(void)state;
	for (unsigned tag = 0; tag <= UINT16_MAX; tag++)
		tags += wbxml_tag_info((uint16_t)tag) != NULL;
	assert_int_equal(tags, 655); /* rows of codepages.tsv without the three unassigned */
	assert_int_equal(AIRSYNC_SyncKey, 0x000b);
	assert_int_equal(FIND_Picture, 0x1922);
	assert_string_equal(wbxml_tag_info(PING_HeartbeatInterval)->name, "HeartbeatInterval");
	assert_int_equal(wbxml_tag_info(AIRSYNC_Wait)->min_version, 121);
	assert_int_equal(wbxml_tag_info(FIND_Find)->min_version, 161);
	assert_string_equal(wbxml_page_name(25), "Find");
	assert_null(wbxml_page_name(26));
	assert_null(wbxml_tag_info(0x0004));
	assert_null(wbxml_tag_info(0x0045));
	assert_null(wbxml_tag_info(0x191a));
	assert_null(wbxml_tag_info(0xffff));
}

/* ---- XML --------------------------------------------------------------------------------- */

static void assert_xml(const char *hex, int want_k, const char *want)
{
	struct buf in = from_hex(hex), out = {0};

	assert_int_equal(wbxml_to_xml(buf_bytes(&in), &out), want_k);
	buf_add_byte(&out, 0);
	assert_string_equal((char *)out.p, want);
	buf_free(&in);
	buf_free(&out);
}

static void documents_are_shown_as_xml(void **state)
{
	(void)state;
	assert_xml(examples[2].hex, 1,
		"<Ping:Ping>\n"
		"  <Ping:Status>2</Ping:Status>\n"
		"  <Ping:Folders>\n"
		"    <Ping:Folder>5</Ping:Folder>\n"
		"  </Ping:Folders>\n"
		"</Ping:Ping>\n");
	assert_xml("03 01 6A 00 45 54 01 4B 03 3C 26 3E 0D 01 FF 00 01 00 15 50 C3 02 61 3C 01 50 "
		   "C3 02 00 FF 01 00 1E 05 00 0D 3F 01",
		1,
		"<AirSync:Sync>\n"
		"  <AirSync:MoreAvailable/>\n"
		"  <AirSync:SyncKey>&lt;&amp;&gt;&#13;" FFFD FFFD "</AirSync:SyncKey>\n"
		"  <ComposeMail:Mime><?opaque 2?>a&lt;</ComposeMail:Mime>\n"
		"  <ComposeMail:Mime><?opaque-hex 2?>00ff</ComposeMail:Mime>\n"
		"  <Page30:x05/>\n"
		"  <Ping:x3F/>\n"
		"</AirSync:Sync>\n");
	assert_xml("03 01 6A 00 45 4B 03 61 00 14 02", WBXML_BAD,
		"<AirSync:Sync>\n"
		"  <AirSync:SyncKey>a\n"
		"    <AirSync:MoreAvailable/>\n"
		"<!-- malformed: a token EAS does not use -->\n");
	assert_xml("03 01 6A 00 45", WBXML_BAD,
		"<AirSync:Sync>\n<!-- malformed: ends inside an element -->\n");
	assert_xml("03 01 6A 00 45 03 61 00", WBXML_BAD,
		"<AirSync:Sync>a\n<!-- malformed: ends inside an element -->\n");
	assert_xml("", WBXML_BAD, "<!-- malformed: truncated header -->\n");
}

/* ---- Random trees ------------------------------------------------------------------------ */

struct rnd {
	uint64_t s;
};

static uint32_t rnd(struct rnd *r, uint32_t below)
{
	r->s ^= r->s << 13;
	r->s ^= r->s >> 7;
	r->s ^= r->s << 17;
	return (uint32_t)((r->s >> 16) % below);
}

static struct bytes rnd_text(struct rnd *r, struct arena *a, bool opaque)
{
	static const char *const bits[] = {"a", "7", " ", "\n", "<", "&", "\xc3\xbc",
		"\xe2\x82\xac", "\xf0\x9f\x99\x82", "\x7f"};
	size_t n = rnd(r, 10) ? rnd(r, 40) : rnd(r, 20000);
	uint8_t *p = arena_alloc(a, n * 4 + 1);
	size_t at = 0;

	assert_non_null(p);
	for (size_t i = 0; i < n; i++) {
		const char *s = bits[rnd(r, ARRAY_LEN(bits))];

		if (opaque) {
			p[at++] = (uint8_t)rnd(r, 256);
			continue;
		}
		memcpy(p + at, s, strlen(s));
		at += strlen(s);
	}
	return bytes_of(p, at);
}

/* A tree of up to `want` elements, made without any code of the module. */
static struct wbxml_node *rnd_tree(struct rnd *r, struct arena *a, uint32_t want)
{
	struct wbxml_node *root = NULL, *at = NULL, *n, *last;
	unsigned depth = 0;

	for (uint32_t i = 0; i < want; i++) {
		n = arena_zalloc(a, sizeof(*n));
		assert_non_null(n);
		n->tag = (uint16_t)(rnd(r, rnd(r, 9) ? 26 : 256) << 8 | (5 + rnd(r, 59)));
		n->text = bytes_of("", 0);
		n->parent = at;
		n->unknown = !wbxml_tag_info(n->tag) || (at && at->unknown);
		if (!rnd(r, 2)) {
			n->opaque = !rnd(r, 4);
			n->text = rnd_text(r, a, n->opaque);
			n->opaque &= n->text.n > 0;
		}
		if (!root) {
			root = n;
		} else {
			for (last = at->first; last && last->next; last = last->next)
				;
			if (last)
				last->next = n;
			else
				at->first = n;
			at->child_count++;
		}
		if (!at || (depth < WBXML_DEPTH_MAX - 1 && rnd(r, 3))) {
			at = n;
			depth++;
		}
		while (at != root && !rnd(r, 3)) {
			at = at->parent;
			depth--;
		}
	}
	return root;
}

static bool same_tree(const struct wbxml_node *a, const struct wbxml_node *b)
{
	const struct wbxml_node *root = a;

	for (;;) {
		if (a->tag != b->tag || a->opaque != b->opaque || a->unknown != b->unknown ||
			a->child_count != b->child_count || !bytes_eq(a->text, b->text) ||
			!a->first != !b->first || (a != root && !a->next != !b->next))
			return false;
		if (a->first) {
			a = a->first;
			b = b->first;
			continue;
		}
		while (a != root && !a->next) {
			a = a->parent;
			b = b->parent;
		}
		if (a == root)
			return true;
		a = a->next;
		b = b->next;
	}
}

static void random_trees_survive_the_round_trip(void **state)
{
	const char *given = getenv("SEED");
	uint64_t seed =
		given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) ^ (uint64_t)getpid();
	struct rnd r = {.s = seed * 0x9e3779b97f4a7c15u | 1};

	(void)state;
	printf("# SEED=%llu repeats these trees\n", (unsigned long long)seed);
	for (int i = 0; i < 500; i++) {
		struct arena a;
		struct wbxml_node *tree, *got = NULL;
		struct buf doc = {0}, again = {0};
		struct wbxml_writer w;
		const char *why = "";

		arena_init(&a, 256u << 20);
		tree = rnd_tree(&r, &a, 1 + rnd(&r, rnd(&r, 10) ? 30 : 600));
		wbxml_writer_init(&w, &doc);
		wbxml_put_node(&w, tree);
		assert_true(wbxml_done(&w));
		if (wbxml_parse(buf_bytes(&doc), &a, NULL, &got, &why) != 1)
			fail_msg("tree %d refused: %s", i, why);
		assert_true(same_tree(tree, got));
		wbxml_writer_init(&w, &again);
		wbxml_put_node(&w, got);
		assert_bytes(buf_bytes(&again), buf_bytes(&doc));
		buf_free(&doc);
		buf_free(&again);
		arena_free(&a);
	}
}

/* A part of a request may be sent back inside an element of ours. */
static void a_subtree_can_be_sent_alone(void **state)
{
	struct buf in = from_hex(examples[0].hex), doc = {0};
	struct arena a;
	struct wbxml_node *root;
	struct wbxml_writer w;
	const char *why = "";

	(void)state;
	arena_init(&a, ARENA_BYTES);
	assert_int_equal(wbxml_parse(buf_bytes(&in), &a, NULL, &root, &why), 1);
	wbxml_writer_init(&w, &doc);
	wbxml_put_start(&w, AIRSYNC_Sync);
	wbxml_put_node(&w, root->first->next->first);
	wbxml_put_end(&w);
	assert_true(wbxml_done(&w));
	assert_outline(buf_bytes(&doc), "Sync(Folder(Id=5,Class=Email))");
	arena_free(&a);
	buf_free(&in);
	buf_free(&doc);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(examples_are_written_byte_for_byte),
		cmocka_unit_test(examples_are_read_and_written_back),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(bad_headers_are_refused),
		cmocka_unit_test(truncation_is_refused),
		cmocka_unit_test(lengths_over_32_bits_are_refused),
		cmocka_unit_test(unbalanced_documents_are_refused),
		cmocka_unit_test(tokens_of_other_languages_are_refused),
		cmocka_unit_test(unknown_elements_keep_the_structure),
		cmocka_unit_test(depth_is_capped),
		cmocka_unit_test(elements_are_capped),
		cmocka_unit_test(a_full_arena_refuses_the_request),
		cmocka_unit_test(lengths_are_read_and_written_at_every_edge),
		cmocka_unit_test(text_in_pieces_is_joined),
		cmocka_unit_test(a_million_pieces_take_linear_memory),
		cmocka_unit_test(one_piece_is_a_view_into_the_request),
		cmocka_unit_test(all_empty_forms_are_equal),
		cmocka_unit_test(numbers_and_booleans_are_strict),
		cmocka_unit_test(lookups_chain_over_what_is_missing),
		cmocka_unit_test(skip_leaves_the_reader_behind_the_element),
		cmocka_unit_test(text_that_a_string_cannot_carry_is_replaced),
		cmocka_unit_test(text_may_be_written_in_pieces),
		cmocka_unit_test(containers_left_empty_are_written_short),
		cmocka_unit_test(numbers_are_written_in_full),
		cmocka_unit_test(memory_running_out_is_seen_at_the_end),
		cmocka_unit_test(misuse_aborts),
		cmocka_unit_test(the_table_names_what_the_specification_names),
		cmocka_unit_test(documents_are_shown_as_xml),
		cmocka_unit_test(random_trees_survive_the_round_trip),
		cmocka_unit_test(a_subtree_can_be_sent_alone),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("wbxml", tests, NULL, NULL);
}
