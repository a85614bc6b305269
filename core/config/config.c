/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Settings: the table, their values, and the environment and command line as sources. The file is
 * config_file.c, what only shows when all is known config_check.c, messages config_words.c, what is printed
 * config_print.c. */
#include "core/config/config_priv.h"

#include "core/base/bytes.h"
#include "core/base/check.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define SETTING(section_, key_, type_, initial_, allowed_, lo_, hi_, help_)                        \
	{.section = #section_,                                                                     \
		.key = #key_,                                                                      \
		.type = (type_),                                                                   \
		.offset = offsetof(struct config, section_##_##key_),                              \
		.initial = (initial_),                                                             \
		.allowed = (allowed_),                                                             \
		.lo = (lo_),                                                                       \
		.hi = (hi_),                                                                       \
		.help = (help_)},

const struct setting config_settings[SETTINGS] = {
#define CONFIG_STR(s, k, def, help)           SETTING(s, k, SETTING_STR, def, NULL, 0, 0, help)
#define CONFIG_LIST(s, k, def, help)          SETTING(s, k, SETTING_LIST, def, NULL, 0, 0, help)
#define CONFIG_BOOL(s, k, def, help)          SETTING(s, k, SETTING_BOOL, #def, NULL, 0, 0, help)
#define CONFIG_INT(s, k, def, lo, hi, help)   SETTING(s, k, SETTING_INT, #def, NULL, lo, hi, help)
#define CONFIG_ENUM(s, k, def, allowed, help) SETTING(s, k, SETTING_ENUM, def, allowed, 0, 0, help)
#include "core/config/config.def"
};

void *config_field(const struct config *c, const struct setting *s)
{
	return (char *)c + s->offset;
}

const struct setting *config_setting_find(const char *section, const char *key)
{
	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(config_settings[i].section, section) == 0 &&
			strcmp(config_settings[i].key, key) == 0)
			return &config_settings[i];
	return NULL;
}

bool config_section_known(const char *section)
{
	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(config_settings[i].section, section) == 0)
			return true;
	return false;
}

static char *dup_or_die(const char *s)
{
	char *copy = strdup(s);

	CHECK(copy); /* a kilobyte at start: nothing useful can be done without it */
	return copy;
}

/* --- values -------------------------------------------------------------------------- */

void config_list_clear(struct config_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	*l = (struct config_list){0};
}

void config_list_add(struct config_list *l, const char *text, size_t n)
{
	char **v = realloc(l->v, (l->n + 1) * sizeof(*v));

	CHECK(v);
	l->v = v;
	l->v[l->n] = strndup(text, n);
	CHECK(l->v[l->n]);
	l->n++;
}

/* "a, b": empty parts are left out, so that "" is the empty list. */
static void list_split(struct config_list *l, const char *text)
{
	config_list_clear(l);
	while (*text) {
		size_t n = strcspn(text, ","), from = 0, to = n;

		while (from < to && isspace((unsigned char)text[from]))
			from++;
		while (to > from && isspace((unsigned char)text[to - 1]))
			to--;
		if (to > from)
			config_list_add(l, text + from, to - from);
		text += n + (text[n] == ',');
	}
}

static bool word_in(const char *words, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = words; *p; p += strspn(p, " ")) {
		size_t len = strcspn(p, " ");

		if (len == n && memcmp(p, word, n) == 0)
			return true;
		p += len;
	}
	return false;
}

static bool parse_bool(const char *text, bool *out)
{
	static const char *const on[] = {"true", "yes", "on", "1"};
	static const char *const off[] = {"false", "no", "off", "0"};

	for (size_t i = 0; i < ARRAY_LEN(on); i++) {
		if (strcasecmp(text, on[i]) == 0 || strcasecmp(text, off[i]) == 0) {
			*out = strcasecmp(text, on[i]) == 0;
			return true;
		}
	}
	return false;
}

bool config_value_set(
	struct config *c, const struct setting *s, const char *text, char *why, size_t why_bytes)
{
	char **str = config_field(c, s);
	uint64_t n;

	switch (s->type) {
	case SETTING_ENUM:
		if (!word_in(s->allowed, text))
			break;
		/* fall through */
	case SETTING_STR:
		free(*str);
		*str = dup_or_die(text);
		return true;
	case SETTING_LIST:
		list_split(config_field(c, s), text);
		return true;
	case SETTING_BOOL:
		if (!parse_bool(text, config_field(c, s)))
			break;
		return true;
	case SETTING_INT:
		if (!bytes_to_u64(bytes_str(text), INT64_MAX, &n) || (int64_t)n < s->lo ||
			(int64_t)n > s->hi)
			break;
		*(int64_t *)config_field(c, s) = (int64_t)n;
		return true;
	}
	config_bad_value(s, text, why, why_bytes);
	return false;
}

