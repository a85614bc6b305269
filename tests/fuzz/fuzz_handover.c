/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The state of connections handed over, from arbitrary bytes: as they are, and once more with a
 * right checksum, so that the checks behind it are met.
 * Property: what is read can be written, and then is the same bytes. */
#include "core/upgrade/handover_state.h"

#include <stdlib.h>

static void check(struct bytes in)
{
	struct handover_reader r;
	struct handover_slot s;
	struct buf b = {0};
	uint32_t n = 0;
	char why[200];

	if (!handover_open(&r, in, why, sizeof(why)))
		return;
	handover_begin(&b, &r.head);
	while (handover_next(&r, &s)) {
		handover_add(&b, &s);
		n++;
	}
	if (n != r.head.count)
		abort();
	for (uint32_t i = 0; i < r.head.more_count; i++)
		handover_add_more(
			&b, handover_folder(bytes_of(in.p + in.n - 4 * (size_t)r.head.more_count,
						    4 * (size_t)r.head.more_count),
				    i));
	handover_end(&b);
	if (!bytes_eq(buf_bytes(&b), in))
		abort();
	buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct buf b = {0};

	check(bytes_of(p, n));
	if (n < HANDOVER_HEAD_BYTES || n % 4)
		return 0;
	buf_add(&b, p, n);
	handover_end(&b);
	check(buf_bytes(&b));
	buf_free(&b);
	return 0;
}
