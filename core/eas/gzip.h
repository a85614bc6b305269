/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/gzip.h - gzip bodies (RFC 1952) as phones send and ask for them (MS-ASHTTP 2.2.1.1.2).
 * Thread: any; no state between calls.
 * Memory: `out` is the caller's and is appended to; it grows with what really comes out, never by
 *         what a peer announces. While a call runs zlib holds about 45 KiB (inflate) or 270 KiB
 *         (deflate).
 * Errors: values; `out` is then as long as it was before.
 * Cost:   linear in input plus output; inflating stops one byte after `max`. */
#ifndef ROOST_EAS_GZIP_H
#define ROOST_EAS_GZIP_H

#include "core/base/bytes.h"

/* Appends what `in` unpacks to, at most `max` bytes. One or more whole members, as RFC 1952 2.2
 * allows, and nothing else behind them. 1: done. -413: more than `max`, however small the input.
 * -400: not gzip, damaged, cut short, or followed by other bytes. -503: no memory (then
 * out->failed may be set). */
int gzip_inflate(struct bytes in, uint64_t max, struct buf *out);

/* Appends `in` as one gzip member, packed quickly rather than tightly. The same input gives the
 * same bytes. False: no memory, or more than 1 GiB. */
bool gzip_deflate(struct bytes in, struct buf *out);

#endif
