/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What the admin listeners answer: metrics and health over HTTP, JSON lines on the control socket.
 */
#include "core/admin/admin_priv.h"
#include "core/base/metrics.h"
#include "core/base/sockets.h"
#include "tests/store/fixture.h"

#include <errno.h>
#include <jansson.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/config/config.h"
#include "tests/core/ipv6.h"

static bool is_ready = true;
static int stopped, reloads_fail;

static bool fake_ready(void *arg, const char **why_out)
{
	(void)arg;
	if (!is_ready)
		*why_out = "draining";
	return is_ready;
}

static bool fake_live(void *arg, const char **why_out)
{
	(void)arg, (void)why_out;
	return true;
}

static int64_t fake_expiry(void *arg)
{
	(void)arg;
	return 86400;
}

static unsigned fake_shards(void *arg)
{
	(void)arg;
	return 2;
}

static unsigned fake_parked(void *arg, uint32_t mailbox, uint32_t device,
	void (*one)(void *ctx, const struct admin_parked *p), void *ctx)
{
	unsigned n = *(unsigned *)arg;

	(void)device;
	for (unsigned i = 0; i < n; i++) {
		struct admin_parked p = {.mailbox = 1 + i % 2,
			.device = 1,
			.since_ms = 1000000 + (i * 7919u) % n, /* not in order */
			.due_ms = 2000000,
			.heartbeat_s = 900,
			.folders = {1, 77},
			.folder_count = 40,
			.ip = {[10] = 0xff, 0xff, 192, 0, 2, 1},
			.port = 5,
			.request_id = i};

		if (mailbox == 0 || mailbox == p.mailbox)
			one(ctx, &p);
	}
	return 1;
}

static bool fake_reload(void *arg, char *why, size_t why_bytes)
{
	(void)arg;
	if (reloads_fail)
		snprintf(why, why_bytes, "roost.conf:3: bad \xff");
	return !reloads_fail;
}

static void fake_stop(void *arg)
{
	(void)arg;
	stopped++;
}

static unsigned parked_n = 3;

static struct admin_source source(struct db *db)
{
	return (struct admin_source){.db = db,
		.started_ms = 1760000000000,
		.server = {.arg = &parked_n,
			.parked = fake_parked,
			.ready = fake_ready,
			.live = fake_live,
			.certificate_expiry_s = fake_expiry,
			.shards = fake_shards,
			.reload = fake_reload,
			.stop = fake_stop}};
}

static char *http(struct admin_source *s, const char *request)
{
	struct buf out = {0};
	size_t used = 0;

	assert_int_equal(admin_http_input(s, bytes_str(request), &used, &out), SERVE_CLOSE);
	assert_int_equal(used, strlen(request));
	buf_add_byte(&out, 0);
	return (char *)out.p;
}

static void http_says(const char *request, const char *a, const char *b)
{
	struct admin_source s = source(NULL);
	char *text = http(&s, request);

	if (strncmp(text, a, strlen(a)) != 0 || !strstr(text, b))
		fail_msg("%s\ngave: %s", request, text);
	free(text);
}

/* As a scraper reads it: each name has HELP and TYPE once and before its samples, values are
 * numbers, buckets grow. */
