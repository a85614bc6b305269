/* SPDX-License-Identifier: GPL-3.0-or-later */
/* LMTP listeners: one thread accepts, one thread per session, at most lmtp.sessions_max of them. A
 * delivering server opens few connections and waits for commits, so threads are enough here. */
#include "core/feed/lmtp.h"

#include "core/address.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/sockets.h"
#include "core/config/config.h"
#include "core/eas/message.h"
#include "core/listen.h"
#include "store/db.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	LISTENERS_MAX = 16,
	BACKLOG = 128,
	READ_BYTES = 65536,
	LINE_BYTES_MAX = 2048, /* RFC 5321 4.5.3.1.4 asks for 512; options and SMTPUTF8 add to it */
	ERRORS_MAX = 20,
	DRAIN_MS = 10000, /* a transaction under way at stop may take this long */
	REPLY_BYTES_FLUSH = 32768,
};

struct listener {
	int fd;
	uint16_t port;  /* TCP */
	char path[108]; /* unix */
	dev_t dev;
	ino_t ino;        /* of the socket file that we made: only that one is removed */
	const char *text; /* in the configuration */
};

struct lmtp_server {
	struct db *db;
	struct writer *writer;
	struct lmtp_limits lim;
	int idle_ms;
	uint32_t sessions_max;
	char host_name[256];
	struct listener listeners[LISTENERS_MAX];
	size_t listener_count;
	int stop_fd; /* eventfd; readable from the stop on, for everyone */
	pthread_t accepter;
	bool accepting;
	pthread_mutex_t mutex;
	pthread_cond_t gone;
	uint32_t sessions;               /* mutex */
	_Atomic uint64_t drain_until_ms; /* set before stop_fd */
};

struct session {
	struct lmtp_server *server;
	int fd;
	char peer[ADDRESS_TEXT_BYTES];
};

/* -- what sessions ask for -- */

static enum lmtp_verdict verdict_of(int err)
{
	switch (err) {
	case DB_OK:
		return LMTP_OK;
	case DB_NOT_FOUND:
		return LMTP_UNKNOWN_USER;
	case DB_MAP_FULL:
	case DB_DISK_FULL:
		return LMTP_STORE_FULL;
	default:
		return LMTP_STORE_DOWN;
	}
}

static enum lmtp_verdict hook_recipient(void *arg, struct bytes address, uint32_t *mailbox_out)
{
	struct session *se = arg;
	bool disabled = false;
	int err = deliver_find(se->server->db, address, mailbox_out, &disabled);

	if (err && err != DB_NOT_FOUND)
		log_msg(LOG_ERROR, "lmtp: looking for a mailbox: %s", db_strerror(err));
	if (err == DB_OK && disabled)
		return LMTP_DISABLED;
	return verdict_of(err);
}

static void hook_deliver(void *arg, struct bytes message, const uint32_t *mailboxes, size_t n,
	enum lmtp_verdict *verdicts_out)
{
	struct session *se = arg;
	int *errors = calloc(n, sizeof(*errors)), err;

	if (!errors)
		return; /* the session took store-down for granted */
	err = deliver_message(
		se->server->db, se->server->writer, message, mailboxes, n, clock_wall_ms(), errors);
	if (err)
		log_msg(LOG_ERROR, "lmtp: storing: %s", db_strerror(err));
	for (size_t i = 0; i < n; i++)
		verdicts_out[i] = verdict_of(errors[i]);
	free(errors);
}

/* -- one session -- */

enum wait { WAIT_READY, WAIT_STOP, WAIT_TIMEOUT };

/* Until fd is ready or timeout_ms passed. The stop ends it only when `stoppable`; a session in a
 * transaction waits on until the drain deadline. */
static enum wait wait_for(struct session *se, short events, bool stoppable)
{
	struct lmtp_server *sv = se->server;
	uint64_t until = clock_mono_ms() + (uint64_t)sv->idle_ms;
	bool stopping = false;

