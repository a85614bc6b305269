/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* What goes to standard error, caught in a file. */
static int saved_stderr = -1;
static char path[64];

static void catch_begin(void)
{
	int fd;

	strcpy(path, "/tmp/roost-test-log-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	saved_stderr = dup(STDERR_FILENO);
	dup2(fd, STDERR_FILENO);
	close(fd);
}

static char *catch_end(void)
{
	char *text = calloc(1, 1 << 20);
	FILE *f;

	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(text);
	assert_true(fread(text, 1, (1 << 20) - 1, f) < (1 << 20) - 1);
	fclose(f);
	unlink(path);
	return text;
}

static void numbers_are_what_printf_would_write(void **state)
{
	static const uint64_t unsigneds[] = {
		0, 1, 9, 10, 99, 100, 4294967296, UINT64_MAX / 10, UINT64_MAX - 1, UINT64_MAX};
	static const int64_t signeds[] = {0, -1, 1, -10, 126, INT64_MIN, INT64_MAX};
	struct log_line l;
	char want[128];

	(void)state;
	log_set_priority_prefix(true);
	for (size_t i = 0; i < sizeof(unsigneds) / sizeof(unsigneds[0]); i++) {
		log_begin(&l, LOG_INFO, "x");
		log_u64(&l, "u", unsigneds[i]);
		log_hex(&l, "h", unsigneds[i]);
		snprintf(want, sizeof(want), "<6>x u=%llu h=%016llx",
			(unsigned long long)unsigneds[i], (unsigned long long)unsigneds[i]);
		assert_int_equal(l.n, strlen(want));
		assert_memory_equal(l.text, want, l.n);
	}
	for (size_t i = 0; i < sizeof(signeds) / sizeof(signeds[0]); i++) {
		log_begin(&l, LOG_INFO, "x");
		log_i64(&l, "i", signeds[i]);
		snprintf(want, sizeof(want), "<6>x i=%lld", (long long)signeds[i]);
		assert_int_equal(l.n, strlen(want));
		assert_memory_equal(l.text, want, l.n);
	}
}

static void no_value_forges_a_line_or_a_key(void **state)
{
	struct log_line l;
	char *text;

	(void)state;
	log_set_priority_prefix(true);
	catch_begin();
	log_begin(&l, LOG_WARNING, "x");
	log_str(&l, "a", "two words\nand=a line \"quoted\\");
	log_str(&l, "b", NULL);
	log_str(&l, "c", "");
	log_bytes(&l, "d", bytes_of("\xc3\xa4\xff", 3));
	log_end(&l);
	text = catch_end();
	assert_string_equal(text,
		"<4>x level=warning a=\"two words\\x0aand=a line \\\"quoted\\\\\" "
		"c=\"\" d=\"\\xc3\\xa4\\xff\"\n");
	free(text);
}

static void a_long_line_says_that_it_was_cut(void **state)
{
	struct log_line l;
	char value[2 * LOG_LINE_BYTES];
	char *text;
	size_t n;

	(void)state;
	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = 0;
	catch_begin();
	log_begin(&l, LOG_INFO, "x");
	log_str(&l, "long", value);
	log_str(&l, "after", "y");
	log_end(&l);
	text = catch_end();
	n = strlen(text);
	assert_true(n <= LOG_LINE_BYTES);
	assert_string_equal(text + n - 7, " cut=1\n");
	free(text);
}

/* Four threads, half of their lines held back in between: each line whole, each once, those of a
 * thread in order, and what is missing was counted. */
enum { THREADS = 4, LINES = 2000 };

static void *writes_lines(void *arg)
{
	struct log_line l;

	for (uint64_t i = 0; i < LINES; i++) {
		if (i % 500 == 250)
			log_hold();
		log_begin(&l, LOG_INFO, "line");
		log_u64(&l, "thread", (uint64_t)(uintptr_t)arg);
		log_u64(&l, "n", i);
		log_end(&l);
		if (i % 500 == 499)
			log_release();
	}
	return NULL;
}

static void lines_of_many_threads_stay_whole(void **state)
{
	pthread_t threads[THREADS];
	long last[THREADS] = {-1, -1, -1, -1};
	unsigned seen = 0;
	uint64_t dropped = log_dropped();
	char *text, *save = NULL;

	(void)state;
	log_set_priority_prefix(true);
	catch_begin();
	log_start();
	for (uintptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, writes_lines, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	log_stop();
	text = catch_end();
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char again[64];
		unsigned thread;
		long n;

		assert_int_equal(sscanf(line, "<6>line thread=%u n=%ld", &thread, &n), 2);
		snprintf(again, sizeof(again), "<6>line thread=%u n=%ld", thread, n);
		assert_string_equal(line, again);
		assert_true(thread < THREADS && n > last[thread]);
		last[thread] = n;
		seen++;
	}
	assert_int_equal(seen + (log_dropped() - dropped), THREADS * LINES);
	assert_true(seen > 0);
	free(text);
}

/* Nobody reads: the ring fills, and what finds no room is counted, line by line. */
static void what_finds_no_room_is_counted(void **state)
{
	enum { MANY = 20000 };
	int ends[2], saved, nowhere;
	uint64_t dropped = log_dropped();
	struct log_line l;
	unsigned seen = 0;
	char buf[4096];
	ssize_t n;

	(void)state;
	assert_int_equal(pipe(ends), 0);
	saved = dup(STDERR_FILENO);
	dup2(ends[1], STDERR_FILENO);
	log_start();
	log_hold();
	for (uint64_t i = 0; i < MANY; i++) {
		log_begin(&l, LOG_INFO, "line");
		log_str(&l, "text", "some fifty bytes that make the ring of 256 KiB full");
		log_u64(&l, "n", i);
		log_end(&l);
	}
	log_release();
	dropped = log_dropped() - dropped;
	assert_true(dropped > 0 && dropped < MANY);
	/* The writer hangs in a write to the pipe; what comes after it nobody needs. */
	n = read(ends[0], buf, sizeof(buf)); /* (it has begun) */
	for (ssize_t i = 0; i < n; i++)
		seen += buf[i] == '\n';
	nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
	dup2(nowhere, STDERR_FILENO);
	close(nowhere);
	close(ends[1]);
	while (seen < MANY - dropped && (n = read(ends[0], buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			seen += buf[i] == '\n';
	close(ends[0]);
	log_stop();
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_true(seen > 0 && seen <= MANY - dropped);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_what_printf_would_write),
		cmocka_unit_test(no_value_forges_a_line_or_a_key),
		cmocka_unit_test(a_long_line_says_that_it_was_cut),
		cmocka_unit_test(lines_of_many_threads_stay_whole),
		cmocka_unit_test(what_finds_no_room_is_counted),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
