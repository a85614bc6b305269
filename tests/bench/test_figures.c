/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Quantiles, medians and slopes are what the tables say they are. */
#include "bench/figures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

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

static void a_slope_is_that_of_the_line(void **state)
{
	const double x[] = {0, 1, 2, 3}, up[] = {5, 7, 9, 11}, flat[] = {4, 6, 4, 6};

	(void)state;
	assert_true(slope(x, up, 4) > 1.999 && slope(x, up, 4) < 2.001);
	assert_true(slope(x, flat, 4) > 0.3 && slope(x, flat, 4) < 0.5);
	assert_true(slope(x, up, 1) == 0);
	assert_true(slope(x, up, 0) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantiles_are_nearest_ranks),
		cmocka_unit_test(a_slope_is_that_of_the_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
