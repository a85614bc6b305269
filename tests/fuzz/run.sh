#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Fuzzes one target, or all: tests/fuzz/run.sh NAME|all SECONDS. New finds of coverage stay in
# build/fuzz/corpus/NAME; crashes in build/fuzz/crash/NAME-*.
set -eu
targets=$1 seconds=$2
[ -n "$targets" ] || { echo "which target? one of:" $(ls tests/fuzz/fuzz_*.c | sed 's/.*fuzz_//; s/\.c//') all; exit 2; }
[ "$targets" = all ] && targets=$(ls tests/fuzz/fuzz_*.c | sed 's/.*fuzz_//; s/\.c//')
B=build/clang-fuzz
make --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined VARIANT=clang-fuzz "$B/libroost.a" "$B/libbench.a"
failed=0
for t in $targets; do
	make --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined VARIANT=clang-fuzz "$B/tests/fuzz/fuzz_$t.o"
	wolf=-lwolfssl
	[ -e build/wolfssl/lib/libwolfssl.a ] && wolf=build/wolfssl/lib/libwolfssl.a
	clang -fsanitize=fuzzer,address,undefined -o "$B/fuzz_$t" "$B/tests/fuzz/fuzz_$t.o" "$B/libbench.a" "$B/libroost.a" $wolf \
		$(pkg-config --libs gmime-3.0 gumbo libconfuse libsodium jansson zlib liburing) -llmdb -lpthread -lm
	mkdir -p "build/fuzz/corpus/$t" build/fuzz/crash "tests/fuzz/corpus/$t"
	dict=
	[ -e "tests/fuzz/$t.dict" ] && dict=-dict=tests/fuzz/$t.dict
	echo "== $t, $seconds s"
	"$B/fuzz_$t" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=3000 -print_final_stats=1 -verbosity=0 \
		-artifact_prefix="build/fuzz/crash/$t-" $dict "build/fuzz/corpus/$t" "tests/fuzz/corpus/$t" 2>&1 |
		tail -n 25 || true
	ls build/fuzz/crash/"$t"-* >/dev/null 2>&1 && { echo "FINDING: $t"; failed=1; }
done
exit $failed
