/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any body to any command, on a store with mail. The first byte is the command (low five bits) and
 * the version (high three), the second one says whether a Sync is resumed and how the answer is
 * wanted; the rest is the body. What must hold: a sensible HTTP status, always a reason for a
 * refusal, and an answer that reads back as a document. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/config.h"
#include "core/eas/class_email.h"
#include "store/account.h"

static struct db *db;
static struct writer *writer;
static struct config *config;
static struct account account;
static char dir[64];

static const char *const mails[] = {
	"From: a@b.c\r\nTo: d@e.f\r\nSubject: one\r\n\r\nText\r\n",
	"From: a@b.c\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	"--b\r\nContent-Type: text/html\r\n\r\n<p>Hello</p>\r\n--b\r\n"
	"Content-Type: image/png; name=x.png\r\nContent-Disposition: attachment\r\n\r\nxyz\r\n"
	"--b--\r\n",
};

static int fill(struct db_txn *txn, void *arg)
{
	(void)arg;
	int err = account_create(txn, bytes_str("anna@example.org"), "", "Anna", 1, &account);

	for (size_t i = 0; err == DB_OK && i < 6; i++) {
		struct bytes mime = bytes_str(mails[i % 2]);
		struct message_summary summary;
		struct buf encoded = {0};
		struct arena a;
		uint64_t id;

		arena_init(&a, 16 << 20);
		message_summarize(mime, &a, &summary);
		message_summary_encode(&summary, &encoded);
		err = item_add(txn, account.mailbox, i < 4 ? 1 : 3,
			&(struct item_new){.item_class = ITEM_EMAIL,
				.time_s = 1700000000 - (int64_t)i * 86400,
				.summary = buf_bytes(&encoded),
				.body = mime},
			0, &id);
		buf_free(&encoded);
		arena_free(&a);
	}
	return err;
}

static void clean_up(void)
{
	char command[100];

	writer_free(&writer);
	db_close(&db);
	config_free(&config);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	if (system(command) != 0)
		fprintf(stderr, "%s stays behind\n", dir);
}

/* A fresh store now and then, so that what a run makes of it does not decide too much. */
static void prepare(void)
{
	struct db_options o = {.map_bytes = 16 << 20, .create = true, .no_sync = true, .dir = dir};
	char why[200];

	if (db)
		clean_up();
	snprintf(dir, sizeof(dir), "/tmp/roost-fuzz-XXXXXX");
	CHECK(mkdtemp(dir));
	CHECK(db_open(&o, &db, why, sizeof(why)) == DB_OK);
	CHECK(db_write(db, fill, NULL) == DB_OK);
	writer = writer_new(db, true);
	config = config_new();
	config->policy_require = false;
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	message_init();
	atexit(clean_up);
	return 0;
}

static void run(const struct eas_request *req)
{
	struct eas_context ctx = {db, writer, config, eas_policy_generation(config)};
	struct eas_answer answer;
	struct wbxml_node *root;
	const char *why;
	struct arena a;

	eas_run(&ctx, req, &answer);
	CHECK(answer.http_status >= 200 && answer.http_status < 600);
	CHECK(answer.http_status == 200 || answer.reason);
	CHECK(!answer.body.failed);
	CHECK(answer.disposition == EAS_ANSWER || (answer.wait_s > 0 && answer.body.n == 0));
	if (answer.body.n && answer.content_type &&
		strcmp(answer.content_type, EAS_WBXML_TYPE) == 0) {
		arena_init(&a, 256 << 20);
		CHECK(wbxml_parse(buf_bytes(&answer.body), &a, NULL, &root, &why) == 1);
		arena_free(&a);
	}
	buf_free(&answer.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const uint16_t versions[8] = {121, 140, 141, 160, 161, 141, 121, 160};
	static unsigned runs;
	struct eas_query query = {.version = 0};
	struct arena arena;

	if (n < 2)
		return 0;
	if (runs++ % 1000 == 0)
		prepare();
	arena_init(&arena, 64 << 20);
	struct eas_request req = {.version = versions[p[0] >> 5],
		.command = (enum eas_command)((p[0] & 31) % EAS_COMMAND_COUNT),
		.query = &query,
		.mailbox = account.mailbox,
		.address = account.address,
		.device_id = bytes_str(p[1] & 1 ? "phone1" : "phone2"),
		.device_type = bytes_str("Fuzz"),
		.user_agent = bytes_str("Fuzz"),
		.peer = "192.0.2.1",
		.accept_multipart = p[1] & 2,
		.resumed = p[1] & 4,
		.final = p[1] & 8,
		.body_is_empty = n == 2,
		.body = bytes_of(p + 2, n - 2),
		.now_ms = 1700000000000u + (uint64_t)(p[1] >> 4) * 86400000u,
		.arena = &arena};

	req.query = &query;
	query.command = req.command;
	bytes_to_strz(req.body, query.attachment_name, sizeof(query.attachment_name));
	run(&req);
	arena_free(&arena);
	return 0;
}
