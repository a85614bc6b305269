/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/server/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char proc[64];
static const char *const dirs[] = {"sys", "sys/fs", "sys/net", "sys/net/netfilter"};
static const char *const files[] = {"sys/fs/file-nr", "sys/net/netfilter/nf_conntrack_count",
	"sys/net/netfilter/nf_conntrack_max"};

static char *at(const char *name)
{
	static char path[160];

	snprintf(path, sizeof(path), "%s/%s", proc, name);
	return path;
}

static int make_proc(void **state)
{
	(void)state;
	strcpy(proc, "/tmp/roost-machine-XXXXXX");
	if (!mkdtemp(proc))
		return -1;
	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
		if (mkdir(at(dirs[i]), 0700))
			return -1;
	return 0;
}

static int remove_proc(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		unlink(at(files[i]));
	for (size_t i = sizeof(dirs) / sizeof(dirs[0]); i--;)
		rmdir(at(dirs[i]));
	return rmdir(proc);
}

static void put(const char *name, const char *text)
{
	FILE *f = fopen(at(name), "we");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void what_is_not_there_is_not_known(void **state)
{
	struct machine_limits m;
	char why[256];

	(void)state;
	machine_read("/nonexistent", &m);
	assert_int_equal(m.files_max + m.files + m.conntracked + m.conntracked_max, 0);
	put(files[0], "");
	put(files[2], "many\n");
	machine_read(proc, &m);
	assert_int_equal(m.files_max + m.files + m.conntracked + m.conntracked_max, 0);
	assert_false(machine_too_small(&m, 1000000, why, sizeof(why)));
	assert_false(machine_nearly_full(&m, why, sizeof(why)));
}

static void a_table_that_is_too_small_is_named(void **state)
{
	struct machine_limits m;
	char why[256];

	(void)state;
	put(files[0], "1504\t0\t200000\n");
	machine_read(proc, &m);
	assert_int_equal(m.files, 1504);
	assert_int_equal(m.files_max, 200000);
	assert_false(machine_too_small(&m, 200000, why, sizeof(why)));
	assert_true(machine_too_small(&m, 200001, why, sizeof(why)));
	assert_non_null(strstr(why, "fs.file-max"));
	assert_non_null(strstr(why, "200001"));
}

static void a_table_that_fills_is_named(void **state)
{
	struct machine_limits m;
	char why[256];

	(void)state;
	put(files[0], "100\t0\t1000\n");
	put(files[1], "235929\n");
	put(files[2], "262144\n");
	machine_read(proc, &m);
	assert_false(machine_nearly_full(&m, why, sizeof(why)));
	put(files[1], "235930\n");
	machine_read(proc, &m);
	assert_true(machine_nearly_full(&m, why, sizeof(why)));
	assert_non_null(strstr(why, "nf_conntrack_max"));
	put(files[1], "1\n");
	put(files[0], "900\t0\t1000\n");
	machine_read(proc, &m);
	assert_true(machine_nearly_full(&m, why, sizeof(why)));
	assert_non_null(strstr(why, "fs.file-max"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			what_is_not_there_is_not_known, make_proc, remove_proc),
		cmocka_unit_test_setup_teardown(
			a_table_that_is_too_small_is_named, make_proc, remove_proc),
		cmocka_unit_test_setup_teardown(
			a_table_that_fills_is_named, make_proc, remove_proc),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
