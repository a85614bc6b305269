/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/upgrade.h"

#include "core/access/credentials.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/handover_state.h"
#include "core/push/presence.h"
#include "core/server.h"
#include "core/shard.h"
#include "core/version.h"
#include "io/handover.h"
#include "io/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum {
	STEP_MS = 5000,     /* a shard that does not get through a step in this time is stuck */
	SERVING_MS = 30000, /* the new process has the state: it takes what it takes */
	LOOK_MS = 200,
	SEND_S = 10,
	ESCROWS_MAX = 512,
	ARGUMENTS_MAX = 1024,
};

enum message_kind {
	UP_HELLO = 1, /* a: how many shards */
	UP_SOCKET,    /* text: its name; with it the descriptor */
	UP_ESCROW,    /* a: shard, b: ring; key */
	UP_GO,
	UP_READY,       /* format; text: version */
	UP_STATE,       /* a: shard; with it the descriptor of the memory */
	UP_MOVED,       /* a: connections in all */
	UP_SERVING,     /* a: connections, b: of them parked */
	UP_FAILED,      /* text: why */
	UP_CREDENTIALS, /* with it the descriptor of the memory */
};

/* Both ends may be of different versions: this much stays as it is. */
struct message {
	char magic[8];
	uint32_t kind;
	uint32_t format; /* HANDOVER_FORMAT of the sender */
	uint64_t a, b;
	char text[SOCKET_NAME_BYTES + 64];
	struct handover_key key;
};
static const char message_magic[8] = {'R', 'o', 'o', 's', 't', 'U', 'p', '1'};

/* ---- messages -------------------------------------------------------------------------------- */

static bool say(int fd, struct message *m, int with)
{
	union {
		struct cmsghdr head;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = m, .iov_len = sizeof(*m)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	memcpy(m->magic, message_magic, sizeof(m->magic));
	m->format = HANDOVER_FORMAT;
	if (with >= 0) {
		h.msg_control = &control;
		h.msg_controllen = sizeof(control.space);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.head), &with, sizeof(int));
	}
	do
		n = sendmsg(fd, &h, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(*m);
}

static bool say_kind(int fd, enum message_kind kind, uint64_t a, uint64_t b)
{
	struct message m = {.kind = kind, .a = a, .b = b};

	return say(fd, &m, -1);
}

/* 1: a message, *with_out its descriptor or -1; 0: nothing in this time; -1: the other end is gone
 * or speaks something else. */
static int hear(int fd, struct message *m, int *with_out, int timeout_ms)
{
	union {
		struct cmsghdr head;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = m, .iov_len = sizeof(*m)};
	struct msghdr h = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.space)};
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct cmsghdr *c;
	ssize_t n;

	*with_out = -1;
	n = poll(&p, 1, timeout_ms);
	if (n == 0 || (n < 0 && errno == EINTR))
		return 0;
	if (n < 0)
		return -1;
	n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	c = n > 0 ? CMSG_FIRSTHDR(&h) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(with_out, CMSG_DATA(c), sizeof(int));
	if (n == (ssize_t)sizeof(*m) && memcmp(m->magic, message_magic, sizeof(m->magic)) == 0) {
		m->text[sizeof(m->text) - 1] = 0;
		return 1;
	}
	if (*with_out >= 0)
		close(*with_out);
	*with_out = -1;
	return -1;
}

/* ---- the old process ------------------------------------------------------------------------- */

struct gate {
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	unsigned waiting;
};

struct upgrade {
	struct gate gate;
	unsigned shards;
	struct shard_move moves[SERVER_SHARDS_MAX];
	struct handover_escrow *escrows[SERVER_SHARDS_MAX][ESCROWS_MAX];
	int fd;
	pid_t pid;
	bool stuck; /* a shard may still call us back */
};

static void gate_done(struct shard_move *m)
{
	struct gate *g = m->arg;

	pthread_mutex_lock(&g->mutex);
	g->waiting--;
	pthread_cond_signal(&g->cond);
	pthread_mutex_unlock(&g->mutex);
}

