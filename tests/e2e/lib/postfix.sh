# SPDX-License-Identifier: GPL-3.0-or-later
# tests/e2e/lib/postfix.sh - a Postfix of its own below $dir: own configuration, queue, log and port, loopback only. It
# relays example.test to an LMTP server, and nothing leaves. Read by scripts; needs root.
# shellcheck shell=sh disable=SC2154
PATH=$PATH:/usr/sbin:/sbin
postfix_runs=''

postfix_can() { command -v postfix >/dev/null && [ "$(id -u)" = 0 ]; }

# What it says goes to $dir/start.log and $dir/mail.log.
postfix_start() { # port, LMTP server as virtual_transport names it, further lines of main.cf...
	postfix_port=$1 postfix_to=$2
	shift 2
	chmod 755 "$dir"
	mkdir "$dir/etc" "$dir/queue" "$dir/postfix"
	chown postfix "$dir/postfix"
	cat >"$dir/etc/main.cf" <<CF
compatibility_level = 3.6
config_directory = $dir/etc
queue_directory = $dir/queue
data_directory = $dir/postfix
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = $dir/mail.log
maillog_file_prefixes = $dir
myhostname = mx.example.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
alias_database =
virtual_mailbox_domains = example.test
virtual_transport = lmtp:$postfix_to
default_transport = error:nothing leaves this test
smtpd_recipient_restrictions = permit_mynetworks, reject
CF
	[ $# -eq 0 ] || printf '%s\n' "$@" >>"$dir/etc/main.cf"
	cat >"$dir/etc/master.cf" <<CF
127.0.0.1:$postfix_port inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
error     unix - - n - - error
retry     unix - - n - - error
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
showq     unix n - n - - showq
postlog   unix-dgram n - n - 1 postlogd
CF
	postfix -c "$dir/etc" start >"$dir/start.log" 2>&1 && postfix_runs=1
}

# By the pid file in its own queue directory: no other Postfix is touched.
postfix_stop() {
	[ -z "$postfix_runs" ] || timeout 30 postfix -c "$dir/etc" stop >/dev/null 2>&1
	postfix_runs=''
}
