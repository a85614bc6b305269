/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Answers: each has its cause, says what it must, and belongs to the request that is next. */
#include "tests/sim/oracle_priv.h"

#include "core/base/check.h"
#include "core/eas/wbxml.h"

#include <stdio.h>
#include <stdlib.h>

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

/* Its place in the order is that of when it can be read. */
static uint64_t read_us(const struct request *r)
{
	return after(&world.held, r->turn_us, START_US);
}

/* "Newest" is whose turn comes last (core/push/presence.h), and that need not be who was sent last:
 * a Ping may wait behind a hanging one on a connection that the phone has closed since, while the
 * server has no buffers to read the close with. The phone's newer Ping, on a new connection, ends
 * the hanging one; so the turn of the one behind it comes, it is numbered higher, and ends the
 * newer one. Nobody is left without: who got that Status 1 asks again, and is the newest.
 * This may count as newer, and nothing else of a connection that is over: `o` is left on a
 * connection that the phone had closed or vanished from before it sent `r`, and after `r` had its
 * number somebody of the device got a higher one. */
static bool late(const struct request *o, const struct request *r)
{
	return left_behind(o) && o->wire->left_us <= r->sent_us && r->order && overtaken(r);
}

/* Did a request arrive that is newer, or that came so close that it may count as newer? */
static bool superseded(const struct request *r)
{
	for (const struct request *o = r->phone->newest; o; o = o->phone_older) {
		if (o->sent_us + 600ull * SECOND < r->sent_us)
			return false;
		/* (A pipelined one comes to the server's notice when those before it are done.) */
		if (late(o, r))
			return true;
		if (o == r || !o->hangs || !o->turn_us || read_us(o) + tie_us() < r->turn_us)
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
		uint64_t pos = 0, now = 0;
		unsigned k;

		/* The loop guard names what is not there, and nothing else. */
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
		now = pos;
		pos = r->pos[k];
		/* A late Sync with an old key has taken back what was said under the new one: the
		 * store tells how far (and only such a Sync makes a position lower). */
		if (now < pos &&
			(r->phone->stray_us >= r->turn_us || sim_now_us <= r->phone->sync_dark_us))
			pos = now;
		if ((f->last_seq[0] > pos && f->last_origin[0] != device) ||
			(f->last_seq[1] > pos && f->last_origin[1] != device)) {
			KEPT(CAUSE);
			continue;
		}
		sim_fail(r->phone, NULL,
			"CAUSE: request %llu: Status 2 for folder %u, of which the device knows "
			"all "
			"up to %llu (now %llu); newest change %llu by %u",
			(unsigned long long)r->number, f->id, (unsigned long long)pos,
			(unsigned long long)now, (unsigned long long)f->last_seq[0],
			f->last_origin[0]);
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
		/* (a late Sync with an old key makes old what this one was compared with) */
		if (!news || r->expects_continue || r->phone->stray_us >= r->turn_us)
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
	/* Answered at once, by what was remembered when the server came to it. */
	if (!r->parked_us && stale(r))
		r->params_known = false;
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
	if (w->tls) {
		buf_add(&w->said_raw, p, n);
		simtls_open(w, &w->said_raw, &w->said_records, &w->said);
	} else {
		buf_add(&w->said, p, n);
	}
	for (;;) {
		const uint8_t *end = w->said.n ? memmem(w->said.p, w->said.n, "\r\n\r\n", 4) : NULL;
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
