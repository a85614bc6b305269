/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The event loop against real sockets: the loop runs on the test's thread until a counter has been
 * reached, and the peers are plain blocking sockets of the same thread. Nothing sleeps; what does
 * not happen within BOUND_MS fails. The fixture keeps a second account of every slot and fails when
 * an upcall names one that is not open. All tests run twice: as this kernel is, and without what
 * Linux 6.1 lacks. */
#include "io/loop.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/metrics.h"
#include "io/ring.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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
	unsigned accepted, connected, received, readable, sent, released, messages, commits, ticks;
	const unsigned *until;
	unsigned until_count;
	unsigned received_at_commit; /* the last */
	_Atomic uint32_t *word;
	uint64_t deadline_ms, tick_every_ms;
	bool echo, recv_on_accept;
	void (*on_received)(struct fixture *f, uint32_t slot);
	void (*on_message)(struct fixture *f, struct loop_msg *m);
};

static struct conn *conn_at(struct fixture *f, uint32_t slot, enum conn_state state)
{
	assert_true(slot < CONNS);
	assert_int_equal(f->conns[slot].state, state);
	return &f->conns[slot];
}

static void do_recv(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->reading = true;
	loop_recv(f->loop, slot);
}

static void do_watch(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->reading = true;
	loop_watch(f->loop, slot);
}

static void do_unwatch(struct fixture *f, uint32_t slot)
{
	conn_at(f, slot, CONN_OPEN)->reading = false;
	loop_unwatch(f->loop, slot);
}

static void do_send(struct fixture *f, uint32_t slot, const void *p, uint32_t n)
{
	conn_at(f, slot, CONN_OPEN)->sending = true;
	loop_send(f->loop, slot, p, n);
}

static void do_close(struct fixture *f, uint32_t slot, bool reset)
{
	assert_true(f->conns[slot].state == CONN_OPEN || f->conns[slot].state == CONN_CONNECTING);
	f->conns[slot].state = CONN_CLOSING;
	loop_close(f->loop, slot, reset);
}

static uint32_t do_connect(
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

static void on_accepted(void *arg, uint32_t slot, unsigned listener, const struct loop_addr *peer)
{
	struct fixture *f = arg;

	conn_at(f, slot, CONN_FREE);
	f->conns[slot] = (struct conn){.state = CONN_OPEN, .listener = listener, .peer = *peer};
	f->order[f->accepted++ % ARRAY_LEN(f->order)] = slot;
	if (f->recv_on_accept)
		do_recv(f, slot);
}

static void on_connected(void *arg, uint32_t slot, int err)
{
	struct fixture *f = arg;
	struct conn *c = conn_at(f, slot, CONN_CONNECTING);

	c->state = CONN_OPEN;
	c->connect_err = err;
	f->connected++;
}

static void on_received(void *arg, uint32_t slot, const uint8_t *p, int n)
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

static void on_readable(void *arg, uint32_t slot)
{
	struct fixture *f = arg;
	struct conn *c = conn_at(f, slot, CONN_OPEN);

	assert_true(c->reading);
	c->reading = false;
	c->readables++;
	f->readable++;
}

static void on_sent(void *arg, uint32_t slot, int err)
{
	struct fixture *f = arg;
	struct conn *c = conn_at(f, slot, CONN_OPEN);

	assert_true(c->sending);
	c->sending = false;
	c->sent_err = err;
	f->sent++;
	if (f->echo && !c->reading)
		do_recv(f, slot);
}

static void on_released(void *arg, uint32_t slot)
{
	struct fixture *f = arg;

	conn_at(f, slot, CONN_CLOSING)->state = CONN_FREE;
	f->released++;
}

static void on_message(void *arg, struct loop_msg *m)
{
	struct fixture *f = arg;

	f->messages++;
	if (f->on_message)
		f->on_message(f, m);
}

static void on_committed(void *arg)
{
	struct fixture *f = arg;

	f->commits++;
	f->received_at_commit = f->received;
}

static uint64_t on_tick(void *arg, uint64_t now_ms)
{
	struct fixture *f = arg;

	f->ticks++;
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
	.message = on_message,
	.committed = on_committed,
	.tick = on_tick,
};

/* Runs the loop until *counter >= count. */
static bool reached(struct fixture *f, const unsigned *counter, unsigned count)
{
	f->until = counter;
	f->until_count = count;
	f->deadline_ms = clock_mono_ms() + BOUND_MS;
	if (*counter < count)
		loop_run(f->loop);
	return *counter >= count;
}

/* Lets everything happen that is ready to. */
static void settle(struct fixture *f)
{
	unsigned turns = f->ticks + 4;

	f->tick_every_ms = 1;
	assert_true(reached(f, &f->ticks, turns));
	f->tick_every_ms = 0;
}

static int listen_any(struct sockaddr_in *addr_out, int backlog)
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

static struct fixture *fixture_new(const struct loop_options *o)
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

static struct fixture *fixture_listening(const struct loop_options *o)
{
	struct fixture *f = fixture_new(o);

	loop_listen(f->loop, f->listen_fd);
	return f;
}

static void fixture_free(struct fixture *f)
{
	loop_free(&f->loop);
	assert_null(f->loop);
	close(f->listen_fd);
	free(f);
}

static const struct loop_options plain = {.conns_max = 256, .cpu = -1};

static int client_to(const struct sockaddr_in *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)addr, sizeof(*addr)), 0);
	return fd;
}

