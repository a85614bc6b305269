/* SPDX-License-Identifier: GPL-3.0-or-later */
/* An account pattern says what it says, and nothing in it is taken for a printf format. */
#include "bench/fleet/accounts.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

static void assert_user(uint32_t account, const char *want)
{
	char got[ACCOUNTS_NAME_MAX];

	accounts_user(account, got, sizeof(got));
	assert_string_equal(got, want);
}

static void patterns_are_filled_in(void **state)
{
	char got[ACCOUNTS_NAME_MAX];
	const char *why;

	(void)state;
	assert_user(7, "bench7@roost-bench.test");
	assert_true(accounts_set("user%d@example.test", "secret", 1, &why));
	assert_user(0, "user1@example.test");
	accounts_password(5, got, sizeof(got));
	assert_string_equal(got, "secret");
	assert_true(accounts_set("u%05d", "p%d%%", 0, &why));
	assert_user(42, "u00042");
	accounts_password(42, got, sizeof(got));
	assert_string_equal(got, "p42%");
	assert_true(accounts_set("%3d", NULL, 0, &why));
	assert_user(1, "  1");
}

static void other_patterns_are_refused(void **state)
{
	static const char *const bad[] = {"user@example.test", "u%s", "u%n%d", "u%d-%d", "u%99d",
		"u%", "u%d\r\nRCPT TO:<x>", "\"%d\""};
	const char *why;

	(void)state;
	assert_true(accounts_set("before%d", NULL, 0, &why));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_false(accounts_set(bad[i], NULL, 0, &why));
		assert_non_null(why);
	}
	assert_false(accounts_set(NULL, "%x", 0, &why));
	assert_user(3, "before3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(patterns_are_filled_in),
		cmocka_unit_test(other_patterns_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
