/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/io/loop_fixture.h - the event loop against real sockets: the loop runs on the test's thread
 * until a counter has been reached, and the peers are plain blocking sockets of the same thread.
 * Nothing sleeps; what does not go on for BOUND_MS fails. The fixture keeps a second account of
 * every slot and fails when an upcall names one that is not open. All tests run twice: as this kernel
 * is, and without what Linux 6.1 lacks.
 * Memory: a struct fixture belongs to the test. Errors: a failed assertion. */
#ifndef ROOST_TESTS_IO_LOOP_FIXTURE_H
#define ROOST_TESTS_IO_LOOP_FIXTURE_H

#include "io/loop.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/ring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { BOUND_MS = 20000, CONNS = 512, BYTES_KEPT = 256 };

enum conn_state { CONN_FREE, CONN_CONNECTING, CONN_OPEN, CONN_CLOSING };

struct conn {
	enum conn_state state;
	bool reading, sending;
	unsigned listener;
	struct loop_addr peer;
	uint8_t bytes[BYTES_KEPT];
	size_t n; /* all received, the first BYTES_KEPT of them kept */
	int last;
	int connect_err, sent_err;
	unsigned readables;
	uint8_t out[BYTES_KEPT];
};

struct fixture {
	struct loop *loop;
	int listen_fd;
	struct sockaddr_in addr;
	struct conn conns[CONNS];
	uint32_t order[CONNS * 8]; /* slots as accepted, or connected */
	unsigned accepted, connected, received, readable, sent, released, messages, commits, ticks,
		exported, export_failed;
	const unsigned *until;
	unsigned until_count, until_seen;
	unsigned received_at_commit; /* the last */
	_Atomic uint32_t *word;
	uint64_t deadline_ms, tick_every_ms;
	bool echo; /* what is received goes back; readable and sent connections go on reading */
	/* How accepted connections read, and echoing ones go on: do_recv, do_watch or not at all. */
	void (*reads)(struct fixture *f, uint32_t slot);
	void (*on_received)(struct fixture *f, uint32_t slot);
	void (*on_message)(struct fixture *f, struct loop_msg *m);
};

static inline struct conn *conn_at(struct fixture *f, uint32_t slot, enum conn_state state)
{
	assert_true(slot < CONNS);
	assert_int_equal(f->conns[slot].state, state);
	return &f->conns[slot];
}

static inline void do_recv(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->reading = true;
	loop_recv(f->loop, slot);
}

static inline void do_watch(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->reading = true;
	loop_watch(f->loop, slot);
}

static inline void do_unwatch(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->reading = false;
	loop_unwatch(f->loop, slot);
}

static inline void do_send(struct fixture *f, uint32_t slot, const void *p, uint32_t n)
{
	conn_at(f, slot, CONN_OPEN)->sending = true;
	loop_send(f->loop, slot, p, n);
}

static inline void do_close(struct fixture *f, uint32_t slot, bool reset)
{
	assert_true(f->conns[slot].state == CONN_OPEN || f->conns[slot].state == CONN_CONNECTING);
	f->conns[slot].state = CONN_CLOSING;
	loop_close(f->loop, slot, reset);
}

static inline uint32_t do_connect(
	struct fixture *f, const struct sockaddr_in *to, const struct sockaddr_in *from)
{
	struct sockaddr_storage t = {0}, s = {0};

	memcpy(&t, to, sizeof(*to));
	if (from)
		memcpy(&s, from, sizeof(*from));
	uint32_t slot = loop_connect(f->loop, &t, from ? &s : NULL);
	if (slot != UINT32_MAX) {
		conn_at(f, slot, CONN_FREE);
		f->conns[slot] = (struct conn){.state = CONN_CONNECTING};
	}
	return slot;
}

static inline void on_accepted(
	void *arg, uint32_t slot, unsigned listener, const struct loop_addr *peer)
{
	struct fixture *f = arg;

	conn_at(f, slot, CONN_FREE);
	f->conns[slot] = (struct conn){.state = CONN_OPEN, .listener = listener, .peer = *peer};
	f->order[f->accepted++ % ARRAY_LEN(f->order)] = slot;
	if (f->reads)
		f->reads(f, slot);
}

static inline void on_connected(void *arg, uint32_t slot, int err)
{
	struct fixture *f = arg;
	struct conn *c = conn_at(f, slot, CONN_CONNECTING);

	c->state = CONN_OPEN;
	c->connect_err = err;
	f->connected++;
}

static inline void on_received(void *arg, uint32_t slot, const uint8_t *p, int n)
{
	struct fixture *f = arg;
	struct conn *c = conn_at(f, slot, CONN_OPEN);

	assert_true(c->reading);
	c->reading = false;
	c->last = n;
	for (int i = 0; i < n; i++, c->n++)
		if (c->n < BYTES_KEPT)
			c->bytes[c->n] = p[i];
	f->received++;
	if (f->on_received) {
		f->on_received(f, slot);
	} else if (f->echo && n > 0) {
		assert_true(n <= BYTES_KEPT);
		memcpy(c->out, p, (size_t)n);
		do_send(f, slot, c->out, (uint32_t)n);
	} else if (f->echo) {
		do_close(f, slot, false);
	}
}

static inline void on_readable(void *arg, uint32_t slot)
{
	struct fixture *f = arg;
	struct conn *c = conn_at(f, slot, CONN_OPEN);

	assert_true(c->reading);
	c->reading = false;
	c->readables++;
	f->readable++;
	if (f->echo)
		do_recv(f, slot);
}

