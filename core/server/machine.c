/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/server/machine.h"

#include "core/base/bytes.h"

#include <stdio.h>
#include <string.h>

/* Number `which` (from 0) of a file of numbers. */
static uint64_t number_of(const char *proc, const char *name, int which)
{
	char path[256], text[128], *word, *save = NULL;
	uint64_t v = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", proc, name);
	f = fopen(path, "re");
	if (!f)
		return 0;
	word = fgets(text, sizeof(text), f) ? strtok_r(text, " \t\n", &save) : NULL;
	fclose(f);
	while (word && which--)
		word = strtok_r(NULL, " \t\n", &save);
	return word && bytes_to_u64(bytes_str(word), UINT64_MAX, &v) ? v : 0;
}

void machine_read(const char *proc, struct machine_limits *out)
{
	*out = (struct machine_limits){
		.files = number_of(proc, "sys/fs/file-nr", 0),
		.files_max = number_of(proc, "sys/fs/file-nr", 2),
		.conntracked = number_of(proc, "sys/net/netfilter/nf_conntrack_count", 0),
		.conntracked_max = number_of(proc, "sys/net/netfilter/nf_conntrack_max", 0),
	};
}

bool machine_too_small(
	const struct machine_limits *m, uint64_t connections_max, char *why, size_t why_bytes)
{
	if (!m->files_max || m->files_max >= connections_max)
		return false;
	snprintf(why, why_bytes,
		"fs.file-max is %llu, core.connections_max is %llu: phones beyond it will be"
		" refused; raise fs.file-max (see deploy/KERNEL.md)",
		(unsigned long long)m->files_max, (unsigned long long)connections_max);
	return true;
}

static bool nine_tenths(uint64_t n, uint64_t max)
{
	return max && n >= max - max / 10;
}

bool machine_nearly_full(const struct machine_limits *m, char *why, size_t why_bytes)
{
	if (nine_tenths(m->conntracked, m->conntracked_max)) {
		snprintf(why, why_bytes,
			"%llu of %llu connections are tracked: beyond it the kernel drops"
			" newcomers; raise net.netfilter.nf_conntrack_max, or track no phones"
			" (see deploy/KERNEL.md)",
			(unsigned long long)m->conntracked, (unsigned long long)m->conntracked_max);
		return true;
	}
	if (nine_tenths(m->files, m->files_max)) {
		snprintf(why, why_bytes,
			"%llu of %llu files are open on this machine: beyond it phones are"
			" refused; raise fs.file-max (see deploy/KERNEL.md)",
			(unsigned long long)m->files, (unsigned long long)m->files_max);
		return true;
	}
	return false;
}
