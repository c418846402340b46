#!/bin/sh
# Makes a booted dom0 a Xen control domain: xenstored, xenconsoled, then the lab's agent, with whose
# end dom0 ends. Runs inside the root that dom0-init.sh made.

lab=/run/xenvif-lab
logs=/run/xenvif-logs
tools=$(ls -d /usr/lib/xen-4.*/bin 2>/dev/null | tail -n 1)

step() { echo "lab: step $*"; }

fail() {
  echo "lab: failed: $*"
  exit 1
}

[ -n "$tools" ] || fail 'there are no Xen tools on this machine (xen-utils-4.17)'
# The daemons keep their files where Debian has them; all of it is in memory here.
mkdir -p /run/xen /run/xenstored /run/lock /var/lib/xenstored /var/lib/xen /var/log/xen
grep -q ' dom0$' /etc/hosts 2>/dev/null || echo '127.0.0.1 localhost dom0' >>/etc/hosts

step xenstored
"$tools/oxenstored" --no-fork >"$logs/xenstored.log" 2>&1 &
tries=0
until xenstore-read -s / >/dev/null 2>&1; do
  tries=$((tries + 1))
  kill -0 $! 2>/dev/null || fail 'xenstored ended; see xenstored.log'
  [ "$tries" -lt 200 ] || fail 'xenstored does not answer; see xenstored.log'
  sleep 0.1
done
"$tools/xen-init-dom0" >"$logs/xen-init-dom0.log" 2>&1 ||
  fail 'xen-init-dom0 failed; see xen-init-dom0.log'

step xenconsoled
"$tools/xenconsoled" --log=guest --timestamp=none --log-dir="$logs" \
  --pid-file=/run/xen/xenconsoled.pid || fail 'xenconsoled did not start'

step agent
exec node "$lab/agent/dom0-agent.js"
