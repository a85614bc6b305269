/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Bytes of a connection: handshake, records, request heads and bodies, answers, deadlines. */
#include "core/shard_priv.h"

#include "core/address.h"
#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

static void progress(struct shard *s, uint32_t slot);
static void open_records(struct shard *s, uint32_t slot);

void conn_address(const struct loop_addr *a, char out[64])
{
	char text[ADDRESS_TEXT_BYTES];

	address_format_ip(a->ip, text);
	bytes_to_strz(bytes_str(text), out, 64); /* (without a scope it fits) */
}

void conn_deadline(struct shard *s, uint32_t slot, int64_t seconds)
{
	wheel_arm(s->wheel, slot, loop_now_ms(s->loop) + (uint64_t)seconds * 1000);
}

/* ---- memory of requests under way --------------------------------------------------------------
 */

/* Heads hold Basic credentials; and records are opened in place, so `in` has held the head too. */
static void wipe(struct buf *b)
{
	if (b->p)
		sodium_memzero(b->p, b->cap);
}

static void trim(struct buf *b)
{
	if (b->cap > BUFFER_KEEP_BYTES)
		buf_free(b);
	b->n = 0;
	b->failed = false;
}

struct active *conn_active(struct shard *s, uint32_t slot, bool even_if_many)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	if (a)
		return a;
	if (s->active_used >= s->active_max && !even_if_many)
		return NULL;
	a = s->active_free;
	if (a) {
		s->active_free = a->next_free;
	} else {
		a = calloc(1, sizeof(*a));
		if (!a)
			return NULL;
		a->shard = s;
		list_add_tail(&s->active_all, &a->all);
		/* What a request may make a command allocate: its body several times over, as tree
		 * and copies; never without bound. */
		arena_init(&a->job.arena, 256u << 20);
		s->active_count++;
	}
	s->active_used++;
	if (s->active_count - s->active_used < s->active_idle_least)
		s->active_idle_least = s->active_count - s->active_used;
	a->slot = slot;
	a->busy = false;
	c->active = a;
	return a;
}

static void forget_request(struct active *a)
{
	sodium_memzero(a->cred.password, sizeof(a->cred.password));
	wipe(&a->head);
	trim(&a->head);
	trim(&a->body);
	a->scanned = 0;
	/* Its views pointed into the head. A Sync that runs again has no request of its own. */
	a->http.header_count = 0;
	a->http.method = HTTP1_OTHER;
	a->http.gzip_body = a->http.accepts_gzip = false;
	a->has_request = a->discard_body = false;
	a->mailbox = 0;
	a->address[0] = 0;
	a->head_extra[0] = 0;
	a->refuse_status = 0;
	a->order = a->resume_due_ms = 0;
	a->request_bytes = 0;
	arena_reset(&a->job.arena);
}

void conn_forget_request(struct active *a)
{
	forget_request(a);
	a->has_request = true;
}

void conn_active_release(struct shard *s, uint32_t slot)
{
	struct active *a = s->conns[slot].active;

	if (!a)
		return;
	s->conns[slot].active = NULL;
	conn_active_free(s, a);
}

void conn_active_destroy(struct active *a)
{
	if (a->busy)
		buf_free(&a->job.answer.body);
	buf_free(&a->in);
	buf_free(&a->head);
	buf_free(&a->more);
	buf_free(&a->body);
	buf_free(&a->out);
	buf_free(&a->sending);
	buf_free(&a->reply);
	arena_free(&a->job.arena);
	free(a);
}

void conn_active_trim(struct shard *s, uint64_t now_ms)
{
	struct active *a;
	bool any = false;

	if (now_ms < s->active_trim_ms + ACTIVE_TRIM_MS)
		return;
	s->active_trim_ms = now_ms;
	/* Those that lay idle all the time: a steady load gives nothing back and asks for nothing. */
	while (s->active_idle_least > ACTIVE_KEEP && (a = s->active_free)) {
		s->active_free = a->next_free;
		list_del(&a->all);
		conn_active_destroy(a);
		s->active_count--;
		s->active_idle_least--;
		any = true;
	}
	if (any)
		atomic_store_explicit(&s->server->memory_freed, true, memory_order_relaxed);
	s->active_idle_least = s->active_count - s->active_used;
}

