/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The life of a server process: opens store and listeners, starts threads, reloads, drains. */
#include "core/server.h"

#include "core/access/credentials.h"
#include "core/address.h"
#include "core/admin/admin.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/eas/message.h"
#include "core/feed/lmtp.h"
#include "core/keepalive.h"
#include "core/machine.h"
#include "core/push/presence.h"
#include "core/shard.h"
#include "core/upgrade.h"
#include "core/version.h"
#include "core/work.h"
#include "io/loop.h"
#include "io/tls.h"
#include "store/db.h"
#include "store/mailbox.h"
#include "store/account.h"
#include "store/writer.h"

#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
	LISTENERS_MAX = 16,
	/* (a loop has no more) */ CONFIGS_MAX = 4096,
	HOUSEKEEPING_MS = 2000,
	BIND_PATIENCE_MS = 30 * 1000,
	MACHINE_MS = 30 * 1000,
	MACHINE_QUIET_MS = 600 * 1000,
	UNSHARE_MS = 3000,
	LEAVE_NICE = 10,
	PRUNE_LOOKS = 200,
	PRUNE_ROWS = 1000
};

struct shard_start {
	struct running *r;
	unsigned index;
	pthread_t thread;
	pid_t tid;
	int listeners[LISTENERS_MAX];
	enum listener_kind kinds[LISTENERS_MAX];
	const char *texts[LISTENERS_MAX]; /* of the configuration that was in force at the start */
	unsigned listener_count;
	char why[256];
};

/* What only the process' main thread needs. */
struct running {
	struct server server;
	server_config_fn *source;
	void *source_arg;
	pthread_mutex_t reload_mutex;
	struct config *configs[CONFIGS_MAX]; /* every configuration that was ever in force */
	unsigned config_count;
	struct shard_start *starts;
	pthread_barrier_t made, go, taken, run;
	struct take_over *take;
	_Atomic bool failed;
	_Atomic bool unmade; /* one of the shards could not be made */
	pthread_t writer_thread;
	bool writer_running;
	unsigned shards_running;
	struct lmtp_server *lmtp;
	struct admin *admin;
	_Atomic bool ready;
	uint64_t housekeeping_ms, machine_ms;
	uint64_t unshare_ms; /* until then others may hold our sockets, as r->take says too */
	char prune_cursor[ACCOUNT_ADDRESS_MAX + 1];
	pthread_mutex_t upgrade_mutex;
	pthread_cond_t upgrade_cond;
	bool upgrade_asked, upgrade_drain, upgrade_told; /* upgrade_mutex */
	bool upgrade_closed;                             /* likewise: main does none any more */
	struct admin_upgrade upgrade_answer;             /* likewise */
	struct upgrade *upgrade;                         /* handed over */
};

struct eas_context server_eas(struct server *s)
{
	/* First: put_in_force writes it last, so a new generation never comes with the old policy,
	 * and no device is noted as holding a policy that it was not sent. */
	uint32_t generation = atomic_load_explicit(&s->policy_generation, memory_order_acquire);

	return (struct eas_context){
		.db = s->db,
		.writer = s->writer,
		.config = atomic_load_explicit(&s->config, memory_order_acquire),
		.policy_generation = generation,
	};
}

struct tls_ctx *server_tls(struct server *s)
{
	struct tls_ctx *c;

	pthread_mutex_lock(&s->tls_mutex);
	c = atomic_load(&s->tls);
	if (c)
		c = tls_ctx_ref(c);
	pthread_mutex_unlock(&s->tls_mutex);
	return c;
}

/* ---- TLS --------------------------------------------------------------------------------------
 */

/* "certificate:key" -> two strings in place. */
static bool split_pair(char *text, struct tls_pair *out)
{
	char *colon = strchr(text, ':');

	if (!colon)
		return false;
	*colon = 0;
	out->certificate_file = text;
	out->key_file = colon + 1;
	return true;
}

/* ticket_seed: of the context that this one follows, here or in another process, or NULL. Its tickets
 * stay good: neither a new certificate nor a new version must cost every phone a full handshake. */
