/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/store/fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/config/config.h"
#include "core/eas/message.h"
#include "core/feed/lmtp.h"
#include "store/writer.h"
#include "tests/core/ipv6.h"

static const char mail[] =
	"From: a@example.com\r\nSubject: Hello\r\nMessage-ID: <1@example.com>\r\n"
	"\r\nText\r\n";

static uint64_t inbox_items(struct fixture *f, uint32_t mailbox)
{
	struct db_txn txn;
	struct folder folder;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(folder_get(&txn, mailbox, FOLDER_ID_INBOX, &folder), DB_OK);
	db_read_end(&txn);
	return folder.items;
}

static void delivery_arrives_unread_with_summary(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "anna@example.test");
	int err = 1;
	struct db_txn txn;
	struct item_pos pos = {0};
	struct item item;
	struct message_summary s;
	struct bytes body;

	assert_int_equal(
		deliver_message(f->db, NULL, bytes_str(mail), &mailbox, 1, 1748851200999, &err),
		DB_OK);
	assert_int_equal(err, DB_OK);
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(item_at_or_after(&txn, mailbox, FOLDER_ID_INBOX, &pos), DB_OK);
	assert_int_equal(item_get(&txn, mailbox, FOLDER_ID_INBOX, pos.id, &item), DB_OK);
	assert_int_equal(item.item_class, ITEM_EMAIL);
	assert_false(item.read);
	assert_int_equal(item.time_s, 1748851200);
	assert_int_equal(item.origin, 0);
	assert_true(message_summary_decode(item.summary, &s));
	assert_true(bytes_eq_str(s.subject, "Hello"));
	assert_int_equal(item_body(&txn, mailbox, pos.id, &body), DB_OK);
	assert_true(bytes_eq_str(body, mail));
	db_read_end(&txn);
}

static void one_write_serves_all_recipients(void **state)
{
	struct fixture *f = *state;
	uint32_t boxes[3] = {fixture_account(f, "a@example.test"),
		fixture_account(f, "b@example.test"), fixture_account(f, "c@example.test")};
	int errors[3];
	struct db_stats before, after;

	assert_int_equal(db_stats(f->db, &before), DB_OK);
	assert_int_equal(
		deliver_message(f->db, NULL, bytes_str(mail), boxes, 3, 1000, errors), DB_OK);
	assert_int_equal(db_stats(f->db, &after), DB_OK);
	assert_int_equal(after.commits - before.commits, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(errors[i], DB_OK);
		assert_int_equal(inbox_items(f, boxes[i]), 1);
	}
}

/* An account deleted between RCPT and the end of data costs the others nothing. */
static void missing_mailbox_fails_alone(void **state)
{
	struct fixture *f = *state;
	uint32_t boxes[3] = {
		fixture_account(f, "a@example.test"), 4711, fixture_account(f, "c@example.test")};
	int errors[3] = {7, 7, 7};

	assert_int_equal(deliver_message(f->db, NULL, bytes_str(mail), boxes, 3, 1000, errors),
		DB_NOT_FOUND);
	assert_int_equal(errors[0], DB_OK);
	assert_int_equal(errors[1], DB_NOT_FOUND);
	assert_int_equal(errors[2], DB_OK);
	assert_int_equal(inbox_items(f, boxes[0]), 1);
	assert_int_equal(inbox_items(f, boxes[2]), 1);
}

static void big_mail_goes_in_groups(void **state)
{
	enum { BOXES = 5, BYTES = 20 * 1024 * 1024 };
	struct fixture *f = *state;
	uint32_t boxes[BOXES];
	int errors[BOXES];
	struct buf b = {0};

	buf_add_str(&b, mail);
	memset(buf_room(&b, BYTES), 'x', BYTES);
	b.n += BYTES;
	for (int i = 0; i < BOXES; i++) {
		char address[64];

		snprintf(address, sizeof(address), "u%d@example.test", i);
		boxes[i] = fixture_account(f, address);
	}
	assert_int_equal(
		deliver_message(f->db, NULL, buf_bytes(&b), boxes, BOXES, 1000, errors), DB_OK);
	for (int i = 0; i < BOXES; i++)
		assert_int_equal(inbox_items(f, boxes[i]), 1);
	buf_free(&b);
}

