/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/access/credentials.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/metrics.h"
#include "core/config/config.h"

#include <errno.h>
#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	TAG_BYTES = 16,
	TEXT_BYTES = 256, /* of a user or password, as in struct cred_job */
	/* Canonical UTF-8 of as much Latin-1: two bytes a character. */
	UTF8_BYTES = 2 * TEXT_BYTES,
	STRIPES = 256,
	PAGE_ENTRIES = 4096 / 32,
	WINDOW = 16,
	NEGATIVE_S = 60,
	THREADS_MAX = 256,
};

enum { ENTRY_FREE, ENTRY_GOOD, ENTRY_WRONG };

/* The tag is keyed with a key that only this process has, so a core dump or a swapped page tells
 * nothing about passwords, and nobody outside can aim at a bucket. */
struct entry {
	uint8_t tag[TAG_BYTES];
	uint32_t mailbox;    /* 0: no such user (then only ENTRY_WRONG) */
	uint32_t generation; /* of the account's password when it was checked */
	uint32_t due_s;      /* seconds of the clock */
	uint32_t kind;
};
_Static_assert(sizeof(struct entry) == 32, "auth.cache_entries promises 32 bytes an entry");

/* A part of the memory under a lock of its own. It grows by a quarter when an entry finds its
 * window full, so that a server with few users does not touch the memory of one with many. */
struct stripe {
	pthread_mutex_t mutex;
	struct entry *e; /* WINDOW more than cap, so that no window wraps */
	uint32_t cap;
};

/* One pair of user and password that waits for a hash or is being hashed; whoever comes with the
 * same pair meanwhile joins its jobs. */
struct task {
	uint8_t tag[TAG_BYTES];
	struct cred_job *jobs, **jobs_end;
	struct task *hash_next;  /* same hash chain, or the free list */
	struct task *queue_next; /* waiting for a thread */
};

struct credentials {
	struct db *db;
	char *default_domain;
	uint8_t key[crypto_generichash_KEYBYTES];
	char dummy[ACCOUNT_HASH_MAX]; /* what an unknown user is verified against */
	uint32_t ttl_s;
	uint64_t (*now_ms)(void);
	_Atomic uint64_t hashes;

	struct stripe stripes[STRIPES];
	uint32_t stripe_cap_max;

	pthread_mutex_t mutex; /* everything below */
	pthread_cond_t more;
	struct task *tasks, *free, *queue, **queue_end, **chains;
	size_t task_count, chain_count, waiting, waiting_max;
	bool stop;
	unsigned thread_count;
	pthread_t threads[THREADS_MAX];
};

/* --- texts --------------------------------------------------------------------------- */

/* Phones send UTF-8, Outlook ISO-8859-1, and nothing says which: bytes that are no UTF-8 are taken
 * for Latin-1. One form is hashed and remembered. `out` has UTF8_BYTES. */
static bool to_utf8(const char *in, char *out)
{
	size_t n = strnlen(in, TEXT_BYTES), at = 0;

	if (n >= TEXT_BYTES)
		return false;
	if (bytes_is_utf8(bytes_of(in, n))) {
		memcpy(out, in, n + 1);
		return true;
	}
	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)in[i];

		if (c < 0x80) {
			out[at++] = (char)c;
		} else {
			out[at++] = (char)(0xc0 | c >> 6);
			out[at++] = (char)(0x80 | (c & 0x3f));
		}
	}
	out[at] = 0;
	return true;
}

