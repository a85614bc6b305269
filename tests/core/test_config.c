/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/base/bytes.h"
#include "core/base/check.h"
#include "core/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char why[600];

static bool read_text(struct config *c, const char *text)
{
	why[0] = 0;
	return config_read_text(c, "r.conf", text, why, sizeof(why));
}

/* One line that says all of these. */
static void refused(const char *text, const char *a, const char *b)
{
	struct config *c = config_new();

	if (read_text(c, text))
		fail_msg("accepted: %s", text);
	if (!strstr(why, a) || !strstr(why, b) || strchr(why, '\n'))
		fail_msg("%s\ngave: %s\nwanted: %s ... %s", text, why, a, b);
	config_free(&c);
}

static void defaults_are_those_of_the_list(void **state)
{
	struct config *c = config_new();

	(void)state;
#define CONFIG_STR(s, k, def, help)  assert_string_equal(c->s##_##k, def);
#define CONFIG_ENUM(s, k, def, a, h) assert_string_equal(c->s##_##k, def);
#define CONFIG_BOOL(s, k, def, help) assert_int_equal(c->s##_##k, def);
#define CONFIG_INT(s, k, def, lo, hi, help)                                                        \
	assert_int_equal(c->s##_##k, def);                                                         \
	assert_true(def >= lo && def <= hi);
#define CONFIG_LIST(s, k, def, help) assert_int_equal(c->s##_##k.n, 0);
#include "core/config/config.def"
	assert_true(config_check(c, why, sizeof(why)));
	config_free(&c);
	assert_null(c);
	config_free(&c);
}

static void a_file_sets_every_kind(void **state)
{
	struct config *c = config_new();

	(void)state;
	assert_true(read_text(c, "# comment\n"
				 "listen {\n"
				 "  https = {\"192.0.2.1:443\", \":8443\"}\n"
				 "  http = \"127.0.0.1:80\"\n"
				 "  lmtp = {}\n"
				 "}\n"
				 "tls { self_signed = yes }\n"
				 "push { heartbeat_min_s = 120 }\n"
				 "/* more */ log { level = debug }\n"
				 "store { dir = \"/srv/with space\" }\n"));
	assert_int_equal(c->listen_https.n, 2);
	assert_string_equal(c->listen_https.v[0], "192.0.2.1:443");
	assert_string_equal(c->listen_https.v[1], ":8443");
	assert_int_equal(c->listen_http.n, 1);
	assert_int_equal(c->listen_lmtp.n, 0);
	assert_true(c->tls_self_signed);
	assert_int_equal(c->push_heartbeat_min_s, 120);
	assert_string_equal(c->log_level, "debug");
	assert_string_equal(c->store_dir, "/srv/with space");
	assert_true(config_check(c, why, sizeof(why)));
	config_free(&c);
}

/* To the administrator: where, what was found, what is allowed, in one line. */
static void errors_name_line_and_remedy(void **state)
{
	(void)state;
	refused("\n\npush {\n  heartbeat_min_s = 9999\n}\n", "r.conf:4:", "1 to 3540");
	refused("push { heartbeat_min_s = ten }", "\"ten\"", "a whole number from 1 to 3540");
	refused("push { heartbeat_min_s = -5 }", "r.conf:1:", "1 to 3540");
	refused("push { heartbeat_min_s = 99999999999999999999999 }", "r.conf:1:", "1 to 3540");
	refused("push {\n heartbeat_mim_s = 60 }",
		"r.conf:2:", "did you mean push.heartbeat_min_s?");
	refused("pusch { }", "\"pusch\"", "did you mean push?");
	refused("frobnicate { }", "is no section", "listen, tls, store");
	refused("push { frobnicate = 1 }", "no key \"frobnicate\"", "folders_max");
	refused("heartbeat_min_s = 60", "outside of a section", "push { }");
	refused("log { level = inof }", "\"inof\"", "did you mean info?");
	refused("log { level = loud }", "\"loud\"", "error warning info debug");
	refused("log { requests = maybe }", "\"maybe\"", "true or false");
	refused("log {\n requests = true\n requests = false\n}", "r.conf:3:", "second time");
	refused("log { level = info }\nlog { level = info }", "r.conf:2:", "second time");
	refused("listen { https = {\":1\"}\n https = {\":2\"} }", "r.conf:2:", "second time");
	refused("push {\n folders_max = 5\n", "'}' of section push", "missing");
	refused("push { folders_max = 5 }\n/* open", "ends inside of a comment", "");
	refused("push { folders_max = \"5 }", "r.conf:", "");
	refused("push = 5", "r.conf:1:", "");
	refused("store { dir = {\"a\"} }", "r.conf:1:", "");
	refused("include(\"/etc/passwd\")", "r.conf:1:", "");
	refused("log { level = \"a\nb\x01\" }", "\\x0ab\\x01", "error warning");
}

static void environment_beats_file_and_command_line_beats_both(void **state)
{
	char *const env[] = {"PATH=/bin", "ROOST_PUSH_HEARTBEAT_MAX_S=1800",
		"ROOST_LISTEN_HTTPS= :443 , [::1]:444,", "ROOST_LOG_REQUESTS=off", "ROOST_=1",
		"ROOST_X", NULL};
	struct config *c = config_new();

	(void)state;
	assert_true(read_text(c, "push { heartbeat_max_s = 900\n folders_max = 7 }"));
	assert_true(config_read_environment(c, env, why, sizeof(why)));
	assert_int_equal(c->push_heartbeat_max_s, 1800);
	assert_int_equal(c->push_folders_max, 7);
	assert_int_equal(c->listen_https.n, 2);
	assert_string_equal(c->listen_https.v[0], ":443");
	assert_string_equal(c->listen_https.v[1], "[::1]:444");
	assert_false(c->log_requests);
	assert_true(config_set(c, "push.heartbeat_max_s=600", why, sizeof(why)));
	assert_int_equal(c->push_heartbeat_max_s, 600);
	assert_true(config_set(c, "listen.https=", why, sizeof(why)));
	assert_int_equal(c->listen_https.n, 0);
	assert_true(config_set(c, "store.dir=/a=b", why, sizeof(why)));
	assert_string_equal(c->store_dir, "/a=b");
	config_free(&c);
}

static bool env_one(const char *assignment)
{
	char *copy = strdup(assignment);
	char *const env[] = {copy, NULL};
	struct config *c = config_new();
	bool ok = config_read_environment(c, env, why, sizeof(why));

	config_free(&c);
	free(copy);
	return ok;
}

/* To the operator of a container: a slip is told, and Kubernetes' own variables are not slips. */
static void variables_that_set_nothing(void **state)
{
	(void)state;
	assert_false(env_one("ROOST_PUSH_HEARTBEAT_MIN=60"));
	assert_non_null(strstr(why, "did you mean ROOST_PUSH_HEARTBEAT_MIN_S?"));
	assert_false(env_one("ROOST_PSUH_FOLDERS_MAX=60"));
	assert_non_null(strstr(why, "did you mean ROOST_PUSH_FOLDERS_MAX?"));
	assert_false(env_one("ROOST_PUSH_NONSENSE=60"));
	assert_non_null(strstr(why, "ROOST_PUSH_NONSENSE"));
	assert_false(env_one("ROOST_CORE_SHARDS=-1"));
	assert_non_null(strstr(why, "ROOST_CORE_SHARDS"));
	assert_non_null(strstr(why, "0 to 64"));
	assert_true(env_one("ROOST_HTTP_SERVICE_HOST=10.0.0.1"));
	assert_true(env_one("ROOST_HTTP_SERVICE_PORT_METRICS=1"));
	assert_true(env_one("ROOST_HTTP_PORT=tcp://10.0.0.1:80"));
	assert_true(env_one("ROOST_LMTP_PORT_24_TCP_ADDR=10.0.0.1"));
	assert_true(env_one("ROOST_HOME=/x"));
	assert_true(env_one("OTHER_PUSH_X=1"));
}

static void bad_assignments(void **state)
{
	static const char *const bad[][2] = {{"", "section.key=value"},
		{"push", "section.key=value"}, {"push.folders_max", "section.key=value"},
		{"=", "section.key=value"}, {"a=b.c", "section.key=value"}, {"push.=1", "no key"},
		{".x=1", "no section"}, {"pus.folders_max=1", "did you mean push?"},
		{"push.folder_max=1", "did you mean push.folders_max?"},
		{"push.folders_max=0", "1 to 256"}, {"push.folders_max=1 ", "1 to 256"},
		{"log.requests=", "true or false"}};
	struct config *c = config_new();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		if (config_set(c, bad[i][0], why, sizeof(why)))
			fail_msg("accepted: %s", bad[i][0]);
		if (!strstr(why, bad[i][1]))
			fail_msg("%s gave: %s", bad[i][0], why);
	}
	config_free(&c);
}

