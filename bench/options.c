/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/options.h"

#include "bench/fleet/accounts.h"
#include "bench/cli.h"
#include "bench/mail/mailroom.h"
#include "core/base/check.h"
#include "core/eas/query.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Fields of struct bench; whether `all` means it, too; what --help says. */
#define SCENARIOS(X)                                                                               \
	X(hold, true, "parks the phones: user and kernel memory per parked Ping, CPU while idle")  \
	X(grow, false,                                                                             \
		"the same at 10,000 and so on to 1,000,000 phones of one run, up to "              \
		"--phones, and single wakes at each step: must stay flat")                         \
	X(wake, true, "one random phone of all gets mail: commit to wire, commit to phone")        \
	X(load, false,                                                                             \
		"the same while changes are committed elsewhere, while phones reconnect, "         \
		"and both")                                                                        \
	X(burst, true,                                                                             \
		"every account gets one message, then one message goes to a list of all: "         \
		"wakes per second, CPU and system calls per wake")                                 \
	X(expire, false, "all heartbeats run out, spread over time: each answered at its time")    \
	X(handshake, true,                                                                         \
		"connect, TLS, one request, close: CPU of the server each, full and resumed")      \
	X(day, false, "steady life, compressed in time: CPU, and mail that is missed or late")     \
	X(soak, false, "the same for long: memory must stay flat, and nothing may leak")           \
	X(upgrade, false,                                                                          \
		"the server is replaced by a new process again and again while changes "           \
		"come: pause of each, connections lost, changes missed, answers doubled "          \
		"(must be none)")                                                                  \
	X(crash, false,                                                                            \
		"kill -9 with all phones hanging, a start on the same data: time until all "       \
		"hang again, mail lost or told twice")                                             \
	X(storm, false,                                                                            \
		"all phones but --stay drop at once and come back, with full and with "            \
		"resumed handshakes: time, memory on the way, service to those that stayed")

/* --help: what stands before the options, and behind them. */
static const char head[] =
	"roost-bench - measures a push server\n"
	"\n"
	"  roost-bench --spawn [options] [SCENARIO...]\n"
	"  roost-bench --url https://HOST:PORT [--pid PID] [--metrics URL] [--data DIR] [options] "
	"...\n"
	"\n"
	"Scenarios (all: hold, wake, burst, handshake; the default):\n";

static const struct cli_word words[] = {
#define X(id, in_all, help) {#id, help},
	SCENARIOS(X)
#undef X
};

static const char tail[] =
	"\n"
	"Exit codes: 0 all measured, 1 something failed, 2 wrong usage, 3 the machine is too "
	"small,\n"
	"130 interrupted. See roost-bench(1).\n";

/* What is looked at when all has been read. */
struct arguments {
	struct bench *b;
	const char *url, *metrics, *account, *password;
	uint32_t pid, first, list;
	bool chose; /* a scenario */
};

static void address(const char *option, const char *text, unsigned schemes, struct url *out)
{
	char why[URL_WHY_BYTES];

	if (!url_parse(text, schemes, out, why, sizeof(why)))
		cli_die("--%s: %s", option, why);
}

static void take_set(void *arg, const char *option, const char *text)
{
	struct bench *b = ((struct arguments *)arg)->b;

	if (b->set_count == SETS_MAX)
		cli_die("too many --%s", option);
	b->sets[b->set_count++] = text;
}

static void take_publish(void *arg, const char *option, const char *text)
{
	address(option, text, URL_HTTP, &((struct arguments *)arg)->b->publish_url);
}

static void take_subscribers(void *arg, const char *option, const char *text)
{
	address(option, text, URL_HTTP, &((struct arguments *)arg)->b->subscribers_url);
}

/* --poll and --poll-idle */
static void take_poll(void *arg, const char *option, const char *text)
{
	struct bench *b = ((struct arguments *)arg)->b;

	b->poll_path = text;
	b->poll_idle = strcmp(option, "poll-idle") == 0;
}

static void take_protocol(void *arg, const char *option, const char *text)
{
	struct bench *b = ((struct arguments *)arg)->b;

	b->protocol_version = eas_version_parse(bytes_str(text));
	if (b->protocol_version < 121)
		cli_die("--%s: '%s' is none of 12.1, 14.0, 14.1, 16.0 and 16.1", option, text);
}

/* After hours of measuring is too late. */
static void check_json(const char *file)
{
	FILE *f;

	if (strcmp(file, "-") == 0 || strcmp(file, "none") == 0)
		return;
	f = fopen(file, "ae");
	if (!f || fclose(f) != 0)
		cli_die("--json: %s: %s", file, strerror(errno));
}

