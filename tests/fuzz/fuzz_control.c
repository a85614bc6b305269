/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The control socket and the admin HTTP listener, as bytes in and bytes out. Where the stream is
 * cut must not matter; every answer on the control socket is JSON lines of which the last has "ok".
 */
#include "core/admin/admin_priv.h"

#include <jansson.h>
#include <stdlib.h>

static void must(bool ok)
{
	if (!ok)
		abort();
}

static unsigned parked(void *arg, uint32_t mailbox, uint32_t device,
	void (*one)(void *ctx, const struct admin_parked *p), void *ctx)
{
	struct admin_parked p = {.mailbox = 1, .folder_count = 3, .since_ms = 1};

	(void)arg, (void)mailbox, (void)device;
	for (int i = 0; i < 3; i++)
		one(ctx, &p);
	return 0;
}

static bool refuse(void *arg, char *why, size_t why_bytes)
{
	(void)arg;
	if (why_bytes)
		why[0] = 0;
	return false;
}

static void stop(void *arg)
{
	(void)arg;
}

static struct admin_source source = {.server = {.parked = parked, .reload = refuse, .stop = stop}};

/* Feeds the bytes in steps of `step`, as serve.c would. */
static unsigned feed(const uint8_t *p, size_t n, size_t step, struct buf *all)
{
	uint8_t in[CONTROL_LINE_BYTES];
	size_t have = 0, at = 0;
	unsigned answers = 0;

	for (;;) {
		struct buf out = {0};
		size_t used = 0;
		enum serve_next next = control_input(&source, bytes_of(in, have), &used, &out);

		must(used <= have);
		if (next == SERVE_MORE) {
			size_t k = n - at < step ? n - at : step;

			must(used == 0 && out.n == 0 && have < sizeof(in));
			if (k > sizeof(in) - have)
				k = sizeof(in) - have;
			if (k == 0)
				return answers;
			memcpy(in + have, p + at, k);
			have += k;
			at += k;
			continue;
		}
		must(used > 0 && out.n > 0 && out.p[out.n - 1] == '\n' && !out.failed);
		buf_add(all, out.p, out.n);
		buf_free(&out);
		answers++;
		memmove(in, in + used, have - used);
		have -= used;
		if (next == SERVE_CLOSE || answers == 20)
			return answers;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct buf whole = {0}, split = {0}, out = {0};
	size_t used = 0;
	enum serve_next next;
	unsigned a, b;

	source.started_ms = UINT64_MAX; /* uptime 0, so that answers can be compared */
	if (n && p[0] == 'G') {
		next = admin_http_input(&source, bytes_of(p, n), &used, &out);
		must(next == SERVE_MORE ? out.n == 0 && used == 0
					: next == SERVE_CLOSE && used == n && out.n > 12 &&
						  memcmp(out.p, "HTTP/1.1 ", 9) == 0);
		buf_free(&out);
		return 0;
	}
	a = feed(p, n, n ? n : 1, &whole);
	b = feed(p, n, 1, &split);
	must(a == b);
	for (size_t i = 0; i < whole.n;) {
		const uint8_t *end = memchr(whole.p + i, '\n', whole.n - i);
		json_t *j;

		must(end != NULL);
		j = json_loadb((const char *)whole.p + i, (size_t)(end - whole.p) - i, 0, NULL);
		must(json_is_object(j));
		if (json_object_get(j, "ok"))
			a--;
		json_decref(j);
		i = (size_t)(end - whole.p) + 1;
	}
	must(a == 0);
	buf_free(&whole);
	buf_free(&split);
	return 0;
}
