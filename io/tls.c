/* SPDX-License-Identifier: GPL-3.0-or-later */
/* The TLS library and contexts. */
#include "io/tls_priv.h"

#include "core/base/check.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define CIPHERS_AES                                                                                \
	"TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384:TLS13-CHACHA20-POLY1305-SHA256:"          \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                               \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"                               \
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
/* Without AES in hardware ChaCha20 is twice as fast, and free of cache timing. */
#define CIPHERS_CHACHA                                                                             \
	"TLS13-CHACHA20-POLY1305-SHA256:TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384:"          \
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"                               \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                               \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"

static bool fast_aes(void)
{
#if defined(WOLFSSL_AESNI) && (defined(__x86_64__) || defined(__i386__))
	return __builtin_cpu_supports("aes");
#elif defined(WOLFSSL_ARMASM)
	return true;
#else
	return false;
#endif
}

const char *tls_library(void)
{
	static char text[64];
	static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

	pthread_mutex_lock(&mutex);
	if (text[0] == 0)
		snprintf(text, sizeof(text), "wolfSSL %s (%s%s)", wolfSSL_lib_version(),
#ifdef HAVE_SECRET_CALLBACK
			"own build",
#else
			"distribution's",
#endif
			fast_aes() ? ", AES-NI" : "");
	pthread_mutex_unlock(&mutex);
	return text;
}

static void library_init(void)
{
	CHECK(wolfSSL_Init() == WOLFSSL_SUCCESS);
}

void tls_library_ready(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, library_init);
}

const char *tls_wolf_reason(int err)
{
	const char *s = wolfSSL_ERR_reason_error_string((unsigned long)(long)err);

	return s ? s : "unknown error";
}

bool tls_wolf_settings(WOLFSSL_CTX *w, const char *ciphers, char *why, size_t why_bytes)
{
	wolfSSL_CTX_SetIORecv(w, tls_receive_cb);
	wolfSSL_CTX_SetIOSend(w, tls_send_cb);
#ifndef HAVE_SECRET_CALLBACK
	wolfSSL_CTX_SetHKDFExpandLabelCb(w, tls_hkdf_cb);
#endif
	if (!ciphers)
		ciphers = fast_aes() ? CIPHERS_AES : CIPHERS_CHACHA;
	if (wolfSSL_CTX_SetMinVersion(w, WOLFSSL_TLSV1_2) != WOLFSSL_SUCCESS ||
		wolfSSL_CTX_set_cipher_list(w, ciphers) != WOLFSSL_SUCCESS) {
		snprintf(why, why_bytes, "TLS library refuses the cipher list");
		return false;
	}
	return true;
}

static struct tls_ctx *ctx_new(size_t pair_count, char *why, size_t why_bytes)
{
	struct tls_ctx *c = calloc(1, sizeof(*c));
	struct pair *pairs = calloc(pair_count ? pair_count : 1, sizeof(*pairs));

	tls_library_ready();
	if (!c || !pairs) {
		snprintf(why, why_bytes, "out of memory");
		free(c);
		free(pairs);
		return NULL;
	}
	c->pairs = pairs;
	c->pair_count = pair_count;
	atomic_init(&c->refs, 1);
	pthread_mutex_init(&c->ticket_mutex, NULL);
	return c;
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void tls_ctx_unref(struct tls_ctx **cp)
{
	struct tls_ctx *c = *cp;

	*cp = NULL;
	if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < c->pair_count; i++)
		tls_pair_free(&c->pairs[i]);
	free(c->pairs);
	pthread_mutex_destroy(&c->ticket_mutex);
	explicit_bzero(c, sizeof(*c));
	free(c);
}

static void warn_expiry(const struct tls_ctx *c, const struct tls_options *o)
{
	int64_t now_s = (int64_t)(c->wall_ms() / 1000);

	for (size_t i = 0; i < c->pair_count; i++) {
		int64_t left_s = c->pairs[i].expires_s - now_s;
		if (left_s >= EXPIRY_WARNING_S)
			continue;
		struct log_line l;
		log_begin(&l, LOG_WARNING,
			left_s < 0 ? "tls: certificate has expired"
				   : "tls: certificate expires soon");
		log_str(&l, "file", o->pairs[i].certificate_file);
		log_i64(&l, "days_left", left_s / 86400);
		log_end(&l);
	}
}

