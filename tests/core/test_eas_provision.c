/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Who may pass, and how a phone gets its policy key. */
#include "tests/core/eas_fixture.h"

#define TYPE "MS-EAS-Provisioning-WBXML"
#define INFO "Settings:DeviceInformation(Set(Model'X1' OS'Test 1'))"

static const char *fetch(struct fixture *f)
{
	return run(f, EAS_PROVISION,
		"Provision:Provision(" INFO " Policies(Policy(PolicyType'" TYPE "')))");
}

static const char *acknowledge(struct fixture *f, uint32_t key, int status)
{
	return run_printf(f, EAS_PROVISION,
		"Provision:Provision(Policies(Policy(PolicyType'" TYPE
		"' PolicyKey'%u' Status'%d')))",
		key, status);
}

static const char *folder_sync(struct fixture *f)
{
	return run(f, EAS_FOLDER_SYNC, "FolderHierarchy:FolderSync(SyncKey'0')");
}

static void provision(struct fixture *f)
{
	fetch(f);
	acknowledge(f, answer_number(f, PROVISION_PolicyKey), 1);
	f->policy_key = answer_number(f, PROVISION_PolicyKey);
	assert_int_not_equal(f->policy_key, 0);
}

static void two_phases_give_a_key_that_opens(void **state)
{
	struct fixture *f = *state;

	f->config->policy_require = true;
	f->config->policy_password_length_min = 6;
	f->ctx.policy_generation = eas_policy_generation(f->config);
	fetch(f);
	assert_string_equal(answer_text(f, SETTINGS_Status), "1");
	assert_string_equal(answer_text(f, PROVISION_Status), "1");
	assert_string_equal(answer_text(f, PROVISION_MinDevicePasswordLength), "6");
	assert_string_equal(answer_text(f, PROVISION_DevicePasswordEnabled), "1");
	uint32_t temporary = answer_number(f, PROVISION_PolicyKey);
	assert_int_not_equal(temporary, 0);

	/* The temporary key opens nothing. */
	f->policy_key = temporary;
	assert_string_equal(folder_sync(f), "FolderHierarchy:FolderSync(Status'142')");

	assert_non_null(strstr(acknowledge(f, temporary, 1), "PolicyKey'"));
	uint32_t final = answer_number(f, PROVISION_PolicyKey);
	assert_int_not_equal(final, 0);
	assert_null(find(f->root, PROVISION_Data));
	f->policy_key = final;
	assert_non_null(strstr(folder_sync(f), "Status'1'"));

	/* Lost answer: acknowledging again gives a key again. */
	acknowledge(f, temporary, 1);
	f->policy_key = answer_number(f, PROVISION_PolicyKey);
	assert_non_null(strstr(folder_sync(f), "Status'1'"));
	f->policy_key = final;
	if (final != answer_number(f, PROVISION_PolicyKey))
		assert_string_equal(folder_sync(f), "FolderHierarchy:FolderSync(Status'144')");
}

static void refusals_are_statuses_from_14_and_http_below(void **state)
{
	struct fixture *f = *state;

	f->config->policy_require = true;
	assert_string_equal(folder_sync(f), "FolderHierarchy:FolderSync(Status'142')");
	assert_int_equal(f->answer.http_status, 200);
	assert_int_equal(f->answer.eas_status, 142);
	assert_int_equal(device_number(f), 0);
	f->version = 121;
	assert_string_equal(folder_sync(f), "");
	assert_int_equal(f->answer.http_status, 449);
	f->version = 141;
	provision(f);
	f->policy_key ^= 1;
	assert_string_equal(folder_sync(f), "FolderHierarchy:FolderSync(Status'144')");
	f->policy_key ^= 1;
	/* Another policy. */
	f->config->policy_require_encryption = true;
	f->ctx.policy_generation = eas_policy_generation(f->config);
	assert_string_equal(folder_sync(f), "FolderHierarchy:FolderSync(Status'144')");
	provision(f);
	assert_non_null(strstr(folder_sync(f), "Status'1'"));
	/* Blocked: even Provision. */
	step(&(struct store_step){.f = f, .what = STEP_BLOCK, .read = true});
	assert_string_equal(folder_sync(f), "FolderHierarchy:FolderSync(Status'129')");
	assert_string_equal(fetch(f), "Provision:Provision(Status'129')");
	f->version = 121;
	folder_sync(f);
	assert_int_equal(f->answer.http_status, 403);
}

