/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Tickets, and phones that come back with one (io/tls_ticket.c). */
#include "tests/io/tls_fixture.h"

/* Connects and disconnects once; the session for next time when there is one. */
static bool connect_once(struct tls_ctx *s, struct tls_ctx *c, struct tls_session **session)
{
	struct link *l = link_new(s, c, "localhost", *session);

	shake(l, 0);
	assert_shaken(l);
	bool resumed = tls_hs_resumed(l->server.hs);
	assert_int_equal(tls_hs_resumed(l->client.hs), resumed);
	tls_session_free(session);
	*session = tls_hs_session(l->client.hs);
	detach(l);
	talk(l);
	link_free(l);
	return resumed;
}

/* To a phone that comes back: half the handshake, in both versions, on any thread's context. */
static void sessions_resume(void **state)
{
	struct tls_ctx *s = server_with(EC | RSA, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(suites); i++) {
		bool tls12 = strcmp(suites[i].version, "TLSv1.2") == 0;
		struct tls_ctx *c = client_with(suites[i].wolf, tls12, true);
		struct tls_session *session = NULL;
		assert_false(connect_once(s, c, &session));
		for (int k = 0; k < 3; k++) {
			/* Only TLS 1.3 gives a new ticket each time. */
			if (!session)
				break;
			assert_true(connect_once(s, c, &session));
		}
		assert_true(tls12 || session != NULL);
		tls_session_free(&session);
		tls_ctx_unref(&c);
	}
	tls_ctx_unref(&s);
}

static void tickets_live_for_two_periods(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL);

	(void)state;
	for (int tls12 = 0; tls12 < 2; tls12++) {
		struct tls_ctx *c = client_with(NULL, tls12, true);
		struct tls_session *session = NULL;
		clock_offset_ms = 0;
		assert_false(connect_once(s, c, &session));
		assert_non_null(session);
		clock_offset_ms += 3600 * 1000;
		assert_true(connect_once(s, c, &session));
		/* wolfSSL 5.5.4 renews no TLS 1.2 ticket, and as a client cannot have one
		 * declined; tests/e2e/tls_clients.sh does that with OpenSSL. */
		if (tls12) {
			tls_session_free(&session);
			tls_ctx_unref(&c);
			break;
		}
		assert_non_null(session);
		clock_offset_ms += 3600 * 1000;
		assert_true(connect_once(s, c, &session));
		assert_non_null(session);
		clock_offset_ms += 2 * 3600 * 1000;
		assert_false(connect_once(s, c, &session));
		assert_non_null(session);
		/* Another node may be a period ahead, not more. */
		clock_offset_ms -= 3600 * 1000;
		assert_true(connect_once(s, c, &session));
		tls_session_free(&session);
		tls_ctx_unref(&c);
	}
	clock_offset_ms = 0;
	tls_ctx_unref(&s);
}

/* To whoever runs several nodes, or reloads certificates: one seed, one set of tickets. */
static void tickets_travel_with_the_seed(void **state)
{
	static const uint8_t seed[32] = "the same on every node of these";
	static const uint8_t other_seed[32] = "somebody else";

	(void)state;
	for (int tls12 = 0; tls12 < 2; tls12++) {
		struct tls_ctx *one = server_with(EC, seed), *two = server_with(EC | RSA, seed);
		struct tls_ctx *stranger = server_with(EC, other_seed);
		struct tls_ctx *unseeded = server_with(EC, NULL);
		struct tls_ctx *c = client_with(NULL, tls12, true);
		struct tls_session *session = NULL;
		assert_false(connect_once(one, c, &session));
		struct tls_session *kept = session;
		session = NULL;
		struct link *l = link_new(two, c, NULL, kept);
		shake(l, 0);
		assert_shaken(l);
		assert_true(tls_hs_resumed(l->server.hs));
		link_free(l);
		/* what a reload and an upgrade do */
		uint8_t copied[TLS_TICKET_SEED_BYTES];
		tls_ctx_ticket_seed(unseeded, copied);
		struct tls_ctx *heir = server_with(RSA | EC, copied);
		struct tls_session *of_unseeded = NULL;
		assert_false(connect_once(unseeded, c, &of_unseeded));
		assert_true(connect_once(heir, c, &of_unseeded));
		tls_session_free(&of_unseeded);
		tls_ctx_unref(&heir);
		/* a foreign ticket costs a full handshake, nothing else */
		struct tls_ctx *const others[] = {stranger, unseeded};
		for (size_t i = 0; !tls12 && i < ARRAY_LEN(others); i++) {
			l = link_new(others[i], c, NULL, kept);
			shake(l, 0);
			assert_shaken(l);
			assert_false(tls_hs_resumed(l->server.hs));
			detach(l);
			talk(l);
			link_free(l);
		}
		tls_session_free(&kept);
		tls_ctx_unref(&one);
		tls_ctx_unref(&two);
		tls_ctx_unref(&stranger);
		tls_ctx_unref(&unseeded);
		tls_ctx_unref(&c);
	}
}

/* To the test phones: DONE waits for the ticket, and the wait can be given up. */
static void a_client_can_wait_for_its_ticket(void **state)
{
	struct tls_ctx *s = server_with(EC, NULL), *c = client_with(NULL, false, true);
	struct link *l = link_new(s, c, NULL, NULL);
	const char *because;

	(void)state;
	turn(&l->client, &l->server, 0);
	turn(&l->server, &l->client, 0);
	turn(&l->client, &l->server, 0); /* the server's flight: finished, but no ticket yet */
	assert_true(tls_hs_finished(l->client.hs));
	assert_int_equal(l->client.status, TLS_HS_WANT_MORE);
	assert_null(tls_hs_session(l->client.hs));
	turn(&l->server, &l->client, 0);
	assert_int_equal(l->server.status, TLS_HS_DONE);
	/* gives up: the ticket is then left to the record layer, which skips it */
	assert_true(tls_hs_detach(l->client.hs, &l->client.rec, &because));
	assert_true(tls_hs_detach(l->server.hs, &l->server.rec, &because));
	talk(l);
	link_free(l);
	tls_ctx_unref(&s);
	tls_ctx_unref(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sessions_resume),
		cmocka_unit_test(tickets_live_for_two_periods),
		cmocka_unit_test(tickets_travel_with_the_seed),
		cmocka_unit_test(a_client_can_wait_for_its_ticket),
	};

	return RUN_TLS_TESTS("tls_ticket", tests);
}