static void client_send(int fd, const char *s)
{
	assert_int_equal(send(fd, s, strlen(s), MSG_NOSIGNAL), strlen(s));
}

/* What one read of the peer gives: bytes, 0, or -errno. Bounded. */
static int client_read(int fd, void *p, size_t n)
{
	ssize_t got;

	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, BOUND_MS), 1);
	got = recv(fd, p, n, 0);
	return got < 0 ? -errno : (int)got;
}

static void client_expect(int fd, const char *s)
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

/* ---- tests ---- */

static void what_is_sent_comes_back(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);
	struct sockaddr_in me;
	socklen_t me_bytes = sizeof(me);
	char byte;

	(void)state;
	f->echo = f->recv_on_accept = true;
	client_send(c, "hello");
	assert_true(reached(f, &f->sent, 1));
	client_expect(c, "hello");
	client_send(c, "again");
	assert_true(reached(f, &f->sent, 2));
	client_expect(c, "again");

	/* The peer's address, in v4-mapped form. */
	uint32_t slot = f->order[0];
	getsockname(c, (struct sockaddr *)&me, &me_bytes);
	assert_int_equal(f->conns[slot].peer.port, ntohs(me.sin_port));
	assert_memory_equal(f->conns[slot].peer.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1", 16);

	shutdown(c, SHUT_WR);
	assert_true(reached(f, &f->released, 1));
	assert_int_equal(client_read(c, &byte, 1), 0);
	close(c);
	fixture_free(f);
}

static void both_ends_in_one_loop(void **state)
{
	struct fixture *f = fixture_listening(&plain);

	(void)state;
	for (unsigned i = 1; i <= 20; i++) {
		uint32_t a = do_connect(f, &f->addr, NULL);

		assert_int_not_equal(a, UINT32_MAX);
		assert_true(reached(f, &f->connected, i));
		assert_true(reached(f, &f->accepted, i));
		assert_int_equal(f->conns[a].connect_err, 0);
		uint32_t b = f->order[i - 1];
		assert_int_not_equal(a, b);
		do_send(f, a, "ping", 4);
		do_recv(f, b);
		assert_true(reached(f, &f->received, i));
		assert_int_equal(f->conns[b].n, 4);
		if (i % 2) {
			do_close(f, a, false);
			do_close(f, b, false);
		}
	}
	assert_true(reached(f, &f->released, 20));
	fixture_free(f);
}

/* To the parked phone: bytes, FIN and RST all wake it. */
static void a_parked_connection_wakes(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	struct linger rst = {.l_onoff = 1};
	int c[3];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		c[i] = client_to(&f->addr);
		assert_true(reached(f, &f->accepted, i + 1));
		do_watch(f, f->order[i]);
	}
	settle(f);
	assert_int_equal(f->readable, 0);
	client_send(c[0], "x");
	assert_true(reached(f, &f->readable, 1));
	close(c[1]);
	assert_true(reached(f, &f->readable, 2));
	setsockopt(c[2], SOL_SOCKET, SO_LINGER, &rst, sizeof(rst));
	close(c[2]);
	assert_true(reached(f, &f->readable, 3));
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(f->conns[f->order[i]].readables, 1);
		do_recv(f, f->order[i]);
	}
	assert_true(reached(f, &f->received, 3));
	assert_int_equal(f->conns[f->order[0]].last, 1);
	assert_int_equal(f->conns[f->order[1]].last, 0);
	assert_int_equal(f->conns[f->order[2]].last, -ECONNRESET);
	close(c[0]);
	fixture_free(f);
}

static void an_unwatched_connection_is_silent(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);

	(void)state;
	assert_true(reached(f, &f->accepted, 1));
	uint32_t slot = f->order[0];
	do_watch(f, slot);
	settle(f);
	do_unwatch(f, slot);
	client_send(c, "bytes");
	settle(f);
	assert_int_equal(f->readable, 0);
	do_recv(f, slot);
	settle(f);
	/* Bytes are there and so is the cancelled wait: only the new one speaks. */
	assert_int_equal(f->received, 1);
	assert_memory_equal(f->conns[slot].bytes, "bytes", 5);
	/* All pairs of old and new wait, without a turn in between. */
	for (int i = 0; i < 8; i++) {
		(i & 1 ? do_watch : do_recv)(f, slot);
		if (i & 4)
			settle(f);
		do_unwatch(f, slot);
		(i & 2 ? do_watch : do_recv)(f, slot);
		if (i & 4)
			settle(f);
		do_unwatch(f, slot);
	}
	do_unwatch(f, slot);
	do_recv(f, slot);
	client_send(c, "!");
	assert_true(reached(f, &f->received, 2));
	assert_int_equal(f->readable, 0);
	assert_int_equal(f->conns[slot].n, 6);
	close(c);
	fixture_free(f);
}

static uint32_t twin_of(struct fixture *f, uint32_t slot)
{
	return slot == f->order[0] ? f->order[1] : f->order[0];
}

static void unwatch_twin(struct fixture *f, uint32_t slot)
{
	f->on_received = NULL;
	do_unwatch(f, twin_of(f, slot));
}

/* To whoever stops reading: bytes that the kernel had already taken are not lost. Both receives
 * complete in one batch; the first upcall takes the other receive back. */
