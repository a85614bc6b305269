#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# io/build-wolfssl.sh PREFIX - builds a static wolfSSL from the distribution's patched source
# package into PREFIX (include/, lib/libwolfssl.a, stamp).
#
# Why our own build: the distribution's has no AES-NI, no single-precision assembly and keeps
# 60-85 KB per session; the same source with these flags shakes hands in half the time.
#
# Returns at once when PREFIX is up to date. A finished build is also kept in
# ${XDG_CACHE_HOME:-~/.cache}/roost, so that the next clean checkout copies it.
# When the source cannot be had or built, says so in one line, leaves PREFIX without lib/ and
# exits 0: the caller then links the distribution's libwolfssl-dev. Exits 2 on wrong use only.
#
# Needs: dpkg-dev autoconf automake libtool make and a C compiler (CC).
# The system's package lists and sources are read, never written.
set -u

[ $# -eq 1 ] || { echo "usage: $0 PREFIX" >&2; exit 2; }
umask 022
mkdir -p "$(dirname -- "$1")" || exit 2
prefix=$(cd "$(dirname -- "$1")" && pwd)/$(basename -- "$1")
cc=${CC:-cc}
cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/roost

say() { echo "wolfssl: $*"; }
# Nothing built: the one line an operator must see.
fall_back() {
	say "$*; using the distribution's libwolfssl (slower, more memory per handshake)"
	rm -rf "$prefix"
	exit 0
}

arch=$(uname -m)
flags="--enable-static --disable-shared --disable-examples --disable-crypttests --disable-jobserver
	--enable-tls13 --enable-sp=yes,4096 --enable-session-ticket --enable-sni --enable-alpn
	--enable-curve25519 --enable-atomicuser --enable-ocsp --enable-ocspstapling
	--enable-supportedcurves --enable-hkdf --enable-certgen --enable-certext --enable-keygen
	--enable-altcertchains --disable-oldtls --enable-harden --with-pic"
case $arch in
x86_64) flags="$flags --enable-sp-asm --enable-intelasm --enable-aesni" ;;
aarch64) flags="$flags --enable-sp-asm --enable-armasm" ;;
esac
# Without the armasm flags where that assembly does not build.
plain_flags=$(echo $flags | sed 's/--enable-armasm//')
# HAVE_SECRET_CALLBACK: traffic secrets for KeyUpdate. EXTRA_ALERTS: peers learn why. GETRANDOM: no
# /dev/urandom to open per handshake. IP_ALT_NAME: certificates for addresses. configure copies these into options.h.
cflags="-O2 -DHAVE_SECRET_CALLBACK -DWOLFSSL_ALT_NAMES -DWOLFSSL_EXTRA_ALERTS -DWOLFSSL_GETRANDOM"
cflags="$cflags -DWOLFSSL_IP_ALT_NAME" # one line: configure writes it into a Makefile

# A different compiler or glibc must not pick up the cache of another.
release=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")
key=$({ echo $flags; echo "$cflags $arch $release"; "$cc" --version 2>&1 | head -n 1; } |
	sha256sum | cut -c 1-16)

# The version the system's package lists offer: what is built must not be older. Empty when there
# are no lists; then any version will do.
wanted=$(LC_ALL=C apt-cache policy libwolfssl-dev 2>/dev/null |
	sed -n 's/^ *Candidate: //p' | sed 's/+b[0-9]*$//; s/^(none)$//')

recent() { # VERSION: is it at least the wanted one?
	[ -z "$wanted" ] || dpkg --compare-versions "$1" ge "$wanted" 2>/dev/null
}
up_to_date() { # DIR
	[ -f "$1/lib/libwolfssl.a" ] && [ -f "$1/stamp" ] || return 1
	read -r have_key have_version <"$1/stamp"
	[ "$have_key" = "$key" ] && recent "$have_version"
}

up_to_date "$prefix" && exit 0

# Two makes at once in one checkout: the second waits and finds the work done.
exec 9>"$prefix.lock" && flock 9
up_to_date "$prefix" && exit 0

work=
trap 'rm -rf "$work" "$prefix.new.$$"' EXIT
trap 'exit 130' INT TERM

install_tree() { # FROM: copies, then moves into place in one step
	rm -rf "$prefix.new.$$" && cp -a "$1" "$prefix.new.$$" && rm -rf "$prefix" &&
		mv "$prefix.new.$$" "$prefix"
}

from_cache() {
	for dir in "$cache"/wolfssl-*-"$key"; do
		up_to_date "$dir" || continue
		install_tree "$dir" || continue
		say "version $have_version from $dir"
		return 0
	done
	return 1
}
from_cache && exit 0

for tool in apt-get dpkg-source autoreconf libtoolize make "$cc"; do
	command -v "$tool" >/dev/null || fall_back "cannot build: $tool is not installed"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/roost-wolfssl.XXXXXX") || fall_back "no temporary directory"
# apt fetches as its own user, which must be able to get in.
chmod 755 "$work"
mkdir -p "$work/sources.d" "$work/lists/partial" "$work/cache/archives/partial" "$work/src"

