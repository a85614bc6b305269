/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/options.h"

#include "bench/accounts.h"
#include "bench/mailroom.h"
#include "core/base/check.h"
#include "core/eas/query.h"
#include "core/version.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char usage[] =
	"roost-bench - measures a push server\n"
	"\n"
	"  roost-bench --spawn [options] [SCENARIO...]\n"
	"  roost-bench --url https://HOST:PORT [--pid PID] [--metrics URL] [--data DIR] [options] "
	"...\n"
	"\n"
	"Scenarios (all: hold, wake, burst, handshake; the default):\n"
	"  hold        parks the phones: user and kernel memory per parked Ping, CPU while idle\n"
	"  grow        the same at 10,000 and so on to 1,000,000 phones of one run, up to\n"
	"              --phones, and single wakes at each step: must stay flat\n"
	"  wake        one random phone of all gets mail: commit to wire, commit to phone\n"
	"  load        the same while changes are committed elsewhere, while phones reconnect, "
	"and\n"
	"              both\n"
	"  burst       every account gets one message, then one message goes to a list of all: "
	"wakes\n"
	"              per second, CPU and system calls per wake\n"
	"  expire      all heartbeats run out, spread over time: each answered at its time\n"
	"  handshake   connect, TLS, one request, close: CPU of the server each, full and resumed\n"
	"  day         steady life, compressed in time: CPU, and mail that is missed or late\n"
	"  soak        the same for long: memory must stay flat, and nothing may leak\n"
	"  upgrade     the server is replaced by a new process again and again while changes "
	"come:\n"
	"              pause of each, connections lost, changes missed, answers doubled (must be "
	"none)\n"
	"  crash       kill -9 with all phones hanging, a start on the same data: time until all "
	"hang\n"
	"              again, mail lost or told twice\n"
	"  storm       all phones but --stay drop at once and come back, with full and with "
	"resumed\n"
	"              handshakes: time, memory on the way, service to those that stayed\n"
	"\n"
	"The server:\n"
	"      --spawn              start roostd on a temporary store, and end it afterwards\n"
	"      --roostd FILE        which (default: beside this program)\n"
	"  -s, --set SECTION.KEY=V  further settings for it\n"
	"  -u, --url URL            a server that runs; any HTTPS server for `handshake`\n"
	"      --pid PID            its process (with its children), for memory and CPU\n"
	"      --metrics URL        its metrics, like http://127.0.0.1:9100/metrics\n"
	"      --data DIR           its data directory: accounts bench*@" MAILROOM_DOMAIN
	" are made\n"
	"                           there, and changes committed; removed at the end\n"
	"      --keep               do not remove them\n"
	"      --prime              Provision, FolderSync and Sync over the network\n"
	"      --account PATTERN    users, like user%d@example.test or u%05d: %d is the account's "
	"number\n"
	"      --password PATTERN   of them, with or without a number\n"
	"      --first N            the number of the first account (default 0)\n"
	"      --protocol-version V of ActiveSync: 12.1, 14.0, 14.1 (default), 16.0 or 16.1\n"
	"      --mail TO            changes are mails to lmtp://HOST:PORT, smtp://HOST:PORT or "
	"lmtp:/SOCKET;\n"
	"                           implies --prime without --data, and a Sync before each Ping. "
	"With\n"
	"                           --spawn only \"lmtp\": by the listener of that server\n"
	"      --url imaps://HOST:PORT  not ActiveSync: the phones hang in IMAP IDLE; needs "
	"--mail\n"
	"      --ca FILE            verify the certificate (default: do not)\n"
	"\n"
	"How much:\n"
	"  -n, --phones N           (default 20000)\n"
	"      --users N            accounts; phones are spread over them (default: as many)\n"
	"      --wakes N            of scenario wake, and of each step of grow (default 1000)\n"
	"      --visits N           of scenario handshake (default 2000)\n"
	"      --expiries N         of scenario expire: heartbeats that end in a second (default "
	"3000)\n"
	"      --parallel N         connections shaking hands at a time (default 64)\n"
	"      --rounds N           of burst and handshake; medians are shown (default 3)\n"
	"      --idle S             seconds to watch the idle server (default 10)\n"
	"      --heartbeat S        (default 3540)\n"
	"      --poll PATH          not ActiveSync: each phone's GET of PATH and its number hangs\n"
	"      --poll-idle PATH     the same, answered at once: connections that only idle\n"
	"      --publish URL        changes are POSTs to this http:// URL and the phone's number\n"
	"      --list N             burst: recipients of one mail to a list (default 1000; 100 "
	"with\n"
	"                           --mail TO)\n"
	"      --subscribers URL    with --poll: a page that says \"subscribers: N\", how many "
	"hang\n"
	"      --unanswered N       burst: phones that may wait for their answer at a time "
	"(default "
	"50000)\n"
	"      --rest MS            burst: pause before each round (default 300)\n"
	"      --resume             handshakes of the phones resume a session\n"
	"      --stay PERCENT       phones that storm and load spare, and watch (default 1)\n"
	"      --changes N          per second, of scenarios load and upgrade (default 1000)\n"
	"      --reconnects N       per second, of scenario load (default 500)\n"
	"      --upgrades N         in a row (default 10)\n"
	"      --compress N         day, soak: so many times faster than life (default 60, 10)\n"
	"      --seconds S          day, soak: for so long (default 90, 1800)\n"
	"      --tls12              TLS 1.2 only\n"
	"      --get PATH           handshake: GET this without credentials instead of OPTIONS\n"
	"      --name NAME          put in front of the figures' names\n"
	"      --json FILE          JSON lines go there, appended; - standard output (default),\n"
	"                           none\n"
	"      --tune               set the sysctls that do not suffice, say which, and put them "
	"back\n"
	"      --force              start although memory, ports, files or tcp_mem do not suffice\n"
	"  -V, --version\n"
	"  -h, --help\n"
	"\n"
	"Exit codes: 0 all measured, 1 something failed, 2 wrong usage, 3 the machine is too "
	"small,\n"
	"130 interrupted. See roost-bench(1).\n";

