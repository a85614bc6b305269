/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The server's life: start, crash, drain, upgrade. An upgrade is core/shard/move.c and
 * core/upgrade/handover_state.c for the shards, and here what core/upgrade/upgrade.c does around them with
 * processes: the order of the steps, what can go wrong at each, and who may use a connection when. */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/base/metrics.h"
#include "io/handover.h"
#include "store/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	DRAIN_GRACE_MS = 10000,
	STEP_MAX_US = 5000 * MS, /* as core/upgrade/upgrade.c: then a shard is stuck */
};
static const int64_t wall_offset_ms = 1700000000000;

/* ---- what the shards ask of a server (core/server/server.c has threads and sockets) -----------------
 */

struct eas_context server_eas(struct server *s)
{
	return (struct eas_context){
		.db = s->db,
		.writer = s->writer,
		.config = atomic_load(&s->config),
		.policy_generation = atomic_load(&s->policy_generation),
	};
}

struct tls_ctx *server_tls(struct server *s)
{
	static char some;

	(void)s;
	return (struct tls_ctx *)(void *)&some; /* (simtls.c looks at none) */
}

int64_t world_wall_ms(void)
{
	return (int64_t)(sim_now_us / MS) + wall_offset_ms;
}

/* ---- processes --------------------------------------------------------------------------------
 */

static struct server *process_new(unsigned shards, bool starts)
{
	const struct listeners listeners = {
		.count = 1, .fd = {-1}, .kind = {world.tls ? LISTENER_HTTPS : LISTENER_HTTP}};
	struct server *s = calloc(1, sizeof(*s));
	char why[256] = "";

	CHECK(s);
	s->db = world.db;
	s->writer = world.writer;
	atomic_store(&s->config, world.config);
	atomic_store(&s->policy_generation, eas_policy_generation(world.config));
	atomic_store(&s->wall_offset_ms, wall_offset_ms);
	s->id_seed = sim_random();
	s->shard_count = shards;
	if (!starts)
		return s;
	s->presence = presence_new();
	s->workers = work_pool_new(4, (size_t)world.config->core_work_queue_max);
	net_next_loop = 0;
	for (unsigned i = 0; i < shards; i++) {
		s->shards[i] = shard_new(s, i, &listeners, why, sizeof(why));
		CHECK(s->shards[i]);
	}
	return s;
}

static void process_run(struct server *s)
{
	for (unsigned i = 0; i < s->shard_count; i++)
		net_run(s->shards[i]->loop);
}

/* A job or a password check of a connection that is gone owns its memory. */
static void discard_active(struct active *a)
{
	if (a->slot == WAITER_NONE)
		active_free(a->shard, a);
}

static void discard_work(struct work *w)
{
	discard_active(container_of(w, struct job, work)->active);
}

static bool is_of(const struct server *s, const struct cred_job *j)
{
	return container_of(j, struct active, cred)->shard->server == s;
}

static void discard_cred(struct cred_job *j)
{
	discard_active(container_of(j, struct active, cred));
}

static void discard_message(struct loop_msg *m)
{
	struct job *j;

	switch ((enum shard_msg)m->kind) {
	case MSG_JOB_DONE:
		j = container_of(m, struct job, msg);
		buf_free(&j->answer.body);
		discard_active(j->active);
		return;
	case MSG_CRED_DONE:
		discard_active(container_of(m, struct active, cred_msg));
		return;
	case MSG_SUPERSEDE:
		free(container_of(m, struct supersede_msg, msg));
		return;
	default:
		free(m); /* drain, policy, step: the message comes first in them */
	}
}

