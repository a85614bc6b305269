/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Ping without a shard: what is read, what is decided on a store, what is written. */
#include "core/push/ping.h"

#include "core/config/config.h"
#include "core/eas/wbxml.h"
#include "store/journal.h"
#include "store/mailbox.h"
#include "tests/store/fixture.h"

/* ---- documents ------------------------------------------------------------------------------ */

/* Elements from a list: a tag and its text, or NULL text for a container, and 0 to close one. */
struct part {
	uint16_t tag;
	const char *text;
};

static struct buf document(const struct part *parts, size_t n)
{
	struct buf out = {0};
	struct wbxml_writer w;

	wbxml_writer_init(&w, &out);
	for (size_t i = 0; i < n; i++) {
		if (!parts[i].tag)
			wbxml_put_end(&w);
		else if (parts[i].text)
			wbxml_put_text(&w, parts[i].tag, parts[i].text);
		else
			wbxml_put_start(&w, parts[i].tag);
	}
	assert_true(wbxml_done(&w));
	return out;
}

#define END                                                                                        \
	{                                                                                          \
		0, NULL                                                                            \
	}
#define FOLDER(id, class) {PING_Folder, NULL}, {PING_Id, id}, {PING_Class, class}, END

static enum ping_status parse(struct ping *p, const struct part *parts, size_t n, uint16_t version)
{
	struct buf d = document(parts, n);
	bool ok = ping_parse(p, buf_bytes(&d), version);

	assert_int_equal(ok, p->status == PING_PARK);
	assert_true(ok || p->why);
	buf_free(&d);
	return p->status;
}

#define PARSE(p, version, ...)                                                                     \
	parse(p, (const struct part[]){__VA_ARGS__},                                               \
		sizeof((const struct part[]){__VA_ARGS__}) / sizeof(struct part), version)

/* A Ping as a phone sends it. */
static const uint8_t example[] = {0x03, 0x01, 0x6A, 0x00, 0x00, 0x0D, 0x45, 0x48, 0x03, 0x34, 0x38,
	0x30, 0x00, 0x01, 0x49, 0x4A, 0x4B, 0x03, 0x35, 0x00, 0x01, 0x4C, 0x03, 0x45, 0x6D, 0x61,
	0x69, 0x6C, 0x00, 0x01, 0x01, 0x4A, 0x4B, 0x03, 0x31, 0x00, 0x01, 0x4C, 0x03, 0x43, 0x61,
	0x6C, 0x65, 0x6E, 0x64, 0x61, 0x72, 0x00, 0x01, 0x01, 0x01, 0x01};

/* To every phone: the specification's own example is understood. */
static void the_example_of_the_specification_is_read(void **state)
{
	struct ping p;

	(void)state;
	assert_true(ping_parse(&p, bytes_of(example, sizeof(example)), 141));
	assert_true(p.has_heartbeat && p.has_folders);
	assert_int_equal(p.heartbeat_asked_s, 480);
	assert_int_equal(p.folder_count, 2);
	assert_int_equal(p.folders[0], 5);
	assert_int_equal(p.folders[1], 1);
}

/* To an operator: half a document is bad WBXML (102, or 400 before 14.0), wherever it ends. */
static void a_truncated_document_is_no_wbxml(void **state)
{
	struct ping p;

	(void)state;
	for (size_t n = 1; n < sizeof(example); n++) {
		assert_false(ping_parse(&p, bytes_of(example, n), 140));
		assert_int_equal(p.status, PING_WBXML);
		assert_false(ping_parse(&p, bytes_of(example, n), 121));
		assert_int_equal(p.status, PING_BAD_REQUEST);
	}
	for (size_t n = 0; n < sizeof(example); n++)
		for (unsigned v = 0; v < 256; v++) {
			uint8_t copy[sizeof(example)];

			/* Any byte at any place: an outcome, never a crash. */
			memcpy(copy, example, sizeof(copy));
			copy[n] = (uint8_t)v;
			ping_parse(&p, bytes_of(copy, sizeof(copy)), 141);
			assert_true(p.folder_count <= PING_FOLDERS_MAX);
		}
}

/* To a phone: children may come in any order, text in one piece or as OPAQUE, and elements that we
 * do not know are passed over. */
