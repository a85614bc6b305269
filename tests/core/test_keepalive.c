/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/shard/keepalive.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

/* Whatever is asked for: no probe later than asked, a dead peer found in time, several tries. */
static void every_choice_keeps_its_word(void **state)
{
	static const int64_t idles[] = {1, 2, 4, 7, 8, 30, 60, 120, 240, 1000, 7200};

	(void)state;
	srand(1);
	for (size_t i = 0; i < sizeof(idles) / sizeof(idles[0]); i++)
		for (int n = 0; n < 20000; n++) {
			int64_t idle = idles[i], patience = idle * 3 / 4;
			struct keepalive k =
				keepalive_choose(idle, (uint32_t)rand() << 16 ^ (uint32_t)rand());

			patience = patience < 6 ? 6 : patience > 180 ? 180 : patience;
			assert_in_range(k.idle_s, idle - idle / 4, idle);
			assert_in_range(k.interval_s, 1, 15);
			assert_in_range(k.count, 6, 127); /* (the kernel's limit) */
			assert_in_range(
				k.interval_s * k.count, patience - k.interval_s + 1, patience);
		}
}

/* What drops a thousand probes of an instant must not drop them again: connections of one instant fall
 * into many others. */
static void choices_differ(void **state)
{
	unsigned seen[16] = {0}, of[256] = {0}, intervals = 0, idles = 0;

	(void)state;
	srand(2);
	for (int n = 0; n < 20000; n++) {
		struct keepalive k =
			keepalive_choose(240, (uint32_t)rand() << 16 ^ (uint32_t)rand());

		seen[k.interval_s]++;
		of[k.idle_s]++;
	}
	for (int i = 0; i < 16; i++) {
		intervals += seen[i] > 0;
		assert_true(seen[i] < 20000 / 8);
	}
	for (int i = 0; i < 256; i++)
		idles += of[i] > 0;
	assert_in_range(intervals, 12, 16);
	assert_in_range(idles, 55, 61);
}

static int option(int fd, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, name, &v, &n), 0);
	return v;
}

static void a_connection_inherits_what_the_listener_has_then(void **state)
{
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);

	(void)state;
	assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(listener, 10), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &n), 0);
	for (uint32_t i = 0; i < 20; i++) {
		uint32_t random = i * 0x9e3779b9u;
		struct keepalive k = keepalive_choose(240, random);
		int peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;

		keepalive_set(listener, 240, random);
		assert_int_equal(connect(peer, (struct sockaddr *)&a, sizeof(a)), 0);
		keepalive_set(listener, 240, ~random);
		fd = accept(listener, NULL, NULL);
		assert_true(fd >= 0);
		assert_int_equal(option(fd, TCP_KEEPIDLE), k.idle_s);
		assert_int_equal(option(fd, TCP_KEEPINTVL), k.interval_s);
		assert_int_equal(option(fd, TCP_KEEPCNT), k.count);
		close(fd);
		close(peer);
	}
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_choice_keeps_its_word),
		cmocka_unit_test(choices_differ),
		cmocka_unit_test(a_connection_inherits_what_the_listener_has_then),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
