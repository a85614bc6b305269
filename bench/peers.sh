#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# bench/peers.sh [NAME...] - roostd beside other push servers of Debian, in one run, with the same client and
# measuring code (make bench-peers): roost, roost_lmtp (the same with changes as mail by LMTP), nchan
# (nginx with long polls over TLS), nginx_idle (plain nginx with idle TLS connections) and dovecot
# (hibernated IMAP IDLE over TLS, mail by LMTP). Installs them when missing (APT=no: does not), starts them
# on loopback ports with configurations of its own, ends what it started, and prints ratios; the table
# is also in OUT/peers.md.
# PHONES (10000; a worker carries at most 19,000 under a descriptor limit of 20,000), WAKES, ROUNDS, OUT;
# NCHAN_WORKERS (1).
# Dovecot needs root, and an inotify instance a phone: fs.inotify.max_user_instances is raised while it runs.
set -u
BIN=${BIN:-bin} OUT=${OUT:-build/bench} PHONES=${PHONES:-10000} WAKES=${WAKES:-1000} ROUNDS=${ROUNDS:-3}
APT=${APT:-yes}
PATH=$PATH:/usr/sbin:/sbin
[ $# -gt 0 ] || set -- roost roost_lmtp nchan nginx_idle dovecot
mkdir -p "$OUT" || exit 1
results=$OUT/peers.jsonl
script=peers
# shellcheck source=bench/processes.sh
. "${0%/*}/processes.sh"
instances=/proc/sys/fs/inotify/max_user_instances instances_before=
at_end() { [ -z "$instances_before" ] || echo "$instances_before" >$instances; }

# What is missing of these is installed. False: it cannot be.
need() { # package...
	missing=
	for p in "$@"; do
		dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
	done
	[ -n "$missing" ] || return 0
	if [ "$APT" = yes ]; then
		sudo=
		[ "$(id -u)" = 0 ] || sudo=sudo
		# shellcheck disable=SC2086
		$sudo env DEBIAN_FRONTEND=noninteractive sh deploy/apt-install.sh $missing && return 0
	fi
	echo "peers: missing:$missing" >&2
	bad=1
	return 1
}

# They get free ports, one server after the other.
free_port() {
	port=$1
	while grep -qi ":$(printf %04X "$port") [0-9A-F]*:0000 0A" /proc/net/tcp; do
		port=$((port + 1))
	done
	echo "$port"
}
tls=$(free_port 18443) plain=$(free_port 18080) lmtp=$(free_port 18024)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
	-keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null || exit 1

# In the background; its first process is the one that is measured, with its children.
start() { # file that says it runs, program...
	file=$1
	shift
	"$@" &
	server=$!
	n=0
	until [ -s "$file" ] || [ $n -ge 50 ]; do
		sleep 0.1
		n=$((n + 1))
	done
}
stop() {
	kill -TERM "$server"
	wait "$server"
	server=
}
bench() { # name, options...
	run "$BIN/roost-bench" --phones "$PHONES" --wakes "$WAKES" --rounds "$ROUNDS" --json "$results" --name "$@"
}

# ---- nginx ----
# Best settings we know: a worker per core, reuseport, no access log, connections kept, small TLS and
# header buffers, X25519 first. But nchan with one worker: measured here a wake in a burst then takes 21 us of
# CPU instead of 35 to 44, and there are more of them per second, since workers tell each other everything.
# Messages are not stored. With several workers they must be, for some seconds: nchan 1.3.6 otherwise loses up
# to 1 % of a burst that follows another one.
workers=${NCHAN_WORKERS:-1}
storage='nchan_store_messages off;'
[ "$workers" = 1 ] || storage='nchan_message_buffer_length 1; nchan_message_timeout 5s;'
start_nginx() {
	nginx -v 2>&1
	rm -f "$work/nginx.pid"
	start "$work/nginx.pid" nginx -p "$work" -c "$1" -e "$work/error.log"
}
common() {
	cat <<END
worker_processes $1;
worker_rlimit_nofile $(ulimit -Hn);
daemon off;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 19900; multi_accept on; }
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
	echo "load_module /usr/lib/nginx/modules/ngx_nchan_module.so;"
	common "$workers"
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
			$storage
		}
		location = /status { nchan_stub_status; }
	}
}
END
} >"$work/nchan.conf"
{
	common auto
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

nginx_nchan() {
	need nginx-light libnginx-mod-nchan || return
	start_nginx "$work/nchan.conf"
	bench nchan --url "https://127.0.0.1:$tls" --pid "$server" --poll /sub/ \
		--publish "http://127.0.0.1:$plain/pub/" --subscribers "http://127.0.0.1:$plain/status" \
		hold wake burst || tail -n 5 "$work/error.log" >&2
	stop
}
nginx_idle() {
	need nginx-light || return
	start_nginx "$work/idle.conf"
	bench nginx_idle --url "https://127.0.0.1:$tls" --pid "$server" --poll-idle / hold ||
		tail -n 5 "$work/error.log" >&2
	stop
}

# ---- Dovecot ----
# Best settings we know: login processes that keep many connections (they hold the TLS sessions also of
# hibernated ones), hibernation after the least time there is, imap processes that serve one client after the
# other (many at a time cost less CPU, but block each other: with 50, a burst of 4,000 made imap-hibernate time
# out and connections were lost), gone two seconds after they were needed, "still here" as seldom as possible.
# In bursts 100 mails at a time wait for their phones.
# process_limit x client_limit of imap-login and imap-hibernate leave room for an uneven share.
dovecot_conf() {
	cat <<END
base_dir = $work/run
state_dir = $work/state
log_path = $work/dovecot.log
protocols = imap lmtp
listen = 127.0.0.1
ssl = required
ssl_cert = <$work/cert.pem
ssl_key = <$work/key.pem
ssl_min_protocol = TLSv1.2
ssl_curve_list = X25519:prime256v1
auth_mechanisms = plain
first_valid_uid = 1
first_valid_gid = 1
passdb {
  driver = static
  args = password=benchmark
}
userdb {
  driver = static
  args = uid=mail gid=mail home=$work/mail/%u
}
mail_location = sdbox:~
mail_max_userip_connections = 0
imap_hibernate_timeout = 1s
imap_idle_notify_interval = 29 mins
default_vsz_limit = 0
service imap-login {
  service_count = 0
  process_min_avail = 2
  process_limit = 3
  client_limit = 9000
  inet_listener imap {
    port = 0
  }
  inet_listener imaps {
    port = $tls
    ssl = yes
  }
}
service imap {
  service_count = 0
  process_min_avail = 4
  process_limit = 2000
  idle_kill = 2s
  unix_listener imap-master {
    user = dovecot
  }
}
service imap-hibernate {
  process_min_avail = 2
  process_limit = 3
  client_limit = 9000
  unix_listener imap-hibernate {
    mode = 0660
    group = mail
  }
}
service lmtp {
  service_count = 0
  process_min_avail = 4
  process_limit = 40
  inet_listener lmtp {
    address = 127.0.0.1
    port = $lmtp
  }
}
service anvil {
  client_limit = 20000
}
service auth {
  client_limit = 20000
}
service stats {
  client_limit = 20000
}
END
}
dovecot_idle() {
	need dovecot-imapd dovecot-lmtpd || return
	if [ "$(id -u)" != 0 ]; then
		echo "peers: Dovecot needs root: left out" >&2
		bad=1
		return
	fi
	want=$((PHONES + 1000)) now=$(cat $instances)
	if [ "$now" -lt "$want" ]; then
		echo "fs.inotify.max_user_instances = $want (was $now) while Dovecot runs"
		instances_before=$now
		echo "$want" >$instances || { bad=1; return; }
	fi
	mkdir "$work/run" "$work/state" "$work/mail"
	chmod 755 "$work"
	chown mail:mail "$work/mail"
	dovecot_conf >"$work/dovecot.conf"
	echo "dovecot $(dovecot --version)"
	start "$work/run/master.pid" dovecot -F -c "$work/dovecot.conf"
	# The pause lets all of them hibernate again.
	bench dovecot --url "imaps://127.0.0.1:$tls" --pid "$server" --mail "lmtp://127.0.0.1:$lmtp" \
		--rest 5000 --unanswered 100 hold wake burst || tail -n 5 "$work/dovecot.log" >&2
	grep -E 'Warning|Error|Panic|Fatal' "$work/dovecot.log" | cut -c 1-200 | head -n 5 >&2
	stop
	at_end
	instances_before=
}

: >"$results"
step "machine: $(nproc) cores, kernel $(uname -r); $PHONES phones each"
for what in "$@"; do
	case $what in
	roost)
		step "roostd, changes in its store"
		bench roost --spawn hold wake burst
		;;
	roost_lmtp)
		step "roostd, changes as mail by LMTP"
		bench roost_lmtp --spawn --mail lmtp wake burst
		;;
	nchan)
		step "nginx with nchan: long polls, a channel each"
		nginx_nchan
		;;
	nginx_idle)
		step "plain nginx: idle keep-alive connections"
		nginx_idle
		;;
	dovecot)
		step "Dovecot: hibernated IMAP IDLE, mail by LMTP"
		dovecot_idle
		;;
	*)
		echo "peers: no '$what'" >&2
		exit 2
		;;
	esac
