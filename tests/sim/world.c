/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The mailboxes and who changes them, what the journal says happened, and a run as a whole. */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/eas/message.h"
#include "store/journal.h"
#include "store/writer.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct world world;

static const int64_t gauges[] = {M_CONNS, M_PARKED_PING, M_PARKED_SYNC};
static int64_t lost_conns, lost_requests; /* of runs before */

/* ---- what the journal says
 * -------------------------------------------------------------------------- */

struct box *world_box(uint32_t mailbox)
{
	for (unsigned i = mailbox ? mailbox - 1 : 0; i < world.box_count; i++)
		if (world.boxes[i].mailbox == mailbox)
			return &world.boxes[i];
	return NULL;
}

struct box_folder *box_folder(struct box *b, uint32_t id)
{
	for (size_t i = 0; i < b->folder_count; i++)
		if (b->folders[i].id == id)
			return &b->folders[i];
	return NULL;
}

static void two_newest(uint64_t seq[2], uint32_t origin[2], uint64_t new_seq, uint32_t new_origin)
{
	if (origin[0] != new_origin || seq[0] == 0) {
		seq[1] = seq[0];
		origin[1] = origin[0];
		origin[0] = new_origin;
	}
	seq[0] = new_seq;
}

static struct row *row_add(struct box_folder *f)
{
	if (f->n == f->cap) {
		f->cap = f->cap ? f->cap * 2 : 16;
		f->rows = realloc(f->rows, f->cap * sizeof(*f->rows));
		CHECK(f->rows);
	}
	return &f->rows[f->n++];
}

static void row_remove(struct box_folder *f, size_t i)
{
	memmove(&f->rows[i], &f->rows[i + 1], (f->n - i - 1) * sizeof(*f->rows));
	f->n--;
}

static void row_change(struct box_folder *f, const struct journal_row *r)
{
	struct row row = {.item = r->item,
		.add_seq = r->seq,
		.add_us = sim_now_us,
		.add_origin = r->origin,
		.live = true};

	if (r->kind != JOURNAL_ADD) {
		for (size_t i = f->n; i-- > 0;)
			if (f->rows[i].item == r->item && f->rows[i].live) {
				row = f->rows[i];
				row_remove(f, i);
				break;
			}
	}
	if (r->kind == JOURNAL_DELETE) {
		row.live = false;
		/* One tombstone an item: it knows when the item first came. */
		for (size_t i = f->n; i-- > 0;)
			if (f->rows[i].item == r->item) {
				row.add_seq = f->rows[i].add_seq;
				row_remove(f, i);
			}
	}
	row.seq = r->seq;
	row.us = sim_now_us;
	row.origin = r->origin;
	*row_add(f) = row;
}

static void hierarchy_change(struct box *b, const struct journal_row *r, struct db_txn *txn)
{
	struct box_folder *f = box_folder(b, r->folder);
	struct folder have;

	two_newest(b->hierarchy_seq, b->hierarchy_origin, r->seq, r->origin);
	b->hierarchy_us = sim_now_us;
	if (folder_get(txn, b->mailbox, r->folder, &have))
		return;
	if (!f) {
		b->folders = realloc(b->folders, (b->folder_count + 1) * sizeof(*b->folders));
		CHECK(b->folders);
		f = &b->folders[b->folder_count++];
		*f = (struct box_folder){.id = r->folder, .type = have.type};
	}
	f->deleted = have.deleted;
}

static void learn(const struct journal_row *r, struct db_txn *txn)
{
	struct box *b = world_box(r->mailbox);
	struct box_folder *f;
	struct account_gate gate;

	if (!b)
		return;
	f = r->folder ? box_folder(b, r->folder) : NULL;
	switch ((enum journal_kind)r->kind) {
	case JOURNAL_ADD:
	case JOURNAL_CHANGE:
	case JOURNAL_DELETE:
		CHECK(f);
		row_change(f, r);
		two_newest(f->last_seq, f->last_origin, r->seq, r->origin);
		break;
	case JOURNAL_TOUCH:
		CHECK(f);
		f->touch_us = sim_now_us;
		break;
	case JOURNAL_HIERARCHY:
		hierarchy_change(b, r, txn);
		break;
	case JOURNAL_ACCOUNT:
		b->access_us = sim_now_us;
		b->disabled = account_gate(txn, b->mailbox, &gate) == DB_OK && gate.disabled;
		break;
	case JOURNAL_DEVICE:
		for (struct phone *p = b->phones; p; p = p->box_next)
			if (p->device == r->device)
				p->access_us = sim_now_us;
		break;
	}
	sim_note(NULL, b, "journal: kind # folder # seq #", r->kind, r->folder, r->seq);
	oracle_change(b, r);
}

