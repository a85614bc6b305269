/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/upgrade/handover_state.h"

#include "core/base/check.h"
#include "store/device.h"

#include <stdio.h>

/* Where things are. */
enum {
	H_MAGIC = 0,
	H_FORMAT = 8,
	H_HEAD_BYTES = 12,
	H_RECORD_BYTES = 16,
	H_COUNT = 20,
	H_MORE = 24,
	H_SHARD = 28,
	H_RING_CONNS = 32,
	H_POLICY = 36,
	H_JOURNAL = 40,
	H_ORDER = 48,
	H_RESERVED = 56, /* 16 bytes, zero */
	H_CHECKSUM = 72,

	R_SLOT = 0,
	R_KIND = 4,
	R_FLAGS = 5,
	R_VERSION = 6,
	R_REQUEST = 8,
	R_IP = 16,
	R_PORT = 32,
	R_HEARTBEAT = 34,
	R_MORE = 36,
	R_MAILBOX = 40,
	R_DEVICE = 44,
	R_FOLDERS = 48,
	R_SINCE = 56,
	R_ORDER = 64,
	R_DUE = 72,
	R_SINCE_WALL = 80,
	R_TLS = 88, /* two directions, then aead, run, flags */
	R_TLS_TAIL = R_TLS + 2 * 96,
	R_RESERVED = R_TLS_TAIL + 3, /* zero */

	DIR_SEQ = 0,
	DIR_SECRET = 4,
	DIR_KEY = 52,
	DIR_IV = 84,
};
_Static_assert((int)R_RESERVED <= (int)HANDOVER_RECORD_BYTES, "the record holds it all");
_Static_assert(sizeof(((struct tlsrec_tx *)0)->secret) == DIR_KEY - DIR_SECRET, "secret");
_Static_assert(sizeof(((struct tlsrec_tx *)0)->key) == DIR_IV - DIR_KEY, "key");
_Static_assert(sizeof(((struct tlsrec_tx *)0)->iv) == 12, "iv");

enum { TLS13 = 1, TLS_FLAGS = 1 };

static const char magic[8] = {'R', 'o', 'o', 's', 't', 'O', 'v', 'r'};

/* Little endian, as the machine is (core/base/bytes.h asserts it). */
#define PUT(p, at, v)                                                                              \
	do {                                                                                       \
		__typeof__(v) put_v = (v);                                                         \
		memcpy((p) + (at), &put_v, sizeof(put_v));                                         \
	} while (0)
#define GET(p, at, v) memcpy(&(v), (p) + (at), sizeof(v))

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15u;
	return h ^ h >> 29;
}

/* Of everything but itself. Lengths are multiples of four. Four chains side by side: the pause of an
 * upgrade is waiting for this. */
static uint64_t checksum(struct bytes in)
{
	enum { LANES = 4 };
	uint64_t h[LANES] = {in.n, 1, 2, 3}, v;
	uint32_t last;
	size_t at = 0;

	_Static_assert(H_CHECKSUM % 8 == 0, "a word of its own");
	for (; at + 8 * LANES <= in.n; at += 8 * LANES)
		for (size_t i = 0; i < LANES; i++) {
			GET(in.p, at + 8 * i, v);
			if (at + 8 * i != H_CHECKSUM)
				h[i] = mix(h[i], v);
		}
	for (; at + 8 <= in.n; at += 8) {
		GET(in.p, at, v);
		if (at != H_CHECKSUM)
			h[0] = mix(h[0], v);
	}
	if (at < in.n) {
		GET(in.p, at, last);
		h[0] = mix(h[0], last);
	}
	return mix(mix(mix(h[0], h[1]), h[2]), h[3]);
}

size_t handover_bytes(uint32_t count, uint32_t more_count)
{
	return HANDOVER_HEAD_BYTES + (size_t)count * HANDOVER_RECORD_BYTES + 4 * (size_t)more_count;
}

