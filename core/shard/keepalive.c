/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/shard/keepalive.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum {
	PATIENCE_MIN_S = 6,
	PATIENCE_MAX_S = 180,
	INTERVAL_MAX_S = 15, /* timers of less than 16 s are a quarter of a second wide */
	COUNT_MIN = 6,
};

struct keepalive keepalive_choose(int64_t idle_s, uint32_t random)
{
	int64_t patience_s = idle_s * 3 / 4, most, least;
	struct keepalive k;

	if (patience_s < PATIENCE_MIN_S)
		patience_s = PATIENCE_MIN_S;
	if (patience_s > PATIENCE_MAX_S)
		patience_s = PATIENCE_MAX_S;
	most = patience_s / COUNT_MIN;
	if (most > INTERVAL_MAX_S)
		most = INTERVAL_MAX_S;
	least = (most + 4) / 5;
	k.idle_s = (int)(idle_s - (int64_t)(random >> 16) % (idle_s / 4 + 1));
	k.interval_s = (int)(least + (int64_t)(random & 0xffff) % (most - least + 1));
	k.count = (int)(patience_s / k.interval_s);
	return k;
}

void keepalive_set(int fd, int64_t idle_s, uint32_t random)
{
	struct keepalive k = keepalive_choose(idle_s, random);

	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &k.idle_s, sizeof(k.idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &k.interval_s, sizeof(k.interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &k.count, sizeof(k.count));
}
