/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tls_echo [-p PORT] [-t ROTATE_S] CERTIFICATE KEY [CERTIFICATE KEY ...]
 * The smallest server on io/tls: shakes hands, detaches, and answers each HTTP request head with
 * a small 200 through io/tlsrec. For tests/e2e/tls_clients.sh. Listens on loopback only; port 0
 * (the default) takes a free one and prints it.
 * A path of /update makes it renew its keys first and ask the client to do so too; /close ends
 * the connection with close_notify behind the answer. */
#include "core/base/check.h"
#include "io/tls.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN_MAX = 2 * TLSREC_RECORD_MAX, HEAD_MAX = 16384, PAIRS_MAX = 8 };

static struct tls_ctx *server;

struct conn {
	int fd;
	struct tls_hs *hs;
	struct tlsrec rec;
	uint8_t in[IN_MAX];
	size_t in_n;
	char head[HEAD_MAX];
	size_t head_n;
	unsigned answers;
	char session[128];
};

static bool send_all(int fd, const void *p, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t sent = send(fd, (const uint8_t *)p + at, n - at, MSG_NOSIGNAL);
		if (sent <= 0)
			return false;
		at += (size_t)sent;
	}
	return true;
}

static bool fill(struct conn *c)
{
	ssize_t n = recv(c->fd, c->in + c->in_n, sizeof(c->in) - c->in_n, 0);

	if (n <= 0)
		return false;
	c->in_n += (size_t)n;
	return true;
}

static void drop(struct conn *c, size_t n)
{
	memmove(c->in, c->in + n, c->in_n - n);
	c->in_n -= n;
}

static bool shake(struct conn *c)
{
	enum tls_hs_status status = TLS_HS_WANT_MORE;
	bool not_tls = false;

	while (status == TLS_HS_WANT_MORE && fill(c)) {
		struct buf out = {0};
		size_t used;
		status = tls_hs_feed(c->hs, c->in, c->in_n, &used, &out);
		drop(c, used);
		bool sent = send_all(c->fd, out.p, out.n);
		buf_free(&out);
		if (!sent)
			return false;
	}
	if (status != TLS_HS_DONE) {
		const char *why = tls_hs_why(c->hs, &not_tls);
		printf("failed %s%s\n", not_tls ? "not_tls " : "",
			status == TLS_HS_FAILED ? why : "gone");
		return false;
	}
	const char *why;
	snprintf(c->session, sizeof(c->session), "%s %s resumed=%d", tls_hs_version(c->hs),
		tls_hs_cipher(c->hs), tls_hs_resumed(c->hs));
	printf("handshake %s\n", c->session);
	if (tls_hs_detach(c->hs, &c->rec, &why))
		return true;
	printf("detach refused: %s\n", why);
	return false;
}

static bool answer(struct conn *c, size_t head_bytes)
{
	char text[512], body[256];
	uint8_t out[1024];
	bool update = head_bytes > 11 && memcmp(c->head, "GET /update", 11) == 0;
	bool last = head_bytes > 10 && memcmp(c->head, "GET /close", 10) == 0;

	if (update) {
		size_t n = tlsrec_key_update(&c->rec, true, out);
		if (!send_all(c->fd, out, n))
			return false;
	}
	snprintf(body, sizeof(body), "answer %u over %s\n", ++c->answers, c->session);
	int n = snprintf(text, sizeof(text),
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n%s\r\n%s",
		strlen(body), last ? "Connection: close\r\n" : "", body);
	if (!send_all(c->fd, out, tlsrec_seal(&c->rec, (uint8_t *)text, (size_t)n, out)))
		return false;
	if (last)
		send_all(c->fd, out, tlsrec_close_notify(&c->rec, out));
	return !last;
}

static void serve(struct conn *c)
{
	for (;;) {
		struct tlsrec_in in;
		tlsrec_open(&c->rec, c->in, c->in_n, &in);
		if (in.result == TLSREC_NEED_MORE) {
			if (!fill(c)) {
				printf("gone without close_notify\n");
				return;
			}
			continue;
		}
		if (!send_all(c->fd, in.reply, in.reply_bytes))
			return;
		if (in.result == TLSREC_CLOSED || in.result == TLSREC_ERROR) {
			printf("%s\n", in.result == TLSREC_ERROR ? in.why : "close_notify");
			return;
		}
		if (in.result == TLSREC_HANDLED)
			printf("handled\n");
		if (in.data_bytes > sizeof(c->head) - 1 - c->head_n)
			return;
		if (in.data_bytes)
			memcpy(c->head + c->head_n, in.data, in.data_bytes);
		c->head_n += in.data_bytes;
		drop(c, in.consumed);
		for (;;) {
			c->head[c->head_n] = 0;
			/* s_client sends bare line feeds */
			char *end = strstr(c->head, "\r\n\r\n"), *bare = strstr(c->head, "\n\n");
			size_t end_bytes = 4;
			if (!end || (bare && bare < end)) {
				end = bare;
				end_bytes = 2;
			}
			if (!end)
				break;
			size_t n = (size_t)(end - c->head) + end_bytes;
			if (!answer(c, n))
				return;
			memmove(c->head, c->head + n, c->head_n - n);
			c->head_n -= n;
		}
	}
}

static void *run(void *arg)
{
	struct conn *c = arg;
	struct timeval limit = {.tv_sec = 20};

	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	c->hs = tls_hs_server(server);
	CHECK(c->hs);
	if (shake(c)) {
		tls_hs_free(&c->hs);
		serve(c);
	}
	tls_hs_free(&c->hs);
	tlsrec_wipe(&c->rec);
	shutdown(c->fd, SHUT_WR);
	close(c->fd);
	free(c);
	return NULL;
}

int main(int argc, char **argv)
{
	struct tls_pair pairs[PAIRS_MAX];
	struct tls_options o = {.pairs = pairs};
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t at_bytes = sizeof(at);
	char why[512];
	int option, one = 1;

	while ((option = getopt(argc, argv, "p:t:")) != -1) {
		if (option == 'p')
			at.sin_port = htons((uint16_t)atoi(optarg));
		else if (option == 't')
			o.ticket_rotate_s = (uint32_t)atoi(optarg);
		else
			return 2;
	}
	for (; optind + 1 < argc && o.pair_count < PAIRS_MAX; optind += 2)
		pairs[o.pair_count++] = (struct tls_pair){argv[optind], argv[optind + 1]};
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	server = tls_server_new(&o, why, sizeof(why));
	if (!server) {
		fprintf(stderr, "tls_echo: %s\n", why);
		return 1;
	}
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, 64) ||
		getsockname(fd, (struct sockaddr *)&at, &at_bytes)) {
		perror("tls_echo");
		return 1;
	}
	printf("port %u, %s\n", ntohs(at.sin_port), tls_library());
	for (;;) {
		int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (peer < 0)
			continue;
		struct conn *c = calloc(1, sizeof(*c));
		pthread_t t;
		CHECK(c);
		c->fd = peer;
		CHECK(pthread_create(&t, NULL, run, c) == 0);
		pthread_detach(t);
	}
}
