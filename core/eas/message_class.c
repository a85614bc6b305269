/* SPDX-License-Identifier: GPL-3.0-or-later */
/* MessageClass and ContentClass of a message (MS-ASEMAIL 2.2.2.49). */
#include "core/eas/message_priv.h"

#include <strings.h>

static bool param_is(const struct mime_part *p, const char *name, const char *value)
{
	const char *v = mime_type_param(p, name);

	return v && strcasecmp(v, value) == 0;
}

int message_smime_kind(const struct message *m)
{
	const struct mime_part *p = &m->parts[0];

	if (mime_is(p, "application/pkcs7-mime") || mime_is(p, "application/x-pkcs7-mime"))
		return param_is(p, "smime-type", "certs-only") ? 0 : 1;
	if (mime_is(p, "multipart/signed") &&
		(param_is(p, "protocol", "application/pkcs7-signature") ||
			param_is(p, "protocol", "application/x-pkcs7-signature")))
		return 2;
	if (mime_is(p, "application/octet-stream")) {
		/* Gateways that do not know the type keep the name. */
		const char *n = mime_type_param(p, "name");
		size_t len = n ? strlen(n) : 0;

		if (len > 4 && strcasecmp(n + len - 4, ".p7m") == 0)
			return 1;
	}
	return 0;
}

/* Value of the first "NAME" property (without parameters) of unfolded iCalendar text. */
static bool ical_value(struct bytes ical, const char *name, char *value, size_t cap)
{
	size_t n = strlen(name);

	for (size_t i = 0; i + n < ical.n;) {
		const uint8_t *nl = memchr(ical.p + i, '\n', ical.n - i);
		size_t end = nl ? (size_t)(nl - ical.p) : ical.n, k = i + n;

		if (end - i > n && strncasecmp((const char *)ical.p + i, name, n) == 0 &&
			ical.p[k] == ':') {
			size_t len = 0;

			for (k++; k < end && ical.p[k] > 0x20 && len + 1 < cap; k++)
				value[len++] = (char)ical.p[k];
			value[len] = 0;
			return true;
		}
		i = end + 1;
	}
	return false;
}

/* RFC 5545 3.1: a line end followed by one blank is no line end. */
static void ical_unfold(struct bytes in, struct buf *out)
{
	for (size_t i = 0; i < in.n; i++) {
		if (in.p[i] == '\r')
			continue;
		if (in.p[i] == '\n' && i + 1 < in.n &&
			(in.p[i + 1] == ' ' || in.p[i + 1] == '\t')) {
			i++;
			continue;
		}
		buf_add_byte(out, in.p[i]);
	}
}

static bool contains(struct bytes text, const char *what)
{
	return text.p && memmem(text.p, text.n, what, strlen(what));
}

static const char *reply_class(struct bytes ical)
{
	static const struct {
		const char *text, *message_class;
	} answers[] = {
		{"PARTSTAT=ACCEPTED", "IPM.Schedule.Meeting.Resp.Pos"},
		{"PARTSTAT=DECLINED", "IPM.Schedule.Meeting.Resp.Neg"},
		{"PARTSTAT=TENTATIVE", "IPM.Schedule.Meeting.Resp.Tent"},
	};

	/* A reply has one attendee, who answers (RFC 5546 3.2.3). */
	for (size_t i = 0; ical.p && i + 17 < ical.n; i++)
		for (size_t k = 0; k < G_N_ELEMENTS(answers); k++)
			if (strncasecmp((const char *)ical.p + i, answers[k].text,
				    strlen(answers[k].text)) == 0)
				return answers[k].message_class;
	return NULL;
}

