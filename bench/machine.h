/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/machine.h - whether this machine can carry what a benchmark is about to do, and what can be done
 * about it.
 * Thread: one.    Memory: none.    Errors: said to `to`; false. */
#ifndef ROOST_BENCH_MACHINE_H
#define ROOST_BENCH_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct machine_need {
	uint32_t phones;
	uint32_t per_source; /* 0: one source address */
	uint32_t addresses;  /* of the server */
	bool both_ends;      /* the server is on this machine too */
	uint32_t
		loop_conns; /* a roostd is started, with so many connections to a shard; 0: none is */
	bool keepalive;     /* the server's connections send keepalive probes */
	uint32_t at_once;   /* phones that may shake hands or be sent answers together */
};
/* Probes of many connections come at once, since the kernel's far timers are coarse; what its backlog
 * cannot take is dropped, and live connections end. False: too small for so many. */
bool machine_carries_keepalive(uint32_t phones);
/* One line each for memory, ports, files, descriptors, tcp_mem and netdev_max_backlog to `to`; false when one does not suffice. */
bool machine_suffices(const struct machine_need *n, FILE *to);
/* Raises what sysctls can of that (and the backlog of listeners), only where it does not suffice,
 * each with a line to `to`; untune puts them back. False: one could not be written. */
bool machine_tune(const struct machine_need *n, FILE *to);
void machine_untune(FILE *to);

#endif
