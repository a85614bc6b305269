/* SPDX-License-Identifier: GPL-3.0-or-later */
/* TLS handshakes: so many places, for as long as one has its turn; their work is done in slices, in
 * front of every step of which whoever hangs is answered. */
#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/metrics.h"

#include <string.h>

bool handshake_begin(struct shard *s, uint32_t slot)
{
	struct active *a;

	if (s->handshakes_in_flight >= (uint32_t)shard_config(s)->tls_handshakes_max)
		return false;
	a = active_take(s, slot, false);
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

static void failed(struct shard *s, uint32_t slot, bool http)
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
	conn_flush(s, slot);
	if (!(c->flags & CONN_SENDING))
		conn_close(s, slot, false);
}

static void step(struct shard *s, uint32_t slot)
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
			failed(s, slot, false);
			return;
		}
	}
	st = tls_hs_feed(a->handshake, a->in.p, a->in.n, &used, &a->out);
	if (used) {
		memmove(a->in.p, a->in.p + used, a->in.n - used);
		a->in.n -= used;
	}
	if (st == TLS_HS_FAILED) {
		failed(s, slot, http);
		return;
	}
	if (st == TLS_HS_WANT_MORE) {
		conn_flush(s, slot);
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
	conn_secured(s, slot);
}

/* Between two pieces of long work: whoever hangs is answered before it goes on. */
static void wakes_first(struct shard *s)
{
	if (loop_commit_moved(s->loop))
		changes_read(s);
	if (s->wakes_unsent)
		loop_submit(s->loop);
	s->wakes_unsent = false;
}

void handshakes_work(struct shard *s)
{
	uint64_t until = loop_now_ns(s->loop) + HANDSHAKE_SLICE_US * 1000ull;
	uint32_t slot;

	while (s->handshakes.count && loop_now_ns(s->loop) < until) {
		wakes_first(s);
		slot = queue_pop(s, &s->handshakes);
		CHECK(s->conns[slot].state == CONN_HANDSHAKE);
		step(s, slot);
	}
}
