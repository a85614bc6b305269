/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roostctl - the administrator's program: verbs, options, help. */
#include "core/admin/admin_priv.h"
#include "core/admin/ctl.h"
#include "core/base/check.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "core/version.h"
#include "store/check.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- the rest ------------------------------------------------------------------------ */

static enum ctl_exit backup(char **args)
{
	char reason[600] = "";
	bool made;
	enum ctl_exit code;
	int err;

	/* As whoever runs this: the copy goes to a directory of his. */
	if ((code = ctl_open_store_as(false, false)) != CTL_DONE)
		return code;
	made = mkdir(args[0], 0700) == 0;
	if (!made && errno != EEXIST)
		return ctl_complain(CTL_FAILED, "cannot make %s: %s", args[0], strerror(errno));
	err = db_backup(ctl.db, args[0], reason, sizeof(reason));
	if (err != 0) {
		if (made)
			rmdir(args[0]);
		return ctl_complain(err == DB_EXISTS ? CTL_EXISTS : CTL_FAILED, "%s",
			reason[0] ? reason : db_strerror(err));
	}
	ctl_say("backup written to %s; to restore it, stop the server and put its files into the "
		"data directory",
		args[0]);
	return CTL_DONE;
}

static enum ctl_exit check(char **args)
{
	enum ctl_exit code = ctl_open_store();
	int wrong;

	(void)args;
	if (code != CTL_DONE)
		return code;
	wrong = store_check(ctl.db, stdout);
	if (wrong < 0)
		return ctl_store_failed(wrong);
	if (wrong > 0)
		return ctl_complain(CTL_FAILED, "%d contradiction(s) in the store", wrong);
	ctl_say("the store is sound");
	return CTL_DONE;
}

static enum ctl_exit config_example(char **args)
{
	(void)args;
	config_print_example(stdout);
	return CTL_DONE;
}

static enum ctl_exit config_man(char **args)
{
	(void)args;
	config_print_manual(stdout);
	return CTL_DONE;
}

static enum ctl_exit config_check_file(char **args)
{
	const char *path = args[0]           ? args[0]
			   : ctl.config_path ? ctl.config_path
					     : CONFIG_PATH_DEFAULT;
	struct config *c = config_new();
	char reason[600];
	bool ok = config_read_file(c, path, reason, sizeof(reason)) &&
		  config_read_environment(c, environ, reason, sizeof(reason)) &&
		  config_check(c, reason, sizeof(reason));

	config_free(&c);
	if (!ok)
		return ctl_complain(CTL_FAILED, "%s", reason);
	ctl_say("%s is good", path);
	return CTL_DONE;
}

static enum ctl_exit config_show(char **args)
{
	(void)args;
	config_print(ctl.config, stdout);
	return CTL_DONE;
}

/* --- verbs --------------------------------------------------------------------------- */

