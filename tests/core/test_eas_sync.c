/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Sync of a mail folder: keys, replays, windows, filters, the phone's changes.
 */
#include "tests/core/eas_fixture.h"

static const char *sync_inbox(struct fixture *f, uint32_t key, const char *rest)
{
	return run_printf(f, EAS_SYNC,
		"Sync(Collections(Collection(SyncKey'%u' CollectionId'1' %s)))", key, rest);
}

static uint32_t prime(struct fixture *f)
{
	sync_inbox(f, 0, "");
	return answer_number(f, AIRSYNC_SyncKey);
}

/* How often an element stands in the last answer. */
static int count_in(const struct wbxml_node *n, uint16_t tag)
{
	int sum = n && n->tag == tag;

	for (const struct wbxml_node *c = n ? n->first : NULL; c; c = c->next)
		sum += count_in(c, tag);
	return sum;
}

static int count(struct fixture *f, uint16_t tag)
{
	return count_in(f->root, tag);
}

/* Syncs until nothing more comes; the key afterwards. */
static uint32_t catch_up(struct fixture *f, uint32_t key)
{
	do {
		sync_inbox(f, key, "");
		if (f->root)
			key = answer_number(f, AIRSYNC_SyncKey);
	} while (f->root && count(f, AIRSYNC_MoreAvailable));
	return key;
}

static void key_zero_gives_a_key_and_no_items(void **state)
{
	struct fixture *f = *state;

	deliver(f, 1, 0, "one");
	assert_string_equal(sync_inbox(f, 0, ""),
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' Status'1')))");
	/* Again: a new start, and the old key is worth nothing. */
	assert_string_equal(sync_inbox(f, 0, "GetChanges'0'"),
		"Sync(Collections(Collection(SyncKey'2' CollectionId'1' Status'1')))");
	assert_string_equal(sync_inbox(f, 1, ""),
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' Status'3')))");
	assert_string_equal(sync_inbox(f, 0, "GetChanges"),
		"Sync(Collections(Collection(SyncKey'0' CollectionId'1' Status'4')))");
	assert_string_equal(sync_inbox(f, 0, "GetChanges'1'"),
		"Sync(Collections(Collection(SyncKey'0' CollectionId'1' Status'4')))");
	f->version = 121;
	assert_string_equal(sync_inbox(f, 0, ""),
		"Sync(Collections(Collection(Class'Email' SyncKey'3' CollectionId'1' "
		"Status'1')))");
}

static void mail_comes_as_the_version_wants_it(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);
	uint64_t id = deliver(f, 1, 0, "one");
	char expected[2000];

	assert_int_equal(id, 1);
	sync_inbox(f, key, "");
	const char *conversation = strstr(shown(f), "Email2:ConversationId[16]");
	assert_non_null(conversation);
	assert_non_null(strstr(shown(f), "Email:Categories"));
	assert_null(strstr(shown(f), "IsDraft"));
	f->version = 160;
	sync_inbox(f, key, "");
	assert_non_null(strstr(shown(f), "Email2:IsDraft'0'"));
	f->version = 121;
	snprintf(expected, sizeof(expected),
		"Sync(Collections(Collection(Class'Email' SyncKey'2' CollectionId'1' Status'1' "
		"Commands(Add(ServerId'1:1' ApplicationData("
		"Email:To'%s' Email:From'%s' Email:Subject'one' "
		"Email:DateReceived'2023-11-14T22:13:20.000Z' Email:DisplayTo'%s' "
		"Email:ThreadTopic'one' Email:Importance'1' Email:Read'0' Email:Flag "
		"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Truncated'1') "
		"AirSyncBase:NativeBodyType'1' Email:MessageClass'IPM.Note' "
		"Email:InternetCPID'65001' Email:ContentClass'urn:content-classes:message'))))))",
		answer_text(f, EMAIL_To), answer_text(f, EMAIL_From),
		answer_text(f, EMAIL_DisplayTo));
	assert_string_equal(sync_inbox(f, key, ""), expected);
}

static void nothing_new_is_empty_and_writes_nothing(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);

	assert_string_equal(sync_inbox(f, key, ""), "");
	assert_int_equal(f->answer.http_status, 200);
	uint64_t before = commits(f);
	assert_string_equal(sync_inbox(f, key, ""), "");
	assert_string_equal(sync_inbox(f, key, ""), "");
	assert_int_equal(commits(f), before);
	/* The key still is the first one. */
	deliver(f, 1, 0, "one");
	sync_inbox(f, key, "");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
	assert_int_equal(answer_number(f, AIRSYNC_SyncKey), key + 1);
}

