/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/phone/phone_app.h - the inside of roost-phone, one simulated phone: a script of verbs, of which one
 * at a time has a request outstanding. For phone_*.c and roost-phone.c only.
 * Thread: the one that runs the client's loop, but for the delivery by LMTP.
 * Errors: a step that fails ends the script, or with --keep-going is remembered. */
#ifndef ROOST_BENCH_PHONE_PHONE_APP_H
#define ROOST_BENCH_PHONE_PHONE_APP_H

#include "bench/fleet/client.h"
#include "bench/fleet/eas_request.h"
#include "bench/fleet/url.h"
#include "core/base/clock.h"
#include "store/db.h"

#include <jansson.h>
#include <pthread.h>

enum exit_code {
	EXIT_OK = 0,
	EXIT_STEP = 1,
	EXIT_USAGE = 2,
	EXIT_CONNECTION = 3,
	EXIT_AUTH = 4,
	EXIT_TIMEOUT = 5,
};

#define VERBS(X)                                                                                   \
	X(OPTIONS, "options", "asks for protocol versions and takes the newest that both know")    \
	X(PROVISION, "provision", "both phases; the policy key is kept")                           \
	X(FOLDERSYNC, "foldersync", "the folder tree")                                             \
	X(SYNC, "sync", "the watched folders until nothing is left")                               \
	X(PING, "ping", "one Ping: parks until a change or the heartbeat's end")                   \
	X(PING_CACHED, "ping-cached",                                                              \
		"one Ping without a body: the server remembers the parameters")                    \
	X(WAIT_FOR_CHANGE, "wait-for-change", "Ping again and again until a folder changed")       \
	X(SYNC_WAIT, "sync-wait", "a hanging Sync")                                                \
	X(FETCH, "fetch", "the newest item seen, whole, by ItemOperations")                        \
	X(MARK_READ, "mark-read", "the newest item seen")                                          \
	X(MARK_UNREAD, "mark-unread", "likewise")                                                  \
	X(DELETE, "delete", "likewise")                                                            \
	X(ESTIMATE, "estimate", "GetItemEstimate of the watched folders")                          \
	X(SETTINGS, "settings", "device information")                                              \
	X(SLEEP, "sleep", "=SECONDS: does nothing for a while")                                    \
	X(DISCONNECT, "disconnect", "closes the connection; the next verb opens another")

enum verb {
#define X(id, name, help) VERB_##id,
	VERBS(X)
#undef X
		VERB_COUNT
};
extern const char *const app_verb_names[VERB_COUNT];

enum {
	STEPS_MAX = 256,
	FOLDERS_MAX = 256,
	KEY_MAX = 64,
	SYNC_ROUNDS_MAX = 10000,
	/* An answer this soon means that the request never hung: so "parked" is said a little
	 * after the request has left, and only then. */
	PARKED_AFTER_MS = 50,
	RECONNECT_S_MAX = 60,
};

struct step {
	enum verb verb;
	double seconds; /* sleep */
};

struct folder {
	char id[KEY_MAX + 1], key[KEY_MAX + 1];
	char name[128];
	uint32_t type;
	bool watched;
};

struct phone_app {
	/* from the command line */
	struct url server;
	const char *user, *password, *state_file, *lmtp, *data_dir;
	char device_id[EAS_DEVICE_ID_MAX + 1];
	const char *folder_list, *ca_file;
	uint32_t heartbeat_s, timeout_s, window, truncation_bytes;
	uint32_t count, filter_type;
	uint8_t body_type;
	bool json, verbose, insecure, keep_going, reconnect, version_given;
	struct step steps[STEPS_MAX];
	size_t step_count;

	/* the phone's memory */
	struct phone_identity who;
	char authorization[1024], host_header[300];
	char hierarchy_key[KEY_MAX + 1];
	struct folder folders[FOLDERS_MAX];
	size_t folder_count;
	char item_folder[KEY_MAX + 1], item[KEY_MAX + 1]; /* newest one seen */

	/* under way */
	struct client *client;
	struct db *db;
	uint64_t start_ns;
	size_t at; /* step */
	uint64_t rounds_done;
	bool running;   /* the step has a request outstanding or is asleep */
	uint32_t phase; /* of a step with several requests */
	uint32_t sync_rounds, sync_items;
	uint64_t request_ns, sent_ns;
	struct buf request, document;
	bool hangs;  /* the request may park */
	bool parked; /* said so */
	uint64_t parked_due_ms, wake_at_ms;
	uint64_t reconnect_until_ms;
	uint32_t answers; /* on this connection */
	bool repeated;    /* the request has been sent twice already */
	bool lmtp_started, lmtp_running;
	pthread_t lmtp_thread;
	int result;
	bool over;
};

/* ---- phone_tell.c: what happened, as a timeline or as JSON ---- */

__attribute__((format(printf, 6, 7))) void app_tell_at(struct phone_app *a, uint64_t at_ns,
	const char *step, const char *event, json_t *fields, const char *fmt, ...);
#define tell(a, step, event, fields, ...)                                                          \
	app_tell_at((a), clock_mono_ns(), (step), (event), (fields), __VA_ARGS__)
json_t *app_json_bytes(struct bytes b);
void app_show_document(struct phone_app *a, const char *direction, struct bytes document);
const char *app_first_line(struct bytes text, char out[80]);
const char *app_step_name(const struct phone_app *a);

/* ---- phone_script.c: the verbs, one after the other ---- */

void app_step_start(struct phone_app *a);
void app_finish(struct phone_app *a, int result);
void app_step_next(struct phone_app *a);
__attribute__((format(printf, 4, 5))) void app_step_failed(
	struct phone_app *a, int result, json_t *fields, const char *fmt, ...);
struct folder *app_folder_by_id(struct phone_app *a, struct bytes id);
struct folder *app_folder_add(struct phone_app *a, struct bytes id);
void app_folders_choose(struct phone_app *a);
json_t *app_watched_json(const struct phone_app *a);
void app_send_request(struct phone_app *a);
void app_step_send(struct phone_app *a);

/* ---- phone_answer.c: what the server answered, but for Sync and Ping ---- */

void app_on_answered(void *arg, uint32_t phone, const struct http_answer *h, struct bytes body,
	uint64_t came_ns);

/* ---- phone_sync.c: answers to Sync and Ping ---- */

void app_tell_item(struct phone_app *a, const char *folder, const char *event, char sign,
	const struct wbxml_node *node);
void app_answer_sync(struct phone_app *a, const struct wbxml_node *root, json_t *fields, double ms);
void app_answer_ping(
	struct phone_app *a, const struct wbxml_node *root, json_t *fields, uint64_t came_ns);

/* ---- phone_net.c: the connection, time, and the message that is delivered meanwhile ---- */

void app_on_opened(void *arg, uint32_t phone);
void app_on_sent(void *arg, uint32_t phone);
void app_on_closed(void *arg, uint32_t phone, enum client_end how, const char *why);
void app_on_message(void *arg, struct loop_msg *m);
uint64_t app_on_tick(void *arg, uint64_t now_ms);

/* ---- phone_state.c: the phone's memory on disk ---- */

void app_state_load(struct phone_app *a);
void app_state_save(const struct phone_app *a);

/* ---- phone_options.c: the command line ---- */

void app_read_arguments(struct phone_app *a, int argc, char **argv);
void app_default_device(struct phone_app *a);

#endif
