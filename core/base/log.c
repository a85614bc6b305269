/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/log.h"

#include "core/base/clock.h"
#include "core/base/metrics.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { QUEUE_BYTES = 256 * 1024, HELD_BYTES = 16 * 1024 };

/* A ring of bytes under a mutex that is held for one copy, never for a write. */
static struct {
	pthread_mutex_t mutex;
	pthread_cond_t more;
	char *ring;
	size_t head, count;
	bool running, stop;
	pthread_t thread;
	uint64_t dropped;
} q = {.mutex = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER};

/* Lines of a thread between log_hold and log_release. */
static _Thread_local struct {
	bool on;
	size_t n;
	char text[HELD_BYTES];
} held;

static _Atomic(enum log_level) level_max = LOG_INFO;
static bool priority_prefix;

static const char *const level_names[] = {"error", "warning", "info", "debug"};
static const char level_priority[] = {'3', '4', '6', '7'};

static void put(struct log_line *l, const char *p, size_t n)
{
	size_t room = LOG_LINE_BYTES - 8 - l->n; /* " cut=1\n" fits always */

	if (n > room) {
		n = room;
		l->cut = true;
	}
	memcpy(l->text + l->n, p, n);
	l->n = (uint16_t)(l->n + n);
}

static void put_str(struct log_line *l, const char *s)
{
	put(l, s, strlen(s));
}

static void key(struct log_line *l, const char *k)
{
	put(l, " ", 1);
	put_str(l, k);
	put(l, "=", 1);
}

/* "2026-11-20T10:00:00.123Z roostd[812]: ". All but the milliseconds is made once a second and
 * thread: a wake's line must not cost more than the wake. */
static void put_stamp(struct log_line *l)
{
	static _Thread_local char text[64];
	static _Thread_local size_t n, millis_at;
	static _Thread_local time_t second;
	struct timespec t;
	struct tm tm;
	long ms;

	clock_gettime(CLOCK_REALTIME, &t);
	if (n == 0 || t.tv_sec != second) {
		second = t.tv_sec;
		gmtime_r(&second, &tm);
		millis_at = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S.", &tm);
		n = millis_at + (size_t)snprintf(text + millis_at, sizeof(text) - millis_at,
					"000Z roostd[%d]: ", (int)getpid());
	}
	ms = t.tv_nsec / 1000000;
	text[millis_at] = (char)('0' + ms / 100);
	text[millis_at + 1] = (char)('0' + ms / 10 % 10);
	text[millis_at + 2] = (char)('0' + ms % 10);
	put(l, text, n);
}

void log_begin(struct log_line *l, enum log_level level, const char *event)
{
	l->n = 0;
	l->cut = false;
	l->level = (uint8_t)level;
	l->skip = level > atomic_load_explicit(&level_max, memory_order_relaxed);
	if (l->skip)
		return;
	if (priority_prefix) {
		char priority[3] = {'<', level_priority[level], '>'};

		put(l, priority, 3);
	} else {
		put_stamp(l);
	}
	put_str(l, event);
	if (level <= LOG_WARNING)
		log_str(l, "level", level_names[level]);
}

static bool plain(struct bytes v)
{
	if (v.n == 0)
		return false;
	for (size_t i = 0; i < v.n; i++)
		if (v.p[i] <= ' ' || v.p[i] >= 0x7f || v.p[i] == '"' || v.p[i] == '=' ||
			v.p[i] == '\\')
			return false;
	return true;
}

void log_bytes(struct log_line *l, const char *k, struct bytes v)
{
	char esc[8];
	bool utf8;

	if (l->skip)
		return;
	key(l, k);
	if (plain(v)) {
		put(l, (const char *)v.p, v.n);
		return;
	}
	utf8 = bytes_is_utf8(v);
	put(l, "\"", 1);
	for (size_t i = 0; i < v.n; i++) {
		uint8_t c = v.p[i];

		if (c == '"' || c == '\\') {
			esc[0] = '\\';
			esc[1] = (char)c;
			put(l, esc, 2);
		} else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8)) {
			snprintf(esc, sizeof(esc), "\\x%02x", c);
			put(l, esc, 4);
		} else {
			put(l, (const char *)&c, 1);
		}
	}
	put(l, "\"", 1);
}

void log_str(struct log_line *l, const char *k, const char *v)
{
	if (v)
		log_bytes(l, k, bytes_str(v));
}

/* Numbers by hand: five snprintf would cost a wake more than sealing its answer does. */
static void put_u64(struct log_line *l, uint64_t v)
{
	char t[20];
	size_t at = sizeof(t);

	do
		t[--at] = (char)('0' + v % 10);
	while (v /= 10);
	put(l, t + at, sizeof(t) - at);
}

