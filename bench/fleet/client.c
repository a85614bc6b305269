/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/client_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

const char *client_end_name(enum client_end end)
{
	static const char *const names[] = {
		[CLIENT_END_CONNECT] = "connect",
		[CLIENT_END_TLS] = "tls",
		[CLIENT_END_HTTP] = "http",
		[CLIENT_END_PEER] = "closed",
		[CLIENT_END_CUT] = "cut",
		[CLIENT_END_TIMEOUT] = "timeout",
	};

	return names[end];
}

/* ---- what the loop says ---- */

static struct phone *phone_of(struct client *c, uint32_t slot)
{
	uint32_t i = c->phone_of_slot[slot];

	CHECK(i > 0);
	return &c->phones[i - 1];
}

static void on_connected(void *arg, uint32_t slot, int err)
{
	struct client *c = arg;
	struct phone *p = phone_of(c, slot);

	if (err)
		client_fail(c, p, CLIENT_END_CONNECT, strerror(-err));
	else
		client_connected(c, p);
}

static void on_received(void *arg, uint32_t slot, const uint8_t *bytes, int n)
{
	struct client *c = arg;
	struct phone *p = phone_of(c, slot);
	uint64_t now_ns = loop_now_ns(c->loop);
	struct client_work *w;

	p->reading = false;
	if (n <= 0) {
		enum client_end how = p->state != OPEN ? CLIENT_END_TLS
				      : p->asked       ? CLIENT_END_CUT
						       : CLIENT_END_PEER;
		client_fail(c, p, how, n == 0 ? "the server closed the connection" : strerror(-n));
		return;
	}
	w = client_work_of(c, p);
	buf_add(&w->in, bytes, (size_t)n);
	CHECK(!w->in.failed);
	if (p->state == HANDSHAKE)
		client_shake_hands(c, p, now_ns);
	else if (client_read_records(c, p, now_ns))
		client_rest(c, p);
}

static void on_readable(void *arg, uint32_t slot)
{
	struct client *c = arg;
	struct phone *p = phone_of(c, slot);

	p->reading = true;
	loop_recv(c->loop, slot);
}

static void on_sent(void *arg, uint32_t slot, int err)
{
	struct client *c = arg;
	struct phone *p = phone_of(c, slot);
	bool request = p->sending_request;

	p->sending = p->sending_request = false;
	if (!err) {
		p->work->sending.n = 0;
		client_flush(c, p);
	}
	if (p->closing_sent) {
		if (!p->sending) {
			client_forget(c, p);
			client_queue_run(c);
		}
		return;
	}
	/* An error shows in the receive too, with what the server had to say before it. */
	if (err || p->state != OPEN)
		return;
	if (!p->sending && !p->work->in.n && !p->work->plain.n && !p->work->out.n)
		client_work_give_back(&c->works, &p->work);
	if (request && p->asked)
		c->ev.sent(c->arg, client_number(c, p));
}

static void on_released(void *arg, uint32_t slot)
{
	struct client *c = arg;

	c->releasing--;
	client_work_unbury(&c->works, slot);
	client_queue_run(c);
}

static void on_message(void *arg, struct loop_msg *m)
{
	struct client *c = arg;

	CHECK(c->ev.message);
	c->ev.message(c->arg, m);
}

static void on_due(void *arg, uint32_t i)
{
	struct client *c = arg;
	struct phone *p = &c->phones[i];
	char why[CLIENT_WHY_BYTES] = "no answer in time";

	if (p->state == CLOSED) {
		client_open(c, i);
		return;
	}
	if (p->state == CONNECTING)
		snprintf(why, sizeof(why), "no connection within %u s", c->o.open_timeout_s);
	else if (p->state == HANDSHAKE)
		snprintf(why, sizeof(why), "TLS handshake not finished within %u s",
			c->o.open_timeout_s);
	client_fail(c, p, CLIENT_END_TIMEOUT, why);
}

static uint64_t on_tick(void *arg, uint64_t now_ms)
{
	struct client *c = arg;
	uint64_t next, mine;

	wheel_advance(c->wheel, now_ms, on_due, c);
	mine = c->ev.tick ? c->ev.tick(c->arg, now_ms) : UINT64_MAX;
	next = wheel_next_ms(c->wheel);
	return next < mine ? next : mine;
}

/* ---- one phone ---- */

bool client_is_open(const struct client *c, uint32_t i)
{
	return c->phones[i].state == OPEN && !c->phones[i].closing_sent;
}

