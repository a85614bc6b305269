/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Input: one byte that chooses the step to begin in and where the network cuts, then what an IMAP server
 * says. Whatever the cuts, the phone hears the same and ends in the same step. */
#include "bench/fleet/imap_phone.h"

#include <stdlib.h>

struct side {
	enum imap_step step;
	size_t at; /* taken of the input */
	enum imap_result last;
	char why[IMAP_WHY_BYTES];
	struct buf heard;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* What may follow what, and that a line was taken whole. */
static void check_heard(enum imap_step was, const struct side *s, const uint8_t *p, size_t n,
	const struct imap_in *in)
{
	if (s->last == IMAP_FAILED) {
		must(in->why[0] && s->step == was);
		return;
	}
	must(in->used > 2 || s->last == IMAP_NEED_MORE);
	must(in->used <= n && in->used <= IMAP_LINE_BYTES_MAX);
	must(in->used == 0 || memchr(p, '\n', in->used) == p + in->used - 1);
	switch (s->last) {
	case IMAP_NEED_MORE:
		must(in->used == 0 && s->step == was && !memchr(p, '\n', n));
		break;
	case IMAP_READ:
		must(s->step == was && was != IMAP_GREETING);
		break;
	case IMAP_EXISTS:
		must(s->step == was && was != IMAP_GREETING);
		must(p[0] == '*' && strtoull((const char *)p + 2, NULL, 10) == in->exists);
		break;
	case IMAP_NEXT:
		must(s->step == was + 1 && s->step <= IMAP_IDLE);
		break;
	case IMAP_PARKED:
		must(was == IMAP_IDLE && s->step == IMAP_HANGS);
		break;
	case IMAP_FAILED:
		break;
	}
}

/* What is there of the input, to its last whole line or until it fails. */
static void read_some(struct side *s, const uint8_t *p, size_t n)
{
	do {
		enum imap_step was = s->step;
		struct imap_in in;

		s->last = imap_read(&s->step, p + s->at, n - s->at, &in);
		check_heard(was, s, p + s->at, n - s->at, &in);
		s->at += in.used;
		memcpy(s->why, in.why, sizeof(s->why));
		if (s->last != IMAP_NEED_MORE)
			buf_printf(&s->heard, "%d %zu %u\n", (int)s->last, in.used, in.exists);
	} while (s->last != IMAP_NEED_MORE && s->last != IMAP_FAILED);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct side whole = {0}, split = {0};
	size_t k = 0, step;

	if (n < 1)
		return 0;
	whole.step = split.step = (enum imap_step)(p[0] % (IMAP_HANGS + 1));
	step = 1 + p[0] / (IMAP_HANGS + 1);
	p++, n--;
	read_some(&whole, p, n);
	do {
		k = n - k < step ? n : k + step;
		read_some(&split, p, k);
	} while (split.last != IMAP_FAILED && k < n);
	must(whole.step == split.step && whole.at == split.at && whole.last == split.last);
	must(strcmp(whole.why, split.why) == 0);
	must(!whole.heard.failed && bytes_eq(buf_bytes(&whole.heard), buf_bytes(&split.heard)));
	buf_free(&whole.heard);
	buf_free(&split.heard);
	return 0;
}
