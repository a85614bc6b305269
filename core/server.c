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
#include "core/push/presence.h"
#include "core/shard.h"
#include "core/version.h"
#include "core/work.h"
#include "io/tls.h"
#include "store/db.h"
#include "store/writer.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LISTENERS_MAX = 16, /* (a loop has no more) */ CONFIGS_MAX = 4096, HOUSEKEEPING_MS = 2000 };

struct shard_start {
	struct running *r;
	unsigned index;
	pthread_t thread;
	int listeners[LISTENERS_MAX];
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
	enum listener_kind kinds[LISTENERS_MAX];
	unsigned listener_count;
	pthread_barrier_t made, go;
	_Atomic bool failed;
	pthread_t writer_thread;
	bool writer_running;
	unsigned shards_running;
	struct lmtp_server *lmtp;
	struct admin *admin;
	_Atomic bool ready;
	uint64_t housekeeping_ms;
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

static bool load_tls(const struct config *c, struct tls_ctx **out, char *why, size_t why_bytes)
{
	struct tls_pair pairs[1 + 64];
	char *copies[64], cert[4096], key[4096], host[256] = "localhost";
	const char *names[] = {host};
	size_t n = 0, copied = 0;
	struct tls_options o = {.ticket_rotate_s = (uint32_t)c->tls_ticket_rotate_s};

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
		if (!tls_self_signed(cert, key, names, 1, why, why_bytes))
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

/* ---- listeners
 * ----------------------------------------------------------------------------------- */

static void set_int(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

/* A socket of this address for each shard: the kernel spreads connections over them. */
static bool listen_on(struct running *r, const char *text, enum listener_kind kind,
	const struct config *c, char *why, size_t why_bytes)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int probe;
	char shown[ADDRESS_TEXT_BYTES], cause[160];

	if (r->listener_count == LISTENERS_MAX) {
		snprintf(why, why_bytes, "more than %d addresses to listen on", LISTENERS_MAX);
		return false;
	}
	if (!address_parse(text, ADDRESS_TCP, &ss, &len, cause, sizeof(cause))) {
		snprintf(why, why_bytes, "listen: %s: %s", text, cause);
		return false;
	}
	/* With SO_REUSEPORT alone a second server of the same user would get half of the phones
	 * instead of an error. */
	probe = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (probe >= 0)
		set_int(probe, SOL_SOCKET, SO_REUSEADDR, 1);
	if (probe < 0 || bind(probe, (struct sockaddr *)&ss, len)) {
		snprintf(why, why_bytes, "listen: %s: %s", text, strerror(errno));
		if (probe >= 0)
			close(probe);
		return false;
	}
	close(probe);
	for (unsigned i = 0; i < r->server.shard_count; i++) {
		int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0) {
			snprintf(why, why_bytes, "listen: %s: %s", text, strerror(errno));
			return false;
		}
		r->starts[i].listeners[r->listener_count] = fd;
		set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
		set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
		set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		if (c->http_tcp_keepalive_s) {
			set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
			set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)c->http_tcp_keepalive_s);
			set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, 30);
			set_int(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
		}
		if (c->http_tcp_user_timeout_s)
			set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
				(int)c->http_tcp_user_timeout_s * 1000);
		if (bind(fd, (struct sockaddr *)&ss, len) || listen(fd, 65535)) {
			snprintf(why, why_bytes, "listen: %s: %s", text, strerror(errno));
			r->listener_count++;
			for (unsigned k = i + 1; k < r->server.shard_count; k++)
				r->starts[k].listeners[r->listener_count - 1] = -1;
			return false;
		}
		/* Port 0: the others take the one that the first was given. */
		len = sizeof(ss);
		getsockname(fd, (struct sockaddr *)&ss, &len);
	}
	address_format((struct sockaddr *)&ss, len, shown);
	log_msg(LOG_INFO, "listening kind=%s address=%s", kind == LISTENER_HTTPS ? "https" : "http",
		shown);
	r->kinds[r->listener_count++] = kind;
	return true;
}

