# Owns: the rows about addresses: several of them, routes, leases from a real DHCP server, what programs see of interfaces.

import json
import os
import re
import time

from network import DEVICE, HOST, PEER
from row import row
from trial import SHIM

from .common import PYTHON, SMALL, nginx_peer, url

# Which interfaces and addresses a program sees: those of IPv4 and the links.
LIST = """
import json, socket, struct, fcntl, array
names = [name for _, name in socket.if_nameindex()]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
room = array.array("B", bytes(4096))
length, _ = struct.unpack("iL", fcntl.ioctl(s.fileno(), 0x8912, struct.pack("iL", len(room), room.buffer_info()[0])))
found = [
    [room[i : i + 16].tobytes().split(bytes(1))[0].decode(), socket.inet_ntoa(room[i + 20 : i + 24].tobytes())]
    for i in range(0, length, 40)
]
print(json.dumps([names, found]))
"""


def interfaces(t, **environment):
    """Names of links, and (name, address) pairs, as a program of its own sees them."""
    program = t.run_program([PYTHON, "-c", LIST], **environment)
    t.succeeded(program)
    names, addresses = json.loads(program.out)
    return names, [tuple(pair) for pair in addresses]


def connect_once(t, **environment):
    """Something for the stack to carry."""
    curl = t.run_program(["curl", "-sS", "-o", os.devnull, url(f"{SMALL}.bin")], **environment)
    t.succeeded(curl)


@row("interfaces.others", roles="client", needs=["curl", "nginx"])
def interfaces_others(t):
    """the kernel's other interfaces are shown where a bind would take a socket to the kernel; the stack's cannot be changed"""
    nginx_peer(t, SMALL)
    t.program_namespace.ip("tuntap add dev other0 mode tap", "addr add 198.18.9.1/24 dev other0", "link set other0 up")
    mine = [("lo", "127.0.0.1"), (DEVICE, HOST)]
    others = mine + [("other0", "198.18.9.1")]
    names, addresses = interfaces(t, ANP_BYPASS="198.18.9.0/24")
    t.check(set(addresses) == set(others), f"with ANP_BYPASS: {addresses}")
    t.check(set(names) == {"lo", DEVICE, "other0"}, f"with ANP_BYPASS: {names}")
    names, addresses = interfaces(t)
    hidden = t.side == SHIM
    t.check(set(addresses) == set(mine if hidden else others), f"without: {addresses}")
    t.check(("other0" in names) != hidden, f"without: {names}")
    # A program that is left to the kernel as a whole sees the kernel's.
    names, _ = interfaces(t, ANP_TAP="none0", ANP_FALLBACK="kernel")
    t.check(set(names) == {"lo", DEVICE, "other0"}, f"with ANP_FALLBACK: {names}")
    # A name that is known is answered for, and what is not the stack's may be set up.
    script = f"""
import errno, fcntl, socket, struct
s = socket.socket()
print(socket.if_nametoindex("other0") > 0)
def change(name):
    try:
        fcntl.ioctl(s, 0x8922, struct.pack("16si20x", name.encode(), 1400))
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
print(change("other0"), change("{DEVICE}"))
"""
    program = t.run_program([PYTHON, "-c", script])
    t.succeeded(program)
    t.check(program.out.split() == ["True", "done", "EPERM" if t.side == SHIM else "done"], f"said {program.out}")
    connect_once(t)
    t.expect(TcpActiveOpens=1)


