/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is said of the machine before a run. */
#include "bench/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* With so many descriptors, which only a child takes upon itself: whether that suffices. Its last line of
 * descriptors goes to `line`. */
static bool suffices(uint32_t descriptors, const struct machine_need *need, char line[256])
{
	FILE *said = tmpfile();
	pid_t child;
	int status;

	assert_non_null(said);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct rlimit few = {.rlim_cur = descriptors, .rlim_max = descriptors};
		bool ok = setrlimit(RLIMIT_NOFILE, &few) == 0 && machine_suffices(need, said);

		fflush(said);
		_exit(ok);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	rewind(said);
	line[0] = 0;
	for (char l[256]; fgets(l, sizeof(l), said);)
		if (strncmp(l, "descriptors:", 12) == 0)
			strcpy(line, l);
	fclose(said);
	return WEXITSTATUS(status) != 0;
}

/* To the engineer: a server is made for all its connections, however few phones come, and does not start with
 * too few descriptors (deploy/KERNEL.md). That is said before a store is filled. */
static void the_servers_own_descriptors_are_asked_for(void **state)
{
	struct machine_need need = {.phones = 10, .addresses = 1, .both_ends = true};
	char line[256];

	(void)state;
	need.loop_conns = 500000;
	assert_false(suffices(700, &need, line));
	assert_non_null(strstr(line, "NOT ENOUGH"));
	suffices(750, &need, line);
	assert_non_null(strstr(line, ": enough"));
	/* One of fewer connections, and one that we do not start. */
	need.loop_conns = 1000;
	suffices(256, &need, line);
	assert_non_null(strstr(line, ": enough"));
	need.loop_conns = 0;
	suffices(256, &need, line);
	assert_string_equal(line, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_servers_own_descriptors_are_asked_for),
	};

	return cmocka_run_group_tests_name("bench machine", tests, NULL, NULL);
}
