#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# bench/peers.sh - roostd beside other push servers of Debian, in one run, with the same client and
# measuring code (make bench-peers): nginx with nchan, whose subscribers hang in long polls over TLS,
# and plain nginx with idle TLS connections. Installs them when missing (APT=no: does not), starts them
# on loopback ports with configurations of its own, ends what it started, and prints ratios.
# PHONES (15000; two workers carry at most 19,000 each under a descriptor limit of 20,000), OUT.
set -u
BIN=${BIN:-bin} OUT=${OUT:-build/bench} PHONES=${PHONES:-15000} WAKES=${WAKES:-1000} ROUNDS=${ROUNDS:-3}
APT=${APT:-yes}
export LC_ALL=C
mkdir -p "$OUT" || exit 1
results=$OUT/peers.jsonl
work=$(mktemp -d "${TMPDIR:-/tmp}/roost-peers.XXXXXX") || exit 1
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

run() {
	"$@" &
	child=$!
	wait "$child"
	code=$?
	child=
	[ $code -eq 0 ] || { echo "peers: $1 ended with $code" >&2; bad=1; }
	return $code
}
step() { printf '\n== %s\n' "$*"; }

module=/usr/lib/nginx/modules/ngx_nchan_module.so
if [ ! -e $module ] || ! command -v nginx >/dev/null; then
	[ "$APT" = yes ] || { echo "peers: nginx or nchan is missing" >&2; exit 1; }
	apt-get install -y --no-install-recommends nginx-light libnginx-mod-nchan || exit 1
fi

# The three of them get two free ports, one after the other.
free_port() {
	port=$1
	while grep -qi ":$(printf %04X "$port") [0-9A-F]*:0000 0A" /proc/net/tcp; do
		port=$((port + 1))
	done
	echo "$port"
}
tls=$(free_port 18443) plain=$(free_port 18080)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
	-keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null || exit 1

# Best settings we know: a worker per core, reuseport, no access log, connections kept, small TLS and
# header buffers, X25519 first; nchan without stored messages.
start_nginx() {
	nginx -v 2>&1
	nginx -p "$work" -c "$1" -e "$work/error.log" &
	nginx=$!
	n=0
	until [ -s "$work/nginx.pid" ] || [ $n -ge 50 ]; do
		sleep 0.1
		n=$((n + 1))
	done
}
stop_nginx() {
	kill -TERM "$nginx"
	wait "$nginx"
	nginx=
	rm -f "$work/nginx.pid"
}
common() {
	cat <<END
worker_processes auto;
worker_rlimit_nofile $(ulimit -Hn);
daemon off;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 19000; multi_accept on; }
END
}
http() {
	cat <<END
	access_log off;
	client_body_temp_path $work; proxy_temp_path $work; fastcgi_temp_path $work;
	uwsgi_temp_path $work; scgi_temp_path $work;
	keepalive_timeout 3600s; keepalive_requests 1000000000; keepalive_time 24h;
	reset_timedout_connection on; send_timeout 3600s; client_header_timeout 3600s;
	ssl_certificate $work/cert.pem;
	ssl_certificate_key $work/key.pem;
	ssl_protocols TLSv1.2 TLSv1.3;
	ssl_ecdh_curve X25519:prime256v1;
	ssl_session_cache shared:s:10m;
	ssl_buffer_size 1400;
	client_header_buffer_size 256;
	connection_pool_size 256; request_pool_size 1024;
END
}
{
	echo "load_module $module;"
	common
	cat <<END
http {
$(http)
	nchan_shared_memory_size 512M;
	server {
		listen 127.0.0.1:$tls ssl reuseport backlog=4096;
		location ~ ^/sub/(\d+)\$ {
			nchan_subscriber longpoll;
			nchan_channel_id \$1;
			nchan_subscriber_first_message newest;
			nchan_subscriber_timeout 0;
		}
	}
	server {
		listen 127.0.0.1:$plain;
		location ~ ^/pub/(\d+)\$ {
			nchan_publisher http;
			nchan_channel_id \$1;
			nchan_store_messages off;
		}
	}
}
END
} >"$work/nchan.conf"
{
	common
	cat <<END
http {
$(http)
	server {
		listen 127.0.0.1:$tls ssl reuseport backlog=4096;
		location / { return 200 "roost\n"; }
	}
}
END
} >"$work/idle.conf"

: >"$results"
step "machine: $(nproc) cores, kernel $(uname -r), load $(cut -d ' ' -f 1-3 /proc/loadavg); $PHONES phones each"

step "roostd"
run "$BIN/roost-bench" --spawn --phones "$PHONES" --wakes "$WAKES" --rounds "$ROUNDS" --name roost \
	--json "$results" hold wake burst

step "nginx with nchan: long polls, a channel each"
start_nginx "$work/nchan.conf"
run "$BIN/roost-bench" --url "https://127.0.0.1:$tls" --pid "$nginx" --poll /sub/ \
	--publish "http://127.0.0.1:$plain/pub/" --phones "$PHONES" --wakes "$WAKES" --rounds "$ROUNDS" \
	--name nchan --json "$results" hold wake burst || tail -n 5 "$work/error.log" >&2
stop_nginx

step "plain nginx: idle keep-alive connections"
start_nginx "$work/idle.conf"
run "$BIN/roost-bench" --url "https://127.0.0.1:$tls" --pid "$nginx" --poll-idle / \
	--phones "$PHONES" --name nginx_idle --json "$results" hold || tail -n 5 "$work/error.log" >&2
stop_nginx

step "side by side (JSON lines in $results)"
awk '
function field(s, k,   m) {
	if (!match(s, "\"" k "\":(\"[^\"]*\"|[-0-9.e+]+)"))
		return ""
	m = substr(s, RSTART + length(k) + 3, RLENGTH - length(k) - 3)
	gsub(/"/, "", m)
	return m
}
{ v[field($0, "name")] = field($0, "value"); u[field($0, "name")] = field($0, "unit") }
END {
	n = split("hold_user_per_further_ping hold_user_per_ping hold_kernel_per_ping hold_park_cpu " \
		"hold_idle_cpu_per_ping_minute wake_write_to_phone_p50 wake_write_to_phone_p99 " \
		"wake_write_to_phone_p999 wake_cpu_single burst_cpu_per_wake burst_wake_rate", f, " ")
	printf "%-32s %12s %12s %12s %10s %10s\n", "", "roostd", "nchan", "nginx idle", "x nchan", "x idle"
	for (i = 1; i <= n; i++) {
		r = v["roost_" f[i]]; c = v["nchan_" f[i]]; p = v["nginx_idle_" f[i]]
		if (r == "")
			continue
		printf "%-32s %12.4g %12s %12s %10s %10s  %s\n", f[i], r,
			c == "" ? "-" : sprintf("%.4g", c), p == "" ? "-" : sprintf("%.4g", p),
			c == "" || r == 0 ? "-" : sprintf("%.2f", c / r),
			p == "" || r == 0 ? "-" : sprintf("%.2f", p / r), u["roost_" f[i]]
	}
}' "$results"
[ $bad -eq 0 ] || echo "peers: NOT everything was measured, see above" >&2
exit $bad
