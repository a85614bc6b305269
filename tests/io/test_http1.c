/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "io/http1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static const struct http1_limits limits = {
	.head_bytes_max = 4096, .target_bytes_max = 1024, .body_bytes_max = 1 << 20};
static const char *why;

static void assert_view(struct bytes b, const char *expected)
{
	if (!bytes_eq_str(b, expected))
		fail_msg("\"%.*s\" is not \"%s\"", (int)b.n, (const char *)b.p, expected);
}

static int parse_whole(const char *p, size_t n, struct http1_request *req)
{
	size_t scanned = 0;
	int rc;

	why = NULL;
	rc = http1_parse((const uint8_t *)p, n, &limits, &scanned, req, &why);
	if (rc < 0)
		assert_non_null(why);
	else
		assert_int_equal(scanned, rc == 1 ? 0 : n);
	return rc;
}

/* Every prefix in memory of exactly its size, at a new address each time. */
static int parse_bytewise(const char *p, size_t n)
{
	size_t scanned = 0;
	int rc = 0;

	for (size_t k = 0; k <= n && rc == 0; k++) {
		struct http1_request req;
		uint8_t *copy = malloc(k ? k : 1);

		assert_non_null(copy);
		memcpy(copy, p, k);
		rc = http1_parse(copy, k, &limits, &scanned, &req, &why);
		free(copy);
	}
	return rc;
}

static int parse(const char *text, struct http1_request *req)
{
	int rc = parse_whole(text, strlen(text), req);

	assert_int_equal(parse_bytewise(text, strlen(text)), rc);
	return rc;
}

#define assert_refused(status, text)                                                               \
	do {                                                                                       \
		struct http1_request req_;                                                         \
		assert_int_equal(parse(text, &req_), -(status));                                   \
	} while (0)
#define assert_accepted(text)                                                                      \
	do {                                                                                       \
		struct http1_request req_;                                                         \
		assert_int_equal(parse(text, &req_), 1);                                           \
	} while (0)

#define GET(headers)  "GET / HTTP/1.1\r\nHost: a\r\n" headers "\r\n"
#define POST(headers) "POST /x HTTP/1.1\r\nHost: a\r\n" headers "\r\n"

/* To the phone: an ordinary request is understood, every part of it. */
static void an_activesync_request_is_taken_apart(void **state)
{
	static const char text[] =
		"POST /Microsoft-Server-ActiveSync?Cmd=Ping&User=D\\u HTTP/1.1\r\n"
		"Host: mail.example.org:8443\r\n"
		"content-LENGTH: 13\r\n"
		"Authorization:   Basic dTpw \t\r\n"
		"X-Empty:\r\n"
		"Accept-Encoding: deflate, gzip\r\n"
		"\r\n";
	struct http1_request req;

	(void)state;
	assert_int_equal(parse(text, &req), 1);
	assert_int_equal(req.method, HTTP1_POST);
	assert_view(req.method_name, "POST");
	assert_view(req.target, "/Microsoft-Server-ActiveSync?Cmd=Ping&User=D\\u");
	assert_view(req.path, "/Microsoft-Server-ActiveSync");
	assert_view(req.query, "Cmd=Ping&User=D\\u");
	assert_view(req.host, "mail.example.org:8443");
	assert_int_equal(req.minor, 1);
	assert_true(req.keep_alive);
	assert_true(req.has_length);
	assert_false(req.chunked);
	assert_int_equal(req.content_length, 13);
	assert_true(req.accepts_gzip);
	assert_false(req.gzip_body);
	assert_false(req.expect_continue);
	assert_int_equal(req.head_bytes, sizeof(text) - 1);
	assert_int_equal(req.header_count, 5);
	assert_view(http1_header(&req, "authorization"), "Basic dTpw");
	assert_view(http1_header(&req, "X-Empty"), "");
	assert_int_equal(http1_header(&req, "Cookie").n, 0);
	assert_null(http1_header(&req, "Cookie").p);
}