static void unwatch_keeps_bytes(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c[2];

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		unsigned before = f->accepted, got = f->received, woken = f->readable;

		for (unsigned i = 0; i < 2; i++) {
			c[i] = client_to(&f->addr);
			assert_true(reached(f, &f->accepted, before + i + 1));
			f->order[i] = f->order[before + i];
			do_recv(f, f->order[i]);
		}
		settle(f);
		client_send(c[0], "first");
		client_send(c[1], "first");
		f->on_received = unwatch_twin;
		assert_true(reached(f, &f->received, got + 1));
		settle(f);
		assert_int_equal(f->received, got + 1);
		uint32_t silent = f->conns[f->order[0]].n ? f->order[1] : f->order[0];
		int peer = silent == f->order[0] ? c[0] : c[1];
		assert_int_equal(f->conns[silent].n, 0);
		client_send(peer, "second");
		if (round & 1) {
			do_watch(f, silent);
			assert_true(reached(f, &f->readable, woken + 1));
		}
		if (round & 2) {
			do_recv(f, silent);
			do_unwatch(f, silent);
			settle(f);
			assert_int_equal(f->received, got + 1);
		}
		if (round == 3) { /* closing with bytes kept */
			do_recv(f, silent);
			do_close(f, silent, false);
			do_close(f, twin_of(f, silent), false);
		} else {
			while (f->conns[silent].n < 11) {
				do_recv(f, silent);
				assert_true(reached(f, &f->received, f->received + 1));
			}
			assert_memory_equal(f->conns[silent].bytes, "firstsecond", 11);
			do_close(f, silent, false);
			do_close(f, twin_of(f, silent), true);
		}
		assert_true(reached(f, &f->released, 2 * round + 2));
		close(c[0]);
		close(c[1]);
	}
	fixture_free(f);
}

