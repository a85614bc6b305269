/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/cmd_settings.c - Settings: what the phone says of itself, what it may ask about the user
 * (MS-ASCMD 2.2.1.18). */
#include "core/eas/eas_priv.h"
#include "store/account.h"

struct settings {
	const struct eas_call *c;
	const struct wbxml_node *set; /* settings:Set of DeviceInformation */
};

static int settings_write(struct db_txn *txn, void *arg)
{
	struct settings *s = arg;
	struct device d;
	int err = device_get(txn, s->c->req->mailbox, s->c->device, &d);

	if (err < 0)
		return err;
	struct device before = d;
	device_information_read(s->set, &d);
	/* Phones send this at every start; mostly nothing is new. */
	if (memcmp(&before, &d, sizeof(d)) == 0)
		return DB_OK;
	return device_put(txn, s->c->req->mailbox, &d);
}

static int save_device_information(struct eas_call *c, const struct wbxml_node *set)
{
	struct settings s = {.c = c, .set = set};
	struct device d, before;
	struct db_txn txn;
	int err = db_read(c->ctx->db, &txn);

	if (err < 0)
		return err;
	err = device_get(&txn, c->req->mailbox, c->device, &d);
	db_read_end(&txn);
	if (err < 0)
		return err;
	before = d;
	device_information_read(set, &d);
	if (memcmp(&before, &d, sizeof(d)) == 0)
		return DB_OK;
	return writer_write(c->ctx->writer, settings_write, &s);
}

static void put_status(struct wbxml_writer *w, uint16_t tag, int status)
{
	wbxml_put_start(w, tag);
	wbxml_put_u64(w, SETTINGS_Status, (uint64_t)status);
	wbxml_put_end(w);
}

/* Out of office is not kept here: it is off, and setting it is answered as an argument we do not
 * take (5) rather than pretended. */
static void put_oof(struct wbxml_writer *w, const struct wbxml_node *oof)
{
	const struct wbxml_node *get = wbxml_child(oof, SETTINGS_Get);
	const struct wbxml_node *set = wbxml_child(oof, SETTINGS_Set);
	uint32_t state;

	if (!get == !set) {
		put_status(w, SETTINGS_Oof, 2);
	} else if (set) {
		const struct wbxml_node *start = wbxml_child(set, SETTINGS_StartTime);
		const struct wbxml_node *end = wbxml_child(set, SETTINGS_EndTime);
		bool off = wbxml_u32(wbxml_child(set, SETTINGS_OofState), 2, &state) && state == 0;

		/* Off it is already. */
		put_status(w, SETTINGS_Oof, !start != !end ? 2 : off ? 1 : 5);
	} else {
		wbxml_put_start(w, SETTINGS_Oof);
		wbxml_put_u64(w, SETTINGS_Status, 1);
		wbxml_put_start(w, SETTINGS_Get);
		wbxml_put_text(w, SETTINGS_OofState, "0");
		wbxml_put_end(w);
		wbxml_put_end(w);
	}
}

static void put_user_information(
	struct eas_call *c, struct wbxml_writer *w, const struct wbxml_node *ui)
{
	if (!wbxml_child(ui, SETTINGS_Get)) {
		put_status(w, SETTINGS_UserInformation, 2);
		return;
	}
	wbxml_put_start(w, SETTINGS_UserInformation);
	wbxml_put_u64(w, SETTINGS_Status, 1);
	wbxml_put_start(w, SETTINGS_Get);
	if (c->req->version >= 141) {
		wbxml_put_start(w, SETTINGS_Accounts);
		wbxml_put_start(w, SETTINGS_Account); /* the primary one: no AccountId */
	}
	wbxml_put_start(w, SETTINGS_EmailAddresses);
	wbxml_put_text(w, SETTINGS_SMTPAddress, c->req->address);
	if (c->req->version >= 141)
		wbxml_put_text(w, SETTINGS_PrimarySmtpAddress, c->req->address);
	wbxml_put_end(w);
	if (c->req->version >= 141) {
		wbxml_put_end(w);
		wbxml_put_end(w);
	}
	wbxml_put_end(w);
	wbxml_put_end(w);
}

void cmd_settings(struct eas_call *c)
{
	const struct wbxml_node *information = wbxml_child(c->root, SETTINGS_DeviceInformation);
	const struct wbxml_node *set = wbxml_child(information, SETTINGS_Set);
	struct wbxml_writer w;
	int err = DB_OK;

	if (!c->root->first) {
		call_status(c, 2, "nothing is asked or set");
		return;
	}
	if (set)
		err = save_device_information(c, set);
	if (err < 0) {
		call_store_error(c, err);
		return;
	}

	call_begin(c, &w);
	wbxml_put_start(&w, SETTINGS_Settings);
	wbxml_put_u64(&w, SETTINGS_Status, 1);
	/* Answered in the order of the request. */
	for (const struct wbxml_node *n = c->root->first; n; n = n->next) {
		if (n->unknown)
			continue;
		switch (n->tag) {
		case SETTINGS_DeviceInformation:
			put_status(&w, SETTINGS_DeviceInformation, set ? 1 : 2);
			break;
		case SETTINGS_Oof:
			put_oof(&w, n);
			break;
		case SETTINGS_UserInformation:
			put_user_information(c, &w, n);
			break;
		case SETTINGS_DevicePassword:
			put_status(&w, SETTINGS_DevicePassword, 7); /* recovery is disabled */
			break;
		case SETTINGS_RightsManagementInformation:
			put_status(&w, SETTINGS_RightsManagementInformation, 168);
			break;
		default:
			call_status(c, 2, "property is not one of Settings");
			return;
		}
	}
	wbxml_put_end(&w);
	if (call_end(c, &w))
		c->out->eas_status = 1;
}
