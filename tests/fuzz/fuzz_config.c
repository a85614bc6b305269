/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Whatever the file: a good one survives being printed and set again, key by key; a bad one gives
 * one line. The first byte chooses between file, --set and the environment. */
#include "core/config/config.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(bool ok)
{
	if (!ok)
		abort();
}

static char *printed(const struct config *c)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	config_print(c, f);
	fclose(f);
	return text;
}

/* config_print and config_set are inverse, but for values that hold what separates. */
static void check_round_trip(const struct config *c)
{
	struct config *again = config_new();
	char *text = printed(c), *line, *next, *back, why[600];
	char assignment[8192];
	bool plain = true;

	for (line = text; *line; line = next) {
		char *equals = strstr(line, " = ");

		next = strchr(line, '\n');
		must(next != NULL);
		if (!equals || equals > next || next - line > 8000) {
			plain = false;
			break;
		}
		*next++ = 0;
		snprintf(assignment, sizeof(assignment), "%.*s=%s", (int)(equals - line), line,
			equals + 3);
		if (!config_set(again, assignment, why, sizeof(why))) {
			plain = false; /* a newline in a value made a line of its own */
			break;
		}
	}
	back = printed(again);
	free(text);
	text = printed(c);
	/* Lists are split at commas and trimmed, and texts may hold newlines: only settings of
	 * other types must agree then, and this target leaves that to the unit tests. */
	if (plain && !strpbrk(text, ",\t\r\v\f") && !strstr(text, "  ") && !strstr(text, " \n") &&
		strlen(text) == strlen(back))
		must(strcmp(text, back) == 0);
	free(text);
	free(back);
	config_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct config *c = config_new();
	char why[600] = "", *text;
	bool ok;

	if (n == 0 || memchr(p, 0, n)) {
		config_free(&c);
		return 0;
	}
	text = strndup((const char *)p + 1, n - 1);
	if (p[0] == '=') {
		ok = config_set(c, text, why, sizeof(why));
	} else if (p[0] == '$') {
		char *const env[] = {text, NULL};

		ok = config_read_environment(c, env, why, sizeof(why));
	} else {
		ok = config_read_text(c, "fuzz.conf", text, why, sizeof(why));
	}
	must(ok || (why[0] && !strchr(why, '\n')));
	if (ok)
		check_round_trip(c);
	if (ok && !config_check(c, why, sizeof(why)))
		must(why[0] != 0);
	config_free(&c);
	free(text);
	return 0;
}