/* Nothing orderly: memory is given back behind the server's back, and that is all. */
static void process_end(struct server **sp)
{
	struct server *s = *sp;

	if (!s)
		return;
	*sp = NULL;
	if (s->workers)
		simwork_crash(s->workers, discard_work);
	simcred_crash(s, is_of, discard_cred);
	for (unsigned i = 0; i < s->shard_count; i++) {
		struct shard *shard = s->shards[i];

		if (!shard)
			continue;
		net_discard(shard->loop, discard_message);
		/* Its gauges went with it. */
		for (uint32_t k = 0; k < shard->slots_max; k++) {
			const struct waiter *w = waiters_get(shard->waiters, k);

			world.lost_conns += shard->conns[k].state != CONN_FREE;
			world.lost_parked += w != NULL;
			METRIC_ADD(CONNS, shard->conns[k].state != CONN_FREE ? -1 : 0);
			METRIC_ADD(PARKED_PING, w && w->kind == WAITER_PING ? -1 : 0);
			METRIC_ADD(PARKED_SYNC, w && w->kind == WAITER_SYNC ? -1 : 0);
		}
		shard_free(&s->shards[i]);
	}
	if (s->workers)
		work_pool_free(&s->workers);
	if (s->presence)
		presence_free(&s->presence);
	free(s);
}

enum greeting world_greet(struct wire *w)
{
	/* The listening sockets are the same ones in both processes of an upgrade. */
	struct server *all[] = {world.server, world.old, world.next};
	enum greeting g;

	if (!world.up || atomic_load(&world.server->draining))
		return GREET_GONE;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (!all[i])
			continue;
		g = net_accept(all[i]->shards[w->shard % all[i]->shard_count]->loop, w);
		if (g != GREET_LATER)
			return g;
	}
	return GREET_LATER;
}

/* ---- start, crash, drain ----------------------------------------------------------------------
 */

void life_open_store(void)
{
	struct db_options o = {.dir = world.dir,
		.map_bytes = 32 << 20,
		.map_bytes_max = 1ull << 30,
		.server = true,
		.create = true,
		.no_sync = true};
	char why[256];

	if (db_open(&o, &world.db, why, sizeof(why)))
		sim_fail(NULL, NULL, "the store does not open: %s", why);
	world.writer = writer_new(world.db, true);
	if (!world.server)
		world.server = process_new(0, false);
}

void world_start(void)
{
	process_end(&world.server);
	world.server = process_new(world.shards, true);
	world.up = true;
	process_run(world.server);
	sim_note(NULL, NULL, "server: up", 0, 0, 0);
}

static void upgrade_forget(void);

void life_tear_down(void)
{
	world.up = false;
	upgrade_forget();
	process_end(&world.next);
	process_end(&world.old);
	process_end(&world.server);
	wires_cut(); /* the listening sockets went too, and who was about to connect */
	writer_free(&world.writer);
	db_close(&world.db);
	world.held = world.frozen = world.no_memory = (struct span){0};
	oracle_crashed();
}

static void start_again(void *arg, uint64_t unused)
{
	(void)arg, (void)unused;
	world_start();
}

void world_crash(void)
{
	sim_note(NULL, NULL, "server: crash", 0, 0, 0);
	world.crashes++;
	world.drain_us = sim_now_us;
	life_tear_down();
	life_open_store();
	world_items_check();
	sim_at(sim_now_us + sim_between(0, 5 * SECOND), start_again, NULL, 0);
}

static unsigned running(const struct server *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->shard_count; i++)
		n += !net_stopped(s->shards[i]->loop);
	return n;
}

static void drained(void *arg, uint64_t began_us)
{
	(void)arg;
	if (!world.up || world.drain_us != began_us)
		return; /* it crashed meanwhile */
	if (running(world.server) > 0) {
		if (sim_now_us > began_us + (DRAIN_GRACE_MS + 1500) * MS)
			sim_fail(NULL, NULL, "the drain does not end");
		sim_at(sim_now_us + 50 * MS, drained, NULL, began_us);
		return;
	}
	sim_note(NULL, NULL, "server: drained", 0, 0, 0);
	life_tear_down();
	life_open_store();
	world_items_check();
	sim_at(sim_now_us + sim_between(0, 2 * SECOND), start_again, NULL, 0);
}

static void drain(void)
{
	sim_note(NULL, NULL, "server: drain begins", 0, 0, 0);
	world.drains++;
	world.drain_us = sim_now_us;
	atomic_store(&world.server->draining, true);
	net_accept_waiting(); /* resets those in the queue, as shutdown of the listeners does */
	for (unsigned i = 0; i < world.shards; i++)
		shard_drain(world.server->shards[i], DRAIN_GRACE_MS);
	oracle_everybody("drain", 0);
	sim_at(sim_now_us + 50 * MS, drained, NULL, sim_now_us);
}

