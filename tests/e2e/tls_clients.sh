#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# tests/e2e/tls_clients.sh [SERVER] - real TLS clients (OpenSSL, curl, GnuTLS) against
# tests/io/tls_echo: every suite and version, certificates by name and signature, resumption,
# KeyUpdate, closing, and what is refused. TAP on standard output.
# Ports are free ones, the server's own; everything is bounded by timeouts.
set -u
server=${1:-${B:-build}/tests/io/tls_echo}
count=0 failures=0 pids=

for tool in openssl curl gnutls-cli; do
	command -v $tool >/dev/null || { echo "1..0 # SKIP no $tool"; exit 0; }
done
[ -x "$server" ] || { echo "Bail out! no $server"; exit 1; }
server=$(realpath "$server")
dir=$(mktemp -d) || exit 1
cleanup() {
	for pid in $pids; do kill "$pid" 2>/dev/null; done
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cd "$dir" || exit 1

# NAME, then the command whose success is the test. What it wrote to `out` is shown on failure.
check() {
	name=$1
	shift
	count=$((count + 1))
	if "$@"; then
		echo "ok $count - $name"
	else
		echo "not ok $count - $name"
		failures=$((failures + 1))
		sed 's/^/# /' out | tail -n 30
	fi
}

has() { # PATTERN... : each is in `out`
	for pattern; do
		grep -q -- "$pattern" out || { echo "# not there: $pattern"; return 1; }
	done
}
hasnt() { ! grep -q -- "$1" out; }
logged() { # the server says this of some connection, now or within two seconds
	for try in 1 2 3 4 5 6 7 8 9 10; do
		grep -q -- "$1" "$log" && return 0
		sleep 0.2
	done
	cp "$log" out
	return 1
}

start() { # ARGUMENTS... : sets $port and $log
	starts=$((${starts:-0} + 1))
	log=$dir/server$starts.log
	: >"$log"
	"$server" -p 0 "$@" >>"$log" 2>&1 &
	pids="$pids $!"
	for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		port=$(sed -n 's/^port \([0-9]*\),.*/\1/p' "$log")
		[ -n "$port" ] && return
		sleep 0.1
	done
	echo "Bail out! server does not start: $(cat "$log")"
	exit 1
}

certificate() { # NAME, SAN, openssl options of the key...
	file=$1 san=$2
	shift 2
	openssl req -x509 -nodes -newkey "$@" -keyout "$file.key" -out "$file.pem" -days 30 \
		-subj "/CN=$file" -addext "subjectAltName=$san" 2>/dev/null
}
certificate ec DNS:localhost,DNS:mail.test ec -pkeyopt ec_paramgen_curve:P-256
certificate rsa DNS:localhost,DNS:rsa.test rsa:2048
certificate p384 DNS:p384.test ec -pkeyopt ec_paramgen_curve:P-384
# the form in which `openssl ecparam -genkey` writes keys
openssl ecparam -name prime256v1 -genkey -out params.key 2>/dev/null
openssl req -x509 -key params.key -out params.pem -days 30 -subj /CN=params.test 2>/dev/null
cat ec.pem rsa.pem p384.pem params.pem >ca.pem

start ec.pem ec.key rsa.pem rsa.key p384.pem p384.key params.pem params.key

# Feeding a client: waits until it has written PATTERN at least COUNT times, so that what follows
# is a write of its own. Gives up after three seconds; the check then says what is missing.
await() { # PATTERN [COUNT]
	for try in $(seq 60); do
		[ "$(grep -c -- "$1" out)" -ge "${2:-1}" ] && return
		sleep 0.05
	done
}
request() { # PATH NUMBER
	printf 'GET %s HTTP/1.1\r\nHost: x\r\n\r\n' "$1"
	await "^answer $2 over"
}
# OPTIONS... : two requests, one after the other, on one connection of s_client
s_client() {
	: >out
	{ request /1 1; request /2 2; } |
		timeout 10 openssl s_client -connect "127.0.0.1:$port" "$@" >>out 2>&1
}
# PRIORITY, OPTIONS...
gnutls() {
	: >out
	priority=$1
	shift
	{ request /1 1; request /2 2; } |
		timeout 10 gnutls-cli --insecure -p "$port" --priority "$priority" "$@" \
			127.0.0.1 >>out 2>&1
}
curl_twice() {
	timeout 10 curl -sS -k "$@" "https://localhost:$port/1" "https://localhost:$port/2" >out 2>&1
}

# --- every suite, three clients ---

for suite in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
	s_client -tls1_3 -ciphersuites $suite
	check "s_client TLS 1.3 $suite" has "answer 2 over TLSv1.3 $suite"
	curl_twice --tlsv1.3 --tls13-ciphers $suite
	check "curl TLS 1.3 $suite" has "answer 2 over TLSv1.3 $suite"
done
for cipher in AES-128-GCM:AES_128_GCM_SHA256 AES-256-GCM:AES_256_GCM_SHA384 \
	CHACHA20-POLY1305:CHACHA20_POLY1305_SHA256; do
	gnutls "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+${cipher%:*}"
	check "gnutls-cli TLS 1.3 ${cipher%:*}" has "answer 2 over TLSv1.3 TLS_${cipher#*:}"
	for key in ECDSA RSA; do
		gnutls "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+ECDHE-$key:-CIPHER-ALL:+${cipher%:*}"
		check "gnutls-cli TLS 1.2 $key ${cipher%:*}" \
			has "answer 2 over TLSv1.2 TLS_ECDHE_${key}_WITH_${cipher#*:}"
	done
done
for key in ECDSA RSA; do
	for cipher in AES128-GCM-SHA256:AES_128_GCM_SHA256 AES256-GCM-SHA384:AES_256_GCM_SHA384 \
		CHACHA20-POLY1305:CHACHA20_POLY1305_SHA256; do
		s_client -tls1_2 -cipher "ECDHE-$key-${cipher%:*}"
		check "s_client TLS 1.2 $key ${cipher%:*}" \
			has "answer 2 over TLSv1.2 TLS_ECDHE_${key}_WITH_${cipher#*:}"
		curl_twice --tls-max 1.2 --ciphers "ECDHE-$key-${cipher%:*}"
		check "curl TLS 1.2 $key ${cipher%:*}" \
			has "answer 2 over TLSv1.2 TLS_ECDHE_${key}_WITH_${cipher#*:}"
	done
done

# --- key exchange ---

for version in 1_2 1_3; do
	for groups in X25519 P-256 P-384:P-256; do
		s_client -tls$version -groups $groups
		check "s_client -tls$version -groups $groups" has "answer 2 over"
	done
done
s_client -tls1_3
check "X25519 is preferred" has "Server Temp Key: X25519"
gnutls "NORMAL:-GROUP-ALL:+GROUP-SECP256R1:+GROUP-X25519"
check "X25519 also where the client prefers P-256" has "answer 2 over" "ECDHE-X25519"
s_client -tls1_3 -groups P-521
check "an unknown group only is an alert" has "alert handshake failure"

# s_client shows the headers of records it drops, too
dummies() { grep -A 1 '^<<< .*RecordHeader' out | grep -c '14 03 03 00 01'; }
for groups in X25519 P-384:P-256; do
	s_client -tls1_3 -groups $groups -msg
	check "boxes on the way see one change_cipher_spec, -groups $groups" [ "$(dummies)" = 1 ]
	check "and it changes nothing" has "answer 2 over"
done
s_client -tls1_3 -no_middlebox -msg
check "it is not sent where the client does without" [ "$(dummies)" = 0 ]

# --- certificates ---

s_client -CAfile ec.pem -verify_return_error -verify_hostname localhost -servername localhost
check "ECDSA is preferred" has "answer 2 over" "Verify return code: 0"
s_client -CAfile rsa.pem -verify_return_error -servername localhost \
	-sigalgs RSA-PSS+SHA256:RSA+SHA256
check "RSA for those who know nothing else, TLS 1.3" has "answer 2 over TLSv1.3" "Verify return code: 0"
s_client -CAfile rsa.pem -verify_return_error -servername localhost -tls1_2 -sigalgs RSA+SHA256
check "RSA for those who know nothing else, TLS 1.2" has "answer 2 over TLSv1.2" "Verify return code: 0"
for host in mail rsa p384 params; do
	file=$host
	[ $host = mail ] && file=ec
	for version in 1_2 1_3; do
		s_client -CAfile $file.pem -verify_return_error -servername $host.test -tls$version
		check "the certificate of $host.test, -tls$version" \
			has "answer 2 over" "Verify return code: 0"
	done
done
s_client -CAfile ec.pem -verify_return_error -servername nobody.test
check "the first pair for other names" has "answer 2 over"
s_client -CAfile ec.pem -verify_return_error -noservername
check "the first pair without a name" has "answer 2 over"
timeout 10 curl -sS --cacert ca.pem --resolve "mail.test:$port:127.0.0.1" \
	"https://mail.test:$port/" >out 2>&1
check "curl verifies" has "answer 1 over TLSv1.3"
timeout 10 curl -sS --cacert rsa.pem "https://localhost:$port/" >out 2>&1
check "a phone that does not trust us says so in our log" logged "alert from the peer: unknown_ca"

# --- resumption ---

for version in 1_2 1_3; do
	s_client -tls$version -sess_out session
	for round in 1 2; do
		s_client -tls$version -sess_in session -sess_out session
		check "s_client -tls$version resumes, round $round" has "^Reused" "resumed=1"
	done
done
gnutls "NORMAL:-VERS-ALL:+VERS-TLS1.3" -r
check "gnutls-cli resumes TLS 1.3" has "This is a resumed session" "answer 2 over"
gnutls "NORMAL:-VERS-ALL:+VERS-TLS1.2" -r
check "gnutls-cli resumes TLS 1.2" has "This is a resumed session" "answer 2 over"
# session-less clients still get in; ticket-less ones too
s_client -tls1_2 -no_ticket
check "s_client -tls1_2 -no_ticket" has "answer 2 over" "resumed=0"
s_client -tls1_3 -sess_out session
main_port=$port main_log=$log
start -t 1 ec.pem ec.key
for version in 1_2 1_3; do
	s_client -tls$version -sess_out old$version
done
sleep 3.2
for version in 1_2 1_3; do
	s_client -tls$version -sess_in old$version
	check "an old ticket costs a full handshake, -tls$version" has "^New" "answer 2 over" "resumed=0"
done
s_client -tls1_3 -sess_in session
check "so does another server's ticket" has "^New" "answer 2 over" "resumed=0"
port=$main_port log=$main_log

# --- KeyUpdate, renegotiation ---

for suite in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
	: >out
	{
		request / 1
		updates=0
		for command in K k K K k; do
			echo $command
			updates=$((updates + 1))
			await '^KEYUPDATE' $updates
			request / $((updates + 1))
		done
	} | timeout 20 openssl s_client -connect "127.0.0.1:$port" -ciphersuites $suite >>out 2>&1
	check "KeyUpdates from the client, $suite" has "KEYUPDATE" "answer 6 over TLSv1.3 $suite"
	: >out
	{ request /update 1; request /update 2; request /update 3; request / 4; } |
		timeout 20 openssl s_client -connect "127.0.0.1:$port" -ciphersuites $suite >>out 2>&1
	check "KeyUpdates from the server, $suite" has "answer 4 over TLSv1.3 $suite"
done
timeout 10 curl -sS -k "https://localhost:$port/update" "https://localhost:$port/update" \
	"https://localhost:$port/3" >out 2>&1
check "curl answers KeyUpdates" has "answer 3 over TLSv1.3"
: >out
{ request /update 1; request /update 2; request / 3; } |
	timeout 10 gnutls-cli --insecure -p "$port" 127.0.0.1 >>out 2>&1
check "gnutls-cli answers KeyUpdates" has "answer 3 over TLSv1.3"
: >out
{
	request / 1
	echo R
	await RENEGOTIATING
	sleep 0.3
} | timeout 10 openssl s_client -connect "127.0.0.1:$port" -tls1_2 >>out 2>&1
check "renegotiation is declined" has "answer 1 over" "no renegotiation"

# --- the end of a connection ---

printf 'GET /close HTTP/1.1\n\n' | timeout 10 openssl s_client -connect "127.0.0.1:$port" \
	-ign_eof >out 2>&1
check "our close_notify ends s_client in peace" has "answer 1 over" "^closed"
check "and no truncation is seen" hasnt "unexpected eof"
: >"$log"
curl_twice
check "curl's close_notify is seen" logged "^close_notify"

# --- what is refused ---

for version in 1_1 1; do
	timeout 10 openssl s_client -connect "127.0.0.1:$port" -tls$version \
		-cipher 'ALL:@SECLEVEL=0' </dev/null >out 2>&1
	check "s_client -tls$version is told protocol_version" has "alert protocol version"
done
check "the log says why" logged "not_tls TLS 1.1 or older"
timeout 10 openssl s_client -connect "127.0.0.1:$port" -tls1_2 -cipher AES128-SHA </dev/null >out 2>&1
check "suites without AEAD are refused" has "handshake failure"
timeout 5 curl -sS -m 4 "http://localhost:$port/" >out 2>&1
status=$?
check "plain HTTP ends at once" [ $status -ne 0 -a $status -ne 28 -a $status -ne 124 ]
check "and is told apart" logged "not_tls not a TLS handshake"
"$server" ec.pem rsa.key >out 2>&1
check "a key of another certificate names both files" has "ec.pem" "rsa.key"

echo "1..$count"
[ $failures -eq 0 ]
