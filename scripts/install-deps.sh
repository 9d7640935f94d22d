#!/usr/bin/env bash
# Owns: the one list of what ANP needs from the system, by purpose, and installing what is missing with apt.
# Does nothing, and needs no rights, when all is there.
set -euo pipefail

readonly self=${0##*/}

# purpose, what shows that it is there (a command, or a file with a slash), Debian package
readonly list='
build  cc                             gcc
build  make                           make
build  git                            git
build  /usr/include/sys/capability.h  libcap-dev
build  nm                             binutils
build  /usr/include/ares.h            libc-ares-dev
demo   ip                             iproute2
demo   nginx                          nginx-light
demo   curl                           curl
test   wget                           wget
test   python3                        python3
test   nc                             netcat-openbsd
test   dnsmasq                        dnsmasq-base
test   redis-server                   redis-server
test   redis-cli                      redis-tools
test   iperf3                         iperf3
test   ab                             apache2-utils
test   wrk                            wrk
test   node                           nodejs
test   ping                           iputils-ping
test   arping                         arping
test   traceroute                     traceroute
test   dig                            bind9-dnsutils
test   socat                          socat
test   ncat                           ncat
test   nping                          nmap
test   mtr                            mtr-tiny
test   tcpdump                        tcpdump
test   tshark                         tshark
test   strace                         strace
test   nft                            nftables
test   setpriv                        util-linux
test   setcap                         libcap2-bin
test   shellcheck                     shellcheck
profile perf                          linux-perf
bench  /usr/lib/python3/dist-packages/matplotlib python3-matplotlib
suites /usr/lib/python3.N/test/test_socket.py libpython3.N-testsuite
'

usage() {
  cat <<END
usage: $self [--check] [build] [demo] [test] [bench] [profile] [suites]

Installs what is missing for these purposes (build, demo and test if none is named; demo includes build, test
includes demo, bench, profile and suites all of them) with apt-get, as root or with sudo. --check only lists what is missing (exit code 1 if something is).

The Swift toolchain (6.3 or later, https://www.swift.org/install/linux/) is not in Debian and not installed by this.
END
}

check_only=
purposes=
for word in "$@"; do
  case $word in
    -h | --help) usage; exit 0 ;;
    --check) check_only=yes ;;
    build) purposes+=" build" ;;
    demo) purposes+=" build demo" ;;
    test) purposes+=" build demo test" ;;
    bench) purposes+=" build demo test bench" ;;
    profile) purposes+=" build demo test profile" ;;
    suites) purposes+=" build demo test suites" ;;
    *) echo "$self: unknown word '$word' (see $self --help)" >&2; exit 2 ;;
  esac
done
[[ -n $purposes ]] || purposes=" build demo test"

# Some of these live where a user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# CPython's tests come in a package for each minor version.
minor=$(/usr/bin/python3 -c 'import sys; print(sys.version_info[1])' 2>/dev/null ||
  apt-cache show python3 2>/dev/null | sed -n 's/^Version: 3\.\([0-9]*\).*/\1/p' | head -n 1)
there() { case $1 in /*) [[ -e $1 ]] ;; *) command -v "$1" >/dev/null ;; esac; }

if ! there swift; then
  echo "$self: there is no 'swift' in PATH: install Swift 6.3 or later, https://www.swift.org/install/linux/" >&2
  exit 1
fi

missing=()
while read -r purpose sign package; do
  [[ -n $purpose && " $purposes " == *" $purpose "* ]] || continue
  sign=${sign//3.N/3.$minor} package=${package//3.N/3.$minor}
  there "$sign" || missing+=("$package")
done <<<"$list"
((${#missing[@]})) || exit 0
if [[ -n $check_only ]]; then
  echo "$self: missing: ${missing[*]}" >&2
  exit 1
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "$self: run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "$self: installing ${missing[*]}"
# RUNLEVEL=1: a server package must not start a service on the machine, the tests start their own in namespaces.
install=("${as_root[@]}" env "DEBIAN_FRONTEND=noninteractive" "RUNLEVEL=1" apt-get install -y -q --no-install-recommends "${missing[@]}")
"${install[@]}" >/dev/null 2>&1 || { "${as_root[@]}" apt-get update -q && "${install[@]}"; }
