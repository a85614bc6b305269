/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/fleet_priv.h - the inside of a fleet, for fleet.c (states, books, the thread), fleet_eas.c and
 * fleet_imap.c (what a phone says until it hangs, and hears) and life.c (what happens to parked phones
 * in a day) only.
 * Thread: the fleet's, but for what the mutex guards. */
#ifndef ROOST_BENCH_FLEET_FLEET_PRIV_H
#define ROOST_BENCH_FLEET_FLEET_PRIV_H

#include "bench/fleet/fleet.h"
#include "bench/fleet/imap_phone.h"

#include <pthread.h>
#include <stdatomic.h>

/* What phone i does next, or waits for. The first ones only with `prime`. */
#define FLEET_STATES(X)                                                                            \
	X(NEW, "not connected, nothing done")                                                      \
	X(POLICY_ASK, "Provision, phase one")                                                      \
	X(POLICY_ACKNOWLEDGE, "Provision, phase two")                                              \
	X(FOLDERS, "FolderSync from 0")                                                            \
	X(SYNC_PRIME, "Sync key 0 of the inbox")                                                   \
	X(SYNC, "Sync of the inbox until nothing is left")                                         \
	X(IMAP, "IMAP, on the way to IDLE")                                                        \
	X(PING, "Ping on its way")                                                                 \
	X(PARKED, "Ping sent")                                                                     \
	X(ANSWERED, "Ping answered, status 2")                                                     \
	X(LATER, "refused with 503, or lost: connects again in a while")                           \
	X(AWAY, "vanished: comes back in a while")                                                 \
	X(FAILED, "lost")

enum state {
#define X(id, text) STATE_##id,
	FLEET_STATES(X)
#undef X
};

enum second { SECOND_NOT, SECOND_SENDING, SECOND_HANGS };

struct fleet_phone {
	_Atomic uint64_t came_ns;
	uint32_t due_ms; /* low half of the clock: when the heartbeat of its Ping ends */
	_Atomic uint8_t woken, expired; /* see fleet_woken */
	uint8_t state;
	bool primed : 1;
	bool refused : 1;   /* with 503, since it was dropped or answered otherwise */
	bool asked : 1;     /* a Ping of it is in the ledger and has not ended */
	uint8_t second : 2; /* that Ping supersedes another: enum second */
};
_Static_assert(sizeof(struct fleet_phone) <= 16, "fleet.h promises it");

/* Only with `prime` and `imap`. */
struct priming {
	union {
		uint32_t policy_key;
		uint32_t exists; /* IMAP: messages in the inbox */
	};
	enum imap_step imap_step;
	char *sync_key; /* while it syncs; with `sync` always */
	char *inbox;    /* its folder id */
};

/* A connection that is not its phone's any more: number phones_max + its index at the client. */
struct spare {
	enum { SPARE_FREE, SPARE_OLDER, SPARE_DEAD } role;
	uint32_t owner;
	bool newer_sent;
	uint64_t since_ms; /* it is set aside, or the newer one was sent */
};

/* First in, first out: all wait equally long. */
struct waiting {
	uint32_t *phone;
	uint64_t *due_ms;
	uint32_t head, count, max;
};

/* What only a day needs; NULL otherwise. */
struct life {
	struct spare *spares;
	uint32_t *free; /* stack of indexes */
	uint32_t free_count;
	struct waiting away, dead; /* phones; indexes of spares */
	_Atomic uint64_t *back_ns; /* per phone: fleet_back_ns */
	uint32_t *older;           /* per phone: the spare of its last superseded Ping */
};

enum {
	MESSAGE_PARK = 1,
	MESSAGE_PING,
	MESSAGE_DROP,
	MESSAGE_HEARTBEATS,
	MESSAGE_ROAM,
	MESSAGE_SUPERSEDE,
	MESSAGE_VANISH,
	MESSAGE_LEAVE,
	MESSAGE_STOP,
	REQUEST_TIMEOUT_S = 120,
	LATER_MS = 1000,
	LATE_MS = 1000,
	SETTLED_MS = 1000,
	NO_POLICY = 2 /* MS-ASPROV 2.2.2.54.2 */
};

struct message {
	struct loop_msg msg;
	uint32_t phone;
	struct fleet_drop drop;
	uint32_t least_s, most_s;
};

struct fleet {
	struct fleet_options o;
	struct client *client;
	pthread_t thread;
	struct fleet_phone *phones;
	struct priming *priming; /* per phone; NULL without `prime` and `imap` */
	struct life *life;
	struct buf request, document;
	uint32_t park_next, park_end; /* phones still to be looked at by fleet_park */
	uint32_t orders_heard;        /* fleet_park's, not taken out of the status yet */
	uint32_t wanted;              /* of the newest fleet_park */
	struct fleet_drop drop;       /* phones still to be dropped */
	bool leaving;

	/* As in status; the fleet's thread counts here and copies them there each turn. */
	struct ledger book;
	struct fleet_life seen;

	/* The fleet's thread writes these; readers hold the mutex. */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct fleet_status status;
	bool dirty;
	bool started, failed_to_start;
	char why[CLIENT_WHY_BYTES];
};

/* fleet.c. The only place that changes a state, and counts it. */
void fleet_move(struct fleet *f, uint32_t i, enum state to);
/* From where the phone is, on the way to a parked Ping. */
void fleet_go(struct fleet *f, uint32_t i);
/* What it asks for. Spread evenly, and always the same for one phone. */
uint32_t fleet_heartbeat_s(const struct fleet *f, uint32_t i);
/* It has sent a Ping, or what stands for one. */
void fleet_begun(struct fleet *f, uint32_t i);
/* Its Ping is over; nothing when it has none. */
void fleet_ended(struct fleet *f, uint32_t i, enum ledger_end how);
/* On its open connection, what its state asks for. */
void fleet_ask(struct fleet *f, uint32_t i);
/* Lost, and why. */
void fleet_fail(struct fleet *f, uint32_t i, const char *why);
/* Connects again after a while, with what it did when it was sent away or lost. */
void fleet_later(struct fleet *f, uint32_t i, uint64_t after_ms);
/* Its Sync key, if it has one. */
void fleet_forget_key(struct fleet *f, uint32_t i);

/* fleet_eas.c */
void fleet_eas_ask(struct fleet *f, uint32_t i);
/* The body of a 200. */
void fleet_eas_answered(struct fleet *f, uint32_t i, struct bytes body, uint64_t came_ns);
/* The Status of a Ping's answer; 0: none. */
uint32_t fleet_eas_ping_status(const struct http_answer *h, struct bytes body);

/* fleet_imap.c */
void fleet_imap_go(struct fleet *f, uint32_t i);
/* As client_events.bytes. */
size_t fleet_imap_bytes(void *arg, uint32_t i, const uint8_t *p, size_t n, uint64_t came_ns);

/* life.c */
struct life *life_new(const struct fleet_options *o);
void life_free(struct life **l);
void life_message(struct fleet *f, uint32_t kind, uint32_t i);
/* Numbers from phones_max on. status: of the Ping's answer; 0: none, or not a good one. */
void life_answered(struct fleet *f, uint32_t number, uint32_t status);
void life_closed(struct fleet *f, uint32_t number);
/* The Ping that supersedes another is with the kernel. */
void life_newer_sent(struct fleet *f, uint32_t i);
/* When to come again. */
uint64_t life_tick(struct fleet *f, uint64_t now_ms);
/* All its spares are closed. */
void life_leave(struct fleet *f);

#endif
