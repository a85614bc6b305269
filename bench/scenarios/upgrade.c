/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Upgrades in a row under load: all phones hang, changes are committed all the while, and the server
 * is replaced by a new process again and again, as `roostctl upgrade` does. Every change must get
 * exactly one answer, and no phone may lose its connection: what is lost, missed or doubled is
 * counted, and is a failure. */
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	BATCH = 64, /* changes in a commit, at most */
	TURN_MS = 5,
	BEFORE_MS = 1000, /* of changes before each upgrade, and after the last one */
	SETTLED_NS = 2000000000,
	SAMPLE_MS = 20,
	PATIENCE_S = 120, /* of one upgrade */
	REAP_S = 60,
	ANSWER_BYTES = 1024,
};

struct asked {
	pthread_t thread;
	const char *data;
	_Atomic bool over;
	json_t *answer; /* NULL: why */
	char why[WHY];
};

struct upgrades {
	struct bench *b;
	uint64_t *commit_ns; /* per user: of the change that is on its way; 0: none */
	uint64_t *asked_ns;  /* per user: when its phone was told to ask again */
	uint32_t *open;      /* users whose change is on its way */
	uint32_t open_count;
	uint64_t *took;
	size_t n, cap;
	uint64_t changes, missed, doubled;
	uint64_t begun_ns;              /* of the load */
	uint64_t upgrade_ns;            /* when the last upgrade began */
	uint64_t worst_ns, worst_at_ns; /* since then: how late, and when that change was made */
	uint64_t anon_most, available_least;
	pid_t *old; /* processes that were replaced */
	uint32_t old_count;
};

/* ---- changes, and their answers ---- */

/* A phone that has an answer though no change was on its way. */
static bool has_surplus(struct upgrades *u, uint32_t user)
{
	return !u->commit_ns[user] && fleet_came_ns(u->b->fleet, user) &&
	       clock_mono_ns() - u->asked_ns[user] > SETTLED_NS;
}

static void ask_again(struct upgrades *u, uint32_t user)
{
	u->asked_ns[user] = clock_mono_ns();
	fleet_ping(u->b->fleet, user);
}

