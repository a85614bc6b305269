/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_provision.c - Provision: the policy is fetched, then acknowledged (MS-ASPROV
 * 3.1.5.1, 3.2.5.1). */
#include <stdio.h>
#include <sys/random.h>

#include "core/eas/eas_priv.h"

#define POLICY_TYPE "MS-EAS-Provisioning-WBXML"

static uint32_t random_key(void)
{
	uint32_t key = 0;

	/* Nonzero: 0 is what a phone without a key sends. */
	while (key == 0)
		if (getrandom(&key, sizeof(key), 0) != sizeof(key))
			key = 0;
	return key;
}

struct provision {
	const struct eas_call *c;
	const struct wbxml_node *information; /* settings:Set, or NULL */
	enum { FETCH, ACKNOWLEDGE, REFUSE } step;
	uint32_t key;       /* to be issued */
	uint32_t key_sent;  /* ACKNOWLEDGE, REFUSE: the temporary one */
	bool key_wrong;     /* outcome */
	bool unknown_phone; /* outcome of FETCH: no DeviceInformation, now or earlier */
};

static int provision_write(struct db_txn *txn, void *arg)
{
	struct provision *p = arg;
	uint32_t mailbox = p->c->req->mailbox;
	struct device d;
	int err = device_get(txn, mailbox, p->c->device, &d);

	p->key_wrong = p->unknown_phone = false;
	if (err < 0)
		return err;
	switch (p->step) {
	case FETCH:
		/* 14.1 and later must say what they are here (165); once is enough. */
		if (p->c->req->version >= 141 && !p->information && d.model[0] == 0) {
			p->unknown_phone = true;
			return DB_OK;
		}
		if (p->information)
			device_information_read(p->information, &d);
		d.policy_key_temporary = p->key;
		break;
	case ACKNOWLEDGE:
		if (p->key_sent == 0 || d.policy_key_temporary != p->key_sent) {
			p->key_wrong = true;
			return DB_OK;
		}
		/* The temporary key stays: when this answer is lost the phone acknowledges again.
		 */
		d.policy_key = p->key;
		d.policy_generation = p->c->ctx->policy_generation;
		break;
	case REFUSE:
		if (p->key_sent == 0 || d.policy_key_temporary != p->key_sent) {
			p->key_wrong = true;
			return DB_OK;
		}
		d.policy_key = 0;
		d.policy_key_temporary = 0;
		break;
	}
	return device_put(txn, mailbox, &d);
}

/* The Policy of the answer; key 0: none. */
static void put_policy(struct eas_call *c, struct bytes type, int policy_status, uint32_t key,
	bool document, bool information)
{
	struct wbxml_writer w;

	call_begin(c, &w);
	wbxml_put_start(&w, PROVISION_Provision);
	if (information) {
		wbxml_put_start(&w, SETTINGS_DeviceInformation);
		wbxml_put_u64(&w, SETTINGS_Status, 1);
		wbxml_put_end(&w);
	}
	wbxml_put_u64(&w, PROVISION_Status, 1);
	wbxml_put_start(&w, PROVISION_Policies);
	wbxml_put_start(&w, PROVISION_Policy);
	wbxml_put_bytes_text(&w, PROVISION_PolicyType, type);
	wbxml_put_u64(&w, PROVISION_Status, (uint64_t)policy_status);
	if (key)
		wbxml_put_u64(&w, PROVISION_PolicyKey, key);
	if (document) {
		wbxml_put_start(&w, PROVISION_Data);
		policy_put_document(&w, c->ctx->config);
		wbxml_put_end(&w);
	}
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	wbxml_put_end(&w);
	if (call_end(c, &w)) {
		c->out->eas_status = 1;
		if (policy_status != 1)
			c->out->reason =
				policy_status == 3 ? "unknown policy type" : "wrong policy key";
	}
}

/* Phase two. */
static void acknowledge(
	struct eas_call *c, struct provision *p, const struct wbxml_node *policy, struct bytes type)
{
	uint32_t status, key = 0;

	if (!wbxml_u32(wbxml_child(policy, PROVISION_Status), 4, &status) || status == 0) {
		call_status(c, 2, "acknowledgment without a Status of 1 to 4");
		return;
	}
	wbxml_u32(wbxml_child(policy, PROVISION_PolicyKey), UINT32_MAX, &key);
	p->key_sent = key;
	/* 2 (partial) and 4 (managed by others) pass: the phone does what it can. */
	p->step = status == 3 ? REFUSE : ACKNOWLEDGE;
	p->key = random_key();

	int err = writer_write(c->ctx->writer, provision_write, p);
	if (err < 0)
		call_store_error(c, err);
	else if (p->key_wrong)
		put_policy(c, type, 5, 0, false, false);
	else if (p->step == REFUSE)
		call_refuse(c, 139, "phone does not apply the policy");
	else
		put_policy(c, type, 1, p->key, false, false);
}

void cmd_provision(struct eas_call *c)
{
	const struct wbxml_node *information = wbxml_child(c->root, SETTINGS_DeviceInformation);
	const struct wbxml_node *policy =
		wbxml_child(wbxml_child(c->root, PROVISION_Policies), PROVISION_Policy);
	struct bytes type = wbxml_text(policy, PROVISION_PolicyType);
	struct provision p = {.c = c, .information = wbxml_child(information, SETTINGS_Set)};

	if (!policy || type.n == 0) {
		call_status(c, 2, policy ? "policy type missing" : "policy missing");
		return;
	}
	if (!bytes_eq_str(type, POLICY_TYPE)) {
		put_policy(c, type, 3, 0, false, information != NULL);
		return;
	}
	/* A PolicyKey or a Status makes it an acknowledgment; a first request has neither. */
	if (wbxml_child(policy, PROVISION_PolicyKey) || wbxml_child(policy, PROVISION_Status)) {
		acknowledge(c, &p, policy, type);
		return;
	}
	p.step = FETCH;
	p.key = random_key();
	int err = writer_write(c->ctx->writer, provision_write, &p);
	if (err < 0)
		call_store_error(c, err);
	else if (p.unknown_phone)
		call_status(c, 165, "device information missing");
	else
		put_policy(c, type, 1, p.key, true, information != NULL);
}
