/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/message.h - what an RFC 5322 message is to a phone: the stored summary, bodies as plain
 * text, HTML or MIME, attachments. The MIME tree is split here, bounded and without copies; GMime
 * decodes what is in it, gumbo reads HTML, iconv charsets.
 * Thread: any but a shard; GMime's global state is set up by message_init.
 * Memory: outputs are in the arena given.
 * Errors: a message is never refused for its content: broken MIME, unknown charsets and
 *         transfer encodings degrade to what can be read, and every text that leaves here is UTF-8.
 *         Hostile nesting and sizes are bounded.
 * Cost:   a parse of the whole message per call (message_open), milliseconds for megabytes. */
#ifndef ROOST_EAS_MESSAGE_H
#define ROOST_EAS_MESSAGE_H

#include "core/base/arena.h"
#include "core/base/bytes.h"

void message_init(void);

/* The stored part that list views need (item.summary). All UTF-8; addresses as MS-ASEMAIL wants them. */
struct message_summary {
	/* thread_topic is a view into subject; message_id has no angle brackets. */
	struct bytes from, to, cc, reply_to, subject, thread_topic, display_to, message_class;
	struct bytes content_class, preview; /* preview: first ~512 characters of plain text */
	struct bytes message_id, conversation_id /* 16 bytes */, conversation_index;
	int64_t date_s;                  /* Date header; 0: none */
	uint8_t importance;              /* 0 low 1 normal 2 high */
	uint8_t native_body_type;        /* 1 text 2 HTML */
	uint32_t text_bytes, html_bytes; /* estimated sizes of the bodies */
	uint16_t attachment_count;
};

/* Reads a message and fills the summary. */
void message_summarize(struct bytes mime, struct arena *a, struct message_summary *out);
/* Stored form, versioned; decode is strict and bounded (false: corrupt). What is decoded are views of
 * `in`. */
void message_summary_encode(const struct message_summary *s, struct buf *out);
bool message_summary_decode(struct bytes in, struct message_summary *out);

/* Mutable part (item.props): categories and the follow-up flag (MS-ASEMAIL 2.2.2.34). */
enum { MESSAGE_CATEGORIES_MAX = 300 };
struct message_flag {
	uint8_t status; /* 0 none/cleared, 1 complete, 2 active */
	struct bytes flag_type, subject, date_completed, complete_time, start_date, due_date,
		utc_start_date, utc_due_date, reminder_time, ordinal_date, sub_ordinal_date;
	int8_t reminder_set; /* -1: not given */
};
struct message_props {
	struct message_flag flag;
	uint32_t category_count;
	struct bytes *categories;
	uint8_t last_verb; /* LastVerbExecuted; 0: none */
	int64_t last_verb_time_s;
};
/* Never writes nothing, so defaults can be stored over something else. */
void message_props_encode(const struct message_props *p, struct buf *out);
/* Empty input: all defaults. Texts are in the arena. */
bool message_props_decode(struct bytes in, struct arena *a, struct message_props *out);

struct message;                                  /* a parsed message */
struct message *message_open(struct bytes mime); /* views mime; NULL only without memory */
void message_close(struct message **m);

enum message_body_type { MESSAGE_TEXT = 1, MESSAGE_HTML = 2, MESSAGE_RTF = 3, MESSAGE_MIME = 4 };
enum message_body_type message_native_type(const struct message *m);
bool message_is_smime(const struct message *m);
/* The whole body as that type (converted when it is not native); MIME: the message itself,
 * re-encoded when it holds NUL or is not valid UTF-8 so that it can travel as WBXML text; else it is
 * a view of what message_open got. Texts have CRLF line ends and at most 16 MiB. */
struct bytes message_body(struct message *m, enum message_body_type type, struct arena *a);
/* Cuts at a character boundary, at most max bytes. */
struct bytes message_cut(struct bytes text, size_t max_bytes);
struct bytes message_cut_characters(struct bytes text, size_t max_characters);

struct message_attachment {
	struct bytes display_name, content_type, content_id, content_location;
	uint8_t method; /* 1 normal, 5 embedded message */
	bool is_inline;
	uint64_t estimated_bytes;
};
uint32_t message_attachment_count(const struct message *m);
bool message_attachment(
	struct message *m, uint32_t index, struct arena *a, struct message_attachment *out);
/* Decoded content. */
bool message_attachment_data(struct message *m, uint32_t index, struct buf *out);
/* HTML to readable plain text (links, lists, tables, quotes); input is capped. */
struct bytes html_to_text(struct bytes html, struct arena *a);

#endif