static void order_and_form_do_not_matter(void **state)
{
	struct wbxml_writer w;
	struct buf d = {0};
	struct ping p;

	(void)state;
	assert_int_equal(PARSE(&p, 141, {PING_Ping, NULL}, {PING_Folders, NULL},
				 {PING_Folder, NULL}, {PING_Class, "Email"}, {PING_Id, "7"}, END,
				 END, {PING_HeartbeatInterval, "900"}, END),
		PING_PARK);
	assert_int_equal(p.heartbeat_asked_s, 900);
	assert_int_equal(p.folders[0], 7);
	wbxml_writer_init(&w, &d);
	wbxml_put_start(&w, PING_Ping);
	wbxml_put_text(&w, PING_AutdState, "x");
	wbxml_put_opaque(&w, PING_HeartbeatInterval, bytes_str("480"));
	wbxml_put_start(&w, PING_Folders);
	wbxml_put_start(&w, PING_Folder);
	wbxml_put_start(&w, PING_Id);
	wbxml_put_piece(&w, bytes_str("1"));
	wbxml_put_piece(&w, bytes_str("2"));
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	assert_true(wbxml_done(&w));
	assert_true(ping_parse(&p, buf_bytes(&d), 141));
	assert_int_equal(p.heartbeat_asked_s, 480);
	assert_int_equal(p.folders[0], 12);
	buf_free(&d);
}

/* To a phone in error: every ill-formed Ping is Status 4. */
static void ill_formed_pings_are_status_4(void **state)
{
	struct ping p;

	(void)state;
#define SYNTAX(...) assert_int_equal(PARSE(&p, 141, __VA_ARGS__), PING_SYNTAX)
	SYNTAX({PING_Ping, NULL}, END);
	SYNTAX({FOLDERHIERARCHY_FolderSync, NULL}, {FOLDERHIERARCHY_SyncKey, "0"}, END);
	SYNTAX({PING_Folders, NULL}, FOLDER("1", "Email"), END);
	SYNTAX({PING_Ping, NULL}, {PING_Status, "1"}, END);
	SYNTAX({PING_Ping, NULL}, {PING_HeartbeatInterval, "480"}, {PING_Folders, NULL}, END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, FOLDER("1", "Email"), FOLDER("1", "Email"),
		END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, FOLDER("1", "Email"), FOLDER("2", "Email"),
		FOLDER("1", "Calendar"), END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, FOLDER("1", "Mail"), END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, FOLDER("1", ""), END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, {PING_Folder, NULL}, {PING_Class, "Email"},
		END, END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, FOLDER("", "Email"), END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, {PING_Folder, NULL}, {PING_Id, "1"},
		{PING_Id, "2"}, END, END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL},
		FOLDER("12345678901234567890123456789012345678901234567890123456789012345",
			"Email"),
		END, END);
	SYNTAX({PING_Ping, NULL}, {PING_Folders, NULL}, FOLDER("1", "Email"), END,
		{PING_Folders, NULL}, FOLDER("2", "Email"), END, END);
	SYNTAX({PING_Ping, NULL}, {PING_HeartbeatInterval, "480"}, {PING_HeartbeatInterval, "480"},
		END);
	static const char *const wrong[] = {
		"", " ", "-", "8m", "4 80", "+480", "480.0", "0x10", "--5"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		SYNTAX({PING_Ping, NULL}, {PING_HeartbeatInterval, wrong[i]}, END);
#undef SYNTAX
}

/* To a phone: what can be read and is only too large or too small is not a syntax error. */
static void odd_intervals_are_numbers_all_the_same(void **state)
{
	static const struct {
		const char *text;
		int64_t low, high;
	} v[] = {{"-5", -5, -5}, {"0", 0, 0}, {"00060", 60, 60}, {"3541", 3541, 3541},
		{"99999999999999999999", 1000000000, INT64_MAX},
		{"-99999999999999999999", INT64_MIN, -1000000000}};
	struct ping p;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		assert_int_equal(
			PARSE(&p, 141, {PING_Ping, NULL}, {PING_HeartbeatInterval, v[i].text}, END),
			PING_PARK);
		assert_true(p.heartbeat_asked_s >= v[i].low && p.heartbeat_asked_s <= v[i].high);
	}
}

