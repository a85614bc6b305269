/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Records after the detach. The source is included, not linked: the peer of these tests must be
 * able to seal what tlsrec itself would never send. */
#include "io/tlsrec.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include <stdlib.h>

static const struct combo {
	const char *name;
	enum tlsrec_aead aead;
	bool tls13;
} combos[] = {
	{"TLS 1.3 AES-128-GCM", TLSREC_AES128_GCM, true},
	{"TLS 1.3 AES-256-GCM", TLSREC_AES256_GCM, true},
	{"TLS 1.3 ChaCha20", TLSREC_CHACHA20_POLY1305, true},
	{"TLS 1.2 AES-128-GCM", TLSREC_AES128_GCM, false},
	{"TLS 1.2 AES-256-GCM", TLSREC_AES256_GCM, false},
	{"TLS 1.2 ChaCha20", TLSREC_CHACHA20_POLY1305, false},
};

/* `a` is the client, `b` the server; both begin at sequence number `seq`. */
static void make_ends(const struct combo *k, struct tlsrec *a, struct tlsrec *b, uint32_t seq)
{
	uint8_t up[48], down[48];

	for (size_t i = 0; i < sizeof(up); i++) {
		up[i] = (uint8_t)i;
		down[i] = (uint8_t)(0x80 + i);
	}
	if (k->tls13) {
		assert_true(tlsrec_init13(a, k->aead, true, down, up, seq, seq));
		assert_true(tlsrec_init13(b, k->aead, false, up, down, seq, seq));
	} else {
		tlsrec_init12(a, k->aead, true, down, down + 32, up, up + 32, seq, seq, 1000);
		tlsrec_init12(
			b, k->aead, false, up, up + 32, down, down + 32, seq, seq, UINT64_MAX);
	}
}

static size_t from_hex(const char *hex, uint8_t *out)
{
	size_t n = 0;
	unsigned byte;

	while (*hex) {
		if (*hex == ' ') {
			hex++;
			continue;
		}
		assert_int_equal(sscanf(hex, "%2x", &byte), 1);
		out[n++] = (uint8_t)byte;
		hex += 2;
	}
	return n;
}

/* Added to the codes of warnings. */
enum { WARNING = 256 };

/* What alert a sealed reply holds, seen by the end it goes to (whose state moves on). */
static int alert_in(struct tlsrec *to, uint8_t *reply, size_t n)
{
	uint8_t *body = reply + TLSREC_HEADER_BYTES;
	size_t explicit_bytes = has_explicit_nonce(to) ? EXPLICIT_BYTES : 0;
	size_t plain_bytes = n - TLSREC_HEADER_BYTES - explicit_bytes - TAG_BYTES;
	uint8_t nonce[12], aad[13];

	assert_int_equal(load_be16(reply + 3), n - TLSREC_HEADER_BYTES);
	if (to->tls13) {
		const uint8_t *key, *iv;

		assert_true(rx_keys(to, &key, &iv));
		nonce_xor(iv, to->rx.seq, nonce);
		assert_true(aead_run(to, key, false, body, plain_bytes, body + plain_bytes, reply,
			TLSREC_HEADER_BYTES, nonce));
		assert_int_equal(plain_bytes, 3);
		assert_int_equal(body[2], TYPE_ALERT);
	} else {
		assert_int_equal(reply[0], TYPE_ALERT);
		assert_int_equal(plain_bytes, 2);
		nonce_xor(to->rx.iv, to->rx.seq, nonce);
		if (explicit_bytes) {
			memcpy(nonce, to->rx.iv, 4);
			memcpy(nonce + 4, body, EXPLICIT_BYTES);
		}
		body += explicit_bytes;
		aad12(to->rx.seq, TYPE_ALERT, plain_bytes, aad);
		assert_true(aead_run(
			to, to->rx.key, false, body, 2, body + 2, aad, sizeof(aad), nonce));
	}
	to->rx.seq++;
	return body[0] == ALERT_FATAL ? body[1] : WARNING + body[1];
}

static enum tlsrec_result open_one(struct tlsrec *r, uint8_t *p, size_t n, struct tlsrec_in *in)
{
	tlsrec_open(r, p, n, in);
	if (in->result != TLSREC_DATA) {
		assert_null(in->data);
		assert_int_equal(in->data_bytes, 0);
	}
	assert_true(in->reply_bytes <= TLSREC_REPLY_MAX);
	if (in->result == TLSREC_ERROR)
		assert_non_null(in->why);
	return in->result;
}