void conn_active_free(struct shard *s, struct active *a)
{
	if (a->handshake)
		tls_hs_free(&a->handshake);
	if (a->handshake_counted) {
		a->handshake_counted = false;
		s->handshakes_in_flight--;
		METRIC_ADD(TLS_HS_INFLIGHT, -1);
	}
	forget_request(a);
	wipe(&a->in);
	wipe(&a->more);
	trim(&a->in);
	trim(&a->more);
	trim(&a->out);
	trim(&a->sending);
	trim(&a->reply);
	a->reply_sent = 0;
	s->active_used--;
	a->next_free = s->active_free;
	s->active_free = a;
}

/* ---- receiving
 * ----------------------------------------------------------------------------------- */

void conn_receive(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];

	if (c->flags & CONN_RECEIVING)
		return;
	c->flags |= CONN_RECEIVING;
	loop_recv(s->loop, slot);
}

void conn_watch(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];

	if (c->flags & CONN_RECEIVING)
		return;
	c->flags |= CONN_RECEIVING;
	loop_watch(s->loop, slot);
}

void conn_close(struct shard *s, uint32_t slot, bool reset)
{
	struct conn *c = &s->conns[slot];

	if (c->state == CONN_CLOSING || c->state == CONN_FREE)
		return;
	if (waiters_get(s->waiters, slot))
		park_hangup(s, slot);
	wheel_cancel(s->wheel, slot);
	queue_remove(s, slot);
	c->state = CONN_CLOSING;
	loop_close(s->loop, slot, reset);
}

/* err: what a receive or send said; 0 is the peer's FIN. */
static void close_gone(struct shard *s, uint32_t slot, int err)
{
	s->conns[slot].ended = err == -ETIMEDOUT || err == -EHOSTUNREACH || err == -ENETUNREACH
				       ? CONN_END_LOST
				       : CONN_END_PEER;
	conn_close(s, slot, err != 0);
}

void conn_no_memory(struct shard *s, uint32_t slot)
{
	uint64_t now = loop_now_ms(s->loop);

	METRIC_INC(NO_MEMORY);
	if (now >= s->no_memory_said_ms) {
		s->no_memory_said_ms = now + NO_MEMORY_SAID_MS;
		log_msg(LOG_WARNING,
			"connections are closed and requests refused: no memory (the service's "
			"or container's limit; core.requests_in_flight_max bounds what they "
			"take)");
	}
	conn_close(s, slot, true);
}

static void return_wake_buffer(struct shard *s, uint32_t slot)
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

void conn_released(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];

	CHECK(c->state == CONN_CLOSING && c->queue == QUEUE_NONE);
	/* A password check or a command holds views into the request: its memory goes when the
	 * message comes back (request_cred_done, request_job_done), and not before now, since the
	 * kernel may have been sending from it. */
	if (c->active && c->active->busy) {
		c->active->slot = WAITER_NONE;
		c->active = NULL;
	}
	conn_active_release(s, slot);
	return_wake_buffer(s, slot);
	move_released(s, slot);
	if (c->flags & CONN_TLS)
		tlsrec_wipe(&c->tls);
	c->state = CONN_FREE;
	c->flags = 0;
	s->open_conns--;
	METRIC_ADD(CONNS, -1);
	switch ((enum conn_end)c->ended) {
	case CONN_END_SERVER:
		METRIC_INC(CONNS_CLOSED_SERVER);
		break;
	case CONN_END_PEER:
		METRIC_INC(CONNS_CLOSED_PEER);
		break;
	case CONN_END_LOST:
		METRIC_INC(CONNS_CLOSED_LOST);
		break;
	case CONN_END_MOVED:
		METRIC_INC(CONNS_CLOSED_MOVED);
		break;
	}
}

void conn_accepted(
	struct shard *s, uint32_t slot, enum listener_kind kind, const struct loop_addr *peer)
{
	struct conn *c = &s->conns[slot];
	const struct config *cfg = shard_config(s);