static void *slow_reader(void *arg)
{
	int fd = *(int *)arg;
	static _Thread_local uint8_t chunk[100000];
	uint64_t sum = 0, total = 0;
	ssize_t n;

	while ((n = recv(fd, chunk, sizeof(chunk), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			sum += chunk[i] * (total + (uint64_t)i) % 251;
		total += (uint64_t)n;
	}
	uint64_t *out = malloc(2 * sizeof(*out));
	out[0] = total;
	out[1] = sum;
	return out;
}

static void a_big_send_reaches_a_slow_reader_whole(void **state)
{
	enum { BIG = 24 << 20 };
	struct fixture *f = fixture_listening(&plain);
	int small = 4096, c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint8_t *big = malloc(BIG);
	uint64_t sum = 0, *got;
	pthread_t reader;

	(void)state;
	assert_non_null(big);
	for (uint64_t i = 0; i < BIG; i++) {
		big[i] = (uint8_t)(i * 7 + i / 1000);
		sum += big[i] * i % 251;
	}
	setsockopt(c, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	assert_int_equal(connect(c, (struct sockaddr *)&f->addr, sizeof(f->addr)), 0);
	assert_true(reached(f, &f->accepted, 1));
	do_send(f, f->order[0], big, BIG);
	settle(f);
	assert_int_equal(f->sent, 0); /* nobody reads yet */
	assert_int_equal(pthread_create(&reader, NULL, slow_reader, &c), 0);
	assert_true(reached(f, &f->sent, 1));
	assert_int_equal(f->conns[f->order[0]].sent_err, 0);
	do_close(f, f->order[0], false);
	assert_true(reached(f, &f->released, 1));
	pthread_join(reader, (void **)&got);
	assert_int_equal(got[0], BIG);
	assert_int_equal(got[1], sum);
	free(got);
	free(big);
	close(c);
	fixture_free(f);
}

static void closing_ends_a_send(void **state)
{
	enum { BIG = 8 << 20 };
	struct fixture *f = fixture_listening(&plain);
	uint8_t *big = calloc(1, BIG);
	char chunk[65536];

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		bool reset = i & 1;
		int c = client_to(&f->addr), n;

		assert_true(reached(f, &f->accepted, i + 1));
		uint32_t slot = f->order[i];
		do_send(f, slot, big, BIG);
		(i & 2 ? do_recv : do_watch)(f, slot);
		settle(f);
		do_close(f, slot, reset);
		assert_true(reached(f, &f->released, i + 1));
		/* The buffer is ours again. */
		memset(big, 1, BIG);
		while ((n = client_read(c, chunk, sizeof(chunk))) > 0)
			;
		assert_int_equal(n, reset ? -ECONNRESET : 0);
		close(c);
	}
	assert_int_equal(f->sent, 0);
	free(big);
	fixture_free(f);
}

/* A send to a peer that has gone is an error, once. */
static void sending_to_a_dead_peer_fails(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);
	struct linger rst = {.l_onoff = 1};

	(void)state;
	assert_true(reached(f, &f->accepted, 1));
	setsockopt(c, SOL_SOCKET, SO_LINGER, &rst, sizeof(rst));
	close(c);
	do_send(f, f->order[0], "x", 1);
	assert_true(reached(f, &f->sent, 1));
	assert_true(f->conns[f->order[0]].sent_err < 0);
	/* Closing what is reset already, both ways. */
	do_close(f, f->order[0], true);
	assert_true(reached(f, &f->released, 1));
	fixture_free(f);
}

/* To the next owner of a slot: nothing of the previous one reaches it. The fixture's account of
 * slots fails on any upcall out of order. */
static void slots_are_used_again_and_again(void **state)
{
	struct fixture *f = fixture_listening(
		&(struct loop_options){.conns_max = 96, .ring_conns_max = 96, .cpu = -1});
	unsigned rounds = 300, opened = 0;
	struct {
		int fd;
	} c[16];

	(void)state;
	for (unsigned r = 0; r < rounds; r++) {
		for (unsigned i = 0; i < 16; i++)
			c[i].fd = client_to(&f->addr);
		assert_true(reached(f, &f->accepted, opened + 16));
		for (unsigned i = 0; i < 16; i++) {
			uint32_t slot = f->order[(opened + i) % ARRAY_LEN(f->order)];

			if (i & 1)
				do_recv(f, slot);
			else
				do_watch(f, slot);
			if (i & 2)
				client_send(c[i].fd, "cross");
			if (i & 4)
				do_send(f, slot, "answer", 6);
			if (i & 8)
				do_close(f, slot, r & 1);
		}
		for (unsigned i = 0; i < 16; i++) {
			uint32_t slot = f->order[(opened + i) % ARRAY_LEN(f->order)];

			close(c[i].fd);
			if (!(i & 8))
				do_close(f, slot, r & 1);
		}
		opened += 16;
		/* New clients come while the old slots are still closing, on odd rounds. */
		if (r % 2 == 0)
			assert_true(reached(f, &f->released, opened));
	}
	assert_true(reached(f, &f->released, opened));
	for (unsigned i = 0; i < CONNS; i++)
		assert_int_equal(f->conns[i].state, CONN_FREE);
	fixture_free(f);
}

/* Connecting while slots close: an index must not come back before released() for it. */
static void connects_cross_closes(void **state)
{
	struct fixture *f = fixture_listening(&(struct loop_options){.conns_max = 300, .cpu = -1});

	(void)state;
	unsigned made = 0, gone = 0;
	for (unsigned r = 0; r < 60; r++) {
		uint32_t mine[20];

		for (unsigned i = 0; i < 20; i++) {
			mine[i] = do_connect(f, &f->addr, NULL);
			assert_int_not_equal(mine[i], UINT32_MAX);
		}
		made += 20;
		assert_true(reached(f, &f->connected, made));
		assert_true(reached(f, &f->accepted, made));
		for (unsigned i = 0; i < 20; i++) {
			do_close(f, mine[i], true);
			do_close(f, f->order[(made - 20 + i) % ARRAY_LEN(f->order)], true);
		}
		gone += 40;
		if (r % 4 == 3)
			assert_true(reached(f, &f->released, gone));
	}
	assert_true(reached(f, &f->released, gone));
	fixture_free(f);
}

struct numbered {
	struct loop_msg m;
	unsigned sender, number;
};

enum { SENDERS = 4, POSTS = 5000 };

struct sender {
	struct loop *to;
	struct numbered *posts;
	pthread_t thread;
};

static unsigned next_of[SENDERS];

static void number_in_order(struct fixture *f, struct loop_msg *m)
{
	struct numbered *n = (struct numbered *)m;

	(void)f;
	assert_int_equal(n->number, next_of[n->sender]++);
}

static void *send_posts(void *arg)
{
	struct sender *s = arg;

	for (unsigned i = 0; i < POSTS; i++) {
		loop_post(s->to, &s->posts[i].m);
		if (i % 64 == 0)
			sched_yield(); /* so that the loop falls asleep now and then */
	}
	return NULL;
}

static void posts_arrive_in_order(void **state)
{
	struct fixture *f = fixture_new(&plain);
	struct sender s[SENDERS];

	(void)state;
	memset(next_of, 0, sizeof(next_of));
	f->on_message = number_in_order;
	for (unsigned k = 0; k < SENDERS; k++) {
		s[k].to = f->loop;
		s[k].posts = calloc(POSTS, sizeof(*s[k].posts));
		for (unsigned i = 0; i < POSTS; i++) {
			s[k].posts[i].sender = k;
			s[k].posts[i].number = i;
		}
		pthread_create(&s[k].thread, NULL, send_posts, &s[k]);
	}
	assert_true(reached(f, &f->messages, SENDERS * POSTS));
	for (unsigned k = 0; k < SENDERS; k++) {
		pthread_join(s[k].thread, NULL);
		free(s[k].posts);
	}
	fixture_free(f);
}

/* Two loops throw one message to and fro; each sleeps meanwhile, so one lost wake-up ends it. */
struct player {
	struct fixture *f;
	struct player *other;
	struct loop_options options;
	pthread_barrier_t *ready;
	unsigned rounds, crowd;
};

static _Thread_local struct player *player_self;

static void bounce(struct fixture *f, struct loop_msg *m)
{
	(void)f;
	if (m->kind == 0)
		return;
	m->kind--;
	loop_post(player_self->other->f->loop, m);
}

static void *play(void *arg)
{
	struct player *p = arg;

	player_self = p;
	p->f = fixture_new(&p->options);
	p->f->on_message = bounce;
	/* Connections to itself, to make it open all its rings. */
	if (p->crowd)
		loop_listen(p->f->loop, p->f->listen_fd);
	for (unsigned i = 0; i < p->crowd; i++)
		do_connect(p->f, &p->f->addr, NULL);
	reached(p->f, &p->f->accepted, p->crowd);
	pthread_barrier_wait(p->ready);
	bool ok = reached(p->f, &p->f->messages, p->rounds);
	/* Freed only when nobody can post to it any more. */
	pthread_barrier_wait(p->ready);
	fixture_free(p->f);
	return ok ? p : NULL;
}

static void play_to_and_fro(const struct loop_options *first, unsigned crowd_a, unsigned crowd_b)
{
	enum { ROUNDS = 4000 };
	struct loop_msg ball = {.kind = 2 * ROUNDS - 1};
	struct player a, b;
	pthread_barrier_t ready;
	pthread_t ta, tb;
	void *ra, *rb;

	pthread_barrier_init(&ready, NULL, 3);
	a = (struct player){.other = &b,
		.options = *first,
		.ready = &ready,
		.rounds = ROUNDS,
		.crowd = crowd_a};
	b = (struct player){.other = &a,
		.options = *first,
		.ready = &ready,
		.rounds = ROUNDS,
		.crowd = crowd_b};
	pthread_create(&ta, NULL, play, &a);
	pthread_create(&tb, NULL, play, &b);
	pthread_barrier_wait(&ready);
	loop_post(a.f->loop, &ball);
	pthread_barrier_wait(&ready);
	pthread_join(ta, &ra);
	pthread_join(tb, &rb);
	assert_non_null(ra);
	assert_non_null(rb);
	pthread_barrier_destroy(&ready);
}

static void loops_wake_each_other(void **state)
{
	(void)state;
	play_to_and_fro(&plain, 0, 0);
}

static void loops_of_many_rings_wake_each_other(void **state)
{
	const struct loop_options many = {.conns_max = 256, .ring_conns_max = 8, .cpu = -1};

	(void)state;
	play_to_and_fro(&many, 60, 60);
	play_to_and_fro(&many, 60, 0);
}

/* Another process moves the word: every move is followed by an upcall that can see it. */
static void commits_of_another_process_are_seen(void **state)
{
	struct {
		_Atomic uint32_t word, seen;
	} *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	enum { COMMITS = 500 };
	struct fixture *f = fixture_new(
		&(struct loop_options){.conns_max = 16, .cpu = -1, .commit_word = &shared->word});
	pid_t child;
	int status;

	(void)state;
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		uint64_t until = clock_mono_ms() + BOUND_MS;

		for (uint32_t i = 1; i <= COMMITS; i++) {
			atomic_store(&shared->word, i);
			syscall(SYS_futex, &shared->word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
			while (atomic_load(&shared->seen) < i)
				if (clock_mono_ms() > until)
					_exit(1);
		}
		_exit(0);
	}
	while (atomic_load(&shared->seen) < COMMITS) {
		assert_true(reached(f, &f->commits, f->commits + 1));
		atomic_store(&shared->seen, atomic_load(&shared->word));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	fixture_free(f);
	munmap(shared, 4096);
}

static void move_word_once(struct fixture *f, uint32_t slot)
{
	(void)slot;
	if (f->received == 1)
		atomic_fetch_add(f->word, 1);
}

/* To a phone that hangs while thousands shake hands: their bytes, which are all there, do not come before
 * its mail. Nobody wakes the futex here, so it is the looking that finds it. */
static void a_commit_overtakes_completions(void **state)
{
	static _Atomic uint32_t word;
	struct fixture *f = fixture_listening(
		&(struct loop_options){.conns_max = 256, .cpu = -1, .commit_word = &word});
	enum { CLIENTS = 120 };
	unsigned before;
	int c[CLIENTS];

	(void)state;
	f->word = &word;
	f->on_received = move_word_once;
	for (unsigned i = 0; i < CLIENTS; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, CLIENTS));
	for (unsigned i = 0; i < CLIENTS; i++)
		do_recv(f, f->order[i]);
	settle(f);
	before = f->commits;
	for (unsigned i = 0; i < CLIENTS; i++)
		client_send(c[i], "x");
	assert_true(reached(f, &f->received, CLIENTS));
	assert_int_equal(f->commits, before + 1);
	assert_in_range(f->received_at_commit, 1, 1 + 16);
	/* Seen is seen, until it moves again. */
	assert_false(loop_commit_moved(f->loop));
	atomic_fetch_add(&word, 1);
	assert_true(loop_commit_moved(f->loop));
	assert_false(loop_commit_moved(f->loop));
	/* and when the futex is woken at last, there is nothing new to tell */
	syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	settle(f);
	assert_int_equal(f->commits, before + 1);
	for (unsigned i = 0; i < CLIENTS; i++)
		close(c[i]);
	fixture_free(f);
}

/* To the newcomer: a full server says so at once. And one that has room again accepts. */
static void a_full_table_refuses(void **state)
{
	struct fixture *f = fixture_listening(&(struct loop_options){.conns_max = 4, .cpu = -1});
	int c[24];
	char byte;
	int64_t refused = metrics_sum(M_CONNS_REFUSED_FULL);

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 4));
	for (unsigned i = 4; i < 24; i++)
		c[i] = client_to(&f->addr);
	for (unsigned i = 4; i < 24; i++) {
		while (poll(&(struct pollfd){.fd = c[i], .events = POLLIN}, 1, 0) == 0)
			settle(f);
		assert_int_equal(client_read(c[i], &byte, 1), -ECONNRESET);
		close(c[i]);
	}
	assert_int_equal(metrics_sum(M_CONNS_REFUSED_FULL) - refused, 20);
	assert_int_equal(f->accepted, 4);
	for (unsigned i = 0; i < 3; i++)
		do_close(f, f->order[i], false);
	assert_true(reached(f, &f->released, 3));
	settle(f);
	for (unsigned i = 4; i < 7; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 7));
	for (unsigned i = 0; i < 7; i++)
		close(c[i]);
	fixture_free(f);
}