void world_look(void)
{
	struct journal_row rows[64];
	struct db_txn txn;
	int n;

	if (!world.db || atomic_load(&db_notify(world.db)->seq) <= world.journal_seen)
		return;
	CHECK(db_read(world.db, &txn) == DB_OK);
	while ((n = journal_read(&txn, world.journal_seen, rows, ARRAY_LEN(rows))) > 0) {
		for (int i = 0; i < n; i++)
			learn(&rows[i], &txn);
		world.journal_seen = rows[n - 1].seq;
	}
	CHECK(n == 0);
	db_read_end(&txn);
	world.commits++;
	net_look_at_commits();
}

/* Whatever the journal told is in the store, and nothing else. */
void world_items_check(void)
{
	struct db_txn txn;

	CHECK(db_read(world.db, &txn) == DB_OK);
	if (journal_head(&txn) != world.journal_seen)
		sim_fail(NULL, NULL, "the journal ends at %llu, not at %llu",
			(unsigned long long)journal_head(&txn),
			(unsigned long long)world.journal_seen);
	for (unsigned i = 0; i < world.box_count; i++) {
		struct box *b = &world.boxes[i];

		for (size_t k = 0; k < b->folder_count; k++) {
			struct box_folder *f = &b->folders[k];
			struct folder have;
			uint64_t live = 0;

			if (f->deleted)
				continue;
			for (size_t r = 0; r < f->n; r++) {
				struct item item;

				if (!f->rows[r].live)
					continue;
				live++;
				if (item_get(&txn, b->mailbox, f->id, f->rows[r].item, &item))
					sim_fail(NULL, b, "item %llu of folder %u is lost",
						(unsigned long long)f->rows[r].item, f->id);
				KEPT(DURABLE);
			}
			if (folder_get(&txn, b->mailbox, f->id, &have) || have.items != live)
				sim_fail(NULL, b, "folder %u holds %llu items, not %llu", f->id,
					(unsigned long long)have.items, (unsigned long long)live);
		}
	}
	db_read_end(&txn);
}

/* ---- who changes things
 * --------------------------------------------------------------------------- */

static struct buf summaries[3], messages[3];

static void make_messages(void)
{
	static const char *const texts[] = {
		"short", "rather longer than the others, with words", "third"};

	message_init();
	for (unsigned i = 0; i < 3; i++) {
		struct message_summary s;
		struct arena a;

		arena_init(&a, 1 << 20);
		buf_printf(&messages[i],
			"From: a%u@example.org\r\nTo: b@example.org\r\nSubject: subject %u\r\n"
			"Message-ID: <%u@example.org>\r\n\r\n%s\r\n",
			i, i, i, texts[i]);
		message_summarize(buf_bytes(&messages[i]), &a, &s);
		message_summary_encode(&s, &summaries[i]);
		CHECK(!summaries[i].failed && !messages[i].failed);
		arena_free(&a);
	}
}

struct bytes world_summary(unsigned i)
{
	return buf_bytes(&summaries[i % 3]);
}

struct bytes world_message(unsigned i)
{
	return buf_bytes(&messages[i % 3]);
}

bool world_write(db_write_fn *fn, void *arg)
{
	int err = writer_write(world.writer, fn, arg);

	if (err && err != DB_NOT_FOUND && err != DB_EXISTS && err != DB_INVALID)
		sim_fail(NULL, NULL, "a write failed: %s", db_strerror(err));
	world_look();
	return err == DB_OK;
}

enum deed {
	DEED_DELIVER,
	DEED_TOUCH,
	DEED_FLAG,
	DEED_CONTENT,
	DEED_DELETE,
	DEED_MOVE,
	DEED_MAKE_FOLDER,
	DEED_RENAME_FOLDER,
	DEED_DROP_FOLDER,
	DEED_DISABLE,
	DEED_ENABLE,
	DEED_TOUCH_DEVICE,
	DEED_BLOCK,
	DEED_REMOVE_DEVICE
};

struct deed_args {
	enum deed deed;
	struct box *box;
	struct box_folder *folder, *to;
	uint32_t origin, device;
	uint64_t item;
	unsigned count;
	int64_t age_s;
};

