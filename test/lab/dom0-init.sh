#!/bin/busybox sh
# dom0's first program, from its initrd. It puts this machine's own files (read-only, with a scratch
# layer in memory over them) under a root, and hands over to dom0-services.sh inside it.
#
# The host follows the lines that start with "lab: step" and "lab: failed" on the serial console.

/bin/busybox --install -s /bin
export PATH=/bin

step() { echo "lab: step $*"; }

fail() {
  echo "lab: failed: $*"
  sleep 1
  poweroff -f
  sleep 60
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
# Messages of the kernel stay in its own log; on the slow serial line only errors are worth it.
dmesg -n 4

step files
while read -r module; do
  insmod "/modules/$module" || fail "dom0's kernel does not take the module $module"
done </modules/order

mkdir -p /host /scratch /root
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /host ||
  fail 'cannot mount the files of this machine over 9p'
mount -t tmpfs tmpfs /scratch
mkdir /scratch/upper /scratch/work
mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work overlay /root ||
  fail 'cannot lay a scratch layer over the files of this machine'

# Nothing of the host's own /run and /dev may show: its sockets lead nowhere here.
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t tmpfs tmpfs /root/run
mount -t xenfs xenfs /root/proc/xen || fail 'cannot mount xenfs'

# Unlike the root, these two folders of the host are seen as they are at any moment, and written to.
for share in lab logs; do
  mkdir -p "/root/run/xenvif-$share"
  mount -t 9p -o trans=virtio,version=9p2000.L,rw,cache=none,msize=512000 "$share" \
    "/root/run/xenvif-$share" || fail "cannot mount the folder $share of the host over 9p"
done

hostname dom0
ip link set lo up
chroot /root /usr/bin/env -i HOME=/root TERM=linux LANG=C.UTF-8 USER=root \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /bin/sh /run/xenvif-lab/dom0-services.sh
echo 'lab: dom0 ends'
poweroff -f
sleep 60
