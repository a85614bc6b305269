/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/eas_request.h - what a phone says, and what it understands of the answers: whole HTTP
 * requests, WBXML bodies of each step, and readers of the answers' documents.
 * Thread: plain functions.
 * Memory: builders append to the caller's struct buf; readers return views into the document.
 * Units:  versions are times ten (141); folder and item ids and sync keys are opaque text, because
 *         that is what they are to a phone.
 * Errors: out of memory shows in out->failed. Readers return false when the document is not what
 *         the specification promises; Status values are the caller's to judge.
 * Spec:   MS-ASHTTP 2.2.1, MS-ASCMD 2.2.1, MS-ASPROV 2.2.2, element order as there. */
#ifndef ROOST_BENCH_FLEET_EAS_REQUEST_H
#define ROOST_BENCH_FLEET_EAS_REQUEST_H

#include "core/base/bytes.h"
#include "core/eas/query.h"
#include "core/eas/wbxml.h"

/* Who asks. Strings are the caller's. */
struct phone_identity {
	const char *host;          /* Host header, with the port */
	const char *user;          /* also User= of the plain query */
	const char *authorization; /* value of the header, see phone_basic; NULL: none */
	const char *device_id, *device_type, *user_agent;
	int version;
	bool base64_query;
	bool close;          /* Connection: close */
	uint32_t policy_key; /* 0: none yet */
};

/* "Basic ..." (RFC 7617) for `authorization`. False: does not fit. */
bool phone_basic(const char *user, const char *password, char *dst, size_t cap);

/* A whole request. An empty body is sent as Content-Length: 0 without a type. */
void phone_request(const struct phone_identity *who, enum eas_command command, struct bytes body,
	struct buf *out);
void phone_request_options(const struct phone_identity *who, struct buf *out);
void phone_request_get(const struct phone_identity *who, const char *target, struct buf *out);

/* ---- Bodies ---- */

/* Phase one; device information goes along from 14.1 on (MS-ASPROV 3.1.5.1.1.1). */
void phone_body_provision_ask(
	int version, const char *model, const char *user_agent, struct buf *out);
/* Phase two: the policy is applied. */
void phone_body_provision_acknowledge(uint32_t temporary_key, struct buf *out);
void phone_body_folder_sync(struct bytes key, struct buf *out);
void phone_body_settings(const char *model, const char *user_agent, struct buf *out);

struct phone_sync {
	struct bytes folder, key;
	uint32_t window;   /* 0: left out */
	bool prime;        /* key "0": nothing but key and folder may be there */
	bool keep_options; /* no Options: those of an earlier Sync */
	uint8_t filter_type;
	uint8_t body_type;         /* 1 text 2 HTML 4 MIME; 0: no body */
	uint32_t truncation_bytes; /* 0: whole bodies */
	/* One client command, or none. */
	enum {
		PHONE_SYNC_NOTHING,
		PHONE_SYNC_MARK_READ,
		PHONE_SYNC_MARK_UNREAD,
		PHONE_SYNC_DELETE,
		PHONE_SYNC_FETCH
	} command;
	struct bytes item;
};
/* heartbeat_s 0: answer at once; else Wait (12.1, in minutes) or HeartbeatInterval. */
void phone_body_sync(const struct phone_sync *folders, size_t count, int version,
	uint32_t heartbeat_s, struct buf *out);
/* 0 leaves the interval out, count 0 the folders. */
void phone_body_ping(
	uint32_t heartbeat_s, const struct bytes *folders, size_t count, struct buf *out);
void phone_body_fetch(struct bytes folder, struct bytes item, uint8_t body_type,
	uint32_t truncation_bytes, struct buf *out);
void phone_body_estimate(
	const struct phone_sync *folders, size_t count, int version, struct buf *out);

/* ---- Answers ---- */

struct phone_provision {
	uint32_t status, policy_status, policy_key; /* 0: not there */
	bool wipe, account_wipe, has_document;
};
bool phone_read_provision(const struct wbxml_node *root, struct phone_provision *out);

struct phone_folder_sync {
	uint32_t status, count;
	struct bytes key;
	const struct wbxml_node *changes; /* its Add, Update, Delete children; NULL none */
};
bool phone_read_folder_sync(const struct wbxml_node *root, struct phone_folder_sync *out);

struct phone_ping {
	uint32_t status, heartbeat_s, folders_max; /* 0: not there */
	const struct wbxml_node *folders;          /* its Folder children; NULL none */
};
bool phone_read_ping(const struct wbxml_node *root, struct phone_ping *out);

/* One Collection of a Sync answer. */
struct phone_collection {
	struct bytes folder, key;
	uint32_t status;
	bool more;
	const struct wbxml_node *commands, *responses; /* NULL none */
};
/* False at the end. *at is NULL first. A document with a Status of its own has none: see
 * phone_sync_status. */
bool phone_next_collection(
	const struct wbxml_node *root, const struct wbxml_node **at, struct phone_collection *out);
/* Status child of the root; 1 when there is none. */
uint32_t phone_sync_status(const struct wbxml_node *root);

/* What a list shows of an item (Add and Change of a Sync, Properties of a fetch). */
struct phone_item {
	struct bytes id, subject, from, to, date, body, preview;
	uint32_t body_type, attachments;
	bool has_read, read, truncated;
};
void phone_read_item(const struct wbxml_node *node, struct phone_item *out);

#endif
