/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/mail/mailer.h - makes changes by small mails over LMTP (RFC 2033) or SMTP (RFC 5321), for servers
 * that have no command for a change. Several connections, an envelope in one piece where PIPELINING
 * (RFC 2920) is offered; a connection that the server closed while it was idle is made anew.
 * Thread: one, blocking; at most MAILER_PATIENCE_S without any progress.
 * Memory: as said; a struct and two buffers per connection.
 * Errors: false with one line in why. Strict: any answer but the expected one is a failure, and one
 *         that nobody asked for too. Nothing is sent twice: what was on its way stays unknown.
 * Rule:   the sender is empty (<>), so that nothing ever bounces. */
#ifndef ROOST_BENCH_MAIL_MAILER_H
#define ROOST_BENCH_MAIL_MAILER_H

#include "core/base/bytes.h"

enum { MAILER_PATIENCE_S = 30, MAILER_CONNECTIONS_MAX = 256 };

struct mailer;

/* to: lmtp://HOST:PORT, smtp://HOST:PORT (port 24 or 25 when left out), lmtp:/SOCKET. address writes
 * a user's mail address. Connects once, to see that it works. */
struct mailer *mailer_open(const char *to, unsigned connections,
	void (*address)(uint32_t user, char *out, size_t cap), char *why, size_t why_bytes);
void mailer_close(struct mailer **m);

/* One mail to each of users[0,n); send_list: one mail to every `list_max` of them (0: to all).
 * done_ns_out[i]: when the 250 for users[i] had been read (CLOCK_MONOTONIC). A phone may hear of its
 * mail before. Returns after all of them. */
bool mailer_send(struct mailer *m, const uint32_t *users, size_t n, uint64_t *done_ns_out,
	char *why, size_t why_bytes);
bool mailer_send_list(struct mailer *m, const uint32_t *users, size_t n, size_t list_max,
	uint64_t *done_ns_out, char *why, size_t why_bytes);

#endif
