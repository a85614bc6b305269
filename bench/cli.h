/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/cli.h - command lines by a table: one entry says how an option is called, where its value goes and
 * what --help says of it.
 * Thread: the main thread.    Memory: strings stay argv's.
 * Errors: said, with a hint at --help, and the program ends with CLI_EXIT_USAGE. */
#ifndef ROOST_BENCH_CLI_H
#define ROOST_BENCH_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CLI_EXIT_USAGE = 2 };

/* text: NULL without a value. */
typedef void cli_take_fn(void *arg, const char *option, const char *text);

struct cli_option {
	const char *name;  /* without dashes; NULL: `help` is a heading */
	char letter;       /* 0: none */
	const char *value; /* as --help calls it; NULL: none */
	bool optional;     /* the value: --name=VALUE, or none */
	/* One of these; flag only without a value, text and number only with one. */
	bool *flag;
	const char **text;
	uint32_t *number;
	cli_take_fn *take;
	uint32_t min, max; /* of number */
	const char *help;  /* put into lines where it is printed */
};

/* What --help says of a word that may be given. */
struct cli_word {
	const char *name, *help;
};

struct cli {
	const struct cli_option *options;
	size_t count;
	cli_take_fn
		*word; /* for what is no option, in its order, also among options; option is NULL */
	void *arg;     /* for take and word */
	const char *head, *tail; /* of --help: before the words, and behind the options */
	const struct cli_word *words;
	size_t word_count;
};

/* Fills in what the table says. Ends the program for --help, too. */
void cli_read(const struct cli *c, int argc, char **argv);
/* A value as --number reads it. */
uint32_t cli_number(const char *option, const char *text, uint32_t min, uint32_t max);
/* "PROGRAM: MESSAGE (PROGRAM --help)". */
__attribute__((format(printf, 1, 2))) _Noreturn void cli_die(const char *fmt, ...);
/* A `take`: prints program, version and TLS library, and ends the program. */
_Noreturn void cli_version(void *arg, const char *option, const char *text);

#endif