@row("addresses.several", roles="client server", needs=["curl", "nginx"])
def addresses_several(t):
    """three IPv4 addresses on a device: each can be bound and is answered for, the first is what is sent from"""
    second, third = "198.18.0.44", "198.18.3.44"
    nginx_peer(t, SMALL)
    if t.side != SHIM:
        t.program_namespace.ip(f"addr add {second}/24 dev {DEVICE}", f"addr add {third}/24 brd + dev {DEVICE}")
    t.peer_namespace.ip(f"addr add 198.18.3.5/24 dev {DEVICE}")
    environment = {"ANP_ADDR": f"{HOST}/24,{second}/24,{third}/24"}
    _, addresses = interfaces(t, **environment)
    t.check(addresses == [("lo", "127.0.0.1")] + [(DEVICE, a) for a in (HOST, third, second)], f"{addresses}")
    script = """
import socket, sys
for destination in ("198.18.0.5", "198.18.3.5", "198.18.77.5"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((destination, 9))
    print(destination, "from", s.getsockname()[0])
for source in sys.argv[1:]:
    s = socket.create_connection(("198.18.0.5", 8000), source_address=(source, 0))
    s.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
    print(source, s.recv(4).decode())
listeners = []
for address in sys.argv[1:]:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 7000))
    s.listen()
    listeners.append(s)
print("ready", flush=True)
for s in listeners:
    connection, peer = s.accept()
    connection.sendall(s.getsockname()[0].encode())
    connection.close()
try:
    socket.socket().bind(("198.18.0.45", 0))
except OSError as error:
    print(error.errno)
"""
    program = t.program([PYTHON, "-c", script, HOST, second, third], ready="ready", **environment)
    for address in (HOST, second, third):
        answer = t.run_peer([PYTHON, "-c", f"import socket; print(socket.create_connection(('{address}', 7000)).recv(99))"])
        t.succeeded(answer)
        t.observe(f"answer of {address}", answer.out)
    t.succeeded(program)
    t.observe("program", program.out)
    t.expect(TcpActiveOpens=3, TcpPassiveOpens=3)


@row("addresses.unreachable", roles="client", needs=["curl", "nginx"])
def addresses_unreachable(t):
    """connect of a UDP socket before anything runs: refused at once where there is no way; sent from by many threads at once"""
    nginx_peer(t, SMALL)
    script = """
import errno, socket, sys
for destination in sys.argv[1:]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect((destination, 9))
        print(destination, "connected")
    except OSError as error:
        print(destination, errno.errorcode[error.errno])
"""
    # Each address in a program of its own: what connects starts the stack.
    for destination in ("198.18.0.255", "198.18.0.77", HOST):
        program = t.run_program([PYTHON, "-c", script, destination])
        t.succeeded(program)
        t.observe(destination, program.out)
    racing = """
import errno, socket, sys, threading
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
for s in sockets:
    s.connect((sys.argv[1], 9))
barrier, failures = threading.Barrier(4), []
def send():
    for s in sockets:
        barrier.wait()
        try:
            s.send(b"x")
        except ConnectionRefusedError:
            pass
        except OSError as error:
            failures.append(errno.errorcode[error.errno])
threads = [threading.Thread(target=send) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(failures)
"""
    program = t.run_program([PYTHON, "-c", racing, PEER])
    t.succeeded(program)
    t.observe("many threads", program.out)
    connect_once(t)
    # A network whose gateway nobody knows.
    if t.side != SHIM:
        t.program_namespace.ip(f"addr flush dev {DEVICE}", f"addr add 198.18.3.44/24 brd + dev {DEVICE}")
    for destination in ("203.0.113.1", "198.18.3.5", "198.18.3.255"):
        program = t.run_program([PYTHON, "-c", script, destination], ANP_ADDR="198.18.3.44/24")
        t.succeeded(program)
        t.observe(f"{destination} without a gateway", program.out)
    t.expect(TcpActiveOpens=1)


