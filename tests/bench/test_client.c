/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Connections of phones against a server of a few lines: what is no whole answer is none, and each end
 * has its kind. */
#include "bench/fleet/client.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <stdio.h>
#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

#define GOOD                                                                                       \
	"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ms-sync.wbxml\r\nContent-Length: 4\r\n"  \
	"X-Empty:\r\n\r\n"

enum trick {
	ANSWER,
	ANSWER_BYTEWISE,
	ANSWER_TWICE,
	ANSWER_AND_CLOSE,
	NO_HTTP,
	CUT,
	SILENCE,
	UNASKED
};

struct server {
	int fd;
	pthread_t thread;
	enum trick trick;
	struct tls_ctx *tls;
	struct sockaddr_storage at;
	unsigned conns;    /* serves so many, one after the other */
	unsigned notified; /* of these ended with close_notify; read when the thread has ended */
};

struct peer {
	int fd;
	bool tls;
	struct tlsrec rec;
	uint8_t in[65536];
	size_t in_n;
	bool notified;
};

static void say(struct peer *c, const void *p, size_t n)
{
	uint8_t out[4096];

	if (c->tls) {
		n = tlsrec_seal(&c->rec, p, n, out);
		p = out;
	}
	/* The client may have gone. */
	(void)!send(c->fd, p, n, MSG_NOSIGNAL);
}

static bool shake_hands(struct server *s, struct peer *c)
{
	struct tls_hs *h = tls_hs_server(s->tls);
	enum tls_hs_status status = TLS_HS_WANT_MORE;
	const char *why;
	bool ok;

	while (status == TLS_HS_WANT_MORE) {
		struct buf out = {0};
		size_t used;
		ssize_t n = recv(c->fd, c->in + c->in_n, sizeof(c->in) - c->in_n, 0);

		if (n <= 0)
			break;
		c->in_n += (size_t)n;
		status = tls_hs_feed(h, c->in, c->in_n, &used, &out);
		c->in_n -= used;
		memmove(c->in, c->in + used, c->in_n);
		(void)!send(c->fd, out.p, out.n, MSG_NOSIGNAL);
		buf_free(&out);
	}
	ok = status == TLS_HS_DONE && tls_hs_detach(h, &c->rec, &why);
	tls_hs_free(&h);
	return ok;
}

/* Until a request's empty line has come; false: the client is gone. */
static bool hear(struct peer *c)
{
	for (;;) {
		struct tlsrec_in in;

		if (!c->tls && c->in_n >= 4 && memmem(c->in, c->in_n, "\r\n\r\n", 4)) {
			c->in_n = 0;
			return true;
		}
		if (c->tls && c->in_n) {
			tlsrec_open(&c->rec, c->in, c->in_n, &in);
			if (in.result != TLSREC_NEED_MORE) {
				bool whole = in.result == TLSREC_DATA &&
					     memmem(in.data, in.data_bytes, "\r\n\r\n", 4);

				c->in_n -= in.consumed;
				memmove(c->in, c->in + in.consumed, c->in_n);
				if (whole)
					return true;
				c->notified = in.result == TLSREC_CLOSED;
				if (in.result == TLSREC_CLOSED || in.result == TLSREC_ERROR)
					return false;
				continue;
			}
		}
		ssize_t n = recv(c->fd, c->in + c->in_n, sizeof(c->in) - c->in_n, 0);
		if (n <= 0)
			return false;
		c->in_n += (size_t)n;
	}
}

static void serve(struct server *s, struct peer *c)
{
	static const char good[] = GOOD "body";

	if (s->trick == UNASKED)
		say(c, good, sizeof(good) - 1);
	while (hear(c)) {
		switch (s->trick) {
		case ANSWER:
		case UNASKED:
			say(c, good, sizeof(good) - 1);
			break;
		case ANSWER_BYTEWISE:
			for (size_t i = 0; i < sizeof(good) - 1; i++)
				say(c, good + i, 1);
			break;
		case ANSWER_TWICE:
			say(c, GOOD "body" GOOD "body", 2 * (sizeof(good) - 1));
			break;
		case ANSWER_AND_CLOSE:
			say(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
				57);
			return;
		case NO_HTTP:
			say(c, "220 mail.example.test\r\n", 23);
			break;
		case CUT:
			say(c, good, sizeof(good) - 3);
			return;
		case SILENCE:
			break;
		}
	}
}

