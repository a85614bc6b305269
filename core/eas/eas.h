/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/eas.h - one ActiveSync command: request in, answer out. Commands know nothing of sockets
 * or HTTP bytes.
 * Thread: eas_run on a worker (it reads MIME and waits for commits); the Ping command is not here
 *         but in core/push, on the shard.
 * Memory: a request's views and everything a command makes live in the request's arena, except
 *         answer.body (a buf that the caller frees).
 * Errors: a command never fails: it fills the answer with the HTTP code and Status that the
 *         specification asks for, and with a static reason for the log and `roostctl why`. */
#ifndef ROOST_EAS_EAS_H
#define ROOST_EAS_EAS_H

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "core/eas/query.h"

struct db;
struct writer;
struct config;

/* What all commands of a process share; read-only for them. */
struct eas_context {
	struct db *db;
	struct writer *writer;
	const struct config *config;
	uint32_t policy_generation; /* hash of the policy in force, never 0 */
};

struct eas_request {
	uint16_t version; /* 121, 140, 141, 160, 161 */
	enum eas_command command;
	const struct eas_query *query;
	uint32_t mailbox;
	const char *address; /* of the account */
	uint32_t device;     /* store id; 0: not known yet (commands other than Provision,
	                               * FolderSync and Settings need one) */
	struct bytes device_id, device_type, user_agent;
	const char *peer; /* printable address */
	bool has_policy_key;
	uint32_t policy_key;
	bool accept_multipart;
	bool body_is_empty;
	struct bytes content_type, body;
	uint64_t now_ms; /* wall clock */
	bool resumed;    /* a parked Sync: the cached request runs again, now without wait */
	bool final;      /* resumed because the wait is over: answer, never park again */
	struct arena *arena;
};

enum eas_disposition {
	EAS_ANSWER,
	EAS_PARK_SYNC, /* hang: wake on `folders`, or answer with an empty 200 after wait_s */
};

struct eas_answer {
	enum eas_disposition disposition;
	int http_status;          /* 200 */
	int eas_status;           /* top-level Status for the log; 0: none */
	const char *content_type; /* NULL with an empty body: the WBXML type is sent all the same */
	const char *reason;       /* static; for every 4xx/5xx and every refusing Status */
	char headers[256];        /* more response header lines, each with CRLF */
	struct buf body;
	uint32_t device; /* device that the command registered or used (Provision, ...) */
	/* EAS_PARK_SYNC */
	uint32_t wait_s;
	uint32_t *folders; /* arena */
	size_t folder_count;
	uint64_t since_seq; /* journal number of the snapshot that showed no changes */
};

/* Runs any command but Ping and OPTIONS: policy check (MS-ASPROV 3.1.5.1), then the
 * command. Unknown or unbuilt commands: 501. */
void eas_run(const struct eas_context *ctx, const struct eas_request *req, struct eas_answer *out);

/* Comma lists for OPTIONS: exactly what is built. */
const char *eas_versions(void);
const char *eas_commands(void);
/* Hash of the policy that the configuration describes; never 0. */
uint32_t eas_policy_generation(const struct config *c);
/* What a device may do (MS-ASPROV 3.1.5.1): 0 go on, or the Status of the first rule that says no (126, 129,
 * 141-144). For versions up to 12.1 eas_status_http gives the HTTP code instead. Used by Ping too. */
struct device_gate;
int eas_policy_status(const struct eas_context *ctx, enum eas_command command, bool has_policy_key,
	uint32_t policy_key, const struct device_gate *gate);
int eas_status_http(int status);
/* A document with only <Root><Status>n</Status></Root> of that command. */
void eas_status_only(enum eas_command command, int status, struct buf *out);

/* Does the folder hold a change after `pos` that this device did not make itself and that its
 * filter lets through? The one comparison that Ping, hanging Sync and GetItemEstimate use. Cheap:
 * stops at the first. DB errors negative. */
struct db_txn;
int eas_folder_has_news(
	struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder, uint64_t now_ms);
/* Folder ServerId text to number; 0: not one of ours. */
uint32_t eas_folder_id(struct bytes server_id);

#endif
