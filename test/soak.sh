#!/bin/sh
# The long form of what the check shows in short: ten million frames through both halves, 10,000 vifs
# attached and detached, fuzzing for ten minutes a target, 10,000 conversations of two stacks over bad
# wires, files of 200 MiB between the stack and Linux over HTTP with and without loss, and on real Xen a
# gigabyte of traffic, 20 reboots, 20 saves and restores, 50 attaches, 20 deaths of the daemon, and vchans
# with 256 MiB each way in every shape of ring. Takes more than two hours; figures are printed as they come.
#
#   XENVIF_FUZZ_SECONDS   how long each target is fuzzed (600)
#   XENVIF_STACK_SIMS     how many conversations of stacks there are (10000)
set -eu
cd "$(dirname "$0")/.."

sh deploy/setup.sh
sh test/packages.sh
sh test/lab/packages.sh
export XENVIF_SOAK=1 XENVIF_LONG=1
export XENVIF_FUZZ_SECONDS="${XENVIF_FUZZ_SECONDS:-600}" XENVIF_STACK_SIMS="${XENVIF_STACK_SIMS:-10000}"
npx vitest run --project sim --project fuzz --no-file-parallelism
npx vitest run --project e2e --no-file-parallelism test/e2e/stack-
npx vitest run --project lab
