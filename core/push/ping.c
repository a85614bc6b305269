/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/push/ping.h"

#include "core/base/check.h"
#include "core/config/config.h"
#include "core/eas/eas.h"
#include "core/eas/wbxml.h"
#include "store/journal.h"
#include "store/mailbox.h"

static bool refuse(struct ping *p, enum ping_status status, const char *why)
{
	p->status = status;
	p->why = why;
	return false;
}

static bool undecodable(struct ping *p, uint16_t version, const char *why)
{
	/* MS-ASCMD 2.2.2: bytes that are no WBXML are 102 from 14.0 on, HTTP 400 before. */
	return refuse(p, version >= 140 ? PING_WBXML : PING_BAD_REQUEST, why);
}

static bool class_word_ok(struct bytes v)
{
	static const char *const words[] = {
		"Email", "Calendar", "Contacts", "Tasks", "Notes", "SMS"};

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (bytes_eq_nocase(v, words[i]))
			return true;
	return false;
}

/* Seconds as text: digits, maybe a minus sign. What is too large to matter stays too large. */
static bool parse_interval(struct bytes v, int64_t *out)
{
	bool minus = v.n > 1 && v.p[0] == '-';
	struct bytes digits = minus ? bytes_of(v.p + 1, v.n - 1) : v;
	uint64_t n = 0;

	if (digits.n == 0)
		return false;
	for (size_t i = 0; i < digits.n; i++) {
		if (digits.p[i] < '0' || digits.p[i] > '9')
			return false;
		if (n < 1000000000)
			n = n * 10 + (uint64_t)(digits.p[i] - '0');
	}
	*out = minus ? -(int64_t)n : (int64_t)n;
	return true;
}

static bool add_folder(struct ping *p, struct bytes id)
{
	uint32_t folder = eas_folder_id(id);

	p->asked_count++;
	if (!folder) {
		p->unknown_count++;
		return true;
	}
	for (uint32_t i = 0; i < p->folder_count; i++)
		if (p->folders[i] == folder)
			return refuse(p, PING_SYNTAX, "the same folder twice");
	if (p->folder_count < PING_FOLDERS_MAX)
		p->folders[p->folder_count++] = folder;
	return true;
}

/* Text pieces of one value, joined. */
struct value {
	char text[80];
	size_t n;
	bool cut;
};

static void value_add(struct value *v, struct bytes b)
{
	if (b.n > sizeof(v->text) - v->n) {
		v->cut = true;
		return;
	}
	memcpy(v->text + v->n, b.p, b.n);
	v->n += b.n;
}

static bool take_value(struct ping *p, uint16_t tag, const struct value *v, bool *has_id)
{
	struct bytes text = bytes_of(v->text, v->n);

	switch (tag) {
	case PING_HeartbeatInterval:
		if (p->has_heartbeat)
			return refuse(p, PING_SYNTAX, "HeartbeatInterval twice");
		if (v->cut || !parse_interval(text, &p->heartbeat_asked_s))
			return refuse(p, PING_SYNTAX, "HeartbeatInterval is not a number");
		p->has_heartbeat = true;
		return true;
	case PING_Id:
		if (*has_id || v->cut || v->n == 0 || v->n > 64)
			return refuse(p, PING_SYNTAX, "a folder Id is empty, too long or doubled");
		*has_id = true;
		return add_folder(p, text);
	case PING_Class:
		if (v->cut || !class_word_ok(text))
			return refuse(p, PING_SYNTAX, "unknown Class");
		return true;
	default:
		return true;
	}
}

