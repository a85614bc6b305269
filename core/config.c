/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/config.h"

#include "core/address.h"
#include "core/base/bytes.h"
#include "core/base/check.h"

#include <confuse.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

static const struct setting settings[] = {
#define CONFIG_STR(s, k, def, help)           SETTING(s, k, SETTING_STR, def, NULL, 0, 0, help)
#define CONFIG_LIST(s, k, def, help)          SETTING(s, k, SETTING_LIST, def, NULL, 0, 0, help)
#define CONFIG_BOOL(s, k, def, help)          SETTING(s, k, SETTING_BOOL, #def, NULL, 0, 0, help)
#define CONFIG_INT(s, k, def, lo, hi, help)   SETTING(s, k, SETTING_INT, #def, NULL, lo, hi, help)
#define CONFIG_ENUM(s, k, def, allowed, help) SETTING(s, k, SETTING_ENUM, def, allowed, 0, 0, help)
#include "core/config.def"
};

enum { SETTINGS = ARRAY_LEN(settings), SECTIONS_MAX = 32 };

/* What a section is for: the example file and the manual say it above the keys. */
static const struct {
	const char *section, *about;
} abouts[] = {
	{"listen",
		"Where Roost listens. An address is host:port, [v6]:port or :port (every address "
		"of the machine); hosts are numeric. Nothing listens unless it is named here."},
	{"tls", "The certificate that phones see. Phones refuse a certificate whose names do not "
		"match and chains they cannot complete, so put the intermediate certificates into "
		"the file too. Certificates are read again at a reload; parked phones stay."},
	{"store", "Accounts, mail and device state live in one LMDB database. Keep it on a local "
		  "disk: LMDB's locks and its memory map do not work over network file systems."},
	{"core", "Threads and limits. The defaults fit a machine that does nothing else; limits "
		 "are refused at the door with 503 and Retry-After, never by falling over."},
	{"http", "Limits of one request and one connection. A parked Ping is bound by none of the "
		 "timeouts here, only by its heartbeat."},
	{"push", "Ping and hanging Sync. A phone names a heartbeat interval in this band and "
		 "waits; it stretches the interval until some firewall or NAT on its way cuts the "
		 "connection. Before you lower heartbeat_max_s, raise the idle timeout of that "
		 "firewall, best to 3600 s or more: longer heartbeats save the phones' batteries."},
	{"sync", "Limits of the Sync command."},
	{"policy", "What a phone must agree to (Provision) before it gets mail. A change takes "
		   "effect at once: parked phones are woken and fetch the new policy. A phone that "
		   "cannot meet it gets no mail, so add requirements one at a time."},
	{"auth", "Logins. Phones send the password with every request; what was verified is "
		 "remembered in memory, keyed and never on disk, so that a storm of reconnects "
		 "costs no hashing. A changed password or a disabled account works at once all the "
		 "same."},
	{"lmtp", "Mail delivery from your mail server. A message is acknowledged per recipient and "
		 "only after it is durable, so the mail server may forget it."},
	{"log", "One line per event on standard error, as key=value. Failed logins are lines of "
		"level info that begin with \"auth: failed rip=\" (for fail2ban); a higher level "
		"hides them."},
};

static const char *section_about(const char *section)
{
	for (size_t i = 0; i < ARRAY_LEN(abouts); i++)
		if (strcmp(abouts[i].section, section) == 0)
			return abouts[i].about;
	return "";
}

static void *field(const struct config *c, const struct setting *s)
{
	return (char *)c + s->offset;
}

static const struct setting *setting_find(const char *section, const char *key)
{
	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(settings[i].section, section) == 0 && strcmp(settings[i].key, key) == 0)
			return &settings[i];
	return NULL;
}

static bool section_known(const char *section)
{
	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(settings[i].section, section) == 0)
			return true;
	return false;
}

static char *dup_or_die(const char *s)
{
	char *copy = strdup(s);

	CHECK(copy); /* a kilobyte at start: nothing useful can be done without it */
	return copy;
}