static void the_exposition_is_well_formed(void **state)
{
	struct fixture *f = *state;
	struct admin_source s = source(f->db);
	struct buf out = {0};
	char *text, *line, *next, type_of[100] = "";
	double last_bucket = -1;
	int types = 0, samples = 0;

	METRIC_ADD(WAKE_CHANGE, 5);
	metric_observe_ns(H_WAKE, 1500000);
	metric_observe_ns(H_WAKE, 900);
	metric_observe_ns(H_WAKE, 60ull * 1000000000);
	metrics_text(&s, &out);
	buf_add_byte(&out, 0);
	text = (char *)out.p;
	assert_non_null(strstr(text, "\nroost_wakes_total{reason=\"change\"} 5\n"));
	assert_non_null(strstr(text, "\nroost_wake_latency_seconds_bucket{le=\"1e-06\"} 1\n"));
	assert_non_null(strstr(text, "\nroost_wake_latency_seconds_bucket{le=\"0.001024\"} 1\n"));
	assert_non_null(strstr(text, "\nroost_wake_latency_seconds_bucket{le=\"0.002048\"} 2\n"));
	assert_non_null(strstr(text, "\nroost_wake_latency_seconds_bucket{le=\"+Inf\"} 3\n"));
	assert_non_null(strstr(text, "\nroost_wake_latency_seconds_count 3\n"));
	assert_non_null(strstr(text, "\nroost_wake_latency_seconds_sum 60.0015009"));
	assert_non_null(strstr(text, "\nroost_build_info{version=\""));
	assert_non_null(strstr(text, "\nroost_tls_cert_expiry_seconds 86400\n"));
	assert_non_null(strstr(text, "\nprocess_resident_memory_bytes "));
	assert_null(strstr(text, "\nroost_store_map_bytes 0\n"));
	for (line = text; *line; line = next) {
		char name[100], *end;
		double v;

		next = strchr(line, '\n');
		assert_non_null(next);
		*next++ = 0;
		if (strncmp(line, "# HELP ", 7) == 0)
			continue;
		if (strncmp(line, "# TYPE ", 7) == 0) {
			char needle[120];

			assert_int_equal(sscanf(line, "# TYPE %99s", type_of), 1);
			snprintf(needle, sizeof(needle), "# TYPE %s ", type_of);
			assert_null(strstr(next, needle));
			types++;
			last_bucket = -1;
			continue;
		}
		assert_int_equal(strncmp(line, type_of, strlen(type_of)), 0);
		assert_int_equal(sscanf(line, "%99[a-z_]", name), 1);
		end = strrchr(line, ' ');
		assert_non_null(end);
		v = strtod(end + 1, &end);
		assert_int_equal(*end, 0);
		if (strstr(line, "_bucket{")) {
			assert_true(v >= last_bucket);
			last_bucket = v;
		}
		samples++;
	}
	assert_true(types > 20 && samples > 50);
	buf_free(&out);
}

/* Gauges are the store's of this moment, however often they are asked for. */
static void gauges_of_the_store_do_not_add_up(void **state)
{
	struct fixture *f = *state;
	struct admin_source s = source(f->db);
	struct db_stats one;

	assert_true(admin_store_stats(&s, &one));
	assert_true(admin_store_stats(&s, &one));
	assert_int_equal(metrics_sum(M_STORE_MAP_BYTES), one.map_bytes);
	assert_int_equal(metrics_sum(M_STORE_USED_BYTES), one.used_bytes);
}

static void quantiles_are_bounds(void **state)
{
	uint64_t b[METRIC_HIST_BUCKETS] = {0};

	(void)state;
	assert_true(metrics_quantile_s(b, 0.5) == 0);
	b[10] = 98;
	b[20] = 2;
	assert_true(metrics_quantile_s(b, 0.5) == 1024e-6);
	assert_true(metrics_quantile_s(b, 0.98) == 1024e-6);
	assert_true(metrics_quantile_s(b, 0.99) == 1048576e-6);
}

static void http_answers(void **state)
{
	(void)state;
	http_says(
		"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n", "\r\n\r\nlive\n");
	http_says("GET /readyz?x=1 HTTP/1.1\n\n", "HTTP/1.1 200 OK\r\n", "\r\n\r\nready\n");
	is_ready = false;
	http_says("GET /readyz HTTP/1.0\r\n\r\n", "HTTP/1.1 503 ", "\r\n\r\ndraining\n");
	is_ready = true;
	http_says("GET /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n",
		"Content-Type: text/plain; version=0.0.4");
	http_says("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n", "/metrics");
	http_says("GET /metricsx HTTP/1.1\r\n\r\n", "HTTP/1.1 404 ", "Connection: close");
	http_says("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 ", "Allow: GET, HEAD");
	http_says("GET /metrics HTTP/2.0\r\n\r\n", "HTTP/1.1 400 ", "");
	http_says("GET /metrics\r\n\r\n", "HTTP/1.1 400 ", "");
	http_says("\r\n\r\n", "HTTP/1.1 400 ", "");
	http_says("\x16\x03\x01 \n\n", "HTTP/1.1 400 ", "");
}

static void head_has_no_body_and_halves_wait(void **state)
{
	struct admin_source s = source(NULL);
	char *text = http(&s, "HEAD /livez HTTP/1.1\r\n\r\n"), big[8192];
	struct buf out = {0};
	size_t used = 0;

	(void)state;
	assert_non_null(strstr(text, "Content-Length: 5\r\n"));
	assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\n");
	free(text);
	assert_int_equal(admin_http_input(&s, bytes_str("GET / HTTP/1.1\r\nA: b\r\n"), &used, &out),
		SERVE_MORE);
	assert_int_equal(admin_http_input(&s, bytes_of("", 0), &used, &out), SERVE_MORE);
	assert_int_equal(out.n, 0);
	memset(big, 'a', sizeof(big));
	assert_int_equal(
		admin_http_input(&s, bytes_of(big, sizeof(big)), &used, &out), SERVE_CLOSE);
	assert_memory_equal(out.p, "HTTP/1.1 431", 12);
	buf_free(&out);
}