/* `from` sends a record of any type; `to` must answer with this result and alert (0: none). */
static void expect(struct tlsrec *from, struct tlsrec *to, uint8_t type, const void *p, size_t n,
	enum tlsrec_result result, int alert)
{
	static uint8_t record[TLSREC_RECORD_MAX + 64];
	struct tlsrec_in in;
	size_t record_bytes = seal_record(from, type, p, n, record);

	assert_int_not_equal(record_bytes, 0);
	assert_int_equal(open_one(to, record, record_bytes, &in), result);
	if (alert == 0) {
		assert_int_equal(in.reply_bytes, 0);
		return;
	}
	assert_int_not_equal(in.reply_bytes, 0);
	assert_int_equal(alert_in(from, in.reply, in.reply_bytes), alert);
}

static void expect_data(struct tlsrec *from, struct tlsrec *to)
{
	uint8_t record[128];
	struct tlsrec_in in;
	size_t n = tlsrec_seal(from, (const uint8_t *)"still here", 10, record);

	assert_int_equal(open_one(to, record, n, &in), TLSREC_DATA);
	assert_int_equal(in.consumed, n);
	assert_int_equal(in.data_bytes, 10);
	assert_memory_equal(in.data, "still here", 10);
}

/* To every client: RFC 8448 section 3, the records behind the handshake. */
static void rfc8448_trace_is_reproduced(void **state)
{
	static const char up_hex[] =
		"9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
	static const char down_hex[] =
		"a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
	static const char up_record_hex[] =
		"1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b"
		"395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
	static const char down_record_hex[] =
		"17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6"
		"dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
	static const char up_alert_hex[] = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
	static const char down_alert_hex[] = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";
	uint8_t up[32], down[32], wanted[128], plain[50], out[128];
	struct tlsrec client, server;
	struct tlsrec_in in;

	(void)state;
	assert_int_equal(from_hex(up_hex, up), 32);
	assert_int_equal(from_hex(down_hex, down), 32);
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)i;
	/* The server's first record was its NewSessionTicket. */
	assert_true(tlsrec_init13(&client, TLSREC_AES128_GCM, true, down, up, 1, 0));
	assert_true(tlsrec_init13(&server, TLSREC_AES128_GCM, false, up, down, 0, 1));

	size_t n = from_hex(up_record_hex, wanted);
	assert_int_equal(tlsrec_seal(&client, plain, sizeof(plain), out), n);
	assert_memory_equal(out, wanted, n);
	assert_int_equal(open_one(&server, out, n, &in), TLSREC_DATA);
	assert_int_equal(in.data_bytes, sizeof(plain));
	assert_memory_equal(in.data, plain, sizeof(plain));

	n = from_hex(down_record_hex, wanted);
	assert_int_equal(tlsrec_seal(&server, plain, sizeof(plain), out), n);
	assert_memory_equal(out, wanted, n);
	assert_int_equal(open_one(&client, out, n, &in), TLSREC_DATA);

	n = from_hex(up_alert_hex, wanted);
	assert_int_equal(tlsrec_close_notify(&client, out), n);
	assert_memory_equal(out, wanted, n);
	assert_int_equal(open_one(&server, out, n, &in), TLSREC_CLOSED);
	n = from_hex(down_alert_hex, wanted);
	assert_int_equal(in.reply_bytes, n);
	assert_memory_equal(in.reply, wanted, n);
}

/* To every client: the other suites against records made by another implementation (pyca
 * cryptography), the second after a KeyUpdate. */
