/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/target.h - the server under test, seen from outside: start and stop one, its memory and CPU
 * time from /proc.
 * Thread: one, blocking.    Memory: as said.    Errors: false with one line in why.
 * Units: bytes, nanoseconds. */
#ifndef ROOST_BENCH_TARGET_H
#define ROOST_BENCH_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
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

#endif
