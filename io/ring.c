/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "io/ring.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	RAW_OP_MSG_RING = 40,
	RAW_MSG_SEND_FD = 1,
	RAW_MSG_CQE_SKIP = 1,
	RAW_OP_URING_CMD = 46,
	RAW_SOCKET_SETSOCKOPT = 3,
	RAW_OP_FUTEX_WAIT = 51,
	RAW_FUTEX2_SIZE_U32 = 2, /* without FUTEX2_PRIVATE: other processes wake it */
	SQ_ENTRIES_MIN = 128,
	SQ_ENTRIES_MAX = 4096,
	CQ_ENTRIES_MAX = 65536,
	SUBMIT_TRIES = 1000,
};

unsigned ring_features_hidden;
uint32_t ring_renew_ms = 120000;

static uint32_t pow2_at_least(uint32_t n)
{
	return n <= 1 ? 1 : 1u << (32 - __builtin_clz(n - 1));
}

static uint32_t clamp(uint32_t n, uint32_t lo, uint32_t hi)
{
	return n < lo ? lo : n > hi ? hi : n;
}

static int init_uring(struct io_uring *u, uint32_t sq, uint32_t cq)
{
	struct io_uring_params p = {
		/* SUBMIT_ALL: one bad SQE must not leave those behind it unsubmitted. */
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL,
		.cq_entries = cq,
	};

	return io_uring_queue_init_params(sq, u, &p);
}

/* Does a direct descriptor's file go when it is closed, although an older request still waits?
 * Kernels before 6.13 keep removed files until all older requests of the ring are done, and a
 * parked connection is a request that lasts up to an hour. Asked by trying, since distributions
 * carry such changes back. */
static bool try_prompt_close(void)
{
	struct io_uring u;
	struct io_uring_sqe *sqe;
	int idle[2], pair[2];
	bool prompt = false;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, idle) != 0)
		return false;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		goto close_idle;
	if (init_uring(&u, 8, 16) != 0)
		goto close_pair;
	if (io_uring_register_files(&u, (int[]){idle[0], pair[0]}, 2) != 0)
		goto close_ring;
	close(pair[0]);
	pair[0] = -1;
	sqe = io_uring_get_sqe(&u);
	io_uring_prep_poll_add(sqe, 0, POLLIN);
	sqe->flags = IOSQE_FIXED_FILE;
	io_uring_submit(&u);
	sqe = io_uring_get_sqe(&u);
	io_uring_prep_close_direct(sqe, 1);
	io_uring_submit_and_get_events(&u);
	prompt = poll(&(struct pollfd){.fd = pair[1], .events = POLLIN}, 1, 0) == 1;
close_ring:
	io_uring_queue_exit(&u);
close_pair:
	if (pair[0] >= 0)
		close(pair[0]);
	close(pair[1]);
close_idle:
	close(idle[0]);
	close(idle[1]);
	return prompt;
}

static bool try_futex(void)
{
	static _Atomic uint32_t word;
	struct io_uring u;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	bool can = false;

	if (init_uring(&u, 8, 16) != 0)
		return false;
	sqe = io_uring_get_sqe(&u);
	CHECK(sqe);
	memset(sqe, 0, sizeof(*sqe));
	/* A value that the word does not have: answered at once, and with -EAGAIN only by a
	 * kernel that knows the operation. */
	ring_prep_futex_wait(sqe, &word, 1);
	io_uring_submit_and_get_events(&u);
	if (io_uring_peek_cqe(&u, &cqe) == 0)
		can = cqe->res == -EAGAIN;
	io_uring_queue_exit(&u);
	return can;
}

static bool try_setsockopt(void)
{
	const int on = 1;
	struct io_uring u;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool can = false;

	if (fd < 0)
		return false;
	if (init_uring(&u, 8, 16) == 0) {
		sqe = io_uring_get_sqe(&u);
		CHECK(sqe);
		memset(sqe, 0, sizeof(*sqe));
		ring_prep_setsockopt(sqe, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
		sqe->fd = fd;
		io_uring_submit_and_get_events(&u);
		if (io_uring_peek_cqe(&u, &cqe) == 0)
			can = cqe->res == 0;
		io_uring_queue_exit(&u);
	}
	close(fd);
	return can;
}

static unsigned features;

static void find_features(void)
{
	features = (try_futex() ? RING_FUTEX : 0u) | (try_prompt_close() ? RING_PROMPT_CLOSE : 0u) |
		   (try_setsockopt() ? RING_SETSOCKOPT : 0u);
}

bool ring_has(enum ring_feature f)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, find_features);
	return (features & ~ring_features_hidden & f) != 0;
}

