/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The loop's upcalls, the shard's messages, its life; shard.h says where everything else is. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/shard/keepalive.h"
#include "store/db.h"
#include "store/journal.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum { RETRY_MS = 50, VARY_MS = 10 };

/* ---- small things everybody here uses ------------------------------------------------------ */

uint64_t shard_wall_ms(const struct shard *s)
{
	return loop_now_ms(s->loop) + (uint64_t)s->server->wall_offset_ms;
}

const struct config *shard_config(const struct shard *s)
{
	return atomic_load_explicit(&s->server->config, memory_order_acquire);
}

/* Spread, not secrecy: jitter of Retry-After. */
uint32_t shard_random(struct shard *s)
{
	s->rng = s->rng * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(s->rng >> 33);
}

void queue_push(struct shard *s, struct slot_queue *q, uint32_t slot)
{
	struct conn *c = &s->conns[slot];

	CHECK(c->queue == QUEUE_NONE);
	if (q->id == QUEUE_WANT_HANDSHAKE)
		METRIC_ADD(TLS_HS_WAITING, 1);
	c->queue = (uint8_t)q->id;
	c->queue_next = WAITER_NONE;
	c->queue_prev = q->last;
	if (q->count++)
		s->conns[q->last].queue_next = slot;
	else
		q->first = slot;
	q->last = slot;
}

static struct slot_queue *queue_of(struct shard *s, enum queue_id id)
{
	switch (id) {
	case QUEUE_WANT_HANDSHAKE:
		return &s->want_handshake;
	case QUEUE_HANDSHAKES:
		return &s->handshakes;
	case QUEUE_WANT_ACTIVE:
		return &s->want_active;
	case QUEUE_WOKEN:
		return &s->woken;
	case QUEUE_NONE:
		break;
	}
	return NULL;
}

void queue_remove(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct slot_queue *q = queue_of(s, (enum queue_id)c->queue);

	if (!q)
		return;
	CHECK(q->count > 0);
	if (q->id == QUEUE_WANT_HANDSHAKE)
		METRIC_ADD(TLS_HS_WAITING, -1);
	if (c->queue_prev != WAITER_NONE)
		s->conns[c->queue_prev].queue_next = c->queue_next;
	else
		q->first = c->queue_next;
	if (c->queue_next != WAITER_NONE)
		s->conns[c->queue_next].queue_prev = c->queue_prev;
	else
		q->last = c->queue_prev;
	q->count--;
	c->queue = QUEUE_NONE;
}

uint32_t queue_pop(struct shard *s, struct slot_queue *q)
{
	uint32_t slot = q->first;

	if (q->count)
		queue_remove(s, slot);
	return slot;
}

/* ---- upcalls --------------------------------------------------------------------------------- */

static void on_accepted(void *arg, uint32_t slot, unsigned listener, const struct loop_addr *peer)
{
	struct shard *s = arg;

	CHECK(slot < s->slots_max && listener < s->listeners.count);
	s->newcomers = true;
	conn_accepted(s, slot, s->listeners.kind[listener], peer);
}

static void on_received(void *arg, uint32_t slot, const uint8_t *p, int n)
{
	conn_received(arg, slot, p, n);
}

static void on_readable(void *arg, uint32_t slot)
{
	conn_readable(arg, slot);
}

static void on_sent(void *arg, uint32_t slot, int err)
{
	conn_sent(arg, slot, err);
}

static void on_released(void *arg, uint32_t slot)
{
	conn_released(arg, slot);
}

static void on_exported(void *arg, uint32_t slot, int err)
{
	move_exported(arg, slot, err);
}

static void on_committed(void *arg)
{
	changes_read(arg);
}

/* The answer to shard_parked_ask; the asker may have stopped waiting. */
struct parked_ask {
	struct loop_msg msg;
	pthread_mutex_t mutex;
	pthread_cond_t done_cond;
	bool done, abandoned;
	uint32_t mailbox, device;
	struct shard_parked_list list;
	size_t cap;
};

static void ask_free(struct parked_ask *q)
{
	pthread_mutex_destroy(&q->mutex);
	pthread_cond_destroy(&q->done_cond);
	free(q->list.v);
	free(q);
}