static void check_says(const char *const *assignments, const char *a)
{
	struct config *c = config_new();

	for (; *assignments; assignments++)
		assert_true(config_set(c, *assignments, why, sizeof(why)));
	if (config_check(c, why, sizeof(why)) != (a == NULL) || (a && !strstr(why, a)))
		fail_msg("check gave: %s; wanted: %s", why, a ? a : "success");
	config_free(&c);
}

#define CHECK_SAYS(a, ...) check_says((const char *const[]){__VA_ARGS__, NULL}, a)

static void what_only_shows_together(void **state)
{
	(void)state;
	CHECK_SAYS("push.heartbeat_min_s (100) is above push.heartbeat_max_s (90)",
		"push.heartbeat_min_s=100", "push.heartbeat_max_s=90");
	CHECK_SAYS("store.map_mib", "store.map_mib=10", "store.map_max_mib=9");
	CHECK_SAYS("listen.https: \"example.test:443\"", "listen.https=example.test:443",
		"tls.self_signed=true");
	CHECK_SAYS("listen.http", "listen.http=unix:/x");
	CHECK_SAYS(NULL, "listen.lmtp=unix:/x", "listen.admin=unix:/y");
	CHECK_SAYS("named twice", "listen.http=:80", "listen.admin=:80");
	CHECK_SAYS(NULL, "listen.http=127.0.0.1:0", "listen.admin=127.0.0.1:0");
	CHECK_SAYS("needs tls.certificate", "listen.https=:443");
	CHECK_SAYS(NULL, "listen.https=:443", "tls.self_signed=1");
	CHECK_SAYS("tls.certificate is set and tls.key is not", "tls.certificate=/etc/passwd");
	CHECK_SAYS("tls.key is set and tls.certificate is not", "tls.key=/etc/passwd");
	CHECK_SAYS("No such file", "tls.key=/etc/passwd", "tls.certificate=/nonexistent");
	CHECK_SAYS("Is a directory", "tls.key=/etc", "tls.certificate=/etc/passwd");
	CHECK_SAYS(NULL, "tls.key=/etc/passwd", "tls.certificate=/etc/passwd");
	CHECK_SAYS("certificate.pem:key.pem", "tls.pairs=/etc/passwd");
	CHECK_SAYS("certificate.pem:key.pem", "tls.pairs=a:b:c");
	CHECK_SAYS("/nonexistent", "tls.pairs=/etc/passwd:/nonexistent");
	CHECK_SAYS(NULL, "tls.pairs=/etc/passwd:/etc/passwd");
	CHECK_SAYS("0, or 4 to 16", "policy.failed_attempts_max=3");
	CHECK_SAYS(NULL, "policy.failed_attempts_max=4");
	CHECK_SAYS("store.dir is empty", "store.dir=");
	CHECK_SAYS("default_domain", "auth.default_domain=a@b");
}

