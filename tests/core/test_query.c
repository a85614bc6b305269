/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/eas/query.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static const char *why;

/* From memory of exactly its size, and with the promise that a refusal leaves q alone. */
static int parse_n(const char *query, size_t n, struct eas_query *q)
{
	char *copy = malloc(n ? n : 1);
	struct eas_query before;
	int rc;

	assert_non_null(copy);
	memcpy(copy, query, n);
	memset(q, 0x55, sizeof(*q));
	memcpy(&before, q, sizeof(before));
	why = NULL;
	rc = eas_query_parse(bytes_of(copy, n), q, &why);
	free(copy);
	if (rc == EAS_QUERY_MALFORMED)
		assert_memory_equal(q, &before, sizeof(before));
	if (rc < 1)
		assert_non_null(why);
	return rc;
}

static int parse(const char *query, struct eas_query *q)
{
	return parse_n(query, strlen(query), q);
}

#define assert_malformed(query)                                                                    \
	do {                                                                                       \
		struct eas_query q_;                                                               \
		assert_int_equal(parse(query, &q_), EAS_QUERY_MALFORMED);                          \
	} while (0)
#define assert_accepted(query)                                                                     \
	do {                                                                                       \
		struct eas_query q_;                                                               \
		assert_int_equal(parse(query, &q_), 1);                                            \
	} while (0)

static void base64_encode(const uint8_t *p, size_t n, char *dst)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;

		if (i + 1 < n)
			v |= (uint32_t)p[i + 1] << 8;
		if (i + 2 < n)
			v |= p[i + 2];
		*dst++ = letters[v >> 18];
		*dst++ = letters[v >> 12 & 63];
		*dst++ = i + 1 < n ? letters[v >> 6 & 63] : '=';
		*dst++ = i + 2 < n ? letters[v & 63] : '=';
	}
	*dst = 0;
}

/* Encodes the bytes of a string literal and parses that. */
static int parse_bytes(const char *p, size_t n, struct eas_query *q)
{
	char text[8192];

	base64_encode((const uint8_t *)p, n, text);
	return parse(text, q);
}
#define RAW(literal) literal, sizeof(literal) - 1

/* 12.1 Sync, en-US, device DEV1, no policy key, type SP. */
#define START                                                                                      \
	"\x79\x00\x09\x04\x04"                                                                     \
	"DEV1"                                                                                     \
	"\x00\x02"                                                                                 \
	"SP"

static void the_example_of_the_document_is_read(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse("jAAJBAp2MTQwRGV2aWNlAApTbWFydFBob25l", &q), 1);
	assert_true(q.is_base64);
	assert_int_equal(q.version, 140);
	assert_int_equal(q.command, EAS_SYNC);
	assert_int_equal(q.locale, 0x0409);
	assert_string_equal(q.device_id, "v140Device");
	assert_string_equal(q.device_type, "SmartPhone");
	assert_false(q.has_policy_key);
	assert_string_equal(q.user, "");
}

static void a_policy_key_in_base64_is_little_endian(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse("jRIJBARERVYxBGBI6k0CU1A=", &q), 1);
	assert_int_equal(q.version, 141);
	assert_int_equal(q.command, EAS_PING);
	assert_string_equal(q.device_id, "DEV1");
	assert_true(q.has_policy_key);
	assert_int_equal(q.policy_key, 1307199584);
	assert_string_equal(q.device_type, "SP");
}

static void a_smart_reply_in_base64_names_what_it_replies_to(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse("eQMJBARERVYxAAJTUAEBNQMDNTo3BwEB", &q), 1);
	assert_int_equal(q.version, 121);
	assert_int_equal(q.command, EAS_SMART_REPLY);
	assert_string_equal(q.collection_id, "5");
	assert_string_equal(q.item_id, "5:7");
	assert_true(q.save_in_sent);
	assert_false(q.accept_multipart);
}

static void base64_may_lack_padding_or_be_percent_encoded(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse("jRIJBARERVYxBGBI6k0CU1A", &q), 1);
	assert_int_equal(q.policy_key, 1307199584);
	assert_int_equal(parse("jRIJBARERVYxBGBI6k0CU1A%3D", &q), 1);
	assert_int_equal(q.policy_key, 1307199584);
	assert_int_equal(parse("%6aRIJBARERVYxBGBI6k0CU1A%3d", &q), 1);
	assert_int_equal(q.policy_key, 1307199584);
	/* '+' and '/' as they are and encoded: policy key FB EF BE FF. */
	assert_int_equal(parse("eQAJBANERVYE++++/wJTUA==", &q), 1);
	assert_int_equal(q.policy_key, 0xffbeeffb);
	assert_int_equal(parse("eQAJBANERVYE%2B%2b++%2FwJTUA", &q), 1);
	assert_int_equal(q.policy_key, 0xffbeeffb);
}

