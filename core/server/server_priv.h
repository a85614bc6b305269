/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/server/server_priv.h - the inside of a server, for server.c and server_*.c only: what belongs to the
 * process' life and no shard looks at.
 * Thread: the main thread's, but for what is atomic or says whose mutex it is under; the threads of
 *         admin come in by server_admin.c. */
#ifndef ROOST_CORE_SERVER_PRIV_H
#define ROOST_CORE_SERVER_PRIV_H

#include "core/server/listeners.h"
#include "core/server/server.h"
#include "core/shard/shard.h"
#include "core/upgrade/upgrade.h"

#include "core/admin/admin.h"
#include "core/base/check.h"
#include "store/account.h"

enum { SERVER_CONFIGS_MAX = 4096 };

/* A shard's thread, and how its start went. */
struct shard_start {
	struct running *r;
	unsigned index;
	pthread_t thread;
	pid_t tid;
	char why[256];
};

/* An upgrade that somebody asked for over the control socket. */
struct upgrade_wish {
	pthread_mutex_t mutex; /* over all of it */
	pthread_cond_t cond;
	bool asked, drain, told;
	bool closed; /* main does none any more */
	struct admin_upgrade answer;
};

struct running {
	struct server server;
	/* configuration: server_reload.c */
	server_config_fn *source;
	void *source_arg;
	pthread_mutex_t reload_mutex;
	struct config *configs[SERVER_CONFIGS_MAX]; /* every one that was ever in force */
	unsigned config_count;
	/* threads: server.c */
	struct shard_start starts[SERVER_SHARDS_MAX];
	struct listeners listeners[SERVER_SHARDS_MAX]; /* by shard */
	unsigned threads;                              /* of shards, not joined yet */
	pthread_mutex_t begin_mutex;                   /* held while they are started */
	bool all_there;                                /* begin_mutex */
	pthread_barrier_t made, go, taken, run;
	_Atomic bool failed;
	_Atomic bool unmade; /* one of the shards could not be made */
	_Atomic bool ready;
	pthread_t writer_thread;
	bool writer_running;
	struct lmtp_server *lmtp;
	struct admin *admin;
	/* housekeeping: server_housekeeping.c */
	uint64_t housekeeping_ms, machine_ms;
	char prune_cursor[ACCOUNT_ADDRESS_MAX + 1];
	/* upgrades: server_upgrade.c */
	struct take_over *take;  /* from our predecessor, until it has gone */
	struct upgrade *upgrade; /* to our successor */
	uint64_t unshare_ms;     /* until then others may hold our sockets, as `take` says too */
	struct upgrade_wish wish;
};

/* server.c */
void server_join_shards(struct running *r); /* they end by themselves */
void server_take_down(struct running *r);   /* after that: closes and frees everything */

/* server_reload.c: takes the configuration; never fails */
void server_put_in_force(struct running *r, struct config *c);
/* Of the tickets in force, TLS_TICKET_SEED_BYTES; false: there is no TLS. */
bool server_ticket_seed(struct server *s, uint8_t *seed_out);

/* server_admin.c: what /metrics, /livez, /readyz and roostctl ask of this server */
struct admin_server server_admin_hooks(struct running *r);

/* server_upgrade.c */
/* On an admin thread: waits for what comes of it. */
bool server_ask_upgrade(
	struct running *r, bool drain, struct admin_upgrade *out, char *why, size_t why_bytes);
/* Who waits for an upgrade is told that there will be none: his thread is joined at the end. */
void server_refuse_upgrades(struct running *r);

#endif
