#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# clang-tidy and cppcheck over the sources given (make lint).
set -u
B=build/gen
inc="-I. -I$B $([ -d build/wolfssl/include ] && echo -Ibuild/wolfssl/include)"
flags="-std=gnu11 -D_GNU_SOURCE -DROOST_VERSION=\"lint\" $inc $(pkg-config --cflags gmime-3.0 gumbo libconfuse libsodium jansson zlib liburing)"
checks='-*,bugprone-*,clang-analyzer-*,cert-err34-c,cert-flp30-c,misc-redundant-expression,misc-static-assert'
# Swappable parameters, narrowing and reserved names are style here, not bugs; memcpy_s does not exist;
# an assignment in a condition is written on purpose where it is; a swapped pair (p, n) is a view.
checks="$checks,-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions"
checks="$checks,-bugprone-reserved-identifier,-clang-analyzer-security.insecureAPI.*"
checks="$checks,-bugprone-assignment-in-if-condition,-bugprone-branch-clone,-bugprone-implicit-widening-of-multiplication-result"
# Fields stand in the order of their meaning; where bytes count, a _Static_assert holds the budget. Types and
# designated initializers of the X tables cannot be parenthesized. Records are compared as bytes: decoders clear
# them whole first, and should padding differ nevertheless, a row is written once more than needed.
checks="$checks,-clang-analyzer-optin.performance.Padding,-bugprone-macro-parentheses"
checks="$checks,-bugprone-suspicious-memory-comparison"
bad=0
# (one file a run: clang-tidy 14 sees uninitialized va_lists that are none when given several)
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 sh -c '
	clang-tidy --quiet --warnings-as-errors="*" --checks="'"$checks"'" "$@" -- '"$(printf '%s' "$flags" | sed 's/"/\\"/g')"' 2>/dev/null' sh || bad=1
# (cppcheck takes every address of an unset variable for a read of it, and a pointer stored for a call for one that
# is kept; the compilers and the analyzer of clang-tidy follow both more exactly)
cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr --enable=warning,portability \
	--suppress=missingIncludeSystem --suppress=unknownMacro --suppress=preprocessorErrorDirective \
	--suppress=nullPointerArithmeticRedundantCheck --suppress=normalCheckLevelMaxBranches \
	--suppress=ctuuninitvar --suppress=autoVariables \
	-D__BYTE_ORDER__=1234 -D__ORDER_LITTLE_ENDIAN__=1234 -D_GNU_SOURCE -I. -I$B "$@" || bad=1
[ $bad = 0 ] && echo "lint: good"
exit $bad
