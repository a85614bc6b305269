/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A phone that keeps its own copy by Sync alone, while mail comes, goes and moves, answers get
 * lost, windows are small, filters and days change. When all is quiet, its copy is the store's
 * view. */
#include <time.h>

#include "tests/core/eas_fixture.h"

enum { FOLDERS = 4, ITEMS_MAX = 4096, PENDING_MAX = 12, STEPS = 500 };
static const uint32_t folder_ids[FOLDERS] = {1, 3, 4, 10};

struct copy {
	uint32_t key; /* 0: not primed */
	uint8_t filter;
	bool filter_sent, has[ITEMS_MAX], read[ITEMS_MAX];
	/* commands not yet answered; sent again with the same key */
	size_t pending_count;
	struct {
		bool remove, read;
		uint64_t item;
	} pending[PENDING_MAX];
};

struct phone {
	struct fixture *f;
	struct copy copies[FOLDERS];
	uint64_t random, seed;
	uint64_t items; /* highest id */
	struct buf log;
};

static uint32_t roll(struct phone *p, uint32_t below)
{
	p->random = p->random * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(p->random >> 33) % below;
}

#define bad(p, ...)                                                                                \
	do {                                                                                       \
		fprintf(stderr, "# seed %llu\n", (unsigned long long)(p)->seed);                   \
		fail_msg(__VA_ARGS__);                                                             \
	} while (0)

/* ---- The world ----------------------------------------------------------------------------- */

static bool where(struct phone *p, uint64_t item, uint32_t *folder, struct item *out)
{
	struct db_txn txn;

	assert_int_equal(db_read(p->f->db, &txn), DB_OK);
	int err = item_folder(&txn, p->f->account.mailbox, item, folder);
	if (err == DB_OK)
		err = item_get(&txn, p->f->account.mailbox, *folder, item, out);
	db_read_end(&txn);
	return err == DB_OK;
}

static void world_step(struct phone *p)
{
	struct fixture *f = p->f;
	uint64_t id = p->items ? 1 + roll(p, (uint32_t)p->items) : 0;
	uint32_t folder, to = folder_ids[roll(p, FOLDERS)];
	struct item item;
	bool found = id && where(p, id, &folder, &item);

	switch (roll(p, 10)) {
	case 0:
	case 1:
	case 2:
		if (p->items + 1 < ITEMS_MAX)
			p->items = deliver(f, to, (int)roll(p, 40), "m");
		break;
	case 3:
	case 4:
	case 5:
		if (found)
			set_read(f, folder, id, !item.read);
		break;
	case 6:
		if (found)
			erase(f, folder, id);
		break;
	case 7:
	case 8:
		if (found && folder != to)
			move(f, folder, to, id);
		break;
	default:
		if (roll(p, 10) == 0)
			f->now_ms += roll(p, 3 * 86400) * 1000ull;
	}
}

/* ---- The phone ----------------------------------------------------------------------------- */

static void user_step(struct phone *p)
{
	struct copy *c = &p->copies[roll(p, FOLDERS)];
	uint64_t id = p->items ? 1 + roll(p, (uint32_t)p->items) : 0;

	if (!id || !c->has[id] || c->key == 0 || c->pending_count == PENDING_MAX)
		return;
	c->pending[c->pending_count].item = id;
	c->pending[c->pending_count].remove = roll(p, 4) == 0;
	c->pending[c->pending_count].read = roll(p, 2);
	/* What the user did stays done on the phone. */
	if (c->pending[c->pending_count].remove)
		c->has[id] = false;
	else
		c->read[id] = c->pending[c->pending_count].read;
	c->pending_count++;
}

static void move_step(struct phone *p)
{
	unsigned from = roll(p, FOLDERS), to = roll(p, FOLDERS);
	uint64_t id = p->items ? 1 + roll(p, (uint32_t)p->items) : 0;

	/* The copy waits for the Delete and the Add; whether the answer came does not matter. */
	if (id && p->copies[from].has[id])
		run_printf(p->f, EAS_MOVE_ITEMS,
			"Move:MoveItems(Move(SrcMsgId'%u:%llu' SrcFldId'%u' DstFldId'%u'))",
			folder_ids[from], (unsigned long long)id, folder_ids[from], folder_ids[to]);
}

