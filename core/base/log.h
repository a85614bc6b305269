/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/log.h - one structured line per event, in logfmt.
 * Thread: any. A line is built on the caller's stack and handed to one writer thread, so a slow
 *         terminal or journal never blocks a shard; when its queue is full the line is dropped
 *         and counted (log_dropped). Before log_start, and after log_stop, lines are written
 *         directly by the caller.
 * Memory: a queue of 256 KiB; lines beyond 1 KiB are cut and end in " cut=1".
 * Rule:   every value that a peer sent goes through log_str/log_bytes, which quote and escape;
 *         so no peer can forge a line or a key. */
#ifndef ROOST_BASE_LOG_H
#define ROOST_BASE_LOG_H

#include "core/base/bytes.h"

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

enum { LOG_LINE_BYTES = 1024 };

struct log_line {
	uint16_t n;
	uint8_t level;
	bool skip; /* below the level: adders do nothing */
	bool cut;
	char text[LOG_LINE_BYTES];
};

/* `event` is a literal such as "request" or "auth: failed"; it opens the line. */
void log_begin(struct log_line *l, enum log_level level, const char *event);
void log_str(struct log_line *l, const char *key, const char *value); /* NULL: left out */
void log_bytes(struct log_line *l, const char *key, struct bytes value);
void log_u64(struct log_line *l, const char *key, uint64_t value);
void log_i64(struct log_line *l, const char *key, int64_t value);
void log_hex(struct log_line *l, const char *key, uint64_t value);
void log_end(struct log_line *l);

/* Between the two this thread's lines are gathered and queued in one piece, at most 16 KiB of them:
 * for a turn that writes many. Not nested. Lines of different threads can then be milliseconds out
 * of order; their time stamps are right. */
void log_hold(void);
void log_release(void);

/* One message with printf arguments of ours (no peer bytes). */
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void log_set_level(enum log_level level);
bool log_level_parse(const char *name, enum log_level *out); /* error warning info debug */
/* With `prefix` lines carry <N> priorities for the systemd journal, else a time stamp. */
void log_set_priority_prefix(bool prefix);
void log_start(void);
void log_stop(void); /* drains */
uint64_t log_dropped(void);

#endif
