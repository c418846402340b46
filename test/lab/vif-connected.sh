#!/bin/sh
# The hotplug script of the lab's vifs: xl runs it in dom0 when a backend has shown its face.
#
# It says that the host's side is connected, which backends wait for. Where the backend is the
# kernel's there is a network device too, and it joins the bridge that the vif names.
case $1 in
  online | add)
    bridge=$(xenstore-read "$XENBUS_PATH/bridge" 2>/dev/null)
    if [ -n "$vif" ] && [ -e "/sys/class/net/$vif" ]; then
      [ -z "$bridge" ] || ip link set "$vif" master "$bridge"
      ip link set "$vif" up
    fi
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
    ;;
esac
