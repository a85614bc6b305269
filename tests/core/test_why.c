/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/admin.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static struct why_entry entry(uint64_t id, int http, int eas, const char *reason)
{
	struct why_entry e = {.request_id = id,
		.wall_ms = 1760000000000,
		.http_status = http,
		.eas_status = eas,
		.user = "a@example.test",
		.device_id = "DEV1",
		.command = "Ping",
		.peer = "192.0.2.7",
		.user_agent = "Apple-iPhone/1"};

	snprintf(e.reason, sizeof(e.reason), "%s", reason);
	return e;
}

static char *explained(const struct why_entry *e)
{
	struct buf b = {0};

	why_explain(e, &b);
	buf_add_byte(&b, 0);
	assert_false(b.failed);
	return (char *)b.p;
}

static void says(const struct why_entry *e, const char *a)
{
	char *text = explained(e);

	if (!strstr(text, a))
		fail_msg("%s\ndoes not say: %s", text, a);
	free(text);
}

static void the_last_refusals_are_found(void **state)
{
	struct why_entry e = entry(42, 403, 0, "first"), found;

	(void)state;
	assert_false(why_find(42, &found));
	why_record(&e);
	assert_true(why_find(42, &found));
	assert_string_equal(found.reason, "first");
	/* The newest of the same id. */
	e = entry(42, 403, 0, "second");
	why_record(&e);
	assert_true(why_find(42, &found));
	assert_string_equal(found.reason, "second");
	for (uint64_t i = 0; i < 8192; i++) {
		e = entry(1000 + i, 503, 0, "later");
		why_record(&e);
	}
	assert_false(why_find(42, &found));
	assert_true(why_find(1000, &found));
	assert_true(why_find(1000 + 8191, &found));
	e = entry(7, 503, 0, "one more");
	why_record(&e);
	assert_false(why_find(1000, &found));
	assert_true(why_find(1001, &found));
}

/* To the operator: what, from where, whose, which device, and the command that helps. */
static void the_prose_tells_what_to_do(void **state)
{
	struct why_entry e = entry(0xabc, 403, 0, "account disabled");

	(void)state;
	snprintf(e.detail, sizeof(e.detail), "disabled since yesterday");
	says(&e, "Request 0000000000000abc was refused");
	says(&e, "HTTP 403: account disabled.");
	says(&e, "the command Ping from 192.0.2.7, account a@example.test, device DEV1 "
		 "(Apple-iPhone/1).");
	says(&e, "Behind it: disabled since yesterday.");
	says(&e, "roostctl user enable a@example.test");
	e = entry(1, 403, 0, "device blocked");
	says(&e, "roostctl device unblock DEV1 -u a@example.test");
	e = entry(1, 200, 129, "");
	says(&e, "Status 129");
	says(&e, "roostctl device unblock DEV1");
	e = entry(1, 401, 0, "wrong password");
	says(&e, "roostctl user passwd a@example.test");
	e = entry(1, 449, 0, "policy");
	says(&e, "Provision");
	e = entry(1, 503, 0, "password queue full");
	says(&e, "auth.hash_queue_max");
	e = entry(1, 404, 0, "path");
	e.user[0] = e.device_id[0] = e.command[0] = 0;
	says(&e, "a request without a command");
	says(&e, "before any login");
	e = entry(1, 999, 0, "unheard of");
	says(&e, "unheard of");
}

/* What a phone sends does not reach the administrator's terminal as more than letters. */
static void peers_cannot_write_on_the_terminal(void **state)
{
	struct why_entry e = entry(1, 400, 0, "malformed");
	char *text;

	(void)state;
	snprintf(e.user_agent, sizeof(e.user_agent), "\033[2J\nRequest 1 was granted \xff");
	snprintf(e.user, sizeof(e.user), "u\xc2\x9bm\xc3\xbc");
	memset(e.peer, 'x', sizeof(e.peer)); /* not even an end */
	text = explained(&e);
	assert_null(strchr(text, '\033'));
	assert_null(strstr(text, "\nRequest 1 was granted"));
	assert_null(strstr(text, "\xc2\x9b"));
	assert_non_null(strstr(text, "\\x1b[2J\\x0aRequest"));
	assert_non_null(strstr(text, "m\xc3\xbc"));
	assert_true(bytes_is_utf8(bytes_str(text)));
	free(text);
}

static void *writer(void *arg)
{
	for (uint64_t i = 0; i < 5000; i++) {
		struct why_entry e = entry((uint64_t)(uintptr_t)arg + i, 503, 0, "busy"), found;

		why_record(&e);
		if (why_find(e.request_id, &found) && found.request_id != e.request_id)
			abort();
	}
	return NULL;
}

static void threads_record_at_once(void **state)
{
	pthread_t t[3];

	(void)state;
	for (uintptr_t i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, writer, (void *)(i * 100000));
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_last_refusals_are_found),
		cmocka_unit_test(the_prose_tells_what_to_do),
		cmocka_unit_test(peers_cannot_write_on_the_terminal),
		cmocka_unit_test(threads_record_at_once),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
