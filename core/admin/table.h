/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/admin/table.h - what roostctl shows on a terminal: aligned columns, times, sizes.
 * Texts that phones chose (models, user agents) reach an administrator's terminal here, so
 * control characters, direction marks and broken UTF-8 come out as \xNN.
 * Thread: one (mbrtowc and wcwidth need LC_CTYPE, which main sets to C.UTF-8).
 * Memory: a table owns copies of its cells. */
#ifndef ROOST_ADMIN_TABLE_H
#define ROOST_ADMIN_TABLE_H

#include "core/base/bytes.h"

#include <stdio.h>

enum { TABLE_COLUMNS_MAX = 12 };

struct table {
	const char *titles[TABLE_COLUMNS_MAX]; /* a leading '>' aligns the column right */
	size_t columns, cells_n, cells_room;
	char **cells;
};

/* titles end with NULL and must outlive the table. */
void table_init(struct table *t, const char *const *titles);
/* Cells row by row. */
void table_add(struct table *t, const char *text);
void table_addf(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Lines longer than `width` columns are cut; 0: never. At most max_rows rows are shown. */
void table_print(const struct table *t, FILE *f, size_t width, size_t max_rows);
void table_free(struct table *t);

/* Appends with nothing left that a terminal would act on; newlines stay when asked. */
void text_safe(struct buf *out, const char *text, bool keep_newlines);
/* Columns on a terminal. */
size_t text_width(const char *safe_utf8);

enum { TIME_TEXT_BYTES = 64 };
/* "2026-01-02 15:04:05" (local time) with "(3 min ago)" or "(in 3 min)"; "never" for 0. */
const char *time_long(uint64_t wall_ms, uint64_t now_ms, char out[TIME_TEXT_BYTES]);
/* "3 min ago". */
const char *time_short(uint64_t wall_ms, uint64_t now_ms, char out[TIME_TEXT_BYTES]);
/* "2026-01-02T14:04:05Z". */
const char *time_iso(uint64_t wall_ms, char out[TIME_TEXT_BYTES]);
/* "45 s", "12 min", "3 h", "5 d". */
const char *duration_text(uint64_t seconds, char out[TIME_TEXT_BYTES]);
/* "12.3 MiB". */
const char *size_text(uint64_t bytes, char out[TIME_TEXT_BYTES]);

#endif