	CHECK(c->state == CONN_FREE && !c->active && c->queue == QUEUE_NONE);
	memset(c, 0, sizeof(*c));
	c->peer = *peer;
	if (slot >= s->slots_end)
		s->slots_end = slot + 1;
	s->open_conns++;
	METRIC_INC(CONNS_ACCEPTED);
	METRIC_ADD(CONNS, 1);
	if (s->draining) {
		/* It was on its way when we stopped listening. */
		c->state = CONN_IDLE;
		conn_close(s, slot, false);
		return;
	}
	if (kind == LISTENER_HTTPS) {
		c->flags |= CONN_TLS_PORT;
		c->state = CONN_GREETED;
		conn_deadline(s, slot, cfg->tls_handshake_timeout_s);
	} else {
		c->state = CONN_IDLE;
		conn_deadline(s, slot, cfg->http_request_timeout_s);
	}
	/* No memory before the first byte: silent connections cost a slot and nothing else. */
	conn_watch(s, slot);
}

/* False: no place or no memory now. */
static bool begin_handshake(struct shard *s, uint32_t slot)
{
	struct active *a;

	if (s->handshakes_in_flight >= (uint32_t)shard_config(s)->tls_handshakes_max)
		return false;
	a = conn_active(s, slot, false);
	if (!a)
		return false;
	s->conns[slot].state = CONN_HANDSHAKE;
	a->handshake_counted = true;
	s->handshakes_in_flight++;
	METRIC_ADD(TLS_HS_INFLIGHT, 1);
	/* Its time begins with its turn: else those who waited long would be cut off in the middle,
	 * their work lost. */
	conn_deadline(s, slot, shard_config(s)->tls_handshake_timeout_s);
	conn_receive(s, slot);
	return true;
}

static bool begin_request(struct shard *s, uint32_t slot)
{
	struct active *a = conn_active(s, slot, false);

	if (!a)
		return false;
	/* In one piece from the start: growing would leave copies of credentials behind. */
	buf_room(&a->head, HEAD_ROOM_BYTES);
	s->conns[slot].state = CONN_HEAD;
	conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
	conn_receive(s, slot);
	return true;
}

void conn_readable(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a;

	c->flags &= (uint8_t)~CONN_RECEIVING;
	/* The bytes stay in the socket for whoever has it when the upgrade is over. */
	if ((move_holds(s) || c->flags & CONN_MOVED) &&
		(c->state == CONN_GREETED || c->state == CONN_IDLE || c->state == CONN_PARKED))
		return;
	switch ((enum conn_state)c->state) {
	case CONN_GREETED:
		/* Those who wait already come first. */
		if (s->want_handshake.count || !begin_handshake(s, slot)) {
			conn_deadline(s, slot, shard_config(s)->tls_handshake_wait_s);
			queue_push(s, &s->want_handshake, slot);
		}
		return;
	case CONN_IDLE:
		if (s->want_active.count || !begin_request(s, slot)) {
			conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
			queue_push(s, &s->want_active, slot);
		}
		return;
	case CONN_PARKED:
		/* The client hung up, ended TLS, or pipelined: the bytes tell. */
		if (!(a = conn_active(s, slot, true))) {
			conn_no_memory(s, slot);
			return;
		}
		a->has_request = true; /* what comes now is behind the hanging one */
		conn_receive(s, slot);
		return;
	/* From here on: the watch of a parked request that was woken meanwhile. Taking it back at
	 * each wake would cost two more operations. */
	case CONN_HEAD:
	case CONN_BODY:
		/* The request behind it had come in part, and the rest is here now. */
		conn_receive(s, slot);
		return;
	case CONN_AUTH:
	case CONN_COMMAND:
	case CONN_RESPOND:
		/* The bytes wait in the socket; the next watch or receive finds them. */
		return;
	default:
		conn_close(s, slot, true);
	}
}

