/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/access/credentials.h"
#include "core/config/config.h"
#include "tests/store/fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#define A "a@example.test"

struct bench {
	struct fixture store;
	struct config *config;
	struct credentials *c;
};

static _Atomic uint64_t fake_ms;

static uint64_t fake_clock(void)
{
	return atomic_load(&fake_ms);
}

struct account_write {
	const char *address, *password;
	bool disabled;
};

static int write_add(struct db_txn *txn, void *arg)
{
	struct account_write *w = arg;
	struct account out;
	char hash[ACCOUNT_HASH_MAX] = "";

	if (w->password)
		assert_true(cred_hash("minimal", w->password, hash));
	return account_create(txn, bytes_str(w->address), hash, "", 1, &out);
}

static int write_password(struct db_txn *txn, void *arg)
{
	struct account_write *w = arg;
	char hash[ACCOUNT_HASH_MAX];

	assert_true(cred_hash("minimal", w->password, hash));
	return account_set_password(txn, bytes_str(w->address), hash);
}

static int write_disabled(struct db_txn *txn, void *arg)
{
	struct account_write *w = arg;

	return account_set_disabled(txn, bytes_str(w->address), w->disabled);
}

static int write_delete(struct db_txn *txn, void *arg)
{
	struct account_write *w = arg;

	return account_delete(txn, bytes_str(w->address));
}

static void change(struct bench *b, db_write_fn *fn, struct account_write w)
{
	assert_int_equal(db_write(b->store.db, fn, &w), 0);
}

static void make(struct bench *b, const char *const *settings)
{
	char why[600] = "";

	b->config = config_new();
	assert_true(config_set(b->config, "auth.hash_cost=minimal", why, sizeof(why)));
	assert_true(config_set(b->config, "auth.cache_entries=1024", why, sizeof(why)));
	assert_true(config_set(b->config, "auth.default_domain=Example.test", why, sizeof(why)));
	for (; *settings; settings++)
		if (!config_set(b->config, *settings, why, sizeof(why)))
			fail_msg("%s", why);
	b->c = credentials_new(b->config, b->store.db, why, sizeof(why));
	if (!b->c)
		fail_msg("%s", why);
	atomic_store(&fake_ms, 1000000);
	cred_set_clock(b->c, fake_clock);
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	fixture_dir(b->store.dir, sizeof(b->store.dir));
	b->store.options =
		(struct db_options){.dir = b->store.dir, .create = true, .no_sync = true};
	fixture_open(&b->store);
	make(b, (const char *const[]){NULL});
	change(b, write_add, (struct account_write){.address = A, .password = "secret"});
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	credentials_free(&b->c);
	assert_null(b->c);
	credentials_free(&b->c);
	config_free(&b->config);
	db_close(&b->store.db);
	fixture_remove(b->store.dir);
	free(b);
	return 0;
}

static void again(struct bench *b, const char *const *settings)
{
	credentials_free(&b->c);
	config_free(&b->config);
	make(b, settings);
}

static enum cred_result from_memory(struct bench *b, const char *user, const char *password)
{
	struct db_txn txn;
	enum cred_result r;
	uint32_t mailbox = 0;

	assert_int_equal(db_read(b->store.db, &txn), 0);
	r = cred_check(b->c, &txn, user, password, &mailbox);
	db_read_end(&txn);
	assert_int_equal(mailbox != 0, r == CRED_OK || r == CRED_DISABLED);
	return r;
}

static enum cred_result now(struct bench *b, const char *user, const char *password)
{
	struct cred_identity who = {0};
	enum cred_result r = cred_verify_now(b->c, user, password, &who);

	assert_int_equal(who.mailbox != 0, r == CRED_OK || r == CRED_DISABLED);
	return r;
}

