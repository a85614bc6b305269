/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Command lines: values land where the table says, what is wrong ends the program with a hint, and --help shows
 * every option within 80 columns. */
#include "bench/cli.h"
#include "core/base/check.h"
#include "core/version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* What the child has read, as text; and how it ended. */
struct ran {
	int code;
	char out[8192];
	char err[2048];
};

struct settings {
	bool loud;
	const char *file;
	uint32_t count;
	char words[256];
};

static void take_word(void *arg, const char *option, const char *text)
{
	struct settings *s = arg;
	size_t n = strlen(s->words);

	assert_null(option);
	snprintf(s->words + n, sizeof(s->words) - n, "<%s>", text);
}

static void take_pair(void *arg, const char *option, const char *text)
{
	struct settings *s = arg;
	size_t n = strlen(s->words);

	snprintf(s->words + n, sizeof(s->words) - n, "(%s=%s)", option, text ? text : "none");
}

static void read_and_show(int argc, char **argv)
{
	struct settings s = {.count = 7};
	const struct cli_option options[] = {
		{.help = "Everything:"},
		{"loud", 'l', .flag = &s.loud, .help = "more noise"},
		{"file", 'f', "FILE", .text = &s.file, .help = "from where"},
		{"count", 0, "N", .number = &s.count, .min = 2, .max = 10,
			.help = "a description that is so long that no terminal of eighty columns "
				"could show it in one line, so that it has to go on in others"},
		{"a-name-that-reaches-far-to-the-right", 0, "VALUE", .take = take_pair,
			.help = "behind it"},
		{"maybe", 'm', "VALUE", .optional = true, .take = take_pair},
		{"version", 'V', .take = cli_version},
	};
	static const struct cli_word words[] = {{"go", "does it"},
		{"wander", "takes the long way, about which so much can be said that it goes "
			   "beyond any line"}};
	const struct cli cli = {options, ARRAY_LEN(options), take_word, &s, "test - a program\n\n",
		"\nThe end.\n", words, ARRAY_LEN(words)};

	cli_read(&cli, argc, argv);
	printf("loud=%d file=%s count=%u words=%s", s.loud, s.file ? s.file : "none", s.count,
		s.words);
}

static void drain(FILE *f, char *out, size_t cap)
{
	rewind(f);
	out[fread(out, 1, cap - 1, f)] = 0;
	fclose(f);
}

/* In a child, since it ends. */
static struct ran run(const char *const *args)
{
	FILE *out = tmpfile(), *err = tmpfile();
	char *argv[16] = {(char *)"test"};
	struct ran r = {.code = -1};
	int argc = 1, status;
	pid_t pid;

	assert_true(out && err);
	while (*args)
		argv[argc++] = (char *)*args++;
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(fileno(out), STDOUT_FILENO);
		dup2(fileno(err), STDERR_FILENO);
		read_and_show(argc, argv);
		exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	r.code = WEXITSTATUS(status);
	drain(out, r.out, sizeof(r.out));
	drain(err, r.err, sizeof(r.err));
	return r;
}
#define RUN(...) run((const char *const[]){__VA_ARGS__, NULL})

static void values_land_where_the_table_says(void **state)
{
	static const char *const none[] = {NULL};

	(void)state;
	assert_string_equal(run(none).out, "loud=0 file=none count=7 words=");
	assert_string_equal(
		RUN("--loud", "--file", "x", "--count=10").out, "loud=1 file=x count=10 words=");
	assert_string_equal(RUN("-lfx", "--count", "2").out, "loud=1 file=x count=2 words=");
	assert_string_equal(RUN("-f", "x", "-f", "y").out, "loud=0 file=y count=7 words=");
	assert_string_equal(RUN("--cou", "3").out, "loud=0 file=none count=3 words=");
}

/* To a script of verbs: their order is kept, options may stand between them, and all is a word behind --. */
static void words_keep_their_order(void **state)
{
	(void)state;
	assert_string_equal(RUN("b", "--loud", "a", "--a-name-that-reaches-far-to-the-right", "1",
				    "c", "--", "-l", "--d")
				    .out,
		"loud=1 file=none count=7 words=<b><a>(a-name-that-reaches-far-to-the-right=1)<c><-"
		"l><--d>");
	assert_string_equal(RUN("--maybe", "a", "-m", "b", "--maybe=c").out,
		"loud=0 file=none count=7 words=(maybe=none)<a>(maybe=none)<b>(maybe=c)");
}

static void what_is_wrong_ends_the_program(void **state)
{
	static const char *const counts[] = {
		"1", "11", "", "x", "-2", "+2", " 2", "2 ", "0x2", "99999999999999999999999"};
	struct ran r;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		char want[160];

		r = RUN("--count", counts[i]);
		snprintf(want, sizeof(want), ": --count: '%s' is not a number from 2 to 10 (",
			counts[i]);
		assert_int_equal(r.code, CLI_EXIT_USAGE);
		assert_string_equal(r.out, "");
		assert_non_null(strstr(r.err, want));
		assert_non_null(strstr(r.err, " --help)\n"));
	}
	r = RUN("--nothing");
	assert_int_equal(r.code, CLI_EXIT_USAGE);
	assert_non_null(strstr(r.err, "--help tells more"));
	assert_int_equal(RUN("--file").code, CLI_EXIT_USAGE);
	assert_int_equal(RUN("-x").code, CLI_EXIT_USAGE);
	assert_int_equal(RUN("--loud=1").code, CLI_EXIT_USAGE);
}

static void help_shows_all_within_its_width(void **state)
{
	static const char want[] =
		"test - a program\n\n"
		"  go      does it\n"
		"  wander  takes the long way, about which so much can be said that it goes\n"
		"          beyond any line\n\n"
		"Everything:\n"
		"  -l, --loud               more noise\n"
		"  -f, --file FILE          from where\n"
		"      --count N            a description that is so long that no terminal of\n"
		"                           eighty columns could show it in one line, so that it\n"
		"                           has to go on in others\n"
		"      --a-name-that-reaches-far-to-the-right VALUE behind it\n"
		"  -m, --maybe VALUE\n"
		"  -V, --version\n"
		"  -h, --help\n"
		"\nThe end.\n";

	(void)state;
	assert_string_equal(RUN("--loud", "-h").out, want);
	assert_string_equal(RUN("--help").out, want);
	assert_int_equal(RUN("--help").code, 0);
}

static void version_names_the_library(void **state)
{
	struct ran r = RUN("-V");

	(void)state;
	assert_int_equal(r.code, 0);
	assert_non_null(strstr(r.out, roost_version));
	assert_non_null(strstr(r.out, "wolfSSL"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_land_where_the_table_says),
		cmocka_unit_test(words_keep_their_order),
		cmocka_unit_test(what_is_wrong_ends_the_program),
		cmocka_unit_test(help_shows_all_within_its_width),
		cmocka_unit_test(version_names_the_library),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
