/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/gzip.h"

#include <zlib.h>

enum {
	WINDOW_GZIP = 15 + 16,     /* zlib: 32 KiB window, gzip header and trailer only */
	STEP_BYTES = 32 * 1024,    /* unpacked at a time */
	INPUT_BYTES_MAX = 1 << 30, /* what fits zlib's unsigned int with room to spare */
	LEVEL = 2, /* answers are short-lived: 6 would halve the speed for a few percent */
};

/* Unpacks all members; 1 or a negative status. `max` leaves room for counting to max + 1. */
static int inflate_members(z_stream *z, struct bytes in, uint64_t max, struct buf *out)
{
	uint64_t total = 0;
	int err;

	for (;;) {
		uint64_t left = max + 1 - total;
		uInt step = left < STEP_BYTES ? (uInt)left : STEP_BYTES;
		uint8_t *p = buf_room(out, step);

		if (!p)
			return -503;
		if (z->avail_in == 0) {
			z->next_in = (Bytef *)in.p;
			z->avail_in = in.n < INPUT_BYTES_MAX ? (uInt)in.n : INPUT_BYTES_MAX;
			in.p += z->avail_in;
			in.n -= z->avail_in;
		}
		z->next_out = p;
		z->avail_out = step;
		err = inflate(z, Z_NO_FLUSH);
		total += step - z->avail_out;
		out->n += step - z->avail_out;
		if (total > max)
			return -413;
		if (err == Z_STREAM_END) {
			if (z->avail_in == 0 && in.n == 0)
				return 1;
			/* Another member, or garbage, which fails as a header. */
			err = inflateReset(z);
		}
		if (err == Z_MEM_ERROR)
			return -503;
		/* Z_BUF_ERROR: the input has ended, the stream has not. */
		if (err != Z_OK)
			return -400;
	}
}

int gzip_inflate(struct bytes in, uint64_t max, struct buf *out)
{
	z_stream z = {0};
	size_t before = out->n;
	int result;

	if (in.n == 0)
		return -400;
	if (inflateInit2(&z, WINDOW_GZIP) != Z_OK)
		return -503;
	result = inflate_members(&z, in, max < INT64_MAX ? max : INT64_MAX, out);
	inflateEnd(&z);
	if (result < 0)
		out->n = before;
	return result;
}

bool gzip_deflate(struct bytes in, struct buf *out)
{
	z_stream z = {0};
	uLong bound;
	uint8_t *p;
	bool ok = false;

	if (in.n > INPUT_BYTES_MAX)
		return false;
	if (deflateInit2(&z, LEVEL, Z_DEFLATED, WINDOW_GZIP, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return false;
	bound = deflateBound(&z, in.n);
	p = buf_room(out, bound);
	if (p) {
		z.next_in = (Bytef *)in.p;
		z.avail_in = (uInt)in.n;
		z.next_out = p;
		z.avail_out = (uInt)bound;
		ok = deflate(&z, Z_FINISH) == Z_STREAM_END;
		if (ok)
			out->n += bound - z.avail_out;
	}
	deflateEnd(&z);
	return ok;
}
