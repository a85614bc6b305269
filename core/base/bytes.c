/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/bytes.h"

#include <stdio.h>
#include <stdlib.h>

static uint8_t ascii_lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

bool bytes_eq_nocase(struct bytes a, const char *s)
{
	if (a.n != strlen(s))
		return false;
	for (size_t i = 0; i < a.n; i++)
		if (ascii_lower(a.p[i]) != ascii_lower((uint8_t)s[i]))
			return false;
	return true;
}

bool bytes_to_u64(struct bytes b, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (b.n == 0 || b.n > 20)
		return false;
	for (size_t i = 0; i < b.n; i++) {
		if (b.p[i] < '0' || b.p[i] > '9')
			return false;
		if (__builtin_mul_overflow(v, 10, &v) ||
			__builtin_add_overflow(v, (uint64_t)(b.p[i] - '0'), &v))
			return false;
	}
	if (v > max)
		return false;
	*out = v;
	return true;
}

bool bytes_to_strz(struct bytes b, char *dst, size_t cap)
{
	size_t n = b.n < cap ? b.n : cap - 1;

	if (n)
		memcpy(dst, b.p, n);
	dst[n] = 0;
	return n == b.n && memchr(dst, 0, n) == NULL;
}

bool bytes_is_utf8(struct bytes b)
{
	size_t i = 0;

	while (i < b.n) {
		uint8_t c = b.p[i];
		uint32_t v, min;
		size_t more;

		if (c < 0x80) {
			i++;
			continue;
		}
		if ((c & 0xe0) == 0xc0)
			more = 1, v = c & 0x1f, min = 0x80;
		else if ((c & 0xf0) == 0xe0)
			more = 2, v = c & 0x0f, min = 0x800;
		else if ((c & 0xf8) == 0xf0)
			more = 3, v = c & 0x07, min = 0x10000;
		else
			return false;
		if (b.n - i <= more)
			return false;
		for (size_t k = 1; k <= more; k++) {
			if ((b.p[i + k] & 0xc0) != 0x80)
				return false;
			v = v << 6 | (b.p[i + k] & 0x3f);
		}
		if (v < min || v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff))
			return false;
		i += more + 1;
	}
	return true;
}

uint8_t *buf_room(struct buf *b, size_t more)
{
	size_t need, cap;
	uint8_t *p;

	if (b->failed || __builtin_add_overflow(b->n, more, &need)) {
		b->failed = true;
		return NULL;
	}
	if (need > b->cap) {
		cap = b->cap ? b->cap : 256;
		while (cap < need) {
			if (cap > SIZE_MAX / 2) {
				b->failed = true;
				return NULL;
			}
			cap *= 2;
		}
		p = realloc(b->p, cap);
		if (!p) {
			b->failed = true;
			return NULL;
		}
		b->p = p;
		b->cap = cap;
	}
	return b->p + b->n;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
	uint8_t *d;

	if (n == 0)
		return;
	d = buf_room(b, n);
	if (!d)
		return;
	memcpy(d, p, n);
	b->n += n;
}

void buf_add_byte(struct buf *b, uint8_t c)
{
	buf_add(b, &c, 1);
}

void buf_add_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	int n;
	uint8_t *d;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	d = n < 0 ? NULL : buf_room(b, (size_t)n + 1);
	if (!d) {
		b->failed = true;
		return;
	}
	va_start(ap, fmt);
	vsnprintf((char *)d, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->n += (size_t)n;
}

void buf_free(struct buf *b)
{
	free(b->p);
	*b = (struct buf){0};
}
