/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/handover.h - what carries connections from one process to its successor.
 *
 * A loop's rings are SINGLE_ISSUER: nobody but their thread can drive them, and they end with their
 * process. Their direct descriptors can be sent to another ring, though (IORING_MSG_SEND_FD). An
 * escrow is a ring made for that alone, without SINGLE_ISSUER: the old process' shards send their
 * descriptors there, the new process inherits the ring's descriptor over exec and sends them on to
 * its own rings (loop_export, loop_import). Sending copies the reference, so until the old process
 * lets go, it can go on as if nothing had been; most are sent long before anything stands still.
 * A ring's descriptor cannot go over a Unix socket (the kernel refuses), hence the inheritance.
 *
 * What belongs to the connections goes in memory without a name (memfd): TLS keys never get a path.
 *
 * Thread: any, one at a time for each object.
 * Memory: per escrow 8 bytes a place in the kernel and some 400 KB of queues.
 * Errors: NULL or negative with -errno; misuse aborts.
 * Cost:   a few system calls each. */
#ifndef ROOST_IO_HANDOVER_H
#define ROOST_IO_HANDOVER_H

#include <stddef.h>
#include <stdint.h>

struct handover_escrow;
struct io_uring;

/* What the successor needs to drive an inherited escrow. Plain data. */
struct handover_key {
	int32_t fd;
	uint32_t places;
	uint8_t ring[120]; /* struct io_uring_params as the kernel filled it in */
};

struct handover_escrow *handover_escrow_new(uint32_t places, int *err_out);
struct handover_escrow *handover_escrow_adopt(const struct handover_key *key, int *err_out);
void handover_escrow_key(const struct handover_escrow *e, struct handover_key *key_out);
uint32_t handover_escrow_places(const struct handover_escrow *e);
/* For loop_move.c. */
struct io_uring *handover_escrow_ring(struct handover_escrow *e);
int handover_escrow_fd(const struct handover_escrow *e);
/* This process' hold on it; the kernel drops what is in it when nobody holds it any more, a little
 * later. */
void handover_escrow_free(struct handover_escrow **e);

/* A descriptor (close-on-exec) of memory with these bytes, of fixed size; negative: -errno. */
int handover_memory_new(const void *p, size_t n);
/* The same of n zero bytes, mapped and present, for the caller to fill in. */
int handover_memory_make(size_t n, uint8_t **p_out);
/* Maps it; NULL with *err_out. */
uint8_t *handover_memory_map(int fd, size_t *n_out, int *err_out);
void handover_memory_unmap(uint8_t **p, size_t n);
/* Overwrites the bytes, for everybody who holds the memory, and unmaps. */
void handover_memory_wipe(uint8_t **p, size_t n);
/* The same by descriptor. */
void handover_memory_forget(int fd);

#endif