void log_u64(struct log_line *l, const char *k, uint64_t v)
{
	if (l->skip)
		return;
	key(l, k);
	put_u64(l, v);
}

void log_i64(struct log_line *l, const char *k, int64_t v)
{
	if (l->skip)
		return;
	key(l, k);
	if (v < 0)
		put(l, "-", 1);
	put_u64(l, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

void log_hex(struct log_line *l, const char *k, uint64_t v)
{
	char t[16];

	if (l->skip)
		return;
	key(l, k);
	for (int i = 15; i >= 0; i--, v >>= 4)
		t[i] = "0123456789abcdef"[v & 15];
	put(l, t, sizeof(t));
}

static void write_all(const char *p, size_t n)
{
	while (n) {
		ssize_t w = write(STDERR_FILENO, p, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return;
		p += w;
		n -= (size_t)w;
	}
}

/* Whole lines: all are queued, or as many as find room; the others are counted. */
static void enqueue(const char *p, size_t n)
{
	size_t room, at, first, cut = 0;

	pthread_mutex_lock(&q.mutex);
	if (!q.running) {
		pthread_mutex_unlock(&q.mutex);
		write_all(p, n);
		return;
	}
	room = QUEUE_BYTES - q.count;
	if (room < n) {
		const char *last = memrchr(p, '\n', room);

		cut = n;
		n = last ? (size_t)(last - p) + 1 : 0;
		for (size_t i = n; i < cut; i++)
			if (p[i] == '\n') {
				q.dropped++;
				METRIC_INC(LOG_DROPPED);
			}
	}
	at = (q.head + q.count) % QUEUE_BYTES;
	first = QUEUE_BYTES - at;
	if (first > n)
		first = n;
	memcpy(q.ring + at, p, first);
	memcpy(q.ring, p + first, n - first);
	if (!q.count && n)
		pthread_cond_signal(&q.more);
	q.count += n;
	pthread_mutex_unlock(&q.mutex);
}

void log_hold(void)
{
	held.on = true;
}

static void flush_held(void)
{
	if (held.n)
		enqueue(held.text, held.n);
	held.n = 0;
}

void log_release(void)
{
	held.on = false;
	flush_held();
}

void log_end(struct log_line *l)
{
	if (l->skip)
		return;
	if (l->cut) {
		memcpy(l->text + l->n, " cut=1", 6);
		l->n += 6;
	}
	l->text[l->n++] = '\n';
	if (!held.on) {
		enqueue(l->text, l->n);
		return;
	}
	if (HELD_BYTES - held.n < l->n)
		flush_held();
	memcpy(held.text + held.n, l->text, l->n);
	held.n += l->n;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	struct log_line l;
	char text[LOG_LINE_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_begin(&l, level, text);
	log_end(&l);
}

static void *writer(void *arg)
{
	/* What came meanwhile is one write: a burst of requests costs few system calls. The bytes
	 * stay in the ring until they are written, so nothing is copied again. */
	size_t n;

	(void)arg;
	pthread_mutex_lock(&q.mutex);
	for (;;) {
		while (!q.count && !q.stop)
			pthread_cond_wait(&q.more, &q.mutex);
		if (!q.count)
			break;
		n = QUEUE_BYTES - q.head;
		if (n > q.count)
			n = q.count;
		pthread_mutex_unlock(&q.mutex);
		write_all(q.ring + q.head, n);
		pthread_mutex_lock(&q.mutex);
		q.head = (q.head + n) % QUEUE_BYTES;
		q.count -= n;
	}
	pthread_mutex_unlock(&q.mutex);
	return NULL;
}

void log_start(void)
{
	q.ring = malloc(QUEUE_BYTES);
	if (!q.ring)
		return;
	q.stop = false;
	if (pthread_create(&q.thread, NULL, writer, NULL) == 0) {
		pthread_mutex_lock(&q.mutex);
		q.running = true;
		pthread_mutex_unlock(&q.mutex);
	}
}

void log_stop(void)
{
	pthread_mutex_lock(&q.mutex);
	if (!q.running) {
		pthread_mutex_unlock(&q.mutex);
		return;
	}
	q.stop = true;
	q.running = false;
	pthread_cond_signal(&q.more);
	pthread_mutex_unlock(&q.mutex);
	pthread_join(q.thread, NULL);
	free(q.ring);
	q.ring = NULL;
}

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&level_max, level, memory_order_relaxed);
}

bool log_level_parse(const char *name, enum log_level *out)
{
	for (int i = 0; i < 4; i++)
		if (strcmp(name, level_names[i]) == 0) {
			*out = (enum log_level)i;
			return true;
		}
	return false;
}

void log_set_priority_prefix(bool prefix)
{
	priority_prefix = prefix;
}

uint64_t log_dropped(void)
{
	return q.dropped;
}