void client_move(struct client *c, uint32_t from, uint32_t to)
{
	struct phone *p = &c->phones[from], *q = &c->phones[to];
	bool in_queue = q->in_queue;

	CHECK(from != to && client_is_open(c, from));
	CHECK(q->state == CLOSED);
	wheel_cancel(c->wheel, from);
	*q = *p;
	q->in_queue = in_queue;
	c->phone_of_slot[q->slot] = to + 1;
	tlsrec_wipe(&p->rec);
	*p = (struct phone){.slot = NONE, .in_queue = p->in_queue};
	/* Inside an upcall it may not be listening yet. */
	client_rest(c, q);
}

void client_deafen(struct client *c, uint32_t i)
{
	CHECK(client_is_open(c, i));
	loop_deafen(c->loop, c->phones[i].slot);
}

const char *client_tls_text(const struct client *c, uint32_t i)
{
	if (!c->o.tls || c->phones[i].state != OPEN)
		return "";
	return c->tls_texts[c->phones[i].tls_text];
}

/* ---- all of them ---- */

void client_stats(const struct client *c, struct client_stats *out)
{
	*out = (struct client_stats){
		.open = c->open,
		.opening = c->opening,
		.queued = c->queue_count,
		.connected = c->connected,
		.full_handshakes = c->full,
		.resumed_handshakes = c->resumed,
	};
}

bool client_can_resume(const struct client *c)
{
	return c->session != NULL;
}

void client_set_resume(struct client *c, bool on)
{
	c->no_resume = !on;
}

uint64_t client_now_ms(const struct client *c)
{
	return loop_now_ms(c->loop);
}

uint32_t client_phone_bytes(void)
{
	return sizeof(struct phone);
}

static void *map_zero(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void unmap(void *p, size_t bytes)
{
	if (p)
		munmap(p, bytes);
}

struct client *client_new(const struct client_options *o, const struct client_events *ev, void *arg,
	char *why, size_t why_bytes)
{
	static const struct loop_events events = {
		.connected = on_connected,
		.received = on_received,
		.readable = on_readable,
		.sent = on_sent,
		.released = on_released,
		.message = on_message,
		.tick = on_tick,
	};
	struct loop_options lo = {.cpu = -1};
	struct client *c = calloc(1, sizeof(*c));
	uint32_t numbers;

	CHECK(c);
	CHECK(o->phones_max > 0 && o->to_count > 0 && o->handshakes_max > 0);
	c->o = *o;
	c->ev = *ev;
	c->arg = arg;
	numbers = o->phones_max + o->spares_max;
	/* A closing slot is not free yet when its phone opens again. */
	lo.conns_max = numbers + o->phones_max / 16 + 16;
	lo.buffers = o->phones_max > 64 ? 512 : 16;
	lo.buffer_bytes = o->phones_max > 64 ? 2048 : 16384;
	c->loop = loop_new(&lo, &events, c, why, why_bytes);
	if (!c->loop)
		goto fail;
	if (o->tls) {
		c->tls = tls_client_new(&o->tls_options, why, why_bytes);
		if (!c->tls)
			goto fail;
	}
	c->slots_max = loop_slots_max(c->loop);
	c->wheel = wheel_new(numbers, loop_now_ms(c->loop));
	c->phones = map_zero(numbers * sizeof(*c->phones));
	c->phone_of_slot = map_zero(c->slots_max * sizeof(*c->phone_of_slot));
	c->queue = map_zero(o->phones_max * sizeof(*c->queue));
	if (c->wheel && c->phones && c->phone_of_slot && c->queue)
		return c;
	snprintf(why, why_bytes, "no memory for %u phones", o->phones_max);
fail:
	client_free(&c);
	return NULL;
}

void client_free(struct client **cp)
{
	struct client *c = *cp;
	uint32_t numbers;

	if (!c)
		return;
	numbers = c->o.phones_max + c->o.spares_max;
	loop_free(&c->loop);
	for (uint32_t i = 0; c->phones && i < numbers; i++)
		client_work_free(&c->phones[i].work);
	client_work_pool_free(&c->works);
	tls_session_free(&c->session);
	if (c->tls)
		tls_ctx_unref(&c->tls);
	wheel_free(&c->wheel);
	unmap(c->phones, numbers * sizeof(*c->phones));
	unmap(c->phone_of_slot, c->slots_max * sizeof(*c->phone_of_slot));
	unmap(c->queue, c->o.phones_max * sizeof(*c->queue));
	free(c);
	*cp = NULL;
}

void client_run(struct client *c)
{
	loop_run(c->loop);
}

void client_stop(struct client *c)
{
	loop_stop(c->loop);
}

void client_post(struct client *c, struct loop_msg *m)
{
	loop_post(c->loop, m);
}
