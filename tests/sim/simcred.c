/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The three functions of core/access/credentials.h that a shard calls, without hashing and without
 * threads: now and then the memory does not know, and the verdict comes later. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <sodium.h>
#include <stdio.h>

static struct cred_job *waiting;

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
	if (sim_permille(100))
		return CRED_UNKNOWN;
	r = look_up(txn, user, password, &a);
	if (r == CRED_OK || r == CRED_DISABLED)
		*mailbox_out = a.mailbox;
	return r;
}

static void hashed(void *arg, uint64_t epoch)
{
	static uint64_t sender = 1 << 30;
	struct cred_job *j = arg, **p;
	struct account a;
	struct db_txn txn;

	if (epoch != sim_epoch)
		return;
	for (p = &waiting; *p != j; p = &(*p)->next)
		CHECK(*p);
	*p = j->next;
	j->result = CRED_ERROR;
	if (db_read(world.server.db, &txn) == DB_OK) {
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

bool cred_submit(struct credentials *c, struct cred_job *j)
{
	(void)c;
	j->next = waiting;
	waiting = j;
	sim_at(sim_now_us + (sim_permille(200) ? sim_between(0, CRED_MAX_US - 100 * MS)
					       : sim_between(10 * MS, 30 * MS)),
		hashed, j, sim_epoch);
	return true;
}

void cred_log_failure(const char *address, const char *user, const char *method,
	const char *device_id, const char *reason)
{
	(void)address, (void)user, (void)method, (void)device_id, (void)reason;
}

void simcred_crash(void (*discard)(struct cred_job *j))
{
	struct cred_job *j;

	while ((j = waiting)) {
		waiting = j->next;
		discard(j);
	}
}
