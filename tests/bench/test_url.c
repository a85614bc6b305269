/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Servers are named as people name them; what is no name of one is refused before anything starts. */
#include "bench/fleet/url.h"
#include "core/base/check.h"

#include <netinet/in.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { ANY = URL_HTTPS | URL_HTTP | URL_IMAPS | URL_IMAP | URL_LMTP | URL_SMTP };

static void urls_come_apart(void **state)
{
	char why[URL_WHY_BYTES], host[300];
	struct url u;

	(void)state;
	assert_true(url_parse("https://127.0.0.1:8443/x/y", ANY, &u, why, sizeof(why)));
	assert_int_equal(u.scheme, URL_HTTPS);
	assert_true(u.tls);
	assert_string_equal(u.host, "127.0.0.1");
	assert_string_equal(u.port, "8443");
	assert_string_equal(u.path, "/x/y");
	assert_int_equal(u.to.ss_family, AF_INET);
	assert_int_equal(ntohs(((struct sockaddr_in *)&u.to)->sin_port), 8443);
	assert_int_equal(u.to_bytes, sizeof(struct sockaddr_in));
	url_host_header(&u, host, sizeof(host));
	assert_string_equal(host, "127.0.0.1:8443");
	assert_true(url_parse("http://[::1]:80", ANY, &u, why, sizeof(why)));
	assert_false(u.tls);
	assert_string_equal(u.path, "");
	assert_int_equal(u.to.ss_family, AF_INET6);
	assert_int_equal(u.to_bytes, sizeof(struct sockaddr_in6));
	url_host_header(&u, host, sizeof(host));
	assert_string_equal(host, "[::1]:80");
}

static void each_scheme_has_its_port(void **state)
{
	static const struct {
		const char *text, *port;
		enum url_scheme scheme;
		bool tls;
	} cases[] = {{"https://127.0.0.1", "443", URL_HTTPS, true},
		{"HTTP://127.0.0.1/", "80", URL_HTTP, false},
		{"imaps://127.0.0.1", "993", URL_IMAPS, true},
		{"IMAP://127.0.0.1", "143", URL_IMAP, false},
		{"lmtp://127.0.0.1", "24", URL_LMTP, false},
		{"smtp://127.0.0.1", "25", URL_SMTP, false}};
	char why[URL_WHY_BYTES];
	struct url u;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_true(url_parse(cases[i].text, ANY, &u, why, sizeof(why)));
		assert_int_equal(u.scheme, cases[i].scheme);
		assert_string_equal(u.port, cases[i].port);
		assert_int_equal(u.tls, cases[i].tls);
		/* Only where it is asked for. */
		assert_false(url_parse(
			cases[i].text, ANY & ~(unsigned)cases[i].scheme, &u, why, sizeof(why)));
	}
	assert_false(url_parse("ftp://127.0.0.1", URL_HTTP | URL_IMAP, &u, why, sizeof(why)));
	assert_string_equal(why, "'ftp://127.0.0.1' does not begin with http:// or imap://");
}

static void what_is_no_url_is_refused(void **state)
{
	static const char *const bad[] = {"", "127.0.0.1:1", "https:/127.0.0.1", "https://",
		"https://:1", "https://127.0.0.1:", "https://127.0.0.1:x", "https://127.0.0.1:1x/",
		"https://127.0.0.1:0", "https://127.0.0.1:65536", "https://[::1", "https://[]",
		"https://[::1]x", "https:///path", "https://127.0.0.1:1234567890123456"};
	char why[URL_WHY_BYTES], longest[700] = "https://127.0.0.1/";
	struct url u, before;

	(void)state;
	memset(&u, 0x5a, sizeof(u));
	before = u;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		why[0] = 0;
		if (url_parse(bad[i], ANY, &u, why, sizeof(why)))
			fail_msg("accepted: %s", bad[i]);
		assert_true(why[0] != 0);
	}
	/* Not cut to what fits. */
	memset(longest + strlen(longest), 'x', sizeof(u.path) - 1);
	assert_false(url_parse(longest, ANY, &u, why, sizeof(why)));
	assert_memory_equal(&u, &before, sizeof(u));
	longest[strlen(longest) - 1] = 0;
	assert_true(url_parse(longest, ANY, &u, why, sizeof(why)));
	assert_int_equal(strlen(u.path), sizeof(u.path) - 1);
	memset(longest + 8, 'x', sizeof(longest) - 9);
	assert_false(url_parse(longest, ANY, &u, why, sizeof(why)));
	/* A reason always fits, and a smaller room is not left. */
	assert_false(url_parse(longest + 1, ANY, &u, why, sizeof(why)));
	assert_false(url_parse(longest + 1, ANY, &u, why, 8));
	assert_int_equal(strlen(why), 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(urls_come_apart),
		cmocka_unit_test(each_scheme_has_its_port),
		cmocka_unit_test(what_is_no_url_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