static void put_collection(struct phone *p, struct buf *out, unsigned i, bool quiet)
{
	struct copy *c = &p->copies[i];

	buf_printf(out, "Collection(SyncKey'%u' CollectionId'%u'", c->key, folder_ids[i]);
	if (c->key == 0) {
		buf_add_str(out, ")");
		return;
	}
	buf_printf(out, " DeletesAsMoves'%d'", c->pending_count && c->pending[0].item % 2);
	if (!quiet && roll(p, 10) == 0)
		buf_add_str(out, " GetChanges'0'");
	buf_printf(out, " WindowSize'%u'", quiet ? 50 : 1 + roll(p, 6));
	if (!c->filter_sent || (!quiet && roll(p, 10) == 0)) {
		if (!quiet)
			c->filter = (uint8_t)roll(p, 6);
		buf_printf(out, " Options(FilterType'%u' Conflict'%u')", c->filter, roll(p, 2));
		c->filter_sent = true;
	}
	if (c->pending_count) {
		buf_add_str(out, " Commands(");
		for (size_t k = 0; k < c->pending_count; k++) {
			unsigned long long id = c->pending[k].item;

			if (c->pending[k].remove)
				buf_printf(out, "Delete(ServerId'%u:%llu') ", folder_ids[i], id);
			else
				buf_printf(out,
					"Change(ServerId'%u:%llu' "
					"ApplicationData(Email:Read'%d')) ",
					folder_ids[i], id, c->pending[k].read);
		}
		buf_add_str(out, ")");
	}
	buf_add_str(out, ")");
}

static void apply_commands(
	struct phone *p, struct copy *c, uint32_t folder, const struct wbxml_node *commands)
{
	for (const struct wbxml_node *n = commands ? commands->first : NULL; n; n = n->next) {
		struct bytes read = wbxml_text(wbxml_child(n, AIRSYNC_ApplicationData), EMAIL_Read);
		uint32_t in;
		uint64_t id;

		assert_true(eas_item_id_parse(wbxml_text(n, AIRSYNC_ServerId), &in, &id));
		assert_int_equal(in, folder);
		assert_in_range(id, 1, p->items);
		switch (n->tag) {
		case AIRSYNC_Add:
			c->has[id] = true;
			c->read[id] = bytes_eq_str(read, "1");
			break;
		case AIRSYNC_Change:
			if (!c->has[id])
				bad(p, "Change for %u:%llu, which the phone does not have", in,
					(unsigned long long)id);
			c->read[id] = bytes_eq_str(read, "1");
			break;
		case AIRSYNC_Delete:
		case AIRSYNC_SoftDelete:
			c->has[id] = false;
			break;
		default:
			fail();
		}
	}
}

/* One Sync of the collections in `which`; true when more is there or something was said. */
static bool sync_step(struct phone *p, unsigned which, bool quiet)
{
	bool lost = !quiet && roll(p, 4) == 0, again = false;
	struct buf text = {0};

	buf_add_str(&text, "Sync(Collections(");
	for (unsigned i = 0; i < FOLDERS; i++)
		if (which & 1u << i)
			put_collection(p, &text, i, quiet);
	buf_add_str(&text, ")");
	if (!quiet && roll(p, 3) == 0)
		buf_printf(&text, " WindowSize'%u'", 1 + roll(p, 10));
	buf_add_str(&text, ")");
	buf_add_byte(&text, 0);
	run(p->f, EAS_SYNC, (const char *)text.p);
	buf_free(&text);
	if (lost)
		return true;
	for (unsigned i = 0; i < FOLDERS; i++)
		if (which & 1u << i)
			p->copies[i].pending_count = 0;
	if (!p->f->root)
		return false;
	const struct wbxml_node *list = wbxml_child(p->f->root, AIRSYNC_Collections);
	if (!list)
		bad(p, "%s", shown(p->f));
	for (const struct wbxml_node *n = list->first; n; n = n->next) {
		uint32_t folder = eas_folder_id(wbxml_text(n, AIRSYNC_CollectionId));
		struct copy *c = NULL;

		for (unsigned i = 0; i < FOLDERS; i++)
			if (folder_ids[i] == folder)
				c = &p->copies[i];
		if (!bytes_eq_str(wbxml_text(n, AIRSYNC_Status), "1"))
			bad(p, "%s", shown(p->f));
		assert_true(eas_key_parse(wbxml_text(n, AIRSYNC_SyncKey), &c->key));
		apply_commands(p, c, folder, wbxml_child(n, AIRSYNC_Commands));
		again = true;
	}
	return again;
}

