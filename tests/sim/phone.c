/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Phones: FolderSync when told, Sync of what was reported, Ping or a hanging Sync; and what happens
 * to phones: they come back on another connection, vanish, lose answers, change things themselves.
 */
#include "tests/sim/sim.h"

#include "core/base/check.h"
#include "core/eas/wbxml.h"
#include "store/journal.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

static struct request *requests;
static uint64_t request_count;
static void step(void *arg, uint64_t generation);

void requests_free(void)
{
	struct request *r;

	request_count = 0;
	while ((r = requests)) {
		requests = r->next;
		buf_free(&r->body);
		free(r);
	}
}

void phone_make(struct phone *p, unsigned index, struct box *b)
{
	static const uint16_t versions[] = {121, 140, 141, 160, 161};

	p->index = index;
	p->box = b;
	p->box_next = b->phones;
	b->phones = p;
	snprintf(p->id, sizeof(p->id), "SIM%07u", index);
	p->version = versions[sim_below(ARRAY_LEN(versions))];
	p->hangs_in_sync = sim_permille(250);
	p->wants_many_folders = sim_permille(300);
	p->heartbeat_s = (unsigned)sim_between(60, 900);
}

static void step_in(struct phone *p, uint64_t us)
{
	p->generation++;
	/* As told, and not all at once. */
	if (sim_now_us + us < p->not_before_us)
		us = p->not_before_us - sim_now_us + sim_between(0, 2 * SECOND);
	sim_at(sim_now_us + us, step, p, p->generation);
}

void phone_begin(struct phone *p)
{
	p->syncs_by_request = world.sync_built && (p->hangs_in_sync || sim_permille(300));
	step_in(p, sim_between(0, 20 * SECOND));
}

