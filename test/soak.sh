#!/bin/sh
# The long form of what the check shows in short: ten million frames through both halves, fuzzing for
# ten minutes a target, and on real Xen a gigabyte of traffic, 20 reboots, 20 saves and restores and
# 50 attaches. Takes about two hours; figures are printed as they come.
set -eu
cd "$(dirname "$0")/.."

sh deploy/setup.sh
sh test/packages.sh
sh test/lab/packages.sh
export XENVIF_SOAK=1 XENVIF_FUZZ_SECONDS="${XENVIF_FUZZ_SECONDS:-600}"
npx vitest run --project sim --project fuzz --no-file-parallelism
npx vitest run --project lab
