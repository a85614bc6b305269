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

/* Bodies */

struct body_run {
	int rc;
	size_t consumed;
	struct buf out;
};

static struct body_run run_body(
	const struct http1_request *req, uint64_t max, const char *p, size_t n, size_t step)
{
	struct body_run r = {0};
	struct http1_body b;
	size_t used;

	http1_body_start(&b, req, max);
	r.rc = http1_body_feed(&b, NULL, 0, &used, &r.out, &why);
	assert_int_equal(used, 0);
	while (r.rc == 0 && r.consumed < n) {
		size_t k = n - r.consumed < step ? n - r.consumed : step;

		r.rc = http1_body_feed(&b, (const uint8_t *)p + r.consumed, k, &used, &r.out, &why);
		assert_true(used <= k);
		r.consumed += used;
		if (r.rc == 0)
			assert_int_equal(used, k);
	}
	if (r.rc < 0) {
		/* A refusal is for good. */
		assert_int_equal(
			http1_body_feed(&b, (const uint8_t *)"0\r\n\r\n", 5, &used, NULL, &why),
			r.rc);
		assert_int_equal(used, 0);
	}
	return r;
}

/* Feeds whole, by one, by two and by three bytes; all must agree. */
static void assert_body(const struct http1_request *req, uint64_t max, const char *wire, int rc,
	const char *body, size_t left)
{
	size_t n = strlen(wire);

	for (size_t step = 0; step <= 3; step++) {
		struct body_run r = run_body(req, max, wire, n, step ? step : n + 1);

		if (r.rc != rc)
			fail_msg("\"%s\" by %zu: %d (%s)", wire, step, r.rc, why);
		if (rc == 1) {
			assert_view(buf_bytes(&r.out), body);
			assert_int_equal(r.consumed, n - left);
		}
		buf_free(&r.out);
	}
}

static void assert_chunked(const char *wire, int rc, const char *body, size_t left)
{
	const struct http1_request req = {.chunked = true};

	assert_body(&req, 1000, wire, rc, body, left);
}

static void counted_bodies_end_where_they_say(void **state)
{
	struct http1_request req = {.has_length = true, .content_length = 5};

	(void)state;
	assert_body(&req, 5, "hello", 1, "hello", 0);
	assert_body(&req, 5, "helloGET / HTTP/1.1\r\n", 1, "hello", 16);
	assert_body(&req, 5, "hell", 0, NULL, 0);
	assert_body(&req, 4, "hello", -413, NULL, 0);
	req.content_length = 0;
	assert_body(&req, 0, "GET", 1, "", 3);
	req.has_length = false;
	assert_body(&req, 0, "GET", 1, "", 3);
}

/* To the machine: a promise of 2 GB costs nothing before the bytes come. */
static void a_2_gb_body_is_counted_without_memory(void **state)
{
	static uint8_t piece[1 << 20];
	const struct http1_request req = {.has_length = true, .content_length = 2147483648u};
	struct http1_body b;
	struct buf out = {0};
	uint64_t sum = 0;
	size_t used;
	int rc;

	(void)state;
	http1_body_start(&b, &req, 4294967296u);
	assert_int_equal(http1_body_feed(&b, piece, 10, &used, &out, &why), 0);
	assert_true(out.cap < 4096);
	buf_free(&out);
	sum = used;
	do {
		rc = http1_body_feed(&b, piece, sizeof(piece), &used, NULL, &why);
		sum += used;
	} while (rc == 0);
	assert_int_equal(rc, 1);
	assert_int_equal(sum, 2147483648u);
	assert_int_equal(b.total, 2147483648u);
	http1_body_start(&b, &req, 2147483647u);
	assert_int_equal(http1_body_feed(&b, piece, 10, &used, NULL, &why), -413);
	assert_int_equal(used, 0);
}

static void chunked_bodies_are_put_together(void **state)
{
	(void)state;
	assert_chunked("0\r\n\r\n", 1, "", 0);
	assert_chunked("5\r\nhello\r\n0\r\n\r\n", 1, "hello", 0);
	assert_chunked("1\r\nh\r\n004\r\nello\r\n000\r\n\r\nGET", 1, "hello", 3);
	assert_chunked("a\r\n0\r\n\r\n56789\r\n0\r\n\r\n", 1, "0\r\n\r\n56789", 0);
	assert_chunked("A\r\n0123456789\r\n0\r\n\r\n", 1, "0123456789", 0);
	assert_chunked("5\r\nhello\r\n0\r\n", 0, NULL, 0);
	assert_chunked("5\r\nhello\r\n", 0, NULL, 0);
	assert_chunked("5", 0, NULL, 0);
}

