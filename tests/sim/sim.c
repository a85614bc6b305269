/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Chance, virtual time, and the notes that a failure prints. */
#include "tests/sim/sim.h"

#include "core/base/check.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t sim_now_us;
bool sim_verbose;
static uint64_t note_count;
static uint64_t digest; /* of all notes of the run */

/* ---- chance (xoshiro256**, seeded by splitmix64) ----------------------------------------------
 */

static uint64_t state[4];

void sim_seed(uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		uint64_t z = (seed += 0x9e3779b97f4a7c15u);

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
		z = (z ^ z >> 27) * 0x94d049bb133111ebu;
		state[i] = z ^ z >> 31;
	}
}

static uint64_t rotl(uint64_t v, int n)
{
	return v << n | v >> (64 - n);
}

uint64_t sim_random(void)
{
	uint64_t r = rotl(state[1] * 5, 7) * 9, t = state[1] << 17;

	state[2] ^= state[0];
	state[3] ^= state[1];
	state[1] ^= state[2];
	state[0] ^= state[3];
	state[2] ^= t;
	state[3] = rotl(state[3], 45);
	return r;
}

uint32_t sim_below(uint32_t n)
{
	CHECK(n > 0);
	return (uint32_t)((sim_random() >> 32) * n >> 32);
}

uint64_t sim_between(uint64_t lo, uint64_t hi)
{
	return lo + sim_random() % (hi - lo + 1);
}

bool sim_permille(unsigned p)
{
	return sim_below(1000) < p;
}

/* ---- time: a heap of events --------------------------------------------------------------------
 */

struct event {
	uint64_t at_us;
	uint64_t tie; /* chance, then order */
	sim_fn *fn;
	void *arg;
	uint64_t n;
};

static struct event *heap;
static size_t heap_n, heap_cap;

static bool before(const struct event *a, const struct event *b)
{
	return a->at_us < b->at_us || (a->at_us == b->at_us && a->tie < b->tie);
}

void sim_at(uint64_t at_us, sim_fn *fn, void *arg, uint64_t n)
{
	static uint64_t count;
	struct event e = {.at_us = at_us < sim_now_us ? sim_now_us : at_us,
		.tie = sim_random() << 32 | (uint32_t)count++,
		.fn = fn,
		.arg = arg,
		.n = n};
	size_t i = heap_n++;

	if (heap_n > heap_cap) {
		heap_cap = heap_cap ? heap_cap * 2 : 4096;
		heap = realloc(heap, heap_cap * sizeof(*heap));
		CHECK(heap);
	}
	for (; i > 0 && before(&e, &heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = e;
}

bool sim_step(uint64_t until_us)
{
	struct event e, last;
	size_t i = 0, child;

	if (heap_n == 0 || heap[0].at_us > until_us) {
		sim_now_us = until_us;
		return false;
	}
	e = heap[0];
	last = heap[--heap_n];
	for (; (child = 2 * i + 1) < heap_n; i = child) {
		if (child + 1 < heap_n && before(&heap[child + 1], &heap[child]))
			child++;
		if (!before(&heap[child], &last))
			break;
		heap[i] = heap[child];
	}
	heap[i] = last;
	sim_now_us = e.at_us;
	e.fn(e.arg, e.n);
	return true;
}

void sim_clear(void)
{
	free(heap);
	heap = NULL;
	heap_n = heap_cap = 0;
	note_count = digest = 0;
}

/* ---- notes -------------------------------------------------------------------------------------
 */

enum { NOTES = 1 << 18, NOTES_SHOWN = 100 };

static struct note {
	uint64_t us, x, y, z;
	const char *what;
	int32_t phone, box;
} notes[NOTES];

static void show(const struct note *n)
{
	char text[256];
	int at = 0;
	const uint64_t v[] = {n->x, n->y, n->z};
	unsigned k = 0;

	for (const char *c = n->what; *c && at < (int)sizeof(text) - 24; c++)
		if (*c == '#' && k < 3)
			at += snprintf(text + at, sizeof(text) - (size_t)at, "%llu",
				(unsigned long long)v[k++]);
		else
			text[at++] = *c;
	text[at] = 0;
	fprintf(stderr, "# %10.6f  box %-4d phone %-5d %s\n", (double)n->us / SECOND, n->box,
		n->phone, text);
}

static void mix(uint64_t v)
{
	digest = (rotl(digest, 5) ^ v) * 0x9e3779b97f4a7c15u;
}

void sim_note(const struct phone *p, const struct box *b, const char *what, uint64_t x, uint64_t y,
	uint64_t z)
{
	struct note *n = &notes[note_count++ % NOTES];

	*n = (struct note){.us = sim_now_us,
		.x = x,
		.y = y,
		.z = z,
		.what = what,
		.phone = p ? (int32_t)p->index : -1,
		.box = p   ? (int32_t)p->box->index
		       : b ? (int32_t)b->index
			   : -1};
	mix(n->us);
	mix(x);
	mix(y);
	mix(z);
	mix((uint64_t)(uint32_t)n->phone << 32 | (uint32_t)n->box);
	for (const char *c = what; *c; c++)
		mix((uint8_t)*c);
	if (sim_verbose)
		show(n);
}

uint64_t sim_digest(void)
{
	/* (chance, too: what was drawn and made no difference yet would have made one) */
	for (size_t i = 0; i < ARRAY_LEN(state); i++)
		mix(state[i]);
	return digest;
}

void sim_fail(const struct phone *p, const struct box *b, const char *fmt, ...)
{
	uint64_t first = note_count > NOTES ? note_count - NOTES : 0, i;
	unsigned shown = 0;
	va_list ap;

	if (p)
		b = p->box;
	/* The last ones that concern these two, or everybody. */
	for (i = note_count; i > first && shown < NOTES_SHOWN; i--) {
		const struct note *n = &notes[(i - 1) % NOTES];

		shown += n->box < 0 || (p && n->phone == (int32_t)p->index) ||
			 (b && n->box == (int32_t)b->index && (!p || n->phone < 0)) || (!p && !b);
	}
	for (; i < note_count && !sim_verbose; i++) {
		const struct note *n = &notes[i % NOTES];

		if (n->box < 0 || (p && n->phone == (int32_t)p->index) ||
			(b && n->box == (int32_t)b->index && (!p || n->phone < 0)) || (!p && !b))
			show(n);
	}
	fprintf(stderr, "# time %.6f", (double)sim_now_us / SECOND);
	if (p)
		fprintf(stderr, ", phone %u (device %u)", p->index, p->device);
	if (b)
		fprintf(stderr, ", box %u (mailbox %u, %s)", b->index, b->mailbox, b->address);
	fprintf(stderr, "\n# FAILED: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n# again: roost-sim --runs 1 --seed %llu --devices %u --minutes %u\n",
		(unsigned long long)world.seed, world.phone_count, world.minutes);
	printf("not ok - sim seed %llu\n", (unsigned long long)world.seed);
	fflush(stdout);
	world_remove_store();
	exit(1);
}
