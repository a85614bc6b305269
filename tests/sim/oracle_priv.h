/* SPDX-License-Identifier: GPL-3.0-or-later */
/* tests/sim/oracle_priv.h - the inside of the oracle: oracle.c (requests come, hang, and must end),
 * news.c (what a device could know), judge.c (answers). */
#ifndef ROOST_TESTS_SIM_ORACLE_PRIV_H
#define ROOST_TESTS_SIM_ORACLE_PRIV_H

#include "tests/sim/sim.h"

/* Why a request has to end, and what the bound is counted from. */
enum cause {
	CAUSE_ADDED,   /* news that wake at once */
	CAUSE_CHANGED, /* news that wait for their delay */
	CAUSE_TOUCHED,
	CAUSE_HIERARCHY,
	CAUSE_ACCESS,
	CAUSE_SUPERSEDED,
	CAUSE_EVERYBODY, /* drain, policy */
	CAUSE_HEARTBEAT,
};

enum {
	TURN_MAX_US = 60 * MS,
	/* A request that is parked ends this soon after a commit, a message or a deadline. */
	WAKE_US = NOTIFY_MAX_US + POST_MAX_US + TURN_MAX_US,
	/* From the last byte of a request to its park or answer: read, identify, decide. */
	START_US = READ_MAX_US + CRED_MAX_US + POST_MAX_US + 4 * TURN_MAX_US,
	COMMAND_US = WORK_MAX_US + POST_MAX_US + TURN_MAX_US,
	WHEEL_US = 1000 * MS + TURN_MAX_US, /* deadlines are rounded up to a second */
	HEARTBEAT_SLACK_US = 2000 * MS,
	STRAY_US = 900 * SECOND,
	REFUSED_MAX_US = 900 * SECOND,
	STORM_OVER_MAX_US = 400 * SECOND,
	TIE_US = 2000 * MS,    /* requests that arrive so close together have no order */
	CROSSING_US = 10 * MS, /* a close and bytes that arrive, as seen from either end */
};

/* news.c */
bool position(struct db_txn *txn, uint32_t mailbox, uint32_t device, uint32_t folder,
	uint64_t *pos_out, bool *filled_out);
bool row_is_news(const struct row *r, uint32_t device, uint64_t pos, bool filled);
bool any_news(const struct box *b, uint32_t device, uint32_t folder, uint64_t pos, bool filled);
/* Is there news of the kind that was there before `cut_us`? Sets *first_us to the oldest such. */
bool old_news(
	struct request *r, bool added, uint64_t cut_us, uint32_t *folder_out, uint64_t *first_us);

/* oracle.c */
/* What would have been done at `us`, or a little later, in a time in which nothing was done. */
uint64_t after(const struct span *s, uint64_t us, uint64_t later_us);
void is_over(struct request *r);
/* It is there, and the next on its connection: what it meets now is what it will be judged by. */
void its_turn(struct request *r);
/* The server goes by these parameters from now on. */
void accepted(struct request *r);
/* It repeats what the server remembers, and since its turn came another Ping may have changed that. */
bool stale(const struct request *r);
/* Older hanging requests of the device have to end now. */
void newest(struct request *r);
/* It hangs, or will, without an answer, on a connection that the phone has left; and the server has
 * read it. */
bool left_behind(const struct request *r);
/* After it hung, another request of its device has got a higher number. */
bool overtaken(const struct request *r);
/* By the process that finishes after an upgrade? */
bool served_by_old(const struct request *r);
void served(struct phone *p);

#endif