static void *server_thread(void *arg)
{
	struct server *s = arg;

	while (s->conns--) {
		struct peer *c = calloc(1, sizeof(*c));

		CHECK(c);
		c->tls = s->tls != NULL;
		c->fd = accept(s->fd, NULL, NULL);
		if (c->fd >= 0 && (!c->tls || shake_hands(s, c)))
			serve(s, c);
		s->notified += c->notified;
		if (c->fd >= 0)
			close(c->fd);
		free(c);
	}
	return NULL;
}

static void server_start(struct server *s, enum trick trick, struct tls_ctx *tls, unsigned conns)
{
	*s = (struct server){.trick = trick, .tls = tls, .conns = conns};
	s->fd = loopback_listen(&s->at);
	assert_int_equal(pthread_create(&s->thread, NULL, server_thread, s), 0);
}

/* Each phone asks `rounds` times; closes, or notes why it was closed. */
struct run {
	struct client *client;
	unsigned rounds, phones, opened, sent, answered, closed, over;
	unsigned asked_of[64];
	enum client_end end;
	bool body_ok;
};

static void next(struct run *r, uint32_t phone)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

	if (r->asked_of[phone]++ < r->rounds) {
		client_request(r->client, phone, bytes_of(request, sizeof(request) - 1), 2);
		return;
	}
	client_close(r->client, phone);
	if (++r->over == r->phones)
		client_stop(r->client);
}

static void on_opened(void *arg, uint32_t phone)
{
	struct run *r = arg;

	r->opened++;
	if (r->rounds)
		next(r, phone);
}

static void on_sent(void *arg, uint32_t phone)
{
	struct run *r = arg;

	(void)phone;
	r->sent++;
}

static void on_answered(
	void *arg, uint32_t phone, const struct http_answer *a, struct bytes body, uint64_t came_ns)
{
	struct run *r = arg;

	assert_int_equal(a->status, 200);
	assert_true(came_ns <= clock_mono_ns());
	r->body_ok &= bytes_eq_str(body, "body");
	r->answered++;
	if (a->keep_alive)
		next(r, phone);
}

static void on_closed(void *arg, uint32_t phone, enum client_end end, const char *why)
{
	struct run *r = arg;

	(void)phone;
	assert_non_null(why);
	r->closed++;
	r->end = end;
	if (++r->over == r->phones)
		client_stop(r->client);
}

static struct client_options options(const struct server *s, bool tls, unsigned phones)
{
	return (struct client_options){
		.tls = tls,
		.tls_options = {.want_ticket = tls},
		.to[0] = s->at,
		.to_count = 1,
		.phones_max = phones,
		.handshakes_max = 4,
		.open_timeout_s = 10,
		.phones_per_source = 10,
	};
}

static struct client *new_client(
	const struct client_options *o, const struct client_events *ev, void *arg)
{
	char why[CLIENT_WHY_BYTES];
	struct client *c = client_new(o, ev, arg, why, sizeof(why));

	if (!c)
		fail_msg("%s", why);
	return c;
}

static void run_client(struct server *s, bool tls, unsigned phones, unsigned rounds, struct run *r)
{
	static const struct client_events events = {
		.opened = on_opened,
		.sent = on_sent,
		.answered = on_answered,
		.closed = on_closed,
	};
	struct client_options o = options(s, tls, phones);

	*r = (struct run){.phones = phones, .rounds = rounds, .body_ok = true};
	r->client = new_client(&o, &events, r);
	for (uint32_t i = 0; i < phones; i++)
		client_open(r->client, i);
	client_run(r->client);
	client_free(&r->client);
}

static void server_end(struct server *s)
{
	loopback_end(s->fd, s->thread);
}

