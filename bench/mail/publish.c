/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/mail/publish.h"

#include "bench/fleet/http_answer.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* nginx answers a publish with a few lines. */
enum { BODY_BYTES_MAX = 65536 };

struct publisher {
	int fd;
	struct url to;
	char host[300];
	struct buf in, out;
};

void publisher_close(struct publisher **pp)
{
	struct publisher *p = *pp;

	if (!p)
		return;
	if (p->fd >= 0)
		close(p->fd);
	buf_free(&p->in);
	buf_free(&p->out);
	free(p);
	*pp = NULL;
}

struct publisher *publisher_open(const struct url *to, char *why, size_t why_bytes)
{
	struct timeval limit = {.tv_sec = 10};
	struct publisher *p = calloc(1, sizeof(*p));
	int one = 1;

	CHECK(p);
	p->to = *to;
	url_host_header(to, p->host, sizeof(p->host));
	p->fd = socket(to->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->fd < 0 || setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) != 0 ||
		setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0 ||
		connect(p->fd, (const struct sockaddr *)&to->to, to->to_bytes) != 0) {
		snprintf(why, why_bytes, "%s: %s", p->host, strerror(errno));
		publisher_close(&p);
	}
	return p;
}

static bool send_all(struct publisher *p)
{
	for (size_t at = 0; at < p->out.n;) {
		ssize_t k = send(p->fd, p->out.p + at, p->out.n - at, MSG_NOSIGNAL);

		if (k < 0)
			return false;
		at += (size_t)k;
	}
	return true;
}

/* One answer from what was read and, when that is not enough, from the socket. */
static bool read_answer(struct publisher *p, size_t *at, char *why, size_t why_bytes)
{
	const char *reason = "";

	for (;;) {
		struct http_answer a;
		int k = http_answer_parse(p->in.p + *at, p->in.n - *at, &a, &reason);
		uint8_t *room;
		ssize_t got;

		if (k < 0) {
			snprintf(why, why_bytes, "%s: %s", p->host, reason);
			return false;
		}
		if (k == 1 && a.content_length > BODY_BYTES_MAX) {
			snprintf(why, why_bytes,
				"%s: a body of %llu bytes in an answer to a publish", p->host,
				(unsigned long long)a.content_length);
			return false;
		}
		if (k == 1 && p->in.n - *at >= a.head_bytes + a.content_length) {
			*at += a.head_bytes + (size_t)a.content_length;
			if (a.status / 100 == 2)
				return true;
			snprintf(why, why_bytes, "%s: HTTP %d to a publish", p->host, a.status);
			return false;
		}
		room = buf_room(&p->in, 16384);
		CHECK(room);
		got = TEMP_FAILURE_RETRY(recv(p->fd, room, 16384, 0));
		if (got <= 0) {
			snprintf(why, why_bytes, "%s: %s", p->host,
				got < 0 ? strerror(errno) : "closed the connection");
			return false;
		}
		p->in.n += (size_t)got;
	}
}

bool publisher_send(struct publisher *p, const uint32_t *phones, size_t n, uint64_t *sent_ns_out,
	char *why, size_t why_bytes)
{
	size_t at = 0;

	p->in.n = p->out.n = 0;
	for (size_t i = 0; i < n; i++)
		buf_printf(&p->out, "POST %s%u HTTP/1.1\r\nHost: %s\r\nContent-Length: 1\r\n\r\n1",
			p->to.path, phones[i], p->host);
	CHECK(!p->out.failed);
	*sent_ns_out = clock_mono_ns();
	if (!send_all(p)) {
		snprintf(why, why_bytes, "%s: %s", p->host, strerror(errno));
		return false;
	}
	for (size_t i = 0; i < n; i++)
		if (!read_answer(p, &at, why, why_bytes))
			return false;
	return true;
}
