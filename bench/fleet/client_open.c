/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/client_priv.h"

#include <arpa/inet.h>
#include <stdio.h>

/* ---- the end ---- */

void client_forget(struct client *c, struct phone *p)
{
	uint32_t i = client_number(c, p);
	enum state was = p->state;

	wheel_cancel(c->wheel, i);
	if (was == CLOSED || was == QUEUED) {
		p->state = CLOSED; /* its entry in the queue is passed over */
		return;
	}
	if (p->slot != NONE) {
		c->phone_of_slot[p->slot] = 0;
		if (p->sending)
			client_work_bury(&c->works, &p->work, p->slot);
		c->releasing++;
		loop_close(c->loop, p->slot, c->o.reset_on_close);
	}
	client_work_give_back(&c->works, &p->work);
	if (was == OPEN)
		c->open--;
	else
		c->opening--;
	tlsrec_wipe(&p->rec);
	*p = (struct phone){.slot = NONE, .in_queue = p->in_queue};
}

void client_fail(struct client *c, struct phone *p, enum client_end how, const char *why)
{
	uint32_t i = client_number(c, p);

	client_forget(c, p);
	c->ev.closed(c->arg, i, how, why);
	client_queue_run(c);
}

void client_close(struct client *c, uint32_t i)
{
	struct phone *p = &c->phones[i];

	if (p->state == OPEN && c->o.tls && !c->o.reset_on_close && !p->closing_sent) {
		struct client_work *w = client_work_of(c, p);
		uint8_t *room = buf_room(&w->out, TLSREC_REPLY_MAX);

		CHECK(room);
		w->out.n += tlsrec_close_notify(&p->rec, room);
		client_flush(c, p);
		p->closing_sent = true;
		if (p->sending) {
			loop_unwatch(c->loop, p->slot);
			p->reading = false;
			return;
		}
	}
	client_forget(c, p);
	client_queue_run(c);
}

/* ---- the line ---- */

static void source_of(const struct client *c, uint32_t i, struct sockaddr_storage *out)
{
	struct sockaddr_in *sa = (struct sockaddr_in *)out;
	uint32_t n = i / c->o.phones_per_source;

	*out = (struct sockaddr_storage){.ss_family = AF_INET};
	sa->sin_addr.s_addr = htonl(0x7f000000u + (n / 200 << 8) + 2 + n % 200);
}

/* False: no slot now, but closing ones will be free. */
static bool connect_now(struct client *c, struct phone *p)
{
	uint32_t i = client_number(c, p);
	const struct sockaddr_storage *to = &c->o.to[i % c->o.to_count];
	struct sockaddr_storage from;
	bool bound = c->o.phones_per_source > 0 && to->ss_family == AF_INET;
	uint32_t slot;

	if (bound)
		source_of(c, i, &from);
	slot = loop_connect(c->loop, to, bound ? &from : NULL);
	if (slot == NONE && c->releasing > 0)
		return false;
	p->state = CONNECTING;
	p->slot = slot;
	c->opening++;
	if (slot == NONE) {
		client_fail(c, p, CLIENT_END_CONNECT, "no descriptor or slot is left");
		return true;
	}
	c->phone_of_slot[slot] = i + 1;
	wheel_arm(c->wheel, i, loop_now_ms(c->loop) + (uint64_t)c->o.open_timeout_s * 1000);
	return true;
}

void client_queue_run(struct client *c)
{
	/* client_fail() comes back here: one turn at a time, without recursion. */
	if (c->in_queue_run)
		return;
	c->in_queue_run = true;
	while (c->queue_count && c->opening < c->o.handshakes_max) {
		struct phone *p = &c->phones[c->queue[c->queue_head]];

		if (p->state == QUEUED && !connect_now(c, p))
			break;                    /* comes back when slots are released */
		p->in_queue = p->state == QUEUED; /* opened again inside the upcall */
		c->queue_head = (c->queue_head + 1) % c->o.phones_max;
		c->queue_count--;
		if (p->in_queue) {
			uint32_t tail = (c->queue_head + c->queue_count++) % c->o.phones_max;

			c->queue[tail] = client_number(c, p);
		}
	}
	c->in_queue_run = false;
}