static void every_tag_has_its_place_and_unknown_ones_are_skipped(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse_bytes(RAW(START "\x00\x02"
					       "at"
					       "\x01\x01"
					       "c"
					       "\x02\x01"
					       "x"
					       "\x03\x01"
					       "i"
					       "\x04\x01"
					       "l"
					       "\x05\x01"
					       "y"
					       "\x06\x01"
					       "o"
					       "\x07\x01\x02"
					       "\x08\x03"
					       "D\\u"
					       "\x09\x02\x00\xff"
					       "\xff\x00"),
				 &q),
		1);
	assert_string_equal(q.attachment_name, "at");
	assert_string_equal(q.collection_id, "c");
	assert_string_equal(q.item_id, "i");
	assert_string_equal(q.long_id, "l");
	assert_string_equal(q.occurrence, "o");
	assert_string_equal(q.user, "D\\u");
	assert_false(q.save_in_sent);
	assert_true(q.accept_multipart);
}

static void a_binary_device_id_becomes_hexadecimal(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse_bytes(RAW("\x79\x00\x09\x04\x10"
					 "\x00\x01\x02\x03\x04\x05\x06\x07"
					 "\x08\x09\x0a\x0b\xfc\xfd\xfe\xff"
					 "\x00\x02"
					 "SP"),
				 &q),
		1);
	assert_string_equal(q.device_id, "000102030405060708090a0bfcfdfeff");
}

static void device_ids_up_to_64_characters_fit_in_either_form(void **state)
{
	struct eas_query q;
	char raw[200], text[400];

	(void)state;
	for (int n = 1; n <= 70; n++) {
		int expected = n <= EAS_DEVICE_ID_MAX ? 1 : EAS_QUERY_MALFORMED;

		snprintf(text, sizeof(text), "Cmd=Sync&DeviceId=%.*s", n,
			"a234567890123456789012345678901234567890123456789012345678901234567890");
		assert_int_equal(parse(text, &q), expected);
		memcpy(raw, "\x79\x00\x09\x04", 4);
		raw[4] = (char)n;
		memset(raw + 5, 'a', (size_t)n);
		memcpy(raw + 5 + n, "\x00\x02SP", 4);
		assert_int_equal(parse_bytes(raw, (size_t)n + 9, &q), expected);
		memset(raw + 5, '\xff', (size_t)n);
		assert_int_equal(parse_bytes(raw, (size_t)n + 9, &q),
			n <= EAS_DEVICE_ID_MAX / 2 ? 1 : EAS_QUERY_MALFORMED);
	}
}

static void device_ids_with_specials_are_refused_in_either_form(void **state)
{
	static const char specials[] = " ,;:/\\'\"<>&=+*?{}|$!@%~";
	struct eas_query q;

	(void)state;
	for (const char *s = specials; *s; s++) {
		char text[100], raw[] = "\x79\x00\x09\x04\x03"
					"AxB"
					"\x00\x02"
					"SP";

		snprintf(text, sizeof(text), "Cmd=Sync&DeviceType=SP&DeviceId=A%%%02xB", *s);
		assert_int_equal(parse(text, &q), EAS_QUERY_MALFORMED);
		raw[6] = *s;
		assert_int_equal(parse_bytes(raw, sizeof(raw) - 1, &q), EAS_QUERY_MALFORMED);
	}
	assert_malformed("Cmd=Sync&DeviceId=-rf");
	assert_malformed("Cmd=Sync&DeviceId=..");
	assert_malformed("Cmd=Sync&DeviceId=m%C3%BC");
	assert_malformed("Cmd=Sync&DeviceId=a%0Ab");
	assert_accepted("Cmd=Sync&DeviceId=a-b_c.d");
}

