/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/admin/admin_priv.h - what the files of core/admin share.
 * Both protocols are functions from bytes to bytes, so that tests and fuzzers need no socket. */
#ifndef ROOST_ADMIN_ADMIN_PRIV_H
#define ROOST_ADMIN_ADMIN_PRIV_H

#include "core/admin/admin.h"
#include "core/admin/serve.h"

enum { CONTROL_LINE_BYTES = 4096, CONTROL_ROWS_MAX = 100000, CONTROL_ROWS_DEFAULT = 1000 };
#define CONTROL_SOCKET "control" /* in the data directory */

/* What answers are made from. db NULL: nothing is known of the store (fuzzing). */
struct admin_source {
	struct db *db;
	struct admin_server server;
	uint64_t started_ms; /* wall clock */
};

/* The Prometheus text format, 0.0.4. Gauges of the store are brought up to date first. */
void metrics_text(const struct admin_source *src, struct buf *out);
/* One HTTP exchange (serve_protocol.input; arg is a struct admin_source). */
enum serve_next admin_http_input(void *arg, struct bytes in, size_t *used_out, struct buf *out);
/* One request line of the control socket, without its newline: one or more JSON lines. The last
 * one has "ok": true, or false with "code" and "error". */
void control_answer(const struct admin_source *src, struct bytes line, struct buf *out);
enum serve_next control_input(void *arg, struct bytes in, size_t *used_out, struct buf *out);

/* jansson takes UTF-8 only, and phones send what they like: other bytes are shown as \xNN. */
struct json_t *admin_text_json(const char *text);
/* ISO 8601, UTC; null for 0. */
struct json_t *admin_time_json(uint64_t wall_ms);

/* Brings STORE_* gauges up to date; from any thread. */
struct db_stats;
bool admin_store_stats(const struct admin_source *src, struct db_stats *out);
int64_t admin_resident_bytes(void);

/* Upper bound of the bucket that holds the q-th (0..1) part of the observations; 0: none yet. */
double metrics_quantile_s(const uint64_t *buckets, double q);

#endif
