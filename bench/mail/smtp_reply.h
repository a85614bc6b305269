/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/mail/smtp_reply.h - one reply of an SMTP or LMTP server (RFC 5321 4.2, RFC 2033), read strictly:
 * three digits of the range there, "-" behind them where lines follow, the same code in each line,
 * CRLF, no control characters.
 * Thread: plain values.    Memory: views into the caller's buffer; allocates nothing.
 * Errors: -1 with a static reason.    Cost: one pass over the reply. */
#ifndef ROOST_BENCH_MAIL_SMTP_REPLY_H
#define ROOST_BENCH_MAIL_SMTP_REPLY_H

#include "core/base/bytes.h"

enum { SMTP_REPLY_BYTES_MAX = 16384 };

struct smtp_reply {
	int code;
	struct bytes lines; /* the reply, with every CRLF */
	struct bytes last;  /* its last line, code included, without CRLF: for people */
};

/* 1: a whole reply, *out is set; what follows begins behind out->lines. 0: need more: call again with
 * all bytes so far and more behind them. -1: refused; of *out only `last` is set, to as much of
 * the refused line as is fit to be shown. */
int smtp_reply_parse(const uint8_t *p, size_t n, struct smtp_reply *out, const char **why_out);
/* Of a reply to EHLO or LHLO: whether it names that extension (4.1.1.1). */
bool smtp_reply_offers(const struct smtp_reply *r, const char *keyword);

#endif