static void damaged_base64_is_refused(void **state)
{
	struct eas_query q;

	(void)state;
	assert_malformed("");
	assert_malformed("=");
	assert_malformed("!");
	assert_malformed("jRIJ BARE");
	assert_malformed("jRIJBARERVYxBGBI6k0CU1A%");
	assert_malformed("jRIJBARERVYxBGBI6k0CU1A%00");
	assert_malformed("User=u&DeviceId=d&DeviceType=t");
	assert_int_equal(parse_bytes(RAW(START), &q), 1);
	/* Cut anywhere before the end of the device type. */
	for (size_t n = 0; n < sizeof(START) - 1; n++)
		assert_int_equal(parse_bytes(START, n, &q), EAS_QUERY_MALFORMED);
	assert_int_equal(parse_bytes(RAW(START "\x01"), &q), EAS_QUERY_MALFORMED);
	assert_int_equal(parse_bytes(RAW(START "\x01\x01"), &q), EAS_QUERY_MALFORMED);
	assert_int_equal(parse_bytes(RAW(START "\x63\xff"
					       "x"),
				 &q),
		EAS_QUERY_MALFORMED);
}

static void base64_fields_out_of_range_are_refused(void **state)
{
	struct eas_query q;

	(void)state;
#define REFUSED(literal) assert_int_equal(parse_bytes(RAW(literal), &q), EAS_QUERY_MALFORMED)
	REFUSED("\x00\x00\x09\x04\x01"
		"D"
		"\x00\x01"
		"S"); /* version */
	REFUSED("\xbf\x00\x09\x04\x01"
		"D"
		"\x00\x01"
		"S"); /* version */
	REFUSED("\x79\x00\x09\x04\x00"
		"\x00\x01"
		"S"); /* device id */
	REFUSED("\x79\x00\x09\x04\x01"
		"D"
		"\x01\x01"
		"\x01"
		"S"); /* policy key */
	REFUSED("\x79\x00\x09\x04\x01"
		"D"
		"\x05"
		"12345"
		"\x01"
		"S"); /* policy key */
	REFUSED("\x79\x00\x09\x04\x01"
		"D"
		"\x00\x02"
		"S\x00"); /* NUL in the type */
	REFUSED("\x79\x00\x09\x04\x01"
		"D"
		"\x00\x02"
		"S\xff");                  /* type not UTF-8 */
	REFUSED(START "\x07\x00");         /* Options */
	REFUSED(START "\x07\x02\x01\x01"); /* Options */
	REFUSED(START "\x07\x01\x01"
		      "\x07\x01\x02"); /* Options twice */
	REFUSED(START "\x01\x01"
		      "1"
		      "\x01\x01"
		      "2");          /* CollectionId twice */
	REFUSED(START "\x08\x01\n"); /* control in User */
	REFUSED(START "\x01\x41"
		      "01234567890123456789012345678901"
		      "234567890123456789012345678901234"); /* CollectionId long */
#undef REFUSED
	assert_int_equal(parse_bytes(RAW(START "\x01\x01"
					       "1"
					       "\x01\x01"
					       "1"),
				 &q),
		1);
	assert_int_equal(parse_bytes(RAW(START "\x07\x01\xff"), &q), 1);
	assert_int_equal(parse_bytes(RAW("\x79\x00\x09\x04\x01"
					 "D"
					 "\x00\x00"),
				 &q),
		1);
	assert_string_equal(q.device_type, "");
}

static void every_listed_version_is_taken_from_base64(void **state)
{
	static const int versions[] = {25, 120, 121, 140, 141, 160, 161};
	struct eas_query q;

	(void)state;
	for (size_t i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
		char raw[] = START;

		raw[0] = (char)versions[i];
		assert_int_equal(parse_bytes(raw, sizeof(raw) - 1, &q), 1);
		assert_int_equal(q.version, versions[i]);
	}
}

static void a_query_beyond_its_bound_is_refused(void **state)
{
	struct eas_query q;
	char text[EAS_QUERY_BYTES_MAX + 2];

	(void)state;
	memset(text, 'A', sizeof(text));
	memcpy(text, "eQAJBANERVYE++++/wJTUA", 20);
	assert_int_equal(parse_n(text, EAS_QUERY_BYTES_MAX + 1, &q), EAS_QUERY_MALFORMED);
}

