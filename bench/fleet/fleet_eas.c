/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What a phone of a fleet asks an ActiveSync server until it hangs in a Ping, and what it makes of the
 * answers. */
#include "bench/fleet/fleet_priv.h"

#include "bench/fleet/eas_request.h"
#include "core/base/check.h"
#include "core/eas/wbxml.h"

#include <stdio.h>
#include <stdlib.h>

void fleet_eas_ask(struct fleet *f, uint32_t i)
{
	struct fleet_phone *p = &f->phones[i];
	char user[256], password[256], device[64], authorization[1024];
	struct phone_identity who = {
		.host = f->o.host_header,
		.user = user,
		.authorization = authorization,
		.device_id = device,
		.device_type = "RoostBench",
		.user_agent = "roost-bench",
		.version = f->o.version,
		.policy_key = f->priming ? f->priming[i].policy_key : 0,
	};
	const char *folder = f->priming ? f->priming[i].inbox : NULL;
	const struct bytes inbox = bytes_str(folder ? folder : "1");
	struct phone_sync sync = {
		.folder = inbox,
		.key = bytes_str(f->priming ? f->priming[i].sync_key : NULL),
		.prime = p->state == STATE_SYNC_PRIME,
		.body_type = 1,
		.truncation_bytes = 512,
	};
	enum eas_command command = EAS_PING;
	uint32_t timeout_s = REQUEST_TIMEOUT_S, heartbeat_s;

	f->o.user(i % f->o.users, user, sizeof(user));
	f->o.device(i, device, sizeof(device));
	f->o.password(i % f->o.users, password, sizeof(password));
	CHECK(phone_basic(user, password, authorization, sizeof(authorization)));
	f->document.n = f->request.n = 0;
	switch ((enum state)p->state) {
	case STATE_POLICY_ASK:
		phone_body_provision_ask(who.version, "Benchmark", who.user_agent, &f->document);
		command = EAS_PROVISION;
		break;
	case STATE_POLICY_ACKNOWLEDGE:
		phone_body_provision_acknowledge(who.policy_key, &f->document);
		command = EAS_PROVISION;
		break;
	case STATE_FOLDERS:
		phone_body_folder_sync(bytes_str("0"), &f->document);
		command = EAS_FOLDER_SYNC;
		break;
	case STATE_SYNC_PRIME:
	case STATE_SYNC:
		phone_body_sync(&sync, 1, who.version, 0, &f->document);
		command = EAS_SYNC;
		break;
	case STATE_PING:
		heartbeat_s = fleet_heartbeat_s(f, i);
		phone_body_ping(heartbeat_s, &inbox, 1, &f->document);
		timeout_s = 0;
		p->due_ms = (uint32_t)client_now_ms(f->client) + heartbeat_s * 1000;
		fleet_begun(f, i);
		break;
	default:
		CHECK(!"a state that asks");
	}
	phone_request(&who, command, buf_bytes(&f->document), &f->request);
	CHECK(!f->request.failed);
	/* With `sync` not before the Ping: mail that comes while it syncs would wake nobody. */
	if (p->state == STATE_PING || !f->o.sync)
		atomic_store_explicit(&p->came_ns, 0, memory_order_relaxed);
	client_request(f->client, i, buf_bytes(&f->request), timeout_s);
}

static bool keep_key(struct priming *p, struct bytes key)
{
	if (key.n == 0)
		return false;
	free(p->sync_key);
	p->sync_key = strndup((const char *)key.p, key.n);
	return p->sync_key != NULL;
}

/* Type 2 is the inbox (MS-ASCMD 2.2.3.186.3). */
static bool keep_inbox(struct priming *k, const struct wbxml_node *changes)
{
	const struct wbxml_node *add = wbxml_child(changes, FOLDERHIERARCHY_Add);

	free(k->inbox);
	k->inbox = NULL;
	for (; add && !k->inbox; add = wbxml_next_of(add, FOLDERHIERARCHY_Add)) {
		struct bytes id = wbxml_text(add, FOLDERHIERARCHY_ServerId);

		if (bytes_eq_str(wbxml_text(add, FOLDERHIERARCHY_Type), "2") && id.n)
			k->inbox = strndup((const char *)id.p, id.n);
	}
	return k->inbox != NULL;
}

