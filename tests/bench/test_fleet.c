/* SPDX-License-Identifier: GPL-3.0-or-later */
/* To the benchmark engineer: a server that answers twice, at the wrong time, about the wrong folder or
 * not at all does not pass for a good one. */
#include "bench/fleet/fleet.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

/* ---- a server of one phone, which does as it is told, request by request ---- */

enum act {
	HANG,
	WAKE,           /* status 2, the inbox */
	WAKE_TWICE,     /* and once more a little later */
	WAKE_OTHER,     /* another folder */
	WAKE_BOTH,      /* the inbox and another */
	END,            /* status 1 */
	END_SLOWLY,     /* that, some seconds later */
	REFUSE_SECONDS, /* 503, Retry-After: 1 */
};

struct server {
	int fd;
	pthread_t thread;
	struct sockaddr_storage at;
	const enum act *acts;
	unsigned count, done;
};

static void pause_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

/* The client may have gone. */
static void say(int fd, const void *p, size_t n)
{
	(void)!send(fd, p, n, MSG_NOSIGNAL);
}

/* A Ping answer: status, and folders by their one-letter ids. */
static void say_ping(int fd, char status, const char *folders)
{
	static const uint8_t begin[] = {0x03, 0x01, 0x6a, 0x00, 0x00, 0x0d, 0x45, 0x47, 0x03};
	uint8_t doc[64];
	char head[128];
	size_t n = sizeof(begin);

	memcpy(doc, begin, n);
	doc[n++] = (uint8_t)status;
	doc[n++] = 0;
	doc[n++] = 0x01;
	if (*folders)
		doc[n++] = 0x49;
	for (const char *f = folders; *f; f++) {
		const uint8_t folder[] = {0x4a, 0x03, (uint8_t)*f, 0x00, 0x01};

		memcpy(doc + n, folder, sizeof(folder));
		n += sizeof(folder);
	}
	if (*folders)
		doc[n++] = 0x01;
	doc[n++] = 0x01;
	snprintf(head, sizeof(head),
		"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ms-sync.wbxml\r\n"
		"Content-Length: %zu\r\n\r\n",
		n);
	say(fd, head, strlen(head));
	say(fd, doc, n);
}

static void act(int fd, enum act what)
{
	static const char refusal[] = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: "
				      "0\r\nConnection: close\r\n\r\n";

	switch (what) {
	case HANG:
		break;
	case WAKE:
		say_ping(fd, '2', "1");
		break;
	case WAKE_TWICE:
		say_ping(fd, '2', "1");
		pause_ms(200);
		say_ping(fd, '2', "1");
		break;
	case WAKE_OTHER:
		say_ping(fd, '2', "7");
		break;
	case WAKE_BOTH:
		say_ping(fd, '2', "17");
		break;
	case END_SLOWLY:
		pause_ms(4000);
		say_ping(fd, '1', "");
		break;
	case END:
		say_ping(fd, '1', "");
		break;
	case REFUSE_SECONDS:
		say(fd, refusal, sizeof(refusal) - 1);
		break;
	}
}

static void *server_thread(void *arg)
{
	struct server *s = arg;
	char in[8192];

	for (;;) {
		int fd = accept(s->fd, NULL, NULL);
		size_t n = 0;

		if (fd < 0)
			return NULL;
		size_t whole;

		while ((whole = loopback_request(fd, in, sizeof(in), &n)) > 0) {
			n -= whole;
			memmove(in, in + whole, n);
			act(fd, s->done < s->count ? s->acts[s->done++] : HANG);
		}
		close(fd);
	}
}

static void server_start(struct server *s, const enum act *acts, unsigned count)
{
	*s = (struct server){.acts = acts, .count = count};
	s->fd = loopback_listen(&s->at);
	assert_int_equal(pthread_create(&s->thread, NULL, server_thread, s), 0);
}

/* ---- its phone ---- */

static void name(uint32_t i, char *out, size_t cap)
{
	snprintf(out, cap, "P%u", i);
}

struct fixture {
	struct server server;
	struct fleet *fleet;
};

static void begin(struct fixture *f, const enum act *acts, unsigned count, uint32_t heartbeat_s)
{
	struct fleet_options o = {
		.client = {.to_count = 1,
			.phones_max = 1,
			.handshakes_max = 4,
			.open_timeout_s = 10,
			.reset_on_close = true},
		.host_header = "x",
		.user = name,
		.device = name,
		.password = name,
		.users = 1,
		.heartbeat_s = heartbeat_s,
		.heartbeat_min_s = heartbeat_s,
		.version = 141,
	};
	char why[CLIENT_WHY_BYTES];

	server_start(&f->server, acts, count);
	o.client.to[0] = f->server.at;
	f->fleet = fleet_start(&o, why, sizeof(why));
	if (!f->fleet)
		fail_msg("%s", why);
	fleet_park(f->fleet, 1);
}