static void a_plain_query_is_read_in_any_order_and_case(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(
		parse("DEVICETYPE=iPhone&user=DOM%5Cm%c3%bcller&saveinsent=t&cMd=smartREPLY"
		      "&itemid=5%3A7&LongId=l&CollectionId=5&AttachmentName=a+b%20c"
		      "&Occurrence=o&deviceID=Appl123",
			&q),
		1);
	assert_false(q.is_base64);
	assert_int_equal(q.version, 0);
	assert_int_equal(q.locale, 0);
	assert_int_equal(q.command, EAS_SMART_REPLY);
	assert_string_equal(q.user, "DOM\\m\xc3\xbcller");
	assert_string_equal(q.device_id, "Appl123");
	assert_string_equal(q.device_type, "iPhone");
	assert_string_equal(q.item_id, "5:7");
	assert_string_equal(q.collection_id, "5");
	assert_string_equal(q.long_id, "l");
	assert_string_equal(q.attachment_name, "a+b c");
	assert_string_equal(q.occurrence, "o");
	assert_true(q.save_in_sent);
	assert_false(q.accept_multipart);
	assert_false(q.has_policy_key);
}

static void plain_parameters_may_be_absent_empty_or_unknown(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse("Cmd=FolderSync", &q), 1);
	assert_string_equal(q.device_id, "");
	assert_string_equal(q.device_type, "");
	assert_int_equal(parse("&&User=&x&=y&z=%zz&%=1&Cmd=Sync&DeviceId&", &q), 1);
	assert_int_equal(q.command, EAS_SYNC);
	assert_string_equal(q.device_id, "");
	assert_int_equal(parse("Cmd=Sync&Device%49d=d", &q), 1);
	assert_string_equal(q.device_id, "d");
	assert_accepted("AVeryLongNameThatNobodyHasEverHeardOf=x&Cmd=Sync");
}

static void malformed_plain_values_are_refused(void **state)
{
	char text[400];
	struct eas_query q;

	(void)state;
	assert_malformed("Cmd=Sync&User=%");
	assert_malformed("Cmd=Sync&User=%4");
	assert_malformed("Cmd=Sync&User=%xy");
	assert_malformed("Cmd=Sync&User=%00");
	assert_malformed("Cmd=Sync&User=%0d%0a");
	assert_malformed("Cmd=Sync&User=%ff");
	assert_malformed("Cmd=Sync&DeviceType=%7f");
	assert_malformed("Cmd=%&DeviceId=d");
	assert_malformed("Cmd=SendMail&SaveInSent=yes");
	assert_malformed("Cmd=SendMail&SaveInSent=");
	for (int n = 255; n <= 257; n++) {
		snprintf(text, sizeof(text), "Cmd=Sync&User=%0*d", n, 1);
		assert_int_equal(parse(text, &q), n <= EAS_TEXT_MAX ? 1 : EAS_QUERY_MALFORMED);
	}
	for (int n = 64; n <= 65; n++) {
		snprintf(text, sizeof(text), "Cmd=Sync&DeviceType=%0*d", n, 1);
		assert_int_equal(parse(text, &q), n == 64 ? 1 : EAS_QUERY_MALFORMED);
		snprintf(text, sizeof(text), "Cmd=Sync&CollectionId=%0*d", n, 1);
		assert_int_equal(parse(text, &q), n == 64 ? 1 : EAS_QUERY_MALFORMED);
	}
}

static void parameters_given_twice_must_agree(void **state)
{
	(void)state;
	assert_malformed("Cmd=Sync&Cmd=Ping");
	assert_malformed("Cmd=Sync&DeviceId=a&deviceid=b");
	assert_malformed("Cmd=Sync&DeviceId=a&DeviceId=");
	assert_malformed("Cmd=SendMail&SaveInSent=T&SaveInSent=F");
	assert_accepted("Cmd=Sync&DeviceId=a&DeviceId=%61&Cmd=sync");
}

static void only_a_parameter_named_cmd_makes_a_query_plain(void **state)
{
	(void)state;
	assert_malformed("XCmd=Sync&DeviceId=d");
	assert_malformed("User=Cmd=Sync&DeviceId=d");
	assert_malformed("Cmd");
	assert_accepted("User=Cmd=Ping&cmd=Sync");
}

