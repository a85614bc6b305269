/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/tls.h and io/tlsrec.h a second time, as far as a shard uses them: handshakes in two flights that
 * cost time but no cryptography, and records that carry their session and number in the clear. So a
 * record that two processes number, or that goes out on another's connection, is seen. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <stdlib.h>

enum {
	HANDSHAKE = 0x16,
	ALERT = 0x15,
	DATA = 0x17,
	HEAD = 5,
	TAG = 8, /* session, number */
	HELLO = 180,
	FLIGHT = 700,
	FINISHED = 36,
	STEP_US_MOST = 600,
};

struct tls_hs {
	uint32_t session;
	bool greeted, done;
	uint64_t begun_us;
};

static size_t record(uint8_t *out, uint8_t type, uint32_t session, uint32_t number,
	const uint8_t *plain, size_t n)
{
	size_t body = TAG + n;

	out[0] = type;
	out[1] = out[2] = 3;
	out[3] = (uint8_t)(body >> 8);
	out[4] = (uint8_t)body;
	memmove(out + HEAD + TAG, plain, n);
	memcpy(out + HEAD, &session, 4);
	memcpy(out + HEAD + 4, &number, 4);
	return HEAD + body;
}

/* Length of the first whole record; 0: not whole. */
static size_t whole(const uint8_t *p, size_t n)
{
	size_t body = n < HEAD ? 0 : (size_t)p[3] << 8 | p[4];

	return n < HEAD || n < HEAD + body ? 0 : HEAD + body;
}

static void add(struct buf *b, uint8_t type, uint32_t session, uint32_t number, size_t n)
{
	static const uint8_t nothing[1024];
	uint8_t *p = buf_room(b, HEAD + TAG + n);

	CHECK(p);
	b->n += record(p, type, session, number, nothing, n);
}

/* ---- the server's end --------------------------------------------------------------------------
 */

void tls_ctx_unref(struct tls_ctx **c)
{
	*c = NULL;
}

struct tls_hs *tls_hs_server(struct tls_ctx *c)
{
	struct tls_hs *h = calloc(1, sizeof(*h));

	(void)c;
	CHECK(h);
	h->begun_us = sim_now_us;
	return h;
}

enum tls_hs_status tls_hs_feed(
	struct tls_hs *h, const uint8_t *p, size_t n, size_t *consumed_out, struct buf *out)
{
	size_t k = whole(p, n);

	*consumed_out = 0;
	if (k == 0)
		return TLS_HS_WANT_MORE;
	if (p[0] != HANDSHAKE)
		return TLS_HS_FAILED;
	*consumed_out = k;
	net_takes_time(sim_between(30, STEP_US_MOST));
	if (h->greeted) {
		h->done = true;
		return TLS_HS_DONE;
	}
	h->greeted = true;
	memcpy(&h->session, p + HEAD, 4);
	add(out, HANDSHAKE, h->session, 0, FLIGHT);
	return TLS_HS_WANT_MORE;
}

const char *tls_hs_why(const struct tls_hs *h, bool *not_tls_out)
{
	(void)h;
	*not_tls_out = false;
	return "nonsense";
}

bool tls_hs_detach(struct tls_hs *h, struct tlsrec *rec, const char **why_out)
{
	*why_out = "";
	memset(rec, 0, sizeof(*rec));
	rec->aead = TLSREC_AES128_GCM;
	rec->tls13 = 1;
	memcpy(rec->rx.secret, &h->session, 4);
	memcpy(rec->tx.secret, &h->session, 4);
	return true;
}

bool tls_hs_resumed(const struct tls_hs *h)
{
	return h->session % 2 != 0;
}

void tls_hs_free(struct tls_hs **h)
{
	if (*h && !(*h)->done)
		world.handshakes_lost_us += sim_now_us - (*h)->begun_us;
	free(*h);
	*h = NULL;
}

void tlsrec_open(struct tlsrec *r, uint8_t *p, size_t n, struct tlsrec_in *in)
{
	size_t k = whole(p, n);
	uint32_t tag[2];

	*in = (struct tlsrec_in){.result = TLSREC_NEED_MORE};
	if (k == 0 && !r->dead)
		return;
	in->result = TLSREC_ERROR;
	in->why = "dead";
	if (r->dead)
		return;
	memcpy(tag, p + HEAD, sizeof(tag));
	if (memcmp(r->rx.secret, &tag[0], 4) != 0 || tag[1] != r->rx.seq)
		sim_fail(NULL, NULL, "UPGRADE: record # %u of session %u is read as # %u of %u",
			tag[1], tag[0], r->rx.seq, *(const uint32_t *)(const void *)r->rx.secret);
	r->rx.seq++;
	in->consumed = k;
	in->result = p[0] == DATA ? TLSREC_DATA : TLSREC_CLOSED;
	r->dead = p[0] != DATA;
	in->data = p + HEAD + TAG;
	in->data_bytes = k - HEAD - TAG;
}

size_t tlsrec_sealed_bytes(const struct tlsrec *r, size_t n)
{
	(void)r;
	return HEAD + TAG + n;
}

static size_t seal(struct tlsrec *r, uint8_t type, const uint8_t *plain, size_t n, uint8_t *out)
{
	uint32_t session;

	if (r->dead)
		return 0;
	memcpy(&session, r->tx.secret, 4);
	return record(out, type, session, r->tx.seq++, plain, n);
}

size_t tlsrec_seal(struct tlsrec *r, const uint8_t *plain, size_t n, uint8_t *out)
{
	return seal(r, DATA, plain, n, out);
}

size_t tlsrec_close_notify(struct tlsrec *r, uint8_t *out)
{
	size_t n = seal(r, ALERT, out, 0, out);

	r->dead = 1;
	return n;
}

void tlsrec_wipe(struct tlsrec *r)
{
	memset(r, 0, sizeof(*r));
}

/* ---- the phone's end ---------------------------------------------------------------------------
 */

void simtls_hello(struct wire *w, struct buf *out)
{
	w->tls = true;
	add(out, HANDSHAKE, (uint32_t)w->number, 0, HELLO);
	add(&w->pending, HANDSHAKE, (uint32_t)w->number, 0, FINISHED);
}

void simtls_seal(struct wire *w, const void *p, size_t n, struct buf *out)
{
	uint8_t *to = buf_room(out, HEAD + TAG + n);

	CHECK(to);
	out->n += record(to, DATA, (uint32_t)w->number, w->put_records++, p, n);
}

bool simtls_open(struct wire *w, struct buf *in, uint32_t *records, struct buf *plain)
{
	bool flight = false;
	size_t k;

	while ((k = whole(in->p, in->n)) > 0) {
		uint32_t tag[2];

		memcpy(tag, in->p + HEAD, sizeof(tag));
		if (tag[0] != (uint32_t)w->number)
			sim_fail(w->phone, NULL, "UPGRADE: wire %llu gets a record of session %u",
				(unsigned long long)w->number, tag[0]);
		if (in->p[0] == HANDSHAKE)
			flight = true;
		else if (tag[1] != (*records)++)
			sim_fail(w->phone, NULL,
				"UPGRADE: wire %llu gets record # %u instead of # %u",
				(unsigned long long)w->number, tag[1], *records - 1);
		if (in->p[0] == DATA)
			buf_add(plain, in->p + HEAD + TAG, k - HEAD - TAG);
		memmove(in->p, in->p + k, in->n - k);
		in->n -= k;
	}
	return flight;
}