static int do_deed(struct db_txn *txn, void *arg)
{
	const struct deed_args *d = arg;
	uint32_t mailbox = d->box->mailbox, id;
	char name[32];
	struct item item;
	struct device dev;
	int err = DB_OK;

	snprintf(name, sizeof(name), "f%llu", (unsigned long long)d->item);
	switch (d->deed) {
	case DEED_DELIVER:
		for (unsigned i = 0; i < d->count && err == DB_OK; i++) {
			struct item_new n = {.item_class = ITEM_EMAIL,
				.time_s = world_wall_ms() / 1000 - d->age_s,
				.summary = world_summary(i),
				.body = world_message(i)};
			uint64_t new_id;

			err = item_add(txn, mailbox, d->folder->id, &n, 0, &new_id);
		}
		return err;
	case DEED_TOUCH:
		return folder_touch(txn, mailbox, d->folder->id);
	case DEED_FLAG:
		err = item_get(txn, mailbox, d->folder->id, d->item, &item);
		return err ? err
			   : item_set_state(txn, mailbox, d->folder->id, d->item, !item.read,
				     bytes_of(NULL, 0), d->origin);
	case DEED_CONTENT: {
		struct item_new n = {.item_class = ITEM_EMAIL,
			.time_s = world_wall_ms() / 1000,
			.summary = world_summary(1),
			.body = world_message(1)};

		return item_set_content(txn, mailbox, d->folder->id, d->item, &n, d->origin);
	}
	case DEED_DELETE:
		return item_delete(txn, mailbox, d->folder->id, d->item, d->origin);
	case DEED_MOVE:
		return item_move(txn, mailbox, d->folder->id, d->to->id, d->item, d->origin);
	case DEED_MAKE_FOLDER:
		return folder_create(
			txn, mailbox, 0, FOLDER_USER_MAIL, bytes_str(name), d->origin, &id);
	case DEED_RENAME_FOLDER:
		return folder_update(txn, mailbox, d->folder->id, 0, bytes_str(name), d->origin);
	case DEED_DROP_FOLDER:
		return folder_delete(txn, mailbox, d->folder->id, d->origin);
	case DEED_DISABLE:
	case DEED_ENABLE:
		return account_set_disabled(
			txn, bytes_str(d->box->address), d->deed == DEED_DISABLE);
	case DEED_TOUCH_DEVICE:
		return device_touch(txn, mailbox, d->device);
	case DEED_BLOCK:
		err = device_get(txn, mailbox, d->device, &dev);
		if (err)
			return err;
		dev.blocked = !dev.blocked;
		err = device_put(txn, mailbox, &dev);
		return err ? err : device_touch(txn, mailbox, d->device);
	case DEED_REMOVE_DEVICE:
		return device_delete(txn, mailbox, d->device);
	}
	return DB_INVALID;
}

static struct phone *some_phone(struct box *b)
{
	struct phone *p = b->phones;

	for (unsigned n = sim_below(6); p && n; n--)
		p = p->box_next ? p->box_next : b->phones;
	return p;
}

static struct box_folder *some_folder(struct box *b, bool users_own)
{
	for (int tries = 0; tries < 10; tries++) {
		struct box_folder *f = &b->folders[sim_below((uint32_t)b->folder_count)];

		if (sim_permille(500) && !users_own)
			f = &b->folders[0];
		if (!f->deleted &&
			(f->type == FOLDER_INBOX || f->type == FOLDER_USER_MAIL ||
				(!users_own &&
					(f->type == FOLDER_TRASH || f->type == FOLDER_SENT))) &&
			(!users_own || f->type == FOLDER_USER_MAIL))
			return f;
	}
	return NULL;
}

