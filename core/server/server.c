/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The life of a server: opens the store and the listeners, starts the threads, ends them. What it does in
 * between is in server_reload.c, server_admin.c, server_upgrade.c and server_housekeeping.c. */
#include "core/server/server_priv.h"

#include "core/access/credentials.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/server/certificates.h"
#include "core/eas/message.h"
#include "core/feed/lmtp.h"
#include "core/server/machine.h"
#include "core/push/presence.h"
#include "core/work.h"
#include "io/tls.h"
#include "store/db.h"
#include "store/writer.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BIND_PATIENCE_MS = 30 * 1000 };

#define MORE_THREADS "raise TasksMax= of the unit, ulimit -u or the container's pids limit"

/* ---- threads --------------------------------------------------------------------------------- */

static void *shard_thread(void *arg)
{
	struct shard_start *st = arg;
	struct running *r = st->r;
	struct shard *s;
	char name[16];
	bool all;

	/* Who comes to the barriers waits there for all. */
	pthread_mutex_lock(&r->begin_mutex);
	all = r->all_there;
	pthread_mutex_unlock(&r->begin_mutex);
	if (!all)
		return NULL;
	st->tid = gettid();
	snprintf(name, sizeof(name), "shard-%u", st->index);
	pthread_setname_np(pthread_self(), name);
	s = shard_new(&r->server, st->index, &r->listeners[st->index], st->why, sizeof(st->why));
	if (!s)
		atomic_store(&r->failed, true);
	r->server.shards[st->index] = s;
	if (!s)
		atomic_store(&r->unmade, true);
	/* Everybody is made, or nobody runs. */
	pthread_barrier_wait(&r->made);
	if (r->take && !r->unmade)
		take_over_pull(r->take, s, r->server.shard_count);
	pthread_barrier_wait(&r->go);
	if (r->take && !atomic_load(&r->failed) &&
		!take_over_import(r->take, s, r->server.shard_count, st->why, sizeof(st->why)))
		atomic_store(&r->failed, true);
	pthread_barrier_wait(&r->taken);
	pthread_barrier_wait(&r->run);
	if (!atomic_load(&r->failed))
		shard_run(s);
	/* Another shard's last message may still name this one: freed when all have ended. */
	return NULL;
}

static void *writer_thread(void *arg)
{
	pthread_setname_np(pthread_self(), "writer");
	while (writer_step(arg, true))
		;
	return NULL;
}

/* ---- life ------------------------------------------------------------------------------------ */

void server_take_down(struct running *r)
{
	struct server *s = &r->server;

	if (r->admin)
		admin_stop(&r->admin);
	if (r->lmtp)
		lmtp_server_stop(&r->lmtp);
	take_over_free(&r->take, NULL);
	upgrade_free(&r->upgrade);
	if (s->workers)
		work_pool_free(&s->workers);
	if (s->credentials)
		credentials_free(&s->credentials);
	/* Shards before the writer: they hand it notes. */
	for (unsigned i = 0; i < s->shard_count; i++)
		if (s->shards[i])
			shard_free(&s->shards[i]);
	if (s->writer) {
		writer_stop(s->writer);
		if (r->writer_running)
			pthread_join(r->writer_thread, NULL);
		writer_free(&s->writer);
	}
	listeners_close(r->listeners, s->shard_count);
	if (s->presence)
		presence_free(&s->presence);
	if (s->db)
		db_close(&s->db);
	if (s->tls) {
		struct tls_ctx *c = atomic_load(&s->tls);

		tls_ctx_unref(&c);
	}
	for (unsigned i = 0; i < r->config_count; i++)
		config_free(&r->configs[i]);
	free(r);
}

static void say_if_too_small(const struct config *c)
{
	struct machine_limits m;
	char why[256];

	machine_read("/proc", &m);
	if (machine_too_small(&m, (uint64_t)c->core_connections_max, why, sizeof(why)))
		log_msg(LOG_INFO, "machine: %s", why);
}

static struct running *running_new(server_config_fn *source, void *arg, struct take_over *take)
{
	struct running *r = calloc(1, sizeof(*r));

