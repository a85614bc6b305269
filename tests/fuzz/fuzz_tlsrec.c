/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Records from a peer that has the keys but no manners. The input is a list of records: type,
 * length, content, sealed by the peer (or, type 255, put on the wire as they are).
 * Holds: where the network cuts does not matter; a stream with one bit changed yields nothing
 * but the beginning of what the unchanged one yields.
 * The source is included, because the peer seals what tlsrec never would. */
#include "io/tlsrec.c"

#include <stdlib.h>

enum { STREAM_MAX = 1 << 17, SEEN_MAX = 1 << 18 };

static uint8_t stream[STREAM_MAX], work[STREAM_MAX];

/* What an end has seen: data, replies and results, in order. */
struct seen {
	uint8_t p[SEEN_MAX];
	size_t n, data_n;
	bool over;
	struct tlsrec end;
};
static struct seen whole, cut, tampered;

static void note(struct seen *s, const void *p, size_t n)
{
	if (n > sizeof(s->p) - s->n)
		n = sizeof(s->p) - s->n;
	if (n)
		memcpy(s->p + s->n, p, n);
	s->n += n;
}

/* Reads the stream, of which more comes in steps of `step`. */
static void read_stream(struct seen *s, const struct tlsrec *from, size_t n, size_t step)
{
	size_t at = 0, have = 0;

	s->n = s->data_n = 0;
	s->over = false;
	s->end = *from;
	memcpy(work, stream, n);
	for (;;) {
		struct tlsrec_in in;
		tlsrec_open(&s->end, work + at, have - at, &in);
		if (in.result == TLSREC_NEED_MORE) {
			if (in.consumed || in.reply_bytes)
				abort();
			if (have == n)
				return;
			have = n - have < step ? n : have + step;
			continue;
		}
		uint8_t result = (uint8_t)in.result;
		note(s, &result, 1);
		note(s, in.data, in.data_bytes);
		note(s, in.reply, in.reply_bytes);
		s->data_n += in.data_bytes;
		if (in.reply_bytes > sizeof(in.reply) || in.consumed > have - at ||
			(in.data_bytes && (in.result != TLSREC_DATA || in.data < work + at ||
						  in.data + in.data_bytes > work + have)))
			abort();
		at += in.consumed;
		if (in.result == TLSREC_CLOSED || in.result == TLSREC_ERROR) {
			if (!s->end.dead || (in.result == TLSREC_ERROR && !in.why))
				abort();
			s->over = true;
			return;
		}
		if (in.consumed == 0 || s->end.dead)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const enum tlsrec_aead aeads[] = {
		TLSREC_AES128_GCM, TLSREC_AES256_GCM, TLSREC_CHACHA20_POLY1305};
	uint8_t up[48], down[48];
	struct tlsrec us, peer;
	size_t stream_n = 0;

	if (n < 6)
		return 0;
	memset(up, 'u', sizeof(up));
	memset(down, 'd', sizeof(down));
	enum tlsrec_aead aead = aeads[p[0] % 3];
	bool client = p[0] & 16;
	if (p[0] & 32) {
		tlsrec_init13(&us, aead, client, up, down, 0, 0);
		tlsrec_init13(&peer, aead, !client, down, up, 0, 0);
	} else {
		tlsrec_init12(&us, aead, client, up, up, down, down, 1, 1, 7);
		tlsrec_init12(&peer, aead, !client, down, down, up, up, 1, 1, UINT64_MAX - 1);
	}
	if (p[0] & 64)
		us.rx.seq = us.tx.seq = peer.tx.seq = TLSREC_REKEY_RECORDS - 2;
	size_t step = 1 + p[1];
	size_t bit = load_be16(p + 2) * 8u + p[4] % 8;
	p += 5;
	n -= 5;
	while (n >= 3) {
		uint8_t type = p[0];
		size_t len = load_be16(p + 1);
		p += 3;
		n -= 3;
		size_t real = len < n ? len : n;
		/* long records need no long input */
		static uint8_t content[1 << 16];
		memcpy(content, p, real);
		memset(content + real, real ? p[real - 1] : 0, len - real);
		p += real;
		n -= real;
		if (len > TLSREC_PLAIN_MAX + 300)
			len %= TLSREC_PLAIN_MAX + 300;
		if (stream_n + len + 64 > sizeof(stream))
			break;
		if (type == 255) {
			memcpy(stream + stream_n, content, len);
			stream_n += len;
			continue;
		}
		size_t sealed = seal_record(&peer, type, content, len, stream + stream_n);
		if (sealed == 0)
			break;
		stream_n += sealed;
		if (peer.tls13 && type == TYPE_HANDSHAKE && len == 5 && content[0] == HS_KEY_UPDATE)
			next_tx(&peer);
	}

	read_stream(&whole, &us, stream_n, SIZE_MAX);
	read_stream(&cut, &us, stream_n, step);
	if (whole.n != cut.n || memcmp(whole.p, cut.p, whole.n) != 0 || whole.over != cut.over ||
		memcmp(&whole.end, &cut.end, sizeof(us)) != 0)
		abort();

	if (stream_n == 0)
		return 0;
	bit %= stream_n * 8;
	stream[bit / 8] ^= (uint8_t)(1 << bit % 8);
	read_stream(&tampered, &us, stream_n, SIZE_MAX);
	/* An error reply may differ in its alert; everything before it may not. */
	if (tampered.data_n > whole.data_n)
		abort();
	size_t same = 0;
	while (same < tampered.n && same < whole.n && tampered.p[same] == whole.p[same])
		same++;
	if (same < tampered.n && tampered.n - same > 1 + TLSREC_REPLY_MAX)
		abort();
	stream[bit / 8] ^= (uint8_t)(1 << bit % 8);
	return 0;
}
