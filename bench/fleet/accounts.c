/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/accounts.h"

#include "bench/mail/mailroom.h"

#include <stdio.h>
#include <string.h>

static const char *user_of = "bench%d@" MAILROOM_DOMAIN;
static const char *password_of = MAILROOM_PASSWORD;
static uint32_t first_number;

/* %d with an optional width; its length, or 0. */
static size_t number_at(const char *p, unsigned *width_out, bool *zero_out)
{
	size_t n = 1;

	*width_out = 0;
	*zero_out = p[n] == '0';
	for (; p[n] >= '0' && p[n] <= '9' && n < 4; n++)
		*width_out = *width_out * 10 + (unsigned)(p[n] - '0');
	return p[n] == 'd' ? n + 1 : 0;
}

static const char *wrong(const char *pattern, unsigned numbers_min)
{
	unsigned width, numbers = 0;
	size_t n = 1;
	bool zero;

	if (strlen(pattern) >= ACCOUNTS_NAME_MAX / 2)
		return "too long";
	for (const char *p = pattern; *p; p += n) {
		n = 1;
		if ((unsigned char)*p < ' ' || *p == '"' || *p == '\\')
			return "control characters, quotes and backslashes are refused";
		if (*p != '%')
			continue;
		if (p[1] == '%') {
			n = 2;
			continue;
		}
		n = number_at(p, &width, &zero);
		if (n == 0 || width > 20)
			return "after % comes d, a width and d, or another %";
		numbers++;
	}
	if (numbers > 1)
		return "the number stands there twice";
	return numbers < numbers_min ? "it has no %d" : NULL;
}

bool accounts_set(const char *user_pattern, const char *password_pattern, uint32_t first,
	const char **why_out)
{
	*why_out = user_pattern ? wrong(user_pattern, 1) : NULL;
	if (!*why_out && password_pattern)
		*why_out = wrong(password_pattern, 0);
	if (*why_out)
		return false;
	user_of = user_pattern ? user_pattern : user_of;
	password_of = password_pattern ? password_pattern : password_of;
	first_number = first;
	return true;
}

static void expand(const char *pattern, uint32_t number, char *out, size_t cap)
{
	size_t at = 0, n;
	unsigned width;
	bool zero;

	out[0] = 0;
	for (const char *p = pattern; *p && at < cap; p += n) {
		n = 1;
		if (*p == '%' && p[1] != '%') {
			n = number_at(p, &width, &zero);
			at += (size_t)snprintf(
				out + at, cap - at, zero ? "%0*u" : "%*u", (int)width, number);
		} else {
			n += *p == '%';
			at += (size_t)snprintf(out + at, cap - at, "%c", *p);
		}
	}
}

void accounts_user(uint32_t account, char *out, size_t cap)
{
	expand(user_of, first_number + account, out, cap);
}

void accounts_password(uint32_t account, char *out, size_t cap)
{
	expand(password_of, first_number + account, out, cap);
}
