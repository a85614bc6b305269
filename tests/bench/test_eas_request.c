/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a simulated phone asks is what the specification and the server's own strict reading take, and
 * what it reads in an answer is there. */
#include "bench/fleet/eas_request.h"
#include "core/base/arena.h"
#include "core/base/check.h"
#include "core/push/ping.h"
#include "io/http1.h"

#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* ---- requests ---- */

static struct phone_identity alice(void)
{
	return (struct phone_identity){
		.host = "mail.example.test:8443",
		.user = "alice+x@example.test",
		.authorization = "Basic YTpi",
		.device_id = "DEV1",
		.device_type = "SP 1",
		.user_agent = "test/1",
		.version = 141,
		.policy_key = 1307199584,
	};
}

/* The server's own strict reading of it. */
static void read_request(const struct buf *b, struct http1_request *req, struct bytes *body)
{
	const struct http1_limits limits = {
		.head_bytes_max = 8192, .target_bytes_max = 4096, .body_bytes_max = 1 << 20};
	size_t scanned = 0;
	const char *why = "";

	if (http1_parse(b->p, b->n, &limits, &scanned, req, &why) != 1)
		fail_msg("our request is refused: %s", why);
	assert_int_equal(b->n - req->head_bytes, req->content_length);
	*body = bytes_of(b->p + req->head_bytes, b->n - req->head_bytes);
}

static void plain_requests_say_who_asks_what(void **state)
{
	struct phone_identity who = alice();
	struct http1_request req;
	struct eas_query q;
	struct bytes body;
	struct buf b = {0};
	const char *why;

	(void)state;
	phone_request(&who, EAS_SYNC, bytes_str("body"), &b);
	read_request(&b, &req, &body);
	assert_int_equal(req.method, HTTP1_POST);
	assert_true(bytes_eq_str(req.path, "/Microsoft-Server-ActiveSync"));
	assert_true(bytes_eq_str(req.host, who.host));
	assert_true(bytes_eq_str(body, "body"));
	assert_true(bytes_eq_str(http1_header(&req, "MS-ASProtocolVersion"), "14.1"));
	assert_true(bytes_eq_str(http1_header(&req, "X-MS-PolicyKey"), "1307199584"));
	assert_true(bytes_eq_str(http1_header(&req, "Authorization"), "Basic YTpi"));
	assert_true(
		bytes_eq_str(http1_header(&req, "Content-Type"), "application/vnd.ms-sync.wbxml"));
	assert_int_equal(eas_query_parse(req.query, &q, &why), 1);
	assert_int_equal(q.command, EAS_SYNC);
	assert_string_equal(q.user, who.user);
	assert_string_equal(q.device_id, who.device_id);
	assert_string_equal(q.device_type, who.device_type);
	assert_false(q.is_base64);
	buf_free(&b);
}

/* MS-ASPROV 3.1.5.1: not with Ping. */
static void a_ping_carries_no_policy_key(void **state)
{
	struct phone_identity who = alice();
	struct http1_request req;
	struct bytes body;
	struct buf b = {0};

	(void)state;
	phone_request(&who, EAS_PING, bytes_of(NULL, 0), &b);
	read_request(&b, &req, &body);
	assert_int_equal(body.n, 0);
	assert_null(http1_header(&req, "X-MS-PolicyKey").p);
	assert_null(http1_header(&req, "Content-Type").p);
	buf_free(&b);
}

static void base64_requests_say_the_same(void **state)
{
	struct phone_identity who = alice();
	struct http1_request req;
	struct eas_query q;
	struct bytes body;
	struct buf b = {0};
	const char *why;

	(void)state;
	who.base64_query = true;
	phone_request(&who, EAS_PING, bytes_of(NULL, 0), &b);
	read_request(&b, &req, &body);
	assert_int_equal(eas_query_parse(req.query, &q, &why), 1);
	assert_true(q.is_base64);
	assert_int_equal(q.version, 141);
	assert_int_equal(q.command, EAS_PING);
	assert_int_equal(q.policy_key, who.policy_key);
	assert_string_equal(q.device_id, who.device_id);
	assert_string_equal(q.device_type, who.device_type);
	assert_null(http1_header(&req, "MS-ASProtocolVersion").p);
	buf_free(&b);
}

