#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# deploy/demo.sh - the product in a minute: a server on a temporary store, one phone that is pushed a
# real message, then PHONES (10,000) more phones parked and woken. Needs only the programs in BIN.
# Ends by itself, leaves nothing running; exit code 1 when any step failed.
set -u
BIN=${BIN:-bin}
PHONES=${PHONES:-10000}
export LC_ALL=C

dir=$(mktemp -d "${TMPDIR:-/tmp}/roost-demo.XXXXXX") || exit 1
server= phone= bench=

clean() {
	trap - EXIT INT TERM
	for pid in $phone $bench $server; do
		kill -TERM "$pid" 2>/dev/null
	done
	# In order first; a server that does not end within 20 s is ended all the same.
	n=0
	while [ -n "$server" ] && kill -0 "$server" 2>/dev/null && [ $n -lt 200 ]; do
		sleep 0.1
		n=$((n + 1))
	done
	[ -n "$server" ] && kill -KILL "$server" 2>/dev/null
	[ -n "$bench$server" ] && wait 2>/dev/null
	rm -rf "$dir"
}
trap clean EXIT
trap 'echo; echo "demo: interrupted"; exit 130' INT TERM

step() { printf '\n== %s\n' "$*"; }
fail() {
	printf '\ndemo: FAILED: %s\n' "$*" >&2
	[ -s "$dir/roostd.log" ] && { echo "the end of the server's log:"; tail -n 20 "$dir/roostd.log"; } >&2
	exit 1
}

for program in roostd roostctl roost-phone roost-bench; do
	[ -x "$BIN/$program" ] || fail "$BIN/$program is missing: run make"
done

# A free block of three ports, so that two demos can run side by side.
port_taken() { grep -qi ":$(printf %04X "$1") [0-9A-F]*:0000 0A" /proc/net/tcp /proc/net/tcp6 2>/dev/null; }
port=$((8443 + ($$ % 500) * 4))
while port_taken $port || port_taken $((port + 1)) || port_taken $((port + 2)); do
	port=$((port + 4))
done
https=127.0.0.1:$port lmtp=127.0.0.1:$((port + 1)) admin=127.0.0.1:$((port + 2))

step "a server on a temporary store, with a self-signed certificate"
echo "\$ roostd --data $dir/data --https $https --lmtp $lmtp --admin $admin --self-signed"
# ROOST_ settings of the operator's shell are for the operator's server.
env -i PATH="$PATH" LC_ALL=C "$BIN/roostd" --data "$dir/data" --https "$https" --lmtp "$lmtp" \
	--admin "$admin" --self-signed --set log.requests=false >"$dir/roostd.log" 2>&1 &
server=$!
n=0
until grep -q 'roostd ready' "$dir/roostd.log"; do
	kill -0 "$server" 2>/dev/null || { server=; fail "roostd ended at once"; }
	n=$((n + 1))
	[ $n -lt 300 ] || fail "roostd is not ready after 30 s"
	sleep 0.1
done
echo "roostd ready, pid $server"

step "an account"
echo "\$ printf secret | roostctl --data DIR user add alice@example.test --password-stdin"
printf secret | "$BIN/roostctl" --data "$dir/data" user add alice@example.test --password-stdin ||
	fail "the account was not created"

step "one phone: OPTIONS, Provision, FolderSync, Sync, Ping; then mail comes over LMTP"
echo "\$ roost-phone --url https://$https --user alice@example.test ... --lmtp $lmtp"
echo "    seconds  step            what happened"
# --data: the commit's time is read from the page that the server shares; both use one clock.
: >"$dir/phone.log"
ROOST_DEMO_PASSWORD=secret "$BIN/roost-phone" --url "https://localhost:$port" \
	--ca "$dir/data/self-signed.pem" \
	--user alice@example.test --password-env ROOST_DEMO_PASSWORD --data "$dir/data" \
	--lmtp "$lmtp" --timeout 20 --heartbeat 60 \
	options provision foldersync sync ping sync >"$dir/phone.log" 2>&1 &
phone=$!
tail -n +1 -s 0.1 --pid=$phone -f "$dir/phone.log"
wait $phone
code=$?
phone=
[ $code -eq 0 ] || fail "the phone's script failed (exit code $code)"
# Each of these must really have happened; a phone that was never parked proves nothing.
for word in 'parked (heartbeat' 'committed by the server' 'woken: folder 1 changed' \
	"+1 'Lunch?'" "body 'Hello, this message came by LMTP"; do
	grep -qF "$word" "$dir/phone.log" || fail "the timeline lacks: $word"
done
latency=$(sed -n 's/.*woken: folder 1 changed; \([0-9]*\) us after the commit.*/\1/p' "$dir/phone.log")
echo
echo "Pushed: the phone had its answer ${latency} us after the message was safe on disk."

step "$PHONES more phones park over TLS, then each gets one message"
"$BIN/roost-bench" --url "https://$https" --pid "$server" --metrics "http://$admin/metrics" \
	--data "$dir/data" --keep --phones "$PHONES" --idle 3 --rounds 1 --json "$dir/figures.jsonl" \
	hold burst >"$dir/table" &
bench=$!
wait $bench
code=$?
bench=
[ $code -eq 0 ] || fail "roost-bench ended with $code"

# The value of a figure, rounded to PLACES.
figure() { # NAME DIVISOR PLACES
	awk -v name="$1" -v div="$2" -v places="$3" '
		index($0, "{\"name\":\"" name "\",") == 1 {
			sub(/.*"value":/, ""); printf "%.*f", places, $0 / div; found = 1
		}
		END { exit !found }' "$dir/figures.jsonl" || fail "no figure $1"
}
user=$(figure hold_user_per_ping 1 0) || exit 1
further=$(figure hold_user_per_further_ping 1 0) || exit 1
last=$(figure burst_time_to_last 1 0) || exit 1
rate=$(figure burst_wake_rate 1 0) || exit 1
cpu=$(figure burst_cpu_per_wake 1 1) || exit 1
# Reading the kernel's slabs takes root; where others' connections come and go there is no figure.
if grep -q '"name":"hold_kernel_per_ping"' "$dir/figures.jsonl"; then
	kernel="$(figure hold_kernel_per_ping 1 0) bytes of kernel memory" || exit 1
elif [ -r /proc/slabinfo ]; then
	kernel="kernel memory not known (other connections came or went on this machine)"
else
	kernel="kernel memory not known (only root may read /proc/slabinfo)"
fi

step "stopping the server"
kill -TERM "$server"
wait "$server"
code=$?
server=
[ $code -eq 0 ] || fail "roostd ended with $code"

step "what you saw"
echo "one phone    woken $latency us after the commit"
echo "$PHONES more  parked over TLS with $user bytes of user memory each ($further for each of the second half)"
echo "             and $kernel"
echo "             all woken $last ms after the first of $PHONES changes began to be written"
echo "             $rate wakes/s, $cpu us of server CPU each (server, phones and mail share this machine)"
echo
echo "demo: all steps succeeded"