/* To the shard: a thousand folders are counted, and do not run over. */
static void a_thousand_folders_are_counted(void **state)
{
	static struct part parts[4 * 1000 + 4];
	static char ids[1000][8];
	struct ping p;
	size_t n = 0;

	(void)state;
	parts[n++] = (struct part){PING_Ping, NULL};
	parts[n++] = (struct part){PING_Folders, NULL};
	for (int i = 0; i < 1000; i++) {
		snprintf(ids[i], sizeof(ids[i]), "%d", i + 1);
		parts[n++] = (struct part){PING_Folder, NULL};
		parts[n++] = (struct part){PING_Id, ids[i]};
		parts[n++] = (struct part){PING_Class, "Email"};
		parts[n++] = (struct part){0, NULL};
	}
	parts[n++] = (struct part){0, NULL};
	parts[n++] = (struct part){0, NULL};
	assert_int_equal(parse(&p, parts, n, 161), PING_PARK);
	assert_int_equal(p.asked_count, 1000);
	assert_int_equal(p.folder_count, PING_FOLDERS_MAX);
}

/* ---- decisions ------------------------------------------------------------------------------- */

enum { NOW_S = 1700000000 };

struct phone {
	struct fixture *f;
	struct config *c;
	uint32_t mailbox, device;
	struct device d;
};

static int put_device(struct db_txn *txn, void *arg)
{
	struct phone *ph = arg;
	int err = device_put(txn, ph->mailbox, &ph->d);

	ph->device = ph->d.id;
	return err;
}

struct synced {
	struct phone *ph;
	uint32_t folder;
};

static int put_synced(struct db_txn *txn, void *arg)
{
	struct synced *s = arg;
	struct collection c = {.key = 1};

	c.now = (struct sync_position){
		.seq = journal_head(txn), .floor_time_s = INT64_MIN, .floor_id = 0};
	return collection_put(txn, s->ph->mailbox, s->ph->device, s->folder, &c);
}

static void sync_folder(struct phone *ph, uint32_t folder)
{
	struct synced s = {ph, folder};

	assert_int_equal(db_write(ph->f->db, put_synced, &s), DB_OK);
}

static int put_folder_synced(struct db_txn *txn, void *arg)
{
	struct phone *ph = arg;
	uint64_t seq = mailbox_hierarchy_seq(txn, ph->mailbox);

	ph->d.hierarchy_key = 1;
	ph->d.hierarchy_seq = seq ? seq : 1;
	return device_put(txn, ph->mailbox, &ph->d);
}

/* A phone that has done everything: FolderSync, Sync of inbox and sent items. */
static void ready(struct phone *ph, void **state)
{
	memset(ph, 0, sizeof(*ph));
	ph->f = *state;
	ph->c = config_new();
	ph->mailbox = fixture_account(ph->f, "a@example.org");
	snprintf(ph->d.device_id, sizeof(ph->d.device_id), "D1");
	assert_int_equal(db_write(ph->f->db, put_device, ph), DB_OK);
	assert_int_equal(db_write(ph->f->db, put_folder_synced, ph), DB_OK);
	sync_folder(ph, FOLDER_ID_INBOX);
	sync_folder(ph, FOLDER_ID_SENT);
}

static void done(struct phone *ph)
{
	config_free(&ph->c);
}

static enum ping_status decide(
	struct phone *ph, struct ping *p, int64_t heartbeat_s, const uint32_t *folders, unsigned n)
{
	struct db_txn txn;

	assert_true(ping_parse(p, bytes_of(NULL, 0), 141));
	p->has_heartbeat = heartbeat_s != 0;
	p->heartbeat_asked_s = heartbeat_s;
	p->has_folders = n > 0;
	p->asked_count = n;
	p->folder_count = (uint16_t)n;
	for (unsigned i = 0; i < n; i++)
		p->folders[i] = folders[i];
	assert_int_equal(db_read(ph->f->db, &txn), DB_OK);
	ping_decide(p, &txn, ph->c, ph->mailbox, ph->device, NOW_S * 1000ull);
	db_read_end(&txn);
	return p->status;
}

static const uint32_t inbox_and_sent[] = {FOLDER_ID_INBOX, FOLDER_ID_SENT};

/* To a phone that knows everything: it waits, and is remembered. */
static void nothing_new_parks(void **state)
{
	struct phone ph;
	struct ping p;

	ready(&ph, state);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_PARK);
	assert_int_equal(p.heartbeat_s, 480);
	assert_true(p.remember);
	ph.d.ping_heartbeat_s = 480;
	ph.d.ping_folder_count = 2;
	memcpy(ph.d.ping_folders, inbox_and_sent, sizeof(inbox_and_sent));
	assert_int_equal(db_write(ph.f->db, put_device, &ph), DB_OK);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_PARK);
	assert_false(p.remember); /* the same again costs no write */
	done(&ph);
}