static void act(void)
{
	/* In per mille; the rest is delivery. */
	static const struct {
		enum deed deed;
		unsigned share;
	} shares[] = {
		{DEED_TOUCH, 40},
		{DEED_FLAG, 130},
		{DEED_CONTENT, 20},
		{DEED_DELETE, 70},
		{DEED_MOVE, 60},
		{DEED_MAKE_FOLDER, 6},
		{DEED_RENAME_FOLDER, 4},
		{DEED_DROP_FOLDER, 4},
		{DEED_DISABLE, 3},
		{DEED_ENABLE, 12},
		{DEED_TOUCH_DEVICE, 3},
		{DEED_BLOCK, 3},
		{DEED_REMOVE_DEVICE, 3},
	};
	struct deed_args d = {.deed = DEED_DELIVER,
		.box = &world.boxes[sim_below(world.box_count)],
		.count = sim_permille(50) ? 1 + sim_below(20) : 1,
		.age_s = sim_permille(100) ? sim_below(5 * 86400) : 0};
	unsigned dice = sim_below(1000);
	struct phone *p = some_phone(d.box);

	for (size_t i = 0; i < ARRAY_LEN(shares); i++) {
		if (dice < shares[i].share) {
			d.deed = shares[i].deed;
			break;
		}
		dice -= shares[i].share;
	}
	if (!p)
		return;
	d.folder = some_folder(d.box, d.deed == DEED_RENAME_FOLDER || d.deed == DEED_DROP_FOLDER);
	if (!d.folder)
		return;
	d.device = p->device;
	switch (d.deed) {
	case DEED_FLAG:
	case DEED_CONTENT:
	case DEED_DELETE:
	case DEED_MOVE:
		if (d.folder->n == 0)
			return;
		{
			size_t back = d.folder->n < 12 ? d.folder->n : 12;
			const struct row *r =
				&d.folder->rows[d.folder->n - 1 - sim_below((uint32_t)back)];

			if (!r->live)
				return;
			d.item = r->item;
		}
		d.to = some_folder(d.box, false);
		if (d.deed == DEED_MOVE && (!d.to || d.to == d.folder))
			return;
		break;
	case DEED_MAKE_FOLDER:
	case DEED_RENAME_FOLDER:
		d.item = sim_random();
		break;
	case DEED_ENABLE:
		if (!d.box->disabled)
			return;
		break;
	case DEED_TOUCH_DEVICE:
	case DEED_BLOCK:
	case DEED_REMOVE_DEVICE:
		if (!d.device)
			return;
		if (d.deed == DEED_REMOVE_DEVICE) {
			p->removed_us = sim_now_us;
			p->cache_known = p->keys_known = false;
			p->cache_touched++;
		}
		break;
	default:
		break;
	}
	world_write(do_deed, &d);
}

static void actor(void *arg, uint64_t unused)
{
	uint64_t mean = 25 * SECOND / world.box_count;
	(void)arg, (void)unused;

	if (sim_now_us >= world.end_us)
		return;
	if (world.db)
		act();
	/* Bursts and pauses: half of the changes follow the one before within milliseconds. */
	sim_at(sim_now_us + (sim_permille(500) ? sim_between(0, mean / 8 + 1)
					       : sim_between(0, 4 * mean)),
		actor, NULL, 0);
}

static void policy_changes(void *arg, uint64_t unused)
{
	(void)arg, (void)unused;
	if (!world.up || atomic_load(&world.server->draining))
		return;
	if (life_upgrades()) {
		sim_at(sim_now_us + SECOND, policy_changes, NULL, 0);
		return;
	}
	sim_note(NULL, NULL, "server: policy changed", 0, 0, 0);
	world.policy_us = sim_now_us;
	for (unsigned i = 0; i < world.shards; i++)
		shard_policy_changed(world.server->shards[i]);
	oracle_everybody("policy", 0);
}

enum { STORM_OVER_US = 400 * SECOND, STORMS_MAX = 4 };

static struct storm {
	uint64_t began_us, lost_us;
} storms[STORMS_MAX];

/* Time since then in which TLS handshakes could be done: places that were taken by phones which had
 * gone, each until tls.handshake_timeout_s, served nobody. */
static int64_t useful_us(const struct storm *s)
{
	uint64_t places = world.shards * (uint64_t)world.config->tls_handshakes_max;

	return (int64_t)(sim_now_us - s->began_us) -
	       (int64_t)((world.handshakes_lost_us - s->lost_us) / places);
}

static void storm_over(void *arg, uint64_t unused)
{
	const struct storm *s = arg;

	(void)unused;
	if (useful_us(s) < STORM_OVER_US / 2)
		sim_at(sim_now_us + 20 * SECOND, storm_over, arg, 0);
	else
		oracle_after_storm(s->began_us);
}

/* Nearly all phones lose their connections at once. */
static void storm(void *arg, uint64_t unused)
{
	unsigned stay = sim_below(300);

	(void)arg, (void)unused;
	if (!world.up)
		return;
	CHECK(world.storms < STORMS_MAX);
	storms[world.storms] = (struct storm){sim_now_us, world.handshakes_lost_us};
	sim_note(NULL, NULL, "storm: all but # in a thousand drop", stay, 0, 0);
	for (unsigned i = 0; i < world.phone_count; i++)
		if (!sim_permille(stay))
			phone_drops(&world.phones[i]);
	sim_at(sim_now_us + STORM_OVER_US, storm_over, &storms[world.storms++], 0);
}

