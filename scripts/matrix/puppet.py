# Owns: the peer of Tests/programs: a process on the kernel's stack that does what the program under test tells it, over a
# unix socket, so that a fault of the stack never disturbs the telling. One command a line, one reply a line; the
# program prints both (Tests/programs/probe.h). docs/TESTING.md lists the commands.
#
#   python3 puppet.py SOCKET HOST PEER HOST6 PEER6     HOST: address of the program under test, PEER: our own

import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

IP_TOS, IP_TTL, IP_RECVTTL, IP_RECVTOS = 1, 2, 12, 13  # linux/in.h; Python lacks some
IPV6_HOPLIMIT, IPV6_TCLASS = 52, 67
LIMIT = 15  # seconds that any single command may take


def pattern(count, seed=0):
    """The bytes that probe.h's pattern() makes: a period of 251 shows what is lost, repeated or out of place."""
    period = bytes((seed + i) % 256 for i in range(251))
    return (period * (count // 251 + 1))[:count]


class Puppet:
    def __init__(self, ends):
        self.ends = ends
        self.do_family("4")
        self.sockets, self.jobs, self.connects = {}, {}, 0

    def run(self, control):
        for line in control.makefile("r", encoding="ascii", newline="\n"):
            words = line.split()
            try:
                reply = getattr(self, "do_" + words[0].replace("-", "_"))(*words[1:])
                reply = "ok" if reply is None else f"ok {reply}"
            except OSError as error:
                name = "timeout" if isinstance(error, TimeoutError) and error.errno is None else None
                reply = f"error {name or errno.errorcode.get(error.errno, error)}"
            control.sendall(reply.encode() + b"\n")

    def _add(self, name, sock):
        if name in self.sockets:
            self.sockets[name].close()
        sock.settimeout(LIMIT)
        self.sockets[name] = sock

    def _job(self, name, function):
        result = []

        def work():
            try:
                result.append(function())
            except OSError as error:
                result.append(errno.errorcode.get(error.errno, "timeout"))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.jobs[name] = (thread, result)

    def do_family(self, number):
        """IPv4 or IPv6 for the sockets that are made from now on."""
        self.host, self.peer = self.ends[number]
        self.family = socket.AF_INET if number == "4" else socket.AF_INET6

    # Connections

    def do_listen(self, name, port, backlog="16", rcvbuf="0"):
        sock = socket.socket(self.family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if int(rcvbuf):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, int(rcvbuf))
        sock.bind((self.peer, int(port)))
        sock.listen(int(backlog))
        self._add(name, sock)

    def do_accept(self, name, listener):
        self._add(name, self.sockets[listener].accept()[0])

    def do_connect(self, name, port, source="0"):
        sock = socket.socket(self.family)
        self._add(name, sock)
        if int(source):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.peer, int(source)))
        self.connects += 1
        sock.connect((self.host, int(port)))

    def do_begin_connect(self, name, port):
        """Sends the SYN and does not wait."""
        sock = socket.socket(self.family)
        self._add(name, sock)
        sock.setblocking(False)
        self.connects += 1
        code = sock.connect_ex((self.host, int(port)))
        sock.settimeout(LIMIT)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, "")

    def do_end_connect(self, name, milliseconds):
        """What became of it: established, an error, or still waiting."""
        sock = self.sockets[name]
        if not select.select([], [sock], [], int(milliseconds) / 1000)[1]:
            return "waiting"
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return "established" if code == 0 else errno.errorcode[code]

    def do_connects(self):
        return self.connects

    def do_shutdown(self, name, how):
        how = {"r": socket.SHUT_RD, "w": socket.SHUT_WR, "rw": socket.SHUT_RDWR}[how]
        self.sockets[name].shutdown(how)

    def do_close(self, *names):
        for name in names:
            self.sockets.pop(name).close()

    def do_reset(self, name):
        sock = self.sockets.pop(name)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def do_option(self, name, level, option, value):
        sock = self.sockets[name]
        sock.setsockopt(getattr(socket, level), getattr(socket, option), int(value))

    def do_host(self, address):
        """Where to connect to from now on, for a program that has several addresses."""
        self.host = address

    def do_mute(self):
        """From now on nothing of ours reaches the program's host, as if the cable were cut in one direction."""
        subprocess.run(["ip", "route", "add", "blackhole", self.host], check=True)

    def do_unmute(self):
        subprocess.run(["ip", "route", "del", "blackhole", self.host], check=True)

    def do_sleep(self, milliseconds):
        time.sleep(int(milliseconds) / 1000)

    # Bytes

    def do_send(self, name, count, seed="0"):
        self.sockets[name].sendall(pattern(int(count), int(seed)))

    def do_urgent(self, name, text):
        self.sockets[name].send(text.encode(), socket.MSG_OOB)

    def do_text(self, name, *words):
        self.sockets[name].sendall(" ".join(words).encode())

    def _receive(self, name, count):
        """Up to `count` bytes; stops early at the end of the stream or an error."""
        sock, got, crc, end = self.sockets[name], 0, 0, ""
        while got < count:
            try:
                data = sock.recv(min(1 << 18, count - got))
            except OSError as error:
                end = " timeout" if error.errno is None else " " + errno.errorcode[error.errno]
                break
            if not data:
                end = " eof"
                break
            got, crc = got + len(data), zlib.crc32(data, crc)
        return f"{got} bytes crc {crc:08x}{end}"

    def do_receive(self, name, count):
        return self._receive(name, int(count))

    def do_segments(self, name, count):
        """Sizes that each recv gave, with pauses that let every segment arrive alone."""
        sock, sizes = self.sockets[name], []
        while sum(sizes) < int(count):
            data = sock.recv(1 << 16)
            if not data:
                break
            sizes.append(len(data))
        return " ".join(map(str, sizes))

    def do_quiet(self, name, milliseconds):
        """Whether nothing arrives for so long."""
        readable = select.select([self.sockets[name]], [], [], int(milliseconds) / 1000)[0]
        return "something arrived" if readable else "quiet"

    # Jobs go on beside the commands; `wait` collects what became of them.

    def do_sink(self, name):
        self._job(name, lambda: self._receive(name, 1 << 62))

    def do_pump(self, name, count, seed="0"):
        def work():
            sock, left, block = self.sockets[name], int(count), pattern(251 * 1024, int(seed))
            sock.settimeout(60)
            while left > 0:
                piece = block[:left]
                sock.sendall(piece)
                left -= len(piece)
            sock.shutdown(socket.SHUT_WR)
            return count

        self._job(name + ".pump", work)

    def do_echo(self, name):
        def work():
            sock, total = self.sockets[name], 0
            while data := sock.recv(1 << 16):
                sock.sendall(data)
                total += len(data)
            sock.shutdown(socket.SHUT_WR)
            return total

        self._job(name, work)

    def do_later(self, milliseconds, command, *words):
        """Does a command after a while, beside what is asked meanwhile."""

        def work():
            time.sleep(int(milliseconds) / 1000)
            return getattr(self, "do_" + command.replace("-", "_"))(*words)

        self._job("later", work)

    def do_wait(self, name, seconds="60"):
        thread, result = self.jobs.pop(name)
        thread.join(float(seconds))
        return result[0] if result else "still running"

    # Datagrams

    def do_udp(self, name, port):
        sock = socket.socket(self.family, socket.SOCK_DGRAM)
        if self.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sock.bind((self.peer, int(port)))
        self._add(name, sock)

    def do_udp_send(self, name, port, count, seed="0"):
        self.sockets[name].sendto(pattern(int(count), int(seed)), (self.host, int(port)))

    def do_udp_receive(self, name):
        sock = self.sockets[name]
        data, control, _, source = sock.recvmsg(1 << 16, 256)
        values = {kind: value for _, kind, value in control}
        self.source = source
        tos, ttl = (IP_TOS, IP_TTL) if sock.family == socket.AF_INET else (IPV6_TCLASS, IPV6_HOPLIMIT)
        return (
            f"{len(data)} bytes crc {zlib.crc32(data):08x} from {source[0]}"
            f" tos {values.get(tos, b' ')[0]} ttl {int.from_bytes(values.get(ttl, b''), sys.byteorder)}"
        )

    def do_udp_send_to(self, name, address, port, count, seed="0"):
        end = (address, int(port))
        if ":" in address:
            # A group is one of the link.
            end += (0, next(index for index, device in socket.if_nameindex() if device != "lo"))
        self.sockets[name].sendto(pattern(int(count), int(seed)), end)

    def do_udp_gso(self, name, port, count, segment):
        """So many bytes at once, cut into datagrams of `segment` (UDP_SEGMENT)."""
        control = [(socket.IPPROTO_UDP, 103, struct.pack("H", int(segment)))]
        self.sockets[name].sendmsg([pattern(int(count))], control, 0, (self.host, int(port)))

    def do_udp_join(self, name, group):
        join = socket.inet_aton(group) + socket.inet_aton(self.peer)
        self.sockets[name].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)

    def do_udp_any(self, name, port):
        """Bound to the wildcard, for groups and broadcasts."""
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self.peer))
        sock.bind(("", int(port)))
        self._add(name, sock)

    def do_udp_reply(self, name, count, seed="0"):
        """To whoever sent last."""
        self.sockets[name].sendto(pattern(int(count), int(seed)), self.source)


def main():
    path, host, peer, host6, peer6 = sys.argv[1:]
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1)
    print("ready", flush=True)
    control, _ = listener.accept()
    puppet = Puppet({"4": (host, peer), "6": (host6, peer6)})
    puppet.run(control)
    print(f"connects {puppet.connects}", flush=True)
    # Sockets of ours may be in use by jobs for ever: leave without asking them.
    os._exit(0)


main()
