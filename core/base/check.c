/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *expr, const char *file, int line)
{
	fprintf(stderr, "roost: bug: CHECK(%s) failed at %s:%d\n", expr, file, line);
	abort();
}
