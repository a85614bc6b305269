/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The network between phones and the server: bytes under way, both directions, and connections that
 * wait to be accepted. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <stdlib.h>

/* ---- the way to the phone
 * ------------------------------------------------------------------------ */

struct piece {
	struct wire *wire;
	uint32_t n;
	bool fin, rst;
	uint8_t data[];
};

static void to_server(struct wire *w, const void *data, size_t n, bool fin, bool rst);

static void heard_records(struct wire *w, const uint8_t *p, size_t n)
{
	buf_add(&w->got_raw, p, n);
	if (!simtls_open(w, &w->got_raw, &w->got_records, &w->got) || w->shaken)
		return;
	w->shaken = true;
	to_server(w, w->pending.p, w->pending.n, false, false);
	buf_free(&w->pending);
}

static void reach_phone(void *arg, uint64_t unused)
{
	struct piece *p = arg;
	struct wire *w = p->wire;

	(void)unused;
	if (!w->vanished && !w->dead && !w->client_closed) {
		if (p->n && w->tls)
			heard_records(w, p->data, p->n);
		else if (p->n)
			buf_add(&w->got, p->data, p->n);
		if (p->n)
			phone_heard(w);
		if ((p->fin || p->rst) && !w->dead)
			phone_lost(w, p->rst);
	}
	free(p);
}

void wire_to_phone(struct wire *w, const uint8_t *data, size_t n, bool fin, bool rst)
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

void wire_reset(void *arg, uint64_t unused)
{
	struct wire *w = arg;

	(void)unused;
	if (w->rst_arrived)
		return;
	w->rst_arrived = true;
	w->in.n = 0;
	oracle_closed_by_client(w);
	net_pump(w);
}

/* ---- the phone's end
 * ---------------------------------------------------------------------------------- */

static struct wire *wires;
static uint64_t wire_count;

/* Connections that nobody has accepted yet, oldest first: the listeners' queues. */
static struct wire *queue;

void wire_cut(struct wire *w)
{
	if (w->rst_arrived && w->server_closed)
		return;
	w->sending = false;
	oracle_closed_by_client(w);
	w->rst_arrived = true;
	if (!w->server_closed)
		wire_to_phone(w, NULL, 0, false, true);
	w->server_closed = true;
}

/* False: it waits on. */
static bool greeted(struct wire *w)
{
	if (w->rst_arrived)
		return true;
	switch (world_greet(w)) {
	case GREET_COME_IN:
		return true;
	case GREET_FULL:
		world.refused++;
		wire_cut(w);
		return true;
	case GREET_GONE:
		wire_cut(w);
		return true;
	case GREET_LATER:
		break;
	}
	return false;
}

void net_accept_waiting(void)
{
	struct wire **q = &queue;

	while (*q)
		if (greeted(*q))
			*q = (*q)->queue_next;
		else
			q = &(*q)->queue_next;
}

static void connect_arrives(void *arg, uint64_t unused)
{
	struct wire *w = arg, **q = &queue;

	(void)unused;
	if (greeted(w))
		return;
	while (*q)
		q = &(*q)->queue_next;
	*q = w;
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
	if (world.tls) {
		struct buf hello = {0};

		simtls_hello(w, &hello);
		w->put = hello.n + w->pending.n;
		to_server(w, hello.p, hello.n, false, false);
		buf_free(&hello);
	}
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
			wire_reset(w, 0);
		net_pump(w);
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
	struct buf sealed = {0};

	CHECK(!w->client_closed && !w->dead);
	if (w->tls) {
		simtls_seal(w, p, n, &sealed);
		p = sealed.p;
		n = sealed.n;
	}
	w->put += n;
	if (w->tls && !w->shaken)
		buf_add(&w->pending, p, n);
	else if (!w->vanished)
		to_server(w, p, n, false, false);
	buf_free(&sealed);
}

void wire_close(struct wire *w, bool reset)
{
	if (w->client_closed || w->dead || w->vanished)
		return;
	sim_note(w->phone, NULL, reset ? "wire #: phone resets it" : "wire #: phone closes it",
		w->number, 0, 0);
	w->client_closed = true;
	w->left_us = sim_now_us;
	to_server(w, NULL, 0, !reset, reset);
}

static void give_up(void *arg, uint64_t unused)
{
	struct wire *w = arg;

	(void)unused;
	/* TCP_USER_TIMEOUT, or a reset by the phone's next life. */
	if (!w->server_closed)
		wire_reset(w, 0);
}

void wire_vanish(struct wire *w)
{
	if (w->client_closed || w->dead || w->vanished)
		return;
	sim_note(w->phone, NULL, "wire #: phone vanishes", w->number, 0, 0);
	w->vanished = true;
	w->left_us = sim_now_us;
	if (sim_permille(300))
		sim_at(sim_now_us + sim_between(1 * SECOND, 300 * SECOND), give_up, w, 0);
}

void wires_cut(void)
{
	for (struct wire *w = wires; w; w = w->next)
		wire_cut(w);
	net_accept_waiting(); /* nobody waits any more */
}

void wires_free(void)
{
	struct wire *w;

	wire_count = 0;
	queue = NULL;
	while ((w = wires)) {
		wires = w->next;
		buf_free(&w->in);
		buf_free(&w->got);
		buf_free(&w->said);
		buf_free(&w->pending);
		buf_free(&w->got_raw);
		buf_free(&w->said_raw);
		free(w);
	}
}
