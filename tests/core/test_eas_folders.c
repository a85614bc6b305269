/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The folder tree as a phone follows it. */
#include "tests/core/eas_fixture.h"

static const char *folder_sync(struct fixture *f, uint32_t key)
{
	return run_printf(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync(SyncKey'%u')", key);
}

static uint32_t first_sync(struct fixture *f)
{
	folder_sync(f, 0);
	return answer_number(f, FOLDERHIERARCHY_SyncKey);
}

static uint32_t make_folder(struct fixture *f, uint32_t parent, const char *name, uint32_t origin)
{
	struct store_step s = {
		.f = f, .what = STEP_FOLDER, .folder = parent, .text = name, .origin = origin};

	step(&s);
	return s.to;
}

static void first_sync_brings_the_standard_tree(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(folder_sync(f, 0),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'1' Changes(Count'9' "
		"Add(ServerId'1' ParentId'0' DisplayName'Inbox' Type'2') "
		"Add(ServerId'2' ParentId'0' DisplayName'Drafts' Type'3') "
		"Add(ServerId'3' ParentId'0' DisplayName'Deleted Items' Type'4') "
		"Add(ServerId'4' ParentId'0' DisplayName'Sent Items' Type'5') "
		"Add(ServerId'5' ParentId'0' DisplayName'Outbox' Type'6') "
		"Add(ServerId'6' ParentId'0' DisplayName'Contacts' Type'9') "
		"Add(ServerId'7' ParentId'0' DisplayName'Calendar' Type'8') "
		"Add(ServerId'8' ParentId'0' DisplayName'Tasks' Type'7') "
		"Add(ServerId'9' ParentId'0' DisplayName'Notes' Type'10')))");
}

static void nothing_new_keeps_the_key_and_writes_nothing(void **state)
{
	struct fixture *f = *state;
	uint32_t key = first_sync(f);
	uint64_t before = commits(f);

	assert_string_equal(folder_sync(f, key),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'1' Changes(Count'0'))");
	assert_int_equal(commits(f), before);
}

static void changes_come_once_and_again_after_a_lost_answer(void **state)
{
	struct fixture *f = *state;
	uint32_t key = first_sync(f), a = make_folder(f, 0, "A", 0), b = make_folder(f, a, "B", 0);

	assert_int_equal(a, 10);
	assert_int_equal(b, 11);
	const char *first = folder_sync(f, key);
	assert_string_equal(first,
		"FolderHierarchy:FolderSync(Status'1' SyncKey'2' Changes(Count'2' "
		"Add(ServerId'10' ParentId'0' DisplayName'A' Type'12') "
		"Add(ServerId'11' ParentId'10' DisplayName'B' Type'12')))");
	/* Lost: the same again. */
	assert_string_equal(folder_sync(f, key), first);
	/* Lost, and something came in between: it is in, under another key. */
	step(&(struct store_step){.f = f, .what = STEP_RENAME, .folder = b, .to = 0, .text = "C"});
	assert_string_equal(folder_sync(f, key),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'3' Changes(Count'2' "
		"Add(ServerId'10' ParentId'0' DisplayName'A' Type'12') "
		"Add(ServerId'11' ParentId'0' DisplayName'C' Type'12')))");
	step(&(struct store_step){.f = f, .what = STEP_RENAME, .folder = a, .to = b, .text = "A"});
	step(&(struct store_step){.f = f, .what = STEP_REMOVE, .folder = a});
	make_folder(f, b, "D", 0);
	assert_string_equal(folder_sync(f, 3),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'4' Changes(Count'2' "
		"Delete(ServerId'10') "
		"Add(ServerId'12' ParentId'11' DisplayName'D' Type'12')))");
}

static void parents_come_before_children(void **state)
{
	struct fixture *f = *state;
	uint32_t key = first_sync(f), a = make_folder(f, 0, "A", 0), b = make_folder(f, 0, "B", 0);

	step(&(struct store_step){.f = f, .what = STEP_RENAME, .folder = a, .to = b, .text = "A"});
	assert_string_equal(folder_sync(f, key),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'2' Changes(Count'2' "
		"Add(ServerId'11' ParentId'0' DisplayName'B' Type'12') "
		"Add(ServerId'10' ParentId'11' DisplayName'A' Type'12')))");
}

static void wrong_keys_and_requests_are_told_apart(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(folder_sync(f, 1), "FolderHierarchy:FolderSync(Status'9')");
	first_sync(f);
	assert_string_equal(folder_sync(f, 7), "FolderHierarchy:FolderSync(Status'9')");
	assert_string_equal(run(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync(SyncKey)"),
		"FolderHierarchy:FolderSync(Status'9')");
	assert_string_equal(run(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync(SyncKey'x')"),
		"FolderHierarchy:FolderSync(Status'9')");
	assert_string_equal(run(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync"),
		"FolderHierarchy:FolderSync(Status'10')");
	assert_string_equal(
		run(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync(SyncKey'0' Status'1')"),
		"FolderHierarchy:FolderSync(Status'10')");
	/* A new start outdates every older key. */
	uint32_t key = first_sync(f);
	assert_int_equal(key, 2);
	assert_string_equal(folder_sync(f, 1), "FolderHierarchy:FolderSync(Status'9')");
}

static void key_zero_drops_the_cached_ping(void **state)
{
	struct fixture *f = *state;
	struct db_txn txn;
	struct device d;

	first_sync(f);
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(device_find(&txn, f->account.mailbox, bytes_str("phone1"), &d), DB_OK);
	db_read_end(&txn);
	assert_int_equal(d.ping_folder_count, 0);
	assert_int_not_equal(d.hierarchy_seq, 0);
}

static void folders_are_made_renamed_and_removed_without_echo(void **state)
{
	struct fixture *f = *state;
	uint32_t key = first_sync(f);

	assert_string_equal(run_printf(f, EAS_FOLDER_CREATE,
				    "FolderHierarchy:FolderCreate(SyncKey'%u' ParentId'0' "
				    "DisplayName'Mine' Type'12')",
				    key),
		"FolderHierarchy:FolderCreate(Status'1' SyncKey'2' ServerId'10')");
	/* Lost answer: the same folder, not a second one. */
	assert_string_equal(run_printf(f, EAS_FOLDER_CREATE,
				    "FolderHierarchy:FolderCreate(SyncKey'%u' ParentId'0' "
				    "DisplayName'Mine' Type'12')",
				    key),
		"FolderHierarchy:FolderCreate(Status'1' SyncKey'3' ServerId'10')");
	assert_string_equal(folder_sync(f, 3),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'3' Changes(Count'0'))");
	/* Somebody else's change in between is not lost. */
	make_folder(f, 0, "Theirs", 0);
	assert_string_equal(
		run(f, EAS_FOLDER_UPDATE,
			"FolderHierarchy:FolderUpdate(SyncKey'3' ServerId'10' ParentId'0' "
			"DisplayName'Renamed')"),
		"FolderHierarchy:FolderUpdate(Status'1' SyncKey'4')");
	assert_string_equal(folder_sync(f, 4),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'5' Changes(Count'1' "
		"Add(ServerId'11' ParentId'0' DisplayName'Theirs' Type'12')))");
	assert_string_equal(
		run(f, EAS_FOLDER_DELETE, "FolderHierarchy:FolderDelete(SyncKey'5' ServerId'10')"),
		"FolderHierarchy:FolderDelete(Status'1' SyncKey'6')");
	assert_string_equal(folder_sync(f, 6),
		"FolderHierarchy:FolderSync(Status'1' SyncKey'6' Changes(Count'0'))");
}

static void folder_changes_are_refused_with_their_status(void **state)
{
	struct fixture *f = *state;
	static const struct {
		enum eas_command command;
		const char *request, *status;
	} cases[] = {
		{EAS_FOLDER_CREATE, "SyncKey'0' ParentId'0' DisplayName'X' Type'12'", "9"},
		{EAS_FOLDER_CREATE, "SyncKey'8' ParentId'0' DisplayName'X' Type'12'", "9"},
		{EAS_FOLDER_CREATE, "ParentId'0' DisplayName'X' Type'12'", "10"},
		{EAS_FOLDER_CREATE, "SyncKey'1' ParentId'0' DisplayName'X' Type'2'", "10"},
		{EAS_FOLDER_CREATE, "SyncKey'1' ParentId'0' DisplayName'X'", "10"},
		{EAS_FOLDER_CREATE, "SyncKey'1' ParentId'0' DisplayName Type'12'", "10"},
		{EAS_FOLDER_CREATE, "SyncKey'1' ParentId'0' DisplayName'Inbox' Type'12'", "2"},
		{EAS_FOLDER_CREATE, "SyncKey'1' ParentId'77' DisplayName'X' Type'12'", "5"},
		{EAS_FOLDER_DELETE, "SyncKey'1' ServerId'1'", "3"},
		{EAS_FOLDER_DELETE, "SyncKey'1' ServerId'77'", "4"},
		{EAS_FOLDER_DELETE, "SyncKey'1'", "10"},
		{EAS_FOLDER_UPDATE, "SyncKey'1' ServerId'1' ParentId'0' DisplayName'X'", "2"},
		{EAS_FOLDER_UPDATE, "SyncKey'1' ServerId'77' ParentId'0' DisplayName'X'", "4"},
		{EAS_FOLDER_UPDATE, "SyncKey'1' ServerId'10' ParentId'77' DisplayName'X'", "5"},
		{EAS_FOLDER_UPDATE, "SyncKey'1' ServerId'10' ParentId'0' DisplayName'Inbox'", "2"},
		{EAS_FOLDER_UPDATE, "SyncKey'1' ServerId'10' ParentId'10' DisplayName'X'", "10"},
	};

	make_folder(f, 0, "A", 0);
	first_sync(f);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *name = eas_command_name(cases[i].command);
		char expected[80];

		snprintf(expected, sizeof(expected), "FolderHierarchy:%s(Status'%s')", name,
			cases[i].status);
		assert_string_equal(run_printf(f, cases[i].command, "FolderHierarchy:%s(%s)", name,
					    cases[i].request),
			expected);
	}
}

static void folder_ids_have_one_spelling(void **state)
{
	(void)state;
	assert_int_equal(eas_folder_id(bytes_str("7")), 7);
	assert_int_equal(eas_folder_id(bytes_str("4294967295")), 4294967295u);
	assert_int_equal(eas_folder_id(bytes_str("07")), 0);
	assert_int_equal(eas_folder_id(bytes_str("0")), 0);
	assert_int_equal(eas_folder_id(bytes_str("")), 0);
	assert_int_equal(eas_folder_id(bytes_str("RI")), 0);
	assert_int_equal(eas_folder_id(bytes_str("4294967296")), 0);
	assert_int_equal(eas_folder_id(bytes_str("-1")), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		eas_test(first_sync_brings_the_standard_tree),
		eas_test(nothing_new_keeps_the_key_and_writes_nothing),
		eas_test(changes_come_once_and_again_after_a_lost_answer),
		eas_test(parents_come_before_children),
		eas_test(wrong_keys_and_requests_are_told_apart),
		eas_test(key_zero_drops_the_cached_ping),
		eas_test(folders_are_made_renamed_and_removed_without_echo),
		eas_test(folder_changes_are_refused_with_their_status),
		cmocka_unit_test(folder_ids_have_one_spelling),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