static void end(struct fixture *f)
{
	fleet_stop(&f->fleet);
	loopback_end(f->server.fd, f->server.thread);
}

/* Until that many of what `at` shows, or for ever but for make check's patience. */
static struct fleet_status wait_for(struct fixture *f, size_t at, uint32_t least)
{
	struct fleet_status s;

	do {
		pause_ms(5);
		fleet_status(f->fleet, &s);
	} while (*(uint32_t *)((char *)&s + at) < least);
	return s;
}
#define WAIT_FOR(f, what, least) wait_for(f, offsetof(struct fleet_status, what), least)

static void a_phone_is_woken_once(void **state)
{
	static const enum act acts[] = {WAKE, HANG};
	struct fixture f;
	struct fleet_status s;

	(void)state;
	begin(&f, acts, ARRAY_LEN(acts), 60);
	WAIT_FOR(&f, answered, 1);
	assert_int_equal(fleet_woken(f.fleet, 0), 1);
	fleet_ping(f.fleet, 0);
	s = WAIT_FOR(&f, parked, 1);
	assert_int_equal(fleet_woken(f.fleet, 0), 1);
	assert_int_equal(s.surplus, 0);
	assert_int_equal(s.failed, 0);
	end(&f);
}

/* Else a phone that is still to be asked passes for one that was answered instead of hanging. */
static void an_order_is_seen_until_it_is_carried_out(void **state)
{
	static const enum act acts[] = {WAKE, HANG};
	struct fixture f;
	struct fleet_status s;

	(void)state;
	begin(&f, acts, ARRAY_LEN(acts), 60);
	WAIT_FOR(&f, answered, 1);
	fleet_park(f.fleet, 1);
	do {
		fleet_status(f.fleet, &s);
		assert_true(s.orders || s.busy || s.parked);
	} while (s.orders || s.busy);
	assert_int_equal(s.parked, 1);
	end(&f);
}

static void a_second_answer_is_seen(void **state)
{
	static const enum act acts[] = {WAKE_TWICE};
	struct fixture f;
	struct fleet_status s;

	(void)state;
	begin(&f, acts, ARRAY_LEN(acts), 60);
	s = WAIT_FOR(&f, surplus, 1);
	assert_int_equal(s.answered, 1);
	assert_int_equal(s.surplus, 1);
	end(&f);
}

static void other_folders_are_no_wake(void **state)
{
	static const enum act acts[][1] = {{WAKE_OTHER}, {WAKE_BOTH}};
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(acts); i++) {
		begin(&f, acts[i], 1, 60);
		WAIT_FOR(&f, failed, 1);
		assert_int_equal(fleet_woken(f.fleet, 0), 0);
		end(&f);
	}
}

static void heartbeats_that_end_early_are_counted(void **state)
{
	static const enum act acts[] = {END, HANG};
	struct fixture f;
	struct fleet_status s;

	(void)state;
	begin(&f, acts, ARRAY_LEN(acts), 3000);
	s = WAIT_FOR(&f, heartbeats, 1);
	assert_int_equal(s.heartbeats_early, 1);
	assert_int_equal(s.heartbeats_late, 0);
	/* Of 3,000 s, however slow this machine is. */
	assert_true(s.early_most_ms > 1000000);
	assert_int_equal(fleet_expired(f.fleet, 0), 1);
	WAIT_FOR(&f, parked, 1);
	end(&f);
}

static void heartbeats_that_end_late_are_counted(void **state)
{
	static const enum act acts[] = {END_SLOWLY, HANG};
	struct fixture f;
	struct fleet_status s;

	(void)state;
	begin(&f, acts, ARRAY_LEN(acts), 1);
	s = WAIT_FOR(&f, heartbeats, 1);
	assert_int_equal(s.heartbeats_early, 0);
	assert_int_equal(s.heartbeats_late, 1);
	assert_true(s.late_most_ms > 1000);
	end(&f);
}

static void who_is_refused_again_has_waited(void **state)
{
	static const enum act acts[] = {REFUSE_SECONDS, REFUSE_SECONDS, HANG};
	struct fixture f;
	struct fleet_status s;

	(void)state;
	begin(&f, acts, ARRAY_LEN(acts), 60);
	s = WAIT_FOR(&f, refused, 1);
	assert_int_equal(s.refused_again, 0);
	assert_int_equal(s.told_most_s, 1);
	s = WAIT_FOR(&f, refused, 2);
	assert_int_equal(s.refused_again, 1);
	s = WAIT_FOR(&f, parked, 1);
	assert_int_equal(s.failed, 0);
	end(&f);
}