/* How changes come about, and whose phones there are. */
static void check_changes(struct bench *b, bool url, uint32_t list)
{
	bool changes = b->wake || b->load || b->burst || b->storm || b->day || b->soak;

	if (b->mail && b->spawn && strcmp(b->mail, "lmtp") != 0)
		cli_die("--mail: with --spawn only lmtp, the listener of that server");
	if (b->mail && b->publish_url.host[0])
		cli_die("--mail and --publish exclude each other");
	b->mail_own = b->mail && b->spawn;
	if (list || (b->mail && !b->mail_own))
		b->list_max = list ? list : 100;
	if (changes && url && !b->data && !b->publish_url.host[0] && !b->mail)
		cli_die("wake, load, burst, storm, day and soak make changes: they need --data, "
			"--mail or --spawn");
	/* ActiveSync phones that nobody has synced for. */
	if (b->mail && url && !b->data && !b->imap)
		b->prime = true;
	if (b->imap && (b->data || b->prime || b->publish_url.host[0] || b->poll_path))
		cli_die("imaps: goes with --mail only");
	if (b->imap && (b->day || b->soak || b->load || b->storm || b->expire || b->handshake))
		cli_die("imaps: hold, grow, wake and burst only");
	if ((b->imap || b->poll_path) && b->users < b->phones)
		cli_die("here every phone is a user (--users)");
}

static void choose(void *arg, const char *option, const char *name)
{
	struct bench *b = ((struct arguments *)arg)->b;
	bool all = strcmp(name, "all") == 0, hit = all;
	struct {
		const char *name;
		bool *on, in_all;
	} scenarios[] = {
#define X(id, in_all, help) {#id, &b->id, in_all},
		SCENARIOS(X)
#undef X
	};

	for (size_t i = 0; i < ARRAY_LEN(scenarios); i++) {
		if ((all && scenarios[i].in_all) || strcmp(scenarios[i].name, name) == 0) {
			*scenarios[i].on = true;
			hit = true;
		}
	}
	(void)option;
	((struct arguments *)arg)->chose = true;
	if (!hit)
		cli_die("'%s' is not a scenario", name);
}

/* Without a password, which does not belong into files of figures. */
static void remember_command(struct bench *b, int argc, char **argv, bool has_password)
{
	size_t n = 0;

	if (getloadavg(&b->load_average, 1) != 1)
		b->load_average = 0;
	for (int i = 0; i < argc && !has_password && n < sizeof(b->command); i++)
		n += (size_t)snprintf(
			b->command + n, sizeof(b->command) - n, "%s%s", i ? " " : "", argv[i]);
}

