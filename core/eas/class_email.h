/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/class_email.h - the Email class (MS-ASEMAIL): a stored message as
 * the children of ApplicationData or Properties, and what a phone may change of it. Thread, memory,
 * errors: see eas.h. */
#ifndef ROOST_EAS_CLASS_EMAIL_H
#define ROOST_EAS_CLASS_EMAIL_H

#include "core/eas/message.h"
#include "core/eas/sync_priv.h"

/* Contents that a multipart answer carries beside the document. */
struct eas_part {
	uint8_t *p;
	size_t n;
};
struct eas_parts {
	struct eas_part *v; /* malloc; part 1 is v[0] */
	size_t n, cap, bytes;
	bool failed;
};
/* Number of the new part; 0: no memory. Takes `data` over. */
uint32_t eas_parts_add(struct eas_parts *parts, struct buf *data);
void eas_parts_free(struct eas_parts *parts);

/* How a phone wants messages. */
struct email_view {
	uint16_t version;
	const struct sync_options *options;
	bool whole;                      /* Fetch: no truncation */
	const struct wbxml_node *schema; /* only these elements; NULL: all */
	struct eas_parts *parts;         /* bodies go there instead of Data */
};

/* All elements of a message, from its snapshot; false: it cannot be read, and nothing was written
 * that must not stand (an element of the document may be complete or absent, never half). */
bool email_put(struct wbxml_writer *w, struct db_txn *txn, uint32_t mailbox,
	const struct item *item, const struct email_view *view);
/* Read, Flag, Categories and verbs alone (MS-ASEMAIL 3.2.5.4.1). */
bool email_put_state(
	struct wbxml_writer *w, const struct item *item, const struct email_view *view);

/* Largest body that the options let through, for estimates. */
uint64_t email_body_bytes_max(const struct sync_options *o);

/* What a client's Change makes of an item's state: 1, or the Status (6). props_out->n 0: they stay
 * as they are; else the new ones. The buf is the caller's to free. */
int email_change(const struct wbxml_node *data, const struct item *item, uint16_t version,
	struct arena *a, bool *read_out, struct buf *props_out);

/* ---- body.c ------------------------------------------------------------------------------ */

struct body_source {
	struct message *message; /* NULL: not opened, no preference asks for it */
	const struct message_summary *summary;
	uint64_t mime_bytes;
	struct arena *arena;
};
void body_put(struct wbxml_writer *w, const struct body_source *src, const struct email_view *view);

#endif
