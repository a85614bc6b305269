/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/admin/admin.h"

#include <pthread.h>
#include <time.h>

enum { ENTRIES = 8192 };

static struct {
	pthread_mutex_t mutex;
	uint64_t next; /* entries ever written; the newest is next - 1 */
	struct why_entry ring[ENTRIES];
} whys = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void why_record(const struct why_entry *e)
{
	pthread_mutex_lock(&whys.mutex);
	whys.ring[whys.next++ % ENTRIES] = *e;
	pthread_mutex_unlock(&whys.mutex);
}

bool why_find(uint64_t request_id, struct why_entry *out)
{
	bool found = false;
	uint64_t i, oldest;

	pthread_mutex_lock(&whys.mutex);
	oldest = whys.next > ENTRIES ? whys.next - ENTRIES : 0;
	for (i = whys.next; i > oldest && !found; i--)
		if (whys.ring[(i - 1) % ENTRIES].request_id == request_id) {
			*out = whys.ring[(i - 1) % ENTRIES];
			found = true;
		}
	pthread_mutex_unlock(&whys.mutex);
	return found;
}

/* First match wins, so the narrow ones come first. http or eas 0: any; word NULL: any, else it is
 * looked for in the reason. "%U" and "%D" stand for the account and the device. */
static const struct advice {
	int http, eas;
	const char *word, *means, *todo;
} advices[] = {
	{403, 0, "disabled", "The password was right, but the account is disabled.",
		"If the user should have mail: roostctl user enable %U"},
	{403, 0, "blocked", "The device is blocked for this account.",
		"If it may come back: roostctl device unblock %D -u %U"},
	{0, 126, NULL, "The account may not use ActiveSync.",
		"If the user should have mail: roostctl user enable %U"},
	{0, 129, NULL, "The device is blocked for this account.",
		"If it may come back: roostctl device unblock %D -u %U"},
	{0, 177, NULL, "The account has as many devices as it may have.",
		"Remove one that is no longer used: roostctl device list -u %U, then roostctl "
		"device remove ID -u %U"},
	{401, 0, "unknown",
		"There is no such account here, or the login name does not say its domain.",
		"Compare the name with roostctl user list. For logins without a domain set "
		"auth.default_domain."},
	{401, 0, "no credentials",
		"The request carried no password. Phones begin like that; then they send it.",
		"Nothing, unless it is the only thing the phone ever does: then its account has no "
		"password."},
	{401, 0, NULL, "The user name or the password was wrong.",
		"Have the owner type the password again on the device. To set a new one: roostctl "
		"user passwd %U"},
	{449, 0, NULL, "The phone has to fetch and accept the policy first (Provision).",
		"Nothing, when it happens once: the phone does it by itself. When it repeats, the "
		"phone cannot meet the policy: compare the policy section of roost.conf with what "
		"it can do."},
	{0, 139, NULL, "The phone says that it cannot meet the policy.",
		"Loosen the policy section of roost.conf, or use another device."},
	{0, 141, NULL, "The device is not provisioned, and says it cannot be.",
		"Set policy.require = false to let such devices in, or use another device."},
	{0, 142, NULL, "The phone has not accepted the policy yet.",
		"Nothing, when it happens once: it goes on with Provision by itself. When it "
		"repeats, the phone cannot meet the policy: see the policy section of roost.conf."},
	{0, 143, NULL, "The policy has changed since the phone accepted it, or was due again.",
		"Nothing: the phone goes on with Provision by itself."},
	{0, 144, NULL, "The phone's policy key is not the one it was given.",
		"Nothing: the phone goes on with Provision by itself."},
	{503, 0, "password", "More passwords were waiting to be checked than auth.hash_queue_max.",
		"It passes by itself. When it does not: more auth.hash_threads, or find who is "
		"guessing (auth: failed in the log)."},
	{503, 0, "drain", "The server was being stopped and asked the phone to come again.",
		"Nothing: the phone comes again after Retry-After."},
	{503, 0, "store", "The store could not be read or written.",
		"Look for store errors in the log, at the disk's free space and at "
		"store.map_max_mib."},
	{503, 0, NULL,
		"The server had no room for the request at that moment. It asked the phone to come "
		"again (Retry-After).",
		"It passes by itself. When it does not, see roostctl stats for the limit that is "
		"reached (core section of roost.conf)."},
	{507, 0, NULL, "The store is full.", "Raise store.map_max_mib or free space on the disk."},
	{413, 0, NULL, "The request was larger than is accepted.",
		"If such mail should be sent from phones, raise http.body_bytes_max."},
	{431, 0, NULL, "The request's head was larger than is accepted.",
		"If it comes through a proxy that adds headers, raise http.head_bytes_max."},
	{408, 0, NULL, "The request did not come completely in time.",
		"Look at the network between this address and the server; http.request_timeout_s "
		"is the limit."},
	{505, 0, NULL, "The phone speaks a protocol version that is not spoken here.",
		"Use 12.1, 14.0, 14.1, 16.0 or 16.1: a newer mail app does."},
	{501, 0, NULL, "The command is not offered here. OPTIONS says what is.",
		"Nothing on the server. Should the phone need it, remove the account from the "
		"phone and add it again, so that it asks anew what is offered."},
	{404, 0, NULL, "The path is not one of ours.",
		"In the phone give only the server's name: the path is "
		"/Microsoft-Server-ActiveSync."},
	{400, 0, NULL, "The request was malformed; the same one will fail again.",
		"If a proxy stands in front, see what it does to the request. Else report it with "
		"the device's model and the request id."},
	{403, 0, NULL, "The login was right, but this device or user may not do this.",
		"See roostctl device show %D -u %U"},
	{0, 110, NULL, "The server failed at this command.",
		"Look for errors in the log at this time."},
	{500, 0, NULL, "The server failed at this command.",
		"Look for errors in the log at this time."},
	{0, 113, NULL, "The mailbox or the store is full.",
		"Raise store.map_max_mib or free space on the disk."},
};

