/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/shard/keepalive.h - TCP keepalive for connections that come by hundreds of thousands.
 * The kernel's timers for minutes are 16 s wide: all connections whose keepalive ends within one of
 * them send their probes in the same instant. Beyond a thousand packets (net.core.netdev_max_backlog) loopback
 * and veth, so containers too, drop the rest without a word; after equal intervals the same connections
 * are dropped again, and in the end given up alive (seen: half of 80,000). So connections differ: what
 * one instant drops the next ones spread.
 * A connection inherits the settings of its listener at the moment it is made; the listener gets others
 * all the time.
 * Thread: any.    Units: seconds.    Cost: three system calls a listener. */
#ifndef ROOST_CORE_KEEPALIVE_H
#define ROOST_CORE_KEEPALIVE_H

#include <stdint.h>

struct keepalive {
	int idle_s, interval_s, count;
};
/* Probes begin after idle_s or up to a quarter sooner, and come every few seconds. Three quarters of idle_s
 * (at most 180 s, at least 6 s) of silence to all of them end the connection. */
struct keepalive keepalive_choose(int64_t idle_s, uint32_t random);
/* On a listener. */
void keepalive_set(int fd, int64_t idle_s, uint32_t random);

#endif
