/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/proc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool proc_line_number(const char *line, const char *word, uint64_t *out)
{
	size_t n = strlen(word);

	if (strncmp(line, word, n) != 0)
		return false;
	*out = strtoull(line + n, NULL, 10);
	return true;
}

uint64_t proc_number(const char *path, int count, uint64_t none)
{
	char line[256], *at = line, *end;
	FILE *f = fopen(path, "re");
	uint64_t v = none;

	if (!f)
		return none;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	for (; count >= 0; count--, at = end) {
		v = strtoull(at, &end, 10);
		if (end == at)
			return none;
	}
	return v;
}