static bool load_tls(const struct config *c, const uint8_t *ticket_seed, struct tls_ctx **out,
	char *why, size_t why_bytes)
{
	struct tls_pair pairs[1 + 64];
	char *copies[64], cert[4096], key[4096], host[256] = "localhost";
	const char *names[] = {host};
	size_t n = 0, copied = 0;
	struct tls_options o = {
		.ticket_rotate_s = (uint32_t)c->tls_ticket_rotate_s,
		.ticket_seed = ticket_seed,
	};

	*out = NULL;
	if (c->tls_pairs.n > ARRAY_LEN(copies)) {
		snprintf(why, why_bytes, "tls.pairs: more than %zu", ARRAY_LEN(copies));
		return false;
	}
	if (c->tls_certificate[0])
		pairs[n++] = (struct tls_pair){c->tls_certificate, c->tls_key};
	for (size_t i = 0; i < c->tls_pairs.n && copied < ARRAY_LEN(copies); i++) {
		copies[copied] = strdup(c->tls_pairs.v[i]);
		CHECK(copies[copied]);
		if (split_pair(copies[copied++], &pairs[n]))
			n++;
	}
	if (n == 0 && c->tls_self_signed) {
		gethostname(host, sizeof(host) - 1);
		snprintf(cert, sizeof(cert), "%s/self-signed.pem", c->store_dir);
		snprintf(key, sizeof(key), "%s/self-signed.key", c->store_dir);
		if (!tls_self_signed(cert, key, names, 1, clock_wall_ms(), why, why_bytes))
			goto out;
		pairs[n++] = (struct tls_pair){cert, key};
	}
	if (n == 0) {
		snprintf(why, why_bytes,
			"listen.https needs a certificate: set tls.certificate and tls.key, or "
			"tls.self_signed (--self-signed)");
		goto out;
	}
	o.pairs = pairs;
	o.pair_count = n;
	*out = tls_server_new(&o, why, why_bytes);
out:
	for (size_t i = 0; i < copied; i++)
		free(copies[i]);
	return *out != NULL;
}

static bool ticket_seed(struct server *s, uint8_t seed_out[TLS_TICKET_SEED_BYTES])
{
	struct tls_ctx *c = server_tls(s);
	bool has = c != NULL;

	if (has)
		tls_ctx_ticket_seed(c, seed_out);
	tls_ctx_unref(&c);
	return has;
}

/* ---- listeners
 * ----------------------------------------------------------------------------------- */

static void set_int(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

static const char *const kind_words[] = {[LISTENER_HTTPS] = "https", [LISTENER_HTTP] = "http"};

static bool start_listener(
	struct shard_start *st, int fd, enum listener_kind kind, const char *text)
{
	if (st->listener_count == LISTENERS_MAX)
		return false;
	st->listeners[st->listener_count] = fd;
	st->kinds[st->listener_count] = kind;
	st->texts[st->listener_count++] = text;
	return true;
}

static void set_options(int fd, const struct config *c)
{
	set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_int(fd, SOL_SOCKET, SO_KEEPALIVE, c->http_tcp_keepalive_s != 0);
	if (c->http_tcp_keepalive_s)
		keepalive_set(fd, c->http_tcp_keepalive_s, randombytes_random());
	set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)c->http_tcp_user_timeout_s * 1000);
}

/* The sockets of this address that came with an upgrade, dealt out to the shards: each has its own
 * queue of connections, so none may be forgotten. False: a shard has no room. */
static bool inherit(struct running *r, const char *text, enum listener_kind kind,
	const struct config *c, unsigned *count_out, struct sockaddr_storage *ss_out,
	socklen_t *len)
{
	struct socket_list *l = take_over_sockets(r->take);
	int fd;

	for (*count_out = 0; (fd = sockets_take(l, kind_words[kind], text)) >= 0; ++*count_out) {
		*len = sizeof(*ss_out);
		getsockname(fd, (struct sockaddr *)ss_out, len);
		set_options(fd, c);
		if (!start_listener(
			    &r->starts[*count_out % r->server.shard_count], fd, kind, text)) {
			close(fd);
			return false;
		}
	}
	return true;
}

/* The kernel takes a killed process's rings apart after its end is known: with hundreds of thousands of
 * connections its listeners hold the address for seconds. */
static bool bind_patiently(struct running *r, int fd, const struct sockaddr_storage *ss,
	socklen_t len, const char *text)
{
	uint64_t until_ms = clock_mono_ms() + (db_left_open(r->server.db) ? BIND_PATIENCE_MS : 0);
	const struct timespec pause = {.tv_nsec = 50 * 1000000};
	bool said = false;
	sigset_t pending;

	while (bind(fd, (const struct sockaddr *)ss, len)) {
		int err = errno;

		sigpending(&pending);
		if (err != EADDRINUSE || clock_mono_ms() >= until_ms ||
			sigismember(&pending, SIGTERM) || sigismember(&pending, SIGINT)) {
			errno = err;
			return false;
		}
		if (!said)
			log_msg(LOG_WARNING,
				"listen: %s is still in use by what was killed: trying for %d s",
				text, BIND_PATIENCE_MS / 1000);
		said = true;
		nanosleep(&pause, NULL);
	}
	return true;
}