static void ask_add(struct shard *s, struct parked_ask *q, uint32_t slot)
{
	const struct waiter *w = waiters_get(s->waiters, slot);
	const struct conn *c = &s->conns[slot];
	struct admin_parked *p;

	if ((q->mailbox && w->mailbox != q->mailbox) || (q->device && w->device != q->device))
		return;
	if (q->list.n == q->cap) {
		size_t cap = q->cap ? q->cap * 2 : 64;
		void *v = realloc(q->list.v, cap * sizeof(*q->list.v));

		if (!v)
			return;
		q->list.v = v;
		q->cap = cap;
	}
	p = &q->list.v[q->list.n++];
	*p = (struct admin_parked){
		.mailbox = w->mailbox,
		.device = w->device,
		.shard = s->index,
		.slot = slot,
		.sync = w->kind == WAITER_SYNC,
		.since_ms = w->since_wall_ms,
		.due_ms = w->due_ms + (uint64_t)s->server->wall_offset_ms,
		.heartbeat_s = w->heartbeat_s,
		.port = c->peer.port,
		.request_id = c->request_id,
	};
	memcpy(p->ip, c->peer.ip, sizeof(p->ip));
	p->folder_count = (uint32_t)waiters_folder_count(s->waiters, slot);
	waiters_folders(s->waiters, slot, false, p->folders, ARRAY_LEN(p->folders));
}

static void answer_ask(struct shard *s, struct parked_ask *q)
{
	bool abandoned;

	if (q->mailbox) {
		for (uint32_t w = waiters_first(s->waiters, q->mailbox); w != WAITER_NONE;
			w = waiters_next(s->waiters, w))
			ask_add(s, q, w);
	} else {
		for (uint32_t w = waiters_next_used(s->waiters, 0); w != WAITER_NONE;
			w = waiters_next_used(s->waiters, w + 1))
			ask_add(s, q, w);
	}
	pthread_mutex_lock(&q->mutex);
	abandoned = q->abandoned;
	q->done = true;
	pthread_cond_signal(&q->done_cond);
	pthread_mutex_unlock(&q->mutex);
	if (abandoned)
		ask_free(q);
}

bool shard_parked_ask(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t timeout_ms,
	struct shard_parked_list *out)
{
	struct parked_ask *q = calloc(1, sizeof(*q));
	pthread_condattr_t attr;
	struct timespec until;
	bool done;

	if (!q)
		return false;
	pthread_mutex_init(&q->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->done_cond, &attr);
	pthread_condattr_destroy(&attr);
	q->msg.kind = MSG_PARKED_ASK;
	q->mailbox = mailbox;
	q->device = device;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(timeout_ms / 1000);
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	loop_post(s->loop, &q->msg);
	pthread_mutex_lock(&q->mutex);
	while (!q->done)
		if (pthread_cond_timedwait(&q->done_cond, &q->mutex, &until) == ETIMEDOUT)
			break;
	done = q->done;
	if (!done)
		q->abandoned = true;
	pthread_mutex_unlock(&q->mutex);
	if (!done)
		return false;
	*out = q->list;
	q->list.v = NULL;
	ask_free(q);
	return true;
}

struct drain_msg {
	struct loop_msg msg;
	uint64_t grace_ms;
};

static void begin_drain(struct shard *s, uint64_t grace_ms)
{
	if (s->draining)
		return;
	s->draining = true;
	s->drain_until_ms = loop_now_ms(s->loop) + grace_ms;
	loop_listen_stop(s->loop);
	/* Newcomers are refused at once, and those in the backlog reset: whoever balances the load
	 * then goes elsewhere. The descriptors stay the server's. */
	for (unsigned i = 0; i < s->listeners.count; i++)
		shutdown(s->listeners.fd[i], SHUT_RD);
	wake_all(s, WAKE_DRAIN);
	for (uint32_t i = 0; i < s->slots_end && s->open_conns; i++) {
		struct conn *c = &s->conns[i];

		switch ((enum conn_state)c->state) {
		case CONN_GREETED:
		case CONN_HANDSHAKE: /* nothing was asked yet; a silent peer must not hold us up */
		case CONN_IDLE:
			conn_close(s, i, false);
			break;
		case CONN_FREE:
			break;
		default:
			c->flags &= (uint8_t)~CONN_KEEP_ALIVE;
		}
	}
}

void shard_drain(struct shard *s, uint64_t grace_ms)
{
	struct drain_msg *m = calloc(1, sizeof(*m));

	CHECK(m);
	m->msg.kind = MSG_DRAIN;
	m->grace_ms = grace_ms;
	loop_post(s->loop, &m->msg);
}

void shard_policy_changed(struct shard *s)
{
	struct loop_msg *m = calloc(1, sizeof(*m));

	CHECK(m);
	m->kind = MSG_POLICY;
	loop_post(s->loop, m);
}

