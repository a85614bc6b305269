/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The turn, the rings, beginning and end; the rest of a loop is in loop_*.c (loop_priv.h). */
#include "io/loop_priv.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

_Thread_local struct loop *loop_self;

/* ---- rings ---- */

static int loop_add_ring(struct loop *l)
{
	struct loop_ring *r = &l->rings[l->rings_open];
	size_t bytes = l->ring_conns * sizeof(*r->hungry.slots);
	int err;

	/* Two or more rings cannot be waited for in one of them (polling a ring's descriptor from
	 * another ring or from epoll hangs with DEFER_TASKRUN): they share an eventfd. */
	if (l->rings_open > 0 && l->events_fd < 0) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd < 0)
			return -errno;
		err = io_uring_register_eventfd(&l->rings[0].r.uring, fd);
		if (err != 0) {
			close(fd);
			return err;
		}
		l->events_fd = fd;
	}
	err = ring_open(&r->r, &l->ring_options);
	if (err != 0)
		return err;
	if (l->events_fd >= 0)
		err = io_uring_register_eventfd(&r->r.uring, l->events_fd);
	if (err == 0) {
		r->hungry.slots = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (r->hungry.slots == MAP_FAILED)
			err = -ENOMEM;
	}
	if (err != 0) {
		ring_close(&r->r);
		return err;
	}
	r->index = l->rings_open++;
	atomic_store(&l->rings_shown, l->rings_open);
	l->room[r->index] = l->ring_conns;
	return 0;
}

/* A ring that has room; makes one when there is none. The first with room, so that connections
 * gather in few rings. UINT32_MAX: full. */
uint32_t loop_ring_with_room(struct loop *l)
{
	int err;

	if (l->total_room == 0)
		return UINT32_MAX;
	for (uint32_t i = 0; i < l->rings_open; i++)
		if (l->room[i] > 0)
			return i;
	if (l->rings_open == l->rings_max || l->now_ms < l->ring_retry_ms)
		return UINT32_MAX;
	err = loop_add_ring(l);
	if (err == 0)
		return l->rings_open - 1;
	l->ring_retry_ms = l->now_ms + RING_RETRY_MS;
	l->accepts_changed = true;
	log_msg(LOG_WARNING, "no ring for more than %u connections: %s",
		l->rings_open * l->ring_conns, strerror(-err));
	return UINT32_MAX;
}

/* ---- the turn ---- */

static void complete(
	struct loop *l, struct loop_ring *r, uint64_t user_data, int res, uint32_t flags)
{
	enum op op = user_data >> 56;
	uint8_t gen = (uint8_t)(user_data >> 48);
	uint32_t slot = (uint32_t)user_data;
	const uint8_t *p = NULL;
	uint16_t buffer = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);

	switch (op) {
	case OP_QUIET:
		return;
	case OP_ACCEPT:
		accept_came(l, r->index, slot >> 16, slot & 0xffff, res);
		return;
	case OP_REFUSE:
		accept_refused(l, slot >> 16, slot & 0xffff, res);
		return;
	case OP_BELL:
		l->bell_armed = false;
		bell_clear(l);
		bell_arm(l);
		return;
	case OP_RING_BELL: /* only when it failed */
		bell_write((struct loop *)(uintptr_t)(user_data & 0xffffffffffffu));
		return;
	case OP_DEAFEN:
		if (res < 0)
			log_msg(LOG_ERROR, "a socket could not be made deaf: %s", strerror(-res));
		return;
	case OP_COMMIT:
		commit_came(l, res);
		return;
	default:
		break;
	}
	CHECK(slot < l->slots_max);
	bool stale = l->slots[slot].gen != gen;
	if (stale)
		METRIC_INC(RING_STALE);
	/* A buffer comes with errors and FIN too, and must go back in any case. */
	if (flags & IORING_CQE_F_BUFFER)
		p = ring_buffer(&r->r, buffer);
	if (!stale) {
		switch (op) {
		case OP_CONNECT:
			connect_done(l, slot, (int)(user_data >> 32 & 0xffff), res);
			break;
		case OP_RECV:
		case OP_WATCH:
		case OP_HELD:
			slot_read(l, slot, op, p, res);
			break;
		case OP_SEND:
			slot_sent(l, slot, res);
			break;
		case OP_CLOSE:
			CHECK(res == 0);
			slot_release(l, slot);
			break;
		case OP_EXPORT:
			if (!(l->slots[slot].flags & SLOT_CLOSING))
				l->ev.exported(l->arg, slot, res < 0 ? res : 0);
			break;
		default:
			CHECK(!"known operation");
		}
	}
	if (p)
		ring_buffer_return(&r->r, buffer);
}