/* --- telling people what is wrong ---------------------------------------------------- */

/* One line whatever the bytes, and not a long one. */
static const char *shown(const char *value, char out[100])
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

static const char *allowed_text(const struct setting *s, char out[160])
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
static bool near(const char *got, const char *known, unsigned *best)
{
	size_t n = strlen(known);
	unsigned limit = n < 4 ? 1 : n < 9 ? 2 : 3, e = edits(got, known);

	if (e > limit || e >= *best)
		return false;
	*best = e;
	return true;
}

static void unknown_section(const char *got, char *out, size_t out_bytes)
{
	char v[100];
	unsigned best = 99;
	const char *guess = NULL;
	size_t n;

	for (size_t i = 0; i < SETTINGS; i++) {
		if (near(got, settings[i].section, &best))
			guess = settings[i].section;
		/* A key outside of its section is the other common slip. */
		if (!guess && strcmp(got, settings[i].key) == 0) {
			snprintf(out, out_bytes,
				"%s stands outside of a section; it belongs into %s { }",
				shown(got, v), settings[i].section);
			return;
		}
	}
	n = (size_t)snprintf(out, out_bytes, "%s is no section", shown(got, v));
	if (guess && n < out_bytes) {
		snprintf(out + n, out_bytes - n, "; did you mean %s?", guess);
		return;
	}
	for (size_t i = 0; i < SETTINGS && n < out_bytes; i++)
		if (i == 0 || strcmp(settings[i].section, settings[i - 1].section) != 0)
			n += (size_t)snprintf(out + n, out_bytes - n, "%s%s",
				i ? ", " : "; allowed: ", settings[i].section);
}

static void unknown_key(const char *section, const char *got, char *out, size_t out_bytes)
{
	char v[100];
	unsigned best = 99;
	const struct setting *guess = NULL;
	size_t n;

	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(settings[i].section, section) == 0 && near(got, settings[i].key, &best))
			guess = &settings[i];
	for (size_t i = 0; i < SETTINGS && !guess; i++)
		if (strcmp(settings[i].key, got) == 0)
			guess = &settings[i];
	n = (size_t)snprintf(out, out_bytes, "section %s has no key %s", section, shown(got, v));
	if (guess && n < out_bytes) {
		snprintf(out + n, out_bytes - n, "; did you mean %s.%s?", guess->section,
			guess->key);
		return;
	}
	for (size_t i = 0, first = 1; i < SETTINGS && n < out_bytes; i++)
		if (strcmp(settings[i].section, section) == 0) {
			n += (size_t)snprintf(out + n, out_bytes - n, "%s%s",
				first ? "; allowed: " : ", ", settings[i].key);
			first = 0;
		}
}

static void bad_value(const struct setting *s, const char *value, char *out, size_t out_bytes)
{
	char v[100], a[160], word[32];
	unsigned best = 99;
	const char *p = s->allowed;
	size_t n;

	n = (size_t)snprintf(out, out_bytes, "%s.%s is %s; allowed: %s", s->section, s->key,
		shown(value, v), allowed_text(s, a));
	if (s->type != SETTING_ENUM)
		return;
	while (*p && n < out_bytes) {
		size_t len = strcspn(p, " ");

		if (bytes_to_strz(bytes_of(p, len), word, sizeof(word)) &&
			near(value, word, &best)) {
			snprintf(out + n, out_bytes - n, "; did you mean %s?", word);
			return;
		}
		p += len + strspn(p + len, " ");
	}
}

/* --- values -------------------------------------------------------------------------- */

static void list_clear(struct config_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
	*l = (struct config_list){0};
}