static void on_message(void *arg, struct loop_msg *m)
{
	struct shard *s = arg;

	switch ((enum shard_msg)m->kind) {
	case MSG_JOB_DONE:
		request_job_done(s, container_of(m, struct job, msg));
		return;
	case MSG_CRED_DONE:
		request_cred_done(s, container_of(m, struct active, cred_msg));
		return;
	case MSG_SUPERSEDE:
		if (s->phase == MOVE_EXPORTED) {
			m->next = s->supersedes_held;
			s->supersedes_held = m;
			return;
		}
		park_supersede(s, container_of(m, struct supersede_msg, msg));
		free(container_of(m, struct supersede_msg, msg));
		return;
	case MSG_DRAIN:
		begin_drain(s, container_of(m, struct drain_msg, msg)->grace_ms);
		free(container_of(m, struct drain_msg, msg));
		return;
	case MSG_POLICY:
		wake_all(s, WAKE_ACCESS);
		free(m);
		return;
	case MSG_PARKED_ASK:
		answer_ask(s, container_of(m, struct parked_ask, msg));
		return;
	case MSG_STEP:
		move_step(s, m);
		return;
	}
	CHECK(!"a message of an unknown kind");
}

static void on_timer(void *arg, uint32_t slot)
{
	struct shard *s = arg;

	if (!(s->conns[slot].flags & CONN_MOVED)) /* else its deadline is another process' */
		conn_timer(s, slot);
}

/* After newcomers, at most a hundred times a second: the next ones are given other settings. */
static void vary_keepalive(struct shard *s, uint64_t now_ms)
{
	int64_t idle_s = shard_config(s)->http_tcp_keepalive_s;

	if (!s->newcomers || now_ms < s->vary_at_ms || !idle_s)
		return;
	s->newcomers = false;
	s->vary_at_ms = now_ms + VARY_MS;
	for (unsigned i = 0; i < s->listeners.count; i++)
		keepalive_set(s->listeners.fd[i], idle_s, shard_random(s));
}

static uint64_t on_tick(void *arg, uint64_t now_ms)
{
	struct shard *s = arg;
	uint64_t next;

	atomic_store_explicit(&s->last_tick_ms, now_ms, memory_order_relaxed);
	if (move_frozen(s))
		return move_tick(s, now_ms);
	/* Those who wait for a change come first, then deadlines, then newcomers. */
	if (s->committed_pending)
		changes_read(s);
	wake_answer(s);
	wheel_advance(s->wheel, now_ms, on_timer, s);
	wake_answer(s);
	next = conn_background(s) ? now_ms : wheel_next_ms(s->wheel);
	vary_keepalive(s, now_ms);
	s->wakes_unsent = false; /* they go out with the end of this turn */
	active_trim(s, now_ms);
	if (s->draining && (s->open_conns == 0 || now_ms >= s->drain_until_ms)) {
		if (s->open_conns)
			log_msg(LOG_WARNING, "drain: connections cut off");
		loop_stop(s->loop);
	}
	/* Those who could not be answered wait for memory or for a worker, which may come free by
	 * another shard's doing: nothing here would tell. */
	if ((s->woken.count || s->journal_stuck) && next > now_ms + RETRY_MS)
		next = now_ms + RETRY_MS;
	if (s->committed_pending && !s->journal_stuck)
		next = now_ms;
	/* /livez wants a sign of life now and then. */
	if (next > now_ms + 2000)
		next = now_ms + 2000;
	if (s->draining && next > now_ms + 100)
		next = now_ms + 100;
	if (move_ticks(s)) {
		uint64_t at = move_tick(s, now_ms);

		next = at < next ? at : next;
	}
	return next;
}

static const struct loop_events events = {
	.accepted = on_accepted,
	.received = on_received,
	.readable = on_readable,
	.sent = on_sent,
	.released = on_released,
	.exported = on_exported,
	.message = on_message,
	.committed = on_committed,
	.tick = on_tick,
};

/* ---- life ------------------------------------------------------------------------------------ */

