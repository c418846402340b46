#!/bin/sh
# Installs the Debian packages that the tests talk to: a compiler and Xen's headers for the golden
# layouts, the stock XenStore tools, tshark and tcpdump, the Python gRPC client, curl, and what network
# namespaces are made and measured with.
set -eu
packages="gcc libc6-dev libxen-dev xenstore-utils tshark tcpdump python3-grpcio python3-protobuf iproute2 iputils-ping iperf3 curl nmap hping3 dnsmasq-base"

missing=""
for package in $packages; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "packages: this is no Debian; install these by hand:$missing" >&2
  exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "packages: run as root to install:$missing" >&2; exit 1; }
  as_root="sudo"
fi
echo "Installing$missing"
log=$(mktemp)
if ! { $as_root apt-get -o DPkg::Lock::Timeout=120 -qq update &&
  # shellcheck disable=SC2086
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq install -y \
    --no-install-recommends $missing; } >"$log" 2>&1; then
  tail -n 5 "$log" >&2
  echo "packages: apt-get could not install$missing" >&2
  exit 1
fi
rm -f "$log"
