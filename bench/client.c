/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The states of a phone's connection:
 *
 *   closed --client_open--> queued --a place is free--> connecting --> handshake --> open
 *
 * From each of them it goes back to closed. In `open` the struct work comes and goes: it is there
 * while bytes are on their way in or out, and not while an answer is only waited for. */
#include "bench/client.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/wheel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
	ANSWER_BYTES_MAX = 64 << 20,
	BUFFER_KEEP_BYTES = 8192, /* larger buffers are not kept in the pool */
	WORK_KEEP = 1024,         /* structs kept in the pool */
};
#define NONE UINT32_MAX

enum state { CLOSED, QUEUED, CONNECTING, HANDSHAKE, OPEN };

/* What a phone needs only while it is busy. */
struct work {
	struct work *next_free;
	uint32_t grave_slot; /* in client.graves: the closing slot that may still send from here */
	struct tls_hs *handshake;
	struct buf in;      /* from the peer, not opened yet */
	struct buf plain;   /* opened: HTTP */
	struct buf out;     /* sealed, to be sent next */
	struct buf sending; /* the loop's until sent() */
};

struct phone {
	struct work *work;
	uint32_t slot;
	uint8_t state;
	bool reading; /* a receive or watch is outstanding */
	bool sending;
	bool asked;       /* an answer is outstanding */
	bool out_request; /* work->out holds the end of a request */
	bool sending_request;
	bool closing_sent; /* closing once the last bytes are out */
	bool offered;      /* a session, at the handshake */
	bool resumed;
	bool in_queue;    /* has an entry there, be it of an earlier opening */
	uint8_t tls_text; /* index into client.tls_texts */
	struct tlsrec rec;
};
_Static_assert(sizeof(struct phone) <= 176, "client.h promises it");

enum { TLS_TEXTS_MAX = 16 };

struct client {
	struct client_options o;
	struct client_events ev;
	void *arg;
	struct loop *loop;
	struct tls_ctx *tls;
	struct tls_session *session;
	struct wheel *wheel;
	struct phone *phones;
	uint32_t *phone_of_slot; /* number + 1; 0: none */
	uint32_t slots_max;
	uint32_t *queue; /* circular, phones_max entries */
	uint32_t queue_head, queue_count;
	uint32_t opening, open;
	uint64_t full, resumed, connected;
	struct work *work_free, *graves;
	uint32_t work_free_count;
	uint32_t releasing; /* slots closed and not released yet */
	char tls_texts[TLS_TEXTS_MAX][64];
	unsigned tls_text_count;
	bool in_queue_run;
	bool no_resume;
};

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

/* ---- memory ---- */

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

static struct work *work_of(struct client *c, struct phone *p)
{
	if (p->work)
		return p->work;
	p->work = c->work_free;
	if (p->work) {
		c->work_free = p->work->next_free;
		c->work_free_count--;
		return p->work;
	}
	p->work = calloc(1, sizeof(*p->work));
	CHECK(p->work);
	return p->work;
}

static void trim(struct buf *b)
{
	if (b->cap > BUFFER_KEEP_BYTES)
		buf_free(b);
	b->n = 0;
	b->failed = false;
}

static void work_free(struct work *w)
{
	buf_free(&w->in);
	buf_free(&w->plain);
	buf_free(&w->out);
	buf_free(&w->sending);
	free(w);
}

static void work_give_back(struct client *c, struct phone *p)
{
	struct work *w = p->work;

	if (!w)
		return;
	p->work = NULL;
	tls_hs_free(&w->handshake);
	if (c->work_free_count >= WORK_KEEP) {
		work_free(w);
		return;
	}
	trim(&w->in);
	trim(&w->plain);
	trim(&w->out);
	trim(&w->sending);
	w->next_free = c->work_free;
	c->work_free = w;
	c->work_free_count++;
}

static void buf_consume(struct buf *b, size_t n)
{
	CHECK(n <= b->n);
	b->n -= n;
	if (b->n)
		memmove(b->p, b->p + n, b->n);
}

