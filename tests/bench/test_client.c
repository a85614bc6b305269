/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The measuring tools must not lie: what they accept, what they send, and what they call an answer.
 */
#include "bench/client.h"
#include "bench/eas_request.h"
#include "bench/figures.h"
#include "bench/http_answer.h"
#include "core/base/arena.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/push/ping.h"
#include "io/http1.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* ---- answers ---- */

#define GOOD                                                                                       \
	"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ms-sync.wbxml\r\nContent-Length: 4\r\n"  \
	"X-Empty:\r\n\r\n"

/* In memory of exactly its size, so that a sanitizer sees a read beyond it. */
static int parse(const char *text, size_t n, struct http_answer *a)
{
	uint8_t *exact = malloc(n ? n : 1);
	const char *why = NULL;
	int k;

	memcpy(exact, text, n);
	k = http_answer_parse(exact, n, a, &why);
	if (k < 0)
		assert_non_null(why);
	free(exact);
	return k;
}

static void a_whole_answer_is_read(void **state)
{
	struct http_answer a;
	const char *why;
	const uint8_t *p = (const uint8_t *)GOOD "body";

	(void)state;
	assert_int_equal(http_answer_parse(p, sizeof(GOOD) - 1 + 4, &a, &why), 1);
	assert_int_equal(a.status, 200);
	assert_true(bytes_eq_str(a.reason, "OK"));
	assert_int_equal(a.content_length, 4);
	assert_int_equal(a.head_bytes, sizeof(GOOD) - 1);
	assert_true(a.keep_alive);
	assert_true(bytes_eq_str(
		http_answer_field(&a, "content-type"), "application/vnd.ms-sync.wbxml"));
	assert_int_equal(http_answer_field(&a, "X-Empty").n, 0);
	assert_non_null(http_answer_field(&a, "X-Empty").p);
	assert_null(http_answer_field(&a, "X-Absent").p);
}

static void every_prefix_of_a_head_needs_more(void **state)
{
	struct http_answer a;

	(void)state;
	for (size_t n = 0; n < sizeof(GOOD) - 1; n++)
		assert_int_equal(parse(GOOD, n, &a), 0);
	assert_int_equal(parse(GOOD, sizeof(GOOD) - 1, &a), 1);
}

static void a_sloppy_answer_is_refused(void **state)
{
	static const char *const bad[] = {
		"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 20x OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n",
		"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n Content-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n folded\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno colon\r\n\r\n",
		"HTTP/1.1 200 OK\r\n: 0\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1 1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: a\x01\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n",
	};
	struct http_answer a;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (parse(bad[i], strlen(bad[i]), &a) >= 0)
			fail_msg("accepted: %s", bad[i]);
	assert_int_equal(parse("HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n", 39, &a), -1);
}

static void an_endless_head_is_refused(void **state)
{
	struct buf b = {0};
	struct http_answer a;

	(void)state;
	buf_add_str(&b, "HTTP/1.1 200 OK\r\nX: ");
	while (b.n <= HTTP_ANSWER_HEAD_BYTES_MAX)
		buf_add_str(&b, "aaaaaaaaaaaaaaaa");
	assert_int_equal(parse((const char *)b.p, b.n, &a), -1);
	b.n = 0;
	buf_add_str(&b, "HTTP/1.1 200 OK\r\n");
	for (int i = 0; i <= HTTP_ANSWER_HEADERS_MAX; i++)
		buf_add_str(&b, "X: 1\r\n");
	assert_int_equal(parse((const char *)b.p, b.n, &a), -1);
	buf_free(&b);
}

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

static void urls_come_apart(void **state)
{
	struct client_address a;
	char why[CLIENT_WHY_BYTES], host[300];
	static const char *const bad[] = {"127.0.0.1:1", "ftp://127.0.0.1", "https://",
		"https://:1", "https://127.0.0.1:", "https://127.0.0.1:x", "https://[::1",
		"https://[::1]x"};

	(void)state;
	assert_true(client_parse_url("https://127.0.0.1:8443/x/y", &a, why, sizeof(why)));
	assert_true(a.tls);
	assert_string_equal(a.host, "127.0.0.1");
	assert_string_equal(a.port, "8443");
	assert_string_equal(a.path, "/x/y");
	assert_true(client_parse_url("http://[::1]:80", &a, why, sizeof(why)));
	assert_false(a.tls);
	assert_int_equal(a.to.ss_family, AF_INET6);
	client_host_header(&a, host, sizeof(host));
	assert_string_equal(host, "[::1]:80");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (client_parse_url(bad[i], &a, why, sizeof(why)))
			fail_msg("accepted: %s", bad[i]);
}

