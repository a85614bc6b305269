/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The client side: a socket at an index that accepts do not take. */
#include "io/loop_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- connecting ---- */

/* Puts `fd` at an index that the kernel chooses: it alone knows what accepts have taken whose
 * completions are not reaped yet. FILES_UPDATE runs while it is submitted and writes the index over
 * the descriptor: a number that is no index, so that what stands there afterwards says whether it
 * succeeded. (A failure has a completion, but where the queue overflows that is not to be seen.) */
static int install_anywhere(struct loop *l, struct loop_ring *r, int fd)
{
	int high = fd, at;

	if ((uint32_t)fd < l->ring_conns)
		high = fcntl(fd, F_DUPFD_CLOEXEC, (int)l->ring_conns);
	if (high < 0)
		return -errno;
	at = high;
	struct io_uring_sqe *sqe = ring_sqe(&r->r, IORING_OP_FILES_UPDATE, tag(OP_QUIET, 0, 0));

	sqe->fd = -1;
	sqe->addr = (uintptr_t)&at;
	sqe->len = 1;
	sqe->off = IORING_FILE_INDEX_ALLOC;
	sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
	ring_submit(&r->r);
	if (high != fd)
		close(high);
	return at == high ? -ENFILE : at;
}

/* As above, but not at an index whose CLOSE has run while its completion is not reaped: that slot
 * still belongs to its previous owner. Holding on to the wrong ones makes the kernel choose
 * others. */
static int install_beside_accepts(struct loop *l, struct loop_ring *r, int fd)
{
	uint32_t wrong[INSTALL_TRIES], n = 0;
	int index;

	for (;;) {
		index = install_anywhere(l, r, fd);
		if (index < 0 ||
			!(l->slots[r->index * l->ring_conns + (uint32_t)index].flags & SLOT_OPEN))
			break;
		if (n == INSTALL_TRIES)
			index = -ENFILE;
		else
			wrong[n++] = (uint32_t)index;
		if (index < 0)
			break;
	}
	for (uint32_t i = 0; i < n; i++) {
		struct io_uring_sqe *sqe = ring_sqe(&r->r, IORING_OP_CLOSE, tag(OP_QUIET, 0, 0));

		sqe->file_index = wrong[i] + 1;
	}
	if (n > 0)
		ring_submit(&r->r); /* before anyone takes them for free */
	return index;
}

/* The ring has room, and no accept of it is outstanding: what is free to us is free to the kernel.
 */
uint32_t loop_first_free_index(struct loop *l, struct loop_ring *r)
{
	const struct slot *slots = l->slots + r->index * l->ring_conns;
	uint32_t i = r->next_index;

	CHECK(r->promised == 0);
	while (slots[i].flags & SLOT_OPEN)
		i = (i + 1) % l->ring_conns;
	r->next_index = (i + 1) % l->ring_conns;
	return i;
}

static int install_first_free(struct loop *l, struct loop_ring *r, int fd)
{
	uint32_t i = loop_first_free_index(l, r);
	int err;

	err = io_uring_register_files_update(&r->r.uring, i, &fd, 1);
	return err < 0 ? err : (int)i;
}

/* Rather a ring where nothing is accepted. */
static uint32_t ring_for_connect(struct loop *l)
{
	for (uint32_t i = 0; i < l->rings_open && l->total_room > 0; i++)
		if (l->room[i] > 0 && l->rings[i].promised == 0)
			return i;
	return loop_ring_with_room(l);
}

static socklen_t addr_bytes(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

uint32_t loop_connect(
	struct loop *l, const struct sockaddr_storage *to, const struct sockaddr_storage *from)
{
	const int one = 1;
	uint32_t ring = ring_for_connect(l);
	struct io_uring_sqe *sqe;
	int bind_err = 0;

	CHECK(to->ss_family == AF_INET || to->ss_family == AF_INET6);
	if (ring == UINT32_MAX)
		return NO_SLOT;
	/* An ordinary socket first: bind(2) has no operation for rings before Linux 6.11. */
	int fd = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return NO_SLOT;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (from) {
		/* The port is chosen when the whole 4-tuple is known: 64 k connections for each
		 * destination and not in all. */
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		if (bind(fd, (const struct sockaddr *)from, addr_bytes(from)) != 0)
			bind_err = errno;
	}
	struct loop_ring *r = &l->rings[ring];
	int index = r->promised ? install_beside_accepts(l, r, fd) : install_first_free(l, r, fd);

	close(fd);
	if (index < 0)
		return NO_SLOT;
	CHECK((uint32_t)index < l->ring_conns);
	uint32_t slot = ring * l->ring_conns + (uint32_t)index;

	room_take(l, ring);
	slot_start(&l->slots[slot]);
	l->slots[slot].flags |= SLOT_CONNECTING;
	if (bind_err) {
		/* Comes back in the next turn; its tag carries the error. */
		sqe = ring_sqe(&r->r, IORING_OP_NOP,
			tag(OP_CONNECT, l->slots[slot].gen, (uint64_t)bind_err << 32 | slot));
		sqe->fd = -1;
		return slot;
	}
	if (r->to_count == CONNECTS_MAX) {
		ring_submit(&r->r);
		r->to_count = 0;
	}
	memcpy(&r->to[r->to_count], to, addr_bytes(to));
	sqe = slot_sqe(l, slot, IORING_OP_CONNECT, OP_CONNECT);
	sqe->addr = (uintptr_t)&r->to[r->to_count++];
	sqe->off = addr_bytes(to);
	return slot;
}

bool loop_can_deafen(void)
{
	return ring_has(RING_SETSOCKOPT);
}

void loop_deafen(struct loop *l, uint32_t slot)
{
	static struct sock_filter drop[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
	static const struct sock_fprog program = {.len = ARRAY_LEN(drop), .filter = drop};
	struct io_uring_sqe *sqe;

	slot_open(l, slot);
	sqe = slot_sqe(l, slot, IORING_OP_NOP, OP_DEAFEN);
	ring_prep_setsockopt(sqe, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

void connect_done(struct loop *l, uint32_t slot, int bind_err, int res)
{
	struct slot *s = &l->slots[slot];

	s->flags &= (uint8_t)~SLOT_CONNECTING;
	if (s->flags & SLOT_CLOSING)
		slot_close_when_idle(l, slot);
	else
		l->ev.connected(l->arg, slot, bind_err ? -bind_err : res < 0 ? res : 0);
}
