/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The decoders of Sync's two blobs: what they take, the encoders make; nothing else. */
#include <stdlib.h>

#include "core/eas/sync_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct sync_cached cached;
	struct sync_bases bases;
	struct buf again = {0};
	struct arena a;

	arena_init(&a, 1 << 20);
	if (sync_cached_decode(bytes_of(p, n), &a, &cached)) {
		sync_cached_encode(&cached, &again);
		if (!bytes_eq(buf_bytes(&again), bytes_of(p, n)))
			abort();
	}
	again.n = 0;
	if (sync_bases_decode(bytes_of(p, n), &a, &bases)) {
		sync_bases_encode(&bases, &again);
		if (!bytes_eq(buf_bytes(&again), bytes_of(p, n)))
			abort();
		/* It stays bounded, whatever is set. */
		size_t before = bases.n;
		sync_bases_set(&bases, &a, 7, 1, 2);
		sync_bases_drop(&bases, 7);
		if (bases.n > before)
			abort();
	}
	buf_free(&again);
	arena_free(&a);
	return 0;
}
