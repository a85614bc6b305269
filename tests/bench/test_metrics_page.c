/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Figures that are the server's own are those of its page: no other name's, no other line's. */
#include "bench/metrics_page.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

static struct metrics_page page_of(const char *text)
{
	struct metrics_page page = {.text = {0}};

	buf_add(&page.text, text, strlen(text) + 1);
	return page;
}

static double value_of(const char *text, const char *name, const char *labels)
{
	struct metrics_page page = page_of(text);
	double v = metrics_value(&page, name, labels);

	metrics_free(&page);
	return v;
}

static void samples_of_a_name_are_added(void **state)
{
	static const char text[] = "# HELP a Of something.\n# TYPE a counter\n"
				   "a{shard=\"0\",by=\"peer\"} 2\na{shard=\"1\",by=\"peer\"} 3\n"
				   "a{shard=\"1\",by=\"server\"} 10\nab 100\na_b{by=\"peer\"} 100\n"
				   "b 1.5e3\nba 7";
	struct metrics_page empty = {.text = {0}};

	(void)state;
	assert_true(value_of(text, "a", NULL) == 15);
	assert_true(value_of(text, "a", "by=\"peer\"") == 5);
	assert_true(value_of(text, "a", "shard=\"1\"") == 13);
	assert_true(value_of(text, "a", "nobody") == 0);
	assert_true(value_of(text, "b", NULL) == 1500);
	assert_true(value_of(text, "b", "any") == 0);
	assert_true(value_of(text, "ba", NULL) == 7);
	assert_true(value_of(text, "absent", NULL) == 0);
	assert_true(metrics_value(&empty, "a", NULL) == 0);
}

/* A line that is cut or odd has no value; above all not the next line's. */
static void odd_lines_have_no_value(void **state)
{
	(void)state;
	assert_true(value_of("a \n5\n", "a", NULL) == 0);
	assert_true(value_of("a{x=\"1\"}\n5\n", "a", NULL) == 0);
	assert_true(value_of("a{x=\"1\nb{y=\"2\"} 5\n", "a", NULL) == 0);
	assert_true(value_of("a{x=\"1\nb{y=\"2\"} 5\n", "b", NULL) == 5);
	assert_true(value_of("a", "a", NULL) == 0);
	assert_true(value_of("a{", "a", NULL) == 0);
	assert_true(value_of(" a 5\n", "a", NULL) == 0);
	assert_true(value_of("a 5", "a", NULL) == 5);
}

static void histograms_are_differences(void **state)
{
	struct metrics_page before = page_of("h_bucket{le=\"1\"} 10\nh_bucket{le=\"2\"} 10\n"
					     "h_bucket{le=\"+Inf\"} 10\nh_sum 5\nh_count 10\n");
	struct metrics_page after = page_of("h_bucket{le=\"1\"} 12\nh_bucket{le=\"2\"} 19\n"
					    "h_bucket{le=\"+Inf\"} 20\nh_sum 25\nh_count 20\n");
	struct metrics_page nothing = page_of("x 1\n");
	uint64_t n = 7;

	(void)state;
	assert_true(metrics_hist_quantile(&before, &after, "h", 0.2) == 1);
	assert_true(metrics_hist_quantile(&before, &after, "h", 0.21) == 2);
	assert_true(metrics_hist_quantile(&before, &after, "h", 0.9) == 2);
	assert_true(isinf(metrics_hist_quantile(&before, &after, "h", 0.99)));
	assert_true(metrics_hist_mean(&before, &after, "h", &n) == 2);
	assert_int_equal(n, 10);
	/* A page from before the first observation has no buckets yet. */
	assert_true(metrics_hist_quantile(&nothing, &after, "h", 0.5) == 1);
	assert_true(metrics_hist_quantile(&after, &nothing, "h", 0.5) == 0);
	assert_true(metrics_hist_quantile(&after, &after, "h", 0.5) == 0);
	assert_true(metrics_hist_mean(&after, &after, "h", &n) == 0);
	assert_int_equal(n, 0);
	metrics_free(&before);
	metrics_free(&after);
	metrics_free(&nothing);
}

struct server {
	int fd;
	const char *answer;
	pthread_t client;
};

static void *serve(void *arg)
{
	struct server *s = arg;
	int fd = accept(s->fd, NULL, NULL);
	char in[1024];

	if (fd < 0)
		return NULL;
	(void)!recv(fd, in, sizeof(in), 0);
	for (const char *p = s->answer; *p; p++) {
		if (p - s->answer < 3)
			loopback_disturb(s->client);
		(void)!send(fd, p, 1, MSG_NOSIGNAL);
	}
	close(fd);
	return NULL;
}

static bool fetch(const char *answer, struct metrics_page *page, char *why, size_t why_bytes)
{
	struct sockaddr_storage at;
	struct server s = {.fd = loopback_listen(&at), .answer = answer, .client = pthread_self()};
	struct url from = {.host = "127.0.0.1", .to = at, .to_bytes = sizeof(struct sockaddr_in)};
	pthread_t thread;
	bool ok;

	assert_int_equal(pthread_create(&thread, NULL, serve, &s), 0);
	ok = metrics_fetch(&from, page, why, why_bytes);
	loopback_end(s.fd, thread);
	return ok;
}

static void a_page_is_fetched_whole_or_not(void **state)
{
	struct metrics_page page = {.text = {0}};
	char why[256];

	(void)state;
	assert_true(fetch(
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 7\n", &page, why, sizeof(why)));
	assert_true(metrics_value(&page, "a", NULL) == 7);
	assert_true(fetch(
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 8\n", &page, why, sizeof(why)));
	assert_true(metrics_value(&page, "a", NULL) == 8);
	assert_false(fetch(
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na 9\n", &page, why, sizeof(why)));
	assert_non_null(strstr(why, "too early"));
	assert_true(metrics_value(&page, "a", NULL) == 8);
	assert_false(fetch(
		"HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\na 9\n", &page, why, sizeof(why)));
	assert_non_null(strstr(why, "404"));
	assert_true(metrics_value(&page, "a", NULL) == 8);
	assert_false(fetch("220 mail\r\n", &page, why, sizeof(why)));
	metrics_free(&page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(samples_of_a_name_are_added),
		cmocka_unit_test(odd_lines_have_no_value),
		cmocka_unit_test(histograms_are_differences),
		cmocka_unit_test(a_page_is_fetched_whole_or_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
