/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/admin_priv.h"
#include "core/base/clock.h"
#include "core/base/metrics.h"
#include "core/version.h"
#include "store/db.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static void head(struct buf *out, const char *name, const char *kind, const char *help)
{
	buf_printf(out, "# HELP %s ", name);
	for (; *help; help++) {
		if (*help == '\\')
			buf_add_str(out, "\\\\");
		else if (*help == '\n')
			buf_add_str(out, "\\n");
		else
			buf_add_byte(out, (uint8_t)*help);
	}
	buf_printf(out, "\n# TYPE %s %s\n", name, kind);
}

/* Label values of ours: versions, no peer bytes; but the format's escapes all the same. */
static void label(struct buf *out, const char *value)
{
	for (; *value; value++) {
		if (*value == '"' || *value == '\\')
			buf_add_byte(out, '\\');
		buf_add_byte(out, (uint8_t)*value);
	}
}

static void gauge(struct buf *out, const char *name, const char *help, double value)
{
	head(out, name, "gauge", help);
	buf_printf(out, "%s %.15g\n", name, value);
}

static void counters(struct buf *out)
{
	char name[96];

	for (int i = 0; i < METRIC_COUNT; i++) {
		const struct metric_info *m = &metric_infos[i];

		snprintf(name, sizeof(name), "roost_%s", m->name);
		/* metrics.def keeps the lines of a name together; HELP and TYPE come once. */
		if (i == 0 || strcmp(m->name, metric_infos[i - 1].name) != 0)
			head(out, name, m->kind, m->help);
		if (m->labels[0])
			buf_printf(out, "%s{%s} %" PRId64 "\n", name, m->labels,
				metrics_sum((enum metric_id)i));
		else
			buf_printf(out, "%s %" PRId64 "\n", name, metrics_sum((enum metric_id)i));
	}
}

static void histograms(struct buf *out)
{
	uint64_t bucket[METRIC_HIST_BUCKETS], sum_ns, total;
	char name[96];

	for (int h = 0; h < METRIC_HIST_COUNT; h++) {
		metrics_hist_sum((enum metric_hist)h, bucket, &sum_ns);
		snprintf(name, sizeof(name), "roost_%s", metric_hist_infos[h].name);
		head(out, name, "histogram", metric_hist_infos[h].help);
		total = 0;
		for (int i = 0; i < METRIC_HIST_BUCKETS; i++) {
			total += bucket[i]; /* Prometheus counts what is at or below */
			if (i + 1 < METRIC_HIST_BUCKETS)
				buf_printf(out, "%s_bucket{le=\"%.9g\"} %" PRIu64 "\n", name,
					(double)(1u << i) / 1e6, total);
			else
				buf_printf(
					out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, total);
		}
		buf_printf(out, "%s_sum %.9f\n%s_count %" PRIu64 "\n", name, (double)sum_ns / 1e9,
			name, total);
	}
}

double metrics_quantile_s(const uint64_t *buckets, double q)
{
	uint64_t total = 0, seen = 0;

	for (int i = 0; i < METRIC_HIST_BUCKETS; i++)
		total += buckets[i];
	if (total == 0)
		return 0;
	for (int i = 0; i < METRIC_HIST_BUCKETS; i++) {
		seen += buckets[i];
		if ((double)seen >= q * (double)total)
			return (double)(1u << i) / 1e6;
	}
	return (double)(1u << (METRIC_HIST_BUCKETS - 1)) / 1e6;
}

static void gauge_set(enum metric_id id, uint64_t value)
{
	metric_add(id, (int64_t)value - metrics_sum(id));
}

bool admin_store_stats(const struct admin_source *src, struct db_stats *out)
{
	/* Gauges are sums of what threads added, so two setters at once would add twice. */
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	bool ok;

	if (!src->db)
		return false;
	pthread_mutex_lock(&mutex);
	ok = db_stats(src->db, out) == 0;
	if (ok) {
		gauge_set(M_STORE_MAP_BYTES, out->map_bytes);
		gauge_set(M_STORE_USED_BYTES, out->used_bytes);
	}
	pthread_mutex_unlock(&mutex);
	return ok;
}

int64_t admin_resident_bytes(void)
{
	char text[128], *second;
	long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fgets(text, sizeof(text), f) && (second = strchr(text, ' ')) != NULL)
		pages = strtoll(second, NULL, 10);
	fclose(f);
	return pages * sysconf(_SC_PAGESIZE);
}

void metrics_text(const struct admin_source *src, struct buf *out)
{
	const struct admin_server *s = &src->server;
	struct db_stats stats;
	struct rusage usage;
	const char *why = NULL;

	if (admin_store_stats(src, &stats)) {
		gauge(out, "roost_store_readers", "read transactions of all processes",
			(double)stats.readers);
		gauge(out, "roost_store_entries", "records in the store", (double)stats.entries);
	}
	counters(out);
	histograms(out);
	head(out, "roost_build_info", "gauge", "which build is running");
	buf_add_str(out, "roost_build_info{version=\"");
	label(out, roost_version);
	buf_add_str(out, "\",commit=\"");
	label(out, roost_commit);
	buf_add_str(out, "\"} 1\n");
	if (s->shards)
		gauge(out, "roost_shards", "threads that serve phones", s->shards(s->arg));
	if (s->ready)
		gauge(out, "roost_ready", "1 while new phones are welcome",
			s->ready(s->arg, &why) ? 1 : 0);
	/* Seconds left, not a date: the alert is then the same rule everywhere. */
	if (s->certificate_expiry_s)
		gauge(out, "roost_tls_cert_expiry_seconds",
			"time until the first of the certificates expires",
			(double)s->certificate_expiry_s(s->arg));
	gauge(out, "process_resident_memory_bytes", "resident memory",
		(double)admin_resident_bytes());
	if (getrusage(RUSAGE_SELF, &usage) == 0) {
		head(out, "process_cpu_seconds_total", "counter", "CPU time, user and system");
		buf_printf(out, "process_cpu_seconds_total %.6f\n",
			(double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
				(double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
	}
	gauge(out, "process_start_time_seconds", "start, in seconds since the epoch",
		(double)src->started_ms / 1000);
}
