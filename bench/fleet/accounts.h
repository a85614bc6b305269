/* SPDX-License-Identifier: GPL-3.0-or-later */
/* bench/fleet/accounts.h - who the phones are: user and password of account number n by a pattern, in which
 * %d (or %5d, %05d) stands for the number and %% for a percent sign.
 * Thread: accounts_set once, before the others; these from any thread.    Memory: static.
 * Errors: as said; a name that does not fit is cut. */
#ifndef ROOST_BENCH_FLEET_ACCOUNTS_H
#define ROOST_BENCH_FLEET_ACCOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ACCOUNTS_NAME_MAX = 200 };

/* NULL leaves a pattern as it is (those of bench/mail/mailroom.h at first); first: the number of account 0.
 * False: *why_out says what is wrong with a pattern. The strings are the caller's. */
bool accounts_set(const char *user_pattern, const char *password_pattern, uint32_t first,
	const char **why_out);
void accounts_user(uint32_t account, char *out, size_t cap);
void accounts_password(uint32_t account, char *out, size_t cap);

#endif
