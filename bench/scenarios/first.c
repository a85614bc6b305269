/* SPDX-License-Identifier: GPL-3.0-or-later */
/* One phone goes ahead of all to a server that was named by URL, so that what is wrong (nobody there, no
 * TLS, a certificate, the account, another kind of server) is said once, in full, and at once. */
#include "bench/fleet/accounts.h"
#include "bench/fleet/eas_request.h"
#include "bench/scenarios/scenario.h"
#include "core/base/check.h"

#include <stdio.h>

enum { OPEN_S = 10, ANSWER_S = 30, LOOK_MS = 100 };

struct first {
	struct bench *b;
	struct client *client;
	struct buf request;
	char user[256], where[300];
	bool ok;
	uint64_t until_ms; /* 0: no greeting is waited for */
};

static void over(struct first *f, bool ok)
{
	f->ok = ok;
	client_close(f->client, 0);
	client_stop(f->client);
}

static void opened(void *arg, uint32_t phone)
{
	struct first *f = arg;

	(void)phone;
	if (f->b->imap)
		f->until_ms = client_now_ms(f->client) + ANSWER_S * 1000;
	else if (f->request.n)
		client_request(f->client, 0, buf_bytes(&f->request), ANSWER_S);
	else
		over(f, true);
}

static void sent(void *arg, uint32_t phone)
{
	(void)arg;
	(void)phone;
}

static size_t bytes(void *arg, uint32_t phone, const uint8_t *p, size_t n, uint64_t came_ns)
{
	struct first *f = arg;

	(void)phone;
	(void)came_ns;
	if (p[0] == '*')
		over(f, true);
	else
		over(f, bench_failed(f->b, "%s does not greet as an IMAP server does", f->where));
	return n;
}

static bool speaks(struct bytes versions, int version)
{
	char text[32];
	struct bytes one;

	snprintf(text, sizeof(text), "%d.%d", version / 10, version % 10);
	while (versions.n) {
		size_t k = 0;

		while (k < versions.n && versions.p[k] != ',')
			k++;
		one = bytes_of(versions.p, k);
		while (one.n && one.p[0] == ' ')
			one = bytes_of(one.p + 1, one.n - 1);
		if (one.n == strlen(text) && memcmp(one.p, text, one.n) == 0)
			return true;
		k += k < versions.n;
		versions = bytes_of(versions.p + k, versions.n - k);
	}
	return false;
}

static bool welcome(struct first *f, const struct http_answer *h)
{
	struct bench *b = f->b;
	struct bytes versions = http_answer_field(h, "MS-ASProtocolVersions");

	if (versions.n == 0)
		return bench_failed(b,
			"%s answers, but not as an ActiveSync server does: no "
			"MS-ASProtocolVersions "
			"with its 200 to OPTIONS /Microsoft-Server-ActiveSync (--poll and --get "
			"are "
			"for other servers)",
			f->where);
	if (!speaks(versions, b->protocol_version))
		return bench_failed(b,
			"%s does not speak ActiveSync %d.%d, but %.*s: see --protocol-version",
			f->where, b->protocol_version / 10, b->protocol_version % 10,
			(int)versions.n, (const char *)versions.p);
	bench_note("server: %s, %s, ActiveSync %.*s", f->where,
		b->url.tls ? client_tls_text(f->client, 0) : "without TLS", (int)versions.n,
		(const char *)versions.p);
	return true;
}

