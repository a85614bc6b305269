/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/store/db_fixture.h"

#include <pthread.h>

#include "core/base/metrics.h"
#include "store/writer.h"

struct owner {
	struct writer *w;
	pthread_t thread;
};

static void *owner_main(void *arg)
{
	struct owner *o = arg;

	while (writer_step(o->w, true))
		;
	return NULL;
}

static void owner_start(struct owner *o, struct db *db)
{
	o->w = writer_new(db, false);
	assert_int_equal(pthread_create(&o->thread, NULL, owner_main, o), 0);
}

static void owner_end(struct owner *o)
{
	writer_stop(o->w);
	pthread_join(o->thread, NULL);
	writer_free(&o->w);
}

/* A write with everything a test wants to see of it. */
struct job {
	struct write op;
	uint32_t mailbox;
	int64_t time_s;
	enum { JOB_ADD, JOB_REFUSE, JOB_FAIL_DIRTY } what;
	uint64_t id;
	int err, runs, done;
	int *order; /* counts done() calls */
};

static int job_fn(struct db_txn *txn, void *arg)
{
	struct job *j = arg;
	struct item_new n = {.item_class = ITEM_EMAIL, .time_s = j->time_s};
	int err;

	j->runs++;
	if (j->what == JOB_REFUSE)
		return item_delete(txn, j->mailbox, FOLDER_ID_INBOX, 999999, 0);
	err = item_add(txn, j->mailbox, FOLDER_ID_INBOX, &n, 0, &j->id);
	return err == DB_OK && j->what == JOB_FAIL_DIRTY ? DB_EXISTS : err;
}

static void job_done(struct write *w, int err)
{
	struct job *j = container_of(w, struct job, op);

	j->err = err;
	j->done = j->order ? ++*j->order : 1;
}

static void job_init(struct job *j, uint32_t mailbox, int64_t time_s, int *order)
{
	*j = (struct job){.op = {.fn = job_fn, .arg = j, .done = job_done},
		.mailbox = mailbox,
		.time_s = time_s,
		.order = order};
}

static uint64_t items(struct db *db, uint32_t mailbox)
{
	struct db_txn txn;
	struct folder f;

	assert_int_equal(db_read(db, &txn), DB_OK);
	assert_int_equal(folder_get(&txn, mailbox, FOLDER_ID_INBOX, &f), DB_OK);
	db_read_end(&txn);
	return f.items;
}

/* All who wait share one commit, and are told in the order in which they came. */
static void one_commit_serves_all_who_wait(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	int64_t commits = metrics_sum(M_STORE_COMMITS), writes = metrics_sum(M_STORE_WRITES);
	int64_t changes = metrics_sum(M_STORE_CHANGES);
	struct writer *w = writer_new(f->db, false);
	static struct job jobs[WRITER_BATCH_MAX + 44];
	int order = 0;

	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		job_init(&jobs[i], mailbox, (int64_t)i, &order);
		writer_submit(w, &jobs[i].op);
	}
	assert_true(writer_step(w, true));
	assert_int_equal(order, WRITER_BATCH_MAX);
	assert_true(writer_step(w, true));
	assert_true(writer_step(w, false));
	assert_int_equal(order, ARRAY_LEN(jobs));
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		assert_int_equal(jobs[i].err, DB_OK);
		assert_int_equal(jobs[i].done, i + 1);
		assert_int_equal(jobs[i].id, i + 1);
	}
	assert_int_equal(metrics_sum(M_STORE_COMMITS) - commits, 2);
	assert_int_equal(metrics_sum(M_STORE_WRITES) - writes, ARRAY_LEN(jobs));
	assert_int_equal(metrics_sum(M_STORE_CHANGES) - changes, ARRAY_LEN(jobs));
	writer_stop(w);
	assert_false(writer_step(w, true));
	writer_free(&w);
}

