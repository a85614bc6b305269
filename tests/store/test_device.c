/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "tests/store/fixture.h"

static struct db_txn begin(struct fixture *f)
{
	struct db_txn txn;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	return txn;
}

struct put {
	uint32_t mailbox;
	struct device d;
};

static int put_fn(struct db_txn *txn, void *arg)
{
	struct put *p = arg;

	return device_put(txn, p->mailbox, &p->d);
}

static struct device full_device(void)
{
	struct device d = {.version = 161,
		.first_seen_ms = 11,
		.last_seen_ms = 12,
		.policy_key_temporary = 13,
		.policy_key = 14,
		.policy_generation = 15,
		.blocked = true,
		.hierarchy_key = 16,
		.hierarchy_key_previous = 17,
		.hierarchy_seq = 18,
		.hierarchy_seq_previous = 19,
		.ping_heartbeat_s = 3540,
		.ping_folder_count = PING_FOLDERS_MAX};

	/* Every text at its full length: the largest record there is. */
	memset(d.device_id, 'i', sizeof(d.device_id) - 1);
	memset(d.device_type, 't', sizeof(d.device_type) - 1);
	memset(d.user_agent, 'u', sizeof(d.user_agent) - 1);
	memset(d.model, 'm', sizeof(d.model) - 1);
	memset(d.os, 'o', sizeof(d.os) - 1);
	memset(d.friendly_name, 'f', sizeof(d.friendly_name) - 1);
	memset(d.phone_number, 'p', sizeof(d.phone_number) - 1);
	memset(d.imei, '1', sizeof(d.imei) - 1);
	memset(d.os_language, 'l', sizeof(d.os_language) - 1);
	memset(d.mobile_operator, 'v', sizeof(d.mobile_operator) - 1);
	memset(d.last_address, '0', sizeof(d.last_address) - 1);
	for (uint32_t i = 0; i < PING_FOLDERS_MAX; i++)
		d.ping_folders[i] = i * 1000;
	return d;
}

static void device_comes_back_whole(void **state)
{
	struct fixture *f = *state;
	struct put p = {fixture_account(f, "a@example.org"), full_device()};
	struct device_gate gate;
	struct device d;
	struct db_txn txn;
	char name[DEVICE_ID_MAX + 1];

	assert_int_equal(db_write(f->db, put_fn, &p), DB_OK);
	assert_int_equal(p.d.id, 1);
	txn = begin(f);
	assert_int_equal(device_find(&txn, p.mailbox, bytes_str(p.d.device_id), &d), DB_OK);
	assert_memory_equal(&d, &p.d, sizeof(d));
	assert_int_equal(device_get(&txn, p.mailbox, 1, &d), DB_OK);
	assert_int_equal(device_name(&txn, p.mailbox, 1, name), DB_OK);
	assert_string_equal(name, d.device_id);
	assert_memory_equal(&d, &p.d, sizeof(d));
	assert_int_equal(device_gate(&txn, p.mailbox, bytes_str(p.d.device_id), &gate), DB_OK);
	assert_int_equal(gate.id, 1);
	assert_true(gate.blocked);
	assert_int_equal(gate.policy_key, 14);
	assert_int_equal(gate.policy_generation, 15);
	assert_int_equal(gate.hierarchy_seq, 18);
	assert_int_equal(gate.last_seen_ms, 12);
	assert_int_equal(device_find(&txn, p.mailbox, bytes_str("other"), &d), DB_NOT_FOUND);
	assert_int_equal(device_find(&txn, p.mailbox, bytes_str(""), &d), DB_NOT_FOUND);
	assert_int_equal(device_find(&txn, 99, bytes_str(p.d.device_id), &d), DB_NOT_FOUND);
	assert_int_equal(device_get(&txn, p.mailbox, 2, &d), DB_NOT_FOUND);
	assert_int_equal(device_name(&txn, p.mailbox, 2, name), DB_NOT_FOUND);
	db_read_end(&txn);
}