static void list_add(struct config_list *l, const char *text, size_t n)
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
	list_clear(l);
	while (*text) {
		size_t n = strcspn(text, ","), from = 0, to = n;

		while (from < to && isspace((unsigned char)text[from]))
			from++;
		while (to > from && isspace((unsigned char)text[to - 1]))
			to--;
		if (to > from)
			list_add(l, text + from, to - from);
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

/* The one place that turns text into a value, whichever source it came from. */
static bool value_set(
	struct config *c, const struct setting *s, const char *text, char *why, size_t why_bytes)
{
	char **str = field(c, s);
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
		list_split(field(c, s), text);
		return true;
	case SETTING_BOOL:
		if (!parse_bool(text, field(c, s)))
			break;
		return true;
	case SETTING_INT:
		if (!bytes_to_u64(bytes_str(text), INT64_MAX, &n) || (int64_t)n < s->lo ||
			(int64_t)n > s->hi)
			break;
		*(int64_t *)field(c, s) = (int64_t)n;
		return true;
	}
	bad_value(s, text, why, why_bytes);
	return false;
}

struct config *config_new(void)
{
	struct config *c = calloc(1, sizeof(*c));
	char why[256];

	CHECK(c);
	for (size_t i = 0; i < SETTINGS; i++) {
		bool ok = value_set(c, &settings[i], settings[i].initial, why, sizeof(why));

		CHECK(ok);
	}
	return c;
}

void config_free(struct config **c)
{
	if (!*c)
		return;
	for (size_t i = 0; i < SETTINGS; i++) {
		if (settings[i].type == SETTING_LIST)
			list_clear(field(*c, &settings[i]));
		else if (settings[i].type == SETTING_STR || settings[i].type == SETTING_ENUM)
			free(*(char **)field(*c, &settings[i]));
	}
	free(*c);
	*c = NULL;
}

/* --- the file ------------------------------------------------------------------------ */

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
		else if (section_known(cfg->name))
			unknown_key(cfg->name, name, what, sizeof(what));
		else
			unknown_section(name, what, sizeof(what));
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
	list_clear(l);
	for (unsigned i = 0; i < n; i++) {
		const char *text = cfg_opt_getnstr(opt, i);

		list_add(l, text, strlen(text));
	}
	return true;
}

/* After every value, so cfg->line is the line of the value. All options are texts to libconfuse:
 * one parser, and one wording of errors, for file, environment and command line. */
static int file_value(cfg_t *cfg, cfg_opt_t *opt)
{
	const struct setting *s = setting_find(cfg->name, opt->name);
	char what[600];

	if (!s) {
		/* libconfuse also takes store|dir = ..., which nobody is told of: one way is enough. */
		file_failed(cfg, "sections are written with braces: section { key = value }");
		return -1;
	}
	if (s->type == SETTING_LIST) {
		if (!file_list(opt, field(reading.into, s), reading.seen[s - settings]))
			goto twice;
		reading.seen[s - settings] = true;
		return 0;
	}
	if (reading.seen[s - settings])
		goto twice;
	reading.seen[s - settings] = true;
	if (!value_set(reading.into, s, cfg_opt_getnstr(opt, 0), what, sizeof(what))) {
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
		const struct setting *s = &settings[i];

		if (i == 0 || strcmp(s->section, settings[i - 1].section) != 0) {
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

/* --- environment and command line ---------------------------------------------------- */

static void variable_name(const struct setting *s, char out[80])
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
		size_t n = strlen(settings[i].section);

		variable_name(&settings[i], known);
		if (near(name, known, &best))
			strcpy(guess, known);
		if (strncasecmp(name + 6, settings[i].section, n) == 0 && name[6 + n] == '_')
			section = true;
	}
	if (!section && !guess[0])
		return true;
	snprintf(why, why_bytes, "environment variable %s sets nothing%s%s%s",
		shown(name, shown_name), guess[0] ? "; did you mean " : "", guess,
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
			variable_name(&settings[i], known);
			if (strcmp(known, name) == 0)
				break;
		}
		if (i == SETTINGS) {
			if (!variable_unknown(name, why, why_bytes))
				return false;
		} else if (!value_set(c, &settings[i], equals + 1, what, sizeof(what))) {
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
			shown(assignment, v));
		return false;
	}
	s = setting_find(section, key);
	if (!s) {
		if (section_known(section))
			unknown_key(section, key, what, sizeof(what));
		else
			unknown_section(section, what, sizeof(what));
	} else if (value_set(c, s, equals + 1, what, sizeof(what))) {
		return true;
	}
	snprintf(why, why_bytes, "--set: %s", what);
	return false;
}

