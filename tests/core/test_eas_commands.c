/* SPDX-License-Identifier: GPL-3.0-or-later */
/* GetItemEstimate, MoveItems, ItemOperations, GetAttachment, and bodies. */
#include "tests/core/eas_fixture.h"

static const char mixed[] =
	"From: Bob <bob@example.org>\r\nTo: anna@example.org\r\nSubject: mixed\r\n"
	"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	"--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Hello <b>world</b></p>\r\n"
	"--b\r\nContent-Type: text/csv; name=\"data.csv\"\r\n"
	"Content-Disposition: attachment; filename=\"data.csv\"\r\n\r\n0123456789\r\n--b--\r\n";

static void prime(struct fixture *f, uint32_t folder)
{
	run_printf(
		f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'%u')))", folder);
}

static const char *estimate(struct fixture *f, const char *collection)
{
	return run_printf(f, EAS_GET_ITEM_ESTIMATE,
		"GetItemEstimate:GetItemEstimate(Collections(Collection(%s)))", collection);
}

#define ESTIMATE(status, rest)                                                                     \
	"GetItemEstimate:GetItemEstimate(Response(Status'" status "' Collection(" rest ")))"

static void estimates_count_what_a_sync_would_bring(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(estimate(f, "AirSync:SyncKey'1' CollectionId'1'"),
		ESTIMATE("3", "CollectionId'1' Estimate'0'"));
	prime(f, 1);
	for (int i = 0; i < 4; i++)
		deliver(f, 1, i * 2, "m");
	assert_string_equal(estimate(f, "AirSync:SyncKey'1' CollectionId'1'"),
		ESTIMATE("1", "CollectionId'1' Estimate'4'"));
	assert_string_equal(
		estimate(f, "AirSync:SyncKey'1' CollectionId'1' AirSync:Options(FilterType'1')"),
		ESTIMATE("1", "CollectionId'1' Estimate'1'"));
	assert_string_equal(estimate(f, "AirSync:SyncKey'0' CollectionId'1'"),
		ESTIMATE("3", "CollectionId'1' Estimate'0'"));
	assert_string_equal(estimate(f, "AirSync:SyncKey'5' CollectionId'1'"),
		ESTIMATE("4", "CollectionId'1' Estimate'0'"));
	assert_string_equal(estimate(f, "AirSync:SyncKey'1' CollectionId'99'"),
		ESTIMATE("2", "CollectionId'99' Estimate'0'"));
	assert_string_equal(
		estimate(f, "AirSync:SyncKey'1' CollectionId'1' AirSync:Options(FilterType'8')"),
		"GetItemEstimate:GetItemEstimate(Status'110')");
	assert_string_equal(
		estimate(f, "AirSync:SyncKey'1' CollectionId'1' AirSync:Options(FilterType'9')"),
		"GetItemEstimate:GetItemEstimate(Status'103')");
	assert_string_equal(run(f, EAS_GET_ITEM_ESTIMATE, "GetItemEstimate:GetItemEstimate"),
		"GetItemEstimate:GetItemEstimate(Status'103')");
	f->version = 121;
	assert_string_equal(
		estimate(
			f, "Class'Email' CollectionId'1' AirSync:FilterType'2' AirSync:SyncKey'1'"),
		ESTIMATE("1", "Class'Email' CollectionId'1' Estimate'2'"));
}

static const char *move_item(struct fixture *f, const char *move)
{
	return run_printf(f, EAS_MOVE_ITEMS, "Move:MoveItems(Move(%s))", move);
}

#define MOVED(src, status) "Move:MoveItems(Response(SrcMsgId'" src "' Status'" status "'))"

