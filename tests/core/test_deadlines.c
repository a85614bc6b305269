/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Heartbeats that would end together: alone, and against a plain model of the rule. */
#include "core/push/deadlines.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HOUR_MS = 3600 * 1000 };

/* To a phone on an ordinary day: its heartbeat ends when it asked for. */
static void heartbeats_are_exact_while_there_is_room(void **state)
{
	struct deadlines d = {0};

	(void)state;
	for (uint64_t ms = HOUR_MS; ms < HOUR_MS + 60000; ms += 10) {
		assert_int_equal(deadlines_choose(&d, ms, 60, 100), ms);
		deadlines_add(&d, ms);
	}
	assert_int_equal(d.count, 6000);
}

/* To the server after a storm: requests that began together end spread, each at most a tenth of its
 * heartbeat early, none late, and no second holds more than it may. */
static void a_storm_is_spread_over_earlier_seconds(void **state)
{
	struct deadlines d = {0};
	uint64_t due = 2 * HOUR_MS + 700;

	(void)state;
	for (int i = 0; i < 61 * 100; i++) {
		uint64_t at = deadlines_choose(&d, due, 600, 100);

		assert_in_range(at, due - 60000, due);
		assert_int_equal(at % 1000, due % 1000);
		/* the nearest first */
		assert_int_equal((due - at) / 1000, i / 100);
		deadlines_add(&d, at);
	}
	for (uint64_t at = due - 60000; at <= due; at += 1000)
		assert_int_equal(deadlines_in(&d, at), 100);
	/* All full: still spread, evenly. */
	for (int i = 0; i < 61 * 50; i++)
		deadlines_add(&d, deadlines_choose(&d, due, 600, 100));
	for (uint64_t at = due - 60000; at <= due; at += 1000)
		assert_int_equal(deadlines_in(&d, at), 150);
	/* and one that finds itself no fuller than the others stays exact */
	assert_int_equal(deadlines_choose(&d, due, 600, 100), due);
}

/* To a phone with a short heartbeat: a tenth is a tenth. */
static void short_heartbeats_move_little_or_not_at_all(void **state)
{
	struct deadlines d = {0};
	uint64_t due = HOUR_MS;

	(void)state;
	for (int i = 0; i < 1000; i++)
		deadlines_add(&d, due);
	assert_int_equal(deadlines_choose(&d, due, 9, 10), due);
	assert_int_equal(deadlines_choose(&d, due, 10, 10), due - 1000);
	assert_int_equal(deadlines_choose(&d, due, 60, 0), due); /* no limit */
	/* never before time began */
	deadlines_add(&d, 500);
	assert_int_equal(deadlines_choose(&d, 500, 3540, 1), 500);
}

/* To the next storm: what ended makes room. */
static void room_comes_back(void **state)
{
	struct deadlines d = {0}, empty = {0};
	uint64_t due = HOUR_MS;

	(void)state;
	for (int i = 0; i < 20; i++)
		deadlines_add(&d, due);
	assert_int_equal(deadlines_choose(&d, due, 600, 20), due - 1000);
	deadlines_remove(&d, due);
	assert_int_equal(deadlines_choose(&d, due, 600, 20), due);
	for (int i = 0; i < 19; i++)
		deadlines_remove(&d, due);
	assert_memory_equal(&d, &empty, sizeof(d));
}

/* Whatever comes: the choice is the nearest with room, or else the least of all, in the range; a turn of the
 * ring later too. Every second counts what is in it. */
static void any_choice_follows_the_rule(void **state)
{
	static struct deadlines d;
	static uint32_t model[4 * DEADLINE_SECONDS];
	static uint64_t kept[20000];
	size_t n = 0;

	(void)state;
	srand(7);
	for (uint32_t now_s = 4000; now_s < 10000; now_s++) {
		for (int k = rand() % 12; k > 0; k--) {
			uint32_t heartbeat = 10 + (uint32_t)rand() % 100 * 35;
			uint64_t due =
				now_s * 1000ull + (uint64_t)(rand() % 1000) + heartbeat * 1000ull;
			uint64_t at = deadlines_choose(&d, due, heartbeat, 3);
			uint32_t want = (uint32_t)((due + 999) / 1000);
			uint32_t got = (uint32_t)((at + 999) / 1000), least = UINT32_MAX;

			assert_true(got <= want && want - got <= heartbeat / 10);
			for (uint32_t s = want - heartbeat / 10; s <= want; s++)
				if (model[s] < least)
					least = model[s];
			if (model[got] < 3) /* nobody nearer has room */
				for (uint32_t s = got + 1; s <= want; s++)
					assert_true(model[s] >= 3);
			else
				assert_int_equal(model[got], least);
			model[got]++;
			deadlines_add(&d, at);
			assert_true(n < sizeof(kept) / sizeof(kept[0]));
			kept[n++] = at;
		}
		for (size_t i = 0; i < n;) {
			bool over = kept[i] <= now_s * 1000ull || rand() % 2000 == 0;

			if (!over) {
				i++;
				continue;
			}
			model[(kept[i] + 999) / 1000]--;
			deadlines_remove(&d, kept[i]);
			kept[i] = kept[--n];
		}
		assert_int_equal(d.count, n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(heartbeats_are_exact_while_there_is_room),
		cmocka_unit_test(a_storm_is_spread_over_earlier_seconds),
		cmocka_unit_test(short_heartbeats_move_little_or_not_at_all),
		cmocka_unit_test(room_comes_back),
		cmocka_unit_test(any_choice_follows_the_rule),
	};

	return cmocka_run_group_tests_name("deadlines", tests, NULL, NULL);
}
