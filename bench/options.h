/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/options.h - the command line of roost-bench.
 * Thread: the main thread.    Memory: strings stay argv's.    Errors: said, and the program ends. */
#ifndef ROOST_BENCH_OPTIONS_H
#define ROOST_BENCH_OPTIONS_H

#include "bench/scenarios/scenario.h"

enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_MACHINE = 3,
	EXIT_STOPPED = 130
};

/* Into b, which holds the defaults. */
void bench_options(struct bench *b, int argc, char **argv);
/* What was asked for, to go with the figures. The caller's. */
json_t *bench_settings(const struct bench *b);

#endif