void handover_begin(struct buf *b, const struct handover_head *h)
{
	uint8_t *p = buf_room(b, HANDOVER_HEAD_BYTES);

	CHECK(b->n == 0);
	if (!p)
		return;
	memset(p, 0, HANDOVER_HEAD_BYTES);
	memcpy(p + H_MAGIC, magic, sizeof(magic));
	PUT(p, H_FORMAT, (uint32_t)HANDOVER_FORMAT);
	PUT(p, H_HEAD_BYTES, (uint32_t)HANDOVER_HEAD_BYTES);
	PUT(p, H_RECORD_BYTES, (uint32_t)HANDOVER_RECORD_BYTES);
	PUT(p, H_COUNT, h->count);
	PUT(p, H_MORE, h->more_count);
	PUT(p, H_SHARD, h->shard);
	PUT(p, H_RING_CONNS, h->ring_conns);
	PUT(p, H_POLICY, h->policy_generation);
	PUT(p, H_JOURNAL, h->journal_seen);
	PUT(p, H_ORDER, h->order);
	b->n += HANDOVER_HEAD_BYTES;
}

static void put_tx(uint8_t *p, const struct tlsrec_tx *d)
{
	PUT(p, DIR_SEQ, d->seq);
	memcpy(p + DIR_SECRET, d->secret, sizeof(d->secret));
	memcpy(p + DIR_KEY, d->key, sizeof(d->key));
	memcpy(p + DIR_IV, d->iv, sizeof(d->iv));
}

/* TLS 1.2 has key and IV where 1.3 has the secret; the other places stay zero. */
static void put_rx(uint8_t *p, const struct tlsrec_rx *d)
{
	PUT(p, DIR_SEQ, d->seq);
	memcpy(p + DIR_SECRET, d->secret, sizeof(d->secret));
}

static void get_tx(const uint8_t *p, struct tlsrec_tx *d)
{
	GET(p, DIR_SEQ, d->seq);
	memcpy(d->secret, p + DIR_SECRET, sizeof(d->secret));
	memcpy(d->key, p + DIR_KEY, sizeof(d->key));
	memcpy(d->iv, p + DIR_IV, sizeof(d->iv));
}

static void get_rx(const uint8_t *p, struct tlsrec_rx *d)
{
	GET(p, DIR_SEQ, d->seq);
	memcpy(d->secret, p + DIR_SECRET, sizeof(d->secret));
}

void handover_add(struct buf *b, const struct handover_slot *s)
{
	uint8_t *p = buf_room(b, HANDOVER_RECORD_BYTES);

	if (!p)
		return;
	memset(p, 0, HANDOVER_RECORD_BYTES);
	PUT(p, R_SLOT, s->slot);
	PUT(p, R_KIND, (uint8_t)s->kind);
	PUT(p, R_FLAGS, s->flags);
	PUT(p, R_VERSION, s->version);
	PUT(p, R_REQUEST, s->request_id);
	memcpy(p + R_IP, s->peer.ip, sizeof(s->peer.ip));
	PUT(p, R_PORT, s->peer.port);
	if (s->kind >= HANDOVER_PING) {
		PUT(p, R_HEARTBEAT, s->heartbeat_s);
		PUT(p, R_MORE, (uint32_t)(s->more.n / 4));
		PUT(p, R_MAILBOX, s->mailbox);
		PUT(p, R_DEVICE, s->device);
		PUT(p, R_FOLDERS, s->folders);
		PUT(p, R_SINCE, s->since_seq);
		PUT(p, R_ORDER, s->order);
		PUT(p, R_DUE, s->due_ms);
		PUT(p, R_SINCE_WALL, s->since_wall_ms);
	}
	if (s->flags & HANDOVER_TLS) {
		put_rx(p + R_TLS, &s->tls.rx);
		put_tx(p + R_TLS + 96, &s->tls.tx);
		p[R_TLS_TAIL] = s->tls.aead;
		p[R_TLS_TAIL + 1] = s->tls.run;
		p[R_TLS_TAIL + 2] = s->tls.tls13 ? TLS13 : 0;
	}
	b->n += HANDOVER_RECORD_BYTES;
}

