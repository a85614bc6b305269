/* SPDX-License-Identifier: GPL-3.0-or-later */
/* store/check.h - the store looks at itself: every row decodes, and records and indexes agree.
 * Thread, memory, errors: see db.h. Cost: reads everything in one snapshot, some lookups per row;
 *         while it runs LMDB cannot reuse pages, so the file grows by what is written meanwhile. */
#ifndef ROOST_STORE_CHECK_H
#define ROOST_STORE_CHECK_H

#include <stdio.h>

#include "store/db.h"

/* One line to `out` (may be NULL) per contradiction. Returns how many, or a negative db_error
 * when the store could not be read at all. */
int store_check(struct db *db, FILE *out);

#endif