/* A socket of this address for each shard: the kernel spreads connections over them. */
static bool listen_on(struct running *r, const char *text, enum listener_kind kind,
	const struct config *c, char *why, size_t why_bytes)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int probe;
	unsigned have;
	char shown[ADDRESS_TEXT_BYTES], cause[160];

	if (!address_parse(text, ADDRESS_TCP, &ss, &len, cause, sizeof(cause))) {
		snprintf(why, why_bytes, "listen: %s: %s", text, cause);
		return false;
	}
	if (!inherit(r, text, kind, c, &have, &ss, &len))
		goto too_many;
	/* With SO_REUSEPORT alone a second server of the same user would get half of the phones
	 * instead of an error. */
	probe = have ? -1 : socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (probe >= 0)
		set_int(probe, SOL_SOCKET, SO_REUSEADDR, 1);
	if (!have && (probe < 0 || !bind_patiently(r, probe, &ss, len, text))) {
		snprintf(why, why_bytes, "listen: %s: %s", text, strerror(errno));
		if (probe >= 0)
			close(probe);
		return false;
	}
	if (probe >= 0)
		close(probe);
	for (unsigned i = have; i < r->server.shard_count; i++) {
		int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0) {
			snprintf(why, why_bytes, "listen: %s: %s", text, strerror(errno));
			return false;
		}
		if (!start_listener(&r->starts[i], fd, kind, text)) {
			close(fd);
			goto too_many;
		}
		set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
		set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
		set_options(fd, c);
		if (bind(fd, (struct sockaddr *)&ss, len) || listen(fd, 65535)) {
			snprintf(why, why_bytes, "listen: %s: %s", text, strerror(errno));
			return false;
		}
		/* Port 0: the others take the one that the first was given. */
		len = sizeof(ss);
		getsockname(fd, (struct sockaddr *)&ss, &len);
	}
	address_format((struct sockaddr *)&ss, len, shown);
	log_msg(LOG_INFO, "listening kind=%s address=%s", kind == LISTENER_HTTPS ? "https" : "http",
		shown);
	return true;
too_many:
	snprintf(why, why_bytes, "more than %d addresses to listen on", LISTENERS_MAX);
	return false;
}

static void close_listeners(struct running *r)
{
	for (unsigned i = 0; r->starts && i < r->server.shard_count; i++)
		while (r->starts[i].listener_count)
			close(r->starts[i].listeners[--r->starts[i].listener_count]);
}

/* ---- threads
 * ---------------------------------------------------------------------------------------- */

static void *shard_thread(void *arg)
{
	struct shard_start *st = arg;
	struct running *r = st->r;
	struct shard *s;
	char name[16];

	st->tid = gettid();
	snprintf(name, sizeof(name), "shard-%u", st->index);
	pthread_setname_np(pthread_self(), name);
	s = shard_new(&r->server, st->index, st->listeners, st->kinds, st->listener_count, st->why,
		sizeof(st->why));
	if (!s)
		atomic_store(&r->failed, true);
	r->server.shards[st->index] = s;
	if (!s)
		atomic_store(&r->unmade, true);
	/* Everybody is made, or nobody runs. */
	pthread_barrier_wait(&r->made);
	if (r->take && !r->unmade)
		take_over_pull(r->take, s, r->server.shard_count);
	pthread_barrier_wait(&r->go);
	if (r->take && !atomic_load(&r->failed) &&
		!take_over_import(r->take, s, r->server.shard_count, st->why, sizeof(st->why)))
		atomic_store(&r->failed, true);
	pthread_barrier_wait(&r->taken);
	pthread_barrier_wait(&r->run);
	if (!atomic_load(&r->failed))
		shard_run(s);
	/* Another shard's last message may still name this one: freed when all have ended. */
	return NULL;
}

static void *writer_thread(void *arg)
{
	pthread_setname_np(pthread_self(), "writer");
	while (writer_step(arg, true))
		;
	return NULL;
}

/* ---- what admin asks
 * --------------------------------------------------------------------------------- */

