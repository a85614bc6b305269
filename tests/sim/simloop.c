/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/loop.h a second time: no kernel, no sockets, no clock. A turn of a loop runs the upcalls that
 * are ready, or some of them, in any order, then the tick; what becomes ready and when is chance.
 * The contract of the header is checked from below: what core must not do ends the run. */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum ready_kind {
	READY_ACCEPT,
	READY_READ,
	READY_SENT,
	READY_RELEASED,
	READY_EXPORTED,
	READY_MESSAGE,
	READY_COMMIT
};

struct ready {
	uint8_t kind;
	struct wire *wire;
	struct loop_msg *msg;
	uint64_t sender, number;
	int err;
};

struct loop {
	struct loop *next; /* all there are, of both processes in an upgrade */
	uint64_t id;
	const struct loop_events *ev;
	void *arg;
	unsigned index;
	uint32_t slots_max, ring_conns;
	struct wire **slots;
	uint32_t *free_slots;
	uint32_t free_count;
	uint64_t now_ms;
	uint64_t turn_at_us, busy_until_us;
	struct ready *ready;
	size_t ready_n, ready_cap, accepts;
	bool listening, running, stopping, stopped, in_turn, shared;
	const _Atomic uint32_t *word;
	uint32_t word_seen;    /* told, or about to be */
	uint32_t word_looked;  /* by the server itself */
	uint64_t commit_at_us; /* 0: no notification on its way */
	/* Until then the kernel has nothing of it to give. */
	uint64_t no_buffers_us, no_accepts_us, no_slots_us;
	/* When the last message of a sender arrives; workers send one each. */
	uint64_t last_arrival[SERVER_SHARDS_MAX + 1];
};

struct handover_escrow {
	uint32_t places;
	struct wire *wires[];
};

static struct loop *loops;
static uint64_t loop_count;
unsigned net_next_loop;
unsigned net_export_refusals, net_import_refusals;
uint64_t net_sender;

/* ---- turns -------------------------------------------------------------------------------------
 */

/* By the turn that runs now. */
static uint64_t taken_us;

void net_takes_time(uint64_t us)
{
	taken_us += us;
}

static void turn(void *arg, uint64_t id);

static struct loop *by_id(uint64_t id)
{
	for (struct loop *l = loops; l; l = l->next)
		if (l->id == id)
			return l;
	return NULL;
}

/* This process' hold on the connection. */
static struct hold *hold_of(struct wire *w, const struct loop *l)
{
	return w->own.loop == l ? &w->own : w->other.loop == l ? &w->other : NULL;
}

static void turn_at(struct loop *l, uint64_t us)
{
	if (us < sim_now_us)
		us = sim_now_us;
	if (us < l->busy_until_us)
		us = l->busy_until_us;
	if (!l->running || l->stopped || l->turn_at_us <= us)
		return;
	l->turn_at_us = us;
	sim_at(us, turn, NULL, l->id);
}

static uint64_t soon(void)
{
	/* Mostly at once; now and then the thread is not scheduled for a while. */
	return sim_permille(20) ? sim_between(0, 20 * MS) : sim_between(0, 300);
}

static void ready_add(struct loop *l, struct ready r)
{
	static uint64_t number;

	if (l->ready_n == l->ready_cap) {
		l->ready_cap = l->ready_cap ? l->ready_cap * 2 : 256;
		l->ready = realloc(l->ready, l->ready_cap * sizeof(*l->ready));
		CHECK(l->ready);
	}
	r.number = number++;
	l->ready[l->ready_n++] = r;
	turn_at(l, sim_now_us + soon());
}

static struct ready ready_take(struct loop *l, size_t n)
{
	size_t i = sim_below((uint32_t)n);
	struct ready r;

	/* Messages of one sender keep their order. */
	if (l->ready[i].kind == READY_MESSAGE) {
		size_t oldest = i;

		for (size_t k = 0; k < l->ready_n; k++)
			if (l->ready[k].kind == READY_MESSAGE &&
				l->ready[k].sender == l->ready[i].sender &&
				l->ready[k].number < l->ready[oldest].number)
				oldest = k;
		i = oldest;
	}
	r = l->ready[i];
	l->ready[i] = l->ready[--l->ready_n];
	return r;
}