/* iMIP: a text/calendar part with a method. NULL: none that asks for anything. */
static const char *meeting_class(const struct message *m)
{
	const char *found = NULL;

	for (uint32_t i = 0; i < m->part_count && !found; i++) {
		const struct mime_part *p = &m->parts[i];
		struct buf raw = {0}, ical = {0};
		const char *param;
		char method[32] = "";

		if (!p->leaf || !mime_is(p, "text/calendar"))
			continue;
		mime_decode(p, &raw);
		if (raw.n > 256 * 1024)
			raw.n = 256 * 1024;
		ical_unfold(buf_bytes(&raw), &ical);
		param = mime_type_param(p, "method");
		if (param)
			g_strlcpy(method, param, sizeof(method));
		else
			ical_value(buf_bytes(&ical), "METHOD", method, sizeof(method));
		/* Tasks are assigned with the same methods. */
		if (contains(buf_bytes(&ical), "BEGIN:VTODO") &&
			!contains(buf_bytes(&ical), "BEGIN:VEVENT"))
			;
		else if (strcasecmp(method, "REQUEST") == 0)
			found = "IPM.Schedule.Meeting.Request";
		else if (strcasecmp(method, "CANCEL") == 0)
			found = "IPM.Schedule.Meeting.Canceled";
		else if (strcasecmp(method, "REPLY") == 0)
			found = reply_class(buf_bytes(&ical));
		else if (strcasecmp(method, "COUNTER") == 0)
			found = "IPM.Schedule.Meeting.Resp.Tent";
		buf_free(&raw);
		buf_free(&ical);
	}
	return found;
}

/* RFC 3464 and RFC 8098: what a report says happened. */
static const char *report_class(const struct message *m)
{
	const struct mime_part *root = &m->parts[0];

	if (!mime_is(root, "multipart/report"))
		return NULL;
	for (uint32_t i = 1; i < m->part_count; i++) {
		const struct mime_part *p = &m->parts[i];
		bool dsn = mime_is(p, "message/delivery-status") ||
			   mime_is(p, "message/global-delivery-status");
		bool mdn = mime_is(p, "message/disposition-notification") ||
			   mime_is(p, "message/global-disposition-notification");
		struct buf raw = {0}, text = {0};
		char value[64] = "";
		const char *class = NULL;

		if (!dsn && !mdn)
			continue;
		mime_decode(p, &raw);
		if (raw.n > 256 * 1024)
			raw.n = 256 * 1024;
		/* "Action: failed": the blank after the colon is not wanted. */
		for (size_t k = 0; k < raw.n; k++)
			if (raw.p[k] != ' ' && raw.p[k] != '\t' && raw.p[k] != '\r')
				buf_add_byte(&text, raw.p[k]);
		if (dsn && ical_value(buf_bytes(&text), "Action", value, sizeof(value))) {
			class = strncasecmp(value, "failed", 6) == 0    ? "REPORT.IPM.Note.NDR"
				: strncasecmp(value, "delayed", 7) == 0 ? "REPORT.IPM.Note.DELAYED"
									: "REPORT.IPM.Note.DR";
		} else if (mdn &&
			   ical_value(buf_bytes(&text), "Disposition", value, sizeof(value))) {
			class = strcasestr(value, "displayed") ? "REPORT.IPM.Note.IPNRN"
							       : "REPORT.IPM.Note.IPNNRN";
		}
		buf_free(&raw);
		buf_free(&text);
		if (class)
			return class;
	}
	return NULL;
}

struct message_kind message_kind(const struct message *m)
{
	struct message_kind k = {"IPM.Note", "urn:content-classes:message"};
	const char *c;

	switch (message_smime_kind(m)) {
	case 1:
		k.message_class = "IPM.Note.SMIME";
		return k;
	case 2:
		k.message_class = "IPM.Note.SMIME.MultipartSigned";
		return k;
	}
	c = report_class(m);
	if (c) {
		k.message_class = c;
		k.content_class =
			strstr(c, ".IPN") ? "urn:content-classes:mdn" : "urn:content-classes:dsn";
		return k;
	}
	c = meeting_class(m);
	if (c) {
		k.message_class = c;
		k.content_class = "urn:content-classes:calendarmessage";
	}
	return k;
}