/* To the operator of a hundred thousand phones: the second request costs no hashing. */
static void what_was_verified_is_remembered(void **state)
{
	struct bench *b = *state;

	assert_int_equal(from_memory(b, A, "secret"), CRED_UNKNOWN);
	assert_int_equal(now(b, A, "secret"), CRED_OK);
	assert_int_equal(cred_hashes(b->c), 1);
	assert_int_equal(from_memory(b, A, "secret"), CRED_OK);
	/* Whatever form the login has. */
	assert_int_equal(from_memory(b, "A@EXAMPLE.test", "secret"), CRED_OK);
	assert_int_equal(from_memory(b, "a", "secret"), CRED_OK);
	assert_int_equal(from_memory(b, "NTDOM\\a", "secret"), CRED_OK);
	assert_int_equal(now(b, A, "secret"), CRED_OK);
	assert_int_equal(cred_hashes(b->c), 1);
	assert_int_equal(from_memory(b, A, "secret "), CRED_UNKNOWN);
	assert_int_equal(from_memory(b, "b@example.test", "secret"), CRED_UNKNOWN);
}

static void a_wrong_password_costs_once_a_minute(void **state)
{
	struct bench *b = *state;

	assert_int_equal(now(b, A, "wrong"), CRED_BAD);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(from_memory(b, A, "wrong"), CRED_BAD);
		assert_int_equal(now(b, A, "wrong"), CRED_BAD);
	}
	assert_int_equal(cred_hashes(b->c), 1);
	atomic_fetch_add(&fake_ms, 59000);
	assert_int_equal(from_memory(b, A, "wrong"), CRED_BAD);
	atomic_fetch_add(&fake_ms, 1000);
	assert_int_equal(from_memory(b, A, "wrong"), CRED_UNKNOWN);
}

/* To whoever guesses names: an unknown user costs a hash as a wrong password does. */
static void unknown_users_cost_the_same(void **state)
{
	struct bench *b = *state;

	assert_int_equal(now(b, "nobody@example.test", "x"), CRED_BAD);
	assert_int_equal(cred_hashes(b->c), 1);
	assert_int_equal(now(b, "not an address", "x"), CRED_BAD);
	assert_int_equal(cred_hashes(b->c), 2);
	assert_int_equal(now(b, "", ""), CRED_BAD);
	assert_int_equal(cred_hashes(b->c), 3);
	assert_int_equal(now(b, "also no address", "x"), CRED_BAD);
	assert_int_equal(cred_hashes(b->c), 4);
	assert_int_equal(from_memory(b, "not an address", "x"), CRED_BAD);
	assert_int_equal(from_memory(b, "nobody@example.test", "x"), CRED_BAD);
	/* To the newcomer who adds the account after the phone's first try: no minute's wait. */
	change(b, write_add,
		(struct account_write){.address = "nobody@example.test", .password = "x"});
	assert_int_equal(from_memory(b, "nobody@example.test", "x"), CRED_UNKNOWN);
	assert_int_equal(now(b, "nobody@example.test", "x"), CRED_OK);
}

/* To the administrator: a changed password, a disabled or a deleted account work at once. */
static void changes_of_the_account_work_at_once(void **state)
{
	struct bench *b = *state;

	assert_int_equal(now(b, A, "secret"), CRED_OK);
	assert_int_equal(now(b, A, "other"), CRED_BAD);
	change(b, write_disabled, (struct account_write){.address = A, .disabled = true});
	assert_int_equal(from_memory(b, A, "secret"), CRED_DISABLED);
	assert_int_equal(now(b, A, "secret"), CRED_DISABLED);
	assert_int_equal(now(b, A, "nonsense"), CRED_BAD);
	change(b, write_disabled, (struct account_write){.address = A, .disabled = false});
	assert_int_equal(from_memory(b, A, "secret"), CRED_OK);
	change(b, write_password, (struct account_write){.address = A, .password = "other"});
	assert_int_equal(from_memory(b, A, "secret"), CRED_UNKNOWN);
	assert_int_equal(from_memory(b, A, "other"), CRED_UNKNOWN); /* not refused for a minute */
	assert_int_equal(now(b, A, "secret"), CRED_BAD);
	assert_int_equal(now(b, A, "other"), CRED_OK);
	change(b, write_delete, (struct account_write){.address = A});
	assert_int_equal(from_memory(b, A, "other"), CRED_UNKNOWN);
	assert_int_equal(now(b, A, "other"), CRED_BAD);
	change(b, write_add, (struct account_write){.address = A, .password = "third"});
	assert_int_not_equal(from_memory(b, A, "other"), CRED_OK);
	assert_int_equal(now(b, A, "other"), CRED_BAD);
	assert_int_equal(now(b, A, "third"), CRED_OK);
}