static inline void on_sent(void *arg, uint32_t slot, int err)
{
	struct fixture *f = arg;
	struct conn *c = conn_at(f, slot, CONN_OPEN);

	assert_true(c->sending);
	c->sending = false;
	c->sent_err = err;
	f->sent++;
	if (f->echo && !c->reading)
		f->reads(f, slot);
}

static inline void on_released(void *arg, uint32_t slot)
{
	struct fixture *f = arg;

	conn_at(f, slot, CONN_CLOSING)->state = CONN_FREE;
	f->released++;
}

static inline void on_exported(void *arg, uint32_t slot, int err)
{
	struct fixture *f = arg;

	conn_at(f, slot, CONN_OPEN);
	f->exported++;
	f->export_failed += err != 0;
}

static inline void on_message(void *arg, struct loop_msg *m)
{
	struct fixture *f = arg;

	f->messages++;
	if (f->on_message)
		f->on_message(f, m);
}

static inline void on_committed(void *arg)
{
	struct fixture *f = arg;

	f->commits++;
	f->received_at_commit = f->received;
}

static inline uint64_t on_tick(void *arg, uint64_t now_ms)
{
	struct fixture *f = arg;

	f->ticks++;
	if (f->until && *f->until != f->until_seen) {
		f->until_seen = *f->until;
		f->deadline_ms = now_ms + BOUND_MS;
	}
	if ((f->until && *f->until >= f->until_count) || now_ms >= f->deadline_ms)
		loop_stop(f->loop);
	if (f->tick_every_ms)
		return now_ms + f->tick_every_ms;
	return f->deadline_ms;
}

static const struct loop_events events = {
	.accepted = on_accepted,
	.connected = on_connected,
	.received = on_received,
	.readable = on_readable,
	.sent = on_sent,
	.released = on_released,
	.exported = on_exported,
	.message = on_message,
	.committed = on_committed,
	.tick = on_tick,
};

/* Runs the loop until *counter >= count, or has not moved for BOUND_MS. */
static inline bool reached(struct fixture *f, const unsigned *counter, unsigned count)
{
	f->until = counter;
	f->until_count = count;
	f->until_seen = *counter;
	f->deadline_ms = clock_mono_ms() + BOUND_MS;
	if (*counter < count)
		loop_run(f->loop);
	return *counter >= count;
}

/* Lets everything happen that is ready to. */
static inline void settle(struct fixture *f)
{
	unsigned turns = f->ticks + 4;

	f->tick_every_ms = 1;
	assert_true(reached(f, &f->ticks, turns));
	f->tick_every_ms = 0;
}

static inline int listen_any(struct sockaddr_in *addr_out, int backlog)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, backlog), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	*addr_out = a;
	return fd;
}

static inline struct fixture *fixture_new(const struct loop_options *o)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char why[200];

	assert_non_null(f);
	f->loop = loop_new(o, &events, f, why, sizeof(why));
	if (!f->loop)
		fail_msg("%s", why);
	f->listen_fd = listen_any(&f->addr, 512);
	return f;
}

static inline struct fixture *fixture_listening(const struct loop_options *o)
{
	struct fixture *f = fixture_new(o);

	loop_listen(f->loop, f->listen_fd);
	return f;
}

static inline void fixture_free(struct fixture *f)
{
	loop_free(&f->loop);
	assert_null(f->loop);
	close(f->listen_fd);
	free(f);
}

static const struct loop_options plain = {.conns_max = 256, .cpu = -1};

static inline int client_to(const struct sockaddr_in *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)addr, sizeof(*addr)), 0);
	return fd;
}

static inline void client_send(int fd, const char *s)
{
	assert_int_equal(send(fd, s, strlen(s), MSG_NOSIGNAL), strlen(s));
}

/* What one read of the peer gives: bytes, 0, or -errno. Bounded. */
static inline int client_read(int fd, void *p, size_t n)
{
	ssize_t got;

	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, BOUND_MS), 1);
	got = recv(fd, p, n, 0);
	return got < 0 ? -errno : (int)got;
}

static inline void client_expect(int fd, const char *s)
{
	char got[BYTES_KEPT];
	size_t n = 0;

	while (n < strlen(s)) {
		int r = client_read(fd, got + n, sizeof(got) - n);

		assert_true(r > 0);
		n += (size_t)r;
	}
	assert_int_equal(n, strlen(s));
	assert_memory_equal(got, s, n);
}

/* Features are asked for at every use, so hiding them takes effect for the loops made after. */
static inline int as_on_linux_6_1(void **state)
{
	(void)state;
	ring_features_hidden = RING_FUTEX | RING_SETSOCKOPT | RING_PROMPT_CLOSE;
	ring_renew_ms = 5; /* so that it happens all the time */
	return 0;
}

static inline int run_on_both_kernels(const char *group, const struct CMUnitTest *once, size_t n)
{
	struct CMUnitTest tests[2 * n];
	char names[n][80];

	for (size_t i = 0; i < n; i++) {
		tests[i] = tests[n + i] = once[i];
		snprintf(names[i], sizeof(names[i]), "%s (as on Linux 6.1)", once[i].name);
		tests[n + i].name = names[i];
		tests[n + i].setup_func = as_on_linux_6_1;
	}
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return _cmocka_run_group_tests(group, tests, 2 * n, NULL, NULL);
}

#endif