/* ---- closing ---- */

static void queue_run(struct client *c);

static uint32_t number_of(const struct client *c, const struct phone *p)
{
	return (uint32_t)(p - c->phones);
}

/* What the loop still sends from must live until released(): it stays with the slot, the phone gets
 * another. */
static void bury(struct client *c, struct phone *p)
{
	if (!p->sending)
		return;
	tls_hs_free(&p->work->handshake);
	p->work->grave_slot = p->slot;
	p->work->next_free = c->graves;
	c->graves = p->work;
	p->work = NULL;
}

static void forget(struct client *c, struct phone *p)
{
	uint32_t i = number_of(c, p);
	enum state was = p->state;

	wheel_cancel(c->wheel, i);
	if (was == CLOSED || was == QUEUED) {
		p->state = CLOSED; /* its entry in the queue is passed over */
		return;
	}
	if (p->slot != NONE) {
		c->phone_of_slot[p->slot] = 0;
		bury(c, p);
		c->releasing++;
		loop_close(c->loop, p->slot, c->o.reset_on_close);
	}
	work_give_back(c, p);
	if (was == OPEN)
		c->open--;
	else
		c->opening--;
	tlsrec_wipe(&p->rec);
	*p = (struct phone){.slot = NONE, .in_queue = p->in_queue};
}

static void end(struct client *c, struct phone *p, enum client_end how, const char *why)
{
	uint32_t i = number_of(c, p);

	forget(c, p);
	c->ev.closed(c->arg, i, how, why);
	queue_run(c);
}

/* ---- sending ---- */

static void flush(struct client *c, struct phone *p)
{
	struct work *w = p->work;
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
	struct work *w = work_of(c, p);

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

/* ---- receiving ---- */

static void read_more(struct client *c, struct phone *p)
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

/* Nothing on its way in or out: back to a bare record state. */
static void rest(struct client *c, struct phone *p)
{
	struct work *w = p->work;

	if (w && p->state == OPEN && !p->sending && !w->in.n && !w->plain.n && !w->out.n)
		work_give_back(c, p);
	read_more(c, p);
}

/* False: closed. */
static bool take_bytes(struct client *c, struct phone *p, uint64_t now_ns)
{
	uint32_t i = number_of(c, p), slot = p->slot;
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
	struct work *w = p->work;
	struct http_answer a;
	const char *why = NULL;
	uint32_t i = number_of(c, p), slot = p->slot;
	struct buf plain;
	int k;

	if (c->ev.bytes)
		return take_bytes(c, p, now_ns);
	if (w->plain.n == 0)
		return true;
	if (!p->asked) {
		end(c, p, CLIENT_END_HTTP, "bytes that answer no request");
		return false;
	}
	k = http_answer_parse(w->plain.p, w->plain.n, &a, &why);
	if (k < 0) {
		end(c, p, CLIENT_END_HTTP, why);
		return false;
	}
	if (k > 0 && a.content_length > ANSWER_BYTES_MAX) {
		end(c, p, CLIENT_END_HTTP, "the answer is too long");
		return false;
	}
	if (k == 0 || w->plain.n - a.head_bytes < a.content_length)
		return true;
	if (w->plain.n - a.head_bytes > a.content_length) {
		end(c, p, CLIENT_END_HTTP, "bytes behind the answer");
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
		end(c, p, CLIENT_END_PEER, "the server said Connection: close");
		return false;
	}
	return true;
}

/* Records in work->in become HTTP in work->plain. False: closed. */
static bool open_records(struct client *c, struct phone *p, uint64_t now_ns)
{
	struct work *w = p->work;
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
			flush(c, p);
			if (r.result == TLSREC_ERROR)
				end(c, p, CLIENT_END_TLS, r.why);
			else
				end(c, p, p->asked ? CLIENT_END_CUT : CLIENT_END_PEER,
					"the server said close_notify");
			return false;
		}
	}
	buf_consume(&w->in, at);
	flush(c, p);
	return take_answer(c, p, now_ns);
}

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
	uint32_t i = number_of(c, p), slot = p->slot;

	wheel_cancel(c->wheel, i);
	p->state = OPEN;
	c->opening--;
	c->open++;
	/* Tickets that came along with the end of the handshake. */
	if (p->work && p->work->in.n && !open_records(c, p, now_ns))
		return;
	c->ev.opened(c->arg, i);
	if (p->state == OPEN && p->slot == slot) {
		flush(c, p);
		rest(c, p);
	}
	queue_run(c);
}

