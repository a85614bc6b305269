/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The connections of a shard as bytes: what goes in comes out, and whatever is not exactly that is
 * refused as a whole, before anything of it is used. */
#include "core/upgrade/handover_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const uint32_t many[] = {64, 1000, 70};

static struct handover_slot sample(unsigned i)
{
	struct handover_slot s = {
		.kind = (enum handover_kind)(1 + i % 4),
		.slot = i * 3,
		.flags = HANDOVER_TLS_PORT,
		.version = 141,
		.request_id = 0x0102030405060708u + i,
		.peer = {.ip = {[15] = (uint8_t)i}, .port = (uint16_t)(i + 1000)},
	};

	if (s.kind != HANDOVER_GREETED) {
		s.flags |= HANDOVER_TLS | HANDOVER_KEEP_ALIVE;
		s.tls.aead = TLSREC_AES128_GCM + i % 3;
		s.tls.tls13 = i % 2;
		s.tls.run = (uint8_t)(i % TLSREC_RUN_MAX);
		s.tls.rx.seq = i * 7;
		s.tls.tx.seq = i * 11;
		memset(s.tls.rx.secret, (int)i, sizeof(s.tls.rx.secret));
		memset(s.tls.tx.key, (int)i + 1, sizeof(s.tls.tx.key));
		memset(s.tls.tx.iv, (int)i + 2, sizeof(s.tls.tx.iv));
	}
	if (s.kind >= HANDOVER_PING) {
		s.flags |= i % 8 == 3 ? HANDOVER_RECHECK | HANDOVER_HTTP10 : 0;
		s.mailbox = i + 1;
		s.device = i + 2;
		s.folders = 1ull << i % 64;
		s.since_seq = i * 1000;
		s.order = i + 5;
		s.due_ms = 99999 + i;
		s.since_wall_ms = 1700000000000u + i;
		s.heartbeat_s = 900;
		if (i % 5 == 0)
			s.more = bytes_of(many, sizeof(many));
	}
	return s;
}

static struct buf encode(uint32_t n)
{
	struct handover_head h = {.shard = 3,
		.ring_conns = 20000,
		.journal_seen = 77,
		.order = 88,
		.policy_generation = 99};
	struct buf b = {0};

	for (uint32_t i = 0; i < n; i++) {
		h.count++;
		h.more_count += (uint32_t)(sample(i).more.n / 4);
	}
	handover_begin(&b, &h);
	for (uint32_t i = 0; i < n; i++) {
		struct handover_slot s = sample(i);

		handover_add(&b, &s);
	}
	for (uint32_t i = 0; i < n; i++)
		for (size_t k = 0; k < sample(i).more.n / 4; k++)
			handover_add_more(&b, many[k]);
	handover_end(&b);
	assert_false(b.failed);
	assert_int_equal(b.n, handover_bytes(h.count, h.more_count));
	return b;
}

static void same(const struct handover_slot *a, const struct handover_slot *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->slot, b->slot);
	assert_int_equal(a->flags, b->flags);
	assert_int_equal(a->version, b->version);
	assert_int_equal(a->request_id, b->request_id);
	assert_memory_equal(a->peer.ip, b->peer.ip, 16);
	assert_int_equal(a->peer.port, b->peer.port);
	assert_memory_equal(&a->tls.rx, &b->tls.rx, sizeof(a->tls.rx));
	assert_memory_equal(&a->tls.tx, &b->tls.tx, sizeof(a->tls.tx));
	assert_int_equal(a->tls.aead, b->tls.aead);
	assert_int_equal(a->tls.run, b->tls.run);
	assert_int_equal(a->tls.tls13, b->tls.tls13);
	assert_int_equal(a->tls.client, 0);
	assert_int_equal(a->mailbox, b->mailbox);
	assert_int_equal(a->device, b->device);
	assert_int_equal(a->folders, b->folders);
	assert_int_equal(a->since_seq, b->since_seq);
	assert_int_equal(a->order, b->order);
	assert_int_equal(a->due_ms, b->due_ms);
	assert_int_equal(a->since_wall_ms, b->since_wall_ms);
	assert_int_equal(a->heartbeat_s, b->heartbeat_s);
	assert_true(bytes_eq(a->more, b->more));
}

