#!/usr/bin/env bash
# Owns: building and running the programs of this folder that test the C files of the shim from within, plain and under the
# sanitizers where these can follow: AddressSanitizer loses track of frames that cancellation unwinds, ThreadSanitizer keeps
# signals to itself for a while, and neither knows a process that shares its memory.
# usage: process_tests.sh [plain|sanitizers|one NAME FLAGS...]     last line: N passed, N failed
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

flags=(-std=gnu17 -O2 -g -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-unused-function
  -Wno-array-bounds -pthread -Wl,-z,now "-I$root/CShim/Support/include" "-I$root/CShim/Interpose")
support=("$root"/CShim/Support/{thread,wait,keeper,fdtable,support}.c)
hooks=("$root"/CShim/Interpose/{signals,process}.c)
renamed=(-DANP_ALLOCATOR_ALWAYS)
for name in malloc free calloc realloc posix_memalign aligned_alloc memalign malloc_usable_size; do
  renamed+=("-D$name=anp_$name")
done

# try NAME FLAGS...: builds NAME.c with the C files it tests, runs it.
try() {
  local name=$1 title="$*"
  shift
  local files=("${support[@]}" "${hooks[@]}")
  if [[ $name == allocator_churn ]]; then
    "${CC:-cc}" "${flags[@]}" "$@" "${renamed[@]}" -c "$root/CShim/Interpose/allocator.c" -o "$work/allocator.o"
    files+=("$work/allocator.o")
  fi
  if "${CC:-cc}" "${flags[@]}" "$@" "$here/$name.c" "${files[@]}" -o "$work/$name" &&
    timeout 60 "$work/$name"; then
    passed=$((passed + 1))
  else
    echo "failed: $title"
    failed=$((failed + 1))
  fi
}

case ${1:-plain} in
  one)
    try "${@:2}"
    ;;
  plain)
    try signals_inside
    try signals_steps
    try process_keeper
    try allocator_churn
    ;;
  sanitizers)
    try signals_inside -fsanitize=address,undefined
    try allocator_churn -fsanitize=address,undefined
    try allocator_churn -fsanitize=thread
    ;;
  *)
    sed -n 's/^# usage: //p' "$0" >&2
    exit 2
    ;;
esac
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
