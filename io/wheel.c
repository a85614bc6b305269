/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "io/wheel.h"

#include "core/base/check.h"

#include <stddef.h>
#include <sys/mman.h>

enum {
	SLOTS = 4096, /* seconds; one turn of the wheel */
	SECOND_MS = 1000,
	FIRING = SLOTS,          /* list of the second that is being fired */
	HEADS = SLOTS + 1,       /* one list per slot, and the one being fired */
	FIRST_TIMER = HEADS + 1, /* index 0 names nobody, so fresh zero pages mean "not armed" */
};

/* Circular lists over indexes: first the heads, then the timers. */
struct node {
	uint32_t next, prev;
	uint32_t due_s;
};
_Static_assert(sizeof(struct node) == 12, "timer budget, ARCHITECTURE.md");

struct wheel {
	size_t map_bytes;
	uint64_t base_s; /* node seconds count from here, so that 32 bits last 136 years */
	uint32_t done_s; /* every second up to this one has been fired */
	uint32_t timers_max;
	uint32_t armed;
	uint64_t used[SLOTS / 64]; /* slots whose list is not empty */
	struct node nodes[];
};

static uint32_t head_of(uint32_t due_s)
{
	return 1 + due_s % SLOTS;
}

static struct node *node_of(struct wheel *w, uint32_t timer)
{
	CHECK(timer < w->timers_max);
	return &w->nodes[FIRST_TIMER + timer];
}

static void mark_slot(struct wheel *w, uint32_t head)
{
	uint32_t slot = head - 1;
	uint64_t bit = 1ull << slot % 64;

	if (slot == FIRING)
		return;
	if (w->nodes[head].next == head)
		w->used[slot / 64] &= ~bit;
	else
		w->used[slot / 64] |= bit;
}

static void link_tail(struct wheel *w, uint32_t head, uint32_t i)
{
	uint32_t last = w->nodes[head].prev;

	w->nodes[i].prev = last;
	w->nodes[i].next = head;
	w->nodes[last].next = i;
	w->nodes[head].prev = i;
	mark_slot(w, head);
}

static void unlink_node(struct wheel *w, uint32_t i)
{
	uint32_t next = w->nodes[i].next, prev = w->nodes[i].prev;

	w->nodes[prev].next = next;
	w->nodes[next].prev = prev;
	w->nodes[i].next = w->nodes[i].prev = 0;
	/* Alone in its list: the head is on both sides. */
	if (next == prev && next < FIRST_TIMER)
		mark_slot(w, next);
}

struct wheel *wheel_new(uint32_t timers_max, uint64_t now_ms)
{
	CHECK(timers_max < UINT32_MAX - FIRST_TIMER);
	size_t bytes =
		sizeof(struct wheel) + ((size_t)timers_max + FIRST_TIMER) * sizeof(struct node);
	struct wheel *w = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (w == MAP_FAILED)
		return NULL;
	w->map_bytes = bytes;
	w->timers_max = timers_max;
	w->base_s = now_ms / SECOND_MS;
	for (uint32_t head = 1; head <= HEADS; head++)
		w->nodes[head].next = w->nodes[head].prev = head;
	return w;
}

void wheel_free(struct wheel **w)
{
	if (!*w)
		return;
	munmap(*w, (*w)->map_bytes);
	*w = NULL;
}

void wheel_arm(struct wheel *w, uint32_t timer, uint64_t due_ms)
{
	struct node *n = node_of(w, timer);
	/* Rounded up: never early. */
	uint64_t due_s = due_ms / SECOND_MS + (due_ms % SECOND_MS != 0);

	/* A second that has been fired comes around only a turn later, so what is overdue goes
	 * into the next one. */
	if (due_s <= w->base_s + w->done_s)
		due_s = w->base_s + w->done_s + 1;
	CHECK(due_s - w->base_s <= UINT32_MAX);
	if (n->next)
		unlink_node(w, FIRST_TIMER + timer);
	else
		w->armed++;
	n->due_s = (uint32_t)(due_s - w->base_s);
	link_tail(w, head_of(n->due_s), FIRST_TIMER + timer);
}

