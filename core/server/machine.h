/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/server/machine.h - tables of the kernel that refuse phones without the server's hearing of it; what to do
 * is in deploy/KERNEL.md.
 * Thread: plain functions; reading /proc takes some 20 us.    Memory: the caller's. */
#ifndef ROOST_CORE_MACHINE_H
#define ROOST_CORE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 0: not known, as where connections are not tracked. */
struct machine_limits {
	uint64_t files, files_max;             /* fs.file-nr, fs.file-max */
	uint64_t conntracked, conntracked_max; /* nf_conntrack_count, nf_conntrack_max */
};
/* proc: "/proc", or what a test has in its place. */
void machine_read(const char *proc, struct machine_limits *out);
/* One line with the remedy in why: so many connections cannot be. */
bool machine_too_small(
	const struct machine_limits *m, uint64_t connections_max, char *why, size_t why_bytes);
/* The same: a table is nine tenths full. */
bool machine_nearly_full(const struct machine_limits *m, char *why, size_t why_bytes);

#endif
