/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/target.h"

#include "bench/proc.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_S = 30, STOP_S = 30, ARGS_MAX = 64 };

/* ---- a server of our own ---- */

static uint16_t free_port(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 &&
		  getsockname(fd, (struct sockaddr *)&sa, &n) == 0;

	if (fd >= 0)
		close(fd);
	return ok ? ntohs(sa.sin_port) : 0;
}

bool target_prepare(struct target_server *t, char *why, size_t why_bytes)
{
	const char *tmp = getenv("TMPDIR");

	*t = (struct target_server){0};
	snprintf(t->dir, sizeof(t->dir), "%s/roost-bench.XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
	if (!mkdtemp(t->dir)) {
		snprintf(why, why_bytes, "%s: %s", t->dir, strerror(errno));
		t->dir[0] = 0;
		return false;
	}
	snprintf(t->data, sizeof(t->data), "%s/data", t->dir);
	snprintf(t->log, sizeof(t->log), "%s/roostd.log", t->dir);
	return true;
}

void target_default_program(char *out, size_t cap)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	self[n > 0 ? n : 0] = 0;
	slash = strrchr(self, '/');
	snprintf(out, cap, "%.*s/roostd", slash ? (int)(slash - self) : 1, slash ? self : ".");
}

/* The last line of the log, for the error message. */
static void log_tail(const char *path, char *out, size_t cap)
{
	FILE *f = fopen(path, "re");
	char line[512];

	out[0] = 0;
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		snprintf(out, cap, "%s", line);
	}
	if (f)
		fclose(f);
}

static bool log_says(const char *path, const char *what)
{
	FILE *f = fopen(path, "re");
	char line[1024];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, what) != NULL;
	if (f)
		fclose(f);
	return found;
}

