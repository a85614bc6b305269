/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/admin.h"

#include "core/address.h"
#include "core/admin/admin_priv.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/sockets.h"
#include "core/config/config.h"
#include "core/listen.h"
#include "store/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	HTTP_CLIENTS = 32,
	HTTP_HEAD_BYTES = 8192,
	HTTP_REQUEST_MS = 5000,
	HTTP_ANSWER_MS = 10000,
	CONTROL_CLIENTS = 16,
	CONTROL_IDLE_MS = 60000,
	CONTROL_ANSWER_MS = 10000,
	LISTEN_MAX = 16,
	BACKLOG = 64,
};

struct admin {
	struct admin_source source;
	struct serve *http, *control;
	int http_fds[LISTEN_MAX], control_fd; /* serve's; kept to be handed over */
	const char *http_texts[LISTEN_MAX];
	size_t http_count;
};

/* --- HTTP ---------------------------------------------------------------------------- */

static void answer(struct buf *out, bool head_only, int status, const char *phrase,
	const char *headers, const char *type, struct bytes body)
{
	buf_printf(out,
		"HTTP/1.1 %d %s\r\n%sContent-Type: %s\r\nContent-Length: %zu\r\n"
		"Cache-Control: no-store\r\nConnection: close\r\n\r\n",
		status, phrase, headers, type, body.n);
	if (!head_only)
		buf_add(out, body.p, body.n);
}

static void answer_text(struct buf *out, bool head_only, int status, const char *phrase,
	const char *headers, const char *text)
{
	answer(out, head_only, status, phrase, headers, "text/plain; charset=utf-8",
		bytes_str(text));
}

static void answer_health(struct buf *out, bool head_only,
	bool (*ask)(void *arg, const char **why_out), void *arg, const char *well)
{
	const char *why = NULL;
	char text[200];

	if (!ask || ask(arg, &why)) {
		answer_text(out, head_only, 200, "OK", "", well);
		return;
	}
	snprintf(text, sizeof(text), "%s\n", why ? why : "no reason given");
	answer_text(out, head_only, 503, "Service Unavailable", "", text);
}

static void answer_path(
	const struct admin_source *src, struct buf *out, bool head_only, struct bytes path)
{
	const struct admin_server *s = &src->server;
	struct buf text = {0};

	if (bytes_eq_str(path, "/metrics")) {
		metrics_text(src, &text);
		answer(out, head_only, 200, "OK", "", "text/plain; version=0.0.4; charset=utf-8",
			buf_bytes(&text));
		buf_free(&text);
	} else if (bytes_eq_str(path, "/livez")) {
		answer_health(out, head_only, s->live, s->arg, "live\n");
	} else if (bytes_eq_str(path, "/readyz")) {
		answer_health(out, head_only, s->ready, s->arg, "ready\n");
	} else if (bytes_eq_str(path, "/")) {
		answer_text(out, head_only, 200, "OK", "",
			"Roost\n/metrics  for Prometheus\n/livez    every thread ticks\n"
			"/readyz   new phones are welcome\n");
	} else {
		answer_text(out, head_only, 404, "Not Found", "",
			"There are /metrics, /livez and /readyz here.\n");
	}
}

/* End of the head in `in`, 0 when it has not come yet. Bare newlines are taken too: people type. */
static size_t head_end(struct bytes in)
{
	for (size_t i = 0; i < in.n; i++) {
		if (in.p[i] != '\n')
			continue;
		if (i + 1 < in.n && in.p[i + 1] == '\n')
			return i + 2;
		if (i + 2 < in.n && in.p[i + 1] == '\r' && in.p[i + 2] == '\n')
			return i + 3;
	}
	return 0;
}

enum serve_next admin_http_input(void *arg, struct bytes in, size_t *used_out, struct buf *out)
{
	const struct admin_source *src = arg;
	struct bytes method, path, version;
	const uint8_t *line_end, *a, *b;
	size_t end = head_end(in);
	bool head_only;

	if (!end && in.n < HTTP_HEAD_BYTES)
		return SERVE_MORE;
	*used_out = in.n;
	if (!end) {
		answer_text(out, false, 431, "Request Header Fields Too Large", "",
			"The request's head is too large.\n");
		return SERVE_CLOSE;
	}
	line_end = memchr(in.p, '\n', end);
	if (line_end > in.p && line_end[-1] == '\r')
		line_end--;
	a = memchr(in.p, ' ', (size_t)(line_end - in.p));
	b = a ? memchr(a + 1, ' ', (size_t)(line_end - a - 1)) : NULL;
	if (!b) {
		answer_text(out, false, 400, "Bad Request", "", "This is no HTTP request.\n");
		return SERVE_CLOSE;
	}
	method = bytes_of(in.p, (size_t)(a - in.p));
	path = bytes_of(a + 1, (size_t)(b - a - 1));
	version = bytes_of(b + 1, (size_t)(line_end - b - 1));
	head_only = bytes_eq_str(method, "HEAD");
	if (version.n != 8 || memcmp(version.p, "HTTP/1.", 7) != 0) {
		answer_text(out, false, 400, "Bad Request", "", "This is no HTTP/1 request.\n");
		return SERVE_CLOSE;
	}
	if (!head_only && !bytes_eq_str(method, "GET")) {
		answer_text(out, false, 405, "Method Not Allowed", "Allow: GET, HEAD\r\n",
			"Only GET and HEAD.\n");
		return SERVE_CLOSE;
	}
	for (size_t i = 0; i < path.n; i++)
		if (path.p[i] == '?')
			path.n = i;
	answer_path(src, out, head_only, path);
	return SERVE_CLOSE;
}

