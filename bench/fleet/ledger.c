/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "bench/fleet/ledger.h"

#include "bench/metrics_page.h"

#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 3, 4))) static void rule(
	struct ledger_report *r, bool holds, const char *fmt, ...)
{
	va_list ap;

	r->rules++;
	if (holds)
		return;
	if (r->broken < LEDGER_BROKEN_MAX) {
		va_start(ap, fmt);
		vsnprintf(r->text[r->broken], LEDGER_BROKEN_BYTES, fmt, ap);
		va_end(ap);
	}
	r->broken++;
}

static unsigned long long u(uint64_t v)
{
	return v;
}

static uint64_t counter(const struct metrics_page *page, const char *name, const char *labels)
{
	return (uint64_t)metrics_value(page, name, labels);
}

void ledger_read(const struct metrics_page *page, struct ledger_server *out)
{
	static const char wakes[] = "roost_wakes_total";

	*out = (struct ledger_server){
		.accepted = counter(page, "roost_connections_accepted_total", NULL),
		.adopted = counter(page, "roost_connections_adopted_total", NULL),
		.closed = counter(page, "roost_connections_closed_total", NULL),
		.closed_lost = counter(page, "roost_connections_closed_total", "lost"),
		.open = counter(page, "roost_connections", NULL),
		.pings = counter(page, "roost_pings_total", NULL),
		.at_once = counter(page, "roost_pings_answered_at_once_total", NULL),
		.parked_total = counter(page, "roost_requests_parked_total", NULL),
		.parked = counter(page, "roost_parked_requests", NULL),
		.woken_change = counter(page, wakes, "change"),
		.woken_end = counter(page, wakes, "heartbeat") + counter(page, wakes, "superseded"),
		.woken_other = counter(page, wakes, "hierarchy") + counter(page, wakes, "access") +
			       counter(page, wakes, "drain"),
		.hangups = counter(page, wakes, "hangup"),
	};
}

uint64_t ledger_gone(const struct ledger *l)
{
	return l->ends[LEDGER_DROPPED] + l->ends[LEDGER_VANISHED] + l->ends[LEDGER_LOST];
}

void ledger_check_phones(const struct ledger *l, bool quiet, struct ledger_report *r)
{
	uint64_t ended = 0;

	for (int i = 0; i < LEDGER_END_COUNT; i++)
		ended += l->ends[i];
	rule(r, l->asked == ended + l->hanging,
		"%llu Pings were sent, %llu ended and %llu hang: not the same", u(l->asked),
		u(ended), u(l->hanging));
	rule(r, !quiet || l->hanging == 0, "%llu Pings were never ended", u(l->hanging));
	rule(r, l->twice == 0, "%llu answers came that nobody was waiting for", u(l->twice));
	rule(r, l->dead == 0, "%llu phones that had vanished were answered", u(l->dead));
	rule(r, l->ends[LEDGER_LOST] == 0, "%llu connections with a hanging Ping were lost",
		u(l->ends[LEDGER_LOST]));
	rule(r, l->ends[LEDGER_ODD] == 0, "%llu Pings were answered with something else",
		u(l->ends[LEDGER_ODD]));
}

void ledger_check_server(const struct ledger_server *s, struct ledger_report *r)
{
	rule(r, s->accepted + s->adopted == s->closed + s->open,
		"server: %llu connections accepted and %llu adopted, but %llu closed and %llu open",
		u(s->accepted), u(s->adopted), u(s->closed), u(s->open));
	rule(r,
		s->parked_total ==
			s->woken_change + s->woken_end + s->woken_other + s->hangups + s->parked,
		"server: %llu requests began to hang, but %llu woke, %llu hung up and %llu hang",
		u(s->parked_total), u(s->woken_change + s->woken_end + s->woken_other),
		u(s->hangups), u(s->parked));
}

/* What the server did more than the phones saw. */
static uint64_t unseen(struct ledger_report *r, const char *what, uint64_t server, uint64_t phones)
{
	rule(r, server >= phones, "%s: the phones saw %llu, the server did %llu", what, u(phones),
		u(server));
	return server >= phones ? server - phones : 0;
}

void ledger_check_both(const struct ledger *l, const struct ledger_server *before,
	const struct ledger_server *after, struct ledger_report *r)
{
	uint64_t pings = after->pings - before->pings;
	uint64_t at_once = after->at_once - before->at_once;
	uint64_t parked = after->parked_total - before->parked_total;
	uint64_t hangups = after->hangups - before->hangups;
	uint64_t gone = ledger_gone(l), let_in = l->asked - l->ends[LEDGER_REFUSED];

	rule(r, after->accepted - before->accepted == l->connected,
		"the phones connected %llu times, the server accepted %llu", u(l->connected),
		u(after->accepted - before->accepted));
	rule(r, after->parked == 0, "%llu requests hang at the server though all phones have left",
		u(after->parked));
	rule(r, pings == parked + at_once + l->ends[LEDGER_ODD],
		"server: %llu Pings were let in, but %llu hung and %llu were answered at once",
		u(pings), u(parked), u(at_once));
	r->into_the_void =
		unseen(r, "answers with a change",
			after->woken_change - before->woken_change + at_once,
			l->ends[LEDGER_CHANGE] + l->ends[LEDGER_SUPERSEDED_CHANGE]) +
		unseen(r, "answers without a change", after->woken_end - before->woken_end,
			l->ends[LEDGER_HEARTBEAT] + l->ends[LEDGER_SUPERSEDED]);
	rule(r, after->woken_other == before->woken_other,
		"server: %llu requests were woken for access, folders or a drain",
		u(after->woken_other - before->woken_other));
	rule(r, let_in >= pings, "the phones sent %llu Pings, the server got %llu", u(let_in),
		u(pings));
	r->never_read = let_in >= pings ? let_in - pings : 0;
	rule(r, gone == hangups + r->into_the_void + r->never_read,
		"%llu Pings were given up by the phones; the server knows %llu of them as hung up, "
		"%llu as answered and %llu not at all",
		u(gone), u(hangups), u(r->into_the_void), u(r->never_read));
}