static char *printed(void (*print)(FILE *f))
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	print(f);
	fclose(f);
	return text;
}

/* The example as it is changes nothing, and with every # taken away it is still a configuration. */
static void the_example_is_a_configuration(void **state)
{
	char *text = printed(config_print_example), *p;
	struct config *c = config_new();

	(void)state;
	assert_true(read_text(c, text));
	assert_true(config_check(c, why, sizeof(why)));
	config_free(&c);
	for (p = text; (p = strstr(p, "\n\t#")) != NULL; p++)
		if (p[3] != ' ')
			p[2] = ' ';
	c = config_new();
	if (!read_text(c, text))
		fail_msg("%s", why);
	assert_int_equal(c->listen_https.n, 1);
	assert_int_equal(c->push_heartbeat_max_s, 3540);
	assert_string_equal(c->auth_default_domain, "example.test");
	config_free(&c);
	free(text);
}

/* To the reader: no line of the example is longer than a terminal, no section without words. */
static void the_example_teaches(void **state)
{
	char *text = printed(config_print_example), *line = text;
	bool after_comment = false;

	(void)state;
	for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
		size_t n = (size_t)(end - line);

		if (n > 110)
			fail_msg("too long: %.*s", (int)n, line);
		if (n > 1 && end[-1] == '{' && !after_comment)
			fail_msg("no words about: %.*s", (int)n, line);
		after_comment = line[0] == '#';
	}
	free(text);
}

