/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/bench/loopback.h - the socket of a server of a few lines, on a port of the kernel's choice. Failures
 * are the test's. Behind cmocka's headers. */
#ifndef ROOST_TESTS_BENCH_LOOPBACK_H
#define ROOST_TESTS_BENCH_LOOPBACK_H

#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static inline int loopback_listen(struct sockaddr_storage *at_out)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 128), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)at_out, &n), 0);
	return fd;
}

static inline unsigned loopback_port(const struct sockaddr_storage *at)
{
	return ntohs(((const struct sockaddr_in *)at)->sin_port);
}

/* A thread that accepts there ends when nobody comes any more. */
static inline void loopback_end(int fd, pthread_t thread)
{
	shutdown(fd, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(fd);
}

#endif
