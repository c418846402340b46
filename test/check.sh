#!/usr/bin/env bash
# Everything that must hold, from a fresh clone on: installs what is missing, lints, builds, checks
# the generated code for drift, and runs the unit, golden, end-to-end, hostile-peer, simulation,
# fuzzing and lab tests. The lab's machine spends much of its time waiting, so other tests run beside
# it, with what it leaves of the processors. A part that cannot run is a failure; single tests that this machine's kernel cannot run
# are said in red. Ends with one line: how many parts passed, how many failed.
set -u
cd "$(dirname "$0")/.."

passed=0
failed=0
names=""
not_run=""
output=$(mktemp)
why=$(mktemp)
lab_output=$(mktemp)
lab_pid=""
trap 'clean_up' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
start=$(date +%s)

# clean_up: ends the lab where it still runs, and its machine with it.
clean_up() {
  [ -z "$lab_pid" ] || kill -TERM -- "-$lab_pid" 2>/dev/null
  rm -f "$output" "$why" "$lab_output" "$lab_output.code"
}

# part NAME COMMAND...: runs a part and keeps account of it.
part() {
  name=$1
  shift
  printf '\n=== %s\n' "$name"
  began=$(date +%s)
  { "$@" 2>&1; echo "$?" >"$output.code"; } | tee "$output"
  code=$(cat "$output.code")
  rm -f "$output.code"
  # What this machine's kernel cannot do is no pass, and is said at the end.
  skipped=$(plain | sed -n 's/^ *Tests .* \([0-9]*\) skipped.*/\1/p')
  [ -z "$skipped" ] || not_run="$not_run $name($skipped)"
  if [ "$code" -eq 0 ]; then
    passed=$((passed + 1))
    printf -- '--- %s: passed in %d s\n' "$name" $(($(date +%s) - began))
    return 0
  fi
  failed=$((failed + 1))
  names="$names $name"
  # What went wrong is far up when the other parts have run: it is said again at the end.
  { printf '\n=== %s, its failures and its end\n' "$name"; reasons; } >>"$why"
  printf -- '--- \033[31m%s: FAILED\033[0m after %d s\n' "$name" $(($(date +%s) - began))
  return 1
}

# plain: what a part has printed, without the colours in the middle of its words.
plain() {
  sed 's/\x1b\[[0-9;]*m//g' "$output"
}

# reasons: the lines of a failed part that tell why, and its last ones.
reasons() {
  plain | grep -aE 'FAILED|FAIL |FATAL ERROR|Error:|smallest case' | head -n 40 | cut -c 1-300
  without_result
  printf '...\n'
  plain | tail -n 40 | cut -c 1-300
}

# without_result: the test files of a part that lost a process. vitest does not say which one was in it.
without_result() {
  plain | grep -aqF 'Worker exited unexpectedly' || return 0
  find "test/$name" -name '*.test.ts' | sort | while read -r file; do
    plain | grep -aqF "$file " || printf 'without a result: %s\n' "$file"
  done
}

# finish: the account, and the exit code.
finish() {
  cat "$why"
  printf '\n'
  if [ -n "$not_run" ]; then
    printf '\033[31mtests not run, for this machine cannot:%s\033[0m\n' "$not_run"
  fi
  if [ "$failed" -ne 0 ]; then printf '\033[31mfailed or not run:%s\033[0m\n' "$names"; fi
  printf 'check took %d s\n%d passed, %d failed\n' $(($(date +%s) - start)) "$passed" "$failed"
  [ "$failed" -eq 0 ]
  exit
}

# The generated code is made again in place; git then says whether it was as committed.
no_drift() {
  npm run --silent generate || return 1
  changed=$(git status --porcelain -- src/gen clients/typescript/src/gen proto)
  [ -z "$changed" ] && return 0
  printf 'the generated code is not what is committed:\n%s\n' "$changed"
  return 1
}

# start_lab: runs the lab in a process group of its own, but in this session: priorities hold within one.
start_lab() {
  set -m
  { npx vitest run --project lab --reporter verbose; echo "$?" >"$lab_output.code"; } >"$lab_output" 2>&1 &
  lab_pid=$!
  set +m
}

# follow_lab: what the lab has printed and prints until it ends.
follow_lab() {
  tail -n +1 -f --pid="$lab_pid" "$lab_output"
  return "$(cat "$lab_output.code" || echo 1)"
}

part packages sh test/packages.sh || finish
part install npm ci --no-audit --no-fund --loglevel=error || finish
part lint npm run --silent lint
part drift no_drift
part build npm run --silent build || finish
part types sh -c 'npx tsc -p test && npx tsc -p clients/typescript/examples && npx tsc -p test/bench && npx tsc -p test/lab'
if part lab-packages sh test/lab/packages.sh; then
  start_lab
else
  failed=$((failed + 1))
  names="$names lab(not-run)"
fi
part unit nice -n 10 npx vitest run --project unit
part golden nice -n 10 npx vitest run --project golden
part e2e nice -n 10 npx vitest run --project e2e
part hostile nice -n 10 npx vitest run --project hostile
part sim nice -n 10 npx vitest run --project sim
# The revision is the seed: what one run of a revision finds, the next run of it finds again.
XENVIF_FUZZ_SEED=$(printf '%d' "0x$(git rev-parse --short=8 HEAD | cut -c1-8)")
export XENVIF_FUZZ_SEED
part fuzz nice -n 10 npx vitest run --project fuzz --maxWorkers 3
[ -z "$lab_pid" ] || part lab follow_lab
finish
