#!/usr/bin/env bash
# Owns: the tests of build/anp and scripts/tap.sh: devices, namespaces, rights, NAT, exit codes and signals. What programs do
# on the stack is scripts/run-tests.sh's business.
# usage: test-launcher.sh [NAME ...]   (root; everything happens in a network and mount namespace of its own)
# Prints "N passed, N failed" last.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
if [[ ${1-} != --inside ]]; then
  ((EUID == 0)) || { echo "test-launcher: needs root" >&2; exit 1; }
  exec unshare --net --mount --pid --fork --mount-proc "$0" --inside "$@"
fi
shift

passed=0
failed=0
chosen=("$@")
work=$(mktemp -d)
chmod 755 "$work"
trap 'umount /dev/net/tun 2>/dev/null; umount --recursive --lazy "$work"; rmdir "$work"' EXIT
mount -t tmpfs -o mode=755 none "$work"
# Here anybody may open it, as on an ordinary Debian; elsewhere it may be root's only.
mknod "$work/tun" c 10 200
chmod 666 "$work/tun"
mount --bind "$work/tun" /dev/net/tun
# An installation that other users can read, wherever this tree lies.
make -s -C "$here" install PREFIX="$work/usr" >/dev/null || { echo "test-launcher: make install failed" >&2; exit 1; }
anp=$work/usr/bin/anp
tap=$here/scripts/tap.sh
unprivileged=(setpriv --reuid 4711 --regid 4711 --clear-groups --inh-caps=-all)
cd /

