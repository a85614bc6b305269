/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/visit.h - connects, asks once, closes, again and again: what a handshake and a first request cost.
 * Thread: blocks until all is over; the connections live on a thread of its own.
 * Memory: 16 bytes per connection at a time, 8 per visit.    Errors: visits that fail are counted; false,
 * with a reason, when none could begin.    Units: *_ns is CLOCK_MONOTONIC, or a time. */
#ifndef ROOST_BENCH_FLEET_VISIT_H
#define ROOST_BENCH_FLEET_VISIT_H

#include "bench/fleet/client.h"

struct visit_options {
	struct client_options client; /* phones_max is the parallelism */
	struct bytes request;         /* any answer will do */
	uint32_t count;               /* visits over all */
	volatile const int *stop;     /* looked at now and then */
	void (*progress)(uint32_t done);
};
struct visit_result {
	uint32_t done, failed;
	uint64_t full, resumed;
	uint64_t *open_ns; /* connect and handshake of each that succeeded; the caller frees */
	uint64_t first_ns, last_ns;
	int last_status;
	char why[CLIENT_WHY_BYTES], tls[64];
};
bool visits_run(
	const struct visit_options *o, struct visit_result *out, char *why, size_t why_bytes);

#endif
