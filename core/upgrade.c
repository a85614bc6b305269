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
#include "io/tls.h"

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
	COPY_MS = 60000,    /* all its sockets, while it serves */
	COPY_ROUNDS = 4,    /* at most: each finds those that came during the one before */
	COPY_FEW = 256,     /* fewer are left for the pause */
	ROOM_EXTRA = 16,    /* one more record for so many, for those that come meanwhile, */
	ROOM_LEAST = 1024,  /* and so many in any case */
	SERVING_MS = 30000, /* the new process has the state: it takes what it takes */
	LOOK_MS = 200,
	LAST_WORD_MS = 1000,
	SEND_S = 10,
	ESCROWS_MAX = 512,
	ARGUMENTS_MAX = 1024,
};

enum message_kind {
	UP_HELLO = 1, /* a: how many shards, b: see shared_ms; with it, perhaps, the descriptor of
		       * memory with the seed of the ticket keys */
	UP_SOCKET,    /* text: its name; with it the descriptor */
	UP_ESCROW,    /* a: shard, b: ring; key */
	UP_GO,
	UP_READY,       /* format; text: version */
	UP_STATE,       /* a: shard, b: bytes, 0: none yet; with it the descriptor of the memory,
			 * unless it came before */
	UP_MOVED,       /* a: connections in all, b: presence_order */
	UP_SERVING,     /* a: connections, b: of them parked */
	UP_FAILED,      /* text: why */
	UP_CREDENTIALS, /* with it the descriptor of the memory */
	UP_COPIED,      /* a: shard, b: 1 when everybody waits; with it the descriptor of a list */
	UP_COPIED_ALL,  /* that was it for now; and back: it is done */
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
	size_t told_room[SERVER_SHARDS_MAX]; /* of the memory that the new process has already */
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
static bool step_all(
	struct server *s, struct upgrade *u, enum shard_step step, uint32_t ms, void (*alive)(void))
{
	uint64_t until_ms = clock_mono_ms() + ms;
	bool all;