static void quantiles_are_nearest_ranks(void **state)
{
	uint64_t v[] = {5, 1, 4, 2, 3, 10, 9, 8, 7, 6};
	double d[] = {3, 1, 2, 10};

	(void)state;
	quantile_sort(v, 10);
	assert_int_equal(quantile(v, 10, 0), 1);
	assert_int_equal(quantile(v, 10, 0.5), 6);
	assert_int_equal(quantile(v, 10, 0.99), 10);
	assert_int_equal(quantile(v, 10, 1), 10);
	assert_true(median(d, 4) == 2.5);
}

/* ---- the client machine against a server of a few lines ---- */

enum trick {
	ANSWER,
	ANSWER_BYTEWISE,
	ANSWER_TWICE,
	ANSWER_AND_CLOSE,
	NO_HTTP,
	CUT,
	SILENCE,
	UNASKED
};

struct server {
	int fd;
	pthread_t thread;
	enum trick trick;
	struct tls_ctx *tls;
	struct sockaddr_storage at;
	unsigned conns; /* serves so many, one after the other */
};

struct peer {
	int fd;
	bool tls;
	struct tlsrec rec;
	uint8_t in[65536];
	size_t in_n;
};

static void say(struct peer *c, const void *p, size_t n)
{
	uint8_t out[4096];

	if (c->tls) {
		n = tlsrec_seal(&c->rec, p, n, out);
		p = out;
	}
	/* The client may have gone. */
	(void)!send(c->fd, p, n, MSG_NOSIGNAL);
}

static bool shake_hands(struct server *s, struct peer *c)
{
	struct tls_hs *h = tls_hs_server(s->tls);
	enum tls_hs_status status = TLS_HS_WANT_MORE;
	const char *why;
	bool ok;

	while (status == TLS_HS_WANT_MORE) {
		struct buf out = {0};
		size_t used;
		ssize_t n = recv(c->fd, c->in + c->in_n, sizeof(c->in) - c->in_n, 0);

		if (n <= 0)
			break;
		c->in_n += (size_t)n;
		status = tls_hs_feed(h, c->in, c->in_n, &used, &out);
		c->in_n -= used;
		memmove(c->in, c->in + used, c->in_n);
		(void)!send(c->fd, out.p, out.n, MSG_NOSIGNAL);
		buf_free(&out);
	}
	ok = status == TLS_HS_DONE && tls_hs_detach(h, &c->rec, &why);
	tls_hs_free(&h);
	return ok;
}

/* Until a request's empty line has come; false: the client is gone. */
static bool hear(struct peer *c)
{
	for (;;) {
		struct tlsrec_in in;

		if (!c->tls && c->in_n >= 4 && memmem(c->in, c->in_n, "\r\n\r\n", 4)) {
			c->in_n = 0;
			return true;
		}
		if (c->tls && c->in_n) {
			tlsrec_open(&c->rec, c->in, c->in_n, &in);
			if (in.result != TLSREC_NEED_MORE) {
				bool whole = in.result == TLSREC_DATA &&
					     memmem(in.data, in.data_bytes, "\r\n\r\n", 4);

				c->in_n -= in.consumed;
				memmove(c->in, c->in + in.consumed, c->in_n);
				if (whole)
					return true;
				if (in.result == TLSREC_CLOSED || in.result == TLSREC_ERROR)
					return false;
				continue;
			}
		}
		ssize_t n = recv(c->fd, c->in + c->in_n, sizeof(c->in) - c->in_n, 0);
		if (n <= 0)
			return false;
		c->in_n += (size_t)n;
	}
}

