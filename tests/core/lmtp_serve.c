/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A store and its LMTP server alone, for the scripts in tests/e2e.
 *   lmtp_serve [--unix PATH] [--limit BYTES] [--down] DIR [ADDRESS...]
 *     opens the store in DIR, makes accounts that are not there, prints "port N" (or "unix PATH")
 *     and "ready", serves until EOF on standard input. --down: the writer is stopped, so that every
 *     delivery is answered 451.
 *   lmtp_serve --list ADDRESS DIR
 *     prints the Message-ID of each mail in that inbox.
 *   lmtp_serve --body ADDRESS DIR
 *     prints the mails of that inbox themselves. */
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "core/eas/message.h"
#include "core/feed/lmtp.h"
#include "store/account.h"
#include "store/mailbox.h"
#include "store/writer.h"

static int create_fn(struct db_txn *txn, void *arg)
{
	struct account a;
	int err = account_create(txn, bytes_str(arg), "", "", clock_wall_ms(), &a);

	return err == DB_EXISTS ? DB_OK : err;
}

static void *writer_main(void *arg)
{
	while (writer_step(arg, true))
		;
	return NULL;
}

static int list(struct db *db, const char *address, bool bodies)
{
	struct item_pos pos = {0};
	struct db_txn txn;
	uint32_t mailbox;
	bool disabled;
	int err = deliver_find(db, bytes_str(address), &mailbox, &disabled);

	if (err == DB_OK)
		err = db_read(db, &txn);
	if (err) {
		fprintf(stderr, "%s: %s\n", address, db_strerror(err));
		return 1;
	}
	while (item_at_or_after(&txn, mailbox, FOLDER_ID_INBOX, &pos) == DB_OK) {
		struct message_summary s;
		struct bytes body;
		struct item item;

		if (item_get(&txn, mailbox, FOLDER_ID_INBOX, pos.id, &item) != DB_OK ||
			!message_summary_decode(item.summary, &s) ||
			item_body(&txn, mailbox, pos.id, &body) != DB_OK) {
			fprintf(stderr, "item %llu is damaged\n", (unsigned long long)pos.id);
			err = 1;
			break;
		}
		if (bodies)
			fwrite(body.p, 1, body.n, stdout);
		else
			printf("%.*s\n", (int)s.message_id.n, (const char *)s.message_id.p);
		pos.id++;
	}
	db_read_end(&txn);
	return err;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"unix", required_argument, NULL, 'u'},
		{"limit", required_argument, NULL, 'm'}, {"down", no_argument, NULL, 'd'},
		{"list", required_argument, NULL, 'l'}, {"body", required_argument, NULL, 'b'},
		{0}};
	const char *path = NULL, *show = NULL;
	char listen[300] = "127.0.0.1:0", *listens[1] = {listen}, why[512] = "", junk[256];
	bool down = false, bodies = false;
	struct config c = {.lmtp_message_bytes_max = 10 * 1024 * 1024,
		.lmtp_recipients_max = 100,
		.lmtp_sessions_max = 50,
		.lmtp_idle_timeout_s = 60,
		.listen_lmtp = {.v = listens, .n = 1}};
	struct db_options o = {.create = true};
	struct lmtp_server *s = NULL;
	struct writer *w = NULL;
	pthread_t thread;
	bool threaded = false;
	struct db *db = NULL;
	int opt, err;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'u':
			path = optarg;
			break;
		case 'm':
			c.lmtp_message_bytes_max = atoll(optarg);
			break;
		case 'd':
			down = true;
			break;
		case 'b':
			bodies = true;
			show = optarg;
			break;
		case 'l':
			show = optarg;
			break;
		default:
			return 2;
		}
	}
	if (optind == argc) {
		fprintf(stderr, "lmtp_serve: which directory?\n");
		return 2;
	}
	o.dir = argv[optind++];
	o.server = show == NULL;
	message_init();
	err = db_open(&o, &db, why, sizeof(why));
	if (err) {
		fprintf(stderr, "%s: %s\n", o.dir, why);
		return 1;
	}
	if (show) {
		err = list(db, show, bodies);
		db_close(&db);
		return err != 0;
	}
	for (; optind < argc && err == DB_OK; optind++)
		err = db_write(db, create_fn, argv[optind]);
	if (err) {
		fprintf(stderr, "%s: %s\n", argv[optind - 1], db_strerror(err));
		goto out;
	}
	if (path)
		snprintf(listen, sizeof(listen), "unix:%s", path);
	w = writer_new(db, false);
	if (down)
		writer_stop(w);
	threaded = pthread_create(&thread, NULL, writer_main, w) == 0;
	s = threaded ? lmtp_server_start(&c, db, w, why, sizeof(why)) : NULL;
	if (!s) {
		fprintf(stderr, "%s\n", why);
		err = 1;
		goto out;
	}
	if (path)
		printf("unix %s\n", path);
	else
		printf("port %u\n", lmtp_server_port(s, 0));
	printf("ready\n");
	fflush(stdout);
	while (read(0, junk, sizeof(junk)) > 0)
		;
out:
	lmtp_server_stop(&s);
	if (w) {
		writer_stop(w);
		if (threaded)
			pthread_join(thread, NULL);
		writer_free(&w);
	}
	db_close(&db);
	return err != 0;
}