static const struct verb {
	const char *words[2]; /* "user", "add"; the second may be NULL */
	const char *usage;
	unsigned options;
	int args_min, args_max;
	bool config; /* needs to know the configuration */
	enum ctl_exit (*run)(char **args);
	const char *help;
} verbs[] = {
	{{"user", "add"}, "ADDRESS [--password-stdin] [--name NAME]", OPT_PASSWORD | OPT_NAME, 1, 1,
		true, ctl_user_add,
		"Adds an account with the standard folders. Without --password-stdin the password "
		"is asked for twice. Makes an empty store when there is none."},
	{{"user", "list"}, "[--json]", OPT_JSON, 0, 0, true, ctl_user_list, "Lists the accounts."},
	{{"user", "passwd"}, "ADDRESS [--password-stdin]", OPT_PASSWORD, 1, 1, true,
		ctl_user_passwd,
		"Sets a new password. The old one stops to work at once, in a running server too."},
	{{"user", "disable"}, "ADDRESS", 0, 1, 1, true, ctl_user_disable,
		"Lets the account's phones in no more (403). Mail is still delivered to nobody: "
		"LMTP refuses it."},
	{{"user", "enable"}, "ADDRESS", 0, 1, 1, true, ctl_user_enable, "Undoes disable."},
	{{"user", "del"}, "ADDRESS [--yes]", OPT_YES, 1, 1, true, ctl_user_del,
		"Deletes the account with all its mail and devices. On a terminal it asks first, "
		"without --yes."},
	{{"deliver", NULL}, "ADDRESS [--folder FOLDER] < mail.eml", OPT_FOLDER, 1, 1, true,
		ctl_deliver,
		"Puts the message on standard input into the inbox, or another mail folder, and "
		"wakes the phones that wait for it."},
	{{"change", NULL}, "ADDRESS FOLDER", 0, 2, 2, true, ctl_change,
		"Wakes the phones that wait for this folder (a name in any case, or an id), as if "
		"it had changed."},
	{{"device", "list"}, "[-u ADDRESS] [--json]", OPT_USER | OPT_JSON, 0, 0, true,
		ctl_device_list, "Lists the devices, of one account or of all."},
	{{"device", "show"}, "ID [-u ADDRESS] [--json]", OPT_USER | OPT_JSON, 1, 1, true,
		ctl_device_show, "Shows all that is known of a device."},
	{{"device", "remove"}, "ID [-u ADDRESS]", OPT_USER, 1, 1, true, ctl_device_remove,
		"Forgets a device. Should it come again, it begins anew."},
	{{"device", "block"}, "ID [-u ADDRESS]", OPT_USER, 1, 1, true, ctl_device_block,
		"Lets this device in no more; its hanging requests end at once."},
	{{"device", "unblock"}, "ID [-u ADDRESS]", OPT_USER, 1, 1, true, ctl_device_unblock,
		"Undoes block."},
	{{"ping", "list"}, "[-u ADDRESS] [--device ID] [--limit N] [--json]",
		OPT_USER | OPT_DEVICE | OPT_LIMIT | OPT_JSON, 0, 0, true, ctl_ping_list,
		"Lists the requests that hang now, newest first. Asks the running server."},
	{{"top", NULL}, "[--once] [-u ADDRESS] [--limit N] [--json]",
		OPT_ONCE | OPT_USER | OPT_LIMIT | OPT_JSON, 0, 0, true, ctl_top,
		"Shows what the server is doing, every second; q ends it. Asks the running "
		"server."},
	{{"why", NULL}, "REQUEST-ID [--json]", OPT_JSON, 1, 1, true, ctl_why,
		"Explains a refusal. The id is in the response's headers, in its body "
		"and in the log. Asks the running server, which remembers the last 8192."},
	{{"stats", NULL}, "[--json]", OPT_JSON, 0, 0, true, ctl_stats,
		"Shows the counters of the running server."},
	{{"health", NULL}, "[--json]", OPT_JSON, 0, 0, true, ctl_health,
		"Succeeds when the running server is live and ready."},
	{{"reload", NULL}, "", 0, 0, 0, true, ctl_reload,
		"Has the running server read its configuration and certificates again."},
	{{"stop", NULL}, "", 0, 0, 0, true, ctl_stop,
		"Has the running server answer what is under way and stop."},
	{{"upgrade", NULL}, "[--drain] [--json]", OPT_DRAIN | OPT_JSON, 0, 0, true, ctl_upgrade,
		"Replaces the running server by the program that is now in its place, with every "
		"connection: no phone notices. When the new program does not come up, the old one "
		"goes on. With --drain a program that cannot take the hanging requests over takes "
		"the new ones, and the old ones are ended bit by bit (core.upgrade_pace_s)."},
	{{"backup", NULL}, "DIR", 0, 1, 1, true, backup,
		"Writes a consistent copy of the store into an empty directory, which is made when "
		"it is not there. The server may go on meanwhile."},
	{{"check", NULL}, "", 0, 0, 0, true, check,
		"Reads the whole store and tells every contradiction. The server may go on "
		"meanwhile."},
	{{"config", "check"}, "[FILE]", 0, 0, 1, false, config_check_file,
		"Says whether the configuration file is good, or the first thing that is not."},
	{{"config", "show"}, "", 0, 0, 0, true, config_show,
		"Prints the values in force: file, environment, --data."},
	{{"config", "example"}, "", 0, 0, 0, false, config_example,
		"Prints an example file, which explains every setting."},
	{{"config", "man"}, "", 0, 0, 0, false, config_man,
		"Prints the list of settings for roost.conf(5), as scdoc source."},
};