static void other_suites_match_an_independent_implementation(void **state)
{
	static const struct {
		unsigned combo;
		const char *first, *updated;
	} known[] = {
		{0, "170303002126d7f87830ed2cb309b9a3af047833d7178e311a00355d10b97a5f6913c727520c",
			"17030300219d713b46361292f1d104ad3f23cfdb6142ba89e5a1f396d938095bfce715d444"
			"a"
			"c"},
		{1, "170303002185360f9094ad51f0762ec117e9c2b9719c4e4b904f05bc97396007a388541e5a9f",
			"17030300216bd0f7a7a826d722fe9f10e167e1b300b48194ff349db737a932238e91c1142e"
			"4"
			"e"},
		{2, "17030300216cec00574847c946e1be25b8ef8b3ea08d4dd6fc5bba4d8de1a57258790198afda",
			"1703030021554e65db1d818ec51c9ddbd354a86cb8b06caf97be32930bcf2ba88ad2c22e7d"
			"d"
			"a"},
		{3,
			"17030300281122334455667788099868c4e9eaacd395f7d73a3e6d415a0f4833ebafe4bc68"
			"5a"
			"8089dbf65273a9",
			NULL},
		{4,
			"1703030028112233445566778874f291f87e6584c96dc6793b19b86b3df39c196fe54727eb"
			"28"
			"fc24c602c4e116",
			NULL},
		{5, "1703030020dd91e6856d826b59f22ccc8339818a4a12d3ec37315cc14d33eb767be07db54f",
			NULL},
	};
	uint8_t secret[48], key[32], iv[12], wanted[128], out[128];

	(void)state;
	for (size_t i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)i;
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(0x40 + i);
	for (size_t i = 0; i < sizeof(iv); i++)
		iv[i] = (uint8_t)(0xa0 + i);
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		const struct combo *k = &combos[known[i].combo];
		struct tlsrec r;
		if (k->tls13)
			assert_true(tlsrec_init13(&r, k->aead, false, secret, secret, 5, 5));
		else
			tlsrec_init12(
				&r, k->aead, false, key, iv, key, iv, 5, 5, 0x1122334455667788u);
		size_t n = from_hex(known[i].first, wanted);
		assert_int_equal(
			tlsrec_seal(&r, (const uint8_t *)"GET / HTTP/1.1\r\n", 16, out), n);
		assert_memory_equal(out, wanted, n);
		if (!known[i].updated)
			continue;
		assert_int_not_equal(tlsrec_key_update(&r, false, out), 0);
		n = from_hex(known[i].updated, wanted);
		assert_int_equal(
			tlsrec_seal(&r, (const uint8_t *)"GET / HTTP/1.1\r\n", 16, out), n);
		assert_memory_equal(out, wanted, n);
	}
}

/* To the caller: sizes are as announced, and cuts of the network cost nothing. */
static void every_suite_goes_both_ways(void **state)
{
	static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 1400, TLSREC_PLAIN_MAX};
	static uint8_t plain[TLSREC_PLAIN_MAX], out[2 * TLSREC_RECORD_MAX];

	(void)state;
	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * 7);
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		struct tlsrec ends[2];
		make_ends(&combos[k], &ends[0], &ends[1], 1);
		for (size_t i = 0; i < 2 * ARRAY_LEN(sizes); i++) {
			struct tlsrec *from = &ends[i % 2], *to = &ends[1 - i % 2];
			size_t n = sizes[i / 2];
			struct tlsrec_in in;
			size_t wanted = tlsrec_sealed_bytes(from, n);
			assert_true(wanted <= n + TLSREC_OVERHEAD_MAX);
			size_t sealed = tlsrec_seal(from, plain, n, out);
			assert_int_equal(sealed, wanted);
			/* a second one behind it stays untouched */
			size_t second = tlsrec_seal(from, plain, 3, out + sealed);
			for (size_t have = 0; have < sealed; have += have < 40 ? 1 : 997) {
				assert_int_equal(open_one(to, out, have, &in), TLSREC_NEED_MORE);
				assert_int_equal(in.consumed, 0);
			}
			assert_int_equal(open_one(to, out, sealed + second, &in), TLSREC_DATA);
			assert_int_equal(in.consumed, sealed);
			assert_int_equal(in.data_bytes, n);
			assert_true(in.data >= out && in.data + n <= out + sealed);
			if (n)
				assert_memory_equal(in.data, plain, n);
			assert_int_equal(open_one(to, out + sealed, second, &in), TLSREC_DATA);
			assert_int_equal(in.data_bytes, 3);
		}
		/* A parked slot moves. */
		struct tlsrec moved[2];
		memcpy(moved, ends, sizeof(ends));
		memset(ends, 0xff, sizeof(ends));
		expect_data(&moved[0], &moved[1]);
		expect_data(&moved[1], &moved[0]);
	}
}

/* To the answer path: a body built where its record will lie is sealed without a copy, and any
 * other overlap is right too. */
