/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/loop.h a second time: no kernel, no sockets, no clock. A turn of a loop runs the upcalls that
 * are ready, or some of them, in any order, then the tick; what becomes ready and when is chance.
 * The contract of the header is checked from below: what core must not do ends the run. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum ready_kind {
	READY_ACCEPT,
	READY_READ,
	READY_SENT,
	READY_RELEASED,
	READY_MESSAGE,
	READY_COMMIT
};

struct ready {
	uint8_t kind;
	struct wire *wire;
	struct loop_msg *msg;
	uint64_t sender, number;
};

struct loop {
	const struct loop_events *ev;
	void *arg;
	unsigned index;
	uint32_t slots_max;
	struct wire **slots;
	uint32_t *free_slots;
	uint32_t free_count;
	uint64_t now_ms;
	uint64_t turn_at_us;
	struct ready *ready;
	size_t ready_n, ready_cap;
	bool listening, stopping, stopped, in_turn;
	const _Atomic uint32_t *word;
	uint32_t word_seen;
	uint64_t commit_at_us; /* 0: no notification on its way */
};

static struct loop *loops[SERVER_SHARDS_MAX];
unsigned net_next_loop;
uint64_t net_sender;

/* ---- turns -------------------------------------------------------------------------------------
 */

static void turn(void *arg, uint64_t epoch);

