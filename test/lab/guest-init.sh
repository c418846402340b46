#!/bin/busybox sh
# A guest's first program: configures eth0 and runs commands that come over its console.
#
# The kernel command line may hold ip=ADDRESS/PREFIX and, for whoever wants to do it by hand,
# lab.netfront=no. The console carries whole lines both ways:
#
#   @ID BASE64      host: run this shell command
#   -ID             host: kill that command
#   %ID o BASE64    guest: a piece of its standard output; with e, of its standard error
#   %ID x CODE N    guest: it ended with this code, after N pieces
#
# ID 0 is a hello, which is answered without running anything.
#
# Any other line, an empty one say, is a person at `xl console`: that gets a shell until it exits.

/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root LD_LIBRARY_PATH=/lib

mkdir -p /proc /sys /dev /tmp /run /root /etc
# Programs look up who they are, or whom they become.
echo 'root:x:0:0:root:/root:/bin/sh' >/etc/passwd
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
# A checkout below /tmp has the guest's programs there, which a mount would hide.
[ -n "$(ls -A /tmp)" ] || mount -t tmpfs tmpfs /tmp
# The console's node may come a moment after init has started.
until [ -c /dev/hvc0 ]; do sleep 0.1; done
exec </dev/hvc0 >/dev/hvc0 2>&1
# From here on the console belongs to the protocol; dmesg still has every message of the kernel.
dmesg -n 1
ip link set lo up

parameter() { sed -n "s/^\(.* \)\?$1=\([^ ]*\).*/\2/p" /proc/cmdline; }

# In the background, as the driver waits for a backend that may not have come yet.
network() {
  while read -r module; do insmod "/modules/$module"; done </modules/order
  until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
  address=$(parameter ip)
  [ -z "$address" ] || ip address add "$address" dev eth0
  ip link set eth0 up
}
hostname "$(parameter lab.name)"
[ "$(parameter lab.netfront)" = no ] || network >/tmp/network.log 2>&1 &

answer() {
  id=$1
  echo "$2" | base64 -d >"/tmp/$id.command"
  setsid sh -c 'echo $$ >"$0.process"; exec sh "$0.command"' "/tmp/$id" \
    </dev/null >"/tmp/$id.o" 2>"/tmp/$id.e"
  code=$?
  # One answer at a time has the console: lines of two would run into each other.
  until mkdir /tmp/console.lock 2>/dev/null; do usleep 20000; done
  pieces=0
  for stream in o e; do
    [ -s "/tmp/$id.$stream" ] || continue
    base64 -w 400 "/tmp/$id.$stream" | sed "s/^/%$id $stream /"
    pieces=$((pieces + ($(stat -c %s "/tmp/$id.$stream") + 299) / 300))
  done
  echo "%$id x $code $pieces"
  rmdir /tmp/console.lock
  rm -f "/tmp/$id.o" "/tmp/$id.e" "/tmp/$id.command" "/tmp/$id.process"
}

[ ! -x /lab-start ] || /lab-start
protocol_mode() { stty -F /dev/hvc0 raw -echo icrnl opost onlcr; }
protocol_mode
# The answer to a hello, before any comes: whoever waits for this guest need not ask first.
echo '%0 x 0 0'
while :; do
  IFS= read -r line || sleep 0.2
  case $line in
    "@0 "*) echo '%0 x 0 0' ;;
    @*)
      request=${line#@}
      answer "${request%% *}" "${request#* }" &
      ;;
    -*) kill -KILL -- "-$(cat "/tmp/${line#-}.process")" 2>/dev/null ;;
    %*) ;;
    *)
      stty -F /dev/hvc0 sane
      echo "A shell in $(hostname); exit gives the console back to the lab."
      setsid -c sh -i </dev/hvc0 >/dev/hvc0 2>&1
      protocol_mode
      ;;
  esac
done
