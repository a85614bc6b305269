/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roost-phone: one simulated phone that does what a script of verbs says and tells what happened.
 */
#include "bench/client.h"
#include "bench/eas_request.h"
#include "bench/lmtp_send.h"
#include "core/base/arena.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/version.h"
#include "store/db.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum exit_code {
	EXIT_OK = 0,
	EXIT_STEP = 1,
	EXIT_USAGE = 2,
	EXIT_CONNECTION = 3,
	EXIT_AUTH = 4,
	EXIT_TIMEOUT = 5,
};

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

#define VERBS(X)                                                                                   \
	X(OPTIONS, "options")                                                                      \
	X(PROVISION, "provision")                                                                  \
	X(FOLDERSYNC, "foldersync")                                                                \
	X(SYNC, "sync")                                                                            \
	X(PING, "ping")                                                                            \
	X(PING_CACHED, "ping-cached")                                                              \
	X(WAIT_FOR_CHANGE, "wait-for-change")                                                      \
	X(SYNC_WAIT, "sync-wait")                                                                  \
	X(FETCH, "fetch")                                                                          \
	X(MARK_READ, "mark-read")                                                                  \
	X(MARK_UNREAD, "mark-unread")                                                              \
	X(DELETE, "delete")                                                                        \
	X(ESTIMATE, "estimate")                                                                    \
	X(SETTINGS, "settings")                                                                    \
	X(SLEEP, "sleep")                                                                          \
	X(DISCONNECT, "disconnect")

enum verb {
#define X(id, name) VERB_##id,
	VERBS(X)
#undef X
		VERB_COUNT
};
static const char *const verb_names[] = {
#define X(id, name) [VERB_##id] = (name),
	VERBS(X)
#undef X
};

enum {
	STEPS_MAX = 256,
	FOLDERS_MAX = 256,
	KEY_MAX = 64,
	SYNC_ROUNDS_MAX = 10000,
	/* An answer this soon means that the request never hung: so "parked" is said a little
	 * after the request has left, and only then. */
	PARKED_AFTER_MS = 50,
	RECONNECT_S_MAX = 60,
};

struct step {
	enum verb verb;
	double seconds; /* sleep */
};

struct folder {
	char id[KEY_MAX + 1], key[KEY_MAX + 1];
	char name[128];
	uint32_t type;
	bool watched;
};

struct phone_app {
	/* from the command line */
	struct client_address server;
	const char *user, *password, *state_file, *lmtp, *data_dir;
	char device_id[EAS_DEVICE_ID_MAX + 1];
	const char *folder_list, *ca_file;
	uint32_t heartbeat_s, timeout_s, window, truncation_bytes;
	uint64_t count;
	uint8_t body_type, filter_type;
	bool json, verbose, insecure, keep_going, reconnect, version_given;
	struct step steps[STEPS_MAX];
	size_t step_count;

	/* the phone's memory */
	struct phone_identity who;
	char authorization[1024], host_header[300];
	char hierarchy_key[KEY_MAX + 1];
	struct folder folders[FOLDERS_MAX];
	size_t folder_count;
	char item_folder[KEY_MAX + 1], item[KEY_MAX + 1]; /* newest one seen */

	/* under way */
	struct client *client;
	struct db *db;
	uint64_t start_ns;
	size_t at; /* step */
	uint64_t rounds_done;
	bool running;   /* the step has a request outstanding or is asleep */
	uint32_t phase; /* of a step with several requests */
	uint32_t sync_rounds, sync_items;
	uint64_t request_ns, sent_ns;
	struct buf request, document;
	bool hangs;  /* the request may park */
	bool parked; /* said so */
	uint64_t parked_due_ms, wake_at_ms;
	uint64_t reconnect_until_ms;
	uint32_t answers; /* on this connection */
	bool repeated;    /* the request has been sent twice already */
	bool lmtp_started, lmtp_running;
	pthread_t lmtp_thread;
	int result;
	bool over;
};

static volatile sig_atomic_t interrupted;
static struct client *signal_client;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
	if (signal_client)
		client_stop(signal_client);
}

/* ---- telling ---- */

/* One line of the timeline, or one object; takes `fields` (NULL: none). */
__attribute__((format(printf, 6, 7))) static void tell_at(struct phone_app *a, uint64_t at_ns,
	const char *step, const char *event, json_t *fields, const char *fmt, ...)
{
	uint64_t t_us = at_ns > a->start_ns ? (at_ns - a->start_ns) / 1000 : 0;
	va_list ap;

	if (a->json) {
		json_t *o = json_pack("{s:I, s:s, s:s, s:I}", "t_us", (json_int_t)t_us, "step",
			step, "event", event, "mono_ns", (json_int_t)at_ns);

		CHECK(o);
		if (fields)
			json_object_update(o, fields);
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	} else {
		printf("%4llu.%06llu  %-15s ", (unsigned long long)(t_us / 1000000),
			(unsigned long long)(t_us % 1000000), step);
		va_start(ap, fmt);
		vprintf(fmt, ap);
		va_end(ap);
		putchar('\n');
	}
	json_decref(fields);
	fflush(stdout);
}

#define tell(a, step, event, fields, ...)                                                          \
	tell_at((a), clock_mono_ns(), (step), (event), (fields), __VA_ARGS__)

static json_t *json_bytes(struct bytes b)
{
	json_t *j = json_stringn((const char *)b.p, b.n);

	return j ? j : json_string("(not UTF-8)");
}

static void show_document(struct phone_app *a, const char *direction, struct bytes document)
{
	FILE *to = a->json ? stderr : stdout;
	struct buf xml = {0};

	if (!a->verbose)
		return;
	if (document.n == 0) {
		fprintf(to, "   %s (no body)\n", direction);
	} else {
		int ok = wbxml_to_xml(document, &xml);
		size_t line = 0;

		if (ok < 0 && xml.n == 0)
			fprintf(to, "   %s (%zu bytes, not WBXML)\n", direction, document.n);
		for (size_t i = 0; i < xml.n; i++) {
			if (xml.p[i] != '\n')
				continue;
			fprintf(to, "   %s %.*s\n", direction, (int)(i - line),
				(const char *)xml.p + line);
			line = i + 1;
		}
	}
	buf_free(&xml);
	fflush(to);
}

