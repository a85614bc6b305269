/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/serve.h"

#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENERS_MAX = 16, CLIENTS_MAX = 64, LINGER_MS = 1000, FAILED_PAUSE_MS = 100 };

enum client_state { CLIENT_READ, CLIENT_WRITE, CLIENT_LINGER };

struct client {
	int fd; /* -1: free */
	enum client_state state;
	bool close_after;
	uint64_t due_ms;
	uint8_t *in;
	size_t in_n, out_at;
	struct buf out;
};

struct serve {
	struct serve_protocol p;
	int listeners[LISTENERS_MAX];
	size_t listener_count;
	int stop_fd;
	pthread_t thread;
	struct client clients[CLIENTS_MAX];
	uint8_t *memory;
};

static void client_close(struct client *c)
{
	close(c->fd);
	c->fd = -1;
	buf_free(&c->out);
	c->out = (struct buf){0};
}

/* A close with unread bytes in the socket would reset the connection and may take the answer away
 * before the client has read it: so the sending side is closed first and the rest is read. */
static void client_linger(struct client *c, uint64_t now)
{
	shutdown(c->fd, SHUT_WR);
	c->state = CLIENT_LINGER;
	c->due_ms = now + LINGER_MS;
}

/* Runs the protocol on what is there. */
static void client_input(struct serve *s, struct client *c, uint64_t now)
{
	size_t used = 0;
	enum serve_next next;

	next = s->p.input(s->p.arg, bytes_of(c->in, c->in_n), &used, &c->out);
	CHECK(used <= c->in_n);
	if (next == SERVE_MORE) {
		if (c->in_n < s->p.in_bytes_max)
			return;
		next = SERVE_CLOSE;
	}
	memmove(c->in, c->in + used, c->in_n - used);
	c->in_n -= used;
	c->close_after = next == SERVE_CLOSE || c->out.failed;
	c->out_at = 0;
	c->state = CLIENT_WRITE;
	c->due_ms = now + s->p.answer_ms;
}

static void client_read(struct serve *s, struct client *c, uint64_t now)
{
	ssize_t n = recv(c->fd, c->in + c->in_n, s->p.in_bytes_max - c->in_n, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_close(c);
		return;
	}
	c->in_n += (size_t)n;
	client_input(s, c, now);
}

static void client_write(struct serve *s, struct client *c, uint64_t now)
{
	ssize_t n = 0;

	if (c->out_at < c->out.n)
		n = send(c->fd, c->out.p + c->out_at, c->out.n - c->out_at, MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		client_close(c);
		return;
	}
	c->out_at += (size_t)n;
	if (n > 0)
		c->due_ms = now + s->p.answer_ms;
	if (c->out_at < c->out.n)
		return;
	buf_free(&c->out);
	c->out = (struct buf){0};
	if (c->close_after) {
		client_linger(c, now);
		return;
	}
	c->state = CLIENT_READ;
	c->due_ms = now + s->p.request_ms;
	if (c->in_n) /* the next request came along with this one */
		client_input(s, c, now);
}

