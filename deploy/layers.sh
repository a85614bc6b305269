#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Who may include whom (ARCHITECTURE.md). Prints each line that breaks a rule; exits 1 if any does.
set -u
bad=0

# folder: its own headers, core/base and what is listed may be included with quotes.
rule() { # folder-regex allowed-regex name
	hits=$(git ls-files '*.c' '*.h' | grep -E "$1" | xargs -r grep -HnE '^#include "' |
		grep -vE "#include \"($2|wbxml_tags\.)")
	if [ -n "$hits" ]; then
		printf '%s may not include:\n%s\n' "$3" "$hits"
		bad=1
	fi
}
rule '^core/base/' 'core/base/' 'core/base (a leaf)'
rule '^io/' '(core/base|io)/' 'io (bytes, time, messages)'
rule '^store/' '(core/base|store)/' 'store (no sockets, no protocol)'
rule '^core/eas/' '(core/base|core/eas|store)/|core/config/config\.' 'core/eas (commands: no sockets)'
rule '^core/push/' '(core/base|core/push|store)/|core/config/config\.|core/eas/(eas|wbxml)\.h' 'core/push'
rule '^core/access/' '(core/base|core/access|store)/|core/config/config\.' 'core/access'
rule '^core/feed/' '(core/base|core/feed|store)/|core/(config/config|address|listen)\.|core/eas/message\.h' 'core/feed'
rule '^core/admin/' '(core/base|core/admin|store)/|core/(config/config|address|listen|version)\.|core/access/credentials\.h|core/feed/lmtp\.h|core/eas/' 'core/admin'
rule '^core/config/' '(core/base|core/config)/|core/address\.' 'core/config'
rule '^core/shard/' '(core/base|core/shard|core/push|core/access|core/eas|io|store)/|core/(config/config|work|address|server/server|server/listeners|upgrade/handover_state|admin/admin)\.h' 'core/shard'
rule '^core/upgrade/' '(core/base|core/upgrade|io|store)/|core/(config/config|version|push/presence|access/credentials|shard/shard|server/server)\.h' 'core/upgrade'
rule '^bench/' '(core/base|bench|io|store)/|core/(version|config/config|address)\.h|core/eas/(wbxml|query|message|eas|gzip)\.h|core/access/credentials\.h' 'bench (public headers only)'

# One library, one door.
only() { # header-regex allowed-file-regex name
	hits=$(git ls-files core io store bench | grep -E '\.[ch]$' | grep -vE "$2" |
		xargs -r grep -HnE "^#include <$1")
	if [ -n "$hits" ]; then
		printf '%s is included outside its one place:\n%s\n' "$3" "$hits"
		bad=1
	fi
}
only 'liburing' '^io/(ring|loop)\.[ch]$' liburing
only 'wolfssl/' '^io/(tls[a-z_]*|tlsrec)\.[ch]$' wolfSSL
only 'lmdb' '^store/db_priv\.h$' LMDB
only 'gmime' '^core/eas/message' GMime
only 'confuse' '^core/config/config_file\.c$' libconfuse
only 'gumbo' '^core/eas/html_text\.c$' gumbo

# Private headers stay in their folder.
hits=$(git ls-files core io store bench | grep -E '\.[ch]$' | while read -r f; do
	grep -HnE '^#include "[^"]*_priv\.h"' "$f" | while IFS= read -r l; do
		h=$(printf '%s' "$l" | sed -E 's/.*"([^"]*)".*/\1/')
		[ "$(dirname "$h")" = "$(dirname "$f")" ] || echo "$l"
	done
done)
[ -n "$hits" ] && { printf 'private headers used from outside:\n%s\n' "$hits"; bad=1; }

# Python looks beside a script first, for the modules of its own library too.
hits=$(git ls-files 'tests/e2e/*.py' | while read -r f; do
	python3 -c 'import sys; sys.exit(sys.argv[1] in sys.stdlib_module_names)' "$(basename "$f" .py)" || echo "$f"
done)
[ -n "$hits" ] && { printf "named as one of Python's own modules:\n%s\n" "$hits"; bad=1; }

# Every source says its licence.
hits=$(git ls-files '*.c' '*.h' '*.sh' '*.py' '*.def' Makefile | while read -r f; do
	head -n 3 "$f" | grep -q 'SPDX-License-Identifier: GPL-3.0-or-later' || echo "$f"
done)
[ -n "$hits" ] && { printf 'no SPDX line:\n%s\n' "$hits"; bad=1; }

[ $bad = 0 ] && echo "layers: good"
exit $bad
