/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/query.h"

#include "core/base/check.h"
#include "core/base/encoding.h"

static const char *const command_names[] = {
#define X(code, id, name) [code] = name,
	EAS_COMMANDS(X)
#undef X
};
_Static_assert(ARRAY_LEN(command_names) == EAS_COMMAND_COUNT, "one name per code");

static const struct {
	const char *name;
	int version;
} versions[] = {
	{"2.5", 25},
	{"12.0", 120},
	{"12.1", 121},
	{"14.0", 140},
	{"14.1", 141},
	{"16.0", 160},
	{"16.1", 161},
};

const char *eas_command_name(enum eas_command command)
{
	if (command <= EAS_COMMAND_NONE || command >= EAS_COMMAND_COUNT)
		return "unknown";
	return command_names[command];
}

enum eas_command eas_command_by_name(struct bytes name)
{
	for (int i = 0; i < EAS_COMMAND_COUNT; i++)
		if (bytes_eq_nocase(name, command_names[i]))
			return (enum eas_command)i;
	return EAS_COMMAND_NONE;
}

int eas_version_parse(struct bytes text)
{
	for (size_t i = 0; i < ARRAY_LEN(versions); i++)
		if (bytes_eq_str(text, versions[i].name))
			return versions[i].version;
	return -1;
}

const char *eas_version_name(int version)
{
	for (size_t i = 0; i < ARRAY_LEN(versions); i++)
		if (versions[i].version == version)
			return versions[i].name;
	return NULL;
}

/* What a parameter may be, in either form. */
enum param {
	PARAM_USER,
	PARAM_DEVICE_ID,
	PARAM_DEVICE_TYPE,
	PARAM_ATTACHMENT_NAME,
	PARAM_COLLECTION_ID,
	PARAM_ITEM_ID,
	PARAM_LONG_ID,
	PARAM_OCCURRENCE,
	PARAM_COUNT,
};

struct param_info {
	const char *name; /* plain form */
	size_t offset, cap;
	const char *bad, *twice;
	int16_t tag; /* base64 form, -1: a field of its own */
};

#define PARAM(text, tag_, field)                                                                   \
	{                                                                                          \
		.name = text, .tag = tag_, .offset = offsetof(struct eas_query, field),            \
		.cap = sizeof(((struct eas_query *)0)->field), .bad = "bad " text,                 \
		.twice = text " given twice"                                                       \
	}
static const struct param_info params[PARAM_COUNT] = {
	[PARAM_USER] = PARAM("User", 8, user),
	[PARAM_DEVICE_ID] = PARAM("DeviceId", -1, device_id),
	[PARAM_DEVICE_TYPE] = PARAM("DeviceType", -1, device_type),
	[PARAM_ATTACHMENT_NAME] = PARAM("AttachmentName", 0, attachment_name),
	[PARAM_COLLECTION_ID] = PARAM("CollectionId", 1, collection_id),
	[PARAM_ITEM_ID] = PARAM("ItemId", 3, item_id),
	[PARAM_LONG_ID] = PARAM("LongId", 4, long_id),
	[PARAM_OCCURRENCE] = PARAM("Occurrence", 6, occurrence),
};

enum { TAG_OPTIONS = 7, OPTION_SAVE_IN_SENT = 0x01, OPTION_ACCEPT_MULTIPART = 0x02 };

/* One parse: the result so far, which parameters were seen, and the first failure. */
struct query_reader {
	struct eas_query q;
	uint32_t seen; /* 1 << enum param, and the three below */
	const char *why;
};
enum { SEEN_CMD = 1u << 16, SEEN_SAVE_IN_SENT = 1u << 17, SEEN_OPTIONS = 1u << 18 };

static bool fail(struct query_reader *r, const char *why)
{
	if (!r->why)
		r->why = why;
	return false;
}