/* --- what only shows when all is known ----------------------------------------------- */

static bool check_addresses(
	const char *key, const struct config_list *l, unsigned kinds, char *why, size_t why_bytes)
{
	struct sockaddr_storage address;
	socklen_t length;
	char v[100], what[200];

	for (size_t i = 0; i < l->n; i++)
		if (!address_parse(l->v[i], kinds, &address, &length, what, sizeof(what))) {
			snprintf(why, why_bytes, "listen.%s: %s: %s", key, shown(l->v[i], v), what);
			return false;
		}
	return true;
}

static bool check_readable(const char *key, const char *path, char *why, size_t why_bytes)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int err = errno;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		close(fd);
		fd = -1;
		err = EISDIR;
	}
	if (fd < 0) {
		snprintf(why, why_bytes, "%s: %s: %s", key, path, strerror(err));
		return false;
	}
	close(fd);
	return true;
}

static bool check_twice(const struct config *c, char *why, size_t why_bytes)
{
	const struct config_list *const lists[] = {
		&c->listen_https, &c->listen_http, &c->listen_lmtp, &c->listen_admin};
	char v[100];

	for (size_t a = 0; a < ARRAY_LEN(lists); a++)
		for (size_t i = 0; i < lists[a]->n; i++)
			for (size_t b = a; b < ARRAY_LEN(lists); b++)
				for (size_t j = b == a ? i + 1 : 0; j < lists[b]->n; j++) {
					const char *one = lists[a]->v[i];
					size_t n = strlen(one);

					if (strcmp(one, lists[b]->v[j]) != 0)
						continue;
					/* The kernel gives each port 0 another number. */
					if (n > 2 && strcmp(one + n - 2, ":0") == 0)
						continue;
					snprintf(why, why_bytes,
						"section listen: %s is named twice", shown(one, v));
					return false;
				}
	return true;
}

static bool check_tls(const struct config *c, char *why, size_t why_bytes)
{
	bool certificate = c->tls_certificate[0], key = c->tls_key[0];
	char path[4096], v[100];

	if (certificate != key) {
		snprintf(why, why_bytes,
			"tls.%s is set and tls.%s is not; allowed: both (or tls.self_signed)",
			certificate ? "certificate" : "key", certificate ? "key" : "certificate");
		return false;
	}
	if (c->listen_https.n && !certificate && !c->tls_self_signed) {
		snprintf(why, why_bytes,
			"listen.https needs tls.certificate and tls.key, or tls.self_signed = "
			"true");
		return false;
	}
	if (certificate &&
		(!check_readable("tls.certificate", c->tls_certificate, why, why_bytes) ||
			!check_readable("tls.key", c->tls_key, why, why_bytes)))
		return false;
	for (size_t i = 0; i < c->tls_pairs.n; i++) {
		const char *pair = c->tls_pairs.v[i], *colon = strchr(pair, ':');

		if (!colon || colon == pair || !colon[1] || strchr(colon + 1, ':') ||
			!bytes_to_strz(
				bytes_of(pair, (size_t)(colon - pair)), path, sizeof(path))) {
			snprintf(why, why_bytes, "tls.pairs: %s; allowed: certificate.pem:key.pem",
				shown(pair, v));
			return false;
		}
		if (!check_readable("tls.pairs", path, why, why_bytes) ||
			!check_readable("tls.pairs", colon + 1, why, why_bytes))
			return false;
	}
	return true;
}

static bool check_order(const char *low_key, int64_t low, const char *high_key, int64_t high,
	char *why, size_t why_bytes)
{
	if (low <= high)
		return true;
	snprintf(why, why_bytes, "%s (%" PRId64 ") is above %s (%" PRId64 ")", low_key, low,
		high_key, high);
	return false;
}