static void close_listeners(struct running *r)
{
	for (unsigned l = 0; l < r->listener_count; l++)
		for (unsigned i = 0; i < r->server.shard_count; i++)
			if (r->starts[i].listeners[l] >= 0)
				close(r->starts[i].listeners[l]);
	r->listener_count = 0;
}

/* ---- threads
 * ---------------------------------------------------------------------------------------- */

static void *shard_thread(void *arg)
{
	struct shard_start *st = arg;
	struct running *r = st->r;
	struct shard *s;
	char name[16];

	snprintf(name, sizeof(name), "shard-%u", st->index);
	pthread_setname_np(pthread_self(), name);
	s = shard_new(&r->server, st->index, st->listeners, r->kinds, r->listener_count, st->why,
		sizeof(st->why));
	if (!s)
		atomic_store(&r->failed, true);
	r->server.shards[st->index] = s;
	/* Everybody is made, or nobody runs. */
	pthread_barrier_wait(&r->made);
	pthread_barrier_wait(&r->go);
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
	uint32_t before;
	bool ok = false;

	pthread_mutex_lock(&r->reload_mutex);
	if (r->config_count == CONFIGS_MAX) {
		snprintf(why, why_bytes, "reloaded %d times: restart", CONFIGS_MAX);
		goto out;
	}
	c = r->source(r->source_arg, why, why_bytes);
	if (!c)
		goto out;
	if (c->listen_https.n && !load_tls(c, &tls, why, why_bytes)) {
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

struct server *server_start(server_config_fn *source, void *arg, char *why, size_t why_bytes)
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
	};
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	struct tls_ctx *tls = NULL;
	bool shards_failed;

	CHECK(r);
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
	o.dir = c->store_dir;
	o.map_bytes = (uint64_t)c->store_map_mib << 20;
	o.map_bytes_max = (uint64_t)c->store_map_max_mib << 20;
	if (db_open(&o, &s->db, why, why_bytes))
		goto fail;
	if (c->listen_https.n && !load_tls(c, &tls, why, why_bytes))
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
	CHECK(r->writer_running);
	s->workers =
		work_pool_new(c->core_workers ? (unsigned)c->core_workers : 8 * (unsigned)cores,
			(size_t)c->core_work_queue_max);
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
	for (unsigned i = 0; i < s->shard_count; i++) {
		r->starts[i].r = r;
		r->starts[i].index = i;
		CHECK(pthread_create(&r->starts[i].thread, NULL, shard_thread, &r->starts[i]) == 0);
	}
	pthread_barrier_wait(&r->made);
	shards_failed = atomic_load(&r->failed);
	if (!shards_failed) {
		r->lmtp = c->listen_lmtp.n ? lmtp_server_start(c, s->db, s->writer, why, why_bytes)
					   : NULL;
		if (c->listen_lmtp.n && !r->lmtp)
			atomic_store(&r->failed, true);
	}
	if (!atomic_load(&r->failed)) {
		r->admin = admin_start(c, s->db, &hooks, why, why_bytes);
		if (!r->admin)
			atomic_store(&r->failed, true);
	}
	pthread_barrier_wait(&r->go);
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
	return s;
fail:
	take_down(r);
	return NULL;
}

void server_stop(struct server **ss)
{
	struct server *s = *ss;
	struct running *r = container_of(s, struct running, server);
	const struct config *c = atomic_load(&s->config);

	*ss = NULL;
	atomic_store(&s->draining, true);
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

void server_housekeeping(struct server *s)
{
	struct running *r = container_of(s, struct running, server);
	uint64_t now = clock_mono_ms();

	atomic_store(&s->wall_offset_ms, (int64_t)clock_wall_ms() - (int64_t)now);
	if (now < r->housekeeping_ms)
		return;
	r->housekeeping_ms = now + HOUSEKEEPING_MS;
	/* (counts what it clears itself) */
	db_clear_stale_readers(s->db);
	db_release_pages(s->db);
}
