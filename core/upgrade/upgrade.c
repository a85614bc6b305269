/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The old process. */
#include "core/upgrade/upgrade.h"

#include "core/access/credentials.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/upgrade/handover_state.h"
#include "core/push/presence.h"
#include "core/server/server.h"
#include "core/shard/shard.h"
#include "core/upgrade/upgrade_message.h"
#include "io/handover.h"
#include "io/loop.h"
#include "io/tls.h"

#include <errno.h>
#include <fcntl.h>
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
	ARGUMENTS_MAX = 1024,
};

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
				snprintf(why, why_bytes,
					"cannot make a ring for the hand-over: %s%s",
					strerror(-err),
					err == -ENOMEM ? " (LimitMEMLOCK=, ulimit -l)" : "");
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
	struct upgrade_message hi = {.kind = UP_HELLO, .a = u->shards, .b = o->shared_ms};
	/* (without it phones shake hands in full) */
	int seed = o->ticket_seed ? handover_memory_new(o->ticket_seed, TLS_TICKET_SEED_BYTES) : -1;
	bool ok = upgrade_say(u->fd, &hi, seed);

	if (!ok && seed >= 0)
		handover_memory_forget(seed);
	if (seed >= 0)
		close(seed);
	for (size_t i = 0; ok && i < o->sockets->n; i++) {
		struct upgrade_message m = {.kind = UP_SOCKET};

		snprintf(m.text, sizeof(m.text), "%s", o->sockets->v[i].name);
		ok = upgrade_say(u->fd, &m, o->sockets->v[i].fd);
	}
	for (unsigned i = 0; i < u->shards; i++)
		for (unsigned k = 0; ok && k < u->moves[i].escrow_count; k++) {
			struct upgrade_message m = {.kind = UP_ESCROW, .a = i, .b = k};

			handover_escrow_key(u->escrows[i][k], &m.key);
			ok = upgrade_say(u->fd, &m, -1);
		}
	return ok && upgrade_say_kind(u->fd, UP_GO, 0, 0);
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
static bool wait_for(struct upgrade *u, enum upgrade_message_kind kind, uint64_t ms,
	const struct upgrade_options *o, struct upgrade_message *m, char *why, size_t why_bytes)
{
	uint64_t until = clock_mono_ms() + ms;
	int with, r, status;

	for (;;) {
		r = upgrade_hear(u->fd, m, &with, LOOK_MS);
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
			if (r == 0 && upgrade_hear(u->fd, m, &with, 0) > 0 && m->kind == UP_FAILED)
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
	struct upgrade_message m = {.kind = UP_CREDENTIALS};
	struct buf b = {0};
	int fd = -1;

	credentials_export(s->credentials, &b);
	if (!b.failed && b.n)
		fd = handover_memory_new(b.p, b.n);
	state_wipe(&b);
	if (fd < 0)
		return;
	if (!upgrade_say(u->fd, &m, fd))
		handover_memory_forget(fd);
	close(fd);
}

/* It does not take what we say: most likely it has ended, and says so, or its exit code does. */
static bool not_taken(
	struct upgrade *u, const struct upgrade_options *o, char *why, size_t why_bytes)
{
	struct upgrade_message m;

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
		struct upgrade_message m = {.kind = UP_COPIED, .a = i, .b = hurry};
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
		ok = upgrade_say(u->fd, &m, fd);
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
	struct upgrade_message m;
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
		upgrade_say_kind(u->fd, UP_COPIED_ALL, 0, 0);
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
			upgrade_say(u->fd, &(struct upgrade_message){.kind = UP_STATE, .a = i},
				m->memory_fd))
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
		struct upgrade_message msg = {.kind = UP_STATE, .a = i, .b = m->memory_used};

		out->left += m->left;
		if (m->moved == 0)
			continue;
		if (m->memory_fd < 0) {
			snprintf(why, why_bytes, "memory for the state of %u connections: %s",
				m->moved, strerror(-m->memory_fd));
			return false;
		}
		/* (another one, made by the shard, is larger) */
		if (!upgrade_say(
			    u->fd, &msg, m->memory_room == u->told_room[i] ? -1 : m->memory_fd))
			return not_taken(u, o, why, why_bytes);
		out->connections += m->moved;
		out->parked += m->parked;
	}
	if (upgrade_say_kind(u->fd, UP_MOVED, out->connections, presence_order(s->presence)))
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
	struct upgrade_message m;
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
