/* SPDX-License-Identifier: GPL-3.0-or-later */
/* io/wheel.h - deadlines of one shard: one flat wheel of 4096 slots of one second.
 * Timers are named by an index that the caller chose (its connection slot); the nodes live in
 * the wheel, 12 bytes each, linked by index, so that parked state holds no pointer.
 * Thread: the owning shard only.
 * Memory: nodes are mapped for `timers_max` at wheel_new and touched only when used.
 * Units:  *_ms is monotonic milliseconds, from the caller. Due times are rounded up to a whole
 *         second of that clock; a timer fires at the first wheel_advance at or after that second,
 *         so with an advance at wheel_next_ms it is late by less than a second and never early.
 *         What is overdue when armed goes to the next second that has not been fired. Due times
 *         beyond 4095 s wait in the wheel for another turn.
 * Errors: wheel_new returns NULL without memory; misuse aborts.
 * Cost:   arm and cancel O(1), no allocation; advance O(slots passed + timers in them), and nothing
 *         at all within one second; next O(64). */
#ifndef ROOST_IO_WHEEL_H
#define ROOST_IO_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

struct wheel;
typedef void wheel_fire_fn(void *arg, uint32_t timer);

struct wheel *wheel_new(uint32_t timers_max, uint64_t now_ms);
void wheel_free(struct wheel **w);
/* Arm or re-arm. */
void wheel_arm(struct wheel *w, uint32_t timer, uint64_t due_ms);
void wheel_cancel(struct wheel *w, uint32_t timer); /* fine when not armed */
bool wheel_armed(const struct wheel *w, uint32_t timer);
/* Fires what is due; a fired timer is not armed any more. `fire` may arm and cancel any timer. */
void wheel_advance(struct wheel *w, uint64_t now_ms, wheel_fire_fn *fire, void *arg);
/* The earliest time at which an advance can have work (a whole second); UINT64_MAX when nothing
 * is armed. */
uint64_t wheel_next_ms(const struct wheel *w);
/* True when every timer sits in the slot that its due time asks for. For tests. */
bool wheel_check(const struct wheel *w);

#endif
