#!/bin/sh
# Installs what the lab needs: an emulator, Xen's tools, and (unpacked into a cache, never
# installed) Debian's Xen hypervisor and kernel. Safe to run again: when all is there it only looks.
#
#   XENVIF_LAB_CACHE   where the hypervisor and the kernel go (default ~/.cache/xenvif-lab)
#
# What it leaves in the cache, which test/lab/assets.ts reads through the link `current`:
#   xen.elf     the hypervisor, unzipped: QEMU's multiboot loader wants the plain 32-bit ELF
#   vmlinux     the kernel without its xz wrapping, which emulation would take seconds to undo
#   modules/    the kernel modules of the few folders a lab can want
set -eu

cache=${XENVIF_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/xenvif-lab}
xen_package=xen-hypervisor-4.17-amd64
packages='qemu-system-x86 xen-utils-4.17 xenstore-utils busybox-static iproute2 xz-utils
  iperf3 ethtool tcpdump iputils-ping gcc libc6-dev libxen-dev'
export DEBIAN_FRONTEND=noninteractive

fail() {
  echo "lab packages: $*" >&2
  exit 1
}

# apt's own output is shown only when it fails; one line then says which step it was.
quietly() {
  what=$1
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1; then
    rm -f "$log"
  else
    cat "$log" >&2
    rm -f "$log"
    fail "could not $what"
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo DEBIAN_FRONTEND=noninteractive "$@"
  fi
}

is_installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

have_index() {
  [ "$(apt-cache policy linux-image-amd64 2>/dev/null | sed -n 's/.*Candidate: //p')" != '' ] &&
    apt-cache show "$xen_package" >/dev/null 2>&1
}

refresh_index() {
  quietly 'refresh the package lists (is there a network?)' \
    as_root apt-get -o DPkg::Lock::Timeout=120 update
}

# Runs "$@" and, as a package list older than its archive names files that are gone, once more
# after refreshing the lists.
with_fresh_index() {
  what=$1
  shift
  have_index || refresh_index
  if ! "$@" >/dev/null 2>&1; then
    refresh_index
    quietly "$what" "$@"
  fi
}

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
  fail 'this machine has no apt-get: the lab is made of Debian 12 packages'
[ "$(dpkg --print-architecture)" = amd64 ] || fail 'the lab needs an amd64 machine'

missing=
# shellcheck disable=SC2086 # the list is meant to split into words
for package in $packages; do
  is_installed "$package" || missing="$missing $package"
done

if [ -n "$missing" ]; then
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
    fail "installing$missing needs root, and there is no sudo"
  echo "lab packages: installing$missing"
  # shellcheck disable=SC2086 # the list is meant to split into words
  with_fresh_index "install$missing" \
    as_root apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends $missing
fi

if [ -e "$cache/current/complete" ]; then
  exit 0
fi

mkdir -p "$cache" || fail "cannot write to $cache"
build=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$build"' EXIT
trap 'exit 1' INT TERM
# apt's download user cannot enter a private folder, and warns; it then downloads as this user.
cd "$build"

have_index || refresh_index
kernel_package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-\)/\1/p')
[ -n "$kernel_package" ] || fail 'the package lists name no linux-image-*-amd64 (Debian 12 does)'
apt-cache show "$xen_package" >/dev/null 2>&1 ||
  fail "the package lists have no $xen_package (Debian 12 has)"

echo "lab packages: downloading $xen_package and $kernel_package (73 MB)"
with_fresh_index "download $xen_package and $kernel_package (is there a network?)" \
  apt-get download "$xen_package" "$kernel_package"

xen_deb=$(ls xen-hypervisor-*.deb)
kernel_deb=$(ls linux-image-*.deb)
dpkg -x "$xen_deb" xen
mkdir kernel
dpkg --fsys-tarfile "$kernel_deb" | tar -x -C kernel --wildcards \
  './boot/vmlinuz-*' './lib/modules/*/kernel/net/*' './lib/modules/*/kernel/lib/*' \
  './lib/modules/*/kernel/crypto/*' './lib/modules/*/kernel/drivers/xen/*' \
  './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/char/virtio_console.ko' \
  './lib/modules/*/kernel/drivers/net/*.ko' './lib/modules/*/kernel/fs/9p/*' \
  './lib/modules/*/kernel/fs/fscache/*' './lib/modules/*/kernel/fs/netfs/*' \
  './lib/modules/*/kernel/fs/overlayfs/*' || fail "could not unpack $kernel_package"

mkdir ready
gunzip -c xen/boot/xen-4.17-amd64.gz >ready/xen.elf || fail "$xen_package holds no xen-4.17-amd64.gz"
mv kernel/lib/modules/*/kernel ready/modules

# The Linux boot protocol's header says where in vmlinuz the compressed kernel lies: setup_sects at
# 0x1f1, payload_offset and payload_length at 0x248 and 0x24c (Documentation/x86/boot.rst).
vmlinuz=$(ls kernel/boot/vmlinuz-*)
field() { od -An "-j$1" "-N$2" "-tu$2" "$vmlinuz" | tr -d ' '; }
payload=$((($(field 497 1) + 1) * 512 + $(field 584 4)))
tail -c "+$((payload + 1))" "$vmlinuz" | head -c "$(field 588 4)" |
  xz -dc --single-stream >ready/vmlinux || fail "could not unpack the kernel in $vmlinuz"
echo "$xen_deb $kernel_deb" >ready/complete

version=$(echo "$xen_deb $kernel_deb" | cksum | cut -d' ' -f1)
rm -rf "${cache:?}/$version"
mv ready "$cache/$version"
ln -sfn "$version" "$cache/current"
echo "lab packages: ready in $cache"