static void lost_answers_are_given_again(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);
	uint64_t one = deliver(f, 1, 0, "one");
	const char *first = sync_inbox(f, key, "");

	uint64_t before = commits(f);
	assert_string_equal(sync_inbox(f, key, ""), first);
	assert_int_equal(commits(f), before);
	/* With news in between: under a key of its own. */
	deliver(f, 1, 0, "two");
	sync_inbox(f, key, "");
	assert_int_equal(count(f, AIRSYNC_Add), 2);
	assert_int_equal(answer_number(f, AIRSYNC_SyncKey), 3);
	/* What was told and is gone again. */
	erase(f, 1, one);
	sync_inbox(f, key, "");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
	assert_int_equal(count(f, AIRSYNC_Delete), 0);
	uint32_t now = answer_number(f, AIRSYNC_SyncKey);
	assert_string_equal(sync_inbox(f, now, ""), "");
	/* Two back is too far. */
	deliver(f, 1, 0, "three");
	now = catch_up(f, now);
	assert_string_equal(sync_inbox(f, key, ""),
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' Status'3')))");
	assert_string_equal(sync_inbox(f, 4000000000u, ""),
		"Sync(Collections(Collection(SyncKey'4000000000' CollectionId'1' Status'3')))");
}

static void windows_split_and_more_is_announced(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);

	for (int i = 0; i < 5; i++)
		deliver(f, 1, i, "m");
	sync_inbox(f, key, "WindowSize'2'");
	assert_int_equal(count(f, AIRSYNC_Add), 2);
	assert_int_equal(count(f, AIRSYNC_MoreAvailable), 1);
	/* Newest first. */
	assert_non_null(strstr(shown(f), "ServerId'1:1'"));
	assert_non_null(strstr(shown(f), "ServerId'1:2'"));
	sync_inbox(f, 2, "WindowSize'2'");
	assert_int_equal(count(f, AIRSYNC_Add), 2);
	assert_int_equal(count(f, AIRSYNC_MoreAvailable), 1);
	sync_inbox(f, 3, "WindowSize'2'");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
	assert_int_equal(count(f, AIRSYNC_MoreAvailable), 0);
	assert_string_equal(sync_inbox(f, 4, "WindowSize'2'"), "");
	/* Over all collections; the second one waits for its turn. */
	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'4')))");
	for (int i = 0; i < 2; i++) {
		deliver(f, 1, 0, "m");
		deliver(f, 4, 0, "m");
	}
	run(f, EAS_SYNC,
		"Sync(Collections(Collection(SyncKey'4' CollectionId'1') "
		"Collection(SyncKey'1' CollectionId'4')) WindowSize'2')");
	assert_int_equal(count(f, AIRSYNC_Add), 2);
	assert_int_equal(count(f, AIRSYNC_MoreAvailable), 1);
	assert_non_null(
		strstr(shown(f), "Collection(SyncKey'1' CollectionId'4' Status'1' MoreAvailable)"));
}

