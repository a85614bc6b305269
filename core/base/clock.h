/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/clock.h - the only place that asks what time it is.
 * State machines take `now` as an argument; programs and loops call these.
 * Units: *_ns and *_ms; mono is CLOCK_MONOTONIC (the same in every process of the machine),
 *        wall is the Unix epoch. */
#ifndef ROOST_BASE_CLOCK_H
#define ROOST_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_read_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_mono_ns(void)
{
	return clock_read_ns(CLOCK_MONOTONIC);
}

static inline uint64_t clock_mono_ms(void)
{
	return clock_mono_ns() / 1000000u;
}

static inline uint64_t clock_wall_ms(void)
{
	return clock_read_ns(CLOCK_REALTIME) / 1000000u;
}

#endif
