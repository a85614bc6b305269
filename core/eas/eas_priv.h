/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/eas_priv.h - what the command files share: the call, refusals, the device.
 * Thread, memory, errors: see eas.h. Every command fills call->out and returns nothing. */
#ifndef ROOST_EAS_EAS_PRIV_H
#define ROOST_EAS_EAS_PRIV_H

#include "core/base/check.h"
#include "core/config/config.h"
#include "core/eas/eas.h"
#include "core/eas/wbxml.h"
#include "store/device.h"
#include "store/journal.h"
#include "store/mailbox.h"
#include "store/writer.h"

#define EAS_WBXML_TYPE     "application/vnd.ms-sync.wbxml"
#define EAS_MULTIPART_TYPE "application/vnd.ms-sync.multipart"

struct eas_call {
	const struct eas_context *ctx;
	const struct eas_request *req;
	struct eas_answer *out;
	const struct wbxml_node *root; /* NULL: no body */
	uint32_t device;
};

/* ---- status.c: refusals ------------------------------------------------------------------ */

/* A common status: a document from 14.0 on, its HTTP code below. */
void call_refuse(struct eas_call *c, int status, const char *reason);
/* A status of the command itself, in a document for all versions. */
void call_status(struct eas_call *c, int status, const char *reason);
void call_http(struct eas_call *c, int http_status, const char *reason);
/* The store said no: try again later (111, 503), or the mailbox is full (113, 507). */
void call_store_error(struct eas_call *c, int err);

/* ---- Writing an answer ------------------------------------------------------------------- */

/* Starts the document in out->body; drops what an earlier attempt left there. */
void call_begin(struct eas_call *c, struct wbxml_writer *w);
/* False, with the refusal in place of the document: memory ran out. */
bool call_end(struct eas_call *c, struct wbxml_writer *w);

/* An element that may turn out impossible half-way: back to the mark, and nothing of it stays. */
struct put_mark {
	struct wbxml_writer w;
	size_t n;
	uint8_t last; /* the tag of a still empty parent: content sets a bit in it */
};
static inline struct put_mark put_mark_set(const struct wbxml_writer *w)
{
	return (struct put_mark){*w, w->out->n, w->out->n ? w->out->p[w->out->n - 1] : 0};
}
static inline void put_mark_back(struct wbxml_writer *w, const struct put_mark *m)
{
	*w = m->w;
	w->out->n = m->n;
	if (m->n)
		w->out->p[m->n - 1] = m->last;
}

/* ---- Ids --------------------------------------------------------------------------------- */

/* Sync keys are decimal numbers; 0 in *key_out for "0". False: not one of ours. */
bool eas_key_parse(struct bytes text, uint32_t *key_out);
/* The key after `key`, never 0. */
static inline uint32_t eas_key_next(uint32_t key)
{
	return key == UINT32_MAX ? 1 : key + 1;
}

/* ServerId of an item: "<folder>:<item>", so that an item that has moved is another one to a phone
 * that looks ids up without the folder. */
enum { EAS_SERVER_ID_MAX = 32 };
void eas_item_id_print(uint32_t folder, uint64_t item, char out[EAS_SERVER_ID_MAX]);
bool eas_item_id_parse(struct bytes text, uint32_t *folder_out, uint64_t *item_out);
/* FileReference of an attachment: "<item>:<index>"; it survives a move of the message. */
void eas_file_reference_print(uint64_t item, uint32_t index, char out[EAS_SERVER_ID_MAX]);
bool eas_file_reference_parse(struct bytes text, uint64_t *item_out, uint32_t *index_out);

/* ---- Values ------------------------------------------------------------------------------ */

/* "2011-03-01T08:00:00.000Z" (MS-ASDTYPE 2.3). */
enum { EAS_TIME_MAX = 32 };
void eas_time_print(int64_t time_s, char out[EAS_TIME_MAX]);
/* Both date forms; false: neither. */
bool eas_time_parse(struct bytes text, int64_t *time_s_out);

/* ---- Device record ----------------------------------------------------------------------- */

/* Children of settings:Set below settings:DeviceInformation; texts are cut to fit. */
void device_information_read(const struct wbxml_node *set, struct device *d);

/* ---- policy.c ---------------------------------------------------------------------------- */

/* The EASProvisionDoc that the configuration describes. */
void policy_put_document(struct wbxml_writer *w, const struct config *config);

/* ---- Commands, one file each ------------------------------------------------------------- */

typedef void eas_command_fn(struct eas_call *c);
eas_command_fn cmd_folder_change, cmd_folder_sync, cmd_get_attachment, cmd_get_item_estimate,
	cmd_item_operations, cmd_move_items, cmd_provision, cmd_settings, cmd_sync;

#endif