static void changes_deletes_and_moves_are_told(void **state)
{
	struct fixture *f = *state;
	uint64_t one = deliver(f, 1, 0, "one"), two = deliver(f, 1, 0, "two");
	uint32_t key = catch_up(f, prime(f));

	set_read(f, 1, one, true);
	move(f, 1, 4, two);
	assert_string_equal(sync_inbox(f, key, ""),
		"Sync(Collections(Collection(SyncKey'3' CollectionId'1' Status'1' Commands("
		"Change(ServerId'1:1' ApplicationData(Email:Read'1' Email:Categories Email:Flag)) "
		"Delete(ServerId'1:2')))))");
	move(f, 4, 1, two);
	sync_inbox(f, 3, "");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
	/* Out and in again between two Syncs: one Add, which a phone takes as a change. */
	move(f, 1, 4, two);
	move(f, 4, 1, two);
	sync_inbox(f, 4, "");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
	assert_int_equal(count(f, AIRSYNC_Delete), 0);
	/* Come and gone between two Syncs: nothing. */
	erase(f, 1, deliver(f, 1, 0, "three"));
	assert_string_equal(sync_inbox(f, 5, ""), "");
	assert_int_equal(has_news(f, 1), 0);
}

static void get_changes_zero_says_nothing(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);

	deliver(f, 1, 0, "one");
	assert_string_equal(sync_inbox(f, key, "GetChanges'0'"), "");
	sync_inbox(f, key, "");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
}

static void filter_lets_recent_mail_through_and_soft_deletes(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);

	deliver(f, 1, 0, "today");
	deliver(f, 1, 2, "recent");
	deliver(f, 1, 20, "old");
	sync_inbox(f, key, "Options(FilterType'2')");
	assert_int_equal(count(f, AIRSYNC_Add), 2);
	/* Sticky. Wider: the rest is filled in. */
	assert_string_equal(sync_inbox(f, 2, ""), "");
	sync_inbox(f, 2, "Options(FilterType'5')");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
	/* Narrower. */
	sync_inbox(f, 3, "Options(FilterType'1')");
	assert_string_equal(shown(f),
		"Sync(Collections(Collection(SyncKey'4' CollectionId'1' Status'1' Commands("
		"SoftDelete(ServerId'1:3') SoftDelete(ServerId'1:2')))))");
	/* An old message is no news, nor its change; a day later the recent ones age. */
	uint64_t old = deliver(f, 1, 20, "older");
	set_read(f, 1, old, true);
	assert_int_equal(has_news(f, 1), 0);
	assert_string_equal(sync_inbox(f, 4, ""), "");
	f->now_ms += 2 * 86400000u;
	assert_string_equal(sync_inbox(f, 4, ""),
		"Sync(Collections(Collection(SyncKey'5' CollectionId'1' Status'1' Commands("
		"SoftDelete(ServerId'1:1')))))");
	/* All. */
	sync_inbox(f, 5, "Options(FilterType'0')");
	assert_int_equal(count(f, AIRSYNC_Add), 4);
}

