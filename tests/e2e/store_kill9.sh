#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# tests/e2e/store_kill9.sh [CRASH_WRITER] - a writing process is killed at 20 random moments; every
# acknowledged message is there exactly once afterwards. TAP on standard output, from the program.
set -u
program=${1:-${B:-build}/tests/store/crash_writer}

[ -x "$program" ] || { echo "Bail out! no $program"; exit 1; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
"$program" "$dir/store" 20
