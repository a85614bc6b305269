/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/encoding.h"

#include <limits.h>

int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int base64_value(uint8_t c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(struct bytes in, uint8_t *dst, size_t cap)
{
	uint32_t bits = 0;
	size_t n = in.n, len, o = 0;
	unsigned have = 0;

	if (n && in.p[n - 1] == '=') {
		if (n % 4 != 0)
			return -1;
		n -= in.p[n - 2] == '=' ? 2 : 1;
	}
	if (n % 4 == 1)
		return -1;
	len = n / 4 * 3 + n % 4 * 3 / 4;
	if (len > cap || len > INT_MAX)
		return -1;
	for (size_t i = 0; i < n; i++) {
		int v = base64_value(in.p[i]);

		if (v < 0)
			return -1;
		bits = bits << 6 | (uint32_t)v;
		have += 6;
		if (have >= 8) {
			have -= 8;
			dst[o++] = (uint8_t)(bits >> have);
			bits &= (1u << have) - 1;
		}
	}
	return bits ? -1 : (int)o;
}

int percent_decode(struct bytes in, bool plus_is_blank, char *dst, size_t cap)
{
	size_t o = 0;

	for (size_t i = 0; i < in.n; i++) {
		uint8_t c = in.p[i];

		if (c == '%') {
			int hi, lo;

			if (in.n - i < 3)
				return -1;
			hi = hex_digit(in.p[i + 1]);
			lo = hex_digit(in.p[i + 2]);
			if (hi < 0 || lo < 0)
				return -1;
			c = (uint8_t)(hi << 4 | lo);
			i += 2;
		} else if (c == '+' && plus_is_blank) {
			c = ' ';
		}
		if (c == 0 || o == cap || o == INT_MAX)
			return -1;
		dst[o++] = (char)c;
	}
	return (int)o;
}