/* Has all shards do a step at the same time. */
static bool step_all(struct server *s, struct upgrade *u, enum shard_step step)
{
	struct timespec until;
	bool all;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += STEP_MS / 1000;
	pthread_mutex_lock(&u->gate.mutex);
	u->gate.waiting = u->shards;
	pthread_mutex_unlock(&u->gate.mutex);
	for (unsigned i = 0; i < u->shards; i++)
		shard_step(s->shards[i], step, &u->moves[i]);
	pthread_mutex_lock(&u->gate.mutex);
	while (u->gate.waiting &&
		pthread_cond_timedwait(&u->gate.cond, &u->gate.mutex, &until) != ETIMEDOUT)
		;
	all = u->gate.waiting == 0;
	pthread_mutex_unlock(&u->gate.mutex);
	if (!all)
		u->stuck = true;
	return all;
}

static struct upgrade *upgrade_new(unsigned shards)
{
	struct upgrade *u = calloc(1, sizeof(*u));
	pthread_condattr_t attr;

	CHECK(u);
	u->shards = shards;
	u->fd = -1;
	pthread_mutex_init(&u->gate.mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&u->gate.cond, &attr);
	pthread_condattr_destroy(&attr);
	for (unsigned i = 0; i < shards; i++) {
		u->moves[i].arg = &u->gate;
		u->moves[i].done = gate_done;
		u->moves[i].escrows = u->escrows[i];
	}
	return u;
}

static void state_wipe(struct buf *b)
{
	if (b->p)
		sodium_memzero(b->p, b->cap);
	buf_free(b);
	*b = (struct buf){0};
}

static void escrows_free(struct upgrade *u)
{
	for (unsigned i = 0; i < u->shards; i++) {
		for (unsigned k = 0; k < u->moves[i].escrow_count; k++)
			handover_escrow_free(&u->escrows[i][k]);
		u->moves[i].escrow_count = 0;
	}
}

void upgrade_free(struct upgrade **up)
{
	struct upgrade *u = *up;

	if (!u)
		return;
	*up = NULL;
	if (u->fd >= 0)
		close(u->fd);
	if (u->stuck)
		return; /* rather a little memory than a callback into what is not there */
	for (unsigned i = 0; i < u->shards; i++)
		state_wipe(&u->moves[i].state);
	escrows_free(u);
	pthread_mutex_destroy(&u->gate.mutex);
	pthread_cond_destroy(&u->gate.cond);
	free(u);
}

static bool make_escrows(struct server *s, struct upgrade *u, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i < u->shards; i++) {
		struct loop *l = shard_loop(s->shards[i]);
		unsigned rings = loop_rings_open(l);

		for (unsigned k = 0; k < rings && k < ESCROWS_MAX; k++) {
			int err;

			u->escrows[i][k] = handover_escrow_new(loop_ring_conns(l), &err);
			if (!u->escrows[i][k]) {
				snprintf(why, why_bytes, "cannot make a ring for the hand-over: %s",
					strerror(-err));
				return false;
			}
			u->moves[i].escrow_count = k + 1;
		}
	}
	return true;
}

static bool start_program(
	struct upgrade *u, const struct upgrade_options *o, int theirs, char *why, size_t why_bytes)
{
	char *argv[ARGUMENTS_MAX + 4], number[16];
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, pipe;
	size_t n = 0;
	int err;

	argv[n++] = (char *)o->program;
	for (size_t i = 0; o->arguments[i]; i++) {
		if (n > ARGUMENTS_MAX) {
			snprintf(why, why_bytes, "too many arguments");
			return false;
		}
		argv[n++] = o->arguments[i];
	}
	snprintf(number, sizeof(number), "%d", theirs);
	argv[n++] = (char *)"--take-over";
	argv[n++] = number;
	argv[n] = NULL;
	sigemptyset(&none);
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &pipe);
	posix_spawn_file_actions_init(&files);
	/* Onto itself: takes close-on-exec off, in the child only. */
	posix_spawn_file_actions_adddup2(&files, theirs, theirs);
	for (unsigned i = 0; i < u->shards; i++)
		for (unsigned k = 0; k < u->moves[i].escrow_count; k++) {
			int fd = handover_escrow_fd(u->escrows[i][k]);

			posix_spawn_file_actions_adddup2(&files, fd, fd);
		}
	/* (spawn, not fork: neither our page tables nor our secrets are copied) */
	err = posix_spawn(&u->pid, o->program, &files, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (err) {
		u->pid = 0;
		snprintf(why, why_bytes, "cannot start %s: %s", o->program, strerror(err));
		return false;
	}
	return true;
}

