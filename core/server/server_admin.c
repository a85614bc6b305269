/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the threads of admin ask of a server: for /metrics, /livez, /readyz and roostctl. */
#include "core/server/server_priv.h"

#include "core/base/clock.h"
#include "io/tls.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned parked(void *arg, uint32_t mailbox, uint32_t device,
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

static bool ready(void *arg, const char **why_out)
{
	struct running *r = arg;

	if (atomic_load(&r->server.draining)) {
		*why_out = "draining";
		return false;
	}
	*why_out = "starting";
	return atomic_load(&r->ready);
}

static bool live(void *arg, const char **why_out)
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

static int64_t certificate_expiry_s(void *arg)
{
	struct running *r = arg;
	struct tls_ctx *c = server_tls(&r->server);
	int64_t s = c ? tls_ctx_expiry_s(c, clock_wall_ms()) : INT64_MAX;

	tls_ctx_unref(&c);
	return s;
}

static unsigned shards(void *arg)
{
	return ((struct running *)arg)->server.shard_count;
}

static bool reload(void *arg, char *why, size_t why_bytes)
{
	return server_reload(&((struct running *)arg)->server, why, why_bytes);
}

static void stop(void *arg)
{
	(void)arg;
	kill(getpid(), SIGTERM);
}

static bool upgrade(void *arg, bool drain, struct admin_upgrade *out, char *why, size_t why_bytes)
{
	return server_ask_upgrade(arg, drain, out, why, why_bytes);
}

struct admin_server server_admin_hooks(struct running *r)
{
	return (struct admin_server){
		.arg = r,
		.parked = parked,
		.ready = ready,
		.live = live,
		.certificate_expiry_s = certificate_expiry_s,
		.shards = shards,
		.reload = reload,
		.stop = stop,
		.upgrade = upgrade,
	};
}
