/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A connection's life:
 *
 *   CLOSED --connect--> GREETING --220--> HELLO --250--> IDLE --a job--> ENVELOPE --354--> DATA
 *                                                          ^-------------all 250-----------'
 *
 * The answers come in the order of the commands, so `awaited` counts what is outstanding and `seen`
 * says which of them an answer is for. */
#include "bench/mail/mailer.h"

#include "bench/mail/smtp_reply.h"
#include "bench/fleet/url.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 16384 };

enum link_state { CLOSED, GREETING, HELLO, IDLE, ENVELOPE, DATA };

struct link {
	int fd;
	enum link_state state;
	bool pipelining;
	struct buf in, out;
	size_t in_at, out_at; /* taken of `in`, sent of `out` */
	size_t first, count;  /* recipients of the job: indexes into users */
	size_t awaited, seen; /* answers outstanding; answers of this step that came */
};

struct mailer {
	char name[256]; /* as given, for messages */
	bool lmtp;
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_storage room;
	} to;
	socklen_t to_bytes;
	void (*address)(uint32_t user, char *out, size_t cap);
	unsigned link_count;
	struct link links[MAILER_CONNECTIONS_MAX];
	uint64_t serial; /* of Message-ID */

	/* The send that is under way. */
	const uint32_t *users;
	uint64_t *done_ns;
	size_t n, next, done, per;
	char *why;
	size_t why_bytes;
};

static bool failed(struct mailer *m, const char *what, const char *more)
{
	snprintf(m->why, m->why_bytes, "%s: %s%s%s", m->name, what, more ? ": " : "",
		more ? more : "");
	return false;
}

static bool unexpected(struct mailer *m, const char *what, const struct smtp_reply *r)
{
	char line[200];

	snprintf(line, sizeof(line), "%.*s", (int)r->last.n, (const char *)r->last.p);
	return failed(m, what, line);
}

static void link_close(struct link *l)
{
	if (l->state != CLOSED)
		close(l->fd);
	l->fd = -1;
	l->state = CLOSED;
	l->in.n = l->out.n = l->in_at = l->out_at = l->awaited = l->seen = 0;
}

/* ---- where to ---- */

static bool parse_target(struct mailer *m)
{
	static const char what[] = "not lmtp://HOST:PORT, smtp://HOST:PORT or lmtp:/SOCKET";
	const char *path = m->name + 5;
	struct url u;

	m->lmtp = strncmp(m->name, "lmtp:", 5) == 0;
	if (!m->lmtp && strncmp(m->name, "smtp:", 5) != 0)
		return failed(m, what, NULL);
	if (strncmp(path, "//", 2) == 0) {
		char why[URL_WHY_BYTES];

		if (!url_parse(m->name, URL_LMTP | URL_SMTP, &u, why, sizeof(why)))
			return failed(m, why, NULL);
		if (u.path[0])
			return failed(m, what, NULL);
		memcpy(&m->to, &u.to, u.to_bytes);
		m->to_bytes = u.to_bytes;
		return true;
	}
	if (path[0] != '/' || strlen(path) >= sizeof(m->to.un.sun_path))
		return failed(m, what, NULL);
	m->to.un.sun_family = AF_UNIX;
	memcpy(m->to.un.sun_path, path, strlen(path));
	m->to_bytes = sizeof(m->to.un);
	return true;
}

/* ---- one connection ---- */

static bool link_open(struct mailer *m, struct link *l)
{
	int one = 1;

	l->fd = socket(m->to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l->fd < 0)
		return failed(m, strerror(errno), NULL);
	if (m->to.any.sa_family != AF_UNIX)
		setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(l->fd, &m->to.any, m->to_bytes) != 0 ||
		fcntl(l->fd, F_SETFL, O_NONBLOCK) != 0) {
		int err = errno;

		close(l->fd);
		l->fd = -1;
		return failed(m, strerror(err), NULL);
	}
	l->state = GREETING;
	l->pipelining = false;
	l->awaited = 1;
	return true;
}

/* As much as may go now: without PIPELINING a line at a time, each answered before the next. */
static bool link_flush(struct mailer *m, struct link *l)
{
	while (l->out_at < l->out.n) {
		const uint8_t *p = l->out.p + l->out_at;
		size_t n = l->out.n - l->out_at;
		ssize_t k;

		if (!l->pipelining && l->state == ENVELOPE) {
			const uint8_t *lf = memchr(p, '\n', n);
			bool at_start = l->out_at == 0 || p[-1] == '\n';

			/* Lines begun so far but for answers seen are outstanding. */
			if (at_start) {
				size_t begun = 0;

				for (size_t i = 0; i < l->out_at; i++)
					begun += l->out.p[i] == '\n';
				if (begun > l->seen)
					return true;
			}
			n = (size_t)(lf - p) + 1;
		}
		k = send(l->fd, p, n, MSG_NOSIGNAL);
		if (k < 0 && errno == EAGAIN)
			return true;
		if (k < 0)
			return failed(m, "sending", strerror(errno));
		l->out_at += (size_t)k;
	}
	return true;
}