/* Does the outstanding receive or watch have something to say? */
static void pump(struct wire *w, struct hold *h)
{
	if (!h->loop || w->server_closed || h->op == WIRE_QUIET || h->ready)
		return;
	if (w->in.n == 0 && !w->fin_arrived && !w->rst_arrived)
		return;
	h->ready = true;
	ready_add(h->loop, (struct ready){.kind = READY_READ, .wire = w});
}

void net_pump(struct wire *w)
{
	pump(w, &w->own);
	pump(w, &w->other); /* (the copy's watch fires as well) */
}

static void fed_again(void *arg, uint64_t id)
{
	struct loop *l = by_id(id);
	struct wire *w = arg;

	if (l && hold_of(w, l))
		ready_add(l, (struct ready){.kind = READY_READ, .wire = w});
}

static void read_ready(struct loop *l, struct wire *w)
{
	struct hold *h = hold_of(w, l);
	uint8_t *copy;
	size_t n;

	if (!h)
		return;
	if (h->op == WIRE_RECV && !w->server_closed && sim_now_us < l->no_buffers_us) {
		sim_at(l->no_buffers_us, fed_again, w, l->id);
		return;
	}
	h->ready = false;
	if (w->server_closed || h->op == WIRE_QUIET)
		return;
	if (h->op == WIRE_WATCH) {
		h->op = WIRE_QUIET;
		l->ev->readable(l->arg, h->slot);
		return;
	}
	CHECK(h == &w->own);
	h->op = WIRE_QUIET;
	if (w->rst_arrived) {
		l->ev->received(l->arg, h->slot, NULL, -ECONNRESET);
		return;
	}
	if (w->in.n == 0) {
		l->ev->received(l->arg, h->slot, NULL, 0);
		return;
	}
	n = w->in.n < 2048 ? w->in.n : 2048;
	if (sim_permille(400))
		n = sim_between(n / 8 + 1, n);
	/* A copy that is gone right after the call: views into it would be found. */
	copy = malloc(n);
	CHECK(copy);
	memcpy(copy, w->in.p, n);
	memmove(w->in.p, w->in.p + n, w->in.n - n);
	w->in.n -= n;
	w->read += n;
	l->ev->received(l->arg, h->slot, copy, (int)n);
	memset(copy, 0xdd, n);
	free(copy);
}

static uint64_t hash(const uint8_t *p, size_t n)
{
	uint64_t h = 14695981039346656037u;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 1099511628211u;
	return h;
}

static uint32_t slot_take(struct loop *l, struct wire *w, struct hold *h)
{
	uint32_t i = sim_below(l->free_count), slot = l->free_slots[i];

	l->free_slots[i] = l->free_slots[--l->free_count];
	l->slots[slot] = w;
	*h = (struct hold){.loop = l, .slot = slot};
	return slot;
}

static void run_ready(struct loop *l, struct ready *r)
{
	struct wire *w = r->wire;
	struct hold *h = w ? hold_of(w, l) : NULL;
	uint32_t slot;

	switch ((enum ready_kind)r->kind) {
	case READY_ACCEPT: {
		struct loop_addr peer = {.port = (uint16_t)(1024 + w->number % 60000)};

		l->accepts--;
		slot = slot_take(l, w, &w->own);
		peer.ip[10] = peer.ip[11] = 0xff;
		peer.ip[12] = 10;
		peer.ip[15] = (uint8_t)w->number;
		sim_note(w->phone, NULL, "wire #: accepted by shard #, slot #", w->number, l->index,
			slot);
		l->ev->accepted(l->arg, slot, 0, &peer);
		return;
	}
	case READY_READ:
		read_ready(l, w);
		return;
	case READY_SENT:
		if (w->server_closed || !w->sending || !h)
			return;
		CHECK(h == &w->own);
		if (hash(w->send_p, w->send_n) != w->send_hash)
			sim_fail(w->phone, NULL, "a buffer changed while it was being sent");
		w->sending = false;
		w->sent_us = sim_now_us;
		l->ev->sent(l->arg, h->slot, w->rst_arrived && sim_permille(500) ? -EPIPE : 0);
		return;
	case READY_RELEASED:
		CHECK(h && l->slots[h->slot] == w);
		slot = h->slot;
		*h = (struct hold){0};
		l->slots[slot] = NULL;
		l->free_slots[l->free_count++] = slot;
		l->ev->released(l->arg, slot);
		net_accept_waiting();
		return;
	case READY_EXPORTED:
		if (h && !w->server_closed)
			l->ev->exported(l->arg, h->slot, r->err);
		return;
	case READY_MESSAGE:
		l->ev->message(l->arg, r->msg);
		return;
	case READY_COMMIT:
		l->ev->committed(l->arg);
		return;
	}
}

