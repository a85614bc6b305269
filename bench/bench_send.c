/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/bench_send.c - the floor under a wake: what the kernel takes to send as many bytes as an
 * answer on as many sockets as there are phones, by the same loop, with nothing of Roost above it.
 *   bench_send [--phones N] [--bytes B] [--rounds R]
 * The sockets are watched (POLL_ADD) as parked ones are. On loopback the receiver's half runs in the
 * sender's system call and is charged to it, as to any server that is measured there; a last round is
 * sent to peers that drop what comes at their socket (loop_deafen), which leaves that half out, but for
 * the way of a packet to its socket.
 * Prints the table of roost-bench, and its JSON line. */
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/figures.h"
#include "core/base/check.h"
#include "core/base/clock.h"
#include "io/loop.h"

enum { OPENING = 256, PATIENCE_MS = 60000, PORTS_PER_ADDRESS = 10000, SETTLE_MS = 200 };

static struct {
	uint32_t phones, bytes, rounds;
} opt = {.phones = 20000, .bytes = 290, .rounds = 5};

/* Of both processes. */
static struct shared {
	_Atomic uint64_t received;
	_Atomic bool deafen, deaf, failed;
	_Atomic uint16_t port;
} * shared;

static uint64_t thread_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct loop *new_loop(const struct loop_events *events)
{
	struct loop_options o = {.conns_max = opt.phones + 1024, .cpu = -1};
	char why[200];
	struct loop *l = loop_new(&o, events, NULL, why, sizeof(why));

	if (!l) {
		fprintf(stderr, "bench_send: %s\n", why);
		exit(3);
	}
	return l;
}

/* ---- the phones: connect, read and forget ---- */

static struct {
	struct loop *loop;
	uint32_t *slots, asked, open;
	bool deaf;
} peer;

static void peer_connect(void)
{
	struct sockaddr_storage to = {0}, from = {0};
	struct sockaddr_in *t = (struct sockaddr_in *)&to, *f = (struct sockaddr_in *)&from;

	*t = (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = htons(atomic_load(&shared->port)),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	*f = (struct sockaddr_in){.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + peer.asked / PORTS_PER_ADDRESS)};
	CHECK(loop_connect(peer.loop, &to, &from) != UINT32_MAX);
	peer.asked++;
}

static void peer_connected(void *arg, uint32_t slot, int err)
{
	(void)arg;
	if (err) {
		fprintf(stderr, "bench_send: connect: %s\n", strerror(-err));
		atomic_store(&shared->failed, true);
		loop_stop(peer.loop);
		return;
	}
	peer.slots[peer.open++] = slot;
	loop_recv(peer.loop, slot);
}

static void peer_received(void *arg, uint32_t slot, const uint8_t *p, int n)
{
	(void)arg;
	(void)p;
	if (n <= 0) {
		loop_stop(peer.loop); /* the server is done */
		return;
	}
	atomic_fetch_add_explicit(&shared->received, (uint64_t)n, memory_order_relaxed);
	loop_recv(peer.loop, slot);
}

static uint64_t peer_tick(void *arg, uint64_t now_ms)
{
	(void)arg;
	while (peer.asked < opt.phones && peer.asked - peer.open < OPENING)
		peer_connect();
	if (atomic_load(&shared->deafen) && !peer.deaf) {
		for (uint32_t i = 0; i < peer.open; i++)
			loop_deafen(peer.loop, peer.slots[i]);
		peer.deaf = true;
		atomic_store(&shared->deaf, true);
	}
	return now_ms + 20;
}

static void peer_nothing(void *arg, uint32_t slot)
{
	(void)arg;
	(void)slot;
}

static void peers(void)
{
	static const struct loop_events events = {
		.connected = peer_connected,
		.received = peer_received,
		.released = peer_nothing,
		.readable = peer_nothing,
		.tick = peer_tick,
	};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	peer.slots = calloc(opt.phones, sizeof(*peer.slots));
	CHECK(peer.slots);
	peer.loop = new_loop(&events);
	loop_run(peer.loop);
	loop_free(&peer.loop);
}

/* ---- the server: rounds of one send each ---- */

static struct {
	struct loop *loop;
	uint32_t *slots, open, sent, rounds;
	uint64_t cpu_ns, since_ms, settled_ms;
	enum { CONNECTING, SETTLING, SENDING, DEAFENING, DONE } state;
	struct figures figures;
	uint8_t *bytes;
} srv;

static void srv_accepted(
	void *arg, uint32_t slot, unsigned listener, const struct loop_addr *address)
{
	(void)arg;
	(void)listener;
	(void)address;
	CHECK(srv.open < opt.phones);
	srv.slots[srv.open++] = slot;
	loop_watch(srv.loop, slot);
}

static void srv_readable(void *arg, uint32_t slot)
{
	(void)arg;
	(void)slot;
	fprintf(stderr, "bench_send: a connection was lost\n");
	atomic_store(&shared->failed, true);
	loop_stop(srv.loop);
}

static void srv_sent(void *arg, uint32_t slot, int err)
{
	(void)arg;
	(void)slot;
	CHECK(err == 0);
	srv.sent++;
}