/* Two listeners share the last slots: none starves while the other holds spare accepts.
 * One slot may stay promised to the other. */
static void listeners_share_what_is_left(void **state)
{
	struct fixture *f = fixture_listening(&(struct loop_options){.conns_max = 7, .cpu = -1});
	struct sockaddr_in other;
	int fd = listen_any(&other, 16), c[6];

	(void)state;
	loop_listen(f->loop, fd);
	for (unsigned i = 0; i < 6; i++) {
		c[i] = client_to(&other);
		assert_true(reached(f, &f->accepted, i + 1));
		assert_int_equal(f->conns[f->order[i]].listener, 1);
	}
	for (unsigned i = 0; i < 6; i++)
		close(c[i]);
	close(fd);
	fixture_free(f);
}

static void many_rings_serve_as_one(void **state)
{
	enum { N = 200 };
	struct fixture *f = fixture_listening(&(struct loop_options){
		.conns_max = N, .ring_conns_max = 16, .buffers = 8, .cpu = -1});
	static int c[N];
	unsigned rings[16] = {0};

	(void)state;
	f->echo = f->recv_on_accept = true;
	assert_int_equal(loop_slots_max(f->loop), 208);
	for (unsigned i = 0; i < N; i++) {
		c[i] = client_to(&f->addr);
		if (i % 50 == 49)
			assert_true(reached(f, &f->accepted, i + 1));
	}
	for (unsigned i = 0; i < N; i++)
		rings[f->order[i] / 16]++;
	for (unsigned i = 0; i < 12; i++)
		assert_true(rings[i] > 0 && rings[i] <= 16);
	for (unsigned r = 1; r <= 3; r++) {
		for (unsigned i = 0; i < N; i++)
			client_send(c[i], "all of them");
		assert_true(reached(f, &f->sent, r * N));
		for (unsigned i = 0; i < N; i++)
			client_expect(c[i], "all of them");
	}
	/* One at a time: the loop sleeps between, so each wakes it alone. */
	for (unsigned i = 0; i < N; i++) {
		client_send(c[i], "one");
		assert_true(reached(f, &f->sent, 3 * N + i + 1));
		client_expect(c[i], "one");
	}
	for (unsigned i = 0; i < N; i++)
		close(c[i]);
	assert_true(reached(f, &f->released, N));
	/* And posts and refilling work as before. */
	c[0] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, N + 1));
	close(c[0]);
	assert_true(reached(f, &f->released, N + 1));
	fixture_free(f);
}