	for (;;) {
		struct pollfd p[2] = {{.fd = se->fd, .events = events},
			{.fd = stopping ? -1 : sv->stop_fd, .events = POLLIN}};
		uint64_t now = clock_mono_ms();
		int n;

		if (now >= until)
			return stopping ? WAIT_STOP : WAIT_TIMEOUT;
		n = poll(p, 2, (int)(until - now));
		if (n < 0 && errno != EINTR)
			return WAIT_TIMEOUT;
		if (n <= 0)
			continue;
		/* Bytes that came before the stop may open a transaction: stop first. */
		if (p[1].revents) {
			if (stoppable)
				return WAIT_STOP;
			stopping = true;
			if (sv->drain_until_ms < until)
				until = sv->drain_until_ms;
			continue;
		}
		if (p[0].revents)
			return WAIT_READY;
	}
}

static bool send_all(struct session *se, struct buf *out)
{
	size_t i = 0;

	while (i < out->n) {
		ssize_t n = send(se->fd, out->p + i, out->n - i, MSG_NOSIGNAL);

		if (n > 0) {
			i += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return false;
		if (wait_for(se, POLLOUT, false) != WAIT_READY)
			return false;
	}
	out->n = 0;
	return true;
}

static void session_run(struct session *se)
{
	struct lmtp_server *sv = se->server;
	struct lmtp_hooks hooks = {
		.arg = se, .peer = se->peer, .recipient = hook_recipient, .deliver = hook_deliver};
	struct buf out = {0};
	struct lmtp_session *s = lmtp_session_new(sv->host_name, &sv->lim, &hooks, &out);
	uint8_t *in = malloc(READ_BYTES);
	bool more = s && in && send_all(se, &out);

	while (more) {
		ssize_t n;

		switch (wait_for(se, POLLIN, !lmtp_session_busy(s))) {
		case WAIT_STOP:
			lmtp_session_goodbye(s, "Shutting down", &out);
			more = false;
			break;
		case WAIT_TIMEOUT:
			lmtp_session_goodbye(s, "Timeout", &out);
			more = false;
			break;
		case WAIT_READY:
			n = recv(se->fd, in, READ_BYTES, 0);
			if (n < 0 && (errno == EINTR || errno == EAGAIN))
				continue;
			/* Gone without QUIT: what was not ended is not delivered. */
			if (n <= 0)
				goto out;
			/* Replies of a long pipeline go out before they become a burden. */
			for (ssize_t i = 0; more && i < n;) {
				size_t k = n - i < 4096 ? (size_t)(n - i) : 4096;

				more = lmtp_session_feed(s, in + i, k, &out);
				i += (ssize_t)k;
				if (out.n > REPLY_BYTES_FLUSH && !send_all(se, &out))
					goto out;
			}
			break;
		}
		if (out.failed || !send_all(se, &out))
			break;
	}
out:
	lmtp_session_free(&s);
	buf_free(&out);
	free(in);
}

static void *session_thread(void *arg)
{
	struct session *se = arg;
	struct lmtp_server *sv = se->server;

	session_run(se);
	/* Unread input would make the kernel reset the connection and our last reply with it. */
	shutdown(se->fd, SHUT_WR);
	for (char junk[4096]; recv(se->fd, junk, sizeof(junk), MSG_DONTWAIT) > 0;)
		;
	close(se->fd);
	free(se);
	pthread_mutex_lock(&sv->mutex);
	sv->sessions--;
	pthread_cond_broadcast(&sv->gone);
	pthread_mutex_unlock(&sv->mutex);
	return NULL;
}

/* -- accepting -- */

static void peer_name(int fd, char out[ADDRESS_TEXT_BYTES])
{
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof(a);
	struct ucred cred;
	socklen_t cred_n = sizeof(cred);

	strcpy(out, "unknown");
	if (getpeername(fd, (struct sockaddr *)&a, &n) != 0)
		return;
	if (a.ss_family == AF_UNIX) {
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_n) == 0)
			snprintf(out, ADDRESS_TEXT_BYTES, "unix:uid=%u", cred.uid);
	} else {
		address_format_host((struct sockaddr *)&a, n, out);
	}
}

