/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The settings on paper: the example file, the manual, and the values in force. */
#include "core/config/config_priv.h"

#include "core/base/check.h"

#include <inttypes.h>
#include <string.h>

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
		const struct setting *s = &config_settings[i];

		if (i == 0 || strcmp(s->section, config_settings[i - 1].section) != 0) {
			fprintf(f, "%s\n", i ? "}\n" : "");
			print_wrapped(f, "# ", section_about(s->section));
			fprintf(f, "%s {\n", s->section);
		} else {
			fputc('\n', f);
		}
		if (s->type == SETTING_INT || s->type == SETTING_ENUM) {
			snprintf(text, sizeof(text), "%s Allowed: %s.", s->help,
				config_allowed(s, a));
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
		const struct setting *s = &config_settings[i];

		if (i == 0 || strcmp(s->section, config_settings[i - 1].section) != 0) {
			fprintf(f, "%s## ", i ? "\n" : "");
			print_scdoc(f, s->section);
			fprintf(f, "\n\n");
			print_scdoc(f, section_about(s->section));
			fprintf(f, "\n");
		}
		config_variable_name(s, name);
		fprintf(f, "\n*");
		print_scdoc(f, s->key);
		fprintf(f, "*\n\t");
		print_scdoc(f, s->help);
		fprintf(f, "\n\n\tAllowed: ");
		print_scdoc(f, config_allowed(s, a));
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
		const struct setting *s = &config_settings[i];
		const void *at = config_field(c, s);

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