# t NAME: runs the function test_NAME, in a subshell that ends at the first `must` that does not hold.
t() {
  local name=$1
  if ((${#chosen[@]})) && [[ " ${chosen[*]} " != *" $name "* ]]; then return; fi
  if (set -e; "test_$name") >"$work/log" 2>&1; then
    echo "ok    ${name//_/ }"
    passed=$((passed + 1))
  else
    echo "FAIL  ${name//_/ }"
    sed 's/^/        /' "$work/log"
    failed=$((failed + 1))
  fi
  "$tap" down >/dev/null 2>&1
  if [[ -n $(tap_devices) ]]; then
    echo "FAIL  ${name//_/ }: left behind: $(tap_devices)"
    failed=$((failed + 1))
    local device
    for device in $(tap_devices); do ip link delete "$device"; done
  fi
}
tap_devices() { ip -oneline link show | grep -oP '^\d+: \Kanp[^:@]*' || true; }
must() { "$@" && return; echo "does not hold: $*"; exit 1; }
same() { [[ $1 == "$2" ]] && return; printf 'expected: %s\ngot:      %s\n' "$2" "$1"; exit 1; }
contains() { [[ $1 == *"$2"* ]] && return; printf 'expected to hold: %s\ngot: %s\n' "$2" "$1"; exit 1; }
# ends STATUS COMMAND...: the command's status and its output in $output
ends() {
  local expected=$1 status=0
  shift
  output=$("$@" 2>&1) || status=$?
  [[ $status == "$expected" ]] && return
  printf '%s\nended with %s instead of %s: %s\n' "$output" "$status" "$expected" "$*"
  exit 1
}
soon() { # soon COMMAND...: holds within two seconds
  for _ in {1..100}; do "$@" && return; sleep 0.02; done
  echo "never came true: $*"
  exit 1
}
absent() { [[ -z $(tap_devices) ]]; }

# --- anp run: the cable ---

test_run_makes_a_device_and_removes_it() {
  ends 0 "$anp" run -- ip -details -oneline link show anp0
  contains "$output" "multi_queue"
  contains "$output" "vnet_hdr on"
  contains "$output" "persist off"
  contains "$output" "qlen 5000"
  must absent
}
test_run_says_addresses_in_variables() {
  ends 0 "$anp" run --processes 2 -- sh -c 'echo $ANP_TAP $ANP_ADDR; ip -4 -o address'
  contains "$output" "anp0,anp1 198.18.0.4/24;198.18.1.4/24"
  contains "$output" "inet 198.18.0.5/24"
  contains "$output" "inet 198.18.1.5/24"
}
test_run_passes_options_on_as_variables() {
  ends 0 "$anp" run --processes 1 --addr 198.18.7.9/28 --gateway 198.18.7.2 --dns 198.18.7.2:5353 --mtu 9000 --debug tcp:trace --log /l --pcap /p --stats --take 10.0.0.0/8 \
    --take 11.0.0.0/8 --bypass 12.0.0.0/8 --fallback -- sh -c 'env; ip address show anp0'
  local setting
  for setting in ANP_ADDR=198.18.7.9/28 ANP_GATEWAY=198.18.7.2 198.18.7.2/28 ANP_DNS=198.18.7.2:5353 ANP_MTU=9000 ANP_DEBUG=tcp:trace ANP_LOG=/l ANP_PCAP=/p \
    ANP_STATS=1 ANP_TAKE=10.0.0.0/8,11.0.0.0/8 ANP_BYPASS=12.0.0.0/8 ANP_FALLBACK=kernel "mtu 9000"; do
    contains "$output" "$setting"
  done
}
test_option_wins_over_variable() {
  ANP_ADDR=198.18.3.4/24 ANP_DEBUG=arp ends 0 "$anp" run --processes 1 -- sh -c 'echo $ANP_ADDR $ANP_DEBUG'
  same "$output" "198.18.3.4/24 arp"
  ANP_ADDR=198.18.3.4/24 ends 0 "$anp" run --processes 1 --addr 198.18.8.4/24 -- sh -c 'echo $ANP_ADDR'
  same "$output" "198.18.8.4/24"
}
test_addresses_of_several_devices() {
  ends 0 "$anp" run --processes 1 --addr '198.18.6.4/24,198.18.6.9/24;198.18.7.4/24' --gateway 198.18.6.1,2001:db8::1 -- \
    sh -c 'echo $ANP_TAP $ANP_ADDR $ANP_GATEWAY; ip -4 -o address'
  contains "$output" "anp0,anp1 198.18.6.4/24,198.18.6.9/24;198.18.7.4/24 198.18.6.1,2001:db8::1"
  contains "$output" "inet 198.18.6.1/24"
  contains "$output" "inet 198.18.7.5/24"
  ends 0 "$anp" run --processes 1 --addr dhcp -- sh -c 'echo $ANP_ADDR; ip -4 -o address'
  contains "$output" "dhcp"
  contains "$output" "inet 198.18.0.5/24"
}
test_run_with_a_leased_address() {
  # A user's runtime directory, where the lease is kept.
  local -x XDG_RUNTIME_DIR=$work/runtime
  mkdir -m 700 "$XDG_RUNTIME_DIR"
  local dhcp="exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=anp0 --bind-dynamic --no-ping --user=root
    --dhcp-range=198.18.0.50,198.18.0.50,1h --dhcp-leasefile=$work/leases --pid-file=$work/dnsmasq.pid"
  ends 0 "$anp" run --processes 1 --addr dhcp --server "$(tr '\n' ' ' <<<"$dhcp")" --server "cd '$work/www' && exec python3 -m http.server 8000" -- \
    curl -sS -w '%{local_ip}' http://198.18.0.5:8000/hello
  contains "$output" "hello"
  contains "$output" "198.18.0.50"
  must grep -q 198.18.0.50 "$work/leases"
  must test -f "$XDG_RUNTIME_DIR/anp/lease-anp0"
}
test_bad_addresses_are_refused() {
  ends 125 "$anp" run --addr 198.18.0.0/24 -- true
  contains "$output" "--addr takes"
  ends 125 "$anp" run --gateway 198.18.0.5,198.18.0.6 -- true
  contains "$output" "--gateway takes"
  ANP_ADDR=nonsense ends 125 "$anp" run -- true
  contains "$output" "ANP_ADDR takes"
  ends 125 "$anp" run --mtu 12 -- true
}
test_two_runs_at_once_get_two_networks() {
  ends 0 "$anp" run -- "$anp" run --tap other -- sh -c 'ip -4 -o address; echo $ANP_TAP'
  contains "$output" "198.18.0.5/24"
  contains "$output" "other"
  "$anp" run --processes 1 -- sleep 1 &
  soon ip link show anp0 >/dev/null
  ends 0 "$anp" run --processes 1 -- sh -c 'echo $ANP_TAP $ANP_ADDR'
  same "$output" "anp1 198.18.1.4/24"
  wait
}
test_run_uses_a_device_that_is_there() {
  "$tap" up --name mine --address 198.18.5.5/24
  ends 0 "$anp" run --tap mine -- sh -c 'echo $ANP_TAP $ANP_ADDR'
  same "$output" "mine 198.18.5.4/24"
  "$tap" up --name anp1
  ends 0 "$anp" run --tap mine,anp1 -- sh -c 'echo $ANP_TAP $ANP_ADDR'
  same "$output" "mine,anp1 198.18.5.4/24;198.18.1.4/24"
  ends 125 "$anp" run --tap mine,anp2 -- true
  contains "$output" "anp2 does not exist"
  "$tap" down --name anp1
  must ip link show mine
  "$tap" down --name mine
}
test_run_refuses_a_device_with_other_flags() {
  ip tuntap add dev anp7 mode tap
  ends 125 "$anp" run --tap anp7 -- true
  contains "$output" "multi_queue"
  ip link delete anp7
}
test_device_outlives_a_killed_launcher_no_longer_than_needed() {
  "$anp" run -- sleep 30 &
  local launcher=$!
  soon ip link show anp0 >/dev/null
  kill -KILL $launcher
  soon absent
  pkill -P 1 -x sleep || true
}

# --- namespaces and rights ---

test_unprivileged_run_has_a_namespace() {
  ends 0 "${unprivileged[@]}" "$anp" run -- sh -c 'id -u; cat /proc/self/uid_map | tr -s " "; ip -4 -o address; grep -E "Cap(Prm|Amb|Inh)" /proc/self/status'
  contains "$output" "4711"
  contains "$output" " 4711 4711 1"
  contains "$output" "198.18.0.5/24"
  contains "$output" $'CapInh:\t0000000000000000'
  contains "$output" $'CapPrm:\t0000000000000000'
  contains "$output" $'CapAmb:\t0000000000000000'
}
test_unprivileged_run_uses_its_own_anp0() {
  "$tap" up --owner 4711
  ends 0 "${unprivileged[@]}" "$anp" run -- sh -c 'echo $ANP_TAP; readlink /proc/self/ns/net'
  same "$output" "anp0"$'\n'"$(readlink /proc/self/ns/net)"
}
test_a_device_of_somebody_else_is_refused() {
  "$tap" up --owner root
  ends 125 "${unprivileged[@]}" "$anp" run --tap anp0 -- true
  contains "$output" "belongs to user 0"
}
test_file_capability_makes_a_device_and_is_not_handed_on() {
  cp "$anp" "$work/usr/bin/capable"
  setcap cap_net_admin+p "$work/usr/bin/capable"
  ends 0 "${unprivileged[@]}" "$work/usr/bin/capable" run -- sh -c 'readlink /proc/self/ns/net; grep -E "Cap(Prm|Inh|Amb)" /proc/self/status; ip link show anp0'
  contains "$output" "$(readlink /proc/self/ns/net)"
  contains "$output" $'CapPrm:\t0000000000000000'
  contains "$output" $'CapInh:\t0000000000000000'
  contains "$output" $'CapAmb:\t0000000000000000'
  rm "$work/usr/bin/capable"
}
test_root_keeps_what_it_had() {
  local before
  before=$(grep ^Cap /proc/self/status)
  ends 0 "$anp" run -- grep ^Cap /proc/self/status
  same "$output" "$before"
}
test_root_without_the_capability_gets_no_more_in_its_namespace() {
  local less=(setpriv "--bounding-set=-net_admin,-sys_admin" --inh-caps=-all)
  local before
  before=$("${less[@]}" grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status)
  ends 0 "${less[@]}" "$anp" run -- grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status
  same "$output" "$before"
}
test_server_runs_on_the_kernels_side() {
  ends 0 "${unprivileged[@]}" "$anp" run --server 'exec python3 -m http.server --bind 198.18.0.5 80' -- \
    python3 -c 'import os; os.environ.pop("LD_PRELOAD"); import subprocess; print(subprocess.run(["curl", "-sI", "http://198.18.0.5/"], capture_output=True, text=True, env=os.environ).stdout)'
  contains "$output" "200 OK"
  must [ -z "$(pgrep -f 'http.server --bind')" ]
}
test_server_ends_also_with_a_program_that_fails_to_start() {
  ends 127 "$anp" run --namespace --server 'exec sleep 77' -- "$work/broken"
  must [ -z "$(pgrep -f 'sleep 77')" ]
}
test_shell_is_the_kernels_side_and_run_inside_uses_its_cable() {
  ends 0 "${unprivileged[@]}" "$anp" shell --processes 2 -- sh -c "echo [\$LD_PRELOAD]; ip link set anp0 mtu 1400 && $anp run -- sh -c 'ip -br link; echo \$LD_PRELOAD \$ANP_TAP'"
  contains "$output" "[]"
  contains "$output" "$work/usr/lib/libanp.so anp0,anp1"
  same "$(grep -c '^anp' <<<"$output")" 2
}

# --- the program's end, and signals ---

test_exit_codes_are_passed_on() {
  ends 0 "$anp" run -- true
  ends 3 "$anp" run -- sh -c 'exit 3'
  ends 127 "$anp" run -- no-such-program
  ends 127 "$anp" run -- /no/such/program
  ends 126 "$anp" run -- /etc/passwd
  ends 126 "$anp" run -- /tmp
  ends 125 "$anp" run
  ends 125 "$anp" run --no-such-option -- true
  ends 125 "$anp" no-such-verb
}
test_options_after_the_program_are_its_own() {
  ends 0 "$anp" run echo --stats --help
  same "$output" "--stats --help"
}
test_dies_by_the_programs_signal() {
  ends 143 "$anp" run -- sh -c 'kill -TERM $$'
  ends 0 python3 -c "
import subprocess, sys
p = subprocess.run(['$anp', 'run', '--', 'sh', '-c', 'kill -SEGV \$\$'])
sys.exit(p.returncode != -11)"
}
test_signals_are_forwarded() {
  "$anp" run -- sh -c 'trap "echo got USR1; exit 9" USR1; echo ready; while :; do sleep 0.05; done' >"$work/out" &
  local launcher=$!
  soon grep -q ready "$work/out"
  kill -USR1 $launcher
  local status=0
  wait $launcher || status=$?
  same "$status" 9
  must grep -q "got USR1" "$work/out"
}
test_terminal_signal_arrives_once() {
  ends 0 python3 - "$anp" <<'END'
import os, pty, sys, time, select
child, master = pty.fork()
if child == 0:
    os.execv(sys.argv[1], [sys.argv[1], "run", "--", "python3", "-c", """
import signal, time
count = 0
def handler(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, handler)
print("ready", flush=True)
end = time.time() + 1
while time.time() < end: time.sleep(0.05)
print("count", count, flush=True)
"""])
text = b""
while b"ready" not in text: text += os.read(master, 1000)
os.write(master, b"\x03")
try:
    while True: text += os.read(master, 1000)
except OSError: pass
os.waitpid(child, 0)
sys.exit(b"count 1" not in text)
END
}
test_stops_and_continues_with_the_program() {
  "$anp" run -- sh -c 'kill -STOP $$; exit 5' &
  local launcher=$!
  soon grep -q '^State:.T' /proc/$launcher/status
  kill -CONT $launcher
  local status=0
  wait $launcher || status=$?
  same "$status" 5
}
test_an_ignored_signal_stays_ignored() {
  # Compared with the same program alone: whoever started this test may have handed on ignored signals of its own.
  local alone
  alone=$(env --ignore-signal=HUP,CHLD grep SigIgn /proc/self/status)
  same $((16#${alone#*:$'\t'} & 16#10001)) $((16#10001))
  ends 0 env --ignore-signal=HUP,CHLD "$anp" run -- grep SigIgn /proc/self/status
  same "$output" "$alone"
  alone=$(grep SigBlk /proc/self/status)
  ends 0 "$anp" run -- grep SigBlk /proc/self/status
  same "$output" "$alone"
}

# --- programs that cannot be preloaded ---

test_static_programs_are_refused() {
  printf 'int main(void) { return 0; }' | cc -static -o "$work/static" -x c -
  ends 126 "$anp" run -- "$work/static"
  contains "$output" "linked statically"
  ends 0 "$anp" run --fallback -- "$work/static"
  printf '#!%s\n' "$work/static" >"$work/script"
  chmod +x "$work/script"
  ends 126 "$anp" run -- "$work/script"
  contains "$output" "$work/static is linked statically"
}
test_go_programs_are_refused() {
  printf 'int main(void) { return 0; }' | cc -o "$work/plain" -x c -
  echo note >"$work/note"
  objcopy --add-section .note.go.buildid="$work/note" "$work/plain" "$work/go"
  ends 126 "$anp" run -- "$work/go"
  contains "$output" "Go program"
  ends 0 "$anp" run -- "$work/plain"
}
test_privileged_programs_are_refused_where_the_loader_is_strict() {
  cp /bin/true "$work/privileged"
  chmod 4755 "$work/privileged"
  "$tap" up --owner 4711
  ends 126 "${unprivileged[@]}" "$anp" run -- "$work/privileged"
  contains "$output" "set-user-ID"
  chmod 755 "$work/privileged"
  setcap cap_net_raw+ep "$work/privileged"
  ends 126 "${unprivileged[@]}" "$anp" run -- "$work/privileged"
  contains "$output" "file capabilities"
  ends 0 "$anp" run -- "$work/privileged" # root: not a gain
  "$tap" down
  # In a user namespace file capabilities have force still, set-id bits that name a user from outside have none.
  ends 126 "${unprivileged[@]}" "$anp" run -- "$work/privileged"
  setcap -r "$work/privileged"
  chmod 4755 "$work/privileged"
  ends 0 "${unprivileged[@]}" "$anp" run -- "$work/privileged"
}
test_preload_is_put_first_and_others_stay() {
  LD_PRELOAD=libc.so.6 ends 0 "$anp" run -- sh -c 'echo $LD_PRELOAD'
  same "$output" "$work/usr/lib/libanp.so libc.so.6"
}

# --- tap.sh, anp tap, doctor ---

test_tap_up_is_idempotent_and_down_too() {
  ends 3 "$tap" status
  ends 0 "$tap" up
  local first
  first=$output
  ends 0 "$tap" up
  same "$output" "$first"
  contains "$output" "kernel 198.18.0.5/24, stack 198.18.0.4/24, mtu 1500, txqueuelen 5000, owner root"
  ends 0 "$tap" status
  ends 0 "$tap" down
  ends 0 "$tap" down
  ends 3 "$tap" status
}
test_tap_settings_change_in_place() {
  "$tap" up
  ends 0 "$tap" up --address 198.18.9.5/16 --stack 198.18.9.77 --mtu 9000
  contains "$output" "kernel 198.18.9.5/16, stack 198.18.9.77/16, mtu 9000"
  contains "$output" "export ANP_ADDR=198.18.9.77/16"
  same "$(ip -4 -oneline address show dev anp0 | wc -l)" 1
}
test_tap_refuses_nonsense() {
  local words
  for words in "--address 1.2.3" "--address 198.18.0.0/24" "--address 198.18.0.255/24" "--stack 198.19.0.1" \
    "--stack 198.18.0.5" "--mtu x" "--owner no-such-user" "--name a/b" "--name" "--what"; do
    # shellcheck disable=SC2086
    ends 2 "$tap" up $words
    must absent
  done
  ends 2 "$tap" sideways
  ends 1 "${unprivileged[@]}" "$tap" up
  contains "$output" "CAP_NET_ADMIN"
}
test_tap_leaves_foreign_devices_alone() {
  ip tuntap add dev anp8 mode tap
  ends 1 "$tap" up --name anp8
  ends 1 "$tap" down --name anp8
  must ip link show anp8
  ip link delete anp8
}
test_tap_nat_is_undone_exactly() {
  ip tuntap add dev out0 mode tap
  ip link set out0 up
  local tool hidden=$work/hidden rules forwarding=/proc/sys/net/ipv4/conf/out0/forwarding
  mkdir "$hidden"
  for tool in nft iptables; do
    command -v $tool >/dev/null || continue
    # nft's turn comes where iptables is missing
    mkdir -p "$hidden/$tool"
    local program
    for program in /usr/bin/* /usr/sbin/*; do
      [[ $tool == nft && ${program##*/} == iptables ]] || ln -sf "$program" "$hidden/$tool/"
    done
    same "$(<$forwarding)" 0
    PATH=$hidden/$tool ends 0 "$tap" up --nat out0
    contains "$output" "NAT by out0"
    rules=$(nft list ruleset 2>&1)
    contains "$rules" masquerade
    same "$(<$forwarding)" 1
    same "$(</proc/sys/net/ipv4/conf/anp0/forwarding)" 1
    same "$(</proc/sys/net/ipv4/ip_forward)" 0
    PATH=$hidden/$tool ends 0 "$tap" up --nat out0
    same "$(nft list ruleset 2>&1 | grep -c masquerade)" 1
    # A second device by the same way out: the first to go must not take forwarding away from it.
    PATH=$hidden/$tool ends 0 "$tap" up --name anp1 --address 198.18.1.5/24 --nat out0
    PATH=$hidden/$tool ends 0 "$tap" down
    same "$(<$forwarding)" 1
    PATH=$hidden/$tool ends 0 "$tap" down --name anp1
    same "$(<$forwarding)" 0
    rules=$(nft list ruleset 2>&1)
    must [ "$(grep -cE 'masquerade|accept$' <<<"$rules")" = 0 ]
    nft flush ruleset
  done
  ip link delete out0
}
# --- with the stack itself ---

test_run_carries_a_program_and_its_children_at_once() {
  ends 0 "${unprivileged[@]}" "$anp" run --processes 3 --server "cd $work/www && exec python3 -m http.server --bind 198.18.0.5 8000" -- \
    sh -c 'for i in 1 2 3; do python3 -c "
import socket, time
s = socket.create_connection((\"198.18.0.5\", 8000), 10)
time.sleep(2)
s.sendall(b\"GET /hello HTTP/1.0\\r\\n\\r\\n\")
print(s.getsockname()[0], s.makefile().read()[-6:])" & done; wait'
  contains "$output" "198.18.0.4 hello"
  contains "$output" "198.18.1.4 hello"
  contains "$output" "198.18.2.4 hello"
}
apart() { [[ $(readlink "/proc/$1/ns/net") != "$(readlink /proc/self/ns/net)" ]]; }
test_nat_takes_the_stack_out() {
  unshare --net sleep 30 &
  local beyond=$!
  soon apart $beyond
  ip link add out0 type veth peer name in0 netns $beyond
  ip address add 198.19.0.1/24 dev out0
  ip link set out0 up
  nsenter --target $beyond --net ip address add 198.19.0.2/24 dev in0
  nsenter --target $beyond --net ip link set in0 up
  nsenter --target $beyond --net python3 -m http.server --bind 198.19.0.2 --directory "$work/www" 8000 >/dev/null 2>&1 &
  local server=$!
  "$tap" up --nat out0
  ends 0 env LD_PRELOAD="$work/usr/lib/libanp.so" curl -s --max-time 5 --retry 20 --retry-connrefused --retry-delay 1 \
    -w '%{local_ip}' http://198.19.0.2:8000/hello
  same "$output" $'hello\n198.18.0.4'
  "$tap" down
  kill $server $beyond
  ip link delete out0
}
test_a_layer_3_device_carries_a_program() {
  local kind
  for kind in "multi_queue vnet_hdr" ""; do
    # shellcheck disable=SC2086
    ip tuntap add dev anp9 mode tun $kind
    ip address add 198.18.9.5/24 dev anp9
    ip link set anp9 up
    head -c 3000000 /dev/urandom >"$work/file"
    python3 -m http.server --directory "$work" --bind 198.18.9.5 8000 &
    server=$!
    ends 0 env LD_PRELOAD="$work/usr/lib/libanp.so" ANP_TAP=anp9 ANP_ADDR=198.18.9.4/24 ANP_PCAP="$work/capture" ANP_STATS="$work/statistics" \
      curl -s --max-time 5 --retry 20 --retry-connrefused --retry-delay 1 -o "$work/copy" http://198.18.9.5:8000/file
    kill $server
    ip link delete anp9
    must cmp "$work/file" "$work/copy"
    must grep -q '^CopyBytesToUser 300[0-9]*$' "$work/statistics"
    contains "$(tcpdump -n -r "$work/capture" 'tcp[tcpflags] & tcp-syn != 0' 2>&1)" "198.18.9.4"
    rm "$work/capture" "$work/statistics"
  done
}
test_several_queues_need_a_device_that_has_them() {
  head -c 3000000 /dev/urandom >"$work/file"
  ip tuntap add dev anp9 mode tun multi_queue vnet_hdr
  ip address add 198.18.9.5/24 dev anp9
  ip link set anp9 up
  python3 -m http.server --directory "$work" --bind 198.18.9.5 8000 &
  server=$!
  ends 0 env LD_PRELOAD="$work/usr/lib/libanp.so" ANP_TAP=anp9 ANP_ADDR=198.18.9.4/24 ANP_QUEUES=4 ANP_STATS="$work/statistics" \
    curl -s --max-time 5 --retry 20 --retry-connrefused --retry-delay 1 -o "$work/copy" http://198.18.9.5:8000/file
  must cmp "$work/file" "$work/copy"
  must grep -q '^CopyBytesToUser 300[0-9]*$' "$work/statistics"
  rm "$work/statistics"
  ip link delete anp9
  ip tuntap add dev anp9 mode tun
  ip address add 198.18.9.5/24 dev anp9
  ip link set anp9 up
  ends 7 env LD_PRELOAD="$work/usr/lib/libanp.so" ANP_TAP=anp9 ANP_ADDR=198.18.9.4/24 ANP_QUEUES=2 curl -sS http://198.18.9.5:8000/
  contains "$output" "anp9 has one queue only"
  contains "$output" "multi_queue"
  ends 7 env LD_PRELOAD="$work/usr/lib/libanp.so" ANP_QUEUES=9 curl -sS http://198.18.9.5:8000/
  contains "$output" "ANP_QUEUES=9 cannot be used: it takes a number of queues from 1 to 8"
  kill $server
  ip link delete anp9
}
test_anp_tap_is_tap_sh() {
  ends 0 "$anp" tap up --mtu 4000
  contains "$output" "mtu 4000"
  ends 0 "$anp" tap down
  ends 2 "$anp" tap sideways
  ends 0 "$anp" tap --help
  contains "$output" "--nat IFACE"
}
test_doctor_tells_what_is_missing() {
  ends 0 "$anp" doctor
  ends 0 "${unprivileged[@]}" "$anp" doctor
  contains "$output" "a namespace of its own"
  # unshare(2) refuses a user namespace below a root directory that is not the mount namespace's own.
  local elsewhere=(chroot --userspec=4711:4711 --groups= "$work/root")
  mkdir "$work/root"
  mount --rbind / "$work/root"
  ends 1 "${elsewhere[@]}" "$anp" doctor
  contains "$output" "max_user_namespaces"
  ends 125 "${elsewhere[@]}" "$anp" run -- true
  contains "$output" "max_user_namespaces"
  umount --recursive --lazy "$work/root"
  local status=0
  chmod 600 "$work/tun"
  (ends 1 "${unprivileged[@]}" "$anp" doctor; contains "$output" "chmod 666") || status=1
  chmod 666 "$work/tun"
  same $status 0
}
test_version_and_help() {
  ends 0 "$anp" --version
  same "$output" "anp $(sed -n 's/.*ANP_VERSION "\(.*\)"/\1/p' "$here/CShim/Support/include/anp_version.h")"
  local verb
  for verb in "" run shell doctor; do
    # shellcheck disable=SC2086
    ends 0 "$anp" $verb --help
    contains "$output" "OVERVIEW"
  done
}

mkdir "$work/www"
echo hello >"$work/www/hello"
printf '#!/no/such/interpreter\n' >"$work/broken"
chmod +x "$work/broken"
for function in $(declare -F | awk '{ print $3 }' | grep ^test_); do t "${function#test_}"; done
echo "$passed passed, $failed failed"
((failed == 0))
