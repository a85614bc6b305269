/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Whatever the query, what comes out of it is fit for keys and logs, and survives being written as
 * a plain query and read again. */
#include "core/eas/query.h"

#include <stdio.h>
#include <stdlib.h>

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check_text(const char *s, size_t cap)
{
	size_t n = strnlen(s, cap);

	must(n < cap && bytes_is_utf8(bytes_of(s, n)));
	for (size_t i = 0; i < n; i++)
		must((uint8_t)s[i] >= 0x20 && s[i] != 0x7f);
}

static void check_query(const struct eas_query *q)
{
	for (const char *s = q->device_id; *s; s++)
		must(strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", *s) ||
			(s > q->device_id && strchr("-_.", *s)));
	check_text(q->device_id, sizeof(q->device_id));
	check_text(q->device_type, sizeof(q->device_type));
	check_text(q->user, sizeof(q->user));
	check_text(q->attachment_name, sizeof(q->attachment_name));
	check_text(q->collection_id, sizeof(q->collection_id));
	check_text(q->item_id, sizeof(q->item_id));
	check_text(q->long_id, sizeof(q->long_id));
	check_text(q->occurrence, sizeof(q->occurrence));
	must(q->is_base64 == (q->version != 0));
	must(q->version == 0 || eas_version_name(q->version));
	must(q->is_base64 || (!q->has_policy_key && !q->accept_multipart && q->locale == 0));
	must(!q->is_base64 || q->device_id[0]);
	must(q->command >= EAS_COMMAND_NONE && q->command < EAS_COMMAND_COUNT);
}

static void add(struct buf *b, const char *name, const char *value)
{
	buf_printf(b, "&%s=", name);
	for (; *value; value++)
		buf_printf(b, "%%%02X", (uint8_t)*value);
}

static void check_plain_again(const struct eas_query *q)
{
	struct eas_query again;
	struct buf b = {0};
	const char *why;

	buf_printf(&b, "SaveInSent=%c", q->save_in_sent ? 'T' : 'F');
	add(&b, "Cmd", eas_command_name(q->command));
	add(&b, "User", q->user);
	add(&b, "DeviceId", q->device_id);
	add(&b, "DeviceType", q->device_type);
	add(&b, "AttachmentName", q->attachment_name);
	add(&b, "CollectionId", q->collection_id);
	add(&b, "ItemId", q->item_id);
	add(&b, "LongId", q->long_id);
	add(&b, "Occurrence", q->occurrence);
	must(eas_query_parse(buf_bytes(&b), &again, &why) ==
		(q->command == EAS_COMMAND_NONE ? EAS_QUERY_UNKNOWN_COMMAND : 1));
	must(again.command == q->command && again.save_in_sent == q->save_in_sent);
	must(strcmp(again.user, q->user) == 0 && strcmp(again.device_id, q->device_id) == 0 &&
		strcmp(again.device_type, q->device_type) == 0 &&
		strcmp(again.attachment_name, q->attachment_name) == 0 &&
		strcmp(again.collection_id, q->collection_id) == 0 &&
		strcmp(again.item_id, q->item_id) == 0 && strcmp(again.long_id, q->long_id) == 0 &&
		strcmp(again.occurrence, q->occurrence) == 0);
	buf_free(&b);
}

static int parse(struct bytes query)
{
	static struct eas_query q;
	const char *why = NULL;
	int rc;

	memset(&q, 0x55, sizeof(q));
	rc = eas_query_parse(query, &q, &why);
	must(rc == 1 || why);
	if (rc == EAS_QUERY_MALFORMED)
		return rc;
	must(rc == 1 || rc == EAS_QUERY_UNKNOWN_COMMAND);
	must((rc == 1) == (q.command != EAS_COMMAND_NONE));
	check_query(&q);
	check_plain_again(&q);
	return rc;
}

static void base64_encode(struct bytes in, struct buf *out)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < in.n; i += 3) {
		uint32_t v = (uint32_t)in.p[i] << 16;

		if (i + 1 < in.n)
			v |= (uint32_t)in.p[i + 1] << 8;
		if (i + 2 < in.n)
			v |= in.p[i + 2];
		buf_add_byte(out, (uint8_t)letters[v >> 18]);
		buf_add_byte(out, (uint8_t)letters[v >> 12 & 63]);
		if (i + 1 < in.n)
			buf_add_byte(out, (uint8_t)letters[v >> 6 & 63]);
		if (i + 2 < in.n)
			buf_add_byte(out, (uint8_t)letters[v & 63]);
	}
}

/* The input as the query itself, and as the bytes behind a base64 query, once with padding and once
 * without: base64 alone would keep most inputs from getting past the decoder. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct buf text = {0};
	int bare;

	parse(bytes_of(p, n));
	if (n == 0)
		return 0;
	base64_encode(bytes_of(p, n), &text);
	bare = parse(buf_bytes(&text));
	if (text.n < EAS_QUERY_BYTES_MAX - 4) {
		while (text.n % 4)
			buf_add_byte(&text, '=');
		must(parse(buf_bytes(&text)) == bare);
	}
	buf_free(&text);
	return 0;
}
