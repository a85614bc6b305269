/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/machine.h"

#include "bench/kernel_memory.h"
#include "bench/proc.h"
#include "core/base/check.h"
#include "io/loop.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

/* Of a parked connection, kernel and user: README.md, "A million phones on one machine". */
enum { BYTES_BOTH_ENDS = 9800, BYTES_ONE_END = 4900, BYTES_AT_LEAST = 256 << 20 };

#define TCP_MEM    "/proc/sys/net/ipv4/tcp_mem"
#define PORT_RANGE "/proc/sys/net/ipv4/ip_local_port_range"
#define BACKLOG    "/proc/sys/net/core/netdev_max_backlog"

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
	bool memory_ok, ports_ok, files_ok, fds_ok = true, tcp_ok, backlog_ok;
	uint32_t per_source = need->per_source && need->per_source < need->phones ? need->per_source
										  : need->phones;

	kernel_memory(&k);
	bytes = (unsigned long long)need->phones *
			(need->both_ends ? BYTES_BOTH_ENDS : BYTES_ONE_END) +
		BYTES_AT_LEAST;
	memory_ok = k.available > bytes;
	fprintf(to, "memory: about %llu MB needed, %llu MB available: %s\n", bytes >> 20,
		(unsigned long long)k.available >> 20, verdict(memory_ok));
	low = proc_number(PORT_RANGE, 0, 32768);
	high = proc_number(PORT_RANGE, 1, 60999);
	ports = (high > low ? high - low : 0) * need->addresses;
	ports_ok = ports > per_source;
	fprintf(to, "ports: %u per source address needed, %llu there: %s\n", per_source, ports,
		verdict(ports_ok));
	getrlimit(RLIMIT_NOFILE, &lim);
	used = proc_number("/proc/sys/fs/file-nr", 0, 0);
	max = proc_number("/proc/sys/fs/file-max", 0, UINT64_MAX);
	files = (unsigned long long)need->phones * (need->both_ends ? 2 : 1);
	/* Direct descriptors: each ring has its own table of that many. */
	files_ok = used + files < max && lim.rlim_max >= 64 + need->phones / lim.rlim_max;
	fprintf(to, "files: %llu needed, %llu of %llu used in the system; %llu per ring: %s\n",
		files, used, max, (unsigned long long)lim.rlim_max, verdict(files_ok));
	if (need->loop_conns) {
		uint32_t least = loop_descriptors_least(need->loop_conns);

		/* However few phones: the server is made for all its connections. */
		fds_ok = lim.rlim_max >= least;
		fprintf(to, "descriptors: roostd starts with %u, %llu there: %s\n", least,
			(unsigned long long)lim.rlim_max, verdict(fds_ok));
	}
	/* Pages in use and the number from which the kernel holds back. */
	bytes = k.sockets / 4096 + tcp_pages(need);
	max = proc_number(TCP_MEM, 1, UINT64_MAX);
	tcp_ok = bytes < max;
	fprintf(to, "tcp_mem: about %llu pages needed at a time, %llu there: %s\n", bytes, max,
		verdict(tcp_ok));
	backlog_ok = !backlog_must_do(need) || machine_carries_keepalive(need->phones);
	if (backlog_must_do(need))
		fprintf(to, "netdev_max_backlog: %u packets needed, %llu there: %s\n",
			need->phones / 8, (unsigned long long)proc_number(BACKLOG, 0, 0),
			verdict(backlog_ok));
	return memory_ok && ports_ok && files_ok && fds_ok && tcp_ok && backlog_ok;
}

/* The wheel's slots are an eighth of the time to come wide, or less. */
bool machine_carries_keepalive(uint32_t phones)
{
	return proc_number(BACKLOG, 0, 0) >= phones / 8;
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
	if (proc_number(TCP_MEM, 1, UINT64_MAX) <= pages) {
		snprintf(value, sizeof(value), "%llu %llu %llu", (unsigned long long)pages,
			(unsigned long long)pages * 5 / 4, (unsigned long long)pages * 3 / 2);
		ok = tune(TCP_MEM, value, to) && ok;
	}
	files += proc_number("/proc/sys/fs/file-nr", 0, 0);
	if (proc_number("/proc/sys/fs/file-max", 0, UINT64_MAX) < files) {
		snprintf(value, sizeof(value), "%llu", (unsigned long long)files);
		ok = tune("/proc/sys/fs/file-max", value, to) && ok;
	}
	if (need->per_source * 5 / 2 >
		proc_number(PORT_RANGE, 1, 60999) - proc_number(PORT_RANGE, 0, 32768))
		ok = tune(PORT_RANGE, "16384 60999", to) && ok;
	if ((need->keepalive || backlog_must_do(need)) &&
		!machine_carries_keepalive(need->phones)) {
		snprintf(value, sizeof(value), "%u", need->phones / 4);
		ok = tune(BACKLOG, value, to) && ok;
	}
	if (need->at_once > 64 && proc_number("/proc/sys/net/core/somaxconn", 0, 0) < 4096)
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