static bool say_hello(struct upgrade *u, const struct upgrade_options *o)
{
	bool ok = say_kind(u->fd, UP_HELLO, u->shards, 0);

	for (size_t i = 0; ok && i < o->sockets->n; i++) {
		struct message m = {.kind = UP_SOCKET};

		snprintf(m.text, sizeof(m.text), "%s", o->sockets->v[i].name);
		ok = say(u->fd, &m, o->sockets->v[i].fd);
	}
	for (unsigned i = 0; i < u->shards; i++)
		for (unsigned k = 0; ok && k < u->moves[i].escrow_count; k++) {
			struct message m = {.kind = UP_ESCROW, .a = i, .b = k};

			handover_escrow_key(u->escrows[i][k], &m.key);
			ok = say(u->fd, &m, -1);
		}
	return ok && say_kind(u->fd, UP_GO, 0, 0);
}

static void how_it_ended(const struct upgrade *u, int status, char *why, size_t why_bytes)
{
	(void)u;
	if (WIFSIGNALED(status))
		snprintf(why, why_bytes, "the new program was killed by signal %d (%s)",
			WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		snprintf(why, why_bytes,
			"the new program ended with exit code %d; its own words are in the log",
			WEXITSTATUS(status));
}

/* Waits for one kind of message; everything else is an end. */
static bool wait_for(struct upgrade *u, enum message_kind kind, uint64_t ms,
	const struct upgrade_options *o, struct message *m, char *why, size_t why_bytes)
{
	uint64_t until = clock_mono_ms() + ms;
	int with, r, status;

	for (;;) {
		r = hear(u->fd, m, &with, LOOK_MS);
		if (with >= 0)
			close(with);
		if (r > 0 && m->kind == (uint32_t)kind)
			return true;
		if (r > 0 && m->kind == UP_FAILED) {
			snprintf(why, why_bytes, "the new program says: %s", m->text);
			return false;
		}
		if (r > 0) {
			snprintf(
				why, why_bytes, "the new program speaks out of turn (%u)", m->kind);
			return false;
		}
		if (waitpid(u->pid, &status, WNOHANG) == u->pid) {
			u->pid = 0;
			/* Its last word may be on its way still. */
			if (r == 0 && hear(u->fd, m, &with, 0) > 0 && m->kind == UP_FAILED)
				snprintf(why, why_bytes, "the new program says: %s", m->text);
			else
				how_it_ended(u, status, why, why_bytes);
			return false;
		}
		if (r < 0) {
			snprintf(why, why_bytes,
				"the new program has closed the hand-over without a word");
			/* Most likely it is about to end: then its exit code says more. */
			for (int i = 0; i < 20 && u->pid; i++) {
				usleep(10000);
				if (waitpid(u->pid, &status, WNOHANG) == u->pid) {
					u->pid = 0;
					how_it_ended(u, status, why, why_bytes);
				}
			}
			return false;
		}
		if (clock_mono_ms() >= until) {
			snprintf(why, why_bytes, "the new program was not %s within %llu s",
				kind == UP_READY ? "ready" : "serving",
				(unsigned long long)ms / 1000);
			return false;
		}
		if (o->alive)
			o->alive();
	}
}

/* Only when it is certain that nobody else has the connections may we go on with them. */
static void end_program(struct upgrade *u)
{
	if (u->pid <= 0)
		return;
	kill(u->pid, SIGKILL);
	while (waitpid(u->pid, NULL, 0) < 0 && errno == EINTR)
		;
	u->pid = 0;
}

/* Whatever comes of it: without it the new process hashes. */
static void send_credentials(struct server *s, struct upgrade *u)
{
	struct message m = {.kind = UP_CREDENTIALS};
	struct buf b = {0};
	int fd = -1;

	credentials_export(s->credentials, &b);
	if (!b.failed && b.n)
		fd = handover_memory_new(b.p, b.n);
	state_wipe(&b);
	if (fd < 0)
		return;
	if (!say(u->fd, &m, fd))
		handover_memory_forget(fd);
	close(fd);
}

/* Better no upgrade than one that phones notice: perhaps this kernel cannot do it at all. */
static bool all_exported(const struct upgrade *u, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i < u->shards; i++)
		if (u->moves[i].failed) {
			snprintf(why, why_bytes,
				"the kernel does not let %u of %u connections go: %s",
				u->moves[i].failed, u->moves[i].failed + u->moves[i].moved,
				strerror(-u->moves[i].failed_err));
			return false;
		}
	return true;
}