static void serve(struct server *s, struct peer *c)
{
	static const char good[] = GOOD "body";

	if (s->trick == UNASKED)
		say(c, good, sizeof(good) - 1);
	while (hear(c)) {
		switch (s->trick) {
		case ANSWER:
		case UNASKED:
			say(c, good, sizeof(good) - 1);
			break;
		case ANSWER_BYTEWISE:
			for (size_t i = 0; i < sizeof(good) - 1; i++)
				say(c, good + i, 1);
			break;
		case ANSWER_TWICE:
			say(c, GOOD "body" GOOD "body", 2 * (sizeof(good) - 1));
			break;
		case ANSWER_AND_CLOSE:
			say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
				57);
			return;
		case NO_HTTP:
			say(c, "220 mail.example.test\r\n", 23);
			break;
		case CUT:
			say(c, good, sizeof(good) - 3);
			return;
		case SILENCE:
			break;
		}
	}
}

static void *server_thread(void *arg)
{
	struct server *s = arg;

	while (s->conns--) {
		struct peer *c = calloc(1, sizeof(*c));

		CHECK(c);
		c->tls = s->tls != NULL;
		c->fd = accept(s->fd, NULL, NULL);
		if (c->fd >= 0 && (!c->tls || shake_hands(s, c)))
			serve(s, c);
		if (c->fd >= 0)
			close(c->fd);
		free(c);
	}
	return NULL;
}

static void server_start(struct server *s, enum trick trick, struct tls_ctx *tls, unsigned conns)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sa);

	*s = (struct server){.trick = trick, .tls = tls, .conns = conns};
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(s->fd >= 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(s->fd, 128), 0);
	assert_int_equal(getsockname(s->fd, (struct sockaddr *)&s->at, &n), 0);
	assert_int_equal(pthread_create(&s->thread, NULL, server_thread, s), 0);
}

/* Each phone asks `rounds` times; closes, or notes why it was closed. */
struct run {
	struct client *client;
	unsigned rounds, phones, opened, sent, answered, closed, over;
	unsigned asked_of[64];
	enum client_end end;
	bool body_ok;
};

static void next(struct run *r, uint32_t phone)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

	if (r->asked_of[phone]++ < r->rounds) {
		client_request(r->client, phone, bytes_of(request, sizeof(request) - 1), 2);
		return;
	}
	client_close(r->client, phone);
	if (++r->over == r->phones)
		client_stop(r->client);
}

static void on_opened(void *arg, uint32_t phone)
{
	struct run *r = arg;

	r->opened++;
	if (r->rounds)
		next(r, phone);
}

static void on_sent(void *arg, uint32_t phone)
{
	struct run *r = arg;

	(void)phone;
	r->sent++;
}

static void on_answered(
	void *arg, uint32_t phone, const struct http_answer *a, struct bytes body, uint64_t came_ns)
{
	struct run *r = arg;

	assert_int_equal(a->status, 200);
	assert_true(came_ns <= clock_mono_ns());
	r->body_ok &= bytes_eq_str(body, "body");
	r->answered++;
	if (a->keep_alive)
		next(r, phone);
}

static void on_closed(void *arg, uint32_t phone, enum client_end end, const char *why)
{
	struct run *r = arg;

	(void)phone;
	assert_non_null(why);
	r->closed++;
	r->end = end;
	if (++r->over == r->phones)
		client_stop(r->client);
}

static void run_client(struct server *s, bool tls, unsigned phones, unsigned rounds, struct run *r)
{
	static const struct client_events events = {
		.opened = on_opened,
		.sent = on_sent,
		.answered = on_answered,
		.closed = on_closed,
	};
	struct client_options o = {
		.tls = tls,
		.to[0] = s->at,
		.to_count = 1,
		.phones_max = phones,
		.handshakes_max = 4,
		.open_timeout_s = 10,
		.phones_per_source = 10,
	};
	char why[CLIENT_WHY_BYTES];

	*r = (struct run){.phones = phones, .rounds = rounds, .body_ok = true};
	r->client = client_new(&o, &events, r, why, sizeof(why));
	if (!r->client)
		fail_msg("%s", why);
	for (uint32_t i = 0; i < phones; i++)
		client_open(r->client, i);
	client_run(r->client);
	client_free(&r->client);
}

static void server_end(struct server *s)
{
	shutdown(s->fd, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->fd);
}

static void answers_are_whole_wherever_the_network_cuts(void **state)
{
	static const enum trick tricks[] = {ANSWER, ANSWER_BYTEWISE};

	for (size_t i = 0; i < 2; i++) {
		for (int tls = 0; tls < 2; tls++) {
			struct server s;
			struct run r;

			server_start(&s, tricks[i], tls ? *state : NULL, 1);
			run_client(&s, tls, 1, 5, &r);
			server_end(&s);
			assert_int_equal(r.answered, 5);
			assert_int_equal(r.sent, 5);
			assert_int_equal(r.closed, 0);
			assert_true(r.body_ok);
		}
	}
}