static void answers_are_whole_wherever_the_network_cuts(void **state)
{
	static const enum trick tricks[] = {ANSWER, ANSWER_BYTEWISE};

	for (size_t i = 0; i < 2; i++) {
		for (int tls = 0; tls < 2; tls++) {
			struct server s;
			struct run r;

			server_start(&s, tricks[i], tls ? *state : NULL, 1);
			run_client(&s, tls, 1, 5, &r);
			server_end(&s);
			assert_int_equal(r.answered, 5);
			assert_int_equal(r.sent, 5);
			assert_int_equal(r.closed, 0);
			assert_true(r.body_ok);
		}
	}
}

static void what_is_no_answer_ends_the_connection(void **state)
{
	static const struct {
		enum trick trick;
		enum client_end end;
		unsigned answered;
	} cases[] = {
		{ANSWER_TWICE, CLIENT_END_HTTP, 0},
		{NO_HTTP, CLIENT_END_HTTP, 0},
		{CUT, CLIENT_END_CUT, 0},
		{SILENCE, CLIENT_END_TIMEOUT, 0},
		{ANSWER_AND_CLOSE, CLIENT_END_PEER, 1},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (int tls = 0; tls < 2; tls++) {
			struct server s;
			struct run r;

			server_start(&s, cases[i].trick, tls ? *state : NULL, 1);
			run_client(&s, tls, 1, 3, &r);
			server_end(&s);
			assert_int_equal(r.closed, 1);
			assert_int_equal(r.end, cases[i].end);
			assert_int_equal(r.answered, cases[i].answered);
		}
	}
}

static void bytes_before_any_request_are_no_answer(void **state)
{
	struct server s;
	struct run r;

	server_start(&s, UNASKED, *state, 1);
	run_client(&s, true, 1, 0, &r);
	server_end(&s);
	assert_int_equal(r.end, CLIENT_END_HTTP);
	assert_int_equal(r.answered, 0);
}

/* More phones than may shake hands at a time; each has its turn. */
static void phones_wait_in_line(void **state)
{
	struct server s;
	struct run r;

	server_start(&s, ANSWER, *state, 40);
	run_client(&s, true, 40, 2, &r);
	server_end(&s);
	assert_int_equal(r.opened, 40);
	assert_int_equal(r.answered, 80);
	assert_int_equal(r.closed, 0);
}

static void nobody_there_is_said(void **state)
{
	struct server s;
	struct run r;

	(void)state;
	server_start(&s, ANSWER, NULL, 0);
	server_end(&s);
	run_client(&s, true, 3, 1, &r);
	assert_int_equal(r.closed, 3);
	assert_int_equal(r.end, CLIENT_END_CONNECT);
}

static void plain_servers_are_no_tls_servers(void **state)
{
	struct server s;
	struct run r;

	(void)state;
	server_start(&s, UNASKED, NULL, 1);
	run_client(&s, true, 1, 1, &r);
	server_end(&s);
	assert_int_equal(r.end, CLIENT_END_TLS);
}

/* ---- more than one connection of a phone, and what is no HTTP ---- */