static bool send_state(struct upgrade *u, struct upgrade_result *out, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i < u->shards; i++) {
		struct shard_move *m = &u->moves[i];
		struct message msg = {.kind = UP_STATE, .a = i};
		int fd;
		bool ok;

		out->left += m->left;
		if (m->moved == 0 && !m->state.failed) {
			state_wipe(&m->state);
			continue;
		}
		if (m->state.failed) {
			snprintf(why, why_bytes, "no memory for the state of %u connections",
				m->moved);
			return false;
		}
		fd = handover_memory_new(m->state.p, m->state.n);
		state_wipe(&m->state);
		if (fd < 0) {
			snprintf(why, why_bytes, "memory for the state: %s", strerror(-fd));
			return false;
		}
		ok = say(u->fd, &msg, fd);
		if (!ok) {
			snprintf(why, why_bytes, "the new program does not take the state");
			handover_memory_forget(fd);
		}
		close(fd);
		if (!ok)
			return false;
		out->connections += m->moved;
		out->parked += m->parked;
	}
	if (say_kind(u->fd, UP_MOVED, out->connections, 0))
		return true;
	snprintf(why, why_bytes, "the new program does not take the state");
	return false;
}

bool upgrade_hand_over(struct server *s, const struct upgrade_options *o, struct upgrade **u_out,
	struct upgrade_result *out, char *why, size_t why_bytes)
{
	struct upgrade *u = upgrade_new(s->shard_count);
	uint64_t begin_ms = clock_mono_ms(), frozen_us;
	struct timeval patience = {.tv_sec = SEND_S};
	struct message m;
	int pair[2] = {-1, -1};
	bool ok = false, quiet = false;

	*out = (struct upgrade_result){0};
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
		snprintf(why, why_bytes, "socketpair: %s", strerror(errno));
		goto out;
	}
	u->fd = pair[0];
	setsockopt(u->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (!make_escrows(s, u, why, why_bytes) || !start_program(u, o, pair[1], why, why_bytes))
		goto out;
	close(pair[1]);
	pair[1] = -1;
	out->pid = u->pid;
	/* (When it does not listen it has ended, or hangs: the next wait tells.) */
	say_hello(u, o);
	if (!wait_for(u, UP_READY, o->start_ms, o, &m, why, why_bytes))
		goto out;
	out->start_ms = (uint32_t)(clock_mono_ms() - begin_ms);
	snprintf(out->version, sizeof(out->version), "%.63s", m.text);
	if (m.format != HANDOVER_FORMAT && !o->pace_ms) {
		snprintf(why, why_bytes,
			"the new program reads hand-over format %u, this one writes %d: it takes a "
			"restart, or an upgrade with --drain",
			m.format, HANDOVER_FORMAT);
		goto out;
	}
	if (m.format == HANDOVER_FORMAT)
		send_credentials(s, u);
	else
		escrows_free(u); /* no place to go: everything stays */
	quiet = true;
	if (!step_all(s, u, SHARD_QUIET)) {
		snprintf(why, why_bytes, "a shard does not come to rest");
		goto out;
	}
	frozen_us = clock_mono_ns() / 1000;
	if (!step_all(s, u, SHARD_FREEZE) || !step_all(s, u, SHARD_EXPORT)) {
		snprintf(why, why_bytes, "a shard does not hand its connections out");
		goto out;
	}
	if (!all_exported(u, why, why_bytes) || !send_state(u, out, why, why_bytes) ||
		!wait_for(u, UP_SERVING, SERVING_MS, o, &m, why, why_bytes))
		goto out;
	out->pause_us = (uint32_t)(clock_mono_ns() / 1000 - frozen_us);
	out->pid = u->pid;
	for (unsigned i = 0; i < u->shards; i++) {
		u->moves[i].grace_ms = o->grace_ms;
		u->moves[i].pace_ms = o->pace_ms;
	}
	/* Sockets that the successor closes are to be closed, so nothing may hold them here. */
	escrows_free(u);
	*u_out = u;
	ok = true;
out:
	if (pair[1] >= 0)
		close(pair[1]);
	if (!ok) {
		end_program(u);
		for (unsigned i = 0; quiet && i < u->shards; i++)
			shard_step(s->shards[i], SHARD_RESUME, NULL);
		upgrade_free(&u);
	}
	return ok;
}