static void shake_hands(struct client *c, struct phone *p, uint64_t now_ns)
{
	struct work *w = p->work;
	size_t used = 0;
	enum tls_hs_status status = tls_hs_feed(w->handshake, w->in.p, w->in.n, &used, &w->out);
	const char *why = NULL;
	char text[CLIENT_WHY_BYTES];
	bool not_tls = false;

	buf_consume(&w->in, used);
	switch (status) {
	case TLS_HS_WANT_MORE:
		flush(c, p);
		read_more(c, p);
		return;
	case TLS_HS_FAILED:
		flush(c, p);
		snprintf(text, sizeof(text), "%s%s", tls_hs_why(w->handshake, &not_tls),
			not_tls ? " (does it speak TLS?)" : "");
		end(c, p, CLIENT_END_TLS, text);
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
		end(c, p, CLIENT_END_TLS, why);
		return;
	}
	tls_hs_free(&w->handshake);
	opened(c, p, now_ns);
}

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

	if (err) {
		end(c, p, CLIENT_END_CONNECT, strerror(-err));
		return;
	}
	c->connected++;
	if (!c->o.tls) {
		opened(c, p, 0);
		return;
	}
	p->state = HANDSHAKE;
	struct work *w = work_of(c, p);

	p->offered = c->session && !c->no_resume;
	w->handshake = tls_hs_client(c->tls, c->o.server_name, p->offered ? c->session : NULL);
	CHECK(w->handshake);
	shake_hands(c, p, 0);
}

static void on_received(void *arg, uint32_t slot, const uint8_t *bytes, int n)
{
	struct client *c = arg;
	struct phone *p = phone_of(c, slot);
	uint64_t now_ns = loop_now_ns(c->loop);
	struct work *w;

	p->reading = false;
	if (n <= 0) {
		enum client_end how = p->state != OPEN ? CLIENT_END_TLS
				      : p->asked       ? CLIENT_END_CUT
						       : CLIENT_END_PEER;
		end(c, p, how, n == 0 ? "the server closed the connection" : strerror(-n));
		return;
	}
	w = work_of(c, p);
	buf_add(&w->in, bytes, (size_t)n);
	CHECK(!w->in.failed);
	if (p->state == HANDSHAKE)
		shake_hands(c, p, now_ns);
	else if (open_records(c, p, now_ns))
		rest(c, p);
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
	if (p->closing_sent) {
		forget(c, p);
		queue_run(c);
		return;
	}
	/* An error shows in the receive too, with what the server had to say before it. */
	if (err)
		return;
	p->work->sending.n = 0;
	flush(c, p);
	if (p->state != OPEN)
		return;
	if (!p->sending && !p->work->in.n && !p->work->plain.n && !p->work->out.n)
		work_give_back(c, p);
	if (request && p->asked)
		c->ev.sent(c->arg, number_of(c, p));
}

static void on_released(void *arg, uint32_t slot)
{
	struct client *c = arg;
	struct work **at = &c->graves, *w;

	c->releasing--;
	while (*at && (*at)->grave_slot != slot)
		at = &(*at)->next_free;
	w = *at;
	if (w) {
		*at = w->next_free;
		work_free(w);
	}
	queue_run(c);
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
	end(c, p, CLIENT_END_TIMEOUT, why);
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

/* ---- opening ---- */

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
	uint32_t i = number_of(c, p);
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
		end(c, p, CLIENT_END_CONNECT, "no descriptor or slot is left");
		return true;
	}
	c->phone_of_slot[slot] = i + 1;
	wheel_arm(c->wheel, i, loop_now_ms(c->loop) + (uint64_t)c->o.open_timeout_s * 1000);
	return true;
}

