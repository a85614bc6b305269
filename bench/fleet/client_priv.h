/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/client_priv.h - the inside of a client, for client*.c only: client.c (the loop's events, timers, all
 * phones), client_open.c (a connection begins and ends), client_bytes.c (requests and answers on it),
 * client_work.c (memory of phones that are busy).
 * Thread: the client's. */
#ifndef ROOST_BENCH_FLEET_CLIENT_PRIV_H
#define ROOST_BENCH_FLEET_CLIENT_PRIV_H

#include "bench/fleet/client.h"
#include "core/base/check.h"
#include "io/wheel.h"

#define NONE UINT32_MAX

/* The states of a phone's connection:
 *
 *   closed --client_open--> queued --a place is free--> connecting --> handshake --> open
 *
 * From each of them it goes back to closed. In `open` the struct client_work comes and goes: it is there
 * while bytes are on their way in or out, and not while an answer is only waited for. */
enum state { CLOSED, QUEUED, CONNECTING, HANDSHAKE, OPEN };

/* ---- client_work.c ---- */

/* What a phone needs only while it is busy. */
struct client_work {
	struct client_work *next_free;
	uint32_t grave_slot; /* the closing slot that may still send from here */
	struct tls_hs *handshake;
	struct buf in;      /* from the peer, not opened yet */
	struct buf plain;   /* opened: HTTP */
	struct buf out;     /* sealed, to be sent next */
	struct buf sending; /* the loop's until sent() */
};

struct client_work_pool {
	struct client_work *free, *graves;
	uint32_t free_count;
};

/* Aborts without memory. */
struct client_work *client_work_take(struct client_work_pool *pool);
/* Buffers that have grown large are freed, small ones kept for the next. NULL is fine. */
void client_work_give_back(struct client_work_pool *pool, struct client_work **w);
/* What the loop still sends from must live until the slot is released. */
void client_work_bury(struct client_work_pool *pool, struct client_work **w, uint32_t slot);
/* The slot is released; nothing when none was buried for it. */
void client_work_unbury(struct client_work_pool *pool, uint32_t slot);
void client_work_free(struct client_work **w);
/* All that was given back or buried. */
void client_work_pool_free(struct client_work_pool *pool);

/* The first n bytes are done with. */
static inline void buf_consume(struct buf *b, size_t n)
{
	CHECK(n <= b->n);
	b->n -= n;
	if (b->n)
		memmove(b->p, b->p + n, b->n);
}

/* ---- what all share ---- */

struct phone {
	struct client_work *work;
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
	struct client_work_pool works;
	uint32_t releasing; /* slots closed and not released yet */
	char tls_texts[TLS_TEXTS_MAX][64];
	unsigned tls_text_count;
	bool in_queue_run;
	bool no_resume;
};

static inline uint32_t client_number(const struct client *c, const struct phone *p)
{
	return (uint32_t)(p - c->phones);
}

static inline struct client_work *client_work_of(struct client *c, struct phone *p)
{
	if (!p->work)
		p->work = client_work_take(&c->works);
	return p->work;
}

/* ---- client_open.c ---- */

/* As many of those that wait in line as may. */
void client_queue_run(struct client *c);
/* TCP is there. */
void client_connected(struct client *c, struct phone *p);
/* work->in holds what the peer said. */
void client_shake_hands(struct client *c, struct phone *p, uint64_t now_ns);
/* Closed, without an upcall. */
void client_forget(struct client *c, struct phone *p);
/* Closed, with one: the phone may be open again on return. */
void client_fail(struct client *c, struct phone *p, enum client_end how, const char *why);

/* ---- client_bytes.c ---- */

/* What is in work->out goes, unless something is on its way already. */
void client_flush(struct client *c, struct phone *p);
void client_read_more(struct client *c, struct phone *p);
/* Nothing on its way in or out: back to a bare record state. */
void client_rest(struct client *c, struct phone *p);
/* Records in work->in become HTTP in work->plain, and answers upcalls. False: closed. */
bool client_read_records(struct client *c, struct phone *p, uint64_t now_ns);

#endif
