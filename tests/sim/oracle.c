/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What must hold. Judged at the server's end of each connection, when a request has arrived and
 * when its answer is handed to the loop, so that no delay of the network blurs it. What a device
 * knows is read from the store; what happened, from the journal; what must follow, is reckoned
 * here. */
#include "tests/sim/oracle_priv.h"

#include "core/base/check.h"
#include "store/journal.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t promises_kept[PROMISE_COUNT];

/* Requests that have arrived and neither hang nor are over. */
static struct request **busy;
static size_t busy_n, busy_cap;
static unsigned turns;

void oracle_begin(void)
{
	busy_n = turns = 0;
}

/* ---- bounds
 * -------------------------------------------------------------------------------------------- */

uint64_t after(const struct span *s, uint64_t us, uint64_t later_us)
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

/* Account and device are as they were for who asks now. */
static bool allowed(const struct request *r)
{
	struct device_gate g = {.id = 0};
	struct db_txn txn;
	int err;

	CHECK(db_read(world.db, &txn) == DB_OK);
	err = device_gate(&txn, r->phone->box->mailbox, bytes_str(r->phone->id), &g);
	db_read_end(&txn);
	return err == DB_OK && g.id == r->device && !g.blocked && !r->phone->box->disabled;
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
	/* Nor does it end for a device that was touched meanwhile and may go on as before. */
	if (cause == CAUSE_ACCESS && r->kind == ASK_SYNC && touched(r, r->cause_us[cause]) &&
		allowed(r)) {
		r->cause_us[cause] = 0;
		return;
	}
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

void its_turn(struct request *r)
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

void is_over(struct request *r)
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

/* Where memory is short, by limits or because there is none for a while, what is pipelined behind a
 * hanging request is not kept, perhaps not even read; the connection ends. */
static bool pipelined_without_memory(const struct wire *w, const struct request *r)
{
	bool none = sim_now_us >= world.no_memory.from_us && sim_now_us < world.no_memory.until_us;

	return none ? w->arrived > r->end_offset : world.start_slack_us && w->read > r->end_offset;
}

void oracle_closed_by_server(struct wire *w)
{
	struct request *r = w->first;

	/* Closing an idle connection crosses with a request: that is HTTP. Anything else is an
	 * answer that never comes. */
	if (r && r->complete_us && w->read > r->begin_offset && !w->close_announced &&
		!w->vanished && !draining(w) && !pipelined_without_memory(w, r) &&
		/* Its last bytes came just now and are not read: they crossed with a deadline. */
		!(w->read < r->end_offset && sim_now_us < r->complete_us + CROSSING_US))
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

void accepted(struct request *r)
{
	struct phone *p = r->phone;

	if (r->accepted || r->kind != ASK_PING)
		return;
	r->accepted = true;
	/* One that came later was quicker: now these are in force. */
	if (r->cache_stamp != p->cache_touched && !r->empty)
		p->cache_known = false;
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

bool served_by_old(const struct request *r)
{
	const struct loop *l = r->wire->own.loop;

	for (unsigned i = 0; world.old && l && i < world.old->shard_count; i++)
		if (world.old->shards[i]->loop == l)
			return true;
	return false;
}

void newest(struct request *r)
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
		else if (o->parked_us &&
			 after(&world.held, o->turn_us, START_US) + TIE_US < r->turn_us)
			must_end(o, CAUSE_SUPERSEDED);
	}
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

void served(struct phone *p)
{
	p->settled_us = sim_now_us;
	p->refused_us = 0;
}

bool stale(const struct request *r)
{
	return (r->empty || r->partial) && r->cache_stamp != r->phone->cache_touched;
}

static void parked(struct request *r, const struct shard *s)
{
	const struct waiter *w = waiters_get(s->waiters, r->wire->own.slot);
	uint32_t folders[256], mine[REQUEST_FOLDERS_MAX];
	size_t n =
		waiters_folders(s->waiters, r->wire->own.slot, false, folders, ARRAY_LEN(folders));

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
	if (r->params_known && !stale(r)) {
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

bool left_behind(const struct request *r)
{
	const struct wire *w = r->wire;

	return r->hangs && !r->answered_us && w->left_us && w->read >= r->end_offset;
}

bool overtaken(const struct request *r)
{
	const struct phone *p = r->phone;

	for (unsigned i = p->order_count; i > 0 && p->order_count - i < ARRAY_LEN(p->orders); i--) {
		uint64_t order = p->orders[(i - 1) % ARRAY_LEN(p->orders)];

		if (order == r->order)
			return false;
		if (order > r->order)
			return true;
	}
	return false;
}

/* One that is left behind has its turn after all: what an empty Ping repeats may be its. */
static void late_one_may_speak(struct phone *p)
{
	for (const struct request *o = p->newest; o; o = o->phone_older)
		if (o->over && o->kind == ASK_PING && !o->empty && left_behind(o) &&
			o->wire->own.loop && !o->wire->server_closed) {
			p->cache_known = false;
			p->cache_touched++;
			return;
		}
}

bool __wrap_park_supersede_here(
	struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order, uint64_t *newer);
bool __real_park_supersede_here(
	struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order, uint64_t *newer);

/* A Ping or hanging Sync has its place in the order, and ends what is older: the one thing that a
 * request does for the world even if nobody waits for its answer. */
bool __wrap_park_supersede_here(
	struct shard *s, uint32_t mailbox, uint32_t device, uint64_t order, uint64_t *newer)
{
	struct box *b = world_box(mailbox);

	for (struct phone *p = b ? b->phones : NULL; p; p = p->box_next)
		if (p->device == device) {
			sim_note(p, NULL, "order #, at shard #", order, s->index, 0);
			p->orders[p->order_count++ % ARRAY_LEN(p->orders)] = order;
			late_one_may_speak(p);
		}
	return __real_park_supersede_here(s, mailbox, device, order, newer);
}

void oracle_turn(const struct shard *s)
{
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