void upgrade_leave(struct server *s, struct upgrade *u)
{
	for (unsigned i = 0; i < u->shards; i++) {
		u->moves[i].done = NULL;
		shard_step(s->shards[i], SHARD_LEAVE, &u->moves[i]);
	}
}

/* ---- the new process ------------------------------------------------------------------------- */

struct section {
	struct handover_escrow *escrows[ESCROWS_MAX];
	unsigned escrow_count;
	uint8_t *p;
	size_t n;
	struct handover_reader reader;
};

struct take_over {
	int fd;
	struct socket_list sockets;
	unsigned section_count;
	struct section *sections;
	uint32_t connections;
	_Atomic uint32_t moved, parked;
	uint64_t gone_ms; /* when the old process was seen gone */
};

enum { HELLO_MS = 10000, STATE_MS = 60000, GONE_MS = 3000 };
/* Requests that end in the old process still take numbers there. */
#define ORDER_SLACK (1ull << 32)

static bool hear_within(
	struct take_over *t, struct message *m, int *with, int ms, char *why, size_t why_bytes)
{
	int r = hear(t->fd, m, with, ms);

	if (r > 0)
		return true;
	snprintf(why, why_bytes, "%s",
		r < 0 ? "the server that we were to take over from is gone, or says something that "
			"is not understood"
		      : "the server that we were to take over from says nothing");
	return false;
}

static bool hello(struct take_over *t, char *why, size_t why_bytes)
{
	struct message m;
	int with, err;

	if (!hear_within(t, &m, &with, HELLO_MS, why, why_bytes))
		return false;
	if (m.kind != UP_HELLO || m.a == 0 || m.a > SERVER_SHARDS_MAX) {
		snprintf(why, why_bytes, "the hand-over does not begin with its beginning");
		return false;
	}
	t->section_count = (unsigned)m.a;
	t->sections = calloc(t->section_count, sizeof(*t->sections));
	CHECK(t->sections);
	for (;;) {
		struct section *s;

		if (!hear_within(t, &m, &with, HELLO_MS, why, why_bytes))
			return false;
		if (m.kind == UP_GO)
			return true;
		if (m.kind == UP_SOCKET && with >= 0) {
			sockets_add(&t->sockets, with, m.text, "");
			continue;
		}
		if (m.kind != UP_ESCROW || m.a >= t->section_count || m.b >= ESCROWS_MAX) {
			snprintf(why, why_bytes, "the hand-over has something unknown in it (%u)",
				m.kind);
			return false;
		}
		s = &t->sections[m.a];
		s->escrows[m.b] = handover_escrow_adopt(&m.key, &err);
		if (!s->escrows[m.b]) {
			snprintf(why, why_bytes, "the hand-over's ring cannot be used: %s",
				strerror(-err));
			return false;
		}
		s->escrow_count = (unsigned)m.b + 1;
	}
}

struct take_over *take_over_begin(int fd, char *why, size_t why_bytes)
{
	struct take_over *t = calloc(1, sizeof(*t));

	CHECK(t);
	t->fd = fd;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (!hello(t, why, why_bytes))
		take_over_free(&t, why);
	return t;
}

struct socket_list *take_over_sockets(struct take_over *t)
{
	return t ? &t->sockets : NULL;
}

static void take_credentials(int fd, struct credentials *c)
{
	size_t n = 0;
	int err;
	uint8_t *p = handover_memory_map(fd, &n, &err);

	if (!p || !credentials_import(c, bytes_of(p, n)))
		log_msg(LOG_WARNING, "upgrade: the memory of passwords is not understood");
	handover_memory_wipe(&p, n);
	close(fd);
}

bool take_over_receive(
	struct take_over *t, struct credentials *credentials, char *why, size_t why_bytes)
{
	struct message m = {.kind = UP_READY};
	int with, err;