static void chunk_extensions_are_skipped(void **state)
{
	(void)state;
	assert_chunked("5;a=b;c=\"d; \te\"\r\nhello\r\n0;x\r\n\r\n", 1, "hello", 0);
	assert_chunked("5;\r\nhello\r\n0;\r\n\r\n", 1, "hello", 0);
	assert_chunked("5;a\nhello\r\n0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5;a\rb\r\nhello\r\n0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5;\x01\r\nhello\r\n0\r\n\r\n", -400, NULL, 0);
}

static void malformed_chunks_are_refused(void **state)
{
	(void)state;
	assert_chunked("\r\n", -400, NULL, 0);
	assert_chunked(";a\r\n", -400, NULL, 0);
	assert_chunked("g\r\n", -400, NULL, 0);
	assert_chunked("0x5\r\nhello\r\n", -400, NULL, 0);
	assert_chunked("+5\r\nhello\r\n", -400, NULL, 0);
	assert_chunked("-1\r\nhello\r\n", -400, NULL, 0);
	assert_chunked(" 5\r\nhello\r\n", -400, NULL, 0);
	assert_chunked("5 \r\nhello\r\n", -400, NULL, 0);
	assert_chunked("5\nhello\r\n", -400, NULL, 0);
	assert_chunked("5\r\rhello\r\n", -400, NULL, 0);
	assert_chunked("5\r\nhello0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5\r\nhello\n0\r\n\r\n", -400, NULL, 0);
	assert_chunked("5\r\nhello\r0\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\n\n", -400, NULL, 0);
	assert_chunked("0\r\n\rx", -400, NULL, 0);
}

static void chunks_beyond_the_limit_are_413(void **state)
{
	const struct http1_request req = {.chunked = true};

	(void)state;
	assert_body(&req, 5, "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 1, "hello", 0);
	assert_body(&req, 5, "3\r\nhel\r\n3\r\nlo!\r\n0\r\n\r\n", -413, NULL, 0);
	assert_body(&req, 5, "6\r\n", -413, NULL, 0);
	assert_body(&req, UINT64_MAX, "1\r\nx\r\nffffffffffffffff\r\n", -413, NULL, 0);
	assert_body(&req, UINT64_MAX, "10000000000000000\r\n", -413, NULL, 0);
	assert_body(&req, UINT64_MAX, "ffffffffffffffff\r\nxyz", 0, NULL, 0);
}

static void trailers_are_checked_and_dropped(void **state)
{
	(void)state;
	assert_chunked("1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\nGET", 1, "x", 3);
	assert_chunked("0\r\nContent-Length: 5\r\nHost: evil\r\n\r\nhello", 1, "", 5);
	assert_chunked("0\r\n folded\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA : b\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\n: b\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA: \x01\r\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA: b\n\r\n", -400, NULL, 0);
	assert_chunked("0\r\nA: b\rC: d\r\n\r\n", -400, NULL, 0);
}

/* To the machine: framing cannot cost much more than the body it frames. */
static void endless_framing_is_refused(void **state)
{
	const struct http1_request req = {.chunked = true};
	struct buf wire = {0};
	struct body_run r;

	(void)state;
	buf_add_str(&wire, "1;");
	for (int i = 0; i < HTTP1_CHUNK_EXCESS_BYTES_MAX; i++)
		buf_add_byte(&wire, 'x');
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, -400);
	wire.n = 0;
	for (int i = 0; i < 1000; i++)
		buf_add_str(&wire, "1;0123456789012345678901234567890123456789\r\nx\r\n");
	buf_free(&r.out);
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, -400);
	/* Small chunks with none of it are ordinary, in any number. */
	wire.n = 0;
	for (int i = 0; i < 10000; i++)
		buf_add_str(&wire, "1\r\nx\r\n");
	buf_add_str(&wire, "0\r\n\r\n");
	buf_free(&r.out);
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, 1);
	assert_int_equal(r.out.n, 10000);
	wire.n = 0;
	buf_add_str(&wire, "0\r\n");
	for (int i = 0; i < 1000; i++)
		buf_add_str(&wire, "Abc: defgh\r\n");
	buf_free(&r.out);
	r = run_body(&req, 1 << 20, (char *)wire.p, wire.n, 1000);
	assert_int_equal(r.rc, -431);
	buf_free(&r.out);
	buf_free(&wire);
}

