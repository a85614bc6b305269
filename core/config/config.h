/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/config/config.h - every setting, once: config.def lists section, key, type, default, range and
 * the sentence that the manual and the example file show.
 * Sources, later ones win: defaults, file (libconfuse), environment ROOST_SECTION_KEY, --set
 * section.key=value, the short command line options (which are aliases of keys).
 * Thread: built by the main thread, read-only afterwards (a reload builds a new one).
 * Errors: one line that names file and line (or the variable or option), the key, what was found
 *         and what is allowed. */
#ifndef ROOST_CORE_CONFIG_CONFIG_H
#define ROOST_CORE_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A list of strings: "a, b" on the command line and in the environment, {"a", "b"} in the file. */
struct config_list {
	char **v;
	size_t n;
};

#define CONFIG_PATH_DEFAULT "/etc/roost/roost.conf"

struct config {
#define CONFIG_STR(section, key, def, help)           char *section##_##key;
#define CONFIG_LIST(section, key, def, help)          struct config_list section##_##key;
#define CONFIG_BOOL(section, key, def, help)          bool section##_##key;
#define CONFIG_INT(section, key, def, lo, hi, help)   int64_t section##_##key;
#define CONFIG_ENUM(section, key, def, allowed, help) char *section##_##key;
#include "core/config/config.def"
};

/* Defaults. */
struct config *config_new(void);
void config_free(struct config **c);
/* After a failure some keys may be set and some not: throw the config away. */
bool config_read_file(struct config *c, const char *path, char *why, size_t why_bytes);
/* The same from memory; `name` stands for the file in errors. */
bool config_read_text(
	struct config *c, const char *name, const char *text, char *why, size_t why_bytes);
/* ROOST_PUSH_HEARTBEAT_MIN_S=60 and so on. Other ROOST_ variables are left alone unless they look
 * like a setting: a known section in front, or a slip away from a known name. */
bool config_read_environment(struct config *c, char *const *envp, char *why, size_t why_bytes);
/* "section.key=value". */
bool config_set(struct config *c, const char *assignment, char *why, size_t why_bytes);
/* What can only be seen with all values known (files exist, floors below ceilings, ...). */
bool config_check(const struct config *c, char *why, size_t why_bytes);
/* The example file (comments teach), generated from config.def. */
void config_print_example(FILE *f);
/* The list of settings of roost.conf(5), as scdoc source. */
void config_print_manual(FILE *f);
/* The values in force, one "section.key = value" a line; secrets are none. */
void config_print(const struct config *c, FILE *f);

#endif
