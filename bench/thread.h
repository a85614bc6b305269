/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/thread.h - a thread that no signal comes to: they are the main thread's. */
#ifndef ROOST_BENCH_THREAD_H
#define ROOST_BENCH_THREAD_H

#include "core/base/check.h"

#include <pthread.h>
#include <signal.h>

/* Aborts when there can be none. */
static inline void thread_start(pthread_t *thread_out, void *(*run)(void *), void *arg)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	CHECK(pthread_create(thread_out, NULL, run, arg) == 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

#endif