static void moves_say_what_became_of_each(void **state)
{
	struct fixture *f = *state;

	deliver(f, 1, 0, "one");
	assert_string_equal(
		move_item(f, "SrcMsgId'1:1' SrcFldId'1' DstFldId'1'"), MOVED("1:1", "4"));
	assert_string_equal(
		move_item(f, "SrcMsgId'1:1' SrcFldId'1' DstFldId'77'"), MOVED("1:1", "2"));
	assert_string_equal(
		move_item(f, "SrcMsgId'1:1' SrcFldId'1' DstFldId'7'"), MOVED("1:1", "2"));
	assert_string_equal(move_item(f, "SrcMsgId'1:1' SrcFldId'1'"), MOVED("1:1", "2"));
	assert_string_equal(
		move_item(f, "SrcMsgId'1:1' SrcFldId'77' DstFldId'4'"), MOVED("1:1", "1"));
	assert_string_equal(
		move_item(f, "SrcMsgId'1:9' SrcFldId'1' DstFldId'4'"), MOVED("1:9", "1"));
	assert_string_equal(move_item(f, "SrcMsgId'1:1' SrcFldId'1' DstFldId'4' DstFldId'5'"),
		MOVED("1:1", "5"));
	assert_string_equal(move_item(f, "SrcMsgId'1:1' SrcFldId'1' DstFldId'4'"),
		"Move:MoveItems(Response(SrcMsgId'1:1' Status'3' DstMsgId'4:1'))");
	assert_string_equal(
		move_item(f, "SrcMsgId'1:1' SrcFldId'1' DstFldId'4'"), MOVED("1:1", "1"));
	assert_string_equal(
		run(f, EAS_MOVE_ITEMS, "Move:MoveItems"), "Move:MoveItems(Status'103')");
}

static const char *operate(struct fixture *f, const char *operations)
{
	return run_printf(f, EAS_ITEM_OPERATIONS, "ItemOperations:ItemOperations(%s)", operations);
}

#define OPERATED(rest) "ItemOperations:ItemOperations(Status'1' Response(" rest "))"

static void attachments_are_fetched_whole_and_in_ranges(void **state)
{
	struct fixture *f = *state;

	deliver_mime(f, 1, (int64_t)(f->now_ms / 1000), mixed);
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'1:0')"),
		OPERATED("Fetch(Status'1' AirSyncBase:FileReference'1:0' Properties("
			 "AirSyncBase:ContentType'text/csv' Data'MDEyMzQ1Njc4OQ=='))"));
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'1:0' "
				       "Options(Range'2-4'))"),
		OPERATED("Fetch(Status'1' AirSyncBase:FileReference'1:0' Properties(Range'2-4' "
			 "Total'10' AirSyncBase:ContentType'text/csv' Data'MjM0'))"));
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'1:0' "
				       "Options(Range'8-99'))"),
		OPERATED("Fetch(Status'1' AirSyncBase:FileReference'1:0' Properties(Range'8-9' "
			 "Total'10' AirSyncBase:ContentType'text/csv' Data'ODk='))"));
	static const char *const bad[] = {"10-12", "5-4", "x", "-", "1-", "-1"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char text[200];

		snprintf(text, sizeof(text),
			"Fetch(Store'Mailbox' AirSyncBase:FileReference'1:0' Options(Range'%s'))",
			bad[i]);
		assert_string_equal(operate(f, text),
			OPERATED("Fetch(Status'8' AirSyncBase:FileReference'1:0')"));
	}
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference)"),
		OPERATED("Fetch(Status'15' AirSyncBase:FileReference)"));
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'1:1')"),
		OPERATED("Fetch(Status'15' AirSyncBase:FileReference'1:1')"));
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'9:0')"),
		OPERATED("Fetch(Status'15' AirSyncBase:FileReference'9:0')"));
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'1:0' "
				       "AirSyncBase:FileReference'1:0')"),
		OPERATED("Fetch(Status'2')"));
	/* The reference survives a move. */
	move(f, 1, 4, 1);
	assert_non_null(strstr(
		operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'1:0')"), "Data'"));
}

