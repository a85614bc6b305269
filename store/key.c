/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/key.h"
#include "core/base/check.h"

/* First byte of every key. The journal's must be the greatest: its rows are put with the
 * "append" flag, which LMDB refuses for a key below the last one. */
enum { AREA_META = 0x01, AREA_ADDRESS = 0x02, AREA_MAILBOX = 0x03, AREA_JOURNAL = 0xff };

/* What follows the area (and for AREA_MAILBOX the mailbox and `code`). */
enum field { F_END, F_PART, F_FOLDER, F_DEVICE, F_ITEM, F_SEQ, F_TIME, F_TEXT };

/* Codes of records that are written together are neighbours. */
static const struct layout {
	uint8_t area, code;
	uint8_t fields[3];
} layouts[KEY_KINDS] = {
	[KEY_META] = {AREA_META, 0, {F_PART}},
	[KEY_ADDRESS] = {AREA_ADDRESS, 0, {F_TEXT}},
	[KEY_ACCOUNT] = {AREA_MAILBOX, 0x01, {F_END}},
	[KEY_ACCOUNT_GATE] = {AREA_MAILBOX, 0x02, {F_END}},
	[KEY_COUNTERS] = {AREA_MAILBOX, 0x03, {F_END}},
	[KEY_FOLDER] = {AREA_MAILBOX, 0x10, {F_FOLDER}},
	[KEY_FOLDER_HOT] = {AREA_MAILBOX, 0x11, {F_FOLDER}},
	[KEY_FOLDER_NAME] = {AREA_MAILBOX, 0x12, {F_FOLDER, F_TEXT}},
	[KEY_ITEM] = {AREA_MAILBOX, 0x20, {F_ITEM, F_PART}},
	[KEY_CHANGE] = {AREA_MAILBOX, 0x21, {F_FOLDER, F_SEQ}},
	[KEY_DATE] = {AREA_MAILBOX, 0x22, {F_FOLDER, F_TIME, F_ITEM}},
	[KEY_TOMBSTONE] = {AREA_MAILBOX, 0x23, {F_FOLDER, F_ITEM}},
	[KEY_DEVICE] = {AREA_MAILBOX, 0x30, {F_DEVICE}},
	[KEY_DEVICE_GATE] = {AREA_MAILBOX, 0x31, {F_TEXT}},
	[KEY_COLLECTION] = {AREA_MAILBOX, 0x32, {F_DEVICE, F_FOLDER}},
	[KEY_BLOB] = {AREA_MAILBOX, 0x33, {F_DEVICE, F_PART}},
	[KEY_JOURNAL] = {AREA_JOURNAL, 0, {F_SEQ}},
};

/* Two's complement with the sign bit turned, so that times before 1970 sort before later ones. */
static uint64_t time_bits(int64_t t)
{
	return (uint64_t)t ^ UINT64_C(1) << 63;
}

struct bytes key_build(struct key *k, const struct key_parts *v)
{
	CHECK(v->kind < KEY_KINDS);
	const struct layout *l = &layouts[v->kind];
	uint8_t *p = k->b;

	*p++ = l->area;
	if (l->area == AREA_MAILBOX) {
		store_be32(p, v->mailbox);
		p[4] = l->code;
		p += 5;
	}
	for (size_t i = 0; i < ARRAY_LEN(l->fields) && l->fields[i] != F_END; i++) {
		switch ((enum field)l->fields[i]) {
		case F_PART:
			*p++ = v->part;
			break;
		case F_FOLDER:
			store_be32(p, v->folder);
			p += 4;
			break;
		case F_DEVICE:
			store_be32(p, v->device);
			p += 4;
			break;
		case F_ITEM:
			store_be64(p, v->item);
			p += 8;
			break;
		case F_SEQ:
			store_be64(p, v->seq);
			p += 8;
			break;
		case F_TIME:
			store_be64(p, time_bits(v->time_s));
			p += 8;
			break;
		case F_TEXT:
			if (v->text.n > (size_t)(k->b + sizeof(k->b) - p))
				return bytes_of(NULL, 0);
			if (v->text.n)
				memcpy(p, v->text.p, v->text.n);
			p += v->text.n;
			break;
		case F_END:
			break;
		}
	}
	return bytes_of(k->b, (size_t)(p - k->b));
}