static void plain_text_may_lie_inside_the_output(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		for (int rekey = 0; rekey < 2; rekey++) {
			struct tlsrec a, b;
			struct tlsrec_in in;
			make_ends(&combos[k], &a, &b, 1);
			if (rekey)
				a.tx.seq = b.rx.seq = TLSREC_REKEY_RECORDS - 1;
			for (size_t at = 0; at < 60; at++) {
				uint8_t out[256];
				struct tlsrec a1 = a, b1 = b;
				size_t where = at == 0 ? tlsrec_plain_offset(&a1) : at - 1;
				memset(out, 'x', sizeof(out));
				memcpy(out + where, "plain text of a body", 20);
				size_t n = tlsrec_seal(&a1, out + where, 20, out), used = 0;
				assert_int_equal(n, tlsrec_sealed_bytes(&a, 20));
				if (where + 20 <= n)
					assert_int_equal(out[n], 'x');
				if (rekey && combos[k].tls13) {
					assert_int_equal(
						open_one(&b1, out, n, &in), TLSREC_HANDLED);
					assert_int_equal(in.reply_bytes, 0);
					used = in.consumed;
				}
				assert_int_equal(
					open_one(&b1, out + used, n - used, &in), TLSREC_DATA);
				assert_int_equal(in.consumed, n - used);
				assert_int_equal(in.data_bytes, 20);
				assert_memory_equal(in.data, "plain text of a body", 20);
			}
		}
	}
}

/* Against a man in the middle: no bit of a record can change, and afterwards nothing is read. */
static void a_tampered_record_never_yields_data(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		struct tlsrec a, b;
		uint8_t record[128], copy[128];
		make_ends(&combos[k], &a, &b, 1);
		size_t n = tlsrec_seal(&a, (const uint8_t *)"attack at dawn", 14, record);
		for (size_t bit = 0; bit < n * 8; bit++) {
			struct tlsrec b1 = b, a1 = a;
			struct tlsrec_in in;
			memcpy(copy, record, n);
			copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
			enum tlsrec_result result = open_one(&b1, copy, n, &in);
			/* A longer length waits for bytes that will not help. */
			if (result == TLSREC_NEED_MORE) {
				assert_true(bit / 8 == 3 || bit / 8 == 4);
				continue;
			}
			assert_int_equal(result, TLSREC_ERROR);
			assert_true(alert_in(&a1, in.reply, in.reply_bytes) > 0);
			assert_true(b1.dead);
			memcpy(copy, record, n);
			assert_int_equal(open_one(&b1, copy, n, &in), TLSREC_ERROR);
			assert_int_equal(in.reply_bytes, 0);
			assert_int_equal(tlsrec_seal(&b1, copy, 1, record + 64), 0);
		}
	}
}

static void records_do_not_change_places(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		struct tlsrec a, b, b1;
		struct tlsrec_in in;
		uint8_t one[64], two[64], copy[64];
		make_ends(&combos[k], &a, &b, 1);
		size_t n = tlsrec_seal(&a, (const uint8_t *)"one", 3, one);
		tlsrec_seal(&a, (const uint8_t *)"two", 3, two);
		b1 = b; /* the second first */
		memcpy(copy, two, n);
		assert_int_equal(open_one(&b1, copy, n, &in), TLSREC_ERROR);
		memcpy(copy, one, n); /* the first twice */
		assert_int_equal(open_one(&b, copy, n, &in), TLSREC_DATA);
		assert_int_equal(open_one(&b, one, n, &in), TLSREC_ERROR);
		/* our own record sent back to us */
		make_ends(&combos[k], &a, &b, 1);
		n = tlsrec_seal(&a, (const uint8_t *)"echo", 4, one);
		assert_int_equal(open_one(&a, one, n, &in), TLSREC_ERROR);
	}
}

