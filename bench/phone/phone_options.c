/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The command line of roost-phone. */
#include "bench/phone/phone_app.h"

#include "bench/cli.h"
#include "core/base/check.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

/* --help: what stands before the options, and behind them. */
static const char head[] =
	"roost-phone - one simulated Exchange ActiveSync phone\n"
	"\n"
	"  roost-phone --url https://HOST[:PORT] --user NAME (--password P | --password-env VAR)\n"
	"              [options] [VERB...]\n"
	"\n"
	"Verbs, in the order given (default: options provision foldersync sync ping sync):\n";

static const struct cli_word words[] = {
#define X(id, name, help) {name, help},
	VERBS(X)
#undef X
};

static const char tail[] =
	"\n"
	"Exit codes: 0 all steps done, 1 a step failed, 2 wrong usage, 3 connection or TLS,\n"
	"4 the server refused the account (401, 403), 5 no answer in time. See roost-phone(1).\n";

/* What is looked at when all has been read. */
struct arguments {
	struct phone_app *a;
	const char *url;
	int argc;
	char **argv;
};

static struct phone_app *app_of(void *arg)
{
	return ((struct arguments *)arg)->a;
}

static void take_protocol(void *arg, const char *option, const char *text)
{
	struct phone_app *a = app_of(arg);

	a->who.version = eas_version_parse(bytes_str(text));
	if (a->who.version < 121)
		cli_die("--%s: '%s' is not one of 12.1 14.0 14.1 16.0 16.1", option, text);
	a->version_given = true;
}

/* --version alone asks for ours; with a protocol version behind it it chooses that. */
static void take_version(void *arg, const char *option, const char *text)
{
	const struct arguments *args = arg;

	if (!text && optind < args->argc && eas_version_parse(bytes_str(args->argv[optind])) > 0)
		text = args->argv[optind++];
	if (!text)
		cli_version(arg, option, text);
	take_protocol(arg, option, text);
}

static void take_password_env(void *arg, const char *option, const char *text)
{
	app_of(arg)->password = getenv(text);
	if (!app_of(arg)->password)
		cli_die("--%s: %s is not set", option, text);
}

static void take_device(void *arg, const char *option, const char *text)
{
	struct phone_app *a = app_of(arg);

	if (!bytes_to_strz(bytes_str(text), a->device_id, sizeof(a->device_id)))
		cli_die("--%s: at most %d characters", option, EAS_DEVICE_ID_MAX);
}

static void take_once(void *arg, const char *option, const char *text)
{
	(void)option;
	(void)text;
	app_of(arg)->count = 1;
}

static void take_body(void *arg, const char *option, const char *text)
{
	static const struct {
		const char *name;
		uint8_t type;
	} types[] = {{"none", 0}, {"text", 1}, {"html", 2}, {"mime", 4}};

	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (strcmp(types[i].name, text) == 0) {
			app_of(arg)->body_type = types[i].type;
			return;
		}
	}
	cli_die("--%s: '%s' is not text, html, mime or none", option, text);
}

static void take_step(void *arg, const char *option, const char *text)
{
	struct phone_app *a = app_of(arg);
	size_t n = strcspn(text, "=");
	struct step *s = &a->steps[a->step_count];

	(void)option;
	if (a->step_count == STEPS_MAX)
		cli_die("too many verbs");
	for (int v = 0; v < VERB_COUNT; v++) {
		if (strlen(app_verb_names[v]) != n || strncmp(app_verb_names[v], text, n) != 0)
			continue;
		char *end = NULL;

		*s = (struct step){.verb = (enum verb)v};
		if (v == VERB_SLEEP) {
			s->seconds = text[n] ? strtod(text + n + 1, &end) : 1;
			if ((end && *end) || !(s->seconds >= 0 && s->seconds < 1e6))
				cli_die("'%s': sleep=SECONDS", text);
		} else if (text[n]) {
			break;
		}
		a->step_count++;
		return;
	}
	cli_die("'%s' is not a verb", text);
}

