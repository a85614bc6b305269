/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/proc.h - numbers out of the kernel's files of text. */
#ifndef ROOST_BENCH_PROC_H
#define ROOST_BENCH_PROC_H

#include <stdbool.h>
#include <stdint.h>

/* The number behind `word`, which begins the line; false: another line. */
bool proc_line_number(const char *line, const char *word, uint64_t *out);
/* The count-th number of a file of one line, from 0; `none` when there is none. */
uint64_t proc_number(const char *path, int count, uint64_t none);

#endif
