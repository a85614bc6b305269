/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/bench_commit.c - changes per second through the group commit, durable each.
 *   bench_commit [--dir D] [--seconds S] [--threads T] [--processes P] [--window W] [--mailboxes M]
 *                [--body BYTES] [--no-sync]
 * Every process has a store of its own open on the same directory, one writer, and T threads that
 * keep W messages each in flight to mailboxes in turn. A change is one stored message: item,
 * indexes, folder numbers and journal row. Latency is from submitting to done.
 * Prints a table row (with --header also its head) and one JSON line. */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/figures.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "store/account.h"
#include "store/mailbox.h"
#include "store/writer.h"

enum { WINDOW_MAX = 1024, THREADS_MAX = 256, PROCESSES_MAX = 16, BUCKETS = 256 };

static struct {
	const char *dir;
	double seconds;
	unsigned threads, processes, window, mailboxes, body_bytes;
	bool no_sync, header;
} opt = {.seconds = 5, .threads = 4, .processes = 1, .window = 32, .mailboxes = 1000};

/* Shared by all processes. */
struct shared {
	_Atomic uint32_t ready;
	_Atomic bool go;
	_Atomic uint64_t end_ns;
	_Atomic uint64_t changes, commits, errors;
	_Atomic uint64_t latency[BUCKETS]; /* eight to a doubling, from 1 us */
};
static struct shared *shared;

static unsigned bucket_of(uint64_t ns)
{
	uint64_t us = ns / 1000 + 1;
	unsigned log = 63 - (unsigned)__builtin_clzll(us);
	unsigned part = (unsigned)((us << 3 >> log) & 7);
	unsigned b = log * 8 + part;

	return b < BUCKETS ? b : BUCKETS - 1;
}

static double bucket_us(unsigned b)
{
	return (double)(1ull << b / 8) * (1 + (b % 8 + 1) / 8.0);
}

static double percentile_us(double share)
{
	uint64_t all = 0, sum = 0;

	for (unsigned b = 0; b < BUCKETS; b++)
		all += atomic_load(&shared->latency[b]);
	for (unsigned b = 0; b < BUCKETS; b++) {
		sum += atomic_load(&shared->latency[b]);
		if (sum && (double)sum >= share * (double)all)
			return bucket_us(b);
	}
	return 0;
}

static uint8_t body[1 << 20];

struct job {
	struct write op;
	struct submitter *owner;
	uint32_t mailbox;
	uint64_t start_ns;
};

struct submitter {
	pthread_t thread;
	struct writer *w;
	unsigned number;
	sem_t free; /* jobs end in the order of submission, so a count is enough */
	struct job jobs[WINDOW_MAX];
};

static int deliver_fn(struct db_txn *txn, void *arg)
{
	struct job *j = arg;
	static const char summary[] =
		"From: sender@example.org; To: you@example.org; Subject: a message as long as most"
		" subjects are, more or less, but not more";
	struct item_new n = {.item_class = ITEM_EMAIL,
		.time_s = (int64_t)(j->start_ns / 1000000000),
		.summary = bytes_str(summary),
		.body = bytes_of(body, opt.body_bytes)};
	uint64_t id;

	return item_add(txn, j->mailbox, FOLDER_ID_INBOX, &n, 0, &id);
}

static void deliver_done(struct write *w, int err)
{
	struct job *j = container_of(w, struct job, op);
	uint64_t now = clock_mono_ns();

	if (err) {
		atomic_fetch_add(&shared->errors, 1);
	} else if (now <= shared->end_ns) {
		atomic_fetch_add(&shared->changes, 1);
		atomic_fetch_add(&shared->latency[bucket_of(now - j->start_ns)], 1);
	}
	sem_post(&j->owner->free);
}

static void *submitter_main(void *arg)
{
	struct submitter *s = arg;
	uint64_t turn = s->number;
	unsigned next = 0;

	while (clock_mono_ns() < shared->end_ns) {
		struct job *j;

		while (sem_wait(&s->free))
			;
		j = &s->jobs[next++ % opt.window];
		turn = turn * 6364136223846793005u + 1442695040888963407u;
		*j = (struct job){.op = {.fn = deliver_fn, .arg = j, .done = deliver_done},
			.owner = s,
			.mailbox = (uint32_t)(turn >> 33) % opt.mailboxes + 1,
			.start_ns = clock_mono_ns()};
		writer_submit(s->w, &j->op);
	}
	for (unsigned i = 0; i < opt.window; i++)
		while (sem_wait(&s->free))
			;
	return NULL;
}

