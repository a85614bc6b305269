/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/server/minder.h - what is left of the first process after an upgrade, where somebody takes its end for
 * the end of the service: process 1 of a container, whose end is that of the container, or the child of
 * runit, supervisord or a container's init (core.stay). It has no threads, no store and no connections;
 * it passes signals on to the server of today, and ends when that has ended.
 * Thread: the main thread, when it is the only one.
 * Errors: none; a server that cannot be found gets no signals.
 * Cost:   a sleeping process. */
#ifndef ROOST_CORE_MINDER_H
#define ROOST_CORE_MINDER_H

#include <signal.h>

/* `lock`: the file that names today's server (DIR/lock). `set`: what is passed on; blocked already, as
 * SIGCHLD is from here on. The caller is process 1 or a child subreaper, so that servers that follow become
 * its children when their predecessors end. Returns the exit code of the last one, or 128 more than the
 * signal that killed it. */
int minder_run(const char *lock, const sigset_t *set);

#endif
