/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A mailbox as a whole: random operations against a model, and pruning (store/mailbox.c). */
#include "tests/store/mailbox_fixture.h"

#include <time.h>

enum { MODEL_ITEMS = 400, MODEL_FOLDERS = 4, MODEL_DEVICES = 3, MODEL_STEPS = 6000 };

struct model_item {
	bool alive, read;
	uint32_t folder;
	int64_t time_s;
	uint32_t version; /* of the content, stored in the summary */
	uint32_t flag;    /* in props */
};

/* What one device would hold of one folder if it believed all it was told. `base` is where the
 * walk through the changes began, seq how far it came. */
struct model_view {
	uint64_t base, seq;
	bool has[MODEL_ITEMS];
	uint32_t version[MODEL_ITEMS], flag[MODEL_ITEMS];
	bool read[MODEL_ITEMS];
};

static struct model {
	struct model_item items[MODEL_ITEMS]; /* by id */
	struct model_view views[MODEL_DEVICES][MODEL_FOLDERS + 1];
	uint64_t next_id;
} model;

static unsigned rnd_state;
static unsigned rnd(unsigned n)
{
	return (unsigned)rand_r(&rnd_state) % n;
}

static void view_apply(struct db_txn *txn, uint32_t mailbox, uint32_t folder, struct model_view *v,
	const struct change *c)
{
	struct item it;

	assert_true(c->item < MODEL_ITEMS);
	if (c->kind == JOURNAL_DELETE) {
		/* created_seq promises: what the device may have, it is told about. */
		assert_true(!v->has[c->item] || c->created_seq <= v->seq);
		v->has[c->item] = false;
		return;
	}
	if (item_get(txn, mailbox, folder, c->item, &it) != DB_OK)
		fail_msg("a live row without its item");
	assert_int_equal(it.changed_seq, c->seq);
	assert_int_equal(c->kind == JOURNAL_ADD, it.created_seq == c->seq);
	/* Never a Change of what it lacks; an Add of what it has only in the middle of a walk,
	 * where both may be. */
	if (c->created_seq > v->base)
		assert_true(!v->has[c->item] || c->created_seq <= v->seq);
	else
		assert_true(v->has[c->item]);
	if (c->created_seq > v->base || it.content_seq > v->base)
		memcpy(&v->version[c->item], it.summary.p, 4);
	v->has[c->item] = true;
	memcpy(&v->flag[c->item], it.props.p, 4);
	v->read[c->item] = it.read;
}

/* A device catches up with up to `window` changes; at the end of them it has exactly what is there.
 */
static bool view_sync(
	struct fixture *f, uint32_t mailbox, uint32_t folder, struct model_view *v, unsigned window)
{
	struct db_txn txn = begin(f);
	struct change c;
	int err = DB_OK;

	while (window-- > 0 && (err = change_next(&txn, mailbox, folder, v->seq, &c)) == DB_OK) {
		view_apply(&txn, mailbox, folder, v, &c);
		v->seq = c.seq;
	}
	if (err == DB_NOT_FOUND) {
		v->base = v->seq = journal_head(&txn);
		for (size_t i = 0; i < MODEL_ITEMS; i++) {
			struct model_item *m = &model.items[i];
			bool here = m->alive && m->folder == folder;

			assert_int_equal(v->has[i], here);
			if (!here)
				continue;
			assert_int_equal(v->version[i], m->version);
			assert_int_equal(v->flag[i], m->flag);
			assert_int_equal(v->read[i], m->read);
		}
	}
	db_read_end(&txn);
	return err == DB_NOT_FOUND;
}

static uint64_t pick_alive(void)
{
	for (int tries = 0; tries < 20 && model.next_id > 1; tries++) {
		uint64_t id = 1 + rnd((unsigned)model.next_id - 1);
		if (model.items[id].alive)
			return id;
	}
	return 0;
}

