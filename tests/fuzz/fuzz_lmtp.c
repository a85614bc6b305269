/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One stream to two sessions, whole and cut by its first byte: the same replies and the same
 * messages. Nothing is said to be stored that was not handed over. */
#include <stdlib.h>

#include "core/base/log.h"
#include "core/feed/lmtp.h"

struct side {
	struct lmtp_session *s;
	struct buf out, stored;
	size_t promised; /* recipients whose delivery the hook called done */
};

static enum lmtp_verdict recipient(void *arg, struct bytes address, uint32_t *mailbox_out)
{
	(void)arg;
	if (!bytes_is_utf8(address) || address.n == 0)
		abort();
	*mailbox_out = address.p[0] % 8;
	return address.p[0] == 'x' ? LMTP_UNKNOWN_USER : LMTP_OK;
}

static void deliver(void *arg, struct bytes message, const uint32_t *mailboxes, size_t n,
	enum lmtp_verdict *verdicts_out)
{
	struct side *side = arg;
	size_t lines = 0;

	if (n == 0)
		abort();
	/* The trace lines hold an id that differs. */
	for (; lines < 4 && message.n; message.p++, message.n--)
		lines += message.p[0] == '\n';
	buf_add(&side->stored, message.p, message.n);
	for (size_t i = 0; i < n; i++) {
		buf_add(&side->stored, &mailboxes[i], sizeof(mailboxes[i]));
		verdicts_out[i] = mailboxes[i] == 7 ? LMTP_QUOTA : LMTP_OK;
		side->promised += verdicts_out[i] == LMTP_OK;
	}
}

static uint64_t now_ms(void *arg)
{
	(void)arg;
	return 1;
}

static void open_side(struct side *side)
{
	static const struct lmtp_limits lim = {.message_bytes_max = 300,
		.recipients_max = 4,
		.line_bytes_max = 200,
		.errors_max = 8};
	struct lmtp_hooks hooks = {
		.arg = side, .now_ms = now_ms, .recipient = recipient, .deliver = deliver};

	side->s = lmtp_session_new("mx.example.test", &lim, &hooks, &side->out);
	if (!side->s)
		abort();
}

static void close_side(struct side *side)
{
	lmtp_session_free(&side->s);
	buf_free(&side->out);
	buf_free(&side->stored);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct side whole = {0}, split = {0};
	uint32_t x;
	bool more_whole, more_split = true;
	size_t said = 0;

	if (n == 0)
		return 0;
	log_set_level(LOG_ERROR);
	x = p[0];
	p++;
	n--;
	open_side(&whole);
	open_side(&split);
	more_whole = lmtp_session_feed(whole.s, p, n, &whole.out);
	for (size_t i = 0; i < n;) {
		size_t k;

		x = x * 1664525u + 1013904223u;
		k = 1 + (x >> 24) % 16;
		if (k > n - i)
			k = n - i;
		more_split = lmtp_session_feed(split.s, p + i, k, &split.out);
		i += k;
	}
	if (more_whole != more_split || !bytes_eq(buf_bytes(&whole.out), buf_bytes(&split.out)) ||
		!bytes_eq(buf_bytes(&whole.stored), buf_bytes(&split.stored)))
		abort();
	for (size_t i = 0; i + 11 <= whole.out.n; i++) {
		bool line = i == 0 || whole.out.p[i - 1] == '\n';

		said += line && memcmp(whole.out.p + i, "250 2.0.0 <", 11) == 0;
	}
	/* Recipients that share a mailbox share the copy: at most four say so. */
	if (said > 4 * whole.promised || (whole.promised && !said))
		abort();
	close_side(&whole);
	close_side(&split);
	return 0;
}
