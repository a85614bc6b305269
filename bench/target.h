/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/target.h - the server under test, seen from outside: start and stop one, its memory and CPU
 * time from /proc, its metrics over HTTP, the kernel's memory, and whether this machine can carry
 * what a benchmark is about to do.
 * Thread: one, blocking.    Memory: as said.    Errors: false with one line in why.
 * Units: bytes, nanoseconds. */
#ifndef ROOST_BENCH_TARGET_H
#define ROOST_BENCH_TARGET_H

#include "bench/url.h"
#include "core/base/bytes.h"

#include <stdio.h>
#include <sys/types.h>

/* ---- a roostd of our own ---- */

struct target_server {
	pid_t pid;     /* 0: none */
	char dir[256]; /* temporary: log, and the data directory below it */
	char data[300], log[300];
	uint16_t https_port, admin_port;
};
/* Makes DIR and DIR/data, nothing is started yet; the store can be filled now. */
bool target_prepare(struct target_server *t, char *why, size_t why_bytes);
/* Starts `program` with that data directory, on loopback ports of its own and a self-signed
 * certificate, and waits until it is ready. `sets` are more section.key=value, ended by NULL.
 * The child dies with us, however we end. */
bool target_start(struct target_server *t, const char *program, const char *const *sets, char *why,
	size_t why_bytes);
/* SIGKILL; the directory stays, and target_start starts it again on the same ports. */
void target_kill(struct target_server *t);
/* SIGTERM, and SIGKILL after 30 s; removes the directory. Also after a failed start. */
void target_stop(struct target_server *t);
/* roostd beside our own executable. */
void target_default_program(char *out, size_t cap);

/* ---- what it costs ---- */

/* CPU time of a process and its children (nginx workers), all threads. 0: cannot be read. */
uint64_t target_cpu_ns(pid_t pid);
struct target_memory {
	uint64_t pss, anon, rss; /* pss: all of it, also mapped files such as the store */
};
/* Anonymous resident memory, read cheaply (without children): for sampling. 0: cannot be read. */
uint64_t target_anon_now(pid_t pid);
/* All resident memory, and open descriptors, likewise. */
uint64_t target_rss_now(pid_t pid);
uint64_t target_descriptors(pid_t pid);
/* What its epoll instances watch, and those of its children. */
uint64_t target_epoll_entries(pid_t pid);
bool target_memory(pid_t pid, struct target_memory *out); /* with its children */
/* Of this program alone, also while it has the server as a child. */
void target_memory_own(struct target_memory *out);

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

/* ---- metrics ---- */

struct metrics_page {
	struct buf text;
};
/* GET of an http:// URL; the page is replaced. */
bool metrics_fetch(const struct url *from, struct metrics_page *page, char *why, size_t why_bytes);
/* Sum over all lines of that name whose labels contain `labels` (NULL: any). 0 when absent. */
double metrics_value(const struct metrics_page *page, const char *name, const char *labels);
/* Difference of two histograms (name without _bucket): the upper bound in seconds of the bucket
 * that holds quantile q; mean by _sum and _count. 0 without observations. */
double metrics_hist_quantile(const struct metrics_page *before, const struct metrics_page *after,
	const char *name, double q);
double metrics_hist_mean(const struct metrics_page *before, const struct metrics_page *after,
	const char *name, uint64_t *count_out);
void metrics_free(struct metrics_page *page);

/* ---- before it starts ---- */

struct machine_need {
	uint32_t phones;
	uint32_t per_source; /* 0: one source address */
	uint32_t addresses;  /* of the server */
	bool both_ends;      /* the server is on this machine too */
	bool keepalive;      /* the server's connections send keepalive probes */
	uint32_t at_once;    /* phones that may shake hands or be sent answers together */
};
/* Probes of many connections come at once, since the kernel's far timers are coarse; what its backlog
 * cannot take is dropped, and live connections end. False: too small for so many. */
bool machine_carries_keepalive(uint32_t phones);
/* One line each for memory, ports, files, tcp_mem and netdev_max_backlog to `to`; false when one does not suffice. */
bool machine_suffices(const struct machine_need *n, FILE *to);
/* Raises what sysctls can of that (and the backlog of listeners), only where it does not suffice,
 * each with a line to `to`; untune puts them back. False: one could not be written. */
bool machine_tune(const struct machine_need *n, FILE *to);
void machine_untune(FILE *to);

#endif