/* ---- upgrade ----------------------------------------------------------------------------------
 */

/* How far the new program comes. */
enum fate {
	FATE_SERVES,
	FATE_OLD_DIES,     /* it serves, and the old one is gone without having let go */
	FATE_OTHER_FORMAT, /* it cannot read the state, and serves without: paced drain */
	FATE_NO_FORMAT,    /* the same, and nobody wants the drain */
	FATE_DOES_NOT_START,
	FATE_DIES_COPYING,  /* with some sockets in its hands, while the old process serves */
	FATE_DIES_QUIET,    /* while the shards come to rest */
	FATE_NO_EXPORT,     /* the kernel refuses to copy some sockets */
	FATE_DIES_EXPORTED, /* with all sockets in the escrow */
	FATE_BAD_STATE,     /* what arrives is not what was sent */
	FATE_NO_ROOM,       /* it can take some connections only */
	FATE_DIES_IMPORTED, /* with all connections in its hands, before it serves */
	FATES
};

static struct upgrade_run {
	uint64_t number; /* of the run: callbacks of one that was given up find another */
	bool busy;
	enum fate fate;
	enum shard_step step;
	unsigned waiting;
	uint64_t step_us;
	uint32_t pace_ms;
	unsigned rounds; /* of copying, still to come */
	bool begun;      /* the shards know of it */
	struct shard_move moves[SERVER_SHARDS_MAX];
	struct shard_copies copies[SERVER_SHARDS_MAX];
	struct handover_escrow *escrows[SERVER_SHARDS_MAX][64];
} up;

static void escrows_free(void)
{
	for (unsigned i = 0; i < SERVER_SHARDS_MAX; i++) {
		for (unsigned k = 0; k < up.moves[i].escrow_count; k++)
			free(up.escrows[i][k]);
		up.moves[i].escrow_count = 0;
	}
}

static void move_forget(unsigned i)
{
	struct shard_move *m = &up.moves[i];

	handover_memory_wipe(&m->memory, m->memory_room);
	if (m->memory_fd > 0)
		close(m->memory_fd);
	m->memory_fd = -1;
	buf_free(&m->copied);
	free(up.copies[i].ours);
	up.copies[i] = (struct shard_copies){0};
}

static void upgrade_forget(void)
{
	escrows_free();
	for (unsigned i = 0; i < SERVER_SHARDS_MAX; i++)
		move_forget(i);
	up.busy = up.begun = false;
	up.number++;
	net_export_refusals = net_import_refusals = 0;
}

static void later(sim_fn *fn, uint64_t most_us)
{
	sim_at(sim_now_us + sim_between(0, most_us), fn, NULL, up.number);
}

static void go_on(void *arg, uint64_t number);

static void step_done(struct shard_move *m)
{
	struct upgrade_run *u = m->arg;

	CHECK(u->waiting > 0);
	/* Copying has time: connections come and go meanwhile. */
	if (--u->waiting == 0)
		later(go_on, up.step == SHARD_COPY && sim_permille(500) ? 20 * SECOND : 3 * MS);
}

static void stuck(void *arg, uint64_t step_us)
{
	(void)arg;
	if (up.busy && up.waiting && up.step_us == step_us)
		sim_fail(NULL, NULL, "upgrade: a shard does not end step %d", (int)up.step);
}

static void step_all(enum shard_step step)
{
	up.step = step;
	up.waiting = world.server->shard_count;
	up.step_us = sim_now_us;
	for (unsigned i = 0; i < world.server->shard_count; i++)
		shard_step(world.server->shards[i], step, &up.moves[i]);
	sim_at(sim_now_us + STEP_MAX_US, stuck, NULL, up.step_us);
}