static void posts_wake_a_loop_of_many_rings(void **state)
{
	struct fixture *f = fixture_listening(
		&(struct loop_options){.conns_max = 48, .ring_conns_max = 8, .cpu = -1});
	struct sender s = {.to = f->loop};
	int c[48];

	(void)state;
	for (unsigned i = 0; i < 48; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 48));
	memset(next_of, 0, sizeof(next_of));
	f->on_message = number_in_order;
	s.posts = calloc(POSTS, sizeof(*s.posts));
	for (unsigned i = 0; i < POSTS; i++)
		s.posts[i].number = i;
	pthread_create(&s.thread, NULL, send_posts, &s);
	assert_true(reached(f, &f->messages, POSTS));
	pthread_join(s.thread, NULL);
	free(s.posts);
	for (unsigned i = 0; i < 48; i++)
		close(c[i]);
	fixture_free(f);
}

/* More receives than buffers: all are served in the end, and the idle ones are armed too. */
static void few_buffers_serve_many(void **state)
{
	enum { N = 120 };
	struct fixture *f = fixture_listening(&(struct loop_options){
		.conns_max = 256, .buffers = 2, .buffer_bytes = 64, .cpu = -1});
	static int c[N];
	int64_t starved = metrics_sum(M_RING_NOBUFS);

	(void)state;
	f->echo = f->recv_on_accept = true;
	for (unsigned i = 0; i < N; i++)
		c[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, N));
	settle(f);
	for (unsigned r = 1; r <= 5; r++) {
		for (unsigned i = 0; i < N; i++)
			client_send(c[i], "hungry");
		assert_true(reached(f, &f->sent, r * N));
	}
	assert_true(metrics_sum(M_RING_NOBUFS) > starved);
	/* Closing and taking back while hungry. */
	for (unsigned i = 0; i < N; i++)
		client_send(c[i], "late");
	f->echo = false;
	assert_true(reached(f, &f->received, 5 * N + 1));
	for (unsigned i = 0; i < N; i++) {
		struct conn *k = &f->conns[f->order[i]];

		if (k->reading && i % 3 == 0)
			do_unwatch(f, f->order[i]);
		else if (k->state == CONN_OPEN && !k->sending)
			do_close(f, f->order[i], false);
	}
	settle(f);
	for (unsigned i = 0; i < N; i++)
		if (f->conns[f->order[i]].state == CONN_OPEN)
			do_close(f, f->order[i], false);
	assert_true(reached(f, &f->released, N));
	for (unsigned i = 0; i < N; i++)
		close(c[i]);
	fixture_free(f);
}

