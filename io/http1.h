/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/http1.h - strict HTTP/1.1 request parsing (RFC 9112) and response heads.
 * What two implementations could read differently is refused: repeated or conflicting
 * Content-Length, Transfer-Encoding together with Content-Length, any transfer coding but a single
 * final chunked, obs-fold, white space before a colon, bare CR or LF, NUL and other
 * controls, HTTP/1.0 with Transfer-Encoding, two Host headers, missing Host in 1.1.
 * Thread: plain values.
 * Memory: views into the caller's buffer; parsing allocates nothing.
 * Errors: a hostile request is a negative value: -(HTTP status) to answer before closing, with
 *         a static reason.
 * Cost:   one pass over the head; feeding byte by byte re-scans nothing but the unfinished line. */
#ifndef ROOST_IO_HTTP1_H
#define ROOST_IO_HTTP1_H

#include "core/base/bytes.h"

enum http1_method { HTTP1_OTHER, HTTP1_GET, HTTP1_HEAD, HTTP1_POST, HTTP1_PUT, HTTP1_OPTIONS };

enum { HTTP1_HEADERS_MAX = 64 };

struct http1_header {
	struct bytes name, value; /* value without surrounding blanks */
};

struct http1_limits {
	uint32_t head_bytes_max;   /* 431 beyond (and 414 when the request line alone is) */
	uint32_t target_bytes_max; /* 414 */
	uint64_t body_bytes_max;   /* 413 beyond, by Content-Length or while chunks add up */
};

struct http1_request {
	enum http1_method method;
	struct bytes method_name, target, path, query; /* query without '?' */
	uint8_t minor;                                 /* HTTP/1.x */
	struct bytes host;
	bool keep_alive;
	bool expect_continue;
	bool chunked;
	bool has_length;
	bool gzip_body;       /* Content-Encoding: gzip (others: 415) */
	bool accepts_gzip;    /* Accept-Encoding names gzip with q > 0 */
	uint64_t content_length;
	size_t head_bytes;    /* consumed, with the empty line */
	struct http1_header headers[HTTP1_HEADERS_MAX];
	uint32_t header_count;
};

/* 1: a whole head, req is set. 0: need more (*scanned keeps the place; start with 0).
 * -status: refused; *why_out static. */
int http1_parse(const uint8_t *p, size_t n, const struct http1_limits *lim, size_t *scanned,
	struct http1_request *req, const char **why_out);
/* First header of that name, or {0}. */
struct bytes http1_header(const struct http1_request *req, const char *name);

/* Chunked or counted bodies, fed in any pieces. */
struct http1_body {
	uint64_t left;      /* of the body (counted) or of the chunk */
	uint64_t total;
	uint64_t max;
	uint32_t line_bytes;
	uint8_t state;
	bool chunked;
};
void http1_body_start(struct http1_body *b, const struct http1_request *req, uint64_t max);
/* Consumes from p; body bytes are appended to out (bounded by max). Returns 1 body complete, 0 need
 * more, -status refused. *consumed_out always set; bytes behind the body are left. */
int http1_body_feed(struct http1_body *b, const uint8_t *p, size_t n, size_t *consumed_out,
	struct buf *out, const char **why_out);

const char *http1_reason(int status); /* "OK"; 449 as ActiveSync spells it */

/* Authorization: Basic (RFC 7617) decoded into dst: user NUL password NUL. Split at the first
 * colon. False when it is not Basic, not base64, has no colon, a NUL inside, or is longer than cap. */
bool http1_basic(struct bytes authorization, char *dst, size_t cap, char **user_out, char **pass_out);
/* RFC 4648 base64, padding optional, url-safe letters not accepted. -1 when invalid or too long. */
int base64_decode(struct bytes in, uint8_t *dst, size_t cap);
/* Percent-decoding in place semantics: dst may equal in.p. -1 on a bad escape, an encoded NUL or
 * overflow. plus_is_blank: form decoding. */
int percent_decode(struct bytes in, bool plus_is_blank, char *dst, size_t cap);

#endif