static void start_over(struct phone *p, unsigned i)
{
	memset(&p->copies[i], 0, sizeof(p->copies[i]));
}

/* ---- The comparison ------------------------------------------------------------------------ */

static void compare(struct phone *p, unsigned i)
{
	struct copy *c = &p->copies[i];
	int64_t start = sync_filter_start(c->filter, p->f->now_ms);

	for (uint64_t id = 1; id <= p->items; id++) {
		struct item item;
		uint32_t folder;
		bool there = where(p, id, &folder, &item) && folder == folder_ids[i] &&
			     item.time_s >= start;

		if (there != c->has[id])
			bad(p, "item %u:%llu: %s", folder_ids[i], (unsigned long long)id,
				there ? "missing on the phone" : "still on the phone");
		if (there && item.read != c->read[id])
			bad(p, "item %u:%llu: read is %d on the phone", folder_ids[i],
				(unsigned long long)id, c->read[id]);
	}
	if (has_news(p->f, folder_ids[i]) != 0)
		bad(p, "folder %u has news for a phone that knows all", folder_ids[i]);
}

static void quiesce(struct phone *p)
{
	int rounds = 0;

	while (sync_step(p, (1u << FOLDERS) - 1, true))
		if (++rounds > 5000)
			bad(p, "Sync never comes to rest: %s", shown(p->f));
	for (unsigned i = 0; i < FOLDERS; i++)
		compare(p, i);
	/* At rest nothing is written. */
	uint64_t before = commits(p->f);
	assert_false(sync_step(p, (1u << FOLDERS) - 1, true));
	assert_int_equal(commits(p->f), before);
}

static void one_life(struct fixture *f, uint64_t seed)
{
	struct phone *p = calloc(1, sizeof(*p));

	*p = (struct phone){.f = f, .random = seed, .seed = seed};
	for (int i = 0; i < STEPS; i++) {
		switch (roll(p, 8)) {
		case 0:
		case 1:
		case 2:
			sync_step(p, 1 + roll(p, (1u << FOLDERS) - 1), false);
			break;
		case 3:
			user_step(p);
			break;
		case 4:
			if (roll(p, 3) == 0)
				move_step(p);
			else if (roll(p, 30) == 0)
				start_over(p, roll(p, FOLDERS));
			else if (roll(p, 20) == 0)
				quiesce(p);
			break;
		default:
			world_step(p);
		}
	}
	quiesce(p);
	free(p);
}

static void the_copy_is_the_view(void **state)
{
	const char *fixed = getenv("SEED"), *lives = getenv("LIVES");
	uint64_t seed = fixed ? strtoull(fixed, NULL, 10) : (uint64_t)time(NULL) * 1000;
	int n = fixed ? 1 : lives ? atoi(lives) : 25;

	(void)state;
	for (int i = 0; i < n; i++) {
		void *life = NULL;

		assert_int_equal(fixture_open(&life), 0);
		step(&(struct store_step){.f = life, .what = STEP_FOLDER, .text = "Own"});
		one_life(life, seed + (uint64_t)i);
		assert_int_equal(fixture_close(&life), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_copy_is_the_view)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
