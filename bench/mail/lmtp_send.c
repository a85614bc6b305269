/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/mail/lmtp_send.h"

#include "bench/mail/smtp_reply.h"
#include "core/base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_TIMEOUT_S = 10 };

struct session {
	int fd;
	uint8_t in[SMTP_REPLY_BYTES_MAX + 1]; /* an answer that fills it is refused */
	size_t in_n;
	char *why;
	size_t why_bytes;
};

static int connect_unix(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(un.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(un.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) != 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int connect_tcp(const char *server)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	char host[256];
	const char *colon = strrchr(server, ':');
	size_t n = colon ? (size_t)(colon - server) : 0;
	int fd = -1;

	if (n > 2 && server[0] == '[' && server[n - 1] == ']') {
		server++;
		n -= 2;
	}
	if (n == 0 || n >= sizeof(host)) {
		errno = EINVAL;
		return -1;
	}
	memcpy(host, server, n);
	host[n] = 0;
	if (getaddrinfo(host, colon + 1, &hints, &found) != 0) {
		errno = EHOSTUNREACH;
		return -1;
	}
	for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
			int err = errno;

			close(fd);
			errno = err;
			fd = -1;
		}
	}
	freeaddrinfo(found);
	return fd;
}

static bool send_all(struct session *s, const void *p, size_t n)
{
	const uint8_t *b = p;

	while (n) {
		ssize_t k = TEMP_FAILURE_RETRY(send(s->fd, b, n, MSG_NOSIGNAL));

		if (k <= 0) {
			snprintf(s->why, s->why_bytes, "LMTP: sending: %s", strerror(errno));
			return false;
		}
		b += k;
		n -= (size_t)k;
	}
	return true;
}

static bool expect(struct session *s, const char *doing, int code)
{
	struct smtp_reply r;
	const char *why;
	int k;

	while ((k = smtp_reply_parse(s->in, s->in_n, &r, &why)) == 0) {
		ssize_t got = TEMP_FAILURE_RETRY(
			recv(s->fd, s->in + s->in_n, sizeof(s->in) - s->in_n, 0));

		if (got <= 0) {
			snprintf(s->why, s->why_bytes, "LMTP: %s",
				got < 0 ? strerror(errno) : "the server hung up");
			return false;
		}
		s->in_n += (size_t)got;
	}
	if (k < 0 || r.code != code) {
		snprintf(s->why, s->why_bytes, "LMTP: %s: %s%s%.*s", doing, k < 0 ? why : "",
			k < 0 ? ": " : "", (int)(r.last.n < 200 ? r.last.n : 200),
			(const char *)r.last.p);
		return false;
	}
	s->in_n -= r.lines.n;
	memmove(s->in, s->in + r.lines.n, s->in_n);
	return true;
}

static bool command(struct session *s, int code, const char *text, const char *argument)
{
	struct buf b = {0};
	bool ok;

	buf_printf(&b, "%s%s%s\r\n", text, argument ? argument : "", argument ? ">" : "");
	ok = !b.failed && send_all(s, b.p, b.n) && expect(s, text, code);
	buf_free(&b);
	return ok;
}

/* CRLF line ends and dots doubled (RFC 5321 4.5.2). */
static void dot_stuff(struct bytes message, struct buf *out)
{
	bool start = true;

	for (size_t i = 0; i < message.n; i++) {
		uint8_t c = message.p[i];

		if (start && c == '.')
			buf_add_byte(out, '.');
		start = c == '\n';
		if (c == '\n' && (i == 0 || message.p[i - 1] != '\r'))
			buf_add_byte(out, '\r');
		buf_add_byte(out, c);
	}
	if (!start)
		buf_add_str(out, "\r\n");
	buf_add_str(out, ".\r\n");
}

bool lmtp_send(const char *server, const char *from, const char *to, struct bytes message,
	uint64_t *took_ns_out, char *why, size_t why_bytes)
{
	struct session s = {.why = why, .why_bytes = why_bytes};
	struct timeval limit = {.tv_sec = ANSWER_TIMEOUT_S};
	struct buf data = {0};
	uint64_t start;
	bool ok;

	s.fd = strncmp(server, "unix:", 5) == 0 ? connect_unix(server + 5) : connect_tcp(server);
	if (s.fd < 0) {
		snprintf(why, why_bytes, "LMTP: %s: %s", server, strerror(errno));
		return false;
	}
	setsockopt(s.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(s.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	dot_stuff(message, &data);
	ok = expect(&s, "greeting", 220) && command(&s, 250, "LHLO roost-phone.localhost", NULL) &&
	     command(&s, 250, "MAIL FROM:<", from) && command(&s, 250, "RCPT TO:<", to) &&
	     command(&s, 354, "DATA", NULL) && !data.failed;
	start = clock_mono_ns();
	ok = ok && send_all(&s, data.p, data.n) && expect(&s, "the message", 250);
	if (took_ns_out)
		*took_ns_out = clock_mono_ns() - start;
	/* It is stored; what QUIT is answered does not matter any more. */
	if (ok)
		(void)send(s.fd, "QUIT\r\n", 6, MSG_NOSIGNAL);
	close(s.fd);
	buf_free(&data);
	return ok;
}

void lmtp_sample(
	const char *from, const char *to, const char *subject, const char *text, struct buf *out)
{
	char date[64];
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S +0000", &tm);
	buf_printf(out,
		"From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: "
		"<%llx.%d@roost.example>\r\n"
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
		"Content-Transfer-Encoding: 8bit\r\n\r\n%s\r\n",
		from, to, subject, date, (unsigned long long)clock_mono_ns(), (int)getpid(), text);
}
