/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/listen.h - listening sockets at addresses of the configuration (core/address.h): what those for phones, for
 * mail and for operators have in common.
 * ":443" is all of IPv4 and of IPv6, whatever net.ipv6.bindv6only says, or all of IPv4 on a machine without IPv6.
 * An address that names another of IPv6 needs it.
 * Thread: any, no state.    Memory: none; a descriptor is the caller's, and close-on-exec.
 * Errors: negative, with errno or with one line.    Cost: a dozen system calls. */
#ifndef ROOST_CORE_LISTEN_H
#define ROOST_CORE_LISTEN_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

/* To be bound to *address, which becomes that of IPv4 where the machine has no other. flags: SOCK_NONBLOCK or 0.
 * Negative with errno. */
int listen_socket(struct sockaddr_storage *address, socklen_t *length, int flags);
/* Bound and listening, nonblocking; `kinds` as in core/address.h. A unix socket's file has `mode` from the beginning
 * and takes the place of one that a dead server left; one that a server answers at stays, and so does what is no
 * socket: both are errors. */
int listen_at(
	const char *text, unsigned kinds, mode_t mode, int backlog, char *why, size_t why_bytes);
/* The same at unix:dir/name, whose path may be longer than a socket address can hold. */
int listen_in(
	const char *dir, const char *name, mode_t mode, int backlog, char *why, size_t why_bytes);

#endif
