/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "io/handover.h"

#include "core/base/check.h"
#include "io/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

enum { ESCROW_SQ_ENTRIES = 2048, ESCROW_CQ_ENTRIES = 16384 };

struct handover_escrow {
	struct io_uring ring;
	struct io_uring_params params;
	uint32_t places;
};
_Static_assert(sizeof(struct io_uring_params) == 120, "struct handover_key");

struct handover_escrow *handover_escrow_new(uint32_t places, int *err_out)
{
	struct handover_escrow *e = calloc(1, sizeof(*e));

	if (!e) {
		*err_out = -ENOMEM;
		return NULL;
	}
	e->places = places;
	e->params = (struct io_uring_params){
		.flags = IORING_SETUP_CQSIZE,
		.cq_entries = ESCROW_CQ_ENTRIES,
	};
	*err_out = io_uring_queue_init_params(ESCROW_SQ_ENTRIES, &e->ring, &e->params);
	if (*err_out != 0) {
		free(e);
		return NULL;
	}
	*err_out = io_uring_register_files_sparse(&e->ring, places);
	if (*err_out != 0)
		handover_escrow_free(&e);
	return e;
}

struct handover_escrow *handover_escrow_adopt(const struct handover_key *key, int *err_out)
{
	struct handover_escrow *e = calloc(1, sizeof(*e));

	if (!e) {
		*err_out = -ENOMEM;
		return NULL;
	}
	e->places = key->places;
	memcpy(&e->params, key->ring, sizeof(e->params));
	*err_out = io_uring_queue_mmap(key->fd, &e->params, &e->ring);
	if (*err_out != 0) {
		free(e);
		return NULL;
	}
	/* What liburing 2.3 fills in only where it made the ring itself. */
	e->ring.enter_ring_fd = key->fd;
	e->ring.features = e->params.features;
	e->ring.sq.sqe_head = e->ring.sq.sqe_tail = *e->ring.sq.ktail;
	fcntl(key->fd, F_SETFD, FD_CLOEXEC);
	return e;
}

void handover_escrow_key(const struct handover_escrow *e, struct handover_key *key)
{
	key->fd = e->ring.ring_fd;
	key->places = e->places;
	memcpy(key->ring, &e->params, sizeof(e->params));
}

uint32_t handover_escrow_places(const struct handover_escrow *e)
{
	return e->places;
}

struct io_uring *handover_escrow_ring(struct handover_escrow *e)
{
	return &e->ring;
}

int handover_escrow_fd(const struct handover_escrow *e)
{
	return e->ring.ring_fd;
}

void handover_escrow_free(struct handover_escrow **ep)
{
	if (!*ep)
		return;
	io_uring_queue_exit(&(*ep)->ring);
	free(*ep);
	*ep = NULL;
}

static int memory(void)
{
	int fd = memfd_create("roost-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = memfd_create("roost-handover", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

/* It stays as long as the reader takes it for. */
static void seal(int fd)
{
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
}

int handover_memory_new(const void *p, size_t n)
{
	int fd = memory();
	size_t at = 0;

	while (fd >= 0 && at < n) {
		ssize_t w = write(fd, (const uint8_t *)p + at, n - at);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0) {
			int err = w < 0 ? errno : EIO;

			handover_memory_forget(fd);
			close(fd);
			return -err;
		}
		at += (size_t)w;
	}
	if (fd >= 0)
		seal(fd);
	return fd;
}

int handover_memory_make(size_t n, uint8_t **p_out)
{
	int fd = memory(), err = 0;
	size_t mapped;

	if (fd < 0)
		return fd;
	*p_out = NULL;
	if (ftruncate(fd, (off_t)n) != 0)
		err = -errno;
	else
		*p_out = handover_memory_map(fd, &mapped, &err);
	if (*p_out) {
		seal(fd);
		return fd;
	}
	close(fd);
	return err;
}

uint8_t *handover_memory_map(int fd, size_t *n_out, int *err_out)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) != 0) {
		*err_out = -errno;
		return NULL;
	}
	if (st.st_size <= 0) {
		*err_out = -ENODATA;
		return NULL;
	}
	p = mmap(
		NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED) {
		*err_out = -errno;
		return NULL;
	}
	*n_out = (size_t)st.st_size;
	return p;
}

void handover_memory_unmap(uint8_t **p, size_t n)
{
	if (*p)
		munmap(*p, n);
	*p = NULL;
}

void handover_memory_wipe(uint8_t **p, size_t n)
{
	if (*p)
		explicit_bzero(*p, n);
	handover_memory_unmap(p, n);
}

void handover_memory_forget(int fd)
{
	size_t n;
	int err;
	uint8_t *p = handover_memory_map(fd, &n, &err);

	handover_memory_wipe(&p, p ? n : 0);
}