static const char request_text[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

static void ask(struct client *c, uint32_t phone)
{
	client_request(c, phone, bytes_of(request_text, sizeof(request_text) - 1), 5);
}

/* What the next opening shall do; counts of what has happened. */
struct scene {
	struct client *client;
	unsigned opened, answered, closed, last_phone;
	bool resumed[4];
	struct buf heard;
};

static void scene_closed(void *arg, uint32_t phone, enum client_end end, const char *why)
{
	(void)arg;
	fail_msg("phone %u: %s: %s", phone, client_end_name(end), why);
}

static void sent_is_fine(void *arg, uint32_t phone)
{
	(void)arg;
	(void)phone;
}

static void close_at_once(void *arg, uint32_t phone)
{
	struct scene *s = arg;

	s->opened++;
	ask(s->client, phone);
	client_close(s->client, phone);
	assert_false(client_is_open(s->client, phone));
}

static uint64_t stop_when_gone(void *arg, uint64_t now_ms)
{
	struct scene *s = arg;
	struct client_stats stats;

	client_stats(s->client, &stats);
	if (s->opened && stats.open == 0)
		client_stop(s->client);
	return now_ms + 1;
}

/* To a server that counts cut connections: whatever was under way, close_notify comes last. */
static void a_close_is_told_behind_a_request_under_way(void **state)
{
	static const struct client_events events = {
		.opened = close_at_once,
		.sent = sent_is_fine,
		.closed = scene_closed,
		.tick = stop_when_gone,
	};
	struct server s;
	struct scene scene = {.client = NULL};

	server_start(&s, SILENCE, *state, 1);
	struct client_options o = options(&s, true, 1);

	scene.client = new_client(&o, &events, &scene);
	client_open(scene.client, 0);
	client_run(scene.client);
	client_free(&scene.client);
	pthread_join(s.thread, NULL);
	close(s.fd);
	assert_int_equal(scene.opened, 1);
	assert_int_equal(s.notified, 1);
}

static void ask_when_opened(void *arg, uint32_t phone)
{
	struct scene *s = arg;

	assert_true(s->opened < ARRAY_LEN(s->resumed));
	s->resumed[s->opened++] = strstr(client_tls_text(s->client, phone), " resumed") != NULL;
	ask(s->client, phone);
}

static void come_again(
	void *arg, uint32_t phone, const struct http_answer *a, struct bytes body, uint64_t came_ns)
{
	struct scene *s = arg;

	(void)came_ns;
	assert_int_equal(a->status, 200);
	assert_true(bytes_eq_str(body, "body"));
	client_close(s->client, phone);
	if (++s->answered == ARRAY_LEN(s->resumed)) {
		client_stop(s->client);
		return;
	}
	client_set_resume(s->client, s->answered != 2);
	/* At once and, in the end, in a while. */
	if (s->answered < 3)
		client_open(s->client, phone);
	else
		client_open_later(s->client, phone, 1);
}

/* To storm and handshake: which handshakes resume is theirs to say, and is said truly. */
static void later_handshakes_resume_while_they_may(void **state)
{
	static const struct client_events events = {
		.opened = ask_when_opened,
		.sent = sent_is_fine,
		.answered = come_again,
		.closed = scene_closed,
	};
	struct client_stats stats;
	struct server s;
	struct scene scene = {.client = NULL};

	server_start(&s, ANSWER, *state, 4);
	struct client_options o = options(&s, true, 1);

	scene.client = new_client(&o, &events, &scene);
	assert_false(client_can_resume(scene.client));
	client_open(scene.client, 0);
	client_run(scene.client);
	assert_true(client_can_resume(scene.client));
	client_stats(scene.client, &stats);
	client_free(&scene.client);
	server_end(&s);
	assert_int_equal(stats.full_handshakes, 2);
	assert_int_equal(stats.resumed_handshakes, 2);
	assert_int_equal(stats.connected, 4);
	assert_false(scene.resumed[0]);
	assert_true(scene.resumed[1]);
	assert_false(scene.resumed[2]);
	assert_true(scene.resumed[3]);
}

/* The request is under way: another number gets its answer, and the phone connects anew. */
static void move_and_open_again(void *arg, uint32_t phone)
{
	struct scene *s = arg;

	ask(s->client, phone);
	if (s->opened++ > 0)
		return;
	client_move(s->client, phone, 1);
	assert_false(client_is_open(s->client, phone));
	assert_true(client_is_open(s->client, 1));
	client_open(s->client, phone);
}

static void note_who(
	void *arg, uint32_t phone, const struct http_answer *a, struct bytes body, uint64_t came_ns)
{
	struct scene *s = arg;

	(void)a;
	(void)body;
	(void)came_ns;
	s->last_phone = s->last_phone * 10 + phone + 1;
	client_close(s->client, phone);
	if (++s->answered == 2)
		client_stop(s->client);
}

static void an_answer_follows_a_connection_that_was_moved(void **state)
{
	static const struct client_events events = {
		.opened = move_and_open_again,
		.sent = sent_is_fine,
		.answered = note_who,
		.closed = scene_closed,
	};
	struct server s;
	struct scene scene = {.client = NULL};

	server_start(&s, ANSWER, *state, 2);
	struct client_options o = options(&s, true, 1);

	o.spares_max = 1;
	scene.client = new_client(&o, &events, &scene);
	client_open(scene.client, 0);
	client_run(scene.client);
	client_free(&scene.client);
	server_end(&s);
	/* The server takes one connection after the other: number 1, then number 0. */
	assert_int_equal(scene.last_phone, 21);
}

/* Ten bytes at a time; what is left comes again with what is new. */
static size_t take_ten(void *arg, uint32_t phone, const uint8_t *p, size_t n, uint64_t came_ns)
{
	static const size_t whole = sizeof(GOOD "body") - 1;
	struct scene *s = arg;
	size_t before = s->heard.n;

	assert_true(came_ns <= clock_mono_ns());
	while (n >= 10 || s->heard.n + n == whole || s->heard.n + n == 2 * whole) {
		size_t k = n < 10 ? n : 10;

		buf_add(&s->heard, p, k);
		p += k;
		n -= k;
		if (n == 0)
			break;
	}
	if (before < whole && s->heard.n >= whole)
		client_say(s->client, phone, bytes_of(request_text, sizeof(request_text) - 1), 5);
	if (s->heard.n == 2 * whole) {
		size_t taken = s->heard.n - before;

		client_close(s->client, phone);
		client_stop(s->client);
		return taken;
	}
	return s->heard.n - before;
}

static void count_opened(void *arg, uint32_t phone)
{
	struct scene *s = arg;

	(void)phone;
	s->opened++;
}

static void what_is_no_http_is_taken_as_it_comes(void **state)
{
	static const struct client_events events = {
		.opened = count_opened,
		.sent = sent_is_fine,
		.bytes = take_ten,
		.closed = scene_closed,
	};

	for (int tls = 0; tls < 2; tls++) {
		struct server s;
		struct scene scene = {.client = NULL};

		server_start(&s, UNASKED, tls ? *state : NULL, 1);
		struct client_options o = options(&s, tls, 1);

		scene.client = new_client(&o, &events, &scene);
		client_open(scene.client, 0);
		client_run(scene.client);
		client_free(&scene.client);
		server_end(&s);
		assert_int_equal(scene.opened, 1);
		buf_add_byte(&scene.heard, 0);
		assert_string_equal((char *)scene.heard.p, GOOD "body" GOOD "body");
		buf_free(&scene.heard);
	}
}

static int tls_up(void **state)
{
	char dir[] = "/tmp/test_client.XXXXXX", cert[64], key[64], why[256];
	struct tls_pair pair = {cert, key};
	struct tls_options o = {.pairs = &pair, .pair_count = 1};

	if (!mkdtemp(dir))
		return -1;
	snprintf(cert, sizeof(cert), "%s/c.pem", dir);
	snprintf(key, sizeof(key), "%s/k.pem", dir);
	if (tls_self_signed(cert, key, NULL, 0, clock_wall_ms(), why, sizeof(why)))
		*state = tls_server_new(&o, why, sizeof(why));
	unlink(cert);
	unlink(key);
	rmdir(dir);
	return *state ? 0 : -1;
}

static int tls_down(void **state)
{
	struct tls_ctx *c = *state;

	tls_ctx_unref(&c);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_are_whole_wherever_the_network_cuts),
		cmocka_unit_test(what_is_no_answer_ends_the_connection),
		cmocka_unit_test(bytes_before_any_request_are_no_answer),
		cmocka_unit_test(phones_wait_in_line),
		cmocka_unit_test(nobody_there_is_said),
		cmocka_unit_test(plain_servers_are_no_tls_servers),
		cmocka_unit_test(a_close_is_told_behind_a_request_under_way),
		cmocka_unit_test(later_handshakes_resume_while_they_may),
		cmocka_unit_test(an_answer_follows_a_connection_that_was_moved),
		cmocka_unit_test(what_is_no_http_is_taken_as_it_comes),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, tls_up, tls_down);
}
