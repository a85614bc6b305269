/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/table.h"

#include "core/base/check.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>
#include <wchar.h>

/* Next character of a text; 0 bytes at its end. A byte that begins no character has width -1. */
static size_t next_char(const char *text, int *width_out)
{
	mbstate_t state = {0};
	wchar_t c;
	size_t n;

	if (!*text)
		return 0;
	n = mbrtowc(&c, text, strlen(text), &state);
	if (n == (size_t)-1 || n == (size_t)-2 || n == 0) {
		*width_out = -1;
		return 1;
	}
	*width_out = wcwidth(c);
	/* Marks and overrides of direction can make a line read otherwise than it is. */
	if ((c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
		(c >= 0x2060 && c <= 0x206f) || c == 0xfeff)
		*width_out = -1;
	return n;
}

void text_safe(struct buf *out, const char *text, bool keep_newlines)
{
	size_t n;
	int width;

	for (; (n = next_char(text, &width)) != 0; text += n) {
		if (width >= 0 || (keep_newlines && *text == '\n')) {
			buf_add(out, text, n);
			continue;
		}
		for (size_t i = 0; i < n; i++)
			buf_printf(out, "\\x%02x", (uint8_t)text[i]);
	}
}

size_t text_width(const char *text)
{
	size_t n, sum = 0;
	int width;

	for (; (n = next_char(text, &width)) != 0; text += n)
		sum += width > 0 ? (size_t)width : 0;
	return sum;
}

void table_init(struct table *t, const char *const *titles)
{
	*t = (struct table){0};
	for (; titles[t->columns]; t->columns++) {
		CHECK(t->columns < TABLE_COLUMNS_MAX);
		t->titles[t->columns] = titles[t->columns];
	}
}

void table_add(struct table *t, const char *text)
{
	struct buf b = {0};

	if (t->cells_n == t->cells_room) {
		t->cells_room = t->cells_room ? 2 * t->cells_room : 64;
		t->cells = realloc(t->cells, t->cells_room * sizeof(char *));
		CHECK(t->cells);
	}
	text_safe(&b, text && *text ? text : "-", false);
	buf_add_byte(&b, 0);
	CHECK(!b.failed);
	t->cells[t->cells_n++] = (char *)b.p;
}

void table_addf(struct table *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	table_add(t, text);
}

static void line_add(struct buf *line, const char *text, size_t width, bool right, bool last)
{
	size_t w = text_width(text), pad = width > w ? width - w : 0;

	for (size_t i = 0; right && i < pad; i++)
		buf_add_byte(line, ' ');
	buf_add_str(line, text);
	for (size_t i = 0; !right && !last && i < pad; i++)
		buf_add_byte(line, ' ');
	if (!last)
		buf_add_str(line, "  ");
}

/* Cuts at a character, `width` columns at most. */
static void line_print(struct buf *line, FILE *f, size_t width)
{
	size_t at = 0, n, columns = 0;
	int w;

	buf_add_byte(line, 0);
	CHECK(!line->failed);
	while ((n = next_char((const char *)line->p + at, &w)) != 0) {
		columns += w > 0 ? (size_t)w : 0;
		if (width && columns > width)
			break;
		at += n;
	}
	fprintf(f, "%.*s\n", (int)at, (const char *)line->p);
	line->n = 0;
}

void table_print(const struct table *t, FILE *f, size_t width, size_t max_rows)
{
	size_t widths[TABLE_COLUMNS_MAX], rows = t->columns ? t->cells_n / t->columns : 0;
	struct buf line = {0};

	if (rows > max_rows)
		rows = max_rows;
	for (size_t c = 0; c < t->columns; c++) {
		widths[c] = text_width(t->titles[c] + (t->titles[c][0] == '>'));
		for (size_t r = 0; r < rows; r++) {
			size_t w = text_width(t->cells[r * t->columns + c]);

			widths[c] = w > widths[c] ? w : widths[c];
		}
	}
	for (size_t r = 0; r <= rows; r++) {
		for (size_t c = 0; c < t->columns; c++) {
			bool right = t->titles[c][0] == '>';
			const char *text =
				r == 0 ? t->titles[c] + right : t->cells[(r - 1) * t->columns + c];

			line_add(&line, text, widths[c], right, c + 1 == t->columns);
		}
		line_print(&line, f, width);
	}
	buf_free(&line);
}

void table_free(struct table *t)
{
	for (size_t i = 0; i < t->cells_n; i++)
		free(t->cells[i]);
	free(t->cells);
	*t = (struct table){0};
}

const char *duration_text(uint64_t s, char out[TIME_TEXT_BYTES])
{
	if (s < 120)
		snprintf(out, TIME_TEXT_BYTES, "%" PRIu64 " s", s);
	else if (s < 120 * 60)
		snprintf(out, TIME_TEXT_BYTES, "%" PRIu64 " min", s / 60);
	else if (s < 48 * 3600)
		snprintf(out, TIME_TEXT_BYTES, "%" PRIu64 " h", s / 3600);
	else
		snprintf(out, TIME_TEXT_BYTES, "%" PRIu64 " d", s / 86400);
	return out;
}

const char *time_short(uint64_t wall_ms, uint64_t now_ms, char out[TIME_TEXT_BYTES])
{
	char d[TIME_TEXT_BYTES];

	if (wall_ms == 0)
		snprintf(out, TIME_TEXT_BYTES, "never");
	else if (wall_ms <= now_ms)
		snprintf(out, TIME_TEXT_BYTES, "%.40s ago",
			duration_text((now_ms - wall_ms) / 1000, d));
	else
		snprintf(out, TIME_TEXT_BYTES, "in %.40s",
			duration_text((wall_ms - now_ms) / 1000, d));
	return out;
}

static size_t time_format(uint64_t wall_ms, const char *format, bool utc, char out[TIME_TEXT_BYTES])
{
	time_t t = (time_t)(wall_ms / 1000);
	struct tm tm;

	if (!(utc ? gmtime_r(&t, &tm) : localtime_r(&t, &tm)))
		return (size_t)snprintf(out, TIME_TEXT_BYTES, "?");
	return strftime(out, TIME_TEXT_BYTES, format, &tm);
}

const char *time_long(uint64_t wall_ms, uint64_t now_ms, char out[TIME_TEXT_BYTES])
{
	char d[TIME_TEXT_BYTES];
	size_t n;

	if (wall_ms == 0)
		return time_short(0, now_ms, out);
	n = time_format(wall_ms, "%Y-%m-%d %H:%M:%S", false, out);
	snprintf(out + n, TIME_TEXT_BYTES - n, " (%.30s)", time_short(wall_ms, now_ms, d));
	return out;
}

const char *time_iso(uint64_t wall_ms, char out[TIME_TEXT_BYTES])
{
	time_format(wall_ms, "%Y-%m-%dT%H:%M:%SZ", true, out);
	return out;
}

const char *size_text(uint64_t bytes, char out[TIME_TEXT_BYTES])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1024 && u + 1 < ARRAY_LEN(units)) {
		v /= 1024;
		u++;
	}
	snprintf(out, TIME_TEXT_BYTES, u ? "%.1f %s" : "%.0f %s", v, units[u]);
	return out;
}