struct config *config_new(void)
{
	struct config *c = calloc(1, sizeof(*c));
	char why[256];

	CHECK(c);
	for (size_t i = 0; i < SETTINGS; i++) {
		bool ok = config_value_set(
			c, &config_settings[i], config_settings[i].initial, why, sizeof(why));

		CHECK(ok);
	}
	return c;
}

void config_free(struct config **c)
{
	if (!*c)
		return;
	for (size_t i = 0; i < SETTINGS; i++) {
		if (config_settings[i].type == SETTING_LIST)
			config_list_clear(config_field(*c, &config_settings[i]));
		else if (config_settings[i].type == SETTING_STR ||
			 config_settings[i].type == SETTING_ENUM)
			free(*(char **)config_field(*c, &config_settings[i]));
	}
	free(*c);
	*c = NULL;
}

/* --- environment and command line ---------------------------------------------------- */

void config_variable_name(const struct setting *s, char out[80])
{
	snprintf(out, 80, "ROOST_%s_%s", s->section, s->key);
	for (char *p = out; *p; p++)
		*p = (char)toupper((unsigned char)*p);
}

/* Kubernetes gives every pod variables for every service beside it: one named roost-http makes
 * ROOST_HTTP_SERVICE_HOST, ROOST_HTTP_PORT_80_TCP_ADDR and so on. They are not meant for us. */
static bool variable_of_kubernetes(const char *name)
{
	size_t n = strlen(name);

	return strstr(name, "_SERVICE_HOST") || strstr(name, "_SERVICE_PORT") ||
	       strstr(name, "_PORT_") || (n > 5 && strcmp(name + n - 5, "_PORT") == 0);
}

/* False, with `why`, when a variable that is no setting was surely meant to be one. */
static bool variable_unknown(const char *name, char *why, size_t why_bytes)
{
	unsigned best = 99;
	char known[80], guess[80] = "", shown_name[100];
	bool section = false;

	if (variable_of_kubernetes(name))
		return true;
	for (size_t i = 0; i < SETTINGS; i++) {
		size_t n = strlen(config_settings[i].section);

		config_variable_name(&config_settings[i], known);
		if (config_near(name, known, &best))
			strcpy(guess, known);
		if (strncasecmp(name + 6, config_settings[i].section, n) == 0 && name[6 + n] == '_')
			section = true;
	}
	if (!section && !guess[0])
		return true;
	snprintf(why, why_bytes, "environment variable %s sets nothing%s%s%s",
		config_shown(name, shown_name), guess[0] ? "; did you mean " : "", guess,
		guess[0] ? "?" : "; allowed: ROOST_SECTION_KEY as in roost.conf(5)");
	return false;
}

bool config_read_environment(struct config *c, char *const *envp, char *why, size_t why_bytes)
{
	char known[80], what[600];

	for (; *envp; envp++) {
		const char *equals = strchr(*envp, '=');
		char name[128];
		size_t i;

		if (!equals || strncmp(*envp, "ROOST_", 6) != 0 ||
			!bytes_to_strz(
				bytes_of(*envp, (size_t)(equals - *envp)), name, sizeof(name)))
			continue;
		for (i = 0; i < SETTINGS; i++) {
			config_variable_name(&config_settings[i], known);
			if (strcmp(known, name) == 0)
				break;
		}
		if (i == SETTINGS) {
			if (!variable_unknown(name, why, why_bytes))
				return false;
		} else if (!config_value_set(
				   c, &config_settings[i], equals + 1, what, sizeof(what))) {
			snprintf(why, why_bytes, "environment variable %s: %s", name, what);
			return false;
		}
	}
	return true;
}

bool config_set(struct config *c, const char *assignment, char *why, size_t why_bytes)
{
	const char *equals = strchr(assignment, '='), *dot = strchr(assignment, '.');
	char section[64], key[64], what[600], v[100];
	const struct setting *s;

	if (!equals || !dot || dot > equals ||
		!bytes_to_strz(bytes_of(assignment, (size_t)(dot - assignment)), section,
			sizeof(section)) ||
		!bytes_to_strz(bytes_of(dot + 1, (size_t)(equals - dot - 1)), key, sizeof(key))) {
		snprintf(why, why_bytes, "--set %s: allowed: section.key=value",
			config_shown(assignment, v));
		return false;
	}
	s = config_setting_find(section, key);
	if (!s) {
		if (config_section_known(section))
			config_unknown_key(section, key, what, sizeof(what));
		else
			config_unknown_section(section, what, sizeof(what));
	} else if (config_value_set(c, s, equals + 1, what, sizeof(what))) {
		return true;
	}
	snprintf(why, why_bytes, "--set: %s", what);
	return false;
}