static void link_say(struct link *l, const char *text)
{
	l->out.n = l->out_at = 0;
	buf_add_str(&l->out, text);
}

static void job_begin(struct mailer *m, struct link *l)
{
	char address[200];

	l->first = m->next;
	l->count = m->n - m->next < m->per ? m->n - m->next : m->per;
	m->next += l->count;
	l->out.n = l->out_at = 0;
	buf_add_str(&l->out, "MAIL FROM:<>\r\n");
	for (size_t i = 0; i < l->count; i++) {
		m->address(m->users[l->first + i], address, sizeof(address));
		buf_printf(&l->out, "RCPT TO:<%s>\r\n", address);
	}
	buf_add_str(&l->out, "DATA\r\n");
	l->state = ENVELOPE;
	l->seen = 0;
	l->awaited = l->count + 2;
}

static void job_data(struct mailer *m, struct link *l)
{
	char date[64];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S +0000", &tm);
	l->out.n = l->out_at = 0;
	buf_printf(&l->out,
		"From: \"Bench\" <bench@example.org>\r\nTo: undisclosed-recipients:;\r\n"
		"Subject: One change\r\nDate: %s\r\nMessage-ID: "
		"<%llu.%d.%llu@bench.example.org>\r\n"
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
		"A message of a few lines,\r\nas most of them are.\r\n.\r\n",
		date, (unsigned long long)clock_wall_ms(), (int)getpid(),
		(unsigned long long)++m->serial);
	l->state = DATA;
	l->seen = 0;
	l->awaited = m->lmtp ? l->count : 1;
}

static bool answered_step(struct mailer *m, struct link *l, const struct smtp_reply *r)
{
	size_t at = l->seen++;

	l->awaited--;
	switch (l->state) {
	case GREETING:
		if (r->code != 220)
			return unexpected(m, "greeting", r);
		link_say(l, m->lmtp ? "LHLO roost-bench.localhost\r\n"
				    : "EHLO roost-bench.localhost\r\n");
		l->state = HELLO;
		l->awaited = 1;
		return true;
	case HELLO:
		if (r->code != 250)
			return unexpected(m, m->lmtp ? "LHLO" : "EHLO", r);
		l->pipelining = smtp_reply_offers(r, "PIPELINING");
		l->state = IDLE;
		return true;
	case ENVELOPE:
		if (at == 0 && r->code != 250)
			return unexpected(m, "MAIL FROM", r);
		if (at > 0 && at <= l->count && r->code != 250)
			return unexpected(m, "RCPT TO", r);
		if (at > l->count && r->code != 354)
			return unexpected(m, "DATA", r);
		if (l->awaited == 0)
			job_data(m, l);
		return true;
	case DATA: {
		uint64_t now_ns = clock_mono_ns();

		if (r->code != 250)
			return unexpected(m, "the message", r);
		if (m->lmtp)
			m->done_ns[l->first + at] = now_ns;
		for (size_t i = 0; !m->lmtp && i < l->count; i++)
			m->done_ns[l->first + i] = now_ns;
		if (l->awaited > 0)
			return true;
		m->done += l->count;
		l->state = IDLE;
		return true;
	}
	case CLOSED:
	case IDLE:
		break;
	}
	return unexpected(m, "an answer that nobody asked for", r);
}

/* All whole answers that are there. */
static bool link_answers(struct mailer *m, struct link *l)
{
	struct smtp_reply r;
	const char *why;
	int k;

	while ((k = smtp_reply_parse(l->in.p + l->in_at, l->in.n - l->in_at, &r, &why)) > 0) {
		l->in_at += r.lines.n;
		if (l->awaited == 0)
			return unexpected(m, "an answer that nobody asked for", &r);
		if (!answered_step(m, l, &r))
			return false;
	}
	if (k < 0)
		return unexpected(m, why, &r);
	if (l->in_at == l->in.n)
		l->in.n = l->in_at = 0;
	return true;
}