enum {
	OPT_SPAWN = 256,
	OPT_ROOSTD,
	OPT_PID,
	OPT_METRICS,
	OPT_DATA,
	OPT_KEEP,
	OPT_PRIME,
	OPT_CA,
	OPT_USERS,
	OPT_WAKES,
	OPT_VISITS,
	OPT_EXPIRIES,
	OPT_UPGRADES,
	OPT_PARALLEL,
	OPT_ROUNDS,
	OPT_IDLE,
	OPT_HEARTBEAT,
	OPT_TLS12,
	OPT_GET,
	OPT_NAME,
	OPT_JSON,
	OPT_FORCE,
	OPT_RESUME,
	OPT_TUNE,
	OPT_COMPRESS,
	OPT_SECONDS,
	OPT_POLL,
	OPT_IDLE_AFTER,
	OPT_PUBLISH,
	OPT_STAY,
	OPT_CHANGES,
	OPT_RECONNECTS,
	OPT_ACCOUNT,
	OPT_PASSWORD,
	OPT_FIRST,
	OPT_PROTOCOL_VERSION,
	OPT_MAIL,
	OPT_LIST,
	OPT_REST,
	OPT_UNANSWERED,
	OPT_SUBSCRIBERS,
};

static const struct option options[] = {{"spawn", no_argument, NULL, OPT_SPAWN},
	{"roostd", required_argument, NULL, OPT_ROOSTD}, {"set", required_argument, NULL, 's'},
	{"url", required_argument, NULL, 'u'}, {"pid", required_argument, NULL, OPT_PID},
	{"metrics", required_argument, NULL, OPT_METRICS},
	{"data", required_argument, NULL, OPT_DATA}, {"keep", no_argument, NULL, OPT_KEEP},
	{"prime", no_argument, NULL, OPT_PRIME}, {"ca", required_argument, NULL, OPT_CA},
	{"phones", required_argument, NULL, 'n'}, {"users", required_argument, NULL, OPT_USERS},
	{"wakes", required_argument, NULL, OPT_WAKES},
	{"upgrades", required_argument, NULL, OPT_UPGRADES},
	{"expiries", required_argument, NULL, OPT_EXPIRIES},
	{"visits", required_argument, NULL, OPT_VISITS},
	{"parallel", required_argument, NULL, OPT_PARALLEL},
	{"rounds", required_argument, NULL, OPT_ROUNDS},
	{"idle", required_argument, NULL, OPT_IDLE},
	{"heartbeat", required_argument, NULL, OPT_HEARTBEAT},
	{"tls12", no_argument, NULL, OPT_TLS12}, {"get", required_argument, NULL, OPT_GET},
	{"name", required_argument, NULL, OPT_NAME}, {"json", required_argument, NULL, OPT_JSON},
	{"force", no_argument, NULL, OPT_FORCE}, {"resume", no_argument, NULL, OPT_RESUME},
	{"tune", no_argument, NULL, OPT_TUNE}, {"compress", required_argument, NULL, OPT_COMPRESS},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"poll", required_argument, NULL, OPT_POLL},
	{"poll-idle", required_argument, NULL, OPT_IDLE_AFTER},
	{"publish", required_argument, NULL, OPT_PUBLISH},
	{"stay", required_argument, NULL, OPT_STAY},
	{"changes", required_argument, NULL, OPT_CHANGES},
	{"reconnects", required_argument, NULL, OPT_RECONNECTS},
	{"account", required_argument, NULL, OPT_ACCOUNT},
	{"password", required_argument, NULL, OPT_PASSWORD},
	{"first", required_argument, NULL, OPT_FIRST},
	{"protocol-version", required_argument, NULL, OPT_PROTOCOL_VERSION},
	{"mail", required_argument, NULL, OPT_MAIL}, {"list", required_argument, NULL, OPT_LIST},
	{"rest", required_argument, NULL, OPT_REST},
	{"unanswered", required_argument, NULL, OPT_UNANSWERED},
	{"subscribers", required_argument, NULL, OPT_SUBSCRIBERS},
	{"version", no_argument, NULL, 'V'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};

