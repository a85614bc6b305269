/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The table of waiters against plain arrays; it checks itself after every step. */
#include "core/push/waiters.h"

#include "core/base/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { SLOTS = 300, FOLDERS = 40, FOLDER_ID_TOP = 140 };

struct model_waiter {
	bool used;
	uint32_t mailbox, device;
	size_t n;
	uint32_t folders[FOLDERS];
	bool news[FOLDERS];
};

struct model {
	struct waiters *w;
	struct model_waiter slot[SLOTS];
	uint32_t count;
	uint64_t seed;
};

static uint32_t rnd(struct model *m, uint32_t below)
{
	m->seed ^= m->seed << 13;
	m->seed ^= m->seed >> 7;
	m->seed ^= m->seed << 17;
	return (uint32_t)(m->seed % below);
}

static void add(struct model *m, uint32_t slot)
{
	struct model_waiter *t = &m->slot[slot];
	struct waiter_spec spec = {.kind = rnd(m, 2) ? WAITER_PING : WAITER_SYNC,
		.since_seq = m->seed,
		.order = m->seed >> 1,
		.due_ms = m->seed >> 2,
		.heartbeat_s = (uint16_t)m->seed};
	bool taken[FOLDER_ID_TOP] = {false};
	const struct waiter *got;

	*t = (struct model_waiter){
		.used = true, .mailbox = 1 + rnd(m, 20), .device = 1 + rnd(m, 3)};
	while (t->n < FOLDERS && rnd(m, 5)) {
		/* Small ids are the rule; those around 64 are where the two forms meet. */
		uint32_t f = rnd(m, 3) ? 1 + rnd(m, 12) : 60 + rnd(m, FOLDER_ID_TOP - 60);

		if (!taken[f])
			t->folders[t->n++] = f;
		taken[f] = true;
	}
	spec.mailbox = t->mailbox;
	spec.device = t->device;
	spec.folders = t->folders;
	spec.folder_count = t->n;
	assert_true(waiters_add(m->w, slot, &spec));
	m->count++;
	got = waiters_get(m->w, slot);
	assert_non_null(got);
	assert_int_equal(got->kind, spec.kind);
	assert_true(got->since_seq == spec.since_seq && got->order == spec.order &&
		    got->due_ms == spec.due_ms && got->heartbeat_s == spec.heartbeat_s);
	assert_int_equal(got->news, 0);
	assert_int_equal(got->why, 0);
}

static void same_folders(struct model *m, uint32_t slot, bool changed)
{
	const struct model_waiter *t = &m->slot[slot];
	uint32_t out[FOLDERS + 1];
	size_t n = waiters_folders(m->w, slot, changed, out, FOLDERS + 1), want = 0, found = 0;

	for (size_t i = 0; i < t->n; i++) {
		if (changed && !t->news[i])
			continue;
		want++;
		for (size_t k = 0; k < n; k++)
			found += out[k] == t->folders[i];
	}
	assert_int_equal(n, want);
	assert_int_equal(found, want);
	assert_int_equal(waiters_folder_count(m->w, slot), t->n);
	if (want > 1) /* no more than asked for */
		assert_int_equal(waiters_folders(m->w, slot, changed, out, 1), 1);
}

static void compare(struct model *m)
{
	uint32_t used = 0, next = 0;

	assert_true(waiters_check(m->w));
	assert_int_equal(waiters_count(m->w), m->count);
	for (uint32_t i = 0; i < SLOTS; i++)
		assert_int_equal(waiters_get(m->w, i) != NULL, m->slot[i].used);
	for (uint32_t s = waiters_next_used(m->w, 0); s != WAITER_NONE;
		s = waiters_next_used(m->w, s + 1)) {
		assert_true(s >= next && m->slot[s].used);
		next = s + 1;
		used++;
	}
	assert_int_equal(used, m->count);
	for (uint32_t mailbox = 1; mailbox <= 21; mailbox++) {
		uint32_t have = 0, want = 0;

		for (uint32_t i = 0; i < SLOTS; i++)
			want += m->slot[i].used && m->slot[i].mailbox == mailbox;
		for (uint32_t s = waiters_first(m->w, mailbox); s != WAITER_NONE;
			s = waiters_next(m->w, s)) {
			assert_true(m->slot[s].used && m->slot[s].mailbox == mailbox);
			have++;
		}
		assert_int_equal(have, want);
	}
}