static void model_step(struct fixture *f, uint32_t mailbox)
{
	uint64_t id = pick_alive();
	struct model_item *m = &model.items[id];
	struct op o = {.mailbox = mailbox, .folder = m->folder, .item = id, .origin = rnd(4)};
	uint32_t version, flag = rnd(3);
	unsigned what = rnd(100);

	o.n = (struct item_new){.item_class = ITEM_EMAIL,
		.read = rnd(2),
		.time_s = (int64_t)rnd(50) - 25,
		.props = bytes_of(&flag, 4)};
	if (id == 0 || (what < 25 && model.next_id < MODEL_ITEMS)) {
		if (model.next_id == MODEL_ITEMS)
			return;
		version = 1;
		o.what = OP_ADD;
		o.folder = 1 + rnd(MODEL_FOLDERS);
		o.n.summary = bytes_of(&version, 4);
		assert_int_equal(run(f, &o), DB_OK);
		assert_int_equal(o.item, model.next_id);
		model.next_id++;
		model.items[o.item] =
			(struct model_item){true, o.n.read, o.folder, o.n.time_s, 1, flag};
	} else if (what < 50) {
		o.what = OP_STATE;
		assert_int_equal(run(f, &o), DB_OK);
		m->read = o.n.read;
		m->flag = flag;
	} else if (what < 60) {
		o.what = OP_CONTENT;
		version = m->version + 1;
		o.n.summary = bytes_of(&version, 4);
		assert_int_equal(run(f, &o), DB_OK);
		m->read = o.n.read;
		m->flag = flag;
		m->version = version;
		m->time_s = o.n.time_s;
	} else if (what < 85) {
		o.what = OP_MOVE;
		o.to = 1 + rnd(MODEL_FOLDERS);
		assert_int_equal(run(f, &o), o.to == o.folder ? DB_INVALID : DB_OK);
		m->folder = o.to;
	} else if (what < 90) {
		o.what = OP_DELETE;
		assert_int_equal(run(f, &o), DB_OK);
		assert_int_equal(run(f, &o), DB_NOT_FOUND);
		m->alive = false;
	} else {
		/* A device catches up and says where it stands; then what nobody needs may go. */
		uint32_t device = rnd(MODEL_DEVICES), folder = 1 + rnd(MODEL_FOLDERS);
		struct model_view *v = &model.views[device][folder];

		view_sync(f, mailbox, folder, v, 1 + rnd(60));
		o = (struct op){.what = OP_COLLECTION,
			.mailbox = mailbox,
			.device = device + 1,
			.folder = folder,
			.c = {.key = 1, .now = {.seq = v->seq}}};
		assert_int_equal(run(f, &o), DB_OK);
		if (rnd(3) == 0) {
			o = (struct op){.what = OP_PRUNE, .mailbox = mailbox, .max = 1 + rnd(40)};
			assert_int_equal(run(f, &o), DB_OK);
		}
	}
}

static void model_compare(struct fixture *f, uint32_t mailbox)
{
	for (uint32_t folder = 1; folder <= MODEL_FOLDERS; folder++) {
		uint64_t items = 0, unread = 0, walked = 0;
		struct item_pos pos = {.time_s = INT64_MIN}, last = pos;
		struct folder have = folder_of(f, mailbox, folder);
		struct db_txn txn;

		for (size_t i = 0; i < MODEL_ITEMS; i++) {
			const struct model_item *m = &model.items[i];
			items += m->alive && m->folder == folder;
			unread += m->alive && m->folder == folder && !m->read;
		}
		assert_int_equal(have.items, items);
		assert_int_equal(have.unread, unread);
		txn = begin(f);
		for (; item_at_or_after(&txn, mailbox, folder, &pos) == DB_OK; pos.id++, walked++) {
			const struct model_item *m = &model.items[pos.id];
			assert_true(m->alive && m->folder == folder && m->time_s == pos.time_s);
			assert_true(pos.time_s > last.time_s ||
				    (pos.time_s == last.time_s && pos.id > last.id));
			last = pos;
		}
		db_read_end(&txn);
		assert_int_equal(walked, items);
	}
	if (store_check(f->db, stderr) != 0)
		fail_msg("store_check finds contradictions");
}

static void random_operations(void **state)
{
	struct fixture *f = *state;
	const char *given = getenv("ROOST_TEST_SEED");
	unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
	uint32_t mailbox = fixture_account(f, "a@example.org");

	printf("# ROOST_TEST_SEED=%u\n", seed);
	rnd_state = seed;
	memset(&model, 0, sizeof(model));
	model.next_id = 1;
	for (uint32_t d = 0; d < MODEL_DEVICES; d++) {
		struct op o = {.what = OP_DEVICE, .mailbox = mailbox};
		snprintf(o.d.device_id, sizeof(o.d.device_id), "device%u", d);
		assert_int_equal(run(f, &o), DB_OK);
		for (uint32_t folder = 1; folder <= MODEL_FOLDERS; folder++) {
			struct op c = {.what = OP_COLLECTION,
				.mailbox = mailbox,
				.device = d + 1,
				.folder = folder,
				.c = {.key = 1, .now = {.seq = 1}}};
			model.views[d][folder].base = model.views[d][folder].seq = 1;
			assert_int_equal(run(f, &c), DB_OK);
		}
	}
	for (int i = 0; i < MODEL_STEPS; i++) {
		model_step(f, mailbox);
		if (i % 500 == 0)
			model_compare(f, mailbox);
	}
	model_compare(f, mailbox);
	for (uint32_t d = 0; d < MODEL_DEVICES; d++)
		for (uint32_t folder = 1; folder <= MODEL_FOLDERS; folder++)
			assert_true(
				view_sync(f, mailbox, folder, &model.views[d][folder], UINT32_MAX));
}

