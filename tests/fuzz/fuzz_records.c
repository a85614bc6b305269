/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Stored records and keys from arbitrary bytes. The first byte chooses the decoder.
 * Property: what decodes encodes to the same bytes, so there is one form of each record. */
#include <stdlib.h>

#include "store/key.h"
#include "store/record.h"

#define FUZZ_ONE(name, type)                                                                       \
	static void fuzz_##name(struct bytes in)                                                   \
	{                                                                                          \
		static struct record_buf buf;                                                      \
		static type r;                                                                     \
                                                                                                   \
		if (record_decode_##name(in, &r) == DB_OK &&                                       \
			!bytes_eq(record_encode_##name(&buf, &r), in))                             \
			abort();                                                                   \
	}
RECORDS(FUZZ_ONE)

static void fuzz_key(struct bytes in)
{
	struct key_parts parts;
	struct key key, next;

	if (key_parse(in, &parts)) {
		if (!bytes_eq(key_build(&key, &parts), in))
			abort();
		/* The least key above it is above it. */
		struct bytes after = key_after(&next, in);
		int order = memcmp(in.p, after.p, in.n < after.n ? in.n : after.n);
		if (order > 0 || (order == 0 && after.n <= in.n))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
#define NAME(name, type) fuzz_##name,
	static void (*const decoders[])(struct bytes) = {fuzz_key, RECORDS(NAME)};

	if (n)
		decoders[p[0] % (sizeof(decoders) / sizeof(decoders[0]))](bytes_of(p + 1, n - 1));
	return 0;
}
