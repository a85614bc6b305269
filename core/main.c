/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roostd: options, signals, and the wait in between. */
#include "core/base/check.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "core/upgrade/handover_state.h"
#include "core/server/minder.h"
#include "core/server/server.h"
#include "core/upgrade/upgrade.h"
#include "core/version.h"
#include "io/tls.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { EXIT_USAGE = 2, SETS_MAX = 256 };

/* What the command line said: applied again at each reload. */
struct arguments {
	const char *file;
	char *sets[SETS_MAX];
	unsigned set_count;
	/* for the program that takes our place */
	const char *program;
	char **again;     /* our arguments, without argv[0] and --take-over */
	int take_over_fd; /* -1: a start like any other */
};

static const char usage[] =
	"roostd - push server for Exchange ActiveSync phones\n"
	"\n"
	"  roostd [--config FILE] [options]\n"
	"\n"
	"  -c, --config FILE        configuration (roost.conf(5))\n"
	"  -s, --set SECTION.KEY=V  sets any key of it; also: ROOST_SECTION_KEY=V in the "
	"environment\n"
	"      --data DIR           store.dir: accounts, mail, device state\n"
	"      --https ADDR         listen.https: host:port or [v6]:port, comma separated\n"
	"      --http ADDR          listen.http: plain, for TLS-bridging proxies\n"
	"      --lmtp ADDR          listen.lmtp: host:port or unix:/path\n"
	"      --admin ADDR         listen.admin: /metrics /livez /readyz\n"
	"      --self-signed        tls.self_signed: make and use a certificate in the data "
	"directory\n"
	"      --check-config       check the configuration and stop: 0 good, 1 wrong\n"
	"      --print-config       show every value in force and stop\n"
	"      --handover-version   print the format in which connections are taken over at an\n"
	"                           upgrade, and stop\n"
	"  -V, --version\n"
	"  -h, --help\n"
	"\n"
	"Runs in the foreground; prints `roostd ready` to stderr when all listeners accept. "
	"SIGTERM or\n"
	"SIGINT: orderly end. SIGHUP: reads certificates and configuration again.\n"
	"Exit codes: 0 ended in order, 1 could not start, 2 wrong usage. See roostd(8).\n";

static bool add_set(struct arguments *a, const char *key, const char *value)
{
	size_t n;
	char *t;

	if (a->set_count == SETS_MAX)
		return false;
	n = strlen(key) + strlen(value) + 2;
	t = malloc(n);
	CHECK(t);
	snprintf(t, n, key[0] ? "%s=%s" : "%s%s", key, value);
	a->sets[a->set_count++] = t;
	return true;
}

static struct config *read_config(void *arg, char *why, size_t why_bytes)
{
	const struct arguments *a = arg;
	struct config *c = config_new();
	bool ok = (!a->file || config_read_file(c, a->file, why, why_bytes)) &&
		  config_read_environment(c, environ, why, why_bytes);

	for (unsigned i = 0; ok && i < a->set_count; i++)
		ok = config_set(c, a->sets[i], why, why_bytes);
	if (!ok || !config_check(c, why, why_bytes))
		config_free(&c);
	return c;
}

/* sd_notify(3) without the library: one datagram. */
static void tell_systemd(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd;

	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(un.sun_path))
		return;
	memcpy(un.sun_path, path, strlen(path));
	if (path[0] == '@')
		un.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&un,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path))) < 0)
		log_msg(LOG_WARNING, "NOTIFY_SOCKET: %s", strerror(errno));
	close(fd);
}

enum {
	OPT_DATA = 256,
	OPT_HTTPS,
	OPT_HTTP,
	OPT_LMTP,
	OPT_ADMIN,
	OPT_SELF,
	OPT_CHECK,
	OPT_PRINT,
	OPT_HANDOVER,
	OPT_TAKE_OVER
};