static void refuse(struct lmtp_server *sv, int fd)
{
	char text[320];
	int n = snprintf(text, sizeof(text), "421 4.3.2 %s Too many sessions, try again later\r\n",
		sv->host_name);

	/* Fits the socket buffer; a client that does not read loses nothing. */
	(void)!send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

static void accept_one(struct lmtp_server *sv, int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct session *se = NULL;
	pthread_attr_t attr;
	pthread_t thread;
	bool room;

	if (fd < 0) {
		/* Out of descriptors: the connection stays in the queue; do not spin on it. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			usleep(100000);
		return;
	}
	pthread_mutex_lock(&sv->mutex);
	room = sv->sessions < sv->sessions_max;
	if (room)
		sv->sessions++;
	pthread_mutex_unlock(&sv->mutex);
	if (!room) {
		refuse(sv, fd);
		return;
	}
	se = calloc(1, sizeof(*se));
	if (se) {
		se->server = sv;
		se->fd = fd;
		peer_name(fd, se->peer);
		pthread_attr_init(&attr);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		if (pthread_create(&thread, &attr, session_thread, se) == 0)
			fd = -1;
		pthread_attr_destroy(&attr);
	}
	if (fd < 0)
		return;
	free(se);
	refuse(sv, fd);
	pthread_mutex_lock(&sv->mutex);
	sv->sessions--;
	pthread_mutex_unlock(&sv->mutex);
}

static void *accept_thread(void *arg)
{
	struct lmtp_server *sv = arg;
	struct pollfd p[LISTENERS_MAX + 1];

	p[0] = (struct pollfd){.fd = sv->stop_fd, .events = POLLIN};
	for (size_t i = 0; i < sv->listener_count; i++)
		p[i + 1] = (struct pollfd){.fd = sv->listeners[i].fd, .events = POLLIN};
	for (;;) {
		if (poll(p, sv->listener_count + 1, -1) < 0 && errno != EINTR)
			usleep(100000);
		if (p[0].revents)
			return NULL;
		for (size_t i = 0; i < sv->listener_count; i++)
			if (p[i + 1].revents)
				accept_one(sv, sv->listeners[i].fd);
	}
}

/* -- listeners -- */

/* One more, whose socket is there. */
static void add_listener(struct lmtp_server *sv, const char *address, int fd)
{
	struct listener *l = &sv->listeners[sv->listener_count++];
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof(a);
	struct stat st;

	*l = (struct listener){.fd = fd, .text = address};
	if (getsockname(fd, (struct sockaddr *)&a, &n) != 0)
		return;
	if (a.ss_family == AF_INET) {
		l->port = ntohs(((struct sockaddr_in *)&a)->sin_port);
	} else if (a.ss_family == AF_INET6) {
		l->port = ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
	} else if (strlen(address + 5) < sizeof(l->path) && stat(address + 5, &st) == 0) {
		strcpy(l->path, address + 5);
		l->dev = st.st_dev;
		l->ino = st.st_ino;
	}
}

/* True: the sockets of this address came from a predecessor. */
static bool inherit(struct lmtp_server *sv, struct socket_list *inherited, const char *address)
{
	bool any = false;
	int fd;

	while (sv->listener_count < LISTENERS_MAX &&
		(fd = sockets_take(inherited, "lmtp", address)) >= 0) {
		add_listener(sv, address, fd);
		any = true;
	}
	return any;
}

static bool listen_all(struct lmtp_server *sv, const struct config *c,
	struct socket_list *inherited, char *why, size_t why_bytes)
{
	for (size_t i = 0; i < c->listen_lmtp.n; i++) {
		const char *address = c->listen_lmtp.v[i];
		int fd;

		if (inherit(sv, inherited, address))
			continue;
		if (sv->listener_count == LISTENERS_MAX) {
			snprintf(why, why_bytes, "%s: more than %d listeners", address,
				LISTENERS_MAX);
			return false;
		}
		fd = listen_at(address, ADDRESS_TCP | ADDRESS_UNIX, 0660, BACKLOG, why, why_bytes);
		if (fd < 0)
			return false;
		add_listener(sv, address, fd);
	}
	return true;
}

static void close_listeners(struct lmtp_server *sv, bool remove_files)
{
	for (size_t i = 0; i < sv->listener_count; i++) {
		struct listener *l = &sv->listeners[i];
		struct stat st;

		/* A successor may have put its own file there already. */
		if (remove_files && l->path[0] && stat(l->path, &st) == 0 && st.st_dev == l->dev &&
			st.st_ino == l->ino)
			unlink(l->path);
		close(l->fd);
	}
	sv->listener_count = 0;
}

static void end(struct lmtp_server **svp, bool remove_files);

struct lmtp_server *lmtp_server_start(
	const struct config *c, struct db *db, struct writer *w, char *why, size_t why_bytes)
{
	return lmtp_server_start_with(c, db, w, NULL, why, why_bytes);
}

struct lmtp_server *lmtp_server_start_with(const struct config *c, struct db *db, struct writer *w,
	struct socket_list *inherited, char *why, size_t why_bytes)
{
	struct lmtp_server *sv = calloc(1, sizeof(*sv));
	sigset_t all, before;
	int r;

	if (!sv) {
		snprintf(why, why_bytes, "out of memory");
		return NULL;
	}
	message_init();
	sv->db = db;
	sv->writer = w;
	sv->lim = (struct lmtp_limits){
		.message_bytes_max = (uint64_t)c->lmtp_message_bytes_max,
		.recipients_max = (uint32_t)c->lmtp_recipients_max,
		.line_bytes_max = LINE_BYTES_MAX,
		.errors_max = ERRORS_MAX,
	};
	sv->idle_ms = (int)c->lmtp_idle_timeout_s * 1000;
	sv->sessions_max = (uint32_t)c->lmtp_sessions_max;
	pthread_mutex_init(&sv->mutex, NULL);
	pthread_cond_init(&sv->gone, NULL);
	if (gethostname(sv->host_name, sizeof(sv->host_name) - 1) != 0 || !sv->host_name[0])
		strcpy(sv->host_name, "localhost");
	sv->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sv->stop_fd < 0) {
		snprintf(why, why_bytes, "eventfd: %s", strerror(errno));
		goto fail;
	}
	if (!listen_all(sv, c, inherited, why, why_bytes))
		goto fail;
	/* Signals are for the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&sv->accepter, NULL, accept_thread, sv);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r) {
		snprintf(why, why_bytes, "thread: %s", strerror(r));
		goto fail;
	}
	sv->accepting = true;
	return sv;
fail:
	/* The files of inherited sockets belong to whoever goes on with them. */
	end(&sv, inherited == NULL);
	return NULL;
}

void lmtp_server_sockets(const struct lmtp_server *sv, struct socket_list *out)
{
	for (size_t i = 0; i < sv->listener_count; i++)
		sockets_add(out, sv->listeners[i].fd, "lmtp", sv->listeners[i].text);
}

uint16_t lmtp_server_port(const struct lmtp_server *sv, size_t nth)
{
	for (size_t i = 0; i < sv->listener_count; i++)
		if (sv->listeners[i].port && nth-- == 0)
			return sv->listeners[i].port;
	return 0;
}

void lmtp_server_stop(struct lmtp_server **svp)
{
	end(svp, true);
}

void lmtp_server_leave(struct lmtp_server **svp)
{
	end(svp, false);
}

static void end(struct lmtp_server **svp, bool remove_files)
{
	struct lmtp_server *sv = *svp;
	uint64_t one = 1;

	if (!sv)
		return;
	sv->drain_until_ms = clock_mono_ms() + DRAIN_MS;
	if (sv->stop_fd >= 0)
		(void)!write(sv->stop_fd, &one, sizeof(one));
	if (sv->accepting)
		pthread_join(sv->accepter, NULL);
	close_listeners(sv, remove_files);
	/* Bounded: waits of sessions end with the drain, commits by themselves. */
	pthread_mutex_lock(&sv->mutex);
	while (sv->sessions > 0)
		pthread_cond_wait(&sv->gone, &sv->mutex);
	pthread_mutex_unlock(&sv->mutex);
	if (sv->stop_fd >= 0)
		close(sv->stop_fd);
	pthread_mutex_destroy(&sv->mutex);
	pthread_cond_destroy(&sv->gone);
	free(sv);
	*svp = NULL;
}
