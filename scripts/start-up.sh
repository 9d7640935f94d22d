#!/usr/bin/env bash
# Owns: the proof that a program which does not use the internet hardly notices libanp.so: its start is as fast (within
# 1.3 times an empty library), it gets no thread, no child, no TAP, no descriptor.
# usage: start-up.sh [--quick] [LIBRARY]   (prints "N passed, N failed" last)
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
runs=400
[[ ${1-} != --quick ]] || { runs=100; shift; }
library=$(realpath "${1:-$here/build/libanp.so}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
verdict() { # verdict STATUS what
  if [[ $1 == 0 ]]; then echo "ok    $2"; passed=$((passed + 1)); else echo "FAIL  $2"; failed=$((failed + 1)); fi
}

cc -O2 -Wall -o "$work/startup" "$here/Tests/programs/startup.c"
cc -O2 -Wall -pthread -o "$work/quiet" "$here/Tests/programs/quiet.c"
cc -shared -fPIC -o "$work/empty.so" -x c /dev/null

status=0
line=$("$work/startup" "$work/empty.so" "$library" "$runs" 1.3 /bin/true 2>&1) || status=$?
verdict $status "$line"

"$work/quiet" >"$work/native"
LD_PRELOAD=$library "$work/quiet" >"$work/preloaded" 2>&1 || true
status=0
diff "$work/native" "$work/preloaded" >&2 || status=$?
verdict $status "without an internet socket: no thread, no child, no descriptor more ($(paste -sd' ' "$work/preloaded"))"

# The counter-check: the same look at a program that does use the stack must show it.
"$here/build/anp" run --namespace --library "$library" -- "$work/quiet" internet >"$work/internet" 2>"$work/errors" || true
status=0
grep -q '^threads: 1$' "$work/internet" && status=1
grep -q 'TAP device is open' "$work/internet" || status=1
verdict $status "with one: the stack's thread and its TAP device ($(paste -sd' ' "$work/internet"))"
[[ $status == 0 ]] || cat "$work/errors" >&2

echo "$passed passed, $failed failed"
((failed == 0))