/* Last line of an answer; *lines_out is how many came before it. */
static json_t *ask(struct admin_source *s, const char *request, size_t *lines_out)
{
	struct buf out = {0};
	json_t *last = NULL;
	size_t lines = 0;

	control_answer(s, bytes_str(request), &out);
	assert_false(out.failed);
	assert_true(out.n > 0 && out.p[out.n - 1] == '\n');
	for (uint8_t *p = out.p, *end; p < out.p + out.n; p = end + 1) {
		end = memchr(p, '\n', (size_t)(out.p + out.n - p));
		json_decref(last);
		last = json_loadb((char *)p, (size_t)(end - p), 0, NULL);
		assert_non_null(last);
		lines++;
		/* Only the last line has "ok". */
		assert_int_equal(json_object_get(last, "ok") != NULL, end + 1 == out.p + out.n);
	}
	buf_free(&out);
	if (lines_out)
		*lines_out = lines - 1;
	return last;
}

static void control_fails(const char *request, const char *code)
{
	struct admin_source s = source(NULL);
	json_t *j = ask(&s, request, NULL);

	if (!json_is_false(json_object_get(j, "ok")) ||
		strcmp(json_string_value(json_object_get(j, "code")), code) != 0)
		fail_msg("%s gave %s", request, json_dumps(j, 0));
	json_decref(j);
}

static void control_refuses_what_it_does_not_know(void **state)
{
	(void)state;
	control_fails("", "usage");
	control_fails("{", "usage");
	control_fails("[]", "usage");
	control_fails("{}", "usage");
	control_fails("{\"verb\": 5}", "usage");
	control_fails("{\"verb\": \"frobnicate\"}", "usage");
	control_fails("{\"verb\": \"top\", \"verb\": \"stop\"}", "usage");
	control_fails("{\"verb\": \"top\", \"limit\": -1}", "usage");
	control_fails("{\"verb\": \"top\", \"limit\": 100001}", "usage");
	control_fails("{\"verb\": \"top\", \"limit\": \"5\"}", "usage");
	control_fails("{\"verb\": \"why\"}", "usage");
	control_fails("{\"verb\": \"why\", \"id\": \"\"}", "usage");
	control_fails("{\"verb\": \"why\", \"id\": \"0x12\"}", "usage");
	control_fails("{\"verb\": \"why\", \"id\": \"00000000000000012\"}", "usage");
	control_fails("{\"verb\": \"why\", \"id\": \"fffffffffffffff0\"}", "not-found");
	control_fails("{\"verb\": \"ping-list\", \"user\": \"a@example.test\"}", "not-found");
	assert_int_equal(stopped, 0);
}