/* The first line that says something, short, without what could move a terminal's cursor. */
static const char *first_line(struct bytes text, char out[80])
{
	size_t n = 0, i = 0;

	if (!text.p)
		text.n = 0;
	while (i < text.n && (text.p[i] == '\n' || text.p[i] == '\r' || text.p[i] == ' '))
		i++;
	for (; i < text.n && text.p[i] != '\n' && text.p[i] != '\r'; i++) {
		uint8_t c = text.p[i];

		if (n >= 70) {
			/* Not inside a character. */
			while (n > 0 && ((uint8_t)out[n - 1] & 0xc0) == 0x80)
				n--;
			if (n > 0 && (uint8_t)out[n - 1] >= 0xc0)
				n--;
			memcpy(out + n, "...", 3);
			n += 3;
			break;
		}
		out[n++] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
	}
	out[n] = 0;
	return out;
}

static const char *step_name(const struct phone_app *a)
{
	return a->at < a->step_count ? verb_names[a->steps[a->at].verb] : "end";
}

/* ---- the script ---- */

static void step_start(struct phone_app *a);

static void finish(struct phone_app *a, int result)
{
	if (a->over)
		return;
	a->over = true;
	if (a->result == EXIT_OK || result != EXIT_OK)
		a->result = result != EXIT_OK ? result : a->result;
	client_close(a->client, 0);
	if (!a->lmtp_running)
		client_stop(a->client);
}

static bool verb_waits(enum verb v)
{
	return v == VERB_PING || v == VERB_PING_CACHED || v == VERB_WAIT_FOR_CHANGE ||
	       v == VERB_SYNC_WAIT;
}

static void step_next(struct phone_app *a)
{
	a->running = false;
	a->phase = 0;
	a->at++;
	if (a->at == a->step_count) {
		size_t back = 0;

		while (back < a->step_count && !verb_waits(a->steps[back].verb))
			back++;
		a->rounds_done++;
		if (back == a->step_count || (a->count && a->rounds_done >= a->count)) {
			finish(a, EXIT_OK);
			return;
		}
		a->at = back;
	}
	step_start(a);
}

/* `fields` as for tell. */
__attribute__((format(printf, 4, 5))) static void step_failed(
	struct phone_app *a, int result, json_t *fields, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!fields)
		fields = json_object();
	json_object_set_new(fields, "reason", json_bytes(bytes_str(text)));
	json_object_set_new(fields, "exit_code", json_integer(result));
	tell(a, step_name(a), "failed", fields, "FAILED: %s", text);
	if (!a->keep_going || result == EXIT_CONNECTION) {
		finish(a, result);
		return;
	}
	a->result = a->result ? a->result : result;
	step_next(a);
}

static struct folder *folder_by_id(struct phone_app *a, struct bytes id)
{
	for (size_t i = 0; i < a->folder_count; i++)
		if (bytes_eq_str(id, a->folders[i].id))
			return &a->folders[i];
	return NULL;
}

static struct folder *folder_add(struct phone_app *a, struct bytes id)
{
	struct folder *f = folder_by_id(a, id);

	if (f || a->folder_count == FOLDERS_MAX)
		return f;
	f = &a->folders[a->folder_count];
	*f = (struct folder){.key = "0"};
	if (!bytes_to_strz(id, f->id, sizeof(f->id)))
		return NULL;
	a->folder_count++;
	return f;
}

/* Which folders --folders means, as far as they are known by now. */
static void folders_choose(struct phone_app *a)
{
	const char *list = a->folder_list;

	for (size_t i = 0; i < a->folder_count; i++) {
		struct folder *f = &a->folders[i];

		/* Before a FolderSync there are no types, but the inbox is 1 here as good as ever.
		 */
		f->watched = list ? strcmp(list, "all") == 0
				  : f->type == 2 || (f->type == 0 && strcmp(f->id, "1") == 0);
	}
	if (!list && a->folder_count == 0)
		list = "1";
	while (list && *list && strcmp(list, "all") != 0) {
		size_t n = strcspn(list, ",");
		struct folder *f = folder_add(a, bytes_of(list, n));

		if (f)
			f->watched = true;
		list += n + (list[n] == ',');
	}
}

static json_t *watched_json(const struct phone_app *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched)
			json_array_append_new(list, json_string(a->folders[i].id));
	return list;
}

static void sync_folder(const struct phone_app *a, const struct folder *f, struct phone_sync *out)
{
	*out = (struct phone_sync){
		.folder = bytes_str(f->id),
		.key = bytes_str(f->key),
		.window = a->window,
		.prime = strcmp(f->key, "0") == 0,
		.filter_type = f->type <= 6 || f->type == 12 ? a->filter_type : 0,
		.body_type = a->body_type,
		.truncation_bytes = a->truncation_bytes,
	};
}

/* Folders that still need key 0 go first and alone: a priming request carries nothing else. */
static size_t sync_folders(const struct phone_app *a, struct phone_sync out[FOLDERS_MAX])
{
	size_t n = 0;
	bool prime = false;

	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched && strcmp(a->folders[i].key, "0") == 0)
			prime = true;
	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched && (strcmp(a->folders[i].key, "0") == 0) == prime)
			sync_folder(a, &a->folders[i], &out[n++]);
	return n;
}

static size_t ping_folders(const struct phone_app *a, struct bytes out[FOLDERS_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < a->folder_count; i++)
		if (a->folders[i].watched)
			out[n++] = bytes_str(a->folders[i].id);
	return n;
}

static void send_request(struct phone_app *a)
{
	uint32_t timeout_s = a->timeout_s + (a->hangs ? a->heartbeat_s : 0);

	a->request_ns = clock_mono_ns();
	a->sent_ns = 0;
	a->parked = false;
	a->parked_due_ms = 0;
	if (client_is_open(a->client, 0))
		client_request(a->client, 0, buf_bytes(&a->request), timeout_s);
	else
		client_open(a->client, 0); /* on_opened sends it */
}

static void post(struct phone_app *a, enum eas_command command)
{
	a->request.n = 0;
	phone_request(&a->who, command, buf_bytes(&a->document), &a->request);
	CHECK(!a->request.failed && !a->document.failed);
	show_document(a, ">", buf_bytes(&a->document));
	a->repeated = false;
	send_request(a);
}

static bool need_item(struct phone_app *a)
{
	if (a->item[0])
		return true;
	step_failed(a, EXIT_STEP, NULL, "no item seen yet: sync first");
	return false;
}

