#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs Debian packages; daemons among them (postfix, for the tests) are not started by that.
set -eu
policy=/usr/sbin/policy-rc.d
made=
log=$(mktemp)
trap 'rm -f "$log"; [ -z "$made" ] || rm -f $policy' EXIT
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' > $policy
	chmod 755 $policy
	made=1
fi
apt-get install -y --no-install-recommends "$@" > "$log" 2>&1 || {
	apt-get update > "$log" 2>&1
	apt-get install -y --no-install-recommends "$@" > "$log" 2>&1
} || { tail -n 20 "$log" >&2; echo "could not install: $*" >&2; exit 1; }
