/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the server's end takes of the kernel is told apart from the client's end and from others. */
#include "bench/kernel_memory.h"
#include "bench/target.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <sys/epoll.h>
#include <unistd.h>
#include <cmocka.h>

enum { TCP, TCP6, SOCK_INODE, FILP, DENTRY, KIOCB, REQUEST, PHONES = 1000 };

static const uint32_t object[KERNEL_CACHES] = {2368, 2496, 832, 192, 192, 256, 300};

static void add(struct kernel_memory *k, int cache, double count)
{
	k->cache[cache] += (uint64_t)(count * object[cache]);
	k->tcp_sockets += cache == TCP ? (uint64_t)count : 0;
}

static struct kernel_memory begin(void)
{
	struct kernel_memory k = {.has_caches = true, .unix_object = 1152, .tcp_sockets = 70};

	for (int i = 0; i < KERNEL_CACHES; i++) {
		k.object[i] = object[i];
		k.cache[i] = 50ull * object[i];
	}
	return k;
}

/* n sockets, each with inode, file and dentry. */
static void add_sockets(struct kernel_memory *k, double n)
{
	add(k, TCP, n);
	add(k, SOCK_INODE, n);
	add(k, FILP, n);
	add(k, DENTRY, n);
}

#define SOCKET_BYTES (2368 + 832 + 192 + 192)

static void a_server_with_rings_holds_what_the_client_holds(void **state)
{
	struct kernel_memory before = begin(), after = before;
	struct kernel_share s;

	(void)state;
	add_sockets(&after, 2 * PHONES);
	add(&after, KIOCB, 2 * PHONES);
	kernel_share(&before, &after, PHONES, 0, &s);
	assert_true(s.sound);
	assert_true(s.foreign == 0);
	assert_int_equal((int)s.per_phone, SOCKET_BYTES + 256);
}

/* To nginx: its epoll entries are all its own, the client's poll is not. */
static void a_server_with_epoll_has_its_entries_alone(void **state)
{
	struct kernel_memory before = begin(), after = before;
	struct kernel_share s;

	(void)state;
	add_sockets(&after, 2 * PHONES);
	add(&after, KIOCB, PHONES);
	kernel_share(&before, &after, PHONES, PHONES, &s);
	assert_int_equal((int)s.per_phone, SOCKET_BYTES + 128 + 64);
	assert_int_equal((int)s.cache[KIOCB], 0);
}

/* To Dovecot: two AF_UNIX sockets for each phone, with inode, file and dentry. */
static void sockets_between_its_processes_count(void **state)
{
	struct kernel_memory before = begin(), after = before;
	struct kernel_share s;

	(void)state;
	add_sockets(&after, 2 * PHONES);
	add(&after, KIOCB, PHONES);
	add(&after, SOCK_INODE, 2 * PHONES);
	add(&after, FILP, 2 * PHONES);
	kernel_share(&before, &after, PHONES, 0, &s);
	assert_int_equal((int)s.unix_sockets, 2 * 1152);
	assert_int_equal((int)s.per_phone, SOCKET_BYTES + 2 * (1152 + 832 + 192 + 192));
}

static void sockets_and_files_of_others_are_taken_out(void **state)
{
	struct kernel_memory before = begin(), after = before;
	struct kernel_share s;

	(void)state;
	add_sockets(&after, 2 * PHONES + 100);
	add(&after, KIOCB, 2 * PHONES);
	add(&after, DENTRY, 40000); /* a compiler */
	kernel_share(&before, &after, PHONES, 0, &s);
	assert_true(s.sound);
	assert_int_equal((int)s.foreign, 100);
	assert_int_equal((int)s.per_phone, SOCKET_BYTES + 256);
	/* Others that go are no gift either. */
	before = after;
	after = before;
	add_sockets(&after, 2 * PHONES - 100);
	add(&after, KIOCB, 2 * PHONES);
	kernel_share(&before, &after, PHONES, 0, &s);
	assert_int_equal((int)s.foreign, -100);
	assert_int_equal((int)s.per_phone, SOCKET_BYTES + 256);
	add_sockets(&after, 10000);
	kernel_share(&before, &after, PHONES, 0, &s);
	assert_false(s.sound);
}

static void epoll_entries_are_counted_not_guessed(void **state)
{
	uint64_t before = target_epoll_entries(getpid());
	int epoll = epoll_create1(EPOLL_CLOEXEC), ends[3][2];

	(void)state;
	assert_true(epoll >= 0);
	for (int i = 0; i < 3; i++) {
		struct epoll_event e = {.events = EPOLLIN};

		assert_int_equal(pipe(ends[i]), 0);
		assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[i][0], &e), 0);
	}
	assert_int_equal(target_epoll_entries(getpid()) - before, 3);
	close(epoll);
	assert_int_equal(target_epoll_entries(getpid()), before);
	for (int i = 0; i < 3; i++) {
		close(ends[i][0]);
		close(ends[i][1]);
	}
	assert_int_equal(target_epoll_entries(0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_with_rings_holds_what_the_client_holds),
		cmocka_unit_test(a_server_with_epoll_has_its_entries_alone),
		cmocka_unit_test(sockets_between_its_processes_count),
		cmocka_unit_test(sockets_and_files_of_others_are_taken_out),
		cmocka_unit_test(epoll_entries_are_counted_not_guessed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
