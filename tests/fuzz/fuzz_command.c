/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Any bodies to any commands, in sequence, on a mailbox with mail that is new for each input.
 * An input is up to 16 requests: a byte with the command (low five bits) and the version (high
 * three), one of flags (which phone, multipart, resumed, final, days gone by), two with the length
 * of the body, the body. Commands from 24 on are what others do to the mailbox. What must hold: a
 * sensible HTTP status, a reason for every refusal, and answers that read back as documents. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/config/config.h"
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

static int add(struct db_txn *txn, unsigned i, uint32_t folder)
{
	struct bytes mime = bytes_str(mails[i % 2]);
	struct message_summary summary;
	struct buf encoded = {0};
	struct arena a;
	uint64_t id;

	arena_init(&a, 16 << 20);
	message_summarize(mime, &a, &summary);
	message_summary_encode(&summary, &encoded);
	int err = item_add(txn, account.mailbox, folder,
		&(struct item_new){.item_class = ITEM_EMAIL,
			.time_s = 1700000000 - (int64_t)i * 86400,
			.summary = buf_bytes(&encoded),
			.body = mime},
		0, &id);
	buf_free(&encoded);
	arena_free(&a);
	return err;
}

static int fill(struct db_txn *txn, void *arg)
{
	struct bytes address = bytes_str("anna@example.org");
	int err = account_delete(txn, address);

	(void)arg;
	if (err == DB_OK || err == DB_NOT_FOUND)
		err = account_create(txn, address, "", "Anna", 1, &account);
	for (unsigned i = 0; err == DB_OK && i < 6; i++)
		err = add(txn, i, i < 4 ? 1 : 3);
	return err;
}

/* What others do: `what` is 24 to 31, `who` an item or an age. */
static int disturb(struct db_txn *txn, void *arg)
{
	const uint8_t *p = arg;
	uint64_t id = 1 + p[1] % 8;
	struct item item;
	uint32_t folder;

	if ((p[0] & 31) < 26)
		return add(txn, p[1], p[0] & 1 ? 1 : 3);
	if (item_folder(txn, account.mailbox, id, &folder) != DB_OK ||
		item_get(txn, account.mailbox, folder, id, &item) != DB_OK)
		return DB_OK;
	switch (p[0] & 31) {
	case 26:
	case 27:
		return item_set_state(
			txn, account.mailbox, folder, id, !item.read, bytes_of(NULL, 0), 0);
	case 28:
		return item_delete(txn, account.mailbox, folder, id, 0);
	default:
		return folder == 4 ? DB_OK : item_move(txn, account.mailbox, folder, 4, id, 0);
	}
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

/* A fresh store now and then: the journal grows. */
static void prepare(void)
{
	struct db_options o = {.map_bytes = 16 << 20, .create = true, .no_sync = true, .dir = dir};
	char why[200];

	if (db)
		clean_up();
	snprintf(dir, sizeof(dir), "/tmp/roost-fuzz-XXXXXX");
	CHECK(mkdtemp(dir));
	CHECK(db_open(&o, &db, why, sizeof(why)) == DB_OK);
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

/* The comparison of Ping, as it finds the device afterwards. */
static void watch(const struct eas_request *req)
{
	struct device_gate gate;
	struct db_txn txn;

	CHECK(db_read(db, &txn) == DB_OK);
	if (device_gate(&txn, account.mailbox, req->device_id, &gate) == DB_OK)
		for (uint32_t folder = 1; folder < 12; folder++)
			CHECK(eas_folder_has_news(
				      &txn, account.mailbox, gate.id, folder, req->now_ms) >= 0);
	db_read_end(&txn);
}

/* One request; the bytes it took, 0 at the end. */
static size_t one(const uint8_t *p, size_t n)
{
	static const uint16_t versions[8] = {121, 140, 141, 160, 161, 141, 121, 160};
	struct eas_query query = {.version = 0};
	struct arena arena;

	if (n < 2)
		return 0;
	if ((p[0] & 31) >= EAS_COMMAND_COUNT) {
		CHECK(db_write(db, disturb, (void *)p) == DB_OK);
		return 2;
	}
	if (n < 4)
		return 0;
	size_t body_n = load_be16(p + 2);
	if (body_n > n - 4)
		body_n = n - 4;
	/* Of its exact size, so that a sanitizer sees one byte too many. */
	uint8_t *body = malloc(body_n ? body_n : 1);
	CHECK(body);
	memcpy(body, p + 4, body_n);
	arena_init(&arena, 64 << 20);
	struct eas_request req = {.version = versions[p[0] >> 5],
		.command = (enum eas_command)(p[0] & 31),
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
		.body_is_empty = body_n == 0,
		.body = bytes_of(body, body_n),
		.now_ms = 1700000000000u + (uint64_t)(p[1] >> 4) * 86400000u,
		.arena = &arena};

	query.command = req.command;
	bytes_to_strz(req.body, query.attachment_name, sizeof(query.attachment_name));
	run(&req);
	watch(&req);
	arena_free(&arena);
	free(body);
	return 4 + body_n;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static unsigned runs;
	size_t took = 1;

	if (runs++ % 5000 == 0)
		prepare();
	CHECK(db_write(db, fill, NULL) == DB_OK);
	for (int i = 0; i < 16 && took; i++) {
		took = one(p, n);
		p += took;
		n -= took;
	}
	return 0;
}
