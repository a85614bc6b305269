/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/ctl.h"

#include "core/admin/admin_priv.h"
#include "core/admin/table.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/config/config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* --- the running server -------------------------------------------------------------- */

enum { UPGRADE_PATIENCE_S = 700 };

struct control {
	FILE *in;
	int fd;
};

static enum ctl_exit not_running(const char *where, int err)
{
	if (err == EACCES || err == EPERM)
		return ctl_complain(CTL_FAILED, "may not connect to %s: %s", where, strerror(err));
	return ctl_complain(
		CTL_NOT_RUNNING, "the server is not running (%s: %s)", where, strerror(err));
}

static enum ctl_exit control_open(struct control *c)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = 15};
	char where[4200], dir[4200], *name;
	int dir_fd, err;

	if (ctl.socket)
		snprintf(where, sizeof(where), "%s", ctl.socket);
	else
		snprintf(where, sizeof(where), "%s/" CONTROL_SOCKET, ctl.config->store_dir);
	/* The path may be longer than a socket address holds. */
	snprintf(dir, sizeof(dir), "%s", where);
	name = strrchr(dir, '/');
	if (name)
		*name++ = 0;
	dir_fd = open(!name ? "." : dir[0] ? dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return not_running(where, errno);
	snprintf(un.sun_path, sizeof(un.sun_path), "/proc/self/fd/%d/%.60s", dir_fd,
		name ? name : dir);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	err = c->fd < 0 || connect(c->fd, (struct sockaddr *)&un, sizeof(un)) != 0 ? errno : 0;
	close(dir_fd);
	if (err) {
		if (c->fd >= 0)
			close(c->fd);
		return not_running(where, err);
	}
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	c->in = fdopen(c->fd, "r");
	CHECK(c->in);
	return CTL_DONE;
}

static void control_close(struct control *c)
{
	if (c->in)
		fclose(c->in);
	c->in = NULL;
}

/* Takes request. Lines before the last go to one; *last_out is the caller's on CTL_DONE. */
static enum ctl_exit control_ask(struct control *c, json_t *request,
	void (*one)(void *ctx, json_t *line), void *ctx, json_t **last_out)
{
	char *text = json_dumps(request, JSON_COMPACT), *line = NULL;
	struct buf whole = {0};
	size_t room = 0;
	ssize_t got;
	bool sent;
	enum ctl_exit code = CTL_FAILED;

	json_decref(request);
	CHECK(text);
	buf_add_str(&whole, text);
	buf_add_byte(&whole, '\n');
	free(text);
	CHECK(!whole.failed);
	got = send(c->fd, whole.p, whole.n, MSG_NOSIGNAL);
	sent = got == (ssize_t)whole.n;
	buf_free(&whole);
	if (!sent)
		return ctl_complain(CTL_NOT_RUNNING, "the server went away");
	for (;;) {
		json_t *j, *ok;

		got = getline(&line, &room, c->in);
		if (got <= 0) {
			code = feof(c->in)
				       ? ctl_complain(CTL_NOT_RUNNING, "the server went away")
				       : ctl_complain(CTL_FAILED, "the server does not answer: %s",
						 strerror(errno));
			break;
		}
		j = json_loadb(line, (size_t)got, 0, NULL);
		if (!j) {
			code = ctl_complain(CTL_FAILED, "the server's answer is not understood");
			break;
		}
		ok = json_object_get(j, "ok");
		if (!ok) {
			if (one)
				one(ctx, j);
			json_decref(j);
			continue;
		}
		if (json_is_true(ok)) {
			*last_out = j;
			code = CTL_DONE;
		} else {
			const char *word = json_string_value(json_object_get(j, "code"));
			const char *error = json_string_value(json_object_get(j, "error"));

			code = word && strcmp(word, "not-found") == 0 ? CTL_NOT_FOUND
			       : word && strcmp(word, "usage") == 0   ? CTL_USAGE
								      : CTL_FAILED;
			ctl_complain(code, "%s", error ? error : "the server refused");
			json_decref(j);
		}
		break;
	}
	free(line);
	return code;
}

