#!/usr/bin/env bash
# Owns: the proof that a program which does not use the internet hardly notices libanp.so: it gets no thread, no child, no
# TAP, no descriptor, and its start makes few system calls more. How long it takes is measured by `make bench`.
# usage: start-up.sh [LIBRARY]   (prints "N passed, N failed" last)
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
library=$(realpath "${1:-$here/build/libanp.so}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
verdict() { # verdict STATUS what
  if [[ $1 == 0 ]]; then echo "ok    $2"; passed=$((passed + 1)); else echo "FAIL  $2"; failed=$((failed + 1)); fi
}

cc -O2 -Wall -pthread -o "$work/quiet" "$here/Tests/programs/quiet.c"
cc -shared -fPIC -o "$work/empty.so" -x c /dev/null

# calls LIBRARY: how many system calls /bin/true makes from its start to its end
calls() { strace -f -qq -o "$work/calls" -E LD_PRELOAD="$1" /bin/true && wc -l <"$work/calls"; }
more=$(($(calls "$library") - $(calls "$work/empty.so")))
verdict $((more > 8)) "/bin/true makes $more system calls more than with an empty library (at most 8)"

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
