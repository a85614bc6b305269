/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/upgrade/upgrade_message.h"

#include "core/upgrade/handover_state.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char message_magic[8] = {'R', 'o', 'o', 's', 't', 'U', 'p', '1'};

bool upgrade_say(int fd, struct upgrade_message *m, int with)
{
	union {
		struct cmsghdr head;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = m, .iov_len = sizeof(*m)};
	struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	memcpy(m->magic, message_magic, sizeof(m->magic));
	m->format = HANDOVER_FORMAT;
	if (with >= 0) {
		h.msg_control = &control;
		h.msg_controllen = sizeof(control.space);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.head), &with, sizeof(int));
	}
	do
		n = sendmsg(fd, &h, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)sizeof(*m);
}

bool upgrade_say_kind(int fd, enum upgrade_message_kind kind, uint64_t a, uint64_t b)
{
	struct upgrade_message m = {.kind = kind, .a = a, .b = b};

	return upgrade_say(fd, &m, -1);
}

int upgrade_hear(int fd, struct upgrade_message *m, int *with_out, int timeout_ms)
{
	union {
		struct cmsghdr head;
		uint8_t space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = m, .iov_len = sizeof(*m)};
	struct msghdr h = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.space)};
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct cmsghdr *c;
	ssize_t n;

	*with_out = -1;
	n = poll(&p, 1, timeout_ms);
	if (n == 0 || (n < 0 && errno == EINTR))
		return 0;
	if (n < 0)
		return -1;
	n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	c = n > 0 ? CMSG_FIRSTHDR(&h) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(with_out, CMSG_DATA(c), sizeof(int));
	if (n == (ssize_t)sizeof(*m) && memcmp(m->magic, message_magic, sizeof(m->magic)) == 0) {
		m->text[sizeof(m->text) - 1] = 0;
		return 1;
	}
	if (*with_out >= 0)
		close(*with_out);
	*with_out = -1;
	return -1;
}