void wheel_cancel(struct wheel *w, uint32_t timer)
{
	if (!node_of(w, timer)->next)
		return;
	unlink_node(w, FIRST_TIMER + timer);
	w->armed--;
}

bool wheel_armed(const struct wheel *w, uint32_t timer)
{
	CHECK(timer < w->timers_max);
	return w->nodes[FIRST_TIMER + timer].next != 0;
}

/* Everything of a slot moves to the firing list first: what `fire` arms meanwhile cannot be met
 * in the same walk, and cancelling any node of either list is an ordinary unlink. */
static void take_slot(struct wheel *w, uint32_t head)
{
	struct node *from = &w->nodes[head], *to = &w->nodes[1 + FIRING];

	CHECK(to->next == 1 + FIRING);
	if (from->next == head)
		return;
	to->next = from->next;
	to->prev = from->prev;
	w->nodes[to->next].prev = 1 + FIRING;
	w->nodes[to->prev].next = 1 + FIRING;
	from->next = from->prev = head;
	mark_slot(w, head);
}

void wheel_advance(struct wheel *w, uint64_t now_ms, wheel_fire_fn *fire, void *arg)
{
	uint64_t now_abs_s = now_ms / SECOND_MS;

	if (now_abs_s <= w->base_s + w->done_s)
		return;
	CHECK(now_abs_s - w->base_s <= UINT32_MAX);
	uint32_t now_s = (uint32_t)(now_abs_s - w->base_s);

	/* After a long stop one turn is enough: it visits every slot once. */
	if (now_s - w->done_s > SLOTS)
		w->done_s = now_s - SLOTS;
	while (w->done_s < now_s) {
		/* Counted as fired before it is: see wheel_arm. */
		uint32_t head = head_of(++w->done_s);

		take_slot(w, head);
		for (;;) {
			uint32_t i = w->nodes[1 + FIRING].next;

			if (i == 1 + FIRING)
				break;
			unlink_node(w, i);
			if (w->nodes[i].due_s > now_s) {
				link_tail(w, head, i); /* another turn */
				continue;
			}
			w->armed--;
			fire(arg, i - FIRST_TIMER);
		}
	}
}

uint64_t wheel_next_ms(const struct wheel *w)
{
	if (w->armed == 0)
		return UINT64_MAX;
	uint32_t from = w->done_s + 1;

	/* One word at a time around the wheel; the first word is looked at twice, for its upper
	 * and at last for its lower bits. */
	for (uint32_t k = 0; k <= SLOTS / 64; k++) {
		uint32_t slot = (from % SLOTS / 64 * 64 + k * 64) % SLOTS;
		uint64_t bits = w->used[slot / 64];

		if (k == 0)
			bits &= ~0ull << from % 64;
		if (bits == 0)
			continue;
		slot += (uint32_t)__builtin_ctzll(bits);
		return (w->base_s + from + (slot - from) % SLOTS) * SECOND_MS;
	}
	CHECK(!"an armed timer is in a slot");
	return UINT64_MAX;
}

bool wheel_check(const struct wheel *w)
{
	uint32_t count = 0;

	for (uint32_t head = 1; head <= HEADS; head++) {
		uint32_t prev = head, slot = head - 1;

		for (uint32_t i = w->nodes[head].next; i != head; prev = i, i = w->nodes[i].next) {
			if (i < FIRST_TIMER || i >= FIRST_TIMER + w->timers_max)
				return false;
			if (w->nodes[i].prev != prev || ++count > w->armed)
				return false;
			if (slot != FIRING && (w->nodes[i].due_s <= w->done_s ||
						      head_of(w->nodes[i].due_s) != head))
				return false;
		}
		if (w->nodes[head].prev != prev)
			return false;
		if (slot != FIRING && !(w->used[slot / 64] >> slot % 64 & 1) != (prev == head))
			return false;
	}
	return count == w->armed;
}
