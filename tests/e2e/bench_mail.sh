#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# roost-bench against a server that it only knows by URL, accounts and mail: phones primed over the
# network, changes by LMTP, and by SMTP through a real Postfix (private, loopback only) that relays.
# What it measures is not looked at, but that everything was measured and nothing was missed.
set -u
BIN=${BIN:-bin}
export LC_ALL=C
# shellcheck source=tests/e2e/lib/postfix.sh
. "${0%/*}/lib/postfix.sh"
dir=$(mktemp -d) || exit 1
server=''
cleanup() {
	trap - EXIT INT TERM
	postfix_stop
	[ -n "$server" ] && { kill -TERM "$server"; wait "$server"; } 2> /dev/null
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
n=0
check() { # name, status, log
	n=$((n + 1))
	if [ "$2" -eq 0 ]; then echo "ok $n - $1"; else
		echo "not ok $n - $1"
		for f in "${3:-}" "$dir/server.log" "$dir/mail.log"; do
			[ -e "$f" ] && tail -n 15 "$f" | cut -c 1-220 | sed 's/^/# /'
		done
	fi
}
ports=$(python3 -c 'import socket
s = [socket.socket() for _ in range(3)]
for k in s: k.bind(("127.0.0.1", 0))
print(*[k.getsockname()[1] for k in s])')
https=${ports%% *} rest=${ports#* }
lmtp=${rest% *} smtp=${rest#* }
users=12

bench() { # log, options...
	log=$1
	shift
	timeout 100 "$BIN/roost-bench" --url "https://127.0.0.1:$https" --account 'user%03d@example.test' \
		--password 'pass%d' --first 1 --phones $users --rounds 1 --force --json "$dir/$log.jsonl" "$@" \
		> "$dir/$log" 2>&1
}
figure() { # log, name: its value
	sed -n "s/.*\"name\":\"$2\",\"value\":\([-0-9.e+]*\).*/\1/p" "$dir/$1.jsonl"
}

echo 1..8
for i in $(seq 1 $users); do
	echo "pass$i" | "$BIN/roostctl" user add "user$(printf %03d "$i")@example.test" --password-stdin \
		--data "$dir/store" > /dev/null 2>> "$dir/server.log" || exit 1
done
"$BIN/roostd" --data "$dir/store" --https "127.0.0.1:$https" --lmtp "127.0.0.1:$lmtp" --self-signed \
	--set push.heartbeat_min_s=8 \
	2>> "$dir/server.log" &
server=$!
for _ in $(seq 100); do
	grep -q 'roostd ready' "$dir/server.log" && break
	sleep 0.1
done

bench lmtp --protocol-version 16.1 --mail "lmtp://127.0.0.1:$lmtp" --wakes 20 wake burst
check "wakes and bursts by LMTP, phones primed over the network" $? "$dir/lmtp"
[ -n "$(figure lmtp wake_write_to_phone_p50)" ] && [ -n "$(figure lmtp burst_list_time_to_last)" ]
check "with figures of both, the list too" $? "$dir/lmtp"
bench day --mail "lmtp://127.0.0.1:$lmtp" --compress 60 --seconds 10 day
[ "$(figure day day_missed)" = 0.0 ] || [ "$(figure day day_missed)" = 0 ]
check "a day by LMTP misses nothing" $? "$dir/day"
bench load --protocol-version 12.1 --mail "lmtp://127.0.0.1:$lmtp" --stay 20 --wakes 10 --changes 50 --reconnects 20 load
check "wakes while mail comes elsewhere and phones reconnect" $? "$dir/load"
bench nobody --password wrong --mail "lmtp://127.0.0.1:$lmtp" --wakes 1 wake
[ $? -eq 1 ] && grep -q 'HTTP 401' "$dir/nobody"
check "a wrong password is a failure that says so" $? "$dir/nobody"
bench unknown --first 500 --mail "lmtp://127.0.0.1:$lmtp" --wakes 1 wake
[ $? -eq 1 ]
check "and so are accounts that do not exist" $? "$dir/unknown"
if ! postfix_can; then
	echo "ok 7 - # SKIP Postfix is missing or we are not root"
	echo "ok 8 - # SKIP Postfix is missing or we are not root"
	exit 0
fi
postfix_start "$smtp" "inet:127.0.0.1:$lmtp" 'smtpd_client_connection_count_limit = 0'
check "Postfix starts with a configuration of its own" $? "$dir/start.log"
bench smtp --mail "smtp://127.0.0.1:$smtp" --wakes 5 wake burst
check "wakes and bursts by SMTP through Postfix" $? "$dir/smtp"
