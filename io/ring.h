/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/ring.h - one io_uring with its table of direct descriptors and its receive buffers. The only
 * files that know liburing are this one, ring.c, loop*.c and handover.c; opcodes younger than liburing 2.3 are
 * written out in ring.c.
 * Thread: the one that opened the ring (IORING_SETUP_SINGLE_ISSUER).
 * Memory: per ring 64 B per SQ entry, 16 B per CQ entry, 8 B per direct descriptor in the kernel;
 *         the receive buffers in user memory, touched when first used.
 * Errors: ring_open returns 0 or -errno; an enter that the kernel refuses for good aborts.
 * Cost:   ring_sqe is a few stores; ring_enter and ring_wait are the system calls. */
#ifndef ROOST_IO_RING_H
#define ROOST_IO_RING_H

#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>

struct ring_options {
	uint32_t conns;   /* direct descriptors */
	uint32_t buffers; /* power of two, at most 32768 */
	uint32_t buffer_bytes;
	/* Powers of two, at least 4 and 8, cq_entries not below sq_entries; 0: as many as so many
	 * connections ask for. Less than is asked for at once costs time and loses nothing. */
	uint32_t sq_entries, cq_entries;
};

struct ring {
	struct io_uring uring;
	struct io_uring_buf_ring *buf_ring;
	uint8_t *bufs;
	uint32_t buffers, buffer_bytes;
	bool open;
};

/* What a kernel may or may not do; found out once per process by trying. */
enum ring_feature {
	RING_FUTEX = 1,        /* IORING_OP_FUTEX_WAIT, Linux 6.7 */
	RING_SETSOCKOPT = 4,   /* ring_prep_setsockopt, Linux 6.7 */
	RING_PROMPT_CLOSE = 2, /* closing a direct descriptor lets the file go at once even while
				* older requests of the ring wait (Linux 6.13); before, the peer
				* would see no FIN until those came back */
};
/* For tests: features to act without, as on an older kernel. Set before the first loop_new. */
extern unsigned ring_features_hidden;
/* Without RING_PROMPT_CLOSE: no request is left in the kernel longer than this; see loop_slot.c. */
extern uint32_t ring_renew_ms;
bool ring_has(enum ring_feature f);

int ring_open(struct ring *r, const struct ring_options *o);
void ring_close(struct ring *r);

/* A zeroed SQE with op and user_data set; submits when the queue is full. */
struct io_uring_sqe *ring_sqe(struct ring *r, uint8_t op, uint64_t user_data);
/* Makes room for n SQEs, so that a link is not cut by a submission in its middle. */
void ring_reserve(struct ring *r, unsigned n);
/* The SQE works on direct descriptor `index`. */
void ring_use(struct io_uring_sqe *sqe, uint32_t index);

void ring_prep_futex_wait(struct io_uring_sqe *sqe, const _Atomic uint32_t *word, uint32_t value);
/* Copies direct descriptor `from` of the ring this is submitted to into place `to` of another
 * ring, which is told nothing. Leaves user_data and flags alone. */
void ring_prep_send_fd(struct io_uring_sqe *sqe, int ring_fd, uint32_t from, uint32_t to);

/* setsockopt on the direct descriptor that the SQE names already; `value` must live until it is
 * submitted. */
void ring_prep_setsockopt(
	struct io_uring_sqe *sqe, int level, int name, const void *value, uint32_t bytes);

/* Submits; does not block. (Where the kernel has deferred something liburing lets it run, too, behind
 * what is submitted.) */
void ring_submit(struct ring *r);
/* Submits and runs what the kernel has deferred; does not block. */
void ring_enter(struct ring *r);
/* Submits, then blocks until a completion or the timeout (UINT64_MAX: none). */
void ring_wait(struct ring *r, uint64_t timeout_ns);

/* True when entering the kernel would make progress. */
static inline bool ring_wants_enter(const struct ring *r)
{
	return io_uring_sq_ready(&r->uring) || (IO_URING_READ_ONCE(*r->uring.sq.kflags) &
						       (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

static inline const uint8_t *ring_buffer(const struct ring *r, uint16_t id)
{
	return r->bufs + (size_t)id * r->buffer_bytes;
}

void ring_buffer_return(struct ring *r, uint16_t id);

#endif