static void methods_are_told_apart_by_case_and_others_are_kept(void **state)
{
	static const struct {
		const char *name;
		enum http1_method method;
	} cases[] = {{"GET", HTTP1_GET}, {"HEAD", HTTP1_HEAD}, {"POST", HTTP1_POST},
		{"PUT", HTTP1_PUT}, {"OPTIONS", HTTP1_OPTIONS}, {"PROPFIND", HTTP1_OTHER},
		{"post", HTTP1_OTHER}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct http1_request req;
		char text[100];

		snprintf(text, sizeof(text), "%s / HTTP/1.1\r\nHost: a\r\n\r\n", cases[i].name);
		assert_int_equal(parse(text, &req), 1);
		assert_int_equal(req.method, cases[i].method);
		assert_view(req.method_name, cases[i].name);
	}
}

static void every_target_form_gives_path_and_query(void **state)
{
	static const struct {
		const char *line, *host, *path, *query;
	} cases[] = {
		{"GET / HTTP/1.1\r\nHost: a", "a", "/", ""},
		{"GET /a?b?c HTTP/1.1\r\nHost: a", "a", "/a", "b?c"},
		{"GET /a? HTTP/1.1\r\nHost: a", "a", "/a", ""},
		{"GET //a/..%2f HTTP/1.1\r\nHost: a", "a", "//a/..%2f", ""},
		{"OPTIONS * HTTP/1.1\r\nHost: a", "a", "*", ""},
		{"GET HTTPS://A.b/c?d HTTP/1.1\r\nHost: a.B", "a.B", "/c", "d"},
		{"GET http://a:80 HTTP/1.1\r\nHost: a:80", "a:80", "/", ""},
		{"GET http://a?q HTTP/1.1\r\nHost: a", "a", "/", "q"},
		{"GET http://a/ HTTP/1.0", "a", "/", ""},
		{"GET /?User=m\xc3\xbcller HTTP/1.1\r\nHost: a", "a", "/", "User=m\xc3\xbcller"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct http1_request req;
		char text[200];

		snprintf(text, sizeof(text), "%s\r\n\r\n", cases[i].line);
		assert_int_equal(parse(text, &req), 1);
		assert_view(req.host, cases[i].host);
		assert_view(req.path, cases[i].path);
		assert_view(req.query, cases[i].query);
	}
}

static void a_malformed_request_line_is_refused(void **state)
{
	(void)state;
	assert_refused(400, "GET\r\n");
	assert_refused(400, "GET /\r\n");
	assert_refused(400, " GET / HTTP/1.1\r\n");
	assert_refused(400, "GET  / HTTP/1.1\r\n");
	assert_refused(400, "GET /  HTTP/1.1\r\n");
	assert_refused(400, "GET / HTTP/1.1 \r\n");
	assert_refused(400, "GET\t/\tHTTP/1.1\r\n");
	assert_refused(400, "G(T / HTTP/1.1\r\n");
	assert_refused(400, "GET / http/1.1\r\n");
	assert_refused(400, "GET / HTTP/11\r\n");
	assert_refused(400, "GET / HTTP/1.1x\r\n");
	assert_refused(400, "GET / HTTP/a.1\r\n");
	assert_refused(400, "GET /a#b HTTP/1.1\r\n");
	assert_refused(400, "GET /?a#b HTTP/1.1\r\n");
	assert_refused(400, "GET /\x01 HTTP/1.1\r\n");
	assert_refused(400, "GET /?\x7f HTTP/1.1\r\n");
	assert_refused(400, "GET /\xc3\xbc HTTP/1.1\r\n");
	assert_refused(400, "GET a HTTP/1.1\r\n");
	assert_refused(400, "GET ftp://a/ HTTP/1.1\r\n");
	assert_refused(400, "GET http:/// HTTP/1.1\r\n");
	assert_refused(400, "GET http://u@a/ HTTP/1.1\r\n");
	assert_refused(400, "GET * HTTP/1.1\r\n");
	assert_refused(400, "CONNECT a:443 HTTP/1.1\r\n");
	assert_refused(400, "\x16\x03\x01\r\n");
}

static void another_version_is_refused_with_505(void **state)
{
	(void)state;
	assert_refused(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
	assert_refused(505, "GET / HTTP/1.2\r\n");
	assert_refused(505, "GET / HTTP/0.9\r\n");
}

static void one_empty_line_before_the_request_is_let_through(void **state)
{
	struct http1_request req;

	(void)state;
	assert_int_equal(parse("\r\n" GET(""), &req), 1);
	assert_int_equal(req.head_bytes, strlen("\r\n" GET("")));
	assert_int_equal(parse("\r\n", &req), 0);
	assert_refused(400, "\r\n\r\n" GET(""));
}

static void nul_and_controls_are_refused_everywhere(void **state)
{
	/* The second end is for damage to the first, which leaves the head unfinished. */
	static const char text[] = "GET /p?q HTTP/1.1\r\nHost: a\r\nX-Name: value\r\n\r\n\r\n\r\n";

	(void)state;
	for (size_t at = 0; at < sizeof(text) - 1 - 4; at++) {
		for (int c = 0; c < 0x20; c++) {
			struct http1_request req;
			char bad[sizeof(text)];

			memcpy(bad, text, sizeof(text));
			/* A tab is a blank, and blanks are good around a value. */
			if (bad[at] == c || c == '\t')
				continue;
			bad[at] = (char)c;
			assert_int_equal(parse_whole(bad, sizeof(text) - 1, &req), -400);
			assert_int_equal(parse_bytewise(bad, sizeof(text) - 1), -400);
		}
	}
}

static void bare_cr_and_bare_lf_are_refused(void **state)
{
	(void)state;
	assert_refused(400, "GET / HTTP/1.1\nHost: a\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a\r\n\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n");
	assert_refused(400, "\n");
}

static void a_malformed_header_line_is_refused(void **state)
{
	(void)state;
	assert_refused(400, GET("X : b\r\n"));
	assert_refused(400, GET("X\t: b\r\n"));
	assert_refused(400, GET("X: b\r\n folded\r\n"));
	assert_refused(400, GET("X: b\r\n\tfolded\r\n"));
	assert_refused(400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n");
	assert_refused(400, GET(": b\r\n"));
	assert_refused(400, GET("X\r\n"));
	assert_refused(400, GET("X Y: b\r\n"));
	assert_refused(400, GET("X(: b\r\n"));
	assert_refused(400, GET("\xc3\xbc: b\r\n"));
	assert_refused(400, GET("X: \x7f\r\n"));
	assert_accepted(GET("X: \xc3\xbc \"(),/:;<=>?@[\\]{}\r\n"));
}

/* To the table of character classes: RFC 9110 5.6.2 and 5.5, byte by byte. */
static void names_and_values_take_exactly_the_characters_of_the_standard(void **state)
{
	static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
	char name[] = "GET / HTTP/1.1\r\nHost: a\r\nX?Y: b\r\n\r\n";
	char value[] = "GET / HTTP/1.1\r\nHost: a\r\nX: a?b\r\n\r\n";
	char target[] = "GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n";

	(void)state;
	for (int c = 1; c < 256; c++) {
		struct http1_request req;
		bool in_value = c == '\t' || (c >= 0x20 && c != 0x7f);
		bool in_path = c > 0x20 && c < 0x7f && c != '#';

		*strchr(name, '?') = (char)c;
		assert_int_equal(parse_whole(name, sizeof(name) - 1, &req),
			strchr(token, c) || c == ':' ? 1 : -400);
		*strstr(value, "?b") = (char)c;
		assert_int_equal(parse_whole(value, sizeof(value) - 1, &req), in_value ? 1 : -400);
		target[6] = (char)c;
		assert_int_equal(parse_whole(target, sizeof(target) - 1, &req), in_path ? 1 : -400);
		strcpy(name, "GET / HTTP/1.1\r\nHost: a\r\nX?Y: b\r\n\r\n");
		strcpy(value, "GET / HTTP/1.1\r\nHost: a\r\nX: a?b\r\n\r\n");
	}
}

static void host_must_be_there_once_and_be_a_host(void **state)
{
	(void)state;
	assert_refused(400, "GET / HTTP/1.1\r\n\r\n");
	assert_refused(400, GET("Host: a\r\n"));
	assert_refused(400, GET("host: b\r\n"));
	assert_refused(400, "GET / HTTP/1.1\r\nHost:\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: []\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n");
	assert_refused(400, "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n");
	assert_refused(400, "GET http://a/ HTTP/1.1\r\n\r\n");
	assert_accepted("GET / HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n");
	assert_accepted("GET / HTTP/1.1\r\nHost: 192.0.2.1:\r\n\r\n");
	assert_accepted("GET / HTTP/1.0\r\n\r\n");
	assert_refused(400, "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n");
}

/* To whoever stands before us: no request hides behind a length we read differently. */
static void ambiguous_lengths_are_refused(void **state)
{
	(void)state;
	assert_refused(400, POST("Content-Length: 5\r\nContent-Length: 5\r\n"));
	assert_refused(400, POST("Content-Length: 5\r\nContent-Length: 6\r\n"));
	assert_refused(400, POST("Content-Length: 5, 5\r\n"));
	assert_refused(400, POST("Content-Length: +5\r\n"));
	assert_refused(400, POST("Content-Length: -5\r\n"));
	assert_refused(400, POST("Content-Length: 0x5\r\n"));
	assert_refused(400, POST("Content-Length: 5 5\r\n"));
	assert_refused(400, POST("Content-Length:\r\n"));
	assert_refused(400, POST("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"));
	assert_refused(400, POST("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"));
	assert_refused(400, POST("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"));
	assert_refused(501, POST("Transfer-Encoding: chunked, chunked\r\n"));
	assert_refused(501, POST("Transfer-Encoding: gzip, chunked\r\n"));
	assert_refused(501, POST("Transfer-Encoding: identity\r\n"));
	assert_refused(501, POST("Transfer-Encoding: xchunked\r\n"));
	assert_refused(501, POST("Transfer-Encoding:\r\n"));
	assert_refused(400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
	assert_refused(400, POST("Transfer-Encoding : chunked\r\n"));
	assert_refused(400, POST("Content-Length : 5\r\n"));
	assert_accepted(POST("transfer-encoding: CHUNKED\r\n"));
	assert_accepted(POST("Content-Length: 0005\r\n"));
}

static void content_length_is_64_bit_and_bounded_by_the_limit(void **state)
{
	struct http1_limits wide = limits;
	static const char two_gb[] = POST("Content-Length: 2147483648\r\n");
	static const char four_gb[] = POST("Content-Length: 4294967301\r\n");
	static const char most[] = POST("Content-Length: 18446744073709551615\r\n");
	struct http1_request req;
	size_t scanned = 0;

	(void)state;
	assert_refused(413, two_gb);
	assert_refused(413, four_gb);
	assert_refused(413, POST("Content-Length: 1048577\r\n"));
	assert_accepted(POST("Content-Length: 1048576\r\n"));
	assert_refused(413, POST("Content-Length: 18446744073709551616\r\n"));
	assert_refused(413, POST("Content-Length: 99999999999999999999999999\r\n"));
	wide.body_bytes_max = UINT64_MAX;
	assert_int_equal(http1_parse((const uint8_t *)two_gb, sizeof(two_gb) - 1, &wide, &scanned,
				 &req, &why),
		1);
	assert_int_equal(req.content_length, 2147483648u);
	assert_int_equal(http1_parse((const uint8_t *)four_gb, sizeof(four_gb) - 1, &wide, &scanned,
				 &req, &why),
		1);
	assert_int_equal(req.content_length, 4294967301u);
	assert_int_equal(
		http1_parse((const uint8_t *)most, sizeof(most) - 1, &wide, &scanned, &req, &why),
		1);
	assert_true(req.content_length == UINT64_MAX);
}

static void connection_headers_decide_over_keep_alive(void **state)
{
	static const struct {
		const char *head;
		bool keep_alive;
	} cases[] = {
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close ,y\r\n\r\n", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
			false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", true},
		{"GET / HTTP/1.0\r\n\r\n", false},
		{"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
		{"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct http1_request req;

		assert_int_equal(parse(cases[i].head, &req), 1);
		assert_int_equal(req.keep_alive, cases[i].keep_alive);
	}
}

static void gzip_is_accepted_only_where_it_is_named_and_not_refused(void **state)
{
	static const struct {
		const char *value;
		bool accepts;
	} cases[] = {{"gzip", true}, {"x-gzip", true}, {"deflate, GZIP;q=0.5", true},
		{"gzip ; q=1.000", true}, {"gzip;q=0.001", true}, {"gzip;q=0", false},
		{"gzip;q=0.000", false}, {"gzip; Q=0.", false}, {"gzip;q=2", false},
		{"gzip;q=x", false}, {"gzip;q=", false}, {"gzip;q=0.0001", false},
		{"deflate", false}, {"*", false}, {"gzipx", false}, {"", false},
		{"gzip, gzip;q=0", false}, {",,;,gzip", true}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct http1_request req;
		char text[200];

		snprintf(text, sizeof(text),
			"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %s\r\n\r\n", cases[i].value);
		assert_int_equal(parse(text, &req), 1);
		if (req.accepts_gzip != cases[i].accepts)
			fail_msg("%s", cases[i].value);
	}
}

static void codings_and_expectations_we_do_not_know_are_refused(void **state)
{
	struct http1_request req;

	(void)state;
	assert_int_equal(parse(POST("Content-Encoding: GZIP\r\n"), &req), 1);
	assert_true(req.gzip_body);
	assert_int_equal(parse(POST("Content-Encoding: identity\r\n"), &req), 1);
	assert_false(req.gzip_body);
	assert_refused(415, POST("Content-Encoding: br\r\n"));
	assert_refused(415, POST("Content-Encoding: gzip, gzip\r\n"));
	assert_refused(415, POST("Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n"));
	assert_refused(415, POST("Content-Encoding:\r\n"));
	assert_int_equal(parse(POST("Expect: 100-Continue\r\n"), &req), 1);
	assert_true(req.expect_continue);
	assert_int_equal(parse("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", &req), 1);
	assert_false(req.expect_continue);
	assert_refused(417, POST("Expect: 200-ok\r\n"));
}

static void two_authorizations_are_refused(void **state)
{
	(void)state;
	assert_refused(400, GET("Authorization: Basic YTpi\r\nAuthorization: Basic YTpi\r\n"));
}

/* Pads a head to exactly `head` bytes with one header. */
static void fill_head(char *text, size_t head)
{
	static const char start[] = "GET / HTTP/1.1\r\nHost: a\r\nX: ";

	memset(text, 'x', head);
	memcpy(text, start, sizeof(start) - 1);
	memcpy(text + head - 4, "\r\n\r\n", 4);
}

static void heads_up_to_the_limit_pass_and_beyond_are_431(void **state)
{
	struct http1_request req;
	char text[8192];

	(void)state;
	fill_head(text, limits.head_bytes_max);
	assert_int_equal(parse_whole(text, limits.head_bytes_max, &req), 1);
	assert_int_equal(parse_bytewise(text, limits.head_bytes_max), 1);
	fill_head(text, limits.head_bytes_max + 1);
	assert_int_equal(parse_whole(text, limits.head_bytes_max + 1, &req), -431);
	assert_int_equal(parse_bytewise(text, limits.head_bytes_max + 1), -431);
	/* Unfinished heads are not waited for either. */
	assert_int_equal(parse_whole(text, limits.head_bytes_max, &req), 0);
	memset(text + 30, 'x', sizeof(text) - 30);
	assert_int_equal(parse_whole(text, limits.head_bytes_max + 1, &req), -431);
}

static void targets_up_to_the_limit_pass_and_beyond_are_414(void **state)
{
	struct http1_request req;
	char target[4200], text[8192];

	(void)state;
	memset(target, '/', sizeof(target));
	snprintf(text, sizeof(text), "GET %.1024s HTTP/1.1\r\nHost: a\r\n\r\n", target);
	assert_int_equal(parse(text, &req), 1);
	assert_int_equal(req.target.n, 1024);
	snprintf(text, sizeof(text), "GET %.1025s HTTP/1.1\r\nHost: a\r\n\r\n", target);
	assert_int_equal(parse(text, &req), -414);
	snprintf(text, sizeof(text), "GET %.1500s HTTP/1.1\r\nHost: a\r\n\r\n", target);
	assert_int_equal(parse(text, &req), -414);
	snprintf(text, sizeof(text), "GET %.4200s", target);
	assert_int_equal(parse(text, &req), -414);
	snprintf(text, sizeof(text), "\r\nGET %.1024s HTTP/1.1\r\nHost: a\r\n\r\n", target);
	assert_int_equal(parse(text, &req), 1);
}

static void a_request_line_longer_than_the_head_may_be_is_414(void **state)
{
	const struct http1_limits tight = {.head_bytes_max = 100, .target_bytes_max = 1000};
	struct http1_request req;
	size_t scanned = 0;
	uint8_t text[101];

	(void)state;
	memset(text, 'x', sizeof(text));
	assert_int_equal(http1_parse(text, 100, &tight, &scanned, &req, &why), 0);
	assert_int_equal(http1_parse(text, 101, &tight, &scanned, &req, &why), -414);
}

static void too_many_headers_are_431(void **state)
{
	struct http1_request req;
	char text[2048];
	int n;

	(void)state;
	n = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\n");
	for (int i = 1; i < HTTP1_HEADERS_MAX; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "X: %d\r\n", i);
	strcpy(text + n, "\r\n");
	assert_int_equal(parse(text, &req), 1);
	assert_int_equal(req.header_count, HTTP1_HEADERS_MAX);
	assert_view(http1_header(&req, "x"), "1");
	strcpy(text + n, "Y: z\r\n\r\n");
	assert_int_equal(parse(text, &req), -431);
}

static void every_prefix_needs_more(void **state)
{
	static const char text[] = GET("A: b\r\n");
	struct http1_request req;

	(void)state;
	for (size_t n = 0; n < sizeof(text) - 1; n++)
		assert_int_equal(parse_whole(text, n, &req), 0);
	assert_int_equal(parse_whole(text, sizeof(text) - 1, &req), 1);
}

/* Credentials */

static bool basic(const char *authorization, size_t cap, const char *user, const char *pass)
{
	char *dst = malloc(cap ? cap : 1), *u, *p;
	bool ok;

	assert_non_null(dst);
	memset(dst, 0x55, cap);
	ok = http1_basic(bytes_str(authorization), dst, cap, &u, &p);
	if (ok) {
		assert_string_equal(u, user);
		assert_string_equal(p, pass);
	} else {
		for (size_t i = 0; i < cap; i++)
			assert_int_equal(dst[i], 0);
	}
	free(dst);
	return ok;
}

static void basic_credentials_split_at_the_first_colon(void **state)
{
	(void)state;
	assert_true(basic("Basic dTpw", 100, "u", "p"));
	assert_true(basic("bASIC   dTpw", 100, "u", "p"));
	assert_true(basic("Basic dTpwOnA6cA==", 100, "u", "p:p:p"));
	assert_true(basic("Basic dTpwOnA6cA", 100, "u", "p:p:p"));
	assert_true(basic("Basic RE9NXHU6cA==", 100, "DOM\\u", "p"));
	assert_true(basic("Basic dTrDvMOf", 100, "u", "\xc3\xbc\xc3\x9f"));
	assert_true(basic("Basic Og==", 100, "", ""));
	assert_true(basic("Basic OnA=", 100, "", "p"));
	assert_true(basic("Basic dTo=", 100, "u", ""));
}

static void other_credentials_are_refused_and_leave_nothing_behind(void **state)
{
	(void)state;
	assert_false(basic("", 100, NULL, NULL));
	assert_false(basic("Basic", 100, NULL, NULL));
	assert_false(basic("Basic ", 100, NULL, NULL));
	assert_false(basic("BasicdTpw", 100, NULL, NULL));
	assert_false(basic("Bearer dTpw", 100, NULL, NULL));
	assert_false(basic("Basic\tdTpw", 100, NULL, NULL));
	assert_false(basic("Basic dTp", 100, NULL, NULL));
	assert_false(basic("Basic dTp!", 100, NULL, NULL));
	assert_false(basic("Basic dTpw dTpw", 100, NULL, NULL));
	assert_false(basic("Basic dXA=", 100, NULL, NULL));     /* no colon */
	assert_false(basic("Basic dQA6cA==", 100, NULL, NULL)); /* NUL */
	assert_false(basic("Basic dTpwDQo=", 100, NULL, NULL)); /* CR LF */
}

static void basic_credentials_need_room_for_both_nuls(void **state)
{
	(void)state;
	assert_true(basic("Basic dTpw", 4, "u", "p"));
	assert_false(basic("Basic dTpw", 3, NULL, NULL));
	assert_false(basic("Basic dTpw", 0, NULL, NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_activesync_request_is_taken_apart),
		cmocka_unit_test(methods_are_told_apart_by_case_and_others_are_kept),
		cmocka_unit_test(every_target_form_gives_path_and_query),
		cmocka_unit_test(a_malformed_request_line_is_refused),
		cmocka_unit_test(another_version_is_refused_with_505),
		cmocka_unit_test(one_empty_line_before_the_request_is_let_through),
		cmocka_unit_test(nul_and_controls_are_refused_everywhere),
		cmocka_unit_test(bare_cr_and_bare_lf_are_refused),
		cmocka_unit_test(a_malformed_header_line_is_refused),
		cmocka_unit_test(names_and_values_take_exactly_the_characters_of_the_standard),
		cmocka_unit_test(host_must_be_there_once_and_be_a_host),
		cmocka_unit_test(ambiguous_lengths_are_refused),
		cmocka_unit_test(content_length_is_64_bit_and_bounded_by_the_limit),
		cmocka_unit_test(connection_headers_decide_over_keep_alive),
		cmocka_unit_test(gzip_is_accepted_only_where_it_is_named_and_not_refused),
		cmocka_unit_test(codings_and_expectations_we_do_not_know_are_refused),
		cmocka_unit_test(two_authorizations_are_refused),
		cmocka_unit_test(heads_up_to_the_limit_pass_and_beyond_are_431),
		cmocka_unit_test(targets_up_to_the_limit_pass_and_beyond_are_414),
		cmocka_unit_test(a_request_line_longer_than_the_head_may_be_is_414),
		cmocka_unit_test(too_many_headers_are_431),
		cmocka_unit_test(every_prefix_needs_more),
		cmocka_unit_test(basic_credentials_split_at_the_first_colon),
		cmocka_unit_test(other_credentials_are_refused_and_leave_nothing_behind),
		cmocka_unit_test(basic_credentials_need_room_for_both_nuls),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("http1", tests, NULL, NULL);
}