static void get_attachment_is_the_same_for_old_phones(void **state)
{
	struct fixture *f = *state;

	deliver_mime(f, 1, (int64_t)(f->now_ms / 1000), mixed);
	f->version = 121;
	f->attachment_name = "1:0";
	run(f, EAS_GET_ATTACHMENT, NULL);
	assert_int_equal(f->answer.http_status, 200);
	assert_string_equal(f->answer.content_type, "text/csv");
	assert_int_equal(f->answer.body.n, 10);
	assert_memory_equal(f->answer.body.p, "0123456789", 10);
	f->attachment_name = "1:7";
	run(f, EAS_GET_ATTACHMENT, NULL);
	assert_int_equal(f->answer.http_status, 500);
}

static void messages_are_fetched_as_wished(void **state)
{
	struct fixture *f = *state;

	deliver_mime(f, 1, (int64_t)(f->now_ms / 1000), mixed);
	operate(f, "Fetch(Store'Mailbox' AirSync:CollectionId'1' AirSync:ServerId'1:1')");
	assert_non_null(strstr(shown(f),
		"Response(Fetch(Status'1' AirSync:CollectionId'1' AirSync:ServerId'1:1' "
		"AirSync:Class'Email' Properties("));
	assert_non_null(strstr(shown(f), "AirSyncBase:Body(Type'2'"));
	assert_non_null(strstr(shown(f),
		"AirSyncBase:Attachments(Attachment(DisplayName'data.csv' FileReference'1:0' "
		"Method'1' EstimatedDataSize'"));
	/* Only what the schema lists. */
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSync:CollectionId'1' "
				       "AirSync:ServerId'1:1' Options(Schema(Email:Subject "
				       "Email:Read)))"),
		OPERATED("Fetch(Status'1' AirSync:CollectionId'1' AirSync:ServerId'1:1' "
			 "AirSync:Class'Email' Properties(Email:Subject'mixed' Email:Read'0'))"));
	assert_string_equal(
		operate(f, "Fetch(Store'Mailbox' AirSync:CollectionId'1' AirSync:ServerId'1:9')"),
		OPERATED("Fetch(Status'6' AirSync:CollectionId'1' AirSync:ServerId'1:9')"));
	assert_string_equal(
		operate(f, "Fetch(Store'Mailbox' AirSync:CollectionId'4' AirSync:ServerId'1:1')"),
		OPERATED("Fetch(Status'6' AirSync:CollectionId'4' AirSync:ServerId'1:1')"));
	assert_string_equal(operate(f, "Fetch(Store'Mailbox')"), OPERATED("Fetch(Status'2')"));
	assert_string_equal(operate(f, "Fetch(Store'Elsewhere' AirSync:ServerId'1:1')"),
		OPERATED("Fetch(Status'9' AirSync:ServerId'1:1')"));
	assert_string_equal(
		operate(f, "Fetch(Store'Mailbox' AirSync:CollectionId'1' AirSync:ServerId'1:1' "
			   "Options(AirSyncBase:BodyPreference(Type'9')))"),
		OPERATED("Fetch(Status'2' AirSync:CollectionId'1' AirSync:ServerId'1:1')"));
	/* In the order asked, each with its own Status. */
	assert_string_equal(operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'9:9') "
				       "Move(ConversationId'x' DstFldId'1') "
				       "EmptyFolderContents(AirSync:CollectionId'77')"),
		OPERATED("Fetch(Status'15' AirSyncBase:FileReference'9:9') "
			 "Move(Status'3' ConversationId[1]) "
			 "EmptyFolderContents(Status'6' AirSync:CollectionId'77')"));
	assert_string_equal(operate(f, ""), "ItemOperations:ItemOperations(Status'2')");
	assert_string_equal(operate(f, "Store'x'"), "ItemOperations:ItemOperations(Status'2')");
}

static uint32_t le32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

