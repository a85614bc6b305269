/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A connection from accept to close: which bytes belong to which request, and how long each state may
 * last. Sending is conn_send.c, TLS until it stands handshake.c, the memory of a request active.c. */
#include "core/shard/shard_priv.h"

#include "core/address.h"
#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <string.h>

static void progress(struct shard *s, uint32_t slot);

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

/* ---- receiving ------------------------------------------------------------------------------- */

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

/* ---- the beginning and the end --------------------------------------------------------------- */

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
void conn_gone(struct shard *s, uint32_t slot, int err)
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
	active_release(s, slot);
	conn_return_wake_buffer(s, slot);
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

/* ---- reading requests ------------------------------------------------------------------------ */

static void begin_head(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];

	/* In one piece from the start: growing would leave copies of credentials behind. */
	buf_room(&c->active->head, HEAD_ROOM_BYTES);
	c->state = CONN_HEAD;
	conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
}

static bool begin_request(struct shard *s, uint32_t slot)
{
	if (!active_take(s, slot, false))
		return false;
	begin_head(s, slot);
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
		if (s->want_handshake.count || !handshake_begin(s, slot)) {
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
		if (!(a = active_take(s, slot, true))) {
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

void conn_received(struct shard *s, uint32_t slot, const uint8_t *p, int n)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	c->flags &= (uint8_t)~CONN_RECEIVING;
	if (n <= 0) {
		conn_gone(s, slot, n);
		return;
	}
	/* Its memory was given back while these bytes were on their way: when something else had been sent
	 * to a hanging request, or when that was answered. */
	if (!a) {
		a = active_take(s, slot, true);
		if (!a) {
			conn_no_memory(s, slot);
			return;
		}
		if (c->state == CONN_IDLE)
			begin_head(s, slot);
		else
			a->has_request = true; /* they are behind it */
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
	progress(s, slot);
}

void conn_secured(struct shard *s, uint32_t slot)
{
	s->conns[slot].flags |= CONN_TLS;
	begin_head(s, slot);
	if (s->conns[slot].active->in.n)
		open_records(s, slot);
	progress(s, slot);
}

void conn_next(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;

	if (!(c->flags & CONN_KEEP_ALIVE) || s->draining) {
		conn_close(s, slot, false);
		return;
	}
	if (a) {
		if (active_next_request(a)) {
			c->state = CONN_HEAD;
			conn_deadline(s, slot, shard_config(s)->http_request_timeout_s);
			progress(s, slot);
			return;
		}
		active_release(s, slot);
	}
	c->state = CONN_IDLE;
	conn_deadline(s, slot, shard_config(s)->http_keepalive_timeout_s);
	conn_watch(s, slot);
}

/* Goes as far as the bytes at hand allow, then asks for more. */
static void progress(struct shard *s, uint32_t slot)
{
	struct conn *c = &s->conns[slot];
	struct active *a = c->active;
	const struct config *cfg = shard_config(s);
	const char *why = NULL;
	int r;

	if (a->in.failed || a->head.failed || a->more.failed) {
		conn_no_memory(s, slot);
		return;
	}
	conn_flush(s, slot);
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
		if (a->head.n > a->http.head_bytes) {
			buf_add(&a->more, a->head.p + a->http.head_bytes,
				a->head.n - a->http.head_bytes);
			/* Without them the body, or the next request, would begin elsewhere. */
			if (a->more.failed) {
				conn_no_memory(s, slot);
				return;
			}
		}
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
			active_release(s, slot);
	}
}

/* ---- those who wait for their turn ----------------------------------------------------------- */

bool conn_background(struct shard *s)
{
	handshakes_work(s);
	if (move_holds(s))
		return s->handshakes.count > 0;
	/* Requests first: their handshakes are paid for. */
	while (s->want_active.count && begin_request(s, s->want_active.first))
		queue_remove(s, s->want_active.first);
	while (s->want_handshake.count && handshake_begin(s, s->want_handshake.first))
		queue_remove(s, s->want_handshake.first);
	return s->handshakes.count > 0;
}

/* ---- deadlines ------------------------------------------------------------------------------- */

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
