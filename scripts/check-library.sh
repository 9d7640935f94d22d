#!/usr/bin/env bash
# Owns: what must hold of the shipped library as a file: what it needs, what it exports, how large it is.
# usage: check-library.sh [LIBRARY]
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")/.." && pwd)
library=${1:-$here/build/libanp.so}
size_limit=1000000 # bytes
failed=0

verdict() { # verdict ok|"" what details
  if [[ -n $1 ]]; then printf 'ok    %s\n' "$2"; else
    printf 'FAIL  %s\n%s\n' "$2" "${3-}"
    failed=$((failed + 1))
  fi
}
indented() { printf '%s\n' "$1" | sed 's/^/        /'; }

[[ -f $library ]] || { echo "check-library: no $library ('make' builds it)" >&2; exit 1; }

size=$(stat -Lc %s "$library")
verdict "$( ((size < size_limit)) && echo ok)" "size: $size bytes, under $size_limit"

needed=$(readelf -dW "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort)
# The loader is a part of libc with a name of its own (thread-local storage asks for it).
more=$(grep -vE '^(libc\.so\.6|ld-linux-[a-z0-9-]+\.so\.[0-9])$' <<<"$needed" || true)
verdict "$([[ -z $more ]] && echo ok)" "needs libc only" "$(indented "$more")"

# The linker lets a shared library lack anything; what nobody has would end the program at the first call of it.
lacking=$(ldd -r "$library" 2>&1 | grep 'undefined symbol' || true)
verdict "$([[ -z $lacking ]] && echo ok)" "lacks nothing when loaded" "$(indented "$lacking")"

# A name that libc (or its loader) does not define would be one of ours leaking into the program.
libc=$(ldconfig -p 2>/dev/null | awk '/libc\.so\.6 .*(x86-64|AArch64)/ && !seen++ { print $NF }')
[[ -n $libc ]] || libc=$(ldd "$(command -v sh)" | awk '/libc\.so\.6/ { print $3 }')
names() { nm -D --defined-only "$1" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u; }
exported=$(names "$library")
foreign=$(comm -23 <(printf '%s\n' "$exported") <(names "$libc"))
verdict "$([[ -z $foreign ]] && echo ok)" "exports libc's names only ($(wc -l <<<"$exported") of them)" "$(indented "$foreign")"

# What must be among them: programs compiled with fortification or large files call the twins. (fork is not: handlers of
# pthread_atfork see also the forks inside libc.)
required='socket connect bind listen accept accept4 send sendto sendmsg recv recvfrom recvmsg read readv write writev close
shutdown getsockopt setsockopt getsockname getpeername poll ppoll select pselect epoll_create epoll_create1 epoll_ctl
epoll_wait epoll_pwait epoll_pwait2 fcntl fcntl64 ioctl dup dup2 dup3 sendfile sendfile64 close_range vfork _exit
sigaction signal sendmmsg recvmmsg __read_chk __recv_chk __recvfrom_chk __poll_chk __ppoll_chk syscall
execve execv execvp execl execlp execle
getifaddrs freeifaddrs if_nameindex if_freenameindex if_nametoindex if_indextoname
getaddrinfo freeaddrinfo getnameinfo gethostbyname gethostbyname2 gethostbyname_r gethostbyname2_r gethostbyaddr
gethostbyaddr_r getaddrinfo_a gai_suspend gai_error gai_cancel res_query res_nquery res_search res_nsearch res_send
res_nsend res_querydomain res_nquerydomain __res_query __res_nquery __res_search __res_nsearch __res_send __res_nsend'
missing=$(comm -23 <(tr -s ' ' '\n' <<<"$required" | sort -u) <(printf '%s\n' "$exported"))
verdict "$([[ -z $missing ]] && echo ok)" "exports all that must be interposed" "$(indented "$missing")"

# No reference is counted anywhere: embedded Swift's run-time functions for that are not even linked in.
symbols=$library
[[ -f $library.debug ]] && symbols=$library.debug
counting=$(nm "$symbols" 2>/dev/null | awk '$3 ~ /^swift_(retain|release|allocObject|bridgeObjectRetain)/ { print $3 }')
seen=$(nm "$symbols" 2>/dev/null | awk '$3 ~ /^anp_entry_send/ { print $3 }')
verdict "$([[ -n $seen && -z $counting ]] && echo ok)" "counts no references, makes no objects" "$(indented "${counting:-no symbols in $symbols}")"

# Executable stacks and writable code are what a preloaded library could bring into somebody else's program.
flags=$(readelf -lW "$library" | awk '$1 == "GNU_STACK" { print $7 } $1 == "LOAD" && $0 ~ /RWE/ { print "RWE" }')
verdict "$([[ $flags == RW ]] && echo ok)" "no executable stack, no writable code" "$(indented "$flags")"

((failed == 0))
