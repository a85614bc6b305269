/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/policy.c - the one policy that all phones get, and who may pass without it. */
#include <inttypes.h>
#include <stdio.h>

#include "core/eas/eas_priv.h"

/* Raised when the document below changes for an unchanged configuration: phones fetch it again. */
enum { POLICY_DOCUMENT_VERSION = 1 };

uint32_t eas_policy_generation(const struct config *c)
{
	char text[160];
	uint32_t hash = 2166136261u; /* FNV-1a */

	snprintf(text, sizeof(text), "%d %" PRId64 " %" PRId64 " %" PRId64 " %d",
		POLICY_DOCUMENT_VERSION, c->policy_password_length_min, c->policy_inactivity_lock_s,
		c->policy_failed_attempts_max, c->policy_require_encryption);
	for (const char *s = text; *s; s++)
		hash = (hash ^ (uint8_t)*s) * 16777619u;
	return hash ? hash : 1;
}

int eas_policy_status(const struct eas_context *ctx, enum eas_command command, bool has_policy_key,
	uint32_t policy_key, const struct device_gate *gate)
{
	bool known = gate && gate->id != 0;

	if (known && gate->blocked)
		return 129;
	if (command == EAS_PROVISION || !ctx->config->policy_require)
		return 0;
	/* Ping carries no key (MS-ASPROV 3.1.5.1): only what the store knows counts, so that a
	 * phone on a quiet mailbox meets a new policy too. One that never provisioned meets the
	 * check at its next keyed command. */
	if (command == EAS_PING)
		return known && gate->policy_key != 0 &&
				       gate->policy_generation != ctx->policy_generation
			       ? 144
			       : 0;
	if (!has_policy_key || policy_key == 0 || !known || gate->policy_key == 0)
		return 142;
	if (policy_key != gate->policy_key || gate->policy_generation != ctx->policy_generation)
		return 144;
	return 0;
}

static void put_flag(struct wbxml_writer *w, uint16_t tag, bool on)
{
	wbxml_put_text(w, tag, on ? "1" : "0");
}

/* Empty means no limit (MS-ASPROV 2.2.2); sending it also takes an earlier limit back. */
static void put_limit(struct wbxml_writer *w, uint16_t tag, int64_t limit)
{
	if (limit > 0)
		wbxml_put_u64(w, tag, (uint64_t)limit);
	else
		wbxml_put_empty(w, tag);
}

/* All elements in the order of MS-ASPROV 6, those we have no setting for with the open value:
 * what a policy leaves out, some phones keep from an earlier one. */
void policy_put_document(struct wbxml_writer *w, const struct config *c)
{
	/* A lock without a password is none, and a wipe after wrong passwords needs one. */
	bool password = c->policy_password_length_min > 0 || c->policy_inactivity_lock_s > 0 ||
			c->policy_failed_attempts_max > 0;
	/* MS-ASPROV 2.2.2.36: 4 to 16. */
	int64_t attempts = c->policy_failed_attempts_max;

	if (attempts > 0 && attempts < 4)
		attempts = 4;

	wbxml_put_start(w, PROVISION_EASProvisionDoc);
	put_flag(w, PROVISION_DevicePasswordEnabled, password);
	put_flag(w, PROVISION_AlphanumericDevicePasswordRequired, false);
	put_flag(w, PROVISION_PasswordRecoveryEnabled, false);
	put_flag(w, PROVISION_RequireStorageCardEncryption, false);
	put_flag(w, PROVISION_AttachmentsEnabled, true);
	put_limit(w, PROVISION_MinDevicePasswordLength, c->policy_password_length_min);
	put_limit(w, PROVISION_MaxInactivityTimeDeviceLock, c->policy_inactivity_lock_s);
	put_limit(w, PROVISION_MaxDevicePasswordFailedAttempts, attempts);
	put_limit(w, PROVISION_MaxAttachmentSize, 0);
	put_flag(w, PROVISION_AllowSimpleDevicePassword, true);
	wbxml_put_text(w, PROVISION_DevicePasswordExpiration, "0");
	wbxml_put_text(w, PROVISION_DevicePasswordHistory, "0");
	put_flag(w, PROVISION_AllowStorageCard, true);
	put_flag(w, PROVISION_AllowCamera, true);
	put_flag(w, PROVISION_RequireDeviceEncryption, c->policy_require_encryption);
	put_flag(w, PROVISION_AllowUnsignedApplications, true);
	put_flag(w, PROVISION_AllowUnsignedInstallationPackages, true);
	wbxml_put_text(w, PROVISION_MinDevicePasswordComplexCharacters, "1");
	put_flag(w, PROVISION_AllowWiFi, true);
	put_flag(w, PROVISION_AllowTextMessaging, true);
	put_flag(w, PROVISION_AllowPOPIMAPEmail, true);
	wbxml_put_text(w, PROVISION_AllowBluetooth, "2");
	put_flag(w, PROVISION_AllowIrDA, true);
	put_flag(w, PROVISION_RequireManualSyncWhenRoaming, false);
	put_flag(w, PROVISION_AllowDesktopSync, true);
	wbxml_put_text(w, PROVISION_MaxCalendarAgeFilter, "0");
	put_flag(w, PROVISION_AllowHTMLEmail, true);
	wbxml_put_text(w, PROVISION_MaxEmailAgeFilter, "0");
	wbxml_put_text(w, PROVISION_MaxEmailBodyTruncationSize, "-1");
	wbxml_put_text(w, PROVISION_MaxEmailHTMLBodyTruncationSize, "-1");
	put_flag(w, PROVISION_RequireSignedSMIMEMessages, false);
	put_flag(w, PROVISION_RequireEncryptedSMIMEMessages, false);
	wbxml_put_text(w, PROVISION_RequireSignedSMIMEAlgorithm, "0");
	wbxml_put_text(w, PROVISION_RequireEncryptionSMIMEAlgorithm, "0");
	wbxml_put_text(w, PROVISION_AllowSMIMEEncryptionAlgorithmNegotiation, "2");
	put_flag(w, PROVISION_AllowSMIMESoftCerts, true);
	put_flag(w, PROVISION_AllowBrowser, true);
	put_flag(w, PROVISION_AllowConsumerEmail, true);
	put_flag(w, PROVISION_AllowRemoteDesktop, true);
	put_flag(w, PROVISION_AllowInternetSharing, true);
	wbxml_put_end(w);
}
