#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# A real Postfix, private (own configuration, queue and port, loopback only), delivers by LMTP over
# the unix socket: mail arrives, unknown users bounce, mail that we defer waits in the queue.
set -u
B=${B:-build/gcc}
serve=$B/tests/core/lmtp_serve
# shellcheck source=tests/e2e/lib/postfix.sh
. "${0%/*}/lib/postfix.sh"
[ -x "$serve" ] || { echo "1..0 # SKIP $serve is not built"; exit 0; }
for t in swaks python3; do
	command -v $t >/dev/null || { echo "1..0 # SKIP $t is missing"; exit 0; }
done
postfix_can || { echo "1..0 # SKIP Postfix is missing or we are not root"; exit 0; }
dir=$(mktemp -d) || exit 1
pid=''
stop_serve() {
	exec 9>&-
	[ -n "$pid" ] && wait "$pid" 2>/dev/null
	pid=
}
cleanup() {
	stop_serve
	postfix_stop
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
n=0
check() { # name, status
	n=$((n + 1))
	if [ "$2" -eq 0 ]; then echo "ok $n - $1"; else
		echo "not ok $n - $1"
		[ -e "$dir/mail.log" ] && tail -n 30 "$dir/mail.log" | cut -c 1-220 | sed 's/^/# /'
	fi
}
start_serve() {
	rm -f "$dir/in" "$dir/ready"
	mkfifo "$dir/in"
	"$serve" --unix "$dir/sock" "$@" "$dir/store" anna@example.test bob@example.test \
		< "$dir/in" > "$dir/ready" 2>> "$dir/serve.log" &
	pid=$!
	exec 9> "$dir/in"
	for _ in $(seq 100); do
		grep -q ready "$dir/ready" && break
		sleep 0.1
	done
	# What an administrator does with the socket's group.
	chgrp postfix "$dir/sock"
}
until_true() { # seconds, command...
	limit=$(($(date +%s) + $1))
	shift
	while [ "$(date +%s)" -lt "$limit" ]; do
		"$@" && return 0
		sleep 0.3
	done
	return 1
}
has() { # address, message id
	"$serve" --list "$1" "$dir/store" | grep -qx "$2"
}
queue_is_empty() { postqueue -c "$dir/etc" -p 2>/dev/null | grep -q 'Mail queue is empty'; }
queued_with() { postqueue -c "$dir/etc" -p 2>/dev/null | grep -q "$1"; }
send() { # message id, from, to...
	id=$1 from=$2
	shift 2
	timeout 30 swaks --server 127.0.0.1 --port "$port" --timeout 10s --helo client.example.test \
		--from "$from" --to "$(echo "$@" | tr ' ' ,)" --header "Message-Id: <$id>" > "$dir/out" 2>&1
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
echo 1..9
chmod 755 "$dir"
start_serve
postfix_start "$port" "unix:$dir/sock" 'smtputf8_enable = yes' 'minimal_backoff_time = 5s' 'queue_run_delay = 5s'
check "Postfix starts with a configuration of its own" $?
until_true 20 send hello@example.com sender@example.com anna@example.test
until_true 20 has anna@example.test hello@example.com
check "a message arrives" $?
"$serve" --body anna@example.test "$dir/store" | tr -d '\r' |
	grep -A 4 '^Return-Path: <sender@example.com>' | grep -q 'with LMTP'
check "with Return-Path and our Received" $?

send both@example.com sender@example.com anna@example.test bob+tag@example.test
until_true 20 has anna@example.test both@example.com && until_true 20 has bob@example.test both@example.com
check "two recipients" $?

# One known, one not: the known one has it at once, the sender hears of the other.
send half@example.com anna@example.test bob@example.test nobody@example.test
until_true 20 has bob@example.test half@example.com
check "the known recipient of two" $?
bounced() { "$serve" --body anna@example.test "$dir/store" | grep -q 'nobody@example.test.*550 5.1.1\|550 5.1.1 .*nobody@example.test'; }
until_true 20 bounced
check "an unknown recipient bounces with our words" $?
until_true 20 queue_is_empty
check "nothing is left in the queue" $?

stop_serve
start_serve --down
send later@example.com sender@example.com anna@example.test
until_true 20 queued_with '451 4.3.0' && ! has anna@example.test later@example.com
check "a deferred message stays in Postfix's queue" $?
stop_serve
start_serve
postqueue -c "$dir/etc" -f
until_true 40 has anna@example.test later@example.com && until_true 20 queue_is_empty &&
	[ "$("$serve" --list anna@example.test "$dir/store" | grep -cx later@example.com)" -eq 1 ]
check "and is delivered once, later" $?
