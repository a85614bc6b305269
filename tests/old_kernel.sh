#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# tests/old_kernel.sh [pattern] - the test suite on the oldest kernel that is supported, Debian 12's own
# (6.1), in an emulated machine (QEMU, no KVM needed): some forty minutes. The tree is built here, in a
# Debian 12 of its own, and runs there without a network. Needs root: debootstrap, chroot, mount.
# Everything is in DIR (build/old-kernel); what is there already is used again.
set -eu
DIR=${DIR:-build/old-kernel}
MEMORY_MB=${MEMORY_MB:-6144}
DISK_GB=${DISK_GB:-6}
PATIENCE=${PATIENCE:-10} # times as long as a test may take here
LIMIT_S=${LIMIT_S:-7200}

[ "$(id -u)" = 0 ] || { echo "old_kernel: needs root (debootstrap, chroot)" >&2; exit 1; }
mkdir -p "$DIR"
DIR=$(cd "$DIR" && pwd)
root=$DIR/root

# ---- the kernel: its package, unpacked, not installed ----
if [ ! -e "$DIR/kernel/done" ]; then
	package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
	[ -n "$package" ] || { echo "old_kernel: apt knows no linux-image-amd64: run apt-get update" >&2; exit 1; }
	echo "kernel: $package"
	rm -rf "$DIR/kernel" && mkdir -p "$DIR/kernel"
	(cd "$DIR/kernel" && apt-get download "$package" > apt.log 2>&1 && dpkg-deb -x ./*.deb . && rm ./*.deb) ||
		{ cat "$DIR/kernel/apt.log" >&2; exit 1; }
	touch "$DIR/kernel/done"
fi
version=$(ls "$DIR/kernel/lib/modules")
case "$version" in
6.1.*) ;;
*) echo "old_kernel: $version is not 6.1" >&2; exit 1 ;;
esac

# ---- a Debian 12 with what building and the tests need ----
mounted=
unmount() { [ -z "$mounted" ] || umount "$root/proc"; mounted=; }
trap unmount EXIT
if [ ! -e "$DIR/root.done" ]; then
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
	echo "Debian: debootstrap (minutes)"
	rm -rf "$root"
	debootstrap --variant=minbase --include=make,git,iproute2,busybox-static bookworm "$root" "$mirror" \
		> "$DIR/debootstrap.log" 2>&1 || { tail -n 20 "$DIR/debootstrap.log" >&2; exit 1; }
	touch "$DIR/root.done"
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/roost"
git ls-files -z | tar c --null -T - | tar x -C "$root/roost"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/roost
if [ -d "$cache" ]; then # wolfSSL, built before
	mkdir -p "$root/root/.cache"
	cp -a "$cache" "$root/root/.cache/"
fi
mount -t proc proc "$root/proc"
mounted=1
echo "building"
chroot "$root" env HOME=/root make -C /roost -j2 build-tests > "$DIR/make.log" 2>&1 ||
	{ tail -n 20 "$DIR/make.log" >&2; exit 1; }
unmount

# ---- first steps of that machine: the disk's modules, then the tests instead of an init ----
cat > "$root/run-tests" <<E2
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PATIENCE=$PATIENCE
mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp
ip link set lo up; hostname old-kernel
uname -a
ulimit -n 20000
cd /roost && B=build/gcc BIN=bin sh tests/run.sh "${1:-}"
echo "old_kernel: exit \$?"
sync; echo o > /proc/sysrq-trigger; sleep 10
E2
chmod 755 "$root/run-tests"
first=$DIR/first
rm -rf "$first" && mkdir -p "$first/bin" "$first/modules" "$first/dev" "$first/proc" "$first/root"
cp "$root/bin/busybox" "$first/bin/busybox"
ln -s busybox "$first/bin/sh"
depmod -b "$DIR/kernel" "$version"
number=100
for name in virtio_pci virtio_blk ext4 crc32c_generic; do
	modprobe -d "$DIR/kernel" -S "$version" --show-depends $name
done | awk '/^insmod/ && !seen[$2]++ { print $2 }' > "$DIR/modules"
while read -r file; do
	cp "$file" "$first/modules/$number-$(basename "$file")"
	number=$((number + 1))
done < "$DIR/modules"
cat > "$first/init" <<'E2'
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for m in /modules/*; do $b insmod $m; done
$b mount -t ext4 -o rw,noatime /dev/vda /root
$b mount --move /dev /root/dev
$b umount /proc
exec $b switch_root /root /run-tests
E2
chmod 755 "$first/init"
(cd "$first" && find . | cpio -o -H newc --quiet | gzip -1) > "$DIR/first.gz"
rm -f "$DIR/disk"
truncate -s "${DISK_GB}G" "$DIR/disk"
mkfs.ext4 -q -O ^has_journal -d "$root" "$DIR/disk"

echo "running on $version (at most $LIMIT_S s)"
timeout "$LIMIT_S" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "$MEMORY_MB" -nographic -net none \
	-no-reboot -kernel "$DIR/kernel/boot/vmlinuz-$version" -initrd "$DIR/first.gz" \
	-append "console=ttyS0 panic=-1 quiet mitigations=off" \
	-drive "file=$DIR/disk,format=raw,if=virtio,cache=unsafe" < /dev/null | stdbuf -oL tr -d '\r' | tee "$DIR/log"
rm -f "$DIR/disk"
grep -q '^old_kernel: exit 0' "$DIR/log"
