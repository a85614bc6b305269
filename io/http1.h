/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/http1.h - strict HTTP/1.1 request parsing (RFC 9112) and response heads.
 * What two implementations could read differently is refused: repeated or conflicting
 * Content-Length, Transfer-Encoding together with Content-Length, any transfer coding but a single
 * final chunked, obs-fold, white space before a colon, bare CR or LF, NUL and other
 * controls, HTTP/1.0 with Transfer-Encoding, two Host headers, missing Host in 1.1; also a
 * Host that is not host[:port], an absolute target that names another host than Host does, two
 * Authorization headers, a '#' in the target, a byte above 0x7e in the path.
 * Let through although strictness could refuse it: one empty line before the request line (RFC
 * 9112 2.2), and UTF-8 or '\' in the query, which phones send in User=.
 * Thread: plain values.
 * Memory: views into the caller's buffer; parsing allocates nothing.
 * Errors: a hostile request is a negative value: -(HTTP status) to answer before closing, with
 *         a static reason. 400 syntax, 413 body too big, 414 request line too long, 415 content
 *         coding, 417 expectation, 431 head or trailers too long or too many, 501 transfer
 *         coding, 503 no memory for a body, 505 not HTTP/1.0 or 1.1. Which of them, and whether,
 *         depends on the bytes only, never on how the network cuts them.
 * Cost:   one pass over the head; feeding byte by byte re-scans nothing but the request line. */
#ifndef ROOST_IO_HTTP1_H
#define ROOST_IO_HTTP1_H

#include "core/base/bytes.h"
#include "core/base/encoding.h"

enum http1_method { HTTP1_OTHER, HTTP1_GET, HTTP1_HEAD, HTTP1_POST, HTTP1_PUT, HTTP1_OPTIONS };

enum {
	HTTP1_HEADERS_MAX = 64,
	/* What chunk sizes and extensions may cost beyond 16 bytes a chunk and twice the data: a
	 * peer must not make us read gigabytes that never count as body. */
	HTTP1_CHUNK_EXCESS_BYTES_MAX = 16384,
	HTTP1_TRAILER_BYTES_MAX = 8192, /* all trailer lines together */
};

struct http1_header {
	struct bytes name, value; /* value without surrounding blanks */
};

struct http1_limits {
	uint32_t head_bytes_max;   /* 431 beyond (and 414 when the request line alone is) */
	uint32_t target_bytes_max; /* 414 */
	uint64_t body_bytes_max;   /* 413 beyond, by Content-Length or while chunks add up */
};

struct http1_request {
	enum http1_method method; /* case-sensitive; any other token is HTTP1_OTHER */
	struct bytes method_name, target, path, query; /* query without '?', nothing decoded */
	uint8_t minor;                                 /* HTTP/1.x, 0 or 1 */
	struct bytes host; /* with the port as sent; empty only in HTTP/1.0 */
	bool keep_alive;
	bool expect_continue; /* never in HTTP/1.0 */
	bool chunked;
	bool has_length;
	bool gzip_body;    /* Content-Encoding: gzip (others: 415) */
	bool accepts_gzip; /* Accept-Encoding names gzip with q > 0 */
	uint64_t content_length;
	size_t head_bytes; /* consumed, with the empty line */
	uint32_t header_count;
	struct http1_header headers[HTTP1_HEADERS_MAX]; /* beyond header_count: not set */
};

/* 1: a whole head, req is set, *scanned is 0 again. 0: need more: call again with all bytes so far
 * and more behind them, at any address (*scanned keeps the place; start with 0).
 * -status: refused; *why_out static. Unless 1, req holds nothing to read. Bytes behind the head
 * (the body, the next request) are not looked at. */
int http1_parse(const uint8_t *p, size_t n, const struct http1_limits *lim, size_t *scanned,
	struct http1_request *req, const char **why_out);
/* First header of that name, or {0}. */
struct bytes http1_header(const struct http1_request *req, const char *name);

/* Chunked or counted bodies, fed in any pieces. A request with neither has an empty body, complete
 * at the first feed, be it of no bytes. */
struct http1_body {
	uint64_t left; /* of the body (counted) or of the chunk */
	uint64_t total;
	uint64_t max;
	uint32_t line_bytes; /* of the chunk's size line, or of all trailer lines */
	uint32_t excess_bytes;
	uint16_t refused; /* status, once refused: stays so */
	uint8_t state;
	bool chunked;
	const char *why;
};
void http1_body_start(struct http1_body *b, const struct http1_request *req, uint64_t max);
/* Consumes from p; body bytes are appended to out (bounded by max; NULL discards them). Returns 1
 * body complete, 0 need more, -status refused. *consumed_out always set; bytes behind the body are
 * left. Memory grows with the bytes that arrived, not with what Content-Length promises. Trailers
 * are checked and dropped. */
int http1_body_feed(struct http1_body *b, const uint8_t *p, size_t n, size_t *consumed_out,
	struct buf *out, const char **why_out);

const char *http1_reason(int status); /* "OK"; 449 as ActiveSync spells it; never NULL */

/* A response head. Strings are the caller's and go out as they are: nothing a peer sent may be in
 * them unless checked for CR and LF. */
struct http1_head {
	const char *content_type; /* NULL none */
	uint64_t content_length;
	bool keep_alive;        /* false: Connection: close */
	bool say_keep_alive;    /* the client spoke HTTP/1.0 and keep_alive is true */
	bool gzip;              /* Content-Encoding: gzip */
	const char *request_id; /* X-Request-Id, NULL none */
	const char *extra;      /* "Name: value\r\n" lines or NULL */
};
/* Status line, headers and the empty line; no NUL behind. Returns the bytes written, 0 when they do
 * not fit into cap (dst is then scratch). Allocates nothing. */
size_t http1_head(char *dst, size_t cap, int status, const struct http1_head *h);

/* Authorization: Basic (RFC 7617) decoded into dst: user NUL password NUL. Split at the first
 * colon; either part may be empty. False when it is not Basic, not base64, has no colon, a NUL or
 * another control inside, or is longer than cap; dst is then wiped. */
bool http1_basic(
	struct bytes authorization, char *dst, size_t cap, char **user_out, char **pass_out);

#endif
