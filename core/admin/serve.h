/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/admin/serve.h - a small poll loop for a handful of clients: what /metrics and the control
 * socket share. The protocol is a function from bytes to bytes.
 * Thread: one of its own per server; input runs there. serve_start and serve_stop from any.
 * Memory: clients_max * in_bytes_max, and what input appends to out.
 * Errors: clients beyond clients_max wait in the accept queue. A client that is late with its
 *         request or does not take its answer is closed. */
#ifndef ROOST_ADMIN_SERVE_H
#define ROOST_ADMIN_SERVE_H

#include "core/base/bytes.h"

enum serve_next {
	SERVE_MORE,  /* the request is not complete */
	SERVE_AGAIN, /* answered *used_out bytes; more requests may follow */
	SERVE_CLOSE, /* send out, then close */
};

struct serve_protocol {
	const char *name;     /* of the thread, at most 15 bytes */
	unsigned clients_max; /* at most 64 */
	unsigned request_ms;  /* a request must be complete this long after the last answer */
	unsigned answer_ms;   /* an answer must be taken within */
	size_t in_bytes_max;  /* when in.n reaches it, SERVE_MORE is taken for SERVE_CLOSE */
	enum serve_next (*input)(void *arg, struct bytes in, size_t *used_out, struct buf *out);
	void *arg;
};

struct serve;
/* Takes over the listening descriptors, also when it fails. */
struct serve *serve_start(
	const struct serve_protocol *p, const int *fds, size_t n, char *why, size_t why_bytes);
/* Ends without waiting for clients. */
void serve_stop(struct serve **s);

#endif