/* Only what is there now: upcalls submit more, and the other rings and the tick have a turn too. */
static void reap(struct loop *l, struct loop_ring *r)
{
	struct io_uring *u = &r->r.uring;
	unsigned head = *u->cq.khead, done = 0;

	for (unsigned n = io_uring_cq_ready(u); n > 0; n--) {
		struct io_uring_cqe cqe = u->cq.cqes[head++ & u->cq.ring_mask];

		/* In a storm the futex's completion sits behind thousands of others, and what the
		 * upcall begins would wait for them too. */
		if (done++ % LOOK_EVERY == 0 && loop_commit_moved(l)) {
			l->ev.committed(l->arg);
			if (n > LOOK_EVERY)
				loop_submit(l);
		}

		/* Before the upcall, so that what it submits finds the room. */
		io_uring_smp_store_release(u->cq.khead, head);
		complete(l, r, cqe.user_data, cqe.res, cqe.flags);
	}
}

void loop_submit(struct loop *l)
{
	for (uint32_t i = 0; i < l->rings_open; i++)
		if (io_uring_sq_ready(&l->rings[i].r.uring))
			ring_submit(&l->rings[i].r);
}

/* True when there is something to reap. */
static bool enter_all(struct loop *l)
{
	bool ready = false;

	for (uint32_t i = 0; i < l->rings_open; i++) {
		struct ring *r = &l->rings[i].r;

		if (ring_wants_enter(r))
			ring_enter(r);
		ready |= io_uring_cq_ready(&r->uring) > 0;
	}
	return ready;
}

static bool others_wait(struct loop *l)
{
	return atomic_load(&l->inbox) || atomic_load(&l->commit_moved) || atomic_load(&l->stop);
}

static bool rings_wait(struct loop *l)
{
	for (uint32_t i = 0; i < l->rings_open; i++)
		if (ring_wants_enter(&l->rings[i].r) || io_uring_cq_ready(&l->rings[i].r.uring))
			return true;
	return false;
}

static uint64_t time_left_ns(uint64_t until_ms)
{
	if (until_ms == NEVER || until_ms > UINT64_MAX / 1000000u)
		return UINT64_MAX;
	uint64_t now_ns = clock_mono_ns(), until_ns = until_ms * 1000000u;

	return until_ns > now_ns ? until_ns - now_ns : 0;
}

/* Several rings: any of them signals events_fd. It is cleared before the last look at the rings, so
 * whatever they get after that look leaves it readable. */
static void wait_for_rings(struct loop *l, uint64_t left_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(left_ns / 1000000000u),
		.tv_nsec = (long)(left_ns % 1000000000u),
	};
	uint64_t count;

	if (read(l->events_fd, &count, sizeof(count)) > 0 && rings_wait(l))
		return;
	struct pollfd fds[] = {
		{.fd = l->events_fd, .events = POLLIN},
		{.fd = l->bell_fd, .events = POLLIN},
	};

	METRIC_INC(RING_ENTERS);
	if (ppoll(fds, ARRAY_LEN(fds), left_ns == UINT64_MAX ? NULL : &ts, NULL) > 0 &&
		fds[1].revents)
		bell_clear(l);
}

static void submit_and_wait(struct loop *l, uint64_t until_ms)
{
	bool several = l->rings_open > 1;
	uint64_t left_ns;

	/* With one ring submitting and waiting are one call, unless there is no need to wait. */
	if (several ? enter_all(l) : io_uring_cq_ready(&l->rings[0].r.uring) > 0) {
		if (!several)
			enter_all(l);
		return;
	}
	left_ns = time_left_ns(until_ms);
	atomic_store(&l->asleep, left_ns > 0);
	if (left_ns == 0 || others_wait(l)) {
		atomic_store(&l->asleep, false);
		enter_all(l);
		return;
	}
	if (several)
		wait_for_rings(l, left_ns);
	else
		ring_wait(&l->rings[0].r, left_ns);
	atomic_store(&l->asleep, false);
	if (several)
		enter_all(l);
}

static uint64_t own_deadline(struct loop *l)
{
	uint64_t at = NEVER;

	for (unsigned k = 0; k < l->listener_count; k++) {
		struct listener *ln = l->listeners[k];

		if (!ln->stopped && ln->retry_ms > l->now_ms && ln->retry_ms < at)
			at = ln->retry_ms;
	}
	if (l->ring_retry_ms > l->now_ms && l->ring_retry_ms < at)
		at = l->ring_retry_ms;
	if (at != NEVER)
		l->accepts_changed = true; /* look again then */
	if (slot_must_renew(l)) {
		uint64_t step = ring_renew_ms < RENEW_STEP_MS ? ring_renew_ms : RENEW_STEP_MS;

		at = l->renewed_ms + step < at ? l->renewed_ms + step : at;
	}
	return at;
}

