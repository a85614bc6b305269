/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/db_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/base/metrics.h"
#include "store/key.h"
#include "store/rows.h"

int db_stats(struct db *db, struct db_stats *out)
{
	struct db_txn txn = {0};
	MDB_envinfo info;
	MDB_stat stat;
	int err = db_read(db, &txn);

	if (err)
		return err;
	/* Inside a read: the map stays where it is. */
	mdb_env_info(db->env, &info);
	mdb_env_stat(db->env, &stat);
	*out = (struct db_stats){
		.map_bytes = info.me_mapsize,
		.used_bytes = (info.me_last_pgno + 1) * stat.ms_psize,
		.readers = info.me_numreaders,
		.stale_cleared = atomic_load(&db->stale_cleared),
		.commits = atomic_load(&db->commits),
		.entries = stat.ms_entries,
	};
	db_read_end(&txn);
	return DB_OK;
}

void db_release_pages(struct db *db)
{
	struct db_txn txn;
	struct bytes any = {0};
	struct key k;
	char line[512], *end;
	FILE *f;

	/* The snapshot keeps the map where it is: growing it waits for readers. LMDB does not tell
	 * where that is, but a value's address does. */
	if (db_read(db, &txn))
		return;
	f = fopen("/proc/self/maps", "re");
	if (f && rows_get(&txn, key_meta(&k, KEY_META_FORMAT), &any) == DB_OK)
		while (fgets(line, sizeof(line), f)) {
			/* "from-to ..." */
			uintptr_t from = strtoull(line, &end, 16);
			uintptr_t to = *end == '-' ? strtoull(end + 1, NULL, 16) : 0;

			if ((uintptr_t)any.p >= from && (uintptr_t)any.p < to) {
				madvise((void *)from, to - from, MADV_DONTNEED);
				break;
			}
		}
	if (f)
		fclose(f);
	db_read_end(&txn);
}

int db_clear_stale_readers(struct db *db)
{
	int dead = 0, rc = mdb_reader_check(db->env, &dead);

	if (rc)
		return db_from_mdb(rc);
	if (dead) {
		atomic_fetch_add(&db->stale_cleared, (uint64_t)dead);
		METRIC_ADD(STORE_STALE_READERS, dead);
	}
	return dead;
}

static int dir_empty(int fd)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *e;
	int n = 0;

	if (!d) {
		if (copy >= 0)
			close(copy);
		return -1;
	}
	while ((e = readdir(d)) != NULL)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	closedir(d);
	return n == 0;
}

int db_backup(struct db *db, const char *to_dir, char *why, size_t why_bytes)
{
	int dir = open(to_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, err, rc;
	struct db_stats stats;

	if (dir < 0)
		return db_fail(db_errno(), why, why_bytes, "%s: %s", to_dir, strerror(errno));
	if (dir_empty(dir) != 1) {
		err = db_fail(DB_EXISTS, why, why_bytes, "%s is not an empty directory", to_dir);
		goto out;
	}
	fd = openat(dir, "data.mdb", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0) {
		err = db_fail(
			db_errno(), why, why_bytes, "%s/data.mdb: %s", to_dir, strerror(errno));
		goto out;
	}
	for (int tries = 0;; tries++) {
		err = db_stats(db, &stats); /* also takes over a map that another process grew */
		if (err)
			break;
		db_write_lock(db);
		/* A write that needs a larger map waits for us; make that unlikely. */
		if (stats.used_bytes > stats.map_bytes / 2)
			db_map_grow(db);
		atomic_fetch_add(&db->backups, 1);
		db_write_unlock(db);
		rc = mdb_env_copyfd2(db->env, fd, MDB_CP_COMPACT);
		atomic_fetch_sub(&db->backups, 1);
		futex_wake_private(&db->backups);
		if (rc == MDB_MAP_RESIZED && tries < 8 && lseek(fd, 0, SEEK_SET) == 0 &&
			ftruncate(fd, 0) == 0)
			continue;
		err = db_from_mdb(rc);
		break;
	}
	if (err == DB_OK && (fsync(fd) || fsync(dir)))
		err = db_from_mdb(errno);
	if (err) {
		db_fail(err, why, why_bytes, "%s: %s", to_dir, db_strerror(err));
		unlinkat(dir, "data.mdb", 0);
	}
out:
	if (fd >= 0)
		close(fd);
	close(dir);
	return err;
}