void app_read_arguments(struct phone_app *a, int argc, char **argv)
{
	struct arguments args = {.a = a, .argc = argc, .argv = argv};
	char why[URL_WHY_BYTES];
	const struct cli_option options[] = {
		{"url", 'u', "URL", .text = &args.url, .help = "the server"},
		{"user", 0, "NAME", .text = &a->user, .help = "account"},
		{"password", 0, "P", .text = &a->password,
			.help = "password (others can see it in the process list)"},
		{"password-env", 0, "VAR", .take = take_password_env,
			.help = "password from an environment variable"},
		{"device", 0, "ID", .take = take_device,
			.help = "device id (default: made from the user name)"},
		{"type", 0, "T", .text = &a->who.device_type,
			.help = "device type (default RoostPhone)"},
		{"protocol", 0, "V", .take = take_protocol,
			.help = "12.1 14.0 14.1 16.0 16.1 (default: the newest both know; 14.1 "
				"without `options`); --version V means the same"},
		{"folders", 0, "LIST", .text = &a->folder_list,
			.help = "ids like 1,2; or all; default: the inbox"},
		{"heartbeat", 0, "S", .number = &a->heartbeat_s, .max = 100000,
			.help = "of Ping and sync-wait (default 900)"},
		{"once", .take = take_once, .help = "the script once (default)"},
		{"count", 0, "N", .number = &a->count, .max = UINT32_MAX,
			.help = "the part from the first waiting verb on N times; 0: for ever"},
		{"timeout", 0, "S", .number = &a->timeout_s, .min = 1, .max = 100000,
			.help = "longest wait for an answer; for waiting verbs beyond the "
				"heartbeat (default 30)"},
		{"keep-going", .flag = &a->keep_going,
			.help = "a failed step does not end the script"},
		{"reconnect", .flag = &a->reconnect,
			.help = "a connection that fails or breaks is tried again each second"},
		{"base64", .flag = &a->who.base64_query, .help = "the short form of the query"},
		{"body", 0, "T", .take = take_body, .help = "text (default), html, mime or none"},
		{"filter", 0, "N", .number = &a->filter_type, .max = 9,
			.help = "FilterType 0-5 (default 0: all)"},
		{"window", 0, "N", .number = &a->window, .max = 100000,
			.help = "WindowSize (default 100)"},
		{"state", 0, "FILE", .text = &a->state_file,
			.help = "keeps keys there, as a phone keeps them over a restart"},
		{"data", 0, "DIR", .text = &a->data_dir,
			.help = "the server's data directory: tells when the change was committed "
				"and how long the way to the phone took"},
		{"lmtp", 0, "ADDR", .text = &a->lmtp,
			.help = "once parked, deliver a message to the user there"},
		{"insecure", .flag = &a->insecure,
			.help = "do not verify the server's certificate"},
		{"ca", 0, "FILE", .text = &a->ca_file,
			.help = "verify it against this one (default: the system's)"},
		{"json", .flag = &a->json,
			.help = "one JSON object per line instead of the timeline"},
		{"verbose", 'v', .flag = &a->verbose, .help = "also the documents, as XML"},
		{"version", 'V', .optional = true, .take = take_version},
	};
	const struct cli cli = {
		options, ARRAY_LEN(options), take_step, &args, head, tail, words, ARRAY_LEN(words)};

	cli_read(&cli, argc, argv);
	if (!args.url || !a->user || !a->password)
		cli_die("--url, --user and --password or --password-env are needed");
	if (!url_parse(args.url, URL_HTTPS | URL_HTTP, &a->server, why, sizeof(why)))
		cli_die("--url: %s", why);
	if (a->step_count == 0) {
		static const char *const script[] = {
			"options", "provision", "foldersync", "sync", "ping", "sync"};

		for (size_t i = 0; i < ARRAY_LEN(script); i++)
			take_step(&args, NULL, script[i]);
	}
}

/* Same user, same phone; other characters than letters and digits are not allowed in an id. */
void app_default_device(struct phone_app *a)
{
	uint64_t hash = 0xcbf29ce484222325u;

	CHECK(a->user);

	for (const char *s = a->user; *s; s++)
		hash = (hash ^ (uint8_t)*s) * 0x100000001b3u;
	snprintf(a->device_id, sizeof(a->device_id), "RoostPhone%016llX", (unsigned long long)hash);
}