static void connecting_may_fail(void **state)
{
	struct fixture *f = fixture_new(&(struct loop_options){.conns_max = 3, .cpu = -1});
	struct sockaddr_in gone, nowhere = {.sin_family = AF_INET};
	int fd = listen_any(&gone, 1);

	(void)state;
	close(fd);
	inet_pton(AF_INET, "192.0.2.1", &nowhere.sin_addr);
	uint32_t a = do_connect(f, &gone, NULL), b = do_connect(f, &f->addr, &nowhere);
	uint32_t ok = do_connect(f, &f->addr, NULL);
	assert_int_equal(do_connect(f, &f->addr, NULL), UINT32_MAX);
	assert_true(reached(f, &f->connected, 3));
	assert_int_equal(f->conns[a].connect_err, -ECONNREFUSED);
	assert_int_equal(f->conns[b].connect_err, -EADDRNOTAVAIL);
	assert_int_equal(f->conns[ok].connect_err, 0);
	do_close(f, a, false);
	do_close(f, b, true);
	assert_true(reached(f, &f->released, 2));
	assert_int_not_equal(do_connect(f, &f->addr, NULL), UINT32_MAX);
	assert_true(reached(f, &f->connected, 4));
	fixture_free(f);
}

/* Closing before the answer: no connected(), released() once. */
static void a_connect_can_be_given_up(void **state)
{
	struct fixture *f = fixture_new(&plain);
	struct sockaddr_in full;
	int fd = listen_any(&full, 0);
	uint32_t slots[8];

	(void)state;
	/* The backlog fills, then the SYNs are not answered. */
	for (unsigned i = 0; i < 8; i++)
		slots[i] = do_connect(f, &full, NULL);
	settle(f);
	assert_true(f->connected < 8);
	for (unsigned i = 0; i < 8; i++)
		do_close(f, slots[i], i & 1);
	unsigned before = f->connected;
	/* And one in the same turn. */
	uint32_t hasty = do_connect(f, &f->addr, NULL);
	do_close(f, hasty, false);
	assert_true(reached(f, &f->released, 9));
	assert_int_equal(f->connected, before);
	close(fd);
	fixture_free(f);
}

static void source_address_is_kept(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000007)};

	(void)state;
	do_connect(f, &f->addr, &from);
	assert_true(reached(f, &f->accepted, 1));
	assert_true(reached(f, &f->connected, 1));
	assert_memory_equal(f->conns[f->order[0]].peer.ip + 12, "\x7f\0\0\7", 4);
	fixture_free(f);
}

/* A phone that vanished: its peer hears nothing, neither ACK nor RST, until it gives up by itself. */
static void a_deaf_connection_is_given_up(void **state)
{
	struct fixture *f = fixture_new(&plain);
	const int limit_ms = 300;
	uint32_t slot;
	char byte;
	int peer;

	(void)state;
	if (!ring_has(RING_FUTEX)) { /* as old as the operation */
		fixture_free(f);
		return;
	}
	slot = do_connect(f, &f->addr, NULL);
	assert_true(reached(f, &f->connected, 1));
	peer = accept(f->listen_fd, NULL, NULL);
	assert_true(peer >= 0);
	do_watch(f, slot);
	loop_deafen(f->loop, slot);
	settle(f);
	setsockopt(peer, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit_ms, sizeof(limit_ms));
	client_send(peer, "is anybody there?");
	assert_int_equal(client_read(peer, &byte, 1), -ETIMEDOUT);
	settle(f);
	assert_int_equal(f->readable, 0);
	do_close(f, slot, true);
	assert_true(reached(f, &f->released, 1));
	close(peer);
	fixture_free(f);
}

static void draining_accepts_no_more(void **state)
{
	struct fixture *f = fixture_listening(&plain);
	int c = client_to(&f->addr);

	(void)state;
	f->echo = f->recv_on_accept = true;
	assert_true(reached(f, &f->accepted, 1));
	loop_listen_stop(f->loop);
	close(f->listen_fd);
	settle(f);
	int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(late, (struct sockaddr *)&f->addr, sizeof(f->addr)), -1);
	assert_int_equal(errno, ECONNREFUSED);
	close(late);
	client_send(c, "still here");
	assert_true(reached(f, &f->sent, 1));
	client_expect(c, "still here");
	/* A new listener is accepted from. */
	f->listen_fd = listen_any(&f->addr, 16);
	loop_listen(f->loop, f->listen_fd);
	late = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 2));
	close(late);
	close(c);
	fixture_free(f);
}

/* A descriptor that cannot be accepted from is given up; the other listener goes on, also when
 * somebody made it non-blocking. */
static void a_bad_listener_does_no_harm(void **state)
{
	struct fixture *f = fixture_new(&plain);
	int p[2], c;

	(void)state;
	assert_int_equal(pipe(p), 0);
	loop_listen(f->loop, p[0]);
	fcntl(f->listen_fd, F_SETFL, O_NONBLOCK);
	loop_listen(f->loop, f->listen_fd);
	settle(f);
	c = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 1));
	assert_int_equal(f->conns[f->order[0]].listener, 1);
	fcntl(f->listen_fd, F_SETFL, O_NONBLOCK);
	int d[70];
	for (unsigned i = 0; i < 70; i++)
		d[i] = client_to(&f->addr);
	assert_true(reached(f, &f->accepted, 71));
	for (unsigned i = 0; i < 70; i++)
		close(d[i]);
	close(p[0]);
	close(p[1]);
	close(c);
	fixture_free(f);
}