static void parked_requests_are_listed(void **state)
{
	struct fixture *f = *state;
	struct admin_source s = source(f->db);
	struct buf out = {0};
	size_t lines;
	json_t *j, *p;

	fixture_account(f, "a@example.test");
	fixture_account(f, "b@example.test");
	parked_n = 3;
	control_answer(&s, bytes_str("{\"verb\":\"ping-list\",\"limit\":1}"), &out);
	j = json_loadb((char *)out.p, strcspn((char *)out.p, "\n"), 0, NULL);
	p = json_object_get(j, "parked");
	assert_string_equal(json_string_value(json_object_get(p, "address")), "192.0.2.1");
	assert_string_equal(json_string_value(json_object_get(p, "command")), "Ping");
	assert_string_equal(
		json_string_value(json_array_get(json_object_get(p, "folders"), 0)), "Inbox");
	assert_string_equal(
		json_string_value(json_array_get(json_object_get(p, "folders"), 1)), "77");
	assert_int_equal(json_array_size(json_object_get(p, "folders")), 32);
	assert_int_equal(json_integer_value(json_object_get(p, "folder_count")), 40);
	assert_int_equal(json_integer_value(json_object_get(p, "since_ms")), 1000002);
	json_decref(j);
	buf_free(&out);

	j = ask(&s, "{\"verb\":\"ping-list\",\"user\":\"B@example.test\"}", &lines);
	assert_int_equal(lines, 1);
	assert_int_equal(json_integer_value(json_object_get(j, "silent_shards")), 1);
	json_decref(j);
	j = ask(&s, "{\"verb\":\"ping-list\",\"device\":\"nosuch\"}", &lines);
	assert_int_equal(lines, 0);
	json_decref(j);

	/* Of many the newest are shown, and all are counted. */
	parked_n = 100003;
	j = ask(&s, "{\"verb\":\"top\",\"limit\":10}", &lines);
	assert_int_equal(lines, 10);
	assert_int_equal(json_integer_value(json_object_get(j, "count")), 100003);
	assert_int_equal(json_integer_value(json_object_get(j, "shown")), 10);
	assert_non_null(json_object_get(json_object_get(j, "stats"), "metrics"));
	json_decref(j);
	control_answer(&s, bytes_str("{\"verb\":\"ping-list\",\"limit\":2}"), &out);
	j = json_loadb((char *)out.p, strcspn((char *)out.p, "\n"), 0, NULL);
	assert_int_equal(
		json_integer_value(json_object_get(json_object_get(j, "parked"), "since_ms")),
		1000000 + 100002);
	json_decref(j);
	buf_free(&out);
	j = ask(&s, "{\"verb\":\"ping-list\",\"limit\":0}", &lines);
	assert_int_equal(lines, 0);
	json_decref(j);
	parked_n = 3;
}

static void orders_reach_the_server(void **state)
{
	struct admin_source s = source(NULL);
	json_t *j;

	(void)state;
	json_decref(ask(&s, "{\"verb\":\"stop\"}", NULL));
	assert_int_equal(stopped, 1);
	stopped = 0;
	j = ask(&s, "{\"verb\":\"reload\"}", NULL);
	assert_true(json_is_true(json_object_get(j, "ok")));
	json_decref(j);
	reloads_fail = 1;
	j = ask(&s, "{\"verb\":\"reload\"}", NULL);
	assert_string_equal(
		json_string_value(json_object_get(j, "error")), "roost.conf:3: bad \\xff");
	json_decref(j);
	reloads_fail = 0;
	j = ask(&s, "{\"verb\":\"health\"}", NULL);
	assert_true(json_is_true(json_object_get(j, "live")));
	json_decref(j);
}

static void a_refusal_is_explained_over_the_socket(void **state)
{
	struct why_entry e = {.request_id = 0x4d2,
		.wall_ms = 1760000000000,
		.http_status = 400,
		.user_agent = "bad \xff agent",
		.reason = "malformed"};
	struct admin_source s = source(NULL);
	json_t *j, *w;

	(void)state;
	why_record(&e);
	j = ask(&s, "{\"verb\":\"why\",\"id\":\"4D2\"}", NULL);
	w = json_object_get(j, "why");
	assert_string_equal(
		json_string_value(json_object_get(w, "request_id")), "00000000000004d2");
	assert_string_equal(json_string_value(json_object_get(w, "agent")), "bad \\xff agent");
	assert_string_equal(json_string_value(json_object_get(w, "time")), "2025-10-09T08:53:20Z");
	assert_non_null(strstr(json_string_value(json_object_get(w, "text")), "malformed"));
	json_decref(j);
}

/* Where the socket cuts must not matter, and several requests may come together. */
static void lines_are_found_in_the_stream(void **state)
{
	struct admin_source s = source(NULL);
	char big[CONTROL_LINE_BYTES];
	struct buf out = {0};
	size_t used = 0;

	(void)state;
	assert_int_equal(
		control_input(&s, bytes_str("{\"verb\":\"health\""), &used, &out), SERVE_MORE);
	assert_int_equal(out.n, 0);
	assert_int_equal(control_input(&s, bytes_str("{\"verb\":\"health\"}\n{\"ve"), &used, &out),
		SERVE_AGAIN);
	assert_int_equal(used, 18);
	buf_free(&out);
	out = (struct buf){0};
	memset(big, ' ', sizeof(big));
	assert_int_equal(control_input(&s, bytes_of(big, sizeof(big)), &used, &out), SERVE_CLOSE);
	assert_int_equal(used, sizeof(big));
	buf_free(&out);
}

