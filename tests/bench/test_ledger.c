/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The books of a run agree when nothing was lost, and name what is wrong when something was. */
#include "bench/fleet/ledger.h"
#include "bench/metrics_page.h"
#include "core/base/check.h"

#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

struct books {
	struct ledger phones;
	struct ledger_server before, after;
};

/* Ten Pings: six were answered, four given up: of these one was never read, one answered into the void,
 * two hung up. One of six answers came at once, two were heartbeats, one superseded. */
static struct books good(void)
{
	return (struct books){
		.phones = {.asked = 10,
			.ends = {[LEDGER_CHANGE] = 3,
				[LEDGER_HEARTBEAT] = 2,
				[LEDGER_SUPERSEDED] = 1,
				[LEDGER_DROPPED] = 3,
				[LEDGER_VANISHED] = 1},
			.connected = 5},
		.before = {.accepted = 7,
			.closed = 7,
			.pings = 20,
			.at_once = 1,
			.parked_total = 19,
			.woken_change = 10,
			.woken_end = 5,
			.hangups = 4},
		.after = {.accepted = 12,
			.closed = 12,
			.closed_lost = 1,
			.pings = 29,
			.at_once = 2,
			.parked_total = 27,
			.woken_change = 13,
			.woken_end = 8,
			.hangups = 6},
	};
}

static struct ledger_report check(const struct books *b)
{
	struct ledger_report r = {.rules = 0};

	ledger_check_phones(&b->phones, true, &r);
	ledger_check_server(&b->after, &r);
	ledger_check_both(&b->phones, &b->before, &b->after, &r);
	return r;
}

static void good_books_are_good(void **state)
{
	struct books b = good();
	struct ledger_report r = check(&b);

	(void)state;
	for (size_t i = 0; i < r.broken; i++)
		print_error("%s\n", r.text[i]);
	assert_int_equal(r.broken, 0);
	assert_true(r.rules > 10);
	assert_int_equal(r.into_the_void, 1);
	assert_int_equal(r.never_read, 1);
}

/* Whatever single number is off by one, somebody notices. */
static void every_number_counts(void **state)
{
	struct books b = good();
	uint64_t *const numbers[] = {&b.phones.asked, &b.phones.ends[LEDGER_CHANGE],
		&b.phones.ends[LEDGER_HEARTBEAT], &b.phones.ends[LEDGER_SUPERSEDED],
		&b.phones.ends[LEDGER_SUPERSEDED_CHANGE], &b.phones.ends[LEDGER_REFUSED],
		&b.phones.ends[LEDGER_ODD], &b.phones.ends[LEDGER_DROPPED],
		&b.phones.ends[LEDGER_VANISHED], &b.phones.ends[LEDGER_LOST], &b.phones.hanging,
		&b.phones.twice, &b.phones.dead, &b.phones.connected, &b.after.accepted,
		&b.after.adopted, &b.after.closed, &b.after.open, &b.after.pings, &b.after.at_once,
		&b.after.parked_total, &b.after.parked, &b.after.woken_change, &b.after.woken_end,
		&b.after.woken_other, &b.after.hangups};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
		++*numbers[i];
		if (check(&b).broken == 0)
			fail_msg("number %zu is one too many and nobody noticed", i);
		--*numbers[i];
	}
	assert_int_equal(check(&b).broken, 0);
}

static void a_lost_answer_is_not_a_given_up_one(void **state)
{
	struct books b = good();
	struct ledger_report r;

	(void)state;
	/* The server answered once more than there are phones that can have missed it. */
	b.after.woken_change++;
	b.after.hangups--;
	b.phones.ends[LEDGER_CHANGE]--;
	b.phones.hanging++;
	r = check(&b);
	assert_true(r.broken > 0);
	assert_non_null(strstr(r.text[0], "never ended"));
}

static void the_report_is_bounded(void **state)
{
	struct ledger l = {.asked = 1, .twice = 1, .dead = 1, .ends[LEDGER_ODD] = 1};
	struct ledger_report r = {.rules = 0};

	(void)state;
	for (int i = 0; i < 20; i++)
		ledger_check_phones(&l, true, &r);
	assert_true(r.broken > LEDGER_BROKEN_MAX);
}

static void a_servers_page_is_read(void **state)
{
	static const char text[] =
		"roost_connections 3\n"
		"roost_connections_accepted_total 10\n"
		"roost_connections_closed_total{by=\"server\"} 1\n"
		"roost_connections_closed_total{by=\"peer\"} 2\n"
		"roost_connections_closed_total{by=\"lost\"} 4\n"
		"roost_connections_refused_total{reason=\"table_full\"} 99\n"
		"roost_parked_requests{cmd=\"Ping\"} 5\nroost_parked_requests{cmd=\"Sync\"} 6\n"
		"roost_requests_parked_total{cmd=\"Ping\"} 50\n"
		"roost_wakes_total{reason=\"change\"} 20\nroost_wakes_total{reason=\"heartbeat\"} "
		"7\n"
		"roost_wakes_total{reason=\"superseded\"} 8\nroost_wakes_total{reason=\"hangup\"} "
		"9\n"
		"roost_wakes_total{reason=\"drain\"} 1\n"
		"roost_pings_total 60\nroost_pings_answered_at_once_total 11\n";
	struct metrics_page page = {.text = {0}};
	struct ledger_server s;

	(void)state;
	buf_add_str(&page.text, text);
	buf_add_byte(&page.text, 0);
	ledger_read(&page, &s);
	metrics_free(&page);
	assert_int_equal(s.open, 3);
	assert_int_equal(s.accepted, 10);
	assert_int_equal(s.closed, 7);
	assert_int_equal(s.closed_lost, 4);
	assert_int_equal(s.parked, 11);
	assert_int_equal(s.parked_total, 50);
	assert_int_equal(s.woken_change, 20);
	assert_int_equal(s.woken_end, 15);
	assert_int_equal(s.woken_other, 1);
	assert_int_equal(s.hangups, 9);
	assert_int_equal(s.pings, 60);
	assert_int_equal(s.at_once, 11);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_books_are_good),
		cmocka_unit_test(every_number_counts),
		cmocka_unit_test(a_lost_answer_is_not_a_given_up_one),
		cmocka_unit_test(the_report_is_bounded),
		cmocka_unit_test(a_servers_page_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
