/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The wheel against a plain array of due times, with virtual time; it checks itself after every
 * step. */
#include "io/wheel.h"

#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { TIMERS = 200 };

/* The model: a timer fires at the first advance in or after due_s, and never before. */
struct model {
	struct wheel *w;
	uint64_t now_ms;
	uint64_t due_s[TIMERS]; /* 0: not armed */
	unsigned fired;
	uint64_t seed;
	bool meddle; /* arm and cancel from within fire */
	uint32_t last;
};

static uint64_t rnd(struct model *m, uint64_t below)
{
	m->seed ^= m->seed << 13;
	m->seed ^= m->seed >> 7;
	m->seed ^= m->seed << 17;
	return m->seed % below;
}

static void model_arm(struct model *m, uint32_t timer, uint64_t due_ms, uint64_t done_s)
{
	uint64_t due_s = (due_ms + 999) / 1000;

	wheel_arm(m->w, timer, due_ms);
	m->due_s[timer] = due_s > done_s ? due_s : done_s + 1;
}

static void model_cancel(struct model *m, uint32_t timer)
{
	wheel_cancel(m->w, timer);
	m->due_s[timer] = 0;
}

static void on_fire(void *arg, uint32_t timer)
{
	struct model *m = arg;

	assert_true(timer < TIMERS);
	assert_int_not_equal(m->due_s[timer], 0);
	assert_true(m->due_s[timer] <= m->now_ms / 1000);
	assert_false(wheel_armed(m->w, timer));
	m->due_s[timer] = 0;
	m->fired++;
	m->last = timer;
	if (!m->meddle)
		return;
	/* Far enough ahead for the second that is being fired not to matter. */
	for (unsigned n = 0; n < 2; n++) {
		uint32_t other = (uint32_t)rnd(m, TIMERS);

		if (rnd(m, 2))
			model_cancel(m, other);
		else
			model_arm(m, other, m->now_ms + 1 + rnd(m, 9000000), m->now_ms / 1000);
	}
}

static void advance(struct model *m, uint64_t now_ms)
{
	m->now_ms = now_ms;
	wheel_advance(m->w, now_ms, on_fire, m);
	assert_true(wheel_check(m->w));
	for (uint32_t i = 0; i < TIMERS; i++) {
		/* Nothing overdue is left, and what is armed is known. */
		assert_int_equal(wheel_armed(m->w, i), m->due_s[i] != 0);
		if (m->due_s[i])
			assert_true(m->due_s[i] > now_ms / 1000);
	}
}

static void model_start(struct model *m, uint64_t now_ms, uint64_t seed)
{
	*m = (struct model){.now_ms = now_ms, .seed = seed};
	m->w = wheel_new(TIMERS, now_ms);
	assert_non_null(m->w);
	assert_true(wheel_check(m->w));
	assert_int_equal(wheel_next_ms(m->w), UINT64_MAX);
}

static void random_wheels_agree_with_an_array(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 60; seed++) {
		struct model m;

		model_start(&m, rnd(&(struct model){.seed = seed * 977}, 1ull << 40), seed * 7919);
		m.meddle = seed & 1;
		for (unsigned step = 0; step < 600; step++) {
			uint32_t timer = (uint32_t)rnd(&m, TIMERS);
			static const uint64_t reach[] = {1, 900, 5000, 3600000, 4096000, 20000000};
			uint64_t far = reach[rnd(&m, ARRAY_LEN(reach))];

			switch (rnd(&m, 8)) {
			case 0:
				model_cancel(&m, timer);
				break;
			case 1:
				advance(&m, m.now_ms + rnd(&m, far));
				break;
			case 2:
				advance(&m, m.now_ms + rnd(&m, 3000));
				break;
			case 3: /* overdue already */
				model_arm(&m, timer, m.now_ms - rnd(&m, m.now_ms / 2 + 1),
					m.now_ms / 1000);
				break;
			default:
				model_arm(&m, timer, m.now_ms + rnd(&m, far), m.now_ms / 1000);
			}
			assert_true(wheel_check(m.w));
		}
		wheel_free(&m.w);
		assert_null(m.w);
	}
}

