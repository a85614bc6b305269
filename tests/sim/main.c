/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roost-sim: runs of the simulation, each with a seed of its own. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const char *const promise_texts[] = {
#define X(id, text) text,
	PROMISES(X)
#undef X
};

static const char usage[] =
	"usage: roost-sim [--runs N] [--seed S] [--devices D] [--minutes M] [--twice]\n"
	"                 [--verbose]\n"
	"  --runs N     runs, with the seeds S, S+1, ... (1)\n"
	"  --seed S     of the first run (1)\n"
	"  --devices D  phones in a run (240; with every eighth seed 1920)\n"
	"  --minutes M  virtual minutes in which they are busy (20; with 1920 phones 6)\n"
	"  --twice      each run a second time, which must be the same\n"
	"  --verbose    tells everything that happens\n";

static bool number(const char *text, unsigned long long *out)
{
	char *end;

	if (!text || !*text)
		return false;
	*out = strtoull(text, &end, 0);
	return *end == 0;
}

/* The digest of what happened. Which runs are large depends on the seed and on nothing else. */
static uint64_t run(unsigned long long seed, unsigned long long devices, unsigned long long minutes)
{
	bool large = !devices && seed % 8 == 7;
	struct sim_options o = {
		.devices = devices ? (unsigned)devices
			   : large ? 1920
				   : 240,
		.minutes = minutes ? (unsigned)minutes
			   : large ? 6
				   : 20,
	};
	uint64_t digest;

	world_make(seed, &o);
	world_start();
	world_live();
	while (sim_step(world.end_us))
		world_look();
	world_rest();
	digest = sim_digest();
	printf("# seed %llu: %u phones, %u mailboxes, %u shards%s, %u commits, %u crashes, "
	       "%u drains, %u upgrades (%u failed, %u moved), "
	       "%u storms (%u told to wait), %u stretches (%u refused), digest %016llx\n",
		seed, world.phone_count, world.box_count, world.shards,
		world.tls ? " with TLS" : "", world.commits, world.crashes, world.drains,
		world.upgrades, world.failed_upgrades, world.moved, world.storms, world.told_later,
		world.stretches, world.refused, (unsigned long long)digest);
	fflush(stdout);
	world_free();
	return digest;
}

int main(int argc, char **argv)
{
	unsigned long long runs = 1, seed = 1, devices = 0, minutes = 0, wakes, commits = 0;
	struct timespec begin, end;
	bool twice = false;

	for (int i = 1; i < argc; i++) {
		const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
		unsigned long long *out = !strcmp(a, "--runs")      ? &runs
					  : !strcmp(a, "--seed")    ? &seed
					  : !strcmp(a, "--devices") ? &devices
					  : !strcmp(a, "--minutes") ? &minutes
								    : NULL;

		if (!strcmp(a, "--verbose")) {
			sim_verbose = true;
		} else if (!strcmp(a, "--twice")) {
			twice = true;
		} else if (out && number(v, out)) {
			i++;
		} else {
			fputs(usage, stderr);
			return 2;
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned long long n = 0; n < runs; n++) {
		uint64_t digest = run(seed + n, devices, minutes);

		commits += world.commits;
		/* A run must not depend on those before it, or "again:" would lie. */
		if (twice && run(seed + n, devices, minutes) != digest) {
			printf("not ok - sim seed %llu is another run the second time\n", seed + n);
			return 1;
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	wakes = promises_kept[PROMISE_WAKE];
	for (unsigned i = 0; i < PROMISE_COUNT; i++)
		printf("ok %u - %s (%llu times)\n", i + 1, promise_texts[i],
			(unsigned long long)promises_kept[i]);
	printf("1..%u\n# %llu runs, %llu commits, %llu wakes, %.1f s: ok\n", PROMISE_COUNT, runs,
		commits, wakes,
		(double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9);
	return 0;
}