/* To OpenSSL's `K` and `k`: chains of KeyUpdate from both sides, data in between. */
static void key_updates_chain(void **state)
{
	(void)state;
	for (size_t k = 0; k < 3; k++) {
		struct tlsrec ends[2];
		make_ends(&combos[k], &ends[0], &ends[1], 0);
		for (int i = 0; i < 200; i++) {
			struct tlsrec *from = &ends[i / 3 % 2], *to = &ends[1 - i / 3 % 2];
			uint8_t update[TLSREC_REPLY_MAX];
			struct tlsrec_in in, back;
			bool ask = i % 5 < 3;
			uint8_t old_tx[48];
			memcpy(old_tx, to->tx.secret, 48);
			size_t n = tlsrec_key_update(from, ask, update);
			assert_int_equal(n, KEY_UPDATE_RECORD_BYTES);
			assert_int_equal(open_one(to, update, n, &in), TLSREC_HANDLED);
			assert_int_equal(in.consumed, n);
			if (ask) {
				/* answered under the old key, which changes behind it */
				assert_int_equal(in.reply_bytes, KEY_UPDATE_RECORD_BYTES);
				assert_memory_not_equal(to->tx.secret, old_tx, 32);
				assert_int_equal(open_one(from, in.reply, in.reply_bytes, &back),
					TLSREC_HANDLED);
				assert_int_equal(back.reply_bytes, 0);
			} else {
				assert_int_equal(in.reply_bytes, 0);
				assert_memory_equal(to->tx.secret, old_tx, 48);
			}
			if (i % 4 == 0) {
				expect_data(from, to);
				expect_data(to, from);
			}
		}
	}
	struct tlsrec a, b;
	uint8_t out[64];
	make_ends(&combos[3], &a, &b, 1);
	assert_int_equal(tlsrec_key_update(&a, false, out), 0); /* TLS 1.2 has none */
	expect_data(&a, &b);
}

/* Against a peer that only makes us work. */
static void records_without_data_are_bounded(void **state)
{
	static const uint8_t update[5] = {HS_KEY_UPDATE, 0, 0, 1, 0};

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		struct tlsrec a, b;
		make_ends(&combos[k], &a, &b, 1);
		for (int round = 0; round < 3; round++) {
			for (int i = 0; i < TLSREC_RUN_MAX; i++)
				expect(&a, &b, TYPE_DATA, "", 0, TLSREC_DATA, 0);
			expect_data(&a, &b); /* begins anew */
		}
		for (int i = 0; i < TLSREC_RUN_MAX; i++)
			expect(&a, &b, TYPE_DATA, "", 0, TLSREC_DATA, 0);
		/* parting is always welcome */
		struct tlsrec a1 = a, b1 = b;
		expect(&a1, &b1, TYPE_ALERT, "\1\0", 2, TLSREC_CLOSED, WARNING + AL_CLOSE_NOTIFY);
		expect(&a, &b, TYPE_DATA, "", 0, TLSREC_ERROR, AL_UNEXPECTED_MESSAGE);
	}
	for (size_t k = 0; k < 3; k++) {
		struct tlsrec a, b;
		make_ends(&combos[k], &a, &b, 1);
		for (int i = 0; i < TLSREC_RUN_MAX; i++) {
			expect(&a, &b, TYPE_HANDSHAKE, update, sizeof(update), TLSREC_HANDLED, 0);
			assert_true(next_tx(&a));
		}
		expect(&a, &b, TYPE_HANDSHAKE, update, sizeof(update), TLSREC_ERROR,
			AL_UNEXPECTED_MESSAGE);
	}
}

static void sizes_are_limited(void **state)
{
	static uint8_t big[TLSREC_PLAIN_MAX + 2], record[TLSREC_RECORD_MAX + 64];
	struct tlsrec_in in;

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		struct tlsrec a, b;
		make_ends(&combos[k], &a, &b, 1);
		expect(&a, &b, TYPE_DATA, big, TLSREC_PLAIN_MAX, TLSREC_DATA, 0);
		expect(&a, &b, TYPE_DATA, big, TLSREC_PLAIN_MAX + 1, TLSREC_ERROR,
			AL_RECORD_OVERFLOW);
		/* refused by its header: nobody waits for the body */
		make_ends(&combos[k], &a, &b, 1);
		const uint8_t header[5] = {23, 3, 3, (16384 + 257) >> 8, (16384 + 257) & 0xff};
		memcpy(record, header, 5);
		assert_int_equal(open_one(&b, record, 5, &in), TLSREC_ERROR);
		assert_int_equal(alert_in(&a, in.reply, in.reply_bytes), AL_RECORD_OVERFLOW);
		/* too short to hold what a record must hold */
		for (uint8_t n = 0; n < 24; n++) {
			make_ends(&combos[k], &a, &b, 1);
			const uint8_t little[5] = {23, 3, 3, 0, n};
			memset(record, 0, 64);
			memcpy(record, little, 5);
			assert_int_equal(open_one(&b, record, 64, &in), TLSREC_ERROR);
			assert_int_equal(alert_in(&a, in.reply, in.reply_bytes), AL_BAD_RECORD_MAC);
		}
	}
}

