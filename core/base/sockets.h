/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/sockets.h - listening sockets by name, so that one process can give them to its
 * successor and each part there finds its own again.
 * A name says what the socket is for, as the configuration has it: "https 0.0.0.0:443". Several may
 * have the same one; they keep their order.
 * Thread: plain values, no state. Memory: the list's own, until sockets_free.
 * Errors: no memory aborts; a name that is too long is cut, and then found by the same cut. */
#ifndef ROOST_BASE_SOCKETS_H
#define ROOST_BASE_SOCKETS_H

#include <stddef.h>

enum { SOCKET_NAME_BYTES = 256 };

struct socket_list {
	struct socket_entry {
		int fd;
		char name[SOCKET_NAME_BYTES];
	} * v;
	size_t n, cap;
};

void sockets_add(struct socket_list *l, int fd, const char *kind, const char *address);
/* The first of this name, which is the caller's then; -1: there is none. l may be NULL. */
int sockets_take(struct socket_list *l, const char *kind, const char *address);
/* Frees the list; with `close_them` also what nobody took. */
void sockets_free(struct socket_list *l, int close_them);

#endif