bool ping_parse(struct ping *p, struct bytes body, uint16_t version)
{
	struct wbxml_reader r;
	struct wbxml_event ev;
	struct value v = {.n = 0};
	bool has_id = false;
	int k;

	p->has_heartbeat = p->has_folders = p->remember = false;
	p->asked_count = p->unknown_count = 0;
	p->heartbeat_asked_s = 0;
	p->heartbeat_s = p->folder_count = p->changed_count = 0;
	p->status = PING_PARK;
	p->limit = 0;
	p->why = NULL;
	p->since_seq = 0;
	if (body.n == 0)
		return true; /* everything from the cache */
	wbxml_reader_init(&r, body);
	while ((k = wbxml_next(&r, &ev)) > 0) {
		if (p->status != PING_PARK)
			continue; /* syntax is wrong already, but the rest may be no WBXML at all */
		if (ev.unknown) {
			if (ev.depth == 1)
				refuse(p, PING_SYNTAX, "not a Ping document");
			continue;
		}
		switch (ev.kind) {
		case WBXML_START:
			if (ev.depth == 1 && ev.tag != PING_Ping)
				refuse(p, PING_SYNTAX, "not a Ping document");
			else if (ev.depth == 2 && ev.tag == PING_Folders && p->has_folders)
				refuse(p, PING_SYNTAX, "Folders twice");
			else if (ev.depth == 2 && ev.tag == PING_Folders)
				p->has_folders = true;
			else if (ev.depth == 3 && ev.tag == PING_Folder)
				has_id = false;
			v = (struct value){.n = 0};
			break;
		case WBXML_TEXT:
			value_add(&v, ev.text);
			break;
		case WBXML_END:
			if (ev.tag == PING_Folder && ev.depth == 3 && !has_id)
				refuse(p, PING_SYNTAX, "a Folder without Id");
			else if ((ev.tag == PING_HeartbeatInterval && ev.depth == 2) ||
				 ((ev.tag == PING_Id || ev.tag == PING_Class) && ev.depth == 4))
				take_value(p, ev.tag, &v, &has_id);
			break;
		default:
			break;
		}
	}
	if (k < 0)
		return undecodable(p, version, r.why);
	if (p->status != PING_PARK)
		return false;
	if (!p->has_heartbeat && !p->has_folders)
		return refuse(p, PING_SYNTAX, "neither HeartbeatInterval nor Folders");
	if (p->has_folders && p->asked_count == 0)
		return refuse(p, PING_SYNTAX, "Folders is empty");
	return true;
}

/* Fills in what the request left out, and notes whether the cache must be written. */
static bool merge_cached(struct ping *p, const struct device *d)
{
	p->remember = false;
	if (!p->has_folders) {
		if (d->ping_folder_count == 0)
			return refuse(p, PING_MISSING, "no folders sent, none remembered");
		p->folder_count = d->ping_folder_count;
		p->asked_count = d->ping_folder_count;
		memcpy(p->folders, d->ping_folders, d->ping_folder_count * sizeof(p->folders[0]));
	} else if (d->ping_folder_count != p->folder_count ||
		   memcmp(d->ping_folders, p->folders, p->folder_count * sizeof(p->folders[0])) !=
			   0) {
		p->remember = true;
	}
	if (!p->has_heartbeat) {
		if (d->ping_heartbeat_s == 0)
			return refuse(p, PING_MISSING, "no interval sent, none remembered");
		p->heartbeat_asked_s = d->ping_heartbeat_s;
	} else if (p->heartbeat_asked_s != d->ping_heartbeat_s) {
		p->remember = true;
	}
	return true;
}

int ping_hierarchy_moved(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint64_t seen_seq)
{
	struct folder f;
	uint32_t id = 0;
	int err;

	if (mailbox_hierarchy_seq(txn, mailbox) <= seen_seq)
		return 0;
	/* Something moved: was any of it somebody else's doing? */
	while ((err = folder_next(txn, mailbox, &id, &f)) == DB_OK)
		if (f.hierarchy_seq > seen_seq && f.hierarchy_origin != device)
			return 1;
	return err == DB_NOT_FOUND ? 0 : err;
}

size_t ping_compare(struct db_txn *txn, uint32_t mailbox, uint32_t device, const uint32_t *folders,
	size_t folder_count, uint64_t now_ms, uint32_t *changed_out)
{
	size_t n = 0;

	for (size_t i = 0; i < folder_count; i++)
		/* A folder that cannot be read is worth a Sync, which will say why. */
		if (eas_folder_has_news(txn, mailbox, device, folders[i], now_ms) != 0)
			changed_out[n++] = folders[i];
	return n;
}

