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

/* To a client whose answer finds no memory: the connection ends; on a connection that went on it would wait
 * for that answer, and take the next one for it. */
static void an_answer_without_memory_is_not_left_out(void **state)
{
	struct shard *s = server.shards[0];
	struct active *a;

	(void)state;
	conn_accepted(s, 0, LISTENER_HTTP, &peer);
	conn_readable(s, 0);
	a = s->conns[0].active;
	s->conns[0].flags |= CONN_KEEP_ALIVE;
	conn_say(s, 0, "100 Continue", 12); /* with the kernel when the answer is made */
	a->out.failed = true;
	buf_add_str(&a->reply, "answer");
	conn_reply(s, 0);
	if (!fake.closed[0])
		fake.ev->sent(fake.arg, 0, 0);
	assert_true(fake.closed[0] && fake.reset[0]);
}

/* To a client that sends its body along with the head: when there is no memory for it, the connection ends
 * at once; the rest of the body would else be taken for all of it, or for the next request. */
static void a_body_without_memory_is_not_cut(void **state)
{
	struct shard *s = server.shards[0];

	(void)state;
	conn_accepted(s, 0, LISTENER_HTTP, &peer);
	conn_readable(s, 0);
	s->conns[0].active->more.n = SIZE_MAX; /* what is added to that finds no memory */
	received(0, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nnine");
	assert_true(fake.closed[0] && fake.reset[0]);
	assert_int_equal(fake.send_count, 0);
}

/* To whoever reads the log: a wall clock that was set back while a request hung (or is a millisecond behind
 * what it was) does not make it last for half a billion years. */
static void a_clock_that_goes_back_is_no_long_time(void **state)
{
	struct config *c = (struct config *)atomic_load(&server.config);
	struct shard *s = server.shards[0];
	char text[2048] = "";
	FILE *log = tmpfile();
	int before = dup(2);

	(void)state;
	assert_true(log && before >= 0);
	set(c, "log.requests=true");
	phone_hangs();
	waiters_get(s->waiters, PHONE)->since_wall_ms = shard_wall_ms(s) + 1;
	dup2(fileno(log), 2);
	log_set_level(LOG_INFO);
	commit();
	fake.ev->committed(fake.arg);
	log_set_level(LOG_ERROR);
	dup2(before, 2);
	close(before);
	rewind(log);
	assert_true(fread(text, 1, sizeof(text) - 1, log) > 0);
	fclose(log);
	assert_non_null(strstr(text, " cmd=Ping "));
	assert_non_null(strstr(text, " ms=0 "));
}

/* To phones whose upgrade failed: that they hang up is seen as before, also where it was ignored meanwhile
 * and bytes of theirs are kept behind the hanging request. */
static void a_failed_upgrade_leaves_every_watch_armed(void **state)
{
	struct shard *s = server.shards[0];
	struct shard_move m = {.memory_fd = -1};

	(void)state;
	phone_hangs();
	conn_readable(s, PHONE);
	received(PHONE, "OPTIONS /Microsoft-Server-");
	assert_true(fake.watching[PHONE] && s->conns[PHONE].active);
	shard_step(s, SHARD_QUIET, &m);
	deliver();
	fake.watching[PHONE] = 0;
	conn_readable(s, PHONE);
	shard_step(s, SHARD_RESUME, NULL);
	deliver();
	fake.ev->tick(fake.arg, loop_now_ms(&fake));
	assert_true(fake.watching[PHONE]);
}

/* To the operator: `roostctl ping list` names the first folders of a request, and says how many more there
 * are. */
static void a_list_of_the_parked_tells_how_many_folders_there_are(void **state)
{
	struct shard *s = server.shards[0];
	struct shard_parked_list list = {0};
	uint32_t folders[100];
	struct waiter_spec spec = {.kind = WAITER_PING,
		.mailbox = account.mailbox,
		.device = 1,
		.folders = folders,
		.folder_count = ARRAY_LEN(folders)};

	(void)state;
	for (uint32_t i = 0; i < ARRAY_LEN(folders); i++)
		folders[i] = i + 1;
	phone_hangs();
	assert_true(waiters_add(s->waiters, 0, &spec));
	fake.deliver = true;
	assert_true(shard_parked_ask(s, 0, 0, 0, &list));
	assert_int_equal(list.n, 2);
	assert_int_equal(list.v[0].folder_count, 100);
	for (uint32_t i = 0; i < ARRAY_LEN(list.v[0].folders); i++)
		assert_int_equal(list.v[0].folders[i], i + 1);
	assert_int_equal(list.v[1].folder_count, 1);
	assert_int_equal(list.v[1].folders[0], 1);
	free(list.v);
	waiters_remove(s->waiters, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
		T(bytes_that_cross_a_send_stay_behind_the_hanging_request),
		T(bytes_that_cross_the_answer_are_the_next_request),
		T(an_answer_without_memory_is_not_left_out),
		T(a_body_without_memory_is_not_cut),
		T(a_clock_that_goes_back_is_no_long_time),
		T(a_failed_upgrade_leaves_every_watch_armed),
		T(a_list_of_the_parked_tells_how_many_folders_there_are),
	};

	return cmocka_run_group_tests_name("shard", tests, NULL, NULL);
}
