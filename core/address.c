/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/address.h"

#include "core/base/bytes.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define FORMS "allowed: host:port, [v6]:port, :port"

static bool wrong(char *why, size_t why_bytes, const char *what)
{
	snprintf(why, why_bytes, "%s", what);
	return false;
}

static bool parse_unix(const char *path, struct sockaddr_storage *out, socklen_t *length_out,
	char *why, size_t why_bytes)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t n = strlen(path);

	if (path[0] != '/')
		return wrong(why, why_bytes, "a unix socket needs an absolute path: unix:/path");
	if (n >= sizeof(un.sun_path)) {
		snprintf(why, why_bytes, "a unix socket's path has at most %zu bytes, this has %zu",
			sizeof(un.sun_path) - 1, n);
		return false;
	}
	memcpy(un.sun_path, path, n + 1);
	memset(out, 0, sizeof(*out));
	memcpy(out, &un, sizeof(un));
	*length_out = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
	return true;
}

static bool parse_v6(const char *host, struct sockaddr_in6 *v6)
{
	char plain[INET6_ADDRSTRLEN];
	const char *zone = strchr(host, '%');

	if (!bytes_to_strz(bytes_of(host, zone ? (size_t)(zone - host) : strlen(host)), plain,
		    sizeof(plain)))
		return false;
	if (inet_pton(AF_INET6, plain, &v6->sin6_addr) != 1)
		return false;
	if (zone) {
		v6->sin6_scope_id = if_nametoindex(zone + 1);
		if (!v6->sin6_scope_id)
			return false;
	}
	v6->sin6_family = AF_INET6;
	return true;
}

bool address_parse(const char *text, unsigned kinds, struct sockaddr_storage *out,
	socklen_t *length_out, char *why, size_t why_bytes)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	char host[80];
	const char *colon, *end;
	uint64_t port;
	bool bracketed = text[0] == '[';

	if (strncmp(text, "unix:", 5) == 0) {
		if (!(kinds & ADDRESS_UNIX))
			return wrong(why, why_bytes, "not a unix socket here; " FORMS);
		return parse_unix(text + 5, out, length_out, why, why_bytes);
	}
	if (!(kinds & ADDRESS_TCP))
		return wrong(why, why_bytes, "allowed: unix:/path");
	if (bracketed) {
		end = strchr(text, ']');
		colon = end ? end + 1 : NULL;
		if (!colon || *colon != ':')
			return wrong(why, why_bytes, "'[' begins [v6]:port");
		text++;
	} else {
		colon = strrchr(text, ':');
		if (!colon)
			return wrong(why, why_bytes, "the port is missing; " FORMS);
		end = colon;
		if (memchr(text, ':', (size_t)(colon - text)))
			return wrong(why, why_bytes,
				"an IPv6 address needs brackets: [2001:db8::1]:443");
	}
	if (!bytes_to_u64(bytes_str(colon + 1), 65535, &port))
		return wrong(why, why_bytes, "the port must be a number from 0 to 65535");
	if (!bytes_to_strz(bytes_of(text, (size_t)(end - text)), host, sizeof(host)))
		return wrong(why, why_bytes, "the host is too long; " FORMS);

	memset(out, 0, sizeof(*out));
	if (bracketed) {
		if (!parse_v6(host, &v6))
			return wrong(why, why_bytes, "not an IPv6 address between the brackets");
	} else if (host[0] == 0 || strcmp(host, "*") == 0) {
		v6.sin6_addr = in6addr_any; /* core/listen.h: v4 comes along */
	} else {
		if (strcmp(host, "localhost") == 0)
			strcpy(host, "127.0.0.1");
		if (inet_pton(AF_INET, host, &v4.sin_addr) != 1)
			return wrong(why, why_bytes,
				"the host must be a numeric address, localhost or empty (all "
				"addresses)");
		v4.sin_port = htons((uint16_t)port);
		memcpy(out, &v4, sizeof(v4));
		*length_out = sizeof(v4);
		return true;
	}
	v6.sin6_port = htons((uint16_t)port);
	memcpy(out, &v6, sizeof(v6));
	*length_out = sizeof(v6);
	return true;
}

