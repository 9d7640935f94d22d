#!/usr/bin/env bash
# Owns: which checks make up `make test` and its relatives, and the sum at the end: "N passed, N failed" is the last line.
# usage: test.sh quick|all|sanitizers|settings
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here" || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

title() { printf '\n=== %s\n' "$*"; }
# tally WHAT PASSED FAILED [OUTPUT]: adds to the sum; what failed is told again at the end, with the lines of OUTPUT that say so.
tally() {
  passed=$((passed + $2))
  failed=$((failed + $3))
  (($3 > 0)) || return 0
  echo "failed: $1" >>"$work/failures"
  [[ -z ${4-} ]] || grep -aE '\bFAIL|^failed: |✘|error: |SUMMARY: .*Sanitizer' "$4" | sed 's/^/  /' | tail -n 60 >>"$work/failures"
}

# unit NAME ARGUMENTS...: `swift test`, counted from its report; a build that fails is one failure.
unit() {
  local name=$1 report=$work/report
  title "$name"
  shift
  rm -f "$report"*
  swift test --xunit-output "$report.xml" "$@" 2>&1 | tee "$work/output"
  local status=${PIPESTATUS[0]} tests failures
  # A test may hold several <failure>s.
  read -r tests failures < <(cat "$report"*.xml 2>/dev/null | tr '\n' ' ' | sed 's/<testcase/\n&/g' |
    awk '/^<testcase/ { tests++; if (/<failure|<error/) failures++ } END { print tests + 0, failures + 0 }')
  # A crash leaves no report, or one without failures.
  ((status == 0 || failures > 0)) || failures=1
  ((tests >= failures)) || tests=$failures
  tally "$name" $((tests - failures)) "$failures" "$work/output"
}

# counted NAME COMMAND...: a script whose last line is "N passed, N failed".
counted() {
  local name=$1
  title "$name"
  shift
  "$@" 2>&1 | tee "$work/output"
  local status=${PIPESTATUS[0]} ok bad
  read -r ok bad < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p' "$work/output" | tail -n 1)
  if [[ -z ${bad-} ]]; then ok=0 bad=1; fi
  ((status == 0 || bad > 0)) || bad=1
  tally "$name" "$ok" "$bad" "$work/output"
}

# one NAME COMMAND...: counts as one check.
one() {
  local name=$1
  title "$name"
  shift
  "$@" 2>&1 | tee "$work/output"
  if ((PIPESTATUS[0] == 0)); then tally "$name" 1 0; else tally "$name" 0 1 "$work/output"; fi
}

simulate() {
  swift build -c release --product anp-simulate && .build/release/anp-simulate --seeds "$1" && .build/release/anp-simulate --table
}

case ${1-} in
  quick | all)
    if [[ $1 == quick ]]; then seeds=1000; else seeds=20000; fi
    one "make check" make -s check
    unit "unit and simulator tests"
    one "simulator: random transfers over bad networks, throughput" simulate "$seeds"
    counted "signals, keeper, allocator from within" Tests/programs/process_tests.sh plain
    counted "launcher" scripts/test-launcher.sh
    counted "start-up" scripts/start-up.sh
    if [[ $1 == quick ]]; then counted "programs (quick)" scripts/run-tests.sh --quick; else counted "programs" scripts/run-tests.sh; fi
    # A minute and a half less without those that have nothing to do with queues.
    rows=('posix.*' 'curl.*' 'nginx.*' 'redis.*' 'iperf3.*' 'python.*' 'node.*' 'wrk.*' 'dhcp.*' 'traceroute.*' routes)
    if [[ $1 == all ]]; then rows=(); fi
    counted "programs (quick), two queues" scripts/run-tests.sh --quick --with ANP_QUEUES=2 "${rows[@]}"
    ;;
  sanitizers)
    unit "unit and simulator tests under ThreadSanitizer" --sanitize=thread --scratch-path .build-thread
    # No leak check: XCTest leaks, and so does what here lives as long as the process (shard, configuration). Packets and sockets
    # that are not given back are found by the tests themselves (Stack.leakReport).
    ASAN_OPTIONS=detect_leaks=0 unit "unit and simulator tests under AddressSanitizer" --sanitize=address --scratch-path .build-address
    counted "signals and allocator from within, under sanitizers" Tests/programs/process_tests.sh sanitizers
    title "an AddressSanitizer build of the library"
    runtime=$(echo "$(dirname "$(dirname "$(realpath "$(command -v swift)")")")"/lib/clang/*/lib/linux/libclang_rt.asan-"$(uname -m)".so)
    if swift build -c release --traits Embedded --sanitize=address --product anp --scratch-path .build-embedded-address; then
      # Leaks are those of the programs, which leave their memory to the kernel when they end.
      ASAN_OPTIONS=detect_leaks=0 counted "programs under AddressSanitizer" scripts/run-tests.sh --quick \
        --library "$runtime:$here/.build-embedded-address/release/libanp.so" 'curl.*' 'python.*' 'redis.*' 'names.*'
    else
      tally "an AddressSanitizer build of the library" 0 1
    fi
    ;;
  settings)
    for setting in ANP_OFFLOAD=-big-tcp ANP_OFFLOAD=-sg,-zero-copy ANP_OFFLOAD=-tso ANP_OFFLOAD=-gro ANP_OFFLOAD=-csum \
      ANP_OFFLOAD=-all ANP_BUSY_POLL=off ANP_BUSY_POLL=0 ANP_RING=rx:4 ANP_QUEUES=3; do
      counted "programs (quick) with $setting" scripts/run-tests.sh --quick --with "$setting"
    done
    counted "programs (quick), two queues, no offload" scripts/run-tests.sh --quick --with ANP_QUEUES=2 --with ANP_OFFLOAD=-all
    counted "programs (quick), two queues, no busy polling" scripts/run-tests.sh --quick --with ANP_QUEUES=2 --with ANP_BUSY_POLL=off
    ;;
  *)
    echo "usage: test.sh quick|all|sanitizers|settings" >&2
    exit 2
    ;;
esac

[[ ! -e $work/failures ]] || { echo && cat "$work/failures"; }
printf '\n%s passed, %s failed\n' "$passed" "$failed"
((failed == 0))