static bool canonical(const char *default_domain, const char *user, char *out)
{
	char text[UTF8_BYTES], *name, *slash, *end;
	const char *domain = default_domain;
	int n;

	if (!to_utf8(user, text))
		return false;
	name = text + strspn(text, " \t");
	end = name + strlen(name);
	while (end > name && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = 0;
	slash = strchr(name, '\\');
	if (slash) {
		*slash = 0;
		if (strchr(name, '.'))
			domain = name;
		name = slash + 1;
	}
	if (strchr(name, '@'))
		n = snprintf(out, ACCOUNT_ADDRESS_MAX + 1, "%s", name);
	else if (domain[0])
		n = snprintf(out, ACCOUNT_ADDRESS_MAX + 1, "%s@%s", name, domain);
	else
		return false;
	if (n < 0 || n > ACCOUNT_ADDRESS_MAX)
		return false;
	for (char *p = out; *p; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p | 0x20) : *p;
	return account_address_ok(bytes_str(out));
}

bool cred_canonical(const struct config *c, const char *user, char out[ACCOUNT_ADDRESS_MAX + 1])
{
	char address[ACCOUNT_ADDRESS_MAX + 1];

	if (!canonical(c->auth_default_domain, user, address))
		return false;
	strcpy(out, address);
	return true;
}

static bool hash_utf8(const char *hash_cost, const char *password, char out[ACCOUNT_HASH_MAX])
{
	unsigned long long ops = crypto_pwhash_OPSLIMIT_INTERACTIVE;
	size_t memory = crypto_pwhash_MEMLIMIT_INTERACTIVE;
	char text[crypto_pwhash_STRBYTES];

	_Static_assert(crypto_pwhash_STRBYTES <= ACCOUNT_HASH_MAX, "hashes fit the record");
	if (strcmp(hash_cost, "minimal") == 0) {
		ops = crypto_pwhash_OPSLIMIT_MIN;
		memory = crypto_pwhash_MEMLIMIT_MIN;
	} else if (strcmp(hash_cost, "moderate") == 0) {
		ops = crypto_pwhash_OPSLIMIT_MODERATE;
		memory = crypto_pwhash_MEMLIMIT_MODERATE;
	}
	if (crypto_pwhash_str(text, password, strlen(password), ops, memory) != 0)
		return false;
	strcpy(out, text);
	return true;
}

bool cred_hash(const char *hash_cost, const char *password, char out[ACCOUNT_HASH_MAX])
{
	char text[UTF8_BYTES];
	bool ok;

	if (sodium_init() < 0 || !to_utf8(password, text))
		return false;
	ok = hash_utf8(hash_cost, text, out);
	sodium_memzero(text, sizeof(text));
	return ok;
}

void cred_log_failure(const char *address, const char *user, const char *method,
	const char *device_id, const char *reason)
{
	struct log_line l;

	log_begin(&l, LOG_INFO, "auth: failed");
	log_str(&l, "rip", address ? address : "?");
	log_str(&l, "user", user ? user : "");
	log_str(&l, "method", method);
	log_str(&l, "dev", device_id);
	log_str(&l, "reason", reason);
	log_end(&l);
}

/* What a login is before any check: whose, with what, under which tag. */
struct login {
	char address[ACCOUNT_ADDRESS_MAX + 1]; /* empty: cannot be anybody's */
	char password[UTF8_BYTES];
	uint8_t tag[TAG_BYTES];
};

static void login_make(
	struct credentials *c, struct login *l, const char *user, const char *password)
{
	crypto_generichash_state state;
	uint8_t whole[crypto_generichash_BYTES];

	if (!canonical(c->default_domain, user, l->address))
		l->address[0] = 0;
	/* Too long to be one. Like the empty one it opens nothing, but takes the time. */
	if (!to_utf8(password, l->password))
		l->password[0] = 0;
	crypto_generichash_init(&state, c->key, sizeof(c->key), sizeof(whole));
	/* With the NUL between them no two pairs run together. What is nobody's address counts as
	 * it came, or all such users would share one tag. */
	if (l->address[0])
		crypto_generichash_update(
			&state, (const uint8_t *)l->address, strlen(l->address) + 1);
	else
		crypto_generichash_update(&state, (const uint8_t *)user, strlen(user) + 1);
	crypto_generichash_update(&state, (const uint8_t *)l->password, strlen(l->password));
	crypto_generichash_final(&state, whole, sizeof(whole));
	memcpy(l->tag, whole, TAG_BYTES);
	sodium_memzero(&state, sizeof(state));
}

static void login_wipe(struct login *l)
{
	sodium_memzero(l->password, sizeof(l->password));
}

/* --- the memory ---------------------------------------------------------------------- */

static uint32_t now_s(const struct credentials *c)
{
	return (uint32_t)(c->now_ms() / 1000);
}

static struct stripe *stripe_of(struct credentials *c, const uint8_t *tag)
{
	return &c->stripes[tag[TAG_BYTES - 1] % STRIPES];
}

/* Where an entry's window begins. */
static struct entry *window(const struct stripe *st, const uint8_t *tag)
{
	return &st->e[(uint64_t)load_be32(tag) * st->cap >> 32];
}

static bool memory_find(struct credentials *c, const uint8_t *tag, struct entry *out)
{
	struct stripe *st = stripe_of(c, tag);
	uint32_t now = now_s(c);
	bool found = false;
	struct entry *e;

	pthread_mutex_lock(&st->mutex);
	e = st->cap ? window(st, tag) : NULL;
	for (int i = 0; e && i < WINDOW && !found; i++, e++) {
		if (e->kind != ENTRY_FREE && (int32_t)(e->due_s - now) > 0 &&
			sodium_memcmp(e->tag, tag, TAG_BYTES) == 0) {
			*out = *e;
			found = true;
		}
	}
	pthread_mutex_unlock(&st->mutex);
	return found;
}

/* Lower goes first when a window is full: what is over, then wrong passwords (an attacker makes as
 * many as he likes; they must not push out what keeps phones from hashing), then the oldest. */
static uint64_t entry_worth(const struct entry *e, uint32_t now)
{
	int32_t left = (int32_t)(e->due_s - now);

	if (e->kind == ENTRY_FREE || left <= 0)
		return 0;
	return (uint64_t)(e->kind == ENTRY_GOOD) << 32 | (uint32_t)left;
}

/* The place for this tag: its own, else the one of least worth. */
static struct entry *place(const struct stripe *st, const uint8_t *tag, uint32_t now)
{
	struct entry *e = window(st, tag), *to = e;

	for (int i = 0; i < WINDOW; i++, e++) {
		if (e->kind != ENTRY_FREE && memcmp(e->tag, tag, TAG_BYTES) == 0)
			return e;
		if (entry_worth(e, now) < entry_worth(to, now))
			to = e;
	}
	return to;
}

static void stripe_free(struct stripe *st)
{
	if (st->e) {
		sodium_memzero(st->e, (st->cap + WINDOW) * sizeof(*st->e));
		munmap(st->e, (st->cap + WINDOW) * sizeof(*st->e));
	}
	st->e = NULL;
	st->cap = 0;
}

/* False: at its bound, or without memory; then the least worth goes instead. */
static bool stripe_grow(struct stripe *st, uint32_t cap_max, uint32_t now)
{
	struct stripe bigger = {.cap = st->cap + st->cap / 4 + 1};

	/* Whole pages of its own: what is outgrown goes back, instead of to an allocator that finds
	 * no use for it. */
	bigger.cap =
		(bigger.cap + WINDOW + PAGE_ENTRIES - 1) / PAGE_ENTRIES * PAGE_ENTRIES - WINDOW;
	if (bigger.cap > cap_max)
		bigger.cap = cap_max;
	if (bigger.cap <= st->cap)
		return false;
	bigger.e = mmap(NULL, (bigger.cap + WINDOW) * sizeof(*bigger.e), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (bigger.e == MAP_FAILED)
		return false;
	madvise(bigger.e, (bigger.cap + WINDOW) * sizeof(*bigger.e), MADV_DONTDUMP);
	for (uint32_t i = 0; st->cap && i < st->cap + WINDOW; i++)
		if (entry_worth(&st->e[i], now) > 0)
			*place(&bigger, st->e[i].tag, now) = st->e[i];
	stripe_free(st);
	st->e = bigger.e;
	st->cap = bigger.cap;
	return true;
}

static void memory_put_until(struct credentials *c, const uint8_t *tag, uint32_t kind,
	uint32_t mailbox, uint32_t generation, uint32_t due_s)
{
	struct stripe *st = stripe_of(c, tag);
	uint32_t now = now_s(c);
	struct entry *to = NULL;

	pthread_mutex_lock(&st->mutex);
	if (st->cap)
		to = place(st, tag, now);
	if (!to || (entry_worth(to, now) > 0 && memcmp(to->tag, tag, TAG_BYTES) != 0)) {
		/* A wrong password is not worth growing for, nor worth a right one's place. */
		if ((!to || kind == ENTRY_GOOD) && stripe_grow(st, c->stripe_cap_max, now))
			to = place(st, tag, now);
		else if (to && kind == ENTRY_WRONG && to->kind == ENTRY_GOOD)
			to = NULL;
	}
	if (to) {
		memcpy(to->tag, tag, TAG_BYTES);
		to->mailbox = mailbox;
		to->generation = generation;
		to->due_s = due_s;
		to->kind = kind;
	}
	pthread_mutex_unlock(&st->mutex);
}

static void memory_put(struct credentials *c, const uint8_t *tag, uint32_t kind, uint32_t mailbox,
	uint32_t generation)
{
	uint32_t ttl = kind == ENTRY_GOOD ? c->ttl_s : NEGATIVE_S;

	if (c->ttl_s == 0)
		return;
	/* Phones that logged in together after an outage must not be hashed together again. */
	if (kind == ENTRY_GOOD && ttl >= 8)
		ttl -= randombytes_uniform(ttl / 8 + 1);
	memory_put_until(c, tag, kind, mailbox, generation, now_s(c) + ttl);
}

/* ---- to a successor ---------------------------------------------------------------------- */

static const char memory_magic[8] = {'R', 'o', 'o', 's', 't', 'C', 'r', '1'};

void credentials_export(struct credentials *c, struct buf *out)
{
	size_t most = 0, before = out->n;
	uint32_t now = now_s(c);

	/* In one piece, since growing leaves copies behind; what comes meanwhile stays out. */
	for (int i = 0; i < STRIPES; i++) {
		pthread_mutex_lock(&c->stripes[i].mutex);
		most += c->stripes[i].cap ? c->stripes[i].cap + WINDOW : 0;
		pthread_mutex_unlock(&c->stripes[i].mutex);
	}
	if (!buf_room(out, sizeof(memory_magic) + sizeof(c->key) + most * sizeof(struct entry)))
		return;
	buf_add(out, memory_magic, sizeof(memory_magic));
	buf_add(out, c->key, sizeof(c->key));
	for (int i = 0; i < STRIPES && most; i++) {
		struct stripe *st = &c->stripes[i];

		pthread_mutex_lock(&st->mutex);
		for (uint32_t k = 0; st->cap && k < st->cap + WINDOW && most; k++)
			if (st->e[k].kind == ENTRY_GOOD && entry_worth(&st->e[k], now) > 0) {
				buf_add(out, &st->e[k], sizeof(st->e[k]));
				most--;
			}
		pthread_mutex_unlock(&st->mutex);
	}
	if (out->failed)
		out->n = before;
}

bool credentials_import(struct credentials *c, struct bytes in)
{
	size_t head = sizeof(memory_magic) + sizeof(c->key);
	uint32_t now = now_s(c), most = now + c->ttl_s;
	struct entry e;

	if (in.n < head || memcmp(in.p, memory_magic, sizeof(memory_magic)) != 0 ||
		(in.n - head) % sizeof(e) != 0)
		return false;
	memcpy(c->key, in.p + sizeof(memory_magic), sizeof(c->key));
	for (size_t at = head; c->ttl_s && at < in.n; at += sizeof(e)) {
		memcpy(&e, in.p + at, sizeof(e));
		if (e.kind != ENTRY_GOOD || e.mailbox == 0 || (int32_t)(e.due_s - now) <= 0)
			continue;
		/* The new configuration may trust them for less long. */
		memory_put_until(c, e.tag, ENTRY_GOOD, e.mailbox, e.generation,
			(int32_t)(most - e.due_s) > 0 ? e.due_s : most);
	}
	sodium_memzero(&e, sizeof(e));
	return true;
}

/* What the memory says, held against the account of this moment. */
static enum cred_result memory_check(
	struct credentials *c, struct db_txn *txn, const struct login *l, uint32_t *mailbox_out)
{
	struct account_gate gate;
	struct account account;
	struct entry e;
	int err;

	if (!memory_find(c, l->tag, &e))
		return CRED_UNKNOWN;
	if (e.mailbox == 0) {
		/* Nobody had that address; somebody may have it by now. */
		if (!l->address[0])
			return CRED_BAD;
		err = account_find(txn, bytes_str(l->address), &account);
		return err == DB_NOT_FOUND ? CRED_BAD : err == 0 ? CRED_UNKNOWN : CRED_ERROR;
	}
	err = account_gate(txn, e.mailbox, &gate);
	if (err == DB_NOT_FOUND)
		return CRED_UNKNOWN;
	if (err != 0)
		return CRED_ERROR;
	if (gate.password_generation != e.generation)
		return CRED_UNKNOWN;
	if (e.kind == ENTRY_WRONG)
		return CRED_BAD;
	*mailbox_out = e.mailbox;
	return gate.disabled ? CRED_DISABLED : CRED_OK;
}

enum cred_result cred_check(struct credentials *c, struct db_txn *txn, const char *user,
	const char *password, uint32_t *mailbox_out)
{
	struct login l;
	enum cred_result result;

	login_make(c, &l, user, password);
	result = memory_check(c, txn, &l, mailbox_out);
	login_wipe(&l);
	if (result == CRED_OK || result == CRED_DISABLED)
		METRIC_INC(AUTH_CACHED);
	else if (result == CRED_BAD)
		METRIC_INC(AUTH_BAD_CACHED);
	return result;
}

/* --- the full check ------------------------------------------------------------------ */

/* Hashes, with no transaction open: that takes as long as a thousand requests. */
static enum cred_result verify(
	struct credentials *c, const struct login *l, struct cred_identity *out)
{
	struct account account = {0};
	struct db_txn txn;
	const char *hash = c->dummy;
	bool known = false;
	int err = DB_NOT_FOUND, wrong;

	if (l->address[0]) {
		if (db_read(c->db, &txn) != 0)
			return CRED_ERROR;
		err = account_find(&txn, bytes_str(l->address), &account);
		db_read_end(&txn);
		if (err != 0 && err != DB_NOT_FOUND)
			return CRED_ERROR;
		known = err == 0;
	}
	if (known && account.password_hash[0] && l->password[0])
		hash = account.password_hash;
	atomic_fetch_add_explicit(&c->hashes, 1, memory_order_relaxed);
	errno = 0;
	wrong = crypto_pwhash_str_verify(hash, l->password, strlen(l->password));
	/* libsodium answers -1 for a wrong password and for want of memory alike; only the former
	 * is EINVAL. Telling a phone 401 because we are short of memory makes it ask its owner. */
	if (wrong && errno != EINVAL) {
		log_msg(LOG_ERROR, "auth: cannot verify a password: %s",
			errno ? strerror(errno) : "its stored hash is damaged");
		return CRED_ERROR;
	}
	if (wrong || hash == c->dummy) {
		memory_put(c, l->tag, ENTRY_WRONG, account.mailbox, account.password_generation);
		METRIC_INC(AUTH_BAD);
		return CRED_BAD;
	}
	memory_put(c, l->tag, ENTRY_GOOD, account.mailbox, account.password_generation);
	METRIC_INC(AUTH_OK);
	out->mailbox = account.mailbox;
	strcpy(out->address, account.address);
	return account.disabled ? CRED_DISABLED : CRED_OK;
}

/* From memory when it has been learned since the caller last looked, else by hashing. */
static enum cred_result check_fully(
	struct credentials *c, const struct login *l, struct cred_identity *out)
{
	struct db_txn txn;
	struct account account;
	enum cred_result result;
	uint32_t mailbox = 0;
	int err = 0;

	if (db_read(c->db, &txn) != 0)
		return CRED_ERROR;
	result = memory_check(c, &txn, l, &mailbox);
	if (result == CRED_OK || result == CRED_DISABLED)
		err = account_by_mailbox(&txn, mailbox, &account);
	db_read_end(&txn);
	if (err != 0)
		return CRED_ERROR;
	if (result == CRED_UNKNOWN)
		return verify(c, l, out);
	if (result == CRED_OK || result == CRED_DISABLED) {
		METRIC_INC(AUTH_CACHED);
		out->mailbox = mailbox;
		strcpy(out->address, account.address);
	} else if (result == CRED_BAD) {
		METRIC_INC(AUTH_BAD_CACHED);
	}
	return result;
}

enum cred_result cred_verify_now(
	struct credentials *c, const char *user, const char *password, struct cred_identity *out)
{
	struct cred_identity identity = {0};
	struct login l;
	enum cred_result result;

	login_make(c, &l, user, password);
	result = check_fully(c, &l, &identity);
	login_wipe(&l);
	if (result == CRED_OK || result == CRED_DISABLED)
		*out = identity;
	return result;
}

/* --- the pool ------------------------------------------------------------------------ */

static struct task **chain_of(struct credentials *c, const uint8_t *tag)
{
	return &c->chains[load_be64(tag + 8) & (c->chain_count - 1)];
}

static struct task *task_find(struct credentials *c, const uint8_t *tag)
{
	for (struct task *t = *chain_of(c, tag); t; t = t->hash_next)
		if (sodium_memcmp(t->tag, tag, TAG_BYTES) == 0)
			return t;
	return NULL;
}

static struct task *task_new(struct credentials *c, const uint8_t *tag)
{
	struct task *t, **chain = chain_of(c, tag);

	if (c->waiting == c->waiting_max || !c->free)
		return NULL;
	t = c->free;
	c->free = t->hash_next;
	memcpy(t->tag, tag, TAG_BYTES);
	t->jobs = NULL;
	t->jobs_end = &t->jobs;
	t->hash_next = *chain;
	*chain = t;
	t->queue_next = NULL;
	*c->queue_end = t;
	c->queue_end = &t->queue_next;
	c->waiting++;
	return t;
}

static void task_free(struct credentials *c, struct task *t)
{
	struct task **p = chain_of(c, t->tag);

	while (*p != t)
		p = &(*p)->hash_next;
	*p = t->hash_next;
	t->hash_next = c->free;
	c->free = t;
}

bool cred_submit(struct credentials *c, struct cred_job *j)
{
	struct login l;
	struct task *t;

	login_make(c, &l, j->user, j->password);
	login_wipe(&l);
	j->next = NULL;
	j->result = CRED_BUSY;
	j->identity = (struct cred_identity){0};
	pthread_mutex_lock(&c->mutex);
	t = task_find(c, l.tag);
	if (!t && !c->stop)
		t = task_new(c, l.tag);
	if (t) {
		*t->jobs_end = j;
		t->jobs_end = &j->next;
		pthread_cond_signal(&c->more);
	}
	pthread_mutex_unlock(&c->mutex);
	if (!t) {
		sodium_memzero(j->password, sizeof(j->password));
		METRIC_INC(AUTH_OVERLOAD);
	}
	return t != NULL;
}

static void jobs_done(
	struct cred_job *j, enum cred_result result, const struct cred_identity *identity)
{
	struct cred_job *next;

	for (; j; j = next) {
		next = j->next; /* done may free the job */
		sodium_memzero(j->password, sizeof(j->password));
		j->result = result;
		if (result == CRED_OK || result == CRED_DISABLED)
			j->identity = *identity;
		j->done(j);
	}
}

static void *pool_thread(void *arg)
{
	struct credentials *c = arg;
	struct cred_identity identity;
	enum cred_result result;
	struct cred_job *jobs;
	struct login l;
	struct task *t;
	bool stop;

	pthread_setname_np(pthread_self(), "roost-hash");
	pthread_mutex_lock(&c->mutex);
	for (;;) {
		while (!c->queue && !c->stop)
			pthread_cond_wait(&c->more, &c->mutex);
		t = c->queue;
		if (!t)
			break;
		c->queue = t->queue_next;
		if (!c->queue)
			c->queue_end = &c->queue;
		c->waiting--;
		/* The first job stays until the task is taken out of its chain, so it can be read
		 * without the mutex. */
		jobs = t->jobs;
		stop = c->stop;
		pthread_mutex_unlock(&c->mutex);

		login_make(c, &l, jobs->user, jobs->password);
		identity = (struct cred_identity){0};
		result = stop ? CRED_BUSY : check_fully(c, &l, &identity);
		login_wipe(&l);

		pthread_mutex_lock(&c->mutex);
		jobs = t->jobs;
		task_free(c, t);
		pthread_mutex_unlock(&c->mutex);
		jobs_done(jobs, result, &identity);
		pthread_mutex_lock(&c->mutex);
	}
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

static size_t power_of_two(size_t at_least)
{
	size_t n = 1;

	while (n < at_least)
		n *= 2;
	return n;
}

struct credentials *credentials_new(
	const struct config *config, struct db *db, char *why, size_t why_bytes)
{
	struct credentials *c = calloc(1, sizeof(*c));
	unsigned threads = (unsigned)config->auth_hash_threads;
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	uint8_t nobody[32];
	char nobody_text[2 * sizeof(nobody) + 1];

	if (!c || sodium_init() < 0) {
		free(c);
		snprintf(why, why_bytes, "auth: libsodium cannot start");
		return NULL;
	}
	if (threads == 0)
		threads = cores < 1 ? 1 : cores > THREADS_MAX ? THREADS_MAX : (unsigned)cores;
	c->db = db;
	c->default_domain = strdup(config->auth_default_domain);
	CHECK(c->default_domain);
	c->ttl_s = (uint32_t)config->auth_cache_ttl_s;
	c->now_ms = clock_mono_ms;
	randombytes_buf(c->key, sizeof(c->key));
	for (int i = 0; i < STRIPES; i++)
		pthread_mutex_init(&c->stripes[i].mutex, NULL);
	pthread_mutex_init(&c->mutex, NULL);
	pthread_cond_init(&c->more, NULL);
	c->queue_end = &c->queue;

	c->stripe_cap_max = (uint32_t)((config->auth_cache_entries + STRIPES - 1) / STRIPES);

	c->waiting_max = (size_t)config->auth_hash_queue_max;
	c->task_count = c->waiting_max + threads;
	c->chain_count = power_of_two(c->task_count);
	c->tasks = calloc(c->task_count, sizeof(*c->tasks));
	c->chains = calloc(c->chain_count, sizeof(struct task *));
	if (!c->tasks || !c->chains) {
		snprintf(why, why_bytes, "auth.hash_queue_max: no memory");
		goto failed;
	}
	for (size_t i = 0; i < c->task_count; i++) {
		c->tasks[i].hash_next = c->free;
		c->free = &c->tasks[i];
	}

	randombytes_buf(nobody, sizeof(nobody));
	sodium_bin2hex(nobody_text, sizeof(nobody_text), nobody, sizeof(nobody));
	if (!hash_utf8(config->auth_hash_cost, nobody_text, c->dummy)) {
		snprintf(why, why_bytes, "auth.hash_cost %s: not enough memory to hash a password",
			config->auth_hash_cost);
		goto failed;
	}
	for (; c->thread_count < threads; c->thread_count++)
		if (pthread_create(&c->threads[c->thread_count], NULL, pool_thread, c) != 0) {
			snprintf(why, why_bytes, "auth.hash_threads: cannot start thread %u of %u",
				c->thread_count + 1, threads);
			goto failed;
		}
	return c;
failed:
	credentials_free(&c);
	return NULL;
}

/* Jobs that still wait are answered with CRED_BUSY. */
void credentials_free(struct credentials **cp)
{
	struct credentials *c = *cp;

	if (!c)
		return;
	*cp = NULL;
	pthread_mutex_lock(&c->mutex);
	c->stop = true;
	pthread_cond_broadcast(&c->more);
	pthread_mutex_unlock(&c->mutex);
	for (unsigned i = 0; i < c->thread_count; i++)
		pthread_join(c->threads[i], NULL);
	for (int i = 0; i < STRIPES; i++) {
		stripe_free(&c->stripes[i]);
		pthread_mutex_destroy(&c->stripes[i].mutex);
	}
	pthread_cond_destroy(&c->more);
	pthread_mutex_destroy(&c->mutex);
	free(c->tasks);
	free(c->chains);
	free(c->default_domain);
	sodium_memzero(c, sizeof(*c));
	free(c);
}

void cred_set_clock(struct credentials *c, uint64_t (*now_ms)(void))
{
	c->now_ms = now_ms;
}

uint64_t cred_hashes(struct credentials *c)
{
	return atomic_load_explicit(&c->hashes, memory_order_relaxed);
}
