/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "core/version.h"

#ifndef ROOST_COMMIT
#define ROOST_COMMIT "unknown"
#endif

const char roost_version[] = ROOST_VERSION;
const char roost_commit[] = ROOST_COMMIT;