__attribute__((format(printf, 1, 2))) static _Noreturn void die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "roost-bench: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (roost-bench --help)\n");
	exit(EXIT_USAGE);
}

static uint32_t number(const char *option, const char *text, uint32_t min, uint32_t max)
{
	uint64_t v;

	if (!bytes_to_u64(bytes_str(text), max, &v) || v < min)
		die("--%s: '%s' is not a number from %u to %u", option, text, min, max);
	return (uint32_t)v;
}

static void address(const char *option, const char *text, unsigned schemes, struct url *out)
{
	char why[WHY];

	if (!url_parse(text, schemes, out, why, sizeof(why)))
		die("--%s: %s", option, why);
}

static int version_number(const char *text)
{
	int v = eas_version_parse(bytes_str(text));

	if (v >= 121)
		return v;
	die("--protocol-version: '%s' is none of 12.1, 14.0, 14.1, 16.0 and 16.1", text);
}

/* After hours of measuring is too late. */
static void check_json(const char *file)
{
	FILE *f;

	if (strcmp(file, "-") == 0 || strcmp(file, "none") == 0)
		return;
	f = fopen(file, "ae");
	if (!f || fclose(f) != 0)
		die("--json: %s: %s", file, strerror(errno));
}

/* How changes come about, and whose phones there are. */
static void check_changes(struct bench *b, bool url, uint32_t list)
{
	bool changes = b->wake || b->load || b->burst || b->storm || b->day || b->soak;

	if (b->mail && b->spawn && strcmp(b->mail, "lmtp") != 0)
		die("--mail: with --spawn only lmtp, the listener of that server");
	if (b->mail && b->publish_url.host[0])
		die("--mail and --publish exclude each other");
	b->mail_own = b->mail && b->spawn;
	if (list || (b->mail && !b->mail_own))
		b->list_max = list ? list : 100;
	if (changes && url && !b->data && !b->publish_url.host[0] && !b->mail)
		die("wake, load, burst, storm, day and soak make changes: they need --data, --mail "
		    "or "
		    "--spawn");
	/* ActiveSync phones that nobody has synced for. */
	if (b->mail && url && !b->data && !b->imap)
		b->prime = true;
	if (b->imap && (b->data || b->prime || b->publish_url.host[0] || b->poll_path))
		die("imaps: goes with --mail only");
	if (b->imap && (b->day || b->soak || b->load || b->storm || b->handshake))
		die("imaps: hold, grow, wake and burst only");
	if ((b->imap || b->poll_path) && b->users < b->phones)
		die("here every phone is a user (--users)");
}

