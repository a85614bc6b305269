/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A shard in a storm of handshakes, on a loop of its own and a clock that moves by the work done: who comes
 * first, and who waits how long. The TLS and the store are real. */
#include "core/shard_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/server.h"
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
	char reset[SLOTS], closed[SLOTS], receiving[SLOTS];
	char said[SLOTS][600];
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
	(void)l, (void)slot;
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
	(void)l, (void)m;
	fail();
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

static int make_account(struct db_txn *txn, void *arg)
{
	(void)arg;
	return account_create(txn, bytes_str("a@example.test"), "", "", 1, &account);
}

static int touch_inbox(struct db_txn *txn, void *arg)
{
	(void)arg;
	return folder_touch(txn, account.mailbox, 1);
}

static void commit(void)
{
	assert_int_equal(db_write(server.db, touch_inbox, NULL), DB_OK);
}

static void set(struct config *c, const char *text)
{
	char why[256] = "";

	if (!config_set(c, text, why, sizeof(why)))
		fail_msg("%s", why);
}

static int begin(void **state)
{
	struct config *c = config_new();
	struct db_options o = {.dir = dir, .server = true, .create = true, .no_sync = true};
	char why[256] = "", cert[128], key[128];
	struct tls_pair pair = {cert, key};

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/test_storm.XXXXXX");
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

static int end(void **state)
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
static void calls(uint32_t slot)
{
	conn_accepted(server.shards[0], slot, LISTENER_HTTPS, &peer);
	conn_readable(server.shards[0], slot);
}

/* What the kernel gives, where it is asked to. */
static void hello_arrives(uint32_t slot)
{
	struct tls_hs *h = tls_hs_client(tls_client, NULL, NULL);
	struct buf out = {0};
	size_t used;

	assert_true(fake.receiving[slot]);
	fake.receiving[slot] = 0;
	assert_int_equal(tls_hs_feed(h, NULL, 0, &used, &out), TLS_HS_WANT_MORE);
	conn_received(server.shards[0], slot, out.p, (int)out.n);
	buf_free(&out);
	tls_hs_free(&h);
}

static void phone_hangs(void)
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

static void wait_s(uint64_t seconds)
{
	fake.now_ns += seconds * 1000000000;
	fake.ev->tick(fake.arg, loop_now_ms(&fake));
}

/* ---- promises -------------------------------------------------------------------------------- */

/* To a phone that hangs: mail that comes while handshakes wait is told before the next one's step, and
 * goes out at once, not with the end of the turn. */
static void a_wake_comes_before_the_next_handshake(void **state)
{
	struct shard *s = server.shards[0];

	(void)state;
	phone_hangs();
	for (uint32_t i = 0; i < 30; i++) {
		calls(i);
		hello_arrives(i);
	}
	assert_int_equal(s->handshakes.count, 30);
	fake.at = 3;
	fake.then = commit;
	assert_true(conn_background(s));
	assert_in_range(fake.send_count, 6, 20);
	assert_int_equal(fake.sends[0], 0);
	assert_int_equal(fake.sends[1], 1);
	assert_int_equal(fake.sends[2], 2); /* here it was committed */
	assert_int_equal(fake.sends[3], PHONE);
	assert_int_equal(fake.sends[4], UINT32_MAX);
	assert_int_equal(fake.sends[5], 3);
	assert_non_null(strstr(fake.said[PHONE], "HTTP/1.1 200"));
	/* The slice is over after a millisecond; the rest has its turn later. */
	assert_true(s->handshakes.count >= 20);
	while (conn_background(s))
		;
	for (uint32_t i = 0; i < 30; i++)
		assert_int_equal(s->conns[i].state, CONN_HANDSHAKE);
}

/* To the server: a storm takes as many places as there are, the others cost a slot and come in
 * order; each has the whole time from when its turn comes. */
static void others_wait_their_turn_and_are_then_not_hurried(void **state)
{
	struct shard *s = server.shards[0];
	int64_t refused = metrics_sum(M_TLS_HS_NO_PLACE), failed = metrics_sum(M_TLS_HS_FAILED);

	(void)state;
	for (uint32_t i = 0; i < 60; i++)
		calls(i);
	assert_int_equal(s->handshakes_in_flight, 40);
	assert_int_equal(s->want_handshake.count, 20);
	assert_int_equal(s->active_used, 40);
	assert_int_equal(metrics_sum(M_TLS_HS_WAITING), 20);
	assert_null(s->conns[40].active);
	/* Ten that have a place hang up at 14 s: the first ten of the line have theirs. */
	wait_s(14);
	for (uint32_t i = 0; i < 10; i++) {
		conn_received(s, i, NULL, 0);
		fake.ev->released(fake.arg, i);
	}
	conn_background(s);
	assert_int_equal(s->want_handshake.count, 10);
	assert_int_equal(s->want_handshake.first, 50);
	/* At 16 s the silent ones of the beginning are gone, those who began at 14 s are not. */
	wait_s(2);
	for (uint32_t i = 10; i < 40; i++)
		assert_true(fake.closed[i] && fake.reset[i]);
	for (uint32_t i = 40; i < 60; i++)
		assert_false(fake.closed[i]);
	assert_int_equal(metrics_sum(M_TLS_HS_FAILED) - failed, 30);
	assert_int_equal(metrics_sum(M_TLS_HS_NO_PLACE) - refused, 0);
	for (uint32_t i = 10; i < 40; i++)
		fake.ev->released(fake.arg, i);
	conn_background(s);
	assert_int_equal(metrics_sum(M_TLS_HS_WAITING), 0);
}

/* To a phone for which there is no place within the time: a reset at once, which it understands, and
 * which says nothing about its password. */
static void who_waits_too_long_is_reset_and_counted(void **state)
{
	struct shard *s = server.shards[0];
	int64_t refused = metrics_sum(M_TLS_HS_NO_PLACE);

	(void)state;
	for (uint32_t i = 0; i < 41; i++)
		calls(i);
	assert_int_equal(s->want_handshake.count, 1);
	for (int k = 0; k < 8; k++) {
		/* those in front live on */
		for (uint32_t i = 0; i < 40; i++)
			conn_deadline(s, i, 600);
		wait_s(7);
		assert_false(fake.closed[40]);
	}
	wait_s(7);
	assert_true(fake.closed[40] && fake.reset[40]);
	assert_int_equal(metrics_sum(M_TLS_HS_NO_PLACE) - refused, 1);
	assert_int_equal(s->want_handshake.count, 0);
	assert_int_equal(metrics_sum(M_TLS_HS_WAITING), 0);
}

/* To a phone whose request finds no memory in time: 503, and when to come again, spread. */
static void a_request_without_room_is_told_when_to_come_again(void **state)
{
	struct shard *s = server.shards[0];
	bool seen[61] = {false};
	int kinds = 0;

	(void)state;
	s->active_max = 0;
	for (uint32_t i = 0; i < 20; i++) {
		conn_accepted(s, i, LISTENER_HTTP, &peer);
		conn_readable(s, i);
	}
	assert_int_equal(s->want_active.count, 20);
	wait_s(31);
	for (uint32_t i = 0; i < 20; i++) {
		const char *after = strstr(fake.said[i], "Retry-After: ");

		assert_int_equal(strncmp(fake.said[i], "HTTP/1.1 503 ", 13), 0);
		assert_non_null(strstr(fake.said[i], "Connection: close\r\n"));
		assert_non_null(after);
		assert_in_range(atoi(after + 13), 30, 60);
		kinds += !seen[atoi(after + 13)];
		seen[atoi(after + 13)] = true;
		fake.ev->sent(fake.arg, i, 0);
		assert_true(fake.closed[i] && !fake.reset[i]);
	}
	assert_true(kinds > 5);
	assert_int_equal(s->want_active.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_wake_comes_before_the_next_handshake, begin, end),
		cmocka_unit_test_setup_teardown(
			others_wait_their_turn_and_are_then_not_hurried, begin, end),
		cmocka_unit_test_setup_teardown(
			who_waits_too_long_is_reset_and_counted, begin, end),
		cmocka_unit_test_setup_teardown(
			a_request_without_room_is_told_when_to_come_again, begin, end),
	};

	return cmocka_run_group_tests_name("storm", tests, NULL, NULL);
}