/* To the shard: whatever was parked, marked and ended before, each mailbox finds its own waiters.
 */
static void random_waiters_agree_with_arrays(void **state)
{
	struct model m = {.w = waiters_new(SLOTS), .seed = 88172645463325252u};

	(void)state;
	for (int step = 0; step < 20000; step++) {
		uint32_t slot = rnd(&m, SLOTS);
		struct model_waiter *t = &m.slot[slot];

		if (!t->used) {
			add(&m, slot);
		} else if (rnd(&m, 3) == 0) {
			waiters_remove(m.w, slot);
			t->used = false;
			m.count--;
		} else {
			uint32_t f = 1 + rnd(&m, FOLDER_ID_TOP - 1);
			bool named = false;

			if (t->n && rnd(&m, 2))
				f = t->folders[rnd(&m, (uint32_t)t->n)];
			for (size_t i = 0; i < t->n; i++)
				if (t->folders[i] == f)
					named = t->news[i] = true;
			waiters_mark(m.w, slot, f);
			assert_int_equal(waiters_waits_for(m.w, slot, f), named);
		}
		if (t->used) {
			same_folders(&m, slot, false);
			same_folders(&m, slot, true);
		}
		if (step % 64 == 0)
			compare(&m);
		else
			assert_true(waiters_check(m.w));
	}
	waiters_free(&m.w);
	assert_null(m.w);
}

/* To a phone with many folders: one above 63 wakes like one below. */
static void folders_from_64_on_are_waited_for(void **state)
{
	struct waiters *w = waiters_new(8);
	const uint32_t folders[] = {63, 64, 65, 4000000};
	struct waiter_spec spec = {.kind = WAITER_PING,
		.mailbox = 1,
		.device = 1,
		.folders = folders,
		.folder_count = ARRAY_LEN(folders)};
	uint32_t out[8];

	(void)state;
	assert_true(waiters_add(w, 3, &spec));
	for (size_t i = 0; i < ARRAY_LEN(folders); i++)
		assert_true(waiters_waits_for(w, 3, folders[i]));
	assert_false(waiters_waits_for(w, 3, 62));
	assert_false(waiters_waits_for(w, 3, 66));
	waiters_mark(w, 3, 4000000);
	waiters_mark(w, 3, 66);
	assert_int_equal(waiters_folders(w, 3, true, out, 8), 1);
	assert_int_equal(out[0], 4000000);
	waiters_remove(w, 3);
	/* The next in that slot knows nothing of the marks. */
	assert_true(waiters_add(w, 3, &spec));
	assert_int_equal(waiters_folders(w, 3, true, out, 8), 0);
	assert_true(waiters_check(w));
	waiters_free(&w);
}

/* To the shard: the current waiter may be removed while its mailbox is walked. */
static void walking_a_mailbox_survives_removal(void **state)
{
	struct waiters *w = waiters_new(64);
	struct waiter_spec spec = {.kind = WAITER_SYNC, .mailbox = 7, .device = 1};
	uint32_t next, seen = 0;

	(void)state;
	for (uint32_t i = 0; i < 64; i++) {
		spec.mailbox = i % 2 ? 7 : 8;
		assert_true(waiters_add(w, i, &spec));
	}
	for (uint32_t s = waiters_first(w, 7); s != WAITER_NONE; s = next) {
		next = waiters_next(w, s);
		waiters_remove(w, s);
		seen++;
		assert_true(waiters_check(w));
	}
	assert_int_equal(seen, 32);
	assert_int_equal(waiters_first(w, 7), WAITER_NONE);
	assert_int_equal(waiters_count(w), 32);
	waiters_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_waiters_agree_with_arrays),
		cmocka_unit_test(folders_from_64_on_are_waited_for),
		cmocka_unit_test(walking_a_mailbox_survives_removal),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