static bool deliver_due(struct upgrades *u)
{
	struct bench *b = u->b;
	uint64_t at, due = (clock_mono_ns() - u->begun_ns) * b->changes_per_s / 1000000000u;
	uint32_t users[BATCH];
	char why[WHY];
	size_t n = 0;

	while (u->changes < due && n < BATCH) {
		uint32_t user = bench_random_below(b->users);

		u->changes++;
		/* One at a time, so that it is clear which change an answer is for. */
		if (u->commit_ns[user])
			continue;
		if (fleet_came_ns(b->fleet, user)) {
			if (has_surplus(u, user)) {
				u->doubled++;
				ask_again(u, user);
			}
			continue;
		}
		u->commit_ns[user] = 1;
		users[n++] = user;
	}
	if (n == 0)
		return true;
	if (!mailroom_deliver(b->mailroom, users, n, &at, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	for (size_t i = 0; i < n; i++) {
		u->commit_ns[users[i]] = at;
		u->open[u->open_count++] = users[i];
	}
	return true;
}

/* Phones that have heard of their change have synced it, and ask again. */
static bool look_at_answers(struct upgrades *u)
{
	struct bench *b = u->b;
	uint32_t users[BATCH];
	char why[WHY];
	size_t n = 0;

	for (uint32_t k = 0; k < u->open_count && n < BATCH;) {
		uint32_t user = u->open[k];
		uint64_t commit_ns = u->commit_ns[user], came_ns = fleet_came_ns(b->fleet, user);

		if (came_ns == 0 &&
			clock_mono_ns() - commit_ns < (uint64_t)WAKE_PATIENCE_MS * 1000000) {
			k++;
			continue;
		}
		if (came_ns == 0) {
			u->missed++;
		} else {
			uint64_t took = came_ns > commit_ns ? came_ns - commit_ns : 0;

			if (took > u->worst_ns) {
				u->worst_ns = took;
				u->worst_at_ns = commit_ns;
			}
			if (u->n < u->cap)
				u->took[u->n++] = took;
		}
		users[n++] = user;
		u->commit_ns[user] = 0;
		u->open[k] = u->open[--u->open_count];
	}
	if (n && !mailroom_catch_up_each(b->mailroom, users, n, why, sizeof(why)))
		return bench_failed(b, "%s", why);
	for (size_t i = 0; i < n; i++)
		ask_again(u, users[i]);
	return true;
}

/* False: it makes no sense to go on. */
static bool turn(struct upgrades *u, const char *doing, uint32_t done)
{
	struct fleet_status s;

	if (bench_interrupted || !deliver_due(u) || !look_at_answers(u))
		return false;
	bench_status(u->b, &s);
	if (s.failed || s.surplus)
		return bench_failed(u->b, "%u phones lost their connection, %u surplus answers: %s",
			s.failed, s.surplus, s.why);
	bench_progress("upgrade: %u of %u, %s, %u parked, %llu changes, %llu missed", done,
		u->b->upgrades, doing, s.parked, (unsigned long long)u->changes,
		(unsigned long long)u->missed);
	bench_pause_ms(TURN_MS);
	return true;
}

static bool turns(struct upgrades *u, uint64_t ms, const char *doing, uint32_t done)
{
	uint64_t until_ms = clock_mono_ms() + ms;

	while (clock_mono_ms() < until_ms)
		if (!turn(u, doing, done))
			return false;
	return true;
}

/* ---- asking the server ---- */

static bool converse(struct asked *a, int fd, char answer[ANSWER_BYTES])
{
	static const char request[] = "{\"verb\": \"upgrade\"}\n";
	struct timeval patience = {.tv_sec = PATIENCE_S};
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t n = 0;
	ssize_t r;

	if (snprintf(to.sun_path, sizeof(to.sun_path), "%s/control", a->data) >=
		(int)sizeof(to.sun_path))
		return false;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0 ||
		send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0)
		return false;
	while (n + 1 < ANSWER_BYTES && !memchr(answer, '\n', n)) {
		r = TEMP_FAILURE_RETRY(recv(fd, answer + n, ANSWER_BYTES - 1 - n, 0));
		if (r <= 0)
			return false;
		n += (size_t)r;
	}
	answer[n] = 0;
	return true;
}

static void *ask_upgrade(void *arg)
{
	struct asked *a = arg;
	char answer[ANSWER_BYTES];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && converse(a, fd, answer)) {
		a->answer = json_loads(answer, 0, NULL);
		if (!a->answer || !json_is_true(json_object_get(a->answer, "ok"))) {
			snprintf(a->why, sizeof(a->why), "%.400s", answer);
			json_decref(a->answer);
			a->answer = NULL;
		}
	} else {
		snprintf(a->why, sizeof(a->why), "%s/control: %s", a->data, strerror(errno));
	}
	if (fd >= 0)
		close(fd);
	atomic_store(&a->over, true);
	return NULL;
}

/* ---- processes ---- */

/* The server that runs and what it has started, or what started it and is not gone yet. */
static void sample(struct upgrades *u)
{
	struct kernel_memory k;
	uint64_t anon = target_anon_now(u->b->pid);
	char path[64], line[256] = "", *at = line, *end;
	FILE *f;
	long pid;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)u->b->pid, (int)u->b->pid);
	f = fopen(path, "re");
	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = 0;
		fclose(f);
	}
	while ((pid = strtol(at, &end, 10)) > 0 && end != at) {
		anon += target_anon_now((pid_t)pid);
		at = end;
	}
	for (uint32_t i = 0; i < u->old_count; i++)
		anon += target_anon_now(u->old[i]);
	kernel_memory(&k);
	if (anon > u->anon_most)
		u->anon_most = anon;
	if (k.available < u->available_least)
		u->available_least = k.available;
}