int ring_open(struct ring *r, const struct ring_options *o)
{
	uint32_t sq = o->sq_entries ? o->sq_entries
				    : clamp(pow2_at_least(o->conns / 16 + 1), SQ_ENTRIES_MIN,
					      SQ_ENTRIES_MAX);
	/* Every parked connection may fire at once; beyond this the kernel keeps an overflow list,
	 * which is slower but loses nothing. */
	uint32_t cq = o->cq_entries ? o->cq_entries
				    : clamp(pow2_at_least(o->conns + 64), 2 * sq, CQ_ENTRIES_MAX);
	size_t ring_bytes = o->buffers * sizeof(struct io_uring_buf);
	size_t buf_bytes = (size_t)o->buffers * o->buffer_bytes;
	int err;

	*r = (struct ring){.buffers = o->buffers, .buffer_bytes = o->buffer_bytes};
	err = init_uring(&r->uring, sq, cq);
	if (err != 0)
		return err;
	r->open = true;
	err = io_uring_register_files_sparse(&r->uring, o->conns);
	if (err != 0)
		goto fail;
	r->bufs = mmap(NULL, buf_bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	r->buf_ring =
		mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->bufs == MAP_FAILED || r->buf_ring == MAP_FAILED) {
		err = -ENOMEM;
		goto fail;
	}
	err = io_uring_register_buf_ring(&r->uring,
		&(struct io_uring_buf_reg){
			.ring_addr = (uintptr_t)r->buf_ring, .ring_entries = o->buffers},
		0);
	if (err != 0)
		goto fail;
	io_uring_buf_ring_init(r->buf_ring);
	for (uint32_t i = 0; i < o->buffers; i++)
		io_uring_buf_ring_add(r->buf_ring, (void *)(uintptr_t)ring_buffer(r, (uint16_t)i),
			o->buffer_bytes, (unsigned short)i, (int)o->buffers - 1, (int)i);
	io_uring_buf_ring_advance(r->buf_ring, (int)o->buffers);
	/* Only SHUTDOWN on older kernels runs in kernel threads; a burst of closes needs no more.
	 */
	io_uring_register_iowq_max_workers(&r->uring, (unsigned[]){2, 4});
	/* Saves a descriptor look-up per enter. A task has 16 places: rings beyond do without. */
	io_uring_register_ring_fd(&r->uring);
	return 0;
fail:
	ring_close(r);
	return err;
}

void ring_close(struct ring *r)
{
	if (!r->open)
		return;
	io_uring_queue_exit(&r->uring);
	if (r->buf_ring && r->buf_ring != MAP_FAILED)
		munmap(r->buf_ring, r->buffers * sizeof(struct io_uring_buf));
	if (r->bufs && r->bufs != MAP_FAILED)
		munmap(r->bufs, (size_t)r->buffers * r->buffer_bytes);
	r->open = false;
}

/* The kernel may be out of memory for requests (-EAGAIN) or have completions to flush first
 * (-EBUSY): both pass. Anything else means that this ring and we disagree about who owns what. */
static void check_entered(int err)
{
	METRIC_INC(RING_ENTERS);
	if (err >= 0 || err == -EINTR || err == -EAGAIN || err == -EBUSY || err == -ETIME)
		return;
	log_msg(LOG_ERROR, "io_uring_enter: %s", strerror(-err));
	CHECK(!"io_uring_enter works");
}

static void count_overflow(struct ring *r)
{
	if (io_uring_cq_has_overflow(&r->uring))
		METRIC_INC(RING_CQ_OVERFLOW);
}

static void submit_until(struct ring *r, unsigned space)
{
	for (int i = 0; io_uring_sq_space_left(&r->uring) < space; i++) {
		CHECK(i < SUBMIT_TRIES);
		if (i > 0)
			sched_yield();
		check_entered(io_uring_submit(&r->uring));
	}
}

void ring_submit(struct ring *r)
{
	submit_until(r, r->uring.sq.ring_entries);
}

void ring_reserve(struct ring *r, unsigned n)
{
	if (io_uring_sq_space_left(&r->uring) >= n)
		return;
	METRIC_INC(RING_SQ_FULL);
	submit_until(r, n);
}

struct io_uring_sqe *ring_sqe(struct ring *r, uint8_t op, uint64_t user_data)
{
	ring_reserve(r, 1);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	CHECK(sqe);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = op;
	sqe->user_data = user_data;
	return sqe;
}

void ring_use(struct io_uring_sqe *sqe, uint32_t index)
{
	sqe->fd = (int)index;
	sqe->flags |= IOSQE_FIXED_FILE;
}

void ring_prep_futex_wait(struct io_uring_sqe *sqe, const _Atomic uint32_t *word, uint32_t value)
{
	sqe->opcode = RAW_OP_FUTEX_WAIT;
	sqe->fd = RAW_FUTEX2_SIZE_U32;
	sqe->addr = (uintptr_t)word;
	sqe->off = value;
	sqe->addr3 = 0xffffffffu; /* FUTEX_BITSET_MATCH_ANY */
}

void ring_prep_send_fd(struct io_uring_sqe *sqe, int ring_fd, uint32_t from, uint32_t to)
{
	sqe->opcode = RAW_OP_MSG_RING;
	sqe->fd = ring_fd;
	sqe->addr = RAW_MSG_SEND_FD;
	sqe->addr3 = from;
	sqe->file_index = to + 1;
	sqe->msg_ring_flags = RAW_MSG_CQE_SKIP;
}

void ring_prep_setsockopt(
	struct io_uring_sqe *sqe, int level, int name, const void *value, uint32_t bytes)
{
	sqe->opcode = RAW_OP_URING_CMD;
	sqe->off = RAW_SOCKET_SETSOCKOPT;
	sqe->addr = (uint32_t)level | (uint64_t)(uint32_t)name << 32;
	sqe->file_index = bytes;
	sqe->addr3 = (uintptr_t)value;
}

void ring_enter(struct ring *r)
{
	count_overflow(r);
	check_entered(io_uring_submit_and_get_events(&r->uring));
}

void ring_wait(struct ring *r, uint64_t timeout_ns)
{
	struct __kernel_timespec ts = {
		.tv_sec = (long long)(timeout_ns / 1000000000u),
		.tv_nsec = (long long)(timeout_ns % 1000000000u),
	};
	struct io_uring_cqe *cqe;

	count_overflow(r);
	check_entered(io_uring_submit_and_wait_timeout(
		&r->uring, &cqe, 1, timeout_ns == UINT64_MAX ? NULL : &ts, NULL));
}

void ring_buffer_return(struct ring *r, uint16_t id)
{
	io_uring_buf_ring_add(r->buf_ring, (void *)(uintptr_t)ring_buffer(r, id), r->buffer_bytes,
		id, (int)r->buffers - 1, 0);
	io_uring_buf_ring_advance(r->buf_ring, 1);
}
