/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/shard/shard.h - one thread's share of the phones, from outside: make, run, ask, drain.
 * Inside it is these files over one struct (shard_priv.h):
 *   shard.c      the loop's upcalls, messages, life
 *   conn.c       a connection from accept to close; handshake.c TLS until it stands, conn_send.c bytes
 *                out, active.c the memory of a request under way
 *   request.c    one request: who asks for what; request_command.c on a worker, request_answer.c what is said
 *   hanging.c    Ping and Sync until they hang; park.c who waits and how long, changes.c whom a commit
 *                wakes, wake.c what he is told
 *   move.c       handing all of it over
 * Thread: shard_new, shard_import and shard_run on the shard's own thread; shard_parked_ask,
 *         shard_drain and shard_step from any thread. */
#ifndef ROOST_CORE_SHARD_H
#define ROOST_CORE_SHARD_H

#include "core/server/listeners.h"
#include "core/server/server.h"

#include "core/admin/admin.h"

/* The listening sockets stay the server's. NULL with one line in why. */
struct shard *shard_new(struct server *server, unsigned index, const struct listeners *listeners,
	char *why, size_t why_bytes);
void shard_run(struct shard *s); /* until drained or stopped */
void shard_free(struct shard **s);
/* Begins the drain: no new connections, parked requests answered, the rest finished; shard_run
 * returns when nothing is left, or at grace_ms at the latest. */
void shard_drain(struct shard *s, uint64_t grace_ms);
/* The policy changed: parked requests end, so that their phones meet it now. Any thread. */
void shard_policy_changed(struct shard *s);
/* Monotonic ms of the last turn, for /livez. */
uint64_t shard_last_tick_ms(const struct shard *s);
struct loop *shard_loop(struct shard *s);
unsigned shard_index(const struct shard *s);

/* A copy of the parked requests, made by the shard, waited for by the caller up to timeout_ms;
 * false: it did not answer (the copy is then freed by the shard when it does). */
struct shard_parked_list {
	struct admin_parked *v;
	size_t n;
};
bool shard_parked_ask(struct shard *s, uint32_t mailbox, uint32_t device, uint64_t timeout_ms,
	struct shard_parked_list *out);
/* ---- upgrade: the connections go to another process (core/upgrade/upgrade.h has the whole order) ----
 *
 * Steps of the old process, each given to all shards and waited for before the next: COPY, as often
 * as it pays, while everything goes on; QUIET, FREEZE, EXPORT; then LEAVE when the other process
 * serves, or RESUME. */
enum shard_step { SHARD_COPY, SHARD_QUIET, SHARD_FREEZE, SHARD_EXPORT, SHARD_RESUME, SHARD_LEAVE };

struct handover_escrow;
struct handover_reader;
struct shard_move {
	void *arg;
	/* On the shard's thread, once per step: it is done. */
	void (*done)(struct shard_move *m);
	struct handover_escrow *const *escrows; /* by ring */
	unsigned escrow_count;
	uint64_t grace_ms; /* LEAVE: what stays may take this long */
	uint64_t pace_ms;  /* LEAVE: requests that hang here still are ended over this time */
	/* set by COPY and EXPORT: slots (4 bytes each) whose sockets are in the escrows now, beside
	 * those of the steps before */
	struct buf copied;
	uint32_t open; /* connections there are */
	/* of EXPORT: core/upgrade/handover_state.h, secrets. From handover_memory_make, with room for what
	 * is expected; EXPORT makes another where that is too small. */
	int memory_fd; /* negative: none, or -errno */
	uint8_t *memory;
	size_t memory_room, memory_used;
	uint32_t moved, parked;
	uint32_t left;   /* connections that stay */
	uint32_t failed; /* of those, what the kernel refused to copy */
	int failed_err;
};
/* `m` must live until done(); for RESUME and LEAVE, which nobody waits for, done() may be NULL. */
void shard_step(struct shard *s, enum shard_step step, struct shard_move *m);

/* The new process' side of one shard of the old one. Plain data; the caller's. */
struct shard_copies {
	struct handover_escrow *const *escrows;
	uint32_t ring_conns,
		theirs_max; /* of the old shard: slots per escrow, and in all of them */
	uint32_t *ours;     /* by their slot: ours + 1, or 0 */
	uint32_t held;      /* of those, not 0 */
};
/* Takes sockets out of the escrows, before shard_run; of those that were taken before under the same
 * slot, the new one. Slowly, unless in a hurry: somebody else serves meanwhile. */
bool shard_pull(struct shard *s, struct shard_copies *c, const uint32_t *theirs, size_t n,
	bool hurry, char *why, size_t why_bytes);
/* Takes connections over whose sockets were pulled, before shard_run. All of them, or false with why;
 * the shard is of no use then. Lets go of other sockets. Adds to the counts. */
bool shard_import(struct shard *s, struct handover_reader *r, struct shard_copies *c,
	uint32_t *moved, uint32_t *parked, char *why, size_t why_bytes);

/* Invariants of waiters, wheel and slots agree. For tests and the simulation. */
bool shard_check(const struct shard *s);

#endif
