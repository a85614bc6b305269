/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The three functions of core/access/credentials.h that a shard calls, without hashing and without
 * threads: now and then the memory does not know, and the verdict comes later. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>

static struct entry {
	struct entry *next;
	struct cred_job *job;
	uint64_t number;
} * entries;

static enum cred_result look_up(
	struct db_txn *txn, const char *user, const char *password, struct account *out)
{
	int err = account_find(txn, bytes_str(user), out);

	if (err == DB_NOT_FOUND || err == DB_INVALID)
		return CRED_BAD;
	if (err)
		return CRED_ERROR;
	if (strcmp(password, "secret") != 0)
		return CRED_BAD;
	return out->disabled ? CRED_DISABLED : CRED_OK;
}

enum cred_result cred_check(struct credentials *c, struct db_txn *txn, const char *user,
	const char *password, uint32_t *mailbox_out)
{
	struct account a;
	enum cred_result r;

	(void)c;
	if (sim_permille(world.low_limits ? 300 : 100))
		return CRED_UNKNOWN;
	r = look_up(txn, user, password, &a);
	if (r == CRED_OK || r == CRED_DISABLED)
		*mailbox_out = a.mailbox;
	return r;
}

static void hashed(void *arg, uint64_t number)
{
	static uint64_t sender = 1 << 30;
	struct entry *e, **p;
	struct cred_job *j;
	struct account a;
	struct db_txn txn;

	(void)arg;
	for (p = &entries; *p && (*p)->number != number; p = &(*p)->next)
		;
	e = *p;
	if (!e)
		return; /* its process has gone */
	*p = e->next;
	j = e->job;
	free(e);
	j->result = CRED_ERROR;
	if (db_read(world.db, &txn) == DB_OK) {
		j->result = look_up(&txn, j->user, j->password, &a);
		db_read_end(&txn);
	}
	if (j->result == CRED_OK || j->result == CRED_DISABLED) {
		j->identity.mailbox = a.mailbox;
		snprintf(j->identity.address, sizeof(j->identity.address), "%s", a.address);
	}
	sodium_memzero(j->password, sizeof(j->password));
	net_sender = sender++;
	j->done(j);
	net_sender = 0;
}

unsigned simcred_waiting(void)
{
	unsigned n = 0;

	for (const struct entry *e = entries; e; e = e->next)
		n++;
	return n;
}

bool cred_submit(struct credentials *c, struct cred_job *j)
{
	static uint64_t count;
	struct entry *e = malloc(sizeof(*e));

	(void)c;
	CHECK(e);
	if (world.hashing_max && simcred_waiting() >= world.hashing_max) {
		free(e);
		return false;
	}
	*e = (struct entry){entries, j, ++count};
	entries = e;
	sim_at(sim_now_us + (sim_permille(200) ? sim_between(0, CRED_MAX_US - 100 * MS)
					       : sim_between(10 * MS, 30 * MS)),
		hashed, NULL, e->number);
	return true;
}

void cred_log_failure(const char *address, const char *user, const char *method,
	const char *device_id, const char *reason)
{
	(void)address, (void)user, (void)method, (void)device_id, (void)reason;
}

void simcred_crash(const struct server *s,
	bool (*is_of)(const struct server *s, const struct cred_job *j),
	void (*discard)(struct cred_job *j))
{
	struct entry *e, **p = &entries;

	while ((e = *p)) {
		if (!is_of(s, e->job)) {
			p = &e->next;
			continue;
		}
		*p = e->next;
		discard(e->job);
		free(e);
	}
}
