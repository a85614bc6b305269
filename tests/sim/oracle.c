/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What must hold. Judged at the server's end of each connection, when a request has arrived and
 * when its answer is handed to the loop, so that no delay of the network blurs it. What a device
 * knows is read from the store; what happened, from the journal; what must follow, is reckoned
 * here. */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/eas/wbxml.h"
#include "store/journal.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t promises_kept[PROMISE_COUNT];

/* Why a request has to end, and what the bound is counted from. */
enum cause {
	CAUSE_ADDED,   /* news that wake at once */
	CAUSE_CHANGED, /* news that wait for their delay */
	CAUSE_TOUCHED,
	CAUSE_HIERARCHY,
	CAUSE_ACCESS,
	CAUSE_SUPERSEDED,
	CAUSE_EVERYBODY, /* drain, policy */
	CAUSE_HEARTBEAT,
};

enum {
	TURN_MAX_US = 60 * MS,
	/* A request that is parked ends this soon after a commit, a message or a deadline. */
	WAKE_US = NOTIFY_MAX_US + POST_MAX_US + TURN_MAX_US,
	/* From the last byte of a request to its park or answer: read, identify, decide. */
	START_US = READ_MAX_US + CRED_MAX_US + POST_MAX_US + 4 * TURN_MAX_US,
	COMMAND_US = WORK_MAX_US + POST_MAX_US + TURN_MAX_US,
	WHEEL_US = 1000 * MS + TURN_MAX_US, /* deadlines are rounded up to a second */
	HEARTBEAT_SLACK_US = 2000 * MS,
	STRAY_US = 900 * SECOND,
	REFUSED_MAX_US = 900 * SECOND,
	STORM_OVER_MAX_US = 400 * SECOND,
	TIE_US = 2000 * MS, /* requests that arrive so close together have no order */
};

/* Requests that have arrived and neither hang nor are over. */
static struct request **busy;
static size_t busy_n, busy_cap;

void oracle_begin(void)
{
	busy_n = 0;
}

/* ---- what a device could know, and what is news
 * ---------------------------------------------------- */

static bool position(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder,
	uint64_t *pos_out, bool *filled_out)
{
	struct collection c;

	if (collection_get(txn, mailbox, device, folder, &c) || c.key == 0)
		return false;
	*pos_out = c.now.seq;
	/* Until the older items are filled in, what happens to them is no news. */
	*filled_out = c.now.floor_time_s == INT64_MIN;
	return true;
}

bool oracle_position(
	struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder, uint64_t *pos_out)
{
	bool filled;

	return position(txn, mailbox, device, folder, pos_out, &filled);
}

static bool row_is_news(const struct row *r, uint32_t device, uint64_t pos, bool filled)
{
	return r->seq > pos && r->origin != device && (r->live || r->add_seq <= pos) &&
	       (filled || r->add_seq > pos);
}

static bool any_news(
	const struct box *b, uint32_t device, uint32_t folder, uint64_t pos, bool filled)
{
	const struct box_folder *f = box_folder((struct box *)b, folder);

	for (size_t i = f ? f->n : 0; i-- > 0 && f->rows[i].seq > pos;)
		if (row_is_news(&f->rows[i], device, pos, filled))
			return true;
	return false;
}

/* Is there news of the kind that was there before `cut_us`? Sets *first_us to the oldest such. */
static bool old_news(
	struct request *r, bool added, uint64_t cut_us, uint32_t *folder_out, uint64_t *first_us)
{
	struct box *b = r->phone->box;
	struct db_txn txn;
	uint32_t device;
	bool found = false;

	*first_us = UINT64_MAX;
	CHECK(db_read(world.db, &txn) == DB_OK);
	device = phone_device(r->phone, &txn);
	for (unsigned i = 0; i < r->folder_count && device; i++) {
		struct box_folder *f = box_folder(b, r->folders[i]);
		uint64_t pos;
		bool filled;

		if (!f || f->deleted)
			continue;
		if (!position(&txn, b->mailbox, device, f->id, &pos, &filled)) {
			/* Never synced: told at once. */
			if (added && r->turn_us < *first_us) {
				*first_us = r->turn_us;
				*folder_out = f->id;
			}
			continue;
		}
		for (size_t k = f->n; k-- > 0 && f->rows[k].seq > pos;) {
			const struct row *row = &f->rows[k];
			bool is_add = row->live && row->add_seq > pos && row->add_origin != device;
			uint64_t us = is_add && row->add_seq == row->seq ? row->add_us : row->us;

			if (!row_is_news(row, device, pos, filled) || is_add != added ||
				us >= *first_us)
				continue;
			*first_us = us;
			*folder_out = f->id;
		}
	}
	db_read_end(&txn);
	found = *first_us <= cut_us;
	return found;
}

/* ---- bounds
 * -------------------------------------------------------------------------------------------- */

/* What would have been done at `us`, or a little later, in a time in which nothing was done. */
static uint64_t after(const struct span *s, uint64_t us, uint64_t later_us)
{
	if (!s->from_us || us + later_us < s->from_us || us >= s->until_us)
		return us;
	return s->until_us == UINT64_MAX ? sim_now_us + SECOND : s->until_us;
}

static uint64_t begun_us(const struct request *r)
{
	/* It is looked at when it is there and the answer before it is out. */
	uint64_t us = r->turn_us > r->wire->sent_us ? r->turn_us : r->wire->sent_us;

	return after(&world.held, us, START_US + world.start_slack_us);
}