static void send_round(uint64_t now_ms)
{
	srv.sent = 0;
	srv.state = SENDING;
	srv.since_ms = now_ms;
	srv.cpu_ns = thread_cpu_ns();
	for (uint32_t i = 0; i < srv.open; i++)
		loop_send(srv.loop, srv.slots[i], srv.bytes, opt.bytes);
}

static uint64_t srv_tick(void *arg, uint64_t now_ms)
{
	bool deaf = atomic_load(&shared->deaf);
	uint64_t want = (uint64_t)srv.rounds * opt.phones * opt.bytes;

	(void)arg;
	if (now_ms - srv.since_ms > PATIENCE_MS || atomic_load(&shared->failed)) {
		fprintf(stderr, "bench_send: %u of %u connections, %u sends: no progress\n",
			srv.open, opt.phones, srv.sent);
		atomic_store(&shared->failed, true);
		loop_stop(srv.loop);
	}
	switch (srv.state) {
	case CONNECTING:
		if (srv.open < opt.phones)
			return now_ms + 10;
		srv.state = SETTLING;
		srv.settled_ms = now_ms + SETTLE_MS;
		break;
	case SETTLING:
		if (now_ms < srv.settled_ms)
			return srv.settled_ms;
		send_round(now_ms);
		break;
	case SENDING: {
		uint64_t cpu_ns;

		if (srv.sent < opt.phones)
			break;
		cpu_ns = thread_cpu_ns() - srv.cpu_ns;
		if (deaf) {
			figure_add(&srv.figures, "send_cpu_to_deaf_peers",
				(double)cpu_ns / 1e3 / opt.phones, "us", opt.phones,
				"the same, dropped at the receiving socket");
			srv.state = DONE;
			loop_stop(srv.loop);
			break;
		}
		if (want + (uint64_t)opt.phones * opt.bytes > atomic_load(&shared->received))
			return now_ms + 1; /* all of it is read before the next */
		figure_add(&srv.figures, "send_cpu", (double)cpu_ns / 1e3 / opt.phones, "us",
			opt.phones, "thread CPU per send of %u bytes, receiving half included",
			opt.bytes);
		srv.state = SETTLING;
		srv.settled_ms = now_ms + SETTLE_MS;
		if (++srv.rounds == opt.rounds && !loop_can_deafen()) {
			fprintf(stderr,
				"bench_send: nothing to deaf peers: that takes Linux 6.7\n");
			srv.state = DONE;
			loop_stop(srv.loop);
		} else if (srv.rounds == opt.rounds) {
			srv.state = DEAFENING;
			atomic_store(&shared->deafen, true);
		}
		break;
	}
	case DEAFENING:
		if (deaf)
			send_round(now_ms);
		break;
	case DONE:
		break;
	}
	return now_ms + 10;
}

static int listener(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	CHECK(fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
	CHECK(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 4096) == 0);
	CHECK(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
	atomic_store(&shared->port, ntohs(a.sin_port));
	return fd;
}

static void options(int argc, char **argv)
{
	static const struct option longs[] = {{"phones", required_argument, NULL, 'n'},
		{"bytes", required_argument, NULL, 'b'}, {"rounds", required_argument, NULL, 'r'},
		{0}};
	uint64_t v;
	int c;

	while ((c = getopt_long(argc, argv, "n:b:r:", longs, NULL)) != -1) {
		uint64_t most = c == 'n' ? 1000000 : c == 'b' ? 16384 : ROUNDS_MAX;

		if (c == '?' || !bytes_to_u64(bytes_str(optarg), most, &v) || !v) {
			fprintf(stderr,
				"usage: bench_send [--phones 1-1000000] [--bytes 1-16384] "
				"[--rounds 1-%d]\n",
				ROUNDS_MAX);
			exit(2);
		}
		*(c == 'n' ? &opt.phones : c == 'b' ? &opt.bytes : &opt.rounds) = (uint32_t)v;
	}
}

int main(int argc, char **argv)
{
	static const struct loop_events events = {
		.accepted = srv_accepted,
		.readable = srv_readable,
		.sent = srv_sent,
		.released = peer_nothing,
		.tick = srv_tick,
	};
	json_t *settings;
	int fd, status;
	pid_t child;

	options(argc, argv);
	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(shared != MAP_FAILED);
	fd = listener();
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(fd);
		peers();
		_exit(0);
	}
	srv.slots = calloc(opt.phones, sizeof(*srv.slots));
	srv.bytes = calloc(1, opt.bytes);
	CHECK(srv.slots && srv.bytes);
	srv.loop = new_loop(&events);
	srv.since_ms = loop_now_ms(srv.loop);
	loop_listen(srv.loop, fd);
	loop_run(srv.loop);
	loop_free(&srv.loop);
	/* (They are deaf: they would not hear that the connections end.) */
	kill(child, SIGTERM);
	CHECK(waitpid(child, &status, 0) == child);
	settings = json_pack("{s:i, s:i, s:i}", "phones", (int)opt.phones, "bytes", (int)opt.bytes,
		"rounds", (int)opt.rounds);
	figures_table(&srv.figures, stdout);
	figures_json(&srv.figures, settings, stdout);
	json_decref(settings);
	free(srv.slots);
	free(srv.bytes);
	return atomic_load(&shared->failed) || srv.state != DONE;
}