static void bad_filters_and_structures_are_4(void **state)
{
	struct fixture *f = *state;
	static const char *const whole[] = {
		"Sync",
		"Sync(WindowSize'5')",
		"Sync(Collections)",
		"Sync(Collections(Collection(SyncKey'1')))",
		"Sync(Collections(Collection(CollectionId'1')))",
		"Sync(Collections(Collection(CollectionId'1' SyncKey'1')))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' WindowSize'5' "
		"GetChanges)))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' WindowSize'x')))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' GetChanges'2')))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' Status'1')))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1') "
		"Collection(SyncKey'1' CollectionId'1')))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' Commands(Delete))))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' "
		"Commands(Change(ServerId'1:1')))))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' "
		"Commands(SoftDelete(ServerId'1:1')))))",
		"Sync(Wait'5' HeartbeatInterval'300' "
		"Collections(Collection(SyncKey'1' CollectionId'1')))",
		"Sync(Wait'x' Collections(Collection(SyncKey'1' CollectionId'1')))",
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' Options Options Options)))",
	};
	static const char *const one[] = {
		"Options(FilterType'6')",
		"Options(FilterType'8')",
		"Options(FilterType'9')",
		"Options(FilterType)",
		"Options(Conflict'2')",
		"Options(MIMESupport'3')",
		"Options(MIMETruncation'9')",
		"Options(FilterType'1') Options(FilterType'2')",
		"Options(Class'SMS') Options(Class'SMS')",
		"Options(AirSyncBase:BodyPreference(TruncationSize'5' Type'1'))",
		"Options(AirSyncBase:BodyPreference(TruncationSize'5'))",
		"Options(AirSyncBase:BodyPreference(Type'5'))",
		"Options(AirSyncBase:BodyPreference(Type'1' Preview'256'))",
		"Options(AirSyncBase:BodyPreference(Type'1') AirSyncBase:BodyPreference(Type'1'))",
	};

	prime(f);
	for (size_t i = 0; i < ARRAY_LEN(whole); i++)
		if (strcmp(run(f, EAS_SYNC, whole[i]), "Sync(Status'4')") != 0)
			fail_msg("%s: %s", whole[i], shown(f));
	for (size_t i = 0; i < ARRAY_LEN(one); i++)
		if (strcmp(sync_inbox(f, 1, one[i]), "Sync(Collections(Collection(SyncKey'1' "
						     "CollectionId'1' Status'4')))") != 0)
			fail_msg("%s: %s", one[i], shown(f));
	assert_string_equal(sync_inbox(f, 1, "Options(AirSyncBase:BodyPartPreference(Type'1'))"),
		"Sync(Collections(Collection(SyncKey'1' CollectionId'1' Status'164')))");
	/* Fine: SMS beside mail, an empty Commands. */
	assert_string_equal(
		sync_inbox(
			f, 1, "Options(Class'SMS') Options(Class'Email' FilterType'1') Commands"),
		"");
	/* Conversations are a matter of mail, Supported not one of notes. */
	assert_string_equal(run(f, EAS_SYNC,
				    "Sync(Collections(Collection(SyncKey'0' CollectionId'7' "
				    "ConversationMode'1')))"),
		"Sync(Collections(Collection(SyncKey'0' CollectionId'7' Status'4')))");
	assert_string_equal(run(f, EAS_SYNC,
				    "Sync(Collections(Collection(SyncKey'0' CollectionId'9' "
				    "Supported)))"),
		"Sync(Collections(Collection(SyncKey'0' CollectionId'9' Status'4')))");
}

static void more_than_200_commands_are_4(void **state)
{
	struct fixture *f = *state;
	char text[16384];
	uint32_t key = prime(f);
	size_t n = (size_t)snprintf(text, sizeof(text), "Commands(");

	for (int i = 0; i < 200; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "Delete(ServerId'1:%d')", i + 1);
	snprintf(text + n, sizeof(text) - n, ")");
	sync_inbox(f, key, text);
	assert_int_equal(count(f, AIRSYNC_Delete), 200); /* Status 8 each */
	snprintf(text + n, sizeof(text) - n, "Delete(ServerId'1:777'))");
	assert_string_equal(sync_inbox(f, key, text), "Sync(Status'4')");
}

static void unknown_collections_are_8_or_12(void **state)
{
	struct fixture *f = *state;

	/* Never did a FolderSync: that would help. */
	assert_string_equal(
		run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'77')))"),
		"Sync(Collections(Collection(SyncKey'0' CollectionId'77' Status'12')))");
	run(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync(SyncKey'0')");
	assert_string_equal(
		run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'77')))"),
		"Sync(Collections(Collection(SyncKey'0' CollectionId'77' Status'8')))");
	assert_string_equal(
		run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'RI')))"),
		"Sync(Collections(Collection(SyncKey'0' CollectionId'RI' Status'8')))");
	f->config->sync_collections_max = 1;
	assert_string_equal(run(f, EAS_SYNC,
				    "Sync(Collections(Collection(SyncKey'0' CollectionId'1') "
				    "Collection(SyncKey'0' CollectionId'2')))"),
		"Sync(Status'15' Limit'1')");
}

