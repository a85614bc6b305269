/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/config/config_priv.h"

#include "core/base/bytes.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *config_shown(const char *value, char out[100])
{
	size_t n = 0;

	out[n++] = '"';
	for (; *value && n < 88; value++) {
		uint8_t ch = (uint8_t)*value;

		if (ch == '"' || ch == '\\')
			out[n++] = '\\';
		if (ch < 0x20 || ch == 0x7f)
			n += (size_t)snprintf(out + n, 6, "\\x%02x", ch);
		else
			out[n++] = (char)ch;
	}
	if (*value) {
		memcpy(out + n, "...", 3);
		n += 3;
	}
	out[n++] = '"';
	out[n] = 0;
	return out;
}

const char *config_allowed(const struct setting *s, char out[160])
{
	switch (s->type) {
	case SETTING_BOOL:
		return "true or false";
	case SETTING_INT:
		snprintf(out, 160, "a whole number from %" PRId64 " to %" PRId64, s->lo, s->hi);
		return out;
	case SETTING_ENUM:
		return s->allowed;
	default:
		return s->type == SETTING_LIST ? "a list of texts" : "a text";
	}
}

/* Edits (insert, delete, replace, swap of neighbours) from a to b; texts beyond 47 bytes count as
 * far away. */
static unsigned edits(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);
	unsigned d[48][48];

	if (n > 47 || m > 47)
		return 99;
	for (size_t i = 0; i <= n; i++)
		for (size_t j = 0; j <= m; j++) {
			unsigned best;

			if (i == 0 || j == 0) {
				d[i][j] = (unsigned)(i + j);
				continue;
			}
			best = d[i - 1][j - 1] + (tolower(a[i - 1]) != tolower(b[j - 1]));
			if (d[i - 1][j] + 1 < best)
				best = d[i - 1][j] + 1;
			if (d[i][j - 1] + 1 < best)
				best = d[i][j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
				d[i - 2][j - 2] + 1 < best)
				best = d[i - 2][j - 2] + 1;
			d[i][j] = best;
		}
	return d[n][m];
}

/* Close enough to suggest: up to a third of the letters, three at most. */
bool config_near(const char *got, const char *known, unsigned *best)
{
	size_t n = strlen(known);
	unsigned limit = n < 4 ? 1 : n < 9 ? 2 : 3, e = edits(got, known);

	if (e > limit || e >= *best)
		return false;
	*best = e;
	return true;
}

void config_unknown_section(const char *got, char *out, size_t out_bytes)
{
	char v[100];
	unsigned best = 99;
	const char *guess = NULL;
	size_t n;

	for (size_t i = 0; i < SETTINGS; i++) {
		if (config_near(got, config_settings[i].section, &best))
			guess = config_settings[i].section;
		/* A key outside of its section is the other common slip. */
		if (!guess && strcmp(got, config_settings[i].key) == 0) {
			snprintf(out, out_bytes,
				"%s stands outside of a section; it belongs into %s { }",
				config_shown(got, v), config_settings[i].section);
			return;
		}
	}
	n = (size_t)snprintf(out, out_bytes, "%s is no section", config_shown(got, v));
	if (guess && n < out_bytes) {
		snprintf(out + n, out_bytes - n, "; did you mean %s?", guess);
		return;
	}
	for (size_t i = 0; i < SETTINGS && n < out_bytes; i++)
		if (i == 0 ||
			strcmp(config_settings[i].section, config_settings[i - 1].section) != 0)
			n += (size_t)snprintf(out + n, out_bytes - n, "%s%s",
				i ? ", " : "; allowed: ", config_settings[i].section);
}

void config_unknown_key(const char *section, const char *got, char *out, size_t out_bytes)
{
	char v[100];
	unsigned best = 99;
	const struct setting *guess = NULL;
	size_t n;

	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(config_settings[i].section, section) == 0 &&
			config_near(got, config_settings[i].key, &best))
			guess = &config_settings[i];
	for (size_t i = 0; i < SETTINGS && !guess; i++)
		if (strcmp(config_settings[i].key, got) == 0)
			guess = &config_settings[i];
	n = (size_t)snprintf(
		out, out_bytes, "section %s has no key %s", section, config_shown(got, v));
	if (guess && n < out_bytes) {
		snprintf(out + n, out_bytes - n, "; did you mean %s.%s?", guess->section,
			guess->key);
		return;
	}
	for (size_t i = 0, first = 1; i < SETTINGS && n < out_bytes; i++)
		if (strcmp(config_settings[i].section, section) == 0) {
			n += (size_t)snprintf(out + n, out_bytes - n, "%s%s",
				first ? "; allowed: " : ", ", config_settings[i].key);
			first = 0;
		}
}

void config_bad_value(const struct setting *s, const char *value, char *out, size_t out_bytes)
{
	char v[100], a[160], word[32];
	unsigned best = 99;
	const char *p = s->allowed;
	size_t n;

	n = (size_t)snprintf(out, out_bytes, "%s.%s is %s; allowed: %s", s->section, s->key,
		config_shown(value, v), config_allowed(s, a));
	if (s->type != SETTING_ENUM)
		return;
	while (*p && n < out_bytes) {
		size_t len = strcspn(p, " ");

		if (bytes_to_strz(bytes_of(p, len), word, sizeof(word)) &&
			config_near(value, word, &best)) {
			snprintf(out + n, out_bytes - n, "; did you mean %s?", word);
			return;
		}
		p += len + strspn(p + len, " ");
	}
}
