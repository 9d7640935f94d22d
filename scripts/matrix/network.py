# Owns: the networks a trial runs in. A namespace is a file descriptor of this process and nothing else, so it is gone when
# the process is, however it ends. `isolated` adds a PID namespace for the same reason: no program outlives the judge.
# Knows nothing of rows, programs or the library.

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None, use_errno=True)

HOST = "198.18.0.4"  # the program under test
PEER = "198.18.0.5"  # its peers, always on the kernel's stack
HOST6, PEER6 = "2001:db8::4", "2001:db8::5"  # the same by IPv6
SILENT = "198.19.0.1"  # behind the peer: packets to it vanish
UNREACHABLE = "198.19.1.1"  # behind the peer: ICMP host unreachable
PROHIBITED = "198.19.2.1"  # behind the peer: ICMP communication prohibited
DEVICE = "anp0"


def _check(result, what):
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def unshare(flags):
    _check(libc.unshare(flags), "unshare")


def mount(source, target, kind, flags):
    encode = lambda text: None if text is None else text.encode()
    _check(libc.mount(encode(source), encode(target), encode(kind), ctypes.c_ulong(flags), None), f"mount {target}")


def isolated(scratch, inside):
    """The exit code of `inside`, run in a child process with namespaces of its own. Nothing it starts outlives it.

    Without root a user namespace gives the right to make the others.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        unshare(CLONE_NEWUSER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET)
    child = os.fork()
    if child == 0:
        code = 2
        try:
            _settle(scratch)
            code = inside()
        except SystemExit as exit:
            code = exit.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _settle(scratch):
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A session of its own: a Ctrl-C arrives once, by way of the parent, and ends things in order.
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", 0)
    # Names resolve the same everywhere and at once: the machine's own name from a file, the rest refused on loopback.
    name = socket.gethostname()
    for path, text in (
        ("/etc/hosts", f"127.0.0.1 localhost {name}\n"),
        ("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
    ):
        real = os.path.realpath(path)
        if os.path.exists(real):
            ours = os.path.join(scratch, os.path.basename(path))
            with open(ours, "w") as file:
                file.write(text)
            mount(ours, real, None, MS_BIND)


def with_files(files):
    """A function that gives the process which calls it other files in the place of those of /etc: {path: where it is}.

    For what is started next (subprocess's preexec_fn).
    """

    def replace():
        unshare(CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        for path, ours in files.items():
            mount(ours, os.path.realpath(path), None, MS_BIND)

    return replace


class Namespace:
    """A network namespace. `with namespace:` moves the calling thread into it; programs started there stay there."""

    def __init__(self):
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        unshare(CLONE_NEWNET)
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _check(libc.setns(home, CLONE_NEWNET), "setns")
        os.close(home)
        self._homes = threading.local()
        self.ip("link set lo up")
        # What the distribution or the machine's owner changed must not change what a test sees.
        for name, value in (
            # In a namespace only an algorithm on the machine's allowed list can be the default; reno always is.
            ("ipv4/tcp_congestion_control", "reno"),
            ("ipv4/tcp_rmem", "4096 131072 6291456"),
            ("ipv4/tcp_wmem", "4096 16384 4194304"),
            ("ipv4/ip_forward", "1"),
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv4/ping_group_range", "0 2147483647"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            # Addresses are good at once, and nobody but the peer tells of routes.
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/icmp/ratelimit", "0"),
        ):
            self.sysctl(name, value)

    def sysctl(self, name, value):
        with self:
            try:
                with open(f"/proc/sys/net/{name}", "w") as file:
                    file.write(value)
            except FileNotFoundError:
                pass  # a kernel without IPv6

    def __enter__(self):
        # Each thread has a namespace of its own to come back to.
        stack = self._homes.__dict__.setdefault("stack", [])
        stack.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        _check(libc.setns(self.fd, CLONE_NEWNET), "setns")

    def __exit__(self, *_):
        home = self._homes.stack.pop()
        _check(libc.setns(home, CLONE_NEWNET), "setns")
        os.close(home)

    def ip(self, *commands):
        with self:
            result = subprocess.run(
                ["ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True, capture_output=True
            )
        if result.returncode != 0:
            raise RuntimeError(f"ip: {result.stderr.strip()} in {commands}")

    def read(self, path):
        """A file below /proc/net, as seen from here."""
        with self, open(path.replace("/proc/net/", "/proc/thread-self/net/")) as file:
            return file.read()

    def close(self):
        os.close(self.fd)

    # What the kernel's own stack did here.

    def counters(self, protocol):
        lines = [line.split() for line in self.read("/proc/net/snmp").splitlines() if line.startswith(protocol + ":")]
        return dict(zip(lines[0][1:], map(int, lines[1][1:])))

    def listening(self, port):
        for table in ("tcp", "tcp6"):
            for line in self.read(f"/proc/net/{table}").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":")[-1], 16) == port:
                    return True
        return False

    def sockets(self):
        """inode → description of each kernel socket that has an address and is not on loopback."""
        found = {}
        for table in ("tcp", "tcp6", "udp", "udp6"):
            try:
                text = self.read(f"/proc/net/{table}")
            except FileNotFoundError:
                continue
            for line in text.splitlines()[1:]:
                fields = line.split()
                # Hexadecimal, each 32-bit word in host order: 127.x reads ….7F on little-endian machines.
                local = fields[1].split(":")[0]
                if re.search(r"(^|0000FFFF)......7F$", local):
                    continue
                found[fields[9]] = f"{table} local {fields[1]} remote {fields[2]} state {fields[3]}"
        return found


def _behind_the_peer(peer):
    """What lies behind the peer, for connections that fail in the ways a network can make them fail."""
    peer.ip(
        "route add blackhole 198.19.0.0/24", "route add unreachable 198.19.1.0/24", "route add prohibit 198.19.2.0/24"
    )


def kernel_to_kernel():
    """(program's namespace, peers' namespace): two kernel stacks at the ends of a veth."""
    program, peer = Namespace(), Namespace()
    program.ip(f"link add {DEVICE} type veth peer name {DEVICE} netns /proc/{os.getpid()}/fd/{peer.fd}")
    program.ip(f"addr add {HOST}/24 brd + dev {DEVICE}", f"addr add {HOST6}/64 dev {DEVICE}", f"link set {DEVICE} up")
    peer.ip(f"addr add {PEER}/24 dev {DEVICE}", f"addr add {PEER6}/64 dev {DEVICE}", f"link set {DEVICE} up")
    program.ip(f"route add default via {PEER}", f"route add default via {PEER6}")
    _behind_the_peer(peer)
    return program, peer


def stack_to_kernel(devices=1):
    """The one namespace of a run under the shim: a TAP whose host side is the peers'; the program finds the TAP here too.

    More devices are for children with stacks of their own: anp1 is 198.18.1.5/24, and so on.
    """
    peer = Namespace()
    for i in range(devices):
        peer.ip(
            f"tuntap add dev {device(i)} mode tap multi_queue vnet_hdr",
            f"addr add {PEER if i == 0 else f'198.18.{i}.5'}/24 dev {device(i)}",
            f"addr add {PEER6 if i == 0 else f'2001:db8:0:{i}::5'}/64 dev {device(i)}",
            f"link set {device(i)} txqueuelen 10000 up",
        )
    _behind_the_peer(peer)
    return peer, peer


def device(i):
    return DEVICE if i == 0 else f"anp{i}"


def stack_environment(devices=1):
    """What tells the stack about its devices; the gateway is the default, the host's address on the device."""
    addresses = [HOST] + [f"198.18.{i}.4" for i in range(1, devices)]
    addresses6 = [HOST6] + [f"2001:db8:0:{i}::4" for i in range(1, devices)]
    return {
        "ANP_TAP": ",".join(device(i) for i in range(devices)),
        "ANP_ADDR": ";".join(f"{address}/24" for address in addresses),
        "ANP_ADDR6": ";".join(f"{address}/64" for address in addresses6),
    }
