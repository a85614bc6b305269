/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sending of a connection: answers sealed piece by piece from the memory of their request, and small ones
 * to requests that hang, from a pool of buffers that needs none of it. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/metrics.h"

#include <string.h>

void conn_flush(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	struct buf t;

	if (!a || c->flags & CONN_SENDING || a->out.n == 0)
		return;
	if (a->out.failed) {
		conn_no_memory(s, slot);
		return;
	}
	t = a->sending;
	a->sending = a->out;
	a->out = t;
	a->out.n = 0;
	c->flags |= CONN_SENDING;
	a->send_due_ms =
		loop_now_ms(s->loop) + (uint64_t)shard_config(s)->http_send_timeout_s * 1000;
	loop_send(s->loop, slot, a->sending.p, (uint32_t)a->sending.n);
	if (c->state == CONN_PARKED)
		park_rearm(s, slot);
}

/* Seals the next piece of the answer. True when there is nothing left of it. */
static bool seal_some(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	size_t left, n, room;
	uint8_t *d;

	while ((left = a->reply.n - a->reply_sent) > 0 && a->out.n < SEND_CHUNK_BYTES) {
		if (!(c->flags & CONN_TLS)) {
			n = left < SEND_CHUNK_BYTES ? left : SEND_CHUNK_BYTES;
			buf_add(&a->out, a->reply.p + a->reply_sent, n);
		} else {
			n = left < TLSREC_PLAIN_MAX ? left : TLSREC_PLAIN_MAX;
			room = tlsrec_sealed_bytes(&c->tls, n);
			d = buf_room(&a->out, room);
			if (!d)
				return true;
			room = tlsrec_seal(&c->tls, a->reply.p + a->reply_sent, n, d);
			if (!room) {
				c->flags |= CONN_CLOSE;
				a->reply_sent = a->reply.n;
				return true;
			}
			a->out.n += room;
		}
		a->reply_sent += n;
	}
	return a->reply_sent == a->reply.n;
}

static void say_goodbye(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	uint8_t *d;

	if (!(c->flags & CONN_TLS) || c->tls.dead)
		return;
	d = buf_room(&c->active->out, TLSREC_REPLY_MAX);
	if (d)
		c->active->out.n += tlsrec_close_notify(&c->tls, d);
}

void conn_reply(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	CHECK(a && c->state != CONN_PARKED);
	c->state = CONN_RESPOND;
	a->reply_sent = 0;
	if (a->reply.failed) {
		conn_no_memory(s, slot);
		return;
	}
	conn_deadline(s, slot, shard_config(s)->http_send_timeout_s);
	if (seal_some(s, slot) && !(c->flags & CONN_KEEP_ALIVE))
		say_goodbye(s, slot);
	if (a->out.n == 0 && !(c->flags & CONN_SENDING))
		conn_close(s, slot, true); /* the peer has ended TLS: nobody to tell */
	else
		conn_flush(s, slot);
}

void conn_say(struct shard *s, uint32_t slot, const char *text, size_t n)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	uint8_t *d;

	if (!(c->flags & CONN_TLS)) {
		buf_add(&a->out, text, n);
	} else {
		d = buf_room(&a->out, tlsrec_sealed_bytes(&c->tls, n));
		if (d)
			a->out.n += tlsrec_seal(&c->tls, (const uint8_t *)text, n, d);
	}
	conn_flush(s, slot);
}

void conn_return_wake_buffer(struct shard *s, uint32_t slot)
{
	struct wake_buffer *w = s->wake_of[slot];

	if (!w)
		return;
	w->next_free = s->wake_free;
	s->wake_free = w;
	s->wake_of[slot] = NULL;
	s->wakes_out--;
	s->wake_moved_ms = loop_now_ms(s->loop);
}

bool conn_send_small(struct shard *s, uint32_t slot, const void *plain, size_t n)
{
	struct conn *c = &s->conns[slot];
	struct wake_buffer *w = s->wake_free;

	if (!w && s->wake_made < WAKE_BUFFERS)
		w = &s->wake_pool[s->wake_made];

	if (!w || c->flags & CONN_SENDING || s->wake_of[slot])
		return false;
	CHECK(n + TLSREC_OVERHEAD_MAX + TLSREC_REPLY_MAX <= sizeof(w->data));
	if (w == s->wake_free)
		s->wake_free = w->next_free;
	else
		s->wake_made++;
	s->wake_moved_ms = loop_now_ms(s->loop);
	if (c->flags & CONN_TLS) {
		w->n = (uint32_t)tlsrec_seal(&c->tls, plain, n, w->data);
		if (c->tls.dead) /* sequence numbers are used up */
			c->flags |= CONN_CLOSE;
		if (!(c->flags & CONN_KEEP_ALIVE))
			w->n += (uint32_t)tlsrec_close_notify(&c->tls, w->data + w->n);
	} else {
		memcpy(w->data, plain, n);
		w->n = (uint32_t)n;
	}
	w->committed_ns = 0;
	s->wake_of[slot] = w;
	s->wakes_out++;
	s->wakes_unsent = true;
	c->state = CONN_RESPOND;
	c->flags |= CONN_SENDING;
	conn_deadline(s, slot, shard_config(s)->http_send_timeout_s);
	loop_send(s->loop, slot, w->data, w->n);
	return true;
}

void conn_sent(struct shard *s, uint32_t slot, int err)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	c->flags &= (uint8_t)~CONN_SENDING;
	if (!err && s->wake_of[slot] && s->wake_of[slot]->committed_ns)
		metric_observe_ns(H_WAKE, loop_now_ns(s->loop) - s->wake_of[slot]->committed_ns);
	conn_return_wake_buffer(s, slot);
	if (err) {
		conn_gone(s, slot, err);
		return;
	}
	if (a)
		a->sending.n = 0;
	if (c->state == CONN_RESPOND && a && a->reply_sent < a->reply.n) {
		conn_deadline(s, slot, shard_config(s)->http_send_timeout_s);
		if (seal_some(s, slot) && !(c->flags & CONN_KEEP_ALIVE))
			say_goodbye(s, slot);
	}
	/* Half an answer, or none, must not be followed by another. */
	if (a && a->out.failed) {
		conn_no_memory(s, slot);
		return;
	}
	if (a && a->out.n) {
		conn_flush(s, slot);
		return;
	}
	if (c->flags & CONN_CLOSE && c->state != CONN_AUTH && c->state != CONN_COMMAND) {
		conn_close(s, slot, false);
		return;
	}
	if (c->state == CONN_RESPOND) {
		conn_next(s, slot);
	} else if (c->state == CONN_PARKED) {
		/* A KeyUpdate was answered, or a late 100 Continue went out. */
		if (a && a->in.n == 0 && a->more.n == 0)
			active_release(s, slot);
		park_rearm(s, slot);
	}
}