static void client_step(struct serve *s, struct client *c, short revents, uint64_t now)
{
	uint8_t drop[1024];
	ssize_t n;

	if (now >= c->due_ms) {
		client_close(c);
		return;
	}
	if (!revents)
		return;
	switch (c->state) {
	case CLIENT_READ:
		client_read(s, c, now);
		break;
	case CLIENT_WRITE:
		client_write(s, c, now);
		break;
	case CLIENT_LINGER:
		n = recv(c->fd, drop, sizeof(drop), 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			client_close(c);
		break;
	}
}

static void accept_one(struct serve *s, int listener, uint64_t now)
{
	struct client *c = NULL;
	int fd;

	for (unsigned i = 0; i < s->p.clients_max && !c; i++)
		if (s->clients[i].fd < 0)
			c = &s->clients[i];
	if (!c)
		return;
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return;
	c->fd = fd;
	c->state = CLIENT_READ;
	c->close_after = false;
	c->in_n = 0;
	c->out = (struct buf){0};
	c->due_ms = now + s->p.request_ms;
}

static void *serve_thread(void *arg)
{
	struct serve *s = arg;
	struct pollfd fds[1 + LISTENERS_MAX + CLIENTS_MAX];

	pthread_setname_np(pthread_self(), s->p.name);
	for (;;) {
		size_t n = 0, first_client;
		bool room = false;
		uint64_t now = clock_mono_ms(), due = now + 60000;

		fds[n++] = (struct pollfd){.fd = s->stop_fd, .events = POLLIN};
		for (unsigned i = 0; i < s->p.clients_max; i++)
			room |= s->clients[i].fd < 0;
		for (size_t i = 0; i < s->listener_count; i++)
			fds[n++] = (struct pollfd){
				.fd = room ? s->listeners[i] : -1, .events = POLLIN};
		first_client = n;
		for (unsigned i = 0; i < s->p.clients_max; i++) {
			struct client *c = &s->clients[i];

			fds[n++] = (struct pollfd){
				.fd = c->fd, .events = c->state == CLIENT_WRITE ? POLLOUT : POLLIN};
			if (c->fd >= 0 && c->due_ms < due)
				due = c->due_ms;
		}
		/* No memory, or RLIMIT_NOFILE has been lowered below n: nobody is served for now, but
		 * to be told to end needs one only. */
		if (poll(fds, n, due > now ? (int)(due - now) : 0) < 0 && errno != EINTR)
			poll(fds, 1, FAILED_PAUSE_MS);
		if (fds[0].revents)
			break;
		now = clock_mono_ms();
		for (unsigned i = 0; i < s->p.clients_max; i++)
			if (s->clients[i].fd >= 0)
				client_step(s, &s->clients[i], fds[first_client + i].revents, now);
		for (size_t i = 0; i < s->listener_count; i++)
			if (fds[1 + i].revents)
				accept_one(s, s->listeners[i], now);
	}
	/* An answer may be what tells that we end: it goes out as far as it does without waiting.
	 */
	for (unsigned i = 0; i < s->p.clients_max; i++)
		if (s->clients[i].fd >= 0 && s->clients[i].state == CLIENT_WRITE)
			client_write(s, &s->clients[i], clock_mono_ms());
	return NULL;
}

struct serve *serve_start(
	const struct serve_protocol *p, const int *fds, size_t n, char *why, size_t why_bytes)
{
	struct serve *s = calloc(1, sizeof(*s));

	CHECK(s && p->clients_max <= CLIENTS_MAX && n <= LISTENERS_MAX);
	s->p = *p;
	s->memory = malloc(p->clients_max * p->in_bytes_max);
	CHECK(s->memory);
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		s->clients[i].fd = -1;
		s->clients[i].in = i < p->clients_max ? s->memory + i * p->in_bytes_max : NULL;
	}
	for (; s->listener_count < n; s->listener_count++)
		s->listeners[s->listener_count] = fds[s->listener_count];
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (s->stop_fd < 0 || pthread_create(&s->thread, NULL, serve_thread, s) != 0) {
		snprintf(why, why_bytes, "%s: cannot start a thread: %s", p->name, strerror(errno));
		for (size_t i = 0; i < n; i++)
			close(fds[i]);
		if (s->stop_fd >= 0)
			close(s->stop_fd);
		free(s->memory);
		free(s);
		return NULL;
	}
	return s;
}

void serve_stop(struct serve **sp)
{
	struct serve *s = *sp;
	uint64_t one = 1;
	ssize_t n;

	if (!s)
		return;
	*sp = NULL;
	n = write(s->stop_fd, &one, sizeof(one));
	CHECK(n == sizeof(one));
	pthread_join(s->thread, NULL);
	for (unsigned i = 0; i < s->p.clients_max; i++)
		if (s->clients[i].fd >= 0)
			client_close(&s->clients[i]);
	for (size_t i = 0; i < s->listener_count; i++)
		close(s->listeners[i]);
	close(s->stop_fd);
	free(s->memory);
	free(s);
}