static bool take(struct bytes *in, size_t n, const uint8_t **p)
{
	if (in->n < n)
		return false;
	*p = in->p;
	in->p += n;
	in->n -= n;
	return true;
}

bool key_parse(struct bytes in, struct key_parts *out)
{
	struct key_parts v = {.kind = KEY_KINDS};
	const uint8_t *p;
	uint8_t area, code = 0;

	if (in.n > KEY_BYTES_MAX || !take(&in, 1, &p))
		return false;
	area = *p;
	if (area == AREA_MAILBOX) {
		if (!take(&in, 5, &p))
			return false;
		v.mailbox = load_be32(p);
		code = p[4];
	}
	for (int kind = 0; kind < KEY_KINDS; kind++)
		if (layouts[kind].area == area && layouts[kind].code == code)
			v.kind = (enum key_kind)kind;
	if (v.kind == KEY_KINDS)
		return false;
	const struct layout *l = &layouts[v.kind];
	for (size_t i = 0; i < ARRAY_LEN(l->fields) && l->fields[i] != F_END; i++) {
		switch ((enum field)l->fields[i]) {
		case F_PART:
			if (!take(&in, 1, &p))
				return false;
			v.part = *p;
			break;
		case F_FOLDER:
		case F_DEVICE:
			if (!take(&in, 4, &p))
				return false;
			*(l->fields[i] == F_FOLDER ? &v.folder : &v.device) = load_be32(p);
			break;
		case F_ITEM:
		case F_SEQ:
			if (!take(&in, 8, &p))
				return false;
			*(l->fields[i] == F_ITEM ? &v.item : &v.seq) = load_be64(p);
			break;
		case F_TIME:
			if (!take(&in, 8, &p))
				return false;
			v.time_s = (int64_t)time_bits((int64_t)load_be64(p));
			break;
		case F_TEXT:
			v.text = in;
			in.n = 0;
			break;
		case F_END:
			break;
		}
	}
	if (in.n)
		return false;
	*out = v;
	return true;
}

struct bytes key_meta(struct key *k, enum key_meta what)
{
	return key_build(k, &(struct key_parts){.kind = KEY_META, .part = (uint8_t)what});
}

struct bytes key_address(struct key *k, struct bytes address)
{
	return key_build(k, &(struct key_parts){.kind = KEY_ADDRESS, .text = address});
}

struct bytes key_account(struct key *k, uint32_t mailbox)
{
	return key_build(k, &(struct key_parts){.kind = KEY_ACCOUNT, .mailbox = mailbox});
}

struct bytes key_account_gate(struct key *k, uint32_t mailbox)
{
	return key_build(k, &(struct key_parts){.kind = KEY_ACCOUNT_GATE, .mailbox = mailbox});
}

struct bytes key_counters(struct key *k, uint32_t mailbox)
{
	return key_build(k, &(struct key_parts){.kind = KEY_COUNTERS, .mailbox = mailbox});
}

struct bytes key_folder(struct key *k, uint32_t mailbox, uint32_t folder)
{
	return key_build(
		k, &(struct key_parts){.kind = KEY_FOLDER, .mailbox = mailbox, .folder = folder});
}

struct bytes key_folder_hot(struct key *k, uint32_t mailbox, uint32_t folder)
{
	return key_build(k,
		&(struct key_parts){.kind = KEY_FOLDER_HOT, .mailbox = mailbox, .folder = folder});
}

struct bytes key_folder_name(struct key *k, uint32_t mailbox, uint32_t parent, struct bytes name)
{
	return key_build(k, &(struct key_parts){.kind = KEY_FOLDER_NAME,
				    .mailbox = mailbox,
				    .folder = parent,
				    .text = name});
}

struct bytes key_item(struct key *k, uint32_t mailbox, uint64_t item, enum key_part part)
{
	return key_build(k,
		&(struct key_parts){
			.kind = KEY_ITEM, .mailbox = mailbox, .item = item, .part = (uint8_t)part});
}

