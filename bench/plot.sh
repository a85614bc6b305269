#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# bench/plot.sh - pictures of the JSON lines in OUT, as PNG beside them: memory per Ping against their
# number, the latency of wakes, how storms and crashes are recovered from, and half an hour of life. Those
# whose lines are missing are left out.
set -u
OUT=${OUT:-build/bench}
export LC_ALL=C
work=$(mktemp -d "${TMPDIR:-/tmp}/roost-plot.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

# Rows of the newest series of that name: numbers with blanks.
rows() { # file name
	[ -r "$1" ] || return 1
	grep -F "\"name\":\"$2\"" "$1" | tail -n 1 | sed 's/.*"rows":\[\[//; s/\]\].*//; s/\],\[/\n/g; s/,/ /g'
}
plot() { # file, gnuplot commands on standard input
	{
		echo "set terminal pngcairo size 760,420 font 'sans,11'; set output '$OUT/$1'"
		echo "set grid lc rgb '#dddddd'; set key top left; set border 3; set tics nomirror"
		cat
	} | gnuplot && echo "$OUT/$1"
}

if rows "$OUT/grow.jsonl" grow >"$work/grow" && [ -s "$work/grow" ]; then
	plot memory.png <<END
set title 'Memory of the server per hanging Ping (TLS 1.3)'
set logscale x; set format x '%.0s%c'; set xlabel 'hanging Pings'; set ylabel 'bytes each'
set yrange [0:6500]
plot '$work/grow' using 1:(\$2+\$3) with linespoints lw 2 pt 7 lc rgb '#1f5a99' title 'user and kernel', \\
	'' using 1:3 with linespoints lw 2 pt 5 lc rgb '#7a9e3f' title 'kernel: socket, file, armed poll', \\
	'' using 1:2 with linespoints lw 2 pt 9 lc rgb '#c4532d' title 'user: all anonymous memory of roostd'
END
fi

if [ -s "$work/grow" ] && awk '$7 > 0 { found = 1 } END { exit !found }' "$work/grow"; then
	plot wake.png <<END
set title 'Mail for one random phone: durable commit to answer at the phone'
set logscale x; set logscale y; set format x '%.0s%c'; set xlabel 'hanging Pings'; set ylabel 'microseconds'
plot '$work/grow' using 1:7 with linespoints lw 2 pt 7 lc rgb '#1f5a99' title '99 %', \\
	'' using 1:6 with linespoints lw 2 pt 5 lc rgb '#7a9e3f' title 'half', \\
	'' using 1:8 with linespoints lw 2 pt 9 lc rgb '#c4532d' title '99.9 %'
END
fi

n=0
for kind in none commits reconnects both; do
	rows "$OUT/load.jsonl" "load_${kind}_distribution" >"$work/load_$kind" && [ -s "$work/load_$kind" ] &&
		n=$((n + 1))
done
if [ $n -eq 4 ]; then
	plot latency.png <<END
set title 'Durable commit to answer at the phone, one random phone at a time'
set logscale x; set logscale y; set xlabel 'share of wakes that take longer'; set ylabel 'microseconds'
set xrange [0.5:0.001] reverse
set xtics ('50 %%' 0.5, '10 %%' 0.1, '1 %%' 0.01, '0.1 %%' 0.001)
plot '$work/load_none' using (1-\$1):2 with lines lw 2 lc rgb '#1f5a99' title 'nothing else happens', \\
	'$work/load_commits' using (1-\$1):2 with lines lw 2 lc rgb '#7a9e3f' title '1,000 changes/s', \\
	'$work/load_reconnects' using (1-\$1):2 with lines lw 2 lc rgb '#c4532d' title '500 reconnects/s', \\
	'$work/load_both' using (1-\$1):2 with lines lw 2 lc rgb '#555555' title 'both'
END
fi

if rows "$OUT/storm.jsonl" storm_full_recovery >"$work/full" && [ -s "$work/full" ] &&
	rows "$OUT/storm.jsonl" storm_resumed_recovery >"$work/resumed" && [ -s "$work/resumed" ]; then
	plot storm.png <<END
set title 'All phones reset at once come back'
set xlabel 'seconds after the resets'; set ylabel 'hanging Pings'; set format y '%.0s%c'; set yrange [0:*]
set y2label 'server, anonymous MB'; set y2tics; set y2range [0:*]; set border 11; set key bottom right
plot '$work/full' using 1:2 with lines lw 2 lc rgb '#1f5a99' title 'full handshakes', \\
	'$work/resumed' using 1:2 with lines lw 2 lc rgb '#7a9e3f' title 'resumed handshakes', \\
	'$work/full' using 1:3 axes x1y2 with lines lw 1 dt 2 lc rgb '#1f5a99' title 'memory, full', \\
	'$work/resumed' using 1:3 axes x1y2 with lines lw 1 dt 2 lc rgb '#7a9e3f' title 'memory, resumed'
END
fi

if rows "$OUT/soak.jsonl" soak >"$work/soak" && [ -s "$work/soak" ]; then
	plot soak.png <<END
set title 'A day for long: memory of the server, and what hangs'
set xlabel 'minutes'; set ylabel 'MB'; set yrange [0:*]; set key bottom right
set y2label 'hanging Pings'; set y2tics; set y2range [0:*]; set format y2 '%.0s%c'; set border 11
plot '$work/soak' using (\$1/60):2 with lines lw 2 lc rgb '#1f5a99' title 'anonymous memory', \\
	'' using (\$1/60):4 axes x1y2 with lines lw 2 lc rgb '#7a9e3f' title 'hanging Pings'
END
fi

if rows "$OUT/crash.jsonl" crash_recovery >"$work/crash" && [ -s "$work/crash" ]; then
	plot crash.png <<END
set title 'All phones come back after kill -9'
set xlabel 'seconds after the kill'; set ylabel 'hanging Pings'; set format y '%.0s%c'; set yrange [0:*]
set y2label 'server, anonymous MB'; set y2tics; set y2range [0:*]; set border 11; set key bottom right
plot '$work/crash' using 1:2 with lines lw 2 lc rgb '#1f5a99' title 'hanging, or told of their mail', \\
	'' using 1:3 axes x1y2 with lines lw 1 dt 2 lc rgb '#1f5a99' title 'memory'
END
fi
exit 0