/* Builds and sends the request of the step's phase. */
static void step_send(struct phone_app *a)
{
	struct phone_sync sync[FOLDERS_MAX];
	struct bytes ids[FOLDERS_MAX];
	struct folder *f;
	size_t n;
	enum verb v = a->steps[a->at].verb;

	a->document.n = 0;
	a->hangs = verb_waits(v);
	switch (v) {
	case VERB_OPTIONS:
		a->request.n = 0;
		phone_request_options(&a->who, &a->request);
		a->repeated = false;
		send_request(a);
		return;
	case VERB_PROVISION:
		if (a->phase == 0)
			phone_body_provision_ask(
				a->who.version, "Roost phone", a->who.user_agent, &a->document);
		else
			phone_body_provision_acknowledge(a->who.policy_key, &a->document);
		post(a, EAS_PROVISION);
		return;
	case VERB_FOLDERSYNC:
		phone_body_folder_sync(bytes_str(a->hierarchy_key), &a->document);
		post(a, EAS_FOLDER_SYNC);
		return;
	case VERB_SYNC:
	case VERB_SYNC_WAIT:
		n = sync_folders(a, sync);
		if (n == 0) {
			step_failed(a, EXIT_STEP, NULL, "no folder to sync: see --folders");
			return;
		}
		if (sync[0].prime)
			a->hangs = false;
		phone_body_sync(
			sync, n, a->who.version, a->hangs ? a->heartbeat_s : 0, &a->document);
		post(a, EAS_SYNC);
		return;
	case VERB_MARK_READ:
	case VERB_MARK_UNREAD:
	case VERB_DELETE:
		f = folder_by_id(a, bytes_str(a->item_folder));
		if (!f || !need_item(a))
			return;
		sync_folder(a, f, &sync[0]);
		sync[0].command = v == VERB_DELETE      ? PHONE_SYNC_DELETE
				  : v == VERB_MARK_READ ? PHONE_SYNC_MARK_READ
							: PHONE_SYNC_MARK_UNREAD;
		sync[0].item = bytes_str(a->item);
		phone_body_sync(sync, 1, a->who.version, 0, &a->document);
		post(a, EAS_SYNC);
		return;
	case VERB_PING:
	case VERB_WAIT_FOR_CHANGE:
		n = ping_folders(a, ids);
		phone_body_ping(a->heartbeat_s, ids, n, &a->document);
		post(a, EAS_PING);
		return;
	case VERB_PING_CACHED:
		post(a, EAS_PING);
		return;
	case VERB_FETCH:
		if (!need_item(a))
			return;
		phone_body_fetch(bytes_str(a->item_folder), bytes_str(a->item),
			a->body_type ? a->body_type : 1, 0, &a->document);
		post(a, EAS_ITEM_OPERATIONS);
		return;
	case VERB_ESTIMATE:
		n = sync_folders(a, sync);
		phone_body_estimate(sync, n, a->who.version, &a->document);
		post(a, EAS_GET_ITEM_ESTIMATE);
		return;
	case VERB_SETTINGS:
		phone_body_settings("Roost phone", a->who.user_agent, &a->document);
		post(a, EAS_SETTINGS);
		return;
	case VERB_SLEEP:
		a->wake_at_ms = clock_mono_ms() + (uint64_t)(a->steps[a->at].seconds * 1000);
		return;
	case VERB_DISCONNECT:
		client_close(a->client, 0);
		tell(a, "disconnect", "closed", NULL, "connection closed");
		step_next(a);
		return;
	case VERB_COUNT:
		break;
	}
	CHECK(!"known verb");
}

static void step_start(struct phone_app *a)
{
	a->running = true;
	a->phase = 0;
	a->sync_rounds = a->sync_items = 0;
	folders_choose(a);
	step_send(a);
}

/* ---- answers ---- */

static json_t *answer_fields(struct phone_app *a, int http, uint64_t came_ns)
{
	return json_pack("{s:i, s:I}", "http", http, "took_us",
		(json_int_t)((came_ns - a->request_ns) / 1000));
}

/* The newest version both know. */
static void answer_options(
	struct phone_app *a, const struct http_answer *h, json_t *fields, double ms)
{
	static const int ours[] = {161, 160, 141, 140, 121};
	struct bytes versions = http_answer_field(h, "MS-ASProtocolVersions");
	struct bytes commands = http_answer_field(h, "MS-ASProtocolCommands");
	int best = 0;

	json_object_set_new(fields, "versions", json_bytes(versions));
	json_object_set_new(fields, "commands", json_bytes(commands));
	for (size_t k = 0; k < ARRAY_LEN(ours); k++) {
		struct bytes left = versions;

		while (left.n) {
			const uint8_t *comma = memchr(left.p, ',', left.n);
			size_t n = comma ? (size_t)(comma - left.p) : left.n;

			if (eas_version_parse(bytes_of(left.p, n)) == ours[k] &&
				(a->version_given ? ours[k] == a->who.version : best == 0))
				best = ours[k];
			left = bytes_of(left.p + n + (comma != NULL), left.n - n - (comma != NULL));
		}
	}
	if (versions.n == 0 || commands.n == 0) {
		step_failed(a, EXIT_STEP, fields,
			"the answer lacks MS-ASProtocolVersions or MS-ASProtocolCommands");
		return;
	}
	if (best == 0) {
		step_failed(a, EXIT_STEP, fields, "no common protocol version: the server has %.*s",
			(int)versions.n, (const char *)versions.p);
		return;
	}
	a->who.version = best;
	json_object_set_new(fields, "protocol", json_string(eas_version_name(best)));
	tell(a, "options", "answered", fields, "200 in %.1f ms: versions %.*s; using %s", ms,
		(int)versions.n, (const char *)versions.p, eas_version_name(best));
	step_next(a);
}

static void answer_provision(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	struct phone_provision p;

	if (!phone_read_provision(root, &p)) {
		step_failed(a, EXIT_STEP, fields, "not a Provision answer");
		return;
	}
	json_object_set_new(fields, "phase", json_integer(a->phase + 1));
	json_object_set_new(fields, "status", json_integer(p.status));
	json_object_set_new(fields, "policy_status", json_integer(p.policy_status));
	json_object_set_new(fields, "wipe", json_boolean(p.wipe || p.account_wipe));
	if (p.wipe || p.account_wipe) {
		step_failed(a, EXIT_STEP, fields, "the server orders a remote wipe");
		return;
	}
	if (p.status != 1 || p.policy_status != 1 || p.policy_key == 0) {
		step_failed(a, EXIT_STEP, fields, "status %u, policy status %u", p.status,
			p.policy_status);
		return;
	}
	a->who.policy_key = p.policy_key;
	json_object_set_new(fields, "policy_key", json_integer(p.policy_key));
	tell(a, "provision", "answered", fields, "phase %u in %.1f ms: %s policy key %u",
		a->phase + 1, ms, a->phase == 0 ? "policy received, temporary" : "accepted, final",
		p.policy_key);
	if (a->phase == 0) {
		a->phase = 1;
		step_send(a);
	} else {
		step_next(a);
	}
}