static void queue_run(struct client *c)
{
	/* end() comes back here: one turn at a time, without recursion. */
	if (c->in_queue_run)
		return;
	c->in_queue_run = true;
	while (c->queue_count && c->opening < c->o.handshakes_max) {
		struct phone *p = &c->phones[c->queue[c->queue_head]];

		if (p->state == QUEUED && !connect_now(c, p))
			break;                    /* released() comes back */
		p->in_queue = p->state == QUEUED; /* opened again inside the upcall */
		c->queue_head = (c->queue_head + 1) % c->o.phones_max;
		c->queue_count--;
		if (p->in_queue) {
			uint32_t tail = (c->queue_head + c->queue_count++) % c->o.phones_max;

			c->queue[tail] = number_of(c, p);
		}
	}
	c->in_queue_run = false;
}

void client_open(struct client *c, uint32_t i)
{
	struct phone *p = &c->phones[i];

	CHECK(i < c->o.phones_max);
	if (p->closing_sent)
		forget(c, p);
	CHECK(p->state == CLOSED);
	wheel_cancel(c->wheel, i);
	p->state = QUEUED;
	p->slot = NONE;
	if (!p->in_queue) {
		CHECK(c->queue_count < c->o.phones_max);
		p->in_queue = true;
		c->queue[(c->queue_head + c->queue_count++) % c->o.phones_max] = i;
	}
	queue_run(c);
}

void client_open_later(struct client *c, uint32_t i, uint64_t after_ms)
{
	CHECK(c->phones[i].state == CLOSED);
	wheel_arm(c->wheel, i, loop_now_ms(c->loop) + after_ms);
}

bool client_is_open(const struct client *c, uint32_t i)
{
	return c->phones[i].state == OPEN && !c->phones[i].closing_sent;
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
	flush(c, p);
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
}

void client_deafen(struct client *c, uint32_t i)
{
	CHECK(client_is_open(c, i));
	loop_deafen(c->loop, c->phones[i].slot);
}

void client_say(struct client *c, uint32_t i, struct bytes what, uint32_t timeout_s)
{
	struct phone *p = &c->phones[i];

	CHECK(c->ev.bytes && client_is_open(c, i));
	if (timeout_s)
		wheel_arm(c->wheel, i, loop_now_ms(c->loop) + (uint64_t)timeout_s * 1000);
	seal(c, p, what);
	flush(c, p);
}

void client_close(struct client *c, uint32_t i)
{
	struct phone *p = &c->phones[i];

	if (p->state == OPEN && c->o.tls && !c->o.reset_on_close && !p->closing_sent) {
		struct work *w = work_of(c, p);
		uint8_t *room = buf_room(&w->out, TLSREC_REPLY_MAX);

		CHECK(room);
		w->out.n += tlsrec_close_notify(&p->rec, room);
		flush(c, p);
		p->closing_sent = true;
		if (p->sending) {
			loop_unwatch(c->loop, p->slot);
			p->reading = false;
			return;
		}
	}
	forget(c, p);
	queue_run(c);
}

/* ---- the rest ---- */

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

const char *client_tls_text(const struct client *c, uint32_t i)
{
	if (!c->o.tls || c->phones[i].state != OPEN)
		return "";
	return c->tls_texts[c->phones[i].tls_text];
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
	for (uint32_t i = 0; c->phones && i < numbers; i++) {
		if (!c->phones[i].work)
			continue;
		tls_hs_free(&c->phones[i].work->handshake);
		work_free(c->phones[i].work);
	}
	for (int i = 0; i < 2; i++) {
		struct work *w, *next;

		for (w = i ? c->work_free : c->graves; w; w = next) {
			next = w->next_free;
			work_free(w);
		}
	}
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
