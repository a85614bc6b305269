/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/upgrade/upgrade_message.h - what the two processes of an upgrade say to each other over their socket pair;
 * the conversation is in core/upgrade/upgrade.h. For core/upgrade/upgrade.c and core/upgrade/take_over.c only.
 * Thread: the main thread of each process.    Memory: the caller's. */
#ifndef ROOST_CORE_UPGRADE_MESSAGE_H
#define ROOST_CORE_UPGRADE_MESSAGE_H

#include "core/base/sockets.h"
#include "io/handover.h"

#include <stdbool.h>
#include <stdint.h>

/* Rings of one shard. */
enum { ESCROWS_MAX = 512 };

enum upgrade_message_kind {
	UP_HELLO = 1, /* a: how many shards, b: see shared_ms; with it, perhaps, the descriptor of
		       * memory with the seed of the ticket keys */
	UP_SOCKET,    /* text: its name; with it the descriptor */
	UP_ESCROW,    /* a: shard, b: ring; key */
	UP_GO,
	UP_READY,       /* format; text: version */
	UP_STATE,       /* a: shard, b: bytes, 0: none yet; with it the descriptor of the memory,
			 * unless it came before */
	UP_MOVED,       /* a: connections in all, b: presence_order */
	UP_SERVING,     /* a: connections, b: of them parked */
	UP_FAILED,      /* text: why */
	UP_CREDENTIALS, /* with it the descriptor of the memory */
	UP_COPIED,      /* a: shard, b: 1 when everybody waits; with it the descriptor of a list */
	UP_COPIED_ALL,  /* that was it for now; and back: it is done */
};

/* Both ends may be of different versions: this much stays as it is. */
struct upgrade_message {
	char magic[8];
	uint32_t kind;
	uint32_t format; /* HANDOVER_FORMAT of the sender */
	uint64_t a, b;
	char text[SOCKET_NAME_BYTES + 64];
	struct handover_key key;
};

/* `with`: a descriptor that goes along, or -1. False: the other end is gone. */
bool upgrade_say(int fd, struct upgrade_message *m, int with);
bool upgrade_say_kind(int fd, enum upgrade_message_kind kind, uint64_t a, uint64_t b);
/* 1: a message, *with_out its descriptor or -1; 0: nothing in this time; -1: the other end is gone
 * or speaks something else. */
int upgrade_hear(int fd, struct upgrade_message *m, int *with_out, int timeout_ms);

#endif