static void read_folder(struct phone_app *a, const struct wbxml_node *n)
{
	struct folder *f = folder_add(a, wbxml_text(n, FOLDERHIERARCHY_ServerId));
	struct bytes name = wbxml_text(n, FOLDERHIERARCHY_DisplayName);

	if (!f)
		return;
	bytes_to_strz(name, f->name, sizeof(f->name));
	wbxml_u32(wbxml_child(n, FOLDERHIERARCHY_Type), 255, &f->type);
	tell(a, "foldersync", "folder",
		json_pack("{s:s, s:i, s:o}", "folder", f->id, "type", (int)f->type, "name",
			json_bytes(name)),
		"  folder %s: %.*s (type %u)", f->id, (int)name.n, (const char *)name.p, f->type);
}

static void answer_folder_sync(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	struct phone_folder_sync s;
	struct folder *gone;

	if (!phone_read_folder_sync(root, &s)) {
		uint32_t status = s.status;

		json_object_set_new(fields, "status", json_integer(status));
		step_failed(a, EXIT_STEP, fields, "not a proper FolderSync answer");
		return;
	}
	json_object_set_new(fields, "status", json_integer(s.status));
	if (s.status == 9 && strcmp(a->hierarchy_key, "0") != 0) {
		tell(a, "foldersync", "key-lost", fields, "status 9: the key is void, from 0");
		strcpy(a->hierarchy_key, "0");
		a->folder_count = 0;
		step_send(a);
		return;
	}
	if (s.status != 1 || !bytes_to_strz(s.key, a->hierarchy_key, sizeof(a->hierarchy_key))) {
		step_failed(a, EXIT_STEP, fields, "status %u", s.status);
		return;
	}
	json_object_set_new(fields, "count", json_integer(s.count));
	json_object_set_new(fields, "key", json_string(a->hierarchy_key));
	tell(a, "foldersync", "answered", fields, "%u change%s in %.1f ms, key %s", s.count,
		s.count == 1 ? "" : "s", ms, a->hierarchy_key);
	for (const struct wbxml_node *n = s.changes ? s.changes->first : NULL; n; n = n->next) {
		if (n->tag == FOLDERHIERARCHY_Add || n->tag == FOLDERHIERARCHY_Update) {
			read_folder(a, n);
		} else if (n->tag == FOLDERHIERARCHY_Delete) {
			gone = folder_by_id(a, wbxml_text(n, FOLDERHIERARCHY_ServerId));
			if (!gone)
				continue;
			tell(a, "foldersync", "folder-gone", json_pack("{s:s}", "folder", gone->id),
				"  folder %s is gone", gone->id);
			*gone = a->folders[--a->folder_count];
		}
	}
	step_next(a);
}

static void tell_item(struct phone_app *a, const char *folder, const char *event, char sign,
	const struct wbxml_node *node)
{
	struct phone_item i;
	char subject[80], from[80], line[80];
	json_t *fields;

	phone_read_item(node, &i);
	fields = json_pack("{s:s, s:o}", "folder", folder, "item", json_bytes(i.id));
	if (i.subject.p)
		json_object_set_new(fields, "subject", json_bytes(i.subject));
	if (i.from.p)
		json_object_set_new(fields, "from", json_bytes(i.from));
	if (i.to.p)
		json_object_set_new(fields, "to", json_bytes(i.to));
	if (i.date.p)
		json_object_set_new(fields, "date", json_bytes(i.date));
	if (i.body.p) {
		json_object_set_new(fields, "body", json_bytes(i.body));
		json_object_set_new(fields, "body_type", json_integer(i.body_type));
		json_object_set_new(fields, "truncated", json_boolean(i.truncated));
	}
	if (i.has_read)
		json_object_set_new(fields, "read", json_boolean(i.read));
	if (i.attachments)
		json_object_set_new(fields, "attachments", json_integer(i.attachments));
	first_line(i.subject, subject);
	first_line(i.from, from);
	first_line(i.body, line);
	if (i.subject.p || i.from.p)
		tell(a, step_name(a), event, fields, "  %c1 '%s' from %s%s%s%s", sign, subject,
			from[0] ? from : "?", line[0] ? ", body '" : "", line, line[0] ? "'" : "");
	else
		tell(a, step_name(a), event, fields, "  %c1 item %.*s%s", sign, (int)i.id.n,
			(const char *)i.id.p, i.has_read ? (i.read ? " (read)" : " (unread)") : "");
}

static void read_collection(
	struct phone_app *a, struct folder *f, const struct wbxml_node *commands)
{
	static const struct {
		uint16_t tag;
		char sign;
		const char *event;
	} kinds[] = {
		{AIRSYNC_Add, '+', "add"},
		{AIRSYNC_Change, '~', "change"},
		{AIRSYNC_Delete, '-', "delete"},
		{AIRSYNC_SoftDelete, '-', "soft-delete"},
	};

	for (const struct wbxml_node *n = commands ? commands->first : NULL; n; n = n->next) {
		for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
			if (n->tag != kinds[k].tag)
				continue;
			a->sync_items++;
			tell_item(a, f->id, kinds[k].event, kinds[k].sign, n);
			if (k > 1)
				continue;
			bytes_to_strz(wbxml_text(n, AIRSYNC_ServerId), a->item, sizeof(a->item));
			memcpy(a->item_folder, f->id, sizeof(a->item_folder));
		}
	}
}

/* Responses hold failures of our own commands (and successes of Add and Fetch). */
static uint32_t first_failure(const struct wbxml_node *responses)
{
	for (const struct wbxml_node *n = responses ? responses->first : NULL; n; n = n->next) {
		uint32_t status = 1;

		wbxml_u32(wbxml_child(n, AIRSYNC_Status), UINT32_MAX, &status);
		if (status != 1)
			return status;
	}
	return 0;
}