/* ---- a run
 * -------------------------------------------------------------------------------------------- */

static int make_boxes(struct db_txn *txn, void *arg)
{
	int err = DB_OK;

	(void)arg;
	for (unsigned i = 0; i < world.box_count && err == DB_OK; i++) {
		struct box *b = &world.boxes[i];
		struct account a;

		err = account_create(
			txn, bytes_str(b->address), "", "", (uint64_t)world_wall_ms(), &a);
		b->mailbox = a.mailbox;
	}
	return err;
}

static void set(const char *fmt, long long v)
{
	char text[80], why[256];

	snprintf(text, sizeof(text), fmt, v);
	if (!config_set(world.config, text, why, sizeof(why)))
		sim_fail(NULL, NULL, "%s", why);
}

void world_make(uint64_t seed, const struct sim_options *o)
{
	const char *tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	struct db_txn txn;

	if (!messages[0].n)
		make_messages();
	log_set_level(LOG_ERROR);
	memset(&world, 0, sizeof(world));
	world.seed = seed;
	sim_seed(seed);
	sim_now_us = sim_between(1000 * SECOND, 2000ull * SECOND);
	world.end_us = sim_now_us + (uint64_t)o->minutes * 60 * SECOND;
	world.shards = 2 + sim_below(3);
	world.phone_count = o->devices;
	world.minutes = o->minutes;
	world.box_count = o->devices / 3 + 1;
	world.boxes = calloc(world.box_count, sizeof(*world.boxes));
	world.phones = calloc(world.phone_count, sizeof(*world.phones));
	world.config = config_new();
	CHECK(world.boxes && world.phones && world.config);
	set("policy.require=%lld", 0);
	set("log.requests=%lld", 0);
	world.low_limits = sim_permille(400);
	set("core.connections_max=%lld",
		(long long)(o->devices * (world.low_limits ? 2 + sim_below(4) : 8) + 64));
	/* Few phones share a second here: with one a second, many are moved. */
	if (sim_permille(400))
		set("push.expiries_per_second_max=%lld", (long long)sim_between(1, 2));
	set("push.coalesce_ms=%lld", sim_permille(300) ? 0 : (long long)sim_between(100, 4000));
	world.tls = sim_permille(500);
	if (world.low_limits) {
		set("tls.handshakes_max=%lld", (long long)sim_between(1, 6));
		set("core.work_queue_max=%lld", (long long)sim_between(2, 12));
		set("core.retry_after_s=%lld", (long long)sim_between(2, 30));
		world.hashing_max = 1 + sim_below(6);
	}
	if (world.low_limits || sim_permille(100)) {
		set("core.requests_in_flight_max=%lld", 16);
		world.start_slack_us = 60ull * SECOND;
	}
	snprintf(world.dir, sizeof(world.dir), "%s/roost-sim-XXXXXX", tmp);
	if (!mkdtemp(world.dir)) {
		perror(world.dir);
		exit(1);
	}
	life_open_store();
	for (unsigned i = 0; i < world.box_count; i++) {
		world.boxes[i].index = i;
		snprintf(world.boxes[i].address, sizeof(world.boxes[i].address),
			"user%u@example.org", i);
	}
	CHECK(writer_write(world.writer, make_boxes, NULL) == DB_OK);
	/* The standard folders have no rows in the journal to be learnt from. */
	CHECK(db_read(world.db, &txn) == DB_OK);
	for (unsigned i = 0; i < world.box_count; i++) {
		struct box *b = &world.boxes[i];
		struct folder f;
		uint32_t id = 0;

		while (folder_next(&txn, b->mailbox, &id, &f) == DB_OK) {
			b->folders =
				realloc(b->folders, (b->folder_count + 1) * sizeof(*b->folders));
			CHECK(b->folders);
			b->folders[b->folder_count++] =
				(struct box_folder){.id = f.id, .type = f.type};
		}
	}
	world.journal_seen = journal_head(&txn);
	db_read_end(&txn);
	oracle_begin();
	for (unsigned i = 0; i < world.phone_count; i++)
		/* A few mailboxes have very many phones. */
		phone_make(&world.phones[i], i,
			&world.boxes[sim_permille(150) ? sim_below(2) % world.box_count
						       : sim_below(world.box_count)]);
}

