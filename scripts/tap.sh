#!/usr/bin/env bash
# Owns: the persistent TAP device between ANP (one end) and the kernel (the other), and NAT for it where asked for.
# What it changed is written on the device itself (its alias), so `down` undoes exactly that, in any network namespace,
# without a state file. Knows nothing of the library: the defaults below are the ones libanp.so has for ANP_TAP and ANP_ADDR.
set -euo pipefail

readonly self=${0##*/}
readonly library_default=198.18.0.4
name=anp0
address= # 198.18.N.5/24 for anpN
stack=
mtu=1500
queue_length=5000 # frames: with TCP windows of some megabytes the usual 1000 overflow
owner=
nat=

usage() {
  cat <<END
usage: $self up [options]     make the TAP device, or bring an existing one to these settings
       $self down [--name N]  remove it and whatever 'up' changed for it
       $self status [--name N]

A TAP device is a network cable between the kernel and a program: 'up' gives the kernel's end an address, a program
under libanp.so is the other end. Needs root (or CAP_NET_ADMIN). Programs find the device through ANP_TAP, their own
address through ANP_ADDR; with the defaults neither is needed.

options of up
  --owner USER      who may use the device besides root, by name or number (default: you, also through sudo)
  --nat IFACE       let the stack reach what IFACE reaches: masquerading (iptables or nftables) and forwarding
                    between the two interfaces
  --name NAME       device                               (default $name)
  --address A/LEN   the kernel's address on it           (default 198.18.0.5/24; 198.18.N.5/24 for anpN)
  --stack A         the address meant for the stack      (default: 198.18.0.4, or what stands before --address)
  --mtu N           bytes, 68 to 65521                   (default $mtu)
  --txqueuelen N    frames that wait for the program     (default $queue_length)

exit codes: 0 done (status: the device is there), 1 failed, 2 wrong usage, 3 status: no such device
END
}

fail() { printf '%s: %s\n' "$self" "$*" >&2; exit 1; }
wrong() { printf '%s: %s (see %s --help)\n' "$self" "$*" "$self" >&2; exit 2; }
say() { printf '%s: %s\n' "$self" "$*"; }

# --- addresses ---------------------------------------------------------------------------------------------------

is_address() {
  local part
  [[ $1 =~ ^([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})$ ]] || return 1
  for part in "${BASH_REMATCH[@]:1}"; do ((10#$part <= 255)) || return 1; done
}
to_number() { local IFS=. a; read -ra a <<<"$1"; echo $(((a[0] << 24) | (a[1] << 16) | (a[2] << 8) | a[3])); }
to_address() { echo "$(($1 >> 24 & 255)).$(($1 >> 16 & 255)).$(($1 >> 8 & 255)).$(($1 & 255))"; }
mask_of() { echo $((0xffffffff << (32 - $1) & 0xffffffff)); }

check_addresses() {
  if [[ -z $address ]]; then
    local number=0
    [[ $name =~ ^anp([0-9]{1,3})$ ]] && number=$((10#${BASH_REMATCH[1]} & 255))
    address=198.18.$number.5/24
  fi
  local host=${address%/*} length=${address#*/}
  is_address "$host" && [[ $address == */* && $length =~ ^[0-9]+$ ]] && ((length >= 8 && length <= 30)) ||
    wrong "--address takes an IPv4 address and a prefix length from 8 to 30, such as 198.18.0.5/24, not '$address'"
  local mask; mask=$(mask_of "$length")
  network=$(($(to_number "$host") & mask))
  if [[ -z $stack ]]; then
    stack=$library_default
    (($(to_number "$stack") != $(to_number "$host") && ($(to_number "$stack") & mask) == network)) ||
      stack=$(to_address $(($(to_number "$host") - 1)))
  fi
  is_address "$stack" || wrong "--stack takes an IPv4 address, such as $library_default, not '$stack'"
  (($(to_number "$stack") != $(to_number "$host"))) || wrong "the kernel and the stack need different addresses, both are $host"
  ((($(to_number "$stack") & mask) == network)) || wrong "--stack $stack is not in the network of --address $address"
  local edge
  for edge in "$host" "$stack"; do
    (($(to_number "$edge") != network && $(to_number "$edge") != (network | (~mask & 0xffffffff)))) ||
      wrong "$edge is the network's own or broadcast address in $address"
  done
}

# --- the device --------------------------------------------------------------------------------------------------

exists() { ip link show dev "$name" >/dev/null 2>&1; }
# What `ip` prints about the device in one line, such as "... tun type tap pi off vnet_hdr on multi_queue ... persist on".
# (Not /sys/class/net: after a bare unshare --net that still shows the other namespace.)
details() { ip -details -oneline link show dev "$name" 2>/dev/null | tr '\134' ' '; }
has() { [[ " $(details) " == *" $1 "* ]]; }
field() { [[ " $(details) " =~ \ $1\ ([^ ]+) ]] && echo "${BASH_REMATCH[1]}" || true; }

# The alias holds "anp stack=A/LEN" and, with NAT, "nat=IFACE tool=iptables|nft forward=0|1" (what IFACE had before).
alias_of() { ip link show dev "$1" 2>/dev/null | sed -n 's/^ *alias anp /anp /p'; }
note() { local word; for word in $(alias_of "$1"); do [[ $word == "$2="* ]] && echo "${word#*=}"; done; return 0; }
our_devices() { ip -oneline link show | grep -oP '^\d+: \K[^:@]+(?=.*\balias anp )' || true; }

need_rights() {
  command -v ip >/dev/null || fail "'ip' is missing: install iproute2"
  local effective
  effective=$(sed -n 's/^CapEff:\s*//p' /proc/self/status)
  ((16#$effective & 1 << 12)) || fail "this needs root or CAP_NET_ADMIN: try 'sudo $0 ${arguments[*]}'" \
    $'\n'"        (no root at all? 'anp run -- program' makes a namespace of its own where none is needed)"
  [[ -e /dev/net/tun ]] || fail "there is no /dev/net/tun: load the module ('modprobe tun'), or give the container the device"
}

make_device() {
  if ! exists; then
    # The flags are part of the device: a program that opens it with others gets EINVAL.
    ip tuntap add dev "$name" mode tap multi_queue vnet_hdr user "${owner:-${SUDO_USER:-$(id -un)}}" ||
      fail "cannot make the TAP device $name"
    made=yes
    return
  fi
  has "type tap" && has "vnet_hdr on" && has multi_queue && has "pi off" && has "persist on" ||
    fail "$name exists and is not a persistent TAP device with the flags multi_queue and vnet_hdr; remove it or choose another --name"
  local now; now=$(field user)
  if [[ -n $owner && $now != "$owner" && $now != "$(id -un -- "$owner" 2>/dev/null)" ]]; then
    fail "$name exists and belongs to ${now:-anybody}: run '$self down --name $name' first"
  fi
}

set_addresses() {
  local old
  for old in $(ip -4 -oneline address show dev "$name" | grep -oP 'inet \K\S+' || true); do
    [[ $old == "$address" ]] || ip address delete "$old" dev "$name"
  done
  ip -4 -oneline address show dev "$name" | grep -q "inet $address " || ip address add "$address" dev "$name"
}

# --- NAT ---------------------------------------------------------------------------------------------------------

# Forwarding is switched per interface, not by net.ipv4.ip_forward: writing that one resets every interface's own
# setting, which nobody could undo exactly.
forwarding_of() { echo "/proc/sys/net/ipv4/conf/$1/forwarding"; }

iptables_rules() { # iptables_rules -A|-D
  local insert=$1; [[ $1 == -A ]] && insert=-I
  local mark=(-m comment --comment "anp:$name")
  iptables -w -t nat "$1" POSTROUTING -s "$subnet" -o "$nat" "${mark[@]}" -j MASQUERADE &&
    iptables -w "$insert" FORWARD -i "$name" -o "$nat" "${mark[@]}" -j ACCEPT &&
    iptables -w "$insert" FORWARD -i "$nat" -o "$name" "${mark[@]}" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
}
nft_table() { echo "anp_${name//[.-]/_}"; }
nft_rules() {
  nft -f - <<END
table ip $(nft_table)
delete table ip $(nft_table)
table ip $(nft_table) {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname "$nat" ip saddr $subnet masquerade
  }
}
END
}

nat_up() {
  ip link show dev "$nat" >/dev/null 2>&1 || fail "--nat: there is no interface '$nat' (ip link shows what there is)"
  [[ $nat != "$name" ]] || wrong "--nat takes the interface to go out by, not the TAP device itself"
  local tool=
  # iptables first: where a firewall keeps a FORWARD chain that drops (Docker does), only a rule in there lets us pass.
  if command -v iptables >/dev/null && iptables_rules -A 2>/dev/null; then
    tool=iptables
  else
    command -v iptables >/dev/null && { while iptables_rules -D; do :; done; } 2>/dev/null
    command -v nft >/dev/null || fail "--nat needs iptables or nft: install nftables"
    nft_rules || fail "nft refused the masquerading rule (above)"
    tool=nft
  fi
  # Another of our devices that goes out by the same interface already knows what it was set to at first.
  local before other
  before=$(<"$(forwarding_of "$nat")")
  for other in $(our_devices); do
    [[ $(note "$other" nat) == "$nat" ]] && before=$(note "$other" forward)
  done
  ip link set dev "$name" alias "anp stack=$stack/${address#*/} nat=$nat tool=$tool forward=$before"
  echo 1 >"$(forwarding_of "$name")"
  echo 1 >"$(forwarding_of "$nat")"
}

nat_down() {
  nat=$(note "$name" nat)
  [[ -n $nat ]] || return 0
  local stack_now tool before other
  stack_now=$(note "$name" stack)
  tool=$(note "$name" tool)
  before=$(note "$name" forward)
  network=$(($(to_number "${stack_now%/*}") & $(mask_of "${stack_now#*/}")))
  subnet=$(to_address "$network")/${stack_now#*/}
  case $tool in
    iptables) iptables_rules -D || say "some of the iptables rules marked anp:$name were gone already" ;;
    nft) nft delete table ip "$(nft_table)" 2>/dev/null || say "the nftables table $(nft_table) was gone already" ;;
  esac
  cat "$(forwarding_of default)" >"$(forwarding_of "$name")"
  for other in $(our_devices); do
    [[ $other != "$name" && $(note "$other" nat) == "$nat" ]] && return 0
  done
  [[ ! -e $(forwarding_of "$nat") ]] || echo "$before" >"$(forwarding_of "$nat")"
}

# --- commands ----------------------------------------------------------------------------------------------------

up() {
  check_addresses
  [[ $mtu =~ ^[0-9]+$ ]] && ((mtu >= 68 && mtu <= 65521)) || wrong "--mtu takes a number of bytes from 68 to 65521, not '$mtu'"
  [[ $queue_length =~ ^[0-9]+$ ]] && ((queue_length > 0)) || wrong "--txqueuelen takes a number of frames, not '$queue_length'"
  [[ -z $owner || $owner =~ ^[0-9]+$ ]] || id -u -- "$owner" >/dev/null 2>&1 || wrong "--owner: there is no user '$owner'"
  need_rights
  subnet=$(to_address "$network")/${address#*/}
  made=
  make_device
  # From here on a failure must not leave half a device behind.
  trap '[[ -z $made ]] || { nat_down; ip link delete dev "$name"; } >/dev/null 2>&1 || true' EXIT
  nat_wanted=$nat
  nat_down
  nat=$nat_wanted
  ip link set dev "$name" alias "anp stack=$stack/${address#*/}"
  set_addresses
  ip link set dev "$name" mtu "$mtu" txqueuelen "$queue_length" up
  [[ -z $nat ]] || nat_up
  trap - EXIT
  status
  local settings=
  [[ $name == anp0 ]] || settings="ANP_TAP=$name"
  [[ $stack/${address#*/} == "$library_default/24" ]] || settings+="${settings:+ }ANP_ADDR=$stack/${address#*/}"
  [[ -z $settings ]] || say "programs under libanp.so need: export $settings"
}

down() {
  if ! exists; then
    say "$name is not there: nothing to do"
    return 0
  fi
  need_rights
  has "type tap" || fail "$name is not a TAP device: left alone"
  [[ -n $(alias_of "$name") ]] || fail "$name was not made by '$self up': left alone (ip link delete dev $name removes it)"
  nat_down
  ip link delete dev "$name" || fail "cannot remove $name"
  say "$name removed"
}

status() {
  if ! exists; then
    say "$name is not there ('$self up' makes it)"
    return 3
  fi
  has "type tap" || fail "$name is not a TAP device"
  local user host stack_now via missing=
  user=$(field user)
  host=$(ip -4 -oneline address show dev "$name" | grep -oP 'inet \K\S+' | head -n 1 || true)
  stack_now=$(note "$name" stack)
  via=$(note "$name" nat)
  has "vnet_hdr on" && has multi_queue && has "pi off" || missing=", WRONG FLAGS for ANP (needs multi_queue vnet_hdr)"
  local state=down use=free
  [[ $(details) == *[\<,]UP[,\>]* ]] && state=up
  (($(field numqueues) > 0)) && use="in use"
  say "$name $state, $use: kernel ${host:-no address}, stack ${stack_now:-unknown}, mtu $(field mtu)," \
    "txqueuelen $(field qlen), owner ${user:-anybody}${via:+, NAT by $via}$missing"
}

arguments=("$@")
command=${1:-}
[[ $# -eq 0 ]] || shift
case $command in
  up | down | status) ;;
  -h | --help | help) usage; exit 0 ;;
  '') usage >&2; exit 2 ;;
  *) wrong "unknown command '$command'" ;;
esac
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
    --owner | --nat | --name | --address | --stack | --mtu | --txqueuelen)
      (($# > 1)) || wrong "$1 needs a value"
      [[ $command == up || $1 == --name ]] || wrong "$1 belongs to 'up', not to '$command'"
      case $1 in
        --owner) owner=$2 ;;
        --nat) nat=$2 ;;
        --name) name=$2 ;;
        --address) address=$2 ;;
        --stack) stack=$2 ;;
        --mtu) mtu=$2 ;;
        --txqueuelen) queue_length=$2 ;;
      esac
      shift 2
      ;;
    *) wrong "unknown option '$1'" ;;
  esac
done
[[ $name =~ ^[A-Za-z0-9_.-]{1,15}$ && $name != . && $name != .. ]] ||
  wrong "--name takes up to 15 letters, digits, '.', '_' and '-', not '$name'"
"$command"
