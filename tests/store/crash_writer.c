/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/store/crash_writer.c - kills a writing process again and again, and looks at what is left.
 *   crash_writer DIR [ROUNDS [SEED]]     DIR: an empty directory
 * A child commits numbered messages to every recipient, each number in one write, through the
 * group commit and from several threads, and says every acknowledged number into a pipe. After a
 * random number of them, and a random moment more, it gets SIGKILL. Then, in the store:
 * every acknowledged number is with every recipient exactly once, any other with all of them or
 * with none, records and indexes agree, and the shared page shows the journal's head. TAP. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "store/account.h"
#include "store/check.h"
#include "store/journal.h"
#include "store/mailbox.h"
#include "store/writer.h"

enum { RECIPIENTS = 5, SUBMITTERS = 4, NUMBERS_MAX = 1 << 20, ACKS_MAX = 150 };

static uint8_t acknowledged[NUMBERS_MAX];
static uint8_t seen[RECIPIENTS][NUMBERS_MAX];
static uint64_t next_number = 1;

static struct db *open_store(const char *dir)
{
	struct db_options o = {.dir = dir, .create = true, .server = true, .map_bytes = 1 << 20};
	char why[512] = "";
	struct db *db;

	if (db_open(&o, &db, why, sizeof(why)) != DB_OK) {
		printf("Bail out! %s\n", why);
		exit(1);
	}
	return db;
}

static int make_accounts_fn(struct db_txn *txn, void *arg)
{
	(void)arg;
	for (int i = 0; i < RECIPIENTS; i++) {
		struct account a;
		char address[64];
		int err;

		snprintf(address, sizeof(address), "u%d@example.org", i);
		err = account_create(txn, bytes_str(address), "", "", 0, &a);
		if (err)
			return err == DB_EXISTS ? DB_OK : err;
		CHECK(a.mailbox == (uint32_t)i + 1);
	}
	return DB_OK;
}

/* ---- the child ---- */

static struct writer *writer;
static _Atomic uint64_t numbers;
static int ack_fd;

static int deliver_fn(struct db_txn *txn, void *arg)
{
	uint64_t number = *(uint64_t *)arg, id;
	static const uint8_t body[6000];
	struct item_new n = {.item_class = ITEM_EMAIL,
		.time_s = (int64_t)(number % 97),
		.summary = bytes_of(&number, sizeof(number)),
		.body = bytes_of(body, number % sizeof(body))};
	int err = DB_OK;

	for (uint32_t m = 1; m <= RECIPIENTS && err == DB_OK; m++) {
		err = item_add(txn, m, FOLDER_ID_INBOX, &n, 0, &id);
		/* Some churn, so that the indexes have rows to lose. */
		if (err == DB_OK && number % 3 == 0)
			err = item_set_state(
				txn, m, FOLDER_ID_INBOX, id, true, bytes_str("props"), 0);
		if (err == DB_OK && number % 4 == 0)
			err = item_move(txn, m, FOLDER_ID_INBOX, FOLDER_ID_TRASH, id, 0);
	}
	return err;
}

static void *writer_main(void *arg)
{
	(void)arg;
	while (writer_step(writer, true))
		;
	return NULL;
}

static void *submitter_main(void *arg)
{
	(void)arg;
	for (;;) {
		uint64_t number = atomic_fetch_add(&numbers, 1);

		if (writer_write(writer, deliver_fn, &number) != DB_OK ||
			write(ack_fd, &number, sizeof(number)) != sizeof(number))
			_exit(3);
	}
	return NULL;
}

static void child_main(const char *dir, int fd)
{
	struct db *db = open_store(dir);
	pthread_t thread;

	if (db_write(db, make_accounts_fn, NULL) != DB_OK)
		_exit(2);
	ack_fd = fd;
	atomic_store(&numbers, next_number);
	writer = writer_new(db, false);
	for (int i = 0; i < SUBMITTERS; i++)
		CHECK(pthread_create(&thread, NULL, submitter_main, NULL) == 0);
	writer_main(NULL);
}

