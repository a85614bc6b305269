/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/record.h"

/* Each layout is written once, as a list of fields that a codec walks in either direction; a
 * reader and a writer that disagree cannot be written this way. */
struct codec {
	uint8_t *p; /* only written to when encoding */
	size_t n, at;
	bool encoding;
	bool bad;
};

static void f_raw(struct codec *c, void *v, size_t n)
{
	if (c->bad || c->n - c->at < n) {
		c->bad = true;
		return;
	}
	if (c->encoding)
		memcpy(c->p + c->at, v, n);
	else
		memcpy(v, c->p + c->at, n);
	c->at += n;
}

static void f_u8(struct codec *c, uint8_t *v)
{
	f_raw(c, v, 1);
}

static void f_u16(struct codec *c, uint16_t *v)
{
	uint8_t b[2];

	store_be16(b, *v);
	f_raw(c, b, sizeof(b));
	*v = load_be16(b);
}

static void f_u32(struct codec *c, uint32_t *v)
{
	uint8_t b[4];

	store_be32(b, *v);
	f_raw(c, b, sizeof(b));
	*v = load_be32(b);
}

static void f_u64(struct codec *c, uint64_t *v)
{
	uint8_t b[8];

	store_be64(b, *v);
	f_raw(c, b, sizeof(b));
	*v = load_be64(b);
}

static void f_i64(struct codec *c, int64_t *v)
{
	uint64_t u = (uint64_t)*v;

	f_u64(c, &u);
	*v = (int64_t)u;
}

static void f_range(struct codec *c, uint8_t *v, uint8_t min, uint8_t max)
{
	f_u8(c, v);
	if (*v < min || *v > max)
		c->bad = true;
}

/* Through a byte of its own: a bool that holds neither 0 nor 1 is undefined behaviour. */
static void f_bool(struct codec *c, bool *v)
{
	uint8_t b = c->encoding ? *v : 0;

	f_range(c, &b, 0, 1);
	*v = b == 1;
}

/* A length byte, or two for texts that may be longer than 255. */
static void f_text(struct codec *c, char *s, size_t cap)
{
	size_t len = c->encoding ? strnlen(s, cap) : 0;

	if (cap > 256) {
		uint16_t n = (uint16_t)len;
		f_u16(c, &n);
		len = n;
	} else {
		uint8_t n = (uint8_t)len;
		f_u8(c, &n);
		len = n;
	}
	if (len >= cap) {
		c->bad = true;
		return;
	}
	f_raw(c, s, len);
	if (!c->encoding) {
		s[len] = 0;
		if (memchr(s, 0, len))
			c->bad = true;
	}
}
#define F_TEXT(c, field) f_text(c, field, sizeof(field))

static void fields_meta(struct codec *c, struct record_meta *r)
{
	f_u32(c, &r->format);
	f_u64(c, &r->created_ms);
}

static void fields_ids(struct codec *c, struct record_ids *r)
{
	f_u32(c, &r->next_mailbox);
}

static void fields_ref(struct codec *c, struct record_ref *r)
{
	f_u32(c, &r->id);
}

static void fields_account(struct codec *c, struct account *r)
{
	f_u64(c, &r->created_ms);
	F_TEXT(c, r->address);
	F_TEXT(c, r->password_hash);
	F_TEXT(c, r->display_name);
}

static void fields_account_gate(struct codec *c, struct account_gate *r)
{
	f_bool(c, &r->disabled);
	f_u32(c, &r->password_generation);
}

static void fields_counters(struct codec *c, struct record_counters *r)
{
	f_u32(c, &r->next_folder);
	f_u32(c, &r->next_device);
	f_u64(c, &r->next_item);
	f_u64(c, &r->hierarchy_seq);
}

static void fields_folder(struct codec *c, struct folder *r)
{
	f_u32(c, &r->parent);
	f_u8(c, &r->type);
	f_bool(c, &r->deleted);
	f_u64(c, &r->created_seq);
	f_u64(c, &r->hierarchy_seq);
	f_u32(c, &r->hierarchy_origin);
	F_TEXT(c, r->name);
}

static void fields_folder_hot(struct codec *c, struct record_folder_hot *r)
{
	f_u64(c, &r->changed_seq);
	f_u64(c, &r->touched_seq);
	f_u64(c, &r->items);
	f_u64(c, &r->unread);
	if (r->unread > r->items)
		c->bad = true;
}

static void fields_item(struct codec *c, struct item *r)
{
	f_u32(c, &r->folder);
	f_range(c, &r->item_class, ITEM_EMAIL, ITEM_NOTE);
	f_bool(c, &r->read);
	f_i64(c, &r->time_s);
	f_u64(c, &r->created_seq);
	f_u64(c, &r->changed_seq);
	f_u64(c, &r->content_seq);
	f_u32(c, &r->origin);
	f_u64(c, &r->body_bytes);
}

static void fields_change(struct codec *c, struct change *r)
{
	f_u64(c, &r->item);
	f_u64(c, &r->created_seq);
	f_i64(c, &r->time_s);
	f_u32(c, &r->origin);
	f_range(c, &r->kind, JOURNAL_CHANGE, JOURNAL_DELETE);
}

static void fields_tombstone(struct codec *c, struct record_tombstone *r)
{
	f_u64(c, &r->seq);
}

