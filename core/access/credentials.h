/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/access/credentials.h - who is this? Basic credentials against Argon2id hashes (libsodium),
 * with a keyed memory of what was verified, so that a reconnect storm costs no hashing.
 *
 * The memory holds a 16-byte keyed BLAKE2b tag of (user, password), the mailbox and the account's
 * password generation. A hit counts only when the account record of this moment (one small read)
 * is enabled and of the same generation: a password change or a disable therefore works at once,
 * with nothing to invalidate.
 * Wrong passwords are remembered too (60 s), so the same wrong password counts, and costs, once.
 *
 * Thread: everything but new and free from any thread; hashing in a bounded pool of its own
 * threads. Memory: 32 bytes an entry, sized at start, mapped lazily; about 64 MiB per pool thread
 * while it hashes (Argon2id, interactive). Passwords are wiped as soon as they are used. Errors:
 * CRED_BUSY when the pool's queue is full, CRED_ERROR when the store or memory failed: answer 503,
 * never 401. Cost:   cred_check about 1 us: a BLAKE2b, a short mutex of one stripe, one small read.
 * A full check 10-100 ms of a pool thread; the same (user, password) is hashed once however many
 * wait for it, and an unknown user costs what a wrong password costs. */
#ifndef ROOST_ACCESS_CREDENTIALS_H
#define ROOST_ACCESS_CREDENTIALS_H

#include "core/base/bytes.h"
#include "store/account.h"

struct credentials;
struct config;
struct db;

enum cred_result {
	CRED_OK,
	CRED_BAD,      /* 401: unknown user or wrong password (indistinguishable, also in time) */
	CRED_DISABLED, /* 403: password right, account disabled */
	CRED_UNKNOWN,  /* not in memory: must be hashed */
	CRED_BUSY,     /* 503 */
	CRED_ERROR,    /* 503: the store failed */
};

struct cred_identity {
	uint32_t mailbox;
	char address[ACCOUNT_ADDRESS_MAX + 1];
};

struct credentials *credentials_new(
	const struct config *c, struct db *db, char *why, size_t why_bytes);
void credentials_free(struct credentials **c);

/* Hand over what was verified, with the key, to a process that takes this one's place, so that an
 * upgrade is no hashing storm. These bytes are secrets: whoever has them can test guesses of
 * passwords cheaply. Export appends in one piece; import is for a new process before its first
 * check, and refuses (false) what it does not understand, which costs only hashing. */
void credentials_export(struct credentials *c, struct buf *out);
bool credentials_import(struct credentials *c, struct bytes in);

/* From memory only, for the hot path: no hashing, no waiting. user and password as they came
 * (NUL-terminated bytes). CRED_UNKNOWN: cred_submit. mailbox_out is set on CRED_OK and
 * CRED_DISABLED. */
enum cred_result cred_check(struct credentials *c, struct db_txn *txn, const char *user,
	const char *password, uint32_t *mailbox_out);

/* Full check on the pool. `done` runs on a pool thread and may free the job. False: queue full
 * (CRED_BUSY, also in j->result), done does not run. The struct is the caller's; the password is
 * wiped before done or a false return, user stays as it came (for the log). */
struct cred_job {
	struct cred_job *next;
	char user[256], password[256];
	void (*done)(struct cred_job *j);
	enum cred_result result;       /* out */
	struct cred_identity identity; /* out, on CRED_OK and CRED_DISABLED */
};
bool cred_submit(struct credentials *c, struct cred_job *j);
/* The same on the calling thread (tools, tests, simulation). */
enum cred_result cred_verify_now(
	struct credentials *c, const char *user, const char *password, struct cred_identity *out);

/* The log line of a refused login, the one that deploy's fail2ban filter knows: `auth: failed
 * rip=ADDR user=... method=... dev=... reason=...`. address is without port; the rest may be NULL.
 * Level info, because the levels above put level= where the filter wants rip=. Only for credentials
 * that were offered and wrong: a first request without any is how every phone begins. */
void cred_log_failure(const char *address, const char *user, const char *method,
	const char *device_id, const char *reason);

/* Tests and the simulation: where the memory takes its time from (milliseconds, monotonic). */
void cred_set_clock(struct credentials *c, uint64_t (*now_ms)(void));
/* Passwords hashed so far. */
uint64_t cred_hashes(struct credentials *c);

/* Login forms: user, user@domain, DOMAIN\user -> canonical address, lower-cased. A DOMAIN without a
 * dot is a NetBIOS name and stands for the default domain; DOMAIN\user@domain is user@domain.
 * Latin-1 input becomes UTF-8. False when it cannot be an address (no domain and no default
 * domain). */
bool cred_canonical(const struct config *c, const char *user, char out[ACCOUNT_ADDRESS_MAX + 1]);
/* An Argon2id string for a new password (auth.hash_cost), given in UTF-8 or Latin-1. False: no
 * memory, or longer than 255 bytes. */
bool cred_hash(const char *hash_cost, const char *password, char out[ACCOUNT_HASH_MAX]);

#endif