bool config_check(const struct config *c, char *why, size_t why_bytes)
{
	char v[100];

	if (!check_order("push.heartbeat_min_s", c->push_heartbeat_min_s, "push.heartbeat_max_s",
		    c->push_heartbeat_max_s, why, why_bytes) ||
		!check_order("store.map_mib", c->store_map_mib, "store.map_max_mib",
			c->store_map_max_mib, why, why_bytes) ||
		!check_addresses("https", &c->listen_https, ADDRESS_TCP, why, why_bytes) ||
		!check_addresses("http", &c->listen_http, ADDRESS_TCP, why, why_bytes) ||
		!check_addresses(
			"lmtp", &c->listen_lmtp, ADDRESS_TCP | ADDRESS_UNIX, why, why_bytes) ||
		!check_addresses(
			"admin", &c->listen_admin, ADDRESS_TCP | ADDRESS_UNIX, why, why_bytes) ||
		!check_twice(c, why, why_bytes) || !check_tls(c, why, why_bytes))
		return false;
	/* MS-ASPROV 2.2.2.28: MaxDevicePasswordFailedAttempts is 4..16. */
	if (c->policy_failed_attempts_max != 0 && c->policy_failed_attempts_max < 4) {
		snprintf(why, why_bytes,
			"policy.failed_attempts_max is %" PRId64 "; allowed: 0, or 4 to 16",
			c->policy_failed_attempts_max);
		return false;
	}
	if (!c->store_dir[0]) {
		snprintf(why, why_bytes, "store.dir is empty; allowed: a directory");
		return false;
	}
	if (strpbrk(c->auth_default_domain, "@ \t\\/")) {
		snprintf(why, why_bytes,
			"auth.default_domain is %s; allowed: a domain, without '@'",
			shown(c->auth_default_domain, v));
		return false;
	}
	return true;
}

/* --- printing ------------------------------------------------------------------------ */

/* Words of `text`, wrapped; every line opens with `lead`. */
static void print_wrapped(FILE *f, const char *lead, const char *text)
{
	enum { WIDTH = 96 };
	size_t at = 0;

	while (*text) {
		size_t n = strcspn(text, " ");

		if (at && at + 1 + n > WIDTH) {
			fputc('\n', f);
			at = 0;
		}
		if (at == 0)
			at = (size_t)fprintf(f, "%s%.*s", lead, (int)n, text);
		else
			at += (size_t)fprintf(f, " %.*s", (int)n, text);
		text += n;
		text += *text == ' ';
	}
	fputc('\n', f);
}

/* As the file wants it: quoted unless it is a number or a word, with the escapes of libconfuse. */
static void print_quoted(FILE *f, const char *text)
{
	fputc('"', f);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\' || *text == '$')
			fputc('\\', f); /* ${NAME} in double quotes is the environment's */
		fputc(*text, f);
	}
	fputc('"', f);
}

/* What an example says where the default is empty. */
static const struct {
	const char *section, *key, *line;
} samples[] = {
	{"listen", "https", "{\":443\"}"},
	{"listen", "http", "{\"127.0.0.1:8080\"}"},
	{"listen", "lmtp", "{\"unix:/run/roost/lmtp\", \"127.0.0.1:24\"}"},
	{"listen", "admin", "{\"127.0.0.1:8081\"}"},
	{"tls", "certificate", "\"/etc/roost/mail.example.test.chain.pem\""},
	{"tls", "key", "\"/etc/roost/mail.example.test.key.pem\""},
	{"tls", "pairs", "{\"/etc/roost/other.chain.pem:/etc/roost/other.key.pem\"}"},
	{"auth", "default_domain", "\"example.test\""},
};

static const char *sample(const struct setting *s)
{
	for (size_t i = 0; i < ARRAY_LEN(samples); i++)
		if (strcmp(samples[i].section, s->section) == 0 &&
			strcmp(samples[i].key, s->key) == 0)
			return samples[i].line;
	return NULL;
}