static unsigned admin_parked(void *arg, uint32_t mailbox, uint32_t device,
	void (*one)(void *ctx, const struct admin_parked *p), void *ctx)
{
	struct running *r = arg;
	unsigned silent = 0;

	for (unsigned i = 0; i < r->server.shard_count; i++) {
		struct shard_parked_list list;

		if (!shard_parked_ask(r->server.shards[i], mailbox, device, 2000, &list)) {
			silent++;
			continue;
		}
		for (size_t k = 0; k < list.n; k++)
			one(ctx, &list.v[k]);
		free(list.v);
	}
	return silent;
}

static bool admin_ready(void *arg, const char **why_out)
{
	struct running *r = arg;

	if (atomic_load(&r->server.draining)) {
		*why_out = "draining";
		return false;
	}
	*why_out = "starting";
	return atomic_load(&r->ready);
}

static bool admin_live(void *arg, const char **why_out)
{
	struct running *r = arg;
	uint64_t now = clock_mono_ms();

	for (unsigned i = 0; i < r->server.shard_count; i++)
		if (r->server.shards[i] && shard_last_tick_ms(r->server.shards[i]) + 5000 < now) {
			*why_out = "a shard has not turned for 5 s";
			return false;
		}
	return true;
}

static int64_t admin_expiry(void *arg)
{
	struct running *r = arg;
	struct tls_ctx *c = server_tls(&r->server);
	int64_t s = c ? tls_ctx_expiry_s(c, clock_wall_ms()) : INT64_MAX;

	tls_ctx_unref(&c);
	return s;
}

static unsigned admin_shards(void *arg)
{
	return ((struct running *)arg)->server.shard_count;
}

static bool admin_reload(void *arg, char *why, size_t why_bytes)
{
	return server_reload(&((struct running *)arg)->server, why, why_bytes);
}

/* Main does it, since it is the one that ends; this thread waits for what comes of it. */
static bool admin_ask_upgrade(
	void *arg, bool drain, struct admin_upgrade *out, char *why, size_t why_bytes)
{
	struct running *r = arg;
	bool ok = false;

	pthread_mutex_lock(&r->upgrade_mutex);
	if (r->upgrade_asked || r->upgrade_closed) {
		snprintf(why, why_bytes, "%s",
			r->upgrade_closed ? "the server is stopping"
					  : "an upgrade is under way already");
		goto out;
	}
	r->upgrade_asked = true;
	r->upgrade_drain = drain;
	r->upgrade_told = false;
	kill(getpid(), SIGUSR2);
	while (!r->upgrade_told)
		pthread_cond_wait(&r->upgrade_cond, &r->upgrade_mutex);
	ok = r->upgrade_answer.pid != 0;
	*out = r->upgrade_answer;
	if (!ok)
		snprintf(why, why_bytes, "%s", r->upgrade_answer.why);
out:
	pthread_mutex_unlock(&r->upgrade_mutex);
	return ok;
}

static void admin_ask_stop(void *arg)
{
	(void)arg;
	kill(getpid(), SIGTERM);
}

/* ---- life
 * --------------------------------------------------------------------------------------------- */

static void put_in_force(struct running *r, struct config *c)
{
	enum log_level level;

	r->configs[r->config_count++] = c;
	atomic_store(&r->server.config, c);
	atomic_store(&r->server.policy_generation, eas_policy_generation(c));
	if (log_level_parse(c->log_level, &level))
		log_set_level(level);
}

bool server_reload(struct server *s, char *why, size_t why_bytes)
{
	struct running *r = container_of(s, struct running, server);
	struct config *c;
	struct tls_ctx *tls = NULL, *old;
	uint8_t seed[TLS_TICKET_SEED_BYTES];
	uint32_t before;
	bool ok = false, has_seed;

	pthread_mutex_lock(&r->reload_mutex);
	if (r->config_count == CONFIGS_MAX) {
		snprintf(why, why_bytes, "reloaded %d times: restart", CONFIGS_MAX);
		goto out;
	}
	c = r->source(r->source_arg, why, why_bytes);
	if (!c)
		goto out;
	has_seed = ticket_seed(s, seed);
	if (c->listen_https.n && !load_tls(c, has_seed ? seed : NULL, &tls, why, why_bytes)) {
		config_free(&c);
		goto out;
	}
	before = atomic_load(&s->policy_generation);
	put_in_force(r, c);
	if (tls) {
		pthread_mutex_lock(&s->tls_mutex);
		old = atomic_exchange(&s->tls, tls);
		pthread_mutex_unlock(&s->tls_mutex);
		tls_ctx_unref(&old);
	}
	if (before != atomic_load(&s->policy_generation))
		for (unsigned i = 0; i < s->shard_count; i++)
			shard_policy_changed(s->shards[i]);
	ok = true;
out:
	explicit_bzero(seed, sizeof(seed));
	pthread_mutex_unlock(&r->reload_mutex);
	log_msg(ok ? LOG_INFO : LOG_WARNING, "reload: %s", ok ? "done" : why);
	return ok;
}

