/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/message_priv.h - shared between message*.c and html_text.c only.
 *
 * The MIME tree is split here, with views into the message, because what a sender can make us
 * spend must be bounded: at most MIME_DEPTH_MAX levels and MIME_PARTS_MAX parts, each level one
 * pass over its bytes, nothing copied. GMime does what needs no tree: transfer encodings, encoded
 * words, addresses, dates and parameters. */
#ifndef ROOST_EAS_MESSAGE_PRIV_H
#define ROOST_EAS_MESSAGE_PRIV_H

#include "core/eas/message.h"

#include <gmime/gmime.h>

enum {
	MIME_DEPTH_MAX = 32,
	MIME_PARTS_MAX = 1000,
	MIME_HEADER_LINES_MAX = 2000,       /* per block; later ones are not looked at */
	MIME_HEADER_VALUE_MAX = 256 * 1024, /* longer values are cut before they are parsed */
	BODY_LEAVES_MAX = 64,               /* further text parts are attachments */
	BODY_BYTES_MAX = 16 * 1024 * 1024,  /* of text or HTML that leaves message_body */
	HTML_INPUT_MAX = 4 * 1024 * 1024,   /* of HTML that is turned into text */
};

struct mime_part {
	struct bytes header, body;            /* views; body is still transfer encoded */
	GMimeContentType *type;               /* never NULL */
	GMimeContentDisposition *disposition; /* may be NULL */
	char media[96];                       /* "type/subtype", lower case */
	GMimeContentEncoding encoding;
	uint32_t parent; /* index; the root is its own parent */
	uint32_t group;  /* body leaves: those of one multipart/alternative share it */
	uint8_t depth;
	bool leaf, html, related;
};

struct message {
	struct bytes mime;
	struct mime_part *parts;
	uint32_t part_count, part_cap;
	uint32_t *bodies, body_count; /* indexes of text leaves, in order */
	uint32_t *attachments, attachment_count;
};

/* -- message_mime.c: the tree, headers, decoding -- */

bool mime_parse(struct message *m);
void mime_split(struct bytes raw, struct bytes *header, struct bytes *body);
void mime_free(struct message *m);
/* Unfolded value of the nth header of that name (raw bytes, no CR, LF or NUL). */
bool mime_header(const struct mime_part *p, const char *name, unsigned nth, struct buf *out);
/* The same, decoded (encoded words, unlabelled 8-bit) to clean one-line UTF-8. */
bool mime_header_text(const struct mime_part *p, const char *name, struct buf *out);
bool mime_is(const struct mime_part *p, const char *media);
bool mime_is_prefix(const struct mime_part *p, const char *prefix);
const char *mime_type_param(const struct mime_part *p, const char *name); /* NULL: absent */
/* Undoes the transfer encoding. */
void mime_decode(const struct mime_part *p, struct buf *out);
GMimeParserOptions *mime_options(void);
/* Encoded words and 8-bit of one header value to clean one-line UTF-8. */
void mime_decode_words(struct bytes raw, struct buf *out);

/* -- message_text.c: charsets and text forms -- */

/* To UTF-8 without NUL or other controls than tab, CR, LF, whatever the bytes are. charset may be
 * NULL, unknown or wrong. */
void text_to_utf8(struct bytes raw, const char *charset, struct buf *out);
/* Replaces what is not UTF-8 by U+FFFD, drops controls. */
void text_clean(struct bytes in, struct buf *out);
/* Lines end with CRLF; format=flowed paragraphs (RFC 3676) are joined. */
void text_lines(struct bytes in, bool flowed, bool delete_space, struct buf *out);
/* White space runs to one space, trimmed: header values, previews. */
void text_one_line(struct bytes in, struct buf *out);
/* A fragment, of little more than BODY_BYTES_MAX: markup makes six bytes of one. */
void text_to_html(struct bytes text, struct buf *out);
/* HTML: the charset that its meta element names; false: none. */
bool html_meta_charset(struct bytes html, char charset[64]);
/* Appends html with that charset replaced by utf-8. */
void html_meta_to_utf8(struct bytes html, struct buf *out);
void html_to_text_buf(struct bytes html, struct buf *out);
/* Decodes one character; 0: not well-formed. */
size_t utf8_next(const uint8_t *p, size_t n, uint32_t *out);
void utf8_put(struct buf *out, uint32_t c);

/* -- message.c -- */

/* Text or HTML body without an arena; false when a limit cut it. */
bool message_body_buf(struct message *m, enum message_body_type type, struct buf *out);

/* -- message_class.c -- */

struct message_kind {
	const char *message_class, *content_class;
};
struct message_kind message_kind(const struct message *m);
/* 0: none, 1: pkcs7-mime (opaque), 2: clear signed. */
int message_smime_kind(const struct message *m);

#endif
