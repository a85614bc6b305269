/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is in force: configuration, policy and certificates, from the start on and from each reload. */
#include "core/server/server_priv.h"

#include "core/base/log.h"
#include "core/server/certificates.h"
#include "io/tls.h"

#include <stdio.h>
#include <string.h>

struct eas_context server_eas(struct server *s)
{
	/* First: server_put_in_force writes it last, so a new generation never comes with the old policy,
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

bool server_ticket_seed(struct server *s, uint8_t *seed_out)
{
	struct tls_ctx *c = server_tls(s);
	bool has = c != NULL;

	if (has)
		tls_ctx_ticket_seed(c, seed_out);
	tls_ctx_unref(&c);
	return has;
}

void server_put_in_force(struct running *r, struct config *c)
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
	if (r->config_count == SERVER_CONFIGS_MAX) {
		snprintf(why, why_bytes, "reloaded %d times: restart", SERVER_CONFIGS_MAX);
		goto out;
	}
	c = r->source(r->source_arg, why, why_bytes);
	if (!c)
		goto out;
	has_seed = server_ticket_seed(s, seed);
	if (c->listen_https.n) {
		tls = certificates_load(c, has_seed ? seed : NULL, why, why_bytes);
		if (!tls) {
			config_free(&c);
			goto out;
		}
	}
	before = atomic_load(&s->policy_generation);
	server_put_in_force(r, c);
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
