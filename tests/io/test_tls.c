/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The library, contexts (io/tls.c). */
#include "tests/io/tls_fixture.h"

#include <pthread.h>

static void the_library_is_named(void **state)
{
	(void)state;
	print_message("# %s\n", tls_library());
	assert_memory_equal(tls_library(), "wolfSSL ", 8);
}

/* Reload: the old context lives as long as its last handshake. */
static void contexts_outlive_their_owner(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, false);
	struct link *l = link_new(s, c, NULL, NULL);

	(void)state;
	turn(&l->client, &l->server, 0);
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
	assert_null(s);
	shake(l, 0);
	assert_shaken(l);
	detach(l);
	talk(l);
	link_free(l);
}

struct worker {
	struct tls_ctx *s, *c;
	unsigned done;
};

static void *work(void *arg)
{
	struct worker *w = arg;
	struct tls_session *session = NULL;

	for (int i = 0; i < 20; i++) {
		struct link *l = link_new(w->s, w->c, "localhost", session);
		for (int k = 0; k < 6; k++) {
			turn(&l->client, &l->server, 0);
			turn(&l->server, &l->client, 0);
		}
		tls_session_free(&session);
		if (l->server.status == TLS_HS_DONE && l->client.status == TLS_HS_DONE) {
			session = tls_hs_session(l->client.hs);
			w->done += tls_hs_resumed(l->server.hs) == (i > 0);
		}
		link_free(l);
	}
	tls_session_free(&session);
	return NULL;
}

static void contexts_are_shared_by_threads(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, true);
	struct worker w[4];
	pthread_t t[4];

	(void)state;
	for (int i = 0; i < 4; i++) {
		w[i] = (struct worker){.s = s, .c = c};
		assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(w[i].done, 20);
	}
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_library_is_named),
		cmocka_unit_test(contexts_outlive_their_owner),
		cmocka_unit_test(contexts_are_shared_by_threads),
	};

	return RUN_TLS_TESTS("tls", tests);
}
