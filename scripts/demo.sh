#!/usr/bin/env bash
# Owns: the demonstration: an unmodified curl downloads from an unmodified nginx through the stack inside curl, and proof
# that the kernel opened no connection for it. Everything happens in a network namespace that ends with this script, however
# it ends. DEMO_MB: size of the download (default 1024, less where memory is short: it lies there twice).
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
PATH=$PATH:/usr/sbin:/sbin
available=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
megabytes=${DEMO_MB:-$((available > 4096 ? 1024 : available / 4))}

if [[ ${1-} != --inside ]]; then
  case ${1-} in
    '') ;;
    *) echo "usage: demo.sh   (DEMO_MB=1024 is the size of the download)"; [[ $1 == --help ]]; exit ;;
  esac
  # --kill-child and the process namespace: nothing survives this script. Root needs no user namespace.
  own=(--user --map-root-user)
  ((EUID != 0)) || own=()
  exec unshare "${own[@]}" --net --mount --pid --fork --kill-child --mount-proc "$0" --inside
fi

# The work directory is memory of this mount namespace: it goes with it. (Not /tmp: the project may lie there.)
work=$here/build/demo
mkdir -p "$work"
mount -t tmpfs -o mode=755,size=90% none "$work"
cd "$work"

show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
counter() { # counter Tcp ActiveOpens: one number of /proc/net/snmp
  awk -v group="$1:" -v name="$2" '$1 == group && !seen { seen = 1; for (i = 2; i <= NF; i++) at[$i] = i; next }
    $1 == group { print $at[name] }' /proc/self/net/snmp
}

# A program that has ended leaves its connections' last words to its keeper: the device is free when these are said.
settle() {
  for _ in {1..100}; do
    [[ $("$here/scripts/tap.sh" status) != *", free:"* ]] || return 0
    sleep 0.02
  done
}

ip link set lo up
"$here/scripts/tap.sh" up --mtu 1500
[[ -r /dev/net/tun && -w /dev/net/tun ]] || { echo "demo: cannot open /dev/net/tun ('build/anp doctor' says what to do)" >&2; exit 1; }

mkdir www logs
echo "Hello from nginx on the kernel's side." >www/hello.txt
head -c "${megabytes}M" /dev/urandom >www/big.bin
cat >nginx.conf <<END
daemon off;
master_process off;
pid $work/nginx.pid;
error_log $work/logs/error.log;
events { }
http {
  access_log off;
  sendfile on;
  client_body_temp_path $work/logs/body; proxy_temp_path $work/logs/proxy; fastcgi_temp_path $work/logs/fastcgi;
  uwsgi_temp_path $work/logs/uwsgi; scgi_temp_path $work/logs/scgi;
  server { listen 198.18.0.5:8000; root $work/www; }
}
END
nginx -c $work/nginx.conf -p $work 2>logs/start.log &
for _ in {1..100}; do
  grep -q ' 0500...: *\|:1F40 ' /proc/self/net/tcp && break
  kill -0 $! 2>/dev/null || { cat logs/start.log logs/error.log >&2; exit 1; }
  sleep 0.02
done

active_before=$(counter Tcp ActiveOpens)
passive_before=$(counter Tcp PassiveOpens)

show "ANP_DEBUG=arp,tcp LD_PRELOAD=build/libanp.so curl http://198.18.0.5:8000/hello.txt"
ANP_DEBUG=arp,tcp LD_PRELOAD=$here/build/libanp.so curl --fail --silent --show-error http://198.18.0.5:8000/hello.txt 2>&1
settle

show "ANP_STATS=1 LD_PRELOAD=build/libanp.so curl http://198.18.0.5:8000/big.bin -o big.bin"
ANP_STATS=$work/stats LD_PRELOAD=$here/build/libanp.so \
  curl --fail --silent --show-error --output big.bin \
  --write-out '%{size_download} bytes in %{time_total} s (%{speed_download} bytes/s), %{local_ip}:%{local_port} from %{remote_ip}:%{remote_port}\n' \
  http://198.18.0.5:8000/big.bin
settle
cat stats

show "sha256sum www/big.bin big.bin"
sha256sum www/big.bin big.bin
cmp www/big.bin big.bin
rm big.bin

active=$(($(counter Tcp ActiveOpens) - active_before))
passive=$(($(counter Tcp PassiveOpens) - passive_before))
show "grep Tcp: /proc/net/snmp     # the kernel's counters in this namespace, for all programs in it"
echo "connections the kernel accepted, for nginx: $passive"
echo "connections the kernel opened, for curl:    $active"
((active == 0 && passive == 2)) || { echo "demo: FAILED: the kernel carried curl's connection" >&2; exit 1; }

printf '\n%s MB came through the stack inside curl, byte for byte; the kernel opened no connection.\n' "$megabytes"