static void turn(struct loop *l)
{
	uint64_t until = NEVER, own;
	bool hungry = false;

	METRIC_INC(LOOP_ITERATIONS);
	l->now_ms = clock_mono_ms();
	inbox_drain(l);
	if (atomic_load_explicit(&l->commit_moved, memory_order_relaxed) &&
		atomic_exchange(&l->commit_moved, false) && loop_commit_moved(l))
		l->ev.committed(l->arg);
	for (uint32_t i = 0; i < l->rings_open; i++) {
		struct loop_ring *r = &l->rings[i];

		reap(l, r);
		if (r->hungry.count)
			slot_hungry_retry(l, r);
		hungry |= r->hungry.count > 0;
	}
	if (l->ev.tick)
		until = l->ev.tick(l->arg, l->now_ms);
	accept_refill(l);
	if (slot_must_renew(l))
		slot_renew_some(l);
	own = own_deadline(l);
	if (own < until)
		until = own;
	/* Those retried may find nothing to read and give no completion, so do not wait for one. */
	submit_and_wait(l, hungry ? 0 : until);
}

void loop_run(struct loop *l)
{
	CHECK(!loop_self);
	loop_self = l;
	if (l->cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(l->cpu, &set);
		if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0)
			log_msg(LOG_WARNING, "cannot pin a loop to cpu %d", l->cpu);
	}
	l->now_ms = clock_mono_ms();
	if (!l->started) {
		l->started = true;
		bell_arm(l);
		commit_start(l);
	}
	while (!atomic_load(&l->stop))
		turn(l);
	/* Bells of other loops may still be in the queue. */
	enter_all(l);
	atomic_store(&l->stop, false);
	loop_self = NULL;
}

uint32_t loop_slots_max(const struct loop *l)
{
	return l->slots_max;
}

uint64_t loop_now_ms(const struct loop *l)
{
	return l->now_ms;
}

uint64_t loop_now_ns(const struct loop *l)
{
	(void)l;
	return clock_mono_ns();
}

/* ---- beginning and end ---- */

static uint32_t descriptor_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) != 0)
		return 1024;
	if (lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		/* Refused (some containers): the soft limit stays. */
		if (setrlimit(RLIMIT_NOFILE, &lim) != 0)
			getrlimit(RLIMIT_NOFILE, &lim);
	}
	return lim.rlim_cur > RING_CONNS_MAX ? RING_CONNS_MAX : (uint32_t)lim.rlim_cur;
}

static int uring_disabled(void)
{
	FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	char line[16];
	int v = 0;

	if (f) {
		if (fgets(line, sizeof(line), f))
			v = (int)strtol(line, NULL, 10);
		fclose(f);
	}
	return v;
}

static void explain(int err, const struct loop *l, char *why, size_t why_bytes)
{
	switch (-err) {
	case EPERM:
	case EACCES:
		if (uring_disabled())
			snprintf(why, why_bytes,
				"io_uring is switched off: set sysctl kernel.io_uring_disabled=0 "
				"(it is %d)",
				uring_disabled());
		else
			snprintf(why, why_bytes,
				"io_uring is forbidden here (EPERM): the container's seccomp "
				"profile or "
				"a security module blocks it; allow io_uring_setup, io_uring_enter "
				"and "
				"io_uring_register");
		break;
	case ENOSYS:
		snprintf(why, why_bytes,
			"io_uring is missing (ENOSYS): the kernel is built without it, or a "
			"container "
			"runtime such as Podman hides it; allow it in the seccomp profile");
		break;
	case EINVAL:
		snprintf(why, why_bytes,
			"io_uring is too old here: Linux 6.1 or newer is needed (DEFER_TASKRUN)");
		break;
	case ENOMEM:
		snprintf(why, why_bytes,
			"no memory for an io_uring of %u connections: raise the memory limit of "
			"the "
			"service or container, and RLIMIT_MEMLOCK (LimitMEMLOCK=, ulimit -l)",
			l->ring_conns);
		break;
	case EMFILE:
	case ENFILE:
		snprintf(why, why_bytes,
			"no descriptors left (%s) for %u rings: raise RLIMIT_NOFILE (LimitNOFILE=, "
			"ulimit -n)",
			strerror(-err), l->rings_max);
		break;
	default:
		snprintf(why, why_bytes, "io_uring cannot be set up: %s", strerror(-err));
	}
}

