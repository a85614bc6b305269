/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/db_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "store/journal.h"

static void commit_note(struct db_notify *n, uint64_t seq, uint64_t mono_ns)
{
	uint64_t at = atomic_fetch_add_explicit(&n->count, 1, memory_order_acq_rel);
	size_t i = at % DB_NOTIFY_COMMITS;

	/* seq 0 while mono_ns changes: a reader that sees the new time and the old seq, or the
	 * other way round, sees seq change when it looks again. */
	atomic_store_explicit(&n->commits[i].seq, 0, memory_order_relaxed);
	atomic_store_explicit(&n->commits[i].mono_ns, mono_ns, memory_order_release);
	atomic_store_explicit(&n->commits[i].seq, seq, memory_order_release);
}

/* Commits of several processes may get here in another order than they were made: both numbers only
 * go forward, and whoever moved seq last leaves word equal to it. */
void notify_publish(struct db *db, uint64_t seq, uint64_t mono_ns)
{
	struct db_notify *n = &db->notify->page;
	uint64_t s = atomic_load(&n->seq);
	uint32_t w = atomic_load(&n->word);

	commit_note(n, seq, mono_ns);
	while (s < seq && !atomic_compare_exchange_weak(&n->seq, &s, seq))
		;
	while ((int32_t)((uint32_t)seq - w) > 0 &&
		!atomic_compare_exchange_weak(&n->word, &w, (uint32_t)seq))
		;
	futex(&n->word, FUTEX_WAKE, INT_MAX);
}

const struct db_notify *db_notify(const struct db *db)
{
	return &db->notify->page;
}

uint64_t db_commit_time_ns(const struct db *db, uint64_t seq)
{
	const struct db_notify *n = &db->notify->page;
	uint64_t count = atomic_load_explicit(&n->count, memory_order_acquire);
	uint64_t best_seq = UINT64_MAX, best_ns = 0;
	unsigned below = 0;

	/* From the newest back to the first commit at or above seq. They are almost in order; a few
	 * more are looked at for the case that two processes published in each other's turn. */
	for (uint64_t i = 0; i < count && i < DB_NOTIFY_COMMITS && below < 4; i++) {
		size_t at = (count - 1 - i) % DB_NOTIFY_COMMITS;
		uint64_t s = atomic_load_explicit(&n->commits[at].seq, memory_order_acquire);
		uint64_t ns = atomic_load_explicit(&n->commits[at].mono_ns, memory_order_acquire);
		if (s == 0 || s != atomic_load_explicit(&n->commits[at].seq, memory_order_acquire))
			continue; /* being written */
		if (s < seq) {
			below++;
		} else if (s < best_seq) {
			best_seq = s;
			best_ns = ns;
		}
	}
	/* Without one below, the commit that brought seq may have been overwritten. */
	return below || count <= DB_NOTIFY_COMMITS ? best_ns : 0;
}

int db_publish_missed(struct db *db)
{
	/* In this order: what was published before the snapshot is in the snapshot. */
	uint64_t published = atomic_load(&db->notify->page.seq), head;
	struct db_txn txn;
	int err = db_read(db, &txn);

	if (err)
		return err;
	head = journal_head(&txn);
	db_read_end(&txn);
	if (head <= published)
		return 0;
	/* Or its process is about to publish it: then it is told twice, which harms nobody. When it
	 * was committed is not known. */
	notify_publish(db, head, 0);
	return 1;
}

/* The page says what was published; the journal says what is durable. They differ after a crash
 * between the two, and when the data file was put back from a backup. */
int notify_derive(struct db *db)
{
	struct db_notify *n = &db->notify->page;

	for (;;) {
		/* In this order: what was published before the snapshot is in the snapshot. */
		uint64_t published = atomic_load(&n->seq), head;
		struct db_txn txn;
		int err = db_read(db, &txn);

		if (err)
			return err;
		head = journal_head(&txn);
		db_read_end(&txn);
		if (published != head && !atomic_compare_exchange_strong(&n->seq, &published, head))
			continue; /* another process is at work */
		if (published != head || (atomic_load(&n->count) == 0 && head))
			commit_note(n, head, 0); /* when these were committed is not known */
		break;
	}
	for (;;) {
		uint32_t w = atomic_load(&n->word), s = (uint32_t)atomic_load(&n->seq);

		if (w == s || atomic_compare_exchange_strong(&n->word, &w, s))
			break;
	}
	futex(&n->word, FUTEX_WAKE, INT_MAX);
	return DB_OK;
}

static void boot_id_read(char id[40])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, id, 39);

	memset(id + (n > 0 ? n : 0), 0, (size_t)(40 - (n > 0 ? n : 0)));
	if (fd >= 0)
		close(fd);
}

/* The file of zeros is a valid page, so making it is one step; the caller holds its flock. */
int notify_map(struct db *db)
{
	struct stat st;
	char boot_id[40];
	int rc;

	if (fstat(db->notify_fd, &st))
		return DB_IO;
	if (st.st_size != 0 && st.st_size != sizeof(struct notify_file))
		return DB_VERSION;
	/* Blocks of its own: a store into a hole would be SIGBUS when the disk is full. */
	rc = posix_fallocate(db->notify_fd, 0, sizeof(struct notify_file));
	if (rc)
		return db_from_mdb(rc);
	void *p = mmap(NULL, sizeof(struct notify_file), PROT_READ | PROT_WRITE, MAP_SHARED,
		db->notify_fd, 0);
	if (p == MAP_FAILED)
		return DB_IO;
	db->notify = p;
	boot_id_read(boot_id);
	if (memcmp(boot_id, db->notify->boot_id, sizeof(boot_id)) != 0) {
		/* First open since the machine started, so nobody else has the page. */
		struct db_notify *n = &db->notify->page;
		atomic_store(&n->count, 0);
		for (size_t i = 0; i < DB_NOTIFY_COMMITS; i++)
			atomic_store(&n->commits[i].seq, 0);
		memcpy(db->notify->boot_id, boot_id, sizeof(boot_id));
	}
	return DB_OK;
}