static bool reap(struct upgrades *u)
{
	for (uint32_t i = 0; i < u->old_count;)
		if (waitpid(u->old[i], NULL, WNOHANG) == u->old[i])
			u->old[i] = u->old[--u->old_count];
		else
			i++;
	return u->old_count == 0;
}

/* ---- an upgrade ---- */

static double number(const json_t *answer, const char *key)
{
	return json_number_value(json_object_get(answer, key));
}

static bool upgrade(struct upgrades *u, uint32_t k, json_t *rows)
{
	struct bench *b = u->b;
	struct asked a = {.data = b->data};
	uint64_t sample_ms = 0;
	bool ok = true;

	u->worst_ns = 0;
	u->upgrade_ns = clock_mono_ns();
	CHECK(pthread_create(&a.thread, NULL, ask_upgrade, &a) == 0);
	while (!atomic_load(&a.over)) {
		ok = ok && turn(u, "the server is replaced", k);
		if (clock_mono_ms() >= sample_ms) {
			sample(u);
			sample_ms = clock_mono_ms() + SAMPLE_MS;
		}
		if (!ok)
			bench_pause_ms(TURN_MS);
	}
	pthread_join(a.thread, NULL);
	if (a.answer) {
		u->old[u->old_count++] = b->pid;
		b->pid = b->server.pid = (pid_t)number(a.answer, "pid");
	} else {
		ok = bench_failed(b, "upgrade %u: %s", k + 1, a.why);
	}
	/* Those who were woken meanwhile hear of it now. */
	ok = ok && turns(u, BEFORE_MS, "the next one comes", k + 1);
	sample(u);
	reap(u);
	if (ok) {
		double pause_ms = number(a.answer, "pause_ms");

		figure(b, "upgrade_pause", pause_ms, "ms", (uint64_t)number(a.answer, "parked"),
			"no phone is woken for so long");
		figure(b, "upgrade_export", number(a.answer, "export_ms"), "ms", 1,
			"of that: the old process writes down who waits for what");
		figure(b, "upgrade_restore", number(a.answer, "restore_ms"), "ms", 1,
			"of that: the new process takes it up");
		figure(b, "upgrade_quiet", number(a.answer, "quiet_ms"), "ms", 1,
			"before it: no request is begun, phones are woken");
		figure(b, "upgrade_copy", number(a.answer, "copy_ms"), "ms", 1,
			"before that: sockets are copied, everything goes on");
		json_array_append_new(rows,
			json_pack("[i, f, f]", (int)k + 1, pause_ms, (double)u->worst_ns / 1e6));
		bench_note("upgrade %u: pause %.1f ms (%.1f + %.1f), quiet %.1f ms, copy %.0f ms; "
			   "%.0f connections, %.0f finished by the old process; worst wake %.1f "
			   "ms, of a "
			   "change %.0f ms after its beginning",
			k + 1, pause_ms, number(a.answer, "export_ms"),
			number(a.answer, "restore_ms"), number(a.answer, "quiet_ms"),
			number(a.answer, "copy_ms"), number(a.answer, "connections"),
			number(a.answer, "left"), (double)u->worst_ns / 1e6,
			((double)u->worst_at_ns - (double)u->upgrade_ns) / 1e6);
	}
	json_decref(a.answer);
	return ok;
}

/* What is on its way still, then nothing more may come. */
static bool settle(struct upgrades *u)
{
	struct bench *b = u->b;
	struct fleet_status s;

	b->changes_per_s = 0;
	u->begun_ns = clock_mono_ns();
	for (int i = 0; u->open_count && i < 2 * WAKE_PATIENCE_MS / TURN_MS; i++)
		if (!turn(u, "the last answers", b->upgrades))
			return false;
	bench_pause_ms(SETTLED_NS / 1000000 + 500);
	for (uint32_t user = 0; user < b->users; user++)
		u->doubled += has_surplus(u, user);
	bench_status(b, &s);
	if (s.parked != b->phones && !u->doubled)
		return bench_failed(
			b, "%u of %u phones hang in the end: %s", s.parked, b->phones, s.why);
	return true;
}