static void what_makes_no_sense_is_refused(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct put p = {mailbox, {.device_id = "one"}}, q;

	assert_int_equal(db_write(f->db, put_fn, &p), DB_OK);
	q = p;
	q.d.id = 0;
	assert_int_equal(db_write(f->db, put_fn, &q), DB_EXISTS);
	q = p;
	strcpy(q.d.device_id, "other");
	assert_int_equal(db_write(f->db, put_fn, &q), DB_INVALID);
	q = p;
	q.d.id = 77;
	assert_int_equal(db_write(f->db, put_fn, &q), DB_NOT_FOUND);
	q = p;
	q.d.ping_folder_count = PING_FOLDERS_MAX + 1;
	assert_int_equal(db_write(f->db, put_fn, &q), DB_INVALID);
	q = (struct put){mailbox, {.device_id = ""}};
	assert_int_equal(db_write(f->db, put_fn, &q), DB_INVALID);
	memset(q.d.device_id, 'x', sizeof(q.d.device_id));
	assert_int_equal(db_write(f->db, put_fn, &q), DB_INVALID);
	q = (struct put){mailbox + 1, {.device_id = "one"}};
	assert_int_equal(db_write(f->db, put_fn, &q), DB_NOT_FOUND);
}

struct ref {
	uint32_t mailbox, device, folder;
	struct collection c;
	struct bytes blob;
};

static int touch_fn(struct db_txn *txn, void *arg)
{
	struct ref *r = arg;

	return device_touch(txn, r->mailbox, r->device);
}

static int delete_fn(struct db_txn *txn, void *arg)
{
	struct ref *r = arg;

	return device_delete(txn, r->mailbox, r->device);
}

static int collection_fn(struct db_txn *txn, void *arg)
{
	struct ref *r = arg;

	return collection_put(txn, r->mailbox, r->device, r->folder, &r->c);
}

static int collection_delete_fn(struct db_txn *txn, void *arg)
{
	struct ref *r = arg;

	return collection_delete(txn, r->mailbox, r->device, r->folder);
}

static int blob_fn(struct db_txn *txn, void *arg)
{
	struct ref *r = arg;

	return device_blob_put(txn, r->mailbox, r->device, DEVICE_BLOB_SYNC_REPLAY, r->blob);
}

static void collections_and_blobs(void **state)
{
	struct fixture *f = *state;
	struct put p = {fixture_account(f, "a@example.org"), {.device_id = "one"}};
	struct ref r = {.mailbox = p.mailbox, .device = 1};
	struct collection c, full = {.key = 1,
				     .key_previous = 2,
				     .now = {10, INT64_MIN, 4},
				     .previous = {9, INT64_MAX, 6},
				     .filter_type = 5,
				     .conflict = 1,
				     .mime_support = 2,
				     .mime_truncation = 8,
				     .deletes_as_moves = true,
				     .preference_count = 4,
				     .pending_ops_hash = 0xdeadbeef};
	struct bytes blob;
	struct db_txn txn;
	uint32_t folder = 0;

	for (int i = 0; i < 4; i++) {
		full.preferences[i].type = (uint8_t)(i + 1);
		full.preferences[i].all_or_none = i & 1;
		full.preferences[i].has_truncation = !(i & 1);
		full.preferences[i].preview = 255;
		full.preferences[i].truncation_bytes = UINT32_MAX;
	}
	r.folder = 1;
	r.c = full;
	assert_int_equal(db_write(f->db, collection_fn, &r), DB_NOT_FOUND); /* no device */
	assert_int_equal(db_write(f->db, put_fn, &p), DB_OK);
	for (uint32_t i = 5; i > 0; i--) {
		r.folder = i;
		r.c = full;
		r.c.key = i;
		assert_int_equal(db_write(f->db, collection_fn, &r), DB_OK);
	}
	r.folder = 3;
	assert_int_equal(db_write(f->db, collection_delete_fn, &r), DB_OK);
	assert_int_equal(db_write(f->db, collection_delete_fn, &r), DB_NOT_FOUND);
	r.c.preference_count = 5;
	assert_int_equal(db_write(f->db, collection_fn, &r), DB_INVALID);
	r.blob = bytes_str("replay");
	assert_int_equal(db_write(f->db, blob_fn, &r), DB_OK);

	txn = begin(f);
	assert_int_equal(collection_get(&txn, p.mailbox, 1, 1, &c), DB_OK);
	assert_memory_equal(&c, &full, sizeof(c));
	assert_int_equal(collection_get(&txn, p.mailbox, 1, 3, &c), DB_NOT_FOUND);
	for (uint32_t want = 1; want <= 5; want++) {
		if (want == 3)
			continue;
		assert_int_equal(collection_next(&txn, p.mailbox, 1, &folder, &c), DB_OK);
		assert_int_equal(folder, want);
		assert_int_equal(c.key, want);
	}
	assert_int_equal(collection_next(&txn, p.mailbox, 1, &folder, &c), DB_NOT_FOUND);
	assert_int_equal(
		device_blob_get(&txn, p.mailbox, 1, DEVICE_BLOB_SYNC_REPLAY, &blob), DB_OK);
	assert_true(bytes_eq_str(blob, "replay"));
	assert_int_equal(
		device_blob_get(&txn, p.mailbox, 1, DEVICE_BLOB_SYNC_REQUEST, &blob), DB_NOT_FOUND);
	db_read_end(&txn);

	r.blob = bytes_of(NULL, 0);
	assert_int_equal(db_write(f->db, blob_fn, &r), DB_OK);
	assert_int_equal(db_write(f->db, blob_fn, &r), DB_OK);
	txn = begin(f);
	assert_int_equal(
		device_blob_get(&txn, p.mailbox, 1, DEVICE_BLOB_SYNC_REPLAY, &blob), DB_NOT_FOUND);
	db_read_end(&txn);
}