static void what_is_no_answer_ends_the_connection(void **state)
{
	static const struct {
		enum trick trick;
		enum client_end end;
		unsigned answered;
	} cases[] = {
		{ANSWER_TWICE, CLIENT_END_HTTP, 0},
		{NO_HTTP, CLIENT_END_HTTP, 0},
		{CUT, CLIENT_END_CUT, 0},
		{SILENCE, CLIENT_END_TIMEOUT, 0},
		{ANSWER_AND_CLOSE, CLIENT_END_PEER, 1},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (int tls = 0; tls < 2; tls++) {
			struct server s;
			struct run r;

			server_start(&s, cases[i].trick, tls ? *state : NULL, 1);
			run_client(&s, tls, 1, 3, &r);
			server_end(&s);
			assert_int_equal(r.closed, 1);
			assert_int_equal(r.end, cases[i].end);
			assert_int_equal(r.answered, cases[i].answered);
		}
	}
}

static void bytes_before_any_request_are_no_answer(void **state)
{
	struct server s;
	struct run r;

	server_start(&s, UNASKED, *state, 1);
	run_client(&s, true, 1, 0, &r);
	server_end(&s);
	assert_int_equal(r.end, CLIENT_END_HTTP);
	assert_int_equal(r.answered, 0);
}

/* More phones than may shake hands at a time; each has its turn. */
static void phones_wait_in_line(void **state)
{
	struct server s;
	struct run r;

	server_start(&s, ANSWER, *state, 40);
	run_client(&s, true, 40, 2, &r);
	server_end(&s);
	assert_int_equal(r.opened, 40);
	assert_int_equal(r.answered, 80);
	assert_int_equal(r.closed, 0);
}

static void nobody_there_is_said(void **state)
{
	struct server s;
	struct run r;

	(void)state;
	server_start(&s, ANSWER, NULL, 0);
	server_end(&s);
	run_client(&s, true, 3, 1, &r);
	assert_int_equal(r.closed, 3);
	assert_int_equal(r.end, CLIENT_END_CONNECT);
}

static void plain_servers_are_no_tls_servers(void **state)
{
	struct server s;
	struct run r;

	(void)state;
	server_start(&s, UNASKED, NULL, 1);
	run_client(&s, true, 1, 1, &r);
	server_end(&s);
	assert_int_equal(r.end, CLIENT_END_TLS);
}

static int tls_up(void **state)
{
	char dir[] = "/tmp/test_client.XXXXXX", cert[64], key[64], why[256];
	struct tls_pair pair = {cert, key};
	struct tls_options o = {.pairs = &pair, .pair_count = 1};

	if (!mkdtemp(dir))
		return -1;
	snprintf(cert, sizeof(cert), "%s/c.pem", dir);
	snprintf(key, sizeof(key), "%s/k.pem", dir);
	if (tls_self_signed(cert, key, NULL, 0, clock_wall_ms(), why, sizeof(why)))
		*state = tls_server_new(&o, why, sizeof(why));
	unlink(cert);
	unlink(key);
	rmdir(dir);
	return *state ? 0 : -1;
}

static int tls_down(void **state)
{
	struct tls_ctx *c = *state;

	tls_ctx_unref(&c);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_answer_is_read),
		cmocka_unit_test(every_prefix_of_a_head_needs_more),
		cmocka_unit_test(a_sloppy_answer_is_refused),
		cmocka_unit_test(an_endless_head_is_refused),
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
		cmocka_unit_test(urls_come_apart),
		cmocka_unit_test(quantiles_are_nearest_ranks),
		cmocka_unit_test(answers_are_whole_wherever_the_network_cuts),
		cmocka_unit_test(what_is_no_answer_ends_the_connection),
		cmocka_unit_test(bytes_before_any_request_are_no_answer),
		cmocka_unit_test(phones_wait_in_line),
		cmocka_unit_test(nobody_there_is_said),
		cmocka_unit_test(plain_servers_are_no_tls_servers),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, tls_up, tls_down);
}