/* Host as text; `bracket` tells whether a port would need brackets around it. False: no host. */
static bool host_text(const struct sockaddr *address, socklen_t length,
	char out[ADDRESS_TEXT_BYTES], bool *bracket, unsigned *port)
{
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	*bracket = false;
	if (length >= sizeof(v4) && address->sa_family == AF_INET) {
		memcpy(&v4, address, sizeof(v4));
		*port = ntohs(v4.sin_port);
		return inet_ntop(AF_INET, &v4.sin_addr, out, ADDRESS_TEXT_BYTES) != NULL;
	}
	if (length < sizeof(v6) || address->sa_family != AF_INET6)
		return false;
	memcpy(&v6, address, sizeof(v6));
	*port = ntohs(v6.sin6_port);
	if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr))
		return inet_ntop(AF_INET, v6.sin6_addr.s6_addr + 12, out, ADDRESS_TEXT_BYTES) !=
		       NULL;
	*bracket = true;
	if (!inet_ntop(AF_INET6, &v6.sin6_addr, out, ADDRESS_TEXT_BYTES))
		return false;
	if (v6.sin6_scope_id) {
		char zone[IF_NAMESIZE];
		size_t n = strlen(out);

		if (if_indextoname(v6.sin6_scope_id, zone))
			snprintf(out + n, ADDRESS_TEXT_BYTES - n, "%%%s", zone);
		else
			snprintf(out + n, ADDRESS_TEXT_BYTES - n, "%%%u", v6.sin6_scope_id);
	}
	return true;
}

void address_format(const struct sockaddr *address, socklen_t length, char out[ADDRESS_TEXT_BYTES])
{
	char host[ADDRESS_TEXT_BYTES];
	bool bracket;
	unsigned port = 0;

	if (length > offsetof(struct sockaddr_un, sun_path) && address->sa_family == AF_UNIX) {
		const struct sockaddr_un *un = (const struct sockaddr_un *)address;
		size_t n = strnlen(un->sun_path, length - offsetof(struct sockaddr_un, sun_path));

		snprintf(out, ADDRESS_TEXT_BYTES, "unix:%.*s", (int)n, un->sun_path);
	} else if (host_text(address, length, host, &bracket, &port)) {
		snprintf(out, ADDRESS_TEXT_BYTES, bracket ? "[%.70s]:%u" : "%.70s:%u", host, port);
	} else {
		snprintf(out, ADDRESS_TEXT_BYTES, "?");
	}
}

void address_format_host(
	const struct sockaddr *address, socklen_t length, char out[ADDRESS_TEXT_BYTES])
{
	bool bracket;
	unsigned port;

	if (length >= sizeof(sa_family_t) && address->sa_family == AF_UNIX)
		snprintf(out, ADDRESS_TEXT_BYTES, "local");
	else if (!host_text(address, length, out, &bracket, &port))
		snprintf(out, ADDRESS_TEXT_BYTES, "?");
}

void address_format_ip(const uint8_t ip[16], char out[ADDRESS_TEXT_BYTES])
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	char *p = out;

	/* Once for every line of the log, so IPv4 goes by the shortest way. */
	if (memcmp(ip, mapped, sizeof(mapped)) == 0) {
		for (int i = 12; i < 16; i++) {
			if (ip[i] >= 100)
				*p++ = (char)('0' + ip[i] / 100);
			if (ip[i] >= 10)
				*p++ = (char)('0' + ip[i] / 10 % 10);
			*p++ = (char)('0' + ip[i] % 10);
			*p++ = i == 15 ? '\0' : '.';
		}
		return;
	}

	memcpy(&v6.sin6_addr, ip, 16);
	address_format_host((const struct sockaddr *)&v6, sizeof(v6), out);
}
