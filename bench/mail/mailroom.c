/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/mail/mailroom.h"

#include "bench/fleet/accounts.h"
#include "core/access/credentials.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/config/config.h"
#include "core/eas/eas.h"
#include "core/eas/message.h"
#include "store/account.h"
#include "store/device.h"
#include "store/journal.h"
#include "store/mailbox.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 256, HEARTBEAT_S = 3540 };

struct mailroom {
	struct db *db;
	uint32_t users, phones;
	uint32_t *mailbox; /* per user; 0: not made yet */
	uint32_t *device;  /* per phone */
	uint32_t users_done, phones_done;
	uint32_t policy_generation;
	char hash[ACCOUNT_HASH_MAX];
	struct buf message, summary;
};

void mailroom_device(uint32_t phone, char *out, size_t cap)
{
	snprintf(out, cap, "BENCH%u", phone);
}

static void make_message(struct mailroom *m)
{
	struct message_summary s;
	struct arena a;

	buf_add_str(&m->message, "From: \"Bench\" <bench@example.org>\r\nTo: <you@" MAILROOM_DOMAIN
				 ">\r\nSubject: One change\r\n"
				 "Date: Fri, 01 Nov 2024 12:00:00 +0000\r\n"
				 "Message-ID: <1@bench.example.org>\r\nMIME-Version: 1.0\r\n"
				 "Content-Type: text/plain; charset=utf-8\r\n\r\n"
				 "A message of a few lines,\r\nas most of them are.\r\n");
	arena_init(&a, 16 << 20);
	message_summarize(buf_bytes(&m->message), &a, &s);
	message_summary_encode(&s, &m->summary);
	arena_free(&a);
	CHECK(!m->message.failed && !m->summary.failed);
}

struct mailroom *mailroom_open(
	const char *dir, bool create, uint32_t users, uint32_t phones, char *why, size_t why_bytes)
{
	struct db_options o = {.dir = dir, .create = create};
	struct mailroom *m = calloc(1, sizeof(*m));
	struct config *config = config_new();

	CHECK(m && config);
	CHECK(users > 0 && users <= phones);
	m->users = users;
	m->phones = phones;
	m->mailbox = calloc(users, sizeof(*m->mailbox));
	m->device = calloc(phones, sizeof(*m->device));
	CHECK(m->mailbox && m->device);
	/* The policy of a server with default settings. */
	m->policy_generation = eas_policy_generation(config);
	config_free(&config);
	message_init();
	make_message(m);
	if (!cred_hash("minimal", MAILROOM_PASSWORD, m->hash)) {
		snprintf(why, why_bytes, "no memory to hash a password");
		mailroom_close(&m);
		return NULL;
	}
	if (db_open(&o, &m->db, why, why_bytes) != DB_OK)
		mailroom_close(&m);
	return m;
}

void mailroom_close(struct mailroom **mp)
{
	struct mailroom *m = *mp;

	if (!m)
		return;
	db_close(&m->db);
	buf_free(&m->message);
	buf_free(&m->summary);
	free(m->mailbox);
	free(m->device);
	free(m);
	*mp = NULL;
}

static bool say(int err, const char *doing, char *why, size_t why_bytes)
{
	if (err == DB_OK)
		return true;
	snprintf(why, why_bytes, "%s: %s", doing, db_strerror(err));
	return false;
}

static int make_users(struct db_txn *txn, void *arg)
{
	struct mailroom *m = arg;
	uint64_t now_ms = clock_wall_ms();
	uint32_t end = m->users_done + BATCH < m->users ? m->users_done + BATCH : m->users;
	int err = DB_OK;

	for (uint32_t i = m->users_done; i < end && err == DB_OK; i++) {
		struct account acc;
		char address[64];

		accounts_user(i, address, sizeof(address));
		/* Of an earlier benchmark, perhaps; its password is the same. */
		err = account_find(txn, bytes_str(address), &acc);
		if (err == DB_NOT_FOUND)
			err = account_create(
				txn, bytes_str(address), m->hash, "Benchmark", now_ms, &acc);
		m->mailbox[i] = acc.mailbox;
	}
	return err;
}

