/* SPDX-License-Identifier: GPL-3.0-or-later */
/* For roostctl.sh and server.py: puts devices into a store, and stands in for a running server.
 *   admin-fixture DIR device ADDRESS DEVICE-ID MODEL
 *   admin-fixture DIR serve          control socket with two parked requests and one refusal, until
 *                                    "stop" or standard input ends; prints "ready"
 *   admin-fixture DIR verify ADDRESS < password      prints ok, bad or disabled
 *   admin-fixture DIR head           newest journal number
 *   admin-fixture DIR damage         a commit whose row of the journal does not decode */
#include "core/access/credentials.h"
#include "core/admin/admin.h"
#include "core/base/clock.h"
#include "core/config/config.h"
#include "store/device.h"
#include "store/journal.h"
#include "store/key.h"
#include "store/rows.h"

#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct db *db;
static atomic_int ended;

struct add {
	const char *address;
	struct device device;
};

static int write_device(struct db_txn *txn, void *arg)
{
	struct add *a = arg;
	struct account account;
	int err = account_find(txn, bytes_str(a->address), &account);

	a->device.id = 0;
	return err != 0 ? err : device_put(txn, account.mailbox, &a->device);
}

static int add_device(char **args)
{
	struct add a = {.address = args[0],
		.device = {.version = 161,
			.first_seen_ms = 1760000000000,
			.last_seen_ms = clock_wall_ms() - 180000,
			.ping_heartbeat_s = 900,
			.ping_folder_count = 1,
			.ping_folders = {1}}};
	int err;

	snprintf(a.device.device_id, sizeof(a.device.device_id), "%s", args[1]);
	snprintf(a.device.device_type, sizeof(a.device.device_type), "Phone");
	snprintf(a.device.model, sizeof(a.device.model), "%s", args[2]);
	snprintf(a.device.last_address, sizeof(a.device.last_address), "192.0.2.7");
	err = db_write(db, write_device, &a);
	if (err)
		fprintf(stderr, "%s\n", db_strerror(err));
	return err ? 1 : 0;
}

static unsigned parked(void *arg, uint32_t mailbox, uint32_t device,
	void (*one)(void *ctx, const struct admin_parked *p), void *ctx)
{
	uint64_t now = clock_wall_ms();

	(void)arg, (void)device;
	for (uint32_t i = 1; i <= 2; i++) {
		struct admin_parked p = {.mailbox = i,
			.device = 1,
			.sync = i == 2,
			.since_ms = now - 60000 * i,
			.due_ms = now + 900000,
			.heartbeat_s = 900,
			.folders = {1, 7},
			.folder_count = 2,
			.ip = {[10] = 0xff, 0xff, 192, 0, 2, (uint8_t)i},
			.request_id = i};

		if (mailbox == 0 || mailbox == i)
			one(ctx, &p);
	}
	return 0;
}

static bool yes(void *arg, const char **why_out)
{
	(void)arg, (void)why_out;
	return true;
}

static bool reload(void *arg, char *why, size_t why_bytes)
{
	(void)arg;
	snprintf(why, why_bytes, "roost.conf:3: push.folders_max is \"x\"");
	return false;
}

static void stop(void *arg)
{
	(void)arg;
	ended = 1;
}

static int serve(void)
{
	struct admin_server server = {
		.parked = parked, .ready = yes, .live = yes, .reload = reload, .stop = stop};
	struct why_entry e = {.request_id = 0xfeed,
		.wall_ms = clock_wall_ms(),
		.http_status = 403,
		.reason = "account disabled",
		.user = "a@example.test",
		.command = "Sync",
		.peer = "192.0.2.7",
		.user_agent = "evil \033[31m agent"};
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	struct config *c = config_new();
	char why[600] = "";
	struct admin *a = admin_start(c, db, &server, NULL, why, sizeof(why));
	char drop[64];

	config_free(&c);
	if (!a) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	why_record(&e);
	puts("ready");
	fflush(stdout);
	while (!ended)
		if (poll(&in, 1, 50) > 0 && read(STDIN_FILENO, drop, sizeof(drop)) <= 0)
			break;
	usleep(100000); /* the answer to "stop" is under way */
	admin_stop(&a);
	return 0;
}

static int verify(const char *address)
{
	struct cred_identity who;
	struct config *c = config_new();
	char password[256] = "", why[600] = "";
	struct credentials *cred;
	enum cred_result r;

	if (!config_set(c, "auth.hash_cost=minimal", why, sizeof(why)) ||
		!(cred = credentials_new(c, db, why, sizeof(why)))) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	if (!fgets(password, sizeof(password), stdin))
		password[0] = 0;
	password[strcspn(password, "\n")] = 0;
	r = cred_verify_now(cred, address, password, &who);
	puts(r == CRED_OK ? "ok" : r == CRED_BAD ? "bad" : r == CRED_DISABLED ? "disabled" : "?");
	credentials_free(&cred);
	config_free(&c);
	return 0;
}

static int head(void)
{
	struct db_txn txn;

	if (db_read(db, &txn) != 0)
		return 1;
	printf("%" PRIu64 "\n", journal_head(&txn));
	db_read_end(&txn);
	return 0;
}

static int write_damaged_row(struct db_txn *txn, void *arg)
{
	struct journal_row row = {.mailbox = 1, .kind = JOURNAL_TOUCH};
	struct key key;
	int err = journal_append(txn, &row);

	(void)arg;
	return err ? err : rows_put(txn, key_journal(&key, row.seq), bytes_str("damaged"));
}

int main(int argc, char **argv)
{
	struct db_options o = {.dir = argc > 1 ? argv[1] : NULL, .no_sync = true};
	char why[600] = "";
	int code = 2;

	if (argc < 3)
		return 2;
	if (db_open(&o, &db, why, sizeof(why)) != 0) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	if (strcmp(argv[2], "device") == 0 && argc == 6)
		code = add_device(argv + 3);
	else if (strcmp(argv[2], "serve") == 0)
		code = serve();
	else if (strcmp(argv[2], "verify") == 0 && argc == 4)
		code = verify(argv[3]);
	else if (strcmp(argv[2], "head") == 0)
		code = head();
	else if (strcmp(argv[2], "damage") == 0)
		code = db_write(db, write_damaged_row, NULL) == DB_OK ? 0 : 1;
	db_close(&db);
	return code;
}