static void an_account_without_a_password_lets_nobody_in(void **state)
{
	struct bench *b = *state;
	char hash[ACCOUNT_HASH_MAX], longest[600];

	change(b, write_add, (struct account_write){.address = "c@example.test"});
	assert_int_equal(now(b, "c@example.test", ""), CRED_BAD);
	assert_int_equal(now(b, "c@example.test", "x"), CRED_BAD);
	/* Nor does the empty password, or one too long to be any, where it was set by mistake. */
	change(b, write_add, (struct account_write){.address = "e@example.test", .password = ""});
	memset(longest, 'x', sizeof(longest));
	longest[599] = 0;
	assert_int_equal(now(b, "e@example.test", ""), CRED_BAD);
	assert_int_equal(now(b, "e@example.test", longest), CRED_BAD);
	assert_false(cred_hash("minimal", longest, hash));
}

/* Outlook sends Latin-1, phones UTF-8; both are the same password. */
static void latin1_and_utf8_are_one_password(void **state)
{
	struct bench *b = *state;
	char long_latin[256];

	change(b, write_add,
		(struct account_write){
			.address = "u@example.test", .password = "gr\xc3\xbc\xc3\x9f"});
	assert_int_equal(now(b, "u@example.test", "gr\xfc\xdf"), CRED_OK);
	assert_int_equal(from_memory(b, "u@example.test", "gr\xc3\xbc\xc3\x9f"), CRED_OK);
	change(b, write_password, (struct account_write){.address = A, .password = "\xe4"});
	assert_int_equal(now(b, A, "\xc3\xa4"), CRED_OK);
	assert_int_equal(now(b, A, "\xe4"), CRED_OK);
	assert_int_equal(now(b, A, "\xc3"), CRED_BAD);
	memset(long_latin, 0xe4, sizeof(long_latin));
	long_latin[255] = 0;
	change(b, write_password, (struct account_write){.address = A, .password = long_latin});
	assert_int_equal(now(b, A, long_latin), CRED_OK);
}

static void memory_ends(void **state)
{
	struct bench *b = *state;

	assert_int_equal(now(b, A, "secret"), CRED_OK);
	atomic_fetch_add(&fake_ms, 3600 * 1000 * 7ull / 8 - 1000);
	assert_int_equal(from_memory(b, A, "secret"), CRED_OK); /* jitter takes an eighth at most */
	atomic_fetch_add(&fake_ms, 3600 * 1000 / 8 + 1000);
	assert_int_equal(from_memory(b, A, "secret"), CRED_UNKNOWN);
	again(b, (const char *const[]){"auth.cache_ttl_s=0", NULL});
	assert_int_equal(now(b, A, "secret"), CRED_OK);
	assert_int_equal(from_memory(b, A, "secret"), CRED_UNKNOWN);
	assert_int_equal(now(b, A, "wrong"), CRED_BAD);
	assert_int_equal(from_memory(b, A, "wrong"), CRED_UNKNOWN);
}

