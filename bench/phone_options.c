/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The command line of roost-phone. */
#include "bench/phone_app.h"

#include "core/base/check.h"
#include "core/version.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
	"roost-phone - one simulated Exchange ActiveSync phone\n"
	"\n"
	"  roost-phone --url https://HOST[:PORT] --user NAME (--password P | --password-env VAR)\n"
	"              [options] [VERB...]\n"
	"\n"
	"Verbs, in the order given (default: options provision foldersync sync ping sync):\n"
	"  options          ask for protocol versions and take the newest that both know\n"
	"  provision        both phases; the policy key is kept\n"
	"  foldersync       the folder tree\n"
	"  sync             the watched folders until nothing is left\n"
	"  ping             one Ping: parks until a change or the heartbeat's end\n"
	"  ping-cached      one Ping without a body: the server remembers the parameters\n"
	"  wait-for-change  Ping again and again until a folder changed\n"
	"  sync-wait        a hanging Sync\n"
	"  fetch            the newest item seen, whole, by ItemOperations\n"
	"  mark-read, mark-unread, delete   the newest item seen\n"
	"  estimate         GetItemEstimate of the watched folders\n"
	"  settings         device information\n"
	"  sleep=SECONDS    does nothing for a while\n"
	"  disconnect       closes the connection; the next verb opens another\n"
	"\n"
	"  -u, --url URL            the server\n"
	"      --user NAME          account\n"
	"      --password P         password (others can see it in the process list)\n"
	"      --password-env VAR   password from an environment variable\n"
	"      --device ID          device id (default: made from the user name)\n"
	"      --type T             device type (default RoostPhone)\n"
	"      --protocol V         12.1 14.0 14.1 16.0 16.1 (default: the newest both know;\n"
	"                           14.1 without `options`); --version V means the same\n"
	"      --folders LIST       ids like 1,2; or all; default: the inbox\n"
	"      --heartbeat S        of Ping and sync-wait (default 900)\n"
	"      --once               the script once (default)\n"
	"      --count N            the part from the first waiting verb on N times; 0: for ever\n"
	"      --timeout S          longest wait for an answer; for waiting verbs beyond the\n"
	"                           heartbeat (default 30)\n"
	"      --keep-going         a failed step does not end the script\n"
	"      --reconnect          a connection that fails or breaks is tried again each second\n"
	"      --base64             the short form of the query\n"
	"      --body T             text (default), html, mime or none\n"
	"      --filter N           FilterType 0-5 (default 0: all)\n"
	"      --window N           WindowSize (default 100)\n"
	"      --state FILE         keeps keys there, as a phone keeps them over a restart\n"
	"      --data DIR           the server's data directory: tells when the change was "
	"committed\n"
	"                           and how long the way to the phone took\n"
	"      --lmtp ADDR          once parked, deliver a message to the user there\n"
	"      --insecure           do not verify the server's certificate\n"
	"      --ca FILE            verify it against this one (default: the system's)\n"
	"      --json               one JSON object per line instead of the timeline\n"
	"  -v, --verbose            also the documents, as XML\n"
	"  -V, --version\n"
	"  -h, --help\n"
	"\n"
	"Exit codes: 0 all steps done, 1 a step failed, 2 wrong usage, 3 connection or TLS,\n"
	"4 the server refused the account (401, 403), 5 no answer in time. See roost-phone(1).\n";

enum {
	OPT_USER = 256,
	OPT_PASSWORD,
	OPT_PASSWORD_ENV,
	OPT_DEVICE,
	OPT_TYPE,
	OPT_PROTOCOL,
	OPT_FOLDERS,
	OPT_HEARTBEAT,
	OPT_ONCE,
	OPT_COUNT,
	OPT_TIMEOUT,
	OPT_KEEP_GOING,
	OPT_RECONNECT,
	OPT_BASE64,
	OPT_BODY,
	OPT_FILTER,
	OPT_WINDOW,
	OPT_STATE,
	OPT_DATA,
	OPT_LMTP,
	OPT_INSECURE,
	OPT_CA,
	OPT_JSON,
};

static const struct option options[] = {{"url", required_argument, NULL, 'u'},
	{"user", required_argument, NULL, OPT_USER},
	{"password", required_argument, NULL, OPT_PASSWORD},
	{"password-env", required_argument, NULL, OPT_PASSWORD_ENV},
	{"device", required_argument, NULL, OPT_DEVICE},
	{"type", required_argument, NULL, OPT_TYPE},
	{"protocol", required_argument, NULL, OPT_PROTOCOL},
	{"folders", required_argument, NULL, OPT_FOLDERS},
	{"heartbeat", required_argument, NULL, OPT_HEARTBEAT},
	{"once", no_argument, NULL, OPT_ONCE}, {"count", required_argument, NULL, OPT_COUNT},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"keep-going", no_argument, NULL, OPT_KEEP_GOING},
	{"reconnect", no_argument, NULL, OPT_RECONNECT}, {"base64", no_argument, NULL, OPT_BASE64},
	{"body", required_argument, NULL, OPT_BODY},
	{"filter", required_argument, NULL, OPT_FILTER},
	{"window", required_argument, NULL, OPT_WINDOW},
	{"state", required_argument, NULL, OPT_STATE}, {"data", required_argument, NULL, OPT_DATA},
	{"lmtp", required_argument, NULL, OPT_LMTP}, {"insecure", no_argument, NULL, OPT_INSECURE},
	{"ca", required_argument, NULL, OPT_CA}, {"json", no_argument, NULL, OPT_JSON},
	{"verbose", no_argument, NULL, 'v'}, {"version", optional_argument, NULL, 'V'},
	{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};

_Noreturn void app_die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "roost-phone: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (roost-phone --help)\n");
	exit(EXIT_USAGE);
}