/* One question, one answer. */
static enum ctl_exit ask_server(
	json_t *request, void (*one)(void *ctx, json_t *line), void *ctx, json_t **last_out)
{
	struct control c = {0};
	enum ctl_exit code = control_open(&c);

	if (code == CTL_DONE)
		code = control_ask(&c, request, one, ctx, last_out);
	else
		json_decref(request);
	control_close(&c);
	return code;
}

static const char *text_of(json_t *j, const char *key)
{
	const char *text = json_string_value(json_object_get(j, key));

	return text ? text : "";
}

static int64_t number_of(json_t *j, const char *key)
{
	return (int64_t)json_number_value(json_object_get(j, key));
}

static const char *const parked_titles[] = {
	"USER", "DEVICE", "TYPE", "COMMAND", ">AGE", ">LEFT", "FROM", "FOLDERS", NULL};

struct parked_rows {
	struct table table;
	json_t *json;
	uint64_t now_ms;
};

static void parked_one(void *ctx, json_t *line)
{
	struct parked_rows *r = ctx;
	json_t *p = json_object_get(line, "parked"), *folder;
	uint64_t since = (uint64_t)number_of(p, "since_ms"), due = (uint64_t)number_of(p, "due_ms");
	char text[TIME_TEXT_BYTES];
	struct buf folders = {0};
	size_t i;

	if (!p)
		return;
	if (r->json) {
		json_array_append(r->json, p);
		return;
	}
	table_add(&r->table, text_of(p, "user"));
	table_add(&r->table, text_of(p, "device"));
	table_add(&r->table, text_of(p, "device_type"));
	table_add(&r->table, text_of(p, "command"));
	table_add(
		&r->table, duration_text(r->now_ms > since ? (r->now_ms - since) / 1000 : 0, text));
	table_add(&r->table, duration_text(due > r->now_ms ? (due - r->now_ms) / 1000 : 0, text));
	table_add(&r->table, text_of(p, "address"));
	json_array_foreach(json_object_get(p, "folders"), i, folder)
	{
		buf_printf(&folders, "%s%s", i ? ", " : "", json_string_value(folder));
	}
	if (number_of(p, "folder_count") > (int64_t)i)
		buf_printf(
			&folders, ", %" PRId64 " more", number_of(p, "folder_count") - (int64_t)i);
	buf_add_byte(&folders, 0);
	table_add(&r->table, folders.failed ? "" : (const char *)folders.p);
	buf_free(&folders);
}

static void silent_shards(json_t *last)
{
	if (number_of(last, "silent_shards") > 0)
		ctl_complain(CTL_FAILED,
			"%" PRId64 " shard(s) did not answer within 2 s: the list is not whole",
			number_of(last, "silent_shards"));
}

static json_t *parked_request(const char *verb)
{
	json_t *request = json_pack("{s:s}", "verb", verb);

	if (ctl.user)
		json_object_set_new(request, "user", admin_text_json(ctl.user));
	if (ctl.device)
		json_object_set_new(request, "device", admin_text_json(ctl.device));
	if (ctl.given & OPT_LIMIT)
		json_object_set_new(request, "limit", json_integer((json_int_t)ctl.limit));
	return request;
}

enum ctl_exit ctl_ping_list(char **args)
{
	struct parked_rows r = {
		.now_ms = clock_wall_ms(), .json = ctl_want_json() ? json_array() : NULL};
	json_t *last = NULL;
	enum ctl_exit code;

	(void)args;
	table_init(&r.table, parked_titles);
	code = ask_server(parked_request("ping-list"), parked_one, &r, &last);
	if (code == CTL_DONE) {
		if (r.json) {
			ctl_print_json(json_incref(r.json));
		} else {
			table_print(&r.table, stdout, ctl_terminal_width(), SIZE_MAX);
			printf("%" PRId64 " parked", number_of(last, "count"));
			if (number_of(last, "shown") < number_of(last, "count"))
				printf(", the newest %" PRId64 " shown (--limit N)",
					number_of(last, "shown"));
			putchar('\n');
		}
		silent_shards(last);
	}
	json_decref(last);
	json_decref(r.json);
	table_free(&r.table);
	return code;
}

