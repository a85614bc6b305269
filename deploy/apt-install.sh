#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs Debian packages; daemons among them (postfix, for the tests) are not started by that.
set -eu
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' > $policy
	chmod 755 $policy
	made=1
fi
trap '[ -z "$made" ] || rm -f $policy' EXIT
apt-get install -y --no-install-recommends "$@" > /tmp/roost-apt.log 2>&1 || {
	apt-get update > /tmp/roost-apt.log 2>&1
	apt-get install -y --no-install-recommends "$@" > /tmp/roost-apt.log 2>&1
} || { tail -n 20 /tmp/roost-apt.log >&2; echo "could not install: $*" >&2; exit 1; }