/* To the administrator: a removed device loses its Ping and all it had; a new one with the same
 * name is another device. */
static void removed_device_is_gone_and_announced(void **state)
{
	struct fixture *f = *state;
	struct put p = {fixture_account(f, "a@example.org"), {.device_id = "one"}};
	struct put other = {p.mailbox, {.device_id = "other"}};
	struct ref r = {.mailbox = p.mailbox, .device = 1, .folder = 1, .blob = bytes_str("x")};
	struct journal_row row;
	struct device_gate gate;
	struct collection c;
	struct device d;
	struct db_txn txn;
	uint32_t id = 0;

	assert_int_equal(db_write(f->db, put_fn, &p), DB_OK);
	assert_int_equal(db_write(f->db, put_fn, &other), DB_OK);
	assert_int_equal(db_write(f->db, collection_fn, &r), DB_OK);
	assert_int_equal(db_write(f->db, blob_fn, &r), DB_OK);
	assert_int_equal(db_write(f->db, touch_fn, &r), DB_OK);
	assert_int_equal(db_write(f->db, delete_fn, &r), DB_OK);
	assert_int_equal(db_write(f->db, delete_fn, &r), DB_NOT_FOUND);
	assert_int_equal(db_write(f->db, touch_fn, &r), DB_NOT_FOUND);

	txn = begin(f);
	for (uint64_t after = journal_head(&txn) - 2; after < journal_head(&txn); after++) {
		assert_int_equal(journal_read(&txn, after, &row, 1), 1);
		assert_int_equal(row.kind, JOURNAL_DEVICE);
		assert_int_equal(row.device, 1);
		assert_int_equal(row.mailbox, p.mailbox);
	}
	assert_int_equal(device_gate(&txn, p.mailbox, bytes_str("one"), &gate), DB_NOT_FOUND);
	assert_int_equal(collection_get(&txn, p.mailbox, 1, 1, &c), DB_NOT_FOUND);
	assert_int_equal(device_next(&txn, p.mailbox, &id, &d), DB_OK);
	assert_int_equal(id, 2);
	assert_string_equal(d.device_id, "other");
	assert_int_equal(device_next(&txn, p.mailbox, &id, &d), DB_NOT_FOUND);
	db_read_end(&txn);
	p.d.id = 0;
	assert_int_equal(db_write(f->db, put_fn, &p), DB_OK);
	assert_int_equal(p.d.id, 3);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(device_comes_back_whole),
		TEST(what_makes_no_sense_is_refused),
		TEST(collections_and_blobs),
		TEST(removed_device_is_gone_and_announced),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
