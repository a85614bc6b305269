/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Listening sockets at addresses as people write them: what they are open to, and what was there before them. */
#include "core/listen.h"

#include "core/address.h"
#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/core/ipv6.h"

static char dir[64], why[300];

static int begin(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/roost-listen-XXXXXX");
	why[0] = 0;
	return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
	char command[128];

	(void)state;
	bind_v6_only = no_v6 = false;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

static int at(const char *text)
{
	return listen_at(text, ADDRESS_TCP | ADDRESS_UNIX, 0660, 5, why, sizeof(why));
}

static const char *in_dir(const char *name)
{
	static char text[128];

	snprintf(text, sizeof(text), "unix:%s/%s", dir, name);
	return text;
}

static bool answers(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok;

	assert_true(strlen(path) < sizeof(un.sun_path));
	strcpy(un.sun_path, path);
	ok = connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0;
	close(fd);
	return ok;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

/* To who comes with IPv4: every address is every address, whatever the machine says of IPv6. */
static void every_address_is_every_address(void **state)
{
	(void)state;
	for (int machine = 0; machine < 3; machine++) {
		const char *const texts[] = {":0", "*:0", "[::]:0", "127.0.0.1:0", "localhost:0"};

		bind_v6_only = machine == 1;
		no_v6 = machine == 2;
		for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
			int fd = at(texts[i]);

			if (fd < 0)
				fail_msg("%s", why);
			assert_true(v4_reaches(fd));
			close(fd);
		}
	}
}

/* To the operator: what was asked for by its address is not replaced by another. */
static void an_address_of_ipv6_needs_ipv6(void **state)
{
	(void)state;
	no_v6 = true;
	assert_true(at("[::1]:0") < 0);
	assert_non_null(strstr(why, "cannot listen on [::1]:0: "));
}

/* To the operator: one line with the address and what is wrong with it. */
static void what_cannot_be_is_said(void **state)
{
	char taken[32];
	struct sockaddr_in a;
	socklen_t n = sizeof(a);
	int fd = at("127.0.0.1:0");

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
	snprintf(taken, sizeof(taken), "127.0.0.1:%u", ntohs(a.sin_port));
	assert_true(at(taken) < 0);
	assert_non_null(strstr(why, taken));
	assert_non_null(strstr(why, "Address already in use"));
	close(fd);
	assert_true(at("192.0.2.1:0") < 0);
	assert_non_null(strstr(why, "192.0.2.1:0"));
	assert_true(at("mail.example:24") < 0);
	assert_non_null(strstr(why, "numeric"));
	assert_true(at("unix:/no/such/directory/x") < 0);
	assert_non_null(strstr(why, "No such file"));
	assert_true(listen_at("unix:/x", ADDRESS_TCP, 0600, 5, why, sizeof(why)) < 0);
	assert_true(listen_in("/no/such/directory", "x", 0600, 5, why, sizeof(why)) < 0);
	assert_non_null(strstr(why, "unix:/no/such/directory/x"));
}

/* To who may connect: the file's mode is what was asked for, whatever the umask. */
static void a_unix_socket_has_its_mode(void **state)
{
	mode_t before = umask(0077);
	int fd = at(in_dir("a"));

	(void)state;
	assert_true(fd >= 0);
	umask(before);
	assert_int_equal(mode_of(in_dir("a") + 5), 0660);
	assert_true(answers(in_dir("a") + 5));
	close(fd);
}

/* To the operator: a start after kill -9 needs no cleaning up, and two servers do not take each other's path. */
static void a_dead_servers_file_is_replaced_and_a_live_ones_is_not(void **state)
{
	int fd = at(in_dir("a")), second;

	(void)state;
	assert_true(fd >= 0);
	assert_true(at(in_dir("a")) < 0);
	assert_non_null(strstr(why, "another server"));
	assert_true(answers(in_dir("a") + 5));
	close(fd);
	assert_false(answers(in_dir("a") + 5));
	second = at(in_dir("a"));
	assert_true(second >= 0);
	assert_true(answers(in_dir("a") + 5));
	close(second);
}

/* To the owner of a file: it is not removed for a slip in the configuration. */
static void what_is_no_socket_stays(void **state)
{
	FILE *f = fopen(in_dir("file") + 5, "we");

	(void)state;
	assert_non_null(f);
	fclose(f);
	assert_true(at(in_dir("file")) < 0);
	assert_non_null(strstr(why, "no socket"));
	assert_int_equal(access(in_dir("file") + 5, F_OK), 0);
}

/* To a data directory far down: the socket in it has a path that no address can hold. */
static void a_long_path_is_no_obstacle(void **state)
{
	char deep[400], path[450];
	int fd;

	(void)state;
	snprintf(deep, sizeof(deep), "%s/%0150d", dir, 1);
	assert_int_equal(mkdir(deep, 0700), 0);
	fd = listen_in(deep, "control", 0600, 5, why, sizeof(why));
	if (fd < 0)
		fail_msg("%s", why);
	snprintf(path, sizeof(path), "%s/control", deep);
	assert_int_equal(mode_of(path), 0600);
	assert_true(listen_in(deep, "control", 0600, 5, why, sizeof(why)) < 0);
	assert_non_null(strstr(why, "another server"));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
		T(every_address_is_every_address),
		T(an_address_of_ipv6_needs_ipv6),
		T(what_cannot_be_is_said),
		T(a_unix_socket_has_its_mode),
		T(a_dead_servers_file_is_replaced_and_a_live_ones_is_not),
		T(what_is_no_socket_stays),
		T(a_long_path_is_no_obstacle),
	};

	return cmocka_run_group_tests_name("listen", tests, NULL, NULL);
}
