/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A shard in a storm of handshakes: who comes first, and who waits how long. */
#include "tests/core/shard_fixture.h"

/* What the kernel gives, where it is asked to. */
static void hello_arrives(uint32_t slot)
{
	struct tls_hs *h = tls_hs_client(tls_client, NULL, NULL);
	struct buf out = {0};
	size_t used;

	assert_true(fake.receiving[slot]);
	fake.receiving[slot] = 0;
	assert_int_equal(tls_hs_feed(h, NULL, 0, &used, &out), TLS_HS_WANT_MORE);
	conn_received(server.shards[0], slot, out.p, (int)out.n);
	buf_free(&out);
	tls_hs_free(&h);
}

static void wait_s(uint64_t seconds)
{
	fake.now_ns += seconds * 1000000000;
	fake.ev->tick(fake.arg, loop_now_ms(&fake));
}

/* ---- promises -------------------------------------------------------------------------------- */

/* To a phone that hangs: mail that comes while handshakes wait is told before the next one's step, and
 * goes out at once, not with the end of the turn. */
static void a_wake_comes_before_the_next_handshake(void **state)
{
	struct shard *s = server.shards[0];

	(void)state;
	phone_hangs();
	for (uint32_t i = 0; i < 30; i++) {
		calls(i);
		hello_arrives(i);
	}
	assert_int_equal(s->handshakes.count, 30);
	fake.at = 3;
	fake.then = commit;
	assert_true(conn_background(s));
	assert_in_range(fake.send_count, 6, 20);
	assert_int_equal(fake.sends[0], 0);
	assert_int_equal(fake.sends[1], 1);
	assert_int_equal(fake.sends[2], 2); /* here it was committed */
	assert_int_equal(fake.sends[3], PHONE);
	assert_int_equal(fake.sends[4], UINT32_MAX);
	assert_int_equal(fake.sends[5], 3);
	assert_non_null(strstr(fake.said[PHONE], "HTTP/1.1 200"));
	/* The slice is over after a millisecond; the rest has its turn later. */
	assert_true(s->handshakes.count >= 20);
	while (conn_background(s))
		;
	for (uint32_t i = 0; i < 30; i++)
		assert_int_equal(s->conns[i].state, CONN_HANDSHAKE);
}

/* To the server: a storm takes as many places as there are, the others cost a slot and come in
 * order; each has the whole time from when its turn comes. */
static void others_wait_their_turn_and_are_then_not_hurried(void **state)
{
	struct shard *s = server.shards[0];
	int64_t refused = metrics_sum(M_TLS_HS_NO_PLACE), failed = metrics_sum(M_TLS_HS_FAILED);

	(void)state;
	for (uint32_t i = 0; i < 60; i++)
		calls(i);
	assert_int_equal(s->handshakes_in_flight, 40);
	assert_int_equal(s->want_handshake.count, 20);
	assert_int_equal(s->active_used, 40);
	assert_int_equal(metrics_sum(M_TLS_HS_WAITING), 20);
	assert_null(s->conns[40].active);
	/* Ten that have a place hang up at 14 s: the first ten of the line have theirs. */
	wait_s(14);
	for (uint32_t i = 0; i < 10; i++) {
		conn_received(s, i, NULL, 0);
		fake.ev->released(fake.arg, i);
	}
	conn_background(s);
	assert_int_equal(s->want_handshake.count, 10);
	assert_int_equal(s->want_handshake.first, 50);
	/* At 16 s the silent ones of the beginning are gone, those who began at 14 s are not. */
	wait_s(2);
	for (uint32_t i = 10; i < 40; i++)
		assert_true(fake.closed[i] && fake.reset[i]);
	for (uint32_t i = 40; i < 60; i++)
		assert_false(fake.closed[i]);
	assert_int_equal(metrics_sum(M_TLS_HS_FAILED) - failed, 30);
	assert_int_equal(metrics_sum(M_TLS_HS_NO_PLACE) - refused, 0);
	for (uint32_t i = 10; i < 40; i++)
		fake.ev->released(fake.arg, i);
	conn_background(s);
	assert_int_equal(metrics_sum(M_TLS_HS_WAITING), 0);
}

/* To a phone for which there is no place within the time: a reset at once, which it understands, and
 * which says nothing about its password. */
static void who_waits_too_long_is_reset_and_counted(void **state)
{
	struct shard *s = server.shards[0];
	int64_t refused = metrics_sum(M_TLS_HS_NO_PLACE);

	(void)state;
	for (uint32_t i = 0; i < 41; i++)
		calls(i);
	assert_int_equal(s->want_handshake.count, 1);
	for (int k = 0; k < 8; k++) {
		/* those in front live on */
		for (uint32_t i = 0; i < 40; i++)
			conn_deadline(s, i, 600);
		wait_s(7);
		assert_false(fake.closed[40]);
	}
	wait_s(7);
	assert_true(fake.closed[40] && fake.reset[40]);
	assert_int_equal(metrics_sum(M_TLS_HS_NO_PLACE) - refused, 1);
	assert_int_equal(s->want_handshake.count, 0);
	assert_int_equal(metrics_sum(M_TLS_HS_WAITING), 0);
}

/* To a phone whose request finds no memory in time: 503, and when to come again, spread. */
static void a_request_without_room_is_told_when_to_come_again(void **state)
{
	struct shard *s = server.shards[0];
	bool seen[61] = {false};
	int kinds = 0;

	(void)state;
	s->active_max = 0;
	for (uint32_t i = 0; i < 20; i++) {
		conn_accepted(s, i, LISTENER_HTTP, &peer);
		conn_readable(s, i);
	}
	assert_int_equal(s->want_active.count, 20);
	wait_s(31);
	for (uint32_t i = 0; i < 20; i++) {
		const char *after = strstr(fake.said[i], "Retry-After: ");

		assert_int_equal(strncmp(fake.said[i], "HTTP/1.1 503 ", 13), 0);
		assert_non_null(strstr(fake.said[i], "Connection: close\r\n"));
		assert_non_null(after);
		assert_in_range(atoi(after + 13), 30, 60);
		kinds += !seen[atoi(after + 13)];
		seen[atoi(after + 13)] = true;
		fake.ev->sent(fake.arg, i, 0);
		assert_true(fake.closed[i] && !fake.reset[i]);
	}
	assert_true(kinds > 5);
	assert_int_equal(s->want_active.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_wake_comes_before_the_next_handshake, begin, end),
		cmocka_unit_test_setup_teardown(
			others_wait_their_turn_and_are_then_not_hurried, begin, end),
		cmocka_unit_test_setup_teardown(
			who_waits_too_long_is_reset_and_counted, begin, end),
		cmocka_unit_test_setup_teardown(
			a_request_without_room_is_told_when_to_come_again, begin, end),
	};

	return cmocka_run_group_tests_name("storm", tests, NULL, NULL);
}