void conn_received(struct shard *s, uint32_t slot, const uint8_t *p, int n)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	c->flags &= (uint8_t)~CONN_RECEIVING;
	if (n <= 0) {
		close_gone(s, slot, n);
		return;
	}
	/* Begun behind a hanging request, then it had to wait for a buffer: that request is answered
	 * by now, and these bytes are the next one's. */
	if (!a && c->state == CONN_IDLE && (a = conn_active(s, slot, true))) {
		buf_room(&a->head, HEAD_ROOM_BYTES);
		c->state = CONN_HEAD;
		conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
	}
	if (!a) {
		conn_close(s, slot, false);
		return;
	}
	if (c->state == CONN_HANDSHAKE) {
		buf_add(&a->in, p, (size_t)n);
		if (a->in.failed) {
			conn_no_memory(s, slot);
			return;
		}
		/* The work is done in conn_background, in slices. */
		queue_push(s, &s->handshakes, slot);
		return;
	}
	if (c->flags & CONN_TLS) {
		buf_add(&a->in, p, (size_t)n);
		open_records(s, slot);
	} else {
		buf_add(a->has_request ? &a->more : &a->head, p, (size_t)n);
	}
	if (a->in.failed || a->head.failed || a->more.failed) {
		conn_no_memory(s, slot);
		return;
	}
	progress(s, slot);
}

/* Opens every whole record in a->in. */
static void open_records(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	struct tlsrec_in in;
	size_t off = 0;

	for (;;) {
		tlsrec_open(&c->tls, a->in.p + off, a->in.n - off, &in);
		if (in.result == TLSREC_NEED_MORE)
			break;
		off += in.consumed;
		if (in.reply_bytes)
			buf_add(&a->out, in.reply, in.reply_bytes);
		if (in.result == TLSREC_DATA) {
			buf_add(a->has_request ? &a->more : &a->head, in.data, in.data_bytes);
		} else if (in.result != TLSREC_HANDLED) {
			if (in.result == TLSREC_ERROR)
				METRIC_INC(TLS_RECORD_ERRORS);
			else if (in.result == TLSREC_CLOSED)
				c->ended = CONN_END_PEER;
			c->flags |= CONN_CLOSE;
			off = a->in.n;
			break;
		}
	}
	if (off) {
		memmove(a->in.p, a->in.p + off, a->in.n - off);
		a->in.n -= off;
	}
}

/* ---- sending
 * ------------------------------------------------------------------------------------- */

static void flush(struct shard *s, uint32_t slot)
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
		flush(s, slot);
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
	flush(s, slot);
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
		metric_observe_ns(
			H_WAKE, loop_now_ns(s->loop) - s->wake_of[slot]->committed_ns);
	return_wake_buffer(s, slot);
	if (err) {
		close_gone(s, slot, err);
		return;
	}
	if (a)
		a->sending.n = 0;
	if (c->state == CONN_RESPOND && a && a->reply_sent < a->reply.n) {
		conn_deadline(s, slot, shard_config(s)->http_send_timeout_s);
		if (seal_some(s, slot) && !(c->flags & CONN_KEEP_ALIVE))
			say_goodbye(s, slot);
		/* Half an answer must not be followed by another. */
		if (a->out.failed) {
			conn_no_memory(s, slot);
			return;
		}
	}
	if (a && a->out.n) {
		flush(s, slot);
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
			conn_active_release(s, slot);
		park_rearm(s, slot);
	}
}

void conn_next(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	struct buf t;

	if (!(c->flags & CONN_KEEP_ALIVE) || s->draining) {
		conn_close(s, slot, false);
		return;
	}
	if (a) {
		forget_request(a);
		a->reply.n = 0;
		a->reply_sent = 0;
		trim(&a->reply);
		/* What came behind the last request is the head of the next. */
		t = a->head;
		a->head = a->more;
		a->more = t;
		a->more.n = 0;
		if (a->head.n || a->in.n) {
			c->state = CONN_HEAD;
			conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
			progress(s, slot);
			return;
		}
		conn_active_release(s, slot);
	}
	c->state = CONN_IDLE;
	conn_deadline(s, slot, shard_config(s)->http_keepalive_timeout_s);
	conn_watch(s, slot);
}

/* ---- reading requests
 * ------------------------------------------------------------------------------ */

