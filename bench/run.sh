#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# bench/run.sh - every figure we publish, on this machine (make bench): parked Pings, wakes, bursts
# and handshakes at PHONES (20,000), durable changes per second, and nginx's handshakes by the same
# client when nginx is installed. Tables go to the terminal; JSON lines to OUT/results.jsonl.
# Ends what it started, by process id.
set -u
B=${B:-build/gcc} BIN=${BIN:-bin}
OUT=${OUT:-build/bench}
PHONES=${PHONES:-20000} ROUNDS=${ROUNDS:-3} VISITS=${VISITS:-3000} SECONDS_EACH=${SECONDS_EACH:-5}
export LC_ALL=C
mkdir -p "$OUT" || exit 1
results=$OUT/results.jsonl
work=$(mktemp -d "${TMPDIR:-/tmp}/roost-benchrun.XXXXXX") || exit 1
nginx= child=
bad=0

clean() {
	trap - EXIT INT TERM
	for pid in $child $nginx; do
		kill -TERM "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

# In the background and waited for, so that a signal reaches us at once.
run() {
	"$@" &
	child=$!
	wait "$child"
	code=$?
	child=
	[ $code -eq 0 ] || { echo "bench: $1 ended with $code" >&2; bad=1; }
	return $code
}
step() { printf '\n== %s\n' "$*"; }

: >"$results"
load=$(cut -d ' ' -f 1 /proc/loadavg)
step "machine: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores, kernel $(uname -r), load $load"
awk -v l="$load" 'BEGIN { exit !(l > 0.5) }' &&
	echo "something else is running here: times will be worse than this machine can do"

step "$PHONES phones: handshake, hold, wake, burst"
run "$BIN/roost-bench" --spawn --phones "$PHONES" --rounds "$ROUNDS" --visits "$VISITS" \
	--json "$results" all

step "durable changes per second"
if [ -x "$B/bench/bench_commit" ]; then
	# One alone, then many at a time: group commit.
	run "$B/bench/bench_commit" --header --seconds "$SECONDS_EACH" --threads 1 --window 1 \
		>"$work/commit1"
	run "$B/bench/bench_commit" --seconds "$SECONDS_EACH" --threads 4 --window 32 >"$work/commit2"
	run "$B/bench/bench_commit" --seconds "$SECONDS_EACH" --threads 4 --window 256 >"$work/commit3"
	cat "$work/commit1" "$work/commit2" "$work/commit3" | grep -v '^{'
	cat "$work/commit1" "$work/commit2" "$work/commit3" | grep '^{' >>"$results"
else
	echo "bench: $B/bench/bench_commit is missing" >&2
	bad=1
fi

step "handshake and one GET: roostd and nginx by the same client"
run "$BIN/roost-bench" --spawn --phones 64 --rounds "$ROUNDS" --visits "$VISITS" --get / \
	--name roost_get --json "$results" handshake
if command -v nginx >/dev/null; then
	port=18443
	while grep -qi ":$(printf %04X $port) [0-9A-F]*:0000 0A" /proc/net/tcp; do
		port=$((port + 1))
	done
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
		-subj /CN=localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
	cat >"$work/nginx.conf" <<END
worker_processes auto;
daemon off;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path $work; proxy_temp_path $work; fastcgi_temp_path $work;
	uwsgi_temp_path $work; scgi_temp_path $work;
	server {
		listen 127.0.0.1:$port ssl reuseport;
		ssl_certificate $work/cert.pem;
		ssl_certificate_key $work/key.pem;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_ecdh_curve X25519:prime256v1;
		location / { return 200 "roost\n"; }
	}
}
END
	nginx -v
	nginx -p "$work" -c "$work/nginx.conf" -e "$work/error.log" &
	nginx=$!
	n=0
	until [ -s "$work/nginx.pid" ] || [ $n -ge 50 ]; do
		sleep 0.1
		n=$((n + 1))
	done
	run "$BIN/roost-bench" --url "https://127.0.0.1:$port" --pid "$nginx" --phones 64 \
		--rounds "$ROUNDS" --visits "$VISITS" --get / --name nginx_get --json "$results" \
		handshake || cat "$work/error.log" >&2
	kill -TERM "$nginx"
	wait "$nginx"
	nginx=
else
	echo "nginx is not installed: no comparison (apt-get install nginx)"
fi

step "$(wc -l <"$results") JSON lines in $results"
[ $bad -eq 0 ] || echo "bench: NOT everything was measured, see above" >&2
exit $bad