static void a_body_without_memory_is_503(void **state)
{
	const struct http1_request req = {.has_length = true, .content_length = 5};
	struct buf out = {.failed = true};
	struct http1_body b;
	size_t used;

	(void)state;
	http1_body_start(&b, &req, 5);
	assert_int_equal(http1_body_feed(&b, (const uint8_t *)"hello", 5, &used, &out, &why), -503);
}

/* To clients that do not wait: what follows a body is the next request, byte for byte. */
static void pipelined_requests_come_apart_in_order(void **state)
{
	static const char wire[] =
		"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET"
		"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		"3\r\nabc\r\n0\r\nT: u\r\n\r\n"
		"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"
		"\r\nGET /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
	static const char *const paths[] = {"/1", "/2", "/3", "/4"};
	static const char *const bodies[] = {"GET", "abc", "", ""};
	const uint8_t *p = (const uint8_t *)wire;
	size_t n = sizeof(wire) - 1, scanned = 0;

	(void)state;
	for (int i = 0; i < 4; i++) {
		struct http1_request req;
		struct http1_body b;
		struct buf out = {0};
		size_t used;

		assert_int_equal(http1_parse(p, n, &limits, &scanned, &req, &why), 1);
		assert_view(req.path, paths[i]);
		assert_int_equal(req.keep_alive, i < 3);
		p += req.head_bytes;
		n -= req.head_bytes;
		http1_body_start(&b, &req, 100);
		assert_int_equal(http1_body_feed(&b, p, n, &used, &out, &why), 1);
		assert_view(buf_bytes(&out), bodies[i]);
		p += used;
		n -= used;
		buf_free(&out);
	}
	assert_int_equal(n, 0);
}

/* Responses */

static void response_heads_are_written_exactly(void **state)
{
	const struct http1_head full = {.content_type = "application/vnd.ms-sync.wbxml",
		.content_length = UINT64_MAX,
		.keep_alive = true,
		.say_keep_alive = true,
		.gzip = true,
		.request_id = "0a1b",
		.extra = "MS-Server-ActiveSync: 14.3\r\nX-MS-RP: 2.5\r\n"};
	static const char full_text[] = "HTTP/1.1 200 OK\r\n"
					"Content-Length: 18446744073709551615\r\n"
					"Content-Type: application/vnd.ms-sync.wbxml\r\n"
					"Content-Encoding: gzip\r\n"
					"Cache-Control: private\r\n"
					"X-Request-Id: 0a1b\r\n"
					"Connection: keep-alive\r\n"
					"MS-Server-ActiveSync: 14.3\r\n"
					"X-MS-RP: 2.5\r\n"
					"\r\n";
	const struct http1_head least = {.keep_alive = true}, closing = {.say_keep_alive = true};
	char dst[1024];

	(void)state;
	assert_view(bytes_of(dst, http1_head(dst, sizeof(dst), 200, &full)), full_text);
	assert_view(bytes_of(dst, http1_head(dst, sizeof(dst), 503, &least)),
		"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n"
		"Cache-Control: private\r\n\r\n");
	assert_view(bytes_of(dst, http1_head(dst, sizeof(dst), 400, &closing)),
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nCache-Control: private\r\n"
		"Connection: close\r\n\r\n");
	for (size_t cap = 0; cap < sizeof(full_text) - 1; cap++) {
		char *tight = malloc(cap ? cap : 1);

		assert_non_null(tight);
		assert_int_equal(http1_head(tight, cap, 200, &full), 0);
		free(tight);
	}
	assert_int_equal(http1_head(dst, sizeof(full_text) - 1, 200, &full), sizeof(full_text) - 1);
}

static void statuses_have_their_reasons(void **state)
{
	(void)state;
	assert_string_equal(http1_reason(200), "OK");
	assert_string_equal(http1_reason(449), "Retry after sending a PROVISION command");
	assert_string_equal(http1_reason(777), "Unknown");
}

