#!/bin/sh
# Installs what the project needs from npm, builds it, and runs the daemon on an emulated Xen with
# two guests that ping each other. Ctrl-C stops it.
set -eu
cd "$(dirname "$0")/.."

# A lockfile that is older than what it installed says that there is nothing to do.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "Installing..."
  npm ci --no-audit --no-fund --loglevel=error
fi
echo "Building..."
npm run --silent build
exec node dist/main.js --xen emulated --log-level warn --welcome "$@"
