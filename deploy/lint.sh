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
bad=0
# (one file a run: clang-tidy 14 sees uninitialized va_lists that are none when given several)
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 1 sh -c '
	clang-tidy --quiet --warnings-as-errors="*" --checks="'"$checks"'" "$@" -- '"$(printf '%s' "$flags" | sed 's/"/\\"/g')"' 2>/dev/null' sh || bad=1
cppcheck --quiet --std=c11 --error-exitcode=1 --inline-suppr --enable=warning,portability \
	--suppress=missingIncludeSystem --suppress=unknownMacro --suppress=preprocessorErrorDirective \
	--suppress=nullPointerArithmeticRedundantCheck --suppress=normalCheckLevelMaxBranches \
	-D__BYTE_ORDER__=1234 -D__ORDER_LITTLE_ENDIAN__=1234 -D_GNU_SOURCE -I. -I$B "$@" || bad=1
[ $bad = 0 ] && echo "lint: good"
exit $bad
