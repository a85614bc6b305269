/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/mail/lmtp_send.h - delivers one message by LMTP (RFC 2033), so that a demonstration needs no
 * mail program. A careful client in one respect: only 250 after the data is success. Thread: any;
 * blocks up to 10 s per answer of the server.    Memory: none kept. Errors: false with one line in
 * why. */
#ifndef ROOST_BENCH_MAIL_LMTP_SEND_H
#define ROOST_BENCH_MAIL_LMTP_SEND_H

#include "core/base/bytes.h"

/* server: host:port, [v6]:port or unix:/path. message: RFC 5322, lines end in LF or CRLF.
 * took_ns_out: from the end of the data to the 250, that is the durable commit; may be NULL. */
bool lmtp_send(const char *server, const char *from, const char *to, struct bytes message,
	uint64_t *took_ns_out, char *why, size_t why_bytes);
/* A small real message, dated now. */
void lmtp_sample(
	const char *from, const char *to, const char *subject, const char *text, struct buf *out);

#endif