static void multipart_carries_contents_beside_the_document(void **state)
{
	struct fixture *f = *state;
	struct wbxml_node *root;
	const char *why;

	deliver_mime(f, 1, (int64_t)(f->now_ms / 1000), mixed);
	f->multipart = true;
	operate(f, "Fetch(Store'Mailbox' AirSyncBase:FileReference'1:0' Options(Range'1-3')) "
		   "Fetch(Store'Mailbox' AirSync:CollectionId'1' AirSync:ServerId'1:1' "
		   "Options(AirSyncBase:BodyPreference(Type'2')))");
	assert_string_equal(f->answer.content_type, EAS_MULTIPART_TYPE);
	const uint8_t *p = f->answer.body.p;
	assert_int_equal(le32(p), 3);
	uint32_t at = 4 + 3 * 8;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(le32(p + 4 + 8 * i), at);
		at += le32(p + 8 + 8 * i);
	}
	assert_int_equal(at, f->answer.body.n);
	assert_int_equal(
		wbxml_parse(bytes_of(p + le32(p + 4), le32(p + 8)), &f->text, NULL, &root, &why),
		1);
	f->root = root;
	assert_non_null(strstr(shown(f), "ContentType'text/csv' Part'1'"));
	assert_non_null(strstr(shown(f), "ItemOperations:Part'2'"));
	assert_null(find(root, ITEMOPERATIONS_Data));
	assert_null(find(root, AIRSYNCBASE_Data));
	assert_memory_equal(p + le32(p + 12), "123", 3);
	assert_int_equal(le32(p + 16), 3);
}

static void folders_are_emptied(void **state)
{
	struct fixture *f = *state;
	struct store_step sub = {.f = f, .what = STEP_FOLDER, .folder = 3, .text = "Sub"};
	struct db_txn txn;
	struct folder folder;

	step(&sub);
	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'0' CollectionId'3')))");
	for (int i = 0; i < 3; i++)
		deliver(f, 3, 0, "m");
	deliver(f, sub.to, 0, "m");
	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'1' CollectionId'3')))");
	assert_string_equal(operate(f, "EmptyFolderContents(AirSync:CollectionId'3')"),
		OPERATED("EmptyFolderContents(Status'1' AirSync:CollectionId'3')"));
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(folder_get(&txn, f->account.mailbox, 3, &folder), DB_OK);
	assert_int_equal(folder.items, 0);
	assert_int_equal(folder_get(&txn, f->account.mailbox, sub.to, &folder), DB_OK);
	assert_int_equal(folder.items, 1);
	db_read_end(&txn);
	/* The phone is told by its next Sync. */
	run(f, EAS_SYNC, "Sync(Collections(Collection(SyncKey'2' CollectionId'3')))");
	assert_non_null(strstr(
		shown(f), "Delete(ServerId'3:1') Delete(ServerId'3:2') Delete(ServerId'3:3')"));
	operate(f, "EmptyFolderContents(AirSync:CollectionId'3' Options(DeleteSubFolders))");
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(folder_get(&txn, f->account.mailbox, sub.to, &folder), DB_OK);
	assert_true(folder.deleted);
	db_read_end(&txn);
	assert_string_equal(operate(f, "EmptyFolderContents(AirSync:CollectionId'7')"),
		OPERATED("EmptyFolderContents(Status'2' AirSync:CollectionId'7')"));
}

/* The Body of message 1:1 under these Options. */
static const char *body(struct fixture *f, const char *options)
{
	operate(f, arena_printf(&f->text,
			   "Fetch(Store'Mailbox' AirSync:CollectionId'1' AirSync:ServerId'1:1' "
			   "Options(%s Schema(AirSyncBase:Body)))",
			   options));
	const char *s = strstr(shown(f), "AirSyncBase:Body(");
	return s ? s : shown(f);
}

#define PREF(x) "AirSyncBase:BodyPreference(" x ")"

