/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/server/minder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LOOK_S = 2 };

/* Its children are not asked: between two servers it is the one that ends. */
static pid_t server_of(const char *lock)
{
	char text[32] = "";
	int fd = open(lock, O_RDONLY | O_CLOEXEC);
	long pid = 0;

	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) > 0)
		pid = strtol(text, NULL, 10);
	close(fd);
	return pid > 1 && pid != getpid() ? (pid_t)pid : 0;
}

int minder_run(const char *lock, const sigset_t *set)
{
	const struct timespec look = {.tv_sec = LOOK_S};
	sigset_t all = *set;
	int status, code = 0, sig;
	pid_t pid;

	sigaddset(&all, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	for (;;) {
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		if (pid < 0 && errno == ECHILD)
			return code;
		sig = sigtimedwait(&all, NULL, &look);
		pid = sig > 0 && sig != SIGCHLD ? server_of(lock) : 0;
		if (pid)
			kill(pid, sig);
	}
}
