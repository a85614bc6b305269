/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A store in a temporary directory, a phone, and documents written as text:
 *     "Sync(Collections(Collection(SyncKey'0' CollectionId'1')))"
 * Elements take the page of their parent; another one is named in front: "AirSyncBase:Type'1'".
 * Answers are shown in the same form, so that a test reads as request and answer. */
#ifndef ROOST_TESTS_EAS_FIXTURE_H
#define ROOST_TESTS_EAS_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/check.h"
#include "core/config/config.h"
#include "core/eas/class_email.h"
#include "store/account.h"

#define UNUSED __attribute__((unused))

struct fixture {
	char dir[64];
	struct db *db;
	struct writer *writer;
	struct config *config;
	struct eas_context ctx;
	struct account account;
	struct arena arena, text;
	uint64_t now_ms;
	/* the phone */
	uint16_t version;
	const char *device_id;
	uint32_t policy_key;
	bool multipart, resumed, final;
	const char *attachment_name;
	/* the last answer */
	struct eas_answer answer;
	const struct wbxml_node *root; /* NULL: no document */
};

static UNUSED uint16_t tag_by_name(const char *page, const char *name)
{
	for (unsigned p = 0; p < 32; p++) {
		if (!wbxml_page_name((uint8_t)p) || strcmp(wbxml_page_name((uint8_t)p), page) != 0)
			continue;
		for (unsigned t = 5; t < 0x40; t++) {
			const struct wbxml_tag_info *info = wbxml_tag_info((uint16_t)(p << 8 | t));

			if (info && strcmp(info->name, name) == 0)
				return (uint16_t)(p << 8 | t);
		}
	}
	fail_msg("no element %s:%s", page, name);
	return 0;
}

static UNUSED const char *document_elements(
	struct wbxml_writer *w, const char *s, const char *parent_page)
{
	while (*s == ' ')
		s++;
	while (*s && *s != ')') {
		char page[32], name[64];
		size_t n = strcspn(s, ":('\" )");

		snprintf(page, sizeof(page), "%s", parent_page);
		if (s[n] == ':') {
			snprintf(page, sizeof(page), "%.*s", (int)n, s);
			s += n + 1;
			n = strcspn(s, "('\" )");
		}
		snprintf(name, sizeof(name), "%.*s", (int)n, s);
		s += n;
		uint16_t tag = tag_by_name(page, name);
		if (*s == '\'') {
			const char *end = strchr(s + 1, '\'');

			assert_non_null(end);
			wbxml_put_bytes_text(w, tag, bytes_of(s + 1, (size_t)(end - s - 1)));
			s = end + 1;
		} else if (*s == '(') {
			wbxml_put_start(w, tag);
			s = document_elements(w, s + 1, page);
			assert_int_equal(*s, ')');
			s++;
			wbxml_put_end(w);
		} else {
			wbxml_put_empty(w, tag);
		}
		while (*s == ' ')
			s++;
	}
	return s;
}

static UNUSED void document(struct buf *out, const char *text)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	assert_int_equal(*document_elements(&w, text, "AirSync"), 0);
	assert_true(wbxml_done(&w));
}

static UNUSED void show_node(struct buf *out, const struct wbxml_node *n, int page)
{
	const struct wbxml_tag_info *info = wbxml_tag_info(n->tag);

	if (n->tag >> 8 != page)
		buf_printf(out, "%s:", wbxml_page_name((uint8_t)(n->tag >> 8)));
	buf_add_str(out, info->name);
	if (n->first) {
		buf_add_byte(out, '(');
		for (const struct wbxml_node *c = n->first; c; c = c->next) {
			if (c != n->first)
				buf_add_byte(out, ' ');
			show_node(out, c, n->tag >> 8);
		}
		buf_add_byte(out, ')');
	} else if (n->text.n && n->opaque) {
		buf_printf(out, "[%zu]", n->text.n);
	} else if (n->text.n) {
		buf_printf(out, "'%.*s'", (int)n->text.n, (const char *)n->text.p);
	}
}

/* The last answer as text; "" when it is empty. */
static UNUSED const char *shown(struct fixture *f)
{
	struct buf b = {0};

	if (!f->root)
		return "";
	show_node(&b, f->root, 0);
	const char *s = arena_strz(&f->text, buf_bytes(&b));
	buf_free(&b);
	return s;
}