static int synced(struct db_txn *txn, uint32_t mailbox, uint32_t device)
{
	struct collection c = {
		.key = 2,
		.key_previous = 1,
		.now.seq = journal_head(txn),
		.conflict = 1,
		.preference_count = 1,
		.preferences[0] = {.type = 1},
	};

	return collection_put(txn, mailbox, device, FOLDER_ID_INBOX, &c);
}

static int make_phones(struct db_txn *txn, void *arg)
{
	struct mailroom *m = arg;
	uint64_t now_ms = clock_wall_ms();
	uint32_t end = m->phones_done + BATCH < m->phones ? m->phones_done + BATCH : m->phones;
	int err = DB_OK;

	for (uint32_t i = m->phones_done; i < end && err == DB_OK; i++) {
		uint32_t mailbox = m->mailbox[i % m->users];
		struct device d = {0};
		char id[32];

		mailroom_device(i, id, sizeof(id));
		err = device_find(txn, mailbox, bytes_str(id), &d);
		if (err != DB_OK && err != DB_NOT_FOUND)
			break;
		snprintf(d.device_id, sizeof(d.device_id), "%s", id);
		snprintf(d.device_type, sizeof(d.device_type), "RoostBench");
		snprintf(d.model, sizeof(d.model), "Benchmark phone");
		d.version = 161;
		/* "Seen" now and the Ping remembered, so that parking writes nothing. */
		d.first_seen_ms = d.last_seen_ms = now_ms;
		d.policy_key = 1 + i;
		d.policy_generation = m->policy_generation;
		d.hierarchy_key = 1;
		d.hierarchy_seq = journal_head(txn);
		d.ping_heartbeat_s = HEARTBEAT_S;
		d.ping_folder_count = 1;
		d.ping_folders[0] = FOLDER_ID_INBOX;
		err = device_put(txn, mailbox, &d);
		if (err == DB_OK)
			err = synced(txn, mailbox, d.id);
		m->device[i] = d.id;
	}
	return err;
}

int64_t mailroom_fill(struct mailroom *m, char *why, size_t why_bytes)
{
	uint64_t until_ms = clock_mono_ms() + 100;

	do {
		if (m->users_done < m->users) {
			if (!say(db_write(m->db, make_users, m), "making accounts", why, why_bytes))
				return -1;
			m->users_done += BATCH;
		} else if (m->phones_done < m->phones) {
			if (!say(db_write(m->db, make_phones, m), "making devices", why, why_bytes))
				return -1;
			m->phones_done += BATCH;
		} else {
			/* The store's file would count as memory of the phones. */
			db_release_pages(m->db);
			return m->phones;
		}
	} while (clock_mono_ms() < until_ms);
	if (m->phones_done < m->phones)
		return m->phones_done;
	db_release_pages(m->db);
	return m->phones;
}

static int drop_users(struct db_txn *txn, void *arg)
{
	struct mailroom *m = arg;
	uint32_t start = m->users_done > BATCH ? m->users_done - BATCH : 0;
	int err = DB_OK;

	for (uint32_t i = start; i < m->users_done && err == DB_OK; i++) {
		struct account acc;
		char address[64];

		accounts_user(i, address, sizeof(address));
		err = account_find(txn, bytes_str(address), &acc);
		if (err == DB_OK)
			err = account_delete(txn, bytes_str(address));
		else if (err == DB_NOT_FOUND)
			err = DB_OK;
	}
	return err;
}

int64_t mailroom_clear(struct mailroom *m, char *why, size_t why_bytes)
{
	uint64_t until_ms = clock_mono_ms() + 100;

	if (m->users_done > m->users)
		m->users_done = m->users;
	m->phones_done = 0;
	while (m->users_done > 0 && clock_mono_ms() < until_ms) {
		if (!say(db_write(m->db, drop_users, m), "removing accounts", why, why_bytes))
			return -1;
		m->users_done -= m->users_done > BATCH ? BATCH : m->users_done;
	}
	return m->users_done;
}