/* To the battery: a Ping may be empty, or name only what is new; the rest is remembered. */
static void what_is_left_out_comes_from_the_cache(void **state)
{
	struct phone ph;
	struct ping p;

	ready(&ph, state);
	assert_int_equal(decide(&ph, &p, 0, NULL, 0), PING_MISSING);
	assert_int_equal(decide(&ph, &p, 480, NULL, 0), PING_MISSING);
	assert_int_equal(decide(&ph, &p, 0, inbox_and_sent, 2), PING_MISSING);
	ph.d.ping_heartbeat_s = 700;
	ph.d.ping_folder_count = 1;
	ph.d.ping_folders[0] = FOLDER_ID_SENT;
	assert_int_equal(db_write(ph.f->db, put_device, &ph), DB_OK);
	assert_int_equal(decide(&ph, &p, 0, NULL, 0), PING_PARK);
	assert_false(p.remember);
	assert_int_equal(p.heartbeat_s, 700);
	assert_int_equal(p.folder_count, 1);
	assert_int_equal(p.folders[0], FOLDER_ID_SENT);
	assert_int_equal(decide(&ph, &p, 480, NULL, 0), PING_PARK);
	assert_true(p.remember);
	assert_int_equal(p.folder_count, 1);
	/* Replaced, never merged. */
	assert_int_equal(decide(&ph, &p, 0, inbox_and_sent, 1), PING_PARK);
	assert_true(p.remember);
	assert_int_equal(p.heartbeat_s, 700);
	assert_int_equal(p.folder_count, 1);
	assert_int_equal(p.folders[0], FOLDER_ID_INBOX);
	done(&ph);
}

/* To a phone that asks for too much: it is told the nearest value that is allowed, once. */
static void intervals_out_of_range_are_status_5_with_the_limit(void **state)
{
	struct phone ph;
	struct ping p;

	ready(&ph, state);
	assert_int_equal(decide(&ph, &p, 59, inbox_and_sent, 2), PING_INTERVAL);
	assert_int_equal(p.limit, 60);
	assert_int_equal(decide(&ph, &p, -5, inbox_and_sent, 2), PING_INTERVAL);
	assert_int_equal(p.limit, 60);
	assert_int_equal(decide(&ph, &p, 3541, inbox_and_sent, 2), PING_INTERVAL);
	assert_int_equal(p.limit, 3540);
	assert_int_equal(decide(&ph, &p, 60, inbox_and_sent, 2), PING_PARK);
	assert_int_equal(decide(&ph, &p, 3540, inbox_and_sent, 2), PING_PARK);
	done(&ph);
}

/* To a phone with very many folders: the limit is named. */
static void too_many_folders_are_status_6_with_the_limit(void **state)
{
	uint32_t many[201];
	struct phone ph;
	struct ping p;

	ready(&ph, state);
	for (unsigned i = 0; i < 201; i++)
		many[i] = i + 1;
	assert_int_equal(decide(&ph, &p, 480, many, 201), PING_FOLDERS);
	assert_int_equal(p.limit, 200);
	/* The interval is looked at first. */
	assert_int_equal(decide(&ph, &p, 59, many, 201), PING_INTERVAL);
	/* At the limit their number is fine, though they do not exist. */
	assert_int_equal(decide(&ph, &p, 480, many, 200), PING_HIERARCHY);
	done(&ph);
}

struct new_folder {
	struct phone *ph;
	uint32_t origin, id;
	bool remove;
};

static int change_folder(struct db_txn *txn, void *arg)
{
	struct new_folder *n = arg;

	if (n->remove)
		return folder_delete(txn, n->ph->mailbox, n->id, n->origin);
	return folder_create(
		txn, n->ph->mailbox, 0, FOLDER_USER_MAIL, bytes_str("x"), n->origin, &n->id);
}

/* To a phone whose folders changed elsewhere: FolderSync first; its own changes are no news. */
static void a_hierarchy_changed_by_others_is_status_7(void **state)
{
	struct phone ph;
	struct ping p;
	struct new_folder n;

	ready(&ph, state);
	n = (struct new_folder){.ph = &ph, .origin = ph.device};
	assert_int_equal(db_write(ph.f->db, change_folder, &n), DB_OK);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_PARK);
	n.remove = true;
	n.origin = 0;
	assert_int_equal(db_write(ph.f->db, change_folder, &n), DB_OK);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_HIERARCHY);
	assert_int_equal(decide(&ph, &p, 59, inbox_and_sent, 2), PING_INTERVAL);
	assert_int_equal(db_write(ph.f->db, put_folder_synced, &ph), DB_OK);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_PARK);
	/* The folder that is gone: 7, and left in `changed` for the loop guard. */
	assert_int_equal(decide(&ph, &p, 480, &n.id, 1), PING_HIERARCHY);
	assert_int_equal(p.changed_count, 1);
	assert_int_equal(p.changed[0], n.id);
	done(&ph);
}