static const char global_help[] =
	"Options of every verb:\n"
	"  --data DIR       the data directory; else ROOST_STORE_DIR, else store.dir of the\n"
	"                   configuration\n"
	"  --config FILE    the configuration, else " CONFIG_PATH_DEFAULT " when it is there\n"
	"  --socket PATH    the control socket, else DIR/control\n"
	"  --json           for all that lists or shows\n"
	"  -h, --help       help, also for one verb: roostctl user add --help\n"
	"  --version\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 already exists,\n"
	"5 the server is not running.\n";

static void print_verb(FILE *f, const struct verb *v)
{
	fprintf(f, "  roostctl %s%s%s%s%s\n", v->words[0], v->words[1] ? " " : "",
		v->words[1] ? v->words[1] : "", v->usage[0] ? " " : "", v->usage);
}

static void print_help(FILE *f)
{
	fprintf(f,
		"roostctl looks after Roost: accounts, devices, mail, and the running server.\n\n");
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		print_verb(f, &verbs[i]);
	fprintf(f, "\n%s", global_help);
}

static void print_verb_help(const struct verb *v)
{
	const char *text = v->help;
	size_t at = 0;

	print_verb(stdout, v);
	putchar('\n');
	while (*text) {
		size_t n = strcspn(text, " ");

		if (at && at + 1 + n > 78) {
			putchar('\n');
			at = 0;
		}
		at += (size_t)printf("%s%.*s", at ? " " : "", (int)n, text);
		text += n;
		text += *text == ' ';
	}
	printf("\n\n%s", global_help);
}

/* `words_out`: how many of the words the verb took. NULL after saying what is wrong. */
static const struct verb *find_verb(char **words, int n, int *words_out)
{
	bool group = false;

	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		const struct verb *v = &verbs[i];

		if (strcmp(words[0], v->words[0]) != 0)
			continue;
		group = true;
		if (v->words[1] && (n < 2 || strcmp(words[1], v->words[1]) != 0))
			continue;
		*words_out = v->words[1] ? 2 : 1;
		return v;
	}
	if (!group) {
		ctl_complain(
			CTL_USAGE, "there is no verb %s (roostctl --help lists them)", words[0]);
		return NULL;
	}
	ctl_complain(CTL_USAGE,
		n < 2 ? "%s needs a second word:" : "%s has no such second word; there are:",
		words[0]);
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (strcmp(words[0], verbs[i].words[0]) == 0)
			print_verb(stderr, &verbs[i]);
	return NULL;
}

enum {
	L_DATA = 256,
	L_CONFIG,
	L_SOCKET,
	L_VERSION,
	L_PASSWORD,
	L_NAME,
	L_FOLDER,
	L_JSON,
	L_ONCE,
	L_LIMIT,
	L_DEVICE,
	L_YES,
	L_DRAIN
};

static const struct option long_options[] = {{"data", required_argument, NULL, L_DATA},
	{"config", required_argument, NULL, L_CONFIG},
	{"socket", required_argument, NULL, L_SOCKET}, {"version", no_argument, NULL, L_VERSION},
	{"help", no_argument, NULL, 'h'}, {"password-stdin", no_argument, NULL, L_PASSWORD},
	{"name", required_argument, NULL, L_NAME}, {"folder", required_argument, NULL, L_FOLDER},
	{"user", required_argument, NULL, 'u'}, {"json", no_argument, NULL, L_JSON},
	{"once", no_argument, NULL, L_ONCE}, {"drain", no_argument, NULL, L_DRAIN},
	{"limit", required_argument, NULL, L_LIMIT}, {"device", required_argument, NULL, L_DEVICE},
	{"yes", no_argument, NULL, L_YES}, {0}};

