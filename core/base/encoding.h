/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/encoding.h - base64 (RFC 4648) and percent-encoding (RFC 3986), strictly.
 * Thread: plain functions. Memory: the caller's; nothing is allocated. Errors: -1. */
#ifndef ROOST_BASE_ENCODING_H
#define ROOST_BASE_ENCODING_H

#include "core/base/bytes.h"

/* Value of a hexadecimal digit of either case; -1 when it is none. */
int hex_digit(uint8_t c);
/* RFC 4648 base64, padding optional (all of it or none), bits behind the last byte zero, url-safe
 * letters not accepted. Bytes written, or -1 when invalid or too long. dst may equal in.p. */
int base64_decode(struct bytes in, uint8_t *dst, size_t cap);
/* Percent-decoding in place semantics: dst may equal in.p. Bytes written (no NUL behind), or -1 on
 * a bad escape, a NUL (encoded or not) or overflow. plus_is_blank: form decoding. */
int percent_decode(struct bytes in, bool plus_is_blank, char *dst, size_t cap);

#endif
