/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The new process. */
#include "core/upgrade/upgrade.h"

#include "core/access/credentials.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/upgrade/handover_state.h"
#include "core/server/server.h"
#include "core/shard/shard.h"
#include "core/upgrade/upgrade_message.h"
#include "core/version.h"
#include "io/handover.h"
#include "io/loop.h"
#include "io/tls.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

static bool hear_within(struct take_over *t, struct upgrade_message *m, int *with, int ms,
	char *why, size_t why_bytes)
{
	int r = upgrade_hear(t->fd, m, with, ms);

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
	struct upgrade_message m;
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
	struct take_over *t, const struct upgrade_message *m, int fd, char *why, size_t why_bytes)
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
	struct take_over *t, const struct upgrade_message *m, int fd, char *why, size_t why_bytes)
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
static int take_message(struct take_over *t, const struct upgrade_message *m, int with,
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
		upgrade_say_kind(t->fd, UP_COPIED_ALL, 0, 0);
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
	struct upgrade_message m = {.kind = UP_READY};
	int with, r = -1;

	snprintf(m.text, sizeof(m.text), "%s", roost_version);
	if (!upgrade_say(t->fd, &m, -1))
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
	upgrade_say_kind(t->fd, UP_SERVING, t->moved, t->parked);
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
	struct upgrade_message m;
	int with;

	if (t->gone)
		return clock_mono_ms() >= t->alone_ms;
	if (upgrade_hear(t->fd, &m, &with, 0) < 0) {
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
	struct upgrade_message m = {.kind = UP_FAILED};

	if (!t)
		return;
	*tp = NULL;
	if (why) {
		snprintf(m.text, sizeof(m.text), "%s", why);
		upgrade_say(t->fd, &m, -1);
	}
	sections_free(t);
	sockets_free(&t->sockets, true);
	free(t->sections);
	pthread_mutex_destroy(&t->mutex);
	pthread_cond_destroy(&t->cond);
	close(t->fd);
	free(t);
}
