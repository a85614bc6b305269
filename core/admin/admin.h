/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/admin/admin.h - what an operator asks a running server: /metrics, /livez, /readyz over HTTP,
 * and JSON lines over the control socket DIR/control (roostctl). Thread: threads of its own; asks
 * shards by message (admin_ask), never by lock. Memory: admin_server is copied; its functions are
 * called until admin_stop returns, and never two of them at a time by one thread of ours (HTTP and
 * control are two threads). Errors: admin_start returns NULL with one line. A shard that does not
 * answer within 2 s is reported as such, not waited for. */
#ifndef ROOST_ADMIN_ADMIN_H
#define ROOST_ADMIN_ADMIN_H

#include "core/base/bytes.h"

struct admin;
struct config;
struct db;

/* One parked request, as `roostctl ping list` shows it. */
struct admin_parked {
	uint32_t mailbox, device;
	uint32_t shard, slot;
	bool sync;         /* hanging Sync, else Ping */
	uint64_t since_ms; /* wall clock */
	uint64_t due_ms;
	uint32_t heartbeat_s;
	uint32_t folders[32];  /* the first ones */
	uint32_t folder_count; /* how many there are */
	uint8_t ip[16];
	uint16_t port;
	uint64_t request_id;
};

/* What came of an upgrade. */
struct admin_upgrade {
	int pid; /* of the new process; 0: it failed */
	uint32_t connections, parked, left;
	uint32_t pause_us, export_us, restore_us; /* the pause, and what it consists of */
	uint32_t quiet_us, copy_ms, start_ms;     /* what came before it */
	char version[64];
	char why[512];
};

/* What admin needs of the server; core/server/server_admin.c provides it. */
struct admin_server {
	void *arg;
	/* Calls `one` for each parked request of all shards, on this thread, as a copy taken by the
	 * shards. Filters: 0 is any. Returns how many shards did not answer. */
	unsigned (*parked)(void *arg, uint32_t mailbox, uint32_t device,
		void (*one)(void *ctx, const struct admin_parked *p), void *ctx);
	bool (*ready)(void *arg, const char **why_out); /* not while starting or draining */
	bool (*live)(void *arg, const char **why_out);  /* every shard ticked within 5 s */
	int64_t (*certificate_expiry_s)(void *arg);
	unsigned (*shards)(void *arg);
	bool (*reload)(void *arg, char *why, size_t why_bytes);
	void (*stop)(void *arg); /* begin the drain */
	/* Replaces the process, waits for how it went. */
	bool (*upgrade)(
		void *arg, bool drain, struct admin_upgrade *out, char *why, size_t why_bytes);
};

struct socket_list;
/* `inherited`: listening sockets to use where they fit, instead of making some; or NULL. */
struct admin *admin_start(const struct config *c, struct db *db, const struct admin_server *server,
	struct socket_list *inherited, char *why, size_t why_bytes);
void admin_stop(struct admin **a);
/* The listening sockets, for a successor: they stay ours. */
void admin_sockets(const struct admin *a, struct socket_list *out);
/* As admin_stop, when a successor has the sockets: the control socket's file stays. */
void admin_leave(struct admin **a);

/* core/admin/why.c: the last refusals, by request id, for `roostctl why`. A fixed ring of 8192
 * entries in memory. Thread: any (a short mutex per refusal). */
struct why_entry {
	uint64_t request_id;
	uint64_t wall_ms;
	int http_status, eas_status;
	char reason[96];  /* as in the response header */
	char detail[160]; /* limits and values behind it */
	char user[96], device_id[65], command[24], peer[64], user_agent[96];
};
void why_record(const struct why_entry *e);
bool why_find(uint64_t request_id, struct why_entry *out);
/* The same in prose, several lines: what was refused, where it came from, why, what to do. What
 * phones sent is shown with control characters escaped. */
void why_explain(const struct why_entry *e, struct buf *out);

#endif
