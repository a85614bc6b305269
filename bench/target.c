/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/target.h"

#include "bench/http_answer.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READY_S = 30, STOP_S = 30, ARGS_MAX = 64, PAGE_BYTES_MAX = 4 << 20 };

/* measurements.md 6: both ends of a parked connection, kernel and user. */
enum { BYTES_BOTH_ENDS = 9800, BYTES_ONE_END = 4900, BYTES_AT_LEAST = 256 << 20 };

#define TCP_MEM    "/proc/sys/net/ipv4/tcp_mem"
#define PORT_RANGE "/proc/sys/net/ipv4/ip_local_port_range"
#define BACKLOG    "/proc/sys/net/core/netdev_max_backlog"

const char *const kernel_cache_names[KERNEL_CACHES] = {
	"TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "io_kiocb", "request_sock_TCP"};

enum cache { TCP, TCP6, SOCK_INODE, FILP, DENTRY, KIOCB, REQUEST };
/* struct epitem and struct eppoll_entry, whose caches they share with others (the first with the
 * ports of our phones), so that their growth says nothing. */
enum { EPOLL_ENTRY_BYTES = 128 + 64 };

static void pause_ms(unsigned ms)
{
	struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

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
		pause_ms(20);
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
		pause_ms(20);
	}
	t->pid = 0;
	if (t->dir[0])
		nftw(t->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	t->dir[0] = 0;
}

/* ---- CPU and memory ---- */

/* The number behind `word`, which begins the line; false: another line. */
static bool line_number(const char *line, const char *word, uint64_t *out)
{
	size_t n = strlen(word);

	if (strncmp(line, word, n) != 0)
		return false;
	*out = strtoull(line + n, NULL, 10);
	return true;
}

/* The count-th number of a file of one line, from 0; `none` when there is none. */
static uint64_t file_number(const char *path, int count, uint64_t none)
{
	char line[256], *at = line, *end;
	FILE *f = fopen(path, "re");
	uint64_t v = none;

	if (!f)
		return none;
	if (!fgets(line, sizeof(line), f))
		line[0] = 0;
	fclose(f);
	for (; count >= 0; count--, at = end) {
		v = strtoull(at, &end, 10);
		if (end == at)
			return none;
	}
	return v;
}

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
		*sum += file_number(file, 0, 0);
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
		if (line_number(line, "Pss:", &kib))
			m->pss += kib * 1024;
		else if (line_number(line, "Pss_Anon:", &kib))
			m->anon += kib * 1024;
		else if (line_number(line, "Rss:", &kib))
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
	resident = pid > 0 ? file_number(path, 1, 0) : 0;
	shared = pid > 0 ? file_number(path, 2, 0) : 0;
	return resident > shared ? (resident - shared) * 4096 : 0;
}