static void take_down(struct running *r)
{
	struct server *s = &r->server;

	if (r->admin)
		admin_stop(&r->admin);
	if (r->lmtp)
		lmtp_server_stop(&r->lmtp);
	take_over_free(&r->take, NULL);
	upgrade_free(&r->upgrade);
	if (s->workers)
		work_pool_free(&s->workers);
	if (s->credentials)
		credentials_free(&s->credentials);
	/* Shards before the writer: they hand it notes. */
	for (unsigned i = 0; i < s->shard_count; i++)
		if (s->shards[i])
			shard_free(&s->shards[i]);
	if (s->writer) {
		writer_stop(s->writer);
		if (r->writer_running)
			pthread_join(r->writer_thread, NULL);
		writer_free(&s->writer);
	}
	close_listeners(r);
	if (s->presence)
		presence_free(&s->presence);
	if (s->db)
		db_close(&s->db);
	if (s->tls) {
		struct tls_ctx *c = atomic_load(&s->tls);

		tls_ctx_unref(&c);
	}
	for (unsigned i = 0; i < r->config_count; i++)
		config_free(&r->configs[i]);
	free(r->starts);
	free(r);
}

static void say_if_too_small(const struct config *c)
{
	struct machine_limits m;
	char why[256];

	machine_read("/proc", &m);
	if (machine_too_small(&m, (uint64_t)c->core_connections_max, why, sizeof(why)))
		log_msg(LOG_INFO, "machine: %s", why);
}