static void answer_sync(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	const struct wbxml_node *at = NULL;
	struct phone_collection c;
	uint32_t status = 1, bad = 0, before = a->sync_items;
	bool again = false, primed = false, client_command;
	enum verb v = a->steps[a->at].verb;

	client_command = v == VERB_MARK_READ || v == VERB_MARK_UNREAD || v == VERB_DELETE;
	if (root && root->tag != AIRSYNC_Sync) {
		step_failed(a, EXIT_STEP, fields, "not a Sync answer");
		return;
	}
	if (root)
		status = phone_sync_status(root);
	json_object_set_new(fields, "status", json_integer(status));
	if (status != 1) {
		uint32_t limit = 0;

		if (wbxml_u32(wbxml_child(root, AIRSYNC_Limit), UINT32_MAX, &limit))
			json_object_set_new(fields, "limit", json_integer(limit));
		step_failed(a, EXIT_STEP, fields, "status %u", status);
		return;
	}
	while (phone_next_collection(root, &at, &c)) {
		struct folder *f = folder_by_id(a, c.folder);

		if (!f) {
			step_failed(a, EXIT_STEP, fields, "an answer for a folder not asked for");
			return;
		}
		if (c.status == 3 && strcmp(f->key, "0") != 0) {
			tell(a, step_name(a), "key-lost", json_pack("{s:s}", "folder", f->id),
				"  folder %s: status 3, the key is void, from 0", f->id);
			strcpy(f->key, "0");
			again = true;
			continue;
		}
		if (c.status != 1) {
			bad = c.status;
			json_object_set_new(fields, "folder", json_string(f->id));
			continue;
		}
		primed |= strcmp(f->key, "0") == 0;
		if (!bytes_to_strz(c.key, f->key, sizeof(f->key)) || f->key[0] == 0) {
			step_failed(a, EXIT_STEP, fields, "folder %s: no proper SyncKey", f->id);
			return;
		}
		read_collection(a, f, c.commands);
		again |= c.more;
		if (!bad)
			bad = first_failure(c.responses);
	}
	if (bad) {
		json_object_set_new(fields, "collection_status", json_integer(bad));
		step_failed(a, EXIT_STEP, fields, "collection or item status %u", bad);
		return;
	}
	json_object_set_new(fields, "items", json_integer(a->sync_items - before));
	json_object_set_new(fields, "primed", json_boolean(primed));
	if (primed)
		tell(a, step_name(a), "answered", fields, "primed in %.1f ms", ms);
	else
		tell(a, step_name(a), "answered", fields, "%u item%s in %.1f ms%s",
			a->sync_items - before, a->sync_items - before == 1 ? "" : "s", ms,
			again ? ", more to come" : "");
	if ((again || primed) && !client_command && ++a->sync_rounds < SYNC_ROUNDS_MAX)
		step_send(a);
	else
		step_next(a);
}

/* When the change was committed, by the page that the server shares (same clock). */
static uint64_t commit_time(struct phone_app *a, uint64_t came_ns)
{
	const struct db_notify *n = a->db ? db_notify(a->db) : NULL;
	uint64_t at;

	if (!n)
		return 0;
	at = db_commit_time_ns(a->db, atomic_load(&n->seq));
	return at > a->request_ns && at < came_ns ? at : 0;
}

static void answer_ping(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, uint64_t came_ns)
{
	struct phone_ping p;
	struct buf names = {0};
	json_t *changed;
	uint64_t commit_ns;
	double hung_ms = (double)(came_ns - a->request_ns) / 1e6;

	if (!phone_read_ping(root, &p)) {
		json_object_set_new(fields, "status", json_integer(p.status));
		step_failed(a, EXIT_STEP, fields, "not a proper Ping answer (status %u)", p.status);
		return;
	}
	json_object_set_new(fields, "status", json_integer(p.status));
	json_object_set_new(fields, "was_parked", json_boolean(a->parked));
	switch (p.status) {
	case 1:
		tell(a, step_name(a), "expired", fields, "heartbeat over after %.1f s, no change",
			hung_ms / 1000);
		break;
	case 2:
		changed = json_array();
		for (const struct wbxml_node *n = wbxml_child(p.folders, PING_Folder); n;
			n = wbxml_next_of(n, PING_Folder)) {
			json_array_append_new(changed, json_bytes(n->text));
			buf_printf(&names, "%s%.*s", names.n ? ", " : "", (int)n->text.n,
				(const char *)n->text.p);
		}
		buf_add_byte(&names, 0);
		json_object_set_new(fields, "folders", changed);
		commit_ns = commit_time(a, came_ns);
		if (commit_ns) {
			json_object_set_new(fields, "commit_to_phone_us",
				json_real((double)(came_ns - commit_ns) / 1000));
			tell_at(a, commit_ns, step_name(a), "committed",
				json_pack("{s:I}", "seq",
					(json_int_t)atomic_load(&db_notify(a->db)->seq)),
				"change committed by the server");
			tell_at(a, came_ns, step_name(a), a->parked ? "woken" : "answered", fields,
				"woken: folder %s changed; %.0f us after the commit", names.p,
				(double)(came_ns - commit_ns) / 1000);
		} else {
			tell_at(a, came_ns, step_name(a), a->parked ? "woken" : "answered", fields,
				"%s: folder %s changed%s", a->parked ? "woken" : "answered at once",
				names.p, a->parked ? "" : " before");
		}
		buf_free(&names);
		break;
	case 7:
		tell(a, step_name(a), "answered", fields,
			"status 7: the folder tree changed, FolderSync first");
		break;
	default:
		if (p.heartbeat_s)
			json_object_set_new(fields, "heartbeat_s", json_integer(p.heartbeat_s));
		if (p.folders_max)
			json_object_set_new(fields, "folders_max", json_integer(p.folders_max));
		if (p.heartbeat_s)
			step_failed(a, EXIT_STEP, fields, "status %u, the server allows %u s",
				p.status, p.heartbeat_s);
		else
			step_failed(a, EXIT_STEP, fields, "status %u", p.status);
		return;
	}
	if (a->steps[a->at].verb == VERB_WAIT_FOR_CHANGE && p.status == 1)
		step_send(a);
	else
		step_next(a);
}

static void answer_fetch(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	const struct wbxml_node *fetch =
		wbxml_child(wbxml_child(root, ITEMOPERATIONS_Response), ITEMOPERATIONS_Fetch);
	uint32_t status = 0, item_status = 0;

	wbxml_u32(wbxml_child(root, ITEMOPERATIONS_Status), UINT32_MAX, &status);
	wbxml_u32(wbxml_child(fetch, ITEMOPERATIONS_Status), UINT32_MAX, &item_status);
	json_object_set_new(fields, "status", json_integer(status));
	json_object_set_new(fields, "item_status", json_integer(item_status));
	if (status != 1 || item_status != 1) {
		step_failed(a, EXIT_STEP, fields, "status %u, item status %u", status, item_status);
		return;
	}
	tell(a, "fetch", "answered", fields, "item %s in %.1f ms", a->item, ms);
	tell_item(a, a->item_folder, "fetched", '=', fetch);
	step_next(a);
}