static void turn(void *arg, uint64_t id)
{
	struct loop *l = by_id(id);
	uint64_t next_ms;
	size_t n;

	(void)arg;
	if (!l || l->stopped || l->turn_at_us != sim_now_us)
		return;
	l->turn_at_us = UINT64_MAX;
	l->now_ms = sim_now_us / MS;
	l->in_turn = true;
	taken_us = 0;
	net_sender = 1 + l->index;
	n = l->ready_n;
	if (n > 1 && sim_permille(300))
		n = sim_between(1, n);
	for (; n && !l->stopping; n--) {
		struct ready r = ready_take(l, n);

		run_ready(l, &r);
		/* It looks now and then, whether it was told or not. */
		if (sim_permille(30) && loop_commit_moved(l))
			l->ev->committed(l->arg);
	}
	next_ms = l->ev->tick(l->arg, l->now_ms);
	net_sender = 0;
	l->in_turn = false;
	l->busy_until_us = sim_now_us + taken_us;
	taken_us = 0;
	if (l->stopping) {
		l->stopped = true;
		oracle_turn(l->arg);
		return;
	}
	if (l->ready_n || next_ms <= l->now_ms)
		turn_at(l, sim_now_us + 1 + soon());
	else if (next_ms < UINT64_MAX / MS)
		turn_at(l, next_ms * MS + (sim_permille(50) ? sim_between(0, 30 * MS) : 0));
	oracle_turn(l->arg);
}

/* ---- io/loop.h ---------------------------------------------------------------------------------
 */

struct loop *loop_new(const struct loop_options *o, const struct loop_events *ev, void *arg,
	char *why, size_t why_bytes)
{
	struct loop *l = calloc(1, sizeof(*l));

	(void)why, (void)why_bytes;
	CHECK(l && net_next_loop < SERVER_SHARDS_MAX);
	l->ev = ev;
	l->arg = arg;
	l->index = net_next_loop++;
	l->id = ++loop_count;
	l->slots_max = o->conns_max;
	/* One ring, or a few, or many. */
	l->ring_conns =
		sim_permille(500) ? l->slots_max : l->slots_max / 32 + 1 + sim_below(l->slots_max);
	l->slots = calloc(l->slots_max, sizeof(*l->slots));
	l->free_slots = calloc(l->slots_max, sizeof(*l->free_slots));
	CHECK(l->slots && l->free_slots);
	while (l->free_count < l->slots_max) {
		l->free_slots[l->free_count] = l->free_count;
		l->free_count++;
	}
	l->word = o->commit_word;
	l->word_seen = l->word_looked = atomic_load(l->word);
	l->now_ms = sim_now_us / MS;
	l->turn_at_us = UINT64_MAX;
	l->next = loops;
	loops = l;
	return l;
}

void net_run(struct loop *l)
{
	l->running = true;
	ready_add(l, (struct ready){.kind = READY_COMMIT});
	net_accept_waiting();
}

void loop_free(struct loop **lp)
{
	struct loop *l = *lp, **q;

	if (!l)
		return;
	*lp = NULL;
	for (q = &loops; *q != l; q = &(*q)->next)
		CHECK(*q);
	*q = l->next;
	/* The process is gone: the kernel resets what it had open, but for what is open elsewhere. */
	for (uint32_t i = 0; i < l->slots_max; i++) {
		struct wire *w = l->slots[i];
		struct hold *h = w ? hold_of(w, l) : NULL;

		if (!w)
			continue;
		*h = (struct hold){0};
		if (w->own.loop || w->other.loop)
			continue;
		wire_cut(w);
	}
	free(l->slots);
	free(l->free_slots);
	free(l->ready);
	free(l);
}

void loop_listen(struct loop *l, int fd)
{
	(void)fd;
	l->listening = true;
}

void loop_listen_stop(struct loop *l)
{
	l->listening = false;
}