static void the_committed_example_is_current(void **state)
{
	char *text = printed(config_print_example), *committed;
	FILE *f = fopen("deploy/roost.conf.example", "re");
	size_t n;

	(void)state;
	if (!f) {
		free(text);
		skip(); /* not started in the source tree */
	}
	committed = calloc(1, 1 << 20);
	n = fread(committed, 1, (1 << 20) - 1, f);
	fclose(f);
	assert_true(n > 0);
	if (strcmp(text, committed) != 0)
		fail_msg("deploy/roost.conf.example is old: bin/roostctl config example > it");
	free(committed);
	free(text);
}

/* Every setting is in the manual's list and in what config show prints. */
static void every_setting_is_documented(void **state)
{
	char *manual = printed(config_print_manual), *shown = NULL;
	struct config *c = config_new();
	size_t n = 0;
	FILE *f = open_memstream(&shown, &n);

	(void)state;
	config_print(c, f);
	fclose(f);
#define CONFIG_STR(s, k, def, help)         ONE(s, k)
#define CONFIG_ENUM(s, k, def, a, h)        ONE(s, k)
#define CONFIG_BOOL(s, k, def, help)        ONE(s, k)
#define CONFIG_INT(s, k, def, lo, hi, help) ONE(s, k)
#define CONFIG_LIST(s, k, def, help)        ONE(s, k)
#define ONE(s, k)                                                                                  \
	if (!strstr(shown, #s "." #k " = "))                                                       \
		fail_msg("not shown: " #s "." #k);                                                 \
	else                                                                                       \
		n++;
	n = 0;
#include "core/config/config.def"
	for (char *p = manual; (p = strstr(p, "Default: ")) != NULL; p++)
		n--;
	assert_int_equal(n, 0);
	config_free(&c);
	free(manual);
	free(shown);
}

static void files_that_are_none(void **state)
{
	char path[] = "/tmp/roost-config-XXXXXX";
	int fd = mkstemp(path);
	struct config *c = config_new();

	(void)state;
	assert_false(config_read_file(c, "/nonexistent", why, sizeof(why)));
	assert_non_null(strstr(why, "/nonexistent: No such file"));
	assert_false(config_read_file(c, "/tmp", why, sizeof(why)));
	assert_non_null(strstr(why, "is a directory"));
	assert_int_equal(write(fd, "log {\0}", 7), 7);
	assert_false(config_read_file(c, path, why, sizeof(why)));
	assert_non_null(strstr(why, "is no text"));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_true(config_read_file(c, path, why, sizeof(why)));
	assert_int_equal(ftruncate(fd, 2 << 20), 0);
	assert_false(config_read_file(c, path, why, sizeof(why)));
	close(fd);
	unlink(path);
	config_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_are_those_of_the_list),
		cmocka_unit_test(a_file_sets_every_kind),
		cmocka_unit_test(errors_name_line_and_remedy),
		cmocka_unit_test(environment_beats_file_and_command_line_beats_both),
		cmocka_unit_test(variables_that_set_nothing),
		cmocka_unit_test(bad_assignments),
		cmocka_unit_test(what_only_shows_together),
		cmocka_unit_test(the_example_is_a_configuration),
		cmocka_unit_test(the_example_teaches),
		cmocka_unit_test(the_committed_example_is_current),
		cmocka_unit_test(every_setting_is_documented),
		cmocka_unit_test(files_that_are_none),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
