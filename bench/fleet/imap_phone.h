/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/imap_phone.h - what a phone says to an IMAP server and hears from it until it hangs in IDLE
 * (RFC 3501, RFC 2177): LOGIN, SELECT INBOX, IDLE, and then "* n EXISTS".
 * Thread: plain functions.    Memory: none.    Errors: IMAP_FAILED with a text.
 * No literals: none comes in these answers but from a server that is asked for more. */
#ifndef ROOST_BENCH_FLEET_IMAP_PHONE_H
#define ROOST_BENCH_FLEET_IMAP_PHONE_H

#include "core/base/bytes.h"

enum { IMAP_LINE_BYTES_MAX = 8192, IMAP_WHY_BYTES = 160 };

enum imap_step { IMAP_GREETING, IMAP_LOGIN, IMAP_SELECT, IMAP_IDLE, IMAP_HANGS };

enum imap_result {
	IMAP_NEED_MORE, /* no whole line is there */
	IMAP_READ,      /* a line that changes nothing */
	IMAP_NEXT,      /* *step is the next one: imap_say it */
	IMAP_PARKED,    /* IDLE is accepted */
	IMAP_EXISTS,    /* so many messages are in the inbox */
	IMAP_FAILED,
};

struct imap_in {
	size_t used; /* bytes of the line; 0 with IMAP_NEED_MORE */
	uint32_t exists;
	char why[IMAP_WHY_BYTES];
};

/* One line of what came, begun in *step. */
enum imap_result imap_read(enum imap_step *step, const uint8_t *p, size_t n, struct imap_in *out);
/* The command of that step; nothing for GREETING and HANGS. Names and passwords go in quotes, so they
 * must hold no quote, backslash or control character. */
void imap_say(enum imap_step step, const char *user, const char *password, struct buf *out);

#endif