/* RFC 8446 5.4: padding is invisible, but must pad something. */
static void padding_is_taken_off(void **state)
{
	(void)state;
	for (size_t k = 0; k < 3; k++) {
		struct tlsrec a, b;
		struct tlsrec_in in;
		uint8_t record[256] = {23, 3, 3, 0, 100 + TAG_BYTES}, nonce[12];
		make_ends(&combos[k], &a, &b, 0);
		memcpy(record + 5, "padded", 6);
		record[11] = TYPE_DATA;
		nonce_xor(a.tx.iv, a.tx.seq, nonce);
		assert_true(aead_run(
			&a, a.tx.key, true, record + 5, 100, record + 105, record, 5, nonce));
		a.tx.seq++;
		assert_int_equal(open_one(&b, record, 121, &in), TLSREC_DATA);
		assert_int_equal(in.data_bytes, 6);
		assert_memory_equal(in.data, "padded", 6);
		expect(&a, &b, 0, "\0\0\0\0", 4, TLSREC_ERROR, AL_UNEXPECTED_MESSAGE);
	}
}

static void alerts_are_answered(void **state)
{
	struct tlsrec a, b, a0, b0;
	struct tlsrec_in in;
	uint8_t out[TLSREC_REPLY_MAX];

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		make_ends(&combos[k], &a0, &b0, 1);
		a = a0, b = b0;
		expect(&a, &b, TYPE_ALERT, "\1\0", 2, TLSREC_CLOSED, WARNING + AL_CLOSE_NOTIFY);
		assert_int_equal(tlsrec_close_notify(&b, out), 0); /* it was the reply */
		assert_int_equal(tlsrec_key_update(&b, false, out), 0);
		a = a0, b = b0;
		expect(&a, &b, TYPE_ALERT, "\2\60", 2, TLSREC_ERROR, 0); /* fatal: no answer */
		a = a0, b = b0;
		expect(&a, &b, TYPE_ALERT, "\1\132", 2, TLSREC_HANDLED, 0); /* user_canceled */
		expect(&a, &b, TYPE_ALERT, "\1\0", 2, TLSREC_CLOSED, WARNING + AL_CLOSE_NOTIFY);
		a = a0, b = b0;
		expect(&a, &b, TYPE_ALERT, "\1", 1, TLSREC_ERROR, AL_DECODE_ERROR);
		a = a0, b = b0;
		expect(&a, &b, TYPE_ALERT, "\1\0\1\0", 4, TLSREC_ERROR, AL_DECODE_ERROR);
		/* TLS 1.3 knows no other warnings (RFC 8446 6.2) */
		a = a0, b = b0;
		expect(&a, &b, TYPE_ALERT, "\1\144", 2,
			combos[k].tls13 ? TLSREC_ERROR : TLSREC_HANDLED, 0);
		/* ours, and the peer's answer */
		a = a0, b = b0;
		size_t n = tlsrec_close_notify(&b, out);
		assert_true(n > 0 && n <= sizeof(out));
		assert_int_equal(tlsrec_seal(&b, out, 1, out), 0);
		assert_int_equal(open_one(&a, out, n, &in), TLSREC_CLOSED);
	}
}

static void other_record_types_are_refused(void **state)
{
	struct tlsrec a, b, a0, b0;
	struct tlsrec_in in;

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		make_ends(&combos[k], &a0, &b0, 1);
		/* in the clear, as a middlebox or an attacker would */
		static const uint8_t types[] = {0, 19, 20, 21, 22, 24, 71, 128, 255};
		for (size_t i = 0; i < sizeof(types); i++) {
			uint8_t record[64] = {types[i], 3, 3, 0, 1, 1};
			a = a0, b = b0;
			assert_int_equal(open_one(&b, record, 6, &in), TLSREC_ERROR);
			int alert = alert_in(&a, in.reply, in.reply_bytes);
			bool known = types[i] >= 20 && types[i] <= 23;
			assert_int_equal(alert, !known || combos[k].tls13 ? AL_UNEXPECTED_MESSAGE
									  : AL_BAD_RECORD_MAC);
		}
		a = a0, b = b0;
		expect(&a, &b, TYPE_CCS, "\1", 1, TLSREC_ERROR, AL_UNEXPECTED_MESSAGE);
		if (combos[k].tls13) {
			a = a0, b = b0;
			expect(&a, &b, 24, "x", 1, TLSREC_ERROR, AL_UNEXPECTED_MESSAGE);
		}
	}
}