static bool refused(struct first *f, const struct http_answer *h)
{
	struct bench *b = f->b;
	struct bytes to = http_answer_field(h, "Location");
	struct bytes asks = http_answer_field(h, "WWW-Authenticate");

	if (h->status == 401 && asks.n >= 5 && strncasecmp((const char *)asks.p, "Basic", 5) != 0)
		return bench_failed(b, "%s wants another proof than a password: %.*s", f->where,
			(int)asks.n, (const char *)asks.p);
	if (h->status == 401)
		return bench_failed(b,
			"%s does not take the account %s with its password (HTTP 401): see "
			"--account, --password and --first",
			f->where, f->user);
	if (h->status == 403)
		return bench_failed(b, "%s does not let %s in (HTTP 403)", f->where, f->user);
	if (h->status == 404)
		return bench_failed(b,
			"%s has no /Microsoft-Server-ActiveSync (HTTP 404): is it an ActiveSync "
			"server?",
			f->where);
	if (h->status / 100 == 3 && to.n)
		return bench_failed(b, "%s sends phones on to %.*s (HTTP %d): is that the --url?",
			f->where, (int)to.n, (const char *)to.p, h->status);
	return bench_failed(b, "%s answers OPTIONS with HTTP %d %.*s%s", f->where, h->status,
		(int)h->reason.n, (const char *)h->reason.p,
		h->status == 400 && !b->url.tls ? ": does that port want https://?" : "");
}

static void answered(
	void *arg, uint32_t phone, const struct http_answer *h, struct bytes body, uint64_t came_ns)
{
	struct first *f = arg;

	(void)phone;
	(void)body;
	(void)came_ns;
	/* 503: it is there, and phones come again. */
	if (h->status == 503)
		over(f, true);
	else if (h->status == 200)
		over(f, welcome(f, h));
	else
		over(f, refused(f, h));
}

static void closed(void *arg, uint32_t phone, enum client_end how, const char *why)
{
	struct first *f = arg;
	struct bench *b = f->b;

	(void)phone;
	switch (how) {
	case CLIENT_END_CONNECT:
		bench_failed(b, "no connection to %s: %s (does the server run, is --url right?)",
			f->where, why);
		break;
	case CLIENT_END_TLS:
		bench_failed(b, "no TLS with %s: %s%s", f->where, why,
			b->ca_file ? " (its certificate must be for that name and signed by --ca)"
				   : "");
		break;
	case CLIENT_END_HTTP:
		bench_failed(b, "%s does not answer by HTTP/1.1 as it should: %s", f->where, why);
		break;
	case CLIENT_END_TIMEOUT:
		bench_failed(b, "%s says nothing: %s", f->where, why);
		break;
	default:
		bench_failed(b, "%s hangs up: %s", f->where, why);
	}
	over(f, false);
}

static uint64_t tick(void *arg, uint64_t now_ms)
{
	struct first *f = arg;

	if (bench_interrupted)
		client_stop(f->client);
	if (f->until_ms && now_ms >= f->until_ms) {
		f->until_ms = 0;
		over(f, bench_failed(f->b, "%s sends no greeting within %d s", f->where, ANSWER_S));
	}
	return now_ms + LOOK_MS;
}

/* OPTIONS, where phones are to be served there. */
static void ask(struct first *f)
{
	char password[256], authorization[1024];
	struct phone_identity who = {
		.host = f->b->host_header,
		.user = f->user,
		.user_agent = "roost-bench",
		.authorization = authorization,
		.version = f->b->protocol_version,
	};

	accounts_user(0, f->user, sizeof(f->user));
	accounts_password(0, password, sizeof(password));
	CHECK(phone_basic(f->user, password, authorization, sizeof(authorization)));
	phone_request_options(&who, &f->request);
}

bool bench_first_phone(struct bench *b)
{
	const struct client_events events = {.opened = opened,
		.sent = sent,
		.answered = answered,
		.bytes = b->imap ? bytes : NULL,
		.closed = closed,
		.tick = tick};
	struct client_options o;
	struct first f = {.b = b};
	char why[WHY];

	bench_client_settings(b, 1, &o);
	o.tls_options.want_ticket = false;
	o.open_timeout_s = OPEN_S;
	snprintf(f.where, sizeof(f.where), "%s", b->host_header);
	if (bench_needs_fleet(b) && !b->imap && !b->poll_path)
		ask(&f);
	f.client = client_new(&o, &events, &f, why, sizeof(why));
	if (!f.client) {
		buf_free(&f.request);
		return bench_failed(b, "%s", why);
	}
	client_open(f.client, 0);
	client_run(f.client);
	client_free(&f.client);
	buf_free(&f.request);
	return f.ok;
}
