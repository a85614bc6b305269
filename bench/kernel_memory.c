/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/kernel_memory.h"

#include "bench/proc.h"
#include "core/base/check.h"
#include "core/base/clock.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const kernel_cache_names[KERNEL_CACHES] = {
	"TCP", "TCPv6", "sock_inode_cache", "filp", "dentry", "io_kiocb", "request_sock_TCP"};

enum cache { TCP, TCP6, SOCK_INODE, FILP, DENTRY, KIOCB, REQUEST };
/* struct epitem and struct eppoll_entry, whose caches they share with others (the first with the
 * ports of our phones), so that their growth says nothing. */
enum { EPOLL_ENTRY_BYTES = 128 + 64 };

void kernel_memory(struct kernel_memory *out)
{
	char line[512];
	uint64_t kib;
	FILE *f = fopen("/proc/meminfo", "re");

	*out = (struct kernel_memory){0};
	while (f && fgets(line, sizeof(line), f)) {
		if (proc_line_number(line, "MemAvailable:", &kib))
			out->available = kib * 1024;
		else if (proc_line_number(line, "Slab:", &kib))
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
	out->unix_object = (uint32_t)proc_number("/sys/kernel/slab/UNIX-STREAM/object_size", 0, 0);
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
		poll(NULL, 0, 250);
	}
	/* Servers give memory back now and then, ours every two seconds: what the base counts must
	 * not be given back in the middle of the figure. */
	for (int i = 0; i < 50 && !*stop; i++)
		poll(NULL, 0, 100);
	return quiet >= 4;
}
