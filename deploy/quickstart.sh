#!/bin/sh
# Sets up, and runs the daemon on an emulated Xen with two guests that ping each other. Ctrl-C stops
# it. Arguments go to the daemon.
set -eu
cd "$(dirname "$0")/.."

sh deploy/setup.sh
exec node dist/main.js --xen emulated --log-level warn --welcome "$@"
