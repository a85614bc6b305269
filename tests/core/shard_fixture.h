/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/core/shard_fixture.h - one shard on a loop that only writes down what it is told, with a clock that
 * moves by the work done. The TLS and the store are real. For one test program each: it implements io/loop.h
 * and what a shard asks of its server.
 * Memory: all of it begin()'s, until end(). Errors: a failed assertion. */
#ifndef ROOST_TESTS_CORE_SHARD_FIXTURE_H
#define ROOST_TESTS_CORE_SHARD_FIXTURE_H

#include "core/shard/shard_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/server/server.h"
#include "store/mailbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

enum {
	SLOTS = 64,
	PHONE = SLOTS - 1, /* the one that hangs */
	STEP_NS = 100000,  /* what one look at the clock costs here: a step of a handshake */
};

/* ---- the loop -------------------------------------------------------------------------------- */

struct loop {
	const struct loop_events *ev;
	void *arg;
	const _Atomic uint32_t *word;
	uint32_t word_seen;
	uint64_t now_ns;
	uint32_t sends[1024]; /* slots, in order; UINT32_MAX: loop_submit */
	unsigned send_count;
	char reset[SLOTS], closed[SLOTS], receiving[SLOTS], watching[SLOTS];
	char said[SLOTS][600];
	struct loop_msg *posted;
	bool deliver; /* messages arrive as they are posted */
	/* Called at send number `at`, from 1. */
	unsigned at;
	void (*then)(void);
};
static struct loop fake;

struct loop *loop_new(const struct loop_options *o, const struct loop_events *ev, void *arg,
	char *why, size_t why_bytes)
{
	(void)why, (void)why_bytes;
	fake = (struct loop){.ev = ev, .arg = arg, .word = o->commit_word, .now_ns = 1000000000000};
	fake.word_seen = atomic_load(fake.word);
	return &fake;
}
void loop_free(struct loop **l)
{
	*l = NULL;
}
void loop_listen(struct loop *l, int fd)
{
	(void)l, (void)fd;
}
void loop_listen_stop(struct loop *l)
{
	(void)l;
}
void loop_listen_again(struct loop *l)
{
	(void)l;
}
void loop_run(struct loop *l)
{
	(void)l;
}
void loop_stop(struct loop *l)
{
	(void)l;
}
uint32_t loop_slots_max(const struct loop *l)
{
	(void)l;
	return SLOTS;
}
uint32_t loop_ring_conns(const struct loop *l)
{
	(void)l;
	return SLOTS;
}
uint64_t loop_now_ms(const struct loop *l)
{
	return l->now_ns / 1000000;
}
uint64_t loop_now_ns(const struct loop *l)
{
	(void)l;
	return fake.now_ns += STEP_NS;
}
void loop_recv(struct loop *l, uint32_t slot)
{
	l->receiving[slot] = 1;
}
void loop_watch(struct loop *l, uint32_t slot)
{
	l->watching[slot] = 1;
}
void loop_send(struct loop *l, uint32_t slot, const void *p, uint32_t n)
{
	snprintf(l->said[slot], sizeof(l->said[slot]), "%.*s", (int)n, (const char *)p);
	assert_true(l->send_count < ARRAY_LEN(l->sends));
	l->sends[l->send_count++] = slot;
	if (l->send_count == l->at)
		l->then();
}
void loop_submit(struct loop *l)
{
	assert_true(l->send_count < ARRAY_LEN(l->sends));
	l->sends[l->send_count++] = UINT32_MAX;
}
bool loop_commit_moved(struct loop *l)
{
	bool moved = atomic_load(l->word) != l->word_seen;

	l->word_seen = atomic_load(l->word);
	return moved;
}
void loop_close(struct loop *l, uint32_t slot, bool reset)
{
	l->closed[slot] = 1;
	l->reset[slot] = reset;
}
void loop_post(struct loop *l, struct loop_msg *m)
{
	if (l->deliver) {
		l->ev->message(l->arg, m);
		return;
	}
	assert_null(l->posted);
	l->posted = m;
}
/* What was posted arrives. */
static inline void deliver(void)
{
	struct loop_msg *m = fake.posted;

	assert_non_null(m);
	fake.posted = NULL;
	fake.ev->message(fake.arg, m);
}
bool loop_may_export(const struct loop *l, uint32_t slot)
{
	(void)l, (void)slot;
	return false;
}
void loop_export(struct loop *l, uint32_t slot, const struct handover_escrow *e)
{
	(void)l, (void)slot, (void)e;
}
void loop_let_go(struct loop *l, uint32_t slot)
{
	(void)l, (void)slot;
}
void loop_import_drop(struct loop *l, uint32_t slot)
{
	(void)l;
	(void)slot;
}
uint32_t loop_import(struct loop *l, struct handover_escrow *e, const uint32_t *places,
	uint32_t *slots_out, uint32_t n)
{
	(void)l, (void)e, (void)places, (void)slots_out, (void)n;
	return 0;
}
void loop_set_shared(struct loop *l, bool shared)
{
	(void)l, (void)shared;
}
uint32_t loop_rings_open(const struct loop *l)
{
	(void)l;
	return 1;
}