static void without_the_requirement_no_key_is_asked(void **state)
{
	struct fixture *f = *state;

	assert_non_null(strstr(folder_sync(f), "Status'1'"));
	assert_int_not_equal(device_number(f), 0);
	assert_int_equal(f->answer.device, device_number(f));
}

static void ping_meets_blocks_and_new_policies_only(void **state)
{
	struct fixture *f = *state;
	struct device_gate gate = {.id = 1, .policy_key = 5, .policy_generation = 1};

	f->config->policy_require = true;
	f->ctx.policy_generation = 1;
	assert_int_equal(eas_policy_status(&f->ctx, EAS_PING, false, 0, NULL), 0);
	assert_int_equal(eas_policy_status(&f->ctx, EAS_PING, false, 0, &gate), 0);
	gate.policy_generation = 2;
	assert_int_equal(eas_policy_status(&f->ctx, EAS_PING, false, 0, &gate), 144);
	gate.policy_key = 0;
	assert_int_equal(eas_policy_status(&f->ctx, EAS_PING, false, 0, &gate), 0);
	gate.blocked = true;
	assert_int_equal(eas_policy_status(&f->ctx, EAS_PING, false, 0, &gate), 129);
}

static void acknowledgment_is_checked(void **state)
{
	struct fixture *f = *state;

	f->config->policy_require = true;
	fetch(f);
	uint32_t temporary = answer_number(f, PROVISION_PolicyKey);
	assert_string_equal(acknowledge(f, temporary ^ 1, 1),
		"Provision:Provision(Status'1' Policies(Policy(PolicyType'" TYPE "' Status'5')))");
	assert_string_equal(acknowledge(f, temporary, 7), "Provision:Provision(Status'2')");
	assert_string_equal(acknowledge(f, temporary, 3), "Provision:Provision(Status'139')");
	/* Refused once, the key is worthless. */
	assert_non_null(strstr(acknowledge(f, temporary, 1), "Status'5'"));
	fetch(f);
	assert_non_null(
		strstr(acknowledge(f, answer_number(f, PROVISION_PolicyKey), 2), "PolicyKey'"));
	fetch(f);
	assert_non_null(
		strstr(acknowledge(f, answer_number(f, PROVISION_PolicyKey), 4), "PolicyKey'"));
}

static void odd_requests_get_their_status(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(
		run(f, EAS_PROVISION, "Provision:Provision"), "Provision:Provision(Status'2')");
	assert_string_equal(run(f, EAS_PROVISION, "Provision:Provision(Policies(Policy))"),
		"Provision:Provision(Status'2')");
	assert_string_equal(
		run(f, EAS_PROVISION, "Provision:Provision(Policies(Policy(PolicyType'Other')))"),
		"Provision:Provision(Status'1' Policies(Policy(PolicyType'Other' Status'3')))");
	/* 14.1 must say what it is, 14.0 cannot. */
	assert_string_equal(run(f, EAS_PROVISION,
				    "Provision:Provision(Policies(Policy(PolicyType'" TYPE "')))"),
		"Provision:Provision(Status'165')");
	f->version = 140;
	assert_non_null(
		strstr(run(f, EAS_PROVISION,
			       "Provision:Provision(Policies(Policy(PolicyType'" TYPE "')))"),
			"PolicyKey'"));
	f->version = 141;
	fetch(f);
	/* Once is enough. */
	assert_non_null(
		strstr(run(f, EAS_PROVISION,
			       "Provision:Provision(Policies(Policy(PolicyType'" TYPE "')))"),
			"PolicyKey'"));
	/* Another command's document; none; no WBXML. */
	assert_string_equal(run(f, EAS_PROVISION, "Sync"), "Provision:Provision(Status'2')");
	assert_string_equal(run(f, EAS_PROVISION, NULL), "Provision:Provision(Status'101')");
	run_bytes(f, EAS_PROVISION, bytes_str("\x03\x01\x6a\x05"));
	assert_string_equal(shown(f), "Provision:Provision(Status'102')");
	f->version = 121;
	run(f, EAS_PROVISION, NULL);
	assert_int_equal(f->answer.http_status, 400);
	run_bytes(f, EAS_PROVISION, bytes_str("\x03\x01\x6a\x05"));
	assert_int_equal(f->answer.http_status, 400);
}