/* Decoders */

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

static int b64(const char *text, size_t cap)
{
	uint8_t dst[64];

	return base64_decode(bytes_str(text), dst, cap);
}

static void base64_takes_padding_whole_or_not_at_all(void **state)
{
	uint8_t dst[8];
	char in_place[] = "Zm9vYmFy";

	(void)state;
	assert_int_equal(b64("", 0), 0);
	assert_int_equal(b64("Zg==", 64), 1);
	assert_int_equal(b64("Zg", 64), 1);
	assert_int_equal(b64("Zm8=", 64), 2);
	assert_int_equal(b64("Zm8", 64), 2);
	assert_int_equal(b64("Zm9v", 3), 3);
	assert_int_equal(b64("Zm9v", 2), -1);
	assert_int_equal(b64("Zg=", 64), -1);
	assert_int_equal(b64("Z", 64), -1);
	assert_int_equal(b64("Z===", 64), -1);
	assert_int_equal(b64("====", 64), -1);
	assert_int_equal(b64("=", 64), -1);
	assert_int_equal(b64("Zg==Zg==", 64), -1);
	assert_int_equal(b64("Zm9v=", 64), -1);
	assert_int_equal(b64("Zh==", 64), -1); /* bits behind the byte */
	assert_int_equal(b64("-_-_", 64), -1);
	assert_int_equal(b64("Zm9\n", 64), -1);
	assert_int_equal(b64("Zm 9", 64), -1);
	assert_int_equal(base64_decode(bytes_str("+/+/"), dst, sizeof(dst)), 3);
	assert_memory_equal(dst, "\xfb\xff\xbf", 3);
	assert_int_equal(base64_decode(bytes_str(in_place), (uint8_t *)in_place, 8), 6);
	assert_memory_equal(in_place, "foobar", 6);
}

static void percent_decoding_refuses_what_is_no_escape(void **state)
{
	char dst[16], in_place[] = "a%2Bb%25";

	(void)state;
	assert_int_equal(percent_decode(bytes_str("a%20b+c"), false, dst, sizeof(dst)), 7 - 2);
	assert_memory_equal(dst, "a b+c", 5);
	assert_int_equal(percent_decode(bytes_str("a+%2b"), true, dst, sizeof(dst)), 3);
	assert_memory_equal(dst, "a +", 3);
	assert_int_equal(percent_decode(bytes_str("%c3%BC"), false, dst, 2), 2);
	assert_memory_equal(dst, "\xc3\xbc", 2);
	assert_int_equal(percent_decode(bytes_str(""), false, dst, 0), 0);
	assert_int_equal(percent_decode(bytes_str("ab"), false, dst, 1), -1);
	assert_int_equal(percent_decode(bytes_str("%"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("%2"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("%2g"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("%+1"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str("a%00"), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_of("a\0", 2), false, dst, sizeof(dst)), -1);
	assert_int_equal(percent_decode(bytes_str(in_place), false, in_place, 8), 4);
	assert_memory_equal(in_place, "a+b%", 4);
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
		cmocka_unit_test(counted_bodies_end_where_they_say),
		cmocka_unit_test(a_2_gb_body_is_counted_without_memory),
		cmocka_unit_test(chunked_bodies_are_put_together),
		cmocka_unit_test(chunk_extensions_are_skipped),
		cmocka_unit_test(malformed_chunks_are_refused),
		cmocka_unit_test(chunks_beyond_the_limit_are_413),
		cmocka_unit_test(trailers_are_checked_and_dropped),
		cmocka_unit_test(endless_framing_is_refused),
		cmocka_unit_test(a_body_without_memory_is_503),
		cmocka_unit_test(pipelined_requests_come_apart_in_order),
		cmocka_unit_test(response_heads_are_written_exactly),
		cmocka_unit_test(statuses_have_their_reasons),
		cmocka_unit_test(basic_credentials_split_at_the_first_colon),
		cmocka_unit_test(other_credentials_are_refused_and_leave_nothing_behind),
		cmocka_unit_test(basic_credentials_need_room_for_both_nuls),
		cmocka_unit_test(base64_takes_padding_whole_or_not_at_all),
		cmocka_unit_test(percent_decoding_refuses_what_is_no_escape),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