/* To every phone with a good password: an attacker's wrong ones do not push it out. */
static void wrong_passwords_do_not_push_out_good_ones(void **state)
{
	struct bench *b = *state;
	char password[32];

	assert_int_equal(now(b, A, "secret"), CRED_OK);
	for (int i = 0; i < 5000; i++) { /* five times what fits */
		snprintf(password, sizeof(password), "guess %d", i);
		assert_int_equal(now(b, A, password), CRED_BAD);
	}
	assert_int_equal(from_memory(b, A, "secret"), CRED_OK);
	assert_int_equal(from_memory(b, A, "guess 4999"), CRED_BAD);
}

struct waiting {
	struct cred_job job; /* first: done gets back from it */
	enum cred_result result;
	bool wiped;
};

static pthread_mutex_t done_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done_more = PTHREAD_COND_INITIALIZER;
static unsigned done_count;

static void job_done(struct cred_job *j)
{
	struct waiting *w = (struct waiting *)j;

	w->wiped = true;
	for (size_t i = 0; i < sizeof(j->password); i++)
		w->wiped &= j->password[i] == 0;
	w->result = j->result;
	pthread_mutex_lock(&done_mutex);
	done_count++;
	pthread_cond_signal(&done_more);
	pthread_mutex_unlock(&done_mutex);
}

static void job_make(struct waiting *w, const char *user, const char *password)
{
	memset(w, 0, sizeof(*w));
	snprintf(w->job.user, sizeof(w->job.user), "%s", user);
	snprintf(w->job.password, sizeof(w->job.password), "%s", password);
	w->job.done = job_done;
}

static void wait_done(unsigned n)
{
	pthread_mutex_lock(&done_mutex);
	while (done_count < n)
		pthread_cond_wait(&done_more, &done_mutex);
	done_count -= n;
	pthread_mutex_unlock(&done_mutex);
}

/* To everyone after an outage: one user's thousand connections are one hash. */
static void the_same_pair_is_hashed_once(void **state)
{
	enum { N = 1000 };
	struct bench *b = *state;
	struct waiting *w = calloc(N, sizeof(*w));
	uint64_t before = cred_hashes(b->c);

	for (int i = 0; i < N; i++) {
		job_make(&w[i], i % 2 ? "a" : A, "secret");
		assert_true(cred_submit(b->c, &w[i].job));
	}
	wait_done(N);
	for (int i = 0; i < N; i++) {
		assert_int_equal(w[i].result, CRED_OK);
		assert_true(w[i].wiped);
		assert_string_equal(w[i].job.identity.address, A);
		assert_string_equal(w[i].job.user, i % 2 ? "a" : A);
	}
	assert_int_equal(cred_hashes(b->c) - before, 1);
	free(w);
}

static void a_full_queue_is_busy_never_bad(void **state)
{
	enum { N = 200 };
	struct bench *b = *state;
	struct waiting *w = calloc(N + 1, sizeof(*w));
	unsigned taken = 0, busy = 0;
	char password[32];

	/* A dear hash, so that one thread cannot keep up. */
	again(b, (const char *const[]){"auth.hash_cost=interactive", "auth.hash_threads=1",
			 "auth.hash_queue_max=4", NULL});
	for (int i = 0; i < N; i++) {
		snprintf(password, sizeof(password), "guess %d", i);
		job_make(&w[i], "nobody@example.test", password);
		if (cred_submit(b->c, &w[i].job)) {
			taken++;
		} else {
			assert_int_equal(w[i].job.result, CRED_BUSY);
			assert_int_equal(w[i].job.password[0], 0);
			busy++;
		}
	}
	assert_true(taken >= 4 && busy > 0);
	/* What waits already takes company, queue or not. */
	job_make(&w[N], "nobody@example.test", "guess 1");
	if (cred_submit(b->c, &w[N].job))
		taken++;
	credentials_free(&b->c); /* what still waits is told to come again */
	wait_done(taken);
	for (int i = 0; i <= N; i++)
		assert_true(w[i].result == CRED_OK || w[i].result == CRED_BAD ||
			    w[i].result == CRED_BUSY);
	free(w);
}

