/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/upgrade/upgrade.h - a new program takes the place of the running one, with every connection.
 *
 *   old                                       new
 *   starts the program with --take-over FD
 *   HELLO, SOCKET..., ESCROW..., GO     -->   reads its configuration, opens the store, makes its
 *                                             shards on the inherited listeners, accepts nothing
 *                                       <--   READY, with the format of state that it reads
 *   CREDENTIALS                         -->   remembers the passwords that were verified
 *   all shards: COPY, a few times
 *   COPIED for each shard, COPIED_ALL   -->   pulls the sockets out of the escrows
 *                                       <--   COPIED_ALL
 *   all shards: QUIET, FREEZE, EXPORT
 *   COPIED and STATE for each shard,    -->   pulls the rest, checks all of it, restores
 *   MOVED                                     connections, requests, deadlines
 *                                       <--   SERVING, then runs
 *   all shards: LEAVE; ends when what was
 *   under way is finished                     (end of file: the sockets are ours alone)
 *
 * Until SERVING the old process owns everything, and up to FREEZE it serves as ever; should anything
 * fail, it kills the new one, waits until it is gone, and goes on. So a connection is never driven
 * by two. A socket is copied long before that, whatever its connection is doing: the copy is a
 * reference that nobody uses. What makes a copy good is that the old shard says so in the end, by
 * writing the connection down; it does so for copies of that very connection only, since it forgets
 * a slot's copy when the slot is closed. Copies of which nothing is said are dropped. From the first
 * copy on the old process closes with a shutdown (loop_set_shared), as the new one does until it is
 * alone, so that the peer hears of it at once.
 * Nothing is missed meanwhile: waiters come with the journal number up to which they have been
 * shown everything, and a shard begins with the rows after it.
 * Listening sockets are the same ones in both processes: who connects in between waits in their
 * backlog.
 *
 * The old process is core/upgrade/upgrade.c, the new one core/upgrade/take_over.c, what they say core/upgrade/upgrade_message.h.
 * Thread: the main thread of each process, but for take_over_pull and take_over_import.
 * Memory: TLS keys pass through one memfd per shard, the seed of ticket keys and verified
 *         credentials through one each; all wiped.
 * Errors: false with one line.
 * Cost:   the pause grows with the connections of a shard, all shards in parallel; copying before it is
 *         done in slices. `make bench-upgrade` shows both. */
#ifndef ROOST_CORE_UPGRADE_H
#define ROOST_CORE_UPGRADE_H

#include "core/base/sockets.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct server;
struct shard;

struct upgrade_result {
	pid_t pid;                    /* of the new process */
	uint32_t connections, parked; /* handed over */
	uint32_t left;                /* finished here */
	uint32_t pause_us;            /* no phone was woken for this long: */
	uint32_t export_us;           /* of that, until all was written down here, */
	uint32_t restore_us;          /* and until the new process had it */
	uint32_t quiet_us;            /* before it, nothing new was begun for this long */
	uint32_t copy_ms;             /* before that, sockets were copied */
	uint32_t start_ms;            /* from the program's start until it was ready */
	char version[64];
};

/* ---- the old process ---- */

struct upgrade;
struct upgrade_options {
	const char *program;
	char *const *arguments; /* without argv[0] and --take-over; NULL at the end */
	const struct socket_list *sockets;
	const uint8_t *ticket_seed; /* TLS_TICKET_SEED_BYTES, or NULL */
	uint32_t shared_ms;         /* not 0: our own predecessor may hold sockets for this long */
	uint32_t start_ms;          /* the new program must be ready within */
	uint64_t grace_ms;          /* what is finished here may take this long */
	uint64_t pace_ms;    /* not 0: a program that cannot read our state serves without it, and
			    * the requests that hang here end over this time */
	void (*alive)(void); /* called now and then while waiting */
};
/* True: the new process serves, and upgrade_leave must follow. False: all is as before. */
bool upgrade_hand_over(struct server *s, const struct upgrade_options *o, struct upgrade **u_out,
	struct upgrade_result *out, char *why, size_t why_bytes);
/* Tells the shards to let go; they end by themselves. */
void upgrade_leave(struct server *s, struct upgrade *u);
/* After the shards have ended. */
void upgrade_free(struct upgrade **u);

/* ---- the new process ---- */

struct take_over;
/* Reads what the old process says at first. */
struct take_over *take_over_begin(int fd, char *why, size_t why_bytes);
struct socket_list *take_over_sockets(struct take_over *t);
/* The seed of the ticket keys, or NULL. */
const uint8_t *take_over_ticket_seed(const struct take_over *t);
struct credentials;
/* Says READY and waits for everything, while the shards pull what comes. The memory of verified
 * passwords goes into `credentials` at once. */
bool take_over_receive(
	struct take_over *t, struct credentials *credentials, char *why, size_t why_bytes);
/* Meanwhile, on each shard's thread: takes its sockets as they come. Returns when take_over_receive
 * does; take_over_import tells of failures. */
void take_over_pull(struct take_over *t, struct shard *s, unsigned shards);
/* What the connections bring along for all shards. */
uint64_t take_over_order(const struct take_over *t);
bool take_over_policy_differs(const struct take_over *t, uint32_t generation);
/* This shard's part, on its own thread, before shard_run. */
bool take_over_import(
	struct take_over *t, struct shard *s, unsigned shards, char *why, size_t why_bytes);
/* From here on the connections are ours; false: not all are there. */
bool take_over_serving(struct take_over *t, char *why, size_t why_bytes);
/* When the shards run: lets go of what only the taking needed. */
void take_over_running(struct take_over *t);
/* True when the old process has gone. */
bool take_over_alone(struct take_over *t);
/* With why: tells the old process. */
void take_over_free(struct take_over **t, const char *why);

#endif
