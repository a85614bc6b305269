/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What is noted of a device beside its requests. */
#include "core/shard/device_notes.h"

#include "core/push/ping.h"
#include "store/account.h"
#include "store/device.h"
#include "store/writer.h"
#include "tests/store/fixture.h"

enum { QUARTER_MS = 15 * 60 * 1000 };

static struct account account;
static uint32_t device;

static int make_device(struct db_txn *txn, void *arg)
{
	struct device d = {.device_id = "PHONE", .device_type = "test"};
	int err = account_create(txn, bytes_str("a@example.test"), "", "", 1, &account);

	(void)arg;
	if (!err)
		err = device_put(txn, account.mailbox, &d);
	device = d.id;
	return err;
}

static int remove_device(struct db_txn *txn, void *arg)
{
	(void)arg;
	return device_delete(txn, account.mailbox, device);
}

static struct writer *begin(struct fixture *f)
{
	assert_int_equal(db_write(f->db, make_device, NULL), DB_OK);
	return writer_new(f->db, false);
}

static void end(struct writer *w)
{
	writer_stop(w);
	while (writer_step(w, true))
		;
	writer_free(&w);
}

static struct device read_device(struct fixture *f)
{
	struct db_txn txn;
	struct device d;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(device_get(&txn, account.mailbox, device, &d), DB_OK);
	db_read_end(&txn);
	return d;
}

/* To a phone that sends its next Ping without parameters: those of the last one are known, and nothing else
 * of the record is touched. */
static void the_last_ping_is_remembered(void **state)
{
	struct fixture *f = *state;
	struct writer *w = begin(f);
	struct device_gate gate = {.id = device};
	struct ping p = {.heartbeat_s = 900, .folder_count = 2, .folders = {1, 70}};
	struct device d;

	device_note_seen(w, account.mailbox, &gate, QUARTER_MS, "192.0.2.7");
	device_note_ping(w, account.mailbox, device, &p);
	/* What was given is the caller's again. */
	memset(&p, 0, sizeof(p));
	assert_int_equal(read_device(f).ping_heartbeat_s, 0);
	writer_step(w, true);
	d = read_device(f);
	assert_int_equal(d.ping_heartbeat_s, 900);
	assert_int_equal(d.ping_folder_count, 2);
	assert_int_equal(d.ping_folders[0], 1);
	assert_int_equal(d.ping_folders[1], 70);
	assert_int_equal(d.last_seen_ms, QUARTER_MS);
	assert_string_equal(d.last_address, "192.0.2.7");
	assert_string_equal(d.device_id, "PHONE");
	end(w);
}

/* To the disk: a phone that asks all the time is noted every 15 minutes. */
static void presence_is_noted_every_quarter_of_an_hour(void **state)
{
	struct fixture *f = *state;
	struct writer *w = begin(f);
	struct device_gate gate = {.id = device, .last_seen_ms = 5000000};

	device_note_seen(w, account.mailbox, &gate, 5000000 + QUARTER_MS - 1, "192.0.2.7");
	assert_int_equal(read_device(f).last_seen_ms, 0);
	device_note_seen(w, account.mailbox, &gate, 5000000 + QUARTER_MS, "192.0.2.8");
	writer_step(w, true);
	assert_int_equal(read_device(f).last_seen_ms, 5000000 + QUARTER_MS);
	assert_string_equal(read_device(f).last_address, "192.0.2.8");
	end(w);
}

/* To the store: what comes too late, for a device that was removed or a writer that has stopped, harms
 * nothing and leaks nothing. */
static void what_comes_too_late_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct writer *w = begin(f);
	struct ping p = {.heartbeat_s = 900, .folder_count = 1, .folders = {1}};
	struct db_txn txn;
	struct device d;

	device_note_ping(w, account.mailbox, device, &p);
	assert_int_equal(db_write(f->db, remove_device, NULL), DB_OK);
	writer_step(w, true);
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(device_get(&txn, account.mailbox, device, &d), DB_NOT_FOUND);
	db_read_end(&txn);
	writer_stop(w);
	device_note_ping(w, account.mailbox, device, &p);
	end(w);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		WITH_STORE(the_last_ping_is_remembered),
		WITH_STORE(presence_is_noted_every_quarter_of_an_hour),
		WITH_STORE(what_comes_too_late_is_dropped),
	};

	return cmocka_run_group_tests_name("device notes", tests, NULL, NULL);
}