/* What a peer sent may reach a terminal: no control characters, no broken UTF-8. */
static void safe(struct buf *out, const char *text, size_t max)
{
	size_t n = strnlen(text, max);
	bool utf8 = bytes_is_utf8(bytes_of(text, n));

	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)text[i];
		/* C1 controls (U+0080 to U+009F) are C2 80 to C2 9F. */
		bool c1 = utf8 && c == 0xc2 && (uint8_t)text[i + 1] < 0xa0;

		if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8)) {
			buf_printf(out, "\\x%02x", c);
		} else if (c1) {
			buf_printf(out, "\\x%02x", (uint8_t)text[++i]);
		} else {
			buf_add_byte(out, c);
		}
	}
}

#define SAFE(out, field) safe(out, field, sizeof(field))

static void advice_text(struct buf *out, const struct why_entry *e, const char *text)
{
	for (; *text; text++) {
		if (text[0] == '%' && text[1] == 'U') {
			if (e->user[0])
				SAFE(out, e->user);
			else
				buf_add_str(out, "ADDRESS");
			text++;
		} else if (text[0] == '%' && text[1] == 'D') {
			if (e->device_id[0])
				SAFE(out, e->device_id);
			else
				buf_add_str(out, "ID");
			text++;
		} else {
			buf_add_byte(out, (uint8_t)*text);
		}
	}
}

static const struct advice *advice_find(const struct why_entry *e)
{
	for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		const struct advice *a = &advices[i];

		if ((a->http == 0 || a->http == e->http_status) &&
			(a->eas == 0 || a->eas == e->eas_status) &&
			(!a->word || memmem(e->reason, strnlen(e->reason, sizeof(e->reason)),
					     a->word, strlen(a->word))))
			return a;
	}
	return NULL;
}

void why_explain(const struct why_entry *e, struct buf *out)
{
	const struct advice *a = advice_find(e);
	char stamp[40];
	time_t t = (time_t)(e->wall_ms / 1000);
	struct tm tm;

	strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
	buf_printf(
		out, "Request %016llx was refused at %s", (unsigned long long)e->request_id, stamp);
	if (e->http_status)
		buf_printf(out, " with HTTP %d", e->http_status);
	if (e->eas_status)
		buf_printf(out, "%s Status %d", e->http_status ? "," : " with", e->eas_status);
	buf_add_str(out, ": ");
	if (e->reason[0])
		SAFE(out, e->reason);
	else
		buf_add_str(out, "no reason was noted");
	buf_add_str(out, ".\n");

	buf_add_str(out, "It was ");
	if (e->command[0]) {
		buf_add_str(out, "the command ");
		SAFE(out, e->command);
	} else {
		buf_add_str(out, "a request without a command");
	}
	if (e->peer[0]) {
		buf_add_str(out, " from ");
		SAFE(out, e->peer);
	}
	if (e->user[0]) {
		buf_add_str(out, ", account ");
		SAFE(out, e->user);
	} else {
		buf_add_str(out, ", before any login");
	}
	if (e->device_id[0]) {
		buf_add_str(out, ", device ");
		SAFE(out, e->device_id);
	}
	if (e->user_agent[0]) {
		buf_add_str(out, " (");
		SAFE(out, e->user_agent);
		buf_add_str(out, ")");
	}
	buf_add_str(out, ".\n");
	if (e->detail[0]) {
		buf_add_str(out, "Behind it: ");
		SAFE(out, e->detail);
		buf_add_str(out, ".\n");
	}
	if (a) {
		buf_printf(out, "What it means: %s\nWhat to do: ", a->means);
		advice_text(out, e, a->todo);
		buf_add_str(out, "\n");
	}
}