uint64_t target_rss_now(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	return pid > 0 ? file_number(path, 1, 0) * 4096 : 0;
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

void kernel_memory(struct kernel_memory *out)
{
	char line[512];
	uint64_t kib;
	FILE *f = fopen("/proc/meminfo", "re");

	*out = (struct kernel_memory){0};
	while (f && fgets(line, sizeof(line), f)) {
		if (line_number(line, "MemAvailable:", &kib))
			out->available = kib * 1024;
		else if (line_number(line, "Slab:", &kib))
			out->slab = kib * 1024;
	}
	if (f)
		fclose(f);
	f = fopen("/proc/net/sockstat", "re");
	while (f && fgets(line, sizeof(line), f)) {
		bool tcp = strncmp(line, "TCP:", 4) == 0;
		char *mem = tcp ? strstr(line, "mem ") : NULL;
		char *sockets = tcp ? strstr(line, "alloc ") : NULL;

		if (mem)
			out->sockets = strtoull(mem + 4, NULL, 10) * 4096;
		if (sockets)
			out->tcp_sockets = strtoull(sockets + 6, NULL, 10);
	}
	if (f)
		fclose(f);
	out->unix_object = (uint32_t)file_number("/sys/kernel/slab/UNIX-STREAM/object_size", 0, 0);
	/* name active total size per-slab pages-per-slab : tunables ... */
	f = fopen("/proc/slabinfo", "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *data = strstr(line, ": slabdata"), *at = line + strcspn(line, " ");
		uint64_t v[3];

		for (int i = 0; i < KERNEL_CACHES && data; i++) {
			size_t n = strlen(kernel_cache_names[i]);

			if ((size_t)(at - line) != n || memcmp(line, kernel_cache_names[i], n) != 0)
				continue;
			for (size_t k = 0; k < ARRAY_LEN(v); k++)
				v[k] = strtoull(at, &at, 10);
			/* Objects in use, and not whole slabs: those that an earlier benchmark left
			 * empty would hide what this one takes. */
			out->cache[i] = v[0] * v[2];
			out->object[i] = (uint32_t)v[2];
			out->has_caches = true;
			break;
		}
	}
	if (f)
		fclose(f);
}

void kernel_share(const struct kernel_memory *before, const struct kernel_memory *after,
	uint32_t phones, uint64_t epoll_entries, struct kernel_share *out)
{
	static const enum cache of_socket[] = {TCP, SOCK_INODE, FILP, DENTRY};
	double added[KERNEL_CACHES], n = phones, sum = 0;

	*out = (struct kernel_share){
		.foreign = (double)after->tcp_sockets - (double)before->tcp_sockets - 2 * n};
	/* Each of them has some 256 bytes more that are not known: a poll, an epoll entry. */
	out->sound = after->has_caches && out->foreign < n / 4 + 16 && -out->foreign < n / 4 + 16;
	for (int i = 0; i < KERNEL_CACHES; i++) {
		double one = after->object[i] ? after->object[i] : 1;

		added[i] = ((double)after->cache[i] - (double)before->cache[i]) / one;
	}
	added[DENTRY] = added[SOCK_INODE];
	added[KIOCB] -= n;
	for (size_t k = 0; k < ARRAY_LEN(of_socket); k++)
		added[of_socket[k]] -= out->foreign + n;
	for (int i = 0; i < KERNEL_CACHES; i++) {
		out->cache[i] = added[i] * after->object[i] / n;
		sum += out->cache[i];
	}
	out->unix_sockets = (added[SOCK_INODE] - added[TCP] - added[TCP6]) * after->unix_object / n;
	out->poll_entries = (double)epoll_entries * EPOLL_ENTRY_BYTES / n;
	out->per_phone = sum + out->unix_sockets + out->poll_entries;
}

bool kernel_settle(uint64_t timeout_ms, volatile const int *stop)
{
	struct kernel_memory k;
	uint64_t until_ms = clock_mono_ms() + timeout_ms, last = UINT64_MAX;
	int quiet = 0;

	while (quiet < 4 && !*stop && clock_mono_ms() < until_ms) {
		kernel_memory(&k);
		quiet = k.tcp_sockets + 16 > last && last + 16 > k.tcp_sockets ? quiet + 1 : 0;
		last = k.tcp_sockets;
		pause_ms(250);
	}
	/* Servers give memory back now and then, ours every two seconds: what the base counts must
	 * not be given back in the middle of the figure. */
	for (int i = 0; i < 50 && !*stop; i++)
		pause_ms(100);
	return quiet >= 4;
}

/* ---- metrics ---- */

bool metrics_fetch(const struct url *from, struct metrics_page *page, char *why, size_t why_bytes)
{
	struct timeval limit = {.tv_sec = 10};
	int fd = socket(from->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct http_answer a;
	const char *reason = "the connection ended too early";
	struct buf in = {0};
	char request[1024], host[300];
	int k = 0;
	bool ok = false;

	url_host_header(from, host, sizeof(host));
	snprintf(request, sizeof(request),
		"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
		from->path[0] ? from->path : "/metrics", host);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) != 0 ||
		connect(fd, (const struct sockaddr *)&from->to, from->to_bytes) != 0 ||
		send(fd, request, strlen(request), MSG_NOSIGNAL) < 0) {
		reason = strerror(errno);
		goto done;
	}
	while (in.n < PAGE_BYTES_MAX) {
		uint8_t *room = buf_room(&in, 16384);
		ssize_t got = room ? recv(fd, room, 16384, 0) : -1;

		if (got < 0)
			reason = strerror(errno);
		if (got <= 0)
			break;
		in.n += (size_t)got;
		k = http_answer_parse(in.p, in.n, &a, &reason);
		if (k < 0)
			break;
		if (k == 1 && in.n - a.head_bytes >= a.content_length) {
			page->text.n = 0;
			buf_add(&page->text, in.p + a.head_bytes, (size_t)a.content_length);
			buf_add_byte(&page->text, 0);
			ok = a.status == 200 && !page->text.failed;
			reason = "not 200";
			break;
		}
	}
done:
	if (fd >= 0)
		close(fd);
	buf_free(&in);
	if (!ok)
		snprintf(why, why_bytes, "metrics of %s:%s: %s", from->host, from->port, reason);
	return ok;
}

/* Calls fn for each sample line of that name. */
static void each_sample(const struct metrics_page *page, const char *name,
	void (*fn)(void *arg, const char *labels, size_t labels_n, double value), void *arg)
{
	const char *line = (const char *)page->text.p;
	size_t n = strlen(name);

	while (line && *line) {
		const char *end = strchr(line, '\n');
		const char *labels = line + n;

		if (strncmp(line, name, n) == 0 && (*labels == ' ' || *labels == '{')) {
			const char *close = *labels == '{' ? strchr(labels, '}') : NULL;
			const char *value = close ? close + 1 : labels;

			fn(arg, labels, close ? (size_t)(close - labels) : 0, strtod(value, NULL));
		}
		line = end ? end + 1 : NULL;
	}
}

