/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/gzip.c under hostile input. What must hold:
 * - a refusal leaves the output as it was, an answer adds at most `max` bytes;
 * - `max` is exact: what unpacks to n bytes passes with max n, and with n - 1 is refused as too
 *   big, while damage stays damage with any larger max;
 * - anything packed by us unpacks to itself. */
#include <stdlib.h>

#include "core/eas/gzip.h"

enum { MAX_BYTES = 1 << 20 };

static void require(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct bytes in = bytes_of(p, n);
	struct buf out = {0}, packed = {0};
	int k, again;
	size_t len;

	buf_add_str(&out, "before");
	k = gzip_inflate(in, MAX_BYTES, &out);
	require(k == 1 || k == -400 || k == -413);
	require(out.n >= 6 && memcmp(out.p, "before", 6) == 0 && !out.failed);
	len = out.n - 6;
	require(k == 1 ? len <= MAX_BYTES : len == 0);
	again = gzip_inflate(in, MAX_BYTES / 2, &out);
	require(again == k || again == -413);
	if (k == 1) {
		require((again == 1) == (len <= MAX_BYTES / 2));
		out.n = 6;
		require(gzip_inflate(in, len, &out) == 1 && out.n == 6 + len);
		if (len > 0)
			require(gzip_inflate(in, len - 1, &out) == -413 && out.n == 6 + len);
	}

	out.n = 0;
	require(gzip_deflate(in, &packed));
	require(gzip_inflate(buf_bytes(&packed), n, &out) == 1);
	require(bytes_eq(buf_bytes(&out), in));
	/* Behind a whole member, only more members: what was refused alone is refused there. */
	buf_add(&packed, p, n);
	again = gzip_inflate(buf_bytes(&packed), MAX_BYTES, &out);
	require(n == 0   ? again == 1
		: k == 1 ? again == (len + n <= MAX_BYTES ? 1 : -413)
			 : again < 0);
	buf_free(&out);
	buf_free(&packed);
	return 0;
}
