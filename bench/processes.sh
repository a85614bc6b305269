# SPDX-License-Identifier: GPL-3.0-or-later
# bench/processes.sh - what bench/run.sh and bench/peers.sh share, read by both: a temporary directory $work, and
# programs that are ended by process id with the script, also when it is interrupted.
# script: its name, for messages. bad becomes 1 when something failed. at_end: called last, may be replaced.
# shellcheck shell=sh disable=SC2154
export LC_ALL=C
work=$(mktemp -d "${TMPDIR:-/tmp}/roost-$script.XXXXXX") || exit 1
server='' child='' bad=0

at_end() { :; }
clean() {
	trap - EXIT INT TERM
	for pid in $child $server; do
		kill -TERM "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	at_end
	rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

# In the background and waited for, so that a signal reaches us at once.
run() { # program...
	"$@" &
	child=$!
	wait "$child"
	code=$?
	child=
	[ $code -eq 0 ] || { echo "$script: $1 ended with $code" >&2; bad=1; }
	return $code
}
step() { printf '\n== %s (load %s)\n' "$*" "$(cut -d ' ' -f 1 /proc/loadavg)"; }
finish() {
	[ $bad -eq 0 ] || echo "$script: NOT everything was measured, see above" >&2
	exit $bad
}
