/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/http1_priv.h - the inside of io/http1.h, for io/http1*.c only:
 *   http1.c         requests up to their empty line, and the credentials in them
 *   http1_body.c    counted and chunked bodies
 *   http1_answer.c  response heads */
#ifndef ROOST_IO_HTTP1_PRIV_H
#define ROOST_IO_HTTP1_PRIV_H

#include "io/http1.h"

/* Character classes, one byte of flags each: heads and trailers are checked byte by byte. */
enum { C_TOKEN = 1, C_VALUE = 2, C_TARGET = 4, C_HOST = 8 };
extern const uint8_t http1_class[256];

static inline int refuse(int status, const char *why, const char **why_out)
{
	*why_out = why;
	return -status;
}

#endif
