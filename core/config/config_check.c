/* SPDX-License-Identifier: GPL-3.0-or-later */
/* What only shows when all settings are known. */
#include "core/config/config_priv.h"

#include "core/address.h"
#include "core/base/bytes.h"
#include "core/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool check_addresses(
	const char *key, const struct config_list *l, unsigned kinds, char *why, size_t why_bytes)
{
	struct sockaddr_storage address;
	socklen_t length;
	char v[100], what[200];

	for (size_t i = 0; i < l->n; i++)
		if (!address_parse(l->v[i], kinds, &address, &length, what, sizeof(what))) {
			snprintf(why, why_bytes, "listen.%s: %s: %s", key, config_shown(l->v[i], v),
				what);
			return false;
		}
	return true;
}

static bool check_readable(const char *key, const char *path, char *why, size_t why_bytes)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int err = errno;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		close(fd);
		fd = -1;
		err = EISDIR;
	}
	if (fd < 0) {
		snprintf(why, why_bytes, "%s: %s: %s", key, path, strerror(err));
		return false;
	}
	close(fd);
	return true;
}

static bool check_twice(const struct config *c, char *why, size_t why_bytes)
{
	const struct config_list *const lists[] = {
		&c->listen_https, &c->listen_http, &c->listen_lmtp, &c->listen_admin};
	char v[100];

	for (size_t a = 0; a < ARRAY_LEN(lists); a++)
		for (size_t i = 0; i < lists[a]->n; i++)
			for (size_t b = a; b < ARRAY_LEN(lists); b++)
				for (size_t j = b == a ? i + 1 : 0; j < lists[b]->n; j++) {
					const char *one = lists[a]->v[i];
					size_t n = strlen(one);

					if (strcmp(one, lists[b]->v[j]) != 0)
						continue;
					/* The kernel gives each port 0 another number. */
					if (n > 2 && strcmp(one + n - 2, ":0") == 0)
						continue;
					snprintf(why, why_bytes,
						"section listen: %s is named twice",
						config_shown(one, v));
					return false;
				}
	return true;
}

static bool check_tls(const struct config *c, char *why, size_t why_bytes)
{
	bool certificate = c->tls_certificate[0], key = c->tls_key[0];
	char path[4096], v[100];

	if (certificate != key) {
		snprintf(why, why_bytes,
			"tls.%s is set and tls.%s is not; allowed: both (or tls.self_signed)",
			certificate ? "certificate" : "key", certificate ? "key" : "certificate");
		return false;
	}
	if (c->listen_https.n && !certificate && !c->tls_self_signed) {
		snprintf(why, why_bytes,
			"listen.https needs tls.certificate and tls.key, or tls.self_signed = "
			"true");
		return false;
	}
	if (certificate &&
		(!check_readable("tls.certificate", c->tls_certificate, why, why_bytes) ||
			!check_readable("tls.key", c->tls_key, why, why_bytes)))
		return false;
	for (size_t i = 0; i < c->tls_pairs.n; i++) {
		const char *pair = c->tls_pairs.v[i], *colon = strchr(pair, ':');

		if (!colon || colon == pair || !colon[1] || strchr(colon + 1, ':') ||
			!bytes_to_strz(
				bytes_of(pair, (size_t)(colon - pair)), path, sizeof(path))) {
			snprintf(why, why_bytes, "tls.pairs: %s; allowed: certificate.pem:key.pem",
				config_shown(pair, v));
			return false;
		}
		if (!check_readable("tls.pairs", path, why, why_bytes) ||
			!check_readable("tls.pairs", colon + 1, why, why_bytes))
			return false;
	}
	return true;
}

static bool check_order(const char *low_key, int64_t low, const char *high_key, int64_t high,
	char *why, size_t why_bytes)
{
	if (low <= high)
		return true;
	snprintf(why, why_bytes, "%s (%" PRId64 ") is above %s (%" PRId64 ")", low_key, low,
		high_key, high);
	return false;
}

bool config_check(const struct config *c, char *why, size_t why_bytes)
{
	char v[100];

	if (!check_order("push.heartbeat_min_s", c->push_heartbeat_min_s, "push.heartbeat_max_s",
		    c->push_heartbeat_max_s, why, why_bytes) ||
		!check_order("store.map_mib", c->store_map_mib, "store.map_max_mib",
			c->store_map_max_mib, why, why_bytes) ||
		!check_addresses("https", &c->listen_https, ADDRESS_TCP, why, why_bytes) ||
		!check_addresses("http", &c->listen_http, ADDRESS_TCP, why, why_bytes) ||
		!check_addresses(
			"lmtp", &c->listen_lmtp, ADDRESS_TCP | ADDRESS_UNIX, why, why_bytes) ||
		!check_addresses(
			"admin", &c->listen_admin, ADDRESS_TCP | ADDRESS_UNIX, why, why_bytes) ||
		!check_twice(c, why, why_bytes) || !check_tls(c, why, why_bytes))
		return false;
	/* MS-ASPROV 2.2.2.28: MaxDevicePasswordFailedAttempts is 4..16. */
	if (c->policy_failed_attempts_max != 0 && c->policy_failed_attempts_max < 4) {
		snprintf(why, why_bytes,
			"policy.failed_attempts_max is %" PRId64 "; allowed: 0, or 4 to 16",
			c->policy_failed_attempts_max);
		return false;
	}
	if (!c->store_dir[0]) {
		snprintf(why, why_bytes, "store.dir is empty; allowed: a directory");
		return false;
	}
	if (strpbrk(c->auth_default_domain, "@ \t\\/")) {
		snprintf(why, why_bytes,
			"auth.default_domain is %s; allowed: a domain, without '@'",
			config_shown(c->auth_default_domain, v));
		return false;
	}
	return true;
}
