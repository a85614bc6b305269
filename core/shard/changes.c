/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What was committed, and whom it wakes: each row of the journal goes to the waiters of its mailbox. */
#include "core/shard/shard_priv.h"

#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/push/ping.h"
#include "store/account.h"
#include "store/device.h"
#include "store/journal.h"
#include "store/mailbox.h"

enum {
	JOURNAL_ROWS = 256,
	JOURNAL_READS_PER_TURN = 32,
	OLD_ITEM_S = 24 * 3600, /* younger items are inside every FilterType */
};

/* Is there a reason other than items: access taken away, or folders moved? */
static enum wake_reason other_news(struct shard *s, const struct waiter *w, struct db_txn *txn)
{
	struct eas_context ctx = server_eas(s->server);
	struct account_gate account;
	struct device_gate gate;
	struct device d;

	if (account_gate(txn, w->mailbox, &account) || account.disabled ||
		device_get(txn, w->mailbox, w->device, &d) ||
		device_gate(txn, w->mailbox, bytes_str(d.device_id), &gate) ||
		eas_policy_status(&ctx, EAS_PING, true, gate.policy_key, &gate))
		return WAKE_ACCESS;
	return ping_hierarchy_moved(txn, w->mailbox, w->device, w->since_seq) > 0 ? WAKE_HIERARCHY
										  : WAKE_NONE;
}

/* Looks again what the journal's rows would have told: for waiters that missed some. */
void changes_recheck(struct shard *s, uint32_t slot)
{
	struct waiter *w = waiters_get(s->waiters, slot);
	uint32_t folders[PING_FOLDERS_MAX], changed[PING_FOLDERS_MAX];
	enum wake_reason other;
	struct db_txn txn;
	uint64_t head;
	size_t n;

	/* Who is to be answered already (a newer request came, we drain) stays so. */
	if (!w || (w->why != WAKE_NONE && w->why != WAKE_RECHECK))
		return;
	if (db_read(s->server->db, &txn)) {
		w->why = WAKE_RECHECK; /* reader slots are full */
		park_arm(s, slot, park_coalesced_ms(s, w));
		return;
	}
	n = waiters_folders(s->waiters, slot, false, folders, PING_FOLDERS_MAX);
	head = journal_head(&txn);
	n = ping_compare(&txn, w->mailbox, w->device, folders, n, shard_wall_ms(s), changed);
	other = other_news(s, w, &txn);
	db_read_end(&txn);
	for (size_t i = 0; i < n; i++)
		waiters_mark(s->waiters, slot, changed[i]);
	if (other != WAKE_NONE) {
		wake(s, slot, other, 0);
	} else if (n) {
		wake(s, slot, WAKE_CHANGE, 0);
	} else {
		w->why = WAKE_NONE;
		w->since_seq = head;
		park_arm(s, slot, w->due_ms);
	}
}

static void row_for_waiter(
	struct shard *s, uint32_t slot, const struct journal_row *r, struct db_txn *txn)
{
	struct waiter *w = waiters_get(s->waiters, slot);

	if (w->why != WAKE_NONE && w->why != WAKE_RECHECK && w->why != WAKE_CHANGE)
		return;
	switch ((enum journal_kind)r->kind) {
	case JOURNAL_ACCOUNT:
		wake(s, slot, WAKE_ACCESS, r->seq);
		return;
	case JOURNAL_DEVICE:
		if (r->device == w->device)
			wake(s, slot, WAKE_ACCESS, r->seq);
		return;
	case JOURNAL_HIERARCHY:
		if (r->seq > w->since_seq && r->origin != w->device && w->why != WAKE_CHANGE)
			wake(s, slot, WAKE_HIERARCHY, r->seq);
		return;
	case JOURNAL_ADD:
	case JOURNAL_TOUCH:
	case JOURNAL_CHANGE:
	case JOURNAL_DELETE:
		break;
	default:
		return;
	}
	if (r->seq <= w->since_seq || (r->origin && r->origin == w->device) ||
		!waiters_waits_for(s->waiters, slot, r->folder))
		return;
	if (r->kind == JOURNAL_TOUCH ||
		(r->kind == JOURNAL_ADD &&
			(r->item_time_s + OLD_ITEM_S > (int64_t)(shard_wall_ms(s) / 1000) ||
				eas_folder_has_news(txn, w->mailbox, w->device, r->folder,
					shard_wall_ms(s)) != 0))) {
		waiters_mark(s->waiters, slot, r->folder);
		wake(s, slot, WAKE_CHANGE, r->seq);
		return;
	}
	if (r->kind == JOURNAL_ADD || w->why != WAKE_NONE)
		return;
	/* Changes and removals wait a little, so that a series of them wakes once; what is left of
	 * them then is compared, not counted. */
	w->why = WAKE_RECHECK;
	park_arm(s, slot, park_coalesced_ms(s, w));
}

static void everybody_looks_again(struct shard *s)
{
	for (uint32_t slot = waiters_next_used(s->waiters, 0); slot != WAITER_NONE;
		slot = waiters_next_used(s->waiters, slot + 1)) {
		struct waiter *w = waiters_get(s->waiters, slot);

		uint64_t at = loop_now_ms(s->loop) + shard_random(s) % 5000;

		if (w->why == WAKE_NONE) {
			w->why = WAKE_RECHECK;
			park_arm(s, slot, at < w->due_ms ? at : w->due_ms);
		}
	}
}

void changes_read(struct shard *s)
{
	struct journal_row rows[JOURNAL_ROWS];
	struct db_txn txn;
	int n, reads = 0;

	if (move_frozen(s)) {
		s->committed_pending = true;
		return;
	}
	s->committed_pending = s->journal_stuck = false;
	for (;;) {
		if (db_read(s->server->db, &txn)) {
			/* Reader slots are full: again in a moment. */
			s->committed_pending = s->journal_stuck = true;
			return;
		}
		n = journal_read(&txn, s->journal_seen, rows, JOURNAL_ROWS);
		if (n < 0) {
			/* Further behind than the journal reaches back; or a row of it is damaged,
			 * and waiting behind it for ever would wake nobody any more. */
			if (n != DB_GONE)
				log_msg(LOG_ERROR,
					"store: the journal cannot be read from %llu on: %s; every "
					"phone that waits is looked after",
					(unsigned long long)s->journal_seen + 1, db_strerror(n));
			s->journal_seen = journal_head(&txn);
			db_read_end(&txn);
			everybody_looks_again(s);
			return;
		}
		for (int i = 0; i < n; i++) {
			uint32_t slot = waiters_first(s->waiters, rows[i].mailbox), next;

			for (; slot != WAITER_NONE; slot = next) {
				next = waiters_next(s->waiters, slot);
				row_for_waiter(s, slot, &rows[i], &txn);
			}
		}
		db_read_end(&txn);
		if (n == 0)
			break;
		METRIC_ADD(JOURNAL_SEEN, (int64_t)(rows[n - 1].seq - s->journal_seen));
		s->journal_seen = rows[n - 1].seq;
		if (n < JOURNAL_ROWS)
			break;
		if (++reads == JOURNAL_READS_PER_TURN) {
			s->committed_pending = true;
			break;
		}
	}
	wake_answer(s);
}