/* All as before. */
static void upgrade_failed(void)
{
	sim_note(NULL, NULL, "upgrade: has failed, fate #", up.fate, 0, 0);
	world.failed_upgrades++;
	process_end(&world.next);
	for (unsigned i = 0; i < world.server->shard_count && up.begun; i++)
		shard_step(world.server->shards[i], SHARD_RESUME, NULL);
	/* (the message takes its time) */
	if (world.held.until_us == UINT64_MAX)
		world.held.until_us = sim_now_us + POST_MAX_US;
	if (world.frozen.until_us == UINT64_MAX)
		world.frozen.until_us = sim_now_us + POST_MAX_US;
	upgrade_forget();
}

static void old_has_left(void *arg, uint64_t until_us)
{
	(void)arg;
	if (!world.old)
		return;
	if (running(world.old) > 0) {
		if (sim_now_us > until_us)
			sim_fail(NULL, NULL, "upgrade: the old process does not end");
		sim_at(sim_now_us + 50 * MS, old_has_left, NULL, until_us);
		return;
	}
	sim_note(NULL, NULL, "upgrade: the old process has ended", 0, 0, 0);
	process_end(&world.old);
	for (unsigned i = 0; i < world.server->shard_count; i++)
		loop_set_shared(world.server->shards[i]->loop, false);
}

static void leave(void *arg, uint64_t number)
{
	(void)arg;
	if (!up.busy || up.number != number)
		return;
	if (up.fate == FATE_OLD_DIES) {
		sim_note(NULL, NULL, "upgrade: the old process is killed", 0, 0, 0);
		process_end(&world.old);
	} else {
		for (unsigned i = 0; i < world.old->shard_count; i++) {
			up.moves[i].done = NULL;
			up.moves[i].grace_ms = DRAIN_GRACE_MS;
			up.moves[i].pace_ms = up.pace_ms;
			world.given_parked += up.moves[i].parked;
			shard_step(world.old->shards[i], SHARD_LEAVE, &up.moves[i]);
		}
		if (up.pace_ms) {
			world.pace_from_us = sim_now_us;
			world.pace_until_us = sim_now_us + up.pace_ms * (uint64_t)MS;
			oracle_everybody("paced drain", up.pace_ms * (uint64_t)MS);
		}
		sim_at(sim_now_us + 50 * MS, old_has_left, NULL,
			sim_now_us + (DRAIN_GRACE_MS + up.pace_ms + 1500) * MS);
	}
	/* The moves are read when the message comes: they stay until the next upgrade. */
	up.busy = false;
}

static void serving(void)
{
	struct server *s = world.next;

	for (unsigned i = 0; i < world.server->shard_count && up.fate != FATE_OTHER_FORMAT; i++)
		oracle_left_behind(world.server->shards[i]);
	for (unsigned i = 0; i < s->shard_count; i++)
		net_take_over(s->shards[i]->loop);
	escrows_free();
	world.old = world.server;
	world.server = s;
	world.next = NULL;
	world.shards = s->shard_count;
	world.upgrades++;
	process_run(s);
	world.held.until_us = world.frozen.until_us = sim_now_us;
	sim_note(NULL, NULL, "upgrade: the new process serves, # shards", s->shard_count, 0, 0);
	if (sim_now_us - world.frozen.from_us > 2 * SECOND)
		sim_fail(NULL, NULL, "upgrade: a pause of %.3f s",
			(double)(sim_now_us - world.frozen.from_us) / SECOND);
	sim_at(sim_now_us + sim_between(0, 30 * MS), leave, NULL, up.number);
}

/* The new shards take what the old ones have copied. */
static bool pull(void)
{
	struct server *s = world.next;
	char why[256] = "";

	for (unsigned k = 0; k < world.server->shard_count; k++) {
		struct shard_copies *c = &up.copies[k];
		struct buf *b = &up.moves[k].copied;

		CHECK(!b->failed);
		if (!c->ours) {
			c->escrows = up.escrows[k];
			c->ring_conns = loop_ring_conns(world.server->shards[k]->loop);
			c->theirs_max = c->ring_conns * up.moves[k].escrow_count;
			c->ours = calloc(c->theirs_max, sizeof(*c->ours));
			CHECK(c->ours);
		}
		if (shard_pull(s->shards[k % s->shard_count], c, (const uint32_t *)b->p,
			    b->n / sizeof(uint32_t), true, why, sizeof(why)))
			continue;
		/* (two shards' connections may be too many for one) */
		if (up.fate != FATE_NO_ROOM && s->shard_count == world.server->shard_count)
			sim_fail(NULL, NULL, "upgrade: no sockets: %s", why);
		return false;
	}
	return true;
}

