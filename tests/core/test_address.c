/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/address.h"
#include "core/base/check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <cmocka.h>

static bool parse(const char *text, unsigned kinds, char *back)
{
	struct sockaddr_storage a;
	socklen_t n;
	char why[200] = "";

	if (!address_parse(text, kinds, &a, &n, why, sizeof(why))) {
		assert_true(why[0] != 0);
		assert_null(strchr(why, '\n'));
		return false;
	}
	address_format((struct sockaddr *)&a, n, back);
	return true;
}

/* To the administrator: what he wrote is what the log shows. */
static void what_is_accepted_comes_back(void **state)
{
	static const char *const same[] = {"192.0.2.1:443", "0.0.0.0:0", "[2001:db8::1]:65535",
		"[::1]:24", "127.0.0.1:8080", "unix:/run/roost/lmtp"};
	static const char *const other[][2] = {{":443", "[::]:443"}, {"*:443", "[::]:443"},
		{"localhost:25", "127.0.0.1:25"}, {"[2001:DB8:0:0::1]:1", "[2001:db8::1]:1"},
		{"[::ffff:192.0.2.1]:80", "192.0.2.1:80"}, {"[fe80::1%lo]:80", "[fe80::1%lo]:80"}};
	char back[ADDRESS_TEXT_BYTES];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(same); i++) {
		assert_true(parse(same[i], ADDRESS_TCP | ADDRESS_UNIX, back));
		assert_string_equal(back, same[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(other); i++) {
		assert_true(parse(other[i][0], ADDRESS_TCP | ADDRESS_UNIX, back));
		assert_string_equal(back, other[i][1]);
	}
}

static void what_is_ambiguous_or_wrong_is_refused(void **state)
{
	static const char *const bad[] = {"", "443", "192.0.2.1", "192.0.2.1:", "192.0.2.1:x",
		"192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1: 80", "::1:443", "[::1]", "[::1]443",
		"[::1:443", "[]:443", "[192.0.2.1]:443", "[fe80::1%nosuchif]:1", "example.test:443",
		"192.0.2.300:1", "unix:", "unix:relative", "[::1]:99999999999999999999",
		"1.2.3.4.5:1", "[:443", "]:443", "%:1"};
	char back[ADDRESS_TEXT_BYTES], path[200];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (parse(bad[i], ADDRESS_TCP | ADDRESS_UNIX, back))
			fail_msg("%s was taken for %s", bad[i], back);
	memset(path, '1', sizeof(path));
	strcpy(path + 90, ":443");
	assert_false(parse(path, ADDRESS_TCP, back));
	assert_false(parse("unix:/x", ADDRESS_TCP, back));
	assert_false(parse("127.0.0.1:1", ADDRESS_UNIX, back));
	memset(path, 'x', sizeof(path));
	memcpy(path, "unix:/", 6);
	path[6 + 107] = 0; /* "/" and 107 more: 108 with its NUL does not fit sun_path */
	assert_false(parse(path, ADDRESS_UNIX, back));
	path[6 + 106] = 0;
	assert_true(parse(path, ADDRESS_UNIX, back));
	assert_string_equal(back, path);
}

static void a_peer_is_shown_without_its_port(void **state)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(5)};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	uint8_t mapped[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9};
	uint8_t six[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 7};
	char out[ADDRESS_TEXT_BYTES];

	(void)state;
	v4.sin_addr.s_addr = htonl(0xcb007109);
	address_format_host((struct sockaddr *)&v4, sizeof(v4), out);
	assert_string_equal(out, "203.0.113.9");
	address_format_ip(mapped, out);
	assert_string_equal(out, "203.0.113.9");
	for (unsigned i = 0; i < 256; i++) {
		char want[ADDRESS_TEXT_BYTES];

		mapped[12] = mapped[15] = (uint8_t)i;
		snprintf(want, sizeof(want), "%u.0.113.%u", i, i);
		address_format_ip(mapped, out);
		assert_string_equal(out, want);
	}
	address_format_ip(six, out);
	assert_string_equal(out, "2001:db8::7");
	/* A connected peer of a unix socket has no path. */
	address_format_host((struct sockaddr *)&un, sizeof(sa_family_t), out);
	assert_string_equal(out, "local");
	address_format((struct sockaddr *)&un, sizeof(sa_family_t), out);
	assert_string_equal(out, "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_accepted_comes_back),
		cmocka_unit_test(what_is_ambiguous_or_wrong_is_refused),
		cmocka_unit_test(a_peer_is_shown_without_its_port),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