enum ctl_exit ctl_why(char **args)
{
	json_t *last = NULL, *j;
	struct buf prose = {0};
	enum ctl_exit code =
		ask_server(json_pack("{s:s, s:o}", "verb", "why", "id", admin_text_json(args[0])),
			NULL, NULL, &last);

	if (code != CTL_DONE)
		return code;
	j = json_object_get(last, "why");
	if (ctl_want_json()) {
		ctl_print_json(json_incref(j));
	} else {
		text_safe(&prose, text_of(j, "text"), true);
		printf("%.*s", (int)prose.n, (const char *)prose.p);
		buf_free(&prose);
	}
	json_decref(last);
	return CTL_DONE;
}

static void print_stats(json_t *stats)
{
	json_t *store = json_object_get(stats, "store"), *value;
	char a[TIME_TEXT_BYTES], b[TIME_TEXT_BYTES];
	const char *key;

	printf("Roost %s (%s), up %s, %s\n", text_of(stats, "version"), text_of(stats, "commit"),
		duration_text((uint64_t)number_of(stats, "uptime_s"), a),
		json_is_true(json_object_get(stats, "ready")) ? "ready"
							      : text_of(stats, "not_ready_why"));
	printf("shards %" PRId64 ", memory %s\n", number_of(stats, "shards"),
		size_text((uint64_t)number_of(stats, "resident_bytes"), a));
	if (json_object_get(stats, "certificate_expiry_s"))
		printf("certificate expires in %s\n",
			number_of(stats, "certificate_expiry_s") > 0
				? duration_text(
					  (uint64_t)number_of(stats, "certificate_expiry_s"), a)
				: "no time: it has expired");
	if (store)
		printf("store %s of %s used, %" PRId64 " records, %" PRId64 " readers\n",
			size_text((uint64_t)number_of(store, "used_bytes"), a),
			size_text((uint64_t)number_of(store, "map_bytes"), b),
			number_of(store, "entries"), number_of(store, "readers"));
	putchar('\n');
	json_object_foreach(json_object_get(stats, "metrics"), key, value)
		printf("%-48s %12" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
	json_object_foreach(json_object_get(stats, "latency"), key, value) printf(
		"%-48s %12" PRId64 "  p50 <= %.6g s, p99 <= %.6g s\n", key,
		number_of(value, "count"), json_number_value(json_object_get(value, "p50_s")),
		json_number_value(json_object_get(value, "p99_s")));
}

enum ctl_exit ctl_stats(char **args)
{
	json_t *last = NULL;
	enum ctl_exit code = ask_server(json_pack("{s:s}", "verb", "stats"), NULL, NULL, &last);

	(void)args;
	if (code != CTL_DONE)
		return code;
	if (ctl_want_json())
		ctl_print_json(json_incref(json_object_get(last, "stats")));
	else
		print_stats(json_object_get(last, "stats"));
	json_decref(last);
	return CTL_DONE;
}

enum ctl_exit ctl_health(char **args)
{
	json_t *last = NULL;
	enum ctl_exit code = ask_server(json_pack("{s:s}", "verb", "health"), NULL, NULL, &last);
	bool live, ready;

	(void)args;
	if (code != CTL_DONE)
		return code;
	live = json_is_true(json_object_get(last, "live"));
	ready = json_is_true(json_object_get(last, "ready"));
	if (ctl_want_json()) {
		ctl_print_json(json_incref(last));
	} else {
		ctl_say("%s%s%s",
			live ? "live" : "not live: ", live ? "" : text_of(last, "not_live_why"),
			"");
		ctl_say("%s%s%s", ready ? "ready" : "not ready: ",
			ready ? "" : text_of(last, "not_ready_why"), "");
	}
	json_decref(last);
	return live && ready ? CTL_DONE : CTL_FAILED;
}

static enum ctl_exit order(const char *verb, const char *done)
{
	json_t *last = NULL;
	enum ctl_exit code = ask_server(json_pack("{s:s}", "verb", verb), NULL, NULL, &last);

	if (code == CTL_DONE)
		ctl_say("%s", done);
	json_decref(last);
	return code;
}

enum ctl_exit ctl_reload(char **args)
{
	(void)args;
	return order("reload", "the server has read its configuration and certificates again");
}

enum ctl_exit ctl_stop(char **args)
{
	(void)args;
	return order("stop", "the server answers what is under way and stops");
}

enum ctl_exit ctl_upgrade(char **args)
{
	struct control c = {0};
	/* The new program's start takes what it takes; the server bounds it. */
	struct timeval patience = {.tv_sec = UPGRADE_PATIENCE_S};
	enum ctl_exit code = control_open(&c);
	json_t *last = NULL;

	(void)args;
	if (code == CTL_DONE) {
		setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		code = control_ask(&c,
			json_pack("{s:s, s:b}", "verb", "upgrade", "drain",
				(ctl.given & OPT_DRAIN) != 0),
			NULL, NULL, &last);
	}
	control_close(&c);
	if (code != CTL_DONE)
		return code;
	if (ctl_want_json()) {
		json_object_del(last, "ok");
		ctl_print_json(json_incref(last));
	} else {
		ctl_say("process %" PRId64 " (version %s) serves: %" PRId64
			" connections taken over, %" PRId64
			" of them with a hanging request; %" PRId64 " finish in the old process",
			number_of(last, "pid"), text_of(last, "version"),
			number_of(last, "connections"), number_of(last, "parked"),
			number_of(last, "left"));
		ctl_say("pause %.1f ms: %.1f ms to write down who waits for what, %.1f ms to take "
			"it up",
			json_number_value(json_object_get(last, "pause_ms")),
			json_number_value(json_object_get(last, "export_ms")),
			json_number_value(json_object_get(last, "restore_ms")));
		ctl_say("before it: start of the new program %" PRId64 " ms, sockets %" PRId64
			" ms, nothing new begun for %.1f ms",
			number_of(last, "start_ms"), number_of(last, "copy_ms"),
			json_number_value(json_object_get(last, "quiet_ms")));
	}
	json_decref(last);
	return CTL_DONE;
}

/* --- top ----------------------------------------------------------------------------- */

static volatile sig_atomic_t top_ended;

static void top_end(int signal_number)
{
	(void)signal_number;
	top_ended = 1;
}

static double rate(json_t *now, json_t *before, const char *key, double seconds)
{
	if (!before || seconds <= 0)
		return 0;
	return (double)(number_of(json_object_get(now, "metrics"), key) -
			number_of(json_object_get(before, "metrics"), key)) /
	       seconds;
}

static void top_print(json_t *now, json_t *before, double seconds, const struct table *t,
	int64_t parked, size_t width, size_t rows)
{
	json_t *m = json_object_get(now, "metrics");
	json_t *wake = json_object_get(json_object_get(now, "latency"), "wake_latency_seconds");
	char clock[16], up[TIME_TEXT_BYTES], memory[TIME_TEXT_BYTES];
	time_t wall = time(NULL);
	struct tm tm;
	double wakes = 0, out = 0;
	const char *key;
	json_t *value;

	json_object_foreach(m, key, value)
	{
		if (strncmp(key, "wakes_total", 11) == 0)
			wakes += rate(now, before, key, seconds);
		if (strncmp(key, "http_responses_total", 20) == 0)
			out += rate(now, before, key, seconds);
	}
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&wall, &tm));
	printf("roost %s  %s  up %s  %s  memory %s\n", text_of(now, "version"), clock,
		duration_text((uint64_t)number_of(now, "uptime_s"), up),
		json_is_true(json_object_get(now, "ready")) ? "ready" : "NOT READY",
		size_text((uint64_t)number_of(now, "resident_bytes"), memory));
	printf("parked %" PRId64 " (Ping %" PRId64 ", Sync %" PRId64 ")  connections %" PRId64
	       "  handshakes in flight %" PRId64 "\n",
		parked, number_of(m, "parked_requests{cmd=\"Ping\"}"),
		number_of(m, "parked_requests{cmd=\"Sync\"}"), number_of(m, "connections"),
		number_of(m, "tls_handshakes_in_flight"));
	printf("per second: requests %.1f  answers %.1f  wakes %.1f  handshakes %.1f  commits "
	       "%.1f\n",
		rate(now, before, "http_requests_total", seconds), out, wakes,
		rate(now, before, "tls_handshakes_total{resumed=\"no\"}", seconds) +
			rate(now, before, "tls_handshakes_total{resumed=\"yes\"}", seconds),
		rate(now, before, "store_commits_total", seconds));
	if (number_of(wake, "count"))
		printf("since start: commit to wire p50 <= %.3g ms, p99 <= %.3g ms (%" PRId64
		       " wakes)\n\n",
			json_number_value(json_object_get(wake, "p50_s")) * 1e3,
			json_number_value(json_object_get(wake, "p99_s")) * 1e3,
			number_of(wake, "count"));
	else
		printf("since start: no wakes yet\n\n");
	table_print(t, stdout, width, rows);
}

