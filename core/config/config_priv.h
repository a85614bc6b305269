/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/config/config_priv.h - the table of settings, for config.c and config_*.c only.
 * Thread, memory: as core/config/config.h; the table is constant. */
#ifndef ROOST_CORE_CONFIG_CONFIG_PRIV_H
#define ROOST_CORE_CONFIG_CONFIG_PRIV_H

#include "core/config/config.h"

enum setting_type { SETTING_STR, SETTING_LIST, SETTING_BOOL, SETTING_INT, SETTING_ENUM };

struct setting {
	const char *section, *key;
	enum setting_type type;
	size_t offset;       /* in struct config */
	const char *initial; /* default, as one would write it */
	const char *allowed; /* SETTING_ENUM: words */
	int64_t lo, hi;      /* SETTING_INT */
	const char *help;
};

enum {
#define CONFIG_STR(s, k, def, help)           CONFIG_ID_##s##_##k,
#define CONFIG_LIST(s, k, def, help)          CONFIG_ID_##s##_##k,
#define CONFIG_BOOL(s, k, def, help)          CONFIG_ID_##s##_##k,
#define CONFIG_INT(s, k, def, lo, hi, help)   CONFIG_ID_##s##_##k,
#define CONFIG_ENUM(s, k, def, allowed, help) CONFIG_ID_##s##_##k,
#include "core/config/config.def"
	SETTINGS
};
extern const struct setting config_settings[SETTINGS];

/* config.c */
const struct setting *config_setting_find(const char *section, const char *key);
bool config_section_known(const char *section);
void *config_field(const struct config *c, const struct setting *s);
/* The one place that turns text into a value, whichever source it came from. */
bool config_value_set(
	struct config *c, const struct setting *s, const char *text, char *why, size_t why_bytes);
void config_list_clear(struct config_list *l);
void config_list_add(struct config_list *l, const char *text, size_t n);
/* ROOST_SECTION_KEY */
void config_variable_name(const struct setting *s, char out[80]);

/* config_words.c: what is wrong, in one line, and what was perhaps meant */
/* Quoted and escaped; one line whatever the bytes, and not a long one. */
const char *config_shown(const char *value, char out[100]);
const char *config_allowed(const struct setting *s, char out[160]);
/* Close enough to suggest, and closer than *best, which it then sets. */
bool config_near(const char *got, const char *known, unsigned *best);
void config_unknown_section(const char *got, char *out, size_t out_bytes);
void config_unknown_key(const char *section, const char *got, char *out, size_t out_bytes);
void config_bad_value(const struct setting *s, const char *value, char *out, size_t out_bytes);

#endif