/* To a new phone: without a FolderSync no Id can be right. */
static void without_a_folder_sync_it_is_status_7(void **state)
{
	struct phone ph;
	struct ping p;
	uint32_t device;

	ready(&ph, state);
	device = ph.device;
	ph.device = 77;
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_HIERARCHY);
	assert_int_equal(decide(&ph, &p, 0, NULL, 0), PING_MISSING);
	ph.device = device;
	ph.d.hierarchy_key = 0;
	ph.d.hierarchy_seq = 0;
	assert_int_equal(db_write(ph.f->db, put_device, &ph), DB_OK);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_HIERARCHY);
	done(&ph);
}

/* To the user: mail that came between Sync and Ping is told at once, and names its folder. */
static void mail_before_the_ping_is_status_2(void **state)
{
	struct phone ph;
	struct ping p;

	ready(&ph, state);
	fixture_deliver(ph.f, ph.mailbox, FOLDER_ID_INBOX, NOW_S);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_CHANGES);
	assert_int_equal(p.changed_count, 1);
	assert_int_equal(p.changed[0], FOLDER_ID_INBOX);
	/* It is told again until it is synced: Status 2 has no acknowledgement. */
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_CHANGES);
	sync_folder(&ph, FOLDER_ID_INBOX);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_PARK);
	done(&ph);
}

/* To a phone: a folder that it never synced is named, so that it gets synced. */
static void a_folder_never_synced_is_status_2(void **state)
{
	const uint32_t folders[] = {FOLDER_ID_CALENDAR, FOLDER_ID_INBOX};
	struct phone ph;
	struct ping p;

	ready(&ph, state);
	assert_int_equal(decide(&ph, &p, 480, folders, 2), PING_CHANGES);
	assert_int_equal(p.changed_count, 1);
	assert_int_equal(p.changed[0], FOLDER_ID_CALENDAR);
	done(&ph);
}

struct own_item {
	struct phone *ph;
};

static int add_own(struct db_txn *txn, void *arg)
{
	struct own_item *o = arg;
	struct item_new n = {.item_class = ITEM_EMAIL,
		.time_s = NOW_S,
		.summary = bytes_str("s"),
		.body = bytes_str("b")};
	uint64_t id;

	return item_add(txn, o->ph->mailbox, FOLDER_ID_INBOX, &n, o->ph->device, &id);
}

/* To the battery: a phone is not woken by what it did itself, nor by folders it did not name. */
static void own_changes_and_other_folders_are_no_news(void **state)
{
	struct phone ph;
	struct own_item o = {.ph = &ph};
	struct ping p;

	ready(&ph, state);
	assert_int_equal(db_write(ph.f->db, add_own, &o), DB_OK);
	fixture_deliver(ph.f, ph.mailbox, FOLDER_ID_TRASH, NOW_S);
	fixture_deliver(ph.f, fixture_account(ph.f, "b@example.org"), FOLDER_ID_INBOX, NOW_S);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_PARK);
	done(&ph);
}

/* To the user: a commit after the snapshot has a number above since_seq, so it cannot be missed. */
static void since_seq_is_the_head_of_what_was_compared(void **state)
{
	struct phone ph;
	struct ping p;
	struct db_txn txn;

	ready(&ph, state);
	fixture_deliver(ph.f, ph.mailbox, FOLDER_ID_TRASH, NOW_S);
	assert_int_equal(decide(&ph, &p, 480, inbox_and_sent, 2), PING_PARK);
	assert_int_equal(db_read(ph.f->db, &txn), DB_OK);
	assert_true(p.since_seq == journal_head(&txn));
	db_read_end(&txn);
	fixture_deliver(ph.f, ph.mailbox, FOLDER_ID_INBOX, NOW_S);
	assert_int_equal(db_read(ph.f->db, &txn), DB_OK);
	assert_true(p.since_seq < journal_head(&txn));
	db_read_end(&txn);
	done(&ph);
}

/* ---- answers ----------------------------------------------------------------------------------
 */