@row("routes", roles="client", needs=["curl", "nginx"])
def routes(t):
    """ANP_ROUTE: a gateway, an MTU, networks that are refused with Linux's errno"""
    nginx_peer(t, SMALL)
    far = "203.0.113.9"
    t.peer_namespace.ip(f"addr add {far}/32 dev lo")
    rules = [
        f"203.0.113.0/24 via {PEER} mtu 1200",
        "unreachable 10.1.0.0/16",
        "prohibit 10.2.0.0/16",
        "blackhole 10.3.0.0/16",
        f"10.3.4.0/24 via {PEER}",
        "203.0.114.0/24 dev " + DEVICE,
    ]
    if t.side != SHIM:
        t.program_namespace.ip(*(f"route add {rule}" for rule in rules))
    script = f"""
import errno, socket
for address in ("10.1.0.1", "10.2.0.1", "10.3.0.1"):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(socket.AF_INET, kind)
        s.settimeout(2)
        try:
            s.connect((address, 9)) if kind == socket.SOCK_STREAM else s.sendto(b"x", (address, 9))
            print(address, "no error")
        except OSError as error:
            print(address, kind.name, errno.errorcode.get(error.errno, error))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.3.4.1", 9))
print("10.3.4.1 from", s.getsockname()[0])
# Nobody is there: asked for on the link.
s = socket.socket()
try:
    s.connect(("203.0.114.1", 9))
except OSError as error:
    print("203.0.114.1", errno.errorcode[error.errno])
s = socket.create_connection(("{far}", 8000))
print("segment", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1160)
s.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
print(s.recv(4).decode())
"""
    program = t.run_program([PYTHON, "-c", script], ANP_ROUTE=", ".join(rules))
    t.succeeded(program)
    t.observe("program", program.out)
    t.expect(TcpActiveOpens=1)


# ---- DHCP -----------------------------------------------------------------------------------------------------------

LEASED = ("198.18.0.50", "198.18.0.59")


def dhcp_server(t, *options, addresses=LEASED):
    """dnsmasq for the peer's end of the cable; it does not ping an address before it offers it, which takes 3 s."""
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={DEVICE}"]
    command += ["--bind-dynamic", "--no-ping", "--user=root", "--log-facility=-", "--log-dhcp", f"--pid-file={t.path('pid')}"]
    command += [f"--dhcp-range={addresses[0]},{addresses[1]},1h", f"--dhcp-leasefile={t.path('leases')}", *options]
    return t.peer(command, ready="DHCP, IP range")


def leases(t):
    """(address, client identifier) of each lease in the server's own file."""
    with open(t.path("leases")) as file:
        lines = [line.split() for line in file]
    return [(line[2], line[4]) for line in lines if len(line) == 5]


def lease_environment(t):
    os.makedirs(t.path("run"), mode=0o700, exist_ok=True)
    return {"ANP_ADDR": "dhcp", "XDG_RUNTIME_DIR": t.path("run")}


def timed_curl(t, **environment):
    start = time.monotonic()
    curl = t.run_program(
        ["curl", "-sS", "-w", "%{local_ip} %{http_code}", "-o", os.devnull, url(f"{SMALL}.bin")], **environment
    )
    took = time.monotonic() - start
    t.succeeded(curl)
    address, code = curl.out.split()
    t.check(code == "200", f"got {code}")
    return address, took


@row("dhcp.curl", roles="client", needs=["curl", "nginx", "dnsmasq"])
def dhcp_curl(t):
    """curl with a leased address; the next one has it at once; the server's own file of leases has it"""
    nginx_peer(t, SMALL)
    server = dhcp_server(t, "--dhcp-option=option:mtu,1400", "--dhcp-option=121,192.0.2.0/24,198.18.0.5")
    if t.side != SHIM:
        connect_once(t)
        return
    environment = lease_environment(t)
    first, _ = timed_curl(t, **environment)
    t.check(LEASED[0] <= first <= LEASED[1], f"sent from {first}")
    t.check([address for address, _ in leases(t)] == [first], f"leases: {leases(t)}")
    t.check(re.fullmatch("01:([0-9a-f]{2}:){5}[0-9a-f]{2}", leases(t)[0][1]), f"identified as {leases(t)[0][1]}")
    discovers = server.err.count("DHCPDISCOVER") + server.out.count("DHCPDISCOVER")
    t.check(discovers == 1, f"{discovers} discovers")
    # Again and again: no wait for a server, nor for a probe.
    took = []
    for _ in range(5):
        address, seconds = timed_curl(t, **environment)
        t.check(address == first, f"then from {address}")
        took.append(seconds)
    said = server.err + server.out
    t.check(said.count("DHCPDISCOVER") == 1, "asked anew in spite of the lease")
    t.check(said.count("DHCPREQUEST") >= 2, "a kept lease is never confirmed")
    t.check(len(leases(t)) == 1, f"leases: {leases(t)}")
    # Half of what the probe alone takes, where the machine is not busy; the best of five.
    t.check(min(took) < 0.1, f"with a kept lease curl took {took}")
    directory = os.stat(t.path("run/anp"))
    t.check(directory.st_mode & 0o777 == 0o700, f"mode {directory.st_mode:o}")
    # Before any socket is made a program sees the address, and the route and the MTU of the lease are used.
    _, addresses = interfaces(t, **environment)
    t.check((DEVICE, first) in addresses, f"{addresses}")
    script = """
import socket
s = socket.create_connection(("198.18.0.5", 8000))
print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.connect(("192.0.2.1", 9))
for address in ("203.0.113.1",):
    try:
        u.connect((address, 9))
    except OSError as error:
        print(error.errno)
"""
    program = t.run_program([PYTHON, "-c", script], **environment)
    t.succeeded(program)
    segment, error = program.out.split()
    t.check(int(segment) <= 1360 and error == "101", f"segment {segment}, errno {error} beyond the classless routes")
    t.expect(TcpActiveOpens=6, UdpInDatagrams=4)