bool loop_commit_moved(struct loop *l)
{
	bool moved = atomic_load(l->word) != l->word_looked;

	l->word_looked = atomic_load(l->word);
	return moved;
}

void loop_submit(struct loop *l)
{
	(void)l;
}

void loop_listen_again(struct loop *l)
{
	l->listening = true;
	net_accept_waiting();
}

/* A turn runs when its event comes; nobody calls this. */
void loop_run(struct loop *l)
{
	(void)l;
}

uint32_t loop_slots_max(const struct loop *l)
{
	return l->slots_max;
}

uint64_t loop_now_ms(const struct loop *l)
{
	return l->now_ms;
}

uint64_t loop_now_ns(const struct loop *l)
{
	(void)l;
	return (sim_now_us + taken_us) * 1000;
}

uint32_t loop_connect(
	struct loop *l, const struct sockaddr_storage *to, const struct sockaddr_storage *from)
{
	(void)l, (void)to, (void)from;
	return UINT32_MAX;
}

/* The slot's connection, when it is the caller's to use. */
static struct wire *open_wire(struct loop *l, uint32_t slot)
{
	struct wire *w;

	CHECK(l->in_turn); /* calls only on the loop's own thread */
	CHECK(slot < l->slots_max);
	w = l->slots[slot];
	CHECK(w && !w->server_closed);
	if (w->own.loop != l)
		sim_fail(w->phone, NULL,
			"ONE: wire %llu is another process', and shard %u touches it",
			(unsigned long long)w->number, l->index);
	return w;
}

static void want(struct loop *l, uint32_t slot, uint8_t op)
{
	struct wire *w;
	struct hold *h;

	CHECK(slot < l->slots_max && l->slots[slot]);
	w = l->slots[slot];
	h = hold_of(w, l);
	/* A process that takes over may watch already. */
	CHECK((l->in_turn && !w->server_closed) || !l->running);
	CHECK(h == &w->own || (op == WIRE_WATCH && !l->running));
	CHECK(h->op == WIRE_QUIET); /* one receive or watch at a time */
	h->op = op;
	pump(w, h);
}

void loop_recv(struct loop *l, uint32_t slot)
{
	want(l, slot, WIRE_RECV);
}

void loop_watch(struct loop *l, uint32_t slot)
{
	want(l, slot, WIRE_WATCH);
}

void loop_unwatch(struct loop *l, uint32_t slot)
{
	open_wire(l, slot)->own.op = WIRE_QUIET;
}

static void send_done(void *arg, uint64_t number)
{
	struct wire *w = arg;

	if (w->server_closed || !w->own.loop || !w->sending || w->send_number != number)
		return;
	/* The network breaks with the answer on its way. */
	if (sim_permille(8)) {
		sim_note(w->phone, NULL, "wire #: reset, the answer is lost", w->number, 0, 0);
		wire_to_phone(w, w->send_p, sim_below(w->send_n), false, true);
		sim_at(sim_now_us + sim_between(0, 100 * MS), wire_reset, w, 0);
	} else {
		wire_to_phone(w, w->send_p, w->send_n, false, false);
	}
	ready_add(w->own.loop, (struct ready){.kind = READY_SENT, .wire = w});
}

void loop_send(struct loop *l, uint32_t slot, const void *p, uint32_t n)
{
	struct wire *w = open_wire(l, slot);
	uint64_t delay;

	CHECK(!w->sending && n > 0);
	w->sending = true;
	w->send_p = p;
	w->send_n = n;
	w->send_hash = hash(p, n);
	w->send_number++;
	oracle_said(w, p, n);
	/* The kernel takes small answers at once, even for a phone that is gone; a slow or dead
	 * reader with a full window makes it wait. */
	delay = sim_permille(20) ? sim_between(0, 3 * SECOND) : sim_between(0, 2 * MS);
	if (w->vanished && sim_permille(200)) {
		w->stuck = true;
		return;
	}
	sim_at(sim_now_us + delay, send_done, w, w->send_number);
}

static void release(void *arg, uint64_t id)
{
	struct loop *l = by_id(id);
	struct wire *w = arg;

	if (l && hold_of(w, l))
		ready_add(l, (struct ready){.kind = READY_RELEASED, .wire = w});
}