static void *writer_main(void *arg)
{
	while (writer_step(arg, true))
		;
	return NULL;
}

static struct db *open_store(bool create)
{
	struct db_options o = {.dir = opt.dir, .create = create, .no_sync = opt.no_sync};
	char why[512] = "";
	struct db *db;

	if (db_open(&o, &db, why, sizeof(why))) {
		fprintf(stderr, "bench_commit: %s\n", why);
		exit(1);
	}
	return db;
}

static int accounts_fn(struct db_txn *txn, void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < opt.mailboxes; i++) {
		struct account a;
		char address[64];
		int err;

		snprintf(address, sizeof(address), "u%u@example.org", i);
		err = account_create(txn, bytes_str(address), "", "", 0, &a);
		if (err)
			return err;
	}
	return DB_OK;
}

static void process_main(unsigned number)
{
	struct db *db = open_store(false);
	struct writer *w = writer_new(db, false);
	struct submitter *s = calloc(opt.threads, sizeof(*s));
	struct db_stats stats;
	pthread_t thread;

	CHECK(s && pthread_create(&thread, NULL, writer_main, w) == 0);
	atomic_fetch_add(&shared->ready, 1);
	while (!atomic_load(&shared->go))
		sched_yield();
	for (unsigned i = 0; i < opt.threads; i++) {
		s[i].w = w;
		s[i].number = number * opt.threads + i;
		sem_init(&s[i].free, 0, opt.window);
		CHECK(pthread_create(&s[i].thread, NULL, submitter_main, &s[i]) == 0);
	}
	for (unsigned i = 0; i < opt.threads; i++)
		pthread_join(s[i].thread, NULL);
	writer_stop(w);
	pthread_join(thread, NULL);
	CHECK(db_stats(db, &stats) == DB_OK);
	atomic_fetch_add(&shared->commits, stats.commits);
	writer_free(&w);
	db_close(&db);
	free(s);
}

static volatile sig_atomic_t interrupted;

/* All end at once, and the parent removes the store. */
static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
	atomic_store(&shared->end_ns, 0);
}

static unsigned number_of(const char *text, unsigned min, unsigned max)
{
	uint64_t v;

	if (!bytes_to_u64(bytes_str(text), max, &v) || v < min) {
		fprintf(stderr, "bench_commit: %s is not between %u and %u\n", text, min, max);
		exit(2);
	}
	return (unsigned)v;
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {{"dir", 1, NULL, 'd'}, {"seconds", 1, NULL, 's'},
		{"threads", 1, NULL, 't'}, {"processes", 1, NULL, 'p'}, {"window", 1, NULL, 'w'},
		{"mailboxes", 1, NULL, 'm'}, {"body", 1, NULL, 'b'}, {"no-sync", 0, NULL, 'n'},
		{"header", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'd':
			opt.dir = optarg;
			break;
		case 's':
			opt.seconds = number_of(optarg, 1, 3600);
			break;
		case 't':
			opt.threads = number_of(optarg, 1, THREADS_MAX);
			break;
		case 'p':
			opt.processes = number_of(optarg, 1, PROCESSES_MAX);
			break;
		case 'w':
			opt.window = number_of(optarg, 1, WINDOW_MAX);
			break;
		case 'm':
			opt.mailboxes = number_of(optarg, 1, 1000000);
			break;
		case 'b':
			opt.body_bytes = number_of(optarg, 0, sizeof(body));
			break;
		case 'n':
			opt.no_sync = true;
			break;
		case 'h':
			opt.header = true;
			break;
		default:
			exit(2);
		}
	}
}

