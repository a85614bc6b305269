/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Bodies, in whatever pieces come. */
#include "io/http1_priv.h"

#include "core/base/check.h"

enum body_state {
	B_COUNTED,
	B_SIZE_FIRST, /* at least one digit of the chunk size must come */
	B_SIZE,
	B_EXTENSION,
	B_SIZE_LF,
	B_DATA,
	B_DATA_CR,
	B_DATA_LF,
	B_TRAILER, /* start of a trailer line, or of the empty one */
	B_TRAILER_NAME,
	B_TRAILER_VALUE,
	B_TRAILER_LF,
	B_END_LF,
	B_DONE,
	B_REFUSED,
};

static int body_refuse(struct http1_body *b, int status, const char *why, const char **why_out)
{
	b->state = B_REFUSED;
	b->refused = (uint16_t)status;
	b->why = why;
	return refuse(status, why, why_out);
}

void http1_body_start(struct http1_body *b, const struct http1_request *req, uint64_t max)
{
	const char *why;

	*b = (struct http1_body){.max = max, .chunked = req->chunked};
	if (req->chunked) {
		b->state = B_SIZE_FIRST;
		return;
	}
	b->state = B_COUNTED;
	b->left = req->has_length ? req->content_length : 0;
	if (b->left > max)
		body_refuse(b, 413, "Content-Length over the limit", &why);
}

/* The size line is over: the chunk's data, or the trailers, come next. */
static void body_size_done(struct http1_body *b)
{
	uint64_t cost = (uint64_t)b->excess_bytes + b->line_bytes;
	uint64_t allowed = 16 + 2 * (b->left < UINT32_MAX ? b->left : UINT32_MAX);

	b->excess_bytes = cost > allowed ? (uint32_t)(cost - allowed) : 0;
	b->line_bytes = 0;
	b->state = b->left ? B_DATA : B_TRAILER;
}

/* One byte of framing. 1 taken, -status refused. */
static int body_frame_byte(struct http1_body *b, uint8_t c, const char **why_out)
{
	int digit;

	if (b->state <= B_SIZE_LF) {
		if (++b->line_bytes + b->excess_bytes > HTTP1_CHUNK_EXCESS_BYTES_MAX)
			return body_refuse(b, 400, "chunk extensions too long", why_out);
	} else if (b->state >= B_TRAILER) {
		if (++b->line_bytes > HTTP1_TRAILER_BYTES_MAX)
			return body_refuse(b, 431, "trailers too long", why_out);
	}
	switch ((enum body_state)b->state) {
	case B_SIZE_FIRST:
	case B_SIZE:
		digit = hex_digit(c);
		if (digit >= 0) {
			if (b->left >> 60)
				return body_refuse(b, 413, "chunk over the limit", why_out);
			b->left = b->left << 4 | (uint64_t)digit;
			b->state = B_SIZE;
			return 1;
		}
		if (b->state == B_SIZE_FIRST || (c != '\r' && c != ';'))
			return body_refuse(b, 400, "bad chunk size", why_out);
		if (b->left > b->max - b->total)
			return body_refuse(b, 413, "chunks over the limit", why_out);
		b->state = c == ';' ? B_EXTENSION : B_SIZE_LF;
		return 1;
	case B_EXTENSION:
		if (c == '\r')
			b->state = B_SIZE_LF;
		else if (!(http1_class[c] & C_VALUE))
			return body_refuse(b, 400, "bad chunk extension", why_out);
		return 1;
	case B_SIZE_LF:
		if (c != '\n')
			return body_refuse(b, 400, "bare CR in a chunk size", why_out);
		body_size_done(b);
		return 1;
	case B_DATA_CR:
		if (c != '\r')
			return body_refuse(b, 400, "chunk longer than its size", why_out);
		b->state = B_DATA_LF;
		return 1;
	case B_DATA_LF:
		if (c != '\n')
			return body_refuse(b, 400, "chunk longer than its size", why_out);
		b->state = B_SIZE_FIRST;
		return 1;
	case B_TRAILER:
		if (c == '\r')
			b->state = B_END_LF;
		else if (http1_class[c] & C_TOKEN)
			b->state = B_TRAILER_NAME;
		else
			return body_refuse(b, 400, "bad trailer name", why_out);
		return 1;
	case B_TRAILER_NAME:
		if (c == ':')
			b->state = B_TRAILER_VALUE;
		else if (!(http1_class[c] & C_TOKEN))
			return body_refuse(b, 400, "bad trailer name", why_out);
		return 1;
	case B_TRAILER_VALUE:
		if (c == '\r')
			b->state = B_TRAILER_LF;
		else if (!(http1_class[c] & C_VALUE))
			return body_refuse(b, 400, "control character in a trailer", why_out);
		return 1;
	case B_TRAILER_LF:
	case B_END_LF:
		if (c != '\n')
			return body_refuse(b, 400, "bare CR in a trailer", why_out);
		b->state = b->state == B_END_LF ? B_DONE : B_TRAILER;
		return 1;
	case B_COUNTED:
	case B_DATA:
	case B_DONE:
	case B_REFUSED:
		break;
	}
	CHECK(!"a state without framing");
	return 0;
}

int http1_body_feed(struct http1_body *b, const uint8_t *p, size_t n, size_t *consumed_out,
	struct buf *out, const char **why_out)
{
	size_t i = 0;
	int rc = 1;

	*consumed_out = 0;
	if (b->state == B_COUNTED && b->left == 0)
		b->state = B_DONE;
	while (rc == 1 && i < n && b->state < B_DONE) {
		if (b->state == B_COUNTED || b->state == B_DATA) {
			size_t take = n - i < b->left ? n - i : (size_t)b->left;

			if (out)
				buf_add(out, p + i, take);
			i += take;
			b->left -= take;
			b->total += take;
			if (b->left == 0)
				b->state = b->state == B_DATA ? B_DATA_CR : B_DONE;
			if (out && out->failed)
				rc = body_refuse(b, 503, "no memory for the body", why_out);
		} else {
			rc = body_frame_byte(b, p[i++], why_out);
		}
	}
	*consumed_out = i;
	if (b->state == B_REFUSED)
		return refuse(b->refused, b->why, why_out);
	return b->state == B_DONE;
}
