/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The configuration file, read by libconfuse. */
#include "core/config/config_priv.h"

#include "core/base/bytes.h"
#include "core/base/check.h"

#include <confuse.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SECTIONS_MAX = 32 };

/* libconfuse's callbacks carry no pointer of ours, and its scanner is one per process anyway:
 * reading a file belongs to one thread at a time. */
static struct {
	struct config *into;
	const char *name;
	char *why;
	size_t why_bytes;
	bool failed;
	bool seen[SETTINGS];
} reading;

static void file_failed(cfg_t *cfg, const char *what)
{
	if (reading.failed) /* the first one is the cause */
		return;
	reading.failed = true;
	snprintf(reading.why, reading.why_bytes, "%s:%d: %s", reading.name, cfg->line, what);
}

/* libconfuse takes the end of the file for the end of a section and of a comment. So the text gets
 * one more line, which is a key of no section: where it turns up tells what was left open. */
#define SENTINEL "_end_of_file_"

static void file_error(cfg_t *cfg, const char *fmt, va_list ap)
{
	char text[400], name[100], what[600];
	const char *quote, *end;

	vsnprintf(text, sizeof(text), fmt, ap);
	quote = strchr(text, '\'');
	end = quote ? strrchr(text, '\'') : NULL;
	if (strncmp(text, "no such option", 14) == 0 && end > quote) {
		bytes_to_strz(bytes_of(quote + 1, (size_t)(end - quote - 1)), name, sizeof(name));
		if (strcmp(name, SENTINEL) == 0)
			snprintf(what, sizeof(what), "the '}' of section %s is missing", cfg->name);
		else if (config_section_known(cfg->name))
			config_unknown_key(cfg->name, name, what, sizeof(what));
		else
			config_unknown_section(name, what, sizeof(what));
	} else {
		for (char *p = text; *p; p++)
			if ((unsigned char)*p < 0x20 || *p == 0x7f)
				*p = ' ';
		snprintf(what, sizeof(what), "%s", text);
	}
	file_failed(cfg, what);
}

/* Called after each element and once more at the closing brace, with all elements so far. So a list
 * of before must be how this one begins; anything else is a second list. */
static bool file_list(cfg_opt_t *opt, struct config_list *l, bool seen)
{
	unsigned n = cfg_opt_size(opt);

	for (size_t i = 0; seen && i < l->n; i++)
		if (i >= n || strcmp(l->v[i], cfg_opt_getnstr(opt, (unsigned)i)) != 0)
			return false;
	config_list_clear(l);
	for (unsigned i = 0; i < n; i++) {
		const char *text = cfg_opt_getnstr(opt, i);

		config_list_add(l, text, strlen(text));
	}
	return true;
}

/* After every value, so cfg->line is the line of the value. All options are texts to libconfuse:
 * one parser, and one wording of errors, for file, environment and command line. */
static int file_value(cfg_t *cfg, cfg_opt_t *opt)
{
	const struct setting *s = config_setting_find(cfg->name, opt->name);
	char what[600];

	if (!s) {
		/* libconfuse also takes store|dir = ..., which nobody is told of: one way is enough. */
		file_failed(cfg, "sections are written with braces: section { key = value }");
		return -1;
	}
	if (s->type == SETTING_LIST) {
		if (!file_list(
			    opt, config_field(reading.into, s), reading.seen[s - config_settings]))
			goto twice;
		reading.seen[s - config_settings] = true;
		return 0;
	}
	if (reading.seen[s - config_settings])
		goto twice;
	reading.seen[s - config_settings] = true;
	if (!config_value_set(reading.into, s, cfg_opt_getnstr(opt, 0), what, sizeof(what))) {
		file_failed(cfg, what);
		return -1;
	}
	return 0;
twice:
	snprintf(what, sizeof(what), "%s.%s is given a second time", s->section, s->key);
	file_failed(cfg, what);
	return -1;
}

