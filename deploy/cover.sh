#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Line coverage per folder from a COVER=1 build: deploy/cover.sh BUILD-FOLDER.
set -eu
find "$1" -name '*.gcda' -path '*/core/*' -o -name '*.gcda' -path '*/io/*' -o -name '*.gcda' -path '*/store/*' |
	grep -v /tests/ | while read -r f; do
	gcov -n -o "$(dirname "$f")" "$f" 2>/dev/null
done | awk -F"'" '/^File/ { f = $2 } /^Lines executed/ && f ~ /^(core|io|store)\/.*\.c$/ {
	split($0, a, /[:% ]+/); n = a[length(a)]; p = a[3]; d = f; sub(/\/[^\/]*$/, "", d)
	lines[d] += n; hit[d] += n * p / 100; all += n; allhit += n * p / 100; f = "" }
	END { for (d in lines) printf "%-14s %6d lines %5.1f %%\n", d, lines[d], 100 * hit[d] / lines[d]
	if (all) printf "%-14s %6d lines %5.1f %%\n", "all", all, 100 * allhit / all }' | sort
