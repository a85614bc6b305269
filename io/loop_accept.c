/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Newcomers, and those for whom there is no place. */
#include "io/loop_priv.h"

#include "core/base/log.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- accepting ---- */

/* The ring waits for a connection only on a blocking socket; else it answers -EAGAIN. */
static void make_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags >= 0 && flags & O_NONBLOCK)
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
}

void loop_listen(struct loop *l, int fd)
{
	CHECK(l->listener_count < LISTENERS_MAX);
	struct listener *ln = calloc(1, sizeof(*ln));

	CHECK(ln);
	make_blocking(fd);
	ln->fd = fd;
	l->listeners[l->listener_count++] = ln;
	l->accepts_changed = true;
}

static uint64_t accept_tag(enum op op, unsigned listener, unsigned i)
{
	return tag(op, 0, (uint64_t)listener << 16 | i);
}

static void accept_cancel(struct loop *l, unsigned listener, unsigned i)
{
	struct listener *ln = l->listeners[listener];
	struct accept *a = &ln->accepts[i];

	a->cancelled = true;
	ln->armed--;
	cancel(&l->rings[a->ring].r, accept_tag(OP_ACCEPT, listener, i));
}

static void refusers_cancel(struct loop *l, unsigned listener)
{
	struct listener *ln = l->listeners[listener];

	for (unsigned i = 0; i < REFUSERS_MAX; i++)
		if (ln->refusers >> i & 1)
			cancel(&l->rings[0].r, accept_tag(OP_REFUSE, listener, i));
	ln->refusers = 0;
}

void loop_listen_stop(struct loop *l)
{
	for (unsigned k = 0; k < l->listener_count; k++) {
		struct listener *ln = l->listeners[k];

		ln->stopped = true;
		refusers_cancel(l, k);
		for (unsigned i = 0; i < ACCEPTS_MAX; i++)
			if (ln->accepts[i].armed && !ln->accepts[i].cancelled)
				accept_cancel(l, k, i);
	}
	/* The caller may close the descriptors now, and their numbers may name something else by
	 * the next turn. */
	for (uint32_t i = 0; i < l->rings_open; i++)
		ring_enter(&l->rings[i].r);
}

void loop_listen_again(struct loop *l)
{
	for (unsigned k = 0; k < l->listener_count; k++)
		l->listeners[k]->stopped = false;
	l->accepts_changed = true;
}

static void accept_arm(struct loop *l, unsigned listener, uint32_t ring)
{
	struct listener *ln = l->listeners[listener];
	unsigned i = 0;

	while (ln->accepts[i].armed)
		i++;
	CHECK(i < ACCEPTS_MAX);
	struct accept *a = &ln->accepts[i];
	struct io_uring_sqe *sqe =
		ring_sqe(&l->rings[ring].r, IORING_OP_ACCEPT, accept_tag(OP_ACCEPT, listener, i));

	*a = (struct accept){.from_bytes = sizeof(a->from), .ring = (uint16_t)ring, .armed = true};
	ln->armed++;
	room_take(l, ring);
	l->rings[ring].promised++;
	sqe->fd = ln->fd;
	sqe->addr = (uintptr_t)&a->from;
	sqe->addr2 = (uintptr_t)&a->from_bytes;
	sqe->file_index = IORING_FILE_INDEX_ALLOC;
}

/* A connection that cannot be kept is accepted with an ordinary descriptor and reset, so that the
 * peer learns it at once instead of hanging in the backlog. */
static void refusers_arm(struct loop *l, unsigned listener)
{
	struct listener *ln = l->listeners[listener];

	for (unsigned i = 0; i < REFUSERS_MAX; i++) {
		if (ln->refusers_out >> i & 1)
			continue;
		struct io_uring_sqe *sqe = ring_sqe(
			&l->rings[0].r, IORING_OP_ACCEPT, accept_tag(OP_REFUSE, listener, i));

		sqe->fd = ln->fd;
		sqe->accept_flags = SOCK_CLOEXEC;
		ln->refusers |= (uint8_t)(1u << i);
		ln->refusers_out |= (uint8_t)(1u << i);
	}
}

/* A cancelled accept keeps its entry until it is back. */
static bool accept_entry_free(const struct listener *ln)
{
	for (unsigned i = 0; i < ACCEPTS_MAX; i++)
		if (!ln->accepts[i].armed)
			return true;
	return false;
}

static bool accept_may(struct loop *l, const struct listener *ln)
{
	return !ln->stopped && ln->retry_ms <= l->now_ms;
}

/* Keeps accepts outstanding: the listener with the fewest first, so that the last free slots are
 * shared between listeners (the very last one stays with the listener that has it). No accept is
 * outstanding without a slot for its connection. */