static uint32_t number(const char *option, const char *text, uint32_t max)
{
	uint64_t v;

	if (!bytes_to_u64(bytes_str(text), max, &v))
		app_die("--%s: '%s' is not a number up to %u", option, text, max);
	return (uint32_t)v;
}

static void set_protocol(struct phone_app *a, const char *text)
{
	a->who.version = eas_version_parse(bytes_str(text));
	if (a->who.version < 121)
		app_die("--protocol: '%s' is not one of 12.1 14.0 14.1 16.0 16.1", text);
	a->version_given = true;
}

static uint8_t body_type(const char *text)
{
	static const struct {
		const char *name;
		uint8_t type;
	} types[] = {{"none", 0}, {"text", 1}, {"html", 2}, {"mime", 4}};

	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		if (strcmp(types[i].name, text) == 0)
			return types[i].type;
	app_die("--body: '%s' is not text, html, mime or none", text);
}

static void add_step(struct phone_app *a, const char *text)
{
	size_t n = strcspn(text, "=");
	struct step *s = &a->steps[a->step_count];

	if (a->step_count == STEPS_MAX)
		app_die("too many verbs");
	for (int v = 0; v < VERB_COUNT; v++) {
		if (strlen(app_verb_names[v]) != n || strncmp(app_verb_names[v], text, n) != 0)
			continue;
		char *end = NULL;

		*s = (struct step){.verb = (enum verb)v};
		if (v == VERB_SLEEP) {
			s->seconds = text[n] ? strtod(text + n + 1, &end) : 1;
			if ((end && *end) || !(s->seconds >= 0 && s->seconds < 1e6))
				app_die("'%s': sleep=SECONDS", text);
		} else if (text[n]) {
			break;
		}
		a->step_count++;
		return;
	}
	app_die("'%s' is not a verb", text);
}

/* --version alone asks for ours; with a protocol version behind it it chooses that. */
static bool version_option(struct phone_app *a, int argc, char **argv)
{
	const char *text = optarg;

	if (!text && optind < argc && eas_version_parse(bytes_str(argv[optind])) > 0)
		text = argv[optind++];
	if (!text)
		return false;
	set_protocol(a, text);
	return true;
}

void app_read_arguments(struct phone_app *a, int argc, char **argv)
{
	const char *url = NULL;
	char why[CLIENT_WHY_BYTES];
	int o;

	/* '+': the script's order is ours; options may still stand between verbs ('-'). */
	while ((o = getopt_long(argc, argv, "-u:vVh", options, NULL)) != -1) {
		switch (o) {
		case 1:
			add_step(a, optarg);
			break;
		case 'u':
			url = optarg;
			break;
		case 'v':
			a->verbose = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		case 'V':
			if (version_option(a, argc, argv))
				break;
			printf("roost-phone %s (%s), %s\n", roost_version, roost_commit,
				tls_library());
			exit(0);
		case OPT_USER:
			a->user = optarg;
			break;
		case OPT_PASSWORD:
			a->password = optarg;
			break;
		case OPT_PASSWORD_ENV:
			a->password = getenv(optarg);
			if (!a->password)
				app_die("--password-env: %s is not set", optarg);
			break;
		case OPT_DEVICE:
			if (!bytes_to_strz(bytes_str(optarg), a->device_id, sizeof(a->device_id)))
				app_die("--device: at most %d characters", EAS_DEVICE_ID_MAX);
			break;
		case OPT_TYPE:
			a->who.device_type = optarg;
			break;
		case OPT_PROTOCOL:
			set_protocol(a, optarg);
			break;
		case OPT_FOLDERS:
			a->folder_list = optarg;
			break;
		case OPT_HEARTBEAT:
			a->heartbeat_s = number("heartbeat", optarg, 100000);
			break;
		case OPT_ONCE:
			a->count = 1;
			break;
		case OPT_COUNT:
			a->count = number("count", optarg, UINT32_MAX);
			break;
		case OPT_TIMEOUT:
			a->timeout_s = number("timeout", optarg, 100000);
			break;
		case OPT_KEEP_GOING:
			a->keep_going = true;
			break;
		case OPT_RECONNECT:
			a->reconnect = true;
			break;
		case OPT_BASE64:
			a->who.base64_query = true;
			break;
		case OPT_BODY:
			a->body_type = body_type(optarg);
			break;
		case OPT_FILTER:
			a->filter_type = (uint8_t)number("filter", optarg, 9);
			break;
		case OPT_WINDOW:
			a->window = number("window", optarg, 100000);
			break;
		case OPT_STATE:
			a->state_file = optarg;
			break;
		case OPT_DATA:
			a->data_dir = optarg;
			break;
		case OPT_LMTP:
			a->lmtp = optarg;
			break;
		case OPT_INSECURE:
			a->insecure = true;
			break;
		case OPT_CA:
			a->ca_file = optarg;
			break;
		case OPT_JSON:
			a->json = true;
			break;
		default:
			fprintf(stderr, "roost-phone --help tells more\n");
			exit(EXIT_USAGE);
		}
	}
	while (optind < argc)
		add_step(a, argv[optind++]);
	if (!url || !a->user || !a->password)
		app_die("--url, --user and --password or --password-env are needed");
	if (!url_parse(url, URL_HTTPS | URL_HTTP, &a->server, why, sizeof(why)))
		app_die("--url: %s", why);
	if (a->timeout_s == 0)
		app_die("--timeout: at least 1");
	if (a->step_count == 0) {
		static const char *const script[] = {
			"options", "provision", "foldersync", "sync", "ping", "sync"};

		for (size_t i = 0; i < ARRAY_LEN(script); i++)
			add_step(a, script[i]);
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
