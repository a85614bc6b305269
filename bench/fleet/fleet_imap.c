/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The way of a phone of a fleet to IMAP IDLE, and what wakes it there. */
#include "bench/fleet/fleet_priv.h"

#include "core/base/check.h"

void fleet_imap_go(struct fleet *f, uint32_t i)
{
	struct fleet_phone *p = &f->phones[i];

	if (p->state == STATE_ANSWERED && client_is_open(f->client, i)) {
		/* It never left IDLE. */
		atomic_store_explicit(&p->came_ns, 0, memory_order_relaxed);
		fleet_move(f, i, STATE_PARKED);
		return;
	}
	client_close(f->client, i);
	f->priming[i].imap_step = IMAP_GREETING;
	atomic_store_explicit(&p->came_ns, 0, memory_order_relaxed);
	fleet_move(f, i, STATE_IMAP);
	client_open(f->client, i);
}

static void imap_ask(struct fleet *f, uint32_t i)
{
	char user[256], password[256];

	f->o.user(i % f->o.users, user, sizeof(user));
	f->o.password(i % f->o.users, password, sizeof(password));
	f->request.n = 0;
	imap_say(f->priming[i].imap_step, user, password, &f->request);
	CHECK(!f->request.failed);
	client_say(f->client, i, buf_bytes(&f->request), REQUEST_TIMEOUT_S);
}

static void imap_exists(struct fleet *f, uint32_t i, uint32_t exists, uint64_t came_ns)
{
	struct fleet_phone *p = &f->phones[i];
	bool more = exists > f->priming[i].exists;

	f->priming[i].exists = exists;
	if (!more || p->state != STATE_PARKED)
		return;
	atomic_fetch_add_explicit(&p->woken, 1, memory_order_relaxed);
	atomic_store_explicit(&p->came_ns, came_ns, memory_order_release);
	fleet_move(f, i, STATE_ANSWERED);
}

size_t fleet_imap_bytes(void *arg, uint32_t i, const uint8_t *p, size_t n, uint64_t came_ns)
{
	struct fleet *f = arg;
	size_t at = 0;

	for (;;) {
		struct imap_in in;
		enum imap_result r = imap_read(&f->priming[i].imap_step, p + at, n - at, &in);

		at += in.used;
		switch (r) {
		case IMAP_NEED_MORE:
			return at;
		case IMAP_READ:
			break;
		case IMAP_NEXT:
			imap_ask(f, i);
			break;
		case IMAP_PARKED:
			fleet_move(f, i, STATE_PARKED);
			break;
		case IMAP_EXISTS:
			imap_exists(f, i, in.exists, came_ns);
			break;
		case IMAP_FAILED:
			fleet_fail(f, i, in.why);
			client_close(f->client, i);
			return at;
		}
	}
}
