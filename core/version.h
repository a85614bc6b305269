/* SPDX-License-Identifier: GPL-3.0-or-later */
/* core/version.h - what `--version` and roost_build_info say. */
#ifndef ROOST_CORE_VERSION_H
#define ROOST_CORE_VERSION_H

extern const char roost_version[]; /* "0.1.0" */
extern const char roost_commit[];  /* short hash, or "unknown" */

#endif