struct server *server_start(
	server_config_fn *source, void *arg, struct take_over *take, char *why, size_t why_bytes)
{
	struct running *r = calloc(1, sizeof(*r));
	struct server *s = &r->server;
	struct config *c;
	struct db_options o = {.server = true, .create = true};
	struct admin_server hooks = {
		.arg = r,
		.parked = admin_parked,
		.ready = admin_ready,
		.live = admin_live,
		.certificate_expiry_s = admin_expiry,
		.shards = admin_shards,
		.reload = admin_reload,
		.stop = admin_ask_stop,
		.upgrade = admin_ask_upgrade,
	};
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	struct tls_ctx *tls = NULL;
	bool shards_failed;
	int lock_fd;

	CHECK(r);
	r->take = take;
	pthread_mutex_init(&r->upgrade_mutex, NULL);
	pthread_cond_init(&r->upgrade_cond, NULL);
	r->source = source;
	r->source_arg = arg;
	pthread_mutex_init(&r->reload_mutex, NULL);
	pthread_mutex_init(&s->tls_mutex, NULL);
	if (sodium_init() < 0) {
		snprintf(why, why_bytes, "libsodium cannot be set up");
		goto fail;
	}
	message_init();
	randombytes_buf(&s->id_seed, sizeof(s->id_seed));
	c = source(arg, why, why_bytes);
	if (!c)
		goto fail;
	put_in_force(r, c);
	say_if_too_small(c);
	o.dir = c->store_dir;
	o.map_bytes = (uint64_t)c->store_map_mib << 20;
	o.map_bytes_max = (uint64_t)c->store_map_max_mib << 20;
	lock_fd = sockets_take(take_over_sockets(take), "lock", "");
	if (lock_fd > 0)
		o.lock_fd = lock_fd;
	if (db_open(&o, &s->db, why, why_bytes))
		goto fail;
	if (c->listen_https.n && !load_tls(c, take_over_ticket_seed(take), &tls, why, why_bytes))
		goto fail;
	atomic_store(&s->tls, tls);
	s->credentials = credentials_new(c, s->db, why, why_bytes);
	if (!s->credentials)
		goto fail;
	if (cores < 1)
		cores = 1;
	s->shard_count = c->core_shards ? (unsigned)c->core_shards : (unsigned)cores;
	if (s->shard_count > SERVER_SHARDS_MAX)
		s->shard_count = SERVER_SHARDS_MAX;
	s->presence = presence_new();
	atomic_store(&s->wall_offset_ms, (int64_t)clock_wall_ms() - (int64_t)clock_mono_ms());
	s->writer = writer_new(s->db, false);
	r->writer_running = pthread_create(&r->writer_thread, NULL, writer_thread, s->writer) == 0;
	if (!r->writer_running) {
		snprintf(why, why_bytes, "cannot start the writer's thread");
		goto fail;
	}
	s->workers =
		work_pool_new(c->core_workers ? (unsigned)c->core_workers : 8 * (unsigned)cores,
			(size_t)c->core_work_queue_max);
	if (!s->workers) {
		snprintf(why, why_bytes,
			"cannot start the worker threads (core.workers): %s; raise TasksMax= of "
			"the unit, "
			"ulimit -u or the container's pids limit",
			strerror(errno));
		goto fail;
	}
	r->starts = calloc(s->shard_count, sizeof(*r->starts));
	CHECK(r->starts);
	for (size_t i = 0; i < c->listen_https.n; i++)
		if (!listen_on(r, c->listen_https.v[i], LISTENER_HTTPS, c, why, why_bytes))
			goto fail;
	for (size_t i = 0; i < c->listen_http.n; i++)
		if (!listen_on(r, c->listen_http.v[i], LISTENER_HTTP, c, why, why_bytes))
			goto fail;
	pthread_barrier_init(&r->made, NULL, s->shard_count + 1);
	pthread_barrier_init(&r->go, NULL, s->shard_count + 1);
	pthread_barrier_init(&r->taken, NULL, s->shard_count + 1);
	pthread_barrier_init(&r->run, NULL, s->shard_count + 1);
	for (unsigned i = 0; i < s->shard_count; i++) {
		r->starts[i].r = r;
		r->starts[i].index = i;
		CHECK(pthread_create(&r->starts[i].thread, NULL, shard_thread, &r->starts[i]) == 0);
	}
	pthread_barrier_wait(&r->made);
	shards_failed = atomic_load(&r->failed);
	/* In the end of this the old process stands still: nothing that takes time from here on. */
	if (take && !shards_failed) {
		if (take_over_receive(take, s->credentials, why, why_bytes))
			presence_continue(s->presence, take_over_order(take));
		else
			atomic_store(&r->failed, true);
	}
	pthread_barrier_wait(&r->go);
	pthread_barrier_wait(&r->taken);
	if (!atomic_load(&r->failed)) {
		r->lmtp = c->listen_lmtp.n ? lmtp_server_start_with(c, s->db, s->writer,
						     take_over_sockets(take), why, why_bytes)
					   : NULL;
		if (c->listen_lmtp.n && !r->lmtp)
			atomic_store(&r->failed, true);
	}
	if (!atomic_load(&r->failed)) {
		r->admin = admin_start(c, s->db, &hooks, take_over_sockets(take), why, why_bytes);
		if (!r->admin)
			atomic_store(&r->failed, true);
	}
	/* Before anything moves: see upgrade.h about who owns what. */
	if (take && !atomic_load(&r->failed)) {
		atomic_store(&r->ready, true);
		db_note_owner(s->db);
		if (!take_over_serving(take, why, why_bytes))
			atomic_store(&r->failed, true);
	}
	pthread_barrier_wait(&r->run);
	r->shards_running = s->shard_count;
	if (atomic_load(&r->failed)) {
		for (unsigned i = 0; i < s->shard_count; i++) {
			pthread_join(r->starts[i].thread, NULL);
			if (r->starts[i].why[0])
				snprintf(why, why_bytes, "%s", r->starts[i].why);
		}
		goto fail;
	}
	atomic_store(&r->ready, true);
	if (take) {
		take_over_running(take);
		if (take_over_policy_differs(take, atomic_load(&s->policy_generation)))
			for (unsigned i = 0; i < s->shard_count; i++)
				shard_policy_changed(s->shards[i]);
	}
	return s;
fail:
	/* The files of these sockets are the old process' still. */
	if (take && r->admin)
		admin_leave(&r->admin);
	if (take && r->lmtp)
		lmtp_server_leave(&r->lmtp);
	/* Nobody but us may hold the connections when it hears of it, or a close there would not be
	 * one; it waits for our end anyway. */
	take_over_free(&r->take, why);
	take_down(r);
	return NULL;
}

/* Nobody waits for an upgrade that nobody will do: the waiting thread is joined at the end. */
static void refuse_upgrades(struct running *r)
{
	pthread_mutex_lock(&r->upgrade_mutex);
	r->upgrade_closed = true;
	if (r->upgrade_asked && !r->upgrade_told) {
		r->upgrade_answer = (struct admin_upgrade){.why = "the server is stopping"};
		r->upgrade_told = true;
		pthread_cond_broadcast(&r->upgrade_cond);
	}
	pthread_mutex_unlock(&r->upgrade_mutex);
}

