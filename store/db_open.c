/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "store/db_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core/base/check.h"
#include "core/base/clock.h"
#include "store/key.h"
#include "store/record.h"
#include "store/rows.h"

/* What a directory must have been written with. Raised when keys or the notify page change. */
enum { STORE_FORMAT = 1 };

/* Stores open in this process: LMDB must not open one twice (closing the second would drop the
 * file locks of the first). */
static pthread_mutex_t opened_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
	struct db *db;
	dev_t dev;
	ino_t ino;
	pid_t pid; /* after a fork the child's entries are nobody's */
} opened[DB_OPEN_MAX];

/* The process, for people (the lock itself does not depend on it), and how far the map may grow: by
 * everybody's hand. */
int db_note_owner(struct db *db)
{
	char text[96];
	ssize_t n = snprintf(text, sizeof(text), "%ld\nmap_max_bytes %" PRIu64 "\n", (long)getpid(),
		db->map_max);

	/* In this order there is a number to be read at any time. */
	if (pwrite(db->lock_fd, text, (size_t)n, 0) != n || ftruncate(db->lock_fd, n))
		return db_errno();
	db->owner_noted = true;
	return DB_OK;
}

/* Tools with another configuration, or none, must not grow the map past what the server was told. */
static void obey_server(struct db *db)
{
	char text[96] = "";
	const char *at;
	int fd = openat(db->dir_fd, "lock", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? pread(fd, text, sizeof(text) - 1, 0) : -1;
	uint64_t max;

	if (fd >= 0)
		close(fd);
	if (n <= 0 || !(at = strstr(text, "\nmap_max_bytes ")))
		return;
	max = strtoull(at + 15, NULL, 10);
	if (max && max < db->map_max)
		db->map_max = max;
}

/* A lock belongs to the open file, whichever process holds it. */
static int lock_inherited(struct db *db, char *why, size_t why_bytes)
{
	struct stat ours, theirs;

	if (fstatat(db->dir_fd, "lock", &ours, 0) || fstat(db->lock_fd, &theirs) ||
		ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino)
		return db_fail(DB_INVALID, why, why_bytes,
			"%s is not the directory that was handed over: store.dir needs a restart",
			db->dir);
	return DB_OK;
}

static const char closed_mark[] = "closed\n";

/* The next server shall know that nothing of this one is left. Not when the lock went on to another
 * process in an upgrade. */
static void note_closed(struct db *db)
{
	char text[96] = "";
	ssize_t n = db->owner_noted ? pread(db->lock_fd, text, sizeof(text) - 1, 0) : 0;

	if (n <= 0 || strtol(text, NULL, 10) != (long)getpid())
		return;
	/* (should that fail, the next server is only more patient) */
	(void)!pwrite(db->lock_fd, closed_mark, sizeof(closed_mark) - 1, n);
}

static int lock_server(struct db *db, char *why, size_t why_bytes)
{
	char pid[96];
	ssize_t n;

	db->lock_fd = openat(db->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (db->lock_fd < 0)
		return db_fail(db_errno(), why, why_bytes, "%s/lock: %s", db->dir, strerror(errno));
	if (flock(db->lock_fd, LOCK_EX | LOCK_NB)) {
		n = pread(db->lock_fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? n : 0] = 0;
		pid[strcspn(pid, "\n")] = 0;
		return db_fail(DB_LOCKED, why, why_bytes,
			"%s is in use by another server (process %s)", db->dir,
			pid[0] ? pid : "unknown");
	}
	n = pread(db->lock_fd, pid, sizeof(pid) - 1, 0);
	pid[n > 0 ? n : 0] = 0;
	db->left_open = n > 0 && !strstr(pid, closed_mark);
	if (db_note_owner(db))
		return db_fail(db_errno(), why, why_bytes, "%s/lock: %s", db->dir, strerror(errno));
	return DB_OK;
}

bool db_left_open(const struct db *db)
{
	return db->left_open;
}

static int register_open(struct db *db, char *why, size_t why_bytes)
{
	struct stat st;
	int free_at = -1;

	if (fstat(db->dir_fd, &st))
		return db_fail(DB_IO, why, why_bytes, "%s: %s", db->dir, strerror(errno));
	pthread_mutex_lock(&opened_mutex);
	for (int i = 0; i < DB_OPEN_MAX; i++) {
		if (!opened[i].db || opened[i].pid != getpid()) {
			if (free_at < 0)
				free_at = i;
		} else if (opened[i].dev == st.st_dev && opened[i].ino == st.st_ino) {
			pthread_mutex_unlock(&opened_mutex);
			return db_fail(DB_LOCKED, why, why_bytes,
				"%s is open in this process already", db->dir);
		}
	}
	if (free_at >= 0) {
		opened[free_at].db = db;
		opened[free_at].dev = st.st_dev;
		opened[free_at].ino = st.st_ino;
		opened[free_at].pid = getpid();
		db->index = (uint32_t)free_at;
	}
	pthread_mutex_unlock(&opened_mutex);
	return free_at < 0 ? db_fail(DB_INVALID, why, why_bytes, "too many stores open") : DB_OK;
}

static void unregister_open(struct db *db)
{
	pthread_mutex_lock(&opened_mutex);
	for (int i = 0; i < DB_OPEN_MAX; i++)
		if (opened[i].db == db)
			opened[i].db = NULL;
	pthread_mutex_unlock(&opened_mutex);
}

static int make_format(struct db_txn *txn, void *arg)
{
	struct record_meta meta = {.format = STORE_FORMAT, .created_ms = clock_wall_ms()};
	struct record_ids ids = {.next_mailbox = 1};
	struct record_buf buf;
	struct bytes k, v;
	struct key key;

	(void)arg;
	if (rows_get(txn, key_meta(&key, KEY_META_FORMAT), &v) == DB_OK)
		return DB_OK; /* another process was faster */
	if (rows_last(txn, &k, &v) == DB_OK)
		return DB_VERSION; /* has something in it that is not ours */
	rows_put(txn, key_meta(&key, KEY_META_FORMAT), record_encode_meta(&buf, &meta));
	return rows_put(txn, key_meta(&key, KEY_META_IDS), record_encode_ids(&buf, &ids));
}

/* The main database, once; the handle then serves every transaction. */
static int tree_open(struct db *db)
{
	struct db_txn txn;
	struct handle *h;
	int err = db_read(db, &txn);

	if (err)
		return err;
	h = txn.mdb;
	err = db_from_mdb(mdb_dbi_open(h->txn, NULL, 0, &db->dbi));
	db_read_end(&txn);
	return err;
}

static int check_format(struct db *db, bool create, char *why, size_t why_bytes)
{
	struct record_meta meta;
	struct db_txn txn;
	struct bytes k, v = {0};
	struct key key;
	int err = db_read(db, &txn), found;
	bool empty;

	if (err)
		return db_fail(err, why, why_bytes, "%s: %s", db->dir, db_strerror(err));
	empty = rows_last(&txn, &k, &v) == DB_NOT_FOUND;
	found = rows_get(&txn, key_meta(&key, KEY_META_FORMAT), &v);
	if (found == DB_OK)
		found = record_decode_meta(v, &meta);
	db_read_end(&txn);
	if (found == DB_OK && meta.format == STORE_FORMAT)
		return DB_OK;
	if (found == DB_OK)
		return db_fail(DB_VERSION, why, why_bytes,
			"%s has format %u, this version of Roost reads format %d", db->dir,
			meta.format, STORE_FORMAT);
	if (empty && !create)
		return db_fail(DB_NOT_FOUND, why, why_bytes, "%s holds no store yet", db->dir);
	err = empty ? db_write(db, make_format, NULL) : DB_VERSION;
	if (err == DB_VERSION)
		return db_fail(
			err, why, why_bytes, "%s/data.mdb was not written by Roost", db->dir);
	if (err)
		return db_fail(err, why, why_bytes, "%s: %s", db->dir, db_strerror(err));
	return DB_OK;
}

/* Everything that db_open may have done so far; also after a failure half way. */
static void db_free(struct db *db)
{
	/* LMDB tears down its shared locks when the last process closes, and another that opens at
	 * that very moment would find them gone: opening and closing take turns. */
	if (db->notify_fd >= 0)
		flock(db->notify_fd, LOCK_EX);
	if (db->env) {
		for (size_t i = 0; i < STRIPES; i++) {
			CHECK(atomic_load(&db->stripes[i].readers) == 0);
			for (size_t j = 0; j < CACHED_PER_STRIPE; j++) {
				struct handle *h = atomic_load(&db->stripes[i].cached[j]);
				if (h)
					db_handle_free(h);
			}
		}
		mdb_env_close(db->env);
	}
	if (db->notify)
		munmap(db->notify, sizeof(*db->notify));
	if (db->notify_fd >= 0) {
		flock(db->notify_fd, LOCK_UN); /* a forked child may share the descriptor */
		close(db->notify_fd);
	}
	if (db->lock_fd >= 0) {
		note_closed(db);
		close(db->lock_fd);
	}
	unregister_open(db);
	if (db->dir_fd >= 0)
		close(db->dir_fd);
	pthread_mutex_destroy(&db->write_mutex);
	free(db);
}

int db_open(const struct db_options *o, struct db **db_out, char *why, size_t why_bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), first;
	pthread_mutexattr_t attr;
	struct stat st;
	struct db *db;
	int rc, err;

	bool named = o->dir && o->dir[0] && strlen(o->dir) < sizeof(db->dir);
	db = named ? aligned_alloc(_Alignof(struct db), sizeof(*db)) : NULL;
	if (!db) {
		if (o->lock_fd > 0)
			close(o->lock_fd);
		return named ? db_fail(DB_IO, why, why_bytes, "no memory")
			     : db_fail(DB_INVALID, why, why_bytes, "no usable directory name");
	}
	memset(db, 0, sizeof(*db));
	db->lock_fd = o->lock_fd > 0 ? o->lock_fd : -1;
	db->notify_fd = db->dir_fd = -1;
	strcpy(db->dir, o->dir);
	db->no_sync = o->no_sync;
	db->map_max = (o->map_bytes_max ? o->map_bytes_max : UINT64_C(256) << 30) / page * page;
	first = (o->map_bytes ? o->map_bytes : UINT64_C(1) << 30) / page * page;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&db->write_mutex, &attr);
	pthread_mutexattr_destroy(&attr);

	if (o->create && mkdir(o->dir, 0700) && errno != EEXIST) {
		err = db_fail(
			db_errno(), why, why_bytes, "cannot make %s: %s", o->dir, strerror(errno));
		goto out;
	}
	db->dir_fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (db->dir_fd < 0) {
		err = db_fail(db_errno(), why, why_bytes, "%s: %s", o->dir, strerror(errno));
		goto out;
	}
	if (!o->create && fstatat(db->dir_fd, "data.mdb", &st, 0)) {
		err = db_fail(DB_NOT_FOUND, why, why_bytes, "%s holds no store", o->dir);
		goto out;
	}
	err = register_open(db, why, why_bytes);
	if (err)
		goto out;
	if (o->lock_fd > 0)
		err = lock_inherited(db, why, why_bytes);
	else if (o->server)
		err = lock_server(db, why, why_bytes);
	if (err)
		goto out;
	if (!o->server && o->lock_fd <= 0)
		obey_server(db);
	if (first > db->map_max)
		first = db->map_max;
	db->notify_fd = openat(db->dir_fd, "notify", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (db->notify_fd < 0 || flock(db->notify_fd, LOCK_EX)) {
		err = db_fail(db_errno(), why, why_bytes, "%s/notify: %s", o->dir, strerror(errno));
		goto out;
	}
	err = notify_map(db);
	if (err) {
		db_fail(err, why, why_bytes, "%s/notify: %s", o->dir, db_strerror(err));
		goto out;
	}
	rc = mdb_env_create(&db->env);
	if (rc == 0)
		rc = mdb_env_set_maxreaders(db->env, READERS_MAX);
	if (rc == 0)
		rc = mdb_env_set_mapsize(db->env, first);
	if (rc == 0) /* no thread-local reader slots: our cache hands transactions on */
		rc = mdb_env_open(db->env, o->dir, MDB_NOTLS | (o->no_sync ? MDB_NOSYNC : 0), 0600);
	if (rc) {
		err = db_from_mdb(rc);
		db_fail(err, why, why_bytes, "%s: %s", o->dir, mdb_strerror(rc));
		goto out;
	}
	db_clear_stale_readers(db);
	err = tree_open(db);
	if (err) {
		db_fail(err, why, why_bytes, "%s: %s", o->dir, db_strerror(err));
		goto out;
	}
	err = check_format(db, o->create, why, why_bytes);
	if (err == DB_OK && (err = notify_derive(db)) != DB_OK)
		db_fail(err, why, why_bytes, "%s: %s", o->dir, db_strerror(err));
	if (err == DB_OK)
		flock(db->notify_fd, LOCK_UN);
out:
	if (err)
		db_free(db);
	else
		*db_out = db;
	return err;
}

void db_close(struct db **db)
{
	if (!*db)
		return;
	db_free(*db);
	*db = NULL;
}

int db_lock_fd(const struct db *db)
{
	return db->lock_fd;
}

const char *db_dir(const struct db *db)
{
	return db->dir;
}
