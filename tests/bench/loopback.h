/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/bench/loopback.h - the socket of a server of a few lines, on a port of the kernel's choice. Failures
 * are the test's. Behind cmocka's headers. */
#ifndef ROOST_TESTS_BENCH_LOOPBACK_H
#define ROOST_TESTS_BENCH_LOOPBACK_H

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
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

/* One HTTP request, its head and as many bytes as that says: how many of the n that are in `in` then. 0: the
 * client is gone. */
static inline size_t loopback_request(int fd, char *in, size_t cap, size_t *n)
{
	for (;;) {
		char *end = memmem(in, *n, "\r\n\r\n", 4);
		const char *length = end ? memmem(in, *n, "Content-Length: ", 16) : NULL;
		size_t whole = end ? (size_t)(end + 4 - in) : 0;
		ssize_t got;

		if (length)
			whole += strtoul(length + 16, NULL, 10);
		if (end && *n >= whole)
			return whole;
		got = recv(fd, in + *n, cap - *n - 1, 0);
		if (got <= 0)
			return 0;
		*n += (size_t)got;
		in[*n] = 0;
	}
}

static inline void loopback_nothing(int sig)
{
	(void)sig;
}

/* A signal finds the client in its recv(), as the end of an io_uring of its thread may. */
static inline void loopback_disturb(pthread_t client)
{
	struct sigaction a = {.sa_handler = loopback_nothing, .sa_flags = SA_RESTART};

	sigaction(SIGUSR1, &a, NULL);
	nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	pthread_kill(client, SIGUSR1);
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* A thread that accepts there ends when nobody comes any more. */
static inline void loopback_end(int fd, pthread_t thread)
{
	shutdown(fd, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(fd);
}

#endif