static void options_and_get_have_no_query(void **state)
{
	struct phone_identity who = alice();
	struct http1_request req;
	struct bytes body;
	struct buf b = {0};

	(void)state;
	phone_request_options(&who, &b);
	read_request(&b, &req, &body);
	assert_int_equal(req.method, HTTP1_OPTIONS);
	assert_int_equal(req.query.n, 0);
	b.n = 0;
	who.close = true;
	phone_request_get(&who, "/x?y", &b);
	read_request(&b, &req, &body);
	assert_int_equal(req.method, HTTP1_GET);
	assert_false(req.keep_alive);
	buf_free(&b);
}

static void credentials_are_encoded(void **state)
{
	char text[64];

	(void)state;
	assert_true(phone_basic("Aladdin", "open sesame", text, sizeof(text)));
	assert_string_equal(text, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="); /* RFC 7617 2 */
	assert_false(phone_basic("Aladdin", "open sesame", text, 20));
}

/* ---- documents ---- */

static void assert_document(struct buf *b, const char *hex)
{
	struct buf expected = {0};

	for (const char *p = hex; *p; p += p[2] == ' ' ? 3 : 2) {
		char two[3] = {p[0], p[1], 0};

		buf_add_byte(&expected, (uint8_t)strtoul(two, NULL, 16));
	}
	assert_int_equal(b->n, expected.n);
	assert_memory_equal(b->p, expected.p, expected.n);
	buf_free(&expected);
	b->n = 0;
}

static void documents_are_those_of_the_specification(void **state)
{
	struct phone_sync prime = {.folder = bytes_str("5"), .key = bytes_str("0"), .prime = true};
	struct buf b = {0};

	(void)state;
	phone_body_folder_sync(bytes_str("0"), &b);
	assert_document(&b, "03 01 6A 00 00 07 56 52 03 30 00 01 01");
	phone_body_sync(&prime, 1, 141, 0, &b);
	assert_document(&b, "03 01 6A 00 45 5C 4F 4B 03 30 00 01 52 03 35 00 01 01 01 01");
	phone_body_provision_acknowledge(7, &b);
	assert_document(&b,
		"03 01 6A 00 00 0E 45 46 47 48 03 4D 53 2D 45 41 53 2D 50 72 6F 76 69 73 69 6F 6E "
		"69 6E 67 2D 57 42 58 4D 4C 00 01 49 03 37 00 01 4B 03 31 00 01 01 01 01");
	buf_free(&b);
}

static void the_server_reads_our_pings(void **state)
{
	const struct bytes folders[] = {bytes_str("1"), bytes_str("12")};
	struct ping p = {0};
	struct buf b = {0};

	(void)state;
	phone_body_ping(480, folders, 2, &b);
	assert_true(ping_parse(&p, buf_bytes(&b), 141));
	assert_true(p.has_heartbeat);
	assert_int_equal(p.heartbeat_asked_s, 480);
	assert_int_equal(p.folder_count, 2);
	assert_int_equal(p.folders[0], 1);
	assert_int_equal(p.folders[1], 12);
	buf_free(&b);
}

static const struct wbxml_node *tree(struct arena *a, struct bytes document)
{
	struct wbxml_node *root = NULL;
	const char *why = "";

	if (wbxml_parse(document, a, NULL, &root, &why) < 0)
		fail_msg("not WBXML: %s", why);
	return root;
}

static void a_sync_asks_in_the_order_servers_insist_on(void **state)
{
	static const uint16_t order[] = {AIRSYNC_SyncKey, AIRSYNC_CollectionId,
		AIRSYNC_DeletesAsMoves, AIRSYNC_GetChanges, AIRSYNC_WindowSize, AIRSYNC_Options,
		AIRSYNC_Commands};
	struct phone_sync s = {
		.folder = bytes_str("1"),
		.key = bytes_str("3"),
		.window = 10,
		.body_type = 2,
		.truncation_bytes = 500,
		.command = PHONE_SYNC_MARK_READ,
		.item = bytes_str("1:9"),
	};
	const struct wbxml_node *root, *c, *at;
	struct buf b = {0};
	struct arena a;
	uint32_t v = 0;

	(void)state;
	arena_init(&a, 1 << 20);
	phone_body_sync(&s, 1, 141, 600, &b);
	root = tree(&a, buf_bytes(&b));
	c = wbxml_child(wbxml_child(root, AIRSYNC_Collections), AIRSYNC_Collection);
	at = c->first;
	for (size_t i = 0; i < ARRAY_LEN(order); i++, at = at->next) {
		assert_non_null(at);
		assert_int_equal(at->tag, order[i]);
	}
	assert_null(at);
	assert_true(wbxml_u32(wbxml_child(root, AIRSYNC_HeartbeatInterval), 3540, &v));
	assert_int_equal(v, 600);
	/* 12.1 knows only minutes. */
	b.n = 0;
	phone_body_sync(&s, 1, 121, 601, &b);
	root = tree(&a, buf_bytes(&b));
	assert_null(wbxml_child(root, AIRSYNC_HeartbeatInterval));
	assert_true(wbxml_u32(wbxml_child(root, AIRSYNC_Wait), 59, &v));
	assert_int_equal(v, 11);
	buf_free(&b);
	arena_free(&a);
}

static void device_information_goes_along_from_14_1_on(void **state)
{
	struct buf b = {0};
	struct arena a;

	(void)state;
	arena_init(&a, 1 << 20);
	phone_body_provision_ask(141, "X1", "ua", &b);
	assert_non_null(wbxml_child(tree(&a, buf_bytes(&b)), SETTINGS_DeviceInformation));
	b.n = 0;
	phone_body_provision_ask(140, "X1", "ua", &b);
	assert_null(wbxml_child(tree(&a, buf_bytes(&b)), SETTINGS_DeviceInformation));
	buf_free(&b);
	arena_free(&a);
}

static void answers_are_judged_by_the_specification(void **state)
{
	static const uint8_t expired[] = {3, 1, 0x6a, 0, 0, 0x0d, 0x45, 0x47, 3, '1', 0, 1, 1};
	static const uint8_t changed[] = {
		3, 1, 0x6a, 0, 0, 0x0d, 0x45, 0x47, 3, '2', 0, 1, 0x49, 0x4a, 3, '5', 0, 1, 1, 1};
	static const uint8_t lost[] = {3, 1, 0x6a, 0, 0, 0x0d, 0x45, 0x47, 3, '2', 0, 1, 1};
	static const uint8_t short_one[] = {
		3, 1, 0x6a, 0, 0, 0x0d, 0x45, 0x47, 3, '5', 0, 1, 0x48, 3, '6', '0', 0, 1, 1};
	static const uint8_t no_key[] = {3, 1, 0x6a, 0, 0, 7, 0x56, 0x4c, 3, '1', 0, 1, 1};
	static const uint8_t refused[] = {
		3, 1, 0x6a, 0, 0, 7, 0x56, 0x4c, 3, '1', '4', '2', 0, 1, 1};
	struct phone_ping p;
	struct phone_folder_sync f;
	struct arena a;

	(void)state;
	arena_init(&a, 1 << 20);
	assert_true(phone_read_ping(tree(&a, bytes_of(expired, sizeof(expired))), &p));
	assert_int_equal(p.status, 1);
	assert_true(phone_read_ping(tree(&a, bytes_of(changed, sizeof(changed))), &p));
	assert_int_equal(p.status, 2);
	assert_true(bytes_eq_str(wbxml_text(p.folders, PING_Folder), "5"));
	/* Status 2 without a folder helps no phone. */
	assert_false(phone_read_ping(tree(&a, bytes_of(lost, sizeof(lost))), &p));
	assert_true(phone_read_ping(tree(&a, bytes_of(short_one, sizeof(short_one))), &p));
	assert_int_equal(p.heartbeat_s, 60);
	assert_false(phone_read_folder_sync(tree(&a, bytes_of(expired, sizeof(expired))), &f));
	assert_false(phone_read_folder_sync(tree(&a, bytes_of(no_key, sizeof(no_key))), &f));
	assert_true(phone_read_folder_sync(tree(&a, bytes_of(refused, sizeof(refused))), &f));
	assert_int_equal(f.status, 142);
	assert_false(phone_read_ping(NULL, &p));
	arena_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_requests_say_who_asks_what),
		cmocka_unit_test(a_ping_carries_no_policy_key),
		cmocka_unit_test(base64_requests_say_the_same),
		cmocka_unit_test(options_and_get_have_no_query),
		cmocka_unit_test(credentials_are_encoded),
		cmocka_unit_test(documents_are_those_of_the_specification),
		cmocka_unit_test(the_server_reads_our_pings),
		cmocka_unit_test(a_sync_asks_in_the_order_servers_insist_on),
		cmocka_unit_test(device_information_goes_along_from_14_1_on),
		cmocka_unit_test(answers_are_judged_by_the_specification),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
