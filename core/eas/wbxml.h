/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/eas/wbxml.h - the binary XML of ActiveSync, read and written.
 * Thread: plain values, no state shared; one owner per struct.
 * Memory: the event reader and the writer's bookkeeping allocate nothing. A parsed tree lives in
 *         the caller's arena, and its text points into the INPUT wherever it is one piece: the
 *         input must outlive the tree. The writer appends to the caller's struct buf.
 * Units:  a tag is page << 8 | token (wbxml_tags.h); protocol versions are times ten (14.1 = 141).
 * Errors: malformed input is a value (negative, and a static reason). Writing in the wrong order
 *         is a bug of ours and aborts; memory running out while writing is seen in wbxml_done.
 * Cost:   everything is one pass over the input or output; never recursive.
 * Spec:   MS-ASWBXML 1.6, 2.1 and 3, WBXML 1.3 (WAP-192) 5; MS-ASDTYPE 2 for the values. What a
 *         decoder refuses: the header unless version 1.1-1.3, UTF-8, no string table; tokens EAS
 *         does not use; attributes; truncation; unbalanced END; bytes after the root. */
#ifndef ROOST_EAS_WBXML_H
#define ROOST_EAS_WBXML_H

#include "core/base/arena.h"
#include "core/base/bytes.h"
#include "wbxml_tags.h"

enum {
	WBXML_DEPTH_MAX = 32, /* open elements, the root included */
	WBXML_ELEMENTS_MAX = 100000,
	/* Room for any parsed subtree inside elements of ours. */
	WBXML_WRITE_DEPTH_MAX = 2 * WBXML_DEPTH_MAX
};

/* ---- Names ------------------------------------------------------------------------------- */

struct wbxml_tag_info {
	const char *name;
	uint8_t min_version; /* lowest protocol version that uses it, times ten; 10: before 2.5 */
};

/* NULL when no version we know of has this page and token. */
const struct wbxml_tag_info *wbxml_tag_info(uint16_t tag);
/* "Ping" for page 13; NULL for pages we do not know. */
const char *wbxml_page_name(uint8_t page);

/* ---- Reading, event by event (no allocation) --------------------------------------------- */

enum wbxml_kind {
	WBXML_BAD = -1,
	WBXML_DONE = 0,
	WBXML_START = 1,
	WBXML_TEXT = 2,
	WBXML_END = 3,
};

struct wbxml_event {
	enum wbxml_kind kind;
	uint16_t tag;      /* START and END: the element; TEXT: the element around it */
	uint8_t depth;     /* of that element; the root is 1 */
	bool unknown;      /* that element, or one around it, is not in the table: skip it */
	bool empty;        /* START: END comes next (`14` and `54 01` alike) */
	bool opaque;       /* TEXT: sent as OPAQUE; may hold any byte */
	struct bytes text; /* TEXT: a view into the input, never empty */
};

struct wbxml_reader {
	const uint8_t *p, *end;
	const char *why;                 /* static reason after WBXML_BAD, else NULL */
	uint32_t elements, elements_max; /* lower elements_max and depth_max right after init */
	uint8_t depth, depth_max;        /* depth_max: at most WBXML_DEPTH_MAX */
	uint8_t page;
	uint8_t unknown_depth; /* depth of the outermost unknown element that is open, or 0 */
	bool header, root, pending_end;
	uint16_t open[WBXML_DEPTH_MAX];
};

void wbxml_reader_init(struct wbxml_reader *r, struct bytes in);

/* The next event, as *ev and as result: WBXML_START, _TEXT, _END (> 0), WBXML_DONE (0: the
 * document is complete and nothing follows it) or WBXML_BAD (< 0, r->why). Every START has its
 * END, empty elements too. One element may have several TEXT in a row: join them. Text is not
 * checked to be UTF-8. After DONE and BAD the answer stays the same. So:
 *     while ((k = wbxml_next(&r, &ev)) > 0) ... */
int wbxml_next(struct wbxml_reader *r, struct wbxml_event *ev);

/* Skips what is left of the innermost open element, its END included: after START, the whole
 * element. 1, or negative as above. CHECKs that an element is open. */
int wbxml_skip(struct wbxml_reader *r);

/* ---- Reading into a tree ----------------------------------------------------------------- */

struct wbxml_node {
	uint16_t tag;
	bool opaque;  /* the text, or a piece of it, was OPAQUE */
	bool unknown; /* as in struct wbxml_event */
	uint32_t child_count;
	struct wbxml_node *first, *next, *parent; /* first child; next sibling */
	struct bytes text; /* all pieces joined; text.p is never NULL, text.n may be 0 */
};

struct wbxml_limits {
	uint32_t elements_max; /* 0: WBXML_ELEMENTS_MAX */
	uint8_t depth_max;     /* 0, or more than that: WBXML_DEPTH_MAX */
};