static void handshake_messages_are_held_to_the_rules(void **state)
{
	static const uint8_t ticket[] = {HS_NEW_SESSION_TICKET, 0, 0, 3, 1, 2, 3};
	static const uint8_t tickets[] = {
		HS_NEW_SESSION_TICKET, 0, 0, 1, 9, HS_NEW_SESSION_TICKET, 0, 0, 2, 8, 7};
	static const uint8_t mixed[] = {
		HS_NEW_SESSION_TICKET, 0, 0, 1, 9, HS_KEY_UPDATE, 0, 0, 1, 0};
	static const uint8_t longer[] = {HS_KEY_UPDATE, 0, 0, 1, 0, HS_KEY_UPDATE, 0, 0, 1, 0};
	static const uint8_t cut[] = {HS_NEW_SESSION_TICKET, 0, 1, 0, 9};
	struct tlsrec a, b, a0, b0;

	(void)state;
	for (size_t k = 0; k < 3; k++) {
		make_ends(&combos[k], &a0, &b0, 1);
		a = a0, b = b0; /* tickets: server to client only */
		expect(&b, &a, TYPE_HANDSHAKE, ticket, sizeof(ticket), TLSREC_HANDLED, 0);
		expect(&b, &a, TYPE_HANDSHAKE, tickets, sizeof(tickets), TLSREC_HANDLED, 0);
		expect(&b, &a, TYPE_HANDSHAKE, mixed, sizeof(mixed), TLSREC_HANDLED, 0);
		assert_true(next_tx(&b));
		expect_data(&b, &a);
		expect(&a, &b, TYPE_HANDSHAKE, ticket, sizeof(ticket), TLSREC_ERROR,
			AL_UNEXPECTED_MESSAGE);
		static const struct {
			const void *p;
			size_t n;
			int alert;
		} bad[] = {
			{"", 0, AL_UNEXPECTED_MESSAGE}, {"\30", 1, AL_UNEXPECTED_MESSAGE},
			{"\30\0\0\1", 4, AL_UNEXPECTED_MESSAGE},
			{"\30\0\0\1\2", 5, AL_ILLEGAL_PARAMETER}, {"\30\0\0\0", 4, AL_DECODE_ERROR},
			{"\30\0\0\2\0\0", 6, AL_DECODE_ERROR},
			{longer, sizeof(longer), AL_UNEXPECTED_MESSAGE},
			{cut, sizeof(cut), AL_UNEXPECTED_MESSAGE},
			{"\1\0\0\0", 4, AL_UNEXPECTED_MESSAGE},  /* ClientHello */
			{"\15\0\0\0", 4, AL_UNEXPECTED_MESSAGE}, /* CertificateRequest */
		};
		for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
			a = a0, b = b0;
			expect(&a, &b, TYPE_HANDSHAKE, bad[i].p, bad[i].n, TLSREC_ERROR,
				bad[i].alert);
			a = a0, b = b0;
			expect(&b, &a, TYPE_HANDSHAKE, bad[i].p, bad[i].n, TLSREC_ERROR,
				bad[i].alert);
		}
	}
	/* TLS 1.2: renegotiation is declined and the session goes on. */
	for (size_t k = 3; k < ARRAY_LEN(combos); k++) {
		make_ends(&combos[k], &a, &b, 1);
		expect(&a, &b, TYPE_HANDSHAKE, "\1\0\0\1x", 5, TLSREC_HANDLED,
			WARNING + AL_NO_RENEGOTIATION);
		expect_data(&a, &b);
		expect_data(&b, &a);
		expect(&b, &a, TYPE_HANDSHAKE, "\0\0\0\0", 4, TLSREC_HANDLED,
			WARNING + AL_NO_RENEGOTIATION);
		expect_data(&b, &a);
		expect(&a, &b, TYPE_HANDSHAKE, "\30\0\0\1\0", 5, TLSREC_ERROR,
			AL_UNEXPECTED_MESSAGE);
	}
}