struct delivery {
	struct mailroom *m;
	const uint32_t *users;
	size_t n;
	uint32_t folder;
	uint64_t seq;
};

static int deliver(struct db_txn *txn, void *arg)
{
	struct delivery *d = arg;
	struct item_new item = {
		.item_class = ITEM_EMAIL,
		.time_s = (int64_t)(clock_wall_ms() / 1000),
		.summary = buf_bytes(&d->m->summary),
		.body = buf_bytes(&d->m->message),
	};
	int err = DB_OK;
	uint64_t id;

	for (size_t i = 0; i < d->n && err == DB_OK; i++)
		err = item_add(txn, d->m->mailbox[d->users[i]], d->folder, &item, 0, &id);
	d->seq = txn->seq;
	return err;
}

static bool add_items(struct delivery *d, uint64_t *commit_ns_out, char *why, size_t why_bytes)
{
	if (!say(db_write(d->m->db, deliver, d), "delivering", why, why_bytes))
		return false;
	*commit_ns_out = db_commit_time_ns(d->m->db, d->seq);
	if (*commit_ns_out == 0) {
		snprintf(why, why_bytes, "the time of a commit is not known");
		return false;
	}
	return true;
}

bool mailroom_deliver(struct mailroom *m, const uint32_t *users, size_t n, uint64_t *commit_ns_out,
	char *why, size_t why_bytes)
{
	struct delivery d = {.m = m, .users = users, .n = n, .folder = FOLDER_ID_INBOX};

	return add_items(&d, commit_ns_out, why, why_bytes);
}

bool mailroom_file(struct mailroom *m, const uint32_t *users, size_t n, uint64_t *commit_ns_out,
	char *why, size_t why_bytes)
{
	struct delivery d = {.m = m, .users = users, .n = n, .folder = FOLDER_ID_SENT};

	return add_items(&d, commit_ns_out, why, why_bytes);
}

struct range {
	struct mailroom *m;
	uint32_t first, end, step;
};

static int catch_up(struct db_txn *txn, void *arg)
{
	struct range *r = arg;
	int err = DB_OK;

	for (uint32_t i = r->first; i < r->end && err == DB_OK; i += r->step)
		err = synced(txn, r->m->mailbox[i % r->m->users], r->m->device[i]);
	return err;
}

struct some {
	struct mailroom *m;
	const uint32_t *phones;
	size_t n;
};

static int catch_up_each(struct db_txn *txn, void *arg)
{
	struct some *s = arg;
	int err = DB_OK;

	for (size_t i = 0; i < s->n && err == DB_OK; i++)
		err = synced(
			txn, s->m->mailbox[s->phones[i] % s->m->users], s->m->device[s->phones[i]]);
	return err;
}

bool mailroom_catch_up_each(
	struct mailroom *m, const uint32_t *phones, size_t n, char *why, size_t why_bytes)
{
	struct some s = {.m = m, .phones = phones, .n = n};

	return n == 0 || say(db_write(m->db, catch_up_each, &s), "catching up", why, why_bytes);
}

bool mailroom_catch_up(struct mailroom *m, uint32_t first, uint32_t n, char *why, size_t why_bytes)
{
	while (n) {
		uint32_t k = n < 1024 ? n : 1024;
		struct range r = {.m = m, .first = first, .end = first + k, .step = 1};

		if (!say(db_write(m->db, catch_up, &r), "catching up", why, why_bytes))
			return false;
		first += k;
		n -= k;
	}
	return true;
}

bool mailroom_catch_up_user(struct mailroom *m, uint32_t user, char *why, size_t why_bytes)
{
	struct range r = {.m = m, .first = user, .end = m->phones, .step = m->users};

	return say(db_write(m->db, catch_up, &r), "catching up", why, why_bytes);
}