static void show(struct upgrades *u, const struct fleet_status *before, json_t *rows,
	uint64_t anon0, uint64_t available0)
{
	struct bench *b = u->b;
	struct fleet_status s;
	uint64_t lost;

	bench_status(b, &s);
	lost = s.full + s.resumed - before->full - before->resumed + s.failed;
	if (u->n) {
		bench_show_latencies(b, "upgrade_commit_to_phone", u->took, u->n,
			"of all changes, before, in and after the upgrades");
		figure(b, "upgrade_worst", (double)u->took[u->n - 1] / 1e6, "ms", u->n,
			"the same, the worst");
	}
	figure(b, "upgrade_lost", (double)lost, "connections", b->phones, "of %u upgrades in a row",
		b->upgrades);
	figure(b, "upgrade_missed", (double)u->missed, "changes", u->n,
		"that no phone heard of within %d s", WAKE_PATIENCE_MS / 1000);
	figure(b, "upgrade_doubled", (double)u->doubled, "answers", u->n,
		"to a phone for which there was no change");
	figure(b, "upgrade_memory", (double)u->anon_most / 1e6, "MB", b->phones,
		"anonymous memory of both processes together at its most; %.0f MB of one before",
		(double)anon0 / 1e6);
	figure(b, "upgrade_available_fall", ((double)available0 - (double)u->available_least) / 1e6,
		"MB", b->phones, "MemAvailable at its least, all processes and the kernel");
	figures_series(
		&b->figures, "upgrade_pauses", "upgrade,pause_ms,worst_wake_ms", json_incref(rows));
	if (lost || u->missed || u->doubled)
		bench_failed(b, "%llu connections lost, %llu changes missed, %llu answers too many",
			(unsigned long long)lost, (unsigned long long)u->missed,
			(unsigned long long)u->doubled);
}

bool bench_upgrade(struct bench *b)
{
	struct upgrades u = {.b = b, .available_least = UINT64_MAX};
	uint32_t rate = b->changes_per_s;
	struct fleet_status before;
	struct kernel_memory k;
	uint64_t anon0;
	json_t *rows = json_array();
	bool ok;

	/* Each server is started by the one before it: they are ours to wait for in the end. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	ok = bench_park(b, b->phones, "parking");
	u.cap = (size_t)rate * 600 + 1000;
	u.commit_ns = calloc(b->users, sizeof(*u.commit_ns));
	u.asked_ns = calloc(b->users, sizeof(*u.asked_ns));
	u.open = calloc(b->users, sizeof(*u.open));
	u.took = calloc(u.cap, sizeof(*u.took));
	u.old = calloc(b->upgrades, sizeof(*u.old));
	CHECK(u.commit_ns && u.asked_ns && u.open && u.took && u.old);
	bench_pause_ms(1000);
	bench_status(b, &before);
	anon0 = target_anon_now(b->pid);
	kernel_memory(&k);
	u.begun_ns = clock_mono_ns();
	ok = ok && turns(&u, BEFORE_MS, "changes come", 0);
	for (uint32_t i = 0; ok && i < b->upgrades; i++)
		ok = upgrade(&u, i, rows);
	ok = ok && settle(&u);
	b->changes_per_s = rate;
	if (ok)
		show(&u, &before, rows, anon0, k.available);
	/* Only then is the last one our child, whom the end of the benchmark waits for. */
	for (uint64_t until_ms = clock_mono_ms() + REAP_S * 1000;
		!reap(&u) && clock_mono_ms() < until_ms;)
		bench_pause_ms(SAMPLE_MS);
	if (u.old_count)
		ok = bench_failed(b, "process %d does not end after its upgrade", (int)u.old[0]);
	json_decref(rows);
	free(u.commit_ns);
	free(u.asked_ns);
	free(u.open);
	free(u.took);
	free(u.old);
	return ok && !bench_interrupted;
}
