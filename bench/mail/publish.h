/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/mail/publish.h - makes a change at servers that take changes as an HTTP POST: nginx with nchan.
 * Thread: one, blocking, at most 10 s for an answer.    Memory: as said.
 * Errors: false with one line in why, also for a body of more than 64 KiB; the connection is then useless. */
#ifndef ROOST_BENCH_MAIL_PUBLISH_H
#define ROOST_BENCH_MAIL_PUBLISH_H

#include "bench/fleet/url.h"

#include <stdint.h>

struct publisher;

/* to: an http:// URL; a phone's number is put behind its path. */
struct publisher *publisher_open(const struct url *to, char *why, size_t why_bytes);
void publisher_close(struct publisher **p);
/* One POST for each of those phones, all sent at once, then all answers read. sent_ns_out: when
 * sending began (CLOCK_MONOTONIC). */
bool publisher_send(struct publisher *p, const uint32_t *phones, size_t n, uint64_t *sent_ns_out,
	char *why, size_t why_bytes);

#endif