static void answer_estimate(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	const struct wbxml_node *r = wbxml_child(root, GETITEMESTIMATE_Response);
	uint32_t total = 0;

	for (; r; r = wbxml_next_of(r, GETITEMESTIMATE_Response)) {
		const struct wbxml_node *c = wbxml_child(r, GETITEMESTIMATE_Collection);
		uint32_t status = 0, n = 0;

		wbxml_u32(wbxml_child(r, GETITEMESTIMATE_Status), UINT32_MAX, &status);
		if (status != 1) {
			json_object_set_new(fields, "status", json_integer(status));
			step_failed(a, EXIT_STEP, fields, "status %u", status);
			return;
		}
		wbxml_u32(wbxml_child(c, GETITEMESTIMATE_Estimate), UINT32_MAX, &n);
		total += n;
	}
	json_object_set_new(fields, "estimate", json_integer(total));
	tell(a, "estimate", "answered", fields, "%u item%s to come, in %.1f ms", total,
		total == 1 ? "" : "s", ms);
	step_next(a);
}

static void answer_settings(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms)
{
	uint32_t status = 0;

	wbxml_u32(wbxml_child(root, SETTINGS_Status), UINT32_MAX, &status);
	json_object_set_new(fields, "status", json_integer(status));
	if (status != 1) {
		step_failed(a, EXIT_STEP, fields, "status %u", status);
		return;
	}
	tell(a, "settings", "answered", fields, "device information told in %.1f ms", ms);
	step_next(a);
}

static void answer_refused(struct phone_app *a, const struct http_answer *h, json_t *fields)
{
	struct bytes id = http_answer_field(h, "X-Request-Id");
	struct bytes reason = http_answer_field(h, "X-Roost-Reason");
	struct bytes retry = http_answer_field(h, "Retry-After");
	char reason_line[80], id_line[80];
	bool account = h->status == 401 || h->status == 403;

	if (id.p)
		json_object_set_new(fields, "request_id", json_bytes(id));
	if (reason.p)
		json_object_set_new(fields, "server_reason", json_bytes(reason));
	if (retry.p)
		json_object_set_new(fields, "retry_after", json_bytes(retry));
	first_line(reason, reason_line);
	first_line(id, id_line);
	step_failed(a, account ? EXIT_AUTH : EXIT_STEP, fields, "HTTP %d %.*s%s%s%s%s%s", h->status,
		(int)(h->reason.n < 60 ? h->reason.n : 60), (const char *)h->reason.p,
		reason_line[0] ? ": " : "", reason_line, id_line[0] ? " (request " : "", id_line,
		id_line[0] ? ")" : "");
}

static void on_answered(
	void *arg, uint32_t phone, const struct http_answer *h, struct bytes body, uint64_t came_ns)
{
	struct phone_app *a = arg;
	struct arena arena;
	struct wbxml_node *root = NULL;
	struct bytes type = http_answer_field(h, "Content-Type");
	const char *why = NULL;
	enum verb v = a->steps[a->at].verb;
	json_t *fields = answer_fields(a, h->status, came_ns);
	double ms = (double)(came_ns - a->request_ns) / 1e6;

	(void)phone;
	a->parked_due_ms = 0;
	a->answers++;
	a->running = false;
	if (h->status != 200) {
		answer_refused(a, h, fields);
		return;
	}
	if (v == VERB_OPTIONS) {
		answer_options(a, h, fields, ms);
		return;
	}
	show_document(a, "<", body);
	arena_init(&arena, 256u << 20);
	if (body.n && !bytes_eq_nocase(type, "application/vnd.ms-sync.wbxml") &&
		!bytes_eq_nocase(type, "application/vnd.ms-sync")) {
		step_failed(a, EXIT_STEP, fields, "Content-Type is '%.*s'", (int)type.n,
			(const char *)type.p);
		goto done;
	}
	if (body.n && wbxml_parse(body, &arena, NULL, &root, &why) < 0) {
		step_failed(a, EXIT_STEP, fields, "the answer is not WBXML: %s", why);
		goto done;
	}
	switch (v) {
	case VERB_PROVISION:
		answer_provision(a, root, fields, ms);
		break;
	case VERB_FOLDERSYNC:
		answer_folder_sync(a, root, fields, ms);
		break;
	case VERB_SYNC:
	case VERB_SYNC_WAIT:
	case VERB_MARK_READ:
	case VERB_MARK_UNREAD:
	case VERB_DELETE:
		answer_sync(a, root, fields, ms);
		break;
	case VERB_PING:
	case VERB_PING_CACHED:
	case VERB_WAIT_FOR_CHANGE:
		answer_ping(a, root, fields, came_ns);
		break;
	case VERB_FETCH:
		answer_fetch(a, root, fields, ms);
		break;
	case VERB_ESTIMATE:
		answer_estimate(a, root, fields, ms);
		break;
	case VERB_SETTINGS:
		answer_settings(a, root, fields, ms);
		break;
	default:
		CHECK(!"a verb that asks");
	}
done:
	arena_free(&arena);
}

/* ---- the connection ---- */

static void on_opened(void *arg, uint32_t phone)
{
	struct phone_app *a = arg;
	const char *tls = client_tls_text(a->client, phone);

	a->answers = 0;
	a->reconnect_until_ms = 0;
	tell(a, "connect", "connected", json_pack("{s:s}", "tls", tls), "connected to %s:%s%s%s",
		a->server.host, a->server.port, tls[0] ? ", " : "", tls);
	if (a->running && a->request.n) {
		a->request_ns = clock_mono_ns();
		client_request(a->client, 0, buf_bytes(&a->request),
			a->timeout_s + (a->hangs ? a->heartbeat_s : 0));
	}
}

static void on_sent(void *arg, uint32_t phone)
{
	struct phone_app *a = arg;

	(void)phone;
	a->sent_ns = clock_mono_ns();
	if (a->hangs)
		a->parked_due_ms = client_now_ms(a->client) + PARKED_AFTER_MS;
}

