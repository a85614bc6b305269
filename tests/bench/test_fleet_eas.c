/* SPDX-License-Identifier: GPL-3.0-or-later */
/* To whoever measures another server: a phone primes itself step by step with what it was told in the step
 * before, and stops where the server's answer is none. */
#include "bench/fleet/fleet.h"
#include "core/base/arena.h"
#include "core/base/check.h"
#include "core/eas/wbxml.h"

#include <sched.h>
#include <stdio.h>
#include <time.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/bench/loopback.h"

enum odd {
	ODD_NOTHING,
	ODD_POLICY_STATUS, /* Provision is refused */
	ODD_NO_POLICY,     /* none is set for this account (MS-ASPROV 2.2.2.54.2) */
	ODD_FOLDER_STATUS,
	ODD_NO_INBOX,
	ODD_SYNC_KEY, /* there is none */
	ODD_SYNC_STATUS,
	ODD_NO_WBXML,
	ODD_OTHER_FOLDER, /* in the Ping's answer */
};

struct server {
	int fd;
	pthread_t thread;
	struct sockaddr_storage at;
	enum odd odd;
	unsigned syncs;
	_Atomic unsigned pings;
	char seen[512]; /* what was asked, and with what key; read when the thread has ended */
	bool policy_key_sent;
};

static void put(struct wbxml_writer *w, uint16_t tag, uint16_t within, const char *text)
{
	if (within)
		wbxml_put_start(w, within);
	wbxml_put_text(w, tag, text);
	if (within)
		wbxml_put_end(w);
}

