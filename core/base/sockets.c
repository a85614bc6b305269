/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/sockets.h"

#include "core/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void name_of(char out[SOCKET_NAME_BYTES], const char *kind, const char *address)
{
	/* Cut where it is longer: see the header. */
	if (snprintf(out, SOCKET_NAME_BYTES, "%s%s%s", kind, address[0] ? " " : "", address) < 0)
		out[0] = 0;
}

void sockets_add(struct socket_list *l, int fd, const char *kind, const char *address)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 32;
		l->v = realloc(l->v, l->cap * sizeof(*l->v));
		CHECK(l->v);
	}
	l->v[l->n].fd = fd;
	name_of(l->v[l->n++].name, kind, address);
}

int sockets_take(struct socket_list *l, const char *kind, const char *address)
{
	char name[SOCKET_NAME_BYTES];

	name_of(name, kind, address);
	for (size_t i = 0; l && i < l->n; i++) {
		int fd = l->v[i].fd;

		if (fd < 0 || strcmp(l->v[i].name, name) != 0)
			continue;
		l->v[i].fd = -1;
		return fd;
	}
	return -1;
}

void sockets_free(struct socket_list *l, int close_them)
{
	for (size_t i = 0; close_them && i < l->n; i++)
		if (l->v[i].fd >= 0)
			close(l->v[i].fd);
	free(l->v);
	*l = (struct socket_list){0};
}