	pthread_mutex_lock(&u->gate.mutex);
	u->gate.waiting = u->shards;
	pthread_mutex_unlock(&u->gate.mutex);
	for (unsigned i = 0; i < u->shards; i++)
		shard_step(s->shards[i], step, &u->moves[i]);
	for (;;) {
		uint64_t look_ns = (clock_mono_ms() + LOOK_MS) * 1000000;
		struct timespec look = {.tv_sec = (time_t)(look_ns / 1000000000),
			.tv_nsec = (long)(look_ns % 1000000000)};

		pthread_mutex_lock(&u->gate.mutex);
		while (u->gate.waiting &&
			pthread_cond_timedwait(&u->gate.cond, &u->gate.mutex, &look) != ETIMEDOUT)
			;
		all = u->gate.waiting == 0;
		pthread_mutex_unlock(&u->gate.mutex);
		if (all)
			return true;
		if (clock_mono_ms() >= until_ms) {
			u->stuck = true;
			return false;
		}
		if (alive)
			alive();
	}
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
		u->moves[i].memory_fd = -1;
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

/* wipe: for whoever else holds it too. */
static void memory_free(struct shard_move *m, bool wipe)
{
	if (m->memory && wipe)
		handover_memory_wipe(&m->memory, m->memory_room);
	else if (m->memory)
		handover_memory_unmap(&m->memory, m->memory_room);
	if (m->memory_fd >= 0)
		close(m->memory_fd);
	m->memory_fd = -1;
	m->memory_room = 0;
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
	for (unsigned i = 0; i < u->shards; i++) {
		memory_free(&u->moves[i], true);
		buf_free(&u->moves[i].copied);
	}
	escrows_free(u);
	pthread_mutex_destroy(&u->gate.mutex);
	pthread_cond_destroy(&u->gate.cond);
	free(u);
}

static bool make_escrows(struct server *s, struct upgrade *u, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i < u->shards; i++) {
		struct loop *l = shard_loop(s->shards[i]);
		/* And one for a ring that is made before it counts. */
		unsigned rings = loop_rings_open(l), all = loop_slots_max(l) / loop_ring_conns(l);

		for (unsigned k = 0; k <= rings && k < all && k < ESCROWS_MAX; k++) {
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
	struct message hi = {.kind = UP_HELLO, .a = u->shards, .b = o->shared_ms};
	/* (without it phones shake hands in full) */
	int seed = o->ticket_seed ? handover_memory_new(o->ticket_seed, TLS_TICKET_SEED_BYTES) : -1;
	bool ok = say(u->fd, &hi, seed);

	if (!ok && seed >= 0)
		handover_memory_forget(seed);
	if (seed >= 0)
		close(seed);
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
				kind == UP_READY        ? "ready"
				: kind == UP_COPIED_ALL ? "in possession of all sockets"
							: "serving",
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

/* It does not take what we say: most likely it has ended, and says so, or its exit code does. */
static bool not_taken(
	struct upgrade *u, const struct upgrade_options *o, char *why, size_t why_bytes)
{
	struct message m;

	/* (nobody ever answers that) */
	if (wait_for(u, UP_GO, LAST_WORD_MS, o, &m, why, why_bytes))
		snprintf(why, why_bytes, "the new program speaks out of turn");
	return false;
}

/* ---- sockets ahead of everything ---- */

/* Tells of the sockets that the last step copied. */
static bool send_copied(
	struct upgrade *u, const struct upgrade_options *o, bool hurry, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i < u->shards; i++) {
		struct buf *b = &u->moves[i].copied;
		struct message m = {.kind = UP_COPIED, .a = i, .b = hurry};
		bool ok;
		int fd;

		if (b->failed) {
			snprintf(why, why_bytes, "no memory for a list of sockets");
			return false;
		}
		if (b->n == 0)
			continue;
		fd = handover_memory_new(b->p, b->n);
		if (fd < 0) {
			snprintf(why, why_bytes, "memory for a list of sockets: %s", strerror(-fd));
			return false;
		}
		ok = say(u->fd, &m, fd);
		close(fd);
		if (!ok)
			return not_taken(u, o, why, why_bytes);
	}
	return true;
}

static size_t copied(const struct upgrade *u)
{
	size_t n = 0;

	for (unsigned i = 0; i < u->shards; i++)
		n += u->moves[i].copied.n / sizeof(uint32_t);
	return n;
}

/* While everything goes on. From here on a close is one only by a shutdown. */
static bool copy_ahead(struct server *s, struct upgrade *u, const struct upgrade_options *o,
	char *why, size_t why_bytes)
{
	struct message m;
	size_t n = SIZE_MAX;

	for (unsigned i = 0; i < u->shards; i++)
		loop_set_shared(shard_loop(s->shards[i]), true);
	for (unsigned round = 0; round < COPY_ROUNDS && n > COPY_FEW; round++) {
		if (!step_all(s, u, SHARD_COPY, COPY_MS, o->alive)) {
			snprintf(why, why_bytes, "a shard does not get its sockets copied");
			return false;
		}
		n = copied(u);
		if (!send_copied(u, o, false, why, why_bytes))
			return false;
		say_kind(u->fd, UP_COPIED_ALL, 0, 0);
		if (!wait_for(u, UP_COPIED_ALL, COPY_MS, o, &m, why, why_bytes))
			return false;
	}
	return true;
}

/* Mapping it takes time, which there is now. Where it fails the shard makes it itself, or says why it
 * cannot. */
static void make_memory(struct upgrade *u)
{
	for (unsigned i = 0; i < u->shards; i++) {
		struct shard_move *m = &u->moves[i];
		uint32_t extra = m->open / ROOM_EXTRA + ROOM_LEAST;

		m->memory_room = handover_bytes(m->open + extra, extra);
		m->memory_fd = handover_memory_make(m->memory_room, &m->memory);
		if (m->memory_fd >= 0 &&
			say(u->fd, &(struct message){.kind = UP_STATE, .a = i}, m->memory_fd))
			u->told_room[i] = m->memory_room;
	}
}

/* ---- the state ---- */

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

static bool send_state(struct server *s, struct upgrade *u, const struct upgrade_options *o,
	struct upgrade_result *out, char *why, size_t why_bytes)
{
	for (unsigned i = 0; i < u->shards; i++) {
		struct shard_move *m = &u->moves[i];
		struct message msg = {.kind = UP_STATE, .a = i, .b = m->memory_used};

		out->left += m->left;
		if (m->moved == 0)
			continue;
		if (m->memory_fd < 0) {
			snprintf(why, why_bytes, "memory for the state of %u connections: %s",
				m->moved, strerror(-m->memory_fd));
			return false;
		}
		/* (another one, made by the shard, is larger) */
		if (!say(u->fd, &msg, m->memory_room == u->told_room[i] ? -1 : m->memory_fd))
			return not_taken(u, o, why, why_bytes);
		out->connections += m->moved;
		out->parked += m->parked;
	}
	if (say_kind(u->fd, UP_MOVED, out->connections, presence_order(s->presence)))
		return true;
	return not_taken(u, o, why, why_bytes);
}

static uint64_t now_us(void)
{
	return clock_mono_ns() / 1000;
}

bool upgrade_hand_over(struct server *s, const struct upgrade_options *o, struct upgrade **u_out,
	struct upgrade_result *out, char *why, size_t why_bytes)
{
	struct upgrade *u = upgrade_new(s->shard_count);
	uint64_t begin_us = now_us(), ready_us, quiet_us, frozen_us, exported_us;
	struct timeval patience = {.tv_sec = SEND_S};
	struct message m;
	int pair[2] = {-1, -1};
	bool ok = false, begun = false;

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
	ready_us = now_us();
	out->start_ms = (uint32_t)((ready_us - begin_us) / 1000);
	snprintf(out->version, sizeof(out->version), "%.63s", m.text);
	if (m.format != HANDOVER_FORMAT && !o->pace_ms) {
		snprintf(why, why_bytes,
			"the new program reads hand-over format %u, this one writes %d: it takes a "
			"restart, or an upgrade with --drain",
			m.format, HANDOVER_FORMAT);
		goto out;
	}
	begun = true;
	if (m.format == HANDOVER_FORMAT) {
		send_credentials(s, u);
		if (!copy_ahead(s, u, o, why, why_bytes))
			goto out;
		make_memory(u);
	} else {
		escrows_free(u); /* no place to go: everything stays */
	}
	quiet_us = now_us();
	out->copy_ms = (uint32_t)((quiet_us - ready_us) / 1000);
	if (!step_all(s, u, SHARD_QUIET, STEP_MS, NULL)) {
		snprintf(why, why_bytes, "a shard does not come to rest");
		goto out;
	}
	frozen_us = now_us();
	if (!step_all(s, u, SHARD_FREEZE, STEP_MS, NULL) ||
		!step_all(s, u, SHARD_EXPORT, STEP_MS, NULL)) {
		snprintf(why, why_bytes, "a shard does not hand its connections out");
		goto out;
	}
	exported_us = now_us();
	if (!all_exported(u, why, why_bytes) || !send_copied(u, o, true, why, why_bytes) ||
		!send_state(s, u, o, out, why, why_bytes) ||
		!wait_for(u, UP_SERVING, SERVING_MS, o, &m, why, why_bytes))
		goto out;
	out->pause_us = (uint32_t)(now_us() - frozen_us);
	out->quiet_us = (uint32_t)(frozen_us - quiet_us);
	out->export_us = (uint32_t)(exported_us - frozen_us);
	out->restore_us = out->pause_us - out->export_us;
	out->pid = u->pid;
	for (unsigned i = 0; i < u->shards; i++) {
		u->moves[i].grace_ms = o->grace_ms;
		u->moves[i].pace_ms = o->pace_ms;
		/* (it is the new process' to wipe) */
		memory_free(&u->moves[i], false);
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
		for (unsigned i = 0; begun && i < u->shards; i++)
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

/* Sockets that are in the escrows, as they were told of. */
struct copied {
	struct copied *next;
	const uint32_t *slots;
	size_t bytes;
	bool hurry;
};

struct section {
	struct handover_escrow *escrows[ESCROWS_MAX];
	unsigned escrow_count;
	struct copied *first,
		**last; /* t->mutex; to be pulled by the shard that has this section */
	struct shard_copies copies;
	uint8_t *p;
	size_t n, used;
	struct handover_reader reader;
};

struct take_over {
	int fd;
	struct socket_list sockets;
	unsigned section_count;
	struct section *sections;
	uint8_t ticket_seed[TLS_TICKET_SEED_BYTES];
	bool has_ticket_seed;
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	unsigned lists;     /* mutex: not pulled yet */
	bool all_told;      /* mutex: no more will come */
	char pull_why[256]; /* mutex: "" or what went wrong */
	uint64_t expected;  /* connections */
	uint64_t order;
	_Atomic uint32_t moved, parked;
	bool gone; /* the old process */
	uint64_t
		alone_ms; /* its own predecessor may hold sockets until then; gone: both until then */
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

static void take_ticket_seed(struct take_over *t, int fd)
{
	size_t n = 0;
	int err;
	uint8_t *p = handover_memory_map(fd, &n, &err);

	t->has_ticket_seed = p && n == TLS_TICKET_SEED_BYTES;
	if (t->has_ticket_seed)
		memcpy(t->ticket_seed, p, TLS_TICKET_SEED_BYTES);
	handover_memory_wipe(&p, n);
	close(fd);
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
	t->alone_ms = clock_mono_ms() + m.b;
	if (with >= 0)
		take_ticket_seed(t, with);
	t->sections = calloc(t->section_count, sizeof(*t->sections));
	CHECK(t->sections);
	for (unsigned i = 0; i < t->section_count; i++)
		t->sections[i].last = &t->sections[i].first;
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
	pthread_mutex_init(&t->mutex, NULL);
	pthread_cond_init(&t->cond, NULL);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	if (!hello(t, why, why_bytes))
		take_over_free(&t, why);
	return t;
}

struct socket_list *take_over_sockets(struct take_over *t)
{
	return t ? &t->sockets : NULL;
}

const uint8_t *take_over_ticket_seed(const struct take_over *t)
{
	return t && t->has_ticket_seed ? t->ticket_seed : NULL;
}

static void list_free(struct copied *l)
{
	uint8_t *p = (uint8_t *)(uintptr_t)l->slots;

	handover_memory_unmap(&p, l->bytes);
	free(l);
}

static void take_credentials(int fd, struct credentials *c)
{
	size_t n = 0;
	int err;
	uint8_t *p = handover_memory_map(fd, &n, &err);

	if (!p || !credentials_import(c, bytes_of(p, n)))
		log_msg(LOG_WARNING, "upgrade: the memory of passwords is not understood");
	handover_memory_wipe(&p, n);
}

static bool take_copied(
	struct take_over *t, const struct message *m, int fd, char *why, size_t why_bytes)
{
	struct copied *l = calloc(1, sizeof(*l));
	struct section *s = &t->sections[m->a];
	int err;

	CHECK(l);
	l->slots = (const uint32_t *)handover_memory_map(fd, &l->bytes, &err);
	l->hurry = m->b != 0;
	if (!l->slots) {
		snprintf(why, why_bytes, "a list of sockets cannot be read: %s", strerror(-err));
		free(l);
		return false;
	}
	pthread_mutex_lock(&t->mutex);
	*s->last = l;
	s->last = &l->next;
	t->lists++;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->mutex);
	return true;
}

/* Until all that was told of is pulled. */
static bool all_pulled(struct take_over *t, char *why, size_t why_bytes)
{
	bool ok;

	pthread_mutex_lock(&t->mutex);
	while (t->lists && !t->pull_why[0])
		pthread_cond_wait(&t->cond, &t->mutex);
	ok = !t->pull_why[0];
	if (!ok)
		snprintf(why, why_bytes, "%s", t->pull_why);
	pthread_mutex_unlock(&t->mutex);
	return ok;
}

static bool take_state(
	struct take_over *t, const struct message *m, int fd, char *why, size_t why_bytes)
{
	struct section *s = &t->sections[m->a];
	int err;

	if (fd >= 0) {
		handover_memory_unmap(&s->p, s->n);
		s->p = handover_memory_map(fd, &s->n, &err);
		if (!s->p) {
			snprintf(why, why_bytes, "the state cannot be read: %s", strerror(-err));
			return false;
		}
	}
	if (!s->p || m->b > s->n) {
		snprintf(why, why_bytes, "the state is cut off");
		return false;
	}
	s->used = m->b;
	return true;
}

/* 1: go on; 0: that was the last one; -1: why. */
static int take_message(struct take_over *t, const struct message *m, int with,
	struct credentials *credentials, char *why, size_t why_bytes)
{
	bool of_shard = m->a < t->section_count;

	if (m->kind == UP_CREDENTIALS && with >= 0) {
		take_credentials(with, credentials);
		return 1;
	}
	if (m->kind == UP_COPIED && of_shard && with >= 0)
		return take_copied(t, m, with, why, why_bytes) ? 1 : -1;
	if (m->kind == UP_COPIED_ALL) {
		if (!all_pulled(t, why, why_bytes))
			return -1;
		say_kind(t->fd, UP_COPIED_ALL, 0, 0);
		return 1;
	}
	if (m->kind == UP_STATE && of_shard && !t->sections[m->a].used)
		return take_state(t, m, with, why, why_bytes) ? 1 : -1;
	if (m->kind == UP_MOVED) {
		t->expected = m->a;
		t->order = m->b;
		return 0;
	}
	snprintf(why, why_bytes, "the hand-over has something unknown in it (%u)", m->kind);
	return -1;
}

bool take_over_receive(
	struct take_over *t, struct credentials *credentials, char *why, size_t why_bytes)
{
	struct message m = {.kind = UP_READY};
	int with, r = -1;

	snprintf(m.text, sizeof(m.text), "%s", roost_version);
	if (!say(t->fd, &m, -1))
		snprintf(why, why_bytes, "the server that we were to take over from is gone");
	else
		do {
			r = hear_within(t, &m, &with, STATE_MS, why, why_bytes)
				    ? take_message(t, &m, with, credentials, why, why_bytes)
				    : -1;
			if (with >= 0)
				close(with);
		} while (r > 0);
	pthread_mutex_lock(&t->mutex);
	t->all_told = true;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->mutex);
	return r == 0;
}

static struct copied *next_list(struct take_over *t, unsigned index, unsigned shards, unsigned *of)
{
	for (unsigned i = index; i < t->section_count; i += shards) {
		struct section *s = &t->sections[i];
		struct copied *l = s->first;

		if (!l)
			continue;
		s->first = l->next;
		if (!s->first)
			s->last = &s->first;
		*of = i;
		return l;
	}
	return NULL;
}

static bool ready_to_pull(struct section *s)
{
	if (s->copies.ours || !s->escrow_count)
		return s->copies.ours != NULL;
	s->copies.escrows = s->escrows;
	s->copies.ring_conns = handover_escrow_places(s->escrows[0]);
	s->copies.theirs_max = s->escrow_count * s->copies.ring_conns;
	s->copies.ours = calloc(s->copies.theirs_max, sizeof(*s->copies.ours));
	return s->copies.ours != NULL;
}

void take_over_pull(struct take_over *t, struct shard *shard, unsigned shards)
{
	struct copied *l;
	unsigned i = 0;

	pthread_mutex_lock(&t->mutex);
	for (;;) {
		char why[sizeof(t->pull_why)] = "no memory";
		bool ok;

		l = next_list(t, shard_index(shard), shards, &i);
		if (!l && t->all_told)
			break;
		if (!l) {
			pthread_cond_wait(&t->cond, &t->mutex);
			continue;
		}
		pthread_mutex_unlock(&t->mutex);
		ok = ready_to_pull(&t->sections[i]) &&
		     shard_pull(shard, &t->sections[i].copies, l->slots,
			     l->bytes / sizeof(uint32_t), l->hurry, why, sizeof(why));
		list_free(l);
		pthread_mutex_lock(&t->mutex);
		t->lists--;
		if (!ok)
			snprintf(t->pull_why, sizeof(t->pull_why), "%s", why);
		pthread_cond_broadcast(&t->cond);
	}
	pthread_mutex_unlock(&t->mutex);
}

uint64_t take_over_order(const struct take_over *t)
{
	return t->order + ORDER_SLACK;
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

	if (!all_pulled(t, why, why_bytes))
		return false;
	loop_set_shared(shard_loop(shard), true);
	/* All is checked before any of it is used. */
	for (unsigned i = index; i < t->section_count; i += shards) {
		struct section *s = &t->sections[i];

		if (s->used && !handover_open(&s->reader, bytes_of(s->p, s->used), why, why_bytes))
			return false;
	}
	for (unsigned i = index; i < t->section_count; i += shards) {
		struct section *s = &t->sections[i];

		if (s->copies.ours && !shard_import(shard, &s->reader, &s->copies, &moved, &parked,
					      why, why_bytes))
			return false;
	}
	atomic_fetch_add(&t->moved, moved);
	atomic_fetch_add(&t->parked, parked);
	return true;
}

bool take_over_serving(struct take_over *t, char *why, size_t why_bytes)
{
	if (t->moved != t->expected) {
		snprintf(why, why_bytes, "the state of %u connections came, of %llu", t->moved,
			(unsigned long long)t->expected);
		return false;
	}
	/* Should the old process be gone by now, then all the more. */
	say_kind(t->fd, UP_SERVING, t->moved, t->parked);
	log_msg(LOG_INFO, "upgrade: took over connections=%u parked=%u", t->moved, t->parked);
	return true;
}

static void sections_free(struct take_over *t)
{
	for (unsigned i = 0; i < t->section_count; i++) {
		struct section *s = &t->sections[i];

		handover_memory_wipe(&s->p, s->n);
		while (s->first) {
			struct copied *l = s->first;

			s->first = l->next;
			list_free(l);
		}
		free(s->copies.ours);
		s->copies.ours = NULL;
		for (unsigned k = 0; k < ESCROWS_MAX; k++)
			handover_escrow_free(&s->escrows[k]);
	}
	sodium_memzero(t->ticket_seed, sizeof(t->ticket_seed));
}

void take_over_running(struct take_over *t)
{
	sockets_free(&t->sockets, true);
	sections_free(t);
}

bool take_over_alone(struct take_over *t)
{
	struct message m;
	int with;

	if (t->gone)
		return clock_mono_ms() >= t->alone_ms;
	if (hear(t->fd, &m, &with, 0) < 0) {
		uint64_t now = clock_mono_ms();

		t->gone = true;
		t->alone_ms = (now > t->alone_ms ? now : t->alone_ms) + GONE_MS;
	}
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
	sections_free(t);
	sockets_free(&t->sockets, true);
	free(t->sections);
	pthread_mutex_destroy(&t->mutex);
	pthread_cond_destroy(&t->cond);
	close(t->fd);
	free(t);
}