	snprintf(m.text, sizeof(m.text), "%s", roost_version);
	if (!say(t->fd, &m, -1)) {
		snprintf(why, why_bytes, "the server that we were to take over from is gone");
		return false;
	}
	for (;;) {
		struct section *s;

		if (!hear_within(t, &m, &with, STATE_MS, why, why_bytes))
			return false;
		if (m.kind == UP_MOVED)
			break;
		if (m.kind == UP_CREDENTIALS && with >= 0) {
			take_credentials(with, credentials);
			continue;
		}
		if (m.kind != UP_STATE || with < 0 || m.a >= t->section_count ||
			t->sections[m.a].p) {
			snprintf(why, why_bytes, "the hand-over has something unknown in it (%u)",
				m.kind);
			if (with >= 0)
				close(with);
			return false;
		}
		s = &t->sections[m.a];
		s->p = handover_memory_map(with, &s->n, &err);
		close(with);
		if (!s->p) {
			snprintf(why, why_bytes, "the state cannot be read: %s", strerror(-err));
			return false;
		}
		if (!handover_open(&s->reader, bytes_of(s->p, s->n), why, why_bytes))
			return false;
		t->connections += s->reader.head.count;
	}
	if (t->connections == m.a)
		return true;
	snprintf(why, why_bytes, "the state of %u connections came, of %llu", t->connections,
		(unsigned long long)m.a);
	return false;
}

uint64_t take_over_order(const struct take_over *t)
{
	uint64_t order = 0;

	for (unsigned i = 0; i < t->section_count; i++)
		if (t->sections[i].reader.head.order > order)
			order = t->sections[i].reader.head.order;
	return order + ORDER_SLACK;
}

bool take_over_policy_differs(const struct take_over *t, uint32_t generation)
{
	for (unsigned i = 0; i < t->section_count; i++)
		if (t->sections[i].reader.head.count &&
			t->sections[i].reader.head.policy_generation != generation)
			return true;
	return false;
}

bool take_over_import(
	struct take_over *t, struct shard *shard, unsigned shards, char *why, size_t why_bytes)
{
	unsigned index = shard_index(shard);
	uint32_t moved = 0, parked = 0;

	loop_set_shared(shard_loop(shard), true);
	for (unsigned i = index; i < t->section_count; i += shards) {
		struct section *s = &t->sections[i];

		if (!s->p)
			continue; /* nothing of this one */
		if (!shard_import(shard, &s->reader, s->escrows, s->escrow_count, &moved, &parked,
			    why, why_bytes))
			return false;
		handover_memory_wipe(&s->p, s->n);
	}
	atomic_fetch_add(&t->moved, moved);
	atomic_fetch_add(&t->parked, parked);
	return true;
}

void take_over_serving(struct take_over *t)
{
	/* Should the old process be gone by now, then all the more. */
	say_kind(t->fd, UP_SERVING, t->moved, t->parked);
	log_msg(LOG_INFO, "upgrade: took over connections=%u parked=%u", t->moved, t->parked);
}

void take_over_running(struct take_over *t)
{
	sockets_free(&t->sockets, true);
	for (unsigned i = 0; i < t->section_count; i++)
		for (unsigned k = 0; k < ESCROWS_MAX; k++)
			handover_escrow_free(&t->sections[i].escrows[k]);
}

bool take_over_alone(struct take_over *t)
{
	struct message m;
	int with;

	if (t->gone_ms)
		return clock_mono_ms() >= t->gone_ms + GONE_MS;
	if (hear(t->fd, &m, &with, 0) < 0)
		t->gone_ms = clock_mono_ms();
	if (with >= 0)
		close(with);
	return false;
}

void take_over_free(struct take_over **tp, const char *why)
{
	struct take_over *t = *tp;
	struct message m = {.kind = UP_FAILED};

	if (!t)
		return;
	*tp = NULL;
	if (why) {
		snprintf(m.text, sizeof(m.text), "%s", why);
		say(t->fd, &m, -1);
	}
	for (unsigned i = 0; i < t->section_count; i++) {
		struct section *s = &t->sections[i];

		handover_memory_wipe(&s->p, s->n);
		for (unsigned k = 0; k < ESCROWS_MAX; k++)
			handover_escrow_free(&s->escrows[k]);
	}
	sockets_free(&t->sockets, true);
	free(t->sections);
	close(t->fd);
	free(t);
}
