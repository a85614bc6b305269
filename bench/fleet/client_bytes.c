/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/client_priv.h"

#include <stdlib.h>

enum { ANSWER_BYTES_MAX = 64 << 20 };

/* ---- sending ---- */

void client_flush(struct client *c, struct phone *p)
{
	struct client_work *w = p->work;
	struct buf empty;

	if (p->sending || !w || w->out.n == 0)
		return;
	CHECK(!w->out.failed);
	empty = w->sending;
	w->sending = w->out;
	w->out = empty;
	w->out.n = 0;
	p->sending = true;
	p->sending_request = p->out_request;
	p->out_request = false;
	loop_send(c->loop, p->slot, w->sending.p, (uint32_t)w->sending.n);
}

static void seal(struct client *c, struct phone *p, struct bytes plain)
{
	struct client_work *w = client_work_of(c, p);

	if (!c->o.tls) {
		buf_add(&w->out, plain.p, plain.n);
		return;
	}
	while (plain.n) {
		size_t n = plain.n < TLSREC_PLAIN_MAX ? plain.n : TLSREC_PLAIN_MAX;
		uint8_t *room = buf_room(&w->out, tlsrec_sealed_bytes(&p->rec, n));

		CHECK(room);
		w->out.n += tlsrec_seal(&p->rec, plain.p, n, room);
		plain.p += n;
		plain.n -= n;
	}
}

void client_request(struct client *c, uint32_t i, struct bytes request, uint32_t timeout_s)
{
	struct phone *p = &c->phones[i];

	CHECK(client_is_open(c, i));
	CHECK(!p->asked);
	p->asked = true;
	if (timeout_s)
		wheel_arm(c->wheel, i, loop_now_ms(c->loop) + (uint64_t)timeout_s * 1000);
	seal(c, p, request);
	p->out_request = true;
	client_flush(c, p);
}

void client_say(struct client *c, uint32_t i, struct bytes what, uint32_t timeout_s)
{
	struct phone *p = &c->phones[i];

	CHECK(c->ev.bytes && client_is_open(c, i));
	if (timeout_s)
		wheel_arm(c->wheel, i, loop_now_ms(c->loop) + (uint64_t)timeout_s * 1000);
	seal(c, p, what);
	client_flush(c, p);
}

/* ---- receiving ---- */

void client_read_more(struct client *c, struct phone *p)
{
	if (p->reading)
		return;
	p->reading = true;
	/* A phone with half a record or half an answer goes on receiving; an idle one is watched,
	 * which costs the kernel a third of the memory. */
	if (p->work && (p->work->in.n || p->work->plain.n || p->state != OPEN))
		loop_recv(c->loop, p->slot);
	else
		loop_watch(c->loop, p->slot);
}

void client_rest(struct client *c, struct phone *p)
{
	struct client_work *w = p->work;

	if (w && p->state == OPEN && !p->sending && !w->in.n && !w->plain.n && !w->out.n)
		client_work_give_back(&c->works, &p->work);
	client_read_more(c, p);
}

/* False: closed. */
static bool take_bytes(struct client *c, struct phone *p, uint64_t now_ns)
{
	uint32_t i = client_number(c, p), slot = p->slot;
	struct buf plain = p->work->plain;
	size_t taken;

	if (plain.n == 0)
		return true;
	wheel_cancel(c->wheel, i);
	/* Taken out first: the upcall may say more, close or open again. */
	p->work->plain = (struct buf){0};
	taken = c->ev.bytes(c->arg, i, plain.p, plain.n, now_ns);
	if (p->slot != slot || p->state != OPEN) {
		buf_free(&plain);
		return false;
	}
	buf_consume(&plain, taken);
	CHECK(!p->work->plain.p);
	p->work->plain = plain;
	return true;
}

/* False: closed. */
static bool take_answer(struct client *c, struct phone *p, uint64_t now_ns)
{
	struct client_work *w = p->work;
	struct http_answer a;
	const char *why = NULL;
	uint32_t i = client_number(c, p), slot = p->slot;
	struct buf plain;
	int k;

	if (c->ev.bytes)
		return take_bytes(c, p, now_ns);
	if (w->plain.n == 0)
		return true;
	if (!p->asked) {
		client_fail(c, p, CLIENT_END_HTTP, "bytes that answer no request");
		return false;
	}
	k = http_answer_parse(w->plain.p, w->plain.n, &a, &why);
	if (k < 0) {
		client_fail(c, p, CLIENT_END_HTTP, why);
		return false;
	}
	if (k > 0 && a.content_length > ANSWER_BYTES_MAX) {
		client_fail(c, p, CLIENT_END_HTTP, "the answer is too long");
		return false;
	}
	if (k == 0 || w->plain.n - a.head_bytes < a.content_length)
		return true;
	if (w->plain.n - a.head_bytes > a.content_length) {
		client_fail(c, p, CLIENT_END_HTTP, "bytes behind the answer");
		return false;
	}
	p->asked = false;
	wheel_cancel(c->wheel, i);
	/* Taken out first: the upcall may send, close or open again. */
	plain = w->plain;
	w->plain = (struct buf){0};
	c->ev.answered(
		c->arg, i, &a, bytes_of(plain.p + a.head_bytes, (size_t)a.content_length), now_ns);
	if (p->slot == slot && p->state == OPEN && p->work && !p->work->plain.p) {
		p->work->plain = plain;
		p->work->plain.n = 0;
	} else {
		buf_free(&plain);
	}
	if (p->slot != slot || p->state != OPEN)
		return false;
	if (!a.keep_alive) {
		client_fail(c, p, CLIENT_END_PEER, "the server said Connection: close");
		return false;
	}
	return true;
}

bool client_read_records(struct client *c, struct phone *p, uint64_t now_ns)
{
	struct client_work *w = p->work;
	size_t at = 0;

	if (!c->o.tls) {
		buf_add(&w->plain, w->in.p, w->in.n);
		w->in.n = 0;
		return take_answer(c, p, now_ns);
	}
	for (;;) {
		struct tlsrec_in r;

		tlsrec_open(&p->rec, w->in.p + at, w->in.n - at, &r);
		buf_add(&w->out, r.reply, r.reply_bytes);
		if (r.result == TLSREC_NEED_MORE)
			break;
		at += r.consumed;
		if (r.result == TLSREC_DATA)
			buf_add(&w->plain, r.data, r.data_bytes);
		if (r.result == TLSREC_CLOSED || r.result == TLSREC_ERROR) {
			buf_consume(&w->in, at);
			if (w->plain.n && !take_answer(c, p, now_ns))
				return false;
			client_flush(c, p);
			if (r.result == TLSREC_ERROR)
				client_fail(c, p, CLIENT_END_TLS, r.why);
			else
				client_fail(c, p, p->asked ? CLIENT_END_CUT : CLIENT_END_PEER,
					"the server said close_notify");
			return false;
		}
	}
	buf_consume(&w->in, at);
	client_flush(c, p);
	return take_answer(c, p, now_ns);
}