uint32_t phone_device(const struct phone *p, struct db_txn *txn)
{
	struct device_gate g;

	return device_gate(txn, p->box->mailbox, bytes_str(p->id), &g) == DB_OK ? g.id : 0;
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static struct request *request_new(struct phone *p, enum ask kind)
{
	struct request *r = calloc(1, sizeof(*r));

	CHECK(r);
	r->number = ++request_count;
	r->kind = kind;
	r->phone = p;
	r->next = requests;
	requests = r;
	return r;
}

/* What becomes of a connection that the phone has no more use for. */
static void drop_wire(struct phone *p, struct wire *w)
{
	unsigned dice = sim_below(100);

	if (!w)
		return;
	if (p->wire == w)
		p->wire = NULL;
	if (dice < 30)
		wire_vanish(w);
	else if (dice < 50)
		wire_close(w, false);
	else if (dice < 65)
		wire_close(w, true);
	/* else it stays open, and what comes is not read with any interest */
}

static struct wire *wire_for(struct phone *p, bool fresh)
{
	struct wire *w = p->wire;

	if (w && (w->dead || w->client_closed || w->vanished))
		w = p->wire = NULL;
	if (w && w->read_first)
		fresh = true;
	if (w && !fresh && !sim_permille(100))
		return w;
	if (w && !w->read_first)
		drop_wire(p, w);
	p->wire = wire_open(p, sim_below(world.shards));
	return p->wire;
}

static void send_on(struct wire *w, struct request *r, struct bytes body)
{
	static const char *const names[] = {"Ping", "FolderSync", "Sync"};
	struct phone *p = r->phone;
	struct buf out = {0};
	char login[128], base64[192];
	bool chunked = body.n && sim_permille(50);

	snprintf(login, sizeof(login), "%s:secret", p->box->address);
	sodium_bin2base64(base64, sizeof(base64), (const unsigned char *)login, strlen(login),
		sodium_base64_VARIANT_ORIGINAL);
	r->expects_continue = body.n && sim_permille(40);
	buf_printf(&out,
		"POST /Microsoft-Server-ActiveSync?Cmd=%s&User=u&DeviceId=%s&DeviceType=SIM "
		"HTTP/1.1\r\nHost: sim\r\nAuthorization: Basic %s\r\nMS-ASProtocolVersion: %s\r\n"
		"User-Agent: sim/1\r\n%s",
		names[r->kind], p->id, base64, eas_version_name(p->version),
		r->expects_continue ? "Expect: 100-continue\r\n" : "");
	if (body.n)
		buf_add_str(&out, "Content-Type: application/vnd.ms-sync.wbxml\r\n");
	if (chunked) {
		buf_printf(&out, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", body.n);
		buf_add(&out, body.p, body.n);
		buf_add_str(&out, "\r\n0\r\n\r\n");
	} else {
		buf_printf(&out, "Content-Length: %zu\r\n\r\n", body.n);
		buf_add(&out, body.p, body.n);
	}
	CHECK(!out.failed);
	r->wire = w;
	r->begin_offset = w->put;
	r->sent_us = sim_now_us;
	wire_put(w, out.p, out.n);
	r->end_offset = w->put;
	buf_free(&out);
	if (w->last)
		w->last->wire_next = r;
	else
		w->first = r;
	w->last = r;
	for (struct request **q = &w->read_first;; q = &(*q)->read_next)
		if (!*q) {
			*q = r;
			break;
		}
	r->phone_next = p->open;
	p->open = r;
	r->phone_older = p->newest;
	p->newest = r;
	sim_note(p, NULL,
		r->kind == ASK_PING          ? "asks # on wire #: Ping, heartbeat #"
		: r->kind == ASK_FOLDER_SYNC ? "asks # on wire #: FolderSync #"
					     : "asks # on wire #: Sync, heartbeat #",
		r->number, w->number, r->kind == ASK_FOLDER_SYNC ? r->asked_key : r->heartbeat_s);
	oracle_asked(r);
}

/* No answer in all that time: the phone gives the request up. */
static void timeout(void *arg, uint64_t unused)
{
	struct request *r = arg;
	struct phone *p = r->phone;

	(void)unused;
	if (p->waits_for != r)
		return;
	sim_note(p, NULL, "gives # up", r->number, 0, 0);
	p->waits_for = NULL;
	drop_wire(p, r->wire);
	step_in(p, sim_between(0, 5 * SECOND));
}

static void whim(void *arg, uint64_t unused);

static void wait_for(struct phone *p, struct request *r)
{
	uint64_t patience = r->hangs ? (r->heartbeat_s + sim_between(20, 90)) * (uint64_t)SECOND
				     : sim_between(5, 60) * SECOND;

	p->waits_for = r;
	p->generation++; /* no step until it is answered */
	sim_at(sim_now_us + patience, timeout, r, 0);
	if (r->hangs && sim_permille(500))
		sim_at(sim_now_us + sim_between(0, patience), whim, r, 0);
}

/* ---- Ping
 * ----------------------------------------------------------------------------------------- */

static void put_ping(struct buf *out, const struct request *r, bool heartbeat, bool folders)
{
	struct wbxml_writer w;

	wbxml_writer_init(&w, out);
	wbxml_put_start(&w, PING_Ping);
	if (heartbeat)
		wbxml_put_u64(&w, PING_HeartbeatInterval, r->heartbeat_s);
	if (folders) {
		wbxml_put_start(&w, PING_Folders);
		for (unsigned i = 0; i < r->folder_count; i++) {
			wbxml_put_start(&w, PING_Folder);
			wbxml_put_u64(&w, PING_Id, r->folders[i]);
			wbxml_put_text(&w, PING_Class, "Email");
			wbxml_put_end(&w);
		}
		if (r->expect == 6) /* too many */
			for (unsigned i = 0; i < 200; i++) {
				wbxml_put_start(&w, PING_Folder);
				wbxml_put_u64(&w, PING_Id, 1000 + i);
				wbxml_put_text(&w, PING_Class, "Email");
				wbxml_put_end(&w);
			}
		wbxml_put_end(&w);
	}
	wbxml_put_end(&w);
	CHECK(wbxml_done(&w));
}

static bool is_mail(uint8_t type)
{
	return type == FOLDER_INBOX || type == FOLDER_TRASH || type == FOLDER_SENT ||
	       type == FOLDER_USER_MAIL;
}

static void choose_folders(struct phone *p, struct request *r)
{
	for (unsigned i = 0; i < p->folder_count && r->folder_count < PHONE_PING_MAX; i++)
		if (is_mail(p->folders[i].type) &&
			(p->folders[i].type == FOLDER_INBOX || p->wants_many_folders ||
				sim_permille(200)))
			r->folders[r->folder_count++] = p->folders[i].id;
}

static struct request *ping(struct phone *p, struct wire *w)
{
	struct request *r = request_new(p, ASK_PING);
	struct buf body = {0};
	unsigned dice = sim_below(1000);

	r->hangs = true;
	r->heartbeat_s = p->heartbeat_s;
	choose_folders(p, r);
	if (p->cache_any && dice < 350) {
		r->empty = true;
	} else if (p->cache_any && dice < 400) {
		put_ping(&body, r, true, false);
		r->partial = true;
	} else if (dice < 405) {
		buf_add_str(&body, "\x03\x01\x6a\x07rubbish");
		r->expect = p->version >= 140 ? 102 : 400;
	} else if (dice < 412) {
		bool low = sim_permille(500);

		r->heartbeat_s = low ? sim_below(60) : 3541 + sim_below(10000);
		r->expect = 5;
		r->expect_limit = low ? 60 : 3540;
		put_ping(&body, r, true, true);
	} else if (dice < 416) {
		r->expect = 6;
		r->expect_limit = 200;
		put_ping(&body, r, true, true);
	} else {
		put_ping(&body, r, true, true);
	}
	send_on(w, r, buf_bytes(&body));
	buf_free(&body);
	return r;
}

static void ping_answered(struct phone *p, struct request *r)
{
	switch (r->status) {
	case 1:
		p->cache_any = true;
		/* As phones do: longer while it works. */
		if (sim_permille(300))
			p->heartbeat_s = (unsigned)sim_between(60, 1200);
		break;
	case 2:
		p->cache_any = true;
		for (unsigned i = 0; i < r->changed_count; i++)
			for (unsigned k = 0; k < p->folder_count; k++)
				if (p->folders[k].id == r->changed[i])
					p->folders[k].dirty = true;
		break;
	case 3:
		p->cache_any = false;
		break;
	case 7:
		p->hierarchy_ok = false;
		break;
	default:
		break;
	}
}

/* ---- FolderSync
 * ------------------------------------------------------------------------------------ */

static struct request *folder_sync(struct phone *p, struct wire *w)
{
	struct request *r = request_new(p, ASK_FOLDER_SYNC);
	struct wbxml_writer x;
	struct buf body = {0};

	r->asked_key = p->hierarchy_key;
	wbxml_writer_init(&x, &body);
	wbxml_put_start(&x, FOLDERHIERARCHY_FolderSync);
	wbxml_put_u64(&x, FOLDERHIERARCHY_SyncKey, p->hierarchy_key);
	wbxml_put_end(&x);
	CHECK(wbxml_done(&x));
	send_on(w, r, buf_bytes(&body));
	buf_free(&body);
	return r;
}

static void forget_folder(struct phone *p, uint32_t id)
{
	for (unsigned i = 0; i < p->folder_count; i++)
		if (p->folders[i].id == id) {
			p->folders[i] = p->folders[--p->folder_count];
			return;
		}
}

static void folder_sync_answered(struct phone *p, struct request *r)
{
	struct wbxml_node *root;
	const struct wbxml_node *changes;
	const char *why;
	struct arena a;
	uint64_t key;

	if (r->status == 9) {
		p->hierarchy_key = 0;
		p->cache_any = false;
		return;
	}
	/* An older answer that comes late is of no use. */
	if (r->status != 1 || r->asked_key != p->hierarchy_key)
		return;
	arena_init(&a, 1 << 20);
	CHECK(wbxml_parse(buf_bytes(&r->body), &a, NULL, &root, &why) == 1);
	CHECK(bytes_to_u64(wbxml_text(root, FOLDERHIERARCHY_SyncKey), UINT32_MAX, &key));
	if (p->hierarchy_key == 0) {
		p->folder_count = 0;
		p->cache_any = false;
	}
	p->hierarchy_key = (uint32_t)key;
	p->hierarchy_ok = true;
	changes = wbxml_child(root, FOLDERHIERARCHY_Changes);
	for (const struct wbxml_node *n = changes ? changes->first : NULL; n; n = n->next) {
		uint64_t id, type;

		if (!bytes_to_u64(wbxml_text(n, FOLDERHIERARCHY_ServerId), UINT32_MAX, &id))
			continue;
		if (n->tag == FOLDERHIERARCHY_Delete) {
			forget_folder(p, (uint32_t)id);
		} else if (n->tag == FOLDERHIERARCHY_Add && p->folder_count < PHONE_FOLDERS_MAX) {
			CHECK(bytes_to_u64(wbxml_text(n, FOLDERHIERARCHY_Type), 255, &type));
			forget_folder(p, (uint32_t)id);
			p->folders[p->folder_count++] = (struct phone_folder){
				.id = (uint32_t)id, .type = (uint8_t)type, .dirty = true};
		}
	}
	arena_free(&a);
}

/* ---- Sync
 * ------------------------------------------------------------------------------------------- */

/* As if the phone had synced the folder completely: what Sync does to the store, without Sync. */
static int sync_directly(struct db_txn *txn, void *arg)
{
	struct phone *p = arg;
	uint32_t device = phone_device(p, txn);

	if (!device)
		return DB_NOT_FOUND;
	for (unsigned i = 0; i < p->folder_count; i++) {
		struct phone_folder *f = &p->folders[i];
		struct collection c = {.key = 0};
		struct folder have;
		int err;

		if (!f->dirty || !is_mail(f->type) ||
			folder_get(txn, p->box->mailbox, f->id, &have) || have.deleted)
			continue;
		err = collection_get(txn, p->box->mailbox, device, f->id, &c);
		if (err && err != DB_NOT_FOUND)
			return err;
		c.key_previous = c.key;
		c.previous = c.now;
		c.key++;
		c.now = (struct sync_position){
			.seq = journal_head(txn), .floor_time_s = INT64_MIN, .floor_id = 0};
		err = collection_put(txn, p->box->mailbox, device, f->id, &c);
		if (err)
			return err;
	}
	return DB_OK;
}

/* A Sync of the dirty folders; or, hanging, of all. */
static struct request *sync(struct phone *p, struct wire *w, bool hangs)
{
	struct request *r = request_new(p, ASK_SYNC);
	struct wbxml_writer x;
	struct buf body = {0};

	r->hangs = hangs;
	/* Wait counts in minutes, and 12.1 has nothing else. */
	r->heartbeat_s = p->version == 121 ? (p->heartbeat_s / 60) * 60 : p->heartbeat_s;
	wbxml_writer_init(&x, &body);
	wbxml_put_start(&x, AIRSYNC_Sync);
	wbxml_put_start(&x, AIRSYNC_Collections);
	for (unsigned i = 0; i < p->folder_count && r->folder_count < PHONE_PING_MAX; i++) {
		struct phone_folder *f = &p->folders[i];

		if (!is_mail(f->type) || (!hangs && !f->dirty))
			continue;
		wbxml_put_start(&x, AIRSYNC_Collection);
		wbxml_put_u64(&x, AIRSYNC_SyncKey, f->key);
		wbxml_put_u64(&x, AIRSYNC_CollectionId, f->id);
		if (f->key)
			wbxml_put_u64(&x, AIRSYNC_WindowSize, 5 + sim_below(100));
		wbxml_put_end(&x);
		r->folders[r->folder_count++] = f->id;
	}
	wbxml_put_end(&x);
	if (hangs && p->version == 121)
		wbxml_put_u64(&x, AIRSYNC_Wait, r->heartbeat_s / 60);
	else if (hangs)
		wbxml_put_u64(&x, AIRSYNC_HeartbeatInterval, r->heartbeat_s);
	wbxml_put_end(&x);
	CHECK(wbxml_done(&x));
	send_on(w, r, buf_bytes(&body));
	buf_free(&body);
	return r;
}

static void sync_answered(struct phone *p, struct request *r)
{
	struct wbxml_node *root;
	const struct wbxml_node *list;
	const char *why;
	struct arena a;

	if (r->status == 12)
		p->hierarchy_ok = false;
	if (r->body.n == 0) {
		if (!r->hangs)
			for (unsigned i = 0; i < p->folder_count; i++)
				for (unsigned k = 0; k < r->folder_count; k++)
					if (p->folders[i].id == r->folders[k])
						p->folders[i].dirty = false;
		return;
	}
	arena_init(&a, 8 << 20);
	CHECK(wbxml_parse(buf_bytes(&r->body), &a, NULL, &root, &why) == 1);
	list = wbxml_child(root, AIRSYNC_Collections);
	for (const struct wbxml_node *n = list ? list->first : NULL; n; n = n->next) {
		uint64_t id = 0, key = 0, status = 0;

		bytes_to_u64(wbxml_text(n, AIRSYNC_CollectionId), UINT32_MAX, &id);
		bytes_to_u64(wbxml_text(n, AIRSYNC_SyncKey), UINT32_MAX, &key);
		bytes_to_u64(wbxml_text(n, AIRSYNC_Status), 1000, &status);
		for (unsigned i = 0; i < p->folder_count; i++) {
			struct phone_folder *f = &p->folders[i];

			if (f->id != id)
				continue;
			sim_note(p, NULL, "  folder #: Sync Status #, key #", id, status, key);
			if (status == 1) {
				/* The first answer brings a key and nothing else. */
				f->dirty = f->key == 0 || wbxml_child(n, AIRSYNC_MoreAvailable);
				f->key = (uint32_t)key;
			} else if (status == 3) {
				f->key = 0;
				f->dirty = true;
			} else {
				f->dirty = false;
				p->hierarchy_ok = false;
			}
		}
	}
	/* Who is not mentioned has no news. */
	for (unsigned i = 0; i < p->folder_count && list && !r->hangs; i++) {
		bool told = false;

		for (const struct wbxml_node *n = list->first; n; n = n->next) {
			uint64_t id = 0;

			bytes_to_u64(wbxml_text(n, AIRSYNC_CollectionId), UINT32_MAX, &id);
			told |= id == p->folders[i].id;
		}
		for (unsigned k = 0; k < r->folder_count && !told; k++)
			if (r->folders[k] == p->folders[i].id)
				p->folders[i].dirty = false;
	}
	arena_free(&a);
}

static void sync_now(struct phone *p)
{
	/* Not all of them each time: then the next Ping must name the others again. */
	struct phone_folder kept[PHONE_FOLDERS_MAX];
	unsigned n = p->folder_count;

	memcpy(kept, p->folders, n * sizeof(kept[0]));
	for (unsigned i = 0; i < n; i++)
		if (p->folders[i].dirty && sim_permille(100))
			p->folders[i].dirty = false;
	sim_note(p, NULL, "syncs", 0, 0, 0);
	world_write(sync_directly, p);
	for (unsigned i = 0; i < n; i++)
		p->folders[i].dirty = false;
}

/* ---- own changes
 * --------------------------------------------------------------------------------------- */

struct own {
	struct phone *p;
	uint32_t folder, to;
	uint64_t item;
	int deed;
};

static int own_change(struct db_txn *txn, void *arg)
{
	struct own *o = arg;
	uint32_t mailbox = o->p->box->mailbox, device = phone_device(o->p, txn), made;
	struct item_new n = {.item_class = ITEM_EMAIL,
		.time_s = world_wall_ms() / 1000,
		.summary = world_summary(0),
		.body = world_message(0)};
	struct item item;
	uint64_t id;
	char name[32];
	int err;

	if (!device)
		return DB_NOT_FOUND;
	switch (o->deed) {
	case 0:
		err = item_get(txn, mailbox, o->folder, o->item, &item);
		return err ? err
			   : item_set_state(txn, mailbox, o->folder, o->item, !item.read,
				     bytes_of(NULL, 0), device);
	case 1:
		return item_delete(txn, mailbox, o->folder, o->item, device);
	case 2:
		return item_add(txn, mailbox, o->folder, &n, device, &id);
	case 3:
		return item_move(txn, mailbox, o->folder, o->to, o->item, device);
	default:
		snprintf(name, sizeof(name), "o%llu", (unsigned long long)o->item);
		return folder_create(
			txn, mailbox, 0, FOLDER_USER_MAIL, bytes_str(name), device, &made);
	}
}

/* Only what the phone knows: nobody can flag mail that he has not seen. */
static void change_something(struct phone *p)
{
	struct own o = {.p = p, .deed = (int)sim_below(4)};
	struct box_folder *f;
	struct phone_folder *mine;
	struct db_txn txn;
	uint64_t pos = 0;
	uint32_t device;
	bool known;

	if (p->folder_count == 0 || !world.db)
		return;
	mine = &p->folders[sim_below(p->folder_count)];
	f = box_folder(p->box, mine->id);
	if (!is_mail(mine->type) || !f || f->deleted)
		return;
	CHECK(db_read(world.db, &txn) == DB_OK);
	device = phone_device(p, &txn);
	known = device && oracle_position(&txn, p->box->mailbox, device, f->id, &pos);
	db_read_end(&txn);
	if (!known)
		return;
	o.folder = f->id;
	o.to = FOLDER_ID_TRASH;
	if (sim_permille(30)) {
		o.deed = 4;
		o.item = sim_random();
	} else if (o.deed != 2) {
		const struct row *r;

		if (f->n == 0)
			return;
		r = &f->rows[sim_below((uint32_t)f->n)];
		if (!r->live || r->add_seq > pos || (o.deed == 3 && o.folder == o.to))
			return;
		o.item = r->item;
	}
	sim_note(p, NULL, "changes something itself: # in folder #", (uint64_t)o.deed, o.folder, 0);
	world_write(own_change, &o);
}

/* ---- while it waits
 * ------------------------------------------------------------------------------------- */

static void whim(void *arg, uint64_t unused)
{
	struct request *r = arg;
	struct phone *p = r->phone;
	struct wire *old = r->wire;
	unsigned dice = sim_below(100);

	(void)unused;
	if (p->waits_for != r || p->home || !world.up)
		return;
	if (dice < 30) {
		/* The phone has changed networks, say, and comes back; the old one may hang on. */
		p->waits_for = NULL;
		p->wire = NULL;
		if (sim_permille(600))
			drop_wire(p, old);
		step_in(p, sim_between(0, 2 * SECOND));
	} else if (dice < 45) {
		p->waits_for = NULL;
		wire_vanish(old);
		p->wire = NULL;
		step_in(p, sim_between(0, 200 * SECOND));
	} else if (dice < 55) {
		p->waits_for = NULL;
		wire_close(old, sim_permille(500));
		p->wire = NULL;
		step_in(p, sim_between(0, 10 * SECOND));
	} else if (dice < 75) {
		change_something(p);
	} else if (dice < 85) {
		/* Beside the Ping, on a connection of its own. */
		folder_sync(p, wire_open(p, sim_below(world.shards)));
	} else if (!old->dead && !old->client_closed && !old->vanished) {
		/* Pipelined behind the one that hangs. */
		wait_for(p, ping(p, old));
		return;
	}
	if (p->waits_for == r && sim_permille(500))
		sim_at(sim_now_us + sim_between(0, 100 * SECOND), whim, r, 0);
}

/* ---- answers
 * ---------------------------------------------------------------------------------------------- */

static void answered(struct phone *p, struct request *r)
{
	bool waited = p->waits_for == r;

	sim_note(p, NULL, "reads the answer to #: HTTP #, Status #", r->number, (uint64_t)r->http,
		(uint64_t)r->status);
	if (r->http == 200 && r->kind == ASK_FOLDER_SYNC)
		folder_sync_answered(p, r);
	if (!waited) {
		if (r->wire != p->wire && !r->wire->read_first && sim_permille(800))
			wire_close(r->wire, false);
		return;
	}
	p->waits_for = NULL;
	if (p->home)
		return;
	if (r->http == 503) {
		p->not_before_us = sim_now_us + r->retry_s * (uint64_t)SECOND;
		step_in(p, 0);
		return;
	}
	if (r->http != 200 || r->status > 100 || r->status == 8) {
		p->hierarchy_ok = p->hierarchy_ok && sim_permille(500);
		step_in(p, sim_between(1 * SECOND, 60 * SECOND));
		return;
	}
	if (r->kind == ASK_PING)
		ping_answered(p, r);
	else if (r->kind == ASK_SYNC)
		sync_answered(p, r);
	step_in(p, sim_permille(100) ? sim_between(0, 30 * SECOND) : sim_between(0, 500 * MS));
}

/* Length of the first whole answer at the beginning; 0: not whole yet. */
static size_t whole_answer(struct bytes b, int *status_out, size_t *head_out)
{
	const uint8_t *end = memmem(b.p, b.n, "\r\n\r\n", 4);
	const char *length;
	size_t head, n = 0;

	if (!end)
		return 0;
	head = (size_t)(end - b.p) + 4;
	*head_out = head;
	*status_out = atoi((const char *)b.p + 9);
	length = memmem(b.p, head, "Content-Length: ", 16);
	if (length)
		n = (size_t)atoi(length + 16);
	return b.n >= head + n ? head + n : 0;
}

void phone_heard(struct wire *w)
{
	size_t n, head;
	int status;

	while (w->got.n && (n = whole_answer(buf_bytes(&w->got), &status, &head)) > 0) {
		struct request *r = w->read_first;

		if (status != 100) {
			CHECK(r);
			const char *retry = memmem(w->got.p, head, "Retry-After: ", 13);

			w->read_first = r->read_next;
			r->http = status;
			r->retry_s = retry ? (unsigned)atoi(retry + 13) : 0;
		}
		memmove(w->got.p, w->got.p + n, w->got.n - n);
		w->got.n -= n;
		if (status != 100)
			answered(w->phone, r);
		if (w->dead || w->client_closed || w->vanished)
			return;
	}
}

void phone_lost(struct wire *w, bool reset)
{
	struct phone *p = w->phone;

	sim_note(p, NULL, reset ? "wire #: reset" : "wire #: closed", w->number, 0, 0);
	w->dead = true;
	if (p->wire == w)
		p->wire = NULL;
	if (p->waits_for && p->waits_for->wire == w) {
		p->waits_for = NULL;
		if (!p->home)
			step_in(p, sim_between(0, world.up ? 5 * SECOND : 20 * SECOND));
	}
	/* A half-closed connection is closed from this side as well. */
	if (!reset && !w->client_closed)
		w->client_closed = true;
}

/* ---- what next
 * ------------------------------------------------------------------------------------------------
 */

static void step(void *arg, uint64_t generation)
{
	struct phone *p = arg;
	bool dirty = false;

	if (generation != p->generation || p->home || p->waits_for)
		return;
	if (!world.up) {
		step_in(p, sim_between(0, 10 * SECOND));
		return;
	}
	if (!p->hierarchy_ok || sim_permille(10)) {
		wait_for(p, folder_sync(p, wire_for(p, false)));
		return;
	}
	for (unsigned i = 0; i < p->folder_count; i++)
		dirty |= p->folders[i].dirty && is_mail(p->folders[i].type);
	if (dirty && p->syncs_by_request) {
		wait_for(p, sync(p, wire_for(p, false), false));
		return;
	}
	if (dirty) {
		sync_now(p);
		step_in(p, sim_between(0, 300 * MS));
		return;
	}
	if (p->syncs_by_request && p->hangs_in_sync && !sim_permille(150))
		wait_for(p, sync(p, wire_for(p, sim_permille(100)), true));
	else
		wait_for(p, ping(p, wire_for(p, sim_permille(100))));
}

void phone_drops(struct phone *p)
{
	struct wire *w = p->wire;

	if (p->home || !w)
		return;
	p->waits_for = NULL;
	p->wire = NULL;
	if (sim_permille(50))
		wire_vanish(w);
	else
		wire_close(w, sim_permille(500));
	step_in(p, sim_between(0, 300 * MS));
}

void phone_go_home(struct phone *p)
{
	p->home = true;
	p->waits_for = NULL;
}