static void report(void)
{
	uint64_t changes = atomic_load(&shared->changes), commits = atomic_load(&shared->commits);
	double p50 = percentile_us(0.5), p99 = percentile_us(0.99);
	struct statfs fs;
	char magic[32];
	json_t *line;

	CHECK(opt.dir);
	CHECK(statfs(opt.dir, &fs) == 0);
	snprintf(magic, sizeof(magic), "0x%lx", (unsigned long)fs.f_type);
	if (opt.header)
		printf("| processes | threads | in flight | changes/s | commits/s | p50 us | p99 "
		       "us |\n"
		       "|---|---|---|---|---|---|---|\n");
	printf("| %u | %u | %u | %.0f | %.0f | %.0f | %.0f |\n", opt.processes, opt.threads,
		opt.processes * opt.threads * opt.window, (double)changes / opt.seconds,
		(double)commits / opt.seconds, p50, p99);
	line = json_pack("{s:s, s:o, s:s, s:{s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:s}, s:I, s:f, "
			 "s:f, s:f, s:f, "
			 "s:f, s:I}",
		"name", "commit", "machine", figures_machine(), "commit", figures_commit(),
		"settings", "processes", (json_int_t)opt.processes, "threads",
		(json_int_t)opt.threads, "window", (json_int_t)opt.window, "mailboxes",
		(json_int_t)opt.mailboxes, "body_bytes", (json_int_t)opt.body_bytes, "seconds",
		opt.seconds, "sync", !opt.no_sync, "filesystem_magic", magic, "changes",
		(json_int_t)changes, "changes_per_s", (double)changes / opt.seconds,
		"commits_per_s", (double)commits / opt.seconds, "changes_per_commit",
		commits ? (double)changes / (double)commits : 0, "latency_p50_us", p50,
		"latency_p99_us", p99, "errors", (json_int_t)atomic_load(&shared->errors));
	CHECK(line);
	json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(10));
	putchar('\n');
	json_decref(line);
}

int main(int argc, char **argv)
{
	char temporary[256] = "";
	pid_t pids[PROCESSES_MAX];
	struct db *db;
	int failed = 0;

	options(argc, argv);
	if (!opt.dir) {
		const char *tmp = getenv("TMPDIR");
		snprintf(temporary, sizeof(temporary), "%s/roost-bench-XXXXXX",
			tmp && tmp[0] ? tmp : "/tmp");
		opt.dir = mkdtemp(temporary);
		CHECK(opt.dir);
	}
	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	sigaction(SIGINT, &(struct sigaction){.sa_handler = on_signal}, NULL);
	sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
	/* The store is open in the children only: LMDB does not survive a fork. */
	db = open_store(true);
	int err = db_write(db, accounts_fn, NULL);
	db_close(&db);
	if (err) {
		fprintf(stderr, "bench_commit: %s: %s (a new directory is needed)\n", opt.dir,
			db_strerror(err));
		return 1;
	}
	for (unsigned i = 0; i < opt.processes; i++) {
		pids[i] = fork();
		CHECK(pids[i] >= 0);
		if (pids[i] == 0) {
			process_main(i);
			_exit(0);
		}
	}
	while (atomic_load(&shared->ready) < opt.processes)
		sched_yield();
	atomic_store(&shared->end_ns, clock_mono_ns() + (uint64_t)(opt.seconds * 1e9));
	if (interrupted)
		atomic_store(&shared->end_ns, 0);
	atomic_store(&shared->go, true);
	for (unsigned i = 0; i < opt.processes; i++) {
		int status = 0;

		while (waitpid(pids[i], &status, 0) < 0 && errno == EINTR)
			;
		if (status == 0)
			continue;
		failed = 1;
		fprintf(stderr, "bench_commit: a process %s %d\n",
			WIFSIGNALED(status) ? "was killed by signal" : "ended with",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
	if (!failed && !interrupted)
		report();
	if (atomic_load(&shared->errors))
		fprintf(stderr, "bench_commit: %llu changes failed\n",
			(unsigned long long)atomic_load(&shared->errors));
	if (temporary[0]) {
		static const char *const names[] = {"data.mdb", "lock.mdb", "notify"};
		for (size_t i = 0; i < ARRAY_LEN(names); i++) {
			char path[512];
			snprintf(path, sizeof(path), "%s/%s", temporary, names[i]);
			unlink(path);
		}
		rmdir(temporary);
	}
	if (interrupted)
		return 130;
	return failed || atomic_load(&shared->errors) != 0;
}
