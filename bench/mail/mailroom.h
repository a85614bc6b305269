/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/mail/mailroom.h - benchmark accounts and their mail, written straight into the store: what a
 * mail server and hours of Provision, FolderSync and Sync would have done.
 * Accounts are bench0@roost-bench.test and so on (bench/fleet/accounts.h); phone i is a device of account i % users, and has
 * synced its inbox. All share one Argon2 hash of the least cost: good enough for benchmarks only.
 * Thread: one.    Memory: 8 bytes per phone and per user.    Errors: false with one line in why.
 * Cost:   writes go many to a transaction; each is durable, as the server's are. */
#ifndef ROOST_BENCH_MAIL_MAILROOM_H
#define ROOST_BENCH_MAIL_MAILROOM_H

#include "core/base/bytes.h"

struct mailroom;
struct db;

#define MAILROOM_DOMAIN   "roost-bench.test"
#define MAILROOM_PASSWORD "benchmark"

/* create: an empty store is made when the directory has none. Another process may serve it. */
struct mailroom *mailroom_open(
	const char *dir, bool create, uint32_t users, uint32_t phones, char *why, size_t why_bytes);
void mailroom_close(struct mailroom **m);

/* Makes what is missing of accounts and devices; may be called again later, from where it stopped.
 * Returns how many phones are ready: phones when all are; -1 on failure. A call takes about 100 ms,
 * so that the caller can show progress. */
int64_t mailroom_fill(struct mailroom *m, char *why, size_t why_bytes);
/* Removes the accounts that mailroom_fill made; phones left to do, 0 at the end, or -1. */
int64_t mailroom_clear(struct mailroom *m, char *why, size_t why_bytes);

void mailroom_device(uint32_t phone, char *out, size_t cap);

/* A message arrives in the inbox of each of users[0,n), in one transaction. commit_ns_out: when it
 * was durable (CLOCK_MONOTONIC, as the server sees it). */
bool mailroom_deliver(struct mailroom *m, const uint32_t *users, size_t n, uint64_t *commit_ns_out,
	char *why, size_t why_bytes);
/* The same in a folder that no phone watches: journal rows that wake nobody. From any thread beside
 * the others. */
bool mailroom_file(struct mailroom *m, const uint32_t *users, size_t n, uint64_t *commit_ns_out,
	char *why, size_t why_bytes);
/* Phones [first, first + n) have synced everything, without the network. */
bool mailroom_catch_up(struct mailroom *m, uint32_t first, uint32_t n, char *why, size_t why_bytes);
/* The same for these phones, in one transaction. */
bool mailroom_catch_up_each(
	struct mailroom *m, const uint32_t *phones, size_t n, char *why, size_t why_bytes);
/* The same for the phones of one user, in one transaction. */
bool mailroom_catch_up_user(struct mailroom *m, uint32_t user, char *why, size_t why_bytes);

#endif