static void *map_lazily(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

struct shard *shard_new(struct server *server, unsigned index, const struct listeners *listeners,
	char *why, size_t why_bytes)
{
	const struct config *c = atomic_load(&server->config);
	struct shard *s = calloc(1, sizeof(*s));
	struct loop_options o = {
		.conns_max = (uint32_t)((c->core_connections_max + server->shard_count - 1) /
					server->shard_count),
		.ring_conns_max = (uint32_t)c->core_ring_connections_max,
		.cpu = -1,
		.commit_word = &db_notify(server->db)->word,
	};
	struct db_txn txn;

	CHECK(s);
	s->server = server;
	s->index = index;
	list_init(&s->active_all);
	s->loop = loop_new(&o, &events, s, why, why_bytes);
	if (!s->loop) {
		free(s);
		return NULL;
	}
	s->slots_max = loop_slots_max(s->loop);
	s->wheel = wheel_new(s->slots_max, loop_now_ms(s->loop));
	s->waiters = waiters_new(s->slots_max);
	s->presence = presence_shard_new(server->presence, index);
	s->conns = map_lazily(s->slots_max * sizeof(struct conn));
	s->wake_of = map_lazily(s->slots_max * sizeof(struct wake_buffer *));
	s->wake_pool = map_lazily(WAKE_BUFFERS * sizeof(struct wake_buffer));
	s->want_handshake = (struct slot_queue){WAITER_NONE, WAITER_NONE, 0, QUEUE_WANT_HANDSHAKE};
	s->handshakes = (struct slot_queue){WAITER_NONE, WAITER_NONE, 0, QUEUE_HANDSHAKES};
	s->want_active = (struct slot_queue){WAITER_NONE, WAITER_NONE, 0, QUEUE_WANT_ACTIVE};
	s->woken = (struct slot_queue){WAITER_NONE, WAITER_NONE, 0, QUEUE_WOKEN};
	s->active_max = (uint32_t)c->core_requests_in_flight_max;
	s->rng = server->id_seed ^ (uint64_t)index << 32;
	/* Whatever was committed before now is seen by the comparison of each request. */
	if (db_read(server->db, &txn) == DB_OK) {
		s->journal_seen = journal_head(&txn);
		db_read_end(&txn);
	}
	atomic_store(&s->last_tick_ms, loop_now_ms(s->loop));
	s->listeners = *listeners;
	for (unsigned i = 0; i < listeners->count; i++)
		loop_listen(s->loop, listeners->fd[i]);
	return s;
}

void shard_run(struct shard *s)
{
	loop_run(s->loop);
}

void shard_free(struct shard **ss)
{
	struct shard *s = *ss;

	if (!s)
		return;
	*ss = NULL;
	/* The rings first: what they still send lies in the memory that goes now. */
	loop_free(&s->loop);
	for (uint32_t i = 0; s->open_conns && i < s->slots_end; i++) {
		if (s->conns[i].active)
			active_release(s, i);
		if (s->conns[i].flags & CONN_TLS)
			tlsrec_wipe(&s->conns[i].tls);
	}
	/* All there are: a command that ended after the loop did has told nobody. */
	while (!list_empty(&s->active_all)) {
		struct list_link *l = s->active_all.next;

		list_del(l);
		active_destroy(list_entry(l, struct active, all));
	}
	move_end(s);
	wheel_free(&s->wheel);
	waiters_free(&s->waiters);
	presence_shard_free(&s->presence);
	munmap(s->conns, s->slots_max * sizeof(struct conn));
	munmap(s->wake_of, s->slots_max * sizeof(struct wake_buffer *));
	munmap(s->wake_pool, WAKE_BUFFERS * sizeof(struct wake_buffer));
	free(s);
}

uint64_t shard_last_tick_ms(const struct shard *s)
{
	return atomic_load_explicit(&s->last_tick_ms, memory_order_relaxed);
}

unsigned shard_index(const struct shard *s)
{
	return s->index;
}

struct loop *shard_loop(struct shard *s)
{
	return s->loop;
}

static bool queue_fits(const struct conn *c)
{
	switch ((enum queue_id)c->queue) {
	case QUEUE_NONE:
		return true;
	case QUEUE_WANT_HANDSHAKE:
		return c->state == CONN_GREETED;
	case QUEUE_HANDSHAKES:
		return c->state == CONN_HANDSHAKE;
	case QUEUE_WANT_ACTIVE:
		return c->state == CONN_IDLE;
	case QUEUE_WOKEN:
		return c->state == CONN_PARKED;
	}
	return false;
}

bool shard_check(const struct shard *s)
{
	struct deadlines ends = {0};
	uint32_t parked = 0;

	for (uint32_t i = 0; i < s->slots_max; i++) {
		bool is_parked = s->conns[i].state == CONN_PARKED;

		parked += is_parked;
		if (is_parked != (waiters_get(s->waiters, i) != NULL))
			return false;
		if (is_parked && !wheel_armed(s->wheel, i) && s->conns[i].queue != QUEUE_WOKEN)
			return false;
		if (!queue_fits(&s->conns[i]))
			return false;
		if (is_parked)
			deadlines_add(&ends, waiters_get(s->waiters, i)->due_ms);
	}
	return memcmp(&ends, &s->deadlines, sizeof(ends)) == 0 &&
	       parked == waiters_count(s->waiters) && waiters_check(s->waiters) &&
	       wheel_check(s->wheel);
}
