#!/bin/sh
# Installs what the project needs from npm, if that is not done, and builds it.
set -eu
cd "$(dirname "$0")/.."

# A lockfile that is older than what it installed says that there is nothing to do.
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "Installing..."
  npm ci --no-audit --no-fund --loglevel=error
fi
echo "Building..."
npm run --silent build
