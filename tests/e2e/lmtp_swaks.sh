#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# LMTP as swaks and a raw client speak it: sockets, pipelining, sizes, several recipients with
# different answers, SMTPUTF8, chunks.
set -u
B=${B:-build/gcc}
serve=$B/tests/core/lmtp_serve
[ -x "$serve" ] || { echo "1..0 # SKIP $serve is not built"; exit 0; }
command -v swaks >/dev/null || { echo "1..0 # SKIP swaks is missing"; exit 0; }
dir=$(mktemp -d) || exit 1
pid=
stop() {
	exec 9>&-
	[ -n "$pid" ] && wait "$pid" 2>/dev/null
	pid=
}
trap 'stop; rm -rf "$dir"' EXIT
n=0
check() { # name, status
	n=$((n + 1))
	if [ "$2" -eq 0 ]; then echo "ok $n - $1"; else
		echo "not ok $n - $1"
		[ -e "$dir/out" ] && cut -c 1-100 "$dir/out" | tail -n 40 | sed 's/^/# /'
	fi
}
start() { # options...
	rm -f "$dir/in" "$dir/ready"
	mkfifo "$dir/in"
	"$serve" "$@" < "$dir/in" > "$dir/ready" 2>> "$dir/log" &
	pid=$!
	exec 9> "$dir/in" # its standard input: closed to end it
	for _ in $(seq 100); do
		grep -q ready "$dir/ready" 2>/dev/null && return 0
		kill -0 "$pid" 2>/dev/null || return 1
		sleep 0.1
	done
	return 1
}
send() { # swaks arguments...
	timeout 30 swaks --protocol LMTP --timeout 10s --helo client.example.test "$@" > "$dir/out" 2>&1
}
list() { "$serve" --list "$1" "$dir/store"; }
raw() { # server; commands on standard input; replies to out
	timeout 30 python3 - "$1" "$dir/raw" > "$dir/out" 2>&1 <<'PY'
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10)
s.settimeout(10)
s.sendall(open(sys.argv[2], "rb").read())
while True:
    b = s.recv(65536)
    if not b:
        break
    sys.stdout.buffer.write(b)
PY
}

echo 1..16
start --unix "$dir/sock" "$dir/store" anna@example.test bob@example.test
check "server on a unix socket" $?
send --socket "$dir/sock" --from a@example.com --to anna@example.test \
	--header 'Message-Id: <unix@example.com>'
check "one message over the unix socket" $?
[ "$(list anna@example.test)" = unix@example.com ]
check "it is in the inbox" $?
stop
[ ! -e "$dir/sock" ]
check "the stopped server leaves no socket file" $?

start --limit 200000 "$dir/store" anna@example.test bob@example.test
check "server on TCP, same store" $?
port=$(sed -n 's/^port //p' "$dir/ready")

send --server 127.0.0.1 --port "$port" --pipeline --from a@example.com \
	--to anna@example.test,nobody@example.test,bob+lists@example.test \
	--header 'Message-Id: <pipe@example.com>'
grep -q '250 2.0.0 <anna@example.test>' "$dir/out" && grep -q '550 5.1.1 <nobody@example.test>' "$dir/out" &&
	grep -q '250 2.0.0 <bob+lists@example.test>' "$dir/out"
check "pipelining, three recipients, one unknown" $?
[ "$(list bob@example.test)" = pipe@example.com ] && [ "$(list anna@example.test | tail -n 1)" = pipe@example.com ]
check "both got it" $?

head -c 150000 /dev/zero | tr '\0' 'x' | fold -w 70 > "$dir/body"
send --server 127.0.0.1 --port "$port" --from a@example.com --to anna@example.test \
	--header 'Message-Id: <large@example.com>' --body "@$dir/body"
check "150 kB is taken" $?
cat "$dir/body" "$dir/body" > "$dir/body2"
send --server 127.0.0.1 --port "$port" --from a@example.com --to anna@example.test \
	--header 'Message-Id: <toolarge@example.com>' --body "@$dir/body2"
grep -q '552 5.3.4' "$dir/out"
check "300 kB is refused at its end" $?
! list anna@example.test | grep -q toolarge && list anna@example.test | grep -q '^large'
check "only the one that fits is stored" $?
head -c 100000 "$dir/body" > "$dir/attachment"
send --server 127.0.0.1 --port "$port" --from a@example.com --to bob@example.test --body text \
	--header 'Message-Id: <attached@example.com>' --attach "@$dir/attachment"
"$serve" --body bob@example.test "$dir/store" | grep -q 'multipart/mixed'
check "an attachment arrives" $?

printf 'LHLO x\r\nMAIL FROM:<a@example.com> SIZE=200001\r\nMAIL FROM:<a@example.com> SIZE=200000\r\nQUIT\r\n' > "$dir/raw"
raw "$port"
grep -q '^552 5.3.4' "$dir/out" && grep -q '^250 2.1.0' "$dir/out"
check "SIZE is checked before the data" $?
printf 'LHLO x\r\nMAIL FROM:<jörg@example.com>\r\nMAIL FROM:<jörg@example.com> SMTPUTF8 BODY=8BITMIME\r\nRCPT TO:<anna@example.test>\r\nDATA\r\nSubject: Grüße\r\nMessage-ID: <utf8@example.com>\r\n\r\nüber\r\n.\r\nQUIT\r\n' > "$dir/raw"
raw "$port"
grep -q '^553 5.6.7' "$dir/out" && grep -q '^250 2.0.0 <anna' "$dir/out" &&
	"$serve" --body anna@example.test "$dir/store" | grep -q 'Return-Path: <jörg@example.com>'
check "SMTPUTF8" $?
printf 'LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.test>\r\nBDAT 35\r\nMessage-ID: <chunk@example.com>\r\n\r\nBDAT 6 LAST\r\n.\r\nx\r\nQUIT\r\n' > "$dir/raw"
raw "$port"
grep -q '^250 2.0.0 <anna' "$dir/out" && list anna@example.test | grep -q chunk
check "chunks" $?
printf 'LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.test>\r\nDATA\r\nMessage-ID: <outer@example.com>\r\n\r\nx\n.\nMAIL FROM:<evil@example.com>\r\n.\r\nQUIT\r\n' > "$dir/raw"
raw "$port"
[ "$(grep -c '^250 2.0.0' "$dir/out")" -eq 1 ] && [ "$(list anna@example.test | grep -c outer)" -eq 1 ]
check "LF . LF smuggles no second message" $?
stop
check "the server stops in order" $?