static void the_phone_changes_state_without_echo(void **state)
{
	struct fixture *f = *state;
	deliver(f, 1, 0, "one");
	uint32_t key = catch_up(f, prime(f));

	assert_string_equal(sync_inbox(f, key,
				    "Commands(Change(ServerId'1:1' ApplicationData(Email:Read'1' "
				    "Email:Categories(Category'Red' Category'Blue') "
				    "Email:Flag(Status'2' FlagType'Flag for follow up'))))"),
		"Sync(Collections(Collection(SyncKey'3' CollectionId'1' Status'1')))");
	assert_int_equal(has_news(f, 1), 0);
	assert_string_equal(sync_inbox(f, 3, ""), "");
	/* Another phone sees it all. */
	f->device_id = "phone2";
	key = prime(f);
	sync_inbox(f, key, "");
	assert_non_null(
		strstr(shown(f), "Email:Read'1' Email:Categories(Category'Red' Category'Blue') "
				 "Email:Flag(Status'2' FlagType'Flag for follow up')"));
	/* And takes some away; the first one is told. */
	sync_inbox(f, 2,
		"Commands(Change(ServerId'1:1' ApplicationData(Email:Categories Email:Flag)))");
	f->device_id = "phone1";
	assert_int_equal(has_news(f, 1), 1);
	assert_non_null(strstr(sync_inbox(f, 3, ""), "Email:Read'1' Email:Categories Email:Flag"));
}

static void bad_changes_fail_alone(void **state)
{
	struct fixture *f = *state;
	static const char *const bad[] = {
		"Email:Subject'x'",
		"Email:Read'2'",
		"Email:Flag(Status'3')",
		"Email:Flag(FlagType'x')",
		"Email:Flag(Status'2')",
		"Email:Flag(Status'1')",
		"Email:Flag(Status'2' FlagType'x' Tasks:StartDate'2011-03-01T08:00:00.000Z')",
		"Email:Flag(Status'2' FlagType'x' Tasks:ReminderSet'1')",
		"Email2:ConversationId'x'",
		"Email:Categories(Subject'x')",
	};

	deliver(f, 1, 0, "one");
	uint32_t key = catch_up(f, prime(f));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char text[600], expected[200];

		snprintf(text, sizeof(text), "Commands(Change(ServerId'1:1' ApplicationData(%s)))",
			bad[i]);
		snprintf(expected, sizeof(expected),
			"Sync(Collections(Collection(SyncKey'%u' CollectionId'1' Status'1' "
			"Responses(Change(ServerId'1:1' Status'6')))))",
			++key);
		assert_string_equal(sync_inbox(f, key - 1, text), expected);
	}
	assert_string_equal(sync_inbox(f, key,
				    "Commands(Add(ClientId'c1' ApplicationData(Email:Subject'x')) "
				    "Change(ServerId'1:9' ApplicationData(Email:Read'1')) "
				    "Change(ServerId'2:1' ApplicationData(Email:Read'1')) "
				    "Change(ServerId'nonsense' ApplicationData(Email:Read'1')) "
				    "Change(ServerId'1:1' ApplicationData(Email:Read'1')) "
				    "Delete(ServerId'1:9') Fetch(ServerId'1:9'))"),
		"Sync(Collections(Collection(SyncKey'13' CollectionId'1' Status'1' Responses("
		"Add(ClientId'c1' Status'6') Change(ServerId'1:9' Status'8') "
		"Change(ServerId'2:1' Status'8') Change(ServerId'nonsense' Status'8') "
		"Delete(ServerId'1:9' Status'8') Fetch(ServerId'1:9' Status'8')))))");
}

static bool lives(struct fixture *f, uint32_t folder, uint64_t item)
{
	struct db_txn txn;
	uint32_t in = 0;

	assert_int_equal(db_read(f->db, &txn), DB_OK);
	int err = item_folder(&txn, f->account.mailbox, item, &in);
	db_read_end(&txn);
	return err == DB_OK && in == folder;
}