void config_print_example(FILE *f)
{
	char a[160], text[400];

	print_wrapped(f, "# ",
		"Roost's configuration. This is /etc/roost/roost.conf with every setting at its "
		"default, commented out: remove the # of what you change. roost.conf(5) is the "
		"manual.");
	fprintf(f, "#\n");
	print_wrapped(f, "# ",
		"The same settings can come from the environment, as ROOST_SECTION_KEY "
		"(ROOST_PUSH_HEARTBEAT_MAX_S=1800), and from the command line, as --set "
		"section.key=value; the command line wins over the environment, the environment "
		"over this file.");
	fprintf(f, "#\n");
	print_wrapped(f, "# ",
		"Check a change before you reload: roostctl config check. Make this file anew: "
		"roostctl config example.");
	for (size_t i = 0; i < SETTINGS; i++) {
		const struct setting *s = &settings[i];

		if (i == 0 || strcmp(s->section, settings[i - 1].section) != 0) {
			fprintf(f, "%s\n", i ? "}\n" : "");
			print_wrapped(f, "# ", section_about(s->section));
			fprintf(f, "%s {\n", s->section);
		} else {
			fputc('\n', f);
		}
		if (s->type == SETTING_INT || s->type == SETTING_ENUM) {
			snprintf(
				text, sizeof(text), "%s Allowed: %s.", s->help, allowed_text(s, a));
			print_wrapped(f, "\t# ", text);
		} else {
			print_wrapped(f, "\t# ", s->help);
		}
		fprintf(f, "\t#%s = ", s->key);
		if (!s->initial[0] && sample(s))
			fputs(sample(s), f);
		else if (s->type == SETTING_INT || s->type == SETTING_BOOL ||
			 s->type == SETTING_ENUM)
			fputs(s->initial, f);
		else
			print_quoted(f, s->initial);
		fputc('\n', f);
	}
	fprintf(f, "}\n");
}

/* scdoc gives these a meaning. */
static void print_scdoc(FILE *f, const char *text)
{
	for (; *text; text++) {
		if (strchr("_*\\#`<>[]|", *text))
			fputc('\\', f);
		fputc(*text, f);
	}
}

void config_print_manual(FILE *f)
{
	char name[80], a[160];

	for (size_t i = 0; i < SETTINGS; i++) {
		const struct setting *s = &settings[i];

		if (i == 0 || strcmp(s->section, settings[i - 1].section) != 0) {
			fprintf(f, "%s## ", i ? "\n" : "");
			print_scdoc(f, s->section);
			fprintf(f, "\n\n");
			print_scdoc(f, section_about(s->section));
			fprintf(f, "\n");
		}
		variable_name(s, name);
		fprintf(f, "\n*");
		print_scdoc(f, s->key);
		fprintf(f, "*\n\t");
		print_scdoc(f, s->help);
		fprintf(f, "\n\n\tAllowed: ");
		print_scdoc(f, allowed_text(s, a));
		fprintf(f, ". Default: ");
		if (s->initial[0])
			print_scdoc(f, s->initial);
		else
			fprintf(f, "none");
		fprintf(f, ". Environment: ");
		print_scdoc(f, name);
		fprintf(f, ".\n");
	}
}

void config_print(const struct config *c, FILE *f)
{
	for (size_t i = 0; i < SETTINGS; i++) {
		const struct setting *s = &settings[i];
		const void *at = field(c, s);

		fprintf(f, "%s.%s = ", s->section, s->key);
		if (s->type == SETTING_BOOL) {
			fprintf(f, "%s", *(const bool *)at ? "true" : "false");
		} else if (s->type == SETTING_INT) {
			fprintf(f, "%" PRId64, *(const int64_t *)at);
		} else if (s->type == SETTING_LIST) {
			const struct config_list *l = at;

			for (size_t k = 0; k < l->n; k++)
				fprintf(f, "%s%s", k ? ", " : "", l->v[k]);
		} else {
			fprintf(f, "%s", *(char *const *)at);
		}
		fputc('\n', f);
	}
}