/* 1: *root_out is the root. Negative: *why_out is a static reason, and *root_out untouched;
 * reasons are malformed input, a limit reached, or the arena full (then a->failed is set).
 * The four ways to send nothing (`14`, `54 01`, an empty string, an empty OPAQUE) give equal
 * nodes. Unknown elements stay in the tree, marked; no tag of the enum finds them.
 * `lim` may be NULL. Memory: 48 bytes per element; text in several pieces takes up to four times
 * its length, and at least 64 bytes. */
int wbxml_parse(struct bytes in, struct arena *a, const struct wbxml_limits *lim,
	struct wbxml_node **root_out, const char **why_out);

/* All of these take NULL for "not there", so that lookups can be chained. Unknown nodes, and
 * whatever is inside them, are passed over. */

/* First child called `tag`, or NULL. */
const struct wbxml_node *wbxml_child(const struct wbxml_node *node, uint16_t tag);
/* Next sibling of `node` called `tag`, or NULL. */
const struct wbxml_node *wbxml_next_of(const struct wbxml_node *node, uint16_t tag);
/* Text of the first child called `tag`: p is NULL when there is no such child, and not NULL
 * (with n 0) when it is empty. */
struct bytes wbxml_text(const struct wbxml_node *node, uint16_t tag);
/* The node's own text is one decimal number <= max. False, *out untouched: it is not, or NULL. */
bool wbxml_u32(const struct wbxml_node *node, uint32_t max, uint32_t *out);
/* The node is "0", "1" or empty, which means 1 (MS-ASDTYPE 2.1). False, *out untouched: else. */
bool wbxml_bool(const struct wbxml_node *node, bool *out);

/* ---- Writing ----------------------------------------------------------------------------- */

struct wbxml_writer {
	struct buf *out;
	uint16_t open[WBXML_WRITE_DEPTH_MAX];
	uint8_t depth, page;
	bool root;  /* the one root has been started */
	bool fresh; /* the innermost element has no content yet; its tag is the last byte */
};

/* Writes the document header. Appends to what `out` holds; nobody else may write to `out` until
 * wbxml_done. */
void wbxml_writer_init(struct wbxml_writer *w, struct buf *out);
/* An element closed without content becomes the short empty form by itself, so a container may
 * be started before it is known whether anything goes into it. */
void wbxml_put_start(struct wbxml_writer *w, uint16_t tag);
void wbxml_put_end(struct wbxml_writer *w);
void wbxml_put_empty(struct wbxml_writer *w, uint16_t tag);

/* A whole element with text. What a string of a WBXML document or of XML 1.0 cannot carry (NUL,
 * controls below 0x20 but for tab, CR and LF, U+FFFE and U+FFFF, each malformed UTF-8
 * sequence) becomes U+FFFD, so no stored mail can corrupt an answer. Empty text gives an empty
 * element. */
void wbxml_put_text(struct wbxml_writer *w, uint16_t tag, const char *s);
void wbxml_put_bytes_text(struct wbxml_writer *w, uint16_t tag, struct bytes text);
void wbxml_put_u64(struct wbxml_writer *w, uint16_t tag, uint64_t v);
/* A whole element with raw bytes (up to 4 GiB - 1), for elements that are byte arrays. */
void wbxml_put_opaque(struct wbxml_writer *w, uint16_t tag, struct bytes data);

/* The same as content of the element that is open, for text that comes in pieces: each piece is
 * a string of its own, which receivers join. A piece must not end inside a UTF-8 sequence. */
void wbxml_put_piece(struct wbxml_writer *w, struct bytes text);
void wbxml_put_opaque_piece(struct wbxml_writer *w, struct bytes data);

/* A parsed element with all below it, text cleaned as above; OPAQUE stays OPAQUE. */
void wbxml_put_node(struct wbxml_writer *w, const struct wbxml_node *node);

/* True when the root is closed and memory sufficed: the document in `out` is whole. */
bool wbxml_done(const struct wbxml_writer *w);

/* ---- For people -------------------------------------------------------------------------- */

/* Appends the document as XML, one element per line, indented, namespaces as prefixes:
 *     <Ping:Ping>
 *       <Ping:HeartbeatInterval>480</Ping:HeartbeatInterval>
 *     </Ping:Ping>
 * OPAQUE of N bytes is announced by <?opaque N?> when it is plain text, and else written in
 * hexadecimal after <?opaque-hex N?>. Text is cleaned as by the writer.
 * Unknown tags are named by number (`Ping:x3F`, `Page30:x05`). Negative when malformed: the XML
 * up to there, and the reason as a comment. 1 otherwise; out of memory shows in out->failed. */
int wbxml_to_xml(struct bytes in, struct buf *out);

#endif