void accept_refill(struct loop *l)
{
	if (!l->accepts_changed)
		return;
	l->accepts_changed = false;
	for (;;) {
		unsigned poorest = 0;
		struct listener *min = NULL;

		for (unsigned k = 0; k < l->listener_count; k++) {
			struct listener *ln = l->listeners[k];

			if (!accept_may(l, ln) || ln->armed >= ACCEPTS_MAX ||
				!accept_entry_free(ln) || (min && min->armed <= ln->armed))
				continue;
			min = ln;
			poorest = k;
		}
		uint32_t ring = min ? loop_ring_with_room(l) : UINT32_MAX;
		if (ring == UINT32_MAX)
			break;
		accept_arm(l, poorest, ring);
	}
	for (unsigned k = 0; k < l->listener_count; k++) {
		struct listener *ln = l->listeners[k], *rich = NULL;
		unsigned richest = 0;

		if (!accept_may(l, ln))
			continue;
		if (ln->armed > 0) {
			refusers_cancel(l, k);
			continue;
		}
		for (unsigned j = 0; j < l->listener_count; j++) {
			if (l->listeners[j]->armed < 2 ||
				(rich && rich->armed >= l->listeners[j]->armed))
				continue;
			rich = l->listeners[j];
			richest = j;
		}
		if (rich) {
			/* Its slot comes here when the cancelled accept is back. */
			unsigned i = 0;

			while (!rich->accepts[i].armed || rich->accepts[i].cancelled)
				i++;
			accept_cancel(l, richest, i);
			continue;
		}
		if (l->total_room == 0)
			refusers_arm(l, k);
	}
}

static void addr_of(const struct sockaddr_in6 *sa, struct loop_addr *out)
{
	struct sockaddr_in v4;

	*out = (struct loop_addr){0};
	if (sa->sin6_family == AF_INET6) {
		memcpy(out->ip, &sa->sin6_addr, 16);
		out->port = ntohs(sa->sin6_port);
	} else if (sa->sin6_family == AF_INET) {
		memcpy(&v4, sa, sizeof(v4));
		out->ip[10] = out->ip[11] = 0xff;
		memcpy(out->ip + 12, &v4.sin_addr, 4);
		out->port = ntohs(v4.sin_port);
	}
}

/* Errors of one connection pass; errors of ours (descriptors, memory) come again at once, so they
 * wait; a descriptor that is no listening socket ends its listener. */
static void accept_failed(struct loop *l, struct listener *ln, int err)
{
	switch (err) {
	case -ECANCELED:
	case -EINTR:
	case -ECONNABORTED:
	case -EPROTO:
		break;
	case -EBADF:
	case -EINVAL:
	case -ENOTSOCK:
	case -EOPNOTSUPP:
		if (!ln->stopped)
			log_msg(LOG_ERROR, "accept: %s; this listener is given up", strerror(-err));
		ln->stopped = true;
		break;
	case -EAGAIN: /* somebody made the socket non-blocking: see loop_listen */
		make_blocking(ln->fd);
		/* fallthrough */
	default:
		if (!ln->troubled)
			log_msg(LOG_WARNING, "accept: %s; trying again", strerror(-err));
		ln->troubled = true;
		ln->retry_ms = l->now_ms + RETRY_MS;
	}
}

void accept_came(struct loop *l, uint32_t ring, unsigned listener, unsigned i, int res)
{
	struct listener *ln = l->listeners[listener];
	struct accept *a = &ln->accepts[i];
	struct loop_addr peer;

	CHECK(a->armed && a->ring == ring);
	addr_of(&a->from, &peer);
	a->armed = false;
	l->rings[ring].promised--;
	if (!a->cancelled)
		ln->armed--;
	l->accepts_changed = true;
	if (res < 0) {
		room_give(l, ring);
		accept_failed(l, ln, res);
		return;
	}
	ln->troubled = false;
	CHECK((uint32_t)res < l->ring_conns);
	uint32_t slot = ring * l->ring_conns + (uint32_t)res;

	/* CLOSE's completion should have come first; if the kernel sees it otherwise, this is the
	 * proof that the index is free, and that completion will be stale. */
	if (l->slots[slot].flags & SLOT_CLOSE_SENT)
		slot_release(l, slot);
	slot_start(&l->slots[slot]);
	l->ev.accepted(l->arg, slot, listener, &peer);
}

void accept_refused(struct loop *l, unsigned listener, unsigned i, int res)
{
	struct listener *ln = l->listeners[listener];

	ln->refusers &= (uint8_t) ~(1u << i);
	ln->refusers_out &= (uint8_t) ~(1u << i);
	l->accepts_changed = true;
	if (res < 0) {
		accept_failed(l, ln, res);
		return;
	}
	setsockopt(
		res, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	close(res);
	METRIC_INC(CONNS_REFUSED_FULL);
	if (l->now_ms < l->full_said_ms)
		return;
	l->full_said_ms = l->now_ms + FULL_SAID_MS;
	log_msg(LOG_WARNING,
		"newcomers are refused: a shard has no room for more than %u connections "
		"(core.connections_max)",
		l->rings_open * l->ring_conns < l->slots_max ? l->rings_open * l->ring_conns
							     : l->slots_max);
}
