/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which shards may hold a device: alone, against counts, and by threads at once. */
#include "core/push/presence.h"

#include "core/base/check.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* To a phone that comes back on another shard: its older request is found. */
static void a_device_is_seen_by_the_other_shards(void **state)
{
	struct presence *p = presence_new();
	struct presence_shard *a = presence_shard_new(p, 0);
	struct presence_shard *b = presence_shard_new(p, PRESENCE_SHARDS_MAX - 1);

	(void)state;
	assert_true(presence_others(a, 5, 1) == 0);
	presence_add(a, 5, 1);
	assert_true(presence_others(a, 5, 1) == 0); /* of itself it needs no message */
	assert_true(presence_others(b, 5, 1) == 1);
	presence_add(b, 5, 1);
	assert_true(presence_others(a, 5, 1) == 1ull << (PRESENCE_SHARDS_MAX - 1));
	presence_remove(a, 5, 1);
	assert_true(presence_others(b, 5, 1) == 0);
	presence_remove(b, 5, 1);
	presence_shard_free(&a);
	presence_shard_free(&b);
	presence_free(&p);
	assert_null(p);
}

/* To the shard: the bit stays until the last request of the bucket has ended. */
static void the_bit_goes_with_the_last_request(void **state)
{
	struct presence *p = presence_new();
	struct presence_shard *a = presence_shard_new(p, 3), *b = presence_shard_new(p, 4);

	(void)state;
	for (int i = 0; i < 70000; i++) /* more than a 16-bit count holds */
		presence_add(a, 1, 1);
	presence_add(a, 2, 1);
	for (int i = 0; i < 3; i++)
		presence_remove(a, 2, 1), presence_add(a, 2, 1);
	assert_true(presence_others(b, 1, 1) == 1ull << 3);
	presence_remove(a, 2, 1);
	assert_true(presence_others(b, 2, 1) == 0);
	/* A count that was full is never trusted again: the bit stays, which costs messages only.
	 */
	for (int i = 0; i < 70000; i++)
		presence_remove(a, 1, 1);
	assert_true(presence_others(b, 1, 1) == 1ull << 3);
	presence_shard_free(&a);
	presence_shard_free(&b);
	presence_free(&p);
}

/* To every phone: no device that is present is ever missed, whatever others come and go. */
static void random_devices_are_never_missed(void **state)
{
	enum { SHARDS = 5, MAILBOXES = 300, DEVICES = 4 };
	struct presence *p = presence_new();
	struct presence_shard *s[SHARDS];
	static uint8_t count[SHARDS][MAILBOXES][DEVICES];
	uint64_t seed = 42;

	(void)state;
	for (unsigned i = 0; i < SHARDS; i++)
		s[i] = presence_shard_new(p, i);
	for (int step = 0; step < 200000; step++) {
		unsigned i, m, d, who;
		uint64_t others;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		i = (unsigned)(seed >> 33) % SHARDS;
		m = (unsigned)(seed >> 40) % MAILBOXES;
		d = (unsigned)(seed >> 50) % DEVICES;
		if (count[i][m][d] && seed >> 63) {
			presence_remove(s[i], m, d);
			count[i][m][d]--;
		} else if (count[i][m][d] < 5) {
			presence_add(s[i], m, d);
			count[i][m][d]++;
		}
		who = (unsigned)(seed >> 55) % SHARDS;
		others = presence_others(s[who], m, d);
		assert_false(others >> who & 1);
		for (unsigned k = 0; k < SHARDS; k++)
			if (k != who && count[k][m][d])
				assert_true(others >> k & 1);
	}
	for (unsigned i = 0; i < SHARDS; i++)
		for (unsigned m = 0; m < MAILBOXES; m++)
			for (unsigned d = 0; d < DEVICES; d++)
				while (count[i][m][d]--)
					presence_remove(s[i], m, d);
	for (unsigned m = 0; m < MAILBOXES; m++)
		for (unsigned d = 0; d < DEVICES; d++)
			assert_true(presence_others(s[0], m, d) == 0);
	for (unsigned i = 0; i < SHARDS; i++)
		presence_shard_free(&s[i]);
	presence_free(&p);
}

struct racer {
	struct presence *all;
	struct presence_shard *shard;
	pthread_barrier_t *start;
	uint64_t saw, order;
};

static void *race(void *arg)
{
	struct racer *r = arg;

	pthread_barrier_wait(r->start);
	r->order = presence_order(r->all);
	presence_add(r->shard, 9, 9);
	r->saw = presence_others(r->shard, 9, 9);
	return NULL;
}

/* To a phone whose two requests arrive at once on two shards: at least one shard sees the other,
 * and they agree on who came last. */
static void of_two_at_once_one_sees_the_other(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		struct presence *p = presence_new();
		pthread_barrier_t start;
		struct racer r[2];
		pthread_t t[2];

		pthread_barrier_init(&start, NULL, 2);
		for (unsigned i = 0; i < 2; i++) {
			r[i] = (struct racer){
				.all = p, .shard = presence_shard_new(p, i), .start = &start};
			assert_int_equal(pthread_create(&t[i], NULL, race, &r[i]), 0);
		}
		for (unsigned i = 0; i < 2; i++)
			pthread_join(t[i], NULL);
		assert_true(r[0].saw || r[1].saw);
		assert_true(r[0].order != r[1].order);
		assert_true(r[0].order + r[1].order == 3);
		for (unsigned i = 0; i < 2; i++)
			presence_shard_free(&r[i].shard);
		pthread_barrier_destroy(&start);
		presence_free(&p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_device_is_seen_by_the_other_shards),
		cmocka_unit_test(the_bit_goes_with_the_last_request),
		cmocka_unit_test(random_devices_are_never_missed),
		cmocka_unit_test(of_two_at_once_one_sees_the_other),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
