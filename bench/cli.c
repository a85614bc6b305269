/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/cli.h"

#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/version.h"
#include "io/tls.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	OPTIONS_MAX = 96,
	LONG_FIRST = 256, /* getopt's value of the first long option */
	HELP_COLUMN = 27,
	HELP_WIDTH = 80,
};

_Noreturn void cli_die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (%s --help)\n", program_invocation_short_name);
	exit(CLI_EXIT_USAGE);
}

_Noreturn void cli_version(void *arg, const char *option, const char *text)
{
	(void)arg;
	(void)option;
	(void)text;
	printf("%s %s (%s), %s\n", program_invocation_short_name, roost_version, roost_commit,
		tls_library());
	exit(0);
}

uint32_t cli_number(const char *option, const char *text, uint32_t min, uint32_t max)
{
	uint64_t v;

	if (!bytes_to_u64(bytes_str(text), max, &v) || v < min)
		cli_die("--%s: '%s' is not a number from %u to %u", option, text, min, max);
	return (uint32_t)v;
}

/* In lines from column `left` on; `column` is where we are. */
static void print_text(const char *text, size_t column, size_t left)
{
	while (*text) {
		size_t n = strcspn(text, " ");

		if (column > left && column + 1 + n > HELP_WIDTH) {
			putchar('\n');
			column = 0;
		}
		column += (size_t)printf(
			"%*s%.*s", column < left ? (int)(left - column) : 1, "", (int)n, text);
		text += n + (text[n] == ' ');
	}
	putchar('\n');
}

static void print_option(const struct cli_option *o)
{
	const char letter[] = {'-', o->letter, ',', ' ', 0};
	int n;

	if (!o->name) {
		printf("%s\n", o->help);
		return;
	}
	n = printf("  %s--%s%s%s", o->letter ? letter : "    ", o->name, o->value ? " " : "",
		o->value ? o->value : "");
	print_text(o->help ? o->help : "", (size_t)n, HELP_COLUMN);
}

static _Noreturn void print_help(const struct cli *c)
{
	static const struct cli_option help = {.name = "help", .letter = 'h'};

	size_t longest = 0;

	fputs(c->head, stdout);
	for (size_t i = 0; i < c->word_count; i++)
		if (strlen(c->words[i].name) > longest)
			longest = strlen(c->words[i].name);
	for (size_t i = 0; i < c->word_count; i++)
		print_text(c->words[i].help, (size_t)printf("  %s", c->words[i].name), longest + 4);
	if (c->word_count)
		putchar('\n');
	for (size_t i = 0; i < c->count; i++)
		print_option(&c->options[i]);
	print_option(&help);
	fputs(c->tail, stdout);
	exit(0);
}

static void take(const struct cli *c, const struct cli_option *o)
{
	if (o->flag)
		*o->flag = true;
	else if (o->text)
		*o->text = optarg;
	else if (o->number)
		*o->number = cli_number(o->name, optarg, o->min, o->max);
	else
		o->take(c->arg, o->name, optarg);
}

void cli_read(const struct cli *c, int argc, char **argv)
{
	/* '-': words come in their order, as option 1. */
	char letters[2 * OPTIONS_MAX + 3] = "-h";
	struct option longs[OPTIONS_MAX + 2] = {{"help", no_argument, NULL, 'h'}};
	size_t letters_n = 2, n = 1;
	int o;

	CHECK(c->count <= OPTIONS_MAX);
	for (size_t i = 0; i < c->count; i++) {
		const struct cli_option *t = &c->options[i];

		if (!t->name)
			continue;
		CHECK(t->value ? !t->flag : !t->text && !t->number);
		CHECK(!!t->flag + !!t->text + !!t->number + !!t->take == 1);
		longs[n++] = (struct option){t->name,
			t->optional ? optional_argument
			: t->value  ? required_argument
				    : no_argument,
			NULL, LONG_FIRST + (int)i};
		if (!t->letter)
			continue;
		letters[letters_n++] = t->letter;
		if (t->value && !t->optional)
			letters[letters_n++] = ':';
	}
	while ((o = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		size_t i = o >= LONG_FIRST ? (size_t)(o - LONG_FIRST) : 0;

		if (o == 'h')
			print_help(c);
		if (o == 1) {
			c->word(c->arg, NULL, optarg);
			continue;
		}
		if (o == '?') {
			fprintf(stderr, "%s --help tells more\n", program_invocation_short_name);
			exit(CLI_EXIT_USAGE);
		}
		while (o < LONG_FIRST && c->options[i].letter != o)
			i++;
		take(c, &c->options[i]);
	}
	while (optind < argc)
		c->word(c->arg, NULL, argv[optind++]);
}