static bool import(void)
{
	struct server *s = world.next;
	struct handover_reader readers[SERVER_SHARDS_MAX];
	uint32_t moved = 0, parked = 0, sent = 0;
	uint64_t order = 0;
	char why[256] = "";
	bool ok = true;

	for (unsigned i = 0; i < world.server->shard_count && ok; i++) {
		struct shard_move *m = &up.moves[i];

		readers[i] = (struct handover_reader){.at = 0};
		if (m->moved == 0)
			continue;
		CHECK(m->memory_fd >= 0 && m->memory_used <= m->memory_room);
		sent += m->moved;
		if (up.fate == FATE_BAD_STATE) {
			m->memory[sim_below((uint32_t)m->memory_used)] ^=
				(uint8_t)(1 + sim_below(255));
			ok = false;
		}
		if (handover_open(&readers[i], bytes_of(m->memory, m->memory_used), why,
			    sizeof(why)) != ok)
			sim_fail(NULL, NULL, "upgrade: the state is %s: %s",
				ok ? "not read" : "read although it is spoilt", why);
		if (ok && readers[i].head.order > order)
			order = readers[i].head.order;
	}
	if (!ok)
		return false;
	presence_continue(s->presence, order + (1ull << 32));
	for (unsigned i = 0; i < s->shard_count; i++) {
		loop_set_shared(s->shards[i]->loop, true);
		for (unsigned k = i; k < world.server->shard_count; k += s->shard_count)
			if (up.copies[k].ours &&
				!shard_import(s->shards[i], &readers[k], &up.copies[k], &moved,
					&parked, why, sizeof(why)))
				sim_fail(NULL, NULL, "upgrade: no import: %s", why);
	}
	CHECK(moved == sent);
	sim_note(NULL, NULL, "upgrade: # connections moved, # of them hang", moved, parked, 0);
	world.moved += moved;
	return true;
}

static void go_on(void *arg, uint64_t number)
{
	unsigned failed = 0;

	(void)arg;
	if (!up.busy || up.number != number)
		return;
	switch (up.step) {
	case SHARD_COPY:
		/* Refused now, copied in the next round. */
		net_export_refusals = up.fate == FATE_NO_EXPORT ? 200 : 0;
		net_import_refusals = up.fate == FATE_NO_ROOM ? 30 : 0;
		if (!pull() || up.fate == FATE_DIES_COPYING) {
			upgrade_failed();
			return;
		}
		if (up.rounds--) {
			step_all(SHARD_COPY);
			return;
		}
		world.held = (struct span){sim_now_us, UINT64_MAX};
		step_all(SHARD_QUIET);
		return;
	case SHARD_QUIET:
		if (up.fate == FATE_DIES_QUIET) {
			upgrade_failed();
			return;
		}
		world.frozen = (struct span){sim_now_us, UINT64_MAX};
		step_all(SHARD_FREEZE);
		return;
	case SHARD_FREEZE:
		net_export_refusals = up.fate == FATE_NO_EXPORT ? 500 : 0;
		step_all(SHARD_EXPORT);
		return;
	case SHARD_EXPORT:
		net_export_refusals = 0;
		for (unsigned i = 0; i < world.server->shard_count; i++)
			failed += up.moves[i].failed;
		if (failed || up.fate == FATE_DIES_EXPORTED ||
			(up.fate != FATE_OTHER_FORMAT && !pull()) || !import() ||
			up.fate == FATE_DIES_IMPORTED) {
			upgrade_failed();
			return;
		}
		net_import_refusals = 0;
		serving();
		return;
	default:
		CHECK(!"no such step");
	}
}

