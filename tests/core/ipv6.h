/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/core/ipv6.h - the machine as sysctl and the kernel's command line can make it, by a socket() in the place of
 * libc's; and who comes to a listener with IPv4. For one test program each, behind cmocka's headers. */
#ifndef ROOST_TESTS_CORE_IPV6_H
#define ROOST_TESTS_CORE_IPV6_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool bind_v6_only, no_v6;

int socket(int family, int type, int protocol)
{
	int fd, on = 1;

	if (family == AF_INET6 && no_v6) {
		errno = EAFNOSUPPORT;
		return -1;
	}
	fd = (int)syscall(SYS_socket, family, type, protocol);
	if (fd >= 0 && family == AF_INET6 && bind_v6_only)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	return fd;
}

/* A client on 127.0.0.1; negative: nobody listens there. */
static inline int v4_dial(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	close(fd);
	return -1;
}

static inline bool v4_reaches(int listener)
{
	struct sockaddr_storage at = {0};
	socklen_t n = sizeof(at);
	int fd;

	assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &n), 0);
	fd = v4_dial(ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
						    : ((struct sockaddr_in *)&at)->sin_port));
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

#endif