static const struct option options[] = {{"config", required_argument, NULL, 'c'},
	{"set", required_argument, NULL, 's'}, {"data", required_argument, NULL, OPT_DATA},
	{"https", required_argument, NULL, OPT_HTTPS}, {"http", required_argument, NULL, OPT_HTTP},
	{"lmtp", required_argument, NULL, OPT_LMTP}, {"admin", required_argument, NULL, OPT_ADMIN},
	{"self-signed", no_argument, NULL, OPT_SELF},
	{"check-config", no_argument, NULL, OPT_CHECK},
	{"print-config", no_argument, NULL, OPT_PRINT},
	{"handover-version", no_argument, NULL, OPT_HANDOVER},
	{"take-over", required_argument, NULL, OPT_TAKE_OVER}, {"version", no_argument, NULL, 'V'},
	{"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};

static const char *alias(int option)
{
	switch (option) {
	case OPT_DATA:
		return "store.dir";
	case OPT_HTTPS:
		return "listen.https";
	case OPT_HTTP:
		return "listen.http";
	case OPT_LMTP:
		return "listen.lmtp";
	case OPT_ADMIN:
		return "listen.admin";
	default:
		return "";
	}
}

/* The path that we were started by, not what it led to then: at an upgrade it may lead to a newer
 * program. Only where it does not lead to us now (a name found in PATH) is the file itself meant.
 */
static const char *own_program(const char *name)
{
	static char path[PATH_MAX];
	struct stat ours, named;
	char here[PATH_MAX];
	ssize_t n;

	if (strchr(name, '/') && stat("/proc/self/exe", &ours) == 0 && stat(name, &named) == 0 &&
		ours.st_dev == named.st_dev && ours.st_ino == named.st_ino) {
		if (name[0] == '/')
			n = snprintf(path, sizeof(path), "%s", name);
		else if (getcwd(here, sizeof(here)))
			n = snprintf(path, sizeof(path), "%s/%s", here, name);
		else
			n = -1;
		if (n > 0 && n < (ssize_t)sizeof(path))
			return path;
	}
	n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = 0;
	return path;
}

static char **arguments_again(int argc, char **argv)
{
	char **again = calloc((size_t)argc + 1, sizeof(*again));
	int n = 0;

	CHECK(again);
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--take-over") == 0 && i + 1 < argc)
			i++;
		else
			again[n++] = argv[i];
	}
	return again;
}

static void alive(void)
{
	tell_systemd("WATCHDOG=1");
}

static bool upgrade(struct server *server, const struct arguments *args)
{
	struct upgrade_result r;
	char state[64];

	if (!server_upgrade(server, args->program, args->again, alive, &r))
		return false;
	/* The last that we may say: from here on the other is the main process. */
	snprintf(state, sizeof(state), "MAINPID=%ld\nREADY=1", (long)r.pid);
	tell_systemd(state);
	return true;
}

enum ending { ENDING_ASKED, ENDING_TAKEN_OVER, ENDING_STORE_LOST };

/* Returns when it is time to end. */
static enum ending wait_for_signals(
	struct server *server, const struct arguments *args, const sigset_t *set)
{
	const struct timespec pause = {.tv_sec = 2};
	char why[512];

	for (;;) {
		int sig = sigtimedwait(set, NULL, &pause);

		if (sig == SIGTERM || sig == SIGINT)
			return ENDING_ASKED;
		if (sig == SIGUSR2 && upgrade(server, args))
			return ENDING_TAKEN_OVER;
		if (sig == SIGHUP) {
			tell_systemd("RELOADING=1");
			server_reload(server, why, sizeof(why));
			tell_systemd("READY=1");
		}
		if (!server_housekeeping(server))
			return ENDING_STORE_LOST;
		tell_systemd("WATCHDOG=1");
	}
}

/* --check-config and --print-config. */
static int show_config(struct arguments *args, bool print)
{
	char why[1024] = "";
	struct config *c = read_config(args, why, sizeof(why));

	if (!c) {
		fprintf(stderr, "roostd: %s\n", why);
		return 1;
	}
	if (print)
		config_print(c, stdout);
	else
		printf("configuration is good\n");
	config_free(&c);
	return 0;
}

/* Of the process that was started, not of its successors: it must not end before them. False: nobody
 * minds when it does. */
static bool stays(const struct arguments *args, const struct server *server, char *lock, size_t cap)
{
	const struct config *c = atomic_load(&server->config);

	snprintf(lock, cap, "%s/lock", c->store_dir);
	return args->take_over_fd < 0 && (getpid() == 1 || c->core_stay) &&
	       prctl(PR_SET_CHILD_SUBREAPER, 1) == 0;
}

static int serve(struct arguments *args)
{
	struct take_over *take = NULL;
	struct server *server = NULL;
	char why[1024] = "", lock[PATH_MAX];
	enum ending ending;
	bool stay;
	sigset_t set;

	/* Signals are taken by the main thread only; threads inherit the mask. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Mail and password hashes of everybody are in memory: no core files, no ptrace. */
	if (!getenv("ROOST_DUMPABLE"))
		prctl(PR_SET_DUMPABLE, 0);
	log_set_priority_prefix(getenv("JOURNAL_STREAM") != NULL);
	log_start();
	log_msg(LOG_INFO, "start version=%s commit=%s tls=\"%s\"", roost_version, roost_commit,
		tls_library());
	if (args->take_over_fd >= 0)
		take = take_over_begin(args->take_over_fd, why, sizeof(why));
	if (take || args->take_over_fd < 0)
		server = server_start(read_config, args, take, why, sizeof(why));
	if (!server) {
		log_stop();
		fprintf(stderr, "roostd: %s\n", why);
		return 1;
	}
	fprintf(stderr, "roostd ready\n");
	if (!take)
		tell_systemd("READY=1");
	stay = stays(args, server, lock, sizeof(lock));
	ending = wait_for_signals(server, args, &set);
	if (ending == ENDING_TAKEN_OVER) {
		server_leave(&server);
		if (stay)
			log_msg(LOG_INFO, "upgrade: this process stays until the server ends");
	} else {
		tell_systemd("STOPPING=1");
		server_stop(&server);
	}
	log_stop();
	if (ending == ENDING_TAKEN_OVER && stay)
		return minder_run(lock, &set);
	return ending == ENDING_STORE_LOST;
}

int main(int argc, char **argv)
{
	struct arguments args = {
		.take_over_fd = -1,
		.program = own_program(argv[0] ? argv[0] : ""),
	};
	uint64_t fd;
	bool check = false, print = false, ok = true;
	int o, code = 0;

	while ((o = getopt_long(argc, argv, "c:s:Vh", options, NULL)) != -1) {
		switch (o) {
		case 'c':
			args.file = optarg;
			break;
		case 's':
		case OPT_DATA:
		case OPT_HTTPS:
		case OPT_HTTP:
		case OPT_LMTP:
		case OPT_ADMIN:
			ok = add_set(&args, alias(o), optarg);
			break;
		case OPT_SELF:
			ok = add_set(&args, "tls.self_signed", "true");
			break;
		case OPT_CHECK:
			check = true;
			break;
		case OPT_PRINT:
			print = true;
			break;
		case OPT_HANDOVER:
			printf("%d\n", HANDOVER_FORMAT);
			goto out;
		case OPT_TAKE_OVER: /* (said by the predecessor only, so not in the usage) */
			ok = bytes_to_u64(bytes_str(optarg), 1 << 20, &fd);
			args.take_over_fd = ok ? (int)fd : -1;
			break;
		case 'V':
			printf("roostd %s (%s), %s\n", roost_version, roost_commit, tls_library());
			goto out;
		case 'h':
			fputs(usage, stdout);
			goto out;
		default:
			ok = false;
		}
		if (!ok)
			break;
	}
	if (ok && optind != argc) {
		fprintf(stderr, "roostd: what is '%s'?\n", argv[optind]);
		ok = false;
	}
	if (!ok) {
		fprintf(stderr, "roostd --help shows the options\n");
		code = EXIT_USAGE;
	} else if (check || print) {
		code = show_config(&args, print);
	} else {
		/* (with nothing but options there was nothing for getopt to sort) */
		args.again = arguments_again(argc, argv);
		code = serve(&args);
		free(args.again);
	}
out:
	for (unsigned i = 0; i < args.set_count; i++)
		free(args.sets[i]);
	return code;
}