static const struct {
	unsigned bit;
	const char *name;
} option_names[] = {{OPT_PASSWORD, "--password-stdin"}, {OPT_NAME, "--name"},
	{OPT_FOLDER, "--folder"}, {OPT_USER, "-u"}, {OPT_JSON, "--json"}, {OPT_ONCE, "--once"},
	{OPT_LIMIT, "--limit"}, {OPT_DEVICE, "--device"}, {OPT_YES, "--yes"},
	{OPT_DRAIN, "--drain"}};

static enum ctl_exit run(int argc, char **argv)
{
	const struct verb *v;
	bool help = false;
	char **words;
	int c, n, taken;
	enum ctl_exit code;

	while ((c = getopt_long(argc, argv, "hu:", long_options, NULL)) != -1) {
		switch (c) {
		case L_DATA:
			ctl.data = optarg;
			break;
		case L_CONFIG:
			ctl.config_path = optarg;
			break;
		case L_SOCKET:
			ctl.socket = optarg;
			break;
		case L_VERSION:
			printf("roostctl %s (%s)\n", roost_version, roost_commit);
			return CTL_DONE;
		case 'h':
			help = true;
			break;
		case L_PASSWORD:
			ctl.given |= OPT_PASSWORD;
			break;
		case L_NAME:
			ctl.given |= OPT_NAME;
			ctl.name = optarg;
			break;
		case L_FOLDER:
			ctl.given |= OPT_FOLDER;
			ctl.folder = optarg;
			break;
		case 'u':
			ctl.given |= OPT_USER;
			ctl.user = optarg;
			break;
		case L_JSON:
			ctl.given |= OPT_JSON;
			break;
		case L_ONCE:
			ctl.given |= OPT_ONCE;
			break;
		case L_LIMIT:
			ctl.given |= OPT_LIMIT;
			if (!bytes_to_u64(bytes_str(optarg), CONTROL_ROWS_MAX, &ctl.limit))
				return ctl_complain(CTL_USAGE, "--limit %s: allowed: 0 to %d",
					optarg, CONTROL_ROWS_MAX);
			break;
		case L_DEVICE:
			ctl.given |= OPT_DEVICE;
			ctl.device = optarg;
			break;
		case L_DRAIN:
			ctl.given |= OPT_DRAIN;
			break;
		case L_YES:
			ctl.given |= OPT_YES;
			break;
		default: /* getopt_long has said what is wrong */
			return CTL_USAGE;
		}
	}
	words = argv + optind;
	n = argc - optind;
	if (n == 0) {
		print_help(help ? stdout : stderr);
		return help ? CTL_DONE : CTL_USAGE;
	}
	v = find_verb(words, n, &taken);
	if (!v)
		return CTL_USAGE;
	if (help) {
		print_verb_help(v);
		return CTL_DONE;
	}
	for (size_t i = 0; i < ARRAY_LEN(option_names); i++)
		if (ctl.given & ~v->options & option_names[i].bit) {
			ctl_complain(
				CTL_USAGE, "%s is no option of this verb:", option_names[i].name);
			print_verb(stderr, v);
			return CTL_USAGE;
		}
	if (n - taken < v->args_min || n - taken > v->args_max) {
		ctl_complain(CTL_USAGE, n - taken < v->args_min ? "an argument is missing:"
								: "there are too many arguments:");
		print_verb(stderr, v);
		return CTL_USAGE;
	}
	code = v->config ? ctl_load_config() : CTL_DONE;
	return code == CTL_DONE ? v->run(words + taken) : code;
}

int main(int argc, char **argv)
{
	enum ctl_exit code;

	/* UTF-8 whatever the locale: names are, and the log and JSON are. */
	setlocale(LC_CTYPE, "C.UTF-8");
	log_set_level(LOG_WARNING);
	code = run(argc, argv);
	if (ctl.db)
		db_close(&ctl.db);
	config_free(&ctl.config);
	if (fflush(stdout) != 0 || ferror(stdout))
		code = ctl_complain(CTL_FAILED, "cannot write: %s", strerror(errno));
	return (int)code;
}