done

step "side by side (JSON lines in $results)"
# One line a figure; "x" is how many times ours theirs is: mail beside mail, everything else beside the store.
awk -v md="$OUT/peers.md" -v phones="$PHONES" '
function field(s, k,   m) {
	if (!match(s, "\"" k "\":(\"[^\"]*\"|[-0-9.e+]+)"))
		return ""
	m = substr(s, RSTART + length(k) + 3, RLENGTH - length(k) - 3)
	gsub(/"/, "", m)
	return m
}
function show(x) { return x == "" ? "-" : sprintf(x + 0 >= 1000 ? "%.0f" : "%.4g", x) }
function times(x, r) { return x == "" || r == "" || r + 0 <= 0 ? "-" : sprintf("%.2g", x / r) + 0 }
function keep(name, peer, x, r) {
	if (times(x, r) != "-")
		printf "{\"name\":\"peers_%s_%s_to_roost\",\"value\":%.4f,\"unit\":\"times\",\"n\":%d,%s,\"settings\":{\"phones\":%d}}\n",
			name, peer, x / r, phones, run, phones >out
}
match($0, /"machine":\{[^}]*\},"commit":"[^"]*"/) { run = substr($0, RSTART, RLENGTH) }
{ v[field($0, "name")] = field($0, "value"); u[field($0, "name")] = field($0, "unit") }
END {
	out = FILENAME ".ratios"
	n = split("hold_user_per_ping hold_user_per_further_ping hold_kernel_per_ping hold_park_cpu hold_park_rate " \
		"hold_idle_cpu_per_ping_minute wake_write_to_phone_p50 wake_write_to_phone_p99 wake_250_to_phone_p50 " \
		"wake_250_to_phone_p99 wake_commit_to_phone_p50 wake_commit_to_phone_p99 wake_cpu_single " \
		"burst_cpu_per_wake burst_wake_rate burst_time_to_last burst_list_cpu_per_wake burst_list_wake_rate " \
		"burst_list_time_to_last burst_missed burst_doubled", f, " ")
	h = "%-30s %11s %11s %11s %11s %11s %8s %8s %8s  %s\n"
	printf h, "", "roostd", "nchan", "nginx idle", "roostd mail", "Dovecot", "x nchan", "x idle", "x Dovec.", ""
	print "| | roostd | nginx + nchan | plain nginx, idle | roostd, by mail | Dovecot, by mail | nchan / roostd | idle nginx / roostd | Dovecot / roostd |" >md
	print "|---|---|---|---|---|---|---|---|---|" >md
	for (i = 1; i <= n; i++) {
		k = f[i]
		r = v["roost_" k]; c = v["nchan_" k]; p = v["nginx_idle_" k]
		l = v["roost_lmtp_" k]; d = v["dovecot_" k]
		unit = u["roost_" k] != "" ? u["roost_" k] : u["roost_lmtp_" k] != "" ? u["roost_lmtp_" k] : u["dovecot_" k]
		if (r l c p d == "")
			continue
		b = k ~ /^hold/ ? r : l # Dovecot beside mail, where there is mail
		printf h, k, show(r), show(c), show(p), show(l), show(d), times(c, r), times(p, r), times(d, b), unit
		printf "| %s, %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", k, unit, show(r), show(c), show(p),
			show(l), show(d), times(c, r), times(p, r), times(d, b) >md
		keep(k, "nchan", c, r); keep(k, "nginx_idle", p, r); keep(k, "dovecot", d, b)
	}
}' "$results"
if [ -s "$results.ratios" ]; then
	cat "$results.ratios" >>"$results"
	rm -f "$results.ratios"
fi
finish