static void stopped_writer_defers(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.test");
	struct writer *w = writer_new(f->db, true);
	int err;

	writer_stop(w);
	assert_int_equal(
		deliver_message(f->db, w, bytes_str(mail), &mailbox, 1, 1000, &err), DB_CLOSED);
	assert_int_equal(err, DB_CLOSED);
	assert_int_equal(inbox_items(f, mailbox), 0);
	writer_free(&w);
}

static int disable_fn(struct db_txn *txn, void *arg)
{
	return account_set_disabled(txn, bytes_str(arg), true);
}

static void addresses_find_their_mailbox(void **state)
{
	struct fixture *f = *state;
	uint32_t anna = fixture_account(f, "anna@example.test");
	uint32_t plus = fixture_account(f, "anna+own@example.test"), got = 0;
	bool disabled = true;
	char longest[400];

	assert_int_equal(
		deliver_find(f->db, bytes_str("anna@example.test"), &got, &disabled), DB_OK);
	assert_int_equal(got, anna);
	assert_false(disabled);
	assert_int_equal(
		deliver_find(f->db, bytes_str("ANNA@Example.Test"), &got, &disabled), DB_OK);
	assert_int_equal(got, anna);
	assert_int_equal(
		deliver_find(f->db, bytes_str("anna+a+b@example.test"), &got, &disabled), DB_OK);
	assert_int_equal(got, anna);
	/* An account with a plus of its own comes first. */
	assert_int_equal(
		deliver_find(f->db, bytes_str("anna+own@example.test"), &got, &disabled), DB_OK);
	assert_int_equal(got, plus);
	assert_int_equal(db_write(f->db, disable_fn, "anna@example.test"), DB_OK);
	assert_int_equal(
		deliver_find(f->db, bytes_str("anna+x@example.test"), &got, &disabled), DB_OK);
	assert_true(disabled);
	memset(longest, 'x', sizeof(longest));
	const struct bytes none[] = {bytes_str("bob@example.test"), bytes_str("+@example.test"),
		bytes_str("+anna@example.test"), bytes_str("anna"), bytes_str("@"), bytes_str(""),
		bytes_str("anna@"), bytes_str("\"a b\"@example.test"),
		bytes_of("a\0@example.test", 15), bytes_str("j\xc3\xb6rg@example.test"),
		bytes_of(longest, sizeof(longest))};
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		assert_int_equal(deliver_find(f->db, none[i], &got, &disabled), DB_NOT_FOUND);
}

/* -- the server, over a real socket -- */

struct server {
	struct fixture *f;
	struct writer *w;
	pthread_t thread;
	struct lmtp_server *s;
	char path[300];
	struct config config;
	char *listen[1];
	char address[320];
};

static void *writer_main(void *arg)
{
	while (writer_step(arg, true))
		;
	return NULL;
}

static void server_start(struct server *sv, struct fixture *f)
{
	char why[512] = "";

	memset(sv, 0, sizeof(*sv));
	sv->f = f;
	snprintf(sv->path, sizeof(sv->path), "%s/lmtp", f->dir);
	snprintf(sv->address, sizeof(sv->address), "unix:%s", sv->path);
	sv->listen[0] = sv->address;
	sv->config.listen_lmtp = (struct config_list){.v = sv->listen, .n = 1};
	sv->config.lmtp_message_bytes_max = 100000;
	sv->config.lmtp_recipients_max = 10;
	sv->config.lmtp_sessions_max = 3;
	sv->config.lmtp_idle_timeout_s = 2;
	sv->w = writer_new(f->db, false);
	assert_int_equal(pthread_create(&sv->thread, NULL, writer_main, sv->w), 0);
	sv->s = lmtp_server_start(&sv->config, f->db, sv->w, why, sizeof(why));
	if (!sv->s)
		fail_msg("lmtp_server_start: %s", why);
}

static void server_stop(struct server *sv)
{
	lmtp_server_stop(&sv->s);
	writer_stop(sv->w);
	pthread_join(sv->thread, NULL);
	writer_free(&sv->w);
}

