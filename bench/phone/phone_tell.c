/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What happened, for people and for scripts. */
#include "bench/phone/phone_app.h"

#include "core/base/check.h"

#include <stdio.h>

const char *const app_verb_names[VERB_COUNT] = {
#define X(id, name, help) [VERB_##id] = (name),
	VERBS(X)
#undef X
};

/* One line of the timeline, or one object; takes `fields` (NULL: none). */
void app_tell_at(struct phone_app *a, uint64_t at_ns, const char *step, const char *event,
	json_t *fields, const char *fmt, ...)
{
	uint64_t t_us = at_ns > a->start_ns ? (at_ns - a->start_ns) / 1000 : 0;
	va_list ap;

	if (a->json) {
		json_t *o = json_pack("{s:I, s:s, s:s, s:I}", "t_us", (json_int_t)t_us, "step",
			step, "event", event, "mono_ns", (json_int_t)at_ns);

		CHECK(o);
		if (fields)
			json_object_update(o, fields);
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	} else {
		printf("%4llu.%06llu  %-15s ", (unsigned long long)(t_us / 1000000),
			(unsigned long long)(t_us % 1000000), step);
		va_start(ap, fmt);
		vprintf(fmt, ap);
		va_end(ap);
		putchar('\n');
	}
	json_decref(fields);
	fflush(stdout);
}

json_t *app_json_bytes(struct bytes b)
{
	json_t *j = json_stringn((const char *)b.p, b.n);

	return j ? j : json_string("(not UTF-8)");
}

void app_show_document(struct phone_app *a, const char *direction, struct bytes document)
{
	FILE *to = a->json ? stderr : stdout;
	struct buf xml = {0};

	if (!a->verbose)
		return;
	if (document.n == 0) {
		fprintf(to, "   %s (no body)\n", direction);
	} else {
		int ok = wbxml_to_xml(document, &xml);
		size_t line = 0;

		if (ok < 0 && xml.n == 0)
			fprintf(to, "   %s (%zu bytes, not WBXML)\n", direction, document.n);
		for (size_t i = 0; i < xml.n; i++) {
			if (xml.p[i] != '\n')
				continue;
			fprintf(to, "   %s %.*s\n", direction, (int)(i - line),
				(const char *)xml.p + line);
			line = i + 1;
		}
	}
	buf_free(&xml);
	fflush(to);
}

/* The first line that says something, short, without what could move a terminal's cursor. */
const char *app_first_line(struct bytes text, char out[80])
{
	size_t n = 0, i = 0;

	if (!text.p)
		text.n = 0;
	while (i < text.n && (text.p[i] == '\n' || text.p[i] == '\r' || text.p[i] == ' '))
		i++;
	for (; i < text.n && text.p[i] != '\n' && text.p[i] != '\r'; i++) {
		uint8_t c = text.p[i];

		if (n >= 70) {
			/* Not inside a character. */
			while (n > 0 && ((uint8_t)out[n - 1] & 0xc0) == 0x80)
				n--;
			if (n > 0 && (uint8_t)out[n - 1] >= 0xc0)
				n--;
			memcpy(out + n, "...", 3);
			n += 3;
			break;
		}
		out[n++] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
	}
	out[n] = 0;
	return out;
}

const char *app_step_name(const struct phone_app *a)
{
	return a->at < a->step_count ? app_verb_names[a->steps[a->at].verb] : "end";
}