static bool link_read(struct mailer *m, struct link *l)
{
	for (;;) {
		uint8_t *room = buf_room(&l->in, READ_BYTES);
		ssize_t k;

		CHECK(room);
		k = recv(l->fd, room, READ_BYTES, 0);
		if (k < 0 && errno == EAGAIN)
			return true;
		if (k <= 0 && l->state == IDLE) {
			link_close(l); /* nothing was outstanding: a server may end its sessions */
			return true;
		}
		if (k <= 0)
			return failed(m, "the server hung up", k < 0 ? strerror(errno) : NULL);
		l->in.n += (size_t)k;
		if (!link_answers(m, l))
			return false;
	}
}

/* Servers end idle sessions, some with a 421 before. */
static bool is_stale(const struct link *l)
{
	char c;

	return l->state == IDLE && (recv(l->fd, &c, 1, MSG_PEEK) >= 0 || errno != EAGAIN);
}

/* ---- many ---- */

static bool turn(struct mailer *m, unsigned links)
{
	struct pollfd polls[MAILER_CONNECTIONS_MAX];
	uint64_t until_ms = clock_mono_ms() + MAILER_PATIENCE_S * 1000;
	int ready;

	for (unsigned i = 0; i < links; i++) {
		struct link *l = &m->links[i];

		if (l->state == CLOSED && m->next < m->n && !link_open(m, l))
			return false;
		if (l->state == IDLE && m->next < m->n)
			job_begin(m, l);
		if (!link_flush(m, l))
			return false;
		polls[i] = (struct pollfd){.fd = l->fd,
			.events = (short)(POLLIN |
					  (l->out_at < l->out.n && l->pipelining ? POLLOUT : 0))};
	}
	do
		ready = poll(polls, links, 1000);
	while ((ready == 0 || (ready < 0 && errno == EINTR)) && clock_mono_ms() < until_ms);
	if (ready <= 0)
		return failed(m, "no answer in time", NULL);
	for (unsigned i = 0; i < links; i++)
		if (polls[i].revents & (POLLIN | POLLHUP | POLLERR) && !link_read(m, &m->links[i]))
			return false;
	return true;
}

static bool run(struct mailer *m, unsigned links)
{
	const struct link *first = &m->links[0];

	for (unsigned i = 0; i < links; i++) {
		if (is_stale(&m->links[i]))
			link_close(&m->links[i]);
		if (m->links[i].state == CLOSED && !link_open(m, &m->links[i]))
			return false;
	}
	while (m->done < m->n || first->state == GREETING || first->state == HELLO)
		if (!turn(m, links)) {
			/* What was on its way is unknown: nobody goes on from there. */
			for (unsigned i = 0; i < m->link_count; i++)
				link_close(&m->links[i]);
			return false;
		}
	return true;
}

struct mailer *mailer_open(const char *to, unsigned connections,
	void (*address)(uint32_t user, char *out, size_t cap), char *why, size_t why_bytes)
{
	struct mailer *m = calloc(1, sizeof(*m));

	CHECK(m);
	CHECK(connections > 0 && connections <= MAILER_CONNECTIONS_MAX);
	snprintf(m->name, sizeof(m->name), "%s", to);
	m->address = address;
	m->link_count = connections;
	m->why = why;
	m->why_bytes = why_bytes;
	for (unsigned i = 0; i < connections; i++)
		m->links[i].fd = -1;
	if (!parse_target(m) || !run(m, 1))
		mailer_close(&m);
	return m;
}

void mailer_close(struct mailer **mp)
{
	struct mailer *m = *mp;

	if (!m)
		return;
	for (unsigned i = 0; i < m->link_count; i++) {
		struct link *l = &m->links[i];

		if (l->state == IDLE)
			(void)send(l->fd, "QUIT\r\n", 6, MSG_NOSIGNAL);
		link_close(l);
		buf_free(&l->in);
		buf_free(&l->out);
	}
	free(m);
	*mp = NULL;
}

bool mailer_send_list(struct mailer *m, const uint32_t *users, size_t n, size_t list_max,
	uint64_t *done_ns_out, char *why, size_t why_bytes)
{
	size_t jobs;

	m->users = users;
	m->done_ns = done_ns_out;
	m->n = n;
	m->next = m->done = 0;
	m->per = list_max && list_max < n ? list_max : n;
	m->why = why;
	m->why_bytes = why_bytes;
	if (n == 0)
		return true;
	jobs = (n + m->per - 1) / m->per;
	return run(m, jobs < m->link_count ? (unsigned)jobs : m->link_count);
}

bool mailer_send(struct mailer *m, const uint32_t *users, size_t n, uint64_t *done_ns_out,
	char *why, size_t why_bytes)
{
	return mailer_send_list(m, users, n, 1, done_ns_out, why, why_bytes);
}
