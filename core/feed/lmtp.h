/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/feed/lmtp.h - mail in by LMTP (RFC 2033; RFC 5321 syntax; PIPELINING RFC 2920, 8BITMIME RFC
 * 6152, SMTPUTF8 RFC 6531, SIZE RFC 1870, ENHANCEDSTATUSCODES RFC 2034, CHUNKING RFC 3030).
 * Two parts: a session machine that touches no socket (feed bytes, get replies), and a listener
 * with bounded sessions on threads of its own.
 * Line ends: commands end with CRLF. A bare LF in a command gets 554 5.5.2 and ends the session, and in
 *       DATA only CRLF . CRLF ends the message: whatever another server took for a line end, no
 *       command and no message can be smuggled in here.
 * Rule: 250 after DATA or BDAT LAST is said per recipient, and only after the durable commit.
 *         Each recipient's message is committed exactly once per 250. */
#ifndef ROOST_FEED_LMTP_H
#define ROOST_FEED_LMTP_H

#include "core/base/bytes.h"

struct lmtp_session;

/* What a session asks of the outside. */
enum lmtp_verdict {
	LMTP_OK,           /* 250 2.1.5 / 250 2.0.0 */
	LMTP_UNKNOWN_USER, /* 550 5.1.1 */
	LMTP_DISABLED,     /* 550 5.2.1 */
	LMTP_QUOTA,        /* 452 4.2.2 */
	LMTP_STORE_DOWN,   /* 451 4.3.0: try again */
	LMTP_STORE_FULL,   /* 452 4.3.1 */
};
struct lmtp_hooks {
	void *arg;
	const char *peer;              /* for Received and the log; NULL: unknown */
	uint64_t (*now_ms)(void *arg); /* wall clock; NULL: clock_wall_ms */
	enum lmtp_verdict (*recipient)(void *arg, struct bytes address, uint32_t *mailbox_out);
	/* Stores one message for n different mailboxes (one verdict each); returns after the commit.
	 * Recipients that share a mailbox (user, user+tag) get one copy and each its 250. */
	void (*deliver)(void *arg, struct bytes message, const uint32_t *mailboxes, size_t n,
		enum lmtp_verdict *verdicts_out);
};
struct lmtp_limits {
	uint64_t message_bytes_max;
	uint32_t recipients_max;
	uint32_t line_bytes_max; /* command lines */
	uint32_t errors_max;     /* bad commands before 421 */
};

/* The greeting is appended to out at once. */
struct lmtp_session *lmtp_session_new(const char *host_name, const struct lmtp_limits *lim,
	const struct lmtp_hooks *hooks, struct buf *out);
void lmtp_session_free(struct lmtp_session **s);
/* Feeds bytes, appends replies. False: send what is in out, then close (QUIT or 421). */
bool lmtp_session_feed(struct lmtp_session *s, const uint8_t *p, size_t n, struct buf *out);
/* A transaction is under way (MAIL was accepted): not the moment to hang up. */
bool lmtp_session_busy(const struct lmtp_session *s);
/* Appends "421 4.3.2 text" (shutdown, time-out); the caller closes. */
void lmtp_session_goodbye(struct lmtp_session *s, const char *text, struct buf *out);

struct config;
struct db;
struct writer;
/* Stores a message into the inbox of each mailbox, as LMTP and `roostctl deliver` do: parsed once, one
 * write for all (groups when copies of a big message would make a huge transaction). `w` NULL:
 * db_write on this thread. errors_out[i]: how mailbox i went (DB_NOT_FOUND: no such mailbox); returns
 * the first failure, or DB_OK. */
int deliver_message(struct db *db, struct writer *w, struct bytes message,
	const uint32_t *mailboxes, size_t n, uint64_t now_ms, int *errors_out);
/* Mailbox of an address; DB_NOT_FOUND; *disabled_out. Local-part detail (+tag) is stripped when
 * the full address is unknown. */
int deliver_find(struct db *db, struct bytes address, uint32_t *mailbox_out, bool *disabled_out);

struct lmtp_server;
/* Opens the listeners (host:port or unix:/path) and starts the accepting thread. */
struct lmtp_server *lmtp_server_start(
	const struct config *c, struct db *db, struct writer *w, char *why, size_t why_bytes);
struct socket_list;
/* The same with listening sockets that are there already (or NULL), used where they fit. */
struct lmtp_server *lmtp_server_start_with(const struct config *c, struct db *db, struct writer *w,
	struct socket_list *inherited, char *why, size_t why_bytes);
/* The listening sockets, for a successor: they stay the server's. */
void lmtp_server_sockets(const struct lmtp_server *s, struct socket_list *out);
/* As lmtp_server_stop, when a successor has the sockets: files of unix sockets stay. */
void lmtp_server_leave(struct lmtp_server **s);
/* Port of the nth TCP listener (a test listens on port 0); 0: none such. */
uint16_t lmtp_server_port(const struct lmtp_server *s, size_t nth);
/* No new sessions; sessions under way finish their current transaction (bounded), then 421. */
void lmtp_server_stop(struct lmtp_server **s);

#endif
