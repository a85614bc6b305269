/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/imap_phone.h"

#include <stdio.h>

static enum imap_result fail(struct imap_in *in, const char *doing, const char *line)
{
	snprintf(in->why, sizeof(in->why), "%s: %.100s", doing, line);
	return IMAP_FAILED;
}

static bool begins(const char *line, const char *with)
{
	return bytes_eq_nocase(bytes_of(line, strnlen(line, strlen(with))), with);
}

static const char *doing_of(enum imap_step step)
{
	static const char *const words[] = {
		[IMAP_GREETING] = "greeting",
		[IMAP_LOGIN] = "LOGIN",
		[IMAP_SELECT] = "SELECT",
		[IMAP_IDLE] = "IDLE",
		[IMAP_HANGS] = "while idle",
	};

	return words[step];
}

static enum imap_result untagged(enum imap_step *step, const char *line, struct imap_in *in)
{
	uint64_t v;
	const char *digits = line + 2, *after = digits + strspn(digits, "0123456789");

	if (begins(line, "* BYE"))
		return fail(in, doing_of(*step), line);
	if (*step == IMAP_GREETING) {
		if (!begins(line, "* OK"))
			return fail(in, "greeting", line);
		*step = IMAP_LOGIN;
		return IMAP_NEXT;
	}
	if (!begins(after, " EXISTS") || after[7] != 0 ||
		!bytes_to_u64(bytes_of(digits, (size_t)(after - digits)), UINT32_MAX, &v))
		return IMAP_READ;
	in->exists = (uint32_t)v;
	return IMAP_EXISTS;
}

enum imap_result imap_read(enum imap_step *step, const uint8_t *p, size_t n, struct imap_in *in)
{
	static const char *const tags[] = {
		[IMAP_LOGIN] = "1 OK", [IMAP_SELECT] = "2 OK", [IMAP_IDLE] = "3 OK"};
	const uint8_t *lf = n ? memchr(p, '\n', n) : NULL;
	char line[256];

	*in = (struct imap_in){.used = 0};
	if ((lf ? (size_t)(lf - p) + 1 : n) > IMAP_LINE_BYTES_MAX)
		return fail(in, doing_of(*step), "a line without end");
	if (!lf)
		return IMAP_NEED_MORE;
	in->used = (size_t)(lf - p) + 1;
	if (in->used < 2 || lf[-1] != '\r' || memchr(p, 0, in->used))
		return fail(in, doing_of(*step), "not a line of IMAP");
	snprintf(line, sizeof(line), "%.*s", (int)in->used - 2, (const char *)p);
	if (begins(line, "* "))
		return untagged(step, line, in);
	if (*step == IMAP_IDLE && line[0] == '+') {
		*step = IMAP_HANGS;
		return IMAP_PARKED;
	}
	if ((*step == IMAP_LOGIN || *step == IMAP_SELECT) && begins(line, tags[*step])) {
		*step = *step == IMAP_LOGIN ? IMAP_SELECT : IMAP_IDLE;
		return IMAP_NEXT;
	}
	return fail(in, doing_of(*step), line);
}

void imap_say(enum imap_step step, const char *user, const char *password, struct buf *out)
{
	if (step == IMAP_LOGIN)
		buf_printf(out, "1 LOGIN \"%s\" \"%s\"\r\n", user, password);
	else if (step == IMAP_SELECT)
		buf_add_str(out, "2 SELECT INBOX\r\n");
	else if (step == IMAP_IDLE)
		buf_add_str(out, "3 IDLE\r\n");
}