void server_stop(struct server **ss)
{
	struct server *s = *ss;
	struct running *r = container_of(s, struct running, server);
	const struct config *c = atomic_load(&s->config);

	*ss = NULL;
	atomic_store(&s->draining, true);
	refuse_upgrades(r);
	log_msg(LOG_INFO, "drain: begins");
	for (unsigned i = 0; i < s->shard_count; i++)
		shard_drain(s->shards[i], (uint64_t)c->core_drain_s * 1000);
	if (r->lmtp)
		lmtp_server_stop(&r->lmtp);
	for (unsigned i = 0; i < s->shard_count; i++)
		pthread_join(r->starts[i].thread, NULL);
	take_down(r);
	log_msg(LOG_INFO, "drain: done, store closed");
}

/* ---- upgrade ------------------------------------------------------------------------------- */

static void tell_asker(struct running *r, const struct upgrade_result *res, const char *why)
{
	struct admin_upgrade *a = &r->upgrade_answer;

	pthread_mutex_lock(&r->upgrade_mutex);
	*a = (struct admin_upgrade){
		.pid = why ? 0 : res->pid,
		.connections = res->connections,
		.parked = res->parked,
		.left = res->left,
		.pause_us = res->pause_us,
		.export_us = res->export_us,
		.restore_us = res->restore_us,
		.quiet_us = res->quiet_us,
		.copy_ms = res->copy_ms,
		.start_ms = res->start_ms,
	};
	snprintf(a->version, sizeof(a->version), "%s", res->version);
	snprintf(a->why, sizeof(a->why), "%s", why ? why : "");
	r->upgrade_told = true;
	/* After a success nobody can ask again: there is nothing left to hand over. */
	r->upgrade_asked = why == NULL;
	pthread_cond_broadcast(&r->upgrade_cond);
	pthread_mutex_unlock(&r->upgrade_mutex);
}

static void own_sockets(struct running *r, struct socket_list *l)
{
	for (unsigned i = 0; i < r->server.shard_count; i++)
		for (unsigned k = 0; k < r->starts[i].listener_count; k++)
			sockets_add(l, r->starts[i].listeners[k], kind_words[r->starts[i].kinds[k]],
				r->starts[i].texts[k]);
	if (r->lmtp)
		lmtp_server_sockets(r->lmtp, l);
	admin_sockets(r->admin, l);
	sockets_add(l, db_lock_fd(r->server.db), "lock", "");
}

bool server_upgrade(struct server *s, const char *program, char *const *arguments,
	void (*alive)(void), struct upgrade_result *out)
{
	struct running *r = container_of(s, struct running, server);
	const struct config *c = atomic_load(&s->config);
	struct socket_list sockets = {0};
	struct upgrade_options o = {
		.program = program,
		.arguments = arguments,
		.sockets = &sockets,
		.start_ms = (uint32_t)c->core_upgrade_start_s * 1000,
		.grace_ms = (uint64_t)c->core_drain_s * 1000,
		.alive = alive,
	};
	char why[512] = "";
	uint8_t seed[TLS_TICKET_SEED_BYTES];
	bool ok = false;

	/* Our own predecessor may be ending requests still, and hold sockets meanwhile. */
	if (r->take)
		o.shared_ms = (uint32_t)(c->core_drain_s + c->core_upgrade_pace_s) * 1000;
	pthread_mutex_lock(&r->upgrade_mutex);
	r->upgrade_asked = true; /* (a signal asks for nobody) */
	if (r->upgrade_drain)
		o.pace_ms = (uint64_t)c->core_upgrade_pace_s * 1000;
	r->upgrade_drain = false;
	pthread_mutex_unlock(&r->upgrade_mutex);
	log_msg(LOG_INFO, "upgrade: begins program=%s", program);
	/* A reload would change what is handed over while it is. */
	pthread_mutex_lock(&r->reload_mutex);
	own_sockets(r, &sockets);
	if (ticket_seed(s, seed))
		o.ticket_seed = seed;
	if (getpid() == 1)
		snprintf(why, sizeof(why),
			"this is process 1 of its container, which ends with it: start the new "
			"version beside it, or run under an init");
	else
		ok = upgrade_hand_over(s, &o, &r->upgrade, out, why, sizeof(why));
	pthread_mutex_unlock(&r->reload_mutex);
	explicit_bzero(seed, sizeof(seed));
	/* What a new program that failed held of our connections goes a moment after it. */
	if (!ok)
		r->unshare_ms = clock_mono_ms() + UNSHARE_MS;
	sockets_free(&sockets, false);
	if (ok)
		log_msg(LOG_INFO,
			"upgrade: done process=%ld version=%s connections=%u parked=%u left=%u "
			"pause_us=%u export_us=%u restore_us=%u quiet_us=%u copy_ms=%u start_ms=%u",
			(long)out->pid, out->version, out->connections, out->parked, out->left,
			out->pause_us, out->export_us, out->restore_us, out->quiet_us, out->copy_ms,
			out->start_ms);
	else
		log_msg(LOG_ERROR, "upgrade: failed, this process goes on serving: %s", why);
	tell_asker(r, out, ok ? NULL : why);
	return ok;
}

