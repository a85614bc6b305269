/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The server of a run, spawned or somebody else's; its accounts; whether the machine suffices. */
#include "bench/fleet/accounts.h"
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/config/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Enough to make group commits of it; a server takes so many without being asked. */
enum { MAIL_CONNECTIONS = 32 };

bool bench_metrics(struct bench *b, struct metrics_page *page)
{
	char why[WHY];

	if (!b->has_metrics)
		return false;
	if (metrics_fetch(&b->metrics_url, page, why, sizeof(why)))
		return true;
	b->has_metrics = false;
	return bench_failed(b, "%s", why);
}

bool bench_subscribers(struct bench *b, uint64_t *out)
{
	static const char word[] = "\nsubscribers: ";
	const char *at;
	char why[WHY];

	if (!metrics_fetch(&b->subscribers_url, &b->after, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	at = strstr((const char *)b->after.text.p, word);
	if (!at)
		return bench_failed(b, "%s:%s tells no number of subscribers",
			b->subscribers_url.host, b->subscribers_url.port);
	*out = strtoull(at + sizeof(word) - 1, NULL, 10);
	return true;
}

static bool fill_store(struct bench *b)
{
	char why[WHY];
	uint64_t start_ms = clock_mono_ms();
	int64_t done;

	b->mailroom = mailroom_open(b->data, b->spawn, b->users, b->phones, why, sizeof(why));
	if (!b->mailroom)
		return bench_failed(b, "%s", why);
	do {
		done = mailroom_fill(b->mailroom, why, sizeof(why));
		if (done < 0)
			return bench_failed(b, "%s", why);
		bench_progress("store: %u accounts, %lld of %u phones", b->users, (long long)done,
			b->phones);
	} while (done < b->phones && !bench_interrupted);
	bench_note(
		"store: %u accounts and %u synced phones in %.1f s (one shared Argon2 hash of the "
		"least cost: for benchmarks only)",
		b->users, b->phones, (double)(clock_mono_ms() - start_ms) / 1000);
	return !bench_interrupted;
}

/* The server's listener is there by now. */
static bool mail_begin(struct bench *b)
{
	char why[WHY];

	if (b->mail_own) {
		snprintf(b->mail_own_to, sizeof(b->mail_own_to), "lmtp:%s/lmtp", b->server.dir);
		b->mail = b->mail_own_to;
	}
	if (!b->mail)
		return true;
	b->mailer = mailer_open(b->mail, MAIL_CONNECTIONS, accounts_user, why, sizeof(why));
	return b->mailer || bench_failed(b, "%s", why);
}

bool bench_server_start(struct bench *b)
{
	char program[4096], why[WHY];

	if (b->roostd)
		snprintf(program, sizeof(program), "%s", b->roostd);
	else
		target_default_program(program, sizeof(program));
	if (!target_start(&b->server, program, b->sets, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	b->pid = b->server.pid;
	bench_note("server: %s, pid %d, 127.0.0.1:%u", program, (int)b->pid, b->server.https_port);
	return true;
}

/* The command line's own value stays. */
static void set_unless(struct bench *b, const char *text)
{
	size_t n = strcspn(text, "=") + 1;

	for (size_t i = 0; i < b->set_count; i++)
		if (strncmp(b->sets[i], text, n) == 0)
			return;
	if (b->set_count < SETS_MAX)
		b->sets[b->set_count++] = text;
}

/* The server's times are compressed as those of the phones are, against its defaults of 240 s until a
 * silent connection is looked after, and of 300 s until an idle one is closed. */
static void day_settings(struct bench *b)
{
	if (b->times.heartbeat_min_s < 60)
		set_unless(b, "push.heartbeat_min_s=8");
	snprintf(b->keepalive_set, sizeof(b->keepalive_set), "http.tcp_keepalive_s=%u",
		b->times.keepalive_s);
	snprintf(b->idle_set, sizeof(b->idle_set), "http.keepalive_timeout_s=%u", b->times.idle_s);
	set_unless(b, b->keepalive_set);
	set_unless(b, b->idle_set);
	if (!b->times.keepalive_s && !machine_carries_keepalive(b->phones))
		bench_note("net.core.netdev_max_backlog is too small for keepalive probes of %u "
			   "connections over loopback: without them (--tune raises it)",
			b->phones);
}

/* What the command line says, or that. */
static uint32_t set_number(const struct bench *b, const char *key, uint32_t otherwise)
{
	size_t n = strlen(key);
	uint64_t v;

	for (size_t i = 0; i < b->set_count; i++)
		if (strncmp(b->sets[i], key, n) == 0 && b->sets[i][n] == '=' &&
			bytes_to_u64(bytes_str(b->sets[i] + n + 1), 86400, &v))
			otherwise = (uint32_t)v;
	return otherwise;
}

static void day_times(struct bench *b)
{
	struct bench_times *t = &b->times;
	uint32_t c = b->compress, keepalive_s = 240 / c > 4 ? 240 / c : 4;

	*t = (struct bench_times){
		.heartbeat_min_s = 8 * 60 / c,
		.heartbeat_max_s = 59 * 60 / c,
		.idle_s = 300 / c > 5 ? 300 / c : 5,
		.away_s = 20 * 60 / c,
	};
	if (!machine_carries_keepalive(b->phones))
		keepalive_s = 0;
	if (b->spawn) {
		t->keepalive_s = set_number(b, "http.tcp_keepalive_s", keepalive_s);
		t->idle_s = set_number(b, "http.keepalive_timeout_s", t->idle_s);
	}
	/* Six probes an eighth of it apart, at least a second. With an answer on its way there are no
	 * probes, but then it is idle. */
	t->dead_s = t->keepalive_s ? t->keepalive_s * 2 + 6 : t->heartbeat_max_s;
	t->dead_s = 2 * (t->dead_s + (b->spawn ? t->idle_s : 300) + 5);
}

/* core.connections_max for a fleet above the default, with room: listeners are shared by address, not evenly.
 * 0: the server's own. */
static uint32_t connections_for(uint32_t phones)
{
	return phones > 900000 ? phones + phones / 10 : 0;
}

bool bench_server_begin(struct bench *b)
{
	char why[WHY], url[64];

	if (b->spawn) {
		if (!target_prepare(&b->server, why, sizeof(why)))
			return bench_failed(b, "%s", why);
		b->data = b->server.data;
	}
	if (b->mail_own && b->set_count < SETS_MAX) {
		snprintf(b->mail_own_set, sizeof(b->mail_own_set), "listen.lmtp=unix:%s/lmtp",
			b->server.dir);
		b->sets[b->set_count++] = b->mail_own_set;
	}
	if (b->data && !fill_store(b))
		return false;
	if (b->publish_url.host[0]) {
		b->publisher = publisher_open(&b->publish_url, why, sizeof(why));
		if (!b->publisher)
			return bench_failed(b, "%s", why);
	}
	if (!b->spawn)
		return mail_begin(b);
	if (b->day || b->soak)
		day_settings(b);
	else if (b->expire)
		set_unless(b, "push.heartbeat_min_s=8");
	if (connections_for(b->phones) && b->set_count < SETS_MAX) {
		snprintf(b->connections_set, sizeof(b->connections_set), "core.connections_max=%u",
			connections_for(b->phones));
		b->sets[b->set_count++] = b->connections_set;
	}
	if (!bench_server_start(b))
		return false;
	snprintf(url, sizeof(url), "https://127.0.0.1:%u", b->server.https_port);
	CHECK(url_parse(url, URL_HTTPS, &b->url, why, sizeof(why)));
	snprintf(url, sizeof(url), "http://127.0.0.1:%u/metrics", b->server.admin_port);
	CHECK(url_parse(url, URL_HTTP, &b->metrics_url, why, sizeof(why)));
	b->has_metrics = true;
	return mail_begin(b);
}

bool bench_needs_fleet(const struct bench *b)
{
	return b->hold || b->grow || b->wake || b->load || b->burst || b->expire || b->storm ||
	       b->day || b->soak || b->crash || b->upgrade;
}

/* Phones whose sockets may hold bytes that nobody has read yet. */
static uint32_t at_once(const struct bench *b)
{
	uint32_t n = b->parallel;

	if (b->burst || b->expire)
		n += BENCH_UNANSWERED_MAX;
	return n < b->phones ? n : b->phones;
}

/* Connections that a shard of the roostd we start is made for. */
static uint32_t loop_conns(const struct bench *b)
{
	struct config *c = config_new();
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t conns, shards;
	char why[WHY];

	/* What is wrong there roostd says better. */
	config_read_environment(c, environ, why, sizeof(why));
	for (size_t i = 0; i < b->set_count; i++)
		config_set(c, b->sets[i], why, sizeof(why));
	conns = connections_for(b->phones);
	if (!conns)
		conns = (uint64_t)c->core_connections_max;
	shards = (uint64_t)c->core_shards;
	if (!shards)
		shards = online < 1 ? 1 : (uint64_t)online;
	config_free(&c);
	return (uint32_t)((conns + shards - 1) / shards);
}

bool bench_machine_check(struct bench *b)
{
	struct machine_need need = {
		.phones = bench_needs_fleet(b) ? b->phones : b->parallel,
		.per_source = PHONES_PER_SOURCE,
		.addresses = 1,
		.both_ends = b->spawn || b->pid > 0,
		.at_once = at_once(b),
		.loop_conns = b->spawn ? loop_conns(b) : 0,
		.keepalive = b->day || b->soak,
	};

	if (b->tune && !machine_tune(&need, stderr) && !b->force)
		return bench_failed(b, "not everything could be tuned (are you root?)");

	if (b->day || b->soak)
		day_times(b);
	if (machine_suffices(&need, stderr) || b->force)
		return true;
	bench_failed(b, "this machine does not suffice (--force starts all the same)");
	return false;
}

static bool in_store(struct bench *b, const uint32_t *users, size_t n, uint64_t *at_ns_out,
	char *why, size_t why_bytes)
{
	uint64_t at;

	if (!mailroom_deliver(b->mailroom, users, n, &at, why, why_bytes))
		return false;
	for (size_t i = 0; i < n; i++)
		at_ns_out[i] = at;
	return true;
}

bool bench_change(struct bench *b, const uint32_t *users, size_t n, uint64_t *at_ns_out, char *why,
	size_t why_bytes)
{
	uint64_t at;

	if (b->publisher) {
		if (!publisher_send(b->publisher, users, n, &at, why, why_bytes))
			return false;
		for (size_t i = 0; i < n; i++)
			at_ns_out[i] = at;
		return true;
	}
	if (b->mailer)
		return mailer_send(b->mailer, users, n, at_ns_out, why, why_bytes);
	return in_store(b, users, n, at_ns_out, why, why_bytes);
}

bool bench_change_list(struct bench *b, const uint32_t *users, size_t n, uint64_t *at_ns_out,
	char *why, size_t why_bytes)
{
	CHECK(!b->publisher);
	if (b->mailer)
		return mailer_send_list(
			b->mailer, users, n, b->list_max, at_ns_out, why, why_bytes);
	for (size_t i = 0, k; i < n; i += k) {
		k = n - i < b->list_max ? n - i : b->list_max;
		if (!in_store(b, users + i, k, at_ns_out + i, why, why_bytes))
			return false;
	}
	return true;
}

bool bench_caught_up(struct bench *b, uint32_t first, uint32_t n, char *why, size_t why_bytes)
{
	return !b->mailroom || mailroom_catch_up(b->mailroom, first, n, why, why_bytes);
}

bool bench_caught_up_user(struct bench *b, uint32_t user, char *why, size_t why_bytes)
{
	return !b->mailroom || mailroom_catch_up_user(b->mailroom, user, why, why_bytes);
}

uint32_t bench_phones_of_user(const struct bench *b, uint32_t user)
{
	return user < b->hanging ? (b->hanging - user - 1) / b->users + 1 : 0;
}

void bench_server_end(struct bench *b)
{
	char why[WHY];
	int64_t left;

	if (b->fleet)
		bench_note("closing %u connections", b->phones);
	fleet_stop(&b->watch);
	fleet_stop(&b->fleet);
	if (b->mailroom && !b->spawn && !b->keep) {
		do {
			left = mailroom_clear(b->mailroom, why, sizeof(why));
			bench_progress(
				"removing the benchmark's accounts: %lld left", (long long)left);
		} while (left > 0);
		if (left < 0)
			bench_failed(b, "%s", why);
	}
	mailroom_close(&b->mailroom);
	publisher_close(&b->publisher);
	mailer_close(&b->mailer);
	if (b->spawn)
		target_stop(&b->server);
	metrics_free(&b->before);
	metrics_free(&b->after);
	machine_untune(stderr);
	bench_progress_end();
}