static void the_tick_is_on_time(void **state)
{
	struct fixture *f = fixture_new(&plain);
	uint64_t start = clock_mono_ms();

	(void)state;
	f->tick_every_ms = 2;
	assert_true(reached(f, &f->ticks, 20));
	uint64_t took = clock_mono_ms() - start;
	assert_true(took >= 20); /* it slept between them */
	assert_true(took < BOUND_MS / 4);
	assert_true(loop_now_ms(f->loop) >= start);
	assert_true(loop_now_ns(f->loop) / 1000000 >= loop_now_ms(f->loop));
	fixture_free(f);
}

static void *stop_it(void *arg)
{
	loop_stop(arg);
	return NULL;
}

static void stopping_works_from_anywhere(void **state)
{
	struct fixture *f = fixture_new(&plain);
	pthread_t t;

	(void)state;
	f->deadline_ms = UINT64_MAX;
	loop_stop(f->loop); /* before it runs */
	loop_run(f->loop);
	for (int i = 0; i < 200; i++) {
		pthread_create(&t, NULL, stop_it, f->loop);
		loop_run(f->loop);
		pthread_join(t, NULL);
	}
	fixture_free(f);
}

static void too_many_connections_are_explained(void **state)
{
	char why[200] = "";

	(void)state;
	assert_null(loop_new(&(struct loop_options){.conns_max = 1000000, .ring_conns_max = 16},
		&events, NULL, why, sizeof(why)));
	assert_non_null(strstr(why, "RLIMIT_NOFILE"));
}

/* In a child that may not use io_uring: the kernel answers `err` to io_uring_setup. */
static void explain_in_child(int err, const char *needle)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(code), .filter = code};
	pid_t child = fork();
	char why[200] = "";
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		struct rlimit few = {.rlim_cur = 64, .rlim_max = 64};
		struct loop_options o = {.conns_max = err ? 100 : 100000, .cpu = -1};
		bool forbidden =
			err ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
					prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0
			    : setrlimit(RLIMIT_NOFILE, &few) == 0;
		struct loop *l = forbidden ? loop_new(&o, &events, NULL, why, sizeof(why)) : NULL;

		_exit(!forbidden ? 3 : l ? 2 : !strstr(why, needle) || strchr(why, '\n'));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* To the operator: one line that says what is wrong and what helps. */
static void refusals_are_explained(void **state)
{
	(void)state;
	explain_in_child(EPERM, "seccomp");
	explain_in_child(ENOSYS, "Podman");
	explain_in_child(ENOMEM, "LimitMEMLOCK");
	explain_in_child(EINVAL, "6.1");
	explain_in_child(EMFILE, "LimitNOFILE");
	explain_in_child(0, "LimitNOFILE");
}

/* Features are asked for at every use, so hiding them takes effect for the loops made after. */
static int as_on_linux_6_1(void **state)
{
	(void)state;
	ring_features_hidden = RING_FUTEX | RING_PROMPT_CLOSE;
	ring_renew_ms = 5; /* so that it happens all the time */
	return 0;
}

int main(void)
{
	const struct CMUnitTest once[] = {
		cmocka_unit_test(what_is_sent_comes_back),
		cmocka_unit_test(both_ends_in_one_loop),
		cmocka_unit_test(a_parked_connection_wakes),
		cmocka_unit_test(an_unwatched_connection_is_silent),
		cmocka_unit_test(unwatch_keeps_bytes),
		cmocka_unit_test(a_big_send_reaches_a_slow_reader_whole),
		cmocka_unit_test(closing_ends_a_send),
		cmocka_unit_test(sending_to_a_dead_peer_fails),
		cmocka_unit_test(slots_are_used_again_and_again),
		cmocka_unit_test(connects_cross_closes),
		cmocka_unit_test(posts_arrive_in_order),
		cmocka_unit_test(loops_wake_each_other),
		cmocka_unit_test(commits_of_another_process_are_seen),
		cmocka_unit_test(a_commit_overtakes_completions),
		cmocka_unit_test(a_full_table_refuses),
		cmocka_unit_test(listeners_share_what_is_left),
		cmocka_unit_test(many_rings_serve_as_one),
		cmocka_unit_test(loops_of_many_rings_wake_each_other),
		cmocka_unit_test(posts_wake_a_loop_of_many_rings),
		cmocka_unit_test(few_buffers_serve_many),
		cmocka_unit_test(connecting_may_fail),
		cmocka_unit_test(a_connect_can_be_given_up),
		cmocka_unit_test(source_address_is_kept),
		cmocka_unit_test(a_deaf_connection_is_given_up),
		cmocka_unit_test(draining_accepts_no_more),
		cmocka_unit_test(a_bad_listener_does_no_harm),
		cmocka_unit_test(the_tick_is_on_time),
		cmocka_unit_test(stopping_works_from_anywhere),
		cmocka_unit_test(too_many_connections_are_explained),
		cmocka_unit_test(refusals_are_explained),
	};
	struct CMUnitTest tests[2 * ARRAY_LEN(once)];
	static char names[ARRAY_LEN(once)][80];

	for (size_t i = 0; i < ARRAY_LEN(once); i++) {
		tests[i] = tests[ARRAY_LEN(once) + i] = once[i];
		snprintf(names[i], sizeof(names[i]), "%s (as on Linux 6.1)", once[i].name);
		tests[ARRAY_LEN(once) + i].name = names[i];
		tests[ARRAY_LEN(once) + i].setup_func = as_on_linux_6_1;
	}
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