static void turn_at(struct loop *l, uint64_t us)
{
	if (us < sim_now_us)
		us = sim_now_us;
	if (l->stopped || l->turn_at_us <= us)
		return;
	l->turn_at_us = us;
	sim_at(us, turn, (void *)(uintptr_t)l->index, sim_epoch);
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
static void pump(struct wire *w)
{
	if (!w->loop || w->server_closed || w->op == WIRE_QUIET || w->op_ready)
		return;
	if (w->in.n == 0 && !w->fin_arrived && !w->rst_arrived)
		return;
	w->op_ready = true;
	ready_add(w->loop, (struct ready){.kind = READY_READ, .wire = w});
}

static void read_ready(struct loop *l, struct wire *w)
{
	uint8_t *copy;
	size_t n;

	w->op_ready = false;
	if (w->server_closed || w->op == WIRE_QUIET)
		return;
	if (w->op == WIRE_WATCH) {
		w->op = WIRE_QUIET;
		l->ev->readable(l->arg, w->slot);
		return;
	}
	w->op = WIRE_QUIET;
	if (w->rst_arrived) {
		l->ev->received(l->arg, w->slot, NULL, -ECONNRESET);
		return;
	}
	if (w->in.n == 0) {
		l->ev->received(l->arg, w->slot, NULL, 0);
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
	l->ev->received(l->arg, w->slot, copy, (int)n);
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

static void run_ready(struct loop *l, struct ready *r)
{
	struct wire *w = r->wire;
	uint32_t i;

	switch ((enum ready_kind)r->kind) {
	case READY_ACCEPT:
		i = sim_below(l->free_count);
		w->slot = l->free_slots[i];
		l->free_slots[i] = l->free_slots[--l->free_count];
		l->slots[w->slot] = w;
		w->loop = l;
		{
			struct loop_addr peer = {.port = (uint16_t)(1024 + w->number % 60000)};

			peer.ip[10] = peer.ip[11] = 0xff;
			peer.ip[12] = 10;
			peer.ip[15] = (uint8_t)w->number;
			sim_note(w->phone, NULL, "wire #: accepted by shard #, slot #", w->number,
				l->index, w->slot);
			l->ev->accepted(l->arg, w->slot, 0, &peer);
		}
		return;
	case READY_READ:
		read_ready(l, w);
		return;
	case READY_SENT:
		if (w->server_closed || !w->sending)
			return;
		if (hash(w->send_p, w->send_n) != w->send_hash)
			sim_fail(w->phone, NULL, "a buffer changed while it was being sent");
		w->sending = false;
		w->sent_us = sim_now_us;
		l->ev->sent(l->arg, w->slot, w->rst_arrived && sim_permille(500) ? -EPIPE : 0);
		return;
	case READY_RELEASED:
		CHECK(l->slots[w->slot] == w);
		i = w->slot;
		l->slots[i] = NULL;
		l->free_slots[l->free_count++] = i;
		w->loop = NULL;
		l->ev->released(l->arg, i);
		return;
	case READY_MESSAGE:
		l->ev->message(l->arg, r->msg);
		return;
	case READY_COMMIT:
		l->ev->committed(l->arg);
		return;
	}
}

static void turn(void *arg, uint64_t epoch)
{
	struct loop *l = loops[(uintptr_t)arg];
	uint64_t next_ms;
	size_t n;

	if (epoch != sim_epoch || !l || l->stopped || l->turn_at_us != sim_now_us)
		return;
	l->turn_at_us = UINT64_MAX;
	l->now_ms = sim_now_us / MS;
	l->in_turn = true;
	net_sender = 1 + l->index;
	n = l->ready_n;
	if (n > 1 && sim_permille(300))
		n = sim_between(1, n);
	for (; n && !l->stopping; n--) {
		struct ready r = ready_take(l, n);

		run_ready(l, &r);
	}
	next_ms = l->ev->tick(l->arg, l->now_ms);
	net_sender = 0;
	l->in_turn = false;
	if (l->stopping) {
		l->stopped = true;
		oracle_turn(l->index);
		return;
	}
	if (l->ready_n || next_ms <= l->now_ms)
		turn_at(l, sim_now_us + 1 + soon());
	else if (next_ms < UINT64_MAX / MS)
		turn_at(l, next_ms * MS + (sim_permille(50) ? sim_between(0, 30 * MS) : 0));
	oracle_turn(l->index);
}

/* ---- io/loop.h ---------------------------------------------------------------------------------
 */

struct loop *loop_new(const struct loop_options *o, const struct loop_events *ev, void *arg,
	char *why, size_t why_bytes)
{
	struct loop *l = calloc(1, sizeof(*l));

	(void)why, (void)why_bytes;
	CHECK(l && net_next_loop < ARRAY_LEN(loops));
	l->ev = ev;
	l->arg = arg;
	l->index = net_next_loop++;
	l->slots_max = o->conns_max;
	l->slots = calloc(l->slots_max, sizeof(*l->slots));
	l->free_slots = calloc(l->slots_max, sizeof(*l->free_slots));
	CHECK(l->slots && l->free_slots);
	while (l->free_count < l->slots_max) {
		l->free_slots[l->free_count] = l->free_count;
		l->free_count++;
	}
	l->word = o->commit_word;
	l->word_seen = atomic_load(l->word);
	l->now_ms = sim_now_us / MS;
	l->turn_at_us = UINT64_MAX;
	loops[l->index] = l;
	turn_at(l, sim_now_us + soon());
	return l;
}

void loop_free(struct loop **lp)
{
	struct loop *l = *lp;

	if (!l)
		return;
	*lp = NULL;
	loops[l->index] = NULL;
	for (uint32_t i = 0; i < l->slots_max; i++)
		if (l->slots[i])
			l->slots[i]->loop = NULL;
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
	return sim_now_us * 1000;
}

uint32_t loop_connect(
	struct loop *l, const struct sockaddr_storage *to, const struct sockaddr_storage *from)
{
	(void)l, (void)to, (void)from;
	return UINT32_MAX;
}

static struct wire *open_wire(struct loop *l, uint32_t slot)
{
	CHECK(l->in_turn); /* calls only on the loop's own thread */
	CHECK(slot < l->slots_max);
	CHECK(l->slots[slot] && !l->slots[slot]->server_closed);
	return l->slots[slot];
}

static void want(struct loop *l, uint32_t slot, uint8_t op)
{
	struct wire *w = open_wire(l, slot);

	CHECK(w->op == WIRE_QUIET); /* one receive or watch at a time */
	w->op = op;
	pump(w);
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
	open_wire(l, slot)->op = WIRE_QUIET;
}

/* ---- the way to the phone
 * ------------------------------------------------------------------------ */

struct piece {
	struct wire *wire;
	uint32_t n;
	bool fin, rst;
	uint8_t data[];
};

static void reach_phone(void *arg, uint64_t unused)
{
	struct piece *p = arg;
	struct wire *w = p->wire;

	(void)unused;
	if (!w->vanished && !w->dead && !w->client_closed) {
		if (p->n)
			buf_add(&w->got, p->data, p->n);
		if (p->n)
			phone_heard(w);
		if ((p->fin || p->rst) && !w->dead)
			phone_lost(w, p->rst);
	}
	free(p);
}

static void to_phone(struct wire *w, const uint8_t *data, size_t n, bool fin, bool rst)
{
	size_t done = 0;

	do {
		size_t part = n - done;
		struct piece *p;
		uint64_t at;

		if (part > 1 && sim_permille(200))
			part = sim_between(1, part);
		p = calloc(1, sizeof(*p) + part);
		CHECK(p);
		p->wire = w;
		p->n = (uint32_t)part;
		if (part)
			memcpy(p->data, data + done, part);
		done += part;
		p->fin = fin && done == n;
		p->rst = rst && done == n;
		at = sim_now_us + sim_between(1 * MS, 60 * MS);
		if (at <= w->last_got_us)
			at = w->last_got_us + 1;
		w->last_got_us = at;
		sim_at(at, reach_phone, p, 0);
	} while (done < n);
}

static void arrive_reset(void *arg, uint64_t unused)
{
	struct wire *w = arg;

	(void)unused;
	if (w->rst_arrived)
		return;
	w->rst_arrived = true;
	w->in.n = 0;
	oracle_closed_by_client(w);
	pump(w);
}

static void send_done(void *arg, uint64_t number)
{
	struct wire *w = arg;

	if (w->server_closed || !w->loop || !w->sending || w->send_number != number)
		return;
	/* The network breaks with the answer on its way. */
	if (sim_permille(8)) {
		sim_note(w->phone, NULL, "wire #: reset, the answer is lost", w->number, 0, 0);
		to_phone(w, w->send_p, sim_below(w->send_n), false, true);
		sim_at(sim_now_us + sim_between(0, 100 * MS), arrive_reset, w, 0);
	} else {
		to_phone(w, w->send_p, w->send_n, false, false);
	}
	ready_add(w->loop, (struct ready){.kind = READY_SENT, .wire = w});
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

static void release(void *arg, uint64_t epoch)
{
	struct wire *w = arg;

	if (epoch == sim_epoch && w->loop)
		ready_add(w->loop, (struct ready){.kind = READY_RELEASED, .wire = w});
}

void loop_close(struct loop *l, uint32_t slot, bool reset)
{
	struct wire *w = open_wire(l, slot);

	sim_note(w->phone, NULL, reset ? "wire #: server resets it" : "wire #: server closes it",
		w->number, 0, 0);
	w->server_closed = true;
	w->op = WIRE_QUIET;
	oracle_closed_by_server(w);
	/* Bytes that nobody has read make the kernel send a reset. */
	if (w->in.n)
		reset = true;
	if (w->sending)
		to_phone(w, w->send_p, sim_below(w->send_n + 1), !reset, reset);
	else
		to_phone(w, NULL, 0, !reset, reset);
	w->sending = false;
	sim_at(sim_now_us + sim_between(0, 30 * MS), release, w, sim_epoch);
}

/* ---- messages
 * ------------------------------------------------------------------------------------- */

struct flight {
	struct flight *next;
	struct loop_msg *msg;
	uint64_t sender, at_us;
	unsigned to;
};
static struct flight *flights;
/* When the last message of a sender arrives at a loop; workers are senders of one message each. */
static uint64_t last_arrival[SERVER_SHARDS_MAX + 1][SERVER_SHARDS_MAX];

static void land(void *arg, uint64_t epoch)
{
	struct flight *f = arg, **p;

	if (epoch != sim_epoch)
		return; /* freed by the crash */
	for (p = &flights; *p != f; p = &(*p)->next)
		;
	*p = f->next;
	CHECK(loops[f->to]);
	ready_add(loops[f->to],
		(struct ready){.kind = READY_MESSAGE, .msg = f->msg, .sender = f->sender});
	free(f);
}

void loop_post(struct loop *l, struct loop_msg *m)
{
	struct flight *f = calloc(1, sizeof(*f));
	uint64_t at = sim_now_us +
		      (sim_permille(50) ? sim_between(0, POST_MAX_US / 2) : sim_between(0, 2 * MS));

	CHECK(f);
	if (net_sender <= SERVER_SHARDS_MAX) {
		if (at <= last_arrival[net_sender][l->index])
			at = last_arrival[net_sender][l->index] + 1;
		last_arrival[net_sender][l->index] = at;
	}
	f->msg = m;
	f->sender = net_sender;
	f->to = l->index;
	f->at_us = at;
	f->next = flights;
	flights = f;
	sim_at(at, land, f, sim_epoch);
}

void loop_stop(struct loop *l)
{
	l->stopping = true;
}

/* ---- commits
 * --------------------------------------------------------------------------------------- */

static void notify(void *arg, uint64_t epoch)
{
	struct loop *l = loops[(uintptr_t)arg];

	if (epoch != sim_epoch || !l || l->commit_at_us != sim_now_us)
		return;
	l->commit_at_us = 0;
	ready_add(l, (struct ready){.kind = READY_COMMIT});
}

void net_look_at_commits(void)
{
	for (unsigned i = 0; i < net_next_loop; i++) {
		struct loop *l = loops[i];
		uint32_t word;

		if (!l || l->stopped || (word = atomic_load(l->word)) == l->word_seen)
			continue;
		l->word_seen = word;
		/* One that is on its way serves both when it comes later than this change; the
		 * sender of a futex wake never waits for the first one to be seen. */
		if (l->commit_at_us > sim_now_us)
			continue;
		l->commit_at_us = sim_now_us + 1 +
				  (sim_permille(100) ? sim_between(0, NOTIFY_MAX_US - 40 * MS)
						     : sim_between(0, 2 * MS));
		sim_at(l->commit_at_us, notify, (void *)(uintptr_t)i, sim_epoch);
	}
}

/* ---- the phone's end
 * ---------------------------------------------------------------------------------- */

static struct wire *wires;
static uint64_t wire_count;

static void connect_refused(void *arg, uint64_t unused)
{
	struct wire *w = arg;

	(void)unused;
	if (!w->dead && !w->client_closed && !w->vanished)
		phone_lost(w, true);
}

static void connect_arrives(void *arg, uint64_t unused)
{
	struct wire *w = arg;
	struct loop *l = loops[w->shard];

	(void)unused;
	if (w->rst_arrived)
		return;
	if (!l || !l->listening || l->stopping || l->free_count <= l->ready_n) {
		w->rst_arrived = true;
		oracle_closed_by_client(w);
		sim_at(sim_now_us + sim_between(1 * MS, 50 * MS), connect_refused, w, 0);
		return;
	}
	ready_add(l, (struct ready){.kind = READY_ACCEPT, .wire = w});
}

struct wire *wire_open(struct phone *p, unsigned shard)
{
	struct wire *w = calloc(1, sizeof(*w));

	CHECK(w);
	w->phone = p;
	w->shard = shard;
	w->number = ++wire_count;
	w->next = wires;
	wires = w;
	w->last_put_us = sim_now_us + sim_between(1 * MS, 40 * MS);
	sim_note(p, NULL, "wire #: connects to shard #", w->number, shard, 0);
	sim_at(w->last_put_us, connect_arrives, w, 0);
	return w;
}

static void reach_server(void *arg, uint64_t unused)
{
	struct piece *p = arg;
	struct wire *w = p->wire;

	(void)unused;
	if (!w->rst_arrived && !w->fin_arrived && !w->server_closed) {
		if (p->n) {
			buf_add(&w->in, p->data, p->n);
			w->arrived += p->n;
			oracle_arrived(w);
		}
		if (p->fin) {
			w->fin_arrived = true;
			oracle_closed_by_client(w);
		}
		if (p->rst)
			arrive_reset(w, 0);
		pump(w);
	}
	free(p);
}

static void to_server(struct wire *w, const void *data, size_t n, bool fin, bool rst)
{
	bool slow =
		n > 1 && sim_permille(30); /* a network that lets a packet through now and then */
	size_t done = 0;

	do {
		size_t part = n - done;
		struct piece *p;
		uint64_t at;

		if (part > 1 && (slow || sim_permille(150)))
			part = sim_between(part < 4 ? 1 : part / 4, part);
		p = calloc(1, sizeof(*p) + part);
		CHECK(p);
		p->wire = w;
		p->n = (uint32_t)part;
		if (part)
			memcpy(p->data, (const uint8_t *)data + done, part);
		done += part;
		p->fin = fin && done == n;
		p->rst = rst && done == n;
		at = sim_now_us +
		     (sim_permille(30) ? sim_between(0, 800 * MS) : sim_between(1 * MS, 30 * MS));
		if (at <= w->last_put_us)
			at = w->last_put_us + 1;
		if (slow)
			at += sim_between(0, 4 * SECOND);
		w->last_put_us = at;
		sim_at(at, reach_server, p, 0);
	} while (done < n);
}

void wire_put(struct wire *w, const void *p, size_t n)
{
	CHECK(!w->client_closed && !w->dead);
	w->put += n;
	if (!w->vanished)
		to_server(w, p, n, false, false);
}

void wire_close(struct wire *w, bool reset)
{
	if (w->client_closed || w->dead || w->vanished)
		return;
	sim_note(w->phone, NULL, reset ? "wire #: phone resets it" : "wire #: phone closes it",
		w->number, 0, 0);
	w->client_closed = true;
	to_server(w, NULL, 0, !reset, reset);
}

static void give_up(void *arg, uint64_t unused)
{
	struct wire *w = arg;

	(void)unused;
	/* TCP_USER_TIMEOUT, or a reset by the phone's next life. */
	if (!w->server_closed)
		arrive_reset(w, 0);
}

void wire_vanish(struct wire *w)
{
	if (w->client_closed || w->dead || w->vanished)
		return;
	sim_note(w->phone, NULL, "wire #: phone vanishes", w->number, 0, 0);
	w->vanished = true;
	if (sim_permille(300))
		sim_at(sim_now_us + sim_between(1 * SECOND, 300 * SECOND), give_up, w, 0);
}

void wires_free(void)
{
	struct wire *w;

	wire_count = 0;
	memset(last_arrival, 0, sizeof(last_arrival));
	while ((w = wires)) {
		wires = w->next;
		buf_free(&w->in);
		buf_free(&w->got);
		buf_free(&w->said);
		free(w);
	}
}

/* No upgrades in this world: nothing is ever exported. */
bool loop_may_export(const struct loop *l, uint32_t slot)
{
	(void)l;
	(void)slot;
	return false;
}

void loop_export(struct loop *l, uint32_t slot, const struct handover_escrow *e)
{
	(void)l;
	(void)slot;
	(void)e;
	CHECK(!"the simulation exports");
}

void loop_let_go(struct loop *l, uint32_t slot)
{
	(void)l;
	(void)slot;
	CHECK(!"the simulation exports");
}

uint32_t loop_import(struct loop *l, struct handover_escrow *e, const uint32_t *places,
	uint32_t *slots_out, uint32_t n)
{
	(void)l;
	(void)e;
	(void)places;
	(void)slots_out;
	(void)n;
	return 0;
}

void loop_listen_again(struct loop *l)
{
	(void)l;
}

uint32_t loop_ring_conns(const struct loop *l)
{
	return loop_slots_max(l);
}

unsigned net_loops_running(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < net_next_loop; i++)
		n += loops[i] && !loops[i]->stopped;
	return n;
}

void net_crash(void (*discard)(struct loop_msg *m))
{
	struct flight *f;

	while ((f = flights)) {
		flights = f->next;
		discard(f->msg);
		free(f);
	}
	for (unsigned i = 0; i < net_next_loop; i++)
		for (size_t k = 0; loops[i] && k < loops[i]->ready_n; k++)
			if (loops[i]->ready[k].kind == READY_MESSAGE)
				discard(loops[i]->ready[k].msg);
	/* The kernel resets what the process had open. */
	for (struct wire *w = wires; w; w = w->next) {
		if (w->rst_arrived)
			continue;
		if (!w->server_closed) {
			w->server_closed = true;
			to_phone(w, NULL, 0, false, true);
		}
		w->rst_arrived = true; /* also of those that were still connecting */
		w->sending = false;
		w->op = WIRE_QUIET;
		w->loop = NULL;
	}
}