/* RFC 8446 5.5: new keys before the old ones have seen too much; TLS 1.2 ends instead. */
static void keys_are_renewed_in_time(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(combos); k++) {
		struct tlsrec a, b;
		uint8_t out[128];
		struct tlsrec_in in;
		make_ends(&combos[k], &a, &b, 1);
		a.tx.seq = b.rx.seq = TLSREC_REKEY_RECORDS - 3;
		expect_data(&a, &b);
		expect_data(&a, &b);
		size_t wanted = tlsrec_sealed_bytes(&a, 10);
		size_t n = tlsrec_seal(&a, (const uint8_t *)"still here", 10, out);
		assert_int_equal(n, wanted);
		size_t used = 0;
		if (combos[k].tls13) {
			assert_int_equal(open_one(&b, out, n, &in), TLSREC_HANDLED);
			used = in.consumed;
			assert_int_equal(a.tx.seq, 1);
		} else {
			assert_int_equal(a.tx.seq, TLSREC_REKEY_RECORDS);
		}
		assert_int_equal(open_one(&b, out + used, n - used, &in), TLSREC_DATA);
		expect_data(&a, &b);

		make_ends(&combos[k], &a, &b, 1);
		b.rx.seq = UINT32_MAX;
		n = tlsrec_seal(&a, (const uint8_t *)"x", 1, out);
		assert_int_equal(open_one(&b, out, n, &in), TLSREC_ERROR);
		if (!combos[k].tls13) {
			a.tx.seq = UINT32_MAX;
			assert_int_equal(tlsrec_seal(&a, (const uint8_t *)"x", 1, out), 0);
			assert_true(a.dead);
		}
	}
}

/* A GCM nonce used twice gives the key away: it counts up from where the handshake left off. */
static void tls12_gcm_nonces_never_repeat(void **state)
{
	struct tlsrec a, b;
	uint8_t out[64];
	struct tlsrec_in in;

	(void)state;
	make_ends(&combos[3], &a, &b, 1); /* b begins at the largest nonce */
	for (uint64_t i = 0; i < 5; i++) {
		size_t n = tlsrec_seal(&b, (const uint8_t *)"x", 1, out);
		assert_int_equal(load_be64(out + 5), UINT64_MAX + i);
		assert_int_equal(open_one(&a, out, n, &in), TLSREC_DATA);
		tlsrec_seal(&a, (const uint8_t *)"x", 1, out);
		assert_int_equal(load_be64(out + 5), 1000 + i);
	}
}

static void wiping_leaves_no_secret(void **state)
{
	static const uint8_t zero[sizeof(struct tlsrec_tx)];
	struct tlsrec a, b;
	struct tlsrec_in in;
	uint8_t out[64];

	(void)state;
	make_ends(&combos[0], &a, &b, 1);
	/* (read, so that the keys were derived) */
	assert_int_equal(
		open_one(&a, out, tlsrec_seal(&b, (const uint8_t *)"x", 1, out), &in), TLSREC_DATA);
	tlsrec_wipe(&a);
	assert_memory_equal(&a.rx, zero, sizeof(a.rx));
	assert_memory_equal(&a.tx, zero, sizeof(zero));
	assert_memory_equal(&last_rx, zero, sizeof(last_rx));
	assert_int_equal(tlsrec_seal(&a, out, 1, out), 0);
	assert_int_equal(tlsrec_close_notify(&a, out), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rfc8448_trace_is_reproduced),
		cmocka_unit_test(other_suites_match_an_independent_implementation),
		cmocka_unit_test(every_suite_goes_both_ways),
		cmocka_unit_test(plain_text_may_lie_inside_the_output),
		cmocka_unit_test(a_tampered_record_never_yields_data),
		cmocka_unit_test(records_do_not_change_places),
		cmocka_unit_test(key_updates_chain),
		cmocka_unit_test(records_without_data_are_bounded),
		cmocka_unit_test(sizes_are_limited),
		cmocka_unit_test(padding_is_taken_off),
		cmocka_unit_test(alerts_are_answered),
		cmocka_unit_test(other_record_types_are_refused),
		cmocka_unit_test(handshake_messages_are_held_to_the_rules),
		cmocka_unit_test(keys_are_renewed_in_time),
		cmocka_unit_test(tls12_gcm_nonces_never_repeat),
		cmocka_unit_test(wiping_leaves_no_secret),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("tlsrec", tests, NULL, NULL);
}