enum ctl_exit ctl_top(char **args)
{
	struct winsize size = {.ws_row = 24, .ws_col = 80};
	struct termios was, raw;
	struct sigaction end = {.sa_handler = top_end};
	bool live = !(ctl.given & OPT_ONCE) && isatty(STDOUT_FILENO) && !ctl_want_json();
	bool keys = live && tcgetattr(STDIN_FILENO, &was) == 0;
	json_t *before = NULL;
	uint64_t before_ms = 0;
	enum ctl_exit code;

	(void)args;
	if (live) {
		sigaction(SIGINT, &end, NULL);
		sigaction(SIGTERM, &end, NULL);
		sigaction(SIGHUP, &end, NULL);
		/* The alternate screen: what was on the terminal is there again afterwards. */
		printf("\033[?1049h\033[?25l");
	}
	if (keys) {
		raw = was;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	do {
		struct parked_rows r = {
			.now_ms = clock_wall_ms(), .json = ctl_want_json() ? json_array() : NULL};
		uint64_t now_ms = clock_mono_ms();
		json_t *last = NULL;

		if (live)
			ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
		if (!(ctl.given & OPT_LIMIT)) {
			ctl.limit = live && size.ws_row > 7 ? size.ws_row - 7u : 20;
		}
		ctl.given |= OPT_LIMIT;
		table_init(&r.table, parked_titles);
		code = ask_server(parked_request("top"), parked_one, &r, &last);
		if (code == CTL_DONE && r.json) {
			json_object_set(last, "parked", r.json);
			json_object_del(last, "ok");
			ctl_print_json(json_incref(last));
		} else if (code == CTL_DONE) {
			if (live)
				printf("\033[H\033[J");
			top_print(json_object_get(last, "stats"), before,
				(double)(now_ms - before_ms) / 1000, &r.table,
				number_of(last, "count"), live ? size.ws_col : ctl_terminal_width(),
				(size_t)ctl.limit);
			fflush(stdout);
			json_decref(before);
			before = json_incref(json_object_get(last, "stats"));
			before_ms = now_ms;
		}
		if (live)
			ctl.given &= ~(unsigned)OPT_LIMIT;
		json_decref(last);
		json_decref(r.json);
		table_free(&r.table);
		if (live && code == CTL_DONE && !top_ended) {
			struct pollfd key = {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN};
			char c = 0;

			if (poll(&key, 1, 1000) > 0 &&
				(read(STDIN_FILENO, &c, 1) != 1 || c == 'q' || c == 'Q'))
				top_ended = 1;
		}
	} while (live && code == CTL_DONE && !top_ended);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &was);
	if (live)
		printf("\033[?25h\033[?1049l");
	json_decref(before);
	return code;
}