/* Runs a command with a body of bytes; checks what every answer must be. */
static UNUSED void run_bytes(struct fixture *f, enum eas_command command, struct bytes body)
{
	struct eas_query query = {.command = command};
	struct eas_request req = {.version = f->version,
		.command = command,
		.query = &query,
		.mailbox = f->account.mailbox,
		.address = f->account.address,
		.device_id = bytes_str(f->device_id),
		.device_type = bytes_str("Test"),
		.user_agent = bytes_str("Test/1"),
		.peer = "192.0.2.1",
		.has_policy_key = f->policy_key != 0,
		.policy_key = f->policy_key,
		.accept_multipart = f->multipart,
		.body_is_empty = body.n == 0,
		.content_type = bytes_str(body.n ? "application/vnd.ms-sync.wbxml" : ""),
		.body = body,
		.now_ms = f->now_ms,
		.resumed = f->resumed,
		.final = f->final,
		.arena = &f->arena};
	struct wbxml_node *root;
	const char *why;

	if (f->attachment_name)
		snprintf(query.attachment_name, sizeof(query.attachment_name), "%s",
			f->attachment_name);
	buf_free(&f->answer.body);
	arena_reset(&f->arena);
	f->root = NULL;
	eas_run(&f->ctx, &req, &f->answer);
	assert_true(f->answer.http_status == 200 || f->answer.reason);
	assert_false(f->answer.body.failed);
	if (f->answer.body.n > 0 && f->answer.content_type &&
		strcmp(f->answer.content_type, EAS_WBXML_TYPE) == 0) {
		/* Into an arena of its own: the next request clears the other. */
		struct bytes copy = arena_dup(&f->text, buf_bytes(&f->answer.body));

		assert_true(wbxml_parse(copy, &f->text, NULL, &root, &why) == 1);
		f->root = root;
	}
}

static UNUSED const char *run(struct fixture *f, enum eas_command command, const char *text)
{
	struct buf body = {0};

	if (text)
		document(&body, text);
	run_bytes(f, command, buf_bytes(&body));
	buf_free(&body);
	return shown(f);
}

static UNUSED const char *run_printf(
	struct fixture *f, enum eas_command command, const char *fmt, ...)
{
	char text[16384];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	assert_in_range(n, 0, sizeof(text) - 1);
	return run(f, command, text);
}

/* First element of that name anywhere in the answer; NULL. */
static UNUSED const struct wbxml_node *find(const struct wbxml_node *n, uint16_t tag)
{
	if (!n || n->tag == tag)
		return n;
	for (const struct wbxml_node *c = n->first; c; c = c->next) {
		const struct wbxml_node *hit = find(c, tag);

		if (hit)
			return hit;
	}
	return NULL;
}

static UNUSED const char *answer_text(struct fixture *f, uint16_t tag)
{
	const struct wbxml_node *n = find(f->root, tag);

	return n ? arena_strz(&f->text, n->text) : NULL;
}

static UNUSED uint32_t answer_number(struct fixture *f, uint16_t tag)
{
	const char *s = answer_text(f, tag);

	return s ? (uint32_t)strtoul(s, NULL, 10) : 0;
}

/* ---- The store --------------------------------------------------------------------------- */

struct store_step {
	struct fixture *f;
	enum {
		STEP_ACCOUNT,
		STEP_ADD,
		STEP_STATE,
		STEP_DELETE,
		STEP_MOVE,
		STEP_FOLDER,
		STEP_RENAME,
		STEP_REMOVE,
		STEP_BLOCK
	} what;
	uint32_t folder, to, origin;
	uint64_t item;
	int64_t time_s;
	bool read;
	const char *text;
	struct bytes mime;
};

static UNUSED int store_step_run(struct db_txn *txn, void *arg)
{
	struct store_step *s = arg;
	struct fixture *f = s->f;
	uint32_t mailbox = f->account.mailbox;
	struct item_new n = {.item_class = ITEM_EMAIL, .time_s = s->time_s, .read = s->read};
	struct message_summary summary;
	struct arena a;
	struct buf encoded = {0};
	struct device d;
	int err = DB_INVALID;

	switch (s->what) {
	case STEP_ACCOUNT:
		return account_create(
			txn, bytes_str("anna@example.org"), "", "Anna", f->now_ms, &f->account);
	case STEP_ADD:
		arena_init(&a, 64 << 20);
		message_summarize(s->mime, &a, &summary);
		message_summary_encode(&summary, &encoded);
		n.summary = buf_bytes(&encoded);
		n.body = s->mime;
		err = item_add(txn, mailbox, s->folder, &n, s->origin, &s->item);
		buf_free(&encoded);
		arena_free(&a);
		return err;
	case STEP_STATE:
		return item_set_state(
			txn, mailbox, s->folder, s->item, s->read, bytes_of(NULL, 0), s->origin);
	case STEP_DELETE:
		return item_delete(txn, mailbox, s->folder, s->item, s->origin);
	case STEP_MOVE:
		return item_move(txn, mailbox, s->folder, s->to, s->item, s->origin);
	case STEP_FOLDER:
		return folder_create(txn, mailbox, s->folder, FOLDER_USER_MAIL, bytes_str(s->text),
			s->origin, &s->to);
	case STEP_RENAME:
		return folder_update(txn, mailbox, s->folder, s->to, bytes_str(s->text), s->origin);
	case STEP_REMOVE:
		return folder_delete(txn, mailbox, s->folder, s->origin);
	case STEP_BLOCK:
		err = device_find(txn, mailbox, bytes_str(f->device_id), &d);
		d.blocked = s->read;
		return err < 0 ? err : device_put(txn, mailbox, &d);
	}
	return err;
}

