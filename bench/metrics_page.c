/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/metrics_page.h"

#include "bench/fleet/http_answer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { PAGE_BYTES_MAX = 4 << 20 };

bool metrics_fetch(const struct url *from, struct metrics_page *page, char *why, size_t why_bytes)
{
	struct timeval limit = {.tv_sec = 10};
	int fd = socket(from->to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct http_answer a;
	const char *reason = "the connection ended too early";
	struct buf in = {0};
	char request[1024], host[300], status[32];
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
		/* (one with a time limit is never restarted, and the end of a loop of this thread interrupts it) */
		ssize_t got = room ? TEMP_FAILURE_RETRY(recv(fd, room, 16384, 0)) : -1;

		if (got < 0)
			reason = strerror(errno);
		if (got <= 0)
			break;
		in.n += (size_t)got;
		k = http_answer_parse(in.p, in.n, &a, &reason);
		if (k < 0)
			break;
		if (k == 1 && in.n - a.head_bytes >= a.content_length) {
			snprintf(status, sizeof(status), "HTTP %d", a.status);
			reason = status;
			if (a.status != 200)
				break;
			page->text.n = 0;
			buf_add(&page->text, in.p + a.head_bytes, (size_t)a.content_length);
			buf_add_byte(&page->text, 0);
			ok = !page->text.failed;
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
		const char *stop = end ? end : line + strlen(line), *value = NULL;

		if (strncmp(line, name, n) == 0) {
			const char *labels = line + n;

			if (*labels == ' ')
				value = labels;
			else if (*labels == '{')
				value = memchr(labels, '}', (size_t)(stop - labels));
			if (value && *value == '}')
				value++;
			/* strtod would go on into the next line. */
			while (value && value < stop && *value == ' ')
				value++;
			if (value && value < stop)
				fn(arg, labels, *labels == '{' ? (size_t)(value - labels) : 0,
					strtod(value, NULL));
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
