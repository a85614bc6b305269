/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/loop.h - one shard: an event loop on one thread with as many io_uring rings as its share of
 * the connections needs. The simulation (tests/sim) implements this header a second time.
 *
 * A connection is a slot: a number below loop_slots_max() that names its ring and its direct
 * descriptor. Nothing else of the loop belongs to a connection that is parked.
 *
 * Thread: all calls on the loop's own thread, between loop_new and loop_free, except loop_post
 *         and loop_stop. Upcalls run on it too, one after the other, never inside a call.
 * Memory: 8 bytes per slot, and 4 or 16 more while it starves for a buffer or sends, mapped at
 *         loop_new and touched when used; rings and their buffers: the first at loop_new, another
 *         when all before it are full. Nothing else is allocated while running, but for bytes that
 *         loop_unwatch crossed.
 * Errors: calls on a slot cannot fail in the caller's face: the result comes as an upcall.
 *         err is 0 or -errno.
 * Order:  per slot at most one receive-or-watch and one send are outstanding. After loop_close no
 *         upcall but released() names that slot.
 * Cost:   one SQE per call, submitted in batches; no system call of its own, except where said.
 * Counts: RING_*, LOOP_ITERATIONS and CONNS_REFUSED_FULL; open and accepted connections are for
 *         the caller to count.
 * Kernel: Linux 6.1 or newer; what 6.1 lacks is tried, not required. Before 6.13 the loop sends
 *         waiting requests anew every two minutes, so that closed sockets do not pile up. */
#ifndef ROOST_IO_LOOP_H
#define ROOST_IO_LOOP_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;

/* Peer address; v4 is stored as v4-mapped v6. */
struct loop_addr {
	uint8_t ip[16];
	uint16_t port;
};

/* A message to a loop; embed it first in yours. The receiver owns it on arrival. */
struct loop_msg {
	struct loop_msg *next;
	uint32_t kind;
};

struct loop_events {
	/* A connection was accepted from listener number `listener` (order of loop_listen). The
	 * handler must call loop_recv, loop_watch or loop_close now or later. May still come after
	 * loop_listen_stop, for a connection that was on its way. */
	void (*accepted)(void *arg, uint32_t slot, unsigned listener, const struct loop_addr *peer);
	/* Result of loop_connect. With err != 0 the slot is still the caller's: loop_close it. */
	void (*connected)(void *arg, uint32_t slot, int err);
	/* Result of loop_recv: n > 0 bytes at p, valid during the call; n == 0 the peer has
	 * finished (FIN); n < 0 is -errno. */
	void (*received)(void *arg, uint32_t slot, const uint8_t *p, int n);
	/* A watched slot has bytes, FIN or an error waiting: loop_recv tells which. */
	void (*readable)(void *arg, uint32_t slot);
	/* The whole loop_send buffer is with the kernel (err 0) or never will be. */
	void (*sent)(void *arg, uint32_t slot, int err);
	/* After loop_close: every operation has come back, the slot may be given to another. */
	void (*released)(void *arg, uint32_t slot);
	/* Result of loop_export; not after loop_close. */
	void (*exported)(void *arg, uint32_t slot, int err);
	void (*message)(void *arg, struct loop_msg *m);
	/* The commit word moved (or may have); at least once after every change of it that
	 * loop_commit_moved has not told of. Comes ahead of completions that wait. */
	void (*committed)(void *arg);
	/* After each batch of upcalls, and at the latest at the time the last tick returned. */
	uint64_t (*tick)(void *arg, uint64_t now_ms);
};

struct loop_options {
	uint32_t conns_max;              /* over all rings */
	uint32_t ring_conns_max;         /* 0: as RLIMIT_NOFILE allows (and at most 1 << 20) */
	uint32_t buffers;                /* receive buffers per ring, power of two; 0: 256 */
	uint32_t buffer_bytes;           /* 0: 2048 */
	uint32_t sq_entries, cq_entries; /* per ring, see io/ring.h; 0: as the connections ask */
	int cpu;                         /* pin the thread in loop_run; -1: no */
	/* Futex word in memory shared with other processes, or NULL. */
	const _Atomic uint32_t *commit_word;
};

/* NULL with a one-line reason and remedy in why: io_uring refused with EPERM, ENOSYS, ENOMEM,
 * a descriptor limit too small, and so on. The rings are made on the calling thread, which must be
 * the one that calls loop_run. Raises the soft RLIMIT_NOFILE to the hard one. */
struct loop *loop_new(const struct loop_options *o, const struct loop_events *ev, void *arg,
	char *why, size_t why_bytes);
/* The least RLIMIT_NOFILE with which loop_new makes a loop for so many connections (ring_conns_max 0). */
uint32_t loop_descriptors_least(uint32_t conns_max);
/* Not from an upcall, and only when nobody can post any more. Open connections are closed by the
 * kernel soon after, without released(); messages not delivered are forgotten. */
void loop_free(struct loop **l);

/* A listening socket (ordinary descriptor, owned by the caller) to accept from; made blocking,
 * since a ring waits only on such. What connections inherit (TCP_NODELAY, keepalive) is the
 * caller's to set on it. When all slots are used, newcomers are reset and counted. At most 16. */