static int dial(struct server *sv)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct timeval limit = {.tv_sec = 20};

	assert_true(strlen(sv->path) < sizeof(a.sun_path));
	strcpy(a.sun_path, sv->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

/* Reads until `end` shows at the start of a line, or the connection ends. */
static void hear(int fd, const char *end, char *text, size_t cap)
{
	size_t n = 0;

	for (;;) {
		ssize_t r = recv(fd, text + n, cap - 1 - n, 0);
		char *hit;

		if (r <= 0) {
			text[n] = 0;
			if (end)
				fail_msg("no \"%s\" in \"%s\"", end, text);
			return;
		}
		n += (size_t)r;
		text[n] = 0;
		hit = end ? strstr(text, end) : NULL;
		if (hit && (hit == text || hit[-1] == '\n'))
			return;
	}
}

static void tell(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void server_delivers_and_stops(void **state)
{
	struct fixture *f = *state;
	uint32_t anna = fixture_account(f, "anna@example.test");
	struct server sv;
	struct stat st;
	char text[4096];
	int fd, idle;

	server_start(&sv, f);
	assert_int_equal(stat(sv.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
	idle = dial(&sv);
	fd = dial(&sv);
	tell(fd, "LHLO x\r\nMAIL FROM:<b@example.com>\r\nRCPT TO:<anna@example.test>\r\n"
		 "RCPT TO:<nobody@example.test>\r\nDATA\r\n");
	hear(fd, "354", text, sizeof(text));
	assert_non_null(strstr(text, "\r\n550 5.1.1 <nobody@example.test>"));
	tell(fd, "Subject: x\r\n\r\nx\r\n.\r\n");
	hear(fd, "250 2.0.0 <anna@example.test> Stored", text, sizeof(text));
	/* True at the moment it is said. */
	assert_int_equal(inbox_items(f, anna), 1);
	hear(idle, "220", text, sizeof(text));
	server_stop(&sv);
	hear(idle, NULL, text, sizeof(text));
	assert_non_null(strstr(text, "421 4.3.2"));
	hear(fd, NULL, text, sizeof(text));
	assert_non_null(strstr(text, "421 4.3.2"));
	assert_int_equal(stat(sv.path, &st), -1);
	close(idle);
	close(fd);
}

static void *stop_thread(void *arg)
{
	struct server *sv = arg;

	lmtp_server_stop(&sv->s);
	return NULL;
}

/* A stop in the middle of DATA: the message is still taken, then the session ends. */
static void stop_lets_a_transaction_finish(void **state)
{
	struct fixture *f = *state;
	uint32_t anna = fixture_account(f, "anna@example.test");
	struct server sv;
	char text[4096];
	pthread_t stopper;
	int fd, probe;

	server_start(&sv, f);
	fd = dial(&sv);
	tell(fd, "LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.test>\r\nDATA\r\n");
	hear(fd, "354", text, sizeof(text));
	pthread_create(&stopper, NULL, stop_thread, &sv);
	/* The file goes when the stop has begun. */
	for (int i = 0; i < 2000 && access(sv.path, F_OK) == 0; i++)
		usleep(1000);
	assert_int_equal(access(sv.path, F_OK), -1);
	tell(fd, "x\r\n.\r\n");
	hear(fd, "421", text, sizeof(text));
	assert_int_equal(strncmp(text, "250 2.0.0", 9), 0);
	pthread_join(stopper, NULL);
	assert_int_equal(inbox_items(f, anna), 1);
	close(fd);
	server_stop(&sv);
	/* The path is free for the next server, also when a dead one left its file. */
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	probe = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(a.sun_path, sv.path);
	assert_int_equal(bind(probe, (struct sockaddr *)&a, sizeof(a)), 0);
	close(probe);
	server_start(&sv, f);
	fd = dial(&sv);
	hear(fd, "220", text, sizeof(text));
	close(fd);
	server_stop(&sv);
}

static void sessions_and_patience_are_limited(void **state)
{
	struct fixture *f = *state;
	struct server sv;
	char text[4096];
	int fd[3], extra;
	uint64_t before;

	server_start(&sv, f);
	for (int i = 0; i < 3; i++) {
		fd[i] = dial(&sv);
		hear(fd[i], "220", text, sizeof(text));
	}
	extra = dial(&sv);
	hear(extra, "421 4.3.2", text, sizeof(text));
	close(extra);
	before = clock_mono_ms();
	hear(fd[0], "421 4.3.2", text, sizeof(text)); /* two seconds of silence */
	assert_true(clock_mono_ms() - before < 15000);
	for (int i = 0; i < 3; i++)
		close(fd[i]);
	server_stop(&sv);
}

static void listeners_that_cannot_be(void **state)
{
	static char *const bad[] = {"nonsense", "127.0.0.1:", "::1:24", "unix:relative", "unix:/",
		"unix:/tmp", "unix:/no/such/folder/x", "127.0.0.1:99999",
		"unix:/"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		"aaaa"
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	struct fixture *f = *state;
	struct config c = {.lmtp_message_bytes_max = 1000,
		.lmtp_recipients_max = 1,
		.lmtp_sessions_max = 1,
		.lmtp_idle_timeout_s = 1};
	struct server sv;
	char why[512];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *v[1] = {bad[i]};

		c.listen_lmtp = (struct config_list){.v = v, .n = 1};
		why[0] = 0;
		assert_null(lmtp_server_start(&c, f->db, NULL, why, sizeof(why)));
		assert_true(why[0] != 0);
	}
	/* A live server's file stays its own. */
	server_start(&sv, f);
	assert_null(lmtp_server_start(&sv.config, f->db, NULL, why, sizeof(why)));
	assert_non_null(strstr(why, "another server"));
	close(dial(&sv));
	server_stop(&sv);
	/* TCP, on a port that the kernel chooses. */
	char *v[1] = {"127.0.0.1:0"};
	c.listen_lmtp = (struct config_list){.v = v, .n = 1};
	struct lmtp_server *s = lmtp_server_start(&c, f->db, NULL, why, sizeof(why));
	assert_non_null(s);
	assert_true(lmtp_server_port(s, 0) > 0);
	assert_int_equal(lmtp_server_port(s, 1), 0);
	lmtp_server_stop(&s);
}

static int dial_v4(const struct lmtp_server *s)
{
	struct timeval limit = {.tv_sec = 20};
	int fd = v4_dial(lmtp_server_port(s, 0));

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

/* To a mail server with IPv4: ":24" is every address, also under net.ipv6.bindv6only, and where there is no IPv6;
 * mail from it says where it came from in IPv4's form. */
static void every_address_takes_mail(void **state)
{
	struct fixture *f = *state;
	char text[2000], why[512];
	struct server sv;
	struct db_txn txn;
	struct item_pos pos = {0};
	struct bytes body;
	uint32_t mailbox = fixture_account(f, "anna@example.test");
	int fd, mails = 0;

	for (int machine = 0; machine < 3; machine++) {
		bind_v6_only = machine == 1;
		no_v6 = machine == 2;
		server_start(&sv, f);
		lmtp_server_stop(&sv.s);
		strcpy(sv.address, machine ? ":0" : "*:0");
		sv.s = lmtp_server_start(&sv.config, f->db, sv.w, why, sizeof(why));
		if (!sv.s)
			fail_msg("%s", why);
		assert_int_equal(lmtp_server_port(sv.s, 1), 0);
		fd = dial_v4(sv.s);
		hear(fd, "220 ", text, sizeof(text));
		tell(fd, "LHLO there\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.test>\r\nDATA\r\n");
		hear(fd, "354", text, sizeof(text));
		tell(fd, "Subject: a\r\n\r\nText\r\n.\r\nQUIT\r\n");
		hear(fd, "221", text, sizeof(text));
		assert_non_null(strstr(text, "250 2.0.0"));
		close(fd);
		server_stop(&sv);
	}
	bind_v6_only = no_v6 = false;
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	for (; item_at_or_after(&txn, mailbox, FOLDER_ID_INBOX, &pos) == DB_OK; pos.id++, mails++) {
		assert_int_equal(item_body(&txn, mailbox, pos.id, &body), DB_OK);
		assert_non_null(memmem(body.p, body.n, "([127.0.0.1])", 13));
	}
	assert_int_equal(mails, 3);
	db_read_end(&txn);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		T(delivery_arrives_unread_with_summary),
		T(one_write_serves_all_recipients),
		T(missing_mailbox_fails_alone),
		T(big_mail_goes_in_groups),
		T(stopped_writer_defers),
		T(addresses_find_their_mailbox),
		T(server_delivers_and_stops),
		T(stop_lets_a_transaction_finish),
		T(sessions_and_patience_are_limited),
		T(listeners_that_cannot_be),
		T(every_address_takes_mail),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	log_set_level(LOG_ERROR);
	message_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