static void *map_zero(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static bool is_pow2(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

static bool too_many_rings(uint32_t rings, uint32_t limit)
{
	return rings > RINGS_MAX || rings + FDS_BESIDE_RINGS > limit;
}

uint32_t loop_descriptors_least(uint32_t conns_max)
{
	uint32_t limit = FDS_BESIDE_RINGS + 1;

	while (too_many_rings((conns_max - 1) / limit + 1, limit))
		limit++;
	return limit;
}

struct loop *loop_new(const struct loop_options *o, const struct loop_events *ev, void *arg,
	char *why, size_t why_bytes)
{
	uint32_t limit = descriptor_limit(), ring_conns = limit;
	struct loop *l = aligned_alloc(64, (sizeof(*l) + 63) & ~(size_t)63);
	int err = -ENOMEM;

	CHECK(o->conns_max > 0);
	CHECK(o->buffers == 0 || (is_pow2(o->buffers) && o->buffers <= BUFFERS_MAX));
	if (!l) {
		snprintf(why, why_bytes, "no memory");
		return NULL;
	}
	memset(l, 0, sizeof(*l));
	l->ev = *ev;
	l->arg = arg;
	l->total_room = o->conns_max;
	l->cpu = o->cpu;
	l->commit_word = o->commit_word;
	l->events_fd = l->bell_fd = -1;
	l->sends_free = UINT32_MAX;
	if (o->ring_conns_max && o->ring_conns_max < ring_conns)
		ring_conns = o->ring_conns_max;
	l->rings_max = (o->conns_max - 1) / ring_conns + 1;
	/* As many rings as needed, then all of one size. */
	l->ring_conns = (o->conns_max - 1) / l->rings_max + 1;
	if (too_many_rings(l->rings_max, limit)) {
		snprintf(why, why_bytes,
			"RLIMIT_NOFILE is %u, too small for %u connections (%u rings): raise it "
			"(LimitNOFILE= in the unit, ulimit -n)",
			limit, o->conns_max, l->rings_max);
		loop_free(&l);
		return NULL;
	}
	l->slots_max = l->rings_max * l->ring_conns;
	l->ring_options = (struct ring_options){
		.conns = l->ring_conns,
		.buffers = o->buffers ? o->buffers : BUFFERS_DEFAULT,
		.buffer_bytes = o->buffer_bytes ? o->buffer_bytes : BUFFER_BYTES_DEFAULT,
		.sq_entries = o->sq_entries,
		.cq_entries = o->cq_entries,
	};
	l->rings = calloc(l->rings_max, sizeof(*l->rings));
	l->room = calloc(l->rings_max, sizeof(*l->room));
	l->slots = map_zero(l->slots_max * sizeof(*l->slots));
	l->sends = map_zero(l->slots_max * sizeof(*l->sends));
	if (!l->rings || !l->room || !l->slots || !l->sends)
		goto fail;
	l->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = l->bell_fd < 0 ? -errno : loop_add_ring(l);
	if (err != 0)
		goto fail;
	if (!commit_begin(l, why, why_bytes)) {
		loop_free(&l);
		return NULL;
	}
	l->now_ms = clock_mono_ms();
	return l;
fail:
	explain(err, l, why, why_bytes);
	loop_free(&l);
	return NULL;
}

void loop_free(struct loop **lp)
{
	struct loop *l = *lp;

	if (!l)
		return;
	CHECK(loop_self != l);
	commit_end(l);
	for (uint32_t i = 0; i < l->rings_open; i++) {
		ring_close(&l->rings[i].r);
		munmap(l->rings[i].hungry.slots, l->ring_conns * sizeof(uint32_t));
	}
	if (l->events_fd >= 0)
		close(l->events_fd);
	if (l->bell_fd >= 0)
		close(l->bell_fd);
	for (unsigned k = 0; k < l->listener_count; k++)
		free(l->listeners[k]);
	for (unsigned b = 0; b < HELD_BUCKETS; b++) {
		while (l->held[b]) {
			struct held *h = l->held[b];

			l->held[b] = h->next;
			free(h);
		}
	}
	if (l->slots)
		munmap(l->slots, l->slots_max * sizeof(*l->slots));
	if (l->sends)
		munmap(l->sends, l->slots_max * sizeof(*l->sends));
	free(l->rings);
	free(l->room);
	free(l);
	*lp = NULL;
}
