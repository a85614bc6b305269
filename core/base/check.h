/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/base/check.h - what must hold, in release builds too.
 * CHECK is for bugs of ours: it logs where and aborts. Bytes from a peer never reach one. */
#ifndef ROOST_BASE_CHECK_H
#define ROOST_BASE_CHECK_H

_Noreturn void check_failed(const char *expr, const char *file, int line);

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (__builtin_expect(!(cond), 0))                                                  \
			check_failed(#cond, __FILE__, __LINE__);                                   \
	} while (0)

#define ARRAY_LEN(a)             (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, m) ((type *)((char *)(p)-offsetof(type, m)))

#endif
