/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Which certificate a configuration means, and that tickets outlive a new one. */
#include "core/server/certificates.h"

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "io/tls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	struct config *config;
	char dir[32], pem[64], key[64];
	char why[512];
};

static void set(struct fixture *f, const char *key, const char *value)
{
	char text[8192];

	snprintf(text, sizeof(text), "%s=%s", key, value);
	if (!config_set(f->config, text, f->why, sizeof(f->why)))
		fail_msg("%s", f->why);
}

static int begin(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	log_set_level(LOG_ERROR);
	snprintf(f->dir, sizeof(f->dir), "/tmp/test_cert.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->pem, sizeof(f->pem), "%s/self-signed.pem", f->dir);
	snprintf(f->key, sizeof(f->key), "%s/self-signed.key", f->dir);
	f->config = config_new();
	set(f, "store.dir", f->dir);
	*state = f;
	return 0;
}

static int end(void **state)
{
	struct fixture *f = *state;

	unlink(f->pem);
	unlink(f->key);
	assert_int_equal(rmdir(f->dir), 0);
	config_free(&f->config);
	free(f);
	return 0;
}

static struct tls_ctx *load(struct fixture *f, const uint8_t *seed)
{
	f->why[0] = 0;
	return certificates_load(f->config, seed, f->why, sizeof(f->why));
}

/* To the operator: without any certificate the settings that are missing are named. */
static void no_certificate_says_what_to_set(void **state)
{
	struct fixture *f = *state;

	assert_null(load(f, NULL));
	assert_non_null(strstr(f->why, "tls.certificate"));
	assert_non_null(strstr(f->why, "tls.self_signed"));
}

/* To phones that trusted it once: our own certificate is made at the first start and kept; nobody else may
 * read its key. */
static void our_own_certificate_is_made_once(void **state)
{
	struct fixture *f = *state;
	struct stat first, second;
	struct tls_ctx *c;

	set(f, "tls.self_signed", "true");
	c = load(f, NULL);
	assert_non_null(c);
	assert_true(tls_ctx_expiry_s(c, clock_wall_ms()) > 24 * 3600);
	tls_ctx_unref(&c);
	assert_int_equal(stat(f->key, &first), 0);
	assert_int_equal(first.st_mode & 077, 0);
	c = load(f, NULL);
	assert_non_null(c);
	tls_ctx_unref(&c);
	assert_int_equal(stat(f->key, &second), 0);
	assert_int_equal(first.st_ino, second.st_ino);
	assert_int_equal(first.st_mtim.tv_nsec, second.st_mtim.tv_nsec);
}

/* To the operator: a file that cannot be used is named, also behind others that can. */
static void a_file_that_is_missing_is_named(void **state)
{
	struct fixture *f = *state;
	char pairs[256];
	struct tls_ctx *c;

	set(f, "tls.self_signed", "true");
	c = load(f, NULL);
	assert_non_null(c);
	tls_ctx_unref(&c);
	set(f, "tls.certificate", f->pem);
	set(f, "tls.key", f->key);
	snprintf(pairs, sizeof(pairs), "%s:%s,%s/absent.pem:%s", f->pem, f->key, f->dir, f->key);
	set(f, "tls.pairs", pairs);
	assert_null(load(f, NULL));
	assert_non_null(strstr(f->why, "absent.pem"));
}

/* To the operator: 64 pairs beside the first certificate are used, 65 are refused, not cut. */
static void more_pairs_than_there_is_room_for_are_refused(void **state)
{
	struct fixture *f = *state;
	char pairs[8192] = "", one[160];
	struct tls_ctx *c;

	set(f, "tls.self_signed", "true");
	c = load(f, NULL);
	assert_non_null(c);
	tls_ctx_unref(&c);
	set(f, "tls.certificate", f->pem);
	set(f, "tls.key", f->key);
	snprintf(one, sizeof(one), "%s:%s", f->pem, f->key);
	for (int i = 0; i < 64; i++)
		snprintf(pairs + strlen(pairs), sizeof(pairs) - strlen(pairs), "%s%s", i ? "," : "",
			one);
	set(f, "tls.pairs", pairs);
	c = load(f, NULL);
	assert_non_null(c);
	tls_ctx_unref(&c);
	snprintf(pairs + strlen(pairs), sizeof(pairs) - strlen(pairs), ",%s", one);
	set(f, "tls.pairs", pairs);
	assert_null(load(f, NULL));
	assert_non_null(strstr(f->why, "more than 64"));
}

/* To phones with a ticket: it stays good through a reload, and through a change of process. */
static void tickets_follow_the_seed(void **state)
{
	struct fixture *f = *state;
	uint8_t a[TLS_TICKET_SEED_BYTES], b[TLS_TICKET_SEED_BYTES];
	struct tls_ctx *c;

	set(f, "tls.self_signed", "true");
	c = load(f, NULL);
	assert_non_null(c);
	tls_ctx_ticket_seed(c, a);
	tls_ctx_unref(&c);
	c = load(f, NULL);
	assert_non_null(c);
	tls_ctx_ticket_seed(c, b);
	tls_ctx_unref(&c);
	assert_memory_not_equal(a, b, sizeof(a));
	c = load(f, a);
	assert_non_null(c);
	tls_ctx_ticket_seed(c, b);
	tls_ctx_unref(&c);
	assert_memory_equal(a, b, sizeof(a));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
		T(no_certificate_says_what_to_set),
		T(our_own_certificate_is_made_once),
		T(a_file_that_is_missing_is_named),
		T(more_pairs_than_there_is_room_for_are_refused),
		T(tickets_follow_the_seed),
	};

	return cmocka_run_group_tests_name("certificates", tests, NULL, NULL);
}