/* ---- the server ------------------------------------------------------------------------------ */

static struct server server;
static struct tls_ctx *tls, *tls_client;
static struct account account;
static char dir[64];

struct tls_ctx *server_tls(struct server *s)
{
	(void)s;
	return tls_ctx_ref(tls);
}

struct eas_context server_eas(struct server *s)
{
	return (struct eas_context){.db = s->db, .config = atomic_load(&s->config)};
}

static inline int make_account(struct db_txn *txn, void *arg)
{
	(void)arg;
	return account_create(txn, bytes_str("a@example.test"), "", "", 1, &account);
}

static inline int touch_inbox(struct db_txn *txn, void *arg)
{
	(void)arg;
	return folder_touch(txn, account.mailbox, 1);
}

static inline void commit(void)
{
	assert_int_equal(db_write(server.db, touch_inbox, NULL), DB_OK);
}

static inline void set(struct config *c, const char *text)
{
	char why[256] = "";

	if (!config_set(c, text, why, sizeof(why)))
		fail_msg("%s", why);
}

static inline int begin(void **state)
{
	struct config *c = config_new();
	struct db_options o = {.dir = dir, .server = true, .create = true, .no_sync = true};
	char why[256] = "", cert[128], key[128];
	struct tls_pair pair = {cert, key};

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/test_shard.XXXXXX");
	assert_non_null(mkdtemp(dir));
	log_set_level(LOG_ERROR);
	set(c, "log.requests=false");
	set(c, "tls.handshakes_max=40");
	set(c, "tls.handshake_timeout_s=15");
	set(c, "tls.handshake_wait_s=60");
	memset(&server, 0, sizeof(server));
	atomic_store(&server.config, c);
	assert_int_equal(db_open(&o, &server.db, why, sizeof(why)), DB_OK);
	assert_int_equal(db_write(server.db, make_account, NULL), DB_OK);
	server.presence = presence_new();
	server.shard_count = 1;
	snprintf(cert, sizeof(cert), "%s/cert", dir);
	snprintf(key, sizeof(key), "%s/key", dir);
	assert_true(tls_self_signed(cert, key, NULL, 0, clock_wall_ms(), why, sizeof(why)));
	tls = tls_server_new(
		&(struct tls_options){.pairs = &pair, .pair_count = 1}, why, sizeof(why));
	tls_client = tls_client_new(&(struct tls_client_options){0}, why, sizeof(why));
	assert_true(tls && tls_client);
	server.shards[0] = shard_new(&server, 0, &(struct listeners){.count = 0}, why, sizeof(why));
	assert_non_null(server.shards[0]);
	return 0;
}

static inline int end(void **state)
{
	struct config *c = (struct config *)atomic_load(&server.config);
	char command[128];

	(void)state;
	assert_true(shard_check(server.shards[0]));
	shard_free(&server.shards[0]);
	presence_free(&server.presence);
	tls_ctx_unref(&tls);
	tls_ctx_unref(&tls_client);
	db_close(&server.db);
	config_free(&c);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

/* ---- phones ---------------------------------------------------------------------------------- */

static const struct loop_addr peer = {.port = 1};

/* Accepted, and its ClientHello is in the socket. */
static inline void calls(uint32_t slot)
{
	conn_accepted(server.shards[0], slot, LISTENER_HTTPS, &peer);
	conn_readable(server.shards[0], slot);
}

/* In slot PHONE, without TLS; it may send further requests on this connection. */
static inline void phone_hangs(void)
{
	struct shard *s = server.shards[0];
	struct handover_slot h = {
		.kind = HANDOVER_PING,
		.mailbox = account.mailbox,
		.device = 1,
		.folders = 1 << 1,
		.since_seq = s->journal_seen,
		.order = 1,
		.due_ms = loop_now_ms(s->loop) + 900000,
		.heartbeat_s = 900,
	};

	conn_accepted(s, PHONE, LISTENER_HTTP, &peer);
	s->conns[PHONE].flags |= CONN_KEEP_ALIVE;
	s->conns[PHONE].version = 141;
	assert_true(park_adopt(s, PHONE, &h));
}

#endif