static void deletes_go_to_the_trash_or_for_good(void **state)
{
	struct fixture *f = *state;
	for (int i = 0; i < 3; i++)
		deliver(f, 1, 0, "m");
	uint32_t key = catch_up(f, prime(f));

	assert_string_equal(sync_inbox(f, key, "Commands(Delete(ServerId'1:1'))"),
		"Sync(Collections(Collection(SyncKey'3' CollectionId'1' Status'1')))");
	assert_true(lives(f, FOLDER_ID_TRASH, 1));
	sync_inbox(f, 3, "DeletesAsMoves'0' Commands(Delete(ServerId'1:2'))");
	assert_false(lives(f, FOLDER_ID_TRASH, 2));
	assert_string_equal(sync_inbox(f, 4, ""), "");
	assert_int_equal(has_news(f, 1), 0);
	/* In the trash: for good, whatever is asked. It had come there as an Add. */
	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'3')))");
	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'1' CollectionId'3')))");
	assert_int_equal(count(f, AIRSYNC_Add), 1);
	run(f, EAS_SYNC,
		"Sync(Collections(Collection(SyncKey'2' CollectionId'3' DeletesAsMoves'1' "
		"Commands(Delete(ServerId'3:1')))))");
	assert_false(lives(f, FOLDER_ID_TRASH, 1));
	/* Into a trash that is synced: the phone gets it there. */
	sync_inbox(f, 4, "Commands(Delete(ServerId'1:3'))");
	assert_non_null(strstr(run(f, EAS_SYNC,
				       "Sync(Collections(Collection(SyncKey'3' "
				       "CollectionId'3')))"),
		"Add(ServerId'3:3'"));
}

static void changes_behind_a_lost_answer_are_not_applied_twice(void **state)
{
	struct fixture *f = *state;
	uint64_t one = deliver(f, 1, 0, "one");
	deliver(f, 1, 0, "two");
	uint32_t key = catch_up(f, prime(f));
	static const char commands[] =
		"Commands(Change(ServerId'1:1' ApplicationData(Email:Read'1')) "
		"Delete(ServerId'1:2'))";
	const char *first = sync_inbox(f, key, commands);

	uint64_t seq = head(f);
	assert_string_equal(sync_inbox(f, key, commands), first);
	assert_int_equal(head(f), seq);
	/* Somebody marks it unread; the repeated request does not undo that. */
	set_read(f, 1, one, false);
	seq = head(f);
	sync_inbox(f, key, commands);
	assert_int_equal(head(f), seq);
	assert_non_null(strstr(shown(f), "Email:Read'0'"));
	/* Other commands with the old key are new ones. */
	key = answer_number(f, AIRSYNC_SyncKey);
	sync_inbox(f, key, "Commands(Change(ServerId'1:1' ApplicationData(Email:Read'1')))");
	assert_true(head(f) > seq);
	seq = head(f);
	sync_inbox(f, key, "Commands(Change(ServerId'1:1' ApplicationData(Email:Read'0')))");
	assert_true(head(f) > seq);
}

static void conflicts_go_as_the_option_says(void **state)
{
	struct fixture *f = *state;
	uint64_t one = deliver(f, 1, 0, "one");
	uint32_t key = catch_up(f, prime(f));

	set_read(f, 1, one, true);
	assert_string_equal(
		sync_inbox(f, key,
			"Commands(Change(ServerId'1:1' ApplicationData(Email:Flag(Status'2' "
			"FlagType'x'))))"),
		"Sync(Collections(Collection(SyncKey'3' CollectionId'1' Status'1' "
		"Responses(Change(ServerId'1:1' Status'7')) Commands(Change(ServerId'1:1' "
		"ApplicationData(Email:Read'1' Email:Categories Email:Flag))))))");
	/* The client wins: both changes stand, and it is told of the other one. */
	set_read(f, 1, one, false);
	assert_string_equal(sync_inbox(f, 3,
				    "Options(Conflict'0') Commands(Change(ServerId'1:1' "
				    "ApplicationData(Email:Flag(Status'2' FlagType'x'))))"),
		"Sync(Collections(Collection(SyncKey'4' CollectionId'1' Status'1' "
		"Commands(Change(ServerId'1:1' ApplicationData(Email:Read'0' Email:Categories "
		"Email:Flag(Status'2' FlagType'x')))))))");
	/* Both want the same: no conflict. */
	set_read(f, 1, one, true);
	sync_inbox(f, 4,
		"Options(Conflict'1') Commands(Change(ServerId'1:1' "
		"ApplicationData(Email:Read'1')))");
	assert_int_equal(count(f, AIRSYNC_Responses), 0);
	/* Delete beats change. */
	key = answer_number(f, AIRSYNC_SyncKey);
	set_read(f, 1, one, false);
	sync_inbox(f, key, "Commands(Delete(ServerId'1:1'))");
	assert_int_equal(count(f, AIRSYNC_Responses), 0);
	assert_true(lives(f, FOLDER_ID_TRASH, one));
}