static void choose(struct bench *b, const char *name)
{
	bool all = strcmp(name, "all") == 0, hit = all;
	struct {
		const char *name;
		bool *on, in_all;
	} scenarios[] = {{"hold", &b->hold, true}, {"wake", &b->wake, true},
		{"burst", &b->burst, true}, {"expire", &b->expire, false},
		{"handshake", &b->handshake, true}, {"grow", &b->grow, false},
		{"load", &b->load, false}, {"storm", &b->storm, false}, {"day", &b->day, false},
		{"soak", &b->soak, false}, {"crash", &b->crash, false},
		{"upgrade", &b->upgrade, false}};

	for (size_t i = 0; i < ARRAY_LEN(scenarios); i++) {
		if ((all && scenarios[i].in_all) || strcmp(scenarios[i].name, name) == 0) {
			*scenarios[i].on = true;
			hit = true;
		}
	}
	if (!hit)
		die("'%s' is not a scenario", name);
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
	const char *url = NULL, *metrics_url = NULL, *account = NULL, *password = NULL, *wrong;
	uint32_t first = 0, list = 0;
	int o;

	while ((o = getopt_long(argc, argv, "s:u:n:Vh", options, NULL)) != -1) {
		switch (o) {
		case OPT_SPAWN:
			b->spawn = true;
			break;
		case OPT_ROOSTD:
			b->roostd = optarg;
			break;
		case 's':
			if (b->set_count == SETS_MAX)
				die("too many --set");
			b->sets[b->set_count++] = optarg;
			break;
		case 'u':
			url = optarg;
			break;
		case OPT_PID:
			b->pid = (pid_t)number("pid", optarg, 1, INT32_MAX);
			break;
		case OPT_METRICS:
			metrics_url = optarg;
			break;
		case OPT_DATA:
			b->data = optarg;
			break;
		case OPT_KEEP:
			b->keep = true;
			break;
		case OPT_PRIME:
			b->prime = true;
			break;
		case OPT_CA:
			b->ca_file = optarg;
			break;
		case 'n':
			b->phones = number("phones", optarg, 1, 4000000);
			break;
		case OPT_USERS:
			b->users = number("users", optarg, 1, 4000000);
			break;
		case OPT_WAKES:
			b->wakes = number("wakes", optarg, 1, 1000000);
			break;
		case OPT_VISITS:
			b->visits = number("visits", optarg, 1, 10000000);
			break;
		case OPT_UPGRADES:
			b->upgrades = number("upgrades", optarg, 1, ROUNDS_MAX);
			break;
		case OPT_EXPIRIES:
			b->expiries_per_s = number("expiries", optarg, 1, 1000000);
			break;
		case OPT_PARALLEL:
			b->parallel = number("parallel", optarg, 1, 65536);
			break;
		case OPT_ROUNDS:
			b->rounds = number("rounds", optarg, 1, ROUNDS_MAX);
			break;
		case OPT_IDLE:
			b->idle_s = number("idle", optarg, 1, 3600);
			break;
		case OPT_HEARTBEAT:
			b->heartbeat_s = number("heartbeat", optarg, 1, 3540);
			break;
		case OPT_TLS12:
			b->tls12 = true;
			break;
		case OPT_GET:
			b->get_path = optarg;
			break;
		case OPT_NAME:
			b->figures.prefix = optarg;
			break;
		case OPT_JSON:
			b->json_file = optarg;
			break;
		case OPT_RESUME:
			b->resume = true;
			break;
		case OPT_POLL:
		case OPT_IDLE_AFTER:
			b->poll_path = optarg;
			b->poll_idle = o == OPT_IDLE_AFTER;
			break;
		case OPT_PUBLISH:
			address("publish", optarg, URL_HTTP, &b->publish_url);
			break;
		case OPT_COMPRESS:
			b->compress = number("compress", optarg, 1, 60);
			break;
		case OPT_SECONDS:
			b->day_s = number("seconds", optarg, 1, 86400);
			break;
		case OPT_TUNE:
			b->tune = true;
			break;
		case OPT_STAY:
			b->stay_percent = number("stay", optarg, 0, 99);
			break;
		case OPT_CHANGES:
			b->changes_per_s = number("changes", optarg, 1, 1000000);
			break;
		case OPT_RECONNECTS:
			b->reconnects_per_s = number("reconnects", optarg, 1, 100000);
			break;
		case OPT_FORCE:
			b->force = true;
			break;
		case OPT_ACCOUNT:
			account = optarg;
			break;
		case OPT_PASSWORD:
			password = optarg;
			break;
		case OPT_FIRST:
			first = number("first", optarg, 0, 100000000);
			break;
		case OPT_PROTOCOL_VERSION:
			b->protocol_version = version_number(optarg);
			break;
		case OPT_MAIL:
			b->mail = optarg;
			break;
		case OPT_LIST:
			list = number("list", optarg, 1, 100000);
			break;
		case OPT_SUBSCRIBERS:
			address("subscribers", optarg, URL_HTTP, &b->subscribers_url);
			break;
		case OPT_UNANSWERED:
			b->unanswered_max = number("unanswered", optarg, 1, 4000000);
			break;
		case OPT_REST:
			b->rest_ms = number("rest", optarg, 0, 600000);
			break;
		case 'V':
			printf("roost-bench %s (%s), %s\n", roost_version, roost_commit,
				tls_library());
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fprintf(stderr, "roost-bench --help tells more\n");
			exit(EXIT_USAGE);
		}
	}
	remember_command(b, argc, argv, password != NULL);
	if (optind == argc)
		choose(b, "all");
	while (optind < argc)
		choose(b, argv[optind++]);
	if (b->spawn == (url != NULL))
		die("%s", url ? "--spawn and --url exclude each other"
			      : "--spawn or --url is needed");
	if (b->spawn && (b->pid || metrics_url || b->data))
		die("--pid, --metrics and --data belong to --url");
	if (url)
		address("url", url, URL_HTTPS | URL_HTTP | URL_IMAPS | URL_IMAP, &b->url);
	if (url && b->url.path[0] && strcmp(b->url.path, "/") != 0 &&
		strcasecmp(b->url.path, "/Microsoft-Server-ActiveSync") != 0)
		die("--url: no path: that of ActiveSync is always the same (--get, --poll and "
		    "--poll-idle take others)");
	if (b->pid && kill(b->pid, 0) != 0 && errno == ESRCH)
		die("--pid: there is no process %d", (int)b->pid);
	check_json(b->json_file);
	if (metrics_url) {
		address("metrics", metrics_url, URL_HTTP, &b->metrics_url);
		b->has_metrics = true;
	}
	if (b->users == 0)
		b->users = b->phones;
	if (b->users > b->phones)
		die("--users: more accounts (%u) than phones (%u)", b->users, b->phones);
	if (!accounts_set(account, password, first, &wrong))
		die("--account, --password: %s", wrong);
	if ((account || password || first) && (b->spawn || b->data))
		die("--account, --password and --first belong to --url without --data");
	b->imap = url && (b->url.scheme == URL_IMAPS || b->url.scheme == URL_IMAP);
	check_changes(b, url != NULL, list);
	bool others = b->hold || b->grow || b->wake || b->load || b->burst || b->expire || b->storm;

	if (b->day + b->soak + b->crash + b->upgrade + others > 1)
		die("day, soak, crash and upgrade go alone");
	if ((b->day || b->soak) && b->users < b->phones)
		die("--users: in a day every phone is a user");
	if (b->expire && b->poll_path)
		die("expire is about ActiveSync");
	if (b->upgrade && b->users < b->phones)
		die("--users: for upgrades every phone is a user");
	if (b->upgrade && !b->spawn)
		die("upgrade replaces a server of its own: it needs --spawn");
	if (b->crash && !b->spawn)
		die("crash kills the server: it needs --spawn");
	/* Of life: an hour and a half, or five hours. */
	if (b->compress == 0)
		b->compress = b->soak ? 10 : 60;
	if (b->day_s == 0)
		b->day_s = b->soak ? 1800 : 90;
	if ((b->load || b->storm) && (b->wake || b->burst || b->expire))
		die("load and storm go with grow and hold only");
	if (b->load || b->storm) {
		b->watched = (uint32_t)((uint64_t)b->users * b->stay_percent / 100);
		b->watched += b->watched == 0;
		if (b->watched == b->users)
			die("load and storm need more than one account");
	}
	if (b->publish_url.host[0] && (b->load || b->storm || b->data || b->spawn))
		die("--publish goes with --url, wake and burst only");
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