/* To the phone: its keys, counters, folders and deadline are in the new process what they were. */
static void what_goes_in_comes_out(void **state)
{
	struct buf b = encode(200);
	struct handover_reader r;
	struct handover_slot s, want;
	uint32_t n = 0;
	char why[200];

	(void)state;
	assert_true(handover_open(&r, buf_bytes(&b), why, sizeof(why)));
	assert_int_equal(r.head.count, 200);
	assert_int_equal(r.head.shard, 3);
	assert_int_equal(r.head.ring_conns, 20000);
	assert_int_equal(r.head.journal_seen, 77);
	assert_int_equal(r.head.order, 88);
	assert_int_equal(r.head.policy_generation, 99);
	while (handover_next(&r, &s)) {
		want = sample(n++);
		same(&s, &want);
	}
	assert_int_equal(n, 200);
	assert_false(handover_next(&r, &s));
	buf_free(&b);
}

static void nothing_is_a_hand_over_too(void **state)
{
	struct buf b = encode(0);
	struct handover_reader r;
	struct handover_slot s;
	char why[200];

	(void)state;
	assert_true(handover_open(&r, buf_bytes(&b), why, sizeof(why)));
	assert_false(handover_next(&r, &s));
	buf_free(&b);
}

/* To the operator: cut anywhere, it is refused with a reason. */
static void a_part_is_refused(void **state)
{
	struct buf b = encode(9);
	struct handover_reader r;
	char why[200];

	(void)state;
	for (size_t n = 0; n < b.n; n++) {
		why[0] = 0;
		assert_false(handover_open(&r, bytes_of(b.p, n), why, sizeof(why)));
		assert_true(why[0]);
	}
	buf_add_byte(&b, 0);
	assert_false(handover_open(&r, buf_bytes(&b), why, sizeof(why)));
	buf_free(&b);
}

static void any_changed_bit_is_refused(void **state)
{
	struct buf b = encode(9);
	struct handover_reader r;
	char why[200];

	(void)state;
	for (size_t i = 0; i < b.n; i++)
		for (int bit = 0; bit < 8; bit++) {
			b.p[i] ^= (uint8_t)(1 << bit);
			assert_false(handover_open(&r, buf_bytes(&b), why, sizeof(why)));
			b.p[i] ^= (uint8_t)(1 << bit);
		}
	assert_true(handover_open(&r, buf_bytes(&b), why, sizeof(why)));
	buf_free(&b);
}

/* To the operator: another version says which it is and which it reads. */
static void another_format_is_named(void **state)
{
	struct buf b = encode(2);
	struct handover_reader r;
	uint32_t other = HANDOVER_FORMAT + 1;
	char why[200];

	(void)state;
	memcpy(b.p + 8, &other, 4);
	handover_end(&b);
	assert_false(handover_open(&r, buf_bytes(&b), why, sizeof(why)));
	assert_non_null(strstr(why, "format 2"));
	buf_free(&b);
	b = encode(2);
	other = HANDOVER_RECORD_BYTES + 8;
	memcpy(b.p + 16, &other, 4);
	handover_end(&b);
	assert_false(handover_open(&r, buf_bytes(&b), why, sizeof(why)));
	assert_non_null(strstr(why, "296 bytes"));
	buf_free(&b);
}

/* Sums that are right do not make sense of what makes none. */
static void senseless_records_are_refused(void **state)
{
	static const struct {
		unsigned record, at;
		uint8_t value;
	} cases[] = {
		{0, 4, 0},
		{0, 4, 5},
		{1, 5, 0x20},
		{0, 5, 3},
		{1, 5, 1},
		{1, 88 + 60, 1},
		{1, 88 + 192, 9},
		{1, 88 + 193, 200},
		{1, 88 + 194, 2},
		{1, 287, 1},
		{1, 34, 1},
		{1, 36, 1},
		{1, 40, 1},
		{2, 40, 0},
		{2, 44, 0},
		{2, 36, 200},
	};
	struct handover_reader r;
	char why[200];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct buf b = encode(4);

		b.p[HANDOVER_HEAD_BYTES + cases[i].record * HANDOVER_RECORD_BYTES + cases[i].at] =
			cases[i].value;
		handover_end(&b);
		if (handover_open(&r, buf_bytes(&b), why, sizeof(why)))
			fail_msg("case %zu is taken", i);
		buf_free(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_goes_in_comes_out),
		cmocka_unit_test(nothing_is_a_hand_over_too),
		cmocka_unit_test(a_part_is_refused),
		cmocka_unit_test(any_changed_bit_is_refused),
		cmocka_unit_test(another_format_is_named),
		cmocka_unit_test(senseless_records_are_refused),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("handover_state", tests, NULL, NULL);
}