/* ---- IMAP ---- */

struct imap_server {
	struct server base;
	bool lets_in;
	_Atomic int conn; /* hangs in IDLE there */
};

/* As Dovecot answers; what the phone must ask stands beside it. */
static void *imap_thread(void *arg)
{
	static const char *const dialogue[][2] = {
		{"1 LOGIN \"P0\" \"P0\"\r\n", "1 OK in\r\n"},
		{"2 SELECT INBOX\r\n", "* 3 EXISTS\r\n* 0 RECENT\r\n2 OK there\r\n"},
		{"3 IDLE\r\n", "+ idling\r\n* 3 EXISTS\r\n"},
	};
	struct imap_server *s = arg;
	int fd;

	while ((fd = accept(s->base.fd, NULL, NULL)) >= 0) {
		char line[200];
		size_t i = 0;

		say(fd, "* OK ready\r\n", 12);
		for (; i < ARRAY_LEN(dialogue); i++) {
			size_t n = strlen(dialogue[i][0]);

			if (recv(fd, line, n, MSG_WAITALL) != (ssize_t)n ||
				memcmp(line, dialogue[i][0], n) != 0)
				break;
			if (!s->lets_in) {
				say(fd, "1 NO [AUTHENTICATIONFAILED] no\r\n", 32);
				break;
			}
			/* In pieces: where the network cuts must not matter. */
			for (const char *p = dialogue[i][1]; *p; p++)
				say(fd, p, 1);
		}
		if (i == ARRAY_LEN(dialogue))
			s->conn = fd;
		(void)!recv(fd, line, sizeof(line), 0);
		s->conn = -1;
		close(fd);
	}
	return NULL;
}

static void imap_begin(struct imap_server *s, struct fixture *f, bool lets_in)
{
	struct fleet_options o = {
		.client = {.to_count = 1,
			.phones_max = 1,
			.handshakes_max = 4,
			.open_timeout_s = 10,
			.reset_on_close = true},
		.user = name,
		.password = name,
		.users = 1,
		.imap = true,
	};
	char why[CLIENT_WHY_BYTES];

	*s = (struct imap_server){.lets_in = lets_in, .conn = -1};
	s->base.fd = loopback_listen(&s->base.at);
	assert_int_equal(pthread_create(&s->base.thread, NULL, imap_thread, s), 0);
	o.client.to[0] = s->base.at;
	f->fleet = fleet_start(&o, why, sizeof(why));
	if (!f->fleet)
		fail_msg("%s", why);
	f->server = s->base;
	fleet_park(f->fleet, 1);
}

/* Only more messages than before wake, and the phone hangs again without another word. */
static void idle_is_woken_by_more_messages(void **state)
{
	struct imap_server s;
	struct fixture f;

	(void)state;
	imap_begin(&s, &f, true);
	WAIT_FOR(&f, parked, 1);
	while (s.conn < 0)
		pause_ms(1);
	say(s.conn, "* 3 EXISTS\r\n* 2 EXISTS\r\n* OK Still here\r\n", 41);
	say(s.conn, "* 3 EXISTS\r\n", 12);
	WAIT_FOR(&f, answered, 1);
	assert_int_equal(fleet_woken(f.fleet, 0), 1);
	assert_true(fleet_came_ns(f.fleet, 0) > 0);
	fleet_ping(f.fleet, 0);
	WAIT_FOR(&f, parked, 1);
	assert_true(fleet_came_ns(f.fleet, 0) == 0);
	say(s.conn, "* 4 EXISTS\r\n", 12);
	WAIT_FOR(&f, answered, 1);
	assert_int_equal(fleet_woken(f.fleet, 0), 2);
	end(&f);
}

static void who_is_not_let_in_has_failed(void **state)
{
	struct imap_server s;
	struct fixture f;
	struct fleet_status st;

	(void)state;
	imap_begin(&s, &f, false);
	st = WAIT_FOR(&f, failed, 1);
	assert_non_null(strstr(st.why, "LOGIN: 1 NO [AUTHENTICATIONFAILED]"));
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_phone_is_woken_once),
		cmocka_unit_test(an_order_is_seen_until_it_is_carried_out),
		cmocka_unit_test(a_second_answer_is_seen),
		cmocka_unit_test(other_folders_are_no_wake),
		cmocka_unit_test(heartbeats_that_end_early_are_counted),
		cmocka_unit_test(heartbeats_that_end_late_are_counted),
		cmocka_unit_test(who_is_refused_again_has_waited),
		cmocka_unit_test(idle_is_woken_by_more_messages),
		cmocka_unit_test(who_is_not_let_in_has_failed),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
