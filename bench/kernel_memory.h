/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/kernel_memory.h - what the kernel holds for connections, by its caches.
 * Thread: one, blocking.    Memory: plain values.    Errors: what cannot be read is 0.
 * Units: bytes. */
#ifndef ROOST_BENCH_KERNEL_MEMORY_H
#define ROOST_BENCH_KERNEL_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

enum { KERNEL_CACHES = 7 };
struct kernel_memory {
	uint64_t available, slab, sockets; /* MemAvailable, Slab, TCP buffers */
	uint64_t cache[KERNEL_CACHES];  /* bytes of objects in use; 0 without the right to read */
	uint32_t object[KERNEL_CACHES]; /* bytes of one of them */
	uint32_t unix_object;           /* of an AF_UNIX socket, whose cache others share */
	uint64_t tcp_sockets;           /* in the whole system */
	bool has_caches;
};
extern const char *const kernel_cache_names[KERNEL_CACHES];
void kernel_memory(struct kernel_memory *out);
/* What the server's end of a connection takes of that, by objects: of what was added, without the
 * sockets of others (foreign: more TCP sockets than both ends of `phones` connections, or fewer) and
 * without the client's end, of which it is known what it holds: a TCP socket, its inode, file and dentry,
 * and one poll. epoll_entries: see target_epoll_entries, what was added. Dentries are not counted but computed, one a socket: compilers make thousands. Both ends
 * on this machine. */
struct kernel_share {
	double per_phone; /* sum of these */
	double cache[KERNEL_CACHES], unix_sockets, poll_entries;
	double foreign; /* sockets */
	bool sound;     /* foreign ones are so few that their unknown parts do not matter */
};
void kernel_share(const struct kernel_memory *before, const struct kernel_memory *after,
	uint32_t phones, uint64_t epoll_entries, struct kernel_share *out);
/* Sockets of a process that ended go away over seconds; waits until nothing moves any more, at most
 * timeout_ms. False: it still does, somebody else is at work. */
bool kernel_settle(uint64_t timeout_ms, volatile const int *stop);

#endif