static void put_provision(struct wbxml_writer *w, const struct server *s, bool first)
{
	wbxml_put_start(w, PROVISION_Provision);
	put(w, PROVISION_Status, 0, s->odd == ODD_POLICY_STATUS ? "2" : "1");
	wbxml_put_start(w, PROVISION_Policies);
	wbxml_put_start(w, PROVISION_Policy);
	put(w, PROVISION_Status, 0, s->odd == ODD_NO_POLICY ? "2" : "1");
	put(w, PROVISION_PolicyKey, 0, first ? "7" : "8");
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static void put_folder(struct wbxml_writer *w, const char *id, const char *type)
{
	wbxml_put_start(w, FOLDERHIERARCHY_Add);
	put(w, FOLDERHIERARCHY_ServerId, 0, id);
	put(w, FOLDERHIERARCHY_Type, 0, type);
	wbxml_put_end(w);
}

static void put_folders(struct wbxml_writer *w, const struct server *s)
{
	wbxml_put_start(w, FOLDERHIERARCHY_FolderSync);
	if (s->odd == ODD_FOLDER_STATUS) {
		put(w, FOLDERHIERARCHY_Status, 0, "6");
	} else {
		put(w, FOLDERHIERARCHY_Status, 0, "1");
		put(w, FOLDERHIERARCHY_SyncKey, 0, "1");
		wbxml_put_start(w, FOLDERHIERARCHY_Changes);
		put_folder(w, "3", "4");
		put_folder(w, "5", s->odd == ODD_NO_INBOX ? "12" : "2");
		wbxml_put_end(w);
	}
	wbxml_put_end(w);
}

/* The second says that more is there, the third and later ones are empty: nothing is left. */
static void put_sync(struct wbxml_writer *w, const struct server *s)
{
	wbxml_put_start(w, AIRSYNC_Sync);
	wbxml_put_start(w, AIRSYNC_Collections);
	wbxml_put_start(w, AIRSYNC_Collection);
	if (s->odd != ODD_SYNC_KEY)
		put(w, AIRSYNC_SyncKey, 0, s->syncs == 1 ? "k1" : "k2");
	put(w, AIRSYNC_CollectionId, 0, "5");
	put(w, AIRSYNC_Status, 0, s->odd == ODD_SYNC_STATUS ? "3" : "1");
	if (s->syncs == 2)
		wbxml_put_empty(w, AIRSYNC_MoreAvailable);
	wbxml_put_end(w);
	wbxml_put_end(w);
	wbxml_put_end(w);
}

static void put_ping(struct wbxml_writer *w, const struct server *s)
{
	wbxml_put_start(w, PING_Ping);
	put(w, PING_Status, 0, "2");
	put(w, PING_Folder, PING_Folders, s->odd == ODD_OTHER_FOLDER ? "3" : "5");
	wbxml_put_end(w);
}

static void note(struct server *s, const char *command, struct bytes key)
{
	size_t n = strlen(s->seen);

	snprintf(s->seen + n, sizeof(s->seen) - n, "%s%s:%.*s", n ? " " : "", command, (int)key.n,
		(const char *)key.p);
}

/* False: the Ping hangs. */
static bool answer(struct server *s, const struct wbxml_node *root, struct wbxml_writer *w)
{
	const struct wbxml_node *c;

	switch (root->tag) {
	case PROVISION_Provision:
		c = wbxml_child(wbxml_child(root, PROVISION_Policies), PROVISION_Policy);
		note(s, "Provision", wbxml_text(c, PROVISION_PolicyKey));
		put_provision(w, s, !wbxml_text(c, PROVISION_PolicyKey).p);
		return true;
	case FOLDERHIERARCHY_FolderSync:
		note(s, "FolderSync", wbxml_text(root, FOLDERHIERARCHY_SyncKey));
		put_folders(w, s);
		return true;
	case AIRSYNC_Sync:
		c = wbxml_child(wbxml_child(root, AIRSYNC_Collections), AIRSYNC_Collection);
		note(s, "Sync", wbxml_text(c, AIRSYNC_SyncKey));
		if (++s->syncs < 3)
			put_sync(w, s);
		return true;
	default:
		c = wbxml_child(wbxml_child(root, PING_Folders), PING_Folder);
		note(s, "Ping", wbxml_text(c, PING_Id));
		put_ping(w, s);
		return ++s->pings == 1;
	}
}

static void *serve(void *arg)
{
	struct server *s = arg;
	char in[8192];
	int fd;

	while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
		size_t n = 0, whole;

		while ((whole = loopback_request(fd, in, sizeof(in), &n)) > 0) {
			const char *body = (char *)memmem(in, n, "\r\n\r\n", 4) + 4;
			struct wbxml_node *root = NULL;
			struct buf document = {0}, out = {0};
			struct wbxml_writer w;
			struct arena arena;
			const char *why;

			s->policy_key_sent |= memmem(in, n, "X-MS-PolicyKey: 8\r\n", 19) != NULL;
			arena_init(&arena, 1 << 20);
			wbxml_writer_init(&w, &document);
			if (wbxml_parse(bytes_of(body, (size_t)(in + whole - body)), &arena, NULL,
				    &root, &why) == 1 &&
				answer(s, root, &w)) {
				if (s->odd == ODD_NO_WBXML) {
					document.n = 0;
					buf_add_str(&document, "<html>");
				} else if (root->tag == AIRSYNC_Sync && s->syncs >= 3) {
					document.n = 0;
				}
				buf_printf(&out, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n",
					document.n);
				buf_add(&out, document.p, document.n);
				(void)!send(fd, out.p, out.n, MSG_NOSIGNAL);
			}
			n -= whole;
			memmove(in, in + whole, n);
			arena_free(&arena);
			buf_free(&document);
			buf_free(&out);
		}
		close(fd);
	}
	return NULL;
}

static void name(uint32_t i, char *out, size_t cap)
{
	snprintf(out, cap, "P%u", i);
}

static struct fleet *begin(struct server *s, enum odd odd)
{
	struct fleet_options o = {
		.client = {.to_count = 1,
			.phones_max = 1,
			.handshakes_max = 4,
			.open_timeout_s = 10,
			.reset_on_close = true},
		.host_header = "x",
		.user = name,
		.device = name,
		.password = name,
		.users = 1,
		.heartbeat_s = 60,
		.prime = true,
		.sync = true,
		.version = 141,
	};
	char why[CLIENT_WHY_BYTES];
	struct fleet *f;

