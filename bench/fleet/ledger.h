/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/ledger.h - the books of a run: what became of every Ping that a phone sent, as the phones saw
 * it and as the server did. Both must agree with themselves and with each other: what cannot be so is
 * a Ping that was lost, answered twice, or forgotten.
 * Thread: none; plain numbers.    Errors: broken rules, as text.
 *
 * What the two need not see alike: a Ping whose phone reset its connection or vanished had perhaps not
 * been read by the server yet, or was hanging there, or had just been answered. Which of these is
 * counted by the server; the rules bound the other two. */
#ifndef ROOST_BENCH_FLEET_LEDGER_H
#define ROOST_BENCH_FLEET_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LEDGER_ENDS(X)                                                                             \
	X(CHANGE, "answered with a change")                                                        \
	X(HEARTBEAT, "answered at the end of the heartbeat")                                       \
	X(SUPERSEDED, "answered because the phone sent a newer one")                               \
	X(SUPERSEDED_CHANGE, "answered with a change although a newer one was on its way")         \
	X(REFUSED, "refused with 503")                                                             \
	X(ODD, "answered otherwise")                                                               \
	X(DROPPED, "the phone reset its connection")                                               \
	X(VANISHED, "the phone vanished")                                                          \
	X(LOST, "the connection ended, and not by the phone")

enum ledger_end {
#define X(id, text) LEDGER_##id,
	LEDGER_ENDS(X)
#undef X
		LEDGER_END_COUNT
};

/* The phones'. */
struct ledger {
	uint64_t asked; /* Pings whose sending began */
	uint64_t ends[LEDGER_END_COUNT];
	uint64_t hanging;   /* not ended */
	uint64_t twice;     /* answers that no request was waiting for */
	uint64_t dead;      /* answers that came to a phone that had vanished */
	uint64_t connected; /* TCP connections made */
};

/* The server's, from its metrics; all of them since its start. */
struct ledger_server {
	uint64_t accepted, adopted, closed, open;
	uint64_t closed_lost; /* of the closed: no sign of life */
	uint64_t pings;       /* read and let in */
	uint64_t at_once;     /* of these, answered at once with a change */
	uint64_t parked_total, parked;
	uint64_t woken_change, woken_end; /* end: heartbeat, superseded */
	uint64_t woken_other;             /* hierarchy, access, drain */
	uint64_t hangups;
};

struct metrics_page;
void ledger_read(const struct metrics_page *page, struct ledger_server *out);

enum { LEDGER_BROKEN_BYTES = 192, LEDGER_BROKEN_MAX = 16 };
struct ledger_report {
	size_t rules, broken;
	char text[LEDGER_BROKEN_MAX][LEDGER_BROKEN_BYTES];
	/* Of the Pings whose phone was gone: answered all the same, and never read. */
	uint64_t into_the_void, never_read;
};

/* Pings that the phone itself ended, or that were lost. */
uint64_t ledger_gone(const struct ledger *l);
/* The phones' books alone; quiet: nothing hangs any more. */
void ledger_check_phones(const struct ledger *l, bool quiet, struct ledger_report *r);
/* The server's alone, at any moment at which nothing moves. */
void ledger_check_server(const struct ledger_server *s, struct ledger_report *r);
/* Both, from when `before` was read (no Ping was hanging then) until all phones have left. */
void ledger_check_both(const struct ledger *l, const struct ledger_server *before,
	const struct ledger_server *after, struct ledger_report *r);

#endif