/* Options of all sections, one after the other, each closed by CFG_END; then the sections. */
struct file_options {
	cfg_opt_t keys[SETTINGS + SECTIONS_MAX];
	cfg_opt_t sections[SECTIONS_MAX];
};

static void file_options_make(struct file_options *o)
{
	size_t k = 0, n = 0;

	for (size_t i = 0; i < SETTINGS; i++) {
		const struct setting *s = &config_settings[i];

		if (i == 0 || strcmp(s->section, config_settings[i - 1].section) != 0) {
			if (i)
				o->keys[k++] = (cfg_opt_t)CFG_END();
			CHECK(n + 2 < SECTIONS_MAX);
			o->sections[n++] = (cfg_opt_t)CFG_SEC(s->section, &o->keys[k], CFGF_NONE);
		}
		if (s->type == SETTING_LIST)
			o->keys[k++] = (cfg_opt_t)CFG_STR_LIST(s->key, NULL, CFGF_NODEFAULT);
		else
			o->keys[k++] = (cfg_opt_t)CFG_STR(s->key, NULL, CFGF_NODEFAULT);
		o->keys[k - 1].validcb = file_value;
	}
	o->keys[k] = (cfg_opt_t)CFG_END();
	o->sections[n++] = (cfg_opt_t)CFG_STR(SENTINEL, NULL, CFGF_NODEFAULT);
	o->sections[n] = (cfg_opt_t)CFG_END();
}

/* `text` ends in the sentinel's line. */
static bool text_parse(
	struct config *c, const char *name, const char *text, char *why, size_t why_bytes)
{
	struct file_options *o = calloc(1, sizeof(*o));
	cfg_t *cfg;

	CHECK(o);
	file_options_make(o);
	memset(&reading, 0, sizeof(reading));
	reading.into = c;
	reading.name = name;
	reading.why = why;
	reading.why_bytes = why_bytes;
	cfg = cfg_init(o->sections, CFGF_NONE);
	CHECK(cfg);
	cfg_set_error_function(cfg, file_error);
	if (cfg_parse_buf(cfg, text) != CFG_SUCCESS)
		file_failed(cfg, "syntax error");
	else if (!cfg_getstr(cfg, SENTINEL))
		file_failed(cfg, "the file ends inside of a comment");
	cfg_free(cfg);
	free(o);
	return !reading.failed;
}

bool config_read_text(
	struct config *c, const char *name, const char *text, char *why, size_t why_bytes)
{
	static const char last[] = "\n" SENTINEL " = 1\n";
	char *whole;
	int n = asprintf(&whole, "%s%s", text, last);
	bool ok;

	CHECK(n > 0);
	ok = text_parse(c, name, whole, why, why_bytes);
	free(whole);
	return ok;
}

bool config_read_file(struct config *c, const char *path, char *why, size_t why_bytes)
{
	enum { FILE_BYTES_MAX = 1 << 20 };
	FILE *f = fopen(path, "re");
	char *text = NULL;
	size_t n = 0;
	struct stat st;
	bool ok = false;

	if (!f || fstat(fileno(f), &st) != 0) {
		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
	} else if (S_ISDIR(st.st_mode)) {
		snprintf(why, why_bytes, "%s: is a directory, not a file", path);
	} else {
		text = malloc(FILE_BYTES_MAX + 1);
		CHECK(text);
		n = fread(text, 1, FILE_BYTES_MAX + 1, f);
		if (ferror(f))
			snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
		else if (n > FILE_BYTES_MAX)
			snprintf(why, why_bytes, "%s: is larger than 1 MiB", path);
		else if (memchr(text, 0, n))
			snprintf(why, why_bytes, "%s: is no text", path);
		else
			ok = true;
	}
	if (ok) {
		text[n] = 0;
		ok = config_read_text(c, path, text, why, why_bytes);
	}
	free(text);
	if (f)
		fclose(f);
	return ok;
}