@row("dhcp.refused", roles="client", needs=["curl", "nginx", "dnsmasq"])
def dhcp_refused(t):
    """a kept lease that the server does not know any more: refused, and another address leased"""
    nginx_peer(t, SMALL)
    if t.side != SHIM:
        connect_once(t)
        return
    environment = lease_environment(t)
    server = dhcp_server(t)
    first, _ = timed_curl(t, **environment)
    server.stop()
    os.unlink(t.path("leases"))
    # The network has other addresses now, and the server knows that it is the only one.
    other = dhcp_server(t, "--dhcp-authoritative", addresses=("198.18.0.70", "198.18.0.79"))
    script = """
import socket, time
for _ in range(40):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("198.18.0.5", 9))
        name = s.getsockname()[0]
        print(name, flush=True)
        if name.startswith("198.18.0.7"):
            break
    except OSError as error:
        print(error.errno, flush=True)
    time.sleep(0.1)
"""
    program = t.run_program([PYTHON, "-c", script], **environment)
    t.succeeded(program)
    t.check(program.out.split()[-1].startswith("198.18.0.7"), f"had {program.out.split()}")
    t.check("DHCPNAK" in other.err + other.out, "was not refused")
    second, _ = timed_curl(t, **environment)
    t.check(second.startswith("198.18.0.7"), f"sent from {second} after {first}")
    t.expect(TcpActiveOpens=2)


@row("dhcp.none", roles="client", needs=["curl", "nginx"], quick=False)
def dhcp_none(t):
    """no server: the first call waits ten seconds, says so and gets ENETDOWN; the next fail at once"""
    nginx_peer(t, SMALL)
    if t.side != SHIM:
        connect_once(t)
        return
    script = f"""
import fcntl, socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
start = time.monotonic()
# None of it needs a lease: names, numbers, the hardware, other interfaces' addresses.
for name in ("lo", "{DEVICE}"):
    socket.if_indextoname(socket.if_nametoindex(name))
    for request in (0x8913, 0x8921, 0x8927):  # SIOCGIFFLAGS, SIOCGIFMTU, SIOCGIFHWADDR
        fcntl.ioctl(s, request, struct.pack("16s24x", name.encode()))
fcntl.ioctl(s, 0x8915, struct.pack("16s24x", b"lo"))  # SIOCGIFADDR
socket.if_nameindex()
print("known", round(time.monotonic() - start))
for _ in range(3):
    start = time.monotonic()
    try:
        socket.socket().connect(("198.18.0.5", 8000))
    except OSError as error:
        print(error.errno, round(time.monotonic() - start))
s = socket.socket()
s.bind(("", 7000))
s.listen()
print("listens")
"""
    program = t.run_program([PYTHON, "-c", script], **lease_environment(t))
    t.succeeded(program)
    t.check(program.out.splitlines() == ["known 0", "100 10", "100 0", "100 0", "listens"], f"said {program.out}")
    t.check(program.err.count("no DHCP server has answered on anp0") == 1, f"said {program.err}")
    t.expect(UdpOutDatagrams=2)