static _Noreturn void become(const char *program, char **args, const char *log, pid_t parent)
{
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	/* When we are killed the server must not stay behind. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(127);
	/* A terminal's Ctrl-C is for us; we end the server in order. */
	setpgid(0, 0);
	if (fd >= 0) {
		dup2(fd, 1);
		dup2(fd, 2);
	}
	execv(program, args);
	dprintf(2, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

static void truncate_log(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
}

bool target_start(struct target_server *t, const char *program, const char *const *sets, char *why,
	size_t why_bytes)
{
	char https[32], admin[32], tail[512];
	char *args[ARGS_MAX];
	size_t n = 0;
	pid_t parent = getpid();
	uint64_t until_ms = clock_mono_ms() + READY_S * 1000;

	if (!t->https_port) {
		t->https_port = free_port();
		t->admin_port = free_port();
	}
	/* What an earlier one said is not what this one says. */
	truncate_log(t->log);
	snprintf(https, sizeof(https), "127.0.0.1:%u", t->https_port);
	snprintf(admin, sizeof(admin), "127.0.0.1:%u", t->admin_port);
	const char *const fixed[] = {program, "--data", t->data, "--https", https, "--admin", admin,
		"--self-signed", "--set", "log.requests=false"};
	for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
		args[n++] = (char *)fixed[i];
	for (; sets && *sets && n < ARGS_MAX - 3; sets++) {
		args[n++] = "--set";
		args[n++] = (char *)*sets;
	}
	args[n] = NULL;
	t->pid = fork();
	if (t->pid < 0) {
		snprintf(why, why_bytes, "fork: %s", strerror(errno));
		t->pid = 0;
		return false;
	}
	if (t->pid == 0)
		become(program, args, t->log, parent);
	while (clock_mono_ms() < until_ms) {
		int status;

		if (log_says(t->log, "roostd ready"))
			return true;
		if (waitpid(t->pid, &status, WNOHANG) == t->pid) {
			t->pid = 0;
			log_tail(t->log, tail, sizeof(tail));
			snprintf(why, why_bytes, "%s ended at once: %s", program,
				tail[0] ? tail : "without a word; is it roostd?");
			return false;
		}
		poll(NULL, 0, 20);
	}
	log_tail(t->log, tail, sizeof(tail));
	snprintf(why, why_bytes, "%s is not ready after %d s: %s", program, READY_S, tail);
	return false;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void target_kill(struct target_server *t)
{
	kill(t->pid, SIGKILL);
	while (waitpid(t->pid, NULL, 0) < 0 && errno == EINTR)
		;
	t->pid = 0;
}

void target_stop(struct target_server *t)
{
	uint64_t until_ms = clock_mono_ms() + STOP_S * 1000;
	bool killed = false;

	if (t->pid > 0)
		kill(t->pid, SIGTERM);
	while (t->pid > 0 && waitpid(t->pid, NULL, WNOHANG) != t->pid) {
		/* (after an upgrade it may be no child of ours) */
		if (errno == ECHILD && kill(t->pid, 0) != 0)
			break;
		if (!killed && clock_mono_ms() > until_ms) {
			kill(t->pid, SIGKILL);
			killed = true;
		}
		poll(NULL, 0, 20);
	}
	t->pid = 0;
	if (t->dir[0])
		nftw(t->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	t->dir[0] = 0;
}

/* ---- what it costs ---- */

/* Calls fn for pid and all below it. */
static void each_process(pid_t pid, void (*fn)(pid_t pid, void *arg), void *arg, int depth)
{
	char path[64];
	DIR *tasks;
	struct dirent *e;

	fn(pid, arg);
	if (depth == 8)
		return;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks && (e = readdir(tasks))) {
		char children[128], list[4096], *at = list, *end;
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(children, sizeof(children), "/proc/%d/task/%.20s/children", (int)pid,
			e->d_name);
		f = fopen(children, "re");
		if (!f)
			continue;
		if (!fgets(list, sizeof(list), f))
			list[0] = 0;
		fclose(f);
		for (long child; (child = strtol(at, &end, 10)) > 0; at = end)
			each_process((pid_t)child, fn, arg, depth + 1);
	}
	if (tasks)
		closedir(tasks);
}

/* schedstat counts in nanoseconds; utime and stime of stat in ticks of 10 ms. */
static void add_cpu(pid_t pid, void *arg)
{
	uint64_t *sum = arg;
	char path[64];
	DIR *tasks;
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks && (e = readdir(tasks))) {
		char file[128];

		if (e->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%.20s/schedstat", path, e->d_name);
		*sum += proc_number(file, 0, 0);
	}
	if (tasks)
		closedir(tasks);
}

uint64_t target_cpu_ns(pid_t pid)
{
	uint64_t sum = 0;

	if (pid > 0)
		each_process(pid, add_cpu, &sum, 0);
	return sum;
}

static void add_memory(pid_t pid, void *arg)
{
	struct target_memory *m = arg;
	char path[64], line[256];
	uint64_t kib;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (proc_line_number(line, "Pss:", &kib))
			m->pss += kib * 1024;
		else if (proc_line_number(line, "Pss_Anon:", &kib))
			m->anon += kib * 1024;
		else if (proc_line_number(line, "Rss:", &kib))
			m->rss += kib * 1024;
	}
	if (f)
		fclose(f);
}

uint64_t target_anon_now(pid_t pid)
{
	char path[64];
	uint64_t resident, shared;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	resident = pid > 0 ? proc_number(path, 1, 0) : 0;
	shared = pid > 0 ? proc_number(path, 2, 0) : 0;
	return resident > shared ? (resident - shared) * 4096 : 0;
}

uint64_t target_rss_now(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	return pid > 0 ? proc_number(path, 1, 0) * 4096 : 0;
}

uint64_t target_descriptors(pid_t pid)
{
	char path[64];
	uint64_t n = 0;
	struct dirent *e;
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	fds = opendir(path);
	while (fds && (e = readdir(fds)))
		n += e->d_name[0] != '.';
	if (fds)
		closedir(fds);
	return n;
}

static void add_epoll_entries(pid_t pid, void *arg)
{
	uint64_t *sum = arg;
	char path[64], file[128], line[256];
	struct dirent *e;
	DIR *infos;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo", (int)pid);
	infos = opendir(path);
	while (infos && (e = readdir(infos))) {
		FILE *f;

		if (e->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%.20s", path, e->d_name);
		f = fopen(file, "re");
		while (f && fgets(line, sizeof(line), f))
			*sum += strncmp(line, "tfd:", 4) == 0;
		if (f)
			fclose(f);
	}
	if (infos)
		closedir(infos);
}

uint64_t target_epoll_entries(pid_t pid)
{
	uint64_t sum = 0;

	if (pid > 0)
		each_process(pid, add_epoll_entries, &sum, 0);
	return sum;
}

bool target_memory(pid_t pid, struct target_memory *out)
{
	*out = (struct target_memory){0};
	if (pid > 0)
		each_process(pid, add_memory, out, 0);
	return out->pss > 0;
}

void target_memory_own(struct target_memory *out)
{
	*out = (struct target_memory){0};
	add_memory(getpid(), out);
}