	CHECK(r);
	r->take = take;
	r->source = source;
	r->source_arg = arg;
	pthread_mutex_init(&r->wish.mutex, NULL);
	pthread_cond_init(&r->wish.cond, NULL);
	pthread_mutex_init(&r->reload_mutex, NULL);
	pthread_mutex_init(&r->begin_mutex, NULL);
	pthread_mutex_init(&r->server.tls_mutex, NULL);
	return r;
}

/* Everything but shards and what is in front of them. False with why. */
static bool prepare(struct running *r, const struct config *c, char *why, size_t why_bytes)
{
	struct server *s = &r->server;
	struct db_options o = {
		.server = true,
		.create = true,
		.dir = c->store_dir,
		.map_bytes = (uint64_t)c->store_map_mib << 20,
		.map_bytes_max = (uint64_t)c->store_map_max_mib << 20,
	};
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned cores = online < 1 ? 1 : (unsigned)online;
	int lock_fd = sockets_take(take_over_sockets(r->take), "lock", "");

	if (lock_fd > 0)
		o.lock_fd = lock_fd;
	if (db_open(&o, &s->db, why, why_bytes))
		return false;
	if (c->listen_https.n) {
		atomic_store(&s->tls,
			certificates_load(c, take_over_ticket_seed(r->take), why, why_bytes));
		if (!atomic_load(&s->tls))
			return false;
	}
	s->credentials = credentials_new(c, s->db, why, why_bytes);
	if (!s->credentials)
		return false;
	s->shard_count = c->core_shards ? (unsigned)c->core_shards : cores;
	if (s->shard_count > SERVER_SHARDS_MAX)
		s->shard_count = SERVER_SHARDS_MAX;
	s->presence = presence_new();
	atomic_store(&s->wall_offset_ms, (int64_t)clock_wall_ms() - (int64_t)clock_mono_ms());
	s->writer = writer_new(s->db, false);
	r->writer_running = pthread_create(&r->writer_thread, NULL, writer_thread, s->writer) == 0;
	if (!r->writer_running) {
		snprintf(why, why_bytes, "cannot start the writer's thread");
		return false;
	}
	s->workers = work_pool_new(c->core_workers ? (unsigned)c->core_workers : 8 * cores,
		(size_t)c->core_work_queue_max);
	if (!s->workers) {
		snprintf(why, why_bytes,
			"cannot start the worker threads (core.workers): %s; " MORE_THREADS,
			strerror(errno));
		return false;
	}
	return listeners_open(r->listeners, s->shard_count, c, take_over_sockets(r->take),
		db_left_open(s->db) ? BIND_PATIENCE_MS : 0, why, why_bytes);
}

/* LMTP and admin, when the shards have what they take over, and the word that we serve. */
static void open_doors(struct running *r, const struct config *c, char *why, size_t why_bytes)
{
	const struct admin_server hooks = server_admin_hooks(r);
	struct server *s = &r->server;
	struct socket_list *inherited = take_over_sockets(r->take);

	if (c->listen_lmtp.n) {
		r->lmtp = lmtp_server_start_with(c, s->db, s->writer, inherited, why, why_bytes);
		if (!r->lmtp)
			goto failed;
	}
	r->admin = admin_start(c, s->db, &hooks, inherited, why, why_bytes);
	if (!r->admin)
		goto failed;
	if (!r->take)
		return;
	/* Before anything moves: see upgrade.h about who owns what. */
	atomic_store(&r->ready, true);
	db_note_owner(s->db);
	if (!take_over_serving(r->take, why, why_bytes))
		goto failed;
	return;
failed:
	atomic_store(&r->failed, true);
}

static bool start_threads(struct running *r, char *why, size_t why_bytes)
{
	int err = 0;

	pthread_mutex_lock(&r->begin_mutex);
	while (r->threads < r->server.shard_count && err == 0) {
		struct shard_start *st = &r->starts[r->threads];

		st->r = r;
		st->index = r->threads;
		err = pthread_create(&st->thread, NULL, shard_thread, st);
		r->threads += err == 0;
	}
	r->all_there = err == 0;
	if (err) {
		snprintf(why, why_bytes,
			"cannot start a thread for each shard (core.shards): %s; " MORE_THREADS,
			strerror(err));
	}
	pthread_mutex_unlock(&r->begin_mutex);
	return err == 0;
}