/* ---- the parent ---- */

static bool problem(const char *what, uint64_t number, uint32_t mailbox)
{
	printf("# %s: number %llu, mailbox %u\n", what, (unsigned long long)number, mailbox);
	return false;
}

static bool folder_read(struct db_txn *txn, uint32_t mailbox, uint32_t folder)
{
	struct item_pos pos = {.time_s = INT64_MIN};

	for (; item_at_or_after(txn, mailbox, folder, &pos) == DB_OK; pos.id++) {
		struct bytes body;
		struct item it;
		uint64_t number;

		if (item_get(txn, mailbox, folder, pos.id, &it) || it.summary.n != 8 ||
			item_body(txn, mailbox, pos.id, &body))
			return problem("unreadable item", pos.id, mailbox);
		memcpy(&number, it.summary.p, 8);
		if (number >= NUMBERS_MAX || seen[mailbox - 1][number]++)
			return problem("stored twice", number, mailbox);
		if (number >= next_number)
			next_number = number + 1;
	}
	return true;
}

static bool verify(const char *dir)
{
	struct db *db = open_store(dir);
	struct db_txn txn;
	bool ok = true;

	memset(seen, 0, sizeof(seen));
	CHECK(db_read(db, &txn) == DB_OK);
	for (uint32_t m = 1; m <= RECIPIENTS; m++)
		ok = ok && folder_read(&txn, m, FOLDER_ID_INBOX) &&
		     folder_read(&txn, m, FOLDER_ID_TRASH);
	if (ok && atomic_load(&db_notify(db)->word) != (uint32_t)journal_head(&txn))
		ok = problem("the shared word is not the head", journal_head(&txn), 0);
	db_read_end(&txn);
	for (uint64_t n = 1; ok && n < next_number; n++)
		for (uint32_t m = 0; ok && m < RECIPIENTS; m++) {
			if (acknowledged[n] && !seen[m][n])
				ok = problem("acknowledged, but lost", n, m + 1);
			else if (seen[m][n] != seen[0][n])
				ok = problem("with some recipients only", n, m + 1);
		}
	if (ok && store_check(db, stdout) != 0)
		ok = problem("records and indexes disagree", 0, 0);
	db_close(&db);
	return ok;
}

int main(int argc, char **argv)
{
	unsigned rounds = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 20, failed = 0;
	unsigned seed = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : (unsigned)time(NULL);

	if (argc < 2) {
		fprintf(stderr, "usage: crash_writer DIR [ROUNDS [SEED]]\n");
		return 2;
	}
	printf("1..%u\n# seed %u\n", rounds, seed);
	for (unsigned round = 1; round <= rounds; round++) {
		unsigned acks = (unsigned)rand_r(&seed) % ACKS_MAX, count = 0;
		uint64_t moment_ns = (uint64_t)rand_r(&seed) % 2000000, number, t0;
		int fds[2], status;
		pid_t pid;

		CHECK(pipe(fds) == 0);
		fflush(NULL);
		pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			close(fds[0]);
			child_main(argv[1], fds[1]);
			_exit(1);
		}
		close(fds[1]);
		while (count < acks && read(fds[0], &number, 8) == 8 && number < NUMBERS_MAX) {
			acknowledged[number] = 1;
			count++;
		}
		for (t0 = clock_mono_ns(); clock_mono_ns() - t0 < moment_ns;)
			;
		kill(pid, SIGKILL);
		/* What it still said before it died counts as well. */
		while (read(fds[0], &number, 8) == 8 && number < NUMBERS_MAX) {
			acknowledged[number] = 1;
			count++;
			if (number >= next_number)
				next_number = number + 1;
		}
		close(fds[0]);
		CHECK(waitpid(pid, &status, 0) == pid);
		if (!WIFSIGNALED(status)) {
			printf("Bail out! the writer stopped by itself: %d\n", status);
			return 1;
		}
		if (!verify(argv[1]))
			failed++, printf("not ");
		printf("ok %u - killed after %u acknowledged writes\n", round, count);
	}
	return failed != 0;
}