/* A refusal costs the others nothing: still one commit, each fn run once. */
static void a_refusal_stays_with_its_owner(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	int64_t commits = metrics_sum(M_STORE_COMMITS), errors = metrics_sum(M_STORE_ERRORS);
	struct writer *w = writer_new(f->db, false);
	struct job jobs[9];

	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		job_init(&jobs[i], mailbox, (int64_t)i, NULL);
		jobs[i].what = i % 4 == 2 ? JOB_REFUSE : JOB_ADD;
		writer_submit(w, &jobs[i].op);
	}
	assert_true(writer_step(w, true));
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		assert_int_equal(jobs[i].err, i % 4 == 2 ? DB_NOT_FOUND : DB_OK);
		assert_int_equal(jobs[i].runs, 1);
	}
	assert_int_equal(items(f->db, mailbox), 7);
	assert_int_equal(metrics_sum(M_STORE_COMMITS) - commits, 1);
	assert_int_equal(metrics_sum(M_STORE_ERRORS) - errors, 2);
	writer_stop(w);
	writer_free(&w);
}

/* One that had written before it failed takes nobody with it either. */
static void a_failure_half_way_stays_with_its_owner(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct writer *w = writer_new(f->db, false);
	struct job jobs[9];

	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		job_init(&jobs[i], mailbox, (int64_t)i, NULL);
		jobs[i].what = i == 4 ? JOB_FAIL_DIRTY : JOB_ADD;
		writer_submit(w, &jobs[i].op);
	}
	assert_true(writer_step(w, true));
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		assert_int_equal(jobs[i].err, i == 4 ? DB_EXISTS : DB_OK);
		assert_int_equal(jobs[i].done, 1);
	}
	assert_int_equal(items(f->db, mailbox), 8);
	writer_stop(w);
	writer_free(&w);
}

static int huge_fn(struct db_txn *txn, void *arg)
{
	static uint8_t body[400000];
	struct job *j = arg;
	struct item_new n = {.item_class = ITEM_EMAIL, .body = bytes_of(body, sizeof(body))};

	j->runs++;
	return item_add(txn, j->mailbox, FOLDER_ID_INBOX, &n, 0, &j->id);
}

/* What does not fit is refused alone; the small ones of the same batch are stored. */
static void a_write_too_large_stays_with_its_owner(void **state)
{
	struct fixture *f = *state;
	struct writer *w;
	struct job jobs[5];
	uint32_t mailbox;

	db_close(&f->db);
	fixture_remove(f->dir);
	f->options.map_bytes = f->options.map_bytes_max = 384 << 10;
	fixture_open(f);
	mailbox = fixture_account(f, "a@example.org");
	w = writer_new(f->db, false);
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		job_init(&jobs[i], mailbox, (int64_t)i, NULL);
		if (i == 2)
			jobs[i].op.fn = huge_fn;
		writer_submit(w, &jobs[i].op);
	}
	assert_true(writer_step(w, true));
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++)
		assert_int_equal(jobs[i].err, i == 2 ? DB_MAP_FULL : DB_OK);
	assert_int_equal(items(f->db, mailbox), 4);
	writer_stop(w);
	writer_free(&w);
}

static int large_fn(struct db_txn *txn, void *arg)
{
	static uint8_t body[WRITER_BATCH_BYTES / 5 * 2];
	struct job *j = arg;
	struct item_new n = {.item_class = ITEM_EMAIL, .body = bytes_of(body, sizeof(body))};

	j->runs++;
	return item_add(txn, j->mailbox, FOLDER_ID_INBOX, &n, 0, &j->id);
}

/* A transaction's memory has a limit: three of these are above it, so that seven are three commits. */
static void large_writes_share_fewer_to_a_commit(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	int64_t commits = metrics_sum(M_STORE_COMMITS);
	struct writer *w = writer_new(f->db, false);
	struct job jobs[7];
	int order = 0;

	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		job_init(&jobs[i], mailbox, (int64_t)i, &order);
		jobs[i].op.fn = large_fn;
		writer_submit(w, &jobs[i].op);
	}
	assert_true(writer_step(w, true));
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		assert_int_equal(jobs[i].err, DB_OK);
		assert_int_equal(jobs[i].runs, 1);
		assert_int_equal(jobs[i].done, i + 1);
	}
	assert_int_equal(metrics_sum(M_STORE_COMMITS) - commits, 3);
	assert_int_equal(items(f->db, mailbox), ARRAY_LEN(jobs));
	writer_stop(w);
	writer_free(&w);
}