/* The latest time at which the request may still be unanswered. */
static uint64_t limit_us(const struct request *r, enum cause cause)
{
	uint64_t from = r->cause_us[cause], limit, delay = 0;
	uint64_t start = begun_us(r) + START_US + world.start_slack_us;

	if (cause == CAUSE_HEARTBEAT)
		return after(&world.frozen, r->parked_us + r->heartbeat_s * (uint64_t)SECOND,
			       HEARTBEAT_SLACK_US) +
		       HEARTBEAT_SLACK_US - 1000 * MS + (r->kind == ASK_SYNC ? COMMAND_US : 0);
	if (cause == CAUSE_CHANGED)
		delay = (uint64_t)world.config->push_coalesce_ms * MS + WHEEL_US;
	/* (an upgrade begins the delay anew) */
	from = after(&world.frozen, from, delay + WAKE_US);
	limit = from + delay + WAKE_US;
	if (cause == CAUSE_EVERYBODY)
		limit += r->end_more_us ? r->end_more_us + WHEEL_US : 0;
	if (!r->parked_us || r->parked_us > from)
		limit = (start > from ? start : from) + delay + WAKE_US;
	/* It runs again on a worker, which takes memory, and a place in the queue. */
	if (r->kind == ASK_SYNC)
		limit = after(&world.no_memory, limit, 0) + 2 * (uint64_t)COMMAND_US;
	return limit;
}

static const char *const cause_words[] = {
	[CAUSE_ADDED] = "a new item",
	[CAUSE_CHANGED] = "a change",
	[CAUSE_TOUCHED] = "a touch",
	[CAUSE_HIERARCHY] = "a folder change",
	[CAUSE_ACCESS] = "a change of access",
	[CAUSE_SUPERSEDED] = "a newer request",
	[CAUSE_EVERYBODY] = "drain or policy",
	[CAUSE_HEARTBEAT] = "the heartbeat",
};

static void due(void *arg, uint64_t cause);

static void must_end(struct request *r, enum cause cause)
{
	if (r->over || r->cause_us[cause])
		return;
	r->cause_us[cause] = sim_now_us;
	sim_at(limit_us(r, cause) + 1, due, r, cause);
}

/* Shortly before that time? */
static bool touched(const struct request *r, uint64_t us)
{
	for (unsigned i = 0; i < r->folder_count; i++) {
		const struct box_folder *f = box_folder(r->phone->box, r->folders[i]);

		if (f && f->touch_us && f->touch_us <= us + WAKE_US &&
			f->touch_us + WAKE_US + COMMAND_US >= us)
			return true;
	}
	return false;
}

static void due(void *arg, uint64_t n)
{
	struct request *r = arg;
	enum cause cause = (enum cause)n;
	uint32_t folder = 0;
	uint64_t first;

	if (r->over || !r->cause_us[cause])
		return;
	if (r->wire->stuck || r->wire->sending || r->wire->first != r) {
		/* Behind another answer. */
		sim_at(sim_now_us + SECOND, due, r, cause);
		return;
	}
	if (sim_now_us <= limit_us(r, cause)) {
		sim_at(limit_us(r, cause) + 1, due, r, cause);
		return;
	}
	/* A Sync that ran again at that moment because of a touch has looked at everything since. */
	if (cause == CAUSE_EVERYBODY && r->kind == ASK_SYNC && touched(r, r->cause_us[cause]))
		return;
	if (cause == CAUSE_ADDED || cause == CAUSE_CHANGED) {
		/* A late Sync with an old key has made old what this one was compared with. */
		if (r->phone->stray_us >= r->turn_us)
			return;
		/* It may be news no more, or other news have come meanwhile. */
		old_news(r, cause == CAUSE_ADDED, 0, &folder, &first);
		if (first == UINT64_MAX) {
			r->cause_us[cause] = 0;
			return;
		}
		if (first > r->cause_us[cause]) {
			r->cause_us[cause] = first;
			due(r, cause);
			return;
		}
	}
	sim_fail(r->phone, NULL,
		"%s: request %llu (%s) is not answered; cause: %s since %.3f, folder %u; it came "
		"at "
		"%.3f, parked at %.3f; now %s",
		cause == CAUSE_SUPERSEDED  ? "NEWEST"
		: cause == CAUSE_HEARTBEAT ? "HEARTBEAT"
					   : "WAKE",
		(unsigned long long)r->number, r->kind == ASK_PING ? "Ping" : "Sync",
		cause_words[cause], (double)r->cause_us[cause] / SECOND, folder,
		(double)r->complete_us / SECOND, (double)r->parked_us / SECOND,
		r->wire->own.loop ? "it hangs" : "not even accepted");
}

/* ---- requests come
 * ---------------------------------------------------------------------------------------- */

static void never_hung(void *arg, uint64_t unused)
{
	struct request *r = arg;

	(void)unused;
	if (r->over || r->parked_us)
		return;
	if (r->wire->stuck || r->wire->sending || r->wire->first != r ||
		sim_now_us <= begun_us(r) + START_US + COMMAND_US + world.start_slack_us) {
		sim_at(sim_now_us + SECOND, never_hung, r, 0);
		return;
	}
	sim_fail(r->phone, NULL,
		"ONE: request %llu is neither answered nor hangs, %.3f s after it came",
		(unsigned long long)r->number, (double)(sim_now_us - r->turn_us) / SECOND);
}

void oracle_asked(struct request *r)
{
	r->params_known = !r->empty && !r->partial;
}