struct bytes key_change(struct key *k, uint32_t mailbox, uint32_t folder, uint64_t seq)
{
	return key_build(
		k, &(struct key_parts){
			   .kind = KEY_CHANGE, .mailbox = mailbox, .folder = folder, .seq = seq});
}

struct bytes key_date(
	struct key *k, uint32_t mailbox, uint32_t folder, int64_t time_s, uint64_t item)
{
	return key_build(k, &(struct key_parts){.kind = KEY_DATE,
				    .mailbox = mailbox,
				    .folder = folder,
				    .time_s = time_s,
				    .item = item});
}

struct bytes key_tombstone(struct key *k, uint32_t mailbox, uint32_t folder, uint64_t item)
{
	return key_build(k,
		&(struct key_parts){
			.kind = KEY_TOMBSTONE, .mailbox = mailbox, .folder = folder, .item = item});
}

struct bytes key_device(struct key *k, uint32_t mailbox, uint32_t device)
{
	return key_build(
		k, &(struct key_parts){.kind = KEY_DEVICE, .mailbox = mailbox, .device = device});
}

struct bytes key_device_gate(struct key *k, uint32_t mailbox, struct bytes device_id)
{
	return key_build(
		k, &(struct key_parts){
			   .kind = KEY_DEVICE_GATE, .mailbox = mailbox, .text = device_id});
}

struct bytes key_collection(struct key *k, uint32_t mailbox, uint32_t device, uint32_t folder)
{
	return key_build(k, &(struct key_parts){.kind = KEY_COLLECTION,
				    .mailbox = mailbox,
				    .device = device,
				    .folder = folder});
}

struct bytes key_blob(struct key *k, uint32_t mailbox, uint32_t device, uint8_t kind)
{
	return key_build(
		k, &(struct key_parts){
			   .kind = KEY_BLOB, .mailbox = mailbox, .device = device, .part = kind});
}

struct bytes key_journal(struct key *k, uint64_t seq)
{
	return key_build(k, &(struct key_parts){.kind = KEY_JOURNAL, .seq = seq});
}

struct bytes key_prefix_kind(struct key *k, enum key_kind kind)
{
	CHECK(layouts[kind].area != AREA_MAILBOX);
	k->b[0] = layouts[kind].area;
	return bytes_of(k->b, 1);
}

struct bytes key_prefix_mailbox(struct key *k, uint32_t mailbox)
{
	k->b[0] = AREA_MAILBOX;
	store_be32(k->b + 1, mailbox);
	return bytes_of(k->b, 5);
}

struct bytes key_prefix(struct key *k, uint32_t mailbox, enum key_kind kind)
{
	CHECK(layouts[kind].area == AREA_MAILBOX);
	key_prefix_mailbox(k, mailbox);
	k->b[5] = layouts[kind].code;
	return bytes_of(k->b, 6);
}

struct bytes key_prefix_id(struct key *k, uint32_t mailbox, enum key_kind kind, uint32_t id)
{
	CHECK(layouts[kind].fields[0] == F_FOLDER || layouts[kind].fields[0] == F_DEVICE);
	key_prefix(k, mailbox, kind);
	store_be32(k->b + 6, id);
	return bytes_of(k->b, 10);
}

struct bytes key_prefix_item(struct key *k, uint32_t mailbox, uint64_t item)
{
	key_prefix(k, mailbox, KEY_ITEM);
	store_be64(k->b + 6, item);
	return bytes_of(k->b, 14);
}

struct bytes key_after(struct key *k, struct bytes key)
{
	CHECK(key.n <= sizeof(k->b));
	memmove(k->b, key.p, key.n);
	if (key.n < sizeof(k->b)) {
		k->b[key.n] = 0;
		return bytes_of(k->b, key.n + 1);
	}
	/* No key is longer: count up instead. All 0xff cannot be, the journal's keys are short. */
	size_t n = key.n;
	while (n > 0 && ++k->b[n - 1] == 0)
		n--;
	return bytes_of(k->b, n);
}