struct stress {
	struct bench *b;
	unsigned seed, good;
};

static void *stress_thread(void *arg)
{
	struct stress *s = arg;
	char password[32];

	for (int i = 0; i < 300; i++) {
		unsigned k = (unsigned)rand_r(&s->seed) % 8;
		enum cred_result r;
		struct db_txn txn;
		uint32_t mailbox;

		snprintf(password, sizeof(password), k < 4 ? "secret" : "wrong %u", k);
		if (db_read(s->b->store.db, &txn) != 0)
			abort();
		r = cred_check(s->b->c, &txn, A, password, &mailbox);
		db_read_end(&txn);
		if (k < 4 ? r == CRED_BAD : r == CRED_OK)
			abort();
		if (r == CRED_UNKNOWN) {
			struct cred_identity who;

			r = cred_verify_now(s->b->c, A, password, &who);
			if (r != (k < 4 ? CRED_OK : CRED_BAD))
				abort();
		}
		s->good += r == CRED_OK;
		atomic_fetch_add(&fake_ms, 500);
	}
	return NULL;
}

/* For ThreadSanitizer: memory, pool and store from many threads while passwords change. */
static void many_threads_agree(void **state)
{
	enum { THREADS = 4, JOBS = 400 };
	struct bench *b = *state;
	struct stress s[THREADS];
	pthread_t t[THREADS];
	struct waiting *w = calloc(JOBS, sizeof(*w));
	char password[32];
	unsigned taken = 0;

	for (unsigned i = 0; i < THREADS; i++) {
		s[i] = (struct stress){.b = b, .seed = i + 1};
		assert_int_equal(pthread_create(&t[i], NULL, stress_thread, &s[i]), 0);
	}
	for (int i = 0; i < JOBS; i++) {
		snprintf(password, sizeof(password), i % 3 ? "secret" : "wrong %d", i % 5);
		job_make(&w[i], A, password);
		taken += cred_submit(b->c, &w[i].job);
		if (i % 50 == 0)
			change(b, write_password,
				(struct account_write){.address = A, .password = "secret"});
	}
	wait_done(taken);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < JOBS; i++)
		assert_true(w[i].job.result == CRED_BUSY ||
			    w[i].job.result == (i % 3 ? CRED_OK : CRED_BAD));
	free(w);
}