void server_leave(struct server **ss)
{
	struct server *s = *ss;
	struct running *r = container_of(s, struct running, server);

	*ss = NULL;
	atomic_store(&s->draining, true);
	/* Letting go of so many sockets must not keep the new process from its phones. */
	for (unsigned i = 0; i < s->shard_count; i++)
		setpriority(PRIO_PROCESS, (id_t)r->starts[i].tid, LEAVE_NICE);
	upgrade_leave(s, r->upgrade);
	/* Their sockets and files are the new process' now. */
	admin_leave(&r->admin);
	if (r->lmtp)
		lmtp_server_leave(&r->lmtp);
	for (unsigned i = 0; i < s->shard_count; i++)
		pthread_join(r->starts[i].thread, NULL);
	take_down(r);
	log_msg(LOG_INFO, "upgrade: the old process ends");
}

struct prune {
	uint32_t mailbox;
};

static int prune_write(struct db_txn *txn, void *arg)
{
	int n = mailbox_prune(txn, ((struct prune *)arg)->mailbox, PRUNE_ROWS);

	return n < 0 ? n : DB_OK;
}

/* Tombstones that every device of the mailbox has been told of go away, a few mailboxes at a time. */
static void prune_some(struct running *r)
{
	struct server *s = &r->server;
	struct prune p = {.mailbox = 0};
	struct account a;
	struct db_txn txn;
	int err;

	if (db_read(s->db, &txn))
		return;
	for (int i = 0; i < PRUNE_LOOKS && !p.mailbox; i++) {
		err = account_next(&txn, r->prune_cursor, &a);
		if (err) {
			r->prune_cursor[0] = 0;
			break;
		}
		if (mailbox_wants_pruning(&txn, a.mailbox) == 1)
			p.mailbox = a.mailbox;
	}
	db_read_end(&txn);
	if (p.mailbox && (err = writer_write(s->writer, prune_write, &p)) != DB_OK &&
		err != DB_CLOSED)
		log_msg(LOG_WARNING, "store: old deletions were not tidied away: %s",
			db_strerror(err));
}

/* At most every ten minutes: it lasts, and the line shall not drown the others. */
static void watch_machine(struct running *r, uint64_t now_ms)
{
	struct machine_limits m;
	char why[256];

	if (now_ms < r->machine_ms)
		return;
	r->machine_ms = now_ms + MACHINE_MS;
	machine_read("/proc", &m);
	if (machine_nearly_full(&m, why, sizeof(why))) {
		log_msg(LOG_WARNING, "machine: %s", why);
		r->machine_ms = now_ms + MACHINE_QUIET_MS;
	}
}

void server_housekeeping(struct server *s)
{
	struct running *r = container_of(s, struct running, server);
	uint64_t now = clock_mono_ms();

	if (r->take && take_over_alone(r->take))
		take_over_free(&r->take, NULL);
	if (!r->take && now >= r->unshare_ms)
		for (unsigned i = 0; i < s->shard_count; i++)
			loop_set_shared(shard_loop(s->shards[i]), false);
	atomic_store(&s->wall_offset_ms, (int64_t)clock_wall_ms() - (int64_t)now);
	if (now < r->housekeeping_ms)
		return;
	r->housekeeping_ms = now + HOUSEKEEPING_MS;
	/* (counts what it clears itself) */
	db_clear_stale_readers(s->db);
	prune_some(r);
	watch_machine(r, now);
	db_release_pages(s->db);
	/* Milliseconds, in which who allocates waits: shards at rest do not. */
	if (atomic_exchange(&s->memory_freed, false))
		malloc_trim(0);
}