static void answer_priming(struct fleet *f, uint32_t i, const struct wbxml_node *root)
{
	struct fleet_phone *p = &f->phones[i];
	struct priming *k = &f->priming[i];
	const struct wbxml_node *at = NULL;
	struct phone_provision policy;
	struct phone_folder_sync folders;
	struct phone_collection c = {.status = 0};
	char why[96];

	switch ((enum state)p->state) {
	case STATE_POLICY_ASK:
	case STATE_POLICY_ACKNOWLEDGE:
		if (!phone_read_provision(root, &policy) || policy.status != 1 ||
			(policy.policy_status != 1 && policy.policy_status != NO_POLICY)) {
			snprintf(why, sizeof(why),
				"Provision failed: status %u, of the policy %u%s", policy.status,
				policy.policy_status, root ? "" : " (the answer has no document)");
			fleet_fail(f, i, why);
			return;
		}
		k->policy_key = policy.policy_key;
		fleet_move(f, i,
			p->state == STATE_POLICY_ASK && policy.policy_status != NO_POLICY
				? STATE_POLICY_ACKNOWLEDGE
				: STATE_FOLDERS);
		break;
	case STATE_FOLDERS:
		if (!phone_read_folder_sync(root, &folders) || folders.status != 1) {
			snprintf(why, sizeof(why), "FolderSync failed: status %u%s", folders.status,
				root ? "" : " (the answer has no document)");
			fleet_fail(f, i, why);
			return;
		}
		if (!keep_inbox(k, folders.changes)) {
			fleet_fail(f, i, "FolderSync names no inbox");
			return;
		}
		fleet_move(f, i, STATE_SYNC_PRIME);
		CHECK(keep_key(k, bytes_str("0")));
		break;
	default:
		/* An empty answer to Sync means that nothing is left. */
		if (root && (!phone_next_collection(root, &at, &c) || c.status != 1 ||
				    !keep_key(k, c.key))) {
			snprintf(why, sizeof(why), "Sync failed: status %u, %u",
				phone_sync_status(root), c.status);
			fleet_fail(f, i, why);
			return;
		}
		if (p->state == STATE_SYNC_PRIME || c.more) {
			fleet_move(f, i, STATE_SYNC);
			break;
		}
		if (!f->o.sync)
			fleet_forget_key(f, i);
		p->primed = true;
		fleet_move(f, i, STATE_PING);
	}
	fleet_ask(f, i);
}

/* Status 2 must name the inbox and nothing else. */
static bool names_the_inbox(const struct fleet *f, uint32_t i, const struct phone_ping *ping)
{
	const char *inbox = f->priming && f->priming[i].inbox ? f->priming[i].inbox : "1";
	const struct wbxml_node *folder = wbxml_child(ping->folders, PING_Folder);

	return folder && bytes_eq_str(wbxml_text(ping->folders, PING_Folder), inbox) &&
	       !wbxml_next_of(folder, PING_Folder);
}

static void count_expiry(struct fleet *f, uint32_t i, uint64_t came_ns)
{
	struct fleet_phone *p = &f->phones[i];
	int32_t late_ms = (int32_t)((uint32_t)(came_ns / 1000000) - p->due_ms);
	struct fleet_status *s = &f->status;

	atomic_fetch_add_explicit(&p->expired, 1, memory_order_release);
	pthread_mutex_lock(&f->mutex);
	s->heartbeats++;
	s->heartbeats_early += late_ms < -LATE_MS;
	s->heartbeats_late += late_ms > LATE_MS;
	if (-late_ms > s->early_most_ms)
		s->early_most_ms = -late_ms;
	if (late_ms > s->late_most_ms)
		s->late_most_ms = late_ms;
	f->dirty = true;
	pthread_mutex_unlock(&f->mutex);
}

static void answer_ping(
	struct fleet *f, uint32_t i, const struct wbxml_node *root, uint64_t came_ns)
{
	struct phone_ping ping = {.status = 0};
	char why[64];

	if (phone_read_ping(root, &ping) && ping.status == 2) {
		if (!names_the_inbox(f, i, &ping)) {
			fleet_ended(f, i, LEDGER_ODD);
			fleet_fail(f, i, "Ping answered with other folders than were watched");
			return;
		}
		fleet_ended(f, i, LEDGER_CHANGE);
		atomic_fetch_add_explicit(&f->phones[i].woken, 1, memory_order_relaxed);
		atomic_store_explicit(&f->phones[i].came_ns, came_ns, memory_order_release);
		fleet_move(f, i, STATE_ANSWERED);
		return;
	}
	if (ping.status == 1 && f->o.heartbeat_min_s) {
		fleet_ended(f, i, LEDGER_HEARTBEAT);
		count_expiry(f, i, came_ns);
		fleet_move(f, i, STATE_PING);
		fleet_ask(f, i);
		return;
	}
	fleet_ended(f, i, LEDGER_ODD);
	snprintf(why, sizeof(why), "Ping answered with status %u", ping.status);
	fleet_fail(f, i, why);
}

void fleet_eas_answered(struct fleet *f, uint32_t i, struct bytes body, uint64_t came_ns)
{
	struct wbxml_node *root = NULL;
	const char *why = NULL;
	struct arena arena;

	arena_init(&arena, 4 << 20);
	if (body.n && wbxml_parse(body, &arena, NULL, &root, &why) < 0) {
		fleet_ended(f, i, LEDGER_ODD);
		fleet_fail(f, i, why);
	} else if (f->phones[i].state >= STATE_PING)
		answer_ping(f, i, root, came_ns);
	else
		answer_priming(f, i, root);
	arena_free(&arena);
}

uint32_t fleet_eas_ping_status(const struct http_answer *h, struct bytes body)
{
	struct phone_ping ping = {.status = 0};
	struct wbxml_node *root = NULL;
	struct arena arena;
	const char *why = NULL;

	arena_init(&arena, 4 << 20);
	if (h->status == 200 && body.n && wbxml_parse(body, &arena, NULL, &root, &why) >= 0)
		phone_read_ping(root, &ping);
	arena_free(&arena);
	return ping.status;
}