/* It is there, and the next on its connection: what it meets now is what it will be judged by. */
static void its_turn(struct request *r)
{
	struct phone *p = r->phone;
	struct box *b = p->box;
	struct device d;
	struct db_txn txn;

	r->turn_us = sim_now_us;
	sim_note(p, NULL, "request # is there", r->number, 0, 0);
	CHECK(db_read(world.db, &txn) == DB_OK);
	r->device = phone_device(p, &txn);
	p->device = r->device;
	if (r->device && device_get(&txn, b->mailbox, r->device, &d) == DB_OK)
		r->hierarchy_pos = d.hierarchy_seq;
	if (r->kind == ASK_PING) {
		if (r->empty || r->partial) {
			r->params_known = p->cache_known;
			r->folder_count = p->cache_count;
			memcpy(r->folders, p->cache_folders, sizeof(r->folders));
			if (r->empty && p->cache_known)
				r->heartbeat_s = p->cache_heartbeat_s;
		}
		if (!r->empty)
			p->cache_touched++;
		r->cache_stamp = p->cache_touched;
		/* Until it is seen what becomes of them, its parameters may be in force or not. */
		if (!r->empty)
			p->cache_known = false;
	} else if (r->kind == ASK_FOLDER_SYNC && r->asked_key == 0) {
		p->cache_touched++;
		p->cache_known = false;
	}
	for (unsigned i = 0; i < r->folder_count && r->device; i++)
		r->known[i] =
			oracle_position(&txn, b->mailbox, r->device, r->folders[i], &r->pos[i]);
	db_read_end(&txn);
	/* One that was given up and comes late moves keys, and what an empty request repeats. */
	if (r->kind == ASK_SYNC && p->waits_for != r) {
		p->sync_dark_us = sim_now_us + STRAY_US;
		p->stray_us = sim_now_us;
	}
	if (busy_n == busy_cap) {
		busy_cap = busy_cap ? busy_cap * 2 : 256;
		busy = realloc(busy, busy_cap * sizeof(struct request *));
		CHECK(busy);
	}
	busy[busy_n++] = r;
	sim_at(sim_now_us + START_US + COMMAND_US, never_hung, r, 0);
	if (r->hangs && r->device && r->params_known && !r->expect)
		must_end(r, CAUSE_ADDED);
	if (r->hangs && b->disabled)
		must_end(r, CAUSE_ACCESS);
}

void oracle_arrived(struct wire *w)
{
	for (struct request *r = w->first; r; r = r->wire_next)
		if (!r->complete_us && w->arrived >= r->end_offset) {
			r->complete_us = sim_now_us;
			if (w->first == r)
				its_turn(r);
		}
}

static void is_over(struct request *r)
{
	struct request **q;

	r->over = true;
	if (r->kind == ASK_FOLDER_SYNC && r->turn_us && !r->answered_us) {
		r->phone->keys_known = r->phone->cache_known = false;
		r->phone->keys_dark_us = sim_now_us + START_US + COMMAND_US + world.start_slack_us;
	}
	if (r->kind == ASK_FOLDER_SYNC && r->turn_us && !r->answered_us && r->asked_key == 0)
		r->phone->reset_us = r->phone->keys_dark_us;
	if (r->kind == ASK_PING && r->turn_us && !r->answered_us && !r->parked_us && !r->empty) {
		r->phone->cache_known = false;
		r->phone->cache_dark_us =
			after(&world.held, sim_now_us, 0) + START_US + world.start_slack_us;
	}
	if (r->kind == ASK_SYNC && r->turn_us && !r->answered_us)
		r->phone->sync_dark_us = sim_now_us + STRAY_US;
	for (q = &r->phone->open; *q && *q != r; q = &(*q)->phone_next)
		;
	if (*q)
		*q = r->phone_next;
	for (size_t i = 0; i < busy_n; i++)
		if (busy[i] == r) {
			busy[i] = busy[--busy_n];
			break;
		}
}

static void all_over(struct wire *w)
{
	struct request *r;

	while ((r = w->first)) {
		w->first = r->wire_next;
		is_over(r);
	}
	w->last = NULL;
}

void oracle_closed_by_client(struct wire *w)
{
	all_over(w);
}

static bool draining(const struct wire *w)
{
	struct server *all[] = {world.server, world.old};

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		for (unsigned k = 0; all[i] && k < all[i]->shard_count; k++)
			if (all[i]->shards[k] && all[i]->shards[k]->loop == w->own.loop)
				return all[i]->shards[k]->draining;
	return false;
}

void oracle_closed_by_server(struct wire *w)
{
	struct request *r = w->first;

	/* Closing an idle connection crosses with a request: that is HTTP. Anything else is an
	 * answer that never comes. */
	if (r && r->complete_us && w->read > r->begin_offset && !w->close_announced &&
		!w->vanished && !draining(w) &&
		/* Where memory is short, what is pipelined behind a hanging request is not kept. */
		!(world.start_slack_us && w->read > r->end_offset))
		sim_fail(w->phone, NULL,
			"ONE: the server closes wire %llu while request %llu waits for its answer",
			(unsigned long long)w->number, (unsigned long long)r->number);
	all_over(w);
}

void oracle_crashed(void)
{
	for (unsigned i = 0; i < world.phone_count; i++)
		while (world.phones[i].open) {
			struct request *r = world.phones[i].open;

			r->wire->first = r->wire->last = NULL;
			is_over(r);
		}
	CHECK(busy_n == 0);
}

/* ---- requests hang
 * ------------------------------------------------------------------------------------------ */

/* The server goes by these parameters from now on. */
static void accepted(struct request *r)
{
	struct phone *p = r->phone;

	if (r->accepted || r->kind != ASK_PING)
		return;
	r->accepted = true;
	if (r->cache_stamp != p->cache_touched || !r->params_known ||
		sim_now_us <= p->keys_dark_us || sim_now_us <= p->cache_dark_us)
		return;
	if (!r->empty) {
		p->cache_known = true;
		p->cache_heartbeat_s = r->heartbeat_s;
		p->cache_count = r->folder_count;
		memcpy(p->cache_folders, r->folders, sizeof(p->cache_folders));
	}
}

/* By the process that finishes after an upgrade? */
static bool served_by_old(const struct request *r)
{
	const struct loop *l = r->wire->own.loop;

	for (unsigned i = 0; world.old && l && i < world.old->shard_count; i++)
		if (world.old->shards[i]->loop == l)
			return true;
	return false;
}

