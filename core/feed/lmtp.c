/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The LMTP session machine. Bytes go in at any split, replies come out; what a session may store
 * or say is decided here, without sockets. */
#include "core/feed/lmtp.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum { PATH_BYTES_MAX = 320, NAME_BYTES_MAX = 255 };

enum mode {
	MODE_COMMAND,
	MODE_SKIP_LINE, /* an over-long command line, until its end */
	MODE_DATA,
	MODE_BDAT,
	MODE_CLOSED,
};

/* Where in "CRLF . CRLF" the data stand; a line begins in DATA_START. */
enum data_at { DATA_START, DATA_TEXT, DATA_CR, DATA_DOT, DATA_DOT_CR };

struct recipient {
	char *address;
	uint32_t mailbox;
};

struct lmtp_session {
	const char *host_name;
	struct lmtp_limits lim;
	struct lmtp_hooks hooks;
	enum mode mode;
	enum data_at data_at;
	char client[NAME_BYTES_MAX + 1]; /* LHLO; empty: not yet */
	struct buf line;                 /* an unfinished command */
	uint32_t errors;

	/* The transaction. */
	bool mail, smtputf8;
	char sender[PATH_BYTES_MAX + 1];
	struct recipient *recipients;
	size_t recipient_count, recipient_cap;
	struct buf message;
	uint64_t message_bytes; /* what the client sent: counted beyond the limit too */
	uint64_t id;            /* of the transaction: in Received and the log */
	bool chunked;           /* BDAT has begun */
	bool too_big, no_memory;
	uint64_t chunk_left;
	bool chunk_last, chunk_refused, skip_cr;
};

static void reply(struct buf *out, const char *text)
{
	buf_add_str(out, text);
	buf_add_str(out, "\r\n");
}

static uint64_t now_ms(const struct lmtp_session *s)
{
	return s->hooks.now_ms ? s->hooks.now_ms(s->hooks.arg) : clock_wall_ms();
}

static void transaction_clear(struct lmtp_session *s)
{
	for (size_t i = 0; i < s->recipient_count; i++)
		free(s->recipients[i].address);
	free(s->recipients);
	s->recipients = NULL;
	s->recipient_count = s->recipient_cap = 0;
	buf_free(&s->message);
	s->message_bytes = 0;
	s->mail = s->smtputf8 = s->chunked = s->too_big = s->no_memory = false;
	s->sender[0] = 0;
}

struct lmtp_session *lmtp_session_new(const char *host_name, const struct lmtp_limits *lim,
	const struct lmtp_hooks *hooks, struct buf *out)
{
	struct lmtp_session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->host_name = host_name;
	s->lim = *lim;
	s->hooks = *hooks;
	METRIC_INC(LMTP_SESSIONS);
	buf_printf(out, "220 %s LMTP Roost ready\r\n", host_name);
	return s;
}

void lmtp_session_free(struct lmtp_session **s)
{
	if (!*s)
		return;
	transaction_clear(*s);
	buf_free(&(*s)->line);
	free(*s);
	*s = NULL;
}

bool lmtp_session_busy(const struct lmtp_session *s)
{
	return s->mail;
}

void lmtp_session_goodbye(struct lmtp_session *s, const char *text, struct buf *out)
{
	buf_printf(out, "421 4.3.2 %s %s\r\n", s->host_name, text);
	s->mode = MODE_CLOSED;
}

/* A command that a working client would not send. Too many, and it is not one. */
static void refuse(struct lmtp_session *s, struct buf *out, const char *text)
{
	if (++s->errors >= s->lim.errors_max) {
		buf_printf(out, "421 4.7.0 %s Too many errors\r\n", s->host_name);
		s->mode = MODE_CLOSED;
		return;
	}
	reply(out, text);
}

/* -- storing -- */

static uint64_t next_id(void)
{
	static _Atomic uint64_t last;
	uint64_t first = 0;

	/* Begins with the time, so that ids of two runs differ. */
	if (atomic_load(&last) == 0)
		atomic_compare_exchange_strong(&last, &first, clock_wall_ms() << 16);
	return atomic_fetch_add(&last, 1) + 1;
}

