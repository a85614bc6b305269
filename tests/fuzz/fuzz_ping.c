/* SPDX-License-Identifier: GPL-3.0-or-later */
/* A Ping's body, as the shard reads it: any bytes give a decision, the same one twice, and what was
 * accepted is within bounds. The answer is WBXML that our other decoder reads. */
#include "core/base/arena.h"
#include "core/eas/wbxml.h"
#include "core/push/ping.h"

#include <stdlib.h>
#include <string.h>

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void check_answer(enum ping_status status, uint32_t limit, const uint32_t *folders, size_t n)
{
	uint8_t doc[PING_ANSWER_MAX];
	size_t bytes = ping_encode(status, limit, folders, n, doc);
	struct wbxml_node *root;
	const char *why;
	struct arena a;
	uint32_t v = 0;

	must(bytes <= sizeof(doc));
	arena_init(&a, 1 << 20);
	must(wbxml_parse(bytes_of(doc, bytes), &a, NULL, &root, &why) == 1);
	must(root->tag == PING_Ping && wbxml_u32(wbxml_child(root, PING_Status), 999, &v));
	must(v == (uint32_t)status);
	if (status == PING_CHANGES)
		must(wbxml_child(root, PING_Folders)->child_count == n);
	arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct ping one, two;
	static const uint16_t versions[] = {121, 140, 141, 160, 161};
	uint16_t version = n ? versions[p[0] % 5] : 141;
	struct bytes body = n ? bytes_of(p + 1, n - 1) : bytes_of("", 0);
	bool ok;

	memset(&one, 0xa5, sizeof(one));
	memset(&two, 0x5a, sizeof(two));
	ok = ping_parse(&one, body, version);
	must(ok == ping_parse(&two, body, version) && one.status == two.status);
	must(ok == (one.status == PING_PARK));
	must(ok || (one.why && one.why[0]));
	must(one.folder_count <= PING_FOLDERS_MAX);
	must(one.folder_count + one.unknown_count <= one.asked_count);
	must(one.folder_count == two.folder_count &&
		memcmp(one.folders, two.folders, one.folder_count * sizeof(one.folders[0])) == 0);
	if (!ok) {
		must(one.status == PING_SYNTAX || one.status == PING_WBXML ||
			one.status == PING_BAD_REQUEST);
		if (one.status != PING_BAD_REQUEST)
			check_answer(one.status, 0, NULL, 0);
		return 0;
	}
	must(body.n == 0 || one.has_heartbeat || one.has_folders);
	for (uint32_t i = 0; i < one.folder_count; i++) {
		must(one.folders[i] != 0);
		for (uint32_t k = 0; k < i; k++)
			must(one.folders[i] != one.folders[k]);
	}
	if (one.folder_count)
		check_answer(PING_CHANGES, 0, one.folders, one.folder_count);
	check_answer(PING_INTERVAL, (uint32_t)one.heartbeat_asked_s, NULL, 0);
	return 0;
}