/* Older hanging requests of the device have to end now. */
static void newest(struct request *r)
{
	for (struct request *o = r->phone->open; o; o = o->phone_next) {
		if (o == r || !o->hangs || !o->turn_us)
			continue;
		/* The process that leaves ends its own in its own time. */
		if (served_by_old(o) != served_by_old(r)) {
			if (o->kind == ASK_SYNC)
				r->phone->sync_dark_us = sim_now_us + STRAY_US;
			continue;
		}
		if (o->parked_us && r->parked_us)
			must_end(o->order < r->order ? o : r, CAUSE_SUPERSEDED);
		else if (o->parked_us && o->turn_us + TIE_US < r->turn_us)
			must_end(o, CAUSE_SUPERSEDED);
	}
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void served(struct phone *p)
{
	p->settled_us = sim_now_us;
	p->refused_us = 0;
}

static void parked(struct request *r, const struct shard *s)
{
	const struct waiter *w = waiters_get(s->waiters, r->wire->own.slot);
	uint32_t folders[256], mine[REQUEST_FOLDERS_MAX];
	size_t n =
		waiters_folders(s->waiters, r->wire->own.slot, false, folders, ARRAY_LEN(folders));
	bool stale = (r->empty || r->partial) && r->cache_stamp != r->phone->cache_touched;

	r->parked_us = sim_now_us;
	r->order = w->order;
	sim_note(r->phone, NULL, "request # hangs, order #, heartbeat #", r->number, r->order,
		w->heartbeat_s);
	if (!r->hangs || r->expect)
		sim_fail(r->phone, NULL, "request %llu hangs, and should not",
			(unsigned long long)r->number);
	if (w->mailbox != r->phone->box->mailbox ||
		(r->device && w->device != r->device && r->phone->access_us < r->turn_us))
		sim_fail(r->phone, NULL, "request %llu hangs for device %u of mailbox %u",
			(unsigned long long)r->number, w->device, w->mailbox);
	qsort(folders, n, sizeof(folders[0]), by_number);
	memcpy(mine, r->folders, sizeof(mine));
	qsort(mine, r->folder_count, sizeof(mine[0]), by_number);
	if (r->params_known && !stale) {
		if (n != r->folder_count || memcmp(folders, mine, n * sizeof(folders[0])) != 0)
			sim_fail(r->phone, NULL,
				"DURABLE: request %llu hangs on other folders than it named or "
				"the server remembers",
				(unsigned long long)r->number);
		if (w->heartbeat_s != r->heartbeat_s)
			sim_fail(r->phone, NULL, "DURABLE: request %llu: heartbeat %u, not %u",
				(unsigned long long)r->number, w->heartbeat_s, r->heartbeat_s);
		if (r->empty)
			KEPT(DURABLE);
	} else {
		/* Two requests at once: what the server goes by is as good. */
		r->folder_count = (unsigned)n;
		CHECK(n <= REQUEST_FOLDERS_MAX);
		memcpy(r->folders, folders, n * sizeof(folders[0]));
		r->heartbeat_s = w->heartbeat_s;
		memset(r->known, 0, sizeof(r->known)); /* (a cause is not looked for) */
		r->params_known = false;
	}
	accepted(r);
	newest(r);
	served(r->phone);
	r->cause_us[CAUSE_HEARTBEAT] = sim_now_us;
	sim_at(limit_us(r, CAUSE_HEARTBEAT) + 1, due, r, CAUSE_HEARTBEAT);
	must_end(r, CAUSE_ADDED);
	must_end(r, CAUSE_CHANGED);
}

void oracle_turn(const struct shard *s)
{
	static unsigned turns;

	for (size_t i = 0; i < busy_n; i++) {
		struct request *r = busy[i];
		struct wire *w = r->wire;

		if (w->own.loop != s->loop || w->first != r || w->read < r->end_offset ||
			s->conns[w->own.slot].state != CONN_PARKED)
			continue;
		busy[i--] = busy[--busy_n];
		parked(r, s);
	}
	if (++turns % 256 == 0)
		oracle_shard(s, false);
}

/* ---- changes happen
 * --------------------------------------------------------------------------------------------- */

static bool names(const struct request *r, uint32_t folder)
{
	for (unsigned i = 0; i < r->folder_count; i++)
		if (r->folders[i] == folder)
			return true;
	return false;
}

static bool folder_gone(struct box *b, const struct journal_row *row)
{
	const struct box_folder *f = box_folder(b, row->folder);

	return f && f->deleted;
}

void oracle_change(struct box *b, const struct journal_row *row)
{
	for (struct phone *p = b->phones; p; p = p->box_next)
		for (struct request *r = p->open; r; r = r->phone_next) {
			bool own = row->origin && row->origin == r->device;

			if (!r->hangs || !r->turn_us || r->expect)
				continue;
			switch ((enum journal_kind)row->kind) {
			case JOURNAL_ADD:
			case JOURNAL_CHANGE:
			case JOURNAL_DELETE:
				if (!own && names(r, row->folder))
					must_end(r, row->kind == JOURNAL_ADD ? CAUSE_ADDED
									     : CAUSE_CHANGED);
				break;
			case JOURNAL_TOUCH:
				if (r->parked_us && r->kind == ASK_PING && names(r, row->folder))
					must_end(r, CAUSE_TOUCHED);
				break;
			case JOURNAL_HIERARCHY:
				/* A Sync speaks up when a folder that it names is gone. */
				if (!own && (r->kind == ASK_PING ||
						    (names(r, row->folder) && folder_gone(b, row))))
					must_end(r, CAUSE_HIERARCHY);
				break;
			case JOURNAL_ACCOUNT:
				if (r->parked_us || b->disabled)
					must_end(r, CAUSE_ACCESS);
				break;
			case JOURNAL_DEVICE:
				if (row->device == r->device && r->parked_us)
					must_end(r, CAUSE_ACCESS);
				break;
			}
		}
}

void oracle_everybody(const char *why, uint64_t more_us)
{
	(void)why;
	for (unsigned i = 0; i < world.phone_count; i++)
		for (struct request *r = world.phones[i].open; r; r = r->phone_next)
			if (r->parked_us && !r->cause_us[CAUSE_EVERYBODY] &&
				(!more_us || served_by_old(r))) {
				r->end_more_us = more_us;
				must_end(r, CAUSE_EVERYBODY);
			}
}

void oracle_left_behind(const struct shard *s)
{
	for (uint32_t i = 0; i < s->slots_end; i++) {
		const struct conn *c = &s->conns[i];
		const struct waiter *w = waiters_get(s->waiters, i);

		/* (what is GREETED or IDLE may have been accepted since) */
		if (c->flags & CONN_MOVED) {
			KEPT(UPGRADE);
			continue;
		}
		if (c->state == CONN_PARKED && !(c->flags & CONN_SENDING) && !c->active &&
			(w->why == WAKE_NONE || w->why == WAKE_RECHECK))
			sim_fail(NULL, NULL,
				"UPGRADE: slot %u of shard %u hangs and is left behind", i,
				s->index);
	}
}

/* It came too late to be moved: it parks and ends in a shard that is frozen, or leaves. So does a
 * Sync that was running again. */
static bool too_late(const struct request *r)
{
	if (!world.frozen.from_us)
		return false;
	if (r->kind != ASK_SYNC && r->parked_us && r->parked_us < world.frozen.from_us)
		return false;
	return world.frozen.until_us == UINT64_MAX || served_by_old(r) ||
	       sim_now_us < world.frozen.until_us + WAKE_US;
}

static bool since(uint64_t event_us, const struct request *r)
{
	return event_us && event_us + TIE_US >= r->sent_us;
}

static bool drained(const struct request *r)
{
	/* With bytes of the next request behind it, it ends where it is. */
	if (too_late(r) || (served_by_old(r) && (r->end_more_us || r->wire->read > r->end_offset)))
		return true;
	return since(world.drain_us, r) || atomic_load(&world.server->draining);
}

static bool denied(const struct request *r)
{
	struct phone *p = r->phone;
	struct device_gate g = {.id = 0};
	struct db_txn txn;

	if (p->box->disabled || since(p->box->access_us, r) || since(p->access_us, r) ||
		since(p->removed_us, r) || since(world.policy_us, r))
		return true;
	CHECK(db_read(world.db, &txn) == DB_OK);
	device_gate(&txn, p->box->mailbox, bytes_str(p->id), &g);
	db_read_end(&txn);
	return g.blocked;
}

/* Requests this close together may count in either order: where memory is short, one has its place
 * in the order when there is memory to read it. */
static uint64_t tie_us(void)
{
	return TIE_US + world.start_slack_us;
}

/* Did a request arrive that is newer, or that came so close that it may count as newer? */
static bool superseded(const struct request *r)
{
	for (const struct request *o = r->phone->newest; o; o = o->phone_older) {
		if (o->sent_us + 600ull * SECOND < r->sent_us)
			return false;
		/* (A pipelined one comes to the server's notice when those before it are done.) */
		if (o == r || !o->hangs || !o->turn_us || o->turn_us + tie_us() < r->turn_us)
			continue;
		if (o->order && r->order && o->order < r->order)
			continue;
		return true;
	}
	return false;
}

static void judge_expired(struct request *r)
{
	uint64_t waited = sim_now_us - r->turn_us;

	uint64_t early = 0;

	/* Where its second is full, up to a tenth earlier; never later (limit_us). */
	if (world.config->push_expiries_per_second_max < world.phone_count)
		early = r->heartbeat_s * (uint64_t)SECOND / 10;
	if (waited + HEARTBEAT_SLACK_US + early >= r->heartbeat_s * (uint64_t)SECOND) {
		KEPT(HEARTBEAT);
		return;
	}
	if (drained(r) || denied(r) || superseded(r)) {
		KEPT(NEWEST);
		return;
	}
	sim_fail(r->phone, NULL, "HEARTBEAT: request %llu expires after %.3f s of %u for no reason",
		(unsigned long long)r->number, (double)waited / SECOND, r->heartbeat_s);
}

static void judge_changes(struct request *r)
{
	struct box *b = r->phone->box;
	struct db_txn txn;
	uint32_t device;
	bool guarded = false;

	CHECK(db_read(world.db, &txn) == DB_OK);
	device = phone_device(r->phone, &txn);
	for (unsigned i = 0; i < r->changed_count; i++) {
		struct box_folder *f = box_folder(b, r->changed[i]);
		uint64_t pos = 0;
		unsigned k;

		/* The loop guard (ping.md 5) names what is not there, and nothing else. */
		guarded |= !f || f->deleted;
		for (k = 0; k < r->folder_count && r->folders[k] != r->changed[i]; k++)
			;
		if (r->params_known && k == r->folder_count)
			sim_fail(r->phone, NULL,
				"CAUSE: folder %u in the answer to %llu was not asked for",
				r->changed[i], (unsigned long long)r->number);
		if (!r->params_known || !r->known[k] || !f || f->deleted || since(f->touch_us, r) ||
			!oracle_position(&txn, b->mailbox, device, f->id, &pos))
			continue;
		pos = r->pos[k];
		if ((f->last_seq[0] > pos && f->last_origin[0] != device) ||
			(f->last_seq[1] > pos && f->last_origin[1] != device)) {
			KEPT(CAUSE);
			continue;
		}
		sim_fail(r->phone, NULL,
			"CAUSE: request %llu: Status 2 for folder %u, of which the device knows "
			"all "
			"up to %llu; newest change %llu by %u",
			(unsigned long long)r->number, f->id, (unsigned long long)pos,
			(unsigned long long)f->last_seq[0], f->last_origin[0]);
	}
	/* What was compared at this very moment must be complete and nothing else; what woke a
	 * parked one names at least the folders with items that everybody has heard of. */
	for (unsigned i = 0; i < r->folder_count && r->params_known && device && !guarded; i++) {
		struct box_folder *f = box_folder(b, r->folders[i]);
		bool told = false, news, filled = true;
		uint64_t pos = 0, first = UINT64_MAX;

		for (unsigned k = 0; k < r->changed_count; k++)
			told |= r->changed[k] == r->folders[i];
		if (!f || f->deleted || told)
			continue;
		news = !position(&txn, b->mailbox, device, f->id, &pos, &filled) ||
		       any_news(b, device, f->id, pos, filled);
		for (size_t k = f->n; k-- > 0 && f->rows[k].seq > pos;)
			if (row_is_news(&f->rows[k], device, pos, filled) &&
				f->rows[k].add_seq > pos && f->rows[k].add_origin != device &&
				f->rows[k].add_us < first)
				first = f->rows[k].add_us;
		if (!news || r->expects_continue)
			continue;
		if (!r->parked_us || (first != UINT64_MAX && first + WAKE_US < sim_now_us))
			sim_fail(r->phone, NULL,
				"CAUSE: the answer to request %llu does not name folder %u, which "
				"has news",
				(unsigned long long)r->number, f->id);
	}
	db_read_end(&txn);
	if (r->changed_count == 0)
		sim_fail(r->phone, NULL, "CAUSE: Status 2 without folders");
	KEPT(WAKE);
}

static void judge_hierarchy(struct request *r);

/* Keys must be good unless requests crossed each other; and a Sync that hung has something to say
 * only when others changed something. */
static void judge_sync(struct request *r)
{
	struct phone *p = r->phone;
	struct wbxml_node *root;
	const struct wbxml_node *list;
	const char *why;
	bool cause = false;
	struct arena a;

	/* A touch or a change of folders wakes, and what then is told may be about others. */
	cause = since(p->box->hierarchy_us, r);
	for (unsigned i = 0; i < r->folder_count; i++) {
		const struct box_folder *f = box_folder(p->box, r->folders[i]);

		cause |= f && since(f->touch_us, r);
	}

	for (struct request *o = p->open; o; o = o->phone_next)
		if (o != r && o->kind == ASK_SYNC && o->turn_us)
			o->overlapped = r->overlapped = true;
	if (p->waits_for != r) { /* given up meanwhile */
		p->sync_dark_us = sim_now_us + STRAY_US;
		p->stray_us = sim_now_us;
	}
	if (r->status == 12) {
		judge_hierarchy(r);
		return;
	}
	if ((r->status == 126 || r->status == 129) && denied(r))
		return;
	if (r->status > 1)
		sim_fail(p, NULL, "request %llu: Sync Status %d", (unsigned long long)r->number,
			r->status);
	if (r->body.n == 0) {
		/* What hung cannot be run again when a FolderSync from nothing has dropped it. */
		if (r->hangs && !since(p->reset_us, r) && sim_now_us > p->keys_dark_us &&
			sim_now_us > p->sync_dark_us)
			judge_expired(r);
		return;
	}
	arena_init(&a, 8 << 20);
	CHECK(wbxml_parse(buf_bytes(&r->body), &a, NULL, &root, &why) == 1);
	list = wbxml_child(root, AIRSYNC_Collections);
	for (const struct wbxml_node *n = list ? list->first : NULL; n; n = n->next) {
		uint64_t id = 0, status = 0;
		struct box_folder *f;
		unsigned k;

		bytes_to_u64(wbxml_text(n, AIRSYNC_CollectionId), UINT32_MAX, &id);
		bytes_to_u64(wbxml_text(n, AIRSYNC_Status), 1000, &status);
		f = box_folder(p->box, (uint32_t)id);
		if (status == 3 && !r->overlapped && !p->sync_dark_us && !p->removed_us)
			sim_fail(p, NULL,
				"DURABLE: request %llu: the Sync key of folder %llu is "
				"not known",
				(unsigned long long)r->number, (unsigned long long)id);
		for (k = 0; k < r->folder_count && r->folders[k] != id; k++)
			;
		if (k == r->folder_count)
			sim_fail(p, NULL,
				"CAUSE: folder %llu in the answer to %llu was not asked for",
				(unsigned long long)id, (unsigned long long)r->number);
		/* Beside what woke it, it may bring what the device did itself (moves). */
		cause |= status != 1 || !f || !r->known[k] ||
			 (f->last_seq[0] > r->pos[k] && f->last_origin[0] != r->device) ||
			 (f->last_seq[1] > r->pos[k] && f->last_origin[1] != r->device);
	}
	if (r->parked_us && !cause && !r->overlapped && sim_now_us > p->sync_dark_us)
		sim_fail(p, NULL, "CAUSE: request %llu (Sync) wakes without news of others",
			(unsigned long long)r->number);
	if (r->parked_us)
		KEPT(CAUSE);
	arena_free(&a);
	if (r->parked_us)
		KEPT(WAKE);
}

static void judge_hierarchy(struct request *r)
{
	struct phone *p = r->phone;
	struct box *b = p->box;
	bool gone = false;

	for (unsigned i = 0; i < r->folder_count; i++) {
		struct box_folder *f = box_folder(b, r->folders[i]);

		gone |= !f || f->deleted;
	}
	if (gone || !r->device || r->hierarchy_pos == 0 || since(p->removed_us, r) ||
		(!r->params_known && b->hierarchy_us) ||
		(b->hierarchy_seq[0] > r->hierarchy_pos && b->hierarchy_origin[0] != r->device) ||
		(b->hierarchy_seq[1] > r->hierarchy_pos && b->hierarchy_origin[1] != r->device)) {
		KEPT(HIERARCHY);
		return;
	}
	sim_fail(p, NULL, "HIERARCHY: request %llu: Status 7, but the device knows all up to %llu",
		(unsigned long long)r->number, (unsigned long long)r->hierarchy_pos);
}

static void judge_ping(struct request *r)
{
	if (r->expect && r->status != r->expect && r->status != 7 && !denied(r))
		sim_fail(r->phone, NULL, "request %llu: Status %d instead of %d",
			(unsigned long long)r->number, r->status, r->expect);
	if (r->expect && r->status == r->expect) {
		if (r->limit != r->expect_limit)
			sim_fail(r->phone, NULL, "request %llu: limit %u instead of %u",
				(unsigned long long)r->number, r->limit, r->expect_limit);
		return;
	}
	switch (r->status) {
	case 1:
		accepted(r);
		judge_expired(r);
		return;
	case 2:
		accepted(r);
		judge_changes(r);
		return;
	case 3:
		if (r->params_known && r->cache_stamp == r->phone->cache_touched &&
			!since(r->phone->removed_us, r))
			sim_fail(r->phone, NULL,
				"DURABLE: request %llu: the server has forgotten the last Ping",
				(unsigned long long)r->number);
		return;
	case 7:
		judge_hierarchy(r);
		return;
	case 126:
	case 129:
		if (denied(r))
			return;
		break;
	default:
		break;
	}
	sim_fail(r->phone, NULL, "request %llu: Ping Status %d", (unsigned long long)r->number,
		r->status);
}

/* Which keys are good now: the one told, and the one it was asked with, in case that the answer
 * does not arrive. Two at once may have run in either order. */
static void keep_keys(struct request *r)
{
	struct phone *p = r->phone;

	for (struct request *o = p->open; o; o = o->phone_next)
		if (o != r && o->kind == ASK_FOLDER_SYNC && o->turn_us)
			o->overlapped = r->overlapped = true;
	if (r->status != 1)
		return;
	if (r->asked_key == 0) {
		/* It has dropped what was remembered, at some time since it came. */
		p->cache_known = false;
		p->cache_touched++;
		p->reset_us = sim_now_us;
	}
	p->keys_known = !r->overlapped && sim_now_us > p->keys_dark_us;
	if (r->asked_key != r->told_key)
		p->keys[1] = r->asked_key;
	p->keys[0] = r->told_key;
}

static void judge_folder_sync(struct request *r)
{
	struct phone *p = r->phone;

	keep_keys(r);
	switch (r->status) {
	case 1:
		return;
	case 9:
		if (!p->keys_known || r->overlapped || since(p->removed_us, r) ||
			(r->asked_key != p->keys[0] && r->asked_key != p->keys[1])) {
			p->keys_known = false;
			return;
		}
		sim_fail(p, NULL, "DURABLE: FolderSync key %u is not known", r->asked_key);
	case 126:
	case 129:
		if (denied(r))
			return;
		break;
	default:
		break;
	}
	sim_fail(p, NULL, "request %llu: FolderSync Status %d", (unsigned long long)r->number,
		r->status);
}

/* Takes the document apart. */
static void read_document(struct request *r, struct bytes doc)
{
	struct wbxml_node *root;
	const struct wbxml_node *list;
	const char *why = "";
	struct arena a;
	uint64_t v;
	uint16_t tag = r->kind == ASK_PING          ? PING_Status
		       : r->kind == ASK_FOLDER_SYNC ? FOLDERHIERARCHY_Status
						    : AIRSYNC_Status;

	arena_init(&a, 1 << 20);
	if (wbxml_parse(doc, &a, NULL, &root, &why) != 1)
		sim_fail(r->phone, NULL, "ONE: the answer to %llu is no WBXML: %s",
			(unsigned long long)r->number, why);
	if (root->tag != (r->kind == ASK_PING                 ? PING_Ping
				 : r->kind == ASK_FOLDER_SYNC ? FOLDERHIERARCHY_FolderSync
							      : AIRSYNC_Sync))
		sim_fail(r->phone, NULL, "ONE: request %llu gets the answer of another command",
			(unsigned long long)r->number);
	if (bytes_to_u64(wbxml_text(root, tag), 1000, &v))
		r->status = (int)v;
	if (r->kind == ASK_FOLDER_SYNC &&
		bytes_to_u64(wbxml_text(root, FOLDERHIERARCHY_SyncKey), UINT32_MAX, &v))
		r->told_key = (uint32_t)v;
	list = r->kind == ASK_PING ? wbxml_child(root, PING_Folders) : NULL;
	for (const struct wbxml_node *n = list ? list->first : NULL; n; n = n->next)
		if (bytes_to_u64(n->text, UINT32_MAX, &v)) {
			CHECK(r->changed_count < ARRAY_LEN(r->changed));
			r->changed[r->changed_count++] = (uint32_t)v;
		}
	if (r->kind == ASK_PING &&
		(bytes_to_u64(wbxml_text(root, PING_HeartbeatInterval), UINT32_MAX, &v) ||
			bytes_to_u64(wbxml_text(root, PING_MaxFolders), UINT32_MAX, &v)))
		r->limit = (unsigned)v;
	arena_free(&a);
}

/* A refusal must have its cause, say when to come again, and not be for ever. */
static void judge_refusal(struct request *r, struct bytes head)
{
	struct phone *p = r->phone;
	const char *retry = memmem(head.p, head.n, "Retry-After: ", 13);
	unsigned base = (unsigned)world.config->core_retry_after_s,
		 told = retry ? (unsigned)atoi(retry + 13) : 0;

	if (told < base || told > 2 * base)
		sim_fail(p, NULL, "STORM: request %llu: 503 with Retry-After %u",
			(unsigned long long)r->number, told);
	if (!world.low_limits)
		sim_fail(p, NULL, "STORM: request %llu is refused, and nothing is short",
			(unsigned long long)r->number);
	if (!p->refused_us)
		p->refused_us = sim_now_us;
	if (sim_now_us > p->refused_us + REFUSED_MAX_US)
		sim_fail(p, NULL, "STORM: refused again and again since %.3f",
			(double)p->refused_us / SECOND);
	world.told_later++;
	KEPT(STORM);
}

void oracle_after_storm(uint64_t began_us)
{
	/* Only when nothing else held them up. */
	if (!world.up || world.drain_us + STORM_OVER_MAX_US > began_us || life_upgrades() ||
		world.held.until_us + STORM_OVER_MAX_US > began_us || sim_now_us > world.end_us)
		return;
	for (unsigned i = 0; i < world.phone_count; i++) {
		struct phone *p = &world.phones[i];

		if (p->settled_us >= began_us) {
			KEPT(STORM);
			continue;
		}
		if (!p->wire || p->box->disabled || p->box->access_us || p->access_us)
			continue;
		sim_fail(p, NULL, "STORM: not served again since the storm at %.3f",
			(double)began_us / SECOND);
	}
}

static void judge(struct wire *w, struct request *r, int http, struct bytes doc, struct bytes head)
{
	if (!r)
		sim_fail(w->phone, NULL, "ONE: wire %llu: an answer (HTTP %d) to no request",
			(unsigned long long)w->number, http);
	w->first = r->wire_next;
	if (!w->first)
		w->last = NULL;
	r->answered_us = sim_now_us;
	buf_add(&r->body, doc.p, doc.n);
	if (!r->complete_us || w->read < r->end_offset) {
		/* Half a request may be refused; then the connection ends. */
		if (http < 400 || !w->close_announced)
			sim_fail(w->phone, NULL,
				"ONE: request %llu is answered (HTTP %d) before "
				"it is there",
				(unsigned long long)r->number, http);
		is_over(r);
		return;
	}
	if (http == 200 && doc.n)
		read_document(r, doc);
	sim_note(r->phone, NULL, "request #: the server says HTTP #, Status #", r->number,
		(uint64_t)http, (uint64_t)r->status);
	is_over(r);
	KEPT(ONE);
	if (http != 503)
		r->phone->refused_us = 0;
	if (http == 403 && denied(r))
		return;
	if (http == r->expect)
		return;
	if (http == 503) {
		judge_refusal(r, head);
		return;
	}
	if (http == 200)
		served(r->phone);
	if (http != 200)
		sim_fail(r->phone, NULL, "request %llu: HTTP %d", (unsigned long long)r->number,
			http);
	if (r->kind == ASK_PING)
		judge_ping(r);
	else if (r->kind == ASK_FOLDER_SYNC)
		judge_folder_sync(r);
	else
		judge_sync(r);
	if (r->kind == ASK_PING && (r->status == 2 || r->status == 7))
		newest(r);
}

void oracle_said(struct wire *w, const uint8_t *p, size_t n)
{
	/* Who has hung up may be answered or not. */
	if (w->fin_arrived || w->rst_arrived)
		return;
	buf_add(&w->said, p, n);
	for (;;) {
		const uint8_t *end = memmem(w->said.p, w->said.n, "\r\n\r\n", 4);
		const char *length;
		size_t head, body = 0;
		int http;

		if (!end)
			return;
		head = (size_t)(end - w->said.p) + 4;
		if (memcmp(w->said.p, "HTTP/1.1 ", 9) != 0)
			sim_fail(w->phone, NULL, "ONE: wire %llu: bytes between answers",
				(unsigned long long)w->number);
		http = atoi((const char *)w->said.p + 9);
		length = memmem(w->said.p, head, "Content-Length: ", 16);
		if (length)
			body = (size_t)atoi(length + 16);
		if (w->said.n < head + body)
			return;
		if (memmem(w->said.p, head, "Connection: close", 17))
			w->close_announced = true;
		if (http != 100) {
			judge(w, w->first, http, bytes_of(w->said.p + head, body),
				bytes_of(w->said.p, head));
			if (w->first && w->first->complete_us)
				its_turn(w->first);
		}
		memmove(w->said.p, w->said.p + head + body, w->said.n - head - body);
		w->said.n -= head + body;
	}
}

/* ---- leaks
 * --------------------------------------------------------------------------------------------------------
 */

void oracle_shard(const struct shard *s, bool at_rest)
{
	uint32_t open = 0, wakes = 0, active = 0;

	if (!shard_check(s))
		sim_fail(NULL, NULL, "LEAK: shard %u: waiters, wheel and slots do not agree",
			s->index);
	for (uint32_t i = 0; i < s->slots_max; i++) {
		const struct conn *c = &s->conns[i];

		open += c->state != CONN_FREE;
		active += c->active != NULL;
		wakes += s->wake_of[i] != NULL;
		/* A parked request has no memory but for bytes that came behind it, or are on
		 * their way in or out. */
		if (c->state == CONN_IDLE && c->active)
			sim_fail(NULL, NULL, "LEAK: slot %u is idle and has a request's memory", i);
	}
	if (open != s->open_conns || active > s->active_used)
		sim_fail(NULL, NULL,
			"LEAK: shard %u counts %u connections and %u requests, not %u, %u",
			s->index, s->open_conns, s->active_used, open, active);
	for (const struct wake_buffer *b = s->wake_free; b; b = b->next_free)
		wakes++;
	if (wakes != s->wake_made)
		sim_fail(NULL, NULL, "LEAK: shard %u: %u wake buffers of %u", s->index, wakes,
			s->wake_made);
	KEPT(LEAK);
	if (!at_rest)
		return;
	if (open || s->active_used || waiters_count(s->waiters) || s->woken.count ||
		s->want_active.count || s->want_handshake.count || s->handshakes.count)
		sim_fail(NULL, NULL,
			"LEAK: shard %u at rest: %u connections, %u requests, %u waiters, %u "
			"woken, "
			"%u want memory",
			s->index, open, s->active_used, waiters_count(s->waiters), s->woken.count,
			s->want_active.count);
	for (unsigned i = 0; i < world.phone_count; i++)
		if (world.phones[i].device &&
			presence_others(
				s->presence, world.phones[i].box->mailbox, world.phones[i].device))
			sim_fail(&world.phones[i], NULL, "LEAK: a presence bit is left");
}