# deb-src entries from the system's own deb entries, both formats, keeping mirror and keys.
# Only entries of this release: third parties' sources rarely have source packages.
# Without a security suite among them the mirror's usual one is added.
codename=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}")
: >"$work/all.sources"
for file in /etc/apt/sources.list.d/*.sources; do
	[ -f "$file" ] || continue
	grep -v '^#' "$file"
	echo
done | awk -v RS= -v ORS='\n\n' -v code="$codename" '
	/(^|\n)Enabled:[ \t]*no/ { next }
	code != "" && $0 !~ ("(^|\n)Suites:[^\n]*" code) { next }
	/(^|\n)Types:[^\n]*deb/ {
		sub(/Types:[^\n]*/, "Types: deb-src")
		gsub(/(^|\n)Architectures:[^\n]*/, "")
		print
	}' >"$work/sources.d/a.sources"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
	[ -f "$file" ] || continue
	cat "$file"
	echo
done | awk -v code="$codename" '
	$1 != "deb" { next }
	code != "" && index($0, code) == 0 { next }
	{ $1 = "deb-src"; sub(/arch=[^] ]* */, ""); sub(/\[ *\] */, ""); if (!seen[$0]++) print }' >"$work/sources.d/b.list"
if [ -n "$codename" ] && ! grep -q -- "-security\|/updates" "$work"/sources.d/*; then
	awk -v RS= -v code="$codename" '
		match($0, /URIs:[ \t]*[^ \t\n]*/) {
			uri = substr($0, RSTART, RLENGTH); sub(/URIs:[ \t]*/, "", uri)
			sub(/\/+$/, "", uri)
			signed = ""
			if (match($0, /Signed-By:[ \t]*\/[^ \t\n]*/)) {
				signed = substr($0, RSTART, RLENGTH)
				sub(/Signed-By:[ \t]*/, "", signed)
				signed = "[signed-by=" signed "] "
			}
			if (uri ~ /\/debian$/)
				print "deb-src " signed uri "-security " code "-security main"
			exit
		}' "$work/sources.d/a.sources" >>"$work/sources.d/b.list"
	awk -v code="$codename" '{
			for (i = 2; i <= NF; i++)
				if ($i ~ /^[a-z+]+:/ && $i ~ /\/debian\/*$/) {
					sub(/\/*$/, "", $i)
					opts = ($2 ~ /^\[/) ? $2 " " : ""
					print "deb-src " opts $i "-security " code "-security main"
					exit
				}
		}' "$work/sources.d/b.list" >"$work/security.list"
	cat "$work/security.list" >>"$work/sources.d/b.list"
fi
[ -s "$work/sources.d/a.sources" ] || rm -f "$work/sources.d/a.sources"
[ -s "$work/sources.d/b.list" ] || rm -f "$work/sources.d/b.list"

# Read last, after the system's own settings (proxies stay): no hooks that would touch the
# system's lists, everything written below $work.
cat >"$work/apt.conf" <<CONF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/sources.d";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Acquire::Languages "none";
Acquire::Retries "2";
CONF

log=$work/log
say "fetching the source package"
timeout 300 apt-get -q -c "$work/apt.conf" update >"$log" 2>&1
(cd "$work/src" && timeout 300 apt-get -q -c "$work/apt.conf" source wolfssl) >>"$log" 2>&1
dsc=$(ls "$work"/src/*.dsc 2>/dev/null | head -n 1)
tree=$(ls -d "$work"/src/wolfssl-*/ 2>/dev/null | head -n 1)
if [ -z "$dsc" ] || [ -z "$tree" ]; then
	fall_back "the source package cannot be had ($(grep -m 1 '^[EW]: Failed' "$log" ||
		grep -m 1 '^E: ' "$log" || echo 'no deb entries'))"
fi
version=$(sed -n 's/^Version: //p' "$dsc" | head -n 1)

jobs=$(nproc 2>/dev/null || echo 2)
build() { # FLAGS...
	(
		cd "$tree" && autoreconf -fi &&
			./configure --prefix="$prefix" CC="$cc" CFLAGS="$cflags" "$@" &&
			make -j"$jobs" && make install DESTDIR="$work/dest"
	) >>"$log" 2>&1
}
say "building $version (about 40 s)"
if ! build $flags; then
	if [ "$(echo $flags)" = "$plain_flags" ] || ! { make -C "$tree" distclean >/dev/null 2>&1
		build $plain_flags; }; then
		keep=$prefix.log
		cp "$log" "$keep" 2>/dev/null
		fall_back "the build of $version failed (see $keep)"
	fi
fi

out=$work/out
mkdir -p "$out/lib"
cp -a "$work/dest$prefix/include" "$out/include" &&
	cp "$work/dest$prefix/lib/libwolfssl.a" "$out/lib/" &&
	echo "$key $version" >"$out/stamp" || fall_back "the build of $version is incomplete"

install_tree "$out" || fall_back "cannot write $prefix"
# The cache is a convenience: failing to write it is no failure.
if mkdir -p "$cache" 2>/dev/null && cp -a "$out" "$cache/new.$$" 2>/dev/null; then
	rm -rf "$cache/wolfssl-$version-$key"
	mv "$cache/new.$$" "$cache/wolfssl-$version-$key" 2>/dev/null || rm -rf "$cache/new.$$"
fi
say "version $version is in $prefix"