void bench_options(struct bench *b, int argc, char **argv)
{
	struct arguments a = {.b = b};
	const char *wrong;
	const struct cli_option options[] = {
		{.help = "The server:"},
		{"spawn", .flag = &b->spawn,
			.help = "start roostd on a temporary store, and end it afterwards"},
		{"roostd", 0, "FILE", .text = &b->roostd,
			.help = "which (default: beside this program)"},
		{"set", 's', "SECTION.KEY=V", .take = take_set, .help = "further settings for it"},
		{"url", 'u', "URL", .text = &a.url,
			.help = "a server that runs; any HTTPS server for `handshake`. imaps:// or "
				"imap://: not ActiveSync, the phones hang in IMAP IDLE; needs "
				"--mail"},
		{"pid", 0, "PID", .number = &a.pid, .min = 1, .max = INT32_MAX,
			.help = "its process (with its children), for memory and CPU"},
		{"metrics", 0, "URL", .text = &a.metrics,
			.help = "its metrics, like http://127.0.0.1:9100/metrics"},
		{"data", 0, "DIR", .text = &b->data,
			.help = "its data directory: accounts bench*@" MAILROOM_DOMAIN
				" are made there, and changes committed; removed at the end"},
		{"keep", .flag = &b->keep, .help = "do not remove them"},
		{"prime", .flag = &b->prime,
			.help = "Provision, FolderSync and Sync over the network"},
		{"account", 0, "PATTERN", .text = &a.account,
			.help = "users, like user%d@example.test or u%05d: %d is the account's "
				"number"},
		{"password", 0, "PATTERN", .text = &a.password,
			.help = "of them, with or without a number"},
		{"first", 0, "N", .number = &a.first, .max = 100000000,
			.help = "the number of the first account (default 0)"},
		{"protocol-version", 0, "V", .take = take_protocol,
			.help = "of ActiveSync: 12.1, 14.0, 14.1 (default), 16.0 or 16.1"},
		{"mail", 0, "TO", .text = &b->mail,
			.help = "changes are mails to lmtp://HOST:PORT, smtp://HOST:PORT or "
				"lmtp:/SOCKET; implies --prime without --data, and a Sync before "
				"each Ping. With --spawn only \"lmtp\": by the listener of that "
				"server"},
		{"ca", 0, "FILE", .text = &b->ca_file,
			.help = "verify the certificate (default: do not)"},
		{.help = "\nHow much:"},
		{"phones", 'n', "N", .number = &b->phones, .min = 1, .max = 4000000,
			.help = "(default 20000)"},
		{"users", 0, "N", .number = &b->users, .min = 1, .max = 4000000,
			.help = "accounts; phones are spread over them (default: as many)"},
		{"wakes", 0, "N", .number = &b->wakes, .min = 1, .max = 1000000,
			.help = "of scenario wake, and of each step of grow (default 1000)"},
		{"visits", 0, "N", .number = &b->visits, .min = 1, .max = 10000000,
			.help = "of scenario handshake (default 2000)"},
		{"expiries", 0, "N", .number = &b->expiries_per_s, .min = 1, .max = 1000000,
			.help = "of scenario expire: heartbeats that end in a second (default "
				"3000)"},
		{"parallel", 0, "N", .number = &b->parallel, .min = 1, .max = 65536,
			.help = "connections shaking hands at a time (default 64)"},
		{"rounds", 0, "N", .number = &b->rounds, .min = 1, .max = ROUNDS_MAX,
			.help = "of burst and handshake; medians are shown (default 3)"},
		{"idle", 0, "S", .number = &b->idle_s, .min = 1, .max = 3600,
			.help = "seconds to watch the idle server (default 10)"},
		{"heartbeat", 0, "S", .number = &b->heartbeat_s, .min = 1, .max = 3540,
			.help = "(default 3540)"},
		{"poll", 0, "PATH", .take = take_poll,
			.help = "not ActiveSync: each phone's GET of PATH and its number hangs"},
		{"poll-idle", 0, "PATH", .take = take_poll,
			.help = "the same, answered at once: connections that only idle"},
		{"publish", 0, "URL", .take = take_publish,
			.help = "changes are POSTs to this http:// URL and the phone's number"},
		{"list", 0, "N", .number = &a.list, .min = 1, .max = 100000,
			.help = "burst: recipients of one mail to a list (default 1000; 100 with "
				"--mail TO)"},
		{"subscribers", 0, "URL", .take = take_subscribers,
			.help = "with --poll: a page that says \"subscribers: N\", how many hang"},
		{"unanswered", 0, "N", .number = &b->unanswered_max, .min = 1, .max = 4000000,
			.help = "burst: phones that may wait for their answer at a time (default "
				"50000)"},
		{"rest", 0, "MS", .number = &b->rest_ms, .max = 600000,
			.help = "burst: pause before each round (default 300)"},
		{"resume", .flag = &b->resume, .help = "handshakes of the phones resume a session"},
		{"stay", 0, "PERCENT", .number = &b->stay_percent, .max = 99,
			.help = "phones that storm and load spare, and watch (default 1)"},
		{"changes", 0, "N", .number = &b->changes_per_s, .min = 1, .max = 1000000,
			.help = "per second, of scenarios load and upgrade (default 1000)"},
		{"reconnects", 0, "N", .number = &b->reconnects_per_s, .min = 1, .max = 100000,
			.help = "per second, of scenario load (default 500)"},
		{"upgrades", 0, "N", .number = &b->upgrades, .min = 1, .max = ROUNDS_MAX,
			.help = "in a row (default 10)"},
		{"compress", 0, "N", .number = &b->compress, .min = 1, .max = 60,
			.help = "day, soak: so many times faster than life (default 60, 10)"},
		{"seconds", 0, "S", .number = &b->day_s, .min = 1, .max = 86400,
			.help = "day, soak: for so long (default 90, 1800)"},
		{"tls12", .flag = &b->tls12, .help = "TLS 1.2 only"},
		{"get", 0, "PATH", .text = &b->get_path,
			.help = "handshake: GET this without credentials instead of OPTIONS"},
		{"name", 0, "NAME", .text = &b->figures.prefix,
			.help = "put in front of the figures' names"},
		{"json", 0, "FILE", .text = &b->json_file,
			.help = "JSON lines go there, appended; - standard output (default), none"},
		{"tune", .flag = &b->tune,
			.help = "set the sysctls that do not suffice, say which, and put them "
				"back"},
		{"force", .flag = &b->force,
			.help = "start although memory, ports, files or tcp_mem do not suffice"},
		{"version", 'V', .take = cli_version},
	};
	const struct cli cli = {
		options, ARRAY_LEN(options), choose, &a, head, tail, words, ARRAY_LEN(words)};

	cli_read(&cli, argc, argv);
	b->pid = (pid_t)a.pid;
	remember_command(b, argc, argv, a.password != NULL);
	if (!a.chose)
		choose(&a, NULL, "all");
	if (b->spawn == (a.url != NULL))
		cli_die("%s", a.url ? "--spawn and --url exclude each other"
				    : "--spawn or --url is needed");
	if (b->spawn && (b->pid || a.metrics || b->data))
		cli_die("--pid, --metrics and --data belong to --url");
	if (a.url)
		address("url", a.url, URL_HTTPS | URL_HTTP | URL_IMAPS | URL_IMAP, &b->url);
	if (a.url && b->url.path[0] && strcmp(b->url.path, "/") != 0 &&
		strcasecmp(b->url.path, "/Microsoft-Server-ActiveSync") != 0)
		cli_die("--url: no path: that of ActiveSync is always the same (--get, --poll and "
			"--poll-idle take others)");
	if (b->pid && kill(b->pid, 0) != 0 && errno == ESRCH)
		cli_die("--pid: there is no process %d", (int)b->pid);
	check_json(b->json_file);
	if (a.metrics) {
		address("metrics", a.metrics, URL_HTTP, &b->metrics_url);
		b->has_metrics = true;
	}
	if (b->users == 0)
		b->users = b->phones;
	if (b->users > b->phones)
		cli_die("--users: more accounts (%u) than phones (%u)", b->users, b->phones);
	if (!accounts_set(a.account, a.password, a.first, &wrong))
		cli_die("--account, --password: %s", wrong);
	if ((a.account || a.password || a.first) && (b->spawn || b->data))
		cli_die("--account, --password and --first belong to --url without --data");
	b->imap = a.url && (b->url.scheme == URL_IMAPS || b->url.scheme == URL_IMAP);
	check_changes(b, a.url != NULL, a.list);
	bool others = b->hold || b->grow || b->wake || b->load || b->burst || b->expire || b->storm;

	if (b->day + b->soak + b->crash + b->upgrade + others > 1)
		cli_die("day, soak, crash and upgrade go alone");
	if ((b->day || b->soak) && b->users < b->phones)
		cli_die("--users: in a day every phone is a user");
	if (b->expire && b->poll_path)
		cli_die("expire is about ActiveSync");
	if (b->upgrade && b->users < b->phones)
		cli_die("--users: for upgrades every phone is a user");
	if (b->upgrade && !b->spawn)
		cli_die("upgrade replaces a server of its own: it needs --spawn");
	if (b->crash && !b->spawn)
		cli_die("crash kills the server: it needs --spawn");
	/* Of life: an hour and a half, or five hours. */
	if (b->compress == 0)
		b->compress = b->soak ? 10 : 60;
	if (b->day_s == 0)
		b->day_s = b->soak ? 1800 : 90;
	if ((b->load || b->storm) && (b->wake || b->burst || b->expire))
		cli_die("load and storm go with grow and hold only");
	if (b->load || b->storm) {
		b->watched = (uint32_t)((uint64_t)b->users * b->stay_percent / 100);
		b->watched += b->watched == 0;
		if (b->watched == b->users)
			cli_die("load and storm need more than one account");
	}
	if (b->publish_url.host[0] && (b->load || b->storm || b->data || b->spawn))
		cli_die("--publish goes with --url, wake and burst only");
	/* A server that only shakes hands knows no accounts. */
	if (!bench_needs_fleet(b) && b->get_path)
		b->data = NULL;
}

json_t *bench_settings(const struct bench *b)
{
	json_t *sets = json_array();

	for (size_t i = 0; i < b->set_count; i++)
		json_array_append_new(sets, json_string(b->sets[i]));
	return json_pack(
		"{s:i, s:i, s:i, s:i, s:i, s:i, s:b, s:b, s:b, s:b, s:s, s:b, s:i, s:s, s:f, s:o}",
		"phones", (int)b->phones, "users", (int)b->users, "parallel", (int)b->parallel,
		"rounds", (int)b->rounds, "heartbeat_s", (int)b->heartbeat_s,
		"client_bytes_per_phone", (int)fleet_phone_bytes(), "spawned", b->spawn, "tls",
		b->url.tls, "tls12_only", b->tls12, "resume", b->resume, "mail",
		b->mail ? b->mail : "", "imap", b->imap, "protocol_version", b->protocol_version,
		"command", b->command, "load", b->load_average, "set", sets);
}