static bool is_alnum(uint8_t c)
{
	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

/* The id becomes part of keys, log lines and administrators' command lines: no byte of it may mean
 * anything there, and a leading '-' or '.' would. */
static bool device_id_is_plain(struct bytes id)
{
	for (size_t i = 0; i < id.n; i++)
		if (!is_alnum(id.p[i]) &&
			(i == 0 || (id.p[i] != '-' && id.p[i] != '_' && id.p[i] != '.')))
			return false;
	return true;
}

static bool text_is_clean(struct bytes b)
{
	for (size_t i = 0; i < b.n; i++)
		if (b.p[i] < 0x20 || b.p[i] == 0x7f)
			return false;
	return bytes_is_utf8(b);
}

static bool take_param(struct query_reader *r, enum param which, struct bytes v)
{
	const struct param_info *info = &params[which];
	char *dst = (char *)&r->q + info->offset;
	bool again = r->seen & 1u << which;

	if (v.n >= info->cap)
		return fail(r, info->bad);
	if (which == PARAM_DEVICE_ID ? !device_id_is_plain(v) : !text_is_clean(v))
		return fail(r, info->bad);
	/* Whoever looked at the other one, a proxy or a log, would have seen another request. */
	if (again && !bytes_eq_str(v, dst))
		return fail(r, info->twice);
	r->seen |= 1u << which;
	return bytes_to_strz(v, dst, info->cap) || fail(r, info->bad);
}

/* Plain form */

static bool take_plain_command(struct query_reader *r, struct bytes v)
{
	enum eas_command c = eas_command_by_name(v);

	if (r->seen & SEEN_CMD && c != r->q.command)
		return fail(r, "Cmd given twice");
	r->seen |= SEEN_CMD;
	r->q.command = c;
	return true;
}

static bool take_plain_save_in_sent(struct query_reader *r, struct bytes v)
{
	bool yes = bytes_eq_nocase(v, "T");

	if (!yes && !bytes_eq_nocase(v, "F"))
		return fail(r, "SaveInSent is neither T nor F");
	if (r->seen & SEEN_SAVE_IN_SENT && yes != r->q.save_in_sent)
		return fail(r, "SaveInSent given twice");
	r->seen |= SEEN_SAVE_IN_SENT;
	r->q.save_in_sent = yes;
	return true;
}

/* One "name=value". Values of parameters we do not know may be anything, of any length. */
static bool take_plain_piece(struct query_reader *r, struct bytes piece)
{
	const uint8_t *eq = memchr(piece.p, '=', piece.n);
	size_t name_n = eq ? (size_t)(eq - piece.p) : piece.n;
	struct bytes raw =
		bytes_of(piece.p + name_n + (eq ? 1 : 0), piece.n - name_n - (eq ? 1 : 0));
	char name_text[32], text[EAS_TEXT_MAX];
	int n = percent_decode(bytes_of(piece.p, name_n), false, name_text, sizeof(name_text));
	struct bytes name, value;
	size_t which = 0;
	bool is_command, is_save;

	if (n < 0)
		return true; /* no name of ours is that long, or spelt so */
	name = bytes_of(name_text, (size_t)n);
	while (which < PARAM_COUNT && !bytes_eq_nocase(name, params[which].name))
		which++;
	is_command = bytes_eq_nocase(name, "Cmd");
	is_save = bytes_eq_nocase(name, "SaveInSent");
	if (which == PARAM_COUNT && !is_command && !is_save)
		return true;
	n = percent_decode(raw, false, text, sizeof(text));
	if (n < 0)
		return fail(r, "a value is too long or has a bad escape");
	value = bytes_of(text, (size_t)n);
	if (is_command)
		return take_plain_command(r, value);
	if (is_save)
		return take_plain_save_in_sent(r, value);
	return take_param(r, (enum param)which, value);
}

/* Takes the next piece between '&'; false at the end. */
static bool next_piece(struct bytes *rest, struct bytes *piece_out)
{
	const uint8_t *amp;
	size_t n;

	if (rest->n == 0)
		return false;
	amp = memchr(rest->p, '&', rest->n);
	n = amp ? (size_t)(amp - rest->p) : rest->n;
	*piece_out = bytes_of(rest->p, n);
	n += amp != NULL;
	rest->p += n;
	rest->n -= n;
	return true;
}

static bool is_plain(struct bytes query)
{
	struct bytes piece;

	while (next_piece(&query, &piece))
		if (piece.n >= 4 && bytes_eq_nocase(bytes_of(piece.p, 4), "Cmd="))
			return true;
	return false;
}

static bool parse_plain(struct query_reader *r, struct bytes query)
{
	struct bytes piece;

	while (next_piece(&query, &piece))
		if (!take_plain_piece(r, piece))
			return false;
	return true;
}

/* Base64 form */

static bool take_field(struct query_reader *r, struct bytes *in, size_t n, struct bytes *field_out)
{
	if (in->n < n) {
		fail(r, "base64 query cut short");
		return false;
	}
	*field_out = bytes_of(in->p, n);
	in->p += n;
	in->n -= n;
	return true;
}

/* One length byte, then that many bytes. */
static bool take_counted(struct query_reader *r, struct bytes *in, struct bytes *field_out)
{
	struct bytes length;

	return take_field(r, in, 1, &length) && take_field(r, in, length.p[0], field_out);
}

/* Some devices send text, others the 16 bytes of a GUID. Printable but unusable text is refused
 * rather than hidden behind digits, as the plain form does. */
static bool take_base64_device_id(struct query_reader *r, struct bytes id)
{
	static const char digits[] = "0123456789abcdef";
	char hex[EAS_DEVICE_ID_MAX];
	bool printable = true;

	if (id.n == 0)
		return fail(r, "empty DeviceId");
	for (size_t i = 0; i < id.n; i++)
		printable = printable && id.p[i] >= 0x20 && id.p[i] < 0x7f;
	if (printable)
		return take_param(r, PARAM_DEVICE_ID, id);
	if (id.n > sizeof(hex) / 2)
		return fail(r, params[PARAM_DEVICE_ID].bad);
	for (size_t i = 0; i < id.n; i++) {
		hex[2 * i] = digits[id.p[i] >> 4];
		hex[2 * i + 1] = digits[id.p[i] & 15];
	}
	return take_param(r, PARAM_DEVICE_ID, bytes_of(hex, 2 * id.n));
}

static bool take_options(struct query_reader *r, struct bytes v)
{
	bool save, multipart;

	if (v.n != 1)
		return fail(r, "Options is not one byte");
	save = v.p[0] & OPTION_SAVE_IN_SENT;
	multipart = v.p[0] & OPTION_ACCEPT_MULTIPART;
	if (r->seen & SEEN_OPTIONS &&
		(save != r->q.save_in_sent || multipart != r->q.accept_multipart))
		return fail(r, "Options given twice");
	r->seen |= SEEN_OPTIONS;
	r->q.save_in_sent = save;
	r->q.accept_multipart = multipart;
	return true;
}

static bool take_tagged(struct query_reader *r, struct bytes *in)
{
	struct bytes tag, v;

	if (!take_field(r, in, 1, &tag) || !take_counted(r, in, &v))
		return false;
	if (tag.p[0] == TAG_OPTIONS)
		return take_options(r, v);
	for (size_t i = 0; i < PARAM_COUNT; i++)
		if (params[i].tag == tag.p[0])
			return take_param(r, (enum param)i, v);
	return true;
}

static bool parse_base64(struct query_reader *r, struct bytes query)
{
	/* Decoded in place: neither step makes it longer. */
	uint8_t raw[EAS_QUERY_BYTES_MAX];
	struct bytes in, f;
	int n = percent_decode(query, false, (char *)raw, sizeof(raw));

	if (n >= 0)
		n = base64_decode(bytes_of(raw, (size_t)n), raw, sizeof(raw));
	if (n < 0)
		return fail(r, "query has no Cmd and is not base64");
	in = bytes_of(raw, (size_t)n);
	r->q.is_base64 = true;

	if (!take_field(r, &in, 4, &f))
		return false;
	r->q.version = f.p[0];
	if (!eas_version_name(r->q.version))
		return fail(r, "unsupported protocol version in the query");
	if (f.p[1] < EAS_COMMAND_COUNT)
		r->q.command = (enum eas_command)f.p[1];
	r->q.locale = (uint16_t)(f.p[2] | f.p[3] << 8);

	if (!take_counted(r, &in, &f) || !take_base64_device_id(r, f))
		return false;
	if (!take_counted(r, &in, &f))
		return false;
	if (f.n != 0 && f.n != 4)
		return fail(r, "policy key length is neither 0 nor 4");
	if (f.n == 4) {
		r->q.has_policy_key = true;
		r->q.policy_key = (uint32_t)f.p[0] | (uint32_t)f.p[1] << 8 |
				  (uint32_t)f.p[2] << 16 | (uint32_t)f.p[3] << 24;
	}
	if (!take_counted(r, &in, &f) || !take_param(r, PARAM_DEVICE_TYPE, f))
		return false;
	while (in.n)
		if (!take_tagged(r, &in))
			return false;
	return true;
}

int eas_query_parse(struct bytes query, struct eas_query *q_out, const char **why_out)
{
	struct query_reader r = {.q.command = EAS_COMMAND_NONE};

	if (query.n == 0)
		fail(&r, "no query");
	else if (is_plain(query))
		parse_plain(&r, query);
	else
		parse_base64(&r, query);
	if (r.why) {
		*why_out = r.why;
		return EAS_QUERY_MALFORMED;
	}
	*q_out = r.q;
	if (r.q.command == EAS_COMMAND_NONE) {
		*why_out = "unknown command";
		return EAS_QUERY_UNKNOWN_COMMAND;
	}
	return 1;
}