struct sum {
	const char *labels;
	double value;
};

static void add_sample(void *arg, const char *labels, size_t n, double value)
{
	struct sum *s = arg;

	if (!s->labels || (n && memmem(labels, n, s->labels, strlen(s->labels))))
		s->value += value;
}

double metrics_value(const struct metrics_page *page, const char *name, const char *labels)
{
	struct sum s = {.labels = labels};

	each_sample(page, name, add_sample, &s);
	return s.value;
}

enum { BUCKETS_MAX = 64 };
struct buckets {
	double bound[BUCKETS_MAX], count[BUCKETS_MAX];
	size_t n;
};

static void add_bucket(void *arg, const char *labels, size_t n, double value)
{
	struct buckets *b = arg;
	const char *le = n ? memmem(labels, n, "le=\"", 4) : NULL;

	if (!le || b->n == BUCKETS_MAX)
		return;
	b->bound[b->n] = strncmp(le + 4, "+Inf", 4) == 0 ? INFINITY : strtod(le + 4, NULL);
	b->count[b->n++] = value;
}

double metrics_hist_quantile(const struct metrics_page *before, const struct metrics_page *after,
	const char *name, double q)
{
	struct buckets a = {.n = 0}, b = {.n = 0};
	char full[128];
	double total;

	snprintf(full, sizeof(full), "%s_bucket", name);
	each_sample(before, full, add_bucket, &a);
	each_sample(after, full, add_bucket, &b);
	if (b.n == 0 || (a.n && a.n != b.n))
		return 0;
	total = b.count[b.n - 1] - (a.n ? a.count[b.n - 1] : 0);
	for (size_t i = 0; total > 0 && i < b.n; i++)
		if (b.count[i] - (a.n ? a.count[i] : 0) >= q * total)
			return b.bound[i];
	return 0;
}

double metrics_hist_mean(const struct metrics_page *before, const struct metrics_page *after,
	const char *name, uint64_t *count_out)
{
	char sum[128], count[128];
	double n;

	snprintf(sum, sizeof(sum), "%s_sum", name);
	snprintf(count, sizeof(count), "%s_count", name);
	n = metrics_value(after, count, NULL) - metrics_value(before, count, NULL);
	*count_out = n > 0 ? (uint64_t)n : 0;
	if (n <= 0)
		return 0;
	return (metrics_value(after, sum, NULL) - metrics_value(before, sum, NULL)) / n;
}

void metrics_free(struct metrics_page *page)
{
	buf_free(&page->text);
}

/* ---- before it starts ---- */

static const char *verdict(bool ok)
{
	return ok ? "enough" : "NOT ENOUGH";
}

/* A socket that neither sends nor receives takes no page of tcp_mem. One that has an unread answer,
 * or shakes hands, takes one or two at each end. */
static uint64_t tcp_pages(const struct machine_need *need)
{
	return (uint64_t)need->at_once * (need->both_ends ? 2 : 1) + need->phones / 64 + 4096;
}

/* README.md, "A million phones on one machine". Up to 300,000 connections none was seen to be lost. */
static bool backlog_must_do(const struct machine_need *need)
{
	return need->both_ends && need->phones > 300000;
}