static UNUSED void step(struct store_step *s)
{
	assert_int_equal(db_write(s->f->db, store_step_run, s), DB_OK);
}

static UNUSED uint64_t deliver_mime(
	struct fixture *f, uint32_t folder, int64_t time_s, const char *mime)
{
	struct store_step s = {.f = f,
		.what = STEP_ADD,
		.folder = folder,
		.time_s = time_s,
		.mime = bytes_str(mime)};

	step(&s);
	return s.item;
}

/* A small plain message `age_days` old. */
static UNUSED uint64_t deliver(
	struct fixture *f, uint32_t folder, int age_days, const char *subject)
{
	char mime[512];

	snprintf(mime, sizeof(mime),
		"From: Bob <bob@example.org>\r\nTo: anna@example.org\r\nSubject: %s\r\n"
		"Date: Tue, 1 Mar 2011 08:00:00 +0000\r\nMessage-ID: <%s@example.org>\r\n"
		"Content-Type: text/plain; charset=utf-8\r\n\r\nText of %s\r\n",
		subject, subject, subject);
	return deliver_mime(
		f, folder, (int64_t)(f->now_ms / 1000) - (int64_t)age_days * 86400, mime);
}

static UNUSED void set_read(struct fixture *f, uint32_t folder, uint64_t item, bool read)
{
	step(&(struct store_step){
		.f = f, .what = STEP_STATE, .folder = folder, .item = item, .read = read});
}

static UNUSED void erase(struct fixture *f, uint32_t folder, uint64_t item)
{
	step(&(struct store_step){.f = f, .what = STEP_DELETE, .folder = folder, .item = item});
}

static UNUSED void move(struct fixture *f, uint32_t folder, uint32_t to, uint64_t item)
{
	step(&(struct store_step){
		.f = f, .what = STEP_MOVE, .folder = folder, .to = to, .item = item});
}

static UNUSED uint64_t head(struct fixture *f)
{
	struct db_txn txn;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	uint64_t seq = journal_head(&txn);
	db_read_end(&txn);
	return seq;
}

static UNUSED uint64_t commits(struct fixture *f)
{
	struct db_stats stats;

	assert_int_equal(db_stats(f->db, &stats), DB_OK);
	return stats.commits;
}

static UNUSED uint32_t device_number(struct fixture *f)
{
	struct device_gate gate;
	struct db_txn txn;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	int err = device_gate(&txn, f->account.mailbox, bytes_str(f->device_id), &gate);
	db_read_end(&txn);
	return err == DB_OK ? gate.id : 0;
}

static UNUSED int has_news(struct fixture *f, uint32_t folder)
{
	struct db_txn txn;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	int news =
		eas_folder_has_news(&txn, f->account.mailbox, device_number(f), folder, f->now_ms);
	db_read_end(&txn);
	return news;
}

/* ---- Life -------------------------------------------------------------------------------- */

static UNUSED int fixture_open(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct db_options o = {.map_bytes = 64 << 20, .create = true, .no_sync = true};
	char why[200] = "";

	message_init();
	snprintf(f->dir, sizeof(f->dir), "/tmp/roost-eas-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	o.dir = f->dir;
	if (db_open(&o, &f->db, why, sizeof(why)) != DB_OK) {
		fprintf(stderr, "%s\n", why);
		return -1;
	}
	f->writer = writer_new(f->db, true);
	f->config = config_new();
	f->config->policy_require = false;
	f->ctx =
		(struct eas_context){f->db, f->writer, f->config, eas_policy_generation(f->config)};
	f->now_ms = 1700000000000u;
	f->version = 141;
	f->device_id = "phone1";
	arena_init(&f->arena, 64 << 20);
	arena_init(&f->text, 256 << 20);
	*state = f;
	return db_write(f->db, store_step_run, &(struct store_step){.f = f, .what = STEP_ACCOUNT});
}

static UNUSED int fixture_close(void **state)
{
	struct fixture *f = *state;
	char command[128];

	buf_free(&f->answer.body);
	arena_free(&f->arena);
	arena_free(&f->text);
	writer_free(&f->writer);
	db_close(&f->db);
	config_free(&f->config);
	snprintf(command, sizeof(command), "rm -rf %s", f->dir);
	int rc = system(command);
	free(f);
	return rc;
}

#define eas_test(fn) cmocka_unit_test_setup_teardown(fn, fixture_open, fixture_close)

#endif