void loop_close(struct loop *l, uint32_t slot, bool reset)
{
	struct wire *w = open_wire(l, slot);

	sim_note(w->phone, NULL, reset ? "wire #: server resets it" : "wire #: server closes it",
		w->number, 0, 0);
	/* Without shutdown the kernel says nothing while somebody else holds the socket. */
	CHECK(!w->other.loop || l->shared);
	oracle_closed_by_server(w);
	w->server_closed = true;
	w->own.op = WIRE_QUIET;
	/* Bytes that nobody has read make the kernel send a reset. */
	if (w->in.n)
		reset = true;
	if (w->sending)
		wire_to_phone(w, w->send_p, sim_below(w->send_n + 1), !reset, reset);
	else
		wire_to_phone(w, NULL, 0, !reset, reset);
	w->sending = false;
	sim_at(sim_now_us + sim_between(0, 30 * MS), release, w, l->id);
}

/* ---- hand-over ---------------------------------------------------------------------------------
 */

struct handover_escrow *net_escrow_new(const struct loop *l)
{
	struct handover_escrow *e = calloc(1, sizeof(*e) + l->ring_conns * sizeof(struct wire *));

	CHECK(e);
	e->places = l->ring_conns;
	return e;
}

bool loop_may_export(const struct loop *l, uint32_t slot)
{
	const struct wire *w = l->slots[slot];

	return w && w->own.loop == l && !w->server_closed && !w->sending && w->own.op != WIRE_RECV;
}

void loop_export(struct loop *l, uint32_t slot, const struct handover_escrow *e)
{
	struct wire *w = open_wire(l, slot);
	int err = sim_permille(net_export_refusals) ? -ENOMEM : 0;

	CHECK(l->ring_conns == e->places);
	if (!err)
		((struct handover_escrow *)e)->wires[slot % l->ring_conns] = w;
	ready_add(l, (struct ready){.kind = READY_EXPORTED, .wire = w, .err = err});
}

void loop_let_go(struct loop *l, uint32_t slot)
{
	struct wire *w = l->slots[slot];

	CHECK(l->in_turn && w && w->other.loop == l && w->own.loop != l);
	w->other.op = WIRE_QUIET;
	sim_at(sim_now_us + sim_between(0, 30 * MS), release, w, l->id);
}

uint32_t loop_import(struct loop *l, struct handover_escrow *e, const uint32_t *places,
	uint32_t *slots_out, uint32_t n)
{
	uint32_t got = 0;

	CHECK(!l->running);
	for (uint32_t i = 0; i < n; i++) {
		struct wire *w;

		CHECK(places[i] < e->places);
		w = e->wires[places[i]];
		CHECK(w && !w->other.loop);
		slots_out[i] = UINT32_MAX;
		if (l->free_count == 0 || sim_permille(net_import_refusals))
			continue;
		slots_out[i] = slot_take(l, w, &w->other);
		got++;
	}
	return got;
}

void loop_import_drop(struct loop *l, uint32_t slot)
{
	struct wire *w = l->slots[slot];

	CHECK(!l->running && w && w->other.loop == l);
	w->other = (struct hold){0};
	l->slots[slot] = NULL;
	l->free_slots[l->free_count++] = slot;
}

void net_take_over(struct loop *l)
{
	for (uint32_t i = 0; i < l->slots_max; i++) {
		struct wire *w = l->slots[i];
		struct hold h;

		if (!w)
			continue;
		CHECK(w->other.loop == l && !w->server_closed);
		h = w->own;
		w->own = w->other;
		w->other = h;
	}
}

void loop_set_shared(struct loop *l, bool shared)
{
	l->shared = shared;
}

uint32_t loop_ring_conns(const struct loop *l)
{
	return l->ring_conns;
}

uint32_t loop_rings_open(const struct loop *l)
{
	return (l->slots_max + l->ring_conns - 1) / l->ring_conns;
}

/* ---- messages
 * ------------------------------------------------------------------------------------- */

struct flight {
	struct flight *next;
	struct loop_msg *msg;
	uint64_t sender, number;
	struct loop *to;
};
static struct flight *flights;

static void land(void *arg, uint64_t number)
{
	struct flight *f, **p;

	(void)arg;
	for (p = &flights; *p && (*p)->number != number; p = &(*p)->next)
		;
	f = *p;
	if (!f)
		return; /* its loop has gone */
	*p = f->next;
	ready_add(f->to, (struct ready){.kind = READY_MESSAGE, .msg = f->msg, .sender = f->sender});
	free(f);
}