void server_join_shards(struct running *r)
{
	while (r->threads)
		pthread_join(r->starts[--r->threads].thread, NULL);
}

/* Starts the shards, and the doors between two of their steps. False with why: all have ended. */
static bool run_shards(struct running *r, const struct config *c, char *why, size_t why_bytes)
{
	struct server *s = &r->server;
	bool made;

	pthread_barrier_init(&r->made, NULL, s->shard_count + 1);
	pthread_barrier_init(&r->go, NULL, s->shard_count + 1);
	pthread_barrier_init(&r->taken, NULL, s->shard_count + 1);
	pthread_barrier_init(&r->run, NULL, s->shard_count + 1);
	if (!start_threads(r, why, why_bytes)) {
		server_join_shards(r);
		return false;
	}
	pthread_barrier_wait(&r->made);
	made = !atomic_load(&r->failed);
	/* In the end of this the old process stands still: nothing that takes time from here on. */
	if (r->take && made) {
		if (take_over_receive(r->take, s->credentials, why, why_bytes))
			presence_continue(s->presence, take_over_order(r->take));
		else
			atomic_store(&r->failed, true);
	}
	pthread_barrier_wait(&r->go);
	pthread_barrier_wait(&r->taken);
	if (!atomic_load(&r->failed))
		open_doors(r, c, why, why_bytes);
	pthread_barrier_wait(&r->run);
	if (!atomic_load(&r->failed))
		return true;
	server_join_shards(r);
	for (unsigned i = 0; i < s->shard_count; i++)
		if (r->starts[i].why[0])
			snprintf(why, why_bytes, "%s", r->starts[i].why);
	return false;
}

struct server *server_start(
	server_config_fn *source, void *arg, struct take_over *take, char *why, size_t why_bytes)
{
	struct running *r = running_new(source, arg, take);
	struct server *s = &r->server;
	struct config *c;

	if (sodium_init() < 0) {
		snprintf(why, why_bytes, "libsodium cannot be set up");
		goto fail;
	}
	message_init();
	randombytes_buf(&s->id_seed, sizeof(s->id_seed));
	c = source(arg, why, why_bytes);
	if (!c)
		goto fail;
	server_put_in_force(r, c);
	say_if_too_small(c);
	if (!prepare(r, c, why, why_bytes) || !run_shards(r, c, why, why_bytes))
		goto fail;
	atomic_store(&r->ready, true);
	if (take) {
		take_over_running(take);
		if (take_over_policy_differs(take, atomic_load(&s->policy_generation)))
			for (unsigned i = 0; i < s->shard_count; i++)
				shard_policy_changed(s->shards[i]);
	}
	return s;
fail:
	server_refuse_upgrades(r);
	/* The files of these sockets are the old process' still. */
	if (take && r->admin)
		admin_leave(&r->admin);
	if (take && r->lmtp)
		lmtp_server_leave(&r->lmtp);
	/* Nobody but us may hold the connections when it hears of it, or a close there would not be
	 * one; it waits for our end anyway. */
	take_over_free(&r->take, why);
	server_take_down(r);
	return NULL;
}

void server_stop(struct server **ss)
{
	struct server *s = *ss;
	struct running *r = container_of(s, struct running, server);
	const struct config *c = atomic_load(&s->config);

	*ss = NULL;
	atomic_store(&s->draining, true);
	server_refuse_upgrades(r);
	log_msg(LOG_INFO, "drain: begins");
	for (unsigned i = 0; i < s->shard_count; i++)
		shard_drain(s->shards[i], (uint64_t)c->core_drain_s * 1000);
	if (r->lmtp)
		lmtp_server_stop(&r->lmtp);
	server_join_shards(r);
	server_take_down(r);
	log_msg(LOG_INFO, "drain: done, store closed");
}