/* Goes as far as the bytes at hand allow, then asks for more. */
static void progress(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	const struct config *cfg = shard_config(s);
	const char *why = NULL;
	int r;

	flush(s, slot);
	if (c->state == CONN_CLOSING)
		return;
	if (c->flags & CONN_CLOSE) {
		/* The peer ended TLS: what it asked for before is void. */
		if (!(c->flags & CONN_SENDING))
			conn_close(s, slot, false);
		else if (c->state == CONN_PARKED) {
			park_hangup(s, slot);
			queue_remove(s, slot);
			c->state = CONN_RESPOND;
			conn_deadline(s, slot, cfg->http_send_timeout_s);
		}
		return;
	}
	if (c->state == CONN_HEAD) {
		struct http1_limits lim = {
			.head_bytes_max = (uint32_t)cfg->http_head_bytes_max,
			.target_bytes_max = (uint32_t)cfg->http_head_bytes_max / 2,
			.body_bytes_max = (uint64_t)cfg->http_body_bytes_max,
		};

		r = http1_parse(a->head.p, a->head.n, &lim, &a->scanned, &a->http, &why);
		if (r == 0) {
			conn_receive(s, slot);
			return;
		}
		if (r < 0) {
			request_bad(s, slot, -r, why);
			return;
		}
		a->has_request = true;
		a->started_ms = loop_now_ms(s->loop);
		a->request_bytes = a->http.head_bytes;
		if (a->head.n > a->http.head_bytes)
			buf_add(&a->more, a->head.p + a->http.head_bytes,
				a->head.n - a->http.head_bytes);
		request_start(s, slot);
		return;
	}
	if (c->state == CONN_BODY) {
		request_body(s, slot);
		return;
	}
	if (c->state == CONN_PARKED) {
		/* Pipelined bytes wait behind the hanging request, within a bound; without a watch
		 * a hang-up is then seen when the answer is sent. */
		if (a->more.n + a->in.n > 0 && s->active_used > s->active_max / 2) {
			/* Keeping them is a courtesy that must not cost others their turn. */
			conn_close(s, slot, true);
			return;
		}
		if (a->more.n + a->in.n < STASH_BYTES_MAX)
			conn_watch(s, slot);
		if (!(c->flags & CONN_SENDING) && a->in.n == 0 && a->more.n == 0)
			conn_active_release(s, slot);
	}
}

/* ---- handshakes
 * ------------------------------------------------------------------------------------ */

static bool looks_like_http(const struct buf *b)
{
	static const char *const words[] = {"GET ", "POST ", "OPTIONS ", "HEAD ", "PUT "};

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		size_t n = strlen(words[i]);

		if (b->n >= n && memcmp(b->p, words[i], n) == 0)
			return true;
	}
	return false;
}

static void handshake_failed(struct shard *s, uint32_t slot, bool http)
{
	static const char hint[] =
		"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
		"Content-Length: 44\r\nConnection: close\r\n\r\n"
		"TLS is needed: this port speaks https only\r\n";
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	bool not_tls = false;
	const char *why = a->handshake ? tls_hs_why(a->handshake, &not_tls) : "no certificate";
	struct log_line l;
	char peer[64];

	if (not_tls)
		METRIC_INC(TLS_HS_NOT_TLS);
	else
		METRIC_INC(TLS_HS_FAILED);
	log_begin(&l, LOG_DEBUG, "tls: failed");
	if (!l.skip) {
		conn_address(&c->peer, peer);
		log_str(&l, "rip", peer);
		log_str(&l, "why", why);
		log_end(&l);
	}
	c->flags |= CONN_CLOSE;
	if (http && not_tls) {
		a->out.n = 0;
		buf_add(&a->out, hint, sizeof(hint) - 1);
	}
	flush(s, slot);
	if (!(c->flags & CONN_SENDING))
		conn_close(s, slot, false);
}