void loop_post(struct loop *l, struct loop_msg *m)
{
	static uint64_t count;
	struct flight *f = calloc(1, sizeof(*f));
	uint64_t at = sim_now_us +
		      (sim_permille(50) ? sim_between(0, POST_MAX_US / 2) : sim_between(0, 2 * MS));

	CHECK(f);
	if (net_sender <= SERVER_SHARDS_MAX) {
		if (at <= l->last_arrival[net_sender])
			at = l->last_arrival[net_sender] + 1;
		l->last_arrival[net_sender] = at;
	}
	f->msg = m;
	f->sender = net_sender;
	f->to = l;
	f->number = ++count;
	f->next = flights;
	flights = f;
	sim_at(at, land, NULL, f->number);
}

void loop_stop(struct loop *l)
{
	l->stopping = true;
}

/* ---- commits
 * --------------------------------------------------------------------------------------- */

static void notify(void *arg, uint64_t id)
{
	struct loop *l = by_id(id);

	(void)arg;
	if (!l || l->commit_at_us != sim_now_us)
		return;
	l->commit_at_us = 0;
	ready_add(l, (struct ready){.kind = READY_COMMIT});
}

void net_look_at_commits(void)
{
	for (struct loop *l = loops; l; l = l->next) {
		uint32_t word;

		if (!l->running || l->stopped || (word = atomic_load(l->word)) == l->word_seen)
			continue;
		l->word_seen = word;
		/* One that is on its way serves both when it comes later than this change; the
		 * sender of a futex wake never waits for the first one to be seen. */
		if (l->commit_at_us > sim_now_us)
			continue;
		l->commit_at_us = sim_now_us + 1 +
				  (sim_permille(100) ? sim_between(0, NOTIFY_MAX_US - 40 * MS)
						     : sim_between(0, 2 * MS));
		sim_at(l->commit_at_us, notify, NULL, l->id);
	}
}

/* ---- for the world ---------------------------------------------------------------------------
 */

bool net_stopped(const struct loop *l)
{
	return l->stopped;
}

static void in_again(void *arg, uint64_t unused)
{
	(void)arg, (void)unused;
	net_accept_waiting();
}

void net_starve(struct loop *l, enum scarce what, uint64_t until_us)
{
	sim_at(until_us, in_again, NULL, 0);
	if (what == SCARCE_BUFFERS)
		l->no_buffers_us = until_us;
	else if (what == SCARCE_ACCEPTS)
		l->no_accepts_us = until_us;
	else
		l->no_slots_us = until_us;
}

/* Wants a connection that arrives, has no room for it, or leaves it in the queue. */
enum greeting net_accept(struct loop *l, struct wire *w)
{
	if (!l->running || !l->listening || l->stopping || sim_now_us < l->no_accepts_us)
		return GREET_LATER;
	if (l->free_count <= l->accepts || sim_now_us < l->no_slots_us) {
		METRIC_INC(CONNS_REFUSED_FULL);
		return GREET_FULL;
	}
	l->accepts++;
	ready_add(l, (struct ready){.kind = READY_ACCEPT, .wire = w});
	return GREET_COME_IN;
}

void net_discard(struct loop *l, void (*discard)(struct loop_msg *m))
{
	struct flight **p = &flights, *f;

	while ((f = *p)) {
		if (f->to != l) {
			p = &f->next;
			continue;
		}
		*p = f->next;
		discard(f->msg);
		free(f);
	}
	for (size_t k = 0; k < l->ready_n; k++) {
		struct ready *r = &l->ready[k];

		if (r->kind == READY_MESSAGE)
			discard(r->msg);
		else if (r->kind == READY_ACCEPT)
			wire_cut(r->wire);
	}
	l->ready_n = 0;
}

/* ---- memory ------------------------------------------------------------------------------------
 */

void *__wrap_calloc(size_t n, size_t bytes);
void *__real_calloc(size_t n, size_t bytes);

/* Where memory may run out and the server lives on: that of a request which begins. */
void *__wrap_calloc(size_t n, size_t bytes)
{
	if (bytes == sizeof(struct active) && sim_now_us < world.no_memory.until_us &&
		sim_now_us >= world.no_memory.from_us)
		return NULL;
	return __real_calloc(n, bytes);
}
