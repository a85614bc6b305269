/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Hanging Sync and the cached request. */
#include "tests/core/eas_fixture.h"

#define BOX(key) "Collections(Collection(SyncKey'" key "' CollectionId'1'))"

static void prime(struct fixture *f)
{
	assert_non_null(strstr(run(f, EAS_SYNC, "Sync(" BOX("0") ")"), "SyncKey'1'"));
}

static const char *resume(struct fixture *f, bool final)
{
	f->resumed = true;
	f->final = final;
	const char *s = run(f, EAS_SYNC, NULL);
	f->resumed = f->final = false;
	return s;
}

#define assert_parked(f, seconds)                                                                  \
	do {                                                                                       \
		assert_int_equal((f)->answer.disposition, EAS_PARK_SYNC);                          \
		assert_int_equal((f)->answer.wait_s, seconds);                                     \
		assert_int_equal((f)->answer.body.n, 0);                                           \
	} while (0)
#define assert_answered(f) assert_int_equal((f)->answer.disposition, EAS_ANSWER)

static void it_parks_when_there_is_nothing_to_say(void **state)
{
	struct fixture *f = *state;

	prime(f);
	run(f, EAS_SYNC, "Sync(" BOX("1") " Wait'5')");
	assert_parked(f, 300);
	assert_int_equal(f->answer.folder_count, 1);
	assert_int_equal(f->answer.folders[0], 1);
	assert_int_equal(f->answer.since_seq, head(f));
	run(f, EAS_SYNC, "Sync(" BOX("1") " HeartbeatInterval'600')");
	assert_parked(f, 600);
	/* Woken for nothing: parks again. Over: the empty answer. */
	assert_string_equal(resume(f, false), "");
	assert_parked(f, 600);
	assert_string_equal(resume(f, true), "");
	assert_answered(f);
	/* Woken by mail. */
	deliver(f, 1, 0, "one");
	assert_non_null(strstr(resume(f, false), "Add(ServerId'1:1'"));
	assert_answered(f);
	/* The answer came to nobody: the full request again gives it again. */
	assert_non_null(strstr(run(f, EAS_SYNC, "Sync(" BOX("1") " HeartbeatInterval'600')"),
		"Add(ServerId'1:1'"));
	run(f, EAS_SYNC, "Sync(" BOX("2") " HeartbeatInterval'600')");
	assert_parked(f, 600);
}

static void it_answers_at_once_when_there_is_something(void **state)
{
	struct fixture *f = *state;

	run(f, EAS_SYNC, "Sync(" BOX("0") " Wait'5')");
	assert_answered(f);
	deliver(f, 1, 0, "one");
	run(f, EAS_SYNC, "Sync(" BOX("1") " Wait'5')");
	assert_answered(f);
	/* A new key is due. */
	run(f, EAS_SYNC,
		"Sync(Collections(Collection(SyncKey'2' CollectionId'1' Commands(Change("
		"ServerId'1:1' ApplicationData(Email:Read'1'))))) Wait'5')");
	assert_answered(f);
	assert_non_null(strstr(shown(f), "SyncKey'3'"));
	run(f, EAS_SYNC, "Sync(" BOX("77") " Wait'5')");
	assert_answered(f);
	assert_non_null(strstr(shown(f), "Status'3'"));
}

static void waits_out_of_range_are_14_with_the_limit(void **state)
{
	struct fixture *f = *state;

	prime(f);
	assert_string_equal(
		run(f, EAS_SYNC, "Sync(" BOX("1") " Wait'60')"), "Sync(Status'14' Limit'59')");
	assert_string_equal(
		run(f, EAS_SYNC, "Sync(" BOX("1") " Wait'0')"), "Sync(Status'14' Limit'1')");
	assert_string_equal(run(f, EAS_SYNC, "Sync(" BOX("1") " HeartbeatInterval'59')"),
		"Sync(Status'14' Limit'60')");
	assert_string_equal(run(f, EAS_SYNC, "Sync(" BOX("1") " HeartbeatInterval'3541')"),
		"Sync(Status'14' Limit'3540')");
	/* The rest was processed; repeated with the old key it is not processed twice. */
	deliver(f, 1, 0, "one");
	run(f, EAS_SYNC, "Sync(" BOX("1") ")");
	assert_string_equal(
		run(f, EAS_SYNC,
			"Sync(Collections(Collection(SyncKey'2' CollectionId'1' Commands(Delete("
			"ServerId'1:1')))) Wait'60')"),
		"Sync(Status'14' Limit'59')");
	uint64_t seq = head(f);
	assert_string_equal(
		run(f, EAS_SYNC,
			"Sync(Collections(Collection(SyncKey'2' CollectionId'1' Commands(Delete("
			"ServerId'1:1')))) Wait'59')"),
		"Sync(Collections(Collection(SyncKey'4' CollectionId'1' Status'1')))");
	assert_int_equal(head(f), seq);
}