/* --- start and stop ------------------------------------------------------------------ */

static void log_listening(const char *what, int fd)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	char text[ADDRESS_TEXT_BYTES];
	struct log_line l;

	/* The address as bound: with port 0 in the configuration this is how one learns it. */
	if (getsockname(fd, (struct sockaddr *)&address, &length) != 0)
		return;
	address_format((struct sockaddr *)&address, length, text);
	log_begin(&l, LOG_INFO, "listening");
	log_str(&l, "for", what);
	log_str(&l, "address", text);
	log_end(&l);
}

static bool start_http(struct admin *a, const struct config *c, struct socket_list *inherited,
	char *why, size_t why_bytes)
{
	struct serve_protocol p = {.name = "roost-admin",
		.clients_max = HTTP_CLIENTS,
		.request_ms = HTTP_REQUEST_MS,
		.answer_ms = HTTP_ANSWER_MS,
		.in_bytes_max = HTTP_HEAD_BYTES,
		.input = admin_http_input,
		.arg = &a->source};
	int fds[LISTEN_MAX];
	size_t n = 0;

	if (c->listen_admin.n == 0)
		return true;
	if (c->listen_admin.n > LISTEN_MAX) {
		snprintf(why, why_bytes, "listen.admin has %zu addresses; allowed: at most %d",
			c->listen_admin.n, LISTEN_MAX);
		return false;
	}
	for (; n < c->listen_admin.n; n++) {
		fds[n] = sockets_take(inherited, "admin", c->listen_admin.v[n]);
		if (fds[n] < 0)
			fds[n] = listen_at(c->listen_admin.v[n], ADDRESS_TCP | ADDRESS_UNIX, 0660,
				BACKLOG, why, why_bytes);
		if (fds[n] < 0) {
			while (n > 0)
				close(fds[--n]);
			return false;
		}
		log_listening("admin", fds[n]);
		a->http_fds[n] = fds[n];
		a->http_texts[n] = c->listen_admin.v[n];
	}
	a->http_count = n;
	a->http = serve_start(&p, fds, n, why, why_bytes);
	return a->http != NULL;
}

static bool start_control(
	struct admin *a, struct socket_list *inherited, char *why, size_t why_bytes)
{
	struct serve_protocol p = {.name = "roost-control",
		.clients_max = CONTROL_CLIENTS,
		.request_ms = CONTROL_IDLE_MS,
		.answer_ms = CONTROL_ANSWER_MS,
		.in_bytes_max = CONTROL_LINE_BYTES,
		.input = control_input,
		.arg = &a->source};
	int fd = sockets_take(inherited, CONTROL_SOCKET, "");

	if (fd < 0)
		fd = listen_in(db_dir(a->source.db), CONTROL_SOCKET, 0600, BACKLOG, why, why_bytes);
	if (fd < 0)
		return false;
	a->control_fd = fd;
	a->control = serve_start(&p, &fd, 1, why, why_bytes);
	return a->control != NULL;
}

static void end(struct admin **ap, bool remove_file)
{
	struct admin *a = *ap;
	char path[4200];

	if (!a)
		return;
	*ap = NULL;
	serve_stop(&a->http);
	if (a->control)
		serve_stop(&a->control);
	if (remove_file && a->control_fd >= 0) {
		/* roostctl then says "not running" at once instead of trying a dead socket. */
		snprintf(path, sizeof(path), "%s/" CONTROL_SOCKET, db_dir(a->source.db));
		unlink(path);
	}
	free(a);
}

struct admin *admin_start(const struct config *c, struct db *db, const struct admin_server *server,
	struct socket_list *inherited, char *why, size_t why_bytes)
{
	/* Of a failed start nothing must be missing that the old process uses still. */
	bool ours = inherited == NULL;
	struct admin *a = calloc(1, sizeof(*a));

	CHECK(a);
	a->control_fd = -1;
	a->source.db = db;
	a->source.server = *server;
	a->source.started_ms = clock_wall_ms();
	if (!start_control(a, inherited, why, why_bytes) ||
		!start_http(a, c, inherited, why, why_bytes))
		end(&a, ours);
	return a;
}

void admin_sockets(const struct admin *a, struct socket_list *out)
{
	for (size_t i = 0; i < a->http_count; i++)
		sockets_add(out, a->http_fds[i], "admin", a->http_texts[i]);
	sockets_add(out, a->control_fd, CONTROL_SOCKET, "");
}

void admin_stop(struct admin **ap)
{
	end(ap, true);
}

void admin_leave(struct admin **ap)
{
	end(ap, false);
}
