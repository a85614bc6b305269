#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# bench/run.sh [NAME...] - the figures of bench/RESULTS.md on this machine (make bench, make bench-NAME):
# handshake hold wake burst send load day storm upgrade commit peers grow; soak (half an hour) and crash, which take
# 200,000 phones; and million, which is grow to 1,000,000 with all woken and all heartbeats ended at the
# top. Tables go to the terminal, JSON lines to OUT/NAME.jsonl (million: grow.jsonl), pictures beside them where gnuplot is installed (bench/plot.sh);
# bench/results.sh makes the tables of RESULTS.md of them.
# PHONES 20,000; STORM_PHONES 100,000 (of upgrade too); GROW_PHONES as many as memory carries, at most 1,000,000 (300,000 without TUNE); PARALLEL
# 128 handshakes at a time in a storm; SOAK_PHONES and CRASH_PHONES 200,000, SOAK_SECONDS 1,800, COMPRESS 10;
# TUNE=yes raises sysctls that do not suffice (as above 300,000 phones; of soak and day from 20,000) and puts them back.
# Ends what it started, by process id.
set -u
B=${B:-build/gcc} BIN=${BIN:-bin}
OUT=${OUT:-build/bench}
PHONES=${PHONES:-20000} ROUNDS=${ROUNDS:-3} VISITS=${VISITS:-3000} WAKES=${WAKES:-1000}
STORM_PHONES=${STORM_PHONES:-100000} PARALLEL=${PARALLEL:-128} TUNE=${TUNE:-}
SOAK_PHONES=${SOAK_PHONES:-200000} SOAK_SECONDS=${SOAK_SECONDS:-1800} COMPRESS=${COMPRESS:-10}
CRASH_PHONES=${CRASH_PHONES:-200000} SECONDS_EACH=${SECONDS_EACH:-5}
[ -z "$TUNE" ] || TUNE=--tune
mkdir -p "$OUT" || exit 1
script=bench
# shellcheck source=bench/processes.sh
. "${0%/*}/processes.sh"

bench() { # what options...
	lines=$OUT/$1.jsonl
	shift
	step "$(basename "$lines" .jsonl): roost-bench --spawn $*"
	: >"$lines"
	run "$BIN/roost-bench" --spawn $TUNE --json "$lines" "$@"
}

# 5 phones an account, so that the store is filled within seconds; 10 KB of memory for both ends of each.
grow() {
	fits=$(awk '/^MemAvailable:/ { print int(($2 / 10 - 50000) / 1000) * 1000 }' /proc/meminfo)
	[ "$fits" -lt 1000000 ] || fits=1000000
	# More need a sysctl raised.
	[ -n "$TUNE" ] || [ "$fits" -lt 300000 ] || fits=300000
	n=${GROW_PHONES:-$fits}
	bench grow --phones "$n" --users $((n / 5)) --parallel 128 --wakes "$WAKES" grow
}
# The same, and then each phone is woken once, and each heartbeat ends once.
million() {
	n=${GROW_PHONES:-1000000}
	bench grow --phones "$n" --users $((n / 5)) --parallel 128 --wakes "$WAKES" grow expire
}

commit() {
	step "commit: durable changes per second"
	: >"$OUT/commit.jsonl"
	[ -x "$B/bench/bench_commit" ] || { echo "bench: $B/bench/bench_commit is missing" >&2; bad=1; return; }
	# One alone, then many at a time (group commit), then from several processes.
	run "$B/bench/bench_commit" --header --seconds "$SECONDS_EACH" --threads 1 --window 1 >"$work/1"
	run "$B/bench/bench_commit" --seconds "$SECONDS_EACH" --threads 4 --window 32 >"$work/2"
	run "$B/bench/bench_commit" --seconds "$SECONDS_EACH" --threads 4 --window 256 >"$work/3"
	run "$B/bench/bench_commit" --seconds "$SECONDS_EACH" --threads 4 --window 1024 >"$work/4"
	run "$B/bench/bench_commit" --seconds "$SECONDS_EACH" --processes 4 --threads 1 --window 64 >"$work/5"
	cat "$work"/[1-5] | grep -v '^{'
	cat "$work"/[1-5] | grep '^{' >>"$OUT/commit.jsonl"
}

# The floor under a wake in a burst: bare sends of as many bytes.
send() {
	step "send: bare sends of an answer's size"
	run "$B/bench/bench_send" --phones "$PHONES" --rounds "$ROUNDS" >"$work/send" || return
	grep -v '^{' "$work/send"
	grep '^{' "$work/send" >"$OUT/send.jsonl"
}

[ $# -gt 0 ] || set -- handshake hold wake burst send load day storm upgrade commit peers grow
printf '== machine: %s, %s cores, kernel %s\n' \
	"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$(uname -r)"
awk '$1 > 0.5 { print "something else is running here: times will be worse than this machine can do" }' \
	/proc/loadavg
for what in "$@"; do
	case $what in
	handshake)
		bench handshake --phones 64 --rounds "$ROUNDS" --visits "$VISITS" handshake
		run "$BIN/roost-bench" --spawn --phones 64 --rounds "$ROUNDS" --visits "$VISITS" --tls12 \
			--name tls12 --json "$OUT/handshake.jsonl" handshake
		;;
	hold | wake | burst)
		bench "$what" --phones "$PHONES" --rounds "$ROUNDS" --wakes "$WAKES" "$what"
		;;
	load) bench load --phones "$PHONES" --wakes "$WAKES" load ;;
	upgrade) bench upgrade --phones "$STORM_PHONES" --parallel "$PARALLEL" upgrade ;;
	storm) bench storm --phones "$STORM_PHONES" --users $((STORM_PHONES / 5)) --parallel "$PARALLEL" storm ;;
	grow) grow ;;
	million) million ;;
	day) bench day --phones "$PHONES" day ;;
	soak)
		bench soak --phones "$SOAK_PHONES" --seconds "$SOAK_SECONDS" --compress "$COMPRESS" \
			--parallel "$PARALLEL" soak
		;;
	crash)
		bench crash --phones "$CRASH_PHONES" --users $((CRASH_PHONES / 5)) --parallel "$PARALLEL" \
			crash
		;;
	commit) commit ;;
	send) send ;;
	peers)
		step "peers"
		run env OUT="$OUT" BIN="$BIN" sh bench/peers.sh
		;;
	*)
		echo "bench/run.sh: no scenario '$what'" >&2
		exit 2
		;;
	esac
done
if command -v gnuplot >/dev/null; then
	OUT=$OUT sh bench/plot.sh
else
	echo "no pictures: gnuplot-nox is not installed"
fi
finish