	*s = (struct server){.odd = odd};
	s->fd = loopback_listen(&s->at);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
	o.client.to[0] = s->at;
	f = fleet_start(&o, why, sizeof(why));
	if (!f)
		fail_msg("%s", why);
	fleet_park(f, 1);
	return f;
}

static void end(struct server *s, struct fleet **f)
{
	fleet_stop(f);
	loopback_end(s->fd, s->thread);
}

/* Until the phone has come to an end of its way, or for ever but for make check's patience. */
static struct fleet_status wait_for(struct fleet *f, bool parked)
{
	struct timespec ts = {.tv_nsec = 5000000};
	struct fleet_status s;

	do {
		nanosleep(&ts, NULL);
		fleet_status(f, &s);
	} while (!s.failed && !(parked ? s.parked : s.answered));
	return s;
}

static void each_step_takes_what_the_one_before_gave(void **state)
{
	struct server s;
	struct fleet *f = begin(&s, ODD_NOTHING);
	struct fleet_status st = wait_for(f, false);

	(void)state;
	if (st.failed)
		fail_msg("%s", st.why);
	assert_int_equal(fleet_woken(f, 0), 1);
	assert_true(fleet_came_ns(f, 0) > 0);
	/* It syncs what it was told of, and hangs again. */
	fleet_ping(f, 0);
	st = wait_for(f, true);
	assert_int_equal(st.parked, 1);
	assert_true(fleet_came_ns(f, 0) == 0);
	while (s.pings < 2)
		sched_yield();
	end(&s, &f);
	assert_true(s.policy_key_sent);
	assert_string_equal(s.seen,
		"Provision: Provision:7 FolderSync:0 Sync:0 Sync:k1 Sync:k2 Ping:5 Sync:k2 Ping:5");
}

static void without_a_policy_there_is_no_second_phase(void **state)
{
	struct server s;
	struct fleet *f = begin(&s, ODD_NO_POLICY);
	struct fleet_status st = wait_for(f, false);

	(void)state;
	assert_int_equal(st.answered, 1);
	end(&s, &f);
	assert_string_equal(s.seen, "Provision: FolderSync:0 Sync:0 Sync:k1 Sync:k2 Ping:5");
}

static void an_odd_answer_ends_the_way_and_is_named(void **state)
{
	static const struct {
		enum odd odd;
		const char *why, *last;
	} cases[] = {
		{ODD_POLICY_STATUS, "Provision failed: status 2, of the policy 1", "Provision:"},
		{ODD_FOLDER_STATUS, "FolderSync failed: status 6", "FolderSync:0"},
		{ODD_NO_INBOX, "FolderSync names no inbox", "FolderSync:0"},
		{ODD_SYNC_KEY, "Sync failed: status 1, 1", "Sync:0"},
		{ODD_SYNC_STATUS, "Sync failed: status 1, 3", "Sync:0"},
		{ODD_NO_WBXML, "phone 0: ", "Provision:"},
		{ODD_OTHER_FOLDER, "other folders", "Ping:5"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct server s;
		struct fleet *f = begin(&s, cases[i].odd);
		struct fleet_status st = wait_for(f, false);
		const char *last;

		assert_int_equal(st.failed, 1);
		assert_int_equal(fleet_woken(f, 0), 0);
		/* The reason is written behind the count. */
		while (!st.why[0])
			fleet_status(f, &st);
		if (!strstr(st.why, cases[i].why))
			fail_msg("'%s' does not say '%s'", st.why, cases[i].why);
		end(&s, &f);
		last = strrchr(s.seen, ' ');
		assert_string_equal(last ? last + 1 : s.seen, cases[i].last);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_step_takes_what_the_one_before_gave),
		cmocka_unit_test(without_a_policy_there_is_no_second_phase),
		cmocka_unit_test(an_odd_answer_ends_the_way_and_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