void world_live(void)
{
	uint64_t span = world.end_us - sim_now_us;

	world.sync_built = strncmp(eas_commands(), "Sync,", 5) == 0 ||
			   strstr(eas_commands(), ",Sync,") != NULL;
	for (unsigned i = 0; i < world.phone_count; i++)
		phone_begin(&world.phones[i]);
	sim_at(sim_now_us, actor, NULL, 0);
	for (unsigned n = sim_below(3); n; n--)
		sim_at(sim_now_us + sim_between(span / 10, span), life_blow, NULL, 0);
	for (unsigned n = sim_below(3); n; n--)
		sim_at(sim_now_us + sim_between(span / 10, span), life_blow, NULL, 1);
	for (unsigned n = sim_below(3); n; n--)
		sim_at(sim_now_us + sim_between(span / 10, span), policy_changes, NULL, 0);
	for (unsigned n = sim_below(6); n; n--)
		sim_at(sim_now_us + sim_between(span / 10, span), life_upgrade, NULL, 0);
	for (unsigned n = sim_below(4); n; n--)
		sim_at(sim_now_us + sim_between(span / 10, span), life_stretch, NULL, 0);
	for (unsigned n = world.low_limits ? 1 + sim_below(2) : sim_permille(300); n; n--)
		sim_at(sim_now_us + sim_between(span / 10, span), storm, NULL, 0);
}

/* What began has ended, as the counters tell it. */
static void accounts_check(void)
{
	static const enum metric_id begun[] = {M_CONNS_ACCEPTED, M_CONNS_ADOPTED},
				    closed[] = {M_CONNS_CLOSED_SERVER, M_CONNS_CLOSED_PEER,
					    M_CONNS_CLOSED_LOST, M_CONNS_CLOSED_MOVED},
				    parked[] = {M_PARKED_PING_TOTAL, M_PARKED_SYNC_TOTAL},
				    woken[] = {M_WAKE_CHANGE, M_WAKE_EXPIRED, M_WAKE_HIERARCHY,
					    M_WAKE_SUPERSEDED, M_WAKE_ACCESS, M_WAKE_DRAIN,
					    M_WAKE_HANGUP};
	int64_t conns = 0, requests = 0;

	for (size_t i = 0; i < ARRAY_LEN(begun); i++)
		conns += metrics_sum(begun[i]);
	for (size_t i = 0; i < ARRAY_LEN(closed); i++)
		conns -= metrics_sum(closed[i]);
	for (size_t i = 0; i < ARRAY_LEN(parked); i++)
		requests += metrics_sum(parked[i]);
	for (size_t i = 0; i < ARRAY_LEN(woken); i++)
		requests -= metrics_sum(woken[i]);
	/* (metrics are of all runs so far; so are these) */
	lost_conns += (int64_t)world.lost_conns;
	lost_requests += (int64_t)(world.lost_parked + world.given_parked);
	if (conns != lost_conns || requests != lost_requests)
		sim_fail(NULL, NULL,
			"LEAK: %lld connections and %lld requests began without an end, not %lld, "
			"%lld",
			(long long)conns, (long long)requests, (long long)lost_conns,
			(long long)lost_requests);
	world.lost_conns = world.lost_parked = world.given_parked = 0;
}

void world_rest(void)
{
	uint64_t until;

	for (unsigned i = 0; i < world.phone_count; i++)
		phone_go_home(&world.phones[i]);
	/* Vanished phones are only noticed when their heartbeat is over and the answer stays. */
	until = sim_now_us + (4000 + 400) * (uint64_t)SECOND;
	while (sim_step(until))
		world_look();
	if (!world.up)
		sim_fail(NULL, NULL, "the server did not come up again");
	for (unsigned i = 0; i < world.shards; i++)
		oracle_shard(world.server->shards[i], true);
	for (size_t i = 0; i < ARRAY_LEN(gauges); i++)
		if (metrics_sum((enum metric_id)gauges[i]) != 0)
			sim_fail(NULL, NULL, "gauge %zu is off by %lld", i,
				(long long)metrics_sum((enum metric_id)gauges[i]));
	world_items_check();
	accounts_check();
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

void world_remove_store(void)
{
	nftw(world.dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void world_free(void)
{
	life_tear_down();
	sim_clear();
	requests_free();
	wires_free();
	for (unsigned i = 0; i < world.box_count; i++) {
		for (size_t k = 0; k < world.boxes[i].folder_count; k++)
			free(world.boxes[i].folders[k].rows);
		free(world.boxes[i].folders);
	}
	free(world.boxes);
	free(world.phones);
	config_free(&world.config);
	world_remove_store();
}
