/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/shard/device_notes.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/push/ping.h"
#include "store/device.h"
#include "store/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEEN_EVERY_MS = 15 * 60 * 1000 };

struct device_note {
	struct write write;
	uint32_t mailbox, device;
	bool ping, seen;
	uint16_t heartbeat_s, folder_count;
	uint64_t seen_ms;
	char address[64];
	uint32_t folders[];
};

static int note_write(struct db_txn *txn, void *arg)
{
	const struct device_note *n = arg;
	struct device d;
	int err = device_get(txn, n->mailbox, n->device, &d);

	if (err == DB_NOT_FOUND)
		return DB_OK; /* removed meanwhile: nothing to remember */
	if (err)
		return err;
	if (n->ping) {
		d.ping_heartbeat_s = n->heartbeat_s;
		d.ping_folder_count = n->folder_count;
		memcpy(d.ping_folders, n->folders, n->folder_count * sizeof(n->folders[0]));
	}
	if (n->seen) {
		d.last_seen_ms = n->seen_ms;
		snprintf(d.last_address, sizeof(d.last_address), "%.47s", n->address);
	}
	return device_put(txn, n->mailbox, &d);
}

static void note_done(struct write *w, int err)
{
	struct device_note *n = container_of(w, struct device_note, write);

	if (err && err != DB_CLOSED)
		log_msg(LOG_WARNING, "store: a device record was not written: %s",
			db_strerror(err));
	free(n);
}

static struct device_note *note_new(uint32_t mailbox, uint32_t device, size_t folders)
{
	struct device_note *n = calloc(1, sizeof(*n) + folders * sizeof(n->folders[0]));

	if (n) {
		n->write.fn = note_write;
		n->write.arg = n;
		n->write.done = note_done;
		n->mailbox = mailbox;
		n->device = device;
	}
	return n;
}

void device_note_ping(
	struct writer *writer, uint32_t mailbox, uint32_t device, const struct ping *p)
{
	struct device_note *n = note_new(mailbox, device, p->folder_count);

	if (!n)
		return;
	n->ping = true;
	n->heartbeat_s = p->heartbeat_s;
	n->folder_count = p->folder_count;
	memcpy(n->folders, p->folders, p->folder_count * sizeof(n->folders[0]));
	writer_submit(writer, &n->write);
}

void device_note_seen(struct writer *writer, uint32_t mailbox, const struct device_gate *gate,
	uint64_t now_ms, const char *address)
{
	struct device_note *n;

	if (gate->last_seen_ms + SEEN_EVERY_MS > now_ms)
		return;
	n = note_new(mailbox, gate->id, 0);
	if (!n)
		return;
	n->seen = true;
	n->seen_ms = now_ms;
	snprintf(n->address, sizeof(n->address), "%s", address);
	writer_submit(writer, &n->write);
}