static int wants_pruning(struct fixture *f, uint32_t mailbox)
{
	struct db_txn txn = begin(f);
	int wants = mailbox_wants_pruning(&txn, mailbox);

	db_read_end(&txn);
	return wants;
}

/* To the operator: old deletions are tidied away, and not looked for with a write each time. */
static void a_mailbox_asks_for_pruning_when_it_is_worth_it(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {.what = OP_DELETE, .mailbox = mailbox, .folder = FOLDER_ID_INBOX};

	for (int i = 0; i <= MAILBOX_TOMBSTONES_FEW; i++) {
		assert_int_equal(wants_pruning(f, mailbox), 0);
		o.item = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 1);
		assert_int_equal(run(f, &o), DB_OK);
	}
	assert_int_equal(wants_pruning(f, mailbox), 1);
	o.what = OP_PRUNE;
	o.max = 1000;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(wants_pruning(f, mailbox), 0);
}

/* To everybody's mail: deletions that a lost phone has not heard of cannot go, so no write is spent on
 * looking at all of them, again and again, while others wait. Those of another folder can. */
static void a_lost_phone_costs_no_writes(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {.what = OP_DEVICE, .mailbox = mailbox, .d = {.device_id = "lost"}};

	assert_int_equal(run(f, &o), DB_OK);
	o = (struct op){.what = OP_COLLECTION,
		.mailbox = mailbox,
		.folder = FOLDER_ID_INBOX,
		.device = o.d.id,
		.c = {.key = 1, .now = {.seq = 10}}};
	assert_int_equal(run(f, &o), DB_OK);
	for (uint32_t folder = FOLDER_ID_INBOX; folder <= FOLDER_ID_DRAFTS; folder++) {
		for (int i = 0; i <= 2 * MAILBOX_TOMBSTONES_FEW; i++) {
			o = (struct op){.what = OP_DELETE, .mailbox = mailbox, .folder = folder};
			o.item = fixture_deliver(f, mailbox, folder, 1);
			assert_int_equal(run(f, &o), DB_OK);
		}
		assert_int_equal(wants_pruning(f, mailbox), folder != FOLDER_ID_INBOX);
	}
	o.what = OP_PRUNE;
	o.max = 1000;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(wants_pruning(f, mailbox), 0);
}

static void pruning_waits_for_the_slowest_device(void **state)
{
	struct fixture *f = *state;
	uint32_t mailbox = fixture_account(f, "a@example.org");
	struct op o = {.mailbox = mailbox, .folder = FOLDER_ID_INBOX};
	struct db_stats before, after;
	uint64_t ids[10];
	struct change c;

	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		ids[i] = fixture_deliver(f, mailbox, FOLDER_ID_INBOX, 1);
	for (int d = 0; d < 2; d++) {
		struct op put = {.what = OP_DEVICE, .mailbox = mailbox};
		snprintf(put.d.device_id, sizeof(put.d.device_id), "device%d", d);
		assert_int_equal(run(f, &put), DB_OK);
	}
	o.what = OP_DELETE;
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		o.item = ids[i];
		assert_int_equal(run(f, &o), DB_OK); /* changes 21..30 */
	}
	o.what = OP_COLLECTION;
	o.device = 1;
	o.c = (struct collection){
		.key = 2, .now = {.seq = 30}, .key_previous = 1, .previous = {.seq = 25}};
	assert_int_equal(run(f, &o), DB_OK);
	o.device = 2; /* primed, knows no item: holds nothing back */
	o.c = (struct collection){.key = 1};
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(db_stats(f->db, &before), DB_OK);
	o.what = OP_PRUNE;
	o.max = 3;
	assert_int_equal(run(f, &o), DB_OK);
	assert_int_equal(db_stats(f->db, &after), DB_OK);
	assert_int_equal(before.entries - after.entries, 6); /* two rows each */
	o.max = 100;
	assert_int_equal(run(f, &o), DB_OK);
	/* The lost answer may be asked for again: 26 is still there. */
	assert_int_equal(change_after(f, mailbox, FOLDER_ID_INBOX, 0, &c), DB_OK);
	assert_int_equal(c.seq, 26);
	assert_int_equal(folder_of(f, mailbox, FOLDER_ID_INBOX).changed_seq, 30);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup, fixture_teardown)
	const struct CMUnitTest tests[] = {
		TEST(random_operations),
		TEST(a_mailbox_asks_for_pruning_when_it_is_worth_it),
		TEST(a_lost_phone_costs_no_writes),
		TEST(pruning_waits_for_the_slowest_device),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("mailbox", tests, NULL, NULL);
}