/* The message begins with our trace lines (RFC 5321 4.4). */
static void message_begin(struct lmtp_session *s)
{
	struct buf *out = &s->message;
	char date[64];
	time_t t = (time_t)(now_ms(s) / 1000);
	struct tm tm;

	s->id = next_id();
	gmtime_r(&t, &tm);
	/* Not %a and %b: these would follow the locale. */
	static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
	static const char months[][4] = {
		"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
	snprintf(date, sizeof(date), "%s, %02d %s %04d %02d:%02d:%02d +0000", days[tm.tm_wday],
		tm.tm_mday, months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
	buf_printf(out, "Return-Path: <%s>\r\n", s->sender);
	buf_printf(out, "Received: from %s", s->client);
	if (s->hooks.peer)
		buf_printf(out, " ([%s])", s->hooks.peer);
	buf_printf(out, "\r\n\tby %s with %s id %016llx;\r\n\t%s\r\n", s->host_name,
		s->smtputf8 ? "UTF8LMTP" : "LMTP", (unsigned long long)s->id, date);
}

static const char *verdict_text(enum lmtp_verdict v)
{
	switch (v) {
	case LMTP_OK:
		return "250 2.0.0";
	case LMTP_UNKNOWN_USER:
		return "550 5.1.1";
	case LMTP_DISABLED:
		return "550 5.2.1";
	case LMTP_QUOTA:
		return "452 4.2.2";
	case LMTP_STORE_FULL:
		return "452 4.3.1";
	case LMTP_STORE_DOWN:
		break;
	}
	return "451 4.3.0";
}

static const char *verdict_words(enum lmtp_verdict v)
{
	switch (v) {
	case LMTP_OK:
		return "Stored";
	case LMTP_UNKNOWN_USER:
		return "No such user here";
	case LMTP_DISABLED:
		return "Mailbox is disabled";
	case LMTP_QUOTA:
		return "Mailbox is full";
	case LMTP_STORE_FULL:
		return "Store is full, try again later";
	case LMTP_STORE_DOWN:
		break;
	}
	return "Store is not available, try again later";
}

/* Message-ID of the header, for the log only. */
static struct bytes log_message_id(struct bytes m)
{
	for (size_t i = 0; i + 11 < m.n;) {
		const uint8_t *nl = memchr(m.p + i, '\n', m.n - i);
		size_t end = nl ? (size_t)(nl - m.p) : m.n;

		if (end - i <= 1)
			break; /* end of the header */
		if (strncasecmp((const char *)m.p + i, "Message-ID:", 11) == 0) {
			struct bytes v = bytes_of(m.p + i + 11, end - i - 11);

			while (v.n && (v.p[0] == ' ' || v.p[0] == '\t'))
				v.p++, v.n--;
			while (v.n && (v.p[v.n - 1] == '\r' || v.p[v.n - 1] == ' '))
				v.n--;
			return v.n > 200 ? bytes_of(v.p, 200) : v;
		}
		i = end + 1;
	}
	return (struct bytes){0};
}

static void log_transaction(
	const struct lmtp_session *s, size_t stored, size_t refused, size_t deferred)
{
	struct log_line l;

	log_begin(&l, stored || !(refused + deferred) ? LOG_INFO : LOG_WARNING,
		stored ? "lmtp: stored" : "lmtp: not stored");
	log_str(&l, "peer", s->hooks.peer);
	log_hex(&l, "id", s->id);
	log_str(&l, "from", s->sender);
	log_u64(&l, "recipients", s->recipient_count);
	log_u64(&l, "bytes", s->message_bytes);
	log_bytes(&l, "message_id", log_message_id(buf_bytes(&s->message)));
	log_u64(&l, "stored", stored);
	log_u64(&l, "refused", refused);
	log_u64(&l, "deferred", deferred);
	log_end(&l);
}

struct target {
	uint32_t mailbox;
	size_t recipient;
};

static int target_order(const void *a, const void *b)
{
	const struct target *x = a, *y = b;

	return x->mailbox < y->mailbox ? -1 : x->mailbox > y->mailbox;
}

/* Hands the message over, once per mailbox; verdicts_out has one for each recipient. */
static bool deliver(struct lmtp_session *s, enum lmtp_verdict *verdicts_out)
{
	size_t n = s->recipient_count, unique = 0;
	struct target *targets = calloc(n, sizeof(*targets));
	uint32_t *mailboxes = calloc(n, sizeof(*mailboxes));
	enum lmtp_verdict *verdicts = calloc(n, sizeof(*verdicts));
	bool ok = targets && mailboxes && verdicts;

	if (!ok)
		goto out;
	for (size_t i = 0; i < n; i++) {
		targets[i].mailbox = s->recipients[i].mailbox;
		targets[i].recipient = i;
	}
	qsort(targets, n, sizeof(*targets), target_order);
	for (size_t i = 0; i < n; i++)
		if (i == 0 || targets[i].mailbox != targets[i - 1].mailbox)
			mailboxes[unique++] = targets[i].mailbox;
	/* Whoever forgets a verdict has not stored anything. */
	for (size_t i = 0; i < unique; i++)
		verdicts[i] = LMTP_STORE_DOWN;
	s->hooks.deliver(s->hooks.arg, buf_bytes(&s->message), mailboxes, unique, verdicts);
	for (size_t i = 0, k = 0; i < n; i++) {
		if (targets[i].mailbox != mailboxes[k])
			k++;
		verdicts_out[targets[i].recipient] = verdicts[k];
	}
out:
	free(targets);
	free(mailboxes);
	free(verdicts);
	return ok;
}

/* One reply for each recipient (RFC 2033 4.2), then the transaction is over. */
static void finish(struct lmtp_session *s, struct buf *out)
{
	size_t n = s->recipient_count, stored = 0, refused = 0, deferred = 0;
	enum lmtp_verdict *verdicts = calloc(n, sizeof(*verdicts));
	const char *all = NULL;

	if (s->too_big)
		all = "552 5.3.4 Message is too big";
	else if (s->no_memory || s->message.failed || !verdicts || !deliver(s, verdicts))
		all = "452 4.3.1 Out of memory, try again later";
	for (size_t i = 0; i < n; i++) {
		const char *code = all ? all : verdict_text(verdicts[i]);

		if (all)
			reply(out, all);
		else
			buf_printf(out, "%s <%s> %s\r\n", code, s->recipients[i].address,
				verdict_words(verdicts[i]));
		stored += code[0] == '2';
		deferred += code[0] == '4';
		refused += code[0] == '5';
	}
	METRIC_ADD(LMTP_STORED, (int64_t)stored);
	METRIC_ADD(LMTP_REFUSED, (int64_t)refused);
	METRIC_ADD(LMTP_DEFERRED, (int64_t)deferred);
	log_transaction(s, stored, refused, deferred);
	free(verdicts);
	transaction_clear(s);
}

/* Beyond the limit bytes are counted and dropped; what was kept is of no use any more. */
static void take(struct lmtp_session *s, const uint8_t *p, size_t n)
{
	if (n == 0)
		return;
	s->message_bytes += n;
	if (s->message_bytes > s->lim.message_bytes_max)
		s->too_big = true;
	if (s->too_big || s->no_memory) {
		buf_free(&s->message);
		return;
	}
	buf_add(&s->message, p, n);
	if (s->message.failed) {
		s->no_memory = true;
		buf_free(&s->message);
	}
}

/* -- arguments -- */

/* Cuts the next blank-separated word from *rest. */
static struct bytes word(struct bytes *rest)
{
	struct bytes w;

	while (rest->n && rest->p[0] == ' ')
		rest->p++, rest->n--;
	w = bytes_of(rest->p, 0);
	while (w.n < rest->n && rest->p[w.n] != ' ')
		w.n++;
	rest->p += w.n;
	rest->n -= w.n;
	return w;
}

/* True when b begins with the ASCII word s, in any case; it is cut off. */
static bool prefix(struct bytes *b, const char *s)
{
	size_t n = strlen(s);

	if (b->n < n || strncasecmp((const char *)b->p, s, n) != 0)
		return false;
	b->p += n;
	b->n -= n;
	return true;
}

/* "<path>" at the start of *rest, blanks before it tolerated. The address without brackets and
 * source route goes to out. RFC 5321 4.1.2; quoted local parts may hold blanks and '>'. */
static bool path(struct bytes *rest, char *out, size_t cap)
{
	bool quoted = false;
	size_t i, n;

	while (rest->n && rest->p[0] == ' ')
		rest->p++, rest->n--;
	if (rest->n == 0 || rest->p[0] != '<')
		return false;
	for (i = 1; i < rest->n; i++) {
		uint8_t c = rest->p[i];

		if (c < 0x20 || c == 0x7f)
			return false;
		if (quoted && c == '\\') {
			if (++i == rest->n || rest->p[i] < 0x20 || rest->p[i] == 0x7f)
				return false;
			continue;
		}
		if (c == '"')
			quoted = !quoted;
		else if (!quoted && (c == ' ' || c == '<'))
			return false;
		else if (!quoted && c == '>')
			break;
	}
	if (i == rest->n)
		return false;
	struct bytes inner = bytes_of(rest->p + 1, i - 1);
	rest->p += i + 1;
	rest->n -= i + 1;
	if (rest->n && rest->p[0] != ' ')
		return false;
	/* "@a,@b:user@c": the route is ignored (RFC 5321 appendix C). */
	if (inner.n && inner.p[0] == '@') {
		const uint8_t *colon = memchr(inner.p, ':', inner.n);

		if (!colon)
			return false;
		n = (size_t)(colon + 1 - inner.p);
		inner.p += n;
		inner.n -= n;
	}
	if (!bytes_is_utf8(inner))
		return false;
	return bytes_to_strz(inner, out, cap);
}

static bool ascii(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s >= 0x80)
			return false;
	return true;
}

/* -- commands -- */

static void command_lhlo(struct lmtp_session *s, struct bytes rest, struct buf *out)
{
	struct bytes name = word(&rest);

	if (name.n == 0 || name.n > NAME_BYTES_MAX || word(&rest).n) {
		refuse(s, out, "501 5.5.4 Syntax: LHLO hostname");
		return;
	}
	/* It goes into a header of ours. */
	for (size_t i = 0; i < name.n; i++) {
		uint8_t c = name.p[i];
		bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
			     (c >= 'A' && c <= 'Z') || (c && strchr(".-_:[]", c));

		s->client[i] = plain ? (char)c : '?';
	}
	s->client[name.n] = 0;
	transaction_clear(s);
	buf_printf(out,
		"250-%s\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
		"250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SIZE %llu\r\n",
		s->host_name, (unsigned long long)s->lim.message_bytes_max);
}

static void command_mail(struct lmtp_session *s, struct bytes rest, struct buf *out)
{
	struct bytes w;
	bool utf8 = false;
	char sender[PATH_BYTES_MAX + 1];

	if (!s->client[0]) {
		refuse(s, out, "503 5.5.1 LHLO first");
		return;
	}
	if (s->mail) {
		refuse(s, out, "503 5.5.1 Sender already given");
		return;
	}
	if (!prefix(&rest, "FROM:")) {
		refuse(s, out, "501 5.5.4 Syntax: MAIL FROM:<address>");
		return;
	}
	if (!path(&rest, sender, sizeof(sender))) {
		refuse(s, out, "501 5.1.7 Bad sender address");
		return;
	}
	while ((w = word(&rest)).n) {
		uint64_t size;

		if (prefix(&w, "SIZE=")) {
			if (!bytes_to_u64(w, UINT64_MAX, &size)) {
				refuse(s, out, "501 5.5.4 Bad SIZE");
				return;
			}
			if (size > s->lim.message_bytes_max) {
				reply(out, "552 5.3.4 Message is too big");
				return;
			}
		} else if (bytes_eq_nocase(w, "BODY=7BIT") || bytes_eq_nocase(w, "BODY=8BITMIME")) {
			continue;
		} else if (bytes_eq_nocase(w, "SMTPUTF8")) {
			utf8 = true;
		} else {
			refuse(s, out, "555 5.5.4 Unsupported option");
			return;
		}
	}
	if (!utf8 && !ascii(sender)) {
		refuse(s, out, "553 5.6.7 Address needs SMTPUTF8");
		return;
	}
	memcpy(s->sender, sender, sizeof(sender));
	s->mail = true;
	s->smtputf8 = utf8;
	reply(out, "250 2.1.0 Sender ok");
}

static bool recipient_add(struct lmtp_session *s, const char *address, uint32_t mailbox)
{
	struct recipient *r;

	if (s->recipient_count == s->recipient_cap) {
		size_t cap = s->recipient_cap ? s->recipient_cap * 2 : 8;

		r = realloc(s->recipients, cap * sizeof(*r));
		if (!r)
			return false;
		s->recipients = r;
		s->recipient_cap = cap;
	}
	r = &s->recipients[s->recipient_count];
	r->address = strdup(address);
	r->mailbox = mailbox;
	if (!r->address)
		return false;
	s->recipient_count++;
	return true;
}

static void command_rcpt(struct lmtp_session *s, struct bytes rest, struct buf *out)
{
	char address[PATH_BYTES_MAX + 1];
	enum lmtp_verdict v;
	uint32_t mailbox = 0;

	if (!s->mail || s->chunked) {
		refuse(s, out, s->mail ? "503 5.5.1 BDAT has begun" : "503 5.5.1 MAIL first");
		return;
	}
	if (!prefix(&rest, "TO:")) {
		refuse(s, out, "501 5.5.4 Syntax: RCPT TO:<address>");
		return;
	}
	if (!path(&rest, address, sizeof(address)) || !address[0]) {
		refuse(s, out, "501 5.1.3 Bad recipient address");
		return;
	}
	if (word(&rest).n) {
		refuse(s, out, "555 5.5.4 Unsupported option");
		return;
	}
	if (!s->smtputf8 && !ascii(address)) {
		refuse(s, out, "553 5.6.7 Address needs SMTPUTF8");
		return;
	}
	if (s->recipient_count >= s->lim.recipients_max) {
		reply(out, "452 4.5.3 Too many recipients");
		return;
	}
	v = s->hooks.recipient(s->hooks.arg, bytes_str(address), &mailbox);
	if (v == LMTP_OK && !recipient_add(s, address, mailbox)) {
		reply(out, "452 4.3.1 Out of memory, try again later");
		return;
	}
	if (v == LMTP_OK)
		buf_printf(out, "250 2.1.5 <%s> ok\r\n", address);
	else
		buf_printf(out, "%s <%s> %s\r\n", verdict_text(v), address, verdict_words(v));
	/* An unknown address is no error of the client: lists have many. */
}

static void command_data(struct lmtp_session *s, struct bytes rest, struct buf *out)
{
	if (word(&rest).n) {
		refuse(s, out, "501 5.5.4 DATA takes no argument");
	} else if (!s->mail) {
		refuse(s, out, "503 5.5.1 MAIL first");
	} else if (s->chunked) {
		refuse(s, out, "503 5.5.1 BDAT has begun");
	} else if (s->recipient_count == 0) {
		refuse(s, out, "503 5.5.1 No valid recipients");
	} else {
		reply(out, "354 End with <CRLF>.<CRLF>");
		message_begin(s);
		s->mode = MODE_DATA;
		s->data_at = DATA_START;
	}
}

static void chunk_end(struct lmtp_session *s, struct buf *out)
{
	s->mode = MODE_COMMAND;
	if (s->chunk_refused)
		refuse(s, out, s->mail ? "503 5.5.1 No valid recipients" : "503 5.5.1 MAIL first");
	else if (s->chunk_last)
		finish(s, out);
	else if (s->too_big)
		reply(out, "552 5.3.4 Message is too big");
	else
		reply(out, "250 2.0.0 Chunk taken");
}

static void command_bdat(struct lmtp_session *s, struct bytes rest, struct buf *out)
{
	struct bytes size = word(&rest), last = word(&rest);
	uint64_t n;

	if (!bytes_to_u64(size, UINT64_MAX, &n) || (last.n && !bytes_eq_nocase(last, "LAST")) ||
		word(&rest).n) {
		/* Data follow, nobody knows how many: nothing behind this can be trusted. */
		reply(out, "501 5.5.4 Syntax: BDAT size [LAST]");
		s->mode = MODE_CLOSED;
		return;
	}
	/* Refused or not, the chunk is on its way (RFC 3030 2). */
	s->chunk_refused = !s->mail || s->recipient_count == 0;
	s->chunk_last = last.n > 0;
	s->chunk_left = n;
	if (!s->chunk_refused && !s->chunked) {
		s->chunked = true;
		message_begin(s);
	}
	s->mode = MODE_BDAT;
	if (n == 0)
		chunk_end(s, out);
}

static void command(struct lmtp_session *s, struct bytes line, struct buf *out)
{
	struct bytes rest = line, verb = word(&rest);

	if (line.n && memchr(line.p, 0, line.n)) {
		refuse(s, out, "500 5.5.2 NUL in command");
		return;
	}
	while (rest.n && rest.p[0] == ' ')
		rest.p++, rest.n--;
	if (bytes_eq_nocase(verb, "LHLO")) {
		command_lhlo(s, rest, out);
	} else if (bytes_eq_nocase(verb, "MAIL")) {
		command_mail(s, rest, out);
	} else if (bytes_eq_nocase(verb, "RCPT")) {
		command_rcpt(s, rest, out);
	} else if (bytes_eq_nocase(verb, "DATA")) {
		command_data(s, rest, out);
	} else if (bytes_eq_nocase(verb, "BDAT")) {
		command_bdat(s, rest, out);
	} else if (bytes_eq_nocase(verb, "RSET")) {
		if (word(&rest).n) {
			refuse(s, out, "501 5.5.4 RSET takes no argument");
			return;
		}
		transaction_clear(s);
		reply(out, "250 2.0.0 Reset");
	} else if (bytes_eq_nocase(verb, "NOOP")) {
		reply(out, "250 2.0.0 Ok");
	} else if (bytes_eq_nocase(verb, "VRFY")) {
		/* RFC 5321 7.3: no address harvesting. */
		reply(out, "252 2.5.0 Send some mail, I'll try my best");
	} else if (bytes_eq_nocase(verb, "QUIT")) {
		buf_printf(out, "221 2.0.0 %s closing\r\n", s->host_name);
		s->mode = MODE_CLOSED;
	} else if (bytes_eq_nocase(verb, "HELO") || bytes_eq_nocase(verb, "EHLO")) {
		refuse(s, out, "500 5.5.1 This is LMTP: use LHLO");
	} else if (bytes_eq_nocase(verb, "HELP") || bytes_eq_nocase(verb, "EXPN") ||
		   bytes_eq_nocase(verb, "STARTTLS") || bytes_eq_nocase(verb, "AUTH")) {
		refuse(s, out, "502 5.5.1 Not implemented");
	} else {
		refuse(s, out, "500 5.5.2 Unknown command");
	}
}

/* -- bytes -- */

static void bare_lf(struct lmtp_session *s, struct buf *out)
{
	reply(out, "554 5.5.2 Bare LF: lines end with CRLF");
	s->mode = MODE_CLOSED;
}

static size_t feed_command(struct lmtp_session *s, const uint8_t *p, size_t n, struct buf *out)
{
	const uint8_t *nl = memchr(p, '\n', n);
	size_t take_n = nl ? (size_t)(nl - p) + 1 : n, before = take_n - (nl != NULL);
	struct bytes line;

	if (s->mode == MODE_COMMAND && s->line.n + take_n > s->lim.line_bytes_max) {
		/* The reply comes with the end of the line, so that no split of it matters. */
		s->skip_cr = s->line.n && s->line.p[s->line.n - 1] == '\r';
		s->line.n = 0;
		s->mode = MODE_SKIP_LINE;
	}
	if (s->mode == MODE_SKIP_LINE) {
		if (before)
			s->skip_cr = p[before - 1] == '\r';
		if (!nl)
			return n;
		s->mode = MODE_COMMAND;
		if (s->skip_cr)
			refuse(s, out, "500 5.5.2 Line is too long");
		else
			bare_lf(s, out);
		return take_n;
	}
	buf_add(&s->line, p, take_n);
	if (s->line.failed) {
		lmtp_session_goodbye(s, "Out of memory", out);
		return take_n;
	}
	if (!nl)
		return take_n;
	line = buf_bytes(&s->line);
	line.n--;
	if (line.n == 0 || line.p[line.n - 1] != '\r') {
		bare_lf(s, out);
		return take_n;
	}
	line.n--;
	s->line.n = 0; /* the view stays good: nothing is added to it meanwhile */
	command(s, line, out);
	return take_n;
}

/* Takes message bytes up to the final dot. Only CRLF ends a line here; a lone CR or LF is text. */
static size_t feed_data(struct lmtp_session *s, const uint8_t *p, size_t n, struct buf *out)
{
	size_t i = 0, from = 0;

	for (; i < n; i++) {
		uint8_t c = p[i];

		switch (s->data_at) {
		case DATA_START:
			if (c == '.') {
				/* Not kept: it is stuffing, or the end. */
				take(s, p + from, i - from);
				from = i + 1;
				s->data_at = DATA_DOT;
				continue;
			}
			break;
		case DATA_DOT:
			if (c == '\r') {
				/* Held back until the next byte tells what it is. */
				from = i + 1;
				s->data_at = DATA_DOT_CR;
				continue;
			}
			break;
		case DATA_DOT_CR:
			if (c == '\n') {
				s->mode = MODE_COMMAND;
				finish(s, out);
				return i + 1;
			}
			take(s, (const uint8_t *)"\r", 1);
			from = i;
			break;
		case DATA_CR:
			if (c == '\n') {
				s->data_at = DATA_START;
				continue;
			}
			break;
		case DATA_TEXT: {
			/* Most bytes are neither: skip to the next CR. */
			const uint8_t *cr = memchr(p + i, '\r', n - i);

			i = cr ? (size_t)(cr - p) : n - 1;
			c = p[i];
			break;
		}
		}
		s->data_at = c == '\r' ? DATA_CR : DATA_TEXT;
	}
	take(s, p + from, n - from);
	return n;
}

static size_t feed_chunk(struct lmtp_session *s, const uint8_t *p, size_t n, struct buf *out)
{
	if (n > s->chunk_left)
		n = (size_t)s->chunk_left;
	if (!s->chunk_refused)
		take(s, p, n);
	s->chunk_left -= n;
	if (s->chunk_left == 0)
		chunk_end(s, out);
	return n;
}

bool lmtp_session_feed(struct lmtp_session *s, const uint8_t *p, size_t n, struct buf *out)
{
	while (n > 0 && s->mode != MODE_CLOSED) {
		size_t used = 0;

		switch (s->mode) {
		case MODE_COMMAND:
		case MODE_SKIP_LINE:
			used = feed_command(s, p, n, out);
			break;
		case MODE_DATA:
			used = feed_data(s, p, n, out);
			break;
		case MODE_BDAT:
			used = feed_chunk(s, p, n, out);
			break;
		case MODE_CLOSED:
			break;
		}
		CHECK(used > 0 && used <= n);
		p += used;
		n -= used;
	}
	return s->mode != MODE_CLOSED;
}