/* To the caller: 501 and 400 are different answers. */
static void an_unknown_command_is_reported_apart_with_the_rest_filled(void **state)
{
	struct eas_query q;

	(void)state;
	assert_int_equal(parse("Cmd=Frobnicate&DeviceId=d1", &q), EAS_QUERY_UNKNOWN_COMMAND);
	assert_int_equal(q.command, EAS_COMMAND_NONE);
	assert_string_equal(q.device_id, "d1");
	assert_int_equal(parse("Cmd=", &q), EAS_QUERY_UNKNOWN_COMMAND);
	assert_int_equal(parse("Cmd=Autodiscover", &q), EAS_QUERY_UNKNOWN_COMMAND);
	assert_malformed("Cmd=Frobnicate&DeviceId=a,b");
	assert_int_equal(parse_bytes(RAW("\x79\x18\x09\x04\x01"
					 "D"
					 "\x00\x01"
					 "S"),
				 &q),
		EAS_QUERY_UNKNOWN_COMMAND);
	assert_string_equal(q.device_id, "D");
	assert_int_equal(parse_bytes(RAW("\x79\xff\x09\x04\x01"
					 "D"
					 "\x00\x01"
					 "S"),
				 &q),
		EAS_QUERY_UNKNOWN_COMMAND);
}

static void commands_have_the_codes_and_names_of_the_document(void **state)
{
	static const struct {
		int code;
		enum eas_command command;
		const char *name;
	} some[] = {{0, EAS_SYNC, "Sync"}, {4, EAS_GET_ATTACHMENT, "GetAttachment"},
		{5, EAS_GET_HIERARCHY, "GetHierarchy"}, {9, EAS_FOLDER_SYNC, "FolderSync"},
		{13, EAS_MOVE_ITEMS, "MoveItems"}, {18, EAS_PING, "Ping"},
		{20, EAS_PROVISION, "Provision"}, {23, EAS_FIND, "Find"}};

	(void)state;
	for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
		assert_int_equal(some[i].command, some[i].code);
		assert_string_equal(eas_command_name(some[i].command), some[i].name);
	}
	for (int c = 0; c < EAS_COMMAND_COUNT; c++) {
		const char *name = eas_command_name((enum eas_command)c);

		assert_int_equal(eas_command_by_name(bytes_str(name)), c);
	}
	assert_int_equal(eas_command_by_name(bytes_str("pINg")), EAS_PING);
	assert_int_equal(eas_command_by_name(bytes_str("Pin")), EAS_COMMAND_NONE);
	assert_int_equal(eas_command_by_name(bytes_str("")), EAS_COMMAND_NONE);
	assert_string_equal(eas_command_name(EAS_COMMAND_NONE), "unknown");
	assert_string_equal(eas_command_name(EAS_COMMAND_COUNT), "unknown");
}

static void versions_are_exact(void **state)
{
	static const char *const names[] = {"2.5", "12.0", "12.1", "14.0", "14.1", "16.0", "16.1"};
	static const int numbers[] = {25, 120, 121, 140, 141, 160, 161};
	static const char *const bad[] = {
		"", "1.0", "2.50", "12", "12.10", "012.1", " 12.1", "14.2", "19.1", "121", "12.1 "};

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(eas_version_parse(bytes_str(names[i])), numbers[i]);
		assert_string_equal(eas_version_name(numbers[i]), names[i]);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(eas_version_parse(bytes_str(bad[i])), -1);
	assert_null(eas_version_name(0));
	assert_null(eas_version_name(-1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_example_of_the_document_is_read),
		cmocka_unit_test(a_policy_key_in_base64_is_little_endian),
		cmocka_unit_test(a_smart_reply_in_base64_names_what_it_replies_to),
		cmocka_unit_test(base64_may_lack_padding_or_be_percent_encoded),
		cmocka_unit_test(every_tag_has_its_place_and_unknown_ones_are_skipped),
		cmocka_unit_test(a_binary_device_id_becomes_hexadecimal),
		cmocka_unit_test(device_ids_up_to_64_characters_fit_in_either_form),
		cmocka_unit_test(device_ids_with_specials_are_refused_in_either_form),
		cmocka_unit_test(damaged_base64_is_refused),
		cmocka_unit_test(base64_fields_out_of_range_are_refused),
		cmocka_unit_test(every_listed_version_is_taken_from_base64),
		cmocka_unit_test(a_query_beyond_its_bound_is_refused),
		cmocka_unit_test(a_plain_query_is_read_in_any_order_and_case),
		cmocka_unit_test(plain_parameters_may_be_absent_empty_or_unknown),
		cmocka_unit_test(malformed_plain_values_are_refused),
		cmocka_unit_test(parameters_given_twice_must_agree),
		cmocka_unit_test(only_a_parameter_named_cmd_makes_a_query_plain),
		cmocka_unit_test(an_unknown_command_is_reported_apart_with_the_rest_filled),
		cmocka_unit_test(commands_have_the_codes_and_names_of_the_document),
		cmocka_unit_test(versions_are_exact),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