static void fields_device(struct codec *c, struct device *r)
{
	F_TEXT(c, r->device_id);
	F_TEXT(c, r->device_type);
	F_TEXT(c, r->user_agent);
	F_TEXT(c, r->model);
	F_TEXT(c, r->os);
	F_TEXT(c, r->friendly_name);
	F_TEXT(c, r->phone_number);
	F_TEXT(c, r->imei);
	F_TEXT(c, r->os_language);
	F_TEXT(c, r->mobile_operator);
	f_u16(c, &r->version);
	f_u64(c, &r->first_seen_ms);
	F_TEXT(c, r->last_address);
	f_u32(c, &r->policy_key_temporary);
	f_u32(c, &r->hierarchy_key);
	f_u32(c, &r->hierarchy_key_previous);
	f_u64(c, &r->hierarchy_seq_previous);
	f_u16(c, &r->ping_heartbeat_s);
	f_u16(c, &r->ping_folder_count);
	if (r->ping_folder_count > PING_FOLDERS_MAX)
		c->bad = true;
	for (size_t i = 0; !c->bad && i < r->ping_folder_count; i++)
		f_u32(c, &r->ping_folders[i]);
}

static void fields_device_gate(struct codec *c, struct device_gate *r)
{
	f_u32(c, &r->id);
	f_bool(c, &r->blocked);
	f_u32(c, &r->policy_key);
	f_u32(c, &r->policy_generation);
	f_u64(c, &r->hierarchy_seq);
	f_u64(c, &r->last_seen_ms);
}

static void fields_position(struct codec *c, struct sync_position *r)
{
	f_u64(c, &r->seq);
	f_i64(c, &r->floor_time_s);
	f_u64(c, &r->floor_id);
}

static void fields_collection(struct codec *c, struct collection *r)
{
	f_u32(c, &r->key);
	f_u32(c, &r->key_previous);
	fields_position(c, &r->now);
	fields_position(c, &r->previous);
	f_u8(c, &r->filter_type);
	f_u8(c, &r->conflict);
	f_u8(c, &r->mime_support);
	f_u8(c, &r->mime_truncation);
	f_bool(c, &r->deletes_as_moves);
	f_u32(c, &r->pending_ops_hash);
	f_range(c, &r->preference_count, 0, sizeof(r->preferences) / sizeof(r->preferences[0]));
	for (size_t i = 0; !c->bad && i < r->preference_count; i++) {
		f_u8(c, &r->preferences[i].type);
		f_bool(c, &r->preferences[i].all_or_none);
		f_bool(c, &r->preferences[i].has_truncation);
		f_u8(c, &r->preferences[i].preview);
		f_u32(c, &r->preferences[i].truncation_bytes);
	}
}

static void fields_journal(struct codec *c, struct journal_row *r)
{
	f_u32(c, &r->mailbox);
	f_u32(c, &r->folder);
	f_u64(c, &r->item);
	f_i64(c, &r->item_time_s);
	f_u32(c, &r->origin);
	f_u32(c, &r->device);
	f_range(c, &r->kind, JOURNAL_ADD, JOURNAL_TOUCH);
}

/* Versions are per record: a new layout of one raises only its own number, and its decoder then
 * takes both. */
#define RECORD_FUNCTIONS(name, type)                                                               \
	int record_decode_##name(struct bytes in, type *out)                                       \
	{                                                                                          \
		struct codec c = {.p = (uint8_t *)(uintptr_t)in.p, .n = in.n};                     \
		uint8_t version = 0;                                                               \
                                                                                                   \
		memset(out, 0, sizeof(*out));                                                      \
		f_range(&c, &version, 1, 1);                                                       \
		if (!c.bad)                                                                        \
			fields_##name(&c, out);                                                    \
		return c.bad || c.at != c.n ? DB_CORRUPT : DB_OK;                                  \
	}                                                                                          \
	struct bytes record_encode_##name(struct record_buf *b, const type *r)                     \
	{                                                                                          \
		struct codec c = {.p = b->b, .n = sizeof(b->b), .encoding = true};                 \
		uint8_t version = 1;                                                               \
		type copy = *r; /* a codec may write to what it walks */                           \
                                                                                                   \
		f_u8(&c, &version);                                                                \
		fields_##name(&c, &copy);                                                          \
		return c.bad ? bytes_of(NULL, 0) : bytes_of(b->b, c.at);                           \
	}
RECORDS(RECORD_FUNCTIONS)

static int first_text(struct codec *c, char *out, size_t cap)
{
	f_text(c, out, cap);
	return c->bad ? DB_CORRUPT : DB_OK;
}

int record_account_address(struct bytes in, char out[ACCOUNT_ADDRESS_MAX + 1])
{
	struct codec c = {.p = (uint8_t *)(uintptr_t)in.p, .n = in.n};
	uint8_t version = 0;
	uint64_t created_ms = 0;

	f_range(&c, &version, 1, 1);
	f_u64(&c, &created_ms);
	return first_text(&c, out, ACCOUNT_ADDRESS_MAX + 1);
}

int record_device_id(struct bytes in, char out[DEVICE_ID_MAX + 1])
{
	struct codec c = {.p = (uint8_t *)(uintptr_t)in.p, .n = in.n};
	uint8_t version = 0;

	f_range(&c, &version, 1, 1);
	return first_text(&c, out, DEVICE_ID_MAX + 1);
}