/* Several culprits in one batch: each bears his own, whatever lies between is stored, in order. */
static void many_failures_stay_with_their_owners(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct writer *w = writer_new(f->db, false);
	static struct job jobs[300];
	int order = 0;
	uint64_t last = 0, good = 0;

	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		job_init(&jobs[i], mailbox, (int64_t)i, &order);
		if (i % 37 == 0 || i == ARRAY_LEN(jobs) - 1)
			jobs[i].what = JOB_FAIL_DIRTY;
		writer_submit(w, &jobs[i].op);
	}
	assert_true(writer_step(w, true));
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++) {
		assert_int_equal(jobs[i].done, i + 1);
		assert_int_equal(jobs[i].err, jobs[i].what == JOB_ADD ? DB_OK : DB_EXISTS);
		if (jobs[i].what != JOB_ADD)
			continue;
		assert_true(jobs[i].id > last);
		last = jobs[i].id;
		good++;
	}
	assert_int_equal(items(f->db, mailbox), good);
	writer_stop(w);
	writer_free(&w);
}

struct submitter {
	struct writer *w;
	pthread_t thread;
	uint32_t mailbox;
	int refused;
};
enum { SUBMITTERS = 8, WRITES_EACH = 250, IN_FLIGHT = 10 };

static void *submitter_main(void *arg)
{
	struct submitter *s = arg;
	uint64_t last = 0;

	for (int i = 0; i < WRITES_EACH; i++) {
		struct job j;
		int err;

		job_init(&j, s->mailbox, i, NULL);
		if (i % 10 == 9)
			j.what = i % 20 == 9 ? JOB_REFUSE : JOB_FAIL_DIRTY;
		err = writer_write(s->w, job_fn, &j);
		if (j.what == JOB_ADD) {
			CHECK(err == DB_OK && j.id > last);
			last = j.id;
		} else {
			CHECK(err == (j.what == JOB_REFUSE ? DB_NOT_FOUND : DB_EXISTS));
			s->refused++;
		}
	}
	return NULL;
}

/* Nobody waits for ever, and each finds what he was promised. */
static void many_threads_write(void **state)
{
	struct fixture *f = *state;
	struct submitter s[SUBMITTERS] = {};
	struct owner o;

	owner_start(&o, f->db);
	for (size_t i = 0; i < SUBMITTERS; i++) {
		char address[64];
		snprintf(address, sizeof(address), "u%zu@example.org", i);
		s[i].w = o.w;
		s[i].mailbox = fixture_account(f, address);
	}
	for (size_t i = 0; i < SUBMITTERS; i++)
		assert_int_equal(pthread_create(&s[i].thread, NULL, submitter_main, &s[i]), 0);
	for (size_t i = 0; i < SUBMITTERS; i++) {
		pthread_join(s[i].thread, NULL);
		assert_int_equal(s[i].refused, WRITES_EACH / 10);
		assert_int_equal(items(f->db, s[i].mailbox), WRITES_EACH - s[i].refused);
	}
	owner_end(&o);
}

static void *burst_main(void *arg)
{
	struct submitter *s = arg;
	struct job *jobs = calloc(IN_FLIGHT, sizeof(*jobs)), last;

	CHECK(jobs);
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < IN_FLIGHT; i++) {
			job_init(&jobs[i], s->mailbox, i, NULL);
			writer_submit(s->w, &jobs[i].op);
		}
		/* Ours that came before it are committed when this one is. */
		job_init(&last, s->mailbox, 99, NULL);
		CHECK(writer_write(s->w, job_fn, &last) == DB_OK);
		for (int i = 0; i < IN_FLIGHT; i++) {
			CHECK(jobs[i].done == 1 && jobs[i].err == DB_OK);
			CHECK(jobs[i].id < last.id && (i == 0 || jobs[i - 1].id < jobs[i].id));
		}
	}
	free(jobs);
	return NULL;
}