#define ENCODES(expected, ...)                                                                     \
	do {                                                                                       \
		uint8_t out_[PING_ANSWER_MAX];                                                     \
		static const uint8_t want_[] = expected;                                           \
		assert_int_equal(ping_encode(__VA_ARGS__, out_), sizeof(want_));                   \
		assert_memory_equal(out_, want_, sizeof(want_));                                   \
	} while (0)
#define BYTES(...)                                                                                 \
	{                                                                                          \
		__VA_ARGS__                                                                        \
	}

/* To every phone: the answers, byte for byte. */
static void answers_are_those_of_the_specification(void **state)
{
	const uint32_t five[] = {5};

	(void)state;
	ENCODES(BYTES(0x03, 0x01, 0x6A, 0x00, 0x00, 0x0D, 0x45, 0x47, 0x03, 0x31, 0x00, 0x01, 0x01),
		PING_EXPIRED, 0, NULL, 0);
	ENCODES(BYTES(0x03, 0x01, 0x6A, 0x00, 0x00, 0x0D, 0x45, 0x47, 0x03, 0x32, 0x00, 0x01, 0x49,
			0x4A, 0x03, 0x35, 0x00, 0x01, 0x01, 0x01),
		PING_CHANGES, 0, five, 1);
	ENCODES(BYTES(0x03, 0x01, 0x6A, 0x00, 0x00, 0x0D, 0x45, 0x47, 0x03, 0x35, 0x00, 0x01, 0x48,
			0x03, 0x36, 0x30, 0x00, 0x01, 0x01),
		PING_INTERVAL, 60, NULL, 0);
	ENCODES(BYTES(0x03, 0x01, 0x6A, 0x00, 0x00, 0x0D, 0x45, 0x47, 0x03, 0x36, 0x00, 0x01, 0x4D,
			0x03, 0x32, 0x30, 0x30, 0x00, 0x01, 0x01),
		PING_FOLDERS, 200, NULL, 0);
	ENCODES(BYTES(0x03, 0x01, 0x6A, 0x00, 0x00, 0x0D, 0x45, 0x47, 0x03, 0x31, 0x30, 0x32, 0x00,
			0x01, 0x01),
		PING_WBXML, 0, NULL, 0);
}

/* To the shard: the longest answer there can be fits its buffer, and is WBXML. */
static void the_longest_answer_fits(void **state)
{
	uint32_t folders[PING_FOLDERS_MAX];
	uint8_t out[PING_ANSWER_MAX];
	struct wbxml_node *root;
	const char *why;
	struct arena a;
	size_t n;

	(void)state;
	for (unsigned i = 0; i < PING_FOLDERS_MAX; i++)
		folders[i] = UINT32_MAX - i;
	n = ping_encode(PING_CHANGES, 0, folders, PING_FOLDERS_MAX, out);
	assert_true(n <= sizeof(out));
	arena_init(&a, 1 << 20);
	assert_int_equal(wbxml_parse(bytes_of(out, n), &a, NULL, &root, &why), 1);
	assert_int_equal(wbxml_child(root, PING_Folders)->child_count, PING_FOLDERS_MAX);
	arena_free(&a);
}

int main(void)
{
#define WITH_STORE(test) cmocka_unit_test_setup_teardown(test, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_example_of_the_specification_is_read),
		cmocka_unit_test(a_truncated_document_is_no_wbxml),
		cmocka_unit_test(order_and_form_do_not_matter),
		cmocka_unit_test(ill_formed_pings_are_status_4),
		cmocka_unit_test(odd_intervals_are_numbers_all_the_same),
		cmocka_unit_test(a_thousand_folders_are_counted),
		WITH_STORE(nothing_new_parks),
		WITH_STORE(what_is_left_out_comes_from_the_cache),
		WITH_STORE(intervals_out_of_range_are_status_5_with_the_limit),
		WITH_STORE(too_many_folders_are_status_6_with_the_limit),
		WITH_STORE(a_hierarchy_changed_by_others_is_status_7),
		WITH_STORE(without_a_folder_sync_it_is_status_7),
		WITH_STORE(mail_before_the_ping_is_status_2),
		WITH_STORE(a_folder_never_synced_is_status_2),
		WITH_STORE(own_changes_and_other_folders_are_no_news),
		WITH_STORE(since_seq_is_the_head_of_what_was_compared),
		cmocka_unit_test(answers_are_those_of_the_specification),
		cmocka_unit_test(the_longest_answer_fits),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
