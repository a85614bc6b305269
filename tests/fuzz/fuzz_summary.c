/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Stored records from arbitrary bytes: what decodes is exactly what the encoder would have written.
 */
#include <stdlib.h>

#include "core/eas/message.h"

static void same(const struct buf *b, const uint8_t *p, size_t n)
{
	if (b->failed || !bytes_eq(buf_bytes(b), bytes_of(p, n)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct message_summary s;
	struct message_props props;
	struct buf b = {0};
	struct arena a;

	if (n == 0)
		return 0;
	if (message_summary_decode(bytes_of(p, n), &s)) {
		message_summary_encode(&s, &b);
		same(&b, p, n);
	}
	b.n = 0;
	arena_init(&a, 4 * 1024 * 1024);
	if (message_props_decode(bytes_of(p, n), &a, &props)) {
		if (props.category_count > MESSAGE_CATEGORIES_MAX)
			abort();
		message_props_encode(&props, &b);
		same(&b, p, n);
	}
	arena_free(&a);
	buf_free(&b);
	return 0;
}
