/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/url.h"

#include "core/base/check.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct scheme {
	enum url_scheme id;
	const char *name, *port;
	bool tls;
};

static const struct scheme all[] = {
#define X(id, bit, name, port, tls) {URL_##id, name, port, tls},
	URL_SCHEMES(X)
#undef X
};

/* What stands behind "://", or NULL with a text that names what may stand before it. */
static const char *parse_scheme(
	const char *text, unsigned schemes, const struct scheme **out, char *why, size_t why_bytes)
{
	const char *comma = "";
	size_t n;

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		n = strlen(all[i].name);
		if ((all[i].id & schemes) && strncasecmp(text, all[i].name, n) == 0 &&
			strncmp(text + n, "://", 3) == 0) {
			*out = &all[i];
			return text + n + 3;
		}
	}
	n = (size_t)snprintf(why, why_bytes, "'%.200s' does not begin with ", text);
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (!(all[i].id & schemes) || n >= why_bytes)
			continue;
		n += (size_t)snprintf(why + n, why_bytes - n, "%s%s://", comma, all[i].name);
		comma = " or ";
	}
	return NULL;
}

static bool wrong(const char *text, const char *what, char *why, size_t why_bytes)
{
	snprintf(why, why_bytes, "'%.200s' %s", text, what);
	return false;
}

/* HOST[:PORT][/PATH]. */
static bool parse_rest(const char *text, const char *at, struct url *u, char *why, size_t why_bytes)
{
	const char *end;
	size_t n;

	if (*at == '[') {
		end = strchr(++at, ']');
		if (!end)
			return wrong(text, "has no ']' after the address", why, why_bytes);
		n = (size_t)(end++ - at);
	} else {
		n = strcspn(at, ":/");
		end = at + n;
	}
	if (n == 0 || n >= sizeof(u->host))
		return wrong(text, "names no host", why, why_bytes);
	memcpy(u->host, at, n);
	if (*end == ':') {
		n = strcspn(++end, "/");
		if (n == 0 || n >= sizeof(u->port) || strspn(end, "0123456789") < n ||
			strtoul(end, NULL, 10) - 1 >= 65535)
			return wrong(text, "has no proper port", why, why_bytes);
		memcpy(u->port, end, n);
		u->port[n] = 0;
		end += n;
	}
	if ((*end != 0 && *end != '/') || strlen(end) >= sizeof(u->path))
		return wrong(text, "is not a URL", why, why_bytes);
	memcpy(u->path, end, strlen(end));
	return true;
}

static bool resolve(struct url *u, char *why, size_t why_bytes)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
	struct addrinfo *found = NULL;
	/* RFC 6761 6.3: localhost is loopback, also where no hosts file says so (containers). */
	const char *host = strcmp(u->host, "localhost") == 0 ? "127.0.0.1" : u->host;
	int err = getaddrinfo(host, u->port, &hints, &found);

	if (err) {
		/* AI_ADDRCONFIG leaves out loopback on a machine without a network. */
		hints.ai_flags = 0;
		err = getaddrinfo(host, u->port, &hints, &found);
	}
	if (err || !found) {
		snprintf(why, why_bytes, "%s: %s", u->host, gai_strerror(err));
		return false;
	}
	const struct addrinfo *best = found;

	while (best && best->ai_family != AF_INET)
		best = best->ai_next;
	if (!best)
		best = found;
	memcpy(&u->to, best->ai_addr, best->ai_addrlen);
	u->to_bytes = best->ai_addrlen;
	freeaddrinfo(found);
	return true;
}

bool url_parse(const char *text, unsigned schemes, struct url *out, char *why, size_t why_bytes)
{
	const struct scheme *scheme = NULL;
	const char *at = parse_scheme(text, schemes, &scheme, why, why_bytes);
	struct url u = {.path = ""};

	if (!at)
		return false;
	u.scheme = scheme->id;
	u.tls = scheme->tls;
	memcpy(u.port, scheme->port, strlen(scheme->port));
	if (!parse_rest(text, at, &u, why, why_bytes) || !resolve(&u, why, why_bytes))
		return false;
	*out = u;
	return true;
}

void url_host_header(const struct url *u, char *dst, size_t cap)
{
	snprintf(dst, cap, strchr(u->host, ':') ? "[%s]:%s" : "%s:%s", u->host, u->port);
}