static void handshake_step(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	enum tls_hs_status st;
	size_t used = 0;
	const char *why;
	bool http = false;

	if (!a->handshake) {
		http = looks_like_http(&a->in);
		struct tls_ctx *ctx = server_tls(s->server);

		a->handshake = ctx ? tls_hs_server(ctx) : NULL;
		tls_ctx_unref(&ctx);
		if (!a->handshake) {
			handshake_failed(s, slot, false);
			return;
		}
	}
	st = tls_hs_feed(a->handshake, a->in.p, a->in.n, &used, &a->out);
	if (used) {
		memmove(a->in.p, a->in.p + used, a->in.n - used);
		a->in.n -= used;
	}
	if (st == TLS_HS_FAILED) {
		handshake_failed(s, slot, http);
		return;
	}
	if (st == TLS_HS_WANT_MORE) {
		flush(s, slot);
		if (c->state == CONN_HANDSHAKE)
			conn_receive(s, slot);
		return;
	}
	if (tls_hs_resumed(a->handshake))
		METRIC_INC(TLS_HS_RESUMED);
	else
		METRIC_INC(TLS_HS_FULL);
	if (!tls_hs_detach(a->handshake, &c->tls, &why)) {
		METRIC_INC(TLS_DETACH_REFUSED);
		conn_close(s, slot, true);
		return;
	}
	tls_hs_free(&a->handshake);
	a->handshake_counted = false;
	s->handshakes_in_flight--;
	METRIC_ADD(TLS_HS_INFLIGHT, -1);
	c->flags |= CONN_TLS;
	c->state = CONN_HEAD;
	buf_room(&a->head, HEAD_ROOM_BYTES);
	conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
	if (a->in.n)
		open_records(s, slot);
	progress(s, slot);
}

/* Between two pieces of long work: whoever hangs is answered before it goes on. */
static void wakes_first(struct shard *s)
{
	if (loop_commit_moved(s->loop))
		park_journal(s);
	if (s->wakes_unsent)
		loop_submit(s->loop);
	s->wakes_unsent = false;
}

bool conn_background(struct shard *s)
{
	uint64_t until = loop_now_ns(s->loop) + HANDSHAKE_SLICE_US * 1000ull;
	uint32_t slot;

	while (s->handshakes.count && loop_now_ns(s->loop) < until) {
		wakes_first(s);
		slot = queue_pop(s, &s->handshakes);
		CHECK(s->conns[slot].state == CONN_HANDSHAKE);
		handshake_step(s, slot);
	}
	if (move_holds(s))
		return s->handshakes.count > 0;
	/* Requests first: their handshakes are paid for. */
	while (s->want_active.count && begin_request(s, s->want_active.first))
		queue_remove(s, s->want_active.first);
	while (s->want_handshake.count && begin_handshake(s, s->want_handshake.first))
		queue_remove(s, s->want_handshake.first);
	return s->handshakes.count > 0;
}

/* ---- deadlines
 * ------------------------------------------------------------------------------------- */

void conn_timer(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];

	switch ((enum conn_state)c->state) {
	case CONN_PARKED:
		park_timer(s, slot);
		return;
	case CONN_GREETED:
		/* A reset is the cheapest refusal there is: nothing can be said before TLS is up. */
		if (c->queue == QUEUE_WANT_HANDSHAKE)
			METRIC_INC(TLS_HS_NO_PLACE);
		else
			METRIC_INC(TLS_HS_FAILED);
		conn_close(s, slot, true);
		return;
	case CONN_HANDSHAKE:
		METRIC_INC(TLS_HS_FAILED);
		conn_close(s, slot, true);
		return;
	case CONN_IDLE:
		if (c->queue == QUEUE_WANT_ACTIVE && request_no_room(s, slot))
			return;
		conn_close(s, slot, false);
		return;
	case CONN_HEAD:
	case CONN_BODY:
		METRIC_INC(HTTP_TIMEOUTS);
		if (c->state == CONN_HEAD && c->active->head.n == 0 && c->active->in.n == 0) {
			conn_close(s, slot, false);
			return;
		}
		request_bad(s, slot, 408, "the request took too long to arrive");
		return;
	case CONN_RESPOND:
		METRIC_INC(HTTP_TIMEOUTS);
		conn_close(s, slot, true);
		return;
	default:
		return;
	}
}
