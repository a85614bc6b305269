/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/bytes.h - views of bytes, fixed-endian integers, a growing buffer.
 * Thread: plain values, no state.
 * Memory: struct bytes never owns; struct buf owns p until buf_free.
 * Errors: a struct buf that cannot grow remembers it in `failed`; later calls do nothing, so
 *         a writer checks once, at the end. */
#ifndef ROOST_BASE_BYTES_H
#define ROOST_BASE_BYTES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bytes {
	const uint8_t *p;
	size_t n;
};

static inline struct bytes bytes_of(const void *p, size_t n)
{
	return (struct bytes){.p = p, .n = n};
}

static inline struct bytes bytes_str(const char *s)
{
	return (struct bytes){.p = (const uint8_t *)s, .n = s ? strlen(s) : 0};
}

static inline bool bytes_eq(struct bytes a, struct bytes b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool bytes_eq_str(struct bytes a, const char *s)
{
	return bytes_eq(a, bytes_str(s));
}

/* ASCII case only. */
bool bytes_eq_nocase(struct bytes a, const char *s);
/* Whole view is one unsigned decimal number <= max (no sign, no blanks, 1-20 digits). */
bool bytes_to_u64(struct bytes b, uint64_t max, uint64_t *out);
/* Copies with a terminating NUL, truncating at cap - 1; false when truncated or a NUL is inside. */
bool bytes_to_strz(struct bytes b, char *dst, size_t cap);
/* True when the view is well-formed UTF-8 (no overlongs, no surrogates). */
bool bytes_is_utf8(struct bytes b);

static inline uint16_t load_be16(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] << 8 | b[1]);
}

static inline uint32_t load_be32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, 4);
	return __builtin_bswap32(v);
}

static inline uint64_t load_be64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return __builtin_bswap64(v);
}

static inline void store_be16(void *p, uint16_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)(v >> 8);
	b[1] = (uint8_t)v;
}

static inline void store_be32(void *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, 4);
}

static inline void store_be64(void *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, 8);
}

_Static_assert(
	__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "byte order helpers assume little endian");

struct buf {
	uint8_t *p;
	size_t n, cap;
	bool failed;
};

/* Makes room for `more` bytes and returns where they go (caller advances n), or NULL. */
uint8_t *buf_room(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *p, size_t n);
void buf_add_byte(struct buf *b, uint8_t c);
void buf_add_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_free(struct buf *b);

static inline struct bytes buf_bytes(const struct buf *b)
{
	return bytes_of(b->p, b->n);
}

#endif
