/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/client.h - many phones' connections on one loop: connect, TLS, one request at a time, its
 * answer. Knows HTTP, not ActiveSync. Phones are numbers below phones_max.
 *
 * A phone whose answer is outstanding owns its record state and nothing else: no buffer, no wolfSSL
 * object, no parser; so hundreds of thousands hang in one process, as in the server.
 *
 * Thread: everything on the thread that called client_new, which must also call client_run; except
 *         client_post and client_stop, which may come from any thread (stop also from a signal
 *         handler).
 * Memory: per phone 176 bytes, 8 and 4 for its slot, 12 for its timer, 4 for its place in the queue;
 *         per phone that shakes hands, sends or receives a struct with its buffers, pooled. Mapped
 *         at client_new, touched when used. Per ring (some 20,000 phones) 1 MB of receive buffers.
 *         One session for all phones: a ticket each would be 500 bytes, and for the server the same.
 * Errors: nothing fails in the caller's face: a connection that cannot be made, an answer that is
 *         not HTTP, a time that is over come as closed() with a kind and a text.
 * Order:  per phone: client_open, then opened() or closed(); client_request, then answered() or
 *         closed(). After closed() the phone may be opened again at once, also inside the upcall.
 * Cost:   as io/loop; a parked phone is one POLL_ADD. */
#ifndef ROOST_BENCH_FLEET_CLIENT_H
#define ROOST_BENCH_FLEET_CLIENT_H

#include "bench/fleet/http_answer.h"
#include "io/loop.h"
#include "io/tls.h"

struct client;

enum { CLIENT_ADDRESSES_MAX = 16, CLIENT_WHY_BYTES = 256 };

struct client_options {
	const char *server_name; /* SNI, and the name a certificate must carry; NULL: none */
	bool tls;
	struct tls_client_options tls_options;            /* want_ticket: see client_session */
	struct sockaddr_storage to[CLIENT_ADDRESSES_MAX]; /* phones are spread over them */
	uint32_t to_count;
	/* Loopback only: phone i comes from 127.0.0.(2 + i / per_source), because one pair of
	 * addresses and one port carry some 28,000 connections. 0: the kernel chooses. */
	uint32_t phones_per_source;
	uint32_t phones_max;
	uint32_t spares_max;     /* more numbers behind phones_max, for client_move */
	uint32_t handshakes_max; /* connecting or shaking hands at a time; others wait in line */
	uint32_t open_timeout_s; /* connect and handshake together */
	bool reset_on_close;     /* RST: no TIME_WAIT eats the ports of the next round */
};

enum client_end {
	CLIENT_END_CONNECT, /* refused, unreachable */
	CLIENT_END_TLS,     /* handshake or record failed, certificate refused */
	CLIENT_END_HTTP,    /* what came is no answer */
	CLIENT_END_PEER,    /* the server closed or reset while nothing was outstanding */
	CLIENT_END_CUT,     /* the same while an answer was */
	CLIENT_END_TIMEOUT,
};
const char *client_end_name(enum client_end end);

struct client_events {
	/* Connected and, with TLS, detached: client_request may be called now. */
	void (*opened)(void *arg, uint32_t phone);
	/* The last byte of the request is with the kernel. */
	void (*sent)(void *arg, uint32_t phone);
	/* The whole answer; views die with the call. came_ns: CLOCK_MONOTONIC when its last bytes
	 * were read from the kernel. The phone may send the next request from here. */
	void (*answered)(void *arg, uint32_t phone, const struct http_answer *a, struct bytes body,
		uint64_t came_ns);
	/* Not HTTP, if not NULL: all bytes that came and were not taken yet come here, and answered()
	 * is never called. Returns how many were taken. May come before opened(), from a server that
	 * speaks first. The phone may client_say and client_close from here. */
	size_t (*bytes)(void *arg, uint32_t phone, const uint8_t *p, size_t n, uint64_t came_ns);
	void (*closed)(void *arg, uint32_t phone, enum client_end end, const char *why);
	void (*message)(void *arg, struct loop_msg *m); /* may be NULL */
	uint64_t (*tick)(void *arg, uint64_t now_ms);   /* may be NULL */
};

struct client *client_new(const struct client_options *o, const struct client_events *ev, void *arg,
	char *why, size_t why_bytes);
void client_free(struct client **c); /* not while client_run runs */
void client_run(struct client *c);   /* until client_stop */
void client_stop(struct client *c);
void client_post(struct client *c, struct loop_msg *m);

void client_open(struct client *c, uint32_t phone);
/* The same for a closed phone after a while, to a second. client_open and client_close end the wait. */
void client_open_later(struct client *c, uint32_t phone, uint64_t after_ms);
bool client_is_open(const struct client *c, uint32_t phone); /* opened and not closed */
/* CHECKs that the phone is open and has no answer outstanding. timeout_s 0: waits for ever. */
void client_request(struct client *c, uint32_t phone, struct bytes request, uint32_t timeout_s);
/* Where bytes() is set: sends, in order with what was said before. Any bytes that come end timeout_s
 * (0: none). */
void client_say(struct client *c, uint32_t phone, struct bytes what, uint32_t timeout_s);
/* Closes, without an upcall; a TLS close_notify goes before it unless reset_on_close. Fine for a
 * phone that is not open. */
void client_close(struct client *c, uint32_t phone);

/* The connection of phone `from`, open or waiting for an answer, is that of phone `to` from now on,
 * which must be closed; `from` can be opened again at once, and both are connected then. */
void client_move(struct client *c, uint32_t from, uint32_t to);
/* The phone's connection vanishes: the kernel drops what comes for it (loop_deafen). It stays open
 * until client_close. */
void client_deafen(struct client *c, uint32_t phone);

struct client_stats {
	uint32_t open, opening, queued;
	uint64_t connected; /* so far */
	uint64_t full_handshakes, resumed_handshakes;
};
void client_stats(const struct client *c, struct client_stats *out);
/* How the phone's connection is encrypted, for people; "" without TLS or before. */
const char *client_tls_text(const struct client *c, uint32_t phone);
/* With tls_options.want_ticket: all later handshakes resume the first session that had a ticket, until
 * the server does not take it any more; then the next one that comes. */
bool client_can_resume(const struct client *c);
/* Whether later handshakes do resume; they do at first. */
void client_set_resume(struct client *c, bool on);
uint64_t client_now_ms(const struct client *c);
/* User memory that one parked phone needs, for the tables. */
uint32_t client_phone_bytes(void);

#endif