void handover_add_more(struct buf *b, uint32_t folder)
{
	buf_add(b, &folder, sizeof(folder));
}

void handover_end(struct buf *b)
{
	if (!b->failed)
		PUT(b->p, H_CHECKSUM, checksum(buf_bytes(b)));
}

/* ---- reading --------------------------------------------------------------------------------- */

static const uint8_t *record(const struct handover_reader *r, uint32_t i)
{
	return r->in.p + HANDOVER_HEAD_BYTES + (size_t)i * HANDOVER_RECORD_BYTES;
}

static const uint8_t *more(const struct handover_reader *r, uint32_t i)
{
	return record(r, r->head.count) + 4 * (size_t)i;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

/* What is wrong with a record; NULL: nothing. */
static const char *record_fault(const struct handover_reader *r, const struct handover_slot *s)
{
	const uint8_t *p = record(r, r->at);
	bool parked = s->kind >= HANDOVER_PING;

	if (s->kind < HANDOVER_GREETED || s->kind > HANDOVER_SYNC)
		return "an unknown kind";
	if (s->flags & ~HANDOVER_FLAGS)
		return "unknown flags";
	if (s->slot == UINT32_MAX)
		return "no slot";
	if (s->kind == HANDOVER_GREETED &&
		(s->flags & ~HANDOVER_TLS_PORT || !(s->flags & HANDOVER_TLS_PORT)))
		return "flags that a connection without a handshake cannot have";
	if (s->kind != HANDOVER_GREETED &&
		!(s->flags & HANDOVER_TLS) != !(s->flags & HANDOVER_TLS_PORT))
		return "TLS where there is none, or none where there must be";
	if (s->flags & HANDOVER_TLS
			? s->tls.aead < TLSREC_AES128_GCM ||
				  s->tls.aead > TLSREC_CHACHA20_POLY1305 ||
				  s->tls.run > TLSREC_RUN_MAX || p[R_TLS_TAIL + 2] & ~TLS_FLAGS
			: !all_zero(p + R_TLS, R_RESERVED - R_TLS))
		return "a TLS state that cannot be";
	/* What we read under has no more than a secret's room (struct tlsrec_rx). */
	if (!all_zero(p + R_TLS + DIR_KEY, 96 - DIR_KEY))
		return "a TLS state that cannot be";
	if (!all_zero(p + R_RESERVED, HANDOVER_RECORD_BYTES - R_RESERVED))
		return "something in its reserved bytes";
	if (!parked && (s->flags & HANDOVER_RECHECK || s->heartbeat_s || s->more.n ||
			       !all_zero(p + R_MAILBOX, R_TLS - R_MAILBOX)))
		return "a request where none hangs";
	if (parked && (!s->mailbox || !s->device || !(s->folders || s->more.n)))
		return "a request of nobody, or for nothing";
	for (size_t i = 0; i < s->more.n / 4; i++)
		if (handover_folder(s->more, i) < 64 || handover_folder(s->more, i) >> 31)
			return "a folder that does not belong there";
	return NULL;
}

/* Head and lengths are known to be good. */
static bool take(struct handover_reader *r, struct handover_slot *s)
{
	const uint8_t *p = record(r, r->at);
	uint32_t n;

	*s = (struct handover_slot){.kind = p[R_KIND], .flags = p[R_FLAGS]};
	GET(p, R_SLOT, s->slot);
	GET(p, R_VERSION, s->version);
	GET(p, R_REQUEST, s->request_id);
	memcpy(s->peer.ip, p + R_IP, sizeof(s->peer.ip));
	GET(p, R_PORT, s->peer.port);
	GET(p, R_HEARTBEAT, s->heartbeat_s);
	GET(p, R_MAILBOX, s->mailbox);
	GET(p, R_DEVICE, s->device);
	GET(p, R_FOLDERS, s->folders);
	GET(p, R_SINCE, s->since_seq);
	GET(p, R_ORDER, s->order);
	GET(p, R_DUE, s->due_ms);
	GET(p, R_SINCE_WALL, s->since_wall_ms);
	get_rx(p + R_TLS, &s->tls.rx);
	get_tx(p + R_TLS + 96, &s->tls.tx);
	s->tls.aead = p[R_TLS_TAIL];
	s->tls.run = p[R_TLS_TAIL + 1];
	s->tls.tls13 = p[R_TLS_TAIL + 2] & TLS13;
	GET(p, R_MORE, n);
	if (n > r->head.more_count - r->more_at || n > PING_FOLDERS_MAX)
		return false;
	s->more = bytes_of(more(r, r->more_at), 4 * (size_t)n);
	return true;
}

bool handover_open(struct handover_reader *r, struct bytes in, char *why, size_t why_bytes)
{
	uint32_t format = 0, head_bytes, record_bytes;
	struct handover_slot s;
	const char *fault;
	uint64_t sum;

	*r = (struct handover_reader){.in = in};
	if (in.n < HANDOVER_HEAD_BYTES || memcmp(in.p, magic, sizeof(magic)) != 0) {
		snprintf(why, why_bytes, "this is no hand-over of Roost");
		return false;
	}
	GET(in.p, H_FORMAT, format);
	GET(in.p, H_HEAD_BYTES, head_bytes);
	GET(in.p, H_RECORD_BYTES, record_bytes);
	if (format != HANDOVER_FORMAT || head_bytes != HANDOVER_HEAD_BYTES ||
		record_bytes != HANDOVER_RECORD_BYTES) {
		snprintf(why, why_bytes,
			"the hand-over has format %u with records of %u bytes; this version reads "
			"format %d with %d",
			format, record_bytes, HANDOVER_FORMAT, HANDOVER_RECORD_BYTES);
		return false;
	}
	GET(in.p, H_COUNT, r->head.count);
	GET(in.p, H_MORE, r->head.more_count);
	GET(in.p, H_SHARD, r->head.shard);
	GET(in.p, H_RING_CONNS, r->head.ring_conns);
	GET(in.p, H_POLICY, r->head.policy_generation);
	GET(in.p, H_JOURNAL, r->head.journal_seen);
	GET(in.p, H_ORDER, r->head.order);
	if (in.n != handover_bytes(r->head.count, r->head.more_count)) {
		snprintf(why, why_bytes, "the hand-over is cut off: %zu bytes of %zu", in.n,
			handover_bytes(r->head.count, r->head.more_count));
		return false;
	}
	GET(in.p, H_CHECKSUM, sum);
	if (sum != checksum(in)) {
		snprintf(why, why_bytes, "the hand-over is damaged: its checksum is wrong");
		return false;
	}
	if (r->head.ring_conns == 0 || !all_zero(in.p + H_RESERVED, H_CHECKSUM - H_RESERVED)) {
		snprintf(why, why_bytes, "the hand-over has a head that cannot be");
		return false;
	}
	for (; r->at < r->head.count; r->at++, r->more_at += (uint32_t)(s.more.n / 4)) {
		fault = take(r, &s) ? record_fault(r, &s) : "more folders than there are";
		if (fault) {
			snprintf(why, why_bytes, "record %u of the hand-over has %s", r->at, fault);
			return false;
		}
	}
	if (r->more_at != r->head.more_count) {
		snprintf(why, why_bytes, "the hand-over has folders of nobody");
		return false;
	}
	r->at = r->more_at = 0;
	return true;
}

bool handover_next(struct handover_reader *r, struct handover_slot *out)
{
	if (r->at == r->head.count)
		return false;
	CHECK(take(r, out));
	r->at++;
	r->more_at += (uint32_t)(out->more.n / 4);
	return true;
}
