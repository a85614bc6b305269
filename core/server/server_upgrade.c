/* SPDX-License-Identifier: GPL-3.0-or-later */
/* An upgrade as the server goes through it: who asked for it, what is handed over beside the shards
 * (core/upgrade/upgrade.c does those), and the way out afterwards. */
#include "core/server/server_priv.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/feed/lmtp.h"
#include "io/tls.h"
#include "store/db.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	UNSHARE_MS = 3000,
	LEAVE_NICE = 10,
};

/* ---- who asks -------------------------------------------------------------------------------- */

/* Main does it, since it is the one that ends; this thread waits for what comes of it. */
bool server_ask_upgrade(
	struct running *r, bool drain, struct admin_upgrade *out, char *why, size_t why_bytes)
{
	struct upgrade_wish *w = &r->wish;
	bool ok = false;

	pthread_mutex_lock(&w->mutex);
	if (w->asked || w->closed) {
		snprintf(why, why_bytes, "%s",
			w->closed ? "the server is stopping" : "an upgrade is under way already");
		goto out;
	}
	w->asked = true;
	w->drain = drain;
	w->told = false;
	kill(getpid(), SIGUSR2);
	while (!w->told)
		pthread_cond_wait(&w->cond, &w->mutex);
	ok = w->answer.pid != 0;
	*out = w->answer;
	if (!ok)
		snprintf(why, why_bytes, "%s", w->answer.why);
out:
	pthread_mutex_unlock(&w->mutex);
	return ok;
}

void server_refuse_upgrades(struct running *r)
{
	struct upgrade_wish *w = &r->wish;

	pthread_mutex_lock(&w->mutex);
	w->closed = true;
	if (w->asked && !w->told) {
		w->answer = (struct admin_upgrade){.why = "the server is stopping"};
		w->told = true;
		pthread_cond_broadcast(&w->cond);
	}
	pthread_mutex_unlock(&w->mutex);
}

static void tell_asker(struct upgrade_wish *w, const struct upgrade_result *res, const char *why)
{
	struct admin_upgrade *a = &w->answer;

	pthread_mutex_lock(&w->mutex);
	*a = (struct admin_upgrade){
		.pid = why ? 0 : res->pid,
		.connections = res->connections,
		.parked = res->parked,
		.left = res->left,
		.pause_us = res->pause_us,
		.export_us = res->export_us,
		.restore_us = res->restore_us,
		.quiet_us = res->quiet_us,
		.copy_ms = res->copy_ms,
		.start_ms = res->start_ms,
	};
	snprintf(a->version, sizeof(a->version), "%s", res->version);
	snprintf(a->why, sizeof(a->why), "%s", why ? why : "");
	w->told = true;
	/* After a success nobody can ask again: there is nothing left to hand over. */
	w->asked = why == NULL;
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->mutex);
}

/* ---- the upgrade ----------------------------------------------------------------------------- */

static void own_sockets(struct running *r, struct socket_list *l)
{
	listeners_sockets(r->listeners, r->server.shard_count, l);
	if (r->lmtp)
		lmtp_server_sockets(r->lmtp, l);
	admin_sockets(r->admin, l);
	sockets_add(l, db_lock_fd(r->server.db), "lock", "");
}

bool server_upgrade(struct server *s, const char *program, char *const *arguments,
	void (*alive)(void), struct upgrade_result *out)
{
	struct running *r = container_of(s, struct running, server);
	const struct config *c = atomic_load(&s->config);
	struct socket_list sockets = {0};
	struct upgrade_options o = {
		.program = program,
		.arguments = arguments,
		.sockets = &sockets,
		.start_ms = (uint32_t)c->core_upgrade_start_s * 1000,
		.grace_ms = (uint64_t)c->core_drain_s * 1000,
		.alive = alive,
	};
	char why[512] = "";
	uint8_t seed[TLS_TICKET_SEED_BYTES];
	bool ok = false;

	/* Our own predecessor may be ending requests still, and hold sockets meanwhile. */
	if (r->take)
		o.shared_ms = (uint32_t)(c->core_drain_s + c->core_upgrade_pace_s) * 1000;
	pthread_mutex_lock(&r->wish.mutex);
	r->wish.asked = true; /* (a signal asks for nobody) */
	if (r->wish.drain)
		o.pace_ms = (uint64_t)c->core_upgrade_pace_s * 1000;
	r->wish.drain = false;
	pthread_mutex_unlock(&r->wish.mutex);
	log_msg(LOG_INFO, "upgrade: begins program=%s", program);
	/* A reload would change what is handed over while it is. */
	pthread_mutex_lock(&r->reload_mutex);
	own_sockets(r, &sockets);
	if (server_ticket_seed(s, seed))
		o.ticket_seed = seed;
	ok = upgrade_hand_over(s, &o, &r->upgrade, out, why, sizeof(why));
	pthread_mutex_unlock(&r->reload_mutex);
	explicit_bzero(seed, sizeof(seed));
	/* What a new program that failed held of our connections goes a moment after it. */
	if (!ok)
		r->unshare_ms = clock_mono_ms() + UNSHARE_MS;
	sockets_free(&sockets, false);
	if (ok)
		log_msg(LOG_INFO,
			"upgrade: done process=%ld version=%s connections=%u parked=%u left=%u "
			"pause_us=%u export_us=%u restore_us=%u quiet_us=%u copy_ms=%u start_ms=%u",
			(long)out->pid, out->version, out->connections, out->parked, out->left,
			out->pause_us, out->export_us, out->restore_us, out->quiet_us, out->copy_ms,
			out->start_ms);
	else
		log_msg(LOG_ERROR, "upgrade: failed, this process goes on serving: %s", why);
	tell_asker(&r->wish, out, ok ? NULL : why);
	return ok;
}

void server_leave(struct server **ss)
{
	struct server *s = *ss;
	struct running *r = container_of(s, struct running, server);

	*ss = NULL;
	atomic_store(&s->draining, true);
	/* Letting go of so many sockets must not keep the new process from its phones. */
	for (unsigned i = 0; i < s->shard_count; i++)
		setpriority(PRIO_PROCESS, (id_t)r->starts[i].tid, LEAVE_NICE);
	upgrade_leave(s, r->upgrade);
	/* Their sockets and files are the new process' now. */
	admin_leave(&r->admin);
	if (r->lmtp)
		lmtp_server_leave(&r->lmtp);
	server_join_shards(r);
	server_take_down(r);
	log_msg(LOG_INFO, "upgrade: the old process ends");
}