static void on_closed(void *arg, uint32_t phone, enum client_end how, const char *why)
{
	struct phone_app *a = arg;
	json_t *fields;
	bool asked = a->running && a->steps[a->at].verb != VERB_SLEEP;

	(void)phone;
	a->parked_due_ms = 0;
	if (a->over)
		return;
	/* Between two requests: the next one opens another connection. */
	if (!asked)
		return;
	/* The server may close an idle connection just as we send (RFC 9112 9.3.1): once more. */
	if ((how == CLIENT_END_PEER || how == CLIENT_END_CUT) && a->answers > 0 && !a->parked &&
		!a->repeated) {
		a->repeated = true;
		a->answers = 0;
		send_request(a);
		return;
	}
	if (a->reconnect && how != CLIENT_END_TIMEOUT && how != CLIENT_END_HTTP) {
		uint64_t now = clock_mono_ms();

		if (!a->reconnect_until_ms) {
			a->reconnect_until_ms = now + RECONNECT_S_MAX * 1000;
			tell(a, step_name(a), "lost",
				json_pack("{s:s, s:o}", "kind", client_end_name(how), "reason",
					json_bytes(bytes_str(why))),
				"connection lost (%s), trying again", why);
		}
		if (now < a->reconnect_until_ms) {
			a->wake_at_ms = now + 1000;
			return;
		}
	}
	fields = json_pack("{s:s}", "kind", client_end_name(how));
	if (how == CLIENT_END_TIMEOUT)
		step_failed(a, EXIT_TIMEOUT, fields, "%s", why);
	else
		step_failed(a, how == CLIENT_END_HTTP ? EXIT_STEP : EXIT_CONNECTION, fields,
			"%s: %s", client_end_name(how), why);
}

/* ---- a message for whoever waits ---- */

struct delivery {
	struct loop_msg msg;
	struct phone_app *app;
	uint64_t start_ns, done_ns, took_ns;
	bool ok;
	char why[256];
};

static void *deliver(void *arg)
{
	struct delivery *d = arg;
	struct phone_app *a = d->app;
	struct buf message = {0};

	lmtp_sample("Bob <bob@example.org>", a->user, "Lunch?",
		"Hello, this message came by LMTP while your phone was asleep.\r\nBob", &message);
	d->start_ns = clock_mono_ns();
	d->ok = lmtp_send(a->lmtp, "bob@example.org", a->user, buf_bytes(&message), &d->took_ns,
		d->why, sizeof(d->why));
	d->done_ns = clock_mono_ns();
	buf_free(&message);
	client_post(a->client, &d->msg);
	return NULL;
}

static void deliver_start(struct phone_app *a)
{
	struct delivery *d = calloc(1, sizeof(*d));

	CHECK(d);
	a->lmtp_started = true;
	d->app = a;
	tell(a, "lmtp", "delivering", json_pack("{s:s}", "server", a->lmtp),
		"delivering a message for %s to %s", a->user, a->lmtp);
	a->lmtp_running = pthread_create(&a->lmtp_thread, NULL, deliver, d) == 0;
	CHECK(a->lmtp_running);
}

static void on_message(void *arg, struct loop_msg *m)
{
	struct phone_app *a = arg;
	struct delivery *d = (struct delivery *)m;

	pthread_join(a->lmtp_thread, NULL);
	a->lmtp_running = false;
	if (d->ok) {
		tell_at(a, d->done_ns, "lmtp", "delivered",
			json_pack("{s:I, s:I}", "took_us",
				(json_int_t)((d->done_ns - d->start_ns) / 1000), "commit_us",
				(json_int_t)(d->took_ns / 1000)),
			"250: message accepted and stored (%.1f ms after its last byte)",
			(double)d->took_ns / 1e6);
	} else {
		tell_at(a, d->done_ns, "lmtp", "failed",
			json_pack("{s:o}", "reason", json_bytes(bytes_str(d->why))), "FAILED: %s",
			d->why);
		a->over = false;
		finish(a, EXIT_STEP);
	}
	free(d);
	if (a->over)
		client_stop(a->client);
}

static uint64_t on_tick(void *arg, uint64_t now_ms)
{
	struct phone_app *a = arg;
	uint64_t next = UINT64_MAX;

	if (a->over)
		return next;
	if (a->parked_due_ms && now_ms >= a->parked_due_ms) {
		json_t *fields;

		a->parked_due_ms = 0;
		a->parked = true;
		fields = json_pack("{s:i, s:o, s:I}", "heartbeat_s", (int)a->heartbeat_s, "folders",
			watched_json(a), "sent_us",
			(json_int_t)((a->sent_ns - a->start_ns) / 1000));
		tell(a, step_name(a), "parked", fields, "parked (heartbeat %u s)", a->heartbeat_s);
		if (a->lmtp && !a->lmtp_started)
			deliver_start(a);
	}
	if (a->parked_due_ms)
		next = a->parked_due_ms;
	if (a->wake_at_ms && now_ms >= a->wake_at_ms) {
		a->wake_at_ms = 0;
		if (a->steps[a->at].verb == VERB_SLEEP)
			step_next(a);
		else
			send_request(a); /* reconnecting */
	}
	if (a->wake_at_ms && a->wake_at_ms < next)
		next = a->wake_at_ms;
	return next;
}

/* ---- the phone's memory on disk ---- */

static void state_load(struct phone_app *a)
{
	json_error_t error;
	json_t *o = json_load_file(a->state_file, 0, &error), *list, *f;
	const char *text;
	size_t i;

	if (!o)
		return; /* a new phone */
	a->who.policy_key = (uint32_t)json_integer_value(json_object_get(o, "policy_key"));
	text = json_string_value(json_object_get(o, "hierarchy_key"));
	if (text)
		snprintf(a->hierarchy_key, sizeof(a->hierarchy_key), "%s", text);
	if (!a->version_given && json_object_get(o, "version"))
		a->who.version = (int)json_integer_value(json_object_get(o, "version"));
	list = json_object_get(o, "folders");
	json_array_foreach(list, i, f)
	{
		const char *id = json_string_value(json_object_get(f, "id"));
		const char *key = json_string_value(json_object_get(f, "key"));
		const char *name = json_string_value(json_object_get(f, "name"));
		struct folder *to = id && key ? folder_add(a, bytes_str(id)) : NULL;

		if (!to)
			continue;
		snprintf(to->key, sizeof(to->key), "%s", key);
		snprintf(to->name, sizeof(to->name), "%s", name ? name : "");
		to->type = (uint32_t)json_integer_value(json_object_get(f, "type"));
	}
	json_decref(o);
}

static void state_save(const struct phone_app *a)
{
	json_t *o, *list = json_array();

	for (size_t i = 0; i < a->folder_count; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:s, s:i}", "id", a->folders[i].id, "key",
				      a->folders[i].key, "name", a->folders[i].name, "type",
				      (int)a->folders[i].type));
	o = json_pack("{s:i, s:I, s:s, s:o}", "version", a->who.version, "policy_key",
		(json_int_t)a->who.policy_key, "hierarchy_key", a->hierarchy_key, "folders", list);
	if (!o || json_dump_file(o, a->state_file, JSON_INDENT(1)) != 0)
		fprintf(stderr, "roost-phone: cannot write %s\n", a->state_file);
	json_decref(o);
}

