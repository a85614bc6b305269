#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# bench/results.sh [OUT] - the tables of bench/RESULTS.md, from the JSON lines of make bench in OUT
# (build/bench), as Markdown on standard output: with the command, commit and load of each run. What was
# not measured has no table, a figure that is missing is a dash. Needs jq.
set -u
OUT=${1:-${OUT:-build/bench}}
export LC_ALL=C

# Figures by name in .f, series by name in .r, and settings, machine and commit of the run beside them.
lib='
def commas: tostring | if length <= 3 then . else (.[:-3] | commas) + "," + .[-3:] end;
def num: if . == null then "-" elif . < 0 then "-" + (-. | num)
	elif . >= 1000 then round | commas
	elif . >= 100 then round | tostring elif . >= 10 then . * 10 | round / 10 | tostring
	elif . >= 0.1 or . == 0 then . * 100 | round / 100 | tostring
	else . * 1000 | round / 1000 | tostring end;
def time: if . == null then "-" elif . >= 1000000 then . / 1000000 | num + " s"
	elif . >= 1000 then . / 1000 | num + " ms" else num + " us" end;
def line($cells): "| " + ($cells | join(" | ")) + " |";
def table($head; $rows): line($head), line($head | map("---")), ($rows[] | line(.));
def run: {f: (map(select(has("value")) | {(.name): .value}) | add // {}),
	u: (map(select(has("value")) | {(.name): .unit}) | add // {}),
	note: (map(select(has("value")) | {(.name): .note}) | add // {}),
	r: (map(select(has("rows")) | {(.name): .rows}) | add // {}),
	s: (.[0].settings // {}), c: .[0].commit};
def origin: "`" + (if (.s.command // "") == "" then "roost-bench" else .s.command end) + "` (commit "
	+ (.c // "?") + "; load " + (.s.load // 0 | num) + " when it began)";
run | . as $r | .f as $f |'

section() { # file title filter
	[ -s "$OUT/$1.jsonl" ] || return 0
	printf '\n## %s\n\n' "$2"
	jq -r -s "$lib $3" "$OUT/$1.jsonl" || exit 1
}

cat "$OUT"/*.jsonl >/dev/null 2>&1 || { echo "results: $OUT has no figures (*.jsonl): make bench writes them" >&2; exit 1; }
cat "$OUT"/*.jsonl | jq -r -n 'first(inputs | .machine | objects) |
	"Machine: \(.cpu), \(.cores) cores, \(.mem_bytes / 1073741824 | floor) GiB, kernel \(.kernel)"'

section grow 'Hanging Pings as their number grows' '
([$f | keys[] | capture("^grow_(?<n>[0-9]+)_user_per_ping$").n | tonumber] | sort) as $n |
origin, "",
table(["hanging Pings", "server, user bytes each", "kernel bytes each (one end)", "client, user bytes each",
		"idle CPU, % of a core", "parked per second", "server CPU to park one"];
	[$n[] | "grow_\(.)_" as $p | [num, ($f[$p + "user_per_ping"] | num), ($f[$p + "kernel_per_ping"] | num),
		($f[$p + "client_per_ping"] | num), ($f[$p + "idle_cpu"] | num), ($f[$p + "park_rate"] | num),
		($f[$p + "park_cpu"] | time)]]),
"", "Mail for one random phone of these; the server'\''s own figures are upper bounds of its histogram'\''s buckets.", "",
table(["hanging Pings", "commit to wire p50", "p99", "commit to phone p50", "p99", "p99.9"];
	[$n[] | "grow_\(.)_wake_commit_to_" as $p | [num, ($f[$p + "wire_p50_at_most"] | time),
		($f[$p + "wire_p99_at_most"] | time), ($f[$p + "phone_p50"] | time), ($f[$p + "phone_p99"] | time),
		($f[$p + "phone_p999"] | time)]]),
(if $f.burst_wake_rate then "", "Then every one of them is woken, and every heartbeat ends.", "",
	table(["all \($n | max | num) phones", ""];
	[["woken per second", ($f.burst_wake_rate | num)],
	["first write begun to the last phone, s", ($f.burst_time_to_last / 1000 | num)],
	["server CPU per wake", ($f.burst_cpu_per_wake | time)],
	["system calls per wake", ($f.burst_syscalls_per_wake | num)],
	["phones not woken", ($f.burst_missed | num)], ["woken more than once", ($f.burst_doubled | num)],
	["heartbeats ended", ($f.expire_heartbeats | num)],
	["phones whose heartbeat was not answered", ($f.expire_missed | num)],
	["early by more than 1 s", ($f.expire_early | num)], ["late by more than 1 s", ($f.expire_late | num)],
	["answered without having asked", ($f.expire_doubled | num)],
	["server CPU for the end of a heartbeat and the next Ping", ($f.expire_cpu | time)],
	["computed from that: heartbeats of 30 minutes, % of a core", ($f.expire_cpu_at_30_min | num)]]) else empty end)'

section upgrade 'Upgrades in a row under load' '
origin, "",
table(["\($r.s.phones | num) phones, \($r.r.upgrade_pauses | length) upgrades", ""];
	[["pause, ms: median, each", ($f.upgrade_pause | num) + "; " + ($r.r.upgrade_pauses | map(.[1] | num) | join(", "))],
	["of that in the old process, in the new one (medians)", ($f.upgrade_export | num) + ", " + ($f.upgrade_restore | num)],
	["before it: nothing new begun, ms", ($f.upgrade_quiet | num)],
	["before that: sockets copied while everything goes on, ms", ($f.upgrade_copy | num)],
	["connections lost", ($f.upgrade_lost | num)], ["changes missed", ($f.upgrade_missed | num)],
	["answers doubled", ($f.upgrade_doubled | num)],
	["commit to phone, all the time: p50", ($f.upgrade_commit_to_phone_p50 | time)],
	["p99", ($f.upgrade_commit_to_phone_p99 | time)], ["worst, ms", ($f.upgrade_worst | num)],
	["memory of both processes at its most, MB", ($f.upgrade_memory | num)],
	["fall of MemAvailable at its most, MB", ($f.upgrade_available_fall | num)]])'

section storm 'Storm: all phones but 1 % reset at once and come back' '
def two($name): [$f["storm_full_" + $name], $f["storm_resumed_" + $name]];
origin, "",
table(["\($r.s.phones | num) phones", "full handshakes", "resumed"];
	[["until all hang again, s"] + (two("time") | map(num)), ["phones per second"] + (two("rate") | map(num)),
	["server CPU each"] + (two("cpu") | map(time)),
	["server memory at its most above before, MB"] + (two("memory_rise") | map(num)),
	["fall of MemAvailable at its most, both ends, MB"] + (two("available_fall") | map(num)),
	["connections lost on the way"] + (two("lost") | map(num)),
	["phones refused with 503, which waited as told"] + (two("refused") | map(num)),
	["of these, refused again"] + (two("refused_again") | map(num)),
	["mail for phones that stayed, meanwhile: p50"] + (two("stayed_p50") | map(time)),
	["p99"] + (two("stayed_p99") | map(time)), ["worst"] + (two("stayed_worst") | map(time)),
	["of that until the kernel had the answer, by the server'\''s histogram: p50 at most"] +
		(two("commit_to_wire_p50_at_most") | map(time)),
	["p99 at most"] + (two("commit_to_wire_p99_at_most") | map(time))])'

section wake 'One random phone gets mail' '
origin, "",
table(["\($r.s.phones | num) hanging Pings", "p50", "p99", "p99.9"];
	[["durable commit to phone", ($f.wake_commit_to_phone_p50 | time), ($f.wake_commit_to_phone_p99 | time),
		($f.wake_commit_to_phone_p999 | time)],
	["writing begun to phone", ($f.wake_write_to_phone_p50 | time), ($f.wake_write_to_phone_p99 | time),
		($f.wake_write_to_phone_p999 | time)]])'

section load 'One random phone gets mail, while much else happens' '
origin, "",
table(["durable commit to answer read by the phone, \($r.s.phones | num) phones", "p50", "p99", "p99.9",
		"server CPU, % of a core"];
	[{none: "nothing else", commits: "changes committed", reconnects: "phones reconnect, full handshakes",
		both: "both"} | to_entries[] | "load_\(.key)_" as $p |
		[.value + (($r.note[$p + "commit_to_phone_p50"] // "" | capture("; meanwhile (?<what>.*)$").what |
			": " + .) // ""), ($f[$p + "commit_to_phone_p50"] | time),
		($f[$p + "commit_to_phone_p99"] | time), ($f[$p + "commit_to_phone_p999"] | time),
		($f[$p + "cpu"] | num)]])'

section burst 'A burst: every phone gets mail' '
origin, "",
table(["\($r.s.phones | num) phones", "one change each", "one mail to all"];
	[["wake_rate", "woken per second"], ["time_to_last", "first write begun to the last phone, ms"],
	["cpu_per_wake", "server CPU per wake, us"], ["syscalls_per_wake", "system calls per wake"],
	["missed", "not woken"], ["doubled", "woken more than once"]] |
	map([.[1], ($f["burst_" + .[0]] | num), ($f["burst_list_" + .[0]] | num)]))'

section handshake 'Handshakes' '
origin, "", "TLS 1.2: the same with `--tls12`; `make bench-handshake` runs both.", "",
table(["", "server CPU each", "per second (both ends, all cores)"];
	[["handshake_full", "TLS 1.3, full"], ["handshake_resumed", "TLS 1.3, resumed"],
	["tls12_handshake_full", "TLS 1.2, full"], ["tls12_handshake_resumed", "TLS 1.2, resumed"]] |
	map([.[1], ($f[.[0] + "_cpu"] | time), ($f[.[0] + "_rate"] | num)]))'

every='def every($name; $of): table(["\($r.s.phones | num) phones: \($r.note[$name + $of] // "")", ""];
	[$f | to_entries[] | [(.key | ltrimstr($name + "_") | gsub("_"; " ")),
		if $r.u[.key] == "us" then .value | time else (.value | num) + " " + $r.u[.key] end]]);'
section day 'A day, compressed in time' "$every"'
origin, "", every("day"; "_cpu")'
section soak 'Half an hour of steady life' "$every"'
origin, "", every("soak"; "_cpu")'
section crash 'kill -9 with all phones hanging' "$every"'
origin, "", every("crash"; "_recovery")'

section send 'The floor under a burst: bare sends' '
"`make bench-send` (commit " + (.c // "?") + ")", "",
table(["", "CPU each"]; [["a send of \($r.s.bytes) bytes, the receiving half included", ($f.send_cpu | time)],
	["the same, dropped at the receiving socket", ($f.send_cpu_to_deaf_peers | time)]])'

# Lines of another kind: one for each run.
if [ -s "$OUT/commit.jsonl" ]; then
	printf '\n## Durable changes per second\n\n'
	jq -r -s "${lib%%def run:*}"'
"`make bench-commit` (commit " + (.[0].commit // "?") + "), each fsynced", "",
table(["processes", "threads each", "in flight each", "changes/s", "changes per fsync", "p50", "p99"];
	[.[] | [(.settings.processes | num), (.settings.threads | num), (.settings.window | num), (.changes_per_s | num),
		(.changes_per_commit | num), (.latency_p50_us | time), (.latency_p99_us | time)]])' "$OUT/commit.jsonl" || exit 1
fi
exit 0
