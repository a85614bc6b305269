/* SPDX-License-Identifier: GPL-3.0-or-later */
/* roost-phone: one simulated phone that does what a script of verbs says and tells what happened.
 */
#include "bench/cli.h"
#include "bench/phone/phone_app.h"

#include "core/base/check.h"
#include "core/base/log.h"
#include "core/version.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static struct client *signal_client;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
	if (signal_client)
		client_stop(signal_client);
}

int main(int argc, char **argv)
{
	static struct phone_app app = {
		.who = {.device_type = "RoostPhone", .version = 141},
		.heartbeat_s = 900,
		.timeout_s = 30,
		.window = 100,
		.count = 1,
		.body_type = 1,
		.truncation_bytes = 32768,
		.hierarchy_key = "0",
	};
	static const struct client_events events = {
		.opened = app_on_opened,
		.sent = app_on_sent,
		.answered = app_on_answered,
		.closed = app_on_closed,
		.message = app_on_message,
		.tick = app_on_tick,
	};
	static const char system_ca[] = "/etc/ssl/certs/ca-certificates.crt";
	struct phone_app *a = &app;
	struct client_options o = {0};
	struct sigaction sa = {.sa_handler = on_signal};
	char why[CLIENT_WHY_BYTES];
	char agent[64];

	app_read_arguments(a, argc, argv);
	log_set_level(LOG_WARNING);
	snprintf(agent, sizeof(agent), "roost-phone/%s", roost_version);
	if (!a->device_id[0])
		app_default_device(a);
	url_host_header(&a->server, a->host_header, sizeof(a->host_header));
	if (!phone_basic(a->user, a->password, a->authorization, sizeof(a->authorization)))
		cli_die("user and password are too long");
	a->who.host = a->host_header;
	a->who.user = a->user;
	a->who.authorization = a->authorization;
	a->who.device_id = a->device_id;
	a->who.user_agent = agent;
	if (a->state_file)
		app_state_load(a);
	o.tls = a->server.tls;
	o.server_name = a->server.host;
	o.tls_options.ca_file = a->insecure ? NULL : a->ca_file ? a->ca_file : system_ca;
	o.to[0] = a->server.to;
	o.to_count = 1;
	o.phones_max = 1;
	o.handshakes_max = 1;
	o.open_timeout_s = a->timeout_s;
	if (o.tls && !a->insecure && !a->ca_file && access(system_ca, R_OK) != 0)
		cli_die("%s is missing: use --ca FILE or --insecure", system_ca);
	if (a->data_dir) {
		struct db_options d = {.dir = a->data_dir};

		if (db_open(&d, &a->db, why, sizeof(why)) != DB_OK) {
			fprintf(stderr, "roost-phone: --data: %s\n", why);
			return EXIT_STEP;
		}
	}
	a->start_ns = clock_mono_ns();
	a->client = client_new(&o, &events, a, why, sizeof(why));
	if (!a->client) {
		fprintf(stderr, "roost-phone: %s\n", why);
		return EXIT_CONNECTION;
	}
	signal_client = a->client;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	tell(a, "start", "start",
		json_pack("{s:s, s:s, s:s, s:s}", "user", a->user, "device", a->device_id, "type",
			a->who.device_type, "host", a->host_header),
		"%s as %s, device %s (%s)", a->host_header, a->user, a->device_id,
		a->who.device_type);
	app_step_start(a);
	if (!a->over)
		client_run(a->client);
	if (a->lmtp_running)
		pthread_join(a->lmtp_thread, NULL);
	if (interrupted && !a->over) {
		tell(a, app_step_name(a), "interrupted", NULL, "interrupted");
		a->result = EXIT_STEP;
	}
	if (a->state_file)
		app_state_save(a);
	tell(a, "end", "done", json_pack("{s:i}", "exit_code", a->result), "%s",
		a->result == EXIT_OK ? "all steps done" : "not all steps succeeded");
	client_free(&a->client);
	db_close(&a->db);
	buf_free(&a->request);
	buf_free(&a->document);
	explicit_bzero(a->authorization, sizeof(a->authorization));
	return a->result;
}
