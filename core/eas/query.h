/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/query.h - the query of an ActiveSync request target, and the names of commands and
 * versions (MS-ASHTTP 2.2.1.1.1).
 * Both forms: plain text (any order, names in any case, percent-encoded; '+' is a plus) and base64
 * (percent-encoding around it and missing padding are accepted). It is plain when one of its
 * parameters is named Cmd.
 * A parameter given twice must say the same twice. Unknown parameters and tags are skipped.
 * Thread: plain values.
 * Memory: struct eas_query owns its strings in fixed arrays, so it outlives the request's bytes;
 *         about 1.4 KiB; nothing is allocated.
 * Units:  *_MAX are bytes without the NUL.
 * Errors: hostile input is a negative value with a static reason; see enum eas_query_error.
 * Cost:   one pass over the query, up to EAS_QUERY_BYTES_MAX for base64. */
#ifndef ROOST_EAS_QUERY_H
#define ROOST_EAS_QUERY_H

#include "core/base/bytes.h"

/* Numbers are the codes of MS-ASHTTP 2.2.1.1.1.2. */
#define EAS_COMMANDS(X)                                                                            \
	X(0, SYNC, "Sync")                                                                         \
	X(1, SEND_MAIL, "SendMail")                                                                \
	X(2, SMART_FORWARD, "SmartForward")                                                        \
	X(3, SMART_REPLY, "SmartReply")                                                            \
	X(4, GET_ATTACHMENT, "GetAttachment")                                                      \
	X(5, GET_HIERARCHY, "GetHierarchy")                                                        \
	X(6, CREATE_COLLECTION, "CreateCollection")                                                \
	X(7, DELETE_COLLECTION, "DeleteCollection")                                                \
	X(8, MOVE_COLLECTION, "MoveCollection")                                                    \
	X(9, FOLDER_SYNC, "FolderSync")                                                            \
	X(10, FOLDER_CREATE, "FolderCreate")                                                       \
	X(11, FOLDER_DELETE, "FolderDelete")                                                       \
	X(12, FOLDER_UPDATE, "FolderUpdate")                                                       \
	X(13, MOVE_ITEMS, "MoveItems")                                                             \
	X(14, GET_ITEM_ESTIMATE, "GetItemEstimate")                                                \
	X(15, MEETING_RESPONSE, "MeetingResponse")                                                 \
	X(16, SEARCH, "Search")                                                                    \
	X(17, SETTINGS, "Settings")                                                                \
	X(18, PING, "Ping")                                                                        \
	X(19, ITEM_OPERATIONS, "ItemOperations")                                                   \
	X(20, PROVISION, "Provision")                                                              \
	X(21, RESOLVE_RECIPIENTS, "ResolveRecipients")                                             \
	X(22, VALIDATE_CERT, "ValidateCert")                                                       \
	X(23, FIND, "Find")

enum eas_command {
	EAS_COMMAND_NONE = -1,
	EAS_COMMAND_COUNT = 24,
#define X(code, id, name) EAS_##id = code,
	EAS_COMMANDS(X)
#undef X
};

/* As Cmd= spells it; "unknown" for EAS_COMMAND_NONE. Never NULL. */
const char *eas_command_name(enum eas_command command);
/* Letter case does not matter. EAS_COMMAND_NONE when there is no such command. */
enum eas_command eas_command_by_name(struct bytes name);

/* MS-ASProtocolVersion: "12.1" is 121; exactly 2.5 12.0 12.1 14.0 14.1 16.0 16.1, else -1. */
int eas_version_parse(struct bytes text);
/* The way back: 121 is "12.1"; NULL for a number that is no version. */
const char *eas_version_name(int version);

enum {
	EAS_QUERY_BYTES_MAX = 4096, /* base64 form; plain is bounded by http1_limits */
	EAS_DEVICE_ID_MAX = 64,
	EAS_DEVICE_TYPE_MAX = 64,
	EAS_COLLECTION_ID_MAX = 64,
	EAS_TEXT_MAX = 256, /* the other strings; a base64 value is at most 255 */
};

/* Strings: "" when absent. All are UTF-8 without control characters. */
struct eas_query {
	int version; /* 25 120 121 140 141 160 161; 0 = take it from the header */
	enum eas_command command;
	bool is_base64;        /* then the query wins over the headers */
	bool has_policy_key;   /* base64 only; plain queries have the header */
	bool save_in_sent;     /* SaveInSent=T, or option 0x01 */
	bool accept_multipart; /* base64 only: option 0x02 */
	uint16_t locale;       /* LCID, 0 in the plain form */
	uint32_t policy_key;
	/* Letters, digits, and - _ . behind the first one; in base64 other bytes come as lower-case
	 * hexadecimal digits. "" is possible in the plain form only: whether that is HTTP 400 or
	 * Status 108 depends on the version. A device_type of "", in either form: likewise, 109. */
	char device_id[EAS_DEVICE_ID_MAX + 1];
	char device_type[EAS_DEVICE_TYPE_MAX + 1];
	char user[EAS_TEXT_MAX + 1]; /* claimed, for the log: never whom to serve */
	char attachment_name[EAS_TEXT_MAX + 1];
	char collection_id[EAS_COLLECTION_ID_MAX + 1];
	char item_id[EAS_TEXT_MAX + 1];
	char long_id[EAS_TEXT_MAX + 1];
	char occurrence[EAS_TEXT_MAX + 1];
};

enum eas_query_error {
	EAS_QUERY_MALFORMED = -1,       /* HTTP 400 */
	EAS_QUERY_UNKNOWN_COMMAND = -2, /* HTTP 501; all other fields are good */
};

/* `query` as in http1_request: without '?', not decoded.
 * 1: q_out is set, its command known. EAS_QUERY_UNKNOWN_COMMAND: q_out is set, its command is
 * EAS_COMMAND_NONE. EAS_QUERY_MALFORMED: q_out is untouched. Below 1 *why_out is a static reason.
 * Refused as malformed: an empty query; neither Cmd= nor base64; a bad escape or a NUL; a device id
 * with blanks, commas or other specials, or too long; any value too long, not UTF-8 or with a
 * control character; SaveInSent other than T and F; a known parameter twice with two values; in
 * base64 also a version not listed, an empty device id, a policy key length other than 0 and 4, an
 * Options value that is not one byte, and a field cut short. */
int eas_query_parse(struct bytes query, struct eas_query *q_out, const char **why_out);

#endif
