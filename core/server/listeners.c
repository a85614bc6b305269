/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/server/listeners.h"

#include "core/address.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/sockets.h"
#include "core/config/config.h"
#include "core/listen.h"
#include "core/shard/keepalive.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 65535, AGAIN_MS = 50 };

static const char *const kind_words[] = {[LISTENER_HTTPS] = "https", [LISTENER_HTTP] = "http"};

/* What is being opened. */
struct opening {
	struct listeners *of_shards;
	unsigned shards;
	const struct config *config;
	struct socket_list *inherited;
	uint64_t patience_ms;
	enum listener_kind kind;
	const char *text; /* the address */
	struct sockaddr_storage address;
	socklen_t address_bytes;
};

static void set_int(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

static void set_options(int fd, const struct config *c)
{
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, c->http_tcp_keepalive_s != 0);
	if (c->http_tcp_keepalive_s)
		keepalive_set(fd, c->http_tcp_keepalive_s, randombytes_random());
	set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)c->http_tcp_user_timeout_s * 1000);
}

/* False: the shard has no room, and fd is closed. */
static bool give(const struct opening *o, unsigned shard, int fd)
{
	struct listeners *l = &o->of_shards[shard];

	if (l->count == LISTENERS_MAX) {
		close(fd);
		return false;
	}
	l->fd[l->count] = fd;
	l->kind[l->count] = o->kind;
	l->address[l->count++] = o->text;
	return true;
}

static void read_address(struct opening *o, int fd)
{
	o->address_bytes = sizeof(o->address);
	getsockname(fd, (struct sockaddr *)&o->address, &o->address_bytes);
}

/* None may be forgotten: in each of them connections may wait. */
static bool inherit(struct opening *o, unsigned *count_out)
{
	int fd;

	for (*count_out = 0; (fd = sockets_take(o->inherited, kind_words[o->kind], o->text)) >= 0;
		++*count_out) {
		read_address(o, fd);
		set_options(fd, o->config);
		if (!give(o, *count_out % o->shards, fd))
			return false;
	}
	return true;
}

static bool bind_patiently(const struct opening *o, int fd)
{
	uint64_t until_ms = clock_mono_ms() + o->patience_ms;
	const struct timespec pause = {.tv_nsec = AGAIN_MS * 1000000};
	bool said = false;
	sigset_t pending;

	while (bind(fd, (const struct sockaddr *)&o->address, o->address_bytes)) {
		int err = errno;

		sigpending(&pending);
		if (err != EADDRINUSE || clock_mono_ms() >= until_ms ||
			sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT)) {
			errno = err;
			return false;
		}
		if (!said)
			log_msg(LOG_WARNING,
				"listen: %s is still in use by what was killed: trying for %u s",
				o->text, (unsigned)(o->patience_ms / 1000));
		said = true;
		nanosleep(&pause, NULL);
	}
	return true;
}

/* With SO_REUSEPORT alone a second server of the same user would get half of the phones instead of an
 * error: so a socket without it tries the address first. False with errno. */
static bool address_is_free(struct opening *o)
{
	int fd = listen_socket(&o->address, &o->address_bytes, 0), err;
	bool ok;

	if (fd < 0)
		return false;
	ok = bind_patiently(o, fd);
	err = errno;
	close(fd);
	errno = err;
	return ok;
}

static bool open_address(struct opening *o, char *why, size_t why_bytes)
{
	char shown[ADDRESS_TEXT_BYTES], cause[160];
	unsigned have;

	if (!address_parse(
		    o->text, ADDRESS_TCP, &o->address, &o->address_bytes, cause, sizeof(cause))) {
		snprintf(why, why_bytes, "listen: %s: %s", o->text, cause);
		return false;
	}
	if (!inherit(o, &have))
		goto too_many;
	if (!have && !address_is_free(o))
		goto failed;
	for (unsigned i = have; i < o->shards; i++) {
		int fd = listen_socket(&o->address, &o->address_bytes, 0);

		if (fd < 0)
			goto failed;
		if (!give(o, i, fd))
			goto too_many;
		set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
		set_options(fd, o->config);
		if (bind(fd, (struct sockaddr *)&o->address, o->address_bytes) ||
			listen(fd, BACKLOG))
			goto failed;
		/* Port 0: the others take the one that the first was given. */
		read_address(o, fd);
	}
	address_format((struct sockaddr *)&o->address, o->address_bytes, shown);
	log_msg(LOG_INFO, "listening kind=%s address=%s", kind_words[o->kind], shown);
	return true;
failed:
	snprintf(why, why_bytes, "listen: %s: %s", o->text, strerror(errno));
	return false;
too_many:
	snprintf(why, why_bytes, "listen: %s: more than %d addresses to listen on", o->text,
		LISTENERS_MAX);
	return false;
}

bool listeners_open(struct listeners *of_shards, unsigned shards, const struct config *c,
	struct socket_list *inherited, uint64_t patience_ms, char *why, size_t why_bytes)
{
	const struct config_list *const lists[] = {
		[LISTENER_HTTPS] = &c->listen_https, [LISTENER_HTTP] = &c->listen_http};
	struct opening o = {
		.of_shards = of_shards,
		.shards = shards,
		.config = c,
		.inherited = inherited,
		.patience_ms = patience_ms,
	};

	for (int kind = LISTENER_HTTPS; kind <= LISTENER_HTTP; kind++)
		for (size_t i = 0; i < lists[kind]->n; i++) {
			o.kind = (enum listener_kind)kind;
			o.text = lists[kind]->v[i];
			if (!open_address(&o, why, why_bytes))
				return false;
		}
	return true;
}

void listeners_sockets(const struct listeners *of_shards, unsigned shards, struct socket_list *out)
{
	for (unsigned i = 0; i < shards; i++)
		for (unsigned k = 0; k < of_shards[i].count; k++)
			sockets_add(out, of_shards[i].fd[k], kind_words[of_shards[i].kind[k]],
				of_shards[i].address[k]);
}

void listeners_close(struct listeners *of_shards, unsigned shards)
{
	for (unsigned i = 0; i < shards; i++)
		while (of_shards[i].count)
			close(of_shards[i].fd[--of_shards[i].count]);
}
