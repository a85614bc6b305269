/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/url.h - a server as people name it: how to speak to it, what it is called, where it is.
 * Thread: any; url_parse blocks while a name is looked up.    Memory: plain values.
 * Errors: false with one line in why, nothing else written. */
#ifndef ROOST_BENCH_FLEET_URL_H
#define ROOST_BENCH_FLEET_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define URL_SCHEMES(X)                                                                             \
	X(HTTPS, 0, "https", "443", true)                                                          \
	X(HTTP, 1, "http", "80", false)                                                            \
	X(IMAPS, 2, "imaps", "993", true)                                                          \
	X(IMAP, 3, "imap", "143", false)                                                           \
	X(LMTP, 4, "lmtp", "24", false)                                                            \
	X(SMTP, 5, "smtp", "25", false)

enum url_scheme {
#define X(id, bit, name, port, tls) URL_##id = 1 << (bit),
	URL_SCHEMES(X)
#undef X
};

struct url {
	enum url_scheme scheme;
	bool tls;
	char host[256]; /* as named: for SNI, certificate and Host header */
	char port[16];
	char path[256]; /* "" or begins with '/' */
	struct sockaddr_storage to;
	socklen_t to_bytes;
};

enum { URL_WHY_BYTES = 512 }; /* room for any reason */

/* SCHEME://HOST[:PORT][/PATH] with a scheme of `schemes`, a sum of enum url_scheme; [v6] in brackets.
 * Resolves HOST; an IPv4 address is preferred, because that is what a server on localhost listens on
 * more often. */
bool url_parse(const char *text, unsigned schemes, struct url *out, char *why, size_t why_bytes);
/* HOST:PORT as the Host header wants it. */
void url_host_header(const struct url *u, char *dst, size_t cap);

#endif