void ping_decide(struct ping *p, struct db_txn *txn, const struct config *c, uint32_t mailbox,
	uint32_t device, uint64_t now_ms)
{
	struct device d;
	struct folder f;
	int err = device_get(txn, mailbox, device, &d);

	if (err == DB_NOT_FOUND || (err == DB_OK && d.hierarchy_seq == 0 && d.hierarchy_key == 0)) {
		/* No FolderSync was ever done: without one no Id can be right. Parameters come first. */
		struct device none = {.id = 0};

		if (err == DB_NOT_FOUND && !merge_cached(p, &none))
			return;
		refuse(p, PING_HIERARCHY, "this device has not done a FolderSync");
		return;
	}
	if (err != DB_OK) {
		refuse(p, PING_ERROR, db_strerror(err));
		return;
	}
	if (!merge_cached(p, &d))
		return;
	if (p->heartbeat_asked_s < c->push_heartbeat_min_s) {
		p->limit = (uint32_t)c->push_heartbeat_min_s;
		refuse(p, PING_INTERVAL, "heartbeat interval below push.heartbeat_min_s");
		return;
	}
	if (p->heartbeat_asked_s > c->push_heartbeat_max_s) {
		p->limit = (uint32_t)c->push_heartbeat_max_s;
		refuse(p, PING_INTERVAL, "heartbeat interval above push.heartbeat_max_s");
		return;
	}
	p->heartbeat_s = (uint16_t)p->heartbeat_asked_s;
	if (p->asked_count > (uint32_t)c->push_folders_max) {
		p->limit = (uint32_t)c->push_folders_max;
		refuse(p, PING_FOLDERS, "more folders than push.folders_max");
		return;
	}
	p->since_seq = journal_head(txn);
	err = ping_hierarchy_moved(txn, mailbox, device, d.hierarchy_seq);
	if (err < 0) {
		refuse(p, PING_ERROR, db_strerror(err));
		return;
	}
	if (err > 0) {
		refuse(p, PING_HIERARCHY, "the folder hierarchy changed since the last FolderSync");
		return;
	}
	for (uint32_t i = 0; i < p->folder_count; i++) {
		err = folder_get(txn, mailbox, p->folders[i], &f);
		if (err == DB_NOT_FOUND || (err == DB_OK && f.deleted)) {
			p->changed[p->changed_count++] = p->folders[i];
		} else if (err != DB_OK) {
			refuse(p, PING_ERROR, db_strerror(err));
			return;
		}
	}
	if (p->unknown_count || p->changed_count) {
		refuse(p, PING_HIERARCHY, "a folder Id that is unknown or deleted");
		return;
	}
	p->changed_count = (uint16_t)ping_compare(
		txn, mailbox, device, p->folders, p->folder_count, now_ms, p->changed);
	p->status = p->changed_count ? PING_CHANGES : PING_PARK;
}

/* A writer without memory of its own: the answer is small and its shape fixed. */
struct out {
	uint8_t *p;
	size_t n;
};

static void put(struct out *o, uint8_t b)
{
	o->p[o->n++] = b;
}

static void put_number(struct out *o, uint8_t token, uint32_t v)
{
	char digits[12];
	int n = 0;

	do
		digits[n++] = (char)('0' + v % 10);
	while (v /= 10);
	put(o, token | 0x40);
	put(o, 0x03); /* STR_I */
	while (n)
		put(o, (uint8_t)digits[--n]);
	put(o, 0x00);
	put(o, 0x01); /* END */
}

size_t ping_encode(enum ping_status status, uint32_t limit, const uint32_t *folders,
	size_t folder_count, uint8_t out[PING_ANSWER_MAX])
{
	/* MS-ASWBXML 2.1.2.1.14: header, SWITCH_PAGE 13, Ping with content. */
	static const uint8_t head[] = {0x03, 0x01, 0x6a, 0x00, 0x00, 0x0d, 0x45};
	struct out o = {.p = out};

	CHECK(folder_count <= PING_FOLDERS_MAX);
	memcpy(out, head, sizeof(head));
	o.n = sizeof(head);
	put_number(&o, PING_Status & 0x3f, (uint32_t)status);
	if (status == PING_CHANGES) {
		CHECK(folder_count > 0);
		put(&o, (PING_Folders & 0x3f) | 0x40);
		for (size_t i = 0; i < folder_count; i++)
			put_number(&o, PING_Folder & 0x3f, folders[i]);
		put(&o, 0x01);
	} else if (status == PING_FOLDERS) {
		put_number(&o, PING_MaxFolders & 0x3f, limit);
	} else if (status == PING_INTERVAL) {
		put_number(&o, PING_HeartbeatInterval & 0x3f, limit);
	}
	put(&o, 0x01);
	return o.n;
}