static void bodies_follow_the_preferences(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *options, *body;
	} cases[] = {
		/* Native type first, whatever the order. */
		{PREF("Type'1'") PREF("Type'2'"), "AirSyncBase:Body(Type'2'"},
		{PREF("Type'1'"),
			"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Data'Hello world\r\n')"},
		/* Cut, and said so. */
		{PREF("Type'1' TruncationSize'5'"),
			"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Truncated'1' Data'Hello')"},
		{PREF("Type'1' TruncationSize'0'"),
			"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Truncated'1')"},
		/* All or none: the next preference, or no data. */
		{PREF("Type'2' TruncationSize'14' AllOrNone'1'")
				PREF("Type'1' TruncationSize'14' AllOrNone'1'"),
			"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Data'Hello world\r\n')"},
		{PREF("Type'1' TruncationSize'5' AllOrNone'1' Preview'7'"),
			"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Truncated'1' Preview'Hello "
			"w')"},
		{PREF("Type'1' AllOrNone'1'"),
			"AirSyncBase:Body(Type'1' EstimatedDataSize'13' Data'Hello world\r\n')"},
		/* MIME needs both the type and leave. */
		{PREF("Type'4'") "AirSync:MIMESupport'2'", "AirSyncBase:Body(Type'4'"},
		{PREF("Type'1'") PREF("Type'4'") "AirSync:MIMESupport'2'",
			"AirSyncBase:Body(Type'4'"},
		{PREF("Type'1'") PREF("Type'4'") "AirSync:MIMESupport'1'",
			"AirSyncBase:Body(Type'1'"},
		{PREF("Type'1'") PREF("Type'4'"), "AirSyncBase:Body(Type'1'"},
		{PREF("Type'4'"), "AirSyncBase:Body(Type'1'"},
		{PREF("Type'3'"), "AirSyncBase:Body(Type'1'"},
		{PREF("Type'4'") "AirSync:MIMESupport'2' AirSync:MIMETruncation'0'",
			"AirSyncBase:Body(Type'4' EstimatedDataSize'"},
		{PREF("Type'2' Preview'5'"), "AirSyncBase:Body(Type'2'"},
	};

	deliver_mime(f, 1, (int64_t)(f->now_ms / 1000), mixed);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *got = body(f, cases[i].options);

		if (strncmp(got, cases[i].body, strlen(cases[i].body)) != 0)
			fail_msg("%s: %s, not %s", cases[i].options, got, cases[i].body);
	}
	assert_non_null(strstr(body(f, PREF("Type'2' Preview'5'")), "Preview'Hello')"));
	assert_null(strstr(body(f, PREF("Type'1' Preview'5'")), "Preview"));
	f->version = 121;
	assert_null(strstr(body(f, PREF("Type'2' Preview'5'")), "Preview"));
}

static void dates_are_read_in_both_forms(void **state)
{
	int64_t t;
	char s[EAS_TIME_MAX];

	(void)state;
	assert_true(eas_time_parse(bytes_str("2011-03-01T08:00:00.000Z"), &t));
	assert_int_equal(t, 1298966400);
	assert_true(eas_time_parse(bytes_str("2011-03-01T08:00:00Z"), &t));
	assert_true(eas_time_parse(bytes_str("20110301T080000Z"), &t));
	assert_int_equal(t, 1298966400);
	eas_time_print(t, s);
	assert_string_equal(s, "2011-03-01T08:00:00.000Z");
	static const char *const bad[] = {"", "2011", "2011-03-01", "2011-03-01T08:00:00",
		"2011-13-01T08:00:00Z", "2011-03-01T24:00:00Z", "2011-03-01T08:00:00ZZ",
		"20110301T08:00:00Z", "2011-03-01T08:00:00.x00Z"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(eas_time_parse(bytes_str(bad[i]), &t));
	eas_time_print(INT64_MAX, s);
	assert_string_equal(s, "1970-01-01T00:00:00.000Z");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		eas_test(estimates_count_what_a_sync_would_bring),
		eas_test(moves_say_what_became_of_each),
		eas_test(attachments_are_fetched_whole_and_in_ranges),
		eas_test(get_attachment_is_the_same_for_old_phones),
		eas_test(messages_are_fetched_as_wished),
		eas_test(multipart_carries_contents_beside_the_document),
		eas_test(folders_are_emptied),
		eas_test(bodies_follow_the_preferences),
		cmocka_unit_test(dates_are_read_in_both_forms),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