void loop_listen(struct loop *l, int fd);
/* Stops accepting on all listeners (drain); submits, so the descriptors may be closed then.
 * Connections in the backlog are reset by that closing. */
void loop_listen_stop(struct loop *l);
/* Runs until loop_stop; may be called again. The first time begins with one committed(). */
void loop_run(struct loop *l);

uint32_t loop_slots_max(const struct loop *l);
uint64_t loop_now_ms(const struct loop *l); /* monotonic, of this turn */
uint64_t loop_now_ns(const struct loop *l); /* monotonic, read now */

/* Client side: opens a socket (TCP_NODELAY) in a free slot and connects; connected() follows.
 * `from` may be NULL; with port 0 its port is chosen when connecting. UINT32_MAX when the table is
 * full, or no ordinary descriptor is left: it needs one during the call. Where a loop also
 * listens it needs a second one, with a number above the ring's indexes, and up to 64 slots per
 * listener may be promised to accepts. Costs 4-7 system calls. */
uint32_t loop_connect(
	struct loop *l, const struct sockaddr_storage *to, const struct sockaddr_storage *from);
/* One receive into a provided buffer. */
void loop_recv(struct loop *l, uint32_t slot);
/* Park: one POLL_ADD, readable() when it fires. */
void loop_watch(struct loop *l, uint32_t slot);
/* Takes an outstanding loop_recv or loop_watch back; no upcall follows for it. Bytes (or an
 * error) that the kernel had already taken for it are kept and come with the next loop_recv, before
 * later ones; loop_watch fires for them. Nothing outstanding: does nothing. */
void loop_unwatch(struct loop *l, uint32_t slot);
/* Sends all n bytes; p stays the loop's until sent(), or released() after loop_close. */
void loop_send(struct loop *l, uint32_t slot, const void *p, uint32_t n);
/* For tests and benchmarks, a peer that vanished: from now on the kernel drops whatever comes for
 * this socket and acknowledges nothing. What is sent still goes out, FIN and RST too. Linux 6.7:
 * loop_can_deafen asks the kernel (any thread). Where it cannot be done an error is logged, and the peer
 * stays. */
bool loop_can_deafen(void);
void loop_deafen(struct loop *l, uint32_t slot);
/* Cancels what is outstanding and closes; released() follows, sent() does not (its buffer is
 * free again at released()). What the kernel has taken still goes out, then FIN; with `reset` it is
 * dropped and the peer gets RST. Also for slots that are still connecting. */
void loop_close(struct loop *l, uint32_t slot, bool reset);

/* For an upcall that works long. True when the commit word has moved since committed() or this last
 * told: do at once what committed() does. One load. */
bool loop_commit_moved(struct loop *l);
/* Hands what was begun in this turn to the kernel now, rather than at its end. One system call for
 * each ring that has something. */
void loop_submit(struct loop *l);

/* ---- hand-over to another process: see io/handover.h ----
 *
 * Nothing is taken away by exporting: the slot stays open, its watch armed, and whatever is under
 * way goes on. Both ends may hold the socket as long as only one of them receives, sends or waits
 * on it, and that one closes with loop_set_shared. When the other process takes over, the caller
 * stops using the slots it took, which must be at rest; then loop_let_go. */

struct handover_escrow;

/* True while nothing of the slot is in flight but perhaps a watch, and no bytes of it are in
 * user memory: another process can go on with it. */
bool loop_may_export(const struct loop *l, uint32_t slot);
/* Copies the slot's socket into place slot % loop_ring_conns() of the escrow, over whatever was
 * there; exported() follows unless the slot is closed before. Any open slot but one that connects. */
void loop_export(struct loop *l, uint32_t slot, const struct handover_escrow *e);
/* Closes here what another process has now: neither FIN nor RST. released() follows. */
void loop_let_go(struct loop *l, uint32_t slot);
/* Takes sockets from places of an escrow into free slots, open and idle as after accepted():
 * slots_out[i] is that of places[i], UINT32_MAX for those that failed. Returns how many came. Only
 * before the first loop_run, on its thread. Waits for the kernel: some 0.5 us a socket. */
uint32_t loop_import(struct loop *l, struct handover_escrow *e, const uint32_t *places,
	uint32_t *slots_out, uint32_t n);
/* Gives up a slot that loop_import took: no word to the peer, nothing follows. One system call;
 * only before the first loop_run. */
void loop_import_drop(struct loop *l, uint32_t slot);
/* Undoes loop_listen_stop. */
void loop_listen_again(struct loop *l);
/* From any thread. While set, closing shuts the socket down first, so that the peer hears of it
 * although another process may still hold the socket. */
void loop_set_shared(struct loop *l, bool shared);
/* Slots are numbered through rings of this many. Any thread. */
uint32_t loop_ring_conns(const struct loop *l);
/* Any thread; more may be made at any time. */
uint32_t loop_rings_open(const struct loop *l);

/* From any thread: a message for this loop; wakes it. Messages of one sender keep their order.
 * From another loop's thread the wake-up goes out at the end of that loop's turn. */
void loop_post(struct loop *l, struct loop_msg *m);
/* From any thread and signal handlers: leave loop_run after the current turn. */
void loop_stop(struct loop *l);

#endif