struct tls_ctx *tls_server_new(const struct tls_options *o, char *why, size_t why_bytes)
{
	if (o->pair_count == 0) {
		snprintf(why, why_bytes, "no certificate given");
		return NULL;
	}
	/* RFC 8446 4.6.1: a ticket lives for at most seven days. */
	if (o->ticket_rotate_s > 7 * 86400 / 2) {
		snprintf(why, why_bytes, "ticket rotation above 302400 s");
		return NULL;
	}
	struct tls_ctx *c = ctx_new(o->pair_count, why, why_bytes);
	if (!c)
		return NULL;
	c->ticket_rotate_s = o->ticket_rotate_s ? o->ticket_rotate_s : 3600;
	c->wall_ms = o->wall_ms ? o->wall_ms : clock_wall_ms;
	if (o->ticket_seed) {
		memcpy(c->ticket_seed, o->ticket_seed, sizeof(c->ticket_seed));
	} else if (getrandom(c->ticket_seed, sizeof(c->ticket_seed), 0) !=
		   (ssize_t)sizeof(c->ticket_seed)) {
		snprintf(why, why_bytes, "no random numbers: %s", strerror(errno));
		tls_ctx_unref(&c);
		return NULL;
	}
	for (size_t i = 0; i < o->pair_count; i++) {
		if (!tls_pair_load(c, &c->pairs[i], &o->pairs[i], why, why_bytes)) {
			tls_ctx_unref(&c);
			return NULL;
		}
	}
	warn_expiry(c, o);
	if (o->ticket_seed)
		tls_ticket_learn(c);
	return c;
}

int64_t tls_ctx_expiry_s(const struct tls_ctx *c, uint64_t wall_ms)
{
	int64_t first = INT64_MAX;

	CHECK(!c->client);
	for (size_t i = 0; i < c->pair_count; i++)
		if (c->pairs[i].expires_s < first)
			first = c->pairs[i].expires_s;
	return first - (int64_t)(wall_ms / 1000);
}

struct tls_ctx *tls_client_new(const struct tls_client_options *o, char *why, size_t why_bytes)
{
	int groups[] = {WOLFSSL_ECC_X25519, WOLFSSL_ECC_SECP256R1};
	struct tls_ctx *c = ctx_new(1, why, why_bytes);
	WOLFSSL_CTX *w;
	bool ok = true;

	if (!c)
		return NULL;
	c->client = true;
	c->want_ticket = o->want_ticket;
	c->verify = o->ca_file != NULL;
	w = c->pairs[0].wolf = wolfSSL_CTX_new(
		o->tls12_only ? wolfTLSv1_2_client_method() : wolfSSLv23_client_method());
	if (!w) {
		snprintf(why, why_bytes, "out of memory");
		tls_ctx_unref(&c);
		return NULL;
	}
	if (!tls_wolf_settings(w, o->ciphers, why, why_bytes)) {
		tls_ctx_unref(&c);
		return NULL;
	}
	if (o->ca_file) {
		int err = wolfSSL_CTX_load_verify_locations(w, o->ca_file, NULL);
		if (err != WOLFSSL_SUCCESS) {
			snprintf(why, why_bytes, "%s: cannot use these CA certificates (%s)",
				o->ca_file,
				access(o->ca_file, R_OK) != 0 ? strerror(errno)
							      : tls_wolf_reason(err));
			tls_ctx_unref(&c);
			return NULL;
		}
		wolfSSL_CTX_set_verify(w, WOLFSSL_VERIFY_PEER, NULL);
	} else {
		wolfSSL_CTX_set_verify(w, WOLFSSL_VERIFY_NONE, NULL);
	}
	/* The session cache stays on for clients: only then wolfSSL fills in the session object
	 * that tls_hs_session hands out; nothing is put into a cache. */
	if (o->tls12_only)
		ok = wolfSSL_CTX_UseSupportedCurve(w, WOLFSSL_ECC_X25519) == WOLFSSL_SUCCESS &&
		     wolfSSL_CTX_UseSupportedCurve(w, WOLFSSL_ECC_SECP256R1) == WOLFSSL_SUCCESS;
	else
		ok = wolfSSL_CTX_set_groups(w, groups, ARRAY_LEN(groups)) == WOLFSSL_SUCCESS;
	if (o->want_ticket)
		ok = ok && wolfSSL_CTX_UseSessionTicket(w) == WOLFSSL_SUCCESS;
	if (!ok) {
		snprintf(why, why_bytes, "TLS library refuses its settings");
		tls_ctx_unref(&c);
	}
	return c;
}