static void an_empty_request_repeats_the_last_one(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(run(f, EAS_SYNC, NULL), "Sync(Status'13')");
	prime(f);
	/* Only after an empty answer. */
	assert_string_equal(run(f, EAS_SYNC, NULL), "Sync(Status'13')");
	assert_string_equal(run(f, EAS_SYNC, "Sync(" BOX("1") ")"), "");
	assert_string_equal(run(f, EAS_SYNC, NULL), "");
	assert_answered(f);
	run(f, EAS_SYNC, "Sync(" BOX("1") " Wait'5')");
	assert_parked(f, 300);
	uint64_t before = commits(f);
	run(f, EAS_SYNC, NULL);
	assert_parked(f, 300);
	assert_int_equal(commits(f), before);
	deliver(f, 1, 0, "one");
	assert_non_null(strstr(run(f, EAS_SYNC, NULL), "SyncKey'2'"));
	/* That answer was not empty. */
	assert_string_equal(run(f, EAS_SYNC, NULL), "Sync(Status'13')");
	run(f, EAS_SYNC, "Sync(" BOX("2") " Wait'5')");
	assert_parked(f, 300);
	run(f, EAS_SYNC, NULL);
	assert_parked(f, 300);
	/* A request with commands is none to repeat; an error forgets. */
	run(f, EAS_SYNC,
		"Sync(Collections(Collection(SyncKey'2' CollectionId'1' "
		"Commands(Fetch(ServerId'1:1')))))");
	assert_string_equal(run(f, EAS_SYNC, NULL), "Sync(Status'13')");
	run(f, EAS_SYNC, "Sync(" BOX("2") ")");
	run(f, EAS_SYNC, "Sync(" BOX("9") ")");
	assert_string_equal(run(f, EAS_SYNC, NULL), "Sync(Status'13')");
	/* FolderSync 0 starts over. */
	run(f, EAS_SYNC, "Sync(" BOX("2") ")");
	assert_string_equal(run(f, EAS_SYNC, NULL), "");
	run(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync(SyncKey'0')");
	assert_string_equal(run(f, EAS_SYNC, NULL), "Sync(Status'13')");
}

static void partial_requests_are_completed_from_the_cache(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(run(f, EAS_SYNC, "Sync(" BOX("0") " Partial)"), "Sync(Status'13')");
	prime(f);
	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'4')))");
	run(f, EAS_SYNC,
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' WindowSize'1') "
		"Collection(SyncKey'1' CollectionId'4')) Wait'5')");
	assert_parked(f, 300);
	assert_int_equal(f->answer.folder_count, 2);
	assert_string_equal(run(f, EAS_SYNC, "Sync(Partial)"), "Sync(Status'13')");
	run(f, EAS_SYNC, "Sync(Partial Wait'7')");
	assert_parked(f, 420);
	assert_int_equal(f->answer.folder_count, 2);
	/* One listed anew, the other as cached, with its window. */
	deliver(f, 1, 0, "one");
	deliver(f, 1, 0, "two");
	run(f, EAS_SYNC,
		"Sync(Collections(Collection(SyncKey'1' CollectionId'4' WindowSize'5')) Partial)");
	assert_answered(f);
	assert_non_null(strstr(shown(f), "SyncKey'2' CollectionId'1' Status'1' MoreAvailable"));
	assert_null(strstr(shown(f), "CollectionId'4'"));
	/* The cache goes with the last key issued. */
	run(f, EAS_SYNC, "Sync(Partial WindowSize'100')");
	assert_non_null(strstr(shown(f), "SyncKey'3' CollectionId'1' Status'1' Commands"));
	run(f, EAS_SYNC, "Sync(Partial Wait'7')");
	assert_parked(f, 420);
	/* Too many with those of the cache. */
	f->config->sync_collections_max = 2;
	assert_string_equal(
		run(f, EAS_SYNC,
			"Sync(Collections(Collection(SyncKey'0' CollectionId'5')) Partial)"),
		"Sync(Status'15' Limit'2')");
}

static void a_resumed_sync_that_was_overtaken_ends_empty(void **state)
{
	struct fixture *f = *state;

	prime(f);
	run(f, EAS_SYNC, "Sync(" BOX("1") " Wait'5')");
	assert_parked(f, 300);
	/* Another connection of the phone goes on. */
	deliver(f, 1, 0, "one");
	run(f, EAS_SYNC, "Sync(" BOX("1") ")");
	assert_non_null(strstr(shown(f), "SyncKey'2'"));
	deliver(f, 1, 0, "two");
	uint64_t seq = head(f);
	assert_string_equal(resume(f, false), "");
	assert_answered(f);
	assert_int_equal(head(f), seq);
}

static void damaged_caches_are_no_caches(void **state)
{
	struct fixture *f = *state;
	struct sync_cached_collection v[2] = {
		{.folder = 1, .key = 7, .window = 100, .get_changes = true},
		{.folder = 4, .key = 1, .window = 512, .deletes_as_moves = true}};
	struct sync_cached c = {.repeatable = true,
		.wait_s = 300,
		.window = 100,
		.collection_count = 2,
		.collections = v};
	struct sync_cached back;
	struct buf b = {0};

	sync_cached_encode(&c, &b);
	assert_true(sync_cached_decode(buf_bytes(&b), &f->arena, &back));
	assert_int_equal(back.collection_count, 2);
	assert_int_equal(back.wait_s, 300);
	assert_true(back.repeatable && back.collections[0].get_changes);
	assert_int_equal(back.collections[1].window, 512);
	for (size_t n = 0; n < b.n; n++)
		assert_false(sync_cached_decode(bytes_of(b.p, n), &f->arena, &back));
	buf_add_byte(&b, 0);
	assert_false(sync_cached_decode(buf_bytes(&b), &f->arena, &back));
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		eas_test(it_parks_when_there_is_nothing_to_say),
		eas_test(it_answers_at_once_when_there_is_something),
		eas_test(waits_out_of_range_are_14_with_the_limit),
		eas_test(an_empty_request_repeats_the_last_one),
		eas_test(partial_requests_are_completed_from_the_cache),
		eas_test(a_resumed_sync_that_was_overtaken_ends_empty),
		eas_test(damaged_caches_are_no_caches),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
