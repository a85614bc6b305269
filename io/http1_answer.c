/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Response heads. */
#include "io/http1.h"

#include "core/base/check.h"

const char *http1_reason(int status)
{
	switch (status) {
	case 100:
		return "Continue";
	case 200:
		return "OK";
	case 204:
		return "No Content";
	case 301:
		return "Moved Permanently";
	case 302:
		return "Found";
	case 304:
		return "Not Modified";
	case 307:
		return "Temporary Redirect";
	case 308:
		return "Permanent Redirect";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 403:
		return "Forbidden";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 406:
		return "Not Acceptable";
	case 408:
		return "Request Timeout";
	case 409:
		return "Conflict";
	case 411:
		return "Length Required";
	case 412:
		return "Precondition Failed";
	case 413:
		return "Content Too Large";
	case 414:
		return "URI Too Long";
	case 415:
		return "Unsupported Media Type";
	case 417:
		return "Expectation Failed";
	case 421:
		return "Misdirected Request";
	case 429:
		return "Too Many Requests";
	case 431:
		return "Request Header Fields Too Large";
	case 449:
		return "Retry after sending a PROVISION command";
	case 451:
		return "Redirect";
	case 456:
		return "Blocked";
	case 457:
		return "Password Expired";
	case 500:
		return "Internal Server Error";
	case 501:
		return "Not Implemented";
	case 502:
		return "Bad Gateway";
	case 503:
		return "Service Unavailable";
	case 504:
		return "Gateway Timeout";
	case 505:
		return "HTTP Version Not Supported";
	case 507:
		return "Insufficient Storage";
	}
	return "Unknown";
}

/* Where the next byte goes; `at` passes `end` never, `full` says it wanted to. */
struct head_writer {
	char *at, *end;
	bool full;
};

static inline void head_put(struct head_writer *w, const char *s, size_t n)
{
	if (n > (size_t)(w->end - w->at)) {
		w->full = true;
		return;
	}
	memcpy(w->at, s, n);
	w->at += n;
}

#define HEAD_PUT(w, literal) head_put((w), (literal), sizeof(literal) - 1)

static void head_put_u64(struct head_writer *w, uint64_t v)
{
	char digits[20];
	size_t i = sizeof(digits);

	do
		digits[--i] = (char)('0' + v % 10);
	while (v /= 10);
	head_put(w, digits + i, sizeof(digits) - i);
}

size_t http1_head(char *dst, size_t cap, int status, const struct http1_head *h)
{
	struct head_writer w = {.at = dst, .end = dst + cap};
	const char *reason = http1_reason(status);

	CHECK(status >= 100 && status <= 999);
	HEAD_PUT(&w, "HTTP/1.1 ");
	head_put_u64(&w, (uint64_t)status);
	HEAD_PUT(&w, " ");
	head_put(&w, reason, strlen(reason));
	HEAD_PUT(&w, "\r\nContent-Length: ");
	head_put_u64(&w, h->content_length);
	if (h->content_type) {
		HEAD_PUT(&w, "\r\nContent-Type: ");
		head_put(&w, h->content_type, strlen(h->content_type));
	}
	if (h->gzip)
		HEAD_PUT(&w, "\r\nContent-Encoding: gzip");
	HEAD_PUT(&w, "\r\nCache-Control: private");
	if (h->request_id) {
		HEAD_PUT(&w, "\r\nX-Request-Id: ");
		head_put(&w, h->request_id, strlen(h->request_id));
	}
	if (!h->keep_alive)
		HEAD_PUT(&w, "\r\nConnection: close");
	else if (h->say_keep_alive)
		HEAD_PUT(&w, "\r\nConnection: keep-alive");
	HEAD_PUT(&w, "\r\n");
	if (h->extra)
		head_put(&w, h->extra, strlen(h->extra));
	HEAD_PUT(&w, "\r\n");
	return w.full ? 0 : (size_t)(w.at - dst);
}
