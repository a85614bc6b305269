/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/http_answer.h - the head of one HTTP response, read as strictly as the pickiest phone would
 * (RFC 9112), so that a sloppy answer is a failed step and not a silent success.
 * Refused: anything but HTTP/1.1 and three digits; interim answers (1xx), which no phone asked for;
 * bare CR or LF, controls, obs-fold, white space before a colon; no or two Content-Length; any
 * Transfer-Encoding (ActiveSync promises a length, MS-ASHTTP 2.2.2.1.2).
 * Thread: plain values.    Memory: views into the caller's buffer; allocates nothing.
 * Errors: -1 with a static reason.    Cost: one pass over the head. */
#ifndef ROOST_BENCH_FLEET_HTTP_ANSWER_H
#define ROOST_BENCH_FLEET_HTTP_ANSWER_H

#include "core/base/bytes.h"

enum { HTTP_ANSWER_HEADERS_MAX = 48, HTTP_ANSWER_HEAD_BYTES_MAX = 16384 };

struct http_answer_field {
	struct bytes name, value; /* value without surrounding blanks */
};

struct http_answer {
	int status;
	struct bytes reason;
	size_t head_bytes;       /* with the empty line */
	uint64_t content_length; /* bytes of body behind the head */
	bool keep_alive;
	uint32_t field_count;
	struct http_answer_field fields[HTTP_ANSWER_HEADERS_MAX]; /* beyond field_count: not set */
};

/* 1: a whole head, *out is set. 0: need more: call again with all bytes so far and more behind
 * them. -1: refused, *why_out is set. Bytes behind the head (the body) are not looked at. */
int http_answer_parse(const uint8_t *p, size_t n, struct http_answer *out, const char **why_out);
/* First field of that name, or {0}. */
struct bytes http_answer_field(const struct http_answer *a, const char *name);

#endif
