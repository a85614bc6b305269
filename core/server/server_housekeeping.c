/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a server does now and then beside its work. */
#include "core/server/server_priv.h"

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/server/machine.h"
#include "io/loop.h"
#include "store/db.h"
#include "store/mailbox.h"
#include "store/writer.h"

#include <malloc.h>

enum {
	HOUSEKEEPING_MS = 2000,
	MACHINE_MS = 30 * 1000,
	MACHINE_QUIET_MS = 600 * 1000,
	PRUNE_LOOKS = 200,
	PRUNE_ROWS = 1000
};

struct prune {
	uint32_t mailbox;
};

static int prune_write(struct db_txn *txn, void *arg)
{
	int n = mailbox_prune(txn, ((struct prune *)arg)->mailbox, PRUNE_ROWS);

	return n < 0 ? n : DB_OK;
}

/* Tombstones that every device of the mailbox has been told of go away, a few mailboxes at a time. */
static void prune_some(struct running *r)
{
	struct server *s = &r->server;
	struct prune p = {.mailbox = 0};
	struct account a;
	struct db_txn txn;
	int err;

	if (db_read(s->db, &txn))
		return;
	for (int i = 0; i < PRUNE_LOOKS && !p.mailbox; i++) {
		err = account_next(&txn, r->prune_cursor, &a);
		if (err) {
			r->prune_cursor[0] = 0;
			break;
		}
		if (mailbox_wants_pruning(&txn, a.mailbox) == 1)
			p.mailbox = a.mailbox;
	}
	db_read_end(&txn);
	if (p.mailbox && (err = writer_write(s->writer, prune_write, &p)) != DB_OK &&
		err != DB_CLOSED)
		log_msg(LOG_WARNING, "store: old deletions were not tidied away: %s",
			db_strerror(err));
}

/* At most every ten minutes: it lasts, and the line shall not drown the others. */
static void watch_machine(struct running *r, uint64_t now_ms)
{
	struct machine_limits m;
	char why[256];

	if (now_ms < r->machine_ms)
		return;
	r->machine_ms = now_ms + MACHINE_MS;
	machine_read("/proc", &m);
	if (machine_nearly_full(&m, why, sizeof(why))) {
		log_msg(LOG_WARNING, "machine: %s", why);
		r->machine_ms = now_ms + MACHINE_QUIET_MS;
	}
}

bool server_housekeeping(struct server *s)
{
	struct running *r = container_of(s, struct running, server);
	uint64_t now = clock_mono_ms();

	if (r->take && take_over_alone(r->take))
		take_over_free(&r->take, NULL);
	if (!r->take && now >= r->unshare_ms)
		for (unsigned i = 0; i < s->shard_count; i++)
			loop_set_shared(shard_loop(s->shards[i]), false);
	atomic_store(&s->wall_offset_ms, (int64_t)clock_wall_ms() - (int64_t)now);
	if (now < r->housekeeping_ms)
		return true;
	r->housekeeping_ms = now + HOUSEKEEPING_MS;
	/* (counts what it clears itself) */
	db_clear_stale_readers(s->db);
	if (db_publish_missed(s->db) == DB_LOST) {
		log_msg(LOG_ERROR, "store: %s; ending, to be started again", db_strerror(DB_LOST));
		return false;
	}
	prune_some(r);
	watch_machine(r, now);
	db_release_pages(s->db);
	/* Milliseconds, in which who allocates waits: shards at rest do not. */
	if (atomic_exchange(&s->memory_freed, false))
		malloc_trim(0);
	return true;
}
