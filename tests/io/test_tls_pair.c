/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A certificate chain and its key, out of files (io/tls_pair.c, io/tls_leaf.c). */
#include "tests/io/tls_fixture.h"

/* The whole chain goes out, not only the leaf. */
static void the_chain_is_sent(void **state)
{
	struct tls_pair pair = {path("chain.pem"), path("ec.key")};
	struct tls_options o = {.pairs = &pair, .pair_count = 1};
	size_t bytes[2];

	(void)state;
	for (int chain = 0; chain < 2; chain++) {
		FILE *out = fopen(path("chain.pem"), "wb");
		const char *const parts[] = {"ec.pem", "other.pem"};
		assert_non_null(out);
		for (int i = 0; i <= chain; i++) {
			char text[8192];
			FILE *in = fopen(path(parts[i]), "rb");
			assert_non_null(in);
			size_t n = fread(text, 1, sizeof(text), in);
			fwrite(text, 1, n, out);
			fclose(in);
		}
		fclose(out);
		struct tls_ctx *s = tls_server_new(&o, why, sizeof(why));
		struct tls_ctx *c = client_with(NULL, true, false);
		assert_non_null(s);
		struct link *l = link_new(s, c, NULL, NULL);
		turn(&l->client, &l->server, 0);
		turn(&l->server, &l->client, 0);
		bytes[chain] = l->client.in.n;
		shake(l, 0);
		assert_shaken(l);
		link_free(l);
		tls_ctx_unref(&s);
		tls_ctx_unref(&c);
	}
	assert_true(bytes[1] > bytes[0] + 300);
}

/* To the operator: what is wrong, and in which file. */
static void bad_files_are_named(void **state)
{
	static const char encrypted[] = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n"
					"-----END ENCRYPTED PRIVATE KEY-----\n";
	static const struct {
		const char *certificate, *key, *words[2];
	} cases[] = {
		{"ec.pem", "other.key", {"ec.pem", "other.key"}},
		{"ec.pem", "rsa.key", {"ec.pem", "rsa.key"}},
		{"rsa.pem", "ec.key", {"rsa.pem", "ec.key"}},
		{"missing.pem", "ec.key", {"missing.pem", "No such file"}},
		{"ec.pem", "missing.key", {"missing.key", "No such file"}},
		{"ec.key", "ec.key", {"ec.key", "no PEM certificate"}},
		{"ec.pem", "ec.pem", {"ec.pem", "private key"}},
		{"ec.pem", "junk", {"junk", "passphrase"}},
		{"junk", "ec.key", {"junk", "no PEM certificate"}},
	};

	(void)state;
	put_file("junk", encrypted, strlen(encrypted));
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct tls_pair pair = {path(cases[i].certificate), path(cases[i].key)};
		struct tls_options o = {.pairs = &pair, .pair_count = 1};
		why[0] = 0;
		assert_null(tls_server_new(&o, why, sizeof(why)));
		for (size_t k = 0; k < 2; k++)
			if (!strstr(why, cases[i].words[k]))
				fail_msg("%s: no \"%s\" in it", why, cases[i].words[k]);
		assert_null(strchr(why, '\n'));
	}
	struct tls_options none = {0};
	assert_null(tls_server_new(&none, why, sizeof(why)));
	struct tls_client_options missing = {.ca_file = "/nonexistent/ca.pem"};
	assert_null(tls_client_new(&missing, why, sizeof(why)));
	assert_non_null(strstr(why, "/nonexistent/ca.pem"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_chain_is_sent),
		cmocka_unit_test(bad_files_are_named),
	};

	return RUN_TLS_TESTS("tls_pair", tests);
}
