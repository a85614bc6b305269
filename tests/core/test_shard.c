/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A shard, upcall by upcall: orders of events that the kernel rarely gives. */
#include "tests/core/shard_fixture.h"

static void received(uint32_t slot, const char *text)
{
	conn_received(server.shards[0], slot, (const uint8_t *)text, (int)strlen(text));
}

/* To a phone that sends its next request behind a hanging one: when its bytes come while something else is
 * being sent to it (the answer to a KeyUpdate), and are here only after that is sent, both requests go on. */
static void bytes_that_cross_a_send_stay_behind_the_hanging_request(void **state)
{
	struct shard *s = server.shards[0];

	(void)state;
	phone_hangs();
	conn_readable(s, PHONE);
	assert_true(fake.receiving[PHONE]);
	conn_say(s, PHONE, "key update", 10);
	fake.ev->sent(fake.arg, PHONE, 0);
	received(PHONE, "OPTIONS /Microsoft-Server-");
	assert_false(fake.closed[PHONE]);
	assert_int_equal(s->conns[PHONE].state, CONN_PARKED);
	commit();
	fake.ev->committed(fake.arg);
	assert_non_null(strstr(fake.said[PHONE], "HTTP/1.1 200"));
	fake.ev->sent(fake.arg, PHONE, 0);
	assert_int_equal(s->conns[PHONE].state, CONN_HEAD);
	received(PHONE, "ActiveSync HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_non_null(strstr(fake.said[PHONE], "HTTP/1.1 401"));
}

/* The same, here only when the hanging request is being answered. */
static void bytes_that_cross_the_answer_are_the_next_request(void **state)
{
	struct shard *s = server.shards[0];

	(void)state;
	phone_hangs();
	conn_readable(s, PHONE);
	conn_say(s, PHONE, "key update", 10);
	fake.ev->sent(fake.arg, PHONE, 0);
	commit();
	fake.ev->committed(fake.arg);
	assert_int_equal(s->conns[PHONE].state, CONN_RESPOND);
	received(PHONE, "OPTIONS /Microsoft-Server-ActiveSync HTTP/1.1\r\nHost: x\r\n\r\n");
	assert_false(fake.closed[PHONE]);
	fake.ev->sent(fake.arg, PHONE, 0);
	assert_non_null(strstr(fake.said[PHONE], "HTTP/1.1 401"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
		T(bytes_that_cross_a_send_stay_behind_the_hanging_request),
		T(bytes_that_cross_the_answer_are_the_next_request),
	};

	return cmocka_run_group_tests_name("shard", tests, NULL, NULL);
}
