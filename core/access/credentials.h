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
 * Thread: cred_check and cred_remember from any thread; hashing in a bounded pool.
 * Memory: 32 bytes an entry, sized at start, mapped lazily.
 * Errors: CRED_BUSY when the pool's queue is full: answer 503, never 401. */
#ifndef ROOST_ACCESS_CREDENTIALS_H
#define ROOST_ACCESS_CREDENTIALS_H

#include "core/base/bytes.h"
#include "store/account.h"

struct credentials;
struct config;
struct db;

enum cred_result {
	CRED_OK,
	CRED_BAD,       /* 401: unknown user or wrong password (indistinguishable, also in time) */
	CRED_DISABLED,  /* 403: password right, account disabled */
	CRED_UNKNOWN,   /* not in memory: must be hashed */
	CRED_BUSY,      /* 503 */
	CRED_ERROR,     /* 503: the store failed */
};

struct cred_identity {
	uint32_t mailbox;
	char address[ACCOUNT_ADDRESS_MAX + 1];
};

struct credentials *credentials_new(const struct config *c, struct db *db, char *why, size_t why_bytes);
void credentials_free(struct credentials **c);

/* From memory only, for the hot path: no hashing, no blocking. user and password as they came
 * (NUL-terminated bytes). */
enum cred_result cred_check(struct credentials *c, struct db_txn *txn, const char *user,
	const char *password, uint32_t *mailbox_out);

/* Full check on the pool. `done` runs on a pool thread. False: queue full (CRED_BUSY), done does
 * not run. The struct is the caller's; user/password are wiped by the pool after use. */
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

/* Login forms: user, user@domain, DOMAIN\user -> canonical address. Latin-1 input becomes UTF-8. False
 * when it cannot be an address (no domain and no default domain). */
bool cred_canonical(const struct config *c, const char *user, char out[ACCOUNT_ADDRESS_MAX + 1]);
/* An Argon2id string for a new password (auth.hash_cost). False: no memory. */
bool cred_hash(const char *hash_cost, const char *password, char out[ACCOUNT_HASH_MAX]);

#endif