static void logins_have_one_canonical_form(void **state)
{
	static const char *const good[][2] = {{"a", "a@example.test"}, {" a ", "a@example.test"},
		{"A@B.Example", "a@b.example"}, {"NTDOM\\a", "a@example.test"},
		{"\\a", "a@example.test"}, {"other.example\\a", "a@other.example"},
		{"NTDOM\\a@b.example", "a@b.example"}, {"x.y\\a@b.example", "a@b.example"}};
	static const char *const bad[] = {"", " ", "@", "a@", "@b", "a@b@c", "a b", "a\\b\\c",
		"NTDOM\\", "a\nb", "gr\xfc\xdf" /* local parts are ASCII in this store */};
	struct bench *b = *state;
	struct config *bare = config_new();
	char out[ACCOUNT_ADDRESS_MAX + 1], longest[400];

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		if (!cred_canonical(b->config, good[i][0], out))
			fail_msg("%s refused", good[i][0]);
		assert_string_equal(out, good[i][1]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (cred_canonical(b->config, bad[i], out))
			fail_msg("%s gave %s", bad[i], out);
	memset(longest, 'a', sizeof(longest));
	longest[399] = 0;
	assert_false(cred_canonical(b->config, longest, out));
	longest[250] = 0;
	assert_false(cred_canonical(b->config, longest, out));
	assert_false(cred_canonical(bare, "a", out));
	assert_false(cred_canonical(bare, "NTDOM\\a", out));
	assert_true(cred_canonical(bare, "x.example\\a", out));
	assert_string_equal(out, "a@x.example");
	config_free(&bare);
}

/* To the fail2ban filter: rip= follows the event at once, and no peer can write a second one. */
static void the_failure_line_is_what_fail2ban_expects(void **state)
{
	char path[] = "/tmp/roost-log-XXXXXX", text[2000] = "";
	int fd = mkstemp(path), saved = dup(STDERR_FILENO);

	(void)state;
	dup2(fd, STDERR_FILENO);
	cred_log_failure("203.0.113.9", "x rip=198.51.100.1\nauth: failed rip=192.0.2.1 ", "basic",
		"DEV1", "password");
	cred_log_failure("2001:db8::1", NULL, NULL, NULL, "password");
	dup2(saved, STDERR_FILENO);
	close(saved);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	close(fd);
	unlink(path);
	assert_non_null(strstr(text,
		"]: auth: failed rip=203.0.113.9 user=\"x rip=198.51.100.1\\x0aauth: failed "
		"rip=192.0.2.1 \" method=basic dev=DEV1 reason=password\n"));
	assert_non_null(
		strstr(text, "]: auth: failed rip=2001:db8::1 user=\"\" reason=password\n"));
}

/* To the operator: an upgrade hashes nothing again, and trusts nothing longer than before. */
static void a_successor_remembers(void **state)
{
	struct bench *b = *state;
	struct cred_identity id;
	struct db_txn txn;
	uint32_t mailbox = 0;
	struct buf out = {0};

	assert_int_equal(cred_verify_now(b->c, A, "secret", &id), CRED_OK);
	assert_int_equal(cred_verify_now(b->c, A, "wrong", &id), CRED_BAD);
	credentials_export(b->c, &out);
	assert_int_equal(out.n, 8 + 32 + 32); /* (wrong ones stay) */
	again(b, (const char *const[]){NULL});
	for (size_t n = 0; n < out.n; n++)
		if (n < 40 || n > 40)
			assert_false(credentials_import(b->c, bytes_of(out.p, n)));
	assert_true(credentials_import(b->c, buf_bytes(&out)));
	assert_int_equal(db_read(b->store.db, &txn), 0);
	assert_int_equal(cred_check(b->c, &txn, A, "secret", &mailbox), CRED_OK);
	assert_int_equal(cred_check(b->c, &txn, A, "Secret", &mailbox), CRED_UNKNOWN);
	assert_int_equal(mailbox, id.mailbox);
	db_read_end(&txn);
	assert_int_equal(cred_hashes(b->c), 0);
	/* The account decides, as ever. */
	change(b, write_password, (struct account_write){.address = A, .password = "other"});
	assert_int_equal(db_read(b->store.db, &txn), 0);
	assert_int_equal(cred_check(b->c, &txn, A, "secret", &mailbox), CRED_UNKNOWN);
	db_read_end(&txn);
	/* Less trust in the new configuration. */
	again(b, (const char *const[]){"auth.cache_ttl_s=0", NULL});
	assert_true(credentials_import(b->c, buf_bytes(&out)));
	assert_int_equal(db_read(b->store.db, &txn), 0);
	assert_int_equal(cred_check(b->c, &txn, A, "secret", &mailbox), CRED_UNKNOWN);
	db_read_end(&txn);
	buf_free(&out);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_was_verified_is_remembered),
		TEST(a_wrong_password_costs_once_a_minute),
		TEST(unknown_users_cost_the_same),
		TEST(changes_of_the_account_work_at_once),
		TEST(an_account_without_a_password_lets_nobody_in),
		TEST(latin1_and_utf8_are_one_password),
		TEST(memory_ends),
		TEST(wrong_passwords_do_not_push_out_good_ones),
		TEST(the_same_pair_is_hashed_once),
		TEST(a_full_queue_is_busy_never_bad),
		TEST(many_threads_agree),
		TEST(logins_have_one_canonical_form),
		TEST(a_successor_remembers),
		cmocka_unit_test(the_failure_line_is_what_fail2ban_expects),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