static void unbuilt_commands_are_501_and_not_advertised(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(eas_commands(),
		"Sync,GetAttachment,FolderSync,FolderCreate,FolderDelete,FolderUpdate,MoveItems,"
		"GetItemEstimate,Settings,ItemOperations,Provision,Ping");
	for (int c = 0; c < EAS_COMMAND_COUNT; c++) {
		char needle[40], hay[300];

		snprintf(needle, sizeof(needle), ",%s,", eas_command_name((enum eas_command)c));
		snprintf(hay, sizeof(hay), ",%s,", eas_commands());
		if (strstr(hay, needle))
			continue;
		run(f, (enum eas_command)c, NULL);
		assert_int_equal(f->answer.http_status, 501);
	}
	run(f, EAS_GET_ATTACHMENT, NULL); /* 12.1 only */
	assert_int_equal(f->answer.http_status, 501);
}

static void generation_follows_the_policy(void **state)
{
	struct fixture *f = *state;
	uint32_t one = eas_policy_generation(f->config);

	assert_int_not_equal(one, 0);
	assert_int_equal(one, eas_policy_generation(f->config));
	f->config->policy_inactivity_lock_s = 300;
	assert_int_not_equal(one, eas_policy_generation(f->config));
}

static void settings_answer_in_order(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(
		run(f, EAS_SETTINGS,
			"Settings:Settings(UserInformation(Get) DeviceInformation(Set(Model'Y' "
			"IMEI'123')) Oof(Get(BodyType'Text')) Oof(Set(OofState'1')) "
			"Oof(Set(OofState'0')) DevicePassword(Set(Password'x')))"),
		"Settings:Settings(Status'1' UserInformation(Status'1' Get(Accounts(Account("
		"EmailAddresses(SMTPAddress'anna@example.org' PrimarySmtpAddress'anna@example.org')"
		")))) DeviceInformation(Status'1') Oof(Status'1' Get(OofState'0')) Oof(Status'5') "
		"Oof(Status'1') DevicePassword(Status'7'))");
	f->version = 140;
	assert_string_equal(run(f, EAS_SETTINGS, "Settings:Settings(UserInformation(Get))"),
		"Settings:Settings(Status'1' UserInformation(Status'1' Get(EmailAddresses("
		"SMTPAddress'anna@example.org'))))");
	assert_string_equal(
		run(f, EAS_SETTINGS, "Settings:Settings"), "Settings:Settings(Status'2')");
	assert_string_equal(run(f, EAS_SETTINGS, "Settings:Settings(Password'x')"),
		"Settings:Settings(Status'2')");
	/* What is already known is not written again. */
	run(f, EAS_SETTINGS, "Settings:Settings(DeviceInformation(Set(Model'Y')))");
	uint64_t before = commits(f);
	run(f, EAS_SETTINGS, "Settings:Settings(DeviceInformation(Set(Model'Y')))");
	assert_int_equal(commits(f), before);
}

static void device_record_follows_version_and_agent(void **state)
{
	struct fixture *f = *state;
	struct db_txn txn;
	struct device d;

	folder_sync(f);
	f->version = 160;
	folder_sync(f);
	assert_int_equal(db_read(f->db, &txn), DB_OK);
	assert_int_equal(device_find(&txn, f->account.mailbox, bytes_str("phone1"), &d), DB_OK);
	db_read_end(&txn);
	assert_int_equal(d.version, 160);
	assert_string_equal(d.user_agent, "Test/1");
	assert_string_equal(d.device_type, "Test");
	assert_int_equal(d.first_seen_ms, f->now_ms);
	f->device_id = "";
	assert_string_equal(folder_sync(f), "FolderHierarchy:FolderSync(Status'108')");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		eas_test(two_phases_give_a_key_that_opens),
		eas_test(refusals_are_statuses_from_14_and_http_below),
		eas_test(without_the_requirement_no_key_is_asked),
		eas_test(ping_meets_blocks_and_new_policies_only),
		eas_test(acknowledgment_is_checked),
		eas_test(odd_requests_get_their_status),
		eas_test(unbuilt_commands_are_501_and_not_advertised),
		eas_test(generation_follows_the_policy),
		eas_test(settings_answer_in_order),
		eas_test(device_record_follows_version_and_agent),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