void client_open(struct client *c, uint32_t i)
{
	struct phone *p = &c->phones[i];

	CHECK(i < c->o.phones_max);
	if (p->closing_sent)
		client_forget(c, p);
	CHECK(p->state == CLOSED);
	wheel_cancel(c->wheel, i);
	p->state = QUEUED;
	p->slot = NONE;
	if (!p->in_queue) {
		CHECK(c->queue_count < c->o.phones_max);
		p->in_queue = true;
		c->queue[(c->queue_head + c->queue_count++) % c->o.phones_max] = i;
	}
	client_queue_run(c);
}

void client_open_later(struct client *c, uint32_t i, uint64_t after_ms)
{
	struct phone *p = &c->phones[i];

	if (p->closing_sent)
		client_forget(c, p);
	CHECK(p->state == CLOSED);
	wheel_arm(c->wheel, i, loop_now_ms(c->loop) + after_ms);
}

/* ---- the handshake ---- */

static uint8_t tls_text(struct client *c, const struct tls_hs *h)
{
	char text[64];

	snprintf(text, sizeof(text), "%s %s%s", tls_hs_version(h), tls_hs_cipher(h),
		tls_hs_resumed(h) ? " resumed" : "");
	for (unsigned i = 0; i < c->tls_text_count; i++)
		if (strcmp(c->tls_texts[i], text) == 0)
			return (uint8_t)i;
	if (c->tls_text_count == TLS_TEXTS_MAX)
		return 0;
	memcpy(c->tls_texts[c->tls_text_count], text, sizeof(text));
	return (uint8_t)c->tls_text_count++;
}

static void opened(struct client *c, struct phone *p, uint64_t now_ns)
{
	uint32_t i = client_number(c, p), slot = p->slot;

	wheel_cancel(c->wheel, i);
	p->state = OPEN;
	c->opening--;
	c->open++;
	/* Tickets that came along with the end of the handshake. */
	if (p->work && p->work->in.n && !client_read_records(c, p, now_ns))
		return;
	c->ev.opened(c->arg, i);
	if (p->state == OPEN && p->slot == slot) {
		client_flush(c, p);
		client_rest(c, p);
	}
	client_queue_run(c);
}

void client_shake_hands(struct client *c, struct phone *p, uint64_t now_ns)
{
	struct client_work *w = p->work;
	size_t used = 0;
	enum tls_hs_status status = tls_hs_feed(w->handshake, w->in.p, w->in.n, &used, &w->out);
	const char *why = NULL;
	char text[CLIENT_WHY_BYTES];
	bool not_tls = false;

	buf_consume(&w->in, used);
	switch (status) {
	case TLS_HS_WANT_MORE:
		client_flush(c, p);
		client_read_more(c, p);
		return;
	case TLS_HS_FAILED:
		client_flush(c, p);
		snprintf(text, sizeof(text), "%s%s", tls_hs_why(w->handshake, &not_tls),
			not_tls ? " (does it speak TLS?)" : "");
		client_fail(c, p, CLIENT_END_TLS, text);
		return;
	case TLS_HS_DONE:
		break;
	}
	p->resumed = tls_hs_resumed(w->handshake);
	*(p->resumed ? &c->resumed : &c->full) += 1;
	p->tls_text = tls_text(c, w->handshake);
	if (p->offered && !p->resumed)
		tls_session_free(&c->session); /* the server does not take it any more */
	if (c->o.tls_options.want_ticket && !c->session)
		c->session = tls_hs_session(w->handshake);
	if (!tls_hs_detach(w->handshake, &p->rec, &why)) {
		client_fail(c, p, CLIENT_END_TLS, why);
		return;
	}
	tls_hs_free(&w->handshake);
	opened(c, p, now_ns);
}

void client_connected(struct client *c, struct phone *p)
{
	struct client_work *w;

	c->connected++;
	if (!c->o.tls) {
		opened(c, p, 0);
		return;
	}
	p->state = HANDSHAKE;
	w = client_work_of(c, p);
	p->offered = c->session && !c->no_resume;
	w->handshake = tls_hs_client(c->tls, c->o.server_name, p->offered ? c->session : NULL);
	CHECK(w->handshake);
	client_shake_hands(c, p, 0);
}
