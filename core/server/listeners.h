/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/server/listeners.h - the listening sockets of the phones: for each address of listen.https and listen.http
 * one in every shard, between which the kernel spreads connections (SO_REUSEPORT).
 * Thread: the main thread, before the shards are made and after they have ended; shards read theirs.
 * Memory: plain values of the caller's, zeroed at first. `address` is the text in the configuration, which
 *         must outlive them.
 * Units:  milliseconds.
 * Errors: false with one line that names the address; what was opened until then stays in the struct,
 *         for listeners_close.
 * Cost:   a dozen system calls for each socket; while an address is held, up to patience_ms. */
#ifndef ROOST_CORE_LISTENERS_H
#define ROOST_CORE_LISTENERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct config;
struct socket_list;

enum listener_kind { LISTENER_HTTPS, LISTENER_HTTP };

enum { LISTENERS_MAX = 16 }; /* a loop has no more */

/* Those of one shard. */
struct listeners {
	unsigned count;
	int fd[LISTENERS_MAX];
	enum listener_kind kind[LISTENERS_MAX];
	const char *address[LISTENERS_MAX];
};

/* Opens every address for `shards` shards; ":443" is all of IPv4 and of IPv6, whatever net.ipv6.bindv6only
 * says, or all of IPv4 on a machine without IPv6. Sockets that came with an upgrade (`inherited`, or NULL) are
 * used first and are ours then: all of an address, dealt out to the shards, since each has a queue of
 * connections of its own. An address that is in use is tried for patience_ms, unless SIGTERM or SIGINT is
 * pending: the kernel takes the rings of a killed process apart after its end, and with hundreds of
 * thousands of connections they hold the address for seconds. One that another server of the same user
 * listens on is in use, too. */
bool listeners_open(struct listeners *of_shards, unsigned shards, const struct config *c,
	struct socket_list *inherited, uint64_t patience_ms, char *why, size_t why_bytes);
/* Adds them by name for a successor; they stay ours. */
void listeners_sockets(const struct listeners *of_shards, unsigned shards, struct socket_list *out);
void listeners_close(struct listeners *of_shards, unsigned shards);

#endif