bool machine_suffices(const struct machine_need *need, FILE *to)
{
	struct kernel_memory k;
	struct rlimit lim = {0};
	unsigned long long low, high, used, max, ports, files, bytes;
	bool memory_ok, ports_ok, files_ok, tcp_ok, backlog_ok;
	uint32_t per_source = need->per_source && need->per_source < need->phones ? need->per_source
										  : need->phones;

	kernel_memory(&k);
	bytes = (unsigned long long)need->phones *
			(need->both_ends ? BYTES_BOTH_ENDS : BYTES_ONE_END) +
		BYTES_AT_LEAST;
	memory_ok = k.available > bytes;
	fprintf(to, "memory: about %llu MB needed, %llu MB available: %s\n", bytes >> 20,
		(unsigned long long)k.available >> 20, verdict(memory_ok));
	low = file_number(PORT_RANGE, 0, 32768);
	high = file_number(PORT_RANGE, 1, 60999);
	ports = (high > low ? high - low : 0) * need->addresses;
	ports_ok = ports > per_source;
	fprintf(to, "ports: %u per source address needed, %llu there: %s\n", per_source, ports,
		verdict(ports_ok));
	getrlimit(RLIMIT_NOFILE, &lim);
	used = file_number("/proc/sys/fs/file-nr", 0, 0);
	max = file_number("/proc/sys/fs/file-max", 0, UINT64_MAX);
	files = (unsigned long long)need->phones * (need->both_ends ? 2 : 1);
	/* Direct descriptors: each ring has its own table of that many. */
	files_ok = used + files < max && lim.rlim_max >= 64 + need->phones / lim.rlim_max;
	fprintf(to, "files: %llu needed, %llu of %llu used in the system; %llu per ring: %s\n",
		files, used, max, (unsigned long long)lim.rlim_max, verdict(files_ok));
	/* Pages in use and the number from which the kernel holds back. */
	bytes = k.sockets / 4096 + tcp_pages(need);
	max = file_number(TCP_MEM, 1, UINT64_MAX);
	tcp_ok = bytes < max;
	fprintf(to, "tcp_mem: about %llu pages needed at a time, %llu there: %s\n", bytes, max,
		verdict(tcp_ok));
	backlog_ok = !backlog_must_do(need) || machine_carries_keepalive(need->phones);
	if (backlog_must_do(need))
		fprintf(to, "netdev_max_backlog: %u packets needed, %llu there: %s\n",
			need->phones / 8, (unsigned long long)file_number(BACKLOG, 0, 0),
			verdict(backlog_ok));
	return memory_ok && ports_ok && files_ok && tcp_ok && backlog_ok;
}

/* The wheel's slots are an eighth of the time to come wide, or less. */
bool machine_carries_keepalive(uint32_t phones)
{
	return file_number(BACKLOG, 0, 0) >= phones / 8;
}

/* ---- sysctls ---- */

struct tuned {
	const char *path;
	char before[128];
};
static struct tuned tuned[8];
static size_t tuned_count;

static bool sysctl_write(const char *path, const char *value)
{
	FILE *f = fopen(path, "we");
	bool ok = f && fputs(value, f) >= 0;

	/* The kernel's refusal comes with the write, that is here. */
	if (f && fclose(f) != 0)
		ok = false;
	return ok;
}

static bool tune(const char *path, const char *value, FILE *to)
{
	struct tuned *t = &tuned[tuned_count];
	FILE *f = fopen(path, "re");
	bool read = f && fgets(t->before, sizeof(t->before), f);

	CHECK(tuned_count < ARRAY_LEN(tuned));
	if (f)
		fclose(f);
	t->before[strcspn(t->before, "\n")] = 0;
	if (!read || !sysctl_write(path, value)) {
		fprintf(to, "tune: %s could not be set to '%s': %s\n", path, value,
			strerror(errno));
		return false;
	}
	fprintf(to, "tune: %s = %s (was %s)\n", path, value, t->before);
	t->path = path;
	tuned_count++;
	return true;
}

bool machine_tune(const struct machine_need *need, FILE *to)
{
	uint64_t pages = tcp_pages(need), files = (uint64_t)need->phones * 2 + 100000;
	struct kernel_memory k;
	char value[128];
	bool ok = true;

	kernel_memory(&k);
	pages += k.sockets / 4096;
	if (file_number(TCP_MEM, 1, UINT64_MAX) <= pages) {
		snprintf(value, sizeof(value), "%llu %llu %llu", (unsigned long long)pages,
			(unsigned long long)pages * 5 / 4, (unsigned long long)pages * 3 / 2);
		ok = tune(TCP_MEM, value, to) && ok;
	}
	files += file_number("/proc/sys/fs/file-nr", 0, 0);
	if (file_number("/proc/sys/fs/file-max", 0, UINT64_MAX) < files) {
		snprintf(value, sizeof(value), "%llu", (unsigned long long)files);
		ok = tune("/proc/sys/fs/file-max", value, to) && ok;
	}
	if (need->per_source * 5 / 2 >
		file_number(PORT_RANGE, 1, 60999) - file_number(PORT_RANGE, 0, 32768))
		ok = tune(PORT_RANGE, "16384 60999", to) && ok;
	if ((need->keepalive || backlog_must_do(need)) &&
		!machine_carries_keepalive(need->phones)) {
		snprintf(value, sizeof(value), "%u", need->phones / 4);
		ok = tune(BACKLOG, value, to) && ok;
	}
	if (need->at_once > 64 && file_number("/proc/sys/net/core/somaxconn", 0, 0) < 4096)
		ok = tune("/proc/sys/net/core/somaxconn", "4096", to) && ok;
	return ok;
}

void machine_untune(FILE *to)
{
	while (tuned_count > 0) {
		const struct tuned *t = &tuned[--tuned_count];

		if (sysctl_write(t->path, t->before))
			fprintf(to, "tune: %s = %s again\n", t->path, t->before);
		else
			fprintf(to, "tune: %s could not be put back to %s: %s\n", t->path,
				t->before, strerror(errno));
	}
}
