/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/fleet.h - thousands of phones that park a Ping and wait, driven from another thread.
 * Thread: fleet_* from one thread (the benchmark's); the phones live on a thread of the fleet's.
 * Memory: per phone 176 bytes of the client (client.h) and 16 here; nothing else while it hangs.
 * Errors: a phone that fails stays failed, or comes back (retry); fleet_status counts them and keeps
 *         the newest reason.
 * Units:  *_ns is CLOCK_MONOTONIC. */
#ifndef ROOST_BENCH_FLEET_FLEET_H
#define ROOST_BENCH_FLEET_FLEET_H

#include "bench/fleet/client.h"
#include "bench/fleet/ledger.h"

struct fleet;

struct fleet_options {
	struct client_options client; /* phones_max is the fleet's size */
	const char *host_header;
	/* Phone i logs in as user(i % users). */
	void (*user)(uint32_t user, char *out, size_t cap);
	void (*device)(uint32_t phone, char *out, size_t cap);
	void (*password)(uint32_t user, char *out, size_t cap);
	uint32_t users;
	uint32_t user_first, user_end; /* only phones of these exist here; 0, 0: all */
	uint32_t heartbeat_s;
	/* Below heartbeat_s: phones have heartbeats between the two, and ask again when one is
	 * over. 0: all have heartbeat_s, and its end is a failure. */
	uint32_t heartbeat_min_s;
	/* Not ActiveSync: GET of this path with the phone's number behind it hangs until something
	 * comes; any 200 is the answer. NULL: ActiveSync. */
	const char *get_path;
	/* Not ActiveSync: IMAP, hanging in IDLE until the inbox has more messages than before. It stays
	 * in IDLE when it is asked to hang again. */
	bool imap;
	bool get_idle; /* the answer comes at once and the connection idles behind it */
	bool retry; /* phones whose connection is lost connect again after a second; not with imap */
	bool prime;  /* Provision, FolderSync and Sync over the network before the first Ping */
	bool sync;   /* with prime: also a Sync before each further Ping */
	int version; /* of ActiveSync, times ten */
	/* With client.spares_max. */
	uint32_t away_ms; /* how long phones stay away that vanish */
	uint32_t dead_ms; /* how long their connections are kept, deaf, before they are reset */
};

/* What happened to parked phones in a day; all since the start. */
struct fleet_life {
	uint32_t open; /* connections now, with those set aside */
	uint64_t roamed;
	uint64_t superseding;     /* newer Pings that phones went to send */
	uint32_t older;           /* older ones of these that have not ended yet */
	uint64_t superseded_late; /* ended more than a second after it was sent */
	uint64_t superseded_ms_most;
	uint64_t second_hung; /* newer ones that hung; of these: */
	uint64_t second_woken, second_expired, second_gone;
	uint64_t second_not_hung; /* ended before they were sent, or answered so quickly */
	uint64_t vanished;
	uint32_t dead;     /* connections of vanished phones kept now */
	uint64_t no_spare; /* could not vanish or supersede for want of a place */
};

struct fleet_status {
	uint32_t orders;           /* fleet_park's that have not reached all their phones yet: the
				    * numbers below are from before */
	uint32_t parked;           /* a Ping is sent and unanswered */
	uint32_t answered;         /* with status 2, since the last fleet_ping */
	uint32_t failed;           /* connection lost, or another answer */
	uint32_t busy;             /* on the way to one of these */
	uint32_t away;             /* vanished, not back yet */
	uint32_t later;            /* lost, or refused: they wait before they connect again */
	uint32_t heartbeats;       /* that ran out so far, with heartbeat_min_s */
	uint32_t heartbeats_early; /* of these, answered more than a second too early */
	uint32_t heartbeats_late;  /* or too late */
	int32_t early_most_ms, late_most_ms;
	uint32_t surplus;       /* answers so far that nobody had asked for */
	uint32_t retried;       /* connections lost so far with `retry` */
	uint32_t refused;       /* 503 so far; those phones come again after Retry-After */
	uint32_t refused_again; /* of these, phones that had waited as they were told */
	uint32_t told_most_s;   /* the longest Retry-After */
	uint64_t full, resumed; /* handshakes so far */
	struct ledger book;     /* this and the next as of the thread's last turn */
	struct fleet_life life;
	char why[CLIENT_WHY_BYTES]; /* of the newest failure */
};

/* The thread is started; nothing connects yet. NULL with a reason. */
struct fleet *fleet_start(const struct fleet_options *o, char *why, size_t why_bytes);
/* Closes all connections at once and ends the thread. */
void fleet_stop(struct fleet **f);

/* Those of the first `phones` that have no parked Ping send one, connecting first where needed. */
void fleet_park(struct fleet *f, uint32_t phones);
/* One phone that was answered sends a Ping again. */
void fleet_ping(struct fleet *f, uint32_t phone);
/* Later Pings have heartbeats between the two, as with heartbeat_min_s. */
void fleet_heartbeats(struct fleet *f, uint32_t least_s, uint32_t most_s);
/* The connections of phones [first, end) end at once, without a word; those phones come back as fast as they get through, with full or
 * resumed handshakes (which needs want_ticket). */
struct fleet_drop {
	uint32_t first, end;
	bool resume;
};
void fleet_drop(struct fleet *f, const struct fleet_drop *d);
/* For phones whose Ping has hung for a second; others are left alone. Roam: the connection is reset and the phone comes
 * back at once. With client.spares_max only: supersede, a second Ping goes out on a new connection
 * while the first one hangs; vanish, the connection turns deaf and the phone comes back on another
 * after away_ms. */
void fleet_roam(struct fleet *f, uint32_t phone);
void fleet_supersede(struct fleet *f, uint32_t phone);
void fleet_vanish(struct fleet *f, uint32_t phone);
/* When it came back from vanishing the last time; UINT64_MAX: it is away; 0: it never was. */
uint64_t fleet_back_ns(const struct fleet *f, uint32_t phone);
/* All connections end, and no phone comes back. */
void fleet_leave(struct fleet *f);
void fleet_status(struct fleet *f, struct fleet_status *out);
/* Waits until `answered` is at least that many, or nothing is parked or busy any more, or
 * timeout_ms is over. */
void fleet_wait_answered(struct fleet *f, uint32_t answered, uint64_t timeout_ms);
/* When the phone's last answer had come; 0: none since its last Ping. */
uint64_t fleet_came_ns(const struct fleet *f, uint32_t phone);
/* How often its Pings were answered with status 2 (and the right folder) and with status 1, modulo
 * 256: each must be answered once. */
uint8_t fleet_woken(const struct fleet *f, uint32_t phone);
uint8_t fleet_expired(const struct fleet *f, uint32_t phone);
uint32_t fleet_phone_bytes(void);

#endif
