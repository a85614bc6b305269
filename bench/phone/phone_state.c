/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The phone's memory on disk: keys, as a phone keeps them over a restart. */
#include "bench/phone/phone_app.h"

#include <stdio.h>

void app_state_load(struct phone_app *a)
{
	json_error_t error;
	json_t *o = json_load_file(a->state_file, 0, &error), *list, *f;
	const char *text;
	size_t i;

	if (!o)
		return; /* a new phone */
	a->who.policy_key = (uint32_t)json_integer_value(json_object_get(o, "policy_key"));
	text = json_string_value(json_object_get(o, "hierarchy_key"));
	if (text)
		snprintf(a->hierarchy_key, sizeof(a->hierarchy_key), "%s", text);
	if (!a->version_given && json_object_get(o, "version"))
		a->who.version = (int)json_integer_value(json_object_get(o, "version"));
	list = json_object_get(o, "folders");
	json_array_foreach(list, i, f)
	{
		const char *id = json_string_value(json_object_get(f, "id"));
		const char *key = json_string_value(json_object_get(f, "key"));
		const char *name = json_string_value(json_object_get(f, "name"));
		struct folder *to = id && key ? app_folder_add(a, bytes_str(id)) : NULL;

		if (!to)
			continue;
		snprintf(to->key, sizeof(to->key), "%s", key);
		snprintf(to->name, sizeof(to->name), "%s", name ? name : "");
		to->type = (uint32_t)json_integer_value(json_object_get(f, "type"));
	}
	json_decref(o);
}

void app_state_save(const struct phone_app *a)
{
	json_t *o, *list = json_array();

	for (size_t i = 0; i < a->folder_count; i++)
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:s, s:i}", "id", a->folders[i].id, "key",
				      a->folders[i].key, "name", a->folders[i].name, "type",
				      (int)a->folders[i].type));
	o = json_pack("{s:i, s:I, s:s, s:o}", "version", a->who.version, "policy_key",
		(json_int_t)a->who.policy_key, "hierarchy_key", a->hierarchy_key, "folders", list);
	if (!o || json_dump_file(o, a->state_file, JSON_INDENT(1)) != 0)
		fprintf(stderr, "roost-phone: cannot write %s\n", a->state_file);
	json_decref(o);
}