/* The new program says READY. */
static void ready(void *arg, uint64_t number)
{
	(void)arg;
	if (!up.busy || up.number != number)
		return;
	if (up.fate == FATE_DOES_NOT_START || up.fate == FATE_NO_FORMAT) {
		upgrade_failed();
		return;
	}
	world.next =
		process_new(sim_permille(700) ? world.server->shard_count : 1 + sim_below(4), true);
	for (unsigned i = 0; i < world.server->shard_count; i++) {
		struct loop *l = world.server->shards[i]->loop;
		struct shard_move *m = &up.moves[i];

		m->arg = &up;
		m->done = step_done;
		m->escrows = up.escrows[i];
		if (up.fate == FATE_OTHER_FORMAT)
			continue;
		for (unsigned k = 0; k < loop_rings_open(l); k++) {
			CHECK(k < ARRAY_LEN(up.escrows[i]));
			up.escrows[i][k] = net_escrow_new(l);
			m->escrow_count = k + 1;
		}
		/* Enough for what comes, or too little, or none. */
		m->memory_fd = -1;
		if (sim_permille(500)) {
			m->memory_room = 1 + sim_below(200000);
			m->memory_fd = handover_memory_make(m->memory_room, &m->memory);
		}
	}
	up.begun = true;
	if (up.fate == FATE_OTHER_FORMAT) {
		world.held = (struct span){sim_now_us, UINT64_MAX};
		step_all(SHARD_QUIET);
		return;
	}
	for (unsigned i = 0; i < world.server->shard_count; i++)
		loop_set_shared(world.server->shards[i]->loop, true);
	up.rounds = sim_below(4);
	step_all(SHARD_COPY);
}

bool life_upgrades(void)
{
	return up.busy || world.old;
}

void life_upgrade(void *arg, uint64_t unused)
{
	(void)arg, (void)unused;
	if (!world.up || atomic_load(&world.server->draining) || sim_now_us >= world.end_us)
		return;
	if (life_upgrades() || sim_now_us < world.held.until_us + 30 * SECOND) {
		/* (the main thread does one after the other) */
		sim_at(sim_now_us + 5 * SECOND, life_upgrade, NULL, 0);
		return;
	}
	upgrade_forget();
	memset(up.moves, 0, sizeof(up.moves));
	memset(up.copies, 0, sizeof(up.copies));
	up.busy = true;
	up.fate = sim_permille(500) ? FATE_SERVES : (enum fate)sim_below(FATES);
	up.pace_ms = up.fate == FATE_OTHER_FORMAT ? 5000 + sim_below(60000) : 0;
	sim_note(NULL, NULL, "upgrade: begins, fate #", up.fate, 0, 0);
	later(ready, 3 * SECOND);
}

void life_blow(void *arg, uint64_t orderly)
{
	(void)arg;
	if (!world.up || atomic_load(&world.server->draining))
		return;
	if (!orderly)
		world_crash();
	else if (life_upgrades())
		sim_at(sim_now_us + SECOND, life_blow, NULL, orderly);
	else
		drain();
}

/* ---- what a kernel or a machine has none of for a while -----------------------------------------
 */

void life_stretch(void *arg, uint64_t unused)
{
	uint64_t until = sim_now_us + sim_between(100 * MS, 15 * SECOND);
	enum scarce what = (enum scarce)sim_below(4);

	(void)arg, (void)unused;
	if (!world.up || atomic_load(&world.server->draining) || sim_now_us >= world.end_us)
		return;
	if (life_upgrades() || sim_now_us < world.held.until_us + 30 * SECOND) {
		sim_at(sim_now_us + 10 * SECOND, life_stretch, NULL, 0);
		return;
	}
	world.stretches++;
	sim_note(NULL, NULL, "server: short of # (buffers, accepts, slots, memory) for # ms", what,
		(until - sim_now_us) / MS, 0);
	if (what == SCARCE_MEMORY) {
		world.no_memory = (struct span){sim_now_us, until};
		/* Who waits for memory looks for it every two seconds. */
		world.held = (struct span){sim_now_us, until + 2 * SECOND};
		return;
	}
	for (unsigned i = 0; i < world.server->shard_count; i++)
		if (i == 0 || sim_permille(500))
			net_starve(world.server->shards[i]->loop, what, until);
	world.held = (struct span){sim_now_us, until};
}