static void order_of_submission_is_kept(void **state)
{
	struct fixture *f = *state;
	struct submitter s[4] = {};
	struct owner o;
	uint32_t mailbox = fixture_account(f, "a@example.org");

	owner_start(&o, f->db);
	for (size_t i = 0; i < ARRAY_LEN(s); i++) {
		s[i].w = o.w;
		s[i].mailbox = mailbox;
		assert_int_equal(pthread_create(&s[i].thread, NULL, burst_main, &s[i]), 0);
	}
	for (size_t i = 0; i < ARRAY_LEN(s); i++)
		pthread_join(s[i].thread, NULL);
	owner_end(&o);
	assert_int_equal(items(f->db, mailbox), 4 * 20 * (IN_FLIGHT + 1));
}

static void *until_closed_main(void *arg)
{
	struct submitter *s = arg;

	for (;;) {
		struct job j;
		int err;

		job_init(&j, s->mailbox, 1, NULL);
		err = writer_write(s->w, job_fn, &j);
		if (err == DB_CLOSED)
			return NULL;
		CHECK(err == DB_OK);
		s->refused++; /* here: how many were acknowledged */
	}
}

/* Stopping in the middle: every write is either stored or refused, and no one is left waiting. */
static void stop_loses_nothing(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");

	for (int round = 0; round < 10; round++) {
		uint64_t before = items(f->db, mailbox), acknowledged = 0;
		struct submitter s[4] = {};
		struct owner o;

		owner_start(&o, f->db);
		for (size_t i = 0; i < ARRAY_LEN(s); i++) {
			s[i].w = o.w;
			s[i].mailbox = mailbox;
			assert_int_equal(
				pthread_create(&s[i].thread, NULL, until_closed_main, &s[i]), 0);
		}
		while (items(f->db, mailbox) < before + 20)
			sched_yield();
		writer_stop(o.w);
		for (size_t i = 0; i < ARRAY_LEN(s); i++) {
			pthread_join(s[i].thread, NULL);
			acknowledged += (uint64_t)s[i].refused;
		}
		owner_end(&o);
		assert_int_equal(items(f->db, mailbox), before + acknowledged);
	}
}

static void inline_writer_commits_at_once(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct writer *w = writer_new(f->db, true);
	struct job j;

	job_init(&j, mailbox, 1, NULL);
	writer_submit(w, &j.op);
	assert_int_equal(j.done, 1);
	assert_int_equal(items(f->db, mailbox), 1);
	j.what = JOB_REFUSE;
	assert_int_equal(writer_write(w, job_fn, &j), DB_NOT_FOUND);
	writer_stop(w);
	assert_int_equal(writer_write(w, job_fn, &j), DB_CLOSED);
	assert_false(writer_step(w, true));
	writer_free(&w);
	assert_null(w);
}

static void wait_for_a_write_while_reading(const struct fixture *f, int from, int to)
{
	struct db_txn txn;
	struct writer *w;
	struct db *db;

	(void)from;
	(void)to;
	close(STDERR_FILENO); /* what CHECK says is meant for bugs that were not asked for */
	if (db_open(&f->options, &db, NULL, 0) || db_read(db, &txn))
		_exit(1);
	w = writer_new(db, false);
	writer_stop(w);
	writer_write(w, job_fn, NULL); /* refused at once, were it let in */
	_exit(0);
}

/* To ourselves: a write that waits for a read which waits for the write is caught wherever it is asked
 * for, and not only on the day when the map must grow. */
static void who_reads_must_not_wait_for_a_write(void **state)
{
	struct fixture *f = *state;
	struct child c;
	int status;

	db_close(&f->db);
	c = child_start(f, wait_for_a_write_while_reading);
	status = child_end(&c, 0);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(one_commit_serves_all_who_wait),
		TEST(a_refusal_stays_with_its_owner),
		TEST(a_failure_half_way_stays_with_its_owner),
		TEST(a_write_too_large_stays_with_its_owner),
		TEST(large_writes_share_fewer_to_a_commit),
		TEST(many_failures_stay_with_their_owners),
		TEST(many_threads_write),
		TEST(order_of_submission_is_kept),
		TEST(stop_loses_nothing),
		TEST(inline_writer_commits_at_once),
		TEST(who_reads_must_not_wait_for_a_write),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