static void fetch_brings_the_whole_under_the_same_key(void **state)
{
	struct fixture *f = *state;
	deliver(f, 1, 0, "one");
	uint32_t key = prime(f);

	sync_inbox(f, key, "Options(AirSyncBase:BodyPreference(Type'1' TruncationSize'4'))");
	assert_non_null(strstr(shown(f),
		"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Truncated'1' Data'Text')"));
	sync_inbox(f, 2, "Commands(Fetch(ServerId'1:1'))");
	assert_non_null(strstr(shown(f),
		"Collection(SyncKey'2' CollectionId'1' Status'1' Responses(Fetch(ServerId'1:1' "
		"Status'1' ApplicationData("));
	assert_non_null(strstr(shown(f), "Data'Text of one"));
	assert_string_equal(sync_inbox(f, 2, ""), "");
}

static void mid_walk_creations_are_told_whole(void **state)
{
	struct fixture *f = *state;
	deliver(f, 1, 0, "first");
	uint32_t key = catch_up(f, prime(f));
	uint64_t ids[10];

	/* Ten new ones, all read elsewhere before the phone comes; it comes in small steps. */
	for (int i = 0; i < 10; i++)
		ids[i] = deliver(f, 1, 0, "m");
	for (int i = 0; i < 10; i++)
		set_read(f, 1, ids[i], true);
	int adds = 0, changes = 0;
	for (int i = 0; i < 5; i++) {
		sync_inbox(f, key, "WindowSize'2'");
		adds += count(f, AIRSYNC_Add);
		changes += count(f, AIRSYNC_Change);
		key = answer_number(f, AIRSYNC_SyncKey);
		/* Every other answer gets lost. */
		if (i % 2) {
			sync_inbox(f, key - 1, "WindowSize'2'");
			assert_int_equal(answer_number(f, AIRSYNC_SyncKey), key);
		}
	}
	assert_int_equal(adds, 10);
	assert_int_equal(changes, 0);
	/* Known ones, changed in bulk, stay changes however small the steps. */
	for (int i = 0; i < 10; i++)
		set_read(f, 1, ids[i], false);
	for (int i = 0; i < 5; i++) {
		sync_inbox(f, key, "WindowSize'2'");
		assert_int_equal(count(f, AIRSYNC_Change), 2);
		key = answer_number(f, AIRSYNC_SyncKey);
	}
	assert_string_equal(sync_inbox(f, key, ""), "");
}

static void own_moves_come_back_as_delete_and_add(void **state)
{
	struct fixture *f = *state;
	deliver(f, 1, 0, "one");
	uint32_t key = catch_up(f, prime(f));

	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'4')))");
	run(f, EAS_MOVE_ITEMS, "Move:MoveItems(Move(SrcMsgId'1:1' SrcFldId'1' DstFldId'4'))");
	assert_string_equal(
		shown(f), "Move:MoveItems(Response(SrcMsgId'1:1' Status'3' DstMsgId'4:1'))");
	assert_int_equal(has_news(f, 1), 0);
	assert_int_equal(has_news(f, 4), 0);
	assert_non_null(strstr(sync_inbox(f, key, ""), "Delete(ServerId'1:1')"));
	assert_non_null(strstr(run(f, EAS_SYNC,
				       "Sync(Collections(Collection(SyncKey'1' "
				       "CollectionId'4')))"),
		"Add(ServerId'4:1'"));
}

