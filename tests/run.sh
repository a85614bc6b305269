#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs every test and ends with one line "N passed, N failed". Unit tests and scripts speak TAP;
# a program that stops without having said "not ok" counts as one failure of its own.
#   tests/run.sh [pattern]     only what matches
#   PATIENCE=10                a test may take ten times as long: slow machines, sanitizers
set -u
B=${B:-build/gcc} BIN=${BIN:-bin}
export B BIN
only=${1:-}
passed=0 failed=0
log=$(mktemp) || exit 1
reports=
trap 'rm -rf "$log" "$reports"' EXIT

# What a sanitizer has to say goes to files: a script need not look how each server it started ended.
case "$B" in
*-address* | *-thread*)
	reports=$(mktemp -d) && chmod 1777 "$reports" || exit 1
	export ASAN_OPTIONS="log_path=$reports/r:${ASAN_OPTIONS:-}"
	export UBSAN_OPTIONS="log_path=$reports/r:print_stacktrace=1:${UBSAN_OPTIONS:-}"
	export TSAN_OPTIONS="log_path=$reports/r:second_deadlock_stack=1:${TSAN_OPTIONS:-}"
	# GLib hands slices from thread to thread under locks of its own, which TSan does not see.
	export G_SLICE=always-malloc
	;;
esac

run() { # name, seconds, command...
	name=$1 limit=$2
	shift 2
	case "$name" in *"$only"*) ;; *) return ;; esac
	start=$(date +%s)
	CMOCKA_MESSAGE_OUTPUT=TAP timeout -k 5 $((limit * ${PATIENCE:-1})) "$@" > "$log" 2>&1
	status=$?
	ok=$(grep -c '^ok ' "$log")
	bad=$(grep -c '^not ok ' "$log")
	if [ -n "$reports" ] && [ -n "$(ls "$reports")" ]; then
		cat "$reports"/* >> "$log"
		rm -f "$reports"/*
		bad=$((bad + 1))
	fi
	[ "$status" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
	[ "$status" -eq 0 ] && [ "$ok" -eq 0 ] && [ "$bad" -eq 0 ] && ok=1
	passed=$((passed + ok)) failed=$((failed + bad))
	if [ "$bad" -gt 0 ]; then
		printf '%-34s FAILED (%s ok, %s not, exit %s, %ss)\n' "$name" "$ok" "$bad" "$status" \
			$(($(date +%s) - start))
		if [ "$(wc -l < "$log")" -gt 200 ]; then
			grep -n '^not ok' "$log" | sed 's/^/    /'
			tail -n 120 "$log" | sed 's/^/    /'
		else
			sed 's/^/    /' "$log"
		fi
	else
		printf '%-34s %4s ok  %4ss\n' "$name" "$ok" $(($(date +%s) - start))
	fi
}

for t in "$B"/tests/core/test_* "$B"/tests/io/test_* "$B"/tests/store/test_* "$B"/tests/bench/test_*; do
	case "$t" in *.o | *.d | *.gcno | *.gcda) continue ;; esac
	[ -x "$t" ] && run "${t#"$B"/tests/}" 180 "$t"
done
for t in "$B"/tests/fuzz/fuzz_*; do
	case "$t" in *.o | *.d | *.gcno | *.gcda) continue ;; esac
	[ -x "$t" ] || continue
	corpus=tests/fuzz/corpus/${t##*/fuzz_}
	run "corpus/${t##*/fuzz_}" 180 "$t" "$corpus"
done
[ -x "$B/tests/sim/roost-sim" ] && run sim 240 "$B/tests/sim/roost-sim" --runs "${SIM_RUNS:-12}"
[ -x "$B/tests/sim/roost-sim" ] && run sim/twice 240 "$B/tests/sim/roost-sim" --runs 3 --seed 6 --twice
for t in tests/e2e/*.sh tests/e2e/*.py; do
	[ -e "$t" ] || continue
	case "$t" in *.sh) run "e2e/${t##*/}" 240 sh "$t" ;; *.py) run "e2e/${t##*/}" 240 python3 "$t" ;; esac
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
