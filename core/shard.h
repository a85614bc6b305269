/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/shard.h - one thread's share of the phones, from outside: make, run, ask, drain.
 * Inside it is four files over one struct (shard_priv.h): shard.c (the loop's upcalls and messages),
 * conn.c (bytes and TLS and HTTP of a connection), request.c (one request: who, what, answer),
 * park.c (hanging requests: register, compare, park, wake).
 * Thread: shard_new and shard_run on the shard's own thread; shard_parked_ask and shard_drain from
 *         any thread. */
#ifndef ROOST_CORE_SHARD_H
#define ROOST_CORE_SHARD_H

#include "core/server.h"

#include "core/admin/admin.h"

enum listener_kind { LISTENER_HTTPS, LISTENER_HTTP };

/* Listening sockets are the server's; `kinds` says what each speaks. NULL with one line in why. */
struct shard *shard_new(struct server *server, unsigned index, const int *listeners,
	const enum listener_kind *kinds, unsigned listener_count, char *why, size_t why_bytes);
void shard_run(struct shard *s);  /* until drained or stopped */
void shard_free(struct shard **s);
/* Begins the drain: no new connections, parked requests answered, the rest finished; shard_run
 * returns when nothing is left, or at grace_ms at the latest. */
void shard_drain(struct shard *s, uint64_t grace_ms);
/* The policy changed: parked requests end, so that their phones meet it now. Any thread. */
void shard_policy_changed(struct shard *s);
/* Monotonic ms of the last turn, for /livez. */
uint64_t shard_last_tick_ms(const struct shard *s);
struct loop *shard_loop(struct shard *s);

/* A copy of the parked requests, made by the shard, waited for by the caller up to timeout_ms;
 * false: it did not answer (the copy is then freed by the shard when it does). */
struct shard_parked_list {
	struct admin_parked *v;
	size_t n;
};
bool shard_parked_ask(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t timeout_ms,
	struct shard_parked_list *out);
/* Invariants of waiters, wheel and slots agree. For tests and the simulation. */
bool shard_check(const struct shard *s);

#endif