static int connect_to(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static size_t read_all(int fd, char *out, size_t cap)
{
	size_t n = 0;
	ssize_t got;

	while (n + 1 < cap && (got = read(fd, out + n, cap - 1 - n)) > 0) {
		n += (size_t)got;
		if (out[n - 1] == '\n' && strncmp(out, "HTTP", 4) != 0)
			break;
	}
	out[n] = 0;
	return n;
}

/* The sockets themselves: modes, a socket left by a killed server, many requests on one
 * connection, more clients than there are places. */
static void sockets_serve(void **state)
{
	struct fixture *f = *state;
	struct admin_source s = source(f->db);
	struct config *c = config_new();
	char control[300], http_path[300], setting[400], why[600] = "", text[8192];
	struct admin *a;
	struct stat st;
	int fd, idle[40];

	snprintf(control, sizeof(control), "%s/control", f->dir);
	snprintf(http_path, sizeof(http_path), "%s/http", f->dir);
	snprintf(setting, sizeof(setting), "listen.admin=unix:%s,127.0.0.1:0", http_path);
	assert_true(config_set(c, setting, why, sizeof(why)));
	for (int round = 0; round < 2; round++) {
		a = admin_start(c, f->db, &s.server, NULL, why, sizeof(why));
		if (!a)
			fail_msg("%s", why);
		assert_int_equal(stat(control, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);

		fd = connect_to(control);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(write(fd, "{\"verb\":\"health\"}\n", 18), 18);
			assert_true(read_all(fd, text, sizeof(text)) > 0);
			assert_non_null(strstr(text, "\"ok\":true"));
		}
		close(fd);

		fd = connect_to(http_path);
		assert_int_equal(write(fd, "GET /livez HTTP/1.1\r\n\r\n", 23), 23);
		assert_true(read_all(fd, text, sizeof(text)) > 0);
		assert_memory_equal(text, "HTTP/1.1 200 OK", 15);
		close(fd);

		for (int i = 0; i < 40; i++)
			idle[i] = connect_to(http_path);
		for (int i = 0; i < 40; i++)
			close(idle[i]);
		fd = connect_to(http_path);
		assert_int_equal(write(fd, "GET /readyz HTTP/1.1\r\n\r\n", 24), 24);
		assert_true(read_all(fd, text, sizeof(text)) > 0);
		close(fd);

		/* Another server on the same address is refused while this one lives. */
		assert_null(admin_start(c, f->db, &s.server, NULL, why, sizeof(why)));
		assert_non_null(strstr(why, "cannot listen on"));
		admin_stop(&a);
		assert_null(a);
		assert_int_not_equal(access(control, F_OK), 0);
		assert_int_equal(
			access(http_path, F_OK), 0); /* as a killed server would leave it */
	}
	/* What is no socket is not removed. */
	unlink(http_path);
	fclose(fopen(http_path, "w"));
	assert_null(admin_start(c, f->db, &s.server, NULL, why, sizeof(why)));
	assert_int_equal(access(http_path, F_OK), 0);
	config_free(&c);
}

/* To who asks from elsewhere: ":8081" is every address, also under net.ipv6.bindv6only, and where there is no IPv6. */
static void every_address_is_asked(void **state)
{
	struct fixture *f = *state;
	struct admin_source s = source(f->db);
	struct config *c = config_new();
	char why[600] = "";

	assert_true(config_set(c, "listen.admin=:0", why, sizeof(why)));
	for (int machine = 0; machine < 3; machine++) {
		struct socket_list sockets = {0};
		struct admin *a;

		bind_v6_only = machine == 1;
		no_v6 = machine == 2;
		a = admin_start(c, f->db, &s.server, NULL, why, sizeof(why));
		if (!a)
			fail_msg("%s", why);
		admin_sockets(a, &sockets);
		assert_true(v4_reaches(sockets_take(&sockets, "admin", ":0")));
		sockets_free(&sockets, 0);
		admin_stop(&a);
	}
	bind_v6_only = no_v6 = false;
	config_free(&c);
}

#define STORE(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		STORE(the_exposition_is_well_formed),
		STORE(gauges_of_the_store_do_not_add_up),
		cmocka_unit_test(quantiles_are_bounds),
		cmocka_unit_test(http_answers),
		cmocka_unit_test(head_has_no_body_and_halves_wait),
		cmocka_unit_test(control_refuses_what_it_does_not_know),
		STORE(parked_requests_are_listed),
		cmocka_unit_test(orders_reach_the_server),
		cmocka_unit_test(a_refusal_is_explained_over_the_socket),
		cmocka_unit_test(lines_are_found_in_the_stream),
		STORE(sockets_serve),
		STORE(every_address_is_asked),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