/* Going from wheel_next_ms to wheel_next_ms misses nothing and fires each in its own second. */
static void next_leads_from_timer_to_timer(void **state)
{
	struct model m;

	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		unsigned steps = 0;

		model_start(&m, 1000000 + seed * 333, seed * 104729);
		for (uint32_t i = 0; i < TIMERS; i++)
			model_arm(&m, i, m.now_ms + rnd(&m, 15000000), m.now_ms / 1000);
		while (m.fired < TIMERS) {
			uint64_t next = wheel_next_ms(m.w), soonest = UINT64_MAX;

			for (uint32_t i = 0; i < TIMERS; i++)
				if (m.due_s[i] && m.due_s[i] < soonest)
					soonest = m.due_s[i];
			assert_true(next > m.now_ms);
			assert_true(next <= soonest * 1000);
			advance(&m, next);
			/* Other turns' timers may be met on the way: four turns at most. */
			assert_true(++steps <= 5 * TIMERS);
		}
		assert_int_equal(wheel_next_ms(m.w), UINT64_MAX);
		wheel_free(&m.w);
	}
}

static void a_timer_is_never_early_and_less_than_a_second_late(void **state)
{
	struct model m;

	(void)state;
	for (uint64_t due = 5000; due <= 6000; due += 50) {
		model_start(&m, 1234, 1);
		wheel_arm(m.w, 7, due);
		m.due_s[7] = (due + 999) / 1000;
		for (m.now_ms = 1234; m.fired == 0; m.now_ms++)
			wheel_advance(m.w, m.now_ms, on_fire, &m);
		assert_true(m.now_ms - 1 >= due);
		assert_true(m.now_ms - 1 < due + 1000);
		wheel_free(&m.w);
	}
}

/* A heartbeat is at most 3540 s, but nothing breaks beyond one turn. */
static void a_far_timer_waits_for_its_turn(void **state)
{
	struct model m;

	(void)state;
	model_start(&m, 0, 1);
	model_arm(&m, 0, 4096000ull * 3 + 5000, 0);
	model_arm(&m, 1, 5000, 0);
	for (uint64_t t = 0; t < 4096000ull * 3 + 5000; t += 999)
		advance(&m, t);
	assert_int_equal(m.fired, 1);
	advance(&m, 4096000ull * 3 + 5000);
	assert_int_equal(m.fired, 2);
	assert_int_equal(m.last, 0);
	wheel_free(&m.w);
}

/* A suspended machine: everything fires at the first advance after it. */
static void a_long_stop_is_caught_up_at_once(void **state)
{
	struct model m;

	(void)state;
	model_start(&m, 77, 3);
	for (uint32_t i = 0; i < TIMERS; i++)
		model_arm(&m, i, 1000 + i * 100000ull, 0);
	advance(&m, 86400000);
	assert_int_equal(m.fired, TIMERS);
	model_arm(&m, 4, m.now_ms + 1000, m.now_ms / 1000);
	advance(&m, m.now_ms + 2000);
	assert_int_equal(m.fired, TIMERS + 1);
	wheel_free(&m.w);
}

static void again_from_fire(void *arg, uint32_t timer)
{
	struct model *m = arg;

	m->fired++;
	wheel_cancel(m->w, (timer + 1) % TIMERS); /* its neighbour in the same second */
	wheel_arm(m->w, timer, 0);                /* overdue: the next second */
}

static void firing_may_rearm_and_cancel(void **state)
{
	struct model m;

	(void)state;
	model_start(&m, 0, 1);
	for (uint32_t i = 0; i < TIMERS; i++)
		wheel_arm(m.w, i, 1000);
	wheel_advance(m.w, 1000, again_from_fire, &m);
	assert_true(wheel_check(m.w));
	/* Every second one was cancelled by the one before it. */
	assert_int_equal(m.fired, TIMERS / 2);
	wheel_advance(m.w, 1999, again_from_fire, &m);
	assert_int_equal(m.fired, TIMERS / 2);
	wheel_advance(m.w, 4000, again_from_fire, &m);
	assert_int_equal(m.fired, TIMERS / 2 * 4);
	assert_true(wheel_check(m.w));
	wheel_free(&m.w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_wheels_agree_with_an_array),
		cmocka_unit_test(next_leads_from_timer_to_timer),
		cmocka_unit_test(a_timer_is_never_early_and_less_than_a_second_late),
		cmocka_unit_test(a_far_timer_waits_for_its_turn),
		cmocka_unit_test(a_long_stop_is_caught_up_at_once),
		cmocka_unit_test(firing_may_rearm_and_cancel),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("wheel", tests, NULL, NULL);
}