/* ---- the command line ---- */

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

__attribute__((format(printf, 1, 2))) static _Noreturn void die(const char *fmt, ...)
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
		die("--%s: '%s' is not a number up to %u", option, text, max);
	return (uint32_t)v;
}

static void set_protocol(struct phone_app *a, const char *text)
{
	a->who.version = eas_version_parse(bytes_str(text));
	if (a->who.version < 121)
		die("--protocol: '%s' is not one of 12.1 14.0 14.1 16.0 16.1", text);
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
	die("--body: '%s' is not text, html, mime or none", text);
}

static void add_step(struct phone_app *a, const char *text)
{
	size_t n = strcspn(text, "=");
	struct step *s = &a->steps[a->step_count];

	if (a->step_count == STEPS_MAX)
		die("too many verbs");
	for (int v = 0; v < VERB_COUNT; v++) {
		if (strlen(verb_names[v]) != n || strncmp(verb_names[v], text, n) != 0)
			continue;
		char *end = NULL;

		*s = (struct step){.verb = (enum verb)v};
		if (v == VERB_SLEEP) {
			s->seconds = text[n] ? strtod(text + n + 1, &end) : 1;
			if ((end && *end) || !(s->seconds >= 0 && s->seconds < 1e6))
				die("'%s': sleep=SECONDS", text);
		} else if (text[n]) {
			break;
		}
		a->step_count++;
		return;
	}
	die("'%s' is not a verb", text);
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

static void read_arguments(struct phone_app *a, int argc, char **argv)
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
				die("--password-env: %s is not set", optarg);
			break;
		case OPT_DEVICE:
			if (!bytes_to_strz(bytes_str(optarg), a->device_id, sizeof(a->device_id)))
				die("--device: at most %d characters", EAS_DEVICE_ID_MAX);
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
		die("--url, --user and --password or --password-env are needed");
	if (!client_parse_url(url, &a->server, why, sizeof(why)))
		die("--url: %s", why);
	if (a->timeout_s == 0)
		die("--timeout: at least 1");
	if (a->step_count == 0) {
		static const char *const script[] = {
			"options", "provision", "foldersync", "sync", "ping", "sync"};

		for (size_t i = 0; i < ARRAY_LEN(script); i++)
			add_step(a, script[i]);
	}
}

/* Same user, same phone; other characters than letters and digits are not allowed in an id. */
static void default_device(struct phone_app *a)
{
	uint64_t hash = 0xcbf29ce484222325u;

	CHECK(a->user);

	for (const char *s = a->user; *s; s++)
		hash = (hash ^ (uint8_t)*s) * 0x100000001b3u;
	snprintf(a->device_id, sizeof(a->device_id), "RoostPhone%016llX", (unsigned long long)hash);
}

int main(int argc, char **argv)
{
	static struct phone_app app = {
		.who = {.device_type = "RoostPhone", .version = 141},
		.heartbeat_s = 900,
		.timeout_s = 30,
		.window = 100,
		.count = 1,
		.body_type = 1,
		.truncation_bytes = 32768,
		.hierarchy_key = "0",
	};
	static const struct client_events events = {
		.opened = on_opened,
		.sent = on_sent,
		.answered = on_answered,
		.closed = on_closed,
		.message = on_message,
		.tick = on_tick,
	};
	static const char system_ca[] = "/etc/ssl/certs/ca-certificates.crt";
	struct phone_app *a = &app;
	struct client_options o = {0};
	struct sigaction sa = {.sa_handler = on_signal};
	char why[CLIENT_WHY_BYTES];
	char agent[64];

	read_arguments(a, argc, argv);
	log_set_level(LOG_WARNING);
	snprintf(agent, sizeof(agent), "roost-phone/%s", roost_version);
	if (!a->device_id[0])
		default_device(a);
	client_host_header(&a->server, a->host_header, sizeof(a->host_header));
	if (!phone_basic(a->user, a->password, a->authorization, sizeof(a->authorization)))
		die("user and password are too long");
	a->who.host = a->host_header;
	a->who.user = a->user;
	a->who.authorization = a->authorization;
	a->who.device_id = a->device_id;
	a->who.user_agent = agent;
	if (a->state_file)
		state_load(a);
	o.tls = a->server.tls;
	o.server_name = a->server.host;
	o.tls_options.ca_file = a->insecure ? NULL : a->ca_file ? a->ca_file : system_ca;
	o.to[0] = a->server.to;
	o.to_count = 1;
	o.phones_max = 1;
	o.handshakes_max = 1;
	o.open_timeout_s = a->timeout_s;
	if (o.tls && !a->insecure && !a->ca_file && access(system_ca, R_OK) != 0)
		die("%s is missing: use --ca FILE or --insecure", system_ca);
	if (a->data_dir) {
		struct db_options d = {.dir = a->data_dir};

		if (db_open(&d, &a->db, why, sizeof(why)) != DB_OK) {
			fprintf(stderr, "roost-phone: --data: %s\n", why);
			return EXIT_STEP;
		}
	}
	a->start_ns = clock_mono_ns();
	a->client = client_new(&o, &events, a, why, sizeof(why));
	if (!a->client) {
		fprintf(stderr, "roost-phone: %s\n", why);
		return EXIT_CONNECTION;
	}
	signal_client = a->client;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	tell(a, "start", "start",
		json_pack("{s:s, s:s, s:s, s:s}", "user", a->user, "device", a->device_id, "type",
			a->who.device_type, "host", a->host_header),
		"%s as %s, device %s (%s)", a->host_header, a->user, a->device_id,
		a->who.device_type);
	step_start(a);
	if (!a->over)
		client_run(a->client);
	if (a->lmtp_running)
		pthread_join(a->lmtp_thread, NULL);
	if (interrupted && !a->over) {
		tell(a, step_name(a), "interrupted", NULL, "interrupted");
		a->result = EXIT_STEP;
	}
	if (a->state_file)
		state_save(a);
	tell(a, "end", "done", json_pack("{s:i}", "exit_code", a->result), "%s",
		a->result == EXIT_OK ? "all steps done" : "not all steps succeeded");
	client_free(&a->client);
	db_close(&a->db);
	buf_free(&a->request);
	buf_free(&a->document);
	explicit_bzero(a->authorization, sizeof(a->authorization));
	return a->result;
}
