/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/listen.h"

#include "core/address.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void set_int(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

/* "every address": all of IPv4, where the machine has no IPv6. */
static bool only_v4(struct sockaddr_storage *address, socklen_t *length)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6;

	memcpy(&v6, address, sizeof(v6));
	if (v6.sin6_family != AF_INET6 ||
		memcmp(&v6.sin6_addr, &in6addr_any, sizeof(in6addr_any)) != 0)
		return false;
	v4.sin_port = v6.sin6_port;
	memcpy(address, &v4, sizeof(v4));
	*length = sizeof(v4);
	return true;
}

int listen_socket(struct sockaddr_storage *address, socklen_t *length, int flags)
{
	int fd;

	do
		fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	while (fd < 0 && errno == EAFNOSUPPORT && only_v4(address, length));
	if (fd < 0)
		return fd;
	if (address->ss_family != AF_UNIX)
		set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	/* net.ipv6.bindv6only would leave IPv4 out of "every address" */
	if (address->ss_family == AF_INET6)
		set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	return fd;
}

/* A socket's file outlives its server. NULL: the path is free now; else what is wrong. */
static const char *unlink_dead(const struct sockaddr_storage *address, socklen_t length)
{
	const char *path = ((const struct sockaddr_un *)address)->sun_path;
	struct stat st;
	int fd;
	bool alive;

	if (lstat(path, &st) != 0)
		return NULL;
	if (!S_ISSOCK(st.st_mode))
		return "it exists and is no socket";
	/* A live server answers; the file of a dead one does not. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return strerror(errno);
	alive = connect(fd, (const struct sockaddr *)address, length) == 0 || errno == EAGAIN;
	close(fd);
	if (alive)
		return "another server listens there";
	return unlink(path) == 0 ? NULL : strerror(errno);
}

/* The file takes its mode from the socket (unix(7)), so there is no moment when it is open to everybody; chmod
 * adds what the umask took. */
static bool bind_unix(int fd, const struct sockaddr_storage *address, socklen_t length, mode_t mode)
{
	return fchmod(fd, mode) == 0 && bind(fd, (const struct sockaddr *)address, length) == 0 &&
	       chmod(((const struct sockaddr_un *)address)->sun_path, mode) == 0;
}

static int open_at(const char *shown, struct sockaddr_storage *address, socklen_t length,
	mode_t mode, int backlog, char *why, size_t why_bytes)
{
	bool file = address->ss_family == AF_UNIX;
	const char *wrong = file ? unlink_dead(address, length) : NULL;
	int fd = -1;

	if (wrong)
		goto failed;
	fd = listen_socket(address, &length, SOCK_NONBLOCK);
	if (fd >= 0 &&
		(file ? bind_unix(fd, address, length, mode)
		      : bind(fd, (const struct sockaddr *)address, length) == 0) &&
		listen(fd, backlog) == 0)
		return fd;
	wrong = strerror(errno);
failed:
	snprintf(why, why_bytes, "cannot listen on %s: %s", shown, wrong);
	if (fd >= 0)
		close(fd);
	return -1;
}

int listen_at(
	const char *text, unsigned kinds, mode_t mode, int backlog, char *why, size_t why_bytes)
{
	struct sockaddr_storage address;
	socklen_t length;
	char what[200];

	if (!address_parse(text, kinds, &address, &length, what, sizeof(what))) {
		snprintf(why, why_bytes, "cannot listen on %.100s: %s", text, what);
		return -1;
	}
	return open_at(text, &address, length, mode, backlog, why, why_bytes);
}

int listen_in(
	const char *dir, const char *name, mode_t mode, int backlog, char *why, size_t why_bytes)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_storage address = {0};
	char shown[4200];
	int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd;

	snprintf(shown, sizeof(shown), "unix:%s/%s", dir, name);
	if (dir_fd < 0) {
		snprintf(why, why_bytes, "cannot listen on %s: %s", shown, strerror(errno));
		return -1;
	}
	snprintf(un.sun_path, sizeof(un.sun_path), "/proc/self/fd/%d/%s", dir_fd, name);
	memcpy(&address, &un, sizeof(un));
	fd = open_at(shown, &address, sizeof(un), mode, backlog, why, why_bytes);
	close(dir_fd);
	return fd;
}
