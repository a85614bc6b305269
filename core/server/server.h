/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/server/server.h - what all shards of a process share, and the life of the process: start, reload,
 * upgrade, drain, stop. No hot-path state: a shard only reads it.
 * Thread: server_new, server_start, server_reload, server_drain, server_free on the main thread
 *         (reload and drain may also be asked for by admin's thread: they are serialized).
 * Memory: configurations and TLS contexts that a reload replaces live until their last user is
 *         done (TLS) or until the server ends (configurations: a few KB each). */
#ifndef ROOST_CORE_SERVER_H
#define ROOST_CORE_SERVER_H

#include "core/config/config.h"
#include "core/eas/eas.h"

#include <pthread.h>
#include <stdatomic.h>

struct admin;
struct credentials;
struct db;
struct lmtp_server;
struct presence;
struct shard;
struct tls_ctx;
struct work_pool;
struct writer;

enum { SERVER_SHARDS_MAX = 64 };

struct server {
	_Atomic(const struct config *) config; /* in force now */
	_Atomic(struct tls_ctx *) tls;         /* shards take references under tls_mutex */
	pthread_mutex_t tls_mutex;
	struct db *db;
	struct writer *writer;
	struct credentials *credentials;
	struct work_pool *workers;
	struct presence *presence;
	uint64_t id_seed;               /* request ids of this process */
	_Atomic int64_t wall_offset_ms; /* wall clock minus the loops' monotonic clock */
	_Atomic uint32_t policy_generation;
	_Atomic bool draining;
	_Atomic bool memory_freed; /* by a shard, after a burst: the allocator may give it back */
	struct shard *shards[SERVER_SHARDS_MAX];
	unsigned shard_count;
};

/* NULL with one line in why. `source` builds the configuration anew at each reload (NULL with why
 * when it is wrong); the server owns what it returns. */
typedef struct config *server_config_fn(void *arg, char *why, size_t why_bytes);
struct take_over;
/* `take` (or NULL): an upgrade, whose connections, listeners and lock come along; the server's from
 * now on, also when it fails. */
struct server *server_start(
	server_config_fn *source, void *arg, struct take_over *take, char *why, size_t why_bytes);
/* Certificates, policy, limits and log level of a configuration read anew; what was in force
 * stays when it is wrong. Listeners, store and thread counts need a restart. */
bool server_reload(struct server *s, char *why, size_t why_bytes);
/* Ends what is under way in an orderly way, closes the store, frees everything. */
void server_stop(struct server **s);
/* An upgrade (core/upgrade/upgrade.h): starts `program` and hands everything over. True: it serves, and
 * server_leave is next. False: nothing has changed, and the log says why. Whoever asked for it over
 * the control socket is told. */
struct upgrade_result;
bool server_upgrade(struct server *s, const char *program, char *const *arguments,
	void (*alive)(void), struct upgrade_result *out);
/* As server_stop, after that: finishes only what could not be handed over. */
void server_leave(struct server **s);
/* Now and then, on the main thread: clocks, stale readers, old journal rows. False: the store is
 * lost to this process (DB_LOST); it should end, to be started again. */
bool server_housekeeping(struct server *s);

/* Today's context for commands (values, cheap to make per request). */
struct eas_context server_eas(struct server *s);
/* A reference to the TLS context in force; NULL when there is none. */
struct tls_ctx *server_tls(struct server *s);

#endif