static void news_is_what_a_sync_would_tell(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(has_news(f, 1), 1); /* never synced */
	uint32_t key = prime(f);
	assert_int_equal(has_news(f, 1), 0);
	uint64_t one = deliver(f, 1, 0, "one");
	assert_int_equal(has_news(f, 1), 1);
	key = catch_up(f, key);
	assert_int_equal(has_news(f, 1), 0);
	set_read(f, 1, one, true);
	assert_int_equal(has_news(f, 1), 1);
	key = catch_up(f, key);
	erase(f, 1, one);
	assert_int_equal(has_news(f, 1), 1);
	catch_up(f, key);
	assert_int_equal(has_news(f, 1), 0);
	assert_int_equal(has_news(f, 77), 0);
}

static void silent_changes_do_not_pile_up(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);

	sync_inbox(f, key, "Options(FilterType'1')");
	for (int i = 0; i < 250; i++)
		deliver(f, 1, 20, "old");
	uint64_t before = commits(f);
	assert_string_equal(sync_inbox(f, key, ""), "");
	assert_int_equal(commits(f), before + 1);
	assert_string_equal(sync_inbox(f, key, ""), "");
	assert_int_equal(commits(f), before + 1);
}

static void large_bodies_split_the_answer(void **state)
{
	struct fixture *f = *state;
	uint32_t key = prime(f);
	size_t n = 3 << 20;
	char *mime = malloc(n + 100);

	size_t at = (size_t)sprintf(mime, "From: a@b.c\r\nSubject: big\r\n\r\n");
	for (; at < n; at++)
		mime[at] = at % 70 == 69 ? '\n' : 'x';
	mime[at] = 0;
	for (int i = 0; i < 4; i++)
		deliver_mime(f, 1, (int64_t)(f->now_ms / 1000), mime);
	free(mime);
	sync_inbox(f, key, "Options(AirSyncBase:BodyPreference(Type'1'))");
	assert_int_equal(count(f, AIRSYNC_Add), 2);
	assert_int_equal(count(f, AIRSYNC_MoreAvailable), 1);
	/* Cut short they all fit. */
	sync_inbox(f, key, "Options(AirSyncBase:BodyPreference(Type'1' TruncationSize'100'))");
	assert_int_equal(count(f, AIRSYNC_Add), 4);
	assert_int_equal(count(f, AIRSYNC_MoreAvailable), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		eas_test(key_zero_gives_a_key_and_no_items),
		eas_test(mail_comes_as_the_version_wants_it),
		eas_test(nothing_new_is_empty_and_writes_nothing),
		eas_test(lost_answers_are_given_again),
		eas_test(windows_split_and_more_is_announced),
		eas_test(changes_deletes_and_moves_are_told),
		eas_test(get_changes_zero_says_nothing),
		eas_test(filter_lets_recent_mail_through_and_soft_deletes),
		eas_test(bad_filters_and_structures_are_4),
		eas_test(more_than_200_commands_are_4),
		eas_test(unknown_collections_are_8_or_12),
		eas_test(the_phone_changes_state_without_echo),
		eas_test(bad_changes_fail_alone),
		eas_test(deletes_go_to_the_trash_or_for_good),
		eas_test(changes_behind_a_lost_answer_are_not_applied_twice),
		eas_test(conflicts_go_as_the_option_says),
		eas_test(fetch_brings_the_whole_under_the_same_key),
		eas_test(mid_walk_creations_are_told_whole),
		eas_test(own_moves_come_back_as_delete_and_add),
		eas_test(news_is_what_a_sync_would_tell),
		eas_test(silent_changes_do_not_pile_up),
		eas_test(large_bodies_split_the_answer),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
